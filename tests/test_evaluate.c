/* What the evaluation of masks measures is what is deployed: hidden states of answer rows are those
 * of a session that scores or decodes the answer under the mask. Then the figures made of them,
 * against float64. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "learn/evaluate.h"
#include "support/answer_fixture.h"
#include "support/subject.h"

enum { P = LEANK_PAGE_TOKENS, V = 97, N_CONTEXT = 150, MAX_ANSWERS = 6, N_SINK = 64 };

/* Relative errors of an answer's rows, root mean square. fp32 on both sides, in other orders of
 * sums: 2^-24 times some ten, through 2 layers. */
static const double same_f32 = 1e-5;
/* A session's answer rows are off as any rows of a prefill in bf16 are (subject.h), and so are the
 * prompt's K and V on either side: two independent errors, in quadrature. */
static const double same_bf16 = 1.4143 * LK_TOLERANCE_BF16_RMS;

/* ---- answers to random prompts ---- */

typedef struct subject {
  lk_case model;
  leank_token *tokens; /* the context, then for each question its prompt and answer */
  leank_question questions[MAX_ANSWERS];
  size_t n_answers;
  lk_answer_fixture lib;
} subject;

static size_t prompt_tokens(size_t i) { return 25 + 14 * i; }
static size_t answer_rows(size_t i) { return i == 2 ? 1 : 14 + 9 * i; }

static void make_questions(subject *s, size_t n, uint64_t seed) {
  s->n_answers = n;
  s->tokens = lk_random_tokens(&s->model.spec, N_CONTEXT + n * 256, seed);
  for (size_t i = 0; i < n; i++)
    s->questions[i] =
        lk_fixture_question(s->tokens + N_CONTEXT + 256 * i, prompt_tokens(i), answer_rows(i));
}

static void read_questions(subject *s, leank_kv_type type) {
  const leank_context context = {.tokens = s->tokens,
                                 .n_tokens = N_CONTEXT,
                                 .questions = s->questions,
                                 .n_questions = s->n_answers};
  lk_answer_fixture_open(&s->lib, s->model.model, &context, type, 2);
}

static void subject_open(subject *s, size_t shape, size_t n_answers) {
  const lk_tiny_spec spec = lk_shape(shape);
  memset(s, 0, sizeof *s);
  lk_case_open(&s->model, &spec);
  make_questions(s, n_answers, shape + 1);
}

static void subject_close(subject *s) {
  lk_answer_fixture_close(&s->lib);
  lk_case_close(&s->model);
  free(s->tokens);
}

/* ---- sessions ---- */

static lk_setup setup_of(const uint8_t *kept, leank_kv_type type) {
  return (lk_setup){.kept = kept,
                    .n_sink = N_SINK,
                    .n_recent = 64,
                    .policy = LEANK_POLICY_DROP,
                    .kv_type = type,
                    .n_ctx = 512,
                    .n_seqs = 2};
}

static lk_split split_of(const lk_setup *setup) {
  return (lk_split){setup->n_sink, setup->n_recent, P};
}

typedef struct sink {
  double *hidden;
  size_t width, n_rows;
} sink;

static void on_hidden(void *user, size_t first_row, size_t n_rows, const float *hidden) {
  sink *to = user;
  assert_int_equal(first_row, to->n_rows);
  for (size_t i = 0; i < n_rows * to->width; i++)
    to->hidden[first_row * to->width + i] = (double)hidden[i];
  to->n_rows += n_rows;
}

/* The context and the question's prompt, as one turn; logits[V] of its last row, or NULL. */
static void feed_prompt(leank_session *session, size_t seq, const leank_token *context,
                        const leank_question *q, float *logits) {
  leank_error err = {0};
  leank_feed_options options;
  leank_token *all = test_calloc(N_CONTEXT + q->n_prompt, sizeof *all);
  memcpy(all, context, N_CONTEXT * sizeof *all);
  memcpy(all + N_CONTEXT, q->prompt, q->n_prompt * sizeof *all);
  leank_feed_options_default(&options);
  options.logits = logits;
  lk_assert_ok(leank_session_feed(session, seq, all, N_CONTEXT + q->n_prompt, &options, &err),
               &err);
  test_free(all);
}

