/* leank analyze: which channels masks keep, whether tasks agree on them, and what ranks are worth.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <leank/eval.h>

#include "analysis.h"
#include "cli_console.h"
#include "cli_file.h"
#include "cli_report.h"
#include "eval_tasks.h"
#include "eval_variants.h"
#include "mask_scores.h"

typedef struct analyze_options {
  cli_texts masks, tasks, haystacks;
  eval_files files;
  cli_sizes lengths;
  size_t n_samples;
  uint64_t seed;
  const char *out;
  bool json, no_removal, masks_only;
  cli_engine_options engine;
} analyze_options;

static const cli_texts default_tasks = {
    6, {"niah_single_1", "niah_multikey_1", "niah_multikey_2", "vt", "fwe", "qa_like_1"}};

static int parse(int argc, char **argv, analyze_options *o, const char **model) {
  const cli_option rows[] = {
      {'m', "mask", CLI_TEXTS, &o->masks, "FILE", "mask files, one at least"},
      {0, "tasks", CLI_TEXTS, &o->tasks, "NAMES", "of leank eval --suite ruler (see below)"},
      {0, "lengths", CLI_LIST, &o->lengths, "LIST", "tokens of a prompt with its answer (1k,2k)"},
      {0, "samples", CLI_SIZE, &o->n_samples, "N", "prompts of each task and length (1)"},
      {0, "seed", CLI_SEED, &o->seed, "N", "of the prompts (1)"},
      {0, "haystack", CLI_TEXTS, &o->haystacks, "FILE", "text to hide in (built-in prose)"},
      EVAL_FILES_ROWS(o->files),
      {0, "masks-only", CLI_FLAG, &o->masks_only, NULL, "runs no prompt"},
      {0, "no-removal", CLI_FLAG, &o->no_removal, NULL, "leaves out the KL by removed channels"},
      {'o', "out", CLI_PLACE, &o->out, "FOLDER", "writes plots there, as SVG"},
      {0, "json", CLI_FLAG, &o->json, NULL, "one JSON object instead of text"},
      CLI_CHUNK_ROW(o->engine),
      CLI_DEVICE_ROW(o->engine),
      CLI_THREADS_ROWS(o->engine),
  };
  const cli_command command = {
      .usage = "leank analyze MODEL --mask FILE [--mask FILE ...] [options]",
      .about =
          "Looks into masks: kept channels by RoPE frequency with their exceptions, heads that\n"
          "keep nothing, agreement of importances across tasks, lengths and masks, and the KL\n"
          "where channels are removed by rank.",
      .details = "The importance of a channel to a task is its energy over the task's prompts: "
                 "mean of q_c^2\n"
                 "times mean of k_c^2. Correlations are Spearman's, over all channels of the "
                 "model. Removal\n"
                 "ranks by the first mask's alphas, by magnitude (mean |k_c|) and by energy; KL is "
                 "of the\n"
                 "answers to the prompts of the greatest length. Tasks, unless --tasks names "
                 "others:\n"
                 "niah_single_1, niah_multikey_1, niah_multikey_2, vt, fwe, qa_like_1.",
      .options = rows,
      .n_options = sizeof rows / sizeof *rows,
      .n_min = 1,
      .n_max = 1,
  };
  int code = cli_parse(&command, argc, argv, model);
  if (code != CLI_GO) return code;
  if (o->masks.n == 0) return cli_usage_error("--mask is missing");
  const char *unused = o->tasks.n        ? "tasks"
                       : o->lengths.n    ? "lengths"
                       : o->haystacks.n  ? "haystack"
                       : o->files.squad  ? "squad"
                       : o->files.hotpot ? "hotpot"
                                         : NULL;
  if (o->masks_only && unused)
    return cli_usage_error("--masks-only runs no prompt: --%s is for prompts", unused);
  if (o->tasks.n == 0) o->tasks = default_tasks;
  if (o->lengths.n == 0) o->lengths = (cli_sizes){2, {1024, 2048}};
  if (o->n_samples == 0) return cli_usage_error("--samples is at least 1");
  return eval_tasks_check(LEANK_SUITE_RULER, &o->tasks, &o->files);
}

/* ---- measuring ---- */

