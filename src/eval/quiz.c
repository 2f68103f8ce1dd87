#include "eval/quiz.h"

#include <stdlib.h>
#include <string.h>

#include "text/word_lists.h"

const char lk_noise_line[] =
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.";

/* The names of RULER's files; new tokens and metrics are RULER's. Operations of symbolic tasks are
 * those that models of a few billion parameters can do at all. */
static const lk_quiz_task tasks[] = {
    {"niah_single_1", LEANK_SUITE_NIAH, LEANK_METRIC_ALL, 128, 1, 1 << 20, true, LK_NIAH_SINGLE_1,
     lk_niah_write},
    {"niah_single_2", LEANK_SUITE_NIAH, LEANK_METRIC_ALL, 128, 1, 1 << 20, true, LK_NIAH_SINGLE_2,
     lk_niah_write},
    {"niah_single_3", LEANK_SUITE_NIAH, LEANK_METRIC_ALL, 128, 1, 1 << 20, true, LK_NIAH_SINGLE_3,
     lk_niah_write},
    {"niah_multikey_1", LEANK_SUITE_NIAH, LEANK_METRIC_ALL, 128, 1, 1 << 20, true,
     LK_NIAH_MULTIKEY_1, lk_niah_write},
    {"niah_multikey_2", LEANK_SUITE_NIAH, LEANK_METRIC_ALL, 128, 1, 1 << 20, true,
     LK_NIAH_MULTIKEY_2, lk_niah_write},
    {"niah_multikey_3", LEANK_SUITE_NIAH, LEANK_METRIC_ALL, 128, 1, 1 << 20, true,
     LK_NIAH_MULTIKEY_3, lk_niah_write},
    {"niah_multivalue", LEANK_SUITE_NIAH, LEANK_METRIC_ALL, 128, 1, 1 << 20, true,
     LK_NIAH_MULTIVALUE, lk_niah_write},
    {"niah_multiquery", LEANK_SUITE_NIAH, LEANK_METRIC_ALL, 128, 1, 1 << 20, true,
     LK_NIAH_MULTIQUERY, lk_niah_write},
    {"vt", LEANK_SUITE_RULER, LEANK_METRIC_ALL, 30, 5, 1 << 20, false, 0, lk_vt_write},
    {"cwe", LEANK_SUITE_RULER, LEANK_METRIC_ALL, 120, 1, 22000, false, 0, lk_cwe_write},
    {"fwe", LEANK_SUITE_RULER, LEANK_METRIC_ALL, 50, 40, 1 << 22, false, 0, lk_fwe_write},
    {"qa_like_1", LEANK_SUITE_RULER, LEANK_METRIC_PART, 32, 2, 4900, true, 1, lk_qa_like_write},
    {"qa_like_2", LEANK_SUITE_RULER, LEANK_METRIC_PART, 32, 2, 4900, true, 2, lk_qa_like_write},
    {"qa_1", LEANK_SUITE_RULER, LEANK_METRIC_PART, 32, 1, 1 << 24, false, 1, lk_qa_write},
    {"qa_2", LEANK_SUITE_RULER, LEANK_METRIC_PART, 32, 1, 1 << 24, false, 2, lk_qa_write},
    {"symbolic_op1", LEANK_SUITE_GSM, LEANK_METRIC_VARIABLES, 96, 1, 400000, false, 1,
     lk_symbolic_write},
    {"symbolic_op2", LEANK_SUITE_GSM, LEANK_METRIC_VARIABLES, 96, 1, 400000, false, 2,
     lk_symbolic_write},
    {"symbolic_op3", LEANK_SUITE_GSM, LEANK_METRIC_VARIABLES, 96, 1, 400000, false, 3,
     lk_symbolic_write},
    {"symbolic_op4", LEANK_SUITE_GSM, LEANK_METRIC_VARIABLES, 96, 1, 400000, false, 4,
     lk_symbolic_write},
    {"symbolic_op6", LEANK_SUITE_GSM, LEANK_METRIC_VARIABLES, 96, 1, 400000, false, 6,
     lk_symbolic_write},
    {"symbolic_op8", LEANK_SUITE_GSM, LEANK_METRIC_VARIABLES, 96, 1, 400000, false, 8,
     lk_symbolic_write},
};

const lk_quiz_task *lk_quiz_task_at(size_t i) {
  return i < sizeof tasks / sizeof *tasks ? &tasks[i] : NULL;
}

void lk_quiz_clear(lk_quiz *quiz) {
  lk_text_cut(&quiz->message, 0);
  lk_text_cut(&quiz->begin, 0);
  lk_text_cut(&quiz->references, 0);
  quiz->n_references = quiz->n_needles = 0;
}

void lk_quiz_free(lk_quiz *quiz) {
  lk_text_buffer_free(&quiz->message);
  lk_text_buffer_free(&quiz->begin);
  lk_text_buffer_free(&quiz->references);
}

bool lk_quiz_failed(const lk_quiz *quiz) {
  return quiz->message.failed || quiz->begin.failed || quiz->references.failed;
}

void lk_quiz_add_reference(lk_quiz *quiz, const char *text) {
  lk_text_put(&quiz->references, text, strlen(text) + 1);
  quiz->n_references++;
}

void lk_draw_distinct(lk_rng *rng, size_t n, uint64_t below, uint64_t *out) {
  for (size_t i = 0; i < n; i++) {
    bool is_new;
    do {
      out[i] = lk_rng_below(rng, below);
      is_new = true;
      for (size_t j = 0; j < i; j++) is_new = is_new && out[j] != out[i];
    } while (!is_new);
  }
}

static int compare_u64(const void *a, const void *b) {
  const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
  return (x > y) - (x < y);
}

void lk_sort_u64(uint64_t *list, size_t n) { qsort(list, n, sizeof *list, compare_u64); }

void lk_put_word_key(lk_text_buffer *out, uint64_t i) {
  lk_text_put_format(out, "%s-%s", lk_adjectives[i / LK_N_WORDS], lk_nouns[i % LK_N_WORDS]);
}
