/* CBLAS in fp32 as the tile product, where there is no oneDNN. */
#include "backend/gemm_tiles.h"

#if !defined(LEANK_HAVE_ONEDNN)

#include <cblas.h>
#include <string.h>

#include "base/alloc.h"

struct lk_tile_product {
  size_t n_rows, n_cols, k, stride;
  lk_tile_order order;
};

const char *lk_tile_library(bool bf16) { return bf16 ? NULL : "gemm_f32_blas"; }

leank_status lk_tile_open(bool bf16, size_t n_rows, size_t n_cols, size_t k, lk_tile_order order,
                          size_t stride, lk_tile_product **out, leank_error *err) {
  if (bf16) return lk_fail(err, LEANK_E_UNSUPPORTED, -1, "this build has no bf16 GEMM");
  lk_tile_product *p = lk_alloc(LK_MEM_OTHER, 1, sizeof *p);
  if (!p) return lk_fail(err, LEANK_E_MEMORY, -1, "out of memory");
  *p = (lk_tile_product){n_rows, n_cols, k, stride, order};
  *out = p;
  return LEANK_OK;
}

void lk_tile_close(lk_tile_product **product) {
  lk_free(*product);
  *product = NULL;
}

size_t lk_tile_packed_bytes(const lk_tile_product *p) { return p->n_cols * p->k * sizeof(float); }

/* The same order without gaps. */
leank_status lk_tile_pack(const lk_tile_product *p, void *plain, void *packed, leank_error *err) {
  (void)err;
  const bool n_k = p->order == LK_TILE_N_K;
  const size_t n = n_k ? p->k : p->n_cols, n_rows = n_k ? p->n_cols : p->k;
  for (size_t r = 0; r < n_rows; r++)
    memcpy((float *)packed + r * n, (const float *)plain + r * p->stride, n * sizeof(float));
  return LEANK_OK;
}

leank_status lk_tile_run(const lk_tile_product *p, void *x, void *packed, float *out,
                         leank_error *err) {
  (void)err;
  const bool n_k = p->order == LK_TILE_N_K;
  cblas_sgemm(CblasRowMajor, CblasNoTrans, n_k ? CblasTrans : CblasNoTrans, (int)p->n_rows,
              (int)p->n_cols, (int)p->k, 1.0f, x, (int)p->k, packed, (int)(n_k ? p->k : p->n_cols),
              0.0f, out, (int)p->n_cols);
  return LEANK_OK;
}

#endif
