#include "learn/dataset_random.h"

#include "base/alloc.h"
#include "base/rng.h"
#include "learn/dataset_prompt.h"

/* n tokens; NULL where memory is short. */
static leank_token *draw(lk_rng *rng, size_t n_vocab, size_t n) {
  leank_token *tokens = lk_alloc(LK_MEM_OTHER, n, sizeof *tokens);
  for (size_t i = 0; tokens && i < n; i++) tokens[i] = (leank_token)lk_rng_below(rng, n_vocab);
  return tokens;
}

static leank_status draw_question(const lk_random_context *s, lk_rng *rng, leank_question *out,
                                  leank_error *err) {
  out->text = lk_strdup("");
  out->answer_text = lk_strdup("");
  out->prompt = draw(rng, s->n_vocab, s->n_prompt);
  out->n_prompt = s->n_prompt;
  out->answer = draw(rng, s->n_vocab, s->n_answer);
  out->n_answer = out->n_text = s->n_answer;
  if (out->text && out->answer_text && out->prompt && out->answer) return LEANK_OK;
  return lk_fail(err, LEANK_E_MEMORY, -1, "out of memory");
}

leank_status lk_context_random(const lk_random_context *s, leank_context *out, leank_error *err) {
  leank_status status = LEANK_OK;
  lk_rng rng = {s->seed};
  leank_context made = {.task = LEANK_TASK_RANDOM};
  leank_question *questions = NULL;
  LK_FAIL_IF(s->n_vocab == 0 || s->n_prompt == 0 || s->n_answer == 0, err, LEANK_E_ARGUMENT, -1,
             "random questions of %zu tokens with answers of %zu, of a vocabulary of %zu",
             s->n_prompt, s->n_answer, s->n_vocab);
  LK_FAIL_IF(s->n_answer >= s->n_all || s->n_prompt >= s->n_all - s->n_answer, err,
             LEANK_E_ARGUMENT, -1,
             "%zu tokens are too few for a random question of %zu and its answer of %zu", s->n_all,
             s->n_prompt, s->n_answer);
  questions = lk_alloc(LK_MEM_OTHER, s->n_questions, sizeof *questions);
  made.questions = questions;
  LK_FAIL_IF(!questions, err, LEANK_E_MEMORY, -1, "out of memory");
  made.n_questions = s->n_questions;
  made.n_tokens = s->n_all - s->n_prompt - s->n_answer;
  made.tokens = draw(&rng, s->n_vocab, made.n_tokens);
  LK_FAIL_IF(!made.tokens, err, LEANK_E_MEMORY, -1, "out of memory");
  for (size_t q = 0; q < s->n_questions; q++) LK_TRY(draw_question(s, &rng, &questions[q], err));
  *out = made;
  made = (leank_context){0};
cleanup:
  lk_context_free(&made);
  return status;
}
