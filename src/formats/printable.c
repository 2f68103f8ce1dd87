#include "formats/printable.h"

#include <string.h>

enum { PRINTABLE_MAX = 64 };

lk_printable_text lk_printable(const void *bytes, size_t n_bytes) {
  lk_printable_text out = {{0}};
  const unsigned char *p = bytes;
  size_t n = n_bytes < PRINTABLE_MAX ? n_bytes : PRINTABLE_MAX;
  for (size_t i = 0; i < n; i++) out.text[i] = p[i] >= 0x20 && p[i] < 0x7f ? (char)p[i] : '?';
  if (n_bytes > n) memcpy(out.text + n, "...", 3);
  return out;
}
