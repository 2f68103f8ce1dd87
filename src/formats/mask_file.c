#include "formats/mask_file.h"

#include <math.h>
#include <string.h>

#include <jansson.h>

#include "base/alloc.h"
#include "formats/printable.h"
#include "formats/pth.h"
#include "formats/safetensors.h"

/* docs/mask-format.md is the specification of what is read and written here. */
enum { MAX_NUMBER_TEXT = 40, MAX_KEYS = 24 };
static const char format_name[] = "leank-mask", format_version[] = "1";

static const char *const order_names[] = {"half", "pairs"};
static const char *const policy_names[] = {"drop", "mean"};
static const char *const bool_names[] = {"false", "true"};

/* ---- numbers and words ---- */

/* Decimal digits without sign, space or leading zero. */
static bool parse_u64(const char *text, uint64_t *out) {
  uint64_t value = 0;
  if (!*text || (text[0] == '0' && text[1])) return false;
  for (; *text; text++) {
    if (*text < '0' || *text > '9') return false;
    if (__builtin_mul_overflow(value, 10u, &value) ||
        __builtin_add_overflow(value, (uint64_t)(*text - '0'), &value))
      return false;
  }
  *out = value;
  return true;
}

/* A number by JSON's grammar, which knows neither NaN nor infinity; jansson reads it the same
 * whatever the locale. */
static bool parse_f64(const char *text, double *out) {
  const size_t n = strlen(text);
  if (n == 0 || n > MAX_NUMBER_TEXT) return false;
  if (text[0] != '-' && (text[0] < '0' || text[0] > '9')) return false;
  if (text[n - 1] < '0' || text[n - 1] > '9') return false; /* a space may not follow either */
  json_t *value = json_loadb(text, n, JSON_DECODE_ANY | JSON_DECODE_INT_AS_REAL, NULL);
  const bool good = json_is_number(value);
  if (good) *out = json_number_value(value);
  json_decref(value);
  return good;
}

static bool parse_word(const char *text, const char *const *words, size_t n, int *out) {
  for (size_t i = 0; i < n; i++)
    if (strcmp(text, words[i]) == 0) {
      *out = (int)i;
      return true;
    }
  return false;
}

/* ---- reading the metadata ---- */

/* Metadata are read one by one; the first that is wrong stays as the failure. */
typedef struct reader {
  const lk_safetensors *st;
  const char *name;
  leank_status status;
  leank_error *err;
} reader;

static void reject(reader *r, const char *key, const char *value) {
  if (r->status == LEANK_OK)
    r->status = lk_fail(r->err, LEANK_E_FORMAT, -1, "%s: metadata '%s' is '%s', which is not valid",
                        r->name, key, lk_printable(value, strlen(value)).text);
}

/* The text, or NULL where it is absent (an error where it is required). */
static const char *get(reader *r, const char *key, bool required) {
  const char *value = lk_safetensors_metadata(r->st, key);
  if (!value && required && r->status == LEANK_OK)
    r->status = lk_fail(r->err, LEANK_E_FORMAT, -1, "%s: metadata '%s' is missing", r->name, key);
  return value;
}

static void get_size(reader *r, const char *key, bool required, size_t *out) {
  const char *value = get(r, key, required);
  uint64_t u;
  if (!value) return;
  if (!parse_u64(value, &u) || u > SIZE_MAX)
    reject(r, key, value);
  else
    *out = (size_t)u;
}

/* Sizes are not 0: beside a 0 the others would be bounded by nothing in the file. */
static void get_extent(reader *r, const char *key, size_t *out) {
  get_size(r, key, true, out);
  if (r->status == LEANK_OK && *out == 0) reject(r, key, "0");
}

static void get_u64(reader *r, const char *key, uint64_t *out) {
  const char *value = get(r, key, false);
  if (value && !parse_u64(value, out)) reject(r, key, value);
}

static void get_f64(reader *r, const char *key, double *out) {
  const char *value = get(r, key, false);
  if (value && !parse_f64(value, out)) reject(r, key, value);
}

static int get_word(reader *r, const char *key, bool required, const char *const *words, size_t n,
                    int fallback) {
  const char *value = get(r, key, required);
  int out = fallback;
  if (value && !parse_word(value, words, n, &out)) reject(r, key, value);
  return out;
}

static void get_text(reader *r, const char *key, char *out, size_t size) {
  const char *value = get(r, key, false);
  if (!value) return;
  if (strlen(value) >= size)
    reject(r, key, value);
  else
    strcpy(out, value);
}

