#include "bench_machine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli_report.h"

enum { N_READ_PASSES = 5, LEAST_ROTATE = 1 << 20 };
/* What the bandwidth is measured over at most, and at least: less is no larger than caches are. */
static const size_t most_read_bytes = (size_t)2 << 30, least_read_bytes = (size_t)256 << 20;

static void on_progress(void *user, uint64_t done, uint64_t total) {
  bench_machine *m = user;
  cli_progress_update(&m->progress, done, total);
}

void bench_measure_begin(bench_machine *m, const char *label) {
  cli_progress_begin(&m->progress, label);
  cli_interrupt_arm(NULL);
}

int bench_measure_end(bench_machine *m, leank_status status, const leank_error *err) {
  cli_interrupt_disarm();
  cli_progress_end(&m->progress);
  if (status == LEANK_E_INTERRUPTED) {
    cli_complain("interrupted");
    return CLI_INTERRUPTED;
  }
  return status == LEANK_OK ? CLI_GO : cli_fail(err);
}

/* The device by its index: those before it are described on the way. */
static int describe_device(int index, leank_device_info *out) {
  leank_error err;
  size_t n = 0;
  leank_device_info *all = cli_alloc((size_t)index + 1, sizeof *all);
  leank_status status = leank_cuda_devices(all, (size_t)index + 1, &n, &err);
  if (status == LEANK_OK && (size_t)index < n) *out = all[index];
  free(all);
  return status == LEANK_OK ? CLI_GO : cli_fail(&err);
}

int bench_free_bytes(const bench_machine *m, size_t *out) {
  leank_error err;
  leank_device_info device = {.free_bytes = 0};
  leank_cpu_info cpu;
  if (m->on_cuda) {
    int code = describe_device(m->device_index, &device);
    *out = device.free_bytes;
    return code;
  }
  if (leank_cpu_describe(m->options.cpu, LEANK_KV_BF16, &cpu, &err) != LEANK_OK)
    return cli_fail(&err);
  *out = cpu.free_bytes;
  return CLI_GO;
}

int bench_machine_describe(bench_machine *m, const cli_engine_options *engine) {
  leank_error err;
  leank_bench_options *o = &m->options;
  if (o->rotate_bytes < LEAST_ROTATE) return cli_usage_error("--rotate is at least 1M");
  o->n_threads = engine->n_threads;
  o->cpu = cli_cpu_level(engine->cpu);
  o->on_progress = on_progress;
  o->should_stop = cli_should_stop;
  o->user = m;
  leank_device device;
  int index, code = cli_device(engine, &device, &index);
  if (code != CLI_GO) return code;
  m->on_cuda = device == LEANK_DEVICE_CUDA;
  const leank_kv_type kv_type = m->on_cuda ? LEANK_KV_BF16 : (leank_kv_type)engine->kv_type;
  if (leank_cpu_describe(o->cpu, kv_type, &m->cpu, &err) != LEANK_OK) return cli_fail(&err);
  o->device = device;
  o->device_index = index;
  m->device_index = index;
  return m->on_cuda ? describe_device(index, &m->device) : CLI_GO;
}

int bench_machine_read(bench_machine *m) {
  leank_error err;
  leank_bench_options less = m->options;
  less.n_repeats = N_READ_PASSES;
  if (less.rotate_bytes > most_read_bytes) less.rotate_bytes = most_read_bytes;
  bench_measure_begin(m, "read");
  leank_status status = leank_bench_read(&less, &m->read, &err);
  while (status == LEANK_E_MEMORY && less.rotate_bytes / 2 >= least_read_bytes) {
    less.rotate_bytes /= 2;
    status = leank_bench_read(&less, &m->read, &err);
  }
  return bench_measure_end(m, status, &err);
}

int bench_machine_open(bench_machine *m, const cli_engine_options *engine) {
  int code = bench_machine_describe(m, engine);
  return code == CLI_GO ? bench_machine_read(m) : code;
}

double bench_read_bandwidth(const bench_machine *m) {
  return m->read.patterns[m->read.best].bytes_per_second;
}

void bench_kernel_name(const bench_machine *m, const char *op, char *out, size_t size) {
  size_t n = strlen(op);
  snprintf(out, size, "%s", m->on_cuda ? "cuda" : "unknown");
  if (m->on_cuda) return;
  for (const char *at = m->cpu.kernels; *at; at += strcspn(at, "\n"), at += *at == '\n') {
    if (strncmp(at, op, n) != 0 || strncmp(at + n, ": ", 2) != 0) continue;
    snprintf(out, size, "%.*s", (int)strcspn(at + n + 2, "\n"), at + n + 2);
  }
}

static void pattern_name(const bench_machine *m, char *out, size_t size) {
  const leank_bench_pattern *p = &m->read.patterns[m->read.best];
  if (m->on_cuda) {
    snprintf(out, size, "%s, %zu blocks a multiprocessor", p->kernel, p->n_streams);
    return;
  }
  snprintf(out, size, "%s, %zu stream%s%s", p->kernel, p->n_streams, p->n_streams == 1 ? "" : "s",
           p->prefetch ? ", prefetch" : "");
}

void bench_print_machine(const bench_machine *m) {
  char pattern[80];
  pattern_name(m, pattern, sizeof pattern);
  if (m->on_cuda) {
    cli_print_text(m->device.name);
    printf(", cuda:%d, %s bytes of memory", m->device_index, cli_grouped(m->device.total_bytes));
  } else {
    cli_print_text(m->cpu.name[0] ? m->cpu.name : "unknown processor");
    printf(", %s, %zu threads", leank_cpu_level_name(m->cpu.level), m->read.n_threads);
  }
  printf("; reads %.1f GB/s (%s; %s bytes)\n", bench_read_bandwidth(m) / 1e9, pattern,
         cli_grouped(m->read.n_bytes));
  if (!m->on_cuda && m->read.n_bytes / 2 < m->cpu.cache_bytes)
    cli_warn("the largest cache is said to hold %s bytes: --rotate over more",
             cli_grouped(m->cpu.cache_bytes));
}

void bench_json_machine(const bench_machine *m, json_t *o) {
  char text[80];
  if (m->on_cuda) {
    snprintf(text, sizeof text, "cuda:%d", m->device_index);
    json_object_set_new(o, "device", json_string(text));
    json_object_set_new(o, "device_name", cli_json_text(m->device.name));
  } else {
    json_object_set_new(o, "cpu", cli_json_text(m->cpu.name));
    json_object_set_new(o, "cpu_level", json_string(leank_cpu_level_name(m->cpu.level)));
    json_object_set_new(o, "threads", cli_json_size(m->read.n_threads));
  }
  pattern_name(m, text, sizeof text);
  json_object_set_new(o, "repeats", cli_json_size(m->options.n_repeats));
  json_object_set_new(o, "read_bandwidth", json_real(bench_read_bandwidth(m)));
  json_object_set_new(o, "read_bandwidth_buffer", cli_json_size(m->read.n_bytes));
  json_object_set_new(o, "read_pattern", json_string(text));
}

void bench_json_speed(const bench_machine *m, double n_bytes, double seconds, json_t *o) {
  const double speed = seconds > 0 ? n_bytes / seconds : 0;
  json_object_set_new(o, "bytes_per_second", json_real(speed));
  json_object_set_new(o, "share_of_bandwidth", json_real(speed / bench_read_bandwidth(m)));
}

static int compare_doubles(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

double bench_median(double *values, size_t n) {
  if (n == 0) return 0;
  qsort(values, n, sizeof *values, compare_doubles);
  return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}
