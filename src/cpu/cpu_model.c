#include "cpu/cpu_model.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "cpu/cpu_features.h"

#if defined(__x86_64__)
#include <cpuid.h>

/* Extended leaves 2 to 4 hold the name, 16 bytes each. */
void lk_cpu_model_name(char out[64]) {
  unsigned words[12], highest = __get_cpuid_max(0x80000000u, NULL);
  char text[sizeof words + 1] = "";
  for (unsigned i = 0; highest >= 0x80000004u && i < 3; i++) {
    unsigned *w = words + 4 * i;
    __cpuid(0x80000002u + i, w[0], w[1], w[2], w[3]);
    memcpy(text + 16 * i, w, 16);
  }
  const char *begin = text + strspn(text, " ");
  size_t n = strlen(begin);
  while (n > 0 && begin[n - 1] == ' ') n--;
  memcpy(out, begin, n);
  out[n] = '\0';
}

enum { NO_STATE = 0, YMM = 0x6, ZMM = 0xe6, TILES = 0x60000 };

typedef struct feature_bit {
  const char *name;
  unsigned leaf, subleaf, reg, bit; /* reg: eax, ebx, ecx, edx */
  unsigned state;                   /* of XCR0 */
} feature_bit;

static const feature_bit feature_bits[] = {
    {"fma", 1, 0, 2, 12, YMM},         {"f16c", 1, 0, 2, 29, YMM},
    {"avx2", 7, 0, 1, 5, YMM},         {"avx_vnni", 7, 1, 0, 4, YMM},
    {"avx512f", 7, 0, 1, 16, ZMM},     {"avx512bw", 7, 0, 1, 30, ZMM},
    {"avx512dq", 7, 0, 1, 17, ZMM},    {"avx512vl", 7, 0, 1, 31, ZMM},
    {"avx512_vnni", 7, 0, 2, 11, ZMM}, {"avx512_bf16", 7, 1, 0, 5, ZMM},
    {"amx_tile", 7, 0, 3, 24, TILES},  {"amx_bf16", 7, 0, 3, 22, TILES},
    {"amx_int8", 7, 0, 3, 25, TILES},
};

size_t lk_cpu_model_features(leank_cpu_feature out[LEANK_CPU_MAX_FEATURES]) {
  enum { N = sizeof feature_bits / sizeof *feature_bits };
  const uint64_t state = lk_cpu_saved_state();
  /* Tiles are also granted process by process: who has them all has the level. */
  const bool tiles = lk_cpu_detect() >= LEANK_CPU_AMX;
  for (size_t i = 0; i < N; i++) {
    const feature_bit *f = &feature_bits[i];
    unsigned r[4] = {0};
    const bool known = __get_cpuid_count(f->leaf, f->subleaf, &r[0], &r[1], &r[2], &r[3]) == 1;
    out[i].processor = known && (r[f->reg] >> f->bit & 1);
    out[i].system = (state & f->state) == f->state && (f->state != TILES || tiles);
    snprintf(out[i].name, sizeof out[i].name, "%s", f->name);
  }
  return N;
}
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>

/* Implementer and part are all that AArch64 has (MIDR_EL1). */
void lk_cpu_model_name(char out[64]) {
  unsigned long long midr = 0;
  FILE *file = fopen("/sys/devices/system/cpu/cpu0/regs/identification/midr_el1", "r");
  out[0] = '\0';
  if (!file) return;
  if (fscanf(file, "%llx", &midr) == 1)
    snprintf(out, 64, "AArch64 implementer 0x%02llx part 0x%03llx", midr >> 24 & 0xff,
             midr >> 4 & 0xfff);
  fclose(file);
}

/* Linux tells what may be used: bits of AT_HWCAP and AT_HWCAP2 (asm/hwcap.h). */
size_t lk_cpu_model_features(leank_cpu_feature out[LEANK_CPU_MAX_FEATURES]) {
  static const struct {
    const char *name;
    unsigned long type;
    unsigned bit;
  } bits[] = {{"asimd", AT_HWCAP, 1},    {"fphp", AT_HWCAP, 9}, {"asimdhp", AT_HWCAP, 10},
              {"asimddp", AT_HWCAP, 20}, {"sve", AT_HWCAP, 22}, {"i8mm", AT_HWCAP2, 13},
              {"bf16", AT_HWCAP2, 14}};
  enum { N = sizeof bits / sizeof *bits };
  for (size_t i = 0; i < N; i++) {
    out[i].processor = out[i].system = getauxval(bits[i].type) >> bits[i].bit & 1;
    snprintf(out[i].name, sizeof out[i].name, "%s", bits[i].name);
  }
  return N;
}
#else
void lk_cpu_model_name(char out[64]) { out[0] = '\0'; }
size_t lk_cpu_model_features(leank_cpu_feature out[LEANK_CPU_MAX_FEATURES]) {
  (void)out;
  return 0;
}
#endif

/* Linux lists the caches of a processor; sysconf's figures are not those of every processor. */
size_t lk_cpu_model_cache_bytes(void) {
  size_t most = 0;
  for (int i = 0; i < 8; i++) {
    char path[80], unit;
    unsigned long long n;
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/size", i);
    FILE *file = fopen(path, "r");
    if (!file) break;
    if (fscanf(file, "%llu%c", &n, &unit) == 2) {
      const size_t bytes = (size_t)n << (unit == 'K' ? 10 : unit == 'M' ? 20 : 0);
      if (bytes > most) most = bytes;
    }
    fclose(file);
  }
  return most;
}
