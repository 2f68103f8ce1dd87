/* Data sets for learning: the same everywhere, as long as asked for, with one answer to every
 * question. Tokenizers of tests/data work nearly byte by byte; with LEANK_TEST_MODELS, SmolLM2's.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/map.h"
#include "learn/dataset.h"
#include "learn/dataset_tasks.h"
#include "text/haystack.h"
#include "text/word_lists.h"
#include "support/hostile.h"

#define TOKENIZERS LEANK_TEST_DATA "/tokenizer/"

enum { N_CTX = 1 << 20, N_VOCAB = 101, ALL_MADE = (1 << LEANK_TASK_FILE) - 1 };

#define PLAIN LEANK_TEST_TMP "/dataset-plain"

/* The last one has no chat template: see make_plain. */
static const char *const tokenizers[] = {TOKENIZERS "tiny-smollm.gguf", TOKENIZERS "tiny-qwen2",
                                         TOKENIZERS "tiny-llama3", PLAIN};
static const char *const turn_ends[] = {"<|im_end|>", "<|im_end|>", "<|eot_id|>", NULL};
enum { N_TOKENIZERS = sizeof tokenizers / sizeof *tokenizers };

/* ---- helpers ---- */

static leank_tokenizer *open_tokenizer(const char *path) {
  leank_tokenizer *t = NULL;
  leank_error err = {0};
  if (leank_tokenizer_open(path, &t, &err) != LEANK_OK) fail_msg("%s", err.message);
  return t;
}

static lk_dataset_model model_of(const leank_tokenizer *t) {
  return (lk_dataset_model){.tokenizer = t, .n_ctx = N_CTX, .n_vocab = N_VOCAB};
}

static leank_dataset_options options_of(unsigned tasks, size_t n_contexts, size_t n_questions,
                                        size_t min, size_t max) {
  leank_dataset_options o;
  leank_dataset_options_default(&o);
  o.tasks = tasks;
  o.n_contexts = n_contexts;
  o.n_questions = n_questions;
  o.min_tokens = min;
  o.max_tokens = max;
  return o;
}

static leank_dataset *make(const leank_tokenizer *t, const leank_dataset_options *o) {
  leank_dataset *d = NULL;
  leank_error err = {0};
  const lk_dataset_model m = model_of(t);
  if (lk_dataset_make(&m, o, &d, &err) != LEANK_OK) fail_msg("%s", err.message);
  assert_int_equal(leank_dataset_n_contexts(d), o->n_contexts);
  assert_null(leank_dataset_get(d, o->n_contexts));
  return d;
}

static void refused(const leank_tokenizer *t, const leank_dataset_options *o, leank_status want,
                    const char *part) {
  leank_dataset *d = NULL;
  leank_error err = {0};
  const size_t before = hostile_mem_in_use();
  lk_dataset_model m = model_of(t);
  m.n_ctx = 100000;
  assert_int_equal(lk_dataset_make(&m, o, &d, &err), want);
  assert_null(d);
  assert_int_equal(err.code, want);
  if (!strstr(err.message, part)) fail_msg("'%s' lacks '%s'", err.message, part);
  assert_int_equal(hostile_mem_in_use(), before);
}

/* The text of tokens; NUL-terminated, free. */
static char *text_of(const leank_tokenizer *t, const leank_token *tokens, size_t n) {
  size_t n_text = 0, n_bytes;
  for (size_t i = 0; i < n; i++) {
    leank_token_bytes(t, tokens[i], &n_bytes);
    n_text += n_bytes;
  }
  char *text = malloc(n_text + 1), *end = text;
  assert_non_null(text);
  for (size_t i = 0; i < n; i++) {
    const char *bytes = leank_token_bytes(t, tokens[i], &n_bytes);
    memcpy(end, bytes, n_bytes);
    end += n_bytes;
  }
  *end = 0;
  return text;
}

static size_t count_in(const char *text, const char *what) {
  return lk_text_count(text, strlen(text), what);
}

