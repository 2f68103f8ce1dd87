/* Mask files: what opens is a whole mask, and maps in both orders agree with it. */
#include "fuzz_target.h"

#include "base/alloc.h"
#include "mask/mask.h"

static void use_map(const leank_mask *mask, leank_channel_order order) {
  const leank_mask_info *info = leank_mask_get_info(mask);
  lk_mask_map map;
  FUZZ_REQUIRE(lk_mask_map_make(mask, info->n_layers, info->n_kv_heads, info->head_dim, order, 2,
                                &map, NULL) == LEANK_OK);
  for (size_t l = 0; l < info->n_layers; l++)
    for (size_t h = 0; h < info->n_kv_heads; h++) {
      const lk_head_map *head = lk_mask_map_head(&map, l, h);
      FUZZ_REQUIRE(head->n_kept == leank_mask_n_kept(mask, l, h));
      for (size_t i = 0; i < head->n_kept; i++) FUZZ_REQUIRE(head->channels[i] < info->head_dim);
    }
  lk_mask_map_free(&map);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  leank_mask *mask = NULL;
  leank_error err = {.code = LEANK_OK};
  leank_status status = leank_mask_open_memory(data, size, "fuzz", &mask, &err);
  FUZZ_REQUIRE(status == err.code && (status == LEANK_OK) == (mask != NULL));
  FUZZ_REQUIRE(status != LEANK_E_ARGUMENT); /* a file's fault is not the caller's */
  if (mask) {
    const leank_mask_info *info = leank_mask_get_info(mask);
    const size_t n = info->n_layers * info->n_kv_heads * info->head_dim;
    FUZZ_REQUIRE(n > 0 && n <= size && info->ratio_reached >= 0 && info->ratio_reached <= 1);
    for (size_t i = 0; i < n; i++) FUZZ_REQUIRE(leank_mask_get_kept(mask)[i] <= 1);
    if (leank_mask_get_alpha(mask)) fuzz_touch(leank_mask_get_alpha(mask), n * sizeof(float));
    use_map(mask, LEANK_ORDER_HALF);
    use_map(mask, LEANK_ORDER_PAIRS);
  }
  leank_mask_close(&mask);
  FUZZ_REQUIRE(lk_mem_in_use(LK_MEM_OTHER) == 0);
  return 0;
}
