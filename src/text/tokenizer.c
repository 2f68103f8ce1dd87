#include "text/tokenizer.h"

#include <sys/stat.h>

#include "base/alloc.h"
#include "base/utf8.h"
#include "text/normalize.h"

/* Positions inside a word are 32 bits wide; NFC grows text at most threefold. */
static const size_t max_text = (size_t)1 << 30;

/* ---- opening ---- */

leank_status leank_tokenizer_open(const char *path, leank_tokenizer **out, leank_error *err) {
  struct stat st;
  if (!path || !out) return lk_fail(err, LEANK_E_ARGUMENT, -1, "path and out must not be NULL");
  if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) return lk_tokenizer_from_folder(path, out, err);
  lk_gguf *gguf = NULL;
  leank_status status = lk_gguf_open(path, &gguf, err);
  if (status == LEANK_OK) status = lk_tokenizer_from_gguf(gguf, out, err);
  lk_gguf_close(&gguf);
  return status;
}

void leank_tokenizer_close(leank_tokenizer **tokenizer) {
  if (!tokenizer || !*tokenizer) return;
  leank_tokenizer *t = *tokenizer;
  lk_free(t->tokens);
  lk_free(t->flags);
  lk_free(t->arena);
  lk_bpe_free(&t->bpe);
  lk_pre_free(&t->pre);
  lk_free(t->added.tokens);
  lk_free(t->added_normalized.tokens);
  lk_free(t->chat.default_system);
  lk_free(t);
  *tokenizer = NULL;
}

/* ---- questions ---- */

static unsigned flags_of(const leank_tokenizer *t, leank_token token) {
  return token >= 0 && (size_t)token < t->n_vocab ? t->flags[token] : 0;
}

const char *leank_token_bytes(const leank_tokenizer *tokenizer, leank_token token,
                              size_t *n_bytes) {
  if (!(flags_of(tokenizer, token) & LK_TOKEN_EXISTS)) {
    *n_bytes = 0;
    return NULL;
  }
  *n_bytes = tokenizer->tokens[token].n;
  return tokenizer->tokens[token].p;
}

bool leank_token_is_special(const leank_tokenizer *tokenizer, leank_token token) {
  return flags_of(tokenizer, token) & LK_TOKEN_SPECIAL;
}

bool leank_token_is_end(const leank_tokenizer *tokenizer, leank_token token) {
  return flags_of(tokenizer, token) & LK_TOKEN_END;
}

size_t leank_tokenizer_vocab_size(const leank_tokenizer *tokenizer) { return tokenizer->n_vocab; }

/* ---- a run over a text ---- */

typedef struct run {
  const leank_tokenizer *t;
  lk_pre_run pre;
  lk_bpe_run bpe;
  leank_error *err;
} run;

static leank_status on_word(void *user, const char *word, size_t n_bytes, leank_error *err) {
  run *r = user;
  return lk_bpe_encode(&r->bpe, word, n_bytes, err);
}

static leank_status encode_words(run *r, const char *text, size_t n) {
  return lk_pre_run_text(&r->pre, text, n, on_word, r, r->err);
}

/* Where the white space begins that ends text[0..n), not before `least`. */
static size_t before_space(const char *text, size_t least, size_t n) {
  while (n > least) {
    size_t at = n - 1;
    while (at > least && ((unsigned char)text[at] & 0xc0) == 0x80) at--;
    uint32_t code;
    if (lk_utf8_decode(text + at, n - at, &code) != n - at || !lk_is_white_space(code)) break;
    n = at;
  }
  return n;
}

static size_t after_space(const char *text, size_t at, size_t end) {
  uint32_t code;
  while (at < end) {
    const size_t n = lk_utf8_decode(text + at, end - at, &code);
    if (n == 0 || !lk_is_white_space(code)) break;
    at += n;
  }
  return at;
}

typedef leank_status (*gap_fn)(run *r, const char *text, size_t n);

/* Finds added tokens in text[*done .. end) from `at` on: what lies between *done and a token goes
 * to on_gap, and *done moves behind the token. */
