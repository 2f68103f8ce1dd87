/* leank eval: task scores, KL and perplexity of masks and baselines against the dense cache. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <leank/eval.h>

#include "cli_console.h"
#include "cli_engine.h"
#include "cli_file.h"
#include "cli_report.h"
#include "eval_records.h"
#include "eval_report.h"
#include "eval_summary.h"
#include "eval_tasks.h"
#include "eval_variants.h"

#define SUITES "ruler|niah|gsm-infinite|ppl|kl|longbench"

typedef struct eval_options {
  int suite;
  cli_texts masks, baselines, tasks, haystacks, data;
  cli_sizes lengths;
  size_t n_samples;
  size_t n_rows, align, n_tokens; /* SIZE_MAX: not given */
  uint64_t seed;
  eval_files files;
  const char *text, *out, *report, *part;
  size_t part_number, n_parts; /* of "2/4": from 1 */
  bool json, prompts;
  cli_engine_options engine;
} eval_options;

static int parse(int argc, char **argv, eval_options *o, const char **model) {
  const cli_option rows[] = {
      {'m', "mask", CLI_TEXTS, &o->masks, "FILE", "mask files to judge, several at once"},
      {0, "baseline", CLI_TEXTS, &o->baselines, "METHOD:R", "masks made on the spot (see below)"},
      {0, "suite", CLI_CHOICE, &o->suite, SUITES, "what is asked (ruler)"},
      {0, "tasks", CLI_TEXTS, &o->tasks, "NAMES", "of the suite (all)"},
      {0, "lengths", CLI_LIST, &o->lengths, "LIST", "tokens of a prompt with its answer (4k)"},
      {0, "samples", CLI_SIZE, &o->n_samples, "N", "prompts of each task and length (25)"},
      {0, "seed", CLI_SEED, &o->seed, "N", "of the prompts (1)"},
      {0, "haystack", CLI_TEXTS, &o->haystacks, "FILE", "text to hide in (built-in prose)"},
      {0, "data", CLI_TEXTS, &o->data, "FILE", "LongBench files, JSON lines"},
      EVAL_FILES_ROWS(o->files),
      {0, "rows", CLI_SIZE, &o->n_rows, "N", "ppl, kl: last tokens that are scored (256)"},
      {0, "align", CLI_SIZE, &o->align, "N", "baselines: kept counts are multiples of it (8)"},
      {0, "text", CLI_TEXT, &o->text, "FILE", "baselines: measure on this text (built-in prose)"},
      {0, "tokens", CLI_SIZE, &o->n_tokens, "N", "baselines: its first N tokens (2048)"},
      {'o', "out", CLI_PLACE, &o->out, "FILE.jsonl", "records; a run that finds some goes on"},
      {0, "part", CLI_TEXT, &o->part, "I/N", "only every Nth prompt, from the Ith on (see below)"},
      {0, "report", CLI_PLACE, &o->report, "FOLDER", "writes report.md and plots there"},
      {0, "json", CLI_FLAG, &o->json, NULL, "one JSON object instead of tables"},
      {0, "prompts", CLI_FLAG, &o->prompts, NULL, "prints the prompts as JSON lines, asks nothing"},
      CLI_KV_TYPE_ROW(o->engine),
      CLI_CHUNK_ROW(o->engine),
      CLI_WEIGHTS_ROW(o->engine),
      CLI_DEVICE_ROW(o->engine),
      CLI_THREADS_ROWS(o->engine),
  };
  char details[4096];
  size_t n = (size_t)snprintf(details, sizeof details, "tasks:\n");
  for (int s = 0; s < LEANK_N_SUITES; s++) {
    const char *name;
    size_t column = 0;
    for (size_t i = 0; (name = leank_eval_task_name((leank_eval_suite)s, i)); i++) {
      if (i == 0 || column + strlen(name) > 96) {
        n += (size_t)snprintf(details + n, sizeof details - n, "%s  %-14s", i ? "\n" : "",
                              i ? "" : leank_eval_suite_name((leank_eval_suite)s));
        column = 16;
      }
      n += (size_t)snprintf(details + n, sizeof details - n, " %s", name);
      column += strlen(name) + 1;
    }
    n += (size_t)snprintf(details + n, sizeof details - n, "\n");
  }
  snprintf(
      details + n, sizeof details - n,
      "Without --tasks all are asked; of ruler qa_1 and qa_2 only with their files (--squad, "
      "--hotpot),\nin place of qa_like_1 and qa_like_2.\n"
      "%s\nA prompt is read once, dense; all caches answer from that. Answers are greedy. KL and "
      "top-1\nare over the rows of the dense answer (ppl, kl: of the passage).\n\n"
      "With --part several devices share a run: each takes a part, with records of its own. "
      "The\nfiles of all parts, one behind the other, are the records of the whole: the command "
      "without\n--part counts them.",
      eval_baselines_help);
  const cli_command command = {
      .usage = "leank eval MODEL [--mask FILE ...] [--baseline METHOD:R ...] [options]",
      .about =
          "Asks prompts whose answers are known, of the dense cache, of masks and of baselines.\n"
          "With -o a run that was stopped goes on where it was.",
      .details = details,
      .options = rows,
      .n_options = sizeof rows / sizeof *rows,
      .n_min = 1,
      .n_max = 1,
  };
  return cli_parse(&command, argc, argv, model);
}

