/* Op "attend" of kv type q8 with FEAT_DotProd.
 *
 * decode: per row and page, q times K's scales and the probabilities times V's become integers of
 * magnitudes up to 32639 = 127 * 256 + 127, which are two signed bytes each for SDOT. Sums of a
 * page are exact in 32 bits: |sum| <= 32639 * 128 * D. They become fp32 once per page.
 * rows: those of NEON. */
#include "kernels/attention/attend_kernels.h"
#include "kernels/attention/attend_q8_runs.h"
#include "kernels/attention/attend_vec_neon.h"

#define LK_ATTEND_PAIRS 0
#include "kernels/attention/attend_exp.h"
#include "kernels/attention/attend_tile.h"

enum {
  Q8_ROWS = 4, /* of a tile */
  Q8_VECS = 4, /* of sums at most per row and part: 16 in all */
  PARTS = 2,   /* high, low */
  PAGE_VECS = LK_PAGE_TOKENS / VW,
  VEC_BYTES = VW * LK_Q8_QUAD, /* a quad of 4 keys or channels */
  QUADS = 4,                   /* of a vector of the rows' integers: one of them a step */
  N_QUADS = LK_PAGE_TOKENS / LK_Q8_QUAD,
  MOST = 127 * 256 + 127,
  SOFTMAX_FETCHES = 4 /* steps of products that a row's softmax is worth */
};

/* A tile of rows meets a page. */
typedef struct q8_tile {
  float x[Q8_ROWS][LK_PAGE_TOKENS]; /* logits */
  int8_t p[Q8_ROWS][PARTS][LK_PAGE_TOKENS];
  int8_t q[Q8_ROWS][PARTS][LK_Q8_MAX_DIM + VEC_BYTES]; /* room to load any quad with those behind */
  size_t row, n_rows;
  size_t n_keys[Q8_ROWS]; /* visible */
  float q_unit[Q8_ROWS];  /* a row's q is q_unit * (256 high + low) */
  float p_unit[Q8_ROWS];  /* the same of its probabilities */
  float scale[Q8_ROWS];   /* of what was summed before */
} q8_tile;

/* Vectors of sums per row and part that leave room for their factors. */
LK_INLINE int vecs_of(int n_rows) { return n_rows > 2 ? 2 : Q8_VECS; }

/* ---- integers ---- */

static uint32x4_t magnitude(vf x) { return vreinterpretq_u32_f32(vabsq_f32(x)); }

/* The largest magnitude, given as bits, but at least 2^-100; NaN for what is not finite. */
static float largest_of(uint32x4_t bits) {
  const uint32_t top = vmaxvq_u32(bits), least = 27u << 23;
  if (top >= 0x7f800000u) return NAN;
  return vget_lane_f32(vreinterpret_f32_u32(vdup_n_u32(top > least ? top : least)), 0);
}

/* The low bytes of 16 lanes. */
static int8x16_t low_bytes(const int32x4_t x[4]) {
  const int16x8_t a = vuzp1q_s16(vreinterpretq_s16_s32(x[0]), vreinterpretq_s16_s32(x[1]));
  const int16x8_t b = vuzp1q_s16(vreinterpretq_s16_s32(x[2]), vreinterpretq_s16_s32(x[3]));
  return vuzp1q_s8(vreinterpretq_s8_s16(a), vreinterpretq_s8_s16(b));
}

/* 16 numbers times to_units, rounded: 256 high + low. */
static void store_parts(const vf x[4], float to_units, int8_t *high, int8_t *low) {
  int32x4_t units[4], upper[4];
  for (int i = 0; i < 4; i++) {
    units[i] = vcvtnq_s32_f32(v_mul(x[i], v_set1(to_units)));
    upper[i] = vshrq_n_s32(vaddq_s32(units[i], vdupq_n_s32(128)), 8);
  }
  vst1q_s8(high, low_bytes(upper));
  vst1q_s8(low, low_bytes(units));
}

/* One row's q times K's scales as integers. */
static __attribute__((noinline)) void quantise_query(const float *q, const float *k_scales,
                                                     size_t n, q8_tile *tile, size_t r) {
  enum { STEP = 4 * VW };
  float x[LK_Q8_MAX_DIM + STEP];
  uint32x4_t top = vdupq_n_u32(0);
  for (size_t c = 0; c < n; c += VW) {
    const vf product = v_mul(v_load(q + c), v_load(k_scales + c));
    v_store(x + c, product);
    top = vmaxq_u32(top, magnitude(product));
  }
  for (size_t c = n; c < n + STEP; c += VW) v_store(x + c, v_zero());
  const float largest = largest_of(top), to_units = MOST / largest;
  for (size_t c = 0; c < n; c += STEP) {
    const vf some[4] = {v_load(x + c), v_load(x + c + VW), v_load(x + c + 2 * VW),
                        v_load(x + c + 3 * VW)};
    store_parts(some, to_units, tile->q[r][0] + c, tile->q[r][1] + c);
  }
  tile->q_unit[r] = largest / MOST;
}

