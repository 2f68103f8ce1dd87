/* Logits against transformers in float32 (scripts/goldens/logits.py), over the public API.
 *
 * LEANK_TEST_MODELS: folder of the real models; without it only the tiny ones are run.
 * LEANK_TEST_GOLDEN_FULL: every logit of SmolLM2, as logits.py --full writes them. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <leank/leank.h>

#include "formats/safetensors.h"
#include "support/subject.h"

/* ---- golden files ---- */

typedef struct golden {
  lk_safetensors *file;
  size_t n, k, s; /* positions; largest and sampled logits of each */
  const int32_t *tokens, *top_id;
  const float *top, *sampled;
  const double *log_sum_exp;
} golden;

static const void *golden_tensor(const golden *g, const char *name, lk_st_type type, size_t cols) {
  const lk_st_tensor *t = lk_safetensors_find(g->file, name);
  if (!t || t->type != type || t->shape[0] != g->n)
    fail_msg("golden tensor %s is not as made", name);
  assert_int_equal(t->n_dims, cols ? 2 : 1);
  assert_true(cols == 0 || t->shape[1] == cols);
  assert_int_equal((uintptr_t)t->data % 4, 0);
  return t->data;
}

static golden golden_open(const char *name) {
  golden g = {0};
  char path[512];
  leank_error err = {0};
  snprintf(path, sizeof path, "%s/golden/%s.safetensors", LEANK_TEST_DATA, name);
  if (lk_safetensors_open(path, &g.file, &err) != LEANK_OK) fail_msg("%s", err.message);
  g.n = lk_safetensors_find(g.file, "tokens")->shape[0];
  g.k = lk_safetensors_find(g.file, "top")->shape[1];
  g.s = lk_safetensors_find(g.file, "sampled")->shape[1];
  g.tokens = golden_tensor(&g, "tokens", LK_ST_I32, 0);
  g.top_id = golden_tensor(&g, "top_id", LK_ST_I32, g.k);
  g.top = golden_tensor(&g, "top", LK_ST_F32, g.k);
  g.sampled = golden_tensor(&g, "sampled", LK_ST_F32, g.s);
  g.log_sum_exp = golden_tensor(&g, "log_sum_exp", LK_ST_F64, 0);
  return g;
}

static void golden_close(golden *g) { lk_safetensors_close(&g->file); }

/* Column of sample j at position p, as logits.py chooses them. */
static size_t sampled_column(const golden *g, size_t vocab, size_t p, size_t j) {
  return (j * (vocab / g->s) + p * 31) % vocab;
}

/* ---- running ---- */

typedef struct run {
  leank_model *model;
  leank_session *session;
  size_t vocab, n_rows; /* rows received so far */
  float *logits;        /* [n][vocab] */
  float *last;          /* [vocab], of the last row, asked for by itself */
} run;

static void run_open(run *r, const char *path, leank_kv_type kv_type, size_t n) {
  leank_error err = {0};
  leank_session_options options;
  *r = (run){0};
  if (leank_model_open(path, NULL, &r->model, &err) != LEANK_OK) fail_msg("%s", err.message);
  leank_session_options_default(&options);
  options.kv_type = kv_type;
  options.cpu = lk_test_cpu();
  options.n_ctx = n;
  if (leank_session_open(r->model, &options, &r->session, &err) != LEANK_OK)
    fail_msg("%s", err.message);
  r->vocab = leank_model_get_info(r->model)->n_vocab;
  r->logits = calloc(n * r->vocab, sizeof *r->logits);
  r->last = calloc(r->vocab, sizeof *r->last);
  assert_true(r->logits && r->last);
}

static void run_close(run *r) {
  free(r->logits);
  free(r->last);
  leank_session_close(&r->session);
  leank_model_close(&r->model);
}

static void take_rows(void *user, size_t first_row, size_t n_rows, const float *logits) {
  run *r = user;
  assert_int_equal(first_row, r->n_rows);
  memcpy(r->logits + first_row * r->vocab, logits, n_rows * r->vocab * sizeof *logits);
  r->n_rows += n_rows;
}

static void feed(run *r, const int32_t *tokens, size_t n, leank_feed_mode mode) {
  leank_error err = {0};
  leank_feed_options options;
  leank_feed_options_default(&options);
  options.mode = mode;
  options.on_logits = take_rows;
  options.logits = r->last;
  options.user = r;
  r->n_rows = 0;
  if (leank_session_feed(r->session, 0, tokens, n, &options, &err) != LEANK_OK)
    fail_msg("%s", err.message);
  assert_int_equal(r->n_rows, n);
}

