#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>

const char *leank_version(void) { return LEANK_VERSION_STRING; }

const char *leank_status_text(leank_status status) {
  switch (status) {
  case LEANK_OK: return "ok";
  case LEANK_E_ARGUMENT: return "invalid argument";
  case LEANK_E_MEMORY: return "out of memory";
  case LEANK_E_IO: return "input/output error";
  case LEANK_E_FORMAT: return "malformed file";
  case LEANK_E_UNSUPPORTED: return "not supported";
  case LEANK_E_MISMATCH: return "mask and model, or two sessions, do not belong together";
  case LEANK_E_CONTEXT: return "no room: the context or the page pool is full";
  case LEANK_E_REWIND: return "cannot rewind that far; replay the tokens";
  case LEANK_E_INTERRUPTED: return "interrupted";
  case LEANK_E_STATE: return "not possible in this state";
  }
  return "unknown status";
}

leank_status lk_fail(leank_error *err, leank_status code, int64_t offset, const char *fmt, ...) {
  if (err) {
    err->code = code;
    err->offset = offset;
    va_list args;
    va_start(args, fmt);
    vsnprintf(err->message, sizeof err->message, fmt, args);
    va_end(args);
  }
  return code;
}
