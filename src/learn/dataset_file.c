#include "learn/dataset_file.h"

#include <stdbool.h>
#include <string.h>

#include "base/alloc.h"
#include "base/map.h"
#include "formats/json_text.h"
#include "formats/printable.h"

static leank_status check_keys(json_t *object, const lk_json_place *at, leank_error *err) {
  static const char *const known[] = {"context", "question", "answer"};
  const char *key;
  json_t *value;
  leank_status status = LEANK_OK;
  for (size_t i = 0; i < 3; i++) {
    value = json_object_get(object, known[i]);
    LK_FAIL_IF(!value, err, LEANK_E_FORMAT, at->offset, "%s:%zu: no \"%s\"", at->name, at->line,
               known[i]);
    LK_FAIL_IF(!json_is_string(value), err, LEANK_E_FORMAT, at->offset,
               "%s:%zu: \"%s\" is not a string", at->name, at->line, known[i]);
    LK_FAIL_IF(json_string_length(value) == 0, err, LEANK_E_FORMAT, at->offset,
               "%s:%zu: \"%s\" is empty", at->name, at->line, known[i]);
  }
  json_object_foreach(object, key, value) {
    const bool is_known =
        strcmp(key, known[0]) == 0 || strcmp(key, known[1]) == 0 || strcmp(key, known[2]) == 0;
    LK_FAIL_IF(!is_known, err, LEANK_E_FORMAT, at->offset, "%s:%zu: unknown key \"%s\"", at->name,
               at->line, lk_printable(key, strlen(key)).text);
  }
cleanup:
  return status;
}

/* Room for one more, which is all NULL. */
static lk_example *add_example(lk_examples *e) {
  lk_example *items = lk_grow(e->items, LK_MEM_OTHER, e->n, &e->room, sizeof *items);
  if (!items) return NULL;
  e->items = items;
  return &e->items[e->n++];
}

static leank_status take_example(const json_t *object, const lk_json_place *at, lk_examples *out,
                                 leank_error *err) {
  const char *context = json_string_value(json_object_get(object, "context"));
  lk_example *e = add_example(out);
  if (!e) return lk_fail(err, LEANK_E_MEMORY, -1, "%s:%zu: out of memory", at->name, at->line);
  const lk_example *before = out->n > 1 ? e - 1 : NULL;
  *e = (lk_example){.line = at->line};
  e->context =
      before && strcmp(before->context, context) == 0 ? before->context : lk_strdup(context);
  e->question = lk_strdup(json_string_value(json_object_get(object, "question")));
  e->answer = lk_strdup(json_string_value(json_object_get(object, "answer")));
  if (!e->context || !e->question || !e->answer)
    return lk_fail(err, LEANK_E_MEMORY, -1, "%s:%zu: out of memory", at->name, at->line);
  return LEANK_OK;
}

leank_status lk_examples_read(const void *bytes, size_t n_bytes, const char *name, lk_examples *out,
                              leank_error *err) {
  leank_status status = LEANK_OK;
  lk_examples examples = {0};
  lk_json_lines lines = {bytes, n_bytes, LK_MAX_EXAMPLE_LINE_BYTES, {.name = name}, 0};
  json_t *object = NULL;
  LK_FAIL_IF(n_bytes > LK_MAX_EXAMPLES_BYTES, err, LEANK_E_FORMAT, -1,
             "%s: %zu bytes, more than the %d allowed", name, n_bytes, LK_MAX_EXAMPLES_BYTES);
  for (;;) {
    LK_TRY(lk_json_lines_next(&lines, &object, err));
    if (!object) break;
    LK_FAIL_IF(examples.n >= LK_MAX_EXAMPLES, err, LEANK_E_FORMAT, lines.at.offset,
               "%s:%zu: more than the %d examples allowed", name, lines.at.line, LK_MAX_EXAMPLES);
    LK_TRY(check_keys(object, &lines.at, err));
    LK_TRY(take_example(object, &lines.at, &examples, err));
    json_decref(object);
    object = NULL;
  }
  LK_FAIL_IF(examples.n == 0, err, LEANK_E_FORMAT, -1, "%s: no examples", name);
  *out = examples;
  examples = (lk_examples){0};
cleanup:
  json_decref(object);
  lk_examples_close(&examples);
  return status;
}

leank_status lk_examples_open(const char *path, lk_examples *out, leank_error *err) {
  lk_map map = {0};
  leank_status status = lk_map_open(path, &map, err);
  if (status == LEANK_OK) status = lk_examples_read(map.data, map.n_bytes, path, out, err);
  lk_map_close(&map);
  return status;
}

void lk_examples_close(lk_examples *examples) {
  for (size_t i = 0; i < examples->n; i++) {
    lk_example *e = &examples->items[i];
    if (i + 1 == examples->n || examples->items[i + 1].context != e->context)
      lk_free((char *)e->context);
    lk_free((char *)e->question);
    lk_free((char *)e->answer);
  }
  lk_free(examples->items);
  *examples = (lk_examples){0};
}
