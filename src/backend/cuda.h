/* The CUDA backend's state, shared by its files. Everything on the device goes through the table of
 * cuda_api.h, so that a build without CUDA has it, too, and a test can stand in for the library. */
#ifndef LK_BACKEND_CUDA_H
#define LK_BACKEND_CUDA_H

#include "backend/backend.h"
#include "cuda/cuda_api.h"

/* cuda_load.c, for tests: this table in the library's place; NULL: the library's again. Not while
 * sessions are open.
 */
void lk_cuda_library_replace(const lk_cuda_api *api);

enum {
  LK_CUDA_ROW_TILE = 64, /* chunks of rows are multiples of this */
  LK_CUDA_PARTS = 2      /* bf16 parts of an activation in precise products and in gradients */
};

/* ---- cuda_weights.c ---- */

/* What a device holds of a model's weights: matrices as bf16, vectors as they are. Backends with
 * the same table, device and model (not NULL) share one; thread-safe. */
typedef struct lk_cuda_store lk_cuda_store;

leank_status lk_cuda_store_open(const lk_cuda_api *api, int device, const void *model,
                                lk_cuda_store **out, leank_error *err);
/* Frees it with the last backend. */
void lk_cuda_store_close(lk_cuda_store *store);
/* bf16 [n_rows][n_cols] of a stored matrix, made at its first use. LEANK_E_MEMORY. */
leank_status lk_cuda_store_matrix(lk_cuda_store *store, const lk_tensor *w, const uint16_t **out,
                                  leank_error *err);
leank_status lk_cuda_store_vector(lk_cuda_store *store, const void *data, size_t n_bytes,
                                  const void **out, leank_error *err);
/* Weights and biases (or NULL) of up to LK_CUDA_MAX_PARTS parts, into out[n]. Those of parts that
 * are asked for together before any of them is asked for alone lie one behind the other. */
leank_status lk_cuda_store_parts(lk_cuda_store *store, const lk_linear_part *parts, size_t n,
                                 lk_cuda_part *out, leank_error *err);

/* ---- the backend ---- */

/* Memory that grows, of the device or pinned. */
typedef struct lk_cuda_buffer {
  void *p;
  size_t n_bytes;
} lk_cuda_buffer;

/* Room for the rows of a step or chunk at addresses that stay: those of a recording. */
typedef struct lk_cuda_staged {
  unsigned char *memory; /* device */
  size_t max_rows, max_groups, max_entries;
  /* offsets in memory */
  size_t pos, groups, slots, pack_from, pack_to, tokens, tables;
} lk_cuda_staged;

/* A step that was recorded, or may be. */
typedef struct lk_cuda_recording {
  uint64_t key;
  lk_cuda_graph *graph; /* or NULL */
  bool has_run;         /* plainly: weights are there, room is made */
  bool refused;         /* could not be recorded once: not tried again */
} lk_cuda_recording;

/* Kept channels of one layer, as the kernels read them. */
typedef struct lk_cuda_heads {
  const lk_head_map *key;
  unsigned char *host, *device; /* lk_cuda_head [Hk], uint16 [Hk][D] */
  bool is_sent;                 /* the device has what host has */
} lk_cuda_heads;

typedef struct lk_cuda_block {
  void *p;
  size_t n_bytes;
} lk_cuda_block;

typedef struct lk_cuda_backend {
  lk_backend base;
  lk_backend_ops ops; /* base's: what is optional is there where it serves */
  lk_backend_options options;
  const lk_cuda_api *api;
  lk_cuda_device *dev;
  lk_cuda_store *store;
  leank_error failure; /* the first that no operation has told; code LEANK_OK: none */
  /* pinned memory that copies to the device are made from, filled from the front; empty again when
   * the device has been waited for */
  unsigned char *ring;
  size_t ring_bytes, ring_used;
  lk_cuda_staged few, many; /* rows of steps; of chunks */
  const lk_cuda_staged *now;
  const lk_rows *rows; /* staged there, or NULL */
  size_t max_rows;     /* most rows of a group of them */
  lk_cuda_buffer pages, host, partials, mean_logits, weighted_lists, weighted_scratch;
  lk_cuda_heads *heads;
  size_t n_heads, max_heads;
  unsigned char *heads_room; /* one layer's, while it is compared */
  lk_cuda_recording *recordings, *step;
  size_t n_recordings, max_recordings;
  size_t reserved_rows, reserved_cols; /* of products, so far */
  double n_flops;                      /* so far */
  bool recording;
  lk_cuda_block *blocks; /* of alloc */
  size_t n_blocks, max_blocks;
  char kernel_names[512];
} lk_cuda_backend;

static inline lk_cuda_backend *lk_cuda(lk_backend *be) { return (lk_cuda_backend *)be; }

/* On this table. lk_backend_open_cuda is this on the library's. */
leank_status lk_cuda_backend_open(const lk_cuda_api *api, const lk_backend_options *options,
                                  int device, lk_backend **out, leank_error *err);
/* Keeps a failure that the operation cannot tell. */
void lk_cuda_keep_failure(lk_cuda_backend *cuda, leank_status code, const char *message);
/* Tells and forgets what is kept here and by the library. */
leank_status lk_cuda_tell(lk_cuda_backend *cuda, leank_error *err);

/* Steps of a backend that is open for more rows than linear_few multiplies at a time go to
 * linear_many, always as many: then a row's bits do not depend on how many they are. Their buffers
 * have room for it. */
