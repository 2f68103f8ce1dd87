/* Reference of op "page" for int8: lean segments are quantised from bf16 ones. */
#include <math.h>
#include <string.h>

#include "base/dtype.h"
#include "kernels/page/page_kernels.h"

/* Largest magnitude / 127; NaN where a value is not finite. */
static float scale_of(const float *x, size_t n) {
  float top = 0;
  for (size_t i = 0; i < n; i++) {
    if (!isfinite(x[i])) return NAN;
    if (fabsf(x[i]) > top) top = fabsf(x[i]);
  }
  return top / LK_Q8_LARGEST;
}

/* x / scale to nearest even; 0 where the scale says nothing. */
static int quantised(float x, float scale) { return scale > 0 ? (int)nearbyintf(x / scale) : 0; }

void lk_page_pack_q8_c(const void *k_wide, size_t head_dim, const uint16_t *channels, size_t n_kept,
                       size_t n_padded, void *k_lean) {
  const uint16_t *wide = k_wide;
  uint8_t *lean = k_lean;
  float *scales = lk_q8_scales(k_lean, n_padded), x[LK_PAGE_TOKENS];
  const size_t n_filled = lk_page_k_bytes(LEANK_KV_Q8, true, n_padded) - lk_q8_bytes(n_padded);
  memset(scales, 0, n_filled);
  for (size_t i = 0; i < n_padded; i++) {
    for (size_t key = 0; key < LK_PAGE_TOKENS; key++)
      x[key] = i < n_kept ? lk_bf16_to_f32(wide[lk_k_index(2, head_dim, key, channels[i])]) : 0;
    scales[i] = scale_of(x, LK_PAGE_TOKENS);
    for (size_t key = 0; key < LK_PAGE_TOKENS; key++)
      lean[lk_k_index(LK_Q8_QUAD, n_padded, key, i)] =
          (uint8_t)(LK_Q8_K_ZERO + quantised(x[key], scales[i]));
  }
}

void lk_page_repack_q8_c(const void *k_from, size_t n_from, const uint16_t *channels, size_t n_kept,
                         size_t n_padded, void *k_lean) {
  const uint8_t *from = k_from;
  const float *from_scales = lk_q8_scales(from, n_from);
  uint8_t *lean = k_lean;
  float *scales = lk_q8_scales(k_lean, n_padded);
  const size_t n_filled = lk_page_k_bytes(LEANK_KV_Q8, true, n_padded) - lk_q8_bytes(n_padded);
  memset(scales, 0, n_filled);
  for (size_t i = 0; i < n_kept; i++) scales[i] = from_scales[channels[i]];
  for (size_t key = 0; key < LK_PAGE_TOKENS; key++)
    for (size_t i = 0; i < n_padded; i++)
      lean[lk_k_index(LK_Q8_QUAD, n_padded, key, i)] =
          i < n_kept ? from[lk_k_index(LK_Q8_QUAD, n_from, key, channels[i])] : LK_Q8_K_ZERO;
}

void lk_page_pack_v_q8_c(const void *v_wide, size_t head_dim, void *v_lean) {
  int8_t *lean = v_lean;
  float *scales = lk_q8_scales(v_lean, head_dim);
  float x[LK_Q8_MAX_DIM];
  for (size_t key = 0; key < LK_PAGE_TOKENS; key++) {
    const uint16_t *row = (const uint16_t *)v_wide + key * head_dim;
    for (size_t c = 0; c < head_dim; c++) x[c] = lk_bf16_to_f32(row[c]);
    scales[key] = scale_of(x, head_dim);
    for (size_t c = 0; c < head_dim; c++)
      lean[lk_q8_v_index(head_dim, key, c)] = (int8_t)quantised(x[c], scales[key]);
  }
}
