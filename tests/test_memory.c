/* The memory plan against the published figures, a session against its plan, decode steps that
 * allocate nothing, and the failure of every single allocation. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "cpu/cpu_features.h"
#include "support/subject.h"

enum { V = 97, P = LEANK_PAGE_TOKENS };

/* ---- calls of the C allocator, counted where no sanitizer has taken its place ---- */

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) &&       \
    !defined(SANITIZED)
#define COUNTS_MALLOC 1
#include <stdatomic.h>
static _Atomic size_t n_mallocs;
void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t n);
void *__libc_memalign(size_t alignment, size_t n);
void *malloc(size_t n) {
  atomic_fetch_add(&n_mallocs, 1);
  return __libc_malloc(n);
}
void *calloc(size_t n, size_t size) {
  atomic_fetch_add(&n_mallocs, 1);
  return __libc_calloc(n, size);
}
void *realloc(void *p, size_t n) {
  atomic_fetch_add(&n_mallocs, 1);
  return __libc_realloc(p, n);
}
void *aligned_alloc(size_t alignment, size_t n) {
  atomic_fetch_add(&n_mallocs, 1);
  return __libc_memalign(alignment, n);
}
static size_t malloc_count(void) { return atomic_load(&n_mallocs); }
#else
#define COUNTS_MALLOC 0
static size_t malloc_count(void) { return 0; }
#endif

/* ---- plans of the published shapes ---- */

typedef struct published {
  const char *name;
  size_t n_layers, n_heads, n_kv_heads, hidden, ffn, n_vocab;
  size_t n_with[5]; /* kv heads that keep 0, 32, 64, 96, 128 channels */
  size_t lean_bytes, dense_bytes;
  double k_kept, v_kept;
} published;

static const published llama = {"llama", 32,     8 * 4,  8,
                                4096,    14336,  128256, {47, 120, 67, 22, 0},
                                73984,   131072, 0.3125, 209.0 / 256};
static const published qwen = {
    "qwen2", 28, 28, 4, 3584, 18944, 152064, {35, 34, 33, 10, 0}, 28032, 57344, 0.290, 77.0 / 112};

static leank_model_info published_info(const published *p) {
  leank_model_info info = {0};
  snprintf(info.architecture, sizeof info.architecture, "%s", p->name);
  info.n_layers = p->n_layers;
  info.n_heads = p->n_heads;
  info.n_kv_heads = p->n_kv_heads;
  info.head_dim = 128;
  info.hidden = p->hidden;
  info.ffn = p->ffn;
  info.n_vocab = p->n_vocab;
  info.n_ctx_train = 131072;
  info.norm_eps = 1e-5;
  info.rope_theta = 500000;
  info.rope_factor = 1;
  info.order = strcmp(p->name, "llama") == 0 ? LEANK_ORDER_PAIRS : LEANK_ORDER_HALF;
  info.qkv_bias = info.order == LEANK_ORDER_HALF;
  return info;
}

/* A mask with the published number of heads of each size, dealt over the layers. */
static leank_mask *published_mask(const published *p) {
  const size_t n = p->n_layers * p->n_kv_heads;
  uint8_t *kept = calloc(n * 128, 1);
  assert_non_null(kept);
  size_t left[5];
  memcpy(left, p->n_with, sizeof left);
  for (size_t i = 0; i < n; i++) {
    size_t kind = i % 5;
    while (left[kind] == 0) kind = (kind + 1) % 5;
    left[kind]--;
    for (size_t c = 0; c < 32 * kind; c++) kept[i * 128 + (c * 3 + i) % 128] = 1;
  }
  leank_mask_info info;
  leank_mask_info_default(&info);
  info.n_layers = p->n_layers;
  info.n_kv_heads = p->n_kv_heads;
  info.head_dim = 128;
  leank_mask *mask = NULL;
  leank_error err = {0};
  lk_assert_ok(leank_mask_create(&info, kept, NULL, &mask, &err), &err);
  free(kept);
  return mask;
}

