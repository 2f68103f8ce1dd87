/* What the files of the device in software share. */
#ifndef LK_SUPPORT_CUDA_MOCK_QUEUE_H
#define LK_SUPPORT_CUDA_MOCK_QUEUE_H

#include "cuda/cuda_api.h"

/* Puts run(args) into the queue; n bytes of args are copied. */
void lk_mock_launch(lk_cuda_device *dev, void (*run)(const void *), const void *args, size_t n);
#define LK_MOCK_LAUNCH(dev, run, args) lk_mock_launch(dev, run, &(args), sizeof(args))

/* Element c of a token's row of n elements, in a segment's K or V. */
uint16_t *lk_mock_element(unsigned char *segment, size_t n, size_t token, size_t c);

/* Rotates a head's channels by a row of the table. */
void lk_mock_rotate(float *x, size_t d, bool pairs, const float *cos_sin);
/* The device's operand, which has been reserved for n elements: fp32. */
float *lk_mock_operand(lk_cuda_device *dev, size_t n);
/* Operand [n_rows][n] = swiglu of gate_up[n_rows][2][n]. */
void lk_mock_swiglu_operand(lk_cuda_device *dev, const float *gate_up, size_t n_rows, size_t n);

/* cuda_mock_linear.c */
void lk_mock_linear_few(lk_cuda_device *dev, const lk_cuda_linear *job);
void lk_mock_linear(lk_cuda_device *dev, const lk_cuda_linear *job); /* precise */

/* cuda_mock_steps.c */
void lk_mock_widen(lk_cuda_device *dev, int type, const void *from, size_t n, uint16_t *to);
void lk_mock_linear_many(lk_cuda_device *dev, const lk_cuda_linear *job);
void lk_mock_rope_append_joint(lk_cuda_device *dev, const lk_cuda_view *view, const float *qkv,
                               float *q, size_t n_rows, bool pairs, const float *cos_sin,
                               const lk_slot *slots);

/* cuda_mock_learn.c */
void lk_mock_linear_backward(lk_cuda_device *dev, const lk_cuda_linear_grad *job);
void lk_mock_rms_norm_backward(lk_cuda_device *dev, const float *x, size_t n_rows, size_t n,
                               const float *w, float eps, const float *dy, float *dx);
void lk_mock_swiglu_backward(lk_cuda_device *dev, const float *gate, const float *up, size_t n,
                             const float *dout, float *dgate, float *dup);
size_t lk_mock_weighted_scratch_bytes(const lk_cuda_weighted *job, bool backward);
void lk_mock_weighted(lk_cuda_device *dev, const lk_cuda_weighted *job);
void lk_mock_weighted_backward(lk_cuda_device *dev, const lk_cuda_weighted *job);

#endif
