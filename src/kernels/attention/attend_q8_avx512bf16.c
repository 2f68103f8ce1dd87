/* Op "attend" of kv type q8 with VNNI.
 *
 * decode: per row and page, q times K's scales and the probabilities times V's become integers of
 * 16 bits, in two parts of 8 for vpdpbusd, which multiplies unsigned by signed bytes: K (stored off
 * by 128) by q, probabilities by V. Sums of a page are exact in 32 bits: |sum| <= 32639 * 127 * D
 * for logits and 65535 * 127 * 64 for output. They become fp32 once per page.
 * rows: pages are widened to bf16. */
#include "kernels/attention/attend_kernels.h"
#include "kernels/attention/attend_q8_runs.h"
#include "kernels/attention/attend_vec_pairs.h"

#define LK_ATTEND_PAIRS 1
#include "kernels/attention/attend_exp.h"
#include "kernels/attention/attend_tile.h"

enum {
  Q8_ROWS = 2, /* of a tile: 2 parts x 2 rows x 4 vectors of sums; compilers spill 3 rows' */
  Q8_VECS = 4,
  PARTS = 2, /* high, low */
  PAGE_VECS = LK_PAGE_TOKENS / VW,
  N_QUADS = LK_PAGE_TOKENS / LK_Q8_QUAD,
  SOFTMAX_FETCHES = 4 /* steps of products that a row's softmax is worth */
};

/* A tile of rows meets a page. */
typedef struct q8_tile {
  float x[Q8_ROWS][LK_PAGE_TOKENS] __attribute__((aligned(64))); /* logits */
  uint8_t p[Q8_ROWS][PARTS][LK_PAGE_TOKENS];
  int8_t q[Q8_ROWS][PARTS][LK_Q8_MAX_DIM];
  size_t row, n_rows;
  size_t n_keys[Q8_ROWS];    /* visible */
  float q_unit[Q8_ROWS];     /* a row's q is q_unit * (256 high + low) */
  int32_t q_offset[Q8_ROWS]; /* what K's 128 adds to its sums */
  float p_unit[Q8_ROWS];     /* the same of its probabilities */
  float scale[Q8_ROWS];      /* of what was summed before */
} q8_tile;

/* ---- integers ---- */

static float from_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

/* 2^e for a magnitude in [2^e, 2^(e + 1)), given as bits; at least 2^-100, so that no power of two
 * below leaves the range of fp32; NaN for what is not finite. */
static float power_below(uint32_t bits) {
  if (bits >= 0x7f800000u) return NAN;
  const uint32_t exponent = bits >> 23, least = 27;
  return from_bits((exponent > least ? exponent : least) << 23);
}

static __m512i magnitude(vf x) {
  return _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff));
}

/* The low bytes of 16 lanes. Not the instruction that narrows into memory: it is slow, and what it
 * stores is not forwarded to loads. */
static void store_bytes(void *p, __m512i x) { _mm_storeu_si128(p, _mm512_cvtepi32_epi8(x)); }

/* One row's q times K's scales as integers: the largest magnitude comes near 32639 = 127 * 256 +
 * 127, the most that two signed bytes hold on both sides. */
static __attribute__((noinline)) void quantise_query(const float *q, const float *k_scales,
                                                     size_t n, q8_tile *tile, size_t r) {
  const float share = 32639.0f / 32768.0f;
  vf x[LK_Q8_MAX_DIM / VW];
  __m512i top = _mm512_setzero_si512(), sum = top;
  for (size_t c = 0; c < n; c += VW) {
    const ptrdiff_t rest = (ptrdiff_t)(n - c);
    x[c / VW] = v_mul(v_load_first(q + c, rest), v_load_first(k_scales + c, rest));
    top = _mm512_max_epu32(top, magnitude(x[c / VW]));
  }
  const float power = power_below(_mm512_reduce_max_epu32(top));
  const vf to_units = v_set1(0x1p14f / power * share);
  for (size_t c = 0; c < n; c += VW) {
    const __mmask16 lanes = v_first((ptrdiff_t)(n - c));
    const __m512i units = _mm512_maskz_cvtps_epi32(lanes, v_mul(x[c / VW], to_units));
    const __m512i high = _mm512_srai_epi32(_mm512_add_epi32(units, _mm512_set1_epi32(128)), 8);
    store_bytes(tile->q[r][0] + c, high);
    store_bytes(tile->q[r][1] + c, units);
    sum = _mm512_add_epi32(sum, units);
  }
  tile->q_unit[r] = power * 0x1p-14f / share;
  tile->q_offset[r] = LK_Q8_K_ZERO * _mm512_reduce_add_epi32(sum);
}

