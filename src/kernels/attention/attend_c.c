/* Reference of op "attend": fp32 throughout, row by row, page by page. */
#include <math.h>
#include <string.h>

#include "base/dtype.h"
#include "kernels/attention/attend_q8_unpack.h"
#include "kernels/attention/attend_kernels.h"
#include "kernels/page/page.h"

static inline float load(leank_kv_type type, const void *p, size_t i) {
  return type == LEANK_KV_F32 ? ((const float *)p)[i] : lk_bf16_to_f32(((const uint16_t *)p)[i]);
}

/* x[j] = q . k_j for the n_keys first keys, channels in ascending order. */
static inline void logits(leank_kv_type type, const void *k, size_t n, size_t n_keys,
                          const float *q, float x[LK_PAGE_TOKENS]) {
  const size_t e = lk_kv_interleave(type);
  for (size_t j0 = 0; j0 < n_keys; j0 += LK_KEY_BLOCK) {
    float *block = x + j0;
    memset(block, 0, LK_KEY_BLOCK * sizeof *block);
    for (size_t c = 0; c < n; c++) {
      const size_t first = lk_k_index(e, n, j0, c);
      for (size_t j = 0; j < LK_KEY_BLOCK; j++) block[j] += q[c] * load(type, k, first + j * e);
    }
  }
}

/* One row meets n_keys visible keys of a page: the running maximum may rise, and what was summed
 * under the old one is scaled to the new one (by exactly 1 where it stands). */
static inline void softmax_page(const float *x, size_t n_keys, leank_kv_type type, const void *v,
                                size_t head_dim, float *m, float *l, float *o) {
  float top = *m;
  for (size_t j = 0; j < n_keys; j++) top = x[j] > top ? x[j] : top;
  const float scale = *m == top ? 1.0f : expf(*m - top);
  *m = top;
  *l *= scale;
  for (size_t c = 0; c < head_dim; c++) o[c] *= scale;
  for (size_t j = 0; j < n_keys; j++) {
    const float p = expf(x[j] - top);
    *l += p;
    for (size_t c = 0; c < head_dim; c++) o[c] += p * load(type, v, j * head_dim + c);
  }
}

/* A lean page of q8 as one of fp32 in `scratch`. */
static inline lk_page_view unpacked(const lk_attend_args *a, const lk_page_view *page) {
  lk_page_view view = *page;
  float *k = a->scratch, *v = k + LK_PAGE_TOKENS * a->n_lean;
  q8_unpack_k_f32(page->k, a->n_lean, k);
  q8_unpack_v_f32(page->v, a->head_dim, v);
  view.k = k;
  view.v = v;
  return view;
}

static inline void attend_row(leank_kv_type kv_type, const lk_attend_args *a, size_t r) {
  const size_t head_dim = a->head_dim;
  float x[LK_PAGE_TOKENS], m = -INFINITY, l = 0, *o = a->o + r * head_dim;
  memset(o, 0, head_dim * sizeof *o);
  for (size_t i = 0; i < a->n_pages; i++) {
    const lk_page_view *page = a->pages + i;
    const size_t n_keys = lk_visible_keys(page, a->q_pos[r]);
    const bool is_int8 = kv_type == LEANK_KV_Q8 && page->lean;
    const leank_kv_type type = is_int8 ? LEANK_KV_F32 : lk_kv_wide(kv_type);
    lk_page_view copy;
    if (n_keys == 0) continue;
    if (is_int8) {
      copy = unpacked(a, page);
      page = &copy;
    }
    if (page->lean)
      logits(type, page->k, a->n_lean, n_keys, a->q_lean + r * a->n_lean, x);
    else
      logits(type, page->k, head_dim, n_keys, a->q + r * head_dim, x);
    if (page->lean && a->lean_bias)
      for (size_t j = 0; j < n_keys; j++) x[j] += a->lean_bias[r];
    softmax_page(x, n_keys, type, page->v, head_dim, &m, &l, o);
  }
  a->m[r] = m;
  a->l[r] = l;
}

void lk_attend_bf16_c(const lk_attend_args *args) {
  for (size_t r = 0; r < args->n_q; r++) attend_row(LEANK_KV_BF16, args, r);
}

void lk_attend_q8_c(const lk_attend_args *args) {
  for (size_t r = 0; r < args->n_q; r++) attend_row(LEANK_KV_Q8, args, r);
}

void lk_attend_f32_c(const lk_attend_args *args) {
  for (size_t r = 0; r < args->n_q; r++) attend_row(LEANK_KV_F32, args, r);
}
