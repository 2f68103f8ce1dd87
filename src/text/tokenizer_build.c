/* From a loader's draft to a tokenizer. */
#include <string.h>

#include "base/alloc.h"
#include "base/utf8.h"
#include "text/normalize.h"
#include "text/tokenizer.h"

static const lk_span nothing = {"", 0};

leank_status lk_draft_open(lk_draft *draft, const char *name, size_t n_vocab, leank_error *err) {
  *draft = (lk_draft){.name = name, .n_vocab = n_vocab};
  if (n_vocab == 0 || n_vocab > LK_MAX_VOCAB)
    return lk_fail(err, LEANK_E_FORMAT, -1, "%s: a vocabulary of %zu tokens", name, n_vocab);
  draft->texts = lk_alloc(LK_MEM_TEXT, n_vocab, sizeof *draft->texts);
  draft->flags = lk_alloc(LK_MEM_TEXT, n_vocab, 1);
  draft->tokenizer = lk_alloc(LK_MEM_TEXT, 1, sizeof *draft->tokenizer);
  if (!draft->texts || !draft->flags || !draft->tokenizer ||
      !lk_str_map_open(&draft->by_text, draft->texts, n_vocab))
    return lk_fail(err, LEANK_E_MEMORY, -1, "%s: out of memory", name);
  draft->tokenizer->bos = -1;
  draft->tokenizer->bpe.unknown = -1;
  draft->tokenizer->chat.name = "none";
  return LEANK_OK;
}

void lk_draft_close(lk_draft *draft) {
  lk_free(draft->texts);
  lk_free(draft->flags);
  lk_str_map_free(&draft->by_text);
  leank_tokenizer_close(&draft->tokenizer);
  *draft = (lk_draft){0};
}

leank_status lk_draft_token(lk_draft *draft, int64_t id, lk_span text, unsigned flags,
                            leank_error *err) {
  leank_status status = LEANK_OK;
  const char *name = draft->name;
  LK_FAIL_IF(id < 0 || (uint64_t)id >= draft->n_vocab, err, LEANK_E_FORMAT, -1,
             "%s: token id %lld of %zu", name, (long long)id, draft->n_vocab);
  LK_FAIL_IF((flags & LK_TOKEN_ADDED) && text.n > LK_MAX_ADDED_BYTES, err, LEANK_E_UNSUPPORTED, -1,
             "%s: added token %lld has %zu bytes", name, (long long)id, text.n);
  const lk_span old = draft->texts[id];
  const bool other = old.n != text.n || (text.n > 0 && old.p && memcmp(old.p, text.p, text.n) != 0);
  LK_FAIL_IF((draft->flags[id] & LK_TOKEN_EXISTS) && other, err, LEANK_E_FORMAT, -1,
             "%s: two tokens have the id %lld", name, (long long)id);
  draft->texts[id] = text;
  draft->flags[id] = (unsigned char)(flags | LK_TOKEN_EXISTS);
cleanup:
  return status;
}

leank_status lk_draft_index(lk_draft *draft, leank_token token, leank_error *err) {
  const lk_span text = draft->texts[token];
  if (text.n == 0 || lk_str_map_put(&draft->by_text, (size_t)token)) return LEANK_OK;
  return lk_fail(err, LEANK_E_FORMAT, -1, "%s: token %d and token %d have the same text",
                 draft->name, lk_str_map_get(&draft->by_text, text, nothing), token);
}

leank_status lk_draft_merge(lk_draft *draft, lk_span a, lk_span b, leank_error *err) {
  lk_bpe *bpe = &draft->tokenizer->bpe;
  const lk_merge merge = {lk_str_map_get(&draft->by_text, a, nothing),
                          lk_str_map_get(&draft->by_text, b, nothing),
                          lk_str_map_get(&draft->by_text, a, b)};
  if (a.n == 0 || b.n == 0 || merge.left < 0 || merge.right < 0 || merge.merged < 0)
    return lk_fail(err, LEANK_E_FORMAT, -1, "%s: merge %zu names an unknown token", draft->name,
                   bpe->n_merges);
  lk_bpe_add_merge(bpe, merge);
  return LEANK_OK;
}

void lk_draft_end_token(lk_draft *draft, int64_t id) {
  if (id < 0 || (uint64_t)id >= draft->n_vocab || !(draft->flags[id] & LK_TOKEN_EXISTS)) return;
  draft->flags[id] |= LK_TOKEN_END;
}

/* ---- finishing ---- */

/* Plain tokens are written in the byte alphabet, added ones as they are. Where a plain one is not
 * (place-holders), its text stands for itself, as in Hugging Face's byte-level decoder. */
static leank_status fill_bytes(lk_draft *draft, leank_error *err) {
  leank_tokenizer *t = draft->tokenizer;
  size_t n_bytes = 0;
  for (size_t i = 0; i < draft->n_vocab; i++) n_bytes += draft->texts[i].n;
  t->n_vocab = draft->n_vocab;
  t->tokens = lk_alloc(LK_MEM_TEXT, t->n_vocab, sizeof *t->tokens);
  t->arena = lk_alloc(LK_MEM_TEXT, n_bytes, 1);
  if (!t->tokens || !t->arena)
    return lk_fail(err, LEANK_E_MEMORY, -1, "%s: out of memory", draft->name);
  char *at = t->arena;
  for (size_t i = 0; i < t->n_vocab; i++) {
    const lk_span text = draft->texts[i];
    size_t n = SIZE_MAX;
    if (!(draft->flags[i] & LK_TOKEN_ADDED)) n = lk_bytes_of_text(text.p, text.n, at);
    if (n == SIZE_MAX) {
      if (text.n > 0) memcpy(at, text.p, text.n);
      n = text.n;
    }
    t->tokens[i] = (lk_span){at, n};
    at += n;
  }
  t->flags = draft->flags;
  draft->flags = NULL;
  return LEANK_OK;
}

