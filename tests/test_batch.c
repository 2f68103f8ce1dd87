/* Decoding in batches: a sequence's bits depend on nothing but itself, whatever stands beside it,
 * in which order, on how many threads; and every CPU level keeps to the oracle. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "cpu/cpu_features.h"
#include "support/subject.h"

enum { V = 97, N_SEQS = 11, N_STEPS = 70, N_CTX = 420 };

/* Ragged first turns: none, short, and around the boundaries of n_sink = n_recent = 64. */
static const size_t prompts[N_SEQS] = {0, 1, 40, 64, 127, 130, 190, 200, 255, 301, 330};

typedef struct fixture {
  lk_case c;
  leank_token *tokens[N_SEQS]; /* [N_CTX] each */
  uint8_t *kept;
  lk_setup setup;
} fixture;

static int set_up_shape(void **state, size_t shape) {
  fixture *f = calloc(1, sizeof *f);
  if (!f) return -1;
  const lk_tiny_spec spec = lk_shape(shape);
  lk_case_open(&f->c, &spec);
  for (size_t i = 0; i < N_SEQS; i++) f->tokens[i] = lk_random_tokens(&spec, N_CTX, 100 + i);
  f->kept = lk_random_kept(&spec, 0);
  f->setup = lk_means_setup(f->kept, N_CTX);
  f->setup.n_seqs = N_SEQS;
  *state = f;
  return 0;
}

static int set_up(void **state) { return set_up_shape(state, 0); }
static int set_up_other(void **state) { return set_up_shape(state, 1); }

static int tear_down(void **state) {
  fixture *f = *state;
  lk_case_close(&f->c);
  for (size_t i = 0; i < N_SEQS; i++) free(f->tokens[i]);
  free(f->kept);
  free(f);
  return 0;
}

/* Every sequence alone: logits [N_SEQS][N_STEPS][V] of decode steps after its prompt. */
static float *each_alone(const fixture *f, const lk_setup *base) {
  float *all = calloc((size_t)N_SEQS * N_STEPS * V, sizeof *all);
  assert_non_null(all);
  for (size_t i = 0; i < N_SEQS; i++) {
    lk_setup setup = *base;
    setup.n_seqs = 1;
    setup.n_threads = 1;
    lk_subject s;
    lk_subject_open(&s, &f->c, &setup);
    if (prompts[i]) free(lk_subject_run(&s, 0, f->tokens[i], LK_CALLS({LK_TURN, prompts[i]})));
    float *one = lk_subject_run(&s, 0, f->tokens[i] + prompts[i], LK_CALLS({LK_DECODE, N_STEPS}));
    memcpy(all + i * N_STEPS * V, one, (size_t)N_STEPS * V * sizeof *one);
    free(one);
    lk_subject_close(&s);
  }
  return all;
}

static void feed_prompts(const fixture *f, lk_subject *s) {
  for (size_t i = 0; i < N_SEQS; i++)
    if (prompts[i]) free(lk_subject_run(s, i, f->tokens[i], LK_CALLS({LK_TURN, prompts[i]})));
}

/* A random choice, in random order, of the sequences that have steps left. */
static size_t random_batch(lk_rng *rng, const size_t *done, size_t *seqs) {
  size_t n = 0;
  const bool all = lk_rng_below(rng, 4) == 0;
  for (size_t i = 0; i < N_SEQS; i++)
    if (done[i] < N_STEPS && (all || lk_rng_below(rng, 3) > 0)) seqs[n++] = i;
  for (size_t i = n; i > 1; i--) {
    const size_t j = (size_t)lk_rng_below(rng, i), was = seqs[j];
    seqs[j] = seqs[i - 1];
    seqs[i - 1] = was;
  }
  return n;
}

static void step(const fixture *f, lk_subject *s, size_t n, const size_t *seqs, size_t *done,
                 float *all) {
  leank_token next[N_SEQS] = {0};
  float logits[N_SEQS * V];
  leank_error err = {0};
  for (size_t i = 0; i < n; i++) next[i] = f->tokens[seqs[i]][prompts[seqs[i]] + done[seqs[i]]];
  lk_assert_ok(leank_session_decode(s->session, n, seqs, next, logits, &err), &err);
  for (size_t i = 0; i < n; i++) {
    memcpy(all + (seqs[i] * N_STEPS + done[seqs[i]]) * V, logits + i * V, V * sizeof(float));
    done[seqs[i]]++;
  }
}

