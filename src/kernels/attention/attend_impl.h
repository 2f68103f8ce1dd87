/* Op "attend" over the vectors of an attend_vec_*.h: tiles of rows against one page at a time.
 *
 * A row's bits depend on its own q, position and visible keys only. So every row goes through the
 * same operations in the same order wherever it stands in a tile, and of a page that the rows of a
 * tile see to different ends, the values beyond the common end are added row by row: a key that a
 * row does not see never meets its accumulator, not even multiplied by 0.
 *
 * The accumulators o[M][Dp] stay in scratch while pages are met, Dp = D rounded up to two vectors,
 * in the order in which the products leave them; the last step puts the channels in order. */
#ifndef LK_KERNELS_ATTEND_IMPL_H
#define LK_KERNELS_ATTEND_IMPL_H

#include "kernels/attention/attend.h"
#include "kernels/attention/attend_exp.h"
#include "kernels/attention/attend_tile.h"

enum { UNIT = 2 * VW, PAGE_VECS = LK_PAGE_TOKENS / VW };

/* What stays the same for all tiles of a call. */
typedef struct attend_job {
  const lk_attend_args *args;
  leank_kv_type type;
  size_t head_padded; /* Dp */
  float *o;           /* [M][Dp] */
  const char *q[2];   /* rows of q and q_lean as the product wants them */
  size_t q_bytes[2];  /* of one such row */
  char *v_pairs;      /* rows with factors in pairs: [32][Dp] pairs of the present page's V */
} attend_job;

/* A tile of rows meets a page. Numbers of visible keys are those of each row. */
typedef struct attend_tile {
  size_t row, n_rows;
  size_t n_keys[TILE_ROWS];
  size_t min_keys, max_keys;
  float scale[TILE_ROWS];
  float x[TILE_ROWS][LK_PAGE_TOKENS] __attribute__((aligned(64))); /* logits, then probabilities */
} attend_tile;

static void tile_visibility(const attend_job *job, const lk_page_view *page, attend_tile *tile) {
  tile->min_keys = LK_PAGE_TOKENS;
  tile->max_keys = 0;
  for (size_t r = 0; r < tile->n_rows; r++) {
    const size_t n = lk_visible_keys(page, job->args->q_pos[tile->row + r]);
    tile->n_keys[r] = n;
    if (n < tile->min_keys) tile->min_keys = n;
    if (n > tile->max_keys) tile->max_keys = n;
  }
}

/* ---- logits ---- */

LK_INLINE void tile_logits(const attend_job *job, leank_kv_type type, int n_rows,
                           const lk_page_view *page, attend_tile *tile, ahead *next) {
  const bool pairs = LK_ATTEND_PAIRS && type == LEANK_KV_BF16;
  const side_kind kind = type == LEANK_KV_F32 ? SIDE_F32 : pairs ? SIDE_PAIRS : SIDE_KEYS;
  const size_t n = page->lean ? job->args->n_lean : job->args->head_dim;
  const size_t n_vectors = type == LEANK_KV_F32 ? n : n / 2; /* of 64 bytes per block of keys */
  const tile_rows base = {job->q[page->lean] + tile->row * job->q_bytes[page->lean],
                          job->q_bytes[page->lean], tile->x[0], LK_PAGE_TOKENS, NULL};
  for (size_t b = 0; b < PAGE_VECS; b += TILE_VECS) {
    const side s = {(const char *)page->k + b * VW * 4 * n_vectors, 64, 64 * n_vectors, 0};
    tile_rows rows = base;
    rows.c += b * VW;
    tile_product(kind, false, n_rows, TILE_VECS, &s, &rows, 0, pairs ? n / 2 : n, false, next);
  }
}

/* ---- softmax ---- */

/* Turns the logits of one row into probabilities under the maximum so far, and gives the factor
 * that takes the row's older sums to it: exactly 1 where the maximum stands. Out of line, so that
 * one sequence of instructions serves every row. */
