/* RULER's aggregation and tracing tasks: common words, frequent coded words, variables. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "eval/quiz.h"
#include "text/word_lists.h"

static void shuffle_u32(lk_rng *rng, uint32_t *list, size_t n) {
  for (size_t i = n; i > 1; i--) {
    const size_t j = (size_t)lk_rng_below(rng, i);
    const uint32_t kept = list[i - 1];
    list[i - 1] = list[j];
    list[j] = kept;
  }
}

/* ---- cwe: the 10 words that stand in a list more often than the others ---- */

enum { N_COMMON = 10, SHORT_LENGTH = 4096 };

/* How often common and other words stand in a list. */
typedef struct repeats {
  size_t n_example; /* different words of the worked example */
  size_t example_common, example_other, common, other;
} repeats;

/* As RULER has them for prompts of fewer than 4096 tokens, and for longer ones. */
static const repeats short_repeats = {20, 3, 1, 6, 1}, long_repeats = {40, 10, 3, 30, 3};

static void put_word(lk_text_buffer *out, bool single, uint32_t i) {
  if (!single) {
    lk_put_word_key(out, i);
    return;
  }
  const lk_word word = lk_single_word(i);
  lk_text_put(out, word.p, word.n);
}

/* words[n]: the first N_COMMON stand n_common times, the others n_other times. */
static void put_list(lk_text_buffer *out, lk_rng *rng, bool single, const uint32_t *words, size_t n,
                     size_t n_common, size_t n_other) {
  const size_t total = N_COMMON * n_common + (n - N_COMMON) * n_other;
  uint32_t *list = lk_alloc(LK_MEM_OTHER, total, sizeof *list);
  size_t at = 0;
  if (!list) {
    out->failed = true;
    return;
  }
  for (size_t i = 0; i < n; i++)
    for (size_t j = 0; j < (i < N_COMMON ? n_common : n_other); j++) list[at++] = words[i];
  shuffle_u32(rng, list, total);
  for (size_t i = 0; i < total; i++) {
    lk_text_put_format(out, "%s%zu. ", i ? " " : "", i + 1);
    put_word(out, single, list[i]);
  }
  lk_free(list);
}

static const char cwe_instruction[] =
    "Below is a numbered list of words. In these words, some appear more often than others. "
    "Memorize the ones that appear most often.\n";
static const char cwe_question[] =
    "\nQuestion: What are the 10 most common words in the above list?";
static const char cwe_begin[] = "Answer: The top 10 words that appear most often in the list are:";

/* Units: words besides the common ones. The example's words are words of their own. */
void lk_cwe_write(const lk_quiz_source *source, int kind, size_t n, lk_quiz *out) {
  (void)kind;
  lk_rng rng = source->rng;
  const repeats *times = source->length < SHORT_LENGTH ? &short_repeats : &long_repeats;
  const size_t n_words = N_COMMON + n, n_drawn = n_words + times->n_example;
  const bool single = n_drawn <= lk_single_words();
  const size_t n_all = single ? lk_single_words() : LK_N_WORD_KEYS;
  uint32_t *words = n_drawn <= n_all ? lk_alloc(LK_MEM_OTHER, n_all, sizeof *words) : NULL;
  if (!words) {
    out->message.failed = true;
    return;
  }
  for (size_t i = 0; i < n_all; i++) words[i] = (uint32_t)i;
  shuffle_u32(&rng, words, n_all);
  lk_text_put_str(&out->message, cwe_instruction);
  put_list(&out->message, &rng, single, words + n_words, times->n_example, times->example_common,
           times->example_other);
  lk_text_put_format(&out->message, "%s %s", cwe_question, cwe_begin);
  for (uint32_t i = 0; i < N_COMMON; i++) {
    lk_text_put_format(&out->message, " %u. ", i + 1);
    put_word(&out->message, single, words[n_words + i]);
  }
  lk_text_put_str(&out->message, "\n");
  lk_text_put_str(&out->message, cwe_instruction);
  put_list(&out->message, &rng, single, words, n_words, times->common, times->other);
  lk_text_put_str(&out->message, cwe_question);
  lk_text_put_str(&out->begin, cwe_begin);
  lk_text_buffer word = {0};
  for (size_t i = 0; i < N_COMMON; i++) {
    lk_text_cut(&word, 0);
    put_word(&word, single, words[i]);
    if (!word.failed) lk_quiz_add_reference(out, word.text);
  }
  out->message.failed |= word.failed;
  lk_text_buffer_free(&word);
  lk_free(words);
}

/* ---- fwe: the three most frequent coded words; frequencies by a zeta law of exponent 2 ---- */

enum { CODE_BYTES = 7, TOKENS_PER_CODE = 50, MIN_CODES = 16 };

static bool is_drawn(char (*codes)[CODE_BYTES], size_t n, const char *code) {
  for (size_t i = 0; i < n; i++)
    if (strcmp(codes[i], code) == 0) return true;
  return false;
}

static void draw_codes(lk_rng *rng, size_t n, char (*codes)[CODE_BYTES]) {
  snprintf(codes[0], CODE_BYTES, "...");
  for (size_t i = 1; i < n; i++) do
      for (size_t j = 0; j < 6; j++) codes[i][j] = (char)('a' + lk_rng_below(rng, 26));
    while (is_drawn(codes, i, codes[i]));
}

