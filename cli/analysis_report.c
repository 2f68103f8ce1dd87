/* Text, JSON and pictures of an analysis. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "analysis.h"
#include "cli_file.h"
#include "cli_report.h"
#include "mask_plot.h"
#include "plot_panel.h"
#include "text_table.h"

/* Tokens in which RoPE turns pair i once. */
static double wavelength_of(const analysis *a, size_t pair) {
  const leank_model_info *info = a->engine->info;
  return 6.283185307179586 * pow(info->rope_theta, 2 * (double)pair / (double)info->head_dim);
}

static void put_mask(const analysis *a, const mask_analysis *m, double auc, cli_buffer *out) {
  const mask_counts *c = &m->counts;
  const size_t n_heads = c->n_layers * c->n_heads;
  cli_buffer_put(out, "%s\n  kept: %.1f %% of K, %.1f %% of V\n", m->name, 100 * mask_counts_k(c),
                 100 * mask_counts_v(c));
  cli_buffer_put(
      out, "  by RoPE frequency, highest quarter first: %.1f %%, %.1f %%, %.1f %%, %.1f %%\n",
      100 * m->quarters[0], 100 * m->quarters[1], 100 * m->quarters[2], 100 * m->quarters[3]);
  for (size_t i = 0; i < m->n_exceptions && i < 8; i++) {
    const pair_exception *e = &m->exceptions[i];
    cli_buffer_put(
        out,
        "  exception: pair %zu (turns once in %.0f tokens): kept by %.1f %% of heads, its "
        "neighbours by %.1f %%\n",
        e->pair, wavelength_of(a, e->pair), 100 * e->share, 100 * e->neighbours);
  }
  cli_buffer_put(out, "  streaming heads (nothing kept): %zu of %zu", c->n_empty, n_heads);
  if (a->head_energy && !isnan(auc))
    cli_buffer_put(out, "; a head that keeps something has more energy in %.0f %% of pairs",
                   100 * auc);
  cli_buffer_put(out, "\n");
}

static void put_correlation(const analysis *a, cli_buffer *out) {
  text_table t;
  if (a->n < 2) return;
  cli_buffer_put(
      out,
      "\nrank correlation of the importance of channels (alphas of masks; energy of tasks)\n\n");
  text_table_begin(&t, 1 + a->n);
  text_table_cell(&t, "%s", "");
  for (size_t i = 0; i < a->n; i++) text_table_cell(&t, "%zu", i + 1);
  for (size_t i = 0; i < a->n; i++) {
    text_table_cell(&t, "%zu %s", i + 1, a->list[i].name);
    for (size_t j = 0; j < a->n; j++) text_table_cell(&t, "%.2f", a->correlation[i * a->n + j]);
  }
  text_table_text(&t, out);
  text_table_free(&t);
}

static void put_removal(const analysis *a, cli_buffer *out) {
  text_table t;
  if (a->n_curves == 0) return;
  cli_buffer_put(out, "\nKL where channels are removed by rank, nats\n\n");
  text_table_begin(&t, 1 + a->n_ratios);
  text_table_cell(&t, "removed");
  for (size_t i = 0; i < a->n_ratios; i++) text_table_cell(&t, "%.0f %%", 100 * a->ratios[i]);
  for (size_t c = 0; c < a->n_curves; c++) {
    text_table_cell(&t, "by %s", a->curves[c].name);
    for (size_t i = 0; i < a->n_ratios; i++) text_table_cell(&t, "%.5f", a->curves[c].kl[i]);
  }
  text_table_text(&t, out);
  text_table_free(&t);
}

void analysis_text(const analysis *a, cli_buffer *out) {
  for (size_t i = 0; i < a->n_masks; i++) put_mask(a, &a->masks[i], a->streaming_auc[i], out);
  put_correlation(a, out);
  put_removal(a, out);
}

/* ---- JSON ---- */

