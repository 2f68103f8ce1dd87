/* Op "attend_backward" over the vectors of an attend_vec_*.h, which the file includes before.
 *
 * A page is widened to fp32 once, in every order its products want; then blocks of rows meet it.
 * All five products are the same one: rows of factors times vectors, one multiply-add per element
 * and step in ascending order of the steps, so that no bit depends on how rows fall into tiles.
 * Lanes of keys that a row does not see may hold anything until p and dx are formed: there they
 * become 0 by selection. The sum over keys in dq ends where the row's sight ends. */
#ifndef LK_KERNELS_ATTEND_BACKWARD_IMPL_H
#define LK_KERNELS_ATTEND_BACKWARD_IMPL_H

#include <stdbool.h>

#include "kernels/attention/attend_backward.h"
#include "kernels/attention/attend_backward_product.h"
#include "kernels/attention/attend_backward_scratch.h"
#include "kernels/attention/attend_exp.h"

typedef struct backward_job {
  const lk_attend_backward_args *args;
  size_t k_row;      /* floats between keys in k: D padded */
  float *k_channels; /* [n][64]: K of the present page by channel */
  float *k;          /* [64][k_row]: the same by key */
  float *v_channels; /* [D][64]: its V by channel */
  float *p, *x;      /* [block rows][64]: dout V^T, then probabilities; logits, then dx */
} backward_job;

/* A block of rows meets a page. */
typedef struct row_block {
  size_t row, n_rows;
  size_t n_seen[LK_BACKWARD_BLOCK_ROWS]; /* keys of the page that each row sees */
  size_t max_seen;
} row_block;

/* ---- pages in fp32 ---- */

LK_INLINE void zip_round(const vf in[VW], vf out[VW]) {
  LK_UNROLL
  for (int i = 0; i < VW / 2; i++) v_zip(in[i], in[i + VW / 2], out + 2 * i, out + 2 * i + 1);
}

/* out[VW][VW] = in^T: log2(VW) perfect shuffles of the rows. */
LK_INLINE void transpose(vf in[VW], vf out[VW]) {
  vf a[VW], b[VW];
  zip_round(in, a);
  zip_round(a, VW == 4 ? out : b);
  if (VW == 8) {
    zip_round(b, out);
  } else if (VW == 16) {
    zip_round(b, a);
    zip_round(a, out);
  }
}

/* K of a page to k_channels. */
LK_INLINE void widen_k(const backward_job *job, leank_kv_type type, size_t n, const void *k) {
  const size_t e = lk_kv_interleave(type);
  for (size_t block = 0; block < LK_PAGE_TOKENS; block += LK_KEY_BLOCK)
    for (size_t c = 0; c < n; c += e)
      for (size_t j = 0; j < LK_KEY_BLOCK; j += VW) {
        const char *at = (const char *)k + (lk_k_index(e, n, block, c) + j * e) * lk_kv_bytes(type);
        float *to = job->k_channels + c * LK_PAGE_TOKENS + block + j;
        const vf x = v_load(at);
        v_store(to, type == LEANK_KV_F32 ? x : v_even(x));
        if (type == LEANK_KV_BF16) v_store(to + LK_PAGE_TOKENS, v_odd(x));
      }
}

/* k_channels to k, by squares of keys and channels. */
static void transpose_k(const backward_job *job, size_t n, size_t n_keys) {
  for (size_t c = 0; c < n; c += VW)
    for (size_t j = 0; j < n_keys; j += VW) {
      vf in[VW], out[VW];
      LK_UNROLL
      for (size_t i = 0; i < VW; i++)
        in[i] = c + i < n ? v_load(job->k_channels + (c + i) * LK_PAGE_TOKENS + j) : v_zero();
      transpose(in, out);
      LK_UNROLL
      for (size_t i = 0; i < VW; i++) v_store(job->k + (j + i) * job->k_row + c, out[i]);
    }
}

