#include "oracle/oracle.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/dtype.h"

struct lk_oracle {
  const lk_oracle_weights *w;
  lk_oracle_options options;
  size_t n_ctx, n_tokens;
  double *k, *v;            /* [L][n_ctx][Hk][D], post-RoPE */
  double *k8, *v8;          /* the same as int8 holds it, for whole groups of 64 tokens */
  double *q;                /* [Hq][D] of the row at work */
  double *attended;         /* [Hq][D] */
  double *x, *normed, *mid; /* [hidden], [hidden], [2][ffn] */
  double *logit, *weight;   /* [n_ctx + 1] of one query head */
  const double **value;     /* [n_ctx + 1], rows of D */
  double *mean_value;       /* [D] */
  leank_head_stats *stats;
};

static void *zeroed(size_t n, size_t size) {
  void *p = calloc(n ? n : 1, size);
  if (!p) {
    fprintf(stderr, "oracle: out of memory\n");
    abort();
  }
  return p;
}

static void require(bool condition, const char *what) {
  if (condition) return;
  fprintf(stderr, "oracle: %s\n", what);
  abort();
}

static double *doubles(size_t n) { return zeroed(n, sizeof(double)); }

/* ---- weights ---- */

void lk_oracle_weights_alloc(lk_oracle_weights *w) {
  const size_t n_q = w->n_heads * w->head_dim, n_kv = w->n_kv_heads * w->head_dim;
  w->embed = doubles(w->n_vocab * w->hidden);
  w->out_norm = doubles(w->hidden);
  w->output = doubles(w->n_vocab * w->hidden);
  w->layers = zeroed(w->n_layers, sizeof *w->layers);
  for (size_t i = 0; i < w->n_layers; i++) {
    w->layers[i] = (lk_oracle_layer){
        .attn_norm = doubles(w->hidden),
        .q = doubles(n_q * w->hidden),
        .k = doubles(n_kv * w->hidden),
        .v = doubles(n_kv * w->hidden),
        .q_bias = doubles(n_q),
        .k_bias = doubles(n_kv),
        .v_bias = doubles(n_kv),
        .o = doubles(w->hidden * n_q),
        .ffn_norm = doubles(w->hidden),
        .gate = doubles(w->ffn * w->hidden),
        .up = doubles(w->ffn * w->hidden),
        .down = doubles(w->hidden * w->ffn),
    };
  }
}

void lk_oracle_weights_free(lk_oracle_weights *w) {
  for (size_t i = 0; i < w->n_layers && w->layers; i++) {
    lk_oracle_layer *l = &w->layers[i];
    double *all[] = {l->attn_norm, l->q, l->k,        l->v,    l->q_bias, l->k_bias,
                     l->v_bias,    l->o, l->ffn_norm, l->gate, l->up,     l->down};
    for (size_t j = 0; j < sizeof all / sizeof *all; j++) free(all[j]);
  }
  free(w->layers);
  free(w->embed);
  free(w->out_norm);
  free(w->output);
  w->layers = NULL;
  w->embed = w->out_norm = w->output = NULL;
}

/* ---- the sequence ---- */

lk_oracle *lk_oracle_open(const lk_oracle_weights *w, const lk_oracle_options *options,
                          size_t n_ctx) {
  lk_oracle *o = zeroed(1, sizeof *o);
  const size_t n_cache = w->n_layers * n_ctx * w->n_kv_heads * w->head_dim;
  require(!options->weight || (options->head && !options->kept), "weights need kinds, no mask");
  o->w = w;
  o->options = *options;
  o->n_ctx = n_ctx;
  o->k = doubles(n_cache);
  o->v = doubles(n_cache);
  o->k8 = doubles(options->int8_middle ? n_cache : 0);
  o->v8 = doubles(options->int8_middle ? n_cache : 0);
  o->q = doubles(w->n_heads * w->head_dim);
  o->attended = doubles(w->n_heads * w->head_dim);
  o->x = doubles(w->hidden);
  o->normed = doubles(w->hidden);
  o->mid = doubles(2 * w->ffn);
  o->logit = doubles(n_ctx + 1);
  o->weight = doubles(n_ctx + 1);
  o->value = zeroed(n_ctx + 1, sizeof *o->value);
  o->mean_value = doubles(w->head_dim);
  return o;
}

