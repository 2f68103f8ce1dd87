/* Reference: pieces of a weight row are widened once, then meet every activation row. */
#include "kernels/dequant/dequant.h"
#include "kernels/matvec/matvec_kernels.h"

enum { PIECE = 256, LANES = 16 }; /* a piece is a whole number of blocks of any type */

/* Lane i of LANES sums elements i, i + LANES, ...: a fixed order that compilers vectorise. */
static void add_products(const float *w, const float *x, size_t n, float *lanes) {
  size_t i = 0;
  for (; i + LANES <= n; i += LANES)
    for (size_t j = 0; j < LANES; j++) lanes[j] += w[i + j] * x[i + j];
  for (size_t j = 0; i + j < n; j++) lanes[j] += w[i + j] * x[i + j];
}

static void matvec(lk_dtype type, const void *w, size_t n_out, size_t n_in, const void *rows,
                   size_t x_bytes, size_t n_rows, float *y, size_t ldy) {
  const float *x = rows;
  const size_t ldx = x_bytes / sizeof *x;
  const lk_to_f32_fn widen = lk_dequant_select(type, LEANK_CPU_C)->to_f32;
  const size_t row_bytes = lk_dtype_bytes(type, n_in);
  const unsigned char *row = w;
  for (size_t o = 0; o < n_out; o++, row += row_bytes) {
    float lanes[LK_MATVEC_MAX_ROWS][LANES] = {{0}};
    for (size_t i = 0; i < n_in; i += PIECE) {
      float piece[PIECE];
      const size_t n = n_in - i < PIECE ? n_in - i : PIECE;
      widen(row + lk_dtype_bytes(type, i), n, piece);
      for (size_t r = 0; r < n_rows; r++) add_products(piece, x + r * ldx + i, n, lanes[r]);
    }
    for (size_t r = 0; r < n_rows; r++) {
      float sum = 0;
      for (size_t j = 0; j < LANES; j++) sum += lanes[r][j];
      y[r * ldy + o] = sum;
    }
  }
}

#define LK_EACH_X(TYPE, name)                                                                      \
  void lk_matvec_##name##_c(const void *w, size_t n_out, size_t n_in, const void *x,               \
                            size_t x_bytes, size_t n_rows, float *y, size_t ldy) {                 \
    matvec(LK_##TYPE, w, n_out, n_in, x, x_bytes, n_rows, y, ldy);                                 \
  }
LK_EACH_DTYPE
