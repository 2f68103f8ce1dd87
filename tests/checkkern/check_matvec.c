/* Op "matvec". The bound: with u = 2^-24 a product passes through at most n / 8 sums of one lane
 * (8 lanes are the fewest), 16 sums over lanes, and fewer than 8 roundings of its own, so that
 * |y - y64| <= u (n / 8 + 24) sum |x_i| (|scale q_i| + |offset|), first order. Prepared rows differ
 * from x by half a step, 1 / (2 * 16256) of the largest |x| of the block, and by the rounding of
 * the step itself and of its inverse (2 u each, of an x as large); what is added over groups are
 * magnitudes no larger than those of single elements, in a different order, with q as the unsigned
 * number it is stored as and the zero point apart. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "checkkern.h"
#include "dequant_f64.h"
#include "kernels/matvec/matvec.h"

enum { ROWS = LK_MATVEC_MAX_ROWS };

typedef struct matvec_case {
  size_t n_out, n_in, ldx, ldy;
  bool front;
  void *w;
  float *x, *y; /* [ROWS][ldx], [ROWS][ldy], the last rows without padding */
  char *rows;   /* [ROWS][row_bytes] as the variant wants them */
  size_t row_bytes, w_bytes, x_bytes, rows_bytes, y_bytes;
} matvec_case;

/* The rows in the variant's order; fp32 ones keep the padding between them. */
static void prepare(const lk_matvec_variant *v, matvec_case *c) {
  if (!v->prepare) {
    memcpy(c->rows, c->x, c->x_bytes);
    return;
  }
  for (size_t r = 0; r < ROWS; r++)
    v->prepare(c->x + r * c->ldx, c->n_in, c->rows + r * c->row_bytes);
}

static void case_open(matvec_case *c, const lk_matvec_variant *v, size_t n_out, size_t n_in,
                      bool front, lk_rng *rng) {
  const lk_dtype type = v->type;
  *c = (matvec_case){.n_out = n_out, .n_in = n_in, .front = front};
  c->ldx = n_in + lk_rng_below(rng, 3);
  c->ldy = n_out + lk_rng_below(rng, 3);
  c->w_bytes = n_out * lk_dtype_bytes(type, n_in);
  c->x_bytes = ((ROWS - 1) * c->ldx + n_in) * sizeof *c->x;
  c->y_bytes = ((ROWS - 1) * c->ldy + n_out) * sizeof *c->y;
  c->w = checkkern_guarded(c->w_bytes, front);
  c->x = checkkern_guarded(c->x_bytes, front);
  c->y = checkkern_guarded(c->y_bytes, front);
  c->row_bytes = v->prepare ? lk_matvec_row_bytes(v, n_in) : c->ldx * sizeof *c->x;
  c->rows_bytes = v->prepare ? ROWS * c->row_bytes : c->x_bytes;
  c->rows = checkkern_guarded(c->rows_bytes, front);
  dequant_f64_random(type, n_out * n_in, 1.0, rng, c->w);
  /* Padding between rows is NaN: to use it would show. */
  for (size_t i = 0; i < c->x_bytes / sizeof *c->x; i++)
    c->x[i] = i % c->ldx < n_in ? (float)(2 * lk_rng_double(rng) - 1) : NAN;
  prepare(v, c);
}

static void case_close(matvec_case *c) {
  checkkern_guarded_free(c->w, c->w_bytes, c->front);
  checkkern_guarded_free(c->x, c->x_bytes, c->front);
  checkkern_guarded_free(c->rows, c->rows_bytes, c->front);
  checkkern_guarded_free(c->y, c->y_bytes, c->front);
}

/* What preparing may change x[i] by. */
static double step_error(const lk_matvec_variant *v, const float *x, size_t i) {
  if (!v->prepare) return 0;
  const size_t block = lk_dtype_block_elements(v->type), first = i / block * block;
  double most = 0;
  for (size_t k = first; k < first + block; k++)
    if (fabs((double)x[k]) > most) most = fabs((double)x[k]);
  return most < 0x1p-100 ? most : most * (0.5 / 16256 + 4 * 0x1p-24);
}

static void check_bound(checkkern *ck, const lk_matvec_variant *v, const matvec_case *c) {
  const size_t row_bytes = lk_dtype_bytes(v->type, c->n_in);
  for (size_t o = 0; o < c->n_out; o++) {
    double sum[ROWS] = {0}, magnitude[ROWS] = {0}, prepared[ROWS] = {0};
    for (size_t i = 0; i < c->n_in; i++) {
      const dequant_f64 w = dequant_f64_element(v->type, (char *)c->w + o * row_bytes, i);
      for (size_t r = 0; r < ROWS; r++) {
        const double x = (double)c->x[r * c->ldx + i];
        sum[r] += w.value * x;
        magnitude[r] += (v->prepare ? w.shifted : w.magnitude) * fabs(x);
        prepared[r] += w.magnitude * step_error(v, c->x + r * c->ldx, i);
      }
    }
    for (size_t r = 0; r < ROWS; r++) {
      const double bound =
          prepared[r] + 0x1p-24 * ((double)c->n_in / 8 + 24) * (magnitude[r] + prepared[r]);
      const double y = (double)c->y[r * c->ldy + o];
      checkkern_expect(ck, fabs(y - sum[r]) <= bound, v->name,
                       "y[%zu][%zu] of %zu x %zu is %.9g, not %.9g +- %.3g", r, o, c->n_out,
                       c->n_in, y, sum[r], bound);
    }
  }
}

