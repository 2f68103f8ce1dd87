/* Op "attend_backward": random rows and pages against the oracle. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "attend_backward_bench.h"
#include "attend_backward_f64.h"
#include "base/dtype.h"
#include "base/rng.h"
#include "checkkern.h"
#include "kernels/page/page.h"

enum { MAX_PAGES = 4, MAX_DIM = 256 };

typedef struct problem_shape {
  leank_kv_type type;
  size_t n_q, head_dim, n_lean, n_pages;
  uint32_t n_keys; /* of every page; 0: random ones */
  bool bias, unseen;
} problem_shape;

/* One random problem; every array has its guard page, before or behind. */
typedef struct problem {
  leank_kv_type type;
  lk_attend_backward_args args;
  bool front;
  lk_page_view *pages;
  float *q, *q_lean, *bias, *lse, *dout, *delta;
  int64_t *q_pos;
  int64_t blind_from; /* keys at and behind this position hold NaN: no row sees them */
} problem;

/* The outputs of a call, in the order of their names below. */
enum { OUT_DQ, OUT_DQ_LEAN, OUT_DBIAS, N_ROW_OUTS };
typedef struct outputs {
  const problem *problem;
  float *rows[N_ROW_OUTS]; /* dbias NULL where it is not wanted */
  float *dk[MAX_PAGES], *dv[MAX_PAGES];
  bool has_dk, has_dv; /* the arrays themselves */
} outputs;

static float uniform(lk_rng *rng, double scale) {
  return (float)((lk_rng_double(rng) * 2 - 1) * scale);
}

static float *random_floats(size_t n, double scale, bool front, lk_rng *rng) {
  float *x = checkkern_guarded(n * sizeof *x, front);
  for (size_t i = 0; i < n; i++) x[i] = uniform(rng, scale);
  return x;
}

static void free_floats(float *x, size_t n, bool front) {
  if (x) checkkern_guarded_free(x, n * sizeof *x, front);
}

/* ---- problems ---- */

static void put(leank_kv_type type, void *segment, size_t i, float x) {
  if (type == LEANK_KV_F32)
    ((float *)segment)[i] = x;
  else
    ((uint16_t *)segment)[i] = lk_f32_to_bf16(x);
}

static size_t view_channels(const problem *p, const lk_page_view *page) {
  return page->lean ? p->args.n_lean : p->args.head_dim;
}
static size_t k_bytes(const problem *p, const lk_page_view *page) {
  return LK_PAGE_TOKENS * view_channels(p, page) * lk_kv_bytes(p->type);
}
static size_t v_bytes(const problem *p) {
  return LK_PAGE_TOKENS * p->args.head_dim * lk_kv_bytes(p->type);
}

static void fill_key(const problem *p, lk_page_view *page, size_t key, lk_rng *rng) {
  const size_t n = view_channels(p, page), e = lk_kv_interleave(p->type), d = p->args.head_dim;
  const bool blind = key >= page->n_keys || page->pos + (int64_t)key >= p->blind_from;
  for (size_t c = 0; c < n; c++)
    put(p->type, (void *)page->k, lk_k_index(e, n, key, c), blind ? NAN : uniform(rng, 1));
  for (size_t c = 0; c < d; c++)
    put(p->type, (void *)page->v, key * d + c, blind ? NAN : uniform(rng, 3));
}

static void place_pages(problem *p, const problem_shape *s, lk_rng *rng) {
  int64_t pos = (int64_t)lk_rng_below(rng, 200);
  for (size_t i = 0; i < s->n_pages; i++) {
    lk_page_view *page = p->pages + i;
    page->pos = pos;
    page->n_keys = s->n_keys ? s->n_keys : 1 + (uint32_t)lk_rng_below(rng, LK_PAGE_TOKENS);
    page->lean = s->n_lean == s->head_dim ? i % 2 : (uint32_t)lk_rng_below(rng, 2);
    pos += page->n_keys + (int64_t)lk_rng_below(rng, 3) * 10;
  }
}