static leank_status check_version(reader *r) {
  const char *format = lk_safetensors_metadata(r->st, "format");
  if (!format || strcmp(format, format_name) != 0)
    return lk_fail(r->err, LEANK_E_FORMAT, -1,
                   "%s: a safetensors file, but not a mask: metadata 'format' is not '%s'", r->name,
                   format_name);
  const char *version = get(r, "format_version", true);
  if (version && strcmp(version, format_version) != 0)
    return lk_fail(r->err, LEANK_E_UNSUPPORTED, -1, "%s: mask format version '%s', only %s is read",
                   r->name, lk_printable(version, strlen(version)).text, format_version);
  return r->status;
}

static leank_rope_scaling get_scaling(reader *r) {
  enum { N = LEANK_ROPE_YARN + 1 };
  const char *names[N];
  for (int i = 0; i < N; i++) names[i] = leank_rope_scaling_name((leank_rope_scaling)i);
  return (leank_rope_scaling)get_word(r, "rope_scaling", false, names, N, LEANK_ROPE_PLAIN);
}

static leank_status read_info(reader *r, leank_mask_info *info) {
  get_extent(r, "n_layers", &info->n_layers);
  get_extent(r, "n_kv_heads", &info->n_kv_heads);
  get_extent(r, "head_dim", &info->head_dim);
  info->order = (leank_channel_order)get_word(r, "channel_order", true, order_names, 2, 0);
  get_text(r, "architecture", info->architecture, sizeof info->architecture);
  get_f64(r, "rope_theta", &info->rope_theta);
  info->rope_scaling = get_scaling(r);
  get_f64(r, "rope_factor", &info->rope_factor);
  get_size(r, "n_sink", true, &info->n_sink);
  get_size(r, "n_recent", true, &info->n_recent);
  info->policy = (leank_policy)get_word(r, "policy", true, policy_names, 2, LEANK_POLICY_DROP);
  info->mean_compensation = get_word(r, "mean_compensation", false, bool_names, 2, 0) == 1;
  get_f64(r, "ratio_asked", &info->ratio_asked);
  get_f64(r, "ratio_reached", &info->ratio_reached);
  get_size(r, "align", false, &info->align);
  get_text(r, "method", info->method, sizeof info->method);
  get_text(r, "data", info->data, sizeof info->data);
  get_u64(r, "steps", &info->steps);
  get_u64(r, "seed", &info->seed);
  get_text(r, "fingerprint", info->fingerprint, sizeof info->fingerprint);
  return r->status;
}

/* ---- reading the tensors ---- */

/* Checks name, type and shape [L,Hk,D]. */
static leank_status check_tensor(const lk_st_tensor *t, lk_st_type type, const char *type_name,
                                 const leank_mask_info *info, const char *name, leank_error *err) {
  if (t->type == type && t->n_dims == 3 && t->shape[0] == info->n_layers &&
      t->shape[1] == info->n_kv_heads && t->shape[2] == info->head_dim)
    return LEANK_OK;
  return lk_fail(err, LEANK_E_FORMAT, -1, "%s: tensor '%s' is not %s [%zu,%zu,%zu]", name, t->name,
                 type_name, info->n_layers, info->n_kv_heads, info->head_dim);
}

static leank_status check_names(const lk_safetensors *st, const char *name, leank_error *err) {
  leank_status status = LEANK_OK;
  for (size_t i = 0; i < lk_safetensors_n_tensors(st); i++) {
    const char *t = lk_safetensors_at(st, i)->name;
    LK_FAIL_IF(strcmp(t, "k_map") == 0 || strcmp(t, "q_map") == 0, err, LEANK_E_UNSUPPORTED, -1,
               "%s: tensor '%s': linear maps are not supported, only selections of channels", name,
               t);
    LK_FAIL_IF(strcmp(t, "mask") != 0 && strcmp(t, "alpha") != 0, err, LEANK_E_UNSUPPORTED, -1,
               "%s: tensor '%s' is none of a mask file", name, lk_printable(t, strlen(t)).text);
  }
cleanup:
  return status;
}

static leank_status read_kept(const lk_st_tensor *t, const char *name, uint8_t **out,
                              leank_error *err) {
  const uint8_t *p = t->data;
  for (size_t i = 0; i < t->n_bytes; i++)
    if (p[i] > 1)
      return lk_fail(err, LEANK_E_FORMAT, -1, "%s: element %zu of the mask is %d, not 0 or 1", name,
                     i, p[i]);
  uint8_t *kept = lk_alloc(LK_MEM_OTHER, t->n_bytes, 1);
  if (!kept) return lk_fail(err, LEANK_E_MEMORY, -1, "%s: out of memory", name);
  memcpy(kept, p, t->n_bytes);
  *out = kept;
  return LEANK_OK;
}

