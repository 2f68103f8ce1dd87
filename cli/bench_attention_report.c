#include "bench_attention_report.h"

#include <stdio.h>

#include "cli_report.h"

/* What a time is worth: of all layers or of one. */
typedef struct measured {
  size_t n_bytes;
  double seconds, min_seconds;
} measured;

static measured all_of(const bench_side *side) {
  const leank_bench_attention_result *r = &side->result;
  return (measured){r->n_bytes, r->seconds, r->min_seconds};
}

static measured layer_of(const bench_side *side, size_t l) {
  const leank_bench_layer *r = &side->layers[l];
  return (measured){r->n_bytes, r->seconds, r->min_seconds};
}

/* A layer's share of all of them. */
static measured mean_of(const bench_side *side, size_t n_layers) {
  const measured all = all_of(side);
  const double n = (double)n_layers;
  return (measured){all.n_bytes / n_layers, all.seconds / n, all.min_seconds / n};
}

static double over(double a, double b) { return b > 0 ? a / b : 0; }

static void side_name(const bench_side *side, char *out, size_t size) {
  if (side->dense)
    snprintf(out, size, "dense");
  else if (side->mask)
    snprintf(out, size, "mask");
  else
    snprintf(out, size, "Dk %zu", side->n_kept);
}

/* ---- JSON ---- */

static void json_shape(const leank_bench_shape *s, const bench_side *side, json_t *o) {
  json_object_set_new(o, "cache", json_string(side->dense ? "dense" : "leank"));
  if (side->mask) json_object_set_new(o, "mask", cli_json_text(side->mask));
  if (!side->dense && !side->mask) json_object_set_new(o, "n_kept", cli_json_size(side->n_kept));
  json_object_set_new(o, "length", cli_json_size(s->n_tokens));
  json_object_set_new(o, "batch", cli_json_size(s->n_seqs));
  json_object_set_new(o, "n_layers", cli_json_size(s->n_layers));
  json_object_set_new(o, "n_heads", cli_json_size(s->n_heads));
  json_object_set_new(o, "n_kv_heads", cli_json_size(s->n_kv_heads));
  json_object_set_new(o, "head_dim", cli_json_size(s->head_dim));
  json_object_set_new(o, "kv_type", json_string(cli_kv_type_name((int)s->kv_type)));
}

static void json_measured(const bench_attention_report *report, measured m, const measured *dense,
                          json_t *o) {
  json_object_set_new(o, "bytes", cli_json_size(m.n_bytes));
  json_object_set_new(o, "seconds", json_real(m.seconds));
  json_object_set_new(o, "min_seconds", json_real(m.min_seconds));
  bench_json_speed(report->machine, (double)m.n_bytes, m.seconds, o);
  if (!dense) return;
  const double bytes = over((double)m.n_bytes, (double)dense->n_bytes);
  const double time = over(m.seconds, dense->seconds);
  json_object_set_new(o, "byte_ratio", json_real(bytes));
  json_object_set_new(o, "time_ratio", json_real(time));
  json_object_set_new(o, "time_over_bytes", json_real(over(time, bytes)));
}

static void print_json(const bench_attention_report *report, const leank_bench_shape *shape,
                       const bench_side *side, const bench_side *dense) {
  json_t *o = json_object();
  json_object_set_new(o, "bench", json_string("attention"));
  json_shape(shape, side, o);
  bench_json_machine(report->machine, o);
  json_object_set_new(o, "kernel", json_string(side->result.kernel));
  json_object_set_new(o, "rotate_bytes", cli_json_size(report->machine->options.rotate_bytes));
  json_object_set_new(o, "layer_seconds", json_real(mean_of(side, shape->n_layers).seconds));
  json_object_set_new(o, "samples", cli_json_size(side->result.n_samples));
  const measured beside = dense ? all_of(dense) : (measured){0};
  json_measured(report, all_of(side), dense ? &beside : NULL, o);
  cli_json_print(o, true);
}

