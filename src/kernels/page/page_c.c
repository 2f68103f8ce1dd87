/* Reference of op "page". */
#include <string.h>

#include "base/dtype.h"
#include "kernels/page/page_kernels.h"

void lk_page_append_bf16_c(void *k_segment, void *v_segment, size_t head_dim, size_t key,
                           const float *k, const float *v) {
  uint16_t *ks = k_segment, *vs = (uint16_t *)v_segment + key * head_dim;
  for (size_t c = 0; c < head_dim; c++) {
    ks[lk_k_index(2, head_dim, key, c)] = lk_f32_to_bf16(k[c]);
    vs[c] = lk_f32_to_bf16(v[c]);
  }
}

void lk_page_append_f32_c(void *k_segment, void *v_segment, size_t head_dim, size_t key,
                          const float *k, const float *v) {
  float *ks = k_segment, *vs = (float *)v_segment + key * head_dim;
  for (size_t c = 0; c < head_dim; c++) {
    ks[lk_k_index(1, head_dim, key, c)] = k[c];
    vs[c] = v[c];
  }
}

void lk_page_pack_bf16_c(const void *k_wide, size_t head_dim, const uint16_t *channels,
                         size_t n_kept, size_t n_padded, void *k_lean) {
  const uint16_t *wide = k_wide;
  uint16_t *lean = k_lean;
  for (size_t key = 0; key < LK_PAGE_TOKENS; key++)
    for (size_t i = 0; i < n_padded; i++)
      lean[lk_k_index(2, n_padded, key, i)] =
          i < n_kept ? wide[lk_k_index(2, head_dim, key, channels[i])] : 0;
}

void lk_page_pack_f32_c(const void *k_wide, size_t head_dim, const uint16_t *channels,
                        size_t n_kept, size_t n_padded, void *k_lean) {
  const size_t row_bytes = LK_KEY_BLOCK * sizeof(float);
  for (size_t key = 0; key < LK_PAGE_TOKENS; key += LK_KEY_BLOCK) {
    const float *wide = (const float *)k_wide + lk_k_index(1, head_dim, key, 0);
    float *lean = (float *)k_lean + lk_k_index(1, n_padded, key, 0);
    for (size_t i = 0; i < n_kept; i++)
      memcpy(lean + i * LK_KEY_BLOCK, wide + channels[i] * (size_t)LK_KEY_BLOCK, row_bytes);
    memset(lean + n_kept * LK_KEY_BLOCK, 0, (n_padded - n_kept) * row_bytes);
  }
}

void lk_page_pack_v_bf16_c(const void *v_wide, size_t head_dim, void *v_lean) {
  memcpy(v_lean, v_wide, lk_page_v_bytes(LEANK_KV_BF16, true, head_dim));
}

void lk_page_pack_v_f32_c(const void *v_wide, size_t head_dim, void *v_lean) {
  memcpy(v_lean, v_wide, lk_page_v_bytes(LEANK_KV_F32, true, head_dim));
}

void lk_page_sum_bf16_c(const void *k_wide, const void *v_wide, size_t head_dim, float *k_sum,
                        float *v_sum) {
  const uint16_t *k = k_wide, *v = v_wide;
  for (size_t c = 0; c < head_dim; c++) {
    float k_page = 0, v_page = 0;
    for (size_t key = 0; key < LK_PAGE_TOKENS; key++) {
      k_page += lk_bf16_to_f32(k[lk_k_index(2, head_dim, key, c)]);
      v_page += lk_bf16_to_f32(v[key * head_dim + c]);
    }
    k_sum[c] += k_page;
    v_sum[c] += v_page;
  }
}

void lk_page_sum_f32_c(const void *k_wide, const void *v_wide, size_t head_dim, float *k_sum,
                       float *v_sum) {
  const float *k = k_wide, *v = v_wide;
  for (size_t c = 0; c < head_dim; c++) {
    float k_page = 0, v_page = 0;
    for (size_t key = 0; key < LK_PAGE_TOKENS; key++) {
      k_page += k[lk_k_index(1, head_dim, key, c)];
      v_page += v[key * head_dim + c];
    }
    k_sum[c] += k_page;
    v_sum[c] += v_page;
  }
}