static __attribute__((noinline)) float row_softmax(float x[LK_PAGE_TOKENS], size_t n_keys,
                                                   const float *bias, bool pairs, float *m,
                                                   float *l) {
  vf v[PAGE_VECS], top;
  LK_UNROLL
  for (int i = 0; i < PAGE_VECS; i++) {
    v[i] = v_load(x + i * VW);
    if (bias) v[i] = v_add(v[i], v_set1(*bias));
    v[i] = v_keep_first(v[i], (ptrdiff_t)n_keys - i * VW);
    top = i ? v_max(top, v[i]) : v[i];
  }
  const float page_top = v_hmax(top), old = *m;
  const float m_new = page_top > old ? page_top : old;
  LK_UNROLL
  for (int i = 0; i < PAGE_VECS; i++) v[i] = v_exp(v_sub(v[i], v_set1(m_new)));
  float scale = 1.0f;
  if (old != m_new) {
    float lanes[VW];
    v_store(lanes, v_exp(v_set1(old - m_new)));
    scale = lanes[0];
  }
  vf sum = v_zero();
#if LK_ATTEND_PAIRS
  if (pairs) sum = v_store_pairs(x, v);
#endif
  for (int i = 0; i < PAGE_VECS && !pairs; i++) {
    v_store(x + i * VW, v[i]);
    sum = v_add(sum, v[i]);
  }
  *m = m_new;
  *l = __builtin_fmaf(*l, scale, v_hsum(sum));
  return scale;
}

static void tile_softmax(const attend_job *job, bool pairs, const lk_page_view *page,
                         attend_tile *tile) {
  const lk_attend_args *args = job->args;
  for (size_t r = 0; r < tile->n_rows; r++) {
    const size_t row = tile->row + r;
    const float *bias = page->lean && args->lean_bias ? args->lean_bias + row : NULL;
    tile->scale[r] = 1.0f;
    if (tile->n_keys[r])
      tile->scale[r] =
          row_softmax(tile->x[r], tile->n_keys[r], bias, pairs, args->m + row, args->l + row);
  }
}

/* ---- output ---- */

typedef struct value_span {
  size_t begin, end; /* steps */
  bool half;
} value_span;

/* Channels in strips of TILE_VECS vectors, then units of 2. */
LK_INLINE void value_strips(const attend_job *job, side_kind kind, int n_rows, size_t row,
                            const char *p, const float *scale, const void *v, value_span span,
                            ahead *next) {
  const size_t head_dim = job->args->head_dim;
  const size_t lane_channels = kind == SIDE_F32 ? 1 : 2; /* of V's own 32-bit lanes */
  const bool in_scratch = kind == SIDE_PAIRS;
  const size_t unit_bytes = in_scratch || kind == SIDE_F32 ? UNIT * 4 : UNIT * 2;
  side s = {v, in_scratch ? job->head_padded * 4 : head_dim * 4 / lane_channels, 64, 0};
  tile_rows rows = {p, LK_PAGE_TOKENS * sizeof(float), job->o + row * job->head_padded,
                    job->head_padded, scale};
  size_t c = 0;
  for (; c + TILE_VECS * VW <= (in_scratch ? job->head_padded : head_dim); c += TILE_VECS * VW) {
    tile_product(kind, false, n_rows, TILE_VECS, &s, &rows, span.begin, span.end, span.half, next);
    s.base += TILE_VECS / 2 * unit_bytes;
    rows.c += TILE_VECS * VW;
  }
  for (; c < head_dim; c += UNIT) {
    s.n_valid = in_scratch ? UNIT : (ptrdiff_t)((head_dim - c) / lane_channels);
    tile_product(kind, true, n_rows, 2, &s, &rows, span.begin, span.end, span.half, next);
    s.base += unit_bytes;
    rows.c += UNIT;
  }
}

LK_INLINE void tile_values(const attend_job *job, leank_kv_type type, bool decode, int n_rows,
                           const lk_page_view *page, attend_tile *tile, ahead *next) {
  const bool pairs = LK_ATTEND_PAIRS && type == LEANK_KV_BF16;
  const side_kind kind = type == LEANK_KV_F32 ? SIDE_F32
                         : !pairs             ? SIDE_VALUES
                         : decode             ? SIDE_VALUE_ROWS
                                              : SIDE_PAIRS;
  const size_t keys_per_step = pairs ? 2 : 1;
  const void *v = kind == SIDE_PAIRS ? job->v_pairs : page->v;
  const bool same = tile->min_keys == tile->max_keys;
  const size_t common = tile->min_keys / keys_per_step;
  const value_span span = {0, common, same && tile->min_keys % keys_per_step};
  value_strips(job, kind, n_rows, tile->row, (const char *)tile->x[0], tile->scale, v, span, next);
  if (same) return;
  const float one = 1.0f;
  for (size_t r = 0; r < tile->n_rows; r++) {
    const size_t n = tile->n_keys[r];
    const value_span rest = {common, n / keys_per_step, n % keys_per_step};
    if (n > common * keys_per_step)
      value_strips(job, kind, 1, tile->row + r, (const char *)tile->x[r], &one, v, rest, NULL);
  }
}

