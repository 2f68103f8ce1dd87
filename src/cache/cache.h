/* The paged cache of a session: two pools of reference-counted pages and a page table per sequence.
 * A page number indexes every layer's arena. Nothing here computes; tokens get into pages through
 * the backend. */
#ifndef LK_CACHE_CACHE_H
#define LK_CACHE_CACHE_H

#include "cache/geometry.h"

/* Pages of one kind: layer l's arena begins at arena + layer_offset[l]. */
typedef struct lk_pool {
  unsigned char *arena;
  size_t n_pages;
  size_t *page_bytes;   /* [L] */
  size_t *layer_offset; /* [L] */
  uint32_t *n_refs;     /* [n_pages] */
  uint32_t *free_pages; /* stack; low numbers on top */
  size_t n_free;
} lk_pool;

typedef struct lk_sequence {
  size_t n_tokens;      /* T */
  size_t middle_end;    /* lk_middle_end(T) */
  lk_page_entry *table; /* [n_ctx / P]; lk_pages_of(T) are valid */
  float *mean;          /* [L][Hk][2][D] sums over the middle; NULL where no policy wants them */
} lk_sequence;

typedef struct lk_cache {
  lk_geometry geometry; /* owned */
  lk_backend *backend;
  lk_pool pools[2]; /* by LK_PAGE_WIDE, LK_PAGE_LEAN */
  lk_sequence *sequences;
  size_t n_seqs;
  bool keeps_means;
} lk_cache;

/* Takes over *geometry (zeroed). All pages are reserved here. LEANK_E_MEMORY. */
leank_status lk_cache_open(lk_backend *backend, lk_geometry *geometry, size_t n_seqs, lk_cache *out,
                           leank_error *err);
void lk_cache_close(lk_cache *cache);

/* The view of layer l. stage: one layer's pages of the prompt being read, or NULL. */
lk_layer_view lk_cache_layer(const lk_cache *cache, size_t layer, unsigned char *stage);
size_t lk_cache_mean_floats(const lk_cache *cache); /* per layer: Hk * 2 * D */

static inline size_t lk_pool_n_used(const lk_pool *pool) { return pool->n_pages - pool->n_free; }

/* Pages by reference: take gives one with one reference (false: the pool is empty), share adds one,
 * drop takes one away and frees the page with the last. */
void lk_cache_drop_entry(lk_cache *cache, lk_page_entry entry);
void lk_cache_share_entry(lk_cache *cache, lk_page_entry entry);
bool lk_cache_take_entry(lk_cache *cache, lk_page_kind kind, lk_page_entry *out);
/* Copies a page in all layers. */
void lk_cache_copy_page(lk_cache *cache, lk_page_entry from, lk_page_entry to);

/* Sequence operations; the caller has checked the arguments. */
void lk_sequence_clear(lk_cache *cache, lk_sequence *seq);
/* LEANK_E_REWIND where the middle at n_tokens is another one. */
leank_status lk_sequence_rewind(lk_cache *cache, lk_sequence *seq, size_t n_tokens,
                                leank_error *err);
void lk_sequence_fork(lk_cache *cache, const lk_sequence *from, lk_sequence *to);
/* Takes the pages of n_tokens tokens for an empty sequence; what is in them is the caller's to
 * write. LEANK_E_CONTEXT: too few are free. */
leank_status lk_sequence_take_pages(lk_cache *cache, lk_sequence *to, size_t n_tokens,
                                    leank_error *err);
/* Packs `from` of `source` into `to` under this cache's mask. LEANK_E_MISMATCH, _CONTEXT. */
leank_status lk_sequence_pack_from(lk_cache *cache, lk_sequence *to, const lk_cache *source,
                                   const lk_sequence *from, leank_error *err);

#endif
