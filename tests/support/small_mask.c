#include "support/small_mask.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

uint8_t lk_small_kept(size_t l, size_t h, size_t c) { return (l * 7 + h * 3 + c) % 5 < 2; }

void lk_small_fill(uint8_t *kept) {
  for (size_t i = 0; i < N; i++) kept[i] = lk_small_kept(i / (H * D), i / D % H, i % D);
}

leank_mask_info lk_small_info(void) {
  leank_mask_info info;
  leank_mask_info_default(&info);
  info.n_layers = L;
  info.n_kv_heads = H;
  info.head_dim = D;
  return info;
}

leank_mask *lk_small_mask(void) {
  const leank_mask_info info = lk_small_info();
  uint8_t kept[N];
  leank_mask *mask = NULL;
  lk_small_fill(kept);
  assert_int_equal(leank_mask_create(&info, kept, NULL, &mask, NULL), LEANK_OK);
  return mask;
}
