/* Recording and timing products: `test_cuda_linear --bench`. */
#ifndef LK_TESTS_BENCH_CUDA_LINEAR_CUH
#define LK_TESTS_BENCH_CUDA_LINEAR_CUH

#include <algorithm>
#include <vector>

#include "cuda_linear_fixture.cuh"

static __global__ void fill_kernel(uint16_t *w, size_t n) {
  const size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) w[i] = (uint16_t)(0x3c00 | ((i * 2654435761u) >> 7 & 0x81ff)); /* small, both signs */
}

/* Median milliseconds of a replay. */
static float time_graph(lk_cuda_device *dev, cudaGraphExec_t graph) {
  enum { N_WARM = 3, N_TIMED = 21 };
  cudaEvent_t begin, end;
  std::vector<float> ms;
  must(cudaEventCreate(&begin), "cudaEventCreate");
  must(cudaEventCreate(&end), "cudaEventCreate");
  for (int i = 0; i < N_WARM + N_TIMED; i++) {
    float t;
    must(cudaEventRecord(begin, dev->stream), "record");
    must(cudaGraphLaunch(graph, dev->stream), "replay");
    must(cudaEventRecord(end, dev->stream), "record");
    must(cudaEventSynchronize(end), "synchronize");
    must(cudaEventElapsedTime(&t, begin, end), "elapsed");
    if (i >= N_WARM) ms.push_back(t);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  std::sort(ms.begin(), ms.end());
  return ms[ms.size() / 2];
}

/* n_copies matrices one after another, so that none is found in L2. Microseconds of one product. */
static double time_product(lk_cuda_device *dev, linear_fn run, const uint16_t *w, size_t n_copies,
                           size_t n_out, size_t n_in, size_t n_rows) {
  float *x = (float *)device_bytes(n_rows * n_in * sizeof *x);
  float *y = (float *)device_bytes(n_rows * n_out * sizeof *y);
  must(cudaMemset(x, 0x3c, n_rows * n_in * sizeof *x), "memset");
  std::vector<lk_cuda_linear> jobs(n_copies);
  for (size_t i = 0; i < n_copies; i++) {
    jobs[i] = lk_cuda_linear{};
    jobs[i].parts[0].w = w + i * n_out * n_in;
    jobs[i].parts[0].y = y;
    jobs[i].parts[0].n_out = (uint32_t)n_out;
    jobs[i].n_parts = 1;
    jobs[i].n_in = (uint32_t)n_in;
    jobs[i].x = x;
    jobs[i].n_rows = n_rows;
  }
  cudaGraphExec_t graph = record(dev, run, jobs.data(), n_copies);
  const double us = 1e3 * time_graph(dev, graph) / (double)n_copies;
  check_device(dev, "bench");
  cudaGraphExecDestroy(graph);
  cudaFree(x);
  cudaFree(y);
  return us;
}

/* Reads what others time products by. */
static __global__ void read_kernel(const uint4 *from, size_t n, uint32_t *sink) {
  enum { AT_ONCE = 8 };
  const size_t step = (size_t)gridDim.x * blockDim.x;
  uint32_t all = 0;
  for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += AT_ONCE * step) {
    uint4 v[AT_ONCE];
#pragma unroll
    for (int j = 0; j < AT_ONCE; j++)
      v[j] = i + j * step < n ? __ldcs(from + i + j * step) : make_uint4(0, 0, 0, 0);
#pragma unroll
    for (int j = 0; j < AT_ONCE; j++) all ^= v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
  }
  if (all == 0x9e3779b9u) *sink = all;
}

/* What products of copies of w are held against: bytes a microsecond that the device reads. */
static double read_speed(lk_cuda_device *dev) {
  const size_t n_bytes = (size_t)2 << 30;
  uint4 *from = (uint4 *)device_bytes(n_bytes);
  uint32_t *sink = (uint32_t *)device_bytes(sizeof *sink);
  fill_kernel<<<lk_cuda_blocks(n_bytes / 2, 256), 256>>>((uint16_t *)from, n_bytes / 2);
  must(cudaDeviceSynchronize(), "fill");
  double best = 0;
  for (int blocks_per_sm : {4, 8}) {
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    must(cudaStreamBeginCapture(dev->stream, cudaStreamCaptureModeThreadLocal), "begin capture");
    read_kernel<<<dev->n_sm * blocks_per_sm, 256, 0, dev->stream>>>(from, n_bytes / sizeof *from,
                                                                    sink);
    must(cudaStreamEndCapture(dev->stream, &graph), "end capture");
    must(cudaGraphInstantiate(&executable, graph, 0), "instantiate");
    cudaGraphDestroy(graph);
    best = std::max(best, (double)n_bytes / (1e3 * time_graph(dev, executable)));
    cudaGraphExecDestroy(executable);
  }
  cudaFree(from);
  cudaFree(sink);
  return best;
}

