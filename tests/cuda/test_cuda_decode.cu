/* Decode attention on pages against float64; bits over batches; with --bench, its speed.
 *   test_cuda_decode [SEED]
 *   test_cuda_decode --quick [SEED]     little, for the sanitizers
 *   test_cuda_decode --bench [COUNTS]   kept channels of a mask, [L][Hk] numbers, as rows of text
 */
#include <algorithm>
#include <cmath>
#include <string>
#include <thread>
#include <vector>

#include "cuda/ops.cuh"
#include "bench_cuda_decode.cuh"
#include "cuda_decode_fixture.cuh"
#include "cuda_decode_layer.cuh"
#include "support/half.h"

static int n_checks, n_failed;

static void check(bool ok, const char *format, const char *what, double a, double b) {
  n_checks++;
  if (ok) return;
  if (n_failed++ < 20) printf(format, what, a, b);
}

/* ---- elements ---- */

static uint16_t to_element(const layer &l, float x) {
  return l.is_f16 ? lk_f32_to_f16(x) : lk_f32_to_bf16(x);
}
static double from_element(const layer &l, uint16_t x) {
  return l.is_f16 ? lk_f16_to_f32(x) : lk_bf16_to_f32(x);
}

/* ---- several sequences, on the host ---- */

struct sequence {
  size_t n_tokens;
  std::vector<uint16_t> k, v; /* [T][Hk][D] elements */
  std::vector<float> q;       /* [Hq][D] */
  std::vector<float> sums;    /* [MEAN_OFFSET + Hk][2][D]; NaN where there is no middle */
};

enum { MEAN_OFFSET = 3 }; /* heads before this layer's */

static sequence make_sequence(const layer &l, size_t n_tokens, float spread, uint64_t *seed) {
  sequence s;
  s.n_tokens = n_tokens;
  s.k.resize(n_tokens * l.n_kv_heads * l.head_dim);
  s.v.resize(s.k.size());
  s.q.resize(l.n_heads * l.head_dim);
  for (auto &x : s.k) x = to_element(l, fixture_uniform(seed));
  for (auto &x : s.v) x = to_element(l, fixture_uniform(seed));
  for (auto &x : s.q) x = spread * fixture_uniform(seed);
  /* Of a mean like a key and a value, whatever those are: a true mean would be near 0. */
  const size_t n_middle = middle_end(l, n_tokens) - l.n_sink;
  s.sums.assign((MEAN_OFFSET + l.n_kv_heads) * 2 * l.head_dim, NAN);
  for (size_t i = MEAN_OFFSET * 2 * l.head_dim; n_middle > 0 && i < s.sums.size(); i++)
    s.sums[i] = (float)n_middle * fixture_uniform(seed);
  return s;
}

/* The logit of the mean over the channels that head h drops, and the sum of its magnitudes. */
static double mean_logit(const layer &l, const sequence &s, uint32_t hq, uint32_t h, double scale,
                         double *size) {
  const uint32_t D = l.head_dim;
  const double n = (double)(middle_end(l, s.n_tokens) - l.n_sink);
  double sum = 0;
  *size = 0;
  for (uint32_t c = 0; c < D; c++) {
    if (std::binary_search(l.channels[h].begin(), l.channels[h].end(), (uint16_t)c)) continue;
    const double term = (double)s.q[hq * D + c] * s.sums[((MEAN_OFFSET + h) * 2) * D + c] / n;
    sum += term;
    *size += std::fabs(term);
  }
  return sum * scale;
}

/* What a kernel may be off by: the probabilities are rounded to bf16 (2^-8 of each, in numerator
 * and denominator) or f16 (2^-11; and below 2^-14 by 2^-25, for the 16 tokens a page, 64 a chunk,
 * of a warp whose largest is 1: 2^-19 of its sum, of values up to 1), logits are fp32 sums of n
 * products (n 2^-24 of the sum of magnitudes; of the mean's part D / 32 in a lane, 5 of lanes and 7
 * of factors: at most 16), and the sums over T tokens are fp32. */
