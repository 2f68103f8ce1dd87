/* Op "attend": random sequences against the oracle, and the promises about bits. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attend_amx_model.h"
#include "attend_bench.h"
#include "attend_f64.h"
#include "base/dtype.h"
#include "base/rng.h"
#include "checkkern.h"
#include "kernels/page/page.h"

enum { MAX_PAGES = 12 };

/* One random problem; every array has its guard page, before or behind. */
typedef struct problem {
  leank_kv_type type;
  lk_attend_args args;
  size_t n_q, head_dim, n_lean, n_pages;
  lk_page_view *pages;
  float *q, *q_lean, *bias;
  int64_t *q_pos;
  bool front;
} problem;

typedef enum row_order { ROWS_LAST, ROWS_CAUSAL, ROWS_RANDOM, N_ROW_ORDERS } row_order;

typedef struct problem_shape {
  leank_kv_type type;
  size_t n_q, head_dim, n_kept, n_pages;
  row_order order;
  bool bias, partial_pages, wide, lean; /* every page wide, or lean */
  bool tiny_values;                     /* sums that come and go as denormals */
} problem_shape;

static float uniform(lk_rng *rng, double scale) {
  return (float)((lk_rng_double(rng) * 2 - 1) * scale);
}

/* ---- problems ---- */

static void put(const problem *p, void *segment, size_t i, float x) {
  if (p->type == LEANK_KV_F32)
    ((float *)segment)[i] = x;
  else
    ((uint16_t *)segment)[i] = lk_f32_to_bf16(x);
}

static size_t view_channels(const problem *p, const lk_page_view *page) {
  return page->lean ? p->n_lean : p->head_dim;
}
static size_t k_bytes(const problem *p, const lk_page_view *page) {
  return lk_page_k_bytes(p->type, page->lean, view_channels(p, page));
}
static size_t v_bytes(const problem *p, const lk_page_view *page) {
  return lk_page_v_bytes(p->type, page->lean, p->head_dim);
}

static float *scales(const void *part, size_t n) {
  return (float *)(void *)((char *)part + LK_PAGE_TOKENS * n);
}

static int nearest(float x, float scale) {
  const float k = scale > 0 ? rintf(x / scale) : 0;
  return k > 127 ? 127 : k < -127 ? -127 : (int)k;
}

/* A key of an int8 page near k and v, by K's scales; the bytes of one that is not there are any,
 * and so is the scale of its V. */
static void fill_int8_key(const problem *p, lk_page_view *page, size_t key, const float *k,
                          const float *v) {
  const size_t d = p->head_dim, n = p->n_lean;
  float *v_scale = scales(page->v, d) + key, top = 0;
  for (size_t c = 0; c < n; c++)
    ((uint8_t *)page->k)[lk_k_index(4, n, key, c)] =
        (uint8_t)(128 + (k ? nearest(k[c], scales(page->k, n)[c]) : (int)(key + 7 * c) % 256));
  for (size_t c = 0; c < d && v; c++) top = fmaxf(top, fabsf(v[c]));
  *v_scale = v ? top / 127 : NAN;
  for (size_t c = 0; c < d; c++)
    ((int8_t *)page->v)[lk_q8_v_index(d, key, c)] =
        (int8_t)(v ? nearest(v[c], *v_scale) : (int)(key * 3 + c) % 256 - 128);
}

static void fill_key(const problem *p, lk_page_view *page, size_t key, const float *k,
                     const float *v) {
  const size_t n = view_channels(p, page), e = lk_kv_interleave(p->type);
  if (p->type == LEANK_KV_Q8 && page->lean) {
    fill_int8_key(p, page, key, k, v);
    return;
  }
  for (size_t c = 0; c < n; c++) put(p, (void *)page->k, lk_k_index(e, n, key, c), k ? k[c] : NAN);
  for (size_t c = 0; c < p->head_dim; c++)
    put(p, (void *)page->v, key * p->head_dim + c, v ? v[c] : NAN);
}