typedef struct measuring {
  const analyze_options *options;
  const cli_engine *engine;
  const eval_variants *variants;
  leank_eval_set *set;
  leank_head_stats all; /* of all prompts */
  analysis *a;
  cli_progress progress;
  size_t at, n; /* prompts */
} measuring;

static void on_progress(void *user, uint64_t done, uint64_t total) {
  measuring *m = user;
  const uint64_t part = total ? 1000 * done / total : 0;
  cli_progress_update(&m->progress, 1000 * m->at + part, 1000 * m->n);
}

/* The statistics of one prompt, added. */
static int measure_prompt(measuring *m, size_t i, leank_head_stats *stats) {
  leank_eval_prompt *prompt = NULL;
  leank_session *session = NULL;
  leank_feed_options feed;
  leank_error err;
  if (leank_eval_prompt_make(m->set, i, &prompt, &err) != LEANK_OK) return cli_fail(&err);
  int code = cli_engine_session(m->engine, false, prompt->n_tokens, &session);
  if (code == CLI_GO) {
    leank_feed_options_default(&feed);
    feed.stats = stats;
    feed.on_progress = on_progress;
    feed.user = m;
    cli_interrupt_arm(session);
    const leank_status status =
        leank_session_feed(session, 0, prompt->tokens, prompt->n_tokens, &feed, &err);
    cli_interrupt_disarm();
    if (status == LEANK_E_INTERRUPTED)
      code = CLI_INTERRUPTED;
    else if (status != LEANK_OK)
      code = cli_fail(&err);
  }
  leank_session_close(&session);
  leank_eval_prompt_close(&prompt);
  return code;
}

static void add_importance(analysis *a, const char *name, float *scores) {
  a->list = cli_realloc(a->list, a->n + 1, sizeof *a->list);
  a->list[a->n++] = (importance){cli_strdup(name), scores};
}

/* Scores of all channels by these statistics; freed by the caller. */
static float *scores_of(const measuring *m, mask_score_method method,
                        const leank_head_stats *stats) {
  float *scores = cli_alloc(cli_n_channels(m->engine->info), sizeof *scores);
  mask_scores_fill(m->engine->info, method, stats, 0, scores);
  return scores;
}

static void add_stats(leank_head_stats *to, const leank_head_stats *from, size_t n) {
  for (size_t i = 0; i < n; i++) {
    to->k_abs[i] += from->k_abs[i];
    to->k_sq[i] += from->k_sq[i];
    to->q_sq[i] += from->q_sq[i];
  }
  to->n_rows += from->n_rows;
}

/* All prompts of one task and length: those of prompt `first` (its sample is 0). */
static int measure_task(measuring *m, size_t first) {
  const size_t n = cli_n_channels(m->engine->info);
  leank_eval_prompt want, p;
  leank_head_stats stats = mask_scores_open(m->engine->info);
  char name[96];
  int code = CLI_GO;
  leank_eval_set_describe(m->set, first, &want);
  for (size_t i = first; code == CLI_GO && i < leank_eval_set_size(m->set); i++) {
    leank_eval_set_describe(m->set, i, &p);
    if (p.length != want.length || strcmp(p.task, want.task) != 0) continue;
    code = measure_prompt(m, i, &stats);
    m->at++;
  }
  if (code == CLI_GO) {
    add_stats(&m->all, &stats, n);
    snprintf(name, sizeof name, "%s at %zu", want.task, want.length);
    add_importance(m->a, name, scores_of(m, MASK_SCORE_ENERGY, &stats));
  }
  mask_scores_free(&stats);
  return code;
}

static int measure_all(measuring *m) {
  const leank_model_info *info = m->engine->info;
  leank_eval_prompt p;
  int code = CLI_GO;
  m->n = leank_eval_set_size(m->set);
  cli_progress_begin(&m->progress, "measuring");
  for (size_t i = 0; code == CLI_GO && i < m->n; i++) {
    leank_eval_set_describe(m->set, i, &p);
    if (p.sample == 0) code = measure_task(m, i);
  }
  cli_progress_end(&m->progress);
  if (code != CLI_GO) return code;
  m->a->head_energy = cli_alloc(info->n_layers * info->n_kv_heads, sizeof(double));
  for (size_t i = 0; i < cli_n_channels(info); i++)
    m->a->head_energy[i / info->head_dim] += m->all.q_sq[i] * m->all.k_sq[i];
  analysis_of_heads(m->a);
  return CLI_GO;
}

