#include "cpu/cpu_features.h"
#include "kernels/read/read_kernels.h"

const lk_read_variant lk_read_variants[] = {
    {"read_c", LEANK_CPU_C, lk_read_c},
#if defined(__x86_64__)
    {"read_avx2", LEANK_CPU_AVX2, lk_read_avx2},
    {"read_avx512", LEANK_CPU_AVX512, lk_read_avx512},
#endif
    {NULL, LEANK_CPU_C, NULL},
};

const lk_read_variant *lk_read_select(leank_cpu_level level) {
  const leank_cpu_level cap = lk_cpu_level(level);
  const lk_read_variant *best = NULL;
  for (const lk_read_variant *v = lk_read_variants; v->name; v++)
    if (v->level <= cap) best = v;
  return best;
}
