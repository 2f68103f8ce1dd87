/* Products, what they give in float64, and within which bounds: for the programs that test them. */
#ifndef LK_TESTS_CUDA_LINEAR_FIXTURE_CUH
#define LK_TESTS_CUDA_LINEAR_FIXTURE_CUH

#include <algorithm>
#include <cmath>
#include <vector>

extern "C" {
#include "base/dtype.h"
}
#include "cuda_fixture.cuh"

enum { N_GUARD = 64 }; /* elements after a result that must stay as they are */

static uint64_t seed = 20240607;

static const size_t row_counts[] = {1, 2, 7, 8, 9, 16, 33, 64, 65};
enum { MOST_ROWS = 65, MOST_IN = 18944 /* of a product that is tested or timed */ };

/* The device, with room for products of n_rows, where launches may begin early, as in sessions;
 * ends the program where there is none. */
static lk_cuda_device open_with_room(size_t n_rows) {
  lk_cuda_device dev = open_device();
  leank_error err = {};
  must(cudaDeviceGetAttribute(&dev.major, cudaDevAttrComputeCapabilityMajor, 0), "capability");
  if (lk_cuda_reserve(&dev, n_rows, MOST_IN, &err) == LEANK_OK) return dev;
  printf("%s\n", err.message);
  exit(1);
}

/* What is left to do; the program's exit status. */
static int close_with_room(lk_cuda_device *dev, const char *name) {
  lk_cuda_linear_close(dev);
  cudaStreamDestroy(dev->stream);
  printf("%s: %zu checks, %zu failed\n", name, n_checks, n_failed);
  return n_failed || n_checks == 0;
}

typedef void (*linear_fn)(lk_cuda_device *dev, const lk_cuda_linear *job);

/* What launches() launches, as a graph. */
template <typename F> static cudaGraphExec_t capture(lk_cuda_device *dev, F launches) {
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  must(cudaStreamBeginCapture(dev->stream, cudaStreamCaptureModeThreadLocal), "begin capture");
  launches();
  must(cudaStreamEndCapture(dev->stream, &graph), "end capture");
  must(cudaGraphInstantiate(&executable, graph, 0), "instantiate");
  cudaGraphDestroy(graph);
  return executable;
}

static cudaGraphExec_t record(lk_cuda_device *dev, linear_fn run, const lk_cuda_linear *jobs,
                              size_t n_jobs) {
  return capture(dev, [=] {
    for (size_t i = 0; i < n_jobs; i++) run(dev, &jobs[i]);
  });
}

/* sum and magnitude [n_rows][n_out]: w x and the sum of its terms' magnitudes; of w (g x) where g
 * is not NULL. */
static __global__ void oracle_kernel(const uint16_t *w, const float *g, const float *x,
                                     size_t n_out, size_t n_in, size_t n_rows, double *sum,
                                     double *magnitude) {
  const size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n_rows * n_out) return;
  const uint16_t *wi = w + i % n_out * n_in;
  const float *xi = x + i / n_out * n_in;
  double s = 0, m = 0;
  for (size_t k = 0; k < n_in; k++) {
    double term = (double)__uint_as_float((uint32_t)wi[k] << 16) * (double)xi[k];
    if (g) term *= (double)g[k];
    s += term;
    m += fabs(term);
  }
  sum[i] = s;
  magnitude[i] = m;
}

/* One matrix with inputs, an addend, and what comes out, on both sides. */
typedef struct product {
  size_t n_out, n_in, n_rows; /* n_rows: most */
  uint16_t *w;                /* device, as are those below */
  float *x, *bias, *y0, *y;
  std::vector<float> host_bias, host_y0;
  std::vector<double> sum, magnitude;
} product;

static float *upload_floats(const std::vector<float> &v) {
  float *p = (float *)device_bytes(v.size() * sizeof *p);
  to_device(p, v.data(), v.size() * sizeof *p);
  return p;
}

static const float norm_eps = 0.5f; /* large enough to be seen in what comes out */

/* Of each row: 1 / sqrt(mean of squares + eps). */
static std::vector<double> norm_scales(const product *p) {
  std::vector<float> x(p->n_rows * p->n_in);
  std::vector<double> scales(p->n_rows);
  from_device(x.data(), p->x, x.size() * sizeof x[0]);
  for (size_t row = 0; row < p->n_rows; row++) {
    double sum = 0;
    for (size_t k = 0; k < p->n_in; k++) {
      const double v = x[row * p->n_in + k];
      sum += v * v;
    }
    scales[row] = 1 / std::sqrt(sum / (double)p->n_in + (double)norm_eps);
  }
  return scales;
}

