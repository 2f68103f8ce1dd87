/* leank mask score: masks without training. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli_console.h"
#include "cli_engine.h"
#include "cli_file.h"
#include "mask_meta.h"
#include "mask_scores.h"

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
      {'o', "out", CLI_PLACE, &o->out, "FILE", "the mask file to write"},
      {0, "method", CLI_CHOICE, &o->method, "random|magnitude|energy|frequency", "see below"},
      {0, "ratio", CLI_NUMBER, &o->ratio, "R", "share of K channels to remove (0.7)"},
      {0, "align", CLI_SIZE, &o->align, "N", "kept counts are multiples of it (8)"},
      {0, "budget", CLI_CHOICE, &o->budget, "global|per-head",
       "whether heads compete for channels (global)"},
      {0, "exact-budget", CLI_FLAG, &o->exact, NULL, "search the counts closest to the ratio"},
      {0, "text", CLI_TEXT, &o->text, "FILE", "measure on this text (built-in prose)"},
      {0, "tokens", CLI_SIZE, &o->n_tokens, "N", "its first N tokens (2048)"},
      {0, "seed", CLI_SEED, &o->seed, "N", "of method random (0)"},
      CLI_SPLIT_ROWS(o->meta, "128", "768"),
      CLI_MEANS_ROWS(o->meta, "drop", "off"),
      CLI_DEVICE_ROW(o->engine),
      CLI_THREADS_ROWS(o->engine),
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

/* By the statistics of a text, or without any. */
static int score(const score_options *o, const char *path, float *scores, size_t *n_used) {
  cli_engine engine = {0};
  leank_head_stats stats = {0};
  int code = cli_engine_open(path, &o->engine, &engine);
  if (code == CLI_GO) code = mask_scores_measure(&engine, o->text, o->n_tokens, &stats, n_used);
  if (code == CLI_GO)
    mask_scores_fill(engine.info, (mask_score_method)o->method, &stats, o->seed, scores);
  mask_scores_free(&stats);
  cli_engine_close(&engine);
  return code;
}

/* ---- the mask ---- */

static void describe(const score_options *o, const leank_model_info *model, size_t n_used,
                     leank_mask_info *info) {
  leank_mask_info_default(info);
  leank_mask_info_set_model(info, model);
  memcpy(info->fingerprint, model->fingerprint, sizeof info->fingerprint);
  mask_meta_apply(&o->meta, info);
  info->ratio_asked = o->ratio;
  info->align = o->align;
  info->seed = o->seed;
  snprintf(info->method, sizeof info->method, "%s", mask_score_names[o->method]);
  if (n_used) {
    const char *name = o->text ? cli_base_name(o->text) : leank_sample_text_name();
    snprintf(info->data, sizeof info->data, "%zu tokens of %.200s", n_used, name);
  }
}

static int save(const score_options *o, const leank_model_info *model, const float *scores,
                size_t n_used) {
  leank_mask_info info;
  leank_mask *mask = NULL;
  leank_error err;
  uint8_t *kept = cli_alloc(cli_n_channels(model), 1);
  describe(o, model, n_used, &info);
  leank_status status =
      leank_mask_round(scores, model->n_layers, model->n_kv_heads, model->head_dim, o->ratio,
                       o->align, (leank_budget)o->budget, o->exact, kept, &err);
  if (status == LEANK_OK) status = leank_mask_create(&info, kept, NULL, &mask, &err);
  if (status == LEANK_OK) status = leank_mask_save(mask, o->out, &err);
  if (status == LEANK_OK) {
    printf("%s: %s, %.2f %% of K channels removed (asked %.2f %%)\n", o->out, info.method,
           100 * leank_mask_get_info(mask)->ratio_reached, 100 * o->ratio);
    mask_hint_ratio(mask, (leank_budget)o->budget, o->exact);
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
  if (code == CLI_GO) code = cli_check_place(o.out);
  if (code != CLI_GO) return code;
  if (leank_model_read_info(path[0], &model, &err) != LEANK_OK) return cli_fail(&err);
  float *scores = cli_alloc(cli_n_channels(&model), sizeof *scores);
  if (mask_score_needs_text((mask_score_method)o.method))
    code = score(&o, path[0], scores, &n_used);
  else
    mask_scores_fill(&model, (mask_score_method)o.method, NULL, o.seed, scores);
  if (code == CLI_GO) code = save(&o, &model, scores, n_used);
  free(scores);
  return code;
}
