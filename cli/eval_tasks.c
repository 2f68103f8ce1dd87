#include "eval_tasks.h"

#include <string.h>

#include "cli_console.h"

static bool names(const cli_texts *tasks, const char *task) {
  for (size_t i = 0; i < tasks->n; i++)
    if (strcmp(tasks->values[i], task) == 0) return true;
  return false;
}

static bool is_of_suite(leank_eval_suite suite, const char *task) {
  const char *name;
  for (size_t i = 0; (name = leank_eval_task_name(suite, i)); i++)
    if (strcmp(name, task) == 0) return true;
  return false;
}

static int check_files(bool ruler, const cli_texts *tasks, const eval_files *files) {
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

int eval_tasks_check(leank_eval_suite suite, const cli_texts *tasks, const eval_files *files) {
  for (size_t i = 0; i < tasks->n; i++) {
    if (!is_of_suite(suite, tasks->values[i]))
      return cli_usage_error("suite %s has no task '%s' (see leank eval --help)",
                             leank_eval_suite_name(suite), tasks->values[i]);
  }
  return check_files(suite == LEANK_SUITE_RULER, tasks, files);
}
