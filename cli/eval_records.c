#include "eval_records.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli_console.h"
#include "cli_report.h"

/* Of one file. */
#define MAX_RECORDS_BYTES ((size_t)4 << 30)

static const char first_line[] = "{\"leank-eval\":{";

/* ---- one record from JSON ---- */

static bool number_of(const json_t *object, const char *key, double *out) {
  const json_t *value = json_object_get(object, key);
  *out = json_number_value(value);
  return json_is_number(value) && isfinite(*out);
}

static bool count_of(const json_t *object, const char *key, size_t *out) {
  const json_t *value = json_object_get(object, key);
  const json_int_t n = json_integer_value(value);
  *out = (size_t)n;
  return json_is_integer(value) && n >= 0 && n <= 1 << 30;
}

/* NULL where all is well, else what is wrong. */
static const char *take_answer(const json_t *object, bool dense, eval_answer *out) {
  const json_t *kl = json_object_get(object, "kl");
  if (!json_is_object(object)) return "an answer that is no object";
  if (!number_of(object, "score", &out->score) || !(out->score >= 0 && out->score <= 1))
    return "'score' is not between 0 and 1";
  if (!count_of(object, "rows", &out->n_rows) || !count_of(object, "agree", &out->n_agree) ||
      out->n_agree > out->n_rows)
    return "'rows' or 'agree' is no count";
  if (!number_of(object, "nll", &out->nll) || !number_of(object, "bytes", &out->stored_bytes) ||
      !number_of(object, "k_kept", &out->k_kept) || !number_of(object, "v_kept", &out->v_kept))
    return "'nll', 'bytes', 'k_kept' or 'v_kept' is no number";
  if (dense) return NULL;
  if (!json_is_array(kl) || json_array_size(kl) != out->n_rows)
    return "'kl' is no list of as many numbers as there are rows";
  out->kl = cli_alloc(out->n_rows, sizeof *out->kl);
  for (size_t i = 0; i < out->n_rows; i++) {
    const json_t *value = json_array_get(kl, i);
    out->kl[i] = (float)json_number_value(value);
    if (!json_is_number(value) || !(out->kl[i] >= 0) || !isfinite(out->kl[i]))
      return "'kl' holds something else than numbers from 0 on";
  }
  return NULL;
}

static const char *take_metric(const json_t *object, leank_eval_metric *out) {
  const char *name = json_string_value(json_object_get(object, "metric"));
  for (int i = 0; name && leank_eval_metric_name((leank_eval_metric)i); i++) {
    *out = (leank_eval_metric)i;
    if (strcmp(leank_eval_metric_name(*out), name) == 0) return NULL;
  }
  return "'metric' is unknown";
}

static void free_record(eval_record *record, size_t n_answers) {
  for (size_t i = 0; record->answers && i < n_answers; i++) free(record->answers[i].kl);
  free(record->answers);
  free(record->task);
}

static const char *take_record(const json_t *object, size_t n_answers, eval_record *out) {
  const char *task = json_string_value(json_object_get(object, "task"));
  const json_t *answers = json_object_get(object, "answers");
  if (!json_is_object(object)) return "no object";
  if (!task) return "no 'task'";
  if (!count_of(object, "length", &out->length) || !count_of(object, "sample", &out->sample))
    return "'length' or 'sample' is no count";
  if (!number_of(object, "seconds", &out->seconds)) return "'seconds' is no number";
  const char *why = take_metric(object, &out->metric);
  if (why) return why;
  if (json_array_size(answers) != n_answers) return "'answers' are not as many as the settings say";
  out->task = cli_strdup(task);
  out->answers = cli_alloc(n_answers, sizeof *out->answers);
  for (size_t i = 0; !why && i < n_answers; i++)
    why = take_answer(json_array_get(answers, i), i == 0, &out->answers[i]);
  return why;
}

static const char *append(eval_records *records, const json_t *object) {
  if (records->n == records->capacity) {
    records->capacity = 2 * records->capacity + 16;
    records->list = cli_realloc(records->list, records->capacity, sizeof *records->list);
  }
  eval_record record = {0};
  const char *why = take_record(object, records->n_answers, &record);
  if (!why && eval_records_has(records, record.task, record.length, record.sample))
    why = "a prompt that is there already";
  if (why)
    free_record(&record, records->n_answers);
  else
    records->list[records->n++] = record;
  return why;
}

/* ---- files ---- */

/* Says which setting differs. */
static int compare_settings(const char *path, size_t line, const json_t *theirs, json_t *ours) {
  const char *key;
  json_t *value;
  if (!json_is_object(theirs))
    return cli_complain("%s: line %zu: no settings of leank eval", path, line);
  json_object_foreach(ours, key, value) {
    if (!json_equal(value, json_object_get(theirs, key)))
      return cli_complain("%s: was written with other settings: '%s' differs", path, key);
  }
  if (json_object_size(theirs) != json_object_size(ours))
    return cli_complain("%s: was written with other settings", path);
  return CLI_GO;
}

static int read_line(eval_records *records, const char *text, size_t n, size_t line,
                     json_t *settings) {
  json_error_t error;
  int code = CLI_GO;
  json_t *object = json_loadb(text, n, JSON_REJECT_DUPLICATES, &error);
  if (!object) {
    code = cli_complain("%s: line %zu: %s", records->path, line, error.text);
  } else if (line == 1 || json_object_get(object, "leank-eval")) {
    code = compare_settings(records->path, line, json_object_get(object, "leank-eval"), settings);
  } else {
    const char *why = append(records, object);
    if (why) code = cli_complain("%s: line %zu: %s", records->path, line, why);
  }
  json_decref(object);
  return code;
}

