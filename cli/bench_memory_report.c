#include "bench_memory_report.h"

#include <stdio.h>

#include "cli_report.h"

static const char *cache_name(bool masked) { return masked ? "leank" : "dense"; }

void bench_memory_head(const bench_machine *m, const leank_model_info *info, size_t n_steps,
                       size_t budget, size_t weights) {
  bench_print_machine(m);
  cli_print_text(info->name[0] ? info->name : info->architecture);
  printf(": %zu steps; weights %s bytes", n_steps, cli_grouped(weights));
  printf(", %s for sequences\n", cli_grouped(budget));
  printf("%-6s %8s %6s %16s %16s %10s %10s %10s %10s %8s %7s\n", "cache", "length", "batch",
         "reserved", "KV bytes", "prompt s", "seconds", "ms/step", "tokens/s", "GB/s", "share");
  fflush(stdout);
}

static void print_text(const bench_machine *m, const bench_memory_row *row) {
  const double step = row->seconds / (double)row->n_steps;
  const double speed = (double)row->step_bytes / step;
  printf("%-6s %8zu %6zu %16s", cache_name(row->masked), row->length, row->n_seqs,
         cli_grouped(row->reserved));
  printf(" %16s", cli_grouped(row->kv_bytes));
  if (row->prompt_seconds > 0)
    printf(" %10.2f", row->prompt_seconds);
  else
    printf(" %10s", "random");
  printf(" %10.3f %10.3f %10.2f %8.2f %5.1f %%\n", row->seconds, 1e3 * step,
         bench_memory_speed(row), speed / 1e9, 100 * speed / bench_read_bandwidth(m));
}

static void print_json(const bench_machine *m, const cli_engine *engine,
                       const bench_memory_row *row) {
  json_t *o = json_object();
  json_object_set_new(o, "bench", json_string("memory"));
  json_object_set_new(o, "model", cli_json_text(engine->info->name));
  if (engine->synthetic) json_object_set_new(o, "synthetic", json_true());
  json_object_set_new(o, "cache", json_string(cache_name(row->masked)));
  json_object_set_new(o, "kv_type", json_string(cli_kv_type_name(engine->options.kv_type)));
  json_object_set_new(o, "length", cli_json_size(row->length));
  json_object_set_new(o, "batch", cli_json_size(row->n_seqs));
  json_object_set_new(o, "steps", cli_json_size(row->n_steps));
  bench_json_machine(m, o);
  json_object_set_new(o, "reserved_bytes", cli_json_size(row->reserved));
  json_object_set_new(o, "kv_bytes", cli_json_size(row->kv_bytes));
  json_object_set_new(o, "bytes_per_step", cli_json_size(row->step_bytes));
  if (row->prompt_seconds > 0)
    json_object_set_new(o, "prompt_seconds", json_real(row->prompt_seconds));
  json_object_set_new(o, "seconds", json_real(row->seconds));
  json_object_set_new(o, "tokens_per_second", json_real(bench_memory_speed(row)));
  bench_json_speed(m, (double)row->step_bytes * (double)row->n_steps, row->seconds, o);
  cli_json_print(o, true);
}

void bench_memory_print(const bench_machine *m, const cli_engine *engine,
                        const bench_memory_row *row, bool json) {
  if (json)
    print_json(m, engine, row);
  else
    print_text(m, row);
  fflush(stdout);
}

static void side_json(const bench_memory_side *side, json_t *o) {
  json_t *one = json_object();
  json_object_set_new(one, "largest_batch", cli_json_size(side->largest));
  json_object_set_new(one, "best_batch", cli_json_size(side->best));
  json_object_set_new(one, "best_tokens_per_second", json_real(side->best_per_second));
  json_object_set_new(o, cache_name(side->masked), one);
}

static void side_text(const bench_memory_side *side, size_t length) {
  printf("%s: ", cache_name(side->masked));
  if (side->largest == 0)
    printf("nothing was measured\n");
  else
    printf("largest batch %zu x %zu, best %.2f tokens/s at batch %zu\n", side->largest, length,
           side->best_per_second, side->best);
}

void bench_memory_summary(const bench_memory_side *dense, const bench_memory_side *masked,
                          size_t length, bool json) {
  const bench_memory_side *sides[] = {dense, masked};
  const bool both = dense && masked && dense->largest > 0 && masked->largest > 0;
  const double batch = both ? (double)masked->largest / (double)dense->largest : 0;
  const double speed = both ? masked->best_per_second / dense->best_per_second : 0;
  json_t *o = json ? json_object() : NULL;
  if (json) json_object_set_new(o, "bench", json_string("memory_summary"));
  if (json) json_object_set_new(o, "length", cli_json_size(length));
  for (size_t i = 0; i < 2; i++) {
    if (!sides[i]) continue;
    if (json)
      side_json(sides[i], o);
    else
      side_text(sides[i], length);
  }
  if (both && json) {
    json_object_set_new(o, "batch_ratio", json_real(batch));
    json_object_set_new(o, "speed_ratio", json_real(speed));
  } else if (both) {
    printf("leank over dense: %.2f times the batch, %.2f times the tokens/s\n", batch, speed);
  }
  if (json) cli_json_print(o, true);
  fflush(stdout);
}
