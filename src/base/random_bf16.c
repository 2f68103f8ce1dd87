#include "base/random_bf16.h"

#include "base/dtype.h"
#include "base/rng.h"

void lk_random_bf16(const lk_random_source *source, size_t first, size_t n, uint16_t *to) {
  lk_rng rng = {source->seed + first * LK_RNG_STEP};
  for (size_t i = 0; i < n; i++) {
    const int32_t k = (int32_t)(lk_rng_u64(&rng) >> 40) * 2 + 1 - (1 << 24);
    to[i] = lk_f32_to_bf16((float)k * 0x1p-24f * source->scale);
  }
}
