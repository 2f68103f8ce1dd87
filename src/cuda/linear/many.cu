/* Products of many rows, by cuBLASLt or, of some dozens, by own kernels (dozens.cu); and what the
 * device holds for products.
 *
 * Parts whose weights, biases and results lie side by side are one product: its GEMM has more
 * blocks to share the device with, and is one launch.
 *
 * Precise products, and the backward, split each fp32 input in two bf16 parts, the second what the
 * first leaves: an error of 2^-18. Two GEMMs add up to the result in fp32, the small one first. */
#include <stdio.h>

#include <algorithm>

#include "cuda/linear/dozens.cuh"
#include "cuda/linear/plan.cuh"
#include "cuda/ops.cuh"
#include "cuda/ptx.cuh"

enum {
  ROUND_THREADS = 256,
  ROUND_RUN = 8,
  PART_ALIGN = 128 /* elements; where the second part of rows begins, 256 bytes */
};

/* From `test_cuda_steps --bench`: 30 MB on an H100. */
static const size_t LEAST_DOZENS_BYTES = 30000000;
static const size_t WORKSPACE_BYTES = (size_t)32 << 20; /* what cuBLAS advises for Hopper */

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
  if (lk_gemm_open(dev, err) != LEANK_OK) return LEANK_E_MEMORY;
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

/* Room for n elements; false: none left, and what there was stays. */
static bool grow(uint16_t **room, size_t *n_elements, size_t n) {
  void *more;
  if (n <= *n_elements) return true;
  if (cudaMalloc(&more, n * sizeof **room) != cudaSuccess) {
    cudaGetLastError();
    return false;
  }
  cudaFree(*room); /* waits for launches that use it */
  *room = (uint16_t *)more;
  *n_elements = n;
  return true;
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
  const size_t n_gated = std::min(n_rows, (size_t)LK_CUDA_DOZENS_ROWS) * n_cols;
  const size_t n_elements = n_rows * n_cols + PART_ALIGN; /* or two parts of half as many rows */
  const bool has_gated = grow(&dev->gated, &dev->gated_elements, n_gated);
  const bool has_operand = grow(&dev->operand, &dev->operand_elements, n_elements);
  dev->source = dev->operand; /* where it was may be gone, whatever failed */
  if (!has_gated) return no_memory(err, "the outputs of a gate", n_gated * sizeof *dev->gated);
  if (has_operand) return LEANK_OK;
  return no_memory(err, "the inputs of products", n_elements * sizeof *dev->operand);
}

void lk_cuda_linear_close(lk_cuda_device *dev) {
  lk_gemm_close(dev);
  if (dev->blas) cublasLtDestroy(dev->blas);
  cudaFree(dev->workspace);
  cudaFree(dev->operand);
  cudaFree(dev->gated);
  dev->blas = NULL;
  dev->workspace = NULL;
  dev->operand = dev->gated = NULL;
  dev->source = NULL;
  dev->workspace_bytes = dev->operand_elements = dev->gated_elements = 0;
}

/* ---- products ---- */