/* Any rows, any outputs, in calls of any size: the bits of the call with all of them. */
static void check_bits(checkkern *ck, const lk_matvec_variant *v, const matvec_case *c,
                       lk_rng *rng) {
  const size_t row_bytes = lk_dtype_bytes(v->type, c->n_in);
  for (size_t n_rows = 1; n_rows <= ROWS; n_rows++) {
    const size_t first = lk_rng_below(rng, ROWS - n_rows + 1);
    const size_t from = lk_rng_below(rng, c->n_out), n = 1 + lk_rng_below(rng, c->n_out - from);
    const size_t y_bytes = n_rows * n * sizeof(float);
    float *y = checkkern_guarded(y_bytes, c->front);
    v->fn((char *)c->w + from * row_bytes, n, c->n_in, c->rows + first * c->row_bytes, c->row_bytes,
          n_rows, y, n);
    for (size_t r = 0; r < n_rows; r++)
      checkkern_expect(ck, !memcmp(y + r * n, c->y + (first + r) * c->ldy + from, n * sizeof *y),
                       v->name, "row %zu, outputs %zu .. %zu in a call of %zu rows: other bits",
                       first + r, from, from + n - 1, n_rows);
    checkkern_guarded_free(y, y_bytes, c->front);
  }
}

static void check_shape(checkkern *ck, const lk_matvec_variant *v, size_t n_out, size_t n_in,
                        bool front, lk_rng *rng) {
  matvec_case c;
  case_open(&c, v, n_out, n_in, front, rng);
  v->fn(c.w, n_out, n_in, c.rows, c.row_bytes, ROWS, c.y, c.ldy);
  check_bound(ck, v, &c);
  if (n_out) check_bits(ck, v, &c, rng);
  case_close(&c);
}

/* x = unit vectors: y is the weight itself, so every position of a block counts. Prepared ones are
 * 1 to four roundings (the step, its inverse, scales, the product) and offsets to one more. */
static void check_unit_vectors(checkkern *ck, const lk_matvec_variant *v, size_t n_in,
                               lk_rng *rng) {
  matvec_case c;
  case_open(&c, v, 1, n_in, false, rng);
  for (size_t first = 0; first < n_in; first += ROWS) {
    const size_t n_rows = n_in - first < ROWS ? n_in - first : ROWS;
    memset(c.x, 0, c.x_bytes);
    for (size_t r = 0; r < n_rows; r++) c.x[r * c.ldx + first + r] = 1;
    prepare(v, &c);
    v->fn(c.w, 1, n_in, c.rows, c.row_bytes, n_rows, c.y, c.ldy);
    for (size_t r = 0; r < n_rows; r++) {
      const dequant_f64 element = dequant_f64_element(v->type, c.w, first + r);
      const float want = (float)element.value, y = c.y[r * c.ldy];
      const double bound = v->prepare ? 0x1p-24 * 6 * element.shifted : 0;
      checkkern_expect(ck, fabs((double)y - (double)want) <= bound, v->name,
                       "weight %zu of %zu is %a, not %a", first + r, n_in, (double)y, (double)want);
    }
  }
  case_close(&c);
}

/* Blocks of extreme activations: large and small side by side, all zero, denormal, not finite. */
static void check_extremes(checkkern *ck, const lk_matvec_variant *v, lk_rng *rng) {
  const size_t block = lk_dtype_block_elements(v->type), n_in = 5 * (block > 1 ? block : 64);
  static const float scales[] = {1e30f, 1e-28f, 0.0f, 1e-41f, 1.0f};
  matvec_case c;
  case_open(&c, v, 3, n_in, false, rng);
  for (size_t i = 0; i < n_in; i++) {
    for (size_t r = 0; r < ROWS; r++) c.x[r * c.ldx + i] *= scales[(r + i / (n_in / 5)) % 5];
  }
  prepare(v, &c);
  v->fn(c.w, 3, n_in, c.rows, c.row_bytes, ROWS, c.y, c.ldy);
  check_bound(ck, v, &c);
  for (size_t r = 0; r < ROWS; r++)
    c.x[r * c.ldx + lk_rng_below(rng, n_in)] = r % 2 ? NAN : INFINITY;
  prepare(v, &c);
  v->fn(c.w, 3, n_in, c.rows, c.row_bytes, ROWS, c.y, c.ldy);
  for (size_t r = 0; r < ROWS; r++)
    for (size_t o = 0; o < 3; o++)
      checkkern_expect(ck, !isfinite(c.y[r * c.ldy + o]), v->name,
                       "y[%zu][%zu] is finite where x is not", r, o);
  case_close(&c);
}