static size_t longest_of(const leank_context *c) {
  size_t longest = 0;
  for (size_t q = 0; q < c->n_questions; q++) {
    const size_t n = c->n_tokens + c->questions[q].n_prompt + c->questions[q].n_answer;
    if (n > longest) longest = n;
  }
  return longest;
}

static const char *write_file(const char *name, const void *bytes, size_t n) {
  static char path[4096];
  snprintf(path, sizeof path, "%s/dataset-%s", LEANK_TEST_TMP, name);
  FILE *file = fopen(path, "wb");
  assert_non_null(file);
  assert_int_equal(fwrite(bytes, 1, n, file), n);
  assert_int_equal(fclose(file), 0);
  return path;
}

/* SmolLM's tokenizer without what its template needs. */
static int make_plain(void **state) {
  (void)state;
  static const char token[] = "<|im_start|>", other[] = "<|im_begin|>";
  _Static_assert(sizeof token == sizeof other, "put in place");
  char *text = NULL;
  size_t n = 0;
  leank_error err = {0};
  mkdir(PLAIN, 0777);
  if (lk_file_read(TOKENIZERS "tiny-smollm/tokenizer.json", 1 << 20, &text, &n, &err) != LEANK_OK)
    return -1;
  for (char *at; (at = strstr(text, token));) memcpy(at, other, sizeof other - 1);
  const leank_status status = lk_file_write_atomic(PLAIN "/tokenizer.json", text, n, &err);
  lk_free(text);
  return status == LEANK_OK ? 0 : -1;
}

/* ---- words ---- */

static void test_no_key_is_part_of_another(void **state) {
  (void)state;
  for (size_t i = 0; i < LK_N_WORDS; i++)
    for (size_t j = 0; j < LK_N_WORDS; j++) {
      const char *a = lk_adjectives[i], *b = lk_adjectives[j];
      const size_t n_a = strlen(a), n_b = strlen(b);
      if (i != j && n_a >= n_b) assert_string_not_equal(a + n_a - n_b, b);
      const char *x = lk_nouns[i], *y = lk_nouns[j];
      if (i != j) assert_int_not_equal(strncmp(x, y, strlen(y)), 0);
      assert_true(n_a + strlen(y) + 2 <= LK_KEY_BYTES);
    }
}

/* ---- haystacks ---- */

static void check_sentence(const lk_haystack *h, size_t i, const char *want) {
  assert_true(i < h->n);
  assert_int_equal(h->sentences[i].n, strlen(want));
  assert_memory_equal(h->sentences[i].p, want, strlen(want));
}

static void test_sentences_are_cut(void **state) {
  (void)state;
  static const char text[] =
      "  Mr. Lee saw 3.5 ships\nin the harbour. \"Who are they?\" He did  not "
      "know, but they\r\nwere large.\n\nA heading\n \nIt was \xe6\x97\xa5"
      "\xe6\x9c\xac\xe3\x81\xae\xe8\x88\xb9\xe3\x81\xa7\xe3\x81\x99\xe3\x80"
      "\x82Next";
  const char *path = write_file("prose.txt", text, sizeof text - 1);
  lk_haystack h = {0};
  leank_error err = {0};
  assert_int_equal(lk_haystack_open(&path, 1, &h, &err), LEANK_OK);
  assert_int_equal(h.n, 5);
  check_sentence(&h, 0, "Mr. Lee saw 3.5 ships in the harbour.");
  check_sentence(&h, 1, "\"Who are they?\" He did not know, but they were large.");
  check_sentence(&h, 2, "A heading");
  check_sentence(&h, 4, "Next");
  lk_haystack_close(&h);
}