static leank_status read_alpha(const lk_st_tensor *t, const char *name, float **out,
                               leank_error *err) {
  const size_t n = t->n_bytes / sizeof(float);
  float *alpha = lk_alloc(LK_MEM_OTHER, n, sizeof *alpha);
  if (!alpha) return lk_fail(err, LEANK_E_MEMORY, -1, "%s: out of memory", name);
  memcpy(alpha, t->data, t->n_bytes); /* which may be unaligned */
  for (size_t i = 0; i < n; i++)
    if (!(alpha[i] >= 0 && alpha[i] <= 1)) {
      lk_free(alpha);
      return lk_fail(err, LEANK_E_FORMAT, -1, "%s: element %zu of alpha is outside [0,1]", name, i);
    }
  *out = alpha;
  return LEANK_OK;
}

static leank_status check_ratio(const lk_mask_content *content, bool given, const char *name,
                                leank_error *err) {
  const leank_mask_info *info = &content->info;
  const size_t n = info->n_layers * info->n_kv_heads * info->head_dim;
  size_t n_kept = 0;
  for (size_t i = 0; i < n; i++) n_kept += content->kept[i];
  const double reached = n > 0 ? 1 - (double)n_kept / (double)n : 0;
  if (!given || fabs(reached - info->ratio_reached) <= 1e-6) return LEANK_OK;
  return lk_fail(err, LEANK_E_FORMAT, -1, "%s: says that %.6f is removed, but it is %.6f", name,
                 info->ratio_reached, reached);
}

static leank_status read_tensors(const lk_safetensors *st, const char *name,
                                 lk_mask_content *content, leank_error *err) {
  leank_status status = LEANK_OK;
  const lk_st_tensor *mask = lk_safetensors_find(st, "mask");
  const lk_st_tensor *alpha = lk_safetensors_find(st, "alpha");
  LK_TRY(check_names(st, name, err));
  LK_FAIL_IF(!mask, err, LEANK_E_FORMAT, -1, "%s: tensor 'mask' is missing", name);
  LK_TRY(check_tensor(mask, LK_ST_U8, "U8", &content->info, name, err));
  if (alpha) LK_TRY(check_tensor(alpha, LK_ST_F32, "F32", &content->info, name, err));
  LK_TRY(read_kept(mask, name, &content->kept, err));
  if (alpha) LK_TRY(read_alpha(alpha, name, &content->alpha, err));
  LK_TRY(check_ratio(content, lk_safetensors_metadata(st, "ratio_reached") != NULL, name, err));
cleanup:
  return status;
}

static leank_status read_safetensors(const void *bytes, size_t n_bytes, const char *name,
                                     lk_mask_content *content, leank_error *err) {
  leank_status status = LEANK_OK;
  lk_safetensors *st = NULL;
  LK_TRY(lk_safetensors_open_memory(bytes, n_bytes, name, &st, err));
  reader r = {st, name, LEANK_OK, err};
  LK_TRY(check_version(&r));
  LK_TRY(read_info(&r, &content->info));
  LK_TRY(read_tensors(st, name, content, err));
cleanup:
  lk_safetensors_close(&st);
  return status;
}

static leank_status read_pth(const void *bytes, size_t n_bytes, const char *name,
                             lk_mask_content *content, leank_error *err) {
  leank_status status = LEANK_OK;
  lk_pth_array array = {0};
  LK_TRY(lk_pth_read(bytes, n_bytes, name, &array, err));
  const size_t n = array.n_layers * array.n_heads * array.head_dim;
  content->info.n_layers = array.n_layers;
  content->info.n_kv_heads = array.n_heads;
  content->info.head_dim = array.head_dim;
  strcpy(content->info.method, "import");
  content->kept = lk_alloc(LK_MEM_OTHER, n, 1);
  LK_FAIL_IF(!content->kept, err, LEANK_E_MEMORY, -1, "%s: out of memory", name);
  for (size_t i = 0; i < n; i++) {
    LK_FAIL_IF(array.values[i] != 0 && array.values[i] != 1, err, LEANK_E_FORMAT, -1,
               "%s: element %zu of the mask is not 0 or 1", name, i);
    content->kept[i] = array.values[i] == 1;
  }
cleanup:
  lk_free(array.values);
  return status;
}

leank_status lk_mask_file_read(const void *bytes, size_t n_bytes, const char *name,
                               lk_mask_content *out, leank_error *err) {
  lk_mask_content content = {.kept = NULL};
  leank_mask_info_default(&content.info);
  leank_status status = lk_pth_looks_like(bytes, n_bytes)
                            ? read_pth(bytes, n_bytes, name, &content, err)
                            : read_safetensors(bytes, n_bytes, name, &content, err);
  if (status == LEANK_OK)
    *out = content;
  else
    lk_mask_content_free(&content);
  return status;
}

