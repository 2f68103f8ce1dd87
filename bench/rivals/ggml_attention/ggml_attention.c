/* Times decode attention of ggml's CPU backend: one token, a dense cache, as llama.cpp lays it out.
 *
 *   ggml_attention [--heads 32,8,128] [--lengths 32768] [--types f16,bf16,q8_0,q4_0] [--threads 2]
 *                  [--repeats 5] [--rotate-mib 2048]
 *
 * Paths: "flash", the fused operation; "mul_mat", products and a softmax, with V stored transposed
 * as llama.cpp has it without flash attention (which it does not do with a quantised V). Copies of
 * the cache are read in turns, so that as many MiB as said are read before anything is read again;
 * what lies between the products stays where it is, as in llama.cpp's compute buffer. One JSON line
 * for each length, type and path, with the keys of `leank bench attention --json`. */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ggml-cpu.h"
#include "ggml.h"

enum { MAX_ITEMS = 16 };

typedef struct settings {
  int64_t n_heads, n_kv_heads, head_dim;
  int64_t lengths[MAX_ITEMS];
  size_t n_lengths;
  enum ggml_type types[MAX_ITEMS];
  size_t n_types;
  int n_threads, n_repeats;
  size_t rotate_bytes;
} settings;

/* Caches of one length and type; copy i is at data + i * stride, K and then V. */
typedef struct caches {
  unsigned char *data;
  size_t k_bytes, stride, n_copies;
} caches;

static double seconds_now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void fail(const char *what) {
  fprintf(stderr, "ggml_attention: %s\n", what);
  exit(1);
}

static void *must_alloc(size_t n_bytes) {
  void *p = NULL;
  /* As ggml's CPU buffers are aligned. */
  if (posix_memalign(&p, 64, (n_bytes + 63) / 64 * 64) != 0) fail("out of memory");
  return p;
}

/* ---- data ---- */

/* Uniform of variance 1. */
static float random_value(uint64_t *state) {
  *state = *state * 6364136223846793005u + 1442695040888963407u;
  return ((float)(*state >> 40) * 0x1p-24f - 0.5f) * 3.4641016f;
}

/* n rows of n_cols random elements. */
static void fill_rows(enum ggml_type type, unsigned char *out, int64_t n, int64_t n_cols,
                      uint64_t *state) {
  float *row = must_alloc((size_t)n_cols * sizeof *row);
  const size_t row_bytes = ggml_row_size(type, n_cols);
  for (int64_t r = 0; r < n; r++) {
    for (int64_t i = 0; i < n_cols; i++) row[i] = random_value(state);
    if (type == GGML_TYPE_F32)
      memcpy(out + (size_t)r * row_bytes, row, row_bytes);
    else
      ggml_quantize_chunk(type, row, out + (size_t)r * row_bytes, 0, 1, n_cols, NULL);
  }
  free(row);
}

static caches make_caches(const settings *s, int64_t length, enum ggml_type type) {
  const int64_t n_cols = s->n_kv_heads * s->head_dim;
  caches c = {.k_bytes = (size_t)length * ggml_row_size(type, n_cols)};
  uint64_t state = 1;
  c.stride = (2 * c.k_bytes + 63) / 64 * 64;
  c.n_copies = s->rotate_bytes / c.stride + 1;
  c.data = must_alloc(c.n_copies * c.stride);
  fill_rows(type, c.data, 2 * length, n_cols, &state);
  for (size_t i = 1; i < c.n_copies; i++) memcpy(c.data + i * c.stride, c.data, c.stride);
  return c;
}

/* ---- graphs ---- */

typedef struct attention {
  struct ggml_context *ctx;
  struct ggml_tensor *k, *v; /* their data change from one copy to the next */
  struct ggml_cgraph *graph;
  struct ggml_cplan plan;
} attention;

/* Three dimensions with strides between rows and heads, data to be set. */
static struct ggml_tensor *strided(struct ggml_context *ctx, enum ggml_type type, int64_t n0,
                                   int64_t n1, int64_t n2, size_t nb1, size_t nb2) {
  ggml_set_no_alloc(ctx, true);
  struct ggml_tensor *t = ggml_new_tensor_3d(ctx, type, n0, n1, n2);
  ggml_set_no_alloc(ctx, false);
  t->nb[1] = nb1;
  t->nb[2] = nb2;
  t->nb[3] = (nb1 > nb2 ? nb1 * (size_t)n1 : nb2 * (size_t)n2);
  return t;
}

