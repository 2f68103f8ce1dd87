/* Text in the making: grows, is NUL-terminated after every call, and remembers that memory ran
 * short, so that a writer checks once. */
#ifndef LK_TEXT_TEXT_BUFFER_H
#define LK_TEXT_TEXT_BUFFER_H

#include <stdbool.h>
#include <stddef.h>

typedef struct lk_text_buffer {
  char *text; /* NULL until the first call */
  size_t n, room;
  bool failed;
} lk_text_buffer;

void lk_text_put(lk_text_buffer *b, const char *bytes, size_t n);
void lk_text_put_str(lk_text_buffer *b, const char *text);
/* Puts at most 255 bytes. */
void lk_text_put_format(lk_text_buffer *b, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Keeps the first n bytes and the memory. */
void lk_text_cut(lk_text_buffer *b, size_t n);
void lk_text_buffer_free(lk_text_buffer *b);

/* Places where `what` occurs, overlapping ones too. */
size_t lk_text_count(const char *text, size_t n, const char *what);

#endif
