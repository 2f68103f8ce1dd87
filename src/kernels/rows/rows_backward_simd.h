/* The gradients of the rows ops of one instruction set. Before including it: rows_simd.h. */

static float sum_of_products(const float *x, const float *w, const float *dy, size_t n) {
  vec sums[4] = {vec_zero(), vec_zero(), vec_zero(), vec_zero()};
  size_t i = 0;
  for (; i + 4 * VEC_LANES <= n; i += 4 * VEC_LANES)
    for (size_t j = 0, at = i; j < 4; j++, at += VEC_LANES)
      sums[j] = vec_fma(vec_mul(vec_load(dy + at), vec_load(w + at)), vec_load(x + at), sums[j]);
  FOR_VECTORS(rest, k, n - i) {
    const vec g = vec_mul(load(dy + i + rest, k), load(w + i + rest, k));
    sums[0] = vec_fma(g, load(x + i + rest, k), sums[0]);
  }
  return vec_sum(vec_add(vec_add(sums[0], sums[1]), vec_add(sums[2], sums[3])));
}

void PASTE(rms_norm_backward, ISA)(const float *x, const float *w, size_t n, float eps,
                                   const float *dy, float *dx) {
  const float s = 1.0f / sqrtf(sum_of_squares(x, n) / (float)n + eps);
  const vec scale = vec_set1(s),
            along = vec_set1(s * s * (sum_of_products(x, w, dy, n) / (float)n));
  FOR_VECTORS(i, k, n) {
    const vec across = vec_fms(load(w + i, k), load(dy + i, k), vec_mul(load(x + i, k), along));
    store(dx + i, k, vec_fma(scale, across, load(dx + i, k)));
  }
}

/* As in the reference. */
void PASTE(swiglu_backward, ISA)(const float *gate, const float *up, const float *dout, size_t n,
                                 float *dgate, float *dup) {
  const vec one = vec_set1(1.0f);
  FOR_VECTORS(i, k, n) {
    const vec g = load(gate + i, k), u = load(up + i, k), d = load(dout + i, k);
    const vec e = vec_exp(vec_negative_abs(g)), sum = vec_add(one, e);
    const vec p = vec_div(vec_where_negative(g, e, one), sum);
    const vec rest = vec_div(vec_where_negative(g, one, e), sum);
    store(dgate + i, k, vec_mul(vec_mul(vec_mul(p, vec_fma(g, rest, one)), u), d));
    store(dup + i, k, vec_mul(vec_mul(g, p), d));
  }
}
