/* Hostile tokenizer files: every fault is named, none does harm. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include <leank/text.h>

#include "base/alloc.h"
#include "base/map.h"
#include "base/rng.h"
#include "formats/gguf.h"
#include "text/tokenizer.h"

#define DATA LEANK_TEST_DATA "/tokenizer/"

static leank_error err;

/* ---- folders ---- */

static char folder_path[4096];

static void write_file(const char *name, const void *bytes, size_t n) {
  char path[4200];
  snprintf(path, sizeof path, "%s/%s", folder_path, name);
  FILE *f = fopen(path, "wb");
  assert_non_null(f);
  assert_int_equal(fwrite(bytes, 1, n, f), n);
  assert_int_equal(fclose(f), 0);
}

static void write_text(const char *name, const char *text) { write_file(name, text, strlen(text)); }

static void remove_file(const char *name) {
  char path[4200];
  snprintf(path, sizeof path, "%s/%s", folder_path, name);
  unlink(path);
}

static int make_folder(void **state) {
  (void)state;
  snprintf(folder_path, sizeof folder_path, "%s/tokenizer-XXXXXX", LEANK_TEST_TMP);
  return mkdtemp(folder_path) ? 0 : -1;
}

static int remove_folder(void **state) {
  (void)state;
  static const char *const names[] = {"tokenizer.json", "tokenizer_config.json",
                                      "generation_config.json", "chat_template.jinja"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) remove_file(names[i]);
  return rmdir(folder_path);
}

static leank_status open_folder(leank_tokenizer **out) {
  *out = NULL;
  err = (leank_error){0};
  const leank_status status = leank_tokenizer_open(folder_path, out, &err);
  if (status != LEANK_OK) {
    assert_null(*out);
    assert_int_equal(err.code, status);
    assert_true(strlen(err.message) > 0);
  }
  return status;
}

/* The parts of a small tokenizer.json; NULL = the sound one. */
typedef struct parts {
  const char *vocab, *merges, *model, *added, *normalizer, *pre, *post;
} parts;

static void write_json(parts p) {
  char text[8192];
  const int n =
      snprintf(text, sizeof text,
               "{\"added_tokens\":%s,\"normalizer\":%s,\"pre_tokenizer\":%s,\"post_processor\":%s,"
               "\"model\":{\"type\":\"BPE\",%s\"vocab\":%s,\"merges\":%s}}",
               p.added ? p.added : "[{\"id\":5,\"content\":\"<|im_end|>\",\"special\":true}]",
               p.normalizer ? p.normalizer : "null",
               p.pre ? p.pre : "{\"type\":\"ByteLevel\",\"add_prefix_space\":false}",
               p.post ? p.post : "null", p.model ? p.model : "",
               p.vocab ? p.vocab : "{\"a\":0,\"b\":1,\"c\":2,\"ab\":3,\"abc\":4}",
               p.merges ? p.merges : "[\"a b\",[\"ab\",\"c\"]]");
  assert_true(n > 0 && (size_t)n < sizeof text);
  write_text("tokenizer.json", text);
}

typedef struct fault {
  parts p;
  leank_status status;
  const char *message; /* a part of it */
} fault;

static void expect_fault(const fault *f, size_t i) {
  leank_tokenizer *t = NULL;
  write_json(f->p);
  const leank_status status = open_folder(&t);
  leank_tokenizer_close(&t);
  if (status != f->status || (status != LEANK_OK && !strstr(err.message, f->message)))
    fail_msg("case %zu: status %d, '%s'", i, status, err.message);
}