static void oracle(const layer &l, const sequence &s, uint32_t hq, std::vector<double> *out,
                   std::vector<double> *bound) {
  const uint32_t D = l.head_dim, h = hq / (l.n_heads / l.n_kv_heads);
  const size_t end = middle_end(l, s.n_tokens);
  const double scale = 1 / std::sqrt((double)D);
  std::vector<double> q(D);
  for (uint32_t c = 0; c < D; c++) q[c] = from_element(l, to_element(l, s.q[hq * D + c]));
  std::vector<double> x(s.n_tokens, -INFINITY), error(s.n_tokens, 0);
  const bool has_middle = end > l.n_sink, empty = l.channels[h].empty();
  const bool with_mean = has_middle && (empty ? l.means.for_empty : l.means.for_pruned);
  double mean_size = 0;
  const double mean = with_mean ? mean_logit(l, s, hq, h, scale, &mean_size) : 0;
  double largest = with_mean && empty ? mean : -INFINITY;
  const double mean_error = 16 * mean_size;
  double worst = mean_error * scale * std::ldexp(1.0, -23);
  for (size_t j = 0; j < s.n_tokens; j++) {
    const bool in_middle = j >= l.n_sink && j < end;
    const uint16_t *k = &s.k[(j * l.n_kv_heads + h) * D];
    if (in_middle && l.channels[h].empty()) continue;
    double sum = 0, size = 0;
    const size_t n = in_middle ? l.channels[h].size() : D;
    for (size_t i = 0; i < n; i++) {
      const size_t c = in_middle ? l.channels[h][i] : i;
      const double term = q[c] * from_element(l, k[c]);
      sum += term;
      size += std::fabs(term);
    }
    x[j] = sum * scale + (in_middle ? mean : 0);
    const double error = (double)(n + 8) * size + (in_middle ? mean_error : 0);
    worst = std::max(worst, error * scale * std::ldexp(1.0, -23));
    largest = std::max(largest, x[j]);
  }
  double total = 0;
  std::vector<double> size(D, 0);
  out->assign(D, 0);
  for (size_t j = 0; j < s.n_tokens; j++) {
    if (x[j] == -INFINITY) continue; /* not seen; nor may any other be */
    const double p = std::exp(x[j] - largest);
    const uint16_t *v = &s.v[(j * l.n_kv_heads + h) * D];
    total += p;
    for (uint32_t c = 0; c < D; c++) {
      const double value = from_element(l, v[c]);
      (*out)[c] += p * value;
      size[c] += p * std::fabs(value);
    }
  }
  if (with_mean && empty) {
    const double p = std::exp(mean - largest);
    const float *values = &s.sums[((MEAN_OFFSET + h) * 2 + 1) * D];
    total += p * (double)(end - l.n_sink);
    for (uint32_t c = 0; c < D; c++) {
      (*out)[c] += p * values[c];
      size[c] += p * std::fabs(values[c]);
    }
  }
  bound->assign(D, 0);
  if (total == 0) return; /* no key at all: 0 */
  const double relative = std::ldexp(1.0, l.is_f16 ? -11 : -8) + 4 * worst +
                          std::sqrt((double)s.n_tokens) * std::ldexp(1.0, -20);
  for (uint32_t c = 0; c < D; c++) {
    (*out)[c] /= total;
    (*bound)[c] = relative * (size[c] / total + std::fabs((*out)[c])) + 1e-7 +
                  (l.is_f16 ? std::ldexp(1.0, -18) : 0);
  }
}

/* What a query head of a sequence must be. */
struct wanted {
  size_t sequence;
  uint32_t head;
  std::vector<double> value, bound; /* [D] */
};

