#include "learn/dataset_tasks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "text/word_lists.h"

/* Passkeys in a context: some that nobody asks for, and never so few that one stands out. */
enum { SPARE_PASSKEYS = 4, MIN_PASSKEYS = 8 };

static bool is_list(leank_task task) { return task == LEANK_TASK_UUID || task == LEANK_TASK_WORDS; }

/* ---- keys and values ---- */

static void write_uuid(lk_rng *rng, char *out, size_t size) {
  const uint64_t a = lk_rng_u64(rng), b = lk_rng_u64(rng);
  snprintf(out, size, "%08x-%04x-4%03x-%04x-%012llx", (unsigned)(a >> 32),
           (unsigned)(a >> 16 & 0xffff), (unsigned)(a & 0xfff),
           (unsigned)(0x8000 | (b >> 48 & 0x3fff)), (unsigned long long)(b & 0xffffffffffff));
}

static void write_number(lk_rng *rng, size_t n_digits, char *out, size_t size) {
  uint64_t least = 1;
  for (size_t i = 1; i < n_digits; i++) least *= 10;
  snprintf(out, size, "%llu", (unsigned long long)(least + lk_rng_below(rng, 9 * least)));
}

/* Key i of a permutation of all pairs of words, made as far as it is asked for. */
static void write_word_key(lk_exercise *e, size_t i, lk_rng *rng, char *out, size_t size) {
  const size_t other = i + lk_rng_below(rng, LK_N_WORD_KEYS - i);
  const uint16_t key = e->keys[other];
  e->keys[other] = e->keys[i];
  e->keys[i] = key;
  snprintf(out, size, "%s-%s", lk_adjectives[key / LK_N_WORDS], lk_nouns[key % LK_N_WORDS]);
}

/* "first" .. "ninety-ninth", n from 1. */
static void write_ordinal(size_t n, char *out, size_t size) {
  static const char *const small[] = {"first",       "second",     "third",     "fourth",
                                      "fifth",       "sixth",      "seventh",   "eighth",
                                      "ninth",       "tenth",      "eleventh",  "twelfth",
                                      "thirteenth",  "fourteenth", "fifteenth", "sixteenth",
                                      "seventeenth", "eighteenth", "nineteenth"};
  static const char *const tens[] = {"twent", "thirt",  "fort",  "fift",
                                     "sixt",  "sevent", "eight", "ninet"};
  if (n < 20)
    snprintf(out, size, "%s", small[n - 1]);
  else if (n % 10 == 0)
    snprintf(out, size, "%sieth", tens[n / 10 - 2]);
  else
    snprintf(out, size, "%sy-%s", tens[n / 10 - 2], small[n % 10 - 1]);
}

static void shuffle(lk_rng *rng, uint32_t *items, size_t n) {
  for (size_t i = n; i > 1; i--) {
    const size_t j = lk_rng_below(rng, i);
    const uint32_t item = items[i - 1];
    items[i - 1] = items[j];
    items[j] = item;
  }
}

/* n depths, one in each nth part of the text, in random order: uniform, and never bunched. */
static void draw_depths(lk_rng *rng, size_t n, double *out) {
  uint32_t parts[LK_MAX_QUESTIONS + SPARE_PASSKEYS + MIN_PASSKEYS];
  for (size_t i = 0; i < n; i++) parts[i] = (uint32_t)i;
  shuffle(rng, parts, n);
  for (size_t i = 0; i < n; i++) out[i] = (parts[i] + lk_rng_double(rng)) / (double)n;
}

/* ---- what is asked ---- */

static int by_depth(const void *a, const void *b) {
  const lk_needle *x = a, *y = b;
  if (x->depth != y->depth) return x->depth < y->depth ? -1 : 1;
  return x->order < y->order ? -1 : x->order > y->order;
}

static size_t n_passkeys(size_t n_asked) {
  const size_t n = n_asked + SPARE_PASSKEYS;
  return n < MIN_PASSKEYS ? MIN_PASSKEYS : n;
}

