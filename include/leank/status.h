/* Results of calls that can fail. SPDX-License-Identifier: Apache-2.0 */
#ifndef LEANK_STATUS_H
#define LEANK_STATUS_H

#include <stdint.h>

#include <leank/version.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Every fallible call returns one of these. The values are pinned: they never change meaning. */
typedef enum leank_status {
  LEANK_OK = 0,
  LEANK_E_ARGUMENT = 1,    /* an argument is outside its documented range */
  LEANK_E_MEMORY = 2,      /* an allocation failed or would overflow */
  LEANK_E_IO = 3,          /* the operating system refused to open, read, write or rename */
  LEANK_E_FORMAT = 4,      /* a file or text contradicts its own format */
  LEANK_E_UNSUPPORTED = 5, /* well-formed, but something this library does not do */
  LEANK_E_MISMATCH = 6,    /* mask and model, or two sessions, do not belong together */
  LEANK_E_CONTEXT = 7,     /* no room: the tokens do not fit the context, or no free page */
  LEANK_E_REWIND = 8,      /* the middle differs at that length; replay the tokens instead */
  LEANK_E_INTERRUPTED = 9, /* the caller asked to stop; what the call worked on is unchanged */
  LEANK_E_STATE = 10       /* the object cannot do this in its present state */
} leank_status;

/* Optional details of a failure. A call that fails fills it; a call that succeeds leaves it. */
typedef struct leank_error {
  leank_status code;
  int64_t offset;    /* byte offset in the file the message names, or -1 */
  char message[512]; /* one line, NUL-terminated, names the file where there is one */
} leank_error;

/* A short English name of a status ("out of memory"). Never NULL; static storage. */
LEANK_API const char *leank_status_text(leank_status status);

#ifdef __cplusplus
}
#endif
#endif
