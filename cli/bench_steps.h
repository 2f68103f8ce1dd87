/* What benchmarks of sessions do with one: prompts, random content, decode steps. */
#ifndef LEANK_CLI_BENCH_STEPS_H
#define LEANK_CLI_BENCH_STEPS_H

#include <leank/leank.h>

#include "cli_engine.h"

/* Where a cache's content comes from; the row of a command's table, f an int. */
typedef enum bench_fill { BENCH_FILL_AUTO, BENCH_FILL_PROMPT, BENCH_FILL_RANDOM } bench_fill;
#define BENCH_FILL_ROW(f)                                                                          \
  {                                                                                                \
    0, "fill", CLI_CHOICE, &(f), "auto|prompt|random",                                             \
        "prompts or random K and V (auto: random for a config.json)"                               \
  }
bool bench_fills_randomly(int fill, const cli_engine *engine);

/* Tokens are made up: speed does not depend on which. */
typedef struct bench_steps {
  size_t n_seqs;       /* of a step: sequences 0, 1, ... */
  size_t n_tokens;     /* of the longest prompt */
  leank_token *tokens; /* [n_tokens + n_seqs] */
  leank_token *next;   /* [n_seqs] */
  float *logits;       /* [V] */
  size_t *seqs;        /* [n_seqs] */
} bench_steps;

void bench_steps_open(bench_steps *s, const leank_model_info *info, size_t n_seqs, size_t n_tokens);
void bench_steps_close(bench_steps *s);

/* Ctrl-C, while armed for this session, ends each of these with LEANK_E_INTERRUPTED. */

/* Reads a prompt of n tokens into a sequence, emptied first; each begins at another token. */
leank_status bench_steps_prompt(const bench_steps *s, leank_session *session, size_t seq, size_t n,
                                double *seconds, leank_error *err);
/* n greedy steps of all sequences; their seconds. */
leank_status bench_steps_decode(const bench_steps *s, leank_session *session, size_t n,
                                double *seconds, leank_error *err);

/* Where there is a device, makes the weights there now, by a step of a small session: they stay as
 * long as it is open; else *out is left. Complains and returns what the shell gets, else CLI_GO. */
int bench_steps_load_weights(const cli_engine *engine, leank_session **out);

/* K and V of the tokens in use. */
size_t bench_stored_bytes(const leank_session *session);

/* What the shell gets: CLI_GO, else complains. */
int bench_steps_code(leank_status status, const leank_error *err);

#endif
