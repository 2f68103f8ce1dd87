#include "formats/gguf.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/map.h"
#include "formats/little_endian.h"
#include "formats/printable.h"

/* Far above what real files hold (some hundreds of either), low enough to bound the tables. */
enum { MAX_KEYS = 1 << 16, MAX_TENSORS = 1 << 16, MAX_KEY_BYTES = 65535, MAX_NAME_BYTES = 64 };
enum { MAX_DIMS = 4, DEFAULT_ALIGNMENT = 32, MIN_ALIGNMENT = 8, MAX_ALIGNMENT = 1 << 20 };
/* Shortest entries: key length, key, type, value; name length, name, rank, one size, type, offset.
 */
enum { MIN_KEY_ENTRY = 8 + 1 + 4 + 1, MIN_TENSOR_ENTRY = 8 + 1 + 4 + 8 + 4 + 8 };

typedef enum value_type {
  V_U8 = 0,
  V_I8,
  V_U16,
  V_I16,
  V_U32,
  V_I32,
  V_F32,
  V_BOOL,
  V_STRING,
  V_ARRAY,
  V_U64,
  V_I64,
  V_F64,
  V_N_TYPES
} value_type;

static const unsigned char value_bytes[V_N_TYPES] = {
    [V_U8] = 1,  [V_I8] = 1,   [V_U16] = 2, [V_I16] = 2, [V_U32] = 4, [V_I32] = 4,
    [V_F32] = 4, [V_BOOL] = 1, [V_U64] = 8, [V_I64] = 8, [V_F64] = 8,
};

typedef struct entry {
  const unsigned char *key, *value; /* in the file; value of a string: its first byte */
  const char *key_text, *text;      /* NUL-terminated copies; text only for strings */
  size_t *offsets;                  /* arrays of strings: where each length field is, from value */
  size_t n_key_bytes, n;            /* n: bytes of a string, elements of an array */
  value_type type, element;
} entry;

typedef struct tensor {
  const unsigned char *name; /* in the file */
  const char *name_text;
  size_t n_name_bytes;
  uint64_t offset, n_bytes; /* in the data section */
  lk_tensor view;
} tensor;

typedef struct name_ref {
  const char *text;
  size_t index;
} name_ref;

struct lk_gguf {
  lk_map map; /* data NULL where the bytes are the caller's */
  const unsigned char *data;
  size_t n_bytes, at; /* at: where the parser stands */
  char *name;
  entry *entries;
  tensor *tensors;
  size_t n_entries, n_tensors;
  char *texts;            /* copies of keys, string values and tensor names */
  name_ref *keys, *names; /* sorted: bounded work on any input, unlike hashing */
};

static const struct {
  uint32_t id;
  lk_dtype type;
} known_types[] = {
    {0, LK_F32},  {1, LK_F16},   {2, LK_Q4_0},  {3, LK_Q4_1},  {6, LK_Q5_0},  {7, LK_Q5_1},
    {8, LK_Q8_0}, {12, LK_Q4_K}, {13, LK_Q5_K}, {14, LK_Q6_K}, {30, LK_BF16},
};

/* Names of the ggml types that are not supported (ggml.h), for the message. */
static const char *foreign_type_name(uint32_t id) {
  static const char *const names[] = {
      [4] = "Q4_2",    [5] = "Q4_3",     [9] = "Q8_1",    [10] = "Q2_K",    [11] = "Q3_K",
      [15] = "Q8_K",   [16] = "IQ2_XXS", [17] = "IQ2_XS", [18] = "IQ3_XXS", [19] = "IQ1_S",
      [20] = "IQ4_NL", [21] = "IQ3_S",   [22] = "IQ2_S",  [23] = "IQ4_XS",  [24] = "I8",
      [25] = "I16",    [26] = "I32",     [27] = "I64",    [28] = "F64",     [29] = "IQ1_M",
      [34] = "TQ1_0",  [35] = "TQ2_0",   [39] = "MXFP4",
  };
  const char *text = id < sizeof names / sizeof *names ? names[id] : NULL;
  return text ? text : "unknown";
}

/* ---- reading fields ---- */

static size_t bytes_left(const lk_gguf *g) { return g->n_bytes - g->at; }

