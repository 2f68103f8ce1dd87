#include "eval_report.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli_file.h"
#include "cli_report.h"
#include "text_table.h"

static void put_table(text_table *table, bool markdown, cli_buffer *out) {
  if (markdown)
    text_table_markdown(table, out);
  else
    text_table_text(table, out);
  text_table_free(table);
}

static bool has_scores(const eval_report *r) {
  return r->suite != LEANK_SUITE_PPL && r->suite != LEANK_SUITE_KL;
}

/* A mean and, where there is one, behind it the standard error: formats of one number each. */
static void put_mean(text_table *t, const char *mean, const char *se, eval_mean m, double scale) {
  char text[64];
  int n = snprintf(text, sizeof text, mean, scale * m.mean);
  if (!isnan(m.se)) snprintf(text + n, sizeof text - (size_t)n, se, scale * m.se);
  text_table_cell(t, "%s", text);
}

/* ---- one length ---- */

static void put_overview(const eval_report *r, const eval_block *b, bool markdown,
                         cli_buffer *out) {
  text_table t;
  const bool scores = has_scores(r), ppl = r->suite == LEANK_SUITE_PPL;
  text_table_begin(&t, 7 + (scores ? 2 : 0) + ppl);
  text_table_cell(&t, "cache");
  text_table_cell(&t, "K kept");
  text_table_cell(&t, "V kept");
  text_table_cell(&t, "K+V MB");
  if (scores) text_table_cell(&t, "score");
  if (scores) text_table_cell(&t, "change");
  if (ppl) text_table_cell(&t, "perplexity");
  text_table_cell(&t, "KL");
  text_table_cell(&t, "KL p99");
  text_table_cell(&t, "top-1");
  for (size_t i = 0; i < r->summary->n_answers; i++) {
    const eval_cell *c = &b->all[i];
    const bool dense = i == 0;
    text_table_cell(&t, "%s", r->names[i]);
    text_table_cell(&t, "%.1f%%", 100 * c->k_kept);
    text_table_cell(&t, "%.1f%%", 100 * c->v_kept);
    text_table_cell(&t, "%.2f", c->bytes / 1e6);
    if (scores) put_mean(&t, "%.1f", " +-%4.1f", c->score, 100);
    if (scores && dense) text_table_cell(&t, "-");
    if (scores && !dense) put_mean(&t, "%+.1f", " +-%4.1f", c->change, 100);
    if (ppl) text_table_cell(&t, "%.4f", c->perplexity);
    if (dense) {
      for (int k = 0; k < 3; k++) text_table_cell(&t, "-");
      continue;
    }
    put_mean(&t, "%.5f", " +-%.5f", c->kl, 1);
    text_table_cell(&t, "%.4f", c->kl_p99);
    text_table_cell(&t, "%.1f%%", 100 * c->top1);
  }
  put_table(&t, markdown, out);
}

/* What all names of the suite begin with needs no room. */
static const char *short_name(const char *task) {
  static const char *const prefixes[] = {"niah_", "symbolic_"};
  for (size_t i = 0; i < 2; i++)
    if (strncmp(task, prefixes[i], strlen(prefixes[i])) == 0) return task + strlen(prefixes[i]);
  return task;
}

static void put_tasks(const eval_report *r, const eval_block *b, bool change, bool markdown,
                      cli_buffer *out) {
  text_table t;
  text_table_begin(&t, 2 + b->n_rows);
  text_table_cell(&t, change ? "change" : "score");
  for (size_t i = 0; i < b->n_rows; i++)
    text_table_cell(&t, "%s%s", short_name(b->rows[i].task), b->rows[i].counted ? "" : "*");
  text_table_cell(&t, "average");
  for (size_t a = change; a < r->summary->n_answers; a++) {
    text_table_cell(&t, "%s", r->names[a]);
    for (size_t i = 0; i <= b->n_rows; i++) {
      const eval_cell *c = i < b->n_rows ? &b->rows[i].cells[a] : &b->all[a];
      if (i == b->n_rows && b->n_counted == 0)
        text_table_cell(&t, "-");
      else if (change)
        put_mean(&t, "%+.1f", "+-%.1f", c->change, 100);
      else
        put_mean(&t, "%.1f", "+-%.1f", c->score, 100);
    }
  }
  put_table(&t, markdown, out);
}

/* "symbolic_op4": 4; 0 of another task. */
static double operations_of(const char *task) {
  const char *op = strstr(task, "_op");
  return op ? strtod(op + 3, NULL) : 0;
}

/* Area under accuracy over operations (trapezoids), as a share of the largest possible. */
static void put_area(const eval_report *r, const eval_block *b, cli_buffer *out) {
  if (r->suite != LEANK_SUITE_GSM || b->n_rows < 2) return;
  cli_buffer_put(out, "\narea under accuracy over operations, %% of all:");
  for (size_t a = 0; a < r->summary->n_answers; a++) {
    double area = 0, width = 0;
    for (size_t i = 1; i < b->n_rows; i++) {
      const double step = operations_of(b->rows[i].task) - operations_of(b->rows[i - 1].task);
      const double sum = b->rows[i].cells[a].score.mean + b->rows[i - 1].cells[a].score.mean;
      area += step * sum / 2;
      width += step;
    }
    cli_buffer_put(out, "%s %s %.1f", a ? "," : "", r->names[a],
                   width > 0 ? 100 * area / width : 0);
  }
  cli_buffer_put(out, "\n");
}

