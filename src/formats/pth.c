#include "formats/pth.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/dtype.h"
#include "base/map.h"
#include "formats/little_endian.h"
#include "formats/pickle.h"
#include "formats/printable.h"
#include "formats/zip_stored.h"

enum { MAX_MEMBERS = 1 << 16, N_AXES = 3, MAX_WRITTEN_PICKLE = 256 };

typedef struct member {
  lk_zip_member zip;
  const unsigned char *data; /* NULL until it is read and its checksum has been verified */
} member;

typedef struct archive {
  lk_zip zip;
  member *members; /* sorted by name */
  size_t n_members;
  size_t n_verified; /* bytes; members that do not overlap never exceed the file */
  const char *prefix;
  size_t n_prefix; /* with the slash */
} archive;

typedef struct loader {
  archive archive;
  lk_pickle pickle;
  size_t shape[N_AXES];
  float *values;
  const char *name;
  leank_error *err;
} loader;

int lk_pth_looks_like(const void *bytes, size_t n_bytes) {
  return n_bytes >= 4 && memcmp(bytes, "PK\3\4", 4) == 0;
}

/* ---- archive ---- */

static int compare_bytes(const char *a, size_t n_a, const char *b, size_t n_b) {
  const int order = memcmp(a, b, n_a < n_b ? n_a : n_b);
  return order != 0 ? order : (n_a > n_b) - (n_a < n_b);
}

static int compare_members(const void *a, const void *b) {
  const lk_zip_member *x = &((const member *)a)->zip, *y = &((const member *)b)->zip;
  return compare_bytes(x->name, x->n_name_bytes, y->name, y->n_name_bytes);
}

/* Every archive of torch has one folder, which holds data.pkl. */
static bool find_prefix(archive *a) {
  static const char suffix[] = "/data.pkl";
  const size_t n_suffix = sizeof suffix - 1;
  for (size_t i = 0; i < a->n_members; i++) {
    const lk_zip_member *m = &a->members[i].zip;
    if (m->n_name_bytes <= n_suffix ||
        memcmp(m->name + m->n_name_bytes - n_suffix, suffix, n_suffix) != 0 ||
        memchr(m->name, '/', m->n_name_bytes - n_suffix))
      continue;
    if (a->prefix) return false;
    a->prefix = m->name;
    a->n_prefix = m->n_name_bytes - n_suffix + 1;
  }
  return a->prefix != NULL;
}

static leank_status open_archive(archive *a, leank_error *err) {
  leank_status status = LEANK_OK;
  const char *name = a->zip.name;
  size_t at = 0;
  LK_FAIL_IF(a->zip.n_members > MAX_MEMBERS, err, LEANK_E_UNSUPPORTED, a->zip.directory_at,
             "%s: a zip of %zu members", name, a->zip.n_members);
  a->members = lk_alloc(LK_MEM_OTHER, a->zip.n_members, sizeof *a->members);
  LK_FAIL_IF(!a->members, err, LEANK_E_MEMORY, -1, "%s: out of memory", name);
  while (a->n_members < a->zip.n_members &&
         lk_zip_next(&a->zip, &at, &a->members[a->n_members].zip))
    a->n_members++;
  qsort(a->members, a->n_members, sizeof *a->members, compare_members);
  for (size_t i = 1; i < a->n_members; i++)
    LK_FAIL_IF(compare_members(&a->members[i - 1], &a->members[i]) == 0, err, LEANK_E_FORMAT,
               a->zip.directory_at, "%s: two members named '%s'", name,
               lk_printable(a->members[i].zip.name, a->members[i].zip.n_name_bytes).text);
  LK_FAIL_IF(!find_prefix(a), err, LEANK_E_FORMAT, a->zip.directory_at,
             "%s: a zip, but not with the one data.pkl of torch.save", name);
cleanup:
  return status;
}

static int compare_to_member(const void *key, const void *element) {
  const lk_pickle_text *text = key;
  const lk_zip_member *m = &((const member *)element)->zip;
  return compare_bytes(text->bytes, text->n_bytes, m->name, m->n_name_bytes);
}