static leank_status need(const lk_gguf *g, size_t n, leank_error *err) {
  if (n <= bytes_left(g)) return LEANK_OK;
  return lk_fail(err, LEANK_E_FORMAT, (int64_t)g->at, "%s: the file ends at byte %zu, %zu needed",
                 g->name, g->n_bytes, n);
}

static leank_status read_u32(lk_gguf *g, uint32_t *out, leank_error *err) {
  leank_status status = need(g, 4, err);
  if (status != LEANK_OK) return status;
  *out = lk_load_le32(g->data + g->at);
  g->at += 4;
  return LEANK_OK;
}

static leank_status read_u64(lk_gguf *g, uint64_t *out, leank_error *err) {
  leank_status status = need(g, 8, err);
  if (status != LEANK_OK) return status;
  *out = lk_load_le64(g->data + g->at);
  g->at += 8;
  return LEANK_OK;
}

static leank_status read_string(lk_gguf *g, const unsigned char **out, size_t *n,
                                leank_error *err) {
  leank_status status = LEANK_OK;
  uint64_t length;
  const size_t start = g->at;
  LK_TRY(read_u64(g, &length, err));
  LK_FAIL_IF(length > bytes_left(g), err, LEANK_E_FORMAT, start,
             "%s: a string of %llu bytes does not fit the file", g->name,
             (unsigned long long)length);
  *out = g->data + g->at;
  *n = (size_t)length;
  g->at += *n;
cleanup:
  return status;
}

/* A key or tensor name: 1 .. max bytes, none of them NUL, so that it can be looked up as text. */
static leank_status read_name(lk_gguf *g, size_t max, const char *what, const unsigned char **out,
                              size_t *n, leank_error *err) {
  leank_status status = LEANK_OK;
  const size_t start = g->at;
  LK_TRY(read_string(g, out, n, err));
  LK_FAIL_IF(*n == 0 || *n > max || memchr(*out, 0, *n), err, LEANK_E_FORMAT, start,
             "%s: bad %s '%s' of %zu bytes", g->name, what, lk_printable(*out, *n).text, *n);
cleanup:
  return status;
}

/* ---- metadata ---- */

static leank_status check_bools(const lk_gguf *g, const unsigned char *p, size_t n,
                                leank_error *err) {
  for (size_t i = 0; i < n; i++)
    if (p[i] > 1)
      return lk_fail(err, LEANK_E_FORMAT, p + i - g->data, "%s: a boolean of value %d", g->name,
                     p[i]);
  return LEANK_OK;
}

static leank_status read_string_array(lk_gguf *g, entry *e, leank_error *err) {
  leank_status status = LEANK_OK;
  LK_FAIL_IF(e->n > bytes_left(g) / 8, err, LEANK_E_FORMAT, g->at,
             "%s: %zu strings do not fit the file", g->name, e->n);
  e->offsets = lk_alloc(LK_MEM_OTHER, e->n, sizeof *e->offsets);
  LK_FAIL_IF(!e->offsets, err, LEANK_E_MEMORY, -1, "%s: out of memory", g->name);
  for (size_t i = 0; i < e->n; i++) {
    const unsigned char *bytes;
    size_t n;
    e->offsets[i] = (size_t)(g->data + g->at - e->value);
    LK_TRY(read_string(g, &bytes, &n, err));
  }
cleanup:
  return status;
}

static leank_status read_array(lk_gguf *g, entry *e, leank_error *err) {
  leank_status status = LEANK_OK;
  const size_t start = g->at;
  uint32_t element;
  uint64_t n;
  LK_TRY(read_u32(g, &element, err));
  LK_TRY(read_u64(g, &n, err));
  LK_FAIL_IF(element >= V_N_TYPES, err, LEANK_E_FORMAT, start, "%s: unknown array type %u", g->name,
             element);
  LK_FAIL_IF(element == V_ARRAY, err, LEANK_E_UNSUPPORTED, start,
             "%s: key '%s' is an array of arrays", g->name,
             lk_printable(e->key, e->n_key_bytes).text);
  const size_t each = element == V_STRING ? 8 : value_bytes[element];
  LK_FAIL_IF(n > bytes_left(g) / each, err, LEANK_E_FORMAT, start,
             "%s: an array of %llu elements does not fit the file", g->name, (unsigned long long)n);
  e->element = (value_type)element;
  e->n = (size_t)n;
  e->value = g->data + g->at;
  if (element == V_STRING) return read_string_array(g, e, err);
  if (element == V_BOOL) LK_TRY(check_bools(g, e->value, e->n, err));
  g->at += e->n * each;
cleanup:
  return status;
}

