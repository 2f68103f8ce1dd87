/* The tokenizer against goldens of Hugging Face tokenizers (scripts/goldens/tokenizer.py): the tiny
 * ones of tests/data/tokenizer always, real models and llama.cpp's vocabularies where
 * LEANK_TEST_MODELS and LEANK_TEST_VOCABS name folders that have them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include <leank/text.h>

#include "base/alloc.h"
#include "base/map.h"
#include "base/rng.h"
#include "base/utf8.h"
#include "text/normalize.h"

#define DATA LEANK_TEST_DATA "/tokenizer/"

static leank_error err;

static leank_tokenizer *open_or_die(const char *path) {
  leank_tokenizer *t = NULL;
  const leank_status status = leank_tokenizer_open(path, &t, &err);
  if (status != LEANK_OK) fail_msg("%s: %s", path, err.message);
  return t;
}

/* ---- golden files ---- */

typedef struct reader {
  char *data;
  size_t n, at;
} reader;

static reader open_golden(const char *path, const char *magic) {
  reader r = {0};
  if (lk_file_read(path, 64 << 20, &r.data, &r.n, &err) != LEANK_OK) fail_msg("%s", err.message);
  assert_true(r.n > 4);
  assert_memory_equal(r.data, magic, 4);
  r.at = 4;
  return r;
}

static size_t next_number(reader *r) {
  size_t value = 0;
  for (unsigned shift = 0;; shift += 7) {
    assert_true(r->at < r->n && shift < 63);
    const unsigned char byte = (unsigned char)r->data[r->at++];
    value |= (size_t)(byte & 0x7f) << shift;
    if (byte < 0x80) return value;
  }
}

static const char *next_bytes(reader *r, size_t n) {
  assert_true(n <= r->n - r->at);
  r->at += n;
  return r->data + r->at - n;
}

static void print_tokens(const char *what, const leank_token *tokens, size_t n) {
  printf("%s:", what);
  for (size_t i = 0; i < n; i++) printf(" %d", tokens[i]);
  printf("\n");
}

static void expect_tokens(const leank_tokenizer *t, const char *text, size_t n_bytes,
                          unsigned flags, const leank_token *want, size_t n_want) {
  leank_token *got = NULL;
  size_t n = 0;
  assert_int_equal(leank_tokenize(t, text, n_bytes, flags, &got, &n, &err), LEANK_OK);
  if (n != n_want || memcmp(got, want, n * sizeof *got) != 0) {
    printf("text: '%.*s', flags %u\n", (int)n_bytes, text ? text : "", flags);
    print_tokens("got", got, n);
    print_tokens("want", want, n_want);
    fail();
  }
  leank_tokens_free(&got);
}

static size_t read_tokens(reader *r, size_t n, leank_token *out, size_t room) {
  assert_true(n <= room);
  for (size_t i = 0; i < n; i++) out[i] = (leank_token)next_number(r);
  return n;
}

/* Every string of the golden file, plain and with special tokens; the number of strings. */
static size_t check_goldens(const leank_tokenizer *t, const char *ids_path) {
  enum { ROOM = 1 << 14 };
  static leank_token plain[ROOM], special[ROOM];
  reader strings = open_golden(DATA "strings.bin", "LKTS");
  reader ids = open_golden(ids_path, "LKTI");
  const size_t n_strings = next_number(&strings), step = next_number(&ids);
  const size_t n = next_number(&ids);
  assert_int_equal(n, (n_strings + step - 1) / step);
  for (size_t i = 0; i < n_strings; i++) {
    const size_t n_bytes = next_number(&strings);
    const char *text = next_bytes(&strings, n_bytes);
    if (i % step != 0) continue;
    const size_t n_plain1 = next_number(&ids);
    const size_t n_plain = n_plain1 ? read_tokens(&ids, n_plain1 - 1, plain, ROOM) : 0;
    const size_t n_special = read_tokens(&ids, next_number(&ids), special, ROOM);
    expect_tokens(t, text, n_bytes, LEANK_TOKENIZE_SPECIAL, special, n_special);
    if (n_plain1)
      expect_tokens(t, text, n_bytes, LEANK_TOKENIZE_PLAIN, plain, n_plain);
    else
      expect_tokens(t, text, n_bytes, LEANK_TOKENIZE_PLAIN, special, n_special);
  }
  assert_int_equal(ids.at, ids.n);
  assert_int_equal(strings.at, strings.n);
  lk_free(strings.data);
  lk_free(ids.data);
  return n;
}

