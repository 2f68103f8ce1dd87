/* leank bench learn: how long learning a mask takes for a model of this shape. */
#include <stdlib.h>

#include "bench_learn_report.h"
#include "bench_steps.h"

enum { CONTEXT, UPDATE1, UPDATE2, EVALUATION, N_PARTS };

typedef struct bench_options {
  cli_engine_options engine;
  cli_sizes lengths;
  size_t shortest; /* 0: all contexts are of the length */
  bool json;
  leank_learn_options learn; /* but for the lengths */
} bench_options;

/* A run that is watched. */
typedef struct watch {
  leank_learner *learner;
  cli_progress progress;
  double *seconds[N_PARTS], *flops[N_PARTS]; /* [most[part]] of each time */
  size_t n[N_PARTS], most[N_PARTS];
  size_t n_read;
  double begun, flops_before; /* where the work at hand began */
} watch;

static int parse(int argc, char **argv, bench_options *o, bench_machine *m, const char **words) {
  leank_learn_options *l = &o->learn;
  const cli_option rows[] = {
      {'l', "lengths", CLI_LIST, &o->lengths, "LIST", "tokens of a prompt with its answer (4096)"},
      {0, "from", CLI_SIZE, &o->shortest, "N",
       "the shortest context: lengths are spread evenly up to -l (-l)"},
      {0, "contexts", CLI_SIZE, &l->train.n_contexts, "N", "contexts (4)"},
      {0, "questions", CLI_SIZE, &l->train.n_questions, "N", "questions about each (4)"},
      {0, "question-tokens", CLI_SIZE, &l->train.random_prompt, "N", "tokens of a question (48)"},
      {0, "answer-tokens", CLI_SIZE, &l->train.random_answer, "N", "tokens of an answer (28)"},
      {0, "held-out", CLI_SIZE, &l->held_out.n_contexts, "N", "contexts held out, 0 = none (1)"},
      {0, "steps1", CLI_SIZE, &l->n_steps1, "N", "updates of stage 1 (8)"},
      {0, "steps2", CLI_SIZE, &l->n_steps2, "N", "updates of stage 2, 0 = none (4)"},
      {0, "batch", CLI_SIZE, &l->batch, "N", "questions of one update (4)"},
      CLI_SPLIT_ROWS(*l, "128", "768"),
      {0, "kv-type", CLI_CHOICE, &o->engine.kv_type, "bf16|f32", "type of K and V (bf16)"},
      CLI_CHUNK_ROW(*l),
      {0, "rotate", CLI_SIZE, &m->options.rotate_bytes, "BYTES",
       "of the buffer that the read bandwidth is measured over (2048M)"},
      CLI_SEED_ROW(o->engine),
      CLI_DEVICE_ROW(o->engine),
      CLI_THREADS_ROWS(o->engine),
      {0, "json", CLI_FLAG, &o->json, NULL, "one JSON object a line"},
  };
  const cli_command command = {
      .usage = "leank bench learn MODEL [options]",
      .about = "Learns a mask from a few contexts, in a few updates, and says how long a whole\n"
               "`leank learn` takes. MODEL may be a bare config.json: a model of that shape with\n"
               "random weights, made on the device.",
      .details =
          "Tokens are random, whatever the model: time does not depend on which they are,\n"
          "and what is learned is thrown away. seconds are medians of one context, update\n"
          "or evaluation of the held-out set. The whole run is leank learn by its defaults,\n"
          "but at this length and with as many questions and as large a batch.",
      .options = rows,
      .n_options = sizeof rows / sizeof *rows,
      .n_min = 1,
      .n_max = 1,
  };
  int code = cli_parse(&command, argc, argv, words);
  if (code != CLI_GO) return code;
  if (o->shortest > 0) {
    for (size_t i = 0; i < o->lengths.n; i++)
      if (o->shortest > o->lengths.values[i]) return cli_usage_error("--from is above -l");
  }
  if (l->train.n_contexts == 0 || l->train.n_questions == 0)
    return cli_usage_error("--contexts and --questions are at least 1");
  if (l->n_steps1 == 0 || l->batch == 0)
    return cli_usage_error("--steps1 and --batch are at least 1");
  if ((l->batch - 1) / l->train.n_questions >= l->train.n_contexts)
    return cli_usage_error("--batch %zu: there are %zu questions on each of %zu contexts", l->batch,
                           l->train.n_questions, l->train.n_contexts);
  return CLI_GO;
}

