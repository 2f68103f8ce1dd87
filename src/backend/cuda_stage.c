/* What goes to the device beside weights: rows, page lists, descriptions of heads. */
#include <stdio.h>
#include <string.h>

#include "backend/cuda.h"

enum { RING_BYTES = 4 << 20, ALIGNMENT = 16 };

static size_t aligned(size_t n) { return (n + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

/* ---- memory ---- */

leank_status lk_cuda_grow(lk_cuda_backend *cuda, lk_cuda_buffer *b, size_t n_bytes,
                          leank_error *err) {
  if (b->n_bytes >= n_bytes && b->p) return LEANK_OK;
  if (b->p) cuda->api->free(cuda->dev, b->p);
  *b = (lk_cuda_buffer){cuda->api->alloc(cuda->dev, n_bytes), n_bytes};
  if (b->p) return LEANK_OK;
  b->n_bytes = 0;
  return lk_fail(err, LEANK_E_MEMORY, -1, "out of memory on the device: %zu bytes", n_bytes);
}

/* Where the end is reached the device is waited for: then all of it is free. */
void *lk_cuda_ring_take(lk_cuda_backend *cuda, size_t n_bytes) {
  leank_error err = {0};
  if (cuda->recording) {
    lk_cuda_keep_failure(cuda, LEANK_E_STATE, "cuda: a copy from the host in a recorded step");
    return NULL;
  }
  if (aligned(n_bytes) > cuda->ring_bytes - cuda->ring_used) {
    if (cuda->api->sync(cuda->dev, &err) != LEANK_OK)
      lk_cuda_keep_failure(cuda, err.code, err.message);
    cuda->ring_used = 0;
  }
  if (aligned(n_bytes) > cuda->ring_bytes) {
    if (cuda->ring) cuda->api->free_pinned(cuda->dev, cuda->ring);
    cuda->ring_bytes = 2 * aligned(n_bytes);
    cuda->ring = cuda->api->alloc_pinned(cuda->dev, cuda->ring_bytes);
    if (!cuda->ring) {
      cuda->ring_bytes = 0;
      lk_cuda_keep_failure(cuda, LEANK_E_MEMORY, "out of pinned memory");
      return NULL;
    }
  }
  void *p = cuda->ring + cuda->ring_used;
  cuda->ring_used += aligned(n_bytes);
  return p;
}

/* Fixes where things lie: by what there is room for, not by what is there. */
static void lay_out(lk_cuda_staged *s) {
  size_t at = 0;
  s->pos = at;
  at += aligned(s->max_rows * sizeof(int64_t));
  s->groups = at;
  at += aligned((s->max_groups + 1) * sizeof(lk_cuda_group));
  s->slots = at;
  at += aligned(s->max_rows * sizeof(lk_slot));
  s->pack_from = at;
  at += aligned(s->max_groups * sizeof(lk_page_entry));
  s->pack_to = at;
  at += aligned(s->max_groups * sizeof(lk_page_entry));
  s->tokens = at;
  at += aligned(s->max_rows * sizeof(int32_t));
  s->tables = at;
}

static leank_status make_staged(lk_cuda_backend *cuda, lk_cuda_staged *s, size_t max_rows,
                                size_t max_groups, size_t max_entries, leank_error *err) {
  if (s->memory) cuda->api->free(cuda->dev, s->memory);
  *s = (lk_cuda_staged){.max_rows = max_rows, .max_groups = max_groups, .max_entries = max_entries};
  lay_out(s);
  const size_t n_bytes = s->tables + max_entries * sizeof(lk_page_entry);
  s->memory = cuda->api->alloc(cuda->dev, n_bytes);
  if (s->memory) return LEANK_OK;
  *s = (lk_cuda_staged){0};
  return lk_fail(err, LEANK_E_MEMORY, -1, "out of memory on the device: %zu bytes of page tables",
                 n_bytes);
}

leank_status lk_cuda_stage_open(lk_cuda_backend *cuda, leank_error *err) {
  leank_status status = LEANK_OK;
  const lk_backend_options *o = &cuda->options;
  const size_t n = o->max_few_rows > 0 ? o->max_few_rows : 1;
  cuda->ring = cuda->api->alloc_pinned(cuda->dev, RING_BYTES);
  LK_FAIL_IF(!cuda->ring, err, LEANK_E_MEMORY, -1, "out of pinned memory");
  cuda->ring_bytes = RING_BYTES;
  LK_TRY(make_staged(cuda, &cuda->few, n, n, n * o->max_pages, err));
  cuda->heads_room = lk_alloc(LK_MEM_OTHER, o->shape.n_kv_heads,
                              sizeof(lk_cuda_head) + o->shape.head_dim * sizeof(uint16_t));
  LK_FAIL_IF(!cuda->heads_room, err, LEANK_E_MEMORY, -1, "out of memory");
cleanup:
  return status;
}

void lk_cuda_stage_close(lk_cuda_backend *cuda) {
  const lk_cuda_api *api = cuda->api;
  lk_cuda_staged *staged[] = {&cuda->few, &cuda->many};
  for (size_t i = 0; i < 2; i++)
    if (staged[i]->memory) api->free(cuda->dev, staged[i]->memory);
  if (cuda->ring) api->free_pinned(cuda->dev, cuda->ring);
  for (size_t i = 0; i < cuda->n_heads; i++) {
    lk_free(cuda->heads[i].host);
    api->free(cuda->dev, cuda->heads[i].device);
  }
  lk_free(cuda->heads);
  lk_free(cuda->heads_room);
}

/* ---- rows ---- */

static size_t pages_seen(const lk_attend_group *g) {
  return ((size_t)g->first_pos + g->n_rows - 1) / LK_CUDA_P + 1;
}

static size_t count_entries(const lk_rows *rows) {
  size_t n = 0;
  for (size_t i = 0; i < rows->n_groups; i++) n += pages_seen(&rows->groups[i]);
  return n;
}

static bool fits(const lk_cuda_staged *s, const lk_rows *rows, size_t n_entries) {
  return s->memory && rows->n_rows <= s->max_rows && rows->n_groups <= s->max_groups &&
         rows->n_packed <= s->max_groups && n_entries <= s->max_entries;
}

static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

static void put(unsigned char *to, const void *from, size_t n, size_t size) {
  if (from && n > 0) memcpy(to, from, n * size);
}

static void put_groups(const lk_cuda_staged *s, const lk_rows *rows, unsigned char *memory) {
  lk_cuda_group *groups = (lk_cuda_group *)(memory + s->groups);
  lk_cuda_group sums = {0};
  for (size_t i = 0; i < rows->n_groups; i++) {
    const lk_attend_group *g = &rows->groups[i];
    const size_t n_pages = pages_seen(g), n_lean = g->n_middle / LK_CUDA_P;
    put(memory + s->tables + sums.table * sizeof(lk_page_entry), g->table, n_pages,
        sizeof(lk_page_entry));
    groups[i] = (lk_cuda_group){.first_row = g->first_row,
                                .n_rows = g->n_rows,
                                .first_pos = (uint64_t)g->first_pos,
                                .middle_begin = g->middle_begin,
                                .n_middle = g->n_middle,
                                .table = sums.table,
                                .wide_before = sums.wide_before,
                                .lean_before = sums.lean_before,
                                .mean = g->mean};
    sums.table += n_pages;
    sums.lean_before += n_lean;
    sums.wide_before += n_pages - n_lean;
  }
  groups[rows->n_groups] = sums;
}

leank_status lk_cuda_stage_rows(lk_backend *be, const lk_rows *rows, leank_error *err) {
  leank_status status = LEANK_OK;
  lk_cuda_backend *cuda = lk_cuda(be);
  const size_t n_entries = count_entries(rows);
  lk_cuda_staged *s = fits(&cuda->few, rows, n_entries) ? &cuda->few : &cuda->many;
  cuda->rows = NULL;
  if (!fits(s, rows, n_entries))
    LK_TRY(make_staged(cuda, s, larger(s->max_rows, rows->n_rows),
                       larger(s->max_groups, larger(rows->n_groups, rows->n_packed)),
                       larger(s->max_entries, n_entries), err));
  const size_t n_bytes = s->tables + n_entries * sizeof(lk_page_entry);
  unsigned char *memory = lk_cuda_ring_take(cuda, n_bytes);
  if (!memory) return lk_cuda_tell(cuda, err);
  put(memory + s->pos, rows->pos, rows->n_rows, sizeof(int64_t));
  put(memory + s->slots, rows->slots, rows->n_rows, sizeof(lk_slot));
  put(memory + s->tokens, rows->tokens, rows->n_rows, sizeof(int32_t));
  put(memory + s->pack_from, rows->pack_from, rows->n_packed, sizeof(lk_page_entry));
  put(memory + s->pack_to, rows->pack_to, rows->n_packed, sizeof(lk_page_entry));
  put_groups(s, rows, memory);
  cuda->api->upload(cuda->dev, s->memory, memory, n_bytes);
  cuda->max_rows = 0;
  for (size_t i = 0; i < rows->n_groups; i++)
    cuda->max_rows = larger(cuda->max_rows, rows->groups[i].n_rows);
  cuda->now = s;
  cuda->rows = rows;
cleanup:
  return status;
}

const lk_cuda_staged *lk_cuda_staged_of(lk_cuda_backend *cuda, const lk_rows *rows) {
  if (cuda->rows == rows) return cuda->now;
  lk_cuda_keep_failure(cuda, LEANK_E_STATE, "cuda: rows that are not staged");
  return NULL;
}

/* ---- views ---- */

static size_t heads_bytes(const lk_cuda_backend *cuda) {
  const lk_attn_shape *s = &cuda->options.shape;
  return s->n_kv_heads * (sizeof(lk_cuda_head) + s->head_dim * sizeof(uint16_t));
}

static void describe_heads(const lk_cuda_backend *cuda, const lk_layer_view *view,
                           unsigned char *to) {
  const size_t n_heads = cuda->options.shape.n_kv_heads, d = cuda->options.shape.head_dim;
  lk_cuda_head *heads = (lk_cuda_head *)to;
  uint16_t *channels = (uint16_t *)(heads + n_heads);
  memset(to, 0, heads_bytes(cuda));
  for (size_t h = 0; h < n_heads; h++) {
    const lk_head_map *head = &view->heads[h];
    heads[h] =
        (lk_cuda_head){.n_kept = (uint32_t)head->n_kept,
                       .n_padded = (uint32_t)head->n_padded,
                       .lean_offset = view->lean_offset ? (uint32_t)view->lean_offset[h] : 0};
    put((unsigned char *)(channels + h * d), head->channels, head->n_kept, sizeof(uint16_t));
    put((unsigned char *)(channels + h * d + head->n_kept), head->dropped, d - head->n_kept,
        sizeof(uint16_t));
  }
}

static bool send(lk_cuda_backend *cuda, void *to, const void *from, size_t n_bytes) {
  void *pinned = lk_cuda_ring_take(cuda, n_bytes);
  if (!pinned) return false;
  memcpy(pinned, from, n_bytes);
  cuda->api->upload(cuda->dev, to, pinned, n_bytes);
  return true;
}

static lk_cuda_heads *add_heads(lk_cuda_backend *cuda, const lk_head_map *key) {
  lk_cuda_heads *grown =
      lk_grow(cuda->heads, LK_MEM_OTHER, cuda->n_heads, &cuda->max_heads, sizeof *grown);
  if (!grown) return NULL;
  cuda->heads = grown;
  lk_cuda_heads h = {.key = key, .host = lk_alloc(LK_MEM_OTHER, heads_bytes(cuda), 1)};
  h.device = h.host ? cuda->api->alloc(cuda->dev, heads_bytes(cuda)) : NULL;
  if (!h.device) {
    lk_free(h.host);
    return NULL;
  }
  cuda->heads[cuda->n_heads] = h;
  return &cuda->heads[cuda->n_heads++];
}

/* The device's description of the view's heads. The host's memory may be another mask's by now:
 * what is there is compared. */
static const unsigned char *find_heads(lk_cuda_backend *cuda, const lk_layer_view *view) {
  lk_cuda_heads *at = NULL;
  describe_heads(cuda, view, cuda->heads_room);
  for (size_t i = 0; i < cuda->n_heads && !at; i++)
    if (cuda->heads[i].key == view->heads) at = &cuda->heads[i];
  if (!at && !cuda->recording) at = add_heads(cuda, view->heads);
  if (!at) {
    lk_cuda_keep_failure(cuda, LEANK_E_MEMORY, "out of memory for a layer's heads");
    return NULL;
  }
  if (at->is_sent && memcmp(at->host, cuda->heads_room, heads_bytes(cuda)) == 0) return at->device;
  memcpy(at->host, cuda->heads_room, heads_bytes(cuda));
  at->is_sent = send(cuda, at->device, at->host, heads_bytes(cuda));
  return at->is_sent ? at->device : NULL;
}

bool lk_cuda_make_view(lk_cuda_backend *cuda, const lk_layer_view *view, lk_cuda_view *out) {
  const lk_attn_shape *s = &cuda->options.shape;
  const unsigned char *heads = view->heads ? find_heads(cuda, view) : NULL;
  *out = (lk_cuda_view){.n_heads = (uint32_t)s->n_heads,
                        .n_kv_heads = (uint32_t)s->n_kv_heads,
                        .head_dim = (uint32_t)s->head_dim,
                        .is_f16 = cuda->options.kv_type == LEANK_KV_F16};
  for (int k = 0; k < LK_N_PAGE_KINDS; k++) {
    out->arena[k] = view->arena[k];
    out->page_bytes[k] = view->page_bytes[k];
  }
  if (!heads) return !view->heads;
  out->heads = (const lk_cuda_head *)heads;
  out->channels = (const uint16_t *)(heads + s->n_kv_heads * sizeof(lk_cuda_head));
  return true;
}
