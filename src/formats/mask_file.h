/* Mask files: safetensors with the metadata of docs/mask-format.md. */
#ifndef LK_FORMATS_MASK_FILE_H
#define LK_FORMATS_MASK_FILE_H

#include <leank/mask.h>

#include "base/error.h"

/* What a file holds, in the file's own channel order (info.order). kept and alpha: lk_free. */
typedef struct lk_mask_content {
  leank_mask_info info;
  uint8_t *kept; /* [L][Hk][D] */
  float *alpha;  /* [L][Hk][D] or NULL */
} lk_mask_content;

/* From bytes: safetensors or .pth, by content. On failure *out is untouched. */
leank_status lk_mask_file_read(const void *bytes, size_t n_bytes, const char *name,
                               lk_mask_content *out, leank_error *err);
/* Writes atomically, as the content says it is ordered. LEANK_E_ARGUMENT, _IO, _MEMORY. */
leank_status lk_mask_file_save(const lk_mask_content *content, const char *path, leank_error *err);
/* Writes the selection alone as lk_pth_save does; the content must be in half order. */
leank_status lk_mask_file_save_pth(const lk_mask_content *content, const char *path,
                                   leank_error *err);
void lk_mask_content_free(lk_mask_content *content);

#endif
