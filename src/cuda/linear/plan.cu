#include "cuda/linear/plan.cuh"

#include <stdio.h>
#include <stdlib.h>

enum { MAX_PLANS = 512 };

/* The last MAX_PLANS shapes. */
struct lk_cuda_gemm {
  lk_gemm_plan plans[MAX_PLANS];
  size_t n_made; /* so far; plan i is at i % MAX_PLANS */
};

/* ---- which algorithm ---- */

/* cuBLASLt's first choice: of up to 48 algorithms for each product of steps it was the fastest or
 * within 2 %, but for few that own kernels do now. */
static bool choose(const lk_cuda_device *dev, lk_gemm_plan *plan) {
  cublasLtMatmulPreference_t preference;
  cublasLtMatmulHeuristicResult_t result = {};
  int n_results = 0;
  if (cublasLtMatmulPreferenceCreate(&preference)) return false;
  /* Only the operand is surely aligned to 256 bytes, the default. */
  const uint32_t alignment = 16;
  const bool is_found =
      !cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                            &dev->workspace_bytes, sizeof dev->workspace_bytes) &&
      !cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
                                            &alignment, sizeof alignment) &&
      !cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
                                            &alignment, sizeof alignment) &&
      !cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
                                            &alignment, sizeof alignment) &&
      !cublasLtMatmulAlgoGetHeuristic(dev->blas, plan->op, plan->w, plan->x, plan->y, plan->y,
                                      preference, 1, &result, &n_results);
  cublasLtMatmulPreferenceDestroy(preference);
  plan->algorithm = result.algo;
  return is_found && n_results == 1 && result.state == CUBLAS_STATUS_SUCCESS;
}

/* ---- plans ---- */

static void plan_free(lk_gemm_plan *plan) {
  if (plan->op) cublasLtMatmulDescDestroy(plan->op);
  if (plan->w) cublasLtMatrixLayoutDestroy(plan->w);
  if (plan->x) cublasLtMatrixLayoutDestroy(plan->x);
  if (plan->y) cublasLtMatrixLayoutDestroy(plan->y);
  *plan = lk_gemm_plan{};
}

leank_status lk_gemm_open(lk_cuda_device *dev, leank_error *err) {
  if (!dev->gemm) dev->gemm = (lk_cuda_gemm *)calloc(1, sizeof *dev->gemm);
  if (dev->gemm) return LEANK_OK;
  if (err) {
    err->code = LEANK_E_MEMORY;
    err->offset = -1;
    snprintf(err->message, sizeof err->message, "no memory for the plans of products, %zu bytes",
             sizeof *dev->gemm);
  }
  return LEANK_E_MEMORY;
}

void lk_gemm_close(lk_cuda_device *dev) {
  if (dev->gemm)
    for (size_t i = 0; i < MAX_PLANS; i++) plan_free(&dev->gemm->plans[i]);
  free(dev->gemm);
  dev->gemm = NULL;
}

static bool describe(lk_gemm_plan *plan) {
  const cublasOperation_t transpose = plan->backward ? CUBLAS_OP_N : CUBLAS_OP_T;
  const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
  if (cublasLtMatmulDescCreate(&plan->op, CUBLAS_COMPUTE_32F, CUDA_R_32F) ||
      cublasLtMatmulDescSetAttribute(plan->op, CUBLASLT_MATMUL_DESC_TRANSA, &transpose,
                                     sizeof transpose))
    return false;
  if (plan->bias && cublasLtMatmulDescSetAttribute(plan->op, CUBLASLT_MATMUL_DESC_EPILOGUE,
                                                   &epilogue, sizeof epilogue))
    return false;
  const uint64_t n = plan->n_rows, n_in = plan->n_in, n_out = plan->n_out;
  const uint64_t from = plan->backward ? n_out : n_in, to = plan->backward ? n_in : n_out;
  return !cublasLtMatrixLayoutCreate(&plan->w, CUDA_R_16BF, n_in, n_out, (int64_t)n_in) &&
         !cublasLtMatrixLayoutCreate(&plan->x, CUDA_R_16BF, from, n, (int64_t)from) &&
         !cublasLtMatrixLayoutCreate(&plan->y, CUDA_R_32F, to, n, (int64_t)plan->pitch);
}

static bool is_of(const lk_gemm_plan *plan, const lk_gemm_plan *shape) {
  return plan->n_rows == shape->n_rows && plan->n_out == shape->n_out &&
         plan->n_in == shape->n_in && plan->pitch == shape->pitch && plan->add == shape->add &&
         plan->bias == shape->bias && plan->backward == shape->backward;
}

lk_gemm_plan *lk_gemm_plan_of(lk_cuda_device *dev, const lk_gemm_plan *shape) {
  lk_cuda_gemm *gemm = dev->gemm;
  for (size_t i = 0; i < MAX_PLANS && i < gemm->n_made; i++)
    if (is_of(&gemm->plans[i], shape)) return &gemm->plans[i];
  lk_gemm_plan *plan = &gemm->plans[gemm->n_made % MAX_PLANS];
  plan_free(plan);
  *plan = *shape;
  if (!describe(plan) || !choose(dev, plan)) {
    plan_free(plan);
    return NULL;
  }
  gemm->n_made++;
  return plan;
}
