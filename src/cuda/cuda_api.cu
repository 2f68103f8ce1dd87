/* The library's one symbol: the table. */
#include "cuda/device_ops.cuh"
#include "cuda/ops.cuh"

/* C++17 has no designated initialisers: the order is that of the struct. */
/* clang-format off */
static const lk_cuda_api table = {
    LK_CUDA_API_VERSION,
    lk_cuda_n_devices,
    lk_cuda_open,
    lk_cuda_close,
    lk_cuda_get_info,
    lk_cuda_check,
    lk_cuda_sync,
    lk_cuda_alloc,
    lk_cuda_free,
    lk_cuda_alloc_pinned,
    lk_cuda_free_pinned,
    lk_cuda_upload,
    lk_cuda_download,
    lk_cuda_copy,
    lk_cuda_zero,
    lk_cuda_record_begin,
    lk_cuda_record_end,
    lk_cuda_replay,
    lk_cuda_graph_free,
    lk_cuda_mark,
    lk_cuda_time_ms,
    lk_cuda_embed,
    lk_cuda_rms_norm,
    lk_cuda_rope_table,
    lk_cuda_rope,
    lk_cuda_swiglu,
    lk_cuda_argmax,
    lk_cuda_random_bf16,
    lk_cuda_widen,
    lk_cuda_linear_few,
    lk_cuda_linear_many,
    lk_cuda_reserve,
    lk_cuda_append,
    lk_cuda_rope_append,
    lk_cuda_pack,
    lk_cuda_copy_pages,
    lk_cuda_sum_pages,
    lk_cuda_sum_rows,
    lk_cuda_decode_attention,
    lk_cuda_attend_many,
    lk_cuda_linear_precise,
    lk_cuda_linear_backward,
    lk_cuda_rms_norm_backward,
    lk_cuda_swiglu_backward,
    lk_cuda_weighted_scratch_bytes,
    lk_cuda_weighted_forward,
    lk_cuda_weighted_backward,
    lk_cuda_read,
    lk_cuda_rms_norm_operand,
    lk_cuda_rope_append_joint,
};
/* clang-format on */

extern "C" __attribute__((visibility("default"))) const lk_cuda_api *lk_cuda_api_get(int version) {
  return version == table.version ? &table : NULL;
}
