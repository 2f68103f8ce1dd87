#include <stddef.h>

#include "cpu/cpu_features.h"
#include "kernels/matvec/matvec_kernels.h"

#define VARIANT(TYPE, name, isa, LEVEL)                                                            \
  {"matvec_" #name "_" #isa, LK_##TYPE, LEVEL, lk_matvec_##name##_##isa},

const lk_matvec_variant lk_matvec_variants[] = {
#if defined(__x86_64__)
#define LK_EACH_X(TYPE, name)                                                                      \
  VARIANT(TYPE, name, c, LEANK_CPU_C)                                                              \
  VARIANT(TYPE, name, avx2, LEANK_CPU_AVX2)                                                        \
  VARIANT(TYPE, name, avx512, LEANK_CPU_AVX512)
#else
#define LK_EACH_X(TYPE, name) VARIANT(TYPE, name, c, LEANK_CPU_C)
#endif
    LK_EACH_DTYPE{NULL, LK_F32, LEANK_CPU_C, NULL},
};

const lk_matvec_variant *lk_matvec_select(lk_dtype type, leank_cpu_level level) {
  const lk_matvec_variant *best = NULL;
  if (level == LEANK_CPU_BEST) level = lk_cpu_detect();
  for (const lk_matvec_variant *v = lk_matvec_variants; v->name; v++)
    if (v->type == type && v->level <= level) best = v;
  return best;
}