/* Decodes tokens begin .. end - 1, their logits to the same rows. */
static void decode(run *r, const int32_t *tokens, size_t begin, size_t end) {
  const size_t seq = 0;
  leank_error err = {0};
  for (size_t t = begin; t < end; t++)
    if (leank_session_decode(r->session, 1, &seq, &tokens[t], r->logits + t * r->vocab, &err) !=
        LEANK_OK)
      fail_msg("%s", err.message);
}

/* ---- comparing ---- */

static double log_sum_exp(const float *row, size_t n) {
  double peak = (double)row[0], sum = 0;
  for (size_t i = 1; i < n; i++) peak = fmax(peak, (double)row[i]);
  for (size_t i = 0; i < n; i++) sum += exp((double)row[i] - peak);
  return peak + log(sum);
}

static size_t largest(const float *row, size_t n) {
  size_t best = 0;
  for (size_t i = 1; i < n; i++)
    if (row[i] > row[best]) best = i;
  return best;
}

/* NaN makes the result infinite, so that it passes no bound. */
static double worse(double worst, double a, double b) {
  double d = fabs(a - b);
  return isnan(d) ? INFINITY : fmax(worst, d);
}

/* Largest difference over positions begin .. n - 1: largest logits, samples, log-sum-exp. */
static double golden_error(const golden *g, const run *r, size_t begin) {
  double worst = 0;
  for (size_t p = begin; p < g->n; p++) {
    const float *row = r->logits + p * r->vocab;
    for (size_t j = 0; j < g->k; j++)
      worst = worse(worst, (double)row[g->top_id[p * g->k + j]], (double)g->top[p * g->k + j]);
    for (size_t j = 0; j < g->s; j++)
      worst = worse(worst, (double)row[sampled_column(g, r->vocab, p, j)],
                    (double)g->sampled[p * g->s + j]);
    worst = worse(worst, log_sum_exp(row, r->vocab), g->log_sum_exp[p]);
  }
  return worst;
}

static double largest_difference(const float *a, const float *b, size_t n) {
  double worst = 0;
  for (size_t i = 0; i < n; i++) worst = worse(worst, (double)a[i], (double)b[i]);
  return worst;
}

/* Mean over positions of KL(p || q), whole vocabulary. */
static double mean_kl(const run *p, const run *q, size_t n) {
  double sum = 0;
  for (size_t t = 0; t < n; t++) {
    const float *a = p->logits + t * p->vocab, *b = q->logits + t * q->vocab;
    double za = log_sum_exp(a, p->vocab), zb = log_sum_exp(b, q->vocab);
    for (size_t i = 0; i < p->vocab; i++)
      sum += exp((double)a[i] - za) * ((double)a[i] - za - (double)b[i] + zb);
  }
  return sum / (double)n;
}

/* Share of positions whose largest logit is not transformers' largest, of those where that one is
 * at least `gap` above the second. */
static double top1_disagreement(const golden *g, const run *r, double gap) {
  size_t n = 0, other = 0;
  for (size_t p = 0; p < g->n; p++) {
    if ((double)g->top[p * g->k] - (double)g->top[p * g->k + 1] < gap) continue;
    n++;
    other += largest(r->logits + p * r->vocab, r->vocab) != (size_t)g->top_id[p * g->k];
  }
  assert_true(2 * n > g->n);
  return (double)other / (double)n;
}

static void expect_below(const char *what, double value, double bound) {
  print_message("  %s: %.3g (bound %.3g)\n", what, value, bound);
  if (!(value < bound)) fail_msg("%s: %g is not below %g", what, value, bound);
}

/* ---- tiny models ---- */

static const char *const tiny[] = {"llama-mixed.gguf", "qwen2-mixed.gguf", "llama-plain.gguf",
                                   "llama-bf16",       "llama-f32",        "llama-f16",
                                   "qwen2-bf16"};
enum { N_TINY = sizeof tiny / sizeof *tiny };

/* Two fp32 computations of the same logits, summed in other orders. A dot product of n <= 256 terms
 * errs by about sqrt(n) 2^-24 of its size; nine of them follow one another in each of 2 layers, and
 * such errors add like a random walk: 16 sqrt(18) 2^-24 = 4e-6. Attention logits, of up to 16 here,
 * turn relative errors into absolute ones 16 times as large, and logits are of size 4. */
static const double tiny_bound = 16 * 4.25 * 16 * 4 * 0x1p-24;

/* bf16 rounds both operands of a product, by 2^-9 / sqrt(3) each: 1.6e-3 of a dot product's size;
 * over 18 of them 7e-3, some 3 times that behind attention, times logits of size 2: 0.04, or 0.06
 * for the difference of two. The largest of 300 random logits is often closer to the second than
 * twice that; only positions where it is not can be held to a share. */
