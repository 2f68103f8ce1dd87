#include "support/cuda_mock.h"

#include <malloc.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/dtype.h"
#include "base/error.h"
#include "base/random_bf16.h"
#include "support/cuda_mock_queue.h"
#include "support/half.h"

enum { P = LK_CUDA_P, MAX_PINNED = 64, ARGS_BYTES = 512 };

lk_cuda_mock_state lk_cuda_mock = {.n_devices = 2};

/* Something to do, its arguments behind it. */
typedef struct queued {
  void (*run)(const void *args);
  _Alignas(16) unsigned char args[ARGS_BYTES];
} queued;

typedef struct job_list {
  queued *jobs;
  size_t n, max;
} job_list;

struct lk_cuda_graph {
  job_list list;
};

struct lk_cuda_device {
  job_list queue, recorded;
  bool recording, is_marked[LK_CUDA_MARKS];
  leank_error failure;
  float *operand;
  size_t n_operand;
};

/* Pinned memory, of all devices. */
static struct {
  unsigned char *p;
  size_t n;
} pinned[MAX_PINNED];

static bool is_pinned(const void *p) {
  for (size_t i = 0; i < MAX_PINNED; i++)
    if (pinned[i].p && (const unsigned char *)p >= pinned[i].p &&
        (const unsigned char *)p < pinned[i].p + pinned[i].n)
      return true;
  return false;
}

/* ---- the queue ---- */

static void push(job_list *list, void (*run)(const void *), const void *args, size_t n) {
  assert_true(n <= ARGS_BYTES);
  if (list->n == list->max) {
    list->max = list->max ? 2 * list->max : 64;
    list->jobs = realloc(list->jobs, list->max * sizeof *list->jobs);
    assert_non_null(list->jobs);
  }
  list->jobs[list->n].run = run;
  memcpy(list->jobs[list->n++].args, args, n);
}

static void flush(lk_cuda_device *dev) {
  assert_false(dev->recording); /* nothing may be waited for */
  for (size_t i = 0; i < dev->queue.n; i++) dev->queue.jobs[i].run(dev->queue.jobs[i].args);
  dev->queue.n = 0;
}

static void keep(lk_cuda_device *dev, const char *what) {
  if (dev->failure.code == LEANK_OK) lk_fail(&dev->failure, LEANK_E_STATE, -1, "mock: %s", what);
}

static bool counts_down(size_t *left) { return *left > 0 && --*left == 0; }

/* After a failure nothing is done until it is told, as after a fault of a device. */
void lk_mock_launch(lk_cuda_device *dev, void (*run)(const void *), const void *args, size_t n) {
  lk_cuda_mock.n_launches++;
  if (counts_down(&lk_cuda_mock.fail_launch)) {
    keep(dev, "a launch that fails");
  }
  if (dev->failure.code != LEANK_OK) return;
  push(dev->recording ? &dev->recorded : &dev->queue, run, args, n);
}
#define LAUNCH LK_MOCK_LAUNCH

/* ---- devices ---- */

static int mock_n_devices(char *why, size_t n_why) {
  snprintf(why, n_why, "%s", lk_cuda_mock.n_devices ? "" : "mock: no device");
  return (int)lk_cuda_mock.n_devices;
}

static leank_status mock_open(int index, lk_cuda_device **out, leank_error *err) {
  assert_true(index >= 0 && (size_t)index < lk_cuda_mock.n_devices);
  lk_cuda_device *dev = counts_down(&lk_cuda_mock.fail_alloc) ? NULL : calloc(1, sizeof *dev);
  if (!dev) return lk_fail(err, LEANK_E_MEMORY, -1, "mock: open");
  lk_cuda_mock.n_live++;
  lk_cuda_mock.n_allocs++;
  *out = dev;
  return LEANK_OK;
}

static void mock_close(lk_cuda_device *dev) {
  flush(dev);
  free(dev->queue.jobs);
  free(dev->recorded.jobs);
  free(dev->operand);
  free(dev);
  lk_cuda_mock.n_live--;
}

static void mock_info(lk_cuda_device *dev, lk_cuda_info *out) {
  (void)dev;
  *out = (lk_cuda_info){.name = "mock", .major = 9, .n_sm = 1, .total_bytes = 2, .free_bytes = 1};
}

