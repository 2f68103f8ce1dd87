/* RULER's needles in haystacks: one wording, three kinds of haystack. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "eval/quiz.h"
#include "text/word_lists.h"

typedef enum hay { HAY_NOISE, HAY_ESSAY, HAY_NEEDLES } hay;

typedef struct niah {
  hay hay;
  bool uuid_keys, uuid_values;
  size_t n_keys, n_values, n_asked; /* keys, values of each, keys that are asked (the first) */
} niah;

static const niah kinds[] = {
    [LK_NIAH_SINGLE_1] = {HAY_NOISE, false, false, 1, 1, 1},
    [LK_NIAH_SINGLE_2] = {HAY_ESSAY, false, false, 1, 1, 1},
    [LK_NIAH_SINGLE_3] = {HAY_ESSAY, false, true, 1, 1, 1},
    [LK_NIAH_MULTIKEY_1] = {HAY_ESSAY, false, false, 4, 1, 1},
    [LK_NIAH_MULTIKEY_2] = {HAY_NEEDLES, false, false, 1, 1, 1},
    [LK_NIAH_MULTIKEY_3] = {HAY_NEEDLES, true, true, 1, 1, 1},
    [LK_NIAH_MULTIVALUE] = {HAY_ESSAY, false, false, 1, 4, 1},
    [LK_NIAH_MULTIQUERY] = {HAY_ESSAY, false, false, 4, 1, 4},
};

typedef struct needle {
  char key[48], value[48];
  bool asked;
} needle;

/* Version 4, as RFC 9562 writes it. */
static void draw_uuid(lk_rng *rng, char out[48]) {
  const uint64_t a = lk_rng_u64(rng), b = lk_rng_u64(rng);
  snprintf(out, 48, "%08" PRIx64 "-%04" PRIx64 "-4%03" PRIx64 "-%04" PRIx64 "-%012" PRIx64, a >> 32,
           a >> 16 & 0xffff, a & 0xfff, (b >> 48 & 0x3fff) | 0x8000, b & 0xffffffffffff);
}

static void draw_value(lk_rng *rng, bool uuid, char out[48]) {
  if (uuid)
    draw_uuid(rng, out);
  else
    snprintf(out, 48, "%" PRIu64, 1000000 + lk_rng_below(rng, 9000000));
}

static void draw_key(lk_rng *rng, bool uuid, char out[48]) {
  if (uuid) {
    draw_uuid(rng, out);
    return;
  }
  const uint64_t i = lk_rng_below(rng, LK_N_WORD_KEYS);
  snprintf(out, 48, "%s-%s", lk_adjectives[i / LK_N_WORDS], lk_nouns[i % LK_N_WORDS]);
}

static bool is_taken(const needle *needles, size_t n, const char *text) {
  for (size_t i = 0; i < n; i++)
    if (strcmp(needles[i].key, text) == 0 || strcmp(needles[i].value, text) == 0) return true;
  return false;
}

/* All needles with different values; returns how many. */
static size_t draw_needles(lk_rng *rng, const niah *k, needle *out) {
  size_t n = 0;
  for (size_t i = 0; i < k->n_keys; i++) {
    char key[48];
    do draw_key(rng, k->uuid_keys, key);
    while (is_taken(out, n, key));
    for (size_t j = 0; j < k->n_values; j++, n++) {
      do draw_value(rng, k->uuid_values, out[n].value);
      while (is_taken(out, n, out[n].value));
      memcpy(out[n].key, key, sizeof key);
      out[n].asked = i < k->n_asked;
    }
  }
  return n;
}

static void put_needle(lk_text_buffer *out, const niah *k, const needle *told) {
  lk_text_put_format(out, "One of the special magic %s for %s is: %s.",
                     k->uuid_values ? "uuids" : "numbers", told->key, told->value);
}

/* Depths of needles, in the order of the text, and where that is among n units. */
static void draw_places(lk_rng *rng, size_t n_needles, size_t n, lk_quiz *out) {
  uint64_t depths[LK_MAX_NEEDLES];
  lk_draw_distinct(rng, n_needles, LK_N_DEPTHS, depths);
  lk_sort_u64(depths, n_needles);
  out->n_needles = n_needles;
  for (size_t i = 0; i < n_needles; i++) {
    out->depths[i] = (size_t)depths[i];
    out->places[i] = (size_t)(depths[i] * n / (LK_N_DEPTHS - 1));
  }
}

