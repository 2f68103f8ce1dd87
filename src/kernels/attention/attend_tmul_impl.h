/* Op "attend" for many rows over tile registers: blocks of 32 rows against groups of 4 pages. The
 * including file chose the tile instructions before (attend_tmul.h) and its vectors
 * (attend_vec_pairs.h).
 *
 * Both products are C[32][32] += A[32][32 n] B[32 n][32] in 2 x 2 tiles of C: logits with A = q and
 * B = K, whose pages lie as tiles already but for the last channels, where n is no multiple of 32;
 * output with A = the probabilities and B = V in pairs of keys. Both are laid in scratch once per
 * group, for all rows.
 *
 * A row's bits depend on its own q, position and visible keys only, though a tile holds rows that
 * see a page to different ends. Such a row's probability of a key it does not see is +0, and every
 * such term is +0 or -0 as long as V is finite: that changes no sum that is not 0, and of a sum of
 * 0 at most the sign, which the last step clears. The same holds for whole steps of 32 keys that
 * only other rows of the block need: they find accumulators that products left, which take and give
 * no denormals; a row is rescaled only where a product with keys of its own follows. Where V is not
 * finite at a key that some row does not see, the rows go one by one, each with the V behind its
 * own sight cleared: the same sums but for signs of 0. */
#ifndef LK_KERNELS_ATTEND_TMUL_IMPL_H
#define LK_KERNELS_ATTEND_TMUL_IMPL_H

#include <stdbool.h>
#include <string.h>

#include "kernels/attention/attend.h"
#include "kernels/attention/attend_exp.h"
#include "kernels/attention/attend_tmul_scratch.h"
#include "kernels/attention/attend_unroll.h"
#include "kernels/page/page.h"

enum { LINE_BYTES = 64, PAGE_VECS = LK_PAGE_TOKENS / VW, GROUP_PAGES = LK_TMUL_GROUP_PAGES };

/* Palette 1, all eight tiles of 16 rows of 64 bytes (Intel SDM, volume 2, LDTILECFG). */
typedef struct tile_config {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16]; /* of tiles 0 .. 7, then 0 */
  uint8_t n_rows[16];
} __attribute__((aligned(64))) tile_config;

static const tile_config all_tiles = {.palette = 1,
                                      .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
                                      .n_rows = {16, 16, 16, 16, 16, 16, 16, 16}};

/* What stays the same for all groups of a call. */
typedef struct tmul_job {
  const lk_attend_args *args;
  int64_t last_pos; /* the largest q_pos */
  size_t head_padded;
  float *o;          /* the pointers: see lk_tmul_layout */
  char *q[2];        /* rows of q and q_lean, 0 behind their channels */
  size_t q_bytes[2]; /* of one such row, a multiple of 64 */
  char *v_pairs, *k_rest;
  float *x;
  char *p;
} tmul_job;

/* Pages that meet the rows together, down to the last one that any row sees. */
typedef struct page_group {
  const lk_page_view *pages;
  size_t n_pages;
  size_t n_keys[GROUP_PAGES]; /* of each page, that any row sees */
} page_group;

typedef struct row_block {
  size_t row, n_rows;
  int64_t min_pos, max_pos; /* of its rows */
  size_t n_pages, n_steps;  /* of the group that it sees: pages, steps of 32 keys */
} row_block;

static size_t view_channels(const lk_attend_args *args, const lk_page_view *page) {
  return page->lean ? args->n_lean : args->head_dim;
}

/* ---- products ---- */

typedef struct tile_factors {
  const char *a; /* rows; a step is 64 bytes of each */
  size_t a_stride;
  const char *b; /* tiles of 1 KiB */
  size_t b_step, b_beside;
} tile_factors;

/* Tiles of C: 0 and 1 beside each other, below them 2 and 3 if there are two of rows. */
LK_INLINE void tiles_zero(bool two) {
  TMUL_ZERO(0);
  TMUL_ZERO(1);
  if (!two) return;
  TMUL_ZERO(2);
  TMUL_ZERO(3);
}