/* The same decode steps in batches of random members. */
static float *in_batches(const fixture *f, const lk_setup *setup, uint64_t seed) {
  float *all = calloc((size_t)N_SEQS * N_STEPS * V, sizeof *all);
  assert_non_null(all);
  lk_subject s;
  lk_subject_open(&s, &f->c, setup);
  feed_prompts(f, &s);
  size_t done[N_SEQS] = {0}, seqs[N_SEQS], left = (size_t)N_SEQS * N_STEPS;
  lk_rng rng = {seed};
  while (left > 0) {
    const size_t n = random_batch(&rng, done, seqs);
    if (n == 0) continue;
    step(f, &s, n, seqs, done, all);
    left -= n;
  }
  for (size_t i = 0; i < N_SEQS; i++)
    assert_int_equal(leank_session_length(s.session, i), prompts[i] + N_STEPS);
  lk_subject_close(&s);
  return all;
}

static void test_batches_change_no_bit(void **state) {
  fixture *f = *state;
  static const leank_kv_type types[] = {LEANK_KV_F32, LEANK_KV_BF16, LEANK_KV_Q8};
  static const char *const names[] = {"f32", "bf16", "q8"};
  static const size_t threads[] = {1, 2, 3, 5};
  for (size_t t = 0; t < 3; t++) {
    lk_setup setup = f->setup;
    setup.kv_type = types[t];
    float *want = each_alone(f, &setup);
    for (size_t i = 0; i < sizeof threads / sizeof *threads; i++) {
      setup.n_threads = threads[i];
      float *got = in_batches(f, &setup, 1000 + i);
      char what[64];
      snprintf(what, sizeof what, "%s, %zu threads (row = sequence * %d + step)", names[t],
               threads[i], N_STEPS);
      lk_assert_same(got, want, (size_t)N_SEQS * N_STEPS, V, what);
      free(got);
    }
    free(want);
  }
}

static void test_threads_are_as_asked(void **state) {
  fixture *f = *state;
  for (size_t n = 1; n <= 5; n += 2) {
    lk_setup setup = f->setup;
    setup.n_threads = n;
    lk_subject s;
    lk_subject_open(&s, &f->c, &setup);
    assert_int_equal(leank_session_threads(s.session), n);
    lk_subject_close(&s);
  }
}

/* Turns and scores of neighbours between decode steps, and thread counts in prefill. */
static void check_neighbours(const fixture *f, leank_kv_type kv_type) {
  const lk_call calls[] = {{LK_TURN, 210}, {LK_SCORE, 70}, {LK_TURN, 60}, {LK_DECODE, 4}};
  float *want = NULL;
  for (size_t threads = 1; threads <= 4; threads++) {
    lk_setup setup = f->setup;
    setup.n_threads = threads;
    setup.kv_type = kv_type;
    lk_subject s;
    lk_subject_open(&s, &f->c, &setup);
    float *got = calloc((size_t)344 * V, sizeof *got);
    assert_non_null(got);
    size_t row = 0;
    for (size_t i = 0; i < 4; i++) {
      free(lk_subject_run(&s, 1 + threads % 3, f->tokens[2], LK_CALLS({LK_TURN, 37 + threads})));
      float *part = lk_subject_run(&s, 7, f->tokens[0] + row, &calls[i], 1);
      memcpy(got + row * V, part, calls[i].n * V * sizeof *part);
      row += calls[i].n;
      free(part);
    }
    if (want)
      lk_assert_same(got, want, 344, V, "threads and neighbours of a feed");
    else
      want = lk_run_fresh(&f->c, &setup, f->tokens[0], calls, 4);
    lk_assert_same(got, want, 344, V, "with and without neighbours");
    free(got);
    lk_subject_close(&s);
  }
  free(want);
}

static void test_neighbours_change_no_bit_of_a_feed(void **state) {
  fixture *f = *state;
  check_neighbours(f, LEANK_KV_BF16);
  check_neighbours(f, LEANK_KV_Q8);
}

static void test_batched_sequences_match_the_oracle(void **state) {
  fixture *f = *state;
  float *got = in_batches(f, &f->setup, 5);
  for (size_t i = 0; i < N_SEQS; i++) {
    lk_oracle *oracle = lk_setup_oracle(&f->c, &f->setup);
    lk_oracle_feed(oracle, LEANK_FEED_TURN, f->tokens[i], prompts[i], NULL, NULL);
    double *want =
        lk_oracle_run(oracle, V, f->tokens[i] + prompts[i], LK_CALLS({LK_DECODE, N_STEPS}));
    char what[64];
    snprintf(what, sizeof what, "sequence %zu of a batch", i);
    lk_assert_close(got + i * N_STEPS * V, want, N_STEPS, V, LK_TOLERANCE_F32, what);
    free(want);
    lk_oracle_close(&oracle);
  }
  free(got);
}

/* ---- CPU levels ---- */

