/* leank bench prefill, leank bench decode. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli_bandwidth.h"
#include "cli_report.h"

enum { N_WARMUP_STEPS = 2, N_WARMUP_TOKENS = 256 };

typedef struct bench_options {
  cli_engine_options engine;
  cli_sizes lengths;
  size_t n_steps, n_repeats;
  bool no_dense, json;
} bench_options;

/* What is measured at one length, dense or masked. */
typedef struct bench_row {
  const char *mode;
  bool masked;
  size_t length;          /* tokens before the first measured step, or of the prompt */
  double seconds;         /* median: of a prompt, or of a step */
  double prefill_seconds; /* decode: of the prompt that filled the cache; 0 where packed */
  bool packed;            /* decode: the cache was packed from the dense session's */
  size_t kv_bytes;        /* decode: stored, read once in a step; mean over the steps */
} bench_row;

typedef struct bench {
  const cli_engine *engine;
  const bench_options *options;
  cli_bandwidth bandwidth;
  leank_token *tokens; /* [n_tokens] */
  size_t n_tokens;     /* of the longest prompt */
  float *logits;       /* [V] */
  double *times;       /* [n_repeats] */
} bench;

static int parse(int argc, char **argv, bench_options *o, const char **words) {
  const cli_option rows[] = {
      {'l', "lengths", CLI_LIST, &o->lengths, "LIST", "tokens of context (512,4096)"},
      {'n', "steps", CLI_SIZE, &o->n_steps, "N", "decode steps of a repeat (32)"},
      {'r', "repeat", CLI_SIZE, &o->n_repeats, "R", "repeats, the median counts (3)"},
      {0, "no-dense", CLI_FLAG, &o->no_dense, NULL, "with a mask: do not measure dense beside it"},
      {0, "json", CLI_FLAG, &o->json, NULL, "one JSON object a line"},
      CLI_ENGINE_ROWS(o->engine),
  };
  const cli_command command = {
      .usage = "leank bench prefill|decode MODEL [options]",
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
      .n_min = 2,
      .n_max = 2,
  };
  int code = cli_parse(&command, argc, argv, words);
  if (code != CLI_GO) return code;
  if (strcmp(words[0], "prefill") != 0 && strcmp(words[0], "decode") != 0) {
    return cli_usage_error("bench measures prefill or decode, not '%s'", words[0]);
  }
  if (o->n_steps == 0 || o->n_repeats == 0) return cli_usage_error("-n and -r are at least 1");
  if (o->n_steps > 1 << 20 || o->n_repeats > 1 << 20) return cli_usage_error("-n or -r too large");
  if (o->no_dense && !o->engine.mask) return cli_usage_error("--no-dense needs --mask");
  return CLI_GO;
}

/* Weights that a decode step reads: all, but of the input embedding of an untied model only a row.
 * Its bytes are taken to be its share of the parameters. */
static double weight_bytes_read(const leank_model_info *info) {
  double bytes = (double)info->weight_bytes;
  if (info->tied_output || info->n_params == 0) return bytes;
  return bytes * (1 - (double)info->n_vocab * (double)info->hidden / (double)info->n_params);
}

/* ---- output ---- */

static void print_row_json(const bench *b, const bench_row *row) {
  bool decode = strcmp(row->mode, "decode") == 0;
  double n = decode ? 1 : (double)row->length;
  json_t *o = json_object();
  json_object_set_new(o, "bench", json_string(row->mode));
  json_object_set_new(o, "cache", json_string(row->masked ? "leank" : "dense"));
  json_object_set_new(o, "length", cli_json_size(row->length));
  json_object_set_new(o, "repeats", cli_json_size(b->options->n_repeats));
  json_object_set_new(o, "threads", cli_json_size(b->bandwidth.n_threads));
  json_object_set_new(o, "tokens_per_second", json_real(n / row->seconds));
  json_object_set_new(o, "ms_per_token", json_real(1e3 * row->seconds / n));
  if (decode) {
    double weights = weight_bytes_read(b->engine->info);
    double speed = ((double)row->kv_bytes + weights) / row->seconds;
    json_object_set_new(o, "steps", cli_json_size(b->options->n_steps));
    json_object_set_new(o, "kv_bytes_per_step", cli_json_size(row->kv_bytes));
    json_object_set_new(o, "weight_bytes_per_step", cli_json_size((uint64_t)weights));
    json_object_set_new(o, "bytes_per_second", json_real(speed));
    json_object_set_new(o, "share_of_bandwidth", json_real(speed / b->bandwidth.bytes_per_second));
    json_object_set_new(o, "packed_from_dense", json_boolean(row->packed));
    if (!row->packed) json_object_set_new(o, "prefill_seconds", json_real(row->prefill_seconds));
  }
  json_object_set_new(o, "read_bandwidth", json_real(b->bandwidth.bytes_per_second));
  json_object_set_new(o, "read_bandwidth_buffer", cli_json_size(b->bandwidth.n_bytes));
  cli_json_print(o, true);
}

