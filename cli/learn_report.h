/* What a learning run tells: lines for people, the log, JSON lines. */
#ifndef LEANK_CLI_LEARN_REPORT_H
#define LEANK_CLI_LEARN_REPORT_H

#include <jansson.h>
#include <stdio.h>

#include <leank/leank.h>

#include "cli_console.h"

typedef struct learn_report {
  leank_learner *learner; /* to be interrupted by Ctrl-C */
  const char *log_path;
  FILE *log;     /* or NULL */
  bool made_log; /* there was none before */
  bool json;     /* events as JSON lines on stdout instead of text */
  bool quiet;
  bool terminal; /* stderr is one: steps overwrite a line */
  bool line_open;
  int percent;   /* of the contexts read */
  bool read_all; /* and said so */
  int log_errno; /* of the first line that could not be written */
  size_t print_every;
  leank_learn_event last, eval; /* last event with counts; last evaluation */
} learn_report;

/* Opens the log for appending (path NULL: none); what it holds stays until learn_report_start.
 * Complains and returns CLI_FAILURE, else CLI_GO. */
int learn_report_open(const char *log_path, bool json, bool quiet, learn_report *out);
/* Writes {"event":"start", ...} behind what earlier parts of the run have logged (resumed), or in
 * place of what the log held; settings is taken over. */
void learn_report_start(learn_report *report, json_t *settings, const char *model, bool resumed);
/* A leank_learn_options.on_event; user is a learn_report. */
void learn_report_event(void *user, const leank_learn_event *event);
/* Ends an open line and closes the log; one that it made and nothing was written to goes. Complains
 * and returns CLI_FAILURE where lines of the log were lost, else CLI_GO. */
int learn_report_close(learn_report *report);

#endif