/* Rows see all, or end anywhere from before the first page to behind the last. */
static void place_rows(problem *p, const problem_shape *s, lk_rng *rng) {
  const lk_page_view *last = p->pages + s->n_pages - 1;
  const int64_t first = p->pages->pos, end = last->pos + last->n_keys;
  const bool cut = lk_rng_below(rng, 3) > 0;
  for (size_t r = 0; r < s->n_q; r++) {
    p->q_pos[r] = end - 1;
    if (cut) p->q_pos[r] = first - 1 + (int64_t)lk_rng_below(rng, (uint64_t)(end - first) + 1);
    if (s->unseen) p->q_pos[r] = first - 1;
    if (p->q_pos[r] >= p->blind_from) p->blind_from = p->q_pos[r] + 1;
  }
}

static problem make_problem(const problem_shape *s, lk_rng *rng) {
  const size_t m = s->n_q, d = s->head_dim, n = s->n_lean;
  problem p = {.type = s->type, .front = lk_rng_below(rng, 2)};
  p.args = (lk_attend_backward_args){.n_q = m, .head_dim = d, .n_lean = n, .n_pages = s->n_pages};
  p.pages = checkkern_guarded(s->n_pages * sizeof *p.pages, p.front);
  p.q_pos = checkkern_guarded(m * sizeof *p.q_pos, p.front);
  place_pages(&p, s, rng);
  place_rows(&p, s, rng);
  for (size_t i = 0; i < s->n_pages; i++) {
    p.pages[i].k = checkkern_guarded(k_bytes(&p, p.pages + i), p.front);
    p.pages[i].v = checkkern_guarded(v_bytes(&p), p.front);
    for (size_t key = 0; key < LK_PAGE_TOKENS; key++) fill_key(&p, p.pages + i, key, rng);
  }
  const double q_scale = (lk_rng_below(rng, 3) ? 1 : 6) / sqrt((double)d);
  p.args.q = p.q = random_floats(m * d, q_scale, p.front, rng);
  p.args.q_lean = p.q_lean = random_floats(m * n, q_scale, p.front, rng);
  p.args.lean_bias = p.bias = s->bias ? random_floats(m, 2, p.front, rng) : NULL;
  p.args.dout = p.dout = random_floats(m * d, 1, p.front, rng);
  p.args.delta = p.delta = random_floats(m, 2, p.front, rng);
  p.args.lse = p.lse = random_floats(m, 1, p.front, rng);
  p.args.pages = p.pages;
  p.args.q_pos = p.q_pos;
  /* What other calls of the row saw may be far more than this one. */
  for (size_t r = 0; r < m; r++) p.lse[r] += 4 + (lk_rng_below(rng, 8) ? 0 : 100);
  return p;
}

static void free_problem(problem *p) {
  const size_t m = p->args.n_q, d = p->args.head_dim, n = p->args.n_lean;
  for (size_t i = 0; i < p->args.n_pages; i++) {
    checkkern_guarded_free((void *)p->pages[i].k, k_bytes(p, p->pages + i), p->front);
    checkkern_guarded_free((void *)p->pages[i].v, v_bytes(p), p->front);
  }
  checkkern_guarded_free(p->pages, p->args.n_pages * sizeof *p->pages, p->front);
  checkkern_guarded_free(p->q_pos, m * sizeof *p->q_pos, p->front);
  free_floats(p->q, m * d, p->front);
  free_floats(p->q_lean, m * n, p->front);
  free_floats(p->bias, m, p->front);
  free_floats(p->dout, m * d, p->front);
  free_floats(p->delta, m, p->front);
  free_floats(p->lse, m, p->front);
}

/* ---- runs ---- */

static size_t row_out_size(const problem *p, int which) {
  const size_t widths[] = {p->args.head_dim, p->args.n_lean, 1};
  return p->args.n_q * widths[which];
}