static leank_status mock_check(lk_cuda_device *dev, leank_error *err) {
  const leank_error was = dev->failure;
  memset(&dev->failure, 0, sizeof dev->failure);
  if (was.code != LEANK_OK && err) *err = was;
  return was.code;
}

static leank_status mock_sync(lk_cuda_device *dev, leank_error *err) {
  flush(dev);
  return mock_check(dev, err);
}

/* ---- memory ---- */

static void *allocate(lk_cuda_device *dev, size_t n) {
  assert_false(dev->recording);
  if (counts_down(&lk_cuda_mock.fail_alloc)) return NULL;
  const size_t rounded = (n + 255) / 256 * 256;
  void *p = aligned_alloc(256, rounded ? rounded : 256);
  assert_non_null(p);
  memset(p, 0xff, rounded);
  lk_cuda_mock.n_live++;
  lk_cuda_mock.n_allocs++;
  return p;
}

static void *mock_alloc(lk_cuda_device *dev, size_t n) {
  lk_cuda_mock_state *m = &lk_cuda_mock;
  if (m->max_bytes && m->n_bytes + n > m->max_bytes) return NULL;
  void *p = allocate(dev, n);
  if (p) m->n_bytes += malloc_usable_size(p);
  if (m->n_bytes > m->most_bytes) m->most_bytes = m->n_bytes;
  return p;
}

static void release(lk_cuda_device *dev, void *p) {
  flush(dev);
  free(p);
  if (p) lk_cuda_mock.n_live--;
}

static void mock_free(lk_cuda_device *dev, void *p) {
  if (p) lk_cuda_mock.n_bytes -= malloc_usable_size(p);
  release(dev, p);
}

static void *mock_alloc_pinned(lk_cuda_device *dev, size_t n) {
  void *p = allocate(dev, n);
  for (size_t i = 0; p && i < MAX_PINNED; i++)
    if (!pinned[i].p) {
      pinned[i].p = p;
      pinned[i].n = n;
      return p;
    }
  assert_null(p); /* else the list is full */
  return NULL;
}

static void mock_free_pinned(lk_cuda_device *dev, void *p) {
  for (size_t i = 0; i < MAX_PINNED; i++)
    if (pinned[i].p == p) pinned[i].p = NULL;
  release(dev, p);
}

typedef struct copy_args {
  void *to;
  const void *from;
  size_t n;
} copy_args;

static void run_copy(const void *args) {
  const copy_args *a = args;
  memcpy(a->to, a->from, a->n);
}

static void mock_copy(lk_cuda_device *dev, void *to, const void *from, size_t n) {
  const copy_args a = {to, from, n};
  LAUNCH(dev, run_copy, a);
}

static void mock_upload(lk_cuda_device *dev, void *to, const void *from, size_t n) {
  assert_false(dev->recording);
  const copy_args a = {to, from, n};
  if (n >= 4096 && !is_pinned(from)) lk_cuda_mock.n_loads++;
  LAUNCH(dev, run_copy, a);
  if (!is_pinned(from)) flush(dev);
}

static void mock_download(lk_cuda_device *dev, void *to, const void *from, size_t n) {
  flush(dev);
  lk_cuda_mock.n_downloaded += n;
  memcpy(to, from, n);
}

static void run_zero(const void *args) {
  const copy_args *a = args;
  memset(a->to, 0, a->n);
}

static void mock_zero(lk_cuda_device *dev, void *p, size_t n) {
  const copy_args a = {p, NULL, n};
  LAUNCH(dev, run_zero, a);
}

/* ---- recording ---- */

static leank_status mock_record_begin(lk_cuda_device *dev, leank_error *err) {
  (void)err;
  assert_false(dev->recording);
  dev->recording = true;
  return LEANK_OK;
}

static leank_status mock_record_end(lk_cuda_device *dev, lk_cuda_graph **out, leank_error *err) {
  assert_true(dev->recording);
  dev->recording = false;
  const job_list list = dev->recorded;
  dev->recorded = (job_list){0};
  if (dev->failure.code != LEANK_OK || lk_cuda_mock.refuse_record) {
    free(list.jobs);
    if (dev->failure.code != LEANK_OK) return mock_check(dev, err);
    return lk_fail(err, LEANK_E_STATE, -1, "mock: not recorded");
  }
  *out = malloc(sizeof **out);
  assert_non_null(*out);
  (*out)->list = list;
  lk_cuda_mock.n_records++;
  lk_cuda_mock.n_live++;
  return LEANK_OK;
}

