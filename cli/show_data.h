/* Samples of a data set, for people. */
#ifndef LEANK_CLI_SHOW_DATA_H
#define LEANK_CLI_SHOW_DATA_H

#include <leank/leank.h>

#include "cli.h"

/* Prints the first n contexts of the data set (a JSON line each where json): text, questions,
 * answers, tokens. CLI_OK, or complains and returns cli_fail's code. */
int show_data(const leank_model *model, const leank_dataset_options *options, size_t n, bool json);

#endif
