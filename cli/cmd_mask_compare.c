/* leank mask compare: masks against the dense cache, on prompts with answers. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli_console.h"
#include "cli_engine.h"
#include "cli_report.h"
#include "learn_settings.h"

typedef struct compare_options {
  data_settings data;
  size_t n_sink, n_recent, n_threads, prefill_chunk;
  int kv_type, cpu;
  const char *cache_folder, *device;
  leank_device place; /* of `device` */
  int place_index;
  bool json;
} compare_options;

static int parse(int argc, char **argv, compare_options *o, const char **paths) {
  const cli_option rows[] = {
      DATA_ROWS(o->data, "16"),
      {0, "seed", CLI_SEED, &o->data.seed, "N", "of the data (2000001)"},
      CLI_SPLIT_ROWS(*o, "each mask's", "each mask's"),
      {0, "cache", CLI_PLACE, &o->cache_folder, "FOLDER",
       "keep the K and V of contexts there, for this and later runs"},
      {0, "kv-type", CLI_CHOICE, &o->kv_type, "bf16|f32", "type of K and V (bf16)"},
      CLI_CHUNK_ROW(*o),
      CLI_DEVICE_ROW(*o),
      CLI_THREADS_ROWS(*o),
      {0, "json", CLI_FLAG, &o->json, NULL, "one JSON object instead of a table"},
  };
  const cli_command command = {
      .usage = "leank mask compare MODEL MASK [MASK ...] [options]",
      .about =
          "Measures what masks change: the same prompts, read once, dense; then their answers,\n"
          "teacher-forced, every row as decoding would see it, dense and under each mask.",
      .details =
          "KL            KL(dense || mask) of the next-token distributions of answer rows, nats\n"
          "hidden error  |H dense - H mask|^2 / |H dense|^2 of the last hidden states\n"
          "top-1         answer rows whose likeliest token is the dense one\n"
          "accuracy      prompts whose answer greedy decoding gives, token for token\n"
          "Numbers behind +- are standard errors over prompts; the change of accuracy is paired.\n"
          "Tasks: uuid, words, values, passkeys, or your own with --examples.",
      .options = rows,
      .n_options = sizeof rows / sizeof *rows,
      .n_min = 2,
      .n_max = CLI_MAX_POSITIONALS,
  };
  int code = cli_parse(&command, argc, argv, paths);
  return code == CLI_GO ? cli_device_named(o->device, &o->place, &o->place_index) : code;
}

static void print_table(const char *const *paths, size_t n, const leank_mask_report *r) {
  size_t width = 4;
  for (size_t i = 0; i < n; i++) {
    size_t length = strlen(cli_base_name(paths[i]));
    if (length > width) width = length;
  }
  printf("%zu prompts, %zu answer rows; dense accuracy %.1f +- %.1f %%\n\n", r[0].n_prompts,
         r[0].n_rows, 100 * r[0].dense_accuracy, 100 * r[0].dense_accuracy_se);
  printf("%-*s  %6s  %6s  %19s  %8s  %19s  %6s  %13s  %13s\n", (int)width, "mask", "K kept",
         "V kept", "KL", "KL p99", "hidden error", "top-1", "accuracy", "change");
  for (size_t i = 0; i < n; i++) {
    printf("%-*s  %5.1f%%  %5.1f%%  %8.5f +-%8.5f  %8.4f  %8.5f +-%8.5f  %5.1f%%  %5.1f +-%4.1f%%  "
           "%+5.1f +-%4.1f%%\n",
           (int)width, cli_base_name(paths[i]), 100 * r[i].k_kept, 100 * r[i].v_kept, r[i].kl_mean,
           r[i].kl_se, r[i].kl_p99, r[i].hidden_error, r[i].hidden_se, 100 * r[i].top1,
           100 * r[i].accuracy, 100 * r[i].accuracy_se, 100 * r[i].accuracy_change,
           100 * r[i].accuracy_change_se);
  }
}

static json_t *report_json(const char *path, const leank_mask_report *r) {
  json_t *j = json_object();
  json_object_set_new(j, "mask", cli_json_text(path));
  json_object_set_new(j, "k_kept", json_real(r->k_kept));
  json_object_set_new(j, "v_kept", json_real(r->v_kept));
  json_object_set_new(j, "kl_mean", json_real(r->kl_mean));
  json_object_set_new(j, "kl_se", json_real(r->kl_se));
  json_object_set_new(j, "kl_p99", json_real(r->kl_p99));
  json_object_set_new(j, "hidden_error", json_real(r->hidden_error));
  json_object_set_new(j, "hidden_se", json_real(r->hidden_se));
  json_object_set_new(j, "top1", json_real(r->top1));
  json_object_set_new(j, "accuracy", json_real(r->accuracy));
  json_object_set_new(j, "accuracy_se", json_real(r->accuracy_se));
  json_object_set_new(j, "accuracy_change", json_real(r->accuracy_change));
  json_object_set_new(j, "accuracy_change_se", json_real(r->accuracy_change_se));
  return j;
}

