#include <immintrin.h>

#include "kernels/read/read_kernels.h"

typedef __m256i read_vec;
enum { VEC_BYTES = sizeof(read_vec) };

static inline read_vec vec_zero(void) { return _mm256_setzero_si256(); }
static inline read_vec vec_xor_load(read_vec sum, const unsigned char *p) {
  return _mm256_xor_si256(sum, _mm256_load_si256((const __m256i *)(const void *)p));
}
static inline uint64_t vec_fold(read_vec x) {
  const __m128i half = _mm_xor_si128(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  return (uint64_t)_mm_cvtsi128_si64(half) ^ (uint64_t)_mm_extract_epi64(half, 1);
}

#include "kernels/read/read_impl.h"

uint64_t lk_read_avx2(const void *data, size_t n_bytes, size_t n_streams, bool prefetch) {
  return read_all(data, n_bytes, n_streams, prefetch);
}
