/* What is counted in a mask, for text, JSON and plots. */
#ifndef LEANK_CLI_MASK_COUNTS_H
#define LEANK_CLI_MASK_COUNTS_H

#include <leank/mask.h>

enum { MASK_ALPHA_BINS = 10 };

/* Pair i is what RoPE turns by one frequency: channels i and i + D/2, the highest frequency first.
 */
typedef struct mask_counts {
  size_t n_layers, n_heads, head_dim; /* L, Hk, D */
  size_t *histogram;                  /* [D + 1] kv heads that keep so many channels */
  size_t *layers;                     /* [L] kept channels */
  size_t *either, *both;              /* [D / 2] of the L * Hk heads: keep one or both, both */
  size_t n_kept, n_empty;             /* channels; heads that keep none */
  bool has_alpha;
  size_t alpha[MASK_ALPHA_BINS]; /* channels by alpha, in tenths; 1 counts in the last bin */
} mask_counts;

/* A failure to allocate ends the program. */
mask_counts mask_counts_make(const leank_mask *mask);
void mask_counts_free(mask_counts *counts);

/* Shares of the middle that are kept, 0 .. 1. */
double mask_counts_k(const mask_counts *counts);
double mask_counts_v(const mask_counts *counts);

#endif
