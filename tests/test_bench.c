/* The benchmarks without a model: bytes against plan and segments, caches that hold what they
 * should, what is read before anything is read again, refusals, interruption, the failure of every
 * single allocation. No speed: see bench/. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <leank/bench.h>
#include <leank/cpu.h>

#include "base/alloc.h"
#include "bench/bench_caches.h"
#include "bench/random_weights.h"
#include "cpu/cpu_features.h"
#include "kernels/dequant/dequant.h"
#include "kernels/read/read.h"
#include "support/hostile.h"
#include "support/subject.h"

enum { L = 5, HQ = 6, HK = 3, D = 32, P = LEANK_PAGE_TOKENS, N_SINK = 64, N_RECENT = 100 };

static leank_bench_options small_options(void) {
  leank_bench_options o;
  leank_bench_options_default(&o);
  o.n_threads = 2;
  o.cpu = lk_test_cpu();
  o.n_repeats = 2;
  o.rotate_bytes = 1 << 20;
  return o;
}

static leank_bench_shape small_shape(size_t n_tokens, size_t n_seqs) {
  leank_bench_shape s;
  leank_bench_shape_default(&s);
  s.n_layers = L;
  s.n_heads = HQ;
  s.n_kv_heads = HK;
  s.head_dim = D;
  s.n_tokens = n_tokens;
  s.n_seqs = n_seqs;
  return s;
}

/* Layer l's head h keeps ((l + h) * 7 + l) % (D + 1) channels: none and all among them. */
static size_t kept_of(size_t l, size_t h) { return ((l + h) * 7 + l) % (D + 1); }

static leank_mask *make_mask(void) {
  leank_mask_info info;
  uint8_t kept[L][HK][D] = {{{0}}};
  leank_mask *mask = NULL;
  leank_error err = {0};
  leank_mask_info_default(&info);
  info.n_layers = L;
  info.n_kv_heads = HK;
  info.head_dim = D;
  info.n_sink = N_SINK;
  info.n_recent = N_RECENT;
  for (size_t l = 0; l < L; l++)
    for (size_t h = 0; h < HK; h++) memset(kept[l][h], 1, kept_of(l, h));
  if (leank_mask_create(&info, &kept[0][0][0], NULL, &mask, &err) != LEANK_OK)
    fail_msg("%s", err.message);
  return mask;
}

static leank_model_info model_info(void) {
  leank_model_info info = {.n_layers = L,
                           .n_heads = HQ,
                           .n_kv_heads = HK,
                           .head_dim = D,
                           .hidden = HQ * D,
                           .ffn = 64,
                           .n_vocab = 97,
                           .n_ctx_train = 1 << 20};
  snprintf(info.architecture, sizeof info.architecture, "llama");
  return info;
}

/* ---- bytes ---- */

/* What the headers say, by hand: whole lean pages, and the tokens of wide ones. */
static size_t layer_bytes(leank_kv_type type, size_t layer, size_t n_lean, size_t n_wide_tokens) {
  size_t n = 0;
  for (size_t h = 0; h < HK; h++) {
    const size_t kept = kept_of(layer, h), granule = type == LEANK_KV_Q8 ? 4 : 2,
                 padded = (kept + granule - 1) / granule * granule;
    n += n_wide_tokens *
         (lk_segment_k_bytes(type, LK_PAGE_WIDE, D) + lk_segment_v_bytes(type, LK_PAGE_WIDE, D)) /
         P;
    if (kept > 0)
      n += n_lean * (lk_segment_k_bytes(type, LK_PAGE_LEAN, padded) +
                     lk_segment_v_bytes(type, LK_PAGE_LEAN, D));
  }
  return n;
}