/* Values with zeros of both signs and, rarely, denormals among them. */
static float value(lk_rng *rng, double scale) {
  switch (lk_rng_below(rng, 64)) {
  case 0: return 0.0f;
  case 1: return -0.0f;
  case 2: return 0x1p-130f;
  default: return uniform(rng, scale);
  }
}

/* Scales of channels that differ by up to 16; 0 of a few, and of the padding. */
static void make_k_scales(const problem *p, const problem_shape *s, lk_page_view *page,
                          double k_scale, lk_rng *rng) {
  for (size_t c = 0; c < p->n_lean; c++) {
    const double largest = k_scale * pow(2, -4 * lk_rng_double(rng));
    const bool none = c >= s->n_kept || lk_rng_below(rng, 32) == 0;
    scales(page->k, p->n_lean)[c] = none ? 0 : (float)(largest / 127);
  }
}

static void make_page(problem *p, const problem_shape *s, lk_page_view *page, lk_rng *rng) {
  const bool last = page == p->pages + p->n_pages - 1;
  page->lean = s->lean || (!s->wide && lk_rng_below(rng, 2));
  page->n_keys =
      last || s->partial_pages ? (uint32_t)lk_rng_below(rng, LK_PAGE_TOKENS) + 1 : LK_PAGE_TOKENS;
  page->k = checkkern_guarded(k_bytes(p, page), p->front);
  page->v = checkkern_guarded(v_bytes(p, page), p->front);
  float k[260], v[256];
  const double k_scale = lk_rng_below(rng, 4) ? 1 : 4, v_scale = s->tiny_values ? 0x1p-124 : 3;
  if (p->type == LEANK_KV_Q8 && page->lean) make_k_scales(p, s, page, k_scale, rng);
  for (size_t key = 0; key < LK_PAGE_TOKENS; key++) {
    for (size_t c = p->head_dim; c < p->n_lean; c++) k[c] = 0;
    for (size_t c = 0; c < p->head_dim; c++) {
      k[c] = page->lean && c >= s->n_kept ? 0 : uniform(rng, k_scale);
      v[c] = value(rng, v_scale);
    }
    const bool valid = key < page->n_keys;
    fill_key(p, page, key, valid ? k : NULL, valid ? v : NULL);
  }
}

static int64_t row_position(const problem *p, const problem_shape *s, size_t r, lk_rng *rng) {
  const lk_page_view *first = p->pages, *last = p->pages + p->n_pages - 1;
  const int64_t end = last->pos + last->n_keys, n = end - first->pos;
  if (s->order == ROWS_LAST) return end - 1;
  if (s->order == ROWS_CAUSAL) return end - 1 - (int64_t)((p->n_q - 1 - r) / 3);
  switch (lk_rng_below(rng, 4)) {
  case 0: return first->pos - 1;
  case 1: return first->pos + LK_PAGE_TOKENS * (int64_t)lk_rng_below(rng, p->n_pages) - 1;
  case 2: return first->pos + LK_PAGE_TOKENS * (int64_t)lk_rng_below(rng, p->n_pages);
  default: return first->pos + (int64_t)lk_rng_below(rng, (uint64_t)n + 70);
  }
}

static void make_rows(problem *p, const problem_shape *s, lk_rng *rng) {
  const double scales[] = {0.05, 0.5, 4};
  for (size_t r = 0; r < p->n_q; r++) {
    const double scale = scales[lk_rng_below(rng, 3)] / sqrt((double)p->head_dim);
    for (size_t c = 0; c < p->head_dim; c++) p->q[r * p->head_dim + c] = uniform(rng, 2 * scale);
    for (size_t c = 0; c < p->n_lean; c++)
      p->q_lean[r * p->n_lean + c] = c < s->n_kept ? uniform(rng, 2 * scale) : 0;
    if (p->bias) p->bias[r] = uniform(rng, 2);
    p->q_pos[r] = row_position(p, s, r, rng);
  }
}

