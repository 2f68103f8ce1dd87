/* Products of some dozens of rows by own kernels, against float64 and against each other.
 * `--quick`: few, for compute-sanitizer. Exit code 77: no device. */
#include "cuda/ops.cuh"
#include "cuda_linear_fixture.cuh"

enum { DOZENS_ROWS = 64, DOZENS_IN = 8960, MOST_SEEN = 576 };

static lk_cuda_linear job_of(const product *p, bool bias, bool add, size_t n_rows) {
  lk_cuda_linear job = {};
  job.parts[0] = part_of(p, bias, add);
  job.n_parts = 1;
  job.n_in = (uint32_t)p->n_in;
  job.x = p->x;
  job.n_rows = n_rows;
  return job;
}

static void test_shape(lk_cuda_device *dev, size_t n_out, size_t n_in,
                       const std::vector<size_t> &row_counts) {
  product p = product_new(n_out, n_in, DOZENS_ROWS, NULL);
  for (size_t n_rows : row_counts)
    for (int kind = 0; kind < 4; kind++) {
      const bool bias = kind & 1, add = kind & 2;
      const lk_cuda_linear job = job_of(&p, bias, add, n_rows);
      reset_y(&p, add);
      lk_cuda_linear_many(dev, &job);
      check_device(dev, "linear_many");
      check_product(&p, n_rows, bias, add, many_bound(n_in), "dozens");
    }
  product_free(&p, true);
}

/* Outputs around tiles of 128 and halves of 64, k around steps of 64 and less than a cluster's
 * blocks; rows of y that are no whole 16 bytes; more tiles than blocks. */
static void test_shapes(lk_cuda_device *dev) {
  const std::vector<size_t> all = {1, 8, 17, 32, 33, 48, 49, 52, 64};
  for (size_t n_out : {4, 60, 64, 127, 128, 132, 576, 1535, 2048})
    for (size_t n_in : {8, 64, 72, 200, 576, 1536}) test_shape(dev, n_out, n_in, all);
  test_shape(dev, 4096, 4096, all);
  test_shape(dev, 1536, DOZENS_IN, all);
  test_shape(dev, 40004, 136, all);
  printf("shapes: %zu checks so far\n", n_checks);
}

/* A row's bits, whatever its number of companions, which may be no numbers. */
static void test_rows_apart(lk_cuda_device *dev, size_t n_out, size_t n_in) {
  enum { N_KEPT = 5 };
  product p = product_new(n_out, n_in, DOZENS_ROWS, NULL);
  must(cudaMemset(p.x + N_KEPT * n_in, 0xff, (DOZENS_ROWS - N_KEPT) * n_in * sizeof(float)),
       "memset");
  std::vector<float> first;
  for (size_t n_rows : {5, 20, 40, 64}) {
    const lk_cuda_linear job = job_of(&p, true, true, n_rows);
    reset_y(&p, true);
    lk_cuda_linear_many(dev, &job);
    check_device(dev, "linear_many");
    std::vector<float> y = check_product(&p, N_KEPT, true, true, many_bound(n_in), "beside NaN");
    y.resize(N_KEPT * n_out);
    if (first.empty()) first = y;
    check(memcmp(y.data(), first.data(), y.size() * sizeof y[0]) == 0,
          "%zu rows of %zux%zu: the bits of %d", n_rows, n_out, n_in, N_KEPT);
  }
  product_free(&p, true);
}

/* silu(g) u, and how far off it may be where g and u are off by dg and du. */
static double gated(double g, double u, double dg, double du, double *limit) {
  const double silu = g / (1 + std::exp(-g)), value = silu * u;
  *limit =
      1.1 * dg * (std::fabs(u) + du) + std::fabs(silu) * du + 0x1p-8 * std::fabs(value) + 0x1p-100;
  return value;
}

/* p has the outputs of gate, then those of up. */
static lk_cuda_linear gate_of(const product *p, size_t n_rows) {
  const size_t n_out = p->n_out / 2;
  lk_cuda_linear job = job_of(p, false, false, n_rows);
  job.n_parts = 2;
  job.parts[0].n_out = (uint32_t)n_out;
  job.parts[1] = job.parts[0];
  job.parts[1].w += n_out * p->n_in;
  job.parts[1].y += n_out;
  job.pitch = (uint32_t)(2 * n_out);
  job.gated = true;
  return job;
}

/* What the gate of p left as the operand, seen through a product that picks up to MOST_SEEN of it.
 */
