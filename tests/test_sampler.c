/* Sampling: what each option keeps, frequencies, determinism. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <string.h>
#include <cmocka.h>

#include <leank/text.h>

#include "base/alloc.h"
#include "base/rng.h"

enum { V = 8, DRAWS = 40000 };

static leank_error err;

static leank_sampler_options defaults(void) {
  leank_sampler_options o;
  leank_sampler_options_default(&o);
  return o;
}

static leank_sampler *open_or_die(leank_sampler_options o, size_t n_vocab) {
  leank_sampler *s = NULL;
  if (leank_sampler_open(&o, n_vocab, &s, &err) != LEANK_OK) fail_msg("%s", err.message);
  return s;
}

static leank_token pick(leank_sampler *s, const float *logits, size_t n) {
  float copy[64];
  memcpy(copy, logits, n * sizeof *copy);
  return leank_sampler_pick(s, copy);
}

/* Observed shares of DRAWS draws against expected ones: five standard deviations. */
static void expect_shares(leank_sampler_options o, const float *logits, const double *want) {
  size_t count[V] = {0};
  leank_sampler *s = open_or_die(o, V);
  for (size_t i = 0; i < DRAWS; i++) {
    const leank_token token = pick(s, logits, V);
    assert_true(token >= 0 && token < V);
    count[token]++;
  }
  for (size_t i = 0; i < V; i++) {
    const double p = want[i], bound = 5 * sqrt(p * (1 - p) / DRAWS);
    const double got = (double)count[i] / DRAWS;
    if (p == 0 ? count[i] != 0 : fabs(got - p) > bound)
      fail_msg("token %zu: share %g, expected %g +- %g", i, got, p, bound);
  }
  leank_sampler_close(&s);
}

static void softmax(const float *logits, double temperature, const bool *kept, double *out) {
  double sum = 0;
  for (size_t i = 0; i < V; i++) sum += out[i] = kept[i] ? exp((double)logits[i] / temperature) : 0;
  for (size_t i = 0; i < V; i++) out[i] /= sum;
}

/* Probabilities at temperature 1: .5 .2 .1 .08 .06 .03 .02 .01, in mixed order. */
static const double probability[V] = {.06, .5, .01, .2, .08, .03, .1, .02};

static void fill_logits(float *logits) {
  for (size_t i = 0; i < V; i++) logits[i] = (float)log(probability[i]) + 3.0f;
}

static void greedy_is_the_default(void **state) {
  (void)state;
  const float logits[V] = {1, 5, -3, 5, 4.9f, NAN, -INFINITY, 0};
  const float nan_first[V] = {NAN, -2, -1, NAN, -1, -5, -INFINITY, NAN};
  const float hopeless[V] = {NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN};
  leank_sampler *s = NULL;
  assert_int_equal(leank_sampler_open(NULL, V, &s, &err), LEANK_OK);
  assert_int_equal(pick(s, logits, V), 1); /* the lowest id wins the tie */
  assert_int_equal(pick(s, nan_first, V), 2);
  assert_int_equal(pick(s, hopeless, V), 0);
  leank_sampler_close(&s);
  assert_null(s);
  leank_sampler_close(&s);
  leank_sampler_close(NULL);
}

static void temperature_shapes_the_shares(void **state) {
  (void)state;
  float logits[V];
  double want[V];
  bool all[V];
  memset(all, 1, sizeof all);
  fill_logits(logits);
  static const float temperatures[] = {0.25f, 1, 3};
  for (size_t i = 0; i < 3; i++) {
    leank_sampler_options o = defaults();
    o.temperature = temperatures[i];
    o.seed = 11 + i;
    softmax(logits, (double)temperatures[i], all, want);
    expect_shares(o, logits, want);
  }
}

static void filters_keep_what_they_say(void **state) {
  (void)state;
  static const struct {
    int top_k;
    float top_p, min_p;
    bool kept[V]; /* of probability[] */
  } cases[] = {
      {3, 1, 0, {0, 1, 0, 1, 0, 0, 1, 0}},
      {1, 1, 0, {0, 1, 0, 0, 0, 0, 0, 0}},
      {100, 1, 0, {1, 1, 1, 1, 1, 1, 1, 1}},
      {0, 0.75f, 0, {0, 1, 0, 1, 0, 0, 1, 0}}, /* .5 + .2 is short of .75 */
      {0, 0.45f, 0, {0, 1, 0, 0, 0, 0, 0, 0}},
      {0, 0, 0, {0, 1, 0, 0, 0, 0, 0, 0}},     /* at least one stays */
      {0, 1, 0.15f, {0, 1, 0, 1, 1, 0, 1, 0}}, /* .075 and more */
      {0, 1, 1, {0, 1, 0, 0, 0, 0, 0, 0}},
      {3, 0.8f, 0, {0, 1, 0, 1, 0, 0, 0, 0}}, /* .7 of the .8 that top-k left is enough */
      {0, 0.85f, 0.3f, {0, 1, 0, 1, 0, 0, 0, 0}},
  };
  float logits[V];
  double want[V];
  fill_logits(logits);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    leank_sampler_options o = defaults();
    o.temperature = 1;
    o.top_k = cases[i].top_k;
    o.top_p = cases[i].top_p;
    o.min_p = cases[i].min_p;
    o.seed = i;
    softmax(logits, 1, cases[i].kept, want);
    expect_shares(o, logits, want);
  }
}