/* Logits of one row to probabilities under the maximum so far, as fp32 for their sum and, times
 * V's scales, as integers below 2^16. Sets the factor that takes older sums to that maximum. */
static __attribute__((noinline)) void q8_softmax(const float *bias, const float *v_scales,
                                                 q8_tile *tile, size_t r, float *m, float *l) {
  const ptrdiff_t n_keys = (ptrdiff_t)tile->n_keys[r];
  vf v[PAGE_VECS], top;
  LK_UNROLL
  for (int i = 0; i < PAGE_VECS; i++) {
    v[i] = v_load(tile->x[r] + i * VW);
    if (bias) v[i] = v_add(v[i], v_set1(*bias));
    v[i] = v_keep_first(v[i], n_keys - i * VW);
    top = i ? v_max(top, v[i]) : v[i];
  }
  const float page_top = v_hmax(top), old = *m;
  const float m_new = page_top > old ? page_top : old;
  vf sum = v_zero();
  __m512i largest = _mm512_setzero_si512();
  LK_UNROLL
  for (int i = 0; i < PAGE_VECS; i++) {
    v[i] = v_exp(v_sub(v[i], v_set1(m_new)));
    sum = v_add(sum, v[i]);
    v[i] = v_zero_behind(v_mul(v[i], v_load(v_scales + i * VW)), n_keys - i * VW);
    largest = _mm512_max_epu32(largest, _mm512_castps_si512(v[i]));
  }
  tile->scale[r] = 1.0f;
  if (old != m_new) {
    float lanes[VW];
    v_store(lanes, v_exp(v_set1(old - m_new)));
    tile->scale[r] = lanes[0];
  }
  const float power = power_below(_mm512_reduce_max_epu32(largest));
  const vf to_units = v_set1(0x1p15f / power);
  LK_UNROLL
  for (int i = 0; i < PAGE_VECS; i++) {
    const __m512i rounded = _mm512_cvtps_epi32(v_mul(v[i], to_units));
    const __m512i units = _mm512_min_epu32(rounded, _mm512_set1_epi32(65535));
    store_bytes(tile->p[r][0] + i * VW, _mm512_srli_epi32(units, 8));
    store_bytes(tile->p[r][1] + i * VW, units);
  }
  tile->p_unit[r] = power * 0x1p-15f;
  *m = m_new;
  *l = __builtin_fmaf(*l, tile->scale[r], v_hsum(sum));
}

/* ---- products ---- */

static __m512i broadcast_quad(const void *p) {
  int32_t x;
  memcpy(&x, p, sizeof x);
  return _mm512_set1_epi32(x);
}

LK_INLINE void clear_sums(int n_rows, int n_vecs, __m512i sums[Q8_ROWS][PARTS][Q8_VECS]) {
  LK_UNROLL
  for (int r = 0; r < n_rows; r++) {
    LK_UNROLL
    for (int b = 0; b < n_vecs; b++) sums[r][0][b] = sums[r][1][b] = _mm512_setzero_si512();
  }
}

/* 256 high + low, as fp32. */
LK_INLINE vf joined(__m512i sums[PARTS][Q8_VECS], int b, int32_t offset) {
  const __m512i sum = _mm512_add_epi32(_mm512_slli_epi32(sums[0][b], 8), sums[1][b]);
  return _mm512_cvtepi32_ps(_mm512_sub_epi32(sum, _mm512_set1_epi32(offset)));
}

