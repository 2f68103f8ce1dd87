/* A model's weights on a device, made when they are first used and shared by its sessions. */
#include <pthread.h>
#include <string.h>

#include "backend/cuda.h"
#include "base/random_bf16.h"

/* Bytes of stored weights that go to the device at a time. */
enum { PIECE_BYTES = 16 << 20, PIECE_BLOCKS = 64 /* a multiple: destinations stay aligned */ };
enum { ALLOC_ALIGNMENT = 256 }; /* of the table's alloc */

typedef struct entry {
  const void *data; /* NULL: free */
  void *device;
  bool is_inside; /* of the block of another entry */
} entry;

struct lk_cuda_store {
  lk_cuda_store *next;
  const lk_cuda_api *api;
  int index;
  const void *model;
  size_t n_refs;
  lk_cuda_device *dev; /* its own stream: what is handed out is done */
  pthread_mutex_t lock;
  entry *entries; /* [n_slots], a power of 2; open addressing */
  size_t n_slots, n_entries;
  void *pinned[2], *raw; /* of PIECE_BYTES, or NULL */
};

static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER;
static lk_cuda_store *stores; /* those of a model */

/* ---- the map ---- */

static entry *slot_of(entry *entries, size_t n_slots, const void *data) {
  size_t i = (size_t)(((uint64_t)(uintptr_t)data * 0x9e3779b97f4a7c15u) >> 20) & (n_slots - 1);
  while (entries[i].data && entries[i].data != data) i = (i + 1) & (n_slots - 1);
  return &entries[i];
}

/* For n_more, fewer than 100: at most half of the slots are taken. */
static bool make_room(lk_cuda_store *s, size_t n_more) {
  if (2 * (s->n_entries + n_more) <= s->n_slots) return true;
  const size_t n = s->n_slots ? 2 * s->n_slots : 256;
  entry *entries = lk_alloc(LK_MEM_OTHER, n, sizeof *entries);
  if (!entries) return false;
  for (size_t i = 0; i < s->n_slots; i++)
    if (s->entries[i].data) *slot_of(entries, n, s->entries[i].data) = s->entries[i];
  lk_free(s->entries);
  s->entries = entries;
  s->n_slots = n;
  return true;
}

/* ---- opening and closing ---- */

static void destroy(lk_cuda_store *s) {
  if (s->dev) {
    for (size_t i = 0; i < s->n_slots; i++)
      if (s->entries[i].data && !s->entries[i].is_inside)
        s->api->free(s->dev, s->entries[i].device);
    if (s->raw) s->api->free(s->dev, s->raw);
    for (int i = 0; i < 2; i++)
      if (s->pinned[i]) s->api->free_pinned(s->dev, s->pinned[i]);
    s->api->close(s->dev);
  }
  pthread_mutex_destroy(&s->lock);
  lk_free(s->entries);
  lk_free(s);
}

leank_status lk_cuda_store_open(const lk_cuda_api *api, int device, const void *model,
                                lk_cuda_store **out, leank_error *err) {
  leank_status status = LEANK_OK;
  lk_cuda_store *s = NULL;
  pthread_mutex_lock(&list_lock);
  for (s = model ? stores : NULL; s; s = s->next)
    if (s->api == api && s->index == device && s->model == model) break;
  if (!s) {
    s = lk_alloc(LK_MEM_OTHER, 1, sizeof *s);
    LK_FAIL_IF(!s, err, LEANK_E_MEMORY, -1, "out of memory");
    *s = (lk_cuda_store){.api = api, .index = device, .model = model};
    pthread_mutex_init(&s->lock, NULL);
    status = api->open(device, &s->dev, err);
    if (status != LEANK_OK) {
      destroy(s);
      goto cleanup;
    }
    if (model) {
      s->next = stores;
      stores = s;
    }
  }
  s->n_refs++;
  *out = s;
cleanup:
  pthread_mutex_unlock(&list_lock);
  return status;
}