/* ---- pages ---- */

static size_t view_channels(const lk_attend_args *args, const lk_page_view *page) {
  return page->lean ? args->n_lean : args->head_dim;
}

/* Steps of one tile's products with a page. */
static size_t tile_steps(const attend_job *job, const lk_page_view *page) {
  const size_t n_keys_at_once = TILE_VECS * VW, keys_per_step = LK_ATTEND_PAIRS ? 2 : 1;
  const size_t strips = (job->head_padded + TILE_VECS * VW - 1) / (TILE_VECS * VW);
  return view_channels(job->args, page) / lk_kv_interleave(job->type) *
             (LK_PAGE_TOKENS / n_keys_at_once) +
         page->n_keys / keys_per_step * strips;
}

/* While a page is worked on, the next one is on its way, dealt evenly over the work so that memory
 * never rests; with the first one its own V is too, with the last one what the caller names. */
static ahead plan_fetches(const attend_job *job, size_t page_index, size_t n_tiles) {
  const lk_attend_args *args = job->args;
  const lk_page_view *page = args->pages + page_index;
  const size_t bytes = lk_kv_bytes(job->type), v_row_bytes = args->head_dim * bytes;
  ahead next = {.n_lines = 0};
  if (page_index == 0) fetch_range(&next, page->v, page->n_keys * v_row_bytes);
  if (page_index + 1 < args->n_pages) {
    const lk_page_view *then = page + 1;
    fetch_range(&next, then->k, LK_PAGE_TOKENS * view_channels(args, then) * bytes);
    fetch_range(&next, then->v, then->n_keys * v_row_bytes);
  } else if (args->ahead) {
    fetch_range(&next, args->ahead, args->ahead_bytes);
  }
  const size_t steps = tile_steps(job, page) * n_tiles + 1;
  fetch_over(&next, steps);
  return next;
}

LK_INLINE void tile_meets_page(const attend_job *job, leank_kv_type type, bool decode, int n_rows,
                               size_t page_index, attend_tile *tile, ahead *next) {
  const lk_page_view *page = job->args->pages + page_index;
  tile_logits(job, type, n_rows, page, tile, decode ? next : NULL);
  tile_softmax(job, LK_ATTEND_PAIRS && type == LEANK_KV_BF16, page, tile);
  tile_values(job, type, decode, n_rows, page, tile, decode ? next : NULL);
}

/* One body per number of rows, so that every accumulator is a register. */
LK_INLINE void any_tile_meets_page(const attend_job *job, leank_kv_type type, bool decode,
                                   size_t page_index, attend_tile *tile, ahead *next) {
  switch (tile->n_rows) {
  case 1: tile_meets_page(job, type, decode, 1, page_index, tile, next); break;
  case 2: tile_meets_page(job, type, decode, 2, page_index, tile, next); break;
  case 3: tile_meets_page(job, type, decode, 3, page_index, tile, next); break;
#if TILE_ROWS > 3
  case 4: tile_meets_page(job, type, decode, 4, page_index, tile, next); break;
  case 5: tile_meets_page(job, type, decode, 5, page_index, tile, next); break;
  case 6: tile_meets_page(job, type, decode, 6, page_index, tile, next); break;
#endif
  }
}

#if LK_ATTEND_PAIRS
/* V of a page as pairs of keys, [32][Dp] in the order of v_pair_low and _high; 0 for what is not
 * there. Paid once for all tiles of the page. */
static void interleave_values(const attend_job *job, const lk_page_view *page) {
  const size_t row_bytes = job->args->head_dim * 2;
  for (size_t key = 0; key < page->n_keys; key += 2) {
    const char *v = (const char *)page->v + key * row_bytes;
    char *out = job->v_pairs + key / 2 * job->head_padded * 4;
    const bool two = key + 1 < page->n_keys;
    for (size_t at = 0; at < row_bytes; at += VW * 4, v += VW * 4, out += VW * 8) {
      const ptrdiff_t n = (ptrdiff_t)((row_bytes - at) / 4);
      const vf first = v_load_first(v, n);
      const vf second = two ? v_load_first(v + row_bytes, n) : v_zero();
      v_store(out, v_pair_low(first, second));
      v_store(out + VW * 4, v_pair_high(first, second));
    }
  }
}
#endif

