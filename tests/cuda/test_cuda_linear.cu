/* Weights to bf16 and products on the GPU, against the C reference and float64. `--bench` times
 * instead of testing. Exit code 77: no device. */
#include <algorithm>
#include <cmath>
#include <vector>

extern "C" {
#include "base/dtype.h"
#include "kernels/dequant/dequant_kernels.h"
}
#include "bench_cuda_linear.cuh"

/* ---- widen ---- */

/* f16 numbers of a block that must be finite, as every file's are: sign of a NaN that operations
 * make is the processor's choice. */
static void make_finite(uint8_t *block, lk_dtype type) {
  static const size_t none = ~(size_t)0;
  size_t at[2] = {0, none};
  if (type < LK_Q8_0) return;
  if (type == LK_Q6_K) at[0] = 208;
  if (type == LK_Q4_1 || type == LK_Q5_1 || type == LK_Q4_K || type == LK_Q5_K) at[1] = 2;
  for (size_t i = 0; i < 2; i++)
    if (at[i] != none && (block[at[i] + 1] & 0x7c) == 0x7c) block[at[i] + 1] ^= 0x40;
}

typedef void (*to_bf16_fn)(const void *src, size_t n, uint16_t *dst);

static void test_widen_n(lk_cuda_device *dev, lk_dtype type, to_bf16_fn reference, size_t n) {
  const size_t n_bytes = lk_dtype_bytes(type, n), block_bytes = lk_dtype_block_bytes(type);
  std::vector<uint8_t> from(n_bytes);
  std::vector<uint16_t> want(n + N_GUARD, 0x1234), got(n + N_GUARD, 0x1234);
  for (size_t i = 0; i < n_bytes; i++) from[i] = (uint8_t)random_bits(&seed);
  for (size_t i = 0; i < n_bytes; i += block_bytes) make_finite(&from[i], type);
  reference(from.data(), n, want.data());
  void *device_from = device_bytes(n_bytes);
  uint16_t *to = (uint16_t *)device_bytes(got.size() * sizeof *to);
  to_device(device_from, from.data(), n_bytes);
  to_device(to, got.data(), got.size() * sizeof *to);
  lk_cuda_widen(dev, type, device_from, n, to);
  check_device(dev, "widen");
  from_device(got.data(), to, got.size() * sizeof *to);
  size_t n_wrong = 0;
  for (size_t i = 0; i < got.size(); i++) n_wrong += got[i] != want[i];
  check(n_wrong == 0, "widen %s, n %zu: %zu wrong", lk_dtype_name(type), n, n_wrong);
  cudaFree(device_from);
  cudaFree(to);
}

static void test_widen(lk_cuda_device *dev) {
  to_bf16_fn references[LK_N_DTYPES];
#define LK_EACH_X(TYPE, name) references[LK_##TYPE] = lk_dequant_##name##_c_to_bf16;
  LK_EACH_DTYPE
#undef LK_EACH_X
  for (int type = 0; type < LK_N_DTYPES; type++) {
    const size_t block = lk_dtype_block_elements((lk_dtype)type);
    for (size_t n : {1, 7, 8, 9, 255, 4097, 1000003})
      test_widen_n(dev, (lk_dtype)type, references[type], block == 1 ? n : (n + 31) / 32 * block);
  }
  lk_cuda_widen(dev, LK_N_DTYPES, NULL, 256, NULL);
  check(dev->failure.code != LEANK_OK, "widen of an unknown type is kept as a failure");
  dev->failure = leank_error{};
  printf("widen: %zu checks so far\n", n_checks);
}

/* ---- few rows ---- */

/* Each row alone. */
static std::vector<float> rows_alone(lk_cuda_device *dev, const product *p, bool bias, bool add) {
  reset_y(p, add);
  for (size_t row = 0; row < p->n_rows; row++) {
    lk_cuda_linear job = {};
    job.parts[0] = part_of(p, bias, add);
    job.parts[0].y += row * p->n_out;
    job.n_parts = 1;
    job.n_in = (uint32_t)p->n_in;
    job.x = p->x + row * p->n_in;
    job.n_rows = 1;
    lk_cuda_linear_few(dev, &job);
  }
  check_device(dev, "linear_few");
  return check_product(p, p->n_rows, bias, add, few_bound(p->n_in), "few, rows alone");
}

