/* The bounds. u = 2^-24 is the unit roundoff of fp32. A logit of n products is off by at most
 * (n + 2) u sum |q_c k_c|, and likewise dout . v (Higham, Accuracy and Stability of Numerical
 * Algorithms, 3.1). The probability is off by e^d - 1, with d the error of its exponent, and by 4
 * units in the last place for the exponential. A sum of N terms adds N u sum |terms| to the errors
 * of its terms. TINY stands for what underflows. */
#include "attend_backward_f64.h"

#include <math.h>

#include "base/dtype.h"
#include "kernels/page/page.h"

static const double U = 0x1p-24, TINY = 0x1p-120;

typedef struct number {
  double x, bound;
} number;

void sum_f64_start(sum_f64 *sum, float value) {
  *sum = (sum_f64){(double)value, 0, fabs((double)value), 1};
}

double sum_f64_bound(const sum_f64 *sum) {
  return 1.01 * (sum->bound + (double)sum->n_terms * U * (sum->magnitude + sum->bound)) + TINY;
}

static void add(sum_f64 *sum, number a, double factor) {
  sum->value += a.x * factor;
  sum->bound += a.bound * fabs(factor) + TINY;
  sum->magnitude += fabs(a.x * factor);
  sum->n_terms++;
}

static double element(leank_kv_type type, const void *p, size_t i) {
  return type == LEANK_KV_F32 ? (double)((const float *)p)[i]
                              : (double)lk_bf16_to_f32(((const uint16_t *)p)[i]);
}

static double key_element(const lk_attend_backward_args *a, leank_kv_type type,
                          const lk_page_view *page, size_t key, size_t channel) {
  const size_t n = page->lean ? a->n_lean : a->head_dim;
  return element(type, page->k, lk_k_index(lk_kv_interleave(type), n, key, channel));
}

/* x_rj - lse_r */
static number exponent(const lk_attend_backward_args *a, leank_kv_type type, size_t r,
                       const lk_page_view *page, size_t key) {
  const size_t n = page->lean ? a->n_lean : a->head_dim;
  const float *q = page->lean ? a->q_lean : a->q;
  double sum = 0, magnitude = 0;
  for (size_t c = 0; c < n; c++) {
    const double product = (double)q[r * n + c] * key_element(a, type, page, key, c);
    sum += product;
    magnitude += fabs(product);
  }
  const double x = sum + (page->lean && a->lean_bias ? (double)a->lean_bias[r] : 0);
  const double e = x - (double)a->lse[r];
  return (number){e, 1.01 * U * (((double)n + 2) * magnitude + fabs(x) + fabs(e)) + TINY};
}

static number probability(number e) {
  const double p = exp(e.x);
  return (number){p, 1.01 * p * (expm1(e.bound) + 8 * U) + TINY};
}

/* p (dout . v - delta) */
static number logit_gradient(const lk_attend_backward_args *a, leank_kv_type type, size_t r,
                             const lk_page_view *page, size_t key, number p) {
  const size_t d = a->head_dim;
  double dp = 0, magnitude = 0;
  for (size_t c = 0; c < d; c++) {
    const double product = (double)a->dout[r * d + c] * element(type, page->v, key * d + c);
    dp += product;
    magnitude += fabs(product);
  }
  const double rest = dp - (double)a->delta[r];
  const double rest_bound = 1.01 * U * (((double)d + 2) * magnitude + 2 * fabs(rest)) + TINY;
  return (number){p.x * rest, p.bound * (fabs(rest) + rest_bound) + p.x * rest_bound + TINY};
}

static void add_key(const lk_attend_backward_args *a, leank_kv_type type, size_t r, size_t page_at,
                    size_t key, const backward_f64 *out) {
  const lk_page_view *page = a->pages + page_at;
  const size_t d = a->head_dim, n = page->lean ? a->n_lean : d;
  const number p = probability(exponent(a, type, r, page, key));
  const number dx = logit_gradient(a, type, r, page, key, p);
  sum_f64 *dq = (page->lean ? out->dq_lean : out->dq) + r * n;
  const float *q = (page->lean ? a->q_lean : a->q) + r * n;
  sum_f64 *dk = out->dk + page_at * LK_PAGE_TOKENS * d + key * n;
  sum_f64 *dv = out->dv + (page_at * LK_PAGE_TOKENS + key) * d;
  for (size_t c = 0; c < n; c++) {
    add(dq + c, dx, key_element(a, type, page, key, c));
    add(dk + c, dx, (double)q[c]);
  }
  if (page->lean) add(out->dbias + r, dx, 1);
  for (size_t c = 0; c < d; c++) add(dv + c, p, (double)a->dout[r * d + c]);
}

void attend_backward_f64(const lk_attend_backward_args *args, leank_kv_type type,
                         const backward_f64 *out) {
  for (size_t r = 0; r < args->n_q; r++)
    for (size_t i = 0; i < args->n_pages; i++)
      for (size_t j = 0; j < args->pages[i].n_keys; j++)
        if (args->pages[i].pos + (int64_t)j <= args->q_pos[r]) add_key(args, type, r, i, j, out);
}
