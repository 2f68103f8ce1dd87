/* The CPU backend: attention of answer rows under channel weights, forward and backward.
 *
 * A wide page of the middle is shown to the kernels as a lean one that keeps every channel, with
 * the weights multiplied into its queries; so the kernels of deployment compute the forward pass.
 * Where a row's middle ends inside a page (the published procedure slides by token), the page is
 * shown twice: its first keys weighted, the rest, copied, in full.
 *
 * Forward: an item is (block of rows with one middle, kv head). Backward: an item is (sequence, kv
 * head), which goes through its blocks in order and owns every sum it adds to; the sums over
 * sequences are added in their order. So no result depends on threads. */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "backend/cpu.h"
#include "backend/flops.h"

/* What one thread works with. */
typedef struct worker {
  lk_page_view *views;  /* [max_pages + 1] */
  float **dk, **dv;     /* [max_pages + 1] into key_grads, or NULL */
  float *q, *q_lean;    /* [M][D] scaled; times the weights */
  float *bias, *dbias;  /* [M] */
  float *lse, *delta;   /* [M] */
  float *m, *l;         /* [M] */
  float *o, *dout;      /* [M][D] */
  float *dq, *dq_lean;  /* [M][D] */
  float *mean;          /* [D] of the middle's keys */
  int64_t *pos;         /* [M] */
  unsigned char *split; /* a head's segment: the keys of a cut page that are seen in full */
  void *scratch;        /* of either kernel */
  float *key_grads;     /* [2][pages of the rows][P][D] */
  size_t key_grads_n;   /* floats */
} worker;

struct lk_cpu_weighted {
  worker *workers; /* [n_threads] */
  double *dweight; /* [sequences][Hk][D] */
  size_t dweight_n;
};

typedef struct block {
  size_t sequence, first, n; /* rows [first, first + n) of the sequence */
} block;

typedef struct job {
  lk_cpu_backend *cpu;
  struct lk_cpu_weighted *state;
  const lk_attn_shape *shape;
  const lk_channel_weights *weights;
  const lk_weighted_rows *rows; /* [sequences] */
  size_t n_sequences;
  const block *blocks; /* forward */
  const float *q, *out, *lse, *dout;
  float *to_out, *to_lse;
  float *dq, *dk, *dv;
} job;

/* ---- opening and closing ---- */

static bool open_worker(worker *w, const lk_backend_options *o, size_t m) {
  const size_t d = o->shape.head_dim, n_views = o->max_pages + 1;
  const size_t forward = lk_attend_scratch_bytes(o->kv_type, m, d);
  const size_t backward = lk_attend_backward_scratch_bytes(m, d);
  float **rows[] = {&w->q, &w->q_lean, &w->o, &w->dout, &w->dq, &w->dq_lean};
  float **numbers[] = {&w->bias, &w->dbias, &w->lse, &w->delta, &w->m, &w->l};
  bool ok = true;
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
    ok = (*rows[i] = lk_alloc(LK_MEM_SCRATCH, m * d, sizeof(float))) && ok;
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
    ok = (*numbers[i] = lk_alloc(LK_MEM_SCRATCH, m, sizeof(float))) && ok;
  w->views = lk_alloc(LK_MEM_SCRATCH, n_views, sizeof *w->views);
  w->dk = lk_alloc(LK_MEM_SCRATCH, n_views, sizeof *w->dk);
  w->dv = lk_alloc(LK_MEM_SCRATCH, n_views, sizeof *w->dv);
  w->mean = lk_alloc(LK_MEM_SCRATCH, d, sizeof(float));
  w->pos = lk_alloc(LK_MEM_SCRATCH, m, sizeof *w->pos);
  w->split = lk_alloc(LK_MEM_SCRATCH,
                      lk_segment_k_bytes(o->kv_type, LK_PAGE_WIDE, d) +
                          lk_segment_v_bytes(o->kv_type, LK_PAGE_WIDE, d),
                      1);
  w->scratch = lk_alloc(LK_MEM_SCRATCH, forward > backward ? forward : backward, 1);
  return ok && w->views && w->dk && w->dv && w->mean && w->pos && w->split && w->scratch;
}

