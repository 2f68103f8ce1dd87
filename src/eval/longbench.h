/* LongBench v1: the user's files, and how each data set is asked and scored. Untrusted. */
#ifndef LK_EVAL_LONGBENCH_H
#define LK_EVAL_LONGBENCH_H

#include <leank/eval.h>

#include "base/error.h"
#include "text/text_buffer.h"

/* Named maxima. */
enum {
  LK_MAX_LONGBENCH_BYTES = 1 << 30, /* of a file */
  LK_MAX_LONGBENCH_LINES = 1 << 20
};

typedef struct lk_longbench_task {
  const char *name;
  leank_eval_metric metric;
  size_t max_new;
  bool first_line;                      /* only the answer's first line counts */
  bool plain;                           /* asked without the chat template */
  const char *before, *between, *after; /* around context and input */
} lk_longbench_task;

/* Data set i; NULL behind the last. */
const lk_longbench_task *lk_longbench_task_at(size_t i);

typedef struct lk_longbench_item {
  const lk_longbench_task *task;
  char *context, *input;
  char **answers; /* [n_answers] */
  size_t n_answers;
  char **classes; /* [n_classes] */
  size_t n_classes;
} lk_longbench_item;

typedef struct lk_longbench {
  lk_longbench_item *items;
  size_t n, room;
} lk_longbench;

/* Appends the lines of a file. Its name ("hotpotqa.jsonl", also "hotpotqa_e.jsonl") says the data
 * set where a line has no "dataset". LEANK_E_IO; LEANK_E_FORMAT ("name:line: why"); LEANK_E_
 * UNSUPPORTED for a data set whose scores need Chinese word segmentation; LEANK_E_MEMORY. */
leank_status lk_longbench_read(const char *path, lk_longbench *out, leank_error *err);
leank_status lk_longbench_parse(const char *bytes, size_t n_bytes, const char *name,
                                lk_longbench *out, leank_error *err);
void lk_longbench_free(lk_longbench *data);

/* Puts the prompt, before it is truncated. */
void lk_longbench_write(const lk_longbench_item *item, lk_text_buffer *out);

#endif
