/* A Hugging Face folder: config.json beside one or many safetensors files. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/map.h"
#include "formats/json_text.h"
#include "formats/printable.h"
#include "model/model_loader.h"

enum { MAX_INDEX_BYTES = 64 << 20, MAX_SHARDS = 4096, MAX_FILE_NAME = 255 };

static const char single_name[] = "model.safetensors";
static const char index_name[] = "model.safetensors.index.json";

/* Names of weight files, each once, sorted. */
typedef struct file_names {
  char **names; /* [n], room for MAX_SHARDS */
  size_t n;
} file_names;

static void free_names(file_names *list) {
  for (size_t i = 0; i < list->n; i++) lk_free(list->names[i]);
  lk_free(list->names);
  *list = (file_names){0};
}

static char *join(const char *folder, const char *name) {
  size_t n = strlen(folder) + strlen(name) + 2;
  char *path = lk_alloc(LK_MEM_OTHER, n, 1);
  if (path) snprintf(path, n, "%s/%s", folder, name);
  return path;
}

static leank_status exists(const char *folder, const char *name, bool *out, leank_error *err) {
  char *path = join(folder, name);
  if (!path) return lk_fail(err, LEANK_E_MEMORY, -1, "%s: out of memory", folder);
  *out = access(path, F_OK) == 0;
  lk_free(path);
  return LEANK_OK;
}

static size_t position_of(const file_names *list, const char *name) {
  size_t i = 0;
  while (i < list->n && strcmp(list->names[i], name) != 0) i++;
  return i;
}

static leank_status add_name(file_names *list, const char *name, const char *path,
                             leank_error *err) {
  leank_status status = LEANK_OK;
  if (position_of(list, name) < list->n) return LEANK_OK;
  LK_FAIL_IF(list->n == MAX_SHARDS, err, LEANK_E_FORMAT, -1, "%s: more than %d weight files", path,
             MAX_SHARDS);
  if (!list->names) list->names = lk_alloc(LK_MEM_OTHER, MAX_SHARDS, sizeof *list->names);
  LK_FAIL_IF(!list->names, err, LEANK_E_MEMORY, -1, "%s: out of memory", path);
  list->names[list->n] = lk_strdup(name);
  LK_FAIL_IF(!list->names[list->n], err, LEANK_E_MEMORY, -1, "%s: out of memory", path);
  list->n++;
cleanup:
  return status;
}

/* A string for a message. */
static lk_printable_text show(const char *text) {
  return text ? lk_printable(text, strlen(text)) : lk_printable("(none)", 6);
}

/* A plain file of this folder: an index must not lead anywhere else. */
static bool harmless_name(const char *name) {
  const char *suffix = ".safetensors";
  size_t n = strlen(name), m = strlen(suffix);
  return n > m && n <= MAX_FILE_NAME && !strchr(name, '/') && !strchr(name, '\\') &&
         !strstr(name, "..") && strcmp(name + n - m, suffix) == 0;
}

static leank_status names_of_map(const json_t *map, const char *path, file_names *list,
                                 leank_error *err) {
  leank_status status = LEANK_OK;
  const char *key;
  json_t *value;
  LK_FAIL_IF(json_object_size(map) == 0, err, LEANK_E_FORMAT, -1, "%s: weight_map is missing",
             path);
  json_object_foreach((json_t *)map, key, value) {
    const char *name = json_string_value(value);
    LK_FAIL_IF(!name || !harmless_name(name), err, LEANK_E_FORMAT, -1,
               "%s: weight_map leads %s to %s, which is no safetensors file of this folder", path,
               show(key).text, show(name).text);
    LK_TRY(add_name(list, name, path, err));
  }
cleanup:
  return status;
}

static leank_status read_index(const char *path, json_t **out, leank_error *err) {
  leank_status status = LEANK_OK;
  char *text = NULL;
  size_t n_bytes = 0;
  LK_TRY(lk_file_read(path, MAX_INDEX_BYTES, &text, &n_bytes, err));
  LK_TRY(lk_json_parse_object(text, n_bytes, false, &(lk_json_place){.name = path}, out, err));
cleanup:
  lk_free(text);
  return status;
}