/* ---- settings ---- */

/* "2/4" */
static int parse_part(eval_options *o) {
  char end;
  o->part_number = o->n_parts = 1;
  if (!o->part) return CLI_GO;
  if (strspn(o->part, "0123456789/") != strlen(o->part) || strlen(o->part) > 15 ||
      sscanf(o->part, "%zu/%zu%c", &o->part_number, &o->n_parts, &end) != 2 || o->part_number < 1 ||
      o->part_number > o->n_parts)
    return cli_usage_error("--part: '%s' is not I/N, as 2/4", o->part);
  return CLI_GO;
}

/* Tasks that the suite has, and files that it or they need or have no use for. */
static int check_tasks(const eval_options *o) {
  const bool longbench = o->suite == LEANK_SUITE_LONGBENCH;
  if (longbench && o->data.n == 0)
    return cli_usage_error("--suite longbench needs its files: --data");
  if (!longbench && o->data.n > 0) return cli_usage_error("--data is for --suite longbench alone");
  return eval_tasks_check((leank_eval_suite)o->suite, &o->tasks, &o->files);
}

/* Options that nothing of the run would look at. */
static int check_unused(const eval_options *o) {
  const bool longbench = o->suite == LEANK_SUITE_LONGBENCH, gsm = o->suite == LEANK_SUITE_GSM;
  if ((o->text || o->n_tokens != SIZE_MAX) && !eval_variants_measure(&o->baselines))
    return cli_usage_error("--%s is of the text that --baseline magnitude and energy are measured "
                           "on: there is none of them",
                           o->text ? "text" : "tokens");
  if (o->align != SIZE_MAX && !eval_variants_align(&o->baselines))
    return cli_usage_error("--align is for --baseline random, magnitude and energy: there is none "
                           "of them");
  if (o->n_rows != SIZE_MAX && o->suite != LEANK_SUITE_PPL && o->suite != LEANK_SUITE_KL)
    return cli_usage_error("--rows is for suites ppl and kl alone");
  if (o->haystacks.n > 0 && (longbench || gsm))
    return cli_usage_error("--haystack is prose, which suite %s has no use for",
                           leank_eval_suite_name((leank_eval_suite)o->suite));
  return CLI_GO;
}

/* What was not given and has a default. */
static int fill_in(eval_options *o) {
  if (o->n_samples == 0) return cli_usage_error("--samples is at least 1");
  if (o->n_tokens == 0 || o->align == 0)
    return cli_usage_error("--tokens and --align are at least 1");
  if (o->n_rows == SIZE_MAX) o->n_rows = 256;
  if (o->align == SIZE_MAX) o->align = 8;
  if (o->n_tokens == SIZE_MAX) o->n_tokens = 2048;
  return CLI_GO;
}

/* FNV-1a of a file's bytes, as 16 hex digits; complains and returns NULL where it cannot be read.
 */
static json_t *hash_of_file(const char *path) {
  FILE *file = fopen(path, "rb");
  uint64_t hash = 0xcbf29ce484222325u;
  unsigned char bytes[1 << 14];
  char text[20];
  size_t n;
  if (!file) {
    cli_complain("%s: %s", path, strerror(errno));
    return NULL;
  }
  while ((n = fread(bytes, 1, sizeof bytes, file)) > 0)
    for (size_t i = 0; i < n; i++) hash = (hash ^ bytes[i]) * 0x100000001b3u;
  const bool failed = ferror(file);
  fclose(file);
  if (failed) {
    cli_complain("%s: %s", path, strerror(errno));
    return NULL;
  }
  snprintf(text, sizeof text, "%016" PRIx64, hash);
  return json_string(text);
}

