/* Op "rows". u = 2^-24 is half a unit in the last place, relative. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/dtype.h"
#include "base/rng.h"
#include "checkkern.h"
#include "kernels/rows/rows.h"

static const double U = 0x1p-24, TINY = 0x1p-149;
static const size_t SIZES[] = {0,  1,  2,  7,  8,  9,   15,  16,  17,  31,  32,
                               33, 63, 64, 65, 96, 127, 128, 129, 576, 1537};
enum { N_SIZES = sizeof SIZES / sizeof *SIZES };

static double uniform(lk_rng *rng) { return 2 * lk_rng_double(rng) - 1; }

static float *random_row(size_t n, double magnitude, bool front, lk_rng *rng) {
  float *p = checkkern_guarded(n * sizeof *p, front);
  for (size_t i = 0; i < n; i++) p[i] = (float)(magnitude * uniform(rng));
  return p;
}
static void free_row(float *p, size_t n, bool front) {
  checkkern_guarded_free(p, n * sizeof *p, front);
}
static float *copy_row(const float *x, size_t n, bool front) {
  float *p = checkkern_guarded(n * sizeof *p, front);
  memcpy(p, x, n * sizeof *p);
  return p;
}

static bool same(float a, float b) { return memcmp(&a, &b, sizeof a) == 0; }
static bool near(double got, double want, double bound) {
  return isnan(want) ? isnan(got) : got == want || fabs(got - want) <= bound;
}

/* The sum of n squares takes at most n / 8 + 24 roundings, of which the root leaves half; 6 more.
 */
