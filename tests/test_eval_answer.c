/* One prompt under many caches: what a variant answers is what a session with its mask decodes
 * after the same prefill, and its figures are those of such a session's logits. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <leank/eval.h>

#include "base/alloc.h"
#include "base/rng.h"
#include "support/hostile.h"
#include "support/model_fixture.h"

enum { N_PROMPT = 700, N_NEW = 24, N_SINK = 64, N_RECENT = 64, N_VARIANTS = 3 };

/* Rows of the library's pass and of ours come from the same calls: fp32 logits in the same order.
 * What differs is how sums over the vocabulary are taken, 2^-24 each. */
static const double same = 1e-5;

typedef struct fixture {
  leank_model *model;
  const leank_model_info *info;
  leank_token prompt[N_PROMPT + N_NEW];
  leank_mask *masks[2]; /* all kept; some */
} fixture;

static leank_mask *make_mask(const leank_model_info *m, bool all) {
  leank_mask_info info;
  leank_mask *mask = NULL;
  leank_error err = {0};
  uint8_t kept[4096];
  lk_rng rng = {7};
  const size_t n = m->n_layers * m->n_kv_heads * m->head_dim;
  assert_true(n <= sizeof kept);
  for (size_t i = 0; i < n; i++) kept[i] = all || lk_rng_below(&rng, 4) == 0;
  leank_mask_info_default(&info);
  info.n_layers = m->n_layers;
  info.n_kv_heads = m->n_kv_heads;
  info.head_dim = m->head_dim;
  info.n_sink = N_SINK;
  info.n_recent = N_RECENT;
  if (leank_mask_create(&info, kept, NULL, &mask, &err) != LEANK_OK) fail_msg("%s", err.message);
  return mask;
}

static int open_fixture(void **state) {
  static fixture f;
  lk_rng rng = {3};
  f.model = lk_model_must_open(TINY "llama-plain.gguf");
  f.info = leank_model_get_info(f.model);
  for (size_t i = 0; i < N_PROMPT + N_NEW; i++) f.prompt[i] = (leank_token)lk_rng_below(&rng, 256);
  f.masks[0] = make_mask(f.info, true);
  f.masks[1] = make_mask(f.info, false);
  *state = &f;
  return 0;
}

static int close_fixture(void **state) {
  fixture *f = *state;
  leank_mask_close(&f->masks[0]);
  leank_mask_close(&f->masks[1]);
  leank_model_close(&f->model);
  return 0;
}

static leank_eval_run_options run_options(void) {
  leank_eval_run_options o;
  leank_eval_run_options_default(&o);
  o.session.kv_type = LEANK_KV_F32;
  o.session.n_threads = 2;
  return o;
}

static leank_eval_prompt prompt_of(const fixture *f, bool passage) {
  static const char *const references[] = {"\x01"};
  leank_eval_prompt p = {.task = "test", .tokens = f->prompt, .n_tokens = N_PROMPT};
  if (passage) {
    p.metric = LEANK_METRIC_NONE;
    p.passage = f->prompt + N_PROMPT;
    p.n_passage = N_NEW;
  } else {
    p.metric = LEANK_METRIC_PART;
    p.max_new = N_NEW;
    p.references = references;
    p.n_references = 1;
  }
  return p;
}

static void fill_variants(const fixture *f, leank_eval_variant *v) {
  memset(v, 0, N_VARIANTS * sizeof *v);
  v[0].mask = f->masks[0];
  v[1].mask = f->masks[1];
  v[2] =
      (leank_eval_variant){.think_ratio = 0.5, .think_n_sink = N_SINK, .think_n_recent = N_RECENT};
}

static void clear(leank_eval_result *results, size_t n) {
  for (size_t i = 0; i < n; i++) leank_eval_result_clear(&results[i]);
}

/* ---- the same with sessions ---- */

static leank_session *open_session(const fixture *f, const leank_mask *mask) {
  leank_session_options o = run_options().session;
  leank_session *session = NULL;
  leank_error err = {0};
  o.mask = mask;
  o.n_ctx = N_PROMPT + N_NEW;
  if (leank_session_open(f->model, &o, &session, &err) != LEANK_OK) fail_msg("%s", err.message);
  return session;
}

