#include "learn/dataset_prompt.h"

#include <string.h>

#include "base/alloc.h"
#include "learn/dataset_tasks.h"

void lk_message_write(lk_text_buffer *out, const char *instruction, const lk_text_buffer *context,
                      const char *question) {
  lk_text_put_str(out, instruction);
  lk_text_put_str(out, "\n\n");
  lk_text_put(out, context->text, context->n);
  lk_text_put_str(out, "\n\n");
  lk_text_put_str(out, question);
}

/* ---- contexts ---- */

/* Full prompts of all questions, before what they share is split off. */
typedef struct prompts {
  leank_token **tokens; /* [n] */
  size_t *n_tokens;     /* [n] */
  size_t n;
} prompts;

static void prompts_free(prompts *p) {
  for (size_t i = 0; p->tokens && i < p->n; i++) lk_free(p->tokens[i]);
  lk_free(p->tokens);
  lk_free(p->n_tokens);
}

static leank_status prompts_make(const lk_prompter *prompter, leank_task task,
                                 const lk_text_buffer *context, const lk_wording *wordings,
                                 prompts *p, leank_error *err) {
  leank_status status = LEANK_OK;
  lk_text_buffer message = {0};
  p->tokens = lk_alloc(LK_MEM_OTHER, p->n, sizeof *p->tokens);
  p->n_tokens = lk_alloc(LK_MEM_OTHER, p->n, sizeof *p->n_tokens);
  LK_FAIL_IF(!p->tokens || !p->n_tokens, err, LEANK_E_MEMORY, -1, "out of memory");
  for (size_t q = 0; q < p->n; q++) {
    lk_text_cut(&message, 0);
    lk_message_write(&message, lk_task_instruction(task), context, wordings[q].question);
    LK_FAIL_IF(message.failed, err, LEANK_E_MEMORY, -1, "out of memory");
    LK_TRY(lk_prompt_tokens(prompter, message.text, wordings[q].begin, &p->tokens[q],
                            &p->n_tokens[q], err));
    LK_FAIL_IF(p->n_tokens[q] < 2 || p->tokens[q][0] != p->tokens[0][0], err, LEANK_E_ARGUMENT, -1,
               "the model has too few tokens for English text");
  }
cleanup:
  lk_text_buffer_free(&message);
  return status;
}

/* The longest beginning of all prompts that leaves each of them a token. */
static size_t count_shared(const prompts *p) {
  size_t n = p->n_tokens[0] - 1;
  for (size_t q = 1; q < p->n; q++) {
    const size_t most = p->n_tokens[q] - 1 < n ? p->n_tokens[q] - 1 : n;
    size_t same = 0;
    while (same < most && p->tokens[q][same] == p->tokens[0][same]) same++;
    n = same;
  }
  return n;
}

static leank_token *copy_tokens(const leank_token *tokens, size_t n) {
  leank_token *copy = lk_alloc(LK_MEM_OTHER, n, sizeof *copy);
  if (copy && n > 0) memcpy(copy, tokens, n * sizeof *copy);
  return copy;
}

static leank_status fill_question(const lk_prompter *prompter, const lk_wording *wording,
                                  const leank_token *prompt, size_t n_prompt, leank_question *out,
                                  leank_error *err) {
  leank_status status = LEANK_OK;
  leank_token *answer = NULL;
  out->text = lk_strdup(wording->question);
  out->answer_text = lk_strdup(wording->answer);
  out->prompt = copy_tokens(prompt, n_prompt);
  out->n_prompt = n_prompt;
  LK_FAIL_IF(!out->text || !out->answer_text || !out->prompt, err, LEANK_E_MEMORY, -1,
             "out of memory");
  LK_TRY(lk_answer_tokens(prompter, wording->answer, &answer, &out->n_answer, &out->n_text, err));
  out->answer = answer;
cleanup:
  return status;
}

leank_status lk_context_make(const lk_prompter *prompter, leank_task task,
                             const lk_text_buffer *context, const lk_wording *wordings,
                             size_t n_questions, leank_context *out, size_t *n_longest,
                             leank_error *err) {
  leank_status status = LEANK_OK;
  prompts p = {.n = n_questions};
  leank_context made = {.task = task, .n_questions = n_questions};
  leank_question *questions = lk_alloc(LK_MEM_OTHER, n_questions, sizeof *questions);
  size_t longest = 0;
  made.questions = questions;
  LK_FAIL_IF(!questions, err, LEANK_E_MEMORY, -1, "out of memory");
  LK_TRY(prompts_make(prompter, task, context, wordings, &p, err));
  made.n_tokens = count_shared(&p);
  made.tokens = copy_tokens(p.tokens[0], made.n_tokens);
  LK_FAIL_IF(!made.tokens, err, LEANK_E_MEMORY, -1, "out of memory");
  for (size_t q = 0; q < n_questions; q++) {
    LK_TRY(fill_question(prompter, &wordings[q], p.tokens[q] + made.n_tokens,
                         p.n_tokens[q] - made.n_tokens, &questions[q], err));
    const size_t n = p.n_tokens[q] + questions[q].n_answer;
    if (n > longest) longest = n;
  }
  *out = made;
  *n_longest = longest;
  made = (leank_context){0};
cleanup:
  prompts_free(&p);
  lk_context_free(&made);
  return status;
}

void lk_context_free(leank_context *context) {
  for (size_t q = 0; context->questions && q < context->n_questions; q++) {
    const leank_question *question = &context->questions[q];
    lk_free((char *)question->text);
    lk_free((char *)question->answer_text);
    lk_free((leank_token *)question->prompt);
    lk_free((leank_token *)question->answer);
  }
  lk_free((leank_question *)context->questions);
  lk_free((leank_token *)context->tokens);
  *context = (leank_context){0};
}
