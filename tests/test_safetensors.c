/* safetensors: what is read, refused and written. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/map.h"
#include "formats/safetensors.h"
#include "support/byte_string.h"
#include "support/hostile.h"

static leank_status open_close(const void *bytes, size_t n_bytes, leank_error *err) {
  lk_safetensors *st = NULL;
  leank_status status = lk_safetensors_open_memory(bytes, n_bytes, "test.st", &st, err);
  assert_true((st != NULL) == (status == LEANK_OK));
  lk_safetensors_close(&st);
  assert_null(st);
  return status;
}

/* The header as given and n bytes of data. */
static const byte_string *file_of(const char *header, size_t n_data) {
  static byte_string s;
  s.n = 0;
  put_u64(&s, strlen(header));
  put_text(&s, header);
  for (size_t i = 0; i < n_data; i++) put_u8(&s, (unsigned)i);
  return &s;
}

static const char full_header[] =
    "{\"__metadata__\":{\"format\":\"pt\",\"who\":\"\\u00fc\"},"
    "\"late\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[8,24]},"
    "\"early\":{\"dtype\":\"BF16\",\"shape\":[4],\"data_offsets\":[0,8]},"
    "\"scalar\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[24,25]},"
    "\"empty\":{\"dtype\":\"F64\",\"shape\":[3,0],\"data_offsets\":[24,24]},"
    "\"odd\":{\"dtype\":\"U16\",\"shape\":[1],\"data_offsets\":[25,27]}}  ";

static void test_reading(void **state) {
  (void)state;
  const byte_string *s = file_of(full_header, 27);
  const unsigned char *data = s->bytes + s->n - 27;
  lk_safetensors *st = NULL;
  leank_error err;
  assert_int_equal(lk_safetensors_open_memory(s->bytes, s->n, "x", &st, &err), LEANK_OK);
  assert_int_equal(lk_safetensors_n_tensors(st), 5);
  const char *const names[] = {"early", "late", "empty", "scalar", "odd"};
  const lk_st_type types[] = {LK_ST_BF16, LK_ST_F32, LK_ST_F64, LK_ST_U8, LK_ST_OTHER};
  const size_t offsets[] = {0, 8, 24, 24, 25}, sizes[] = {8, 16, 0, 1, 2}, dims[] = {1, 2, 2, 0, 1};
  for (size_t i = 0; i < 5; i++) {
    const lk_st_tensor *t = lk_safetensors_at(st, i);
    assert_string_equal(t->name, names[i]);
    assert_ptr_equal(t, lk_safetensors_find(st, names[i]));
    assert_int_equal(t->type, types[i]);
    assert_int_equal(t->n_dims, dims[i]);
    assert_int_equal(t->n_bytes, sizes[i]);
    assert_ptr_equal(t->data, data + offsets[i]);
  }
  assert_int_equal(lk_safetensors_at(st, 1)->shape[0], 2);
  assert_int_equal(lk_safetensors_at(st, 2)->shape[1], 0);
  assert_null(lk_safetensors_find(st, "__metadata__"));
  assert_null(lk_safetensors_find(st, "x"));
  assert_string_equal(lk_safetensors_metadata(st, "format"), "pt");
  assert_string_equal(lk_safetensors_metadata(st, "who"), "\xc3\xbc");
  assert_null(lk_safetensors_metadata(st, "late"));
  lk_safetensors_close(&st);
  lk_safetensors_close(&st);
  lk_safetensors_close(NULL);
}

static void test_no_metadata(void **state) {
  (void)state;
  const byte_string *s = file_of("{}", 0);
  lk_safetensors *st = NULL;
  leank_error err;
  assert_int_equal(lk_safetensors_open_memory(s->bytes, s->n, "x", &st, &err), LEANK_OK);
  assert_int_equal(lk_safetensors_n_tensors(st), 0);
  assert_null(lk_safetensors_metadata(st, "format"));
  assert_null(lk_safetensors_find(st, "x"));
  lk_safetensors_close(&st);
}

static void expect(const char *header, size_t n_data, leank_status status, const char *part) {
  const byte_string *s = file_of(header, n_data);
  hostile_expect(open_close, s->bytes, s->n, status, part);
}