static struct ggml_tensor *flash(attention *a, const settings *s, struct ggml_tensor *q,
                                 int64_t length, float scale) {
  struct ggml_tensor *mask = ggml_new_tensor_2d(a->ctx, GGML_TYPE_F16, length, 1);
  const size_t row = ggml_row_size(a->k->type, s->n_kv_heads * s->head_dim);
  const size_t head = ggml_row_size(a->k->type, s->head_dim);
  memset(mask->data, 0, ggml_nbytes(mask));
  a->v = strided(a->ctx, a->k->type, s->head_dim, length, s->n_kv_heads, row, head);
  struct ggml_tensor *out = ggml_flash_attn_ext(a->ctx, q, a->k, a->v, mask, scale, 0, 0);
  ggml_prec_set_acc(out, GGML_PREC_F32);
  return out;
}

static struct ggml_tensor *mul_mat(attention *a, const settings *s, struct ggml_tensor *q,
                                   int64_t length, float scale) {
  struct ggml_tensor *mask = ggml_new_tensor_2d(a->ctx, GGML_TYPE_F32, length, 1);
  const size_t row = ggml_row_size(a->k->type, length);
  memset(mask->data, 0, ggml_nbytes(mask));
  a->v = strided(a->ctx, a->k->type, length, s->head_dim, s->n_kv_heads, row,
                 row * (size_t)s->head_dim);
  struct ggml_tensor *kq = ggml_mul_mat(a->ctx, a->k, q);
  ggml_prec_set_acc(kq, GGML_PREC_F32);
  kq = ggml_soft_max_ext_inplace(a->ctx, kq, mask, scale, 0);
  return ggml_mul_mat(a->ctx, a->v, kq);
}

static attention make_attention(const settings *s, int64_t length, enum ggml_type type,
                                bool with_flash, struct ggml_threadpool *pool) {
  /* Queries, mask, logits of all heads, result. */
  const size_t floats = (size_t)(length * (s->n_heads + 2) + 4 * s->n_heads * s->head_dim);
  const struct ggml_init_params params = {.mem_size = floats * sizeof(float) + (4u << 20) +
                                                      ggml_graph_overhead_custom(16, false)};
  attention a = {.ctx = ggml_init(params)};
  uint64_t state = 2;
  if (!a.ctx) fail("out of memory");
  struct ggml_tensor *q = ggml_new_tensor_3d(a.ctx, GGML_TYPE_F32, s->head_dim, 1, s->n_heads);
  fill_rows(GGML_TYPE_F32, q->data, s->n_heads, s->head_dim, &state);
  a.k = strided(a.ctx, type, s->head_dim, length, s->n_kv_heads,
                ggml_row_size(type, s->n_kv_heads * s->head_dim), ggml_row_size(type, s->head_dim));
  const float scale = 1.0f / __builtin_sqrtf((float)s->head_dim);
  struct ggml_tensor *out =
      with_flash ? flash(&a, s, q, length, scale) : mul_mat(&a, s, q, length, scale);
  a.graph = ggml_new_graph_custom(a.ctx, 16, false);
  ggml_build_forward_expand(a.graph, out);
  a.plan = ggml_graph_plan(a.graph, s->n_threads, pool);
  a.plan.work_data = must_alloc(a.plan.work_size + 64);
  return a;
}

static void attend(attention *a, const caches *c, size_t copy) {
  a->k->data = c->data + copy * c->stride;
  a->v->data = (unsigned char *)a->k->data + c->k_bytes;
  if (ggml_graph_compute(a->graph, &a->plan) != GGML_STATUS_SUCCESS) fail("ggml_graph_compute");
}

/* ---- measuring ---- */

