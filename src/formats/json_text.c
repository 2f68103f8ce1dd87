#include "formats/json_text.h"

#include <stdio.h>
#include <string.h>

#include "formats/printable.h"

/* ":line", or nothing for a whole file. */
typedef struct line_text {
  char text[24];
} line_text;

static line_text line_of(const lk_json_place *at) {
  line_text out = {""};
  if (at->line > 0) snprintf(out.text, sizeof out.text, ":%zu", at->line);
  return out;
}

static leank_status parse(const char *text, size_t n, size_t flags, const lk_json_place *at,
                          json_t **out, leank_error *err) {
  leank_status status = LEANK_OK;
  json_error_t why;
  json_t *value = json_loadb(text, n, flags | JSON_REJECT_DUPLICATES, &why);
  LK_FAIL_IF(!value && json_error_code(&why) == json_error_out_of_memory, err, LEANK_E_MEMORY, -1,
             "%s%s: out of memory", at->name, line_of(at).text);
  LK_FAIL_IF(!value, err, LEANK_E_FORMAT, at->offset + (size_t)why.position, "%s%s: %s", at->name,
             line_of(at).text, lk_printable(why.text, strlen(why.text)).text);
  *out = value;
cleanup:
  return status;
}

leank_status lk_json_parse(const char *text, size_t n, bool nul, const lk_json_place *at,
                           json_t **out, leank_error *err) {
  return parse(text, n, nul ? JSON_ALLOW_NUL : 0, at, out, err);
}

leank_status lk_json_parse_object(const char *text, size_t n, bool nul, const lk_json_place *at,
                                  json_t **out, leank_error *err) {
  leank_status status = LEANK_OK;
  json_t *value = NULL;
  LK_TRY(parse(text, n, JSON_DECODE_ANY | (nul ? JSON_ALLOW_NUL : 0), at, &value, err));
  LK_FAIL_IF(!json_is_object(value), err, LEANK_E_FORMAT, at->offset, "%s%s: not an object",
             at->name, line_of(at).text);
  *out = value;
  value = NULL;
cleanup:
  json_decref(value);
  return status;
}

static bool is_blank(const char *text, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (text[i] != ' ' && text[i] != '\t' && text[i] != '\r') return false;
  return true;
}

leank_status lk_json_lines_next(lk_json_lines *l, json_t **out, leank_error *err) {
  *out = NULL;
  while (l->next < l->n_bytes) {
    const char *begin = l->text + l->next;
    const char *end = memchr(begin, '\n', l->n_bytes - l->next);
    const size_t n = end ? (size_t)(end - begin) : l->n_bytes - l->next;
    l->at.line++;
    l->at.offset = l->next;
    l->next += n + 1;
    if (is_blank(begin, n)) continue;
    if (n > l->max_line_bytes)
      return lk_fail(err, LEANK_E_FORMAT, (int64_t)l->at.offset,
                     "%s:%zu: a line of %zu bytes, more than the %zu allowed", l->at.name,
                     l->at.line, n, l->max_line_bytes);
    return lk_json_parse_object(begin, n, false, &l->at, out, err);
  }
  return LEANK_OK;
}
