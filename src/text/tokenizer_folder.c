/* A tokenizer from a Hugging Face folder: tokenizer.json and, where they exist,
 * tokenizer_config.json, generation_config.json and chat_template.jinja. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/map.h"
#include "formats/json_text.h"
#include "text/tokenizer.h"

enum { MAX_NESTING = 8 };

typedef struct folder {
  const char *path;
  char *name;                  /* path of tokenizer.json, for messages */
  json_t *root;                /* of tokenizer.json */
  json_t *config, *generation; /* or NULL */
  char *jinja;                 /* text of chat_template.jinja, or NULL */
  size_t n_jinja;
} folder;

/* ---- files ---- */

static char *join(const char *path, const char *file) {
  const size_t n = strlen(path) + strlen(file) + 2;
  char *joined = lk_alloc(LK_MEM_TEXT, n, 1);
  if (joined) snprintf(joined, n, "%s/%s", path, file);
  return joined;
}

/* The text of a file; *out stays NULL where it does not exist and need not. */
static leank_status read_text(const char *path, bool needed, size_t max_bytes, char **out,
                              size_t *n_out, leank_error *err) {
  if (!needed && access(path, F_OK) != 0) return LEANK_OK;
  return lk_file_read(path, max_bytes, out, n_out, err);
}

static leank_status read_json(const char *path, const char *file, bool needed, size_t max_bytes,
                              json_t **out, leank_error *err) {
  leank_status status = LEANK_OK;
  char *full = join(path, file), *text = NULL;
  size_t n = 0;
  LK_FAIL_IF(!full, err, LEANK_E_MEMORY, -1, "%s: out of memory", path);
  LK_TRY(read_text(full, needed, max_bytes, &text, &n, err));
  if (text) LK_TRY(lk_json_parse_object(text, n, true, &(lk_json_place){.name = full}, out, err));
cleanup:
  lk_free(text);
  lk_free(full);
  return status;
}

/* ---- helpers ---- */

static lk_span span_of(const json_t *string) {
  return (lk_span){json_string_value(string), json_string_length(string)};
}

static bool is_str(const json_t *value, const char *text) {
  return json_is_string(value) && json_string_length(value) == strlen(text) &&
         strcmp(json_string_value(value), text) == 0;
}

/* A string that is absent, null or empty. */
static bool is_blank(const json_t *value) {
  return !value || json_is_null(value) || is_str(value, "");
}

static bool bool_of(const json_t *object, const char *key, bool otherwise) {
  const json_t *value = json_object_get(object, key);
  return json_is_boolean(value) ? json_is_true(value) : otherwise;
}

static const char *type_of(const json_t *object) {
  const char *type = json_string_value(json_object_get(object, "type"));
  return type ? type : "(no type)";
}

/* ---- model ---- */

static leank_status check_model(const folder *f, const json_t *model, leank_error *err) {
  leank_status status = LEANK_OK;
  const json_t *type = json_object_get(model, "type");
  LK_FAIL_IF(!json_is_object(model), err, LEANK_E_FORMAT, -1, "%s: no model", f->name);
  LK_FAIL_IF(type && !is_str(type, "BPE"), err, LEANK_E_UNSUPPORTED, -1,
             "%s: model type '%.32s' (BPE is supported)", f->name, type_of(model));
  LK_FAIL_IF(bool_of(model, "byte_fallback", false), err, LEANK_E_UNSUPPORTED, -1,
             "%s: byte_fallback (byte-level BPE is supported)", f->name);
  LK_FAIL_IF(!is_blank(json_object_get(model, "continuing_subword_prefix")) ||
                 !is_blank(json_object_get(model, "end_of_word_suffix")),
             err, LEANK_E_UNSUPPORTED, -1, "%s: a subword prefix or suffix", f->name);
  LK_FAIL_IF(json_number_value(json_object_get(model, "dropout")) != 0, err, LEANK_E_UNSUPPORTED,
             -1, "%s: dropout", f->name);
  LK_FAIL_IF(!json_is_object(json_object_get(model, "vocab")), err, LEANK_E_FORMAT, -1,
             "%s: no vocab", f->name);
cleanup:
  return status;
}

