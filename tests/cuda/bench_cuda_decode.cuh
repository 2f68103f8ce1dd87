/* Speed of decode attention: one arena of random numbers that all caches lie in, tables that visit
 * other pages at every launch (more than the second-level cache holds), medians of graph replays.
 */
#ifndef LK_BENCH_CUDA_DECODE_CUH
#define LK_BENCH_CUDA_DECODE_CUH

#include <algorithm>
#include <vector>

#include "cuda_decode_layer.cuh"

static __global__ void read_kernel(const uint4 *from, size_t n, uint32_t *out) {
  uint32_t sum = 0;
  const size_t stride = (size_t)gridDim.x * blockDim.x;
  size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
  for (; i + 7 * stride < n; i += 8 * stride) {
    uint4 v[8];
#pragma unroll
    for (int j = 0; j < 8; j++) v[j] = __ldcs(from + i + j * stride);
#pragma unroll
    for (int j = 0; j < 8; j++) sum ^= v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
  }
  if (sum == 0x12345678) *out = sum;
}

static double replay_ms(lk_cuda_device *dev, cudaGraph_t graph, int n_replays) {
  cudaGraphExec_t exec;
  cudaEvent_t a, b;
  std::vector<float> times;
  CUDA_OK(cudaGraphInstantiate(&exec, graph, 0));
  CUDA_OK(cudaEventCreate(&a));
  CUDA_OK(cudaEventCreate(&b));
  for (int i = 0; i < n_replays + 1; i++) {
    float ms;
    CUDA_OK(cudaEventRecord(a, dev->stream));
    CUDA_OK(cudaGraphLaunch(exec, dev->stream));
    CUDA_OK(cudaEventRecord(b, dev->stream));
    CUDA_OK(cudaEventSynchronize(b));
    CUDA_OK(cudaEventElapsedTime(&ms, a, b));
    if (i > 0) times.push_back(ms);
  }
  cudaGraphExecDestroy(exec);
  cudaEventDestroy(a);
  cudaEventDestroy(b);
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

/* GB/s of plain reading, the best of several grids. */
static double read_bandwidth(lk_cuda_device *dev, const unsigned char *arena, size_t n_bytes) {
  uint32_t *out;
  double best = 0;
  CUDA_OK(cudaMalloc(&out, 4));
  for (int per_sm = 2; per_sm <= 8; per_sm *= 2) {
    cudaGraph_t graph;
    CUDA_OK(cudaStreamBeginCapture(dev->stream, cudaStreamCaptureModeGlobal));
    read_kernel<<<dev->n_sm * per_sm, 256, 0, dev->stream>>>((const uint4 *)arena, n_bytes / 16,
                                                             out);
    CUDA_OK(cudaStreamEndCapture(dev->stream, &graph));
    best = std::max(best, (double)n_bytes / replay_ms(dev, graph, 5) / 1e6);
    cudaGraphDestroy(graph);
  }
  cudaFree(out);
  return best;
}

struct bench_state {
  lk_cuda_device *dev;
  unsigned char *arena;
  size_t arena_bytes;
  double read_gbs;
  float *q, *out, *sums, *mean_logits;
  void *scratch;
  size_t n_sequences, n_tokens;
};

/* Bytes that a launch reads. */
static double layer_bytes(const layer &l, size_t n_sequences, size_t n_tokens) {
  const double middle = (double)(middle_end(l, n_tokens) - l.n_sink);
  double lean = 0;
  for (const lk_cuda_head &h : l.heads) lean += h.n_padded ? 2.0 * (h.n_padded + l.head_dim) : 0;
  return (double)n_sequences *
         (middle * lean + ((double)n_tokens - middle) * l.n_kv_heads * 4 * l.head_dim);
}

enum { MAX_LAUNCHES = 24, MAX_SEQS = 64, MAX_MEAN = 8 * 2 * 128, MAX_TOKENS = 131072 };

/* ms of one layer; with what a mask with means adds. */
static double bench_layer(const bench_state *s, const layer &l, bool means) {
  const size_t n_pages = (s->n_tokens + LK_CUDA_P - 1) / LK_CUDA_P;
  const double bytes = layer_bytes(l, s->n_sequences, s->n_tokens);
  const size_t n_launches = (size_t)std::min((double)MAX_LAUNCHES, std::max(2.0, 6e9 / bytes));
  std::vector<uint16_t> channels((size_t)l.n_kv_heads * l.head_dim, 0);
  for (uint32_t h = 0; h < l.n_kv_heads; h++) {
    uint16_t *to =
        std::copy(l.channels[h].begin(), l.channels[h].end(), &channels[(size_t)h * l.head_dim]);
    for (uint16_t c = 0; c < l.head_dim; c++)
      if (!std::binary_search(l.channels[h].begin(), l.channels[h].end(), c)) *to++ = c;
  }
  lk_cuda_view view = {{s->arena, s->arena},
                       {l.wide_bytes, l.lean_bytes},
                       NULL,
                       NULL,
                       l.n_heads,
                       l.n_kv_heads,
                       l.head_dim,
                       0};
  view.heads = fixture_to_device(l.heads.data(), l.heads.size());
  view.channels = fixture_to_device(channels.data(), channels.size());
  std::vector<void *> garbage = {(void *)view.heads, (void *)view.channels};
  /* Wide pages come from one half of the arena, lean ones from the other. */
  const size_t half = s->arena_bytes / 2;
  view.arena[1] += half / 4096 * 4096;
  const size_t n_arena[] = {half / l.wide_bytes, half / l.lean_bytes};
  size_t next[2] = {0, 0};
  cudaGraph_t graph;
  std::vector<lk_cuda_decode> jobs;
  for (size_t i = 0; i < n_launches; i++) {
    batch b;
    for (size_t g = 0; g < s->n_sequences; g++) {
      std::vector<lk_page_entry> entries;
      for (size_t p = 0; p < n_pages; p++) {
        const int lean = p * LK_CUDA_P >= l.n_sink && p * LK_CUDA_P < middle_end(l, s->n_tokens);
        /* A stride that is odd against any arena scatters the pages. */
        next[lean] = (next[lean] + 7919) % n_arena[lean];
        entries.push_back({(uint32_t)next[lean], (uint32_t)lean});
      }
      add_group(l, s->n_tokens, entries.data(), &b);
      b.groups.back().mean = s->sums + g * MAX_LAUNCHES * MAX_MEAN;
    }
    end_groups(&b);
    lk_cuda_decode job = {};
    job.view = view;
    job.n_groups = (uint32_t)s->n_sequences;
    job.groups = fixture_to_device(b.groups.data(), b.groups.size());
    job.tables = fixture_to_device(b.tables.data(), b.tables.size());
    job.q = s->q;
    job.out = s->out;
    job.scratch = s->scratch;
    job.max_pages = (uint32_t)n_pages;
    job.settled = true;
    job.means.for_pruned = job.means.for_empty = means;
    job.means.offset = i * MAX_MEAN;
    if (means) job.mean_logits = s->mean_logits;
    jobs.push_back(job);
    garbage.push_back((void *)job.groups);
    garbage.push_back((void *)job.tables);
  }
  CUDA_OK(cudaDeviceSynchronize());
  lk_cuda_decode_attention(s->dev, &jobs[0]);
  fixture_check(s->dev);
  CUDA_OK(cudaStreamBeginCapture(s->dev->stream, cudaStreamCaptureModeGlobal));
  for (const lk_cuda_decode &job : jobs) lk_cuda_decode_attention(s->dev, &job);
  CUDA_OK(cudaStreamEndCapture(s->dev->stream, &graph));
  const double ms = replay_ms(s->dev, graph, 7) / (double)n_launches;
  fixture_check(s->dev);
  cudaGraphDestroy(graph);
  for (void *p : garbage) cudaFree(p);
  return ms;
}

static std::vector<std::vector<uint32_t>> read_counts(const char *path, uint32_t n_kv_heads) {
  std::vector<std::vector<uint32_t>> layers;
  FILE *f = path ? fopen(path, "r") : NULL;
  unsigned n;
  std::vector<uint32_t> row;
  while (f && fscanf(f, "%u", &n) == 1) {
    row.push_back(n);
    if (row.size() == n_kv_heads) {
      layers.push_back(row);
      row.clear();
    }
  }
  if (f) fclose(f);
  return layers;
}

/* A line a shape: dense, then the mean of the mask's layers, with the least and greatest share, and
 * that with means. */
static void bench_shape(bench_state *s, uint32_t n_heads, uint32_t n_kv_heads,
                        const std::vector<std::vector<uint32_t>> &counts, uint64_t *seed) {
  layer dense = make_layer(n_heads, n_kv_heads, 128, std::vector<uint32_t>(n_kv_heads, 128), seed);
  dense.n_recent = (size_t)1 << 40;
  const double dense_ms = bench_layer(s, dense, false);
  const double dense_bytes = layer_bytes(dense, s->n_sequences, s->n_tokens);
  printf("%3zu x %6zu  dense %8.4f ms %6.0f GB/s %5.1f %%", s->n_sequences, s->n_tokens, dense_ms,
         dense_bytes / dense_ms / 1e6, 100 * dense_bytes / dense_ms / 1e6 / s->read_gbs);
  double ms = 0, with_means = 0, bytes = 0, least = 1e9, most = 0;
  for (const std::vector<uint32_t> &kept : counts) {
    const layer l = make_layer(n_heads, n_kv_heads, 128, kept, seed);
    const double t = bench_layer(s, l, false), n = layer_bytes(l, s->n_sequences, s->n_tokens);
    ms += t;
    with_means += bench_layer(s, l, true);
    bytes += n;
    least = std::min(least, n / t / 1e6);
    most = std::max(most, n / t / 1e6);
  }
  if (!counts.empty()) {
    ms /= (double)counts.size();
    with_means /= (double)counts.size();
    bytes /= (double)counts.size();
    printf(
        "   LeanK %8.4f ms %6.0f GB/s %5.1f %% (%.0f .. %.0f)  dense/LeanK %.3f, bytes %.3f   with "
        "means %8.4f ms",
        ms, bytes / ms / 1e6, 100 * bytes / ms / 1e6 / s->read_gbs, least, most, dense_ms / ms,
        dense_bytes / bytes, with_means);
  }
  printf("\n");
  fflush(stdout);
}

static int bench(lk_cuda_device *dev, const char *counts_path) {
  const struct {
    size_t n, tokens;
  } shapes[] = {{64, 32768}, {8, 32768}, {1, 131072}, {1, 32768}, {64, 8192}, {64, 4096}, {1, 1}};
  bench_state s = {dev};
  uint64_t seed = 1;
  s.arena_bytes = (size_t)24 << 30;
  CUDA_OK(cudaMalloc(&s.arena, s.arena_bytes));
  std::vector<uint16_t> noise((size_t)8 << 20);
  for (auto &x : noise) x = lk_f32_to_bf16(fixture_uniform(&seed));
  for (size_t at = 0; at < s.arena_bytes; at += noise.size() * 2)
    CUDA_OK(cudaMemcpy(s.arena + at, noise.data(), noise.size() * 2, cudaMemcpyHostToDevice));
  std::vector<float> q((size_t)MAX_SEQS * 32 * 128);
  for (auto &x : q) x = fixture_uniform(&seed);
  s.q = fixture_to_device(q.data(), q.size());
  CUDA_OK(cudaMalloc(&s.out, q.size() * sizeof(float)));
  CUDA_OK(cudaMalloc(&s.mean_logits, (size_t)MAX_SEQS * 32 * sizeof(float)));
  std::vector<float> sums((size_t)MAX_SEQS * MAX_LAUNCHES * MAX_MEAN);
  for (auto &x : sums) x = fixture_uniform(&seed);
  s.sums = fixture_to_device(sums.data(), sums.size());
  s.read_gbs = read_bandwidth(dev, s.arena, (size_t)8 << 30);
  printf("read bandwidth %.0f GB/s\n", s.read_gbs);
  const bool qwen = counts_path && strstr(counts_path, "qwen");
  const uint32_t n_heads = qwen ? 28 : 32, n_kv_heads = qwen ? 4 : 8;
  size_t scratch = 0;
  for (const auto &shape : shapes)
    scratch = std::max(scratch, lk_cuda_decode_scratch_bytes(shape.n, n_heads, n_kv_heads, 128,
                                                             shape.tokens / LK_CUDA_P + 1));
  CUDA_OK(cudaMalloc(&s.scratch, scratch));
  const std::vector<std::vector<uint32_t>> counts = read_counts(counts_path, n_kv_heads);
  for (const auto &shape : shapes) {
    s.n_sequences = shape.n;
    s.n_tokens = shape.tokens;
    bench_shape(&s, n_heads, n_kv_heads, counts, &seed);
  }
  return 0;
}

#endif
