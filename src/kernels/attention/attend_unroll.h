/* What makes a tile of vectors stay in registers: forced inlining and full unrolling. */
#ifndef LK_KERNELS_ATTEND_UNROLL_H
#define LK_KERNELS_ATTEND_UNROLL_H

#define LK_INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define LK_UNROLL _Pragma("clang loop unroll(full)")
#else
#define LK_UNROLL _Pragma("GCC unroll 16")
#endif

#endif
