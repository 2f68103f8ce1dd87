#include "formats/safetensors.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/alloc.h"
#include "base/map.h"
#include "base/utf8.h"
#include "formats/little_endian.h"
#include "formats/printable.h"

/* The header limits are the reference implementation's 100 MB and, against a header of brackets
 * and commas that would grow fiftyfold in memory, a number of JSON elements. */
enum { MAX_HEADER_BYTES = 100000000, MAX_ELEMENTS = 1 << 22, MAX_DEPTH = 8, LENGTH_BYTES = 8 };
static const char metadata_key[] = "__metadata__";

typedef struct indexed {
  lk_st_tensor view; /* first: the public face of an entry */
  size_t begin, end; /* in the data section */
} indexed;

struct lk_safetensors {
  lk_map map; /* data NULL where the bytes are the caller's */
  const unsigned char *data;
  size_t n_bytes, data_at;
  char *name;
  json_t *header;    /* owns names and metadata */
  indexed *tensors;  /* in order of their data */
  indexed **by_name; /* sorted */
  size_t n_tensors;
};

static const struct {
  const char *name;
  lk_st_type type;
  size_t bytes;
} types[] = {
    {"F64", LK_ST_F64, 8},       {"F32", LK_ST_F32, 4},       {"F16", LK_ST_F16, 2},
    {"BF16", LK_ST_BF16, 2},     {"I64", LK_ST_I64, 8},       {"I32", LK_ST_I32, 4},
    {"I16", LK_ST_I16, 2},       {"I8", LK_ST_I8, 1},         {"U8", LK_ST_U8, 1},
    {"BOOL", LK_ST_BOOL, 1},     {"U64", LK_ST_OTHER, 8},     {"U32", LK_ST_OTHER, 4},
    {"U16", LK_ST_OTHER, 2},     {"F8_E4M3", LK_ST_OTHER, 1}, {"F8_E5M2", LK_ST_OTHER, 1},
    {"F8_E8M0", LK_ST_OTHER, 1}, {"C64", LK_ST_OTHER, 8},
};
enum { N_TYPES = sizeof types / sizeof *types };

static lk_printable_text quoted(const char *text) { return lk_printable(text, strlen(text)); }

/* ---- header ---- */

/* Bounds what the JSON parser will build: elements and depth, strings skipped. */
static leank_status check_extent(const lk_safetensors *st, const char *text, size_t n,
                                 leank_error *err) {
  size_t n_elements = 0, depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < n; i++) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') i++;
      if (c == '"') in_string = false;
      continue;
    }
    if (c == '"') in_string = true;
    if (c == '{' || c == '[') depth++;
    if ((c == '}' || c == ']') && depth > 0) depth--;
    if (c == ',' || c == '{' || c == '[') n_elements++;
    if (depth > MAX_DEPTH || n_elements > MAX_ELEMENTS)
      return lk_fail(err, LEANK_E_FORMAT, (int64_t)(LENGTH_BYTES + i),
                     "%s: the header is nested too deeply or has too many elements", st->name);
  }
  return LEANK_OK;
}

static leank_status read_header(lk_safetensors *st, leank_error *err) {
  leank_status status = LEANK_OK;
  json_error_t why;
  LK_FAIL_IF(st->n_bytes < LENGTH_BYTES, err, LEANK_E_FORMAT, 0,
             "%s: %zu bytes are no safetensors file", st->name, st->n_bytes);
  const uint64_t n = lk_load_le64(st->data);
  LK_FAIL_IF(n > MAX_HEADER_BYTES || n > st->n_bytes - LENGTH_BYTES, err, LEANK_E_FORMAT, 0,
             "%s: is no safetensors file: a header of %llu bytes does not fit it", st->name,
             (unsigned long long)n);
  const char *text = (const char *)st->data + LENGTH_BYTES;
  LK_FAIL_IF(n == 0 || text[0] != '{', err, LEANK_E_FORMAT, LENGTH_BYTES,
             "%s: the header is no JSON object", st->name);
  LK_TRY(check_extent(st, text, (size_t)n, err));
  st->header = json_loadb(text, (size_t)n, JSON_REJECT_DUPLICATES, &why);
  LK_FAIL_IF(!st->header && json_error_code(&why) == json_error_out_of_memory, err, LEANK_E_MEMORY,
             -1, "%s: out of memory", st->name);
  LK_FAIL_IF(!st->header, err, LEANK_E_FORMAT, LENGTH_BYTES + why.position, "%s: bad header: %s",
             st->name, quoted(why.text).text);
  st->data_at = LENGTH_BYTES + (size_t)n;
cleanup:
  return status;
}