static void test_text_without_sentences_is_cut(void **state) {
  (void)state;
  enum { N = 100000 };
  char *text = malloc(N);
  assert_non_null(text);
  for (size_t spaces = 0; spaces < 2; spaces++) {
    for (size_t i = 0; i < N; i++) text[i] = spaces && i % 7 == 6 ? ' ' : 'x';
    const char *path = write_file("flat.txt", text, N);
    lk_haystack h = {0};
    leank_error err = {0};
    assert_int_equal(lk_haystack_open(&path, 1, &h, &err), LEANK_OK);
    assert_in_range(h.n, N / (2 * LK_MAX_SENTENCE), N / LK_MAX_SENTENCE + 1);
    for (size_t i = 0; i < h.n; i++) assert_in_range(h.sentences[i].n, 1, 2 * LK_MAX_SENTENCE);
    lk_haystack_close(&h);
  }
  free(text);
}

static void haystack_refused(const char *bytes, size_t n, const char *part) {
  const char *path = write_file("bad.txt", bytes, n);
  lk_haystack h = {0};
  leank_error err = {0};
  assert_int_equal(lk_haystack_open(&path, 1, &h, &err), LEANK_E_FORMAT);
  if (!strstr(err.message, part)) fail_msg("'%s' lacks '%s'", err.message, part);
  assert_null(h.texts);
}

static void test_bad_haystacks_are_refused(void **state) {
  (void)state;
  haystack_refused("", 0, "holds no text");
  haystack_refused(" \n\t\n", 4, "holds no text");
  haystack_refused("some\0text", 9, "a NUL at byte 4");
  haystack_refused("caf\xe9 noir", 9, "not UTF-8 at byte 3");
  const char *missing = LEANK_TEST_TMP "/dataset-missing.txt", *none = NULL;
  lk_haystack h = {0};
  leank_error err = {0};
  assert_int_equal(lk_haystack_open(&missing, 1, &h, &err), LEANK_E_IO);
  assert_int_equal(lk_haystack_open(&none, 1, &h, &err), LEANK_E_ARGUMENT);
  assert_int_equal(lk_haystack_open(&missing, LK_MAX_HAYSTACKS + 1, &h, &err), LEANK_E_ARGUMENT);
}

/* ---- what every context keeps ---- */

static void check_prompts(const leank_context *c) {
  bool differs = false, least = false;
  assert_true(c->n_tokens >= 1);
  for (size_t q = 0; q < c->n_questions; q++) {
    const leank_question *a = &c->questions[q];
    assert_true(a->n_prompt >= 1);
    least |= a->n_prompt == 1;
    differs |= a->prompt[0] != c->questions[0].prompt[0];
    for (size_t other = 0; other < q; other++)
      assert_string_not_equal(a->text, c->questions[other].text);
  }
  assert_true(differs || least); /* the beginning they share is the longest */
}

static void check_tokens_of_answer(const leank_tokenizer *t, const leank_question *q, bool chat) {
  assert_true(q->n_text >= 1);
  assert_int_equal(q->n_answer, q->n_text + chat);
  if (chat) assert_true(leank_token_is_end(t, q->answer[q->n_text]));
  char *text = text_of(t, q->answer, q->n_text);
  assert_int_equal(text[0], ' ');
  assert_string_equal(text + 1, q->answer_text);
  free(text);
}

/* Each value once in the context, in the order of the answer, and not in what follows. */
static void check_answer(const char *context, const char *prompt, const leank_question *q,
                         size_t n_values) {
  char answer[256];
  const char *before = context;
  size_t n = 0;
  snprintf(answer, sizeof answer, "%s", q->answer_text);
  for (char *left = NULL, *value = strtok_r(answer, ", ", &left); value;
       value = strtok_r(NULL, ", ", &left), n++) {
    assert_int_equal(count_in(context, value), 1);
    assert_int_equal(count_in(prompt, value), 0);
    assert_int_equal(count_in(q->text, value), 0);
    const char *at = strstr(context, value);
    assert_true(at > before);
    before = at;
  }
  assert_int_equal(n, n_values);
}

static void check_context(const leank_tokenizer *t, const leank_context *c, bool chat) {
  char *context = text_of(t, c->tokens, c->n_tokens);
  check_prompts(c);
  for (size_t q = 0; q < c->n_questions; q++) {
    const leank_question *question = &c->questions[q];
    char *prompt = text_of(t, question->prompt, question->n_prompt);
    check_tokens_of_answer(t, question, chat);
    check_answer(context, prompt, question, c->task == LEANK_TASK_VALUES ? LK_VALUES_PER_KEY : 1);
    free(prompt);
  }
  free(context);
}