/* A product of n_rows, with its share of what reading the weights alone would reach. */
static void print_time(size_t n_rows, size_t n_bytes, double speed, double us) {
  printf(" | %zu: %.2f us %.0f GB/s %.1f %%", n_rows, us, (double)n_bytes / us * 1e-3,
         100 * (double)n_bytes / us / speed);
}

/* A model's layer. */
typedef struct layer_shape {
  const char *name;
  size_t hidden, kv, ffn; /* the queries' width is hidden */
} layer_shape;

static const layer_shape layer_shapes[] = {
    {"Qwen2.5-1.5B", 1536, 256, 8960},
    {"Qwen2.5-7B", 3584, 512, 18944},
    {"Llama-3.1-8B", 4096, 1024, 14336},
};

/* What a layer multiplies: q, k, v; o; gate, up; down, with the rows' widths between them. */
static void layer_jobs(const layer_shape *m, const uint16_t *w, float *x, size_t n_rows,
                       lk_cuda_linear jobs[4]) {
  const size_t widths[4] = {m->hidden, m->hidden, m->hidden, m->ffn};
  const size_t n_outs[4][3] = {
      {m->hidden, m->kv, m->kv}, {m->hidden, 0, 0}, {m->ffn, m->ffn, 0}, {m->hidden, 0, 0}};
  float *y = x + n_rows * m->ffn; /* x: as the widest needs */
  for (size_t i = 0; i < 4; i++) {
    jobs[i] = lk_cuda_linear{};
    jobs[i].x = x;
    jobs[i].n_in = (uint32_t)widths[i];
    jobs[i].n_rows = n_rows;
    float *to = y;
    for (size_t p = 0; p < 3 && n_outs[i][p]; p++) {
      lk_cuda_part *part = &jobs[i].parts[jobs[i].n_parts++];
      part->w = w;
      part->y = to;
      part->n_out = (uint32_t)n_outs[i][p];
      w += n_outs[i][p] * widths[i];
      to += n_rows * n_outs[i][p];
    }
  }
}

/* A layer's launches, but for rope and attention, with norms and SwiGLU in the products or apart.
 * g: weights of a norm; normed: room for its result. */
static void launch_layer(lk_cuda_device *dev, const lk_cuda_linear jobs[4], const float *g,
                         float *normed, bool fused) {
  const float eps = 1e-5f;
  for (size_t i = 0; i < 4; i++) {
    lk_cuda_linear job = jobs[i];
    const bool normalises = i % 2 == 0, gates = i == 2;
    if (normalises && fused) {
      job.norm = g;
      job.eps = eps;
      job.gated = gates;
    } else if (normalises) {
      lk_cuda_rms_norm(dev, job.x, job.n_rows, job.n_in, g, eps, normed);
      job.x = normed;
    }
    lk_cuda_linear_few(dev, &job);
    float *gate = job.parts[0].y;
    if (gates && !fused)
      lk_cuda_swiglu(dev, gate, job.parts[1].y, job.n_rows * job.parts[0].n_out, gate);
  }
}

/* Microseconds of a layer. */
static double time_layers(lk_cuda_device *dev, const std::vector<lk_cuda_linear> &jobs,
                          const float *g, float *normed, bool fused) {
  cudaGraphExec_t graph = capture(dev, [&] {
    for (size_t i = 0; i < jobs.size(); i += 4) launch_layer(dev, &jobs[i], g, normed, fused);
  });
  const double us = 1e3 * time_graph(dev, graph) / (double)(jobs.size() / 4);
  check_device(dev, "bench");
  cudaGraphExecDestroy(graph);
  return us;
}

