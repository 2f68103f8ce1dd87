/* Added tokens: found in a text by the longest match. */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "text/tokenizer.h"

typedef struct entry {
  lk_span text;
  leank_token token;
} entry;

static int compare(const void *a, const void *b) {
  const entry *x = a, *y = b;
  const size_t n = x->text.n < y->text.n ? x->text.n : y->text.n;
  const int order = memcmp(x->text.p, y->text.p, n);
  if (order != 0) return order;
  if (x->text.n != y->text.n) return x->text.n < y->text.n ? -1 : 1;
  return x->token < y->token ? -1 : x->token > y->token;
}

static bool belongs(const leank_tokenizer *t, size_t i, unsigned normalized) {
  return (t->flags[i] & LK_TOKEN_ADDED) && (t->flags[i] & LK_TOKEN_NORMALIZED) == normalized &&
         t->tokens[i].n > 0;
}

leank_status lk_added_open(lk_added *added, const leank_tokenizer *tokenizer, unsigned normalized,
                           leank_error *err) {
  leank_status status = LEANK_OK;
  size_t n = 0;
  entry *entries = NULL;
  for (size_t i = 0; i < tokenizer->n_vocab; i++) n += belongs(tokenizer, i, normalized);
  entries = lk_alloc(LK_MEM_TEXT, n, sizeof *entries);
  added->tokens = lk_alloc(LK_MEM_TEXT, n, sizeof *added->tokens);
  LK_FAIL_IF(!entries || !added->tokens, err, LEANK_E_MEMORY, -1, "out of memory");
  n = 0;
  for (size_t i = 0; i < tokenizer->n_vocab; i++)
    if (belongs(tokenizer, i, normalized))
      entries[n++] = (entry){tokenizer->tokens[i], (leank_token)i};
  qsort(entries, n, sizeof *entries, compare);
  for (size_t i = 0; i < n; i++) {
    added->tokens[i] = entries[i].token;
    added->first[(unsigned char)entries[i].text.p[0]] = true;
  }
  added->n = n;
cleanup:
  lk_free(entries);
  return status;
}

/* The byte of the i-th token at `depth`, -1 behind its end. */
static int byte_at(const lk_added *added, const leank_tokenizer *t, size_t i, size_t depth) {
  const lk_span s = t->tokens[added->tokens[i]];
  return depth < s.n ? (unsigned char)s.p[depth] : -1;
}

/* The first of [low, high) whose byte at depth is at least `byte`. */
static size_t lower_bound(const lk_added *added, const leank_tokenizer *t, size_t low, size_t high,
                          size_t depth, int byte) {
  while (low < high) {
    const size_t middle = low + (high - low) / 2;
    if (byte_at(added, t, middle, depth) < byte)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

leank_token lk_added_match(const lk_added *added, const leank_tokenizer *tokenizer,
                           const char *text, size_t n_bytes) {
  leank_token best = -1;
  size_t low = 0, high = added->n;
  if (n_bytes == 0 || !added->first[(unsigned char)text[0]]) return -1;
  for (size_t depth = 0; low < high; depth++) {
    if (tokenizer->tokens[added->tokens[low]].n == depth) best = added->tokens[low];
    if (depth == n_bytes) break;
    const int byte = (unsigned char)text[depth];
    low = lower_bound(added, tokenizer, low, high, depth, byte);
    high = lower_bound(added, tokenizer, low, high, depth, byte + 1);
  }
  return best;
}

leank_token lk_tokenizer_find_added(const leank_tokenizer *tokenizer, const char *text) {
  const size_t n = strlen(text);
  const lk_added *lists[] = {&tokenizer->added, &tokenizer->added_normalized};
  for (size_t i = 0; i < 2; i++) {
    const leank_token token = lk_added_match(lists[i], tokenizer, text, n);
    if (token >= 0 && tokenizer->tokens[token].n == n) return token;
  }
  return -1;
}
