/* Does a description make sense? Everything later relies on these bounds. */
#include <math.h>

#include "model/model_loader.h"

typedef struct size_rule {
  const char *what;
  size_t value, max;
} size_rule;

static leank_status check_sizes(const leank_model_info *m, const char *path, leank_error *err) {
  leank_status status = LEANK_OK;
  const size_rule rules[] = {
      {"number of layers", m->n_layers, LK_MODEL_MAX_LAYERS},
      {"number of heads", m->n_heads, LK_MODEL_MAX_HEADS},
      {"number of key/value heads", m->n_kv_heads, LK_MODEL_MAX_HEADS},
      {"head dimension", m->head_dim, LK_MODEL_MAX_HEAD_DIM},
      {"hidden size", m->hidden, LK_MODEL_MAX_WIDTH},
      {"feed-forward size", m->ffn, LK_MODEL_MAX_WIDTH},
      {"vocabulary size", m->n_vocab, LK_MODEL_MAX_VOCAB},
      {"context length", m->n_ctx_train, LK_MODEL_MAX_CONTEXT},
      {"width of all heads", m->n_heads * m->head_dim, LK_MODEL_MAX_WIDTH}, /* after its factors */
  };
  for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
    LK_FAIL_IF(rules[i].value < 1 || rules[i].value > rules[i].max, err, LEANK_E_FORMAT, -1,
               "%s: %s is %zu, must be 1 .. %zu", path, rules[i].what, rules[i].value,
               rules[i].max);
  LK_FAIL_IF(m->n_heads % m->n_kv_heads != 0, err, LEANK_E_FORMAT, -1,
             "%s: %zu heads are no multiple of %zu key/value heads", path, m->n_heads,
             m->n_kv_heads);
  LK_FAIL_IF(m->head_dim % 2 != 0, err, LEANK_E_FORMAT, -1, "%s: head dimension %zu is odd", path,
             m->head_dim);
cleanup:
  return status;
}

/* Finite and within [low, high]; false for NaN. */
static bool within(double x, double low, double high) {
  return isfinite(x) && x >= low && x <= high;
}

static leank_status check_numbers(const leank_model_info *m, const char *path, leank_error *err) {
  leank_status status = LEANK_OK;
  const bool turns = m->rope_scaling == LEANK_ROPE_LLAMA3 || m->rope_scaling == LEANK_ROPE_YARN;
  LK_FAIL_IF(!within(m->norm_eps, 1e-30, 1), err, LEANK_E_FORMAT, -1,
             "%s: RMSNorm epsilon %g makes no sense", path, m->norm_eps);
  LK_FAIL_IF(!within(m->rope_theta, 1 + 1e-6, 1e30), err, LEANK_E_FORMAT, -1,
             "%s: RoPE base %g makes no sense", path, m->rope_theta);
  LK_FAIL_IF(!within(m->rope_factor, 1e-6, 1e6), err, LEANK_E_FORMAT, -1,
             "%s: RoPE scaling factor %g makes no sense", path, m->rope_factor);
  LK_FAIL_IF(!within(m->rope_attn_factor, 0, 1e6), err, LEANK_E_FORMAT, -1,
             "%s: RoPE attention factor %g makes no sense", path, m->rope_attn_factor);
  LK_FAIL_IF(turns &&
                 (!within(m->rope_low_freq, 1e-6, 1e6) || !within(m->rope_high_freq, 1e-6, 1e6) ||
                  m->rope_high_freq <= m->rope_low_freq),
             err, LEANK_E_FORMAT, -1, "%s: RoPE scaling between %g and %g turns makes no sense",
             path, m->rope_low_freq, m->rope_high_freq);
  LK_FAIL_IF(turns && (m->rope_orig_ctx < 1 || m->rope_orig_ctx > LK_MODEL_MAX_CONTEXT), err,
             LEANK_E_FORMAT, -1, "%s: RoPE original context %zu makes no sense", path,
             m->rope_orig_ctx);
cleanup:
  return status;
}

/* The maxima keep this far from overflow: 2^12 layers of less than 2^51 parameters. */
size_t lk_model_count_params(const leank_model_info *m) {
  const size_t q = m->n_heads * m->head_dim, kv = m->n_kv_heads * m->head_dim;
  size_t layer = 2 * m->hidden + 2 * q * m->hidden + 2 * kv * m->hidden + 3 * m->hidden * m->ffn;
  if (m->qkv_bias) layer += q + 2 * kv;
  size_t outer = m->n_vocab * m->hidden * (m->tied_output ? 1 : 2) + m->hidden;
  return layer * m->n_layers + outer;
}

leank_status lk_model_info_check(leank_model_info *info, const char *path, leank_error *err) {
  leank_status status = LEANK_OK;
  LK_TRY(check_sizes(info, path, err));
  LK_TRY(check_numbers(info, path, err));
  info->n_params = lk_model_count_params(info);
cleanup:
  return status;
}

/* Bytes of the UTF-8 character that begins with `lead`; 1 for a stray byte. */
static size_t utf8_length(unsigned char lead) {
  return lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc0 ? 2 : 1;
}

void lk_model_copy_name(char *out, size_t n, const char *text, size_t n_bytes) {
  size_t at = 0, end = 0;
  while (at < n_bytes && text[at] != '\0') {
    size_t step = utf8_length((unsigned char)text[at]);
    if (step > n_bytes - at || at + step >= n) break;
    at += step;
  }
  for (; end < at; end++) {
    unsigned char c = (unsigned char)text[end];
    out[end] = c < 0x20 || c == 0x7f ? '?' : text[end];
  }
  out[end] = '\0';
}
