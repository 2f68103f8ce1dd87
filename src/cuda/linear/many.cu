/* Products of many rows by cuBLASLt, and what the device holds for products.
 *
 * cuBLASLt is column-major: y [N][n_out] is an n_out x N matrix, w [n_out][n_in] an n_in x n_out
 * one to be transposed, x [N][n_in] an n_in x N one. Backward w is used as it lies, x is dy and y
 * is dx.
 *
 * Precise products, and the backward, split each fp32 input in two bf16 parts, the second what the
 * first leaves: an error of 2^-18. Two GEMMs add up to the result in fp32, the small one first. */
#include <stdio.h>
#include <stdlib.h>

#include "cuda/ptx.cuh"
#include "cuda/linear/operand.cuh"
#include "cuda/ops.cuh"

enum { ROUND_THREADS = 256, ROUND_RUN = 8, MAX_PLANS = 512 };

static const size_t WORKSPACE_BYTES = (size_t)32 << 20; /* what cuBLAS advises for Hopper */

/* A product's shape and how cuBLASLt would do it. */
typedef struct gemm_plan {
  uint64_t n_rows;
  uint32_t n_out, n_in;
  bool add, bias, backward;
  cublasLtMatmulDesc_t op;
  cublasLtMatrixLayout_t w, x, y;
  cublasLtMatmulAlgo_t algorithm;
} gemm_plan;

/* The last MAX_PLANS shapes. */
struct lk_cuda_gemm {
  gemm_plan plans[MAX_PLANS];
  size_t n_made; /* so far; plan i is at i % MAX_PLANS */
};

static void plan_free(gemm_plan *plan) {
  if (plan->op) cublasLtMatmulDescDestroy(plan->op);
  if (plan->w) cublasLtMatrixLayoutDestroy(plan->w);
  if (plan->x) cublasLtMatrixLayoutDestroy(plan->x);
  if (plan->y) cublasLtMatrixLayoutDestroy(plan->y);
  *plan = gemm_plan{};
}

/* ---- what is held ---- */

static leank_status no_memory(leank_error *err, const char *what, size_t n_bytes) {
  if (err) {
    err->code = LEANK_E_MEMORY;
    err->offset = -1;
    snprintf(err->message, sizeof err->message, "CUDA: no memory for %s, %zu bytes", what, n_bytes);
  }
  return LEANK_E_MEMORY;
}

static leank_status open_blas(lk_cuda_device *dev, leank_error *err) {
  if (!dev->gemm) dev->gemm = (lk_cuda_gemm *)calloc(1, sizeof *dev->gemm);
  if (!dev->gemm) return no_memory(err, "the plans of products", sizeof *dev->gemm);
  if (dev->blas) return LEANK_OK;
  cublasLtHandle_t blas;
  const cublasStatus_t status = cublasLtCreate(&blas);
  if (status != CUBLAS_STATUS_SUCCESS) {
    if (err) {
      err->code = LEANK_E_UNSUPPORTED;
      err->offset = -1;
      snprintf(err->message, sizeof err->message, "cuBLASLt cannot be opened: %s",
               cublasLtGetStatusString(status));
    }
    return LEANK_E_UNSUPPORTED;
  }
  dev->blas = blas;
  return LEANK_OK;
}

leank_status lk_cuda_reserve(lk_cuda_device *dev, size_t n_rows, size_t n_cols, leank_error *err) {
  const leank_status status = open_blas(dev, err);
  if (status != LEANK_OK) return status;
  if (!dev->workspace) {
    if (cudaMalloc(&dev->workspace, WORKSPACE_BYTES) != cudaSuccess) {
      cudaGetLastError();
      dev->workspace = NULL;
      return no_memory(err, "the workspace of products", WORKSPACE_BYTES);
    }
    dev->workspace_bytes = WORKSPACE_BYTES;
  }
  const size_t n_elements = lk_operand_elements(n_rows, n_cols);
  if (n_elements <= dev->operand_elements) return LEANK_OK;
  void *operand;
  const size_t n_bytes = n_elements * sizeof *dev->operand;
  if (cudaMalloc(&operand, n_bytes) != cudaSuccess) {
    cudaGetLastError();
    return no_memory(err, "the inputs of products", n_bytes);
  }
  cudaFree(dev->operand); /* waits for launches that read it */
  dev->operand = (uint16_t *)operand;
  dev->operand_elements = n_elements;
  return LEANK_OK;
}

void lk_cuda_linear_close(lk_cuda_device *dev) {
  if (dev->gemm)
    for (size_t i = 0; i < MAX_PLANS; i++) plan_free(&dev->gemm->plans[i]);
  free(dev->gemm);
  if (dev->blas) cublasLtDestroy(dev->blas);
  cudaFree(dev->workspace);
  cudaFree(dev->operand);
  dev->gemm = NULL;
  dev->blas = NULL;
  dev->workspace = NULL;
  dev->operand = NULL;
  dev->workspace_bytes = dev->operand_elements = 0;
}

