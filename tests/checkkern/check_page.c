/* Op "page": every element has one right place and one right value, sums included (their order is
 * part of the contract), so everything is compared bit by bit. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/dtype.h"
#include "base/rng.h"
#include "checkkern.h"
#include "kernels/page/page.h"

enum { MAX_DIM = 256 };

/* The layout, spelled out: K is [4 blocks][n / e][16 keys][e]. */
static size_t k_place(leank_kv_type type, size_t n, size_t key, size_t channel) {
  if (type == LEANK_KV_F32) return (key / 16) * n * 16 + channel * 16 + key % 16;
  return (key / 16) * n * 16 + (channel / 2) * 32 + (key % 16) * 2 + channel % 2;
}

static uint32_t raw(leank_kv_type type, const void *p, size_t i) {
  return type == LEANK_KV_F32 ? ((const uint32_t *)p)[i] : ((const uint16_t *)p)[i];
}

static uint32_t stored(leank_kv_type type, float x) {
  uint32_t u;
  memcpy(&u, &x, sizeof u);
  return type == LEANK_KV_F32 ? u : lk_f32_to_bf16(x);
}

static float widened(leank_kv_type type, const void *p, size_t i) {
  const uint32_t u = type == LEANK_KV_F32 ? raw(type, p, i) : raw(type, p, i) << 16;
  float x;
  memcpy(&x, &u, sizeof x);
  return x;
}

static size_t segment_bytes(leank_kv_type type, size_t n) {
  return LK_PAGE_TOKENS * n * lk_kv_bytes(type);
}

static void *random_bytes(size_t n_bytes, bool front, lk_rng *rng) {
  uint8_t *p = checkkern_guarded(n_bytes, front);
  for (size_t i = 0; i < n_bytes; i++) p[i] = (uint8_t)lk_rng_u64(rng);
  return p;
}

/* Finite bf16 or fp32 values near 1. */
static void fill_finite(leank_kv_type type, void *p, size_t n, lk_rng *rng) {
  for (size_t i = 0; i < n; i++) {
    const float x = (float)(lk_rng_double(rng) * 4 - 2);
    if (type == LEANK_KV_F32)
      ((float *)p)[i] = x;
    else
      ((uint16_t *)p)[i] = lk_f32_to_bf16(x);
  }
}

/* ---- append ---- */

/* Half way between two bf16, whose lower one is even or odd. */
static float rounding_tie(lk_rng *rng) {
  const uint32_t u = ((uint32_t)lk_rng_u64(rng) & 0xbfff0000u) | 0x8000u;
  float x;
  memcpy(&x, &u, sizeof x);
  return x;
}

/* Tokens in random order over garbage; after each, the whole segment is as a model of it says.
 * Values are any 32 bits: NaN, infinities and ties of rounding among them. */
static void check_append(checkkern *ck, const lk_page_variant *v, size_t d, bool front,
                         lk_rng *rng) {
  static uint32_t want_k[LK_PAGE_TOKENS * MAX_DIM], want_v[LK_PAGE_TOKENS * MAX_DIM];
  const size_t bytes = segment_bytes(v->type, d), n = LK_PAGE_TOKENS * d;
  void *ks = random_bytes(bytes, front, rng), *vs = random_bytes(bytes, front, rng);
  for (size_t i = 0; i < n; i++) want_k[i] = raw(v->type, ks, i), want_v[i] = raw(v->type, vs, i);
  for (size_t step = 0; step < 24; step++) {
    float *k = random_bytes(d * sizeof *k, front, rng),
          *x = random_bytes(d * sizeof *x, front, rng);
    for (size_t c = 0; c < d; c += 3) k[c] = rounding_tie(rng);
    const size_t key = lk_rng_below(rng, LK_PAGE_TOKENS);
    for (size_t c = 0; c < d; c++) {
      want_k[k_place(v->type, d, key, c)] = stored(v->type, k[c]);
      want_v[key * d + c] = stored(v->type, x[c]);
    }
    v->append(ks, vs, d, key, k, x);
    checkkern_guarded_free(k, d * sizeof *k, front);
    checkkern_guarded_free(x, d * sizeof *x, front);
  }
  size_t wrong = 0;
  for (size_t i = 0; i < n; i++)
    wrong += want_k[i] != raw(v->type, ks, i) || want_v[i] != raw(v->type, vs, i);
  checkkern_expect(ck, wrong == 0, v->name, "append, D %zu: %zu of %zu places wrong", d, wrong, n);
  checkkern_guarded_free(ks, bytes, front);
  checkkern_guarded_free(vs, bytes, front);
}

