/* Command-line options as tables: one row says name, value, and help. A row of kind CLI_CONFIG lets
 * a JSON file give what the command line does not. */
#ifndef LEANK_CLI_OPTIONS_H
#define LEANK_CLI_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>

#include "cli.h"

enum { CLI_MAX_SIZES = 32, CLI_MAX_TEXTS = 64, CLI_MAX_POSITIONALS = 64, CLI_WANTED_ROOM = 200 };

typedef struct cli_sizes {
  size_t n;
  size_t values[CLI_MAX_SIZES];
} cli_sizes;

typedef struct cli_texts {
  size_t n;
  const char *values[CLI_MAX_TEXTS];
} cli_texts;

typedef enum cli_kind {
  CLI_FLAG,       /* bool *, set to true */
  CLI_TEXT,       /* const char ** */
  CLI_PLACE,      /* const char **, a file or folder to write that cannot be stdout: "-" is none */
  CLI_SIZE,       /* size_t *, "4096", "4k", "1M", "80G" (powers of 1024) */
  CLI_SEED,       /* uint64_t * */
  CLI_NUMBER,     /* double *, finite */
  CLI_CHOICE,     /* int *, the index of the word among `value_name`, "a|b|c" */
  CLI_LIST,       /* cli_sizes *, sizes joined by commas */
  CLI_TEXTS,      /* cli_texts *, joined by commas, repeated, or both; replaces what was there */
  CLI_CONFIG,     /* const char **, a JSON file of options (see below) */
  CLI_CONFIG_TEXT /* const char **, a text that stands in that file only; not in the help */
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

/* Config files. One JSON object whose keys are long names of the command's options ("_" counts as
 * "-"); values are strings, numbers, true or false for flags (false leaves the flag alone) and for
 * choices of off|on, and for CLI_LIST and CLI_TEXTS also arrays, whose elements are taken whole.
 * Options of the command line win, wherever they stand. Every value is checked, also one that does
 * not win. A file that cannot be read or has a fault is wrong usage; the message names file and
 * key. */

/* Reads the arguments; options and positional arguments may mix, "--" ends the options. Prints help
 * and returns CLI_OK for --help; complains and returns CLI_USAGE; else CLI_GO. positional: room for
 * n_max, missing ones are NULL. Texts that are not argv's own live until the program ends. */
int cli_parse(const cli_command *command, int argc, char **argv, const char **positional);

/* Stores a value given as text; false where it is none of the option's kind. Flags are set, texts
 * of CLI_TEXTS appended. */
bool cli_value_parse(const cli_option *option, const char *text);

/* Appends one text, commas and all; false where there is no room. */
bool cli_texts_add(cli_texts *texts, const char *text, size_t n);

/* What was wanted instead of such a text: "a number", "one of a|b". */
void cli_value_wanted(const cli_option *option, const char *text, char *out, size_t size);

/* 0 of none. */
size_t cli_sizes_largest(const cli_sizes *sizes);

/* A copy that lives until the program ends. */
const char *cli_keep_text(const char *text, size_t n);

/* "4096", "4k", "32K", "2m", "80G"; false where it is none or too large. */
bool cli_size_parse(const char *text, size_t *out);

#endif
