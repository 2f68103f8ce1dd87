/* The curves of a training run as two panels. */
#ifndef LEANK_CLI_LEARN_PLOT_H
#define LEANK_CLI_LEARN_PLOT_H

#include "learn_log.h"
#include "plot_panel.h"

/* Of the panel only the place counts: the ranges come from the log. */
void learn_plot_losses(plot_panel panel, const learn_log *log);
void learn_plot_shares(plot_panel panel, const learn_log *log);

#endif