/* ---- pack ---- */

static size_t choose(size_t d, size_t n_kept, uint16_t *channels, lk_rng *rng) {
  size_t n = 0;
  for (size_t c = 0; c < d; c++)
    if (lk_rng_below(rng, d - c) < n_kept - n) channels[n++] = (uint16_t)c;
  return n;
}

typedef void (*pack_fn)(const void *k_from, size_t n_from, const uint16_t *channels, size_t n_kept,
                        size_t n_padded, void *k_lean);

/* From a wide segment, or a lean one of d channels: the same where nothing is quantised. */
static void check_pack(checkkern *ck, const lk_page_variant *v, pack_fn pack, size_t d,
                       size_t n_kept, size_t n_padded, bool front, lk_rng *rng) {
  const size_t bytes = segment_bytes(v->type, d), lean_bytes = segment_bytes(v->type, n_padded);
  uint16_t *channels = checkkern_guarded(n_kept * sizeof *channels, front);
  choose(d, n_kept, channels, rng);
  void *wide = random_bytes(bytes, front, rng), *lean = random_bytes(lean_bytes, front, rng);
  pack(wide, d, channels, n_kept, n_padded, lean);
  size_t wrong = 0;
  for (size_t key = 0; key < LK_PAGE_TOKENS; key++)
    for (size_t i = 0; i < n_padded; i++) {
      const uint32_t want =
          i < n_kept ? raw(v->type, wide, k_place(v->type, d, key, channels[i])) : 0;
      wrong += raw(v->type, lean, k_place(v->type, n_padded, key, i)) != want;
    }
  checkkern_expect(ck, wrong == 0, v->name, "pack, %zu of %zu channels in %zu: %zu places wrong",
                   n_kept, d, n_padded, wrong);
  checkkern_guarded_free(channels, n_kept * sizeof *channels, front);
  checkkern_guarded_free(wide, bytes, front);
  checkkern_guarded_free(lean, lean_bytes, front);
}

static void check_pack_v(checkkern *ck, const lk_page_variant *v, size_t d, bool front,
                         lk_rng *rng) {
  const size_t bytes = segment_bytes(v->type, d);
  void *wide = random_bytes(bytes, front, rng), *lean = random_bytes(bytes, front, rng);
  v->pack_v(wide, d, lean);
  checkkern_expect(ck, memcmp(wide, lean, bytes) == 0, v->name, "pack of V, D %zu", d);
  checkkern_guarded_free(wide, bytes, front);
  checkkern_guarded_free(lean, bytes, front);
}

static void check_lean(checkkern *ck, const lk_page_variant *v, size_t d, bool front, lk_rng *rng) {
  check_pack_v(ck, v, d, front, rng);
  for (size_t n = 0; n <= d; n += n < 8 || n + 8 > d ? 1 : 7) {
    const size_t padded = (n + 1) / 2 * 2;
    check_pack(ck, v, v->pack, d, n, padded, front, rng);
    check_pack(ck, v, v->pack, d, n, padded + 2, front, rng);
    check_pack(ck, v, v->repack, d, n, padded, front, rng);
  }
}

/* ---- int8 ---- */

/* Values of bf16 as K and V have them: of any exponent, zeros, all zero for one `set` of 8, not
 * finite for one of 8; largest and half units of rounding come by themselves. */
static float set_value(size_t set, float magnitude, lk_rng *rng) {
  if (set % 8 == 3) return 0;
  if (set % 8 == 6 && lk_rng_below(rng, 4) == 0) return lk_rng_below(rng, 2) ? NAN : -INFINITY;
  if (lk_rng_below(rng, 16) == 0) return lk_rng_below(rng, 2) ? 0.0f : -0.0f;
  const double whole = (double)lk_rng_below(rng, 512) - 256; /* many ties */
  return magnitude * (float)(lk_rng_below(rng, 2) ? whole / 256 : lk_rng_double(rng) * 2 - 1);
}

static float random_magnitude(lk_rng *rng) {
  static const int exponents[] = {0, 3, -7, -126, -133, 120, 0, 1};
  return ldexpf(1 + (float)lk_rng_double(rng), exponents[lk_rng_below(rng, 8)]);
}

/* n values of one scale against what is stored: the right scale, the nearest integer (even where
 * two are), and so an error of at most half the scale, but for the rounding of the quotient. */
