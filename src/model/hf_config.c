/* config.json of a Hugging Face model. */
#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/map.h"
#include "formats/json_text.h"
#include "formats/printable.h"
#include "model/model_loader.h"

enum { MAX_CONFIG_BYTES = 4 << 20 };

typedef struct reader {
  const char *path;
  leank_error *err;
} reader;

/* A string for a message. */
static lk_printable_text show(const char *text) {
  return text ? lk_printable(text, strlen(text)) : lk_printable("(none)", 6);
}

/* json null counts as absent. */
static const json_t *get(const json_t *object, const char *key) {
  const json_t *value = json_object_get(object, key);
  return json_is_null(value) ? NULL : value;
}

static leank_status read_size(const reader *r, const json_t *object, const char *key, bool required,
                              size_t *out) {
  leank_status status = LEANK_OK;
  const json_t *value = get(object, key);
  LK_FAIL_IF(!value && required, r->err, LEANK_E_FORMAT, -1, "%s: %s is missing", r->path, key);
  if (!value) return LEANK_OK;
  LK_FAIL_IF(!json_is_integer(value) || json_integer_value(value) < 0, r->err, LEANK_E_FORMAT, -1,
             "%s: %s is not a whole number", r->path, key);
  *out = (size_t)json_integer_value(value);
cleanup:
  return status;
}

static leank_status read_number(const reader *r, const json_t *object, const char *key,
                                bool required, double *out) {
  leank_status status = LEANK_OK;
  const json_t *value = get(object, key);
  LK_FAIL_IF(!value && required, r->err, LEANK_E_FORMAT, -1, "%s: %s is missing", r->path, key);
  if (!value) return LEANK_OK;
  LK_FAIL_IF(!json_is_number(value), r->err, LEANK_E_FORMAT, -1, "%s: %s is not a number", r->path,
             key);
  *out = json_number_value(value);
cleanup:
  return status;
}

static leank_status read_bool(const reader *r, const json_t *object, const char *key, bool *out) {
  leank_status status = LEANK_OK;
  const json_t *value = get(object, key);
  if (!value) return LEANK_OK;
  LK_FAIL_IF(!json_is_boolean(value), r->err, LEANK_E_FORMAT, -1, "%s: %s is not true or false",
             r->path, key);
  *out = json_is_true(value);
cleanup:
  return status;
}

static leank_status read_architecture(const reader *r, const json_t *config,
                                      leank_model_info *info) {
  leank_status status = LEANK_OK;
  const json_t *list = get(config, "architectures");
  const char *name = json_string_value(json_array_get(list, 0));
  const char *type = json_string_value(get(config, "model_type"));
  const char *shown = name ? name : type ? type : "";
  const char *arch = NULL;
  if (strcmp(shown, "LlamaForCausalLM") == 0 || (!name && strcmp(shown, "llama") == 0))
    arch = "llama";
  if (strcmp(shown, "Qwen2ForCausalLM") == 0 || (!name && strcmp(shown, "qwen2") == 0))
    arch = "qwen2";
  LK_FAIL_IF(!arch, r->err, LEANK_E_UNSUPPORTED, -1,
             "%s: architecture %s is not supported (LlamaForCausalLM and Qwen2ForCausalLM are)",
             r->path, show(shown).text);
  lk_model_copy_name(info->architecture, sizeof info->architecture, arch, strlen(arch));
  info->order = LEANK_ORDER_HALF;
  name = json_string_value(get(config, "_name_or_path"));
  if (name) lk_model_copy_name(info->name, sizeof info->name, name, strlen(name));
cleanup:
  return status;
}

static leank_status refuse_layer_types(const reader *r, const json_t *config) {
  leank_status status = LEANK_OK;
  const json_t *list = get(config, "layer_types"), *item;
  size_t i;
  json_array_foreach(list, i, item) {
    const char *type = json_string_value(item);
    LK_FAIL_IF(!type || strcmp(type, "full_attention") != 0, r->err, LEANK_E_UNSUPPORTED, -1,
               "%s: layer type %s is not supported", r->path, show(type).text);
  }
cleanup:
  return status;
}

