/* GGUF files (ggml project, docs/gguf.md, versions 2 and 3, little endian). Untrusted input. */
#ifndef LK_FORMATS_GGUF_H
#define LK_FORMATS_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/error.h"

typedef struct lk_gguf lk_gguf;

/* Maps the file and checks everything it says about itself: counts, lengths, types, names twice,
 * tensor sizes and offsets against the file. LEANK_E_IO, _FORMAT (with offset), _UNSUPPORTED
 * (version, tensor type by name), _MEMORY. */
leank_status lk_gguf_open(const char *path, lk_gguf **out, leank_error *err);
/* The same over bytes of the caller, which must outlive it and be aligned as the tensors are meant
 * to be (data lie at multiples of general.alignment from the first byte). name: for messages. */
leank_status lk_gguf_open_memory(const void *bytes, size_t n_bytes, const char *name, lk_gguf **out,
                                 leank_error *err);
void lk_gguf_close(lk_gguf **gguf);
const char *lk_gguf_name(const lk_gguf *gguf);

/* Metadata. Each returns false, leaving *out, where the key is absent or of another kind. Any
 * integer type serves for u64 (negative: false); any number for f64. Strings are NUL-terminated
 * copies owned by the gguf (they may hold NUL bytes: n_bytes tells). */
bool lk_gguf_has(const lk_gguf *gguf, const char *key);
bool lk_gguf_u64(const lk_gguf *gguf, const char *key, uint64_t *out);
bool lk_gguf_f64(const lk_gguf *gguf, const char *key, double *out);
bool lk_gguf_bool(const lk_gguf *gguf, const char *key, bool *out);
bool lk_gguf_str(const lk_gguf *gguf, const char *key, const char **out, size_t *n_bytes);
/* Arrays: of strings, and of integers. The count is of elements. Every access is O(1) in the
 * array. array_str points into the file: the bytes are not NUL-terminated. */
bool lk_gguf_array_count(const lk_gguf *gguf, const char *key, size_t *n);
bool lk_gguf_array_str(const lk_gguf *gguf, const char *key, size_t i, const char **out,
                       size_t *n_bytes);
bool lk_gguf_array_i64(const lk_gguf *gguf, const char *key, size_t i, int64_t *out);

/* Tensors, in file order. GGUF's ne[0] is n_cols, the product of the others n_rows. */
size_t lk_gguf_n_tensors(const lk_gguf *gguf);
const char *lk_gguf_tensor_name(const lk_gguf *gguf, size_t i);
lk_tensor lk_gguf_tensor_at(const lk_gguf *gguf, size_t i);
/* data NULL where there is none of that name. */
lk_tensor lk_gguf_tensor(const lk_gguf *gguf, const char *name);

#endif
