#include "cpu/cpu_features.h"

#include <string.h>

static const char *const names[] = {"best", "c", "avx2", "avx512", "avx512bf16", "amx"};

#if defined(__x86_64__)
#include <cpuid.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

static uint64_t os_state(void) {
  uint32_t lo, hi;
  __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
  return (uint64_t)hi << 32 | lo;
}

/* Tile registers are a process's own choice on Linux: it asks once (arch_prctl(2)). */
static bool may_use_tiles(uint64_t state) {
  enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
  const uint64_t tiles = 3u << 17;
#if defined(__linux__)
  return (state & tiles) == tiles &&
         syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#else
  return false;
#endif
}

leank_cpu_level lk_cpu_detect(void) {
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return LEANK_CPU_C;
  const unsigned need1 = bit_OSXSAVE | bit_AVX | bit_FMA | bit_F16C;
  if ((c & need1) != need1) return LEANK_CPU_C;
  const uint64_t state = os_state();
  if ((state & 0x6) != 0x6) return LEANK_CPU_C; /* XMM and YMM saved */
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & bit_AVX2)) return LEANK_CPU_C;
  const unsigned need7 = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
  if ((b & need7) != need7 || (state & 0xe6) != 0xe6) return LEANK_CPU_AVX2;
  const bool vnni = c & (1u << 11);
  const unsigned need_amx = 1u << 22 | 1u << 24; /* BF16, TILE */
  const bool amx = (d & need_amx) == need_amx;
  if (!vnni || !__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a & (1u << 5)))
    return LEANK_CPU_AVX512;
  return amx && may_use_tiles(state) ? LEANK_CPU_AMX : LEANK_CPU_AVX512BF16;
}
#else
leank_cpu_level lk_cpu_detect(void) { return LEANK_CPU_C; }
#endif

leank_cpu_level lk_cpu_level(leank_cpu_level cap) {
  leank_cpu_level best = lk_cpu_detect();
  return cap != LEANK_CPU_BEST && cap < best ? cap : best;
}

const char *lk_cpu_level_name(leank_cpu_level level) { return names[level]; }

bool lk_cpu_level_parse(const char *name, leank_cpu_level *out) {
  for (int i = 0; i <= LEANK_CPU_AMX; i++)
    if (strcmp(name, names[i]) == 0) {
      *out = (leank_cpu_level)i;
      return true;
    }
  return false;
}