static leank_status check_metadata(const lk_safetensors *st, leank_error *err) {
  leank_status status = LEANK_OK;
  json_t *metadata = json_object_get(st->header, metadata_key), *value;
  const char *key;
  if (!metadata) return LEANK_OK;
  LK_FAIL_IF(!json_is_object(metadata), err, LEANK_E_FORMAT, LENGTH_BYTES, "%s: %s is no object",
             st->name, metadata_key);
  json_object_foreach(metadata, key, value)
      LK_FAIL_IF(!json_is_string(value), err, LEANK_E_FORMAT, LENGTH_BYTES,
                 "%s: metadata '%s' is no string", st->name, quoted(key).text);
cleanup:
  return status;
}

/* ---- tensors ---- */

static bool get_size(const json_t *value, size_t *out) {
  if (!json_is_integer(value) || json_integer_value(value) < 0) return false;
  *out = (size_t)json_integer_value(value);
  return true;
}

static leank_status read_type(const lk_safetensors *st, indexed *t, const json_t *entry,
                              size_t *element_bytes, leank_error *err) {
  const char *type = json_string_value(json_object_get(entry, "dtype"));
  if (!type)
    return lk_fail(err, LEANK_E_FORMAT, LENGTH_BYTES, "%s: tensor '%s' has no dtype", st->name,
                   quoted(t->view.name).text);
  for (size_t i = 0; i < N_TYPES; i++) {
    if (strcmp(types[i].name, type) != 0) continue;
    t->view.type = types[i].type;
    *element_bytes = types[i].bytes;
    return LEANK_OK;
  }
  return lk_fail(err, LEANK_E_UNSUPPORTED, LENGTH_BYTES,
                 "%s: tensor '%s' has type '%s', which is not supported", st->name,
                 quoted(t->view.name).text, quoted(type).text);
}

/* Fills shape and n_bytes. */
static leank_status read_shape(const lk_safetensors *st, indexed *t, const json_t *entry,
                               size_t element_bytes, leank_error *err) {
  leank_status status = LEANK_OK;
  const json_t *shape = json_object_get(entry, "shape");
  LK_FAIL_IF(!json_is_array(shape), err, LEANK_E_FORMAT, LENGTH_BYTES,
             "%s: tensor '%s' has no shape", st->name, quoted(t->view.name).text);
  t->view.n_dims = json_array_size(shape);
  LK_FAIL_IF(t->view.n_dims > LK_ST_MAX_DIMS, err, LEANK_E_UNSUPPORTED, LENGTH_BYTES,
             "%s: tensor '%s' has %zu dimensions", st->name, quoted(t->view.name).text,
             t->view.n_dims);
  t->view.n_bytes = element_bytes;
  for (size_t i = 0; i < t->view.n_dims; i++)
    LK_FAIL_IF(!get_size(json_array_get(shape, i), &t->view.shape[i]) ||
                   !lk_mul(t->view.n_bytes, t->view.shape[i], &t->view.n_bytes),
               err, LEANK_E_FORMAT, LENGTH_BYTES, "%s: tensor '%s' has a bad shape", st->name,
               quoted(t->view.name).text);
cleanup:
  return status;
}

static leank_status read_offsets(const lk_safetensors *st, indexed *t, const json_t *entry,
                                 leank_error *err) {
  leank_status status = LEANK_OK;
  const json_t *offsets = json_object_get(entry, "data_offsets");
  LK_FAIL_IF(!json_is_array(offsets) || json_array_size(offsets) != 2 ||
                 !get_size(json_array_get(offsets, 0), &t->begin) ||
                 !get_size(json_array_get(offsets, 1), &t->end),
             err, LEANK_E_FORMAT, LENGTH_BYTES, "%s: tensor '%s' has no data_offsets", st->name,
             quoted(t->view.name).text);
  LK_FAIL_IF(t->begin > t->end || t->end > st->n_bytes - st->data_at, err, LEANK_E_FORMAT,
             LENGTH_BYTES, "%s: tensor '%s' (bytes %zu to %zu) reaches beyond the file", st->name,
             quoted(t->view.name).text, t->begin, t->end);
  LK_FAIL_IF(t->end - t->begin != t->view.n_bytes, err, LEANK_E_FORMAT, LENGTH_BYTES,
             "%s: tensor '%s' has %zu bytes, its shape needs %zu", st->name,
             quoted(t->view.name).text, t->end - t->begin, t->view.n_bytes);
  t->view.data = st->data + st->data_at + t->begin;
cleanup:
  return status;
}

