#include "mask_scores.h"

#include <math.h>
#include <stdlib.h>

#include "cli_console.h"

const char *const mask_score_names[] = {"random", "magnitude", "energy", "frequency", NULL};

bool mask_score_needs_text(mask_score_method method) {
  return method == MASK_SCORE_MAGNITUDE || method == MASK_SCORE_ENERGY;
}

/* splitmix64 (Steele, Lea, Flood 2014): the same mask for a seed on every machine. */
static void score_random(const leank_model_info *info, uint64_t seed, float *scores) {
  for (size_t i = 0; i < cli_n_channels(info); i++) {
    uint64_t z = (seed += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    scores[i] = (float)(z >> 40) * 0x1p-24f;
  }
}

/* Minus the frequency base^(-2i/D) of the pair i = c mod D/2. */
static void score_frequency(const leank_model_info *info, float *scores) {
  size_t half = info->head_dim / 2;
  for (size_t i = 0; i < cli_n_channels(info); i++) {
    double pair = (double)(i % info->head_dim % half);
    scores[i] = (float)-pow(info->rope_theta, -2 * pair / (double)info->head_dim);
  }
}

static void score_statistics(const leank_model_info *info, const leank_head_stats *stats,
                             mask_score_method method, float *scores) {
  double rows = (double)stats->n_rows;
  double group = (double)(info->n_heads / info->n_kv_heads);
  for (size_t i = 0; i < cli_n_channels(info); i++) {
    double score = method == MASK_SCORE_MAGNITUDE
                       ? stats->k_abs[i] / rows
                       : stats->q_sq[i] / (rows * group) * (stats->k_sq[i] / rows);
    scores[i] = (float)score;
  }
}

void mask_scores_fill(const leank_model_info *model, mask_score_method method,
                      const leank_head_stats *stats, uint64_t seed, float *scores) {
  if (method == MASK_SCORE_RANDOM)
    score_random(model, seed, scores);
  else if (method == MASK_SCORE_FREQUENCY)
    score_frequency(model, scores);
  else
    score_statistics(model, stats, method, scores);
}

/* ---- statistics of a text ---- */

static int read_tokens(const cli_engine *engine, const char *path, size_t n_most, leank_token **out,
                       size_t *n_out) {
  cli_buffer text = {0};
  leank_error err;
  if (!engine->tokenizer) return cli_complain("the model has no tokenizer to read text with");
  if (path) {
    int code = cli_read_text(NULL, path, &text);
    if (code != CLI_GO) {
      cli_buffer_free(&text);
      return code;
    }
  } else {
    size_t n;
    const char *sample = leank_sample_text(&n);
    cli_buffer_append(&text, sample, n);
  }
  leank_status status =
      leank_tokenize(engine->tokenizer, text.data, text.n, LEANK_TOKENIZE_BOS, out, n_out, &err);
  cli_buffer_free(&text);
  if (status != LEANK_OK) return cli_fail(&err);
  if (*n_out == 0) return cli_complain("%s: no text", path);
  size_t limit = n_most < engine->info->n_ctx_train ? n_most : engine->info->n_ctx_train;
  if (*n_out > limit)
    *n_out = limit;
  else if (*n_out < n_most)
    cli_warn("the text has only %zu tokens", *n_out);
  return CLI_GO;
}

/* One dense prefill of the tokens; fills stats. */
static int measure(const cli_engine *engine, const leank_token *tokens, size_t n_tokens,
                   leank_head_stats *stats) {
  leank_session *session = NULL;
  leank_feed_options feed;
  leank_error err;
  cli_progress progress;
  int code = cli_engine_session(engine, false, n_tokens, &session);
  if (code != CLI_GO) return code;
  leank_feed_options_default(&feed);
  cli_progress_begin(&progress, "measuring");
  feed.stats = stats;
  feed.on_progress = cli_progress_update;
  feed.user = &progress;
  cli_interrupt_arm(session);
  leank_status status = leank_session_feed(session, 0, tokens, n_tokens, &feed, &err);
  cli_interrupt_disarm();
  cli_progress_end(&progress);
  leank_session_close(&session);
  if (status == LEANK_E_INTERRUPTED) {
    cli_complain("interrupted");
    return CLI_INTERRUPTED;
  }
  return status == LEANK_OK ? CLI_GO : cli_fail(&err);
}

leank_head_stats mask_scores_open(const leank_model_info *model) {
  const size_t n = cli_n_channels(model);
  return (leank_head_stats){.k_abs = cli_alloc(n, sizeof(double)),
                            .k_sq = cli_alloc(n, sizeof(double)),
                            .q_sq = cli_alloc(n, sizeof(double))};
}

int mask_scores_measure(const cli_engine *engine, const char *path, size_t n_tokens,
                        leank_head_stats *stats, size_t *n_used) {
  leank_token *tokens = NULL;
  int code = read_tokens(engine, path, n_tokens, &tokens, n_used);
  if (code == CLI_GO) {
    *stats = mask_scores_open(engine->info);
    code = measure(engine, tokens, *n_used, stats);
  }
  leank_tokens_free(&tokens);
  return code;
}

void mask_scores_free(leank_head_stats *stats) {
  free(stats->k_abs);
  free(stats->k_sq);
  free(stats->q_sq);
  *stats = (leank_head_stats){0};
}
