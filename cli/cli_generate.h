/* Reading a prompt and generating from it, with what it took. */
#ifndef LEANK_CLI_GENERATE_H
#define LEANK_CLI_GENERATE_H

#include "cli_console.h"
#include "cli_engine.h"

typedef enum cli_stop {
  CLI_STOP_LENGTH = 0,  /* as many tokens as asked for */
  CLI_STOP_END,         /* the model ended its turn */
  CLI_STOP_CONTEXT,     /* no room for another token */
  CLI_STOP_INTERRUPTED, /* Ctrl-C */
} cli_stop;

const char *cli_stop_text(cli_stop stop);

typedef struct cli_generate_options {
  leank_sampler_options sampler;
  double temperature, top_p, min_p, repeat_penalty; /* as parsed; cli_generation_open moves them */
  size_t top_k;
  size_t n_predict; /* most tokens to generate */
  bool ignore_end;  /* go on behind end tokens */
  bool special;     /* print special tokens */
} cli_generate_options;

void cli_generate_options_default(cli_generate_options *options);

/* Rows for a command's table; g is a cli_generate_options. */
#define CLI_GENERATE_ROWS(g)                                                                       \
  {'n', "predict", CLI_SIZE, &(g).n_predict, "N", "most tokens to generate (256)"},                \
      {0, "temp", CLI_NUMBER, &(g).temperature, "T", "temperature, 0 = greedy (0)"},               \
      {0, "top-k", CLI_SIZE, &(g).top_k, "K", "only the K most likely, 0 = off (0)"},              \
      {0, "top-p", CLI_NUMBER, &(g).top_p, "P", "only the likeliest with sum P, 1 = off (1)"},     \
      {0, "min-p", CLI_NUMBER, &(g).min_p, "P", "only P times the likeliest, 0 = off (0)"},        \
      {0, "repeat-penalty", CLI_NUMBER, &(g).repeat_penalty, "R", "1 = off (1)"},                  \
      {0, "seed", CLI_SEED, &(g).sampler.seed, "N", "of the sampler (0)"}, {                       \
    0, "ignore-end", CLI_FLAG, &(g).ignore_end, NULL, "go on behind end tokens"                    \
  }

typedef struct cli_generation {
  /* set by cli_generation_open */
  const cli_engine *engine;
  leank_session *session;
  leank_sampler *sampler;
  cli_generate_options options;
  size_t n_ctx;
  bool masked;
  bool greedy;   /* the likeliest token as it is: logits stay on the device */
  float *logits; /* [V] */
  bool echo;     /* stream the text to stdout */
  /* of the last cli_generate */
  leank_token *tokens; /* [n_tokens], an end token included */
  size_t n_tokens;
  size_t n_undecoded; /* 1 where the last token is not in the cache, else 0 */
  cli_buffer text;    /* whole UTF-8 */
  size_t n_prompt;
  size_t n_steps; /* decode steps */
  double prefill_seconds, decode_seconds;
  cli_stop stop;
  size_t length;       /* tokens in the cache at the end */
  leank_memory memory; /* at the end */
} cli_generation;

/* A session for n_ctx tokens and a sampler. CLI_GO, or complains and returns cli_fail's code.
 * cli_generation_close is due in either case. */
int cli_generation_open(const cli_engine *engine, bool masked, size_t n_ctx,
                        const cli_generate_options *options, bool echo, cli_generation *out);
/* Empties the cache and forgets what the sampler has seen. Complains and returns CLI_FAILURE, else
 * CLI_GO. */
int cli_generation_reset(cli_generation *g);
/* Frees the session (and its memory) and keeps the results. */
void cli_generation_end_session(cli_generation *g);
void cli_generation_close(cli_generation *g);

/* Feeds the prompt as one turn and generates. Interrupted is a success with that stop. */
int cli_generate(cli_generation *g, const leank_token *prompt, size_t n_prompt);

/* Tokens of both that agree from the start. */
size_t cli_leading_agreement(const cli_generation *a, const cli_generation *b);

/* The plan of the tokens now in the cache: dense, or masked as the session is. */
int cli_generation_plan(const cli_generation *g, bool masked, leank_plan *out);

/* Rates; 0 where nothing was done. */
double cli_prefill_rate(const cli_generation *g); /* tokens per second */
double cli_decode_rate(const cli_generation *g);

#endif
