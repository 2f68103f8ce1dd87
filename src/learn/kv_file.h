/* Files of the cache folder: a context that was read (prefill.h), to be mapped. 4096 bytes of
 * header (magic, key, size, checksum), then its pages, then its numbers. */
#ifndef LK_LEARN_KV_FILE_H
#define LK_LEARN_KV_FILE_H

#include <leank/learn.h>

#include "backend/backend.h"
#include "model/model.h"

/* Makes the folder where it is missing (its parent is there) and checks that files can be made in
 * it, so that a long reading does not end in vain. NULL: nothing. LEANK_E_IO. */
leank_status lk_kv_folder_check(const char *folder, leank_error *err);
/* What a file holds, one behind the other. */
typedef struct lk_kv_content {
  const unsigned char *pages;
  size_t page_bytes; /* a multiple of 64 */
  const unsigned char *numbers;
  size_t number_bytes;
} lk_kv_content;

/* A number for all that decides what is in a file: model, cache type, kernels, tokens. */
uint64_t lk_kv_file_key(const leank_model *model, const lk_backend *backend, leank_kv_type kv_type,
                        const leank_context *context);
/* Maps the file of that key with contents of these sizes, for reading and for private changes:
 * where its pages are. NULL where there is none, or one that is not whole. */
unsigned char *lk_kv_file_map(const char *folder, uint64_t key, size_t page_bytes,
                              size_t number_bytes, void **mapping, size_t *mapping_bytes);
void lk_kv_file_unmap(void *mapping, size_t mapping_bytes);
/* LEANK_E_IO, LEANK_E_MEMORY. */
leank_status lk_kv_file_write(const char *folder, uint64_t key, const lk_kv_content *content,
                              leank_error *err);

#endif
