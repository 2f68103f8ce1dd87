#include "learn/seen_mask.h"

#include <string.h>

#include "mask/mask.h"

static size_t n_weights(const lk_seen_mask *s) { return s->n_layers * s->n_kv_heads * s->head_dim; }

leank_status lk_seen_mask_open(const leank_model_info *info, lk_backend *backend, lk_seen_mask *out,
                               leank_error *err) {
  leank_status status = LEANK_OK;
  lk_seen_mask s = {
      backend, info->n_layers, info->n_kv_heads, info->head_dim, info->order, NULL, NULL, NULL};
  s.weight = backend->ops->alloc(backend, LK_MEM_OTHER, n_weights(&s) * sizeof(float));
  s.host = lk_alloc(LK_MEM_OTHER, n_weights(&s), sizeof(float));
  s.kind = lk_alloc(LK_MEM_OTHER, s.n_layers * s.n_kv_heads, sizeof *s.kind);
  LK_FAIL_IF(!s.weight || !s.host || !s.kind, err, LEANK_E_MEMORY, -1, "out of memory");
  *out = s;
cleanup:
  if (status != LEANK_OK) lk_seen_mask_close(&s);
  return status;
}

void lk_seen_mask_close(lk_seen_mask *s) {
  if (s->weight) s->backend->ops->free(s->backend, s->weight);
  lk_free(s->host);
  lk_free(s->kind);
  memset(s, 0, sizeof *s);
}

static void send(lk_seen_mask *s) {
  s->backend->ops->upload(s->backend, s->weight, s->host, n_weights(s) * sizeof(float));
}

void lk_seen_mask_set_dense(lk_seen_mask *s) {
  for (size_t i = 0; i < n_weights(s); i++) s->host[i] = 1;
  for (size_t h = 0; h < s->n_layers * s->n_kv_heads; h++) s->kind[h] = LK_WEIGHTED_PLAIN;
  send(s);
}

void lk_seen_mask_set_alpha(lk_seen_mask *s, const float *alpha, bool mean) {
  const size_t d = s->head_dim;
  for (size_t h = 0; h < s->n_layers * s->n_kv_heads; h++) {
    for (size_t c = 0; c < d; c++)
      s->host[h * d + lk_channel_from_half(s->order, d, c)] = alpha[h * d + c];
    s->kind[h] = mean ? LK_WEIGHTED_MEAN : LK_WEIGHTED_PLAIN;
  }
  send(s);
}

void lk_seen_mask_set_kept(lk_seen_mask *s, const uint8_t *kept, leank_policy policy,
                           bool mean_compensation, bool zero_logits) {
  const size_t d = s->head_dim;
  for (size_t h = 0; h < s->n_layers * s->n_kv_heads; h++) {
    size_t n_kept = 0;
    for (size_t c = 0; c < d; c++) {
      s->host[h * d + lk_channel_from_half(s->order, d, c)] = kept[h * d + c];
      n_kept += kept[h * d + c];
    }
    if (n_kept > 0)
      s->kind[h] = mean_compensation ? LK_WEIGHTED_MEAN : LK_WEIGHTED_PLAIN;
    else if (zero_logits)
      s->kind[h] = LK_WEIGHTED_PLAIN;
    else
      s->kind[h] = policy == LEANK_POLICY_MEAN ? LK_WEIGHTED_MEAN : LK_WEIGHTED_ABSENT;
  }
  send(s);
}
