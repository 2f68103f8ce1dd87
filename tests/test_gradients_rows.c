/* Gradients of activations: the formulas of the row ops against finite differences in float64, the
 * product with w itself against a float64 one, and the backend's table. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu.h"
#include "base/rng.h"
#include "checkkern/dequant_f64.h"
#include "cpu/cpu_features.h"
#include "kernels/rows/rows_backward_ref.h"

static double uniform(lk_rng *rng) { return 2 * lk_rng_double(rng) - 1; }

static void *some(size_t n, size_t size) {
  void *p = calloc(n, size);
  assert_non_null(p);
  return p;
}
static float *random_floats(size_t n, lk_rng *rng) {
  float *p = some(n, sizeof *p);
  for (size_t i = 0; i < n; i++) p[i] = (float)uniform(rng);
  return p;
}
static void expect_near(const char *what, size_t i, double got, double want, double bound) {
  if (!(fabs(got - want) <= bound))
    fail_msg("%s %zu is %.17g, not %.17g +- %.3g", what, i, got, want, bound);
}

/* ---- finite differences: an error of h^2 f''' / 6 and of 2^-53 f / h ---- */

enum { MAX_NORM = 65 };

/* sum_i dy_i RMSNorm(x)_i */
static double norm_objective(const double *x, const double *w, size_t n, double eps,
                             const double *dy) {
  double squares = 0, sum = 0;
  for (size_t i = 0; i < n; i++) squares += x[i] * x[i];
  for (size_t i = 0; i < n; i++) sum += dy[i] * x[i] / sqrt(squares / (double)n + eps) * w[i];
  return sum;
}

static void check_norm(size_t n, double magnitude, lk_rng *rng) {
  double x[MAX_NORM], w[MAX_NORM], dy[MAX_NORM], dx[MAX_NORM], old[MAX_NORM], scale = 0;
  const double eps = 1e-5, h = 1e-5 * magnitude;
  for (size_t i = 0; i < n; i++) {
    x[i] = magnitude * (1 + lk_rng_double(rng)) * (lk_rng_u64(rng) & 1 ? 1 : -1);
    w[i] = uniform(rng), dy[i] = uniform(rng), dx[i] = old[i] = uniform(rng);
    scale += fabs(w[i] * dy[i]) / magnitude;
  }
  rms_norm_backward_f64(x, w, n, eps, dy, dx);
  for (size_t i = 0; i < n; i++) {
    const double at = x[i];
    x[i] = at + h;
    const double above = norm_objective(x, w, n, eps, dy);
    x[i] = at - h;
    const double slope = (above - norm_objective(x, w, n, eps, dy)) / (2 * h);
    x[i] = at;
    expect_near("dx", i, dx[i] - old[i], slope, 1e-9 * scale + 1e-14);
  }
}

static void test_norm_formula(void **state) {
  (void)state;
  lk_rng rng = {1};
  for (size_t n = 1; n <= MAX_NORM; n += 8) {
    check_norm(n, 1, &rng);
    check_norm(n, 1e-3, &rng); /* eps is most of the mean */
    check_norm(n, 1e3, &rng);
  }
}

static double swiglu(double gate, double up) { return gate / (1 + exp(-gate)) * up; }

static void test_swiglu_formula(void **state) {
  (void)state;
  lk_rng rng = {2};
  for (double gate = -30; gate <= 30; gate += 0.37) {
    const double up = 3 * uniform(&rng), dout = 2 * uniform(&rng), h = 1e-5;
    double dgate, dup;
    swiglu_backward_f64(&gate, &up, &dout, 1, &dgate, &dup);
    const double by_gate = dout * (swiglu(gate + h, up) - swiglu(gate - h, up)) / (2 * h);
    const double by_up = dout * (swiglu(gate, up + h) - swiglu(gate, up - h)) / (2 * h);
    const double scale = 1e-16 / h * fabs(gate * dout) * (1 + fabs(up)); /* of what rounds */
    expect_near("dgate", 0, dgate, by_gate, 1e-9 * fabs(by_gate) + scale + 1e-9 * h);
    expect_near("dup", 0, dup, by_up, 1e-9 * fabs(by_up) + scale);
  }
}

/* The bounds above say nothing where everything is tiny: gates whose exponential overflows. */
static void test_swiglu_far(void **state) {
  (void)state;
  const double gate[] = {-1e300, -800, -0.0, 0, 800, 1e300};
  const double gradient[] = {0, 0, 0.5, 0.5, 1, 1}, value[] = {0, 0, 0, 0, 800, 1e300};
  const double one[] = {1, 1, 1, 1, 1, 1};
  double dgate[6], dup[6];
  swiglu_backward_f64(gate, one, one, 6, dgate, dup);
  for (size_t i = 0; i < 6; i++) {
    assert_true(dgate[i] == gradient[i]);
    assert_true(dup[i] == value[i]);
  }
}