/* Outputs of random content; which of dbias, dk and dv are wanted is random too. */
static outputs make_outputs(const problem *p, bool all, lk_rng *rng) {
  outputs o = {.problem = p};
  const size_t n = LK_PAGE_TOKENS * p->args.head_dim;
  for (int i = 0; i < N_ROW_OUTS; i++)
    if (i != OUT_DBIAS || all || lk_rng_below(rng, 4))
      o.rows[i] = random_floats(row_out_size(p, i), 1, p->front, rng);
  o.has_dk = all || lk_rng_below(rng, 2);
  o.has_dv = all || lk_rng_below(rng, 2);
  for (size_t i = 0; i < p->args.n_pages; i++) {
    if (all || lk_rng_below(rng, 3)) o.dk[i] = random_floats(n, 1, p->front, rng);
    if (all || lk_rng_below(rng, 3)) o.dv[i] = random_floats(n, 1, p->front, rng);
  }
  return o;
}

static float *copy_floats(const float *x, size_t n, bool front) {
  if (!x) return NULL;
  float *y = checkkern_guarded(n * sizeof *y, front);
  memcpy(y, x, n * sizeof *y);
  return y;
}

static outputs copy_outputs(const outputs *from) {
  const problem *p = from->problem;
  outputs o = *from;
  const size_t n = LK_PAGE_TOKENS * p->args.head_dim;
  for (int i = 0; i < N_ROW_OUTS; i++)
    o.rows[i] = copy_floats(from->rows[i], row_out_size(p, i), p->front);
  for (size_t i = 0; i < p->args.n_pages; i++) {
    o.dk[i] = copy_floats(from->dk[i], n, p->front);
    o.dv[i] = copy_floats(from->dv[i], n, p->front);
  }
  return o;
}

static void free_outputs(outputs *o) {
  const problem *p = o->problem;
  const size_t n = LK_PAGE_TOKENS * p->args.head_dim;
  for (int i = 0; i < N_ROW_OUTS; i++) free_floats(o->rows[i], row_out_size(p, i), p->front);
  for (size_t i = 0; i < p->args.n_pages; i++) {
    free_floats(o->dk[i], n, p->front);
    free_floats(o->dv[i], n, p->front);
  }
}

/* Scratch starts as garbage of the given byte. */
static void run(lk_attend_backward_fn fn, const problem *p, outputs *o, int garbage) {
  const size_t scratch_bytes = lk_attend_backward_scratch_bytes(p->args.n_q, p->args.head_dim);
  lk_attend_backward_args call = p->args;
  call.dq = o->rows[OUT_DQ];
  call.dq_lean = o->rows[OUT_DQ_LEAN];
  call.dbias = o->rows[OUT_DBIAS];
  call.dk = o->has_dk ? o->dk : NULL;
  call.dv = o->has_dv ? o->dv : NULL;
  call.scratch = checkkern_guarded(scratch_bytes, p->front);
  memset(call.scratch, garbage, scratch_bytes);
  fn(&call);
  checkkern_guarded_free(call.scratch, scratch_bytes, p->front);
}

/* ---- against the oracle ---- */

typedef struct subject {
  checkkern *ck;
  const lk_attend_backward_variant *variant;
} subject;

static sum_f64 *start_sums(const float *x, size_t n) {
  sum_f64 *sums = calloc(n ? n : 1, sizeof *sums);
  if (!sums) abort();
  for (size_t i = 0; i < n && x; i++) sum_f64_start(sums + i, x[i]);
  return sums;
}

static void compare(const subject *s, const problem *p, const char *what, const float *got,
                    const sum_f64 *want, size_t n) {
  for (size_t i = 0; i < n && got; i++) {
    const double off = fabs((double)got[i] - want[i].value), bound = sum_f64_bound(want + i);
    checkkern_expect(s->ck, off <= bound, s->variant->name,
                     "M %zu, D %zu, n_lean %zu: %s[%zu] %.9g, not %.9g +- %.2g", p->args.n_q,
                     p->args.head_dim, p->args.n_lean, what, i, (double)got[i], want[i].value,
                     bound);
  }
}

/* The sums of all pages in one array, started from those that are there. */
static sum_f64 *start_page_sums(const problem *p, float *const *x) {
  const size_t n = LK_PAGE_TOKENS * p->args.head_dim;
  sum_f64 *sums = start_sums(NULL, p->args.n_pages * n);
  for (size_t i = 0; i < p->args.n_pages; i++)
    for (size_t j = 0; j < n && x[i]; j++) sum_f64_start(sums + i * n + j, x[i][j]);
  return sums;
}

