/* Tile registers in software, after the pseudo-code of the Intel SDM, volume 2 (LDTILECFG,
 * TILELOADD, TILESTORED, TILEZERO, TDPBF16PS), for the kernel that is included below. What the
 * processor would refuse ends the program: a configuration of another palette or out of alignment,
 * shapes that do not fit each other, tiles without a configuration. */
#if defined(__x86_64__)

#include "attend_amx_model.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/dtype.h"
#include "kernels/attention/attend_vec_pairs.h"

/* Of palette 1. */
enum { N_TILES = 8, MAX_ROWS = 16, MAX_ROW_BYTES = 64 };

typedef struct model_tile {
  unsigned n_rows, row_bytes;
  union {
    unsigned char bytes[MAX_ROW_BYTES];
    float f32[MAX_ROW_BYTES / 4];
    uint16_t bf16[MAX_ROW_BYTES / 2];
  } rows[MAX_ROWS];
} model_tile;

static _Thread_local struct {
  bool configured;
  model_tile tiles[N_TILES];
} state;

static void require(bool ok, const char *what) {
  if (ok) return;
  fprintf(stderr, "attend_amx_model: %s\n", what);
  abort();
}

/* ---- the configuration ---- */

static void tmul_configure(const void *config) {
  const unsigned char *c = config;
  require((uintptr_t)config % 64 == 0, "a configuration that is not 64-byte aligned");
  require(c[0] == 1 && c[1] == 0, "a palette or start row that is not there");
  for (size_t i = 2; i < 16; i++) require(c[i] == 0, "reserved bytes that are not 0");
  memset(&state, 0, sizeof state);
  for (size_t i = 0; i < 16; i++) {
    const unsigned row_bytes = c[16 + 2 * i] | (unsigned)c[17 + 2 * i] << 8, n_rows = c[48 + i];
    require(row_bytes <= MAX_ROW_BYTES && n_rows <= MAX_ROWS, "a tile larger than the palette's");
    require((row_bytes == 0) == (n_rows == 0), "a tile with rows or bytes alone");
    require(i < N_TILES || row_bytes == 0, "a tile that is not there");
    if (i < N_TILES) state.tiles[i].row_bytes = row_bytes, state.tiles[i].n_rows = n_rows;
  }
  state.configured = true;
}

static void tmul_release(void) { memset(&state, 0, sizeof state); }

static model_tile *tile_at(unsigned i) {
  require(state.configured && state.tiles[i].n_rows > 0, "a tile without a configuration");
  return &state.tiles[i];
}

/* ---- moves ---- */

static void tmul_zero(unsigned tile) { memset(tile_at(tile)->rows, 0, sizeof state.tiles->rows); }

static void tmul_load(unsigned tile, const void *p, size_t stride) {
  tmul_zero(tile);
  model_tile *t = tile_at(tile);
  for (size_t i = 0; i < t->n_rows; i++)
    memcpy(t->rows[i].bytes, (const char *)p + i * stride, t->row_bytes);
}

static void tmul_store(unsigned tile, void *p, size_t stride) {
  const model_tile *t = tile_at(tile);
  for (size_t i = 0; i < t->n_rows; i++)
    memcpy((char *)p + i * stride, t->rows[i].bytes, t->row_bytes);
}

/* ---- the product ---- */

/* One row of c. Out of line, so that nothing of it leaves the caller's rounding mode. */
static __attribute__((noinline)) void multiply_row(float *c, const uint16_t *a,
                                                   const model_tile *b) {
  vf even = v_zero(), odd = v_zero();
  for (size_t k = 0; k < b->n_rows; k++) {
    const vf x = v_load(b->rows[k].bytes);
    even = v_fma(v_set1(lk_bf16_to_f32(a[2 * k])), v_even(x), even);
    odd = v_fma(v_set1(lk_bf16_to_f32(a[2 * k + 1])), v_odd(x), odd);
  }
  v_store(c, v_add(v_load(c), v_add(even, odd)));
}

/* Denormals are 0 on both sides, rounding is to nearest even, nothing traps. */
static void tmul_dot(unsigned c, unsigned a, unsigned b) {
  model_tile *tc = tile_at(c);
  const model_tile *ta = tile_at(a), *tb = tile_at(b);
  require(c != a && c != b && a != b, "a tile used twice in a product");
  require(ta->row_bytes % 4 == 0 && tb->row_bytes % 4 == 0 && tc->row_bytes % 4 == 0 &&
              tc->n_rows == ta->n_rows && tc->row_bytes == tb->row_bytes &&
              ta->row_bytes / 4 == tb->n_rows,
          "shapes that do not fit each other");
  const unsigned mode = _mm_getcsr();
  _mm_setcsr(_MM_MASK_MASK | _MM_FLUSH_ZERO_ON | _MM_DENORMALS_ZERO_ON);
  for (size_t m = 0; m < tc->n_rows; m++) multiply_row(tc->rows[m].f32, ta->rows[m].bf16, tb);
  _mm_setcsr(mode);
}

#define TMUL_CONFIGURE(config) tmul_configure(config)
#define TMUL_RELEASE() tmul_release()
#define TMUL_ZERO(tile) tmul_zero(tile)
#define TMUL_LOAD(tile, p, stride) tmul_load(tile, p, stride)
#define TMUL_STORE(tile, p, stride) tmul_store(tile, p, stride)
#define TMUL_DOT(c, a, b) tmul_dot(c, a, b)
#include "kernels/attention/attend_tmul_impl.h"

void attend_rows_bf16_amx_model(const lk_attend_args *args) {
  attend_rows(args);
  require(!state.configured, "tiles not released");
}

#endif
