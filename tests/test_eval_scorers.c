/* What answers are worth: cases worked by hand, and values of the Python packages that LongBench
 * calls (rouge 1.0.1, fuzzywuzzy 0.18 over difflib). LongBench's files, whole and damaged. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <leank/eval.h>

#include "base/alloc.h"
#include "eval/longbench.h"
#include "support/hostile.h"

/* Decimals that the expected values were printed with. */
static const double printed = 1e-9;

static double score_of(leank_eval_metric metric, const char *answer, const char *const *references,
                       size_t n, const char *const *classes, size_t n_classes) {
  leank_error err = {0};
  double score = -1;
  const size_t before = hostile_mem_in_use();
  if (leank_eval_score(metric, answer, references, n, classes, n_classes, &score, &err) != LEANK_OK)
    fail_msg("'%s': %s", answer, err.message);
  assert_int_equal(hostile_mem_in_use(), before);
  return score;
}

typedef struct pair_case {
  leank_eval_metric metric;
  const char *answer, *reference;
  double score;
} pair_case;

static void check_pairs(const pair_case *cases, size_t n) {
  for (size_t i = 0; i < n; i++) {
    const double score =
        score_of(cases[i].metric, cases[i].answer, &cases[i].reference, 1, NULL, 0);
    if (!(fabs(score - cases[i].score) <= printed))
      fail_msg("case %zu: '%s' of '%s': %.10f, expected %.10f", i, cases[i].answer,
               cases[i].reference, score, cases[i].score);
  }
}
#define CHECK_PAIRS(cases) check_pairs(cases, sizeof(cases) / sizeof *(cases))

/* ---- RULER ---- */

static void test_strings(void **state) {
  (void)state;
  static const char *const references[] = {"Apple", "1234567", "pear"};
  assert_true(score_of(LEANK_METRIC_ALL, "APPLE and 1234567", references, 3, NULL, 0) == 2.0 / 3);
  assert_true(score_of(LEANK_METRIC_ALL, "pearl, apples", references, 3, NULL, 0) == 2.0 / 3);
  assert_true(score_of(LEANK_METRIC_ALL, "", references, 3, NULL, 0) == 0);
  assert_true(score_of(LEANK_METRIC_ALL, "apple 1234567 pear", references, 3, NULL, 0) == 1);
  assert_true(score_of(LEANK_METRIC_ALL, "123456 7", references, 3, NULL, 0) == 0);
  assert_true(score_of(LEANK_METRIC_PART, "a PEAR", references, 3, NULL, 0) == 1);
  assert_true(score_of(LEANK_METRIC_PART, "a plum", references, 3, NULL, 0) == 0);
}

/* ---- GSM-Infinite ---- */