static void make_problem(problem *p, const problem_shape *s, bool front, lk_rng *rng) {
  const size_t granule = lk_kv_granule(s->type);
  const size_t n_lean = (s->n_kept + granule - 1) / granule * granule;
  *p = (problem){.type = s->type,
                 .n_q = s->n_q,
                 .head_dim = s->head_dim,
                 .n_lean = n_lean,
                 .n_pages = s->n_pages,
                 .front = front};
  p->pages = checkkern_guarded(p->n_pages * sizeof *p->pages, front);
  p->q = checkkern_guarded(p->n_q * p->head_dim * sizeof *p->q, front);
  p->q_lean = checkkern_guarded(p->n_q * n_lean * sizeof *p->q_lean, front);
  p->bias = s->bias ? checkkern_guarded(p->n_q * sizeof *p->bias, front) : NULL;
  p->q_pos = checkkern_guarded(p->n_q * sizeof *p->q_pos, front);
  int64_t pos = LK_PAGE_TOKENS * (int64_t)lk_rng_below(rng, 3);
  for (size_t i = 0; i < p->n_pages; i++) {
    p->pages[i].pos = pos;
    make_page(p, s, p->pages + i, rng);
    pos += LK_PAGE_TOKENS * (lk_rng_below(rng, 8) ? 1 : 3);
  }
  make_rows(p, s, rng);
  p->args = (lk_attend_args){.n_q = p->n_q,
                             .head_dim = p->head_dim,
                             .n_lean = n_lean,
                             .q = p->q,
                             .q_lean = p->q_lean,
                             .lean_bias = p->bias,
                             .q_pos = p->q_pos,
                             .pages = p->pages,
                             .n_pages = p->n_pages};
}

static void free_problem(problem *p) {
  for (size_t i = 0; i < p->n_pages; i++) {
    checkkern_guarded_free((void *)p->pages[i].k, k_bytes(p, p->pages + i), p->front);
    checkkern_guarded_free((void *)p->pages[i].v, v_bytes(p, p->pages + i), p->front);
  }
  checkkern_guarded_free(p->pages, p->n_pages * sizeof *p->pages, p->front);
  checkkern_guarded_free(p->q, p->n_q * p->head_dim * sizeof *p->q, p->front);
  checkkern_guarded_free(p->q_lean, p->n_q * p->n_lean * sizeof *p->q_lean, p->front);
  if (p->bias) checkkern_guarded_free(p->bias, p->n_q * sizeof *p->bias, p->front);
  checkkern_guarded_free(p->q_pos, p->n_q * sizeof *p->q_pos, p->front);
}

/* ---- runs ---- */

typedef struct result {
  size_t n_q, head_dim;
  float *m, *l, *o;
  bool front;
} result;

/* Runs the rows of args; scratch and results start as garbage. */
static result run(lk_attend_fn fn, leank_kv_type type, const lk_attend_args *args, bool front) {
  result out = {.n_q = args->n_q, .head_dim = args->head_dim, .front = front};
  out.m = checkkern_guarded(args->n_q * sizeof *out.m, front);
  out.l = checkkern_guarded(args->n_q * sizeof *out.l, front);
  out.o = checkkern_guarded(args->n_q * args->head_dim * sizeof *out.o, front);
  const size_t scratch_bytes = lk_attend_scratch_bytes(type, args->n_q, args->head_dim);
  lk_attend_args call = *args;
  call.m = out.m;
  call.l = out.l;
  call.o = out.o;
  call.scratch = checkkern_guarded(scratch_bytes, front);
  memset(call.scratch, 0xff, scratch_bytes);
  fn(&call);
  checkkern_guarded_free(call.scratch, scratch_bytes, front);
  return out;
}

static void free_result(result *r) {
  checkkern_guarded_free(r->m, r->n_q * sizeof *r->m, r->front);
  checkkern_guarded_free(r->l, r->n_q * sizeof *r->l, r->front);
  checkkern_guarded_free(r->o, r->n_q * r->head_dim * sizeof *r->o, r->front);
}