static void tiny_tokenizers_match_goldens(void **state) {
  (void)state;
  static const char *const pairs[][2] = {
      {DATA "tiny-smollm", DATA "tiny-smollm.ids"},
      {DATA "tiny-smollm.gguf", DATA "tiny-smollm.ids"},
      {DATA "tiny-qwen2", DATA "tiny-qwen2.ids"},
      {DATA "tiny-qwen2.gguf", DATA "tiny-qwen2.ids"},
      {DATA "tiny-llama3", DATA "tiny-llama3.ids"},
      {DATA "tiny-llama3.gguf", DATA "tiny-llama3.ids"},
      {DATA "tiny-odd", DATA "tiny-odd.ids"},
  };
  for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
    leank_tokenizer *t = open_or_die(pairs[i][0]);
    assert_true(check_goldens(t, pairs[i][1]) > 300);
    leank_tokenizer_close(&t);
    assert_null(t);
  }
}

static bool find_file(char *path, size_t room, const char *variable, const char *name) {
  const char *folder = getenv(variable);
  if (!folder) return false;
  snprintf(path, room, "%s/%s", folder, name);
  return access(path, R_OK) == 0;
}

static void real_model(const char *variable, const char *file, const char *ids, size_t least) {
  char path[4096];
  if (!find_file(path, sizeof path, variable, file)) {
    print_message("%s: no %s there\n", variable, file);
    skip();
  }
  leank_tokenizer *t = open_or_die(path);
  assert_true(check_goldens(t, ids) >= least);
  leank_tokenizer_close(&t);
}

static void smollm2_matches_goldens(void **state) {
  (void)state;
  real_model("LEANK_TEST_MODELS", "SmolLM2-135M-Instruct.Q4_1.gguf", DATA "smollm2.ids", 2000);
}

static void qwen25_coder_matches_goldens(void **state) {
  (void)state;
  real_model("LEANK_TEST_MODELS", "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
             DATA "qwen2.5-coder.ids", 2000);
}

static void llama3_matches_goldens(void **state) {
  (void)state;
  real_model("LEANK_TEST_VOCABS", "ggml-vocab-llama-bpe.gguf", DATA "llama3.ids", 1000);
}

/* ---- llama.cpp's own cases: texts between marker lines, one line of ids each ---- */

static void check_ggml_vocab(const char *name) {
  static const char mark[] = "\n__ggml_vocab_test__\n";
  char path[4096];
  char *in = NULL, *out = NULL;
  size_t n_in = 0, n_out = 0, n_cases = 0;
  if (!find_file(path, sizeof path, "LEANK_TEST_VOCABS", name)) {
    print_message("LEANK_TEST_VOCABS: no %s there\n", name);
    skip();
  }
  leank_tokenizer *t = open_or_die(path);
  const size_t length = strlen(path);
  snprintf(path + length, sizeof path - length, ".inp");
  assert_int_equal(lk_file_read(path, 1 << 20, &in, &n_in, &err), LEANK_OK);
  snprintf(path + length, sizeof path - length, ".out");
  assert_int_equal(lk_file_read(path, 1 << 20, &out, &n_out, &err), LEANK_OK);
  char *line = out;
  for (char *text = in, *end; text; text = end ? end + strlen(mark) : NULL) {
    leank_token want[1024];
    size_t n = 0;
    end = strstr(text, mark);
    char *newline = strchr(line, '\n');
    if (!end || !newline) break;
    *newline = '\0';
    for (char *next; n < 1024; line = next) {
      const long id = strtol(line, &next, 10);
      if (next == line) break;
      want[n++] = (leank_token)id;
    }
    expect_tokens(t, text, (size_t)(end - text), LEANK_TOKENIZE_PLAIN, want, n);
    line = newline + 1;
    n_cases++;
  }
  assert_true(n_cases >= 40);
  lk_free(in);
  lk_free(out);
  leank_tokenizer_close(&t);
}

static void ggml_vocab_llama_bpe(void **state) {
  (void)state;
  check_ggml_vocab("ggml-vocab-llama-bpe.gguf");
}
static void ggml_vocab_qwen2(void **state) {
  (void)state;
  check_ggml_vocab("ggml-vocab-qwen2.gguf");
}
static void ggml_vocab_gpt2(void **state) {
  (void)state;
  check_ggml_vocab("ggml-vocab-gpt-2.gguf");
}
static void ggml_vocab_starcoder(void **state) {
  (void)state;
  check_ggml_vocab("ggml-vocab-starcoder.gguf");
}

/* ---- round trip ---- */

