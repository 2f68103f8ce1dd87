/* Learning on a CUDA device: gradients, and attention under channel weights. */
#include <string.h>

#include "backend/cuda.h"
#include "backend/flops.h"

_Static_assert((int)LK_CUDA_WEIGHTED_PLAIN == (int)LK_WEIGHTED_PLAIN &&
                   (int)LK_CUDA_WEIGHTED_MEAN == (int)LK_WEIGHTED_MEAN &&
                   (int)LK_CUDA_WEIGHTED_ABSENT == (int)LK_WEIGHTED_ABSENT,
               "one numbering");

/* ---- products and rows ---- */

leank_status lk_cuda_op_linear_backward(lk_backend *be, const lk_tensor *w, const float *dy,
                                        size_t n_rows, bool add, float *dx, leank_error *err) {
  leank_status status = LEANK_OK;
  lk_cuda_backend *cuda = lk_cuda(be);
  lk_cuda_linear_grad job = {.dy = dy,
                             .dx = dx,
                             .n_rows = n_rows,
                             .n_out = (uint32_t)w->n_rows,
                             .n_in = (uint32_t)w->n_cols,
                             .add = add};
  LK_TRY(lk_cuda_store_matrix(cuda->store, w, &job.w, err));
  LK_TRY(lk_cuda_reserve_parts(cuda, n_rows, w->n_rows, err));
  cuda->api->linear_backward(cuda->dev, &job);
  cuda->n_flops += lk_product_flops(w, n_rows);
cleanup:
  return status;
}

void lk_cuda_op_rms_norm_backward(lk_backend *be, const float *x, size_t n_rows, size_t n,
                                  const lk_tensor *w, float eps, const float *dy, float *dx) {
  lk_cuda_backend *cuda = lk_cuda(be);
  leank_error err = {0};
  const void *weights = NULL;
  if (lk_cuda_store_vector(cuda->store, w->data, n * sizeof(float), &weights, &err) == LEANK_OK)
    cuda->api->rms_norm_backward(cuda->dev, x, n_rows, n, weights, eps, dy, dx);
  else
    lk_cuda_keep_failure(cuda, err.code, err.message);
}

void lk_cuda_op_swiglu_backward(lk_backend *be, const float *gate, const float *up, size_t n,
                                const float *dout, float *dgate, float *dup) {
  lk_cuda(be)->api->swiglu_backward(lk_cuda(be)->dev, gate, up, n, dout, dgate, dup);
}

/* ---- attention under channel weights ---- */

/* Where the lists of a job lie in one copy, in bytes. */
typedef struct lists {
  size_t groups, tables, middle_end, kind, n_bytes;
} lists;

static size_t pages_of(const lk_weighted_rows *s) {
  return ((size_t)s->first_pos + s->n_rows - 1) / LK_CUDA_P + 1;
}

/* Sizes of the job; LEANK_E_STATE where the sequences' rows do not follow each other. */
static leank_status measure(const lk_weighted_rows *rows, size_t n, lk_cuda_weighted *job,
                            size_t *n_entries, leank_error *err) {
  *n_entries = 0;
  for (size_t i = 0; i < n; i++) {
    const lk_weighted_rows *s = &rows[i];
    if (s->first_row != job->n_rows || s->n_rows == 0)
      return lk_fail(err, LEANK_E_STATE, -1, "cuda: rows of sequences do not follow each other");
    job->n_rows += s->n_rows;
    job->n_own += (uint64_t)s->n_rows * s->n_rows;
    if (s->n_rows > job->max_rows) job->max_rows = s->n_rows;
    if (pages_of(s) > job->max_pages) job->max_pages = pages_of(s);
    *n_entries += pages_of(s);
  }
  return LEANK_OK;
}

static lists lay_out(const lk_cuda_weighted *job, size_t n_entries) {
  lists at = {0};
  at.tables = job->n_groups * sizeof(lk_cuda_weighted_group);
  at.middle_end = at.tables + n_entries * sizeof(lk_page_entry);
  at.kind = at.middle_end + job->n_rows * sizeof(uint32_t);
  at.n_bytes = at.kind + job->n_kv_heads;
  return at;
}