static void score_answer(leank_session *session, size_t seq, const leank_question *q, size_t width,
                         double *hidden) {
  leank_error err = {0};
  leank_feed_options options;
  sink to = {hidden, width, 0};
  leank_feed_options_default(&options);
  options.mode = LEANK_FEED_SCORE;
  options.on_hidden = on_hidden;
  options.user = &to;
  lk_assert_ok(leank_session_feed(session, seq, q->answer, q->n_answer - 1, &options, &err), &err);
  assert_int_equal(to.n_rows, q->n_answer - 1);
}

/* logits[n_answer - 1][V] */
static void decode_answer(leank_session *session, size_t seq, const leank_question *q,
                          float *logits) {
  leank_error err = {0};
  for (size_t i = 0; i + 1 < q->n_answer; i++)
    lk_assert_ok(leank_session_decode(session, 1, &seq, q->answer + i, logits + i * V, &err), &err);
}

/* ---- logits in float64 ---- */

static void logits_of(const subject *s, const float *hidden, double *logits) {
  const size_t n = s->model.spec.hidden;
  for (size_t v = 0; v < V; v++) {
    logits[v] = 0;
    for (size_t c = 0; c < n; c++)
      logits[v] += s->model.weights.output[v * n + c] * (double)hidden[c];
  }
}

static size_t largest(const double *x) {
  size_t best = 0;
  for (size_t v = 1; v < V; v++)
    if (x[v] > x[best]) best = v;
  return best;
}

static size_t largest_f32(const float *x) {
  double wide[V];
  for (size_t v = 0; v < V; v++) wide[v] = (double)x[v];
  return largest(wide);
}

/* ---- the pass is the session ---- */

typedef struct errors {
  double hidden, logits, from_dense;
} errors;

static void max_into(double *worst, double x) { *worst = fmax(*worst, x); }

static void compare_decoding(const subject *s, size_t i, const float *rows, leank_session *session,
                             leank_kv_type type, errors *worst) {
  const leank_question *q = &s->questions[i];
  const size_t n_rows = q->n_answer - 1;
  float *decoded = test_calloc(n_rows * V, sizeof *decoded);
  double *logits = test_calloc(n_rows * V, sizeof *logits);
  feed_prompt(session, 1, s->tokens, q, NULL);
  decode_answer(session, 1, q, decoded);
  for (size_t r = 0; r < n_rows; r++) {
    logits_of(s, rows + r * s->model.spec.hidden, logits + r * V);
    if (type == LEANK_KV_F32)
      assert_int_equal(largest(logits + r * V), largest_f32(decoded + r * V));
  }
  max_into(&worst->logits, lk_rms_error(decoded, logits, n_rows * V));
  test_free(decoded);
  test_free(logits);
}

/* Every answer of one pass against a session of the same setup. */
static void compare(subject *s, const lk_setup *setup, errors *worst) {
  const size_t width = s->model.spec.hidden;
  lk_subject deployed;
  lk_subject_open(&deployed, &s->model, setup);
  lk_seen_mask_set_kept(&s->lib.seen, setup->kept, setup->policy, setup->mean_compensation, false);
  lk_fixture_forward(&s->lib, s->lib.answers, s->n_answers, split_of(setup));
  const float *rows = s->lib.pass.forward.norm;
  for (size_t i = 0; i < s->n_answers; i++) {
    const size_t n = s->lib.answers[i]->n_rows * width;
    double *want = test_calloc(n, sizeof *want);
    leank_error err = {0};
    for (size_t seq = 0; seq < 2; seq++)
      lk_assert_ok(leank_session_rewind(deployed.session, seq, 0, &err), &err);
    feed_prompt(deployed.session, 0, s->tokens, &s->questions[i], NULL);
    score_answer(deployed.session, 0, &s->questions[i], width, want);
    max_into(&worst->hidden, lk_rms_error(rows, want, n));
    max_into(&worst->from_dense, lk_rms_error(s->lib.answers[i]->hidden, want, n));
    compare_decoding(s, i, rows, deployed.session, setup->kv_type, worst);
    rows += n;
    test_free(want);
  }
  lk_subject_close(&deployed);
}

