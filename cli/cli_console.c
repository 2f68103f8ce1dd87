#include "cli_console.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* No prompt is longer; reading an endless file shall end. */
static const size_t max_input_bytes = (size_t)1 << 30;

/* ---- messages ---- */

static void print_message(const char *kind, const char *fmt, va_list args) {
  char line[1024];
  vsnprintf(line, sizeof line, fmt, args);
  /* Names come from files: they shall not steer the terminal. */
  for (char *c = line; *c; c++) {
    if ((unsigned char)*c < 0x20 || *c == 0x7f) *c = '?';
  }
  fflush(stdout);
  fprintf(stderr, "leank: %s%s\n", kind, line);
}

int cli_complain(const char *fmt, ...) {
  va_list args;
  va_start(args, fmt);
  print_message("", fmt, args);
  va_end(args);
  return CLI_FAILURE;
}

int cli_usage_error(const char *fmt, ...) {
  va_list args;
  va_start(args, fmt);
  print_message("", fmt, args);
  va_end(args);
  return CLI_USAGE;
}

void cli_warn(const char *fmt, ...) {
  va_list args;
  va_start(args, fmt);
  print_message("warning: ", fmt, args);
  va_end(args);
}

/* An argument that the library refuses came from the command line; one at an offset is a text. */
static int code_of(const leank_error *err) {
  return err->code == LEANK_E_ARGUMENT && err->offset < 0 ? CLI_USAGE : CLI_FAILURE;
}

int cli_fail(const leank_error *err) {
  char offset[32];
  snprintf(offset, sizeof offset, "%" PRId64, err->offset);
  const char *text = err->message[0] ? err->message : leank_status_text(err->code);
  if (err->offset >= 0 && !strstr(text, offset))
    cli_complain("%s (byte %s)", text, offset);
  else
    cli_complain("%s", text);
  return code_of(err);
}

int cli_fail_hint(const leank_error *err, const char *hint) {
  cli_complain("%s (%s)", err->message, hint);
  return code_of(err);
}

int cli_finish_output(int code) {
  if (fflush(stdout) == 0 && !ferror(stdout)) return code;
  return cli_complain("cannot write the output: %s", strerror(errno));
}

/* ---- progress ---- */

void cli_progress_begin(cli_progress *progress, const char *label) {
  progress->label = label;
  progress->shown = isatty(STDERR_FILENO) == 1;
  progress->percent = -1;
}

static leank_session *volatile armed_session;
static leank_learner *volatile armed_learner;
static volatile sig_atomic_t interrupt_seen;

void cli_progress_update(void *user, uint64_t done, uint64_t total) {
  /* A request made just before the feed began was dropped by it. */
  if (interrupt_seen && armed_session) leank_session_interrupt(armed_session);
  cli_progress *progress = user;
  if (!progress->shown || total == 0) return;
  int percent = (int)((double)done / (double)total * 100);
  if (percent == progress->percent) return;
  progress->percent = percent;
  char bar[41];
  size_t filled = (size_t)percent * (sizeof bar - 1) / 100;
  if (filled > sizeof bar - 1) filled = sizeof bar - 1;
  memset(bar, ' ', sizeof bar - 1);
  memset(bar, '#', filled);
  bar[sizeof bar - 1] = '\0';
  fprintf(stderr, "\r%-10s [%s] %3d %%", progress->label, bar, percent);
  fflush(stderr);
}

void cli_progress_end(cli_progress *progress) {
  if (progress->shown && progress->percent >= 0) fputs("\r\033[K", stderr);
  progress->percent = -1;
}

/* ---- Ctrl-C ---- */

static void on_interrupt(int signal_number) {
  (void)signal_number;
  interrupt_seen = 1;
  if (armed_session) leank_session_interrupt(armed_session);
  if (armed_learner) leank_learner_interrupt(armed_learner);
}

