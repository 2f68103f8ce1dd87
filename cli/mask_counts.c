#include "mask_counts.h"

#include <stdlib.h>

#include "cli_console.h"

static void count_heads(const leank_mask *mask, mask_counts *c) {
  for (size_t l = 0; l < c->n_layers; l++) {
    for (size_t h = 0; h < c->n_heads; h++) {
      size_t n = leank_mask_n_kept(mask, l, h);
      c->histogram[n]++;
      c->layers[l] += n;
      c->n_kept += n;
      c->n_empty += n == 0;
    }
  }
}

static void count_pairs(const leank_mask *mask, mask_counts *c) {
  const uint8_t *kept = leank_mask_get_kept(mask);
  size_t half = c->head_dim / 2;
  for (size_t head = 0; head < c->n_layers * c->n_heads; head++, kept += c->head_dim) {
    for (size_t i = 0; i < half; i++) {
      c->either[i] += kept[i] || kept[i + half];
      c->both[i] += kept[i] && kept[i + half];
    }
  }
}

static void count_alpha(const leank_mask *mask, mask_counts *c) {
  const float *alpha = leank_mask_get_alpha(mask);
  c->has_alpha = alpha != NULL;
  for (size_t i = 0; alpha && i < c->n_layers * c->n_heads * c->head_dim; i++) {
    size_t bin = (size_t)(alpha[i] * MASK_ALPHA_BINS);
    c->alpha[bin < MASK_ALPHA_BINS ? bin : MASK_ALPHA_BINS - 1]++;
  }
}

mask_counts mask_counts_make(const leank_mask *mask) {
  const leank_mask_info *info = leank_mask_get_info(mask);
  mask_counts c = {
      .n_layers = info->n_layers, .n_heads = info->n_kv_heads, .head_dim = info->head_dim};
  c.histogram = cli_alloc(c.head_dim + 1, sizeof *c.histogram);
  c.layers = cli_alloc(c.n_layers, sizeof *c.layers);
  c.either = cli_alloc(c.head_dim / 2, sizeof *c.either);
  c.both = cli_alloc(c.head_dim / 2, sizeof *c.both);
  count_heads(mask, &c);
  count_pairs(mask, &c);
  count_alpha(mask, &c);
  return c;
}

void mask_counts_free(mask_counts *c) {
  free(c->histogram);
  free(c->layers);
  free(c->either);
  free(c->both);
  *c = (mask_counts){0};
}

double mask_counts_k(const mask_counts *c) {
  return (double)c->n_kept / (double)(c->n_layers * c->n_heads * c->head_dim);
}

double mask_counts_v(const mask_counts *c) {
  return 1 - (double)c->n_empty / (double)(c->n_layers * c->n_heads);
}
