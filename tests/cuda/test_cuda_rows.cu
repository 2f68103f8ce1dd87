/* Row operations against float64 on the host, with bounds from the number of roundings. */
#include "cuda_pages_fixture.cuh"

static const double u = 0x1p-24;      /* of one fp32 rounding */
static const double least = 0x1p-148; /* two denormal steps */

static std::vector<float> normals(size_t n, float scale) {
  std::vector<float> x(n);
  for (float &y : x) y = random_normal() * scale;
  return x;
}

/* Every element of got within its bound of want. */
static void check_near(const std::vector<float> &got, const std::vector<double> &want,
                       const std::vector<double> &bound, const char *what, size_t n) {
  for (size_t i = 0; i < want.size(); i++)
    if (!check(std::fabs(got[i] - want[i]) <= bound[i],
               "%s of %zu: element %zu: %.9g, not %.9g +- %g", what, n, i, got[i], want[i],
               bound[i]))
      return;
}

static void test_embed(lk_cuda_device *dev, size_t n_cols, size_t n_rows) {
  const size_t n_tokens = 50;
  std::vector<uint16_t> table(n_tokens * n_cols);
  for (uint16_t &x : table) x = (uint16_t)random_u64();
  std::vector<int32_t> tokens(n_rows);
  std::vector<float> want;
  for (int32_t &t : tokens) {
    t = (int32_t)random_below(n_tokens);
    for (size_t c = 0; c < n_cols; c++)
      want.push_back(lk_bf16_to_f32(table[(size_t)t * n_cols + c]));
  }
  buffer<uint16_t> device_table(table);
  buffer<int32_t> device_tokens(tokens);
  buffer<float> x(want.size());
  lk_cuda_embed(dev, device_table.p, n_cols, device_tokens.p, n_rows, x.p);
  const std::vector<float> got = x.get(dev);
  check(memcmp(got.data(), want.data(), got.size() * sizeof(float)) == 0, "embed of %zu columns",
        n_cols);
}

/* The sum of n squares: as many roundings as a thread has elements, and the tree's. Of that the
 * square root halves the relative error; quotient, eps, root, reciprocal and two products follow.
 */
static void test_rms_norm(lk_cuda_device *dev, size_t n, size_t n_rows, size_t offset) {
  const float eps = 1e-5f;
  const std::vector<float> x = normals(n_rows * n + offset, 3), w = normals(n, 1);
  buffer<float> device_x(x), device_w(w), y(n_rows * n), one(n);
  lk_cuda_rms_norm(dev, device_x.p + offset, n_rows, n, device_w.p, eps, y.p);
  const std::vector<float> got = y.get(dev);
  std::vector<double> want, bound;
  const double error = ((double)(n / 256 + 4 + 13 + 2) / 2 + 6) * u;
  for (size_t r = 0; r < n_rows; r++) {
    const float *row = x.data() + offset + r * n;
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)row[i] * row[i];
    const double scale = 1 / std::sqrt(sum / (double)n + eps);
    for (size_t i = 0; i < n; i++) {
      want.push_back(row[i] * scale * w[i]);
      bound.push_back(std::fabs(want.back()) * error + least);
    }
  }
  check_near(got, want, bound, "rms_norm", n);
  /* A row by itself, and in place: the same bits. */
  lk_cuda_rms_norm(dev, device_x.p + offset + (n_rows - 1) * n, 1, n, device_w.p, eps, one.p);
  check(memcmp(one.get(dev).data(), got.data() + (n_rows - 1) * n, n * sizeof(float)) == 0,
        "rms_norm of %zu: a row by itself", n);
  lk_cuda_rms_norm(dev, device_x.p + offset, n_rows, n, device_w.p, eps, device_x.p + offset);
  check(memcmp(device_x.get(dev).data() + offset, got.data(), got.size() * sizeof(float)) == 0,
        "rms_norm of %zu in place", n);
}

/* Cosine and sine of double, correct to 2 of its units, are rounded, then scaled; the table's own
 * numbers then rotate: two products and their sum. */