static void arm(leank_session *session, leank_learner *learner) {
  struct sigaction action = {0};
  interrupt_seen = 0;
  armed_session = session;
  armed_learner = learner;
  action.sa_handler = on_interrupt;
  action.sa_flags = (int)(SA_RESETHAND | SA_RESTART);
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, NULL);
}

void cli_interrupt_arm(leank_session *session) { arm(session, NULL); }
void cli_interrupt_arm_learner(leank_learner *learner) { arm(NULL, learner); }

void cli_interrupt_disarm(void) {
  struct sigaction action = {0};
  action.sa_handler = SIG_DFL;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, NULL);
  armed_session = NULL;
  armed_learner = NULL;
}

bool cli_interrupted(void) { return interrupt_seen != 0; }

bool cli_should_stop(void *user) {
  (void)user;
  return cli_interrupted();
}

/* ---- memory, input, time ---- */

void *cli_alloc(size_t n, size_t size) {
  void *p = calloc(n ? n : 1, size ? size : 1);
  if (!p) exit(cli_complain("out of memory"));
  return p;
}

void *cli_realloc(void *p, size_t n, size_t size) {
  void *q = reallocarray(p, n ? n : 1, size ? size : 1);
  if (!q) exit(cli_complain("out of memory"));
  return q;
}

char *cli_strdup(const char *text) {
  const size_t size = strlen(text) + 1;
  return memcpy(cli_alloc(size, 1), text, size);
}

const char *cli_base_name(const char *path) {
  const char *slash = strrchr(path, '/');
  return slash ? slash + 1 : path;
}

/* Room for n bytes more and the NUL behind them. */
static void reserve(cli_buffer *buffer, size_t n) {
  if (n >= SIZE_MAX / 4 || buffer->n >= SIZE_MAX / 4) exit(cli_complain("out of memory"));
  if (buffer->n + n + 1 <= buffer->capacity) return;
  buffer->capacity = 2 * (buffer->n + n) + 64;
  buffer->data = cli_realloc(buffer->data, buffer->capacity, 1);
}

void cli_buffer_append(cli_buffer *buffer, const char *bytes, size_t n) {
  reserve(buffer, n);
  if (n) memcpy(buffer->data + buffer->n, bytes, n);
  buffer->n += n;
  buffer->data[buffer->n] = '\0';
}

void cli_buffer_put(cli_buffer *buffer, const char *fmt, ...) {
  va_list args, again;
  va_start(args, fmt);
  va_copy(again, args);
  const int n = vsnprintf(NULL, 0, fmt, args);
  if (n > 0) {
    reserve(buffer, (size_t)n);
    vsnprintf(buffer->data + buffer->n, (size_t)n + 1, fmt, again);
    buffer->n += (size_t)n;
  }
  va_end(again);
  va_end(args);
}

void cli_buffer_free(cli_buffer *buffer) {
  free(buffer->data);
  *buffer = (cli_buffer){0};
}

static int read_stream(FILE *file, const char *name, cli_buffer *out) {
  char block[65536];
  size_t n;
  cli_buffer_append(out, "", 0);
  while ((n = fread(block, 1, sizeof block, file)) > 0) {
    cli_buffer_append(out, block, n);
    if (out->n > max_input_bytes) return cli_complain("%s: more than 1 GiB of text", name);
  }
  if (ferror(file)) return cli_complain("%s: %s", name, strerror(errno));
  return CLI_GO;
}

int cli_read_text(const char *text, const char *path, cli_buffer *out) {
  if (text && path) return cli_usage_error("-p and -f exclude each other");
  if (text) {
    cli_buffer_append(out, text, strlen(text));
    return CLI_GO;
  }
  if (!path || strcmp(path, "-") == 0) return read_stream(stdin, "standard input", out);
  FILE *file = fopen(path, "rb");
  if (!file) return cli_complain("%s: %s", path, strerror(errno));
  int code = read_stream(file, path, out);
  fclose(file);
  return code;
}

double cli_seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}