static leank_plan plan_of(const published *p, bool dense, size_t n_ctx, size_t n_seqs,
                          leank_kv_type kv_type) {
  const leank_model_info info = published_info(p);
  leank_mask *mask = dense ? NULL : published_mask(p);
  leank_plan_options options;
  leank_plan plan = {0};
  leank_error err = {0};
  leank_plan_options_default(&options);
  options.n_ctx = n_ctx;
  options.n_seqs = n_seqs;
  options.kv_type = kv_type;
  lk_assert_ok(leank_plan_make(&info, mask, &options, &plan, &err), &err);
  leank_mask_close(&mask);
  return plan;
}

static void check_published(const published *p) {
  const size_t n_ctx = 32768, n_middle = 498 * P; /* 32768 - 128 - 768 is 498 pages */
  const leank_plan plan = plan_of(p, false, n_ctx, 1, LEANK_KV_BF16);
  assert_int_equal(plan.bytes_per_lean_token, p->lean_bytes);
  assert_int_equal(plan.bytes_per_wide_token, p->dense_bytes);
  assert_int_equal(plan.n_lean_tokens, n_middle);
  assert_int_equal(plan.n_wide_tokens, n_ctx - n_middle);
  assert_int_equal(plan.n_lean_pages, 498);
  assert_int_equal(plan.n_wide_pages, 15); /* 2 of the sink, 12 and one begun of the window */
  assert_int_equal(plan.lean_stored, n_middle * p->lean_bytes);
  assert_int_equal(plan.wide_stored, (n_ctx - n_middle) * p->dense_bytes);
  assert_int_equal(plan.lean_reserved, (size_t)498 * P * p->lean_bytes);
  assert_int_equal(plan.wide_reserved, (size_t)15 * P * p->dense_bytes);
  assert_int_equal(plan.dense_stored, n_ctx * p->dense_bytes);
  assert_true(fabs(plan.k_kept - p->k_kept) < 0.0005);
  assert_true(fabs(plan.v_kept - p->v_kept) < 1e-9);
  assert_int_equal(plan.weights, 0);
  assert_true(plan.prefill_scratch > 0 && plan.other_scratch > 0);
}

static void test_plans_of_the_published_masks(void **state) {
  (void)state;
  check_published(&llama);
  check_published(&qwen);
  const leank_plan plan = plan_of(&llama, false, 32768, 1, LEANK_KV_BF16);
  const double stored = (double)(plan.wide_stored + plan.lean_stored) / (double)plan.dense_stored;
  const double reserved =
      (double)(plan.wide_reserved + plan.lean_reserved) / (double)plan.dense_stored;
  assert_true(fabs(stored - 0.576) < 0.0005);
  assert_true(fabs(reserved - 0.578) < 0.0005);
  assert_true(fabs(1 - plan.v_kept - 0.184) < 0.0005);
}

static void test_plans_scale_with_sequences_and_type(void **state) {
  (void)state;
  const leank_plan one = plan_of(&qwen, false, 5000, 1, LEANK_KV_BF16);
  const leank_plan many = plan_of(&qwen, false, 5000, 6, LEANK_KV_BF16);
  const leank_plan f32 = plan_of(&qwen, false, 5000, 1, LEANK_KV_F32);
  const size_t n_middle = (5000 - 128 - 768) / P * P;
  assert_int_equal(one.n_lean_tokens, n_middle);
  assert_int_equal(many.n_lean_tokens, n_middle);
  assert_int_equal(many.n_lean_pages, 6 * one.n_lean_pages);
  assert_int_equal(many.n_wide_pages, 6 * one.n_wide_pages);
  assert_int_equal(many.lean_stored, 6 * one.lean_stored);
  assert_int_equal(many.wide_stored, 6 * one.wide_stored);
  assert_int_equal(many.dense_stored, 6 * one.dense_stored);
  assert_int_equal(f32.bytes_per_lean_token, 2 * one.bytes_per_lean_token);
  assert_int_equal(f32.bytes_per_wide_token, 2 * one.bytes_per_wide_token);
  /* int8: half, and scales of 4 bytes: a channel's for 64 tokens, a token's for 128 channels */
  const leank_plan q8 = plan_of(&qwen, false, 5000, 1, LEANK_KV_Q8);
  const size_t n_heads = qwen.n_layers * qwen.n_kv_heads;
  const size_t v_scales = (size_t)lround(one.v_kept * (double)n_heads) * 4;
  const size_t k_scales = (size_t)lround(one.k_kept * (double)n_heads * 128) / 16;
  assert_int_equal(q8.bytes_per_lean_token, one.bytes_per_lean_token / 2 + v_scales + k_scales);
  assert_int_equal(q8.bytes_per_wide_token, one.bytes_per_wide_token);
}

