/* The caches that `leank eval` compares with the dense one: masks from files and baselines. */
#ifndef LEANK_CLI_EVAL_VARIANTS_H
#define LEANK_CLI_EVAL_VARIANTS_H

#include <jansson.h>

#include "cli_engine.h"

enum { EVAL_MAX_VARIANTS = 64 };

typedef struct eval_variants {
  size_t n;
  char *names[EVAL_MAX_VARIANTS]; /* of a mask its file without ".safetensors"; "energy:0.7" */
  leank_mask *masks[EVAL_MAX_VARIANTS]; /* NULL: ThinK */
  leank_eval_variant list[EVAL_MAX_VARIANTS];
} eval_variants;

/* What `--help` says about baselines. */
extern const char eval_baselines_help[];

/* Checks --mask and --baseline before a model is opened. Complains and returns CLI_USAGE, of a mask
 * that cannot be read CLI_FAILURE, else CLI_GO. */
int eval_variants_check(const cli_texts *masks, const cli_texts *baselines);
/* Whether one of the baselines, which were checked, is measured on a text, or rounded to `align`.
 */
bool eval_variants_measure(const cli_texts *baselines);
bool eval_variants_align(const cli_texts *baselines);
/* Opens the masks and makes the baselines (of `align`, with the sink and recent tokens of the first
 * mask or the defaults; some need a prefill of n_tokens of `text`). Complains and returns
 * CLI_FAILURE, CLI_USAGE or CLI_INTERRUPTED, else CLI_GO. eval_variants_close is due in either
 * case. */
int eval_variants_open(const cli_engine *engine, const cli_texts *masks, const cli_texts *baselines,
                       size_t align, uint64_t seed, const char *text, size_t n_tokens,
                       eval_variants *out);
void eval_variants_close(eval_variants *variants);
/* A mask of these scores [L][Hk][D], with the sink and recent tokens of `like` (NULL: the
 * defaults). CLI_GO, or complains and returns cli_fail's code. */
int eval_variants_round(const cli_engine *engine, const float *scores, const leank_mask *like,
                        double ratio, size_t align, leank_budget budget, leank_mask **out);
/* Names and what tells masks apart, for records. */
json_t *eval_variants_json(const eval_variants *variants);

#endif
