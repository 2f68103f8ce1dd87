/* The held-out set, and what is told of a run. */
#include <string.h>

#include "base/clock.h"
#include "learn/learner.h"

double lk_learner_seconds(const leank_learner *l) { return lk_seconds() - l->started; }

void lk_learner_tell(leank_learner *l, leank_learn_event *event) {
  if (!l->options.on_event) return;
  event->seconds = lk_learner_seconds(l);
  event->flops = l->state.flops + l->backend->ops->flops(l->backend);
  event->reference_flops = l->state.reference_flops;
  l->options.on_event(l->options.user, event);
}

leank_status lk_learner_round(leank_learner *l, const float *alpha, double *ratio,
                              leank_error *err) {
  const leank_learn_options *o = &l->options;
  const leank_model_info *m = &l->model->info;
  size_t n_kept = 0;
  const leank_status status =
      leank_mask_round(alpha, m->n_layers, m->n_kv_heads, m->head_dim, o->ratio, o->align,
                       o->budget, o->exact_budget, l->kept, err);
  if (status != LEANK_OK) return status;
  for (size_t i = 0; i < l->n_params; i++) n_kept += l->kept[i];
  *ratio = 1 - (double)n_kept / (double)l->n_params;
  return LEANK_OK;
}

static lk_answer **list_held_out(const leank_learner *l, size_t *n, size_t *n_rows) {
  lk_answer **list = lk_alloc(LK_MEM_OTHER, l->held_out.n_answers, sizeof *list);
  *n = *n_rows = 0;
  for (size_t i = 0; list && i < l->held_out.n_contexts; i++)
    for (size_t j = 0; j < l->held_out.contexts[i].n_answers; j++) {
      lk_answer *a = &l->held_out.contexts[i].answers[j];
      if (a->n_rows == 0) continue;
      list[(*n)++] = a;
      *n_rows += a->n_rows;
    }
  return list;
}

leank_status lk_learner_evaluate(leank_learner *l, leank_mask_report *out, leank_error *err) {
  leank_status status = LEANK_OK;
  const leank_learn_options *o = &l->options;
  size_t n, n_rows;
  lk_evaluator evaluator = {0};
  lk_score score = {0};
  lk_answer **answers = list_held_out(l, &n, &n_rows);
  LK_FAIL_IF(!answers, err, LEANK_E_MEMORY, -1, "out of memory");
  const size_t most = l->held_out.max_rows > LK_EVAL_ROWS ? l->held_out.max_rows : LK_EVAL_ROWS;
  LK_TRY(lk_evaluator_open(&l->held_out, n_rows < most ? n_rows : most, 1, o->n_threads, &evaluator,
                           err));
  LK_TRY(lk_score_open(n, n_rows, &score, err));
  lk_seen_mask_set_kept(&l->seen, l->kept, o->policy, o->mean_compensation, false);
  const lk_seen seen = lk_seen_of(&l->seen, (lk_split){o->n_sink, o->n_recent, LEANK_PAGE_TOKENS});
  LK_TRY(lk_evaluate(&evaluator, answers, n, &seen, 1, lk_learner_stop(l), &score, err));
  lk_score_report(&score, out);
cleanup:
  lk_score_close(&score);
  lk_evaluator_close(&evaluator);
  lk_free(answers);
  return status;
}