static void mock_replay(lk_cuda_device *dev, lk_cuda_graph *graph) {
  assert_false(dev->recording);
  lk_cuda_mock.n_replays++;
  if (counts_down(&lk_cuda_mock.fail_launch)) {
    keep(dev, "a replay that fails");
    return;
  }
  for (size_t i = 0; i < graph->list.n; i++)
    push(&dev->queue, graph->list.jobs[i].run, graph->list.jobs[i].args, ARGS_BYTES);
}

static void mock_graph_free(lk_cuda_graph *graph) {
  free(graph->list.jobs);
  free(graph);
  lk_cuda_mock.n_live--;
}

static void mock_mark(lk_cuda_device *dev, int number) {
  assert_true(number >= 0 && number < LK_CUDA_MARKS);
  dev->is_marked[number] = true;
}
/* A millisecond from mark to mark. */
static float mock_time_ms(lk_cuda_device *dev, int from, int to) {
  assert_true(dev->is_marked[from] && dev->is_marked[to]);
  flush(dev);
  return (float)(to - from);
}

/* ---- rows ---- */

typedef struct rows_args {
  const void *a, *b, *c;
  size_t n_rows, n, n_heads;
  float scale;
  bool pairs;
  uint64_t seed;
  void *out;
} rows_args;

static void run_embed(const void *args) {
  const rows_args *j = args;
  const uint16_t *table = j->a;
  const int32_t *tokens = j->b;
  float *x = j->out;
  for (size_t i = 0; i < j->n_rows * j->n; i++)
    x[i] = lk_bf16_to_f32(table[(size_t)tokens[i / j->n] * j->n + i % j->n]);
}

static void mock_embed(lk_cuda_device *dev, const uint16_t *table, size_t n_cols,
                       const int32_t *tokens, size_t n_rows, float *x) {
  const rows_args a = {.a = table, .b = tokens, .n_rows = n_rows, .n = n_cols, .out = x};
  LAUNCH(dev, run_embed, a);
}

static void run_norm(const void *args) {
  const rows_args *j = args;
  const float *w = j->b;
  for (size_t r = 0; r < j->n_rows; r++) {
    const float *x = (const float *)j->a + r * j->n;
    double sum = 0;
    for (size_t i = 0; i < j->n; i++) sum += (double)x[i] * (double)x[i];
    const double scale = 1 / sqrt(sum / (double)j->n + (double)j->scale);
    for (size_t i = 0; i < j->n; i++)
      ((float *)j->out)[r * j->n + i] = (float)((double)x[i] * scale * (double)w[i]);
  }
}

static void mock_rms_norm(lk_cuda_device *dev, const float *x, size_t n_rows, size_t n,
                          const float *w, float eps, float *y) {
  const rows_args a = {.a = x, .b = w, .n_rows = n_rows, .n = n, .scale = eps, .out = y};
  lk_cuda_mock.n_norms++;
  LAUNCH(dev, run_norm, a);
}

static void run_table(const void *args) {
  const rows_args *j = args;
  const double *inv_freq = j->a;
  const int64_t *pos = j->b;
  const size_t half = j->n / 2;
  for (size_t r = 0; r < j->n_rows; r++)
    for (size_t i = 0; i < half; i++) {
      float *row = (float *)j->out + r * j->n;
      row[i] = (float)cos((double)pos[r] * inv_freq[i]) * j->scale;
      row[half + i] = (float)sin((double)pos[r] * inv_freq[i]) * j->scale;
    }
}

static void mock_rope_table(lk_cuda_device *dev, const double *inv_freq, float mscale,
                            size_t head_dim, const int64_t *pos, size_t n_rows, float *cos_sin) {
  const rows_args a = {
      .a = inv_freq, .b = pos, .n_rows = n_rows, .n = head_dim, .scale = mscale, .out = cos_sin};
  LAUNCH(dev, run_table, a);
}