static void compare_policies(subject *s, const uint8_t *kept, leank_kv_type type, errors *worst) {
  for (int k = 0; k < 4; k++) {
    lk_setup setup = setup_of(kept, type);
    setup.policy = k & 1 ? LEANK_POLICY_MEAN : LEANK_POLICY_DROP;
    setup.mean_compensation = k & 2;
    setup.n_recent = k < 2 ? 64 : 30;
    compare(s, &setup, worst);
  }
}

/* Masks of these seeds have a head that keeps nothing, each in another layer. */
static errors compare_shapes(leank_kv_type type) {
  static const uint64_t seeds[] = {0, 5, 4};
  errors all = {0};
  for (size_t shape = 0; shape < 3; shape++) {
    subject s;
    subject_open(&s, shape, 4);
    read_questions(&s, type);
    errors worst = {0};
    for (size_t k = 0; k < sizeof seeds / sizeof *seeds; k++) {
      uint8_t *kept = lk_random_kept(&s.model.spec, seeds[k]);
      compare_policies(&s, kept, type, &worst);
      free(kept);
    }
    printf("shape %zu, %s: hidden rows %.1e, logits %.1e, masks change rows by up to %.1e\n", shape,
           type == LEANK_KV_F32 ? "fp32" : "bf16", worst.hidden, worst.logits, worst.from_dense);
    max_into(&all.hidden, worst.hidden);
    max_into(&all.logits, worst.logits);
    assert_true(worst.from_dense > 0.1); /* else this says nothing */
    subject_close(&s);
  }
  return all;
}

static void fp32_rows_are_those_of_a_session(void **state) {
  (void)state;
  const errors e = compare_shapes(LEANK_KV_F32);
  assert_true(e.hidden < same_f32);
  assert_true(e.logits < same_f32);
}

static void bf16_rows_are_those_of_a_session(void **state) {
  (void)state;
  const errors e = compare_shapes(LEANK_KV_BF16);
  assert_true(e.hidden < same_bf16);
  assert_true(e.logits < same_bf16);
}

/* ---- the figures of a row and a prompt ---- */

/* KL(dense || mask) of two rows of logits. */
static double kl_of(const double *dense, const double *masked) {
  double kl = 0, sums[2] = {0, 0};
  const double top = dense[largest(dense)], masked_top = masked[largest(masked)];
  for (size_t v = 0; v < V; v++) {
    sums[0] += exp(dense[v] - top);
    sums[1] += exp(masked[v] - masked_top);
  }
  for (size_t v = 0; v < V; v++) {
    const double log_p = dense[v] - top - log(sums[0]);
    kl += exp(log_p) * (log_p - (masked[v] - masked_top - log(sums[1])));
  }
  return kl;
}

static double hidden_error_of(const float *dense, const float *masked, size_t n) {
  double difference = 0, square = 0;
  for (size_t c = 0; c < n; c++) {
    const double d = (double)dense[c] - (double)masked[c];
    difference += d * d;
    square += (double)dense[c] * (double)dense[c];
  }
  return difference / square;
}

/* Whether the dense prompt gives the answer's first token, by the oracle. */
static bool first_is_right(const subject *s, const leank_question *q) {
  const lk_oracle_options dense = {.n_sink = N_SINK, .n_recent = 64};
  lk_oracle *oracle = lk_oracle_open(&s->model.weights, &dense, N_CONTEXT + q->n_prompt);
  double *logits = test_calloc(q->n_prompt * V, sizeof *logits);
  lk_oracle_feed(oracle, LEANK_FEED_TURN, s->tokens, N_CONTEXT, NULL, NULL);
  lk_oracle_feed(oracle, LEANK_FEED_TURN, q->prompt, q->n_prompt, logits, NULL);
  const size_t best = largest(logits + (q->n_prompt - 1) * V);
  lk_oracle_close(&oracle);
  test_free(logits);
  return best == (size_t)q->answer[0];
}

