/* PyTorch .pth: a zip with a pickle. Only the opcodes and names that one tensor (or a nested list
 * of tensors) needs are read; nothing is executed. Untrusted input. */
#ifndef LK_FORMATS_PTH_H
#define LK_FORMATS_PTH_H

#include <stddef.h>

#include "base/error.h"

typedef struct lk_pth_array {
  size_t n_layers, n_heads, head_dim; /* [L][Hk][D] */
  float *values;                      /* lk_free */
} lk_pth_array;

/* True when the bytes begin like a zip. */
int lk_pth_looks_like(const void *bytes, size_t n_bytes);
/* Reads the published masks' layout from memory. LEANK_E_FORMAT, _UNSUPPORTED (an opcode or global
 * that a tensor does not need, a compressed member), _MEMORY. */
leank_status lk_pth_read(const void *bytes, size_t n_bytes, const char *name, lk_pth_array *out,
                         leank_error *err);
/* Writes a file torch.load reads to the same structure, float32. Atomic. */
leank_status lk_pth_save(const char *path, const lk_pth_array *array, leank_error *err);

#endif
