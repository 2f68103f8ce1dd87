/* leank mask score: masks without training. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli_console.h"
#include "cli_engine.h"
#include "mask_meta.h"

/* Order of the words of --method. */
typedef enum score_method {
  SCORE_RANDOM = 0,
  SCORE_MAGNITUDE,
  SCORE_ENERGY,
  SCORE_FREQUENCY
} score_method;

static const char *const method_names[] = {"random", "magnitude", "energy", "frequency"};

typedef struct score_options {
  const char *out, *text;
  int method, budget;
  size_t n_tokens, align;
  double ratio;
  bool exact;
  uint64_t seed;
  mask_meta meta;
  cli_engine_options engine;
} score_options;

static int parse(int argc, char **argv, score_options *o, const char **model) {
  const cli_option rows[] = {
      {'o', "out", CLI_TEXT, &o->out, "FILE", "the mask file to write"},
      {0, "method", CLI_CHOICE, &o->method, "random|magnitude|energy|frequency", "see below"},
      {0, "ratio", CLI_NUMBER, &o->ratio, "R", "share of K channels to remove (0.7)"},
      {0, "align", CLI_SIZE, &o->align, "N", "kept counts are multiples of it (8)"},
      {0, "budget", CLI_CHOICE, &o->budget, "global|per-head",
       "whether heads compete for channels (global)"},
      {0, "exact-budget", CLI_FLAG, &o->exact, NULL, "search the counts closest to the ratio"},
      {0, "text", CLI_TEXT, &o->text, "FILE", "measure on this text (built-in prose)"},
      {0, "tokens", CLI_SIZE, &o->n_tokens, "N", "its first N tokens (2048)"},
      {0, "seed", CLI_SEED, &o->seed, "N", "of method random (0)"},
      MASK_META_ROWS(o->meta),
      CLI_DEVICE_ROW(o->engine),
      {0, "threads", CLI_SIZE, &o->engine.n_threads, "N", "threads (all processors)"},
  };
  const cli_command command = {
      .usage = "leank mask score MODEL -o OUT --method METHOD [options]",
      .about = "Makes a mask without training: every K channel gets a score, the lowest go.",
      .details = "methods: random     uniform scores\n"
                 "         magnitude  mean of |k_c| over the tokens of a text\n"
                 "         energy     mean of q_c^2 times mean of k_c^2\n"
                 "         frequency  the lowest RoPE frequencies stay; needs no weights\n"
                 "A global budget compares raw scores across layers and heads.",
      .options = rows,
      .n_options = sizeof rows / sizeof *rows,
      .n_min = 1,
      .n_max = 1,
  };
  int code = cli_parse(&command, argc, argv, model);
  if (code != CLI_GO) return code;
  if (!o->out) return cli_usage_error("-o is missing");
  if (o->method < 0) return cli_usage_error("--method is missing");
  if (o->ratio < 0 || o->ratio > 1) return cli_usage_error("--ratio is between 0 and 1");
  if (o->n_tokens == 0) return cli_usage_error("--tokens is at least 1");
  return CLI_GO;
}

/* ---- scores [L][Hk][D], half order ---- */

static size_t n_channels(const leank_model_info *info) {
  return info->n_layers * info->n_kv_heads * info->head_dim;
}

