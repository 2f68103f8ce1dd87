/* safetensors files (Hugging Face, safetensors/README.md). Untrusted input. */
#ifndef LK_FORMATS_SAFETENSORS_H
#define LK_FORMATS_SAFETENSORS_H

#include <stddef.h>

#include "base/error.h"

typedef enum lk_st_type {
  LK_ST_F64,
  LK_ST_F32,
  LK_ST_F16,
  LK_ST_BF16,
  LK_ST_I64,
  LK_ST_I32,
  LK_ST_I16,
  LK_ST_I8,
  LK_ST_U8,
  LK_ST_BOOL,
  LK_ST_OTHER
} lk_st_type;

enum { LK_ST_MAX_DIMS = 8 };

/* LK_ST_OTHER are unsigned, 8-bit float and complex types: known in size, not in meaning. n_dims 0
 * is a scalar. data may be unaligned for its type: the format does not promise alignment. */
typedef struct lk_st_tensor {
  const char *name;
  lk_st_type type;
  size_t n_dims;
  size_t shape[LK_ST_MAX_DIMS];
  const void *data;
  size_t n_bytes;
} lk_st_tensor;

typedef struct lk_safetensors lk_safetensors;

/* Maps and checks the file: header size, JSON, duplicate names, offsets without overlap and inside
 * the file, sizes that match type and shape. LEANK_E_IO, _FORMAT, _UNSUPPORTED, _MEMORY. */
leank_status lk_safetensors_open(const char *path, lk_safetensors **out, leank_error *err);
leank_status lk_safetensors_open_memory(const void *bytes, size_t n_bytes, const char *name,
                                        lk_safetensors **out, leank_error *err);
void lk_safetensors_close(lk_safetensors **st);

/* Tensors, in the order of their data. */
size_t lk_safetensors_n_tensors(const lk_safetensors *st);
const lk_st_tensor *lk_safetensors_at(const lk_safetensors *st, size_t i);
const lk_st_tensor *lk_safetensors_find(const lk_safetensors *st, const char *name); /* or NULL */
/* A string of __metadata__, or NULL. */
const char *lk_safetensors_metadata(const lk_safetensors *st, const char *key);

/* Writes a file atomically, wide types first, so that data are aligned. metadata: n_metadata pairs
 * key, value. LEANK_E_ARGUMENT (a name twice, text that is no UTF-8, LK_ST_OTHER, n_bytes other
 * than type and shape give), _IO, _MEMORY. */
leank_status lk_safetensors_save(const char *path, const lk_st_tensor *tensors, size_t n_tensors,
                                 const char *const (*metadata)[2], size_t n_metadata,
                                 leank_error *err);

#endif
