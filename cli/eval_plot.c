/* Plots of `leank eval`: a row per variant, a group of rows per length. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eval_report.h"
#include "eval_variants.h"
#include "plot_panel.h"

enum {
  LABEL_WIDTH = 300,
  BARS_WIDTH = 560,
  ROW = 20,
  ABOVE = 64,
  GROUP = 34,
  BELOW = 40,
  RIGHT = 90
};

typedef struct bar_chart {
  const eval_report *report;
  cli_buffer *svg;
  const char *title, *unit;
  double x0, x1; /* values at the borders; of a log scale their decimal logarithms */
  bool log;
} bar_chart;

static double place_of(const bar_chart *c, double x) {
  const double at = c->log ? log10(fmax(x, 1e-12)) : x;
  const double share = (at - c->x0) / (c->x1 - c->x0);
  return LABEL_WIDTH + BARS_WIDTH * fmin(fmax(share, 0), 1);
}

static size_t n_groups(const eval_report *r) {
  size_t n = 0;
  for (size_t i = 0; i < r->summary->n_blocks; i++) n += r->summary->blocks[i].n_rows > 0;
  return n;
}

static double height_of(const eval_report *r) {
  return ABOVE + BELOW +
         (double)n_groups(r) * (GROUP + (double)ROW * (double)(r->summary->n_answers - 1));
}

static void draw_grid(const bar_chart *c, double bottom) {
  const svg_font small = {11, PLOT_MUTED, SVG_MIDDLE, false, false};
  const double span = c->x1 - c->x0, step = c->log ? 1 : plot_nice_above(span / 8);
  for (double x = ceil(c->x0 / step) * step; x <= c->x1 + 1e-9; x += step) {
    const double at = LABEL_WIDTH + BARS_WIDTH * (x - c->x0) / span;
    char text[32];
    if (c->log)
      snprintf(text, sizeof text, "1e%.0f", x);
    else
      snprintf(text, sizeof text, "%g", fabs(x) < 1e-9 ? 0 : x);
    svg_line(c->svg, (svg_point){at, ABOVE}, (svg_point){at, bottom},
             (svg_pen){PLOT_GRID, 1, NULL});
    svg_text(c->svg, (svg_point){at, bottom + 16}, small, text);
  }
  svg_text(c->svg, (svg_point){LABEL_WIDTH + BARS_WIDTH / 2.0, bottom + 33}, small, c->unit);
}

/* A bar from the base to the mean, and a line over one standard error to each side. */
static void draw_bar(const bar_chart *c, double y, double base, double mean, double se,
                     const char *label, const char *value) {
  const double from = place_of(c, base), to = place_of(c, mean);
  svg_rect(c->svg, fmin(from, to), y + 3, fmax(fabs(to - from), 0.5), ROW - 6,
           mean < base && !c->log ? PLOT_ORANGE : PLOT_BLUE);
  svg_line(c->svg, (svg_point){place_of(c, mean - se), y + ROW / 2.0},
           (svg_point){place_of(c, mean + se), y + ROW / 2.0}, (svg_pen){PLOT_INK, 1.5, NULL});
  svg_text(c->svg, (svg_point){LABEL_WIDTH - 10, y + 14},
           (svg_font){12, PLOT_INK, SVG_END, false, false}, label);
  svg_text(c->svg, (svg_point){LABEL_WIDTH + BARS_WIDTH + 8, y + 14},
           (svg_font){11, PLOT_MUTED, SVG_START, false, false}, value);
}

static eval_mean shown(const bar_chart *c, const eval_cell *cell) {
  const eval_mean m = c->log ? cell->kl : cell->change;
  const double scale = c->log ? 1 : 100;
  return (eval_mean){scale * m.mean, isnan(m.se) ? 0 : scale * m.se};
}

