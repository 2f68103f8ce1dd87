/* leank bench memory: more and more sequences, until they do not fit. */
#include <stdint.h>
#include <stdlib.h>

#include "bench_memory_report.h"
#include "bench_session_report.h"
#include "bench_steps.h"
#include "cli_console.h"

enum { N_WARMUP_STEPS = 3, MAX_STEPS = 1 << 20, MAX_BATCH = 65536, LEAST_CHUNK = 64 };

typedef struct memory_options {
  cli_engine_options engine;
  cli_sizes lengths, batches;
  size_t n_steps;
  size_t limit; /* pretended bytes of memory; 0: what there is */
  int fill;     /* bench_fill */
  bool no_dense, json;
} memory_options;

/* One way of storing the cache, and how far it has grown. */
typedef struct side {
  bench_memory_side result;
  size_t most; /* sequences that may fit */
  bool active, done;
} side;

typedef struct bench {
  cli_engine *engine;
  const memory_options *options;
  const bench_machine *machine;
  bool random;
  size_t length;          /* tokens of each sequence at first, of those asked for */
  size_t budget, weights; /* bytes: for a session, weights aside; of the weights */
  leank_session *keeper;  /* of one sequence: while it is open, the weights stay on a device */
} bench;

static int compare_sizes(const void *a, const void *b) {
  const size_t x = *(const size_t *)a, y = *(const size_t *)b;
  return (x > y) - (x < y);
}

static int parse(int argc, char **argv, memory_options *o, bench_machine *m, const char **words) {
  const cli_option rows[] = {
      {'l', "lengths", CLI_LIST, &o->lengths, "LIST", "tokens of each sequence at first (4096)"},
      {'n', "steps", CLI_SIZE, &o->n_steps, "N", "decode steps, each adds a token (127)"},
      {'b', "batch", CLI_LIST, &o->batches, "LIST",
       "sequences (1, 2, 4, ... and the most that fit)"},
      {0, "memory", CLI_SIZE, &o->limit, "BYTES", "pretend that there is no more memory"},
      BENCH_FILL_ROW(o->fill),
      {0, "no-dense", CLI_FLAG, &o->no_dense, NULL, "with a mask: do not measure dense beside it"},
      {0, "rotate", CLI_SIZE, &m->options.rotate_bytes, "BYTES",
       "of the buffer that the read bandwidth is measured over (2048M)"},
      {0, "json", CLI_FLAG, &o->json, NULL, "one JSON object a line"},
      CLI_SEED_ROW(o->engine),
      CLI_ENGINE_ROWS(o->engine),
  };
  const cli_command command = {
      .usage = "leank bench memory MODEL [options]",
      .about = "Decodes with more and more sequences until the memory is full, dense and, with\n"
               "--mask, LeanK beside it. MODEL may be a bare config.json: a model of that shape\n"
               "with random weights, made on the device.",
      .details = "The memory plan says what fits; nothing else is tried. seconds are those of the\n"
                 "new tokens, greedy steps of all sequences together. Ctrl-C ends with what was\n"
                 "measured.",
      .options = rows,
      .n_options = sizeof rows / sizeof *rows,
      .n_min = 1,
      .n_max = 1,
  };
  int code = cli_parse(&command, argc, argv, words);
  if (code != CLI_GO) return code;
  if (o->n_steps == 0 || o->n_steps > MAX_STEPS)
    return cli_usage_error("--steps is 1 to %d", MAX_STEPS);
  if (cli_sizes_largest(&o->lengths) > SIZE_MAX / 4) return cli_usage_error("--lengths: too large");
  for (size_t i = 0; i < o->batches.n; i++) {
    if (o->batches.values[i] > MAX_BATCH) return cli_usage_error("--batch is 1 to %d", MAX_BATCH);
  }
  qsort(o->batches.values, o->batches.n, sizeof *o->batches.values, compare_sizes);
  if (o->no_dense && !o->engine.mask) return cli_usage_error("--no-dense needs --mask");
  return CLI_GO;
}

/* ---- what fits ---- */

/* Bytes of a session of n sequences, weights aside. */
static int session_bytes(const bench *b, bool masked, size_t n, size_t *out, size_t *weights) {
  leank_plan plan;
  int code = cli_make_plan(b->engine->info, masked ? b->engine->mask : NULL, &b->engine->options,
                           b->length + b->options->n_steps, n, &plan);
  if (code != CLI_GO) return code;
  *out = plan.wide_reserved + plan.lean_reserved + plan.other_scratch +
         (b->random ? plan.turn_reserved : plan.prefill_scratch);
  *weights = plan.weights;
  return CLI_GO;
}

