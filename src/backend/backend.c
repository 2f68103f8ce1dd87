/* What differs by device before a backend is open: sizes, what is possible, who opens it. */
#include "backend/backend.h"

#include "backend/cuda.h"

static leank_status cpu_check(const lk_backend_options *o, leank_error *err) {
  const size_t d = o->shape.head_dim;
  if (o->kv_type == LEANK_KV_F16)
    return lk_fail(err, LEANK_E_UNSUPPORTED, -1,
                   "CPU: a cache of f16 is not possible; bf16, f32 and q8 are, and CUDA can do it");
  if (o->kv_type == LEANK_KV_Q8 && d > LK_Q8_MAX_HEAD_DIM)
    return lk_fail(err, LEANK_E_ARGUMENT, -1,
                   "a cache of int8 for heads of %zu channels: at most %d are possible", d,
                   LK_Q8_MAX_HEAD_DIM);
  return lk_backend_cpu_check(o->cpu, err);
}

static const lk_backend_sizes cpu_sizes = {.row_tile = lk_backend_cpu_row_tile,
                                           .granule = lk_backend_cpu_granule,
                                           .segment_k_bytes = lk_segment_k_bytes,
                                           .segment_v_bytes = lk_segment_v_bytes,
                                           .product_bytes = lk_backend_cpu_product_bytes,
                                           .scratch_bytes = lk_backend_cpu_scratch_bytes,
                                           .check = cpu_check};

/* ---- CUDA: everything is bf16, pages may be f16 ---- */

enum { ELEMENT_BYTES = 2 };

static size_t cuda_row_tile(void) { return LK_CUDA_ROW_TILE; }

static size_t cuda_granule(leank_kv_type type) {
  (void)type;
  return LK_CUDA_GRANULE;
}

static size_t cuda_segment_bytes(leank_kv_type type, lk_page_kind kind, size_t n_channels) {
  (void)type, (void)kind;
  return LK_CUDA_P * n_channels * ELEMENT_BYTES;
}

static size_t cuda_product_bytes(const lk_backend_options *o, size_t n_rows, size_t n_cols) {
  const size_t n_gated = n_rows < LK_CUDA_DOZENS_ROWS ? n_rows : LK_CUDA_DOZENS_ROWS;
  return (n_rows * (o->precise_attention ? LK_CUDA_PARTS : 1) + n_gated) * n_cols * ELEMENT_BYTES;
}

static size_t cuda_scratch_bytes(const lk_backend_options *o) {
  const size_t mean_logits = o->shape.n_heads * sizeof(float);
  return lk_cuda_decode_scratch_bytes(o->max_few_rows, o->shape.n_heads, o->shape.n_kv_heads,
                                      o->shape.head_dim, o->max_pages) +
         o->max_few_rows * (o->max_pages * sizeof(lk_page_entry) + mean_logits);
}

static leank_status cuda_check(const lk_backend_options *o, leank_error *err) {
  leank_status status = LEANK_OK;
  const lk_attn_shape *s = &o->shape;
  const size_t page_units =
      s->n_kv_heads *
      (cuda_segment_bytes(o->kv_type, LK_PAGE_WIDE, 2 * s->head_dim) / LK_CUDA_UNIT);
  LK_FAIL_IF(o->kv_type != LEANK_KV_BF16 && o->kv_type != LEANK_KV_F16, err, LEANK_E_UNSUPPORTED,
             -1, "CUDA: only a cache of bf16 or f16 is possible; the CPU can do other types");
  LK_FAIL_IF(s->head_dim != 64 && s->head_dim != 128, err, LEANK_E_UNSUPPORTED, -1,
             "CUDA: heads of %zu channels: only 64 or 128 are possible; the CPU can do others",
             s->head_dim);
  LK_FAIL_IF(s->n_heads / s->n_kv_heads > LK_CUDA_MAX_GROUP, err, LEANK_E_UNSUPPORTED, -1,
             "CUDA: %zu query heads a kv head: at most %d are possible; the CPU can do more",
             s->n_heads / s->n_kv_heads, LK_CUDA_MAX_GROUP);
  LK_FAIL_IF(o->max_few_rows > 0 && o->max_pages > UINT32_MAX / page_units / o->max_few_rows, err,
             LEANK_E_UNSUPPORTED, -1,
             "CUDA: %zu sequences of %zu pages: more than a step can attend to", o->max_few_rows,
             o->max_pages);
cleanup:
  return status;
}

static const lk_backend_sizes cuda_sizes = {.row_tile = cuda_row_tile,
                                            .granule = cuda_granule,
                                            .segment_k_bytes = cuda_segment_bytes,
                                            .segment_v_bytes = cuda_segment_bytes,
                                            .product_bytes = cuda_product_bytes,
                                            .scratch_bytes = cuda_scratch_bytes,
                                            .check = cuda_check};

const lk_backend_sizes *lk_backend_sizes_of(leank_device device) {
  return device == LEANK_DEVICE_CUDA ? &cuda_sizes : &cpu_sizes;
}

leank_status lk_backend_open(const lk_backend_options *options, lk_backend **out,
                             leank_error *err) {
  if (options->device == LEANK_DEVICE_CUDA)
    return lk_backend_open_cuda(options, options->device_index, out, err);
  return lk_backend_open_cpu(options, out, err);
}
