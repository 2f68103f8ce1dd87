/* Pages as tables name them: what the cache hands to a backend, and the CUDA library reads as is.
 */
#ifndef LK_BACKEND_PAGE_VIEW_H
#define LK_BACKEND_PAGE_VIEW_H

#include <stdint.h>

/* wide: full K and V of every head. lean: kept channels of K, and V, of heads that keep any.
 * stage: one layer's full K and V of the prompt being read, in the order of a wide page. */
typedef enum lk_page_kind {
  LK_PAGE_WIDE = 0,
  LK_PAGE_LEAN,
  LK_PAGE_STAGE,
  LK_N_PAGE_KINDS
} lk_page_kind;

typedef struct lk_page_entry {
  uint32_t page; /* number in the arena of its kind */
  uint32_t kind; /* lk_page_kind */
} lk_page_entry;

/* Where one row's K and V go. */
typedef struct lk_slot {
  lk_page_entry page; /* wide or stage */
  uint32_t key;       /* 0 .. P - 1 */
} lk_slot;

#endif