static void test_plans_of_dense_and_short_sequences(void **state) {
  (void)state;
  const leank_plan dense = plan_of(&llama, true, 32768, 1, LEANK_KV_BF16);
  assert_int_equal(dense.n_wide_tokens, 32768);
  assert_int_equal(dense.n_lean_tokens, 0);
  assert_int_equal(dense.n_lean_pages, 0);
  assert_int_equal(dense.wide_stored, dense.dense_stored);
  assert_int_equal(dense.n_wide_pages, 512);
  const leank_plan edge = plan_of(&llama, false, 128 + 768 + P - 1, 1, LEANK_KV_BF16);
  assert_int_equal(edge.n_lean_tokens, 0);
  assert_int_equal(edge.wide_stored, edge.dense_stored);
  const leank_plan over = plan_of(&llama, false, 128 + 768 + P, 1, LEANK_KV_BF16);
  assert_int_equal(over.n_lean_tokens, P);
  assert_int_equal(over.n_wide_tokens, 128 + 768);
  const leank_plan tiny = plan_of(&llama, false, 1, 1, LEANK_KV_BF16);
  assert_int_equal(tiny.n_wide_tokens, 1);
  assert_int_equal(tiny.wide_stored, 131072);
  assert_int_equal(tiny.n_wide_pages, 1);
}

static void test_plans_refuse_nonsense(void **state) {
  (void)state;
  const leank_model_info info = published_info(&llama);
  leank_mask *mask = published_mask(&qwen);
  leank_plan_options options;
  leank_plan plan = {0};
  leank_error err = {0};
  leank_plan_options_default(&options);
  options.n_ctx = 4096;
  assert_int_equal(leank_plan_make(&info, mask, &options, &plan, &err), LEANK_E_MISMATCH);
  assert_true(err.message[0] != 0);
  leank_mask *own = published_mask(&llama);
  options.n_sink = 100;
  assert_int_equal(leank_plan_make(&info, own, &options, &plan, &err), LEANK_E_ARGUMENT);
  leank_mask_close(&own);
  leank_plan_options_default(&options);
  options.n_ctx = SIZE_MAX / 2; /* must not wrap around */
  const leank_status status = leank_plan_make(&info, NULL, &options, &plan, &err);
  assert_true(status == LEANK_E_ARGUMENT || status == LEANK_E_MEMORY);
  leank_mask_close(&mask);
}

/* ---- a session and its plan ---- */

typedef struct fixture {
  lk_case c;
  leank_token *tokens; /* [1000] */
  uint8_t *kept;
  lk_setup setup; /* n_sink = n_recent = 64, f32, mean, n_ctx = 640 */
} fixture;

static int set_up(void **state) {
  fixture *f = calloc(1, sizeof *f);
  if (!f) return -1;
  lk_tiny_spec spec = lk_shape(0);
  spec.hidden = 128; /* matrices of at least the width that products are planned in */
  spec.ffn = 256;
  lk_case_open(&f->c, &spec);
  f->tokens = lk_random_tokens(&spec, 1000, 3);
  f->kept = lk_random_kept(&spec, 0);
  f->setup = lk_means_setup(f->kept, 640);
  *state = f;
  return 0;
}

static int tear_down(void **state) {
  fixture *f = *state;
  lk_case_close(&f->c);
  free(f->tokens);
  free(f->kept);
  free(f);
  return 0;
}

/* Bytes of a lean token by counting: kept channels, in twos, and V where there are any. Of int8:
 * channels in fours; a page of 64 tokens has 4 bytes for each channel, filled up to 64, and for
 * each token. */
