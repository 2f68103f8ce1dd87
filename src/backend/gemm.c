#include "backend/gemm.h"

#include <stdint.h>
#include <string.h>

#include "backend/gemm_tiles.h"
#include "base/alloc.h"
#include "cpu/cpu_features.h"
#include "kernels/dequant/dequant.h"
#include "kernels/rows/rows.h"

enum { MAX_SHAPES = 64 };

typedef struct shape_entry {
  size_t n_cols, k;
  lk_tile_order order;
  lk_tile_product *product;
} shape_entry;

typedef struct worker {
  shape_entry shapes[MAX_SHAPES];
  size_t n_shapes;
  unsigned char *plain, *packed; /* one column tile of weights, two orders */
  size_t plain_bytes, packed_bytes;
  float *out;          /* [row tile][column tile] */
  leank_status status; /* of this worker's items in the present product */
  leank_error err;
} worker;

struct lk_gemm {
  bool bf16;
  lk_team *team;
  size_t n_threads, element_bytes;
  const lk_rows_variant *rows;
  const lk_dequant_variant *dequant[LK_N_DTYPES];
  const char *name;
  worker *workers;  /* [n_threads] */
  unsigned char *x; /* [padded rows][K] operands */
  size_t x_bytes;
};

static bool uses_bf16(bool wanted, leank_cpu_level level) {
  return wanted && lk_cpu_bf16_products(level) && lk_tile_library(true);
}

leank_status lk_gemm_open(bool bf16, leank_cpu_level level, lk_team *team, lk_gemm **out,
                          leank_error *err) {
  leank_status status = LEANK_OK;
  lk_gemm *g = lk_alloc(LK_MEM_OTHER, 1, sizeof *g);
  LK_FAIL_IF(!g, err, LEANK_E_MEMORY, -1, "out of memory");
  g->bf16 = uses_bf16(bf16, level);
  g->element_bytes = g->bf16 ? 2 : 4;
  g->team = team;
  g->n_threads = lk_team_size(team);
  g->name = lk_tile_library(g->bf16);
  g->rows = lk_rows_select(level);
  for (int t = 0; t < LK_N_DTYPES; t++) g->dequant[t] = lk_dequant_select((lk_dtype)t, level);
  g->workers = lk_alloc(LK_MEM_OTHER, g->n_threads, sizeof *g->workers);
  LK_FAIL_IF(!g->workers, err, LEANK_E_MEMORY, -1, "out of memory");
  for (size_t i = 0; i < g->n_threads; i++) {
    g->workers[i].out =
        lk_alloc(LK_MEM_SCRATCH, LK_GEMM_ROW_TILE * LK_GEMM_BACK_TILE, sizeof(float));
    LK_FAIL_IF(!g->workers[i].out, err, LEANK_E_MEMORY, -1, "out of memory");
  }
  *out = g;
cleanup:
  if (status != LEANK_OK) lk_gemm_close(&g);
  return status;
}

void lk_gemm_close(lk_gemm **gemm) {
  lk_gemm *g = *gemm;
  if (!g) return;
  for (size_t i = 0; g->workers && i < g->n_threads; i++) {
    worker *w = &g->workers[i];
    for (size_t s = 0; s < w->n_shapes; s++) lk_tile_close(&w->shapes[s].product);
    lk_free(w->plain);
    lk_free(w->packed);
    lk_free(w->out);
  }
  lk_free(g->workers);
  lk_free(g->x);
  lk_free(g);
  *gemm = NULL;
}

const char *lk_gemm_name(const lk_gemm *gemm) { return gemm->name; }

static size_t padded(size_t n_rows) {
  return (n_rows + LK_GEMM_ROW_TILE - 1) / LK_GEMM_ROW_TILE * LK_GEMM_ROW_TILE;
}

/* Elements from one row of a plain tile [n][K] to the next. Packing reads many rows side by side:
 * an odd number of cache lines spreads them over the whole cache, where the usual multiples of
 * 1 KiB would crowd into a few of its sets. */
static size_t plain_stride(size_t k, size_t element_bytes) {
  const size_t per_line = 64 / element_bytes, n_lines = (k + per_line - 1) / per_line;
  return (n_lines | 1) * per_line;
}

