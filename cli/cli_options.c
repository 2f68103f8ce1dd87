#include "cli_options.h"

#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli_config.h"
#include "cli_console.h"

bool cli_size_parse(const char *text, size_t *out) {
  if (text[0] < '0' || text[0] > '9') return false;
  char *end;
  errno = 0;
  unsigned long long n = strtoull(text, &end, 10);
  if (errno != 0) return false;
  unsigned shift = 0;
  if (*end == 'k' || *end == 'K')
    shift = 10;
  else if (*end == 'm' || *end == 'M')
    shift = 20;
  else if (*end == 'g' || *end == 'G')
    shift = 30;
  if (shift) end++;
  if (*end != '\0' || n > (SIZE_MAX >> shift)) return false;
  *out = (size_t)n << shift;
  return true;
}

static bool seed_parse(const char *text, uint64_t *out) {
  if (text[0] < '0' || text[0] > '9') return false;
  char *end;
  errno = 0;
  unsigned long long n = strtoull(text, &end, 0);
  if (errno != 0 || *end != '\0') return false;
  *out = n;
  return true;
}

static bool number_parse(const char *text, double *out) {
  char *end;
  double x = strtod(text, &end);
  if (end == text || *end != '\0' || !isfinite(x)) return false;
  *out = x;
  return true;
}

static bool choice_parse(const char *text, const char *words, int *out) {
  size_t n = strlen(text);
  int index = 0;
  for (const char *word = words;; index++) {
    size_t length = strcspn(word, "|");
    if (n == length && memcmp(text, word, n) == 0) {
      *out = index;
      return true;
    }
    if (word[length] == '\0') return false;
    word += length + 1;
  }
}

static bool list_parse(const char *text, cli_sizes *out) {
  cli_sizes list = {0};
  char item[32];
  for (;;) {
    size_t length = strcspn(text, ",");
    if (length >= sizeof item || list.n == CLI_MAX_SIZES) return false;
    memcpy(item, text, length);
    item[length] = '\0';
    if (!cli_size_parse(item, &list.values[list.n]) || list.values[list.n] == 0) return false;
    list.n++;
    if (text[length] == '\0') break;
    text += length + 1;
  }
  *out = list;
  return true;
}

size_t cli_sizes_largest(const cli_sizes *sizes) {
  size_t largest = 0;
  for (size_t i = 0; i < sizes->n; i++)
    if (sizes->values[i] > largest) largest = sizes->values[i];
  return largest;
}

/* Reachable from here, so that no tool takes them for lost. */
typedef struct kept_text {
  struct kept_text *next;
  char text[];
} kept_text;

static kept_text *kept_texts;

const char *cli_keep_text(const char *text, size_t n) {
  kept_text *kept = cli_alloc(1, sizeof *kept + n + 1);
  memcpy(kept->text, text, n);
  kept->next = kept_texts;
  kept_texts = kept;
  return kept->text;
}

bool cli_texts_add(cli_texts *texts, const char *text, size_t n) {
  if (n == 0 || texts->n == CLI_MAX_TEXTS) return false;
  texts->values[texts->n++] = cli_keep_text(text, n);
  return true;
}

static bool texts_parse(const char *text, cli_texts *out) {
  for (;;) {
    size_t length = strcspn(text, ",");
    if (!cli_texts_add(out, text, length)) return false;
    if (text[length] == '\0') return true;
    text += length + 1;
  }
}

/* What is binary, read again or a folder: a file named "-" would be a surprise. */
static bool place_parse(const char *text, const char **out) {
  if (text[0] == '\0' || strcmp(text, "-") == 0) return false;
  *out = text;
  return true;
}

void cli_value_wanted(const cli_option *option, const char *text, char *out, size_t size) {
  const char *name = option->value_name ? option->value_name : "text";
  switch (option->kind) {
  case CLI_SIZE: snprintf(out, size, "a whole number, as 4096 or 4k"); break;
  case CLI_SEED: snprintf(out, size, "a whole number"); break;
  case CLI_NUMBER: snprintf(out, size, "a number"); break;
  case CLI_CHOICE: snprintf(out, size, "one of %s", name); break;
  case CLI_LIST:
    snprintf(out, size, "1 to %d whole numbers above 0 joined by commas, as 512,4k", CLI_MAX_SIZES);
    break;
  case CLI_TEXTS:
    snprintf(out, size, "one or more of %s joined by commas, none empty, %d at most", name,
             CLI_MAX_TEXTS);
    break;
  default:
    snprintf(out, size, "a valid %s%s", name,
             option->kind == CLI_PLACE && strcmp(text, "-") == 0
                 ? ": it is not written to stdout (./- is what is named so)"
                 : "");
  }
}

bool cli_value_parse(const cli_option *option, const char *text) {
  switch (option->kind) {
  case CLI_FLAG: *(bool *)option->value = true; return true;
  case CLI_TEXT:
  case CLI_CONFIG:
  case CLI_CONFIG_TEXT: *(const char **)option->value = text; return true;
  case CLI_PLACE: return place_parse(text, option->value);
  case CLI_SIZE: return cli_size_parse(text, option->value);
  case CLI_SEED: return seed_parse(text, option->value);
  case CLI_NUMBER: return number_parse(text, option->value);
  case CLI_CHOICE: return choice_parse(text, option->value_name, option->value);
  case CLI_LIST: return list_parse(text, option->value);
  case CLI_TEXTS: return texts_parse(text, option->value);
  }
  return false;
}