void lk_mock_rotate(float *x, size_t d, bool pairs, const float *cos_sin) {
  for (size_t i = 0; i < d / 2; i++) {
    float *a = &x[pairs ? 2 * i : i], *b = &x[pairs ? 2 * i + 1 : i + d / 2];
    const float was = *a, c = cos_sin[i], s = cos_sin[d / 2 + i];
    *a = was * c - *b * s;
    *b = *b * c + was * s;
  }
}

static void run_rope(const void *args) {
  const rows_args *j = args;
  for (size_t r = 0; r < j->n_rows * j->n_heads; r++)
    lk_mock_rotate((float *)j->out + r * j->n, j->n, j->pairs,
                   (const float *)j->a + r / j->n_heads * j->n);
}

static void mock_rope(lk_cuda_device *dev, float *x, size_t n_rows, size_t n_heads, size_t head_dim,
                      bool pairs, const float *cos_sin) {
  const rows_args a = {
      .a = cos_sin, .n_rows = n_rows, .n = head_dim, .n_heads = n_heads, .pairs = pairs, .out = x};
  LAUNCH(dev, run_rope, a);
}

static void run_swiglu(const void *args) {
  const rows_args *j = args;
  const float *gate = j->a, *up = j->b;
  for (size_t i = 0; i < j->n; i++)
    ((float *)j->out)[i] = (float)((double)gate[i] / (1 + exp(-(double)gate[i])) * (double)up[i]);
}

static void mock_swiglu(lk_cuda_device *dev, const float *gate, const float *up, size_t n,
                        float *out) {
  const rows_args a = {.a = gate, .b = up, .n = n, .out = out};
  LAUNCH(dev, run_swiglu, a);
}

static void run_argmax(const void *args) {
  const rows_args *j = args;
  for (size_t r = 0; r < j->n_rows; r++) {
    const float *x = (const float *)j->a + r * j->n;
    size_t best = 0;
    for (size_t i = 1; i < j->n; i++)
      if (x[i] > x[best] || (isnan(x[best]) && !isnan(x[i]))) best = i;
    ((int32_t *)j->out)[r] = isnan(x[best]) ? 0 : (int32_t)best;
  }
}

static void mock_argmax(lk_cuda_device *dev, const float *x, size_t n_rows, size_t n,
                        int32_t *index) {
  const rows_args a = {.a = x, .n_rows = n_rows, .n = n, .out = index};
  LAUNCH(dev, run_argmax, a);
}

/* ---- products ---- */

static void run_random(const void *args) {
  const rows_args *j = args;
  const lk_random_source source = {j->seed, j->scale};
  lk_random_bf16(&source, 0, j->n, j->out);
}

static void mock_random_bf16(lk_cuda_device *dev, uint16_t *to, size_t n, float scale,
                             uint64_t seed) {
  const rows_args a = {.n = n, .scale = scale, .seed = seed, .out = to};
  lk_cuda_mock.n_made++;
  LAUNCH(dev, run_random, a);
}

static void run_read(const void *args) {
  const rows_args *j = args;
  uint32_t *sum = j->out;
  for (size_t i = 0; i < j->n / sizeof *sum; i++) *sum ^= ((const uint32_t *)j->a)[i];
}

static void mock_read(lk_cuda_device *dev, const void *from, size_t n_bytes, uint32_t n_blocks,
                      uint32_t *sum) {
  const rows_args a = {.a = from, .n = n_bytes, .out = sum};
  assert_true(n_bytes % 16 == 0 && n_blocks > 0);
  LAUNCH(dev, run_read, a);
}

static leank_status mock_reserve(lk_cuda_device *dev, size_t n_rows, size_t n_cols,
                                 leank_error *err) {
  (void)err;
  flush(dev);
  if (n_rows * n_cols <= dev->n_operand) return LEANK_OK;
  free(dev->operand);
  dev->n_operand = n_rows * n_cols;
  if (dev->n_operand > lk_cuda_mock.most_operand) lk_cuda_mock.most_operand = dev->n_operand;
  dev->operand = malloc(dev->n_operand * sizeof *dev->operand);
  assert_non_null(dev->operand);
  memset(dev->operand, 0xff, dev->n_operand * sizeof *dev->operand);
  return LEANK_OK;
}

