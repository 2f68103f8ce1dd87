/* Devices beside the CPU. SPDX-License-Identifier: Apache-2.0 */
#ifndef LEANK_DEVICE_H
#define LEANK_DEVICE_H

#include <leank/session.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct leank_device_info {
  char name[128];
  int major, minor; /* compute capability */
  size_t total_bytes, free_bytes;
} leank_device_info;

/* NVIDIA devices by index: fills the first `max` of them (at most) and *n with how many there are.
 * The CUDA library, libleank_cuda.so, is looked for beside this library or the program, in ../lib
 * of the program, and where the system looks. LEANK_E_UNSUPPORTED where it, a driver or a device is
 * missing; err says which, in one line. */
LEANK_API leank_status leank_cuda_devices(leank_device_info *devices, size_t max, size_t *n,
                                          leank_error *err);

#ifdef __cplusplus
}
#endif
#endif
