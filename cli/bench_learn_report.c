#include "bench_learn_report.h"

#include <stdio.h>

#include "cli_report.h"

/* A whole run of `leank learn` by its defaults, at the length, questions and batch measured. */
typedef struct whole_run {
  size_t n_contexts, n_held_out, n_steps1, n_steps2, n_evaluations;
  double contexts, updates, evaluations; /* seconds */
  size_t kv_bytes;
} whole_run;

static whole_run whole_of(const bench_learn_row *row) {
  const leank_learn_options *o = row->options;
  const bench_learn_part *second = &row->update[row->update[1].n > 0];
  leank_learn_options whole;
  leank_learn_options_default(&whole);
  whole_run run = {.n_contexts = whole.train.n_contexts,
                   .n_held_out = whole.held_out.n_contexts,
                   .n_steps1 = whole.n_steps1,
                   .n_steps2 = whole.n_steps2};
  const size_t n = run.n_contexts + run.n_held_out;
  run.contexts = (double)n * row->context.seconds;
  run.updates =
      (double)run.n_steps1 * row->update[0].seconds + (double)run.n_steps2 * second->seconds;
  if (row->evaluation.n > 0) {
    run.n_evaluations = 2; /* after each stage */
    run.evaluations =
        2 * row->evaluation.seconds * (double)run.n_held_out / (double)o->held_out.n_contexts;
  }
  run.kv_bytes = (size_t)((double)row->kv_bytes * (double)n /
                          (double)(o->train.n_contexts + o->held_out.n_contexts));
  return run;
}

/* Of the memory that contexts are in. */
static size_t capacity(const bench_machine *m) {
  return m->on_cuda ? m->device.total_bytes : m->cpu.free_bytes;
}

/* ---- text ---- */

void bench_learn_head(const bench_machine *m, const leank_model_info *info,
                      const leank_learn_options *o) {
  bench_print_machine(m);
  cli_print_text(info->name[0] ? info->name : info->architecture);
  printf(
      ": %zu contexts, %zu held out, %zu questions of %zu random tokens on each, answers of %zu; "
      "%zu questions an update\n",
      o->train.n_contexts, o->held_out.n_contexts, o->train.n_questions, o->train.random_prompt,
      o->train.random_answer, o->batch);
  printf("%8s  %-16s %6s %12s %12s %10s %10s\n", "length", "what", "times", "seconds", "tokens/s",
         "TFLOP", "TFLOP/s");
  fflush(stdout);
}

/* n_tokens 0: not a matter of tokens. */
static void print_part(const bench_learn_row *row, const char *what, const bench_learn_part *p,
                       double n_tokens) {
  if (p->n == 0) return;
  printf("%8zu  %-16s %6zu %12.4f", row->options->train.max_tokens, what, p->n, p->seconds);
  if (n_tokens > 0)
    printf(" %12.1f", n_tokens / p->seconds);
  else
    printf(" %12s", "");
  printf(" %10.4f %10.3f\n", 1e-12 * p->flops, 1e-12 * p->flops / p->seconds);
}

static void print_text(const bench_machine *m, const bench_learn_row *row) {
  const whole_run run = whole_of(row);
  const size_t length = row->options->train.max_tokens;
  const size_t n = row->options->train.n_contexts + row->options->held_out.n_contexts;
  print_part(row, "context", &row->context, row->context_tokens);
  print_part(row, "update, stage 1", &row->update[0], 0);
  print_part(row, "update, stage 2", &row->update[1], 0);
  print_part(row, "evaluation", &row->evaluation, 0);
  printf("%8zu  K and V of a context %s bytes", length, cli_grouped(row->kv_bytes / n));
  if (row->device_bytes > 0)
    printf("; in use on the device %s bytes", cli_grouped(row->device_bytes));
  putchar('\n');
  printf("%8zu  leank learn: %zu + %zu contexts %.2f min, %zu + %zu updates %.2f min, ", length,
         run.n_contexts, run.n_held_out, run.contexts / 60, run.n_steps1, run.n_steps2,
         run.updates / 60);
  if (run.n_evaluations > 0)
    printf("%zu evaluations %.2f min, ", run.n_evaluations, run.evaluations / 60);
  printf("in all %.2f min; K and V %s bytes\n", (run.contexts + run.updates + run.evaluations) / 60,
         cli_grouped(run.kv_bytes));
  if (run.kv_bytes > capacity(m))
    printf("%8s  more than fit here: fewer contexts, or --cache, whose files are read in updates\n",
           "");
}

