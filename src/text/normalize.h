/* Unicode normalisation form C. */
#ifndef LK_TEXT_NORMALIZE_H
#define LK_TEXT_NORMALIZE_H

#include <stddef.h>

#include "base/error.h"

/* NFC of valid UTF-8. *out is NULL where the text is its own NFC by quick check, else a fresh block
 * of *n_out bytes (lk_free). Linear but for a sort of each run of combining marks. LEANK_E_MEMORY.
 */
leank_status lk_nfc(const char *text, size_t n_bytes, char **out, size_t *n_out, leank_error *err);

#endif