size_t lk_gemm_bytes(bool bf16, leank_cpu_level level, size_t n_threads, size_t n_rows,
                     size_t n_cols) {
  const size_t element = uses_bf16(bf16, level) ? 2 : 4;
  const size_t tile = LK_GEMM_COL_TILE * (n_cols + plain_stride(n_cols, element));
  return (padded(n_rows) * n_cols + n_threads * tile) * element;
}

leank_status lk_gemm_reserve(lk_gemm *g, size_t n_rows, size_t n_cols, leank_error *err) {
  const size_t n_bytes = padded(n_rows) * n_cols * g->element_bytes;
  if (n_rows > 0 && n_bytes <= g->x_bytes) return LEANK_OK;
  lk_free(g->x);
  g->x = NULL;
  g->x_bytes = 0;
  if (n_rows == 0) return LEANK_OK;
  g->x = lk_alloc(LK_MEM_SCRATCH, n_bytes, 1);
  if (!g->x) return lk_fail(err, LEANK_E_MEMORY, -1, "out of memory: %zu bytes for GEMM", n_bytes);
  g->x_bytes = n_bytes;
  return LEANK_OK;
}

static leank_status grow(unsigned char **p, size_t *have, size_t want, leank_error *err) {
  if (*have >= want) return LEANK_OK;
  lk_free(*p);
  *have = 0;
  *p = lk_alloc(LK_MEM_SCRATCH, want, 1);
  if (!*p) return lk_fail(err, LEANK_E_MEMORY, -1, "out of memory: %zu bytes for GEMM", want);
  *have = want;
  return LEANK_OK;
}

typedef struct gemm_job {
  lk_gemm *g;
  const lk_tensor *w;
  lk_tile_order order; /* K_N: the product with w itself */
  size_t k, n_out;     /* columns of x and of y */
  size_t col_tile;
  const float *bias, *x;
  float *y;
  size_t n_rows;
  bool add;
  bool precise; /* operands: high parts of the padded rows, then their low parts */
} gemm_job;

/* The worker's product for a column tile of n columns, made when first asked for. */
static leank_status find_product(const gemm_job *job, worker *w, size_t n_cols, size_t stride,
                                 lk_tile_product **out, leank_error *err) {
  leank_status status = LEANK_OK;
  for (size_t i = 0; i < w->n_shapes; i++) {
    const shape_entry *s = &w->shapes[i];
    if (s->n_cols == n_cols && s->k == job->k && s->order == job->order) {
      *out = s->product;
      return LEANK_OK;
    }
  }
  LK_FAIL_IF(w->n_shapes == MAX_SHAPES, err, LEANK_E_UNSUPPORTED, -1,
             "more than %d different matrix shapes in one model", MAX_SHAPES);
  lk_tile_product *product = NULL;
  LK_TRY(lk_tile_open(job->g->bf16, LK_GEMM_ROW_TILE, n_cols, job->k, job->order, stride, &product,
                      err));
  w->shapes[w->n_shapes++] = (shape_entry){n_cols, job->k, job->order, product};
  *out = product;
cleanup:
  return status;
}

/* Item: one row tile of x becomes operands; rows behind the last become zero. */
static void convert_rows(void *ctx, size_t item, size_t thread) {
  (void)thread;
  gemm_job *job = ctx;
  lk_gemm *g = job->g;
  const size_t k = job->k, first = item * LK_GEMM_ROW_TILE;
  for (size_t r = first; r < first + LK_GEMM_ROW_TILE; r++) {
    unsigned char *to = g->x + r * k * g->element_bytes;
    if (r >= job->n_rows)
      memset(to, 0, k * g->element_bytes);
    else if (g->bf16)
      g->rows->to_bf16(job->x + r * k, k, (uint16_t *)(void *)to);
    else
      memcpy(to, job->x + r * k, k * sizeof(float));
  }
}

/* to_f32 of a bf16 row, subtracted from x and rounded again: what the first rounding lost. */
static void round_rest(const lk_gemm *g, const float *x, const uint16_t *high, size_t k,
                       uint16_t *low) {
  enum { SPAN = 256 };
  float rest[SPAN];
  for (size_t i = 0; i < k; i += SPAN) {
    const size_t n = k - i < SPAN ? k - i : SPAN;
    for (size_t c = 0; c < n; c++) rest[c] = x[i + c] - lk_bf16_to_f32(high[i + c]);
    g->rows->to_bf16(rest, n, low + i);
  }
}

