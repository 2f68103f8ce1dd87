#include "eval/similarity.h"

#include <ctype.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/utf8.h"

/* ---- difflib ---- */

typedef struct matcher {
  uint32_t *a, *b;
  size_t n_a, n_b;
  bool *popular;        /* [n_b] of b */
  uint32_t *row, *next; /* [n_b + 1] lengths of the matches that end at a[i], b[j - 1] */
} matcher;

static size_t decode(const char *text, size_t n, uint32_t *out) {
  size_t n_out = 0;
  for (size_t at = 0, length; at < n; at += length)
    length = lk_utf8_decode(text + at, n - at, &out[n_out++]);
  return n_out;
}

static int compare_codes(const void *x, const void *y) {
  const uint32_t a = *(const uint32_t *)x, b = *(const uint32_t *)y;
  return (a > b) - (a < b);
}

static bool mark_popular(matcher *m) {
  if (m->n_b < 200) return true;
  uint32_t *sorted = lk_alloc(LK_MEM_OTHER, m->n_b, sizeof *sorted);
  if (!sorted) return false;
  memcpy(sorted, m->b, m->n_b * sizeof *sorted);
  qsort(sorted, m->n_b, sizeof *sorted, compare_codes);
  const size_t most = m->n_b / 100 + 1;
  for (size_t begin = 0, end; begin < m->n_b; begin = end) {
    for (end = begin; end < m->n_b && sorted[end] == sorted[begin];) end++;
    for (size_t j = 0; end - begin > most && j < m->n_b; j++)
      if (m->b[j] == sorted[begin]) m->popular[j] = true;
  }
  lk_free(sorted);
  return true;
}

typedef struct block {
  size_t a, b, n;
} block;

/* The longest match in a[a0, a1) and b[b0, b1): of several the first in a, then in b. Popular
 * characters only widen one. */
static block longest(matcher *m, size_t a0, size_t a1, size_t b0, size_t b1) {
  block best = {a0, b0, 0};
  memset(m->row, 0, (m->n_b + 1) * sizeof *m->row);
  for (size_t i = a0; i < a1; i++) {
    memset(m->next, 0, (m->n_b + 1) * sizeof *m->next);
    for (size_t j = b0; j < b1; j++) {
      if (m->a[i] != m->b[j] || m->popular[j]) continue;
      const uint32_t n = (j > b0 ? m->row[j] : 0) + 1;
      m->next[j + 1] = n;
      if (n > best.n) best = (block){i + 1 - n, j + 1 - n, n};
    }
    uint32_t *spare = m->row;
    m->row = m->next;
    m->next = spare;
  }
  while (best.a > a0 && best.b > b0 && m->a[best.a - 1] == m->b[best.b - 1])
    best = (block){best.a - 1, best.b - 1, best.n + 1};
  while (best.a + best.n < a1 && best.b + best.n < b1 &&
         m->a[best.a + best.n] == m->b[best.b + best.n])
    best.n++;
  return best;
}

/* Characters in the matches of these parts: the longest, then what is left and right of it. */
static size_t count_matches(matcher *m, size_t a0, size_t a1, size_t b0, size_t b1) {
  size_t n = 0;
  while (a0 < a1 && b0 < b1) {
    const block best = longest(m, a0, a1, b0, b1);
    if (best.n == 0) break;
    n += best.n + count_matches(m, a0, best.a, b0, best.b);
    a0 = best.a + best.n;
    b0 = best.b + best.n;
  }
  return n;
}