static size_t wrong_integers(const float *x, size_t n, float scale, const int *stored_integers) {
  float top = 0;
  bool finite = true;
  size_t wrong = 0;
  for (size_t i = 0; i < n; i++) {
    finite = finite && isfinite(x[i]);
    top = fmaxf(top, fabsf(x[i]));
  }
  if (!finite) return !isnan(scale);
  if (scale != top / 127.0f) return n;
  for (size_t i = 0; i < n; i++) {
    const int k = stored_integers[i];
    const double error = fabs((double)x[i] - (double)scale * k);
    wrong += k != (scale > 0 ? (int)rintf(x[i] / scale) : 0);
    wrong += k < -127 || k > 127;
    wrong += !(error <= (double)scale * (0.5 + 127 * 0x1p-24));
  }
  return wrong;
}

/* The layout, spelled out: K is [4 blocks][n / 4][16 keys][4], then scales [n]. */
static uint8_t k_byte(const uint8_t *lean, size_t n, size_t key, size_t c) {
  return lean[(key / 16) * n * 16 + (c / 4) * 64 + (key % 16) * 4 + c % 4];
}
static float scale_at(const uint8_t *lean, size_t n, size_t i) {
  float x;
  memcpy(&x, lean + 64 * n + i * sizeof x, sizeof x);
  return x;
}
static size_t lean_k_bytes(size_t n) { return 64 * n + (n * 4 + 63) / 64 * 64; }

/* Padding channels are 0 of scale 0, and what fills up to 64 bytes is 0. */
static size_t wrong_padding(const uint8_t *lean, size_t n_kept, size_t n_padded) {
  size_t wrong = 0;
  for (size_t i = n_kept; i < n_padded; i++) {
    wrong += scale_at(lean, n_padded, i) != 0;
    for (size_t key = 0; key < LK_PAGE_TOKENS; key++)
      wrong += k_byte(lean, n_padded, key, i) != 128;
  }
  for (size_t i = 68 * n_padded; i < lean_k_bytes(n_padded); i++) wrong += lean[i] != 0;
  return wrong;
}

static void check_pack_q8(checkkern *ck, const lk_page_variant *v, size_t d, size_t n_kept,
                          size_t n_padded, bool front, lk_rng *rng) {
  const size_t bytes = segment_bytes(LEANK_KV_BF16, d), lean_bytes = lean_k_bytes(n_padded);
  uint16_t *channels = checkkern_guarded(n_kept * sizeof *channels, front);
  uint16_t *wide = checkkern_guarded(bytes, front);
  uint8_t *lean = random_bytes(lean_bytes, front, rng);
  choose(d, n_kept, channels, rng);
  for (size_t c = 0; c < d; c++) {
    const float magnitude = random_magnitude(rng);
    for (size_t key = 0; key < LK_PAGE_TOKENS; key++)
      wide[k_place(LEANK_KV_BF16, d, key, c)] = lk_f32_to_bf16(set_value(c, magnitude, rng));
  }
  v->pack(wide, d, channels, n_kept, n_padded, lean);
  size_t wrong = wrong_padding(lean, n_kept, n_padded);
  for (size_t i = 0; i < n_kept; i++) {
    float x[LK_PAGE_TOKENS];
    int k[LK_PAGE_TOKENS];
    for (size_t key = 0; key < LK_PAGE_TOKENS; key++) {
      x[key] = lk_bf16_to_f32(wide[k_place(LEANK_KV_BF16, d, key, channels[i])]);
      k[key] = (int)k_byte(lean, n_padded, key, i) - 128;
    }
    wrong += wrong_integers(x, LK_PAGE_TOKENS, scale_at(lean, n_padded, i), k);
  }
  checkkern_expect(ck, wrong == 0, v->name, "pack, %zu of %zu channels in %zu: %zu places wrong",
                   n_kept, d, n_padded, wrong);
  checkkern_guarded_free(channels, n_kept * sizeof *channels, front);
  checkkern_guarded_free(wide, bytes, front);
  checkkern_guarded_free(lean, lean_bytes, front);
}

