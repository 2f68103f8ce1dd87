/* The variants of op "read". */
#ifndef LK_KERNELS_READ_KERNELS_H
#define LK_KERNELS_READ_KERNELS_H

#include "kernels/read/read.h"

uint64_t lk_read_c(const void *data, size_t n_bytes, size_t n_streams, bool prefetch);
uint64_t lk_read_avx2(const void *data, size_t n_bytes, size_t n_streams, bool prefetch);
uint64_t lk_read_avx512(const void *data, size_t n_bytes, size_t n_streams, bool prefetch);

#endif
