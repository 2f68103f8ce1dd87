/* Which weights are these? See model_loader.h for what is hashed. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "model/model_loader.h"

static uint64_t add_bytes(uint64_t hash, const void *bytes, size_t n) {
  const unsigned char *p = bytes;
  for (size_t i = 0; i < n; i++) hash = (hash ^ p[i]) * 0x100000001b3u;
  return hash;
}

static uint64_t add_size(uint64_t hash, size_t value) {
  unsigned char le[8];
  for (size_t i = 0; i < sizeof le; i++) le[i] = (unsigned char)((uint64_t)value >> (8 * i));
  return add_bytes(hash, le, sizeof le);
}

static uint64_t add_text(uint64_t hash, const char *text) {
  return add_bytes(hash, text, strlen(text) + 1);
}

static size_t probed_bytes(const lk_model_entry *e) {
  return e->n_bytes < LK_PROBE_BYTES ? e->n_bytes : LK_PROBE_BYTES;
}

static uint64_t add_probes(uint64_t hash, const lk_model_entry *e) {
  const unsigned char *data = e->tensor.data;
  const size_t piece = LK_PROBE_BYTES / LK_N_PROBES;
  if (e->n_bytes <= LK_PROBE_BYTES) return add_bytes(hash, data, e->n_bytes);
  const size_t step = (e->n_bytes - piece) / (LK_N_PROBES - 1);
  for (size_t i = 0; i + 1 < LK_N_PROBES; i++) hash = add_bytes(hash, data + i * step, piece);
  return add_bytes(hash, data + e->n_bytes - piece, piece);
}

static uint64_t add_description(uint64_t hash, const leank_model_info *m) {
  const size_t sizes[] = {m->n_layers, m->n_heads, m->n_kv_heads, m->head_dim,
                          m->hidden,   m->ffn,     m->n_vocab};
  hash = add_text(hash, m->architecture);
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) hash = add_size(hash, sizes[i]);
  return hash;
}

void lk_model_fingerprint(const struct lk_model_files *files, leank_model_info *info,
                          const leank_model_options *options) {
  uint64_t hash = add_description(0xcbf29ce484222325u, info), done = 0, total = 0;
  for (size_t i = 0; i < files->n_bound; i++) total += probed_bytes(files->bound[i]);
  for (size_t i = 0; i < files->n_bound; i++) {
    const lk_model_entry *e = files->bound[i];
    hash = add_text(hash, e->type_name);
    hash = add_size(hash, e->n_bytes);
    hash = add_probes(hash, e);
    done += probed_bytes(e);
    if (options && options->on_progress) options->on_progress(options->user, done, total);
  }
  snprintf(info->fingerprint, sizeof info->fingerprint, "%016" PRIx64, hash);
}
