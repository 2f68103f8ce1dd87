/* What decode steps by GEMM are made of, on the GPU: joined products against float64, rows that are
 * rounded where they are made. `--bench` times instead of testing. Exit code 77: no device. */
#include "bench_cuda_steps.cuh"

enum { STEP_ROWS = 128 };

/* ---- joined products ---- */

typedef enum layout { JOINED, REVERSED, BIAS_APART, N_LAYOUTS } layout;
static const char *const layout_names[N_LAYOUTS] = {"joined", "reversed", "bias apart"};

/* p in three parts of its outputs, in rows of p's width: one GEMM, or three. The second bias of
 * BIAS_APART is a copy elsewhere. */
static lk_cuda_linear parts_of(const product *p, size_t n_rows, bool bias, bool add, layout how,
                               const float *copy) {
  const size_t second = p->n_out / 2, third = p->n_out * 3 / 4;
  const size_t at[4] = {0, second / 4 * 4, third / 4 * 4, p->n_out};
  lk_cuda_linear job = {};
  for (size_t i = 0; i < 3; i++) {
    lk_cuda_part *part = &job.parts[how == REVERSED ? 2 - i : i];
    *part = part_of(p, bias, add);
    part->w += at[i] * p->n_in;
    part->y += at[i];
    part->n_out = (uint32_t)(at[i + 1] - at[i]);
    if (bias) part->bias = how == BIAS_APART && i == 1 ? copy + at[i] : part->bias + at[i];
  }
  job.n_parts = 3;
  job.n_in = (uint32_t)p->n_in;
  job.pitch = (uint32_t)p->n_out;
  job.x = p->x;
  job.n_rows = n_rows;
  return job;
}

static void test_joined_shape(lk_cuda_device *dev, size_t n_out, size_t n_in, size_t n_rows) {
  product p = product_new(n_out, n_in, n_rows, NULL);
  float *copy = upload_floats(p.host_bias);
  for (int kind = 0; kind < 4; kind++)
    for (int how = 0; how < N_LAYOUTS; how++) {
      const bool bias = kind & 1, add = kind & 2;
      const lk_cuda_linear job = parts_of(&p, n_rows, bias, add, (layout)how, copy);
      reset_y(&p, add);
      lk_cuda_linear_many(dev, &job);
      check_device(dev, "linear_many");
      check_product(&p, n_rows, bias, add, many_bound(n_in), layout_names[how]);
    }
  cudaFree(copy);
  product_free(&p, true);
}

static void test_joined(lk_cuda_device *dev) {
  for (size_t n_rows : {17, 52, 64, 128}) {
    test_joined_shape(dev, 1152, 576, n_rows);
    test_joined_shape(dev, 2048, 1536, n_rows);
    test_joined_shape(dev, 6144, 4096, n_rows);
    test_joined_shape(dev, 1000, 8960, n_rows);
  }
  printf("joined: %zu checks so far\n", n_checks);
}

/* A row of a joined product beside rows of NaN, and again: the same bits. */
static void test_joined_beside_nan(lk_cuda_device *dev) {
  enum { N_IN = 4096, N_OUT = 6144, N_ROWS = 52, N_KEPT = 3 };
  product p = product_new(N_OUT, N_IN, N_ROWS, NULL);
  const lk_cuda_linear job = parts_of(&p, N_ROWS, true, false, JOINED, NULL);
  std::vector<float> y[2];
  for (int i = 0; i < 2; i++) {
    if (i == 1)
      must(cudaMemset(p.x + N_KEPT * N_IN, 0xff, (size_t)(N_ROWS - N_KEPT) * N_IN * sizeof(float)),
           "memset");
    reset_y(&p, false);
    lk_cuda_linear_many(dev, &job);
    check_device(dev, "linear_many");
    y[i] = check_product(&p, N_KEPT, true, false, many_bound(N_IN), "beside NaN");
  }
  check(memcmp(y[0].data(), y[1].data(), (size_t)N_KEPT * N_OUT * sizeof(float)) == 0,
        "joined: bits of rows beside NaN");
  product_free(&p, true);
}

/* ---- the operand ---- */

/* The operand's first n elements against x rounded on the host. */
static void check_operand(lk_cuda_device *dev, const float *x, size_t n, const char *what,
                          size_t n_cols) {
  std::vector<float> want(n);
  std::vector<uint16_t> got(n);
  size_t n_wrong = 0;
  check_device(dev, what);
  from_device(want.data(), x, n * sizeof want[0]);
  from_device(got.data(), dev->operand, n * sizeof got[0]);
  for (size_t i = 0; i < n; i++) n_wrong += got[i] != lk_f32_to_bf16(want[i]);
  check(n_wrong == 0, "%s of %zu columns: %zu of %zu wrong", what, n_cols, n_wrong, n);
}