static leank_status read_entry(lk_gguf *g, entry *e, leank_error *err) {
  leank_status status = LEANK_OK;
  uint32_t type;
  LK_TRY(read_name(g, MAX_KEY_BYTES, "key", &e->key, &e->n_key_bytes, err));
  LK_TRY(read_u32(g, &type, err));
  LK_FAIL_IF(type >= V_N_TYPES, err, LEANK_E_FORMAT, g->at - 4, "%s: key '%s' has unknown type %u",
             g->name, lk_printable(e->key, e->n_key_bytes).text, type);
  e->type = (value_type)type;
  if (e->type == V_ARRAY) return read_array(g, e, err);
  if (e->type == V_STRING) return read_string(g, &e->value, &e->n, err);
  LK_TRY(need(g, value_bytes[type], err));
  e->value = g->data + g->at;
  if (e->type == V_BOOL) LK_TRY(check_bools(g, e->value, 1, err));
  g->at += value_bytes[type];
cleanup:
  return status;
}

/* ---- tensors ---- */

static leank_status find_type(const lk_gguf *g, const tensor *t, uint32_t id, lk_dtype *out,
                              leank_error *err) {
  for (size_t i = 0; i < sizeof known_types / sizeof *known_types; i++) {
    if (known_types[i].id != id) continue;
    *out = known_types[i].type;
    return LEANK_OK;
  }
  return lk_fail(err, LEANK_E_UNSUPPORTED, (int64_t)g->at - 4,
                 "%s: tensor '%s' has type %u (%s), which is not supported", g->name,
                 lk_printable(t->name, t->n_name_bytes).text, id, foreign_type_name(id));
}

static leank_status read_shape(lk_gguf *g, tensor *t, leank_error *err) {
  leank_status status = LEANK_OK;
  uint32_t n_dims;
  size_t rows = 1;
  LK_TRY(read_u32(g, &n_dims, err));
  LK_FAIL_IF(n_dims < 1 || n_dims > MAX_DIMS, err, LEANK_E_FORMAT, g->at - 4,
             "%s: tensor '%s' has %u dimensions", g->name,
             lk_printable(t->name, t->n_name_bytes).text, n_dims);
  for (uint32_t i = 0; i < n_dims; i++) {
    uint64_t ne;
    LK_TRY(read_u64(g, &ne, err));
    LK_FAIL_IF(ne == 0 || ne > INT64_MAX || (i > 0 && !lk_mul(rows, (size_t)ne, &rows)), err,
               LEANK_E_FORMAT, g->at - 8, "%s: tensor '%s' has size %llu in dimension %u", g->name,
               lk_printable(t->name, t->n_name_bytes).text, (unsigned long long)ne, i);
    if (i == 0) t->view.n_cols = (size_t)ne;
  }
  t->view.n_rows = rows;
cleanup:
  return status;
}

static leank_status read_tensor(lk_gguf *g, tensor *t, leank_error *err) {
  leank_status status = LEANK_OK;
  uint32_t id;
  size_t n_blocks, n_bytes;
  LK_TRY(read_name(g, MAX_NAME_BYTES, "tensor name", &t->name, &t->n_name_bytes, err));
  LK_TRY(read_shape(g, t, err));
  LK_TRY(read_u32(g, &id, err));
  LK_TRY(find_type(g, t, id, &t->view.type, err));
  const size_t block = lk_dtype_block_elements(t->view.type);
  LK_FAIL_IF(t->view.n_cols % block != 0, err, LEANK_E_FORMAT, g->at,
             "%s: tensor '%s' has rows of %zu, not a multiple of the %zu of %s", g->name,
             lk_printable(t->name, t->n_name_bytes).text, t->view.n_cols, block,
             lk_dtype_name(t->view.type));
  LK_FAIL_IF(!lk_mul(t->view.n_cols / block, t->view.n_rows, &n_blocks) ||
                 !lk_mul(n_blocks, lk_dtype_block_bytes(t->view.type), &n_bytes),
             err, LEANK_E_FORMAT, g->at, "%s: the size of tensor '%s' overflows", g->name,
             lk_printable(t->name, t->n_name_bytes).text);
  t->n_bytes = n_bytes;
  LK_TRY(read_u64(g, &t->offset, err));
cleanup:
  return status;
}

