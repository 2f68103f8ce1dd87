/* A mask, and the run that learned it, as one SVG page. */
#ifndef LEANK_CLI_MASK_PLOT_H
#define LEANK_CLI_MASK_PLOT_H

#include <leank/mask.h>

#include "cli_console.h"
#include "learn_log.h"
#include "mask_counts.h"

typedef struct mask_plot {
  const leank_mask *mask;
  const mask_counts *counts;
  const learn_log *log; /* or NULL */
  const char *title;
} mask_plot;

void mask_plot_draw(const mask_plot *plot, cli_buffer *svg);

#endif
