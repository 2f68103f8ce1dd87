#include "bench_session_report.h"

#include <stdio.h>

#include "cli_report.h"

double bench_weight_bytes(const bench_machine *m, const leank_model_info *info) {
  double bytes = m->on_cuda ? 2 * (double)info->n_params : (double)info->weight_bytes;
  if (info->tied_output || info->n_params == 0) return bytes;
  return bytes * (1 - (double)info->n_vocab * (double)info->hidden / (double)info->n_params);
}

void bench_print_session_json(const bench_machine *m, const cli_engine *engine,
                              const bench_row *row) {
  double n = (double)(row->decode ? row->n_seqs : row->length);
  char kernel[64];
  json_t *o = json_object();
  json_object_set_new(o, "bench", json_string(row->decode ? "decode" : "prefill"));
  json_object_set_new(o, "model", cli_json_text(engine->info->name));
  if (engine->synthetic) json_object_set_new(o, "synthetic", json_true());
  json_object_set_new(o, "cache", json_string(row->masked ? "leank" : "dense"));
  json_object_set_new(o, "kv_type", json_string(cli_kv_type_name(engine->options.kv_type)));
  json_object_set_new(o, "length", cli_json_size(row->length));
  bench_json_machine(m, o);
  bench_kernel_name(m, row->decode ? "attend" : "gemm", kernel, sizeof kernel);
  json_object_set_new(o, "kernel", json_string(kernel));
  json_object_set_new(o, "tokens_per_second", json_real(n / row->seconds));
  json_object_set_new(o, "ms_per_token", json_real(1e3 * row->seconds / n));
  if (row->decode) {
    double weights = bench_weight_bytes(m, engine->info);
    json_object_set_new(o, "steps", cli_json_size(row->n_steps));
    json_object_set_new(o, "batch", cli_json_size(row->n_seqs));
    json_object_set_new(o, "ms_per_step", json_real(1e3 * row->seconds));
    json_object_set_new(o, "kv_bytes_per_step", cli_json_size(row->kv_bytes));
    json_object_set_new(o, "weight_bytes_per_step", cli_json_size((uint64_t)weights));
    bench_json_speed(m, (double)row->kv_bytes + weights, row->seconds, o);
    json_object_set_new(o, "packed_from_dense", json_boolean(row->packed));
    json_object_set_new(o, "random_cache", json_boolean(row->random));
    if (!row->packed && !row->random)
      json_object_set_new(o, "prefill_seconds", json_real(row->prefill_seconds));
  }
  cli_json_print(o, true);
  fflush(stdout);
}

void bench_print_session_head(const bench_machine *m, const leank_model_info *info, bool decode) {
  char kernel[64];
  bench_print_machine(m);
  bench_kernel_name(m, decode ? "attend" : "gemm", kernel, sizeof kernel);
  printf("kernel %s\n", kernel);
  if (decode)
    printf("weights a step %s bytes\n", cli_grouped((uint64_t)bench_weight_bytes(m, info)));
  printf("%-8s %-6s %8s", decode ? "decode" : "prefill", "cache", "length");
  if (decode)
    printf(" %6s %10s %10s %16s %16s %8s %7s %10s", "batch", "ms/step", "tokens/s", "KV bytes/step",
           "bytes/step", "GB/s", "share", "prefill s");
  else
    printf(" %12s %12s", "tokens/s", "ms/token");
  putchar('\n');
  fflush(stdout);
}

static void print_decode(const bench_machine *m, const cli_engine *engine, const bench_row *row) {
  const double bytes = (double)row->kv_bytes + bench_weight_bytes(m, engine->info);
  const double speed = bytes / row->seconds;
  printf(" %6zu %10.3f %10.2f %16s", row->n_seqs, 1e3 * row->seconds,
         (double)row->n_seqs / row->seconds, cli_grouped(row->kv_bytes));
  printf(" %16s %8.2f %5.1f %%", cli_grouped((uint64_t)bytes), speed / 1e9,
         100 * speed / bench_read_bandwidth(m));
  if (row->packed || row->random)
    printf(" %10s", row->random ? "random" : "packed");
  else
    printf(" %10.2f", row->prefill_seconds);
}

void bench_print_session_row(const bench_machine *m, const cli_engine *engine,
                             const bench_row *row) {
  const double n = (double)row->length;
  printf("%-8s %-6s %8zu", row->decode ? "decode" : "prefill", row->masked ? "leank" : "dense",
         row->length);
  if (row->decode)
    print_decode(m, engine, row);
  else
    printf(" %12.2f %12.3f", n / row->seconds, 1e3 * row->seconds / n);
  putchar('\n');
  fflush(stdout);
}