/* ---- removing by rank ---- */

enum { MAX_REMOVALS = 3 * ANALYSIS_MAX_RATIOS };

/* Masks of every curve and ratio, a curve's ratios in a row. */
static int make_removals(measuring *m, leank_mask **masks, leank_eval_variant *variants) {
  static const double ratios[] = {0.3, 0.5, 0.6, 0.7, 0.8, 0.9};
  analysis *a = m->a;
  const leank_mask *first = a->masks[0].mask;
  const size_t align = leank_mask_get_info(first)->align;
  float *by_energy = scores_of(m, MASK_SCORE_ENERGY, &m->all);
  float *by_norm = scores_of(m, MASK_SCORE_MAGNITUDE, &m->all);
  const float *scores[3] = {leank_mask_get_alpha(first), by_norm, by_energy};
  static const char *const names[3] = {"alpha", "magnitude", "energy"};
  int code = CLI_GO;
  a->n_ratios = sizeof ratios / sizeof *ratios;
  memcpy(a->ratios, ratios, sizeof ratios);
  for (size_t c = 0; code == CLI_GO && c < 3; c++) {
    if (!scores[c]) continue;
    for (size_t i = 0; code == CLI_GO && i < a->n_ratios; i++) {
      const size_t at = a->n_curves * a->n_ratios + i;
      code = eval_variants_round(m->engine, scores[c], first, ratios[i], align ? align : 1,
                                 LEANK_BUDGET_GLOBAL, &masks[at]);
      variants[at].mask = masks[at];
    }
    a->curves[a->n_curves++].name = names[c];
  }
  free(by_energy);
  free(by_norm);
  return code;
}

static int answer_one(measuring *m, size_t i, const leank_eval_variant *variants, size_t n,
                      double *kl, size_t *n_rows) {
  leank_eval_result results[1 + MAX_REMOVALS] = {{0}};
  leank_eval_run_options options;
  leank_eval_prompt *prompt = NULL;
  leank_error err;
  leank_eval_run_options_default(&options);
  cli_engine_session_options(m->engine, &options.session);
  options.on_progress = on_progress;
  options.should_stop = cli_should_stop;
  options.user = m;
  leank_status status = leank_eval_prompt_make(m->set, i, &prompt, &err);
  if (status == LEANK_OK)
    status = leank_eval_answer(m->engine->model, prompt, variants, n, &options, results, &err);
  for (size_t k = 0; status == LEANK_OK && k < n; k++)
    for (size_t r = 0; r < results[1 + k].n_rows; r++) kl[k] += (double)results[1 + k].kl[r];
  if (status == LEANK_OK) *n_rows += results[0].n_rows;
  for (size_t k = 0; k <= n; k++) leank_eval_result_clear(&results[k]);
  leank_eval_prompt_close(&prompt);
  if (status == LEANK_E_INTERRUPTED) return CLI_INTERRUPTED;
  return status == LEANK_OK ? CLI_GO : cli_fail(&err);
}

static int remove_channels(measuring *m) {
  leank_mask *masks[MAX_REMOVALS] = {NULL};
  leank_eval_variant variants[MAX_REMOVALS] = {{0}};
  double kl[MAX_REMOVALS] = {0};
  analysis *a = m->a;
  leank_eval_prompt p;
  size_t n_rows = 0;
  const size_t longest = cli_sizes_largest(&m->options->lengths);
  int code = make_removals(m, masks, variants);
  const size_t n = a->n_curves * a->n_ratios;
  cli_progress_begin(&m->progress, "removing");
  cli_interrupt_arm(NULL);
  for (m->at = 0; code == CLI_GO && m->at < m->n; m->at++) {
    leank_eval_set_describe(m->set, m->at, &p);
    if (p.length == longest) code = answer_one(m, m->at, variants, n, kl, &n_rows);
  }
  cli_interrupt_disarm();
  cli_progress_end(&m->progress);
  for (size_t i = 0; code == CLI_GO && i < n; i++)
    a->curves[i / a->n_ratios].kl[i % a->n_ratios] = n_rows ? kl[i] / (double)n_rows : 0;
  for (size_t i = 0; i < MAX_REMOVALS; i++) leank_mask_close(&masks[i]);
  return code;
}

