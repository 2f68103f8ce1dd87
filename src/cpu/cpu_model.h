/* What the processor calls itself and which extensions it has. */
#ifndef LK_CPU_MODEL_H
#define LK_CPU_MODEL_H

#include <leank/cpu.h>

/* The name the processor gives itself, without blanks around it; empty where it has none. */
void lk_cpu_model_name(char out[64]);
/* The extensions that kernels of this architecture may use; returns how many. */
size_t lk_cpu_model_features(leank_cpu_feature out[LEANK_CPU_MAX_FEATURES]);
/* Bytes of the largest cache, as reported; 0 where it is not told. */
size_t lk_cpu_model_cache_bytes(void);

#endif
