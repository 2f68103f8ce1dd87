#include <stdlib.h>

#include "base/alloc.h"
#include "mask/mask.h"

/* The channel of the half order that is channel c of `order`. */
static size_t channel_to_half(leank_channel_order order, size_t head_dim, size_t c) {
  if (order == LEANK_ORDER_HALF) return c;
  return c / 2 + (c % 2 ? head_dim / 2 : 0);
}

/* Fills one head; channels and dropped share room for D values. */
static void fill_head(lk_head_map *head, uint16_t *room, const uint8_t *kept, size_t head_dim,
                      leank_channel_order order, size_t granule) {
  size_t n_kept = 0, n_dropped = 0;
  for (size_t c = 0; c < head_dim; c++) n_kept += kept ? kept[c] : 1;
  *head = (lk_head_map){room, room + n_kept, n_kept, (n_kept + granule - 1) / granule * granule};
  n_kept = 0;
  for (size_t c = 0; c < head_dim; c++) {
    if (!kept || kept[channel_to_half(order, head_dim, c)])
      head->channels[n_kept++] = (uint16_t)c;
    else
      head->dropped[n_dropped++] = (uint16_t)c;
  }
}

static leank_status check_sizes(const leank_mask *mask, size_t n_layers, size_t n_kv_heads,
                                size_t head_dim, size_t granule, leank_error *err) {
  leank_status status = LEANK_OK;
  LK_FAIL_IF(n_layers == 0 || n_kv_heads == 0 || head_dim == 0 || head_dim % 2 != 0 ||
                 head_dim > UINT16_MAX,
             err, LEANK_E_ARGUMENT, -1, "mask: sizes [%zu,%zu,%zu] are not possible", n_layers,
             n_kv_heads, head_dim);
  LK_FAIL_IF(granule == 0 || granule > UINT16_MAX, err, LEANK_E_ARGUMENT, -1,
             "mask: a granule of %zu channels", granule);
  LK_FAIL_IF(mask && (mask->info.n_layers != n_layers || mask->info.n_kv_heads != n_kv_heads ||
                      mask->info.head_dim != head_dim),
             err, LEANK_E_MISMATCH, -1,
             "the mask is for %zu layers, %zu kv heads, head dim %zu; the model has %zu, %zu, %zu",
             mask->info.n_layers, mask->info.n_kv_heads, mask->info.head_dim, n_layers, n_kv_heads,
             head_dim);
cleanup:
  return status;
}

leank_status lk_mask_map_make(const leank_mask *mask, size_t n_layers, size_t n_kv_heads,
                              size_t head_dim, leank_channel_order order, size_t granule,
                              lk_mask_map *out, leank_error *err) {
  leank_status status = LEANK_OK;
  lk_mask_map map = {n_layers, n_kv_heads, head_dim, NULL};
  uint16_t *room = NULL;
  size_t n_heads, n;
  LK_TRY(check_sizes(mask, n_layers, n_kv_heads, head_dim, granule, err));
  LK_FAIL_IF(!lk_mul(n_layers, n_kv_heads, &n_heads) || !lk_mul(n_heads, head_dim, &n), err,
             LEANK_E_MEMORY, -1, "mask: out of memory");
  map.heads = lk_alloc(LK_MEM_OTHER, n_heads, sizeof *map.heads);
  room = lk_alloc(LK_MEM_OTHER, n, sizeof *room);
  LK_FAIL_IF(!map.heads || !room, err, LEANK_E_MEMORY, -1, "mask: out of memory");
  for (size_t i = 0; i < n_heads; i++)
    fill_head(&map.heads[i], room + i * head_dim, mask ? mask->kept + i * head_dim : NULL, head_dim,
              order, granule);
  *out = map;
cleanup:
  if (status != LEANK_OK) {
    lk_free(map.heads);
    lk_free(room);
  }
  return status;
}

void lk_mask_map_free(lk_mask_map *map) {
  if (map->heads) lk_free(map->heads[0].channels); /* the room of all heads */
  lk_free(map->heads);
  *map = (lk_mask_map){0};
}
