/* From scores to a mask: stage 2 of LeanK (arXiv 2508.02215), with its rounding made exact. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "mask/mask.h"

enum { MAX_ALIGN = 1 << 16 };

/* Products of ratio and a count within this of a whole number are taken for it, so that 0.7 x 10
 * is 7 whatever the last bit says. */
static const double snap = 1e-9;

typedef struct scored {
  float score;
  uint32_t index; /* of the head, or of the channel in its head */
} scored;

typedef struct rounding {
  const float *scores; /* [n_heads][head_dim] */
  size_t n_heads, head_dim, n, align;
  double ratio;
  size_t *counts; /* [n_heads] channels to keep */
} rounding;

/* Larger scores first; of equal ones the lower index. */
static int compare_scored(const void *a, const void *b) {
  const scored *x = a, *y = b;
  if (x->score != y->score) return x->score > y->score ? -1 : 1;
  return (x->index > y->index) - (x->index < y->index);
}

/* Half up to a multiple of align, at most D. */
static size_t round_count(const rounding *r, size_t count) {
  const size_t rounded = (2 * count + r->align) / (2 * r->align) * r->align;
  return rounded < r->head_dim ? rounded : r->head_dim;
}

/* ---- one count per head ---- */

static void count_per_head(rounding *r) {
  const double units = (1 - r->ratio) * (double)r->head_dim / (double)r->align;
  size_t count = (size_t)(floor(units + 0.5 + snap) * (double)r->align);
  if (count > r->head_dim || r->ratio == 0) count = r->head_dim;
  for (size_t h = 0; h < r->n_heads; h++) r->counts[h] = count;
}

/* ---- one threshold for all heads ---- */

static leank_status sort_all(const rounding *r, scored **out, leank_error *err) {
  scored *all = lk_alloc(LK_MEM_SCRATCH, r->n, sizeof *all);
  if (!all) return lk_fail(err, LEANK_E_MEMORY, -1, "mask: out of memory");
  for (size_t i = 0; i < r->n; i++) all[i] = (scored){r->scores[i], (uint32_t)(i / r->head_dim)};
  qsort(all, r->n, sizeof *all, compare_scored);
  *out = all;
  return LEANK_OK;
}

/* How many of the sorted scores reach the threshold. The quantile lies between two neighbours of
 * the ascending order; where it is not the lower one itself, the scores that reach it are those
 * that reach the upper one, so no interpolated (and rounded) value is ever compared. */
static size_t n_above_quantile(const rounding *r, const scored *all) {
  if (r->ratio == 0) return r->n;
  const size_t last = r->n - 1;
  const double position = r->ratio * (double)last;
  const double whole = ceil(position - snap);
  const size_t rank = whole < (double)last ? (size_t)whole : last; /* ascending */
  const float threshold = all[last - rank].score;
  size_t n = last - rank + 1;
  /* All that equal the threshold count, but none of them where it is the smallest score: else more
   * than `ratio` of scores at 0 would keep everything. */
  if (threshold > all[last].score)
    while (n < r->n && all[n].score == threshold) n++;
  else
    while (n > 0 && all[n - 1].score == threshold) n--;
  return n;
}

/* The number of sorted scores, cut between different values, whose rounded counts come closest to
 * the budget; of two equally close the larger. */
static size_t n_closest(rounding *r, const scored *all) {
  const double target = (1 - r->ratio) * (double)r->n;
  size_t best = 0, total = 0;
  double best_distance = target;
  for (size_t n = 1; n <= r->n; n++) {
    size_t *count = &r->counts[all[n - 1].index];
    total -= round_count(r, *count);
    total += round_count(r, ++*count);
    if (n < r->n && all[n].score == all[n - 1].score) continue;
    const double distance = fabs((double)total - target);
    if (distance > best_distance + snap) continue;
    best = n;
    best_distance = distance;
  }
  memset(r->counts, 0, r->n_heads * sizeof *r->counts);
  return best;
}

