/* The rows kernels of one instruction set. Before including it: vec_<isa>.h of dequant, vec_exp
 * (the exponential of attention over its vectors), and ISA defined as the suffix of the names. */
#include <math.h>

#include "kernels/rows/rows_kernels.h"

#define PASTE_(name, isa) lk_rows_##name##_##isa
#define PASTE(name, isa) PASTE_(name, isa)

/* i = 0, VEC_LANES, ... below n, with k lanes of it to work on. */
#define FOR_VECTORS(i, k, n)                                                                       \
  for (size_t i = 0, k; i < (n) && (k = (n)-i < VEC_LANES ? (n)-i : VEC_LANES); i += VEC_LANES)

VEC_FN vec load(const float *p, size_t k) {
  return k == VEC_LANES ? vec_load(p) : vec_load_first(p, k);
}
VEC_FN void store(float *p, size_t k, vec x) {
  if (k == VEC_LANES)
    vec_store(p, x);
  else
    vec_store_first(p, k, x);
}

/* Vectors are summed into four accumulators in turn. */
static float sum_of_squares(const float *x, size_t n) {
  vec sums[4] = {vec_zero(), vec_zero(), vec_zero(), vec_zero()};
  size_t i = 0;
  for (; i + 4 * VEC_LANES <= n; i += 4 * VEC_LANES)
    for (size_t j = 0; j < 4; j++) {
      const vec a = vec_load(x + i + j * VEC_LANES);
      sums[j] = vec_fma(a, a, sums[j]);
    }
  FOR_VECTORS(rest, k, n - i) {
    const vec a = load(x + i + rest, k);
    sums[0] = vec_fma(a, a, sums[0]);
  }
  return vec_sum(vec_add(vec_add(sums[0], sums[1]), vec_add(sums[2], sums[3])));
}

void PASTE(rms_norm, ISA)(const float *x, const float *w, size_t n, float eps, float *y) {
  const float mean = sum_of_squares(x, n) / (float)n;
  const vec scale = vec_set1(1.0f / sqrtf(mean + eps));
  FOR_VECTORS(i, k, n)
  store(y + i, k, vec_mul(vec_mul(load(x + i, k), scale), load(w + i, k)));
}

static void rope_half(float *head, size_t half, const float *cos, const float *sin) {
  FOR_VECTORS(i, k, half) {
    const vec a = load(head + i, k), b = load(head + half + i, k);
    const vec c = load(cos + i, k), s = load(sin + i, k);
    store(head + i, k, vec_fms(a, c, vec_mul(b, s)));
    store(head + half + i, k, vec_fma(a, s, vec_mul(b, c)));
  }
}

static void rope_pairs(float *head, size_t head_dim, const float *cos, const float *sin) {
  FOR_VECTORS(i, k, head_dim) {
    const vec x = load(head + i, k);
    const vec c = vec_load_twice(cos + i / 2, k / 2), s = vec_load_twice(sin + i / 2, k / 2);
    store(head + i, k, vec_fma_sub_add(x, c, vec_mul(vec_swap_pairs(x), s)));
  }
}

void PASTE(rope, ISA)(float *head, size_t head_dim, leank_channel_order order, const float *cos,
                      const float *sin) {
  if (order == LEANK_ORDER_PAIRS)
    rope_pairs(head, head_dim, cos, sin);
  else
    rope_half(head, head_dim / 2, cos, sin);
}

/* As in the reference. */
void PASTE(swiglu, ISA)(const float *gate, const float *up, size_t n, float *out) {
  const vec one = vec_set1(1.0f);
  FOR_VECTORS(i, k, n) {
    const vec g = load(gate + i, k);
    const vec e = vec_exp(vec_negative_abs(g));
    const vec sigmoid = vec_div(vec_where_negative(g, e, one), vec_add(one, e));
    store(out + i, k, vec_mul(vec_mul(g, sigmoid), load(up + i, k)));
  }
}

void PASTE(to_bf16, ISA)(const float *x, size_t n, uint16_t *y) {
  FOR_VECTORS(i, k, n) {
    if (k == VEC_LANES)
      vec_store_bf16(y + i, vec_load(x + i));
    else
      vec_store_bf16_first(y + i, k, vec_load_first(x + i, k));
  }
}

void PASTE(add, ISA)(const float *x, size_t n, float *y) {
  FOR_VECTORS(i, k, n) store(y + i, k, vec_add(load(y + i, k), load(x + i, k)));
}
