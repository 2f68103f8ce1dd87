/* The description of a GGUF. Keys: ggml project, docs/gguf.md. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "formats/printable.h"
#include "model/model_loader.h"

enum { MAX_KEY = 128 };

typedef struct reader {
  const lk_gguf *gguf;
  const char *path, *arch;
  leank_error *err;
} reader;

static void make_key(char key[MAX_KEY], const reader *r, const char *suffix) {
  snprintf(key, MAX_KEY, "%s.%s", r->arch, suffix);
}

/* A whole number; *out stays where the key is absent and not required. */
static leank_status read_size(const reader *r, const char *suffix, bool required, size_t *out) {
  leank_status status = LEANK_OK;
  char key[MAX_KEY];
  uint64_t value;
  size_t n;
  make_key(key, r, suffix);
  if (!lk_gguf_has(r->gguf, key)) {
    LK_FAIL_IF(required, r->err, LEANK_E_FORMAT, -1, "%s: %s is missing", r->path, key);
    return LEANK_OK;
  }
  LK_FAIL_IF(lk_gguf_array_count(r->gguf, key, &n), r->err, LEANK_E_UNSUPPORTED, -1,
             "%s: %s differs by layer, which is not supported", r->path, key);
  LK_FAIL_IF(!lk_gguf_u64(r->gguf, key, &value), r->err, LEANK_E_FORMAT, -1,
             "%s: %s is not a whole number", r->path, key);
  *out = (size_t)value;
cleanup:
  return status;
}

static leank_status read_number(const reader *r, const char *suffix, double *out) {
  leank_status status = LEANK_OK;
  char key[MAX_KEY];
  make_key(key, r, suffix);
  if (!lk_gguf_has(r->gguf, key)) return LEANK_OK;
  LK_FAIL_IF(!lk_gguf_f64(r->gguf, key, out), r->err, LEANK_E_FORMAT, -1, "%s: %s is not a number",
             r->path, key);
cleanup:
  return status;
}

static leank_status read_architecture(reader *r, leank_model_info *info) {
  leank_status status = LEANK_OK;
  const char *arch, *name;
  size_t n_bytes;
  LK_FAIL_IF(!lk_gguf_str(r->gguf, "general.architecture", &arch, &n_bytes), r->err, LEANK_E_FORMAT,
             -1, "%s: general.architecture is missing", r->path);
  lk_model_copy_name(info->architecture, sizeof info->architecture, arch, n_bytes);
  r->arch = info->architecture;
  const bool llama = strcmp(r->arch, "llama") == 0;
  LK_FAIL_IF(!llama && strcmp(r->arch, "qwen2") != 0, r->err, LEANK_E_UNSUPPORTED, -1,
             "%s: architecture %s is not supported (llama and qwen2 are)", r->path,
             lk_printable(arch, n_bytes).text);
  info->order = llama ? LEANK_ORDER_PAIRS : LEANK_ORDER_HALF;
  if (lk_gguf_str(r->gguf, "general.name", &name, &n_bytes))
    lk_model_copy_name(info->name, sizeof info->name, name, n_bytes);
cleanup:
  return status;
}

/* Things other models of these two names compute and this library does not. */
static leank_status refuse_extras(const reader *r, const leank_model_info *info) {
  static const char *const off_at_zero[] = {"expert_count",
                                            "attention.clamp_kqv",
                                            "attention.scale",
                                            "logit_scale",
                                            "residual_scale",
                                            "embedding_scale",
                                            "attention.max_alibi_bias",
                                            "final_logit_softcapping",
                                            "attn_logit_softcapping"};
  leank_status status = LEANK_OK;
  double value;
  bool causal;
  uint64_t n_files;
  char key[MAX_KEY];
  size_t window = 0;
  for (size_t i = 0; i < sizeof off_at_zero / sizeof *off_at_zero; i++) {
    make_key(key, r, off_at_zero[i]);
    LK_FAIL_IF(lk_gguf_f64(r->gguf, key, &value) && !(value == 0), r->err, LEANK_E_UNSUPPORTED, -1,
               "%s: %s = %g is not supported", r->path, key, value);
  }
  make_key(key, r, "attention.causal");
  LK_FAIL_IF(lk_gguf_bool(r->gguf, key, &causal) && !causal, r->err, LEANK_E_UNSUPPORTED, -1,
             "%s: attention that is not causal is not supported", r->path);
  LK_FAIL_IF(lk_gguf_u64(r->gguf, "split.count", &n_files) && n_files > 1, r->err,
             LEANK_E_UNSUPPORTED, -1, "%s: one of %llu parts; join them first", r->path,
             (unsigned long long)n_files);
  LK_TRY(read_size(r, "attention.sliding_window", false, &window));
  LK_FAIL_IF(window > 0 && window < info->n_ctx_train, r->err, LEANK_E_UNSUPPORTED, -1,
             "%s: a sliding window of %zu tokens is not supported", r->path, window);
cleanup:
  return status;
}