float *lk_mock_operand(lk_cuda_device *dev, size_t n) {
  assert_true(n <= dev->n_operand); /* else not reserved */
  return dev->operand;
}

/* fp32 here: rounding of activations is the library's matter. */
static void mock_rms_norm_operand(lk_cuda_device *dev, const float *x, size_t n_rows, size_t n,
                                  const float *w, float eps) {
  mock_rms_norm(dev, x, n_rows, n, w, eps, lk_mock_operand(dev, n_rows * n));
}

void lk_mock_swiglu_operand(lk_cuda_device *dev, const float *gate_up, size_t n_rows, size_t n) {
  float *operand = lk_mock_operand(dev, n_rows * n);
  for (size_t r = 0; r < n_rows; r++)
    mock_swiglu(dev, gate_up + 2 * r * n, gate_up + (2 * r + 1) * n, n, operand + r * n);
}

/* ---- pages ---- */

static float from_element(const lk_cuda_view *view, uint16_t x) {
  return view->is_f16 ? lk_f16_to_f32(x) : lk_bf16_to_f32(x);
}
static uint16_t to_element(const lk_cuda_view *view, float x) {
  return view->is_f16 ? lk_f32_to_f16(x) : lk_f32_to_bf16(x);
}

uint16_t *lk_mock_element(unsigned char *segment, size_t n, size_t token, size_t c) {
  const uint32_t chunk = lk_cuda_swizzle((uint32_t)token, (uint32_t)(c / 8), (uint32_t)(n / 8));
  return (uint16_t *)segment + token * n + chunk * 8 + c % 8;
}

typedef struct segment {
  unsigned char *k, *v; /* NULL where nothing is kept */
  size_t n;             /* of a row of K */
  const uint16_t *channels;
  size_t n_kept;
} segment;

static segment segment_of(const lk_cuda_view *view, lk_page_entry e, size_t h) {
  const size_t d = view->head_dim;
  assert_true(e.kind < LK_N_PAGE_KINDS);
  unsigned char *page = view->arena[e.kind] + (size_t)e.page * view->page_bytes[e.kind];
  if (e.kind != LK_PAGE_LEAN) {
    unsigned char *k = page + h * P * 2 * d * sizeof(uint16_t);
    return (segment){k, k + P * d * sizeof(uint16_t), d, NULL, d};
  }
  const lk_cuda_head *head = &view->heads[h];
  assert_true(head->n_padded % LK_CUDA_GRANULE == 0 && head->n_kept <= head->n_padded);
  if (head->n_kept == 0) return (segment){0};
  unsigned char *k = page + head->lean_offset;
  return (segment){k, k + P * head->n_padded * sizeof(uint16_t), head->n_padded,
                   view->channels + h * d, head->n_kept};
}

typedef struct pages_args {
  lk_cuda_view src, dst;
  const lk_page_entry *from, *to;
  const float *k, *v;
  const lk_slot *slots;
  float *sums;
  const lk_cuda_group *groups;
  size_t offset, n;
} pages_args;

static void run_append(const void *args) {
  const pages_args *j = args;
  const size_t n_heads = j->dst.n_kv_heads, d = j->dst.head_dim;
  for (size_t i = 0; i < j->n * n_heads * d; i++) {
    const lk_slot slot = j->slots[i / (n_heads * d)];
    const segment s = segment_of(&j->dst, slot.page, i / d % n_heads);
    assert_true(slot.page.kind != LK_PAGE_LEAN && slot.key < P);
    *lk_mock_element(s.k, d, slot.key, i % d) = to_element(&j->dst, j->k[i]);
    *lk_mock_element(s.v, d, slot.key, i % d) = to_element(&j->dst, j->v[i]);
  }
}

static void mock_append(lk_cuda_device *dev, const lk_cuda_view *view, const float *k,
                        const float *v, size_t n_rows, const lk_slot *slots) {
  const pages_args a = {.dst = *view, .k = k, .v = v, .slots = slots, .n = n_rows};
  LAUNCH(dev, run_append, a);
}