static void draw(const bar_chart *c) {
  const eval_report *r = c->report;
  const double height = height_of(r), base = c->log ? pow(10, c->x0) : 0;
  double y = ABOVE;
  svg_begin(c->svg, LABEL_WIDTH + BARS_WIDTH + RIGHT, height, c->title);
  svg_text(c->svg, (svg_point){20, 30}, (svg_font){17, PLOT_INK, SVG_START, true, false}, c->title);
  svg_text(c->svg, (svg_point){20, 49}, (svg_font){12, PLOT_MUTED, SVG_START, false, false},
           r->title);
  draw_grid(c, height - BELOW);
  for (size_t i = 0; i < r->summary->n_blocks; i++) {
    const eval_block *b = &r->summary->blocks[i];
    char text[64];
    if (b->n_rows == 0) continue;
    snprintf(text, sizeof text, "%zu tokens", b->length);
    svg_text(c->svg, (svg_point){LABEL_WIDTH - 10, y + 24},
             (svg_font){12, PLOT_MUTED, SVG_END, true, false}, text);
    y += GROUP;
    for (size_t a = 1; a < r->summary->n_answers; a++, y += ROW) {
      const eval_mean m = shown(c, &b->all[a]);
      snprintf(text, sizeof text, c->log ? "%.5f" : "%+.1f", m.mean);
      draw_bar(c, y, base, m.mean, m.se, r->names[a], text);
    }
  }
  svg_end(c->svg);
}

/* Lowest and highest of what is shown. */
static void range_of(bar_chart *c) {
  const eval_report *r = c->report;
  double low = c->log ? INFINITY : 0, high = c->log ? 0 : 1;
  for (size_t i = 0; i < r->summary->n_blocks; i++)
    for (size_t a = 1; r->summary->blocks[i].n_rows > 0 && a < r->summary->n_answers; a++) {
      const eval_mean m = shown(c, &r->summary->blocks[i].all[a]);
      if (!c->log || m.mean > 0) low = fmin(low, c->log ? m.mean : m.mean - m.se);
      high = fmax(high, m.mean + m.se);
    }
  if (c->log) {
    c->x1 = ceil(log10(fmax(high, 1e-6)));
    c->x0 = fmin(floor(log10(fmin(fmax(low, 1e-6), high > 0 ? high : 1e-6))) - 1, c->x1 - 1);
    return;
  }
  c->x0 = floor(low / 5) * 5 - 1;
  c->x1 = ceil(high) + 1;
}

void eval_plot_changes(const eval_report *report, cli_buffer *svg) {
  bar_chart c = {report,
                 svg,
                 "Change of the average score against the dense cache",
                 "points; lines: one standard error",
                 0,
                 0,
                 false};
  range_of(&c);
  draw(&c);
}

void eval_plot_kl(const eval_report *report, cli_buffer *svg) {
  bar_chart c = {report,
                 svg,
                 "KL(dense || pruned) of the next token, rows of answers",
                 "nats, logarithmic; lines: one standard error",
                 0,
                 0,
                 true};
  range_of(&c);
  draw(&c);
}

/* ---- KL against bytes ---- */

/* A variant's place: its bytes as a share of the dense ones, and its KL. */
static svg_point bytes_and_kl(const eval_block *b, size_t answer) {
  const eval_cell *c = &b->all[answer];
  const double dense = b->all[0].bytes;
  return (svg_point){dense > 0 ? 100 * c->bytes / dense : 0, c->kl.mean};
}

static int compare_points(const void *a, const void *b) {
  const double x = ((const svg_point *)a)->x, y = ((const svg_point *)b)->x;
  return (x > y) - (x < y);
}

/* Where names and points stand already; y: where a name's letters stand. */
typedef struct label_boxes {
  size_t n;
  struct {
    double x0, x1, y;
  } at[2 * EVAL_MAX_VARIANTS];
} label_boxes;

enum { LABEL_LINE = 11 }; /* height of a name */

static void take_box(label_boxes *boxes, double x0, double x1, double y) {
  boxes->at[boxes->n].x0 = x0;
  boxes->at[boxes->n].x1 = x1;
  boxes->at[boxes->n++].y = y;
}

static bool is_free(const label_boxes *boxes, double x0, double x1, double y) {
  for (size_t i = 0; i < boxes->n; i++)
    if (x0 < boxes->at[i].x1 && x1 > boxes->at[i].x0 && fabs(y - boxes->at[i].y) < LABEL_LINE)
      return false;
  return true;
}

/* A name beside its point, or as near to that, above or below, as other names leave room; a line
 * leads to it where it is far off. Names of masks stand above their line at first: it falls, as
 * more bytes are less KL. */
