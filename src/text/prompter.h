/* From a message to tokens, as a model of this kind is asked. */
#ifndef LK_TEXT_PROMPTER_H
#define LK_TEXT_PROMPTER_H

#include <leank/text.h>

#include "base/error.h"

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

#endif