/* Logits of one row to probabilities under the maximum so far, as fp32 for their sum and, times
 * V's scales, as integers. Sets the factor that takes older sums to that maximum. */
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
  uint32x4_t largest_bits = vdupq_n_u32(0);
  LK_UNROLL
  for (int i = 0; i < PAGE_VECS; i++) {
    v[i] = v_exp(v_sub(v[i], v_set1(m_new)));
    sum = v_add(sum, v[i]);
    v[i] = v_zero_behind(v_mul(v[i], v_load(v_scales + i * VW)), n_keys - i * VW);
    largest_bits = vmaxq_u32(largest_bits, magnitude(v[i]));
  }
  tile->scale[r] = 1.0f;
  if (old != m_new) tile->scale[r] = vgetq_lane_f32(v_exp(v_set1(old - m_new)), 0);
  const float largest = largest_of(largest_bits), to_units = MOST / largest;
  LK_UNROLL
  for (int i = 0; i < PAGE_VECS; i += 4)
    store_parts(v + i, to_units, tile->p[r][0] + i * VW, tile->p[r][1] + i * VW);
  tile->p_unit[r] = largest / MOST;
  *m = m_new;
  *l = __builtin_fmaf(*l, tile->scale[r], v_hsum(sum));
}

/* ---- products ---- */

typedef int32x4_t q8_sums[Q8_ROWS][PARTS][Q8_VECS];

LK_INLINE void clear_sums(int n_rows, int n_vecs, q8_sums sums) {
  LK_UNROLL
  for (int r = 0; r < n_rows; r++) {
    LK_UNROLL
    for (int b = 0; b < n_vecs; b++) sums[r][0][b] = sums[r][1][b] = vdupq_n_s32(0);
  }
}

/* sum += the quads of x times quad `lane` of `four`; `lane` is a constant. */
LK_INLINE int32x4_t dot_lane(int32x4_t sum, int8x16_t x, int8x16_t four, int lane) {
  switch (lane) {
  case 0: return vdotq_laneq_s32(sum, x, four, 0);
  case 1: return vdotq_laneq_s32(sum, x, four, 1);
  case 2: return vdotq_laneq_s32(sum, x, four, 2);
  default: return vdotq_laneq_s32(sum, x, four, 3);
  }
}

/* The factors of all rows and parts at one place, row_bytes and part_bytes apart. */
LK_INLINE void load_factors(int n_rows, const int8_t *from, size_t part_bytes,
                            int8x16_t four[Q8_ROWS][PARTS]) {
  LK_UNROLL
  for (int r = 0; r < n_rows; r++) {
    LK_UNROLL
    for (int part = 0; part < PARTS; part++)
      four[r][part] = vld1q_s8(from + (size_t)(r * PARTS + part) * part_bytes);
  }
}

LK_INLINE void add_step(int n_rows, int n_vecs, const int8x16_t x[Q8_VECS],
                        int8x16_t four[Q8_ROWS][PARTS], int lane, q8_sums sums) {
  LK_UNROLL
  for (int r = 0; r < n_rows; r++) {
    LK_UNROLL
    for (int part = 0; part < PARTS; part++) {
      LK_UNROLL
      for (int b = 0; b < n_vecs; b++)
        sums[r][part][b] = dot_lane(sums[r][part][b], x[b], four[r][part], lane);
    }
  }
}

/* 256 high + low, as fp32. */
LK_INLINE vf joined(int32x4_t sums[PARTS][Q8_VECS], int b) {
  return vcvtq_f32_s32(vaddq_s32(vshlq_n_s32(sums[0][b], 8), sums[1][b]));
}

/* n_quads quads of channels from number `quad` on, of the n_vecs vectors of keys at k. */
LK_INLINE void add_channels(int n_rows, int n_vecs, int n_quads, const uint8_t *k, size_t quad,
                            const q8_tile *tile, q8_sums sums) {
  int8x16_t four[Q8_ROWS][PARTS];
  load_factors(n_rows, tile->q[0][0] + quad * LK_Q8_QUAD, sizeof tile->q[0][0], four);
  LK_UNROLL
  for (int i = 0; i < n_quads; i++) {
    int8x16_t keys[Q8_VECS];
    LK_UNROLL
    for (int b = 0; b < n_vecs; b++) {
      const uint8_t *at = k + (quad + (size_t)i) * LK_KEY_BLOCK * LK_Q8_QUAD + b * VEC_BYTES;
      keys[b] = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(at), vdupq_n_u8(LK_Q8_K_ZERO)));
    }
    add_step(n_rows, n_vecs, keys, four, i, sums);
  }
}