static void fill_wanted(const layer &l, const std::vector<sequence> &sequences,
                        std::vector<wanted> *wants) {
  const size_t n_threads = std::max(1u, std::thread::hardware_concurrency());
  std::vector<std::thread> threads;
  for (size_t t = 0; t < n_threads; t++)
    threads.emplace_back([&, t] {
      for (size_t i = t; i < wants->size(); i += n_threads) {
        wanted &w = (*wants)[i];
        oracle(l, sequences[w.sequence], w.head, &w.value, &w.bound);
      }
    });
  for (std::thread &t : threads) t.join();
}

/* ---- the same on the device ---- */

struct device_layer {
  lk_cuda_view view;
  size_t n_pages; /* of each arena */
};

static void write_row(std::vector<uint16_t> *page, size_t at, uint32_t token, uint32_t n,
                      const uint16_t *row, const uint16_t *channels, uint32_t n_kept) {
  for (uint32_t i = 0; i < n; i++) {
    const uint32_t chunk = lk_cuda_swizzle(token, i / 8, n / 8);
    (*page)[at + token * n + chunk * 8 + i % 8] =
        i < n_kept ? row[channels ? channels[i] : i] : (uint16_t)0;
  }
}

/* Bytes of page `p` of a sequence; what is behind its last token is NaN. */
static std::vector<uint16_t> page_bytes(const layer &l, const sequence &s, size_t p, bool lean) {
  const uint32_t D = l.head_dim;
  std::vector<uint16_t> page((lean ? l.lean_bytes : l.wide_bytes) / 2, 0xffff);
  for (uint32_t h = 0; h < l.n_kv_heads; h++) {
    const uint32_t n = lean ? l.heads[h].n_padded : D;
    if (n == 0) continue;
    const size_t at = lean ? l.heads[h].lean_offset / 2 : (size_t)h * LK_CUDA_P * 2 * D;
    for (uint32_t t = 0; t < LK_CUDA_P && p * LK_CUDA_P + t < s.n_tokens; t++) {
      const size_t row = ((p * LK_CUDA_P + t) * l.n_kv_heads + h) * D;
      write_row(&page, at, t, n, &s.k[row], lean ? l.channels[h].data() : NULL,
                lean ? l.heads[h].n_kept : D);
      write_row(&page, at + (size_t)LK_CUDA_P * n, t, D, &s.v[row], NULL, D);
    }
  }
  return page;
}

/* Pages with numbers from a shuffled list, so that neighbours are apart. */
struct pool {
  std::vector<uint32_t> free_pages;
};
static pool make_pool(size_t n, uint64_t *seed) {
  pool p;
  for (size_t i = 0; i < n; i++) p.free_pages.push_back((uint32_t)i);
  for (size_t i = n - 1; i > 0; i--)
    std::swap(p.free_pages[i], p.free_pages[fixture_random(seed) % (i + 1)]);
  return p;
}

static device_layer upload_layer(const layer &l, size_t n_pages) {
  device_layer d = {};
  std::vector<uint16_t> channels((size_t)l.n_kv_heads * l.head_dim, 0);
  for (uint32_t h = 0; h < l.n_kv_heads; h++) {
    const std::vector<uint16_t> &kept = l.channels[h];
    uint16_t *to = std::copy(kept.begin(), kept.end(), channels.data() + (size_t)h * l.head_dim);
    for (uint32_t c = 0; c < l.head_dim; c++)
      if (!std::binary_search(kept.begin(), kept.end(), (uint16_t)c)) *to++ = (uint16_t)c;
  }
  d.n_pages = n_pages;
  const size_t bytes[] = {l.wide_bytes, l.lean_bytes};
  for (int k = 0; k < 2; k++) {
    d.view.page_bytes[k] = bytes[k];
    CUDA_OK(cudaMalloc(&d.view.arena[k], n_pages * bytes[k]));
    CUDA_OK(cudaMemset(d.view.arena[k], 0xff, n_pages * bytes[k]));
  }
  d.view.heads = fixture_to_device(l.heads.data(), l.heads.size());
  d.view.channels = fixture_to_device(channels.data(), channels.size());
  d.view.n_heads = l.n_heads;
  d.view.n_kv_heads = l.n_kv_heads;
  d.view.head_dim = l.head_dim;
  d.view.is_f16 = l.is_f16;
  return d;
}
static void free_layer(device_layer *d) {
  for (int k = 0; k < 2; k++) cudaFree(d->view.arena[k]);
  cudaFree((void *)d->view.heads);
  cudaFree((void *)d->view.channels);
}

