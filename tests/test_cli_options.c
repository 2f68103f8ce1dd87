/* Option tables of the program: repeated texts, and options from JSON files, hostile ones too. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "cli_options.h"

#define CONFIG LEANK_TEST_TMP "/test_cli_options.json"
#define MESSAGES LEANK_TEST_TMP "/test_cli_options.txt"

enum { MAX_ARGUMENTS = 80, LINE = 2048 };

typedef struct values {
  const char *config, *fingerprint, *out;
  bool paper;
  size_t n_steps;
  uint64_t seed;
  double lr;
  int budget;
  cli_sizes lengths;
  cli_texts haystacks;
  const char *positional[CLI_MAX_POSITIONALS];
} values;

/* The last run: its values, and the line it put on stderr. */
static values got;
static char message[LINE];

static int parse(int argc, char **argv) {
  const cli_option rows[] = {
      {'o', "out", CLI_PLACE, &got.out, "FILE", ""},
      {0, "config", CLI_CONFIG, &got.config, "FILE", ""},
      {0, "fingerprint", CLI_CONFIG_TEXT, &got.fingerprint, NULL, NULL},
      {0, "paper", CLI_FLAG, &got.paper, NULL, ""},
      {0, "n-steps", CLI_SIZE, &got.n_steps, "N", ""},
      {0, "seed", CLI_SEED, &got.seed, "N", ""},
      {0, "lr", CLI_NUMBER, &got.lr, "X", ""},
      {0, "budget", CLI_CHOICE, &got.budget, "global|per-head", ""},
      {0, "lengths", CLI_LIST, &got.lengths, "N,...", ""},
      {0, "haystack", CLI_TEXTS, &got.haystacks, "FILE,...", ""},
  };
  const cli_command command = {
      .usage = "test", .options = rows, .n_options = sizeof rows / sizeof *rows, .n_max = 64};
  got = (values){.n_steps = 150, .lr = 0.04, .haystacks = {1, {"built-in"}}};
  return cli_parse(&command, argc, argv, got.positional);
}

/* The line on stderr goes to a file meanwhile. */
static int run_arguments(int argc, char **argv) {
  fflush(stderr);
  int saved = dup(STDERR_FILENO);
  assert_non_null(freopen(MESSAGES, "w", stderr));
  int code = parse(argc, argv);
  fflush(stderr);
  assert_true(dup2(saved, STDERR_FILENO) >= 0);
  close(saved);
  FILE *file = fopen(MESSAGES, "r");
  assert_non_null(file);
  if (!fgets(message, sizeof message, file)) message[0] = '\0';
  fclose(file);
  return code;
}

/* Arguments up to a NULL. */
static int run(const char *first, ...) {
  char *argv[MAX_ARGUMENTS];
  int argc = 0;
  va_list args;
  va_start(args, first);
  for (const char *arg = first; arg; arg = va_arg(args, const char *)) {
    assert_true(argc < MAX_ARGUMENTS);
    argv[argc++] = (char *)arg;
  }
  va_end(args);
  return run_arguments(argc, argv);
}

static void write_config(const char *bytes, size_t n) {
  FILE *file = fopen(CONFIG, "wb");
  assert_non_null(file);
  assert_int_equal(fwrite(bytes, 1, n, file), n);
  assert_int_equal(fclose(file), 0);
}

static int run_config(const char *json) {
  write_config(json, strlen(json));
  return run("--config", CONFIG, NULL);
}

static void expect_refused(const char *json, const char *why) {
  int code = run_config(json);
  if (code != CLI_USAGE) fail_msg("%s: code %d", json, code);
  if (!strstr(message, CONFIG) || !strstr(message, why)) {
    fail_msg("%s: \"%s\" does not name the file and '%s'", json, message, why);
  }
}

static void test_texts(void **state) {
  (void)state;
  assert_int_equal(run("x", NULL), CLI_GO);
  assert_string_equal(got.haystacks.values[0], "built-in");
  assert_int_equal(run("--haystack", "a.txt", "--haystack=b,c d", NULL), CLI_GO);
  assert_int_equal(got.haystacks.n, 3);
  assert_string_equal(got.haystacks.values[0], "a.txt");
  assert_string_equal(got.haystacks.values[1], "b");
  assert_string_equal(got.haystacks.values[2], "c d");
  assert_int_equal(run("--haystack", "a,,b", NULL), CLI_USAGE);
  assert_non_null(strstr(message, "--haystack"));
  assert_int_equal(run("--haystack", "", NULL), CLI_USAGE);
}

static void test_texts_full(void **state) {
  (void)state;
  char text[2 * CLI_MAX_TEXTS + 2] = "";
  for (size_t i = 0; i < CLI_MAX_TEXTS; i++) memcpy(text + 2 * i, "x,", 3);
  text[2 * CLI_MAX_TEXTS - 1] = '\0';
  assert_int_equal(run("--haystack", text, NULL), CLI_GO);
  assert_int_equal(got.haystacks.n, CLI_MAX_TEXTS);
  assert_int_equal(run("--haystack", text, "--haystack", "y", NULL), CLI_USAGE);
}