static json_t *mask_json(const analysis *a, const mask_analysis *m, double auc) {
  const mask_counts *c = &m->counts;
  json_t *j = json_object(), *quarters = json_array(), *exceptions = json_array(),
         *pairs = json_array();
  for (size_t i = 0; i < ANALYSIS_QUARTERS; i++)
    json_array_append_new(quarters, json_real(m->quarters[i]));
  for (size_t i = 0; i < c->head_dim / 2; i++)
    json_array_append_new(pairs, json_real((double)(c->either[i] + c->both[i]) /
                                           (double)(2 * c->n_layers * c->n_heads)));
  for (size_t i = 0; i < m->n_exceptions; i++) {
    json_t *e = json_object();
    json_object_set_new(e, "pair", cli_json_size(m->exceptions[i].pair));
    json_object_set_new(e, "wavelength", json_real(wavelength_of(a, m->exceptions[i].pair)));
    json_object_set_new(e, "share", json_real(m->exceptions[i].share));
    json_object_set_new(e, "neighbours", json_real(m->exceptions[i].neighbours));
    json_array_append_new(exceptions, e);
  }
  json_object_set_new(j, "mask", cli_json_text(m->name));
  json_object_set_new(j, "k_kept", json_real(mask_counts_k(c)));
  json_object_set_new(j, "v_kept", json_real(mask_counts_v(c)));
  json_object_set_new(j, "quarters", quarters);
  json_object_set_new(j, "pairs", pairs);
  json_object_set_new(j, "exceptions", exceptions);
  json_object_set_new(j, "streaming_heads", cli_json_size(c->n_empty));
  if (a->head_energy && !isnan(auc)) json_object_set_new(j, "energy_auc", json_real(auc));
  return j;
}

json_t *analysis_json(const analysis *a) {
  json_t *j = json_object(), *masks = json_array(), *names = json_array(),
         *correlation = json_array(), *curves = json_array(), *ratios = json_array();
  for (size_t i = 0; i < a->n_masks; i++)
    json_array_append_new(masks, mask_json(a, &a->masks[i], a->streaming_auc[i]));
  for (size_t i = 0; i < a->n; i++) {
    json_t *row = json_array();
    for (size_t k = 0; k < a->n; k++)
      json_array_append_new(row, json_real(a->correlation[i * a->n + k]));
    json_array_append_new(correlation, row);
    json_array_append_new(names, cli_json_text(a->list[i].name));
  }
  for (size_t i = 0; i < a->n_ratios; i++) json_array_append_new(ratios, json_real(a->ratios[i]));
  for (size_t c = 0; c < a->n_curves; c++) {
    json_t *curve = json_object(), *kl = json_array();
    for (size_t i = 0; i < a->n_ratios; i++)
      json_array_append_new(kl, json_real(a->curves[c].kl[i]));
    json_object_set_new(curve, "by", json_string(a->curves[c].name));
    json_object_set_new(curve, "kl", kl);
    json_array_append_new(curves, curve);
  }
  json_object_set_new(j, "model", cli_json_text(a->title));
  json_object_set_new(j, "masks", masks);
  json_object_set_new(j, "importances", names);
  json_object_set_new(j, "correlation", correlation);
  json_object_set_new(j, "ratios", ratios);
  json_object_set_new(j, "removal", curves);
  return j;
}

/* ---- pictures ---- */

static void draw_correlation(const analysis *a, cli_buffer *svg) {
  enum { CELL = 34, LEFT = 330, TOP = 80, RIGHT = 40, BOTTOM = 44 };
  const double side = (double)(a->n * CELL);
  svg_begin(svg, LEFT + side + RIGHT, TOP + side + BOTTOM, "Rank correlation of importances");
  svg_text(svg, (svg_point){20, 30}, (svg_font){17, PLOT_INK, SVG_START, true, false},
           "Rank correlation of the importance of K channels");
  svg_text(svg, (svg_point){20, 50}, (svg_font){12, PLOT_MUTED, SVG_START, false, false}, a->title);
  for (size_t i = 0; i < a->n; i++) {
    char text[16];
    const double y = TOP + (double)(i * CELL);
    svg_text(svg, (svg_point){LEFT - 8, y + 21}, (svg_font){12, PLOT_INK, SVG_END, false, false},
             a->list[i].name);
    for (size_t j = 0; j < a->n; j++) {
      const double r = a->correlation[i * a->n + j], x = LEFT + (double)(j * CELL);
      char colour[16];
      plot_heat_colour(fmin(fmax(r, 0), 1), colour);
      svg_rect(svg, x, y, CELL, CELL, colour);
      snprintf(text, sizeof text, "%.2f", r);
      svg_text(svg, (svg_point){x + CELL / 2.0, y + 21},
               (svg_font){10, r > 0.6 ? "#ffffff" : PLOT_INK, SVG_MIDDLE, false, false}, text);
    }
  }
  svg_text(svg, (svg_point){LEFT, TOP + side + 24},
           (svg_font){11, PLOT_MUTED, SVG_START, false, false}, "columns in the order of the rows");
  svg_end(svg);
}

