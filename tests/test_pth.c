/* PyTorch .pth: files of torch.save (scripts/goldens/formats.py), and what must be refused. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/dtype.h"
#include "base/map.h"
#include "formats/pth.h"
#include "formats/zip_stored.h"
#include "support/byte_string.h"
#include "support/half.h"
#include "support/hostile.h"

static leank_status open_close(const void *bytes, size_t n_bytes, leank_error *err) {
  lk_pth_array array = {0};
  leank_status status = lk_pth_read(bytes, n_bytes, "test.pth", &array, err);
  assert_true((array.values != NULL) == (status == LEANK_OK));
  lk_free(array.values);
  return status;
}

static lk_map map_golden(const char *name) {
  char path[4096];
  lk_map map;
  leank_error err;
  snprintf(path, sizeof path, "%s/formats/%s", LEANK_TEST_DATA, name);
  if (lk_map_open(path, &map, &err) != LEANK_OK) fail_msg("%s", err.message);
  return map;
}

/* ---- files of torch ---- */

static float pattern(size_t l, size_t h, size_t c) { return (l * 7 + h * 3 + c) % 5 < 2; }

static void check_golden(const char *name, float scale) {
  lk_map map = map_golden(name);
  lk_pth_array array = {0};
  leank_error err = {.code = LEANK_OK};
  assert_true(lk_pth_looks_like(map.data, map.n_bytes));
  if (lk_pth_read(map.data, map.n_bytes, name, &array, &err) != LEANK_OK)
    fail_msg("%s", err.message);
  assert_true(array.n_layers == 2 && array.n_heads == 3 && array.head_dim == 8);
  for (size_t l = 0; l < 2; l++)
    for (size_t h = 0; h < 3; h++)
      for (size_t c = 0; c < 8; c++)
        assert_true(array.values[(l * 3 + h) * 8 + c] == scale * pattern(l, h, c));
  lk_free(array.values);
  hostile_truncations(open_close, map.data, map.n_bytes);
  lk_map_close(&map);
}

static void test_structures(void **state) {
  (void)state;
  check_golden("tensor.pth", 1);
  check_golden("list.pth", 1);
  check_golden("views.pth", 1);
  check_golden("nested.pth", 1);
  check_golden("tuple-shared.pth", 1);
  check_golden("protocol4.pth", 1);
  check_golden("transposed.pth", 1);
}

static void test_types(void **state) {
  (void)state;
  check_golden("bfloat16.pth", 1);
  check_golden("half.pth", 1);
  check_golden("double.pth", 1);
  check_golden("uint8.pth", 1);
  check_golden("bool.pth", 1);
  check_golden("fraction.pth", 0.5f);
}

/* Every half precision number against the definition, as support/half.h has it. */
static void test_halves(void **state) {
  (void)state;
  for (uint32_t h = 0; h <= UINT16_MAX; h++) {
    const float got = lk_half_to_f32((uint16_t)h), want = lk_f16_to_f32((uint16_t)h);
    if (isnan(want))
      assert_true(isnan(got));
    else
      assert_memory_equal(&got, &want, sizeof got);
  }
}

static void expect_golden(const char *name, leank_status status, const char *part) {
  lk_map map = map_golden(name);
  hostile_expect(open_close, map.data, map.n_bytes, status, part);
  lk_map_close(&map);
}

static void test_refused_goldens(void **state) {
  (void)state;
  expect_golden("refused-dict.pth", LEANK_E_UNSUPPORTED, "opcode 0x7d");
  expect_golden("refused-ragged.pth", LEANK_E_UNSUPPORTED, "differ in shape");
  expect_golden("refused-int64.pth", LEANK_E_UNSUPPORTED, "'torch.LongStorage'");
  expect_golden("refused-2d.pth", LEANK_E_UNSUPPORTED, "other than one tensor");
  expect_golden("refused-compressed.pth", LEANK_E_UNSUPPORTED, "is compressed");
  expect_golden("refused-old-format.pth", LEANK_E_FORMAT, "end record");
  lk_map map = map_golden("refused-old-format.pth");
  assert_false(lk_pth_looks_like(map.data, map.n_bytes));
  assert_false(lk_pth_looks_like("PK\3", 3));
  lk_map_close(&map);
}

