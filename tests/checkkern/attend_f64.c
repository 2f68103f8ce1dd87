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
 * sum 2^-126. */
#include "attend_f64.h"

#include <math.h>

#include "base/dtype.h"
#include "kernels/page/page.h"

static const double U = 0x1p-24, W = 0x1p-8, TINY = 0x1p-120;

static double element(leank_kv_type type, const void *p, size_t i) {
  return type == LEANK_KV_F32 ? (double)((const float *)p)[i]
                              : (double)lk_bf16_to_f32(((const uint16_t *)p)[i]);
}

typedef struct logit {
  double x, bound;
} logit;

static logit logit_f64(const lk_attend_args *a, leank_kv_type type, bool rounds, size_t r,
                       const lk_page_view *page, size_t key) {
  const size_t n = page->lean ? a->n_lean : a->head_dim, e = lk_kv_interleave(type);
  const float *q = page->lean ? a->q_lean + r * n : a->q + r * n;
  const double bias = page->lean && a->lean_bias ? (double)a->lean_bias[r] : 0;
  double sum = 0, magnitude = 0, flushed = 0;
  for (size_t c = 0; c < n; c++) {
    const double factor = element(type, page->k, lk_k_index(e, n, key, c));
    const double product = (double)q[c] * factor;
    sum += product;
    magnitude += fabs(product);
    if (rounds) flushed += 0x1p-126 * (fabs((double)q[c]) + fabs(factor) + 2);
  }
  const double relative = ((double)n + 2) * U + (rounds ? W : 0);
  return (logit){sum + bias, relative * magnitude + U * fabs(sum + bias) * 2 + flushed + TINY};
}

static size_t visible(const lk_page_view *page, int64_t q_pos) {
  size_t n = 0;
  while (n < page->n_keys && page->pos + (int64_t)n <= q_pos) n++;
  return n;
}

static void maximum_f64(const lk_attend_args *a, leank_kv_type type, bool rounds, size_t r,
                        attend_f64 *out) {
  out->m = -INFINITY;
  out->m_bound = 0;
  for (size_t i = 0; i < a->n_pages; i++)
    for (size_t j = 0; j < visible(a->pages + i, a->q_pos[r]); j++) {
      const logit x = logit_f64(a, type, rounds, r, a->pages + i, j);
      if (x.x > out->m) out->m = x.x;
      if (x.bound > out->m_bound) out->m_bound = x.bound;
    }
}

static void add_key_f64(const lk_attend_args *a, leank_kv_type type, bool rounds, logit x,
                        const lk_page_view *page, size_t key, attend_f64 *out) {
  const double p = exp(x.x - out->m), n_steps = (double)(LK_PAGE_TOKENS + 6) * (double)a->n_pages;
  const double off = x.bound + 2 * U * (fabs(x.x - out->m) + 2 * out->m_bound);
  const double bound = p * (expm1(off) + (n_steps + 8) * U + (rounds ? W : 0)) * 1.01 + TINY;
  out->l += p;
  out->l_bound += bound;
  for (size_t c = 0; c < a->head_dim; c++) {
    const double v = element(type, page->v, key * a->head_dim + c);
    out->o[c] += p * v;
    out->o_abs[c] += p * fabs(v);
    out->o_bound[c] += bound * fabs(v) + TINY;
  }
}

void attend_f64_row(const lk_attend_args *args, leank_kv_type type, bool rounds_to_bf16, size_t r,
                    attend_f64 *out) {
  *out = (attend_f64){0};
  maximum_f64(args, type, rounds_to_bf16, r, out);
  for (size_t i = 0; i < args->n_pages; i++)
    for (size_t j = 0; j < visible(args->pages + i, args->q_pos[r]); j++) {
      const logit x = logit_f64(args, type, rounds_to_bf16, r, args->pages + i, j);
      add_key_f64(args, type, rounds_to_bf16, x, args->pages + i, j, out);
    }
}