/* ---- watching ---- */

static void watch_open(watch *w, const leank_learn_options *o) {
  const size_t most[N_PARTS] = {o->train.n_contexts, o->n_steps1, o->n_steps2, 2};
  *w = (watch){.learner = NULL};
  for (size_t i = 0; i < N_PARTS; i++) {
    w->most[i] = most[i];
    w->seconds[i] = cli_alloc(most[i], sizeof(double));
    w->flops[i] = cli_alloc(most[i], sizeof(double));
  }
  cli_progress_begin(&w->progress, "contexts");
}

static void watch_close(watch *w) {
  cli_progress_end(&w->progress);
  for (size_t i = 0; i < N_PARTS; i++) {
    free(w->seconds[i]);
    free(w->flops[i]);
  }
}

/* One more of a part is done. Contexts held out are not of the training's lengths. */
static void note(watch *w, int part, const leank_learn_event *e) {
  const size_t at = w->n[part];
  if (at < w->most[part]) {
    w->seconds[part][at] = e->seconds - w->begun;
    w->flops[part][at] = e->flops - w->flops_before;
    w->n[part]++;
  }
  w->begun = e->seconds;
  w->flops_before = e->flops;
}

static void on_event(void *user, const leank_learn_event *e) {
  watch *w = user;
  if (cli_interrupted()) leank_learner_interrupt(w->learner);
  switch (e->phase) {
  case LEANK_LEARN_PREFILL:
    if (e->n_read > w->n_read) note(w, CONTEXT, e);
    w->n_read = e->n_read;
    break;
  case LEANK_LEARN_STEP: note(w, e->stage == 1 ? UPDATE1 : UPDATE2, e); break;
  case LEANK_LEARN_EVAL: note(w, EVALUATION, e); break;
  case LEANK_LEARN_RESUME:
  case LEANK_LEARN_CHOICE: break;
  }
  if (e->phase == LEANK_LEARN_STEP && e->done == 1) {
    cli_progress_end(&w->progress);
    cli_progress_begin(&w->progress, "updates");
  }
  if (e->total > 0) cli_progress_update(&w->progress, e->done, e->total);
}

static bench_learn_part part_of(const watch *w, int part) {
  return (bench_learn_part){.n = w->n[part],
                            .seconds = bench_median(w->seconds[part], w->n[part]),
                            .flops = bench_median(w->flops[part], w->n[part])};
}

/* ---- measuring ---- */

/* The mean of what reading a context computes. */
static double context_tokens(const leank_dataset *data) {
  double n = 0;
  const size_t n_contexts = leank_dataset_n_contexts(data);
  for (size_t i = 0; i < n_contexts; i++) {
    const leank_context *c = leank_dataset_get(data, i);
    n += (double)c->n_tokens;
    for (size_t q = 0; q < c->n_questions; q++) n += (double)c->questions[q].n_prompt;
  }
  return n / (double)n_contexts;
}

static int fill_row(const bench_machine *m, const watch *w, bench_learn_row *row) {
  size_t n_free;
  row->context_tokens = context_tokens(leank_learner_train_set(w->learner));
  row->context = part_of(w, CONTEXT);
  row->update[0] = part_of(w, UPDATE1);
  row->update[1] = part_of(w, UPDATE2);
  row->evaluation = part_of(w, EVALUATION);
  row->kv_bytes = leank_learner_kv_bytes(w->learner);
  if (!m->on_cuda) return CLI_GO;
  const int code = bench_free_bytes(m, &n_free);
  row->device_bytes = m->device.total_bytes - n_free;
  return code;
}

/* The learner runs to its end; its mask is of no use. */
static int run_learner(watch *w) {
  leank_mask *mask = NULL;
  leank_error err;
  cli_interrupt_arm_learner(w->learner);
  const leank_status status = leank_learner_run(w->learner, &mask, &err);
  cli_interrupt_disarm();
  leank_mask_close(&mask);
  return bench_steps_code(status, &err);
}