static void ask_values(lk_exercise *e, lk_rng *rng) {
  lk_needle *needle = e->needles;
  for (size_t q = 0; q < e->n_asked; q++) {
    lk_asked *asked = &e->asked[q];
    asked->n_values = LK_VALUES_PER_KEY;
    write_word_key(e, q, rng, asked->key, sizeof asked->key);
    for (size_t v = 0; v < LK_VALUES_PER_KEY; v++, needle++) {
      write_number(rng, 7, asked->values[v], sizeof asked->values[v]);
      needle->depth = ((double)v + lk_rng_double(rng)) / LK_VALUES_PER_KEY;
      needle->order = (size_t)(needle - e->needles);
      snprintf(needle->text, sizeof needle->text, "One of the magic numbers for %s is: %s.",
               asked->key, asked->values[v]);
    }
  }
}

/* Ordinals stand in random order, so that a number is found by its name alone. The first ones made
 * are asked for; which ordinals these are is random. */
static void ask_passkeys(lk_exercise *e, lk_rng *rng) {
  uint32_t ordinals[LK_MAX_QUESTIONS + SPARE_PASSKEYS + MIN_PASSKEYS];
  double depths[LK_MAX_QUESTIONS];
  for (size_t i = 0; i < e->n_needles; i++) ordinals[i] = (uint32_t)i + 1;
  shuffle(rng, ordinals, e->n_needles);
  draw_depths(rng, e->n_asked, depths);
  for (size_t i = 0; i < e->n_needles; i++) {
    lk_needle *needle = &e->needles[i];
    lk_asked unasked, *asked = i < e->n_asked ? &e->asked[i] : &unasked;
    asked->n_values = 1;
    write_ordinal(ordinals[i], asked->key, sizeof asked->key);
    write_number(rng, 5, asked->values[0], sizeof asked->values[0]);
    needle->depth = i < e->n_asked ? depths[i] : lk_rng_double(rng);
    needle->order = i;
    snprintf(needle->text, sizeof needle->text, "The %s passkey is %s.", asked->key,
             asked->values[0]);
  }
}

static void ask_lines(lk_exercise *e, lk_rng *rng) {
  double depths[LK_MAX_QUESTIONS];
  draw_depths(rng, e->n_asked, depths);
  for (size_t q = 0; q < e->n_asked; q++) e->asked[q].depth = depths[q];
}

/* ---- opening ---- */

leank_status lk_exercise_open(leank_task task, size_t n_questions, uint64_t seed,
                              const lk_haystack *haystack, lk_exercise *out, leank_error *err) {
  leank_status status = LEANK_OK;
  lk_rng rng = {seed};
  const bool has_words = task == LEANK_TASK_WORDS || task == LEANK_TASK_VALUES;
  const size_t n_keys = has_words ? LK_N_WORD_KEYS : 0;
  lk_exercise e = {.task = task, .haystack = haystack, .n_asked = n_questions};
  e.rng.state = lk_rng_u64(&rng);
  if (task == LEANK_TASK_VALUES) e.n_needles = n_questions * LK_VALUES_PER_KEY;
  if (task == LEANK_TASK_PASSKEYS) e.n_needles = n_passkeys(n_questions);
  e.asked = lk_alloc(LK_MEM_OTHER, n_questions, sizeof *e.asked);
  e.needles = lk_alloc(LK_MEM_OTHER, e.n_needles, sizeof *e.needles);
  e.keys = lk_alloc(LK_MEM_OTHER, n_keys, sizeof *e.keys);
  LK_FAIL_IF(!e.asked || !e.needles || !e.keys, err, LEANK_E_MEMORY, -1, "out of memory");
  for (size_t i = 0; i < n_keys; i++) e.keys[i] = (uint16_t)i;
  if (task == LEANK_TASK_VALUES)
    ask_values(&e, &rng);
  else if (task == LEANK_TASK_PASSKEYS)
    ask_passkeys(&e, &rng);
  else
    ask_lines(&e, &rng);
  if (e.n_needles > 0) qsort(e.needles, e.n_needles, sizeof *e.needles, by_depth);
  *out = e;
  e = (lk_exercise){0};
cleanup:
  lk_exercise_close(&e);
  return status;
}