static void fill(const lk_channel_weights *weights, const lk_weighted_rows *rows,
                 const lk_cuda_weighted *job, const lists *at, unsigned char *memory) {
  lk_cuda_weighted_group *groups = (lk_cuda_weighted_group *)(memory + at->groups);
  lk_page_entry *tables = (lk_page_entry *)(memory + at->tables);
  uint32_t *middle_end = (uint32_t *)(memory + at->middle_end);
  uint64_t table = 0, own = 0;
  for (size_t i = 0; i < job->n_groups; i++) {
    const lk_weighted_rows *s = &rows[i];
    lk_cuda_weighted_group g = {.sums = s->sums,
                                .first_row = s->first_row,
                                .n_rows = s->n_rows,
                                .first_pos = (uint64_t)s->first_pos,
                                .middle_begin = s->middle_begin,
                                .table = table,
                                .own_before = own};
    for (int kind = 0; kind < LK_N_PAGE_KINDS; kind++) {
      g.arena[kind] = s->view->arena[kind];
      g.page_bytes[kind] = s->view->page_bytes[kind];
    }
    groups[i] = g;
    memcpy(tables + table, s->table, pages_of(s) * sizeof *tables);
    for (size_t r = 0; r < s->n_rows; r++)
      middle_end[s->first_row + r] = (uint32_t)s->middle_end[r];
    table += pages_of(s);
    own += (uint64_t)s->n_rows * s->n_rows;
  }
  for (size_t h = 0; h < job->n_kv_heads; h++) memory[at->kind + h] = (uint8_t)weights->kind[h];
}

/* Fills the job but for its rows; the lists are on their way to the device. */
static leank_status make_job(lk_cuda_backend *cuda, const lk_attn_shape *shape,
                             const lk_channel_weights *weights, const lk_weighted_rows *rows,
                             size_t n_sequences, bool backward, lk_cuda_weighted *job,
                             leank_error *err) {
  leank_status status = LEANK_OK;
  size_t n_entries;
  *job = (lk_cuda_weighted){.weight = weights->weight,
                            .n_groups = (uint32_t)n_sequences,
                            .n_heads = (uint32_t)shape->n_heads,
                            .n_kv_heads = (uint32_t)shape->n_kv_heads,
                            .head_dim = (uint32_t)shape->head_dim};
  LK_TRY(measure(rows, n_sequences, job, &n_entries, err));
  const lists at = lay_out(job, n_entries);
  LK_TRY(lk_cuda_grow(cuda, &cuda->weighted_lists, at.n_bytes, err));
  LK_TRY(lk_cuda_grow(cuda, &cuda->weighted_scratch,
                      cuda->api->weighted_scratch_bytes(job, backward), err));
  unsigned char *memory = lk_cuda_ring_take(cuda, at.n_bytes);
  if (!memory) return lk_cuda_tell(cuda, err);
  fill(weights, rows, job, &at, memory);
  unsigned char *device = cuda->weighted_lists.p;
  cuda->api->upload(cuda->dev, device, memory, at.n_bytes);
  job->groups = (const lk_cuda_weighted_group *)(device + at.groups);
  job->tables = (const lk_page_entry *)(device + at.tables);
  job->middle_end = (const uint32_t *)(device + at.middle_end);
  job->kind = device + at.kind;
  job->scratch = cuda->weighted_scratch.p;
cleanup:
  return status;
}

leank_status lk_cuda_op_attend_weighted(lk_backend *be, const lk_attn_shape *shape,
                                        const lk_channel_weights *weights,
                                        const lk_weighted_rows *rows, size_t n_sequences,
                                        const float *q, float *out, float *lse, leank_error *err) {
  lk_cuda_backend *cuda = lk_cuda(be);
  lk_cuda_weighted job;
  const leank_status status = make_job(cuda, shape, weights, rows, n_sequences, false, &job, err);
  if (status != LEANK_OK) return status;
  job.q = q;
  job.out = out;
  job.lse = lse;
  cuda->api->weighted(cuda->dev, &job);
  cuda->n_flops += LK_WEIGHTED_FLOPS * (double)shape->head_dim *
                   lk_weighted_pairs(shape, weights, rows, n_sequences);
  return LEANK_OK;
}

leank_status lk_cuda_op_attend_weighted_backward(lk_backend *be, const lk_attn_shape *shape,
                                                 const lk_channel_weights *weights,
                                                 const lk_weighted_rows *rows, size_t n_sequences,
                                                 const float *q, const float *out, const float *lse,
                                                 const float *dout, float *dq, float *dk, float *dv,
                                                 double *dweight, leank_error *err) {
  lk_cuda_backend *cuda = lk_cuda(be);
  lk_cuda_weighted job;
  const leank_status status = make_job(cuda, shape, weights, rows, n_sequences, true, &job, err);
  if (status != LEANK_OK) return status;
  job.q = q;
  job.out = (float *)(uintptr_t)out; /* read here */
  job.lse = (float *)(uintptr_t)lse;
  job.dout = dout;
  job.dq = dq;
  job.dk = dk;
  job.dv = dv;
  job.dweight = dweight;
  cuda->api->weighted_backward(cuda->dev, &job);
  cuda->n_flops += LK_WEIGHTED_BACKWARD_FLOPS * (double)shape->head_dim *
                   lk_weighted_pairs(shape, weights, rows, n_sequences);
  return LEANK_OK;
}
