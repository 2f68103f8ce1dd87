/* The log of `leank learn`: JSON lines, read back for curves. */
#ifndef LEANK_CLI_LEARN_LOG_H
#define LEANK_CLI_LEARN_LOG_H

#include <stddef.h>

/* One update. x counts the updates of both stages from 1. */
typedef struct learn_step {
  int stage; /* 1 or 2 */
  size_t step;
  double x;
  double distill, ratio, near_zero;
} learn_step;

/* One evaluation on the held-out set. */
typedef struct learn_eval {
  int stage;
  size_t step;
  double x;
  double kl; /* nats */
} learn_eval;

typedef struct learn_log {
  learn_step *steps;
  learn_eval *evals;
  size_t n_steps, n_evals;
  size_t step_capacity, eval_capacity;
  size_t stage1_end; /* updates of stage 1; 0 where it has none */
  double x_end;      /* of the last update */
  int choice;        /* the stage whose mask was kept, 0 = not said */
} learn_log;

/* Reads a log. A run that went on from a checkpoint repeats updates: the later lines count. Events
 * of other kinds are passed over. A last line without its end, as a killed run leaves it, is left
 * out with a warning where it is no JSON. Complains, naming the line, and returns CLI_FAILURE; else
 * CLI_GO. Free in either case. */
int learn_log_read(const char *path, learn_log *out);
void learn_log_free(learn_log *log);

#endif