/* The score of answer i, whose hidden rows under the mask are `rows`. */
static lk_prompt_score wanted_score(const subject *s, size_t i, const float *rows) {
  const leank_question *q = &s->questions[i];
  const size_t width = s->model.spec.hidden;
  const float *dense_rows = s->lib.answers[i]->hidden;
  lk_prompt_score p = {.n_rows = q->n_answer - 1};
  p.right = p.dense_right = first_is_right(s, q);
  for (size_t r = 0; r < p.n_rows; r++) {
    double dense[V], masked[V];
    logits_of(s, dense_rows + r * width, dense);
    logits_of(s, rows + r * width, masked);
    p.kl += kl_of(dense, masked);
    p.hidden += hidden_error_of(dense_rows + r * width, rows + r * width, width);
    p.n_agree += largest(dense) == largest(masked);
    if (r + 1 >= q->n_text) continue;
    p.right = p.right && largest(masked) == (size_t)q->answer[r + 1];
    p.dense_right = p.dense_right && largest(dense) == (size_t)q->answer[r + 1];
  }
  return p;
}

/* Writes the answer that greedy decoding under a mask (NULL: dense) gives; first_given: what
 * follows the token that stands there. */
static void write_greedy(subject *s, size_t i, const uint8_t *kept, bool first_given) {
  const lk_setup setup = setup_of(kept, LEANK_KV_F32);
  leank_question *q = &s->questions[i];
  leank_token *answer = (leank_token *)q->answer; /* in s->tokens */
  float logits[V];
  leank_error err = {0};
  lk_subject deployed;
  lk_subject_open(&deployed, &s->model, &setup);
  feed_prompt(deployed.session, 0, s->tokens, q, logits);
  for (size_t k = 0; k < q->n_answer; k++) {
    if (k > 0 || !first_given) answer[k] = (leank_token)largest_f32(logits);
    const size_t seq = 0;
    lk_assert_ok(leank_session_decode(deployed.session, 1, &seq, answer + k, logits, &err), &err);
  }
  lk_subject_close(&deployed);
}

static void change(const leank_token *token) { *(leank_token *)token = (*token + 1) % V; }

/* 0: what dense decoding gives; 1: what decoding under the mask gives; 2: random, a single row; 3:
 * dense, but for what ends the turn; 4: dense, but for the last token of the text; 5: dense from a
 * first token on that is wrong. */
static void write_answers(subject *s, const uint8_t *kept) {
  write_greedy(s, 0, NULL, false);
  write_greedy(s, 1, kept, false);
  write_greedy(s, 3, NULL, false);
  write_greedy(s, 4, NULL, false);
  write_greedy(s, 5, NULL, false);
  for (size_t i = 3; i < 5; i++) {
    s->questions[i].n_text--;
    change(s->questions[i].answer + s->questions[i].n_text - (i == 4));
  }
  change(s->questions[5].answer);
  write_greedy(s, 5, NULL, true);
}

static void check_prompt(const lk_prompt_score *got, const lk_prompt_score *want) {
  assert_int_equal(got->n_rows, want->n_rows);
  assert_int_equal(got->n_agree, want->n_agree);
  assert_int_equal(got->right, want->right);
  assert_int_equal(got->dense_right, want->dense_right);
  if (!(fabs(got->kl - want->kl) <= 1e-6 * want->kl + 1e-6 * (double)want->n_rows))
    fail_msg("KL %.9g, not %.9g", got->kl, want->kl);
  assert_true(fabs(got->hidden - want->hidden) <= 1e-9 * want->hidden);
}

enum { N_MASKS = 3 };

typedef struct evaluation {
  subject s;
  uint8_t *kept[N_MASKS]; /* the last keeps all */
  lk_seen_mask masks[N_MASKS];
  lk_seen seen[N_MASKS];
  lk_score scores[N_MASKS];
} evaluation;

static void evaluation_open(evaluation *e) {
  leank_error err = {0};
  const lk_setup setup = setup_of(NULL, LEANK_KV_F32);
  subject_open(&e->s, 1, MAX_ANSWERS);
  e->kept[0] = lk_random_kept(&e->s.model.spec, 0);
  e->kept[1] = lk_random_kept(&e->s.model.spec, 5);
  e->kept[2] = lk_all_kept(&e->s.model.spec);
  write_answers(&e->s, e->kept[0]);
  read_questions(&e->s, LEANK_KV_F32);
  for (size_t i = 0; i < N_MASKS; i++) {
    lk_assert_ok(lk_seen_mask_open(leank_model_get_info(e->s.model.model), e->s.lib.backend,
                                   &e->masks[i], &err),
                 &err);
    lk_seen_mask_set_kept(&e->masks[i], e->kept[i], LEANK_POLICY_DROP, false, false);
    e->seen[i] = lk_seen_of(&e->masks[i], split_of(&setup));
  }
}

