/* Metadata of masks that the program makes. */
#ifndef LEANK_CLI_MASK_META_H
#define LEANK_CLI_MASK_META_H

#include <leank/mask.h>

/* How the mask is to be deployed; SIZE_MAX and -1: as it is. */
typedef struct mask_meta {
  size_t n_sink, n_recent;
  int policy, mean_compensation;
} mask_meta;

mask_meta mask_meta_default(void);
void mask_meta_apply(const mask_meta *meta, leank_mask_info *info);

/* Warns where the ratio reached is more than 3 points from the one asked, with what brings it
 * closer: --exact-budget, unless it was given or heads do not compete, and a smaller --align. */
void mask_hint_ratio(const leank_mask *mask, leank_budget budget, bool exact);

#endif
