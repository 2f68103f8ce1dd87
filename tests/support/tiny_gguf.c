#include "support/tiny_gguf.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"

/* ---- numbers ---- */

/* Bell-shaped, mean 0, variance 1: the sum of four uniform numbers. */
static double bell(lk_rng *rng) {
  double sum = 0;
  for (int i = 0; i < 4; i++) sum += lk_rng_double(rng) - 0.5;
  return sum * sqrt(3.0);
}

/* Nearest number of IEEE half precision (subnormal ones included); |x| < 65504 here. */
static double to_half(double x) {
  int exponent;
  if (x == 0) return 0;
  frexp(x, &exponent);
  const int unit = (exponent - 11 > -24) ? exponent - 11 : -24;
  return ldexp(rint(ldexp(x, -unit)), unit);
}

static double rounded(double x, lk_dtype type) {
  if (type == LK_F16) return to_half(x);
  if (type == LK_BF16) return (double)lk_bf16_to_f32(lk_f32_to_bf16((float)x));
  return (double)(float)x;
}

static void fill(lk_rng *rng, double *p, size_t n, double center, double spread, lk_dtype type) {
  for (size_t i = 0; i < n; i++) p[i] = rounded(center + spread * bell(rng), type);
}

void lk_tiny_weights(const lk_tiny_spec *s, lk_oracle_weights *w) {
  lk_rng rng = {s->seed * 1000003u + 17u};
  const double qk = s->qk_gain != 0 ? s->qk_gain : 1.5,
               bias = s->bias_gain != 0 ? s->bias_gain : .5;
  const double in = 1 / sqrt((double)s->hidden);
  const size_t n_q = s->n_heads * s->head_dim, n_kv = s->n_kv_heads * s->head_dim;
  *w = (lk_oracle_weights){.n_layers = s->n_layers,
                           .n_heads = s->n_heads,
                           .n_kv_heads = s->n_kv_heads,
                           .head_dim = s->head_dim,
                           .hidden = s->hidden,
                           .ffn = s->ffn,
                           .n_vocab = s->n_vocab,
                           .norm_eps = (double)1e-5f,
                           .rope_theta = 10000};
  lk_oracle_weights_alloc(w);
  fill(&rng, w->embed, s->n_vocab * s->hidden, 0, 1, s->type);
  fill(&rng, w->output, s->n_vocab * s->hidden, 0, in, s->type);
  if (s->tied) memcpy(w->output, w->embed, s->n_vocab * s->hidden * sizeof(double));
  fill(&rng, w->out_norm, s->hidden, 1, 0.2, LK_F32);
  for (size_t i = 0; i < s->n_layers; i++) {
    lk_oracle_layer *l = &w->layers[i];
    fill(&rng, l->attn_norm, s->hidden, 1, 0.2, LK_F32);
    fill(&rng, l->ffn_norm, s->hidden, 1, 0.2, LK_F32);
    fill(&rng, l->q, n_q * s->hidden, 0, qk * in, s->type);
    fill(&rng, l->k, n_kv * s->hidden, 0, qk * in, s->type);
    fill(&rng, l->v, n_kv * s->hidden, 0, in, s->type);
    fill(&rng, l->o, s->hidden * n_q, 0, 1.5 / sqrt((double)n_q), s->type);
    fill(&rng, l->gate, s->ffn * s->hidden, 0, in, s->type);
    fill(&rng, l->up, s->ffn * s->hidden, 0, in, s->type);
    fill(&rng, l->down, s->hidden * s->ffn, 0, 1 / sqrt((double)s->ffn), s->type);
    if (!s->qwen2) continue;
    fill(&rng, l->q_bias, n_q, 0, bias, LK_F32);
    fill(&rng, l->k_bias, n_kv, 0, bias, LK_F32);
    fill(&rng, l->v_bias, n_kv, 0, bias, LK_F32);
  }
}

/* ---- file ---- */

enum { GGUF_U32 = 4, GGUF_F32 = 6, GGUF_STRING = 8, ALIGNMENT = 32, MAX_TENSORS = 256 };

typedef struct entry {
  char name[64];
  const double *data;
  size_t n_rows, n_cols; /* n_rows 0: a vector */
  size_t pair_dim;       /* D where groups of D rows are stored in pairs order, else 0 */
  lk_dtype type;
} entry;

