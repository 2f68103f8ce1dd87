#include "backend/flops.h"

double lk_product_flops(const lk_tensor *w, size_t n_rows) {
  return 2 * (double)n_rows * (double)w->n_rows * (double)w->n_cols;
}

/* Keys of the page that begins at position `start`, summed over queries at positions up to last. */
static double seen_until(int64_t start, int64_t last) {
  const double n = (double)(last + 1 - start), page = LEANK_PAGE_TOKENS;
  if (n <= 0) return 0;
  return n <= page ? n * (n + 1) / 2 : page * (page + 1) / 2 + (n - page) * page;
}

/* Two operations a channel of K and of V, for each query head and key it sees. */
double lk_attend_flops(const lk_attn_shape *s, const lk_layer_view *view,
                       const lk_attend_group *g) {
  const int64_t last = g->first_pos + (int64_t)g->n_rows - 1;
  double keys[2] = {0, 0}; /* wide (or stage), lean */
  for (int64_t p = 0; p <= last / LEANK_PAGE_TOKENS; p++) {
    const int64_t start = p * LEANK_PAGE_TOKENS;
    keys[g->table[p].kind == LK_PAGE_LEAN] +=
        seen_until(start, last) - seen_until(start, g->first_pos - 1);
  }
  const double d = (double)s->head_dim;
  double sum = 4 * d * keys[0] * (double)s->n_kv_heads;
  for (size_t h = 0; h < s->n_kv_heads && keys[1] > 0; h++)
    if (view->heads[h].n_kept > 0) sum += 2 * ((double)view->heads[h].n_kept + d) * keys[1];
  return sum * (double)(s->n_heads / s->n_kv_heads);
}

double lk_weighted_pairs(const lk_attn_shape *shape, const lk_channel_weights *weights,
                         const lk_weighted_rows *rows, size_t n_sequences) {
  double n = 0;
  for (size_t i = 0; i < n_sequences; i++) {
    const lk_weighted_rows *s = &rows[i];
    for (size_t h = 0; h < shape->n_kv_heads; h++)
      for (size_t r = 0; r < s->n_rows; r++) {
        const bool absent = weights->kind[h] == LK_WEIGHTED_ABSENT;
        const size_t hidden = absent ? s->middle_end[r] - s->middle_begin : 0;
        n += (double)((size_t)s->first_pos + r + 1 - hidden);
      }
  }
  return n * (double)(shape->n_heads / shape->n_kv_heads);
}
