/* What every reader of files must stand: inputs that are cut, changed, or met without memory. */
#ifndef HOSTILE_H
#define HOSTILE_H

#include <stddef.h>

#include "base/error.h"

/* Opens and closes; returns the status of opening. */
typedef leank_status (*hostile_open_fn)(const void *bytes, size_t n_bytes, leank_error *err);

/* Bytes of the library in use, all categories. */
size_t hostile_mem_in_use(void);

/* `bytes` opens. Every shorter beginning of it, down to none, fails with LEANK_E_FORMAT or
 * _UNSUPPORTED and a message. Copies are of exact size, so that a sanitizer sees reads beyond. */
void hostile_truncations(hostile_open_fn open, const void *bytes, size_t n_bytes);

/* The nth allocation fails, for every n until opening succeeds: LEANK_E_MEMORY, nothing leaks. */
void hostile_allocations(hostile_open_fn open, const void *bytes, size_t n_bytes);

/* Every bit of `bytes` is flipped in turn: it opens or fails as above, nothing leaks. */
void hostile_flips(hostile_open_fn open, const void *bytes, size_t n_bytes);

/* Opening fails with this status and a message that has `part` in it. */
void hostile_expect(hostile_open_fn open, const void *bytes, size_t n_bytes, leank_status status,
                    const char *part);

#endif
