#include "text/pretokenize.h"

#include <stdint.h>
#include <string.h>

#include "base/alloc.h"

const char lk_pattern_gpt2[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
const char lk_pattern_digit[] = "\\p{N}";
const char lk_pattern_digits[] = "\\p{N}+";
const char lk_pattern_qwen2[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|"
                                " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const char lk_pattern_llama3[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|"
    " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

/* PCRE2's own \s has U+180E besides, which lost White_Space in Unicode 6.3. */
#define WHITE_SPACE                                                                                \
  "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}"      \
  "\\x{205f}\\x{3000}"

static void *pcre_alloc(size_t size, void *user) {
  (void)user;
  return lk_alloc(LK_MEM_TEXT, 1, size);
}
static void pcre_free(void *p, void *user) {
  (void)user;
  lk_free(p);
}

/* ---- from Oniguruma's syntax to PCRE2's ---- */

typedef struct rewriter {
  const char *in;
  size_t n_in, at;
  char *out;
  size_t n_out;
  bool in_class;
} rewriter;

static void put(rewriter *r, const char *s, size_t n) {
  memcpy(r->out + r->n_out, s, n);
  r->n_out += n;
}

/* \p{...}, copied whole so that its braces are not taken for a repetition. */
static bool rewrite_property(rewriter *r) {
  const char *begin = r->in + r->at, *end = memchr(begin, '}', r->n_in - r->at);
  if (!end || begin[2] != '{') return false;
  put(r, begin, (size_t)(end - begin) + 1);
  r->at += (size_t)(end - begin) + 1;
  return true;
}

/* True where the group that opens at r->at means the same to both. */
static bool is_common_group(const rewriter *r) {
  static const char *const common[] = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:"};
  const char *at = r->in + r->at;
  const size_t left = r->n_in - r->at;
  if (left < 2 || (at[1] != '?' && at[1] != '*')) return true;
  for (size_t i = 0; i < sizeof common / sizeof *common; i++)
    if (left >= strlen(common[i]) && memcmp(at, common[i], strlen(common[i])) == 0) return true;
  return false;
}

/* The escape at r->at. False where the two libraries disagree about it. */
static bool rewrite_escape(rewriter *r) {
  const char c = r->at + 1 < r->n_in ? r->in[r->at + 1] : '\0';
  const bool word = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
  if (c == 's') {
    if (!r->in_class) put(r, "[", 1);
    put(r, WHITE_SPACE, sizeof WHITE_SPACE - 1);
    if (!r->in_class) put(r, "]", 1);
  } else if (c == 'S' && !r->in_class) {
    put(r, "[^" WHITE_SPACE "]", sizeof "[^" WHITE_SPACE "]" - 1);
  } else if (c == 'p' || c == 'P') {
    return rewrite_property(r);
  } else if (c != '\0' && (!word || strchr("rntfdDAz", c))) {
    put(r, r->in + r->at, 2);
  } else {
    return false;
  }
  r->at += 2;
  return true;
}

/* True where the two libraries read character c, followed by next, alike: sets of sets and
 * intersections are Oniguruma's alone, its ^ and $ match at every line, {n,m}+ is not possessive.
 */
static bool is_common_char(const rewriter *r, char c, char next) {
  if (c == '\0') return false;
  if (r->in_class) return c != '[' && !(c == '&' && next == '&');
  if (c == '(') return is_common_group(r);
  return c != '^' && c != '$' && !(c == '}' && next == '+');
}

static bool rewrite_char(rewriter *r) {
  const char c = r->in[r->at], next = r->at + 1 < r->n_in ? r->in[r->at + 1] : '\0';
  if (!is_common_char(r, c, next)) return false;
  const bool opens = !r->in_class && c == '[';
  put(r, &c, 1);
  r->at++;
  if (opens) {
    r->in_class = true;
    if (next == '^') {
      put(r, "^", 1);
      r->at++;
    }
    if (r->at < r->n_in && r->in[r->at] == ']') return false; /* empty, or a literal ]: unclear */
  } else if (c == ']') {
    r->in_class = false;
  }
  return true;
}

static bool rewrite(rewriter *r) {
  while (r->at < r->n_in)
    if (!(r->in[r->at] == '\\' ? rewrite_escape(r) : rewrite_char(r))) return false;
  return true;
}

/* ---- building ---- */

static leank_status add_step(lk_pretokenizer *pre, lk_pre_step step, const char *name,
                             leank_error *err) {
  if (pre->n_steps == LK_PRE_MAX_STEPS)
    return lk_fail(err, LEANK_E_UNSUPPORTED, -1, "%s: more than %d pre-tokenizer steps", name,
                   LK_PRE_MAX_STEPS);
  pre->steps[pre->n_steps++] = step;
  return LEANK_OK;
}

leank_status lk_pre_add_prefix_space(lk_pretokenizer *pre, const char *name, leank_error *err) {
  return add_step(pre, (lk_pre_step){NULL, true}, name, err);
}

static leank_status compile(lk_pretokenizer *pre, const char *pattern, size_t n, const char *name,
                            pcre2_code **out, leank_error *err) {
  leank_status status = LEANK_OK;
  int error = 0;
  PCRE2_SIZE at = 0;
  uint32_t empty = 0;
  pcre2_code *code = NULL;
  pcre2_compile_context *context = pcre2_compile_context_create(pre->general);
  LK_FAIL_IF(!context, err, LEANK_E_MEMORY, -1, "%s: out of memory", name);
  pcre2_set_newline(context, PCRE2_NEWLINE_LF);
  code = pcre2_compile((PCRE2_SPTR)pattern, n, PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C,
                       &error, &at, context);
  LK_FAIL_IF(!code && error == PCRE2_ERROR_HEAP_FAILED, err, LEANK_E_MEMORY, -1,
             "%s: out of memory", name);
  LK_FAIL_IF(!code, err, LEANK_E_UNSUPPORTED, -1,
             "%s: pre-tokenizer pattern: PCRE2 error %d at %zu", name, error, (size_t)at);
  pcre2_pattern_info(code, PCRE2_INFO_MATCHEMPTY, &empty);
  LK_FAIL_IF(empty, err, LEANK_E_UNSUPPORTED, -1,
             "%s: pre-tokenizer pattern that can match nothing", name);
  (void)pcre2_jit_compile(code, PCRE2_JIT_COMPLETE); /* where it cannot, the interpreter serves */
  *out = code;
  code = NULL;
cleanup:
  pcre2_code_free(code);
  pcre2_compile_context_free(context);
  return status;
}

leank_status lk_pre_add_pattern(lk_pretokenizer *pre, const char *pattern, size_t n_bytes,
                                const char *name, leank_error *err) {
  leank_status status = LEANK_OK;
  rewriter r = {.in = pattern, .n_in = n_bytes};
  lk_pre_step step = {0};
  LK_FAIL_IF(n_bytes == 0 || n_bytes > LK_PRE_MAX_PATTERN, err, LEANK_E_UNSUPPORTED, -1,
             "%s: pre-tokenizer pattern of %zu bytes", name, n_bytes);
  if (!pre->general) pre->general = pcre2_general_context_create(pcre_alloc, pcre_free, NULL);
  r.out = lk_alloc(LK_MEM_TEXT, n_bytes, sizeof WHITE_SPACE); /* an escape grows to at most this */
  LK_FAIL_IF(!pre->general || !r.out, err, LEANK_E_MEMORY, -1, "%s: out of memory", name);
  LK_FAIL_IF(!rewrite(&r), err, LEANK_E_UNSUPPORTED, -1,
             "%s: pre-tokenizer pattern: cannot read '%.16s' at %zu", name, pattern + r.at, r.at);
  LK_TRY(compile(pre, r.out, r.n_out, name, &step.code, err));
  LK_TRY(add_step(pre, step, name, err));
  step.code = NULL;
cleanup:
  pcre2_code_free(step.code);
  lk_free(r.out);
  return status;
}

void lk_pre_free(lk_pretokenizer *pre) {
  for (size_t i = 0; i < pre->n_steps; i++) pcre2_code_free(pre->steps[i].code);
  pcre2_general_context_free(pre->general);
  *pre = (lk_pretokenizer){0};
}

/* ---- running ---- */

leank_status lk_pre_run_begin(lk_pre_run *run, const lk_pretokenizer *pre, leank_error *err) {
  *run = (lk_pre_run){.pre = pre, .limits = pcre2_match_context_create(pre->general)};
  bool ok = run->limits != NULL;
  for (size_t i = 0; i < pre->n_steps; i++) {
    if (!pre->steps[i].code) continue;
    run->match[i] = pcre2_match_data_create(1, pre->general);
    ok = ok && run->match[i];
  }
  if (ok) return LEANK_OK;
  lk_pre_run_end(run);
  return lk_fail(err, LEANK_E_MEMORY, -1, "out of memory");
}

void lk_pre_run_end(lk_pre_run *run) {
  for (size_t i = 0; i < LK_PRE_MAX_STEPS; i++) pcre2_match_data_free(run->match[i]);
  pcre2_match_context_free(run->limits);
  *run = (lk_pre_run){0};
}

typedef struct words {
  lk_pre_run *run;
  lk_word_fn on_word;
  void *user;
  leank_error *err;
} words;

static leank_status cut_piece(words *w, size_t step, const char *piece, size_t n);

/* The next match at or after `from`: 1, 0 for none, or a negative error. */
static int next_match(words *w, size_t step, const char *piece, size_t n, size_t from,
                      size_t *start, size_t *end) {
  const pcre2_code *code = w->run->pre->steps[step].code;
  pcre2_match_data *match = w->run->match[step];
  int rc = pcre2_match(code, (PCRE2_SPTR)piece, n, from, PCRE2_NO_UTF_CHECK, match, w->run->limits);
  if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
    rc = pcre2_match(code, (PCRE2_SPTR)piece, n, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, match,
                     w->run->limits);
  if (rc == PCRE2_ERROR_NOMATCH) return 0;
  if (rc < 0) return rc;
  *start = pcre2_get_ovector_pointer(match)[0];
  *end = pcre2_get_ovector_pointer(match)[1];
  return 1;
}

static leank_status cut_by_pattern(words *w, size_t step, const char *piece, size_t n) {
  leank_status status = LEANK_OK;
  size_t at = 0, start = 0, end = 0;
  while (at < n) {
    const int found = next_match(w, step, piece, n, at, &start, &end);
    LK_FAIL_IF(found == PCRE2_ERROR_NOMEMORY, w->err, LEANK_E_MEMORY, -1, "out of memory");
    LK_FAIL_IF(found < 0, w->err, LEANK_E_FORMAT, -1,
               "the tokenizer's pattern exceeds its limits (PCRE2 error %d)", found);
    if (!found) start = end = n;
    LK_FAIL_IF(start < at || end < start || (found && end == start), w->err, LEANK_E_FORMAT, -1,
               "the tokenizer's pattern matches backwards");
    if (start > at) LK_TRY(cut_piece(w, step + 1, piece + at, start - at));
    if (end > start) LK_TRY(cut_piece(w, step + 1, piece + start, end - start));
    at = end;
  }
cleanup:
  return status;
}

static leank_status cut_with_prefix(words *w, size_t step, const char *piece, size_t n) {
  if (piece[0] == ' ') return cut_piece(w, step + 1, piece, n);
  char *copy = lk_alloc(LK_MEM_TEXT, n + 1, 1);
  if (!copy) return lk_fail(w->err, LEANK_E_MEMORY, -1, "out of memory");
  copy[0] = ' ';
  memcpy(copy + 1, piece, n);
  leank_status status = cut_piece(w, step + 1, copy, n + 1);
  lk_free(copy);
  return status;
}

static leank_status cut_piece(words *w, size_t step, const char *piece, size_t n) {
  if (step == w->run->pre->n_steps) return w->on_word(w->user, piece, n, w->err);
  return w->run->pre->steps[step].prefix_space ? cut_with_prefix(w, step, piece, n)
                                               : cut_by_pattern(w, step, piece, n);
}

leank_status lk_pre_run_text(lk_pre_run *run, const char *text, size_t n_bytes, lk_word_fn on_word,
                             void *user, leank_error *err) {
  words w = {run, on_word, user, err};
  if (n_bytes == 0) return LEANK_OK;
  /* Linear patterns stay far below this; an exponential one ends. */
  pcre2_set_match_limit(run->limits,
                        n_bytes < 100000000 ? 10000000 + 16 * (uint32_t)n_bytes : UINT32_MAX);
  return cut_piece(&w, 0, text, n_bytes);
}
