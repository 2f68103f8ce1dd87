#include "cli_engine.h"

#include <stdlib.h>
#include <string.h>

#include <leank/device.h>

#include "cli_console.h"

leank_cpu_level cli_cpu_level(int choice) {
  static const leank_cpu_level levels[] = {
      LEANK_CPU_BEST, LEANK_CPU_C,    LEANK_CPU_AVX2,    LEANK_CPU_AVX512,  LEANK_CPU_AVX512BF16,
      LEANK_CPU_AMX,  LEANK_CPU_NEON, LEANK_CPU_NEONDOT, LEANK_CPU_NEONBF16};
  return levels[choice];
}

int cli_device(const cli_engine_options *options, leank_device *device, int *index) {
  return cli_device_named(options->device, device, index);
}

int cli_device_named(const char *text, leank_device *device, int *index) {
  char *end = NULL;
  if (!text) text = "cpu";
  *device = strncmp(text, "cuda", 4) == 0 ? LEANK_DEVICE_CUDA : LEANK_DEVICE_CPU;
  *index = 0;
  if (strcmp(text, "cpu") == 0 || strcmp(text, "cuda") == 0) return CLI_GO;
  if (strncmp(text, "cuda:", 5) == 0 && text[5] >= '0' && text[5] <= '9') {
    const unsigned long n = strtoul(text + 5, &end, 10);
    *index = (int)n;
    if (*end == '\0' && n < 1024) return CLI_GO;
  }
  return cli_usage_error("--device is cpu, cuda or cuda:N, not '%s'", text);
}

/* Complains where it is a CUDA device and there is none; CLI_GO else. */
static int check_device(const cli_engine_options *options) {
  leank_device device;
  leank_error err;
  int index;
  size_t n;
  int code = cli_device(options, &device, &index);
  if (code != CLI_GO || device == LEANK_DEVICE_CPU) return code;
  if (leank_cuda_devices(NULL, 0, &n, &err) != LEANK_OK) return cli_fail(&err);
  if ((size_t)index < n) return CLI_GO;
  return cli_complain("no CUDA device %d: there %s %zu, from 0 on", index, n == 1 ? "is" : "are",
                      n);
}

void cli_engine_options_default(cli_engine_options *options) {
  leank_session_options session;
  leank_session_options_default(&session);
  *options = (cli_engine_options){
      .prefill_chunk = session.prefill_chunk,
      .n_sink = SIZE_MAX,
      .n_recent = SIZE_MAX,
      .policy = -1,
      .mean_compensation = -1,
      .n_seqs = 1,
      .seed = 1,
  };
}

int cli_engine_check_mask(const cli_engine_options *options) {
  const char *name = options->n_sink != SIZE_MAX       ? "n-sink"
                     : options->n_recent != SIZE_MAX   ? "n-recent"
                     : options->policy >= 0            ? "policy"
                     : options->mean_compensation >= 0 ? "mean-comp"
                                                       : NULL;
  if (!name || options->mask) return CLI_GO;
  return cli_usage_error("--%s needs --mask: a dense cache is whole", name);
}

int cli_check_mask(const leank_mask *mask, const char *path, const leank_model_info *info) {
  leank_error err;
  bool same_weights = true;
  if (leank_mask_check(mask, info, &same_weights, &err) != LEANK_OK) {
    return cli_complain("%s: %s", path, err.message);
  }
  if (!same_weights) {
    cli_warn("%s: made for a model with other weights (fingerprint %s, this model %s)", path,
             leank_mask_get_info(mask)->fingerprint, info->fingerprint);
  }
  return CLI_GO;
}

void cli_warn_context(const leank_model_info *info, size_t n_tokens) {
  if (info->n_ctx_train && n_tokens > info->n_ctx_train)
    cli_warn("a context of %zu tokens is longer than the model was made for (%zu)", n_tokens,
             info->n_ctx_train);
}

int cli_open_model(const char *path, int weights, bool quiet, leank_model **out) {
  leank_model_options options;
  leank_error err;
  cli_progress progress = {0};
  leank_model_options_default(&options);
  options.weights = (leank_weights_place)weights;
  if (!quiet) {
    cli_progress_begin(&progress, "loading");
    options.on_progress = cli_progress_update;
    options.user = &progress;
  }
  leank_status status = leank_model_open(path, &options, out, &err);
  if (!quiet) cli_progress_end(&progress);
  return status == LEANK_OK ? CLI_GO : cli_fail(&err);
}

static bool is_config(const char *path) {
  const size_t n = strlen(path);
  return n >= 5 && strcmp(path + n - 5, ".json") == 0;
}

