/* Data sets of questions that tasks of suite ruler ask about, from the user's files. */
#ifndef LEANK_CLI_EVAL_FILES_H
#define LEANK_CLI_EVAL_FILES_H

#include "cli_options.h"

typedef struct eval_files {
  const char *squad, *hotpot; /* or NULL */
} eval_files;

/* Rows of a command's table; f is an eval_files. */
#define EVAL_FILES_ROWS(f)                                                                         \
  {0, "squad", CLI_TEXT, &(f).squad, "FILE", "SQuAD's JSON, for task qa_1"}, {                     \
    0, "hotpot", CLI_TEXT, &(f).hotpot, "FILE", "HotpotQA's JSON, for task qa_2"                   \
  }

/* Complains where one of the tasks (none: all that there are files for) lacks its file, or a file
 * has no task: CLI_USAGE, else CLI_GO. Suites other than ruler have none of these tasks. */
int eval_files_check(const eval_files *files, const cli_texts *tasks, bool ruler);

#endif
