/* What is asked, as text. A task writes the quiz of a seed with n units of haystack: the same
 * question whatever n is, so that a length can be searched for. */
#ifndef LK_EVAL_QUIZ_H
#define LK_EVAL_QUIZ_H

#include <leank/eval.h>

#include "base/rng.h"
#include "eval/qa_files.h"
#include "text/haystack.h"
#include "text/text_buffer.h"

enum { LK_MAX_NEEDLES = 8, LK_N_DEPTHS = 40 };

typedef struct lk_quiz {
  lk_text_buffer message, begin; /* what is asked, and how the answer begins */
  lk_text_buffer references;     /* one behind the other, a NUL after each */
  size_t n_references;
  /* Of needles, in the order of the text. */
  size_t n_needles;
  size_t depths[LK_MAX_NEEDLES]; /* 0 .. LK_N_DEPTHS - 1: of 0 .. 100 % */
  size_t places[LK_MAX_NEEDLES]; /* units before it */
} lk_quiz;

void lk_quiz_clear(lk_quiz *quiz);
void lk_quiz_free(lk_quiz *quiz);
/* Whether memory ran short. */
bool lk_quiz_failed(const lk_quiz *quiz);
void lk_quiz_add_reference(lk_quiz *quiz, const char *text);

typedef struct lk_quiz_source {
  lk_rng rng; /* a copy of it draws */
  const lk_haystack *haystack;
  size_t length;        /* the budget in tokens */
  const lk_qa_data *qa; /* of lk_qa_write */
} lk_quiz_source;

typedef struct lk_quiz_task {
  const char *name;
  leank_eval_suite suite;
  leank_eval_metric metric;
  size_t max_new;
  size_t n_least, n_most; /* units */
  bool once;              /* every reference stands in the message exactly once */
  int kind;               /* for write */
  void (*write)(const lk_quiz_source *source, int kind, size_t n, lk_quiz *out);
} lk_quiz_task;

/* Task i; NULL behind the last. */
const lk_quiz_task *lk_quiz_task_at(size_t i);

/* ---- writers; kinds are theirs ---- */

enum {
  LK_NIAH_SINGLE_1,
  LK_NIAH_SINGLE_2,
  LK_NIAH_SINGLE_3,
  LK_NIAH_MULTIKEY_1,
  LK_NIAH_MULTIKEY_2,
  LK_NIAH_MULTIKEY_3,
  LK_NIAH_MULTIVALUE,
  LK_NIAH_MULTIQUERY
};
void lk_niah_write(const lk_quiz_source *source, int kind, size_t n, lk_quiz *out);
void lk_vt_write(const lk_quiz_source *source, int kind, size_t n, lk_quiz *out);
void lk_cwe_write(const lk_quiz_source *source, int kind, size_t n, lk_quiz *out);
void lk_fwe_write(const lk_quiz_source *source, int kind, size_t n, lk_quiz *out);
/* kind: 1 or 2 documents are needed for the answer. */
void lk_qa_like_write(const lk_quiz_source *source, int kind, size_t n, lk_quiz *out);
/* Questions of the user's files; they stand in for the tasks above. */
void lk_qa_write(const lk_quiz_source *source, int kind, size_t n, lk_quiz *out);
/* kind: variables of the tree. */
void lk_symbolic_write(const lk_quiz_source *source, int kind, size_t n, lk_quiz *out);

/* "The grass is green. ..." of RULER. */
extern const char lk_noise_line[];

/* ---- draws ---- */

/* n different numbers below `below`, in random order. n <= below, n <= LK_MAX_DRAW. */
enum { LK_MAX_DRAW = 64 };
void lk_draw_distinct(lk_rng *rng, size_t n, uint64_t below, uint64_t *out);
void lk_sort_u64(uint64_t *list, size_t n);
/* "adjective-noun" number i of LK_N_WORD_KEYS. */
void lk_put_word_key(lk_text_buffer *out, uint64_t i);

typedef struct lk_word {
  const char *p;
  size_t n;
} lk_word;
/* How many single words there are (some thousand, none twice), and number i of them. */
size_t lk_single_words(void);
lk_word lk_single_word(size_t i);

#endif