static leank_status cut_added(run *r, const lk_added *added, const char *text, size_t at,
                              size_t end, bool plain, size_t *done, gap_fn on_gap) {
  leank_status status = LEANK_OK;
  while (at < end) {
    const leank_token token = lk_added_match(added, r->t, text + at, end - at);
    if (token < 0) {
      at++;
      continue;
    }
    const unsigned flags = r->t->flags[token];
    size_t begin = at;
    at += r->t->tokens[token].n;
    if (plain && (flags & LK_TOKEN_SPECIAL)) continue; /* stays text, and so does what is in it */
    if (flags & LK_TOKEN_LSTRIP) begin = before_space(text, *done, begin);
    if (flags & LK_TOKEN_RSTRIP) at = after_space(text, at, end);
    LK_TRY(on_gap(r, text + *done, begin - *done));
    LK_TRY(lk_bpe_push(&r->bpe, token, r->err));
    *done = at;
  }
cleanup:
  return status;
}

/* Text without raw added tokens: normalise, cut out the others, encode. */
static leank_status encode_gap(run *r, const char *text, size_t n) {
  leank_status status = LEANK_OK;
  char *nfc = NULL;
  size_t done = 0;
  if (n == 0) return LEANK_OK;
  if (r->t->nfc) LK_TRY(lk_nfc(text, n, &nfc, &n, r->err));
  const char *s = nfc ? nfc : text;
  LK_TRY(cut_added(r, &r->t->added_normalized, s, 0, n, false, &done, encode_words));
  LK_TRY(encode_words(r, s + done, n - done));
cleanup:
  lk_free(nfc);
  return status;
}

static leank_status run_stretches(run *r, const char *text, size_t n, const lk_stretch *stretches,
                                  size_t n_stretches) {
  leank_status status = LEANK_OK;
  size_t done = 0, begin = 0;
  for (size_t i = 0; i < n_stretches; i++) {
    LK_TRY(cut_added(r, &r->t->added, text, begin, stretches[i].end, stretches[i].plain, &done,
                     encode_gap));
    begin = stretches[i].end;
  }
  LK_TRY(encode_gap(r, text + done, n - done));
cleanup:
  return status;
}

leank_status lk_tokenize_stretches(const leank_tokenizer *tokenizer, const char *text,
                                   size_t n_bytes, const lk_stretch *stretches, size_t n_stretches,
                                   bool bos, leank_token **out, size_t *n_out, leank_error *err) {
  leank_status status = LEANK_OK;
  size_t bad_at = 0;
  run r = {.t = tokenizer, .bpe = {.bpe = &tokenizer->bpe}, .err = err};
  LK_FAIL_IF(n_bytes > max_text, err, LEANK_E_ARGUMENT, -1, "text of %zu bytes, more than %zu",
             n_bytes, max_text);
  LK_FAIL_IF(!lk_utf8_valid(text, n_bytes, &bad_at), err, LEANK_E_ARGUMENT, bad_at,
             "the text is not UTF-8 at byte %zu", bad_at);
  LK_TRY(lk_pre_run_begin(&r.pre, &tokenizer->pre, err));
  if (bos) LK_TRY(lk_bpe_push(&r.bpe, tokenizer->bos, err));
  LK_TRY(run_stretches(&r, text, n_bytes, stretches, n_stretches));
  if (!r.bpe.out) r.bpe.out = lk_alloc(LK_MEM_TEXT, 0, sizeof *r.bpe.out);
  LK_FAIL_IF(!r.bpe.out, err, LEANK_E_MEMORY, -1, "out of memory");
  *out = r.bpe.out;
  *n_out = r.bpe.n_out;
  r.bpe.out = NULL;
cleanup:
  lk_free(r.bpe.out);
  lk_bpe_run_end(&r.bpe);
  lk_pre_run_end(&r.pre);
  return status;
}

leank_status leank_tokenize(const leank_tokenizer *tokenizer, const char *text, size_t n_bytes,
                            unsigned flags, leank_token **out, size_t *n_out, leank_error *err) {
  const unsigned known = LEANK_TOKENIZE_SPECIAL | LEANK_TOKENIZE_BOS;
  if (!tokenizer || !out || !n_out || (!text && n_bytes > 0) || (flags & ~known))
    return lk_fail(err, LEANK_E_ARGUMENT, -1, "leank_tokenize: NULL, or unknown flags %#x", flags);
  const lk_stretch all = {n_bytes, !(flags & LEANK_TOKENIZE_SPECIAL)};
  const bool bos = (flags & LEANK_TOKENIZE_BOS) && tokenizer->add_bos && tokenizer->bos >= 0;
  return lk_tokenize_stretches(tokenizer, text ? text : "", n_bytes, &all, 1, bos, out, n_out, err);
}

void leank_tokens_free(leank_token **tokens) {
  if (!tokens) return;
  lk_free(*tokens);
  *tokens = NULL;
}
