/* Metadata of masks that the program makes. */
#ifndef LEANK_CLI_MASK_META_H
#define LEANK_CLI_MASK_META_H

#include <leank/mask.h>

#include "cli_engine.h"

/* How the mask is to be deployed; SIZE_MAX and -1: as it is. */
typedef struct mask_meta {
  size_t n_sink, n_recent;
  int policy;
  bool mean_compensation;
} mask_meta;

/* Rows for a command's table; m is a mask_meta, the others name the command's defaults. */
#define MASK_META_ROWS(m, sink, recent, fallback)                                                  \
  CLI_SPLIT_ROWS(m, sink, recent), CLI_POLICY_ROW(m, fallback), {                                  \
    0, "mean-comp", CLI_FLAG, &(m).mean_compensation, NULL,                                        \
        "the mean stands in for pruned channels"                                                   \
  }

mask_meta mask_meta_default(void);
void mask_meta_apply(const mask_meta *meta, leank_mask_info *info);

#endif