/* Item: one row tile of what the high parts of x leave. */
static void convert_rest(void *ctx, size_t item, size_t thread) {
  (void)thread;
  gemm_job *job = ctx;
  lk_gemm *g = job->g;
  const size_t k = job->k, first = item * LK_GEMM_ROW_TILE;
  uint16_t *high = (uint16_t *)(void *)g->x, *low = high + padded(job->n_rows) * k;
  for (size_t r = first; r < first + LK_GEMM_ROW_TILE; r++) {
    if (r >= job->n_rows)
      memset(low + r * k, 0, k * sizeof *low);
    else
      round_rest(g, job->x + r * k, high + r * k, k, low + r * k);
  }
}

static void add_tile(const gemm_job *job, const float *tile, size_t first_row, size_t first_col,
                     size_t n_cols) {
  size_t n = job->n_rows - first_row;
  if (n > LK_GEMM_ROW_TILE) n = LK_GEMM_ROW_TILE;
  for (size_t r = 0; r < n; r++)
    job->g->rows->add(tile + r * n_cols, n_cols, job->y + (first_row + r) * job->n_out + first_col);
}

static void store_tile(const gemm_job *job, const float *tile, size_t first_row, size_t first_col,
                       size_t n_cols) {
  const size_t n_out = job->n_out;
  size_t n = job->n_rows - first_row;
  if (n > LK_GEMM_ROW_TILE) n = LK_GEMM_ROW_TILE;
  for (size_t r = 0; r < n; r++) {
    const float *from = tile + r * n_cols;
    float *to = job->y + (first_row + r) * n_out + first_col;
    if (job->add)
      for (size_t c = 0; c < n_cols; c++) to[c] += from[c];
    else if (job->bias)
      for (size_t c = 0; c < n_cols; c++) to[c] = from[c] + job->bias[first_col + c];
    else
      memcpy(to, from, n_cols * sizeof(float));
  }
}

static void widen(const lk_gemm *g, lk_dtype type, const void *from, size_t n, unsigned char *to) {
  if (g->bf16)
    g->dequant[type]->to_bf16(from, n, (uint16_t *)(void *)to);
  else
    g->dequant[type]->to_f32(from, n, (float *)(void *)to);
}

/* Column tiles [n][K] are rows of w. */
static void widen_rows(const gemm_job *job, size_t first_col, size_t n_cols, size_t stride,
                       unsigned char *plain) {
  for (size_t r = 0; r < n_cols; r++)
    widen(job->g, job->w->type, lk_tensor_row(job->w, first_col + r), job->k,
          plain + r * stride * job->g->element_bytes);
}

/* Column tiles [K][n] are a piece of whole blocks of every row. Pieces lie too far apart for the
 * processor to foresee, so those some rows on are asked for. */
static void widen_pieces(const gemm_job *job, size_t first_col, size_t n_cols,
                         unsigned char *plain) {
  enum { ROWS_AHEAD = 6 };
  const lk_dtype type = job->w->type;
  const size_t row_bytes = lk_tensor_row_bytes(job->w), n_bytes = lk_dtype_bytes(type, n_cols);
  const unsigned char *piece =
      (const unsigned char *)job->w->data + lk_dtype_bytes(type, first_col);
  for (size_t r = 0; r < job->k; r++, piece += row_bytes) {
    if (r + ROWS_AHEAD < job->k)
      for (size_t b = 0; b < n_bytes; b += 64)
        __builtin_prefetch(piece + ROWS_AHEAD * row_bytes + b);
    widen(job->g, type, piece, n_cols, plain + r * n_cols * job->g->element_bytes);
  }
}

