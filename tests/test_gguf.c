/* GGUF files: what is read, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/map.h"
#include "formats/gguf.h"
#include "support/byte_string.h"
#include "support/hostile.h"

/* Value types of the format. */
enum { U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 };
/* Tensor types. */
enum { T_F32 = 0, T_F16 = 1, T_Q4_0 = 2, T_Q4_1 = 3, T_Q8_0 = 8, T_Q4_K = 12, T_BF16 = 30 };

static leank_status open_close(const void *bytes, size_t n_bytes, leank_error *err) {
  lk_gguf *g = NULL;
  leank_status status = lk_gguf_open_memory(bytes, n_bytes, "test.gguf", &g, err);
  assert_true((g != NULL) == (status == LEANK_OK));
  lk_gguf_close(&g);
  assert_null(g);
  return status;
}

/* ---- building ---- */

static void put_string(byte_string *s, const char *text) {
  put_u64(s, strlen(text));
  put_text(s, text);
}

static void put_header(byte_string *s, uint32_t version, uint64_t n_tensors, uint64_t n_keys) {
  s->n = 0;
  put_text(s, "GGUF");
  put_u32(s, version);
  put_u64(s, n_tensors);
  put_u64(s, n_keys);
}

static void put_key(byte_string *s, const char *key, uint32_t type) {
  put_string(s, key);
  put_u32(s, type);
}

static void put_array(byte_string *s, const char *key, uint32_t element, uint64_t n) {
  put_key(s, key, ARRAY);
  put_u32(s, element);
  put_u64(s, n);
}

/* Sizes end with a 0. */
static void put_tensor(byte_string *s, const char *name, const uint64_t *ne, uint32_t type,
                       uint64_t offset) {
  uint32_t n_dims = 0;
  while (ne[n_dims]) n_dims++;
  put_string(s, name);
  put_u32(s, n_dims);
  for (uint32_t i = 0; i < n_dims; i++) put_u64(s, ne[i]);
  put_u32(s, type);
  put_u64(s, offset);
}

#define NE(...) ((const uint64_t[]){__VA_ARGS__, 0})

static void put_data(byte_string *s, size_t alignment, size_t n) {
  while (s->n % alignment) put_u8(s, 0);
  for (size_t i = 0; i < n; i++) put_u8(s, (unsigned)(i * 7 + 3));
}

/* Every value type, arrays of each kind, and tensors of one to four dimensions. */
static byte_string *full_file(uint32_t version) {
  byte_string *s = malloc(sizeof *s);
  put_header(s, version, 4, 19);
  put_key(s, "u8", U8), put_u8(s, 200);
  put_key(s, "i8", I8), put_u8(s, 0xfe);
  put_key(s, "u16", U16), put_u16(s, 60000);
  put_key(s, "i16", I16), put_u16(s, 0x8000);
  put_key(s, "u32", U32), put_u32(s, 4000000000u);
  put_key(s, "i32", I32), put_u32(s, 17);
  put_key(s, "f32", F32), put_f32(s, 1.5f);
  put_key(s, "bool", BOOL), put_u8(s, 1);
  put_key(s, "string", STRING), put_u64(s, 5), put_bytes(s, "a\0b\xff\n", 5);
  put_key(s, "u64", U64), put_u64(s, UINT64_MAX);
  put_key(s, "i64", I64), put_u64(s, (uint64_t)INT64_MIN);
  put_key(s, "f64", F64), put_f64(s, 0.1);
  put_key(s, "empty", STRING), put_u64(s, 0);
  put_array(s, "strings", STRING, 3), put_string(s, "x"), put_string(s, ""), put_string(s, "long");
  put_array(s, "i16s", I16, 2), put_u16(s, 5), put_u16(s, 0xffff);
  put_array(s, "u64s", U64, 2), put_u64(s, 7), put_u64(s, UINT64_MAX);
  put_array(s, "f32s", F32, 2), put_f32(s, -2.5f), put_f32(s, 3);
  put_array(s, "none", I32, 0);
  put_array(s, "bools", BOOL, 2), put_u8(s, 0), put_u8(s, 1);
  put_tensor(s, "vector", NE(6), T_F32, 0);                 /* 24 bytes */
  put_tensor(s, "quants", NE(64, 3), T_Q8_0, 32);           /* 3 x 68 = 204 bytes */
  put_tensor(s, "cube", NE(2, 3, 4), T_F16, 256);           /* 48 bytes */
  put_tensor(s, "four", NE(256, 1, 2, 1), T_Q4_K, 32 * 10); /* 2 x 144 bytes */
  put_data(s, 32, 320 + 288);
  return s;
}

