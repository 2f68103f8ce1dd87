/* Cutting text into the words that byte-pair encoding works on. A pre-tokenizer is a sequence of
 * steps; each cuts every piece of the step before, seeing nothing beyond that piece. */
#ifndef LK_TEXT_PRETOKENIZE_H
#define LK_TEXT_PRETOKENIZE_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

enum { LK_PRE_MAX_STEPS = 8, LK_PRE_MAX_PATTERN = 16384 };

/* A pattern (matches and what lies between are pieces), or a blank put before pieces that begin
 * with none. */
typedef struct lk_pre_step {
  pcre2_code *code;
  bool prefix_space;
} lk_pre_step;

typedef struct lk_pretokenizer {
  pcre2_general_context *general;
  size_t n_steps;
  lk_pre_step steps[LK_PRE_MAX_STEPS];
} lk_pretokenizer;

/* Patterns of known families. Sources: tokenizer.json of the models named. */
extern const char lk_pattern_gpt2[];   /* byte-level splitting of GPT-2 and SmolLM2 */
extern const char lk_pattern_digit[];  /* one number character */
extern const char lk_pattern_digits[]; /* a run of number characters */
extern const char lk_pattern_qwen2[];  /* Qwen2.5-Coder */
extern const char lk_pattern_llama3[]; /* Llama-3.1-8B-Instruct */

/* Appends a step. The pattern is written for Oniguruma, as tokenizer.json has it; what PCRE2 would
 * read in another way is refused. `name` is for messages. LEANK_E_UNSUPPORTED, LEANK_E_MEMORY. */
leank_status lk_pre_add_pattern(lk_pretokenizer *pre, const char *pattern, size_t n_bytes,
                                const char *name, leank_error *err);
leank_status lk_pre_add_prefix_space(lk_pretokenizer *pre, const char *name, leank_error *err);
void lk_pre_free(lk_pretokenizer *pre);

/* Memory of a run over text; one per call, so that a pretokenizer can be shared. */
typedef struct lk_pre_run {
  const lk_pretokenizer *pre;
  pcre2_match_context *limits;
  pcre2_match_data *match[LK_PRE_MAX_STEPS];
} lk_pre_run;

typedef leank_status (*lk_word_fn)(void *user, const char *word, size_t n_bytes, leank_error *err);

leank_status lk_pre_run_begin(lk_pre_run *run, const lk_pretokenizer *pre, leank_error *err);
void lk_pre_run_end(lk_pre_run *run);
/* Calls on_word for every word of valid UTF-8 text, in order. LEANK_E_MEMORY, LEANK_E_FORMAT where
 * a pattern exceeds its limits, or what on_word returns. */
leank_status lk_pre_run_text(lk_pre_run *run, const char *text, size_t n_bytes, lk_word_fn on_word,
                             void *user, leank_error *err);

#endif