/* ---- products ---- */

enum { MAX_N = 65 };

typedef struct product {
  lk_tensor w;
  void *data;
  float *wide, *dy, *old; /* [n_out][n_in] as a product uses w, [MAX_N][n_out], [MAX_N + 1][n_in] */
  double *want, *spread;  /* [MAX_N][n_in]: dy w, and the sum of the magnitudes of its terms */
  float *first;           /* [2][MAX_N + 1][n_in]: what the first gemm gave, without and with add */
} product;

static float as_operand(float x, bool bf16) { return bf16 ? lk_bf16_to_f32(lk_f32_to_bf16(x)) : x; }

/* In float64 over the operands as they are rounded, so that only sums are left to differ. */
static void compute_product(product *p, bool bf16) {
  const size_t n_in = p->w.n_cols, n_out = p->w.n_rows;
  for (size_t i = 0; i < n_out * n_in; i++) p->wide[i] = as_operand(p->wide[i], bf16);
  for (size_t r = 0; r < MAX_N; r++) {
    double *want = p->want + r * n_in, *spread = p->spread + r * n_in;
    memset(want, 0, n_in * sizeof *want);
    memset(spread, 0, n_in * sizeof *spread);
    for (size_t k = 0; k < n_out; k++) {
      const double g = (double)as_operand(p->dy[r * n_out + k], bf16);
      for (size_t c = 0; c < n_in; c++) {
        const double term = g * (double)p->wide[k * n_in + c];
        want[c] += term, spread[c] += fabs(term);
      }
    }
  }
}

static product make_product(lk_dtype type, size_t n_out, size_t n_in, bool bf16, lk_rng *rng) {
  product p = {.data = some(1, lk_dtype_bytes(type, n_out * n_in))};
  dequant_f64_random(type, n_out * n_in, 1, rng, p.data);
  p.w = (lk_tensor){p.data, type, n_out, n_in};
  p.wide = some(n_out * n_in, sizeof(float));
  lk_dequant_select(type, LEANK_CPU_C)->to_f32(p.data, n_out * n_in, p.wide);
  p.dy = random_floats(MAX_N * n_out, rng);
  p.old = random_floats((MAX_N + 1) * n_in, rng);
  p.want = some(MAX_N * n_in, sizeof(double));
  p.spread = some(MAX_N * n_in, sizeof(double));
  p.first = some(2 * (MAX_N + 1) * n_in, sizeof(float));
  compute_product(&p, bf16);
  return p;
}
static void free_product(product *p) {
  free(p->data), free(p->wide), free(p->dy), free(p->old);
  free(p->want), free(p->spread), free(p->first);
}

/* A sum of K terms rounds at most K times whatever its order; one more for add. */
static void check_values(const product *p, const float *dx, size_t n_rows, bool add) {
  const double u = 0x1p-24;
  for (size_t i = 0; i < n_rows * p->w.n_cols; i++) {
    const double old = add ? (double)p->old[i] : 0;
    const double bound = u * (double)(p->w.n_rows + 1) * p->spread[i] * (1 + u) +
                         u * fabs(p->want[i] + old) * (1 + u) + 0x1p-100;
    expect_near(lk_dtype_name(p->w.type), i, (double)dx[i], p->want[i] + old, bound);
  }
}

/* Every row has the bits it has in the first run, rows behind the last stay as they were. */
static void check_run(const product *p, lk_gemm *gemm, size_t n_rows, bool add, bool is_first) {
  const size_t n_in = p->w.n_cols, size = (MAX_N + 1) * n_in;
  float *dx = some(size, sizeof *dx), *first = p->first + (add ? size : 0);
  memcpy(dx, p->old, size * sizeof *dx);
  leank_error err;
  if (lk_gemm_run_backward(gemm, &p->w, p->dy, n_rows, add, dx, &err) != LEANK_OK)
    fail_msg("%s", err.message);
  if (is_first) {
    check_values(p, dx, n_rows, add);
    memcpy(first, dx, size * sizeof *dx);
  }
  assert_memory_equal(dx, first, n_rows * n_in * sizeof *dx);
  assert_memory_equal(dx + n_rows * n_in, p->old + n_rows * n_in,
                      (size - n_rows * n_in) * sizeof *dx);
  free(dx);
}

