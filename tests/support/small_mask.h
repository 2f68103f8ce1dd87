/* The mask of 2 x 3 x 8 channels that the golden files hold (scripts/goldens/formats.py). */
#ifndef LK_SUPPORT_SMALL_MASK_H
#define LK_SUPPORT_SMALL_MASK_H

#include <leank/mask.h>

enum { L = 2, H = 3, D = 8, N = L * H * D };

/* 1 where channel c of head h in layer l is kept; every head keeps 3 or 4. */
uint8_t lk_small_kept(size_t l, size_t h, size_t c);
void lk_small_fill(uint8_t *kept);
/* The defaults, with these sizes. */
leank_mask_info lk_small_info(void);
/* The caller closes it. */
leank_mask *lk_small_mask(void);

#endif