/* The most sequences within the budget: bytes rise with their number. */
static int find_most(const bench *b, side *s) {
  size_t low = 0, high = MAX_BATCH + 1, bytes, weights;
  while (low + 1 < high) {
    const size_t middle = low == 0 && high > MAX_BATCH ? 1 : low + (high - low) / 2;
    int code = session_bytes(b, s->result.masked, middle, &bytes, &weights);
    if (code != CLI_GO) return code;
    if (bytes <= b->budget)
      low = middle;
    else
      high = middle;
  }
  s->most = low;
  return CLI_GO;
}

/* Room that the plan does not know of: what an allocator rounds, and the program itself. */
static size_t headroom(const bench_machine *m, size_t n_free) {
  return m->on_cuda ? (size_t)256 << 20 : n_free / 32;
}

/* What is free beside the weights. On a device they are made now, by a step. */
static int find_budget(bench *b) {
  size_t bytes, n_free;
  int code = session_bytes(b, false, 1, &bytes, &b->weights);
  if (code != CLI_GO) return code;
  code = bench_steps_load_weights(b->engine, &b->keeper);
  if (code == CLI_GO) code = bench_free_bytes(b->machine, &n_free);
  if (code != CLI_GO) return code;
  const size_t room = headroom(b->machine, n_free);
  b->budget = n_free > room ? n_free - room : 0;
  if (b->options->limit == 0) return CLI_GO;
  if (b->options->limit <= b->weights)
    return cli_complain("weights of %zu bytes leave nothing of a memory of %zu", b->weights,
                        b->options->limit);
  if (b->options->limit - b->weights < b->budget) b->budget = b->options->limit - b->weights;
  return CLI_GO;
}

/* ---- measuring ---- */

/* All but the last tokens of the length, which are the warm-up. */
static leank_status fill(const bench *b, const bench_steps *steps, leank_session *session, size_t n,
                         bench_memory_row *row, leank_error *err) {
  double seconds = 0;
  if (b->random) return leank_session_fill_random(session, steps->n_seqs, steps->seqs, n, err);
  for (size_t i = 0; i < steps->n_seqs; i++) {
    const leank_status status = bench_steps_prompt(steps, session, i, n, &seconds, err);
    if (status != LEANK_OK) return status;
    row->prompt_seconds += seconds;
  }
  return LEANK_OK;
}

static leank_status measure_session(const bench *b, leank_session *session, bench_memory_row *row,
                                    leank_error *err) {
  bench_steps steps;
  double seconds;
  const size_t warmup = row->length > N_WARMUP_STEPS ? N_WARMUP_STEPS : 0;
  bench_steps_open(&steps, b->engine->info, row->n_seqs, row->length);
  leank_status status = fill(b, &steps, session, row->length - warmup, row, err);
  if (status == LEANK_OK) status = bench_steps_decode(&steps, session, warmup, &seconds, err);
  const size_t before = status == LEANK_OK ? bench_stored_bytes(session) : 0;
  if (status == LEANK_OK)
    status = bench_steps_decode(&steps, session, row->n_steps, &row->seconds, err);
  row->kv_bytes = status == LEANK_OK ? bench_stored_bytes(session) : 0;
  row->step_bytes =
      before / 2 + row->kv_bytes / 2 + (size_t)bench_weight_bytes(b->machine, b->engine->info);
  bench_steps_close(&steps);
  return status;
}

/* n sequences. LEANK_E_MEMORY: they do not fit after all. */
static leank_status measure(const bench *b, side *s, size_t n, leank_error *err) {
  leank_session *session = NULL;
  size_t weights;
  bench_memory_row row = {
      .masked = s->result.masked, .n_seqs = n, .length = b->length, .n_steps = b->options->n_steps};
  if (session_bytes(b, row.masked, n, &row.reserved, &weights) != CLI_GO) return LEANK_E_STATE;
  b->engine->options.n_seqs = n;
  leank_status status =
      cli_engine_try_session(b->engine, row.masked, row.length + row.n_steps, &session, err);
  if (status == LEANK_OK && !cli_interrupted()) cli_interrupt_arm(session);
  if (status == LEANK_OK) status = measure_session(b, session, &row, err);
  if (!cli_interrupted()) cli_interrupt_arm(NULL);
  leank_session_close(&session);
  if (status != LEANK_OK) return status;
  bench_memory_print(b->machine, b->engine, &row, b->options->json);
  if (n > s->result.largest) s->result.largest = n;
  if (bench_memory_speed(&row) <= s->result.best_per_second) return LEANK_OK;
  s->result.best = n;
  s->result.best_per_second = bench_memory_speed(&row);
  return LEANK_OK;
}