/* Arrays that were not handed over must keep their bits. */
static void compare_pages(const subject *s, const problem *p, const char *what, bool wanted,
                          float *const *got, float *const *before, const sum_f64 *want) {
  const size_t n = LK_PAGE_TOKENS * p->args.head_dim;
  for (size_t i = 0; i < p->args.n_pages; i++) {
    if (wanted) compare(s, p, what, got[i], want + i * n, n);
    if (!wanted && got[i])
      checkkern_expect(s->ck, memcmp(got[i], before[i], n * sizeof **got) == 0, s->variant->name,
                       "%s of page %zu written", what, i);
  }
}

static void check_values(const subject *s, const problem *p, const outputs *before,
                         const outputs *got) {
  backward_f64 want = {.dq = start_sums(before->rows[OUT_DQ], row_out_size(p, OUT_DQ)),
                       .dq_lean =
                           start_sums(before->rows[OUT_DQ_LEAN], row_out_size(p, OUT_DQ_LEAN)),
                       .dbias = start_sums(before->rows[OUT_DBIAS], p->args.n_q),
                       .dk = start_page_sums(p, before->dk),
                       .dv = start_page_sums(p, before->dv)};
  attend_backward_f64(&p->args, p->type, &want);
  compare(s, p, "dq", got->rows[OUT_DQ], want.dq, row_out_size(p, OUT_DQ));
  compare(s, p, "dq_lean", got->rows[OUT_DQ_LEAN], want.dq_lean, row_out_size(p, OUT_DQ_LEAN));
  compare(s, p, "dbias", got->rows[OUT_DBIAS], want.dbias, p->args.n_q);
  compare_pages(s, p, "dk", got->has_dk, got->dk, before->dk, want.dk);
  compare_pages(s, p, "dv", got->has_dv, got->dv, before->dv, want.dv);
  free(want.dq);
  free(want.dq_lean);
  free(want.dbias);
  free(want.dk);
  free(want.dv);
}

/* ---- bits ---- */

static bool same_floats(const float *a, const float *b, size_t n) {
  return !a || memcmp(a, b, n * sizeof *a) == 0;
}

static bool same_outputs(const outputs *a, const outputs *b) {
  const problem *p = a->problem;
  const size_t n = LK_PAGE_TOKENS * p->args.head_dim;
  bool same = true;
  for (int i = 0; i < N_ROW_OUTS; i++)
    same = same && same_floats(a->rows[i], b->rows[i], row_out_size(p, i));
  for (size_t i = 0; i < p->args.n_pages; i++)
    same = same && same_floats(a->dk[i], b->dk[i], n) && same_floats(a->dv[i], b->dv[i], n);
  return same;
}

/* What row r does not see becomes NaN: rows that see no more than it keep their bits. Destroys the
 * problem's keys. */
static void check_poisoned(const subject *s, problem *p, const outputs *before, const outputs *all,
                           size_t r) {
  const size_t d = p->args.head_dim, n = p->args.n_lean;
  lk_rng rng = {0};
  p->blind_from = p->q_pos[r] + 1;
  for (size_t i = 0; i < p->args.n_pages; i++)
    for (size_t key = 0; key < LK_PAGE_TOKENS; key++)
      if (p->pages[i].pos + (int64_t)key >= p->blind_from) fill_key(p, p->pages + i, key, &rng);
  outputs got = copy_outputs(before);
  run(s->variant->fn, p, &got, 0);
  for (size_t i = 0; i < p->args.n_q; i++) {
    if (p->q_pos[i] > p->q_pos[r]) continue;
    bool same = same_floats(all->rows[OUT_DQ] + i * d, got.rows[OUT_DQ] + i * d, d);
    same = same && same_floats(all->rows[OUT_DQ_LEAN] + i * n, got.rows[OUT_DQ_LEAN] + i * n, n);
    if (got.rows[OUT_DBIAS])
      same = same && same_floats(all->rows[OUT_DBIAS] + i, got.rows[OUT_DBIAS] + i, 1);
    checkkern_expect(s->ck, same, s->variant->name,
                     "row %zu of %zu, D %zu: touched by keys it does not see", i, p->args.n_q, d);
  }
  free_outputs(&got);
}