static void check_dataset(const leank_tokenizer *t, const leank_dataset *d) {
  const bool chat = strcmp(leank_chat_template_detect(t), "none") != 0;
  for (size_t i = 0; i < leank_dataset_n_contexts(d); i++)
    check_context(t, leank_dataset_get(d, i), chat);
}

static void test_every_question_has_one_answer(void **state) {
  (void)state;
  for (size_t i = 0; i < N_TOKENIZERS; i++) {
    leank_tokenizer *t = open_tokenizer(tokenizers[i]);
    const leank_dataset_options o = options_of(ALL_MADE, 16, 4, 3500, 9000);
    leank_dataset *d = make(t, &o);
    for (size_t c = 0; c < 16; c++) {
      assert_int_equal(leank_dataset_get(d, c)->task, c % 4);
      assert_int_equal(leank_dataset_get(d, c)->n_questions, 4);
    }
    check_dataset(t, d);
    leank_dataset_close(&d);
    assert_null(d);
    leank_tokenizer_close(&t);
  }
}

static void test_turns_end_as_the_template_ends_them(void **state) {
  (void)state;
  for (size_t i = 0; i < N_TOKENIZERS; i++) {
    leank_tokenizer *t = open_tokenizer(tokenizers[i]);
    const leank_dataset_options o = options_of(1, 1, 1, 2000, 2000);
    leank_dataset *d = make(t, &o);
    const leank_context *c = leank_dataset_get(d, 0);
    const leank_question *q = &c->questions[0];
    char *end = text_of(t, q->answer + q->n_text, q->n_answer - q->n_text);
    char *prompt = text_of(t, c->tokens, c->n_tokens);
    assert_string_equal(end, turn_ends[i] ? turn_ends[i] : "");
    if (!turn_ends[i]) assert_ptr_equal(strstr(prompt, "Here is a list"), prompt);
    free(prompt);
    free(end);
    leank_dataset_close(&d);
    leank_tokenizer_close(&t);
  }
}

static void test_one_question_and_many(void **state) {
  (void)state;
  leank_tokenizer *t = open_tokenizer(tokenizers[0]);
  static const size_t counts[] = {1, 2, 64};
  for (size_t i = 0; i < 3; i++) {
    const leank_dataset_options o = options_of(ALL_MADE, 4, counts[i], 30000, 30000);
    leank_dataset *d = make(t, &o);
    if (counts[i] > 1) check_dataset(t, d);
    for (size_t c = 0; c < 4; c++)
      assert_int_equal(leank_dataset_get(d, c)->n_questions, counts[i]);
    leank_dataset_close(&d);
  }
  leank_tokenizer_close(&t);
}

/* ---- seeds ---- */

static void fingerprint_of(const leank_tokenizer *t, const leank_dataset_options *o, char *out) {
  leank_dataset *d = make(t, o);
  strcpy(out, leank_dataset_fingerprint(d));
  assert_int_equal(strlen(out), 16);
  leank_dataset_close(&d);
}

static void test_the_seed_decides_everything(void **state) {
  (void)state;
  leank_tokenizer *t = open_tokenizer(tokenizers[1]);
  for (unsigned task = 0; task < LEANK_TASK_FILE; task++) {
    leank_dataset_options o = options_of(1u << task, 3, 2, 2500, 4000);
    char first[17], again[17], other[17];
    fingerprint_of(t, &o, first);
    fingerprint_of(t, &o, again);
    assert_string_equal(first, again);
    o.seed = 2;
    fingerprint_of(t, &o, other);
    assert_string_not_equal(first, other);
  }
  leank_tokenizer_close(&t);
}