/* What is to come out: of x, or, with g, of its RMSNorm. */
static void product_oracle(product *p, const float *g) {
  const size_t n = p->n_rows * p->n_out;
  double *sums = (double *)device_bytes(2 * n * sizeof *sums);
  oracle_kernel<<<lk_cuda_blocks(n, 128), 128>>>(p->w, g, p->x, p->n_out, p->n_in, p->n_rows, sums,
                                                 sums + n);
  p->sum.resize(n);
  p->magnitude.resize(n);
  from_device(p->sum.data(), sums, n * sizeof *sums);
  from_device(p->magnitude.data(), sums + n, n * sizeof *sums);
  cudaFree(sums);
  if (!g) return;
  const std::vector<double> scales = norm_scales(p);
  for (size_t i = 0; i < n; i++) {
    p->sum[i] *= scales[i / p->n_out];
    p->magnitude[i] *= scales[i / p->n_out];
  }
}

/* x is given, or random: magnitudes over 12 binades. */
static product product_new(size_t n_out, size_t n_in, size_t n_rows, float *x) {
  product p = {};
  p.n_out = n_out, p.n_in = n_in, p.n_rows = n_rows;
  std::vector<uint16_t> w(n_out * n_in);
  for (uint16_t &v : w) v = lk_f32_to_bf16(random_float(&seed));
  p.w = (uint16_t *)device_bytes(w.size() * sizeof *p.w);
  to_device(p.w, w.data(), w.size() * sizeof *p.w);
  if (!x) {
    std::vector<float> values(n_rows * n_in);
    for (float &v : values) v = ldexpf(random_float(&seed), (int)(random_bits(&seed) % 12) - 6);
    x = upload_floats(values);
  }
  p.x = x;
  p.host_bias.resize(n_out);
  for (float &v : p.host_bias) v = random_float(&seed);
  p.host_y0.resize(n_rows * n_out + N_GUARD);
  for (float &v : p.host_y0) v = random_float(&seed);
  p.bias = upload_floats(p.host_bias);
  p.y0 = upload_floats(p.host_y0);
  p.y = upload_floats(p.host_y0);
  product_oracle(&p, NULL);
  return p;
}

static void product_free(product *p, bool with_x) {
  if (with_x) cudaFree(p->x);
  cudaFree(p->w);
  cudaFree(p->bias);
  cudaFree(p->y0);
  cudaFree(p->y);
}

static lk_cuda_part part_of(const product *p, bool bias, bool add) {
  lk_cuda_part part = {};
  part.w = p->w;
  part.bias = bias ? p->bias : NULL;
  part.y = p->y;
  part.n_out = (uint32_t)p->n_out;
  part.add = add;
  return part;
}

/* y as it was made; results that are not added to are NaN before. */
static void reset_y(const product *p, bool add) {
  const size_t n_bytes = p->host_y0.size() * sizeof *p->y;
  must(cudaMemcpy(p->y, p->y0, n_bytes, cudaMemcpyDeviceToDevice), "copy");
  if (!add) must(cudaMemset(p->y, 0xff, p->n_rows * p->n_out * sizeof *p->y), "memset");
}

/* Of a sum of n_in terms on tensor cores: each instruction of 16 terms may cut 2^-24 of the largest
 * addend off each addend, at most 2^-20 of the magnitude; the rest is the rounding of x: to
 * bf16, 2^-8, or to two of them, 2^-16. */
static double few_bound(size_t n_in) {
  const double n_instructions = 8 * std::ceil((double)n_in / 512); /* of a slice's chain */
  return 0x1p-16 + n_instructions * 0x1p-20 + 8 * 0x1p-24;
}
/* Sums as few_bound has them. */
static double many_bound(size_t n_in) {
  return 0x1p-8 + (std::ceil((double)n_in / 16) + 8) * 0x1p-20;
}

/* The first n_rows of y against the oracle, and what lies behind them. Gives y. */
static std::vector<float> check_product(const product *p, size_t n_rows, bool bias, bool add,
                                        double bound, const char *what) {
  std::vector<float> y(p->host_y0.size());
  from_device(y.data(), p->y, y.size() * sizeof y[0]);
  size_t n_wrong = 0;
  double worst = 0;
  for (size_t i = 0; i < n_rows * p->n_out; i++) {
    const double b = bias ? p->host_bias[i % p->n_out] : 0, a = add ? p->host_y0[i] : 0;
    const double error = std::fabs(y[i] - (p->sum[i] + b + a));
    const double limit =
        bound * p->magnitude[i] + 0x1p-23 * (p->magnitude[i] + std::fabs(b) + std::fabs(a));
    if (!(error <= limit)) n_wrong++;
    worst = std::max(worst, error / limit);
  }
  check(n_wrong == 0, "%s %zux%zu, %zu rows: %zu wrong, worst %.3g of the bound", what, p->n_out,
        p->n_in, n_rows, n_wrong, worst);
  const size_t end = p->n_rows * p->n_out;
  check(memcmp(&y[end], &p->host_y0[end], N_GUARD * sizeof y[0]) == 0, "%s wrote behind y", what);
  return y;
}

#endif
