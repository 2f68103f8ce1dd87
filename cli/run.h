/* The parts of `leank run`. */
#ifndef LEANK_CLI_RUN_H
#define LEANK_CLI_RUN_H

#include "cli_generate.h"

typedef struct run_options {
  const char *prompt, *file;
  const char *system, *chat_template;
  size_t n_ctx; /* 0 = what the prompt needs */
  bool chat, compare, json, raw, quiet, verbose;
  cli_engine_options engine;
  cli_generate_options generate;
} run_options;

/* Multi-turn chat on the terminal. */
int run_chat(const cli_engine *engine, const run_options *options);
/* The same prompt dense and with the mask; n_ctx is resolved. */
int run_compare(const cli_engine *engine, const run_options *options, const leank_token *prompt,
                size_t n_prompt, size_t n_ctx);

#endif
