#include "attend_bench.h"

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/rng.h"
#include "checkkern.h"
#include "kernels/page/page.h"

enum { D = 128, N_HEADS = 8, SEQ_PAGES = 512, CHUNK_PAGES = 4, MAX_ROWS = 256, ROWS_PAGES = 32 };
static const size_t ARENA_BYTES = (size_t)1 << 30;

typedef struct bench {
  lk_attend_fn fn;
  char *arena;
  size_t n_pages_all; /* pages of N_HEADS segments in the arena */
  size_t k_bytes, segment_bytes;
  bool lean;
  lk_attend_args args;
  uint64_t sum;
} bench;

static lk_page_view view(const bench *b, size_t page, size_t head, int64_t pos) {
  const char *segment = b->arena + (page * N_HEADS + head) * b->segment_bytes;
  return (lk_page_view){segment, segment + b->k_bytes, pos, LK_PAGE_TOKENS, b->lean};
}

/* Each head's run of SEQ_PAGES pages chunk by chunk, as one step of decoding meets them. */
static void decode_all(void *ctx) {
  bench *b = ctx;
  lk_page_view pages[CHUNK_PAGES];
  b->args.pages = pages;
  b->args.n_pages = CHUNK_PAGES;
  for (size_t first = 0; first + SEQ_PAGES <= b->n_pages_all; first += SEQ_PAGES)
    for (size_t head = 0; head < N_HEADS; head++)
      for (size_t i = 0; i < SEQ_PAGES; i += CHUNK_PAGES) {
        for (size_t j = 0; j < CHUNK_PAGES; j++)
          pages[j] = view(b, first + i + j, head, (int64_t)(i + j) * LK_PAGE_TOKENS);
        const size_t next = i + CHUNK_PAGES < SEQ_PAGES ? first + i + CHUNK_PAGES : first;
        const size_t next_head = next == first ? (head + 1) % N_HEADS : head;
        b->args.ahead = view(b, next, next_head, 0).k;
        b->args.ahead_bytes = b->segment_bytes;
        b->fn(&b->args);
      }
}

static size_t decode_bytes(const bench *b) {
  return b->n_pages_all / SEQ_PAGES * SEQ_PAGES * N_HEADS * b->segment_bytes;
}

static void read_all(void *ctx) {
  bench *b = ctx;
  const uint64_t *x = (const uint64_t *)(const void *)b->arena;
  uint64_t sum[8] = {0};
  for (size_t i = 0; i < decode_bytes(b) / 8; i += 8)
    for (size_t j = 0; j < 8; j++) sum[j] += x[i + j];
  for (size_t j = 0; j < 8; j++) b->sum += sum[j];
}

static void rows_all(void *ctx) {
  bench *b = ctx;
  lk_page_view pages[ROWS_PAGES];
  for (size_t i = 0; i < ROWS_PAGES; i++) pages[i] = view(b, i, 0, (int64_t)i * LK_PAGE_TOKENS);
  b->args.pages = pages;
  b->args.n_pages = ROWS_PAGES;
  b->fn(&b->args);
}

static void set_layout(bench *b, leank_kv_type type, size_t n_kept) {
  b->lean = n_kept < D || type == LEANK_KV_Q8;
  b->args.n_lean = n_kept;
  b->k_bytes = lk_page_k_bytes(type, b->lean, n_kept);
  b->segment_bytes = b->k_bytes + lk_page_v_bytes(type, b->lean, D);
  b->n_pages_all = ARENA_BYTES / (N_HEADS * b->segment_bytes);
}

static void fill_arena(char *arena, leank_kv_type type) {
  lk_rng rng = {1};
  for (size_t i = 0; i < ARENA_BYTES / 8; i++) {
    const uint64_t random = lk_rng_u64(&rng);
    /* exponents near 0 whatever the mantissa; scales of int8 are positive */
    const uint64_t x = type == LEANK_KV_F32  ? (random & 0x807fffff807fffffu) | 0x3e8000003e800000u
                       : type == LEANK_KV_Q8 ? (random & 0x007fffff007fffffu) | 0x3e8000003e800000u
                                             : (random & 0x807f807f807f807fu) | 0x3e803e803e803e80u;
    memcpy(arena + i * 8, &x, 8);
  }
}

static void bench_decode(bench *b, const lk_attend_variant *v) {
  static const size_t kept[] = {128, 96, 64, 32};
  b->fn = v->decode;
  for (size_t i = 0; i < sizeof kept / sizeof *kept; i++) {
    set_layout(b, v->type, kept[i]);
    const double read = checkkern_time(read_all, b);
    printf("%-24s decode Dk %3zu:", v->name, kept[i]);
    for (size_t g = 1; g <= 8; g *= 2) {
      b->args.n_q = g;
      const double t = checkkern_time(decode_all, b);
      printf(" G %zu %.1f GB/s", g, (double)decode_bytes(b) / t * 1e-9);
    }
    printf(" (plain read %.1f)\n", (double)decode_bytes(b) / read * 1e-9);
  }
}

static void bench_rows(bench *b, const lk_attend_variant *v) {
  b->fn = v->rows;
  set_layout(b, v->type, D);
  for (size_t n = 16; n <= MAX_ROWS; n *= 4) {
    b->args.n_q = n;
    const double t = checkkern_time(rows_all, b);
    const double flop = 4.0 * D * (double)n * ROWS_PAGES * LK_PAGE_TOKENS;
    printf("%-24s rows, %3zu of them: %.1f GFLOP/s\n", v->name, n, flop / t * 1e-9);
  }
}

void attend_bench(const lk_attend_variant *variant) {
  static float q[MAX_ROWS * D], m[MAX_ROWS], l[MAX_ROWS], o[MAX_ROWS * D];
  static int64_t q_pos[MAX_ROWS];
  bench b = {.arena = lk_alloc(LK_MEM_OTHER, ARENA_BYTES, 1)};
  void *scratch = lk_alloc(LK_MEM_OTHER, lk_attend_scratch_bytes(variant->type, MAX_ROWS, D), 1);
  lk_rng rng = {2};
  for (size_t i = 0; i < MAX_ROWS * D; i++) q[i] = (float)(lk_rng_double(&rng) - 0.5);
  for (size_t i = 0; i < MAX_ROWS; i++) q_pos[i] = INT64_MAX;
  b.args = (lk_attend_args){.head_dim = D,
                            .q = q,
                            .q_lean = q,
                            .q_pos = q_pos,
                            .m = m,
                            .l = l,
                            .o = o,
                            .scratch = scratch};
  if (b.arena && scratch) {
    fill_arena(b.arena, variant->type);
    bench_decode(&b, variant);
    bench_rows(&b, variant);
  } else {
    printf("%-24s no memory for its bench\n", variant->name);
  }
  lk_free(b.arena);
  lk_free(scratch);
}
