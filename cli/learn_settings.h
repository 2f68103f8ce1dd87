/* The options of `leank learn` and of data sets, as given and as the library wants them. */
#ifndef LEANK_CLI_LEARN_SETTINGS_H
#define LEANK_CLI_LEARN_SETTINGS_H

#include <jansson.h>
#include <leank/leank.h>

#include "cli_options.h"

/* A data set as given; SIZE_MAX, an empty list and UINT64_MAX: as the preset has it. */
typedef struct data_settings {
  cli_texts tasks;   /* names of tasks */
  cli_sizes lengths; /* one, or shortest and longest */
  size_t n_contexts, n_questions;
  cli_texts haystacks;
  const char *examples;
  uint64_t seed;
} data_settings;

data_settings data_settings_default(void);
/* Writes what was given over *options. Complains and returns CLI_USAGE, else CLI_GO. */
int data_settings_apply(const data_settings *given, leank_dataset_options *options);

/* Complains where examples are given that none of the tasks (of leank_dataset_options) reads, or
 * are missing: CLI_USAGE, else CLI_GO. */
int data_settings_check(const data_settings *given, unsigned tasks);

/* Learning as given; NAN, SIZE_MAX, -1: as the preset has it. */
typedef struct learn_settings {
  int preset; /* index of "default|paper" */
  double ratio, lambda, lr1, lr2;
  size_t align, steps1, steps2, batch, n_sink, n_recent, eval_every, checkpoint_every;
  int budget, loss, policy, mean_compensation, kv_type, cpu;
  bool exact_budget;
  uint64_t seed, held_out_seed;
  data_settings data;
  cli_texts held_out_tasks;
  size_t n_held_out;
  size_t n_threads, prefill_chunk, cache_size;
  const char *cache_folder;
  const char *device;      /* of cli_device_named */
  const char *fingerprint; /* of a config file: the model it was written for */
} learn_settings;

learn_settings learn_settings_default(void);
/* The library's options for this model. Complains and returns CLI_USAGE or CLI_FAILURE (a config of
 * another model), else CLI_GO. */
int learn_settings_resolve(const learn_settings *given, const leank_model_info *model,
                           leank_learn_options *out);
/* The options with every default filled in, as a JSON object that --config takes. */
json_t *learn_settings_json(const leank_learn_options *options, const leank_model_info *model);

/* Rows for a command's table; d is a data_settings, contexts how many there are by default. */
#define DATA_ROWS(d, contexts)                                                                     \
  {                                                                                                \
      0,          "tasks", CLI_TEXTS,                                                              \
      &(d).tasks, "NAMES", "uuid, words, values, passkeys, file (the first 3)"},                   \
      {0,         "lengths",                                                                       \
       CLI_LIST,  &(d).lengths,                                                                    \
       "MIN,MAX", "tokens of a prompt with its answer (1k,4k)"},                                   \
      {0, "contexts", CLI_SIZE, &(d).n_contexts, "N", "contexts (" contexts ")"},                  \
      {0, "questions", CLI_SIZE, &(d).n_questions, "N", "questions about each (4)"},               \
      {0, "haystack", CLI_TEXTS, &(d).haystacks, "FILE", "text to hide in (built-in prose)"}, {    \
    0, "examples", CLI_TEXT, &(d).examples, "FILE", "JSON lines for task file"                     \
  }

#endif