static void test_hostile(void **state) {
  (void)state;
  lk_map map = map_golden("nested.pth");
  hostile_flips(open_close, map.data, map.n_bytes);
  hostile_allocations(open_close, map.data, map.n_bytes);
  lk_map_close(&map);
}

/* ---- pickles of our own making ---- */

/* An archive around a pickle, with 24 floats as storage '0'. */
static void expect_pickle(const void *pickle, size_t n, leank_status status, const char *part) {
  static unsigned char bytes[1 << 17];
  unsigned char floats[96] = {0};
  const lk_zip_source sources[] = {{"m/data.pkl", pickle, n}, {"m/data/0", floats, sizeof floats}};
  lk_zip_writer zip = {NULL, 0};
  lk_zip_write(&zip, sources, 2);
  assert_true(zip.n_bytes <= sizeof bytes);
  zip = (lk_zip_writer){bytes, 0};
  lk_zip_write(&zip, sources, 2);
  hostile_expect(open_close, bytes, zip.n_bytes, status, part);
}

#define EXPECT(literal, status, part) expect_pickle(literal, sizeof literal - 1, status, part)
#define STORAGE(n)                                                                                 \
  "(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0"                                               \
  "0X\3\0\0\0cpuK" n "tQ"
#define REBUILD "ctorch._utils\n_rebuild_tensor_v2\n"
#define HOOKS                                                                                      \
  "\x89"                                                                                           \
  "ccollections\nOrderedDict\n)R"
#define TENSOR(n, first, sizes, strides) REBUILD "(" STORAGE(n) "K" first sizes strides HOOKS "tR"
#define THREE(a, b, c) "K" a "K" b "K" c "\x87"
#define GOOD TENSOR("\x18", "\0", THREE("\2", "\3", "\4"), THREE("\14", "\4", "\1"))

static void test_pickles(void **state) {
  (void)state;
  EXPECT("\x80\2" GOOD ".", LEANK_OK, "");
  EXPECT(GOOD ".", LEANK_OK, "");
  EXPECT("\x80\6" GOOD ".", LEANK_E_UNSUPPORTED, "newer pickle protocol");
  EXPECT("", LEANK_E_FORMAT, "ends early");
  EXPECT(".", LEANK_E_FORMAT, "other than one value");
  EXPECT(GOOD "N.", LEANK_E_FORMAT, "other than one value");
  EXPECT(GOOD "..", LEANK_E_FORMAT, "other than one value");
  EXPECT("(.", LEANK_E_FORMAT, "other than one value");
  EXPECT("N.", LEANK_E_UNSUPPORTED, "other than one tensor");
  EXPECT("].", LEANK_E_UNSUPPORTED, "other than one tensor");
  /* Code: named, never run. */
  EXPECT("cos\nsystem\nX\2\0\0\0ls\x85R.", LEANK_E_UNSUPPORTED, "'os.system'");
  EXPECT("c__builtin__\neval\n.", LEANK_E_UNSUPPORTED, "'__builtin__.eval'");
  EXPECT("\x8c\2os\x8c\6system\x93.", LEANK_E_UNSUPPORTED, "'os.system'");
  EXPECT("c\x1b[31m\nx\n.", LEANK_E_UNSUPPORTED, "'?[31m.x'");
  EXPECT("ios\nsystem\n.", LEANK_E_UNSUPPORTED, "opcode 0x69");
  EXPECT("N0.", LEANK_E_UNSUPPORTED, "opcode 0x30");
  EXPECT("N}b.", LEANK_E_UNSUPPORTED, "opcode 0x7d");
  EXPECT("ctorch\nFloatStorage\n)R.", LEANK_E_UNSUPPORTED, "a call");
  EXPECT("ccollections\nOrderedDict\n(NtR.", LEANK_E_UNSUPPORTED, "a call");
  EXPECT("NNR.", LEANK_E_UNSUPPORTED, "a call");
  /* The stack. */
  EXPECT("R.", LEANK_E_FORMAT, "stack is empty");
  EXPECT("(R.", LEANK_E_FORMAT, "stack is empty");
  EXPECT("\x87.", LEANK_E_FORMAT, "stack is empty");
  EXPECT("N(\x86.", LEANK_E_FORMAT, "mark among values");
  EXPECT("Nt.", LEANK_E_FORMAT, "mark is missing");
  EXPECT("e.", LEANK_E_FORMAT, "mark is missing");
  EXPECT("NNa.", LEANK_E_FORMAT, "no list to append to");
  EXPECT(")Na.", LEANK_E_FORMAT, "no list to append to");
  EXPECT("(N(Ne.", LEANK_E_FORMAT, "no list to append to");
  EXPECT("q\0.", LEANK_E_FORMAT, "nothing to remember");
  EXPECT("h\0.", LEANK_E_FORMAT, "unknown memo");
  EXPECT("Nq\2h\1.", LEANK_E_FORMAT, "unknown memo");
  EXPECT("Nr\xff\xff\xff\xff.", LEANK_E_FORMAT, "beyond its size");
  EXPECT("\x93.", LEANK_E_FORMAT, "stack is empty");
  EXPECT("NN\x93.", LEANK_E_FORMAT, "global without a name");
  EXPECT("ctorch\n", LEANK_E_FORMAT, "line does not end");
  EXPECT("X\xff\xff\xff\xffx.", LEANK_E_FORMAT, "ends early");
  EXPECT("\x8a\x09"
         "123456789.",
         LEANK_E_UNSUPPORTED, "more than 64 bits");
}

