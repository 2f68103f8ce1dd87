/* Pages and attention on a CUDA device. */
#include <string.h>

#include "backend/cuda.h"
#include "backend/flops.h"

/* The lists on the device, one behind the other; false: a failure is kept. */
static bool send_lists(lk_cuda_backend *cuda, const lk_page_entry *a, const lk_page_entry *b,
                       size_t n, const lk_page_entry **device) {
  leank_error err = {0};
  const size_t n_bytes = n * sizeof *a;
  lk_page_entry *pinned = lk_cuda_ring_take(cuda, 2 * n_bytes);
  if (!pinned) return false;
  if (lk_cuda_grow(cuda, &cuda->pages, 2 * n_bytes, &err) != LEANK_OK) {
    lk_cuda_keep_failure(cuda, err.code, err.message);
    return false;
  }
  memcpy(pinned, a, n_bytes);
  if (b) memcpy(pinned + n, b, n_bytes);
  cuda->api->upload(cuda->dev, cuda->pages.p, pinned, (b ? 2 : 1) * n_bytes);
  *device = cuda->pages.p;
  return true;
}

/* Both views and both lists as the kernels read them; false: nothing to do, or a failure is kept.
 */
static bool send_transfer(lk_cuda_backend *cuda, const lk_layer_view *src,
                          const lk_page_entry *from, const lk_layer_view *dst,
                          const lk_page_entry *to, size_t n_pages, lk_cuda_view *a, lk_cuda_view *b,
                          const lk_page_entry **lists) {
  return n_pages > 0 && lk_cuda_make_view(cuda, src, a) && lk_cuda_make_view(cuda, dst, b) &&
         send_lists(cuda, from, to, n_pages, lists);
}

void lk_cuda_op_append(lk_backend *be, const lk_attn_shape *shape, const lk_layer_view *view,
                       const lk_rows *rows, size_t first, size_t n, const float *k,
                       const float *v) {
  lk_cuda_backend *cuda = lk_cuda(be);
  const lk_cuda_staged *s = lk_cuda_staged_of(cuda, rows);
  const size_t width = shape->n_kv_heads * shape->head_dim;
  lk_cuda_view own;
  if (!s || n == 0 || !lk_cuda_make_view(cuda, view, &own)) return;
  cuda->api->append(cuda->dev, &own, k + first * width, v + first * width, n,
                    (const lk_slot *)(s->memory + s->slots) + first);
}

void lk_cuda_op_rope_append(lk_backend *be, const lk_attn_shape *shape, const lk_layer_view *view,
                            const lk_rows *rows, leank_channel_order order, const float *cos_sin,
                            float *q, float *k, const float *v) {
  (void)shape;
  lk_cuda_backend *cuda = lk_cuda(be);
  const lk_cuda_staged *s = lk_cuda_staged_of(cuda, rows);
  lk_cuda_view own;
  if (!s || !lk_cuda_make_view(cuda, view, &own)) return;
  cuda->api->rope_append(cuda->dev, &own, q, k, v, rows->n_rows, order == LEANK_ORDER_PAIRS,
                         cos_sin, (const lk_slot *)(s->memory + s->slots));
}

void lk_cuda_op_pack(lk_backend *be, const lk_attn_shape *shape, const lk_layer_view *src,
                     const lk_page_entry *from, const lk_layer_view *dst, const lk_page_entry *to,
                     size_t n_pages) {
  (void)shape;
  lk_cuda_backend *cuda = lk_cuda(be);
  const lk_page_entry *lists;
  lk_cuda_view a, b;
  if (send_transfer(cuda, src, from, dst, to, n_pages, &a, &b, &lists))
    cuda->api->pack(cuda->dev, &a, lists, &b, lists + n_pages, n_pages);
}

void lk_cuda_op_pack_rows(lk_backend *be, const lk_attn_shape *shape, const lk_layer_view *view,
                          const lk_rows *rows) {
  (void)shape;
  lk_cuda_backend *cuda = lk_cuda(be);
  const lk_cuda_staged *s = lk_cuda_staged_of(cuda, rows);
  lk_cuda_view own;
  if (!s || rows->n_packed == 0 || !lk_cuda_make_view(cuda, view, &own)) return;
  cuda->api->pack(cuda->dev, &own, (const lk_page_entry *)(s->memory + s->pack_from), &own,
                  (const lk_page_entry *)(s->memory + s->pack_to), rows->n_packed);
}