static void print_layer_json(const bench_attention_report *report, const leank_bench_shape *shape,
                             const bench_side *side, const bench_side *dense, size_t l) {
  json_t *o = json_object();
  json_object_set_new(o, "bench", json_string("attention_layer"));
  json_object_set_new(o, "layer", cli_json_size(l));
  json_shape(shape, side, o);
  json_object_set_new(o, "threads", cli_json_size(report->machine->read.n_threads));
  json_object_set_new(o, "kernel", json_string(side->result.kernel));
  json_object_set_new(o, "kept_channels", cli_json_size(side->layers[l].n_kept));
  const measured beside = dense ? layer_of(dense, l) : (measured){0};
  json_measured(report, layer_of(side, l), dense ? &beside : NULL, o);
  cli_json_print(o, true);
}

/* ---- text ---- */

void bench_attention_head(const bench_attention_report *report, const leank_bench_shape *s) {
  if (report->json) return;
  char kernel[64];
  bench_print_machine(report->machine);
  bench_kernel_name(report->machine, "attend", kernel, sizeof kernel);
  printf("kernel %s: %zu query heads, %zu kv heads, head dim %zu, %s, %zu layer%s\n", kernel,
         s->n_heads, s->n_kv_heads, s->head_dim, cli_kv_type_name((int)s->kv_type), s->n_layers,
         s->n_layers == 1 ? "" : "s");
  printf("%-8s %8s %6s %16s %10s %10s %7s %7s %8s %8s %6s\n", "cache", "length", "batch",
         "KV bytes/step", "ms/step", "least", "GB/s", "share", "bytes", "time", "t/b");
  fflush(stdout);
}

static void print_measured(const bench_attention_report *report, measured m,
                           const measured *dense) {
  const double speed = over((double)m.n_bytes, m.seconds);
  printf(" %16s %10.3f %10.3f %7.2f", cli_grouped(m.n_bytes), 1e3 * m.seconds, 1e3 * m.min_seconds,
         speed / 1e9);
  printf(" %5.1f %%", 100 * speed / bench_read_bandwidth(report->machine));
  if (dense) {
    const double bytes = over((double)m.n_bytes, (double)dense->n_bytes);
    const double time = over(m.seconds, dense->seconds);
    printf(" %6.1f %% %6.1f %% %6.3f", 100 * bytes, 100 * time, over(time, bytes));
  }
  putchar('\n');
}

static void print_row(const bench_attention_report *report, const leank_bench_shape *shape,
                      const bench_side *side, const bench_side *dense) {
  char name[32];
  const measured beside = dense ? all_of(dense) : (measured){0};
  side_name(side, name, sizeof name);
  printf("%-8s %8zu %6zu", name, shape->n_tokens, shape->n_seqs);
  print_measured(report, all_of(side), dense ? &beside : NULL);
}

static void print_layer(const bench_attention_report *report, const leank_bench_shape *shape,
                        const bench_side *side, const bench_side *dense, size_t l) {
  const measured beside = dense ? layer_of(dense, l) : (measured){0};
  const double kept = (double)side->layers[l].n_kept / (double)shape->n_kv_heads;
  printf("  layer %3zu: %5.1f kept ", l, kept);
  print_measured(report, layer_of(side, l), dense ? &beside : NULL);
}

static void print_mean(const bench_attention_report *report, const leank_bench_shape *shape,
                       const bench_side *side, const bench_side *dense) {
  const measured beside = dense ? mean_of(dense, shape->n_layers) : (measured){0};
  double kept = 0;
  for (size_t l = 0; l < shape->n_layers; l++) kept += (double)side->layers[l].n_kept;
  printf("  mean     : %5.1f kept ", kept / (double)(shape->n_layers * shape->n_kv_heads));
  print_measured(report, mean_of(side, shape->n_layers), dense ? &beside : NULL);
}

void bench_attention_row(const bench_attention_report *report, const leank_bench_shape *shape,
                         const bench_side *side, const bench_side *dense) {
  for (size_t l = 0; report->layers && !side->dense && l < shape->n_layers; l++) {
    if (report->json)
      print_layer_json(report, shape, side, dense, l);
    else
      print_layer(report, shape, side, dense, l);
  }
  if (report->layers && !side->dense && !report->json) print_mean(report, shape, side, dense);
  if (report->json)
    print_json(report, shape, side, dense);
  else
    print_row(report, shape, side, dense);
  fflush(stdout);
}
