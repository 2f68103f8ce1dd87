#include "mask_meta.h"

#include <string.h>

mask_meta mask_meta_default(void) {
  return (mask_meta){.n_sink = SIZE_MAX, .n_recent = SIZE_MAX, .policy = -1};
}

void mask_meta_apply(const mask_meta *meta, leank_mask_info *info) {
  if (meta->n_sink != SIZE_MAX) info->n_sink = meta->n_sink;
  if (meta->n_recent != SIZE_MAX) info->n_recent = meta->n_recent;
  if (meta->policy >= 0) info->policy = (leank_policy)meta->policy;
  if (meta->mean_compensation) info->mean_compensation = true;
}

void mask_meta_from_model(leank_mask_info *info, const leank_model_info *model) {
  memcpy(info->architecture, model->architecture, sizeof info->architecture);
  info->rope_theta = model->rope_theta;
  info->rope_scaling = model->rope_scaling;
  info->rope_factor = model->rope_factor;
}
