#include <stddef.h>

#include "cpu/cpu_features.h"
#include "kernels/rows/rows_kernels.h"

#define VARIANT(isa, LEVEL)                                                                        \
  {                                                                                                \
    "rows_" #isa, LEVEL, lk_rows_rms_norm_##isa, lk_rows_rope_##isa, lk_rows_swiglu_##isa,         \
        lk_rows_to_bf16_##isa, lk_rows_add_##isa, lk_rows_rms_norm_backward_##isa,                 \
        lk_rows_swiglu_backward_##isa                                                              \
  }

const lk_rows_variant lk_rows_variants[] = {
    VARIANT(c, LEANK_CPU_C),
#if defined(__x86_64__)
    VARIANT(avx2, LEANK_CPU_AVX2),
    VARIANT(avx512, LEANK_CPU_AVX512),
#elif defined(__aarch64__)
    VARIANT(neon, LEANK_CPU_NEON),
#endif
    {NULL, LEANK_CPU_C, NULL, NULL, NULL, NULL, NULL, NULL, NULL},
};

const lk_rows_variant *lk_rows_select(leank_cpu_level level) {
  const lk_rows_variant *best = NULL;
  if (level == LEANK_CPU_BEST) level = lk_cpu_detect();
  for (const lk_rows_variant *v = lk_rows_variants; v->name; v++)
    if (v->level <= level) best = v;
  return best;
}