static leank_status read_tensor(const lk_safetensors *st, indexed *t, const char *name,
                                const json_t *entry, leank_error *err) {
  leank_status status = LEANK_OK;
  size_t element_bytes = 0;
  t->view.name = name;
  LK_FAIL_IF(!json_is_object(entry), err, LEANK_E_FORMAT, LENGTH_BYTES,
             "%s: entry '%s' is no object", st->name, quoted(name).text);
  LK_TRY(read_type(st, t, entry, &element_bytes, err));
  LK_TRY(read_shape(st, t, entry, element_bytes, err));
  LK_TRY(read_offsets(st, t, entry, err));
cleanup:
  return status;
}

static int compare_places(const void *a, const void *b) {
  const indexed *x = a, *y = b;
  if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
  if (x->end != y->end) return x->end < y->end ? -1 : 1;
  return strcmp(x->view.name, y->view.name);
}

static int compare_names(const void *a, const void *b) {
  const indexed *x = *(indexed *const *)a, *y = *(indexed *const *)b;
  return strcmp(x->view.name, y->view.name);
}

/* The data must be covered without holes or overlaps, as the format demands. */
static leank_status check_coverage(const lk_safetensors *st, leank_error *err) {
  leank_status status = LEANK_OK;
  size_t at = 0;
  for (size_t i = 0; i < st->n_tensors; i++) {
    LK_FAIL_IF(st->tensors[i].begin != at, err, LEANK_E_FORMAT, st->data_at + at,
               "%s: tensor '%s' begins at %zu, where the one before ends at %zu", st->name,
               quoted(st->tensors[i].view.name).text, st->tensors[i].begin, at);
    at = st->tensors[i].end;
  }
  LK_FAIL_IF(at != st->n_bytes - st->data_at, err, LEANK_E_FORMAT, st->data_at + at,
             "%s: %zu bytes behind the last tensor", st->name, st->n_bytes - st->data_at - at);
cleanup:
  return status;
}

static leank_status read_tensors(lk_safetensors *st, leank_error *err) {
  leank_status status = LEANK_OK;
  const bool has_metadata = json_object_get(st->header, metadata_key) != NULL;
  const size_t n = json_object_size(st->header) - has_metadata;
  const char *name;
  json_t *entry;
  st->tensors = lk_alloc(LK_MEM_OTHER, n, sizeof *st->tensors);
  st->by_name = lk_alloc(LK_MEM_OTHER, n, sizeof *st->by_name);
  LK_FAIL_IF(!st->tensors || !st->by_name, err, LEANK_E_MEMORY, -1, "%s: out of memory", st->name);
  json_object_foreach(st->header, name, entry) {
    if (strcmp(name, metadata_key) == 0) continue;
    LK_TRY(read_tensor(st, &st->tensors[st->n_tensors], name, entry, err));
    st->n_tensors++;
  }
  qsort(st->tensors, n, sizeof *st->tensors, compare_places);
  for (size_t i = 0; i < n; i++) st->by_name[i] = &st->tensors[i];
  qsort(st->by_name, n, sizeof *st->by_name, compare_names);
  LK_TRY(check_coverage(st, err));
cleanup:
  return status;
}

/* ---- the file ---- */

/* Takes over *map (whose data may be NULL). */
static leank_status open_bytes(const unsigned char *bytes, size_t n_bytes, lk_map *map,
                               const char *name, lk_safetensors **out, leank_error *err) {
  leank_status status = LEANK_OK;
  lk_safetensors *st = lk_alloc(LK_MEM_OTHER, 1, sizeof *st);
  if (!st) {
    lk_map_close(map);
    return lk_fail(err, LEANK_E_MEMORY, -1, "%s: out of memory", name);
  }
  st->map = *map;
  st->data = bytes;
  st->n_bytes = n_bytes;
  st->name = lk_strdup(name);
  LK_FAIL_IF(!st->name, err, LEANK_E_MEMORY, -1, "%s: out of memory", name);
  LK_TRY(read_header(st, err));
  LK_TRY(check_metadata(st, err));
  LK_TRY(read_tensors(st, err));
  *out = st;
cleanup:
  if (status != LEANK_OK) lk_safetensors_close(&st);
  return status;
}