static void check_product(lk_dtype type, size_t n_out, size_t n_in, lk_gemm *const gemms[3],
                          lk_rng *rng) {
  static const size_t rows[] = {65, 1, 63, 64};
  const bool bf16 = strstr(lk_gemm_name(gemms[0]), "bf16") != NULL;
  product p = make_product(type, n_out, n_in, bf16, rng);
  for (size_t t = 0; t < 3; t++)
    for (size_t i = 0; i < 4; i++)
      for (int add = 0; add < 2; add++) check_run(&p, gemms[t], rows[i], add, t == 0 && i == 0);
  free_product(&p);
}

/* Sizes around the tiles of 64 rows and 256 columns; a type takes those that are whole blocks. */
static void check_products(bool bf16) {
  static const size_t sizes[][2] = {{1, 1},    {130, 48}, {77, 96},   {127, 255}, {129, 257},
                                    {65, 256}, {97, 576}, {50, 1536}, {300, 512}};
  lk_team *teams[3] = {NULL};
  lk_gemm *gemms[3] = {NULL};
  leank_error err;
  for (size_t t = 0; t < 3; t++) {
    assert_int_equal(lk_team_open(t + 1, &teams[t], &err), LEANK_OK);
    assert_int_equal(lk_gemm_open(bf16, lk_cpu_detect(), teams[t], &gemms[t], &err), LEANK_OK);
  }
  print_message("%s\n", lk_gemm_name(gemms[0]));
  lk_rng rng = {3};
  for (int type = 0; type < LK_N_DTYPES; type++)
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
      if (sizes[i][1] % lk_dtype_block_elements((lk_dtype)type) == 0)
        check_product((lk_dtype)type, sizes[i][0], sizes[i][1], gemms, &rng);
  for (size_t t = 0; t < 3; t++) {
    lk_gemm_close(&gemms[t]);
    lk_team_close(&teams[t]);
  }
}
static void test_products_f32(void **state) {
  (void)state;
  check_products(false);
}
static void test_products_bf16(void **state) {
  (void)state;
  check_products(true);
}

/* ---- the table ---- */

enum { N_HEADS = 4, N_KV = 2, HEAD_DIM = 16, N_PAGES = 6 };

static lk_backend *open_backend(size_t n_threads) {
  const lk_backend_options options = {.kv_type = LEANK_KV_F32,
                                      .n_threads = n_threads,
                                      .max_few_rows = 4,
                                      .max_cols = 64,
                                      .max_pages = N_PAGES,
                                      .shape = {N_HEADS, N_KV, HEAD_DIM, false, false}};
  lk_backend *be = NULL;
  leank_error err;
  assert_int_equal(lk_backend_open_cpu(&options, &be, &err), LEANK_OK);
  return be;
}

/* Dealt over threads, the row ops have the bits of one call a row. */
static void test_backend_rows(void **state) {
  (void)state;
  enum { N = 45, WIDTH = 999, SIZE = N * WIDTH };
  lk_rng rng = {4};
  float *x = random_floats(SIZE, &rng), *w = random_floats(WIDTH, &rng);
  float *dy = random_floats(SIZE, &rng), *up = random_floats(SIZE, &rng);
  float *got[2] = {some(SIZE, sizeof(float)), some(SIZE, sizeof(float))};
  float *want[2] = {some(SIZE, sizeof(float)), some(SIZE, sizeof(float))};
  const lk_tensor weights = {w, LK_F32, 1, WIDTH};
  lk_backend *be = open_backend(3);
  const lk_rows_variant *v = lk_rows_select(LEANK_CPU_BEST);
  for (size_t r = 0; r < N; r++)
    v->rms_norm_backward(x + r * WIDTH, w, WIDTH, 1e-5f, dy + r * WIDTH, want[0] + r * WIDTH);
  be->ops->rms_norm_backward(be, x, N, WIDTH, &weights, 1e-5f, dy, got[0]);
  assert_memory_equal(got[0], want[0], SIZE * sizeof(float));
  v->swiglu_backward(x, up, dy, SIZE, want[0], want[1]);
  be->ops->swiglu_backward(be, x, up, SIZE, dy, got[0], got[1]);
  assert_memory_equal(got[0], want[0], SIZE * sizeof(float));
  assert_memory_equal(got[1], want[1], SIZE * sizeof(float));
  be->ops->close(be);
  free(x), free(w), free(dy), free(up);
  free(got[0]), free(got[1]), free(want[0]), free(want[1]);
}

