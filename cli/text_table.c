#include "text_table.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void text_table_begin(text_table *table, size_t n_columns) {
  *table = (text_table){.n_columns = n_columns};
}

void text_table_cell(text_table *table, const char *fmt, ...) {
  char text[256];
  va_list args;
  va_start(args, fmt);
  vsnprintf(text, sizeof text, fmt, args);
  va_end(args);
  if (table->at == table->capacity) {
    table->capacity = 2 * table->capacity + 64;
    table->cells = cli_realloc(table->cells, table->capacity, sizeof *table->cells);
  }
  for (char *c = text; *c; c++)
    if ((unsigned char)*c < 0x20 || *c == 0x7f) *c = '?';
  table->cells[table->at++] = cli_strdup(text);
  table->n_rows = table->at / table->n_columns;
}

void text_table_free(text_table *table) {
  for (size_t i = 0; i < table->at; i++) free(table->cells[i]);
  free(table->cells);
  *table = (text_table){0};
}

static const char *cell_at(const text_table *table, size_t row, size_t column) {
  return table->cells[row * table->n_columns + column];
}

/* Characters, not bytes, of UTF-8. */
static size_t width_of(const char *text) {
  size_t n = 0;
  for (; *text; text++) n += ((unsigned char)*text & 0xc0) != 0x80;
  return n;
}

static void put(cli_buffer *out, const char *text) { cli_buffer_append(out, text, strlen(text)); }

static void put_padded(cli_buffer *out, const char *text, size_t width, bool left) {
  if (left) put(out, text);
  for (size_t n = width_of(text); n < width; n++) put(out, " ");
  if (!left) put(out, text);
}

void text_table_text(const text_table *table, cli_buffer *out) {
  size_t *widths = cli_alloc(table->n_columns, sizeof *widths);
  for (size_t r = 0; r < table->n_rows; r++)
    for (size_t c = 0; c < table->n_columns; c++) {
      const size_t width = width_of(cell_at(table, r, c));
      if (width > widths[c]) widths[c] = width;
    }
  for (size_t r = 0; r < table->n_rows; r++)
    for (size_t c = 0; c < table->n_columns; c++) {
      if (c > 0) put(out, "  ");
      put_padded(out, cell_at(table, r, c), widths[c], c == 0);
      if (c + 1 == table->n_columns) put(out, "\n");
    }
  free(widths);
}

void text_table_markdown(const text_table *table, cli_buffer *out) {
  for (size_t r = 0; r < table->n_rows; r++) {
    for (size_t c = 0; c < table->n_columns; c++) {
      put(out, "| ");
      for (const char *at = cell_at(table, r, c); *at; at++) {
        if (*at == '|') put(out, "\\");
        cli_buffer_append(out, at, 1);
      }
      put(out, c + 1 == table->n_columns ? " |\n" : " ");
    }
    for (size_t c = 0; r == 0 && c < table->n_columns; c++)
      put(out, c == 0 ? "|---" : c + 1 == table->n_columns ? "|--:|\n" : "|--:");
  }
}