static void close_worker(worker *w) {
  void *all[] = {w->views,   w->dk,    w->dv,  w->q,     w->q_lean,  w->bias,     w->dbias,
                 w->lse,     w->delta, w->m,   w->l,     w->o,       w->dout,     w->dq,
                 w->dq_lean, w->mean,  w->pos, w->split, w->scratch, w->key_grads};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) lk_free(all[i]);
}

void lk_cpu_weighted_close(lk_cpu_backend *cpu) {
  struct lk_cpu_weighted *state = cpu->weighted;
  if (!state) return;
  for (size_t i = 0; state->workers && i < cpu->options.n_threads; i++)
    close_worker(&state->workers[i]);
  lk_free(state->workers);
  lk_free(state->dweight);
  lk_free(state);
  cpu->weighted = NULL;
}

static leank_status open_state(lk_cpu_backend *cpu, leank_error *err) {
  leank_status status = LEANK_OK;
  if (cpu->weighted) return LEANK_OK;
  assert(cpu->options.kv_type != LEANK_KV_Q8); /* its lean pages are no wide ones */
  cpu->weighted = lk_alloc(LK_MEM_SCRATCH, 1, sizeof *cpu->weighted);
  LK_FAIL_IF(!cpu->weighted, err, LEANK_E_MEMORY, -1, "out of memory");
  cpu->weighted->workers = lk_alloc(LK_MEM_SCRATCH, cpu->options.n_threads, sizeof(worker));
  LK_FAIL_IF(!cpu->weighted->workers, err, LEANK_E_MEMORY, -1, "out of memory");
  for (size_t i = 0; i < cpu->options.n_threads; i++)
    LK_FAIL_IF(!open_worker(&cpu->weighted->workers[i], &cpu->options, cpu->max_query_rows), err,
               LEANK_E_MEMORY, -1, "out of memory for the attention of answer rows");
cleanup:
  if (status != LEANK_OK) lk_cpu_weighted_close(cpu);
  return status;
}

/* ---- blocks of rows that share a middle ---- */

static size_t group_size(const lk_attn_shape *s) { return s->n_heads / s->n_kv_heads; }

/* The end of the block that begins at row `first` of a sequence. */
static size_t block_end(const job *j, const lk_weighted_rows *s, size_t first) {
  const size_t most = j->cpu->max_query_rows / group_size(j->shape);
  size_t end = first + 1;
  while (end < s->n_rows && end - first < most && s->middle_end[end] == s->middle_end[first]) end++;
  return end;
}

static size_t list_blocks(const job *j, block *out) {
  size_t n = 0;
  for (size_t i = 0; i < j->n_sequences; i++)
    for (size_t r = 0, end; r < j->rows[i].n_rows; r = end, n++) {
      end = block_end(j, &j->rows[i], r);
      if (out) out[n] = (block){i, r, end - r};
    }
  return n;
}

/* ---- what a block sees ---- */

static unsigned char *head_segment(const job *j, const lk_weighted_rows *s, size_t page, size_t h) {
  return lk_view_page(s->view, s->table[page]) +
         h * lk_cpu_wide_segment_bytes(j->cpu, j->shape->head_dim);
}

/* Copies keys [first, P) of a segment to the front of another. */
static void copy_keys(const job *j, const unsigned char *from, size_t first, unsigned char *to) {
  const leank_kv_type type = j->cpu->options.kv_type;
  const size_t d = j->shape->head_dim, e = lk_kv_interleave(type), size = lk_kv_bytes(type);
  const size_t k_bytes = lk_segment_k_bytes(type, LK_PAGE_WIDE, d), v_row = d * size;
  for (size_t key = first; key < LK_PAGE_TOKENS; key++)
    for (size_t c = 0; c < d; c += e)
      memcpy(to + lk_k_index(e, d, key - first, c) * size, from + lk_k_index(e, d, key, c) * size,
             e * size);
  memcpy(to + k_bytes, from + k_bytes + first * v_row, (LK_PAGE_TOKENS - first) * v_row);
}