/* ---- JSON ---- */

static void add_part(json_t *o, const char *name, const bench_learn_part *p, double n_tokens) {
  if (p->n == 0) return;
  json_t *part = json_object();
  json_object_set_new(part, "times", cli_json_size(p->n));
  json_object_set_new(part, "seconds", json_real(p->seconds));
  if (n_tokens > 0)
    json_object_set_new(part, "tokens_per_second", json_real(n_tokens / p->seconds));
  json_object_set_new(part, "flops", json_real(p->flops));
  json_object_set_new(part, "flops_per_second", json_real(p->flops / p->seconds));
  json_object_set_new(o, name, part);
}

static json_t *run_json(const whole_run *run) {
  json_t *o = json_object();
  json_object_set_new(o, "contexts", cli_json_size(run->n_contexts));
  json_object_set_new(o, "held_out", cli_json_size(run->n_held_out));
  json_object_set_new(o, "steps1", cli_json_size(run->n_steps1));
  json_object_set_new(o, "steps2", cli_json_size(run->n_steps2));
  json_object_set_new(o, "evaluations", cli_json_size(run->n_evaluations));
  json_object_set_new(o, "context_seconds", json_real(run->contexts));
  json_object_set_new(o, "update_seconds", json_real(run->updates));
  json_object_set_new(o, "evaluation_seconds", json_real(run->evaluations));
  json_object_set_new(o, "seconds", json_real(run->contexts + run->updates + run->evaluations));
  json_object_set_new(o, "kv_bytes", cli_json_size(run->kv_bytes));
  return o;
}

static void add_options(json_t *j, const leank_learn_options *o) {
  json_object_set_new(j, "kv_type", json_string(cli_kv_type_name((int)o->kv_type)));
  json_object_set_new(j, "length", cli_json_size(o->train.max_tokens));
  json_object_set_new(j, "shortest", cli_json_size(o->train.min_tokens));
  json_object_set_new(j, "contexts", cli_json_size(o->train.n_contexts));
  json_object_set_new(j, "held_out", cli_json_size(o->held_out.n_contexts));
  json_object_set_new(j, "questions", cli_json_size(o->train.n_questions));
  json_object_set_new(j, "question_tokens", cli_json_size(o->train.random_prompt));
  json_object_set_new(j, "answer_tokens", cli_json_size(o->train.random_answer));
  json_object_set_new(j, "batch", cli_json_size(o->batch));
}

static void print_json(const bench_machine *m, const cli_engine *engine,
                       const bench_learn_row *row) {
  const whole_run run = whole_of(row);
  json_t *o = json_object();
  json_object_set_new(o, "bench", json_string("learn"));
  json_object_set_new(o, "model", cli_json_text(engine->info->name));
  if (engine->synthetic) json_object_set_new(o, "synthetic", json_true());
  add_options(o, row->options);
  bench_json_machine(m, o);
  add_part(o, "context", &row->context, row->context_tokens);
  add_part(o, "update1", &row->update[0], 0);
  add_part(o, "update2", &row->update[1], 0);
  add_part(o, "evaluation", &row->evaluation, 0);
  json_object_set_new(o, "kv_bytes", cli_json_size(row->kv_bytes));
  if (row->device_bytes > 0)
    json_object_set_new(o, "device_bytes", cli_json_size(row->device_bytes));
  json_object_set_new(o, "run", run_json(&run));
  cli_json_print(o, true);
}

void bench_learn_print(const bench_machine *m, const cli_engine *engine, const bench_learn_row *row,
                       bool json) {
  if (json)
    print_json(m, engine, row);
  else
    print_text(m, row);
  fflush(stdout);
}