static void faults_of_tokenizer_json_are_named(void **state) {
  (void)state;
#define SPLIT(regex)                                                                               \
  "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"behavior\":"                    \
  "\"Isolated\",\"pattern\":{\"Regex\":\"" regex "\"}},{\"type\":\"ByteLevel\"}]}"
  static const fault faults[] = {
      {{0}, LEANK_OK, ""},
      /* vocabulary */
      {{.vocab = "[]"}, LEANK_E_FORMAT, "no vocab"},
      {{.vocab = "{}", .added = "[]", .merges = "[]"}, LEANK_E_FORMAT, "vocabulary of 0"},
      {{.vocab = "{\"a\":\"0\"}"}, LEANK_E_FORMAT, "no integer"},
      {{.vocab = "{\"a\":0.5}"}, LEANK_E_FORMAT, "no integer"},
      {{.vocab = "{\"a\":-1,\"b\":1}"}, LEANK_E_FORMAT, "id -1"},
      {{.vocab = "{\"a\":0,\"b\":0}"}, LEANK_E_FORMAT, "two tokens"},
      {{.vocab = "{\"a\":0,\"a\":1}"}, LEANK_E_FORMAT, "duplicate"},
      {{.vocab = "{\"a\":4000000000}"}, LEANK_E_FORMAT, "id 4000000000"},
      {{.vocab = "{\"a\":900000}"}, LEANK_E_FORMAT, "id 900000"},
      {{.vocab = "{\"a\":9223372036854775807}"}, LEANK_E_FORMAT, "id 9223372036854775807"},
      {{.vocab = "{\"a\":99999999999999999999}"}, LEANK_E_FORMAT, "too big"},
      {{.vocab = "{\"a\" \"\x7f\"}"}, LEANK_E_FORMAT, "near '\"?\"'"}, /* fit for a line */
      /* merges */
      {{.merges = "{}"}, LEANK_E_FORMAT, "no merges"},
      {{.merges = "[\"a x\"]"}, LEANK_E_FORMAT, "unknown token"},
      {{.merges = "[\"x a\"]"}, LEANK_E_FORMAT, "unknown token"},
      {{.merges = "[\"b c\"]"}, LEANK_E_FORMAT, "unknown token"},
      {{.merges = "[\"ab\"]"}, LEANK_E_FORMAT, "no pair"},
      {{.merges = "[\"a b c\"]"}, LEANK_E_FORMAT, "no pair"},
      {{.merges = "[\" ab\"]"}, LEANK_E_FORMAT, "unknown token"},
      {{.merges = "[[\"a\"]]"}, LEANK_E_FORMAT, "no pair"},
      {{.merges = "[[\"a\",7]]"}, LEANK_E_FORMAT, "no pair"},
      {{.merges = "[7]"}, LEANK_E_FORMAT, "no pair"},
      {{.merges = "[\"a b\",\"a b\"]"}, LEANK_OK, ""},
      /* model */
      {{.model = "\"byte_fallback\":true,"}, LEANK_E_UNSUPPORTED, "byte_fallback"},
      {{.model = "\"continuing_subword_prefix\":\"##\","}, LEANK_E_UNSUPPORTED, "prefix"},
      {{.model = "\"end_of_word_suffix\":\"</w>\","}, LEANK_E_UNSUPPORTED, "suffix"},
      {{.model = "\"dropout\":0.1,"}, LEANK_E_UNSUPPORTED, "dropout"},
      {{.model = "\"unk_token\":\"<unk>\","}, LEANK_E_FORMAT, "unk_token"},
      {{.model = "\"unk_token\":7,"}, LEANK_E_FORMAT, "unk_token"},
      {{.model = "\"unk_token\":\"c\","}, LEANK_OK, ""},
      /* added tokens */
      {{.added = "[{\"content\":\"x\"}]"}, LEANK_E_FORMAT, "no id"},
      {{.added = "[{\"id\":\"5\",\"content\":\"x\"}]"}, LEANK_E_FORMAT, "no id"},
      {{.added = "[5]"}, LEANK_E_FORMAT, "no id"},
      {{.added = "[{\"id\":5}]"}, LEANK_E_FORMAT, "no content"},
      {{.added = "[{\"id\":-5,\"content\":\"x\"}]"}, LEANK_E_FORMAT, "id -5"},
      {{.added = "[{\"id\":3,\"content\":\"x\"}]"}, LEANK_E_FORMAT, "two tokens"},
      {{.added = "[{\"id\":5,\"content\":\"a\"}]"}, LEANK_E_FORMAT, "in the vocabulary"},
      {{.added = "[{\"id\":5,\"content\":\"x\"},{\"id\":6,\"content\":\"x\"}]"},
       LEANK_E_FORMAT,
       "5"},
      {{.added = "[{\"id\":0,\"content\":\"a\"}]"}, LEANK_OK, ""},
      {{.added = "[{\"id\":5,\"content\":\"\"}]"}, LEANK_OK, ""},
      {{.added = "[{\"id\":5,\"content\":\"x\",\"single_word\":true}]"},
       LEANK_E_UNSUPPORTED,
       "single"},
      {{.added = "[{\"id\":5,\"content\":\"e\xcc\x81\",\"normalized\":true}]",
        .normalizer = "{\"type\":\"NFC\"}"},
       LEANK_E_UNSUPPORTED,
       "NFC"},
      /* normaliser */
      {{.normalizer = "{\"type\":\"NFKC\"}"}, LEANK_E_UNSUPPORTED, "NFKC"},
      {{.normalizer = "7"}, LEANK_E_UNSUPPORTED, "(no type)"},
      {{.normalizer = "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"}]}"},
       LEANK_OK,
       ""},
      {{.normalizer = "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Lowercase\"}]}"},
       LEANK_E_UNSUPPORTED,
       "Lowercase"},
      /* pre-tokenizer */
      {{.pre = "null"}, LEANK_E_UNSUPPORTED, "(no type)"},
      {{.pre = "{\"type\":\"Sequence\",\"pretokenizers\":[]}"},
       LEANK_E_UNSUPPORTED,
       "no ByteLevel"},
      {{.pre = "{\"type\":\"Metaspace\"}"}, LEANK_E_UNSUPPORTED, "Metaspace"},
      {{.pre = "{\"type\":\"Digits\"}"}, LEANK_E_UNSUPPORTED, "no ByteLevel"},
      {{.pre = "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"ByteLevel\"},{\"type\":"
               "\"Digits\"}]}"},
       LEANK_E_UNSUPPORTED,
       "after ByteLevel"},
      {{.pre = "{\"type\":\"Split\",\"pattern\":{\"String\":\" \"},\"behavior\":\"Isolated\"}"},
       LEANK_E_UNSUPPORTED,
       "Regex"},
      {{.pre = "{\"type\":\"Split\",\"pattern\":{\"Regex\":\" \"},\"behavior\":\"Removed\"}"},
       LEANK_E_UNSUPPORTED,
       "Removed"},
      {{.pre = "{\"type\":\"Split\",\"pattern\":{\"Regex\":\" \"},\"behavior\":\"Isolated\","
               "\"invert\":true}"},
       LEANK_E_UNSUPPORTED,
       "inverted"},
      {{.pre = SPLIT("")}, LEANK_E_UNSUPPORTED, "0 bytes"},
      {{.pre = SPLIT("(a")}, LEANK_E_UNSUPPORTED, "PCRE2 error"},
      {{.pre = SPLIT("a*")}, LEANK_E_UNSUPPORTED, "match nothing"},
      {{.pre = SPLIT("\\\\w+")}, LEANK_E_UNSUPPORTED, "cannot read"},
      {{.pre = SPLIT("[a&&b]")}, LEANK_E_UNSUPPORTED, "cannot read"},
      {{.pre = SPLIT("[[a]]")}, LEANK_E_UNSUPPORTED, "cannot read"},
      {{.pre = SPLIT("(*ACCEPT)a")}, LEANK_E_UNSUPPORTED, "cannot read"},
      {{.pre = SPLIT("(?m:a)")}, LEANK_E_UNSUPPORTED, "cannot read"},
      {{.pre = SPLIT("a{2}+")}, LEANK_E_UNSUPPORTED, "cannot read"},
      {{.pre = SPLIT("^a")}, LEANK_E_UNSUPPORTED, "cannot read"},
      {{.pre = SPLIT("a\\\\")}, LEANK_E_UNSUPPORTED, "cannot read"},
      {{.pre = SPLIT("\\\\pL")}, LEANK_E_UNSUPPORTED, "cannot read"},
      {{.pre = SPLIT("\\\\p{Nonsense}")}, LEANK_E_UNSUPPORTED, "PCRE2 error"},
      {{.pre = SPLIT("[^\\\\s\\\\p{L}]+(?=b)|\\\\S")}, LEANK_OK, ""},
      /* post-processor */
      {{.post = "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"x\"}}]}"},
       LEANK_E_FORMAT,
       "post_processor"},
      {{.post = "{\"type\":\"TemplateProcessing\",\"single\":[{\"Sequence\":{\"id\":\"A\"}}]}"},
       LEANK_OK,
       ""},
  };
