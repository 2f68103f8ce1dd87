/* Unaligned little-endian loads and stores: what every format here uses on disk. */
#ifndef LK_FORMATS_LITTLE_ENDIAN_H
#define LK_FORMATS_LITTLE_ENDIAN_H

#include <stdint.h>

static inline uint16_t lk_load_le16(const unsigned char *p) {
  return (uint16_t)(p[0] | (unsigned)p[1] << 8);
}
static inline uint32_t lk_load_le32(const unsigned char *p) {
  return lk_load_le16(p) | (uint32_t)lk_load_le16(p + 2) << 16;
}
static inline uint64_t lk_load_le64(const unsigned char *p) {
  return lk_load_le32(p) | (uint64_t)lk_load_le32(p + 4) << 32;
}
static inline void lk_store_le16(unsigned char *p, uint16_t v) {
  p[0] = (unsigned char)v;
  p[1] = (unsigned char)(v >> 8);
}
static inline void lk_store_le32(unsigned char *p, uint32_t v) {
  lk_store_le16(p, (uint16_t)v);
  lk_store_le16(p + 2, (uint16_t)(v >> 16));
}
static inline void lk_store_le64(unsigned char *p, uint64_t v) {
  lk_store_le32(p, (uint32_t)v);
  lk_store_le32(p + 4, (uint32_t)(v >> 32));
}

#endif