static void test_few_shape(lk_cuda_device *dev, size_t n_out, size_t n_in) {
  product p = product_new(n_out, n_in, MOST_ROWS, NULL);
  for (int kind = 0; kind < 4; kind++) {
    const bool bias = kind & 1, add = kind & 2;
    const std::vector<float> alone = rows_alone(dev, &p, bias, add);
    for (size_t n_rows : row_counts) {
      lk_cuda_linear job = {};
      job.parts[0] = part_of(&p, bias, add);
      job.n_parts = 1;
      job.n_in = (uint32_t)n_in;
      job.x = p.x;
      job.n_rows = n_rows;
      reset_y(&p, add);
      lk_cuda_linear_few(dev, &job);
      check_device(dev, "linear_few");
      const std::vector<float> y = check_product(&p, n_rows, bias, add, few_bound(n_in), "few");
      check(memcmp(y.data(), alone.data(), n_rows * n_out * sizeof y[0]) == 0,
            "few %zux%zu: bits of %zu rows are those of each alone", n_out, n_in, n_rows);
    }
  }
  product_free(&p, true);
}

static void test_few(lk_cuda_device *dev) {
  for (size_t n_out : {1, 15, 16, 17, 896, 1536})
    for (size_t n_in : {16, 48, 576, 1536, 8960, 14336}) test_few_shape(dev, n_out, n_in);
  test_few_shape(dev, 9000, 1040); /* two passes of a block, a last line that is short */
  test_few_shape(dev, 40000, 72);  /* more passes than stages */
  printf("few: %zu checks so far\n", n_checks);
}

/* Four parts of one launch, of different sizes, with and without bias and add. */
static void test_few_parts(lk_cuda_device *dev) {
  enum { N_IN = 1536 };
  static const size_t n_outs[LK_CUDA_MAX_PARTS] = {1536, 256, 250, 8960};
  for (size_t n_rows : row_counts) {
    product p[LK_CUDA_MAX_PARTS];
    lk_cuda_linear job = {};
    for (size_t i = 0; i < LK_CUDA_MAX_PARTS; i++) {
      p[i] = product_new(n_outs[i], N_IN, n_rows, i ? p[0].x : NULL);
      reset_y(&p[i], i % 2);
      job.parts[i] = part_of(&p[i], i < 2, i % 2);
    }
    job.n_parts = LK_CUDA_MAX_PARTS;
    job.n_in = N_IN;
    job.x = p[0].x;
    job.n_rows = n_rows;
    lk_cuda_linear_few(dev, &job);
    check_device(dev, "linear_few");
    for (size_t i = 0; i < LK_CUDA_MAX_PARTS; i++) {
      const std::vector<float> y =
          check_product(&p[i], n_rows, i < 2, i % 2, few_bound(N_IN), "few, parts");
      const std::vector<float> alone = rows_alone(dev, &p[i], i < 2, i % 2);
      check(memcmp(y.data(), alone.data(), n_rows * n_outs[i] * sizeof y[0]) == 0,
            "few: bits of part %zu are those of each row alone", i);
    }
    for (size_t i = 0; i < LK_CUDA_MAX_PARTS; i++) product_free(&p[i], i == 0);
  }
  printf("few, parts: %zu checks so far\n", n_checks);
}

