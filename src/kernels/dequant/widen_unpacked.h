/* widen_<type>: vectors of fp32 out of an unpacked block (unpack.h). The includer has included the
 * vec_<isa>.h it is built for and declares each type it wants by one of the macros:
 *   prepare_<type>(block, &state)       once per block
 *   widen_<type>(block, &state, v)      elements v * VEC_LANES .. of the block */
#ifndef LK_KERNELS_WIDEN_UNPACKED_H
#define LK_KERNELS_WIDEN_UNPACKED_H

#include "kernels/dequant/unpack.h"

#define WIDEN_SCALED(TYPE, name, elements, bytes, group)                                           \
  VEC_FN void prepare_##name(const uint8_t *block, lk_unpacked *u) { unpack_##name(block, u); }    \
  VEC_FN vec widen_##name(const uint8_t *block, const lk_unpacked *u, size_t v) {                  \
    (void)block;                                                                                   \
    return vec_mul(vec_from_i8(u->q + v * VEC_LANES),                                              \
                   vec_set1(u->scale[v * VEC_LANES / (group)]));                                   \
  }
#define WIDEN_AFFINE(TYPE, name, elements, bytes, group)                                           \
  VEC_FN void prepare_##name(const uint8_t *block, lk_unpacked *u) { unpack_##name(block, u); }    \
  VEC_FN vec widen_##name(const uint8_t *block, const lk_unpacked *u, size_t v) {                  \
    const size_t g = v * VEC_LANES / (group);                                                      \
    (void)block;                                                                                   \
    return vec_fma(vec_from_i8(u->q + v * VEC_LANES), vec_set1(u->scale[g]),                       \
                   vec_set1(u->offset[g]));                                                        \
  }

/* Plain types as blocks of WIDEN_PLAIN elements. */
enum { WIDEN_PLAIN = 32 };
#define WIDEN_PLAIN_TYPE(name, bytes, load)                                                        \
  VEC_FN void prepare_##name(const uint8_t *block, lk_unpacked *u) {                               \
    (void)block;                                                                                   \
    (void)u;                                                                                       \
  }                                                                                                \
  VEC_FN vec widen_##name(const uint8_t *block, const lk_unpacked *u, size_t v) {                  \
    (void)u;                                                                                       \
    return load((const void *)(block + v * VEC_LANES * (bytes)));                                  \
  }
WIDEN_PLAIN_TYPE(f32, 4, vec_load)
WIDEN_PLAIN_TYPE(f16, 2, vec_from_f16)
WIDEN_PLAIN_TYPE(bf16, 2, vec_from_bf16)

#endif
