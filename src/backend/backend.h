/* A backend: the table of device operations that the layer forward and the cache are written
 * against, and the views of pages that they hand to it.
 *
 * Shape letters, used at every buffer: N rows, L layers, Hq query heads, Hk kv heads, G = Hq/Hk,
 * D head dim, Dk kept channels of a head, P tokens of a page, T tokens of a sequence, V vocabulary.
 * Buffers come from `alloc` and may live on a device: callers do not look inside. */
#ifndef LK_BACKEND_BACKEND_H
#define LK_BACKEND_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <leank/session.h>

#include "backend/page_view.h"
#include "base/alloc.h"
#include "base/dtype.h"
#include "base/error.h"
#include "mask/mask.h"

/* Attention sizes of a model and what stands in for what is not stored. */
typedef struct lk_attn_shape {
  size_t n_heads, n_kv_heads, head_dim; /* Hq, Hk, D */
  bool mean_for_empty;  /* policy mean: heads with Dk = 0 see the mean key and the sum of values */
  bool mean_for_pruned; /* mean compensation: heads with Dk > 0 */
} lk_attn_shape;

/* One layer's pages. Page i of kind k lies at arena[k] + i * page_bytes[k]. */
typedef struct lk_layer_view {
  unsigned char *arena[LK_N_PAGE_KINDS];
  size_t page_bytes[LK_N_PAGE_KINDS];
  const lk_head_map *heads;  /* [Hk] */
  const size_t *lean_offset; /* [Hk] where a head's segment begins in a lean page */
  size_t mean_offset;        /* floats from a group's mean to this layer's */
} lk_layer_view;

static inline unsigned char *lk_view_page(const lk_layer_view *view, lk_page_entry e) {
  return view->arena[e.kind] + (size_t)e.page * view->page_bytes[e.kind];
}

/* Query rows that share a page table. */
typedef struct lk_attend_group {
  size_t first_row, n_rows;   /* rows of q and out */
  int64_t first_pos;          /* position of first_row; rows are consecutive; keys <= it are seen */
  const lk_page_entry *table; /* [last position / P + 1] */
  size_t middle_begin, n_middle; /* the first token of the table's lean pages, and how many; of no
                                    meaning, and 0, where there are none */
  float *mean; /* [Hk][2][D] sums of keys and of values over those tokens, at the view's
                  mean_offset; or NULL */
} lk_attend_group;

/* What the rows of a step or of a chunk are. Host memory; arrays that no op asks for may be NULL.
 * A device reads its own copy: stage_rows makes it. */
typedef struct lk_rows {
  size_t n_rows;             /* N */
  const leank_token *tokens; /* [N] */
  const int64_t *pos;        /* [N] */
  const lk_slot *slots;      /* [N] */
  const lk_attend_group *groups;
  size_t n_groups;
  const lk_page_entry *pack_from, *pack_to; /* [n_packed], as of pack; page i is of group i */
  size_t n_packed;
} lk_rows;

/* How the middle of a kv head is seen through channel weights w[D] (learning). x is the logit of a
 * middle key k, kbar the mean of the middle's keys. */
typedef enum lk_weighted_kind {
  LK_WEIGHTED_PLAIN = 0, /* x = sum_c w_c q_c k_c / sqrt(D) */
  LK_WEIGHTED_MEAN,      /* x = sum_c (w_c q_c k_c + (1 - w_c) q_c kbar_c) / sqrt(D) */
  LK_WEIGHTED_ABSENT     /* the middle does not exist */
} lk_weighted_kind;

/* One layer's weights on K's channels. */
typedef struct lk_channel_weights {
  const float *weight;          /* [Hk][D], the model's channel order */
  const lk_weighted_kind *kind; /* [Hk], in host memory */
} lk_channel_weights;

/* Rows of one sequence that see its middle through channel weights. Every page is wide or stage. */
typedef struct lk_weighted_rows {
  const lk_layer_view *view;
  const lk_page_entry *table;
  size_t first_row, n_rows; /* rows of q and out, at consecutive positions */
  int64_t first_pos;        /* of first_row; the K and V of these rows are in the pages */
  size_t middle_begin;      /* position; a multiple of P */
  const size_t *middle_end; /* [n_rows] as each row sees it; never falls; equal to middle_begin
                               where there is none; any position, whole pages or not */
  const float *sums;        /* [pages of the middle + 1][Hk][2][D] as sum_pages leaves them from 0,
                               for heads of kind MEAN (whole pages then); else NULL */
} lk_weighted_rows;