static leank_status refuse_extras(const reader *r, const json_t *config) {
  leank_status status = LEANK_OK;
  const json_t *act = get(config, "hidden_act");
  const char *act_name = act ? json_string_value(act) : "silu";
  bool sliding = false, mlp_bias = false;
  double rotary = 1;
  LK_FAIL_IF(!act_name || strcmp(act_name, "silu") != 0, r->err, LEANK_E_UNSUPPORTED, -1,
             "%s: hidden_act %s is not supported", r->path, show(act_name).text);
  LK_TRY(read_bool(r, config, "use_sliding_window", &sliding));
  LK_FAIL_IF(sliding, r->err, LEANK_E_UNSUPPORTED, -1,
             "%s: a sliding window (use_sliding_window) is not supported", r->path);
  LK_TRY(read_bool(r, config, "mlp_bias", &mlp_bias));
  LK_FAIL_IF(mlp_bias, r->err, LEANK_E_UNSUPPORTED, -1,
             "%s: biases of the feed-forward layer (mlp_bias) are not supported", r->path);
  LK_TRY(read_number(r, config, "partial_rotary_factor", false, &rotary));
  LK_FAIL_IF(rotary != 1, r->err, LEANK_E_UNSUPPORTED, -1,
             "%s: partial rotary embedding (factor %g) is not supported", r->path, rotary);
  LK_FAIL_IF(get(config, "quantization_config"), r->err, LEANK_E_UNSUPPORTED, -1,
             "%s: quantised weights (quantization_config) are not supported in this format",
             r->path);
  LK_TRY(refuse_layer_types(r, config));
cleanup:
  return status;
}

static leank_status read_head_dim(const reader *r, const json_t *config, leank_model_info *info) {
  leank_status status = LEANK_OK;
  const bool given = get(config, "head_dim") != NULL;
  LK_TRY(read_size(r, config, "head_dim", false, &info->head_dim));
  if (given) return LEANK_OK;
  LK_FAIL_IF(info->n_heads == 0 || info->hidden % info->n_heads != 0, r->err, LEANK_E_FORMAT, -1,
             "%s: hidden_size %zu is no multiple of num_attention_heads %zu", r->path, info->hidden,
             info->n_heads);
  info->head_dim = info->hidden / info->n_heads;
cleanup:
  return status;
}

static leank_status read_sizes(const reader *r, const json_t *config, leank_model_info *info) {
  leank_status status = LEANK_OK;
  LK_TRY(read_size(r, config, "num_hidden_layers", true, &info->n_layers));
  LK_TRY(read_size(r, config, "hidden_size", true, &info->hidden));
  LK_TRY(read_size(r, config, "intermediate_size", true, &info->ffn));
  LK_TRY(read_size(r, config, "num_attention_heads", true, &info->n_heads));
  LK_TRY(read_size(r, config, "vocab_size", true, &info->n_vocab));
  LK_TRY(read_size(r, config, "max_position_embeddings", true, &info->n_ctx_train));
  info->n_kv_heads = info->n_heads;
  LK_TRY(read_size(r, config, "num_key_value_heads", false, &info->n_kv_heads));
  LK_TRY(read_head_dim(r, config, info));
  info->norm_eps = 1e-6; /* transformers' default */
  LK_TRY(read_number(r, config, "rms_norm_eps", false, &info->norm_eps));
  info->qkv_bias = strcmp(info->architecture, "qwen2") == 0;
  if (!info->qkv_bias) LK_TRY(read_bool(r, config, "attention_bias", &info->qkv_bias));
  LK_TRY(read_bool(r, config, "tie_word_embeddings", &info->tied_output));
cleanup:
  return status;
}

static double yarn_mscale(double factor, double mscale) {
  return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1;
}

static leank_status read_yarn(const reader *r, const json_t *rope, leank_model_info *info) {
  leank_status status = LEANK_OK;
  double mscale = 0, all_dim = 0;
  bool truncate = true;
  info->rope_low_freq = 1;
  info->rope_high_freq = 32;
  info->rope_orig_ctx = info->n_ctx_train;
  LK_TRY(read_size(r, rope, "original_max_position_embeddings", false, &info->rope_orig_ctx));
  LK_TRY(read_number(r, rope, "beta_slow", false, &info->rope_low_freq));
  LK_TRY(read_number(r, rope, "beta_fast", false, &info->rope_high_freq));
  LK_TRY(read_number(r, rope, "mscale", false, &mscale));
  LK_TRY(read_number(r, rope, "mscale_all_dim", false, &all_dim));
  LK_TRY(read_bool(r, rope, "truncate", &truncate));
  info->rope_untruncated = !truncate;
  if (mscale != 0 && all_dim != 0)
    info->rope_attn_factor =
        yarn_mscale(info->rope_factor, mscale) / yarn_mscale(info->rope_factor, all_dim);
  LK_TRY(read_number(r, rope, "attention_factor", false, &info->rope_attn_factor));
  LK_FAIL_IF(get(rope, "attention_factor") && !(info->rope_attn_factor > 0), r->err, LEANK_E_FORMAT,
             -1, "%s: attention_factor %g makes no sense", r->path, info->rope_attn_factor);
cleanup:
  return status;
}

