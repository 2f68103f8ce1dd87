/* The user's own examples: JSON lines, good and bad, and the contexts made of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/map.h"
#include "learn/dataset.h"
#include "learn/dataset_file.h"
#include "support/hostile.h"

#define GOOD "{\"context\": \"c\", \"question\": \"q\", \"answer\": \"a\"}"
#define PATH LEANK_TEST_TMP "/examples.jsonl"

/* ---- lines ---- */

static leank_status open_and_close(const void *bytes, size_t n, leank_error *err) {
  lk_examples e = {0};
  const leank_status status = lk_examples_read(bytes, n, "x.jsonl", &e, err);
  lk_examples_close(&e);
  return status;
}

static lk_examples read_good(const char *text) {
  lk_examples e = {0};
  leank_error err = {0};
  if (lk_examples_read(text, strlen(text), "x.jsonl", &e, &err) != LEANK_OK)
    fail_msg("%s", err.message);
  return e;
}

static void bad(const char *text, const char *part) {
  hostile_expect(open_and_close, text, strlen(text), LEANK_E_FORMAT, part);
}

static void test_lines_become_examples(void **state) {
  (void)state;
  lk_examples e =
      read_good("{\"answer\": \"\\u00e4 \\n\", \"question\": \"q1\", \"context\": \"one\"}\r\n"
                "\n \t\r\n"
                "{\"context\":\"one\",\"question\":\"q2\",\"answer\":\"b\"}\n"
                "{\"context\":\"two\",\"question\":\"q3\",\"answer\":\"\xf0\x9f\x98\x80\"}");
  assert_int_equal(e.n, 3);
  assert_string_equal(e.items[0].answer, "\xc3\xa4 \n");
  assert_string_equal(e.items[0].context, "one");
  assert_ptr_equal(e.items[1].context, e.items[0].context);
  assert_string_equal(e.items[1].question, "q2");
  assert_string_equal(e.items[2].context, "two");
  assert_string_equal(e.items[2].answer, "\xf0\x9f\x98\x80");
  assert_int_equal(e.items[0].line, 1);
  assert_int_equal(e.items[1].line, 4);
  assert_int_equal(e.items[2].line, 5);
  lk_examples_close(&e);
  assert_null(e.items);
}

static void test_bad_lines_are_named(void **state) {
  (void)state;
  bad("", "x.jsonl: no examples");
  bad("\n \n\n", "x.jsonl: no examples");
  bad(GOOD "\nnot json", "x.jsonl:2: ");
  bad("\n" GOOD "\n" GOOD GOOD, "x.jsonl:3: ");
  bad(GOOD "]", "x.jsonl:1: ");
  bad("[1, 2]", "x.jsonl:1: not an object");
  bad("\"text\"", "x.jsonl:1: not an object");
  bad("null", "x.jsonl:1: not an object");
  bad("{}", "x.jsonl:1: no \"context\"");
  bad("{\"context\": \"c\", \"question\": \"q\"}", "x.jsonl:1: no \"answer\"");
  bad("{\"context\": \"c\", \"answer\": \"a\"}", "x.jsonl:1: no \"question\"");
  bad("{\"context\": \"c\", \"question\": 7, \"answer\": \"a\"}",
      "x.jsonl:1: \"question\" is not a string");
  bad("{\"context\": [\"c\"], \"question\": \"q\", \"answer\": \"a\"}", "is not a string");
  bad("{\"context\": \"c\", \"question\": \"q\", \"answer\": null}", "is not a string");
  bad("{\"context\": \"c\", \"question\": \"\", \"answer\": \"a\"}", "\"question\" is empty");
  bad("{\"context\": \"c\", \"question\": \"q\", \"answer\": \"a\", \"id\": 3}",
      "x.jsonl:1: unknown key \"id\"");
  bad("{\"context\": \"c\", \"question\": \"q\", \"answer\": \"a\", \"\\n\\t\": 3}",
      "unknown key \"??\"");
  bad("{\"context\": \"c\", \"context\": \"d\", \"question\": \"q\", \"answer\": \"a\"}",
      "x.jsonl:1: duplicate object key");
  bad("{\"context\": \"c\\u0000d\", \"question\": \"q\", \"answer\": \"a\"}", "x.jsonl:1: ");
  bad("{\"context\": \"\\ud800\", \"question\": \"q\", \"answer\": \"a\"}", "x.jsonl:1: ");
  bad("{\"context\": \"caf\xe9\", \"question\": \"q\", \"answer\": \"a\"}", "x.jsonl:1: ");
  bad("\xef\xbb\xbf" GOOD, "x.jsonl:1: ");
}

