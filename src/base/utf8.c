#include "base/utf8.h"

#include <leank/text.h>

#include <assert.h>
#include <string.h>

/* How many continuation bytes a lead byte asks for, and the range of the first of them. */
static size_t lead_info(unsigned char lead, unsigned char *low, unsigned char *high) {
  *low = 0x80;
  *high = 0xbf;
  if (lead >= 0xc2 && lead <= 0xdf) return 1;
  if (lead >= 0xe0 && lead <= 0xef) {
    if (lead == 0xe0) *low = 0xa0;
    if (lead == 0xed) *high = 0x9f;
    return 2;
  }
  if (lead >= 0xf0 && lead <= 0xf4) {
    if (lead == 0xf0) *low = 0x90;
    if (lead == 0xf4) *high = 0x8f;
    return 3;
  }
  return 0;
}

/* True where `next` may follow the n bytes of a character begun in `held`. */
static bool continues(const unsigned char *held, size_t n, unsigned char next) {
  unsigned char low, high;
  lead_info(held[0], &low, &high);
  return n == 1 ? next >= low && next <= high : next >= 0x80 && next <= 0xbf;
}

size_t lk_utf8_decode(const char *s, size_t n, uint32_t *code) {
  const unsigned char *u = (const unsigned char *)s;
  unsigned char low, high;
  if (n == 0) return 0;
  if (u[0] < 0x80) {
    *code = u[0];
    return 1;
  }
  const size_t more = lead_info(u[0], &low, &high);
  if (more == 0 || more >= n) return 0;
  uint32_t value = u[0] & (0x3fu >> more);
  for (size_t i = 1; i <= more; i++) {
    if (!continues(u, i, u[i])) return 0;
    value = value << 6 | (u[i] & 0x3fu);
  }
  *code = value;
  return more + 1;
}

size_t lk_utf8_encode(uint32_t code, char out[4]) {
  assert(code <= 0x10ffff && (code < 0xd800 || code > 0xdfff));
  if (code < 0x80) {
    out[0] = (char)code;
    return 1;
  }
  const size_t n = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
  static const unsigned char lead[5] = {0, 0, 0xc0, 0xe0, 0xf0};
  for (size_t i = n - 1; i > 0; i--) {
    out[i] = (char)(0x80 | (code & 0x3f));
    code >>= 6;
  }
  out[0] = (char)(lead[n] | code);
  return n;
}

bool lk_utf8_valid(const char *s, size_t n, size_t *bad_at) {
  uint32_t code;
  for (size_t i = 0; i < n;) {
    const size_t length = lk_utf8_decode(s + i, n - i, &code);
    if (length == 0) {
      *bad_at = i;
      return false;
    }
    i += length;
  }
  return true;
}

bool lk_is_white_space(uint32_t c) {
  return (c >= 0x09 && c <= 0x0d) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
         c == 0x3000;
}

/* Bytes that stand for themselves: printable and not a blank. */
static bool is_own_char(uint32_t byte) {
  return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) ||
         (byte >= 0xae && byte <= 0xff);
}

int lk_byte_of_char(uint32_t code) {
  /* The other 68 bytes, 0..0x20, 0x7f..0xa0 and 0xad, have the characters from U+0100 on. */
  if (code < 0x100) return is_own_char(code) ? (int)code : -1;
  if (code <= 0x120) return (int)(code - 0x100);
  if (code <= 0x142) return (int)(code - 0x121 + 0x7f);
  return code == 0x143 ? 0xad : -1;
}

size_t lk_bytes_of_text(const char *text, size_t n, char *out) {
  size_t n_out = 0;
  uint32_t code;
  for (size_t i = 0; i < n;) {
    const size_t length = lk_utf8_decode(text + i, n - i, &code);
    const int byte = length > 0 ? lk_byte_of_char(code) : -1;
    if (byte < 0) return SIZE_MAX;
    out[n_out++] = (char)byte;
    i += length;
  }
  return n_out;
}

static size_t put_replacement(char *out) {
  memcpy(out, "\xef\xbf\xbd", 3);
  return 3;
}

/* One byte where nothing is held: out at once, held as a lead, or replaced. */
static size_t begin_char(leank_utf8_stream *stream, unsigned char byte, char *out) {
  unsigned char low, high;
  if (byte < 0x80) {
    *out = (char)byte;
    return 1;
  }
  if (lead_info(byte, &low, &high) == 0) return put_replacement(out);
  stream->held[0] = byte;
  stream->n_held = 1;
  return 0;
}

/* Each maximal part of a broken character becomes one U+FFFD (Unicode 15, section 3.9). */
static size_t feed_byte(leank_utf8_stream *stream, unsigned char byte, char *out) {
  if (stream->n_held == 0) return begin_char(stream, byte, out);
  if (!continues(stream->held, stream->n_held, byte)) {
    const size_t n = put_replacement(out);
    stream->n_held = 0;
    return n + begin_char(stream, byte, out + n);
  }
  unsigned char low, high;
  stream->held[stream->n_held++] = byte;
  if (stream->n_held <= lead_info(stream->held[0], &low, &high)) return 0;
  const size_t n = stream->n_held;
  memcpy(out, stream->held, n);
  stream->n_held = 0;
  return n;
}

size_t leank_utf8_stream_feed(leank_utf8_stream *stream, const char *bytes, size_t n_bytes,
                              bool flush, char *out) {
  size_t n_out = 0;
  for (size_t i = 0; i < n_bytes; i++)
    n_out += feed_byte(stream, (unsigned char)bytes[i], out + n_out);
  if (flush && stream->n_held > 0) {
    n_out += put_replacement(out + n_out);
    stream->n_held = 0;
  }
  return n_out;
}
