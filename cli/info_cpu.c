#include "info_cpu.h"

#include <stdio.h>
#include <string.h>

#include "cli_report.h"

int info_cpu_describe(const cli_engine_options *options, leank_cpu_info *out) {
  leank_error err;
  if (leank_cpu_describe(cli_cpu_level(options->cpu), (leank_kv_type)options->kv_type, out, &err) !=
      LEANK_OK) {
    return cli_fail(&err);
  }
  return CLI_GO;
}

static bool usable(const leank_cpu_feature *f) { return f->processor && f->system; }
static bool absent(const leank_cpu_feature *f) { return !f->processor; }
static bool refused(const leank_cpu_feature *f) { return f->processor && !f->system; }

/* The features of one sort on one line; nothing where there are none. */
static void print_features(const leank_cpu_info *cpu, const char *label,
                           bool (*sort)(const leank_cpu_feature *)) {
  bool any = false;
  for (size_t i = 0; i < cpu->n_features; i++) {
    if (!sort(&cpu->features[i])) continue;
    printf("%s%s", any ? " " : label, cpu->features[i].name);
    any = true;
  }
  if (any) putchar('\n');
}

void info_cpu_print(const leank_cpu_info *cpu) {
  printf("processor      ");
  cli_print_text(cpu->name[0] ? cpu->name : "(no name)");
  printf(", %zu for this process", cpu->n_processors);
  if (cpu->cache_bytes) printf(", largest cache %s bytes", cli_grouped(cpu->cache_bytes));
  printf("\nlevel          %s", leank_cpu_level_name(cpu->level));
  if (cpu->level != cpu->detected)
    printf(" (%s is possible here)", leank_cpu_level_name(cpu->detected));
  putchar('\n');
  print_features(cpu, "extensions     ", usable);
  print_features(cpu, "not there      ", absent);
  print_features(cpu, "not allowed    ", refused);
  printf("\nkernels on this machine\n%s", cpu->kernels);
}

json_t *info_cpu_json(const leank_cpu_info *cpu) {
  json_t *o = json_object(), *features = json_object(), *kernels = json_object();
  json_object_set_new(o, "name", cli_json_text(cpu->name));
  json_object_set_new(o, "level", json_string(leank_cpu_level_name(cpu->level)));
  json_object_set_new(o, "detected", json_string(leank_cpu_level_name(cpu->detected)));
  json_object_set_new(o, "n_processors", cli_json_size(cpu->n_processors));
  json_object_set_new(o, "cache_bytes", cli_json_size(cpu->cache_bytes));
  for (size_t i = 0; i < cpu->n_features; i++) {
    const leank_cpu_feature *f = &cpu->features[i];
    json_t *feature = json_object();
    json_object_set_new(feature, "processor", json_boolean(f->processor));
    json_object_set_new(feature, "system", json_boolean(f->system));
    json_object_set_new(features, f->name, feature);
  }
  for (const char *at = cpu->kernels; *at; at += strcspn(at, "\n"), at += *at == '\n') {
    const size_t n = strcspn(at, "\n");
    const char *colon = memchr(at, ':', n);
    if (!colon || colon + 2 > at + n) continue;
    char op[64];
    snprintf(op, sizeof op, "%.*s", (int)(colon - at), at);
    json_object_set_new(kernels, op, json_stringn(colon + 2, (size_t)(at + n - colon - 2)));
  }
  json_object_set_new(o, "extensions", features);
  json_object_set_new(o, "kernels", kernels);
  return o;
}
