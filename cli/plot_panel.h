/* One panel of a plot: where values lie, axes, ticks, title and legend. */
#ifndef LEANK_CLI_PLOT_PANEL_H
#define LEANK_CLI_PLOT_PANEL_H

#include "svg.h"

#define PLOT_INK "#2b2f36"
#define PLOT_MUTED "#667080"
#define PLOT_GRID "#e4e7ec"
#define PLOT_BLUE "#3d6fa3"
#define PLOT_PALE "#a8c3dd"
#define PLOT_ORANGE "#cf7a3c"
#define PLOT_GREEN "#4b9169"

/* The area inside the axes, and the values at its borders. */
typedef struct plot_panel {
  cli_buffer *svg;
  double left, top, width, height;
  double x0, x1, y0, y1;
  bool log_y; /* y0 and y1 are above 0 */
} plot_panel;

typedef enum plot_mark { PLOT_BOX, PLOT_STROKE, PLOT_DASHES, PLOT_DOTS } plot_mark;

typedef struct plot_key {
  plot_mark mark;
  const char *colour;
  const char *text; /* UTF-8 */
} plot_key;

svg_point plot_at(const plot_panel *panel, double x, double y);
/* A bar from y0 up to y over x .. x + width. */
void plot_bar(const plot_panel *panel, double x, double width, double y, const char *colour);
/* A line through values; on a log scale values not above 0 leave a gap. */
void plot_curve(const plot_panel *panel, const svg_point *values, size_t n, svg_pen pen);

void plot_title(const plot_panel *panel, const char *title);
/* In the line of the title, up to the right border. */
void plot_legend(const plot_panel *panel, const plot_key *keys, size_t n);
/* Grid lines and numbers: round steps, or decades. */
void plot_y_ticks(const plot_panel *panel, const char *unit);
void plot_x_ticks(const plot_panel *panel);
/* Indices under cells: x0 = 0, x1 = n. Returns the step from one label to the next. */
size_t plot_cell_ticks(const plot_panel *panel, size_t n);
/* n cells from the top downwards. */
void plot_row_ticks(const plot_panel *panel, size_t n);
void plot_baseline(const plot_panel *panel);
/* below: distance from the bottom of the area. */
void plot_x_label(const plot_panel *panel, double below, const char *label);
void plot_y_label(const plot_panel *panel, const char *label);
/* Small text with its baseline so far below the area. */
void plot_note(const plot_panel *panel, double x, double below, svg_anchor anchor,
               const char *text);

/* The least of 1, 2, 5 times a power of ten that is not below x > 0. */
double plot_nice_above(double x);

/* Of a share 0 .. 1: from light to dark blue. */
void plot_heat_colour(double share, char colour[16]);

#endif
