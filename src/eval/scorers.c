/* What an answer is worth. Sources: RULER's scripts/eval, LongBench's metrics.py, the packages
 * rouge 1.0.1 and difflib that it calls. Words are runs between white space; only ASCII letters are
 * lowered and only ASCII punctuation dropped, which is what English data sets hold. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include <leank/eval.h>

#include "base/alloc.h"
#include "base/error.h"
#include "eval/similarity.h"

const char *leank_eval_metric_name(leank_eval_metric metric) {
  static const char *const names[] = {"all",   "part",      "variables", "f1",   "rouge-l",
                                      "class", "retrieval", "count",     "code", "none"};
  return (unsigned)metric <= LEANK_METRIC_NONE ? names[metric] : NULL;
}

/* ---- words ---- */

typedef struct word {
  const char *p;
  size_t n;
} word;

typedef struct word_list {
  char *text;
  word *words;
  size_t n;
} word_list;

static bool same_word(word a, word b) { return a.n == b.n && memcmp(a.p, b.p, a.n) == 0; }

static bool is_article(word w) {
  static const word articles[] = {{"a", 1}, {"an", 2}, {"the", 3}};
  for (size_t i = 0; i < 3; i++)
    if (same_word(w, articles[i])) return true;
  return false;
}

/* Lower case, without punctuation and without words that are articles. */
static bool normalised_words(const char *text, word_list *out) {
  const size_t n = strlen(text);
  *out = (word_list){.text = lk_alloc(LK_MEM_OTHER, n + 1, 1)};
  out->words = lk_alloc(LK_MEM_OTHER, n / 2 + 1, sizeof *out->words);
  if (!out->text || !out->words) return false;
  size_t length = 0;
  for (size_t i = 0; i < n; i++)
    if (!ispunct((unsigned char)text[i]))
      out->text[length++] = (char)tolower((unsigned char)text[i]);
  for (size_t at = 0; at < length;) {
    while (at < length && isspace((unsigned char)out->text[at])) at++;
    const size_t begin = at;
    while (at < length && !isspace((unsigned char)out->text[at])) at++;
    const word w = {out->text + begin, at - begin};
    if (w.n > 0 && !is_article(w)) out->words[out->n++] = w;
  }
  return true;
}

static void free_words(word_list *list) {
  lk_free(list->text);
  lk_free(list->words);
}

static int compare_words(const void *a, const void *b) {
  const word *x = a, *y = b;
  const int order = memcmp(x->p, y->p, x->n < y->n ? x->n : y->n);
  return order ? order : (x->n > y->n) - (x->n < y->n);
}

/* Words of both, as often as both have them. Sorts. */
static size_t count_common(word_list *a, word_list *b) {
  size_t n = 0, i = 0, j = 0;
  qsort(a->words, a->n, sizeof *a->words, compare_words);
  qsort(b->words, b->n, sizeof *b->words, compare_words);
  while (i < a->n && j < b->n) {
    const int order = compare_words(&a->words[i], &b->words[j]);
    n += order == 0;
    i += order <= 0;
    j += order >= 0;
  }
  return n;
}

static bool score_f1(const char *answer, const char *reference, double *out) {
  word_list a = {0}, b = {0};
  const bool ok = normalised_words(answer, &a) && normalised_words(reference, &b);
  const double same = ok ? (double)count_common(&a, &b) : 0;
  *out = 0;
  if (same > 0) {
    const double precision = same / (double)a.n, recall = same / (double)b.n;
    *out = 2 * precision * recall / (precision + recall);
  }
  free_words(&a);
  free_words(&b);
  return ok;
}

/* ---- strings in strings ---- */

static bool holds(const char *text, const char *what) { return strcasestr(text, what) != NULL; }

static double score_strings(const char *answer, const char *const *references, size_t n, bool any) {
  size_t found = 0;
  for (size_t i = 0; i < n; i++) found += holds(answer, references[i]);
  return any ? found > 0 : (double)found / (double)n;
}

/* ---- variables ---- */

static bool is_name_at(const char *text, const char *at) {
  const bool begins = at == text || !isalnum((unsigned char)at[-1]);
  return begins && at[0] == 'V' && isdigit((unsigned char)at[1]);
}

/* 1 where the variables named behind the last "ANSWER:" are the references, each of them. */
static double score_variables(const char *answer, const char *const *references, size_t n) {
  const char *begin = answer;
  for (const char *at = answer; (at = strstr(at, "ANSWER:")); at++) begin = at + strlen("ANSWER:");
  size_t n_found = 0;
  for (size_t i = 0; i < n; i++) {
    const size_t length = strlen(references[i]);
    bool found = false;
    for (const char *at = begin; !found && (at = strstr(at, references[i])); at++)
      found = is_name_at(begin, at) && !isdigit((unsigned char)at[length]);
    n_found += found;
  }
  if (n_found < n) return 0;
  for (const char *at = begin; *at; at++) {
    if (!is_name_at(begin, at)) continue;
    const size_t length = 1 + strspn(at + 1, "0123456789");
    bool known = false;
    for (size_t i = 0; i < n; i++)
      known = known || (strlen(references[i]) == length && memcmp(references[i], at, length) == 0);
    if (!known) return 0;
  }
  return 1;
}