static void draw_removal(const analysis *a, cli_buffer *svg) {
  static const char *const colours[] = {PLOT_BLUE, PLOT_ORANGE, PLOT_GREEN};
  plot_panel p = {.svg = svg,
                  .left = 80,
                  .top = 90,
                  .width = 640,
                  .height = 320,
                  .x0 = 0,
                  .x1 = 100,
                  .y0 = 1e-5,
                  .y1 = 1,
                  .log_y = true};
  plot_key keys[3];
  double low = INFINITY, high = 0;
  for (size_t c = 0; c < a->n_curves; c++)
    for (size_t i = 0; i < a->n_ratios; i++) {
      if (a->curves[c].kl[i] > 0) low = fmin(low, a->curves[c].kl[i]);
      high = fmax(high, a->curves[c].kl[i]);
    }
  if (high > 0) p.y0 = pow(10, floor(log10(low))), p.y1 = pow(10, ceil(log10(high) + 1e-9));
  if (p.y1 <= p.y0) p.y1 = 10 * p.y0;
  svg_begin(svg, 760, 470, "KL where channels are removed by rank");
  svg_text(svg, (svg_point){20, 30}, (svg_font){17, PLOT_INK, SVG_START, true, false},
           "Removing K channels by what ranks them");
  plot_title(&p, a->title);
  plot_y_ticks(&p, "");
  plot_y_label(&p, "KL(dense || pruned), nats");
  plot_x_ticks(&p);
  plot_x_label(&p, 37, "removed, % of K channels");
  plot_baseline(&p);
  for (size_t c = 0; c < a->n_curves; c++) {
    svg_point points[ANALYSIS_MAX_RATIOS];
    for (size_t i = 0; i < a->n_ratios; i++)
      points[i] = (svg_point){100 * a->ratios[i], a->curves[c].kl[i]};
    plot_curve(&p, points, a->n_ratios, (svg_pen){colours[c], 2, NULL});
    for (size_t i = 0; i < a->n_ratios; i++)
      if (points[i].y > 0) svg_disc(svg, plot_at(&p, points[i].x, points[i].y), 3, colours[c]);
    keys[c] = (plot_key){PLOT_STROKE, colours[c], a->curves[c].name};
  }
  plot_legend(&p, keys, a->n_curves);
  svg_end(svg);
}

static int write_mask(const mask_analysis *m, const char *folder) {
  const mask_plot plot = {m->mask, &m->counts, NULL, m->name};
  const size_t room = strlen(m->name) + 8;
  char *name = cli_alloc(room, 1);
  cli_buffer svg = {0};
  snprintf(name, room, "%s.svg", m->name);
  mask_plot_draw(&plot, &svg);
  int code = cli_write_in_folder(folder, name, svg.data, svg.n);
  cli_buffer_free(&svg);
  free(name);
  return code;
}

static int write_plot(const analysis *a, const char *folder, const char *name,
                      void (*draw)(const analysis *, cli_buffer *)) {
  cli_buffer svg = {0};
  draw(a, &svg);
  int code = cli_write_in_folder(folder, name, svg.data, svg.n);
  cli_buffer_free(&svg);
  return code;
}

int analysis_write(const analysis *a, const char *folder) {
  int code = cli_make_folder(folder);
  for (size_t i = 0; code == CLI_GO && i < a->n_masks; i++) code = write_mask(&a->masks[i], folder);
  if (code == CLI_GO && a->n > 1) code = write_plot(a, folder, "correlation.svg", draw_correlation);
  if (code == CLI_GO && a->n_curves > 0) code = write_plot(a, folder, "removal.svg", draw_removal);
  return code;
}
