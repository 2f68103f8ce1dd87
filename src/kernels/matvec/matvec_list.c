#include <stddef.h>

#include "cpu/cpu_features.h"
#include "kernels/matvec/matvec_kernels.h"

#define FP32(TYPE, name, isa, LEVEL)                                                               \
  {"matvec_" #name "_" #isa, LK_##TYPE, LEVEL, lk_matvec_##name##_##isa, NULL, NULL},
#define PARTS(TYPE, name, isa, LEVEL)                                                              \
  {"matvec_parts_" #name "_" #isa,                                                                 \
   LK_##TYPE,                                                                                      \
   LEVEL,                                                                                          \
   lk_matvec_parts_##name##_##isa,                                                                 \
   lk_matvec_parts_##name##_##isa##_prepare,                                                       \
   lk_matvec_parts_##name##_##isa##_row_bytes},

#if defined(__x86_64__)
#define FP32_VARIANTS(TYPE, name)                                                                  \
  FP32(TYPE, name, c, LEANK_CPU_C)                                                                 \
  FP32(TYPE, name, avx2, LEANK_CPU_AVX2)                                                           \
  FP32(TYPE, name, avx512, LEANK_CPU_AVX512)
#define PARTS_VARIANTS(TYPE, name, ...)                                                            \
  PARTS(TYPE, name, avx2, LEANK_CPU_AVX2)                                                          \
  PARTS(TYPE, name, avx512, LEANK_CPU_AVX512)                                                      \
  PARTS(TYPE, name, avx512bf16, LEANK_CPU_AVX512BF16)
#elif defined(__aarch64__)
#define FP32_VARIANTS(TYPE, name)                                                                  \
  FP32(TYPE, name, c, LEANK_CPU_C)                                                                 \
  FP32(TYPE, name, neon, LEANK_CPU_NEON)
#define PARTS_VARIANTS(TYPE, name, ...) PARTS(TYPE, name, neondot, LEANK_CPU_NEONDOT)
#else
#define FP32_VARIANTS(TYPE, name) FP32(TYPE, name, c, LEANK_CPU_C)
#define PARTS_VARIANTS(TYPE, name, ...)
#endif

const lk_matvec_variant lk_matvec_variants[] = {
#define LK_EACH_X(TYPE, name) FP32_VARIANTS(TYPE, name)
    LK_EACH_DTYPE LK_EACH_SCALED(PARTS_VARIANTS)
        LK_EACH_AFFINE(PARTS_VARIANTS){NULL, LK_F32, LEANK_CPU_C, NULL, NULL, NULL},
};

/* Of two at the same level the latter, in parts, is the faster one. */
const lk_matvec_variant *lk_matvec_select(lk_dtype type, leank_cpu_level level, bool fp32) {
  const leank_cpu_level cap = lk_cpu_level(level);
  const lk_matvec_variant *best = NULL;
  for (const lk_matvec_variant *v = lk_matvec_variants; v->name; v++)
    if (v->type == type && v->level <= cap && !(fp32 && v->prepare) &&
        (!best || v->level >= best->level))
      best = v;
  return best;
}

size_t lk_matvec_most_row_bytes(size_t n_in) {
  size_t most = n_in * sizeof(float);
  for (const lk_matvec_variant *v = lk_matvec_variants; v->name; v++) {
    const size_t block = lk_dtype_block_elements(v->type),
                 whole = (n_in + block - 1) / block * block;
    const size_t n = lk_matvec_row_bytes(v, whole);
    most = n > most ? n : most;
  }
  return (most + 63) / 64 * 64;
}
