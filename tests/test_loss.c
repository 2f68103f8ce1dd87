/* The objectives that masks are learned with, whole, against float64: prompt rows dense, answer
 * rows under channel weights, each loss, and its gradient to every weight by central differences.
 * Models of both channel orders, all group sizes, middles that begin, grow, slide by token, and
 * reach the answer itself; several answers in one pass. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "support/answer_fixture.h"
#include "support/subject.h"

enum { P = LEANK_PAGE_TOKENS, MAX_ANSWERS = 3, N_ENTRIES = 40, N_DIRECTIONS = 3, N_VOCAB = 97 };

/* The loss is a difference of hidden states in fp32, each off by some 1e-6: the smaller it is, the
 * more of that is seen in it. */
static const double tolerance = 1e-4, step = 1e-4;

/* ---- cases ---- */

typedef struct loss_case {
  const char *name;
  bool qwen2;
  size_t n_heads, n_kv_heads, head_dim, hidden;
  lk_split split;
  bool mean, absent; /* heads of kind MEAN; head 0 of layer 1 ABSENT */
  size_t n_context, n_prompt, n_rows[MAX_ANSWERS];
} loss_case;

/* With n_sink = n_recent = 64 a middle begins at T = 192 and grows every 64 tokens. */
static const loss_case cases[] = {
    {"llama G1 D64, middle begins", false, 2, 2, 64, 64, {64, 64, P}, false, false, 170, 13, {14}},
    {"llama G3 D64, middle grows", false, 6, 2, 64, 48, {64, 64, P}, false, false, 240, 9, {12}},
    {"llama G4 D128, mean", false, 4, 1, 128, 64, {64, 64, P}, true, false, 301, 11, {14}},
    {"qwen2 G6 D64", true, 6, 1, 64, 96, {64, 80, P}, false, false, 251, 15, {12}},
    {"qwen2 G7 D128", true, 7, 1, 128, 64, {64, 64, P}, false, false, 240, 10, {11}},
    {"qwen2 G3 D64, absent", true, 6, 2, 64, 64, {64, 70, P}, false, true, 245, 12, {10}},
    {"llama G2 D64, mean and absent", false, 4, 2, 64, 64, {64, 64, P}, true, true, 250, 1, {9}},
    {"llama G1 D64, no sink", false, 2, 2, 64, 64, {0, 100, P}, false, false, 150, 3, {17}},
    {"llama G4 D64, never a middle", false, 4, 1, 64, 64, {64, 300, P}, false, false, 90, 9, {9}},
    {"llama G4 D64, slides", false, 4, 1, 64, 64, {64, 150, 1}, false, false, 251, 9, {13}},
    {"qwen2 G7 D64, slides from 0", true, 7, 1, 64, 64, {64, 128, 1}, false, false, 180, 7, {14}},
    {"llama G3 D64, slides, own page cut",
     false,
     3,
     1,
     64,
     48,
     {64, 40, 1},
     false,
     false,
     230,
     15,
     {18}},
    {"qwen2 G2 D64, slides over answer",
     true,
     2,
     1,
     64,
     64,
     {64, 5, 1},
     false,
     true,
     230,
     15,
     {18}},
    {"llama G2 D64, middle takes answer",
     false,
     4,
     2,
     64,
     64,
     {64, 8, P},
     false,
     false,
     290,
     13,
     {32}},
    {"qwen2 G2 D64, mean over answer", true, 4, 2, 64, 64, {64, 0, P}, true, true, 290, 13, {22}},
    {"llama G2 D64, mean of the answer", false, 2, 1, 64, 48, {64, 0, P}, true, false, 60, 6, {68}},
    {"llama G2 D64, three answers",
     false,
     4,
     2,
     64,
     64,
     {64, 64, P},
     false,
     false,
     180,
     10,
     {5, 1, 9}},
    {"qwen2 G3 D64, three, slides",
     true,
     3,
     1,
     64,
     48,
     {64, 50, 1},
     false,
     false,
     221,
     9,
     {7, 12, 2}},
};
enum { N_CASES = sizeof cases / sizeof *cases };

static size_t n_answers_of(const loss_case *lc) {
  size_t n = 0;
  while (n < MAX_ANSWERS && lc->n_rows[n]) n++;
  return n;
}

/* ---- a model, its answers, and the same in float64 ---- */

