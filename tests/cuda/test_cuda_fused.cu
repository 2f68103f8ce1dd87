/* Products of few rows behind an RMSNorm, and with a gate, against float64, and bit by bit against
 * rows by themselves and launches of their own. Exit code 77: no device. */
#include "cuda_linear_fixture.cuh"

/* As few_bound, and: g x is rounded; of the squares a lane adds up a 32nd, one after another, and
 * the lanes' and slices' sums are rounded 2 + 8 times more; so are mean and eps, all of which the
 * root halves; root, quotient and product with the sum are rounded once each. */
static double norm_bound(size_t n_in) {
  const double n_squares = 16 * std::ceil((double)n_in / 512) + 2 + 8;
  return few_bound(n_in) + 0x1p-24 * (1 + (n_squares + 2) / 2 + 3);
}

/* How two products of the same rows are computed. */
typedef struct fused_kind {
  const float *g; /* device, the norm's weights; or NULL */
  bool gated, bias, add;
} fused_kind;

static lk_cuda_linear fused_job(const product *p, const fused_kind *kind, size_t row,
                                size_t n_rows) {
  lk_cuda_linear job = {};
  for (size_t i = 0; i < 2; i++) {
    job.parts[i] = part_of(&p[i], kind->bias, kind->add);
    job.parts[i].y += row * p[i].n_out;
  }
  job.n_parts = 2;
  job.n_in = (uint32_t)p->n_in;
  job.x = p->x + row * p->n_in;
  job.n_rows = n_rows;
  job.norm = kind->g;
  job.eps = norm_eps;
  job.gated = kind->gated;
  return job;
}

/* silu(gate) * up, each within its bound: silu is nowhere steeper than 1.1; the operation itself
 * errs by 13 u (test_cuda_rows.cu). up's y stays as it was. Gives y. */
static std::vector<float> check_gated(const product *p, size_t n_rows, bool bias, double bound) {
  const size_t end = p->n_rows * p->n_out;
  std::vector<float> y(p->host_y0.size()), of_up(end);
  from_device(y.data(), p[0].y, y.size() * sizeof y[0]);
  from_device(of_up.data(), p[1].y, end * sizeof of_up[0]);
  size_t n_wrong = 0;
  for (size_t i = 0; i < n_rows * p->n_out; i++) {
    double v[2], e[2];
    for (size_t j = 0; j < 2; j++) {
      const double b = bias ? p[j].host_bias[i % p->n_out] : 0, m = p[j].magnitude[i];
      v[j] = p[j].sum[i] + b;
      e[j] = bound * m + 0x1p-23 * (m + std::fabs(b));
    }
    const double silu = v[0] / (1 + std::exp(-v[0])), want = silu * v[1];
    const double passed = 1.1 * e[0] * (std::fabs(v[1]) + e[1]) + std::fabs(silu) * e[1];
    const double limit = passed + 13 * 0x1p-24 * (std::fabs(want) + passed);
    if (!(std::fabs(y[i] - want) <= limit)) n_wrong++;
  }
  check(n_wrong == 0, "gated %zux%zu, %zu rows: %zu wrong", p->n_out, p->n_in, n_rows, n_wrong);
  check(memcmp(&y[end], &p->host_y0[end], N_GUARD * sizeof y[0]) == 0, "gated wrote behind y");
  size_t n_touched = 0;
  for (float v : of_up) n_touched += !std::isnan(v);
  check(n_touched == 0, "gated wrote up's y");
  return y;
}

/* What was computed, checked: y of the parts, one behind the other. */
static std::vector<float> check_fused(const product *p, const fused_kind *kind, size_t n_rows) {
  const double bound = kind->g ? norm_bound(p->n_in) : few_bound(p->n_in);
  const size_t n = n_rows * p->n_out;
  if (kind->gated) {
    std::vector<float> y = check_gated(p, n_rows, kind->bias, bound);
    y.resize(n);
    return y;
  }
  std::vector<float> both;
  for (size_t i = 0; i < 2; i++) {
    const std::vector<float> y =
        check_product(&p[i], n_rows, kind->bias, kind->add, bound, "few, norm");
    both.insert(both.end(), y.begin(), y.begin() + (ptrdiff_t)n);
  }
  return both;
}

static std::vector<float> run_fused(lk_cuda_device *dev, const product *p, const fused_kind *kind,
                                    size_t n_rows) {
  for (size_t i = 0; i < 2; i++) reset_y(&p[i], kind->add);
  const lk_cuda_linear job = fused_job(p, kind, 0, n_rows);
  lk_cuda_linear_few(dev, &job);
  check_device(dev, "linear_few (fused)");
  return check_fused(p, kind, n_rows);
}