static const double tiny_gap = 0.12;

static void tiny_open(size_t i, leank_kv_type kv_type, golden *g, run *r) {
  char path[512], name[64];
  snprintf(path, sizeof path, "%s/tiny/%s", LEANK_TEST_DATA, tiny[i]);
  snprintf(name, sizeof name, "tiny-%.*s", (int)strcspn(tiny[i], "."), tiny[i]);
  *g = golden_open(name);
  run_open(r, path, kv_type, g->n);
}

static void test_tiny_f32(void **state) {
  (void)state;
  for (size_t i = 0; i < N_TINY; i++) {
    golden g;
    run r;
    tiny_open(i, LEANK_KV_F32, &g, &r);
    feed(&r, g.tokens, g.n, LEANK_FEED_TURN);
    expect_below(tiny[i], golden_error(&g, &r, 0), tiny_bound);
    expect_below("the last row by itself",
                 largest_difference(r.last, r.logits + (g.n - 1) * r.vocab, r.vocab), tiny_bound);
    run_close(&r);
    golden_close(&g);
  }
}

/* The bound means something: another token early on, or an earlier one, moves the last logits by
 * far more. */
static void test_tiny_logits_depend_on_all_tokens(void **state) {
  (void)state;
  for (size_t i = 0; i < N_TINY; i++) {
    golden g;
    run r;
    tiny_open(i, LEANK_KV_F32, &g, &r);
    int32_t *tokens = malloc(g.n * sizeof *tokens);
    memcpy(tokens, g.tokens, g.n * sizeof *tokens);
    tokens[1] = g.tokens[2];
    tokens[2] = g.tokens[1];
    assert_int_not_equal(tokens[1], tokens[2]);
    feed(&r, tokens, g.n, LEANK_FEED_TURN);
    assert_true(golden_error(&g, &r, g.n - 1) > 10 * tiny_bound);
    free(tokens);
    run_close(&r);
    golden_close(&g);
  }
}

static void test_tiny_decode(void **state) {
  (void)state;
  for (size_t i = 0; i < N_TINY; i++) {
    golden g;
    run r;
    tiny_open(i, LEANK_KV_F32, &g, &r);
    decode(&r, g.tokens, 0, g.n);
    assert_int_equal(leank_session_length(r.session, 0), g.n);
    expect_below(tiny[i], golden_error(&g, &r, 0), tiny_bound);
    run_close(&r);
    golden_close(&g);
  }
}

/* In a dense session a row of a turn and a scored row see the same: the same bits. */
static void test_tiny_score_equals_turn(void **state) {
  (void)state;
  for (size_t i = 0; i < N_TINY; i++)
    for (int kv = LEANK_KV_BF16; kv <= LEANK_KV_F32; kv++) {
      golden g;
      run turn, score;
      tiny_open(i, (leank_kv_type)kv, &g, &turn);
      feed(&turn, g.tokens, g.n, LEANK_FEED_TURN);
      golden_close(&g);
      tiny_open(i, (leank_kv_type)kv, &g, &score);
      feed(&score, g.tokens, g.n, LEANK_FEED_SCORE);
      assert_memory_equal(turn.logits, score.logits, g.n * turn.vocab * sizeof(float));
      run_close(&turn);
      run_close(&score);
      golden_close(&g);
    }
}

static void check_bf16(const char *name, const golden *g, const run *exact, const run *r,
                       double gap) {
  char what[96];
  snprintf(what, sizeof what, "%s, mean KL of bf16", name);
  expect_below(what, mean_kl(exact, r, g->n), 5e-3);
  snprintf(what, sizeof what, "%s, share of other top-1", name);
  expect_below(what, top1_disagreement(g, r, gap), 0.03);
}

static void test_tiny_bf16(void **state) {
  (void)state;
  for (size_t i = 0; i < N_TINY; i++) {
    golden g;
    run exact, r;
    tiny_open(i, LEANK_KV_F32, &g, &exact);
    feed(&exact, g.tokens, g.n, LEANK_FEED_TURN);
    golden_close(&g);
    tiny_open(i, LEANK_KV_BF16, &g, &r);
    feed(&r, g.tokens, g.n, LEANK_FEED_TURN);
    check_bf16(tiny[i], &g, &exact, &r, tiny_gap);
    assert_true(largest_difference(exact.logits, r.logits, g.n * r.vocab) > 0);
    run_close(&exact);
    run_close(&r);
    golden_close(&g);
  }
}

