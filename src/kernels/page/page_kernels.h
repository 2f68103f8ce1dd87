/* The functions behind lk_page_variants, one set per type and instruction set. */
#ifndef LK_KERNELS_PAGE_KERNELS_H
#define LK_KERNELS_PAGE_KERNELS_H

#include "kernels/page/page.h"

#define LK_PAGE_DECLARE(suffix)                                                                    \
  void lk_page_append_##suffix(void *k_segment, void *v_segment, size_t head_dim, size_t key,      \
                               const float *k, const float *v);                                    \
  void lk_page_pack_##suffix(const void *k_wide, size_t head_dim, const uint16_t *channels,        \
                             size_t n_kept, size_t n_padded, void *k_lean);                        \
  void lk_page_sum_##suffix(const void *k_wide, const void *v_wide, size_t head_dim, float *k_sum, \
                            float *v_sum)

#define LK_PAGE_DECLARE_V(suffix)                                                                  \
  void lk_page_pack_v_##suffix(const void *v_wide, size_t head_dim, void *v_lean)

LK_PAGE_DECLARE(bf16_c);
LK_PAGE_DECLARE(f32_c);
LK_PAGE_DECLARE(bf16_avx512);
LK_PAGE_DECLARE(f32_avx512);
void lk_page_append_bf16_neon(void *k_segment, void *v_segment, size_t head_dim, size_t key,
                              const float *k, const float *v);
void lk_page_pack_bf16_neon(const void *k_wide, size_t head_dim, const uint16_t *channels,
                            size_t n_kept, size_t n_padded, void *k_lean);

/* V as it is. */
LK_PAGE_DECLARE_V(bf16_c);
LK_PAGE_DECLARE_V(f32_c);

/* q8: append and sum are those of bf16. */
#define LK_PAGE_DECLARE_Q8(suffix)                                                                 \
  void lk_page_pack_q8_##suffix(const void *k_wide, size_t head_dim, const uint16_t *channels,     \
                                size_t n_kept, size_t n_padded, void *k_lean);                     \
  void lk_page_repack_q8_##suffix(const void *k_from, size_t n_from, const uint16_t *channels,     \
                                  size_t n_kept, size_t n_padded, void *k_lean);                   \
  LK_PAGE_DECLARE_V(q8_##suffix)

LK_PAGE_DECLARE_Q8(c);
LK_PAGE_DECLARE_Q8(avx512);
LK_PAGE_DECLARE_Q8(neon);

#endif