static void check_gate(lk_cuda_device *dev, const product *p, size_t n_rows) {
  const size_t n_out = p->n_out / 2, n_in = p->n_in, n_seen = std::min(n_out, (size_t)MOST_SEEN);
  product pick = product_new(n_seen, n_out, n_rows, NULL);
  std::vector<size_t> picked(n_seen);
  std::vector<uint16_t> w(n_seen * n_out, 0);
  for (size_t i = 0; i < n_seen; i++) {
    picked[i] = i + i * (n_out - n_seen) / n_seen;
    w[i * n_out + picked[i]] = lk_f32_to_bf16(1);
  }
  to_device(pick.w, w.data(), w.size() * sizeof w[0]);
  lk_cuda_linear seen = job_of(&pick, false, false, n_rows);
  seen.x = NULL;
  reset_y(&pick, false);
  lk_cuda_linear_many(dev, &seen);
  check_device(dev, "linear_many");
  std::vector<float> y(n_rows * n_seen);
  from_device(y.data(), pick.y, y.size() * sizeof y[0]);
  size_t n_wrong = 0;
  for (size_t i = 0; i < y.size(); i++) {
    const size_t g = i / n_seen * 2 * n_out + picked[i % n_seen], u = g + n_out;
    double limit;
    const double bound = many_bound(n_in) + 0x1p-22;
    const double want =
        gated(p->sum[g], p->sum[u], bound * p->magnitude[g], bound * p->magnitude[u], &limit);
    n_wrong += !(std::fabs(y[i] - want) <= limit);
  }
  check(n_wrong == 0, "gate of %zux%zu, %zu rows: %zu wrong", n_out, n_in, n_rows, n_wrong);
  product_free(&pick, true);
}

static void test_gate(lk_cuda_device *dev, size_t n_out, size_t n_in, size_t n_rows) {
  product p = product_new(2 * n_out, n_in, n_rows, NULL);
  const lk_cuda_linear job = gate_of(&p, n_rows);
  reset_y(&p, false);
  lk_cuda_linear_many(dev, &job);
  check_gate(dev, &p, n_rows);
  product_free(&p, true);
}

/* A gate of what a gate left: no block may write where others still read. */
static void test_gate_of_gate(lk_cuda_device *dev, size_t n_out, size_t n_rows) {
  product first = product_new(2 * n_out, 64, n_rows, NULL);
  const lk_cuda_linear job = gate_of(&first, n_rows);
  lk_cuda_linear_many(dev, &job);
  check_device(dev, "linear_many");
  std::vector<uint16_t> operand(n_rows * n_out);
  from_device(operand.data(), dev->source, operand.size() * sizeof operand[0]);
  std::vector<float> x;
  for (uint16_t v : operand) x.push_back(lk_bf16_to_f32(v));
  product second = product_new(2 * n_out, n_out, n_rows, upload_floats(x));
  lk_cuda_linear again = gate_of(&second, n_rows);
  again.x = NULL;
  reset_y(&second, false);
  lk_cuda_linear_many(dev, &again);
  check_gate(dev, &second, n_rows);
  product_free(&first, true);
  product_free(&second, true);
}

/* By own kernels and by cuBLASLt. */
static void test_gates(lk_cuda_device *dev) {
  for (size_t n_out : {64, 72, 576, 1536})
    for (size_t n_in : {64, 576, 2048})
      for (size_t n_rows : {1, 17, 40, 64}) {
        test_gate(dev, n_out, n_in, n_rows);
        dev->many = LK_MANY_BY_LIBRARY;
        test_gate(dev, n_out, n_in, n_rows);
        dev->many = LK_MANY_OWN;
      }
  test_gate(dev, 18944, 136, 33); /* more tiles than blocks */
  test_gate(dev, 576, 576, 65);   /* too many rows for own kernels */
  test_gate_of_gate(dev, 1536, 40);
  printf("gates: %zu checks so far\n", n_checks);
}

/* Parts that are no gate are refused. */
static void test_no_gate(lk_cuda_device *dev) {
  product p = product_new(128, 64, 20, NULL);
  lk_cuda_linear job = job_of(&p, false, false, 20);
  job.gated = true;
  lk_cuda_linear_many(dev, &job);
  check(dev->failure.code != LEANK_OK, "one part is no gate");
  dev->failure = leank_error{};
  product_free(&p, true);
}

/* Clusters of 8, 4, 2 blocks and single ones, a gate. */
static void test_quick(lk_cuda_device *dev) {
  for (size_t n_out : {132, 4096, 8192, 40004}) test_shape(dev, n_out, 576, {17, 64});
  test_gate(dev, 576, 576, 40);
}

int main(int argc, char **argv) {
  lk_cuda_device dev = open_with_room(DOZENS_ROWS + 1);
  dev.many = LK_MANY_OWN;
  if (argc > 1 && strcmp(argv[1], "--quick") == 0) {
    test_quick(&dev);
  } else {
    test_shapes(&dev);
    test_rows_apart(&dev, 2048, 1536);
    test_rows_apart(&dev, 1000, 200);
    test_rows_apart(&dev, 40004, 72);
    test_gates(&dev);
    test_no_gate(&dev);
  }
  return close_with_room(&dev, "dozens");
}