/* How many rows a product is for: few (own kernels; bits independent of the other rows) or many
 * (library GEMM in tiles of fixed size; bits independent of chunk and threads). */
typedef enum lk_linear_kind {
  LK_LINEAR_FEW, /* x and y have room for as many rows as the backend was opened for; what lies
                    behind row N may be used and written */
  LK_LINEAR_MANY,
  LK_LINEAR_PRECISE /* as many, with activations in more than bf16: learning compares hidden states
                       that differ by little */
} lk_linear_kind;

/* One of several products with the same rows. */
typedef struct lk_linear_part {
  const lk_tensor *w;
  const lk_tensor *bias; /* [w.n_rows], F32; NULL or data NULL: none */
  float *y;              /* [N][w.n_rows] */
  bool add;
} lk_linear_part;

/* An RMSNorm. */
typedef struct lk_norm {
  const lk_tensor *w;
  float eps;
} lk_norm;

/* What stands before attention in a layer. */
typedef struct lk_projection {
  lk_norm norm;
  lk_linear_part parts[3]; /* q, k, v */
  float *room;             /* [N][Hq + 2 Hk][D], of no meaning before and afterwards */
} lk_projection;

/* x += down (silu(gate n) * (up n)), n the RMSNorm of x. */
typedef struct lk_mlp {
  lk_norm norm;
  const lk_tensor *gate, *up, *down;
  float *room; /* [N][2][ffn], as of lk_projection */
} lk_mlp;

typedef struct lk_backend lk_backend;

enum { LK_BACKEND_MARKS = 256 };

