/* A device opened by hand, and failures that end the program with a line. */
#ifndef LK_CUDA_DECODE_FIXTURE_CUH
#define LK_CUDA_DECODE_FIXTURE_CUH

#include <cstdio>
#include <cstdlib>
#include <cstring>

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

/* Random numbers of the tests: splitmix64. */
static uint64_t fixture_random(uint64_t *state) {
  uint64_t z = *state += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}
/* Uniform in [-1, 1). */
static float fixture_uniform(uint64_t *state) {
  return (float)((double)(fixture_random(state) >> 11) / 4503599627370496.0 - 1.0);
}

static uint16_t fixture_bf16(float f) {
  uint32_t u;
  memcpy(&u, &f, sizeof u);
  return (uint16_t)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}
static float fixture_f32(uint16_t h) {
  const uint32_t u = (uint32_t)h << 16;
  float f;
  memcpy(&f, &u, sizeof f);
  return f;
}

template <typename T> static T *fixture_to_device(const T *from, size_t n) {
  T *p;
  CUDA_OK(cudaMalloc(&p, (n ? n : 1) * sizeof(T)));
  CUDA_OK(cudaMemcpy(p, from, n * sizeof(T), cudaMemcpyHostToDevice));
  return p;
}

#endif
