/* The records of `leank eval`: JSON lines, a line per prompt behind one with the settings, which
 * may come again where files of parts of a run stand behind each other. */
#ifndef LEANK_CLI_EVAL_RECORDS_H
#define LEANK_CLI_EVAL_RECORDS_H

#include <jansson.h>
#include <stdio.h>

#include <leank/eval.h>

/* How the dense cache (the first) or a variant did on a prompt. */
typedef struct eval_answer {
  double score;
  size_t n_rows, n_agree;
  double nll;
  double stored_bytes, k_kept, v_kept;
  float *kl; /* [n_rows]; NULL of the dense one */
} eval_answer;

typedef struct eval_record {
  char *task;
  size_t length, sample;
  leank_eval_metric metric;
  double seconds;
  eval_answer *answers; /* [1 + variants] */
} eval_record;

typedef struct eval_records {
  size_t n_answers; /* of each record, the dense one included */
  eval_record *list;
  size_t n, capacity;
  const char *path; /* NULL: nothing is written */
  FILE *file;
} eval_records;

/* Opens a file of records, or begins one; path NULL: none. What a killed run left of a last line is
 * cut off. Complains, naming the line, and returns CLI_FAILURE where it is of other settings or no
 * such file; else CLI_GO. eval_records_close is due in either case. */
int eval_records_open(const char *path, json_t *settings, size_t n_answers, eval_records *out);
void eval_records_close(eval_records *records);
bool eval_records_has(const eval_records *records, const char *task, size_t length, size_t sample);
/* Writes a line, at once, and remembers what it says. names: [1 + variants]. Complains and returns
 * CLI_FAILURE, else CLI_GO. */
int eval_records_add(eval_records *records, const leank_eval_prompt *prompt, double seconds,
                     const leank_eval_result *results, const char *const *names);

#endif
