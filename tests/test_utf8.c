/* UTF-8: decoding, the byte alphabet, the stream that never cuts a character. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include <leank/text.h>

#include "base/alloc.h"
#include "base/rng.h"
#include "base/utf8.h"
#include "text/normalize.h"

static void every_scalar_value_round_trips(void **state) {
  (void)state;
  char bytes[4];
  for (uint32_t code = 0; code <= 0x10ffff; code++) {
    if (code >= 0xd800 && code <= 0xdfff) continue;
    uint32_t back = UINT32_MAX;
    const size_t n = lk_utf8_encode(code, bytes);
    assert_int_equal(lk_utf8_decode(bytes, n, &back), n);
    assert_int_equal(back, code);
    for (size_t cut = 0; cut < n; cut++) assert_int_equal(lk_utf8_decode(bytes, cut, &back), 0);
  }
}

/* Of all sequences of two, three and four bytes, exactly the encodings of scalar values decode. */
static void nothing_else_decodes(void **state) {
  (void)state;
  size_t valid[5] = {0};
  for (uint32_t x = 0; x <= 0xffffff; x++) {
    uint32_t code;
    const char bytes[4] = {(char)(x >> 16), (char)(x >> 8), (char)x, (char)0x80};
    const size_t n = lk_utf8_decode(bytes, 4, &code);
    if (n == 0) continue;
    char again[4];
    assert_int_equal(lk_utf8_encode(code, again), n);
    assert_memory_equal(again, bytes, n);
    valid[n]++;
  }
  assert_int_equal(valid[1], (size_t)128 << 16);
  assert_int_equal(valid[2], (size_t)1920 << 8);
  assert_int_equal(valid[3], 63488 - 2048);              /* U+0800..U+FFFF less the surrogates */
  assert_int_equal(valid[4], (0x110000 - 0x10000) / 64); /* those that end in byte 0x80 */
}

static void invalid_text_is_located(void **state) {
  (void)state;
  static const struct {
    const char *text;
    size_t n, bad_at;
  } cases[] = {{"\x80", 1, 0},
               {"ab\xc3", 3, 2},
               {"\xc0\x80", 2, 0},
               {"x\xed\xa0\x80", 4, 1},
               {"\xf4\x90\x80\x80", 4, 0},
               {"\xe2\x82\xac\xff", 4, 3},
               {"\xf8\x88\x80\x80", 4, 0}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    size_t at = 99;
    assert_false(lk_utf8_valid(cases[i].text, cases[i].n, &at));
    assert_int_equal(at, cases[i].bad_at);
  }
  size_t at = 99;
  assert_true(lk_utf8_valid("a\0b\xe2\x82\xac", 6, &at));
  assert_true(lk_utf8_valid("", 0, &at));
}

static void byte_alphabet_is_a_bijection(void **state) {
  (void)state;
  bool seen[256] = {false};
  size_t n = 0;
  for (uint32_t code = 0; code <= 0x10ffff; code++) {
    const int byte = lk_byte_of_char(code);
    if (byte < 0) continue;
    assert_true(byte < 256 && !seen[byte]);
    seen[byte] = true;
    n++;
  }
  assert_int_equal(n, 256);
  /* The three everybody knows: blank, newline and the soft hyphen. */
  assert_int_equal(lk_byte_of_char(0x120), ' ');
  assert_int_equal(lk_byte_of_char(0x10a), '\n');
  assert_int_equal(lk_byte_of_char(0x143), 0xad);
  char out[8];
  assert_int_equal(lk_bytes_of_text("\xc4\xa0t\xc3\xa9", 5, out), 3);
  assert_memory_equal(out, " t\xe9", 3);
  assert_true(lk_bytes_of_text("a b", 3, out) == SIZE_MAX);
  assert_true(lk_bytes_of_text("a\xff", 2, out) == SIZE_MAX);
}

/* ---- stream ---- */

static size_t feed(const char *bytes, size_t n, size_t step, char *out) {
  leank_utf8_stream stream = {0};
  size_t n_out = 0;
  for (size_t i = 0; i < n; i += step) {
    const size_t now = n - i < step ? n - i : step;
    const size_t got = leank_utf8_stream_feed(&stream, bytes + i, now, false, out + n_out);
    size_t at;
    assert_true(got <= 3 * (now + 4));
    assert_true(lk_utf8_valid(out + n_out, got, &at));
    n_out += got;
  }
  return n_out + leank_utf8_stream_feed(&stream, NULL, 0, true, out + n_out);
}

