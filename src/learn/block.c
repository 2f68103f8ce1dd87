#include "learn/block.h"

#include <string.h>

#include "learn/kv_file.h"

/* Points every answer into the block and the numbers. */
static void lay_out(const lk_prefill *p, lk_read_context *rc) {
  unsigned char *at = rc->block + p->model->info.n_layers * rc->n_pages * p->page_bytes;
  float *hidden = rc->numbers;
  for (size_t i = 0; i < rc->n_answers; i++) {
    rc->answers[i].tail = at;
    rc->answers[i].hidden = hidden;
    at += p->model->info.n_layers * rc->answers[i].n_tail * p->page_bytes;
    hidden += rc->answers[i].n_rows * p->model->info.hidden;
  }
}

/* ---- blocks of a device ---- */

/* Frees the block that was used longest ago, before `since`, of those that have a file. False:
 * there is none. */
static bool free_oldest(lk_prefill *p, uint64_t since) {
  lk_read_context *oldest = NULL;
  for (size_t i = 0; i < p->n_contexts; i++) {
    lk_read_context *rc = &p->contexts[i];
    if (rc->block && rc->has_file && rc->used < since && (!oldest || rc->used < oldest->used))
      oldest = rc;
  }
  if (!oldest) return false;
  p->backend->ops->free(p->backend, oldest->block);
  oldest->block = NULL;
  return true;
}

/* Others give way where the device is full, up to what is to stay free. */
static leank_status alloc_block(lk_prefill *p, lk_read_context *rc, uint64_t since,
                                leank_error *err) {
  const lk_backend_ops *ops = p->backend->ops;
  do {
    void *free_bytes = p->headroom ? ops->alloc(p->backend, LK_MEM_SCRATCH, p->headroom) : NULL;
    if (free_bytes || !p->headroom)
      rc->block = ops->alloc(p->backend, LK_MEM_DENSE, rc->block_bytes);
    if (free_bytes) ops->free(p->backend, free_bytes);
    if (rc->block) return LEANK_OK;
  } while (free_oldest(p, since) || (p->beside && free_oldest(p->beside, UINT64_MAX)));
  return lk_fail(err, LEANK_E_MEMORY, -1, "out of memory: %zu bytes for the K and V of a context",
                 rc->block_bytes);
}

leank_status lk_block_open(lk_prefill *p, lk_read_context *rc, leank_error *err) {
  rc->used = ++p->clock;
  const leank_status status = alloc_block(p, rc, rc->used, err);
  if (status != LEANK_OK) return status;
  rc->numbers = lk_alloc(LK_MEM_DENSE, rc->number_bytes, 1);
  if (!rc->numbers) return lk_fail(err, LEANK_E_MEMORY, -1, "out of memory");
  lay_out(p, rc);
  return LEANK_OK;
}

/* Brings a block back whose file was written or read before. */
static leank_status bring(lk_prefill *p, lk_read_context *rc, uint64_t since, leank_error *err) {
  leank_status status = LEANK_OK;
  if (rc->block) return LEANK_OK;
  if (!rc->mapping)
    rc->pages = lk_kv_file_map(p->folder, rc->key, rc->block_bytes, rc->number_bytes, &rc->mapping,
                               &rc->mapping_bytes);
  LK_FAIL_IF(!rc->pages, err, LEANK_E_IO, -1, "%s: the file of a context is gone", p->folder);
  LK_TRY(alloc_block(p, rc, since, err));
  p->backend->ops->upload(p->backend, rc->block, rc->pages, rc->block_bytes);
  lay_out(p, rc);
cleanup:
  return status;
}

leank_status lk_prefill_hold(lk_prefill *p, lk_answer *const *answers, size_t n, leank_error *err) {
  const uint64_t since = p->clock + 1;
  for (size_t i = 0; i < n; i++) answers[i]->context->used = ++p->clock;
  for (size_t i = 0; i < n; i++) {
    const leank_status status = bring(p, answers[i]->context, since, err);
    if (status != LEANK_OK) return status;
  }
  return LEANK_OK;
}

/* ---- files ---- */

leank_status lk_block_read(lk_prefill *p, lk_read_context *rc, leank_error *err) {
  leank_status status = LEANK_OK;
  rc->pages = lk_kv_file_map(p->folder, rc->key, rc->block_bytes, rc->number_bytes, &rc->mapping,
                             &rc->mapping_bytes);
  if (!rc->pages) return LEANK_OK;
  if (p->backend->ops->on_host) {
    rc->block = rc->pages;
    rc->numbers = (float *)(void *)(rc->pages + rc->block_bytes);
    lay_out(p, rc);
    return LEANK_OK;
  }
  LK_TRY(lk_block_open(p, rc, err));
  p->backend->ops->upload(p->backend, rc->block, rc->pages, rc->block_bytes);
  memcpy(rc->numbers, rc->pages + rc->block_bytes, rc->number_bytes);
  rc->has_file = true;
cleanup:
  return status;
}

static leank_status write_device(lk_prefill *p, lk_read_context *rc, leank_error *err) {
  leank_status status = LEANK_OK;
  unsigned char *pages = lk_alloc(LK_MEM_PREFILL, rc->block_bytes, 1);
  const lk_kv_content content = {pages, rc->block_bytes, (const unsigned char *)rc->numbers,
                                 rc->number_bytes};
  LK_FAIL_IF(!pages, err, LEANK_E_MEMORY, -1, "out of memory to write %zu bytes of K and V",
             rc->block_bytes);
  LK_TRY(p->backend->ops->download(p->backend, pages, rc->block, rc->block_bytes, err));
  LK_TRY(lk_kv_file_write(p->folder, rc->key, &content, err));
  rc->has_file = true;
cleanup:
  lk_free(pages);
  return status;
}

leank_status lk_block_write(lk_prefill *p, lk_read_context *rc, leank_error *err) {
  leank_status status = LEANK_OK;
  if (!p->backend->ops->on_host) return write_device(p, rc, err);
  unsigned char *block = rc->block;
  float *numbers = rc->numbers;
  const lk_kv_content content = {block, rc->block_bytes, (const unsigned char *)numbers,
                                 rc->number_bytes};
  LK_TRY(lk_kv_file_write(p->folder, rc->key, &content, err));
  LK_TRY(lk_block_read(p, rc, err));
  if (!rc->mapping) goto cleanup;
  p->backend->ops->free(p->backend, block);
  lk_free(numbers);
cleanup:
  return status;
}

void lk_prefill_drop(lk_prefill *p, size_t i) {
  lk_read_context *rc = &p->contexts[i];
  const bool is_mapped = rc->mapping && rc->block == rc->pages;
  if (rc->block && !is_mapped) p->backend->ops->free(p->backend, rc->block);
  if (!is_mapped) lk_free(rc->numbers);
  if (rc->mapping) lk_kv_file_unmap(rc->mapping, rc->mapping_bytes);
  rc->block = rc->pages = NULL;
  rc->numbers = NULL;
  rc->mapping = NULL;
  rc->has_file = false;
}