static lk_gguf *open_full(const byte_string *s) {
  lk_gguf *g = NULL;
  leank_error err;
  assert_int_equal(lk_gguf_open_memory(s->bytes, s->n, "full.gguf", &g, &err), LEANK_OK);
  return g;
}

/* ---- reading ---- */

static void test_scalars(void **state) {
  (void)state;
  byte_string *s = full_file(3);
  lk_gguf *g = open_full(s);
  uint64_t u = 1;
  double f = 0;
  bool b = false;
  const char *text;
  size_t n;
  assert_string_equal(lk_gguf_name(g), "full.gguf");
  assert_true(lk_gguf_has(g, "u8") && !lk_gguf_has(g, "u") && !lk_gguf_has(g, ""));
  assert_true(lk_gguf_u64(g, "u8", &u) && u == 200);
  assert_true(lk_gguf_u64(g, "u16", &u) && u == 60000);
  assert_true(lk_gguf_u64(g, "u32", &u) && u == 4000000000u);
  assert_true(lk_gguf_u64(g, "i32", &u) && u == 17);
  assert_true(lk_gguf_u64(g, "u64", &u) && u == UINT64_MAX);
  u = 42; /* negative, of another kind, or absent: left alone */
  assert_false(lk_gguf_u64(g, "i8", &u) || lk_gguf_u64(g, "i16", &u) || lk_gguf_u64(g, "i64", &u));
  assert_false(lk_gguf_u64(g, "f32", &u) || lk_gguf_u64(g, "bool", &u) ||
               lk_gguf_u64(g, "string", &u) || lk_gguf_u64(g, "i16s", &u) ||
               lk_gguf_u64(g, "absent", &u));
  assert_int_equal(u, 42);
  assert_true(lk_gguf_f64(g, "f32", &f) && f == 1.5);
  assert_true(lk_gguf_f64(g, "f64", &f) && f == 0.1);
  assert_true(lk_gguf_f64(g, "i8", &f) && f == -2);
  assert_true(lk_gguf_f64(g, "i16", &f) && f == -32768);
  assert_true(lk_gguf_f64(g, "i64", &f) && f == -0x1p63);
  assert_true(lk_gguf_f64(g, "u64", &f) && f == 0x1p64);
  assert_false(lk_gguf_f64(g, "bool", &f) || lk_gguf_f64(g, "string", &f));
  assert_true(lk_gguf_bool(g, "bool", &b) && b);
  assert_false(lk_gguf_bool(g, "u8", &b));
  assert_true(lk_gguf_str(g, "string", &text, &n) && n == 5);
  assert_memory_equal(text, "a\0b\xff\n", 6);
  assert_true(lk_gguf_str(g, "empty", &text, &n) && n == 0 && text[0] == 0);
  assert_false(lk_gguf_str(g, "strings", &text, &n) || lk_gguf_str(g, "u8", &text, &n));
  lk_gguf_close(&g);
  lk_gguf_close(&g);
  lk_gguf_close(NULL);
  free(s);
}

