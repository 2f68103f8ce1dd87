#include "mask_plot.h"

#include <math.h>
#include <stdio.h>

#include "learn_plot.h"
#include "plot_panel.h"

/* The page, in user units. */
enum {
  PAGE_WIDTH = 1120,
  LEFT = 76,
  FULL_WIDTH = 1012,
  GAP = 92,          /* between two panels of a row */
  TITLE_HEIGHT = 84, /* of the page */
  ABOVE = 44,        /* a panel: its title */
  BELOW = 60,        /* its ticks and label */
  PAIRS_BELOW = 78,  /* with a second line of ticks */
  BARS = 190,
  LAYER_BARS = 130,
  CURVES = 220,
  MIN_HEADS = 60,
  MAX_HEADS = 260,
  HEAD_HEIGHT = 22,
  LAYER_WIDTH = 44,
  MIN_LAYERS = 560
};

static const char none_colour[] = "#f2e6d8";

/* ---- RoPE pairs ---- */

/* Masks in the layout of the paper do not say by which base their model turns. */
static bool has_wavelengths(const leank_mask *mask) {
  return leank_mask_get_info(mask)->rope_theta > 1;
}

/* Tokens until a pair has turned once, below every label of a pair. */
static void draw_wavelengths(const plot_panel *p, const leank_mask_info *info, size_t step) {
  size_t half = info->head_dim / 2;
  svg_font font = {10, PLOT_MUTED, SVG_MIDDLE, false, false};
  for (size_t i = 0; i < half; i += step) {
    char text[32];
    double tokens = 6.283185307179586 * pow(info->rope_theta, (double)i / (double)half);
    if (tokens < 1e4)
      snprintf(text, sizeof text, "%.*f", tokens < 100 ? 1 : 0, tokens);
    else if (tokens < 1e6)
      snprintf(text, sizeof text, "%.0fk", tokens / 1e3);
    else
      snprintf(text, sizeof text, "%.3gM", tokens / 1e6);
    svg_text(p->svg, (svg_point){plot_at(p, (double)i + 0.5, 0).x, p->top + p->height + 31}, font,
             text);
  }
}

static void draw_pair_bars(const plot_panel *p, const mask_counts *c) {
  static const plot_key keys[] = {{PLOT_BOX, PLOT_BLUE, "both channels"},
                                  {PLOT_BOX, PLOT_PALE, "one of the two"}};
  double n_heads = (double)(c->n_layers * c->n_heads);
  for (size_t i = 0; i < c->head_dim / 2; i++) {
    plot_bar(p, (double)i + 0.1, 0.8, 100 * (double)c->either[i] / n_heads, PLOT_PALE);
    plot_bar(p, (double)i + 0.1, 0.8, 100 * (double)c->both[i] / n_heads, PLOT_BLUE);
  }
  plot_legend(p, keys, 2);
}

static void draw_pairs(const mask_plot *plot, plot_panel p) {
  const leank_mask_info *info = leank_mask_get_info(plot->mask);
  size_t half = info->head_dim / 2;
  char label[160];
  p.x1 = (double)half;
  p.y1 = 100;
  plot_title(&p, "Kept channels per RoPE pair");
  plot_y_ticks(&p, " %");
  plot_y_label(&p, "share of kv heads that keep");
  draw_pair_bars(&p, plot->counts);
  plot_baseline(&p);
  size_t step = plot_cell_ticks(&p, half);
  bool with_wavelengths = has_wavelengths(plot->mask);
  if (with_wavelengths) draw_wavelengths(&p, info, step);
  snprintf(label, sizeof label, "RoPE pair i: channels i and i + %zu%s", half,
           with_wavelengths ? "; below it its wavelength in tokens" : "");
  double below = with_wavelengths ? 50 : 37;
  plot_x_label(&p, below, label);
  plot_note(&p, 0, below, SVG_START, "\u2190 high frequency");
  plot_note(&p, p.x1, below, SVG_END, "low frequency \u2192");
}