/* The numbers are what they are on every machine; a changed wording or word list changes them. */
static void test_data_are_the_same_everywhere(void **state) {
  (void)state;
  leank_tokenizer *t = open_tokenizer(tokenizers[1]);
  const leank_dataset_options o = options_of(ALL_MADE, 8, 4, 3500, 9000);
  char fingerprint[17];
  fingerprint_of(t, &o, fingerprint);
  assert_string_equal(fingerprint, "1d522fc3fb815b73");
  leank_tokenizer_close(&t);
}

static void test_seeds_give_other_needles_and_prose(void **state) {
  (void)state;
  leank_tokenizer *t = open_tokenizer(tokenizers[1]);
  for (unsigned task = 0; task < LEANK_TASK_FILE; task++) {
    leank_dataset_options o = options_of(1u << task, 1, 2, 5000, 5000);
    char *texts[2];
    for (size_t i = 0; i < 2; i++) {
      o.seed = i + 1;
      leank_dataset *d = make(t, &o);
      const leank_context *c = leank_dataset_get(d, 0);
      texts[i] = text_of(t, c->tokens, c->n_tokens);
      if (i > 0) assert_int_equal(count_in(texts[0], c->questions[0].answer_text), 0);
      leank_dataset_close(&d);
    }
    size_t same = 0; /* where prose is laid in another order, few places agree by chance */
    const size_t n = strlen(texts[0]) < strlen(texts[1]) ? strlen(texts[0]) : strlen(texts[1]);
    for (size_t i = 0; i < n; i++) same += texts[0][i] == texts[1][i];
    assert_true(same < n / 3);
    free(texts[0]);
    free(texts[1]);
  }
  leank_tokenizer_close(&t);
}

/* ---- lengths ---- */

static int by_size(const void *a, const void *b) {
  const size_t x = *(const size_t *)a, y = *(const size_t *)b;
  return x < y ? -1 : x > y;
}

static size_t longest_unit(unsigned task) {
  lk_haystack h = {0};
  leank_error err = {0};
  size_t longest = 0;
  if (task < LEANK_TASK_VALUES) return 80; /* bytes, and so tokens, of two uuids */
  assert_int_equal(lk_haystack_open(NULL, 0, &h, &err), LEANK_OK);
  for (size_t i = 0; i < h.n; i++)
    if (h.sentences[i].n >= longest) longest = h.sentences[i].n + 1;
  lk_haystack_close(&h);
  return longest;
}

static void check_lengths(const leank_tokenizer *t, unsigned task, size_t n, size_t min,
                          size_t max) {
  const leank_dataset_options o = options_of(1u << task, n, 3, min, max);
  leank_dataset *d = make(t, &o);
  size_t lengths[16];
  bool sorted = true;
  for (size_t i = 0; i < n; i++) {
    lengths[i] = longest_of(leank_dataset_get(d, i));
    sorted &= i == 0 || lengths[i] >= lengths[i - 1];
  }
  assert_true(n < 8 || !sorted);
  qsort(lengths, n, sizeof *lengths, by_size);
  const size_t unit = longest_unit(task);
  for (size_t i = 0; i < n; i++) {
    const size_t aim = n == 1 ? max : min + (max - min) * i / (n - 1);
    const size_t below = aim * 3 / 100 > unit ? aim * 3 / 100 : unit;
    assert_in_range(lengths[i], aim - below, aim);
  }
  leank_dataset_close(&d);
}

static void test_lengths_are_as_asked(void **state) {
  (void)state;
  for (size_t i = 0; i < N_TOKENIZERS; i++) {
    leank_tokenizer *t = open_tokenizer(tokenizers[i]);
    for (unsigned task = 0; task < LEANK_TASK_FILE; task++) {
      check_lengths(t, task, 1, 2500, 3000);
      check_lengths(t, task, 8, 2500, 8000);
      check_lengths(t, task, 3, 20000, 40000);
    }
    leank_tokenizer_close(&t);
  }
}

