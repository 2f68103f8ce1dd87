#include <immintrin.h>

#include "kernels/read/read_kernels.h"

typedef __m512i read_vec;
enum { VEC_BYTES = sizeof(read_vec) };

static inline read_vec vec_zero(void) { return _mm512_setzero_si512(); }
static inline read_vec vec_xor_load(read_vec sum, const unsigned char *p) {
  return _mm512_xor_si512(sum, _mm512_load_si512((const void *)p));
}
static inline uint64_t vec_fold(read_vec x) {
  uint64_t words[8], sum = 0;
  _mm512_storeu_si512((void *)words, x);
  for (int i = 0; i < 8; i++) sum ^= words[i];
  return sum;
}

#include "kernels/read/read_impl.h"

uint64_t lk_read_avx512(const void *data, size_t n_bytes, size_t n_streams, bool prefetch) {
  return read_all(data, n_bytes, n_streams, prefetch);
}