leank_status lk_safetensors_open(const char *path, lk_safetensors **out, leank_error *err) {
  lk_map map = {0};
  leank_status status = lk_map_open(path, &map, err);
  return status == LEANK_OK ? open_bytes(map.data, map.n_bytes, &map, path, out, err) : status;
}

leank_status lk_safetensors_open_memory(const void *bytes, size_t n_bytes, const char *name,
                                        lk_safetensors **out, leank_error *err) {
  lk_map none = {0};
  return open_bytes(bytes, n_bytes, &none, name, out, err);
}

void lk_safetensors_close(lk_safetensors **st) {
  if (!st || !*st) return;
  lk_safetensors *s = *st;
  json_decref(s->header);
  lk_free(s->tensors);
  lk_free(s->by_name);
  lk_free(s->name);
  lk_map_close(&s->map);
  lk_free(s);
  *st = NULL;
}

size_t lk_safetensors_n_tensors(const lk_safetensors *st) { return st->n_tensors; }

const lk_st_tensor *lk_safetensors_at(const lk_safetensors *st, size_t i) {
  return &st->tensors[i].view;
}

const lk_st_tensor *lk_safetensors_find(const lk_safetensors *st, const char *name) {
  const indexed key = {.view.name = name}, *key_ref = &key;
  if (st->n_tensors == 0) return NULL;
  indexed **found =
      bsearch(&key_ref, st->by_name, st->n_tensors, sizeof *st->by_name, compare_names);
  return found ? &(*found)->view : NULL;
}

const char *lk_safetensors_metadata(const lk_safetensors *st, const char *key) {
  return json_string_value(json_object_get(json_object_get(st->header, metadata_key), key));
}

/* ---- writing ---- */

static size_t type_index(lk_st_type type) {
  for (size_t i = 0; i < N_TYPES; i++)
    if (types[i].type == type && type != LK_ST_OTHER) return i;
  return N_TYPES;
}

static leank_status check_tensor(const lk_st_tensor *t, const char *path, leank_error *err) {
  const size_t type = type_index(t->type);
  size_t n = type < N_TYPES ? types[type].bytes : 0;
  bool good = type < N_TYPES && t->n_dims <= LK_ST_MAX_DIMS && strcmp(t->name, metadata_key) != 0;
  for (size_t i = 0; good && i < t->n_dims; i++) good = lk_mul(n, t->shape[i], &n);
  if (good && n == t->n_bytes) return LEANK_OK;
  return lk_fail(err, LEANK_E_ARGUMENT, -1, "%s: tensor '%s' cannot be written", path,
                 quoted(t->name).text);
}

/* So that what fails behind them is short of memory. */
static leank_status check_texts(const lk_st_tensor *tensors, size_t n_tensors,
                                const char *const (*metadata)[2], size_t n_metadata,
                                const char *path, leank_error *err) {
  leank_status status = LEANK_OK;
  bool good = true;
  size_t bad_at;
  for (size_t i = 0; i < n_tensors; i++)
    good = good && lk_utf8_valid(tensors[i].name, strlen(tensors[i].name), &bad_at);
  for (size_t i = 0; i < n_metadata; i++)
    for (size_t k = 0; k < 2; k++)
      good = good && lk_utf8_valid(metadata[i][k], strlen(metadata[i][k]), &bad_at);
  LK_FAIL_IF(!good, err, LEANK_E_ARGUMENT, -1, "%s: a text is no UTF-8", path);
  for (size_t i = 0; i < n_tensors; i++)
    for (size_t j = 0; j < i; j++) good = good && strcmp(tensors[i].name, tensors[j].name) != 0;
  for (size_t i = 0; i < n_metadata; i++)
    for (size_t j = 0; j < i; j++) good = good && strcmp(metadata[i][0], metadata[j][0]) != 0;
  LK_FAIL_IF(!good, err, LEANK_E_ARGUMENT, -1, "%s: a name is used twice", path);
cleanup:
  return status;
}