static size_t lean_bytes(const fixture *f, leank_kv_type type) {
  const size_t d = f->c.spec.head_dim;
  size_t n = 0;
  for (size_t h = 0; h < f->c.spec.n_layers * f->c.spec.n_kv_heads; h++) {
    size_t n_kept = 0;
    for (size_t c = 0; c < d; c++) n_kept += f->kept[h * d + c];
    const size_t in_fours = (n_kept + 3) / 4 * 4;
    if (n_kept && type == LEANK_KV_Q8)
      n += in_fours + (in_fours + 15) / 16 + d + 4;
    else if (n_kept)
      n += (n_kept + 1) / 2 * 2 + d;
  }
  return n * (type == LEANK_KV_F32 ? 4 : type == LEANK_KV_BF16 ? 2 : 1);
}

/* Bytes of pages and scratch in use in the whole process. */
static size_t really_in_use(void) {
  return lk_mem_in_use(LK_MEM_WIDE) + lk_mem_in_use(LK_MEM_DENSE) + lk_mem_in_use(LK_MEM_LEAN) +
         lk_mem_in_use(LK_MEM_PREFILL) + lk_mem_in_use(LK_MEM_SCRATCH);
}

static void on_progress(void *user, uint64_t done, uint64_t total) {
  size_t *most = user;
  const size_t now = really_in_use();
  (void)done;
  (void)total;
  if (now > *most) *most = now;
}

/* Returns the most bytes that were in use meanwhile. */
static size_t fill_with_turns(lk_subject *s, const fixture *f) {
  size_t most = 0;
  leank_feed_options options;
  leank_error err = {0};
  leank_feed_options_default(&options);
  options.on_progress = on_progress;
  options.user = &most;
  for (size_t seq = 0; seq < s->setup.n_seqs; seq++) {
    const size_t n = seq == 0 ? s->setup.n_ctx : s->setup.n_ctx - 100;
    lk_assert_ok(leank_session_feed(s->session, seq, f->tokens, n, &options, &err), &err);
    if (seq) free(lk_subject_run(s, seq, f->tokens, LK_CALLS({LK_DECODE, 100})));
  }
  return most;
}

static void check_against_plan(const fixture *f, const lk_setup *setup) {
  const size_t before = really_in_use();
  lk_subject s;
  lk_subject_open(&s, &f->c, setup);
  const leank_plan *plan = leank_session_get_plan(s.session);
  const size_t element = setup->kv_type == LEANK_KV_F32 ? 4 : 2;
  const lk_tiny_spec *spec = &f->c.spec;
  assert_int_equal(plan->bytes_per_wide_token,
                   2 * spec->n_layers * spec->n_kv_heads * spec->head_dim * element);
  if (setup->kept) assert_int_equal(plan->bytes_per_lean_token, lean_bytes(f, setup->kv_type));
  leank_memory empty, full;
  leank_session_get_memory(s.session, &empty);
  assert_int_equal(empty.wide_stored + empty.lean_stored, 0);
  assert_int_equal(empty.n_wide_pages + empty.n_lean_pages, 0);
  const size_t most = fill_with_turns(&s, f) - before;
  leank_session_get_memory(s.session, &full);
  assert_int_equal(full.wide_stored, plan->wide_stored);
  assert_int_equal(full.lean_stored, plan->lean_stored);
  assert_int_equal(full.wide_reserved, plan->wide_reserved);
  assert_int_equal(full.lean_reserved, plan->lean_reserved);
  assert_int_equal(full.n_lean_pages, plan->n_lean_pages);
  assert_in_range(full.n_wide_pages, 1, plan->n_wide_pages);
  assert_in_range(full.prefill_scratch, 1, plan->prefill_scratch);
  assert_in_range(full.other_scratch, 1, plan->other_scratch);
  /* What was really allocated at the worst moment, as the allocator counts; descriptions of a few
   * hundred bytes for each thread are not worth planning. */
  const size_t planned =
      plan->wide_reserved + plan->lean_reserved + plan->prefill_scratch + plan->other_scratch;
  if (getenv("LEANK_TEST_VERBOSE"))
    print_message("  planned %zu bytes, at most %zu were in use\n", planned, most);
  assert_in_range(most, planned / 100 * 98, planned + 1024);
  lk_subject_close(&s);
  assert_int_equal(really_in_use(), before);
}