static void test_bad_headers(void **state) {
  (void)state;
  byte_string *s = malloc(sizeof *s);
  const uint64_t lengths[] = {3, 100, 100000001, UINT64_MAX - 7, UINT64_MAX};
  for (size_t i = 0; i < 5; i++) {
    s->n = 0;
    put_u64(s, lengths[i]);
    put_text(s, "{}");
    hostile_expect(open_close, s->bytes, s->n, LEANK_E_FORMAT, "does not fit");
  }
  free(s);
  expect("", 0, LEANK_E_FORMAT, "no JSON object");
  expect("[]", 0, LEANK_E_FORMAT, "no JSON object");
  expect(" {}", 0, LEANK_E_FORMAT, "no JSON object");
  expect("{", 0, LEANK_E_FORMAT, "bad header");
  expect("{}x", 0, LEANK_E_FORMAT, "bad header");
  expect("{\"a\\u0000b\":1}", 0, LEANK_E_FORMAT, "bad header");
  expect("{\"a\xff\":1}", 0, LEANK_E_FORMAT, "bad header");
  expect("{\"a\":[[[[[[[[[[1]]]]]]]]]]}", 0, LEANK_E_FORMAT, "nested too deeply");
  expect("{\"__metadata__\":[]}", 0, LEANK_E_FORMAT, "no object");
  expect("{\"__metadata__\":{\"a\":1}}", 0, LEANK_E_FORMAT, "'a' is no string");
  expect("{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}}", 0, LEANK_E_FORMAT, "duplicate");
  expect("{\"a\":7}", 0, LEANK_E_FORMAT, "'a' is no object");
}

/* A header of commas would be many times as large in memory. */
static void test_many_elements(void **state) {
  (void)state;
  const size_t n = 9000000;
  unsigned char *bytes = malloc(n);
  byte_string *s = malloc(sizeof *s);
  s->n = 0;
  put_u64(s, n - 8);
  put_text(s, "{\"a\":[0");
  memcpy(bytes, s->bytes, s->n);
  for (size_t i = s->n; i + 1 < n; i += 2) memcpy(bytes + i, ",0", 2);
  memcpy(bytes + n - 2, "]}", 2);
  hostile_expect(open_close, bytes, n, LEANK_E_FORMAT, "too many elements");
  free(bytes);
  free(s);
}

static void test_bad_tensors(void **state) {
  (void)state;
#define T(fields) "{\"t\":{" fields "}}"
  expect(T("\"shape\":[1],\"data_offsets\":[0,1]"), 1, LEANK_E_FORMAT, "no dtype");
  expect(T("\"dtype\":5,\"shape\":[1],\"data_offsets\":[0,1]"), 1, LEANK_E_FORMAT, "no dtype");
  expect(T("\"dtype\":\"F4\",\"shape\":[1],\"data_offsets\":[0,1]"), 1, LEANK_E_UNSUPPORTED,
         "type 'F4'");
  expect(T("\"dtype\":\"U8\",\"data_offsets\":[0,1]"), 1, LEANK_E_FORMAT, "no shape");
  expect(T("\"dtype\":\"U8\",\"shape\":[1]"), 1, LEANK_E_FORMAT, "no data_offsets");
  expect(T("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0]"), 1, LEANK_E_FORMAT,
         "no data_offsets");
  expect(T("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,1]"), 1, LEANK_E_FORMAT,
         "no data_offsets");
  expect(T("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[-1,0]"), 1, LEANK_E_FORMAT,
         "no data_offsets");
  expect(T("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1.0]"), 1, LEANK_E_FORMAT,
         "no data_offsets");
  expect(T("\"dtype\":\"U8\",\"shape\":[-1],\"data_offsets\":[0,1]"), 1, LEANK_E_FORMAT,
         "bad shape");
  expect(T("\"dtype\":\"U8\",\"shape\":[true],\"data_offsets\":[0,1]"), 1, LEANK_E_FORMAT,
         "bad shape");
  expect(T("\"dtype\":\"F64\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]"), 0,
         LEANK_E_FORMAT, "bad shape");
  expect(T("\"dtype\":\"U8\",\"shape\":[99999999999999999999],\"data_offsets\":[0,1]"), 1,
         LEANK_E_FORMAT, "bad header");
  expect(T("\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]"), 1,
         LEANK_E_UNSUPPORTED, "9 dimensions");
  expect(T("\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]"), 1, LEANK_E_FORMAT,
         "beyond the file");
  expect(T("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,0]"), 1, LEANK_E_FORMAT,
         "beyond the file");
  expect(T("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[9223372036854775807,"
           "9223372036854775807]"),
         1, LEANK_E_FORMAT, "beyond the file");
  expect(T("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,1]"), 1, LEANK_E_FORMAT,
         "shape needs 4");
  expect(T("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]"), 2, LEANK_E_FORMAT,
         "begins at 1");
  expect(T("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]"), 2, LEANK_E_FORMAT,
         "1 bytes behind");
  expect("{}", 1, LEANK_E_FORMAT, "1 bytes behind");
#undef T
#define T(name, from, to)                                                                          \
  "\"" name "\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[" from "," to "]}"
  expect("{" T("a", "0", "2") "," T("b", "1", "3") "}", 3, LEANK_E_FORMAT, "'b' begins at 1");
  expect("{" T("a", "0", "2") "," T("b", "0", "2") "}", 2, LEANK_E_FORMAT, "'b' begins at 0");
  expect("{" T("a", "0", "2") "," T("b", "3", "5") "}", 5, LEANK_E_FORMAT, "'b' begins at 3");
  expect("{" T("a", "0", "2") "," T("a", "2", "4") "}", 4, LEANK_E_FORMAT, "duplicate");
#undef T
}