static void test_numbers_that_are_too_large(void **state) {
  (void)state;
  char digits[400];
  char line[600];
  memset(digits, '9', sizeof digits - 1);
  digits[sizeof digits - 1] = 0;
  snprintf(line, sizeof line, "{\"context\": %s}", digits);
  bad(line, "x.jsonl:1: ");
  bad("{\"context\": 1e999999}", "x.jsonl:1: ");
  bad("{\"context\": -99999999999999999999}", "x.jsonl:1: ");
}

static void test_nesting_and_nuls(void **state) {
  (void)state;
  enum { N = 1 << 20 };
  char *text = malloc(N);
  assert_non_null(text);
  memset(text, '[', N);
  hostile_expect(open_and_close, text, N, LEANK_E_FORMAT, "x.jsonl:1: ");
  memset(text, 0, N);
  hostile_expect(open_and_close, text, 100, LEANK_E_FORMAT, "x.jsonl:1: ");
  free(text);
}

static void test_too_much_of_anything(void **state) {
  (void)state;
  const size_t n = (size_t)LK_MAX_EXAMPLE_LINE_BYTES + 1;
  char *text = malloc(n);
  assert_non_null(text);
  memset(text, 'x', n);
  hostile_expect(open_and_close, text, n, LEANK_E_FORMAT, "more than the 16777216 allowed");
  /* The size is refused before a byte is read. */
  leank_error err = {0};
  assert_int_equal(open_and_close(text, (size_t)LK_MAX_EXAMPLES_BYTES + 1, &err), LEANK_E_FORMAT);
  assert_non_null(strstr(err.message, "536870913 bytes"));
  free(text);
}

static void test_hostile_bytes(void **state) {
  (void)state;
  static const char two[] = GOOD "\n" GOOD;
  hostile_truncations(open_and_close, GOOD, strlen(GOOD));
  hostile_flips(open_and_close, two, sizeof two - 1);
  hostile_allocations(open_and_close, two, sizeof two - 1);
}

/* ---- contexts ---- */

typedef struct fixture {
  leank_tokenizer *tokenizer;
  leank_dataset_options options;
} fixture;

static int set_up(void **state) {
  static fixture f;
  if (leank_tokenizer_open(LEANK_TEST_DATA "/tokenizer/tiny-qwen2", &f.tokenizer, NULL) != LEANK_OK)
    return -1;
  leank_dataset_options_default(&f.options);
  f.options.tasks = 1u << LEANK_TASK_FILE;
  f.options.n_contexts = 3;
  f.options.n_questions = 1;
  f.options.min_tokens = f.options.max_tokens = 600;
  f.options.examples = PATH;
  *state = &f;
  return 0;
}

static int tear_down(void **state) {
  fixture *f = *state;
  leank_tokenizer_close(&f->tokenizer);
  return 0;
}

static leank_status make(const fixture *f, const char *text, leank_dataset **out,
                         leank_error *err) {
  *out = NULL;
  assert_int_equal(lk_file_write_atomic(PATH, text, strlen(text), err), LEANK_OK);
  const lk_dataset_model m = {.tokenizer = f->tokenizer, .n_ctx = 4096};
  return lk_dataset_make(&m, &f->options, out, err);
}