/* Square, so that a tile of the forward and one of the backward differ in their order alone. */
static void test_flops_of_products(void **state) {
  (void)state;
  enum { N = 6 };
  lk_rng rng = {5};
  float *w = random_floats(N * N, &rng), *x = random_floats(3 * N, &rng), y[3 * N];
  const lk_tensor weights = {w, LK_F32, N, N};
  const lk_linear_part part = {&weights, NULL, y, false};
  lk_backend *be = open_backend(1);
  assert_true(be->ops->flops(be) == 0);
  assert_int_equal(be->ops->linear(be, LK_LINEAR_MANY, &part, 1, x, 3, NULL), LEANK_OK);
  assert_true(be->ops->flops(be) == 2 * 3 * N * N);
  assert_int_equal(be->ops->linear(be, LK_LINEAR_FEW, &part, 1, x, 1, NULL), LEANK_OK);
  assert_true(be->ops->flops(be) == 2 * 4 * N * N);
  assert_int_equal(be->ops->linear_backward(be, &weights, x, 3, false, y, NULL), LEANK_OK);
  assert_true(be->ops->flops(be) == 2 * 7 * N * N);
  for (size_t i = 0; i < 3 * N; i++) {
    double want = 0;
    for (size_t k = 0; k < N; k++) want += (double)x[i / N * N + k] * (double)w[k * N + i % N];
    expect_near("dx", i, (double)y[i], want, 1e-5);
  }
  be->ops->close(be);
  free(w), free(x);
}

/* Attention of a row at `pos`, key by key. */
static double row_flops(const lk_head_map *heads, const lk_page_entry *table, int64_t pos) {
  double sum = 0;
  for (int64_t key = 0; key <= pos; key++)
    for (size_t h = 0; h < N_HEADS; h++) {
      const size_t kept = heads[h / (N_HEADS / N_KV)].n_kept;
      const bool lean = table[key / LK_PAGE_TOKENS].kind == LK_PAGE_LEAN;
      if (!lean || kept > 0) sum += 2 * (double)((lean ? kept : HEAD_DIM) + HEAD_DIM);
    }
  return sum;
}

/* All pages of a kind are the same one, of zeros: only what is counted matters. */
static void test_flops_of_attention(void **state) {
  (void)state;
  static uint16_t channels[HEAD_DIM] = {0, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 1, 2, 4};
  static unsigned char page[N_KV * LK_PAGE_TOKENS * 2 * HEAD_DIM * sizeof(float)];
  static float q[100 * N_HEADS * HEAD_DIM], out[100 * N_HEADS * HEAD_DIM];
  const lk_head_map heads[N_KV] = {{channels, channels + 3, 3, 4}, {NULL, channels, 0, 0}};
  const size_t lean_offset[N_KV] = {0, 0};
  const lk_attn_shape shape = {N_HEADS, N_KV, HEAD_DIM, false, false};
  const lk_layer_view view = {.arena = {page, page, page},
                              .page_bytes = {sizeof page, sizeof page, sizeof page},
                              .heads = heads,
                              .lean_offset = lean_offset};
  const lk_page_entry table[N_PAGES] = {{0, LK_PAGE_WIDE}, {0, LK_PAGE_LEAN},  {0, LK_PAGE_LEAN},
                                        {0, LK_PAGE_WIDE}, {0, LK_PAGE_STAGE}, {0, LK_PAGE_STAGE}};
  const lk_attend_group groups[] = {
      {.n_rows = 90, .first_pos = 250, .table = table},
      {.first_row = 90, .n_rows = 10, .first_pos = 5, .table = table}};
  const lk_attend_group one = {.n_rows = 1, .first_pos = 319, .table = table};
  const lk_rows many = {.groups = groups, .n_groups = 2}, few = {.groups = &one, .n_groups = 1};
  double want = 0;
  for (int64_t i = 0; i < 90; i++) want += row_flops(heads, table, 250 + i);
  for (int64_t i = 0; i < 10; i++) want += row_flops(heads, table, 5 + i);
  lk_backend *be = open_backend(2);
  be->ops->attend(be, LK_LINEAR_MANY, &shape, &view, &many, 0, 2, q, out, NULL);
  assert_true(be->ops->flops(be) == want);
  be->ops->attend(be, LK_LINEAR_FEW, &shape, &view, &few, 0, 1, q, out, NULL);
  assert_true(be->ops->flops(be) == want + row_flops(heads, table, 319));
  be->ops->close(be);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_norm_formula),      cmocka_unit_test(test_swiglu_formula),
      cmocka_unit_test(test_swiglu_far),        cmocka_unit_test(test_products_f32),
      cmocka_unit_test(test_products_bf16),     cmocka_unit_test(test_backend_rows),
      cmocka_unit_test(test_flops_of_products), cmocka_unit_test(test_flops_of_attention)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
