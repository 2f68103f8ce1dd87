/* Tasks of leank eval by name, and the data sets that some of them ask about. */
#ifndef LEANK_CLI_EVAL_TASKS_H
#define LEANK_CLI_EVAL_TASKS_H

#include <leank/eval.h>

#include "cli_options.h"

/* Of suite ruler; or NULL. */
typedef struct eval_files {
  const char *squad, *hotpot;
} eval_files;

/* Rows of a command's table; f is an eval_files. */
#define EVAL_FILES_ROWS(f)                                                                         \
  {0, "squad", CLI_TEXT, &(f).squad, "FILE", "SQuAD's JSON, for task qa_1"}, {                     \
    0, "hotpot", CLI_TEXT, &(f).hotpot, "FILE", "HotpotQA's JSON, for task qa_2"                   \
  }

/* Complains where the suite has not one of the tasks (none: all that there are files for), where
 * one lacks its file, or a file has no task: CLI_USAGE, else CLI_GO. */
int eval_tasks_check(leank_eval_suite suite, const cli_texts *tasks, const eval_files *files);

#endif
