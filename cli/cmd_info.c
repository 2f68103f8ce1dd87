#include <stdio.h>

#include "cli_report.h"
#include "info_cpu.h"
#include "info_devices.h"

typedef struct info_options {
  cli_engine_options engine;
  size_t n_ctx, batch; /* n_ctx 0 = the model's */
  bool cpu, devices, json;
} info_options;

static int parse(int argc, char **argv, info_options *o, const char **model) {
  const cli_option rows[] = {
      CLI_MASK_ROW(o->engine),
      {'c', "ctx", CLI_SIZE, &o->n_ctx, "N",
       "tokens of each sequence (what the model was made for)"},
      {'b', "batch", CLI_SIZE, &o->batch, "B", "sequences (1)"},
      CLI_KV_TYPE_ROW(o->engine),
      CLI_CHUNK_ROW(o->engine),
      CLI_SPLIT_ROWS(o->engine, "the mask's", "the mask's"),
      CLI_DEVICE_ROW(o->engine),
      {0, "devices", CLI_FLAG, &o->devices, NULL, "which devices --device may name"},
      {0, "cpu", CLI_FLAG, &o->cpu, NULL, "what this machine offers, and the kernels it runs"},
      {0, "level", CLI_CHOICE, &o->engine.cpu, CLI_CPU_LEVELS,
       "with --cpu: cap on the instruction set (best)"},
      {0, "json", CLI_FLAG, &o->json, NULL, "one JSON object instead of text"},
  };
  const cli_command command = {
      .usage = "leank info [MODEL] [options]",
      .about =
          "Says what a model is and plans the memory of its cache, dense beside LeanK, without\n"
          "loading weights. MODEL is a .gguf file, a Hugging Face folder or a config.json; --cpu\n"
          "and --devices need none.",
      .options = rows,
      .n_options = sizeof rows / sizeof *rows,
      .n_min = 0,
      .n_max = 1,
  };
  int code = cli_parse(&command, argc, argv, model);
  if (code == CLI_GO && !model[0] && !o->cpu && !o->devices) {
    return cli_usage_error("an argument is missing: a MODEL, --cpu or --devices; usage: %s",
                           command.usage);
  }
  if (code != CLI_GO) return code;
  if (o->engine.cpu && !o->cpu) return cli_usage_error("--level needs --cpu");
  if (o->engine.mask && !model[0]) return cli_usage_error("--mask needs a MODEL");
  return model[0] ? cli_engine_check_mask(&o->engine) : CLI_GO;
}

/* ---- text ---- */

static void print_model(const leank_model_info *info) {
  printf("model          ");
  cli_print_text(info->name[0] ? info->name : "(no name)");
  printf(", architecture %s, %s parameters\n", info->architecture, cli_grouped(info->n_params));
  if (info->weight_bytes) {
    printf("weights        %s bytes: ", cli_grouped(info->weight_bytes));
    cli_print_text(info->weight_types);
    printf("; fingerprint %s\n", info->fingerprint);
  }
  printf("sizes          %zu layers, %zu query heads, %zu kv heads, head dim %zu\n", info->n_layers,
         info->n_heads, info->n_kv_heads, info->head_dim);
  printf("               hidden %zu, feed-forward %zu, vocabulary %zu%s%s\n", info->hidden,
         info->ffn, info->n_vocab, info->tied_output ? ", tied output" : "",
         info->qkv_bias ? ", q/k/v bias" : "");
  printf("positions      %zu tokens, RoPE base %g, %s", info->n_ctx_train, info->rope_theta,
         leank_rope_scaling_name(info->rope_scaling));
  if (info->rope_scaling != LEANK_ROPE_PLAIN) {
    printf(" scaling by %g from %zu", info->rope_factor, info->rope_orig_ctx);
  }
  printf(", channel order %s\n", cli_order_name(info->order));
}

static void print_mask(const leank_mask *mask, const leank_plan *lean, size_t n_heads) {
  const leank_mask_info *info = leank_mask_get_info(mask);
  printf("mask           %s", info->method[0] ? "" : "(no method)");
  cli_print_text(info->method);
  printf(": K channels kept %.2f %%, removed %.2f %%; V heads saved %.1f %% (%.0f of %zu)\n",
         100 * lean->k_kept, 100 * (1 - lean->k_kept), 100 * (1 - lean->v_kept),
         (1 - lean->v_kept) * (double)n_heads, n_heads);
  printf("               sink %zu, recent %zu, policy %s%s\n", info->n_sink, info->n_recent,
         cli_policy_name(info->policy), info->mean_compensation ? ", mean compensation" : "");
}

static void row(const char *label, size_t dense, const size_t *lean, bool percent) {
  printf("%-36s %18s", label, cli_grouped(dense));
  if (lean) printf(" %18s", cli_grouped(*lean));
  if (lean && percent) printf(" %7.1f %%", cli_percent(*lean, dense));
  putchar('\n');
}