/* Temperature comes before the filters: at 2 the shares are flatter, so top-p keeps more. */
static void temperature_precedes_top_p(void **state) {
  (void)state;
  /* square roots of probability[]: sum 2.386; .707 .447 .316 .283 .245 ... */
  const bool kept[V] = {0, 1, 0, 1, 1, 0, 1, 0};
  float logits[V];
  double want[V];
  leank_sampler_options o = defaults();
  fill_logits(logits);
  o.temperature = 2;
  o.top_p = 0.7f;
  softmax(logits, 2, kept, want);
  expect_shares(o, logits, want);
}

static void ties_at_the_cut_go_to_lower_ids(void **state) {
  (void)state;
  const float logits[V] = {0, 1, 1, 0, 1, 1, 0, 1};
  const double want[V] = {0, 1.0 / 3, 1.0 / 3, 0, 1.0 / 3, 0, 0, 0};
  leank_sampler_options o = defaults();
  o.temperature = 1;
  o.top_k = 3;
  expect_shares(o, logits, want);
}

static void odd_logits_do_no_harm(void **state) {
  (void)state;
  const float with_nan[V] = {NAN, 0, -INFINITY, 0, NAN, -INFINITY, NAN, -1e30f};
  const float infinite[V] = {0, INFINITY, NAN, 3, INFINITY, 1e30f, -INFINITY, 0};
  const float hopeless[V] = {NAN, -INFINITY, NAN, -INFINITY, NAN, NAN, NAN, NAN};
  const double halves[V] = {0, .5, 0, .5, 0, 0, 0, 0}, infinite_halves[V] = {0, .5, 0, 0, .5};
  static const float top_p[] = {1, 0.99f};
  for (size_t i = 0; i < 2; i++) {
    leank_sampler_options o = defaults();
    o.temperature = 0.7f;
    o.top_p = top_p[i];
    expect_shares(o, with_nan, halves);
    expect_shares(o, infinite, infinite_halves);
    leank_sampler *s = open_or_die(o, V);
    assert_int_equal(pick(s, hopeless, V), 1);
    leank_sampler_close(&s);
  }
}

static void penalty_covers_the_window(void **state) {
  (void)state;
  const float logits[V] = {4, 3, 2, 1, -1, -2, -3, -4},
              negative[V] = {-1, -1.5f, -9, -9, -9, -9, -9, -9};
  leank_sampler_options o = defaults();
  o.repetition_penalty = 2;
  o.repetition_window = 2;
  leank_sampler *s = open_or_die(o, V);
  assert_int_equal(pick(s, logits, V), 0);
  assert_int_equal(pick(s, logits, V), 1); /* 4/2 < 3 */
  assert_int_equal(pick(s, logits, V), 0); /* 4/2, 3/2, 2: the lowest id of the tie */
  leank_sampler_accept(s, 5);
  leank_sampler_accept(s, 6); /* 0 and 1 have left the window */
  assert_int_equal(pick(s, logits, V), 0);
  leank_sampler_accept(s, 0);
  leank_sampler_accept(s, 0); /* twice in the window counts once: 4/2 = 2 < 3 */
  assert_int_equal(pick(s, logits, V), 1);
  leank_sampler_accept(s, 0);
  leank_sampler_accept(s, 0);
  assert_int_equal(pick(s, negative, V), 1); /* -1 becomes -2 */
  leank_sampler_accept(s, -1);
  leank_sampler_accept(s, V);
  leank_sampler_close(&s);
  o.repetition_window = 0; /* nothing to penalise */
  s = open_or_die(o, V);
  for (int i = 0; i < 3; i++) assert_int_equal(pick(s, logits, V), 0);
  leank_sampler_close(&s);
}

