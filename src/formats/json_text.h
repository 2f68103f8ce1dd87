/* JSON out of untrusted files: whole ones, and files of a value a line. */
#ifndef LK_FORMATS_JSON_TEXT_H
#define LK_FORMATS_JSON_TEXT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

/* Where a text stands, for messages: "name: why", of a line "name:line: why". */
typedef struct lk_json_place {
  const char *name;
  size_t line;   /* from 1; 0: the text is all of the file */
  size_t offset; /* bytes of the file before it */
} lk_json_place;

/* Parses a text; keys that are there twice are refused, and strings that hold NUL unless `nul`.
 * *out is for json_decref. LEANK_E_FORMAT with the byte where it goes wrong, LEANK_E_MEMORY. */
leank_status lk_json_parse(const char *text, size_t n, bool nul, const lk_json_place *at,
                           json_t **out, leank_error *err);
/* The same; what is no object is LEANK_E_FORMAT, too. */
leank_status lk_json_parse_object(const char *text, size_t n, bool nul, const lk_json_place *at,
                                  json_t **out, leank_error *err);

/* A walk over the lines of a file. Begins as {text, n, max_line_bytes, {name}}. */
typedef struct lk_json_lines {
  const char *text;
  size_t n_bytes, max_line_bytes;
  lk_json_place at; /* of the line last given */
  size_t next;      /* the byte at which the next line begins */
} lk_json_lines;

/* The object of the next line that is not white space alone; *out NULL behind the last. Else as
 * lk_json_parse_object; a longer line than allowed is LEANK_E_FORMAT. */
leank_status lk_json_lines_next(lk_json_lines *lines, json_t **out, leank_error *err);

#endif