/* Finds prefix + folder + key; *found NULL where there is none. */
static leank_status find_member(archive *a, const char *folder, const char *key, size_t n_key,
                                member **found, leank_error *err) {
  leank_status status = LEANK_OK;
  const size_t n_folder = strlen(folder), n = a->n_prefix + n_folder + n_key;
  char *path = lk_alloc(LK_MEM_OTHER, n, 1);
  LK_FAIL_IF(!path, err, LEANK_E_MEMORY, -1, "%s: out of memory", a->zip.name);
  memcpy(path, a->prefix, a->n_prefix);
  memcpy(path + a->n_prefix, folder, n_folder);
  if (n_key > 0) memcpy(path + a->n_prefix + n_folder, key, n_key);
  const lk_pickle_text text = {path, (uint32_t)n};
  *found = bsearch(&text, a->members, a->n_members, sizeof *a->members, compare_to_member);
cleanup:
  lk_free(path);
  return status;
}

static leank_status verify_member(archive *a, member *m, leank_error *err) {
  leank_status status = LEANK_OK;
  if (m->data) return LEANK_OK;
  /* One larger than the file is lk_zip_read's to refuse. */
  if (m->zip.n_bytes <= a->zip.n_bytes) a->n_verified += m->zip.n_bytes;
  LK_FAIL_IF(a->n_verified > a->zip.n_bytes, err, LEANK_E_FORMAT, m->zip.header_at,
             "%s: members overlap", a->zip.name);
  LK_TRY(lk_zip_read(&a->zip, &m->zip, &m->data, err));
cleanup:
  return status;
}

static leank_status check_byte_order(archive *a, leank_error *err) {
  leank_status status = LEANK_OK;
  member *m = NULL;
  LK_TRY(find_member(a, "byteorder", NULL, 0, &m, err));
  if (!m) return LEANK_OK;
  LK_TRY(verify_member(a, m, err));
  LK_FAIL_IF(m->zip.n_bytes != 6 || memcmp(m->data, "little", 6) != 0, err, LEANK_E_UNSUPPORTED,
             m->zip.header_at, "%s: the byte order is not little", a->zip.name);
cleanup:
  return status;
}

static leank_status read_pickle(loader *l) {
  leank_status status = LEANK_OK;
  archive *a = &l->archive;
  member *m = NULL;
  LK_TRY(find_member(a, "data.pkl", NULL, 0, &m, l->err));
  LK_FAIL_IF(!m, l->err, LEANK_E_FORMAT, -1, "%s: no data.pkl", l->name);
  LK_TRY(verify_member(a, m, l->err));
  LK_TRY(lk_pickle_read(m->data, m->zip.n_bytes, l->name, &l->pickle, l->err));
cleanup:
  return status;
}

/* ---- values ---- */

static size_t element_bytes(lk_pickle_global type) {
  switch (type) {
  case LK_GLOBAL_DOUBLE: return 8;
  case LK_GLOBAL_FLOAT: return 4;
  case LK_GLOBAL_HALF:
  case LK_GLOBAL_BFLOAT16: return 2;
  default: return 1;
  }
}

static float load_element(lk_pickle_global type, const unsigned char *p) {
  uint64_t u;
  uint32_t v;
  double d;
  float f;
  switch (type) {
  case LK_GLOBAL_DOUBLE:
    u = lk_load_le64(p);
    memcpy(&d, &u, sizeof d);
    return (float)d;
  case LK_GLOBAL_FLOAT:
    v = lk_load_le32(p);
    memcpy(&f, &v, sizeof f);
    return f;
  case LK_GLOBAL_HALF: return lk_half_to_f32(lk_load_le16(p));
  case LK_GLOBAL_BFLOAT16: return lk_bf16_to_f32(lk_load_le16(p));
  default: return p[0];
  }
}

static leank_status storage_bytes(loader *l, const lk_pickle_storage *storage,
                                  const unsigned char **out) {
  leank_status status = LEANK_OK;
  member *m = NULL;
  LK_TRY(find_member(&l->archive, "data/", storage->key, storage->n_key_bytes, &m, l->err));
  const lk_printable_text key = lk_printable(storage->key, storage->n_key_bytes);
  LK_FAIL_IF(!m, l->err, LEANK_E_FORMAT, -1, "%s: the data of storage '%s' are missing", l->name,
             key.text);
  LK_TRY(verify_member(&l->archive, m, l->err));
  LK_FAIL_IF(m->zip.n_bytes != storage->n_elements * (uint64_t)element_bytes(storage->type), l->err,
             LEANK_E_FORMAT, m->zip.header_at, "%s: storage '%s' has %u bytes for %u elements",
             l->name, key.text, m->zip.n_bytes, storage->n_elements);
  *out = m->data;
cleanup:
  return status;
}

