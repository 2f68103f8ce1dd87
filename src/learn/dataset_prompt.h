/* From the text of a question to tokens, as a model of this kind is asked. */
#ifndef LK_LEARN_DATASET_PROMPT_H
#define LK_LEARN_DATASET_PROMPT_H

#include <leank/learn.h>

#include "base/error.h"
#include "learn/text_buffer.h"

typedef struct lk_prompter {
  const leank_tokenizer *tokenizer;
  bool chat;       /* by the model's template; else plain text */
  leank_token end; /* what its template puts behind an answer, -1 = nothing */
} lk_prompter;

/* LEANK_E_MEMORY. */
leank_status lk_prompter_open(const leank_tokenizer *tokenizer, lk_prompter *out, leank_error *err);

/* Tokens of a user's message and the beginning of the answer, which the assistant has written.
 * *out: lk_free. */
leank_status lk_prompt_tokens(const lk_prompter *prompter, const char *message, const char *begin,
                              leank_token **out, size_t *n_out, leank_error *err);
/* Tokens of " " and the answer, and the end of the turn; *n_text are the answer's own. *out:
 * lk_free. LEANK_E_ARGUMENT where the tokenizer gives no token for the text. */
leank_status lk_answer_tokens(const lk_prompter *prompter, const char *answer, leank_token **out,
                              size_t *n_out, size_t *n_text, leank_error *err);

/* A question of one context. */
typedef struct lk_wording {
  const char *question, *begin, *answer;
} lk_wording;

/* Puts the message that asks: instruction, context, question. */
void lk_message_write(lk_text_buffer *out, const char *instruction, const lk_text_buffer *context,
                      const char *question);

/* Makes the tokens of a context with all its questions; *n_longest = tokens of the longest prompt
 * with its answer. lk_context_free what it gives. LEANK_E_MEMORY and the statuses of
 * leank_tokenize. */
leank_status lk_context_make(const lk_prompter *prompter, leank_task task,
                             const lk_text_buffer *context, const lk_wording *wordings,
                             size_t n_questions, leank_context *out, size_t *n_longest,
                             leank_error *err);
void lk_context_free(leank_context *context);

#endif