/* A long random run equals one that recounts the window every time. */
static void window_is_kept_right(void **state) {
  (void)state;
  enum { WINDOW = 7, STEPS = 3000 };
  static leank_token history[STEPS];
  lk_rng rng = {5};
  leank_sampler_options o = defaults();
  o.repetition_penalty = 1.3f;
  o.repetition_window = WINDOW;
  leank_sampler *s = open_or_die(o, V);
  for (size_t step = 0; step < STEPS; step++) {
    float logits[V], mine[V];
    for (size_t i = 0; i < V; i++) mine[i] = logits[i] = (float)lk_rng_double(&rng) * 4 - 2;
    for (size_t k = step > WINDOW ? step - WINDOW : 0; k < step; k++) {
      const leank_token t = history[k];
      mine[t] = logits[t] > 0 ? logits[t] / 1.3f : logits[t] * 1.3f;
    }
    size_t best = 0;
    for (size_t i = 1; i < V; i++)
      if (mine[i] > mine[best]) best = i;
    history[step] = leank_sampler_pick(s, logits);
    assert_int_equal(history[step], best);
  }
  leank_sampler_close(&s);
}

static void seed_and_history_decide(void **state) {
  (void)state;
  float logits[V];
  leank_token runs[3][200];
  fill_logits(logits);
  for (size_t r = 0; r < 3; r++) {
    leank_sampler_options o = defaults();
    o.temperature = 1;
    o.top_p = 0.95f;
    o.seed = r == 2 ? 8 : 7;
    leank_sampler *s = open_or_die(o, V);
    for (size_t i = 0; i < 200; i++) runs[r][i] = pick(s, logits, V);
    leank_sampler_close(&s);
  }
  assert_memory_equal(runs[0], runs[1], sizeof runs[0]);
  assert_memory_not_equal(runs[0], runs[2], sizeof runs[0]);
}

static void picking_allocates_nothing(void **state) {
  (void)state;
  float logits[V];
  leank_sampler_options o = defaults();
  o.temperature = 1;
  o.top_k = 5;
  o.top_p = 0.9f;
  o.min_p = 0.01f;
  o.repetition_penalty = 1.1f;
  leank_sampler *s = open_or_die(o, V);
  fill_logits(logits);
  const size_t before = lk_alloc_count();
  for (int i = 0; i < 100; i++) pick(s, logits, V);
  assert_int_equal(lk_alloc_count(), before);
  leank_sampler_close(&s);
}

static void bad_options_are_refused(void **state) {
  (void)state;
  const leank_sampler_options good = defaults();
  leank_sampler_options bad[14];
  for (size_t i = 0; i < 14; i++) bad[i] = good;
  bad[0].temperature = -1;
  bad[1].temperature = NAN;
  bad[2].temperature = INFINITY;
  bad[3].top_k = -1;
  bad[4].top_p = 1.5f;
  bad[5].top_p = NAN;
  bad[6].min_p = -0.1f;
  bad[7].min_p = 2;
  bad[8].repetition_penalty = 0;
  bad[9].repetition_penalty = NAN;
  bad[10].repetition_window = SIZE_MAX;
  bad[11].struct_size = 0;
  bad[12].struct_size--; /* of an older header */
  bad[13].struct_size++;
  for (size_t i = 0; i < 14; i++) {
    leank_sampler *s = NULL;
    assert_int_equal(leank_sampler_open(&bad[i], V, &s, &err), LEANK_E_ARGUMENT);
    assert_null(s);
    if (i >= 11) assert_non_null(strstr(err.message, "leank_sampler_options_default"));
  }
  leank_sampler *s = NULL;
  assert_int_equal(leank_sampler_open(&good, 0, &s, &err), LEANK_E_ARGUMENT);
  assert_int_equal(leank_sampler_open(&good, SIZE_MAX, &s, &err), LEANK_E_ARGUMENT);
}

static void memory_may_run_out(void **state) {
  (void)state;
  const size_t in_use = lk_mem_in_use(LK_MEM_TEXT);
  const leank_sampler_options o = defaults();
  size_t nth = 0;
  for (leank_status status = LEANK_E_MEMORY; status != LEANK_OK;) {
    leank_sampler *s = NULL;
    lk_alloc_fail_nth(++nth);
    status = leank_sampler_open(&o, V, &s, &err);
    lk_alloc_fail_nth(0);
    assert_true(status == LEANK_OK || status == LEANK_E_MEMORY);
    leank_sampler_close(&s);
    assert_int_equal(lk_mem_in_use(LK_MEM_TEXT), in_use);
  }
  assert_int_equal(nth, 5);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(greedy_is_the_default),
      cmocka_unit_test(temperature_shapes_the_shares),
      cmocka_unit_test(filters_keep_what_they_say),
      cmocka_unit_test(temperature_precedes_top_p),
      cmocka_unit_test(ties_at_the_cut_go_to_lower_ids),
      cmocka_unit_test(odd_logits_do_no_harm),
      cmocka_unit_test(penalty_covers_the_window),
      cmocka_unit_test(window_is_kept_right),
      cmocka_unit_test(seed_and_history_decide),
      cmocka_unit_test(picking_allocates_nothing),
      cmocka_unit_test(bad_options_are_refused),
      cmocka_unit_test(memory_may_run_out),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