static void check_bytes(const leank_mask *mask, leank_kv_type type, size_t n_tokens,
                        size_t n_seqs) {
  const leank_bench_options options = small_options();
  const leank_model_info info = model_info();
  leank_bench_shape shape = small_shape(n_tokens, n_seqs);
  const leank_bench_cache caches[] = {{NULL, LEANK_BENCH_DENSE}, {mask, 0}};
  leank_bench_attention_result results[2];
  leank_bench_layer layers[2][L];
  leank_plan_options plan_options;
  leank_plan plan;
  leank_error err = {0};
  shape.kv_type = type;
  if (leank_bench_attention(&options, &shape, caches, 2, results, layers[0], &err) != LEANK_OK)
    fail_msg("%s", err.message);
  leank_plan_options_default(&plan_options);
  plan_options.n_ctx = n_tokens;
  plan_options.n_seqs = n_seqs;
  plan_options.kv_type = type;
  assert_int_equal(leank_plan_make(&info, mask, &plan_options, &plan, &err), LEANK_OK);
  assert_int_equal(results[0].n_bytes, plan.dense_stored);
  assert_int_equal(results[1].n_bytes, plan.wide_stored + plan.lean_stored);
  for (size_t l = 0; l < L; l++) {
    assert_int_equal(layers[0][l].n_bytes, plan.dense_stored / L);
    assert_int_equal(layers[0][l].n_kept, HK * D);
    assert_int_equal(layers[1][l].n_bytes,
                     n_seqs * layer_bytes(type, l, plan.n_lean_tokens / P, plan.n_wide_tokens));
    assert_int_equal(layers[1][l].n_kept, kept_of(l, 0) + kept_of(l, 1) + kept_of(l, 2));
  }
}

static void test_bytes_are_those_of_plan_and_segments(void **state) {
  (void)state;
  leank_mask *mask = make_mask();
  const size_t lengths[] = {1, 63, 64, 65, N_SINK + N_RECENT, N_SINK + N_RECENT + P, 1000, 1024};
  for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
    check_bytes(mask, LEANK_KV_BF16, lengths[i], 1);
    check_bytes(mask, LEANK_KV_F32, lengths[i], 3);
    check_bytes(mask, LEANK_KV_Q8, lengths[i], 2);
  }
  leank_mask_close(&mask);
}

/* ---- results ---- */

static void test_results_are_whole(void **state) {
  (void)state;
  leank_mask *mask = make_mask();
  const leank_bench_options options = small_options();
  const leank_bench_shape shape = small_shape(1024, 2);
  const leank_bench_cache caches[] = {
      {mask, 0}, {NULL, LEANK_BENCH_DENSE}, {NULL, 0}, {NULL, 10}, {NULL, D}};
  enum { N = sizeof caches / sizeof *caches };
  leank_bench_attention_result r[N];
  leank_bench_layer layers[N][L];
  leank_error err = {0};
  leank_cpu_info cpu;
  char line[80];
  if (leank_bench_attention(&options, &shape, caches, N, r, layers[0], &err) != LEANK_OK)
    fail_msg("%s", err.message);
  assert_int_equal(leank_cpu_describe(options.cpu, shape.kv_type, &cpu, &err), LEANK_OK);
  for (size_t i = 0; i < N; i++) {
    double sum = 0, least = 0;
    size_t bytes = 0;
    for (size_t l = 0; l < L; l++) {
      assert_true(layers[i][l].min_seconds > 0);
      assert_true(layers[i][l].min_seconds <= layers[i][l].seconds);
      sum += layers[i][l].seconds;
      least += layers[i][l].min_seconds;
      bytes += layers[i][l].n_bytes;
    }
    assert_true(fabs(sum - r[i].seconds) <= L * DBL_EPSILON * sum);
    assert_true(fabs(least - r[i].min_seconds) <= L * DBL_EPSILON * least);
    assert_int_equal(bytes, r[i].n_bytes);
    assert_true(r[i].n_samples >= options.n_repeats);
    snprintf(line, sizeof line, "attend: %s\n", r[i].kernel);
    assert_non_null(strstr(cpu.kernels, line));
  }
  /* All channels in lean pages are the bytes of the dense cache; fewer are fewer. */
  assert_int_equal(r[4].n_bytes, r[1].n_bytes);
  assert_true(r[2].n_bytes < r[3].n_bytes && r[3].n_bytes < r[4].n_bytes);
  leank_mask_close(&mask);
}

