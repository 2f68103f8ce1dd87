/* leank learn: a mask by the two-stage training of LeanK. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli_console.h"
#include "cli_engine.h"
#include "cli_file.h"
#include "cli_report.h"
#include "learn_report.h"
#include "learn_settings.h"
#include "show_data.h"

typedef struct learn_options {
  const char *out, *config, *checkpoint, *log;
  bool fresh, no_checkpoint, keep_stages, json, quiet, print_config;
  size_t show_data;
  learn_settings settings;
} learn_options;

static bool is_same(const char *a, const char *b) { return a && b && strcmp(a, b) == 0; }

static int parse(int argc, char **argv, learn_options *o, const char **model) {
  learn_settings *s = &o->settings;
  const cli_option rows[] = {
      {'o', "out", CLI_PLACE, &o->out, "FILE", "the mask file to write"},
      {0, "config", CLI_CONFIG, &o->config, "FILE", "options as a JSON object; see --print-config"},
      {0, "fingerprint", CLI_CONFIG_TEXT, &s->fingerprint, NULL, NULL},
      {0, "preset", CLI_CHOICE, &s->preset, "default|paper", "settings to start from (default)"},
      {0, "ratio", CLI_NUMBER, &s->ratio, "R", "share of K channels to remove (0.7)"},
      {0, "align", CLI_SIZE, &s->align, "N",
       "kept counts are multiples of it (32; 16 of heads below 128 channels)"},
      {0, "budget", CLI_CHOICE, &s->budget, "global|per-head",
       "whether heads compete for channels (global)"},
      {0, "exact-budget", CLI_FLAG, &s->exact_budget, NULL,
       "search the counts closest to the ratio"},
      {0, "lambda", CLI_NUMBER, &s->lambda, "X",
       "weight of mean(alpha), below 0 = found for the ratio (-1)"},
      {0, "lr1", CLI_NUMBER, &s->lr1, "X", "learning rate of stage 1 (0.04)"},
      {0, "lr2", CLI_NUMBER, &s->lr2, "X", "learning rate of stage 2 (0.001)"},
      {0, "steps1", CLI_SIZE, &s->steps1, "N", "updates of stage 1 (150)"},
      {0, "steps2", CLI_SIZE, &s->steps2, "N", "updates of stage 2, 0 = none (20)"},
      {0, "batch", CLI_SIZE, &s->batch, "N", "questions of one update (4)"},
      CLI_SPLIT_ROWS(*s, "128", "768"),
      {0, "loss", CLI_CHOICE, &s->loss, "hidden|logits|both", "what updates make small (hidden)"},
      CLI_MEANS_ROWS(*s, "mean", "on"),
      {0, "seed", CLI_SEED, &s->seed, "N", "of training data and order (1)"},
      DATA_ROWS(s->data, "24"),
      {0, "held-out", CLI_SIZE, &s->n_held_out, "N", "contexts held out, 0 = none (4)"},
      {0, "held-out-tasks", CLI_TEXTS, &s->held_out_tasks, "NAMES", "their tasks (--tasks)"},
      {0, "held-out-seed", CLI_SEED, &s->held_out_seed, "N", "their seed (1000001)"},
      {0, "eval-every", CLI_SIZE, &s->eval_every, "N",
       "updates between evaluations, 0 = after each stage (0)"},
      {0, "checkpoint", CLI_PLACE, &o->checkpoint, "FILE", "where (OUT.checkpoint)"},
      {0, "checkpoint-every", CLI_SIZE, &s->checkpoint_every, "N",
       "updates between checkpoints (10)"},
      {0, "no-checkpoint", CLI_FLAG, &o->no_checkpoint, NULL, "write none"},
      {0, "fresh", CLI_FLAG, &o->fresh, NULL, "begin anew, over whatever checkpoint there is"},
      {0, "keep-stages", CLI_FLAG, &o->keep_stages, NULL,
       "also write the mask of each stage: OUT.stage1, OUT.stage2"},
      {0, "log", CLI_PLACE, &o->log, "FILE", "JSON lines (OUT.log.jsonl)"},
      {0, "cache", CLI_PLACE, &s->cache_folder, "FOLDER",
       "keep the K and V of contexts there, for this and later runs"},
      {0, "cache-size", CLI_SIZE, &s->cache_size, "BYTES", "most bytes of them (no limit)"},
      {0, "kv-type", CLI_CHOICE, &s->kv_type, "bf16|f32", "type of K and V (bf16)"},
      CLI_CHUNK_ROW(*s),
      CLI_DEVICE_ROW(*s),
      CLI_THREADS_ROWS(*s),
      {0, "show-data", CLI_SIZE, &o->show_data, "N", "print N contexts and stop"},
      {0, "print-config", CLI_FLAG, &o->print_config, NULL, "print all settings and stop"},
      {0, "json", CLI_FLAG, &o->json, NULL, "events as JSON lines"},
      {'q', "quiet", CLI_FLAG, &o->quiet, NULL, "no progress"},
  };
  const cli_command command = {
      .usage = "leank learn MODEL -o MASK [options]",
      .about = "Learns which channels of K the model needs, from long prompts with answers.",
      .details =
          "Stage 1 lowers the weight of every channel that the answers do not miss, stage 2 "
          "trains\n"
          "with the rounded mask; the better of the two by held-out KL is kept. Contexts are read\n"
          "once. Ctrl-C writes a checkpoint; the same command goes on from it.\n\n"
          "--preset paper follows the published procedure: loss not scaled, lambda 0.06, 2000 and\n"
          "200 updates of one question, a window that slides by token.",
      .options = rows,
      .n_options = sizeof rows / sizeof *rows,
      .n_min = 1,
      .n_max = 1,
  };
  int code = cli_parse(&command, argc, argv, model);
  if (code != CLI_GO) return code;
  if (!o->out && !o->show_data && !o->print_config) return cli_usage_error("-o is missing");
  if (o->no_checkpoint && o->checkpoint)
    return cli_usage_error("--checkpoint and --no-checkpoint exclude each other");
  if (is_same(o->out, o->log) || is_same(o->out, o->checkpoint) || is_same(o->log, o->checkpoint))
    return cli_usage_error("-o, --log and --checkpoint must be different files");
  return CLI_GO;
}

/* OUT with an ending, unless a path was given. */
static char *beside(const char *out, const char *ending) {
  size_t n = strlen(out) + strlen(ending) + 1;
  char *path = cli_alloc(n, 1);
  snprintf(path, n, "%s%s", out, ending);
  return path;
}