/* ---- names ---- */

static const char *copy_text(char **at, const unsigned char *bytes, size_t n) {
  char *text = *at;
  if (n > 0) memcpy(text, bytes, n);
  *at += n + 1; /* the arena is zeroed */
  return text;
}

static leank_status copy_texts(lk_gguf *g, leank_error *err) {
  size_t total = 0;
  for (size_t i = 0; i < g->n_entries; i++) {
    total += g->entries[i].n_key_bytes + 1;
    if (g->entries[i].type == V_STRING) total += g->entries[i].n + 1;
  }
  for (size_t i = 0; i < g->n_tensors; i++) total += g->tensors[i].n_name_bytes + 1;
  char *at = g->texts = lk_alloc(LK_MEM_OTHER, total, 1);
  if (!at) return lk_fail(err, LEANK_E_MEMORY, -1, "%s: out of memory", g->name);
  for (size_t i = 0; i < g->n_entries; i++) {
    entry *e = &g->entries[i];
    e->key_text = copy_text(&at, e->key, e->n_key_bytes);
    if (e->type == V_STRING) e->text = copy_text(&at, e->value, e->n);
  }
  for (size_t i = 0; i < g->n_tensors; i++)
    g->tensors[i].name_text = copy_text(&at, g->tensors[i].name, g->tensors[i].n_name_bytes);
  return LEANK_OK;
}

static int compare_names(const void *a, const void *b) {
  return strcmp(((const name_ref *)a)->text, ((const name_ref *)b)->text);
}

/* Sorts refs for lookup; two of one name are an error. */
static leank_status sort_names(const lk_gguf *g, name_ref *refs, size_t n, const char *what,
                               leank_error *err) {
  qsort(refs, n, sizeof *refs, compare_names);
  for (size_t i = 1; i < n; i++)
    if (strcmp(refs[i - 1].text, refs[i].text) == 0)
      return lk_fail(err, LEANK_E_FORMAT, -1, "%s: two %s named '%s'", g->name, what,
                     lk_printable(refs[i].text, strlen(refs[i].text)).text);
  return LEANK_OK;
}

static leank_status index_names(lk_gguf *g, leank_error *err) {
  leank_status status = LEANK_OK;
  LK_TRY(copy_texts(g, err));
  g->keys = lk_alloc(LK_MEM_OTHER, g->n_entries, sizeof *g->keys);
  g->names = lk_alloc(LK_MEM_OTHER, g->n_tensors, sizeof *g->names);
  LK_FAIL_IF(!g->keys || !g->names, err, LEANK_E_MEMORY, -1, "%s: out of memory", g->name);
  for (size_t i = 0; i < g->n_entries; i++) g->keys[i] = (name_ref){g->entries[i].key_text, i};
  for (size_t i = 0; i < g->n_tensors; i++) g->names[i] = (name_ref){g->tensors[i].name_text, i};
  LK_TRY(sort_names(g, g->keys, g->n_entries, "keys", err));
  LK_TRY(sort_names(g, g->names, g->n_tensors, "tensors", err));
cleanup:
  return status;
}

static const name_ref *find_name(const name_ref *refs, size_t n, const char *text) {
  const name_ref key = {text, 0};
  return n > 0 ? bsearch(&key, refs, n, sizeof *refs, compare_names) : NULL;
}

/* ---- data section ---- */

static leank_status read_alignment(const lk_gguf *g, size_t *out, leank_error *err) {
  uint64_t alignment = DEFAULT_ALIGNMENT;
  if (lk_gguf_has(g, "general.alignment") &&
      (!lk_gguf_u64(g, "general.alignment", &alignment) || alignment < MIN_ALIGNMENT ||
       alignment > MAX_ALIGNMENT || (alignment & (alignment - 1)) != 0))
    return lk_fail(err, LEANK_E_FORMAT, -1, "%s: general.alignment is no power of two of %d .. %d",
                   g->name, MIN_ALIGNMENT, MAX_ALIGNMENT);
  *out = (size_t)alignment;
  return LEANK_OK;
}

