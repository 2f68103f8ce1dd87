#include "learn_log.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli_console.h"

static const json_int_t max_step = 1000000000;

/* Where a fault is. */
typedef struct log_place {
  const char *path;
  size_t line;
} log_place;

static int bad_line(log_place at, const char *what) {
  return cli_complain("%s: line %zu: %s", at.path, at.line, what);
}

static int number_field(log_place at, const json_t *event, const char *name, double *out) {
  const json_t *value = json_object_get(event, name);
  if (json_is_number(value)) {
    *out = json_number_value(value);
    return CLI_GO;
  }
  return cli_complain("%s: line %zu: '%s' is no number", at.path, at.line, name);
}

static int share_field(log_place at, const json_t *event, const char *name, double *out) {
  int code = number_field(at, event, name, out);
  if (code == CLI_GO && !(*out >= 0 && *out <= 1))
    return cli_complain("%s: line %zu: '%s' is not between 0 and 1", at.path, at.line, name);
  return code;
}

static int stage_field(log_place at, const json_t *event, int *out) {
  json_int_t stage = json_integer_value(json_object_get(event, "stage"));
  if (stage != 1 && stage != 2) return bad_line(at, "'stage' is neither 1 nor 2");
  *out = (int)stage;
  return CLI_GO;
}

static int place_fields(log_place at, const json_t *event, int *stage, size_t *step) {
  const json_t *value = json_object_get(event, "step");
  json_int_t n = json_integer_value(value);
  int code = stage_field(at, event, stage);
  if (code != CLI_GO) return code;
  if (!json_is_integer(value) || n < 0 || n > max_step)
    return bad_line(at, "'step' is no number of an update");
  *step = (size_t)n;
  return CLI_GO;
}

/* ---- events ---- */

/* Room for one more element behind the n of an array. */
static void *grow(void *array, size_t n, size_t size, size_t *capacity) {
  if (n < *capacity) return array;
  *capacity = 2 * n + 64;
  return cli_realloc(array, *capacity, size);
}

static bool not_before(int stage, size_t step, int other_stage, size_t other_step) {
  return stage > other_stage || (stage == other_stage && step >= other_step);
}

/* Evaluations at or behind an update that is read (again). */
static void drop_evals(learn_log *log, int stage, size_t step) {
  while (log->n_evals && not_before(log->evals[log->n_evals - 1].stage,
                                    log->evals[log->n_evals - 1].step, stage, step))
    log->n_evals--;
}

static void drop_steps(learn_log *log, int stage, size_t step) {
  while (log->n_steps && not_before(log->steps[log->n_steps - 1].stage,
                                    log->steps[log->n_steps - 1].step, stage, step))
    log->n_steps--;
}

static int take_step(log_place at, const json_t *event, learn_log *log) {
  learn_step s = {0};
  int code = place_fields(at, event, &s.stage, &s.step);
  if (code == CLI_GO) code = number_field(at, event, "distill", &s.distill);
  if (code == CLI_GO) code = share_field(at, event, "ratio", &s.ratio);
  if (code == CLI_GO) code = share_field(at, event, "near_zero", &s.near_zero);
  if (code != CLI_GO) return code;
  drop_steps(log, s.stage, s.step);
  drop_evals(log, s.stage, s.step);
  log->steps = grow(log->steps, log->n_steps, sizeof *log->steps, &log->step_capacity);
  log->steps[log->n_steps++] = s;
  return CLI_GO;
}

static int take_eval(log_place at, const json_t *event, learn_log *log) {
  learn_eval e = {0};
  int code = place_fields(at, event, &e.stage, &e.step);
  if (code == CLI_GO) code = number_field(at, event, "kl", &e.kl);
  if (code != CLI_GO) return code;
  drop_evals(log, e.stage, e.step);
  log->evals = grow(log->evals, log->n_evals, sizeof *log->evals, &log->eval_capacity);
  log->evals[log->n_evals++] = e;
  return CLI_GO;
}

static int take_event(log_place at, const json_t *event, learn_log *log) {
  const char *kind = json_string_value(json_object_get(event, "event"));
  if (!kind) return bad_line(at, "no object with an 'event'");
  if (strcmp(kind, "step") == 0) return take_step(at, event, log);
  if (strcmp(kind, "eval") == 0) return take_eval(at, event, log);
  if (strcmp(kind, "choice") == 0) return stage_field(at, event, &log->choice);
  return CLI_GO;
}

/* ---- the file ---- */

static bool is_blank(const char *text, size_t n) {
  for (size_t i = 0; i < n; i++) {
    if (text[i] != ' ' && text[i] != '\t' && text[i] != '\r') return false;
  }
  return true;
}

static int take_line(log_place at, const char *text, size_t n, bool ended, learn_log *log) {
  json_error_t error;
  if (is_blank(text, n)) return CLI_GO;
  json_t *event = json_loadb(text, n, JSON_REJECT_DUPLICATES, &error);
  if (!event && !ended) {
    cli_warn("%s: line %zu is unfinished: left out", at.path, at.line);
    return CLI_GO;
  }
  int code = event ? take_event(at, event, log)
                   : cli_complain("%s: line %zu: %s", at.path, at.line, error.text);
  json_decref(event);
  return code;
}

static int take_lines(const char *path, const cli_buffer *text, learn_log *log) {
  log_place at = {path, 0};
  const char *line = text->data, *end = text->data + text->n;
  while (line < end) {
    const char *stop = memchr(line, '\n', (size_t)(end - line));
    at.line++;
    int code = take_line(at, line, (size_t)((stop ? stop : end) - line), stop != NULL, log);
    if (code != CLI_GO) return code;
    if (!stop) break;
    line = stop + 1;
  }
  return CLI_GO;
}

/* Stage 2 goes on where stage 1 ends. */
static void place_on_axis(learn_log *log) {
  for (size_t i = 0; i < log->n_steps; i++) {
    if (log->steps[i].stage == 1) log->stage1_end = log->steps[i].step;
  }
  for (size_t i = 0; i < log->n_steps; i++) {
    learn_step *s = &log->steps[i];
    s->x = (double)(s->step + (s->stage == 2 ? log->stage1_end : 0));
    log->x_end = fmax(log->x_end, s->x);
  }
  for (size_t i = 0; i < log->n_evals; i++) {
    learn_eval *e = &log->evals[i];
    e->x = (double)(e->step + (e->stage == 2 ? log->stage1_end : 0));
    log->x_end = fmax(log->x_end, e->x);
  }
}

int learn_log_read(const char *path, learn_log *out) {
  cli_buffer text = {0};
  *out = (learn_log){0};
  int code = cli_read_text(NULL, path, &text);
  if (code == CLI_GO) code = take_lines(path, &text, out);
  cli_buffer_free(&text);
  if (code != CLI_GO) return code;
  if (out->n_steps == 0) return cli_complain("%s: no update is logged", path);
  place_on_axis(out);
  return CLI_GO;
}

void learn_log_free(learn_log *log) {
  free(log->steps);
  free(log->evals);
  *log = (learn_log){0};
}