/* Copies a tensor's elements, in row-major order. */
static leank_status copy_tensor(loader *l, const lk_pickle_tensor *t, float *out) {
  const lk_pickle_storage *storage = &l->pickle.values[t->storage].as.storage;
  const size_t each = element_bytes(storage->type);
  const unsigned char *bytes = NULL;
  leank_status status = storage_bytes(l, storage, &bytes);
  if (status != LEANK_OK) return status;
  size_t shape[N_AXES] = {1, 1, 1}, strides[N_AXES] = {0, 0, 0};
  for (size_t i = 0; i < t->n_dims; i++) {
    shape[N_AXES - t->n_dims + i] = t->shape[i];
    strides[N_AXES - t->n_dims + i] = t->strides[i];
  }
  for (size_t i = 0; i < shape[0]; i++)
    for (size_t j = 0; j < shape[1]; j++)
      for (size_t k = 0; k < shape[2]; k++)
        *out++ = load_element(
            storage->type,
            bytes + (t->first + i * strides[0] + j * strides[1] + k * strides[2]) * each);
  return LEANK_OK;
}

/* ---- structure: a tensor [L,Hk,D], a list of [Hk,D], a list of lists of [D] ---- */

/* Sizes from the first element of every level; place() checks the others against them. */
static leank_status find_shape(loader *l) {
  const lk_pickle_value *v = &l->pickle.values[l->pickle.root];
  size_t axis = 0, n = 1;
  while (v->kind == LK_PICKLE_LIST && axis < N_AXES && v->as.list.n > 0) {
    l->shape[axis++] = v->as.list.n;
    v = &l->pickle.values[l->pickle.cells[v->as.list.first].value];
  }
  if (v->kind != LK_PICKLE_TENSOR || axis + v->as.tensor.n_dims != N_AXES)
    return lk_fail(l->err, LEANK_E_UNSUPPORTED, -1,
                   "%s: holds other than one tensor of [layers, kv heads, head dim] or lists of "
                   "its parts",
                   l->name);
  for (size_t i = 0; i < v->as.tensor.n_dims; i++) l->shape[axis + i] = v->as.tensor.shape[i];
  /* Sharing could make a small file describe much: every element has a byte of its own. */
  for (size_t i = 0; i < N_AXES; i++)
    if (!lk_mul(n, l->shape[i], &n) || n > l->archive.zip.n_bytes)
      return lk_fail(l->err, LEANK_E_FORMAT, -1, "%s: describes more values than it holds",
                     l->name);
  return LEANK_OK;
}

static bool fits(const loader *l, const lk_pickle_value *v, size_t axis) {
  if (v->kind == LK_PICKLE_LIST) return axis < N_AXES - 1 && v->as.list.n == l->shape[axis];
  if (v->kind != LK_PICKLE_TENSOR || v->as.tensor.n_dims != N_AXES - axis) return false;
  for (size_t i = axis; i < N_AXES; i++)
    if (v->as.tensor.shape[i - axis] != l->shape[i]) return false;
  return true;
}

/* Copies value `index`, which stands for the axes from `axis` on, to *at and moves *at behind. */
static leank_status place(loader *l, uint32_t index, size_t axis, float **at) {
  const lk_pickle_value *v = &l->pickle.values[index];
  if (!fits(l, v, axis))
    return lk_fail(l->err, LEANK_E_UNSUPPORTED, -1, "%s: its tensors differ in shape", l->name);
  if (v->kind == LK_PICKLE_TENSOR) {
    leank_status status = copy_tensor(l, &v->as.tensor, *at);
    size_t n = 1;
    for (size_t i = axis; i < N_AXES; i++) n *= l->shape[i];
    *at += n;
    return status;
  }
  uint32_t cell = v->as.list.first;
  for (size_t i = 0; i < v->as.list.n; i++) {
    leank_status status = place(l, l->pickle.cells[cell].value, axis + 1, at);
    if (status != LEANK_OK) return status;
    cell = l->pickle.cells[cell].next;
  }
  return LEANK_OK;
}