/* Unicode 15, section 3.9, tables 3-8 to 3-11. */
static void stream_replaces_maximal_parts(void **state) {
  (void)state;
#define BAD "\xef\xbf\xbd"
  static const struct {
    const char *in, *out;
  } cases[] = {
      {"\xc0\xaf\xe0\x80\xbf\xf0\x81\x82\x41", BAD BAD BAD BAD BAD BAD BAD BAD "A"},
      {"\xed\xa0\x80\xed\xbf\xbf\xed\xaf\x41", BAD BAD BAD BAD BAD BAD BAD BAD "A"},
      {"\xf4\x91\x92\x93\xff\x41\x80\xbf\x42", BAD BAD BAD BAD BAD "A" BAD BAD "B"},
      {"\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41", BAD BAD BAD BAD "A"},
      {"\xf0\x9f\x98", BAD},
      {"\xf0\x9f\x98\x80!", "\xf0\x9f\x98\x80!"},
      {"\xe2\x82\xe2\x82\xac", BAD "\xe2\x82\xac"},
      {"plain", "plain"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    for (size_t step = 1; step <= 9; step++) {
      char out[128];
      const size_t n = feed(cases[i].in, strlen(cases[i].in), step, out);
      assert_int_equal(n, strlen(cases[i].out));
      assert_memory_equal(out, cases[i].out, n);
    }
#undef BAD
}

static void stream_is_whole_at_every_cut(void **state) {
  (void)state;
  lk_rng rng = {20250802};
  for (int round = 0; round < 3000; round++) {
    char bytes[40], one[40 * 3 + 64], other[40 * 3 + 64];
    const size_t n = lk_rng_below(&rng, sizeof bytes);
    /* Bytes near the borders of the table are likelier than chance makes them. */
    static const unsigned char edge[] = {0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc1,
                                         0xc2, 0xdf, 0xe0, 0xed, 0xef, 0xf0, 0xf4, 0xf5};
    for (size_t i = 0; i < n; i++)
      bytes[i] =
          (char)(lk_rng_below(&rng, 3) ? edge[lk_rng_below(&rng, sizeof edge)] : lk_rng_u64(&rng));
    const size_t n_one = feed(bytes, n, n + 1, one);
    const size_t n_other = feed(bytes, n, 1 + lk_rng_below(&rng, 5), other);
    size_t at;
    assert_true(lk_utf8_valid(one, n_one, &at));
    assert_int_equal(n_one, n_other);
    assert_memory_equal(one, other, n_one);
    if (lk_utf8_valid(bytes, n, &at)) assert_memory_equal(one, bytes, n);
  }
}

/* ---- NFC ---- */

static void expect_nfc(const char *in, const char *out) {
  char *got = NULL;
  size_t n = strlen(in);
  assert_int_equal(lk_nfc(in, n, &got, &n, NULL), LEANK_OK);
  assert_int_equal(n, strlen(out));
  assert_memory_equal(got ? got : in, out, n);
  lk_free(got);
}

static void nfc_composes_and_orders(void **state) {
  (void)state;
  expect_nfc("plain", "plain");
  expect_nfc("e\xcc\x81", "\xc3\xa9");
  expect_nfc("\xe2\x84\xab", "\xc3\x85");                             /* Angstrom sign */
  expect_nfc("q\xcc\x87\xcc\xa3", "q\xcc\xa3\xcc\x87");               /* reordered, not composed */
  expect_nfc("\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa8", "\xea\xb0\x81"); /* Hangul */
  expect_nfc("\xe0\xa5\x98", "\xe0\xa4\x95\xe0\xa4\xbc"); /* excluded from composition */
}

/* A hostile run of marks must not take quadratic time: 600,000 marks in alternating classes. */
static void nfc_of_many_marks_is_linear(void **state) {
  (void)state;
  const size_t pairs = 300000;
  char *text = lk_alloc(LK_MEM_TEXT, pairs, 4), *got = NULL;
  size_t n = 0;
  assert_non_null(text);
  for (size_t i = 0; i < pairs; i++) memcpy(text + 4 * i, "\xcc\x87\xcc\xa3", 4);
  assert_int_equal(lk_nfc(text, 4 * pairs, &got, &n, NULL), LEANK_OK);
  assert_int_equal(n, 4 * pairs);
  assert_memory_equal(got, "\xcc\xa3\xcc\xa3", 4);
  assert_memory_equal(got + n - 4, "\xcc\x87\xcc\x87", 4);
  lk_free(got);
  lk_free(text);
}

static void the_built_in_prose_is_text(void **state) {
  (void)state;
  size_t n = 0, bad_at = 0;
  const char *text = leank_sample_text(&n);
  assert_int_equal(strlen(text), n);
  assert_ptr_equal(leank_sample_text(NULL), text);
  assert_true(lk_utf8_valid(text, n, &bad_at));
  assert_true(strlen(leank_sample_text_name()) > 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_scalar_value_round_trips),
      cmocka_unit_test(nothing_else_decodes),
      cmocka_unit_test(invalid_text_is_located),
      cmocka_unit_test(byte_alphabet_is_a_bijection),
      cmocka_unit_test(stream_replaces_maximal_parts),
      cmocka_unit_test(stream_is_whole_at_every_cut),
      cmocka_unit_test(the_built_in_prose_is_text),
      cmocka_unit_test(nfc_composes_and_orders),
      cmocka_unit_test(nfc_of_many_marks_is_linear),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
