/* leank bench prefill, leank bench decode. */
#include <stdio.h>
#include <stdlib.h>

#include "bench_session_report.h"
#include "bench_steps.h"

enum { N_WARMUP_STEPS = 3, N_WARMUP_TOKENS = 256, MAX_BATCH = 4096 };

typedef struct bench_session_options {
  cli_engine_options engine;
  cli_sizes lengths;
  size_t n_steps, n_repeats;
  size_t n_prefill_threads; /* 0: those of the steps */
  size_t n_seqs;            /* sequences that decode together */
  int fill;                 /* bench_fill */
  bool no_dense, json;
} bench_session_options;

typedef struct bench {
  const cli_engine *engine;
  const bench_session_options *options;
  bench_machine *machine;
  leank_session *filler; /* dense, of other threads; NULL: the sides read prompts themselves */
  bool decode;           /* else prefill */
  bool random;           /* caches hold random K and V */
  bench_steps steps;
  double *times; /* [2][n_repeats] */
} bench;

/* decode says what is measured; prefill has none of its options. */
static int parse(int argc, char **argv, bool decode, bench_session_options *o, bench_machine *m,
                 const char **words) {
  const cli_option rows[] = {
      {'l', "lengths", CLI_LIST, &o->lengths, "LIST", "tokens of context (512,4096)"},
      {'r', "repeat", CLI_SIZE, &o->n_repeats, "R", "repeats, the median counts (3)"},
      {0, "no-dense", CLI_FLAG, &o->no_dense, NULL, "with a mask: do not measure dense beside it"},
      {0, "rotate", CLI_SIZE, &m->options.rotate_bytes, "BYTES",
       "of the buffer that the read bandwidth is measured over (2048M)"},
      {0, "json", CLI_FLAG, &o->json, NULL, "one JSON object a line"},
      CLI_SEED_ROW(o->engine),
      CLI_ENGINE_ROWS(o->engine),
      /* of decode alone, N_DECODE_ROWS */
      {'n', "steps", CLI_SIZE, &o->n_steps, "N", "decode steps of a repeat (32)"},
      {'b', "batch", CLI_SIZE, &o->n_seqs, "B", "sequences in a step (1)"},
      BENCH_FILL_ROW(o->fill),
      {0, "prefill-threads", CLI_SIZE, &o->n_prefill_threads, "N",
       "threads of the prefill that fills the caches (as --threads)"},
  };
  enum { N_ROWS = sizeof rows / sizeof *rows, N_DECODE_ROWS = 4 };
  const cli_command command = {
      .usage =
          decode ? "leank bench decode MODEL [options]" : "leank bench prefill MODEL [options]",
      .about =
          decode
              ? "Times decode steps on made-up tokens, dense and, with --mask, LeanK beside it.\n"
                "MODEL may be a bare config.json: a model of that shape with random weights, made\n"
                "on the device."
              : "Times prompts of made-up tokens, dense and, with --mask, LeanK beside it. MODEL\n"
                "may be a bare config.json: a model of that shape with random weights, made on "
                "the\n"
                "device.",
      .details = decode ? "The caches are filled by dense prefills, from which LeanK's are packed, "
                          "or with random\n"
                          "content; rounds of greedy steps alternate. The share is (KV + weight "
                          "bytes of a step) over\n"
                          "time and read bandwidth; weights count as stored in the file, an untied "
                          "input\n"
                          "embedding left out."
                        : NULL,
      .options = rows,
      .n_options = decode ? N_ROWS : N_ROWS - N_DECODE_ROWS,
      .n_min = 1,
      .n_max = 1,
  };
  int code = cli_parse(&command, argc, argv, words);
  if (code != CLI_GO) return code;
  if (o->n_repeats == 0 || o->n_repeats > 1 << 20)
    return cli_usage_error("--repeat is 1 to %d", 1 << 20);
  if (o->n_steps == 0 || o->n_steps > 1 << 20)
    return cli_usage_error("--steps is 1 to %d", 1 << 20);
  if (o->n_seqs == 0 || o->n_seqs > MAX_BATCH)
    return cli_usage_error("--batch is 1 to %d", MAX_BATCH);
  if (o->no_dense && !o->engine.mask) return cli_usage_error("--no-dense needs --mask");
  return CLI_GO;
}