static void test_products_are_whole(void **state) {
  (void)state;
  const leank_bench_options options = small_options();
  const size_t rows[] = {1, 3, 9};
  leank_bench_matvec_result r[3];
  leank_error err = {0};
  size_t n_types = 0;
  for (const char *type; (type = leank_bench_weight_type(n_types)); n_types++) {
    const leank_bench_matrix m = {sizeof m, type, 70, 512};
    if (leank_bench_matvec(&options, &m, rows, 3, r, &err) != LEANK_OK) fail_msg("%s", err.message);
    for (size_t i = 0; i < 3; i++) {
      assert_int_equal(r[i].n_rows, rows[i]);
      assert_int_equal(r[i].n_bytes, lk_dtype_bytes((lk_dtype)n_types, 70 * 512));
      assert_int_equal(r[i].n_samples,
                       options.n_repeats * (options.rotate_bytes / r[i].n_bytes + 1));
      assert_true(r[i].min_seconds > 0 && r[i].min_seconds <= r[i].seconds);
      assert_true(strncmp(r[i].kernel, "matvec_", 7) == 0);
    }
  }
  assert_int_equal(n_types, LK_N_DTYPES);
}

static void test_reading_reports_its_best(void **state) {
  (void)state;
  const leank_bench_options options = small_options();
  leank_bench_read_result r;
  leank_error err = {0};
  if (leank_bench_read(&options, &r, &err) != LEANK_OK) fail_msg("%s", err.message);
  assert_true(r.n_bytes >= options.rotate_bytes);
  assert_int_equal(r.n_threads, 2);
  assert_int_equal(r.n_patterns, 8);
  for (size_t i = 0; i < r.n_patterns; i++) {
    assert_true(r.patterns[i].bytes_per_second > 0);
    assert_true(r.patterns[i].bytes_per_second <= r.patterns[i].most_bytes_per_second);
    assert_true(r.patterns[i].bytes_per_second <= r.patterns[r.best].bytes_per_second);
    assert_string_equal(r.patterns[i].kernel, lk_read_select(options.cpu)->name);
  }
}

/* ---- what is read ---- */

/* Every variant reads every word, once. */
static void test_read_kernels_agree(void **state) {
  (void)state;
  enum { N_TURNS = 8 * 40, N = N_TURNS * LK_READ_TURN };
  unsigned char *data = lk_alloc(LK_MEM_OTHER, N, 1);
  assert_non_null(data);
  lk_rng rng = {7};
  uint64_t want = 0;
  for (size_t i = 0; i < N; i += 8) {
    const uint64_t x = lk_rng_u64(&rng);
    memcpy(data + i, &x, 8);
    want ^= x;
  }
  for (const lk_read_variant *v = lk_read_variants; v->name; v++)
    for (size_t streams = 1; v->level <= lk_cpu_detect() && streams <= 8; streams *= 2)
      for (int prefetch = 0; prefetch < 2; prefetch++)
        if (v->fn(data, N, streams, prefetch) != want)
          fail_msg("%s with %zu streams", v->name, streams);
  lk_free(data);
}

static void test_runs_cover_the_layers_and_rotate(void **state) {
  (void)state;
  leank_mask *mask = make_mask();
  const leank_bench_shape shape = small_shape(1024, 1);
  const leank_bench_cache caches[] = {{mask, 0}, {NULL, LEANK_BENCH_DENSE}};
  const size_t rotates[] = {0, 1, 200000, 1000000, 3000000};
  for (size_t i = 0; i < 2 * sizeof rotates / sizeof *rotates; i++) {
    lk_bench_side side;
    leank_error err = {0};
    const size_t rotate = rotates[i / 2];
    assert_int_equal(lk_bench_side_open(&shape, &caches[i % 2], LEANK_DEVICE_CPU, &side, &err),
                     LEANK_OK);
    size_t next = 0;
    while (next < side.n_distinct) {
      size_t bytes = 0, last = 0;
      assert_int_equal(lk_bench_side_choose(&side, next, rotate, &err), LEANK_OK);
      assert_int_equal(side.first, next);
      assert_true(side.n_layers >= 1 && side.n_slots >= side.n_layers);
      for (size_t s = 0; s < side.n_slots; s++)
        bytes += last = lk_bench_layer_bytes(&side, lk_bench_slot_layer(&side, s));
      assert_true(bytes >= rotate);
      assert_true(side.n_slots == side.n_layers || bytes - last < rotate);
      next += side.n_layers;
    }
    assert_int_equal(next, i % 2 ? 1 : L);
    lk_bench_side_close(NULL, &side);
  }
  leank_mask_close(&mask);
}