/* The channels c, c + step, .. of VW keys, as vectors of keys, to v_channels. */
LK_INLINE void store_v(const backward_job *job, vf in[VW], size_t c, size_t step, size_t key) {
  vf out[VW];
  transpose(in, out);
  LK_UNROLL
  for (size_t i = 0; i < VW; i++)
    if (c + i * step < job->args->head_dim)
      v_store(job->v_channels + (c + i * step) * LK_PAGE_TOKENS + key, out[i]);
}

/* V of a page to v_channels; 0 for the keys behind n_keys. */
LK_INLINE void widen_v(const backward_job *job, leank_kv_type type, const void *v, size_t n_keys) {
  const size_t head_dim = job->args->head_dim, e = lk_kv_interleave(type);
  const size_t row_bytes = head_dim * lk_kv_bytes(type);
  for (size_t key = 0; key < n_keys; key += VW)
    for (size_t c = 0; c < head_dim; c += VW * e) {
      const char *at = (const char *)v + key * row_bytes + c * lk_kv_bytes(type);
      const ptrdiff_t n = (ptrdiff_t)((head_dim - c) / e);
      vf in[VW], part[VW];
      LK_UNROLL
      for (size_t i = 0; i < VW; i++)
        in[i] = key + i < n_keys ? v_load_first(at + i * row_bytes, n) : v_zero();
      if (type == LEANK_KV_F32) {
        store_v(job, in, c, 1, key);
        continue;
      }
      LK_UNROLL
      for (size_t i = 0; i < VW; i++) part[i] = v_even(in[i]);
      store_v(job, part, c, 2, key);
      LK_UNROLL
      for (size_t i = 0; i < VW; i++) part[i] = v_odd(in[i]);
      store_v(job, part, c + 1, 2, key);
    }
}

static size_t view_channels(const lk_attend_backward_args *args, const lk_page_view *page) {
  return page->lean ? args->n_lean : args->head_dim;
}

LK_INLINE void widen_page(const backward_job *job, leank_kv_type type, const lk_page_view *page) {
  const size_t n = view_channels(job->args, page);
  widen_k(job, type, n, page->k);
  transpose_k(job, n, page->n_keys);
  widen_v(job, type, page->v, page->n_keys);
}

/* ---- rows ---- */

static row_block begin_block(const lk_attend_backward_args *args, const lk_page_view *page,
                             size_t row) {
  row_block b = {.row = row, .n_rows = lk_backward_block_rows(args->n_q - row)};
  for (size_t r = 0; r < b.n_rows; r++) {
    b.n_seen[r] = lk_visible_keys(page, args->q_pos[row + r]);
    if (b.n_seen[r] > b.max_seen) b.max_seen = b.n_seen[r];
  }
  return b;
}

/* x = q K^T and p = dout V^T over the keys that any row of the block sees. */
static void block_products(const backward_job *job, const lk_page_view *page, const row_block *b) {
  const lk_attend_backward_args *args = job->args;
  const size_t n = view_channels(args, page), head_dim = args->head_dim;
  const size_t n_keys = (b->max_seen + VW - 1) / VW * VW;
  const float *q = page->lean ? args->q_lean : args->q;
  const product logits = {.a = q + b->row * n,
                          .a_row = n,
                          .a_step = 1,
                          .b = job->k_channels,
                          .b_step = LK_PAGE_TOKENS,
                          .c = job->x,
                          .c_row = LK_PAGE_TOKENS,
                          .n_steps = n};
  multiply(&logits, b->n_rows, n_keys);
  const product values = {.a = args->dout + b->row * head_dim,
                          .a_row = head_dim,
                          .a_step = 1,
                          .b = job->v_channels,
                          .b_step = LK_PAGE_TOKENS,
                          .c = job->p,
                          .c_row = LK_PAGE_TOKENS,
                          .n_steps = head_dim};
  multiply(&values, b->n_rows, n_keys);
}

/* Makes p and dx of a row's products, 0 from n_seen up to n_keys; gives the sum of dx. The
 * exponential takes what rounding leaves above 0 as well. */