static void test_lengths_that_no_task_can_have(void **state) {
  (void)state;
  leank_tokenizer *t = open_tokenizer(tokenizers[0]);
  for (unsigned task = 0; task < LEANK_TASK_FILE; task++) {
    leank_dataset_options o = options_of(1u << task, 1, 4, 100, 100);
    refused(t, &o, LEANK_E_ARGUMENT, "too few");
    o = options_of(1u << task, 1, 64, 1000, 1000);
    refused(t, &o, LEANK_E_ARGUMENT, "too few");
  }
  leank_dataset_options o = options_of(1u << LEANK_TASK_WORDS, 1, 4, 900000, 900000);
  leank_dataset *d = NULL;
  leank_error err = {0};
  const lk_dataset_model m = model_of(t);
  assert_int_equal(lk_dataset_make(&m, &o, &d, &err), LEANK_E_ARGUMENT);
  assert_non_null(strstr(err.message, "22500 keys"));
  leank_tokenizer_close(&t);
}

/* ---- depths ---- */

/* 200 answers of a task: the mean depth, and how many stand in each quarter. */
static void test_answers_stand_at_all_depths(void **state) {
  (void)state;
  leank_tokenizer *t = open_tokenizer(tokenizers[0]);
  for (unsigned task = 0; task < LEANK_TASK_FILE; task++) {
    const leank_dataset_options o = options_of(1u << task, 50, 4, 9000, 9000);
    leank_dataset *d = make(t, &o);
    size_t quarters[4] = {0};
    double sum = 0;
    for (size_t i = 0; i < 50; i++) {
      const leank_context *c = leank_dataset_get(d, i);
      char *text = text_of(t, c->tokens, c->n_tokens);
      for (size_t q = 0; q < 4; q++) {
        char value[64]; /* one of several values, each question another */
        const char *at = c->questions[q].answer_text;
        if (task == LEANK_TASK_VALUES) at += q * strlen("1234567, ");
        snprintf(value, sizeof value, "%.*s", (int)strcspn(at, ","), at);
        const double depth = (double)(strstr(text, value) - text) / (double)strlen(text);
        quarters[(size_t)(depth * 4)]++;
        sum += depth;
      }
      free(text);
    }
    assert_true(sum / 200 > 0.44 && sum / 200 < 0.56);
    for (size_t i = 0; i < 4; i++) assert_in_range(quarters[i], 30, 70);
    leank_dataset_close(&d);
  }
  leank_tokenizer_close(&t);
}

/* ---- the user's texts ---- */

static void test_a_haystack_of_ones_own(void **state) {
  (void)state;
  static const char text[] = "Snow fell on the quiet town. Nobody was on the streets at all.";
  char path[4096];
  strcpy(path, write_file("own.txt", text, sizeof text - 1));
  const char *const paths[] = {path};
  leank_tokenizer *t = open_tokenizer(tokenizers[0]);
  leank_dataset_options o = options_of(1u << LEANK_TASK_VALUES, 2, 2, 6000, 6000);
  o.haystacks = paths;
  o.n_haystacks = 1;
  leank_dataset *d = make(t, &o);
  const leank_context *c = leank_dataset_get(d, 0);
  char *context = text_of(t, c->tokens, c->n_tokens);
  assert_true(count_in(context, "Snow fell on the quiet town.") > 10);
  assert_int_equal(count_in(context, "Four score"), 0);
  free(context);
  check_dataset(t, d);
  assert_in_range(longest_of(c), 5820, 6000);
  leank_dataset_close(&d);
  leank_tokenizer_close(&t);
}

/* Prose that itself says what all passkeys are cannot have others hidden in it. */
static void test_a_haystack_that_gives_answers(void **state) {
  (void)state;
  static const char text[] =
      "The first passkey is none. The second passkey is. The third passkey. "
      "The fourth passkey. The fifth passkey. The sixth passkey. The seventh "
      "passkey. The eighth passkey is like the others.";
  char path[4096];
  strcpy(path, write_file("answers.txt", text, sizeof text - 1));
  const char *const paths[] = {path};
  leank_tokenizer *t = open_tokenizer(tokenizers[0]);
  leank_dataset_options o = options_of(1u << LEANK_TASK_PASSKEYS, 1, 2, 6000, 6000);
  o.haystacks = paths;
  o.n_haystacks = 1;
  refused(t, &o, LEANK_E_FORMAT, "passkeys");
  leank_tokenizer_close(&t);
}