#undef SPLIT
  for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) expect_fault(&faults[i], i);
}

/* Nesting beyond reason, in what we walk ourselves and in the JSON parser. */
static void deep_nesting_ends(void **state) {
  (void)state;
  enum { DEPTH = 100000 };
  static const char open[] = "{\"type\":\"Sequence\",\"pretokenizers\":[";
  char text[4096] = "";
  for (int i = 0; i < 20; i++) strcat(text, open);
  strcat(text, "{\"type\":\"ByteLevel\"}");
  for (int i = 0; i < 20; i++) strcat(text, "]}");
  const fault f = {{.pre = text}, LEANK_E_UNSUPPORTED, "deeply"};
  expect_fault(&f, 0);
  char *deep = lk_alloc(LK_MEM_OTHER, DEPTH, 1);
  assert_non_null(deep);
  memset(deep, '[', DEPTH);
  write_file("tokenizer.json", deep, DEPTH);
  lk_free(deep);
  leank_tokenizer *t = NULL;
  assert_int_equal(open_folder(&t), LEANK_E_FORMAT);
}

static void text_that_is_no_json_is_located(void **state) {
  (void)state;
  static const char *const texts[] = {
      "", "{", "[]", "{\"a\":\"\xff\"}", "null", "{} x", "\xef\xbb\xbf{}"};
  leank_tokenizer *t = NULL;
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
    write_text("tokenizer.json", texts[i]);
    assert_int_equal(open_folder(&t), LEANK_E_FORMAT);
    assert_non_null(strstr(err.message, "tokenizer.json"));
  }
  remove_file("tokenizer.json");
  assert_int_equal(open_folder(&t), LEANK_E_IO);
}

