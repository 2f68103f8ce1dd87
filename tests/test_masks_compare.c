/* leank_masks_compare: what its numbers must be where they are known, and what must not matter. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "support/hostile.h"
#include "support/learn_fixture.h"
#include "support/model_fixture.h"
#include "support/subject.h"

#define FOLDER LEANK_TEST_TMP "/masks-compare"

enum { N_MASKS = 5 };

typedef struct fixture {
  leank_model *model;
  leank_dataset *data;
  leank_mask *masks[N_MASKS]; /* all kept; half; half and means; one head empty, two policies */
  leank_compare_options options;
} fixture;

static fixture f;

/* ---- masks ---- */

static leank_mask_info info_for(const leank_model *model) {
  const leank_model_info *m = leank_model_get_info(model);
  leank_mask_info info;
  leank_mask_info_default(&info);
  info.n_layers = m->n_layers;
  info.n_kv_heads = m->n_kv_heads;
  info.head_dim = m->head_dim;
  info.n_sink = info.n_recent = 64;
  info.align = 1;
  return info;
}

static leank_mask *make_mask(int kind) {
  leank_mask_info info = info_for(f.model);
  const size_t d = info.head_dim, n = info.n_layers * info.n_kv_heads * d;
  uint8_t *kept = malloc(n);
  leank_mask *mask = NULL;
  leank_error err = {0};
  assert_non_null(kept);
  for (size_t i = 0; i < n; i++)
    kept[i] = kind == 0 || (kind < 3 ? (i * 7 + i / d) % 3 == 0 : i / d != 1);
  info.mean_compensation = kind == 2;
  info.policy = kind == 4 ? LEANK_POLICY_MEAN : LEANK_POLICY_DROP;
  lk_assert_ok(leank_mask_create(&info, kept, NULL, &mask, &err), &err);
  free(kept);
  return mask;
}

static int set_up(void **state) {
  (void)state;
  leank_error err = {0};
  f.model = lk_model_must_open(TINY "llama-plain.gguf");
  leank_dataset_options data = lk_learn_small().train;
  lk_assert_ok(leank_dataset_make(f.model, &data, &f.data, &err), &err);
  for (int i = 0; i < N_MASKS; i++) f.masks[i] = make_mask(i);
  leank_compare_options_default(&f.options);
  f.options.n_threads = 1;
  f.options.cpu = lk_test_cpu();
  return 0;
}

static int tear_down(void **state) {
  (void)state;
  for (int i = 0; i < N_MASKS; i++) leank_mask_close(&f.masks[i]);
  leank_dataset_close(&f.data);
  leank_model_close(&f.model);
  return 0;
}

static void compare(leank_mask *const *masks, size_t n, const leank_compare_options *options,
                    leank_mask_report *reports) {
  leank_error err = {0};
  const size_t before = hostile_mem_in_use();
  lk_assert_ok(leank_masks_compare(f.model, f.data, (const leank_mask *const *)masks, n, options,
                                   reports, &err),
               &err);
  assert_int_equal(hostile_mem_in_use(), before);
}

static void assert_reports_same(const leank_mask_report *a, const leank_mask_report *b) {
  assert_memory_equal(a, b, sizeof *a);
}

/* ---- numbers ---- */

static void test_everything_kept_is_the_dense_model(void **state) {
  (void)state;
  leank_mask_report r;
  compare(f.masks, 1, &f.options, &r);
  size_t n_rows = 0;
  for (size_t i = 0; i < leank_dataset_n_contexts(f.data); i++)
    for (size_t j = 0; j < 2; j++)
      n_rows += leank_dataset_get(f.data, i)->questions[j].n_answer - 1;
  assert_int_equal(r.n_prompts, 8);
  assert_int_equal(r.n_rows, n_rows);
  assert_true(r.kl_mean == 0 && r.kl_se == 0 && r.kl_p99 == 0);
  assert_true(r.hidden_error == 0 && r.hidden_se == 0 && r.top1 == 1);
  assert_true(r.accuracy == r.dense_accuracy && r.accuracy_se == r.dense_accuracy_se);
  assert_true(r.accuracy_change == 0 && r.accuracy_change_se == 0);
  assert_true(r.k_kept == 1 && r.v_kept == 1);
}

static void test_pruned_masks_differ(void **state) {
  (void)state;
  leank_mask_report r[N_MASKS];
  compare(f.masks, N_MASKS, &f.options, r);
  for (int i = 1; i < N_MASKS; i++) {
    assert_true(r[i].kl_mean > 0 && isfinite(r[i].kl_mean) && r[i].kl_se > 0);
    assert_true(r[i].kl_p99 >= r[i].kl_mean);
    assert_true(r[i].hidden_error > 0 && r[i].hidden_se > 0);
    assert_true(r[i].top1 > 0 && r[i].top1 < 1);
    assert_true(r[i].dense_accuracy == r[0].dense_accuracy);
    for (int j = 0; j < i; j++) assert_true(r[i].kl_mean != r[j].kl_mean);
  }
  assert_true(r[3].k_kept == 0.75 && r[3].v_kept == 0.75 && r[4].v_kept == 0.75);
  assert_true(fabs(r[1].k_kept - 1.0 / 3) < 0.02 && r[1].v_kept == 1);
}

