/* The dequant kernels of one instruction set. Before including it: widen_<isa>.h, and ISA defined
 * as the suffix of the names. */
#include "kernels/dequant/dequant_kernels.h"

#define PASTE_(name, isa, to) lk_dequant_##name##_##isa##_to_##to
#define PASTE(name, isa, to) PASTE_(name, isa, to)

#define DEQUANT_TO(name, elements, bytes, to, number, store, n_full, finish)                       \
  void PASTE(name, ISA, to)(const void *src, size_t n, number *dst) {                              \
    const uint8_t *block = src;                                                                    \
    const size_t n_whole = n_full;                                                                 \
    for (size_t i = 0; i < n_whole; i += (elements), block += (bytes)) {                           \
      lk_unpacked u;                                                                               \
      prepare_##name(block, &u);                                                                   \
      _Pragma("GCC unroll 32") for (size_t v = 0; v < (elements) / VEC_LANES; v++)                 \
          store(dst + i + v * VEC_LANES, widen_##name(block, &u, v));                              \
    }                                                                                              \
    finish;                                                                                        \
  }

#define QUANTISED(TYPE, name, elements, bytes, group)                                              \
  DEQUANT_TO(name, elements, bytes, f32, float, vec_store, n, )                                    \
  DEQUANT_TO(name, elements, bytes, bf16, uint16_t, vec_store_bf16, n, )
LK_EACH_SCALED(QUANTISED)
LK_EACH_AFFINE(QUANTISED)

/* Plain types: whole blocks here, what is left by the reference. */
#define PLAIN_TO(name, bytes, to, number, store)                                                   \
  DEQUANT_TO(name, WIDEN_PLAIN, WIDEN_PLAIN *(bytes), to, number, store,                           \
             n / WIDEN_PLAIN * WIDEN_PLAIN,                                                        \
             lk_dequant_##name##_c_to_##to(block, n - n_whole, dst + n_whole))
PLAIN_TO(f16, 2, f32, float, vec_store)
PLAIN_TO(f16, 2, bf16, uint16_t, vec_store_bf16)
PLAIN_TO(bf16, 2, f32, float, vec_store)
PLAIN_TO(f32, 4, bf16, uint16_t, vec_store_bf16)

/* Same type in and out: a copy. */
void PASTE(f32, ISA, f32)(const void *src, size_t n, float *dst) {
  lk_dequant_f32_c_to_f32(src, n, dst);
}
void PASTE(bf16, ISA, bf16)(const void *src, size_t n, uint16_t *dst) {
  lk_dequant_bf16_c_to_bf16(src, n, dst);
}