/* Rows of NaN and infinities beside a row leave it alone. */
static void test_few_beside_nan(lk_cuda_device *dev) {
  enum { N_IN = 576, N_OUT = 200 };
  for (size_t n_rows : {8, 16, 64}) {
    product p = product_new(N_OUT, N_IN, n_rows, NULL);
    const std::vector<float> alone = rows_alone(dev, &p, true, false);
    std::vector<float> bad(N_IN * (n_rows - 1), NAN);
    for (size_t i = 0; i < bad.size(); i += 3) bad[i] = INFINITY;
    to_device(p.x + N_IN, bad.data(), bad.size() * sizeof bad[0]);
    lk_cuda_linear job = {};
    job.parts[0] = part_of(&p, true, false);
    job.n_parts = 1;
    job.n_in = N_IN;
    job.x = p.x;
    job.n_rows = n_rows;
    lk_cuda_linear_few(dev, &job);
    check_device(dev, "linear_few");
    std::vector<float> y(N_OUT);
    from_device(y.data(), p.y, N_OUT * sizeof y[0]);
    check(memcmp(y.data(), alone.data(), N_OUT * sizeof y[0]) == 0, "few: a row beside NaNs");
    product_free(&p, true);
  }
}

/* NaN that earlier weights have left in shared memory, beside and behind the ones there are. */
static void test_few_after_nan(lk_cuda_device *dev) {
  enum { N_OUT = 5000, N_IN = 1024 };
  product nan = product_new(N_OUT, N_IN, 64, NULL);
  must(cudaMemset(nan.w, 0xff, (size_t)N_OUT * N_IN * sizeof *nan.w), "memset");
  for (size_t n_in : {24, 520, 1000}) {
    product p = product_new(1003, n_in, 64, NULL);
    for (size_t n_rows : {1, 16, 64}) {
      lk_cuda_linear job = {};
      job.parts[0] = part_of(&nan, false, false);
      job.n_parts = 1;
      job.n_in = N_IN;
      job.x = nan.x;
      job.n_rows = n_rows;
      lk_cuda_linear_few(dev, &job);
      job.parts[0] = part_of(&p, true, false);
      job.n_in = (uint32_t)n_in;
      job.x = p.x;
      reset_y(&p, false);
      lk_cuda_linear_few(dev, &job);
      check_device(dev, "linear_few");
      check_product(&p, n_rows, true, false, few_bound(n_in), "few, after NaN");
    }
    product_free(&p, true);
  }
  product_free(&nan, true);
}

/* ---- many rows ---- */

static void test_many(lk_cuda_device *dev) {
  static const size_t n_outs[] = {896, 256, 1535};
  for (size_t n_rows : {65, 128, 333})
    for (size_t n_in : {48, 1536, 8960}) {
      product p[3];
      lk_cuda_linear job = {};
      for (int kind = 0; kind < 4; kind++) {
        const bool bias = kind & 1, add = kind & 2;
        for (size_t i = 0; i < 3; i++) {
          if (kind == 0) p[i] = product_new(n_outs[i], n_in, n_rows, i ? p[0].x : NULL);
          reset_y(&p[i], add);
          job.parts[i] = part_of(&p[i], bias, add);
        }
        job.n_parts = 3;
        job.n_in = (uint32_t)n_in;
        job.x = p[0].x;
        job.n_rows = n_rows;
        lk_cuda_linear_many(dev, &job);
        check_device(dev, "linear_many");
        for (size_t i = 0; i < 3; i++)
          check_product(&p[i], n_rows, bias, add, many_bound(n_in), bias ? "many, bias" : "many");
      }
      for (size_t i = 0; i < 3; i++) product_free(&p[i], i == 0);
    }
  printf("many: %zu checks so far\n", n_checks);
}

/* ---- learning ---- */

/* Two parts of the inputs leave 2^-16 of them; the small product's own error is lost in the bound
 * of the large one, and so is its rounding before the large one is added. */
static double precise_bound(size_t n_sum) {
  return 0x1p-16 + (std::ceil((double)n_sum / 16) + 9) * 0x1p-20;
}