static void other_files_of_a_folder(void **state) {
  (void)state;
  leank_tokenizer *t = NULL;
  write_json((parts){0});
  write_text("tokenizer_config.json", "{");
  assert_int_equal(open_folder(&t), LEANK_E_FORMAT);
  assert_non_null(strstr(err.message, "tokenizer_config.json"));
  write_text("tokenizer_config.json",
             "{\"eos_token\":7,\"bos_token\":[],\"chat_template\":{\"x\":1},\"add_bos_token\":3}");
  write_text("generation_config.json", "{\"eos_token_id\":[1,-1,1e9,\"x\",99999999,null]}");
  write_text("chat_template.jinja", "");
  assert_int_equal(open_folder(&t), LEANK_OK);
  assert_true(leank_token_is_end(t, 1) && leank_token_is_end(t, 5) && !leank_token_is_end(t, 0));
  leank_tokenizer_close(&t);
  remove_file("tokenizer_config.json");
  remove_file("generation_config.json");
  remove_file("chat_template.jinja");
}

/* A pattern that backtracks exponentially is stopped and reported, not waited for. */
static void exponential_patterns_end(void **state) {
  (void)state;
  leank_tokenizer *t = NULL;
  char text[256];
  leank_token *tokens = NULL;
  size_t n = 0;
  memset(text, 'a', sizeof text);
  write_json(
      (parts){.pre = "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"behavior\":"
                     "\"Isolated\",\"pattern\":{\"Regex\":\"(?:a|a+)+(?:aa|a+)+[bc]\"}},{\"type\":"
                     "\"ByteLevel\"}]}"});
  assert_int_equal(open_folder(&t), LEANK_OK);
  assert_int_equal(leank_tokenize(t, text, sizeof text, 0, &tokens, &n, &err), LEANK_E_FORMAT);
  assert_null(tokens);
  leank_tokenizer_close(&t);
}

/* Bytes the vocabulary lacks vanish, or become the unknown token. */
static void missing_bytes(void **state) {
  (void)state;
  static const struct {
    const char *model;
    leank_token want[6];
    size_t n;
  } cases[] = {{"", {4, 3}, 2}, /* "a?bc" and "ab": what is left joins, as in the reference */
               {"\"unk_token\":\"c\",", {0, 2, 2, 1, 2, 3}, 6},
               {"\"unk_token\":\"c\",\"fuse_unk\":true,", {0, 2, 1, 2, 3}, 5}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    leank_tokenizer *t = NULL;
    leank_token *tokens = NULL;
    size_t n = 0;
    write_json((parts){.model = cases[i].model,
                       .pre = "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\","
                              "\"behavior\":\"Isolated\",\"pattern\":{\"Regex\":\"!\"}},{\"type\":"
                              "\"ByteLevel\",\"use_regex\":false,\"add_prefix_space\":false}]}",
                       .added = "[{\"id\":5,\"content\":\"|\"}]"});
    assert_int_equal(open_folder(&t), LEANK_OK);
    assert_int_equal(leank_tokenize(t, "a??bc|ab", 8, 0, &tokens, &n, &err), LEANK_OK);
    leank_token kept[8];
    size_t n_kept = 0;
    for (size_t k = 0; k < n; k++)
      if (tokens[k] != 5) kept[n_kept++] = tokens[k];
    assert_int_equal(n_kept, cases[i].n);
    assert_memory_equal(kept, cases[i].want, n_kept * sizeof *kept);
    leank_tokens_free(&tokens);
    leank_tokenizer_close(&t);
  }
}

