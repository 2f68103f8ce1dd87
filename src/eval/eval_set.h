/* Sets of prompts inside: made with a tokenizer alone, which is what tests have. */
#ifndef LK_EVAL_EVAL_SET_H
#define LK_EVAL_EVAL_SET_H

#include <leank/eval.h>

/* leank_eval_set_open for a model of this tokenizer and n_ctx positions. */
leank_status lk_eval_set_make(const leank_tokenizer *tokenizer, size_t n_ctx,
                              const leank_eval_options *options, leank_eval_set **out,
                              leank_error *err);

#endif