/* Views of all pages up to last_pos as head h of a block sees them; returns the count. */
static size_t make_views(const job *j, const lk_weighted_rows *s, size_t h, size_t middle_end,
                         int64_t last_pos, worker *w) {
  const size_t k_bytes =
      lk_segment_k_bytes(j->cpu->options.kv_type, LK_PAGE_WIDE, j->shape->head_dim);
  const bool absent = j->weights->kind[h] == LK_WEIGHTED_ABSENT;
  size_t n = 0;
  for (size_t p = 0; (int64_t)(p * LK_PAGE_TOKENS) <= last_pos; p++) {
    const size_t pos = p * LK_PAGE_TOKENS, left = (size_t)last_pos + 1 - pos;
    const uint32_t n_keys = left < LK_PAGE_TOKENS ? (uint32_t)left : LK_PAGE_TOKENS;
    const unsigned char *k = head_segment(j, s, p, h);
    size_t n_middle = pos >= s->middle_begin && pos < middle_end ? middle_end - pos : 0;
    if (n_middle > n_keys) n_middle = n_keys;
    if (n_middle > 0 && !absent)
      w->views[n++] = (lk_page_view){k, k + k_bytes, (int64_t)pos, (uint32_t)n_middle, 1};
    if (n_middle == n_keys) continue;
    if (n_middle > 0) {
      copy_keys(j, k, n_middle, w->split);
      k = w->split;
    }
    w->views[n++] =
        (lk_page_view){k, k + k_bytes, (int64_t)(pos + n_middle), n_keys - (uint32_t)n_middle, 0};
  }
  return n;
}

static void middle_mean(const job *j, const lk_weighted_rows *s, size_t h, size_t middle_end,
                        float *mean) {
  const size_t d = j->shape->head_dim, n = middle_end - s->middle_begin;
  memset(mean, 0, d * sizeof(float));
  if (j->weights->kind[h] != LK_WEIGHTED_MEAN || n == 0) return;
  const float *sum = s->sums + ((n / LK_PAGE_TOKENS) * j->shape->n_kv_heads + h) * 2 * d;
  const float per_token = 1.0f / (float)n;
  for (size_t c = 0; c < d; c++) mean[c] = sum[c] * per_token;
}

/* Row i of a block's M = n * G: the (row, query head) it stands for. */
static size_t query_index(const job *j, const lk_weighted_rows *s, size_t first, size_t h,
                          size_t i) {
  const size_t per = group_size(j->shape);
  return (s->first_row + first + i / per) * j->shape->n_heads + h * per + i % per;
}

static void prepare(const job *j, const lk_weighted_rows *s, block b, size_t h, worker *w) {
  const size_t d = j->shape->head_dim, per = group_size(j->shape);
  const float scale = (float)(1.0 / sqrt((double)d));
  const float *weight = j->weights->weight + h * d;
  middle_mean(j, s, h, s->middle_end[b.first], w->mean);
  for (size_t i = 0; i < b.n * per; i++) {
    const float *q = j->q + query_index(j, s, b.first, h, i) * d;
    float *full = w->q + i * d, *lean = w->q_lean + i * d, bias = 0;
    for (size_t c = 0; c < d; c++) {
      full[c] = q[c] * scale;
      lean[c] = full[c] * weight[c];
      bias += (full[c] - lean[c]) * w->mean[c];
    }
    w->bias[i] = bias;
    w->pos[i] = s->first_pos + (int64_t)(b.first + i / per);
  }
}

/* ---- forward ---- */

