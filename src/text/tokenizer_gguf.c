/* A tokenizer from the metadata of a GGUF file (keys: ggml project, docs/gguf.md). */
#include <string.h>

#include "text/tokenizer.h"

/* tokenizer.ggml.token_type */
enum { TYPE_NORMAL = 1, TYPE_UNKNOWN = 2, TYPE_CONTROL = 3, TYPE_USER = 4, TYPE_UNUSED = 5 };

/* What tokenizer.ggml.pre says. Sources: tokenizer.json of SmolLM2, Qwen2.5 and Llama 3.1. */
typedef struct family {
  const char *pre;
  const char *patterns[2];
  bool nfc, whole_words, add_bos; /* add_bos: where the file does not say */
} family;

static const family families[] = {
    {"smollm", {lk_pattern_digit, lk_pattern_gpt2}, false, false, false},
    {"qwen2", {lk_pattern_qwen2, NULL}, true, false, false},
    {"llama-bpe", {lk_pattern_llama3, NULL}, false, true, true},
    {"llama3", {lk_pattern_llama3, NULL}, false, true, true},
    {"llama-v3", {lk_pattern_llama3, NULL}, false, true, true},
    {"gpt-2", {lk_pattern_gpt2, NULL}, false, false, false},
    {"starcoder", {lk_pattern_digit, lk_pattern_gpt2}, false, false, false},
};

static leank_status find_family(const lk_gguf *g, const family **out, leank_error *err) {
  leank_status status = LEANK_OK;
  const char *name = lk_gguf_name(g), *model = NULL, *pre = NULL;
  size_t n = 0;
  LK_FAIL_IF(!lk_gguf_str(g, "tokenizer.ggml.model", &model, &n), err, LEANK_E_FORMAT, -1,
             "%s: no tokenizer.ggml.model", name);
  LK_FAIL_IF(strcmp(model, "gpt2") != 0, err, LEANK_E_UNSUPPORTED, -1,
             "%s: tokenizer model '%.32s' (byte-level BPE, 'gpt2', is supported)", name, model);
  LK_FAIL_IF(!lk_gguf_str(g, "tokenizer.ggml.pre", &pre, &n), err, LEANK_E_UNSUPPORTED, -1,
             "%s: no tokenizer.ggml.pre, so how words are cut is not known", name);
  for (size_t i = 0; i < sizeof families / sizeof *families; i++)
    if (strcmp(pre, families[i].pre) == 0) {
      *out = &families[i];
      return LEANK_OK;
    }
  LK_FAIL(err, LEANK_E_UNSUPPORTED, -1, "%s: pre-tokenizer '%.32s'", name, pre);
cleanup:
  return status;
}

static unsigned flags_of_type(int64_t type) {
  switch (type) {
  case TYPE_CONTROL: return LK_TOKEN_ADDED | LK_TOKEN_SPECIAL;
  case TYPE_USER: return LK_TOKEN_ADDED;
  case TYPE_UNKNOWN: return LK_TOKEN_SPECIAL | LK_TOKEN_UNUSED;
  case TYPE_UNUSED: return LK_TOKEN_UNUSED;
  default: return 0;
  }
}

static leank_status read_tokens(const lk_gguf *g, lk_draft *draft, leank_error *err) {
  leank_status status = LEANK_OK;
  const char *name = lk_gguf_name(g);
  size_t n_types = 0;
  const bool typed = lk_gguf_has(g, "tokenizer.ggml.token_type");
  LK_FAIL_IF(typed && (!lk_gguf_array_count(g, "tokenizer.ggml.token_type", &n_types) ||
                       n_types != draft->n_vocab),
             err, LEANK_E_FORMAT, -1, "%s: tokenizer.ggml.token_type and tokens differ in length",
             name);
  for (size_t i = 0; i < draft->n_vocab; i++) {
    lk_span text = {0};
    int64_t type = TYPE_NORMAL;
    const bool ok = lk_gguf_array_str(g, "tokenizer.ggml.tokens", i, &text.p, &text.n) &&
                    (!typed || lk_gguf_array_i64(g, "tokenizer.ggml.token_type", i, &type));
    LK_FAIL_IF(!ok, err, LEANK_E_FORMAT, -1, "%s: tokenizer.ggml.tokens or token_type: wrong type",
               name);
    LK_TRY(lk_draft_token(draft, (int64_t)i, text, flags_of_type(type), err));
    LK_TRY(lk_draft_index(draft, (leank_token)i, err));
  }
cleanup:
  return status;
}