/* Random weights, made where they are needed. */
static int open_synthetic(const char *path, const cli_engine *engine, leank_model **out) {
  leank_synthetic_options options;
  leank_error err;
  cli_progress progress;
  leank_synthetic_options_default(&options);
  options.seed = engine->options.seed;
  options.on_cuda = engine->device == LEANK_DEVICE_CUDA;
  cli_progress_begin(&progress, "making weights");
  options.on_progress = cli_progress_update;
  options.user = &progress;
  leank_status status = leank_model_open_synthetic(path, &options, out, &err);
  cli_progress_end(&progress);
  return status == LEANK_OK ? CLI_GO : cli_fail(&err);
}

int cli_engine_open(const char *model_path, const cli_engine_options *options, cli_engine *out) {
  leank_error err;
  *out = (cli_engine){.options = *options};
  int code = cli_engine_check_mask(options);
  if (code == CLI_GO) code = check_device(options);
  if (code == CLI_GO) code = cli_device(options, &out->device, &out->device_index);
  if (code != CLI_GO) return code;
  /* The mask first: it is small, and a wrong path is known at once. */
  if (options->mask && leank_mask_open(options->mask, &out->mask, &err) != LEANK_OK) {
    return cli_fail(&err);
  }
  out->synthetic = options->takes_config && is_config(model_path);
  code = out->synthetic ? open_synthetic(model_path, out, &out->model)
                        : cli_open_model(model_path, options->weights, false, &out->model);
  if (code != CLI_GO) return code;
  out->info = leank_model_get_info(out->model);
  out->tokenizer = leank_model_get_tokenizer(out->model);
  return out->mask ? cli_check_mask(out->mask, options->mask, out->info) : CLI_GO;
}

void cli_engine_close(cli_engine *engine) {
  leank_mask_close(&engine->mask);
  leank_model_close(&engine->model);
}

const char *cli_engine_title(const cli_engine *engine, const char *path) {
  return engine->info->name[0] ? engine->info->name : cli_base_name(path);
}

void cli_engine_session_options(const cli_engine *engine, leank_session_options *out) {
  const cli_engine_options *own = &engine->options;
  out->kv_type = (leank_kv_type)own->kv_type;
  out->n_threads = own->n_threads;
  out->cpu = cli_cpu_level(own->cpu);
  out->prefill_chunk = own->prefill_chunk;
  out->device = engine->device;
  out->device_index = engine->device_index;
}

leank_status cli_engine_try_session(const cli_engine *engine, bool masked, size_t n_ctx,
                                    leank_session **out, leank_error *err) {
  const cli_engine_options *own = &engine->options;
  leank_session_options options;
  leank_session_options_default(&options);
  cli_engine_session_options(engine, &options);
  options.n_ctx = n_ctx;
  options.n_seqs = own->n_seqs;
  if (masked) {
    options.mask = engine->mask;
    options.n_sink = own->n_sink;
    options.n_recent = own->n_recent;
    options.policy = own->policy;
    options.mean_compensation = own->mean_compensation;
  }
  return leank_session_open(engine->model, &options, out, err);
}

int cli_engine_session(const cli_engine *engine, bool masked, size_t n_ctx, leank_session **out) {
  leank_error err;
  const leank_status status = cli_engine_try_session(engine, masked, n_ctx, out, &err);
  return status == LEANK_OK ? CLI_GO : cli_fail(&err);
}

int cli_engine_keep_weights(const cli_engine *engine, leank_session **out) {
  if (engine->device == LEANK_DEVICE_CPU) return CLI_GO;
  return cli_engine_session(engine, false, LEANK_PAGE_TOKENS, out);
}

int cli_make_plan(const leank_model_info *info, const leank_mask *mask,
                  const cli_engine_options *options, size_t n_tokens, size_t n_seqs,
                  leank_plan *out) {
  leank_plan_options plan;
  leank_error err;
  leank_plan_options_default(&plan);
  plan.n_ctx = n_tokens;
  plan.n_seqs = n_seqs;
  plan.kv_type = (leank_kv_type)options->kv_type;
  plan.prefill_chunk = options->prefill_chunk;
  int index, code = cli_device(options, &plan.device, &index);
  if (code != CLI_GO) return code;
  if (mask) {
    plan.n_sink = options->n_sink;
    plan.n_recent = options->n_recent;
  }
  if (leank_plan_make(info, mask, &plan, out, &err) != LEANK_OK) return cli_fail(&err);
  return CLI_GO;
}
