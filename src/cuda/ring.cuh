/* The place in a ring of buffers in shared memory, which some warps fill and others empty, both in
 * the same order. */
#ifndef LK_CUDA_RING_CUH
#define LK_CUDA_RING_CUH

#include <stdint.h>

#include <cuda_runtime.h>

typedef struct lk_ring_place {
  uint32_t index, parity; /* of the buffer; of the round, as its barriers count them */
} lk_ring_place;

static __device__ __forceinline__ void lk_ring_next(lk_ring_place *place, uint32_t n_buffers) {
  if (++place->index == n_buffers) {
    place->index = 0;
    place->parity ^= 1;
  }
}

#endif
