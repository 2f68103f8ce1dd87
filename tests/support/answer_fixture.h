/* A context with questions, read as learning reads it, and a pass over the answers' rows. */
#ifndef LK_SUPPORT_ANSWER_FIXTURE_H
#define LK_SUPPORT_ANSWER_FIXTURE_H

#include "learn/distill.h"
#include "learn/seen_mask.h"

typedef struct lk_answer_fixture {
  const leank_model *model;
  leank_context context;
  lk_backend *backend;
  lk_prefill prefill;
  lk_answer_pass pass;
  lk_seen_mask seen;   /* what the rows see; the test sets it */
  lk_answer **answers; /* [n_answers], each with rows */
  size_t n_answers, n_rows;
  size_t n_params; /* L * Hk * D */
} lk_answer_fixture;

/* A question of n_prompt tokens, then n_rows that are read, then one that nobody reads. */
leank_question lk_fixture_question(const leank_token *tokens, size_t n_prompt, size_t n_rows);

/* Reads the context: tokens and questions must stand until it is closed. Any failure fails the
 * test. The fixture must not be moved. */
void lk_answer_fixture_open(lk_answer_fixture *f, const leank_model *model,
                            const leank_context *context, leank_kv_type type, size_t n_threads);
/* On a device. */
void lk_answer_fixture_open_on(lk_answer_fixture *f, const leank_model *model,
                               const leank_context *context, leank_kv_type type, size_t n_threads,
                               leank_device device);
void lk_answer_fixture_close(lk_answer_fixture *f);

/* Forward through n answers under f->seen: hidden states are in f->pass.forward.norm. */
void lk_fixture_forward(lk_answer_fixture *f, lk_answer *const *answers, size_t n, lk_split split);
/* The objective, that of hidden states over no scale; and its gradient[n_params] by the weights, in
 * half order. */
double lk_fixture_loss(lk_answer_fixture *f, lk_answer *const *answers, size_t n, lk_split split,
                       leank_loss loss, double *gradient);

#endif
