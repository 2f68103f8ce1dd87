/* What the processor and the operating system offer, and which kernels that gives. Needs no model.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LEANK_CPU_H
#define LEANK_CPU_H

#include <leank/session.h>

#ifdef __cplusplus
extern "C" {
#endif

#define LEANK_CPU_MAX_FEATURES 32

/* An extension that some kernel uses. */
typedef struct leank_cpu_feature {
  char name[16];  /* as /proc/cpuinfo spells it, e.g. "avx512_bf16" */
  bool processor; /* the processor has it */
  bool system;    /* the operating system saves its registers (and grants them to this process) */
} leank_cpu_feature;

typedef struct leank_cpu_info {
  char name[64];            /* of the processor, by itself; empty where it does not tell */
  leank_cpu_level detected; /* the highest level that processor and operating system allow */
  leank_cpu_level level;    /* the level described: detected or the cap, the lower */
  size_t n_processors;      /* that this process may run on */
  size_t cache_bytes;       /* of the largest cache, as reported; 0 where it is not told. A virtual
                               machine may be told of one that it shares */
  size_t free_bytes;        /* of memory, to be had without swapping; SIZE_MAX: not told */
  size_t n_features;
  leank_cpu_feature features[LEANK_CPU_MAX_FEATURES];
  char kernels[4096]; /* "op: variant" lines of a session at this level */
} leank_cpu_info;

/* Describes this machine with the instruction set capped at `cap` (LEANK_CPU_BEST: not) and a cache
 * of kv_type. LEANK_E_ARGUMENT: an unknown level or type; LEANK_E_UNSUPPORTED: a
 * type that only other devices have; LEANK_E_MEMORY. */
LEANK_API leank_status leank_cpu_describe(leank_cpu_level cap, leank_kv_type kv_type,
                                          leank_cpu_info *out, leank_error *err);
/* "c", "avx2", ... as the command line has them; NULL for no level. Static storage. */
LEANK_API const char *leank_cpu_level_name(leank_cpu_level level);

#ifdef __cplusplus
}
#endif
#endif
