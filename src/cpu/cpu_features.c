#include "cpu/cpu_features.h"

#include <stdatomic.h>
#include <string.h>

static const struct {
  leank_cpu_level level;
  const char *name;
} levels[] = {
    {LEANK_CPU_BEST, "best"},
    {LEANK_CPU_C, "c"},
    {LEANK_CPU_AVX2, "avx2"},
    {LEANK_CPU_AVX512, "avx512"},
    {LEANK_CPU_AVX512BF16, "avx512bf16"},
    {LEANK_CPU_AMX, "amx"},
    {LEANK_CPU_NEON, "neon"},
    {LEANK_CPU_NEONDOT, "neondot"},
    {LEANK_CPU_NEONBF16, "neonbf16"},
};
enum { N_LEVELS = sizeof levels / sizeof *levels };

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

uint64_t lk_cpu_saved_state(void) {
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return 0;
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

static leank_cpu_level detect(void) {
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return LEANK_CPU_C;
  const unsigned need1 = bit_AVX | bit_FMA | bit_F16C;
  if ((c & need1) != need1) return LEANK_CPU_C;
  const uint64_t state = lk_cpu_saved_state();
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

enum { FIRST_OWN = LEANK_CPU_AVX2, LAST_OWN = LEANK_CPU_AMX };
const char *lk_cpu_architecture(void) { return "x86-64"; }

#elif defined(__aarch64__) && defined(__AARCH64EL__)

#if defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>

static leank_cpu_level detect(void) {
  const unsigned long caps = getauxval(AT_HWCAP), more = getauxval(AT_HWCAP2);
  if (!(caps & HWCAP_ASIMD)) return LEANK_CPU_C;
  if (!(caps & HWCAP_ASIMDDP)) return LEANK_CPU_NEON;
  return more & HWCAP2_BF16 ? LEANK_CPU_NEONBF16 : LEANK_CPU_NEONDOT;
}
#elif defined(__APPLE__)
#include <sys/sysctl.h>

static bool has(const char *feature) {
  int value = 0;
  size_t size = sizeof value;
  return sysctlbyname(feature, &value, &size, NULL, 0) == 0 && value;
}

static leank_cpu_level detect(void) {
  if (!has("hw.optional.arm.FEAT_DotProd")) return LEANK_CPU_NEON;
  return has("hw.optional.arm.FEAT_BF16") ? LEANK_CPU_NEONBF16 : LEANK_CPU_NEONDOT;
}
#else
static leank_cpu_level detect(void) { return LEANK_CPU_NEON; } /* part of every AArch64 ABI */
#endif

enum { FIRST_OWN = LEANK_CPU_NEON, LAST_OWN = LEANK_CPU_NEONBF16 };
const char *lk_cpu_architecture(void) { return "AArch64"; }

#else
static leank_cpu_level detect(void) { return LEANK_CPU_C; }
enum { FIRST_OWN = LEANK_CPU_C, LAST_OWN = LEANK_CPU_C };
const char *lk_cpu_architecture(void) { return "this processor"; }
#endif

/* Asked for by every selection of a kernel; in a virtual machine each question is a trap. */
leank_cpu_level lk_cpu_detect(void) {
  static atomic_int known; /* 0: not yet (LEANK_CPU_BEST) */
  int level = atomic_load_explicit(&known, memory_order_relaxed);
  if (level == LEANK_CPU_BEST) {
    level = (int)detect();
    atomic_store_explicit(&known, level, memory_order_relaxed);
  }
  return (leank_cpu_level)level;
}

leank_cpu_level lk_cpu_level(leank_cpu_level cap) {
  const leank_cpu_level detected = lk_cpu_detect();
  return cap == LEANK_CPU_BEST || cap > detected ? detected : cap;
}

leank_cpu_level lk_cpu_fp32_level(leank_cpu_level level) {
  if (level == LEANK_CPU_NEONBF16) return LEANK_CPU_NEONDOT;
  return level >= LEANK_CPU_AVX512BF16 && level <= LEANK_CPU_AMX ? LEANK_CPU_AVX512 : level;
}

/* On AArch64 the libraries' bf16 is not known to be faster, and may be their reference. */
bool lk_cpu_bf16_products(leank_cpu_level level) {
  return level >= LEANK_CPU_AVX512BF16 && level <= LEANK_CPU_AMX;
}

bool lk_cpu_level_is_own(leank_cpu_level level) {
  const int number = (int)level;
  return level == LEANK_CPU_BEST || level == LEANK_CPU_C ||
         (number >= FIRST_OWN && number <= LAST_OWN);
}

size_t lk_cpu_own_levels(leank_cpu_level out[LK_CPU_MAX_LEVELS]) {
  size_t n = 0;
  for (size_t i = 0; i < N_LEVELS; i++)
    if (lk_cpu_level_is_own(levels[i].level)) out[n++] = levels[i].level;
  return n;
}

const char *lk_cpu_level_name(leank_cpu_level level) {
  for (size_t i = 0; i < N_LEVELS; i++)
    if (levels[i].level == level) return levels[i].name;
  return NULL;
}

bool lk_cpu_level_parse(const char *name, leank_cpu_level *out) {
  for (size_t i = 0; i < N_LEVELS; i++)
    if (strcmp(name, levels[i].name) == 0) {
      *out = levels[i].level;
      return true;
    }
  return false;
}