void lk_oracle_close(lk_oracle **oracle) {
  lk_oracle *o = *oracle;
  if (!o) return;
  double *all[] = {o->k, o->v,      o->k8,  o->v8,    o->q,      o->attended,
                   o->x, o->normed, o->mid, o->logit, o->weight, o->mean_value};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
  free(o->value);
  free(o);
  *oracle = NULL;
}

size_t lk_oracle_length(const lk_oracle *o) { return o->n_tokens; }
void lk_oracle_set_stats(lk_oracle *o, leank_head_stats *stats) { o->stats = stats; }

void lk_oracle_rewind(lk_oracle *o, size_t n_tokens) {
  require(n_tokens <= o->n_tokens, "rewind beyond the end");
  o->n_tokens = n_tokens;
}

static size_t at(const lk_oracle *o, size_t layer, size_t token, size_t kv_head) {
  return ((layer * o->n_ctx + token) * o->w->n_kv_heads + kv_head) * o->w->head_dim;
}

/* n values, `stride` apart, as the integers nearest to them in units of their largest / 127; in
 * fp32, as what is stored is defined. */
static void quantise(const double *x, size_t n, size_t stride, double *out) {
  double largest = 0;
  for (size_t i = 0; i < n; i++) largest = fmax(largest, fabs(x[i * stride]));
  const float scale = (float)largest / 127.0f;
  for (size_t i = 0; i < n; i++)
    out[i * stride] = scale > 0 ? (double)scale * (double)rintf((float)x[i * stride] / scale) : 0;
}

/* The 64 tokens before `end`. */
static void quantise_group(lk_oracle *o, size_t layer, size_t end) {
  const size_t d = o->w->head_dim, row = o->w->n_kv_heads * d;
  const size_t first = at(o, layer, end - LEANK_PAGE_TOKENS, 0);
  for (size_t c = 0; c < row; c++)
    quantise(o->k + first + c, LEANK_PAGE_TOKENS, row, o->k8 + first + c);
  for (size_t i = 0; i < LEANK_PAGE_TOKENS * o->w->n_kv_heads; i++)
    quantise(o->v + first + i * d, d, 1, o->v8 + first + i * d);
}

void lk_oracle_copy(lk_oracle *to, const lk_oracle *from) {
  require(to->w == from->w && from->n_tokens <= to->n_ctx, "copy between unlike oracles");
  const size_t row = from->w->n_kv_heads * from->w->head_dim;
  for (size_t l = 0; l < from->w->n_layers; l++) {
    memcpy(to->k + at(to, l, 0, 0), from->k + at(from, l, 0, 0),
           from->n_tokens * row * sizeof(double));
    memcpy(to->v + at(to, l, 0, 0), from->v + at(from, l, 0, 0),
           from->n_tokens * row * sizeof(double));
  }
  to->n_tokens = from->n_tokens;
  for (size_t l = 0; l < to->w->n_layers && to->options.int8_middle; l++)
    for (size_t end = LEANK_PAGE_TOKENS; end <= to->n_tokens; end += LEANK_PAGE_TOKENS)
      quantise_group(to, l, end);
}

size_t lk_oracle_middle_end(const lk_oracle *o, size_t n_tokens) {
  const size_t full = o->options.n_sink + o->options.n_recent;
  const size_t beyond = n_tokens > full ? n_tokens - full : 0;
  const size_t step = o->options.step ? o->options.step : LEANK_PAGE_TOKENS;
  return o->options.n_sink + beyond / step * step;
}

/* ---- arithmetic ---- */

static double dot(const double *a, const double *b, size_t n) {
  double sum = 0;
  for (size_t i = 0; i < n; i++) sum += a[i] * b[i];
  return sum;
}

/* y[n_out] = w[n_out][n_in] x + bias */
static void affine(const double *w, const double *bias, const double *x, size_t n_out, size_t n_in,
                   double *y) {
  for (size_t i = 0; i < n_out; i++) y[i] = dot(w + i * n_in, x, n_in) + (bias ? bias[i] : 0);
}

static void rms_norm(const double *x, const double *w, size_t n, double eps, double *y) {
  const double scale = 1 / sqrt(dot(x, x, n) / (double)n + eps);
  for (size_t i = 0; i < n; i++) y[i] = x[i] * scale * w[i];
}

static void rope(double *head, size_t head_dim, double theta, size_t pos) {
  for (size_t i = 0; i < head_dim / 2; i++) {
    const double angle = (double)pos * pow(theta, -2.0 * (double)i / (double)head_dim);
    const double a = head[i], b = head[i + head_dim / 2];
    head[i] = a * cos(angle) - b * sin(angle);
    head[i + head_dim / 2] = a * sin(angle) + b * cos(angle);
  }
}