LK_INLINE void tiles_load(bool two, const float *c, size_t stride) {
  const char *low = (const char *)c + LK_TMUL_ROWS * stride;
  TMUL_LOAD(0, (const char *)c, stride);
  TMUL_LOAD(1, (const char *)c + LK_TMUL_ROW_BYTES, stride);
  if (!two) return;
  TMUL_LOAD(2, low, stride);
  TMUL_LOAD(3, low + LK_TMUL_ROW_BYTES, stride);
}

LK_INLINE void tiles_store(bool two, float *c, size_t stride) {
  char *low = (char *)c + LK_TMUL_ROWS * stride;
  TMUL_STORE(0, (char *)c, stride);
  TMUL_STORE(1, (char *)c + LK_TMUL_ROW_BYTES, stride);
  if (!two) return;
  TMUL_STORE(2, low, stride);
  TMUL_STORE(3, low + LK_TMUL_ROW_BYTES, stride);
}

/* Four sums in flight: as long as one product takes. */
LK_INLINE void tiles_multiply(bool two, tile_factors f, size_t n_steps) {
  const size_t below = LK_TMUL_ROWS * f.a_stride;
  for (size_t t = 0; t < n_steps; t++, f.a += LK_TMUL_ROW_BYTES, f.b += f.b_step) {
    TMUL_LOAD(4, f.a, f.a_stride);
    TMUL_LOAD(6, f.b, LK_TMUL_ROW_BYTES);
    TMUL_DOT(0, 4, 6);
    TMUL_LOAD(7, f.b + f.b_beside, LK_TMUL_ROW_BYTES);
    TMUL_DOT(1, 4, 7);
    if (!two) continue;
    TMUL_LOAD(5, f.a + below, f.a_stride);
    TMUL_DOT(2, 5, 6);
    TMUL_DOT(3, 5, 7);
  }
}

/* Logits of a block for one step of keys, two blocks of K. */
LK_INLINE void step_logits(const tmul_job *job, bool two, const page_group *group,
                           const row_block *block, size_t step) {
  const lk_page_view *page = group->pages + step / 2;
  const size_t n = view_channels(job->args, page), k_block = n / 2 * LINE_BYTES;
  const size_t n_whole = n / LK_TMUL_UNIT;
  tile_factors f = {job->q[page->lean] + block->row * job->q_bytes[page->lean],
                    job->q_bytes[page->lean], (const char *)page->k + step % 2 * 2 * k_block,
                    LK_TMUL_TILE_BYTES, k_block};
  tiles_zero(two);
  tiles_multiply(two, f, n_whole);
  if (n % LK_TMUL_UNIT) {
    f.a += n_whole * LK_TMUL_ROW_BYTES;
    f.b = job->k_rest + 2 * step * LK_TMUL_TILE_BYTES;
    f.b_beside = LK_TMUL_TILE_BYTES;
    tiles_multiply(two, f, 1);
  }
  tiles_store(two, job->x + step * LK_TMUL_UNIT, LK_TMUL_GROUP_KEYS * sizeof(float));
}

/* c += P V over the first n_steps steps of the group; strides of rows in bytes. */
LK_INLINE void tiles_output(const tmul_job *job, bool two, const char *p, size_t p_stride, float *c,
                            size_t c_stride, size_t n_steps) {
  tile_factors f = {p, p_stride, job->v_pairs, job->head_padded * LINE_BYTES, LK_TMUL_TILE_BYTES};
  for (size_t at = 0; at < job->head_padded; at += LK_TMUL_UNIT) {
    tiles_load(two, c + at, c_stride);
    tiles_multiply(two, f, n_steps);
    tiles_store(two, c + at, c_stride);
    f.b += 2 * LK_TMUL_TILE_BYTES;
  }
}