typedef struct lk_backend_ops {
  const char *name; /* "cpu" */
  bool on_host;     /* alloc's memory is the processor's, and any of its memory does for it */
  size_t row_tile;  /* chunks of rows are multiples of this */
  void (*close)(lk_backend *be);
  const char *(*kernels)(const lk_backend *be); /* "op: variant" lines */
  size_t (*n_threads)(const lk_backend *be);
  /* Floating-point operations done so far (0: not counted): 2 N n_in n_out of each linear and
   * linear_backward; of attend 2 (D + channels of K read) for each query head and key it sees.
   * Padding, row operations and replays of steps are not counted. */
  double (*flops)(const lk_backend *be);

  void *(*alloc)(lk_backend *be, lk_mem_category category, size_t n_bytes);
  void (*free)(lk_backend *be, void *p);
  /* Makes room for `many` products of up to n_rows rows and n_cols columns (backward: columns of
   * dy); 0 rows gives it back. */
  leank_status (*reserve_rows)(lk_backend *be, size_t n_rows, size_t n_cols, leank_error *err);

  /* Makes `rows` known to the device, in the place of what was; due after each change to it or to
   * what it points to, before the ops that take it. */
  leank_status (*stage_rows)(lk_backend *be, const lk_rows *rows, leank_error *err);
  /* A decode step on staged rows, begun and ended. `key` stands for all that decides which ops are
   * called, with which arguments; 0: do not record. True: the work of an earlier step with this key
   * was done again on the rows now staged, and the caller calls neither its ops nor step_end. */
  bool (*step_begin)(lk_backend *be, uint64_t key);
  /* complete: every op of the step was called. */
  leank_status (*step_end)(lk_backend *be, bool complete, leank_error *err);
  /* Waits for all that was asked for, and tells the first failure since the last call of those
   * operations that cannot tell it themselves. */
  leank_status (*wait)(lk_backend *be, leank_error *err);

  /* x[N][n_cols] = rows' tokens of the embedding. */
  void (*embed)(lk_backend *be, const lk_tensor *embed, const lk_rows *rows, float *x);
  /* y[N][n] = RMSNorm of the rows of x[N][n]. */
  void (*rms_norm)(lk_backend *be, const float *x, size_t n_rows, size_t n, const lk_tensor *w,
                   float eps, float *y);
  /* Of each part: y[N][w.n_rows] = x[N][w.n_cols] w^T (+ bias), or y += that where add. All have as
   * many columns; that they are known together saves work, the numbers are those of one alone. */
  leank_status (*linear)(lk_backend *be, lk_linear_kind kind, const lk_linear_part *parts,
                         size_t n_parts, const float *x, size_t n_rows, leank_error *err);
  /* cos_sin[N][2][D/2] of the rows' positions. */
  void (*rope_table)(lk_backend *be, const double *inv_freq, float mscale, size_t head_dim,
                     const lk_rows *rows, float *cos_sin);
  /* Rotates x[N][n_heads][D] in place. */
  void (*rope)(lk_backend *be, float *x, size_t n_rows, size_t n_heads, size_t head_dim,
               leank_channel_order order, const float *cos_sin);
  /* out[n] = silu(gate) * up, elementwise. */
  void (*swiglu)(lk_backend *be, const float *gate, const float *up, size_t n, float *out);
  /* index[N] = where each row of x[N][n] is largest, the first of equals; 0 for a row of NaN. */
  void (*argmax)(lk_backend *be, const float *x, size_t n_rows, size_t n, int32_t *index);

  /* Gradients of activations; the weights are frozen. That of rope is rope by the table of the
   * negated positions. */
  /* dx[N][w.n_cols] = dy[N][w.n_rows] w, or dx += that where add. In the manner of `many`. */
  leank_status (*linear_backward)(lk_backend *be, const lk_tensor *w, const float *dy,
                                  size_t n_rows, bool add, float *dx, leank_error *err);
  /* dx[N][n] += the gradient of rms_norm's x[N][n], given that of its result, dy[N][n]. */
  void (*rms_norm_backward)(lk_backend *be, const float *x, size_t n_rows, size_t n,
                            const lk_tensor *w, float eps, const float *dy, float *dx);
  /* dgate[n], dup[n] = the gradients of swiglu's gate and up, given that of its result, dout[n].
   * dgate may be gate or dout, and dup may be up. */
  void (*swiglu_backward)(lk_backend *be, const float *gate, const float *up, size_t n,
                          const float *dout, float *dgate, float *dup);

  /* Writes rows first .. first + n - 1 of K[N][Hk][D] and V[N][Hk][D] to their slots. */
  void (*append)(lk_backend *be, const lk_attn_shape *shape, const lk_layer_view *view,
                 const lk_rows *rows, size_t first, size_t n, const float *k, const float *v);
  /* rope of the rows' q[N][Hq][D] and k[N][Hk][D], and append of k and v[N][Hk][D]. k is of no
   * meaning afterwards. */
  void (*rope_append)(lk_backend *be, const lk_attn_shape *shape, const lk_layer_view *view,
                      const lk_rows *rows, leank_channel_order order, const float *cos_sin,
                      float *q, float *k, const float *v);
  /* Packs from[i] (wide, stage, or lean with at least the channels that dst keeps) of view `src`
   * into lean page to[i] of view `dst`. */
  void (*pack)(lk_backend *be, const lk_attn_shape *shape, const lk_layer_view *src,
               const lk_page_entry *from, const lk_layer_view *dst, const lk_page_entry *to,
               size_t n_pages);
  /* pack of the rows' own pages, inside one view. A page of kind LK_N_PAGE_KINDS is passed over. */
  void (*pack_rows)(lk_backend *be, const lk_attn_shape *shape, const lk_layer_view *view,
                    const lk_rows *rows);
  /* Copies whole pages of equal size (wide, stage; or lean of equal masks). */
  void (*copy_pages)(lk_backend *be, const lk_layer_view *src, const lk_page_entry *from,
                     const lk_layer_view *dst, const lk_page_entry *to, size_t n_pages);
  /* sums[i + 1][Hk][2][D] = sums[i] + the sums over page i (wide or stage), i < n_pages. */
  void (*sum_pages)(lk_backend *be, const lk_attn_shape *shape, const lk_layer_view *view,
                    const lk_page_entry *pages, size_t n_pages, float *sums);
  /* The mean of group i, at the view's mean_offset, += the sums over the rows' page pack_from[i],
   * i < n_packed; to the bits of sum_pages. One of kind LK_N_PAGE_KINDS is passed over. */
  void (*sum_rows)(lk_backend *be, const lk_attn_shape *shape, const lk_layer_view *view,
                   const lk_rows *rows);
  /* out[N][Hq][D] = attention of q[N][Hq][D] (not scaled) over the pages of groups first .. first +
   * n - 1 of the rows; 0 where no key is seen. few: each group is one row; partials per fixed chunk
   * of pages, merged in order; at most as many rows as the backend was opened for. */
  leank_status (*attend)(lk_backend *be, lk_linear_kind kind, const lk_attn_shape *shape,
                         const lk_layer_view *view, const lk_rows *rows, size_t first, size_t n,
                         const float *q, float *out, leank_error *err);
  /* out[N][Hq][D] = attention of q[N][Hq][D] (not scaled) of the sequences' rows under the weights,
   * lse[N][Hq] = log of the sum of exp(logit). Learning only. LEANK_E_MEMORY. */
  leank_status (*attend_weighted)(lk_backend *be, const lk_attn_shape *shape,
                                  const lk_channel_weights *weights, const lk_weighted_rows *rows,
                                  size_t n_sequences, const float *q, float *out, float *lse,
                                  leank_error *err);
  /* From dout[N][Hq][D]: dq[N][Hq][D]; dk and dv[N][Hk][D] of the rows' own K and V, by every way
   * they are seen: in full, weighted, in the mean; dweight[Hk][D] += (the model's order; for heads
   * ABSENT nothing). The order of sums depends on the arguments alone. */
  leank_status (*attend_weighted_backward)(lk_backend *be, const lk_attn_shape *shape,
                                           const lk_channel_weights *weights,
                                           const lk_weighted_rows *rows, size_t n_sequences,
                                           const float *q, const float *out, const float *lse,
                                           const float *dout, float *dq, float *dk, float *dv,
                                           double *dweight, leank_error *err);
  /* Adds to sum_abs[Hk][D] and sum_sq[Hk][D] over x[N][Hk][n_per][D], channels given
   * in `order`, sums in half order. Either sum may be NULL. */
  void (*head_stats)(lk_backend *be, const float *x, size_t n_rows, size_t n_kv_heads, size_t n_per,
                     size_t head_dim, leank_channel_order order, double *sum_abs, double *sum_sq);
  /* Copies between a buffer and the caller's memory, and inside buffers. What download waits for
   * may have failed. */
  void (*upload)(lk_backend *be, void *to, const void *from, size_t n_bytes);
  leank_status (*download)(lk_backend *be, void *to, const void *from, size_t n_bytes,
                           leank_error *err);
  /* *out = n floats of a buffer where the processor can read them, until the next call: p itself,
   * or a copy. */
  leank_status (*to_host)(lk_backend *be, const float *p, size_t n, const float **out,
                          leank_error *err);
  void (*copy)(lk_backend *be, void *to, const void *from, size_t n_bytes);
  void (*zero)(lk_backend *be, void *p, size_t n_bytes);
  /* Marks a point in the order of work, 0 .. LK_BACKEND_MARKS - 1; seconds waits, and tells what
   * passed on the device between two marks. */
  void (*mark)(lk_backend *be, size_t number);
  double (*seconds)(lk_backend *be, size_t from, size_t to);
  /* Bytes of the buffer p (from alloc) that are in memory; 0 where that is not known. */
  size_t (*resident)(const lk_backend *be, const void *p);

  /* More of a step at once; NULL where a backend is as fast op by op. x, q and room have room as
   * those of a `few` product. */
  /* linear, kind few, of the RMSNorm of x. Where it is there, norm_swiglu is. */
  leank_status (*norm_linear)(lk_backend *be, const lk_linear_part *parts, size_t n_parts,
                              const lk_norm *norm, const float *x, size_t n_rows, leank_error *err);
  /* out[N][gate.n_rows] = swiglu of the products of gate and of up with that norm. */
  leank_status (*norm_swiglu)(lk_backend *be, const lk_tensor *gate, const lk_tensor *up,
                              const lk_norm *norm, const float *x, size_t n_rows, float *out,
                              leank_error *err);
  /* rms_norm of the rows' x[N][hidden], its products q, k, v and their rope_append. Of the parts' y
   * that of q is written. */
  leank_status (*project_append)(lk_backend *be, const lk_attn_shape *shape,
                                 const lk_layer_view *view, const lk_rows *rows,
                                 leank_channel_order order, const float *cos_sin,
                                 const lk_projection *p, const float *x, leank_error *err);
  leank_status (*mlp)(lk_backend *be, const lk_mlp *mlp, size_t n_rows, float *x, leank_error *err);
} lk_backend_ops;

