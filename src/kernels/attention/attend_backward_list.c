/* The variants of op "attend_backward", their selection and their scratch. */
#include "cpu/cpu_features.h"
#include "kernels/attention/attend_backward_kernels.h"
#include "kernels/attention/attend_backward_scratch.h"

const lk_attend_backward_variant lk_attend_backward_variants[] = {
    {"attend_backward_bf16_c", LEANK_KV_BF16, LEANK_CPU_C, lk_attend_backward_bf16_c},
#if defined(__x86_64__)
    {"attend_backward_bf16_avx2", LEANK_KV_BF16, LEANK_CPU_AVX2, lk_attend_backward_bf16_avx2},
    {"attend_backward_bf16_avx512", LEANK_KV_BF16, LEANK_CPU_AVX512,
     lk_attend_backward_bf16_avx512},
#elif defined(__aarch64__)
    {"attend_backward_bf16_neon", LEANK_KV_BF16, LEANK_CPU_NEON, lk_attend_backward_bf16_neon},
#endif
    {"attend_backward_f32_c", LEANK_KV_F32, LEANK_CPU_C, lk_attend_backward_f32_c},
#if defined(__x86_64__)
    {"attend_backward_f32_avx2", LEANK_KV_F32, LEANK_CPU_AVX2, lk_attend_backward_f32_avx2},
    {"attend_backward_f32_avx512", LEANK_KV_F32, LEANK_CPU_AVX512, lk_attend_backward_f32_avx512},
#elif defined(__aarch64__)
    {"attend_backward_f32_neon", LEANK_KV_F32, LEANK_CPU_NEON, lk_attend_backward_f32_neon},
#endif
    {NULL, LEANK_KV_BF16, LEANK_CPU_C, NULL},
};

const lk_attend_backward_variant *lk_attend_backward_select(leank_kv_type type,
                                                            leank_cpu_level level) {
  const leank_cpu_level cap = lk_cpu_level(level);
  const lk_attend_backward_variant *best = NULL;
  for (const lk_attend_backward_variant *v = lk_attend_backward_variants; v->name; v++)
    if (v->type == type && v->level <= cap) best = v;
  return best;
}

size_t lk_attend_backward_scratch_bytes(size_t n_q, size_t head_dim) {
  const size_t padded = lk_backward_padded(head_dim);
  return (LK_PAGE_TOKENS * padded * 3 + lk_backward_block_rows(n_q) * LK_PAGE_TOKENS * 2) *
         sizeof(float);
}