static float row_softmax(float *x, float *p, size_t n_seen, size_t n_keys, float bias, float lse,
                         float delta) {
  vf sum = v_zero();
  for (size_t j = 0; j < n_keys; j += VW) {
    const ptrdiff_t n = (ptrdiff_t)n_seen - (ptrdiff_t)j;
    const vf logit = v_add(v_load(x + j), v_set1(bias));
    const vf prob = v_zero_behind(v_exp(v_sub(logit, v_set1(lse))), n);
    const vf dx = v_zero_behind(v_mul(prob, v_sub(v_load(p + j), v_set1(delta))), n);
    v_store(p + j, prob);
    v_store(x + j, dx);
    sum = v_add(sum, dx);
  }
  return v_hsum(sum);
}

static void block_softmax(const backward_job *job, const lk_page_view *page, const row_block *b) {
  const lk_attend_backward_args *args = job->args;
  for (size_t r = 0; r < b->n_rows; r++) {
    const size_t row = b->row + r;
    const float bias = page->lean && args->lean_bias ? args->lean_bias[row] : 0.0f;
    const float sum =
        row_softmax(job->x + r * LK_PAGE_TOKENS, job->p + r * LK_PAGE_TOKENS, b->n_seen[r],
                    b->max_seen, bias, args->lse[row], args->delta[row]);
    if (page->lean && args->dbias && b->n_seen[r]) args->dbias[row] += sum;
  }
}

/* dq += dx K, each row over the keys it sees. */
static void block_dq(const backward_job *job, const lk_page_view *page, const row_block *b) {
  const size_t n = view_channels(job->args, page);
  float *dq = page->lean ? job->args->dq_lean : job->args->dq;
  const product p = {.a = job->x,
                     .a_row = LK_PAGE_TOKENS,
                     .a_step = 1,
                     .b = job->k,
                     .b_step = job->k_row,
                     .c = dq + b->row * n,
                     .c_row = n,
                     .row_steps = b->n_seen,
                     .add = true};
  multiply(&p, b->n_rows, n);
}

/* out[keys][n] += factors^T rows[M][n], for dk and dv: steps are the block's rows. */
static void block_keys(const row_block *b, const float *factors, const float *rows, size_t n,
                       float *out) {
  const product p = {.a = factors,
                     .a_row = 1,
                     .a_step = LK_PAGE_TOKENS,
                     .b = rows + b->row * n,
                     .b_step = n,
                     .c = out,
                     .c_row = n,
                     .n_steps = b->n_rows,
                     .add = true};
  multiply(&p, b->max_seen, n);
}

static void block_meets_page(const backward_job *job, size_t page_index, const row_block *b) {
  const lk_attend_backward_args *args = job->args;
  const lk_page_view *page = args->pages + page_index;
  float *dk = args->dk ? args->dk[page_index] : NULL;
  float *dv = args->dv ? args->dv[page_index] : NULL;
  block_products(job, page, b);
  block_softmax(job, page, b);
  block_dq(job, page, b);
  if (dk) block_keys(b, job->x, page->lean ? args->q_lean : args->q, view_channels(args, page), dk);
  if (dv) block_keys(b, job->p, args->dout, args->head_dim, dv);
}

static backward_job begin_backward(const lk_attend_backward_args *args) {
  const size_t padded = lk_backward_padded(args->head_dim);
  backward_job job = {.args = args, .k_row = padded, .k_channels = args->scratch};
  job.k = job.k_channels + LK_PAGE_TOKENS * padded;
  job.v_channels = job.k + LK_PAGE_TOKENS * padded;
  job.p = job.v_channels + LK_PAGE_TOKENS * padded;
  job.x = job.p + lk_backward_block_rows(args->n_q) * LK_PAGE_TOKENS;
  return job;
}

LK_INLINE void attend_backward(const lk_attend_backward_args *args, leank_kv_type type) {
  const backward_job job = begin_backward(args);
  for (size_t i = 0; i < args->n_pages; i++) {
    bool widened = false;
    for (size_t row = 0; row < args->n_q; row += LK_BACKWARD_BLOCK_ROWS) {
      const row_block b = begin_block(args, args->pages + i, row);
      if (b.max_seen == 0) continue;
      if (!widened) widen_page(&job, type, args->pages + i);
      widened = true;
      block_meets_page(&job, i, &b);
    }
  }
}

#endif