static double to_bf16(double x) { return (double)lk_bf16_to_f32(lk_f32_to_bf16((float)x)); }

/* 11 bits, the last of them worth 2^-24 or more; at most 65504. */
static double to_f16(double x) {
  int exponent;
  frexp(x, &exponent);
  const int last = exponent > -13 ? exponent - 11 : -24;
  return copysign(fmin(ldexp(nearbyint(ldexp(fabs(x), -last)), last), 65504), x);
}

/* ---- attention of one row ---- */

typedef struct view {
  size_t layer, kv_head;
  size_t row; /* t: position of the row */
  size_t middle_begin, middle_end;
  const uint8_t *kept; /* [D] or NULL */
  size_t n_kept;
  const double *weight; /* [D] or NULL */
  lk_oracle_head head;
  double *mean;     /* [D] mean of the middle's keys, all channels */
  size_t n_entries; /* in logit, weight, value */
} view;

static bool in_middle(const view *s, size_t j) {
  return (s->kept || s->weight) && j >= s->middle_begin && j < s->middle_end;
}

/* weight: how many tokens the entry stands for in the denominator; value: what exp(logit) takes to
 * the numerator, already multiplied by that count. */
static void add_entry(lk_oracle *o, view *s, double logit, double weight, const double *value) {
  o->logit[s->n_entries] = logit;
  o->weight[s->n_entries] = weight;
  o->value[s->n_entries++] = value;
}

static void middle_mean(const lk_oracle *o, view *s) {
  const size_t d = o->w->head_dim;
  memset(s->mean, 0, d * sizeof(double));
  if (s->middle_end <= s->middle_begin) return;
  for (size_t c = 0; c < d; c++) {
    for (size_t j = s->middle_begin; j < s->middle_end; j++)
      s->mean[c] += o->k[at(o, s->layer, j, s->kv_head) + c];
    s->mean[c] /= (double)(s->middle_end - s->middle_begin);
  }
}

/* The middle of a head that keeps nothing, under policy mean. */
static void add_mean_entry(lk_oracle *o, view *s, const double *q, double scale) {
  const size_t d = o->w->head_dim;
  memset(o->mean_value, 0, d * sizeof(double));
  for (size_t j = s->middle_begin; j < s->middle_end; j++)
    for (size_t c = 0; c < d; c++) o->mean_value[c] += o->v[at(o, s->layer, j, s->kv_head) + c];
  add_entry(o, s, scale * dot(q, s->mean, d), (double)(s->middle_end - s->middle_begin),
            o->mean_value);
}

static double middle_logit(const lk_oracle *o, const view *s, const double *q, const double *k) {
  double sum = 0;
  for (size_t c = 0; c < o->w->head_dim; c++) {
    if (s->kept[c])
      sum += q[c] * k[c];
    else if (o->options.mean_compensation)
      sum += q[c] * s->mean[c];
  }
  return sum;
}

static double weighted_logit(const lk_oracle *o, const view *s, const double *q, const double *k) {
  double sum = 0;
  for (size_t c = 0; c < o->w->head_dim; c++) {
    sum += s->weight[c] * q[c] * k[c];
    if (s->head == LK_ORACLE_MEAN) sum += (1 - s->weight[c]) * q[c] * s->mean[c];
  }
  return sum;
}

/* Token j of the middle. */
static void add_middle_entry(lk_oracle *o, view *s, const double *q, const double *k,
                             const double *v, double scale) {
  if (s->weight && s->head != LK_ORACLE_ABSENT)
    add_entry(o, s, scale * weighted_logit(o, s, q, k), 1, v);
  else if (s->n_kept > 0)
    add_entry(o, s, scale * middle_logit(o, s, q, k), 1, v);
  else if (o->options.fault == LK_FAULT_ZERO_LOGIT)
    add_entry(o, s, 0, 1, v);
}

static bool hidden_by_fault(const lk_oracle *o, size_t j, size_t row) {
  return o->options.fault == LK_FAULT_HIDE && j < row && j >= o->options.hide_begin &&
         j < o->options.hide_end;
}