static void evaluate(evaluation *e, size_t max_rows) {
  leank_error err = {0};
  lk_evaluator evaluator;
  for (size_t i = 0; i < N_MASKS; i++)
    lk_assert_ok(lk_score_open(e->s.n_answers, e->s.lib.n_rows, &e->scores[i], &err), &err);
  lk_assert_ok(lk_evaluator_open(&e->s.lib.prefill, max_rows, N_MASKS, 2, &evaluator, &err), &err);
  lk_assert_ok(lk_evaluate(&evaluator, e->s.lib.answers, e->s.n_answers, e->seen, N_MASKS,
                           (lk_stop){0}, e->scores, &err),
               &err);
  lk_evaluator_close(&evaluator);
}

static void close_scores(evaluation *e) {
  for (size_t i = 0; i < N_MASKS; i++) lk_score_close(&e->scores[i]);
}

static void evaluation_close(evaluation *e) {
  for (size_t i = 0; i < N_MASKS; i++) {
    lk_seen_mask_close(&e->masks[i]);
    free(e->kept[i]);
  }
  subject_close(&e->s);
}

static void check_scores(evaluation *e, size_t mask) {
  leank_error err = {0};
  const subject *s = &e->s;
  lk_assert_ok(
      lk_answer_forward(&e->s.lib.pass, s->lib.answers, s->n_answers, &e->seen[mask], &err), &err);
  const float *rows = s->lib.pass.forward.norm;
  assert_int_equal(e->scores[mask].n_prompts, s->n_answers);
  assert_int_equal(e->scores[mask].n_rows, s->lib.n_rows);
  for (size_t i = 0; i < s->n_answers; i++) {
    const lk_prompt_score want = wanted_score(s, i, rows);
    check_prompt(&e->scores[mask].prompts[i], &want);
    rows += want.n_rows * s->model.spec.hidden;
  }
}

/* In one batch that crosses blocks of 64 rows, and in batches as small as can be. */
static void scores_are_those_of_float64(void **state) {
  (void)state;
  evaluation e = {0};
  evaluation_open(&e);
  const size_t most[] = {e.s.lib.n_rows, e.s.lib.prefill.max_rows};
  assert_true(e.s.lib.n_rows > 2 * 64);
  for (size_t k = 0; k < 2; k++) {
    evaluate(&e, most[k]);
    for (size_t mask = 0; mask < N_MASKS; mask++) check_scores(&e, mask);
    static const bool dense_right[MAX_ANSWERS] = {true, false, false, true, false, false};
    for (size_t i = 0; i < MAX_ANSWERS; i++)
      assert_int_equal(e.scores[0].prompts[i].dense_right, dense_right[i]);
    assert_true(e.scores[0].prompts[1].right);
    assert_false(e.scores[0].prompts[3].right);
    assert_true(e.scores[0].prompts[3].kl > 0.1);
    assert_true(e.scores[0].prompts[0].kl == 0); /* ends before a middle begins */
    close_scores(&e);
  }
  evaluation_close(&e);
}

static void a_full_mask_changes_nothing(void **state) {
  (void)state;
  evaluation e = {0};
  evaluation_open(&e);
  for (int mean = 0; mean < 2; mean++) {
    leank_mask_report r;
    lk_seen_mask_set_kept(&e.masks[2], e.kept[2], LEANK_POLICY_MEAN, mean, false);
    evaluate(&e, e.s.lib.n_rows);
    lk_score_report(&e.scores[2], &r);
    assert_int_equal(r.n_prompts, MAX_ANSWERS);
    assert_int_equal(r.n_rows, e.s.lib.n_rows);
    assert_true(r.hidden_error == 0 && r.hidden_se == 0);
    assert_true(r.kl_mean == 0 && r.kl_se == 0 && r.kl_p99 == 0);
    assert_true(r.top1 == 1);
    assert_true(r.accuracy == r.dense_accuracy && r.dense_accuracy > 0);
    assert_true(r.accuracy_change == 0 && r.accuracy_change_se == 0);
    close_scores(&e);
  }
  evaluation_close(&e);
}