bool lk_fuzzy_ratio(const char *a, size_t n_a, const char *b, size_t n_b, double *out) {
  matcher m = {.a = lk_alloc(LK_MEM_OTHER, n_a, sizeof *m.a),
               .b = lk_alloc(LK_MEM_OTHER, n_b, sizeof *m.b),
               .popular = lk_alloc(LK_MEM_OTHER, n_b, sizeof *m.popular),
               .row = lk_alloc(LK_MEM_OTHER, n_b + 1, sizeof *m.row),
               .next = lk_alloc(LK_MEM_OTHER, n_b + 1, sizeof *m.next)};
  bool ok = m.a && m.b && m.popular && m.row && m.next;
  *out = 0;
  if (ok && n_a == n_b && memcmp(a, b, n_a) == 0) {
    *out = 1;
  } else if (ok && n_a > 0 && n_b > 0) {
    m.n_a = decode(a, n_a, m.a);
    m.n_b = decode(b, n_b, m.b);
    ok = mark_popular(&m);
    const double matched = ok ? (double)count_matches(&m, 0, m.n_a, 0, m.n_b) : 0;
    /* Python rounds halves to even. */
    *out = nearbyint(100 * (2 * matched / (double)(m.n_a + m.n_b))) / 100;
  }
  lk_free(m.a);
  lk_free(m.b);
  lk_free(m.popular);
  lk_free(m.row);
  lk_free(m.next);
  return ok;
}

/* ---- rouge ---- */

/* Words of a text as numbers; sentences are ranges of them. A sentence of blanks alone is one empty
 * word, as it is there. */
typedef struct words {
  const char **p; /* [n] of the text */
  size_t *length;
  uint32_t *id;
  size_t n;
  size_t *ends; /* [n_sentences] */
  size_t n_sentences;
} words;

static void cut_sentence(const char *text, size_t n, words *out) {
  const size_t before = out->n;
  for (size_t at = 0; at < n;) {
    while (at < n && isspace((unsigned char)text[at])) at++;
    const size_t begin = at;
    while (at < n && !isspace((unsigned char)text[at])) at++;
    if (at == begin) break;
    out->p[out->n] = text + begin;
    out->length[out->n++] = at - begin;
  }
  if (out->n == before) {
    out->p[out->n] = text;
    out->length[out->n++] = 0;
  }
  out->ends[out->n_sentences++] = out->n;
}

static bool cut_words(const char *text, words *out) {
  const size_t n = strlen(text), most = n + 1;
  *out = (words){.p = lk_alloc(LK_MEM_OTHER, most, sizeof *out->p),
                 .length = lk_alloc(LK_MEM_OTHER, most, sizeof *out->length),
                 .id = lk_alloc(LK_MEM_OTHER, most, sizeof *out->id),
                 .ends = lk_alloc(LK_MEM_OTHER, most, sizeof *out->ends)};
  if (!out->p || !out->length || !out->id || !out->ends) return false;
  for (size_t at = 0; at < n;) {
    const size_t length = strcspn(text + at, ".");
    if (length > 0) cut_sentence(text + at, length, out);
    at += length + 1;
  }
  return true;
}

static void free_rouge(words *w) {
  lk_free(w->p);
  lk_free(w->length);
  lk_free(w->id);
  lk_free(w->ends);
}

typedef struct entry {
  const char *p;
  size_t n;
  uint32_t *id;
} entry;

static int compare_entries(const void *x, const void *y) {
  const entry *a = x, *b = y;
  const int order = memcmp(a->p, b->p, a->n < b->n ? a->n : b->n);
  return order ? order : (a->n > b->n) - (a->n < b->n);
}

/* Numbers equal words of both alike, from 0; false where memory is short. */
static bool number_words(words *a, words *b, size_t *n_ids) {
  entry *all = lk_alloc(LK_MEM_OTHER, a->n + b->n, sizeof *all);
  uint32_t id = 0;
  if (!all) return false;
  for (size_t i = 0; i < a->n; i++) all[i] = (entry){a->p[i], a->length[i], &a->id[i]};
  for (size_t i = 0; i < b->n; i++) all[a->n + i] = (entry){b->p[i], b->length[i], &b->id[i]};
  qsort(all, a->n + b->n, sizeof *all, compare_entries);
  for (size_t i = 0; i < a->n + b->n; i++) {
    id += i > 0 && compare_entries(&all[i - 1], &all[i]) != 0;
    *all[i].id = id;
  }
  *n_ids = (size_t)id + 1;
  lk_free(all);
  return true;
}