static leank_status read_head_dim(const reader *r, leank_model_info *info) {
  leank_status status = LEANK_OK;
  size_t value_dim = 0, rotary = 0;
  LK_TRY(read_size(r, "attention.key_length", false, &info->head_dim));
  LK_FAIL_IF(info->n_heads == 0, r->err, LEANK_E_FORMAT, -1, "%s: no heads", r->path);
  LK_FAIL_IF(info->head_dim == 0 && info->hidden % info->n_heads != 0, r->err, LEANK_E_FORMAT, -1,
             "%s: hidden size %zu is no multiple of %zu heads", r->path, info->hidden,
             info->n_heads);
  if (info->head_dim == 0) info->head_dim = info->hidden / info->n_heads;
  rotary = value_dim = info->head_dim;
  LK_TRY(read_size(r, "attention.value_length", false, &value_dim));
  LK_TRY(read_size(r, "rope.dimension_count", false, &rotary));
  LK_FAIL_IF(value_dim != info->head_dim, r->err, LEANK_E_UNSUPPORTED, -1,
             "%s: values of %zu channels beside keys of %zu are not supported", r->path, value_dim,
             info->head_dim);
  LK_FAIL_IF(rotary != info->head_dim, r->err, LEANK_E_UNSUPPORTED, -1,
             "%s: partial rotary embedding (%zu of %zu channels) is not supported", r->path, rotary,
             info->head_dim);
cleanup:
  return status;
}

static leank_status read_sizes(const reader *r, leank_model_info *info) {
  leank_status status = LEANK_OK;
  const lk_tensor embed = lk_gguf_tensor(r->gguf, "token_embd.weight");
  LK_TRY(read_size(r, "block_count", true, &info->n_layers));
  LK_TRY(read_size(r, "embedding_length", true, &info->hidden));
  LK_TRY(read_size(r, "feed_forward_length", true, &info->ffn));
  LK_TRY(read_size(r, "attention.head_count", true, &info->n_heads));
  info->n_kv_heads = info->n_heads;
  LK_TRY(read_size(r, "attention.head_count_kv", false, &info->n_kv_heads));
  LK_TRY(read_size(r, "context_length", true, &info->n_ctx_train));
  LK_TRY(read_head_dim(r, info));
  LK_FAIL_IF(!embed.data, r->err, LEANK_E_FORMAT, -1, "%s: tensor token_embd.weight is missing",
             r->path);
  info->n_vocab = embed.n_rows;
  LK_TRY(read_size(r, "vocab_size", false, &info->n_vocab)); /* binding compares the rows */
cleanup:
  return status;
}

/* Like ggml: the file's factor multiplies what YaRN prescribes. */
static leank_status read_yarn(const reader *r, leank_model_info *info) {
  leank_status status = LEANK_OK;
  double attn_factor = 1, ext_factor = 1, log_multiplier = 0;
  info->rope_low_freq = 1;
  info->rope_high_freq = 32;
  info->rope_orig_ctx = info->n_ctx_train;
  LK_TRY(read_size(r, "rope.scaling.original_context_length", false, &info->rope_orig_ctx));
  LK_TRY(read_number(r, "rope.scaling.yarn_beta_slow", &info->rope_low_freq));
  LK_TRY(read_number(r, "rope.scaling.yarn_beta_fast", &info->rope_high_freq));
  LK_TRY(read_number(r, "rope.scaling.attn_factor", &attn_factor));
  LK_TRY(read_number(r, "rope.scaling.yarn_attn_factor", &attn_factor));
  LK_TRY(read_number(r, "rope.scaling.yarn_ext_factor", &ext_factor));
  LK_TRY(read_number(r, "rope.scaling.yarn_log_multiplier", &log_multiplier));
  LK_FAIL_IF(ext_factor != 1 || log_multiplier != 0, r->err, LEANK_E_UNSUPPORTED, -1,
             "%s: YaRN with an extension factor %g or log multiplier %g is not supported", r->path,
             ext_factor, log_multiplier);
  LK_FAIL_IF(!(attn_factor > 0), r->err, LEANK_E_FORMAT, -1,
             "%s: RoPE attention factor %g makes no sense", r->path, attn_factor);
  if (attn_factor != 1)
    info->rope_attn_factor =
        attn_factor * (info->rope_factor > 1 ? 0.1 * log(info->rope_factor) + 1 : 1);
cleanup:
  return status;
}

