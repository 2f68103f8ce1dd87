/* Terminal and process: messages, progress, Ctrl-C, reading input, memory, time. */
#ifndef LEANK_CLI_CONSOLE_H
#define LEANK_CLI_CONSOLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <leank/learn.h>
#include <leank/session.h>

#include "cli.h"

/* One line on stderr, "leank: ...", control characters made visible. cli_complain returns
 * CLI_FAILURE, cli_usage_error CLI_USAGE; cli_fail, of a failure of the library, CLI_USAGE where it
 * refuses an argument, else CLI_FAILURE. */
int cli_complain(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
int cli_usage_error(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
int cli_fail(const leank_error *err);
/* The same with the options that help in brackets, which the library does not know. */
int cli_fail_hint(const leank_error *err, const char *hint);
void cli_warn(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Flushes stdout; complains where something could not be written. Returns code, or CLI_FAILURE. */
int cli_finish_output(int code);

/* A progress bar on stderr, only where that is a terminal. */
typedef struct cli_progress {
  const char *label;
  bool shown;
  int percent;
} cli_progress;

void cli_progress_begin(cli_progress *progress, const char *label);
/* A leank_progress_fn; user is a cli_progress. Passes a pending Ctrl-C on to the session. */
void cli_progress_update(void *user, uint64_t done, uint64_t total);
void cli_progress_end(cli_progress *progress);

/* Ctrl-C. While armed, the first SIGINT is noted and interrupts the session (may be NULL); the
 * second kills. Disarmed, SIGINT kills. */
void cli_interrupt_arm(leank_session *session);
/* The same for a learner. */
void cli_interrupt_arm_learner(leank_learner *learner);
void cli_interrupt_disarm(void);
bool cli_interrupted(void);
/* The same as a should_stop of the library's options; user is not looked at. */
bool cli_should_stop(void *user);

/* Memory; a failure ends the program. free() releases; cli_alloc's is zeroed. */
void *cli_alloc(size_t n, size_t size);
void *cli_realloc(void *p, size_t n, size_t size);
char *cli_strdup(const char *text);

/* What is behind the last slash of a path. */
const char *cli_base_name(const char *path);

typedef struct cli_buffer {
  char *data;
  size_t n, capacity;
} cli_buffer;

void cli_buffer_append(cli_buffer *buffer, const char *bytes, size_t n);
/* Appends what printf would print. */
void cli_buffer_put(cli_buffer *buffer, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void cli_buffer_free(cli_buffer *buffer);

/* Reads text from -p, else -f ("-" is stdin), else stdin, with a NUL behind it. Complains and
 * returns CLI_USAGE where both are given, CLI_FAILURE where it cannot be read; else CLI_GO. */
int cli_read_text(const char *text, const char *path, cli_buffer *out);

/* Seconds of a clock that only moves forward. */
double cli_seconds(void);

#endif
