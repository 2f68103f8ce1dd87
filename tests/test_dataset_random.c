/* Data sets of random tokens, which need no tokenizer. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "learn/dataset.h"
#include "support/hostile.h"

enum { N_VOCAB = 101 };

static const lk_dataset_model bare = {.n_ctx = 4096, .n_vocab = N_VOCAB};

static leank_dataset_options options_of(size_t n_contexts, size_t n_questions, size_t min,
                                        size_t max) {
  leank_dataset_options o;
  leank_dataset_options_default(&o);
  o.tasks = 1u << LEANK_TASK_RANDOM;
  o.n_contexts = n_contexts;
  o.n_questions = n_questions;
  o.min_tokens = min;
  o.max_tokens = max;
  return o;
}

static leank_dataset *make(const leank_dataset_options *o) {
  leank_dataset *d = NULL;
  leank_error err = {0};
  if (lk_dataset_make(&bare, o, &d, &err) != LEANK_OK) fail_msg("%s", err.message);
  assert_int_equal(leank_dataset_n_contexts(d), o->n_contexts);
  return d;
}

static void refused(const leank_dataset_options *o, leank_status want, const char *part) {
  leank_dataset *d = NULL;
  leank_error err = {0};
  const size_t before = hostile_mem_in_use();
  assert_int_equal(lk_dataset_make(&bare, o, &d, &err), want);
  assert_null(d);
  if (!strstr(err.message, part)) fail_msg("'%s' lacks '%s'", err.message, part);
  assert_int_equal(hostile_mem_in_use(), before);
}

/* ---- tokens ---- */

static void count_tokens(const leank_token *tokens, size_t n, size_t *counts) {
  for (size_t i = 0; i < n; i++) {
    assert_in_range(tokens[i], 0, N_VOCAB - 1);
    counts[tokens[i]]++;
  }
}

/* How far the counts of N_VOCAB tokens are from equal: chi-squared over its degrees of freedom,
 * whose mean is 1 and whose variance is 2 / (N_VOCAB - 1). */
static double spread_of(const size_t *counts) {
  double sum = 0, square = 0;
  for (size_t v = 0; v < N_VOCAB; v++) sum += (double)counts[v];
  for (size_t v = 0; v < N_VOCAB; v++) {
    const double d = (double)counts[v] - sum / N_VOCAB;
    square += d * d;
  }
  return square / (sum / N_VOCAB) / (N_VOCAB - 1);
}

static void check_question(const leank_question *q, size_t n_prompt, size_t n_answer,
                           size_t *counts) {
  assert_int_equal(q->n_prompt, n_prompt);
  assert_int_equal(q->n_answer, n_answer);
  assert_int_equal(q->n_text, n_answer);
  assert_string_equal(q->text, "");
  assert_string_equal(q->answer_text, "");
  count_tokens(q->prompt, n_prompt, counts);
  count_tokens(q->answer, n_answer, counts);
}

static void test_sizes_and_tokens(void **state) {
  (void)state;
  leank_dataset_options o = options_of(5, 3, 300, 700);
  size_t counts[N_VOCAB] = {0}, lengths = 0;
  o.random_prompt = 7;
  o.random_answer = 11;
  leank_dataset *d = make(&o);
  for (size_t i = 0; i < 5; i++) {
    const leank_context *c = leank_dataset_get(d, i);
    assert_int_equal(c->task, LEANK_TASK_RANDOM);
    assert_int_equal(c->n_questions, 3);
    count_tokens(c->tokens, c->n_tokens, counts);
    for (size_t q = 0; q < 3; q++) check_question(&c->questions[q], 7, 11, counts);
    assert_memory_not_equal(c->questions[0].answer, c->questions[1].answer,
                            11 * sizeof(leank_token));
    const size_t length = c->n_tokens + 7 + 11; /* 300, 400, ... 700, in some order */
    assert_true(length % 100 == 0 && length >= 300 && length <= 700);
    lengths |= (size_t)1 << length / 100;
  }
  assert_int_equal(lengths, 0xf8);
  assert_true(fabs(spread_of(counts) - 1) <= 6 * sqrt(2.0 / (N_VOCAB - 1)));
  leank_dataset_close(&d);
}

static void fingerprint_of(const leank_dataset_options *o, char *out) {
  leank_dataset *d = make(o);
  strcpy(out, leank_dataset_fingerprint(d));
  leank_dataset_close(&d);
}

/* The same on every machine, and for a seed. */
static void test_the_seed_decides(void **state) {
  (void)state;
  leank_dataset_options o = options_of(2, 2, 200, 400);
  char first[17], other[17];
  fingerprint_of(&o, first);
  assert_string_equal(first, "41b6036b69bdb19c");
  o.seed = 2;
  fingerprint_of(&o, other);
  assert_string_not_equal(first, other);
}

/* ---- failures ---- */

static void test_sizes_are_checked(void **state) {
  (void)state;
  const leank_dataset_options good = options_of(1, 2, 77, 77);
  leank_dataset_options o = good;
  leank_dataset *d = make(&o); /* 48 and 28 leave one for the context */
  assert_int_equal(leank_dataset_get(d, 0)->n_tokens, 1);
  leank_dataset_close(&d);
  o.min_tokens = o.max_tokens = 76;
  refused(&o, LEANK_E_ARGUMENT, "76 tokens are too few");
  o = good, o.random_prompt = 0;
  refused(&o, LEANK_E_ARGUMENT, "random questions of 0 tokens");
  o = good, o.random_answer = 0;
  refused(&o, LEANK_E_ARGUMENT, "answers of 0");
  o = good, o.random_answer = SIZE_MAX;
  refused(&o, LEANK_E_ARGUMENT, "too few");
  o = good, o.random_prompt = SIZE_MAX;
  refused(&o, LEANK_E_ARGUMENT, "too few");
  o = good, o.max_tokens = 4097;
  refused(&o, LEANK_E_CONTEXT, "made for 4096");
  o = good, o.tasks |= 1u << LEANK_TASK_UUID;
  refused(&o, LEANK_E_UNSUPPORTED, "no tokenizer");
}

static void test_every_allocation_may_fail(void **state) {
  (void)state;
  const leank_dataset_options o = options_of(2, 2, 200, 400);
  const size_t before = hostile_mem_in_use();
  leank_status status = LEANK_E_MEMORY;
  size_t nth = 0;
  while (status != LEANK_OK) {
    leank_dataset *d = NULL;
    leank_error err = {0};
    lk_alloc_fail_nth(++nth);
    status = lk_dataset_make(&bare, &o, &d, &err);
    lk_alloc_fail_nth(0);
    assert_true(status == LEANK_OK || (status == LEANK_E_MEMORY && !d));
    leank_dataset_close(&d);
    assert_int_equal(hostile_mem_in_use(), before);
  }
  assert_true(nth > 3 + 2 * (2 + 2 * 4));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_sizes_and_tokens),
      cmocka_unit_test(test_the_seed_decides),
      cmocka_unit_test(test_sizes_are_checked),
      cmocka_unit_test(test_every_allocation_may_fail),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