static void attend_slot(lk_backend *be, const lk_bench_side *side, size_t slot, const float *q,
                        float *out) {
  leank_error err = {0};
  assert_int_equal(be->ops->attend(be, LK_LINEAR_FEW, &side->geometry.shape, &side->views[slot],
                                   &side->rows, 0, side->n_seqs, q, out, &err),
                   LEANK_OK);
}

/* Lean pages of all channels hold what wide pages hold, bit for bit, so a cache of them must attend
 * as a dense one does, in every slot. */
static void test_caches_hold_the_same_tokens(void **state) {
  (void)state;
  enum { T = 1000, B = 2, N = B * HQ * D };
  const leank_bench_shape shape = small_shape(T, B);
  const leank_bench_cache caches[] = {{NULL, LEANK_BENCH_DENSE}, {NULL, D}};
  const lk_backend_options backend = {.kv_type = LEANK_KV_BF16,
                                      .n_threads = 2,
                                      .cpu = lk_test_cpu(),
                                      .max_few_rows = B,
                                      .max_pages = lk_pages_of(T),
                                      .shape = {.n_heads = HQ, .n_kv_heads = HK, .head_dim = D}};
  float q[N], want[N], got[N];
  lk_bench_side sides[2];
  lk_random_pages source = {0};
  lk_bench_run run;
  lk_backend *be = NULL;
  lk_rng rng = {5};
  leank_error err = {0};
  lk_rng_fill(&rng, q, N);
  assert_int_equal(lk_bench_begin(NULL, &run, &err), LEANK_OK);
  assert_int_equal(lk_backend_open_cpu(&backend, &be, &err), LEANK_OK);
  for (size_t i = 0; i < 2; i++) {
    assert_int_equal(lk_bench_side_open(&shape, &caches[i], LEANK_DEVICE_CPU, &sides[i], &err),
                     LEANK_OK);
    if (i == 0)
      assert_int_equal(lk_random_pages_open(be, &sides[0].geometry, &source, &err), LEANK_OK);
    assert_int_equal(lk_bench_side_choose(&sides[i], 0, 2000000, &err), LEANK_OK);
    assert_int_equal(lk_bench_side_fill(be, &source, &sides[i], &run, &err), LEANK_OK);
    assert_true(sides[i].n_slots >= 2);
  }
  assert_true(sides[1].n_lean > 0 && sides[0].n_lean == 0);
  attend_slot(be, &sides[0], 0, q, want);
  double largest = 0;
  for (size_t i = 0; i < N; i++) {
    assert_true(isfinite(want[i]));
    largest = fmax(largest, fabs((double)want[i]));
  }
  assert_true(largest > 0);
  assert_memory_not_equal(want, want + D, D * sizeof(float));
  for (size_t i = 0; i < 2; i++)
    for (size_t s = 0; s < sides[i].n_slots; s++) {
      attend_slot(be, &sides[i], s, q, got);
      assert_memory_equal(got, want, sizeof want);
    }
  lk_random_pages_close(be, &source);
  for (size_t i = 0; i < 2; i++) lk_bench_side_close(be, &sides[i]);
  be->ops->close(be);
}

