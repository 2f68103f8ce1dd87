#include "eval_summary.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli_console.h"

static const double least_dense = 0.1;

/* ---- means ---- */

typedef struct sums {
  double sum, squares;
  size_t n;
} sums;

static void add(sums *s, double x) {
  s->sum += x;
  s->squares += x * x;
  s->n++;
}

static eval_mean mean_of(sums s) {
  eval_mean m = {0, s.n < 2 ? NAN : 0};
  if (s.n == 0) return m;
  m.mean = s.sum / (double)s.n;
  const double variance = s.n > 1 ? (s.squares - s.sum * m.mean) / (double)(s.n - 1) : 0;
  /* Sums of equal values leave the last bits of their squares. */
  if (variance > 1e-12 * s.squares) m.se = sqrt(variance / (double)s.n);
  return m;
}

/* ---- one answerer over some records ---- */

static int compare_floats(const void *a, const void *b) {
  const float x = *(const float *)a, y = *(const float *)b;
  return (x > y) - (x < y);
}

/* The record of a prompt, where it is of this task (NULL: any) and length and asked for. */
static bool is_of(const eval_record *r, const char *task, size_t length, size_t n_samples) {
  return r->length == length && r->sample < n_samples && (!task || strcmp(r->task, task) == 0);
}

static double p99(const eval_records *records, const char *task, size_t length, size_t n_samples,
                  size_t answer, size_t n_rows) {
  if (answer == 0 || n_rows == 0) return 0;
  float *all = cli_alloc(n_rows, sizeof *all);
  size_t n = 0;
  for (size_t i = 0; i < records->n; i++) {
    const eval_record *r = &records->list[i];
    if (!is_of(r, task, length, n_samples)) continue;
    const eval_answer *a = &r->answers[answer];
    if (a->n_rows > 0) memcpy(all + n, a->kl, a->n_rows * sizeof *all);
    n += a->n_rows;
  }
  qsort(all, n, sizeof *all, compare_floats);
  const double value = (double)all[(n * 99 + 99) / 100 - 1];
  free(all);
  return value;
}

static eval_cell cell_of(const eval_records *records, const char *task, size_t length,
                         size_t n_samples, size_t answer) {
  eval_cell c = {0};
  sums score = {0}, change = {0}, kl_of_prompts = {0}, bytes = {0}, k = {0}, v = {0};
  double agree = 0, nll = 0, kl = 0;
  for (size_t i = 0; i < records->n; i++) {
    const eval_record *r = &records->list[i];
    if (!is_of(r, task, length, n_samples)) continue;
    const eval_answer *a = &r->answers[answer];
    double of_prompt = 0;
    for (size_t j = 0; answer > 0 && j < a->n_rows; j++) of_prompt += (double)a->kl[j];
    if (a->n_rows > 0) add(&kl_of_prompts, of_prompt / (double)a->n_rows);
    add(&score, a->score);
    add(&change, a->score - r->answers[0].score);
    add(&bytes, a->stored_bytes);
    add(&k, a->k_kept);
    add(&v, a->v_kept);
    kl += of_prompt;
    agree += (double)a->n_agree;
    nll += a->nll;
    c.n_rows += a->n_rows;
  }
  c.n = score.n;
  c.score = mean_of(score);
  c.change = mean_of(change);
  c.kl.se = mean_of(kl_of_prompts).se;
  c.bytes = mean_of(bytes).mean;
  c.k_kept = mean_of(k).mean;
  c.v_kept = mean_of(v).mean;
  c.kl_p99 = p99(records, task, length, n_samples, answer, c.n_rows);
  if (c.n_rows > 0) {
    c.kl.mean = kl / (double)c.n_rows;
    c.top1 = agree / (double)c.n_rows;
    c.perplexity = exp(nll / (double)c.n_rows);
  }
  return c;
}

/* ---- blocks ---- */

/* Means of task means: errors of tasks are independent. */
static eval_mean average(const eval_block *block, size_t answer, bool change) {
  eval_mean all = {0, 0};
  for (size_t i = 0; i < block->n_rows; i++) {
    const eval_cell *c = &block->rows[i].cells[answer];
    const eval_mean m = change ? c->change : c->score;
    if (!block->rows[i].counted) continue;
    all.mean += m.mean;
    all.se += m.se * m.se;
  }
  if (block->n_counted == 0) return (eval_mean){0, 0};
  all.mean /= (double)block->n_counted;
  all.se = sqrt(all.se) / (double)block->n_counted;
  return all;
}

static void add_row(const eval_records *records, const leank_eval_prompt *p, size_t n_samples,
                    eval_block *block) {
  for (size_t i = 0; i < block->n_rows; i++)
    if (strcmp(block->rows[i].task, p->task) == 0) return;
  block->rows = cli_realloc(block->rows, block->n_rows + 1, sizeof *block->rows);
  eval_row row = {.task = p->task, .metric = p->metric};
  row.cells = cli_alloc(records->n_answers, sizeof *row.cells);
  for (size_t i = 0; i < records->n_answers; i++)
    row.cells[i] = cell_of(records, p->task, p->length, n_samples, i);
  if (row.cells[0].n == 0) {
    free(row.cells);
    return;
  }
  row.counted = row.metric != LEANK_METRIC_NONE && row.cells[0].score.mean >= least_dense;
  block->n_counted += row.counted;
  block->rows[block->n_rows++] = row;
}

static eval_block *block_of(eval_summary *s, size_t length) {
  size_t at = 0;
  while (at < s->n_blocks && s->blocks[at].length < length) at++;
  if (at < s->n_blocks && s->blocks[at].length == length) return &s->blocks[at];
  eval_block *blocks = s->blocks = cli_realloc(s->blocks, s->n_blocks + 1, sizeof *blocks);
  memmove(blocks + at + 1, blocks + at, (s->n_blocks++ - at) * sizeof *blocks);
  blocks[at] = (eval_block){.length = length};
  return &blocks[at];
}

eval_summary eval_summary_make(const eval_records *records, const leank_eval_set *set) {
  eval_summary s = {.n_answers = records->n_answers};
  leank_eval_prompt p;
  size_t n_samples = 0;
  for (size_t i = 0; i < leank_eval_set_size(set); i++) {
    leank_eval_set_describe(set, i, &p);
    if (p.sample + 1 > n_samples) n_samples = p.sample + 1;
  }
  for (size_t i = 0; i < leank_eval_set_size(set); i++) {
    leank_eval_set_describe(set, i, &p);
    if (p.sample == 0) add_row(records, &p, n_samples, block_of(&s, p.length));
  }
  for (size_t b = 0; b < s.n_blocks; b++) {
    eval_block *block = &s.blocks[b];
    block->all = cli_alloc(s.n_answers, sizeof *block->all);
    for (size_t i = 0; i < s.n_answers; i++) {
      block->all[i] = cell_of(records, NULL, block->length, n_samples, i);
      block->all[i].score = average(block, i, false);
      block->all[i].change = average(block, i, true);
    }
  }
  return s;
}

void eval_summary_free(eval_summary *summary) {
  for (size_t b = 0; b < summary->n_blocks; b++) {
    for (size_t i = 0; i < summary->blocks[b].n_rows; i++) free(summary->blocks[b].rows[i].cells);
    free(summary->blocks[b].rows);
    free(summary->blocks[b].all);
  }
  free(summary->blocks);
  *summary = (eval_summary){0};
}