/* x[n_rows][64] of a page's keys. */
LK_INLINE void q8_logits(int n_rows, const uint8_t *k, size_t n, q8_tile *tile, ahead *next) {
  const size_t n_steps = n / LK_Q8_QUAD, block = LK_KEY_BLOCK * n;
  __m512i sums[Q8_ROWS][PARTS][Q8_VECS];
  clear_sums(n_rows, PAGE_VECS, sums);
  for (size_t t = 0; t < n_steps; t++) {
    fetch(next);
    __m512i keys[PAGE_VECS];
    LK_UNROLL
    for (int b = 0; b < PAGE_VECS; b++)
      keys[b] = _mm512_loadu_si512(k + (size_t)b * block + t * VW * LK_Q8_QUAD);
    LK_UNROLL
    for (int r = 0; r < n_rows; r++) {
      LK_UNROLL
      for (int part = 0; part < PARTS; part++) {
        const __m512i q = broadcast_quad(tile->q[r][part] + t * LK_Q8_QUAD);
        LK_UNROLL
        for (int b = 0; b < PAGE_VECS; b++)
          sums[r][part][b] = _mm512_dpbusd_epi32(sums[r][part][b], keys[b], q);
      }
    }
  }
  LK_UNROLL
  for (int r = 0; r < n_rows; r++) {
    LK_UNROLL
    for (int b = 0; b < PAGE_VECS; b++)
      v_store(tile->x[r] + b * VW,
              v_mul(joined(sums[r], b, tile->q_offset[r]), v_set1(tile->q_unit[r])));
  }
}

/* n_vecs vectors of channels from `v` on, the last one of n_valid lanes: o = scale o + p v. */
LK_INLINE void q8_strip(int n_rows, int n_vecs, ptrdiff_t n_valid, const int8_t *v, size_t head_dim,
                        const q8_tile *tile, float *o, ahead *next) {
  const __mmask16 lanes = v_first(n_valid);
  __m512i sums[Q8_ROWS][PARTS][Q8_VECS];
  clear_sums(n_rows, n_vecs, sums);
  for (size_t t = 0; t < N_QUADS; t++, v += head_dim * LK_Q8_QUAD) {
    fetch(next);
    __m512i values[Q8_VECS];
    LK_UNROLL
    for (int b = 0; b < n_vecs; b++)
      values[b] = b == n_vecs - 1 ? _mm512_maskz_loadu_epi32(lanes, v + b * VW * LK_Q8_QUAD)
                                  : _mm512_loadu_si512(v + b * VW * LK_Q8_QUAD);
    LK_UNROLL
    for (int r = 0; r < n_rows; r++) {
      LK_UNROLL
      for (int part = 0; part < PARTS; part++) {
        const __m512i p = broadcast_quad(tile->p[r][part] + t * LK_Q8_QUAD);
        LK_UNROLL
        for (int b = 0; b < n_vecs; b++)
          sums[r][part][b] = _mm512_dpbusd_epi32(sums[r][part][b], p, values[b]);
      }
    }
  }
  LK_UNROLL
  for (int r = 0; r < n_rows; r++) {
    float *row = o + (size_t)r * head_dim;
    LK_UNROLL
    for (int b = 0; b < n_vecs; b++) {
      const ptrdiff_t n = b == n_vecs - 1 ? n_valid : VW;
      const vf old = v_mul(v_load_first(row + b * VW, n), v_set1(tile->scale[r]));
      v_store_first(row + b * VW, n, v_fma(joined(sums[r], b, 0), v_set1(tile->p_unit[r]), old));
    }
  }
}

LK_INLINE void q8_values(int n_rows, const int8_t *v, size_t head_dim, const q8_tile *tile,
                         float *o, ahead *next) {
  enum { STRIP = Q8_VECS * VW };
  size_t c = 0;
  for (; c + STRIP <= head_dim; c += STRIP)
    q8_strip(n_rows, Q8_VECS, VW, v + c * LK_Q8_QUAD, head_dim, tile, o + c, next);
  for (; c < head_dim; c += VW)
    q8_strip(n_rows, 1, (ptrdiff_t)(head_dim - c), v + c * LK_Q8_QUAD, head_dim, tile, o + c, next);
}

/* ---- pages ---- */

/* Rows that see nothing of the page get integers of 0 and the factor 1: their sums stay. */
static void tile_softmax(const lk_attend_args *args, const lk_page_view *page, q8_tile *tile,
                         ahead *next) {
  const float *v_scales = lk_q8_scales(page->v, args->head_dim);
  for (size_t r = 0; r < tile->n_rows; r++) {
    const size_t row = tile->row + r;
    for (int i = 0; i < SOFTMAX_FETCHES; i++) fetch(next);
    if (tile->n_keys[r]) {
      const float *bias = args->lean_bias ? args->lean_bias + row : NULL;
      q8_softmax(bias, v_scales, tile, r, args->m + row, args->l + row);
      continue;
    }
    memset(tile->p[r], 0, sizeof tile->p[r]);
    tile->p_unit[r] = tile->scale[r] = 1.0f;
  }
}