/* The highest id of the vocabulary and the added tokens. Ids may have gaps, but not such that a
 * small file asks for much memory. */
static leank_status count_ids(const folder *f, json_t *vocab, const json_t *added, size_t *n_vocab,
                              leank_error *err) {
  leank_status status = LEANK_OK;
  const size_t n = json_object_size(vocab) + json_array_size(added);
  json_int_t highest = -1;
  const char *key;
  json_t *value;
  size_t i;
  json_object_foreach(vocab, key, value) {
    LK_FAIL_IF(!json_is_integer(value), err, LEANK_E_FORMAT, -1, "%s: an id that is no integer",
               f->name);
    if (json_integer_value(value) > highest) highest = json_integer_value(value);
  }
  json_array_foreach(added, i, value) {
    const json_t *id = json_object_get(value, "id");
    LK_FAIL_IF(!json_is_integer(id), err, LEANK_E_FORMAT, -1, "%s: added token %zu has no id",
               f->name, i);
    if (json_integer_value(id) > highest) highest = json_integer_value(id);
  }
  LK_FAIL_IF(highest >= LK_MAX_VOCAB || highest >= (json_int_t)(2 * n + 4096), err, LEANK_E_FORMAT,
             -1, "%s: id %lld among %zu tokens", f->name, (long long)highest, n);
  *n_vocab = (size_t)(highest + 1);
cleanup:
  return status;
}

static leank_status read_vocab(json_t *vocab, lk_draft *draft, leank_error *err) {
  leank_status status = LEANK_OK;
  const char *key;
  json_t *value;
  json_object_foreach(vocab, key, value) {
    LK_TRY(lk_draft_token(draft, json_integer_value(value), (lk_span){key, strlen(key)}, 0, err));
    LK_TRY(lk_draft_index(draft, (leank_token)json_integer_value(value), err));
  }
cleanup:
  return status;
}

/* "a b" or ["a", "b"]. */
static bool read_pair(const json_t *merge, lk_span *a, lk_span *b) {
  if (json_is_array(merge) && json_array_size(merge) == 2) {
    *a = span_of(json_array_get(merge, 0));
    *b = span_of(json_array_get(merge, 1));
    return a->p && b->p;
  }
  const lk_span all = span_of(merge);
  const char *blank = all.p ? memchr(all.p, ' ', all.n) : NULL;
  if (!blank) return false;
  *a = (lk_span){all.p, (size_t)(blank - all.p)};
  *b = (lk_span){blank + 1, all.n - a->n - 1};
  return !memchr(b->p, ' ', b->n);
}

static leank_status read_merges(const json_t *merges, lk_draft *draft, leank_error *err) {
  leank_status status = LEANK_OK;
  const size_t n = json_array_size(merges);
  LK_FAIL_IF(!json_is_array(merges) || n > LK_MAX_MERGES, err, LEANK_E_FORMAT, -1,
             "%s: no merges, or too many", draft->name);
  LK_TRY(lk_bpe_open_merges(&draft->tokenizer->bpe, n, err));
  for (size_t i = 0; i < n; i++) {
    lk_span a = {0}, b = {0};
    LK_FAIL_IF(!read_pair(json_array_get(merges, i), &a, &b), err, LEANK_E_FORMAT, -1,
               "%s: merge %zu is no pair", draft->name, i);
    LK_TRY(lk_draft_merge(draft, a, b, err));
  }
cleanup:
  return status;
}

static leank_status read_unknown(const json_t *model, lk_draft *draft, leank_error *err) {
  lk_bpe *bpe = &draft->tokenizer->bpe;
  const json_t *unknown = json_object_get(model, "unk_token");
  bpe->whole_words = bool_of(model, "ignore_merges", false);
  bpe->fuse_unknown = bool_of(model, "fuse_unk", false);
  if (!unknown || json_is_null(unknown)) return LEANK_OK;
  if (json_is_string(unknown))
    bpe->unknown = lk_str_map_get(&draft->by_text, span_of(unknown), (lk_span){"", 0});
  if (bpe->unknown >= 0) return LEANK_OK;
  return lk_fail(err, LEANK_E_FORMAT, -1, "%s: unk_token is not in the vocabulary", draft->name);
}