static void forward_item(void *ctx, size_t item, size_t thread) {
  const job *j = ctx;
  const size_t d = j->shape->head_dim, per = group_size(j->shape);
  const block b = j->blocks[item / j->shape->n_kv_heads];
  const size_t h = item % j->shape->n_kv_heads;
  const lk_weighted_rows *s = &j->rows[b.sequence];
  worker *w = &j->state->workers[thread];
  const int64_t last_pos = s->first_pos + (int64_t)(b.first + b.n - 1);
  prepare(j, s, b, h, w);
  const lk_attend_args args = {.n_q = b.n * per,
                               .head_dim = d,
                               .n_lean = d,
                               .q = w->q,
                               .q_lean = w->q_lean,
                               .lean_bias =
                                   j->weights->kind[h] == LK_WEIGHTED_MEAN ? w->bias : NULL,
                               .q_pos = w->pos,
                               .pages = w->views,
                               .n_pages = make_views(j, s, h, s->middle_end[b.first], last_pos, w),
                               .m = w->m,
                               .l = w->l,
                               .o = w->o,
                               .scratch = w->scratch};
  j->cpu->attend->rows(&args);
  for (size_t i = 0; i < args.n_q; i++) {
    const size_t at = query_index(j, s, b.first, h, i);
    lk_attend_merge(1, w->m + i, w->l + i, 1, w->o + i * d, d, d, j->to_out + at * d);
    j->to_lse[at] = w->m[i] + logf(w->l[i]);
  }
}

leank_status lk_cpu_attend_weighted(lk_backend *be, const lk_attn_shape *shape,
                                    const lk_channel_weights *weights, const lk_weighted_rows *rows,
                                    size_t n_sequences, const float *q, float *out, float *lse,
                                    leank_error *err) {
  leank_status status = LEANK_OK;
  lk_cpu_backend *cpu = lk_cpu(be);
  block *blocks = NULL;
  LK_TRY(open_state(cpu, err));
  job j = {.cpu = cpu,
           .state = cpu->weighted,
           .shape = shape,
           .weights = weights,
           .rows = rows,
           .n_sequences = n_sequences,
           .q = q,
           .to_out = out,
           .to_lse = lse};
  const size_t n_blocks = list_blocks(&j, NULL);
  blocks = lk_alloc(LK_MEM_SCRATCH, n_blocks, sizeof *blocks);
  LK_FAIL_IF(!blocks, err, LEANK_E_MEMORY, -1, "out of memory");
  list_blocks(&j, blocks);
  j.blocks = blocks;
  lk_parallel_for(cpu->team, n_blocks * shape->n_kv_heads, forward_item, &j);
  cpu->n_flops += LK_WEIGHTED_FLOPS * (double)shape->head_dim *
                  lk_weighted_pairs(shape, weights, rows, n_sequences);
cleanup:
  lk_free(blocks);
  return status;
}

/* ---- backward ---- */

static size_t first_own_page(const lk_weighted_rows *s) {
  return (size_t)s->first_pos / LK_PAGE_TOKENS;
}
/* Pages that hold the rows' own keys. */
static size_t n_own_pages(const lk_weighted_rows *s) {
  return ((size_t)s->first_pos + s->n_rows - 1) / LK_PAGE_TOKENS + 1 - first_own_page(s);
}

/* The first position that key_grads hold; in front of the rows' own there may be prompt keys. */
static size_t first_grad(const lk_weighted_rows *s) { return first_own_page(s) * LK_PAGE_TOKENS; }

/* Where the gradients of each view's K and V go: those of pages with keys of the rows themselves.
 * With a small window such pages may be weighted, or cut: a view then begins inside its page. */
static void aim_key_grads(const job *j, const lk_weighted_rows *s, size_t n_views, worker *w) {
  const size_t d = j->shape->head_dim, n = n_own_pages(s) * LK_PAGE_TOKENS * d;
  for (size_t i = 0; i < n_views; i++) {
    const size_t pos = (size_t)w->views[i].pos;
    w->dk[i] = pos >= first_grad(s) ? w->key_grads + (pos - first_grad(s)) * d : NULL;
    w->dv[i] = w->dk[i] ? w->dk[i] + n : NULL;
  }
}