static std::vector<float> run_batch(lk_cuda_device *dev, const layer &l, const device_layer &d,
                                    const batch &b, uint32_t max_pages) {
  lk_cuda_decode job = {};
  const size_t n_out = b.q.size();
  job.view = d.view;
  job.n_groups = (uint32_t)b.groups.size() - 1;
  job.groups = fixture_to_device(b.groups.data(), b.groups.size());
  job.tables = fixture_to_device(b.tables.data(), b.tables.size());
  job.q = fixture_to_device(b.q.data(), b.q.size());
  job.max_pages = max_pages;
  job.settled = job.n_groups == 1; /* either way: the same bits */
  job.means = l.means;
  job.means.offset = (size_t)MEAN_OFFSET * 2 * l.head_dim;
  if (l.means.for_pruned || l.means.for_empty) {
    const std::vector<float> unset((size_t)job.n_groups * l.n_heads, NAN);
    job.mean_logits = fixture_to_device(unset.data(), unset.size());
  }
  const size_t scratch = lk_cuda_decode_scratch_bytes(
      job.n_groups, d.view.n_heads, d.view.n_kv_heads, d.view.head_dim, max_pages);
  CUDA_OK(cudaMalloc(&job.scratch, scratch));
  CUDA_OK(cudaMemset(job.scratch, 0xff, scratch)); /* what is not written must not be read */
  CUDA_OK(cudaMalloc(&job.out, n_out * sizeof(float)));
  CUDA_OK(cudaMemset(job.out, 0xff, n_out * sizeof(float)));
  CUDA_OK(cudaDeviceSynchronize());
  lk_cuda_decode_attention(dev, &job);
  fixture_check(dev);
  std::vector<float> out(n_out);
  CUDA_OK(cudaMemcpy(out.data(), job.out, n_out * sizeof(float), cudaMemcpyDeviceToHost));
  void *all[] = {(void *)job.groups, (void *)job.tables, (void *)job.q, job.scratch, job.out,
                 job.mean_logits};
  for (void *p : all) cudaFree(p);
  return out;
}

/* Sequences of these lengths in one batch against the oracle (of at most max_checked heads each),
 * then each alone: the same bits. */
