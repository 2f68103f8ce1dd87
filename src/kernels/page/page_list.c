/* The variants of op "page" and their selection. */
#include "cpu/cpu_features.h"
#include "kernels/page/page_kernels.h"

const lk_page_variant lk_page_variants[] = {
    {"page_bf16_c", LEANK_KV_BF16, LEANK_CPU_C, lk_page_append_bf16_c, lk_page_pack_bf16_c,
     lk_page_pack_bf16_c, lk_page_pack_v_bf16_c, lk_page_sum_bf16_c},
#if defined(__x86_64__)
    {"page_bf16_avx512", LEANK_KV_BF16, LEANK_CPU_AVX512, lk_page_append_bf16_avx512,
     lk_page_pack_bf16_avx512, lk_page_pack_bf16_avx512, lk_page_pack_v_bf16_c,
     lk_page_sum_bf16_avx512},
#elif defined(__aarch64__)
    {"page_bf16_neon", LEANK_KV_BF16, LEANK_CPU_NEON, lk_page_append_bf16_neon,
     lk_page_pack_bf16_neon, lk_page_pack_bf16_neon, lk_page_pack_v_bf16_c, lk_page_sum_bf16_c},
#endif
    {"page_f32_c", LEANK_KV_F32, LEANK_CPU_C, lk_page_append_f32_c, lk_page_pack_f32_c,
     lk_page_pack_f32_c, lk_page_pack_v_f32_c, lk_page_sum_f32_c},
#if defined(__x86_64__)
    {"page_f32_avx512", LEANK_KV_F32, LEANK_CPU_AVX512, lk_page_append_f32_avx512,
     lk_page_pack_f32_avx512, lk_page_pack_f32_avx512, lk_page_pack_v_f32_c,
     lk_page_sum_f32_avx512},
#endif
    {"page_q8_c", LEANK_KV_Q8, LEANK_CPU_C, lk_page_append_bf16_c, lk_page_pack_q8_c,
     lk_page_repack_q8_c, lk_page_pack_v_q8_c, lk_page_sum_bf16_c},
#if defined(__x86_64__)
    {"page_q8_avx512", LEANK_KV_Q8, LEANK_CPU_AVX512, lk_page_append_bf16_avx512,
     lk_page_pack_q8_avx512, lk_page_repack_q8_avx512, lk_page_pack_v_q8_avx512,
     lk_page_sum_bf16_avx512},
#elif defined(__aarch64__)
    {"page_q8_neon", LEANK_KV_Q8, LEANK_CPU_NEON, lk_page_append_bf16_neon, lk_page_pack_q8_neon,
     lk_page_repack_q8_neon, lk_page_pack_v_q8_neon, lk_page_sum_bf16_c},
#endif
    {NULL, LEANK_KV_BF16, LEANK_CPU_C, NULL, NULL, NULL, NULL, NULL},
};

const lk_page_variant *lk_page_select(leank_kv_type type, leank_cpu_level level) {
  const leank_cpu_level cap = lk_cpu_level(level);
  const lk_page_variant *best = NULL;
  for (const lk_page_variant *v = lk_page_variants; v->name; v++)
    if (v->type == type && v->level <= cap) best = v;
  return best;
}