static leank_status place_tensor(const lk_gguf *g, tensor *t, size_t data_at, size_t alignment,
                                 leank_error *err) {
  leank_status status = LEANK_OK;
  const size_t n_data = g->n_bytes - data_at;
  LK_FAIL_IF(t->offset % alignment != 0, err, LEANK_E_FORMAT, data_at,
             "%s: tensor '%s' lies at %llu, which is not aligned to %zu", g->name,
             lk_printable(t->name, t->n_name_bytes).text, (unsigned long long)t->offset, alignment);
  LK_FAIL_IF(t->offset > n_data || t->n_bytes > n_data - t->offset, err, LEANK_E_FORMAT, data_at,
             "%s: tensor '%s' (%llu bytes at %llu) reaches beyond the file", g->name,
             lk_printable(t->name, t->n_name_bytes).text, (unsigned long long)t->n_bytes,
             (unsigned long long)t->offset);
  t->view.data = g->data + data_at + t->offset;
cleanup:
  return status;
}

static int compare_offsets(const void *a, const void *b) {
  const tensor *x = *(const tensor *const *)a, *y = *(const tensor *const *)b;
  return (x->offset > y->offset) - (x->offset < y->offset);
}

static leank_status check_overlaps(const lk_gguf *g, leank_error *err) {
  leank_status status = LEANK_OK;
  const tensor **sorted = lk_alloc(LK_MEM_OTHER, g->n_tensors, sizeof *sorted);
  LK_FAIL_IF(!sorted, err, LEANK_E_MEMORY, -1, "%s: out of memory", g->name);
  for (size_t i = 0; i < g->n_tensors; i++) sorted[i] = &g->tensors[i];
  qsort(sorted, g->n_tensors, sizeof *sorted, compare_offsets);
  for (size_t i = 1; i < g->n_tensors; i++)
    LK_FAIL_IF(sorted[i - 1]->offset + sorted[i - 1]->n_bytes > sorted[i]->offset, err,
               LEANK_E_FORMAT, (const unsigned char *)sorted[i]->view.data - g->data,
               "%s: tensors '%s' and '%s' overlap", g->name,
               lk_printable(sorted[i - 1]->name, sorted[i - 1]->n_name_bytes).text,
               lk_printable(sorted[i]->name, sorted[i]->n_name_bytes).text);
cleanup:
  lk_free(sorted);
  return status;
}

static leank_status place_tensors(lk_gguf *g, leank_error *err) {
  leank_status status = LEANK_OK;
  size_t alignment = DEFAULT_ALIGNMENT;
  LK_TRY(read_alignment(g, &alignment, err));
  if (g->n_tensors == 0) return LEANK_OK; /* a vocabulary alone need not be padded */
  const size_t padding = (alignment - g->at % alignment) % alignment;
  LK_TRY(need(g, padding, err));
  const size_t data_at = g->at + padding;
  for (size_t i = 0; i < g->n_tensors; i++)
    LK_TRY(place_tensor(g, &g->tensors[i], data_at, alignment, err));
  LK_TRY(check_overlaps(g, err));
cleanup:
  return status;
}

/* ---- the file ---- */

static leank_status read_header(lk_gguf *g, leank_error *err) {
  leank_status status = LEANK_OK;
  uint32_t version;
  uint64_t n_tensors, n_entries;
  LK_FAIL_IF(g->n_bytes < 4 || memcmp(g->data, "GGUF", 4) != 0, err, LEANK_E_FORMAT, 0,
             "%s: is not a GGUF file", g->name);
  g->at = 4;
  LK_TRY(read_u32(g, &version, err));
  LK_FAIL_IF(version == 0x02000000u || version == 0x03000000u, err, LEANK_E_UNSUPPORTED, 4,
             "%s: a big-endian GGUF file", g->name);
  LK_FAIL_IF(version != 2 && version != 3, err, LEANK_E_UNSUPPORTED, 4,
             "%s: GGUF version %u, only 2 and 3 are supported", g->name, version);
  LK_TRY(read_u64(g, &n_tensors, err));
  LK_TRY(read_u64(g, &n_entries, err));
  LK_FAIL_IF(n_tensors > MAX_TENSORS || n_tensors > bytes_left(g) / MIN_TENSOR_ENTRY, err,
             LEANK_E_FORMAT, 8, "%s: %llu tensors do not fit the file", g->name,
             (unsigned long long)n_tensors);
  LK_FAIL_IF(n_entries > MAX_KEYS || n_entries > bytes_left(g) / MIN_KEY_ENTRY, err, LEANK_E_FORMAT,
             16, "%s: %llu metadata keys do not fit the file", g->name,
             (unsigned long long)n_entries);
  g->n_tensors = (size_t)n_tensors;
  g->n_entries = (size_t)n_entries;
cleanup:
  return status;
}

