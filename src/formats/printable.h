/* Names out of untrusted files, made fit for a one-line message. */
#ifndef LK_FORMATS_PRINTABLE_H
#define LK_FORMATS_PRINTABLE_H

#include <stddef.h>

typedef struct lk_printable_text {
  char text[68];
} lk_printable_text;

/* At most 64 bytes, everything but printable ASCII as '?', "..." where it was cut. */
lk_printable_text lk_printable(const void *bytes, size_t n_bytes);

#endif