static void test_every_mask_speaks_for_itself(void **state) {
  (void)state;
  leank_mask_report together[N_MASKS], reversed[N_MASKS], alone;
  leank_mask *backwards[N_MASKS];
  for (int i = 0; i < N_MASKS; i++) backwards[i] = f.masks[N_MASKS - 1 - i];
  compare(f.masks, N_MASKS, &f.options, together);
  compare(backwards, N_MASKS, &f.options, reversed);
  for (int i = 0; i < N_MASKS; i++) {
    assert_reports_same(&together[i], &reversed[N_MASKS - 1 - i]);
    compare(&f.masks[i], 1, &f.options, &alone);
    assert_reports_same(&together[i], &alone);
  }
}

static void test_threads_chunks_and_folders_do_not_matter(void **state) {
  (void)state;
  leank_mask_report want[N_MASKS], r[N_MASKS];
  compare(f.masks, N_MASKS, &f.options, want);
  for (int way = 0; way < 5; way++) {
    leank_compare_options o = f.options;
    if (way < 2) o.n_threads = (size_t)way + 2;
    if (way == 2) o.prefill_chunk = 64;
    if (way > 2) o.cache_folder = FOLDER; /* written, then mapped */
    if (way == 3) lk_folder_empty(FOLDER);
    compare(f.masks, N_MASKS, &o, r);
    for (int i = 0; i < N_MASKS; i++) assert_reports_same(&want[i], &r[i]);
  }
  assert_int_equal(lk_folder_count(FOLDER, NULL), leank_dataset_n_contexts(f.data));
}

static void test_sink_and_recent_can_be_set(void **state) {
  (void)state;
  leank_mask_report own, more, all;
  leank_compare_options o = f.options;
  compare(&f.masks[1], 1, &o, &own);
  o.n_recent = 192;
  compare(&f.masks[1], 1, &o, &more);
  o.n_sink = 64 * 64; /* no middle is left */
  compare(&f.masks[1], 1, &o, &all);
  assert_true(own.hidden_error != more.hidden_error && more.hidden_error > 0);
  assert_true(all.hidden_error == 0 && all.kl_mean == 0);
  o = f.options;
  o.n_sink = o.n_recent = 64; /* as the mask says */
  compare(&f.masks[1], 1, &o, &all);
  assert_reports_same(&own, &all);
}

/* ---- refused ---- */

static void refused(const leank_model *model, const leank_dataset *data,
                    const leank_mask *const *masks, size_t n, const leank_compare_options *o,
                    leank_status want, const char *part) {
  leank_mask_report r[N_MASKS], before[N_MASKS];
  leank_error err = {0};
  memset(r, 0x5a, sizeof r);
  memcpy(before, r, sizeof r);
  const size_t in_use = hostile_mem_in_use();
  const leank_status status = leank_masks_compare(model, data, masks, n, o, r, &err);
  if (status != want || !strstr(err.message, part))
    fail_msg("status %d (%s), expected %d with \"%s\"", status, err.message, want, part);
  assert_int_equal(err.code, want);
  assert_int_equal(hostile_mem_in_use(), in_use);
  assert_memory_equal(r, before, sizeof r);
}

static void test_bad_calls_are_refused(void **state) {
  (void)state;
  const leank_mask *const *masks = (const leank_mask *const *)f.masks;
  leank_compare_options o = f.options;
  refused(f.model, f.data, masks, 0, &o, LEANK_E_ARGUMENT, "no mask");
  o.struct_size = 8;
  refused(f.model, f.data, masks, 1, &o, LEANK_E_ARGUMENT, "leank_compare_options_default");
  o = f.options;
  o.n_sink = 65;
  refused(f.model, f.data, masks, 1, &o, LEANK_E_ARGUMENT, "multiple of 64");
  o.n_sink = SIZE_MAX - 63; /* with the recent tokens it would wrap around */
  refused(f.model, f.data, masks, 1, &o, LEANK_E_ARGUMENT, "at most");
  o = f.options;
  o.n_recent = SIZE_MAX - 1;
  refused(f.model, f.data, masks, 1, &o, LEANK_E_ARGUMENT, "at most");
  o = f.options;
  o.kv_type = (leank_kv_type)7;
  refused(f.model, f.data, masks, 1, &o, LEANK_E_ARGUMENT, "type of K and V");
  o.kv_type = LEANK_KV_Q8;
  refused(f.model, f.data, masks, 1, &o, LEANK_E_ARGUMENT, "not in int8");
  o = f.options;
  o.cache_folder = FOLDER "/no/such";
  refused(f.model, f.data, masks, 1, &o, LEANK_E_IO, "no/such");
}