typedef struct subject {
  const loss_case *lc;
  lk_case model;
  leank_token *tokens;
  leank_question questions[MAX_ANSWERS];
  lk_answer_fixture lib;
  size_t n_answers, n_params, n_hidden; /* rows of all answers * hidden */
  float *alpha;                         /* [n_params] half order */
  double *weight;                       /* the same, for the oracles; tests change entries */
  lk_oracle_head *head;
  lk_oracle *oracles[MAX_ANSWERS];  /* hold the prompts */
  size_t n_prompt[MAX_ANSWERS];     /* tokens of context and prompt */
  double *full[MAX_ANSWERS];        /* [rows][hidden] dense */
  double *full_logits[MAX_ANSWERS]; /* [rows][N_VOCAB] dense */
  double *hidden;                   /* [n_hidden] */
  double *logits;                   /* [rows of all answers][N_VOCAB] */
  leank_loss loss;
} subject;

/* Between 0 and 1, every eighth exactly 0 and every eighth exactly 1. */
static void make_alpha(subject *s) {
  lk_rng rng = {5};
  for (size_t i = 0; i < s->n_params; i++) {
    const double u = lk_rng_double(&rng);
    const uint64_t kind = lk_rng_below(&rng, 8);
    s->alpha[i] = kind == 0 ? 0.0f : kind == 1 ? 1.0f : (float)u;
    s->weight[i] = (double)s->alpha[i];
  }
}

static bool is_absent(const subject *s, size_t head) {
  return s->lc->absent && head == s->lc->n_kv_heads;
}

static void see_alpha(subject *s) {
  lk_seen_mask_set_alpha(&s->lib.seen, s->alpha, s->lc->mean);
  for (size_t h = 0; h < s->n_params / s->lc->head_dim; h++) {
    s->head[h] = s->lc->mean ? LK_ORACLE_MEAN : LK_ORACLE_PLAIN;
    if (!is_absent(s, h)) continue;
    s->lib.seen.kind[h] = LK_WEIGHTED_ABSENT;
    s->head[h] = LK_ORACLE_ABSENT;
  }
}

static void open_model(subject *s) {
  const loss_case *lc = s->lc;
  const lk_tiny_spec spec = {.qwen2 = lc->qwen2,
                             .n_layers = 2,
                             .n_heads = lc->n_heads,
                             .n_kv_heads = lc->n_kv_heads,
                             .head_dim = lc->head_dim,
                             .hidden = lc->hidden,
                             .ffn = 2 * lc->hidden,
                             .n_vocab = N_VOCAB,
                             .type = LK_F32,
                             .seed = lc->n_context,
                             .bias_gain = .2};
  lk_case_open(&s->model, &spec);
  s->n_params = spec.n_layers * spec.n_kv_heads * spec.head_dim;
  s->alpha = test_calloc(s->n_params, sizeof *s->alpha);
  s->weight = test_calloc(s->n_params, sizeof *s->weight);
  s->head = test_calloc(spec.n_layers * spec.n_kv_heads, sizeof *s->head);
}

static void open_questions(subject *s) {
  const loss_case *lc = s->lc;
  const size_t most = lc->n_context + MAX_ANSWERS * (lc->n_prompt + 64);
  s->n_answers = n_answers_of(lc);
  s->tokens = lk_random_tokens(&s->model.spec, most, lc->n_context);
  /* Prompts of unlike lengths, so that answers begin at unlike positions. */
  for (size_t i = 0, at = lc->n_context; i < s->n_answers; i++) {
    s->questions[i] = lk_fixture_question(s->tokens + at, lc->n_prompt + 3 * i, lc->n_rows[i]);
    at += lc->n_prompt + 3 * i + lc->n_rows[i] + 1;
    s->n_hidden += lc->n_rows[i] * lc->hidden;
  }
  const leank_context context = {.tokens = s->tokens,
                                 .n_tokens = lc->n_context,
                                 .questions = s->questions,
                                 .n_questions = s->n_answers};
  lk_answer_fixture_open(&s->lib, s->model.model, &context, LEANK_KV_F32, 2);
}

static void feed_prompt(subject *s, lk_oracle *oracle, size_t i) {
  lk_oracle_feed(oracle, LEANK_FEED_TURN, s->tokens, s->lc->n_context, NULL, NULL);
  lk_oracle_feed(oracle, LEANK_FEED_TURN, s->questions[i].prompt, s->questions[i].n_prompt, NULL,
                 NULL);
}

