/* Timing the products of decode steps by GEMM: `test_cuda_steps --bench`. */
#ifndef LK_TESTS_BENCH_CUDA_STEPS_CUH
#define LK_TESTS_BENCH_CUDA_STEPS_CUH

#include "bench_cuda_linear.cuh"

enum { N_PRODUCTS = 4 };
static const char *const product_names[N_PRODUCTS] = {"qkv", "o", "gate_up", "down"};

/* The job's parts as one product of the operand. */
static lk_cuda_linear joined(lk_cuda_linear job) {
  float *y = job.parts[0].y;
  for (uint32_t p = 0; p < job.n_parts; p++) {
    job.parts[p].y = y + job.pitch;
    job.pitch += job.parts[p].n_out;
  }
  job.x = NULL;
  return job;
}

static size_t weight_bytes(const lk_cuda_linear *job) {
  size_t n = 0;
  for (uint32_t p = 0; p < job->n_parts; p++) n += (size_t)job->parts[p].n_out * job->n_in;
  return n * sizeof(uint16_t);
}

/* Several layers' jobs, so that no weights are found in L2: jobs[layer][product]. */
typedef struct layer_bench {
  const layer_shape *shape;
  size_t n_layers, n_rows, n_bytes; /* n_bytes: of a layer's weights */
  uint16_t *w;
  float *x, *norm; /* x: rows, results behind them */
  std::vector<lk_cuda_linear> jobs;
} layer_bench;

static layer_bench layer_bench_new(const layer_shape *m, size_t n_rows) {
  layer_bench b = {};
  const size_t n_weights = m->hidden * (2 * m->hidden + 2 * m->kv + 3 * m->ffn);
  b.shape = m;
  b.n_rows = n_rows;
  b.n_bytes = 2 * n_weights;
  b.n_layers = ((size_t)2 << 30) / b.n_bytes + 1;
  b.w = (uint16_t *)device_bytes(b.n_layers * b.n_bytes);
  fill_kernel<<<lk_cuda_blocks(b.n_layers * n_weights, 256), 256>>>(b.w, b.n_layers * n_weights);
  const size_t n_floats = 3 * n_rows * m->ffn;
  b.x = (float *)device_bytes(n_floats * sizeof *b.x);
  b.norm = (float *)device_bytes(m->hidden * sizeof *b.norm);
  must(cudaMemset(b.x, 0x3c, n_floats * sizeof *b.x), "memset");
  must(cudaMemset(b.norm, 0x3c, m->hidden * sizeof *b.norm), "memset");
  must(cudaDeviceSynchronize(), "fill");
  b.jobs.resize(N_PRODUCTS * b.n_layers);
  for (size_t i = 0; i < b.n_layers; i++)
    layer_jobs(m, b.w + i * n_weights, b.x, n_rows, &b.jobs[N_PRODUCTS * i]);
  return b;
}

static void layer_bench_free(layer_bench *b) {
  cudaFree(b->w);
  cudaFree(b->x);
  cudaFree(b->norm);
}

/* Microseconds of product `which` of a layer: GEMMs alone, joined or each part by itself. */
static double time_one(lk_cuda_device *dev, const layer_bench *b, size_t which, bool join) {
  std::vector<lk_cuda_linear> jobs(b->n_layers);
  for (size_t i = 0; i < b->n_layers; i++) {
    jobs[i] = b->jobs[N_PRODUCTS * i + which];
    if (join) jobs[i] = joined(jobs[i]);
    jobs[i].x = NULL;
  }
  cudaGraphExec_t graph = record(dev, lk_cuda_linear_many, jobs.data(), jobs.size());
  const double us = 1e3 * time_graph(dev, graph) / (double)b->n_layers;
  check_device(dev, "bench");
  cudaGraphExecDestroy(graph);
  return us;
}

