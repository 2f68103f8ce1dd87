/* The bounds. u = 2^-24 is the unit roundoff of fp32, w = 2^-8 that of bf16. A logit of n products
 * is off by at most d = ((n + 2) u + w') sum |q_c k_c| with w' = w where q is rounded, else 0
 * (Higham, Accuracy and Stability of Numerical Algorithms, 3.1). Its probability is then off by the
 * factor e^d; by 2 u |x - m| from subtracting maxima that only rise towards m; by 4 units in the
 * last place for each exponential and a product for each page it is rescaled at; by one rounding
 * per term of the sums behind it; and by w where probabilities are rounded.
 *
 * VDPBF16PS rounds each of its two sums to nearest, so that n products take n roundings of u. BFDOT
 * rounds the sum of a pair to odd, and so the accumulator (Arm Architecture Reference Manual for
 * A-profile, pseudocode BFDotAdd with FPCR.EBF = 0): each is off by less than 2 u, a product goes
 * through n / 2 + 1 of them, which again is (n + 2) u. Of a page's 64 keys that leaves 66 u, of
 * which 2 u belong to the key and 64 u to the page, as with one rounding per key.
 * Both treat denormals as 0: an operand costs at most 2^-126 times the other factor, a product or a
 * sum 2^-126.
 *
 * int8 pages: the oracle takes what is stored, scale times integer, as exact. Widened to fp32, an
 * element is off by u; to bf16, by w too. Partials of runs of pages are folded: two exponentials,
 * two products and a sum for each page at most.
 * Where q and probabilities become integers: q_c s_c is a multiple of a unit that is at most
 * 2^-14 * 32768 / 32639 times the largest |q_c s_c|, or 2^-100, off by half of it and 3 u; so the
 * logit is off by sum |k_c| times that, k_c integers. p_j s_j is off by a unit, at most 2^-15 times
 * the largest p_j s_j of the page, or 2^-100, times |v_j|. Sums of integers are exact. */
#include "attend_f64.h"

#include <math.h>
#include <string.h>

#include "base/dtype.h"
#include "kernels/page/page.h"

static const double U = 0x1p-24, W = 0x1p-8, TINY = 0x1p-120;

static double element(leank_kv_type type, const void *p, size_t i) {
  return type == LEANK_KV_F32 ? (double)((const float *)p)[i]
                              : (double)lk_bf16_to_f32(((const uint16_t *)p)[i]);
}

/* ---- int8: integers and scales ---- */

static bool is_int8(leank_kv_type type, const lk_page_view *page) {
  return type == LEANK_KV_Q8 && page->lean;
}

static double scale_at(const void *part, size_t n, size_t i) {
  float scale;
  memcpy(&scale, (const char *)part + LK_PAGE_TOKENS * n + i * sizeof scale, sizeof scale);
  return (double)scale;
}

static double k_integer(const void *k, size_t n, size_t key, size_t c) {
  const size_t at = (key / 16) * n * 16 + (c / 4) * 64 + (key % 16) * 4 + c % 4;
  return (double)((const uint8_t *)k)[at] - 128;
}

static double v_integer(const void *v, size_t d, size_t key, size_t c) {
  return (double)((const int8_t *)v)[(key / 4 * d + c) * 4 + key % 4];
}

static double key_element(leank_kv_type type, const lk_page_view *page, size_t n, size_t key,
                          size_t c) {
  if (is_int8(type, page)) return scale_at(page->k, n, c) * k_integer(page->k, n, key, c);
  return element(type, page->k, lk_k_index(lk_kv_interleave(type), n, key, c));
}

static double value_element(leank_kv_type type, const lk_page_view *page, size_t d, size_t key,
                            size_t c) {
  if (is_int8(type, page)) return scale_at(page->v, d, key) * v_integer(page->v, d, key, c);
  return element(type, page->v, key * d + c);
}

/* ---- logits ---- */

typedef struct logit {
  double x, bound;
} logit;

/* What integers of 16 bits cost a logit. */
static double query_rounding(const float *q, const lk_page_view *page, size_t n, size_t key) {
  double largest = 0x1p-100, integers = 0, magnitude = 0;
  for (size_t c = 0; c < n; c++) {
    const double scaled = fabs((double)q[c] * scale_at(page->k, n, c));
    const double k = fabs(k_integer(page->k, n, key, c));
    if (scaled > largest) largest = scaled;
    integers += k;
    magnitude += scaled * k;
  }
  const double unit = largest * 0x1p-14 * (32768.0 / 32639) * (1 + 4 * U);
  return unit / 2 * integers + 3 * U * magnitude;
}