/* ---- GGUF ---- */

typedef struct bytes {
  unsigned char data[1 << 16];
  size_t n;
  uint64_t n_keys;
} bytes;

enum { GGUF_U32 = 4, GGUF_I32 = 5, GGUF_F32 = 6, GGUF_BOOL = 7, GGUF_STRING = 8, GGUF_ARRAY = 9 };

static void put(bytes *b, const void *data, size_t n) {
  assert_true(n <= sizeof b->data - b->n);
  if (n > 0) memcpy(b->data + b->n, data, n);
  b->n += n;
}
static void put_u32(bytes *b, uint32_t x) { put(b, &x, 4); }
static void put_u64(bytes *b, uint64_t x) { put(b, &x, 8); }
static void put_str(bytes *b, const char *s) {
  put_u64(b, strlen(s));
  put(b, s, strlen(s));
}
static void put_key(bytes *b, const char *key, uint32_t type) {
  put_str(b, key);
  put_u32(b, type);
  b->n_keys++;
}
static void put_text(bytes *b, const char *key, const char *text) {
  put_key(b, key, GGUF_STRING);
  put_str(b, text);
}
static void put_number(bytes *b, const char *key, uint32_t value) {
  put_key(b, key, GGUF_U32);
  put_u32(b, value);
}
static void put_texts(bytes *b, const char *key, const char *const *texts, size_t n) {
  put_key(b, key, GGUF_ARRAY);
  put_u32(b, GGUF_STRING);
  put_u64(b, n);
  for (size_t i = 0; i < n; i++) put_str(b, texts[i]);
}
static void put_numbers(bytes *b, const char *key, uint32_t type, const int32_t *values, size_t n) {
  put_key(b, key, GGUF_ARRAY);
  put_u32(b, type);
  put_u64(b, n);
  put(b, values, 4 * n);
}

/* A small vocabulary; NULL texts and negative numbers are left out. */
typedef struct recipe {
  const char *model, *pre;
  const char *tokens[9], *merges[4];
  int32_t types[8];
  size_t n_tokens, n_types, n_merges;
  int64_t bos, eos;
  int tokens_as, types_as; /* another type of value, 0 = the right one */
} recipe;

static const recipe sound = {.model = "gpt2",
                             .pre = "smollm",
                             .tokens = {"a", "b", "c", "ab", "abc", "<|im_end|>"},
                             .merges = {"a b", "ab c"},
                             .types = {1, 1, 1, 1, 1, 3},
                             .n_tokens = 6,
                             .n_types = 6,
                             .n_merges = 2,
                             .bos = 0,
                             .eos = 5};

static bytes *cook(const recipe *r) {
  static bytes b, file;
  static const int32_t zeros[8];
  b.n = file.n = 0;
  b.n_keys = 0;
  if (r->model) put_text(&b, "tokenizer.ggml.model", r->model);
  if (r->pre) put_text(&b, "tokenizer.ggml.pre", r->pre);
  if (r->tokens_as)
    put_numbers(&b, "tokenizer.ggml.tokens", (uint32_t)r->tokens_as, zeros, r->n_tokens);
  else if (r->n_tokens < 9)
    put_texts(&b, "tokenizer.ggml.tokens", r->tokens, r->n_tokens);
  if (r->n_types < 8)
    put_numbers(&b, "tokenizer.ggml.token_type", r->types_as ? (uint32_t)r->types_as : GGUF_I32,
                r->types, r->n_types);
  if (r->n_merges < 4) put_texts(&b, "tokenizer.ggml.merges", r->merges, r->n_merges);
  if (r->bos >= 0) put_number(&b, "tokenizer.ggml.bos_token_id", (uint32_t)r->bos);
  if (r->eos >= 0) put_number(&b, "tokenizer.ggml.eos_token_id", (uint32_t)r->eos);
  put(&file, "GGUF", 4);
  put_u32(&file, 3);
  put_u64(&file, 0);
  put_u64(&file, b.n_keys);
  put(&file, b.data, b.n);
  return &file;
}