static json_t *hashes(const cli_texts *paths) {
  json_t *list = json_array();
  for (size_t i = 0; i < paths->n; i++) {
    json_t *hash = hash_of_file(paths->values[i]);
    if (!hash) {
      json_decref(list);
      return NULL;
    }
    json_array_append_new(list, hash);
  }
  return list;
}

/* All that a record depends on, but for the number of samples: more may be asked for later. NULL
 * after a complaint. */
static json_t *settings_json(const eval_options *o, const cli_engine *engine,
                             const eval_variants *variants) {
  const leank_model_info *model = engine->info;
  cli_texts files = o->data;
  if (o->files.squad) cli_texts_add(&files, o->files.squad, strlen(o->files.squad));
  if (o->files.hotpot) cli_texts_add(&files, o->files.hotpot, strlen(o->files.hotpot));
  json_t *j = json_object(), *lengths = json_array(), *tasks = json_array();
  json_t *haystacks = hashes(&o->haystacks), *data = haystacks ? hashes(&files) : NULL;
  for (size_t i = 0; i < o->lengths.n; i++)
    json_array_append_new(lengths, cli_json_size(o->lengths.values[i]));
  for (size_t i = 0; i < o->tasks.n; i++)
    json_array_append_new(tasks, cli_json_text(o->tasks.values[i]));
  json_object_set_new(j, "model", cli_json_text(model->name));
  json_object_set_new(j, "fingerprint", cli_json_text(model->fingerprint));
  json_object_set_new(j, "suite", json_string(leank_eval_suite_name((leank_eval_suite)o->suite)));
  json_object_set_new(j, "tasks", tasks);
  json_object_set_new(j, "lengths", lengths);
  json_object_set_new(j, "seed", json_integer((json_int_t)o->seed));
  json_object_set_new(j, "rows", cli_json_size(o->n_rows));
  json_object_set_new(j, "kv-type", json_string(cli_kv_type_name(o->engine.kv_type)));
  json_object_set_new(j, "device",
                      json_string(engine->device == LEANK_DEVICE_CUDA ? "cuda" : "cpu"));
  json_object_set_new(j, "caches", eval_variants_json(variants));
  if (!data) {
    json_decref(haystacks);
    json_decref(j);
    return NULL;
  }
  json_object_set_new(j, "haystack", haystacks);
  json_object_set_new(j, "data", data);
  return j;
}

/* Makes the first prompt of each task and length: what is too short shall fail at once. */
static int check_lengths(const leank_eval_set *set) {
  leank_eval_prompt p, *made = NULL;
  leank_error err;
  for (size_t i = 0; i < leank_eval_set_size(set); i++) {
    leank_eval_set_describe(set, i, &p);
    if (p.sample > 0) break;
    if (leank_eval_prompt_make(set, i, &made, &err) != LEANK_OK) return cli_fail(&err);
    leank_eval_prompt_close(&made);
  }
  return CLI_GO;
}

/* ---- asking ---- */

typedef struct asking {
  const eval_options *options;
  const cli_engine *engine;
  const leank_eval_set *set;
  const eval_variants *variants;
  const char *names[1 + EVAL_MAX_VARIANTS];
  eval_records *records;
  /* progress */
  bool terminal;
  double began, said;
  double tokens_done, tokens_left; /* of this run: what is left costs what was done */
  size_t n_done, n_all;
  leank_eval_prompt now;
} asking;

static void put_time(char *out, size_t room, double seconds) {
  const double minutes = seconds / 60;
  if (seconds < 90)
    snprintf(out, room, "%.0f s", seconds);
  else if (minutes < 90)
    snprintf(out, room, "%.0f min", minutes);
  else
    snprintf(out, room, "%.1f h", minutes / 60);
}

/* On a terminal a line that is written over; else a line a minute, for logs. */
static void on_progress(void *user, uint64_t done, uint64_t total) {
  asking *a = user;
  const double now = cli_seconds(), part = (double)done / (double)total;
  const double did = a->tokens_done + part * (double)a->now.length;
  if (now - a->said < (a->terminal ? 0.2 : 60)) return;
  a->said = now;
  char left[32] = "?";
  if (did > 0)
    put_time(left, sizeof left,
             (now - a->began) / did * (a->tokens_left - part * (double)a->now.length));
  fprintf(stderr, "%s%zu of %zu prompts, %s at %zu tokens %3.0f %%, %s left%s",
          a->terminal ? "\r" : "", a->n_done, a->n_all, a->now.task, a->now.length, 100 * part,
          left, a->terminal ? "\033[K" : "\n");
  fflush(stderr);
}

