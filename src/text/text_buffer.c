#include "text/text_buffer.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"

enum { FIRST_ROOM = 192, FORMAT_BYTES = 256 };

static bool make_room(lk_text_buffer *b, size_t n) {
  size_t need;
  if (b->failed || !lk_add(b->n, n, &need) || !lk_add(need, 1, &need)) {
    b->failed = true;
    return false;
  }
  if (need <= b->room) return true;
  const size_t room = need < FIRST_ROOM ? FIRST_ROOM : need + need / 2;
  char *text = lk_realloc(b->text, LK_MEM_OTHER, b->n, room, 1);
  if (!text) {
    b->failed = true;
    return false;
  }
  b->text = text;
  b->room = room;
  return true;
}

void lk_text_put(lk_text_buffer *b, const char *bytes, size_t n) {
  if (!make_room(b, n)) return;
  if (n > 0) memcpy(b->text + b->n, bytes, n);
  b->n += n;
  b->text[b->n] = 0;
}

void lk_text_put_str(lk_text_buffer *b, const char *text) { lk_text_put(b, text, strlen(text)); }

void lk_text_put_format(lk_text_buffer *b, const char *format, ...) {
  char text[FORMAT_BYTES];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  lk_text_put_str(b, text);
}

void lk_text_cut(lk_text_buffer *b, size_t n) {
  if (n > b->n || !b->text) return;
  b->n = n;
  b->text[n] = 0;
}

void lk_text_buffer_free(lk_text_buffer *b) {
  lk_free(b->text);
  *b = (lk_text_buffer){0};
}

size_t lk_text_count(const char *text, size_t n, const char *what) {
  const size_t n_what = strlen(what);
  const char *end = text + n;
  size_t count = 0;
  for (const char *at = text; (at = memmem(at, (size_t)(end - at), what, n_what)); at++) count++;
  return count;
}