struct lk_backend {
  const lk_backend_ops *ops;
  int index; /* of the device among those of its sort */
};

typedef struct lk_backend_options {
  leank_device device;
  int device_index;
  const void *model; /* backends of one model and device share what they make of its weights */
  leank_kv_type kv_type;
  size_t n_threads;    /* >= 1 */
  leank_cpu_level cpu; /* cap */
  size_t max_few_rows; /* most rows of a `few` attend or linear (sequences) */
  size_t max_cols;     /* most columns of a weight matrix */
  size_t max_pages;    /* most pages of a table */
  lk_attn_shape shape;
  bool precise_attention; /* queries and probabilities stay fp32 on the CPU, whatever is fastest:
                             the gradient of a small loss is lost in their rounding. On CUDA those
                             of attend_weighted always do, those of attend never; there products of
                             many rows are precise instead */
} lk_backend_options;

/* What pages, products and scratch take on a device: known before a backend is open there. */
typedef struct lk_backend_sizes {
  size_t (*row_tile)(void);
  size_t (*granule)(leank_kv_type type); /* kept channels are padded to a multiple of this */
  /* Bytes of a head's segment in a page of this kind, K of n channels and V, for P tokens. */
  size_t (*segment_k_bytes)(leank_kv_type type, lk_page_kind kind, size_t n_channels);
  size_t (*segment_v_bytes)(leank_kv_type type, lk_page_kind kind, size_t head_dim);
  /* Operands of products of n_rows rows of up to n_cols columns. */
  size_t (*product_bytes)(const lk_backend_options *options, size_t n_rows, size_t n_cols);
  size_t (*scratch_bytes)(const lk_backend_options *options); /* of an open backend */
  /* LEANK_E_UNSUPPORTED, LEANK_E_ARGUMENT: what the device cannot do. */
  leank_status (*check)(const lk_backend_options *options, leank_error *err);
} lk_backend_sizes;