static int ask(asking *a, size_t i) {
  leank_eval_result results[1 + EVAL_MAX_VARIANTS] = {{0}};
  leank_eval_run_options options;
  leank_eval_prompt *prompt = NULL;
  leank_error err;
  int code = CLI_GO;
  const double began = cli_seconds();
  leank_eval_run_options_default(&options);
  cli_engine_session_options(a->engine, &options.session);
  options.on_progress = on_progress;
  options.should_stop = cli_should_stop;
  options.user = a;
  leank_status status = leank_eval_prompt_make(a->set, i, &prompt, &err);
  if (status == LEANK_OK)
    status = leank_eval_answer(a->engine->model, prompt, a->variants->list, a->variants->n,
                               &options, results, &err);
  if (status == LEANK_OK)
    code = eval_records_add(a->records, prompt, cli_seconds() - began, results, a->names);
  for (size_t k = 0; k <= a->variants->n; k++) leank_eval_result_clear(&results[k]);
  leank_eval_prompt_close(&prompt);
  if (status == LEANK_E_INTERRUPTED) return CLI_INTERRUPTED;
  return status == LEANK_OK ? code : cli_fail(&err);
}

static bool is_of_part(const asking *a, size_t i) {
  return i % a->options->n_parts == a->options->part_number - 1;
}

static bool is_answered(const asking *a, size_t i, leank_eval_prompt *out) {
  leank_eval_set_describe(a->set, i, out);
  return eval_records_has(a->records, out->task, out->length, out->sample);
}

static int ask_all(asking *a) {
  leank_eval_prompt p;
  int code = CLI_GO;
  const size_t n = leank_eval_set_size(a->set);
  for (size_t i = 0; i < n; i++) {
    if (!is_of_part(a, i)) continue;
    a->n_all++;
    if (is_answered(a, i, &p))
      a->n_done++;
    else
      a->tokens_left += (double)p.length;
  }
  if (a->n_done > 0)
    fprintf(stderr, "%s: going on behind %zu of %zu prompts\n", a->records->path, a->n_done,
            a->n_all);
  a->terminal = isatty(STDERR_FILENO) == 1;
  a->began = a->said = cli_seconds();
  cli_interrupt_arm(NULL);
  for (size_t i = 0; code == CLI_GO && i < n; i++) {
    if (!is_of_part(a, i) || is_answered(a, i, &a->now)) continue;
    code = ask(a, i);
    a->n_done += code == CLI_GO;
    a->tokens_done += (double)a->now.length;
    a->tokens_left -= (double)a->now.length;
  }
  cli_interrupt_disarm();
  if (a->terminal) fputs("\r\033[K", stderr);
  return code;
}

/* ---- results ---- */

static int show(const eval_options *o, const asking *a, const char *title) {
  eval_summary summary = eval_summary_make(a->records, a->set);
  char command[512];
  cli_buffer text = {0};
  int code = CLI_GO;
  snprintf(command, sizeof command,
           "`leank eval --suite %s --samples %zu --seed %" PRIu64 "`; prose: %s; K and V: %s.",
           leank_eval_suite_name((leank_eval_suite)o->suite), o->n_samples, o->seed,
           o->haystacks.n ? "the user's" : leank_sample_text_name(),
           cli_kv_type_name(o->engine.kv_type));
  const eval_report report = {&summary, a->names, o->masks.n, (leank_eval_suite)o->suite,
                              title,    command};
  if (o->json) {
    cli_json_print(eval_report_json(&report), false);
  } else {
    eval_report_text(&report, false, &text);
    fwrite(text.data, 1, text.n, stdout);
  }
  if (o->report) code = eval_report_write(&report, o->report);
  cli_buffer_free(&text);
  eval_summary_free(&summary);
  return code;
}

static int print_prompts(const leank_eval_set *set) {
  leank_error err;
  for (size_t i = 0; i < leank_eval_set_size(set); i++) {
    leank_eval_prompt *p = NULL;
    if (leank_eval_prompt_make(set, i, &p, &err) != LEANK_OK) return cli_fail(&err);
    json_t *j = json_object(), *references = json_array();
    for (size_t r = 0; r < p->n_references; r++)
      json_array_append_new(references, cli_json_text(p->references[r]));
    json_object_set_new(j, "task", cli_json_text(p->task));
    json_object_set_new(j, "length", cli_json_size(p->length));
    json_object_set_new(j, "sample", cli_json_size(p->sample));
    json_object_set_new(j, "metric", json_string(leank_eval_metric_name(p->metric)));
    json_object_set_new(j, "tokens", cli_json_size(p->n_tokens));
    json_object_set_new(j, "new", cli_json_size(p->max_new));
    json_object_set_new(j, "references", references);
    json_object_set_new(j, "message", cli_json_text(p->message));
    cli_json_print(j, true);
    leank_eval_prompt_close(&p);
  }
  return CLI_GO;
}

