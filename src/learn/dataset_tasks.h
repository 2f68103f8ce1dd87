/* What a context says and what is asked about it, as text. An exercise is a sequence of units
 * (lines that are needles themselves, or sentences of prose with needles between them) that is
 * drawn once, without end; any beginning of it makes a context, so that a length can be searched
 * for. */
#ifndef LK_LEARN_DATASET_TASKS_H
#define LK_LEARN_DATASET_TASKS_H

#include <leank/learn.h>

#include "base/error.h"
#include "base/rng.h"
#include "text/haystack.h"
#include "text/text_buffer.h"

enum {
  LK_MAX_QUESTIONS = 64, /* of one context */
  LK_VALUES_PER_KEY = 4, /* of LEANK_TASK_VALUES */
  LK_KEY_BYTES = 40,     /* a uuid, or two words, and a NUL */
  LK_VALUE_BYTES = 40
};

typedef struct lk_pair {
  char key[LK_KEY_BYTES], value[LK_VALUE_BYTES];
} lk_pair;

/* What one question asks for. */
typedef struct lk_asked {
  char key[LK_KEY_BYTES];
  char values[LK_VALUES_PER_KEY][LK_VALUE_BYTES]; /* in the order of the text */
  size_t n_values;
  double depth; /* of a line: where it stands, as a share of the lines */
} lk_asked;

/* A sentence put between those of the prose. */
typedef struct lk_needle {
  double depth; /* as a share of the sentences */
  size_t order; /* in which it was made */
  char text[120];
} lk_needle;

typedef struct lk_exercise {
  leank_task task; /* not LEANK_TASK_FILE */
  const lk_haystack *haystack;
  lk_rng rng;           /* of the units to come */
  lk_pair *lines;       /* [n_units] of uuid and words, or NULL */
  uint32_t *sentences;  /* [n_units] of values and passkeys, or NULL */
  size_t n_units, room; /* drawn so far */
  uint16_t *keys;       /* of words and values: a permutation of all keys in the making */
  lk_asked *asked;      /* [n_asked]; uuid and words: filled by lk_exercise_write */
  size_t n_asked;
  lk_needle *needles; /* [n_needles] by depth */
  size_t n_needles;
} lk_exercise;

/* One exercise of a task other than file; the haystack stays the caller's and is used by values
 * and passkeys alone. n_questions: 1 .. LK_MAX_QUESTIONS. LEANK_E_MEMORY. */
leank_status lk_exercise_open(leank_task task, size_t n_questions, uint64_t seed,
                              const lk_haystack *haystack, lk_exercise *out, leank_error *err);
void lk_exercise_close(lk_exercise *exercise);

/* The smallest number of units that holds all questions. */
size_t lk_exercise_least(const lk_exercise *exercise);
/* Draws units until there are n. LEANK_E_MEMORY; LEANK_E_ARGUMENT where a task has no more. */
leank_status lk_exercise_draw(lk_exercise *exercise, size_t n, leank_error *err);
/* Bytes that unit i (drawn) adds to a context. */
size_t lk_exercise_unit_bytes(const lk_exercise *exercise, size_t i);
/* Puts the context of the first n units (drawn), and settles which lines are asked for. */
void lk_exercise_write(lk_exercise *exercise, size_t n, lk_text_buffer *out);

/* Puts question q of a context that was written: what is asked, how the answer begins, the answer
 * (without the blank between the two). */
void lk_exercise_ask(const lk_exercise *exercise, size_t q, lk_text_buffer *question,
                     lk_text_buffer *begin, lk_text_buffer *answer);
/* Whether question q has one answer: its key stands in the context as often as it should, each of
 * its values once, and none in the question. A haystack may spoil that, or chance. */
bool lk_exercise_is_sound(const lk_exercise *exercise, size_t q, const lk_text_buffer *context,
                          const lk_text_buffer *question, const lk_text_buffer *begin);

/* What the user is told before the context; of every task. Static storage. */
const char *lk_task_instruction(leank_task task);

#endif
