/* The tile instructions of AMX for attend_tmul_impl.h. Tiles are named by literals 0 .. 7.
 *
 * Written out rather than by amxintrin.h: that of gcc 12 does not tell the compiler that a tile
 * load reads memory, so that stores before it may come late. */
#ifndef LK_KERNELS_ATTEND_TMUL_H
#define LK_KERNELS_ATTEND_TMUL_H

/* LDTILECFG: 64 bytes, 64-byte aligned; all tiles become 0. */
#define TMUL_CONFIGURE(config)                                                                     \
  __asm__ volatile("ldtilecfg %0" ::"m"(*(const char(*)[64])(config)) : "memory")
#define TMUL_RELEASE() __asm__ volatile("tilerelease" ::: "memory")
#define TMUL_ZERO(tile) __asm__ volatile("tilezero %%tmm" #tile ::)
/* Row i of the tile at p + i * stride, in bytes. */
#define TMUL_LOAD(tile, p, stride)                                                                 \
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile ::"r"((const void *)(p)),                    \
                   "r"((size_t)(stride))                                                           \
                   : "memory")
#define TMUL_STORE(tile, p, stride)                                                                \
  __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)" ::"r"((void *)(p)),                      \
                   "r"((size_t)(stride))                                                           \
                   : "memory")
/* TDPBF16PS: c[m][n] += sum_k a[m][2k] b[k][2n] + sum_k a[m][2k+1] b[k][2n+1], each sum from 0 by
 * fused multiply-adds, then added to each other, then to c; denormals are 0 on both sides. */
#define TMUL_DOT(c, a, b) __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c ::)

#endif