static int open_set(const eval_options *o, const cli_engine *engine, leank_eval_set **out) {
  leank_eval_options options;
  leank_error err;
  leank_eval_options_default(&options);
  options.suite = (leank_eval_suite)o->suite;
  options.tasks = o->tasks.values;
  options.n_tasks = o->tasks.n;
  options.lengths = o->lengths.values;
  options.n_lengths = o->lengths.n;
  options.n_samples = o->n_samples;
  options.seed = o->seed;
  options.haystacks = o->haystacks.values;
  options.n_haystacks = o->haystacks.n;
  options.files = o->data.values;
  options.n_files = o->data.n;
  options.n_rows = o->n_rows;
  options.squad = o->files.squad;
  options.hotpot = o->files.hotpot;
  return leank_eval_set_open(engine->model, &options, out, &err) == LEANK_OK ? CLI_GO
                                                                             : cli_fail(&err);
}

static int evaluate(const eval_options *o, const cli_engine *engine, const leank_eval_set *set,
                    const char *path) {
  eval_variants variants = {0};
  eval_records records = {0};
  json_t *settings = NULL;
  leank_session *kept = NULL;
  asking a = {
      .options = o, .engine = engine, .set = set, .variants = &variants, .records = &records};
  int code = cli_engine_keep_weights(engine, &kept);
  if (code == CLI_GO)
    code = eval_variants_open(engine, &o->masks, &o->baselines, o->align, o->seed, o->text,
                              o->n_tokens, &variants);
  a.names[0] = "dense";
  for (size_t i = 0; i < variants.n; i++) a.names[1 + i] = variants.names[i];
  if (code == CLI_GO) {
    settings = settings_json(o, engine, &variants);
    code = settings ? eval_records_open(o->out, settings, 1 + variants.n, &records) : CLI_FAILURE;
  }
  if (code == CLI_GO) code = ask_all(&a);
  if (code == CLI_INTERRUPTED) {
    cli_complain("interrupted after %zu of %zu prompts%s", a.n_done, a.n_all,
                 o->out ? "; the same command goes on" : "");
    if (records.n > 0 && show(o, &a, cli_engine_title(engine, path)) != CLI_GO) code = CLI_FAILURE;
  } else if (code == CLI_GO) {
    code = show(o, &a, cli_engine_title(engine, path));
  }
  leank_session_close(&kept);
  json_decref(settings);
  eval_records_close(&records);
  eval_variants_close(&variants);
  return code;
}

int cmd_eval(int argc, char **argv) {
  eval_options o = {.lengths = {1, {4096}},
                    .n_samples = 25,
                    .n_rows = SIZE_MAX,
                    .align = SIZE_MAX,
                    .n_tokens = SIZE_MAX,
                    .seed = 1};
  const char *path[CLI_MAX_POSITIONALS];
  cli_engine engine = {0};
  leank_eval_set *set = NULL;
  cli_engine_options_default(&o.engine);
  int code = parse(argc, argv, &o, path);
  if (code == CLI_GO) code = parse_part(&o);
  if (code == CLI_GO) code = eval_variants_check(&o.masks, &o.baselines);
  if (code == CLI_GO) code = check_tasks(&o);
  if (code == CLI_GO) code = check_unused(&o);
  if (code == CLI_GO) code = fill_in(&o);
  if (code == CLI_GO && o.out) code = cli_check_regular(o.out);
  if (code == CLI_GO && o.out) code = cli_check_place(o.out);
  if (code == CLI_GO && o.report && !o.prompts) code = cli_make_folder(o.report);
  if (code == CLI_GO) code = cli_engine_open(path[0], &o.engine, &engine);
  if (code == CLI_GO) code = open_set(&o, &engine, &set);
  if (code == CLI_GO) code = check_lengths(set);
  if (code == CLI_GO) code = o.prompts ? print_prompts(set) : evaluate(&o, &engine, set, path[0]);
  leank_eval_set_close(&set);
  cli_engine_close(&engine);
  return code == CLI_GO ? CLI_OK : code;
}
