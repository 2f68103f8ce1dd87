/* The device: opening, memory, copies, recording, timing. What touches memory makes the device the
 * calling thread's own; a thread that launches has copied something to it before. */
#include "cuda/device.cuh"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda/device_ops.cuh"
#include "cuda/ops.cuh"

enum { LEAST_MAJOR = 8 }; /* compute capability: bf16 arithmetic, cp.async */

struct lk_cuda_graph {
  cudaGraphExec_t exec;
};

/* ---- failures ---- */

static leank_status status_of(cudaError_t code) {
  return code == cudaErrorMemoryAllocation ? LEANK_E_MEMORY : LEANK_E_STATE;
}

void lk_cuda_keep(lk_cuda_device *dev, cudaError_t code, const char *what) {
  if (code == cudaSuccess || dev->failure.code != LEANK_OK) return;
  dev->failure.code = status_of(code);
  dev->failure.offset = -1;
  snprintf(dev->failure.message, sizeof dev->failure.message, "cuda: %s: %s", what,
           cudaGetErrorString(code));
  cudaGetLastError(); /* told once */
}

leank_status lk_cuda_check(lk_cuda_device *dev, leank_error *err) {
  const leank_status status = dev->failure.code;
  if (status != LEANK_OK && err) *err = dev->failure;
  memset(&dev->failure, 0, sizeof dev->failure);
  return status;
}

static leank_status fail(leank_error *err, cudaError_t code, const char *what) {
  if (err) {
    err->code = status_of(code);
    err->offset = -1;
    snprintf(err->message, sizeof err->message, "cuda: %s: %s", what, cudaGetErrorString(code));
  }
  cudaGetLastError();
  return status_of(code);
}

static void use(lk_cuda_device *dev) { lk_cuda_keep(dev, cudaSetDevice(dev->index), "device"); }

leank_status lk_cuda_sync(lk_cuda_device *dev, leank_error *err) {
  use(dev);
  lk_cuda_keep(dev, cudaStreamSynchronize(dev->stream), "synchronize");
  return lk_cuda_check(dev, err);
}

/* ---- devices ---- */

/* One that is too old for the kernels is counted only beside one that is not. */
int lk_cuda_n_devices(char *why, size_t n_why) {
  int n = 0, major = 0, n_usable = 0;
  const cudaError_t code = cudaGetDeviceCount(&n);
  if (n_why) why[0] = '\0';
  if (code != cudaSuccess || n == 0) {
    const char *text = code == cudaErrorInsufficientDriver ? "no NVIDIA driver, or one too old"
                       : code == cudaErrorNoDevice || code == cudaSuccess
                           ? "no NVIDIA device"
                           : cudaGetErrorString(code);
    snprintf(why, n_why, "%s", text);
    cudaGetLastError();
    return 0;
  }
  for (int i = 0; i < n; i++)
    n_usable +=
        cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, i) == cudaSuccess &&
        major >= LEAST_MAJOR;
  if (n_usable > 0) return n;
  snprintf(why, n_why, "no device of compute capability %d.0 or more", LEAST_MAJOR);
  return 0;
}

leank_status lk_cuda_open(int index, lk_cuda_device **out, leank_error *err) {
  int major = 0;
  lk_cuda_device *dev = (lk_cuda_device *)calloc(1, sizeof *dev);
  if (!dev) return fail(err, cudaErrorMemoryAllocation, "open");
  dev->index = index;
  cudaError_t code = cudaSetDevice(index);
  if (code == cudaSuccess)
    code = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index);
  if (code == cudaSuccess && major < LEAST_MAJOR) code = cudaErrorNoKernelImageForDevice;
  if (code == cudaSuccess)
    code = cudaDeviceGetAttribute(&dev->n_sm, cudaDevAttrMultiProcessorCount, index);
  if (code == cudaSuccess)
    code = cudaDeviceGetAttribute(&dev->major, cudaDevAttrComputeCapabilityMajor, index);
  /* Not ordered with the legacy stream: another library's work there is none of ours. */
  if (code == cudaSuccess) code = cudaStreamCreateWithFlags(&dev->stream, cudaStreamNonBlocking);
  if (code != cudaSuccess) {
    lk_cuda_close(dev);
    return fail(err, code, "open");
  }
  *out = dev;
  return LEANK_OK;
}

void lk_cuda_close(lk_cuda_device *dev) {
  if (!dev) return;
  use(dev);
  if (dev->stream) cudaStreamSynchronize(dev->stream);
  lk_cuda_linear_close(dev);
  for (int i = 0; i < LK_CUDA_MARKS; i++)
    if (dev->marks[i]) cudaEventDestroy(dev->marks[i]);
  if (dev->stream) cudaStreamDestroy(dev->stream);
  free(dev);
}

void lk_cuda_get_info(lk_cuda_device *dev, lk_cuda_info *out) {
  cudaDeviceProp prop;
  memset(out, 0, sizeof *out);
  use(dev);
  const cudaError_t code = cudaGetDeviceProperties(&prop, dev->index);
  lk_cuda_keep(dev, code, "properties");
  if (code != cudaSuccess) return;
  snprintf(out->name, sizeof out->name, "%.*s", (int)sizeof out->name - 1, prop.name);
  out->major = prop.major;
  out->minor = prop.minor;
  out->n_sm = prop.multiProcessorCount;
  lk_cuda_keep(dev, cudaMemGetInfo(&out->free_bytes, &out->total_bytes), "memory");
}

/* ---- memory ---- */

