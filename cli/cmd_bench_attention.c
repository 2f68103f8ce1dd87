/* leank bench attention. */
#include <stdlib.h>

#include "bench_attention_report.h"
#include "bench_shape.h"

typedef struct attention_options {
  cli_engine_options engine;
  bench_shape_options shape;
  cli_sizes lengths, batches, n_kept;
  bool no_dense, layers, json;
  bool only_check; /* this time: what is asked for is possible */
} attention_options;

static int parse(int argc, char **argv, attention_options *o, bench_machine *m) {
  const char *words[CLI_MAX_POSITIONALS];
  const cli_option rows[] = {
      {0, "heads", CLI_LIST, &o->shape.heads, "Hq,Hk,D",
       "query heads, kv heads, channels of a head; Hq alone with --mask"},
      {0, "n-layers", CLI_SIZE, &o->shape.n_layers, "L", "layers, where nothing else says (1)"},
      CLI_MASK_ROW(o->engine),
      {0, "dk", CLI_LIST, &o->n_kept, "LIST", "instead: every head keeps so many channels"},
      {'l', "lengths", CLI_LIST, &o->lengths, "LIST", "tokens of context (4096,32768)"},
      {'b', "batch", CLI_LIST, &o->batches, "LIST", "sequences (1)"},
      CLI_SPLIT_ROWS(o->engine, "the mask's, else 128", "the mask's, else 768"),
      CLI_KV_TYPE_ROW(o->engine),
      CLI_DEVICE_ROW(o->engine),
      {0, "layers", CLI_FLAG, &o->layers, NULL, "a row for every layer and their mean, too"},
      {0, "no-dense", CLI_FLAG, &o->no_dense, NULL,
       "with --mask or --dk: do not measure dense beside it"},
      BENCH_ROWS(*m, o->engine, o->json),
  };
  const cli_command command = {
      .usage = "leank bench attention [MODEL] [options]",
      .about =
          "Times the attention of a decode step over caches of random values, layer by layer,\n"
          "dense and LeanK in turns, without weights. The shape is MODEL's (a .gguf file, a\n"
          "Hugging Face folder or a config.json) or that of --heads.",
      .details =
          "Caches are as a session has them; one layer after the other is read, and copies of\n"
          "them, so that --rotate bytes lie between two readings of the same. bytes and time are\n"
          "shares of dense; t/b is time over bytes: 1 where the time saved is the bytes saved.",
      .options = rows,
      .n_options = sizeof rows / sizeof *rows,
      .n_min = 0,
      .n_max = 1,
  };
  int code = cli_parse(&command, argc, argv, words);
  if (code != CLI_GO) return code;
  if (o->engine.mask && o->n_kept.n) return cli_usage_error("--mask and --dk exclude each other");
  if (o->no_dense && !o->engine.mask && !o->n_kept.n) {
    return cli_usage_error("--no-dense needs --mask or --dk");
  }
  if (o->layers && !o->engine.mask && !o->n_kept.n) {
    return cli_usage_error("--layers needs --mask or --dk: layers of a dense cache are all alike");
  }
  if (m->options.n_repeats == 0) return cli_usage_error("-r is at least 1");
  if (!o->n_kept.n) code = cli_engine_check_mask(&o->engine);
  o->shape.model = words[0];
  o->shape.mask = o->engine.mask;
  o->shape.n_sink = o->engine.n_sink;
  o->shape.n_recent = o->engine.n_recent;
  o->shape.kv_type = o->engine.kv_type;
  return code;
}

/* A dense cache and, unless lean is NULL, another in turns. Prints a row for each. Or checks both.
 */
static int measure(bench_machine *m, const attention_options *o, const leank_bench_shape *shape,
                   const leank_bench_cache *lean) {
  leank_bench_cache caches[2];
  leank_bench_attention_result results[2];
  bench_side sides[2] = {{0}};
  leank_error err;
  size_t n = 0;
  if (!o->no_dense) {
    sides[n].dense = true;
    caches[n++] = (leank_bench_cache){NULL, LEANK_BENCH_DENSE};
  }
  if (lean) {
    sides[n].mask = lean->mask ? o->engine.mask : NULL;
    sides[n].n_kept = lean->n_kept;
    caches[n++] = *lean;
  }
  if (o->only_check) {
    leank_status possible = leank_bench_attention_check(&m->options, shape, caches, n, &err);
    return possible == LEANK_OK ? CLI_GO : cli_fail(&err);
  }
  leank_bench_layer *layers = cli_alloc(n * shape->n_layers, sizeof *layers);
  bench_measure_begin(m, "attention");
  leank_status status = leank_bench_attention(&m->options, shape, caches, n, results, layers, &err);
  int code = bench_measure_end(m, status, &err);
  const bench_attention_report report = {m, o->json, o->layers};
  for (size_t i = 0; code == CLI_GO && i < n; i++) {
    sides[i].result = results[i];
    sides[i].layers = layers + i * shape->n_layers;
    bench_attention_row(&report, shape, &sides[i], i > 0 ? &sides[0] : NULL);
  }
  free(layers);
  return code;
}

static int measure_length(bench_machine *m, const attention_options *o,
                          const leank_bench_shape *shape, const leank_mask *mask) {
  if (mask || o->n_kept.n == 0) {
    const leank_bench_cache lean = {mask, 0};
    return measure(m, o, shape, mask ? &lean : NULL);
  }
  int code = CLI_GO;
  for (size_t i = 0; code == CLI_GO && i < o->n_kept.n; i++) {
    const leank_bench_cache lean = {NULL, o->n_kept.values[i]};
    code = measure(m, o, shape, &lean);
  }
  return code;
}

static int run(bench_machine *m, const attention_options *o, leank_bench_shape *shape,
               const leank_mask *mask) {
  const bench_attention_report report = {m, o->json, o->layers};
  if (!o->only_check) bench_attention_head(&report, shape);
  int code = CLI_GO;
  for (size_t b = 0; b < o->batches.n; b++) {
    for (size_t i = 0; code == CLI_GO && i < o->lengths.n; i++) {
      shape->n_seqs = o->batches.values[b];
      shape->n_tokens = o->lengths.values[i];
      code = measure_length(m, o, shape, mask);
    }
  }
  return code;
}

int cmd_bench_attention(int argc, char **argv) {
  attention_options o = {.lengths = {2, {4096, 32768}}, .batches = {1, {1}}};
  bench_machine machine = {0};
  leank_bench_shape shape;
  leank_mask *mask = NULL;
  cli_engine_options_default(&o.engine);
  leank_bench_options_default(&machine.options);
  int code = parse(argc, argv, &o, &machine);
  if (code != CLI_GO) return code;
  code = bench_shape_make(&o.shape, &shape, &mask);
  /* Before the bandwidth is measured, which takes its time. */
  if (code == CLI_GO) code = bench_machine_describe(&machine, &o.engine);
  o.only_check = true;
  if (code == CLI_GO) code = run(&machine, &o, &shape, mask);
  o.only_check = false;
  if (code == CLI_GO) code = bench_machine_read(&machine);
  if (code == CLI_GO) code = run(&machine, &o, &shape, mask);
  leank_mask_close(&mask);
  return code == CLI_GO ? CLI_OK : code;
}