static void print_json(const char *const *paths, size_t n, const leank_mask_report *r) {
  json_t *j = json_object(), *list = json_array();
  json_object_set_new(j, "n_prompts", cli_json_size(r[0].n_prompts));
  json_object_set_new(j, "n_rows", cli_json_size(r[0].n_rows));
  json_object_set_new(j, "dense_accuracy", json_real(r[0].dense_accuracy));
  json_object_set_new(j, "dense_accuracy_se", json_real(r[0].dense_accuracy_se));
  for (size_t i = 0; i < n; i++) json_array_append_new(list, report_json(paths[i], &r[i]));
  json_object_set_new(j, "masks", list);
  cli_json_print(j, false);
}

static int compare(const compare_options *o, const leank_model *model, const leank_dataset *dataset,
                   const leank_mask *const *masks, const char *const *paths, size_t n) {
  leank_compare_options options;
  leank_error err;
  cli_progress progress;
  leank_mask_report *reports = cli_alloc(n, sizeof *reports);
  leank_compare_options_default(&options);
  options.n_sink = o->n_sink;
  options.n_recent = o->n_recent;
  options.device = o->place;
  options.device_index = o->place_index;
  options.n_threads = o->n_threads;
  options.cpu = cli_cpu_level(o->cpu);
  options.kv_type = (leank_kv_type)o->kv_type;
  options.prefill_chunk = o->prefill_chunk;
  options.cache_folder = o->cache_folder;
  options.on_progress = cli_progress_update;
  options.should_stop = cli_should_stop;
  options.user = &progress;
  cli_progress_begin(&progress, "comparing");
  cli_interrupt_arm(NULL);
  leank_status status = leank_masks_compare(model, dataset, masks, n, &options, reports, &err);
  cli_interrupt_disarm();
  cli_progress_end(&progress);
  int code = CLI_OK;
  if (status == LEANK_E_INTERRUPTED) {
    cli_complain("interrupted");
    code = CLI_INTERRUPTED;
  } else if (status != LEANK_OK) {
    code = cli_fail(&err);
  } else if (o->json) {
    print_json(paths, n, reports);
  } else {
    print_table(paths, n, reports);
  }
  free(reports);
  return code;
}

static int open_masks(const char *const *paths, size_t n, const leank_model_info *info,
                      leank_mask **masks) {
  leank_error err;
  for (size_t i = 0; i < n; i++) {
    if (leank_mask_open(paths[i], &masks[i], &err) != LEANK_OK) return cli_fail(&err);
    int code = cli_check_mask(masks[i], paths[i], info);
    if (code != CLI_GO) return code;
  }
  return CLI_GO;
}

int cmd_mask_compare(int argc, char **argv) {
  compare_options o = {.data = data_settings_default(), .n_sink = SIZE_MAX, .n_recent = SIZE_MAX};
  const char *paths[CLI_MAX_POSITIONALS] = {NULL};
  leank_mask *masks[CLI_MAX_POSITIONALS] = {NULL};
  leank_dataset_options data;
  leank_dataset *dataset = NULL;
  leank_model *model = NULL;
  leank_error err;
  size_t n = 0;
  int code = parse(argc, argv, &o, paths);
  if (code != CLI_GO) return code;
  while (n + 1 < CLI_MAX_POSITIONALS && paths[n + 1]) n++;
  leank_dataset_options_default(&data);
  data.n_contexts = 16;
  data.seed = 2000001;
  code = data_settings_apply(&o.data, &data);
  if (code == CLI_GO) code = data_settings_check(&o.data, data.tasks);
  if (code == CLI_GO) code = cli_open_model(paths[0], LEANK_WEIGHTS_MAPPED, false, &model);
  if (code == CLI_GO) code = open_masks(paths + 1, n, leank_model_get_info(model), masks);
  if (code == CLI_GO && leank_dataset_make(model, &data, &dataset, &err) != LEANK_OK)
    code = cli_fail(&err);
  if (code == CLI_GO) {
    code = compare(&o, model, dataset, (const leank_mask *const *)masks, paths + 1, n);
  }
  for (size_t i = 0; i < n; i++) leank_mask_close(&masks[i]);
  leank_dataset_close(&dataset);
  leank_model_close(&model);
  return code;
}
