/* A model, perhaps a mask, and the options with which sessions over them are opened. */
#ifndef LEANK_CLI_ENGINE_H
#define LEANK_CLI_ENGINE_H

#include <leank/leank.h>

#include "cli_options.h"

typedef struct cli_engine_options {
  const char *mask; /* path, or NULL: dense */
  size_t n_threads; /* 0 = the library's choice */
  size_t prefill_chunk, n_sink, n_recent;
  int cpu; /* of CLI_CPU_LEVELS */
  int kv_type;
  int policy, mean_compensation; /* -1 = the mask's */
  int weights;                   /* leank_weights_place */
  size_t n_seqs;                 /* sequences of a session (1) */
  const char *device;            /* "cpu", "cuda" or "cuda:N"; NULL = cpu */
  bool takes_config;             /* a model may be a bare config.json: its weights are made up */
  uint64_t seed;                 /* of such weights (1) */
} cli_engine_options;

/* Names of the levels, of every architecture: the library refuses those of another one. And the
 * level of a choice among them. */
#define CLI_CPU_LEVELS "best|c|avx2|avx512|avx512bf16|amx|neon|neondot|neonbf16"
leank_cpu_level cli_cpu_level(int choice);

/* The options' device. CLI_GO, or CLI_USAGE with a complaint where it is not one. */
int cli_device(const cli_engine_options *options, leank_device *device, int *index);
/* The same of a text as `device` of the options has it. */
int cli_device_named(const char *text, leank_device *device, int *index);

void cli_engine_options_default(cli_engine_options *options);

/* Complains where an option is given that says something of a mask, and no mask is: CLI_USAGE, else
 * CLI_GO. */
int cli_engine_check_mask(const cli_engine_options *options);

/* Rows for a command's table; e is a cli_engine_options, or a struct with members of these names. A
 * row that commands have different defaults for takes their words as arguments. */
#define CLI_MASK_ROW(e)                                                                            \
  { 'm', "mask", CLI_TEXT, &(e).mask, "FILE", "mask file (.safetensors or .pth)" }
#define CLI_SPLIT_ROWS(e, sink, recent)                                                            \
  {0, "n-sink", CLI_SIZE, &(e).n_sink, "N", "first tokens kept in full (" sink ")"}, {             \
    0, "n-recent", CLI_SIZE, &(e).n_recent, "N", "last tokens kept in full (" recent ")"           \
  }
#define CLI_MEANS_ROWS(e, policy_word, mean_word)                                                  \
  {                                                                                                \
      0,           "policy",    CLI_CHOICE,                                                        \
      &(e).policy, "drop|mean", "heads that keep nothing (" policy_word ")"},                      \
  {                                                                                                \
    0, "mean-comp", CLI_CHOICE, &(e).mean_compensation, "off|on",                                  \
        "the mean stands in for pruned channels (" mean_word ")"                                   \
  }
#define CLI_CHUNK_ROW(e)                                                                           \
  {                                                                                                \
    0, "prefill-chunk", CLI_SIZE, &(e).prefill_chunk, "N",                                         \
        "rows of a prompt computed together (2048)"                                                \
  }
#define CLI_WEIGHTS_ROW(e)                                                                         \
  {                                                                                                \
    0, "weights", CLI_CHOICE, &(e).weights, "auto|mapped|memory",                                  \
        "read through the file, or from a copy in huge pages (auto)"                               \
  }
#define CLI_KV_TYPE_ROW(e)                                                                         \
  {                                                                                                \
    0, "kv-type", CLI_CHOICE, &(e).kv_type, "bf16|f32|q8|f16",                                     \
        "type of the cache (bf16); q8: the pruned middle in int8"                                  \
  }
#define CLI_THREADS_ROWS(e)                                                                        \
  {0, "threads", CLI_SIZE, &(e).n_threads, "N", "threads (all processors)"}, {                     \
    0, "cpu", CLI_CHOICE, &(e).cpu, CLI_CPU_LEVELS, "cap on the instruction set (best)"            \
  }
#define CLI_DEVICE_ROW(e)                                                                          \
  { 0, "device", CLI_TEXT, &(e).device, "DEVICE", "cpu, cuda or cuda:N (cpu)" }
#define CLI_SEED_ROW(e)                                                                            \
  { 0, "seed", CLI_SEED, &(e).seed, "N", "of the weights where MODEL is a config.json (1)" }
#define CLI_ENGINE_ROWS(e)                                                                         \
  CLI_MASK_ROW(e), CLI_SPLIT_ROWS(e, "the mask's", "the mask's"), CLI_KV_TYPE_ROW(e),              \
      CLI_MEANS_ROWS(e, "the mask's", "the mask's"), CLI_CHUNK_ROW(e), CLI_WEIGHTS_ROW(e),         \
      CLI_DEVICE_ROW(e), CLI_THREADS_ROWS(e)

typedef struct cli_engine {
  leank_model *model;
  const leank_model_info *info;
  const leank_tokenizer *tokenizer; /* NULL where the model came without one */
  leank_mask *mask;                 /* NULL: dense */
  cli_engine_options options;
  leank_device device;
  int device_index;
  bool synthetic; /* random weights */
} cli_engine;

/* Opens a model, with a progress bar unless quiet. CLI_GO, or complains and
 * returns cli_fail's code. */
int cli_open_model(const char *path, int weights, bool quiet, leank_model **out);
/* Opens both and checks that they fit, and that the device is there; warns where the mask was made
 * for other weights. Complains and returns CLI_FAILURE or CLI_USAGE, else CLI_GO. cli_engine_close
 * is due in either case. */
int cli_engine_open(const char *model_path, const cli_engine_options *options, cli_engine *out);
void cli_engine_close(cli_engine *engine);

/* What a model is called: by itself, else its path's last part. */
const char *cli_engine_title(const cli_engine *engine, const char *path);
/* L * Hk * D: channels of K that a mask decides about. */
static inline size_t cli_n_channels(const leank_model_info *info) {
  return info->n_layers * info->n_kv_heads * info->head_dim;
}

/* Writes what the options and the device say over session options: type of the cache, threads,
 * instruction set, chunk, device. */
void cli_engine_session_options(const cli_engine *engine, leank_session_options *out);
/* A session of one sequence with room for n_ctx tokens; masked as said (masked needs a mask).
 * CLI_GO, or complains and returns cli_fail's code. */
int cli_engine_session(const cli_engine *engine, bool masked, size_t n_ctx, leank_session **out);

/* The same without a complaint. */
leank_status cli_engine_try_session(const cli_engine *engine, bool masked, size_t n_ctx,
                                    leank_session **out, leank_error *err);

/* Weights stay on a device as long as a session of the model is open: where there is a device,
 * opens one that is small, to span many others, so that they are not loaded for each; else *out is
 * left. CLI_GO, or complains and returns cli_fail's code. */
int cli_engine_keep_weights(const cli_engine *engine, leank_session **out);

/* The memory plan of n_seqs sequences of n_tokens, dense or masked as cli_engine_session does. */
int cli_make_plan(const leank_model_info *info, const leank_mask *mask,
                  const cli_engine_options *options, size_t n_tokens, size_t n_seqs,
                  leank_plan *out);

/* Checks that the mask (read from path) fits the model and warns where it was made for other
 * weights. */
int cli_check_mask(const leank_mask *mask, const char *path, const leank_model_info *info);

/* Warns where so many tokens are more than the model was made for. */
void cli_warn_context(const leank_model_info *info, size_t n_tokens);

#endif
