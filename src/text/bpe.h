/* Byte-pair encoding of one word: pairs of neighbours merge in the order of their ranks (Sennrich,
 * Haddow, Birch 2016; over bytes as in GPT-2). */
#ifndef LK_TEXT_BPE_H
#define LK_TEXT_BPE_H

#include <leank/text.h>

#include "base/error.h"
#include "text/str_map.h"

typedef struct lk_merge {
  leank_token left, right, merged;
} lk_merge;

typedef struct lk_bpe {
  leank_token byte_token[256]; /* -1 where the vocabulary lacks the byte */
  leank_token unknown;         /* for such bytes; -1 = they vanish */
  bool fuse_unknown;           /* a run of them is one token */
  bool whole_words;            /* a word of the vocabulary is taken before any merge (Llama 3) */
  lk_merge *merges;            /* by rank */
  size_t n_merges;
  uint32_t *slots; /* rank + 1 by pair, 0 = free */
  size_t n_slots;
  lk_str_map words; /* where whole_words */
} lk_bpe;

/* Room for n merges, filled by lk_bpe_add_merge in order of rank. A pair that comes twice has its
 * last rank, as in Hugging Face's tokenizers. */
leank_status lk_bpe_open_merges(lk_bpe *bpe, size_t n, leank_error *err);
void lk_bpe_add_merge(lk_bpe *bpe, lk_merge merge);
void lk_bpe_free(lk_bpe *bpe);

/* Growing output and the memory of one run. */
typedef struct lk_bpe_run {
  const lk_bpe *bpe;
  leank_token *out;
  size_t n_out, out_room;
  leank_token *symbols; /* of the word at hand */
  uint32_t *prev, *next;
  uint64_t *heap; /* candidates, rank << 32 | position, smallest first */
  size_t n_heap, word_room;
} lk_bpe_run;

leank_status lk_bpe_push(lk_bpe_run *run, leank_token token, leank_error *err);
/* Appends the tokens of a word of bytes, n log n at most. LEANK_E_MEMORY. */
leank_status lk_bpe_encode(lk_bpe_run *run, const char *word, size_t n_bytes, leank_error *err);
/* Frees all but out. */
void lk_bpe_run_end(lk_bpe_run *run);

#endif