/* True where the token stands for bytes (is written in the byte alphabet) and texts may give it. */
static bool is_word(const lk_draft *draft, size_t i, char *scratch) {
  const unsigned flags = draft->tokenizer->flags[i];
  const lk_span text = draft->texts[i];
  if (!(flags & LK_TOKEN_EXISTS) || (flags & (LK_TOKEN_ADDED | LK_TOKEN_UNUSED)) || text.n == 0)
    return false;
  return lk_bytes_of_text(text.p, text.n, scratch) != SIZE_MAX;
}

/* Tokens of single bytes and, where asked for, words. */
static leank_status fill_words(lk_draft *draft, leank_error *err) {
  leank_status status = LEANK_OK;
  leank_tokenizer *t = draft->tokenizer;
  lk_bpe *bpe = &t->bpe;
  size_t longest = 0;
  for (size_t i = 0; i < t->n_vocab; i++)
    if (draft->texts[i].n > longest) longest = draft->texts[i].n;
  char *scratch = lk_alloc(LK_MEM_TEXT, longest, 1);
  const bool ok =
      scratch && (!bpe->whole_words || lk_str_map_open(&bpe->words, t->tokens, t->n_vocab));
  LK_FAIL_IF(!ok, err, LEANK_E_MEMORY, -1, "%s: out of memory", draft->name);
  memset(bpe->byte_token, 0xff, sizeof bpe->byte_token);
  for (size_t i = 0; i < t->n_vocab; i++) {
    if (!is_word(draft, i, scratch)) continue;
    if (t->tokens[i].n == 1) bpe->byte_token[(unsigned char)t->tokens[i].p[0]] = (leank_token)i;
    if (bpe->whole_words) (void)lk_str_map_put(&bpe->words, i);
  }
cleanup:
  lk_free(scratch);
  return status;
}

/* Tokens that end a turn in the families known here, whatever the file says of them. */
static void mark_known_ends(leank_tokenizer *t) {
  static const char *const ends[] = {"<|im_end|>",    "<|eot_id|>", "<|end_of_text|>",
                                     "<|endoftext|>", "<|eom_id|>", "</s>"};
  for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
    const leank_token token = lk_tokenizer_find_added(t, ends[i]);
    if (token >= 0) t->flags[token] |= LK_TOKEN_END;
  }
}

/* Added tokens are found by their bytes, so only whole characters keep the rest of a text whole. */
static leank_status check_added(const lk_draft *draft, size_t i, leank_error *err) {
  leank_status status = LEANK_OK;
  const leank_tokenizer *t = draft->tokenizer;
  const lk_span s = t->tokens[i];
  char *nfc = NULL;
  size_t at = 0, n = s.n;
  LK_FAIL_IF(!lk_utf8_valid(s.p, s.n, &at), err, LEANK_E_FORMAT, -1,
             "%s: added token %zu is not UTF-8", draft->name, i);
  if (!t->nfc || !(t->flags[i] & LK_TOKEN_NORMALIZED)) return LEANK_OK;
  LK_TRY(lk_nfc(s.p, s.n, &nfc, &n, err));
  LK_FAIL_IF(nfc && (n != s.n || memcmp(nfc, s.p, n) != 0), err, LEANK_E_UNSUPPORTED, -1,
             "%s: added token %zu is not in form NFC", draft->name, i);
cleanup:
  lk_free(nfc);
  return status;
}

/* Special tokens are always cut out of the text as given: a normaliser must not stand between a
 * chat template and its tokens. */
static leank_status settle_added(lk_draft *draft, leank_error *err) {
  leank_status status = LEANK_OK;
  leank_tokenizer *t = draft->tokenizer;
  for (size_t i = 0; i < t->n_vocab; i++) {
    if (!(t->flags[i] & LK_TOKEN_ADDED)) continue;
    if (t->flags[i] & LK_TOKEN_SPECIAL) t->flags[i] &= (unsigned char)~LK_TOKEN_NORMALIZED;
    LK_TRY(check_added(draft, i, err));
  }
cleanup:
  return status;
}

leank_status lk_draft_finish(lk_draft *draft, leank_tokenizer **out, leank_error *err) {
  leank_status status = LEANK_OK;
  leank_tokenizer *t = draft->tokenizer;
  LK_TRY(fill_bytes(draft, err));
  LK_TRY(fill_words(draft, err));
  LK_TRY(settle_added(draft, err));
  LK_TRY(lk_added_open(&t->added, t, 0, err));
  LK_TRY(lk_added_open(&t->added_normalized, t, LK_TOKEN_NORMALIZED, err));
  mark_known_ends(t);
  *out = t;
  draft->tokenizer = NULL;
cleanup:
  return status;
}