static void test_deep_pickle(void **state) {
  (void)state;
  char text[6000];
  memset(text, '(', sizeof text);
  expect_pickle(text, sizeof text, LEANK_E_UNSUPPORTED, "too deep");
  /* Lists in lists in lists, and a list that holds itself. */
  memset(text, ']', 2000);
  memset(text + 2000, 'a', 1999);
  text[3999] = '.';
  expect_pickle(text, 4000, LEANK_E_UNSUPPORTED, "other than one tensor");
  EXPECT("]q\0h\0a.", LEANK_E_UNSUPPORTED, "other than one tensor");
  /* One tensor of 4, referred to from 1000 x 1000 places. */
  static const char row[] = TENSOR("\x18", "\0", "K\4\x85", "K\1\x85");
  byte_string *s = malloc(sizeof *s);
  s->n = 0;
  put_text(s, "](](");
  put_bytes(s, row, sizeof row - 1);
  put_text(s, "q");
  put_u8(s, 0);
  for (int i = 0; i < 999; i++) put_text(s, "h"), put_u8(s, 0);
  put_text(s, "eq");
  put_u8(s, 1);
  for (int i = 0; i < 999; i++) put_text(s, "h"), put_u8(s, 1);
  put_text(s, "e.");
  expect_pickle(s->bytes, s->n, LEANK_E_FORMAT, "more values than it holds");
  free(s);
}