/* A failure is told by NULL, and not kept. */
void *lk_cuda_alloc(lk_cuda_device *dev, size_t n_bytes) {
  void *p = NULL;
  use(dev);
  if (cudaMalloc(&p, n_bytes ? n_bytes : 1) == cudaSuccess) return p;
  cudaGetLastError();
  return NULL;
}

void lk_cuda_free(lk_cuda_device *dev, void *p) {
  if (!p) return;
  use(dev);
  lk_cuda_keep(dev, cudaStreamSynchronize(dev->stream), "synchronize");
  lk_cuda_keep(dev, cudaFree(p), "free");
}

void *lk_cuda_alloc_pinned(lk_cuda_device *dev, size_t n_bytes) {
  void *p = NULL;
  use(dev);
  if (cudaMallocHost(&p, n_bytes ? n_bytes : 1) == cudaSuccess) return p;
  cudaGetLastError();
  return NULL;
}

void lk_cuda_free_pinned(lk_cuda_device *dev, void *p) {
  if (!p) return;
  use(dev);
  lk_cuda_keep(dev, cudaStreamSynchronize(dev->stream), "synchronize");
  lk_cuda_keep(dev, cudaFreeHost(p), "free pinned");
}

static bool is_pinned(const void *p) {
  cudaPointerAttributes attributes;
  if (cudaPointerGetAttributes(&attributes, p) == cudaSuccess)
    return attributes.type == cudaMemoryTypeHost;
  cudaGetLastError();
  return false;
}

/* Where the device reads the process's own memory, a copy from it may still run on return: it is
 * waited for, so that the caller may reuse what is not pinned. */
void lk_cuda_upload(lk_cuda_device *dev, void *to, const void *from, size_t n_bytes) {
  if (n_bytes == 0) return;
  use(dev);
  lk_cuda_keep(dev, cudaMemcpyAsync(to, from, n_bytes, cudaMemcpyHostToDevice, dev->stream),
               "upload");
  if (!is_pinned(from)) lk_cuda_keep(dev, cudaStreamSynchronize(dev->stream), "upload");
}

void lk_cuda_download(lk_cuda_device *dev, void *to, const void *from, size_t n_bytes) {
  use(dev);
  if (n_bytes)
    lk_cuda_keep(dev, cudaMemcpyAsync(to, from, n_bytes, cudaMemcpyDeviceToHost, dev->stream),
                 "download");
  lk_cuda_keep(dev, cudaStreamSynchronize(dev->stream), "download");
}

void lk_cuda_copy(lk_cuda_device *dev, void *to, const void *from, size_t n_bytes) {
  if (n_bytes == 0) return;
  use(dev);
  lk_cuda_keep(dev, cudaMemcpyAsync(to, from, n_bytes, cudaMemcpyDeviceToDevice, dev->stream),
               "copy");
}

void lk_cuda_zero(lk_cuda_device *dev, void *p, size_t n_bytes) {
  if (n_bytes == 0) return;
  use(dev);
  lk_cuda_keep(dev, cudaMemsetAsync(p, 0, n_bytes, dev->stream), "zero");
}

/* ---- recording ---- */

leank_status lk_cuda_record_begin(lk_cuda_device *dev, leank_error *err) {
  use(dev);
  const cudaError_t code = cudaStreamBeginCapture(dev->stream, cudaStreamCaptureModeThreadLocal);
  return code == cudaSuccess ? LEANK_OK : fail(err, code, "record");
}

leank_status lk_cuda_record_end(lk_cuda_device *dev, lk_cuda_graph **out, leank_error *err) {
  cudaGraph_t graph = NULL;
  cudaGraphExec_t exec = NULL;
  *out = NULL;
  cudaError_t code = cudaStreamEndCapture(dev->stream, &graph);
  if (code == cudaSuccess && dev->failure.code == LEANK_OK)
    code = cudaGraphInstantiate(&exec, graph, 0);
  if (graph) cudaGraphDestroy(graph);
  if (dev->failure.code != LEANK_OK) return lk_cuda_check(dev, err);
  if (code != cudaSuccess) return fail(err, code, "record");
  *out = (lk_cuda_graph *)calloc(1, sizeof **out);
  if (!*out) {
    cudaGraphExecDestroy(exec);
    return fail(err, cudaErrorMemoryAllocation, "record");
  }
  (*out)->exec = exec;
  return LEANK_OK;
}

void lk_cuda_replay(lk_cuda_device *dev, lk_cuda_graph *graph) {
  use(dev);
  lk_cuda_keep(dev, cudaGraphLaunch(graph->exec, dev->stream), "replay");
}

void lk_cuda_graph_free(lk_cuda_graph *graph) {
  if (!graph) return;
  cudaGraphExecDestroy(graph->exec);
  free(graph);
}

void lk_cuda_mark(lk_cuda_device *dev, int number) {
  use(dev);
  cudaEvent_t *event = &dev->marks[number];
  cudaError_t code = *event ? cudaSuccess : cudaEventCreate(event);
  if (code == cudaSuccess) code = cudaEventRecord(*event, dev->stream);
  lk_cuda_keep(dev, code, "mark");
}

float lk_cuda_time_ms(lk_cuda_device *dev, int from, int to) {
  float ms = 0;
  use(dev);
  lk_cuda_keep(dev, cudaEventSynchronize(dev->marks[to]), "time");
  lk_cuda_keep(dev, cudaEventElapsedTime(&ms, dev->marks[from], dev->marks[to]), "time");
  return ms;
}
