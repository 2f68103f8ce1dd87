/* A writer of SVG 1.1: shapes and text into a buffer. Lengths are user units, y grows downwards. */
#ifndef LEANK_CLI_SVG_H
#define LEANK_CLI_SVG_H

#include <stdbool.h>
#include <stddef.h>

#include "cli_console.h"

typedef struct svg_point {
  double x, y;
} svg_point;

typedef enum svg_anchor { SVG_START, SVG_MIDDLE, SVG_END } svg_anchor;

typedef struct svg_font {
  double size;
  const char *colour;
  svg_anchor anchor;
  bool bold;
  bool upwards; /* turned by 90 degrees, reads from below */
} svg_font;

typedef struct svg_pen {
  const char *colour;
  double width;
  const char *dashes; /* "4 3", or NULL */
} svg_pen;

/* Opens a document with a white ground; the title is what a reader of screens says. */
void svg_begin(cli_buffer *svg, double width, double height, const char *title);
void svg_end(cli_buffer *svg);
/* Shapes up to svg_crisp_end have sharp edges, so that cells that touch show no seam. */
void svg_crisp_begin(cli_buffer *svg);
void svg_crisp_end(cli_buffer *svg);

void svg_rect(cli_buffer *svg, double x, double y, double width, double height, const char *fill);
void svg_line(cli_buffer *svg, svg_point from, svg_point to, svg_pen pen);
void svg_polyline(cli_buffer *svg, const svg_point *points, size_t n, svg_pen pen);
void svg_disc(cli_buffer *svg, svg_point centre, double radius, const char *fill);
/* Text may be any bytes: what XML cannot hold becomes U+FFFD or '?'. */
void svg_text(cli_buffer *svg, svg_point at, svg_font font, const char *text);

#endif