/* The gradients that come in, and zeros where sums will go. */
static void prepare_gradients(const job *j, const lk_weighted_rows *s, block b, size_t h,
                              worker *w) {
  const size_t d = j->shape->head_dim, n_q = b.n * group_size(j->shape);
  for (size_t i = 0; i < n_q; i++) {
    const size_t at = query_index(j, s, b.first, h, i);
    const float *dout = j->dout + at * d, *out = j->out + at * d;
    float delta = 0;
    for (size_t c = 0; c < d; c++) delta += dout[c] * out[c];
    memcpy(w->dout + i * d, dout, d * sizeof(float));
    w->delta[i] = delta;
    w->lse[i] = j->lse[at];
    w->dbias[i] = 0;
  }
  memset(w->dq, 0, n_q * d * sizeof(float));
  memset(w->dq_lean, 0, n_q * d * sizeof(float));
}

/* From the gradients of scaled and weighted queries to those of q and of the weights. */
static void fold(const job *j, const lk_weighted_rows *s, block b, size_t h, const worker *w,
                 double *dweight) {
  const size_t d = j->shape->head_dim, n_q = b.n * group_size(j->shape);
  const float scale = (float)(1.0 / sqrt((double)d));
  const float *weight = j->weights->weight + h * d;
  for (size_t i = 0; i < n_q; i++) {
    float *dq = j->dq + query_index(j, s, b.first, h, i) * d;
    for (size_t c = 0; c < d; c++) {
      const float lean = w->dq_lean[i * d + c], from_mean = w->dbias[i] * w->mean[c];
      dq[c] = scale * (w->dq[i * d + c] + weight[c] * lean + (1 - weight[c]) * from_mean);
      dweight[c] += (double)w->q[i * d + c] * (double)(lean - from_mean);
    }
  }
}

/* Own keys that are part of the middle's mean get its gradient too, in equal shares. */
static void add_mean_grads(const job *j, const lk_weighted_rows *s, block b, size_t h, worker *w) {
  const size_t d = j->shape->head_dim, end = s->middle_end[b.first];
  const size_t own =
      (size_t)s->first_pos > s->middle_begin ? (size_t)s->first_pos : s->middle_begin;
  if (j->weights->kind[h] != LK_WEIGHTED_MEAN || own >= end) return;
  const float per_token = 1.0f / (float)(end - s->middle_begin);
  float *grad = w->mean; /* has served */
  memset(grad, 0, d * sizeof(float));
  for (size_t i = 0; i < b.n * group_size(j->shape); i++)
    for (size_t c = 0; c < d; c++)
      grad[c] += per_token * w->dbias[i] * (w->q[i * d + c] - w->q_lean[i * d + c]);
  for (size_t pos = own; pos < end; pos++)
    for (size_t c = 0; c < d; c++) w->key_grads[(pos - first_grad(s)) * d + c] += grad[c];
}

static void backward_block(const job *j, const lk_weighted_rows *s, block b, size_t h, worker *w,
                           double *dweight) {
  const int64_t last_pos = s->first_pos + (int64_t)(b.first + b.n - 1);
  const bool has_mean = j->weights->kind[h] == LK_WEIGHTED_MEAN;
  prepare(j, s, b, h, w);
  prepare_gradients(j, s, b, h, w);
  const size_t n_views = make_views(j, s, h, s->middle_end[b.first], last_pos, w);
  aim_key_grads(j, s, n_views, w);
  const lk_attend_backward_args args = {.n_q = b.n * group_size(j->shape),
                                        .head_dim = j->shape->head_dim,
                                        .n_lean = j->shape->head_dim,
                                        .q = w->q,
                                        .q_lean = w->q_lean,
                                        .lean_bias = has_mean ? w->bias : NULL,
                                        .q_pos = w->pos,
                                        .pages = w->views,
                                        .n_pages = n_views,
                                        .lse = w->lse,
                                        .dout = w->dout,
                                        .delta = w->delta,
                                        .dq = w->dq,
                                        .dq_lean = w->dq_lean,
                                        .dbias = has_mean ? w->dbias : NULL,
                                        .dk = w->dk,
                                        .dv = w->dv,
                                        .scratch = w->scratch};
  j->cpu->attend_backward->fn(&args);
  fold(j, s, b, h, w, dweight);
  add_mean_grads(j, s, b, h, w);
}