static std::vector<float> random_floats(size_t n, float scale) {
  std::vector<float> v(n);
  for (float &x : v) x = random_float(&seed) * scale;
  return v;
}

/* What is rounded where it is made is what is made, rounded. */
static void test_operand(lk_cuda_device *dev, size_t n, size_t n_rows) {
  float *x = upload_floats(random_floats(2 * n_rows * n, 8));
  float *w = upload_floats(random_floats(n, 2));
  float *gate = (float *)device_bytes(n_rows * n * sizeof *gate);
  float *up = (float *)device_bytes(n_rows * n * sizeof *up);
  float *out = (float *)device_bytes(n_rows * n * sizeof *out);
  lk_cuda_rms_norm(dev, x, n_rows, n, w, 1e-5f, out);
  must(cudaMemset(dev->operand, 0xff, n_rows * n * sizeof *dev->operand), "memset");
  lk_cuda_rms_norm_operand(dev, x, n_rows, n, w, 1e-5f);
  check_operand(dev, out, n_rows * n, "rms_norm_operand", n);
  const size_t pitch = n * sizeof *x;
  must(cudaMemcpy2D(gate, pitch, x, 2 * pitch, pitch, n_rows, cudaMemcpyDeviceToDevice), "copy");
  must(cudaMemcpy2D(up, pitch, x + n, 2 * pitch, pitch, n_rows, cudaMemcpyDeviceToDevice), "copy");
  must(cudaDeviceSynchronize(), "copy");
  lk_cuda_swiglu(dev, gate, up, n_rows * n, out);
  must(cudaMemset(dev->operand, 0xff, n_rows * n * sizeof *dev->operand), "memset");
  lk_cuda_swiglu_operand(dev, x, n_rows, n);
  check_operand(dev, out, n_rows * n, "swiglu_operand", n);
  for (float *p : {x, w, gate, up, out}) cudaFree(p);
}

static void test_operands(lk_cuda_device *dev) {
  for (size_t n : {1, 7, 12, 96, 2047, 2048, 4096, 14336})
    for (size_t n_rows : {1, 5, 52, 128}) test_operand(dev, n, n_rows);
  printf("operands: %zu checks so far\n", n_checks);
}

/* A product of the operand as it is has the bits of one that rounds the same rows. */
static void test_product_of_operand(lk_cuda_device *dev) {
  enum { N_IN = 1536, N_OUT = 2048, N_ROWS = 52 };
  product p = product_new(N_OUT, N_IN, N_ROWS, NULL);
  float *w = upload_floats(random_floats(N_IN, 2));
  float *normed = (float *)device_bytes((size_t)N_ROWS * N_IN * sizeof *normed);
  lk_cuda_linear job = parts_of(&p, N_ROWS, true, false, JOINED, NULL);
  std::vector<float> y[2];
  for (int i = 0; i < 2; i++) {
    reset_y(&p, false);
    y[i].resize((size_t)N_ROWS * N_OUT);
    job.x = i == 0 ? normed : NULL;
    if (i == 0)
      lk_cuda_rms_norm(dev, p.x, N_ROWS, N_IN, w, 1e-5f, normed);
    else
      lk_cuda_rms_norm_operand(dev, p.x, N_ROWS, N_IN, w, 1e-5f);
    lk_cuda_linear_many(dev, &job);
    check_device(dev, "linear_many");
    from_device(y[i].data(), p.y, y[i].size() * sizeof(float));
  }
  check(memcmp(y[0].data(), y[1].data(), y[0].size() * sizeof(float)) == 0,
        "a product of the operand as it is");
  cudaFree(w);
  cudaFree(normed);
  product_free(&p, true);
}

/* Without room, nothing is launched and the failure is kept. */
static void test_operand_not_reserved(lk_cuda_device *dev) {
  lk_cuda_device bare = {};
  bare.stream = dev->stream;
  lk_cuda_rms_norm_operand(&bare, NULL, 1, 64, NULL, 1e-5f);
  check(bare.failure.code != LEANK_OK, "rms_norm_operand needs reserve");
  bare.failure = leank_error{};
  lk_cuda_swiglu_operand(&bare, NULL, 1, 64);
  check(bare.failure.code != LEANK_OK, "swiglu_operand needs reserve");
}

int main(int argc, char **argv) {
  lk_cuda_device dev = open_with_room(STEP_ROWS);
  if (argc > 1 && strcmp(argv[1], "--bench") == 0) {
    bench_steps(&dev);
  } else {
    test_joined(&dev);
    test_joined_beside_nan(&dev);
    test_operands(&dev);
    test_product_of_operand(&dev);
    test_operand_not_reserved(&dev);
  }
  return close_with_room(&dev, "steps");
}
