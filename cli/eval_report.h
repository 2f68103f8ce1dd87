/* The results of `leank eval` for people and programs. */
#ifndef LEANK_CLI_EVAL_REPORT_H
#define LEANK_CLI_EVAL_REPORT_H

#include <jansson.h>

#include "cli_console.h"
#include "eval_summary.h"

typedef struct eval_report {
  const eval_summary *summary;
  const char *const *names; /* [n_answers] "dense" first */
  size_t n_masks;           /* of the variants, which stand first: from files, not baselines */
  leank_eval_suite suite;
  const char *title;   /* the model */
  const char *command; /* how it was made, in words */
} eval_report;

/* Tables as text, or as Markdown. */
void eval_report_text(const eval_report *report, bool markdown, cli_buffer *out);
json_t *eval_report_json(const eval_report *report);
/* Writes report.md and, where there is a variant, SVG plots to a folder, which is made where its
 * parent is there. Complains and returns CLI_FAILURE, else CLI_GO. */
int eval_report_write(const eval_report *report, const char *folder);

/* The plots: changes of the score with their standard errors, and KL, a bar per variant; and KL
 * against bytes at the greatest length, a point per variant. */
void eval_plot_changes(const eval_report *report, cli_buffer *svg);
void eval_plot_kl(const eval_report *report, cli_buffer *svg);
void eval_plot_bytes(const eval_report *report, cli_buffer *svg);

#endif