/* "a b": the blank that parts the two comes after at least one character. */
static leank_status read_merges(const lk_gguf *g, lk_draft *draft, leank_error *err) {
  leank_status status = LEANK_OK;
  const char *name = lk_gguf_name(g);
  size_t n = 0;
  LK_FAIL_IF(!lk_gguf_array_count(g, "tokenizer.ggml.merges", &n), err, LEANK_E_FORMAT, -1,
             "%s: no tokenizer.ggml.merges", name);
  LK_FAIL_IF(n > LK_MAX_MERGES, err, LEANK_E_FORMAT, -1, "%s: %zu merges", name, n);
  LK_TRY(lk_bpe_open_merges(&draft->tokenizer->bpe, n, err));
  for (size_t i = 0; i < n; i++) {
    lk_span m = {0};
    LK_FAIL_IF(!lk_gguf_array_str(g, "tokenizer.ggml.merges", i, &m.p, &m.n), err, LEANK_E_FORMAT,
               -1, "%s: tokenizer.ggml.merges: wrong type", name);
    const char *blank = m.n > 2 ? memchr(m.p + 1, ' ', m.n - 2) : NULL;
    LK_FAIL_IF(!blank, err, LEANK_E_FORMAT, -1, "%s: merge %zu is no pair", name, i);
    const size_t n_left = (size_t)(blank - m.p);
    LK_TRY(
        lk_draft_merge(draft, (lk_span){m.p, n_left}, (lk_span){blank + 1, m.n - n_left - 1}, err));
  }
cleanup:
  return status;
}

/* An optional id; false where it is out of range. */
static bool read_id(const lk_gguf *g, const char *key, size_t n_vocab, int64_t *out) {
  uint64_t id = 0;
  *out = -1;
  if (!lk_gguf_has(g, key)) return true;
  if (!lk_gguf_u64(g, key, &id) || id >= n_vocab) return false;
  *out = (int64_t)id;
  return true;
}

static leank_status read_ids(const lk_gguf *g, lk_draft *draft, const family *f, leank_error *err) {
  leank_status status = LEANK_OK;
  static const char *const ends[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                     "tokenizer.ggml.eom_token_id"};
  leank_tokenizer *t = draft->tokenizer;
  int64_t id = -1;
  for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
    LK_FAIL_IF(!read_id(g, ends[i], draft->n_vocab, &id), err, LEANK_E_FORMAT, -1,
               "%s: %s: not a token", lk_gguf_name(g), ends[i]);
    lk_draft_end_token(draft, id);
  }
  LK_FAIL_IF(!read_id(g, "tokenizer.ggml.bos_token_id", draft->n_vocab, &id), err, LEANK_E_FORMAT,
             -1, "%s: tokenizer.ggml.bos_token_id: not a token", lk_gguf_name(g));
  t->bos = (leank_token)id;
  t->add_bos = f->add_bos;
  (void)lk_gguf_bool(g, "tokenizer.ggml.add_bos_token", &t->add_bos);
cleanup:
  return status;
}

static leank_status add_patterns(const family *f, lk_draft *draft, leank_error *err) {
  leank_status status = LEANK_OK;
  lk_pretokenizer *pre = &draft->tokenizer->pre;
  for (size_t i = 0; i < 2 && f->patterns[i]; i++)
    LK_TRY(lk_pre_add_pattern(pre, f->patterns[i], strlen(f->patterns[i]), draft->name, err));
cleanup:
  return status;
}

leank_status lk_tokenizer_from_gguf(const lk_gguf *gguf, leank_tokenizer **out, leank_error *err) {
  leank_status status = LEANK_OK;
  lk_draft draft = {0};
  leank_tokenizer *t = NULL;
  const family *f = NULL;
  const char *name = lk_gguf_name(gguf), *jinja = NULL;
  size_t n = 0;
  LK_TRY(find_family(gguf, &f, err));
  LK_FAIL_IF(!lk_gguf_array_count(gguf, "tokenizer.ggml.tokens", &n), err, LEANK_E_FORMAT, -1,
             "%s: no tokenizer.ggml.tokens", name);
  LK_TRY(lk_draft_open(&draft, name, n, err));
  draft.tokenizer->nfc = f->nfc;
  draft.tokenizer->bpe.whole_words = f->whole_words;
  LK_TRY(add_patterns(f, &draft, err));
  LK_TRY(read_tokens(gguf, &draft, err));
  LK_TRY(read_merges(gguf, &draft, err));
  LK_TRY(read_ids(gguf, &draft, f, err));
  LK_TRY(lk_draft_finish(&draft, &t, err));
  if (!lk_gguf_str(gguf, "tokenizer.chat_template", &jinja, &n)) n = 0;
  LK_TRY(lk_chat_style_detect(t, jinja, n, &t->chat, err));
  *out = t;
  t = NULL;
cleanup:
  leank_tokenizer_close(&t);
  lk_draft_close(&draft);
  return status;
}