static void print_help(const cli_command *command) {
  printf("usage: %s\n\n%s\n\noptions:\n", command->usage, command->about);
  for (size_t i = 0; i <= command->n_options; i++) {
    static const cli_option help = {'h', "help", CLI_FLAG, NULL, NULL, "show this text"};
    const cli_option *option = i < command->n_options ? &command->options[i] : &help;
    if (option->kind == CLI_CONFIG_TEXT) continue;
    char left[80];
    char letter[8] = "    ";
    if (option->letter) snprintf(letter, sizeof letter, "-%c, ", option->letter);
    snprintf(left, sizeof left, "  %s--%s%s%s", letter, option->name, option->value_name ? " " : "",
             option->value_name ? option->value_name : "");
    if (strlen(left) > 27)
      printf("%s\n%-28s%s\n", left, "", option->help);
    else
      printf("%-28s%s\n", left, option->help);
  }
  if (command->details) printf("\n%s\n", command->details);
}

static const cli_option *find_long(const cli_command *command, const char *name, size_t length) {
  for (size_t i = 0; i < command->n_options; i++) {
    const char *own = command->options[i].name;
    if (command->options[i].kind == CLI_CONFIG_TEXT) continue;
    if (strlen(own) == length && memcmp(own, name, length) == 0) return &command->options[i];
  }
  return NULL;
}

static const cli_option *find_letter(const cli_command *command, char letter) {
  for (size_t i = 0; i < command->n_options; i++) {
    if (command->options[i].letter == letter) return &command->options[i];
  }
  return NULL;
}

/* Stores the value of an option; its first CLI_TEXTS take the place of what was there before. */
static int take_value(const cli_command *command, const cli_option *option, const char *value,
                      bool *given) {
  bool *seen = &given[option - command->options];
  if (option->kind == CLI_TEXTS && !*seen) ((cli_texts *)option->value)->n = 0;
  *seen = true;
  if (!cli_value_parse(option, value)) {
    char wanted[CLI_WANTED_ROOM];
    cli_value_wanted(option, value, wanted, sizeof wanted);
    return cli_usage_error("option --%s: '%s' is not %s", option->name, value, wanted);
  }
  return CLI_GO;
}

/* Reads the option at argv[*at] and, where it takes one, its value. */
static int parse_option(const cli_command *command, int argc, char **argv, int *at, bool *given) {
  const char *arg = argv[*at];
  bool is_long = arg[1] == '-';
  size_t length = is_long ? strcspn(arg + 2, "=") : 1;
  const cli_option *option =
      is_long ? find_long(command, arg + 2, length) : find_letter(command, arg[1]);
  const char *rest = is_long ? arg + 2 + length : arg + 2;
  if (!option) {
    return cli_usage_error("unknown option '%.*s' (see --help)", (int)(is_long ? length + 2 : 2),
                           arg);
  }
  if (option->kind == CLI_FLAG) {
    if (*rest != '\0') return cli_usage_error("option --%s takes no value", option->name);
    given[option - command->options] = true;
    cli_value_parse(option, NULL);
    return CLI_GO;
  }
  const char *value = is_long && *rest == '=' ? rest + 1 : rest;
  if (*rest == '\0') {
    if (*at + 1 >= argc) return cli_usage_error("option --%s needs a value", option->name);
    value = argv[++*at];
  }
  return take_value(command, option, value, given);
}

static bool is_help(const char *arg) {
  return strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0;
}

static int parse_arguments(const cli_command *command, int argc, char **argv,
                           const char **positional, bool *given) {
  size_t n = 0;
  bool options_end = false;
  for (size_t i = 0; i < command->n_max; i++) positional[i] = NULL;
  for (int at = 0; at < argc; at++) {
    const char *arg = argv[at];
    if (!options_end && is_help(arg)) {
      print_help(command);
      return CLI_OK;
    }
    if (!options_end && strcmp(arg, "--") == 0) {
      options_end = true;
    } else if (!options_end && arg[0] == '-' && arg[1] != '\0') {
      int code = parse_option(command, argc, argv, &at, given);
      if (code != CLI_GO) return code;
    } else {
      if (n == command->n_max)
        return cli_usage_error("unexpected argument '%s'; usage: %s", arg, command->usage);
      positional[n++] = arg;
    }
  }
  if (n < command->n_min)
    return cli_usage_error("an argument is missing; usage: %s", command->usage);
  return CLI_GO;
}

int cli_parse(const cli_command *command, int argc, char **argv, const char **positional) {
  bool *given = cli_alloc(command->n_options, sizeof *given);
  int code = parse_arguments(command, argc, argv, positional, given);
  for (size_t i = 0; code == CLI_GO && i < command->n_options; i++) {
    const cli_option *option = &command->options[i];
    if (option->kind == CLI_CONFIG && given[i])
      code = cli_config_apply(command, *(const char *const *)option->value, given);
  }
  free(given);
  return code;
}