static void print_head(const bench *b, const char *mode) {
  if (b->options->json) return;
  printf("%zu threads, read bandwidth %.1f GB/s (over %s bytes), weights a step %s bytes\n",
         b->bandwidth.n_threads, b->bandwidth.bytes_per_second / 1e9,
         cli_grouped(b->bandwidth.n_bytes),
         cli_grouped((uint64_t)weight_bytes_read(b->engine->info)));
  printf("%-8s %-6s %8s %12s %12s", mode, "cache", "length", "tokens/s", "ms/token");
  if (strcmp(mode, "decode") == 0) {
    printf(" %16s %8s %7s %10s", "KV bytes/step", "GB/s", "share", "prefill s");
  }
  putchar('\n');
}

static void print_row(const bench *b, const bench_row *row) {
  if (b->options->json) {
    print_row_json(b, row);
  } else {
    bool decode = strcmp(row->mode, "decode") == 0;
    double n = decode ? 1 : (double)row->length;
    printf("%-8s %-6s %8zu %12.2f %12.3f", row->mode, row->masked ? "leank" : "dense", row->length,
           n / row->seconds, 1e3 * row->seconds / n);
    if (decode) {
      double speed = ((double)row->kv_bytes + weight_bytes_read(b->engine->info)) / row->seconds;
      printf(" %16s %8.2f %5.1f %%", cli_grouped(row->kv_bytes), speed / 1e9,
             100 * speed / b->bandwidth.bytes_per_second);
      if (row->packed)
        printf(" %10s", "packed");
      else
        printf(" %10.2f", row->prefill_seconds);
    }
    putchar('\n');
  }
  fflush(stdout);
}

/* ---- measuring ---- */

/* Feeds the first n tokens into an empty sequence. */
static int fill(const bench *b, leank_session *session, size_t n, double *seconds) {
  leank_feed_options feed;
  leank_error err;
  cli_progress progress;
  cli_progress_begin(&progress, "prefill");
  leank_feed_options_default(&feed);
  feed.logits = b->logits;
  feed.on_progress = cli_progress_update;
  feed.user = &progress;
  if (leank_session_rewind(session, 0, 0, &err) != LEANK_OK) return cli_fail(&err);
  cli_interrupt_arm(session);
  double start = cli_seconds();
  leank_status status = leank_session_feed(session, 0, b->tokens, n, &feed, &err);
  *seconds = cli_seconds() - start;
  cli_interrupt_disarm();
  cli_progress_end(&progress);
  if (status == LEANK_E_INTERRUPTED || (status == LEANK_OK && cli_interrupted())) {
    cli_complain("interrupted");
    return CLI_INTERRUPTED;
  }
  return status == LEANK_OK ? CLI_GO : cli_fail(&err);
}

/* n decode steps; mean seconds of one. */
static int step(const bench *b, leank_session *session, size_t n, double *seconds) {
  leank_error err;
  size_t seq = 0;
  double start = cli_seconds();
  for (size_t i = 0; i < n; i++) {
    if (leank_session_decode(session, 1, &seq, &b->tokens[i % b->n_tokens], b->logits, &err) !=
        LEANK_OK) {
      return cli_fail(&err);
    }
  }
  *seconds = (cli_seconds() - start) / (double)n;
  return CLI_GO;
}

