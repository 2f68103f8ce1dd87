/* Opening and closing: which kind of file it is, and the order in which it is read. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "model/model_loader.h"
#include "text/tokenizer.h"

void leank_model_options_default(leank_model_options *options) {
  *options = (leank_model_options){.struct_size = sizeof *options};
}

static bool ends_with(const char *s, const char *suffix) {
  size_t n = strlen(s), m = strlen(suffix);
  return n >= m && strcmp(s + n - m, suffix) == 0;
}

static leank_status path_kind(const char *path, bool *is_folder, leank_error *err) {
  leank_status status = LEANK_OK;
  struct stat st;
  LK_FAIL_IF(stat(path, &st) != 0, err, LEANK_E_IO, -1, "%s: %s", path, strerror(errno));
  *is_folder = S_ISDIR(st.st_mode);
  LK_FAIL_IF(!*is_folder && ends_with(path, ".safetensors"), err, LEANK_E_UNSUPPORTED, -1,
             "%s: a safetensors file alone does not describe a model: open its folder", path);
cleanup:
  return status;
}

static leank_status bind_frequencies(const char *path, const float *factors, leank_model *m,
                                     leank_error *err) {
  leank_status status = LEANK_OK;
  m->inv_freq = lk_alloc(LK_MEM_OTHER, m->info.head_dim / 2, sizeof *m->inv_freq);
  LK_FAIL_IF(!m->inv_freq, err, LEANK_E_MEMORY, -1, "%s: out of memory", path);
  lk_rope_frequencies(&m->info, factors, m->inv_freq, &m->rope_mscale);
cleanup:
  return status;
}

/* Everything but the tokenizer. *has_weights false: only the description. */
static leank_status load(const char *path, bool is_folder, const leank_model_options *options,
                         leank_model *m, bool *has_weights, leank_error *err) {
  leank_status status = LEANK_OK;
  float *factors = NULL;
  *has_weights = true;
  m->files = lk_alloc(LK_MEM_OTHER, 1, sizeof *m->files);
  LK_FAIL_IF(!m->files, err, LEANK_E_MEMORY, -1, "%s: out of memory", path);
  if (is_folder)
    LK_TRY(lk_model_folder_open(path, m->files, &m->info, has_weights, err));
  else
    LK_TRY(lk_model_gguf_open(path, m->files, &m->info, &factors, err));
  if (!*has_weights) goto cleanup;
  LK_TRY(lk_model_bind(path, m->files, &m->info, &m->weights, err));
  LK_TRY(bind_frequencies(path, factors, m, err));
  lk_model_fingerprint(m->files, &m->info, options);
cleanup:
  lk_free(factors);
  return status;
}

/* A folder without tokenizer.json, or a GGUF without tokens, is a model without a tokenizer. */
static leank_status load_tokenizer(const char *path, leank_model *m, leank_error *err) {
  if (m->files->gguf) {
    if (!lk_gguf_has(m->files->gguf, "tokenizer.ggml.model")) return LEANK_OK;
    return lk_tokenizer_from_gguf(m->files->gguf, &m->tokenizer, err);
  }
  const char *name = "/tokenizer.json";
  size_t n = strlen(path);
  char *file = lk_alloc(LK_MEM_OTHER, n + strlen(name) + 1, 1);
  if (!file) return lk_fail(err, LEANK_E_MEMORY, -1, "%s: out of memory", path);
  memcpy(file, path, n);
  memcpy(file + n, name, strlen(name));
  bool present = access(file, F_OK) == 0;
  lk_free(file);
  return present ? lk_tokenizer_from_folder(path, &m->tokenizer, err) : LEANK_OK;
}

static leank_status open_into(const char *path, const leank_model_options *options, leank_model *m,
                              leank_error *err) {
  leank_status status = LEANK_OK;
  bool is_folder, has_weights;
  LK_TRY(path_kind(path, &is_folder, err));
  LK_FAIL_IF(!is_folder && ends_with(path, ".json"), err, LEANK_E_UNSUPPORTED, -1,
             "%s: describes a model without its weights: open its folder", path);
  LK_TRY(load(path, is_folder, options, m, &has_weights, err));
  LK_FAIL_IF(!has_weights, err, LEANK_E_IO, -1, "%s: holds no model.safetensors", path);
  LK_TRY(load_tokenizer(path, m, err));
  LK_TRY(lk_model_to_memory(path, options ? options->weights : LEANK_WEIGHTS_AUTO, m, err));
cleanup:
  return status;
}

leank_status leank_model_open(const char *path, const leank_model_options *options,
                              leank_model **out, leank_error *err) {
  leank_status status = LEANK_OK;
  leank_model *m = NULL;
  LK_FAIL_IF(!path || !out, err, LEANK_E_ARGUMENT, -1, "leank_model_open: a null pointer");
  LK_FAIL_IF(options && options->struct_size != sizeof *options, err, LEANK_E_ARGUMENT, -1,
             "model options of %zu bytes: fill them with leank_model_options_default",
             options->struct_size);
  LK_FAIL_IF(options &&
                 (options->weights < LEANK_WEIGHTS_AUTO || options->weights > LEANK_WEIGHTS_MEMORY),
             err, LEANK_E_ARGUMENT, -1, "leank_model_open: unknown place of weights %d",
             (int)options->weights);
  m = lk_alloc(LK_MEM_OTHER, 1, sizeof *m);
  LK_FAIL_IF(!m, err, LEANK_E_MEMORY, -1, "%s: out of memory", path);
  LK_TRY(open_into(path, options, m, err));
  *out = m;
  m = NULL;
cleanup:
  leank_model_close(&m);
  return status;
}

leank_status leank_model_read_info(const char *path, leank_model_info *out, leank_error *err) {
  leank_status status = LEANK_OK;
  leank_model *m = NULL;
  bool is_folder, has_weights;
  LK_FAIL_IF(!path || !out, err, LEANK_E_ARGUMENT, -1, "leank_model_read_info: a null pointer");
  m = lk_alloc(LK_MEM_OTHER, 1, sizeof *m);
  LK_FAIL_IF(!m, err, LEANK_E_MEMORY, -1, "%s: out of memory", path);
  LK_TRY(path_kind(path, &is_folder, err));
  if (!is_folder && ends_with(path, ".json"))
    LK_TRY(lk_model_config_read(path, &m->info, err));
  else
    LK_TRY(load(path, is_folder, NULL, m, &has_weights, err));
  *out = m->info;
cleanup:
  leank_model_close(&m);
  return status;
}

void leank_model_close(leank_model **model) {
  leank_model *m = model ? *model : NULL;
  if (!m) return;
  leank_tokenizer_close(&m->tokenizer);
  lk_model_files_close(&m->files);
  lk_free(m->weights.layers);
  lk_free(m->inv_freq);
  lk_free(m);
  *model = NULL;
}

const leank_model_info *leank_model_get_info(const leank_model *model) { return &model->info; }

const leank_tokenizer *leank_model_get_tokenizer(const leank_model *model) {
  return model->tokenizer;
}
