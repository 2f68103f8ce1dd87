#include "support/subject.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include <cmocka.h>

#include "base/rng.h"
#include "cpu/cpu_features.h"

void lk_assert_ok(leank_status status, const leank_error *err) {
  if (status != LEANK_OK) fail_msg("%s: %s", leank_status_text(status), err->message);
}

static void *allocated(size_t n, size_t size) {
  void *p = calloc(n ? n : 1, size);
  if (!p) fail_msg("the test itself is out of memory");
  return p;
}

/* ---- model ---- */

void lk_case_open(lk_case *c, const lk_tiny_spec *spec) {
  static unsigned n_made;
  memset(c, 0, sizeof *c);
  c->spec = *spec;
  lk_tiny_weights(spec, &c->weights);
  snprintf(c->path, sizeof c->path, "%s/tiny-%ld-%u.gguf", LEANK_TEST_TMP, (long)getpid(),
           n_made++);
  assert_true(lk_tiny_write(spec, &c->weights, c->path));
  leank_error err = {0};
  const leank_status status = leank_model_open(c->path, NULL, &c->model, &err);
  unlink(c->path); /* the mapping stays */
  lk_assert_ok(status, &err);
}

void lk_case_close(lk_case *c) {
  leank_model_close(&c->model);
  lk_oracle_weights_free(&c->weights);
}

lk_tiny_spec lk_shape(size_t i) {
  static const lk_tiny_spec shapes[LK_N_SHAPES] = {
      {.n_heads = 4, .n_kv_heads = 2, .head_dim = 32, .hidden = 64, .ffn = 96},
      {.qwen2 = true, .n_heads = 6, .n_kv_heads = 2, .head_dim = 16, .hidden = 96, .ffn = 160},
      {.n_heads = 7, .n_kv_heads = 1, .head_dim = 64, .hidden = 112, .ffn = 128},
      {.qwen2 = true, .n_heads = 4, .n_kv_heads = 4, .head_dim = 16, .hidden = 64, .ffn = 128}};
  lk_tiny_spec spec = shapes[i];
  spec.n_layers = 2;
  spec.n_vocab = 97;
  spec.type = LK_F32;
  spec.seed = i + 1;
  return spec;
}

/* ---- session ---- */

lk_setup lk_small_setup(const uint8_t *kept, size_t n_ctx) {
  return (lk_setup){
      .kept = kept, .n_sink = 64, .n_recent = 64, .kv_type = LEANK_KV_F32, .n_ctx = n_ctx};
}

lk_setup lk_means_setup(const uint8_t *kept, size_t n_ctx) {
  lk_setup setup = lk_small_setup(kept, n_ctx);
  setup.policy = LEANK_POLICY_MEAN;
  setup.mean_compensation = true;
  return setup;
}

leank_mask *lk_setup_mask(const lk_case *c, const lk_setup *setup) {
  leank_mask_info info;
  leank_error err = {0};
  leank_mask *mask = NULL;
  leank_mask_info_default(&info);
  info.n_layers = c->spec.n_layers;
  info.n_kv_heads = c->spec.n_kv_heads;
  info.head_dim = c->spec.head_dim;
  info.order = LEANK_ORDER_HALF;
  info.n_sink = setup->n_sink;
  info.n_recent = setup->n_recent;
  info.policy = setup->policy;
  info.mean_compensation = setup->mean_compensation;
  lk_assert_ok(leank_mask_create(&info, setup->kept, NULL, &mask, &err), &err);
  return mask;
}

leank_session_options lk_setup_options(const lk_setup *setup) {
  leank_session_options options;
  leank_session_options_default(&options);
  options.n_ctx = setup->n_ctx;
  options.n_seqs = setup->n_seqs ? setup->n_seqs : 1;
  options.kv_type = setup->kv_type;
  options.n_threads = setup->n_threads ? setup->n_threads : 2;
  options.cpu = setup->cpu ? setup->cpu : lk_test_cpu();
  if (setup->prefill_chunk) options.prefill_chunk = setup->prefill_chunk;
  options.device = setup->device;
  options.n_sink = setup->n_sink;
  options.n_recent = setup->n_recent;
  options.policy = (int)setup->policy;
  options.mean_compensation = setup->mean_compensation;
  return options;
}

void lk_subject_open(lk_subject *s, const lk_case *c, const lk_setup *setup) {
  memset(s, 0, sizeof *s);
  s->c = c;
  s->setup = *setup;
  leank_session_options options = lk_setup_options(setup);
  if (setup->kept) s->mask = lk_setup_mask(c, setup);
  options.mask = s->mask;
  leank_error err = {0};
  lk_assert_ok(leank_session_open(c->model, &options, &s->session, &err), &err);
}