static void mock_rope_append(lk_cuda_device *dev, const lk_cuda_view *view, float *q,
                             const float *k, const float *v, size_t n_rows, bool pairs,
                             const float *cos_sin, const lk_slot *slots) {
  mock_rope(dev, q, n_rows, view->n_heads, view->head_dim, pairs, cos_sin);
  mock_rope(dev, (float *)k, n_rows, view->n_kv_heads, view->head_dim, pairs, cos_sin);
  mock_append(dev, view, k, v, n_rows, slots);
}

static size_t index_of(const segment *s, size_t channel) {
  if (!s->channels) return channel;
  for (size_t i = 0; i < s->n_kept; i++)
    if (s->channels[i] == channel) return i;
  fail_msg("a source does not keep channel %zu", channel);
  return 0;
}

static void pack_head(segment from, segment to, size_t d) {
  for (size_t t = 0; t < P; t++) {
    for (size_t i = 0; i < to.n; i++)
      *lk_mock_element(to.k, to.n, t, i) =
          i < to.n_kept ? *lk_mock_element(from.k, from.n, t, index_of(&from, to.channels[i])) : 0;
    for (size_t c = 0; c < d; c++)
      *lk_mock_element(to.v, d, t, c) = *lk_mock_element(from.v, d, t, c);
  }
}

static void run_pack(const void *args) {
  const pages_args *j = args;
  for (size_t i = 0; i < j->n * j->dst.n_kv_heads; i++) {
    const size_t page = i / j->dst.n_kv_heads, h = i % j->dst.n_kv_heads;
    if (j->from[page].kind == LK_N_PAGE_KINDS) continue;
    assert_int_equal(j->to[page].kind, LK_PAGE_LEAN);
    const segment to = segment_of(&j->dst, j->to[page], h);
    if (to.k) pack_head(segment_of(&j->src, j->from[page], h), to, j->dst.head_dim);
  }
}

static void mock_pack(lk_cuda_device *dev, const lk_cuda_view *src, const lk_page_entry *from,
                      const lk_cuda_view *dst, const lk_page_entry *to, size_t n_pages) {
  const pages_args a = {.src = *src, .dst = *dst, .from = from, .to = to, .n = n_pages};
  LAUNCH(dev, run_pack, a);
}

static void run_copy_pages(const void *args) {
  const pages_args *j = args;
  for (size_t i = 0; i < j->n; i++)
    memcpy(j->dst.arena[j->to[i].kind] + (size_t)j->to[i].page * j->dst.page_bytes[j->to[i].kind],
           j->src.arena[j->from[i].kind] +
               (size_t)j->from[i].page * j->src.page_bytes[j->from[i].kind],
           j->dst.page_bytes[j->to[i].kind]);
}

/* to[Hk][2][D] = from + the sums over a page, which are added up by themselves. */
static void sum_page(const lk_cuda_view *view, lk_page_entry page, const float *from, float *to) {
  const size_t d = view->head_dim;
  for (size_t i = 0; i < view->n_kv_heads * 2 * d; i++) {
    const segment s = segment_of(view, page, i / (2 * d));
    float sum = 0;
    assert_true(page.kind != LK_PAGE_LEAN);
    for (size_t t = 0; t < P; t++)
      sum += from_element(view, *lk_mock_element(i / d % 2 ? s.v : s.k, d, t, i % d));
    to[i] = from[i] + sum;
  }
}

static void run_sum_pages(const void *args) {
  const pages_args *j = args;
  const size_t n = (size_t)j->src.n_kv_heads * 2 * j->src.head_dim;
  for (size_t i = 0; i < j->n; i++)
    sum_page(&j->src, j->from[i], j->sums + i * n, j->sums + (i + 1) * n);
}

static void mock_sum_pages(lk_cuda_device *dev, const lk_cuda_view *view,
                           const lk_page_entry *pages, size_t n_pages, float *sums) {
  const pages_args a = {.src = *view, .from = pages, .sums = sums, .n = n_pages};
  LAUNCH(dev, run_sum_pages, a);
}

static void run_sum_rows(const void *args) {
  const pages_args *j = args;
  for (size_t i = 0; i < j->n; i++) {
    if (j->from[i].kind == LK_N_PAGE_KINDS) continue;
    float *mean = j->groups[i].mean + j->offset;
    sum_page(&j->src, j->from[i], mean, mean);
  }
}

