/* oneDNN's matmul as the tile product; API versions 2 and 3. */
#include "backend/gemm_tiles.h"

#if defined(LEANK_HAVE_ONEDNN)

#include <omp.h>
#include <oneapi/dnnl/dnnl.h>

#include "base/alloc.h"

struct lk_tile_product {
  dnnl_engine_t engine;
  dnnl_stream_t stream;
  dnnl_primitive_t matmul, reorder;
  dnnl_memory_t x, plain, packed, out;
  size_t packed_bytes;
};

const char *lk_tile_library(bool bf16) { return bf16 ? "gemm_bf16_onednn" : "gemm_f32_onednn"; }

/* Element (i, j) lies at i * strides[0] + j * strides[1]. */
static dnnl_status_t make_memory(lk_tile_product *p, const dnnl_dims_t dims, dnnl_data_type_t type,
                                 const dnnl_dims_t strides, dnnl_memory_t *out) {
#if DNNL_VERSION_MAJOR >= 3
  dnnl_memory_desc_t md;
  dnnl_status_t s = dnnl_memory_desc_create_with_strides(&md, 2, dims, type, strides);
  if (s != dnnl_success) return s;
  s = dnnl_memory_create(out, md, p->engine, DNNL_MEMORY_NONE);
  dnnl_memory_desc_destroy(md);
  return s;
#else
  dnnl_memory_desc_t md;
  dnnl_status_t s = dnnl_memory_desc_init_by_strides(&md, 2, dims, type, strides);
  return s == dnnl_success ? dnnl_memory_create(out, &md, p->engine, DNNL_MEMORY_NONE) : s;
#endif
}

static dnnl_status_t make_memories(lk_tile_product *p, int64_t m, int64_t n, int64_t k,
                                   lk_tile_order order, int64_t stride, dnnl_data_type_t type) {
  const bool n_k = order == LK_TILE_N_K;
  const dnnl_dims_t x = {m, k}, plain = {k, n}, out = {m, n};
  const dnnl_dims_t x_strides = {k, 1}, out_strides = {n, 1};
  const dnnl_dims_t plain_strides = {n_k ? 1 : stride, n_k ? stride : 1};
  dnnl_status_t s = make_memory(p, x, type, x_strides, &p->x);
  if (s == dnnl_success) s = make_memory(p, plain, type, plain_strides, &p->plain);
  return s == dnnl_success ? make_memory(p, out, dnnl_f32, out_strides, &p->out) : s;
}

/* Creates the matmul with weights in the order it likes best, and memory for those. */
static dnnl_status_t make_matmul(lk_tile_product *p, int64_t m, int64_t n, int64_t k,
                                 dnnl_data_type_t type, dnnl_primitive_desc_t *out_pd) {
  const dnnl_dims_t xd = {m, k}, wd = {k, n}, od = {m, n};
  dnnl_status_t s;
#if DNNL_VERSION_MAJOR >= 3
  dnnl_memory_desc_t x = NULL, w = NULL, o = NULL;
  s = dnnl_memory_desc_create_with_tag(&x, 2, xd, type, dnnl_ab);
  if (s == dnnl_success) s = dnnl_memory_desc_create_with_tag(&w, 2, wd, type, dnnl_format_tag_any);
  if (s == dnnl_success) s = dnnl_memory_desc_create_with_tag(&o, 2, od, dnnl_f32, dnnl_ab);
  if (s == dnnl_success)
    s = dnnl_matmul_primitive_desc_create(out_pd, p->engine, x, w, NULL, o, NULL);
  dnnl_memory_desc_destroy(x);
  dnnl_memory_desc_destroy(w);
  dnnl_memory_desc_destroy(o);
  if (s != dnnl_success) return s;
  const_dnnl_memory_desc_t packed = dnnl_primitive_desc_query_md(*out_pd, dnnl_query_weights_md, 0);
#else
  dnnl_memory_desc_t x, w, o;
  dnnl_matmul_desc_t desc;
  s = dnnl_memory_desc_init_by_tag(&x, 2, xd, type, dnnl_ab);
  if (s == dnnl_success) s = dnnl_memory_desc_init_by_tag(&w, 2, wd, type, dnnl_format_tag_any);
  if (s == dnnl_success) s = dnnl_memory_desc_init_by_tag(&o, 2, od, dnnl_f32, dnnl_ab);
  if (s == dnnl_success) s = dnnl_matmul_desc_init(&desc, &x, &w, NULL, &o);
  if (s == dnnl_success) s = dnnl_primitive_desc_create(out_pd, &desc, NULL, p->engine, NULL);
  if (s != dnnl_success) return s;
  const dnnl_memory_desc_t *packed =
      dnnl_primitive_desc_query_md(*out_pd, dnnl_query_weights_md, 0);
#endif
  p->packed_bytes = dnnl_memory_desc_get_size(packed);
  s = dnnl_memory_create(&p->packed, packed, p->engine, DNNL_MEMORY_NONE);
  return s == dnnl_success ? dnnl_primitive_create(&p->matmul, *out_pd) : s;
}

