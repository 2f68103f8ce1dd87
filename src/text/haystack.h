/* Prose to hide things in, cut into sentences that can be laid in any order. */
#ifndef LK_TEXT_HAYSTACK_H
#define LK_TEXT_HAYSTACK_H

#include "base/error.h"
#include "text/str_map.h"

/* Named maxima. */
enum {
  LK_MAX_HAYSTACKS = 4096,
  LK_MAX_HAYSTACK_BYTES = 64 << 20, /* of all files together */
  LK_MIN_SENTENCE = 24,             /* bytes; what is shorter ("Mr.") goes with what follows */
  LK_MAX_SENTENCE = 1200            /* bytes; what is longer is cut at white space, or anywhere */
};

typedef struct lk_haystack {
  char **texts; /* [n_texts] */
  size_t n_texts;
  lk_span *sentences; /* [n], into texts; none is empty, white space in them is single blanks */
  size_t n, room;
} lk_haystack;

/* Reads and cuts UTF-8 files; n_paths 0: the built-in prose. LEANK_E_IO; LEANK_E_FORMAT where a
 * file is not UTF-8, holds a NUL or no text, or all are too large; LEANK_E_MEMORY. */
leank_status lk_haystack_open(const char *const *paths, size_t n_paths, lk_haystack *out,
                              leank_error *err);
void lk_haystack_close(lk_haystack *haystack);

#endif