static void check_rms_norm(checkkern *ck, const lk_rows_variant *v, size_t n, bool front,
                           lk_rng *rng) {
  const float eps = lk_rng_u64(rng) & 1 ? 1e-5f : 1e-6f;
  float *x = random_row(n, pow(10, 4 * uniform(rng)), front, rng);
  float *w = random_row(n, 2, front, rng), *y = copy_row(w, n, front), *z = copy_row(x, n, front);
  double sum = 0;
  for (size_t i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
  v->rms_norm(x, w, n, eps, y);
  v->rms_norm(z, w, n, eps, z);
  for (size_t i = 0; i < n; i++) {
    const double want = (double)x[i] / sqrt(sum / (double)n + (double)eps) * (double)w[i];
    const double bound = U * (((double)n / 8 + 24) / 2 + 6) * fabs(want) + TINY;
    checkkern_expect(ck, near((double)y[i], want, bound), v->name,
                     "rms_norm y[%zu] of %zu is %.9g, not %.9g +- %.3g", i, n, (double)y[i], want,
                     bound);
    checkkern_expect(ck, same(y[i], z[i]), v->name, "rms_norm of %zu in place: other bits", n);
  }
  free_row(x, n, front), free_row(w, n, front), free_row(y, n, front), free_row(z, n, front);
}

/* Each of two products and their sum round once. */
static void check_rope(checkkern *ck, const lk_rows_variant *v, size_t head_dim,
                       leank_channel_order order, bool front, lk_rng *rng) {
  const size_t half = head_dim / 2;
  float *head = random_row(head_dim, 3, front, rng), *old = copy_row(head, head_dim, front);
  float *cosines = random_row(half, 1, front, rng), *sines = random_row(half, 1, front, rng);
  for (size_t i = 0; i < half; i++)
    sines[i] = copysignf(sqrtf(1 - cosines[i] * cosines[i]), sines[i]);
  v->rope(head, head_dim, order, cosines, sines);
  for (size_t i = 0; i < half; i++) {
    const size_t i0 = order == LEANK_ORDER_PAIRS ? 2 * i : i;
    const size_t i1 = order == LEANK_ORDER_PAIRS ? 2 * i + 1 : i + half;
    const double a = (double)old[i0], b = (double)old[i1];
    const double c = (double)cosines[i], s = (double)sines[i];
    const double bound0 = 2 * U * (fabs(a * c) + fabs(b * s)) * (1 + U) + TINY;
    const double bound1 = 2 * U * (fabs(a * s) + fabs(b * c)) * (1 + U) + TINY;
    checkkern_expect(ck,
                     near((double)head[i0], a * c - b * s, bound0) &&
                         near((double)head[i1], a * s + b * c, bound1),
                     v->name, "rope order %d, pair %zu of %zu is (%.9g, %.9g), not (%.9g, %.9g)",
                     (int)order, i, half, (double)head[i0], (double)head[i1], a * c - b * s,
                     a * s + b * c);
  }
  free_row(head, head_dim, front), free_row(old, head_dim, front);
  free_row(cosines, half, front), free_row(sines, half, front);
}

/* With an exponential good to 2 units (4 u): e / (1 + e) 4 u + 2 u + 2 u, products 2 u. Where e or
 * the result is subnormal, what is lost is measured by the smallest number. */
static bool swiglu_ok(float got, float gate, float up) {
  const double g = (double)gate, want = g / (1 + exp(-g)) * (double)up;
  const double lost = 2 * TINY * (fabs(g * (double)up) + fabs((double)up) + 1);
  return near((double)got, want, 10 * U * fabs(want) + lost);
}

static void check_swiglu(checkkern *ck, const lk_rows_variant *v, size_t n, double magnitude,
                         bool front, lk_rng *rng) {
  float *gate = random_row(n, magnitude, front, rng), *up = random_row(n, 4, front, rng);
  float *out = copy_row(gate, n, front);
  float *gate_out = copy_row(gate, n, front), *up_out = copy_row(up, n, front);
  v->swiglu(gate, up, n, out);
  v->swiglu(gate_out, up, n, gate_out);
  v->swiglu(gate, up_out, n, up_out);
  for (size_t i = 0; i < n; i++) {
    checkkern_expect(ck, swiglu_ok(out[i], gate[i], up[i]), v->name,
                     "swiglu(%a, %a) at %zu of %zu is %.9g", (double)gate[i], (double)up[i], i, n,
                     (double)out[i]);
    checkkern_expect(ck, same(out[i], gate_out[i]) && same(out[i], up_out[i]), v->name,
                     "swiglu of %zu in place: other bits", n);
  }
  free_row(gate, n, front), free_row(up, n, front), free_row(out, n, front);
  free_row(gate_out, n, front), free_row(up_out, n, front);
}

/* A sum of n products of three takes at most n / 8 + 26 roundings. s has half of those, of its
 * squares, and 4 more; its cube has three times as many. The other steps of each term take at most
 * 8. `spread` is |x_j| mean|dy w x|. */
static double norm_gradient_bound(size_t n, double s, double across, double along, double spread) {
  const double of_sum = U * ((double)n / 8 + 26), of_s = of_sum / 2 + 4 * U;
  return fabs(across) * (of_s + 4 * U) + fabs(along) * (3 * of_s + 8 * U) +
         s * s * s * spread * of_sum + 4 * TINY * (1 + s);
}

static void check_rms_norm_backward(checkkern *ck, const lk_rows_variant *v, size_t n, bool front,
                                    lk_rng *rng) {
  const float eps = lk_rng_u64(rng) & 1 ? 1e-5f : 1e-6f;
  float *x = random_row(n, pow(10, 4 * uniform(rng)), front, rng);
  float *w = random_row(n, 2, front, rng), *dy = random_row(n, 3, front, rng);
  float *dx = random_row(n, 1, front, rng), *old = copy_row(dx, n, front);
  double squares = 0, products = 0, magnitude = 0;
  for (size_t i = 0; i < n; i++) {
    const double p = (double)dy[i] * (double)w[i] * (double)x[i];
    squares += (double)x[i] * (double)x[i];
    products += p, magnitude += fabs(p);
  }
  v->rms_norm_backward(x, w, n, eps, dy, dx);
  const double s = 1 / sqrt(squares / (double)n + (double)eps);
  for (size_t i = 0; i < n; i++) {
    const double across = s * (double)w[i] * (double)dy[i];
    const double along = s * s * s * (double)x[i] * products / (double)n;
    const double spread = fabs((double)x[i]) * magnitude / (double)n;
    const double want = (double)old[i] + across - along;
    const double bound =
        norm_gradient_bound(n, s, across, along, spread) * (1 + U) + 2 * U * fabs(want);
    checkkern_expect(ck, near((double)dx[i], want, bound), v->name,
                     "rms_norm_backward dx[%zu] of %zu is %.9g, not %.9g +- %.3g", i, n,
                     (double)dx[i], want, bound);
  }
  free_row(x, n, front), free_row(w, n, front), free_row(dy, n, front);
  free_row(dx, n, front), free_row(old, n, front);
}

/* p and 1 - p each to 8 u (see swiglu_ok); 1 + g (1 - p) may cancel, so its error is measured by
 * its terms. Four more roundings follow. */
static bool swiglu_gradients_ok(float dgate, float dup, float gate, float up, float dout) {
  const double g = (double)gate, u = (double)up, d = (double)dout;
  const double e = exp(-fabs(g)), p = (g < 0 ? e : 1) / (1 + e), rest = (g < 0 ? 1 : e) / (1 + e);
  const double lost = 2 * TINY * ((fabs(g) + 2) * (fabs(u * d) + fabs(d)) + 1);
  const double want_gate = p * (1 + g * rest) * u * d, want_up = g * p * d;
  const double bound = U * (12 * fabs(want_gate) + 10 * fabs(p * g * rest * u * d));
  return near((double)dgate, want_gate, bound + lost) &&
         near((double)dup, want_up, 11 * U * fabs(want_up) + lost);
}

static void check_swiglu_backward(checkkern *ck, const lk_rows_variant *v, size_t n,
                                  double magnitude, bool front, lk_rng *rng) {
  float *gate = random_row(n, magnitude, front, rng), *up = random_row(n, 4, front, rng);
  float *dout = random_row(n, 2, front, rng);
  float *dgate = copy_row(up, n, front), *dup = copy_row(gate, n, front);
  float *gate_out = copy_row(gate, n, front), *up_out = copy_row(up, n, front);
  float *dout_out = copy_row(dout, n, front);
  v->swiglu_backward(gate, up, dout, n, dgate, dup);
  v->swiglu_backward(gate_out, up_out, dout, n, gate_out, up_out);
  v->swiglu_backward(gate, up, dout_out, n, dout_out, dup);
  for (size_t i = 0; i < n; i++) {
    checkkern_expect(ck, swiglu_gradients_ok(dgate[i], dup[i], gate[i], up[i], dout[i]), v->name,
                     "swiglu_backward(%a, %a, %a) at %zu of %zu is %.9g, %.9g", (double)gate[i],
                     (double)up[i], (double)dout[i], i, n, (double)dgate[i], (double)dup[i]);
    checkkern_expect(
        ck, same(dgate[i], gate_out[i]) && same(dup[i], up_out[i]) && same(dgate[i], dout_out[i]),
        v->name, "swiglu_backward of %zu in place: other bits", n);
  }
  free_row(gate, n, front), free_row(up, n, front), free_row(dout, n, front);
  free_row(dgate, n, front), free_row(dup, n, front);
  free_row(gate_out, n, front), free_row(up_out, n, front), free_row(dout_out, n, front);
}

/* Gates of every exponent and sign, infinities, NaN and zeros included. */
static void check_swiglu_range(checkkern *ck, const lk_rows_variant *v, lk_rng *rng) {
  enum { PER_EXPONENT = 64, N = 512 * PER_EXPONENT };
  static float gate[N], up[N], out[N], dgate[N], dup[N];
  for (uint32_t i = 0; i < N; i++) {
    const uint32_t low = i % PER_EXPONENT ? (uint32_t)lk_rng_below(rng, 1u << 23) : 0;
    const uint32_t bits = i / PER_EXPONENT << 23 | low;
    memcpy(&gate[i], &bits, sizeof bits);
    up[i] = (float)(0.5 + lk_rng_double(rng) / 2); /* below 1: nothing overflows */
  }
  v->swiglu(gate, up, N, out);
  v->swiglu_backward(gate, up, up, N, dgate, dup);
  for (size_t i = 0; i < N; i++) {
    checkkern_expect(ck, swiglu_ok(out[i], gate[i], up[i]), v->name, "swiglu(%a, %a) is %a",
                     (double)gate[i], (double)up[i], (double)out[i]);
    checkkern_expect(ck, swiglu_gradients_ok(dgate[i], dup[i], gate[i], up[i], up[i]), v->name,
                     "swiglu_backward(%a, %a, %a) is %a, %a", (double)gate[i], (double)up[i],
                     (double)up[i], (double)dgate[i], (double)dup[i]);
  }
}

static void check_to_bf16(checkkern *ck, const lk_rows_variant *v, size_t n, bool front,
                          lk_rng *rng) {
  static const uint32_t low[] = {0, 1, 0x7fff, 0x8000, 0x8001, 0xffff};
  float *x = checkkern_guarded(n * sizeof *x, front);
  uint16_t *y = checkkern_guarded(n * sizeof *y, front);
  for (size_t i = 0; i < n; i++) {
    const uint32_t any = (uint32_t)lk_rng_u64(rng), edge = low[lk_rng_below(rng, 6)];
    const uint32_t bits = lk_rng_u64(rng) & 1 ? any : (any & 0xffff0000u) | edge;
    memcpy(&x[i], &bits, sizeof bits);
  }
  v->to_bf16(x, n, y);
  for (size_t i = 0; i < n; i++)
    checkkern_expect(ck, y[i] == lk_f32_to_bf16(x[i]), v->name,
                     "to_bf16 of %a at %zu of %zu is %04x, not %04x", (double)x[i], i, n, y[i],
                     lk_f32_to_bf16(x[i]));
  checkkern_guarded_free(x, n * sizeof *x, front);
  checkkern_guarded_free(y, n * sizeof *y, front);
}

static void check_add(checkkern *ck, const lk_rows_variant *v, size_t n, bool front, lk_rng *rng) {
  float *x = random_row(n, 1, front, rng), *y = random_row(n, 100, front, rng);
  float *old = copy_row(y, n, front);
  v->add(x, n, y);
  for (size_t i = 0; i < n; i++) {
    const float want = old[i] + x[i];
    checkkern_expect(ck, same(y[i], want), v->name, "add at %zu of %zu", i, n);
  }
  free_row(x, n, front), free_row(y, n, front), free_row(old, n, front);
}

static void check_size(checkkern *ck, const lk_rows_variant *v, size_t n, bool front, lk_rng *rng) {
  check_rms_norm(ck, v, n, front, rng);
  check_rope(ck, v, n / 2 * 2, LEANK_ORDER_HALF, front, rng);
  check_rope(ck, v, n / 2 * 2, LEANK_ORDER_PAIRS, front, rng);
  check_swiglu(ck, v, n, 8, front, rng);
  check_swiglu(ck, v, n, 120, front, rng);
  check_rms_norm_backward(ck, v, n, front, rng);
  check_swiglu_backward(ck, v, n, 8, front, rng);
  check_swiglu_backward(ck, v, n, 120, front, rng);
  check_to_bf16(ck, v, n, front, rng);
  check_add(ck, v, n, front, rng);
}

/* ---- speed, in cache ---- */

enum { BENCH_N = 8960 };
typedef struct bench {
  const lk_rows_variant *v;
  float x[BENCH_N], w[BENCH_N], y[BENCH_N], z[BENCH_N];
  uint16_t h[BENCH_N];
} bench;

static void bench_rms_norm(void *ctx) {
  bench *b = ctx;
  b->v->rms_norm(b->x, b->w, BENCH_N, 1e-5f, b->y);
}
static void bench_rope(void *ctx) {
  bench *b = ctx;
  for (size_t i = 0; i < BENCH_N; i += 128) b->v->rope(b->y + i, 128, LEANK_ORDER_HALF, b->x, b->w);
}
static void bench_swiglu(void *ctx) {
  bench *b = ctx;
  b->v->swiglu(b->x, b->w, BENCH_N, b->y);
}
static void bench_to_bf16(void *ctx) {
  bench *b = ctx;
  b->v->to_bf16(b->x, BENCH_N, b->h);
}
static void bench_add(void *ctx) {
  bench *b = ctx;
  b->v->add(b->x, BENCH_N, b->y);
}

static void bench_rms_norm_backward(void *ctx) {
  bench *b = ctx;
  b->v->rms_norm_backward(b->x, b->w, BENCH_N, 1e-5f, b->w, b->y);
}
static void bench_swiglu_backward(void *ctx) {
  bench *b = ctx;
  b->v->swiglu_backward(b->x, b->w, b->x, BENCH_N, b->y, b->z);
}

static void bench_variant(const lk_rows_variant *v) {
  static bench b;
  static const struct {
    const char *name;
    void (*fn)(void *ctx);
    double bytes; /* of an element */
  } ops[] = {{"rms_norm", bench_rms_norm, 12},
             {"rope", bench_rope, 8},
             {"swiglu", bench_swiglu, 12},
             {"to_bf16", bench_to_bf16, 6},
             {"add", bench_add, 12},
             {"rms_norm_backward", bench_rms_norm_backward, 20},
             {"swiglu_backward", bench_swiglu_backward, 20}};
  b.v = v;
  for (size_t op = 0; op < sizeof ops / sizeof *ops; op++) {
    for (size_t i = 0; i < BENCH_N; i++) {
      b.x[i] = (float)cos((double)i);
      b.w[i] = (float)sin((double)i);
      b.y[i] = 1;
    }
    const double rate = BENCH_N / checkkern_time(ops[op].fn, &b) * 1e-9;
    printf("%-12s %-17s %6.2f G elements/s, %7.2f GB/s read and written\n", v->name, ops[op].name,
           rate, rate * ops[op].bytes);
  }
}

void check_rows(checkkern *ck) {
  for (const lk_rows_variant *v = lk_rows_variants; v->name; v++) {
    if (!checkkern_wants(ck, v->name, v->level)) continue;
    lk_rng rng = {ck->seed};
    for (size_t i = 0; i < N_SIZES; i++)
      for (int front = 0; front < 2; front++) check_size(ck, v, SIZES[i], front, &rng);
    check_swiglu_range(ck, v, &rng);
    if (ck->bench) bench_variant(v);
  }
  for (size_t l = 0; l < ck->n_levels; l++) {
    const leank_cpu_level level = ck->levels[l];
    const lk_rows_variant *v = lk_rows_select(level);
    checkkern_expect(ck, v && (!level || v->level <= level), "rows_select", "level %d", (int)level);
  }
}