static void test_precise(lk_cuda_device *dev) {
  static const size_t n_outs[] = {896, 256, 1535};
  for (size_t n_rows : {1, 5, 77, 333})
    for (size_t n_in : {48, 1536, 8960}) {
      product p[3];
      lk_cuda_linear job = {};
      for (int kind = 0; kind < 4; kind++) {
        const bool bias = kind & 1, add = kind & 2;
        for (size_t i = 0; i < 3; i++) {
          if (kind == 0) p[i] = product_new(n_outs[i], n_in, n_rows, i ? p[0].x : NULL);
          reset_y(&p[i], add);
          job.parts[i] = part_of(&p[i], bias, add);
        }
        job.n_parts = 3;
        job.n_in = (uint32_t)n_in;
        job.x = p[0].x;
        job.n_rows = n_rows;
        lk_cuda_linear_precise(dev, &job);
        check_device(dev, "linear_precise");
        for (size_t i = 0; i < 3; i++)
          check_product(&p[i], n_rows, bias, add, precise_bound(n_in), "precise");
      }
      for (size_t i = 0; i < 3; i++) product_free(&p[i], i == 0);
    }
  printf("precise: %zu checks so far\n", n_checks);
}

/* sum and magnitude [n_rows][n_in] of dy w. */
static __global__ void oracle_backward_kernel(const uint16_t *w, const float *dy, size_t n_out,
                                              size_t n_in, size_t n_rows, double *sum,
                                              double *magnitude) {
  const size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n_rows * n_in) return;
  double s = 0, m = 0;
  for (size_t o = 0; o < n_out; o++) {
    const uint32_t bits = (uint32_t)w[o * n_in + i % n_in] << 16;
    const double term = (double)__uint_as_float(bits) * (double)dy[i / n_in * n_out + o];
    s += term;
    m += fabs(term);
  }
  sum[i] = s;
  magnitude[i] = m;
}

static void test_backward_shape(lk_cuda_device *dev, size_t n_out, size_t n_in, size_t n_rows) {
  std::vector<uint16_t> w(n_out * n_in);
  std::vector<float> dy(n_rows * n_out), before(n_rows * n_in + N_GUARD), dx(before.size());
  for (uint16_t &v : w) v = lk_f32_to_bf16(random_float(&seed));
  for (float &v : dy) v = ldexpf(random_float(&seed), (int)(random_bits(&seed) % 12) - 6);
  for (float &v : before) v = random_float(&seed);
  const size_t n = n_rows * n_in;
  uint16_t *device_w = (uint16_t *)device_bytes(w.size() * sizeof *device_w);
  to_device(device_w, w.data(), w.size() * sizeof *device_w);
  float *device_dy = upload_floats(dy), *device_dx = upload_floats(before);
  double *sums = (double *)device_bytes(2 * n * sizeof *sums);
  std::vector<double> exact(2 * n);
  oracle_backward_kernel<<<lk_cuda_blocks(n, 128), 128>>>(device_w, device_dy, n_out, n_in, n_rows,
                                                          sums, sums + n);
  from_device(exact.data(), sums, 2 * n * sizeof *sums);
  for (int add = 0; add < 2; add++) {
    to_device(device_dx, before.data(), before.size() * sizeof *device_dx);
    if (!add) must(cudaMemset(device_dx, 0xff, n * sizeof *device_dx), "memset");
    lk_cuda_linear_grad job = {};
    job.w = device_w;
    job.dy = device_dy;
    job.dx = device_dx;
    job.n_rows = n_rows;
    job.n_out = (uint32_t)n_out;
    job.n_in = (uint32_t)n_in;
    job.add = add != 0;
    lk_cuda_linear_backward(dev, &job);
    check_device(dev, "linear_backward");
    from_device(dx.data(), device_dx, dx.size() * sizeof *device_dx);
    size_t n_wrong = 0;
    for (size_t i = 0; i < n; i++) {
      const double was = add ? before[i] : 0;
      const double limit =
          precise_bound(n_out) * exact[n + i] + 0x1p-23 * (exact[n + i] + std::fabs(was));
      if (!(std::fabs(dx[i] - (exact[i] + was)) <= limit)) n_wrong++;
    }
    check(n_wrong == 0, "backward %zux%zu, %zu rows, add %d: %zu wrong", n_out, n_in, n_rows, add,
          n_wrong);
    check(memcmp(&dx[n], &before[n], N_GUARD * sizeof dx[0]) == 0, "backward wrote behind dx");
  }
  cudaFree(device_w);
  cudaFree(device_dy);
  cudaFree(device_dx);
  cudaFree(sums);
}

