#include "bench_session_report.h"

#include <stdio.h>
#include <string.h>

#include "cli_report.h"

/* Weights that a decode step reads: all, but of the input embedding of an untied model only a row.
 * Its bytes are taken to be its share of the parameters. On a CUDA device they are bf16. */
static double weight_bytes_read(const bench_machine *m, const leank_model_info *info) {
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
  json_object_set_new(o, "cache", json_string(row->masked ? "leank" : "dense"));
  json_object_set_new(o, "kv_type", json_string(cli_kv_type_name(engine->options.kv_type)));
  json_object_set_new(o, "length", cli_json_size(row->length));
  bench_json_machine(m, o);
  bench_kernel_name(m, row->decode ? "attend" : "gemm", kernel, sizeof kernel);
  json_object_set_new(o, "kernel", json_string(kernel));
  json_object_set_new(o, "tokens_per_second", json_real(n / row->seconds));
  json_object_set_new(o, "ms_per_token", json_real(1e3 * row->seconds / n));
  if (row->decode) {
    double weights = weight_bytes_read(m, engine->info);
    json_object_set_new(o, "steps", cli_json_size(row->n_steps));
    json_object_set_new(o, "batch", cli_json_size(row->n_seqs));
    json_object_set_new(o, "ms_per_step", json_real(1e3 * row->seconds));
    json_object_set_new(o, "kv_bytes_per_step", cli_json_size(row->kv_bytes));
    json_object_set_new(o, "weight_bytes_per_step", cli_json_size((uint64_t)weights));
    bench_json_speed(m, (double)row->kv_bytes + weights, row->seconds, o);
    json_object_set_new(o, "packed_from_dense", json_boolean(row->packed));
    if (!row->packed) json_object_set_new(o, "prefill_seconds", json_real(row->prefill_seconds));
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
    printf("weights a step %s bytes\n", cli_grouped((uint64_t)weight_bytes_read(m, info)));
  printf("%-8s %-6s %8s %12s %12s", decode ? "decode" : "prefill", "cache", "length", "tokens/s",
         "ms/token");
  if (decode) printf(" %16s %8s %7s %10s", "KV bytes/step", "GB/s", "share", "prefill s");
  putchar('\n');
  fflush(stdout);
}

void bench_print_session_row(const bench_machine *m, const cli_engine *engine,
                             const bench_row *row) {
  double n = (double)(row->decode ? row->n_seqs : row->length);
  printf("%-8s %-6s %8zu %12.2f %12.3f", row->decode ? "decode" : "prefill",
         row->masked ? "leank" : "dense", row->length, n / row->seconds, 1e3 * row->seconds / n);
  if (row->decode) {
    double speed = ((double)row->kv_bytes + weight_bytes_read(m, engine->info)) / row->seconds;
    printf(" %16s %8.2f", cli_grouped(row->kv_bytes), speed / 1e9);
    if (m->on_cuda)
      printf(" %7s", "-");
    else
      printf(" %5.1f %%", 100 * speed / bench_read_bandwidth(m));
    if (row->packed)
      printf(" %10s", "packed");
    else
      printf(" %10.2f", row->prefill_seconds);
  }
  putchar('\n');
  fflush(stdout);
}