void lk_cuda_store_close(lk_cuda_store *s) {
  if (!s) return;
  pthread_mutex_lock(&list_lock);
  const bool last = --s->n_refs == 0;
  for (lk_cuda_store **at = &stores; last && *at; at = &(*at)->next)
    if (*at == s) {
      *at = s->next;
      break;
    }
  pthread_mutex_unlock(&list_lock);
  if (last) destroy(s);
}

/* ---- loading ---- */

static leank_status out_of_memory(size_t n_bytes, leank_error *err) {
  return lk_fail(err, LEANK_E_MEMORY, -1, "out of memory on the device: %zu bytes of weights",
                 n_bytes);
}

static leank_status open_pieces(lk_cuda_store *s, bool wants_raw, leank_error *err) {
  for (int i = 0; i < 2; i++)
    if (!s->pinned[i]) s->pinned[i] = s->api->alloc_pinned(s->dev, PIECE_BYTES);
  if (wants_raw && !s->raw) s->raw = s->api->alloc(s->dev, PIECE_BYTES);
  if (s->pinned[0] && s->pinned[1] && (!wants_raw || s->raw)) return LEANK_OK;
  return out_of_memory(PIECE_BYTES, err);
}

/* A piece is read from the file while the one before it is under way. */
static leank_status load_pieces(lk_cuda_store *s, const lk_tensor *w, uint16_t *to,
                                leank_error *err) {
  leank_status status = LEANK_OK;
  const bool is_bf16 = w->type == LK_BF16;
  const size_t per_block = lk_dtype_block_elements(w->type), n = w->n_rows * w->n_cols;
  const size_t block_bytes = lk_dtype_block_bytes(w->type);
  const size_t most = PIECE_BYTES / block_bytes / PIECE_BLOCKS * PIECE_BLOCKS * per_block;
  LK_TRY(open_pieces(s, !is_bf16, err));
  for (size_t at = 0, piece = 0; at < n; at += most, piece++) {
    const size_t count = n - at < most ? n - at : most, n_bytes = lk_dtype_bytes(w->type, count);
    void *pinned = s->pinned[piece % 2];
    memcpy(pinned, (const unsigned char *)w->data + lk_dtype_bytes(w->type, at), n_bytes);
    LK_TRY(s->api->sync(s->dev, err));
    s->api->upload(s->dev, is_bf16 ? to + at : s->raw, pinned, n_bytes);
    if (!is_bf16) s->api->widen(s->dev, w->type, s->raw, count, to + at);
  }
  LK_TRY(s->api->sync(s->dev, err));
cleanup:
  return status;
}

static leank_status make_random(lk_cuda_store *s, const lk_tensor *w, uint16_t *to,
                                leank_error *err) {
  const lk_random_source *source = w->data;
  s->api->random_bf16(s->dev, to, w->n_rows * w->n_cols, source->scale, source->seed);
  return s->api->sync(s->dev, err);
}

static leank_status load_bytes(lk_cuda_store *s, const void *data, size_t n_bytes, void *to,
                               leank_error *err) {
  s->api->upload(s->dev, to, data, n_bytes);
  return s->api->sync(s->dev, err);
}

/* What is asked for: a matrix, or, where w is NULL, n_bytes as they are. */
typedef struct item {
  const void *data;
  const lk_tensor *w;
  size_t n_bytes; /* on the device */
} item;

static leank_status load(lk_cuda_store *s, const item *it, void *to, leank_error *err) {
  if (!it->w) return load_bytes(s, it->data, it->n_bytes, to, err);
  if (it->w->type == LK_RANDOM) return make_random(s, it->w, to, err);
  return load_pieces(s, it->w, to, err);
}