/* ---- a group in scratch ---- */

/* V of a page as tiles of pairs of keys, channels in the order of v_pair_low and _high; 0 for what
 * lies behind n_keys. */
static void interleave_values(const tmul_job *job, const lk_page_view *page, size_t slot,
                              size_t n_keys) {
  const size_t row_bytes = job->args->head_dim * 2, step_bytes = job->head_padded * LINE_BYTES;
  for (size_t key = 0; key < LK_PAGE_TOKENS; key += 2) {
    const char *v = (const char *)page->v + key * row_bytes;
    char *out = job->v_pairs + (slot * 2 + key / LK_TMUL_UNIT) * step_bytes +
                key % LK_TMUL_UNIT / 2 * LINE_BYTES;
    for (size_t at = 0; at < row_bytes; at += VW * 4, v += VW * 4, out += 2 * LK_TMUL_TILE_BYTES) {
      const ptrdiff_t n = (ptrdiff_t)((row_bytes - at) / 4);
      const vf first = key < n_keys ? v_load_first(v, n) : v_zero();
      const vf second = key + 1 < n_keys ? v_load_first(v + row_bytes, n) : v_zero();
      v_store(out, v_pair_low(first, second));
      v_store(out + LK_TMUL_TILE_BYTES, v_pair_high(first, second));
    }
  }
}

/* The last channels of K as whole tiles, the missing ones 0: no read behind the page, and what is
 * there would not do, as 0 times it may be NaN. */
static void pad_keys(const tmul_job *job, const lk_page_view *page, size_t slot) {
  enum { N_BLOCKS = LK_PAGE_TOKENS / LK_KEY_BLOCK };
  const size_t n = view_channels(job->args, page), k_block = n / 2 * LINE_BYTES;
  const size_t rest = n % LK_TMUL_UNIT / 2 * LINE_BYTES;
  for (size_t b = 0; b < N_BLOCKS && rest; b++) {
    char *out = job->k_rest + (slot * N_BLOCKS + b) * LK_TMUL_TILE_BYTES;
    memcpy(out, (const char *)page->k + (b + 1) * k_block - rest, rest);
    memset(out + rest, 0, LK_TMUL_TILE_BYTES - rest);
  }
}

static page_group lay_group(const tmul_job *job, size_t first_page) {
  const size_t left = job->args->n_pages - first_page;
  page_group group = {.pages = job->args->pages + first_page};
  for (size_t i = 0; i < GROUP_PAGES && i < left; i++) {
    const lk_page_view *page = group.pages + i;
    group.n_keys[i] = lk_visible_keys(page, job->last_pos);
    if (group.n_keys[i] == 0) break;
    interleave_values(job, page, i, group.n_keys[i]);
    pad_keys(job, page, i);
    group.n_pages++;
  }
  return group;
}

/* ---- the next group, fetched while one is worked on ---- */

typedef struct fetch_cursor {
  const lk_page_view *pages;
  size_t n_ranges, range; /* K and V of each page */
  const char *next, *end; /* of the present range */
  size_t n_lines;         /* at a time */
} fetch_cursor;

static size_t range_bytes(const tmul_job *job, const lk_page_view *page, bool values) {
  return values ? page->n_keys * job->args->head_dim * 2
                : LK_PAGE_TOKENS * view_channels(job->args, page) * 2;
}

static fetch_cursor plan_fetches(const tmul_job *job, size_t first_page) {
  const lk_attend_args *args = job->args;
  fetch_cursor f = {.pages = args->pages + first_page};
  size_t n_bytes = 0;
  for (size_t i = first_page; i < args->n_pages && i < first_page + GROUP_PAGES; i++) {
    if (args->pages[i].pos > job->last_pos) break;
    f.n_ranges += 2;
    n_bytes += range_bytes(job, args->pages + i, false) + range_bytes(job, args->pages + i, true);
  }
  f.n_lines = n_bytes / LINE_BYTES / args->n_q + 1;
  return f;
}