void lk_cuda_op_copy_pages(lk_backend *be, const lk_layer_view *src, const lk_page_entry *from,
                           const lk_layer_view *dst, const lk_page_entry *to, size_t n_pages) {
  lk_cuda_backend *cuda = lk_cuda(be);
  const lk_page_entry *lists;
  lk_cuda_view a, b;
  if (send_transfer(cuda, src, from, dst, to, n_pages, &a, &b, &lists))
    cuda->api->copy_pages(cuda->dev, &a, lists, &b, lists + n_pages, n_pages);
}

void lk_cuda_op_sum_pages(lk_backend *be, const lk_attn_shape *shape, const lk_layer_view *view,
                          const lk_page_entry *pages, size_t n_pages, float *sums) {
  (void)shape;
  lk_cuda_backend *cuda = lk_cuda(be);
  const lk_page_entry *lists;
  lk_cuda_view own;
  if (n_pages == 0 || !lk_cuda_make_view(cuda, view, &own) ||
      !send_lists(cuda, pages, NULL, n_pages, &lists))
    return;
  cuda->api->sum_pages(cuda->dev, &own, lists, n_pages, sums);
}

void lk_cuda_op_sum_rows(lk_backend *be, const lk_attn_shape *shape, const lk_layer_view *view,
                         const lk_rows *rows) {
  (void)shape;
  lk_cuda_backend *cuda = lk_cuda(be);
  const lk_cuda_staged *s = lk_cuda_staged_of(cuda, rows);
  lk_cuda_view own;
  if (!s || rows->n_packed == 0 || !lk_cuda_make_view(cuda, view, &own)) return;
  cuda->api->sum_rows(cuda->dev, &own, (const lk_page_entry *)(s->memory + s->pack_from),
                      rows->n_packed, (const lk_cuda_group *)(s->memory + s->groups),
                      view->mean_offset);
}

static leank_status attend_few(lk_cuda_backend *cuda, const lk_cuda_view *view,
                               const lk_cuda_staged *s, const lk_cuda_means *means,
                               const lk_rows *rows, size_t first, size_t n, const float *q,
                               float *out, leank_error *err) {
  if (first != 0 || n != rows->n_groups || n > cuda->few.max_groups)
    return lk_fail(err, LEANK_E_STATE, -1, "cuda: a step attends with all of its rows, at most %zu",
                   cuda->few.max_groups);
  const lk_cuda_decode job = {
      .view = *view,
      .groups = (const lk_cuda_group *)(s->memory + s->groups),
      .n_groups = (uint32_t)n,
      .tables = (const lk_page_entry *)(s->memory + s->tables),
      .q = q,
      .out = out,
      .scratch = cuda->partials.p,
      .max_pages = (uint32_t)cuda->options.max_pages,
      .settled = cuda->step != NULL,
      .means = *means,
      .mean_logits = means->for_pruned || means->for_empty ? cuda->mean_logits.p : NULL};
  cuda->api->decode(cuda->dev, &job);
  return LEANK_OK;
}

leank_status lk_cuda_op_attend(lk_backend *be, lk_linear_kind kind, const lk_attn_shape *shape,
                               const lk_layer_view *view, const lk_rows *rows, size_t first,
                               size_t n, const float *q, float *out, leank_error *err) {
  lk_cuda_backend *cuda = lk_cuda(be);
  const lk_cuda_staged *s = lk_cuda_staged_of(cuda, rows);
  const lk_cuda_means means = {shape->mean_for_pruned, shape->mean_for_empty, view->mean_offset};
  lk_cuda_view own;
  if (!s || !lk_cuda_make_view(cuda, view, &own)) return lk_cuda_tell(cuda, err);
  for (size_t i = first; i < first + n; i++)
    cuda->n_flops += lk_attend_flops(shape, view, &rows->groups[i]);
  if (kind == LK_LINEAR_FEW) return attend_few(cuda, &own, s, &means, rows, first, n, q, out, err);
  const lk_cuda_attend_rows job = {.view = own,
                                   .groups = (const lk_cuda_group *)(s->memory + s->groups) + first,
                                   .n_groups = (uint32_t)n,
                                   .max_rows = cuda->max_rows,
                                   .tables = (const lk_page_entry *)(s->memory + s->tables),
                                   .q = q,
                                   .out = out,
                                   .means = means};
  cuda->api->attend_rows(cuda->dev, &job);
  return LEANK_OK;
}