/* Every tensor must be in the file the index names. */
static leank_status check_map(const json_t *map, const char *path, const file_names *list,
                              struct lk_model_files *files, leank_error *err) {
  leank_status status = LEANK_OK;
  const char *key;
  json_t *value;
  json_object_foreach((json_t *)map, key, value) {
    const lk_model_entry *e = lk_model_files_find(files, key);
    const char *name = json_string_value(value);
    LK_FAIL_IF(!e || e->file != position_of(list, name), err, LEANK_E_FORMAT, -1,
               "%s: tensor %s is not in %s", path, show(key).text, show(name).text);
  }
cleanup:
  return status;
}

static leank_status open_shards(const char *folder, const file_names *list,
                                struct lk_model_files *files, leank_error *err) {
  leank_status status = LEANK_OK;
  char *path = NULL;
  files->shards = lk_alloc(LK_MEM_OTHER, list->n, sizeof *files->shards);
  LK_FAIL_IF(!files->shards, err, LEANK_E_MEMORY, -1, "%s: out of memory", folder);
  for (size_t i = 0; i < list->n; i++) {
    lk_free(path);
    path = join(folder, list->names[i]);
    LK_FAIL_IF(!path, err, LEANK_E_MEMORY, -1, "%s: out of memory", folder);
    LK_TRY(lk_safetensors_open(path, &files->shards[i], err));
    files->n_shards = i + 1;
  }
  LK_TRY(lk_model_files_index(files, folder, err));
cleanup:
  lk_free(path);
  return status;
}

static leank_status open_indexed(const char *folder, struct lk_model_files *files,
                                 leank_error *err) {
  leank_status status = LEANK_OK;
  file_names list = {0};
  json_t *index = NULL;
  char *path = join(folder, index_name);
  LK_FAIL_IF(!path, err, LEANK_E_MEMORY, -1, "%s: out of memory", folder);
  LK_TRY(read_index(path, &index, err));
  const json_t *map = json_object_get(index, "weight_map");
  LK_TRY(names_of_map(map, path, &list, err));
  LK_TRY(open_shards(folder, &list, files, err));
  LK_TRY(check_map(map, path, &list, files, err));
cleanup:
  json_decref(index);
  free_names(&list);
  lk_free(path);
  return status;
}

static int by_text(const void *a, const void *b) {
  return strcmp(*(char *const *)a, *(char *const *)b);
}

/* model-*.safetensors, for folders whose index was lost. */
static leank_status list_shards(const char *folder, file_names *list, leank_error *err) {
  leank_status status = LEANK_OK;
  DIR *dir = opendir(folder);
  LK_FAIL_IF(!dir, err, LEANK_E_IO, -1, "%s: %s", folder, strerror(errno));
  for (struct dirent *d; (d = readdir(dir)) != NULL;)
    if (strncmp(d->d_name, "model-", 6) == 0 && harmless_name(d->d_name))
      LK_TRY(add_name(list, d->d_name, folder, err));
  if (list->n > 0) qsort(list->names, list->n, sizeof *list->names, by_text);
cleanup:
  if (dir) closedir(dir);
  return status;
}

/* One file, or shards by their names. */
static leank_status open_listed(const char *folder, bool single, struct lk_model_files *files,
                                bool *found, leank_error *err) {
  leank_status status = LEANK_OK;
  file_names list = {0};
  if (single)
    LK_TRY(add_name(&list, single_name, folder, err));
  else
    LK_TRY(list_shards(folder, &list, err));
  *found = list.n > 0;
  if (*found) LK_TRY(open_shards(folder, &list, files, err));
cleanup:
  free_names(&list);
  return status;
}

leank_status lk_model_folder_open(const char *folder, struct lk_model_files *files,
                                  leank_model_info *info, bool *has_weights, leank_error *err) {
  leank_status status = LEANK_OK;
  bool single = false, indexed = false;
  char *config = join(folder, "config.json");
  LK_FAIL_IF(!config, err, LEANK_E_MEMORY, -1, "%s: out of memory", folder);
  LK_TRY(lk_model_config_read(config, info, err));
  *has_weights = true;
  LK_TRY(exists(folder, single_name, &single, err));
  LK_TRY(exists(folder, index_name, &indexed, err));
  if (!single && indexed)
    LK_TRY(open_indexed(folder, files, err));
  else
    LK_TRY(open_listed(folder, single, files, has_weights, err));
cleanup:
  lk_free(config);
  return status;
}