static leank_status parse(lk_gguf *g, leank_error *err) {
  leank_status status = LEANK_OK;
  LK_TRY(read_header(g, err));
  g->entries = lk_alloc(LK_MEM_OTHER, g->n_entries, sizeof *g->entries);
  g->tensors = lk_alloc(LK_MEM_OTHER, g->n_tensors, sizeof *g->tensors);
  LK_FAIL_IF(!g->entries || !g->tensors, err, LEANK_E_MEMORY, -1, "%s: out of memory", g->name);
  for (size_t i = 0; i < g->n_entries; i++) LK_TRY(read_entry(g, &g->entries[i], err));
  for (size_t i = 0; i < g->n_tensors; i++) LK_TRY(read_tensor(g, &g->tensors[i], err));
  LK_TRY(index_names(g, err));
  LK_TRY(place_tensors(g, err));
cleanup:
  return status;
}

/* Takes over *map (whose data may be NULL). */
static leank_status open_bytes(const unsigned char *bytes, size_t n_bytes, lk_map *map,
                               const char *name, lk_gguf **out, leank_error *err) {
  leank_status status = LEANK_OK;
  lk_gguf *g = lk_alloc(LK_MEM_OTHER, 1, sizeof *g);
  if (!g) {
    lk_map_close(map);
    return lk_fail(err, LEANK_E_MEMORY, -1, "%s: out of memory", name);
  }
  g->map = *map;
  g->data = bytes;
  g->n_bytes = n_bytes;
  g->name = lk_strdup(name);
  LK_FAIL_IF(!g->name, err, LEANK_E_MEMORY, -1, "%s: out of memory", name);
  LK_TRY(parse(g, err));
  *out = g;
cleanup:
  if (status != LEANK_OK) lk_gguf_close(&g);
  return status;
}

leank_status lk_gguf_open(const char *path, lk_gguf **out, leank_error *err) {
  lk_map map = {0};
  leank_status status = lk_map_open(path, &map, err);
  return status == LEANK_OK ? open_bytes(map.data, map.n_bytes, &map, path, out, err) : status;
}

leank_status lk_gguf_open_memory(const void *bytes, size_t n_bytes, const char *name, lk_gguf **out,
                                 leank_error *err) {
  lk_map none = {0};
  return open_bytes(bytes, n_bytes, &none, name, out, err);
}

void lk_gguf_close(lk_gguf **gguf) {
  if (!gguf || !*gguf) return;
  lk_gguf *g = *gguf;
  for (size_t i = 0; g->entries && i < g->n_entries; i++) lk_free(g->entries[i].offsets);
  lk_free(g->entries);
  lk_free(g->tensors);
  lk_free(g->texts);
  lk_free(g->keys);
  lk_free(g->names);
  lk_free(g->name);
  lk_map_close(&g->map);
  lk_free(g);
  *gguf = NULL;
}

const char *lk_gguf_name(const lk_gguf *gguf) { return gguf->name; }

/* ---- metadata, as asked for ---- */

static const entry *find_entry(const lk_gguf *g, const char *key) {
  const name_ref *ref = find_name(g->keys, g->n_entries, key);
  return ref ? &g->entries[ref->index] : NULL;
}

/* An array whose element i exists and is of no string type, and where that element lies. */
static const entry *find_element(const lk_gguf *g, const char *key, size_t i,
                                 const unsigned char **p) {
  const entry *e = find_entry(g, key);
  if (!e || e->type != V_ARRAY || e->element == V_STRING || i >= e->n) return NULL;
  *p = e->value + i * value_bytes[e->element];
  return e;
}

