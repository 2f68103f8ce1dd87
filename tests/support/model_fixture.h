/* Files for tests of the loader: read, changed, written, opened. Every failure fails the test. */
#ifndef LK_SUPPORT_MODEL_FIXTURE_H
#define LK_SUPPORT_MODEL_FIXTURE_H

#include <stddef.h>

#include <leank/leank.h>

#include "formats/safetensors.h"

#define TINY LEANK_TEST_DATA "/tiny/"
#define CONFIGS LEANK_TEST_DATA "/configs/"
#define TMP LEANK_TEST_TMP "/model_load"

/* Makes TMP; a group setup of cmocka. */
int lk_make_tmp(void **state);

/* ---- files ---- */

typedef struct lk_blob {
  unsigned char *bytes; /* free */
  size_t n;
} lk_blob;

lk_blob lk_blob_read(const char *path);
void lk_blob_write(const char *path, const void *bytes, size_t n);
void lk_text_write(const char *path, const char *text);
void lk_file_copy(const char *from, const char *to);
/* Where the n bytes stand in the blob, the first time. */
size_t lk_blob_find(const lk_blob *b, const char *needle, size_t n);

/* ---- opening ---- */

leank_model *lk_model_must_open(const char *path);
leank_model_info lk_model_must_read(const char *path);
/* Opening fails with this status, a message that holds `part`, and an untouched result. */
void lk_model_refused(const char *path, leank_status want, const char *part);
/* So does reading the description. */
void lk_info_refused(const char *path, leank_status want, const char *part);

/* ---- folders ---- */

/* An empty folder, but for this config (a path, or NULL). */
void lk_folder_make(const char *folder, const char *config);
/* The tensors of the three shards of folder `from` in one file, with `extra` put behind. */
void lk_folder_write_single(const char *path, const char *from, const lk_st_tensor *extra,
                            size_t n_extra);
/* A sound llama config with one key given another value (NULL: left out) or added. */
void lk_config_write(const char *path, const char *key, const char *value);

#endif