/* Whether none of the items is there and, one behind the other, each is aligned as alloc does. */
static bool can_join(lk_cuda_store *s, const item *items, size_t n) {
  for (size_t i = 0; i < n; i++) {
    if (slot_of(s->entries, s->n_slots, items[i].data)->data) return false;
    if (i + 1 < n && items[i].n_bytes % ALLOC_ALIGNMENT != 0) return false;
    for (size_t j = 0; j < i; j++)
      if (items[j].data == items[i].data) return false;
  }
  return true;
}

/* Loads items that are not there into one block. */
static leank_status load_block(lk_cuda_store *s, const item *items, size_t n, leank_error *err) {
  leank_status status = LEANK_OK;
  size_t n_bytes = 0, at = 0;
  for (size_t i = 0; i < n; i++) n_bytes += items[i].n_bytes;
  unsigned char *block = s->api->alloc(s->dev, n_bytes);
  if (!block) return out_of_memory(n_bytes, err);
  for (size_t i = 0; i < n; at += items[i++].n_bytes) LK_TRY(load(s, &items[i], block + at, err));
  at = 0;
  for (size_t i = 0; i < n; at += items[i++].n_bytes)
    *slot_of(s->entries, s->n_slots, items[i].data) = (entry){items[i].data, block + at, i > 0};
  s->n_entries += n;
  block = NULL;
cleanup:
  if (block) s->api->free(s->dev, block);
  return status;
}

/* out[n]: where they are, one behind the other if possible. */
static leank_status get(lk_cuda_store *s, const item *items, size_t n, const void **out,
                        leank_error *err) {
  leank_status status = LEANK_OK;
  pthread_mutex_lock(&s->lock);
  LK_FAIL_IF(!make_room(s, n), err, LEANK_E_MEMORY, -1, "out of memory");
  if (n > 1 && can_join(s, items, n)) LK_TRY(load_block(s, items, n, err));
  for (size_t i = 0; i < n; i++) {
    if (!slot_of(s->entries, s->n_slots, items[i].data)->data)
      LK_TRY(load_block(s, &items[i], 1, err));
    out[i] = slot_of(s->entries, s->n_slots, items[i].data)->device;
  }
cleanup:
  pthread_mutex_unlock(&s->lock);
  return status;
}

static item matrix_item(const lk_tensor *w) {
  return (item){w->data, w, w->n_rows * w->n_cols * sizeof(uint16_t)};
}

leank_status lk_cuda_store_matrix(lk_cuda_store *s, const lk_tensor *w, const uint16_t **out,
                                  leank_error *err) {
  const void *p = NULL;
  const item it = matrix_item(w);
  const leank_status status = get(s, &it, 1, &p, err);
  *out = p;
  return status;
}

leank_status lk_cuda_store_vector(lk_cuda_store *s, const void *data, size_t n_bytes,
                                  const void **out, leank_error *err) {
  const item it = {data, NULL, n_bytes};
  return get(s, &it, 1, out, err);
}

leank_status lk_cuda_store_parts(lk_cuda_store *s, const lk_linear_part *parts, size_t n,
                                 lk_cuda_part *out, leank_error *err) {
  leank_status status = LEANK_OK;
  item matrices[LK_CUDA_MAX_PARTS], biases[LK_CUDA_MAX_PARTS];
  const void *w[LK_CUDA_MAX_PARTS], *bias[LK_CUDA_MAX_PARTS];
  size_t n_biases = 0;
  for (size_t i = 0; i < n; i++) {
    const lk_tensor *b = parts[i].bias;
    matrices[i] = matrix_item(parts[i].w);
    if (b && b->data)
      biases[n_biases++] = (item){b->data, NULL, parts[i].w->n_rows * sizeof(float)};
  }
  LK_TRY(get(s, matrices, n, w, err));
  LK_TRY(get(s, biases, n_biases, bias, err));
  for (size_t i = 0, next = 0; i < n; i++) {
    const lk_tensor *b = parts[i].bias;
    out[i].w = w[i];
    out[i].bias = b && b->data ? bias[next++] : NULL;
  }
cleanup:
  return status;
}