/* A line of another key and value than those that count. */
static void put_other(lk_text_buffer *out, lk_rng *rng, const niah *k, const needle *needles,
                      size_t n_needles) {
  needle other;
  do draw_key(rng, k->uuid_keys, other.key);
  while (is_taken(needles, n_needles, other.key));
  do draw_value(rng, k->uuid_values, other.value);
  while (is_taken(needles, n_needles, other.value));
  put_needle(out, k, &other);
}

static void put_unit(lk_text_buffer *out, const lk_quiz_source *source, const niah *k, lk_rng *rng,
                     size_t sentence, const needle *needles, size_t n_needles) {
  const lk_haystack *h = source->haystack;
  switch (k->hay) {
  case HAY_NOISE: lk_text_put_str(out, lk_noise_line); break;
  case HAY_ESSAY:
    lk_text_put(out, h->sentences[sentence % h->n].p, h->sentences[sentence % h->n].n);
    break;
  case HAY_NEEDLES: put_other(out, rng, k, needles, n_needles); break;
  }
}

static void put_haystack(lk_text_buffer *out, const lk_quiz_source *source, const niah *k,
                         lk_rng *rng, size_t n, const needle *needles, const lk_quiz *quiz) {
  const char *between = k->hay == HAY_ESSAY ? " " : "\n";
  const size_t first = k->hay == HAY_ESSAY ? (size_t)lk_rng_below(rng, source->haystack->n) : 0;
  size_t next = 0;
  for (size_t i = 0; i <= n; i++) {
    for (; next < quiz->n_needles && quiz->places[next] == i; next++) {
      if (i + next > 0) lk_text_put_str(out, between);
      put_needle(out, k, &needles[next]);
    }
    if (i == n) break;
    if (i + next > 0) lk_text_put_str(out, between);
    put_unit(out, source, k, rng, first + i, needles, quiz->n_needles);
  }
}

/* "a, b, and c" of the keys that are asked, in the order they were drawn. */
static void put_query(lk_text_buffer *out, const niah *k, const needle *drawn) {
  for (size_t i = 0; i < k->n_asked; i++) {
    if (i > 0) lk_text_put_str(out, i + 1 < k->n_asked ? ", " : ", and ");
    lk_text_put_str(out, drawn[i * k->n_values].key);
  }
}

static void shuffle(lk_rng *rng, needle *needles, size_t n) {
  for (size_t i = n; i > 1; i--) {
    const size_t j = (size_t)lk_rng_below(rng, i);
    const needle kept = needles[i - 1];
    needles[i - 1] = needles[j];
    needles[j] = kept;
  }
}

void lk_niah_write(const lk_quiz_source *source, int kind, size_t n, lk_quiz *out) {
  const niah *k = &kinds[kind];
  lk_rng rng = source->rng;
  needle drawn[LK_MAX_NEEDLES], needles[LK_MAX_NEEDLES];
  const size_t n_needles = draw_needles(&rng, k, drawn);
  const bool one = k->n_values * k->n_asked == 1;
  const char *type = k->uuid_values ? "uuid" : "number", *s = one ? "" : "s";
  memcpy(needles, drawn, n_needles * sizeof *drawn);
  shuffle(&rng, needles, n_needles);
  draw_places(&rng, n_needles, n, out);
  lk_text_put_format(&out->message,
                     "%s special magic %s%s %s hidden within the following text. Make sure to "
                     "memorize it. I will quiz you about the %s%s afterwards.\n",
                     one ? "A" : "Some", type, s, one ? "is" : "are", type, s);
  put_haystack(&out->message, source, k, &rng, n, needles, out);
  lk_text_put_format(&out->message, "\nWhat %s special magic %s%s for ",
                     one ? "is the" : "are all the", type, s);
  put_query(&out->message, k, drawn);
  lk_text_put_str(&out->message, " mentioned in the provided text?");
  lk_text_put_format(&out->begin, "The special magic %s%s for ", type, s);
  put_query(&out->begin, k, drawn);
  lk_text_put_format(&out->begin, " mentioned in the provided text %s", one ? "is" : "are");
  for (size_t i = 0; i < n_needles; i++)
    if (drawn[i].asked) lk_quiz_add_reference(out, drawn[i].value);
}