/* ---- added tokens ---- */

static unsigned added_flags(const json_t *token) {
  const bool special = bool_of(token, "special", false);
  return LK_TOKEN_ADDED | (special ? LK_TOKEN_SPECIAL : 0) |
         (bool_of(token, "normalized", !special) ? LK_TOKEN_NORMALIZED : 0) |
         (bool_of(token, "lstrip", false) ? LK_TOKEN_LSTRIP : 0) |
         (bool_of(token, "rstrip", false) ? LK_TOKEN_RSTRIP : 0);
}

static leank_status read_added(const json_t *added, lk_draft *draft, leank_error *err) {
  leank_status status = LEANK_OK;
  size_t i;
  json_t *token;
  json_array_foreach(added, i, token) {
    const json_t *content = json_object_get(token, "content");
    const json_int_t id = json_integer_value(json_object_get(token, "id"));
    LK_FAIL_IF(!json_is_string(content), err, LEANK_E_FORMAT, -1,
               "%s: added token %zu has no content", draft->name, i);
    LK_FAIL_IF(bool_of(token, "single_word", false), err, LEANK_E_UNSUPPORTED, -1,
               "%s: added token %zu is single_word", draft->name, i);
    const int32_t known = lk_str_map_get(&draft->by_text, span_of(content), (lk_span){"", 0});
    LK_FAIL_IF(known >= 0 && known != id, err, LEANK_E_FORMAT, -1,
               "%s: added token %zu has the id %lld, in the vocabulary %d", draft->name, i,
               (long long)id, (int)known);
    LK_TRY(lk_draft_token(draft, id, span_of(content), added_flags(token), err));
    if (known < 0) LK_TRY(lk_draft_index(draft, (leank_token)id, err));
  }
cleanup:
  return status;
}

/* ---- normaliser, pre-tokenizer, post-processor ---- */

static leank_status read_normalizer(const json_t *node, int depth, lk_draft *draft,
                                    leank_error *err) {
  leank_status status = LEANK_OK;
  size_t i;
  json_t *part;
  if (!node || json_is_null(node)) return LEANK_OK;
  if (is_str(json_object_get(node, "type"), "NFC")) {
    draft->tokenizer->nfc = true;
    return LEANK_OK;
  }
  LK_FAIL_IF(depth > MAX_NESTING || !is_str(json_object_get(node, "type"), "Sequence"), err,
             LEANK_E_UNSUPPORTED, -1, "%s: normalizer '%.32s'", draft->name, type_of(node));
  json_array_foreach(json_object_get(node, "normalizers"), i, part)
      LK_TRY(read_normalizer(part, depth + 1, draft, err));
cleanup:
  return status;
}

static leank_status read_split(const json_t *node, lk_draft *draft, leank_error *err) {
  leank_status status = LEANK_OK;
  const json_t *regex = json_object_get(json_object_get(node, "pattern"), "Regex");
  const json_t *behavior = json_object_get(node, "behavior");
  LK_FAIL_IF(!json_is_string(regex), err, LEANK_E_UNSUPPORTED, -1,
             "%s: pre_tokenizer Split by something other than a Regex", draft->name);
  LK_FAIL_IF(!is_str(behavior, "Isolated") || bool_of(node, "invert", false), err,
             LEANK_E_UNSUPPORTED, -1, "%s: pre_tokenizer Split with behavior '%.32s'%s",
             draft->name, json_is_string(behavior) ? json_string_value(behavior) : "(none)",
             bool_of(node, "invert", false) ? " inverted" : "");
  LK_TRY(lk_pre_add_pattern(&draft->tokenizer->pre, json_string_value(regex),
                            json_string_length(regex), draft->name, err));
cleanup:
  return status;
}

static leank_status add_pattern(lk_draft *draft, const char *pattern, leank_error *err) {
  return lk_pre_add_pattern(&draft->tokenizer->pre, pattern, strlen(pattern), draft->name, err);
}