/* ---- SmolLM2-135M-Instruct ---- */

static void smollm2_path(char *out, size_t n) {
  const char *folder = getenv("LEANK_TEST_MODELS");
  if (!folder) {
    print_message("LEANK_TEST_MODELS is not set\n");
    skip();
  }
  snprintf(out, n, "%s/SmolLM2-135M-Instruct.Q4_1.gguf", folder);
}

static void check_full(const golden *g, const run *r) {
  const char *path = getenv("LEANK_TEST_GOLDEN_FULL");
  if (!path) return;
  lk_safetensors *st = NULL;
  assert_int_equal(lk_safetensors_open(path, &st, NULL), LEANK_OK);
  const lk_st_tensor *t = lk_safetensors_find(st, "logits");
  assert_true(t && t->type == LK_ST_F32 && t->shape[0] == g->n && t->shape[1] == r->vocab);
  expect_below("every logit", largest_difference(r->logits, t->data, g->n * r->vocab), 1e-3);
  lk_safetensors_close(&st);
}

static void test_smollm2(void **state) {
  (void)state;
  char path[1024];
  smollm2_path(path, sizeof path);
  golden g = golden_open("smollm2");
  run exact, r;
  run_open(&exact, path, LEANK_KV_F32, g.n);
  feed(&exact, g.tokens, g.n, LEANK_FEED_TURN);
  expect_below("f32, 512 positions", golden_error(&g, &exact, 0), 1e-3);
  check_full(&g, &exact);
  run_open(&r, path, LEANK_KV_BF16, g.n);
  feed(&r, g.tokens, g.n, LEANK_FEED_TURN);
  check_bf16("SmolLM2", &g, &exact, &r, 0);
  run_close(&r);
  run_close(&exact);
  golden_close(&g);
}

static void test_smollm2_decode(void **state) {
  (void)state;
  char path[1024];
  smollm2_path(path, sizeof path);
  golden g = golden_open("smollm2");
  const size_t n_prompt = g.n - 96;
  run r;
  run_open(&r, path, LEANK_KV_F32, g.n);
  feed(&r, g.tokens, n_prompt, LEANK_FEED_TURN);
  decode(&r, g.tokens, n_prompt, g.n);
  expect_below("f32, 96 decode steps", golden_error(&g, &r, n_prompt), 1e-3);
  run_close(&r);
  golden_close(&g);
}

static void test_smollm2_score_equals_turn(void **state) {
  (void)state;
  char path[1024];
  smollm2_path(path, sizeof path);
  golden g = golden_open("smollm2");
  run turn, score;
  run_open(&turn, path, LEANK_KV_F32, g.n);
  feed(&turn, g.tokens, g.n, LEANK_FEED_TURN);
  run_open(&score, path, LEANK_KV_F32, g.n);
  feed(&score, g.tokens, g.n, LEANK_FEED_SCORE);
  assert_memory_equal(turn.logits, score.logits, g.n * turn.vocab * sizeof(float));
  run_close(&turn);
  run_close(&score);
  golden_close(&g);
}

/* The tokens of the golden are the model's own reading of text.txt. */
static void test_smollm2_tokens(void **state) {
  (void)state;
  char path[1024], text[8192];
  smollm2_path(path, sizeof path);
  golden g = golden_open("smollm2");
  leank_model *m = NULL;
  leank_token *tokens = NULL;
  size_t n_tokens = 0;
  FILE *f = fopen(LEANK_TEST_DATA "/golden/text.txt", "rb");
  assert_non_null(f);
  const size_t n = fread(text, 1, sizeof text, f);
  fclose(f);
  assert_int_equal(leank_model_open(path, NULL, &m, NULL), LEANK_OK);
  assert_int_equal(leank_tokenize(leank_model_get_tokenizer(m), text, n, LEANK_TOKENIZE_PLAIN,
                                  &tokens, &n_tokens, NULL),
                   LEANK_OK);
  assert_true(n_tokens >= g.n);
  assert_memory_equal(tokens, g.tokens, g.n * sizeof *tokens);
  leank_tokens_free(&tokens);
  leank_model_close(&m);
  golden_close(&g);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_tiny_f32),
      cmocka_unit_test(test_tiny_logits_depend_on_all_tokens),
      cmocka_unit_test(test_tiny_decode),
      cmocka_unit_test(test_tiny_score_equals_turn),
      cmocka_unit_test(test_tiny_bf16),
      cmocka_unit_test(test_smollm2),
      cmocka_unit_test(test_smollm2_decode),
      cmocka_unit_test(test_smollm2_score_equals_turn),
      cmocka_unit_test(test_smollm2_tokens),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
