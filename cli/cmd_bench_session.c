/* leank bench prefill, leank bench decode. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench_session_report.h"

enum { N_WARMUP_STEPS = 3, N_WARMUP_TOKENS = 256, MAX_BATCH = 4096 };

typedef struct bench_session_options {
  cli_engine_options engine;
  cli_sizes lengths;
  size_t n_steps, n_repeats;
  size_t n_prefill_threads; /* 0: those of the steps */
  size_t n_seqs;            /* sequences that decode together */
  bool no_dense, json;
} bench_session_options;

typedef struct bench {
  const cli_engine *engine;
  const bench_session_options *options;
  bench_machine *machine;
  leank_session *filler; /* dense, of other threads; NULL: the sides read prompts themselves */
  bool decode;           /* else prefill */
  leank_token *tokens;   /* [n_tokens] */
  size_t n_tokens;       /* of the longest prompt */
  leank_token *next;     /* [n_seqs] that the steps choose */
  double *times;         /* [n_repeats] */
  size_t *seqs;          /* [n_seqs] 0, 1, ... */
} bench;

/* The options of both; decode says what is measured. */
static int parse(int argc, char **argv, bool decode, bench_session_options *o, bench_machine *m,
                 const char **words) {
  const cli_option rows[] = {
      {'l', "lengths", CLI_LIST, &o->lengths, "LIST", "tokens of context (512,4096)"},
      {'n', "steps", CLI_SIZE, &o->n_steps, "N", "decode steps of a repeat (32)"},
      {'r', "repeat", CLI_SIZE, &o->n_repeats, "R", "repeats, the median counts (3)"},
      {'b', "batch", CLI_SIZE, &o->n_seqs, "B", "decode: sequences in a step (1)"},
      {0, "prefill-threads", CLI_SIZE, &o->n_prefill_threads, "N",
       "decode: threads of the prefill that fills the caches (as --threads)"},
      {0, "no-dense", CLI_FLAG, &o->no_dense, NULL, "with a mask: do not measure dense beside it"},
      {0, "rotate", CLI_SIZE, &m->options.rotate_bytes, "BYTES",
       "of the buffer that the read bandwidth is measured over (2048M)"},
      {0, "json", CLI_FLAG, &o->json, NULL, "one JSON object a line"},
      CLI_ENGINE_ROWS(o->engine),
  };
  const cli_command command = {
      .usage =
          decode ? "leank bench decode MODEL [options]" : "leank bench prefill MODEL [options]",
      .about =
          "Measures prefill or decode on made-up tokens, dense and, with --mask, LeanK beside\n"
          "it; also how fast this machine reads memory, with as many threads.",
      .details =
          "decode fills the cache by one dense prefill a length; LeanK's cache is packed from\n"
          "it, and rounds of steps alternate. The share is (KV + weight bytes of a step) over\n"
          "time and read bandwidth; weights count as stored in the file, an untied input\n"
          "embedding left out.",
      .options = rows,
      .n_options = sizeof rows / sizeof *rows,
      .n_min = 1,
      .n_max = 1,
  };
  int code = cli_parse(&command, argc, argv, words);
  if (code != CLI_GO) return code;
  if (o->n_steps == 0 || o->n_repeats == 0) return cli_usage_error("-n and -r are at least 1");
  if (o->n_steps > 1 << 20 || o->n_repeats > 1 << 20) return cli_usage_error("-n or -r too large");
  if (o->n_prefill_threads && !decode)
    return cli_usage_error("--prefill-threads is an option of bench decode");
  if (o->n_seqs == 0 || o->n_seqs > MAX_BATCH) {
    return cli_usage_error("--batch is 1 to %d", MAX_BATCH);
  }
  if (o->n_seqs > 1 && !decode) return cli_usage_error("--batch is an option of bench decode");
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

/* Feeds n tokens into a sequence, emptied first; each sequence begins at another token. */
static int fill(const bench *b, leank_session *session, size_t seq, size_t n, double *seconds) {
  leank_feed_options feed;
  leank_error err;
  cli_progress progress;
  cli_progress_begin(&progress, "prefill");
  leank_feed_options_default(&feed);
  feed.next = b->next;
  feed.on_progress = cli_progress_update;
  feed.user = &progress;
  if (leank_session_rewind(session, seq, 0, &err) != LEANK_OK) return cli_fail(&err);
  cli_interrupt_arm(session);
  double start = cli_seconds();
  leank_status status = leank_session_feed(session, seq, b->tokens + seq, n, &feed, &err);
  *seconds = cli_seconds() - start;
  cli_interrupt_disarm();
  cli_progress_end(&progress);
  if (status == LEANK_E_INTERRUPTED || (status == LEANK_OK && cli_interrupted())) {
    cli_complain("interrupted");
    return CLI_INTERRUPTED;
  }
  return status == LEANK_OK ? CLI_GO : cli_fail(&err);
}

/* n decode steps of all sequences, each to the likeliest tokens; mean seconds of one. */
static int step(const bench *b, leank_session *session, size_t n, double *seconds) {
  leank_error err;
  double start = cli_seconds();
  for (size_t i = 0; i < n; i++) {
    if (leank_session_decode_greedy(session, b->options->n_seqs, b->seqs,
                                    &b->tokens[i % b->n_tokens], b->next, &err) != LEANK_OK) {
      return cli_fail(&err);
    }
  }
  *seconds = (cli_seconds() - start) / (double)n;
  return CLI_GO;
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

static size_t stored_bytes(const leank_session *session) {
  leank_memory memory;
  leank_session_get_memory(session, &memory);
  return memory.wide_stored + memory.lean_stored;
}

/* Fills the caches of both sides (either may be NULL): a prompt is read by the filler where there
 * is one, else by the first side, and the others are packed from it. Prefill is dense, so packing
 * gives the very cache that a prefill of its own would. */
static int fill_sides(const bench *b, leank_session *const *sides, bench_row *rows) {
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
  double seconds, n_rounds = (double)b->options->n_repeats;
  double bytes[2] = {0, 0};
  for (size_t s = 0; s < 2; s++) {
    int code = sides[s] ? step(b, sides[s], N_WARMUP_STEPS, &seconds) : CLI_GO;
    if (code != CLI_GO) return code;
  }
  for (size_t r = 0; r < b->options->n_repeats; r++) {
    for (size_t s = 0; s < 2; s++) {
      if (!sides[s]) continue;
      double before = (double)stored_bytes(sides[s]);
      int code = step(b, sides[s], b->options->n_steps, &times[s * b->options->n_repeats + r]);
      if (code != CLI_GO) return code;
      bytes[s] += (before + (double)stored_bytes(sides[s])) / 2;
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

/* Made-up tokens (a multiplicative hash): speed does not depend on which. */
static leank_token *make_tokens(size_t n, size_t n_vocab) {
  leank_token *tokens = cli_alloc(n, sizeof *tokens);
  for (size_t i = 0; i < n; i++) {
    tokens[i] = (leank_token)((((uint64_t)i + 1) * 0x9e3779b97f4a7c15u >> 33) % n_vocab);
  }
  return tokens;
}

static size_t longest(const cli_sizes *lengths) {
  size_t n = 0;
  for (size_t i = 0; i < lengths->n; i++) n = lengths->values[i] > n ? lengths->values[i] : n;
  return n;
}

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
  if (b->options->n_prefill_threads == 0) return CLI_GO;
  engine.options.n_threads = b->options->n_prefill_threads;
  engine.options.n_seqs = 1;
  return cli_engine_session(&engine, false, b->n_tokens, &b->filler);
}

static int run(const cli_engine *engine, bench_machine *machine, const bench_session_options *o,
               bool decode) {
  bench b = {.engine = engine, .machine = machine, .options = o, .decode = decode};
  leank_session *sides[2] = {NULL, NULL}; /* dense, masked */
  b.n_tokens = longest(&o->lengths);
  size_t n_ctx = b.n_tokens;
  if (decode) n_ctx += N_WARMUP_STEPS + o->n_steps * o->n_repeats;
  int code = o->no_dense ? CLI_GO : cli_engine_session(engine, false, n_ctx, &sides[0]);
  if (code == CLI_GO && engine->mask) code = cli_engine_session(engine, true, n_ctx, &sides[1]);
  if (code == CLI_GO) code = open_filler(&b);
  if (code == CLI_GO) {
    b.tokens = make_tokens(b.n_tokens + o->n_seqs, engine->info->n_vocab);
    b.next = cli_alloc(o->n_seqs, sizeof *b.next);
    b.seqs = cli_alloc(o->n_seqs, sizeof *b.seqs);
    for (size_t i = 0; i < o->n_seqs; i++) b.seqs[i] = i;
    b.times = cli_alloc(2 * o->n_repeats, sizeof *b.times);
    code = measure(&b, sides);
  }
  free(b.tokens);
  free(b.next);
  free(b.seqs);
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
  code = cli_engine_open(words[0], &o.engine, &engine);
  if (code == CLI_GO) code = bench_machine_open(&machine, &o.engine);
  machine.options.n_repeats = o.n_repeats;
  if (code == CLI_GO) code = run(&engine, &machine, &o, decode);
  cli_engine_close(&engine);
  return code;
}

int cmd_bench_decode(int argc, char **argv) { return bench_session(argc, argv, true); }
int cmd_bench_prefill(int argc, char **argv) { return bench_session(argc, argv, false); }