/* Turns text into the byte alphabet, so nothing may come after it. */
static leank_status read_byte_level(const json_t *node, lk_draft *draft, leank_error *err) {
  leank_status status = LEANK_OK;
  if (bool_of(node, "add_prefix_space", true))
    LK_TRY(lk_pre_add_prefix_space(&draft->tokenizer->pre, draft->name, err));
  if (bool_of(node, "use_regex", true)) LK_TRY(add_pattern(draft, lk_pattern_gpt2, err));
cleanup:
  return status;
}

static leank_status read_pre_tokenizer(const json_t *node, int depth, bool *byte_level,
                                       lk_draft *draft, leank_error *err) {
  leank_status status = LEANK_OK;
  size_t i;
  json_t *part;
  const char *type = type_of(node);
  LK_FAIL_IF(depth > MAX_NESTING, err, LEANK_E_UNSUPPORTED, -1, "%s: pre_tokenizer nested deeply",
             draft->name);
  LK_FAIL_IF(*byte_level, err, LEANK_E_UNSUPPORTED, -1, "%s: pre_tokenizer '%.32s' after ByteLevel",
             draft->name, type);
  if (strcmp(type, "Sequence") == 0) {
    json_array_foreach(json_object_get(node, "pretokenizers"), i, part)
        LK_TRY(read_pre_tokenizer(part, depth + 1, byte_level, draft, err));
  } else if (strcmp(type, "Split") == 0) {
    LK_TRY(read_split(node, draft, err));
  } else if (strcmp(type, "Digits") == 0) {
    const bool each = bool_of(node, "individual_digits", false);
    LK_TRY(add_pattern(draft, each ? lk_pattern_digit : lk_pattern_digits, err));
  } else if (strcmp(type, "ByteLevel") == 0) {
    LK_TRY(read_byte_level(node, draft, err));
    *byte_level = true;
  } else {
    LK_FAIL(err, LEANK_E_UNSUPPORTED, -1, "%s: pre_tokenizer '%.32s'", draft->name, type);
  }
cleanup:
  return status;
}

/* The special token that a TemplateProcessing puts first, or NULL. */
static const json_t *first_special(const json_t *node, int depth) {
  if (depth > MAX_NESTING) return NULL;
  if (is_str(json_object_get(node, "type"), "TemplateProcessing")) {
    const json_t *first = json_array_get(json_object_get(node, "single"), 0);
    return json_object_get(json_object_get(first, "SpecialToken"), "id");
  }
  size_t i;
  json_t *part;
  json_array_foreach(json_object_get(node, "processors"), i, part) {
    const json_t *found = first_special(part, depth + 1);
    if (found) return found;
  }
  return NULL;
}

/* ---- the other files ---- */

/* A token of tokenizer_config.json: a string, or an object with the string as its content. */
static leank_token config_token(const folder *f, const lk_draft *draft, const char *key) {
  const json_t *value = json_object_get(f->config, key);
  if (json_is_object(value)) value = json_object_get(value, "content");
  if (!json_is_string(value)) return -1;
  return lk_str_map_get(&draft->by_text, span_of(value), (lk_span){"", 0});
}

static leank_status read_bos(const folder *f, lk_draft *draft, leank_error *err) {
  leank_tokenizer *t = draft->tokenizer;
  const json_t *first = first_special(json_object_get(f->root, "post_processor"), 0);
  t->bos = config_token(f, draft, "bos_token");
  t->add_bos = bool_of(f->config, "add_bos_token", false);
  if (!json_is_string(first)) return LEANK_OK;
  t->bos = lk_str_map_get(&draft->by_text, span_of(first), (lk_span){"", 0});
  t->add_bos = true;
  if (t->bos >= 0) return LEANK_OK;
  return lk_fail(err, LEANK_E_FORMAT, -1, "%s: the post_processor names an unknown token", f->name);
}