static size_t count_distinct(const words *w, bool *seen, size_t n_ids) {
  size_t n = 0;
  memset(seen, 0, n_ids * sizeof *seen);
  for (size_t i = 0; i < w->n; i++) {
    n += !seen[w->id[i]];
    seen[w->id[i]] = true;
  }
  return n;
}

/* Marks the words of one longest common subsequence of x[n_x] and y[n_y]: the one that is found
 * walking back from the ends, along x where that is longer, else along y. table:
 * [(n_x + 1) * (n_y + 1)]. */
static void mark_lcs(const uint32_t *x, size_t n_x, const uint32_t *y, size_t n_y, uint32_t *table,
                     bool *marked) {
  const size_t width = n_y + 1;
  memset(table, 0, (n_x + 1) * width * sizeof *table);
  for (size_t i = 1; i <= n_x; i++)
    for (size_t j = 1; j <= n_y; j++) {
      const uint32_t up = table[(i - 1) * width + j], left = table[i * width + j - 1];
      table[i * width + j] = x[i - 1] == y[j - 1] ? table[(i - 1) * width + j - 1] + 1
                             : up > left          ? up
                                                  : left;
    }
  for (size_t i = n_x, j = n_y; i > 0 && j > 0;) {
    if (x[i - 1] == y[j - 1]) {
      marked[x[--i]] = true;
      j--;
    } else if (table[(i - 1) * width + j] > table[i * width + j - 1]) {
      i--;
    } else {
      j--;
    }
  }
}

static size_t longest_sentence(const words *w) {
  size_t most = 0;
  for (size_t s = 0; s < w->n_sentences; s++) {
    const size_t n = w->ends[s] - (s ? w->ends[s - 1] : 0);
    if (n > most) most = n;
  }
  return most;
}

static bool rouge_of(const words *answer, const words *reference, size_t n_ids, double *out) {
  bool *marked = lk_alloc(LK_MEM_OTHER, n_ids, sizeof *marked);
  uint32_t *table = NULL;
  size_t room, n_common = 0;
  bool ok = marked && lk_mul(longest_sentence(answer) + 1, longest_sentence(reference) + 1, &room);
  if (ok) ok = (table = lk_alloc(LK_MEM_OTHER, room, sizeof *table)) != NULL;
  if (ok) {
    const double n_answer = (double)count_distinct(answer, marked, n_ids);
    const double n_reference = (double)count_distinct(reference, marked, n_ids);
    memset(marked, 0, n_ids * sizeof *marked);
    for (size_t r = 0, x = 0; r < reference->n_sentences; x = reference->ends[r++])
      for (size_t s = 0, y = 0; s < answer->n_sentences; y = answer->ends[s++])
        mark_lcs(reference->id + x, reference->ends[r] - x, answer->id + y, answer->ends[s] - y,
                 table, marked);
    for (size_t i = 0; i < n_ids; i++) n_common += marked[i];
    const double recall = (double)n_common / n_reference, precision = (double)n_common / n_answer;
    *out = 2 * precision * recall / (precision + recall + 1e-8);
  }
  lk_free(marked);
  lk_free(table);
  return ok;
}

bool lk_rouge_l(const char *answer, const char *reference, double *out) {
  words a = {0}, b = {0};
  size_t n_ids = 0;
  *out = 0;
  bool ok = cut_words(answer, &a) && cut_words(reference, &b);
  if (ok && a.n > 0 && b.n > 0) ok = number_words(&a, &b, &n_ids) && rouge_of(&a, &b, n_ids, out);
  free_rouge(&a);
  free_rouge(&b);
  return ok;
}
