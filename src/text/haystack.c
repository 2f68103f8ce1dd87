#include "text/haystack.h"

#include <string.h>

#include <leank/text.h>

#include "base/alloc.h"
#include "base/map.h"
#include "base/utf8.h"

/* ---- sentences ---- */

/* A text that is cut in place: what is written never overtakes what is read, for only white space
 * is left out. */
typedef struct cutter {
  lk_haystack *haystack;
  char *text;
  size_t begin, end; /* of the sentence in the making */
  size_t n_lines;    /* line ends in the white space since its last character */
  bool blank;        /* there is such white space */
  bool full_stop;    /* its last character ends a sentence */
  bool failed;
} cutter;

static void add_sentence(cutter *c) {
  lk_haystack *h = c->haystack;
  if (c->end == c->begin || c->failed) return;
  lk_span *sentences = lk_grow(h->sentences, LK_MEM_OTHER, h->n, &h->room, sizeof *sentences);
  if (!sentences) {
    c->failed = true;
    return;
  }
  h->sentences = sentences;
  h->sentences[h->n++] = (lk_span){c->text + c->begin, c->end - c->begin};
  c->begin = c->end;
}

typedef enum stop { STOP_NONE, STOP_LATIN, STOP_WIDE } stop;

static stop stop_of(uint32_t code) {
  switch (code) {
  case '.':
  case '!':
  case '?': return STOP_LATIN;
  case 0x3002: /* ideographic full stop */
  case 0xff01: /* full-width exclamation and question mark */
  case 0xff1f: return STOP_WIDE;
  default: return STOP_NONE;
  }
}

/* Quotes and brackets after a full stop belong to the sentence. */
static bool closes(uint32_t code) {
  return code == '"' || code == '\'' || code == ')' || code == ']' || code == 0x201d ||
         code == 0x2019;
}

/* White space lies between the sentence in the making and what comes. */
static void end_word(cutter *c) {
  const size_t n = c->end - c->begin;
  const bool paragraph = c->n_lines > 1;
  if (paragraph || (c->full_stop && n >= LK_MIN_SENTENCE) || n >= LK_MAX_SENTENCE) add_sentence(c);
  if (c->end > c->begin) c->text[c->end++] = ' ';
  c->blank = c->full_stop = false;
  c->n_lines = 0;
}

static void cut(cutter *c, size_t n_bytes) {
  uint32_t code;
  for (size_t at = 0, length; at < n_bytes; at += length) {
    length = lk_utf8_decode(c->text + at, n_bytes - at, &code);
    if (lk_is_white_space(code)) {
      c->blank = true;
      c->n_lines += code == '\n';
      continue;
    }
    if (c->blank) end_word(c);
    if (c->end - c->begin >= 2 * LK_MAX_SENTENCE) add_sentence(c);
    memmove(c->text + c->end, c->text + at, length);
    c->end += length;
    const stop kind = stop_of(code);
    c->full_stop = kind != STOP_NONE || (c->full_stop && closes(code));
    if (kind == STOP_WIDE && c->end - c->begin >= LK_MIN_SENTENCE) add_sentence(c);
  }
  add_sentence(c);
}

/* ---- files ---- */

static leank_status add_text(lk_haystack *h, const char *name, char *text, size_t n_bytes,
                             leank_error *err) {
  leank_status status = LEANK_OK;
  const size_t n_before = h->n;
  cutter c = {.haystack = h, .text = text};
  size_t at = 0;
  h->texts[h->n_texts++] = text; /* from here on it is the haystack's */
  LK_FAIL_IF(!lk_utf8_valid(text, n_bytes, &at), err, LEANK_E_FORMAT, at,
             "%s: not UTF-8 at byte %zu", name, at);
  const char *nul = n_bytes ? memchr(text, 0, n_bytes) : NULL;
  LK_FAIL_IF(nul, err, LEANK_E_FORMAT, nul - text, "%s: a NUL at byte %zu", name,
             (size_t)(nul - text));
  cut(&c, n_bytes);
  LK_FAIL_IF(c.failed, err, LEANK_E_MEMORY, -1, "%s: out of memory", name);
  LK_FAIL_IF(h->n == n_before, err, LEANK_E_FORMAT, -1, "%s: holds no text", name);
cleanup:
  return status;
}

static leank_status add_sample(lk_haystack *h, leank_error *err) {
  size_t n_bytes;
  const char *sample = leank_sample_text(&n_bytes);
  char *text = lk_strndup(sample, n_bytes);
  if (!text) return lk_fail(err, LEANK_E_MEMORY, -1, "out of memory");
  return add_text(h, leank_sample_text_name(), text, n_bytes, err);
}

leank_status lk_haystack_open(const char *const *paths, size_t n_paths, lk_haystack *out,
                              leank_error *err) {
  leank_status status = LEANK_OK;
  lk_haystack h = {0};
  size_t n_left = LK_MAX_HAYSTACK_BYTES;
  LK_FAIL_IF(n_paths > LK_MAX_HAYSTACKS, err, LEANK_E_ARGUMENT, -1,
             "%zu haystacks, more than the %d allowed", n_paths, LK_MAX_HAYSTACKS);
  h.texts = lk_alloc(LK_MEM_OTHER, n_paths + 1, sizeof *h.texts);
  LK_FAIL_IF(!h.texts, err, LEANK_E_MEMORY, -1, "out of memory");
  if (n_paths == 0) LK_TRY(add_sample(&h, err));
  for (size_t i = 0; i < n_paths; i++) {
    char *text = NULL;
    size_t n_bytes = 0;
    LK_FAIL_IF(!paths[i], err, LEANK_E_ARGUMENT, -1, "haystack %zu: NULL", i);
    LK_TRY(lk_file_read(paths[i], n_left, &text, &n_bytes, err));
    n_left -= n_bytes;
    LK_TRY(add_text(&h, paths[i], text, n_bytes, err));
  }
  *out = h;
  h = (lk_haystack){0};
cleanup:
  lk_haystack_close(&h);
  return status;
}

void lk_haystack_close(lk_haystack *haystack) {
  for (size_t i = 0; i < haystack->n_texts; i++) lk_free(haystack->texts[i]);
  lk_free(haystack->texts);
  lk_free(haystack->sentences);
  *haystack = (lk_haystack){0};
}
