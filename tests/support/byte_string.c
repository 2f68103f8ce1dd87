#include "support/byte_string.h"

#include <stdlib.h>
#include <string.h>

void put_bytes(byte_string *s, const void *bytes, size_t n) {
  if (n > sizeof s->bytes - s->n) abort();
  memcpy(s->bytes + s->n, bytes, n);
  s->n += n;
}

static void put_int(byte_string *s, uint64_t value, size_t n) {
  for (size_t i = 0; i < n; i++) {
    unsigned char byte = (unsigned char)(value >> (8 * i));
    put_bytes(s, &byte, 1);
  }
}

void put_text(byte_string *s, const char *text) { put_bytes(s, text, strlen(text)); }
void put_u8(byte_string *s, unsigned value) { put_int(s, value, 1); }
void put_u16(byte_string *s, unsigned value) { put_int(s, value, 2); }
void put_u32(byte_string *s, uint32_t value) { put_int(s, value, 4); }
void put_u64(byte_string *s, uint64_t value) { put_int(s, value, 8); }

void put_f32(byte_string *s, float value) {
  uint32_t u;
  memcpy(&u, &value, sizeof u);
  put_u32(s, u);
}

void put_f64(byte_string *s, double value) {
  uint64_t u;
  memcpy(&u, &value, sizeof u);
  put_u64(s, u);
}
