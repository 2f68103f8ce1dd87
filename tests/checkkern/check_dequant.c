/* Op "dequant": every value has one right answer, so everything is compared bit by bit. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "checkkern.h"
#include "dequant_f64.h"
#include "kernels/dequant/dequant.h"

static uint32_t bits_of(float f) {
  uint32_t u;
  memcpy(&u, &f, sizeof u);
  return u;
}

static bool is_nan_bf16(uint16_t h) { return (h & 0x7fff) > 0x7f80; }

static void compare(checkkern *ck, const lk_dequant_variant *v, const void *src, size_t n,
                    const float *f, const uint16_t *h) {
  for (size_t i = 0; i < n; i++) {
    const float want = (float)dequant_f64_element(v->type, src, i).value;
    const bool f_ok = isnan(want) ? isnan(f[i]) : bits_of(f[i]) == bits_of(want);
    checkkern_expect(ck, f_ok, v->name, "f32 element %zu of %zu is %a, not %a", i, n, (double)f[i],
                     (double)want);
    const uint16_t want_h = lk_f32_to_bf16(want);
    const bool h_ok = isnan(want) ? is_nan_bf16(h[i]) : h[i] == want_h;
    checkkern_expect(ck, h_ok, v->name, "bf16 element %zu of %zu is %04x, not %04x", i, n, h[i],
                     want_h);
  }
}

typedef void (*fill_fn)(lk_dtype type, size_t n, lk_rng *rng, void *data);

static void fill_small(lk_dtype type, size_t n, lk_rng *rng, void *data) {
  dequant_f64_random(type, n, 2.0, rng, data);
}
static void fill_subnormal(lk_dtype type, size_t n, lk_rng *rng, void *data) {
  dequant_f64_random(type, n, 1e-4, rng, data);
}
/* Any bytes: NaN and infinities included. */
static void fill_bytes(lk_dtype type, size_t n, lk_rng *rng, void *data) {
  uint8_t *bytes = data;
  for (size_t i = 0; i < lk_dtype_bytes(type, n); i++) bytes[i] = (uint8_t)lk_rng_u64(rng);
}

static void check_size(checkkern *ck, const lk_dequant_variant *v, size_t n, bool front,
                       fill_fn fill, lk_rng *rng) {
  const size_t src_bytes = lk_dtype_bytes(v->type, n);
  void *src = checkkern_guarded(src_bytes, front);
  float *f = checkkern_guarded(n * sizeof *f, front);
  uint16_t *h = checkkern_guarded(n * sizeof *h, front);
  fill(v->type, n, rng, src);
  v->to_f32(src, n, f);
  v->to_bf16(src, n, h);
  compare(ck, v, src, n, f, h);
  checkkern_guarded_free(src, src_bytes, front);
  checkkern_guarded_free(f, n * sizeof *f, front);
  checkkern_guarded_free(h, n * sizeof *h, front);
}

static void check_variant(checkkern *ck, const lk_dequant_variant *v) {
  static const size_t blocks[] = {0, 1, 2, 3, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100};
  static const fill_fn fills[] = {fill_small, fill_subnormal, fill_bytes};
  const size_t elements = lk_dtype_block_elements(v->type);
  lk_rng rng = {ck->seed};
  for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++)
    for (size_t k = 0; k < sizeof fills / sizeof *fills; k++)
      for (int front = 0; front < 2; front++)
        check_size(ck, v, blocks[i] * elements, front, fills[k], &rng);
}

/* All 65536 halves, and fp32 around every rounding step of bf16. */
static void check_all_halves(checkkern *ck, const lk_dequant_variant *v) {
  static uint16_t src[65536], h[65536];
  static float f[65536];
  for (size_t i = 0; i < 65536; i++) src[i] = (uint16_t)i;
  v->to_f32(src, 65536, f);
  v->to_bf16(src, 65536, h);
  compare(ck, v, src, 65536, f, h);
}

static void check_f32_steps(checkkern *ck, const lk_dequant_variant *v) {
  static const uint32_t low[] = {0, 1, 0x7fff, 0x8000, 0x8001, 0xffff};
  static uint32_t src[65536];
  static uint16_t h[65536];
  static float f[65536];
  for (size_t k = 0; k < sizeof low / sizeof *low; k++) {
    for (size_t i = 0; i < 65536; i++) src[i] = (uint32_t)i << 16 | low[k];
    v->to_f32(src, 65536, f);
    v->to_bf16(src, 65536, h);
    compare(ck, v, src, 65536, f, h);
  }
}

/* ---- speed: a working set in the second-level cache, so that the arithmetic shows ---- */

enum { BENCH_ELEMENTS = 64 * 1024 };
typedef struct bench {
  const lk_dequant_variant *v;
  uint8_t src[BENCH_ELEMENTS * 4];
  float f[BENCH_ELEMENTS];
  uint16_t h[BENCH_ELEMENTS];
} bench;

static void bench_f32(void *ctx) {
  bench *b = ctx;
  b->v->to_f32(b->src, BENCH_ELEMENTS, b->f);
}
static void bench_bf16(void *ctx) {
  bench *b = ctx;
  b->v->to_bf16(b->src, BENCH_ELEMENTS, b->h);
}

static void bench_variant(const lk_dequant_variant *v) {
  static bench b;
  lk_rng rng = {1};
  b.v = v;
  dequant_f64_random(v->type, BENCH_ELEMENTS, 1.0, &rng, b.src);
  const double t_f32 = checkkern_time(bench_f32, &b), t_bf16 = checkkern_time(bench_bf16, &b);
  const double read = (double)lk_dtype_bytes(v->type, BENCH_ELEMENTS);
  printf("%-24s to f32 %6.2f G elements/s (%6.2f GB/s read), to bf16 %6.2f (%6.2f)\n", v->name,
         BENCH_ELEMENTS / t_f32 * 1e-9, read / t_f32 * 1e-9, BENCH_ELEMENTS / t_bf16 * 1e-9,
         read / t_bf16 * 1e-9);
}

void check_dequant(checkkern *ck) {
  for (const lk_dequant_variant *v = lk_dequant_variants; v->name; v++) {
    if (!checkkern_wants(ck, v->name, v->level)) continue;
    check_variant(ck, v);
    if (v->type == LK_F16 || v->type == LK_BF16) check_all_halves(ck, v);
    if (v->type == LK_F32) check_f32_steps(ck, v);
    if (ck->bench) bench_variant(v);
  }
  for (int type = 0; type < LK_N_DTYPES; type++)
    for (size_t l = 0; l < ck->n_levels; l++) {
      const leank_cpu_level level = ck->levels[l];
      const lk_dequant_variant *v = lk_dequant_select((lk_dtype)type, level);
      checkkern_expect(ck, v && v->type == (lk_dtype)type && (!level || v->level <= level),
                       "dequant_select", "type %d at level %d", type, (int)level);
    }
}
