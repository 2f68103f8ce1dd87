/* What the processor and the operating system allow. */
#ifndef LK_CPU_FEATURES_H
#define LK_CPU_FEATURES_H

#include <stdbool.h>

#include <leank/session.h>

/* The highest level that both CPU and OS support (register state saved: XGETBV; tiles granted). */
leank_cpu_level lk_cpu_detect(void);
/* min(detected, cap); cap LEANK_CPU_BEST = no cap. */
leank_cpu_level lk_cpu_level(leank_cpu_level cap);
/* "c", "avx2", "avx512", "avx512bf16", "amx". */
const char *lk_cpu_level_name(leank_cpu_level level);
bool lk_cpu_level_parse(const char *name, leank_cpu_level *out);

#endif