static bool same_row(const result *a, size_t i, const result *b, size_t j) {
  const size_t d = a->head_dim;
  return memcmp(a->m + i, b->m + j, sizeof *a->m) == 0 &&
         memcmp(a->l + i, b->l + j, sizeof *a->l) == 0 &&
         memcmp(a->o + i * d, b->o + j * d, d * sizeof *a->o) == 0;
}

/* What is fetched ahead must not matter: single rows name memory, the whole does not. */
static lk_attend_args one_row(const lk_attend_args *args, size_t r) {
  lk_attend_args one = *args;
  one.n_q = 1;
  one.q += r * args->head_dim;
  one.q_lean += r * args->n_lean;
  if (one.lean_bias) one.lean_bias += r;
  one.q_pos += r;
  one.ahead = args->pages;
  one.ahead_bytes = 12345;
  return one;
}

/* ---- against the oracle ---- */

typedef struct subject {
  const lk_attend_variant *variant;
  lk_attend_fn fn;
  bool rows;
} subject;

static unsigned rounding_of(const subject *s) {
  const char *name = s->variant->name;
  const bool bf16 = strstr(name, "avx512bf16") || strstr(name, "amx") || strstr(name, "neonbf16");
  const bool integers =
      s->variant->type == LEANK_KV_Q8 && !s->rows && (bf16 || strstr(name, "neondot"));
  return (bf16 ? ROUNDS_BF16 : ROUNDS_FP32) | (integers ? ROUNDS_INT : ROUNDS_FP32);
}

/* Sums under the variant's own maximum are brought to the exact one. */
static void compare_row(checkkern *ck, const subject *s, const problem *p, const result *got,
                        size_t r) {
  attend_f64 want;
  attend_f64_row(&p->args, p->type, rounding_of(s), r, &want);
  const char *name = s->variant->name;
  const bool none = want.m == -INFINITY;
  const double m = (double)got->m[r], l = (double)got->l[r], to_m = none ? 1 : exp(m - want.m);
  checkkern_expect(ck, none ? m == want.m : fabs(m - want.m) <= want.m_bound, name,
                   "%s row %zu of %zu, D %zu: m %.9g, not %.9g +- %.2g",
                   s->rows ? "rows" : "decode", r, p->n_q, p->head_dim, m, want.m, want.m_bound);
  checkkern_expect(ck, fabs(l * to_m - want.l) <= want.l_bound, name,
                   "%s row %zu of %zu, D %zu: l %.9g, not %.9g +- %.2g",
                   s->rows ? "rows" : "decode", r, p->n_q, p->head_dim, l * to_m, want.l,
                   want.l_bound);
  for (size_t c = 0; c < p->head_dim; c++) {
    const double o = (double)got->o[r * p->head_dim + c] * to_m;
    checkkern_expect(ck, fabs(o - want.o[c]) <= want.o_bound[c], name,
                     "%s row %zu of %zu, D %zu: o[%zu] %.9g, not %.9g +- %.2g",
                     s->rows ? "rows" : "decode", r, p->n_q, p->head_dim, c, o, want.o[c],
                     want.o_bound[c]);
  }
}

/* ---- bits ---- */

/* A row alone, the list cut where the row's sight ends, what it does not see overwritten. */
static void check_alone(checkkern *ck, const subject *s, problem *p, const result *all, size_t r) {
  lk_attend_args one = one_row(&p->args, r);
  result alone = run(s->fn, p->type, &one, p->front);
  checkkern_expect(ck, same_row(all, r, &alone, 0), s->variant->name,
                   "row %zu of %zu, D %zu: other bits alone", r, p->n_q, p->head_dim);
  free_result(&alone);

  lk_page_view cut[MAX_PAGES];
  size_t n = 0;
  for (; n < p->n_pages && p->pages[n].pos <= p->q_pos[r]; n++) {
    cut[n] = p->pages[n];
    const int64_t seen = p->q_pos[r] - cut[n].pos + 1;
    if (seen < cut[n].n_keys) cut[n].n_keys = (uint32_t)seen;
  }
  one.pages = cut;
  one.n_pages = n;
  alone = run(s->fn, p->type, &one, p->front);
  checkkern_expect(ck, same_row(all, r, &alone, 0), s->variant->name,
                   "row %zu of %zu, D %zu: other bits with the list cut at its position", r, p->n_q,
                   p->head_dim);
  free_result(&alone);
}