/* ---- the report ---- */

static void near(double got, double want) {
  if (!(fabs(got - want) <= 1e-12 * fabs(want))) fail_msg("%.17g, not %.17g", got, want);
}

/* Standard error of the mean, from its definition. */
static double standard_error(const double *x, size_t n) {
  double mean = 0, squares = 0;
  for (size_t i = 0; i < n; i++) mean += x[i] / (double)n;
  for (size_t i = 0; i < n; i++) squares += (x[i] - mean) * (x[i] - mean);
  return sqrt(squares / (double)(n - 1) / (double)n);
}

static void a_report_by_hand(void **state) {
  (void)state;
  leank_error err = {0};
  lk_score score;
  leank_mask_report r;
  lk_assert_ok(lk_score_open(4, 10, &score, &err), &err);
  const lk_prompt_score prompts[] = {{1, 1, .5, .25, true, true},
                                     {4, 3, 1, .125, false, true},
                                     {2, 0, 3, .5, true, false},
                                     {3, 3, .75, .375, false, true}};
  memcpy(score.prompts, prompts, sizeof prompts);
  score.n_prompts = 4;
  score.n_rows = 10;
  for (size_t i = 0; i < 10; i++) score.row_kl[i] = (float)((i * 7) % 10);
  lk_score_report(&score, &r);
  assert_int_equal(r.n_prompts, 4);
  assert_int_equal(r.n_rows, 10);
  near(r.kl_mean, 5.25 / 10);
  near(r.hidden_error, 1.25 / 10);
  near(r.top1, 7.0 / 10);
  near(r.accuracy, 0.5);
  near(r.dense_accuracy, 0.75);
  near(r.accuracy_change, -0.25);
  near(r.kl_se, standard_error((double[]){.5, .25, 1.5, .25}, 4));
  near(r.hidden_se, standard_error((double[]){.25, .03125, .25, .125}, 4));
  near(r.accuracy_se, standard_error((double[]){1, 0, 1, 0}, 4));
  near(r.dense_accuracy_se, standard_error((double[]){1, 1, 0, 1}, 4));
  near(r.accuracy_change_se, standard_error((double[]){0, -1, 1, -1}, 4));
  lk_score_close(&score);
}

/* kl_p99 is the least value that 99 % of the rows do not exceed. */
static void a_percentile_by_hand(void **state) {
  (void)state;
  static const size_t n_rows[] = {1, 2, 50, 99, 100, 101, 150, 200, 201, 1000};
  for (size_t k = 0; k < sizeof n_rows / sizeof *n_rows; k++) {
    const size_t n = n_rows[k];
    leank_error err = {0};
    lk_score score;
    leank_mask_report r;
    lk_assert_ok(lk_score_open(1, n, &score, &err), &err);
    score.prompts[score.n_prompts++] = (lk_prompt_score){.n_rows = n};
    score.n_rows = n;
    for (size_t i = 0; i < n; i++) score.row_kl[i] = (float)((i * 7919) % n); /* 0 .. n - 1 */
    lk_score_report(&score, &r);
    size_t want = 0;
    while (100 * (want + 1) < 99 * n) want++;
    near(r.kl_p99, (double)want);
    lk_score_close(&score);
  }
}

static void a_report_of_nothing_is_zero(void **state) {
  (void)state;
  leank_error err = {0};
  lk_score score;
  leank_mask_report r;
  lk_assert_ok(lk_score_open(1, 1, &score, &err), &err);
  lk_score_report(&score, &r);
  assert_true(r.n_rows == 0 && r.kl_mean == 0 && r.kl_p99 == 0 && r.accuracy == 0 && r.top1 == 0);
  lk_score_close(&score);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(fp32_rows_are_those_of_a_session),
      cmocka_unit_test(bf16_rows_are_those_of_a_session),
      cmocka_unit_test(scores_are_those_of_float64),
      cmocka_unit_test(a_full_mask_changes_nothing),
      cmocka_unit_test(a_report_by_hand),
      cmocka_unit_test(a_percentile_by_hand),
      cmocka_unit_test(a_report_of_nothing_is_zero),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
