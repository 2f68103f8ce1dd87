/* A learning run, shared by the files that make it up: learner.c (options, opening), learner_run.c
 * (the stages), learner_eval.c (the held-out set). */
#ifndef LK_LEARN_LEARNER_H
#define LK_LEARN_LEARNER_H

#include <stdatomic.h>

#include <leank/learn.h>

#include "learn/adamw.h"
#include "learn/checkpoint.h"
#include "learn/distill.h"
#include "learn/evaluate.h"
#include "learn/prefill.h"
#include "learn/seen_mask.h"

struct leank_learner {
  const leank_model *model;
  leank_learn_options options;             /* defaults resolved */
  char *checkpoint, *cache_folder;         /* own copies, or NULL */
  leank_dataset *train_set, *held_out_set; /* held-out: NULL where there is none */
  lk_backend *backend;
  lk_prefill train, held_out;
  lk_answer **answers; /* [n_answers] of the training set that have rows */
  size_t n_answers;
  size_t *order; /* [n_answers] of the present epoch */
  uint64_t order_epoch;
  size_t n_params;               /* L * Hk * D */
  size_t max_pages;              /* of the longest prompt with its answer */
  float *alpha, *m, *v, *alpha1; /* [n_params], half order; alpha1: at the end of stage 1 */
  double *gradient, *dweight;    /* [n_params]; half order, the model's order */
  double *dweight_device;        /* the same on the backend */
  uint8_t *kept;                 /* [n_params] half order */
  lk_answer_pass pass;
  lk_distiller distiller;
  lk_seen_mask seen;
  double mean_square; /* of the dense hidden states of the training set */
  lk_learn_state state;
  uint64_t key; /* of settings, data and model */
  double started, step_seconds;
  atomic_bool interrupted;
};

/* kept = alpha rounded; gives the share of channels removed. */
leank_status lk_learner_round(leank_learner *learner, const float *alpha, double *ratio,
                              leank_error *err);
/* The held-out set under learner->kept. LEANK_E_INTERRUPTED. */
leank_status lk_learner_evaluate(leank_learner *learner, leank_mask_report *out, leank_error *err);

/* Whether it was interrupted, for work that asks. */
lk_stop lk_learner_stop(leank_learner *learner);

/* Reports an event, with times and arithmetic filled in. */
void lk_learner_tell(leank_learner *learner, leank_learn_event *event);
double lk_learner_seconds(const leank_learner *learner);

#endif