/* Bytes and scales of the channels wanted, as they are. */
static void check_repack_q8(checkkern *ck, const lk_page_variant *v, size_t n_from, size_t n_kept,
                            size_t n_padded, bool front, lk_rng *rng) {
  const size_t from_bytes = lean_k_bytes(n_from), lean_bytes = lean_k_bytes(n_padded);
  uint16_t *channels = checkkern_guarded(n_kept * sizeof *channels, front);
  uint8_t *from = random_bytes(from_bytes, front, rng);
  uint8_t *lean = random_bytes(lean_bytes, front, rng);
  choose(n_from, n_kept, channels, rng);
  v->repack(from, n_from, channels, n_kept, n_padded, lean);
  size_t wrong = wrong_padding(lean, n_kept, n_padded);
  for (size_t i = 0; i < n_kept; i++) {
    wrong += memcmp(lean + 64 * n_padded + 4 * i, from + 64 * n_from + 4 * channels[i], 4) != 0;
    for (size_t key = 0; key < LK_PAGE_TOKENS; key++)
      wrong += k_byte(lean, n_padded, key, i) != k_byte(from, n_from, key, channels[i]);
  }
  checkkern_expect(ck, wrong == 0, v->name, "repack, %zu of %zu channels in %zu: %zu places wrong",
                   n_kept, n_from, n_padded, wrong);
  checkkern_guarded_free(channels, n_kept * sizeof *channels, front);
  checkkern_guarded_free(from, from_bytes, front);
  checkkern_guarded_free(lean, lean_bytes, front);
}

/* V is [16 quads][D][4 keys], then scales [64]. */
static void check_pack_v_q8(checkkern *ck, const lk_page_variant *v, size_t d, bool front,
                            lk_rng *rng) {
  const size_t bytes = segment_bytes(LEANK_KV_BF16, d), lean_bytes = 64 * d + 256;
  uint16_t *wide = checkkern_guarded(bytes, front);
  uint8_t *lean = random_bytes(lean_bytes, front, rng);
  size_t wrong = 0;
  for (size_t key = 0; key < LK_PAGE_TOKENS; key++) {
    const float magnitude = random_magnitude(rng);
    for (size_t c = 0; c < d; c++)
      wide[key * d + c] = lk_f32_to_bf16(set_value(key, magnitude, rng));
  }
  v->pack_v(wide, d, lean);
  for (size_t key = 0; key < LK_PAGE_TOKENS; key++) {
    float x[MAX_DIM];
    int k[MAX_DIM];
    for (size_t c = 0; c < d; c++) {
      x[c] = lk_bf16_to_f32(wide[key * d + c]);
      k[c] = (int8_t)lean[(key / 4 * d + c) * 4 + key % 4];
    }
    wrong += wrong_integers(x, d, scale_at(lean, d, key), k);
  }
  checkkern_expect(ck, wrong == 0, v->name, "pack of V, D %zu: %zu places wrong", d, wrong);
  checkkern_guarded_free(wide, bytes, front);
  checkkern_guarded_free(lean, lean_bytes, front);
}

static void check_lean_q8(checkkern *ck, const lk_page_variant *v, size_t d, bool front,
                          lk_rng *rng) {
  check_pack_v_q8(ck, v, d, front, rng);
  for (size_t n = 0; n <= d; n += n < 8 || n + 8 > d ? 1 : 7) {
    const size_t padded = (n + 3) / 4 * 4, from = (d + 3) / 4 * 4;
    check_pack_q8(ck, v, d, n, padded, front, rng);
    check_pack_q8(ck, v, d, n, padded + 4, front, rng);
    check_repack_q8(ck, v, from, n, padded, front, rng);
    check_repack_q8(ck, v, from, n, padded + 4, front, rng);
  }
}

/* ---- sum ---- */

static void check_sum(checkkern *ck, const lk_page_variant *v, size_t d, bool front, lk_rng *rng) {
  const size_t bytes = segment_bytes(v->type, d);
  void *ks = checkkern_guarded(bytes, front), *vs = checkkern_guarded(bytes, front);
  float *k_sum = checkkern_guarded(d * sizeof *k_sum, front);
  float *v_sum = checkkern_guarded(d * sizeof *v_sum, front);
  float want[2][MAX_DIM];
  fill_finite(v->type, ks, LK_PAGE_TOKENS * d, rng);
  fill_finite(v->type, vs, LK_PAGE_TOKENS * d, rng);
  for (size_t c = 0; c < d; c++) {
    float sum[2] = {0, 0};
    for (size_t key = 0; key < LK_PAGE_TOKENS; key++) {
      sum[0] += widened(v->type, ks, k_place(v->type, d, key, c));
      sum[1] += widened(v->type, vs, key * d + c);
    }
    k_sum[c] = (float)lk_rng_double(rng);
    v_sum[c] = (float)lk_rng_double(rng);
    want[0][c] = k_sum[c] + sum[0];
    want[1][c] = v_sum[c] + sum[1];
  }
  v->sum(ks, vs, d, k_sum, v_sum);
  checkkern_expect(ck, memcmp(k_sum, want[0], d * sizeof *k_sum) == 0, v->name, "sum of K, D %zu",
                   d);
  checkkern_expect(ck, memcmp(v_sum, want[1], d * sizeof *v_sum) == 0, v->name, "sum of V, D %zu",
                   d);
  checkkern_guarded_free(ks, bytes, front);
  checkkern_guarded_free(vs, bytes, front);
  checkkern_guarded_free(k_sum, d * sizeof *k_sum, front);
  checkkern_guarded_free(v_sum, d * sizeof *v_sum, front);
}