/* Where "-" is no place, it is not the name of one. */
static void test_places(void **state) {
  (void)state;
  assert_int_equal(run("-o", "./-", NULL), CLI_GO);
  assert_string_equal(got.out, "./-");
  assert_int_equal(run("--out=-o", NULL), CLI_GO);
  assert_string_equal(got.out, "-o");
  assert_int_equal(run("-o", "-", NULL), CLI_USAGE);
  assert_string_equal(message, "leank: option --out: '-' is not a valid FILE: it is not written to "
                               "stdout (./- is what is named so)\n");
  assert_null(got.out);
  assert_int_equal(run("--out=", NULL), CLI_USAGE);
  assert_string_equal(message, "leank: option --out: '' is not a valid FILE\n");
  expect_refused("{\"out\": \"-\"}",
                 "key 'out': '-' is not a valid FILE: it is not written to stdout");
  expect_refused("{\"out\": \"\"}", "key 'out': '' is not a valid FILE\n");
}

static void test_many_positionals(void **state) {
  (void)state;
  char *argv[CLI_MAX_POSITIONALS + 1];
  for (size_t i = 0; i <= CLI_MAX_POSITIONALS; i++) argv[i] = (char *)"x";
  assert_int_equal(run_arguments(CLI_MAX_POSITIONALS, argv), CLI_GO);
  assert_int_equal(run_arguments(CLI_MAX_POSITIONALS + 1, argv), CLI_USAGE);
}

static void test_config_values(void **state) {
  (void)state;
  assert_int_equal(
      run_config("{\"out\": \"m\", \"fingerprint\": \"0123abcd\", \"paper\": true,"
                 " \"n_steps\": 300, \"seed\": \"18446744073709551615\","
                 " \"lr\": 1e-2, \"budget\": \"per-head\", \"lengths\": [1024, \"4k\"],"
                 " \"haystack\": [\"a,b\", \"c\"]}"),
      CLI_GO);
  assert_string_equal(got.out, "m");
  assert_string_equal(got.config, CONFIG);
  assert_string_equal(got.fingerprint, "0123abcd");
  assert_true(got.paper);
  assert_int_equal(got.n_steps, 300);
  assert_true(got.seed == UINT64_MAX);
  assert_true(got.lr == 0.01);
  assert_int_equal(got.budget, 1);
  assert_int_equal(got.lengths.n, 2);
  assert_int_equal(got.lengths.values[1], 4096);
  assert_int_equal(got.haystacks.n, 2);
  assert_string_equal(got.haystacks.values[0], "a,b");
  assert_int_equal(run_config("{\"n-steps\": \"4k\", \"paper\": false, \"lengths\": 7, \"lr\": 2,"
                              " \"haystack\": \"a,b\"}"),
                   CLI_GO);
  assert_int_equal(got.n_steps, 4096);
  assert_false(got.paper);
  assert_int_equal(got.lengths.values[0], 7);
  assert_true(got.lr == 2);
  assert_int_equal(got.haystacks.n, 2);
  assert_int_equal(run_config(" {} \n"), CLI_GO);
  assert_int_equal(got.n_steps, 150);
  assert_int_equal(got.haystacks.n, 1);
}

static void test_command_line_wins(void **state) {
  (void)state;
  const char *json = "{\"n_steps\": 7, \"seed\": 8, \"haystack\": [\"f\"], \"out\": \"file\"}";
  write_config(json, strlen(json));
  assert_int_equal(run("--n-steps", "1", "--haystack", "c", "--config", CONFIG, "-oline", NULL),
                   CLI_GO);
  assert_int_equal(got.n_steps, 1);
  assert_int_equal(got.seed, 8);
  assert_string_equal(got.out, "line");
  assert_int_equal(got.haystacks.n, 1);
  assert_string_equal(got.haystacks.values[0], "c");
  assert_int_equal(run("--config", CONFIG, "--n-steps", "1", NULL), CLI_GO);
  assert_int_equal(got.n_steps, 1);
  /* What does not win is checked all the same. */
  write_config("{\"n_steps\": -1}", 15);
  assert_int_equal(run("--config", CONFIG, "--n-steps", "1", NULL), CLI_USAGE);
  assert_int_equal(got.n_steps, 1);
  assert_int_equal(run("--fingerprint", "x", NULL), CLI_USAGE);
  assert_non_null(strstr(message, "unknown option '--fingerprint'"));
}

static void test_config_keys(void **state) {
  (void)state;
  expect_refused("{\"fly\": 1}", "key 'fly': no such option");
  expect_refused("{\"\": 1}", "key ''");
  expect_refused("{\"n_step\": 1}", "key 'n_step'");
  expect_refused("{\"n_stepss\": 1}", "key 'n_stepss'");
  expect_refused("{\"o\": \"m\"}", "key 'o'");
  expect_refused("{\"--lr\": 1}", "key '--lr'");
  expect_refused("{\"help\": true}", "key 'help'");
  expect_refused("{\"config\": \"other.json\"}", "cannot name another");
  expect_refused("{\"lr\": 1, \"lr\": 2}", "duplicate object key near '\"lr\"'");
  expect_refused("{\"n_steps\": 1, \"n-steps\": 2}", "there twice");
}