static void test_hostile(void **state) {
  (void)state;
  const byte_string *s = file_of(full_header, 27);
  hostile_truncations(open_close, s->bytes, s->n);
  hostile_flips(open_close, s->bytes, s->n - 27);
  hostile_allocations(open_close, s->bytes, s->n);
}

/* ---- writing ---- */

static const char path[] = LEANK_TEST_TMP "/test_safetensors.safetensors";

static void test_round_trip(void **state) {
  (void)state;
  const uint8_t bytes[3] = {1, 0, 1};
  const double doubles[2] = {0.1, -2};
  const uint16_t halves[3] = {1, 2, 3};
  const lk_st_tensor tensors[] = {
      {.name = "bytes",
       .type = LK_ST_U8,
       .n_dims = 2,
       .shape = {1, 3},
       .data = bytes,
       .n_bytes = 3},
      {.name = "dou\"bles",
       .type = LK_ST_F64,
       .n_dims = 1,
       .shape = {2},
       .data = doubles,
       .n_bytes = 16},
      {.name = "none", .type = LK_ST_F32, .n_dims = 1, .shape = {0}, .data = NULL, .n_bytes = 0},
      {.name = "halves",
       .type = LK_ST_BF16,
       .n_dims = 1,
       .shape = {3},
       .data = halves,
       .n_bytes = 6},
  };
  const char *const metadata[][2] = {{"a", "1"}, {"text", "line\n\"quoted\" \xc3\xbc"}};
  leank_error err = {.code = LEANK_OK};
  lk_safetensors *st = NULL;
  assert_int_equal(lk_safetensors_save(path, tensors, 4, metadata, 2, &err), LEANK_OK);
  if (lk_safetensors_open(path, &st, &err) != LEANK_OK) fail_msg("%s", err.message);
  assert_int_equal(lk_safetensors_n_tensors(st), 4);
  for (size_t i = 0; i < 4; i++) {
    const lk_st_tensor *t = lk_safetensors_find(st, tensors[i].name);
    assert_non_null(t);
    assert_int_equal(t->type, tensors[i].type);
    assert_int_equal(t->n_dims, tensors[i].n_dims);
    assert_memory_equal(t->shape, tensors[i].shape, sizeof t->shape);
    assert_int_equal(t->n_bytes, tensors[i].n_bytes);
    if (t->n_bytes > 0) assert_memory_equal(t->data, tensors[i].data, t->n_bytes);
  }
  /* The data begin at a multiple of 8, wide types first: all are aligned in a mapped file. */
  assert_int_equal((uintptr_t)lk_safetensors_find(st, "dou\"bles")->data % 8, 0);
  assert_int_equal((uintptr_t)lk_safetensors_find(st, "halves")->data % 2, 0);
  assert_string_equal(lk_safetensors_metadata(st, "text"), metadata[1][1]);
  lk_safetensors_close(&st);
  remove(path);
}

static void test_bad_writes(void **state) {
  (void)state;
  const uint8_t bytes[4] = {0};
  const lk_st_tensor good = {
      .name = "t", .type = LK_ST_U8, .n_dims = 1, .shape = {4}, .data = bytes, .n_bytes = 4};
  lk_st_tensor t[2] = {good, good};
  const char *const twice[][2] = {{"a", "1"}, {"a", "2"}};
  const char *const no_utf8[][2] = {{"a", "\xff"}};
  leank_error err;
  assert_int_equal(lk_safetensors_save(path, t, 2, NULL, 0, &err), LEANK_E_ARGUMENT);
  assert_int_equal(lk_safetensors_save(path, t, 1, twice, 2, &err), LEANK_E_ARGUMENT);
  assert_int_equal(lk_safetensors_save(path, t, 1, no_utf8, 1, &err), LEANK_E_ARGUMENT);
  t[0].n_bytes = 3;
  assert_int_equal(lk_safetensors_save(path, t, 1, NULL, 0, &err), LEANK_E_ARGUMENT);
  t[0] = good;
  t[0].type = LK_ST_OTHER;
  assert_int_equal(lk_safetensors_save(path, t, 1, NULL, 0, &err), LEANK_E_ARGUMENT);
  t[0] = good;
  t[0].name = "__metadata__";
  assert_int_equal(lk_safetensors_save(path, t, 1, NULL, 0, &err), LEANK_E_ARGUMENT);
  t[0] = good;
  t[0].name = "\xc3";
  assert_int_equal(lk_safetensors_save(path, t, 1, NULL, 0, &err), LEANK_E_ARGUMENT);
  assert_int_equal(remove(path), -1);
  assert_int_equal(lk_safetensors_save("/nowhere/at/all", &good, 1, NULL, 0, &err), LEANK_E_IO);
  lk_safetensors *st = NULL;
  assert_int_equal(lk_safetensors_open(path, &st, &err), LEANK_E_IO);
}

