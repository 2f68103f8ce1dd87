/* GSM-Infinite's symbolic tasks (arXiv 2502.05252): which variables have a value, among assignments
 * in any order, most of which lead nowhere. */
#include <inttypes.h>
#include <stdio.h>

#include "base/alloc.h"
#include "eval/quiz.h"

enum { MAX_TREE = 32, NAMES = 900000, NAME_STEP = 381917 };

/* Variable i: a name that no other has (NAME_STEP and NAMES have no common divisor). */
static uint64_t name_of(uint64_t first, uint64_t i) {
  return 100000 + (first + i * NAME_STEP) % NAMES;
}

typedef struct assignment {
  uint64_t name, of; /* of: the variable it comes from, 0 = a number */
  int add;
} assignment;

static void put_assignment(lk_text_buffer *out, const assignment *a) {
  if (a->of == 0)
    lk_text_put_format(out, "assign V%" PRIu64 " = %d.", a->name, a->add);
  else if (a->add == 0)
    lk_text_put_format(out, "assign V%" PRIu64 " = V%" PRIu64 ".", a->name, a->of);
  else
    lk_text_put_format(out, "assign V%" PRIu64 " = V%" PRIu64 " %c 1.", a->name, a->of,
                       a->add > 0 ? '+' : '-');
}

static void shuffle(lk_rng *rng, assignment *list, size_t n) {
  for (size_t i = n; i > 1; i--) {
    const size_t j = (size_t)lk_rng_below(rng, i);
    const assignment kept = list[i - 1];
    list[i - 1] = list[j];
    list[j] = kept;
  }
}

/* A tree of n variables (the first is the root, 5 .. 9) and their values. */
static void draw_tree(lk_rng *rng, uint64_t first, size_t n, assignment *out, int *values) {
  for (size_t i = 0; i < n; i++) {
    out[i] = (assignment){.name = name_of(first, i)};
    if (i == 0) {
      values[0] = out[0].add = 5 + (int)lk_rng_below(rng, 5);
      continue;
    }
    const size_t parent = (size_t)lk_rng_below(rng, i);
    out[i].of = out[parent].name;
    out[i].add = (int)lk_rng_below(rng, 3) - 1;
    values[i] = values[parent] + out[i].add;
  }
}

/* Units: variables beside the tree. They come from each other, the first from one that is never
 * assigned. */
void lk_symbolic_write(const lk_quiz_source *source, int kind, size_t n, lk_quiz *out) {
  lk_rng rng = source->rng;
  const size_t n_tree = (size_t)kind;
  const uint64_t first = lk_rng_below(&rng, NAMES);
  int values[MAX_TREE];
  char name[16];
  assignment *list = lk_alloc(LK_MEM_OTHER, n_tree + n, sizeof *list);
  if (!list) {
    out->message.failed = true;
    return;
  }
  draw_tree(&rng, first, n_tree, list, values);
  const int asked = values[lk_rng_below(&rng, n_tree)];
  for (size_t i = 0; i < n_tree; i++) {
    if (values[i] != asked) continue;
    snprintf(name, sizeof name, "V%" PRIu64, list[i].name);
    lk_quiz_add_reference(out, name);
  }
  for (size_t i = 0; i < n; i++) {
    const uint64_t from = i == 0 ? n_tree + n : n_tree + lk_rng_below(&rng, i);
    list[n_tree + i] = (assignment){name_of(first, n_tree + i), name_of(first, from),
                                    (int)lk_rng_below(&rng, 3) - 1};
  }
  shuffle(&rng, list, n_tree + n);
  lk_text_put_str(&out->message, "<context>\n");
  for (size_t i = 0; i < n_tree + n; i++) {
    if (i > 0) lk_text_put_str(&out->message, " ");
    put_assignment(&out->message, &list[i]);
  }
  lk_text_put_format(&out->message,
                     "\n</context>\n\nThe context contains relationships between variables. These "
                     "relationships are independent mathematical equations that are all ");
  lk_text_put_format(&out->message,
                     "satisfied simultaneously.\nUsing only these relationships, determine which "
                     "variables (if any) are equal to %d. ",
                     asked);
  lk_text_put_str(&out->message, "List only their names, separated by commas.");
  lk_text_put_str(&out->begin, "ANSWER:");
  lk_free(list);
}