/* A session with this mask, packed from a dense one that has read the prompt; its last logits. */
static leank_session *read_prompt(const fixture *f, const leank_mask *mask, float *logits) {
  leank_session *dense = open_session(f, NULL), *session = mask ? open_session(f, mask) : NULL;
  leank_feed_options o;
  leank_error err = {0};
  leank_feed_options_default(&o);
  o.logits = logits;
  assert_int_equal(leank_session_feed(dense, 0, f->prompt, N_PROMPT, &o, &err), LEANK_OK);
  if (!mask) return dense;
  assert_int_equal(leank_session_pack_from(session, 0, dense, 0, &err), LEANK_OK);
  leank_session_close(&dense);
  return session;
}

static leank_token largest(const float *logits, size_t n) {
  size_t best = 0;
  for (size_t i = 1; i < n; i++)
    if (logits[i] > logits[best]) best = i;
  return (leank_token)best;
}

/* Greedy decoding, a token a step; logits of step i to rows + i * V. Returns the tokens. */
static size_t decode(const fixture *f, const leank_mask *mask, leank_token *out, float *rows) {
  const leank_tokenizer *tokenizer = leank_model_get_tokenizer(f->model);
  const size_t sequence = 0, n_vocab = f->info->n_vocab;
  float *logits = malloc(n_vocab * sizeof *logits);
  leank_session *session = read_prompt(f, mask, logits);
  leank_error err = {0};
  size_t n = 1;
  out[0] = largest(logits, n_vocab);
  for (; n < N_NEW && !leank_token_is_end(tokenizer, out[n - 1]); n++) {
    float *row = rows + (n - 1) * n_vocab;
    assert_int_equal(leank_session_decode(session, 1, &sequence, &out[n - 1], row, &err), LEANK_OK);
    out[n] = largest(row, n_vocab);
  }
  leank_session_close(&session);
  free(logits);
  return n;
}

static void check_text(const fixture *f, const leank_eval_result *r, const leank_token *tokens,
                       size_t n) {
  const leank_tokenizer *tokenizer = leank_model_get_tokenizer(f->model);
  leank_utf8_stream stream = {{0}, 0};
  char text[16 * N_NEW + 64];
  size_t length = 0;
  for (size_t i = 0; i < n && !leank_token_is_end(tokenizer, tokens[i]); i++) {
    size_t n_bytes;
    const char *bytes = leank_token_bytes(tokenizer, tokens[i], &n_bytes);
    length += leank_utf8_stream_feed(&stream, bytes, n_bytes, false, text + length);
  }
  length += leank_utf8_stream_feed(&stream, "", 0, true, text + length);
  assert_int_equal(r->n_new, n);
  text[length] = '\0'; /* a NUL among the tokens ends both */
  assert_string_equal(r->text, text);
}

static void test_answers(void **state) {
  const fixture *f = *state;
  const leank_eval_prompt p = prompt_of(f, false);
  const leank_eval_run_options o = run_options();
  leank_eval_variant variants[N_VARIANTS];
  leank_eval_result results[1 + N_VARIANTS];
  leank_token tokens[N_NEW];
  leank_error err = {0};
  float *rows = malloc(N_NEW * f->info->n_vocab * sizeof *rows);
  const size_t before = hostile_mem_in_use();
  fill_variants(f, variants);
  if (leank_eval_answer(f->model, &p, variants, N_VARIANTS, &o, results, &err) != LEANK_OK)
    fail_msg("%s", err.message);
  const size_t n_dense = decode(f, NULL, tokens, rows);
  check_text(f, &results[0], tokens, n_dense);
  assert_int_equal(results[0].n_rows, n_dense - 1);
  assert_null(results[0].kl);
  assert_true(results[0].k_kept == 1 && results[0].v_kept == 1);

  /* Everything kept: the dense cache. */
  check_text(f, &results[1], tokens, n_dense);
  assert_int_equal(results[1].n_agree, results[1].n_rows);
  for (size_t i = 0; i < results[1].n_rows; i++) assert_true(results[1].kl[i] < same);
  assert_true(results[1].k_kept == 1);

  /* A quarter kept: as that mask decodes; this model's answer changes under it. */
  const size_t n_lean = decode(f, f->masks[1], tokens, rows);
  check_text(f, &results[2], tokens, n_lean);
  assert_true(results[2].n_agree < results[2].n_rows);
  assert_true(results[2].stored_bytes < results[1].stored_bytes);
  assert_true(results[3].k_kept == 0.5 && results[3].v_kept == 1);
  clear(results, 1 + N_VARIANTS);
  assert_int_equal(hostile_mem_in_use(), before);
  free(rows);
}