/* ---- alpha ---- */

static void draw_alpha(const mask_counts *c, plot_panel p) {
  double n = (double)(c->n_layers * c->n_heads * c->head_dim);
  double most = 0;
  for (size_t i = 0; i < MASK_ALPHA_BINS; i++) most = fmax(most, 100 * (double)c->alpha[i] / n);
  p.x1 = 1;
  p.y1 = fmin(10 * ceil(most / 10 + 1e-9), 100);
  plot_title(&p, "Channels by alpha");
  plot_y_ticks(&p, " %");
  plot_y_label(&p, "share of channels");
  for (size_t i = 0; i < MASK_ALPHA_BINS; i++) {
    plot_bar(&p, (double)i / MASK_ALPHA_BINS + 0.006, 0.088, 100 * (double)c->alpha[i] / n,
             PLOT_BLUE);
  }
  plot_baseline(&p);
  plot_x_ticks(&p);
  plot_x_label(&p, 37, "alpha, 0 = pruned, 1 = kept");
}

/* ---- layers and heads ---- */

/* In the line of the title: none, then a ramp from few to all channels. */
static void draw_scale(const plot_panel *p, size_t head_dim) {
  enum { WIDTH = 128, HEIGHT = 10, N_STEPS = 32 };
  char colour[16], most[32];
  double y = p->top - 27, x = p->left + p->width - WIDTH - 26;
  svg_font font = {11, PLOT_INK, SVG_START, false, false};
  snprintf(most, sizeof most, "%zu", head_dim);
  svg_crisp_begin(p->svg);
  for (int i = 0; i < N_STEPS; i++) {
    plot_heat_colour((i + 0.5) / N_STEPS, colour);
    svg_rect(p->svg, x + i * WIDTH / N_STEPS, y, WIDTH / N_STEPS, HEIGHT, colour);
  }
  svg_rect(p->svg, x - 114, y, 14, HEIGHT, none_colour);
  svg_crisp_end(p->svg);
  svg_text(p->svg, (svg_point){x - 94, y + 9}, font, "none");
  svg_text(p->svg, (svg_point){x - 12, y + 9}, font, "1");
  svg_text(p->svg, (svg_point){x + WIDTH + 5, y + 9}, font, most);
}

static void draw_heads(const mask_plot *plot, plot_panel p) {
  const mask_counts *c = plot->counts;
  double width = p.width / (double)c->n_layers, height = p.height / (double)c->n_heads;
  p.x1 = (double)c->n_layers;
  plot_title(&p, "Channels kept per layer and kv head");
  draw_scale(&p, c->head_dim);
  svg_crisp_begin(p.svg);
  for (size_t l = 0; l < c->n_layers; l++) {
    for (size_t h = 0; h < c->n_heads; h++) {
      char colour[16];
      size_t n = leank_mask_n_kept(plot->mask, l, h);
      plot_heat_colour((double)n / (double)c->head_dim, colour);
      svg_rect(p.svg, p.left + width * (double)l, p.top + height * (double)h, width, height,
               n ? colour : none_colour);
    }
  }
  svg_crisp_end(p.svg);
  plot_row_ticks(&p, c->n_heads);
  plot_y_label(&p, "kv head");
  plot_cell_ticks(&p, c->n_layers);
  plot_x_label(&p, 37, "layer");
}