static void test_config_types(void **state) {
  (void)state;
  expect_refused("{\"paper\": 1}", "key 'paper': not true or false");
  expect_refused("{\"paper\": \"true\"}", "key 'paper'");
  expect_refused("{\"n_steps\": true}", "key 'n_steps': not a number");
  expect_refused("{\"n_steps\": null}", "key 'n_steps'");
  expect_refused("{\"n_steps\": [1]}", "key 'n_steps'");
  expect_refused("{\"n_steps\": -1}", "key 'n_steps': '-1' is not a whole number, as 4096 or 4k\n");
  expect_refused("{\"n_steps\": 1.5}", "key 'n_steps'");
  expect_refused("{\"n_steps\": \"\"}", "key 'n_steps'");
  expect_refused("{\"n_steps\": 1e30}", "key 'n_steps'");
  expect_refused("{\"lr\": \"nan\"}", "key 'lr'");
  expect_refused("{\"lr\": {\"stage1\": 1}}", "key 'lr': not a number");
  expect_refused("{\"out\": 5}", "key 'out': not a string");
  expect_refused("{\"out\": [\"a\"]}", "key 'out': not a string");
  expect_refused("{\"fingerprint\": {}}", "key 'fingerprint': not a string");
  expect_refused("{\"budget\": 1}", "key 'budget': not a string");
  expect_refused("{\"budget\": \"none\"}", "one of global|per-head");
  expect_refused("{\"lengths\": []}", "key 'lengths'");
  expect_refused("{\"lengths\": [1, 0]}", "key 'lengths'");
  expect_refused("{\"lengths\": [[1]]}", "key 'lengths': not a list of numbers");
  expect_refused("{\"lengths\": [1, {}]}", "key 'lengths'");
  expect_refused("{\"lengths\": {}}", "key 'lengths'");
  expect_refused("{\"haystack\": [1]}", "key 'haystack': not a list of strings");
  expect_refused("{\"haystack\": [\"\"]}", "key 'haystack'");
  expect_refused("{\"haystack\": {\"a\": 1}}", "key 'haystack'");
}

static void test_config_syntax(void **state) {
  (void)state;
  expect_refused("", "");
  expect_refused("[]", "not a JSON object");
  expect_refused("5", "not a JSON object");
  expect_refused("{\"lr\": 1} x", "end of file expected");
  expect_refused("{\"lr\": 1}{\"lr\": 1}", "end of file expected");
  expect_refused("{\"lr\": 1", "line 1");
  expect_refused("{\n\n\"lr\" 1}", "line 3");
  expect_refused("{lr: 1}", "line 1");
  expect_refused("{\"lr\": 1e999}", "line 1");
  expect_refused("{\"lr\": NaN}", "line 1");
  expect_refused("{\"out\": \"a\\u0000b\"}", "line 1");
  expect_refused("{\"out\": \"\xff\"}", "line 1");
  write_config("{\"out\": \"a\0b\"}", 14);
  assert_int_equal(run("--config", CONFIG, NULL), CLI_USAGE);
  assert_int_equal(run("--config", LEANK_TEST_TMP "/nowhere.json", NULL), CLI_USAGE);
  assert_non_null(strstr(message, "nowhere.json: No such file"));
  assert_int_equal(run("--config", LEANK_TEST_TMP, NULL), CLI_USAGE);
  assert_non_null(strstr(message, "Is a directory"));
}

/* A repeated piece as a whole file. */
static int run_repeated(const char *piece, size_t n) {
  size_t length = strlen(piece);
  char *text = malloc(n * length);
  assert_non_null(text);
  for (size_t i = 0; i < n; i++) memcpy(text + i * length, piece, length);
  write_config(text, n * length);
  free(text);
  return run("--config", CONFIG, NULL);
}

static void test_config_huge(void **state) {
  (void)state;
  assert_int_equal(run_repeated(" ", (1 << 20) + 1), CLI_USAGE);
  assert_non_null(strstr(message, "1 MiB"));
  assert_int_equal(run_repeated("{\"lr\":", 100000), CLI_USAGE);
  assert_int_equal(run_repeated("[", 100000), CLI_USAGE);
  assert_int_equal(run_repeated("\"", 100000), CLI_USAGE);
  char many[4 * CLI_MAX_TEXTS + 64] = "{\"haystack\": [\"x\"";
  for (size_t i = 0; i < CLI_MAX_TEXTS; i++) strcat(many, ",\"x\"");
  strcat(many, "]}");
  expect_refused(many, "key 'haystack'");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_texts),         cmocka_unit_test(test_texts_full),
      cmocka_unit_test(test_places),        cmocka_unit_test(test_many_positionals),
      cmocka_unit_test(test_config_values), cmocka_unit_test(test_command_line_wins),
      cmocka_unit_test(test_config_keys),   cmocka_unit_test(test_config_types),
      cmocka_unit_test(test_config_syntax), cmocka_unit_test(test_config_huge),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
