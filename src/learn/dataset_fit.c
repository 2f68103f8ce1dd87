#include "learn/dataset_fit.h"

#include "base/alloc.h"
#include "learn/dataset_prompt.h"
#include "learn/dataset_tasks.h"

enum {
  MAX_MEASURES = 8,  /* tokenizations of whole prompts in one search; three do mostly */
  FIRST_STEP = 6000, /* bytes from which the tokens of a byte are estimated first */
  MAX_ATTEMPTS = 16  /* draws until every question has one answer; one does mostly */
};

typedef struct question_text {
  lk_text_buffer question, begin, answer;
} question_text;

typedef struct fit {
  const lk_prompter *prompter;
  const lk_fit_options *options;
  lk_exercise exercise;
  lk_text_buffer context, message;
  question_text *texts; /* [n_questions] */
  lk_wording *wordings; /* [n_questions] into texts */
} fit;

/* How long prompts are with n units. */
typedef struct measure {
  size_t n, bytes, tokens; /* units; bytes of the context; tokens of a prompt with its answer */
} measure;

/* ---- texts ---- */

static void ask(fit *f, size_t q) {
  question_text *t = &f->texts[q];
  lk_text_cut(&t->question, 0);
  lk_text_cut(&t->begin, 0);
  lk_text_cut(&t->answer, 0);
  lk_exercise_ask(&f->exercise, q, &t->question, &t->begin, &t->answer);
  f->wordings[q] = (lk_wording){t->question.text, t->begin.text, t->answer.text};
}

static leank_status write(fit *f, size_t n, leank_error *err) {
  leank_status status = LEANK_OK;
  LK_TRY(lk_exercise_draw(&f->exercise, n, err));
  lk_text_cut(&f->context, 0);
  lk_exercise_write(&f->exercise, n, &f->context);
  bool failed = f->context.failed;
  for (size_t q = 0; q < f->options->n_questions; q++) {
    ask(f, q);
    const question_text *t = &f->texts[q];
    failed |= t->question.failed || t->begin.failed || t->answer.failed;
  }
  LK_FAIL_IF(failed, err, LEANK_E_MEMORY, -1, "out of memory");
cleanup:
  return status;
}

static bool is_sound(const fit *f) {
  for (size_t q = 0; q < f->options->n_questions; q++)
    if (!lk_exercise_is_sound(&f->exercise, q, &f->context, &f->texts[q].question,
                              &f->texts[q].begin))
      return false;
  return true;
}

/* ---- the search ---- */

static size_t longest_question(const fit *f) {
  size_t longest = 0, most = 0;
  for (size_t q = 0; q < f->options->n_questions; q++) {
    const question_text *t = &f->texts[q];
    const size_t n = t->question.n + t->begin.n + t->answer.n;
    if (n > most) {
      most = n;
      longest = q;
    }
  }
  return longest;
}

/* Tokens by the question that has most bytes: whether it has most tokens is seen in the end. */
static leank_status take_measure(fit *f, size_t n, measure *out, leank_error *err) {
  leank_status status = LEANK_OK;
  leank_token *prompt = NULL, *answer = NULL;
  size_t n_prompt = 0, n_answer = 0, n_text = 0;
  LK_TRY(write(f, n, err));
  const lk_wording *w = &f->wordings[longest_question(f)];
  lk_text_cut(&f->message, 0);
  lk_message_write(&f->message, lk_task_instruction(f->options->task), &f->context, w->question);
  LK_FAIL_IF(f->message.failed, err, LEANK_E_MEMORY, -1, "out of memory");
  LK_TRY(lk_prompt_tokens(f->prompter, f->message.text, w->begin, &prompt, &n_prompt, err));
  LK_TRY(lk_answer_tokens(f->prompter, w->answer, &answer, &n_answer, &n_text, err));
  *out = (measure){n, f->context.n, n_prompt + n_answer};
cleanup:
  lk_free(prompt);
  lk_free(answer);
  return status;
}

/* The most units that make at most `bytes` more than n units do, or that many less. */
static leank_status walk(fit *f, size_t n, double bytes, size_t *out, leank_error *err) {
  leank_status status = LEANK_OK;
  const size_t least = lk_exercise_least(&f->exercise);
  for (; bytes < 0 && n > least; n--) bytes += (double)lk_exercise_unit_bytes(&f->exercise, n - 1);
  for (; bytes >= 0; n++) {
    LK_TRY(lk_exercise_draw(&f->exercise, n + 1, err));
    bytes -= (double)lk_exercise_unit_bytes(&f->exercise, n);
    if (bytes < 0) break;
  }
  *out = n;
cleanup:
  return status;
}