static void mock_sum_rows(lk_cuda_device *dev, const lk_cuda_view *view, const lk_page_entry *pages,
                          size_t n_pages, const lk_cuda_group *groups, size_t offset) {
  const pages_args a = {
      .src = *view, .from = pages, .groups = groups, .offset = offset, .n = n_pages};
  LAUNCH(dev, run_sum_rows, a);
}

static void mock_copy_pages(lk_cuda_device *dev, const lk_cuda_view *src, const lk_page_entry *from,
                            const lk_cuda_view *dst, const lk_page_entry *to, size_t n_pages) {
  const pages_args a = {.src = *src, .dst = *dst, .from = from, .to = to, .n = n_pages};
  LAUNCH(dev, run_copy_pages, a);
}

/* ---- attention ---- */

typedef struct attend_args {
  lk_cuda_view view;
  const lk_cuda_group *groups;
  size_t n_groups;
  const lk_page_entry *tables;
  const float *q;
  float *out;
  lk_cuda_means means;
  bool checks_sums;
} attend_args;

/* What the mean of the group's middle gives query q, over the channels that kv head h drops. */
static double mean_logit(const attend_args *j, const lk_cuda_group *g, size_t h, const float *q) {
  const size_t d = j->view.head_dim;
  const float *sums = g->mean + j->means.offset + h * 2 * d;
  double sum = 0;
  for (size_t i = j->view.heads[h].n_kept; i < d; i++) {
    const size_t c = j->view.channels[h * d + i];
    sum += (double)q[c] * (double)sums[c] / (double)g->n_middle;
  }
  return sum / sqrt((double)d);
}

/* Head h of the row at `pos`, twice over its keys: the largest logit, then the sums. */
static void attend_head(const attend_args *j, const lk_cuda_group *g, size_t row, size_t h) {
  const size_t d = j->view.head_dim, per = j->view.n_heads / j->view.n_kv_heads;
  const size_t pos = g->first_pos + (row - g->first_row), at = (row * j->view.n_heads + h) * d;
  const float *q = j->q + at;
  const bool empty = g->n_middle && j->view.heads[h / per].n_kept == 0;
  const bool with_mean =
      g->n_middle && g->mean && (empty ? j->means.for_empty : j->means.for_pruned);
  const double mean = with_mean ? mean_logit(j, g, h / per, q) : 0;
  double largest = with_mean && empty ? mean : -INFINITY, sum = 0, out[128] = {0};
  for (int second = 0; second < 2; second++)
    for (size_t key = 0; key <= pos; key++) {
      const lk_page_entry e = j->tables[g->table + key / P];
      const bool lean = key >= g->middle_begin && key < g->middle_begin + g->n_middle;
      assert_true(lean == (e.kind == LK_PAGE_LEAN));
      const segment s = segment_of(&j->view, e, h / per);
      if (!s.k) continue;
      double logit = 0;
      for (size_t i = 0; i < s.n_kept; i++)
        logit += (double)q[s.channels ? s.channels[i] : i] *
                 (double)from_element(&j->view, *lk_mock_element(s.k, s.n, key % P, i));
      logit /= sqrt((double)d);
      if (lean && with_mean) logit += mean;
      largest = fmax(largest, logit);
      if (!second) continue;
      const double p = exp(logit - largest);
      sum += p;
      for (size_t c = 0; c < d; c++)
        out[c] += p * (double)from_element(&j->view, *lk_mock_element(s.v, d, key % P, c));
    }
  const double weight = with_mean && empty ? exp(mean - largest) : 0;
  const float *values = weight > 0 ? g->mean + j->means.offset + (h / per * 2 + 1) * d : NULL;
  sum += weight * (double)g->n_middle;
  for (size_t c = 0; values && c < d; c++) out[c] += weight * (double)values[c];
  for (size_t c = 0; c < d; c++) j->out[at + c] = sum > 0 ? (float)(out[c] / sum) : 0;
}