/* ---- all ---- */

static int open_set(const analyze_options *o, const cli_engine *engine, leank_eval_set **out) {
  leank_eval_options options;
  leank_error err;
  leank_eval_options_default(&options);
  options.tasks = o->tasks.values;
  options.n_tasks = o->tasks.n;
  options.lengths = o->lengths.values;
  options.n_lengths = o->lengths.n;
  options.n_samples = o->n_samples;
  options.seed = o->seed;
  options.haystacks = o->haystacks.values;
  options.n_haystacks = o->haystacks.n;
  options.squad = o->files.squad;
  options.hotpot = o->files.hotpot;
  return leank_eval_set_open(engine->model, &options, out, &err) == LEANK_OK ? CLI_GO
                                                                             : cli_fail(&err);
}

static void read_masks(const eval_variants *variants, const leank_model_info *info, analysis *a) {
  const size_t n = cli_n_channels(info);
  a->masks = cli_alloc(variants->n, sizeof *a->masks);
  a->n_masks = variants->n;
  for (size_t i = 0; i < variants->n; i++) {
    a->masks[i].name = variants->names[i];
    a->masks[i].mask = variants->masks[i];
    a->streaming_auc[i] = NAN;
    analysis_of_mask(&a->masks[i]);
    const float *alpha = leank_mask_get_alpha(variants->masks[i]);
    if (!alpha) continue;
    float *scores = cli_alloc(n, sizeof *scores);
    memcpy(scores, alpha, n * sizeof *scores);
    add_importance(a, variants->names[i], scores);
  }
}

static int analyze(const analyze_options *o, const cli_engine *engine, const char *title) {
  static const cli_texts none = {0};
  eval_variants variants = {0};
  analysis a = {.engine = engine, .title = title};
  measuring m = {.options = o, .engine = engine, .variants = &variants, .a = &a};
  cli_buffer text = {0};
  leank_session *kept = NULL;
  m.all = mask_scores_open(engine->info);
  int code = eval_variants_open(engine, &o->masks, &none, 1, 0, NULL, 0, &variants);
  if (code == CLI_GO) read_masks(&variants, engine->info, &a);
  if (code == CLI_GO && !o->masks_only) {
    code = cli_engine_keep_weights(engine, &kept);
    if (code == CLI_GO) code = open_set(o, engine, &m.set);
    if (code == CLI_GO) code = measure_all(&m);
    if (code == CLI_GO && !o->no_removal) code = remove_channels(&m);
  }
  if (code == CLI_GO) {
    analysis_correlate(&a);
    if (o->json) {
      cli_json_print(analysis_json(&a), false);
    } else {
      analysis_text(&a, &text);
      fwrite(text.data, 1, text.n, stdout);
    }
    if (o->out) code = analysis_write(&a, o->out);
  }
  if (code == CLI_INTERRUPTED) cli_complain("interrupted");
  cli_buffer_free(&text);
  leank_session_close(&kept);
  mask_scores_free(&m.all);
  leank_eval_set_close(&m.set);
  analysis_free(&a);
  eval_variants_close(&variants);
  return code;
}

int cmd_analyze(int argc, char **argv) {
  analyze_options o = {.n_samples = 1, .seed = 1};
  const char *path[CLI_MAX_POSITIONALS];
  const cli_texts none = {0};
  cli_engine engine = {0};
  cli_engine_options_default(&o.engine);
  int code = parse(argc, argv, &o, path);
  if (code == CLI_GO) code = eval_variants_check(&o.masks, &none);
  if (code == CLI_GO && o.out) code = cli_make_folder(o.out);
  if (code == CLI_GO) code = cli_engine_open(path[0], &o.engine, &engine);
  if (code == CLI_GO) code = analyze(&o, &engine, cli_engine_title(&engine, path[0]));
  cli_engine_close(&engine);
  return code == CLI_GO ? CLI_OK : code;
}