static leank_status count_globally(rounding *r, bool exact, leank_error *err) {
  scored *all = NULL;
  leank_status status = sort_all(r, &all, err);
  if (status != LEANK_OK) return status;
  const size_t n = exact ? n_closest(r, all) : n_above_quantile(r, all);
  for (size_t i = 0; i < n; i++) r->counts[all[i].index]++;
  for (size_t h = 0; h < r->n_heads; h++)
    r->counts[h] = r->ratio == 0 ? r->head_dim : round_count(r, r->counts[h]);
  lk_free(all);
  return LEANK_OK;
}

/* ---- the mask ---- */

static void keep_largest(const rounding *r, size_t head, scored *room, uint8_t *kept) {
  const float *scores = r->scores + head * r->head_dim;
  for (size_t c = 0; c < r->head_dim; c++) room[c] = (scored){scores[c], (uint32_t)c};
  qsort(room, r->head_dim, sizeof *room, compare_scored);
  memset(kept + head * r->head_dim, 0, r->head_dim);
  for (size_t i = 0; i < r->counts[head]; i++) kept[head * r->head_dim + room[i].index] = 1;
}

static leank_status check_arguments(const rounding *r, leank_budget budget, leank_error *err) {
  leank_status status = LEANK_OK;
  LK_FAIL_IF(!(r->ratio >= 0 && r->ratio <= 1), err, LEANK_E_ARGUMENT, -1,
             "mask: ratio %g is outside [0,1]", r->ratio);
  LK_FAIL_IF(r->align == 0 || r->align > MAX_ALIGN, err, LEANK_E_ARGUMENT, -1,
             "mask: align %zu is outside 1 .. %d", r->align, MAX_ALIGN);
  LK_FAIL_IF((unsigned)budget > LEANK_BUDGET_PER_HEAD, err, LEANK_E_ARGUMENT, -1,
             "mask: unknown budget %d", (int)budget);
  for (size_t i = 0; i < r->n; i++)
    LK_FAIL_IF(!isfinite(r->scores[i]), err, LEANK_E_ARGUMENT, -1, "mask: score %zu is not finite",
               i);
cleanup:
  return status;
}

leank_status leank_mask_round(const float *scores, size_t n_layers, size_t n_kv_heads,
                              size_t head_dim, double ratio, size_t align, leank_budget budget,
                              bool exact, uint8_t *kept, leank_error *err) {
  leank_status status = LEANK_OK;
  rounding r = {.scores = scores, .head_dim = head_dim, .ratio = ratio, .align = align};
  scored *room = NULL;
  LK_FAIL_IF(!scores || !kept, err, LEANK_E_ARGUMENT, -1, "mask: an argument is NULL");
  LK_FAIL_IF(!lk_mul(n_layers, n_kv_heads, &r.n_heads) || !lk_mul(r.n_heads, head_dim, &r.n) ||
                 r.n == 0 || r.n > UINT32_MAX,
             err, LEANK_E_ARGUMENT, -1, "mask: sizes [%zu,%zu,%zu] are not possible", n_layers,
             n_kv_heads, head_dim);
  LK_TRY(check_arguments(&r, budget, err));
  r.counts = lk_alloc(LK_MEM_SCRATCH, r.n_heads, sizeof *r.counts);
  room = lk_alloc(LK_MEM_SCRATCH, head_dim, sizeof *room);
  LK_FAIL_IF(!r.counts || !room, err, LEANK_E_MEMORY, -1, "mask: out of memory");
  if (budget == LEANK_BUDGET_PER_HEAD)
    count_per_head(&r);
  else
    LK_TRY(count_globally(&r, exact, err));
  for (size_t h = 0; h < r.n_heads; h++) keep_largest(&r, h, room, kept);
cleanup:
  lk_free(r.counts);
  lk_free(room);
  return status;
}