static void run_attend(const void *args) {
  const attend_args *j = args;
  size_t wide = 0, lean = 0;
  for (size_t i = 0; i < j->n_groups; i++) {
    const lk_cuda_group *g = &j->groups[i];
    assert_true(g->middle_begin % P == 0 && g->n_middle % P == 0);
    if (j->checks_sums) assert_true(g->wide_before == wide && g->lean_before == lean);
    lean += g->n_middle / P;
    wide += (g->first_pos + g->n_rows - 1) / P + 1 - g->n_middle / P;
    for (size_t r = 0; r < g->n_rows * j->view.n_heads; r++)
      attend_head(j, g, g->first_row + r / j->view.n_heads, r % j->view.n_heads);
  }
  if (j->checks_sums)
    assert_true(j->groups[j->n_groups].wide_before == wide &&
                j->groups[j->n_groups].lean_before == lean);
}

/* Scratch is there to its last byte. */
static void run_touch(const void *args) {
  const copy_args *a = args;
  ((unsigned char *)a->to)[0] = ((unsigned char *)a->to)[a->n - 1] = 0xff;
}

static void mock_decode(lk_cuda_device *dev, const lk_cuda_decode *job) {
  const copy_args scratch = {job->scratch, NULL,
                             lk_cuda_decode_scratch_bytes(job->n_groups, job->view.n_heads,
                                                          job->view.n_kv_heads, job->view.head_dim,
                                                          job->max_pages)};
  const attend_args a = {.view = job->view,
                         .groups = job->groups,
                         .n_groups = job->n_groups,
                         .tables = job->tables,
                         .q = job->q,
                         .out = job->out,
                         .means = job->means,
                         .checks_sums = true};
  assert_int_equal(job->mean_logits != NULL, job->means.for_empty || job->means.for_pruned);
  LAUNCH(dev, run_touch, scratch);
  LAUNCH(dev, run_attend, a);
}

static void mock_attend_rows(lk_cuda_device *dev, const lk_cuda_attend_rows *job) {
  const attend_args a = {.view = job->view,
                         .groups = job->groups,
                         .n_groups = job->n_groups,
                         .tables = job->tables,
                         .q = job->q,
                         .out = job->out,
                         .means = job->means};
  LAUNCH(dev, run_attend, a);
}

const lk_cuda_api *lk_cuda_mock_api(void) {
  static const lk_cuda_api api = {.version = LK_CUDA_API_VERSION,
                                  .n_devices = mock_n_devices,
                                  .open = mock_open,
                                  .close = mock_close,
                                  .info = mock_info,
                                  .check = mock_check,
                                  .sync = mock_sync,
                                  .alloc = mock_alloc,
                                  .free = mock_free,
                                  .alloc_pinned = mock_alloc_pinned,
                                  .free_pinned = mock_free_pinned,
                                  .upload = mock_upload,
                                  .download = mock_download,
                                  .copy = mock_copy,
                                  .zero = mock_zero,
                                  .record_begin = mock_record_begin,
                                  .record_end = mock_record_end,
                                  .replay = mock_replay,
                                  .graph_free = mock_graph_free,
                                  .mark = mock_mark,
                                  .time_ms = mock_time_ms,
                                  .embed = mock_embed,
                                  .rms_norm = mock_rms_norm,
                                  .rope_table = mock_rope_table,
                                  .rope = mock_rope,
                                  .swiglu = mock_swiglu,
                                  .argmax = mock_argmax,
                                  .widen = lk_mock_widen,
                                  .linear_few = lk_mock_linear_few,
                                  .linear_many = lk_mock_linear_many,
                                  .reserve = mock_reserve,
                                  .append = mock_append,
                                  .rope_append = mock_rope_append,
                                  .pack = mock_pack,
                                  .copy_pages = mock_copy_pages,
                                  .sum_pages = mock_sum_pages,
                                  .sum_rows = mock_sum_rows,
                                  .decode = mock_decode,
                                  .attend_rows = mock_attend_rows,
                                  .random_bf16 = mock_random_bf16,
                                  .linear_precise = lk_mock_linear,
                                  .linear_backward = lk_mock_linear_backward,
                                  .rms_norm_backward = lk_mock_rms_norm_backward,
                                  .swiglu_backward = lk_mock_swiglu_backward,
                                  .weighted_scratch_bytes = lk_mock_weighted_scratch_bytes,
                                  .weighted = lk_mock_weighted,
                                  .weighted_backward = lk_mock_weighted_backward,
                                  .read = mock_read,
                                  .rms_norm_operand = mock_rms_norm_operand,
                                  .rope_append_joint = lk_mock_rope_append_joint};
  return &api;
}