static void print_result(const learn_options *o, const learn_report *r, const leank_mask *mask) {
  const leank_mask_info *info = leank_mask_get_info(mask);
  const leank_learn_event *e = &r->last;
  if (o->json) return;
  printf("%s: %.2f %% of K channels removed (asked %.2f %%), from stage %d", o->out,
         100 * info->ratio_reached, 100 * info->ratio_asked, e->stage);
  if (r->eval.n_rows) printf(", held-out KL %.5f", e->kl);
  putchar('\n');
  if (e->flops > 0) {
    printf("arithmetic: %.3g TFLOP; reading every context anew in each of the same updates, as the "
           "published procedure does: %.3g TFLOP (%.1f times as much)\n",
           1e-12 * e->flops, 1e-12 * e->reference_flops, e->reference_flops / e->flops);
  }
}

static int save_stages(const learn_options *o, leank_learner *learner) {
  for (int stage = 1; stage <= 2; stage++) {
    leank_mask *mask = NULL;
    leank_error err;
    char *path = beside(o->out, stage == 1 ? ".stage1" : ".stage2");
    leank_status status = leank_learner_stage_mask(learner, stage, &mask, &err);
    if (status == LEANK_OK) status = leank_mask_save(mask, path, &err);
    leank_mask_close(&mask);
    free(path);
    if (status != LEANK_OK) return cli_fail(&err);
  }
  return CLI_GO;
}

/* Everything is learnt: the mask is written, then the checkpoint is of no more use. */
static int finish(const learn_options *o, const char *checkpoint, const learn_report *r,
                  const leank_mask *mask) {
  leank_error err;
  if (leank_mask_save(mask, o->out, &err) != LEANK_OK) {
    cli_fail(&err);
    if (checkpoint) cli_warn("nothing is lost: the checkpoint is in %s", checkpoint);
    return CLI_FAILURE;
  }
  print_result(o, r, mask);
  if (checkpoint) unlink(checkpoint);
  return CLI_OK;
}

