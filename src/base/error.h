/* Failing: three macros over a local `status` and a `cleanup` label. */
#ifndef LK_BASE_ERROR_H
#define LK_BASE_ERROR_H

#include <leank/status.h>

/* Fills *err (which may be NULL) and returns code. */
leank_status lk_fail(leank_error *err, leank_status code, int64_t offset, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* Fail with a message: LK_FAIL(err, LEANK_E_FORMAT, offset, "%s: ...", path). offset -1 = none. */
#define LK_FAIL(err, code, offset, ...)                                                            \
  do {                                                                                             \
    status = lk_fail((err), (code), (int64_t)(offset), __VA_ARGS__);                               \
    goto cleanup;                                                                                  \
  } while (0)

/* Fail if. */
#define LK_FAIL_IF(cond, err, code, offset, ...)                                                   \
  do {                                                                                             \
    if (cond) LK_FAIL(err, code, offset, __VA_ARGS__);                                             \
  } while (0)

/* Forward the failure of a call that has filled err itself. */
#define LK_TRY(call)                                                                               \
  do {                                                                                             \
    status = (call);                                                                               \
    if (status != LEANK_OK) goto cleanup;                                                          \
  } while (0)

#endif