static leank_status read_scaling(const reader *r, const json_t *rope, leank_model_info *info) {
  leank_status status = LEANK_OK;
  const json_t *type_value = get(rope, "rope_type") ? get(rope, "rope_type") : get(rope, "type");
  const char *type = type_value ? json_string_value(type_value) : "default";
  LK_FAIL_IF(!type, r->err, LEANK_E_FORMAT, -1, "%s: rope_type is not a string", r->path);
  if (strcmp(type, "default") == 0) return LEANK_OK;
  LK_FAIL_IF(strcmp(type, "linear") != 0 && strcmp(type, "llama3") != 0 &&
                 strcmp(type, "yarn") != 0,
             r->err, LEANK_E_UNSUPPORTED, -1, "%s: RoPE scaling %s is not supported", r->path,
             show(type).text);
  LK_TRY(read_number(r, rope, "factor", true, &info->rope_factor));
  if (strcmp(type, "linear") == 0) {
    info->rope_scaling = LEANK_ROPE_LINEAR;
  } else if (strcmp(type, "yarn") == 0) {
    info->rope_scaling = LEANK_ROPE_YARN;
    LK_TRY(read_yarn(r, rope, info));
  } else {
    info->rope_scaling = LEANK_ROPE_LLAMA3;
    LK_TRY(read_number(r, rope, "low_freq_factor", true, &info->rope_low_freq));
    LK_TRY(read_number(r, rope, "high_freq_factor", true, &info->rope_high_freq));
    LK_TRY(read_size(r, rope, "original_max_position_embeddings", true, &info->rope_orig_ctx));
  }
cleanup:
  return status;
}

/* rope_parameters is the newer home of both theta and the scaling. */
static leank_status read_rope(const reader *r, const json_t *config, leank_model_info *info) {
  leank_status status = LEANK_OK;
  const bool newer = get(config, "rope_parameters") != NULL;
  const json_t *rope = get(config, newer ? "rope_parameters" : "rope_scaling");
  info->rope_factor = 1;
  info->rope_theta = 10000; /* transformers' default */
  LK_TRY(read_number(r, config, "rope_theta", false, &info->rope_theta));
  if (!rope) return LEANK_OK;
  LK_FAIL_IF(!json_is_object(rope), r->err, LEANK_E_FORMAT, -1,
             "%s: the RoPE parameters are no object", r->path);
  LK_TRY(read_number(r, rope, "rope_theta", false, &info->rope_theta));
  double rotary = 1;
  LK_TRY(read_number(r, rope, "partial_rotary_factor", false, &rotary));
  LK_FAIL_IF(rotary != 1, r->err, LEANK_E_UNSUPPORTED, -1,
             "%s: partial rotary embedding (factor %g) is not supported", r->path, rotary);
  LK_TRY(read_scaling(r, rope, info));
cleanup:
  return status;
}

leank_status lk_model_config_read(const char *path, leank_model_info *info, leank_error *err) {
  leank_status status = LEANK_OK;
  const reader r = {path, err};
  char *text = NULL;
  size_t n_bytes = 0;
  json_t *config = NULL;
  LK_TRY(lk_file_read(path, MAX_CONFIG_BYTES, &text, &n_bytes, err));
  LK_TRY(lk_json_parse_object(text, n_bytes, false, &(lk_json_place){.name = path}, &config, err));
  LK_TRY(read_architecture(&r, config, info));
  LK_TRY(read_sizes(&r, config, info));
  LK_TRY(refuse_extras(&r, config));
  LK_TRY(read_rope(&r, config, info));
  LK_TRY(lk_model_info_check(info, path, err));
cleanup:
  json_decref(config);
  lk_free(text);
  return status;
}
