#include "support/hostile.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"

size_t hostile_mem_in_use(void) {
  size_t n = 0;
  for (int category = 0; category < LK_MEM_N_CATEGORIES; category++)
    n += lk_mem_in_use((lk_mem_category)category);
  return n;
}

/* Opens an exact copy; checks that nothing stays allocated and that a failure speaks. */
static leank_status open_copy(hostile_open_fn open, const void *bytes, size_t n_bytes,
                              leank_error *err) {
  unsigned char *copy = malloc(n_bytes ? n_bytes : 1);
  assert_non_null(copy);
  if (n_bytes > 0) memcpy(copy, bytes, n_bytes);
  const size_t before = hostile_mem_in_use();
  *err = (leank_error){.code = LEANK_OK};
  leank_status status = open(copy, n_bytes, err);
  assert_int_equal(hostile_mem_in_use(), before);
  assert_int_equal(err->code, status);
  if (status != LEANK_OK) {
    assert_true(strlen(err->message) > 0);
    assert_null(strchr(err->message, '\n'));
  }
  free(copy);
  return status;
}

static void assert_refused(leank_status status, const leank_error *err) {
  if (status != LEANK_E_FORMAT && status != LEANK_E_UNSUPPORTED)
    fail_msg("status %d (%s)", (int)status, err->message);
}

void hostile_truncations(hostile_open_fn open, const void *bytes, size_t n_bytes) {
  leank_error err;
  assert_int_equal(open_copy(open, bytes, n_bytes, &err), LEANK_OK);
  for (size_t n = 0; n < n_bytes; n++) assert_refused(open_copy(open, bytes, n, &err), &err);
}

void hostile_allocations(hostile_open_fn open, const void *bytes, size_t n_bytes) {
  leank_error err;
  size_t nth = 0;
  leank_status status;
  do {
    lk_alloc_fail_nth(++nth);
    status = open_copy(open, bytes, n_bytes, &err);
    lk_alloc_fail_nth(0);
    if (status != LEANK_OK) assert_int_equal(status, LEANK_E_MEMORY);
  } while (status != LEANK_OK);
  assert_true(nth > 1);
}

void hostile_flips(hostile_open_fn open, const void *bytes, size_t n_bytes) {
  leank_error err;
  unsigned char *changed = malloc(n_bytes);
  assert_non_null(changed);
  memcpy(changed, bytes, n_bytes);
  for (size_t bit = 0; bit < 8 * n_bytes; bit++) {
    changed[bit / 8] ^= (unsigned char)(1u << bit % 8);
    leank_status status = open_copy(open, changed, n_bytes, &err);
    if (status != LEANK_OK) assert_refused(status, &err);
    changed[bit / 8] ^= (unsigned char)(1u << bit % 8);
  }
  free(changed);
}

void hostile_expect(hostile_open_fn open, const void *bytes, size_t n_bytes, leank_status status,
                    const char *part) {
  leank_error err;
  leank_status got = open_copy(open, bytes, n_bytes, &err);
  if (got != status || !strstr(err.message, part))
    fail_msg("status %d, message '%s'; expected %d and '%s'", (int)got, err.message, (int)status,
             part);
}