static void test_random_weights_are_finite(void **state) {
  (void)state;
  enum { N = 4096 };
  static float values[N];
  lk_rng rng = {6};
  for (int t = 0; t < LK_N_DTYPES; t++) {
    unsigned char *data = lk_alloc(LK_MEM_OTHER, lk_dtype_bytes((lk_dtype)t, N), 1);
    assert_non_null(data);
    lk_random_weights((lk_dtype)t, N, &rng, data);
    lk_dequant_select((lk_dtype)t, LEANK_CPU_C)->to_f32(data, N, values);
    size_t n_zeros = 0;
    for (size_t i = 0; i < N; i++) {
      if (!(fabsf(values[i]) <= 64)) fail_msg("%s: %g", lk_dtype_name((lk_dtype)t), values[i]);
      n_zeros += values[i] == 0;
    }
    assert_true(n_zeros < N / 4);
    lk_free(data);
  }
}

/* ---- refusals ---- */

static void refused(const leank_bench_options *options, const leank_bench_shape *shape,
                    const leank_bench_cache *cache, leank_status status, const char *part) {
  leank_bench_attention_result r;
  leank_error err = {0};
  const size_t before = hostile_mem_in_use();
  const leank_status got = leank_bench_attention(options, shape, cache, 1, &r, NULL, &err);
  if (got != status || !strstr(err.message, part))
    fail_msg("status %d (%s), expected %d with \"%s\"", got, err.message, status, part);
  leank_error checked = {0};
  assert_int_equal(leank_bench_attention_check(options, shape, cache, 1, &checked), status);
  assert_non_null(strstr(checked.message, part));
  assert_int_equal(hostile_mem_in_use(), before);
}

#define SHAPE_REFUSED(change, status, part)                                                        \
  do {                                                                                             \
    leank_bench_shape s = small_shape(128, 1);                                                     \
    s.change;                                                                                      \
    refused(&options, &s, &dense, (status), (part));                                               \
  } while (0)
#define OPTIONS_REFUSED(change, part)                                                              \
  do {                                                                                             \
    leank_bench_options o = options;                                                               \
    o.change;                                                                                      \
    refused(&o, &shape, &dense, LEANK_E_ARGUMENT, (part));                                         \
  } while (0)

static void test_what_is_not_possible(void **state) {
  (void)state;
  leank_mask *mask = make_mask();
  const leank_bench_options options = small_options();
  const leank_bench_shape shape = small_shape(128, 1);
  const leank_bench_cache dense = {NULL, LEANK_BENCH_DENSE}, wide = {NULL, D + 1}, own = {mask, 0};
  OPTIONS_REFUSED(struct_size = 1, "leank_bench_options_default");
  OPTIONS_REFUSED(n_threads = 5000, "threads");
  OPTIONS_REFUSED(n_repeats = 0, "repeats");
  OPTIONS_REFUSED(cpu = (leank_cpu_level)99, "CPU level");
  OPTIONS_REFUSED(rotate_bytes = SIZE_MAX, "rotating");
  OPTIONS_REFUSED(rotate_bytes = (size_t)1 << 49, "copies");
  assert_int_equal(leank_bench_attention_check(&options, &shape, &own, 1, NULL), LEANK_OK);
  SHAPE_REFUSED(struct_size = 1, LEANK_E_ARGUMENT, "leank_bench_shape_default");
  SHAPE_REFUSED(n_layers = 0, LEANK_E_ARGUMENT, "layers");
  SHAPE_REFUSED(n_heads = 4, LEANK_E_ARGUMENT, "query heads");
  SHAPE_REFUSED(n_kv_heads = 0, LEANK_E_ARGUMENT, "kv heads");
  SHAPE_REFUSED(head_dim = 31, LEANK_E_ARGUMENT, "31 channels");
  SHAPE_REFUSED(n_tokens = 0, LEANK_E_ARGUMENT, "context");
  SHAPE_REFUSED(n_seqs = 0, LEANK_E_ARGUMENT, "sequences");
  SHAPE_REFUSED(kv_type = (leank_kv_type)77, LEANK_E_ARGUMENT, "cache type");
  leank_bench_shape huge = small_shape((size_t)1 << 24, 1); /* 6.6 TB a layer */
  huge.head_dim = 1 << 15;
  refused(&options, &huge, &dense, LEANK_E_MEMORY, "are free");
  refused(&options, &shape, &wide, LEANK_E_ARGUMENT, "33 kept channels of 32");
  leank_bench_shape other = shape;
  other.n_layers = L + 1;
  refused(&options, &other, &own, LEANK_E_MISMATCH, "mask is for 5 layers");
  leank_mask_close(&mask);
}

