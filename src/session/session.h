/* A session: model + backend + cache. */
#ifndef LK_SESSION_SESSION_H
#define LK_SESSION_SESSION_H

#include <stdatomic.h>

#include <leank/session.h>

#include "cache/cache.h"
#include "model/forward.h"

/* Buffers of a decode step, made when the session opens: a step allocates nothing. */
typedef struct lk_step {
  lk_forward forward;                     /* [n_seqs] rows */
  float *x;                               /* [n_seqs][hidden] */
  float *logits;                          /* [n_seqs][V], on the backend */
  int32_t *next;                          /* [n_seqs], on the backend */
  int64_t *pos;                           /* [n_seqs] */
  lk_slot *slots;                         /* [n_seqs] */
  lk_attend_group *groups;                /* [n_seqs] */
  lk_page_entry *packed_from, *packed_to; /* [n_seqs] the page of each row that enters the middle;
                                             of no kind where there is none */
  lk_rows rows;                           /* of these lists */
  bool *seen;                             /* [n_seqs] sequences of this step */
  float **new_means;                      /* [n_seqs] [L][Hk][2][D] of rows that pack, which become
                                             their sequences' when the step is done; or NULL */
} lk_step;

struct leank_session {
  const leank_model *model;
  leank_session_options options; /* defaults resolved */
  lk_backend *backend;
  lk_cache cache;
  lk_step step;
  leank_plan plan;
  size_t prefill_peak, other_peak; /* bytes */
  atomic_bool interrupted;
};

/* Bytes of a step's buffers. */
size_t lk_step_bytes(const leank_model_info *info, size_t n_seqs);
leank_status lk_step_open(leank_session *session, leank_error *err);
void lk_step_close(leank_session *session);
/* To the caller's memory: logits[n_rows][V] that stand in the step's buffer; next[n_rows]. */
leank_status lk_step_fetch_logits(leank_session *session, size_t n_rows, float *logits,
                                  leank_error *err);
leank_status lk_step_fetch_next(leank_session *session, size_t n_rows, leank_token *next,
                                leank_error *err);

/* plan.c: options with every default resolved; the geometry and backend options that follow. */
leank_status lk_session_resolve(const leank_model_info *info, const leank_session_options *in,
                                leank_session_options *out, leank_error *err);
lk_backend_options lk_session_backend_options(const leank_model_info *info,
                                              const leank_session_options *o);
leank_status lk_session_geometry(const leank_model_info *info, const leank_session_options *o,
                                 lk_geometry *out, leank_error *err);
leank_plan lk_session_plan(const leank_model_info *info, const leank_session_options *o,
                           const lk_geometry *geometry);

/* What the session holds beside the cache, for leank_session_get_memory: once open, and the most
 * that a feed of this size has needed (rows, pages of the table, stage pages, rows of a chunk, page
 * tables of groups, pages packed). */
void lk_session_note_open(leank_session *session);
void lk_session_note_feed(leank_session *session, size_t n_rows, size_t n_pages, size_t n_stage,
                          size_t chunk, size_t n_groups, size_t n_lean);

/* Returns LEANK_E_ARGUMENT. */
leank_status lk_session_null(leank_error *err);
/* The sequence, or NULL with err filled. */
lk_sequence *lk_session_sequence(leank_session *session, size_t seq, leank_error *err);

#endif
