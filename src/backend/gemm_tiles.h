/* What a GEMM library must offer: one tile product. gemm.c does the rest. */
#ifndef LK_BACKEND_GEMM_TILES_H
#define LK_BACKEND_GEMM_TILES_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

/* How the plain weights of a column tile lie: [n][K] or [K][n], rows `stride` elements apart. */
typedef enum lk_tile_order { LK_TILE_N_K, LK_TILE_K_N } lk_tile_order;

/* Products of a row tile [M][K] with a column tile [n][K] or [K][n] (one thread, one K, one n). */
typedef struct lk_tile_product lk_tile_product;

/* Name of the library's path; NULL when it cannot do bf16 (asked with bf16 = true). */
const char *lk_tile_library(bool bf16);
leank_status lk_tile_open(bool bf16, size_t n_rows, size_t n_cols, size_t k, lk_tile_order order,
                          size_t stride, lk_tile_product **out, leank_error *err);
void lk_tile_close(lk_tile_product **product);
/* Bytes of the weights in the library's own order. */
size_t lk_tile_packed_bytes(const lk_tile_product *product);
/* Reorders plain weights into `packed`. */
leank_status lk_tile_pack(const lk_tile_product *product, void *plain, void *packed,
                          leank_error *err);
/* out[M][n] = x[M][K] by the packed weights. */
leank_status lk_tile_run(const lk_tile_product *product, void *x, void *packed, float *out,
                         leank_error *err);

#endif