/* ---- plans ---- */

static bool describe(gemm_plan *plan) {
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
         !cublasLtMatrixLayoutCreate(&plan->y, CUDA_R_32F, to, n, (int64_t)to);
}

static bool ask_algorithm(const lk_cuda_device *dev, gemm_plan *plan) {
  cublasLtMatmulPreference_t preference;
  cublasLtMatmulHeuristicResult_t result;
  int n_results = 0;
  if (cublasLtMatmulPreferenceCreate(&preference)) return false;
  /* Only the operand is surely aligned to 256 bytes, the default. */
  const uint32_t alignment = 16;
  const bool is_set =
      !cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                            &dev->workspace_bytes, sizeof dev->workspace_bytes) &&
      !cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
                                            &alignment, sizeof alignment) &&
      !cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
                                            &alignment, sizeof alignment) &&
      !cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
                                            &alignment, sizeof alignment);
  const bool found = is_set &&
                     !cublasLtMatmulAlgoGetHeuristic(dev->blas, plan->op, plan->w, plan->x, plan->y,
                                                     plan->y, preference, 1, &result, &n_results) &&
                     n_results == 1;
  cublasLtMatmulPreferenceDestroy(preference);
  if (found) plan->algorithm = result.algo;
  return found;
}

/* The plan of a shape, made now or before; NULL where cuBLASLt has none. */
static gemm_plan *plan_of(lk_cuda_device *dev, const gemm_plan *shape) {
  lk_cuda_gemm *gemm = dev->gemm;
  for (size_t i = 0; i < MAX_PLANS && i < gemm->n_made; i++) {
    gemm_plan *plan = &gemm->plans[i];
    if (plan->n_rows == shape->n_rows && plan->n_out == shape->n_out && plan->n_in == shape->n_in &&
        plan->add == shape->add && plan->bias == shape->bias && plan->backward == shape->backward)
      return plan;
  }
  gemm_plan *plan = &gemm->plans[gemm->n_made % MAX_PLANS];
  plan_free(plan);
  *plan = *shape;
  if (!describe(plan) || !ask_algorithm(dev, plan)) {
    plan_free(plan);
    return NULL;
  }
  gemm->n_made++;
  return plan;
}

/* ---- products ---- */

static __global__ void round_kernel(const float *x, size_t n, uint16_t *to) {
  const size_t first = ((size_t)blockIdx.x * ROUND_THREADS + threadIdx.x) * ROUND_RUN;
  if (first + ROUND_RUN <= n) {
    const float4 a = *(const float4 *)(x + first), b = *(const float4 *)(x + first + 4);
    uint4 out;
    out.x = lk_pack_bf16(a.x, a.y);
    out.y = lk_pack_bf16(a.z, a.w);
    out.z = lk_pack_bf16(b.x, b.y);
    out.w = lk_pack_bf16(b.z, b.w);
    *(uint4 *)(to + first) = out;
  } else {
    for (size_t i = first; i < n; i++) to[i] = (uint16_t)lk_pack_bf16(x[i], 0);
  }
}

/* high = x rounded, low = what that leaves, rounded. */
static __global__ void split_kernel(const float *x, size_t n, uint16_t *high, uint16_t *low) {
  const size_t first = ((size_t)blockIdx.x * ROUND_THREADS + threadIdx.x) * ROUND_RUN;
  if (first + ROUND_RUN <= n) {
    const float4 a = *(const float4 *)(x + first), b = *(const float4 *)(x + first + 4);
    const uint4 h = make_uint4(lk_pack_bf16(a.x, a.y), lk_pack_bf16(a.z, a.w),
                               lk_pack_bf16(b.x, b.y), lk_pack_bf16(b.z, b.w));
    *(uint4 *)(high + first) = h;
    *(uint4 *)(low + first) =
        make_uint4(lk_pack_bf16(a.x - lk_bf16_low(h.x), a.y - lk_bf16_high(h.x)),
                   lk_pack_bf16(a.z - lk_bf16_low(h.y), a.w - lk_bf16_high(h.y)),
                   lk_pack_bf16(b.x - lk_bf16_low(h.z), b.y - lk_bf16_high(h.z)),
                   lk_pack_bf16(b.z - lk_bf16_low(h.w), b.w - lk_bf16_high(h.w)));
  } else {
    for (size_t i = first; i < n; i++) {
      const uint32_t h = lk_pack_bf16(x[i], 0);
      high[i] = (uint16_t)h;
      low[i] = (uint16_t)lk_pack_bf16(x[i] - lk_bf16_low(h), 0);
    }
  }
}