const lk_backend_sizes *lk_backend_sizes_of(leank_device device);

/* On the options' device. */
leank_status lk_backend_open(const lk_backend_options *options, lk_backend **out, leank_error *err);
/* LEANK_E_UNSUPPORTED: no CUDA library, driver or device; err says which. */
leank_status lk_backend_open_cuda(const lk_backend_options *options, int device, lk_backend **out,
                                  leank_error *err);
leank_status lk_backend_open_cpu(const lk_backend_options *options, lk_backend **out,
                                 leank_error *err);

/* LEANK_E_ARGUMENT where the level is not one of this architecture. */
leank_status lk_backend_cpu_check(leank_cpu_level level, leank_error *err);

/* The CPU's sizes. Bytes of segments are multiples of 64. */
size_t lk_segment_k_bytes(leank_kv_type type, lk_page_kind kind, size_t n_channels);
size_t lk_segment_v_bytes(leank_kv_type type, lk_page_kind kind, size_t head_dim);
size_t lk_backend_cpu_row_tile(void);
/* Most channels of a head whose cache is of type q8. */
enum { LK_Q8_MAX_HEAD_DIM = 512 };
size_t lk_backend_cpu_granule(leank_kv_type type);
/* Operands and tiles. */
size_t lk_backend_cpu_product_bytes(const lk_backend_options *options, size_t n_rows,
                                    size_t n_cols);
/* Partials and per-thread buffers. */
size_t lk_backend_cpu_scratch_bytes(const lk_backend_options *options);

#endif