/* Of allocations of the JSON library, the nth and all behind it fail. */
static size_t n_json_left;

static void *short_malloc(size_t n) {
  if (n_json_left == 0) return NULL;
  n_json_left--;
  return malloc(n);
}

/* Wherever memory for the header ends, it is told as that, and nothing is written. */
static void test_writes_without_memory(void **state) {
  (void)state;
  const uint8_t bytes[4] = {0};
  const lk_st_tensor tensors[2] = {
      {.name = "t", .type = LK_ST_U8, .n_dims = 2, .shape = {2, 2}, .data = bytes, .n_bytes = 4},
      {.name = "u", .type = LK_ST_U8, .n_dims = 1, .shape = {4}, .data = bytes, .n_bytes = 4}};
  const char *const metadata[][2] = {{"a", "1"}, {"b", "2"}};
  leank_status status = LEANK_E_MEMORY;
  size_t n = 0;
  for (; status != LEANK_OK; n++) {
    leank_error err = {.code = LEANK_OK};
    n_json_left = n;
    json_set_alloc_funcs(short_malloc, free);
    status = lk_safetensors_save(path, tensors, 2, metadata, 2, &err);
    json_set_alloc_funcs(malloc, free);
    if (status == LEANK_OK) break;
    assert_int_equal(status, LEANK_E_MEMORY);
    assert_int_equal(err.code, LEANK_E_MEMORY);
    assert_int_equal(remove(path), -1);
  }
  assert_in_range(n, 20, 1000);
  lk_safetensors *st = NULL;
  assert_int_equal(lk_safetensors_open(path, &st, NULL), LEANK_OK);
  assert_int_equal(lk_safetensors_at(st, 0)->n_dims, 2);
  lk_safetensors_close(&st);
  remove(path);
}

/* A file of the reference implementation (scripts/goldens/formats.py). */
static void test_reference_file(void **state) {
  (void)state;
  lk_safetensors *st = NULL;
  leank_error err = {.code = LEANK_OK};
  if (lk_safetensors_open(LEANK_TEST_DATA "/formats/reference.safetensors", &st, &err) != LEANK_OK)
    fail_msg("%s", err.message);
  assert_string_equal(lk_safetensors_metadata(st, "made by"), "safetensors");
  const lk_st_tensor *t = lk_safetensors_find(st, "f32");
  float f[6];
  assert_true(t && t->type == LK_ST_F32 && t->n_dims == 2 && t->shape[0] == 2 && t->shape[1] == 3);
  memcpy(f, t->data, sizeof f);
  for (int i = 0; i < 6; i++) assert_true(f[i] == (float)i / 2);
  t = lk_safetensors_find(st, "i64");
  int64_t i64;
  assert_true(t && t->type == LK_ST_I64 && t->n_dims == 0);
  memcpy(&i64, t->data, sizeof i64);
  assert_true(i64 == -5);
  t = lk_safetensors_find(st, "bf16");
  assert_true(t && t->type == LK_ST_BF16 && t->n_bytes == 6);
  assert_memory_equal(t->data, "\x80\x3f\x00\x40\x40\x40", 6); /* 1, 2, 3 */
  assert_int_equal(lk_safetensors_find(st, "bool")->type, LK_ST_BOOL);
  assert_int_equal(lk_safetensors_n_tensors(st), 4);
  lk_safetensors_close(&st);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_reading),     cmocka_unit_test(test_no_metadata),
      cmocka_unit_test(test_bad_headers), cmocka_unit_test(test_many_elements),
      cmocka_unit_test(test_bad_tensors), cmocka_unit_test(test_hostile),
      cmocka_unit_test(test_round_trip),  cmocka_unit_test(test_writes_without_memory),
      cmocka_unit_test(test_bad_writes),  cmocka_unit_test(test_reference_file),
  };
  return cmocka_run_group_tests_name("safetensors", tests, NULL, NULL);
}