static bool names_another_level(const char *kernels, leank_cpu_level level) {
  if (level < LEANK_CPU_AMX && strstr(kernels, "_amx")) return true;
  if (level == LEANK_CPU_C) return strstr(kernels, "_avx") || strstr(kernels, "_neon");
  if (level == LEANK_CPU_AVX2) return strstr(kernels, "_avx512") != NULL;
  if (level == LEANK_CPU_AVX512) return strstr(kernels, "_avx512bf16") != NULL;
  if (level == LEANK_CPU_NEON) return strstr(kernels, "_neondot") || strstr(kernels, "_neonbf16");
  if (level == LEANK_CPU_NEONDOT) return strstr(kernels, "_neonbf16") != NULL;
  return false;
}

static bool names_the_level(const char *kernels, leank_cpu_level level) {
  char suffix[32];
  snprintf(suffix, sizeof suffix, "_%s\n", lk_cpu_level_name(level));
  return strstr(kernels, suffix) != NULL;
}

static void check_level(const fixture *f, leank_cpu_level level, leank_kv_type kv_type) {
  lk_setup setup = f->setup;
  setup.cpu = level;
  setup.kv_type = kv_type;
  lk_subject s;
  lk_subject_open(&s, &f->c, &setup);
  const char *kernels = leank_session_kernels(s.session);
  assert_non_null(kernels);
  if (names_another_level(kernels, level))
    fail_msg("level %s uses\n%s", lk_cpu_level_name(level), kernels);
  /* f32 has no kernels of the levels that have bf16, q8 none of AMX, and only q8 any of neondot
   * (the model's weights are plain). */
  const bool not_f32 =
      level >= LEANK_CPU_AVX512BF16 && level != LEANK_CPU_NEON && level != LEANK_CPU_NEONDOT;
  const bool expected =
      kv_type == LEANK_KV_BF16 || (kv_type == LEANK_KV_F32 ? !not_f32 : level != LEANK_CPU_AMX);
  const bool is_neondot = level == LEANK_CPU_NEONDOT && kv_type == LEANK_KV_Q8;
  const leank_cpu_level named = level == LEANK_CPU_NEONDOT && !is_neondot ? LEANK_CPU_NEON : level;
  if (expected && !names_the_level(kernels, named))
    fail_msg("level %s falls back to\n%s", lk_cpu_level_name(level), kernels);
  const lk_call calls[] = {{LK_TURN, 230}, {LK_DECODE, 60}, {LK_SCORE, 50}, {LK_TURN, 30}};
  float *got = lk_subject_run(&s, 3, f->tokens[0], calls, 4);
  double *want = lk_oracle_fresh(&f->c, &setup, f->tokens[0], calls, 4);
  if (kv_type == LEANK_KV_F32)
    lk_assert_close(got, want, 370, V, LK_TOLERANCE_F32, lk_cpu_level_name(level));
  else if (!(lk_rms_error(got, want, 370 * V) <= LK_TOLERANCE_BF16_RMS))
    fail_msg("level %s: rms error %.3g", lk_cpu_level_name(level),
             lk_rms_error(got, want, 370 * V));
  free(want);
  free(got);
  lk_subject_close(&s);
}

static void test_every_cpu_level_matches_the_oracle(void **state) {
  fixture *f = *state;
  leank_cpu_level levels[LK_N_CPU_LEVELS];
  const size_t n = lk_cpu_levels(levels);
  for (size_t i = 0; i < n; i++) {
    check_level(f, levels[i], LEANK_KV_F32);
    check_level(f, levels[i], LEANK_KV_BF16);
    check_level(f, levels[i], LEANK_KV_Q8);
  }
}

static void test_every_cpu_level_batches_without_a_trace(void **state) {
  fixture *f = *state;
  leank_cpu_level levels[LK_N_CPU_LEVELS];
  const size_t n = lk_cpu_levels(levels);
  for (size_t i = 0; i < 2 * n; i++) {
    lk_setup setup = f->setup;
    setup.cpu = levels[i / 2];
    setup.kv_type = i % 2 ? LEANK_KV_Q8 : LEANK_KV_BF16;
    float *want = each_alone(f, &setup);
    setup.n_threads = 3;
    float *got = in_batches(f, &setup, 77 + i);
    lk_assert_same(got, want, (size_t)N_SEQS * N_STEPS, V, lk_cpu_level_name(setup.cpu));
    free(want);
    free(got);
  }
}

#define BATCH_TEST(name, up) cmocka_unit_test_setup_teardown(name, up, tear_down)

int main(void) {
  const struct CMUnitTest tests[] = {
      BATCH_TEST(test_batches_change_no_bit, set_up),
      BATCH_TEST(test_batches_change_no_bit, set_up_other),
      BATCH_TEST(test_threads_are_as_asked, set_up),
      BATCH_TEST(test_neighbours_change_no_bit_of_a_feed, set_up),
      BATCH_TEST(test_batched_sequences_match_the_oracle, set_up),
      BATCH_TEST(test_every_cpu_level_matches_the_oracle, set_up_other),
      BATCH_TEST(test_every_cpu_level_batches_without_a_trace, set_up),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