static void test_matrices_that_are_not_possible(void **state) {
  (void)state;
  const leank_bench_options options = small_options();
  const leank_bench_matrix cases[] = {{1, "F32", 8, 256},
                                      {sizeof *cases, "Q9_X", 8, 256},
                                      {sizeof *cases, "F32", 0, 256},
                                      {sizeof *cases, "F32", 8, 255},
                                      {sizeof *cases, "F32", 8, 0}};
  const size_t rows[] = {1, LEANK_BENCH_MAX_ROWS + 1};
  leank_bench_matrix good;
  leank_bench_matvec_result r[2];
  leank_error err;
  leank_bench_matrix_default(&good);
  assert_true(strcmp(good.type, "Q4_K") == 0 && good.n_out == 8192 && good.n_in == 4096);
  good.type = "q4_k";
  good.n_out = 8;
  good.n_in = 256;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    assert_int_equal(leank_bench_matvec(&options, &cases[i], rows, 1, r, &err), LEANK_E_ARGUMENT);
  assert_int_equal(leank_bench_matvec(&options, &good, rows, 2, r, &err), LEANK_E_ARGUMENT);
  assert_int_equal(leank_bench_matvec(&options, &good, rows, 0, r, &err), LEANK_E_ARGUMENT);
  assert_int_equal(leank_bench_matvec(&options, &good, rows, 1, r, &err), LEANK_OK);
}

/* ---- progress and interruption ---- */

typedef struct watch {
  uint64_t last, total, n_calls, stop_at;
} watch;

static void on_progress(void *user, uint64_t done, uint64_t total) {
  watch *w = user;
  assert_int_equal(done, w->last + 1);
  assert_true(w->n_calls == 0 || total == w->total);
  w->last = done;
  w->total = total;
  w->n_calls++;
}

static bool should_stop(void *user) {
  const watch *w = user;
  return w->stop_at && w->n_calls >= w->stop_at;
}

static leank_status run_case(int which, const leank_bench_options *o, const leank_mask *mask,
                             leank_error *err) {
  const leank_bench_shape shape = small_shape(500, 1);
  const leank_bench_cache caches[] = {{NULL, LEANK_BENCH_DENSE}, {mask, 0}, {NULL, 8}};
  const leank_bench_matrix matrix = {sizeof matrix, "Q6_K", 40, 256};
  const size_t rows[] = {1, 2};
  leank_bench_attention_result attention[3];
  leank_bench_matvec_result matvec[2];
  leank_bench_read_result read;
  if (which == 0) return leank_bench_attention(o, &shape, caches, 3, attention, NULL, err);
  if (which == 1) return leank_bench_matvec(o, &matrix, rows, 2, matvec, err);
  return leank_bench_read(o, &read, err);
}

static void test_progress_ends_at_its_total(void **state) {
  (void)state;
  leank_mask *mask = make_mask();
  for (int which = 0; which < 3; which++) {
    watch w = {0};
    leank_bench_options o = small_options();
    leank_error err = {0};
    o.rotate_bytes = 300000; /* several runs of the mask's layers */
    o.on_progress = on_progress;
    o.user = &w;
    assert_int_equal(run_case(which, &o, mask, &err), LEANK_OK);
    assert_true(w.n_calls > 0);
    assert_int_equal(w.last, w.total);
  }
  leank_mask_close(&mask);
}