static inline bool lk_cuda_steps_by_gemm(const lk_cuda_backend *cuda) {
  return cuda->options.max_few_rows > LK_CUDA_FEW_ROWS;
}
/* Puts up to LK_CUDA_MAX_PARTS parts into *job, with n_in, and counts their operations on n_rows.
 */
leank_status lk_cuda_fill_parts(lk_cuda_backend *cuda, const lk_linear_part *parts, size_t n,
                                size_t n_rows, lk_cuda_linear *job, leank_error *err);
/* Room for a product whose n_rows x n_cols activations are multiplied in parts. Its shape stands
 * alone, unlike those of reserve_rows: the rows of contexts and the columns of a vocabulary, which
 * never meet, would together take gigabytes. LEANK_E_MEMORY. */
leank_status lk_cuda_reserve_parts(lk_cuda_backend *cuda, size_t n_rows, size_t n_cols,
                                   leank_error *err);

/* cuda_steps.c: where steps go to GEMM */
leank_status lk_cuda_op_project_append(lk_backend *be, const lk_attn_shape *shape,
                                       const lk_layer_view *view, const lk_rows *rows,
                                       leank_channel_order order, const float *cos_sin,
                                       const lk_projection *p, const float *x, leank_error *err);
leank_status lk_cuda_op_mlp(lk_backend *be, const lk_mlp *mlp, size_t n_rows, float *x,
                            leank_error *err);

/* cuda_stage.c */
leank_status lk_cuda_stage_open(lk_cuda_backend *cuda, leank_error *err);
void lk_cuda_stage_close(lk_cuda_backend *cuda);
/* Makes room on the device. What was there is lost. */
leank_status lk_cuda_grow(lk_cuda_backend *cuda, lk_cuda_buffer *buffer, size_t n_bytes,
                          leank_error *err);
/* n bytes of pinned memory, to be filled and given to `upload`; NULL where there is none. */
void *lk_cuda_ring_take(lk_cuda_backend *cuda, size_t n_bytes);
leank_status lk_cuda_stage_rows(lk_backend *be, const lk_rows *rows, leank_error *err);
/* Where they are; NULL, and a failure kept, where other rows or none are staged. */
const lk_cuda_staged *lk_cuda_staged_of(lk_cuda_backend *cuda, const lk_rows *rows);
/* The view as the kernels read it; false: a failure is kept. */
bool lk_cuda_make_view(lk_cuda_backend *cuda, const lk_layer_view *view, lk_cuda_view *out);

/* cuda_pages.c */
void lk_cuda_op_append(lk_backend *be, const lk_attn_shape *shape, const lk_layer_view *view,
                       const lk_rows *rows, size_t first, size_t n, const float *k, const float *v);
void lk_cuda_op_rope_append(lk_backend *be, const lk_attn_shape *shape, const lk_layer_view *view,
                            const lk_rows *rows, leank_channel_order order, const float *cos_sin,
                            float *q, float *k, const float *v);
void lk_cuda_op_pack(lk_backend *be, const lk_attn_shape *shape, const lk_layer_view *src,
                     const lk_page_entry *from, const lk_layer_view *dst, const lk_page_entry *to,
                     size_t n_pages);
void lk_cuda_op_pack_rows(lk_backend *be, const lk_attn_shape *shape, const lk_layer_view *view,
                          const lk_rows *rows);
void lk_cuda_op_copy_pages(lk_backend *be, const lk_layer_view *src, const lk_page_entry *from,
                           const lk_layer_view *dst, const lk_page_entry *to, size_t n_pages);
void lk_cuda_op_sum_pages(lk_backend *be, const lk_attn_shape *shape, const lk_layer_view *view,
                          const lk_page_entry *pages, size_t n_pages, float *sums);
void lk_cuda_op_sum_rows(lk_backend *be, const lk_attn_shape *shape, const lk_layer_view *view,
                         const lk_rows *rows);
leank_status lk_cuda_op_attend(lk_backend *be, lk_linear_kind kind, const lk_attn_shape *shape,
                               const lk_layer_view *view, const lk_rows *rows, size_t first,
                               size_t n, const float *q, float *out, leank_error *err);

/* cuda_learn.c */
leank_status lk_cuda_op_linear_backward(lk_backend *be, const lk_tensor *w, const float *dy,
                                        size_t n_rows, bool add, float *dx, leank_error *err);
void lk_cuda_op_rms_norm_backward(lk_backend *be, const float *x, size_t n_rows, size_t n,
                                  const lk_tensor *w, float eps, const float *dy, float *dx);
void lk_cuda_op_swiglu_backward(lk_backend *be, const float *gate, const float *up, size_t n,
                                const float *dout, float *dgate, float *dup);
leank_status lk_cuda_op_attend_weighted(lk_backend *be, const lk_attn_shape *shape,
                                        const lk_channel_weights *weights,
                                        const lk_weighted_rows *rows, size_t n_sequences,
                                        const float *q, float *out, float *lse, leank_error *err);
leank_status lk_cuda_op_attend_weighted_backward(lk_backend *be, const lk_attn_shape *shape,
                                                 const lk_channel_weights *weights,
                                                 const lk_weighted_rows *rows, size_t n_sequences,
                                                 const float *q, const float *out, const float *lse,
                                                 const float *dout, float *dq, float *dk, float *dv,
                                                 double *dweight, leank_error *err);

#endif
