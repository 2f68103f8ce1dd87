#include "learn_report.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli_report.h"

/* Cuts what a killed run left of its last line; all that there is where nothing is gone on with.
 * Devices and pipes have nothing to cut. */
static bool cut_log(FILE *log, bool resumed) {
  struct stat st;
  long end = 0;
  if (fstat(fileno(log), &st) != 0 || !S_ISREG(st.st_mode)) return true;
  rewind(log);
  for (int c = 0; resumed && (c = fgetc(log)) != EOF;)
    if (c == '\n') end = ftell(log);
  return !ferror(log) && ftruncate(fileno(log), end) == 0 && fseek(log, 0, SEEK_END) == 0;
}

int learn_report_open(const char *log_path, bool json, bool quiet, learn_report *out) {
  *out = (learn_report){.log_path = log_path,
                        .json = json,
                        .quiet = quiet,
                        .terminal = isatty(STDERR_FILENO),
                        .print_every = 10};
  if (!log_path) return CLI_GO;
  out->made_log = access(log_path, F_OK) != 0;
  out->log = fopen(log_path, "a+");
  if (!out->log) return cli_complain("%s: cannot write: %s", log_path, strerror(errno));
  return CLI_GO;
}

/* ---- JSON lines ---- */

static void write_log(learn_report *r, const char *line) {
  if (!r->log) return;
  if ((fprintf(r->log, "%s\n", line) < 0 || fflush(r->log) != 0) && !r->log_errno)
    r->log_errno = errno;
}

static void emit(learn_report *r, json_t *event) {
  char *line = json_dumps(event, JSON_COMPACT | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(9));
  if (line) {
    write_log(r, line);
    if (r->json) {
      puts(line);
      fflush(stdout);
    }
  }
  free(line);
  json_decref(event);
}

void learn_report_start(learn_report *r, json_t *settings, const char *model, bool resumed) {
  json_t *j = json_object();
  if (r->log && !cut_log(r->log, resumed)) r->log_errno = errno;
  json_object_set_new(j, "event", json_string("start"));
  json_object_set_new(j, "version", json_string(leank_version()));
  json_object_set_new(j, "model", cli_json_text(model));
  json_object_set_new(j, "resumed", json_boolean(resumed));
  json_object_set_new(j, "settings", settings);
  emit(r, j);
}

static void add_place(json_t *j, const leank_learn_event *e) {
  json_object_set_new(j, "stage", json_integer(e->stage));
  json_object_set_new(j, "step", cli_json_size(e->step));
  if (e->n_steps) json_object_set_new(j, "n_steps", cli_json_size(e->n_steps));
}

static json_t *step_json(const leank_learn_event *e) {
  json_t *j = json_object();
  json_object_set_new(j, "event", json_string("step"));
  add_place(j, e);
  json_object_set_new(j, "loss", json_real(e->loss));
  json_object_set_new(j, "distill", json_real(e->distill));
  json_object_set_new(j, "lambda", json_real(e->lambda));
  json_object_set_new(j, "lr", json_real(e->lr));
  json_object_set_new(j, "mean_alpha", json_real(e->mean_alpha));
  json_object_set_new(j, "near_zero", json_real(e->near_zero));
  json_object_set_new(j, "ratio", json_real(e->ratio));
  json_object_set_new(j, "seconds", json_real(e->seconds));
  json_object_set_new(j, "seconds_left", json_real(e->seconds_left));
  json_object_set_new(j, "flops", json_real(e->flops));
  json_object_set_new(j, "reference_flops", json_real(e->reference_flops));
  return j;
}

static json_t *eval_json(const leank_learn_event *e) {
  json_t *j = json_object();
  json_object_set_new(j, "event", json_string("eval"));
  add_place(j, e);
  json_object_set_new(j, "ratio", json_real(e->ratio));
  json_object_set_new(j, "kl", json_real(e->kl));
  json_object_set_new(j, "kl_p99", json_real(e->kl_p99));
  json_object_set_new(j, "hidden_error", json_real(e->hidden_error));
  json_object_set_new(j, "top1", json_real(e->top1));
  json_object_set_new(j, "accuracy", json_real(e->accuracy));
  json_object_set_new(j, "dense_accuracy", json_real(e->dense_accuracy));
  json_object_set_new(j, "n_rows", cli_json_size(e->n_rows));
  json_object_set_new(j, "n_prompts", cli_json_size(e->n_prompts));
  json_object_set_new(j, "seconds", json_real(e->seconds));
  return j;
}

static json_t *short_json(const char *name, const leank_learn_event *e) {
  json_t *j = json_object();
  json_object_set_new(j, "event", json_string(name));
  add_place(j, e);
  json_object_set_new(j, "kl", json_real(e->kl));
  json_object_set_new(j, "ratio", json_real(e->ratio));
  json_object_set_new(j, "seconds", json_real(e->seconds));
  json_object_set_new(j, "flops", json_real(e->flops));
  json_object_set_new(j, "reference_flops", json_real(e->reference_flops));
  return j;
}