static int open_learner(const leank_model *model, const leank_learn_options *options,
                        leank_learner **out) {
  leank_error err;
  const leank_status status = leank_learner_open(model, options, out, &err);
  if (status == LEANK_OK) return CLI_GO;
  return status == LEANK_E_MISMATCH ? cli_fail_hint(&err, "--fresh") : cli_fail(&err);
}

/* Runs an open learner to its end and writes what comes out. */
static int run_learner(const learn_options *o, const char *checkpoint, leank_learner *learner,
                       learn_report *report) {
  leank_mask *mask = NULL;
  leank_error err;
  cli_interrupt_arm_learner(learner);
  leank_status status = leank_learner_run(learner, &mask, &err);
  cli_interrupt_disarm();
  const int log_code = learn_report_close(report);
  if (status == LEANK_E_INTERRUPTED) {
    cli_complain("interrupted; %s", checkpoint ? "the same command goes on from the checkpoint"
                                               : "no checkpoint was wanted");
    return CLI_INTERRUPTED;
  }
  if (status != LEANK_OK) return cli_fail(&err);
  int code = o->keep_stages ? save_stages(o, learner) : CLI_GO;
  if (code == CLI_GO) code = finish(o, checkpoint, report, mask);
  leank_mask_close(&mask);
  return code == CLI_OK && log_code != CLI_GO ? log_code : code;
}

static int learn(const learn_options *o, const char *path, const leank_model *model,
                 leank_learn_options *options) {
  leank_learner *learner = NULL;
  learn_report report;
  char *checkpoint = o->no_checkpoint ? NULL
                                      : beside(o->checkpoint ? o->checkpoint : o->out,
                                               o->checkpoint ? "" : ".checkpoint");
  char *log = beside(o->log ? o->log : o->out, o->log ? "" : ".log.jsonl");
  const bool resumes = !o->fresh && checkpoint && access(checkpoint, F_OK) == 0;
  int code = learn_report_open(log, o->json, o->quiet, &report);
  if (code == CLI_GO && checkpoint) code = cli_check_regular(checkpoint);
  options->checkpoint = checkpoint;
  options->fresh = o->fresh;
  options->on_event = learn_report_event;
  options->user = &report;
  if (code == CLI_GO) code = open_learner(model, options, &learner);
  if (code == CLI_GO) {
    report.learner = learner;
    learn_report_start(&report, learn_settings_json(options, leank_model_get_info(model)), path,
                       resumes);
    code = run_learner(o, checkpoint, learner, &report);
  } else {
    learn_report_close(&report);
  }
  leank_learner_close(&learner);
  free(checkpoint);
  free(log);
  return code;
}

int cmd_learn(int argc, char **argv) {
  learn_options o = {.settings = learn_settings_default()};
  const char *path[CLI_MAX_POSITIONALS];
  leank_model *model = NULL;
  leank_learn_options options;
  int code = parse(argc, argv, &o, path);
  if (code != CLI_GO) return code;
  /* Checkpoint and log lie beside the mask: not among devices. */
  if (!o.print_config && !o.show_data) code = cli_check_regular(o.out);
  if (code == CLI_GO && !o.print_config && !o.show_data) code = cli_check_place(o.out);
  if (code == CLI_GO) code = cli_open_model(path[0], LEANK_WEIGHTS_MAPPED, o.quiet, &model);
  if (code == CLI_GO)
    code = learn_settings_resolve(&o.settings, leank_model_get_info(model), &options);
  if (code == CLI_GO && o.print_config) {
    cli_json_print_exact(learn_settings_json(&options, leank_model_get_info(model)));
    code = CLI_OK;
  } else if (code == CLI_GO && o.show_data) {
    code = show_data(model, &options.train, o.show_data, o.json);
  } else if (code == CLI_GO) {
    code = learn(&o, path[0], model, &options);
  }
  leank_model_close(&model);
  return code;
}
