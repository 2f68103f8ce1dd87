#include "plot_panel.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { TITLE_SIZE = 14, LABEL_SIZE = 12, TICK_SIZE = 11, MIN_TICK_DISTANCE = 58 };

static const svg_pen grid_pen = {PLOT_GRID, 1, NULL};
static const svg_pen axis_pen = {"#98a1ae", 1, NULL};

/* ---- values ---- */

svg_point plot_at(const plot_panel *p, double x, double y) {
  double share = (y - p->y0) / (p->y1 - p->y0);
  if (p->log_y) share = (log10(y) - log10(p->y0)) / (log10(p->y1) - log10(p->y0));
  return (svg_point){p->left + p->width * (x - p->x0) / (p->x1 - p->x0),
                     p->top + p->height * (1 - share)};
}

void plot_bar(const plot_panel *p, double x, double width, double y, const char *colour) {
  svg_point corner = plot_at(p, x, y), end = plot_at(p, x + width, p->y0);
  if (y > p->y0) svg_rect(p->svg, corner.x, corner.y, end.x - corner.x, end.y - corner.y, colour);
}

void plot_curve(const plot_panel *p, const svg_point *values, size_t n, svg_pen pen) {
  svg_point *points = cli_alloc(n, sizeof *points);
  size_t n_points = 0;
  for (size_t i = 0; i <= n; i++) {
    bool gap = i == n || !isfinite(values[i].y) || (p->log_y && values[i].y <= 0);
    if (!gap) {
      points[n_points++] = plot_at(p, values[i].x, values[i].y);
      continue;
    }
    if (n_points > 1) svg_polyline(p->svg, points, n_points, pen);
    n_points = 0;
  }
  free(points);
}

double plot_nice_above(double x) {
  double power = pow(10, floor(log10(x)));
  static const double steps[] = {1, 2, 5, 10};
  for (size_t i = 0; i < 4; i++) {
    if (steps[i] * power >= x * (1 - 1e-9)) return steps[i] * power;
  }
  return 10 * power;
}

/* ---- words ---- */

void plot_title(const plot_panel *p, const char *title) {
  svg_text(p->svg, (svg_point){p->left - 44, p->top - 18},
           (svg_font){TITLE_SIZE, PLOT_INK, SVG_START, true, false}, title);
}

/* Widths of letters are not known here: a fair guess for a sans-serif face. */
static double text_width(const char *text, double size) {
  size_t n = 0;
  for (; *text; text++) n += ((unsigned char)*text & 0xc0) != 0x80;
  return 0.58 * size * (double)n;
}

void plot_legend(const plot_panel *p, const plot_key *keys, size_t n) {
  enum { MARK = 14, BEHIND_MARK = 6, BETWEEN = 18 };
  double x = p->left + p->width, y = p->top - 18;
  for (size_t i = n; i-- > 0;) {
    x -= text_width(keys[i].text, TICK_SIZE);
    svg_text(p->svg, (svg_point){x, y}, (svg_font){TICK_SIZE, PLOT_INK, SVG_START, false, false},
             keys[i].text);
    x -= MARK + BEHIND_MARK;
    svg_point middle = {x + MARK / 2.0, y - 4};
    if (keys[i].mark == PLOT_BOX)
      svg_rect(p->svg, x, y - 9, MARK, 10, keys[i].colour);
    else
      svg_line(p->svg, (svg_point){x, y - 4}, (svg_point){x + MARK, y - 4},
               (svg_pen){keys[i].colour, 1.8, keys[i].mark == PLOT_DASHES ? "5 4" : NULL});
    if (keys[i].mark == PLOT_DOTS) svg_disc(p->svg, middle, 3, keys[i].colour);
    x -= BETWEEN;
  }
}

void plot_x_label(const plot_panel *p, double below, const char *label) {
  svg_text(p->svg, (svg_point){p->left + p->width / 2, p->top + p->height + below},
           (svg_font){LABEL_SIZE, PLOT_INK, SVG_MIDDLE, false, false}, label);
}

void plot_y_label(const plot_panel *p, const char *label) {
  svg_text(p->svg, (svg_point){p->left - 48, p->top + p->height / 2},
           (svg_font){LABEL_SIZE, PLOT_INK, SVG_MIDDLE, false, true}, label);
}

void plot_note(const plot_panel *p, double x, double below, svg_anchor anchor, const char *text) {
  svg_text(p->svg, (svg_point){plot_at(p, x, p->y0).x, p->top + p->height + below},
           (svg_font){TICK_SIZE, PLOT_MUTED, anchor, false, false}, text);
}

/* ---- ticks ---- */