static void test_arrays(void **state) {
  (void)state;
  byte_string *s = full_file(2); /* version 2 reads the same */
  lk_gguf *g = open_full(s);
  const char *text;
  size_t n = 9;
  int64_t i = 0;
  assert_true(lk_gguf_array_count(g, "strings", &n) && n == 3);
  assert_true(lk_gguf_array_str(g, "strings", 2, &text, &n) && n == 4);
  assert_memory_equal(text, "long", 4);
  assert_true(lk_gguf_array_str(g, "strings", 1, &text, &n) && n == 0);
  assert_true(lk_gguf_array_str(g, "strings", 0, &text, &n) && n == 1 && text[0] == 'x');
  assert_false(lk_gguf_array_str(g, "strings", 3, &text, &n) ||
               lk_gguf_array_str(g, "i16s", 0, &text, &n) ||
               lk_gguf_array_str(g, "string", 0, &text, &n));
  assert_true(lk_gguf_array_i64(g, "i16s", 0, &i) && i == 5);
  assert_true(lk_gguf_array_i64(g, "i16s", 1, &i) && i == -1);
  assert_true(lk_gguf_array_i64(g, "u64s", 0, &i) && i == 7);
  assert_false(lk_gguf_array_i64(g, "u64s", 1, &i) || lk_gguf_array_i64(g, "i16s", 2, &i) ||
               lk_gguf_array_i64(g, "f32s", 0, &i) || lk_gguf_array_i64(g, "strings", 0, &i) ||
               lk_gguf_array_i64(g, "bools", 0, &i));
  assert_true(lk_gguf_array_count(g, "none", &n) && n == 0);
  assert_false(lk_gguf_array_i64(g, "none", 0, &i));
  assert_false(lk_gguf_array_count(g, "u8", &n) || lk_gguf_array_count(g, "absent", &n));
  lk_gguf_close(&g);
  free(s);
}

static void check_tensor(const lk_gguf *g, const byte_string *s, size_t i, const char *name,
                         lk_dtype type, size_t n_rows, size_t n_cols, size_t from_end) {
  assert_string_equal(lk_gguf_tensor_name(g, i), name);
  const lk_tensor by_name = lk_gguf_tensor(g, name), at = lk_gguf_tensor_at(g, i);
  assert_memory_equal(&by_name, &at, sizeof at);
  assert_int_equal(at.type, type);
  assert_int_equal(at.n_rows, n_rows);
  assert_int_equal(at.n_cols, n_cols);
  assert_ptr_equal(at.data, s->bytes + s->n - from_end);
}

static void test_tensors(void **state) {
  (void)state;
  byte_string *s = full_file(3);
  lk_gguf *g = open_full(s);
  const size_t n = 320 + 288;
  assert_int_equal(lk_gguf_n_tensors(g), 4);
  check_tensor(g, s, 0, "vector", LK_F32, 1, 6, n);
  check_tensor(g, s, 1, "quants", LK_Q8_0, 3, 64, n - 32);
  check_tensor(g, s, 2, "cube", LK_F16, 12, 2, n - 256);
  check_tensor(g, s, 3, "four", LK_Q4_K, 2, 256, n - 320);
  assert_null(lk_gguf_tensor(g, "fou").data);
  assert_null(lk_gguf_tensor(g, "").data);
  lk_gguf_close(&g);
  free(s);
}

/* Names in any order are found; the index holds thousands. */
static void test_many_names(void **state) {
  (void)state;
  byte_string *s = malloc(sizeof *s);
  char key[16];
  uint64_t u = 0;
  enum { N = 2000 };
  put_header(s, 3, 0, N);
  for (unsigned i = 0; i < N; i++) {
    snprintf(key, sizeof key, "k%u", i * 7919 % N);
    put_key(s, key, U32), put_u32(s, i);
  }
  lk_gguf *g = open_full(s);
  for (unsigned i = 0; i < N; i++) {
    snprintf(key, sizeof key, "k%u", i * 7919 % N);
    assert_true(lk_gguf_u64(g, key, &u) && u == i);
  }
  assert_false(lk_gguf_has(g, "k2000"));
  lk_gguf_close(&g);
  free(s);
}