static leank_status open_bytes(const void *data, size_t n, leank_tokenizer **out) {
  lk_gguf *gguf = NULL;
  *out = NULL;
  err = (leank_error){0};
  leank_status status = lk_gguf_open_memory(data, n, "memory", &gguf, &err);
  if (status == LEANK_OK) status = lk_tokenizer_from_gguf(gguf, out, &err);
  lk_gguf_close(&gguf); /* the tokenizer must not need it any more */
  if (status != LEANK_OK) assert_null(*out);
  return status;
}

static void expect_gguf(recipe r, leank_status want, const char *message) {
  leank_tokenizer *t = NULL;
  const bytes *file = cook(&r);
  const leank_status status = open_bytes(file->data, file->n, &t);
  leank_tokenizer_close(&t);
  if (status != want || (status != LEANK_OK && !strstr(err.message, message)))
    fail_msg("wanted %d '%s': status %d, '%s'", want, message, status, err.message);
}

/* The sound file but for one change. */
#define FAULT(change, status, message)                                                             \
  do {                                                                                             \
    recipe r = sound;                                                                              \
    change;                                                                                        \
    expect_gguf(r, status, message);                                                               \
  } while (0)

static void faults_of_gguf_are_named(void **state) {
  (void)state;
  FAULT((void)r, LEANK_OK, "");
  FAULT(r.model = NULL, LEANK_E_FORMAT, "no tokenizer.ggml.model");
  FAULT(r.model = "llama", LEANK_E_UNSUPPORTED, "'llama'");
  FAULT(r.pre = NULL, LEANK_E_UNSUPPORTED, "no tokenizer.ggml.pre");
  FAULT(r.pre = "tekken", LEANK_E_UNSUPPORTED, "'tekken'");
  FAULT(r.n_tokens = 9, LEANK_E_FORMAT, "no tokenizer.ggml.tokens");
  FAULT(r.n_tokens = 0, LEANK_E_FORMAT, "vocabulary of 0");
  FAULT(r.tokens_as = GGUF_I32, LEANK_E_FORMAT, "tokens");
  FAULT(r.types_as = GGUF_F32, LEANK_E_FORMAT, "token_type");
  FAULT(r.n_types = 5, LEANK_E_FORMAT, "differ in length");
  FAULT(r.n_types = 8, LEANK_OK, ""); /* no types: all are plain */
  FAULT(r.types[5] = 99, LEANK_OK, "");
  FAULT(r.tokens[2] = "a", LEANK_E_FORMAT, "token 0 and token 2");
  FAULT(r.tokens[5] = "ab", LEANK_E_FORMAT, "token 3 and token 5");
  FAULT(r.tokens[5] = "\x80", LEANK_E_FORMAT, "not UTF-8");
  FAULT((r.tokens[5] = "", r.tokens[4] = "", r.n_merges = 1), LEANK_OK, "");
  FAULT(r.n_merges = 4, LEANK_E_FORMAT, "no tokenizer.ggml.merges");
  FAULT(r.n_merges = 0, LEANK_OK, "");
  FAULT(r.merges[0] = "a x", LEANK_E_FORMAT, "unknown token");
  FAULT(r.merges[0] = "b c", LEANK_E_FORMAT, "unknown token");
  FAULT(r.merges[0] = "ab", LEANK_E_FORMAT, "no pair");
  FAULT(r.merges[0] = " b", LEANK_E_FORMAT, "no pair");
  FAULT(r.merges[0] = "a ", LEANK_E_FORMAT, "no pair");
  FAULT(r.merges[0] = "", LEANK_E_FORMAT, "no pair");
  FAULT(r.merges[1] = "a b", LEANK_OK, "");
  FAULT(r.bos = 6, LEANK_E_FORMAT, "bos_token_id");
  FAULT(r.bos = UINT32_MAX, LEANK_E_FORMAT, "bos_token_id");
  FAULT(r.eos = 6, LEANK_E_FORMAT, "eos_token_id");
  FAULT((r.eos = -1, r.bos = -1), LEANK_OK, "");
}

