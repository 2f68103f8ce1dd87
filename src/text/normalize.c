#include "text/normalize.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <utf8proc.h>

#include "base/alloc.h"
#include "base/utf8.h"

/* No character below U+0300 takes part in composition with what precedes it. */
static bool needs_nfc(const char *text, size_t n_bytes) {
  for (size_t i = 0; i < n_bytes; i++)
    if ((unsigned char)text[i] >= 0xcc) return true; /* lead byte of U+0300 */
  return false;
}

static size_t decompose(const char *text, size_t n_bytes, utf8proc_int32_t *codes, size_t cap) {
  size_t n = 0;
  uint32_t code;
  for (size_t i = 0; i < n_bytes;) {
    int boundary = 0;
    i += lk_utf8_decode(text + i, n_bytes - i, &code);
    const utf8proc_ssize_t room = codes ? (utf8proc_ssize_t)(cap - n) : 0;
    const utf8proc_ssize_t more =
        utf8proc_decompose_char((utf8proc_int32_t)code, codes ? codes + n : NULL, room,
                                UTF8PROC_DECOMPOSE | UTF8PROC_STABLE, &boundary);
    n += more > 0 ? (size_t)more : 0;
  }
  return n;
}

static unsigned class_of(utf8proc_int32_t code) {
  return (unsigned)utf8proc_get_property(code)->combining_class;
}

/* Stable counting sort by combining class (1..254), so that long runs stay linear. */
static void sort_marks(utf8proc_int32_t *run, size_t n, utf8proc_int32_t *scratch) {
  size_t first[257] = {0};
  for (size_t i = 0; i < n; i++) first[class_of(run[i]) + 1]++;
  for (size_t c = 1; c < 257; c++) first[c] += first[c - 1];
  for (size_t i = 0; i < n; i++) scratch[first[class_of(run[i])]++] = run[i];
  memcpy(run, scratch, n * sizeof *run);
}

static void order_marks(utf8proc_int32_t *codes, size_t n, utf8proc_int32_t *scratch) {
  for (size_t i = 0; i < n;) {
    size_t end = i;
    while (end < n && class_of(codes[end]) != 0) end++;
    if (end - i > 1) sort_marks(codes + i, end - i, scratch);
    i = end + 1;
  }
}

leank_status lk_nfc(const char *text, size_t n_bytes, char **out, size_t *n_out, leank_error *err) {
  leank_status status = LEANK_OK;
  utf8proc_int32_t *codes = NULL, *scratch = NULL;
  char *result = NULL;
  if (!needs_nfc(text, n_bytes)) {
    *out = NULL;
    return LEANK_OK;
  }
  const size_t n = decompose(text, n_bytes, NULL, 0);
  codes = lk_alloc(LK_MEM_TEXT, n, sizeof *codes);
  scratch = lk_alloc(LK_MEM_TEXT, n, sizeof *scratch);
  result = lk_alloc(LK_MEM_TEXT, n, 4);
  LK_FAIL_IF(!codes || !scratch || !result, err, LEANK_E_MEMORY, -1, "out of memory");
  decompose(text, n_bytes, codes, n);
  order_marks(codes, n, scratch);
  const utf8proc_ssize_t n_codes =
      utf8proc_normalize_utf32(codes, (utf8proc_ssize_t)n, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
  size_t at = 0;
  for (utf8proc_ssize_t i = 0; i < n_codes; i++)
    at += lk_utf8_encode((uint32_t)codes[i], result + at);
  *out = result;
  *n_out = at;
  result = NULL;
cleanup:
  lk_free(codes);
  lk_free(scratch);
  lk_free(result);
  return status;
}
