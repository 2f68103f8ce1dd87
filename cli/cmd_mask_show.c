#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "cli_report.h"

/* What is counted in a mask. */
typedef struct mask_summary {
  size_t n_layers, n_heads, head_dim;
  size_t *histogram; /* [D + 1] kv heads that keep so many channels */
  size_t *layers;    /* [L] kept channels */
  size_t n_kept, n_empty;
} mask_summary;

static mask_summary summarise(const leank_mask *mask) {
  const leank_mask_info *info = leank_mask_get_info(mask);
  mask_summary s = {info->n_layers, info->n_kv_heads, info->head_dim, NULL, NULL, 0, 0};
  s.histogram = cli_alloc(s.head_dim + 1, sizeof *s.histogram);
  s.layers = cli_alloc(s.n_layers, sizeof *s.layers);
  for (size_t l = 0; l < s.n_layers; l++) {
    for (size_t h = 0; h < s.n_heads; h++) {
      size_t n = leank_mask_n_kept(mask, l, h);
      s.histogram[n]++;
      s.layers[l] += n;
      s.n_kept += n;
      s.n_empty += n == 0;
    }
  }
  return s;
}

static void free_summary(mask_summary *s) {
  free(s->histogram);
  free(s->layers);
}

static double k_kept(const mask_summary *s) {
  return (double)s->n_kept / (double)(s->n_layers * s->n_heads * s->head_dim);
}

static double v_kept(const mask_summary *s) {
  return 1 - (double)s->n_empty / (double)(s->n_layers * s->n_heads);
}

static void print_field(const char *label, const char *text) {
  if (!text[0]) return;
  printf("%-14s ", label);
  cli_print_text(text);
  putchar('\n');
}

static void print_origin(const leank_mask *mask, const leank_mask_info *info) {
  print_field("architecture", info->architecture);
  if (info->rope_theta > 0) {
    printf("RoPE           base %g, %s\n", info->rope_theta, cli_scaling_name(info->rope_scaling));
  }
  print_field("method", info->method);
  print_field("made from", info->data);
  printf("steps, seed    %" PRIu64 ", %" PRIu64 "\n", info->steps, info->seed);
  printf("ratio          asked %.4f, reached %.4f, align %zu\n", info->ratio_asked,
         info->ratio_reached, info->align);
  print_field("fingerprint", info->fingerprint);
  printf("deployed with  sink %zu, recent %zu, policy %s%s\n", info->n_sink, info->n_recent,
         cli_policy_name(info->policy), info->mean_compensation ? ", mean compensation" : "");
  printf("alpha          %s\n", leank_mask_get_alpha(mask) ? "stored" : "not stored");
}

static void print_show(const leank_mask *mask, const mask_summary *s) {
  printf("sizes          %zu layers x %zu kv heads x %zu channels\n", s->n_layers, s->n_heads,
         s->head_dim);
  print_origin(mask, leank_mask_get_info(mask));
  printf("kept           K %.2f %%, V %.2f %%, K and V together %.2f %%\n", 100 * k_kept(s),
         100 * v_kept(s), 50 * (k_kept(s) + v_kept(s)));
  printf("\nkv heads by channels kept\n");
  for (size_t n = 0; n <= s->head_dim; n++) {
    if (s->histogram[n]) printf("  %4zu  %5zu heads\n", n, s->histogram[n]);
  }
  printf("\nlayer   kept  of %zu\n", s->n_heads * s->head_dim);
  for (size_t l = 0; l < s->n_layers; l++) {
    double share = (double)s->layers[l] / (double)(s->n_heads * s->head_dim);
    printf("%5zu  %5zu  %5.1f %%  %.*s\n", l, s->layers[l], 100 * share, (int)(share * 40 + 0.5),
           "########################################");
  }
}

