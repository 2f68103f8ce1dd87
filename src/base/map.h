/* Read-only files in memory. */
#ifndef LK_BASE_MAP_H
#define LK_BASE_MAP_H

#include <stddef.h>

#include "base/error.h"

typedef struct lk_map {
  const unsigned char *data; /* NULL when closed */
  size_t n_bytes;
} lk_map;

/* Maps a whole file; an empty one gives n_bytes 0 and a valid pointer. LEANK_E_IO. */
leank_status lk_map_open(const char *path, lk_map *out, leank_error *err);
void lk_map_close(lk_map *map);

/* Reads a whole file of at most max_bytes into fresh memory with a NUL behind it (lk_free).
 * LEANK_E_IO, LEANK_E_FORMAT when larger, LEANK_E_MEMORY. */
leank_status lk_file_read(const char *path, size_t max_bytes, char **out, size_t *n_out,
                          leank_error *err);

/* Writes a file so that a failure leaves the old one: a temporary file beside it, synced, renamed.
 * Links are followed and stay. A device or a pipe is written to as it is. LEANK_E_IO with the
 * system's reason, and for a folder. */
leank_status lk_file_write_atomic(const char *path, const void *data, size_t n_bytes,
                                  leank_error *err);

/* The same for data in several places, one behind the other. */
typedef struct lk_file_part {
  const void *data;
  size_t n_bytes;
} lk_file_part;
leank_status lk_file_write_parts(const char *path, const lk_file_part *parts, size_t n_parts,
                                 leank_error *err);

#endif