typedef struct writer {
  FILE *file;
  const char *arch;
  entry entries[MAX_TENSORS];
  size_t n_entries;
} writer;

static void put(writer *w, const void *p, size_t n) { fwrite(p, 1, n, w->file); }
static void put_u32(writer *w, uint32_t x) { put(w, &x, sizeof x); }
static void put_u64(writer *w, uint64_t x) { put(w, &x, sizeof x); }
static void put_string(writer *w, const char *s) {
  put_u64(w, strlen(s));
  put(w, s, strlen(s));
}

static void put_key(writer *w, const char *key, uint32_t type) {
  char name[96];
  snprintf(name, sizeof name, "%s%s", key[0] == '.' ? w->arch : "", key);
  put_string(w, name);
  put_u32(w, type);
}

static void put_key_u32(writer *w, const char *key, size_t value) {
  put_key(w, key, GGUF_U32);
  put_u32(w, (uint32_t)value);
}

static void put_key_f32(writer *w, const char *key, double value) {
  const float f = (float)value;
  put_key(w, key, GGUF_F32);
  put(w, &f, sizeof f);
}

static void put_key_string(writer *w, const char *key, const char *value) {
  put_key(w, key, GGUF_STRING);
  put_string(w, value);
}

enum { N_KEYS = 14 };

static void put_metadata(writer *w, const lk_tiny_spec *s, const lk_oracle_weights *weights) {
  put_key_string(w, "general.architecture", w->arch);
  put_key_string(w, "general.name", "tiny");
  put_key_u32(w, ".block_count", s->n_layers);
  put_key_u32(w, ".context_length", 65536);
  put_key_u32(w, ".embedding_length", s->hidden);
  put_key_u32(w, ".feed_forward_length", s->ffn);
  put_key_u32(w, ".attention.head_count", s->n_heads);
  put_key_u32(w, ".attention.head_count_kv", s->n_kv_heads);
  put_key_u32(w, ".attention.key_length", s->head_dim);
  put_key_u32(w, ".attention.value_length", s->head_dim);
  put_key_u32(w, ".rope.dimension_count", s->head_dim);
  put_key_u32(w, ".vocab_size", s->n_vocab);
  put_key_f32(w, ".attention.layer_norm_rms_epsilon", weights->norm_eps);
  put_key_f32(w, ".rope.freq_base", weights->rope_theta);
}

static void add(writer *w, const char *name, const double *data, size_t n_rows, size_t n_cols,
                lk_dtype type, size_t pair_dim) {
  entry *e = &w->entries[w->n_entries++];
  snprintf(e->name, sizeof e->name, "%s", name);
  e->data = data;
  e->n_rows = n_rows;
  e->n_cols = n_cols;
  e->type = type;
  e->pair_dim = pair_dim;
}

static void add_block(writer *w, size_t layer, const char *name, const double *data, size_t n_rows,
                      size_t n_cols, lk_dtype type, size_t pair_dim) {
  char full[64];
  snprintf(full, sizeof full, "blk.%zu.%s", layer, name);
  add(w, full, data, n_rows, n_cols, type, pair_dim);
}

static void add_layer(writer *w, const lk_tiny_spec *s, const lk_oracle_layer *l, size_t i) {
  const size_t n_q = s->n_heads * s->head_dim, n_kv = s->n_kv_heads * s->head_dim;
  const size_t pair_dim = s->qwen2 ? 0 : s->head_dim;
  add_block(w, i, "attn_norm.weight", l->attn_norm, 0, s->hidden, LK_F32, 0);
  add_block(w, i, "attn_q.weight", l->q, n_q, s->hidden, s->type, pair_dim);
  add_block(w, i, "attn_k.weight", l->k, n_kv, s->hidden, s->type, pair_dim);
  add_block(w, i, "attn_v.weight", l->v, n_kv, s->hidden, s->type, 0);
  add_block(w, i, "attn_output.weight", l->o, s->hidden, n_q, s->type, 0);
  add_block(w, i, "ffn_norm.weight", l->ffn_norm, 0, s->hidden, LK_F32, 0);
  add_block(w, i, "ffn_gate.weight", l->gate, s->ffn, s->hidden, s->type, 0);
  add_block(w, i, "ffn_up.weight", l->up, s->ffn, s->hidden, s->type, 0);
  add_block(w, i, "ffn_down.weight", l->down, s->hidden, s->ffn, s->type, 0);
  if (!s->qwen2) return;
  add_block(w, i, "attn_q.bias", l->q_bias, 0, n_q, LK_F32, 0);
  add_block(w, i, "attn_k.bias", l->k_bias, 0, n_kv, LK_F32, 0);
  add_block(w, i, "attn_v.bias", l->v_bias, 0, n_kv, LK_F32, 0);
}