static void test_variables(void **state) {
  (void)state;
  static const char *const two[] = {"V12", "V345"};
  static const struct {
    const char *answer;
    double score;
  } cases[] = {
      {" V12, V345", 1},
      {"V345 and V12.", 1},
      {"V345, V12, V345", 1},
      {"V12", 0},
      {"V12, V345, V6", 0},
      {"V123, V345", 0}, /* V12 is not V123 */
      {"XV12, V345", 0}, /* nor part of another word */
      {"V7 = V12 + 1, so V7 is out. ANSWER: V12, V345", 1},
      {"ANSWER: V1. No: ANSWER: V12 V345", 1},
      {"V12, V345. ANSWER: V12", 0},
      {"", 0},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    if (score_of(LEANK_METRIC_VARIABLES, cases[i].answer, two, 2, NULL, 0) != cases[i].score)
      fail_msg("'%s'", cases[i].answer);
}

/* ---- LongBench ---- */

static void test_f1(void **state) {
  (void)state;
  static const pair_case cases[] = {
      /* cat sat / cat sat down: 2 of 2, 2 of 3 */
      {LEANK_METRIC_F1, "The cat, sat!", "a cat sat down", 0.8},
      {LEANK_METRIC_F1, "an   answer", "Answer", 1},
      {LEANK_METRIC_F1, "don't", "dont", 1},
      /* as often as both have it: b b of b b b, and of a word more */
      {LEANK_METRIC_F1, "b b b", "b b c", 2.0 / 3},
      {LEANK_METRIC_F1, "the", "the", 0}, /* nothing is left */
      {LEANK_METRIC_F1, "", "x", 0},
      {LEANK_METRIC_F1, "theatre", "atre", 0},
  };
  static const char *const references[] = {"red fish", "blue", "red"};
  CHECK_PAIRS(cases);
  assert_true(score_of(LEANK_METRIC_F1, "red", references, 3, NULL, 0) == 1);
}

static void test_rouge(void **state) {
  (void)state;
  static const pair_case cases[] = {
      {LEANK_METRIC_ROUGE_L, "the cat sat. on the mat.", "a cat sat on the mat. it ran.",
       0.7692307645},
      {LEANK_METRIC_ROUGE_L, "x. y", "y. x. x", 0.9999999950},
      {LEANK_METRIC_ROUGE_L, " . a b", "a b c", 0.6666666617}, /* a blank is an empty word */
      {LEANK_METRIC_ROUGE_L, "a b c d e", "a c b e d", 0.5999999950},
      {LEANK_METRIC_ROUGE_L, "b a. c", "a b. c d", 0.5714285665},
      {LEANK_METRIC_ROUGE_L, "...", "a", 0},
      {LEANK_METRIC_ROUGE_L, "", "a", 0},
      /* case and punctuation count: one word of four, of three: 1/4, 1/3, F = 2/7 */
      {LEANK_METRIC_ROUGE_L, "A dog, it ran", "a dog ran",
       2 * (1.0 / 4) * (1.0 / 3) / (1.0 / 4 + 1.0 / 3 + 1e-8)},
  };
  CHECK_PAIRS(cases);
}

static void test_numbers(void **state) {
  (void)state;
  static const pair_case cases[] = {
      {LEANK_METRIC_COUNT, "There are 7.", "7", 1},
      {LEANK_METRIC_COUNT, "7 or 8, no, 7", "7", 2.0 / 3},
      {LEANK_METRIC_COUNT, "17", "7", 0},
      {LEANK_METRIC_COUNT, "seven", "7", 0},
      {LEANK_METRIC_RETRIEVAL, "Paragraph 12", "Paragraph 12", 1},
      {LEANK_METRIC_RETRIEVAL, "12, or paragraph 3", "Paragraph 12", 0.5},
      {LEANK_METRIC_RETRIEVAL, "no idea", "Paragraph 12", 0},
      {LEANK_METRIC_RETRIEVAL, "段落5", "段落5", 1},
  };
  CHECK_PAIRS(cases);
  static const char *const none[] = {"Section 3"};
  leank_error err = {0};
  double score = 5;
  assert_int_equal(leank_eval_score(LEANK_METRIC_RETRIEVAL, "3", none, 1, NULL, 0, &score, &err),
                   LEANK_E_ARGUMENT);
  assert_true(score == 5);
}

static void test_classes(void **state) {
  (void)state;
  static const char *const classes[] = {"Loc", "Location", "Human", "being", "Human being"};
  static const char *const location[] = {"Location"}, *const human[] = {"Human being"};
  /* "Loc" is found too, and dropped, being part of the right one. */
  assert_true(score_of(LEANK_METRIC_CLASS, "It is a Location.", location, 1, classes, 5) == 1);
  assert_true(score_of(LEANK_METRIC_CLASS, "Location or Human", location, 1, classes, 5) == 0.5);
  assert_true(score_of(LEANK_METRIC_CLASS, "Loc", location, 1, classes, 5) == 0);
  assert_true(score_of(LEANK_METRIC_CLASS, "location", location, 1, classes, 5) == 0);
  /* Found: Human, being, Human being. Dropping Human moves "being" to where the loop has been, so
   * it stays: 1/2, as LongBench has it. */
  assert_true(score_of(LEANK_METRIC_CLASS, "Human being", human, 1, classes, 5) == 0.5);
}

static void test_code(void **state) {
  (void)state;
  static const pair_case cases[] = {
      {LEANK_METRIC_CODE, "return x + 1", "return x + 2", 0.92},
      {LEANK_METRIC_CODE, "abcd", "bcde", 0.75},
      {LEANK_METRIC_CODE, "    for i in range(10):", "for j in range(n):", 0.78},
      {LEANK_METRIC_CODE, "\n\n# c\n`x`\na // b\nabcd\nzzzz", "abcd", 1},
      {LEANK_METRIC_CODE, "# only a comment", "abcd", 0},
      {LEANK_METRIC_CODE, "", "", 1},
      {LEANK_METRIC_CODE, "é = ü", "é = u", 0.8}, /* characters, not bytes */
  };
  CHECK_PAIRS(cases);
  /* In a text of 200 characters and more, those that are frequent match nothing by themselves. */
  char a[301], b[241];
  for (size_t i = 0; i < 300; i++) a[i] = "ab"[i % 2];
  for (size_t i = 0; i < 240; i++) b[i] = "ba"[i % 2];
  a[300] = b[240] = '\0';
  const char *reference = b;
  assert_true(score_of(LEANK_METRIC_CODE, a, &reference, 1, NULL, 0) == 0);
  b[199] = '\0';
  assert_true(score_of(LEANK_METRIC_CODE, a, &reference, 1, NULL, 0) == 0.8); /* 2 * 199 / 499 */
}

static void test_no_memory(void **state) {
  (void)state;
  static const char *const reference[] = {"a b. c d"}, *const classes[] = {"x", "y"};
  static const leank_eval_metric metrics[] = {LEANK_METRIC_F1, LEANK_METRIC_ROUGE_L,
                                              LEANK_METRIC_CLASS, LEANK_METRIC_CODE};
  for (size_t i = 0; i < 4; i++) {
    const size_t before = hostile_mem_in_use();
    leank_status status = LEANK_E_MEMORY;
    size_t n = 0;
    for (; status != LEANK_OK; n++) {
      leank_error err = {0};
      double score = 0;
      lk_alloc_fail_nth(n + 1);
      status = leank_eval_score(metrics[i], "x a. b y", reference, 1, classes, 2, &score, &err);
      lk_alloc_fail_nth(0);
      assert_true(status == LEANK_OK || status == LEANK_E_MEMORY);
      assert_int_equal(hostile_mem_in_use(), before);
    }
    assert_true(n > 1);
  }
}

/* ---- LongBench's files ---- */

#define GOOD                                                                                       \
  "{\"input\": \"Who?\", \"context\": \"Text.\", \"answers\": [\"He\", \"him\"], \"length\": 2, "  \
  "\"dataset\": \"hotpotqa\", \"language\": \"en\", \"all_classes\": null, \"_id\": \"1\"}"

static leank_status parse(const void *bytes, size_t n, leank_error *err) {
  lk_longbench data = {0};
  const leank_status status = lk_longbench_parse(bytes, n, "trec_e.jsonl", &data, err);
  lk_longbench_free(&data);
  return status;
}

static void refused(const char *text, const char *part) {
  hostile_expect(parse, text, strlen(text), LEANK_E_FORMAT, part);
}

static void test_files(void **state) {
  (void)state;
  static const char two[] = GOOD "\n\n \r\n"
                                 "{\"input\":\"q\",\"context\":\"c\",\"answers\":[\"b\"],"
                                 "\"all_classes\":[\"a\",\"b\"]}";
  lk_longbench data = {0};
  lk_text_buffer text = {0};
  leank_error err = {0};
  if (lk_longbench_parse(two, strlen(two), "dir/trec_e.jsonl", &data, &err) != LEANK_OK)
    fail_msg("%s", err.message);
  assert_int_equal(data.n, 2);
  assert_string_equal(data.items[0].task->name, "hotpotqa");
  assert_int_equal(data.items[0].n_answers, 2);
  assert_string_equal(data.items[1].task->name, "trec"); /* by the file's name */
  assert_int_equal(data.items[1].n_classes, 2);
  lk_longbench_write(&data.items[0], &text);
  assert_non_null(strstr(text.text, "given passages.\nText.\n\nAnswer the question"));
  assert_non_null(strstr(text.text, "\n\nQuestion: Who?\nAnswer:"));
  lk_text_buffer_free(&text);
  lk_longbench_free(&data);

  refused("", "holds no line");
  refused("x", "trec_e.jsonl:1: invalid token near 'x'");
  refused("[]", "not an object");
  refused(GOOD "\n{\"input\":1}", ":2: ");
  refused("{\"dataset\":\"nothing\"}", "unknown data set 'nothing'");
  refused("{\"dataset\":\"qasper\",\"input\":\"q\",\"answers\":[\"a\"]}", "\"context\"");
  refused("{\"dataset\":\"qasper\",\"input\":\"q\",\"context\":\"c\",\"answers\":[]}",
          "\"answers\"");
  refused("{\"dataset\":\"qasper\",\"input\":\"q\",\"context\":\"c\",\"answers\":[1]}",
          "no string");
  refused("{\"dataset\":\"trec\",\"input\":\"q\",\"context\":\"c\",\"answers\":[\"a\"]}",
          "\"all_classes\"");
  refused("{\"dataset\":\"passage_retrieval_en\",\"input\":\"q\",\"context\":\"c\",\"answers\":"
          "[\"a\"]}",
          "names no paragraph");
  static const char chinese[] = "{\"dataset\":\"dureader\"}";
  hostile_expect(parse, chinese, strlen(chinese), LEANK_E_UNSUPPORTED, "words of Chinese");
}

static void test_damaged_files(void **state) {
  (void)state;
  hostile_truncations(parse, GOOD, strlen(GOOD));
  hostile_flips(parse, GOOD, strlen(GOOD));
  hostile_allocations(parse, GOOD, strlen(GOOD));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_strings), cmocka_unit_test(test_variables),
      cmocka_unit_test(test_f1),      cmocka_unit_test(test_rouge),
      cmocka_unit_test(test_numbers), cmocka_unit_test(test_classes),
      cmocka_unit_test(test_code),    cmocka_unit_test(test_no_memory),
      cmocka_unit_test(test_files),   cmocka_unit_test(test_damaged_files),
  };
  return cmocka_run_group_tests_name("eval_scorers", tests, NULL, NULL);
}