static void fetch(const tmul_job *job, fetch_cursor *f) {
  for (size_t i = 0; i < f->n_lines; i++, f->next += LINE_BYTES) {
    while (f->next >= f->end) {
      if (f->range == f->n_ranges) return;
      const lk_page_view *page = f->pages + f->range / 2;
      const bool values = f->range++ % 2;
      f->next = values ? page->v : page->k;
      f->end = f->next + range_bytes(job, page, values);
    }
    _mm_prefetch(f->next, _MM_HINT_T1);
  }
}

/* ---- softmax ---- */

typedef struct row_sight {
  size_t n_pages; /* of the group, that the row sees */
  size_t n_keys[GROUP_PAGES];
  float bias[GROUP_PAGES];
} row_sight;

static row_sight sight_of(const tmul_job *job, const page_group *group, size_t row) {
  const lk_attend_args *args = job->args;
  row_sight s = {0};
  for (; s.n_pages < group->n_pages; s.n_pages++) {
    const lk_page_view *page = group->pages + s.n_pages;
    s.n_keys[s.n_pages] = lk_visible_keys(page, args->q_pos[row]);
    if (s.n_keys[s.n_pages] == 0) break;
    s.bias[s.n_pages] = page->lean && args->lean_bias ? args->lean_bias[row] : 0;
  }
  return s;
}

/* Adds the bias to a row's logits, makes those of unseen keys -INFINITY; gives the largest. */
LK_INLINE float row_maximum(float *x, const row_sight *sight) {
  vf top = v_set1(-INFINITY);
  for (size_t i = 0; i < sight->n_pages; i++) {
    const vf bias = v_set1(sight->bias[i]);
    LK_UNROLL
    for (int j = 0; j < PAGE_VECS; j++) {
      float *at = x + i * LK_PAGE_TOKENS + j * VW;
      const vf v = v_keep_first(v_add(v_load(at), bias), (ptrdiff_t)sight->n_keys[i] - j * VW);
      v_store(at, v);
      top = v_max(top, v);
    }
  }
  return v_hmax(top);
}

/* Turns the logits of one row into probabilities under the maximum so far, and gives the factor
 * that takes the row's older sums to it: exactly 1 where the maximum stands. Out of line, so that
 * one sequence of instructions serves every row. */
static __attribute__((noinline)) float row_softmax(float *x, char *p, const row_sight *sight,
                                                   float *m, float *l) {
  const float group_top = row_maximum(x, sight), old = *m;
  const float m_new = group_top > old ? group_top : old;
  vf sum = v_zero();
  for (size_t i = 0; i < sight->n_pages; i++) {
    vf v[PAGE_VECS];
    LK_UNROLL
    for (int j = 0; j < PAGE_VECS; j++)
      v[j] = v_exp(v_sub(v_load(x + i * LK_PAGE_TOKENS + j * VW), v_set1(m_new)));
    sum = v_add(sum, v_store_pairs(p + i * LK_PAGE_TOKENS * 2, v));
  }
  float scale = 1.0f;
  if (old != m_new) {
    float lanes[VW];
    v_store(lanes, v_exp(v_set1(old - m_new)));
    scale = lanes[0];
  }
  *m = m_new;
  *l = __builtin_fmaf(*l, scale, v_hsum(sum));
  return scale;
}

static void scale_row(float *o, size_t n, float scale) {
  for (size_t c = 0; c < n; c += VW) v_store(o + c, v_mul(v_load(o + c), v_set1(scale)));
}