/* Reads whole lines; *n_whole: their bytes. */
static int read_all(eval_records *records, FILE *file, json_t *settings, size_t *n_whole) {
  char *text = NULL;
  size_t room = 0;
  ssize_t n;
  int code = CLI_GO;
  *n_whole = 0;
  for (size_t line = 1; code == CLI_GO && (n = getline(&text, &room, file)) > 0; line++) {
    if (text[n - 1] != '\n') { /* torn */
      if (line == 1 && strncmp(text, first_line, strlen(first_line)) != 0 &&
          strncmp(text, first_line, (size_t)n) != 0)
        code = cli_complain("%s: no records of leank eval", records->path);
      break;
    }
    code = read_line(records, text, (size_t)n - 1, line, settings);
    *n_whole += (size_t)n;
    if (code == CLI_GO && *n_whole > MAX_RECORDS_BYTES)
      code = cli_complain("%s: too large", records->path);
  }
  if (code == CLI_GO && ferror(file)) code = cli_complain("%s: %s", records->path, strerror(errno));
  free(text);
  return code;
}

/* Writes a line (taken over) and flushes it. */
static int write_line(eval_records *records, json_t *line) {
  char *text = json_dumps(line, JSON_COMPACT | JSON_REAL_PRECISION(7));
  json_decref(line);
  if (!text) return cli_complain("out of memory");
  const bool written = fprintf(records->file, "%s\n", text) > 0 && fflush(records->file) == 0;
  free(text);
  if (written) return CLI_GO;
  return cli_complain("%s: %s", records->path, strerror(errno));
}

int eval_records_open(const char *path, json_t *settings, size_t n_answers, eval_records *out) {
  size_t n_whole = 0;
  int code = CLI_GO;
  *out = (eval_records){.n_answers = n_answers, .path = path};
  if (!path) return CLI_GO;
  FILE *old = fopen(path, "r");
  if (old) {
    code = read_all(out, old, settings, &n_whole);
    fclose(old);
  }
  if (!old && errno != ENOENT) code = cli_complain("%s: %s", path, strerror(errno));
  if (code != CLI_GO) return code;
  out->file = fopen(path, "a");
  if (!out->file) return cli_complain("%s: %s", path, strerror(errno));
  if (old && truncate(path, (off_t)n_whole) != 0)
    return cli_complain("%s: %s", path, strerror(errno));
  if (n_whole > 0) return CLI_GO;
  json_t *line = json_object();
  json_object_set(line, "leank-eval", settings);
  return write_line(out, line);
}

void eval_records_close(eval_records *records) {
  for (size_t i = 0; i < records->n; i++) free_record(&records->list[i], records->n_answers);
  free(records->list);
  if (records->file) fclose(records->file);
  *records = (eval_records){0};
}

bool eval_records_has(const eval_records *records, const char *task, size_t length, size_t sample) {
  for (size_t i = 0; i < records->n; i++) {
    const eval_record *r = &records->list[i];
    if (r->sample == sample && r->length == length && strcmp(r->task, task) == 0) return true;
  }
  return false;
}

/* ---- adding ---- */

static json_t *answer_json(const leank_eval_result *r, const char *name) {
  json_t *j = json_object();
  json_object_set_new(j, "name", cli_json_text(name));
  json_object_set_new(j, "score", json_real(r->score));
  json_object_set_new(j, "rows", cli_json_size(r->n_rows));
  json_object_set_new(j, "agree", cli_json_size(r->n_agree));
  json_object_set_new(j, "nll", json_real(r->nll));
  json_object_set_new(j, "bytes", cli_json_size(r->stored_bytes));
  json_object_set_new(j, "k_kept", json_real(r->k_kept));
  json_object_set_new(j, "v_kept", json_real(r->v_kept));
  json_object_set_new(j, "new", cli_json_size(r->n_new));
  json_object_set_new(j, "text", cli_json_text(r->text));
  if (r->kl) {
    json_t *kl = json_array();
    for (size_t i = 0; i < r->n_rows; i++) json_array_append_new(kl, json_real((double)r->kl[i]));
    json_object_set_new(j, "kl", kl);
  }
  return j;
}

int eval_records_add(eval_records *records, const leank_eval_prompt *prompt, double seconds,
                     const leank_eval_result *results, const char *const *names) {
  json_t *line = json_object(), *answers = json_array(), *references = json_array();
  for (size_t i = 0; i < prompt->n_references; i++)
    json_array_append_new(references, cli_json_text(prompt->references[i]));
  for (size_t i = 0; i < records->n_answers; i++)
    json_array_append_new(answers, answer_json(&results[i], names[i]));
  json_object_set_new(line, "task", cli_json_text(prompt->task));
  json_object_set_new(line, "length", cli_json_size(prompt->length));
  json_object_set_new(line, "sample", cli_json_size(prompt->sample));
  json_object_set_new(line, "metric", json_string(leank_eval_metric_name(prompt->metric)));
  json_object_set_new(line, "tokens", cli_json_size(prompt->n_tokens));
  json_object_set_new(line, "seconds", json_real(seconds));
  json_object_set_new(line, "references", references);
  json_object_set_new(line, "answers", answers);
  /* What is counted is what a later run reads: numbers as they are written. */
  char *text = json_dumps(line, JSON_COMPACT | JSON_REAL_PRECISION(7));
  json_t *read = text ? json_loads(text, 0, NULL) : NULL;
  const char *why = read ? append(records, read) : "out of memory";
  free(text);
  json_decref(read);
  if (why) {
    json_decref(line);
    return cli_complain("a record that cannot be: %s", why);
  }
  if (records->file) return write_line(records, line);
  json_decref(line);
  return CLI_GO;
}
