/* From the text of a question to tokens, as a model of this kind is asked. */
#ifndef LK_LEARN_DATASET_PROMPT_H
#define LK_LEARN_DATASET_PROMPT_H

#include <leank/learn.h>

#include "base/error.h"
#include "text/prompter.h"
#include "text/text_buffer.h"

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