/* Units: words of the text, as the law gives them before it is rounded down. */
void lk_fwe_write(const lk_quiz_source *source, int kind, size_t n, lk_quiz *out) {
  (void)kind;
  const double zeta_2 = 1.6449340668482264;
  lk_rng rng = source->rng;
  const size_t by_length = source->length / TOKENS_PER_CODE;
  const size_t n_codes = by_length < MIN_CODES ? MIN_CODES : by_length;
  char(*codes)[CODE_BYTES] = lk_alloc(LK_MEM_OTHER, n_codes, sizeof *codes);
  uint32_t *list = lk_alloc(LK_MEM_OTHER, n + 3, sizeof *list);
  size_t total = 0;
  if (!codes || !list) {
    out->message.failed = true;
    goto cleanup;
  }
  draw_codes(&rng, n_codes, codes);
  for (size_t k = 1; k <= n_codes; k++) {
    const size_t count = (size_t)((double)n / (zeta_2 * (double)k * (double)k));
    for (size_t j = 0; j < count && total < n; j++) list[total++] = (uint32_t)(k - 1);
  }
  shuffle_u32(&rng, list, total);
  lk_text_put_str(&out->message,
                  "Read the following coded text and track the frequency of each coded word. Find "
                  "the three most frequently appeared coded words. ");
  for (size_t i = 0; i < total; i++) {
    if (i > 0) lk_text_put_str(&out->message, " ");
    lk_text_put_str(&out->message, codes[list[i]]);
  }
  lk_text_put_str(&out->message,
                  "\nQuestion: Do not provide any explanation. Please ignore the dots '....'. What "
                  "are the three most frequently appeared words in the above coded text?");
  lk_text_put_str(&out->begin, "Answer: According to the coded text above, the three most "
                               "frequently appeared words are:");
  for (size_t i = 1; i <= 3; i++) lk_quiz_add_reference(out, codes[i]);
cleanup:
  lk_free(codes);
  lk_free(list);
}

/* ---- vt: one chain of variables, four hops ---- */

enum { N_CHAIN = 5, N_EXAMPLE_LINES = 10 };

typedef struct chain {
  char names[N_CHAIN][6];
  unsigned value;
} chain;

static chain draw_chain(lk_rng *rng, size_t n_letters) {
  chain c = {.value = 10000 + (unsigned)lk_rng_below(rng, 90000)};
  for (size_t i = 0; i < N_CHAIN; i++) {
    bool is_new = true;
    do {
      for (size_t j = 0; j < n_letters; j++) c.names[i][j] = (char)('A' + lk_rng_below(rng, 26));
      is_new = true;
      for (size_t j = 0; j < i; j++) is_new = is_new && strcmp(c.names[i], c.names[j]) != 0;
    } while (!is_new);
  }
  return c;
}

/* The statements stand before different lines of the n of noise, in their order, and open no line
 * of their own: so RULER lays them. */
static void put_chain(lk_text_buffer *out, lk_rng *rng, const chain *c, size_t n) {
  uint64_t places[N_CHAIN];
  size_t next = 0;
  lk_draw_distinct(rng, N_CHAIN, n, places);
  lk_sort_u64(places, N_CHAIN);
  lk_text_put_str(out, "Memorize and track the chain(s) of variable assignment hidden in the "
                       "following text.\n\n");
  for (size_t i = 0; i < n; i++) {
    if (i > 0) lk_text_put_str(out, " ");
    if (next < N_CHAIN && places[next] == i) {
      if (next == 0)
        lk_text_put_format(out, "VAR %s = %u ", c->names[0], c->value);
      else
        lk_text_put_format(out, "VAR %s = VAR %s  ", c->names[next], c->names[next - 1]);
      next++;
    }
    lk_text_put_str(out, lk_noise_line);
    lk_text_put_str(out, "\n");
  }
  lk_text_put_format(out,
                     "\nQuestion: Find all variables that are assigned the value %u in the text "
                     "above.",
                     c->value);
}

/* RULER's own spelling: a model is asked what it was asked in published results. */
static void put_vt_begin(lk_text_buffer *out, unsigned value) {
  lk_text_put_format(out,
                     "Answer: According to the chain(s) of variable assignment in the text above, "
                     "%d variables are assgined the value %u, they are:",
                     N_CHAIN, value);
}

void lk_vt_write(const lk_quiz_source *source, int kind, size_t n, lk_quiz *out) {
  (void)kind;
  lk_rng rng = source->rng;
  const chain example = draw_chain(&rng, 3);
  chain asked = draw_chain(&rng, 5);
  while (asked.value == example.value) asked = draw_chain(&rng, 5);
  put_chain(&out->message, &rng, &example, N_EXAMPLE_LINES);
  lk_text_put_str(&out->message, " ");
  put_vt_begin(&out->message, example.value);
  for (size_t i = 0; i < N_CHAIN; i++) lk_text_put_format(&out->message, " %s", example.names[i]);
  lk_text_put_str(&out->message, "\n\n");
  put_chain(&out->message, &rng, &asked, n);
  put_vt_begin(&out->begin, asked.value);
  for (size_t i = 0; i < N_CHAIN; i++) lk_quiz_add_reference(out, asked.names[i]);
}