static void print_plan(const info_options *o, const leank_plan *dense, const leank_plan *lean) {
  const leank_plan zero = {0}, *l = lean ? lean : &zero;
  size_t stored[2] = {dense->wide_stored + dense->lean_stored, l->wide_stored + l->lean_stored};
  size_t reserved[2] = {dense->wide_reserved + dense->lean_reserved,
                        l->wide_reserved + l->lean_reserved};
  printf("\nplan for %zu sequence%s of %zu tokens, %s\n", o->batch, o->batch == 1 ? "" : "s",
         o->n_ctx, cli_kv_type_name(o->engine.kv_type));
  printf("%-36s %18s", "", "dense");
  if (lean) printf(" %18s %9s", "LeanK", "of dense");
  putchar('\n');
#define ROW(label, field, percent) row(label, dense->field, lean ? &l->field : NULL, percent)
  if (lean)
    row("bytes per middle token", dense->bytes_per_wide_token, &l->bytes_per_lean_token, true);
  ROW(lean ? "bytes per sink or recent token" : "bytes per token", bytes_per_wide_token, true);
  if (lean) ROW("sink and recent tokens of a sequence", n_wide_tokens, false);
  if (lean) ROW("middle tokens of a sequence", n_lean_tokens, false);
  ROW("wide pages", n_wide_pages, false);
  if (lean) ROW("lean pages", n_lean_pages, false);
  row("KV bytes stored", stored[0], lean ? &stored[1] : NULL, true);
  row("KV bytes reserved", reserved[0], lean ? &reserved[1] : NULL, true);
  ROW("prefill scratch bytes", prefill_scratch, true);
  ROW("other scratch bytes", other_scratch, true);
  if (dense->weights) ROW("weight bytes", weights, false);
#undef ROW
}

/* ---- JSON ---- */

static json_t *json_ratios(const leank_plan *dense, const leank_plan *lean) {
  json_t *o = json_object();
  double d_stored = (double)dense->dense_stored;
  double d_reserved = (double)(dense->wide_reserved + dense->lean_reserved);
  double stored = (double)(lean->wide_stored + lean->lean_stored);
  double reserved = (double)(lean->wide_reserved + lean->lean_reserved);
  json_object_set_new(o, "stored", json_real(d_stored > 0 ? stored / d_stored : 1));
  json_object_set_new(o, "reserved", json_real(d_reserved > 0 ? reserved / d_reserved : 1));
  json_object_set_new(
      o, "middle_token",
      json_real((double)lean->bytes_per_lean_token / (double)dense->bytes_per_wide_token));
  json_object_set_new(o, "v_heads_saved", json_real(1 - lean->v_kept));
  json_object_set_new(o, "k_channels_removed", json_real(1 - lean->k_kept));
  return o;
}

static json_t *json_info(const info_options *o, const leank_model_info *info,
                         const leank_plan *dense, const leank_plan *lean) {
  json_t *root = json_object();
  json_object_set_new(root, "model", cli_json_model(info));
  json_object_set_new(root, "n_ctx", cli_json_size(o->n_ctx));
  json_object_set_new(root, "batch", cli_json_size(o->batch));
  json_object_set_new(root, "kv_type", json_string(cli_kv_type_name(o->engine.kv_type)));
  json_object_set_new(root, "dense", cli_json_plan(dense));
  if (lean) {
    json_object_set_new(root, "leank", cli_json_plan(lean));
    json_object_set_new(root, "ratio", json_ratios(dense, lean));
  }
  return root;
}

/* ---- the command ---- */

static int report(const info_options *o, const leank_model_info *info, const leank_mask *mask) {
  leank_plan dense, lean;
  leank_cpu_info cpu;
  int code = cli_make_plan(info, NULL, &o->engine, o->n_ctx, o->batch, &dense);
  if (code == CLI_GO && mask) {
    code = cli_make_plan(info, mask, &o->engine, o->n_ctx, o->batch, &lean);
  }
  if (code == CLI_GO && o->cpu) code = info_cpu_describe(&o->engine, &cpu);
  if (code != CLI_GO) return code;
  if (o->json) {
    json_t *root = json_info(o, info, &dense, mask ? &lean : NULL);
    if (o->cpu) json_object_set_new(root, "cpu", info_cpu_json(&cpu));
    if (o->devices) info_devices_json(root);
    cli_json_print(root, false);
  } else {
    print_model(info);
    if (mask) print_mask(mask, &lean, info->n_layers * info->n_kv_heads);
    print_plan(o, &dense, mask ? &lean : NULL);
    if (o->cpu || o->devices) putchar('\n');
    if (o->devices) info_devices_print();
    if (o->cpu) info_cpu_print(&cpu);
  }
  return CLI_OK;
}

static int report_machine(const info_options *o) {
  leank_cpu_info cpu;
  int code = o->cpu ? info_cpu_describe(&o->engine, &cpu) : CLI_GO;
  if (code != CLI_GO) return code;
  if (o->json) {
    json_t *root = json_object();
    if (o->cpu) json_object_set_new(root, "cpu", info_cpu_json(&cpu));
    if (o->devices) info_devices_json(root);
    cli_json_print(root, false);
  } else {
    if (o->devices) info_devices_print();
    if (o->cpu) info_cpu_print(&cpu);
  }
  return CLI_OK;
}

int cmd_info(int argc, char **argv) {
  info_options o = {.batch = 1};
  const char *model[CLI_MAX_POSITIONALS];
  leank_model_info info;
  leank_mask *mask = NULL;
  leank_error err;
  cli_engine_options_default(&o.engine);
  int code = parse(argc, argv, &o, model);
  if (code != CLI_GO) return code;
  if (!model[0]) return report_machine(&o);
  if (leank_model_read_info(model[0], &info, &err) != LEANK_OK) return cli_fail(&err);
  if (o.n_ctx == 0) o.n_ctx = info.n_ctx_train;
  cli_warn_context(&info, o.n_ctx);
  if (o.engine.mask && leank_mask_open(o.engine.mask, &mask, &err) != LEANK_OK) {
    return cli_fail(&err);
  }
  if (mask) code = cli_check_mask(mask, o.engine.mask, &info);
  if (code == CLI_GO) code = report(&o, &info, mask);
  leank_mask_close(&mask);
  return code;
}