/* A layer but for attention, as steps had it op by op. */
static void run_apart(lk_cuda_device *dev, const layer_bench *b, const lk_cuda_linear *jobs) {
  const size_t hidden = b->shape->hidden, n = b->n_rows;
  float *y = jobs[2].parts[0].y;
  lk_cuda_rms_norm(dev, b->x, n, hidden, b->norm, 1e-5f, b->x);
  lk_cuda_linear_many(dev, &jobs[0]);
  lk_cuda_linear_many(dev, &jobs[1]);
  lk_cuda_rms_norm(dev, b->x, n, hidden, b->norm, 1e-5f, b->x);
  lk_cuda_linear_many(dev, &jobs[2]);
  lk_cuda_swiglu(dev, y, y + n * b->shape->ffn, n * b->shape->ffn, b->x);
  lk_cuda_linear_many(dev, &jobs[3]);
}

/* As they have it now. */
static void run_joined(lk_cuda_device *dev, const layer_bench *b, const lk_cuda_linear *jobs) {
  const size_t hidden = b->shape->hidden, n = b->n_rows;
  const lk_cuda_linear qkv = joined(jobs[0]), down = joined(jobs[3]);
  lk_cuda_linear gate_up = joined(jobs[2]);
  gate_up.gated = true;
  lk_cuda_rms_norm_operand(dev, b->x, n, hidden, b->norm, 1e-5f);
  lk_cuda_linear_many(dev, &qkv);
  lk_cuda_linear_many(dev, &jobs[1]);
  lk_cuda_rms_norm_operand(dev, b->x, n, hidden, b->norm, 1e-5f);
  lk_cuda_linear_many(dev, &gate_up);
  lk_cuda_linear_many(dev, &down);
}

typedef void (*layer_fn)(lk_cuda_device *dev, const layer_bench *b, const lk_cuda_linear *jobs);

static double time_layers(lk_cuda_device *dev, const layer_bench *b, layer_fn run) {
  run(dev, b, b->jobs.data()); /* plans are made */
  cudaGraphExec_t graph = capture(dev, [=] {
    for (size_t i = 0; i < b->n_layers; i++) run(dev, b, &b->jobs[N_PRODUCTS * i]);
  });
  const double us = 1e3 * time_graph(dev, graph) / (double)b->n_layers;
  check_device(dev, "bench");
  cudaGraphExecDestroy(graph);
  return us;
}

static void bench_steps(lk_cuda_device *dev) {
  const double speed = read_speed(dev);
  printf("reading: %.1f GB/s\n", speed * 1e-3);
  for (const layer_shape &m : layer_shapes)
    for (size_t n_rows : {32, 52, 64, 128}) {
      layer_bench b = layer_bench_new(&m, n_rows);
      printf("%s, %zu rows: layer", m.name, n_rows);
      print_time(1, b.n_bytes, speed, time_layers(dev, &b, run_apart));
      dev->many = LK_MANY_BY_LIBRARY;
      print_time(2, b.n_bytes, speed, time_layers(dev, &b, run_joined));
      dev->many = LK_MANY_BY_SIZE;
      print_time(3, b.n_bytes, speed, time_layers(dev, &b, run_joined));
      printf(" (1: op by op, 2: joined, by cuBLASLt, 3: joined; products below: 3: own)\n");
      for (size_t which = 0; which < N_PRODUCTS; which++) {
        const size_t n_bytes = weight_bytes(&b.jobs[which]);
        printf("  %-7s", product_names[which]);
        print_time(1, n_bytes, speed, time_one(dev, &b, which, false));
        dev->many = LK_MANY_BY_LIBRARY;
        print_time(2, n_bytes, speed, time_one(dev, &b, which, true));
        dev->many = LK_MANY_OWN;
        print_time(3, n_bytes, speed, time_one(dev, &b, which, true));
        dev->many = LK_MANY_BY_SIZE;
        printf("\n");
      }
      layer_bench_free(&b);
    }
}

#endif