static uint32_t random_code(lk_rng *rng) {
  static const uint32_t limits[] = {0x20, 0x80, 0x80, 0x300, 0x3000, 0x10000, 0x110000};
  for (;;) {
    const uint32_t limit = limits[lk_rng_below(rng, sizeof limits / sizeof *limits)];
    const uint32_t code = (uint32_t)lk_rng_below(rng, limit);
    if (code < 0xd800 || code > 0xdfff) return code;
  }
}

static size_t random_text(lk_rng *rng, char *out, size_t max_codes) {
  const size_t n_codes = lk_rng_below(rng, max_codes + 1);
  size_t n = 0;
  for (size_t i = 0; i < n_codes; i++) {
    const uint32_t code = random_code(rng);
    const size_t times = lk_rng_below(rng, 8) ? 1 : 1 + lk_rng_below(rng, 5);
    for (size_t k = 0; k < times; k++) n += lk_utf8_encode(code, out + n);
  }
  return n;
}

static void expect_round_trip(const leank_tokenizer *t, const char *text, size_t n_text,
                              unsigned flags) {
  leank_token *tokens = NULL;
  size_t n = 0, at = 0;
  assert_int_equal(leank_tokenize(t, text, n_text, flags, &tokens, &n, &err), LEANK_OK);
  for (size_t i = 0; i < n; i++) {
    size_t n_bytes = 0;
    const char *bytes = leank_token_bytes(t, tokens[i], &n_bytes);
    assert_non_null(bytes);
    assert_true(n_bytes <= n_text - at);
    assert_memory_equal(bytes, text + at, n_bytes);
    at += n_bytes;
  }
  assert_int_equal(at, n_text);
  leank_tokens_free(&tokens);
}

static void tokens_give_the_text_back(void **state) {
  (void)state;
  static const char *const paths[] = {DATA "tiny-smollm", DATA "tiny-qwen2.gguf",
                                      DATA "tiny-llama3", DATA "tiny-llama3.gguf"};
  lk_rng rng = {4711};
  for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
    leank_tokenizer *t = open_or_die(paths[i]);
    const bool nfc = strstr(paths[i], "qwen") != NULL;
    for (int round = 0; round < 1500; round++) {
      char text[40 * 5 * 4];
      char *normal = NULL;
      size_t n = random_text(&rng, text, 40);
      if (nfc) assert_int_equal(lk_nfc(text, n, &normal, &n, &err), LEANK_OK);
      expect_round_trip(t, normal ? normal : text, n, round % 2 ? LEANK_TOKENIZE_SPECIAL : 0);
      lk_free(normal);
    }
    leank_tokenizer_close(&t);
  }
}

/* ---- the public contract ---- */

static leank_token token_of(const leank_tokenizer *t, const char *text) {
  leank_token *tokens = NULL;
  size_t n = 0;
  assert_int_equal(leank_tokenize(t, text, strlen(text), LEANK_TOKENIZE_SPECIAL, &tokens, &n, &err),
                   LEANK_OK);
  assert_int_equal(n, 1);
  const leank_token token = tokens[0];
  leank_tokens_free(&tokens);
  return token;
}

static void specials_are_known(void **state) {
  (void)state;
  leank_tokenizer *t = open_or_die(DATA "tiny-llama3");
  size_t n = 0;
  const leank_token eot = token_of(t, "<|eot_id|>"), head = token_of(t, "<|start_header_id|>");
  const leank_token tool = token_of(t, "<tool_call>");
  const leank_token last = (leank_token)leank_tokenizer_vocab_size(t);
  assert_true(leank_token_is_special(t, eot) && leank_token_is_end(t, eot));
  assert_true(leank_token_is_end(t, token_of(t, "<|end_of_text|>")));
  assert_true(leank_token_is_end(t, token_of(t, "<|eom_id|>")));
  assert_true(leank_token_is_special(t, head) && !leank_token_is_end(t, head));
  assert_false(leank_token_is_special(t, tool) || leank_token_is_end(t, tool));
  assert_false(leank_token_is_special(t, token_of(t, "a")));
  assert_memory_equal(leank_token_bytes(t, eot, &n), "<|eot_id|>", 10);
  assert_int_equal(n, 10);
  const leank_token unknown[] = {-1, INT32_MIN, INT32_MAX, last};
  for (size_t i = 0; i < 4; i++) {
    n = 1;
    assert_null(leank_token_bytes(t, unknown[i], &n));
    assert_int_equal(n, 0);
    assert_false(leank_token_is_special(t, unknown[i]) || leank_token_is_end(t, unknown[i]));
  }
  assert_non_null(leank_token_bytes(t, last - 1, &n));
  leank_tokenizer_close(&t);
}