static void test_rope(lk_cuda_device *dev, size_t d, size_t n_heads, size_t n_rows, bool pairs) {
  const size_t half = d / 2;
  const float mscale = 1.1f;
  std::vector<double> inv_freq(half), want, bound;
  std::vector<int64_t> pos(n_rows);
  for (size_t i = 0; i < half; i++) inv_freq[i] = std::pow(500000.0, -2.0 * (double)i / (double)d);
  for (int64_t &p : pos) p = (int64_t)random_below(1 << 20);
  pos[0] = 0;
  pos[n_rows - 1] = -5; /* a backward pass turns back */
  buffer<double> device_freq(inv_freq);
  buffer<int64_t> device_pos(pos);
  buffer<float> device_table(n_rows * d);
  lk_cuda_rope_table(dev, device_freq.p, mscale, d, device_pos.p, n_rows, device_table.p);
  const std::vector<float> table = device_table.get(dev);
  for (size_t r = 0; r < n_rows; r++)
    for (size_t i = 0; i < d; i++) {
      const double angle = (double)pos[r] * inv_freq[i % half];
      want.push_back((i < half ? std::cos(angle) : std::sin(angle)) * mscale);
      bound.push_back(std::fabs(want.back()) * 2.01 * u + 0x1p-50);
    }
  check_near(table, want, bound, "rope_table", d);

  const std::vector<float> x = normals(n_rows * n_heads * d, 2);
  buffer<float> device_x(x);
  lk_cuda_rope(dev, device_x.p, n_rows, n_heads, d, pairs, device_table.p);
  want.assign(x.size(), 0);
  bound.assign(x.size(), 0);
  for (size_t row = 0; row < n_rows * n_heads; row++)
    for (size_t i = 0; i < half; i++) {
      const size_t first = row * d + (pairs ? 2 * i : i), second = first + (pairs ? 1 : half);
      const double a = x[first], b = x[second];
      const double c = table[row / n_heads * d + i], s = table[row / n_heads * d + half + i];
      want[first] = a * c - b * s;
      want[second] = a * s + b * c;
      bound[first] = (std::fabs(a * c) + std::fabs(b * s)) * 2.01 * u + least;
      bound[second] = (std::fabs(a * s) + std::fabs(b * c)) * 2.01 * u + least;
    }
  check_near(device_x.get(dev), want, bound, pairs ? "rope of pairs" : "rope of halves", d);
}

/* The exponential is correct to 2 units (CUDA's own table of errors), so to 4 u; e / (1 + e) at
 * most doubles that; 1 + e, the quotient and two products round. Where e is denormal its error is a
 * few steps of 2^-149. */
static void test_swiglu(lk_cuda_device *dev, size_t n) {
  std::vector<float> gate = normals(n, 5), up = normals(n, 2);
  const float edges[] = {0.0f, -0.0f, 88, -88, -100, 200, -200, 1e30f, -1e30f};
  for (size_t i = 0; i < sizeof edges / sizeof *edges && i < n; i++) gate[n - 1 - i] = edges[i];
  std::vector<double> want(n), bound(n);
  for (size_t i = 0; i < n; i++) {
    want[i] = gate[i] / (1 + std::exp(-(double)gate[i])) * up[i];
    bound[i] = std::fabs(want[i]) * 13 * u + std::fabs((double)gate[i] * up[i]) * 0x1p-147 + least;
  }
  buffer<float> device_gate(gate), device_up(up), out(n);
  lk_cuda_swiglu(dev, device_gate.p, device_up.p, n, out.p);
  check_near(out.get(dev), want, bound, "swiglu", n);
  lk_cuda_swiglu(dev, device_gate.p, device_up.p, n, device_gate.p);
  check(device_gate.get(dev) == out.get(dev), "swiglu of %zu in place", n);
}

/* With s as in rms_norm and A = s^2 mean |dy w x|, which bounds what is taken off x: the sum of
 * products rounds as that of squares does, and twice more a term; s enters three times in all. The
 * result is added to what was there. */