void lk_exercise_close(lk_exercise *e) {
  lk_free(e->lines);
  lk_free(e->sentences);
  lk_free(e->keys);
  lk_free(e->asked);
  lk_free(e->needles);
  *e = (lk_exercise){0};
}

/* ---- units ---- */

size_t lk_exercise_least(const lk_exercise *e) { return is_list(e->task) ? e->n_asked : 1; }

static void draw_line(lk_exercise *e, size_t i) {
  lk_pair *line = &e->lines[i];
  if (e->task == LEANK_TASK_UUID) {
    write_uuid(&e->rng, line->key, sizeof line->key);
    write_uuid(&e->rng, line->value, sizeof line->value);
  } else {
    write_word_key(e, i, &e->rng, line->key, sizeof line->key);
    write_number(&e->rng, 7, line->value, sizeof line->value);
  }
}

/* All sentences of the haystack in a new order. */
static void draw_sentences(lk_exercise *e) {
  uint32_t *order = e->sentences + e->n_units;
  for (size_t i = 0; i < e->haystack->n; i++) order[i] = (uint32_t)i;
  shuffle(&e->rng, order, e->haystack->n);
  e->n_units += e->haystack->n;
}

static leank_status grow(lk_exercise *e, size_t n, leank_error *err) {
  const bool list = is_list(e->task);
  const size_t room = n + n / 2;
  void *units =
      list ? lk_realloc(e->lines, LK_MEM_OTHER, e->n_units, room, sizeof *e->lines)
           : lk_realloc(e->sentences, LK_MEM_OTHER, e->n_units, room, sizeof *e->sentences);
  if (!units) return lk_fail(err, LEANK_E_MEMORY, -1, "out of memory");
  if (list)
    e->lines = units;
  else
    e->sentences = units;
  e->room = room;
  return LEANK_OK;
}

leank_status lk_exercise_draw(lk_exercise *e, size_t n, leank_error *err) {
  leank_status status = LEANK_OK;
  LK_FAIL_IF(e->task == LEANK_TASK_WORDS && n > LK_N_WORD_KEYS, err, LEANK_E_ARGUMENT, -1,
             "task words has %d keys, too few for a context of that length", LK_N_WORD_KEYS);
  while (e->n_units < n) {
    const size_t n_new = is_list(e->task) ? 1 : e->haystack->n;
    if (e->n_units + n_new > e->room) LK_TRY(grow(e, e->n_units + n_new, err));
    if (is_list(e->task))
      draw_line(e, e->n_units++);
    else
      draw_sentences(e);
  }
cleanup:
  return status;
}

size_t lk_exercise_unit_bytes(const lk_exercise *e, size_t i) {
  if (!is_list(e->task)) return e->haystack->sentences[e->sentences[i]].n + 1;
  return strlen(e->lines[i].key) + strlen(e->lines[i].value) + 3;
}

/* ---- contexts ---- */

static size_t place(double depth, size_t n) {
  const size_t at = (size_t)(depth * (double)n);
  return at < n ? at : n - 1;
}

/* The line at the depth of each question, or the next that no other question has. */
static void choose_lines(lk_exercise *e, size_t n) {
  size_t taken[LK_MAX_QUESTIONS];
  for (size_t q = 0; q < e->n_asked; q++) {
    size_t at = place(e->asked[q].depth, n), other = 0;
    while (other < q) {
      if (taken[other] == at) {
        at = (at + 1) % n;
        other = 0;
      } else {
        other++;
      }
    }
    taken[q] = at;
    lk_asked *asked = &e->asked[q];
    memcpy(asked->key, e->lines[at].key, sizeof asked->key);
    memcpy(asked->values[0], e->lines[at].value, sizeof asked->values[0]);
    asked->n_values = 1;
  }
}