/* y (+)= of bf16 x in the manner of `shape`; bias: NULL unless shape says so. */
static bool multiply(lk_cuda_device *dev, const gemm_plan *shape, const uint16_t *w,
                     const uint16_t *x, const float *bias, float *y) {
  const gemm_plan *plan = plan_of(dev, shape);
  if (!plan) return false;
  if (bias && cublasLtMatmulDescSetAttribute(plan->op, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias,
                                             sizeof bias))
    return false;
  const float alpha = 1.0f, beta = shape->add ? 1.0f : 0.0f;
  return !cublasLtMatmul(dev->blas, plan->op, &alpha, w, plan->w, x, plan->x, &beta, y, plan->y, y,
                         plan->y, &plan->algorithm, dev->workspace, dev->workspace_bytes,
                         dev->stream);
}

static gemm_plan shape_of(const lk_cuda_linear *job, const lk_cuda_part *part) {
  gemm_plan shape = {};
  shape.n_rows = job->n_rows;
  shape.n_out = part->n_out;
  shape.n_in = job->n_in;
  shape.add = part->add;
  shape.bias = part->bias != NULL;
  return shape;
}

/* Whether there is room for so many elements; else a failure is kept. */
static bool is_reserved(lk_cuda_device *dev, size_t n_elements, const char *what) {
  if (dev->gemm && dev->blas && dev->operand_elements >= n_elements) return true;
  lk_cuda_keep(dev, cudaErrorInvalidValue, what);
  return false;
}

void lk_cuda_linear_many(lk_cuda_device *dev, const lk_cuda_linear *job) {
  const size_t n = job->n_rows * job->n_in, per_block = (size_t)ROUND_THREADS * ROUND_RUN;
  if (n == 0 || !is_reserved(dev, n, "linear_many (not reserved)")) return;
  round_kernel<<<lk_cuda_blocks(n, per_block), ROUND_THREADS, 0, dev->stream>>>(job->x, n,
                                                                                dev->operand);
  lk_cuda_launched(dev, "linear_many (round)");
  for (uint32_t p = 0; p < job->n_parts; p++) {
    const lk_cuda_part *part = &job->parts[p];
    const gemm_plan shape = shape_of(job, part);
    if (part->n_out > 0 && !multiply(dev, &shape, part->w, dev->operand, part->bias, part->y))
      lk_cuda_keep(dev, cudaErrorUnknown, "linear_many (cuBLASLt)");
  }
}

/* The two parts of x[n] in the operand; where the second is, or NULL and a failure kept. */
static const uint16_t *split(lk_cuda_device *dev, const float *x, size_t n, const char *what) {
  const size_t per_block = (size_t)ROUND_THREADS * ROUND_RUN;
  const size_t second = (n + LK_PART_ALIGN - 1) / LK_PART_ALIGN * LK_PART_ALIGN;
  if (!is_reserved(dev, second + n, what)) return NULL;
  split_kernel<<<lk_cuda_blocks(n, per_block), ROUND_THREADS, 0, dev->stream>>>(
      x, n, dev->operand, dev->operand + second);
  lk_cuda_launched(dev, what);
  return dev->operand + second;
}

static bool multiply_parts(lk_cuda_device *dev, gemm_plan shape, const uint16_t *w,
                           const uint16_t *low, const float *bias, float *y) {
  if (!multiply(dev, &shape, w, low, bias, y)) return false;
  shape.add = true;
  shape.bias = false;
  return multiply(dev, &shape, w, dev->operand, NULL, y);
}

void lk_cuda_linear_precise(lk_cuda_device *dev, const lk_cuda_linear *job) {
  const size_t n = job->n_rows * job->n_in;
  const uint16_t *low = n ? split(dev, job->x, n, "linear_precise") : NULL;
  for (uint32_t p = 0; low && p < job->n_parts; p++) {
    const lk_cuda_part *part = &job->parts[p];
    if (part->n_out > 0 &&
        !multiply_parts(dev, shape_of(job, part), part->w, low, part->bias, part->y))
      lk_cuda_keep(dev, cudaErrorUnknown, "linear_precise (cuBLASLt)");
  }
}

void lk_cuda_linear_backward(lk_cuda_device *dev, const lk_cuda_linear_grad *job) {
  const size_t n = job->n_rows * job->n_out;
  const uint16_t *low = n && job->n_in ? split(dev, job->dy, n, "linear_backward") : NULL;
  gemm_plan shape = {};
  shape.n_rows = job->n_rows;
  shape.n_out = job->n_out;
  shape.n_in = job->n_in;
  shape.add = job->add;
  shape.backward = true;
  if (low && !multiply_parts(dev, shape, job->w, low, NULL, job->dx))
    lk_cuda_keep(dev, cudaErrorUnknown, "linear_backward (cuBLASLt)");
}