void lk_mask_content_free(lk_mask_content *content) {
  lk_free(content->kept);
  lk_free(content->alpha);
  content->kept = NULL;
  content->alpha = NULL;
}

/* ---- writing ---- */

/* Pairs of key and value; numbers are kept as text beside them. */
typedef struct metadata {
  const char *pairs[MAX_KEYS][2];
  char numbers[MAX_KEYS][MAX_NUMBER_TEXT];
  size_t n;
  bool failed; /* a number could not be written */
} metadata;

static void put_text(metadata *m, const char *key, const char *value) {
  m->pairs[m->n][0] = key;
  m->pairs[m->n++][1] = value;
}

static void put_u64(metadata *m, const char *key, uint64_t value) {
  char *end = m->numbers[m->n] + MAX_NUMBER_TEXT - 1; /* zeroed */
  do *--end = (char)('0' + value % 10);
  while ((value /= 10) > 0);
  put_text(m, key, end);
}

/* 17 digits say exactly which double it was; jansson writes them the same in every locale. */
static void put_f64(metadata *m, const char *key, double value) {
  json_t *real = json_real(value);
  if (!real || json_dumpb(real, m->numbers[m->n], MAX_NUMBER_TEXT - 1,
                          JSON_ENCODE_ANY | JSON_REAL_PRECISION(17)) == 0)
    m->failed = true;
  json_decref(real);
  put_text(m, key, m->numbers[m->n]);
}

static void put_info(metadata *m, const leank_mask_info *info) {
  put_text(m, "format", format_name);
  put_text(m, "format_version", format_version);
  put_text(m, "architecture", info->architecture);
  put_u64(m, "n_layers", info->n_layers);
  put_u64(m, "n_kv_heads", info->n_kv_heads);
  put_u64(m, "head_dim", info->head_dim);
  put_text(m, "channel_order", order_names[info->order]);
  put_f64(m, "rope_theta", info->rope_theta);
  put_text(m, "rope_scaling", leank_rope_scaling_name(info->rope_scaling));
  put_f64(m, "rope_factor", info->rope_factor);
  put_u64(m, "n_sink", info->n_sink);
  put_u64(m, "n_recent", info->n_recent);
  put_text(m, "policy", policy_names[info->policy]);
  put_text(m, "mean_compensation", bool_names[info->mean_compensation]);
  put_f64(m, "ratio_asked", info->ratio_asked);
  put_f64(m, "ratio_reached", info->ratio_reached);
  put_u64(m, "align", info->align);
  put_text(m, "method", info->method);
  put_text(m, "data", info->data);
  put_u64(m, "steps", info->steps);
  put_u64(m, "seed", info->seed);
  put_text(m, "fingerprint", info->fingerprint);
}

leank_status lk_mask_file_save(const lk_mask_content *content, const char *path, leank_error *err) {
  const leank_mask_info *info = &content->info;
  const size_t n = info->n_layers * info->n_kv_heads * info->head_dim;
  metadata m = {.n = 0};
  put_info(&m, info);
  if (m.failed) return lk_fail(err, LEANK_E_MEMORY, -1, "%s: out of memory", path);
  lk_st_tensor tensors[2] = {{
      .name = "mask",
      .type = LK_ST_U8,
      .n_dims = 3,
      .shape = {info->n_layers, info->n_kv_heads, info->head_dim},
      .data = content->kept,
      .n_bytes = n,
  }};
  tensors[1] = tensors[0];
  tensors[1].name = "alpha";
  tensors[1].type = LK_ST_F32;
  tensors[1].data = content->alpha;
  tensors[1].n_bytes = n * sizeof(float);
  return lk_safetensors_save(path, tensors, content->alpha ? 2 : 1,
                             (const char *const(*)[2])m.pairs, m.n, err);
}

leank_status lk_mask_file_save_pth(const lk_mask_content *content, const char *path,
                                   leank_error *err) {
  const leank_mask_info *info = &content->info;
  const size_t n = info->n_layers * info->n_kv_heads * info->head_dim;
  float *values = lk_alloc(LK_MEM_OTHER, n, sizeof *values);
  if (!values) return lk_fail(err, LEANK_E_MEMORY, -1, "%s: out of memory", path);
  for (size_t i = 0; i < n; i++) values[i] = content->kept[i];
  const lk_pth_array array = {info->n_layers, info->n_kv_heads, info->head_dim, values};
  leank_status status = lk_pth_save(path, &array, err);
  lk_free(values);
  return status;
}