static void test_layer(lk_cuda_device *dev, const char *name, const layer &l,
                       const std::vector<size_t> &lengths, size_t n_pages, float spread,
                       uint32_t max_checked, uint64_t *seed) {
  device_layer d = upload_layer(l, n_pages);
  pool pools[2] = {make_pool(n_pages, seed), make_pool(n_pages, seed)};
  std::vector<sequence> sequences;
  batch all;
  uint32_t max_pages = 1;
  for (size_t n : lengths) {
    sequences.push_back(make_sequence(l, n, spread, seed));
    std::vector<lk_page_entry> entries;
    for (size_t p = 0; p * LK_CUDA_P < n; p++) {
      const bool lean = p * LK_CUDA_P >= l.n_sink && p * LK_CUDA_P < middle_end(l, n);
      const std::vector<uint16_t> bytes = page_bytes(l, sequences.back(), p, lean);
      entries.push_back(
          {pools[lean].free_pages.back(), lean ? (uint32_t)LK_PAGE_LEAN : LK_PAGE_WIDE});
      pools[lean].free_pages.pop_back();
      CUDA_OK(cudaMemcpy(d.view.arena[lean] + entries.back().page * d.view.page_bytes[lean],
                         bytes.data(), bytes.size() * 2, cudaMemcpyHostToDevice));
    }
    add_group(l, n, entries.data(), &all);
    all.groups.back().mean =
        fixture_to_device(sequences.back().sums.data(), sequences.back().sums.size());
    all.q.insert(all.q.end(), sequences.back().q.begin(), sequences.back().q.end());
    max_pages = std::max(max_pages, (uint32_t)entries.size());
  }
  end_groups(&all);
  const std::vector<float> out = run_batch(dev, l, d, all, max_pages);
  double worst = 0;
  const size_t row = (size_t)l.n_heads * l.head_dim;
  std::vector<wanted> wants;
  for (size_t i = 0; i < lengths.size(); i++)
    for (uint32_t n = 0; n < std::min(max_checked, l.n_heads); n++)
      wants.push_back(
          {i, max_checked >= l.n_heads ? n : (uint32_t)(fixture_random(seed) % l.n_heads), {}, {}});
  fill_wanted(l, sequences, &wants);
  for (const wanted &w : wants) {
    for (uint32_t c = 0; c < l.head_dim; c++) {
      const double got = out[w.sequence * row + w.head * l.head_dim + c];
      const double error = std::fabs(got - w.value[c]);
      const double share = error == 0 ? 0 : error / w.bound[c];
      worst = std::max(worst, share);
      check(share <= 1, "FAILED %s: %g, not %g\n", name, got, w.value[c]);
    }
  }
  for (size_t i = 0; i < lengths.size(); i++) {
    batch one;
    add_group(l, lengths[i], &all.tables[all.groups[i].table], &one);
    one.groups[0].mean = all.groups[i].mean;
    end_groups(&one);
    one.q = sequences[i].q;
    const std::vector<float> alone = run_batch(dev, l, d, one, max_pages);
    check(memcmp(alone.data(), &out[i * row], row * sizeof(float)) == 0,
          "FAILED %s: other bits alone (sequence %g of %g)\n", name, (double)i,
          (double)lengths.size());
  }
  printf("%-44s worst %.3f of the bound\n", name, worst);
  for (size_t i = 0; i < lengths.size(); i++) cudaFree(all.groups[i].mean);
  free_layer(&d);
}

/* No sink and no window: where a page is full, all are lean, and of heads that keep nothing no byte
 * is left. Whole layers of them, and sequences without any byte first, between and last. */
static void test_nothing_left(lk_cuda_device *dev, uint64_t *seed) {
  for (int means = 0; means < 2; means++)
    for (uint32_t kept = 0; kept <= 32; kept += 32) {
      layer l = make_layer(8, 2, 128, {0, kept}, seed);
      l.n_sink = l.n_recent = 0;
      l.means.for_pruned = l.means.for_empty = means;
      const std::string name =
          std::string(kept ? "a head without bytes" : "a layer without bytes") +
          (means ? ", means" : "");
      test_layer(dev, name.c_str(), l, {64, 640, 65, 64, 64, 3000, 4096}, 200, 4.0f, 8, seed);
    }
}

