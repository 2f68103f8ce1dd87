/* leank: the command line. SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>

#include <leank/leank.h>

#include "cli.h"
#include "cli_console.h"

typedef struct command_entry {
  const char *name;
  int (*run)(int argc, char **argv);
  const char *about;
} command_entry;

static const command_entry commands[] = {
    {"run", cmd_run, "generate text, chat, or compare dense with LeanK"},
    {"info", cmd_info, "what a model is, and the memory plan of its cache"},
    {"learn", cmd_learn, "learn which K channels a model needs: a mask"},
    {"mask", cmd_mask, "make, round, compare, show, plot, import and export masks"},
    {"eval", cmd_eval, "what masks and baselines do to answers: scores, KL, perplexity"},
    {"analyze", cmd_analyze, "which channels masks keep, and why: frequencies, heads, tasks"},
    {"tokenize", cmd_tokenize, "text to tokens and back"},
    {"bench", cmd_bench, "measure attention, products, decode, prefill, memory, learning"},
};
enum { N_COMMANDS = sizeof commands / sizeof *commands };

static int show_help(void) {
  printf("usage: leank COMMAND [arguments]\n\n"
         "Long-context text generation with a statically pruned key cache.\n\ncommands:\n");
  for (size_t i = 0; i < N_COMMANDS; i++) {
    printf("  %-10s %s\n", commands[i].name, commands[i].about);
  }
  printf("  %-10s %s\n", "help", "this text, or that of a command");
  printf("  %-10s %s\n", "--version", "the version");
  printf("\n`leank COMMAND --help` says more. Exit codes: 0 done, 1 failed, 2 wrong usage,\n"
         "130 interrupted.\n");
  return CLI_OK;
}

static const command_entry *find(const char *name) {
  for (size_t i = 0; i < N_COMMANDS; i++) {
    if (strcmp(commands[i].name, name) == 0) return &commands[i];
  }
  return NULL;
}

static int dispatch(int argc, char **argv) {
  if (argc < 2) {
    show_help();
    return CLI_USAGE;
  }
  const char *name = argv[1];
  if (strcmp(name, "--version") == 0) {
    printf("leank %s\n", leank_version());
    return CLI_OK;
  }
  if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) return show_help();
  if (strcmp(name, "help") == 0) {
    if (argc == 2) return show_help();
    const command_entry *topic = find(argv[2]);
    char *help[] = {argc > 3 ? argv[3] : "--help", "--help", NULL}; /* leank help mask show */
    if (topic) return topic->run(argc > 3 ? 2 : 1, help);
    if (strcmp(argv[2], "help") == 0) return show_help();
    return cli_usage_error("unknown command '%s' (see leank help)", argv[2]);
  }
  const command_entry *command = find(name);
  if (!command) return cli_usage_error("unknown command '%s' (see leank help)", name);
  return command->run(argc - 2, argv + 2);
}

int main(int argc, char **argv) { return cli_finish_output(dispatch(argc, argv)); }
