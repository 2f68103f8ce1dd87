/* Op "attend" of kv type q8: the list of pages is cut into runs of one kind. Wide runs are bf16 and
 * go to the kernel for that; lean runs go to a kernel of int8, or are widened, a few pages at a
 * time, for one of bf16 or fp32. Each gives a partial, and partials are folded in the order of the
 * list. Cuts depend on the pages in front of them alone, and what a row does not see leaves its
 * sums untouched: so its bits depend on the pages it sees. */
#ifndef LK_KERNELS_ATTEND_Q8_RUNS_H
#define LK_KERNELS_ATTEND_Q8_RUNS_H

#include <math.h>

#include "kernels/attention/attend_q8_scratch.h"
#include "kernels/attention/attend_q8_unpack.h"

typedef struct q8_kernels {
  lk_attend_fn wide; /* pages of bf16 */
  lk_attend_fn lean; /* pages of int8, or of `unpacked` where that is not q8 */
  leank_kv_type unpacked;
} q8_kernels;

/* a += b, partials of one row. */
static inline void q8_fold_row(size_t head_dim, float *m, float *l, float *o, float m_b, float l_b,
                               const float *o_b) {
  const float top = *m > m_b ? *m : m_b;
  if (m_b == -INFINITY) return;
  const float a = *m == -INFINITY ? 0.0f : expf(*m - top), b = expf(m_b - top);
  *m = top;
  *l = __builtin_fmaf(l_b, b, *l * a);
  for (size_t c = 0; c < head_dim; c++) o[c] = __builtin_fmaf(o_b[c], b, o[c] * a);
}

/* Runs a kernel over one run. The first run's partial is the result so far; later ones are folded
 * into it. */
static inline void q8_run(lk_attend_fn fn, const lk_attend_args *args, lk_attend_args *part,
                          const lk_q8_scratch *s, bool is_first) {
  part->m = is_first ? args->m : s->m;
  part->l = is_first ? args->l : s->l;
  part->o = is_first ? args->o : s->o;
  part->scratch = s->of_others;
  fn(part);
  for (size_t r = 0; !is_first && r < args->n_q; r++)
    q8_fold_row(args->head_dim, args->m + r, args->l + r, args->o + r * args->head_dim, s->m[r],
                s->l[r], s->o + r * args->head_dim);
}

/* Views of widened copies of up to the number of pages that fit; returns how many. */
static inline size_t q8_unpack(const lk_attend_args *args, const lk_page_view *pages, size_t n,
                               leank_kv_type type, char *to, lk_page_view *out) {
  const size_t most = type == LEANK_KV_F32 ? LK_Q8_UNPACKED_PAGES / 2 : LK_Q8_UNPACKED_PAGES;
  if (n > most) n = most;
  for (size_t i = 0; i < n; i++) {
    void *k = to, *v = to + lk_page_k_bytes(type, true, args->n_lean);
    to = (char *)v + lk_page_v_bytes(type, true, args->head_dim);
    if (type == LEANK_KV_F32) {
      q8_unpack_k_f32(pages[i].k, args->n_lean, k);
      q8_unpack_v_f32(pages[i].v, args->head_dim, v);
    } else {
      q8_unpack_k_bf16(pages[i].k, args->n_lean, k);
      q8_unpack_v_bf16(pages[i].v, args->head_dim, v);
    }
    out[i] = pages[i];
    out[i].k = k;
    out[i].v = v;
  }
  return n;
}

/* Pages of one kind from `first` on. */
static inline size_t q8_run_length(const lk_attend_args *args, size_t first) {
  size_t n = 1;
  while (first + n < args->n_pages && args->pages[first + n].lean == args->pages[first].lean) n++;
  return n;
}

/* What to fetch during a run that ends before page `next`: that one's K, else as the caller says.
 */
static inline void q8_name_next(const lk_attend_args *args, size_t next, lk_attend_args *part) {
  if (next >= args->n_pages) return;
  const lk_page_view *page = args->pages + next;
  part->ahead = page->k;
  part->ahead_bytes =
      lk_page_k_bytes(LEANK_KV_Q8, page->lean, page->lean ? args->n_lean : args->head_dim);
}

static inline void q8_attend(const lk_attend_args *args, const q8_kernels *kernels) {
  const lk_q8_scratch s = lk_q8_divide_scratch(args->scratch, args->n_q, args->head_dim);
  lk_page_view copies[LK_Q8_UNPACKED_PAGES];
  for (size_t r = 0; args->n_pages == 0 && r < args->n_q; r++) {
    args->m[r] = -INFINITY;
    args->l[r] = 0;
  }
  if (args->n_pages == 0) memset(args->o, 0, args->n_q * args->head_dim * sizeof(float));
  for (size_t at = 0, n; at < args->n_pages; at += n) {
    const bool lean = args->pages[at].lean, widened = lean && kernels->unpacked != LEANK_KV_Q8;
    lk_attend_args part = *args;
    n = q8_run_length(args, at);
    part.pages = args->pages + at;
    if (widened) {
      n = q8_unpack(args, part.pages, n, kernels->unpacked, s.unpacked, copies);
      part.pages = copies;
    }
    part.n_pages = n;
    q8_name_next(args, at + n, &part);
    q8_run(lean ? kernels->lean : kernels->wide, args, &part, &s, at == 0);
  }
}

#endif