static void read_ends(const folder *f, lk_draft *draft) {
  const json_t *eos = json_object_get(f->generation, "eos_token_id");
  size_t i;
  json_t *id;
  lk_draft_end_token(draft, config_token(f, draft, "eos_token"));
  if (json_is_integer(eos)) lk_draft_end_token(draft, json_integer_value(eos));
  json_array_foreach(eos, i, id) if (json_is_integer(id))
      lk_draft_end_token(draft, json_integer_value(id));
}

/* chat_template.jinja, else the config's template, else the one named "default" in its list. */
static lk_span find_jinja(const folder *f) {
  if (f->jinja) return (lk_span){f->jinja, f->n_jinja};
  const json_t *value = json_object_get(f->config, "chat_template");
  size_t i;
  json_t *item;
  json_array_foreach(value, i,
                     item) if (is_str(json_object_get(item, "name"),
                                      "default")) return span_of(json_object_get(item, "template"));
  return json_is_string(value) ? span_of(value) : (lk_span){NULL, 0};
}

/* ---- all together ---- */

static leank_status open_files(folder *f, leank_error *err) {
  leank_status status = LEANK_OK;
  char *jinja = join(f->path, "chat_template.jinja");
  f->name = join(f->path, "tokenizer.json");
  LK_FAIL_IF(!f->name || !jinja, err, LEANK_E_MEMORY, -1, "%s: out of memory", f->path);
  LK_TRY(read_json(f->path, "tokenizer.json", true, LK_MAX_TOKENIZER_JSON, &f->root, err));
  LK_TRY(read_json(f->path, "tokenizer_config.json", false, LK_MAX_CONFIG_JSON, &f->config, err));
  LK_TRY(
      read_json(f->path, "generation_config.json", false, LK_MAX_CONFIG_JSON, &f->generation, err));
  LK_TRY(read_text(jinja, false, LK_MAX_CONFIG_JSON, &f->jinja, &f->n_jinja, err));
cleanup:
  lk_free(jinja);
  return status;
}

static void close_files(folder *f) {
  json_decref(f->root);
  json_decref(f->config);
  json_decref(f->generation);
  lk_free(f->jinja);
  lk_free(f->name);
}

static leank_status fill_draft(const folder *f, lk_draft *draft, leank_error *err) {
  leank_status status = LEANK_OK;
  json_t *model = json_object_get(f->root, "model");
  const json_t *added = json_object_get(f->root, "added_tokens");
  size_t n_vocab = 0;
  bool byte_level = false;
  LK_TRY(check_model(f, model, err));
  json_t *vocab = json_object_get(model, "vocab");
  LK_TRY(count_ids(f, vocab, added, &n_vocab, err));
  LK_TRY(lk_draft_open(draft, f->name, n_vocab, err));
  LK_TRY(read_vocab(vocab, draft, err));
  LK_TRY(read_unknown(model, draft, err));
  LK_TRY(read_merges(json_object_get(model, "merges"), draft, err));
  LK_TRY(read_added(added, draft, err));
  LK_TRY(read_normalizer(json_object_get(f->root, "normalizer"), 0, draft, err));
  LK_TRY(read_pre_tokenizer(json_object_get(f->root, "pre_tokenizer"), 0, &byte_level, draft, err));
  LK_FAIL_IF(!byte_level, err, LEANK_E_UNSUPPORTED, -1, "%s: no ByteLevel pre_tokenizer", f->name);
  LK_TRY(read_bos(f, draft, err));
  read_ends(f, draft);
cleanup:
  return status;
}

leank_status lk_tokenizer_from_folder(const char *path, leank_tokenizer **out, leank_error *err) {
  leank_status status = LEANK_OK;
  folder f = {.path = path};
  lk_draft draft = {0};
  leank_tokenizer *t = NULL;
  LK_TRY(open_files(&f, err));
  LK_TRY(fill_draft(&f, &draft, err));
  LK_TRY(lk_draft_finish(&draft, &t, err));
  const lk_span jinja = find_jinja(&f);
  LK_TRY(lk_chat_style_detect(t, jinja.p, jinja.n, &t->chat, err));
  *out = t;
  t = NULL;
cleanup:
  leank_tokenizer_close(&t);
  lk_draft_close(&draft);
  close_files(&f);
  return status;
}
