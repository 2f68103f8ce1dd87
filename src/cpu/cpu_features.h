/* What the processor and the operating system allow. */
#ifndef LK_CPU_FEATURES_H
#define LK_CPU_FEATURES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <leank/session.h>

/* The highest level that both CPU and OS support (x86-64: register state saved, XGETBV, and tiles
 * granted; AArch64: what the OS reports, HWCAP). */
leank_cpu_level lk_cpu_detect(void);
#if defined(__x86_64__)
/* XCR0: the registers that the system saves when it switches threads; 0 where it does not say. */
uint64_t lk_cpu_saved_state(void);
#endif
/* min(detected, cap). LEANK_CPU_BEST: the highest detected. The cap is one of this
 * architecture. */
leank_cpu_level lk_cpu_level(leank_cpu_level cap);
/* The highest level up to this one (of this architecture, not BEST) whose kernels round nothing to
 * bf16; and whether its processors multiply bf16 matrices faster than fp32 ones. */
leank_cpu_level lk_cpu_fp32_level(leank_cpu_level level);
bool lk_cpu_bf16_products(leank_cpu_level level);
enum { LK_CPU_MAX_LEVELS = 8 };
/* The levels of this architecture, supported here or not: BEST, C, then ascending. Gives their
 * number. */
size_t lk_cpu_own_levels(leank_cpu_level out[LK_CPU_MAX_LEVELS]);
/* False for a level of another architecture and for a number that is no level. */
bool lk_cpu_level_is_own(leank_cpu_level level);
/* "x86-64", "AArch64" or, for an architecture without kernels of its own, "this processor". */
const char *lk_cpu_architecture(void);
/* "best", "c", "avx2", "avx512", "avx512bf16", "amx", "neon", "neondot", "neonbf16"; NULL for a
 * number that is no level. */
const char *lk_cpu_level_name(leank_cpu_level level);
/* By name, of whatever architecture. */
bool lk_cpu_level_parse(const char *name, leank_cpu_level *out);

#endif
