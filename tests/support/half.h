/* IEEE half precision for tests: rounded to nearest even; beyond +-65504, infinities included,
 * that; NaN stays NaN. C and C++. */
#ifndef LK_SUPPORT_HALF_H
#define LK_SUPPORT_HALF_H

#include <math.h>
#include <stdint.h>

enum { LK_F16_NAN = 0x7fff };

static inline uint16_t lk_f32_to_f16(float x) {
  const uint16_t sign = signbit(x) ? 0x8000 : 0;
  const float size = fminf(fabsf(x), 65504.0f);
  int exponent;
  if (isnan(x)) return LK_F16_NAN;
  frexpf(size, &exponent);                         /* size < 2^exponent */
  if (size == 0 || exponent < -13) exponent = -13; /* frexpf of 0 is 0 */
  /* Units of the last of 11 bits, on the exponent: a carry goes there by itself. */
  const uint16_t units = (uint16_t)nearbyintf(ldexpf(size, 11 - exponent));
  return (uint16_t)(sign + ((exponent + 13) << 10) + units);
}

static inline float lk_f16_to_f32(uint16_t h) {
  const int exponent = h >> 10 & 31, units = h & 1023;
  float size = ldexpf((float)(units + (exponent ? 1024 : 0)), (exponent ? exponent : 1) - 25);
  if (exponent == 31) size = units ? NAN : INFINITY;
  return h & 0x8000 ? -size : size;
}

#endif
