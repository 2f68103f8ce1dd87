/* Stored weights against values made by the gguf package (scripts/goldens/dequant.py). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "cpu/cpu_features.h"
#include "kernels/dequant/dequant.h"

enum { MAX_ELEMENTS = 4096 };

typedef struct golden {
  uint32_t type, n_elements, n_bytes;
  unsigned char data[4 * MAX_ELEMENTS];
  float values[MAX_ELEMENTS];
} golden;

/* False at the end of the file. */
static bool read_golden(FILE *file, golden *out) {
  uint32_t head[3];
  const size_t n = fread(head, sizeof head[0], 3, file);
  if (n == 0) return false;
  assert_int_equal(n, 3);
  *out = (golden){.type = head[0], .n_elements = head[1], .n_bytes = head[2]};
  assert_true(out->n_elements <= MAX_ELEMENTS && out->n_bytes <= sizeof out->data);
  assert_int_equal(fread(out->data, 1, out->n_bytes, file), out->n_bytes);
  assert_int_equal(fread(out->values, 4, out->n_elements, file), out->n_elements);
  return true;
}

/* Zeros of either sign count as different: all bits must agree. */
static void compare(const golden *g, leank_cpu_level level) {
  static float f[MAX_ELEMENTS];
  static uint16_t h[MAX_ELEMENTS];
  const lk_dequant_variant *v = lk_dequant_select((lk_dtype)g->type, level);
  assert_int_equal(lk_dtype_bytes(v->type, g->n_elements), g->n_bytes);
  v->to_f32(g->data, g->n_elements, f);
  v->to_bf16(g->data, g->n_elements, h);
  for (size_t i = 0; i < g->n_elements; i++) {
    if (memcmp(&f[i], &g->values[i], 4) != 0)
      fail_msg("%s: element %zu is %a, not %a", v->name, i, (double)f[i], (double)g->values[i]);
    if (h[i] != lk_f32_to_bf16(g->values[i])) fail_msg("%s: bf16 element %zu", v->name, i);
  }
}

static void test_golden_blocks(void **state) {
  (void)state;
  static golden g;
  FILE *file = fopen(LEANK_TEST_DATA "/dequant/blocks.bin", "rb");
  assert_non_null(file);
  size_t n_types = 0;
  for (; read_golden(file, &g); n_types++) {
    assert_int_equal(g.type, n_types);
    leank_cpu_level levels[LK_CPU_MAX_LEVELS];
    const size_t n_levels = lk_cpu_own_levels(levels);
    for (size_t i = 0; i < n_levels; i++)
      if (levels[i] <= lk_cpu_detect()) compare(&g, levels[i]);
  }
  fclose(file);
  assert_int_equal(n_types, LK_N_DTYPES);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_golden_blocks)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