/* ---- speed ---- */

enum { BENCH_DIM = 128 };
typedef struct bench {
  const lk_page_variant *v;
  _Alignas(64) uint8_t k[LK_PAGE_TOKENS * BENCH_DIM * 4];
  _Alignas(64) uint8_t values[LK_PAGE_TOKENS * BENCH_DIM * 4];
  _Alignas(64) uint8_t lean[LK_PAGE_TOKENS * BENCH_DIM * 4];
  float row[BENCH_DIM], k_sum[BENCH_DIM], v_sum[BENCH_DIM];
  uint16_t channels[BENCH_DIM / 2];
} bench;

static void bench_append(void *ctx) {
  bench *b = ctx;
  for (size_t key = 0; key < LK_PAGE_TOKENS; key++)
    b->v->append(b->k, b->values, BENCH_DIM, key, b->row, b->row);
}
static void bench_pack(void *ctx) {
  bench *b = ctx;
  b->v->pack(b->k, BENCH_DIM, b->channels, BENCH_DIM / 2, BENCH_DIM / 2, b->lean);
}
static void bench_pack_v(void *ctx) {
  bench *b = ctx;
  b->v->pack_v(b->values, BENCH_DIM, b->lean);
}
static void bench_sum(void *ctx) {
  bench *b = ctx;
  b->v->sum(b->k, b->values, BENCH_DIM, b->k_sum, b->v_sum);
}

static void bench_variant(const lk_page_variant *v) {
  static bench b;
  lk_rng rng = {3};
  b.v = v;
  choose(BENCH_DIM, BENCH_DIM / 2, b.channels, &rng);
  const double append = checkkern_time(bench_append, &b) / LK_PAGE_TOKENS;
  const double pack = checkkern_time(bench_pack, &b), pack_v = checkkern_time(bench_pack_v, &b);
  const double sum = checkkern_time(bench_sum, &b);
  printf("%-24s D 128: append %.0f ns a token, pack to 64 channels %.2f us, of V %.2f us, "
         "sum %.2f us a page\n",
         v->name, append * 1e9, pack * 1e6, pack_v * 1e6, sum * 1e6);
}

static void check_variant(checkkern *ck, const lk_page_variant *v) {
  static const size_t dims[] = {2, 4, 6, 16, 30, 32, 34, 64, 66, 80, 96, 128, 256};
  lk_rng rng = {ck->seed};
  for (size_t i = 0; i < sizeof dims / sizeof *dims; i++) {
    const size_t d = dims[i];
    for (int front = 0; front < 2; front++) {
      check_append(ck, v, d, front, &rng);
      check_sum(ck, v, d, front, &rng);
      if (v->type == LEANK_KV_Q8)
        check_lean_q8(ck, v, d, front, &rng);
      else
        check_lean(ck, v, d, front, &rng);
    }
  }
}

void check_page(checkkern *ck) {
  for (const lk_page_variant *v = lk_page_variants; v->name; v++) {
    if (!checkkern_wants(ck, v->name, v->level)) continue;
    check_variant(ck, v);
    if (ck->bench) bench_variant(v);
  }
  for (size_t l = 0; l < ck->n_levels; l++) {
    const leank_cpu_level level = ck->levels[l];
    for (int type = 0; type <= LEANK_KV_Q8; type++) {
      const lk_page_variant *v = lk_page_select((leank_kv_type)type, level);
      checkkern_expect(ck, v && (int)v->type == type && (!level || v->level <= level),
                       "page_select", "type %d at level %d", type, (int)level);
    }
  }
}