static double tokens_per_byte(const measure *a, const measure *b) {
  if (a->bytes == b->bytes || a->tokens == b->tokens) return 1;
  return ((double)b->tokens - (double)a->tokens) / ((double)b->bytes - (double)a->bytes);
}

/* The most units whose prompt fits, by the estimate from what was measured; each measure narrows
 * the bounds. */
static leank_status search(fit *f, size_t *out, leank_error *err) {
  leank_status status = LEANK_OK;
  const size_t aim = f->options->aim;
  measure least = {0}, last;
  size_t next = 0, fits, too_many = SIZE_MAX;
  LK_TRY(take_measure(f, lk_exercise_least(&f->exercise), &least, err));
  LK_FAIL_IF(least.tokens > aim, err, LEANK_E_ARGUMENT, -1,
             "%zu tokens are too few for task %s with %zu questions, which needs %zu", aim,
             leank_task_name(f->options->task), f->options->n_questions, least.tokens);
  fits = least.n;
  /* A byte makes at most one token, so that this step stays below the aim. */
  const size_t left = aim - least.tokens;
  LK_TRY(walk(f, least.n, (double)(left < FIRST_STEP ? left : FIRST_STEP), &next, err));
  last = least;
  for (size_t i = 0; i < MAX_MEASURES && next != fits; i++) {
    LK_TRY(take_measure(f, next, &last, err));
    if (last.tokens > aim)
      too_many = last.n;
    else if (last.n > fits)
      fits = last.n;
    const double bytes = ((double)aim - (double)last.tokens) / tokens_per_byte(&least, &last);
    LK_TRY(walk(f, last.n, bytes, &next, err));
    if (next >= too_many) next = too_many - 1;
    if (next <= fits) next = last.n == fits || too_many == fits + 1 ? fits : fits + 1;
  }
  *out = fits;
cleanup:
  return status;
}

/* ---- contexts ---- */

static leank_status fit_attempt(fit *f, uint64_t seed, leank_context *out, bool *sound,
                                leank_error *err) {
  leank_status status = LEANK_OK;
  const lk_fit_options *o = f->options;
  size_t n = 0, n_longest = SIZE_MAX;
  leank_context made = {0};
  LK_TRY(lk_exercise_open(o->task, o->n_questions, seed, o->haystack, &f->exercise, err));
  LK_TRY(search(f, &n, err));
  for (; n_longest > o->aim; n--) {
    LK_FAIL_IF(n < lk_exercise_least(&f->exercise), err, LEANK_E_ARGUMENT, -1,
               "%zu tokens are too few for task %s with %zu questions", o->aim,
               leank_task_name(o->task), o->n_questions);
    lk_context_free(&made);
    LK_TRY(write(f, n, err));
    *sound = is_sound(f);
    if (!*sound) goto cleanup;
    LK_TRY(lk_context_make(f->prompter, o->task, &f->context, f->wordings, o->n_questions, &made,
                           &n_longest, err));
  }
  *out = made;
  made = (leank_context){0};
cleanup:
  lk_context_free(&made);
  lk_exercise_close(&f->exercise);
  return status;
}

static void fit_free(fit *f) {
  for (size_t q = 0; f->texts && q < f->options->n_questions; q++) {
    lk_text_buffer_free(&f->texts[q].question);
    lk_text_buffer_free(&f->texts[q].begin);
    lk_text_buffer_free(&f->texts[q].answer);
  }
  lk_free(f->texts);
  lk_free(f->wordings);
  lk_text_buffer_free(&f->context);
  lk_text_buffer_free(&f->message);
}

leank_status lk_context_fit(const lk_prompter *prompter, const lk_fit_options *options,
                            leank_context *out, leank_error *err) {
  leank_status status = LEANK_OK;
  lk_rng rng = {options->seed};
  fit f = {.prompter = prompter, .options = options};
  bool sound = false;
  f.texts = lk_alloc(LK_MEM_OTHER, options->n_questions, sizeof *f.texts);
  f.wordings = lk_alloc(LK_MEM_OTHER, options->n_questions, sizeof *f.wordings);
  LK_FAIL_IF(!f.texts || !f.wordings, err, LEANK_E_MEMORY, -1, "out of memory");
  for (size_t i = 0; i < MAX_ATTEMPTS && !sound; i++)
    LK_TRY(fit_attempt(&f, lk_rng_u64(&rng), out, &sound, err));
  LK_FAIL_IF(!sound, err, LEANK_E_FORMAT, -1,
             "the haystack holds what task %s would hide in it, so that its questions have no one "
             "answer",
             leank_task_name(options->task));
cleanup:
  fit_free(&f);
  return status;
}