static void test_tensors(void **state) {
  (void)state;
#define T(n, first, sizes, strides) TENSOR(n, first, sizes, strides) "."
  EXPECT(T("\x18", "\1", THREE("\2", "\3", "\4"), THREE("\14", "\4", "\1")), LEANK_E_FORMAT,
         "beyond its storage");
  EXPECT(T("\x18", "\0", THREE("\2", "\3", "\4"), THREE("\15", "\4", "\1")), LEANK_E_FORMAT,
         "beyond its storage");
  EXPECT(T("\x18", "\0", THREE("\2", "\3", "\5"), THREE("\14", "\4", "\1")), LEANK_E_UNSUPPORTED,
         "larger than its storage");
  EXPECT(T("\x18", "\0", THREE("\xff", "\xff", "\xff"), THREE("\0", "\0", "\0")),
         LEANK_E_UNSUPPORTED, "larger than its storage");
  EXPECT(T("\x18", "\0", THREE("\0", "\3", "\4"), THREE("\14", "\4", "\1")), LEANK_E_FORMAT,
         "impossible shape");
  EXPECT(T("\x17", "\0", THREE("\1", "\3", "\4"), THREE("\14", "\4", "\1")), LEANK_E_FORMAT,
         "96 bytes for 23 elements");
  EXPECT(T("\x18", "\0", "(K\1K\1K\1K\1t", "(K\1K\1K\1K\1t"), LEANK_E_UNSUPPORTED, "1 to 3 dim");
  EXPECT(T("\x18", "\0", ")", ")"), LEANK_E_UNSUPPORTED, "1 to 3 dim");
  EXPECT(T("\x18", "\0", THREE("\2", "\3", "\4"), "K\1\x85"), LEANK_E_FORMAT, "without shape");
  EXPECT(T("\x18", "\0", "N", THREE("\2", "\3", "\4")), LEANK_E_FORMAT, "without shape");
  EXPECT(T("\x18", "\0", "J\xff\xff\xff\xffK\1K\1\x87", THREE("\1", "\1", "\1")), LEANK_E_FORMAT,
         "impossible shape");
  EXPECT(T("\x18", "\0", THREE("\2", "\3", "\4"), "J\xff\xff\xff\x7fJ\xff\xff\xff\x7fK\1\x87"),
         LEANK_E_FORMAT, "beyond its storage");
  EXPECT(REBUILD "(NK\0" THREE("\2", "\3", "\4") THREE("\14", "\4", "\1") HOOKS "tR.",
         LEANK_E_FORMAT, "without storage");
  EXPECT(REBUILD ")R.", LEANK_E_FORMAT, "without storage");
  EXPECT(REBUILD "NR.", LEANK_E_FORMAT, "without storage");
  EXPECT("NQ.", LEANK_E_FORMAT, "no storage");
  EXPECT("(NNNNNtQ.", LEANK_E_FORMAT, "no storage");
#undef T
}

static void test_missing_storage(void **state) {
  (void)state;
  static const char pickle[] = GOOD ".";
  unsigned char bytes[2048];
  const lk_zip_source sources[] = {{"m/data.pkl", pickle, sizeof pickle - 1}};
  lk_zip_writer zip = {bytes, 0};
  lk_zip_write(&zip, sources, 1);
  hostile_expect(open_close, bytes, zip.n_bytes, LEANK_E_FORMAT, "data of storage '0' are missing");
}

/* ---- the zip ---- */

static void expect_members(const lk_zip_source *sources, size_t n, leank_status status,
                           const char *part) {
  unsigned char bytes[4096];
  lk_zip_writer zip = {bytes, 0};
  lk_zip_write(&zip, sources, n);
  hostile_expect(open_close, bytes, zip.n_bytes, status, part);
}

static void test_members(void **state) {
  (void)state;
  static const char pickle[] = GOOD ".";
  const float floats[24] = {0};
  const lk_zip_source pkl = {"m/data.pkl", pickle, sizeof pickle - 1},
                      data = {"m/data/0", floats, sizeof floats};
  expect_members((lk_zip_source[]){data, pkl}, 2, LEANK_OK, "");
  expect_members((lk_zip_source[]){pkl, data, {"m/byteorder", "big", 3}}, 3, LEANK_E_UNSUPPORTED,
                 "byte order");
  expect_members((lk_zip_source[]){pkl, data, data}, 3, LEANK_E_FORMAT, "two members named");
  expect_members((lk_zip_source[]){pkl, data, {"n/data.pkl", pickle, sizeof pickle - 1}}, 3,
                 LEANK_E_FORMAT, "one data.pkl");
  expect_members((lk_zip_source[]){data}, 1, LEANK_E_FORMAT, "one data.pkl");
  expect_members(NULL, 0, LEANK_E_FORMAT, "one data.pkl");
  expect_members((lk_zip_source[]){{"data.pkl", "", 0}, {"/data.pkl", "", 0}}, 2, LEANK_E_FORMAT,
                 "one data.pkl");
}

/* Fields of the directory and the end record that lie. `back`: from the end of the file. */
static void expect_patched(size_t back, uint32_t value, size_t n, leank_status status,
                           const char *part) {
  static const char pickle[] = GOOD ".";
  const float floats[24] = {0};
  const lk_zip_source sources[] = {{"m/data.pkl", pickle, sizeof pickle - 1},
                                   {"m/data/0", floats, sizeof floats}};
  unsigned char bytes[4096];
  lk_zip_writer zip = {bytes, 0};
  lk_zip_write(&zip, sources, 2);
  for (size_t i = 0; i < n; i++) bytes[zip.n_bytes - back + i] = (unsigned char)(value >> (8 * i));
  hostile_expect(open_close, bytes, zip.n_bytes, status, part);
}