static void y_tick(const plot_panel *p, double y, const char *text) {
  svg_point at = plot_at(p, p->x0, y);
  svg_line(p->svg, at, (svg_point){at.x + p->width, at.y}, grid_pen);
  svg_text(p->svg, (svg_point){at.x - 7, at.y + 4},
           (svg_font){TICK_SIZE, PLOT_MUTED, SVG_END, false, false}, text);
}

/* "10" with a raised exponent. */
static void power_text(int exponent, char text[48]) {
  static const char *const raised[] = {"\u2070", "\u00b9", "\u00b2", "\u00b3", "\u2074",
                                       "\u2075", "\u2076", "\u2077", "\u2078", "\u2079"};
  char digits[16];
  snprintf(digits, sizeof digits, "%d", abs(exponent));
  int n = snprintf(text, 48, "10%s", exponent < 0 ? "\u207b" : "");
  for (const char *digit = digits; *digit; digit++)
    n += snprintf(text + n, (size_t)(48 - n), "%s", raised[*digit - '0']);
}

static void decade_ticks(const plot_panel *p) {
  int first = (int)ceil(log10(p->y0) - 1e-9), last = (int)floor(log10(p->y1) + 1e-9);
  int step = 1 + (last - first) / 7;
  for (int e = first; e <= last; e += step) {
    char text[48];
    power_text(e, text);
    y_tick(p, pow(10, e), text);
  }
}

void plot_y_ticks(const plot_panel *p, const char *unit) {
  if (p->log_y) {
    decade_ticks(p);
    return;
  }
  double step = plot_nice_above((p->y1 - p->y0) / 6);
  /* Quarters read better than fifths where the whole is 100. */
  if (step == 20 && p->y1 == 100) step = 25;
  for (int i = 0; p->y0 + i * step <= p->y1 * (1 + 1e-9); i++) {
    char text[64];
    snprintf(text, sizeof text, "%g%s", p->y0 + i * step, unit);
    y_tick(p, p->y0 + i * step, text);
  }
}

static void x_tick(const plot_panel *p, double x, const char *text) {
  svg_point at = plot_at(p, x, p->y0);
  at.y = p->top + p->height;
  svg_line(p->svg, at, (svg_point){at.x, at.y + 4}, axis_pen);
  svg_text(p->svg, (svg_point){at.x, at.y + 17},
           (svg_font){TICK_SIZE, PLOT_MUTED, SVG_MIDDLE, false, false}, text);
}

void plot_x_ticks(const plot_panel *p) {
  double step = plot_nice_above((p->x1 - p->x0) * MIN_TICK_DISTANCE / p->width);
  for (int i = 0; p->x0 + i * step <= p->x1 + 1e-9 * step; i++) {
    char text[64];
    snprintf(text, sizeof text, "%.12g", p->x0 + i * step);
    x_tick(p, p->x0 + i * step, text);
  }
}

size_t plot_cell_ticks(const plot_panel *p, size_t n) {
  enum { MAX_LABELS = 17 };
  size_t step = 1;
  while ((n - 1) / step >= MAX_LABELS) step *= 2;
  for (size_t i = 0; i < n; i += step) {
    char text[32];
    snprintf(text, sizeof text, "%zu", i);
    x_tick(p, (double)i + 0.5, text);
  }
  return step;
}

void plot_row_ticks(const plot_panel *p, size_t n) {
  double height = p->height / (double)n;
  size_t step = 1;
  while (height * (double)step < 13) step *= 2;
  for (size_t i = 0; i < n; i += step) {
    char text[32];
    snprintf(text, sizeof text, "%zu", i);
    svg_text(p->svg, (svg_point){p->left - 7, p->top + height * ((double)i + 0.5) + 4},
             (svg_font){TICK_SIZE, PLOT_MUTED, SVG_END, false, false}, text);
  }
}

void plot_baseline(const plot_panel *p) {
  double bottom = p->top + p->height;
  svg_line(p->svg, (svg_point){p->left, bottom}, (svg_point){p->left + p->width, bottom}, axis_pen);
}

void plot_heat_colour(double share, char colour[16]) {
  static const double stops[][3] = {{222, 235, 247}, {142, 188, 221}, {62, 122, 178}, {12, 50, 97}};
  enum { N_INTERVALS = sizeof stops / sizeof *stops - 1 };
  double at = share * N_INTERVALS;
  int i = at >= N_INTERVALS ? N_INTERVALS - 1 : (int)at;
  int rgb[3];
  for (int k = 0; k < 3; k++)
    rgb[k] = (int)(stops[i][k] + (at - i) * (stops[i + 1][k] - stops[i][k]) + 0.5);
  snprintf(colour, 16, "#%02x%02x%02x", rgb[0] & 0xff, rgb[1] & 0xff, rgb[2] & 0xff);
}
