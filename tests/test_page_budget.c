/* The edges of a session's page budget: contexts that are no whole number of pages, forks that
 * share their last page, windows far beyond the context, packing where the middle is another one.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "support/subject.h"

enum { P = LEANK_PAGE_TOKENS, V = 97 };

typedef struct fixture {
  lk_case c;
  uint8_t *kept;
  leank_token *tokens;
  lk_setup setup;
} fixture;

static int set_up(void **state) {
  fixture *f = calloc(1, sizeof *f);
  const lk_tiny_spec spec = lk_shape(0);
  lk_case_open(&f->c, &spec);
  f->kept = lk_random_kept(&spec, 3);
  f->tokens = lk_random_tokens(&spec, 1200, 5);
  f->setup = (lk_setup){.kept = f->kept,
                        .n_sink = 64,
                        .n_recent = 64,
                        .kv_type = LEANK_KV_F32,
                        .n_ctx = 640,
                        .cpu = lk_test_cpu()};
  *state = f;
  return 0;
}

static int tear_down(void **state) {
  fixture *f = *state;
  lk_case_close(&f->c);
  free(f->kept);
  free(f->tokens);
  free(f);
  return 0;
}

/* A context of 100 tokens ends inside its second page: nothing may go beyond the 100. */
static void test_a_context_that_ends_inside_a_page(void **state) {
  fixture *f = *state;
  lk_setup small = f->setup, dense = f->setup;
  small.n_ctx = 100;
  dense.kept = NULL;
  lk_subject to, from;
  leank_error err = {0};
  lk_subject_open(&to, &f->c, &small);
  lk_subject_open(&from, &f->c, &dense);
  free(lk_subject_run(&from, 0, f->tokens, LK_CALLS({LK_TURN, 128})));
  assert_int_equal(leank_session_pack_from(to.session, 0, from.session, 0, &err), LEANK_E_CONTEXT);
  assert_int_equal(leank_session_length(to.session, 0), 0);
  free(lk_subject_run(&to, 0, f->tokens, LK_CALLS({LK_TURN, 99}, {LK_DECODE, 1})));
  const size_t seq = 0;
  float logits[V];
  assert_int_equal(leank_session_feed(to.session, 0, f->tokens, 1, NULL, &err), LEANK_E_CONTEXT);
  assert_int_equal(leank_session_decode(to.session, 1, &seq, f->tokens, logits, &err),
                   LEANK_E_CONTEXT);
  assert_int_equal(leank_session_length(to.session, 0), 100);
  lk_subject_close(&to);
  lk_subject_close(&from);
}

/* A pruned source whose middle ends at the same place but begins at another has other means. */
static void test_means_of_another_middle_are_refused(void **state) {
  fixture *f = *state;
  lk_setup a = f->setup, b = f->setup;
  a.policy = b.policy = LEANK_POLICY_MEAN;
  a.n_sink = 128;
  lk_subject from, to;
  leank_error err = {0};
  lk_subject_open(&from, &f->c, &a);
  lk_subject_open(&to, &f->c, &b);
  free(lk_subject_run(&from, 0, f->tokens, LK_CALLS({LK_TURN, 500})));
  assert_int_equal(leank_session_middle_end(from.session, 0), 64 + (500 - 128) / P * P);
  assert_int_equal(leank_session_pack_from(to.session, 0, from.session, 0, &err), LEANK_E_MISMATCH);
  lk_subject_close(&from);
  lk_subject_close(&to);
}

/* Two pairs of forks that share their only page are stepped together: each pair needs one copy, and
 * one page is free for each. */
static void test_forks_stepped_together_find_their_pages(void **state) {
  fixture *f = *state;
  lk_setup setup = f->setup;
  setup.n_ctx = 64;
  setup.n_seqs = 4;
  lk_subject s;
  leank_error err = {0};
  lk_subject_open(&s, &f->c, &setup);
  free(lk_subject_run(&s, 0, f->tokens, LK_CALLS({LK_TURN, 30})));
  free(lk_subject_run(&s, 1, f->tokens + 30, LK_CALLS({LK_TURN, 40})));
  lk_assert_ok(leank_session_fork(s.session, 0, 2, &err), &err);
  lk_assert_ok(leank_session_fork(s.session, 1, 3, &err), &err);
  const size_t seqs[] = {0, 1, 2, 3};
  const leank_token tokens[] = {f->tokens[100], f->tokens[101], f->tokens[100], f->tokens[101]};
  float *logits = malloc(sizeof(float) * 4 * V);
  lk_assert_ok(leank_session_decode(s.session, 4, seqs, tokens, logits, &err), &err);
  lk_assert_same(logits + 2 * V, logits, 2, V, "the forks and their origins");
  for (size_t i = 0; i < 4; i++)
    assert_int_equal(leank_session_length(s.session, i), i % 2 ? 41 : 31);
  free(logits);
  lk_subject_close(&s);
}

/* A window beyond the context costs no more than the context. */
static void test_a_window_beyond_the_context_reserves_the_context(void **state) {
  fixture *f = *state;
  const leank_model_info *info = leank_model_get_info(f->c.model);
  leank_plan_options options;
  leank_plan_options_default(&options);
  options.n_ctx = 64;
  options.n_sink = 64;
  leank_plan plan[2];
  leank_error err = {0};
  leank_mask *mask = lk_setup_mask(&f->c, &f->setup);
  for (int i = 0; i < 2; i++) {
    options.n_recent = i ? (size_t)1 << 20 : 64;
    lk_assert_ok(leank_plan_make(info, mask, &options, &plan[i], &err), &err);
    assert_int_equal(plan[i].n_wide_pages, 1);
  }
  assert_int_equal(plan[1].prefill_scratch, plan[0].prefill_scratch);
  assert_true(plan[0].prefill_scratch < 8 * P * plan[0].bytes_per_wide_token);
  leank_mask_close(&mask);
}

static void test_a_description_that_is_no_model(void **state) {
  fixture *f = *state;
  leank_model_info info = *leank_model_get_info(f->c.model);
  leank_plan_options options;
  leank_plan plan;
  leank_error err = {0};
  leank_plan_options_default(&options);
  info.n_heads = 1;
  info.n_kv_heads = 2;
  assert_int_equal(leank_plan_make(&info, NULL, &options, &plan, &err), LEANK_E_ARGUMENT);
  info.n_heads = info.n_kv_heads = 0;
  assert_int_equal(leank_plan_make(&info, NULL, &options, &plan, &err), LEANK_E_ARGUMENT);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_a_context_that_ends_inside_a_page, set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_means_of_another_middle_are_refused, set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_forks_stepped_together_find_their_pages, set_up,
                                      tear_down),
      cmocka_unit_test_setup_teardown(test_a_window_beyond_the_context_reserves_the_context, set_up,
                                      tear_down),
      cmocka_unit_test_setup_teardown(test_a_description_that_is_no_model, set_up, tear_down),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
