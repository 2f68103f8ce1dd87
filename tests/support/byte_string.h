/* Building files byte by byte, little-endian. */
#ifndef BYTE_STRING_H
#define BYTE_STRING_H

#include <stddef.h>
#include <stdint.h>

typedef struct byte_string {
  unsigned char bytes[1 << 16];
  size_t n;
} byte_string;

void put_bytes(byte_string *s, const void *bytes, size_t n);
void put_text(byte_string *s, const char *text); /* without its NUL */
void put_u8(byte_string *s, unsigned value);
void put_u16(byte_string *s, unsigned value);
void put_u32(byte_string *s, uint32_t value);
void put_u64(byte_string *s, uint64_t value);
void put_f32(byte_string *s, float value);
void put_f64(byte_string *s, double value);

#endif