/* ---- options ---- */

static void test_options_are_checked(void **state) {
  (void)state;
  leank_tokenizer *t = open_tokenizer(tokenizers[0]);
  const leank_dataset_options good = options_of(1, 2, 2, 2000, 3000);
  leank_dataset_options o = good;
  o.struct_size--;
  refused(t, &o, LEANK_E_ARGUMENT, "options of");
  o = good, o.tasks = 0;
  refused(t, &o, LEANK_E_ARGUMENT, "no task");
  o = good, o.tasks = 1u << LEANK_N_TASKS | 1;
  refused(t, &o, LEANK_E_ARGUMENT, "unknown tasks");
  o = good, o.n_contexts = 0;
  refused(t, &o, LEANK_E_ARGUMENT, "0 contexts");
  o = good, o.n_contexts = SIZE_MAX;
  refused(t, &o, LEANK_E_ARGUMENT, "contexts");
  o = good, o.n_questions = 0;
  refused(t, &o, LEANK_E_ARGUMENT, "0 questions");
  o = good, o.n_questions = LK_MAX_QUESTIONS + 1;
  refused(t, &o, LEANK_E_ARGUMENT, "65 questions");
  o = good, o.min_tokens = 0;
  refused(t, &o, LEANK_E_ARGUMENT, "contexts of 0 .. 3000 tokens");
  o = good, o.min_tokens = 3001;
  refused(t, &o, LEANK_E_ARGUMENT, "contexts of 3001 .. 3000 tokens: 1 or more, the shorter first");
  o = good, o.max_tokens = 100001;
  refused(t, &o, LEANK_E_CONTEXT, "100001");
  o = good, o.max_tokens = SIZE_MAX;
  refused(t, &o, LEANK_E_CONTEXT, "made for 100000");
  o = good, o.tasks = 1u << LEANK_TASK_FILE;
  refused(t, &o, LEANK_E_ARGUMENT, "without a file");
  o = good, o.n_haystacks = 1;
  refused(t, &o, LEANK_E_ARGUMENT, "NULL");
  leank_tokenizer_close(&t);
}

static void test_names_and_defaults(void **state) {
  (void)state;
  static const char *const names[] = {"uuid", "words", "values", "passkeys", "file", "random"};
  for (int i = 0; i < LEANK_N_TASKS; i++)
    assert_string_equal(leank_task_name((leank_task)i), names[i]);
  assert_null(leank_task_name(LEANK_N_TASKS));
  assert_null(leank_task_name((leank_task)-1));
  leank_dataset_options o;
  leank_dataset_options_default(&o);
  assert_int_equal(o.tasks, 7);
  assert_int_equal(o.n_contexts * o.n_questions, 128);
  leank_dataset_close(NULL);
  leank_dataset *none = NULL;
  leank_dataset_close(&none);
}

static void test_models_make_data_sets(void **state) {
  (void)state;
  leank_model *model = NULL;
  leank_dataset *d = NULL;
  leank_error err = {0};
  leank_dataset_options o = options_of(1, 2, 2, 2000, 4096);
  assert_int_equal(leank_model_open(LEANK_TEST_DATA "/tiny/llama-mixed.gguf", NULL, &model, &err),
                   LEANK_OK);
  assert_int_equal(leank_dataset_make(model, &o, &d, &err), LEANK_OK);
  check_dataset(leank_model_get_tokenizer(model), d);
  leank_dataset_close(&d);
  o.max_tokens = 4097;
  assert_int_equal(leank_dataset_make(model, &o, &d, &err), LEANK_E_CONTEXT);
  assert_int_equal(leank_dataset_make(model, NULL, &d, &err), LEANK_E_ARGUMENT);
  assert_int_equal(leank_dataset_make(NULL, &o, &d, &err), LEANK_E_ARGUMENT);
  assert_null(d);
  leank_model_close(&model);
}

