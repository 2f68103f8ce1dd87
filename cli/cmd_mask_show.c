#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "cli_report.h"
#include "mask_counts.h"

static void print_field(const char *label, const char *text) {
  if (!text[0]) return;
  printf("%-14s ", label);
  cli_print_text(text);
  putchar('\n');
}

static void print_origin(const leank_mask *mask, const leank_mask_info *info) {
  print_field("architecture", info->architecture);
  if (info->rope_theta > 0) {
    printf("RoPE           base %g, %s\n", info->rope_theta,
           leank_rope_scaling_name(info->rope_scaling));
  }
  print_field("method", info->method);
  print_field("made from", info->data);
  if (info->steps || info->seed)
    printf("steps, seed    %" PRIu64 ", %" PRIu64 "\n", info->steps, info->seed);
  printf("ratio          ");
  if (info->ratio_asked > 0 || info->ratio_reached <= 0) /* else an import: nobody asked */
    printf("asked %.4f, ", info->ratio_asked);
  printf("reached %.4f, align %zu\n", info->ratio_reached, info->align);
  print_field("fingerprint", info->fingerprint);
  printf("deployed with  sink %zu, recent %zu, policy %s%s\n", info->n_sink, info->n_recent,
         cli_policy_name(info->policy), info->mean_compensation ? ", mean compensation" : "");
  printf("alpha          %s\n", leank_mask_get_alpha(mask) ? "stored" : "not stored");
}

static void print_bar(double share, int width) {
  printf("%.*s", (int)(share * width + 0.5), "########################################");
}

static void print_histogram(const mask_counts *s) {
  printf("\nkv heads by channels kept\n");
  for (size_t n = 0; n <= s->head_dim; n++) {
    if (s->histogram[n]) printf("  %4zu  %5zu heads\n", n, s->histogram[n]);
  }
}

static void print_layers(const mask_counts *s) {
  printf("\nlayer   kept  of %zu\n", s->n_heads * s->head_dim);
  for (size_t l = 0; l < s->n_layers; l++) {
    double share = (double)s->layers[l] / (double)(s->n_heads * s->head_dim);
    printf("%5zu  %5zu  %5.1f %%  ", l, s->layers[l], 100 * share);
    print_bar(share, 40);
    putchar('\n');
  }
}

/* A shade for a count: blank for none, the densest for all. */
static char shade(size_t n, size_t of) {
  static const char shades[] = " .:-=+*%#@";
  enum { LAST = sizeof shades - 2 };
  if (n == 0) return shades[0];
  return shades[1 + (n * (LAST - 1)) / of];
}

/* Counts beside their shades; shades alone where a line would get too long. */
static void print_heads(const leank_mask *mask, const mask_counts *s) {
  enum { MAX_COLUMNS = 16 };
  bool with_counts = s->n_heads <= MAX_COLUMNS;
  printf("\nchannels kept by layer and kv head (of %zu; shades from none ' ' to all '@')\n",
         s->head_dim);
  printf("layer ");
  for (size_t h = 0; with_counts && h < s->n_heads; h++) printf(" %4zu", h);
  putchar('\n');
  for (size_t l = 0; l < s->n_layers; l++) {
    printf("%5zu ", l);
    for (size_t h = 0; with_counts && h < s->n_heads; h++)
      printf(" %4zu", leank_mask_n_kept(mask, l, h));
    printf("  |");
    for (size_t h = 0; h < s->n_heads; h++)
      putchar(shade(leank_mask_n_kept(mask, l, h), s->head_dim));
    printf("|\n");
  }
}

static void print_pairs(const mask_counts *s) {
  enum { PER_LINE = 8 };
  size_t half = s->head_dim / 2, n_heads = s->n_layers * s->n_heads;
  printf(
      "\nRoPE pairs (channels i and i + %zu; pair 0 has the highest frequency): kv heads, of %zu,\n"
      "that keep at least one / both channels; and the share of the line's channels\n",
      half, n_heads);
  for (size_t first = 0; first < half; first += PER_LINE) {
    size_t n = half - first < PER_LINE ? half - first : PER_LINE, n_kept = 0;
    printf("%4zu -%4zu ", first, first + n - 1);
    for (size_t i = first; i < first + PER_LINE; i++) {
      char cell[48] = "";
      if (i < first + n) {
        snprintf(cell, sizeof cell, "%zu/%zu", s->either[i], s->both[i]);
        n_kept += s->either[i] + s->both[i];
      }
      printf(" %8s", cell);
    }
    double share = (double)n_kept / (double)(2 * n * n_heads);
    printf("  %5.1f %%  ", 100 * share);
    print_bar(share, 20);
    putchar('\n');
  }
}

