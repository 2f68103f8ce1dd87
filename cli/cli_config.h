/* Options from a JSON file; cli_options.h says what may stand in it. */
#ifndef LEANK_CLI_CONFIG_H
#define LEANK_CLI_CONFIG_H

#include "cli_options.h"

/* Stores the file's values of the options that are not in given[n_options]. Complains and returns
 * CLI_USAGE, else CLI_GO. */
int cli_config_apply(const cli_command *command, const char *path, const bool *given);

#endif