/* generation_config.json's list and the config's eos_token. */
static void end_tokens_come_from_the_configs(void **state) {
  (void)state;
  leank_tokenizer *t = open_or_die(DATA "tiny-qwen2");
  leank_tokenizer *g = open_or_die(DATA "tiny-qwen2.gguf");
  const leank_token the = token_of(t, "the"); /* named by the list of the folder alone */
  assert_true(leank_token_is_end(t, the));
  assert_false(leank_token_is_end(g, token_of(g, "the")));
  assert_true(leank_token_is_end(t, token_of(t, "<|im_end|>")));
  assert_true(leank_token_is_end(g, token_of(g, "<|im_end|>")));
  assert_true(leank_token_is_end(g, token_of(g, "<|endoftext|>")));
  assert_int_equal(leank_tokenizer_vocab_size(t), leank_tokenizer_vocab_size(g));
  leank_tokenizer_close(&t);
  leank_tokenizer_close(&g);
}

static void bos_comes_where_the_model_asks(void **state) {
  (void)state;
  static const struct {
    const char *path;
    bool bos;
  } cases[] = {{DATA "tiny-llama3", true},  {DATA "tiny-llama3.gguf", true},
               {DATA "tiny-qwen2", false},  {DATA "tiny-qwen2.gguf", false},
               {DATA "tiny-smollm", false}, {DATA "tiny-smollm.gguf", false}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    leank_tokenizer *t = open_or_die(cases[i].path);
    leank_token bos = -1;
    if (cases[i].bos) bos = token_of(t, "<|begin_of_text|>");
    expect_tokens(t, "", 0, LEANK_TOKENIZE_BOS, &bos, cases[i].bos);
    expect_tokens(t, NULL, 0, LEANK_TOKENIZE_PLAIN, &bos, 0);
    leank_tokenizer_close(&t);
  }
}

static void bad_arguments_are_refused(void **state) {
  (void)state;
  leank_tokenizer *t = open_or_die(DATA "tiny-smollm");
  leank_token *out = (leank_token *)&err;
  size_t n = 77;
  leank_error e = {0};
  assert_int_equal(leank_tokenize(t, "ab\xc3(", 4, 0, &out, &n, &e), LEANK_E_ARGUMENT);
  assert_int_equal(e.offset, 2);
  assert_int_equal(leank_tokenize(t, "ok", 2, 8, &out, &n, &e), LEANK_E_ARGUMENT);
  assert_int_equal(leank_tokenize(t, NULL, 2, 0, &out, &n, &e), LEANK_E_ARGUMENT);
  assert_int_equal(leank_tokenize(NULL, "ok", 2, 0, &out, &n, &e), LEANK_E_ARGUMENT);
  assert_ptr_equal(out, &err);
  assert_int_equal(n, 77);
  leank_tokenizer *none = NULL;
  assert_int_equal(leank_tokenizer_open(DATA "no-such-thing", &none, &e), LEANK_E_IO);
  assert_int_equal(leank_tokenizer_open(DATA, &none, &e), LEANK_E_IO);
  assert_int_equal(leank_tokenizer_open(DATA "strings.bin", &none, &e), LEANK_E_FORMAT);
  assert_null(none);
  leank_tokenizer_close(&t);
  leank_tokenizer_close(&t);
  leank_tokenizer_close(NULL);
  leank_tokens_free(NULL);
}

static void zero_bytes_are_text(void **state) {
  (void)state;
  leank_tokenizer *t = open_or_die(DATA "tiny-qwen2");
  expect_round_trip(t, "a\0b\0\0<|im_end|>\0", 17, LEANK_TOKENIZE_SPECIAL);
  leank_tokenizer_close(&t);
}

/* ---- long words ---- */

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Not a measure of speed: a megabyte in one word is seconds or less where the work is n log n, and
 * hours where it is quadratic. */