static void poison_behind(problem *p, int64_t q_pos) {
  for (size_t i = 0; i < p->n_pages; i++)
    for (size_t key = 0; key < LK_PAGE_TOKENS; key++)
      if (p->pages[i].pos + (int64_t)key > q_pos) fill_key(p, p->pages + i, key, NULL, NULL);
}

/* NaN in every key that row r does not see: rows that see no more than r keep their bits. Destroys
 * the problem's keys. */
static void check_poisoned(checkkern *ck, const subject *s, problem *p, const result *all,
                           size_t r) {
  poison_behind(p, p->q_pos[r]);
  result got = run(s->fn, p->type, &p->args, p->front);
  for (size_t i = 0; i < p->n_q; i++)
    if (p->q_pos[i] <= p->q_pos[r])
      checkkern_expect(ck, same_row(all, i, &got, i), s->variant->name,
                       "row %zu of %zu, D %zu: touched by keys it does not see", i, p->n_q,
                       p->head_dim);
  free_result(&got);
}

/* Lean views of all channels against the same pages as wide ones. */
static void check_lean_is_wide(checkkern *ck, const subject *s, problem *p) {
  lk_attend_args lean = p->args;
  lean.q_lean = p->q;
  lean.lean_bias = NULL;
  lk_page_view views[2][MAX_PAGES];
  for (size_t i = 0; i < p->n_pages; i++) {
    views[0][i] = views[1][i] = p->pages[i];
    views[0][i].lean = 0;
    views[1][i].lean = i % 3 != 1;
  }
  lean.pages = views[0];
  result a = run(s->fn, p->type, &lean, p->front);
  lean.pages = views[1];
  result b = run(s->fn, p->type, &lean, p->front);
  for (size_t r = 0; r < p->n_q; r++)
    checkkern_expect(ck, same_row(&a, r, &b, r), s->variant->name,
                     "row %zu of %zu, D %zu: lean with all channels differs from wide", r, p->n_q,
                     p->head_dim);
  free_result(&a);
  free_result(&b);
}

/* Without lean pages, q8 is bf16. */
static void check_wide_is_bf16(checkkern *ck, const subject *s, const problem *p) {
  const lk_attend_variant *bf16 = lk_attend_select(LEANK_KV_BF16, s->variant->level);
  lk_page_view views[MAX_PAGES];
  size_t n = 0;
  for (size_t i = 0; i < p->n_pages; i++)
    if (!p->pages[i].lean) views[n++] = p->pages[i];
  lk_attend_args wide = p->args;
  wide.pages = views;
  wide.n_pages = n;
  result a = run(s->fn, LEANK_KV_Q8, &wide, p->front);
  result b = run(s->rows ? bf16->rows : bf16->decode, LEANK_KV_Q8, &wide, p->front);
  for (size_t r = 0; r < p->n_q; r++)
    checkkern_expect(ck, same_row(&a, r, &b, r), s->variant->name,
                     "row %zu of %zu, D %zu: %zu wide pages differ from bf16", r, p->n_q,
                     p->head_dim, n);
  free_result(&a);
  free_result(&b);
}

/* ---- merge ---- */

