#include "cli_config.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli_console.h"

/* Options are few; a longer file is something else. */
enum { MAX_CONFIG_BYTES = 1 << 20 };

/* Where the values of options go that the command line has given: checked, then forgotten. */
typedef union unused_value {
  bool flag;
  const char *text;
  size_t size;
  uint64_t seed;
  double number;
  int choice;
  cli_sizes sizes;
  cli_texts texts;
} unused_value;

/* ---- the file ---- */

static int read_config(const char *path, cli_buffer *out) {
  FILE *file = fopen(path, "rb");
  if (!file) return cli_usage_error("%s: %s", path, strerror(errno));
  char block[4096];
  size_t n;
  while (out->n <= MAX_CONFIG_BYTES && (n = fread(block, 1, sizeof block, file)) > 0) {
    cli_buffer_append(out, block, n);
  }
  int code = CLI_GO;
  if (ferror(file))
    code = cli_usage_error("%s: %s", path, strerror(errno));
  else if (out->n > MAX_CONFIG_BYTES)
    code = cli_usage_error("%s: more than 1 MiB: no file of options", path);
  fclose(file);
  return code;
}

static int load_config(const char *path, json_t **out) {
  cli_buffer text = {0};
  json_error_t error;
  int code = read_config(path, &text);
  if (code == CLI_GO) {
    *out = json_loadb(text.data ? text.data : "", text.n, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY,
                      &error);
    if (!*out)
      code = cli_usage_error("%s: line %d: %s", path, error.line, error.text);
    else if (!json_is_object(*out))
      code = cli_usage_error("%s: not a JSON object", path);
  }
  cli_buffer_free(&text);
  return code;
}

/* ---- one value ---- */

static bool same_name(const char *key, const char *name) {
  for (; *key && *name; key++, name++) {
    if (*key != *name && !(*key == '_' && *name == '-')) return false;
  }
  return *key == *name;
}

static const char *wanted_type(cli_kind kind) {
  switch (kind) {
  case CLI_FLAG: return "true or false";
  case CLI_SIZE:
  case CLI_SEED:
  case CLI_NUMBER: return "a number";
  case CLI_LIST: return "a list of numbers";
  case CLI_TEXTS: return "a list of strings";
  default: return "a string";
  }
}

/* The text of a number or string as the command line would have it; false for any other type and
 * for a number where only words make sense. */
static bool scalar_text(cli_kind kind, const json_t *value, char number[40], const char **out) {
  if (json_is_string(value)) {
    *out = json_string_value(value);
    return true;
  }
  bool numeric = kind == CLI_SIZE || kind == CLI_SEED || kind == CLI_NUMBER || kind == CLI_LIST;
  if (!json_is_number(value) || !numeric) return false;
  if (json_is_integer(value))
    snprintf(number, 40, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
  else
    snprintf(number, 40, "%.17g", json_real_value(value));
  *out = number;
  return true;
}

/* Elements of an array, each taken whole. NULL, or what is wrong with them. */
static const char *take_array(const cli_option *option, const json_t *array) {
  cli_sizes list = {0};
  const json_t *element;
  size_t i;
  json_array_foreach(array, i, element) {
    char number[40];
    const char *text;
    if (!scalar_text(option->kind, element, number, &text)) return wanted_type(option->kind);
    if (option->kind == CLI_TEXTS) {
      if (!cli_texts_add(option->value, text, strlen(text))) return "fewer or longer strings";
      continue;
    }
    if (list.n == CLI_MAX_SIZES) return "a shorter list";
    if (!cli_size_parse(text, &list.values[list.n]) || list.values[list.n] == 0)
      return "a list of whole numbers above 0";
    list.n++;
  }
  if (option->kind == CLI_LIST) {
    if (list.n == 0) return "a list that is not empty";
    *(cli_sizes *)option->value = list;
  }
  return NULL;
}

static int wrong_type(const char *path, const char *key, const char *wanted) {
  return cli_usage_error("%s: key '%.80s': not %s", path, key, wanted);
}

static int take_json(const char *path, const char *key, const cli_option *option,
                     const json_t *value) {
  char number[40];
  const char *text = NULL;
  if (option->kind == CLI_FLAG) {
    if (!json_is_boolean(value)) return wrong_type(path, key, wanted_type(CLI_FLAG));
    if (json_is_true(value)) cli_value_parse(option, NULL);
    return CLI_GO;
  }
  if (option->kind == CLI_CHOICE && json_is_boolean(value) &&
      strcmp(option->value_name, "off|on") == 0) {
    *(int *)option->value = json_is_true(value);
    return CLI_GO;
  }
  if (option->kind == CLI_TEXTS) ((cli_texts *)option->value)->n = 0;
  if (json_is_array(value) && (option->kind == CLI_TEXTS || option->kind == CLI_LIST)) {
    const char *wanted = take_array(option, value);
    return wanted ? wrong_type(path, key, wanted) : CLI_GO;
  }
  if (!scalar_text(option->kind, value, number, &text))
    return wrong_type(path, key, wanted_type(option->kind));
  /* The file's own texts end with it. */
  if (text != number) text = cli_keep_text(text, strlen(text));
  if (cli_value_parse(option, text)) return CLI_GO;
  char wanted[CLI_WANTED_ROOM];
  cli_value_wanted(option, text, wanted, sizeof wanted);
  return cli_usage_error("%s: key '%.80s': '%.200s' is not %s", path, key, text, wanted);
}

/* ---- all of them ---- */

static const cli_option *find_key(const cli_command *command, const char *key) {
  for (size_t i = 0; i < command->n_options; i++) {
    if (same_name(key, command->options[i].name)) return &command->options[i];
  }
  return NULL;
}

static int take_key(const cli_command *command, const char *path, const char *key,
                    const json_t *value, const bool *given, bool *seen) {
  const cli_option *found = find_key(command, key);
  if (!found) return cli_usage_error("%s: key '%.80s': no such option", path, key);
  if (found->kind == CLI_CONFIG)
    return cli_usage_error("%s: key '%.80s': a file of options cannot name another", path, key);
  size_t index = (size_t)(found - command->options);
  if (seen[index])
    return cli_usage_error("%s: key '%.80s': there twice, as '_' and '-'", path, key);
  seen[index] = true;
  unused_value unused = {0};
  cli_option option = *found;
  if (given[index]) option.value = &unused;
  return take_json(path, key, &option, value);
}

int cli_config_apply(const cli_command *command, const char *path, const bool *given) {
  json_t *root = NULL;
  bool *seen = cli_alloc(command->n_options, sizeof *seen);
  int code = load_config(path, &root);
  const char *key;
  json_t *value;
  if (code == CLI_GO) {
    json_object_foreach(root, key, value) {
      code = take_key(command, path, key, value, given, seen);
      if (code != CLI_GO) break;
    }
  }
  json_decref(root);
  free(seen);
  return code;
}
