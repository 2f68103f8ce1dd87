#include "mask_meta.h"

#include <math.h>

#include "cli_console.h"

static const double far_off = 0.03;

mask_meta mask_meta_default(void) {
  return (mask_meta){
      .n_sink = SIZE_MAX, .n_recent = SIZE_MAX, .policy = -1, .mean_compensation = -1};
}

void mask_meta_apply(const mask_meta *meta, leank_mask_info *info) {
  if (meta->n_sink != SIZE_MAX) info->n_sink = meta->n_sink;
  if (meta->n_recent != SIZE_MAX) info->n_recent = meta->n_recent;
  if (meta->policy >= 0) info->policy = (leank_policy)meta->policy;
  if (meta->mean_compensation >= 0) info->mean_compensation = meta->mean_compensation == 1;
}

void mask_hint_ratio(const leank_mask *mask, leank_budget budget, bool exact) {
  const leank_mask_info *info = leank_mask_get_info(mask);
  const double off = fabs(info->ratio_reached - info->ratio_asked);
  const bool may_search = budget == LEANK_BUDGET_GLOBAL && !exact, is_coarse = info->align > 1;
  if (off <= far_off || !(may_search || is_coarse)) return;
  cli_warn("the ratio is %.1f points off: %s%s%s comes closer", 100 * off,
           may_search ? "--exact-budget" : "", may_search && is_coarse ? " or " : "",
           is_coarse ? "a smaller --align" : "");
}