static void test_sessions_hold_what_was_planned(void **state) {
  fixture *f = *state;
  static const size_t contexts[] = {640, 641, 700, 200};
  for (size_t i = 0; i < sizeof contexts / sizeof *contexts; i++)
    for (size_t n_seqs = 1; n_seqs <= 2; n_seqs++) {
      lk_setup setup = f->setup;
      setup.n_ctx = contexts[i];
      setup.n_threads = 1; /* with more, who gets which product decides whose buffers grow */
      setup.n_seqs = n_seqs;
      check_against_plan(f, &setup);
      setup.kv_type = LEANK_KV_BF16;
      setup.n_recent = 100;
      check_against_plan(f, &setup);
      setup.kv_type = LEANK_KV_Q8;
      check_against_plan(f, &setup);
      setup.kept = NULL;
      check_against_plan(f, &setup);
    }
}

static void test_plan_without_weights_is_the_sessions_plan(void **state) {
  fixture *f = *state;
  lk_setup setup = f->setup;
  setup.n_seqs = 3;
  setup.prefill_chunk = 128;
  lk_subject s;
  lk_subject_open(&s, &f->c, &setup);
  leank_plan_options options;
  leank_plan plan = {0};
  leank_error err = {0};
  leank_plan_options_default(&options);
  options.n_ctx = setup.n_ctx;
  options.n_seqs = 3;
  options.kv_type = setup.kv_type;
  options.prefill_chunk = 128;
  options.n_sink = options.n_recent = SIZE_MAX; /* the mask's */
  lk_assert_ok(leank_plan_make(leank_model_get_info(f->c.model), s.mask, &options, &plan, &err),
               &err);
  const leank_plan *of_session = leank_session_get_plan(s.session);
  assert_int_equal(plan.wide_reserved, of_session->wide_reserved);
  assert_int_equal(plan.lean_reserved, of_session->lean_reserved);
  assert_int_equal(plan.wide_stored, of_session->wide_stored);
  assert_int_equal(plan.lean_stored, of_session->lean_stored);
  assert_int_equal(plan.prefill_scratch, of_session->prefill_scratch);
  /* The plan is for the best level: tiles want room of their own. */
  if (lk_cpu_level(lk_test_cpu()) == lk_cpu_level(LEANK_CPU_BEST))
    assert_int_equal(plan.other_scratch, of_session->other_scratch);
  assert_int_equal(plan.weights, of_session->weights);
  assert_true(plan.weights > 0);
  lk_subject_close(&s);
}

/* Memory in use follows the sequence down as well as up. */
static void test_pages_come_back(void **state) {
  fixture *f = *state;
  lk_setup setup = f->setup;
  setup.n_seqs = 2;
  lk_subject s;
  lk_subject_open(&s, &f->c, &setup);
  leank_memory memory;
  for (size_t round = 0; round < 5; round++) {
    free(lk_subject_run(&s, round % 2, f->tokens,
                        LK_CALLS({LK_TURN, 300}, {LK_DECODE, 70}, {LK_TURN, 200})));
    leank_session_get_memory(s.session, &memory);
    assert_int_equal(memory.n_lean_pages, (570 - 128) / P);
    assert_int_equal(memory.n_wide_pages, 1 + 2); /* sink; tokens 448 .. 569 */
    free(lk_subject_run(&s, round % 2, f->tokens, LK_CALLS({LK_REWIND, 0})));
    leank_session_get_memory(s.session, &memory);
    assert_int_equal(memory.n_lean_pages + memory.n_wide_pages, 0);
  }
  lk_subject_close(&s);
}

static leank_memory memory_of(const lk_subject *s) {
  leank_memory memory;
  lk_alloc_fail_nth(1); /* nothing is allocated to find it out */
  leank_session_get_memory(s->session, &memory);
  lk_alloc_fail_nth(0);
  return memory;
}