static logit logit_f64(const lk_attend_args *a, leank_kv_type type, unsigned rounding, size_t r,
                       const lk_page_view *page, size_t key) {
  const size_t n = page->lean ? a->n_lean : a->head_dim;
  const float *q = page->lean ? a->q_lean + r * n : a->q + r * n;
  const double bias = page->lean && a->lean_bias ? (double)a->lean_bias[r] : 0;
  double sum = 0, magnitude = 0, flushed = 0;
  for (size_t c = 0; c < n; c++) {
    const double factor = key_element(type, page, n, key, c);
    const double product = (double)q[c] * factor;
    sum += product;
    magnitude += fabs(product);
    if (rounding & ROUNDS_BF16) flushed += 0x1p-126 * (fabs((double)q[c]) + fabs(factor) + 2);
  }
  double bound = U * fabs(sum + bias) * 2 + flushed + TINY;
  if ((rounding & ROUNDS_INT) && is_int8(type, page))
    return (logit){sum + bias, bound + query_rounding(q, page, n, key) + 3 * U * fabs(sum)};
  const int n_rounded = !!(rounding & ROUNDS_BF16) * (is_int8(type, page) ? 2 : 1);
  const double relative = ((double)n + 2 + is_int8(type, page)) * U + n_rounded * W;
  return (logit){sum + bias, relative * magnitude + bound};
}

static size_t visible(const lk_page_view *page, int64_t q_pos) {
  size_t n = 0;
  while (n < page->n_keys && page->pos + (int64_t)n <= q_pos) n++;
  return n;
}

static void maximum_f64(const lk_attend_args *a, leank_kv_type type, unsigned rounding, size_t r,
                        attend_f64 *out) {
  out->m = -INFINITY;
  out->m_bound = 0;
  for (size_t i = 0; i < a->n_pages; i++)
    for (size_t j = 0; j < visible(a->pages + i, a->q_pos[r]); j++) {
      const logit x = logit_f64(a, type, rounding, r, a->pages + i, j);
      if (x.x > out->m) out->m = x.x;
      if (x.bound > out->m_bound) out->m_bound = x.bound;
    }
}

/* ---- output ---- */

/* Of a page's probabilities, each times its key's scale, the largest that can be, for integers. */
static double largest_scaled(const lk_attend_args *a, const logit *x, size_t n,
                             const lk_page_view *page, double m) {
  double largest = 0x1p-100;
  for (size_t j = 0; j < n; j++)
    largest =
        fmax(largest, exp(x[j].x + x[j].bound - m) * scale_at(page->v, a->head_dim, j) * 1.01);
  return largest;
}

static void add_key_f64(const lk_attend_args *a, leank_kv_type type, unsigned rounding, logit x,
                        const lk_page_view *page, size_t key, double largest, attend_f64 *out) {
  const bool int8 = is_int8(type, page), integers = int8 && (rounding & ROUNDS_INT);
  const int folds = type == LEANK_KV_Q8 ? 20 : 0;
  const int n_rounded = integers ? 0 : !!(rounding & ROUNDS_BF16) * (int8 ? 2 : 1);
  const double p = exp(x.x - out->m);
  const double n_steps = (double)(LK_PAGE_TOKENS + 6 + folds) * (double)a->n_pages;
  const double off = x.bound + 2 * U * (fabs(x.x - out->m) + 2 * out->m_bound);
  const double bound = p * (expm1(off) + (n_steps + 8 + int8) * U + n_rounded * W) * 1.01 + TINY;
  out->l += p;
  out->l_bound += bound;
  for (size_t c = 0; c < a->head_dim; c++) {
    const double v = value_element(type, page, a->head_dim, key, c);
    out->o[c] += p * v;
    out->o_abs[c] += p * fabs(v);
    out->o_bound[c] += bound * fabs(v) + TINY;
    if (integers)
      out->o_bound[c] += largest * 0x1p-15 * fabs(v_integer(page->v, a->head_dim, key, c));
  }
}

void attend_f64_row(const lk_attend_args *args, leank_kv_type type, unsigned rounding, size_t r,
                    attend_f64 *out) {
  *out = (attend_f64){0};
  maximum_f64(args, type, rounding, r, out);
  for (size_t i = 0; i < args->n_pages; i++) {
    const lk_page_view *page = args->pages + i;
    const size_t n = visible(page, args->q_pos[r]);
    logit x[LK_PAGE_TOKENS];
    double largest = 0;
    for (size_t j = 0; j < n; j++) x[j] = logit_f64(args, type, rounding, r, page, j);
    if (is_int8(type, page)) largest = largest_scaled(args, x, n, page, out->m);
    for (size_t j = 0; j < n; j++) add_key_f64(args, type, rounding, x[j], page, j, largest, out);
  }
}
