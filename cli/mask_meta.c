#include "mask_meta.h"

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
