#include "analysis.h"

#include <math.h>
#include <stdlib.h>

/* ---- statistics ---- */

typedef struct ranked {
  float x;
  size_t i;
} ranked;

static int compare_ranked(const void *a, const void *b) {
  const float x = ((const ranked *)a)->x, y = ((const ranked *)b)->x;
  return (x > y) - (x < y);
}

static double *ranks_of(const float *x, size_t n) {
  ranked *sorted = cli_alloc(n, sizeof *sorted);
  double *ranks = cli_alloc(n, sizeof *ranks);
  for (size_t i = 0; i < n; i++) sorted[i] = (ranked){x[i], i};
  qsort(sorted, n, sizeof *sorted, compare_ranked);
  for (size_t begin = 0, end; begin < n; begin = end) {
    for (end = begin; end < n && sorted[end].x == sorted[begin].x;) end++;
    for (size_t i = begin; i < end; i++) ranks[sorted[i].i] = (double)(begin + end - 1) / 2;
  }
  free(sorted);
  return ranks;
}

double analysis_spearman(const float *a, const float *b, size_t n) {
  double *x = ranks_of(a, n), *y = ranks_of(b, n);
  const double mean = (double)(n - 1) / 2;
  double xy = 0, xx = 0, yy = 0;
  for (size_t i = 0; i < n; i++) {
    xy += (x[i] - mean) * (y[i] - mean);
    xx += (x[i] - mean) * (x[i] - mean);
    yy += (y[i] - mean) * (y[i] - mean);
  }
  free(x);
  free(y);
  return xx > 0 && yy > 0 ? xy / sqrt(xx * yy) : 0;
}

double analysis_auc(const double *high, size_t n_high, const double *low, size_t n_low) {
  double n = 0;
  if (n_high == 0 || n_low == 0) return NAN;
  for (size_t i = 0; i < n_high; i++)
    for (size_t j = 0; j < n_low; j++) n += high[i] > low[j] ? 1 : high[i] == low[j] ? 0.5 : 0;
  return n / ((double)n_high * (double)n_low);
}

/* ---- masks ---- */

static double share_of(const mask_counts *c, size_t pair) {
  return (double)c->either[pair] / (double)(c->n_layers * c->n_heads);
}

/* Kept by twice as many heads as the two pairs on each side are, and by a tenth of all heads more.
 */
static void find_exceptions(mask_analysis *m) {
  const size_t half = m->counts.head_dim / 2;
  m->exceptions = cli_alloc(half, sizeof *m->exceptions);
  for (size_t p = 0; p < half; p++) {
    double sum = 0;
    size_t n = 0;
    for (size_t q = p > 2 ? p - 2 : 0; q < half && q <= p + 2; q++) {
      if (q == p) continue;
      sum += share_of(&m->counts, q);
      n++;
    }
    const pair_exception e = {p, share_of(&m->counts, p), n ? sum / (double)n : 0};
    if (n == 0 || e.share < 2 * e.neighbours || e.share < e.neighbours + 0.1) continue;
    size_t at = m->n_exceptions++;
    for (; at > 0 && m->exceptions[at - 1].share < e.share; at--)
      m->exceptions[at] = m->exceptions[at - 1];
    m->exceptions[at] = e;
  }
}

void analysis_of_mask(mask_analysis *m) {
  m->counts = mask_counts_make(m->mask);
  const mask_counts *c = &m->counts;
  const size_t half = c->head_dim / 2;
  size_t kept[ANALYSIS_QUARTERS] = {0}, all[ANALYSIS_QUARTERS] = {0};
  for (size_t p = 0; p < half; p++) {
    const size_t quarter = p * ANALYSIS_QUARTERS / half;
    kept[quarter] += c->either[p] + c->both[p];
    all[quarter] += 2 * c->n_layers * c->n_heads;
  }
  for (size_t i = 0; i < ANALYSIS_QUARTERS; i++)
    m->quarters[i] = all[i] ? (double)kept[i] / (double)all[i] : 0;
  find_exceptions(m);
}

void analysis_of_heads(analysis *a) {
  const leank_model_info *info = a->engine->info;
  const size_t n_heads = info->n_layers * info->n_kv_heads;
  double *high = cli_alloc(n_heads, sizeof *high), *low = cli_alloc(n_heads, sizeof *low);
  for (size_t m = 0; m < a->n_masks; m++) {
    size_t n_high = 0, n_low = 0;
    for (size_t i = 0; i < n_heads; i++) {
      if (leank_mask_n_kept(a->masks[m].mask, i / info->n_kv_heads, i % info->n_kv_heads) > 0)
        high[n_high++] = a->head_energy[i];
      else
        low[n_low++] = a->head_energy[i];
    }
    a->streaming_auc[m] = analysis_auc(high, n_high, low, n_low);
  }
  free(high);
  free(low);
}

void analysis_correlate(analysis *a) {
  const leank_model_info *info = a->engine->info;
  const size_t n_channels = cli_n_channels(info);
  a->correlation = cli_alloc(a->n * a->n, sizeof *a->correlation);
  for (size_t i = 0; i < a->n; i++)
    for (size_t j = 0; j <= i; j++)
      a->correlation[i * a->n + j] = a->correlation[j * a->n + i] =
          analysis_spearman(a->list[i].scores, a->list[j].scores, n_channels);
}

void analysis_free(analysis *a) {
  for (size_t i = 0; i < a->n_masks; i++) {
    mask_counts_free(&a->masks[i].counts);
    free(a->masks[i].exceptions);
  }
  for (size_t i = 0; i < a->n; i++) {
    free(a->list[i].name);
    free(a->list[i].scores);
  }
  free(a->masks);
  free(a->list);
  free(a->correlation);
  free(a->head_energy);
  *a = (analysis){0};
}