void lk_subject_close(lk_subject *s) {
  leank_session_close(&s->session);
  leank_mask_close(&s->mask);
}

lk_oracle *lk_setup_faulty(const lk_case *c, const lk_setup *setup, lk_oracle_fault fault,
                           size_t hide_begin, size_t hide_end) {
  const lk_oracle_options options = {.kept = setup->kept,
                                     .n_sink = setup->n_sink,
                                     .n_recent = setup->n_recent,
                                     .policy = setup->policy,
                                     .mean_compensation = setup->mean_compensation,
                                     .bf16_cache = setup->kv_type == LEANK_KV_BF16 ||
                                                   setup->kv_type == LEANK_KV_Q8,
                                     .f16_cache = setup->kv_type == LEANK_KV_F16,
                                     .int8_middle = setup->kv_type == LEANK_KV_Q8,
                                     .fault = fault,
                                     .hide_begin = hide_begin,
                                     .hide_end = hide_end};
  return lk_oracle_open(&c->weights, &options, setup->n_ctx);
}

lk_oracle *lk_setup_oracle(const lk_case *c, const lk_setup *setup) {
  return lk_setup_faulty(c, setup, LK_FAULT_NONE, 0, 0);
}

/* ---- random things ---- */

/* Marks n different channels of [D]. */
static void choose(lk_rng *rng, uint8_t *kept, size_t head_dim, size_t n) {
  memset(kept, 0, head_dim);
  while (n > 0) {
    const size_t c = (size_t)lk_rng_below(rng, head_dim);
    if (kept[c]) continue;
    kept[c] = 1;
    n--;
  }
}

uint8_t *lk_random_kept(const lk_tiny_spec *spec, uint64_t seed) {
  const size_t d = spec->head_dim, n_heads = spec->n_layers * spec->n_kv_heads;
  uint8_t *kept = allocated(n_heads * d, 1);
  lk_rng rng = {seed + 99};
  for (size_t h = 0; h < n_heads; h++) {
    const size_t counts[] = {
        0,     1, (size_t)lk_rng_below(&rng, d / 2) * 2 + 1, d, (size_t)lk_rng_below(&rng, d + 1),
        d / 2,
    };
    choose(&rng, kept + h * d, d, counts[(h + seed) % (sizeof counts / sizeof *counts)]);
  }
  return kept;
}

uint8_t *lk_all_kept(const lk_tiny_spec *spec) {
  const size_t n = spec->n_layers * spec->n_kv_heads * spec->head_dim;
  uint8_t *kept = allocated(n, 1);
  memset(kept, 1, n);
  return kept;
}

leank_token *lk_random_tokens(const lk_tiny_spec *spec, size_t n, uint64_t seed) {
  leank_token *tokens = allocated(n, sizeof *tokens);
  lk_rng rng = {seed * 7919 + 3};
  for (size_t i = 0; i < n; i++) tokens[i] = (leank_token)lk_rng_below(&rng, spec->n_vocab);
  return tokens;
}

/* ---- calls ---- */

size_t lk_calls_rows(const lk_call *calls, size_t n_calls) {
  size_t n = 0;
  for (size_t i = 0; i < n_calls; i++)
    if (calls[i].kind != LK_REWIND) n += calls[i].n;
  return n;
}

typedef struct sink {
  float *logits; /* [n][V] */
  size_t n_vocab, n_rows, n_due;
} sink;

static void on_logits(void *user, size_t first_row, size_t n_rows, const float *logits) {
  sink *s = user;
  assert_int_equal(first_row, s->n_rows); /* in order, no gaps */
  assert_in_range(n_rows, 1, s->n_due - s->n_rows);
  memcpy(s->logits + first_row * s->n_vocab, logits, n_rows * s->n_vocab * sizeof(float));
  s->n_rows += n_rows;
}