static void draw_layers(const mask_counts *c, plot_panel p) {
  char mean[64];
  snprintf(mean, sizeof mean, "mean %.1f %%", 100 * mask_counts_k(c));
  const plot_key keys[] = {{PLOT_BOX, PLOT_BLUE, "K channels kept"},
                           {PLOT_DASHES, PLOT_ORANGE, mean}};
  p.x1 = (double)c->n_layers;
  p.y1 = 100;
  plot_title(&p, "Budget per layer");
  plot_legend(&p, keys, 2);
  plot_y_ticks(&p, " %");
  plot_y_label(&p, "share of K");
  for (size_t l = 0; l < c->n_layers; l++) {
    double share = (double)c->layers[l] / (double)(c->n_heads * c->head_dim);
    plot_bar(&p, (double)l + 0.1, 0.8, 100 * share, PLOT_BLUE);
  }
  double y = 100 * mask_counts_k(c);
  svg_line(p.svg, plot_at(&p, 0, y), plot_at(&p, p.x1, y), (svg_pen){PLOT_ORANGE, 1.5, "5 4"});
  plot_baseline(&p);
  plot_cell_ticks(&p, c->n_layers);
  plot_x_label(&p, 37, "layer");
}

/* ---- the page ---- */

static void draw_heading(const mask_plot *plot, cli_buffer *svg) {
  const leank_mask_info *info = leank_mask_get_info(plot->mask);
  const mask_counts *c = plot->counts;
  char text[512];
  int n = snprintf(text, sizeof text,
                   "%zu layers \u00d7 %zu kv heads \u00d7 %zu channels \u00b7 kept in the middle: "
                   "K %.1f %%, V %.1f %%, together %.1f %%",
                   c->n_layers, c->n_heads, c->head_dim, 100 * mask_counts_k(c),
                   100 * mask_counts_v(c), 50 * (mask_counts_k(c) + mask_counts_v(c)));
  if (info->method[0])
    snprintf(text + n, sizeof text - (size_t)n, " \u00b7 method: %s", info->method);
  svg_text(svg, (svg_point){LEFT - 44, 40}, (svg_font){20, PLOT_INK, SVG_START, true, false},
           plot->title);
  svg_text(svg, (svg_point){LEFT - 44, 63}, (svg_font){13, PLOT_MUTED, SVG_START, false, false},
           text);
}

/* A panel of the row that begins at y. */
static plot_panel panel_at(cli_buffer *svg, double y, double left, double width, double height) {
  return (plot_panel){
      .svg = svg, .left = left, .top = y + ABOVE, .width = width, .height = height, .y1 = 1};
}

static double clamp(double x, double least, double most) { return fmin(fmax(x, least), most); }

void mask_plot_draw(const mask_plot *plot, cli_buffer *svg) {
  const mask_counts *c = plot->counts;
  double heads = clamp((double)c->n_heads * HEAD_HEIGHT, MIN_HEADS, MAX_HEADS);
  double layers = clamp((double)c->n_layers * LAYER_WIDTH, MIN_LAYERS, FULL_WIDTH);
  double half = (FULL_WIDTH - GAP) / 2.0, alpha = 300;
  double pairs = c->has_alpha ? FULL_WIDTH - GAP - alpha : FULL_WIDTH;
  double pairs_below = has_wavelengths(plot->mask) ? PAIRS_BELOW : BELOW;
  double y = TITLE_HEIGHT;
  double height = y + 3 * ABOVE + 2 * BELOW + pairs_below + BARS + heads + LAYER_BARS;
  if (plot->log) height += ABOVE + BELOW + CURVES;
  svg_begin(svg, PAGE_WIDTH, height, plot->title);
  draw_heading(plot, svg);
  draw_pairs(plot, panel_at(svg, y, LEFT, pairs, BARS));
  if (c->has_alpha) draw_alpha(c, panel_at(svg, y, LEFT + pairs + GAP, alpha, BARS));
  y += ABOVE + BARS + pairs_below;
  draw_heads(plot, panel_at(svg, y, LEFT, layers, heads));
  y += ABOVE + heads + BELOW;
  draw_layers(c, panel_at(svg, y, LEFT, layers, LAYER_BARS));
  y += ABOVE + LAYER_BARS + BELOW;
  if (plot->log) {
    learn_plot_losses(panel_at(svg, y, LEFT, half, CURVES), plot->log);
    learn_plot_shares(panel_at(svg, y, LEFT + half + GAP, half, CURVES), plot->log);
  }
  svg_end(svg);
}