/* The oracle of answer i: the prompt, dense, then to be seen under the weights. */
static void open_oracle(subject *s, size_t i) {
  const loss_case *lc = s->lc;
  const size_t n_rows = lc->n_rows[i];
  s->n_prompt[i] = lc->n_context + s->questions[i].n_prompt;
  const lk_oracle_options dense = {.n_sink = lc->split.n_sink, .n_recent = lc->split.n_recent};
  lk_oracle_options options = dense;
  options.weight = s->weight;
  options.head = s->head;
  options.step = lc->split.step;
  s->oracles[i] = lk_oracle_open(&s->model.weights, &options, s->n_prompt[i] + n_rows);
  lk_oracle *full = lk_oracle_open(&s->model.weights, &dense, s->n_prompt[i] + n_rows);
  feed_prompt(s, full, i);
  lk_oracle_copy(s->oracles[i], full);
  s->full[i] = test_calloc(n_rows * lc->hidden, sizeof(double));
  s->full_logits[i] = test_calloc(n_rows * N_VOCAB, sizeof(double));
  lk_oracle_feed(full, LEANK_FEED_SCORE, s->questions[i].answer, n_rows, s->full_logits[i],
                 s->full[i]);
  lk_oracle_close(&full);
}

static void subject_open(subject *s, const loss_case *lc, leank_loss loss) {
  memset(s, 0, sizeof *s);
  s->lc = lc;
  s->loss = loss;
  open_model(s);
  open_questions(s);
  make_alpha(s);
  see_alpha(s);
  for (size_t i = 0; i < s->n_answers; i++) open_oracle(s, i);
  s->hidden = test_calloc(s->n_hidden, sizeof *s->hidden);
  s->logits = test_calloc(s->lib.n_rows * N_VOCAB, sizeof *s->logits);
}

static void subject_close(subject *s) {
  for (size_t i = 0; i < s->n_answers; i++) {
    lk_oracle_close(&s->oracles[i]);
    test_free(s->full[i]);
    test_free(s->full_logits[i]);
  }
  lk_answer_fixture_close(&s->lib);
  lk_case_close(&s->model);
  free(s->tokens);
  test_free(s->alpha);
  test_free(s->weight);
  test_free(s->head);
  test_free(s->hidden);
  test_free(s->logits);
}

/* ---- the objective in float64 ---- */

static double log_sum_exp(const double *x) {
  double top = -INFINITY, sum = 0;
  for (size_t v = 0; v < N_VOCAB; v++) top = fmax(top, x[v]);
  for (size_t v = 0; v < N_VOCAB; v++) sum += exp(x[v] - top);
  return top + log(sum);
}

/* KL(softmax(full) || softmax(x)) */
static double kl_of(const double *full, const double *x) {
  const double shift = log_sum_exp(x) - log_sum_exp(full), lse = log_sum_exp(full);
  double kl = 0;
  for (size_t v = 0; v < N_VOCAB; v++) kl += exp(full[v] - lse) * (full[v] - x[v] + shift);
  return kl;
}

/* The loss at s->weight; leaves the hidden states in s->hidden. */
static double wanted_loss(subject *s) {
  double squares = 0, kl = 0, *hidden = s->hidden, *logits = s->logits;
  for (size_t i = 0; i < s->n_answers; i++) {
    const size_t n_rows = s->lc->n_rows[i], n = n_rows * s->lc->hidden;
    lk_oracle_rewind(s->oracles[i], s->n_prompt[i]);
    lk_oracle_feed(s->oracles[i], LEANK_FEED_SCORE, s->questions[i].answer, n_rows, logits, hidden);
    for (size_t c = 0; c < n; c++)
      squares += (hidden[c] - s->full[i][c]) * (hidden[c] - s->full[i][c]);
    for (size_t r = 0; r < n_rows; r++)
      kl += kl_of(s->full_logits[i] + r * N_VOCAB, logits + r * N_VOCAB);
    hidden += n;
    logits += n_rows * N_VOCAB;
  }
  squares /= (double)s->n_hidden;
  kl /= (double)s->lib.n_rows;
  return s->loss == LEANK_LOSS_HIDDEN ? squares : s->loss == LEANK_LOSS_LOGITS ? kl : squares + kl;
}