/* New, or NULL. */
static json_t *tensor_entry(const lk_st_tensor *t, size_t begin) {
  json_t *shape = json_array();
  bool good = shape != NULL;
  for (size_t i = 0; good && i < t->n_dims; i++)
    good = json_array_append_new(shape, json_integer((json_int_t)t->shape[i])) == 0;
  if (!good) {
    json_decref(shape);
    return NULL;
  }
  return json_pack("{s:s, s:o, s:[I, I]}", "dtype", types[type_index(t->type)].name, "shape", shape,
                   "data_offsets", (json_int_t)begin, (json_int_t)(begin + t->n_bytes));
}

/* New, or NULL: of checked texts. */
static json_t *build_header(const lk_st_tensor *const *order, size_t n_tensors,
                            const char *const (*metadata)[2], size_t n_metadata) {
  json_t *header = json_object(), *strings = json_object();
  bool good = header && strings;
  size_t at = 0;
  for (size_t i = 0; good && i < n_metadata; i++)
    good = json_object_set_new(strings, metadata[i][0], json_string(metadata[i][1])) == 0;
  if (good && n_metadata > 0) good = json_object_set(header, metadata_key, strings) == 0;
  for (size_t i = 0; good && i < n_tensors; i++) {
    good = json_object_set_new(header, order[i]->name, tensor_entry(order[i], at)) == 0;
    at += order[i]->n_bytes;
  }
  json_decref(strings);
  if (!good) json_decref(header);
  return good ? header : NULL;
}

/* Wide types first, as the reference implementation does, so that all data are aligned. */
static void order_by_width(const lk_st_tensor *tensors, size_t n, const lk_st_tensor **order) {
  size_t k = 0;
  for (size_t width = 8; width > 0; width /= 2)
    for (size_t i = 0; i < n; i++)
      if (types[type_index(tensors[i].type)].bytes == width) order[k++] = &tensors[i];
}

/* Length, header padded with spaces to a multiple of 8, data. */
static unsigned char *assemble(const json_t *header, const lk_st_tensor *const *order,
                               size_t n_tensors, size_t *n_out) {
  const size_t n_json = json_dumpb(header, NULL, 0, JSON_COMPACT);
  const size_t n_header = (n_json + 7) / 8 * 8;
  size_t n = LENGTH_BYTES + n_header;
  if (n_json == 0) return NULL;
  for (size_t i = 0; i < n_tensors; i++)
    if (!lk_add(n, order[i]->n_bytes, &n)) return NULL;
  unsigned char *bytes = lk_alloc(LK_MEM_OTHER, n, 1);
  if (!bytes) return NULL;
  lk_store_le64(bytes, n_header);
  memset(bytes + LENGTH_BYTES, ' ', n_header);
  if (json_dumpb(header, (char *)bytes + LENGTH_BYTES, n_json, JSON_COMPACT) != n_json) {
    lk_free(bytes);
    return NULL;
  }
  unsigned char *at = bytes + LENGTH_BYTES + n_header;
  for (size_t i = 0; i < n_tensors; i++) {
    if (order[i]->n_bytes > 0) memcpy(at, order[i]->data, order[i]->n_bytes);
    at += order[i]->n_bytes;
  }
  *n_out = n;
  return bytes;
}

leank_status lk_safetensors_save(const char *path, const lk_st_tensor *tensors, size_t n_tensors,
                                 const char *const (*metadata)[2], size_t n_metadata,
                                 leank_error *err) {
  leank_status status = LEANK_OK;
  json_t *header = NULL;
  unsigned char *bytes = NULL;
  size_t n_bytes;
  const lk_st_tensor **order = lk_alloc(LK_MEM_OTHER, n_tensors, sizeof *order);
  LK_FAIL_IF(!order, err, LEANK_E_MEMORY, -1, "%s: out of memory", path);
  for (size_t i = 0; i < n_tensors; i++) LK_TRY(check_tensor(&tensors[i], path, err));
  LK_TRY(check_texts(tensors, n_tensors, metadata, n_metadata, path, err));
  order_by_width(tensors, n_tensors, order);
  header = build_header(order, n_tensors, metadata, n_metadata);
  LK_FAIL_IF(!header, err, LEANK_E_MEMORY, -1, "%s: out of memory", path);
  bytes = assemble(header, order, n_tensors, &n_bytes);
  LK_FAIL_IF(!bytes, err, LEANK_E_MEMORY, -1, "%s: out of memory", path);
  LK_TRY(lk_file_write_atomic(path, bytes, n_bytes, err));
cleanup:
  lk_free(bytes);
  json_decref(header);
  lk_free(order);
  return status;
}