leank_status lk_pth_read(const void *bytes, size_t n_bytes, const char *name, lk_pth_array *out,
                         leank_error *err) {
  leank_status status = LEANK_OK;
  loader l = {.name = name, .err = err};
  LK_TRY(lk_zip_open(bytes, n_bytes, name, &l.archive.zip, err));
  LK_TRY(open_archive(&l.archive, err));
  LK_TRY(check_byte_order(&l.archive, err));
  LK_TRY(read_pickle(&l));
  LK_TRY(find_shape(&l));
  l.values = lk_alloc(LK_MEM_OTHER, l.shape[0] * l.shape[1] * l.shape[2], sizeof *l.values);
  LK_FAIL_IF(!l.values, err, LEANK_E_MEMORY, -1, "%s: out of memory", name);
  float *at = l.values;
  LK_TRY(place(&l, l.pickle.root, 0, &at));
  *out = (lk_pth_array){l.shape[0], l.shape[1], l.shape[2], l.values};
  l.values = NULL;
cleanup:
  lk_free(l.values);
  lk_pickle_free(&l.pickle);
  lk_free(l.archive.members);
  return status;
}

/* ---- writing ---- */

typedef struct pickler {
  unsigned char bytes[MAX_WRITTEN_PICKLE];
  size_t n;
} pickler;

static void emit(pickler *p, const char *bytes, size_t n) {
  memcpy(p->bytes + p->n, bytes, n);
  p->n += n;
}

#define EMIT(p, literal) emit(p, literal, sizeof literal - 1)

static void emit_int(pickler *p, size_t value) {
  unsigned char op[5] = {value < 256 ? 'K' : value < 65536 ? 'M' : 'J'};
  lk_store_le32(op + 1, (uint32_t)value);
  emit(p, (const char *)op, value < 256 ? 2 : value < 65536 ? 3 : 5);
}

/* What torch.save writes for one contiguous float32 tensor, byte for byte. */
static void write_pickle(pickler *p, size_t n_layers, size_t n_heads, size_t head_dim) {
  EMIT(p, "\x80\x02"
          "ctorch._utils\n_rebuild_tensor_v2\nq\0((X\7\0\0\0storageq\1ctorch\nFloatStorage\nq\2"
          "X\1\0\0\0000q\3X\3\0\0\0cpuq\4");
  emit_int(p, n_layers * n_heads * head_dim);
  EMIT(p, "tq\5QK\0");
  emit_int(p, n_layers);
  emit_int(p, n_heads);
  emit_int(p, head_dim);
  EMIT(p, "\x87q\6");
  emit_int(p, n_heads * head_dim);
  emit_int(p, head_dim);
  EMIT(p, "K\1\x87q\7\x89"
          "ccollections\nOrderedDict\nq\x08)Rq\ttq\nRq\x0b.");
}

/* The values as little-endian floats. */
static unsigned char *float_bytes(const float *values, size_t n) {
  unsigned char *bytes = lk_alloc(LK_MEM_OTHER, n, 4);
  for (size_t i = 0; bytes && i < n; i++) {
    uint32_t u;
    memcpy(&u, &values[i], sizeof u);
    lk_store_le32(bytes + 4 * i, u);
  }
  return bytes;
}

leank_status lk_pth_save(const char *path, const lk_pth_array *array, leank_error *err) {
  leank_status status = LEANK_OK;
  pickler pickle = {.n = 0};
  unsigned char *data = NULL;
  lk_zip_writer zip = {NULL, 0};
  size_t n;
  LK_FAIL_IF(!lk_mul(array->n_layers, array->n_heads, &n) || !lk_mul(n, array->head_dim, &n) ||
                 n == 0 || n > INT32_MAX / 8,
             err, LEANK_E_ARGUMENT, -1, "%s: a tensor of [%zu,%zu,%zu] cannot be written", path,
             array->n_layers, array->n_heads, array->head_dim);
  write_pickle(&pickle, array->n_layers, array->n_heads, array->head_dim);
  data = float_bytes(array->values, n);
  LK_FAIL_IF(!data, err, LEANK_E_MEMORY, -1, "%s: out of memory", path);
  const lk_zip_source sources[] = {
      {"mask/data.pkl", pickle.bytes, pickle.n},
      {"mask/byteorder", "little", 6},
      {"mask/data/0", data, 4 * n},
      {"mask/version", "3\n", 2},
  };
  enum { N_SOURCES = sizeof sources / sizeof *sources };
  lk_zip_write(&zip, sources, N_SOURCES); /* measures */
  zip.bytes = lk_alloc(LK_MEM_OTHER, zip.n_bytes, 1);
  LK_FAIL_IF(!zip.bytes, err, LEANK_E_MEMORY, -1, "%s: out of memory", path);
  zip.n_bytes = 0;
  lk_zip_write(&zip, sources, N_SOURCES);
  LK_TRY(lk_file_write_atomic(path, zip.bytes, zip.n_bytes, err));
cleanup:
  lk_free(zip.bytes);
  lk_free(data);
  return status;
}