static int prefill_side(bench *b, leank_session *session, bool masked) {
  double seconds;
  for (size_t i = 0; i < b->options->lengths.n; i++) {
    bench_row row = {.mode = "prefill", .masked = masked, .length = b->options->lengths.values[i]};
    size_t n_warmup = row.length < N_WARMUP_TOKENS ? row.length : N_WARMUP_TOKENS;
    int code = fill(b, session, n_warmup, &seconds);
    for (size_t r = 0; code == CLI_GO && r < b->options->n_repeats; r++) {
      code = fill(b, session, row.length, &b->times[r]);
    }
    if (code != CLI_GO) return code;
    row.seconds = cli_median(b->times, b->options->n_repeats);
    print_row(b, &row);
  }
  return CLI_GO;
}

static size_t stored_bytes(const leank_session *session) {
  leank_memory memory;
  leank_session_get_memory(session, &memory);
  return memory.wide_stored + memory.lean_stored;
}

/* Fills the caches of both sides (dense or masked may be NULL). */
static int fill_both(const bench *b, leank_session *dense, leank_session *masked, bench_row *rows) {
  leank_error err;
  int code = fill(b, dense ? dense : masked, rows[0].length, &rows[dense ? 0 : 1].prefill_seconds);
  if (code != CLI_GO || !dense || !masked) return code;
  /* Prefill is dense, so packing gives the very cache that a prefill of its own would. */
  rows[1].packed = true;
  if (leank_session_pack_from(masked, 0, dense, 0, &err) != LEANK_OK) return cli_fail(&err);
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
    rows[s].seconds = cli_median(times + s * b->options->n_repeats, b->options->n_repeats);
    rows[s].kv_bytes = (size_t)(bytes[s] / n_rounds);
  }
  return CLI_GO;
}

static int decode_sides(bench *b, leank_session *const *sides) {
  for (size_t i = 0; i < b->options->lengths.n; i++) {
    size_t length = b->options->lengths.values[i];
    bench_row rows[2] = {{.mode = "decode", .masked = false, .length = length},
                         {.mode = "decode", .masked = true, .length = length}};
    int code = fill_both(b, sides[0], sides[1], rows);
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

static int measure(bench *b, const char *mode, leank_session *const *sides) {
  b->bandwidth = cli_measure_bandwidth(leank_session_threads(sides[sides[0] ? 0 : 1]));
  if (b->bandwidth.n_bytes == 0) return cli_complain("no memory to measure the bandwidth with");
  print_head(b, mode);
  if (strcmp(mode, "decode") == 0) return decode_sides(b, sides);
  for (size_t s = 0; s < 2; s++) {
    int code = sides[s] ? prefill_side(b, sides[s], s == 1) : CLI_GO;
    if (code != CLI_GO) return code;
  }
  return CLI_GO;
}

static int run(const cli_engine *engine, const bench_options *o, const char *mode) {
  bench b = {.engine = engine, .options = o};
  leank_session *sides[2] = {NULL, NULL}; /* dense, masked */
  size_t n_tokens = longest(&o->lengths), n_ctx = n_tokens;
  if (strcmp(mode, "decode") == 0) n_ctx += N_WARMUP_STEPS + o->n_steps * o->n_repeats;
  int code = o->no_dense ? CLI_GO : cli_engine_session(engine, false, n_ctx, &sides[0]);
  if (code == CLI_GO && engine->mask) code = cli_engine_session(engine, true, n_ctx, &sides[1]);
  if (code == CLI_GO) {
    b.n_tokens = n_tokens;
    b.tokens = make_tokens(n_tokens, engine->info->n_vocab);
    b.logits = cli_alloc(engine->info->n_vocab, sizeof *b.logits);
    b.times = cli_alloc(2 * o->n_repeats, sizeof *b.times);
    code = measure(&b, mode, sides);
  }
  free(b.tokens);
  free(b.logits);
  free(b.times);
  leank_session_close(&sides[0]);
  leank_session_close(&sides[1]);
  return code == CLI_GO ? CLI_OK : code;
}

int cmd_bench(int argc, char **argv) {
  bench_options o = {.lengths = {2, {512, 4096}}, .n_steps = 32, .n_repeats = 3};
  const char *words[CLI_MAX_POSITIONALS];
  cli_engine engine;
  cli_engine_options_default(&o.engine);
  int code = parse(argc, argv, &o, words);
  if (code != CLI_GO) return code;
  code = cli_engine_open(words[1], &o.engine, &engine);
  if (code == CLI_GO) code = run(&engine, &o, words[0]);
  cli_engine_close(&engine);
  return code;
}