static void block_softmax(const tmul_job *job, const page_group *group, const row_block *block,
                          fetch_cursor *next) {
  const lk_attend_args *args = job->args;
  for (size_t r = 0; r < block->n_rows; r++) {
    const size_t row = block->row + r;
    const row_sight sight = sight_of(job, group, row);
    char *p = job->p + r * LK_TMUL_GROUP_KEYS * 2;
    fetch(job, next);
    if (sight.n_pages < block->n_pages)
      memset(p + sight.n_pages * LK_PAGE_TOKENS * 2, 0,
             (block->n_pages - sight.n_pages) * LK_PAGE_TOKENS * 2);
    if (sight.n_pages == 0) continue;
    const float scale =
        row_softmax(job->x + r * LK_TMUL_GROUP_KEYS, p, &sight, args->m + row, args->l + row);
    if (scale != 1.0f) scale_row(job->o + row * job->head_padded, job->head_padded, scale);
  }
}

/* ---- output ---- */

static bool is_finite(const lk_page_view *page, size_t n_keys, size_t head_dim) {
  const size_t n_lanes = n_keys * head_dim / 2;
  __m512i top = _mm512_setzero_si512();
  for (size_t i = 0; i < n_lanes; i += VW) {
    const vf x = v_load_first((const char *)page->v + i * 4, (ptrdiff_t)(n_lanes - i));
    top =
        _mm512_max_epu16(top, _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi16(0x7fff)));
  }
  return _mm512_cmpge_epu16_mask(top, _mm512_set1_epi16(0x7f80)) == 0;
}

/* Whether 0 times V is 0 wherever a row of the block meets a key that it does not see. */
static bool may_share_tiles(const tmul_job *job, const page_group *group, const row_block *block) {
  for (size_t i = 0; i < block->n_pages; i++)
    if (lk_visible_keys(group->pages + i, block->min_pos) < group->n_keys[i] &&
        !is_finite(group->pages + i, group->n_keys[i], job->args->head_dim))
      return false;
  return true;
}

/* A row fills its tiles sixteenfold, by strides of 0. */
static void output_by_row(const tmul_job *job, const page_group *group, const row_block *block) {
  for (size_t r = 0; r < block->n_rows; r++) {
    const size_t row = block->row + r;
    for (size_t i = 0; i < block->n_pages; i++)
      interleave_values(job, group->pages + i, i,
                        lk_visible_keys(group->pages + i, job->args->q_pos[row]));
    tiles_output(job, false, job->p + r * LK_TMUL_GROUP_KEYS * 2, 0,
                 job->o + row * job->head_padded, 0, block->n_steps);
  }
  for (size_t i = 0; i < block->n_pages; i++)
    interleave_values(job, group->pages + i, i, group->n_keys[i]);
}

/* ---- blocks and groups ---- */

static row_block block_at(const tmul_job *job, size_t row, const page_group *group) {
  const lk_attend_args *args = job->args;
  row_block b = {.row = row, .min_pos = args->q_pos[row], .max_pos = args->q_pos[row]};
  b.n_rows = args->n_q - row < LK_TMUL_BLOCK_ROWS ? args->n_q - row : LK_TMUL_BLOCK_ROWS;
  for (size_t r = row; r < row + b.n_rows; r++) {
    if (args->q_pos[r] < b.min_pos) b.min_pos = args->q_pos[r];
    if (args->q_pos[r] > b.max_pos) b.max_pos = args->q_pos[r];
  }
  while (b.n_pages < group->n_pages && group->pages[b.n_pages].pos <= b.max_pos) b.n_pages++;
  if (b.n_pages > 0) {
    const size_t n_last = lk_visible_keys(group->pages + b.n_pages - 1, b.max_pos);
    b.n_steps = 2 * b.n_pages - (n_last <= LK_TMUL_UNIT);
  }
  return b;
}

