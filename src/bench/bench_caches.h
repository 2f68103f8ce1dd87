/* Caches to time attention on: pages of some layers, laid out as a session's and filled with random
 * values through the backend. */
#ifndef LK_BENCH_CACHES_H
#define LK_BENCH_CACHES_H

#include <leank/bench.h>

#include "bench/bench_run.h"
#include "cache/random_pages.h"

/* One way of storing the cache. Slot i holds the whole cache (all sequences) of one layer; slots
 * are made for a run of layers at a time, as many as make rotate_bytes. */
typedef struct lk_bench_side {
  lk_geometry geometry; /* owned; of one layer where all are alike */
  leank_mask *own_mask; /* of equal counts, or NULL */
  size_t n_distinct;    /* layers of the geometry */
  size_t n_seqs, n_tokens;
  size_t n_wide, n_lean; /* pages of one sequence */
  /* made when slots are first filled */
  lk_page_entry *table;    /* [B][pages of a sequence]; the same in every slot */
  lk_attend_group *groups; /* [B] */
  lk_rows rows;            /* of these groups */
  float *mean;             /* [B][Hk][2][D], of the backend; or NULL */
  /* the present run of layers */
  size_t first, n_layers, n_slots;
  unsigned char *arena[2]; /* by LK_PAGE_WIDE, LK_PAGE_LEAN */
  lk_layer_view *views;    /* [n_slots] */
} lk_bench_side;

/* Reads shape and cache. LEANK_E_ARGUMENT, _MISMATCH, _MEMORY. */
leank_status lk_bench_side_open(const leank_bench_shape *shape, const leank_bench_cache *cache,
                                leank_device device, lk_bench_side *out, leank_error *err);
void lk_bench_side_close(lk_backend *be, lk_bench_side *side);

/* K and V that a step reads in a layer of the geometry, all sequences: whole lean pages, and the
 * tokens of wide ones. */
size_t lk_bench_layer_bytes(const lk_bench_side *side, size_t layer);
static inline size_t lk_bench_slot_layer(const lk_bench_side *side, size_t slot) {
  return side->first + slot % side->n_layers;
}

/* Chooses the run of layers that begins with `first`: the shortest that makes rotate_bytes, or all
 * that are left. LEANK_E_ARGUMENT: a cache so small that too many copies would be needed. */
leank_status lk_bench_side_choose(lk_bench_side *side, size_t first, size_t rotate_bytes,
                                  leank_error *err);
/* Bytes of the arenas of the chosen run. */
size_t lk_bench_side_arena_bytes(const lk_bench_side *side);
/* Makes and fills the slots of the chosen run, a unit of `run` each. LEANK_E_MEMORY, _INTERRUPTED.
 */
leank_status lk_bench_side_fill(lk_backend *be, const lk_random_pages *source, lk_bench_side *side,
                                lk_bench_run *run, leank_error *err);
void lk_bench_side_empty(lk_backend *be, lk_bench_side *side);

#endif