static void write_lines(const lk_exercise *e, size_t n, lk_text_buffer *out) {
  for (size_t i = 0; i < n; i++) {
    if (i > 0) lk_text_put_str(out, "\n");
    lk_text_put_str(out, e->lines[i].key);
    lk_text_put_str(out, ": ");
    lk_text_put_str(out, e->lines[i].value);
  }
}

/* A needle stands before the sentence of its place; n is behind the last one. */
static void write_prose(const lk_exercise *e, size_t n, lk_text_buffer *out) {
  const lk_needle *needle = e->needles, *end = needle + e->n_needles;
  const size_t n_before = out->n;
  for (size_t i = 0; i <= n; i++) {
    for (; needle < end && place(needle->depth, n + 1) == i; needle++) {
      if (out->n > n_before) lk_text_put_str(out, " ");
      lk_text_put_str(out, needle->text);
    }
    if (i == n) break;
    const lk_span sentence = e->haystack->sentences[e->sentences[i]];
    if (out->n > n_before) lk_text_put_str(out, " ");
    lk_text_put(out, sentence.p, sentence.n);
  }
}

void lk_exercise_write(lk_exercise *e, size_t n, lk_text_buffer *out) {
  if (is_list(e->task)) {
    choose_lines(e, n);
    write_lines(e, n, out);
  } else {
    write_prose(e, n, out);
  }
}

/* ---- questions ---- */

void lk_exercise_ask(const lk_exercise *e, size_t q, lk_text_buffer *question,
                     lk_text_buffer *begin, lk_text_buffer *answer) {
  const lk_asked *asked = &e->asked[q];
  switch (e->task) {
  case LEANK_TASK_VALUES:
    lk_text_put_format(
        question, "What are all magic numbers for %s, in the order of the text above?", asked->key);
    lk_text_put_format(begin, "The magic numbers for %s are:", asked->key);
    break;
  case LEANK_TASK_PASSKEYS:
    lk_text_put_format(question, "What is the %s passkey in the text above?", asked->key);
    lk_text_put_format(begin, "The %s passkey is", asked->key);
    break;
  default:
    lk_text_put_format(question, "What is the value of %s in the list above?", asked->key);
    lk_text_put_format(begin, "The value of %s is:", asked->key);
  }
  for (size_t v = 0; v < asked->n_values; v++) {
    if (v > 0) lk_text_put_str(answer, ", ");
    lk_text_put_str(answer, asked->values[v]);
  }
}

bool lk_exercise_is_sound(const lk_exercise *e, size_t q, const lk_text_buffer *context,
                          const lk_text_buffer *question, const lk_text_buffer *begin) {
  const lk_asked *asked = &e->asked[q];
  char named[LK_KEY_BYTES + 16]; /* "first passkey" is part of "twenty-first passkey" */
  snprintf(named, sizeof named, e->task == LEANK_TASK_PASSKEYS ? "The %s passkey" : "%s",
           asked->key);
  if (lk_text_count(context->text, context->n, named) != asked->n_values) return false;
  for (size_t v = 0; v < asked->n_values; v++) {
    const char *value = asked->values[v];
    if (lk_text_count(context->text, context->n, value) != 1 ||
        lk_text_count(question->text, question->n, value) != 0 ||
        lk_text_count(begin->text, begin->n, value) != 0)
      return false;
  }
  return true;
}

const char *lk_task_instruction(leank_task task) {
  switch (task) {
  case LEANK_TASK_UUID:
  case LEANK_TASK_WORDS:
    return "Here is a list of keys, each with its value. Keep it in mind: you will be asked for "
           "the value of one key.";
  case LEANK_TASK_VALUES:
    return "Some magic numbers are hidden in the following text. Keep them in mind: you will be "
           "asked for them.";
  case LEANK_TASK_PASSKEYS:
    return "Some passkeys are hidden in the following text. Keep them in mind: you will be asked "
           "for one.";
  default: return "Read the following text, then answer the question about it.";
  }
}
