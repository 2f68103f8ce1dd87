#include "cli_report.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *cli_grouped(uint64_t n) {
  enum { N_BUFFERS = 8, LENGTH = 32 };
  static char buffers[N_BUFFERS][LENGTH];
  static unsigned next;
  char *buffer = buffers[next++ % N_BUFFERS];
  char *at = buffer + LENGTH - 1;
  *at = '\0';
  for (unsigned digits = 0; digits == 0 || n; digits++, n /= 10) {
    if (digits && digits % 3 == 0) *--at = ',';
    *--at = (char)('0' + n % 10);
  }
  return at;
}

double cli_percent(uint64_t a, uint64_t b) { return b ? 100.0 * (double)a / (double)b : 0.0; }

void cli_print_text(const char *text) {
  for (; *text; text++) putchar((unsigned char)*text < 0x20 || *text == 0x7f ? '?' : *text);
}

const char *cli_order_name(leank_channel_order order) {
  return order == LEANK_ORDER_PAIRS ? "pairs" : "half";
}

const char *cli_policy_name(leank_policy policy) {
  return policy == LEANK_POLICY_MEAN ? "mean" : "drop";
}

const char *cli_kv_type_name(int kv_type) {
  static const char *const names[] = {"bf16", "f32", "q8", "f16"}; /* by leank_kv_type */
  return names[kv_type];
}

/* ---- JSON ---- */

json_t *cli_json_text(const char *text) {
  json_t *value = json_string(text);
  if (value) return value;
  leank_utf8_stream stream = {{0}, 0};
  size_t n = strlen(text);
  char *clean = cli_alloc(3 * (n + 4) + 12, 1);
  size_t n_clean = leank_utf8_stream_feed(&stream, text, n, false, clean);
  n_clean += leank_utf8_stream_feed(&stream, "", 0, true, clean + n_clean);
  value = json_stringn(clean, n_clean);
  free(clean);
  return value;
}

json_t *cli_json_size(uint64_t n) { return json_integer((json_int_t)n); }

json_t *cli_json_model(const leank_model_info *info) {
  json_t *o = json_object();
  json_object_set_new(o, "architecture", cli_json_text(info->architecture));
  json_object_set_new(o, "name", cli_json_text(info->name));
  json_object_set_new(o, "weight_types", cli_json_text(info->weight_types));
  json_object_set_new(o, "n_layers", cli_json_size(info->n_layers));
  json_object_set_new(o, "n_heads", cli_json_size(info->n_heads));
  json_object_set_new(o, "n_kv_heads", cli_json_size(info->n_kv_heads));
  json_object_set_new(o, "head_dim", cli_json_size(info->head_dim));
  json_object_set_new(o, "hidden", cli_json_size(info->hidden));
  json_object_set_new(o, "ffn", cli_json_size(info->ffn));
  json_object_set_new(o, "n_vocab", cli_json_size(info->n_vocab));
  json_object_set_new(o, "n_ctx_train", cli_json_size(info->n_ctx_train));
  json_object_set_new(o, "norm_eps", json_real(info->norm_eps));
  json_object_set_new(o, "rope_theta", json_real(info->rope_theta));
  json_object_set_new(o, "rope_scaling", json_string(leank_rope_scaling_name(info->rope_scaling)));
  json_object_set_new(o, "rope_factor", json_real(info->rope_factor));
  json_object_set_new(o, "rope_orig_ctx", cli_json_size(info->rope_orig_ctx));
  json_object_set_new(o, "channel_order", json_string(cli_order_name(info->order)));
  json_object_set_new(o, "tied_output", json_boolean(info->tied_output));
  json_object_set_new(o, "qkv_bias", json_boolean(info->qkv_bias));
  json_object_set_new(o, "n_params", cli_json_size(info->n_params));
  json_object_set_new(o, "weight_bytes", cli_json_size(info->weight_bytes));
  json_object_set_new(o, "fingerprint", cli_json_text(info->fingerprint));
  return o;
}

json_t *cli_json_plan(const leank_plan *plan) {
  json_t *o = json_object();
  json_object_set_new(o, "bytes_per_wide_token", cli_json_size(plan->bytes_per_wide_token));
  json_object_set_new(o, "bytes_per_lean_token", cli_json_size(plan->bytes_per_lean_token));
  json_object_set_new(o, "n_wide_tokens", cli_json_size(plan->n_wide_tokens));
  json_object_set_new(o, "n_lean_tokens", cli_json_size(plan->n_lean_tokens));
  json_object_set_new(o, "n_wide_pages", cli_json_size(plan->n_wide_pages));
  json_object_set_new(o, "n_lean_pages", cli_json_size(plan->n_lean_pages));
  json_object_set_new(o, "wide_stored", cli_json_size(plan->wide_stored));
  json_object_set_new(o, "lean_stored", cli_json_size(plan->lean_stored));
  json_object_set_new(o, "stored", cli_json_size(plan->wide_stored + plan->lean_stored));
  json_object_set_new(o, "wide_reserved", cli_json_size(plan->wide_reserved));
  json_object_set_new(o, "lean_reserved", cli_json_size(plan->lean_reserved));
  json_object_set_new(o, "reserved", cli_json_size(plan->wide_reserved + plan->lean_reserved));
  json_object_set_new(o, "dense_stored", cli_json_size(plan->dense_stored));
  json_object_set_new(o, "prefill_scratch", cli_json_size(plan->prefill_scratch));
  json_object_set_new(o, "other_scratch", cli_json_size(plan->other_scratch));
  json_object_set_new(o, "weights", cli_json_size(plan->weights));
  json_object_set_new(o, "k_kept", json_real(plan->k_kept));
  json_object_set_new(o, "v_kept", json_real(plan->v_kept));
  return o;
}

