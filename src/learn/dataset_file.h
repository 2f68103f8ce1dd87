/* The user's own examples: JSON lines, each an object of exactly three strings, "context",
 * "question" and "answer". Untrusted. */
#ifndef LK_LEARN_DATASET_FILE_H
#define LK_LEARN_DATASET_FILE_H

#include <stddef.h>

#include "base/error.h"

/* Named maxima. */
enum {
  LK_MAX_EXAMPLES_BYTES = 512 << 20,    /* of a file */
  LK_MAX_EXAMPLE_LINE_BYTES = 16 << 20, /* of one line */
  LK_MAX_EXAMPLES = 1 << 20             /* lines */
};

typedef struct lk_example {
  size_t line;         /* in the file, from 1 */
  const char *context; /* the same pointer as the example's before where the texts are equal */
  const char *question, *answer; /* none of the three is empty */
} lk_example;

typedef struct lk_examples {
  lk_example *items;
  size_t n, room;
} lk_examples;

/* Lines of white space alone are passed over. LEANK_E_FORMAT ("name:line: why", with the byte
 * offset) for a line that is no such object, too much of anything, or no example at all;
 * LEANK_E_MEMORY. */
leank_status lk_examples_read(const void *bytes, size_t n_bytes, const char *name, lk_examples *out,
                              leank_error *err);
/* The same of a file. LEANK_E_IO. */
leank_status lk_examples_open(const char *path, lk_examples *out, leank_error *err);
void lk_examples_close(lk_examples *examples);

#endif