static int measure(const cli_engine *engine, const bench_machine *m,
                   const leank_learn_options *options, bool json) {
  watch w;
  leank_error err;
  leank_learn_options o = *options;
  bench_learn_row row = {.options = options};
  watch_open(&w, options);
  o.on_event = on_event;
  o.user = &w;
  int code =
      leank_learner_open(engine->model, &o, &w.learner, &err) == LEANK_OK ? CLI_GO : cli_fail(&err);
  if (code == CLI_GO) code = run_learner(&w);
  cli_progress_end(&w.progress);
  if (code == CLI_GO) code = fill_row(m, &w, &row);
  if (code == CLI_GO) bench_learn_print(m, engine, &row, json);
  leank_learner_close(&w.learner);
  watch_close(&w);
  return code;
}

/* What learning is like at every length. */
static void settle(const cli_engine *engine, bench_options *o) {
  leank_learn_options *l = &o->learn;
  l->device = engine->device;
  l->device_index = engine->device_index;
  l->n_threads = engine->options.n_threads;
  l->cpu = cli_cpu_level(engine->options.cpu);
  l->kv_type = (leank_kv_type)engine->options.kv_type;
  l->held_out.n_questions = l->train.n_questions;
  l->held_out.random_prompt = l->train.random_prompt;
  l->held_out.random_answer = l->train.random_answer;
}

static void set_length(bench_options *o, size_t i) {
  leank_learn_options *l = &o->learn;
  l->train.max_tokens = l->held_out.max_tokens = o->lengths.values[i];
  l->train.min_tokens = l->held_out.min_tokens = o->shortest ? o->shortest : o->lengths.values[i];
}

/* Whether all that is asked for is possible, before the bandwidth is measured, which takes its
 * time. */
static int check(const cli_engine *engine, bench_options *o) {
  leank_error err;
  for (size_t i = 0; i < o->lengths.n; i++) {
    leank_learner *learner = NULL;
    set_length(o, i);
    if (leank_learner_open(engine->model, &o->learn, &learner, &err) != LEANK_OK)
      return cli_fail(&err);
    leank_learner_close(&learner);
  }
  return CLI_GO;
}

static int run(const cli_engine *engine, const bench_machine *m, bench_options *o) {
  leank_session *keeper = NULL;
  int code = bench_steps_load_weights(engine, &keeper);
  if (code == CLI_GO && !o->json) bench_learn_head(m, engine->info, &o->learn);
  for (size_t i = 0; i < o->lengths.n && code == CLI_GO; i++) {
    set_length(o, i);
    code = measure(engine, m, &o->learn, o->json);
  }
  leank_session_close(&keeper);
  return code == CLI_GO ? CLI_OK : code;
}

int cmd_bench_learn(int argc, char **argv) {
  bench_options o = {.lengths = {1, {4096}}};
  const char *words[CLI_MAX_POSITIONALS];
  cli_engine engine = {0};
  bench_machine machine = {0};
  cli_engine_options_default(&o.engine);
  leank_bench_options_default(&machine.options);
  leank_learn_options_default(&o.learn);
  o.learn.n_steps1 = 8;
  o.learn.n_steps2 = 4;
  o.learn.train.n_contexts = 4;
  o.learn.held_out.n_contexts = 1;
  o.learn.train.tasks = o.learn.held_out.tasks = 1u << LEANK_TASK_RANDOM;
  int code = parse(argc, argv, &o, &machine, words);
  if (code != CLI_GO) return code;
  o.engine.takes_config = true;
  o.engine.weights = LEANK_WEIGHTS_MAPPED; /* as leank learn has them */
  code = cli_engine_open(words[0], &o.engine, &engine);
  if (code == CLI_GO) {
    settle(&engine, &o);
    code = check(&engine, &o);
  }
  if (code == CLI_GO) code = bench_machine_open(&machine, &o.engine);
  machine.options.n_repeats = 1; /* of every length */
  if (code == CLI_GO) code = run(&engine, &machine, &o);
  cli_engine_close(&engine);
  return code;
}