static void test_alignment(void **state) {
  (void)state;
  byte_string *s = malloc(sizeof *s);
  for (uint64_t alignment = 8; alignment <= 4096; alignment *= 2) {
    put_header(s, 3, 2, 1);
    put_key(s, "general.alignment", U64), put_u64(s, alignment);
    put_tensor(s, "a", NE(1), T_F32, alignment);
    put_tensor(s, "b", NE(1), T_F32, 0); /* order of data and of infos are independent */
    put_data(s, alignment, alignment + 4);
    lk_gguf *g = open_full(s);
    assert_ptr_equal(lk_gguf_tensor(g, "a").data, s->bytes + s->n - 4);
    assert_ptr_equal(lk_gguf_tensor(g, "b").data, s->bytes + s->n - 4 - alignment);
    lk_gguf_close(&g);
  }
  const uint64_t bad[] = {0, 1, 4, 12, 33, 1 << 21, UINT64_MAX};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    put_header(s, 3, 0, 1);
    put_key(s, "general.alignment", U64), put_u64(s, bad[i]);
    hostile_expect(open_close, s->bytes, s->n, LEANK_E_FORMAT, "general.alignment");
  }
  put_header(s, 3, 0, 1);
  put_key(s, "general.alignment", STRING), put_string(s, "32");
  hostile_expect(open_close, s->bytes, s->n, LEANK_E_FORMAT, "general.alignment");
  free(s);
}

/* A vocabulary alone: nothing need follow the metadata. */
static void test_no_tensors(void **state) {
  (void)state;
  byte_string *s = malloc(sizeof *s);
  put_header(s, 3, 0, 1);
  put_key(s, "x", U8), put_u8(s, 1);
  leank_error err;
  assert_int_equal(open_close(s->bytes, s->n, &err), LEANK_OK);
  put_header(s, 3, 0, 0);
  assert_int_equal(open_close(s->bytes, s->n, &err), LEANK_OK);
  free(s);
}

/* ---- refusing ---- */

static void test_bad_headers(void **state) {
  (void)state;
  byte_string *s = malloc(sizeof *s);
  hostile_expect(open_close, "", 0, LEANK_E_FORMAT, "is not a GGUF");
  hostile_expect(open_close, "GGUFX", 5, LEANK_E_FORMAT, "ends");
  hostile_expect(open_close, "GGML\3\0\0\0", 8, LEANK_E_FORMAT, "is not a GGUF");
  const uint32_t versions[] = {0, 1, 4, 0xffffffffu};
  for (size_t i = 0; i < 4; i++) {
    put_header(s, versions[i], 0, 0);
    hostile_expect(open_close, s->bytes, s->n, LEANK_E_UNSUPPORTED, "version");
  }
  put_header(s, 0x03000000u, 0, 0);
  hostile_expect(open_close, s->bytes, s->n, LEANK_E_UNSUPPORTED, "big-endian");
  const uint64_t counts[] = {1, 1000, 1 << 20, UINT32_MAX, (uint64_t)1 << 60, UINT64_MAX};
  for (size_t i = 0; i < 6; i++) {
    put_header(s, 3, counts[i], 0);
    hostile_expect(open_close, s->bytes, s->n, LEANK_E_FORMAT, "tensors do not fit");
    put_header(s, 3, 0, counts[i]);
    hostile_expect(open_close, s->bytes, s->n, LEANK_E_FORMAT, "keys do not fit");
  }
  free(s);
}

/* One key with a broken value. The padding behind lets its minimal entry fit the count check. */
static void expect_key(byte_string *s, leank_status status, const char *part) {
  for (int i = 0; i < 32; i++) put_u8(s, 0);
  hostile_expect(open_close, s->bytes, s->n, status, part);
  put_header(s, 3, 0, 1);
}