static void test_lying_directory(void **state) {
  (void)state;
  const size_t entry = 22 + 46 + 8; /* of m/data/0, from its start to the end of the file */
  expect_patched(22 - 10, 3, 2, LEANK_E_FORMAT, "outside the file");
  expect_patched(22 - 10, 1, 2, LEANK_E_FORMAT, "entry 1 of 1");
  expect_patched(22 - 10, 60000, 2, LEANK_E_FORMAT, "outside the file");
  expect_patched(22 - 12, 1000000, 4, LEANK_E_FORMAT, "outside the file");
  expect_patched(22 - 16, 1000000, 4, LEANK_E_FORMAT, "outside the file");
  expect_patched(22 - 16, 0xffffffff, 4, LEANK_E_FORMAT, "ZIP64");
  expect_patched(22 - 4, 1, 2, LEANK_E_UNSUPPORTED, "several disks");
  expect_patched(entry - 8, 1, 2, LEANK_E_UNSUPPORTED, "encrypted");
  expect_patched(entry - 10, 8, 2, LEANK_E_UNSUPPORTED, "compressed");
  expect_patched(entry - 16, 12345, 4, LEANK_E_FORMAT, "checksum");
  expect_patched(entry - 20, 97, 4, LEANK_E_FORMAT, "does not fit");
  expect_patched(entry - 24, 95, 4, LEANK_E_FORMAT, "does not fit");
  expect_patched(entry - 24, 0xffffffff, 4, LEANK_E_UNSUPPORTED, "4 GiB");
  expect_patched(entry - 42, 0, 4, LEANK_E_FORMAT, "another name");
  expect_patched(entry - 42, 1, 4, LEANK_E_FORMAT, "has no header");
  expect_patched(entry - 42, 0xfffffffe, 4, LEANK_E_FORMAT, "has no header");
  expect_patched(entry - 28, 65535, 2, LEANK_E_FORMAT, "bad zip directory");
}

/* A member inside another: checksums over nested members could be made to cost without bound. */
static void test_nested_members(void **state) {
  (void)state;
  static const char pickle[] =
      "](" REBUILD "(" STORAGE("\xff") "K\0K\2K\2\x86K\2K\1\x86" HOOKS "tR" REBUILD
                                       "((X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0"
                                       "1X\3\0\0\0cpuK\xf5tQ"
                                       "K\0K\2K\2\x86K\2K\1\x86" HOOKS "tRe.";
  enum { INNER = 30 + 8, N_INNER = 0xf5 * 4, N_OUTER = 0xff * 4 };
  unsigned char outer[N_OUTER] = "PK\3\4", bytes[4096];
  outer[26] = 8; /* of the local header: bytes of the name */
  memcpy(outer + 30, "m/data/1", 8);
  const lk_zip_source sources[] = {
      {"m/data.pkl", pickle, sizeof pickle - 1}, {"m/data/0", outer, N_OUTER}, {"m/data/1", "", 0}};
  lk_zip_writer zip = {bytes, 0};
  lk_zip_write(&zip, sources, 3);
  unsigned char *entry = bytes + zip.n_bytes - 22 - 46 - 8;
  const unsigned char *inner = memmem(bytes, zip.n_bytes, outer, INNER);
  byte_string *s = malloc(sizeof *s);
  s->n = 0;
  put_u32(s, lk_zip_crc32(inner + INNER, N_INNER));
  put_u32(s, N_INNER);
  put_u32(s, N_INNER);
  memcpy(entry + 16, s->bytes, s->n);
  s->n = 0;
  put_u32(s, (uint32_t)(inner - bytes));
  memcpy(entry + 42, s->bytes, s->n);
  hostile_expect(open_close, bytes, zip.n_bytes, LEANK_E_FORMAT, "members overlap");
  free(s);
}

static void test_crc(void **state) {
  (void)state;
  assert_int_equal(lk_zip_crc32((const unsigned char *)"123456789", 9), 0xcbf43926u);
  assert_int_equal(lk_zip_crc32(NULL, 0), 0);
}

