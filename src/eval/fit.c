#include "eval/fit.h"

#include <string.h>

#include "base/alloc.h"

enum { N_TRIES = 8 };

typedef struct fitting {
  const lk_prompter *prompter;
  const lk_quiz_task *task;
  lk_quiz_source source;
  lk_quiz *quiz;
  size_t room; /* tokens of the prompt alone */
} fitting;

static leank_status make(const fitting *f, size_t n, leank_token **tokens, size_t *n_tokens,
                         leank_error *err) {
  lk_quiz_clear(f->quiz);
  f->task->write(&f->source, f->task->kind, n, f->quiz);
  if (lk_quiz_failed(f->quiz)) return lk_fail(err, LEANK_E_MEMORY, -1, "out of memory");
  return lk_prompt_tokens(f->prompter, f->quiz->message.text, f->quiz->begin.text, tokens, n_tokens,
                          err);
}

static leank_status count(const fitting *f, size_t n, size_t *n_tokens, leank_error *err) {
  leank_token *tokens = NULL;
  const leank_status status = make(f, n, &tokens, n_tokens, err);
  lk_free(tokens);
  return status;
}

/* The largest n with count(n) <= room < count(n + 1), by interpolation between an n that fits and
 * one that does not. */
static leank_status search(const fitting *f, size_t *out, leank_error *err) {
  leank_status status = LEANK_OK;
  size_t lo = f->task->n_least, hi = f->task->n_most, t_lo, t_hi = 0, t;
  LK_TRY(count(f, lo, &t_lo, err));
  LK_FAIL_IF(t_lo > f->room, err, LEANK_E_ARGUMENT, -1,
             "%zu tokens are too few for task %s, whose shortest prompt has %zu and its answer %zu",
             f->source.length, f->task->name, t_lo, f->task->max_new);
  double slope = 8; /* tokens of a unit, until two counts tell */
  for (unsigned step = 0; hi - lo > 1; step++) {
    double guess = (double)lo + (double)(f->room - t_lo) / slope;
    if (step > 8) guess = (double)lo + (double)(hi - lo) / 2; /* no straight line: halve */
    size_t n = guess >= (double)hi ? hi - 1 : (size_t)guess;
    if (n <= lo) n = lo + 1;
    LK_TRY(count(f, n, &t, err));
    if (t <= f->room) {
      if (t > t_lo) slope = (double)(t - t_lo) / (double)(n - lo);
      lo = n;
      t_lo = t;
    } else {
      hi = n;
      t_hi = t;
    }
    if (t_hi > t_lo && hi > lo) slope = (double)(t_hi - t_lo) / (double)(hi - lo);
  }
  *out = lo;
cleanup:
  return status;
}

/* Each reference stands in the message once, where the task says so. */
static bool is_sound(const lk_quiz_task *task, const lk_quiz *quiz) {
  const char *reference = quiz->references.text;
  for (size_t i = 0; task->once && i < quiz->n_references; i++) {
    if (lk_text_count(quiz->message.text, quiz->message.n, reference) != 1) return false;
    reference += strlen(reference) + 1;
  }
  return true;
}

leank_status lk_quiz_fit(const lk_prompter *prompter, const lk_quiz_task *task,
                         const lk_quiz_source *source, lk_quiz *quiz, leank_token **tokens,
                         size_t *n_tokens, size_t *units, leank_error *err) {
  leank_status status = LEANK_OK;
  const size_t length = source->length;
  fitting f = {.prompter = prompter, .task = task, .source = *source, .quiz = quiz};
  size_t n = 0;
  *tokens = NULL;
  LK_FAIL_IF(length <= task->max_new, err, LEANK_E_ARGUMENT, -1,
             "%zu tokens are too few for task %s, whose answer alone may have %zu", length,
             task->name, task->max_new);
  f.room = length - task->max_new;
  for (size_t i = 0; i < N_TRIES; i++) {
    LK_TRY(search(&f, &n, err));
    LK_TRY(make(&f, n, tokens, n_tokens, err));
    if (units) *units = n;
    if (is_sound(task, quiz)) return LEANK_OK;
    lk_free(*tokens);
    *tokens = NULL;
    f.source.rng.state = lk_rng_u64(&f.source.rng);
  }
  LK_FAIL(err, LEANK_E_FORMAT, -1, "the haystack holds what task %s would hide in it", task->name);
cleanup:
  return status;
}
