/* Tables for terminals and for Markdown. */
#ifndef LEANK_CLI_TEXT_TABLE_H
#define LEANK_CLI_TEXT_TABLE_H

#include "cli_console.h"

typedef struct text_table {
  size_t n_columns, n_rows; /* the first row is the heading */
  char **cells;             /* [n_rows][n_columns] */
  size_t capacity;
  size_t at; /* cells so far */
} text_table;

/* Cells in the order of reading. A failure to allocate ends the program. */
void text_table_begin(text_table *table, size_t n_columns);
void text_table_cell(text_table *table, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void text_table_free(text_table *table);
/* The first column is set left, the others right; control characters become '?'. */
void text_table_text(const text_table *table, cli_buffer *out);
void text_table_markdown(const text_table *table, cli_buffer *out);

#endif
