/* The variants of op "attend", their selection and their scratch. */
#include "cpu/cpu_features.h"
#include "kernels/attention/attend_kernels.h"
#include "kernels/attention/attend_q8_scratch.h"
#include "kernels/attention/attend_tmul_scratch.h"
#include "kernels/page/page.h"

const lk_attend_variant lk_attend_variants[] = {
    {"attend_bf16_c", LEANK_KV_BF16, LEANK_CPU_C, lk_attend_bf16_c, lk_attend_bf16_c},
#if defined(__x86_64__)
    {"attend_bf16_avx2", LEANK_KV_BF16, LEANK_CPU_AVX2, lk_attend_bf16_avx2, lk_attend_bf16_avx2},
    {"attend_bf16_avx512", LEANK_KV_BF16, LEANK_CPU_AVX512, lk_attend_bf16_avx512,
     lk_attend_bf16_avx512},
    {"attend_bf16_avx512bf16", LEANK_KV_BF16, LEANK_CPU_AVX512BF16,
     lk_attend_decode_bf16_avx512bf16, lk_attend_rows_bf16_avx512bf16},
    {"attend_bf16_amx", LEANK_KV_BF16, LEANK_CPU_AMX, lk_attend_decode_bf16_avx512bf16,
     lk_attend_rows_bf16_amx},
#elif defined(__aarch64__)
    {"attend_bf16_neon", LEANK_KV_BF16, LEANK_CPU_NEON, lk_attend_bf16_neon, lk_attend_bf16_neon},
    {"attend_bf16_neonbf16", LEANK_KV_BF16, LEANK_CPU_NEONBF16, lk_attend_decode_bf16_neonbf16,
     lk_attend_rows_bf16_neonbf16},
#endif
    {"attend_f32_c", LEANK_KV_F32, LEANK_CPU_C, lk_attend_f32_c, lk_attend_f32_c},
#if defined(__x86_64__)
    {"attend_f32_avx2", LEANK_KV_F32, LEANK_CPU_AVX2, lk_attend_f32_avx2, lk_attend_f32_avx2},
    {"attend_f32_avx512", LEANK_KV_F32, LEANK_CPU_AVX512, lk_attend_f32_avx512,
     lk_attend_f32_avx512},
#elif defined(__aarch64__)
    {"attend_f32_neon", LEANK_KV_F32, LEANK_CPU_NEON, lk_attend_f32_neon, lk_attend_f32_neon},
#endif
    {"attend_q8_c", LEANK_KV_Q8, LEANK_CPU_C, lk_attend_q8_c, lk_attend_q8_c},
#if defined(__x86_64__)
    {"attend_q8_avx2", LEANK_KV_Q8, LEANK_CPU_AVX2, lk_attend_q8_avx2, lk_attend_q8_avx2},
    {"attend_q8_avx512", LEANK_KV_Q8, LEANK_CPU_AVX512, lk_attend_q8_avx512, lk_attend_q8_avx512},
    {"attend_q8_avx512bf16", LEANK_KV_Q8, LEANK_CPU_AVX512BF16, lk_attend_decode_q8_avx512bf16,
     lk_attend_rows_q8_avx512bf16},
#elif defined(__aarch64__)
    {"attend_q8_neon", LEANK_KV_Q8, LEANK_CPU_NEON, lk_attend_q8_neon, lk_attend_q8_neon},
    {"attend_q8_neondot", LEANK_KV_Q8, LEANK_CPU_NEONDOT, lk_attend_decode_q8_neondot,
     lk_attend_q8_neon},
    {"attend_q8_neonbf16", LEANK_KV_Q8, LEANK_CPU_NEONBF16, lk_attend_decode_q8_neonbf16,
     lk_attend_rows_q8_neonbf16},
#endif
    {NULL, LEANK_KV_BF16, LEANK_CPU_C, NULL, NULL},
};

const lk_attend_variant *lk_attend_select(leank_kv_type type, leank_cpu_level level) {
  const leank_cpu_level cap = lk_cpu_level(level);
  const lk_attend_variant *best = NULL;
  for (const lk_attend_variant *v = lk_attend_variants; v->name; v++)
    if (v->type == type && v->level <= cap) best = v;
  return best;
}

static size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

/* Over vectors: the accumulators with D rounded up to whole vectors; q and q_lean in bf16; V of a
 * page in pairs. Over tiles: see there. q8: what it has in front of that. */
size_t lk_attend_scratch_bytes(leank_kv_type type, size_t n_q, size_t head_dim) {
  const size_t padded = round_up(head_dim, 32);
  if (type == LEANK_KV_Q8)
    return lk_q8_divide_scratch(NULL, n_q, head_dim).n_bytes +
           lk_attend_scratch_bytes(LEANK_KV_BF16, n_q, round_up(head_dim, LK_Q8_QUAD));
  const size_t vectors = round_up(n_q * padded * 4, 64) + 2 * round_up(n_q * head_dim * 2, 64) +
                         LK_PAGE_TOKENS * padded * 2;
  const size_t tiles = lk_tmul_layout_of(n_q, head_dim).n_bytes;
  return vectors > tiles ? vectors : tiles;
}
