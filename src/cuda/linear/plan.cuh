/* How cuBLASLt does a product: its description of a shape, and which of its algorithms is taken.
 *
 * cuBLASLt is column-major: y [N][n_out] is an n_out x N matrix, w [n_out][n_in] an n_in x n_out
 * one to be transposed, x [N][n_in] an n_in x N one. Backward w is used as it lies, x is dy and y
 * is dx. */
#ifndef LK_CUDA_PLAN_CUH
#define LK_CUDA_PLAN_CUH

#include "cuda/device.cuh"

/* A product's shape, and how it is done. */
typedef struct lk_gemm_plan {
  uint64_t n_rows;
  uint32_t n_out, n_in;
  uint32_t pitch; /* of y's rows, in floats */
  bool add, bias, backward;
  cublasLtMatmulDesc_t op;
  cublasLtMatrixLayout_t w, x, y;
  cublasLtMatmulAlgo_t algorithm;
} lk_gemm_plan;

/* Room for plans. LEANK_E_MEMORY. */
leank_status lk_gemm_open(lk_cuda_device *dev, leank_error *err);
void lk_gemm_close(lk_cuda_device *dev);

/* The plan of a shape, made now or before; NULL where cuBLASLt has none. What it takes depends on
 * the shape, the device and the library's version alone, never on a measurement: bits do not differ
 * from one process to the next. */
lk_gemm_plan *lk_gemm_plan_of(lk_cuda_device *dev, const lk_gemm_plan *shape);

#endif