/* Derivative of the loss along direction[n_params], by central differences. */
static double slope(subject *s, const double *direction) {
  double loss[2];
  for (int side = 0; side < 2; side++) {
    for (size_t i = 0; i < s->n_params; i++)
      s->weight[i] = (double)s->alpha[i] + (side ? -step : step) * direction[i];
    loss[side] = wanted_loss(s);
  }
  for (size_t i = 0; i < s->n_params; i++) s->weight[i] = (double)s->alpha[i];
  return (loss[0] - loss[1]) / (2 * step);
}

/* The relative error of the gradient over random entries of it. */
static double entries_error(subject *s, const double *gradient, size_t n_entries) {
  lk_rng rng = {11};
  double difference = 0, square = 0, *direction = test_calloc(s->n_params, sizeof *direction);
  for (size_t k = 0; k < n_entries; k++) {
    const size_t i = (size_t)lk_rng_below(&rng, s->n_params);
    direction[i] = 1;
    const double want = slope(s, direction);
    direction[i] = 0;
    difference += (gradient[i] - want) * (gradient[i] - want);
    square += want * want;
  }
  test_free(direction);
  return square > 0 ? sqrt(difference / square) : difference > 0 ? INFINITY : 0;
}

/* Of derivatives along random directions, over all entries: the largest error, relative to the
 * gradient's norm (what a derivative along a direction of variance 1 is expected to be). */
static double directions_error(subject *s, const double *gradient) {
  lk_rng rng = {12};
  double worst = 0, square = 0, *direction = test_calloc(s->n_params, sizeof *direction);
  for (size_t i = 0; i < s->n_params; i++) square += gradient[i] * gradient[i];
  for (int k = 0; k < N_DIRECTIONS; k++) {
    double got = 0;
    for (size_t i = 0; i < s->n_params; i++) {
      direction[i] = sqrt(12.0) * (lk_rng_double(&rng) - 0.5);
      got += gradient[i] * direction[i];
    }
    worst = fmax(worst, fabs(got - slope(s, direction)));
  }
  test_free(direction);
  return square > 0 ? worst / sqrt(square) : worst > 0 ? INFINITY : 0;
}

/* ---- tests ---- */

typedef struct errors {
  double hidden, loss, entries, directions;
} errors;

static errors errors_of(subject *s, size_t n_entries) {
  double *gradient = test_calloc(s->n_params, sizeof *gradient);
  const double got =
      lk_fixture_loss(&s->lib, s->lib.answers, s->n_answers, s->lc->split, s->loss, gradient);
  const double want = wanted_loss(s);
  errors e = {.hidden = lk_error(s->lib.pass.forward.norm, s->hidden, s->n_hidden),
              .loss = want > 0 ? fabs(got / want - 1) : got};
  e.entries = entries_error(s, gradient, n_entries);
  e.directions = directions_error(s, gradient);
  test_free(gradient);
  return e;
}

static bool within(const errors *e) {
  return e->hidden < LK_TOLERANCE_F32 && e->loss < tolerance && e->entries < tolerance &&
         e->directions < tolerance;
}

static int n_disagree(leank_loss loss, size_t every) {
  int n_failed = 0;
  for (size_t i = 0; i < N_CASES; i += every) {
    subject s;
    subject_open(&s, &cases[i], loss);
    const errors e = errors_of(&s, N_ENTRIES);
    const bool ok = within(&e);
    printf("%-36s hidden %.1e, loss %.1e, entries %.1e, directions %.1e%s\n", cases[i].name,
           e.hidden, e.loss, e.entries, e.directions, ok ? "" : "  <- too much");
    n_failed += !ok;
    subject_close(&s);
  }
  return n_failed;
}

static void hidden_agrees_with_float64(void **state) {
  (void)state;
  assert_int_equal(n_disagree(LEANK_LOSS_HIDDEN, 1), 0);
}

static void logits_agree_with_float64(void **state) {
  (void)state;
  assert_int_equal(n_disagree(LEANK_LOSS_LOGITS, 1), 0);
}

static void both_agree_with_float64(void **state) {
  (void)state;
  assert_int_equal(n_disagree(LEANK_LOSS_BOTH, 4), 0); /* the two above, added */
}

/* ---- what would be noticed ---- */

/* Weights that go unconverted to a model of the "pairs" order, and a gradient that comes back so.
 */