/* What rows behind the last one hold of a block that is not full is never looked at. */
LK_INLINE void block_meets_group(const tmul_job *job, bool two, const page_group *group,
                                 const row_block *block, fetch_cursor *next) {
  for (size_t step = 0; step < block->n_steps; step++) step_logits(job, two, group, block, step);
  block_softmax(job, group, block, next);
  if (may_share_tiles(job, group, block))
    tiles_output(job, two, job->p, LK_TMUL_GROUP_KEYS * 2, job->o + block->row * job->head_padded,
                 job->head_padded * sizeof(float), block->n_steps);
  else
    output_by_row(job, group, block);
}

static void rows_meet_group(const tmul_job *job, size_t first_page) {
  const page_group group = lay_group(job, first_page);
  fetch_cursor next = plan_fetches(job, first_page + group.n_pages);
  for (size_t row = 0; row < job->args->n_q; row += LK_TMUL_BLOCK_ROWS) {
    const row_block block = block_at(job, row, &group);
    if (block.n_rows > LK_TMUL_ROWS)
      block_meets_group(job, true, &group, &block, &next);
    else
      block_meets_group(job, false, &group, &block, &next);
  }
}

/* ---- begin and end ---- */

/* Rounds the rows of q to bf16; channels and rows of 0 fill the tiles. */
static void round_queries(tmul_job *job, int lean, const float *q, size_t n, size_t n_rows) {
  const size_t padded = (n + LK_TMUL_UNIT - 1) / LK_TMUL_UNIT * LK_TMUL_UNIT;
  job->q_bytes[lean] = padded * 2;
  memset(job->q[lean], 0, n_rows * padded * 2);
  for (size_t r = 0; r < job->args->n_q && n; r++)
    v_row_to_bf16(q + r * n, n, (uint16_t *)(void *)(job->q[lean] + r * padded * 2));
}

static tmul_job begin(const lk_attend_args *args) {
  const lk_tmul_layout at = lk_tmul_layout_of(args->n_q, args->head_dim);
  char *scratch = args->scratch;
  tmul_job job = {.args = args, .last_pos = args->q_pos[0], .head_padded = at.head_padded};
  job.o = (float *)(void *)(scratch + at.o);
  job.v_pairs = scratch + at.v_pairs;
  job.k_rest = scratch + at.k_rest;
  job.x = (float *)(void *)(scratch + at.x);
  job.p = scratch + at.p;
  for (int lean = 0; lean < 2; lean++) job.q[lean] = scratch + at.q[lean];
  round_queries(&job, 0, args->q, args->head_dim, at.rows);
  round_queries(&job, 1, args->q_lean, args->n_lean, at.rows);
  memset(job.o, 0, at.rows * at.head_padded * sizeof(float));
  for (size_t r = 0; r < args->n_q; r++) {
    args->m[r] = -INFINITY;
    args->l[r] = 0;
    if (args->q_pos[r] > job.last_pos) job.last_pos = args->q_pos[r];
  }
  return job;
}

/* The accumulators of one row to its out row: channels in order, no zero below 0. */
static void write_row(const tmul_job *job, size_t row) {
  const size_t head_dim = job->args->head_dim;
  const float *o = job->o + row * job->head_padded;
  float *out = job->args->o + row * head_dim;
  for (size_t c = 0; c < head_dim; c += LK_TMUL_UNIT) {
    vf first, second;
    v_lanes_in_order(v_load(o + c), v_load(o + c + VW), &first, &second);
    v_store_first(out + c, (ptrdiff_t)(head_dim - c), v_add(first, v_zero()));
    if (head_dim - c > VW)
      v_store_first(out + c + VW, (ptrdiff_t)(head_dim - c - VW), v_add(second, v_zero()));
  }
}

static inline void attend_rows(const lk_attend_args *args) {
  const tmul_job job = begin(args);
  TMUL_CONFIGURE(&all_tiles);
  for (size_t i = 0; i < args->n_pages && args->pages[i].pos <= job.last_pos; i += GROUP_PAGES)
    rows_meet_group(&job, i);
  TMUL_RELEASE();
  for (size_t r = 0; r < args->n_q; r++) write_row(&job, r);
}

#endif