static void test_bad_metadata(void **state) {
  (void)state;
  byte_string *s = malloc(sizeof *s);
  put_header(s, 3, 0, 1);
  put_key(s, "", U8);
  expect_key(s, LEANK_E_FORMAT, "bad key");
  put_u64(s, 3), put_bytes(s, "a\0b", 3), put_u32(s, U8);
  expect_key(s, LEANK_E_FORMAT, "bad key");
  put_u64(s, UINT64_MAX), put_text(s, "abc");
  expect_key(s, LEANK_E_FORMAT, "does not fit the file");
  put_key(s, "type", 13);
  expect_key(s, LEANK_E_FORMAT, "unknown type 13");
  put_key(s, "bool", BOOL), put_u8(s, 2);
  expect_key(s, LEANK_E_FORMAT, "boolean");
  put_array(s, "bools", BOOL, 2), put_u8(s, 1), put_u8(s, 255);
  expect_key(s, LEANK_E_FORMAT, "boolean");
  put_key(s, "text", STRING), put_u64(s, 1 << 20);
  expect_key(s, LEANK_E_FORMAT, "does not fit the file");
  put_array(s, "array", 14, 1);
  expect_key(s, LEANK_E_FORMAT, "unknown array type 14");
  put_array(s, "nested\n", ARRAY, 1);
  expect_key(s, LEANK_E_UNSUPPORTED, "'nested?' is an array of arrays");
  const uint64_t counts[] = {1000, (uint64_t)1 << 61, ((uint64_t)1 << 61) + 1, UINT64_MAX};
  for (size_t i = 0; i < 4; i++) {
    put_array(s, "u64s", U64, counts[i]);
    expect_key(s, LEANK_E_FORMAT, "does not fit the file");
    put_array(s, "strings", STRING, counts[i]);
    expect_key(s, LEANK_E_FORMAT, "does not fit the file");
  }
  put_array(s, "strings", STRING, 2), put_string(s, "ab"), put_u64(s, 1000);
  expect_key(s, LEANK_E_FORMAT, "does not fit the file");
  put_header(s, 3, 0, 3);
  put_key(s, "twice", U8), put_u8(s, 1);
  put_key(s, "once", U8), put_u8(s, 1);
  put_key(s, "twice", BOOL), put_u8(s, 1);
  hostile_expect(open_close, s->bytes, s->n, LEANK_E_FORMAT, "two keys named 'twice'");
  free(s);
}

static void expect_tensor(byte_string *s, size_t n_data, leank_status status, const char *part) {
  put_data(s, 32, n_data);
  hostile_expect(open_close, s->bytes, s->n, status, part);
  put_header(s, 3, 1, 0);
}

