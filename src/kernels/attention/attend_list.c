/* The variants of op "attend", their selection and their scratch. */
#include "cpu/cpu_features.h"
#include "kernels/attention/attend_kernels.h"
#include "kernels/page/page.h"

const lk_attend_variant lk_attend_variants[] = {
    {"attend_bf16_c", LEANK_KV_BF16, LEANK_CPU_C, lk_attend_bf16_c, lk_attend_bf16_c},
    {"attend_f32_c", LEANK_KV_F32, LEANK_CPU_C, lk_attend_f32_c, lk_attend_f32_c},
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

/* One page widened to fp32, K and V, and the rows of q in both kinds. */
size_t lk_attend_scratch_bytes(size_t n_q, size_t head_dim) {
  const size_t padded = round_up(head_dim, 32);
  return (2 * LK_PAGE_TOKENS + 2 * n_q) * padded * sizeof(float);
}