static void test_rms_norm_backward(lk_cuda_device *dev, size_t n, size_t n_rows) {
  const float eps = 1e-5f;
  const std::vector<float> x = normals(n_rows * n, 3), w = normals(n, 1);
  const std::vector<float> dy = normals(n_rows * n, 2), before = normals(n_rows * n, 1);
  buffer<float> device_x(x), device_w(w), device_dy(dy), dx(before), one(before);
  lk_cuda_rms_norm_backward(dev, device_x.p, n_rows, n, device_w.p, eps, device_dy.p, dx.p);
  const std::vector<float> got = dx.get(dev);
  std::vector<double> want, bound;
  const double terms = (double)(n / 256 + 1 + 13 + 3), scale_error = terms / 2 + 4;
  for (size_t r = 0; r < n_rows; r++) {
    double squares = 0, products = 0, sizes = 0;
    for (size_t i = 0; i < n; i++) {
      const double a = x[r * n + i], term = (double)dy[r * n + i] * w[i] * a;
      squares += a * a;
      products += term;
      sizes += std::fabs(term);
    }
    const double s = 1 / std::sqrt(squares / (double)n + eps), mean = s * s / (double)n;
    for (size_t i = 0; i < n; i++) {
      const double a = x[r * n + i], b = (double)w[i] * dy[r * n + i];
      const double added = s * (b - a * mean * products), was = before[r * n + i];
      const double size = s * (std::fabs(b) * (scale_error + 3) +
                               std::fabs(a) * mean * sizes * (3 * scale_error + terms + 5));
      want.push_back(was + added);
      bound.push_back(1.01 * u * (size + std::fabs(was) + std::fabs(added)) + least);
    }
  }
  check_near(got, want, bound, "rms_norm_backward", n);
  const size_t last = (n_rows - 1) * n;
  lk_cuda_rms_norm_backward(dev, device_x.p + last, 1, n, device_w.p, eps, device_dy.p + last,
                            one.p + last);
  check(memcmp(one.get(dev).data() + last, got.data() + last, n * sizeof(float)) == 0,
        "rms_norm_backward of %zu: a row by itself", n);
}

/* p and 1 - p err by 10 u (swiglu), g (1 - p) by 11 u of itself: dgate by 26 u of p (1 + |g (1 -
 * p)|) |up dout|, dup by 13 u; where e is denormal, by a few steps of 2^-149 of what it is
 * multiplied with. */
static void test_swiglu_backward(lk_cuda_device *dev, size_t n) {
  std::vector<float> gate = normals(n, 5), up = normals(n, 2), dout = normals(n, 1);
  const float edges[] = {0.0f, -0.0f, 88, -88, -100, 200, -200, 1e30f, -1e30f};
  for (size_t i = 0; i < sizeof edges / sizeof *edges && i < n; i++) gate[n - 1 - i] = edges[i];
  std::vector<double> want[2], bound[2];
  for (size_t i = 0; i < n; i++) {
    const double g = gate[i], e = std::exp(-std::fabs(g)), ud = (double)up[i] * dout[i];
    const double p = (g < 0 ? e : 1) / (1 + e), rest = (g < 0 ? 1 : e) / (1 + e);
    want[0].push_back(p * (1 + g * rest) * ud);
    bound[0].push_back(p * (1 + std::fabs(g * rest)) * std::fabs(ud) * 26 * u +
                       std::fabs(ud) * (1 + std::fabs(g)) * 0x1p-147 + least);
    want[1].push_back(g * p * dout[i]);
    bound[1].push_back(std::fabs(want[1][i]) * 13 * u + std::fabs(g * dout[i]) * 0x1p-147 + least);
  }
  buffer<float> device_gate(gate), device_up(up), device_dout(dout), dgate(n), dup(n);
  lk_cuda_swiglu_backward(dev, device_gate.p, device_up.p, n, device_dout.p, dgate.p, dup.p);
  const std::vector<float> got[2] = {dgate.get(dev), dup.get(dev)};
  check_near(got[0], want[0], bound[0], "swiglu_backward (gate)", n);
  check_near(got[1], want[1], bound[1], "swiglu_backward (up)", n);
  lk_cuda_swiglu_backward(dev, device_gate.p, device_up.p, n, device_dout.p, device_dout.p, dup.p);
  check(device_dout.get(dev) == got[0] && dup.get(dev) == got[1],
        "swiglu_backward of %zu: dgate is dout", n);
  device_dout.put(dout);
  lk_cuda_swiglu_backward(dev, device_gate.p, device_up.p, n, device_dout.p, device_gate.p,
                          device_up.p);
  check(device_gate.get(dev) == got[0] && device_up.get(dev) == got[1],
        "swiglu_backward of %zu: dgate is gate, dup is up", n);
}

static int32_t argmax_on_host(const float *x, size_t n) {
  size_t best = n;
  for (size_t i = 0; i < n; i++)
    if (!std::isnan(x[i]) && (best == n || x[i] > x[best])) best = i;
  return best == n ? 0 : (int32_t)best;
}

