#include <stddef.h>

#include "cpu/cpu_features.h"
#include "kernels/dequant/dequant_kernels.h"

#define VARIANT(TYPE, name, isa, LEVEL)                                                            \
  {"dequant_" #name "_" #isa, LK_##TYPE, LEVEL, lk_dequant_##name##_##isa##_to_f32,                \
   lk_dequant_##name##_##isa##_to_bf16},

const lk_dequant_variant lk_dequant_variants[] = {
#if defined(__x86_64__)
#define LK_EACH_X(TYPE, name)                                                                      \
  VARIANT(TYPE, name, c, LEANK_CPU_C)                                                              \
  VARIANT(TYPE, name, avx2, LEANK_CPU_AVX2)                                                        \
  VARIANT(TYPE, name, avx512, LEANK_CPU_AVX512)
#elif defined(__aarch64__)
#define LK_EACH_X(TYPE, name)                                                                      \
  VARIANT(TYPE, name, c, LEANK_CPU_C)                                                              \
  VARIANT(TYPE, name, neon, LEANK_CPU_NEON)
#else
#define LK_EACH_X(TYPE, name) VARIANT(TYPE, name, c, LEANK_CPU_C)
#endif
    LK_EACH_DTYPE{NULL, LK_F32, LEANK_CPU_C, NULL, NULL},
};

const lk_dequant_variant *lk_dequant_select(lk_dtype type, leank_cpu_level level) {
  const lk_dequant_variant *best = NULL;
  if (level == LEANK_CPU_BEST) level = lk_cpu_detect();
  for (const lk_dequant_variant *v = lk_dequant_variants; v->name; v++)
    if (v->type == type && v->level <= level) best = v;
  return best;
}