static void expect_ids(const leank_tokenizer *t, const char *text, const leank_token *want,
                       size_t n_want) {
  leank_token *tokens = NULL;
  size_t n = 0;
  assert_int_equal(leank_tokenize(t, text, strlen(text), LEANK_TOKENIZE_SPECIAL, &tokens, &n, &err),
                   LEANK_OK);
  assert_int_equal(n, n_want);
  assert_memory_equal(tokens, want, n * sizeof *tokens);
  leank_tokens_free(&tokens);
}

/* What sets the families apart and a trained vocabulary may hide: digits that could merge, and a
 * word of the vocabulary that no merge reaches ("abc": b and c join first, a stays alone). */
static void families_differ_as_they_should(void **state) {
  (void)state;
  static const struct {
    const char *pre;
    size_t n_digits, n_word;
  } cases[] = {{"smollm", 2, 2}, {"qwen2", 2, 2}, {"gpt-2", 1, 2}, {"llama-bpe", 1, 1}};
  static const leank_token apart[] = {0, 1}, together[] = {2}, merged[] = {3, 6}, word[] = {7};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    leank_tokenizer *t = NULL;
    const recipe r = {.model = "gpt2",
                      .pre = cases[i].pre,
                      .tokens = {"1", "2", "12", "a", "b", "c", "bc", "abc"},
                      .merges = {"1 2", "b c"},
                      .n_tokens = 8,
                      .n_types = 8,
                      .n_merges = 2,
                      .bos = -1,
                      .eos = -1};
    const bytes *file = cook(&r);
    assert_int_equal(open_bytes(file->data, file->n, &t), LEANK_OK);
    expect_ids(t, "12", cases[i].n_digits == 2 ? apart : together, cases[i].n_digits);
    expect_ids(t, "abc", cases[i].n_word == 2 ? merged : word, cases[i].n_word);
    leank_tokenizer_close(&t);
  }
}

/* Where the file does not say, Llama 3 asks for its first token and the others do not. */
static void bos_by_family(void **state) {
  (void)state;
  static const struct {
    const char *pre;
    bool bos;
  } cases[] = {{"llama-bpe", true}, {"smollm", false}, {"qwen2", false}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    leank_tokenizer *t = NULL;
    leank_token *tokens = NULL;
    size_t n = 0;
    recipe r = sound;
    r.pre = cases[i].pre;
    const bytes *file = cook(&r);
    assert_int_equal(open_bytes(file->data, file->n, &t), LEANK_OK);
    assert_int_equal(leank_tokenize(t, "b", 1, LEANK_TOKENIZE_BOS, &tokens, &n, &err), LEANK_OK);
    assert_int_equal(n, cases[i].bos ? 2 : 1);
    assert_int_equal(tokens[0], cases[i].bos ? 0 : 1);
    leank_tokens_free(&tokens);
    leank_tokenizer_close(&t);
  }
}

/* Of added tokens that begin alike the longest one is meant. */
static void the_longest_added_token_wins(void **state) {
  (void)state;
  leank_tokenizer *t = NULL;
  write_json((parts){.added = "[{\"id\":5,\"content\":\"<x\"},{\"id\":6,\"content\":\"<x>>\"},"
                              "{\"id\":7,\"content\":\"<x>\"},{\"id\":8,\"content\":\"a<\"}]"});
  assert_int_equal(open_folder(&t), LEANK_OK);
  expect_ids(t, "<x<x><x>>ab<x>>>", (const leank_token[]){5, 7, 6, 3, 6}, 5);
  expect_ids(t, "a<x>b<x", (const leank_token[]){8, 1, 5}, 3); /* leftmost before longest */
  leank_tokenizer_close(&t);
}

static void an_added_token_may_be_too_long(void **state) {
  (void)state;
  static char text[LK_MAX_ADDED_BYTES + 2];
  memset(text, 'x', LK_MAX_ADDED_BYTES + 1);
  FAULT(r.tokens[5] = text, LEANK_E_UNSUPPORTED, "1025 bytes");
  FAULT(r.tokens[5] = text + 1, LEANK_OK, "");
}

/* ---- damage at random ---- */