static json_t *json_origin(const leank_mask_info *info) {
  json_t *o = json_object();
  json_object_set_new(o, "architecture", cli_json_text(info->architecture));
  json_object_set_new(o, "rope_theta", json_real(info->rope_theta));
  json_object_set_new(o, "rope_scaling", json_string(cli_scaling_name(info->rope_scaling)));
  json_object_set_new(o, "rope_factor", json_real(info->rope_factor));
  json_object_set_new(o, "channel_order", json_string(cli_order_name(info->order)));
  json_object_set_new(o, "n_sink", cli_json_size(info->n_sink));
  json_object_set_new(o, "n_recent", cli_json_size(info->n_recent));
  json_object_set_new(o, "policy", json_string(cli_policy_name(info->policy)));
  json_object_set_new(o, "mean_compensation", json_boolean(info->mean_compensation));
  json_object_set_new(o, "ratio_asked", json_real(info->ratio_asked));
  json_object_set_new(o, "ratio_reached", json_real(info->ratio_reached));
  json_object_set_new(o, "align", cli_json_size(info->align));
  json_object_set_new(o, "method", cli_json_text(info->method));
  json_object_set_new(o, "data", cli_json_text(info->data));
  json_object_set_new(o, "steps", cli_json_size(info->steps));
  json_object_set_new(o, "seed", cli_json_size(info->seed));
  json_object_set_new(o, "fingerprint", cli_json_text(info->fingerprint));
  return o;
}

static json_t *json_show(const leank_mask *mask, const mask_summary *s) {
  json_t *o = json_object(), *histogram = json_object();
  json_t *layers = json_array(), *heads = json_array();
  for (size_t n = 0; n <= s->head_dim; n++) {
    char key[32];
    snprintf(key, sizeof key, "%zu", n);
    if (s->histogram[n]) json_object_set_new(histogram, key, cli_json_size(s->histogram[n]));
  }
  for (size_t l = 0; l < s->n_layers; l++) {
    json_t *row = json_array();
    json_array_append_new(layers, cli_json_size(s->layers[l]));
    for (size_t h = 0; h < s->n_heads; h++) {
      json_array_append_new(row, cli_json_size(leank_mask_n_kept(mask, l, h)));
    }
    json_array_append_new(heads, row);
  }
  json_object_set_new(o, "n_layers", cli_json_size(s->n_layers));
  json_object_set_new(o, "n_kv_heads", cli_json_size(s->n_heads));
  json_object_set_new(o, "head_dim", cli_json_size(s->head_dim));
  json_object_set_new(o, "k_kept", json_real(k_kept(s)));
  json_object_set_new(o, "v_kept", json_real(v_kept(s)));
  json_object_set_new(o, "kv_kept", json_real((k_kept(s) + v_kept(s)) / 2));
  json_object_set_new(o, "histogram", histogram);
  json_object_set_new(o, "kept_per_layer", layers);
  json_object_set_new(o, "kept_per_head", heads);
  json_object_set_new(o, "has_alpha", json_boolean(leank_mask_get_alpha(mask) != NULL));
  json_object_set_new(o, "info", json_origin(leank_mask_get_info(mask)));
  return o;
}

int cmd_mask_show(int argc, char **argv) {
  bool json = false;
  const cli_option rows[] = {
      {0, "json", CLI_FLAG, &json, NULL, "one JSON object instead of text"},
  };
  const cli_command command = {
      .usage = "leank mask show FILE [--json]",
      .about = "Says what a mask keeps, per head and layer, and where it comes from.",
      .options = rows,
      .n_options = sizeof rows / sizeof *rows,
      .n_min = 1,
      .n_max = 1,
  };
  const char *file[CLI_MAX_POSITIONALS];
  leank_mask *mask = NULL;
  leank_error err;
  int code = cli_parse(&command, argc, argv, file);
  if (code != CLI_GO) return code;
  if (leank_mask_open(file[0], &mask, &err) != LEANK_OK) return cli_fail(&err);
  mask_summary summary = summarise(mask);
  if (json)
    cli_json_print(json_show(mask, &summary), false);
  else
    print_show(mask, &summary);
  free_summary(&summary);
  leank_mask_close(&mask);
  return CLI_OK;
}