/* Pages that sequences share count once, wherever the first of the sharers is. */
static void test_shared_pages_count_once(void **state) {
  fixture *f = *state;
  lk_setup setup = f->setup;
  setup.n_seqs = 3;
  leank_error err = {0};
  lk_subject s;
  lk_subject_open(&s, &f->c, &setup);
  const size_t wide = leank_session_get_plan(s.session)->bytes_per_wide_token;
  free(lk_subject_run(&s, 1, f->tokens, LK_CALLS({LK_TURN, 230})));
  const leank_memory one = memory_of(&s);
  assert_int_equal(one.wide_stored, (230 - P) * wide); /* a page is lean */
  assert_int_equal(one.lean_stored, P * leank_session_get_plan(s.session)->bytes_per_lean_token);
  for (size_t to = 0; to < 3; to += 2) {
    lk_assert_ok(leank_session_fork(s.session, 1, to, &err), &err);
    const leank_memory shared = memory_of(&s);
    assert_int_equal(shared.wide_stored, one.wide_stored);
    assert_int_equal(shared.lean_stored, one.lean_stored);
  }
  free(lk_subject_run(&s, 0, f->tokens, LK_CALLS({LK_DECODE, 1}))); /* its own last page */
  leank_memory now = memory_of(&s);
  assert_int_equal(now.wide_stored, one.wide_stored + (230 % P + 1) * wide);
  assert_int_equal(now.n_wide_pages, one.n_wide_pages + 1);
  free(lk_subject_run(&s, 1, f->tokens, LK_CALLS({LK_REWIND, 0})));
  now = memory_of(&s); /* the last still has what the first was copied from */
  assert_int_equal(now.wide_stored, one.wide_stored + (230 % P + 1) * wide);
  assert_int_equal(now.lean_stored, one.lean_stored);
  lk_subject_close(&s);
}

/* ---- decode steps allocate nothing ---- */

static void test_decode_steps_allocate_nothing(void **state) {
  fixture *f = *state;
  enum { N_SEQS = 3 };
  static const leank_kv_type types[] = {LEANK_KV_F32, LEANK_KV_BF16, LEANK_KV_Q8};
  for (size_t t = 0; t < 3; t++) {
    lk_setup setup = f->setup;
    setup.kv_type = types[t];
    setup.n_seqs = N_SEQS;
    lk_subject s;
    lk_subject_open(&s, &f->c, &setup);
    for (size_t i = 0; i < N_SEQS; i++)
      free(lk_subject_run(&s, i, f->tokens, LK_CALLS({LK_TURN, 100 + 95 * i}, {LK_DECODE, 1})));
    const size_t ours = lk_alloc_count(), theirs = malloc_count();
    for (size_t step = 0; step < 200; step++) { /* each crosses pages and packs some */
      const size_t seqs[N_SEQS] = {2, 0, 1};
      float logits[N_SEQS * V];
      leank_error err;
      const size_t n = 1 + step % N_SEQS;
      assert_int_equal(leank_session_decode(s.session, n, seqs, f->tokens + 3 * step, logits, &err),
                       LEANK_OK);
    }
    assert_int_equal(lk_alloc_count(), ours);
    assert_int_equal(malloc_count(), theirs);
    lk_subject_close(&s);
  }
  if (!COUNTS_MALLOC) print_message("the C allocator was not counted in this build\n");
}

/* ---- every allocation fails once ---- */

typedef struct in_use {
  size_t bytes[LK_MEM_N_CATEGORIES];
} in_use;

static in_use in_use_now(void) {
  in_use now;
  for (size_t i = 0; i < LK_MEM_N_CATEGORIES; i++) now.bytes[i] = lk_mem_in_use((lk_mem_category)i);
  return now;
}

static void assert_nothing_leaked(const in_use *before) {
  const in_use now = in_use_now();
  assert_memory_equal(&now, before, sizeof now);
}