static void draw_point(const plot_panel *p, svg_point value, bool mask, const char *name,
                       label_boxes *boxes) {
  if (!(value.y > 0)) return;
  const svg_point at = plot_at(p, value.x, value.y);
  const double wish = at.y + (mask ? -6 : 4), x0 = at.x + (mask ? 5 : 9),
               x1 = x0 + 6.0 * (double)strlen(name);
  double y = wish;
  for (int i = 1; i < 2 * EVAL_MAX_VARIANTS && !is_free(boxes, x0, x1, y); i++)
    y = wish + (i % 2 ? -1 : 1) * (i + 1) / 2 * LABEL_LINE;
  take_box(boxes, x0, x1, y);
  svg_disc(p->svg, at, 4, mask ? PLOT_BLUE : PLOT_ORANGE);
  if (fabs(y - wish) > LABEL_LINE / 2.0)
    svg_line(p->svg, at, (svg_point){x0 - 1, y - 3}, (svg_pen){PLOT_MUTED, 0.7, NULL});
  svg_text(p->svg, (svg_point){x0, y}, (svg_font){10.5, PLOT_INK, SVG_START, false, false}, name);
}

static void fit_axes(const eval_report *r, const eval_block *b, plot_panel *p) {
  double low = INFINITY, high = 0, left = 100;
  for (size_t a = 1; a < r->summary->n_answers; a++) {
    const svg_point v = bytes_and_kl(b, a);
    if (v.y > 0) low = fmin(low, v.y);
    high = fmax(high, v.y);
    left = fmin(left, v.x);
  }
  p->x0 = fmax(0, floor(left / 10) * 10);
  p->x1 = 100;
  if (p->x0 > 90) p->x0 = 90;
  p->y0 = high > 0 ? pow(10, floor(log10(low))) : 1e-6;
  p->y1 = high > 0 ? pow(10, ceil(log10(high) + 1e-9)) : 1e-5;
  if (p->y1 <= p->y0) p->y1 = 10 * p->y0;
}

void eval_plot_bytes(const eval_report *report, cli_buffer *svg) {
  static const plot_key keys[] = {{PLOT_STROKE, PLOT_BLUE, "masks"},
                                  {PLOT_BOX, PLOT_ORANGE, "baselines"}};
  label_boxes boxes = {0};
  plot_panel p = {.svg = svg, .left = 90, .top = 96, .width = 680, .height = 380, .log_y = true};
  const eval_block *block = NULL;
  char title[160];
  for (size_t i = 0; i < report->summary->n_blocks; i++)
    if (report->summary->blocks[i].n_rows > 0) block = &report->summary->blocks[i];
  svg_begin(svg, 960, 540, "KL against bytes of the cache");
  if (block) {
    svg_point *line = cli_alloc(report->n_masks, sizeof *line);
    for (size_t i = 0; i < report->n_masks; i++) line[i] = bytes_and_kl(block, 1 + i);
    qsort(line, report->n_masks, sizeof *line, compare_points);
    fit_axes(report, block, &p);
    svg_text(svg, (svg_point){20, 32}, (svg_font){17, PLOT_INK, SVG_START, true, false},
             "KL(dense || pruned) against bytes of the cache");
    snprintf(title, sizeof title, "%.100s, %zu tokens", report->title, block->length);
    plot_title(&p, title);
    plot_legend(&p, keys, 2);
    plot_y_ticks(&p, "");
    plot_y_label(&p, "KL of answer rows, nats");
    plot_x_ticks(&p);
    plot_x_label(&p, 37, "K and V of the prompt, % of the dense cache");
    plot_baseline(&p);
    plot_curve(&p, line, report->n_masks, (svg_pen){PLOT_BLUE, 2, NULL});
    for (size_t a = 1; a < report->summary->n_answers; a++) {
      const svg_point value = bytes_and_kl(block, a), at = plot_at(&p, value.x, value.y);
      if (value.y > 0) take_box(&boxes, at.x - 5, at.x + 5, at.y + 4);
    }
    for (size_t a = 1; a < report->summary->n_answers; a++)
      draw_point(&p, bytes_and_kl(block, a), a <= report->n_masks, report->names[a], &boxes);
    free(line);
  }
  svg_end(svg);
}