/* Every page a part of its own, merged, against softmax(x) V over all. */
static void check_merged(checkkern *ck, const subject *s, problem *p) {
  const size_t d = p->head_dim, n_parts = p->n_pages, n_q = p->n_q;
  float *m = calloc(n_parts * n_q, sizeof *m), *l = calloc(n_parts * n_q, sizeof *l);
  float *o = calloc(n_parts * n_q * d, sizeof *o), out[256];
  for (size_t i = 0; i < n_parts; i++) {
    lk_attend_args part = p->args;
    part.pages += i;
    part.n_pages = 1;
    result got = run(s->fn, p->type, &part, p->front);
    memcpy(m + i * n_q, got.m, n_q * sizeof *m);
    memcpy(l + i * n_q, got.l, n_q * sizeof *l);
    memcpy(o + i * n_q * d, got.o, n_q * d * sizeof *o);
    free_result(&got);
  }
  for (size_t r = 0; r < n_q; r++) {
    attend_f64 want;
    attend_f64_row(&p->args, p->type, rounding_of(s), r, &want);
    lk_attend_merge(n_parts, m + r, l + r, n_q, o + r * d, n_q * d, d, out);
    for (size_t c = 0; c < d; c++) {
      /* 16 u per part: its exponential, two products and two sums; 8 for the division */
      const double fold = (16 * (double)n_parts + 8) * 0x1p-24;
      const double exact = want.l > 0 ? want.o[c] / want.l : 0;
      const double bound =
          want.l > 0 ? (want.o_bound[c] + fabs(exact) * want.l_bound) / (want.l - want.l_bound) +
                           fold * 2 * want.o_abs[c] / want.l
                     : 0;
      checkkern_expect(ck, fabs((double)out[c] - exact) <= bound, "attend_merge",
                       "%s row %zu of %zu, D %zu, %zu parts: out[%zu] %.9g, not %.9g +- %.2g",
                       s->variant->name, r, n_q, d, n_parts, c, (double)out[c], exact, bound);
    }
  }
  free(m);
  free(l);
  free(o);
}

/* ---- shapes ---- */

static void check_shape(checkkern *ck, const subject *s, const problem_shape *shape, lk_rng *rng) {
  problem p;
  make_problem(&p, shape, lk_rng_below(rng, 2), rng);
  result all = run(s->fn, p.type, &p.args, p.front);
  for (size_t r = 0; r<p.n_q; r += p.n_q> 32 ? 1 + lk_rng_below(rng, 16) : 1)
    compare_row(ck, s, &p, &all, r);
  for (size_t i = 0; i < 4; i++) check_alone(ck, s, &p, &all, lk_rng_below(rng, p.n_q));
  if (p.n_q <= 16) check_merged(ck, s, &p);
  check_poisoned(ck, s, &p, &all, lk_rng_below(rng, p.n_q));
  free_result(&all);
  free_problem(&p);
}

static void check_wide_shape(checkkern *ck, const subject *s, const problem_shape *shape,
                             lk_rng *rng) {
  problem_shape full = *shape;
  full.n_kept = full.head_dim;
  problem p;
  make_problem(&p, &full, lk_rng_below(rng, 2), rng);
  if (full.type == LEANK_KV_Q8)
    check_wide_is_bf16(ck, s, &p);
  else
    check_lean_is_wide(ck, s, &p);
  free_problem(&p);
}

/* Each pair of sizes, or with --quick one in eight, another one with every seed. */
static void check_subject(checkkern *ck, const subject *s) {
  static const size_t dims[] = {2, 4, 6, 14, 16, 18, 30, 32, 34, 62, 64, 66, 80, 96, 128, 256};
  static const size_t many[] = {1, 5, 6, 7, 13, 17, 31, 64, 100, 256};
  lk_rng rng = {ck->seed ^ (s->rows ? 0x5eed : 0)};
  const size_t n_sizes = s->rows ? sizeof many / sizeof *many : 16;
  for (size_t i = 0; i < sizeof dims / sizeof *dims; i++)
    for (size_t k = 0; k < n_sizes; k++) {
      if (s->rows && many[k] > 64 && dims[i] % 32) continue;
      if (ck->quick && lk_rng_below(&rng, 8)) continue;
      problem_shape shape = {
          .type = s->variant->type, .n_q = s->rows ? many[k] : k + 1, .head_dim = dims[i]};
      shape.n_kept = lk_rng_below(&rng, dims[i] + 1);
      shape.n_pages = 1 + lk_rng_below(&rng, shape.n_q > 64 ? 3 : s->rows ? 6 : 8);
      shape.order = (row_order)lk_rng_below(&rng, N_ROW_ORDERS);
      shape.bias = lk_rng_below(&rng, 2);
      shape.partial_pages = lk_rng_below(&rng, 4) == 0;
      shape.tiny_values = lk_rng_below(&rng, 4) == 0;
      check_shape(ck, s, &shape, &rng);
      check_wide_shape(ck, s, &shape, &rng);
    }
}

