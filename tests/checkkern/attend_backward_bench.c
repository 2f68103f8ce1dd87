#include "attend_backward_bench.h"

#include <stdio.h>

#include "base/alloc.h"
#include "base/rng.h"
#include "checkkern.h"
#include "kernels/page/page.h"

enum { D = 128, MAX_ROWS = 576, N_PAGES = 8, PAGE_ELEMENTS = LK_PAGE_TOKENS * D };

typedef struct bench {
  lk_attend_backward_fn fn;
  lk_attend_backward_args args;
} bench;

static void call(void *ctx) {
  bench *b = ctx;
  b->fn(&b->args);
}

static float *random_floats(size_t n, double scale) {
  lk_rng rng = {n};
  float *x = lk_alloc(LK_MEM_OTHER, n * sizeof *x, 1);
  for (size_t i = 0; x && i < n; i++) x[i] = (float)((lk_rng_double(&rng) * 2 - 1) * scale);
  return x;
}

/* The page's elements do not matter to speed as long as they are ordinary numbers: fp32 of
 * magnitude 1 whose halves are ordinary bf16 too. */
static uint32_t *random_page_words(void) {
  lk_rng rng = {1};
  uint32_t *x = lk_alloc(LK_MEM_OTHER, 2 * N_PAGES * PAGE_ELEMENTS, sizeof *x);
  for (size_t i = 0; x && i < 2 * N_PAGES * PAGE_ELEMENTS; i++)
    x[i] = ((uint32_t)lk_rng_u64(&rng) & 0x807f807fu) | 0x3e803e80u;
  return x;
}

/* GFLOP/s: three products (logits, dout V^T, dq), or five with dk and dv. */
static void bench_rows(bench *b, const char *name, size_t n_rows, float *const *dk,
                       float *const *dv) {
  b->args.n_q = n_rows;
  b->args.dk = dk;
  b->args.dv = dv;
  const double flop = (dk ? 10.0 : 6.0) * (double)n_rows * N_PAGES * PAGE_ELEMENTS;
  printf(" %s %.1f", name, flop / checkkern_time(call, b) * 1e-9);
}

static void bench_all(bench *b, const lk_attend_backward_variant *v, float *const *out) {
  static const size_t counts[] = {30, 64, 192, 576};
  b->fn = v->fn;
  for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
    printf("%-28s D %d, %3zu rows, GFLOP/s:", v->name, D, counts[i]);
    bench_rows(b, "dq", counts[i], NULL, NULL);
    bench_rows(b, "with dk and dv", counts[i], out, out);
    printf("\n");
  }
}

void attend_backward_bench(const lk_attend_backward_variant *variant) {
  static float zero[MAX_ROWS], lse[MAX_ROWS];
  static int64_t q_pos[MAX_ROWS];
  float *q = random_floats((size_t)MAX_ROWS * D, 0.01), *dq = random_floats(MAX_ROWS * D, 1);
  float *dkv = random_floats(N_PAGES * PAGE_ELEMENTS, 1);
  uint32_t *words = random_page_words();
  void *scratch = lk_alloc(LK_MEM_OTHER, lk_attend_backward_scratch_bytes(MAX_ROWS, D), 1);
  lk_page_view pages[N_PAGES];
  float *out[N_PAGES];
  for (size_t i = 0; i < MAX_ROWS; i++) q_pos[i] = INT64_MAX, lse[i] = 6;
  for (size_t i = 0; i < N_PAGES && words && dkv; i++) {
    pages[i] = (lk_page_view){words + 2 * i * PAGE_ELEMENTS, words + (2 * i + 1) * PAGE_ELEMENTS,
                              (int64_t)i * LK_PAGE_TOKENS, LK_PAGE_TOKENS, 0};
    out[i] = dkv + i * PAGE_ELEMENTS;
  }
  bench b = {.args = {.head_dim = D,
                      .q = q,
                      .q_pos = q_pos,
                      .pages = pages,
                      .n_pages = N_PAGES,
                      .lse = lse,
                      .dout = q,
                      .delta = zero,
                      .dq = dq,
                      .scratch = scratch}};
  if (q && dq && dkv && words && scratch)
    bench_all(&b, variant, out);
  else
    printf("%-28s no memory for its bench\n", variant->name);
  lk_free(q);
  lk_free(dq);
  lk_free(dkv);
  lk_free(words);
  lk_free(scratch);
}