/* splitmix64 (Steele, Lea, Flood 2014): the same mask for a seed on every machine. */
static void score_random(const leank_model_info *info, uint64_t seed, float *scores) {
  for (size_t i = 0; i < n_channels(info); i++) {
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
  for (size_t i = 0; i < n_channels(info); i++) {
    double pair = (double)(i % info->head_dim % half);
    scores[i] = (float)-pow(info->rope_theta, -2 * pair / (double)info->head_dim);
  }
}

static void score_statistics(const leank_model_info *info, const leank_head_stats *stats,
                             score_method method, float *scores) {
  double rows = (double)stats->n_rows;
  double group = (double)(info->n_heads / info->n_kv_heads);
  for (size_t i = 0; i < n_channels(info); i++) {
    double score = method == SCORE_MAGNITUDE
                       ? stats->k_abs[i] / rows
                       : stats->q_sq[i] / (rows * group) * (stats->k_sq[i] / rows);
    scores[i] = (float)score;
  }
}

/* ---- statistics of a text ---- */

static int read_tokens(const score_options *o, const cli_engine *engine, leank_token **out,
                       size_t *n_out) {
  cli_buffer text = {0};
  leank_error err;
  if (!engine->tokenizer) return cli_complain("the model has no tokenizer to read text with");
  if (o->text) {
    int code = cli_read_text(NULL, o->text, &text);
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
  if (*n_out == 0) return cli_complain("%s: no text", o->text);
  size_t limit = o->n_tokens < engine->info->n_ctx_train ? o->n_tokens : engine->info->n_ctx_train;
  if (*n_out > limit)
    *n_out = limit;
  else if (*n_out < o->n_tokens)
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

static int score_by_text(const score_options *o, const char *path, float *scores, size_t *n_used) {
  cli_engine engine;
  leank_token *tokens = NULL;
  leank_head_stats stats = {0};
  int code = cli_engine_open(path, &o->engine, &engine);
  if (code == CLI_GO) code = read_tokens(o, &engine, &tokens, n_used);
  if (code == CLI_GO) {
    size_t n = n_channels(engine.info);
    stats.k_abs = cli_alloc(n, sizeof *stats.k_abs);
    stats.k_sq = cli_alloc(n, sizeof *stats.k_sq);
    stats.q_sq = cli_alloc(n, sizeof *stats.q_sq);
    code = measure(&engine, tokens, *n_used, &stats);
  }
  if (code == CLI_GO) score_statistics(engine.info, &stats, (score_method)o->method, scores);
  free(stats.k_abs);
  free(stats.k_sq);
  free(stats.q_sq);
  leank_tokens_free(&tokens);
  cli_engine_close(&engine);
  return code;
}

/* ---- the mask ---- */

static void describe(const score_options *o, const leank_model_info *model, size_t n_used,
                     leank_mask_info *info) {
  const char *base = o->text ? strrchr(o->text, '/') : NULL;
  leank_mask_info_default(info);
  info->n_layers = model->n_layers;
  info->n_kv_heads = model->n_kv_heads;
  info->head_dim = model->head_dim;
  mask_meta_from_model(info, model);
  memcpy(info->fingerprint, model->fingerprint, sizeof info->fingerprint);
  mask_meta_apply(&o->meta, info);
  info->ratio_asked = o->ratio;
  info->align = o->align;
  info->seed = o->seed;
  snprintf(info->method, sizeof info->method, "%s", method_names[o->method]);
  if (n_used) {
    const char *name = base ? base + 1 : o->text ? o->text : leank_sample_text_name();
    snprintf(info->data, sizeof info->data, "%zu tokens of %.200s", n_used, name);
  }
}

static int save(const score_options *o, const leank_model_info *model, const float *scores,
                size_t n_used) {
  leank_mask_info info;
  leank_mask *mask = NULL;
  leank_error err;
  uint8_t *kept = cli_alloc(n_channels(model), 1);
  describe(o, model, n_used, &info);
  leank_status status =
      leank_mask_round(scores, model->n_layers, model->n_kv_heads, model->head_dim, o->ratio,
                       o->align, (leank_budget)o->budget, o->exact, kept, &err);
  if (status == LEANK_OK) status = leank_mask_create(&info, kept, NULL, &mask, &err);
  if (status == LEANK_OK) status = leank_mask_save(mask, o->out, &err);
  if (status == LEANK_OK) {
    printf("%s: %s, %.2f %% of K channels removed (asked %.2f %%)\n", o->out, info.method,
           100 * leank_mask_get_info(mask)->ratio_reached, 100 * o->ratio);
  }
  leank_mask_close(&mask);
  free(kept);
  return status == LEANK_OK ? CLI_OK : cli_fail(&err);
}

int cmd_mask_score(int argc, char **argv) {
  score_options o = {.method = -1, .n_tokens = 2048, .align = 8, .ratio = 0.7};
  const char *path[CLI_MAX_POSITIONALS];
  leank_model_info model;
  leank_error err;
  size_t n_used = 0;
  o.meta = mask_meta_default();
  cli_engine_options_default(&o.engine);
  o.engine.weights = LEANK_WEIGHTS_MAPPED; /* read once, not once a step */
  int code = parse(argc, argv, &o, path);
  if (code != CLI_GO) return code;
  if (leank_model_read_info(path[0], &model, &err) != LEANK_OK) return cli_fail(&err);
  float *scores = cli_alloc(n_channels(&model), sizeof *scores);
  if (o.method == SCORE_RANDOM)
    score_random(&model, o.seed, scores);
  else if (o.method == SCORE_FREQUENCY)
    score_frequency(&model, scores);
  else
    code = score_by_text(&o, path[0], scores, &n_used);
  if (code == CLI_GO) code = save(&o, &model, scores, n_used);
  free(scores);
  return code;
}