/* ---- figures ---- */

static void keep_logits(void *user, size_t first, size_t n, const float *logits) {
  float *rows = user;
  enum { V = 300 };
  memcpy(rows + first * V, logits, n * V * sizeof *rows);
}

/* Logits of the passage's rows but the last, scored. */
static void score_passage(const fixture *f, const leank_mask *mask, float *rows) {
  float *logits = malloc(f->info->n_vocab * sizeof *logits);
  leank_session *session = read_prompt(f, mask, logits);
  leank_feed_options o;
  leank_error err = {0};
  leank_feed_options_default(&o);
  o.mode = LEANK_FEED_SCORE;
  o.on_logits = keep_logits;
  o.user = rows;
  assert_int_equal(leank_session_feed(session, 0, f->prompt + N_PROMPT, N_NEW - 1, &o, &err),
                   LEANK_OK);
  leank_session_close(&session);
  free(logits);
}

static double log_sum(const float *x, size_t n) {
  double sum = 0;
  for (size_t i = 0; i < n; i++) sum += exp((double)x[i]);
  return log(sum);
}

static void test_figures(void **state) {
  const fixture *f = *state;
  const leank_eval_prompt p = prompt_of(f, true);
  const leank_eval_run_options o = run_options();
  const size_t V = f->info->n_vocab, n_rows = N_NEW - 1;
  leank_eval_variant variants[N_VARIANTS];
  leank_eval_result results[1 + N_VARIANTS];
  leank_error err = {0};
  float *dense = malloc(n_rows * V * sizeof *dense), *lean = malloc(n_rows * V * sizeof *lean);
  assert_int_equal(V, 300);
  fill_variants(f, variants);
  if (leank_eval_answer(f->model, &p, variants, N_VARIANTS, &o, results, &err) != LEANK_OK)
    fail_msg("%s", err.message);
  score_passage(f, NULL, dense);
  score_passage(f, f->masks[1], lean);
  double nll = 0, dense_nll = 0;
  size_t n_agree = 0;
  for (size_t r = 0; r < n_rows; r++) {
    const float *d = dense + r * V, *l = lean + r * V;
    const double log_d = log_sum(d, V), log_l = log_sum(l, V);
    double kl = 0;
    for (size_t i = 0; i < V; i++)
      kl += exp((double)d[i] - log_d) * ((double)d[i] - log_d - (double)l[i] + log_l);
    if (!(fabs((double)results[2].kl[r] - kl) < same))
      fail_msg("row %zu: %g, expected %g", r, (double)results[2].kl[r], kl);
    const leank_token next = f->prompt[N_PROMPT + r + 1];
    nll += log_l - (double)l[next];
    dense_nll += log_d - (double)d[next];
    n_agree += largest(d, V) == largest(l, V);
  }
  assert_true(fabs(results[2].nll - nll) < same * (double)n_rows);
  assert_true(fabs(results[0].nll - dense_nll) < same * (double)n_rows);
  assert_int_equal(results[2].n_agree, n_agree);
  assert_int_equal(results[2].n_rows, n_rows);
  assert_string_equal(results[2].text, "");
  clear(results, 1 + N_VARIANTS);
  free(dense);
  free(lean);
}