static int compare_doubles(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static void measure(const settings *s, const caches *c, int64_t length, enum ggml_type type,
                    bool with_flash, struct ggml_threadpool *pool) {
  attention a = make_attention(s, length, type, with_flash, pool);
  const size_t n = c->n_copies * (size_t)s->n_repeats;
  double *seconds = must_alloc(n * sizeof *seconds);
  for (size_t i = 0; i < c->n_copies; i++) attend(&a, c, i);
  for (size_t i = 0; i < n; i++) {
    const double start = seconds_now();
    attend(&a, c, i % c->n_copies);
    seconds[i] = seconds_now() - start;
  }
  qsort(seconds, n, sizeof *seconds, compare_doubles);
  const double median = n % 2 ? seconds[n / 2] : (seconds[n / 2 - 1] + seconds[n / 2]) / 2;
  printf(
      "{\"bench\":\"attention\",\"contender\":\"ggml %s\",\"cache\":\"dense\",\"kv_type\":\"%s\","
      "\"length\":%lld,\"batch\":1,\"n_layers\":1,\"n_heads\":%lld,\"n_kv_heads\":%lld,"
      "\"head_dim\":%lld,\"threads\":%d,\"repeats\":%d,\"rotate_bytes\":%zu,\"samples\":%zu,"
      "\"bytes\":%zu,\"seconds\":%.9g,\"min_seconds\":%.9g,\"bytes_per_second\":%.9g}\n",
      with_flash ? "flash" : "mul_mat", ggml_type_name(type), (long long)length,
      (long long)s->n_heads, (long long)s->n_kv_heads, (long long)s->head_dim, s->n_threads,
      s->n_repeats, s->rotate_bytes, n, 2 * c->k_bytes, median, seconds[0],
      2 * (double)c->k_bytes / median);
  fflush(stdout);
  free(seconds);
  free(a.plan.work_data);
  ggml_free(a.ctx);
}

/* ---- options ---- */

static size_t parse_numbers(const char *text, int64_t *out) {
  size_t n = 0;
  for (char *end; n < MAX_ITEMS; text = end + 1) {
    out[n] = strtoll(text, &end, 10);
    if (end == text || out[n] <= 0) fail("a list of numbers above 0 is expected");
    n++;
    if (*end != ',') break;
  }
  return n;
}

static enum ggml_type parse_type(const char *name, size_t length) {
  const enum ggml_type known[] = {GGML_TYPE_F16,  GGML_TYPE_BF16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0,
                                  GGML_TYPE_Q4_1, GGML_TYPE_Q5_0, GGML_TYPE_Q5_1};
  for (size_t i = 0; i < sizeof known / sizeof *known; i++)
    if (strlen(ggml_type_name(known[i])) == length &&
        strncmp(name, ggml_type_name(known[i]), length) == 0)
      return known[i];
  fail("types are f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1");
  return GGML_TYPE_F16;
}

static void parse_option(settings *s, const char *name, const char *value) {
  int64_t numbers[MAX_ITEMS];
  if (strcmp(name, "--heads") == 0) {
    if (parse_numbers(value, numbers) != 3 || numbers[0] % numbers[1] != 0)
      fail("--heads are query heads, kv heads, channels of a head");
    s->n_heads = numbers[0];
    s->n_kv_heads = numbers[1];
    s->head_dim = numbers[2];
  } else if (strcmp(name, "--lengths") == 0) {
    s->n_lengths = parse_numbers(value, s->lengths);
  } else if (strcmp(name, "--types") == 0) {
    s->n_types = 0;
    for (const char *at = value; s->n_types < MAX_ITEMS; at++) {
      const size_t length = strcspn(at, ",");
      s->types[s->n_types++] = parse_type(at, length);
      at += length;
      if (*at == '\0') break;
    }
  } else if (strcmp(name, "--threads") == 0) {
    s->n_threads = (parse_numbers(value, numbers), (int)numbers[0]);
  } else if (strcmp(name, "--repeats") == 0) {
    s->n_repeats = (parse_numbers(value, numbers), (int)numbers[0]);
  } else if (strcmp(name, "--rotate-mib") == 0) {
    s->rotate_bytes = (parse_numbers(value, numbers), (size_t)numbers[0] << 20);
  } else {
    fail("options: --heads --lengths --types --threads --repeats --rotate-mib");
  }
}

int main(int argc, char **argv) {
  settings s = {.n_heads = 32,
                .n_kv_heads = 8,
                .head_dim = 128,
                .lengths = {32768},
                .n_lengths = 1,
                .types = {GGML_TYPE_F16, GGML_TYPE_BF16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0},
                .n_types = 4,
                .n_threads = 2,
                .n_repeats = 5,
                .rotate_bytes = (size_t)2 << 30};
  for (int i = 1; i < argc; i += 2) {
    if (i + 1 == argc) fail("an option needs a value");
    parse_option(&s, argv[i], argv[i + 1]);
  }
  ggml_cpu_init();
  struct ggml_threadpool_params params = ggml_threadpool_params_default(s.n_threads);
  struct ggml_threadpool *pool = ggml_threadpool_new(&params);
  if (!pool) fail("cannot make threads");
  for (size_t l = 0; l < s.n_lengths; l++)
    for (size_t t = 0; t < s.n_types; t++) {
      caches c = make_caches(&s, s.lengths[l], s.types[t]);
      measure(&s, &c, s.lengths[l], s.types[t], true, pool);
      if (!ggml_is_quantized(s.types[t])) measure(&s, &c, s.lengths[l], s.types[t], false, pool);
      free(c.data);
    }
  ggml_threadpool_free(pool);
  return 0;
}