/* Every number of keys of a page, for the remainders of each loop over keys. */
static void check_key_counts(checkkern *ck, const subject *s) {
  lk_rng rng = {ck->seed};
  for (uint32_t n = 1; n <= LK_PAGE_TOKENS; n++) {
    const problem_shape shape = {.type = s->variant->type,
                                 .n_q = 3,
                                 .head_dim = 34,
                                 .n_kept = 17,
                                 .n_pages = 1,
                                 .order = ROWS_LAST};
    problem p;
    make_problem(&p, &shape, n % 2, &rng);
    for (size_t key = 0; key < LK_PAGE_TOKENS; key++) {
      float k[36] = {0}, v[34];
      for (size_t c = 0; c < 34; c++) k[c] = uniform(&rng, 1), v[c] = value(&rng, 3);
      fill_key(&p, p.pages, key, key < n ? k : NULL, key < n ? v : NULL);
    }
    p.pages->n_keys = n;
    for (size_t r = 0; r < p.n_q; r++) p.q_pos[r] = p.pages->pos + LK_PAGE_TOKENS;
    result got = run(s->fn, p.type, &p.args, p.front);
    for (size_t r = 0; r < p.n_q; r++) compare_row(ck, s, &p, &got, r);
    free_result(&got);
    free_problem(&p);
  }
}

/* The exponential by itself: of two keys with the logits 0 and -t, and the values 0 and 1, the
 * output is e^-t. At most 4 units in the last place off, where probabilities stay fp32; 1 at 0, and
 * nothing left of it far down. */
static void check_exponential(checkkern *ck, const subject *s) {
  enum { N_ROWS = 16, N_CALLS = 400 };
  const float k[2][2] = {{0, 0}, {-1, 0}}, v[2][2] = {{0, 0}, {1, 1}};
  const problem_shape shape = {.type = s->variant->type,
                               .n_q = N_ROWS,
                               .head_dim = 2,
                               .n_kept = 2,
                               .n_pages = 1,
                               .order = ROWS_LAST,
                               .wide = true};
  lk_rng rng = {ck->seed};
  problem p;
  make_problem(&p, &shape, false, &rng);
  p.pages->n_keys = 2;
  for (size_t key = 0; key < 2; key++) fill_key(&p, p.pages, key, k[key], v[key]);
  for (size_t call = 0; call < N_CALLS; call++) {
    for (size_t r = 0; r < N_ROWS; r++) {
      const double widths[] = {0.01, 1, 20, 106};
      const double t = lk_rng_double(&rng) * widths[call % 4];
      p.q[2 * r] = call == 0 ? (float)r * 40 : lk_bf16_to_f32(lk_f32_to_bf16((float)t));
      p.q_pos[r] = INT64_MAX;
    }
    result got = run(s->fn, p.type, &p.args, false);
    for (size_t r = 0; r < N_ROWS; r++) {
      const double want = exp(-(double)p.q[2 * r]), o = (double)got.o[2 * r];
      const double unit = fmax(ldexp(1, ilogb(want) - 23), 0x1p-149);
      const double bound = rounding_of(s) & ROUNDS_BF16 ? want * 0x1.1p-8 + 0x1p-126 : 4 * unit;
      checkkern_expect(ck, fabs(o - want) <= bound && (want < 1 || o == 1), s->variant->name,
                       "exp(-%a) is %a, not %a", (double)p.q[2 * r], o, want);
    }
    free_result(&got);
  }
  free_problem(&p);
}

/* Magnitudes next to a power of two, on both sides, are where integers are largest: one key is
 * seen, so that its probability is 1 and its share of V is its scale. */