/* ThinK keeps half of the channels of each head: those with the largest norms of the last 32
 * queries times those of all keys. A mask of these channels gives the same figures. */
static void test_think(void **state) {
  const fixture *f = *state;
  enum { WINDOW = 32, MOST = 4096 };
  static double k_sq[MOST], q_sq[MOST];
  static float scores[MOST];
  static uint8_t kept[MOST];
  const leank_model_info *m = f->info;
  const size_t n = m->n_layers * m->n_kv_heads * m->head_dim;
  const leank_eval_prompt p = prompt_of(f, true);
  const leank_eval_run_options o = run_options();
  leank_session *session = open_session(f, NULL);
  leank_head_stats keys = {.k_sq = k_sq}, both = {.k_sq = k_sq, .q_sq = q_sq};
  leank_feed_options feed;
  leank_mask_info info;
  leank_mask *mask = NULL;
  leank_eval_variant variants[2] = {{0}};
  leank_eval_result results[3];
  leank_error err = {0};
  leank_feed_options_default(&feed);
  feed.stats = &keys;
  assert_int_equal(leank_session_feed(session, 0, f->prompt, N_PROMPT - WINDOW, &feed, &err),
                   LEANK_OK);
  feed.stats = &both;
  assert_int_equal(
      leank_session_feed(session, 0, f->prompt + N_PROMPT - WINDOW, WINDOW, &feed, &err), LEANK_OK);
  leank_session_close(&session);
  for (size_t i = 0; i < n; i++) scores[i] = (float)(sqrt(k_sq[i]) * sqrt(q_sq[i]));
  for (size_t head = 0; head < n; head += m->head_dim)
    for (size_t c = head; c < head + m->head_dim; c++) {
      size_t better = 0;
      for (size_t k = head; k < head + m->head_dim; k++)
        better += scores[k] > scores[c] || (scores[k] == scores[c] && k < c);
      kept[c] = better < m->head_dim / 2;
    }
  leank_mask_info_default(&info);
  info.n_layers = m->n_layers;
  info.n_kv_heads = m->n_kv_heads;
  info.head_dim = m->head_dim;
  info.n_sink = N_SINK;
  info.n_recent = N_RECENT;
  assert_int_equal(leank_mask_create(&info, kept, NULL, &mask, &err), LEANK_OK);
  variants[0].mask = mask;
  variants[1] =
      (leank_eval_variant){.think_ratio = 0.5, .think_n_sink = N_SINK, .think_n_recent = N_RECENT};
  if (leank_eval_answer(f->model, &p, variants, 2, &o, results, &err) != LEANK_OK)
    fail_msg("%s", err.message);
  assert_memory_equal(results[1].kl, results[2].kl, results[1].n_rows * sizeof *results[1].kl);
  assert_true(results[1].stored_bytes == results[2].stored_bytes);
  clear(results, 3);
  leank_mask_close(&mask);
}

/* ---- stopping, failing ---- */

typedef struct stopper {
  size_t n, at;
} stopper;

static bool should_stop(void *user) {
  stopper *s = user;
  return ++s->n >= s->at;
}

static void test_stopping(void **state) {
  const fixture *f = *state;
  const leank_eval_prompt p = prompt_of(f, false);
  leank_eval_run_options o = run_options();
  leank_eval_variant variants[N_VARIANTS];
  leank_eval_result results[1 + N_VARIANTS];
  leank_error err = {0};
  stopper s = {0, SIZE_MAX};
  o.should_stop = should_stop;
  o.user = &s;
  fill_variants(f, variants);
  assert_int_equal(leank_eval_answer(f->model, &p, variants, N_VARIANTS, &o, results, &err),
                   LEANK_OK);
  clear(results, 1 + N_VARIANTS);
  const size_t n_asked = s.n, before = hostile_mem_in_use();
  assert_true(n_asked > N_NEW);
  for (size_t at = 1; at < n_asked; at += 1 + n_asked / 40) {
    s = (stopper){0, at};
    const leank_status status =
        leank_eval_answer(f->model, &p, variants, N_VARIANTS, &o, results, &err);
    /* A feed that is all but done when it is asked to stop may end well; the next question stops.
     */
    assert_int_equal(status, LEANK_E_INTERRUPTED);
    assert_null(results[0].text);
    assert_int_equal(hostile_mem_in_use(), before);
  }
}