static void test_backward(lk_cuda_device *dev) {
  for (size_t n_rows : {1, 5, 77, 333}) {
    test_backward_shape(dev, 48, 96, n_rows);
    test_backward_shape(dev, 256, 1536, n_rows);
    test_backward_shape(dev, 8960, 1536, n_rows);
    test_backward_shape(dev, 1536, 8960, n_rows);
  }
  printf("backward: %zu checks so far\n", n_checks);
}

/* More shapes than are remembered: plans are made anew. */
static void test_many_shapes(lk_cuda_device *dev) {
  enum { MOST = 1100 };
  product p = product_new(64, 64, MOST, NULL);
  for (int round = 0; round < 2; round++)
    for (size_t n_rows = 1; n_rows <= MOST; n_rows += 2) {
      lk_cuda_linear job = {};
      job.parts[0] = part_of(&p, true, false);
      job.n_parts = 1;
      job.n_in = 64;
      job.x = p.x;
      job.n_rows = n_rows;
      reset_y(&p, false);
      lk_cuda_linear_many(dev, &job);
      check_device(dev, "linear_many");
      check_product(&p, n_rows, true, false, many_bound(64), "many, shapes");
    }
  product_free(&p, true);
}

/* ---- recorded launches ---- */

/* A recorded product gives the bits of one that is launched, with a shape never seen before. */
static void test_recorded(lk_cuda_device *dev) {
  for (int many = 0; many < 2; many++)
    for (size_t n_rows : {1, 40, 130}) {
      const linear_fn run = many ? lk_cuda_linear_many : lk_cuda_linear_few;
      product p = product_new(384, 704, n_rows, NULL);
      lk_cuda_linear job = {};
      job.parts[0] = part_of(&p, true, true);
      job.n_parts = 1;
      job.n_in = 704;
      job.x = p.x;
      job.n_rows = n_rows;
      cudaGraphExec_t graph = record(dev, run, &job, 1);
      check_device(dev, "recording");
      reset_y(&p, true);
      must(cudaGraphLaunch(graph, dev->stream), "replay");
      check_device(dev, "replay");
      const double bound = many ? many_bound(704) : few_bound(704);
      const std::vector<float> replayed = check_product(&p, n_rows, true, true, bound, "replay");
      reset_y(&p, true);
      run(dev, &job);
      check_device(dev, "run");
      const std::vector<float> launched = check_product(&p, n_rows, true, true, bound, "run");
      check(memcmp(replayed.data(), launched.data(), launched.size() * sizeof launched[0]) == 0,
            "replay and launch agree");
      cudaGraphExecDestroy(graph);
      product_free(&p, true);
    }
  printf("recorded: %zu checks so far\n", n_checks);
}

/* Products that need the one before, launched together and recorded: the bits of waiting after
 * each. */
