/* Op "dequant": stored weights to fp32 or bf16. */
#ifndef LK_KERNELS_DEQUANT_H
#define LK_KERNELS_DEQUANT_H

#include <stdint.h>

#include <leank/session.h>

#include "base/dtype.h"

/* n elements (a multiple of the type's block) from src to dst. The fp32 value of an element is the
 * one GGUF defines, the same bits in every variant; bf16 is that value rounded to nearest even. */
typedef void (*lk_to_f32_fn)(const void *src, size_t n, float *dst);
typedef void (*lk_to_bf16_fn)(const void *src, size_t n, uint16_t *dst);

typedef struct lk_dequant_variant {
  const char *name; /* e.g. "dequant_q4_k_avx512" */
  lk_dtype type;
  leank_cpu_level level;
  lk_to_f32_fn to_f32;
  lk_to_bf16_fn to_bf16;
} lk_dequant_variant;

/* All variants, ascending level within a type, ended by name NULL. */
extern const lk_dequant_variant lk_dequant_variants[];
/* The best one of at most `level`. Never NULL. */
const lk_dequant_variant *lk_dequant_select(lk_dtype type, leank_cpu_level level);

#endif