static void collect(lk_oracle *o, view *s, const double *q) {
  const double scale = 1 / sqrt((double)o->w->head_dim);
  for (size_t j = 0; j <= s->row; j++) {
    const double *k = o->k + at(o, s->layer, j, s->kv_head);
    const double *v = o->v + at(o, s->layer, j, s->kv_head);
    if (o->options.int8_middle && in_middle(s, j)) {
      k = o->k8 + at(o, s->layer, j, s->kv_head);
      v = o->v8 + at(o, s->layer, j, s->kv_head);
    }
    if (hidden_by_fault(o, j, s->row)) continue;
    if (!in_middle(s, j))
      add_entry(o, s, scale * dot(q, k, o->w->head_dim), 1, v);
    else
      add_middle_entry(o, s, q, k, v, scale);
  }
  const bool has_middle = s->kept && s->middle_end > s->middle_begin;
  if (has_middle && s->n_kept == 0 && o->options.policy == LEANK_POLICY_MEAN)
    add_mean_entry(o, s, q, scale);
}

/* out[D] = softmax over entries [first, last) of their values; returns the log-sum-exp. */
static double softmax(const lk_oracle *o, size_t first, size_t last, double *out) {
  const size_t d = o->w->head_dim;
  memset(out, 0, d * sizeof(double));
  double largest = -INFINITY, sum = 0;
  for (size_t i = first; i < last; i++) largest = fmax(largest, o->logit[i]);
  for (size_t i = first; i < last; i++) {
    const double p = exp(o->logit[i] - largest);
    sum += p * o->weight[i];
    for (size_t c = 0; c < d; c++) out[c] += p * o->value[i][c];
  }
  for (size_t c = 0; c < d && first < last; c++) out[c] /= sum;
  return largest + log(sum);
}

static void faulty_merge(const lk_oracle *o, const view *s, double *out) {
  const size_t d = o->w->head_dim;
  double *part = doubles(d), *sum = doubles(d), total = 0, reference = 0;
  for (size_t i = 0; i < s->n_entries; i += LEANK_PAGE_TOKENS) {
    const size_t end = i + LEANK_PAGE_TOKENS < s->n_entries ? i + LEANK_PAGE_TOKENS : s->n_entries;
    const double lse = to_bf16(softmax(o, i, end, part));
    if (i == 0) reference = lse;
    const double p = exp(lse - reference);
    total += p;
    for (size_t c = 0; c < d; c++) sum[c] += p * to_bf16(part[c]);
  }
  for (size_t c = 0; c < d; c++) out[c] = sum[c] / total;
  free(part);
  free(sum);
}

static view head_view(const lk_oracle *o, size_t layer, size_t h, size_t row, size_t n_split,
                      double *mean) {
  const size_t d = o->w->head_dim, head = layer * o->w->n_kv_heads + h;
  view s = {.layer = layer,
            .kv_head = h,
            .row = row,
            .middle_begin = o->options.n_sink,
            .middle_end = lk_oracle_middle_end(o, n_split),
            .mean = mean};
  if (o->options.kept) s.kept = o->options.kept + head * d;
  for (size_t c = 0; c < d && s.kept; c++) s.n_kept += s.kept[c];
  if (o->options.weight) {
    s.weight = o->options.weight + head * d;
    s.head = o->options.head[head];
  }
  if (s.kept || s.head == LK_ORACLE_MEAN) middle_mean(o, &s);
  return s;
}

static void attend(lk_oracle *o, size_t layer, size_t row, size_t n_split) {
  const lk_oracle_weights *w = o->w;
  const size_t d = w->head_dim, group = w->n_heads / w->n_kv_heads;
  double *mean = doubles(d);
  for (size_t h = 0; h < w->n_kv_heads; h++) {
    view s = head_view(o, layer, h, row, n_split, mean);
    for (size_t g = 0; g < group; g++) {
      const size_t head = h * group + g;
      s.n_entries = 0;
      collect(o, &s, o->q + head * d);
      if (o->options.fault == LK_FAULT_BF16_MERGE)
        faulty_merge(o, &s, o->attended + head * d);
      else
        softmax(o, 0, s.n_entries, o->attended + head * d);
    }
  }
  free(mean);
}

/* ---- one row through the model ---- */

static void count_stats(const lk_oracle *o, size_t layer, size_t pos) {
  const lk_oracle_weights *w = o->w;
  const size_t d = w->head_dim, group = w->n_heads / w->n_kv_heads;
  for (size_t h = 0; h < w->n_kv_heads; h++)
    for (size_t c = 0; c < d; c++) {
      const size_t i = (layer * w->n_kv_heads + h) * d + c;
      const double k = o->k[at(o, layer, pos, h) + c];
      if (o->stats->k_abs) o->stats->k_abs[i] += fabs(k);
      if (o->stats->k_sq) o->stats->k_sq[i] += k * k;
      for (size_t g = 0; g < group && o->stats->q_sq; g++)
        o->stats->q_sq[i] += o->q[(h * group + g) * d + c] * o->q[(h * group + g) * d + c];
    }
  if (layer == 0) o->stats->n_rows++;
}