static json_t *memory_json(const leank_memory *memory) {
  json_t *o = json_object();
  json_object_set_new(o, "wide_stored", cli_json_size(memory->wide_stored));
  json_object_set_new(o, "lean_stored", cli_json_size(memory->lean_stored));
  json_object_set_new(o, "stored", cli_json_size(memory->wide_stored + memory->lean_stored));
  json_object_set_new(o, "n_wide_pages", cli_json_size(memory->n_wide_pages));
  json_object_set_new(o, "n_lean_pages", cli_json_size(memory->n_lean_pages));
  json_object_set_new(o, "wide_reserved", cli_json_size(memory->wide_reserved));
  json_object_set_new(o, "lean_reserved", cli_json_size(memory->lean_reserved));
  json_object_set_new(o, "reserved", cli_json_size(memory->wide_reserved + memory->lean_reserved));
  json_object_set_new(o, "wide_resident", cli_json_size(memory->wide_resident));
  json_object_set_new(o, "lean_resident", cli_json_size(memory->lean_resident));
  json_object_set_new(o, "prefill_scratch", cli_json_size(memory->prefill_scratch));
  json_object_set_new(o, "other_scratch", cli_json_size(memory->other_scratch));
  return o;
}

json_t *cli_json_generation(const cli_generation *g) {
  json_t *o = json_object();
  json_t *tokens = json_array();
  for (size_t i = 0; i < g->n_tokens; i++)
    json_array_append_new(tokens, json_integer(g->tokens[i]));
  json_object_set_new(o, "text", json_stringn(g->text.data ? g->text.data : "", g->text.n));
  json_object_set_new(o, "tokens", tokens);
  json_object_set_new(o, "stop", json_string(cli_stop_text(g->stop)));
  json_object_set_new(o, "n_prompt", cli_json_size(g->n_prompt));
  json_object_set_new(o, "n_generated", cli_json_size(g->n_tokens));
  json_object_set_new(o, "n_ctx", cli_json_size(g->n_ctx));
  json_object_set_new(o, "n_cached", cli_json_size(g->length));
  json_object_set_new(o, "prefill_seconds", json_real(g->prefill_seconds));
  json_object_set_new(o, "prefill_tokens_per_second", json_real(cli_prefill_rate(g)));
  json_object_set_new(o, "decode_steps", cli_json_size(g->n_steps));
  json_object_set_new(o, "decode_seconds", json_real(g->decode_seconds));
  json_object_set_new(o, "decode_tokens_per_second", json_real(cli_decode_rate(g)));
  json_object_set_new(o, "memory", memory_json(&g->memory));
  leank_plan plan;
  if (g->length && cli_generation_plan(g, g->masked, &plan) == CLI_GO) {
    json_object_set_new(o, "plan", cli_json_plan(&plan));
  }
  return o;
}

void cli_json_print(json_t *value, bool one_line) {
  size_t flags = JSON_REAL_PRECISION(9) | (one_line ? JSON_COMPACT : JSON_INDENT(2));
  if (json_dumpf(value, stdout, flags) == 0) putchar('\n');
  json_decref(value);
}

void cli_json_print_exact(json_t *value) {
  char *text = NULL;
  bool same = false;
  for (size_t digits = 9; !same && digits <= 17; digits += 4) {
    free(text);
    text = json_dumps(value, JSON_REAL_PRECISION(digits) | JSON_INDENT(2));
    json_t *back = text ? json_loads(text, 0, NULL) : NULL;
    same = back && json_equal(value, back);
    json_decref(back);
  }
  if (text) puts(text);
  free(text);
  json_decref(value);
}

/* ---- stats ---- */

void cli_print_stats(const cli_generation *g) {
  leank_plan dense;
  fflush(stdout);
  fprintf(stderr, "prompt %zu tokens, %.1f tokens/s; generated %zu tokens, %.2f tokens/s (%s)",
          g->n_prompt, cli_prefill_rate(g), g->n_tokens, cli_decode_rate(g),
          cli_stop_text(g->stop));
  if (g->length && cli_generation_plan(g, false, &dense) == CLI_GO) {
    uint64_t stored = g->memory.wide_stored + g->memory.lean_stored;
    fprintf(stderr, "; KV %s bytes of %zu tokens", cli_grouped(stored), g->length);
    fprintf(stderr, " (dense %s, %.1f %%)", cli_grouped(dense.dense_stored),
            cli_percent(stored, dense.dense_stored));
  }
  fputc('\n', stderr);
}
