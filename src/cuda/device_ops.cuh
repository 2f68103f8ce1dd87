/* The part of the table of cuda_api.h that device.cu holds; contracts are there. */
#ifndef LK_CUDA_DEVICE_OPS_CUH
#define LK_CUDA_DEVICE_OPS_CUH

#include "cuda/device.cuh"

int lk_cuda_n_devices(char *why, size_t n_why);
leank_status lk_cuda_open(int index, lk_cuda_device **out, leank_error *err);
void lk_cuda_close(lk_cuda_device *dev);
void lk_cuda_get_info(lk_cuda_device *dev, lk_cuda_info *out);
leank_status lk_cuda_check(lk_cuda_device *dev, leank_error *err);
leank_status lk_cuda_sync(lk_cuda_device *dev, leank_error *err);

void *lk_cuda_alloc(lk_cuda_device *dev, size_t n_bytes);
void lk_cuda_free(lk_cuda_device *dev, void *p);
void *lk_cuda_alloc_pinned(lk_cuda_device *dev, size_t n_bytes);
void lk_cuda_free_pinned(lk_cuda_device *dev, void *p);
void lk_cuda_upload(lk_cuda_device *dev, void *to, const void *from, size_t n_bytes);
void lk_cuda_download(lk_cuda_device *dev, void *to, const void *from, size_t n_bytes);
void lk_cuda_copy(lk_cuda_device *dev, void *to, const void *from, size_t n_bytes);
void lk_cuda_zero(lk_cuda_device *dev, void *p, size_t n_bytes);

leank_status lk_cuda_record_begin(lk_cuda_device *dev, leank_error *err);
leank_status lk_cuda_record_end(lk_cuda_device *dev, lk_cuda_graph **out, leank_error *err);
void lk_cuda_replay(lk_cuda_device *dev, lk_cuda_graph *graph);
void lk_cuda_graph_free(lk_cuda_graph *graph);
void lk_cuda_mark(lk_cuda_device *dev, int number);
float lk_cuda_time_ms(lk_cuda_device *dev, int from, int to);

#endif