/* ---- lines for people ---- */

static void end_line(learn_report *r) {
  if (r->line_open) fputc('\n', stderr);
  r->line_open = false;
}

/* "1 h 02 min", "3 min 05 s", "12 s" in a static buffer. */
static const char *duration(double seconds) {
  static char text[32];
  unsigned long s = seconds > 0 ? (unsigned long)(seconds + 0.5) : 0;
  if (s >= 3600)
    snprintf(text, sizeof text, "%lu h %02lu min", s / 3600, s / 60 % 60);
  else if (s >= 60)
    snprintf(text, sizeof text, "%lu min %02lu s", s / 60, s % 60);
  else
    snprintf(text, sizeof text, "%lu s", s);
  return text;
}

/* On a terminal a line is written over by the next; elsewhere `always` lines come out alone. */
static void progress_line(learn_report *r, bool always, const char *text) {
  if (r->json || r->quiet) return;
  if (r->terminal) {
    fprintf(stderr, "\r\033[K%s", text);
    r->line_open = true;
  } else if (always) {
    fprintf(stderr, "%s\n", text);
  }
  fflush(stderr);
}

static void print_prefill(learn_report *r, const leank_learn_event *e) {
  char text[160];
  const int percent = (int)(100 * e->done / (e->total ? e->total : 1));
  const bool ends = e->done == e->total, tenth = percent / 10 != r->percent / 10;
  r->percent = percent;
  snprintf(text, sizeof text, "reading contexts %3d %%, %s left", percent,
           duration(e->seconds_left));
  if (ends && r->read_all) return; /* told once: the last context may say so twice */
  r->read_all = ends;
  if (ends) snprintf(text, sizeof text, "contexts read in %s", duration(e->seconds));
  progress_line(r, ends || tenth, text);
  if (ends) end_line(r);
}

static void print_step(learn_report *r, const leank_learn_event *e) {
  char text[200];
  snprintf(
      text, sizeof text,
      "stage %d, %*zu/%zu: loss %.5f, near zero %4.1f %%, lambda %.3g, ratio %4.1f %%, %s left",
      e->stage, e->n_steps > 999 ? 4 : 3, e->step, e->n_steps, e->distill, 100 * e->near_zero,
      e->lambda, 100 * e->ratio, duration(e->seconds_left));
  progress_line(r, e->step % r->print_every == 0 || e->step == e->n_steps, text);
}

static void print_eval(learn_report *r, const leank_learn_event *e) {
  if (r->json || r->quiet) return;
  end_line(r);
  fprintf(stderr,
          "held out, stage %d after %zu: KL %.5f (99th percentile %.4f), hidden error %.5f, top-1 "
          "%.1f %%, accuracy %.1f %% (dense %.1f %%); %zu rows of %zu prompts, ratio %.1f %%\n",
          e->stage, e->step, e->kl, e->kl_p99, e->hidden_error, 100 * e->top1, 100 * e->accuracy,
          100 * e->dense_accuracy, e->n_rows, e->n_prompts, 100 * e->ratio);
}

void learn_report_event(void *user, const leank_learn_event *e) {
  learn_report *r = user;
  if (cli_interrupted() && r->learner) leank_learner_interrupt(r->learner);
  switch (e->phase) {
  case LEANK_LEARN_PREFILL: print_prefill(r, e); break;
  case LEANK_LEARN_RESUME:
    if (!r->json && !r->quiet) {
      fprintf(stderr, "going on from the checkpoint: stage %d after %zu updates\n",
              e->stage > 2 ? 2 : e->stage, e->step);
    }
    emit(r, short_json("resume", e));
    break;
  case LEANK_LEARN_STEP:
    print_step(r, e);
    emit(r, step_json(e));
    break;
  case LEANK_LEARN_EVAL:
    r->eval = *e;
    print_eval(r, e);
    emit(r, eval_json(e));
    break;
  case LEANK_LEARN_CHOICE:
    end_line(r);
    emit(r, short_json("choice", e));
    break;
  }
  if (e->phase != LEANK_LEARN_PREFILL) r->last = *e;
}

int learn_report_close(learn_report *r) {
  struct stat st;
  end_line(r);
  if (r->log && r->made_log && fstat(fileno(r->log), &st) == 0 && st.st_size == 0)
    unlink(r->log_path);
  if (r->log && fclose(r->log) != 0 && !r->log_errno) r->log_errno = errno;
  r->log = NULL;
  if (r->log_errno) {
    return cli_complain("%s: lines of the log were lost: %s", r->log_path, strerror(r->log_errno));
  }
  return CLI_GO;
}