static __global__ void round_kernel(const float *x, size_t n, uint16_t *to) {
  lk_dependency_pass();
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
static bool multiply(lk_cuda_device *dev, const lk_gemm_plan *shape, const uint16_t *w,
                     const uint16_t *x, const float *bias, float *y) {
  const lk_gemm_plan *plan = lk_gemm_plan_of(dev, shape);
  if (!plan) return false;
  if (bias && cublasLtMatmulDescSetAttribute(plan->op, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias,
                                             sizeof bias))
    return false;
  const float alpha = 1.0f, beta = shape->add ? 1.0f : 0.0f;
  return !cublasLtMatmul(dev->blas, plan->op, &alpha, w, plan->w, x, plan->x, &beta, y, plan->y, y,
                         plan->y, &plan->algorithm, dev->workspace, dev->workspace_bytes,
                         dev->stream);
}

static lk_gemm_plan shape_of(const lk_cuda_linear *job, const lk_cuda_part *part) {
  lk_gemm_plan shape = {};
  shape.n_rows = job->n_rows;
  shape.n_out = part->n_out;
  shape.n_in = job->n_in;
  shape.pitch = job->pitch ? job->pitch : part->n_out;
  shape.add = part->add;
  shape.bias = part->bias != NULL;
  return shape;
}

/* Whether b is behind a in all that a product reads and writes. */
static bool is_behind(const lk_cuda_linear *job, const lk_cuda_part *a, const lk_cuda_part *b) {
  return job->pitch && b->w == a->w + (size_t)a->n_out * job->n_in && b->y == a->y + a->n_out &&
         b->add == a->add && b->bias == (a->bias ? a->bias + a->n_out : NULL);
}

/* Parts from *p on that are one product, as one part; *p moves behind them. */
static lk_cuda_part next_product(const lk_cuda_linear *job, uint32_t *p) {
  lk_cuda_part whole = job->parts[(*p)++];
  while (*p < job->n_parts && is_behind(job, &whole, &job->parts[*p]))
    whole.n_out += job->parts[(*p)++].n_out;
  return whole;
}

/* Whether there is room for so many elements; else a failure is kept. */
static bool is_reserved(lk_cuda_device *dev, size_t n_elements, const char *what) {
  if (dev->gemm && dev->blas && dev->operand_elements >= n_elements) return true;
  lk_cuda_keep(dev, cudaErrorInvalidValue, what);
  return false;
}

/* By own kernels, or false; `gated`: of lk_dozens. Products too small for what a launch of theirs
 * takes are cuBLASLt's. */
static bool multiply_dozens(lk_cuda_device *dev, const lk_cuda_linear *job,
                            const lk_cuda_part *part, uint16_t *gated) {
  const size_t n_bytes = (size_t)part->n_out * job->n_in * sizeof *part->w;
  const bool is_small = !gated && n_bytes < LEAST_DOZENS_BYTES;
  if (dev->many == LK_MANY_BY_LIBRARY || (dev->many == LK_MANY_BY_SIZE && is_small) ||
      job->n_rows > LK_CUDA_DOZENS_ROWS)
    return false;
  lk_dozens d = {};
  d.w = part->w;
  d.x = dev->source;
  d.bias = part->bias;
  d.y = part->y;
  d.gated = gated;
  d.n_rows = (uint32_t)job->n_rows;
  d.n_out = part->n_out;
  d.n_in = job->n_in;
  d.pitch = job->pitch ? job->pitch : part->n_out;
  d.add = part->add;
  return lk_linear_dozens(dev, &d);
}

/* Gate and up of the operand become the operand; not where it lies already, read by all blocks. */
static bool multiply_gate(lk_cuda_device *dev, const lk_cuda_linear *job) {
  const lk_cuda_part *gate = &job->parts[0], *up = &job->parts[1];
  if (dev->source == dev->gated || dev->gated_elements < job->n_rows * gate->n_out ||
      !is_behind(job, gate, up) || !multiply_dozens(dev, job, gate, dev->gated))
    return false;
  dev->source = dev->gated;
  return true;
}

static bool is_gate(const lk_cuda_linear *job) {
  const lk_cuda_part *gate = &job->parts[0], *up = &job->parts[1];
  return job->n_parts == 2 && gate->n_out == up->n_out && job->pitch == 2 * gate->n_out &&
         up->y == gate->y + gate->n_out && !gate->add && !up->add && !gate->bias && !up->bias;
}

void lk_cuda_linear_many(lk_cuda_device *dev, const lk_cuda_linear *job) {
  const size_t n = job->n_rows * job->n_in, per_block = (size_t)ROUND_THREADS * ROUND_RUN;
  if (n == 0 || !is_reserved(dev, n, "linear_many (not reserved)")) return;
  if (job->gated && !is_gate(job)) {
    lk_cuda_keep(dev, cudaErrorInvalidValue, "linear_many (parts of a gate)");
    return;
  }
  if (job->x) {
    lk_cuda_launch(dev, "linear_many (round)", round_kernel, lk_cuda_blocks(n, per_block),
                   ROUND_THREADS, 0, job->x, n, dev->operand);
    dev->source = dev->operand;
  }
  if (job->gated && multiply_gate(dev, job)) return;
  for (uint32_t p = 0; p < job->n_parts;) {
    const lk_cuda_part part = next_product(job, &p);
    const lk_gemm_plan shape = shape_of(job, &part);
    if (part.n_out > 0 && !multiply_dozens(dev, job, &part, NULL) &&
        !multiply(dev, &shape, part.w, dev->source, part.bias, part.y))
      lk_cuda_keep(dev, cudaErrorUnknown, "linear_many (cuBLASLt)");
  }
  if (job->gated) lk_cuda_swiglu_operand(dev, job->parts[0].y, job->n_rows, job->parts[0].n_out);
}

/* The two parts of x[n] in the operand; where the second is, or NULL and a failure kept. */
static const uint16_t *split(lk_cuda_device *dev, const float *x, size_t n, const char *what) {
  const size_t per_block = (size_t)ROUND_THREADS * ROUND_RUN;
  const size_t second = (n + PART_ALIGN - 1) / PART_ALIGN * PART_ALIGN;
  if (!is_reserved(dev, second + n, what)) return NULL;
  split_kernel<<<lk_cuda_blocks(n, per_block), ROUND_THREADS, 0, dev->stream>>>(
      x, n, dev->operand, dev->operand + second);
  lk_cuda_launched(dev, what);
  return dev->operand + second;
}

static bool multiply_parts(lk_cuda_device *dev, lk_gemm_plan shape, const uint16_t *w,
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
  lk_gemm_plan shape = {};
  shape.n_rows = job->n_rows;
  shape.n_out = job->n_out;
  shape.n_in = shape.pitch = job->n_in;
  shape.add = job->add;
  shape.backward = true;
  if (low && !multiply_parts(dev, shape, job->w, low, NULL, job->dx))
    lk_cuda_keep(dev, cudaErrorUnknown, "linear_backward (cuBLASLt)");
}
