/* Op "page": every element has one right place and one right value, sums included (their order is
 * part of the contract), so everything is compared bit by bit. */
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

static void check_pack(checkkern *ck, const lk_page_variant *v, size_t d, size_t n_kept,
                       size_t n_padded, bool front, lk_rng *rng) {
  const size_t bytes = segment_bytes(v->type, d), lean_bytes = segment_bytes(v->type, n_padded);
  uint16_t *channels = checkkern_guarded(n_kept * sizeof *channels, front);
  choose(d, n_kept, channels, rng);
  void *wide = random_bytes(bytes, front, rng), *lean = random_bytes(lean_bytes, front, rng);
  v->pack(wide, d, channels, n_kept, n_padded, lean);
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
  const double pack = checkkern_time(bench_pack, &b), sum = checkkern_time(bench_sum, &b);
  printf("%-24s D 128: append %.0f ns a token, pack to 64 channels %.2f us, sum %.2f us a page\n",
         v->name, append * 1e9, pack * 1e6, sum * 1e6);
}

static void check_variant(checkkern *ck, const lk_page_variant *v) {
  static const size_t dims[] = {2, 4, 6, 16, 30, 32, 34, 64, 66, 80, 96, 128, 256};
  lk_rng rng = {ck->seed};
  for (size_t i = 0; i < sizeof dims / sizeof *dims; i++) {
    const size_t d = dims[i];
    for (int front = 0; front < 2; front++) {
      check_append(ck, v, d, front, &rng);
      check_sum(ck, v, d, front, &rng);
      for (size_t n = 0; n <= d; n += n < 8 || n + 8 > d ? 1 : 7) {
        const size_t padded = (n + 1) / 2 * 2;
        check_pack(ck, v, d, n, padded, front, &rng);
        check_pack(ck, v, d, n, padded + 2, front, &rng);
      }
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
    for (int type = 0; type < 2; type++) {
      const lk_page_variant *v = lk_page_select((leank_kv_type)type, level);
      checkkern_expect(ck, v && (int)v->type == type && (!level || v->level <= level),
                       "page_select", "type %d at level %d", type, (int)level);
    }
  }
}
