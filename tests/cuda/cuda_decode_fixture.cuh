/* A device opened by hand, and failures that end the program with a line. */
#ifndef LK_CUDA_DECODE_FIXTURE_CUH
#define LK_CUDA_DECODE_FIXTURE_CUH

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "base/dtype.h"
#include "base/rng.h"
#include "cuda/device.cuh"

#define CUDA_OK(call)                                                                              \
  do {                                                                                             \
    const cudaError_t code_ = (call);                                                              \
    if (code_ != cudaSuccess) {                                                                    \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, cudaGetErrorString(code_));               \
      exit(2);                                                                                     \
    }                                                                                              \
  } while (0)

enum { SKIPPED = 77 };

static void fixture_check(lk_cuda_device *dev) {
  CUDA_OK(cudaStreamSynchronize(dev->stream));
  if (dev->failure.code == LEANK_OK) return;
  fprintf(stderr, "%s\n", dev->failure.message);
  exit(2);
}

/* Ends the program with SKIPPED where there is no device. */
static lk_cuda_device *fixture_open(void) {
  int n = 0;
  if (cudaGetDeviceCount(&n) != cudaSuccess || n == 0) {
    printf("skipped: no CUDA device\n");
    exit(SKIPPED);
  }
  static lk_cuda_device dev;
  cudaDeviceProp prop;
  CUDA_OK(cudaSetDevice(0));
  CUDA_OK(cudaGetDeviceProperties(&prop, 0));
  dev.n_sm = prop.multiProcessorCount;
  dev.major = prop.major;
  CUDA_OK(cudaStreamCreateWithFlags(&dev.stream, cudaStreamNonBlocking));
  printf("device: %s, %d multiprocessors\n", prop.name, dev.n_sm);
  return &dev;
}

/* Random numbers of the tests. */
static uint64_t fixture_random(uint64_t *state) {
  lk_rng rng = {*state};
  const uint64_t z = lk_rng_u64(&rng);
  *state = rng.state;
  return z;
}
/* Uniform in [-1, 1). */
static float fixture_uniform(uint64_t *state) {
  return (float)((double)(fixture_random(state) >> 11) / 4503599627370496.0 - 1.0);
}

template <typename T> static T *fixture_to_device(const T *from, size_t n) {
  T *p;
  CUDA_OK(cudaMalloc(&p, (n ? n : 1) * sizeof(T)));
  CUDA_OK(cudaMemcpy(p, from, n * sizeof(T), cudaMemcpyHostToDevice));
  return p;
}

#endif