static void run_feed(lk_subject *s, size_t seq, const leank_token *tokens, size_t n,
                     leank_feed_mode mode, float *logits) {
  const size_t n_vocab = s->c->spec.n_vocab, before = leank_session_length(s->session, seq);
  sink to = {logits, n_vocab, 0, n};
  float *last = allocated(n_vocab, sizeof(float));
  leank_feed_options options;
  leank_error err = {0};
  leank_feed_options_default(&options);
  options.mode = mode;
  options.logits = last;
  options.on_logits = on_logits;
  options.user = &to;
  lk_assert_ok(leank_session_feed(s->session, seq, tokens, n, &options, &err), &err);
  assert_int_equal(to.n_rows, n);
  assert_int_equal(leank_session_length(s->session, seq), before + n);
  /* The last row goes through the kernels of a decode step: near, not the same bits. */
  const float *row = logits + (n - 1) * n_vocab;
  const double near = s->setup.kv_type == LEANK_KV_F32 ? LK_TOLERANCE_F32 : 0.05;
  double scale = 1e-30;
  for (size_t i = 0; i < n_vocab; i++) scale = fmax(scale, fabs((double)row[i]));
  for (size_t i = 0; i < n_vocab; i++)
    if (!(fabs((double)last[i] - (double)row[i]) <= near * scale))
      fail_msg("logits of the last row and of on_logits differ: %.9g and %.9g", (double)last[i],
               (double)row[i]);
  free(last);
}

static void run_decode(lk_subject *s, size_t seq, const leank_token *tokens, size_t n,
                       float *logits) {
  leank_error err = {0};
  for (size_t i = 0; i < n; i++) {
    const size_t before = leank_session_length(s->session, seq);
    lk_assert_ok(leank_session_decode(s->session, 1, &seq, tokens + i,
                                      logits + i * s->c->spec.n_vocab, &err),
                 &err);
    assert_int_equal(leank_session_length(s->session, seq), before + 1);
  }
}

float *lk_subject_run(lk_subject *s, size_t seq, const leank_token *tokens, const lk_call *calls,
                      size_t n_calls) {
  const size_t n_vocab = s->c->spec.n_vocab;
  float *logits = allocated(lk_calls_rows(calls, n_calls) * n_vocab, sizeof(float));
  float *to = logits;
  for (size_t i = 0; i < n_calls; i++) {
    const lk_call *call = &calls[i];
    leank_error err = {0};
    switch (call->kind) {
    case LK_TURN: run_feed(s, seq, tokens, call->n, LEANK_FEED_TURN, to); break;
    case LK_SCORE: run_feed(s, seq, tokens, call->n, LEANK_FEED_SCORE, to); break;
    case LK_DECODE: run_decode(s, seq, tokens, call->n, to); break;
    case LK_REWIND:
      lk_assert_ok(leank_session_rewind(s->session, seq, call->n, &err), &err);
      assert_int_equal(leank_session_length(s->session, seq), call->n);
      continue;
    }
    tokens += call->n;
    to += call->n * n_vocab;
  }
  return logits;
}

double *lk_oracle_run(lk_oracle *oracle, size_t n_vocab, const leank_token *tokens,
                      const lk_call *calls, size_t n_calls) {
  double *logits = allocated(lk_calls_rows(calls, n_calls) * n_vocab, sizeof(double));
  double *to = logits;
  for (size_t i = 0; i < n_calls; i++) {
    if (calls[i].kind == LK_REWIND) {
      lk_oracle_rewind(oracle, calls[i].n);
      continue;
    }
    const leank_feed_mode mode = calls[i].kind == LK_TURN ? LEANK_FEED_TURN : LEANK_FEED_SCORE;
    lk_oracle_feed(oracle, mode, tokens, calls[i].n, to, NULL);
    tokens += calls[i].n;
    to += calls[i].n * n_vocab;
  }
  return logits;
}

float *lk_run_fresh(const lk_case *c, const lk_setup *setup, const leank_token *tokens,
                    const lk_call *calls, size_t n_calls) {
  lk_subject s;
  lk_subject_open(&s, c, setup);
  float *logits = lk_subject_run(&s, 0, tokens, calls, n_calls);
  lk_subject_close(&s);
  return logits;
}

double *lk_oracle_fresh(const lk_case *c, const lk_setup *setup, const leank_token *tokens,
                        const lk_call *calls, size_t n_calls) {
  lk_oracle *oracle = lk_setup_oracle(c, setup);
  double *logits = lk_oracle_run(oracle, c->spec.n_vocab, tokens, calls, n_calls);
  lk_oracle_close(&oracle);
  return logits;
}

/* ---- comparing ---- */

static double rms(const double *x, size_t n) {
  double sum = 0;
  for (size_t i = 0; i < n; i++) sum += x[i] * x[i];
  return sqrt(sum / (double)n);
}

/* A NaN on either side is an infinite error. */
static double distance(double a, double b) {
  const double d = fabs(a - b);
  return isnan(d) ? INFINITY : d;
}