/* Each pair of sizes, the guard page behind or before; with --quick one in four of these, others
 * with every seed. */
static void check_variant(checkkern *ck, const lk_matvec_variant *v) {
  static const size_t outs[] = {0, 1, 2, 3, 4, 5, 17};
  static const size_t plain_sizes[] = {0, 1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 576, 897};
  static const size_t block_counts[] = {0, 1, 2, 3, 7, 8, 9};
  const size_t elements = lk_dtype_block_elements(v->type);
  const bool plain = elements == 1;
  const size_t *sizes = plain ? plain_sizes : block_counts;
  const size_t n_sizes =
      plain ? sizeof plain_sizes / sizeof *sizes : sizeof block_counts / sizeof *sizes;
  lk_rng rng = {ck->seed};
  for (size_t i = 0; i < n_sizes; i++)
    for (size_t k = 0; k < sizeof outs / sizeof *outs; k++)
      for (int front = 0; front < 2; front++)
        if (!ck->quick || lk_rng_below(&rng, 4) == 0)
          check_shape(ck, v, outs[k], sizes[i] * elements, front, &rng);
  check_unit_vectors(ck, v, plain ? 77 : 5 * elements, &rng);
  check_extremes(ck, v, &rng);
}

/* ---- speed: weights in the second-level cache, and in memory (more than a large cache) ---- */

enum { BENCH_IN = 2048, SMALL_BYTES = 256 << 10, LARGE_BYTES = 256 << 20 };
typedef struct bench {
  const lk_matvec_variant *v;
  void *w;
  size_t n_out, n_rows, row_bytes;
  char *x; /* [ROWS][row_bytes] */
  float *y;
} bench;

static void bench_call(void *ctx) {
  bench *b = ctx;
  b->v->fn(b->w, b->n_out, BENCH_IN, b->x, b->row_bytes, b->n_rows, b->y, b->n_out);
}

static double bench_gb(bench *b, size_t w_bytes, size_t n_rows) {
  const size_t row_bytes = lk_dtype_bytes(b->v->type, BENCH_IN);
  b->n_out = w_bytes / row_bytes;
  b->n_rows = n_rows;
  return (double)(b->n_out * row_bytes) / checkkern_time(bench_call, b) * 1e-9;
}

static void bench_variant(const lk_matvec_variant *v) {
  const size_t row_bytes = lk_dtype_bytes(v->type, BENCH_IN), max_out = LARGE_BYTES / row_bytes;
  bench b = {.v = v, .w = lk_alloc(LK_MEM_OTHER, LARGE_BYTES, 1)};
  b.row_bytes = lk_matvec_row_bytes(v, BENCH_IN);
  b.x = lk_alloc(LK_MEM_OTHER, ROWS, b.row_bytes);
  b.y = lk_alloc(LK_MEM_OTHER, ROWS * max_out, sizeof *b.y);
  if (!b.w || !b.x || !b.y) exit(2);
  lk_rng rng = {1};
  dequant_f64_random(v->type, BENCH_IN, 1.0, &rng, b.w);
  for (size_t o = 1; o < max_out; o++) memcpy((char *)b.w + o * row_bytes, b.w, row_bytes);
  for (size_t r = 0; r < ROWS; r++) {
    float x[BENCH_IN];
    for (size_t i = 0; i < BENCH_IN; i++) x[i] = (float)lk_rng_double(&rng) - 0.5f;
    if (v->prepare)
      v->prepare(x, BENCH_IN, b.x + r * b.row_bytes);
    else
      memcpy(b.x + r * b.row_bytes, x, sizeof x);
  }
  printf(
      "%-30s GB/s of weights, in cache: 1 row %6.2f, 2 %6.2f, 4 %6.2f, 8 %6.2f; in memory: 1 row "
      "%6.2f\n",
      v->name, bench_gb(&b, SMALL_BYTES, 1), bench_gb(&b, SMALL_BYTES, 2),
      bench_gb(&b, SMALL_BYTES, 4), bench_gb(&b, SMALL_BYTES, 8), bench_gb(&b, LARGE_BYTES, 1));
  lk_free(b.w);
  lk_free(b.x);
  lk_free(b.y);
}

void check_matvec(checkkern *ck) {
  for (const lk_matvec_variant *v = lk_matvec_variants; v->name; v++) {
    if (!checkkern_wants(ck, v->name, v->level)) continue;
    check_variant(ck, v);
    if (ck->bench) bench_variant(v);
  }
  for (int type = 0; type < LK_N_DTYPES; type++)
    for (size_t l = 0; l < ck->n_levels; l++)
      for (int fp32 = 0; fp32 < 2; fp32++) {
        const leank_cpu_level level = ck->levels[l];
        const lk_matvec_variant *v = lk_matvec_select((lk_dtype)type, level, fp32);
        checkkern_expect(ck,
                         v && v->type == (lk_dtype)type && (!level || v->level <= level) &&
                             !(fp32 && v->prepare),
                         "matvec_select", "type %d at level %d", type, (int)level);
      }
}
