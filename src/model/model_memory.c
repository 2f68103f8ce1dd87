/* Weights in memory of their own. A step of decoding reads every weight once: through pages of 4
 * KiB, as a mapped file has them, that is 15 % slower than through huge ones. */
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/available.h"
#include "model/model_loader.h"

enum { ALIGNMENT = 64, N_LAYER_MATRICES = 7 };
/* Less is within the reach of a processor's address translation anyway. */
static const size_t LEAST_BYTES = (size_t)32 << 20;

static size_t tensor_bytes(const lk_tensor *t) {
  const size_t n = t->n_rows * lk_tensor_row_bytes(t);
  return (n + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

/* Matrix i of those that every step reads, NULL behind the last. The input embedding is one only
 * where it is the output's too. */
static lk_tensor *matrix_at(leank_model *m, size_t i) {
  const size_t layer = i / N_LAYER_MATRICES;
  if (i == m->info.n_layers * N_LAYER_MATRICES) return &m->weights.output;
  if (layer >= m->info.n_layers) return NULL;
  lk_layer_weights *w = &m->weights.layers[layer];
  lk_tensor *all[N_LAYER_MATRICES] = {&w->q, &w->k, &w->v, &w->o, &w->gate, &w->up, &w->down};
  return all[i % N_LAYER_MATRICES];
}

/* The file's own pages are not needed any more; the system may have them back. */
static void forget(const void *data, size_t n_bytes) {
  const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
  const uintptr_t begin = ((uintptr_t)data + page - 1) / page * page;
  const uintptr_t end = ((uintptr_t)data + n_bytes) / page * page;
  if (begin < end) madvise((void *)begin, end - begin, MADV_DONTNEED);
}

static void move(leank_model *m, lk_tensor *t, unsigned char *to) {
  const void *old = t->data;
  const size_t n_bytes = t->n_rows * lk_tensor_row_bytes(t);
  memcpy(to, old, n_bytes);
  t->data = to;
  if (m->weights.embed.data == old) m->weights.embed.data = to;
  forget(old, n_bytes);
}

leank_status lk_model_to_memory(const char *path, leank_weights_place place, leank_model *m,
                                leank_error *err) {
  leank_status status = LEANK_OK;
  struct lk_model_files *files = m->files;
  size_t n_bytes = 0;
  for (size_t i = 0; matrix_at(m, i); i++) n_bytes += tensor_bytes(matrix_at(m, i));
  if (place == LEANK_WEIGHTS_MAPPED) return LEANK_OK;
  if (place == LEANK_WEIGHTS_AUTO && (n_bytes < LEAST_BYTES || n_bytes > lk_mem_available() / 2))
    return LEANK_OK;
  unsigned char *block = lk_alloc(LK_MEM_OTHER, n_bytes, 1);
  if (!block && place == LEANK_WEIGHTS_AUTO) return LEANK_OK;
  LK_FAIL_IF(!block, err, LEANK_E_MEMORY, -1, "%s: out of memory for %zu bytes of weights", path,
             n_bytes);
  files->memory = block;
  for (size_t i = 0; matrix_at(m, i); i++) {
    lk_tensor *t = matrix_at(m, i);
    const size_t n = tensor_bytes(t);
    move(m, t, block);
    block += n;
  }
cleanup:
  return status;
}