/* A side's next batch, at most n. Where memory ends before the plan's does, a little less is tried,
 * down to what has been measured. */
static int grow(const bench *b, side *s, size_t n) {
  leank_error err = {.code = LEANK_OK};
  while (!s->done) {
    const size_t batch = n < s->most ? n : s->most;
    s->done = batch <= s->result.largest;
    if (s->done) break;
    const leank_status status = measure(b, s, batch, &err);
    if (status == LEANK_OK) {
      s->done = batch == s->most;
      break;
    }
    if (status != LEANK_E_MEMORY) return bench_steps_code(status, &err);
    s->most = batch - 1 - batch / 32;
  }
  return CLI_GO;
}

/* 1, 2, 4, ... sequences, and at last as many as fit. */
static int measure_growing(const bench *b, side *sides) {
  int code = CLI_GO;
  for (size_t n = 1; code == CLI_GO && !(sides[0].done && sides[1].done); n *= 2)
    for (size_t s = 0; s < 2 && code == CLI_GO; s++) code = grow(b, &sides[s], n);
  return code;
}

/* The batches asked for, ascending; those that do not fit are passed over. */
static int measure_listed(const bench *b, side *sides) {
  const cli_sizes *list = &b->options->batches;
  int code = CLI_GO;
  for (size_t i = 0; i < list->n; i++)
    for (size_t s = 0; s < 2 && code == CLI_GO; s++) {
      sides[s].done = list->values[i] > sides[s].most;
      code = grow(b, &sides[s], list->values[i]);
    }
  return code;
}

/* All batches of one length, and what came of them. */
static int measure_length(const bench *b) {
  side sides[2] = {{.active = !b->options->no_dense}, {.active = b->engine->mask != NULL}};
  sides[1].result.masked = true;
  int code = CLI_GO;
  for (size_t s = 0; s < 2; s++) {
    if (code == CLI_GO && sides[s].active) code = find_most(b, &sides[s]);
    sides[s].done = sides[s].most == 0;
  }
  if (code != CLI_GO) return code;
  cli_interrupt_arm(NULL);
  code = b->options->batches.n > 0 ? measure_listed(b, sides) : measure_growing(b, sides);
  cli_interrupt_disarm();
  if (code == CLI_GO || code == CLI_INTERRUPTED)
    bench_memory_summary(sides[0].active ? &sides[0].result : NULL,
                         sides[1].active ? &sides[1].result : NULL, b->length, b->options->json);
  return code;
}

static int run(bench *b) {
  const cli_sizes *lengths = &b->options->lengths;
  b->length = lengths->values[0];
  int code = find_budget(b);
  if (code == CLI_GO && !b->options->json)
    bench_memory_head(b->machine, b->engine->info, b->options->n_steps, b->budget, b->weights);
  for (size_t i = 0; code == CLI_GO && i < lengths->n; i++) {
    b->length = lengths->values[i];
    code = measure_length(b);
  }
  return code;
}

int cmd_bench_memory(int argc, char **argv) {
  memory_options o = {.lengths = {1, {4096}}, .n_steps = 127};
  const char *words[CLI_MAX_POSITIONALS];
  cli_engine engine = {0};
  bench_machine machine = {0};
  cli_engine_options_default(&o.engine);
  leank_bench_options_default(&machine.options);
  int code = parse(argc, argv, &o, &machine, words);
  if (code != CLI_GO) return code;
  o.engine.takes_config = true;
  code = cli_engine_open(words[0], &o.engine, &engine);
  if (code == CLI_GO) cli_warn_context(engine.info, cli_sizes_largest(&o.lengths));
  if (code == CLI_GO) code = bench_machine_open(&machine, &o.engine);
  bench b = {.engine = &engine, .options = &o, .machine = &machine};
  machine.options.n_repeats = 1; /* of every batch */
  if (code == CLI_GO) {
    b.random = bench_fills_randomly(o.fill, &engine);
    if (b.random) engine.options.prefill_chunk = LEAST_CHUNK;
    code = run(&b);
  }
  leank_session_close(&b.keeper);
  cli_engine_close(&engine);
  return code == CLI_GO ? CLI_OK : code;
}
