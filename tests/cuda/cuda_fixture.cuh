/* What programs that test the CUDA library share: a device made by hand, memory, counted checks. */
#ifndef LK_CUDA_FIXTURE_CUH
#define LK_CUDA_FIXTURE_CUH

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "cuda/ops.cuh"

enum { FIXTURE_NO_DEVICE = 77 /* exit code: nothing was tested */ };

static size_t n_checks, n_failed;

/* Counts a check; tells of the first 20 that fail. */
static void check(bool ok, const char *format, ...) {
  n_checks++;
  if (ok || ++n_failed > 20) return;
  va_list arguments;
  va_start(arguments, format);
  printf("FAILED: ");
  vprintf(format, arguments);
  printf("\n");
  va_end(arguments);
}

static void must(cudaError_t code, const char *what) {
  if (code == cudaSuccess) return;
  printf("%s: %s\n", what, cudaGetErrorString(code));
  exit(1);
}

/* Device 0 and a stream. Ends the program where there is none. */
static lk_cuda_device open_device(void) {
  int n = 0;
  if (cudaGetDeviceCount(&n) != cudaSuccess || n == 0) {
    printf("no CUDA device: nothing was tested\n");
    exit(FIXTURE_NO_DEVICE);
  }
  lk_cuda_device dev = {};
  cudaDeviceProp properties;
  must(cudaSetDevice(0), "cudaSetDevice");
  must(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
  must(cudaStreamCreate(&dev.stream), "cudaStreamCreate"); /* waits for copies of this file */
  dev.n_sm = properties.multiProcessorCount;
  printf("%s, %d multiprocessors\n", properties.name, dev.n_sm);
  return dev;
}

/* Waits; a kept failure, or one of the device, fails a check. */
static void check_device(lk_cuda_device *dev, const char *what) {
  const cudaError_t code = cudaStreamSynchronize(dev->stream);
  check(code == cudaSuccess, "%s: %s", what, cudaGetErrorString(code));
  check(dev->failure.code == LEANK_OK, "%s: kept: %s", what, dev->failure.message);
  dev->failure = leank_error{};
  if (code != cudaSuccess) exit(1); /* nothing works after it */
}

static void *device_bytes(size_t n_bytes) {
  void *p;
  must(cudaMalloc(&p, n_bytes ? n_bytes : 1), "cudaMalloc");
  return p;
}

static void to_device(void *to, const void *from, size_t n_bytes) {
  must(cudaMemcpy(to, from, n_bytes, cudaMemcpyHostToDevice), "upload");
}

static void from_device(void *to, const void *from, size_t n_bytes) {
  must(cudaMemcpy(to, from, n_bytes, cudaMemcpyDeviceToHost), "download");
}

static void *host_bytes(size_t n_bytes) {
  void *p = calloc(n_bytes ? n_bytes : 1, 1);
  if (!p) exit(1);
  return p;
}

static uint64_t random_bits(uint64_t *state) {
  lk_rng rng = {*state};
  const uint64_t z = lk_rng_u64(&rng);
  *state = rng.state;
  return z;
}

/* Uniform in [-1, 1). */
static float random_float(uint64_t *state) {
  return (float)((int64_t)random_bits(state) >> 40) * 0x1p-23f;
}

#endif