/* ---- shapes ---- */

static void check_shape(const subject *s, const problem_shape *shape, lk_rng *rng) {
  problem p = make_problem(shape, rng);
  outputs before = make_outputs(&p, lk_rng_below(rng, 2), rng);
  outputs first = copy_outputs(&before), second = copy_outputs(&before);
  run(s->variant->fn, &p, &first, 0xff);
  check_values(s, &p, &before, &first);
  run(s->variant->fn, &p, &second, 0x11);
  checkkern_expect(s->ck, same_outputs(&first, &second), s->variant->name,
                   "M %zu, D %zu: other bits in a second call", shape->n_q, shape->head_dim);
  if (shape->unseen)
    checkkern_expect(s->ck, same_outputs(&first, &before), s->variant->name,
                     "M %zu, D %zu: written without a key", shape->n_q, shape->head_dim);
  check_poisoned(s, &p, &before, &first, lk_rng_below(rng, shape->n_q));
  free_outputs(&before);
  free_outputs(&first);
  free_outputs(&second);
  free_problem(&p);
}

/* 0, 2, an odd number of pairs, D, or any. */
static size_t random_n_lean(size_t head_dim, lk_rng *rng) {
  switch (lk_rng_below(rng, 5)) {
  case 0: return 0;
  case 1: return 2;
  case 2: return lk_rng_below(rng, (head_dim + 2) / 4) * 4 + 2;
  case 3: return head_dim;
  default: return lk_rng_below(rng, head_dim / 2 + 1) * 2;
  }
}

static void check_variant(const subject *s) {
  static const size_t dims[] = {2, 6, 16, 30, 64, 80, 128, MAX_DIM};
  static const size_t rows[] = {1, 5, 6, 7, 31, 64, 130};
  static const uint32_t keys[] = {0, 1, 15, 16, 17, 63, 64};
  lk_rng rng = {s->ck->seed};
  for (size_t i = 0; i < sizeof dims / sizeof *dims; i++)
    for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) {
      if (s->ck->quick && lk_rng_below(&rng, 4)) continue;
      const problem_shape shape = {.type = s->variant->type,
                                   .n_q = rows[k],
                                   .head_dim = dims[i],
                                   .n_lean = random_n_lean(dims[i], &rng),
                                   .n_pages = 1 + lk_rng_below(&rng, rows[k] > 64 ? 2 : MAX_PAGES),
                                   .n_keys = keys[lk_rng_below(&rng, sizeof keys / sizeof *keys)],
                                   .bias = lk_rng_below(&rng, 3),
                                   .unseen = lk_rng_below(&rng, 16) == 0};
      check_shape(s, &shape, &rng);
    }
}

/* Every number of keys and, beside it, of kept channels. */
static void check_counts(const subject *s) {
  lk_rng rng = {s->ck->seed ^ 0xc0};
  for (uint32_t n = 0; n <= LK_PAGE_TOKENS; n++) {
    if (s->ck->quick && lk_rng_below(&rng, 4)) continue;
    const problem_shape shape = {.type = s->variant->type,
                                 .n_q = 1 + n % 8,
                                 .head_dim = 66,
                                 .n_lean = n / 2 * 2,
                                 .n_pages = 2,
                                 .n_keys = n,
                                 .bias = n % 3};
    check_shape(s, &shape, &rng);
  }
}

void check_attend_backward(checkkern *ck) {
  for (const lk_attend_backward_variant *v = lk_attend_backward_variants; v->name; v++) {
    if (!checkkern_wants(ck, v->name, v->level)) continue;
    const subject s = {ck, v};
    check_variant(&s);
    check_counts(&s);
    if (ck->bench) attend_backward_bench(v);
  }
  for (size_t l = 0; l < ck->n_levels; l++) {
    const leank_cpu_level level = ck->levels[l];
    for (int type = 0; type < 2; type++) {
      const lk_attend_backward_variant *v = lk_attend_backward_select((leank_kv_type)type, level);
      checkkern_expect(ck, v && (int)v->type == type && (!level || v->level <= level),
                       "attend_backward_select", "type %d at level %d", type, (int)level);
    }
  }
}
