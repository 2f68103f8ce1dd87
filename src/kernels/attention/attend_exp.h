/* exp over the vectors of an attend_vec_*.h, which the file includes before. */
#ifndef LK_KERNELS_ATTEND_EXP_H
#define LK_KERNELS_ATTEND_EXP_H

/* e^x for x <= 0 as 2^n 2^r, n whole and |r| <= 1/2: 2 units in the last place, 1 at 0, 0 below
 * -104 and at -INFINITY, NaN for NaN. The polynomial is the minimax one of degree 6 for the
 * relative error of 2^r with the constant fixed at 1 (2.6e-9). */
static inline vf v_exp(vf x) {
  x = v_max(v_set1(-105.0f), x); /* in this order NaN stays */
  const vf log2e = v_set1(0x1.715476p+0f), log2e_rest = v_set1(0x1.4ae0cp-26f);
  const vf n = v_round(v_mul(x, log2e));
  const vf r = v_fma(x, log2e_rest, v_fma(x, log2e, v_sub(v_zero(), n)));
  vf p = v_set1(0x1.470b4ap-13f);
  p = v_fma(p, r, v_set1(0x1.5f7276p-10f));
  p = v_fma(p, r, v_set1(0x1.3b270ep-7f));
  p = v_fma(p, r, v_set1(0x1.c6ae72p-5f));
  p = v_fma(p, r, v_set1(0x1.ebfbe2p-3f));
  p = v_fma(p, r, v_set1(0x1.62e432p-1f));
  p = v_fma(p, r, v_set1(1.0f));
  return v_scale_exp2(p, n);
}

#endif