static leank_status run_column_tile(gemm_job *job, size_t item, worker *w, leank_error *err) {
  leank_status status = LEANK_OK;
  lk_gemm *g = job->g;
  const size_t k = job->k, first_col = item * job->col_tile;
  size_t n_cols = job->n_out - first_col;
  if (n_cols > job->col_tile) n_cols = job->col_tile;
  const bool whole = job->order == LK_TILE_N_K;
  const size_t stride = whole ? plain_stride(k, g->element_bytes) : n_cols;
  lk_tile_product *product = NULL;
  LK_TRY(find_product(job, w, n_cols, stride, &product, err));
  LK_TRY(grow(&w->plain, &w->plain_bytes, (whole ? n_cols : k) * stride * g->element_bytes, err));
  LK_TRY(grow(&w->packed, &w->packed_bytes, lk_tile_packed_bytes(product), err));
  if (whole)
    widen_rows(job, first_col, n_cols, stride, w->plain);
  else
    widen_pieces(job, first_col, n_cols, w->plain);
  LK_TRY(lk_tile_pack(product, w->plain, w->packed, err));
  for (size_t r = 0; r < job->n_rows; r += LK_GEMM_ROW_TILE) {
    LK_TRY(lk_tile_run(product, g->x + r * k * g->element_bytes, w->packed, w->out, err));
    store_tile(job, w->out, r, first_col, n_cols);
    if (!job->precise) continue;
    const unsigned char *low = g->x + (padded(job->n_rows) + r) * k * g->element_bytes;
    LK_TRY(lk_tile_run(product, (void *)(uintptr_t)low, w->packed, w->out, err));
    add_tile(job, w->out, r, first_col, n_cols);
  }
cleanup:
  return status;
}

static void column_item(void *ctx, size_t item, size_t thread) {
  gemm_job *job = ctx;
  worker *w = &job->g->workers[thread];
  if (w->status == LEANK_OK) w->status = run_column_tile(job, item, w, &w->err);
}

static leank_status run_job(gemm_job *job, leank_error *err) {
  lk_gemm *g = job->g;
  const size_t n_tiles = padded(job->n_rows) / LK_GEMM_ROW_TILE;
  leank_status status =
      lk_gemm_reserve(g, padded(job->n_rows) * (job->precise ? 2 : 1), job->k, err);
  if (status != LEANK_OK) return status;
  lk_parallel_for(g->team, n_tiles, convert_rows, job);
  if (job->precise) lk_parallel_for(g->team, n_tiles, convert_rest, job);
  const size_t n_items = (job->n_out + job->col_tile - 1) / job->col_tile;
  for (size_t i = 0; i < g->n_threads; i++) g->workers[i].status = LEANK_OK;
  lk_parallel_for(g->team, n_items, column_item, job);
  for (size_t i = 0; i < g->n_threads; i++) {
    if (g->workers[i].status == LEANK_OK) continue;
    if (err) *err = g->workers[i].err;
    return g->workers[i].status;
  }
  return LEANK_OK;
}

static leank_status run_forward(lk_gemm *g, const lk_tensor *w, const float *bias, const float *x,
                                size_t n_rows, bool add, bool precise, float *y, leank_error *err) {
  gemm_job job = {.g = g,
                  .precise = precise && g->bf16,
                  .w = w,
                  .order = LK_TILE_N_K,
                  .k = w->n_cols,
                  .n_out = w->n_rows,
                  .col_tile = LK_GEMM_COL_TILE,
                  .bias = bias,
                  .x = x,
                  .y = y,
                  .n_rows = n_rows,
                  .add = add};
  return run_job(&job, err);
}

leank_status lk_gemm_run(lk_gemm *g, const lk_tensor *w, const float *bias, const float *x,
                         size_t n_rows, bool add, float *y, leank_error *err) {
  return run_forward(g, w, bias, x, n_rows, add, false, y, err);
}

leank_status lk_gemm_run_precise(lk_gemm *g, const lk_tensor *w, const float *bias, const float *x,
                                 size_t n_rows, bool add, float *y, leank_error *err) {
  return run_forward(g, w, bias, x, n_rows, add, true, y, err);
}

leank_status lk_gemm_run_backward(lk_gemm *g, const lk_tensor *w, const float *dy, size_t n_rows,
                                  bool add, float *dx, leank_error *err) {
  gemm_job job = {.g = g,
                  .w = w,
                  .order = LK_TILE_K_N,
                  .k = w->n_rows,
                  .n_out = w->n_cols,
                  .col_tile = LK_GEMM_BACK_TILE,
                  .x = dy,
                  .y = dx,
                  .n_rows = n_rows,
                  .add = add};
  return run_job(&job, err);
}