static void test_chain(lk_cuda_device *dev, linear_fn run, const char *what,
                       const std::vector<size_t> &row_counts) {
  enum { N = 1088, LINKS = 16 };
  for (size_t n_rows : row_counts) {
    product p = product_new(N, N, n_rows, NULL);
    const size_t n = n_rows * N;
    float *y[2] = {(float *)device_bytes(n * sizeof(float)),
                   (float *)device_bytes(n * sizeof(float))};
    std::vector<lk_cuda_linear> jobs(LINKS);
    for (size_t i = 0; i < LINKS; i++) {
      jobs[i] = lk_cuda_linear{};
      jobs[i].parts[0] = part_of(&p, true, i > 1); /* i > 1: y is read, too, before it is written */
      jobs[i].parts[0].y = y[i % 2];
      jobs[i].n_parts = 1;
      jobs[i].n_in = N;
      jobs[i].x = i ? y[1 - i % 2] : p.x;
      jobs[i].n_rows = n_rows;
    }
    std::vector<float> want(n), got(n);
    for (const lk_cuda_linear &job : jobs) {
      run(dev, &job);
      check_device(dev, "link");
    }
    from_device(want.data(), y[(LINKS - 1) % 2], n * sizeof want[0]);
    size_t n_finite = 0;
    for (float v : want) n_finite += std::isfinite(v) && v != 0;
    check(n_finite == n, "chain: %zu of %zu numbers", n_finite, n);
    cudaGraphExec_t graph = record(dev, run, jobs.data(), LINKS);
    for (int i = 0; i < 20; i++) {
      if (i % 2)
        must(cudaGraphLaunch(graph, dev->stream), "replay");
      else
        for (const lk_cuda_linear &job : jobs) run(dev, &job);
      check_device(dev, "chain");
      from_device(got.data(), y[(LINKS - 1) % 2], n * sizeof got[0]);
      check(memcmp(got.data(), want.data(), n * sizeof got[0]) == 0,
            "chain of %zu rows, %s, %s: the bits of waiting after each", n_rows, what,
            i % 2 ? "recorded" : "launched");
    }
    cudaGraphExecDestroy(graph);
    cudaFree(y[0]);
    cudaFree(y[1]);
    product_free(&p, true);
  }
  printf("chains: %zu checks so far\n", n_checks);
}

/* Without room, nothing is launched and the failure is kept. */
static void test_not_reserved(lk_cuda_device *dev) {
  lk_cuda_device bare = {};
  bare.stream = dev->stream;
  bare.n_sm = dev->n_sm;
  const size_t n_rows = 64;
  product p = product_new(32, 64, n_rows, NULL);
  lk_cuda_linear job = {};
  job.parts[0] = part_of(&p, false, false);
  job.n_parts = 1;
  job.n_in = 64;
  job.x = p.x;
  job.n_rows = n_rows;
  lk_cuda_linear_few(&bare, &job);
  check_device(&bare, "linear_few");
  check_product(&p, n_rows, false, false, few_bound(64), "few, not reserved");
  reset_y(&p, false);
  lk_cuda_linear_many(&bare, &job);
  check(bare.failure.code != LEANK_OK, "many needs reserve");
  leank_error err = {};
  check(lk_cuda_reserve(&bare, (size_t)1 << 30, (size_t)1 << 20, &err) == LEANK_E_MEMORY &&
            err.code == LEANK_E_MEMORY,
        "reserve of 2^51 bytes fails");
  check(lk_cuda_reserve(&bare, n_rows, 64, &err) == LEANK_OK, "reserve works after that");
  bare.failure = leank_error{};
  lk_cuda_linear_many(&bare, &job);
  check_device(&bare, "linear_many");
  check_product(&p, n_rows, false, false, many_bound(64), "many, reserved");
  lk_cuda_linear_close(&bare);
  product_free(&p, true);
}

int main(int argc, char **argv) {
  const bool timed = argc > 1 && strcmp(argv[1], "--bench") == 0;
  lk_cuda_device dev = open_with_room(timed ? 2048 : 666);
  if (timed) {
    bench(&dev);
  } else {
    test_widen(&dev);
    test_few(&dev);
    test_few_parts(&dev);
    test_few_beside_nan(&dev);
    test_few_after_nan(&dev);
    test_many(&dev);
    test_precise(&dev);
    test_backward(&dev);
    test_many_shapes(&dev);
    test_recorded(&dev);
    test_chain(&dev, lk_cuda_linear_few, "few", {1, 7, 16, 24, 64});
    dev.many = LK_MANY_OWN;
    test_chain(&dev, lk_cuda_linear_many, "dozens", {3, 17, 33, 52, 64});
    dev.many = LK_MANY_BY_SIZE;
    test_not_reserved(&dev);
  }
  return close_with_room(&dev, "linear");
}