static void test_bad_tensors(void **state) {
  (void)state;
  byte_string *s = malloc(sizeof *s);
  char name[66];
  memset(name, 'n', sizeof name);
  name[65] = 0;
  put_header(s, 3, 1, 0);
  put_tensor(s, name, NE(1), T_F32, 0);
  expect_tensor(s, 64, LEANK_E_FORMAT, "bad tensor name");
  name[64] = 0;
  put_tensor(s, name, NE(1), T_F32, 0);
  put_data(s, 32, 4);
  leank_error err;
  assert_int_equal(open_close(s->bytes, s->n, &err), LEANK_OK);
  put_header(s, 3, 1, 0);
  put_tensor(s, "t", NE(0), T_F32, 0);
  expect_tensor(s, 64, LEANK_E_FORMAT, "0 dimensions");
  put_tensor(s, "t", NE(1, 1, 1, 1, 1), T_F32, 0);
  expect_tensor(s, 64, LEANK_E_FORMAT, "5 dimensions");
  put_string(s, "t"), put_u32(s, 2), put_u64(s, 4), put_u64(s, 0), put_u32(s, 0), put_u64(s, 0);
  expect_tensor(s, 64, LEANK_E_FORMAT, "size 0 in dimension 1");
  put_tensor(s, "t", NE(33), T_Q8_0, 0);
  expect_tensor(s, 640, LEANK_E_FORMAT, "not a multiple of the 32 of Q8_0");
  put_tensor(s, "t", NE(128, 2), T_Q4_K, 0);
  expect_tensor(s, 640, LEANK_E_FORMAT, "not a multiple of the 256 of Q4_K");
  put_tensor(s, "t", NE(256), 16, 0);
  expect_tensor(s, 640, LEANK_E_UNSUPPORTED, "tensor 't' has type 16 (IQ2_XXS)");
  put_tensor(s, "t", NE(256), 999, 0);
  expect_tensor(s, 640, LEANK_E_UNSUPPORTED, "type 999 (unknown)");
  put_tensor(s, "t", NE(1), T_F32, 16);
  expect_tensor(s, 64, LEANK_E_FORMAT, "not aligned to 32");
  put_tensor(s, "t", NE(1), T_F32, 64);
  expect_tensor(s, 64, LEANK_E_FORMAT, "beyond the file");
  put_tensor(s, "t", NE(17), T_F32, 0);
  expect_tensor(s, 64, LEANK_E_FORMAT, "beyond the file");
  put_tensor(s, "t", NE(1), T_F32, UINT64_MAX - 31);
  expect_tensor(s, 64, LEANK_E_FORMAT, "beyond the file");
  /* Sizes whose product, or whose bytes, wrap to something small. */
  const uint64_t g = (uint64_t)1 << 32;
  put_tensor(s, "t", NE(4, g, g), T_F32, 0);
  expect_tensor(s, 64, LEANK_E_FORMAT, "size 4294967296 in dimension 2");
  put_tensor(s, "t", NE(g, g / 2), T_F32, 0);
  expect_tensor(s, 64, LEANK_E_FORMAT, "overflows");
  put_tensor(s, "t", NE((uint64_t)1 << 62), T_F32, 0);
  expect_tensor(s, 64, LEANK_E_FORMAT, "overflows");
  put_tensor(s, "t", NE((uint64_t)1 << 63), T_F32, 0);
  expect_tensor(s, 64, LEANK_E_FORMAT, "in dimension 0");
  free(s);
}

static void test_tensor_pairs(void **state) {
  (void)state;
  byte_string *s = malloc(sizeof *s);
  put_header(s, 3, 2, 0);
  put_tensor(s, "same", NE(4), T_F32, 0);
  put_tensor(s, "same", NE(4), T_F32, 32);
  put_data(s, 32, 64);
  hostile_expect(open_close, s->bytes, s->n, LEANK_E_FORMAT, "two tensors named 'same'");
  put_header(s, 3, 3, 0);
  put_tensor(s, "last", NE(4), T_F32, 64);
  put_tensor(s, "first", NE(9), T_F32, 0); /* 36 bytes reach into the next */
  put_tensor(s, "next", NE(4), T_F32, 32);
  put_data(s, 32, 96);
  hostile_expect(open_close, s->bytes, s->n, LEANK_E_FORMAT, "'first' and 'next' overlap");
  put_header(s, 3, 2, 0);
  put_tensor(s, "a", NE(4), T_F32, 0);
  put_tensor(s, "b", NE(4), T_F32, 0);
  put_data(s, 32, 96);
  hostile_expect(open_close, s->bytes, s->n, LEANK_E_FORMAT, "overlap");
  free(s);
}

static void test_truncations(void **state) {
  (void)state;
  byte_string *s = full_file(3);
  hostile_truncations(open_close, s->bytes, s->n);
  hostile_flips(open_close, s->bytes, s->n - 600); /* metadata and infos */
  free(s);
}

static void test_allocations(void **state) {
  (void)state;
  byte_string *s = full_file(3);
  hostile_allocations(open_close, s->bytes, s->n);
  free(s);
}

static void test_no_file(void **state) {
  (void)state;
  lk_gguf *g = NULL;
  leank_error err;
  assert_int_equal(lk_gguf_open(LEANK_TEST_DATA "/absent.gguf", &g, &err), LEANK_E_IO);
  assert_int_equal(lk_gguf_open(LEANK_TEST_DATA, &g, &err), LEANK_E_IO);
  assert_null(g);
}