static dnnl_status_t make_reorder(lk_tile_product *p) {
  dnnl_primitive_desc_t pd = NULL;
#if DNNL_VERSION_MAJOR >= 3
  const_dnnl_memory_desc_t from, to;
#else
  const dnnl_memory_desc_t *from, *to;
#endif
  dnnl_status_t s = dnnl_memory_get_memory_desc(p->plain, &from);
  if (s == dnnl_success) s = dnnl_memory_get_memory_desc(p->packed, &to);
  if (s == dnnl_success)
    s = dnnl_reorder_primitive_desc_create(&pd, from, p->engine, to, p->engine, NULL);
  if (s == dnnl_success) s = dnnl_primitive_create(&p->reorder, pd);
  dnnl_primitive_desc_destroy(pd);
  return s;
}

leank_status lk_tile_open(bool bf16, size_t n_rows, size_t n_cols, size_t k, lk_tile_order order,
                          size_t stride, lk_tile_product **out, leank_error *err) {
  leank_status status = LEANK_OK;
  const dnnl_data_type_t type = bf16 ? dnnl_bf16 : dnnl_f32;
  const int64_t m = (int64_t)n_rows, n = (int64_t)n_cols, kk = (int64_t)k;
  dnnl_primitive_desc_t pd = NULL;
  /* The product is made for one thread: gemm.c deals tiles, and no sum is split between threads. */
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  lk_tile_product *p = lk_alloc(LK_MEM_OTHER, 1, sizeof *p);
  LK_FAIL_IF(!p, err, LEANK_E_MEMORY, -1, "out of memory");
  dnnl_status_t s = dnnl_engine_create(&p->engine, dnnl_cpu, 0);
  if (s == dnnl_success) s = dnnl_stream_create(&p->stream, p->engine, dnnl_stream_default_flags);
  if (s == dnnl_success) s = make_matmul(p, m, n, kk, type, &pd);
  if (s == dnnl_success) s = make_memories(p, m, n, kk, order, (int64_t)stride, type);
  if (s == dnnl_success) s = make_reorder(p);
  LK_FAIL_IF(s != dnnl_success, err, s == dnnl_out_of_memory ? LEANK_E_MEMORY : LEANK_E_UNSUPPORTED,
             -1, "oneDNN cannot make a %s product of %zu x %zu x %zu (status %d)",
             bf16 ? "bf16" : "fp32", n_rows, n_cols, k, (int)s);
  *out = p;
cleanup:
  omp_set_num_threads(threads);
  dnnl_primitive_desc_destroy(pd);
  if (status != LEANK_OK) lk_tile_close(&p);
  return status;
}

void lk_tile_close(lk_tile_product **product) {
  lk_tile_product *p = *product;
  if (!p) return;
  if (p->reorder) dnnl_primitive_destroy(p->reorder);
  if (p->matmul) dnnl_primitive_destroy(p->matmul);
  if (p->x) dnnl_memory_destroy(p->x);
  if (p->plain) dnnl_memory_destroy(p->plain);
  if (p->packed) dnnl_memory_destroy(p->packed);
  if (p->out) dnnl_memory_destroy(p->out);
  if (p->stream) dnnl_stream_destroy(p->stream);
  if (p->engine) dnnl_engine_destroy(p->engine);
  lk_free(p);
  *product = NULL;
}

size_t lk_tile_packed_bytes(const lk_tile_product *product) { return product->packed_bytes; }

static leank_status as_status(dnnl_status_t s, leank_error *err) {
  return s == dnnl_success
             ? LEANK_OK
             : lk_fail(err, LEANK_E_STATE, -1, "oneDNN failed with status %d", (int)s);
}

leank_status lk_tile_pack(const lk_tile_product *p, void *plain, void *packed, leank_error *err) {
  dnnl_status_t s = dnnl_memory_set_data_handle(p->plain, plain);
  if (s == dnnl_success) s = dnnl_memory_set_data_handle(p->packed, packed);
  const dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, p->plain}, {DNNL_ARG_TO, p->packed}};
  if (s == dnnl_success) s = dnnl_primitive_execute(p->reorder, p->stream, 2, args);
  if (s == dnnl_success) s = dnnl_stream_wait(p->stream);
  return as_status(s, err);
}

leank_status lk_tile_run(const lk_tile_product *p, void *x, void *packed, float *out,
                         leank_error *err) {
  dnnl_status_t s = dnnl_memory_set_data_handle(p->x, x);
  if (s == dnnl_success) s = dnnl_memory_set_data_handle(p->packed, packed);
  if (s == dnnl_success) s = dnnl_memory_set_data_handle(p->out, out);
  const dnnl_exec_arg_t args[] = {
      {DNNL_ARG_SRC, p->x}, {DNNL_ARG_WEIGHTS, p->packed}, {DNNL_ARG_DST, p->out}};
  if (s == dnnl_success) s = dnnl_primitive_execute(p->matmul, p->stream, 3, args);
  if (s == dnnl_success) s = dnnl_stream_wait(p->stream);
  return as_status(s, err);
}

#endif