static void print_row(const bench *b, const bench_row *row) {
  if (b->options->json)
    bench_print_session_json(b->machine, b->engine, row);
  else
    bench_print_session_row(b->machine, b->engine, row);
}

/* ---- measuring ---- */

/* Reads a prompt of n tokens; Ctrl-C ends it. */
static int fill(const bench *b, leank_session *session, size_t seq, size_t n, double *seconds) {
  leank_error err;
  cli_interrupt_arm(session);
  leank_status status = bench_steps_prompt(&b->steps, session, seq, n, seconds, &err);
  cli_interrupt_disarm();
  return bench_steps_code(status, &err);
}

/* n decode steps of all sequences, each to the likeliest tokens; mean seconds of one. */
static int step(const bench *b, leank_session *session, size_t n, double *seconds) {
  leank_error err;
  cli_interrupt_arm(session);
  leank_status status = bench_steps_decode(&b->steps, session, n, seconds, &err);
  cli_interrupt_disarm();
  *seconds /= (double)n;
  return bench_steps_code(status, &err);
}

static int prefill_side(bench *b, leank_session *session, bool masked) {
  double seconds;
  for (size_t i = 0; i < b->options->lengths.n; i++) {
    bench_row row = {.masked = masked, .length = b->options->lengths.values[i]};
    size_t n_warmup = row.length < N_WARMUP_TOKENS ? row.length : N_WARMUP_TOKENS;
    int code = fill(b, session, 0, n_warmup, &seconds);
    for (size_t r = 0; code == CLI_GO && r < b->options->n_repeats; r++) {
      code = fill(b, session, 0, row.length, &b->times[r]);
    }
    if (code != CLI_GO) return code;
    row.seconds = bench_median(b->times, b->options->n_repeats);
    print_row(b, &row);
  }
  return CLI_GO;
}

/* Random K and V in every sequence, of each side anew: no page is shared. */
static int fill_randomly(const bench *b, leank_session *const *sides, bench_row *rows) {
  for (size_t s = 0; s < 2; s++) {
    leank_error err;
    rows[s].random = true;
    if (sides[s] && leank_session_fill_random(sides[s], b->steps.n_seqs, b->steps.seqs,
                                              rows[s].length, &err) != LEANK_OK)
      return cli_fail(&err);
  }
  return CLI_GO;
}

/* Fills the caches of both sides (either may be NULL): a prompt is read by the filler where there
 * is one, else by the first side, and the others are packed from it. Prefill is dense, so packing
 * gives the very cache that a prefill of its own would. */
static int fill_sides(const bench *b, leank_session *const *sides, bench_row *rows) {
  if (b->random) return fill_randomly(b, sides, rows);
  leank_session *source = b->filler ? b->filler : sides[0] ? sides[0] : sides[1];
  for (size_t seq = 0; seq < b->options->n_seqs; seq++) {
    double seconds;
    leank_error err;
    int code = fill(b, source, b->filler ? 0 : seq, rows[0].length, &seconds);
    if (code != CLI_GO) return code;
    for (size_t s = 0; s < 2; s++) {
      rows[s].packed = sides[s] != source;
      rows[s].prefill_seconds += rows[s].packed ? 0 : seconds;
      if (!sides[s] || !rows[s].packed) continue;
      if (leank_session_pack_from(sides[s], seq, source, b->filler ? 0 : seq, &err) != LEANK_OK)
        return cli_fail(&err);
    }
  }
  return CLI_GO;
}

/* Rounds of steps, the sides in turn; times [2][n_repeats]. */
static int decode_rounds(const bench *b, leank_session *const *sides, bench_row *rows,
                         double *times) {
  double seconds = 0, n_rounds = (double)b->options->n_repeats;
  double bytes[2] = {0, 0};
  for (size_t s = 0; s < 2; s++) {
    int code = sides[s] ? step(b, sides[s], N_WARMUP_STEPS, &seconds) : CLI_GO;
    if (code != CLI_GO) return code;
  }
  for (size_t r = 0; r < b->options->n_repeats; r++) {
    for (size_t s = 0; s < 2; s++) {
      if (!sides[s]) continue;
      double before = (double)bench_stored_bytes(sides[s]);
      int code = step(b, sides[s], b->options->n_steps, &times[s * b->options->n_repeats + r]);
      if (code != CLI_GO) return code;
      bytes[s] += (before + (double)bench_stored_bytes(sides[s])) / 2;
    }
  }
  for (size_t s = 0; s < 2; s++) {
    rows[s].seconds = bench_median(times + s * b->options->n_repeats, b->options->n_repeats);
    rows[s].kv_bytes = (size_t)(bytes[s] / n_rounds);
  }
  return CLI_GO;
}

