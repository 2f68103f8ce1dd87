/* UTF-8 as the Unicode standard defines it (table 3-7): no surrogates, no overlong forms. */
#ifndef LK_BASE_UTF8_H
#define LK_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Decodes the character at s (n bytes left): its length 1..4, or 0 where it is not valid. */
size_t lk_utf8_decode(const char *s, size_t n, uint32_t *code);
/* Encodes a Unicode scalar value; the length 1..4. */
size_t lk_utf8_encode(uint32_t code, char out[4]);
/* False with *bad_at = offset of the first byte that begins no valid character. */
bool lk_utf8_valid(const char *s, size_t n, size_t *bad_at);
/* The property White_Space. */
bool lk_is_white_space(uint32_t code);

/* The byte-level alphabet of GPT-2: every byte has a printable character, so vocabularies can be
 * text. The byte of a character, or -1 where it stands for none. */
int lk_byte_of_char(uint32_t code);
/* Turns text in that alphabet into bytes (out holds n); the count, or SIZE_MAX where a character is
 * outside of the alphabet or the text is not UTF-8. */
size_t lk_bytes_of_text(const char *text, size_t n, char *out);

#endif