static void test_opening_survives_every_failed_allocation(void **state) {
  fixture *f = *state;
  leank_mask *mask = lk_setup_mask(&f->c, &f->setup);
  leank_session_options options = lk_setup_options(&f->setup);
  options.mask = mask;
  options.n_seqs = 2;
  const in_use before = in_use_now();
  leank_session *session = NULL;
  size_t nth = 1;
  for (;; nth++) {
    leank_error err = {0};
    lk_alloc_fail_nth(nth);
    const leank_status status = leank_session_open(f->c.model, &options, &session, &err);
    lk_alloc_fail_nth(0);
    if (status == LEANK_OK) break;
    assert_int_equal(status, LEANK_E_MEMORY);
    assert_int_equal(err.code, LEANK_E_MEMORY);
    assert_null(session);
    assert_nothing_leaked(&before);
  }
  assert_true(nth > 5);
  lk_subject s = {&f->c, f->setup, NULL, session};
  float *got = lk_subject_run(&s, 1, f->tokens, LK_CALLS({LK_TURN, 250}, {LK_DECODE, 5}));
  float *want = lk_run_fresh(&f->c, &f->setup, f->tokens, LK_CALLS({LK_TURN, 250}, {LK_DECODE, 5}));
  lk_assert_same(got, want, 255, V, "opened at last");
  free(got);
  free(want);
  leank_session_close(&s.session);
  assert_nothing_leaked(&before);
  leank_mask_close(&mask);
}

typedef leank_status (*action)(lk_subject *s, const fixture *f, const lk_subject *source);

static leank_status feed_turn(lk_subject *s, const fixture *f, const lk_subject *source) {
  (void)source;
  return leank_session_feed(s->session, 0, f->tokens + 230, 200, NULL, NULL);
}

static leank_status feed_score(lk_subject *s, const fixture *f, const lk_subject *source) {
  leank_feed_options options;
  (void)source;
  leank_feed_options_default(&options);
  options.mode = LEANK_FEED_SCORE;
  return leank_session_feed(s->session, 0, f->tokens + 230, 200, &options, NULL);
}

static leank_status fork_it(lk_subject *s, const fixture *f, const lk_subject *source) {
  (void)f;
  (void)source;
  return leank_session_fork(s->session, 0, 1, NULL);
}

static leank_status pack_it(lk_subject *s, const fixture *f, const lk_subject *source) {
  (void)f;
  return leank_session_pack_from(s->session, 1, source->session, 0, NULL);
}

/* Fails the action's allocations one after the other; sequence 0 (230 tokens) must not notice.
 * Returns how many allocations the action makes. */
static size_t check_action(const fixture *f, action act, size_t n_threads) {
  lk_setup setup = f->setup, dense = f->setup;
  setup.n_seqs = 2;
  setup.n_threads = dense.n_threads = n_threads;
  dense.kept = NULL;
  lk_subject s, source, fresh;
  lk_subject_open(&s, &f->c, &setup);
  lk_subject_open(&fresh, &f->c, &setup);
  lk_subject_open(&source, &f->c, &dense);
  free(lk_subject_run(&source, 0, f->tokens, LK_CALLS({LK_TURN, 300})));
  free(lk_subject_run(&s, 0, f->tokens, LK_CALLS({LK_TURN, 230})));
  free(lk_subject_run(&fresh, 0, f->tokens, LK_CALLS({LK_TURN, 230})));
  const in_use before = in_use_now();
  leank_memory held, now;
  leank_session_get_memory(s.session, &held);
  size_t nth = 1;
  for (;; nth++) {
    lk_alloc_fail_nth(nth);
    const leank_status status = act(&s, f, &source);
    lk_alloc_fail_nth(0);
    if (status == LEANK_OK) break;
    assert_int_equal(status, LEANK_E_MEMORY);
    assert_int_equal(leank_session_length(s.session, 0), 230);
    leank_session_get_memory(s.session, &now);
    assert_int_equal(now.n_wide_pages, held.n_wide_pages);
    assert_int_equal(now.n_lean_pages, held.n_lean_pages);
    /* Which thread gets a product, and so grows its buffer for good, is chance. */
    if (n_threads == 1) assert_nothing_leaked(&before);
  }
  assert_int_equal(act(&fresh, f, &source), LEANK_OK);
  const lk_call on[] = {{LK_DECODE, 30}, {LK_TURN, 20}};
  float *a = lk_subject_run(&s, 0, f->tokens, on, 2);
  float *b = lk_subject_run(&fresh, 0, f->tokens, on, 2);
  lk_assert_same(a, b, 50, V, "after failed allocations");
  free(a);
  free(b);
  lk_subject_close(&s);
  lk_subject_close(&fresh);
  lk_subject_close(&source);
  return nth - 1;
}