/* Layer after layer, as a step has them, but for what is between the products; then with norms and
 * SwiGLU apart and in the products. */
static void bench_layers(lk_cuda_device *dev, double speed) {
  for (const layer_shape &m : layer_shapes) {
    const size_t n_weights = m.hidden * (2 * m.hidden + 2 * m.kv + 3 * m.ffn);
    const size_t n_layers = ((size_t)2 << 30) / (2 * n_weights) + 1;
    uint16_t *w = (uint16_t *)device_bytes(2 * n_layers * n_weights);
    fill_kernel<<<lk_cuda_blocks(n_layers * n_weights, 256), 256>>>(w, n_layers * n_weights);
    must(cudaDeviceSynchronize(), "fill");
    printf("layer of %s:", m.name);
    for (size_t n_rows : {1, 4, 8, 16, 64}) {
      const size_t n_floats = n_rows * (3 * m.ffn + m.hidden) + m.hidden;
      float *x = (float *)device_bytes(n_floats * sizeof *x);
      must(cudaMemset(x, 0x3c, n_floats * sizeof *x), "memset");
      std::vector<lk_cuda_linear> jobs(4 * n_layers);
      for (size_t i = 0; i < n_layers; i++)
        layer_jobs(&m, w + i * n_weights, x, n_rows, &jobs[4 * i]);
      cudaGraphExec_t graph = record(dev, lk_cuda_linear_few, jobs.data(), jobs.size());
      const double us = 1e3 * time_graph(dev, graph) / (double)n_layers;
      check_device(dev, "bench");
      print_time(n_rows, 2 * n_weights, speed, us);
      float *normed = x + 3 * n_rows * m.ffn, *g = normed + n_rows * m.hidden;
      printf(", with norms and SwiGLU %.2f us", time_layers(dev, jobs, g, normed, false));
      printf(", fused %.2f us", time_layers(dev, jobs, g, normed, true));
      cudaGraphExecDestroy(graph);
      cudaFree(x);
    }
    printf("\n");
    cudaFree(w);
  }
}

static void bench(lk_cuda_device *dev) {
  static const size_t shapes[][2] = {{256, 1536},   {1536, 1536},  {2048, 1536},   {8960, 1536},
                                     {17920, 1536}, {1536, 8960},  {3584, 3584},   {18944, 3584},
                                     {3584, 18944}, {4096, 4096},  {6144, 4096},   {14336, 4096},
                                     {28672, 4096}, {4096, 14336}, {151936, 1536}, {128256, 4096}};
  const double speed = read_speed(dev);
  printf("reading: %.1f GB/s\n", speed * 1e-3);
  for (const auto &shape : shapes) {
    const size_t n_out = shape[0], n_in = shape[1], n_bytes = n_out * n_in * sizeof(uint16_t);
    const size_t n_copies = ((size_t)400 << 20) / n_bytes + 1;
    uint16_t *w = (uint16_t *)device_bytes(n_copies * n_bytes);
    const size_t n = n_copies * n_bytes / sizeof *w;
    fill_kernel<<<lk_cuda_blocks(n, 256), 256>>>(w, n);
    must(cudaDeviceSynchronize(), "fill");
    printf("few  %6zu x %5zu:", n_out, n_in);
    for (size_t n_rows : {1, 4, 8, 16, 32, 64})
      print_time(n_rows, n_bytes, speed,
                 time_product(dev, lk_cuda_linear_few, w, n_copies, n_out, n_in, n_rows));
    printf("\nmany %6zu x %5zu:", n_out, n_in);
    for (size_t n_rows : {16, 64})
      print_time(n_rows, n_bytes, speed,
                 time_product(dev, lk_cuda_linear_many, w, n_copies, n_out, n_in, n_rows));
    if (n_out < 100000) {
      const size_t n_timed = std::min<size_t>(n_copies, 8), n_rows = 2048;
      const double us = time_product(dev, lk_cuda_linear_many, w, n_timed, n_out, n_in, n_rows);
      printf(" | %zu: %.1f us %.1f TFLOP/s", n_rows, us,
             2e-6 * (double)n_out * (double)n_in * (double)n_rows / us);
    }
    printf("\n");
    cudaFree(w);
  }
  bench_layers(dev, speed);
}

#endif
