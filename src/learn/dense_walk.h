/* Rows through the whole model with dense attention, layer by layer: the contexts, questions and
 * dense answers that learning starts from. */
#ifndef LK_LEARN_DENSE_WALK_H
#define LK_LEARN_DENSE_WALK_H

#include "learn/stop.h"
#include "model/forward.h"

/* Rows at consecutive positions of one sequence. */
typedef struct lk_dense_part {
  const leank_token *tokens; /* [n_rows] */
  size_t n_rows;
  size_t first_pos;
  const lk_page_entry *table;            /* up to the page of the last row; wide or stage */
  unsigned char *arena[LK_N_PAGE_KINDS]; /* of layer 0 */
  size_t layer_stride[LK_N_PAGE_KINDS];  /* bytes from a layer's arena to the next one's */
  bool begins_in_page;      /* before a layer, stage page 0 is copied from wide page... */
  lk_page_entry first_from; /* ... this one: the tokens before first_pos */
} lk_dense_part;

typedef struct lk_dense_walk {
  const leank_model *model;
  lk_backend *backend;
  const lk_attn_shape *shape;
  const lk_head_map *heads; /* [Hk] of the views */
  size_t page_bytes;
  size_t chunk; /* rows computed together */
  lk_stop stop;
  leank_progress_fn on_progress; /* rows times layers, `done_before` more */
  uint64_t done_before, total;
  void *user;
} lk_dense_walk;

/* Appends every part's K and V to its pages and leaves the residual stream behind the last layer in
 * x[N][hidden] (backend memory), N = all rows in the order of the parts. LEANK_E_MEMORY,
 * LEANK_E_INTERRUPTED. */
leank_status lk_dense_walk_run(const lk_dense_walk *walk, const lk_dense_part *parts,
                               size_t n_parts, float *x, leank_error *err);

#endif