static size_t entry_bytes(const entry *e) {
  return (e->n_rows ? e->n_rows : 1) * e->n_cols * lk_dtype_block_bytes(e->type);
}

static size_t aligned(size_t n) { return (n + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

static uint32_t gguf_type(lk_dtype type) {
  return type == LK_F16 ? 1 : type == LK_BF16 ? 30 : 0; /* numbers of ggml_type */
}

static void put_infos(writer *w) {
  uint64_t offset = 0;
  for (size_t i = 0; i < w->n_entries; i++) {
    const entry *e = &w->entries[i];
    put_string(w, e->name);
    put_u32(w, e->n_rows ? 2 : 1);
    put_u64(w, e->n_cols);
    if (e->n_rows) put_u64(w, e->n_rows);
    put_u32(w, gguf_type(e->type));
    put_u64(w, offset);
    offset += aligned(entry_bytes(e));
  }
}

/* Bits of a number that already is one of half precision. */
static uint16_t half_bits(double x) {
  int exponent;
  const uint16_t sign = signbit(x) ? 0x8000 : 0;
  const double a = fabs(x);
  if (a < 0x1p-14) return sign | (uint16_t)ldexp(a, 24);
  const double fraction = frexp(a, &exponent); /* [0.5, 1) */
  return sign | (uint16_t)((exponent + 14) << 10) | (uint16_t)(ldexp(fraction, 11) - 1024);
}

static void put_number(writer *w, double x, lk_dtype type) {
  const float f = (float)x;
  uint16_t h = type == LK_F16 ? half_bits(x) : lk_f32_to_bf16(f);
  if (type == LK_F32)
    put(w, &f, sizeof f);
  else
    put(w, &h, sizeof h);
}

/* File row r of a tensor in pairs order: row 2i holds channel i, row 2i + 1 channel i + D/2. */
static size_t source_row(const entry *e, size_t r) {
  if (!e->pair_dim) return r;
  const size_t within = r % e->pair_dim;
  return r - within + within / 2 + (within % 2) * (e->pair_dim / 2);
}

static void pad(writer *w) {
  static const char zeros[ALIGNMENT];
  const size_t at = (size_t)ftell(w->file);
  put(w, zeros, aligned(at) - at);
}

static void put_data(writer *w) {
  for (size_t i = 0; i < w->n_entries; i++) {
    const entry *e = &w->entries[i];
    pad(w);
    for (size_t r = 0; r < (e->n_rows ? e->n_rows : 1); r++)
      for (size_t c = 0; c < e->n_cols; c++)
        put_number(w, e->data[source_row(e, r) * e->n_cols + c], e->type);
  }
  pad(w);
}

bool lk_tiny_write(const lk_tiny_spec *s, const lk_oracle_weights *weights, const char *path) {
  writer *w = calloc(1, sizeof *w);
  if (!w) return false;
  w->arch = s->qwen2 ? "qwen2" : "llama";
  w->file = fopen(path, "wb");
  bool ok = w->file != NULL && 3 + 12 * s->n_layers <= MAX_TENSORS;
  if (ok) {
    add(w, "token_embd.weight", weights->embed, s->n_vocab, s->hidden, s->type, 0);
    for (size_t i = 0; i < s->n_layers; i++) add_layer(w, s, &weights->layers[i], i);
    add(w, "output_norm.weight", weights->out_norm, 0, s->hidden, LK_F32, 0);
    if (!s->tied) add(w, "output.weight", weights->output, s->n_vocab, s->hidden, s->type, 0);
    put(w, "GGUF", 4);
    put_u32(w, 3);
    put_u64(w, w->n_entries);
    put_u64(w, N_KEYS);
    put_metadata(w, s, weights);
    put_infos(w);
    put_data(w);
    ok = !ferror(w->file);
  }
  if (w->file && fclose(w->file) != 0) ok = false;
  free(w);
  return ok;
}
