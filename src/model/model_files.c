/* The tensors of a model's files in one list by name, whatever the format. */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "formats/printable.h"
#include "model/model_loader.h"

void lk_model_files_close(struct lk_model_files **files) {
  struct lk_model_files *f = *files;
  if (!f) return;
  for (size_t i = 0; i < f->n_copies; i++) lk_free(f->copies[i]);
  for (size_t i = 0; i < f->n_shards; i++) lk_safetensors_close(&f->shards[i]);
  lk_gguf_close(&f->gguf);
  lk_free(f->memory);
  lk_free(f->copies);
  lk_free(f->shards);
  lk_free(f->bound);
  lk_free(f->entries);
  lk_free(f);
  *files = NULL;
}

static const char *st_type_name(lk_st_type type) {
  static const char *const names[] = {
      [LK_ST_F64] = "F64", [LK_ST_F32] = "F32",  [LK_ST_F16] = "F16", [LK_ST_BF16] = "BF16",
      [LK_ST_I64] = "I64", [LK_ST_I32] = "I32",  [LK_ST_I16] = "I16", [LK_ST_I8] = "I8",
      [LK_ST_U8] = "U8",   [LK_ST_BOOL] = "BOOL"};
  return type < LK_ST_OTHER ? names[type] : "another type";
}

static lk_model_entry entry_of_safetensors(const lk_st_tensor *t, size_t shard) {
  lk_model_entry e = {.name = t->name, .n_bytes = t->n_bytes, .file = shard};
  e.type_name = st_type_name(t->type);
  bool weight = t->type == LK_ST_F32 || t->type == LK_ST_F16 || t->type == LK_ST_BF16;
  e.readable = weight && (t->n_dims == 1 || t->n_dims == 2);
  if (!e.readable) return e;
  e.tensor.data = t->data;
  e.tensor.type = t->type == LK_ST_F32 ? LK_F32 : t->type == LK_ST_F16 ? LK_F16 : LK_BF16;
  e.tensor.n_rows = t->n_dims == 2 ? t->shape[0] : 1;
  e.tensor.n_cols = t->shape[t->n_dims - 1];
  return e;
}

static lk_model_entry entry_of_gguf(const lk_gguf *gguf, size_t i) {
  lk_tensor t = lk_gguf_tensor_at(gguf, i);
  return (lk_model_entry){.name = lk_gguf_tensor_name(gguf, i),
                          .type_name = lk_dtype_name(t.type),
                          .readable = true,
                          .tensor = t,
                          .n_bytes = t.n_rows * lk_tensor_row_bytes(&t)};
}

static int by_name(const void *a, const void *b) {
  return strcmp(((const lk_model_entry *)a)->name, ((const lk_model_entry *)b)->name);
}

static size_t count_tensors(const struct lk_model_files *f) {
  size_t n = f->gguf ? lk_gguf_n_tensors(f->gguf) : 0;
  for (size_t s = 0; s < f->n_shards; s++) n += lk_safetensors_n_tensors(f->shards[s]);
  return n;
}

static void list_tensors(struct lk_model_files *f) {
  size_t n = 0;
  for (size_t i = 0; f->gguf && i < lk_gguf_n_tensors(f->gguf); i++)
    f->entries[n++] = entry_of_gguf(f->gguf, i);
  for (size_t s = 0; s < f->n_shards; s++)
    for (size_t i = 0; i < lk_safetensors_n_tensors(f->shards[s]); i++)
      f->entries[n++] = entry_of_safetensors(lk_safetensors_at(f->shards[s], i), s);
  f->n_entries = n;
}

leank_status lk_model_files_index(struct lk_model_files *files, const char *path,
                                  leank_error *err) {
  leank_status status = LEANK_OK;
  const size_t n = count_tensors(files);
  files->entries = lk_alloc(LK_MEM_OTHER, n, sizeof *files->entries);
  files->bound = lk_alloc(LK_MEM_OTHER, n, sizeof *files->bound);
  files->copies = lk_alloc(LK_MEM_OTHER, n, sizeof *files->copies);
  LK_FAIL_IF(!files->entries || !files->bound || !files->copies, err, LEANK_E_MEMORY, -1,
             "%s: out of memory for the list of %zu tensors", path, n);
  list_tensors(files);
  qsort(files->entries, n, sizeof *files->entries, by_name);
  for (size_t i = 1; i < n; i++)
    LK_FAIL_IF(by_name(&files->entries[i - 1], &files->entries[i]) == 0, err, LEANK_E_FORMAT, -1,
               "%s: tensor %s occurs twice", path,
               lk_printable(files->entries[i].name, strlen(files->entries[i].name)).text);
cleanup:
  return status;
}

lk_model_entry *lk_model_files_find(struct lk_model_files *files, const char *name) {
  const lk_model_entry key = {.name = name};
  return bsearch(&key, files->entries, files->n_entries, sizeof *files->entries, by_name);
}