/* ---- allocations ---- */

static void test_every_allocation_may_fail(void **state) {
  (void)state;
  static const char line[] = "{\"context\": \"c\", \"question\": \"q\", \"answer\": \"a\"}";
  char path[4096];
  strcpy(path, write_file("one.jsonl", line, sizeof line - 1));
  leank_tokenizer *t = open_tokenizer(tokenizers[2]);
  const lk_dataset_model m = model_of(t);
  const unsigned others = 1u << LEANK_TASK_FILE | 1u << LEANK_TASK_RANDOM;
  leank_dataset_options o = options_of(ALL_MADE | others, 6, 2, 1600, 1600);
  o.examples = path;
  const size_t before = hostile_mem_in_use();
  size_t nth = 1;
  for (;; nth++) {
    leank_dataset *d = NULL;
    leank_error err = {0};
    lk_alloc_fail_nth(nth);
    const leank_status status = lk_dataset_make(&m, &o, &d, &err);
    lk_alloc_fail_nth(0);
    if (status == LEANK_OK) {
      leank_dataset_close(&d);
      break;
    }
    assert_int_equal(status, LEANK_E_MEMORY);
    assert_int_equal(err.code, LEANK_E_MEMORY);
    assert_null(d);
    assert_int_equal(hostile_mem_in_use(), before);
  }
  assert_true(nth > 100);
  assert_int_equal(hostile_mem_in_use(), before);
  leank_tokenizer_close(&t);
}

/* ---- a real model ---- */

static void test_smollm2(void **state) {
  (void)state;
  const char *folder = getenv("LEANK_TEST_MODELS");
  if (!folder) {
    print_message("LEANK_TEST_MODELS is not set\n");
    skip();
  }
  char path[4096];
  snprintf(path, sizeof path, "%s/SmolLM2-135M-Instruct.Q4_1.gguf", folder);
  if (access(path, R_OK) != 0) {
    print_message("%s is not there\n", path);
    skip();
  }
  leank_tokenizer *t = open_tokenizer(path);
  for (unsigned task = 0; task < LEANK_TASK_FILE; task++) {
    check_lengths(t, task, 8, 1024, 8192);
    check_lengths(t, task, 2, 30000, 32768);
  }
  const leank_dataset_options o = options_of(ALL_MADE, 32, 4, 4096, 32768);
  leank_dataset *d = make(t, &o);
  check_dataset(t, d);
  for (size_t i = 0; i < 32; i++) {
    const leank_context *c = leank_dataset_get(d, i);
    for (size_t q = 0; q < c->n_questions; q++) assert_true(c->questions[q].n_text >= 2);
  }
  leank_dataset_close(&d);
  leank_tokenizer_close(&t);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_no_key_is_part_of_another),
      cmocka_unit_test(test_sentences_are_cut),
      cmocka_unit_test(test_text_without_sentences_is_cut),
      cmocka_unit_test(test_bad_haystacks_are_refused),
      cmocka_unit_test(test_every_question_has_one_answer),
      cmocka_unit_test(test_turns_end_as_the_template_ends_them),
      cmocka_unit_test(test_one_question_and_many),
      cmocka_unit_test(test_the_seed_decides_everything),
      cmocka_unit_test(test_data_are_the_same_everywhere),
      cmocka_unit_test(test_seeds_give_other_needles_and_prose),
      cmocka_unit_test(test_lengths_are_as_asked),
      cmocka_unit_test(test_lengths_that_no_task_can_have),
      cmocka_unit_test(test_answers_stand_at_all_depths),
      cmocka_unit_test(test_a_haystack_of_ones_own),
      cmocka_unit_test(test_a_haystack_that_gives_answers),
      cmocka_unit_test(test_options_are_checked),
      cmocka_unit_test(test_names_and_defaults),
      cmocka_unit_test(test_models_make_data_sets),
      cmocka_unit_test(test_every_allocation_may_fail),
      cmocka_unit_test(test_smollm2),
  };
  return cmocka_run_group_tests(tests, make_plain, NULL);
}
