/* Contexts read once: the dense K and V of a data set's prompts, and the dense hidden states of its
 * answer rows. Nothing here depends on a mask, so all of learning starts from it.
 *
 * A context's pages lie in one block of the backend's memory: [L][n_pages] wide pages of the
 * context's tokens, then of each question its tail, [L][n_tail] pages from the one on in which the
 * context ends, for the question and for the answer rows, which every pass writes anew.
 *
 * Beside them, in the processor's memory, lie [n_rows][hidden] of each question's answer rows,
 * dense, after the last norm, then one number per question (flags_of).
 *
 * On the processor both may be mapped from a file of the cache folder. On a device that is full,
 * blocks that have a file give way to others and come back when they are wanted (block.c). */
#ifndef LK_LEARN_PREFILL_H
#define LK_LEARN_PREFILL_H

#include <leank/learn.h>

#include "backend/backend.h"
#include "learn/stop.h"
#include "model/model.h"

/* One question with its answer. */
typedef struct lk_answer {
  const leank_question *question;
  size_t n_rows;    /* rows of the answer: every token of it but the last is an input */
  size_t first_pos; /* of the first of them */
  size_t first_page, n_tail;
  unsigned char *tail;  /* [L][n_tail] pages, backend memory */
  float *hidden;        /* [n_rows][hidden], host memory */
  lk_page_entry *table; /* [first_page + n_tail]: wide = the context's pages, stage = the tail */
  bool first_right;     /* the prompt's last row, dense, gives the answer's first token */
  struct lk_read_context *context;
} lk_answer;

typedef struct lk_read_context {
  const leank_context *context;
  size_t n_pages;
  unsigned char *block; /* pages, tails; backend memory. NULL where it has given way to others */
  size_t block_bytes;
  float *numbers; /* hidden states, flags; host memory. NULL: not read */
  size_t number_bytes;
  void *mapping; /* its file where it is mapped, from its beginning; else NULL */
  size_t mapping_bytes;
  unsigned char *pages; /* the block's bytes there: on the processor the block itself */
  uint64_t key, used;   /* of the file; when it was used last, by the prefill's clock */
  bool has_file;        /* a device's block can be read again */
  lk_answer *answers;   /* [n_questions] */
  size_t n_answers;
} lk_read_context;

typedef struct lk_prefill_options {
  size_t chunk;                  /* rows computed together */
  const char *cache_folder;      /* or NULL */
  lk_stop stop;                  /* LEANK_E_INTERRUPTED soon */
  leank_progress_fn on_progress; /* tokens times layers */
  void *user;
} lk_prefill_options;

/* A data set, read. */
typedef struct lk_prefill {
  const leank_model *model;
  lk_backend *backend;
  leank_kv_type kv_type;
  lk_attn_shape shape;
  size_t page_bytes;  /* of one wide page of one layer */
  lk_head_map *heads; /* [Hk] of views: no lean page is ever seen */
  lk_read_context *contexts;
  size_t n_contexts;
  size_t n_answers;   /* of all contexts */
  size_t max_rows;    /* answer rows of the longest answer */
  const char *folder; /* of files, as last read with; or NULL */
  uint64_t clock;
  /* the owner's to set */
  size_t headroom;           /* bytes of a device's memory that blocks leave free */
  struct lk_prefill *beside; /* one on the same backend whose blocks may give way, or NULL */
} lk_prefill;

/* Contexts of a data set. */
typedef struct lk_contexts {
  const leank_context *list; /* [n] */
  size_t n;
} lk_contexts;

static inline lk_contexts lk_contexts_of(const leank_dataset *dataset) {
  return (lk_contexts){leank_dataset_get(dataset, 0), leank_dataset_n_contexts(dataset)};
}

/* Bytes of contexts with this model: K and V, and the numbers beside them. */
size_t lk_prefill_bytes(const leank_model_info *info, leank_kv_type kv_type, lk_contexts contexts);
/* Pages of the longest prompt with its answer. */
size_t lk_prefill_max_pages(lk_contexts contexts);

/* Lists the contexts; nothing is read yet. They must stand while the prefill does. */
leank_status lk_prefill_open(const leank_model *model, lk_backend *backend, leank_kv_type kv_type,
                             lk_contexts contexts, lk_prefill *out, leank_error *err);
/* Reads context i, or maps it from the cache folder where it was read before. LEANK_E_MEMORY, _IO,
 * _INTERRUPTED. */
leank_status lk_prefill_read(lk_prefill *prefill, size_t i, const lk_prefill_options *options,
                             leank_error *err);
/* LEANK_E_ARGUMENT for a type that contexts are not kept in. */
leank_status lk_prefill_check_type(leank_kv_type kv_type, leank_error *err);
/* LEANK_E_STATE where the dense answers of context i, which was read, are not finite: broken
 * weights show there. */
leank_status lk_prefill_check(const lk_prefill *prefill, size_t i, leank_error *err);
/* Makes the K and V of the answers' contexts, which were read, present where they have given way:
 * they then stay until others are held. lk_answer_forward does it. LEANK_E_MEMORY, _IO. */
leank_status lk_prefill_hold(lk_prefill *prefill, lk_answer *const *answers, size_t n,
                             leank_error *err);
/* Frees what context i holds. */
void lk_prefill_drop(lk_prefill *prefill, size_t i);
void lk_prefill_close(lk_prefill *prefill);

/* The view of layer l as an answer's rows see it. */
lk_layer_view lk_answer_view(const lk_prefill *prefill, const lk_answer *answer, size_t layer);

#endif