/* Rows with ties, with NaN before and behind the largest, of -inf, of NaN alone. */
static void test_argmax(lk_cuda_device *dev, size_t n) {
  const size_t n_rows = 8;
  std::vector<float> x = normals(n_rows * n, 1);
  for (size_t i = 0; i < n; i++) {
    x[1 * n + i] = (float)random_below(3);
    if (random_below(2)) x[2 * n + i] = NAN;
    x[3 * n + i] = -INFINITY;
    x[4 * n + i] = NAN;
    x[5 * n + i] = i == n - 1 ? -INFINITY : NAN;
    x[6 * n + i] = 0;
    x[7 * n + i] = i >= n / 2 ? 1.0f : -1.0f;
  }
  buffer<float> device_x(x);
  buffer<int32_t> index(n_rows);
  lk_cuda_argmax(dev, device_x.p, n_rows, n, index.p);
  const std::vector<int32_t> got = index.get(dev);
  for (size_t r = 0; r < n_rows; r++) {
    const int32_t want = argmax_on_host(x.data() + r * n, n);
    check(got[r] == want, "argmax of %zu, row %zu: %d, not %d", n, r, got[r], want);
  }
}

/* Bits by the formula; their mean within six deviations of 0. */
static void test_random(lk_cuda_device *dev, size_t n, float scale, uint64_t seed) {
  buffer<uint16_t> to(n);
  lk_cuda_random_bf16(dev, to.p, n, scale, seed);
  const std::vector<uint16_t> got = to.get(dev);
  const uint64_t before = random_state.state;
  random_state.state = seed;
  size_t n_wrong = 0;
  double sum = 0;
  for (size_t i = 0; i < n; i++) {
    const int32_t k = (int32_t)(random_u64() >> 40) * 2 + 1 - (1 << 24);
    n_wrong += got[i] != lk_f32_to_bf16((float)k * 0x1p-24f * scale);
    sum += lk_bf16_to_f32(got[i]);
  }
  random_state.state = before;
  check(n_wrong == 0, "random_bf16: %zu of %zu", n_wrong, n);
  check(std::fabs(sum / (double)n) <= 6 * scale / std::sqrt(3.0 * (double)n),
        "random_bf16: mean %g", sum / (double)n);
}

/* Every word once, whatever the grid: lengths with and without whole turns of all threads. */
static void test_read(lk_cuda_device *dev, size_t n, uint32_t n_blocks) {
  std::vector<uint32_t> words(n);
  uint32_t want = 0x5a5a5a5au;
  const std::vector<uint32_t> start(1, want);
  for (auto &word : words) want ^= word = (uint32_t)(random_u64() >> 32);
  buffer<uint32_t> from(words), sum(start);
  lk_cuda_read(dev, from.p, n * sizeof(uint32_t), n_blocks, sum.p);
  const uint32_t got = sum.get(dev)[0];
  check(got == want, "read of %zu words, %u blocks: %08x, not %08x", n, n_blocks, got, want);
}

int main() {
  lk_cuda_device dev;
  open_device(&dev);
  for (const size_t n : {1, 7, 256, 4096}) test_embed(&dev, n, 9);
  for (const size_t n : {1, 3, 4, 64, 896, 1023, 1024, 1025, 3584, 4096, 18944}) {
    test_rms_norm(&dev, n, 5, 0);
    test_rms_norm(&dev, n, 2, 1); /* not aligned */
  }
  for (const bool pairs : {false, true})
    for (size_t d = 64; d <= 128; d += 64) test_rope(&dev, d, 5, 37, pairs);
  for (const size_t n : {1, 3, 64, 896, 1023, 3584, 18944}) test_rms_norm_backward(&dev, n, 5);
  for (const size_t n : {1, 9, 255, 100000}) test_swiglu(&dev, n);
  for (const size_t n : {1, 9, 255, 100000}) test_swiglu_backward(&dev, n);
  for (const size_t n : {1, 2, 31, 1000, 1024, 1025, 151936}) test_argmax(&dev, n);
  test_random(&dev, 100001, 0.05f, 0);
  test_random(&dev, 4096, 1.0f, 0xfedcba9876543210u);
  dev.n_sm = 7; /* a grid that leaves several turns */
  for (const size_t n : {4, 1020, 1024, 1 << 20, (1 << 23) + 12})
    for (const uint32_t n_blocks : {1, 2, 16}) test_read(&dev, n, n_blocks);
  return finish("test_cuda_rows");
}