static void print_alpha(const mask_counts *s) {
  double n = (double)(s->n_layers * s->n_heads * s->head_dim);
  if (!s->has_alpha) return;
  printf("\nchannels by alpha\n");
  for (size_t i = 0; i < MASK_ALPHA_BINS; i++) {
    double share = (double)s->alpha[i] / n;
    printf("  %.1f - %.1f  %7zu  %5.1f %%  ", (double)i / MASK_ALPHA_BINS,
           (double)(i + 1) / MASK_ALPHA_BINS, s->alpha[i], 100 * share);
    print_bar(share, 40);
    putchar('\n');
  }
}

static void print_show(const leank_mask *mask, const mask_counts *s) {
  printf("sizes          %zu layers x %zu kv heads x %zu channels\n", s->n_layers, s->n_heads,
         s->head_dim);
  print_origin(mask, leank_mask_get_info(mask));
  printf("kept           K %.2f %%, V %.2f %%, K and V together %.2f %%\n", 100 * mask_counts_k(s),
         100 * mask_counts_v(s), 50 * (mask_counts_k(s) + mask_counts_v(s)));
  print_histogram(s);
  print_layers(s);
  print_heads(mask, s);
  print_pairs(s);
  print_alpha(s);
}

static json_t *json_origin(const leank_mask_info *info) {
  json_t *o = json_object();
  json_object_set_new(o, "architecture", cli_json_text(info->architecture));
  json_object_set_new(o, "rope_theta", json_real(info->rope_theta));
  json_object_set_new(o, "rope_scaling", json_string(leank_rope_scaling_name(info->rope_scaling)));
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

static json_t *json_sizes(const size_t *values, size_t n) {
  json_t *array = json_array();
  for (size_t i = 0; i < n; i++) json_array_append_new(array, cli_json_size(values[i]));
  return array;
}

static json_t *json_heads(const leank_mask *mask, const mask_counts *s) {
  json_t *heads = json_array();
  for (size_t l = 0; l < s->n_layers; l++) {
    json_t *row = json_array();
    for (size_t h = 0; h < s->n_heads; h++) {
      json_array_append_new(row, cli_json_size(leank_mask_n_kept(mask, l, h)));
    }
    json_array_append_new(heads, row);
  }
  return heads;
}

static json_t *json_histogram(const mask_counts *s) {
  json_t *histogram = json_object();
  for (size_t n = 0; n <= s->head_dim; n++) {
    char key[32];
    snprintf(key, sizeof key, "%zu", n);
    if (s->histogram[n]) json_object_set_new(histogram, key, cli_json_size(s->histogram[n]));
  }
  return histogram;
}

static json_t *json_show(const leank_mask *mask, const mask_counts *s) {
  json_t *o = json_object();
  json_object_set_new(o, "n_layers", cli_json_size(s->n_layers));
  json_object_set_new(o, "n_kv_heads", cli_json_size(s->n_heads));
  json_object_set_new(o, "head_dim", cli_json_size(s->head_dim));
  json_object_set_new(o, "k_kept", json_real(mask_counts_k(s)));
  json_object_set_new(o, "v_kept", json_real(mask_counts_v(s)));
  json_object_set_new(o, "kv_kept", json_real((mask_counts_k(s) + mask_counts_v(s)) / 2));
  json_object_set_new(o, "histogram", json_histogram(s));
  json_object_set_new(o, "kept_per_layer", json_sizes(s->layers, s->n_layers));
  json_object_set_new(o, "kept_per_head", json_heads(mask, s));
  json_object_set_new(o, "pair_either", json_sizes(s->either, s->head_dim / 2));
  json_object_set_new(o, "pair_both", json_sizes(s->both, s->head_dim / 2));
  json_object_set_new(o, "has_alpha", json_boolean(s->has_alpha));
  if (s->has_alpha)
    json_object_set_new(o, "alpha_histogram", json_sizes(s->alpha, MASK_ALPHA_BINS));
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
  mask_counts counts = mask_counts_make(mask);
  if (json)
    cli_json_print(json_show(mask, &counts), false);
  else
    print_show(mask, &counts);
  mask_counts_free(&counts);
  leank_mask_close(&mask);
  return CLI_OK;
}
