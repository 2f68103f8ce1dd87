#include "dequant_f64.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

static double f16_f64(const uint8_t *p) {
  const unsigned h = p[0] | (unsigned)p[1] << 8;
  const int exponent = (int)(h >> 10 & 31), fraction = (int)(h & 1023);
  const double sign = h & 0x8000 ? -1 : 1;
  if (exponent == 31) return fraction ? (double)NAN : sign * (double)INFINITY;
  if (exponent == 0) return sign * ldexp(fraction, -24);
  return sign * ldexp(1024 + fraction, exponent - 25);
}

static dequant_f64 made(double scale, int q, double offset, int has_offset) {
  const double product = scale * q, magnitude = fabs(product) + fabs(offset);
  return (dequant_f64){has_offset ? product + offset : product, magnitude, magnitude};
}
/* q - zero times scale. */
static dequant_f64 centred(double scale, int q, int zero) {
  dequant_f64 e = made(scale, q - zero, 0, 0);
  e.shifted = fabs(scale) * (q + zero);
  return e;
}

static dequant_f64 plain_f64(lk_dtype type, const uint8_t *data, size_t i) {
  double value = 0;
  if (type == LK_F16) value = f16_f64(data + 2 * i);
  if (type == LK_BF16)
    value = (double)lk_bf16_to_f32((uint16_t)(data[2 * i] | (unsigned)data[2 * i + 1] << 8));
  if (type == LK_F32) {
    float f;
    memcpy(&f, data + 4 * i, sizeof f);
    value = (double)f;
  }
  return (dequant_f64){value, fabs(value), fabs(value)};
}

/* Nibble i of 32 in 16 bytes: the low ones first. */
static int nibble(const uint8_t *packed, size_t i) {
  return i < 16 ? packed[i] & 15 : packed[i - 16] >> 4;
}
static int bit(const uint8_t *bits, size_t i) { return bits[i / 8] >> i % 8 & 1; }

static dequant_f64 block32_f64(lk_dtype type, const uint8_t *b, size_t i) {
  const double d = f16_f64(b);
  switch (type) {
  case LK_Q8_0: return made(d, (int8_t)b[2 + i], 0, 0);
  case LK_Q4_0: return centred(d, nibble(b + 2, i), 8);
  case LK_Q4_1: return made(d, nibble(b + 4, i), f16_f64(b + 2), 1);
  case LK_Q5_0: return centred(d, nibble(b + 6, i) + 16 * bit(b + 2, i), 16);
  default: return made(d, nibble(b + 8, i) + 16 * bit(b + 4, i), f16_f64(b + 2), 1);
  }
}

/* Scale (which = 0) or minimum (1) of group g in the 12 bytes s of Q4_K and Q5_K. */
static int k_scale(const uint8_t *s, size_t g, int which) {
  if (g < 4) return s[4 * which + (int)g] & 63;
  const int low = which ? s[4 + g] >> 4 : s[4 + g] & 15;
  return low + 16 * (s[4 * which + (int)g - 4] >> 6);
}

static dequant_f64 k45_f64(lk_dtype type, const uint8_t *b, size_t i) {
  const size_t g = i / 32, j = i % 32;
  const uint8_t *packed = b + (type == LK_Q4_K ? 16 : 48) + 32 * (g / 2);
  int q = g % 2 ? packed[j] >> 4 : packed[j] & 15;
  if (type == LK_Q5_K) q += 16 * (b[16 + j] >> g & 1);
  const double d = f16_f64(b), d_min = f16_f64(b + 2);
  return made(d * k_scale(b + 4, g, 0), q, -(d_min * k_scale(b + 4, g, 1)), 1);
}

static dequant_f64 k6_f64(const uint8_t *b, size_t i) {
  const size_t half = i / 128, run = i % 128 / 32, j = i % 32;
  const uint8_t low = b[64 * half + 32 * (run % 2) + j], high = b[128 + 32 * half + j];
  const int q = (run < 2 ? low & 15 : low >> 4) + 16 * (high >> 2 * run & 3);
  return centred(f16_f64(b + 208) * (int8_t)b[192 + i / 16], q, 32);
}

dequant_f64 dequant_f64_element(lk_dtype type, const void *data, size_t i) {
  const size_t n = lk_dtype_block_elements(type);
  const uint8_t *block = (const uint8_t *)data + i / n * lk_dtype_block_bytes(type);
  if (n == 1) return plain_f64(type, data, i);
  if (n == 32) return block32_f64(type, block, i % 32);
  return type == LK_Q6_K ? k6_f64(block, i % 256) : k45_f64(type, block, i % 256);
}

/* ---- random data ---- */

/* A finite binary16 of about x, of random sign where `both`. */
static void put_f16(uint8_t *p, double x, lk_rng *rng, int both) {
  int exponent;
  const double fraction = frexp(x * (0.5 + lk_rng_double(rng)), &exponent);
  unsigned h = 0;
  if (exponent > 15) exponent = 15;
  if (exponent >= -13)
    h = (unsigned)(exponent + 14) << 10 | ((unsigned)(fraction * 2048) & 1023);
  else
    h = (unsigned)ldexp(fraction, exponent + 24) & 1023; /* subnormal */
  if (both && lk_rng_u64(rng) & 1) h |= 0x8000;
  p[0] = (uint8_t)h;
  p[1] = (uint8_t)(h >> 8);
}

static void put_plain(lk_dtype type, double magnitude, lk_rng *rng, uint8_t *p) {
  const float f = (float)((2 * lk_rng_double(rng) - 1) * magnitude);
  const uint16_t h = lk_f32_to_bf16(f);
  if (type == LK_F32) memcpy(p, &f, sizeof f);
  if (type == LK_BF16) memcpy(p, &h, sizeof h);
  if (type == LK_F16) put_f16(p, magnitude, rng, 1);
}

static void put_scales(lk_dtype type, double m, lk_rng *rng, uint8_t *b) {
  switch (type) {
  case LK_Q8_0: put_f16(b, m / 128, rng, 1); break;
  case LK_Q4_0: put_f16(b, m / 8, rng, 1); break;
  case LK_Q5_0: put_f16(b, m / 16, rng, 1); break;
  case LK_Q4_1: put_f16(b, m / 16, rng, 1), put_f16(b + 2, m, rng, 1); break;
  case LK_Q5_1: put_f16(b, m / 32, rng, 1), put_f16(b + 2, m, rng, 1); break;
  case LK_Q4_K: put_f16(b, m / 1024, rng, 1), put_f16(b + 2, m / 64, rng, 1); break;
  case LK_Q5_K: put_f16(b, m / 2048, rng, 1), put_f16(b + 2, m / 64, rng, 1); break;
  default: put_f16(b + 208, m / 4096, rng, 1); break;
  }
}

void dequant_f64_random(lk_dtype type, size_t n, double magnitude, lk_rng *rng, void *data) {
  const size_t elements = lk_dtype_block_elements(type), bytes = lk_dtype_block_bytes(type);
  uint8_t *block = data;
  for (size_t i = 0; i < n; i += elements, block += bytes) {
    for (size_t j = 0; j < bytes; j++) block[j] = (uint8_t)lk_rng_u64(rng);
    if (elements == 1)
      put_plain(type, magnitude, rng, block);
    else
      put_scales(type, magnitude, rng, block);
  }
}