LK_INLINE void tile_meets_page(int n_rows, const lk_attend_args *args, const lk_page_view *page,
                               q8_tile *tile, ahead *next) {
  float *o = args->o + tile->row * args->head_dim;
  q8_logits(n_rows, page->k, args->n_lean, tile, next);
  tile_softmax(args, page, tile, next);
  q8_values(n_rows, page->v, args->head_dim, tile, o, next);
}

/* While a page is worked on, the next one is on its way, dealt evenly over the products; with the
 * first one its own V is too, with the last one what the caller names. */
static ahead plan_fetches(const lk_attend_args *args, size_t page_index, size_t n_tiles) {
  const lk_page_view *page = args->pages + page_index;
  const size_t k_bytes = lk_page_k_bytes(LEANK_KV_Q8, true, args->n_lean);
  const size_t v_bytes = lk_page_v_bytes(LEANK_KV_Q8, true, args->head_dim);
  ahead next = {.n_lines = 0};
  if (page_index == 0) fetch_range(&next, page->v, v_bytes);
  if (page_index + 1 < args->n_pages) {
    fetch_range(&next, page[1].k, k_bytes);
    fetch_range(&next, page[1].v, v_bytes);
  } else if (args->ahead) {
    fetch_range(&next, args->ahead, args->ahead_bytes);
  }
  const size_t vecs = (args->head_dim + VW - 1) / VW;
  const size_t strips = vecs / Q8_VECS + vecs % Q8_VECS;
  const size_t steps =
      (args->n_lean / LK_Q8_QUAD + strips * N_QUADS) * n_tiles + SOFTMAX_FETCHES * args->n_q + 1;
  fetch_over(&next, steps);
  return next;
}

/* All rows meet one page, in tiles of nearly one size. */
static void rows_meet_page(const lk_attend_args *args, size_t page_index) {
  const lk_page_view *page = args->pages + page_index;
  const float *k_scales = lk_q8_scales(page->k, args->n_lean);
  const size_t n_q = args->n_q, n_tiles = (n_q + Q8_ROWS - 1) / Q8_ROWS;
  const size_t per_tile = (n_q + n_tiles - 1) / n_tiles;
  ahead next = plan_fetches(args, page_index, n_tiles);
  q8_tile tile;
  for (tile.row = 0; tile.row < n_q; tile.row += per_tile) {
    tile.n_rows = n_q - tile.row < per_tile ? n_q - tile.row : per_tile;
    size_t most = 0;
    for (size_t r = 0; r < tile.n_rows; r++) {
      const size_t row = tile.row + r;
      tile.n_keys[r] = lk_visible_keys(page, args->q_pos[row]);
      most = tile.n_keys[r] > most ? tile.n_keys[r] : most;
      quantise_query(args->q_lean + row * args->n_lean, k_scales, args->n_lean, &tile, r);
    }
    if (most == 0) continue;
    switch (tile.n_rows) {
    case 1: tile_meets_page(1, args, page, &tile, &next); break;
    case 2: tile_meets_page(2, args, page, &tile, &next); break;
    }
  }
}

/* Lean pages of int8 alone. */
static void decode_lean(const lk_attend_args *args) {
  for (size_t r = 0; r < args->n_q; r++) {
    args->m[r] = -INFINITY;
    args->l[r] = 0;
  }
  memset(args->o, 0, args->n_q * args->head_dim * sizeof(float));
  for (size_t i = 0; i < args->n_pages; i++) rows_meet_page(args, i);
}

void lk_attend_decode_q8_avx512bf16(const lk_attend_args *args) {
  const q8_kernels kernels = {lk_attend_decode_bf16_avx512bf16, decode_lean, LEANK_KV_Q8};
  q8_attend(args, &kernels);
}

void lk_attend_rows_q8_avx512bf16(const lk_attend_args *args) {
  const q8_kernels kernels = {lk_attend_rows_bf16_avx512bf16, lk_attend_rows_bf16_avx512bf16,
                              LEANK_KV_BF16};
  q8_attend(args, &kernels);
}