static void project_qkv(lk_oracle *o, size_t layer, size_t pos) {
  const lk_oracle_weights *w = o->w;
  const lk_oracle_layer *l = &w->layers[layer];
  const size_t d = w->head_dim, n_kv = w->n_kv_heads * d;
  double *k = o->k + at(o, layer, pos, 0), *v = o->v + at(o, layer, pos, 0);
  rms_norm(o->x, l->attn_norm, w->hidden, w->norm_eps, o->normed);
  affine(l->q, l->q_bias, o->normed, w->n_heads * d, w->hidden, o->q);
  affine(l->k, l->k_bias, o->normed, n_kv, w->hidden, k);
  affine(l->v, l->v_bias, o->normed, n_kv, w->hidden, v);
  for (size_t h = 0; h < w->n_heads; h++) rope(o->q + h * d, d, w->rope_theta, pos);
  for (size_t h = 0; h < w->n_kv_heads; h++) rope(k + h * d, d, w->rope_theta, pos);
  for (size_t i = 0; i < n_kv && o->options.bf16_cache; i++) {
    k[i] = to_bf16(k[i]);
    v[i] = to_bf16(v[i]);
  }
  for (size_t i = 0; i < n_kv && o->options.f16_cache; i++) {
    k[i] = to_f16(k[i]);
    v[i] = to_f16(v[i]);
  }
  if (o->options.int8_middle && (pos + 1) % LEANK_PAGE_TOKENS == 0)
    quantise_group(o, layer, pos + 1);
}

static void feed_forward(lk_oracle *o, const lk_oracle_layer *l) {
  const lk_oracle_weights *w = o->w;
  double *gate = o->mid, *up = o->mid + w->ffn;
  rms_norm(o->x, l->ffn_norm, w->hidden, w->norm_eps, o->normed);
  affine(l->gate, NULL, o->normed, w->ffn, w->hidden, gate);
  affine(l->up, NULL, o->normed, w->ffn, w->hidden, up);
  for (size_t i = 0; i < w->ffn; i++) gate[i] = gate[i] / (1 + exp(-gate[i])) * up[i];
  for (size_t i = 0; i < w->hidden; i++) o->x[i] += dot(l->down + i * w->ffn, gate, w->ffn);
}

/* Appends one token; its row sees the cache as split for n_split tokens. Leaves the normed final
 * hidden state in o->normed. */
static void run_row(lk_oracle *o, leank_token token, size_t n_split) {
  const lk_oracle_weights *w = o->w;
  const size_t pos = o->n_tokens, n_q = w->n_heads * w->head_dim;
  require(pos < o->n_ctx && token >= 0 && (size_t)token < w->n_vocab, "bad token or no room");
  memcpy(o->x, w->embed + (size_t)token * w->hidden, w->hidden * sizeof(double));
  for (size_t layer = 0; layer < w->n_layers; layer++) {
    const lk_oracle_layer *l = &w->layers[layer];
    project_qkv(o, layer, pos);
    if (o->stats) count_stats(o, layer, pos);
    attend(o, layer, pos, n_split);
    for (size_t i = 0; i < w->hidden; i++) o->x[i] += dot(l->o + i * n_q, o->attended, n_q);
    feed_forward(o, l);
  }
  rms_norm(o->x, w->out_norm, w->hidden, w->norm_eps, o->normed);
  o->n_tokens++;
}

void lk_oracle_feed(lk_oracle *o, leank_feed_mode mode, const leank_token *tokens, size_t n,
                    double *logits, double *hidden) {
  const size_t before = o->n_tokens, n_hidden = o->w->hidden;
  for (size_t i = 0; i < n; i++) {
    run_row(o, tokens[i], mode == LEANK_FEED_TURN ? before : o->n_tokens + 1);
    if (hidden) memcpy(hidden + i * n_hidden, o->normed, n_hidden * sizeof(double));
    if (logits)
      affine(o->w->output, NULL, o->normed, o->w->n_vocab, n_hidden, logits + i * o->w->n_vocab);
  }
}