static leank_status read_rope(const reader *r, leank_model_info *info) {
  leank_status status = LEANK_OK;
  char key[MAX_KEY];
  const char *type = "none";
  size_t n_bytes = 0;
  bool named;
  info->rope_theta = 10000;
  info->rope_factor = 1;
  LK_TRY(read_number(r, "rope.freq_base", &info->rope_theta));
  LK_TRY(read_number(r, "rope.scale_linear", &info->rope_factor)); /* the name before scaling.* */
  LK_TRY(read_number(r, "rope.scaling.factor", &info->rope_factor));
  make_key(key, r, "rope.scaling.type");
  named = lk_gguf_str(r->gguf, key, &type, &n_bytes);
  if (!named && info->rope_factor != 1 && info->rope_factor != 0) type = "linear";
  if (strcmp(type, "none") == 0) {
    info->rope_factor = 1;
  } else if (strcmp(type, "linear") == 0) {
    info->rope_scaling = info->rope_factor == 1 ? LEANK_ROPE_PLAIN : LEANK_ROPE_LINEAR;
  } else if (strcmp(type, "yarn") == 0) {
    info->rope_scaling = LEANK_ROPE_YARN;
    LK_TRY(read_yarn(r, info));
  } else {
    LK_FAIL(r->err, LEANK_E_UNSUPPORTED, -1, "%s: RoPE scaling %s is not supported", r->path,
            lk_printable(type, n_bytes).text);
  }
cleanup:
  return status;
}

/* Divisors of the frequencies, which is how a GGUF stores Llama 3's scaling. */
static leank_status read_factors(const reader *r, leank_model_info *info, float **out) {
  leank_status status = LEANK_OK;
  const lk_tensor t = lk_gguf_tensor(r->gguf, "rope_freqs.weight");
  float *factors = NULL;
  if (!t.data) return LEANK_OK;
  LK_FAIL_IF(t.type != LK_F32 || t.n_rows != 1 || t.n_cols != info->head_dim / 2, r->err,
             LEANK_E_FORMAT, -1,
             "%s: tensor rope_freqs.weight is %s %zu x %zu, expected F32 1 x %zu", r->path,
             lk_dtype_name(t.type), t.n_rows, t.n_cols, info->head_dim / 2);
  factors = lk_alloc(LK_MEM_OTHER, t.n_cols, sizeof *factors);
  LK_FAIL_IF(!factors, r->err, LEANK_E_MEMORY, -1, "%s: out of memory", r->path);
  memcpy(factors, t.data, t.n_cols * sizeof *factors);
  for (size_t i = 0; i < t.n_cols; i++)
    LK_FAIL_IF(!(factors[i] >= 1e-6f && factors[i] <= 1e6f), r->err, LEANK_E_FORMAT, -1,
               "%s: rope_freqs.weight[%zu] = %g makes no sense", r->path, i, (double)factors[i]);
  if (info->rope_scaling == LEANK_ROPE_PLAIN) lk_rope_describe_factors(info, factors);
  *out = factors;
  factors = NULL;
cleanup:
  lk_free(factors);
  return status;
}

leank_status lk_model_gguf_open(const char *path, struct lk_model_files *files,
                                leank_model_info *info, float **factors, leank_error *err) {
  leank_status status = LEANK_OK;
  reader r = {.path = path, .err = err};
  LK_TRY(lk_gguf_open(path, &files->gguf, err));
  r.gguf = files->gguf;
  LK_TRY(read_architecture(&r, info));
  LK_TRY(read_sizes(&r, info));
  LK_TRY(refuse_extras(&r, info));
  LK_TRY(read_number(&r, "attention.layer_norm_rms_epsilon", &info->norm_eps));
  LK_TRY(read_rope(&r, info));
  LK_TRY(lk_model_info_check(info, path, err));
  LK_TRY(read_factors(&r, info, factors));
  LK_TRY(lk_model_files_index(files, path, err));
cleanup:
  return status;
}