static void test_interruption(void **state) {
  (void)state;
  leank_mask *mask = make_mask();
  for (int which = 0; which < 3; which++)
    for (uint64_t at = 1; at <= 13; at += 4) {
      watch w = {.stop_at = at};
      leank_bench_options o = small_options();
      leank_error err = {0};
      const size_t before = hostile_mem_in_use();
      o.on_progress = on_progress;
      o.should_stop = should_stop;
      o.user = &w;
      assert_int_equal(run_case(which, &o, mask, &err), LEANK_E_INTERRUPTED);
      assert_int_equal(w.n_calls, at);
      assert_int_equal(hostile_mem_in_use(), before);
    }
  leank_mask_close(&mask);
}

static void test_every_allocation_may_fail(void **state) {
  (void)state;
  leank_mask *mask = make_mask();
  for (int which = 0; which < 3; which++) {
    leank_bench_options o = small_options();
    const size_t before = hostile_mem_in_use();
    leank_status status = LEANK_E_MEMORY;
    size_t nth = 0;
    o.rotate_bytes = 300000;
    while (status != LEANK_OK) {
      leank_error err = {0};
      lk_alloc_fail_nth(++nth);
      status = run_case(which, &o, mask, &err);
      lk_alloc_fail_nth(0);
      if (status != LEANK_OK && status != LEANK_E_MEMORY) fail_msg("%d %s", status, err.message);
      assert_int_equal(hostile_mem_in_use(), before);
    }
    assert_true(nth > 3);
  }
  leank_mask_close(&mask);
}

/* ---- the machine ---- */

static void test_the_machine_is_described(void **state) {
  (void)state;
  leank_cpu_info cpu;
  leank_error err = {0};
  for (int level = LEANK_CPU_C; level <= (int)lk_cpu_detect(); level++) {
    const char *name = leank_cpu_level_name((leank_cpu_level)level);
    if (!name) continue;
    assert_int_equal(leank_cpu_describe((leank_cpu_level)level, LEANK_KV_BF16, &cpu, &err),
                     LEANK_OK);
    assert_int_equal(cpu.level, level);
    assert_int_equal(cpu.detected, lk_cpu_detect());
    assert_true(cpu.free_bytes > 0);
    assert_true(cpu.n_processors >= 1 && cpu.n_features <= LEANK_CPU_MAX_FEATURES);
    assert_non_null(strstr(cpu.kernels, "attend: attend_bf16_"));
    assert_non_null(strstr(cpu.kernels, "matvec Q4_K: matvec_"));
  }
#if defined(__x86_64__)
  /* The level follows from the extensions. */
  bool avx2 = false;
  for (size_t i = 0; i < cpu.n_features; i++)
    if (strcmp(cpu.features[i].name, "avx2") == 0)
      avx2 = cpu.features[i].processor && cpu.features[i].system;
  assert_true(avx2 || cpu.detected == LEANK_CPU_C);
#endif
  assert_int_equal(leank_cpu_describe((leank_cpu_level)99, LEANK_KV_BF16, &cpu, &err),
                   LEANK_E_ARGUMENT);
  assert_int_equal(leank_cpu_describe(LEANK_CPU_BEST, (leank_kv_type)77, &cpu, &err),
                   LEANK_E_ARGUMENT);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_bytes_are_those_of_plan_and_segments),
      cmocka_unit_test(test_results_are_whole),
      cmocka_unit_test(test_products_are_whole),
      cmocka_unit_test(test_reading_reports_its_best),
      cmocka_unit_test(test_read_kernels_agree),
      cmocka_unit_test(test_runs_cover_the_layers_and_rotate),
      cmocka_unit_test(test_caches_hold_the_same_tokens),
      cmocka_unit_test(test_random_weights_are_finite),
      cmocka_unit_test(test_what_is_not_possible),
      cmocka_unit_test(test_matrices_that_are_not_possible),
      cmocka_unit_test(test_progress_ends_at_its_total),
      cmocka_unit_test(test_interruption),
      cmocka_unit_test(test_every_allocation_may_fail),
      cmocka_unit_test(test_the_machine_is_described),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