/* The bits of an integer widened to 64; *negative tells how to read them. */
static bool integer_value(value_type type, const unsigned char *p, uint64_t *out, bool *negative) {
  int64_t s = 0;
  switch (type) {
  case V_U8: *out = p[0]; break;
  case V_U16: *out = lk_load_le16(p); break;
  case V_U32: *out = lk_load_le32(p); break;
  case V_U64: *out = lk_load_le64(p); break;
  case V_I8: s = (int8_t)p[0]; break;
  case V_I16: s = (int16_t)lk_load_le16(p); break;
  case V_I32: s = (int32_t)lk_load_le32(p); break;
  case V_I64: s = (int64_t)lk_load_le64(p); break;
  default: return false;
  }
  if (type == V_I8 || type == V_I16 || type == V_I32 || type == V_I64) *out = (uint64_t)s;
  *negative = s < 0;
  return true;
}

static bool number_value(value_type type, const unsigned char *p, double *out) {
  uint64_t u;
  bool negative;
  if (type == V_F32) {
    const uint32_t bits = lk_load_le32(p);
    float f;
    memcpy(&f, &bits, sizeof f);
    *out = f;
  } else if (type == V_F64) {
    const uint64_t bits = lk_load_le64(p);
    memcpy(out, &bits, sizeof *out);
  } else if (integer_value(type, p, &u, &negative)) {
    *out = negative ? (double)(int64_t)u : (double)u;
  } else {
    return false;
  }
  return true;
}

bool lk_gguf_has(const lk_gguf *gguf, const char *key) { return find_entry(gguf, key) != NULL; }

bool lk_gguf_u64(const lk_gguf *gguf, const char *key, uint64_t *out) {
  const entry *e = find_entry(gguf, key);
  uint64_t u;
  bool negative;
  if (!e || !integer_value(e->type, e->value, &u, &negative) || negative) return false;
  *out = u;
  return true;
}

bool lk_gguf_f64(const lk_gguf *gguf, const char *key, double *out) {
  const entry *e = find_entry(gguf, key);
  return e && number_value(e->type, e->value, out);
}

bool lk_gguf_bool(const lk_gguf *gguf, const char *key, bool *out) {
  const entry *e = find_entry(gguf, key);
  if (!e || e->type != V_BOOL) return false;
  *out = e->value[0] != 0;
  return true;
}

bool lk_gguf_str(const lk_gguf *gguf, const char *key, const char **out, size_t *n_bytes) {
  const entry *e = find_entry(gguf, key);
  if (!e || e->type != V_STRING) return false;
  *out = e->text;
  if (n_bytes) *n_bytes = e->n;
  return true;
}

bool lk_gguf_array_count(const lk_gguf *gguf, const char *key, size_t *n) {
  const entry *e = find_entry(gguf, key);
  if (!e || e->type != V_ARRAY) return false;
  *n = e->n;
  return true;
}

bool lk_gguf_array_str(const lk_gguf *gguf, const char *key, size_t i, const char **out,
                       size_t *n_bytes) {
  const entry *e = find_entry(gguf, key);
  if (!e || e->type != V_ARRAY || e->element != V_STRING || i >= e->n) return false;
  const unsigned char *p = e->value + e->offsets[i];
  *out = (const char *)p + 8;
  *n_bytes = (size_t)lk_load_le64(p);
  return true;
}

bool lk_gguf_array_i64(const lk_gguf *gguf, const char *key, size_t i, int64_t *out) {
  const unsigned char *p;
  const entry *e = find_element(gguf, key, i, &p);
  uint64_t u;
  bool negative;
  if (!e || !integer_value(e->element, p, &u, &negative)) return false;
  if (!negative && u > INT64_MAX) return false;
  *out = (int64_t)u;
  return true;
}

/* ---- tensors, as asked for ---- */

size_t lk_gguf_n_tensors(const lk_gguf *gguf) { return gguf->n_tensors; }

const char *lk_gguf_tensor_name(const lk_gguf *gguf, size_t i) {
  return gguf->tensors[i].name_text;
}

lk_tensor lk_gguf_tensor_at(const lk_gguf *gguf, size_t i) { return gguf->tensors[i].view; }

lk_tensor lk_gguf_tensor(const lk_gguf *gguf, const char *name) {
  const name_ref *ref = find_name(gguf->names, gguf->n_tensors, name);
  return ref ? gguf->tensors[ref->index].view : (lk_tensor){0};
}
