/* Parts of a vector of 4 fp32. Only for AArch64. */
#ifndef LK_KERNELS_LANES_NEON_H
#define LK_KERNELS_LANES_NEON_H

#include <arm_neon.h>
#include <stddef.h>

/* The first n (0 .. 4) lanes from memory, 0 elsewhere; reads nothing else. */
static inline float32x4_t lanes_load_first(const float *p, size_t n) {
  const float32x2_t none = vdup_n_f32(0);
  switch (n) {
  case 0: return vdupq_n_f32(0);
  case 1: return vcombine_f32(vld1_lane_f32(p, none, 0), none);
  case 2: return vcombine_f32(vld1_f32(p), none);
  case 3: return vcombine_f32(vld1_f32(p), vld1_lane_f32(p + 2, none, 0));
  default: return vld1q_f32(p);
  }
}

/* The first n (0 .. 4) lanes to memory; nothing else is touched. */
static inline void lanes_store_first(float *p, size_t n, float32x4_t x) {
  switch (n) {
  case 0: return;
  case 1: vst1q_lane_f32(p, x, 0); return;
  case 2: vst1_f32(p, vget_low_f32(x)); return;
  case 3:
    vst1_f32(p, vget_low_f32(x));
    vst1q_lane_f32(p + 2, x, 2);
    return;
  default: vst1q_f32(p, x);
  }
}

#endif
