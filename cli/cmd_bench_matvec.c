/* leank bench matvec. */
#include <stdio.h>
#include <strings.h>

#include "bench_machine.h"
#include "cli_report.h"

typedef struct matvec_options {
  cli_engine_options engine;
  cli_texts types;
  cli_sizes rows, shape;
  bool json;
} matvec_options;

static int parse(int argc, char **argv, matvec_options *o, bench_machine *m) {
  const cli_option rows[] = {
      {0, "types", CLI_TEXTS, &o->types, "LIST", "weight types, as q4_k,q6_k (all)"},
      {0, "rows", CLI_LIST, &o->rows, "LIST", "rows multiplied at once (1,2,4,8)"},
      {0, "shape", CLI_LIST, &o->shape, "OUT,IN",
       "outputs and inputs of a matrix (8192,4096); IN a multiple of 256"},
      BENCH_ROWS(*m, o->engine, o->json),
  };
  const cli_command command = {
      .usage = "leank bench matvec [options]",
      .about = "Times products of stored weights with few rows, as a decode step makes them, for\n"
               "every weight type that models come in. Weights are random; no model is needed.",
      .details = "Matrices are read one after the other, --rotate bytes of them. The share is of "
                 "the read bandwidth.",
      .options = rows,
      .n_options = sizeof rows / sizeof *rows,
      .n_min = 0,
      .n_max = 0,
  };
  int code = cli_parse(&command, argc, argv, NULL);
  if (code != CLI_GO) return code;
  if (o->shape.n != 2) return cli_usage_error("--shape is two numbers: outputs, inputs");
  if (o->shape.values[1] % 256 != 0) {
    return cli_usage_error("--shape: %zu inputs are no multiple of 256", o->shape.values[1]);
  }
  for (size_t i = 0; i < o->rows.n; i++) {
    if (o->rows.values[i] > LEANK_BENCH_MAX_ROWS)
      return cli_usage_error("--rows: at most %d", LEANK_BENCH_MAX_ROWS);
  }
  if (m->options.n_repeats == 0) return cli_usage_error("-r is at least 1");
  return CLI_GO;
}

/* ---- output ---- */

static void print_head(const bench_machine *m, const matvec_options *o) {
  if (o->json) return;
  bench_print_machine(m);
  printf("%zu outputs, %zu inputs\n", o->shape.values[0], o->shape.values[1]);
  printf("%-6s %4s %14s %10s %10s %7s %7s %10s  %s\n", "type", "rows", "weight bytes", "ms",
         "least", "GB/s", "share", "GFLOP/s", "kernel");
  fflush(stdout);
}

static double gflops(const matvec_options *o, const leank_bench_matvec_result *r) {
  const double flops = 2e-9 * (double)(r->n_rows * o->shape.values[0] * o->shape.values[1]);
  return r->seconds > 0 ? flops / r->seconds : 0;
}

static void print_json(const bench_machine *m, const matvec_options *o, const char *type,
                       const leank_bench_matvec_result *r) {
  json_t *j = json_object();
  json_object_set_new(j, "bench", json_string("matvec"));
  json_object_set_new(j, "type", json_string(type));
  json_object_set_new(j, "rows", cli_json_size(r->n_rows));
  json_object_set_new(j, "n_out", cli_json_size(o->shape.values[0]));
  json_object_set_new(j, "n_in", cli_json_size(o->shape.values[1]));
  bench_json_machine(m, j);
  json_object_set_new(j, "kernel", json_string(r->kernel));
  json_object_set_new(j, "rotate_bytes", cli_json_size(m->options.rotate_bytes));
  json_object_set_new(j, "samples", cli_json_size(r->n_samples));
  json_object_set_new(j, "bytes", cli_json_size(r->n_bytes));
  json_object_set_new(j, "seconds", json_real(r->seconds));
  json_object_set_new(j, "min_seconds", json_real(r->min_seconds));
  json_object_set_new(j, "gflops", json_real(gflops(o, r)));
  bench_json_speed(m, (double)r->n_bytes, r->seconds, j);
  cli_json_print(j, true);
}

static void print_row(const bench_machine *m, const matvec_options *o, const char *type,
                      const leank_bench_matvec_result *r) {
  if (o->json) {
    print_json(m, o, type, r);
  } else {
    const double speed = r->seconds > 0 ? (double)r->n_bytes / r->seconds : 0;
    printf("%-6s %4zu %14s %10.3f %10.3f %7.2f %5.1f %% %10.1f  %s\n", type, r->n_rows,
           cli_grouped(r->n_bytes), 1e3 * r->seconds, 1e3 * r->min_seconds, speed / 1e9,
           100 * speed / bench_read_bandwidth(m), gflops(o, r), r->kernel);
  }
  fflush(stdout);
}

/* ---- measuring ---- */

static int measure(bench_machine *m, const matvec_options *o, const char *type) {
  leank_bench_matvec_result results[CLI_MAX_SIZES];
  leank_bench_matrix matrix;
  leank_error err;
  leank_bench_matrix_default(&matrix);
  matrix.type = type;
  matrix.n_out = o->shape.values[0];
  matrix.n_in = o->shape.values[1];
  bench_measure_begin(m, type);
  leank_status status =
      leank_bench_matvec(&m->options, &matrix, o->rows.values, o->rows.n, results, &err);
  int code = bench_measure_end(m, status, &err);
  for (size_t i = 0; code == CLI_GO && i < o->rows.n; i++) print_row(m, o, type, &results[i]);
  return code;
}

/* The library's spelling of a type; NULL where there is none. */
static const char *find_type(const char *text) {
  const char *name;
  size_t i = 0;
  while ((name = leank_bench_weight_type(i++)) && strcasecmp(name, text) != 0) continue;
  return name;
}

static int choose_types(const matvec_options *o, cli_texts *out) {
  out->n = 0;
  if (o->types.n == 0) {
    for (const char *name; (name = leank_bench_weight_type(out->n));) out->values[out->n++] = name;
    return CLI_GO;
  }
  for (size_t i = 0; i < o->types.n; i++) {
    const char *name = find_type(o->types.values[i]);
    if (!name) return cli_usage_error("--types: unknown weight type '%s'", o->types.values[i]);
    out->values[out->n++] = name;
  }
  return CLI_GO;
}

int cmd_bench_matvec(int argc, char **argv) {
  matvec_options o = {.rows = {4, {1, 2, 4, 8}}, .shape = {2, {8192, 4096}}};
  bench_machine machine = {0};
  cli_texts types;
  cli_engine_options_default(&o.engine);
  leank_bench_options_default(&machine.options);
  int code = parse(argc, argv, &o, &machine);
  if (code == CLI_GO) code = choose_types(&o, &types);
  if (code != CLI_GO) return code;
  code = bench_machine_open(&machine, &o.engine);
  if (code == CLI_GO) print_head(&machine, &o);
  for (size_t i = 0; code == CLI_GO && i < types.n; i++)
    code = measure(&machine, &o, types.values[i]);
  return code == CLI_GO ? CLI_OK : code;
}