static void test_no_memory(void **state) {
  const fixture *f = *state;
  const leank_eval_prompt p = prompt_of(f, false);
  leank_eval_run_options o = run_options();
  leank_eval_variant variants[N_VARIANTS];
  leank_eval_result results[1 + N_VARIANTS];
  const size_t before = hostile_mem_in_use();
  leank_status status = LEANK_E_MEMORY;
  size_t n_failed = 0;
  o.session.n_threads = 1;
  fill_variants(f, variants);
  for (size_t n = 1; status != LEANK_OK; n += 1 + n / 16) {
    leank_error err = {0};
    lk_alloc_fail_nth(n);
    status = leank_eval_answer(f->model, &p, variants, N_VARIANTS, &o, results, &err);
    lk_alloc_fail_nth(0);
    assert_true(status == LEANK_OK || status == LEANK_E_MEMORY);
    clear(results, 1 + N_VARIANTS);
    assert_int_equal(hostile_mem_in_use(), before);
    n_failed += status != LEANK_OK;
  }
  assert_true(n_failed > 20);
}

/* A text that outgrows its first room: the last allocations of an answer, each failing in turn. */
static void test_no_memory_for_text(void **state) {
  const fixture *f = *state;
  leank_eval_prompt p = prompt_of(f, false);
  leank_eval_run_options o = run_options();
  leank_eval_result result = {0};
  leank_error err = {0};
  size_t n_text = 0, n_allocations = 0, n_failed = 0;
  p.max_new = 240;
  o.session.n_threads = 1;
  for (p.n_tokens = 8; n_text < 250 && p.n_tokens < N_PROMPT; p.n_tokens++) {
    const size_t first = lk_alloc_count();
    assert_int_equal(leank_eval_answer(f->model, &p, NULL, 0, &o, &result, &err), LEANK_OK);
    n_allocations = lk_alloc_count() - first;
    n_text = strlen(result.text);
    clear(&result, 1);
  }
  p.n_tokens--;
  assert_true(n_text >= 250); /* of some prompt the answer is that long */
  const size_t before = hostile_mem_in_use();
  for (size_t n = n_allocations - 40; n <= n_allocations; n++) {
    lk_alloc_fail_nth(n);
    n_failed += leank_eval_answer(f->model, &p, NULL, 0, &o, &result, &err) == LEANK_E_MEMORY;
    lk_alloc_fail_nth(0);
    clear(&result, 1);
    assert_int_equal(hostile_mem_in_use(), before);
  }
  assert_true(n_failed > 30);
}

static void test_refusals(void **state) {
  const fixture *f = *state;
  leank_eval_prompt p = prompt_of(f, false);
  leank_eval_run_options o = run_options();
  leank_eval_variant bad = {.think_ratio = 1.5};
  leank_eval_result results[2];
  leank_error err = {0};
  assert_int_equal(leank_eval_answer(f->model, &p, &bad, 1, &o, results, &err), LEANK_E_ARGUMENT);
  p.max_new = 0;
  assert_int_equal(leank_eval_answer(f->model, &p, NULL, 0, &o, results, &err), LEANK_E_ARGUMENT);
  p.max_new = N_NEW;
  o.struct_size = 1;
  assert_int_equal(leank_eval_answer(f->model, &p, NULL, 0, &o, results, &err), LEANK_E_ARGUMENT);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_answers),   cmocka_unit_test(test_figures),
      cmocka_unit_test(test_think),     cmocka_unit_test(test_stopping),
      cmocka_unit_test(test_no_memory), cmocka_unit_test(test_no_memory_for_text),
      cmocka_unit_test(test_refusals),
  };
  return cmocka_run_group_tests_name("eval_answer", tests, open_fixture, close_fixture);
}