static void test_all(lk_cuda_device *dev, uint64_t seed) {
  const std::vector<size_t> edges = {1,    2,    16,   63,   64,   65,   127,  128,  129,  255,
                                     256,  257,  895,  896,  897,  959,  960,  961,  1023, 1024,
                                     1025, 1279, 1280, 2047, 2048, 2049, 2975, 4096, 5000};
  for (uint32_t D = 64; D <= 128; D += 64) {
    for (uint32_t G = 1; G <= 8; G++) {
      std::vector<uint32_t> kept;
      for (uint32_t h = 0; h < 4; h++)
        kept.push_back((uint32_t)((fixture_random(&seed) % 9) * D / 8));
      kept[G % 4] = 0;
      layer l = make_layer(4 * G, 4, D, kept, &seed);
      l.means.for_pruned = G % 2;
      l.means.for_empty = G / 2 % 2;
      const std::string name = "D " + std::to_string(D) + ", G " + std::to_string(G) +
                               (l.means.for_pruned ? ", compensated" : "") +
                               (l.means.for_empty ? ", policy mean" : "") + ", all lengths";
      test_layer(dev, name.c_str(), l, edges, 1000, 4.0f, 4 * G, &seed);
      l.is_f16 = true;
      test_layer(dev, (name + ", f16").c_str(), l, edges, 1000, 4.0f, 4 * G, &seed);
    }
    for (uint32_t dk = 2; dk <= D; dk += D == 64 ? 6 : 10) {
      layer l = make_layer(8, 2, D, {dk, D - dk}, &seed);
      const std::string name = "D " + std::to_string(D) + ", Dk " + std::to_string(dk);
      test_layer(dev, name.c_str(), l, {1100, 3333}, 200, 30.0f, 8, &seed);
      l.means.for_pruned = l.means.for_empty = true;
      test_layer(dev, (name + ", means").c_str(), l, {1100, 3333}, 200, 30.0f, 8, &seed);
      l.is_f16 = true;
      test_layer(dev, (name + ", means, f16").c_str(), l, {1100, 3333}, 200, 30.0f, 8, &seed);
    }
  }
  const layer dense = make_layer(8, 2, 128, {128, 128}, &seed);
  layer unpruned = dense;
  unpruned.n_recent = (size_t)1 << 40;
  test_layer(dev, "dense, every page wide", unpruned, {1, 64, 4097, 7000}, 400, 4.0f, 8, &seed);
  std::vector<size_t> ragged;
  for (int i = 0; i < 64; i++) ragged.push_back(1 + fixture_random(&seed) % 3000);
  test_layer(dev, "64 ragged sequences",
             make_layer(32, 8, 128, {0, 32, 64, 96, 128, 16, 48, 80}, &seed), ragged, 3200, 4.0f, 2,
             &seed);
  layer longest = make_layer(8, 2, 128, {32, 0}, &seed);
  test_layer(dev, "131,072 tokens", longest, {131072, 131071, 40000}, 5200, 8.0f, 4, &seed);
  test_layer(dev, "where chunks grow", longest, {65472, 65473, 66100, 3000}, 3300, 8.0f, 2, &seed);
  longest.means.for_pruned = longest.means.for_empty = true;
  test_layer(dev, "131,072 tokens, means", longest, {131072, 40000}, 5200, 8.0f, 4, &seed);
  test_nothing_left(dev, &seed);
  /* 20,000 pages of 256 KB: products beyond 2^32. */
  test_layer(dev, "arena of 5 GB",
             make_layer(32, 8, 128, {128, 128, 96, 128, 128, 64, 128, 128}, &seed), {5000, 3000},
             20000, 4.0f, 4, &seed);
}

static void test_quick(lk_cuda_device *dev, uint64_t seed) {
  for (uint32_t D = 64; D <= 128; D += 64) {
    layer l = make_layer(8, 2, D, {D / 4, 0}, &seed);
    test_layer(dev, "quick", l, {1, 65, 897, 1100, 3000}, 120, 4.0f, 8, &seed);
    l.means.for_pruned = l.means.for_empty = true;
    test_layer(dev, "quick, means", l, {1, 65, 897, 1100, 3000}, 120, 4.0f, 8, &seed);
    l.is_f16 = true;
    test_layer(dev, "quick, means, f16", l, {1, 65, 897, 1100, 3000}, 120, 4.0f, 8, &seed);
  }
  test_nothing_left(dev, &seed);
}

int main(int argc, char **argv) {
  lk_cuda_device *dev = fixture_open();
  if (argc > 1 && strcmp(argv[1], "--bench") == 0) return bench(dev, argc > 2 ? argv[2] : NULL);
  const bool quick = argc > 1 && strcmp(argv[1], "--quick") == 0;
  const uint64_t seed = argc > 1 + quick ? strtoull(argv[1 + quick], NULL, 10) : 1;
  printf("seed %llu\n", (unsigned long long)seed);
  (quick ? test_quick : test_all)(dev, seed);
  printf("decode: %d checks, %d failed\n", n_checks, n_failed);
  return n_failed || !n_checks ? 1 : 0;
}