/* Whatever a damaged file opens as must stand a tokenization. */
static void exercise(leank_tokenizer *t) {
  static const char text[] =
      "Cafe\xcc\x81 the 12 \xf0\x9f\x98\x80 <|im_end|> don't\n\n <tool_call>";
  for (unsigned flags = 0; flags < 4; flags++) {
    leank_token *tokens = NULL;
    size_t n = 0, n_bytes = 0;
    const leank_status status = leank_tokenize(t, text, sizeof text - 1, flags, &tokens, &n, &err);
    assert_true(status == LEANK_OK || status == LEANK_E_FORMAT);
    for (size_t i = 0; i < n; i++) assert_non_null(leank_token_bytes(t, tokens[i], &n_bytes));
    leank_tokens_free(&tokens);
  }
  const leank_chat_message message = {"user", "hi"};
  char *chat = NULL;
  (void)leank_chat_format(t, NULL, &message, 1, true, true, &chat, &err);
  leank_text_free(&chat);
}

static void damage(lk_rng *rng, char *data, size_t *n) {
  static const char likely[] = "\"{}[]:,0129 \\-ex";
  const size_t n_faults = 1 + lk_rng_below(rng, 4);
  for (size_t i = 0; i<n_faults && * n> 0; i++) {
    const size_t at = lk_rng_below(rng, *n);
    switch (lk_rng_below(rng, 4)) {
    case 0: data[at] = (char)lk_rng_u64(rng); break;
    case 1: data[at] = likely[lk_rng_below(rng, sizeof likely - 1)]; break;
    case 2: data[at] ^= (char)(1 << lk_rng_below(rng, 8)); break;
    default: /* cuts some bytes out */
    {
      const size_t left = *n - at, cut = 1 + lk_rng_below(rng, left < 16 ? left : 16);
      memmove(data + at, data + at + cut, left - cut);
      *n -= cut;
    }
    }
  }
}

typedef leank_status (*open_fn)(const char *data, size_t n, leank_tokenizer **out);

static leank_status open_damaged_gguf(const char *data, size_t n, leank_tokenizer **out) {
  return open_bytes(data, n, out);
}
static leank_status open_damaged_json(const char *data, size_t n, leank_tokenizer **out) {
  write_file("tokenizer.json", data, n);
  return open_folder(out);
}

static void damage_often(const char *path, open_fn open, size_t rounds) {
  lk_rng rng = {77};
  char *sound_file = NULL, *data = NULL;
  size_t n_sound = 0, n_opened = 0;
  assert_int_equal(lk_file_read(path, 1 << 20, &sound_file, &n_sound, &err), LEANK_OK);
  data = lk_alloc(LK_MEM_OTHER, n_sound, 1);
  assert_non_null(data);
  for (size_t i = 0; i < rounds; i++) {
    leank_tokenizer *t = NULL;
    size_t n = n_sound;
    memcpy(data, sound_file, n_sound);
    if (i > 0) damage(&rng, data, &n); /* the first is sound */
    const leank_status status = open(data, n, &t);
    assert_true(status == LEANK_OK || status == LEANK_E_FORMAT || status == LEANK_E_UNSUPPORTED);
    if (i == 0) assert_int_equal(status, LEANK_OK);
    n_opened += status == LEANK_OK;
    if (t) exercise(t);
    leank_tokenizer_close(&t);
  }
  assert_true(n_opened > 1 && n_opened < rounds); /* both ways are walked */
  lk_free(sound_file);
  lk_free(data);
}

static void damaged_gguf_does_no_harm(void **state) {
  (void)state;
  damage_often(DATA "tiny-qwen2.gguf", open_damaged_gguf, 3000);
  damage_often(DATA "tiny-llama3.gguf", open_damaged_gguf, 2000);
}

static void damaged_json_does_no_harm(void **state) {
  (void)state;
  damage_often(DATA "tiny-odd/tokenizer.json", open_damaged_json, 600);
  damage_often(DATA "tiny-llama3/tokenizer.json", open_damaged_json, 400);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(faults_of_tokenizer_json_are_named),
      cmocka_unit_test(deep_nesting_ends),
      cmocka_unit_test(text_that_is_no_json_is_located),
      cmocka_unit_test(other_files_of_a_folder),
      cmocka_unit_test(exponential_patterns_end),
      cmocka_unit_test(missing_bytes),
      cmocka_unit_test(faults_of_gguf_are_named),
      cmocka_unit_test(families_differ_as_they_should),
      cmocka_unit_test(bos_by_family),
      cmocka_unit_test(the_longest_added_token_wins),
      cmocka_unit_test(an_added_token_may_be_too_long),
      cmocka_unit_test(damaged_gguf_does_no_harm),
      cmocka_unit_test(damaged_json_does_no_harm),
  };
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