static void test_another_models_mask_or_data_are_refused(void **state) {
  (void)state;
  leank_model *wide = lk_model_must_open(TINY "llama-mixed.gguf"); /* 64 channels, 320 tokens */
  leank_error err = {0};
  const leank_mask *both[] = {f.masks[0], NULL};
  leank_mask_info info = info_for(wide);
  uint8_t *kept = calloc(info.n_layers * info.n_kv_heads * info.head_dim, 1);
  leank_mask *other = NULL;
  leank_dataset *data = NULL;
  assert_non_null(kept);
  lk_assert_ok(leank_mask_create(&info, kept, NULL, &other, &err), &err);
  both[1] = other;
  refused(f.model, f.data, both, 2, &f.options, LEANK_E_MISMATCH, "head dim");
  leank_dataset_options options = lk_learn_small().train;
  lk_assert_ok(leank_dataset_make(wide, &options, &data, &err), &err);
  leank_context *c = (leank_context *)(uintptr_t)leank_dataset_get(data, 0);
  ((leank_token *)(uintptr_t)c->tokens)[7] = 319; /* whatever its tokenizer made of the text */
  refused(f.model, data, both, 1, &f.options, LEANK_E_MISMATCH, "data set");
  free(kept);
  leank_mask_close(&other);
  leank_dataset_close(&data);
  leank_model_close(&wide);
}

typedef struct patience {
  size_t left, n_asked;
} patience;

static bool should_stop(void *user) {
  patience *p = user;
  p->n_asked++;
  if (p->left == 0) return true;
  p->left--;
  return false;
}

static void test_it_stops_when_asked(void **state) {
  (void)state;
  patience p = {SIZE_MAX, 0};
  leank_compare_options o = f.options;
  leank_mask_report r[N_MASKS];
  o.should_stop = should_stop;
  o.user = &p;
  compare(f.masks, N_MASKS, &o, r);
  const size_t n = p.n_asked, n_tries = LK_SLOW_RUNS ? 6 : 40;
  assert_true(n >= 4 * (N_MASKS + 2)); /* contexts: while read, before every mask */
  for (size_t after = 0; after < n; after += (n + n_tries - 1) / n_tries) {
    p = (patience){after, 0};
    refused(f.model, f.data, (const leank_mask *const *)f.masks, N_MASKS, &o, LEANK_E_INTERRUPTED,
            "interrupted");
    assert_int_equal(p.n_asked, after + 1);
  }
}

static void on_progress(void *user, uint64_t done, uint64_t total) {
  uint64_t *last = user;
  assert_true(done >= *last && done <= total && total > 0);
  *last = done;
}

static void test_progress_rises_to_the_end(void **state) {
  (void)state;
  uint64_t last = 0;
  leank_compare_options o = f.options;
  leank_mask_report r;
  o.on_progress = on_progress;
  o.user = &last;
  compare(f.masks, 1, &o, &r);
  assert_int_equal(last, 4000);
}

static void test_every_failed_allocation(void **state) {
  (void)state;
  leank_mask_report r[2];
  leank_error err;
  size_t n_failed = 0, before = hostile_mem_in_use();
  leank_status status = LEANK_E_MEMORY;
  for (size_t nth = 1; status != LEANK_OK; nth += nth < 60 ? 1 : LK_SLOW_RUNS ? 31 : 7) {
    lk_alloc_fail_nth(nth);
    status = leank_masks_compare(f.model, f.data, (const leank_mask *const *)f.masks, 2, &f.options,
                                 r, &err);
    const bool failed = status != LEANK_OK;
    lk_alloc_fail_nth(0);
    if (failed) assert_int_equal(status, LEANK_E_MEMORY);
    n_failed += failed;
    assert_int_equal(hostile_mem_in_use(), before);
  }
  assert_true(n_failed > 60);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_everything_kept_is_the_dense_model),
      cmocka_unit_test(test_pruned_masks_differ),
      cmocka_unit_test(test_every_mask_speaks_for_itself),
      cmocka_unit_test(test_threads_chunks_and_folders_do_not_matter),
      cmocka_unit_test(test_sink_and_recent_can_be_set),
      cmocka_unit_test(test_bad_calls_are_refused),
      cmocka_unit_test(test_another_models_mask_or_data_are_refused),
      cmocka_unit_test(test_it_stops_when_asked),
      cmocka_unit_test(test_progress_rises_to_the_end),
      cmocka_unit_test(test_every_failed_allocation),
  };
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