static void a_wrong_order_is_noticed(void **state) {
  (void)state;
  subject s;
  subject_open(&s, &cases[1], LEANK_LOSS_HIDDEN);
  assert_int_equal(s.lib.seen.order, LEANK_ORDER_PAIRS);
  const size_t d = s.lc->head_dim;
  double *gradient = test_calloc(s.n_params, sizeof *gradient);
  double *raw = test_calloc(s.n_params, sizeof *raw);
  lk_fixture_loss(&s.lib, s.lib.answers, s.n_answers, s.lc->split, s.loss, gradient);
  for (size_t i = 0; i < s.n_params; i++)
    raw[i / d * d + lk_channel_from_half(LEANK_ORDER_PAIRS, d, i % d)] = gradient[i];
  assert_true(entries_error(&s, raw, N_ENTRIES) > 1000 * tolerance);
  assert_true(directions_error(&s, raw) > 1000 * tolerance);
  s.lib.seen.order = LEANK_ORDER_HALF;
  see_alpha(&s);
  const errors e = errors_of(&s, N_ENTRIES);
  assert_true(e.hidden > 100 * LK_TOLERANCE_F32);
  assert_true(e.loss > 100 * tolerance);
  assert_true(e.entries > 1000 * tolerance);
  test_free(gradient);
  test_free(raw);
  subject_close(&s);
}

/* ---- several answers in one pass ---- */

/* The answer alone has the hidden rows it has among n, bit for bit. */
static void check_rows_alone(subject *s, lk_answer **list, size_t n) {
  const size_t hidden = s->lc->hidden;
  float *together = test_calloc(s->n_hidden, sizeof *together), *row = together;
  lk_fixture_forward(&s->lib, list, n, s->lc->split);
  memcpy(together, s->lib.pass.forward.norm, s->n_hidden * sizeof *together);
  for (size_t i = 0; i < n; row += list[i++]->n_rows * hidden) {
    lk_fixture_forward(&s->lib, &list[i], 1, s->lc->split);
    lk_assert_same(s->lib.pass.forward.norm, row, list[i]->n_rows, hidden, s->lc->name);
  }
  test_free(together);
}

/* Loss and gradient of n answers are those of each alone, weighted by their rows. */
static void check_gradients_alone(subject *s, lk_answer **list, size_t n) {
  double *together = test_calloc(s->n_params, sizeof *together);
  double *alone = test_calloc(s->n_params, sizeof *alone);
  double loss = lk_fixture_loss(&s->lib, list, n, s->lc->split, s->loss, together), difference = 0;
  const double size = loss;
  double square = 0;
  for (size_t i = 0; i < s->n_params; i++) square += together[i] * together[i];
  for (size_t i = 0; i < n; i++) {
    const double share = (double)list[i]->n_rows / (double)s->lib.n_rows;
    loss -= share * lk_fixture_loss(&s->lib, &list[i], 1, s->lc->split, s->loss, alone);
    for (size_t c = 0; c < s->n_params; c++) together[c] -= share * alone[c];
  }
  for (size_t i = 0; i < s->n_params; i++) difference += together[i] * together[i];
  assert_true(fabs(loss) <= 1e-12 * size);
  assert_true(sqrt(difference / square) < 1e-6);
  test_free(together);
  test_free(alone);
}

static void answers_do_not_touch_each_other(void **state) {
  (void)state;
  for (size_t i = 0; i < N_CASES; i++) {
    subject s;
    if (n_answers_of(&cases[i]) < 2) continue;
    subject_open(&s, &cases[i], i % 2 ? LEANK_LOSS_BOTH : LEANK_LOSS_HIDDEN);
    lk_answer *backwards[MAX_ANSWERS];
    for (size_t k = 0; k < s.n_answers; k++) backwards[k] = s.lib.answers[s.n_answers - 1 - k];
    check_rows_alone(&s, s.lib.answers, s.n_answers);
    check_rows_alone(&s, backwards, s.n_answers);
    check_gradients_alone(&s, s.lib.answers, s.n_answers);
    subject_close(&s);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(hidden_agrees_with_float64),
      cmocka_unit_test(logits_agree_with_float64),
      cmocka_unit_test(both_agree_with_float64),
      cmocka_unit_test(a_wrong_order_is_noticed),
      cmocka_unit_test(answers_do_not_touch_each_other),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
