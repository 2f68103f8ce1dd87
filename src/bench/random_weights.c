#include "bench/random_weights.h"

#include <string.h>

/* Where a block keeps its scales, as f16 (ggml-quants.h of the ggml project); behind the last, -1.
 */
static const int scale_offsets[LK_N_DTYPES][3] = {
    [LK_F32] = {-1},        [LK_F16] = {-1},        [LK_BF16] = {-1},      [LK_Q8_0] = {0, -1},
    [LK_Q4_0] = {0, -1},    [LK_Q4_1] = {0, 2, -1}, [LK_Q5_0] = {0, -1},   [LK_Q5_1] = {0, 2, -1},
    [LK_Q4_K] = {0, 2, -1}, [LK_Q5_K] = {0, 2, -1}, [LK_Q6_K] = {208, -1},
};

/* Sign and mantissa stay random, the exponent is that of 2^-7 .. 2^-6: scales stand before integers
 * of up to 128 times 63 at most. */
static uint16_t tame_f16(uint16_t bits) { return (uint16_t)((bits & 0x83ff) | 8 << 10); }
static uint16_t tame_bf16(uint16_t bits) { return (uint16_t)((bits & 0x807f) | 120 << 7); }
static uint32_t tame_f32(uint32_t bits) { return (bits & 0x807fffff) | (uint32_t)120 << 23; }

static void tame_plain(lk_dtype type, size_t n, unsigned char *data) {
  for (size_t i = 0; i < n; i++) {
    if (type == LK_F32) {
      uint32_t x;
      memcpy(&x, data + 4 * i, 4);
      x = tame_f32(x);
      memcpy(data + 4 * i, &x, 4);
    } else {
      uint16_t x;
      memcpy(&x, data + 2 * i, 2);
      x = type == LK_F16 ? tame_f16(x) : tame_bf16(x);
      memcpy(data + 2 * i, &x, 2);
    }
  }
}

static void tame_scales(lk_dtype type, size_t n, unsigned char *data) {
  const size_t n_blocks = n / lk_dtype_block_elements(type), size = lk_dtype_block_bytes(type);
  for (size_t i = 0; i < n_blocks; i++)
    for (const int *at = scale_offsets[type]; *at >= 0; at++) {
      uint16_t x;
      memcpy(&x, data + i * size + *at, 2);
      x = tame_f16(x);
      memcpy(data + i * size + *at, &x, 2);
    }
}

void lk_random_weights(lk_dtype type, size_t n, lk_rng *rng, void *data) {
  unsigned char *bytes = data;
  const size_t n_bytes = lk_dtype_bytes(type, n);
  for (size_t i = 0; i < n_bytes; i += 8) {
    const uint64_t x = lk_rng_u64(rng);
    memcpy(bytes + i, &x, n_bytes - i < 8 ? n_bytes - i : 8);
  }
  if (lk_dtype_block_elements(type) == 1)
    tame_plain(type, n, bytes);
  else
    tame_scales(type, n, bytes);
}
