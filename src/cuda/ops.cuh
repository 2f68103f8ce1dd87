/* Functions behind the table of cuda_api.h, one block per folder; contracts are there. */
#ifndef LK_CUDA_OPS_CUH
#define LK_CUDA_OPS_CUH

#include "cuda/device.cuh"

/* rows/ */
void lk_cuda_embed(lk_cuda_device *dev, const uint16_t *table, size_t n_cols, const int32_t *tokens,
                   size_t n_rows, float *x);
void lk_cuda_rms_norm(lk_cuda_device *dev, const float *x, size_t n_rows, size_t n, const float *w,
                      float eps, float *y);
void lk_cuda_rope_table(lk_cuda_device *dev, const double *inv_freq, float mscale, size_t head_dim,
                        const int64_t *pos, size_t n_rows, float *cos_sin);
void lk_cuda_rope(lk_cuda_device *dev, float *x, size_t n_rows, size_t n_heads, size_t head_dim,
                  bool pairs, const float *cos_sin);
void lk_cuda_swiglu(lk_cuda_device *dev, const float *gate, const float *up, size_t n, float *out);
void lk_cuda_rms_norm_backward(lk_cuda_device *dev, const float *x, size_t n_rows, size_t n,
                               const float *w, float eps, const float *dy, float *dx);
void lk_cuda_swiglu_backward(lk_cuda_device *dev, const float *gate, const float *up, size_t n,
                             const float *dout, float *dgate, float *dup);
void lk_cuda_argmax(lk_cuda_device *dev, const float *x, size_t n_rows, size_t n, int32_t *index);
void lk_cuda_rms_norm_operand(lk_cuda_device *dev, const float *x, size_t n_rows, size_t n,
                              const float *w, float eps);
void lk_cuda_swiglu_operand(lk_cuda_device *dev, const float *gate_up, size_t n_rows, size_t n);
void lk_cuda_random_bf16(lk_cuda_device *dev, uint16_t *to, size_t n, float scale, uint64_t seed);

/* linear/ */
void lk_cuda_widen(lk_cuda_device *dev, int type, const void *from, size_t n, uint16_t *to);
void lk_cuda_linear_few(lk_cuda_device *dev, const lk_cuda_linear *job);
void lk_cuda_linear_many(lk_cuda_device *dev, const lk_cuda_linear *job);
void lk_cuda_linear_precise(lk_cuda_device *dev, const lk_cuda_linear *job);
void lk_cuda_linear_backward(lk_cuda_device *dev, const lk_cuda_linear_grad *job);
leank_status lk_cuda_reserve(lk_cuda_device *dev, size_t n_rows, size_t n_cols, leank_error *err);
void lk_cuda_linear_close(lk_cuda_device *dev); /* what reserve and GEMM hold */

/* page/ */
void lk_cuda_append(lk_cuda_device *dev, const lk_cuda_view *view, const float *k, const float *v,
                    size_t n_rows, const lk_slot *slots);
void lk_cuda_rope_append(lk_cuda_device *dev, const lk_cuda_view *view, float *q, const float *k,
                         const float *v, size_t n_rows, bool pairs, const float *cos_sin,
                         const lk_slot *slots);
void lk_cuda_rope_append_joint(lk_cuda_device *dev, const lk_cuda_view *view, const float *qkv,
                               float *q, size_t n_rows, bool pairs, const float *cos_sin,
                               const lk_slot *slots);
void lk_cuda_pack(lk_cuda_device *dev, const lk_cuda_view *src, const lk_page_entry *from,
                  const lk_cuda_view *dst, const lk_page_entry *to, size_t n_pages);
void lk_cuda_copy_pages(lk_cuda_device *dev, const lk_cuda_view *src, const lk_page_entry *from,
                        const lk_cuda_view *dst, const lk_page_entry *to, size_t n_pages);
void lk_cuda_sum_pages(lk_cuda_device *dev, const lk_cuda_view *view, const lk_page_entry *pages,
                       size_t n_pages, float *sums);
void lk_cuda_sum_rows(lk_cuda_device *dev, const lk_cuda_view *view, const lk_page_entry *pages,
                      size_t n_pages, const lk_cuda_group *groups, size_t offset);

/* read/ */
void lk_cuda_read(lk_cuda_device *dev, const void *from, size_t n_bytes, uint32_t n_blocks,
                  uint32_t *sum);

/* attention/ */
void lk_cuda_decode_bf16(lk_cuda_device *dev, const lk_cuda_decode *job);
void lk_cuda_decode_f16(lk_cuda_device *dev, const lk_cuda_decode *job);
void lk_cuda_merge(lk_cuda_device *dev, const lk_cuda_decode *job); /* what the two above left */
void lk_cuda_decode_attention(lk_cuda_device *dev, const lk_cuda_decode *job);
void lk_cuda_attend_rows_bf16(lk_cuda_device *dev, const lk_cuda_attend_rows *job);
void lk_cuda_attend_rows_f16(lk_cuda_device *dev, const lk_cuda_attend_rows *job);
void lk_cuda_attend_many(lk_cuda_device *dev, const lk_cuda_attend_rows *job);
size_t lk_cuda_weighted_scratch_bytes(const lk_cuda_weighted *job, bool backward);
void lk_cuda_weighted_forward(lk_cuda_device *dev, const lk_cuda_weighted *job);
void lk_cuda_weighted_backward(lk_cuda_device *dev, const lk_cuda_weighted *job);

#endif