double lk_error(const float *got, const double *want, size_t n) {
  double largest = 0;
  for (size_t i = 0; i < n; i++) largest = fmax(largest, distance((double)got[i], want[i]));
  return largest / rms(want, n);
}

double lk_error_f64(const double *got, const double *want, size_t n) {
  double largest = 0;
  for (size_t i = 0; i < n; i++) largest = fmax(largest, distance(got[i], want[i]));
  return largest / rms(want, n);
}

double lk_rms_error(const float *got, const double *want, size_t n) {
  double sum = 0;
  for (size_t i = 0; i < n; i++) {
    const double d = distance((double)got[i], want[i]);
    sum += d * d;
  }
  return sqrt(sum / (double)n) / rms(want, n);
}

bool lk_same_bits(const float *a, const float *b, size_t n) {
  return memcmp(a, b, n * sizeof(float)) == 0;
}

void lk_assert_close(const float *got, const double *want, size_t n_rows, size_t n_vocab,
                     double tolerance, const char *what) {
  const double scale = rms(want, n_rows * n_vocab);
  for (size_t r = 0; r < n_rows; r++)
    for (size_t i = r * n_vocab; i < (r + 1) * n_vocab; i++)
      if (!(distance((double)got[i], want[i]) <= tolerance * scale))
        fail_msg("%s: row %zu, token %zu: %.9g instead of %.9g (largest error of all %.3g, "
                 "allowed %.3g, of the logits' rms)",
                 what, r, i % n_vocab, (double)got[i], want[i],
                 lk_error(got, want, n_rows * n_vocab), tolerance);
  if (getenv("LEANK_TEST_VERBOSE"))
    print_message("  %-44s error %.2g of %.2g\n", what, lk_error(got, want, n_rows * n_vocab),
                  tolerance);
}

void lk_assert_same(const float *got, const float *want, size_t n_rows, size_t n_vocab,
                    const char *what) {
  for (size_t r = 0; r < n_rows; r++)
    if (!lk_same_bits(got + r * n_vocab, want + r * n_vocab, n_vocab))
      fail_msg("%s: row %zu has other bits, e.g. %.9g instead of %.9g", what, r,
               (double)got[r * n_vocab], (double)want[r * n_vocab]);
}

void lk_assert_differ(const double *faulty, const double *want, size_t n, double at_least,
                      const char *what) {
  const double error = lk_error_f64(faulty, want, n);
  if (!(error >= at_least))
    fail_msg("%s: the fault changes logits by %.3g only, so this test would not notice it", what,
             error);
  if (getenv("LEANK_TEST_VERBOSE")) print_message("  %-44s fault %.2g\n", what, error);
}

/* ---- this machine ---- */

leank_cpu_level lk_test_cpu(void) {
  leank_cpu_level level = LEANK_CPU_BEST;
  const char *name = getenv("LEANK_TEST_CPU");
  if (name && !lk_cpu_level_parse(name, &level)) fail_msg("LEANK_TEST_CPU=%s is no level", name);
  return level;
}

#if defined(__x86_64__)
/* Tiles have to be granted by the system too, which asking for the level does. */
static bool has_tiles(void) {
  enum { AMX_BF16 = 1 << 22, AMX_TILE = 1 << 24 };
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && d & AMX_BF16 && d & AMX_TILE &&
         lk_cpu_detect() == LEANK_CPU_AMX;
}
#endif

size_t lk_cpu_levels(leank_cpu_level out[LK_N_CPU_LEVELS]) {
  size_t n = 0;
  out[n++] = LEANK_CPU_C;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) out[n++] = LEANK_CPU_AVX2;
  if (n == 2 && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq"))
    out[n++] = LEANK_CPU_AVX512;
  if (n == 3 && __builtin_cpu_supports("avx512bf16")) out[n++] = LEANK_CPU_AVX512BF16;
  /* As the library: only where it is asked for. */
  if (n == 4 && lk_test_cpu() == LEANK_CPU_AMX && has_tiles()) out[n++] = LEANK_CPU_AMX;
#elif defined(__aarch64__) && defined(__linux__)
  const unsigned long caps = getauxval(AT_HWCAP), more = getauxval(AT_HWCAP2);
  out[n++] = LEANK_CPU_NEON;
  if (caps & HWCAP_ASIMDDP) out[n++] = LEANK_CPU_NEONDOT;
  if (n == 3 && (more & HWCAP2_BF16)) out[n++] = LEANK_CPU_NEONBF16;
#endif
  return n;
}