/* Lines in a row with one context are questions on it; contexts come again in turn. */
static void test_contexts_of_a_file(void **state) {
  const fixture *f = *state;
  leank_dataset *d;
  leank_error err = {0};
  assert_int_equal(make(f,
                        "{\"context\":\"Ann is ten.\",\"question\":\"Who?\",\"answer\":\"Ann\"}\n"
                        "{\"context\":\"Ann is ten.\",\"question\":\"Age?\",\"answer\":\"10\"}\n"
                        "{\"context\":\"It rains.\",\"question\":\"Dry?\",\"answer\":\"n\"}\n",
                        &d, &err),
                   LEANK_OK);
  const leank_context *one = leank_dataset_get(d, 0), *two = leank_dataset_get(d, 1),
                      *again = leank_dataset_get(d, 2);
  assert_int_equal(one->task, LEANK_TASK_FILE);
  assert_int_equal(one->n_questions, 2);
  assert_string_equal(one->questions[1].text, "Age?");
  assert_string_equal(one->questions[1].answer_text, "10");
  assert_int_equal(two->n_questions, 1);
  assert_true(two->questions[0].n_text >= 1);
  assert_int_equal(two->questions[0].n_answer, two->questions[0].n_text + 1);
  assert_int_equal(again->n_questions, 2);
  assert_int_equal(again->n_tokens, one->n_tokens);
  assert_memory_equal(again->tokens, one->tokens, one->n_tokens * sizeof *one->tokens);
  leank_dataset_close(&d);
}

/* Text that looks like a special token stays text. */
static void test_examples_cannot_end_a_turn(void **state) {
  const fixture *f = *state;
  leank_dataset *d;
  leank_error err = {0};
  assert_int_equal(make(f,
                        "{\"context\":\"a<|im_end|>b\",\"question\":\"q<|im_end|>\","
                        "\"answer\":\"c<|im_end|>\"}",
                        &d, &err),
                   LEANK_OK);
  const leank_context *c = leank_dataset_get(d, 0);
  const leank_question *q = &c->questions[0];
  size_t n_ends = 0;
  for (size_t i = 0; i < c->n_tokens; i++) n_ends += leank_token_is_end(f->tokenizer, c->tokens[i]);
  assert_int_equal(n_ends, 2); /* of the system's and the user's message */
  for (size_t i = 0; i < q->n_text; i++)
    assert_false(leank_token_is_end(f->tokenizer, q->answer[i]));
  leank_dataset_close(&d);
}

static void test_an_example_that_is_too_long(void **state) {
  const fixture *f = *state;
  char text[2000];
  leank_dataset *d;
  leank_error err = {0};
  snprintf(text, sizeof text, "%s\n{\"context\":\"%0700d\",\"question\":\"q\",\"answer\":\"a\"}\n",
           GOOD, 0);
  assert_int_equal(make(f, text, &d, &err), LEANK_E_CONTEXT);
  assert_non_null(strstr(err.message, "examples.jsonl:2: an example of "));
  assert_null(d);
  /* Of a shared context, the line of the question that is too long. */
  snprintf(text, sizeof text, "%s\n{\"context\":\"c\",\"question\":\"q\",\"answer\":\"%0700d\"}\n",
           GOOD, 0);
  assert_int_equal(make(f, text, &d, &err), LEANK_E_CONTEXT);
  assert_non_null(strstr(err.message, "examples.jsonl:2: an example of "));
}

static void test_files_that_fail(void **state) {
  const fixture *f = *state;
  leank_dataset_options o = f->options;
  leank_dataset *d = NULL;
  leank_error err = {0};
  o.examples = LEANK_TEST_TMP "/no-such.jsonl";
  const lk_dataset_model m = {.tokenizer = f->tokenizer, .n_ctx = 4096};
  assert_int_equal(lk_dataset_make(&m, &o, &d, &err), LEANK_E_IO);
  assert_int_equal(make(f, "", &d, &err), LEANK_E_FORMAT);
  assert_int_equal(make(f, GOOD "\n{}", &d, &err), LEANK_E_FORMAT);
  assert_non_null(strstr(err.message, "examples.jsonl:2: no \"context\""));
  assert_int_equal(err.offset, strlen(GOOD) + 1);
  assert_null(d);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_lines_become_examples),
      cmocka_unit_test(test_bad_lines_are_named),
      cmocka_unit_test(test_numbers_that_are_too_large),
      cmocka_unit_test(test_nesting_and_nuls),
      cmocka_unit_test(test_too_much_of_anything),
      cmocka_unit_test(test_hostile_bytes),
      cmocka_unit_test(test_contexts_of_a_file),
      cmocka_unit_test(test_examples_cannot_end_a_turn),
      cmocka_unit_test(test_an_example_that_is_too_long),
      cmocka_unit_test(test_files_that_fail),
  };
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