/* ---- numbers ---- */

/* Share of the runs of digits in an answer that are this text. */
static double score_numbers(const char *answer, const char *number, size_t n_digits) {
  size_t n = 0, n_right = 0;
  for (const char *at = answer; *at;) {
    if (!isdigit((unsigned char)*at)) {
      at++;
      continue;
    }
    const size_t length = strspn(at, "0123456789");
    n++;
    n_right += length == n_digits && memcmp(at, number, length) == 0;
    at += length;
  }
  return n ? (double)n_right / (double)n : 0;
}

/* The first number behind "Paragraph " (or the same in Chinese); NULL where there is none. */
static const char *paragraph_of(const char *reference, size_t *n_digits) {
  static const char *const names[] = {"Paragraph ", "段落"};
  for (size_t i = 0; i < 2; i++)
    for (const char *at = reference; (at = strstr(at, names[i])); at++) {
      const char *digits = at + strlen(names[i]);
      *n_digits = strspn(digits, "0123456789");
      if (*n_digits > 0) return digits;
    }
  return NULL;
}

/* ---- classes ---- */

/* Names found in the answer; those that are part of the right one are dropped, but, as the list
 * loses an element under the loop over it, the one behind a dropped one is passed over. */
static bool score_class(const char *answer, const char *reference, const char *const *classes,
                        size_t n_classes, double *out) {
  const char **found = lk_alloc(LK_MEM_OTHER, n_classes, sizeof *found);
  size_t n = 0;
  if (!found) return false;
  for (size_t i = 0; i < n_classes; i++)
    if (strstr(answer, classes[i])) found[n++] = classes[i];
  for (size_t i = 0; i < n; i++) {
    if (!strstr(reference, found[i]) || strcmp(reference, found[i]) == 0) continue;
    /* list.remove(x) takes the first that equals x, which is x: names are different. */
    memmove(found + i, found + i + 1, (n - i - 1) * sizeof *found);
    n--;
  }
  *out = 0;
  for (size_t i = 0; i < n; i++)
    if (strcmp(found[i], reference) == 0) *out = 1.0 / (double)n;
  lk_free(found);
  return true;
}

/* ---- code ---- */

/* The first line that holds no backtick, '#' or "//"; "" where there is none. */
static bool score_code(const char *answer, const char *reference, double *out) {
  const char *at = answer + strspn(answer, "\n");
  size_t n = 0;
  bool found = false;
  while (!found) {
    n = strcspn(at, "\n");
    bool comment = false;
    for (size_t i = 0; i < n; i++)
      comment = comment || at[i] == '`' || at[i] == '#' ||
                (at[i] == '/' && i + 1 < n && at[i + 1] == '/');
    found = !comment;
    if (found || at[n] == '\0') break;
    at += n + 1;
  }
  return lk_fuzzy_ratio(at, found ? n : 0, reference, strlen(reference), out);
}

/* ---- all ---- */

static bool score_one(leank_eval_metric metric, const char *answer, const char *reference,
                      const char *const *classes, size_t n_classes, double *out) {
  size_t n = 0;
  switch (metric) {
  case LEANK_METRIC_F1: return score_f1(answer, reference, out);
  case LEANK_METRIC_ROUGE_L: return lk_rouge_l(answer, reference, out);
  case LEANK_METRIC_CLASS: return score_class(answer, reference, classes, n_classes, out);
  case LEANK_METRIC_CODE: return score_code(answer, reference, out);
  case LEANK_METRIC_COUNT: *out = score_numbers(answer, reference, strlen(reference)); return true;
  case LEANK_METRIC_RETRIEVAL: {
    const char *number = paragraph_of(reference, &n);
    *out = number ? score_numbers(answer, number, n) : 0;
    return true;
  }
  default: *out = 0; return true;
  }
}

leank_status leank_eval_score(leank_eval_metric metric, const char *answer,
                              const char *const *references, size_t n_references,
                              const char *const *classes, size_t n_classes, double *out,
                              leank_error *err) {
  leank_status status = LEANK_OK;
  double best = 0, score;
  LK_FAIL_IF(!leank_eval_metric_name(metric), err, LEANK_E_ARGUMENT, -1, "unknown metric %d",
             (int)metric);
  LK_FAIL_IF(n_references == 0 && metric != LEANK_METRIC_NONE, err, LEANK_E_ARGUMENT, -1,
             "an answer without references");
  if (metric == LEANK_METRIC_ALL || metric == LEANK_METRIC_PART) {
    best = score_strings(answer, references, n_references, metric == LEANK_METRIC_PART);
  } else if (metric == LEANK_METRIC_VARIABLES) {
    best = score_variables(answer, references, n_references);
  } else {
    for (size_t i = 0; i < n_references; i++) {
      size_t n;
      LK_FAIL_IF(metric == LEANK_METRIC_RETRIEVAL && !paragraph_of(references[i], &n), err,
                 LEANK_E_ARGUMENT, -1, "a reference that names no paragraph");
      LK_FAIL_IF(!score_one(metric, answer, references[i], classes, n_classes, &score), err,
                 LEANK_E_MEMORY, -1, "out of memory");
      if (score > best) best = score;
    }
  }
  *out = best;
cleanup:
  return status;
}
