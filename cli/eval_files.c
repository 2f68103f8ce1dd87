#include "eval_files.h"

#include <string.h>

#include "cli_console.h"

static bool names(const cli_texts *tasks, const char *task) {
  for (size_t i = 0; i < tasks->n; i++)
    if (strcmp(tasks->values[i], task) == 0) return true;
  return false;
}

int eval_files_check(const eval_files *files, const cli_texts *tasks, bool ruler) {
  const struct {
    const char *path, *option, *data_set, *task;
  } list[] = {{files->squad, "squad", "SQuAD", "qa_1"},
              {files->hotpot, "hotpot", "HotpotQA", "qa_2"}};
  for (size_t i = 0; ruler && i < sizeof list / sizeof *list; i++) {
    if (names(tasks, list[i].task) && !list[i].path)
      return cli_usage_error("task %s needs %s's file: --%s", list[i].task, list[i].data_set,
                             list[i].option);
  }
  for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
    const bool asked = ruler && (tasks->n == 0 || names(tasks, list[i].task));
    if (list[i].path && !asked)
      return cli_usage_error("--%s is for task %s of suite ruler, which is not asked",
                             list[i].option, list[i].task);
  }
  return CLI_GO;
}