/* x[n_rows][64] of a page's keys. */
LK_INLINE void q8_logits(int n_rows, const uint8_t *k, size_t n, q8_tile *tile, ahead *next) {
  const int n_vecs = vecs_of(n_rows);
  const size_t n_quads = n / LK_Q8_QUAD;
  for (size_t key = 0; key < LK_PAGE_TOKENS; key += (size_t)n_vecs * VW) {
    const uint8_t *block = k + key / LK_KEY_BLOCK * LK_KEY_BLOCK * n;
    const uint8_t *keys = block + key % LK_KEY_BLOCK * LK_Q8_QUAD;
    q8_sums sums;
    size_t t = 0;
    clear_sums(n_rows, n_vecs, sums);
    for (; t + QUADS <= n_quads; t += QUADS) {
      fetch(next);
      add_channels(n_rows, n_vecs, QUADS, keys, t, tile, sums);
    }
    for (; t < n_quads; t++) add_channels(n_rows, n_vecs, 1, keys, t, tile, sums);
    LK_UNROLL
    for (int r = 0; r < n_rows; r++) {
      LK_UNROLL
      for (int b = 0; b < n_vecs; b++)
        v_store(tile->x[r] + key + b * VW, v_mul(joined(sums[r], b), v_set1(tile->q_unit[r])));
    }
  }
}

/* n_vecs vectors of channels from `v` on, the last one of n_valid lanes: o = scale o + p v. */
LK_INLINE void q8_strip(int n_rows, int n_vecs, ptrdiff_t n_valid, const int8_t *v, size_t head_dim,
                        const q8_tile *tile, float *o, ahead *next) {
  q8_sums sums;
  clear_sums(n_rows, n_vecs, sums);
  for (size_t t = 0; t < N_QUADS; t += QUADS) {
    int8x16_t four[Q8_ROWS][PARTS];
    fetch(next);
    load_factors(n_rows, tile->p[0][0] + t * LK_Q8_QUAD, sizeof tile->p[0][0], four);
    LK_UNROLL
    for (int i = 0; i < QUADS; i++, v += head_dim * LK_Q8_QUAD) {
      int8x16_t values[Q8_VECS];
      LK_UNROLL
      for (int b = 0; b < n_vecs; b++)
        values[b] = vreinterpretq_s8_f32(b == n_vecs - 1 ? v_load_first(v + b * VEC_BYTES, n_valid)
                                                         : v_load(v + b * VEC_BYTES));
      add_step(n_rows, n_vecs, values, four, i, sums);
    }
  }
  LK_UNROLL
  for (int r = 0; r < n_rows; r++) {
    float *row = o + (size_t)r * head_dim;
    LK_UNROLL
    for (int b = 0; b < n_vecs; b++) {
      const ptrdiff_t n = b == n_vecs - 1 ? n_valid : VW;
      const vf old = v_mul(v_load_first(row + b * VW, n), v_set1(tile->scale[r]));
      v_store_first(row + b * VW, n, v_fma(joined(sums[r], b), v_set1(tile->p_unit[r]), old));
    }
  }
}

LK_INLINE void q8_values(int n_rows, const int8_t *v, size_t head_dim, const q8_tile *tile,
                         float *o, ahead *next) {
  const int n_vecs = vecs_of(n_rows);
  const size_t strip = (size_t)n_vecs * VW;
  size_t c = 0;
  for (; c + strip <= head_dim; c += strip)
    q8_strip(n_rows, n_vecs, VW, v + c * LK_Q8_QUAD, head_dim, tile, o + c, next);
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
static ahead plan_fetches(const lk_attend_args *args, size_t page_index, size_t n_tiles,
                          size_t per_tile) {
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
  const size_t n_vecs = (size_t)vecs_of((int)per_tile);
  const size_t vecs = (args->head_dim + VW - 1) / VW, strips = vecs / n_vecs + vecs % n_vecs;
  const size_t steps =
      (PAGE_VECS / n_vecs * (args->n_lean / LK_Q8_QUAD / QUADS) + strips * (N_QUADS / QUADS)) *
          n_tiles +
      SOFTMAX_FETCHES * args->n_q + 1;
  fetch_over(&next, steps);
  return next;
}

/* All rows meet one page, in tiles of nearly one size. */
static void rows_meet_page(const lk_attend_args *args, size_t page_index) {
  const lk_page_view *page = args->pages + page_index;
  const float *k_scales = lk_q8_scales(page->k, args->n_lean);
  const size_t n_q = args->n_q, n_tiles = (n_q + Q8_ROWS - 1) / Q8_ROWS;
  const size_t per_tile = (n_q + n_tiles - 1) / n_tiles;
  ahead next = plan_fetches(args, page_index, n_tiles, per_tile);
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
    case 3: tile_meets_page(3, args, page, &tile, &next); break;
    case 4: tile_meets_page(4, args, page, &tile, &next); break;
    }
  }
}

void lk_attend_decode_lean_q8_neondot(const lk_attend_args *args) {
  for (size_t r = 0; r < args->n_q; r++) {
    args->m[r] = -INFINITY;
    args->l[r] = 0;
  }
  memset(args->o, 0, args->n_q * args->head_dim * sizeof(float));
  for (size_t i = 0; i < args->n_pages; i++) rows_meet_page(args, i);
}

void lk_attend_decode_q8_neondot(const lk_attend_args *args) {
  const q8_kernels kernels = {lk_attend_bf16_neon, lk_attend_decode_lean_q8_neondot, LEANK_KV_Q8};
  q8_attend(args, &kernels);
}