/* Samples of tasks: all have as many, but where a run goes on or a file is short. */
static void put_heading(const eval_report *r, const eval_block *b, bool markdown, cli_buffer *out) {
  size_t least = SIZE_MAX, most = 0;
  for (size_t i = 0; i < b->n_rows; i++) {
    const size_t n = b->rows[i].cells[0].n;
    if (n < least) least = n;
    if (n > most) most = n;
  }
  cli_buffer_put(out, "%s%s at %zu tokens: %zu task%s, ", markdown ? "## " : "",
                 leank_eval_suite_name(r->suite), b->length, b->n_rows, b->n_rows == 1 ? "" : "s");
  if (least == most)
    cli_buffer_put(out, "%zu prompt%s each", most, most == 1 ? "" : "s");
  else
    cli_buffer_put(out, "%zu to %zu prompts each", least, most);
  cli_buffer_put(out, ", %zu answer rows\n\n", b->all[0].n_rows);
}

void eval_report_text(const eval_report *r, bool markdown, cli_buffer *out) {
  bool left_out = false;
  for (size_t i = 0; i < r->summary->n_blocks; i++) {
    const eval_block *b = &r->summary->blocks[i];
    if (b->n_rows == 0) continue;
    if (out->n > 0) cli_buffer_put(out, "\n");
    put_heading(r, b, markdown, out);
    put_overview(r, b, markdown, out);
    if (!has_scores(r)) continue;
    cli_buffer_put(out, "\n");
    put_tasks(r, b, false, markdown, out);
    put_area(r, b, out);
    if (r->summary->n_answers > 1) {
      cli_buffer_put(out, "\n");
      put_tasks(r, b, true, markdown, out);
    }
    left_out = left_out || b->n_counted < b->n_rows;
  }
  cli_buffer_put(out, "\n%s+- standard errors; change: to dense, paired by prompts%s\n",
                 left_out ? "* dense below 10 %: not averaged; " : "",
                 has_scores(r) ? ", points" : "");
}

/* ---- JSON ---- */

static void set_mean(json_t *j, const char *name, eval_mean m) {
  char se[32];
  snprintf(se, sizeof se, "%s_se", name);
  json_object_set_new(j, name, json_real(m.mean));
  json_object_set_new(j, se, isnan(m.se) ? json_null() : json_real(m.se));
}

static json_t *cell_json(const eval_report *r, size_t answer, const eval_cell *c) {
  json_t *j = json_object();
  json_object_set_new(j, "cache", cli_json_text(r->names[answer]));
  json_object_set_new(j, "n", cli_json_size(c->n));
  json_object_set_new(j, "n_rows", cli_json_size(c->n_rows));
  if (has_scores(r)) set_mean(j, "score", c->score);
  if (has_scores(r)) set_mean(j, "change", c->change);
  set_mean(j, "kl", c->kl);
  json_object_set_new(j, "kl_p99", json_real(c->kl_p99));
  json_object_set_new(j, "top1", json_real(c->top1));
  json_object_set_new(j, "perplexity", json_real(c->perplexity));
  json_object_set_new(j, "bytes", json_real(c->bytes));
  json_object_set_new(j, "k_kept", json_real(c->k_kept));
  json_object_set_new(j, "v_kept", json_real(c->v_kept));
  return j;
}

static json_t *cells_json(const eval_report *r, const eval_cell *cells) {
  json_t *list = json_array();
  for (size_t i = 0; i < r->summary->n_answers; i++)
    json_array_append_new(list, cell_json(r, i, &cells[i]));
  return list;
}

json_t *eval_report_json(const eval_report *r) {
  json_t *j = json_object(), *lengths = json_array();
  json_object_set_new(j, "model", cli_json_text(r->title));
  json_object_set_new(j, "suite", json_string(leank_eval_suite_name(r->suite)));
  for (size_t i = 0; i < r->summary->n_blocks; i++) {
    const eval_block *b = &r->summary->blocks[i];
    json_t *block = json_object(), *tasks = json_array();
    for (size_t k = 0; k < b->n_rows; k++) {
      json_t *task = json_object();
      json_object_set_new(task, "task", cli_json_text(b->rows[k].task));
      json_object_set_new(task, "counted", json_boolean(b->rows[k].counted));
      json_object_set_new(task, "caches", cells_json(r, b->rows[k].cells));
      json_array_append_new(tasks, task);
    }
    json_object_set_new(block, "length", cli_json_size(b->length));
    json_object_set_new(block, "all", cells_json(r, b->all));
    json_object_set_new(block, "tasks", tasks);
    json_array_append_new(lengths, block);
  }
  json_object_set_new(j, "lengths", lengths);
  return j;
}

/* ---- files ---- */

static int write_plot(const eval_report *r, const char *folder, const char *name,
                      void (*draw)(const eval_report *, cli_buffer *), cli_buffer *page) {
  cli_buffer svg = {0};
  draw(r, &svg);
  int code = cli_write_in_folder(folder, name, svg.data, svg.n);
  cli_buffer_free(&svg);
  cli_buffer_put(page, "\n![%s](%s)\n", name, name);
  return code;
}

int eval_report_write(const eval_report *r, const char *folder) {
  cli_buffer page = {0};
  int code = cli_make_folder(folder);
  if (code != CLI_GO) return code;
  cli_buffer_put(&page, "# %s: %s\n\n%s\n\n", r->title, leank_eval_suite_name(r->suite),
                 r->command);
  eval_report_text(r, true, &page);
  if (r->summary->n_answers > 1) {
    if (has_scores(r)) code = write_plot(r, folder, "changes.svg", eval_plot_changes, &page);
    if (code == CLI_GO) code = write_plot(r, folder, "kl.svg", eval_plot_kl, &page);
    if (code == CLI_GO) code = write_plot(r, folder, "bytes.svg", eval_plot_bytes, &page);
  }
  if (code == CLI_GO) code = cli_write_in_folder(folder, "report.md", page.data, page.n);
  cli_buffer_free(&page);
  return code;
}