static void test_calls_survive_every_failed_allocation(void **state) {
  fixture *f = *state;
  const in_use before = in_use_now();
  for (size_t threads = 1; threads <= 2; threads++) {
    const size_t n[] = {check_action(f, feed_turn, threads), check_action(f, feed_score, threads),
                        check_action(f, fork_it, threads), check_action(f, pack_it, threads)};
    print_message("allocations of a turn %zu, a score %zu, a fork %zu, a pack %zu\n", n[0], n[1],
                  n[2], n[3]);
    assert_true(n[0] > 5 && n[1] > 5);
    assert_nothing_leaked(&before);
  }
}

/* The very first feed of a session also makes what products need. */
static void test_a_first_feed_survives_every_failed_allocation(void **state) {
  fixture *f = *state;
  const in_use before = in_use_now();
  lk_subject s;
  lk_subject_open(&s, &f->c, &f->setup);
  size_t nth = 1;
  for (;; nth++) {
    lk_alloc_fail_nth(nth);
    const leank_status status = leank_session_feed(s.session, 0, f->tokens, 200, NULL, NULL);
    lk_alloc_fail_nth(0);
    if (status == LEANK_OK) break;
    assert_int_equal(status, LEANK_E_MEMORY);
    assert_int_equal(leank_session_length(s.session, 0), 0);
  }
  assert_true(nth > 10);
  float *got = lk_subject_run(&s, 0, f->tokens + 200, LK_CALLS({LK_DECODE, 20}));
  float *want =
      lk_run_fresh(&f->c, &f->setup, f->tokens, LK_CALLS({LK_TURN, 200}, {LK_DECODE, 20}));
  lk_assert_same(got, want + (size_t)200 * V, 20, V, "fed at last");
  free(got);
  free(want);
  lk_subject_close(&s);
  assert_nothing_leaked(&before);
}

static void test_a_context_beyond_all_memory_is_refused(void **state) {
  fixture *f = *state;
  static const size_t contexts[] = {SIZE_MAX, SIZE_MAX / 2, SIZE_MAX / 1024, (size_t)1 << 50};
  const in_use before = in_use_now();
  for (size_t i = 0; i < sizeof contexts / sizeof *contexts; i++) {
    leank_session_options options = lk_setup_options(&f->setup);
    options.n_ctx = contexts[i];
    leank_session *session = NULL;
    leank_error err = {0};
    const leank_status status = leank_session_open(f->c.model, &options, &session, &err);
    assert_true(status == LEANK_E_MEMORY || status == LEANK_E_ARGUMENT);
    assert_null(session);
    assert_nothing_leaked(&before);
  }
}

#define MEMORY_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_plans_of_the_published_masks),
      cmocka_unit_test(test_plans_scale_with_sequences_and_type),
      cmocka_unit_test(test_plans_of_dense_and_short_sequences),
      cmocka_unit_test(test_plans_refuse_nonsense),
      MEMORY_TEST(test_sessions_hold_what_was_planned),
      MEMORY_TEST(test_plan_without_weights_is_the_sessions_plan),
      MEMORY_TEST(test_pages_come_back),
      MEMORY_TEST(test_shared_pages_count_once),
      MEMORY_TEST(test_decode_steps_allocate_nothing),
      MEMORY_TEST(test_opening_survives_every_failed_allocation),
      MEMORY_TEST(test_calls_survive_every_failed_allocation),
      MEMORY_TEST(test_a_first_feed_survives_every_failed_allocation),
      MEMORY_TEST(test_a_context_beyond_all_memory_is_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