static void long_words_are_not_quadratic(void **state) {
  (void)state;
  static const char *const units[] = {"a",         " ", "\n", "1", "\xc3\xa9",
                                      "e\xcc\x81", "=", "ab", "<|"};
  leank_tokenizer *t = open_or_die(DATA "tiny-qwen2");
  const size_t n = 1 << 20;
  char *text = lk_alloc(LK_MEM_TEXT, n, 1);
  assert_non_null(text);
  const double begin = now();
  for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
    const size_t unit = strlen(units[i]);
    for (size_t k = 0; k + unit <= n / unit * unit; k += unit) memcpy(text + k, units[i], unit);
    leank_token *tokens = NULL;
    size_t n_tokens = 0, n_bytes = 0;
    assert_int_equal(
        leank_tokenize(t, text, n / unit * unit, LEANK_TOKENIZE_SPECIAL, &tokens, &n_tokens, &err),
        LEANK_OK);
    for (size_t k = 0; k < n_tokens; k++) {
      size_t more = 0;
      assert_non_null(leank_token_bytes(t, tokens[k], &more));
      n_bytes += more;
    }
    if (strcmp(units[i], "e\xcc\x81") != 0) assert_int_equal(n_bytes, n / unit * unit);
    leank_tokens_free(&tokens);
  }
  assert_true(now() - begin < 120);
  lk_free(text);
  leank_tokenizer_close(&t);
}

/* ---- memory ---- */

/* Every allocation of the call fails once: the call says so and leaks nothing, or does without
 * (PCRE2's compiler to machine code is a luxury, of a few allocations per pattern). */
static void each_allocation_may_fail(leank_status (*call)(void), size_t n_patterns) {
  const size_t in_use = lk_mem_in_use(LK_MEM_TEXT) + lk_mem_in_use(LK_MEM_OTHER);
  const size_t before = lk_alloc_count();
  assert_int_equal(call(), LEANK_OK);
  const size_t n = lk_alloc_count() - before;
  size_t n_failed = 0;
  assert_true(n > 0);
  for (size_t i = 1; i <= n; i++) {
    lk_alloc_fail_nth(i);
    const leank_status status = call();
    lk_alloc_fail_nth(0);
    assert_true(status == LEANK_OK || status == LEANK_E_MEMORY);
    n_failed += status == LEANK_E_MEMORY;
    assert_int_equal(lk_mem_in_use(LK_MEM_TEXT) + lk_mem_in_use(LK_MEM_OTHER), in_use);
  }
  assert_true(n_failed > 0 && n - n_failed <= 10 * n_patterns);
}

static const leank_tokenizer *shared;

static leank_status open_and_close(const char *path) {
  leank_tokenizer *t = NULL;
  const leank_status status = leank_tokenizer_open(path, &t, &err);
  if (status != LEANK_OK) assert_null(t);
  leank_tokenizer_close(&t);
  return status;
}
static leank_status open_folder(void) { return open_and_close(DATA "tiny-odd"); }
static leank_status open_qwen_folder(void) { return open_and_close(DATA "tiny-qwen2"); }
static leank_status open_gguf(void) { return open_and_close(DATA "tiny-llama3.gguf"); }
static leank_status tokenize(void) {
  static const char text[] =
      "Cafe\xcc\x81, 12 words <|im_end|> and more than sixty-four bytes of "
      "them: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
  leank_token *tokens = NULL;
  size_t n = 0;
  const leank_status status =
      leank_tokenize(shared, text, sizeof text - 1, LEANK_TOKENIZE_SPECIAL, &tokens, &n, &err);
  if (status != LEANK_OK) assert_null(tokens);
  leank_tokens_free(&tokens);
  return status;
}

static void memory_may_run_out(void **state) {
  (void)state;
  each_allocation_may_fail(open_folder, 3);
  each_allocation_may_fail(open_qwen_folder, 1);
  each_allocation_may_fail(open_gguf, 1);
  static const char *const paths[] = {DATA "tiny-qwen2", DATA "tiny-odd"};
  for (size_t i = 0; i < 2; i++) {
    leank_tokenizer *t = open_or_die(paths[i]);
    shared = t;
    each_allocation_may_fail(tokenize, 0);
    leank_tokenizer_close(&t);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(tiny_tokenizers_match_goldens),
      cmocka_unit_test(smollm2_matches_goldens),
      cmocka_unit_test(qwen25_coder_matches_goldens),
      cmocka_unit_test(llama3_matches_goldens),
      cmocka_unit_test(ggml_vocab_llama_bpe),
      cmocka_unit_test(ggml_vocab_qwen2),
      cmocka_unit_test(ggml_vocab_gpt2),
      cmocka_unit_test(ggml_vocab_starcoder),
      cmocka_unit_test(tokens_give_the_text_back),
      cmocka_unit_test(specials_are_known),
      cmocka_unit_test(end_tokens_come_from_the_configs),
      cmocka_unit_test(bos_comes_where_the_model_asks),
      cmocka_unit_test(bad_arguments_are_refused),
      cmocka_unit_test(zero_bytes_are_text),
      cmocka_unit_test(long_words_are_not_quadratic),
      cmocka_unit_test(memory_may_run_out),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
