/* Weights by role: names of both formats, shapes, conversion of vectors to fp32. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "formats/printable.h"
#include "model/model_loader.h"

/* A size a shape is made of. */
typedef enum dim { DIM_ONE, DIM_HIDDEN, DIM_Q, DIM_KV, DIM_FFN, DIM_VOCAB } dim;

typedef struct role {
  const char *gguf, *hf; /* suffix behind the layer's prefix */
  size_t offset;         /* in lk_layer_weights */
  dim rows, cols;
  bool is_bias;
} role;

#define AT(field) offsetof(lk_layer_weights, field)
static const role layer_roles[] = {
    {"attn_norm.weight", "input_layernorm.weight", AT(attn_norm), DIM_ONE, DIM_HIDDEN, false},
    {"attn_q.weight", "self_attn.q_proj.weight", AT(q), DIM_Q, DIM_HIDDEN, false},
    {"attn_k.weight", "self_attn.k_proj.weight", AT(k), DIM_KV, DIM_HIDDEN, false},
    {"attn_v.weight", "self_attn.v_proj.weight", AT(v), DIM_KV, DIM_HIDDEN, false},
    {"attn_q.bias", "self_attn.q_proj.bias", AT(q_bias), DIM_ONE, DIM_Q, true},
    {"attn_k.bias", "self_attn.k_proj.bias", AT(k_bias), DIM_ONE, DIM_KV, true},
    {"attn_v.bias", "self_attn.v_proj.bias", AT(v_bias), DIM_ONE, DIM_KV, true},
    {"attn_output.weight", "self_attn.o_proj.weight", AT(o), DIM_HIDDEN, DIM_Q, false},
    {"ffn_norm.weight", "post_attention_layernorm.weight", AT(ffn_norm), DIM_ONE, DIM_HIDDEN,
     false},
    {"ffn_gate.weight", "mlp.gate_proj.weight", AT(gate), DIM_FFN, DIM_HIDDEN, false},
    {"ffn_up.weight", "mlp.up_proj.weight", AT(up), DIM_FFN, DIM_HIDDEN, false},
    {"ffn_down.weight", "mlp.down_proj.weight", AT(down), DIM_HIDDEN, DIM_FFN, false},
};
#undef AT
enum {
  N_ROLES = sizeof layer_roles / sizeof *layer_roles,
  ROLE_Q_BIAS = 4,
  MIN_TENSORS_OF_LAYER = 9,
  MAX_NAME = 128
};

typedef struct binder {
  const char *path;
  struct lk_model_files *files;
  const leank_model_info *info;
  leank_error *err;
  bool gguf;
} binder;

static size_t dim_size(const leank_model_info *m, dim d) {
  switch (d) {
  case DIM_ONE: return 1;
  case DIM_HIDDEN: return m->hidden;
  case DIM_Q: return m->n_heads * m->head_dim;
  case DIM_KV: return m->n_kv_heads * m->head_dim;
  case DIM_FFN: return m->ffn;
  case DIM_VOCAB: return m->n_vocab;
  }
  return 0;
}

static void widen(const lk_tensor *from, float *to) {
  for (size_t i = 0; i < from->n_cols; i++) {
    uint16_t h;
    memcpy(&h, (const unsigned char *)from->data + 2 * i, sizeof h);
    to[i] = from->type == LK_F16 ? lk_half_to_f32(h) : lk_bf16_to_f32(h);
  }
}

static bool aligned(const lk_tensor *t) {
  return (uintptr_t)t->data % (t->type == LK_F32 ? sizeof(float) : sizeof(uint16_t)) == 0;
}

/* A weight in memory of the loader: vectors as fp32, and what a file stores at an odd address. */
static leank_status copy_weight(const binder *b, const lk_model_entry *e, bool vector,
                                lk_tensor *out) {
  leank_status status = LEANK_OK;
  const bool convert = vector && e->tensor.type != LK_F32;
  const size_t n_bytes = convert ? e->tensor.n_cols * sizeof(float) : e->n_bytes;
  LK_FAIL_IF(convert && e->tensor.type != LK_F16 && e->tensor.type != LK_BF16, b->err,
             LEANK_E_UNSUPPORTED, -1, "%s: tensor %s has type %s; norms and biases must be plain",
             b->path, e->name, e->type_name);
  void *copy = lk_alloc(LK_MEM_OTHER, n_bytes, 1);
  LK_FAIL_IF(!copy, b->err, LEANK_E_MEMORY, -1, "%s: out of memory for tensor %s", b->path,
             e->name);
  b->files->copies[b->files->n_copies++] = copy;
  if (convert)
    widen(&e->tensor, copy);
  else
    memcpy(copy, e->tensor.data, n_bytes);
  *out = (lk_tensor){copy, convert ? LK_F32 : e->tensor.type, e->tensor.n_rows, e->tensor.n_cols};
cleanup:
  return status;
}

static leank_status bind(const binder *b, const char *name, dim rows_dim, dim cols_dim,
                         lk_tensor *out) {
  leank_status status = LEANK_OK;
  const size_t rows = dim_size(b->info, rows_dim), cols = dim_size(b->info, cols_dim);
  lk_model_entry *e = lk_model_files_find(b->files, name);
  LK_FAIL_IF(!e, b->err, LEANK_E_FORMAT, -1, "%s: tensor %s is missing", b->path, name);
  LK_FAIL_IF(!e->readable, b->err, LEANK_E_UNSUPPORTED, -1,
             "%s: tensor %s (%s) is no matrix of F32, F16 or BF16", b->path, name, e->type_name);
  LK_FAIL_IF(e->tensor.n_rows != rows || e->tensor.n_cols != cols, b->err, LEANK_E_FORMAT, -1,
             "%s: tensor %s is %zu x %zu, expected %zu x %zu", b->path, name, e->tensor.n_rows,
             e->tensor.n_cols, rows, cols);
  e->bound = true;
  b->files->bound[b->files->n_bound++] = e;
  const bool vector = rows_dim == DIM_ONE;
  if ((vector && e->tensor.type != LK_F32) || !aligned(&e->tensor))
    LK_TRY(copy_weight(b, e, vector, out));
  else
    *out = e->tensor;
cleanup:
  return status;
}