static void backward_item(void *ctx, size_t item, size_t thread) {
  const job *j = ctx;
  const size_t d = j->shape->head_dim, n_kv = j->shape->n_kv_heads, h = item % n_kv;
  const lk_weighted_rows *s = &j->rows[item / n_kv];
  worker *w = &j->state->workers[thread];
  double *dweight = j->state->dweight + item * d;
  const size_t n_grads = n_own_pages(s) * LK_PAGE_TOKENS * d;
  memset(dweight, 0, d * sizeof(double));
  memset(w->key_grads, 0, 2 * n_grads * sizeof(float));
  for (size_t r = 0, end; r < s->n_rows; r = end) {
    end = block_end(j, s, r);
    backward_block(j, s, (block){item / n_kv, r, end - r}, h, w, dweight);
  }
  for (size_t r = 0; r < s->n_rows; r++) {
    const size_t to = ((s->first_row + r) * n_kv + h) * d;
    const size_t from = ((size_t)s->first_pos % LK_PAGE_TOKENS + r) * d;
    memcpy(j->dk + to, w->key_grads + from, d * sizeof(float));
    memcpy(j->dv + to, w->key_grads + n_grads + from, d * sizeof(float));
  }
}

static leank_status reserve_sums(job *j, leank_error *err) {
  leank_status status = LEANK_OK;
  struct lk_cpu_weighted *state = j->state;
  const size_t d = j->shape->head_dim, n = j->n_sequences * j->shape->n_kv_heads * d;
  size_t n_grads = 0;
  for (size_t i = 0; i < j->n_sequences; i++) {
    const size_t needs = 2 * n_own_pages(&j->rows[i]) * LK_PAGE_TOKENS * d;
    n_grads = needs > n_grads ? needs : n_grads;
  }
  if (state->dweight_n < n) {
    lk_free(state->dweight);
    state->dweight_n = 0;
    state->dweight = lk_alloc(LK_MEM_SCRATCH, n, sizeof(double));
    LK_FAIL_IF(!state->dweight, err, LEANK_E_MEMORY, -1, "out of memory");
    state->dweight_n = n;
  }
  for (size_t t = 0; t < j->cpu->options.n_threads; t++) {
    worker *w = &state->workers[t];
    if (w->key_grads_n >= n_grads) continue;
    lk_free(w->key_grads);
    w->key_grads_n = 0;
    w->key_grads = lk_alloc(LK_MEM_SCRATCH, n_grads, sizeof(float));
    LK_FAIL_IF(!w->key_grads, err, LEANK_E_MEMORY, -1, "out of memory");
    w->key_grads_n = n_grads;
  }
cleanup:
  return status;
}

leank_status lk_cpu_attend_weighted_backward(lk_backend *be, const lk_attn_shape *shape,
                                             const lk_channel_weights *weights,
                                             const lk_weighted_rows *rows, size_t n_sequences,
                                             const float *q, const float *out, const float *lse,
                                             const float *dout, float *dq, float *dk, float *dv,
                                             double *dweight, leank_error *err) {
  leank_status status = LEANK_OK;
  lk_cpu_backend *cpu = lk_cpu(be);
  LK_TRY(open_state(cpu, err));
  job j = {.cpu = cpu,
           .state = cpu->weighted,
           .shape = shape,
           .weights = weights,
           .rows = rows,
           .n_sequences = n_sequences,
           .q = q,
           .out = out,
           .lse = lse,
           .dout = dout,
           .dq = dq,
           .dk = dk,
           .dv = dv};
  LK_TRY(reserve_sums(&j, err));
  const size_t n_weights = shape->n_kv_heads * shape->head_dim;
  lk_parallel_for(cpu->team, n_sequences * shape->n_kv_heads, backward_item, &j);
  cpu->n_flops += LK_WEIGHTED_BACKWARD_FLOPS * (double)shape->head_dim *
                  lk_weighted_pairs(shape, weights, rows, n_sequences);
  for (size_t i = 0; i < n_sequences; i++)
    for (size_t c = 0; c < n_weights; c++) dweight[c] += cpu->weighted->dweight[i * n_weights + c];
cleanup:
  return status;
}
