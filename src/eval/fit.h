/* Quizzes of a wanted length. */
#ifndef LK_EVAL_FIT_H
#define LK_EVAL_FIT_H

#include "base/error.h"
#include "eval/quiz.h"
#include "text/prompter.h"

/* Writes the quiz of a source with the most units whose tokens and answer do not exceed its length;
 * its tokens (lk_free). `units`: how many, may be NULL. LEANK_E_ARGUMENT where the length is too
 * short, LEANK_E_FORMAT where answers stand in the text of several seeds by chance (a haystack that
 * holds them), LEANK_E_MEMORY. lk_quiz_free is due in either case. */
leank_status lk_quiz_fit(const lk_prompter *prompter, const lk_quiz_task *task,
                         const lk_quiz_source *source, lk_quiz *quiz, leank_token **tokens,
                         size_t *n_tokens, size_t *units, leank_error *err);

#endif