/* All rows, each by itself. */
static std::vector<float> fused_alone(lk_cuda_device *dev, const product *p,
                                      const fused_kind *kind) {
  for (size_t i = 0; i < 2; i++) reset_y(&p[i], kind->add);
  for (size_t row = 0; row < p->n_rows; row++) {
    const lk_cuda_linear job = fused_job(p, kind, row, 1);
    lk_cuda_linear_few(dev, &job);
  }
  check_device(dev, "linear_few (fused)");
  return check_fused(p, kind, p->n_rows);
}

/* The gate of two products that are there already: the bits of a gate that is part of them. */
static void check_gate_apart(lk_cuda_device *dev, const product *p, const fused_kind *kind,
                             size_t n_rows, const std::vector<float> &gated) {
  fused_kind apart = *kind;
  apart.gated = false;
  run_fused(dev, p, &apart, n_rows);
  lk_cuda_swiglu(dev, p[0].y, p[1].y, gated.size(), p[0].y);
  check_device(dev, "swiglu");
  std::vector<float> y(gated.size());
  from_device(y.data(), p[0].y, y.size() * sizeof y[0]);
  check(memcmp(y.data(), gated.data(), y.size() * sizeof y[0]) == 0,
        "gated %zux%zu, %zu rows: the bits of products, then swiglu", p->n_out, p->n_in, n_rows);
}

static void test_fused_kind(lk_cuda_device *dev, const product *p, const fused_kind *kind,
                            const std::vector<size_t> &counts) {
  const std::vector<float> alone = fused_alone(dev, p, kind);
  for (size_t n_rows : counts) {
    const std::vector<float> y = run_fused(dev, p, kind, n_rows);
    const size_t n = n_rows * p->n_out, n_parts = kind->gated ? 1 : 2;
    for (size_t i = 0; i < n_parts; i++)
      check(memcmp(&y[i * n], &alone[i * p->n_rows * p->n_out], n * sizeof y[0]) == 0,
            "fused %zux%zu, part %zu: bits of %zu rows are those of each alone", p->n_out, p->n_in,
            i, n_rows);
    if (kind->gated) check_gate_apart(dev, p, kind, n_rows, y);
  }
}

static void test_fused_shape(lk_cuda_device *dev, size_t n_out, size_t n_in,
                             const std::vector<size_t> &counts) {
  product p[2];
  for (size_t i = 0; i < 2; i++) p[i] = product_new(n_out, n_in, MOST_ROWS, i ? p[0].x : NULL);
  std::vector<float> host_g(n_in);
  for (float &v : host_g) v = 2 * random_float(&seed);
  float *g = upload_floats(host_g);
  for (int norm = 0; norm < 2; norm++) {
    for (size_t i = 0; i < 2; i++) product_oracle(&p[i], norm ? g : NULL);
    for (int i = 0; i < 8; i++) {
      const fused_kind kind = {norm ? g : NULL, (i & 1) != 0, (i & 2) != 0, (i & 4) != 0};
      if ((kind.gated && kind.add) || (!norm && !kind.gated)) continue;
      test_fused_kind(dev, p, &kind, counts);
    }
  }
  for (size_t i = 0; i < 2; i++) product_free(&p[i], i == 0);
  cudaFree(g);
}

static void test_fused(lk_cuda_device *dev) {
  const std::vector<size_t> some(row_counts, row_counts + sizeof row_counts / sizeof *row_counts);
  std::vector<size_t> each(32);
  for (size_t i = 0; i < each.size(); i++) each[i] = i + 1;
  for (size_t n_out : {1, 7, 9, 16, 251})
    for (size_t n_in : {16, 48, 520, 1536, 8960}) test_fused_shape(dev, n_out, n_in, some);
  test_fused_shape(dev, 57, 576, each);
  test_fused_shape(dev, 9001, 1040, {1, 16, 33}); /* passes of a block */
  printf("fused: %zu checks so far\n", n_checks);
}

/* A job that a gate is not for is not launched, and the failure is kept. */
static void test_gate_refused(lk_cuda_device *dev) {
  product p[2] = {product_new(16, 64, 1, NULL), product_new(24, 64, 1, NULL)};
  const fused_kind kinds[] = {{NULL, true, false, false}, {NULL, true, false, true}};
  for (const fused_kind &kind : kinds) {
    lk_cuda_linear job = fused_job(p, &kind, 0, 1);
    if (kind.add) job.parts[1].n_out = job.parts[0].n_out;
    lk_cuda_linear_few(dev, &job);
    check(dev->failure.code != LEANK_OK, "a gate %s", kind.add ? "that adds" : "of other outputs");
    dev->failure = leank_error{};
  }
  for (product &q : p) product_free(&q, true);
}

