/* Command-line options as tables: one row says name, value, and help. */
#ifndef LEANK_CLI_OPTIONS_H
#define LEANK_CLI_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cli.h"

enum { CLI_MAX_SIZES = 32, CLI_MAX_POSITIONALS = 2 };

typedef struct cli_sizes {
  size_t n;
  size_t values[CLI_MAX_SIZES];
} cli_sizes;

typedef enum cli_kind {
  CLI_FLAG,   /* bool *, set to true */
  CLI_TEXT,   /* const char ** */
  CLI_SIZE,   /* size_t *, "4096", "4k", "1M" (powers of 1024) */
  CLI_SEED,   /* uint64_t * */
  CLI_NUMBER, /* double *, finite */
  CLI_CHOICE, /* int *, the index of the word among `value_name`, "a|b|c" */
  CLI_LIST    /* cli_sizes *, sizes joined by commas */
} cli_kind;

typedef struct cli_option {
  char letter;      /* or 0 */
  const char *name; /* without dashes */
  cli_kind kind;
  void *value;
  const char *value_name; /* NULL for a flag */
  const char *help;
} cli_option;

typedef struct cli_command {
  const char *usage;   /* "leank info MODEL [options]" */
  const char *about;   /* what it does, whole lines */
  const char *details; /* printed behind the options, or NULL */
  const cli_option *options;
  size_t n_options;
  size_t n_min, n_max; /* positional arguments, at most CLI_MAX_POSITIONALS */
} cli_command;

/* Reads the arguments; options and positional arguments may mix, "--" ends the options. Prints help
 * and returns CLI_OK for --help; complains and returns CLI_USAGE; else CLI_GO. positional: room for
 * n_max, missing ones are NULL. */
int cli_parse(const cli_command *command, int argc, char **argv, const char **positional);

/* "4096", "4k", "32K", "2m"; false where it is none or too large. */
bool cli_size_parse(const char *text, size_t *out);

#endif