static void check_integer_edges(checkkern *ck, const subject *s) {
  static const float edges[] = {1, 0x1.fffffep-1f, 0x1.fffffcp-1f, 0x1.000002p+0f, 0x1.fffep-1f};
  const problem_shape shape = {.type = LEANK_KV_Q8,
                               .n_q = 4,
                               .head_dim = 34,
                               .n_kept = 34,
                               .n_pages = 1,
                               .order = ROWS_LAST,
                               .lean = true};
  lk_rng rng = {ck->seed};
  for (size_t i = 0; i < 25; i++) {
    problem p;
    make_problem(&p, &shape, i % 2, &rng);
    p.pages->n_keys = 1;
    for (size_t c = 0; c < 34; c++) {
      scales(p.pages->k, p.n_lean)[c] = 1;
      ((uint8_t *)p.pages->k)[lk_k_index(4, p.n_lean, 0, c)] = c % 2 ? 1 : 255;
      ((int8_t *)p.pages->v)[lk_q8_v_index(34, 0, c)] = c % 2 ? -127 : 127;
    }
    scales(p.pages->v, 34)[0] = edges[i % 5];
    for (size_t r = 0; r < p.n_q; r++) {
      for (size_t c = 0; c < 34; c++)
        p.q_lean[r * p.n_lean + c] = (c % 2 ? -edges[i / 5] : edges[i / 5]) / 64;
      p.q_pos[r] = p.pages->pos;
    }
    result got = run(s->fn, LEANK_KV_Q8, &p.args, p.front);
    for (size_t r = 0; r < p.n_q; r++) compare_row(ck, s, &p, &got, r);
    free_result(&got);
    free_problem(&p);
  }
}

static void check_fn(checkkern *ck, const lk_attend_variant *v, lk_attend_fn fn, bool rows) {
  const subject s = {v, fn, rows};
  check_subject(ck, &s);
  check_key_counts(ck, &s);
  check_exponential(ck, &s);
  if (v->type == LEANK_KV_Q8) check_integer_edges(ck, &s);
}

/* Tile instructions are there on few processors: their kernel is checked in software too. */
static void check_tiles_in_software(checkkern *ck) {
#if defined(__x86_64__)
  static const lk_attend_variant v = {
      .name = "attend_bf16_amx_model", .type = LEANK_KV_BF16, .level = LEANK_CPU_AVX512BF16};
  if (checkkern_wants(ck, v.name, v.level)) check_fn(ck, &v, attend_rows_bf16_amx_model, true);
#else
  (void)ck;
#endif
}

static void check_merge_edges(checkkern *ck) {
  const float m[] = {-INFINITY, 2, -INFINITY, 2}, l[] = {NAN, 1, NAN, 3};
  const float o[] = {NAN, NAN, 1, 2, NAN, NAN, 7, 6};
  float out[2] = {NAN, NAN};
  lk_attend_merge(4, m, l, 1, o, 2, 2, out);
  checkkern_expect(ck, out[0] == 2 && out[1] == 2, "attend_merge", "parts without keys: %g %g",
                   (double)out[0], (double)out[1]);
  lk_attend_merge(1, m, l, 1, o, 2, 2, out);
  checkkern_expect(ck, out[0] == 0 && out[1] == 0, "attend_merge", "no key at all: %g %g",
                   (double)out[0], (double)out[1]);
}

void check_attend(checkkern *ck) {
  for (const lk_attend_variant *v = lk_attend_variants; v->name; v++) {
    if (!checkkern_wants(ck, v->name, v->level)) continue;
    check_fn(ck, v, v->decode, false);
    check_fn(ck, v, v->rows, true);
    if (ck->bench) attend_bench(v);
  }
  check_tiles_in_software(ck);
  check_merge_edges(ck);
  for (size_t l = 0; l < ck->n_levels; l++) {
    const leank_cpu_level level = ck->levels[l];
    for (int type = 0; type <= LEANK_KV_Q8; type++) {
      const lk_attend_variant *v = lk_attend_select((leank_kv_type)type, level);
      checkkern_expect(ck, v && (int)v->type == type && (!level || v->level <= level),
                       "attend_select", "type %d at level %d", type, (int)level);
    }
  }
}