static void layer_name(char name[MAX_NAME], bool gguf, size_t layer, const role *r) {
  snprintf(name, MAX_NAME, gguf ? "blk.%zu.%s" : "model.layers.%zu.%s", layer,
           gguf ? r->gguf : r->hf);
}

static leank_status bind_layer(const binder *b, size_t layer, lk_layer_weights *out) {
  leank_status status = LEANK_OK;
  char name[MAX_NAME];
  for (size_t i = 0; i < N_ROLES; i++) {
    const role *r = &layer_roles[i];
    if (r->is_bias && !b->info->qkv_bias) continue;
    layer_name(name, b->gguf, layer, r);
    LK_TRY(bind(b, name, r->rows, r->cols, (lk_tensor *)(void *)((char *)out + r->offset)));
  }
cleanup:
  return status;
}

static leank_status bind_outer(const binder *b, const char *output, lk_weights *w) {
  leank_status status = LEANK_OK;
  LK_TRY(bind(b, b->gguf ? "token_embd.weight" : "model.embed_tokens.weight", DIM_VOCAB, DIM_HIDDEN,
              &w->embed));
  LK_TRY(bind(b, b->gguf ? "output_norm.weight" : "model.norm.weight", DIM_ONE, DIM_HIDDEN,
              &w->out_norm));
  w->output = w->embed;
  if (!b->info->tied_output) LK_TRY(bind(b, output, DIM_VOCAB, DIM_HIDDEN, &w->output));
cleanup:
  return status;
}

static bool ends_with(const char *s, const char *suffix) {
  size_t n = strlen(s), m = strlen(suffix);
  return n >= m && strcmp(s + n - m, suffix) == 0;
}

/* Tensors that carry nothing of their own: tables some converters keep, a tied output's copy. */
static bool harmless(const binder *b, const char *name) {
  if (b->gguf) return strcmp(name, "rope_freqs.weight") == 0;
  return ends_with(name, ".rotary_emb.inv_freq") ||
         (b->info->tied_output && strcmp(name, "lm_head.weight") == 0);
}

/* A tensor left over is a computation this library would leave out without a word. */
static leank_status refuse_leftovers(const binder *b) {
  leank_status status = LEANK_OK;
  for (size_t i = 0; i < b->files->n_entries; i++) {
    const lk_model_entry *e = &b->files->entries[i];
    LK_FAIL_IF(!e->bound && !harmless(b, e->name), b->err, LEANK_E_UNSUPPORTED, -1,
               "%s: tensor %s has no place in a %s model of %zu layers", b->path,
               lk_printable(e->name, strlen(e->name)).text, b->info->architecture,
               b->info->n_layers);
  }
cleanup:
  return status;
}

/* "Q4_K 168, F32 141": types by bytes, largest first. */
static void summarise(const struct lk_model_files *files, leank_model_info *info) {
  size_t count[LK_N_DTYPES] = {0}, bytes[LK_N_DTYPES] = {0}, at = 0;
  for (size_t i = 0; i < files->n_bound; i++) {
    count[files->bound[i]->tensor.type]++;
    bytes[files->bound[i]->tensor.type] += files->bound[i]->n_bytes;
    info->weight_bytes += files->bound[i]->n_bytes;
  }
  for (;;) {
    size_t best = 0;
    for (size_t t = 1; t < LK_N_DTYPES; t++)
      if (count[t] && (!count[best] || bytes[t] > bytes[best])) best = t;
    if (!count[best] || at >= sizeof info->weight_types) return;
    at += (size_t)snprintf(info->weight_types + at, sizeof info->weight_types - at, "%s%s %zu",
                           at ? ", " : "", lk_dtype_name((lk_dtype)best), count[best]);
    count[best] = 0;
  }
}

leank_status lk_model_bind(const char *path, struct lk_model_files *files, leank_model_info *info,
                           lk_weights *weights, leank_error *err) {
  leank_status status = LEANK_OK;
  const binder b = {path, files, info, err, files->gguf != NULL};
  const char *output = b.gguf ? "output.weight" : "lm_head.weight";
  char bias[MAX_NAME];
  layer_name(bias, b.gguf, 0, &layer_roles[ROLE_Q_BIAS]);
  if (b.gguf) info->tied_output = !lk_model_files_find(files, output);
  info->qkv_bias = strcmp(info->architecture, "qwen2") == 0 || lk_model_files_find(files, bias);
  info->n_params = lk_model_count_params(info);
  LK_FAIL_IF(info->n_layers > files->n_entries / MIN_TENSORS_OF_LAYER, err, LEANK_E_FORMAT, -1,
             "%s: %zu layers, but only %zu tensors", path, info->n_layers, files->n_entries);
  weights->layers = lk_alloc(LK_MEM_OTHER, info->n_layers, sizeof *weights->layers);
  LK_FAIL_IF(!weights->layers, err, LEANK_E_MEMORY, -1, "%s: out of memory for %zu layers", path,
             info->n_layers);
  LK_TRY(bind_outer(&b, output, weights));
  for (size_t l = 0; l < info->n_layers; l++) LK_TRY(bind_layer(&b, l, &weights->layers[l]));
  LK_TRY(refuse_leftovers(&b));
  summarise(files, info);
cleanup:
  return status;
}