/* ---- writing ---- */

static void test_round_trip(void **state) {
  (void)state;
  static const char path[] = LEANK_TEST_TMP "/test_pth.pth";
  const size_t shapes[][3] = {{1, 1, 2}, {2, 3, 8}, {3, 5, 64}, {40, 8, 128}, {2, 300, 256}};
  for (size_t k = 0; k < 5; k++) {
    const size_t n = shapes[k][0] * shapes[k][1] * shapes[k][2];
    float *values = malloc(n * sizeof *values);
    for (size_t i = 0; i < n; i++) values[i] = (float)(i * i % 7 < 3);
    const lk_pth_array array = {shapes[k][0], shapes[k][1], shapes[k][2], values};
    lk_pth_array again = {0};
    leank_error err = {.code = LEANK_OK};
    lk_map map;
    assert_int_equal(lk_pth_save(path, &array, &err), LEANK_OK);
    assert_int_equal(lk_map_open(path, &map, &err), LEANK_OK);
    if (lk_pth_read(map.data, map.n_bytes, path, &again, &err) != LEANK_OK)
      fail_msg("%s", err.message);
    assert_true(again.n_layers == array.n_layers && again.n_heads == array.n_heads &&
                again.head_dim == array.head_dim);
    assert_memory_equal(again.values, values, n * sizeof *values);
    lk_map_close(&map);
    lk_free(again.values);
    free(values);
  }
  remove(path);
  leank_error err;
  const float one = 1;
  const lk_pth_array empty = {0, 1, 1, (float *)&one}, huge = {1 << 20, 1 << 20, 1, (float *)&one};
  assert_int_equal(lk_pth_save(path, &empty, &err), LEANK_E_ARGUMENT);
  assert_int_equal(lk_pth_save(path, &huge, &err), LEANK_E_ARGUMENT);
}

/* Our pickle is the one that torch.save wrote for a tensor of the same shape. */
static void test_same_pickle(void **state) {
  (void)state;
  static const char path[] = LEANK_TEST_TMP "/test_pth_same.pth";
  lk_map golden = map_golden("tensor.pth"), ours;
  lk_pth_array array = {0};
  leank_error err;
  assert_int_equal(lk_pth_read(golden.data, golden.n_bytes, "tensor", &array, &err), LEANK_OK);
  assert_int_equal(lk_pth_save(path, &array, &err), LEANK_OK);
  assert_int_equal(lk_map_open(path, &ours, &err), LEANK_OK);
  lk_zip zips[2];
  lk_zip_member members[2];
  const unsigned char *pickles[2];
  assert_int_equal(lk_zip_open(golden.data, golden.n_bytes, "g", &zips[0], &err), LEANK_OK);
  assert_int_equal(lk_zip_open(ours.data, ours.n_bytes, "o", &zips[1], &err), LEANK_OK);
  for (int i = 0; i < 2; i++) {
    size_t at = 0;
    assert_true(lk_zip_next(&zips[i], &at, &members[i])); /* data.pkl comes first in both */
    assert_int_equal(lk_zip_read(&zips[i], &members[i], &pickles[i], &err), LEANK_OK);
  }
  assert_int_equal(members[0].n_bytes, members[1].n_bytes);
  assert_memory_equal(pickles[0], pickles[1], members[0].n_bytes);
  lk_free(array.values);
  lk_map_close(&golden);
  lk_map_close(&ours);
  remove(path);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_structures),      cmocka_unit_test(test_types),
      cmocka_unit_test(test_halves),          cmocka_unit_test(test_refused_goldens),
      cmocka_unit_test(test_hostile),         cmocka_unit_test(test_pickles),
      cmocka_unit_test(test_deep_pickle),     cmocka_unit_test(test_tensors),
      cmocka_unit_test(test_missing_storage), cmocka_unit_test(test_members),
      cmocka_unit_test(test_lying_directory), cmocka_unit_test(test_crc),
      cmocka_unit_test(test_nested_members),  cmocka_unit_test(test_round_trip),
      cmocka_unit_test(test_same_pickle),
  };
  return cmocka_run_group_tests_name("pth", tests, NULL, NULL);
}