/* A vocabulary's worth of strings: the index is per array, not per string. */
static void test_large_vocabulary(void **state) {
  (void)state;
  enum { N = 150000 };
  unsigned char *bytes = malloc((size_t)N * 24 + 256);
  byte_string *s = malloc(sizeof *s);
  put_header(s, 3, 0, 1);
  put_array(s, "tokens", STRING, N);
  memcpy(bytes, s->bytes, s->n);
  size_t at = s->n;
  for (unsigned i = 0; i < N; i++) {
    s->n = 0;
    char token[16];
    snprintf(token, sizeof token, "t%u", i);
    put_string(s, token);
    memcpy(bytes + at, s->bytes, s->n);
    at += s->n;
  }
  const size_t allocations = lk_alloc_count();
  lk_gguf *g = NULL;
  leank_error err;
  assert_int_equal(lk_gguf_open_memory(bytes, at, "large", &g, &err), LEANK_OK);
  assert_true(lk_alloc_count() - allocations < 20);
  for (unsigned i = 0; i < N; i += 997) {
    char token[16];
    const char *text;
    size_t n;
    int length = snprintf(token, sizeof token, "t%u", i);
    assert_true(lk_gguf_array_str(g, "tokens", i, &text, &n) && n == (size_t)length);
    assert_memory_equal(text, token, n);
  }
  lk_gguf_close(&g);
  free(bytes);
  free(s);
}

/* ---- real files ---- */

static void check_model(const char *file, const char *architecture, size_t n_tensors,
                        size_t n_tokens, lk_dtype output_type) {
  const char *folder = getenv("LEANK_TEST_MODELS");
  if (!folder) {
    print_message("LEANK_TEST_MODELS is not set\n");
    skip();
  }
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", folder, file);
  if (access(path, R_OK) != 0) {
    print_message("%s is not there\n", file);
    skip();
  }
  lk_gguf *g = NULL;
  leank_error err = {.code = LEANK_OK};
  if (lk_gguf_open(path, &g, &err) != LEANK_OK) fail_msg("%s", err.message);
  const char *text;
  size_t n;
  assert_true(lk_gguf_str(g, "general.architecture", &text, &n));
  assert_string_equal(text, architecture);
  assert_int_equal(lk_gguf_n_tensors(g), n_tensors);
  assert_true(lk_gguf_array_count(g, "tokenizer.ggml.tokens", &n) && n == n_tokens);
  assert_true(lk_gguf_array_str(g, "tokenizer.ggml.tokens", n_tokens - 1, &text, &n));
  assert_int_equal(lk_gguf_tensor(g, "token_embd.weight").type, output_type);
  assert_int_equal(lk_gguf_tensor(g, "token_embd.weight").n_rows, n_tokens);
  lk_gguf_close(&g);
}

static void test_smollm2(void **state) {
  (void)state;
  check_model("SmolLM2-135M-Instruct.Q4_1.gguf", "llama", 272, 49152, LK_Q8_0);
}

static void test_qwen(void **state) {
  (void)state;
  check_model("qwen2.5-coder-1.5b-instruct-q4_k_m.gguf", "qwen2", 339, 151936, LK_Q4_K);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_scalars),     cmocka_unit_test(test_arrays),
      cmocka_unit_test(test_tensors),     cmocka_unit_test(test_many_names),
      cmocka_unit_test(test_alignment),   cmocka_unit_test(test_no_tensors),
      cmocka_unit_test(test_bad_headers), cmocka_unit_test(test_bad_metadata),
      cmocka_unit_test(test_bad_tensors), cmocka_unit_test(test_tensor_pairs),
      cmocka_unit_test(test_truncations), cmocka_unit_test(test_allocations),
      cmocka_unit_test(test_no_file),     cmocka_unit_test(test_large_vocabulary),
      cmocka_unit_test(test_smollm2),     cmocka_unit_test(test_qwen),
  };
  return cmocka_run_group_tests_name("gguf", tests, NULL, NULL);
}
