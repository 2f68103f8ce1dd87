/* Products on the device in software, and what stands around them in steps by GEMM. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/dtype.h"
#include "kernels/dequant/dequant.h"
#include "support/cuda_mock.h"
#include "support/cuda_mock_queue.h"
#include "support/half.h"

enum { P = LK_CUDA_P, MAX_D = 128 };

typedef struct widen_args {
  const void *from;
  size_t n;
  lk_dtype type;
  uint16_t *to;
} widen_args;

static void run_widen(const void *args) {
  const widen_args *j = args;
  float *wide = malloc(j->n * sizeof *wide);
  assert_non_null(wide);
  lk_dequant_select(j->type, LEANK_CPU_C)->to_f32(j->from, j->n, wide);
  for (size_t i = 0; i < j->n; i++) j->to[i] = lk_f32_to_bf16(wide[i]);
  free(wide);
}

void lk_mock_widen(lk_cuda_device *dev, int type, const void *from, size_t n, uint16_t *to) {
  const widen_args a = {from, n, (lk_dtype)type, to};
  lk_cuda_mock.n_loads++;
  LK_MOCK_LAUNCH(dev, run_widen, a);
}

static void run_linear(const void *args) {
  const lk_cuda_linear *j = args;
  for (size_t p = 0; p < j->n_parts; p++) {
    const lk_cuda_part *part = &j->parts[p];
    const size_t pitch = j->pitch ? j->pitch : part->n_out;
    for (size_t i = 0; i < j->n_rows * part->n_out; i++) {
      const float *x = j->x + i / part->n_out * j->n_in;
      const uint16_t *w = part->w + i % part->n_out * j->n_in;
      float *y = part->y + i / part->n_out * pitch + i % part->n_out;
      double sum = part->bias ? (double)part->bias[i % part->n_out] : 0;
      for (size_t c = 0; c < j->n_in; c++) sum += (double)x[c] * (double)lk_bf16_to_f32(w[c]);
      *y = (float)(part->add ? (double)*y + sum : sum);
    }
  }
}

static void run_copy(const void *args) {
  const lk_cuda_linear *j = args;
  memcpy(j->parts[0].y, j->x, j->n_rows * j->n_in * sizeof *j->x);
}

/* Parts of a pitch do not overlap; counts those that lie behind the one before them. */
static void check_pitch(const lk_cuda_linear *job) {
  size_t width = 0;
  for (size_t p = 0; p < job->n_parts; p++) {
    const lk_cuda_part *b = &job->parts[p], *a = b - 1;
    assert_int_equal(b->n_out % 4, 0);
    width += b->n_out;
    if (p == 0) continue;
    assert_ptr_equal(b->y, a->y + a->n_out);
    if (b->w == a->w + (size_t)a->n_out * job->n_in &&
        b->bias == (a->bias ? a->bias + a->n_out : NULL))
      lk_cuda_mock.n_joint++;
    else
      lk_cuda_mock.n_apart++;
  }
  assert_true(width <= job->pitch);
}

static void run_poison(const void *args) {
  const lk_cuda_linear *j = args;
  memset(j->parts[0].y, 0xff, j->n_rows * j->pitch * sizeof(float));
}

/* What is multiplied goes by way of the operand; behind a gate it is what comes out, and y, which
 * may hold anything then, holds NaN. */
void lk_mock_linear_many(lk_cuda_device *dev, const lk_cuda_linear *job) {
  lk_cuda_linear own = *job;
  float *operand = lk_mock_operand(dev, job->n_rows * job->n_in);
  assert_true(job->n_parts > 0 && job->n_parts <= LK_CUDA_MAX_PARTS);
  assert_null(job->norm);
  assert_true(!job->gated || (job->n_parts == 2 && job->pitch == 2 * job->parts[0].n_out));
  if (job->pitch) check_pitch(job);
  if (job->x) {
    const lk_cuda_linear copy = {
        .parts[0].y = operand, .x = job->x, .n_rows = job->n_rows, .n_in = job->n_in};
    LK_MOCK_LAUNCH(dev, run_copy, copy);
  }
  own.x = operand;
  LK_MOCK_LAUNCH(dev, run_linear, own);
  if (!job->gated) return;
  lk_mock_swiglu_operand(dev, job->parts[0].y, job->n_rows, job->parts[0].n_out);
  LK_MOCK_LAUNCH(dev, run_poison, own);
}

typedef struct joint_args {
  lk_cuda_view view;
  const float *qkv, *cos_sin;
  float *q;
  size_t n_rows;
  const lk_slot *slots;
  bool pairs;
} joint_args;

/* Head h of K or V of a row to its slot. */
static void store_head(const lk_cuda_view *view, lk_slot slot, size_t h, bool is_v,
                       const float *x) {
  const size_t d = view->head_dim, half = P * d * sizeof(uint16_t);
  assert_true(slot.page.kind < LK_N_PAGE_KINDS && slot.page.kind != LK_PAGE_LEAN);
  unsigned char *page =
      view->arena[slot.page.kind] + (size_t)slot.page.page * view->page_bytes[slot.page.kind];
  for (size_t c = 0; c < d; c++)
    *lk_mock_element(page + (2 * h + is_v) * half, d, slot.key, c) =
        view->is_f16 ? lk_f32_to_f16(x[c]) : lk_f32_to_bf16(x[c]);
}

static void run_joint(const void *args) {
  const joint_args *j = args;
  const size_t d = j->view.head_dim, n_q = j->view.n_heads, n_kv = j->view.n_kv_heads;
  for (size_t i = 0; i < j->n_rows * (n_q + 2 * n_kv); i++) {
    const size_t row = i / (n_q + 2 * n_kv), head = i % (n_q + 2 * n_kv);
    const bool is_v = head >= n_q + n_kv;
    float x[MAX_D];
    memcpy(x, j->qkv + i * d, d * sizeof *x);
    if (!is_v) lk_mock_rotate(x, d, j->pairs, j->cos_sin + row * d);
    if (head < n_q)
      memcpy(j->q + (row * n_q + head) * d, x, d * sizeof *x);
    else
      store_head(&j->view, j->slots[row], (head - n_q) % n_kv, is_v, x);
  }
}

void lk_mock_rope_append_joint(lk_cuda_device *dev, const lk_cuda_view *view, const float *qkv,
                               float *q, size_t n_rows, bool pairs, const float *cos_sin,
                               const lk_slot *slots) {
  const joint_args a = {*view, qkv, cos_sin, q, n_rows, slots, pairs};
  LK_MOCK_LAUNCH(dev, run_joint, a);
}
