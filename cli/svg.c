#include "svg.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <leank/text.h>

/* Hundredths are finer than a screen; zeros behind the point only cost bytes. */
static void put_number(cli_buffer *svg, double x) {
  char text[64];
  if (!isfinite(x)) x = 0;
  int n = snprintf(text, sizeof text, "%.2f", fmin(fmax(x, -1e6), 1e6));
  while (text[n - 1] == '0') n--;
  if (text[n - 1] == '.') n--;
  cli_buffer_append(svg, text, (size_t)n);
}

static void put_attribute(cli_buffer *svg, const char *name, double x) {
  cli_buffer_put(svg, " %s=\"", name);
  put_number(svg, x);
  cli_buffer_put(svg, "\"");
}

static void put_escaped(cli_buffer *svg, const char *text, size_t n) {
  for (size_t i = 0; i < n; i++) {
    unsigned char c = (unsigned char)text[i];
    if (c == '&')
      cli_buffer_put(svg, "&amp;");
    else if (c == '<')
      cli_buffer_put(svg, "&lt;");
    else if (c == '>')
      cli_buffer_put(svg, "&gt;");
    else if (c < 0x20 || c == 0x7f)
      cli_buffer_put(svg, "?");
    else if (c == 0xef && n - i >= 3 && (unsigned char)text[i + 1] == 0xbf &&
             (unsigned char)text[i + 2] >= 0xbe) {
      cli_buffer_put(svg, "\xef\xbf\xbd"); /* U+FFFE and U+FFFF are UTF-8 but no XML */
      i += 2;
    } else
      cli_buffer_append(svg, text + i, 1);
  }
}

static void put_text(cli_buffer *svg, const char *text) {
  leank_utf8_stream stream = {{0}, 0};
  size_t n = strlen(text);
  char *clean = cli_alloc(3 * (n + 4) + 12, 1);
  size_t n_clean = leank_utf8_stream_feed(&stream, text, n, false, clean);
  n_clean += leank_utf8_stream_feed(&stream, "", 0, true, clean + n_clean);
  put_escaped(svg, clean, n_clean);
  free(clean);
}

static void put_pen(cli_buffer *svg, svg_pen pen) {
  cli_buffer_put(svg, " stroke=\"%s\"", pen.colour);
  put_attribute(svg, "stroke-width", pen.width);
  if (pen.dashes) cli_buffer_put(svg, " stroke-dasharray=\"%s\"", pen.dashes);
  cli_buffer_put(svg, "/>\n");
}

void svg_begin(cli_buffer *svg, double width, double height, const char *title) {
  cli_buffer_put(svg, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
                      "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\"");
  put_attribute(svg, "width", width);
  put_attribute(svg, "height", height);
  cli_buffer_put(svg, " viewBox=\"0 0 ");
  put_number(svg, width);
  cli_buffer_put(svg, " ");
  put_number(svg, height);
  cli_buffer_put(svg, "\" font-family=\"Helvetica, Arial, 'DejaVu Sans', sans-serif\">\n<title>");
  put_text(svg, title);
  cli_buffer_put(svg, "</title>\n");
  svg_rect(svg, 0, 0, width, height, "#ffffff");
}

void svg_end(cli_buffer *svg) { cli_buffer_put(svg, "</svg>\n"); }

void svg_crisp_begin(cli_buffer *svg) {
  cli_buffer_put(svg, "<g shape-rendering=\"crispEdges\">\n");
}

void svg_crisp_end(cli_buffer *svg) { cli_buffer_put(svg, "</g>\n"); }

void svg_rect(cli_buffer *svg, double x, double y, double width, double height, const char *fill) {
  cli_buffer_put(svg, "<rect");
  put_attribute(svg, "x", x);
  put_attribute(svg, "y", y);
  put_attribute(svg, "width", fmax(width, 0));
  put_attribute(svg, "height", fmax(height, 0));
  cli_buffer_put(svg, " fill=\"%s\"/>\n", fill);
}

void svg_line(cli_buffer *svg, svg_point from, svg_point to, svg_pen pen) {
  cli_buffer_put(svg, "<line");
  put_attribute(svg, "x1", from.x);
  put_attribute(svg, "y1", from.y);
  put_attribute(svg, "x2", to.x);
  put_attribute(svg, "y2", to.y);
  put_pen(svg, pen);
}

void svg_polyline(cli_buffer *svg, const svg_point *points, size_t n, svg_pen pen) {
  cli_buffer_put(svg, "<polyline fill=\"none\" stroke-linejoin=\"round\" points=\"");
  for (size_t i = 0; i < n; i++) {
    if (i) cli_buffer_put(svg, " ");
    put_number(svg, points[i].x);
    cli_buffer_put(svg, ",");
    put_number(svg, points[i].y);
  }
  cli_buffer_put(svg, "\"");
  put_pen(svg, pen);
}

void svg_disc(cli_buffer *svg, svg_point centre, double radius, const char *fill) {
  cli_buffer_put(svg, "<circle");
  put_attribute(svg, "cx", centre.x);
  put_attribute(svg, "cy", centre.y);
  put_attribute(svg, "r", radius);
  cli_buffer_put(svg, " fill=\"%s\"/>\n", fill);
}

void svg_text(cli_buffer *svg, svg_point at, svg_font font, const char *text) {
  static const char *const anchors[] = {"start", "middle", "end"};
  cli_buffer_put(svg, "<text");
  put_attribute(svg, "x", at.x);
  put_attribute(svg, "y", at.y);
  put_attribute(svg, "font-size", font.size);
  cli_buffer_put(svg, " fill=\"%s\"", font.colour);
  if (font.anchor != SVG_START) cli_buffer_put(svg, " text-anchor=\"%s\"", anchors[font.anchor]);
  if (font.bold) cli_buffer_put(svg, " font-weight=\"bold\"");
  if (font.upwards) {
    cli_buffer_put(svg, " transform=\"rotate(-90 ");
    put_number(svg, at.x);
    cli_buffer_put(svg, " ");
    put_number(svg, at.y);
    cli_buffer_put(svg, ")\"");
  }
  cli_buffer_put(svg, ">");
  put_text(svg, text);
  cli_buffer_put(svg, "</text>\n");
}