static int decode_sides(bench *b, leank_session *const *sides) {
  for (size_t i = 0; i < b->options->lengths.n; i++) {
    size_t length = b->options->lengths.values[i];
    bench_row rows[2] = {{.decode = true,
                          .length = length,
                          .n_steps = b->options->n_steps,
                          .n_seqs = b->options->n_seqs}};
    rows[1] = rows[0];
    rows[1].masked = true;
    int code = fill_sides(b, sides, rows);
    if (code == CLI_GO) code = decode_rounds(b, sides, rows, b->times);
    if (code != CLI_GO) return code;
    for (size_t s = 0; s < 2; s++) {
      if (sides[s]) print_row(b, &rows[s]);
    }
  }
  return CLI_GO;
}

/* ---- the command ---- */

static int measure(bench *b, leank_session *const *sides) {
  if (!b->options->json) bench_print_session_head(b->machine, b->engine->info, b->decode);
  if (b->decode) return decode_sides(b, sides);
  for (size_t s = 0; s < 2; s++) {
    int code = sides[s] ? prefill_side(b, sides[s], s == 1) : CLI_GO;
    if (code != CLI_GO) return code;
  }
  return CLI_GO;
}

/* The dense session of --prefill-threads that reads the prompts; none where that was not given. */
static int open_filler(bench *b) {
  cli_engine engine = *b->engine;
  if (b->options->n_prefill_threads == 0 || b->random) return CLI_GO;
  engine.options.n_threads = b->options->n_prefill_threads;
  engine.options.n_seqs = 1;
  return cli_engine_session(&engine, false, b->steps.n_tokens, &b->filler);
}

static int run(const cli_engine *engine, bench_machine *machine, const bench_session_options *o,
               bool decode) {
  bench b = {.engine = engine, .machine = machine, .options = o, .decode = decode};
  leank_session *sides[2] = {NULL, NULL}; /* dense, masked */
  size_t n_ctx = cli_sizes_largest(&o->lengths);
  b.random = decode && bench_fills_randomly(o->fill, engine);
  bench_steps_open(&b.steps, engine->info, o->n_seqs, n_ctx);
  b.times = cli_alloc(2 * o->n_repeats, sizeof *b.times);
  if (decode) n_ctx += N_WARMUP_STEPS + o->n_steps * o->n_repeats;
  int code = o->no_dense ? CLI_GO : cli_engine_session(engine, false, n_ctx, &sides[0]);
  if (code == CLI_GO && engine->mask) code = cli_engine_session(engine, true, n_ctx, &sides[1]);
  if (code == CLI_GO) code = open_filler(&b);
  if (code == CLI_GO) code = measure(&b, sides);
  bench_steps_close(&b.steps);
  free(b.times);
  leank_session_close(&b.filler);
  leank_session_close(&sides[0]);
  leank_session_close(&sides[1]);
  return code == CLI_GO ? CLI_OK : code;
}

static int bench_session(int argc, char **argv, bool decode) {
  bench_session_options o = {
      .lengths = {2, {512, 4096}}, .n_steps = 32, .n_repeats = 3, .n_seqs = 1};
  const char *words[CLI_MAX_POSITIONALS];
  cli_engine engine;
  bench_machine machine = {0};
  cli_engine_options_default(&o.engine);
  leank_bench_options_default(&machine.options);
  int code = parse(argc, argv, decode, &o, &machine, words);
  if (code != CLI_GO) return code;
  o.engine.n_seqs = o.n_seqs;
  o.engine.takes_config = true;
  code = cli_engine_open(words[0], &o.engine, &engine);
  if (code == CLI_GO) cli_warn_context(engine.info, cli_sizes_largest(&o.lengths));
  if (code == CLI_GO) code = bench_machine_open(&machine, &o.engine);
  machine.options.n_repeats = o.n_repeats;
  if (code == CLI_GO) code = run(&engine, &machine, &o, decode);
  cli_engine_close(&engine);
  return code;
}

int cmd_bench_decode(int argc, char **argv) { return bench_session(argc, argv, true); }
int cmd_bench_prefill(int argc, char **argv) { return bench_session(argc, argv, false); }