/* All rows meet one page. Tiles are of nearly one size: 4 + 3 rows, not 6 + 1. */
LK_INLINE void rows_meet_page(const attend_job *job, leank_kv_type type, bool decode,
                              size_t page_index) {
  const lk_page_view *page = job->args->pages + page_index;
  const size_t n_q = job->args->n_q, n_tiles = (n_q + TILE_ROWS - 1) / TILE_ROWS;
  const size_t per_tile = (n_q + n_tiles - 1) / n_tiles;
#if LK_ATTEND_PAIRS
  bool interleaved = false;
#endif
  attend_tile tile;
  ahead next = {.n_lines = 0};
  if (decode) next = plan_fetches(job, page_index, n_tiles);
  for (tile.row = 0; tile.row < n_q; tile.row += per_tile) {
    tile.n_rows = n_q - tile.row < per_tile ? n_q - tile.row : per_tile;
    tile_visibility(job, page, &tile);
    if (tile.max_keys == 0) continue;
#if LK_ATTEND_PAIRS
    if (!decode && !interleaved) interleave_values(job, page);
    interleaved = true;
#endif
    any_tile_meets_page(job, type, decode, page_index, &tile, &next);
  }
}

/* ---- begin and end ---- */

static size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

#if LK_ATTEND_PAIRS
/* Rounds the rows of q to bf16 at `scratch`; gives its end. */
static char *round_queries(attend_job *job, int lean, const float *q, size_t n, char *scratch) {
  const size_t n_q = job->args->n_q;
  for (size_t r = 0; r < n_q && n; r++)
    v_row_to_bf16(q + r * n, n, (uint16_t *)(void *)scratch + r * n);
  job->q[lean] = scratch;
  job->q_bytes[lean] = n * 2;
  return scratch + round_up(n_q * n * 2, 64);
}
#endif

static attend_job begin(const lk_attend_args *args, leank_kv_type type) {
  const size_t head_padded = round_up(args->head_dim, UNIT);
  attend_job job = {.args = args, .type = type, .head_padded = head_padded};
  job.o = args->scratch;
#if LK_ATTEND_PAIRS
  char *scratch = (char *)args->scratch + round_up(args->n_q * head_padded * sizeof(float), 64);
  scratch = round_queries(&job, 0, args->q, args->head_dim, scratch);
  scratch = round_queries(&job, 1, args->q_lean, args->n_lean, scratch);
  job.v_pairs = scratch;
#else
  job.q[0] = (const char *)args->q;
  job.q[1] = (const char *)args->q_lean;
  job.q_bytes[0] = args->head_dim * sizeof(float);
  job.q_bytes[1] = args->n_lean * sizeof(float);
#endif
  memset(job.o, 0, args->n_q * head_padded * sizeof(float));
  for (size_t r = 0; r < args->n_q; r++) {
    args->m[r] = -INFINITY;
    args->l[r] = 0;
  }
  return job;
}

/* The accumulators of one row to its out row, channels in order. */
static void write_row(const attend_job *job, size_t row) {
  const size_t head_dim = job->args->head_dim;
  const float *o = job->o + row * job->head_padded;
  float *out = job->args->o + row * head_dim, unit[UNIT];
  for (size_t c = 0; c < head_dim; c += UNIT) {
    vf first = v_load(o + c), second = v_load(o + c + VW);
#if LK_ATTEND_PAIRS
    v_lanes_in_order(first, second, &first, &second);
#else
    if (job->type == LEANK_KV_BF16) v_zip(first, second, &first, &second);
#endif
    v_store(unit, first);
    v_store(unit + VW, second);
    memcpy(out + c, unit, (head_dim - c < UNIT ? head_dim - c : UNIT) * sizeof(float));
  }
}

LK_INLINE void attend(const lk_attend_args *args, leank_kv_type type, bool decode) {
  const attend_job job = begin(args, type);
  for (size_t i = 0; i < args->n_pages; i++) rows_meet_page(&job, type, decode, i);
  for (size_t r = 0; r < args->n_q; r++) write_row(&job, r);
}

#endif