/* Rows of NaN and infinities beside a row leave it alone: squares, too, are its own. */
static void test_fused_beside_nan(lk_cuda_device *dev) {
  enum { N_IN = 576, N_OUT = 200 };
  for (size_t n_rows : {8, 16, 64}) {
    product p[2];
    for (size_t i = 0; i < 2; i++) p[i] = product_new(N_OUT, N_IN, n_rows, i ? p[0].x : NULL);
    const std::vector<float> host_g(N_IN, 1.5f);
    float *g = upload_floats(host_g);
    for (size_t i = 0; i < 2; i++) product_oracle(&p[i], g);
    const fused_kind kind = {g, true, true, false};
    const std::vector<float> alone = fused_alone(dev, p, &kind);
    std::vector<float> bad(N_IN * (n_rows - 1), NAN), y(N_OUT);
    for (size_t i = 0; i < bad.size(); i += 3) bad[i] = INFINITY;
    to_device(p->x + N_IN, bad.data(), bad.size() * sizeof bad[0]);
    const lk_cuda_linear job = fused_job(p, &kind, 0, n_rows);
    lk_cuda_linear_few(dev, &job);
    check_device(dev, "linear_few (fused)");
    from_device(y.data(), p->y, N_OUT * sizeof y[0]);
    check(memcmp(y.data(), alone.data(), N_OUT * sizeof y[0]) == 0, "fused: a row beside NaNs");
    for (size_t i = 0; i < 2; i++) product_free(&p[i], i == 0);
    cudaFree(g);
  }
}

/* Feed-forward layers, each needing the one before, launched together and recorded: the bits of
 * waiting after each launch. */
static void test_fused_chain(lk_cuda_device *dev) {
  enum { HIDDEN = 1088, FFN = 1000, LAYERS = 8 };
  for (size_t n_rows : {1, 7, 16, 24, 64}) {
    product p[2], down = product_new(HIDDEN, FFN, n_rows, NULL);
    for (size_t i = 0; i < 2; i++) p[i] = product_new(FFN, HIDDEN, n_rows, i ? p[0].x : NULL);
    const std::vector<float> host_g(HIDDEN, 0.25f);
    float *g = upload_floats(host_g);
    const fused_kind kind = {g, true, true, false};
    const size_t n_bytes = n_rows * HIDDEN * sizeof(float);
    std::vector<lk_cuda_linear> jobs(2 * LAYERS);
    for (size_t i = 0; i < jobs.size(); i += 2) {
      jobs[i] = fused_job(p, &kind, 0, n_rows);
      jobs[i].x = down.y;
      jobs[i + 1] = lk_cuda_linear{};
      jobs[i + 1].parts[0] = part_of(&down, false, true);
      jobs[i + 1].n_parts = 1;
      jobs[i + 1].n_in = FFN;
      jobs[i + 1].x = p[0].y;
      jobs[i + 1].n_rows = n_rows;
    }
    std::vector<float> want(n_rows * HIDDEN), got(want.size());
    reset_y(&down, true);
    for (const lk_cuda_linear &job : jobs) {
      lk_cuda_linear_few(dev, &job);
      check_device(dev, "layer");
    }
    from_device(want.data(), down.y, n_bytes);
    size_t n_finite = 0;
    for (float v : want) n_finite += std::isfinite(v) && v != 0;
    check(n_finite == want.size(), "layers: %zu of %zu numbers", n_finite, want.size());
    cudaGraphExec_t graph = record(dev, lk_cuda_linear_few, jobs.data(), jobs.size());
    for (int i = 0; i < 20; i++) {
      reset_y(&down, true);
      if (i % 2)
        must(cudaGraphLaunch(graph, dev->stream), "replay");
      else
        for (const lk_cuda_linear &job : jobs) lk_cuda_linear_few(dev, &job);
      check_device(dev, "layers");
      from_device(got.data(), down.y, n_bytes);
      check(memcmp(got.data(), want.data(), n_bytes) == 0,
            "layers of %zu rows, %s: the bits of waiting after each", n_rows,
            i % 2 ? "recorded" : "launched");
    }
    cudaGraphExecDestroy(graph);
    cudaFree(g);
    for (size_t i = 0; i < 2; i++) product_free(&p[i], i == 0);
    product_free(&down, true);
  }
  printf("layers: %zu checks so far\n", n_checks);
}

int main(void) {
  lk_cuda_device dev = open_with_room(MOST_ROWS);
  test_fused(&dev);
  test_gate_refused(&dev);
  test_fused_beside_nan(&dev);
  test_fused_chain(&dev);
  return close_with_room(&dev, "fused");
}
