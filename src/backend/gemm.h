/* Products of many rows with a stored weight matrix, through a library: oneDNN, or CBLAS in fp32.
 * Weights stay as stored and are widened tile by tile. */
#ifndef LK_BACKEND_GEMM_H
#define LK_BACKEND_GEMM_H

#include <stddef.h>

#include <stdbool.h>

#include <leank/session.h>

#include "base/dtype.h"
#include "base/error.h"
#include "base/parallel.h"

/* LK_GEMM_BACK_TILE is the column tile of the product with w itself: as wide as the largest block,
 * so that it cuts none. */
enum { LK_GEMM_ROW_TILE = 64, LK_GEMM_COL_TILE = 128, LK_GEMM_BACK_TILE = 256 };

typedef struct lk_gemm lk_gemm;

/* bf16: operands in bf16 where this machine computes them faster than fp32 (see lk_gemm_name);
 * fp32 accumulation in any case. The team is the caller's and outlives the gemm. */
leank_status lk_gemm_open(bool bf16, leank_cpu_level level, lk_team *team, lk_gemm **out,
                          leank_error *err);
void lk_gemm_close(lk_gemm **gemm);
/* "gemm_bf16_onednn", "gemm_f32_onednn" or "gemm_f32_blas". */
const char *lk_gemm_name(const lk_gemm *gemm);

/* Room for rows x cols of operands (backward: w.n_rows columns); 0 rows frees it. */
leank_status lk_gemm_reserve(lk_gemm *gemm, size_t n_rows, size_t n_cols, leank_error *err);
/* Bytes of a gemm at work: operands of n_rows x n_cols, and each thread's column tile of weights.
 */
size_t lk_gemm_bytes(bool bf16, leank_cpu_level level, size_t n_threads, size_t n_rows,
                     size_t n_cols);

/* y[N][w.n_rows] (+)= x[N][w.n_cols] w^T + bias[w.n_rows] (bias may be NULL, and is where add).
 * Rows are cut into tiles of LK_GEMM_ROW_TILE from row 0, the last one padded, so the bits of a row
 * depend on neither n_rows nor threads. */
leank_status lk_gemm_run(lk_gemm *gemm, const lk_tensor *w, const float *bias, const float *x,
                         size_t n_rows, bool add, float *y, leank_error *err);
/* The same with x in two bf16 parts where operands are bf16 (x = high + low to 2^-17 of it): twice
 * the products, on weights widened once. */
leank_status lk_gemm_run_precise(lk_gemm *gemm, const lk_tensor *w, const float *bias,
                                 const float *x, size_t n_rows, bool add, float *y,
                                 leank_error *err);
/* The gradient of lk_gemm_run's x: dx[N][w.n_cols] (+)= dy[N][w.n_rows] w. Bits as there. */
leank_status lk_gemm_run_backward(lk_gemm *gemm, const lk_tensor *w, const float *dy, size_t n_rows,
                                  bool add, float *dx, leank_error *err);

#endif
