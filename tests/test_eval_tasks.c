/* Tasks whose answers are known: they are solved here by a program that reads the prompt, needles
 * stand where they should, budgets hold, and a seed gives one set. 200 samples of each. The
 * tokenizer works nearly byte by byte: lengths here are of short prompts. */
#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "eval/eval_set.h"
#include "eval/fit.h"
#include "support/hostile.h"

enum { N_SAMPLES = 200, LENGTH = 3000, N_CTX = 1 << 20, MAX_UNITS = 4096 };

typedef struct fixture {
  leank_tokenizer *tokenizer;
  lk_prompter prompter;
  lk_haystack haystack;
} fixture;

static int open_fixture(void **state) {
  static fixture f;
  leank_error err = {0};
  *state = &f;
  return leank_tokenizer_open(LEANK_TEST_DATA "/tokenizer/tiny-smollm.gguf", &f.tokenizer, &err) ||
         lk_prompter_open(f.tokenizer, &f.prompter, &err) ||
         lk_haystack_open(NULL, 0, &f.haystack, &err);
}

static int close_fixture(void **state) {
  fixture *f = *state;
  lk_haystack_close(&f->haystack);
  leank_tokenizer_close(&f->tokenizer);
  return 0;
}

/* ---- a sample of a task ---- */

typedef struct sample {
  const lk_quiz_task *task;
  lk_quiz quiz;
  size_t n_tokens, units;
  const char *references[LK_MAX_DRAW];
} sample;

static const lk_quiz_task *find_task(const char *name) {
  for (size_t i = 0; lk_quiz_task_at(i); i++)
    if (strcmp(lk_quiz_task_at(i)->name, name) == 0) return lk_quiz_task_at(i);
  fail_msg("no task %s", name);
  return NULL;
}

/* Tokens of the quiz of a seed with n units. */
static size_t count_tokens(const fixture *f, const lk_quiz_task *task, uint64_t seed, size_t n) {
  const lk_quiz_source source = {{seed}, &f->haystack, LENGTH, NULL};
  lk_quiz quiz = {0};
  leank_token *tokens = NULL;
  leank_error err = {0};
  size_t n_tokens = 0;
  task->write(&source, task->kind, n, &quiz);
  assert_int_equal(
      lk_prompt_tokens(&f->prompter, quiz.message.text, quiz.begin.text, &tokens, &n_tokens, &err),
      LEANK_OK);
  lk_free(tokens);
  lk_quiz_free(&quiz);
  return n_tokens;
}

/* Within the budget, and one unit more would not be. */
static sample make(const fixture *f, const char *name, uint64_t seed) {
  sample s = {.task = find_task(name)};
  leank_token *tokens = NULL;
  leank_error err = {0};
  const lk_quiz_source source = {{seed}, &f->haystack, LENGTH, NULL};
  if (lk_quiz_fit(&f->prompter, s.task, &source, &s.quiz, &tokens, &s.n_tokens, &s.units, &err) !=
      LEANK_OK)
    fail_msg("%s: %s", name, err.message);
  lk_free(tokens);
  assert_true(s.n_tokens + s.task->max_new <= LENGTH);
  assert_true(count_tokens(f, s.task, seed, s.units + 1) + s.task->max_new > LENGTH);
  assert_true(s.quiz.n_references > 0 && s.quiz.n_references <= LK_MAX_DRAW);
  const char *at = s.quiz.references.text;
  for (size_t i = 0; i < s.quiz.n_references; i++, at += strlen(at) + 1) s.references[i] = at;
  return s;
}

static void drop(sample *s) { lk_quiz_free(&s->quiz); }

static size_t count_in(const char *text, const char *what) {
  return lk_text_count(text, strlen(text), what);
}

/* |n - expected| within 5 standard deviations of a binomial; by chance once in two million. */
static void assert_share(size_t n, size_t of, double p) {
  const double sd = sqrt((double)of * p * (1 - p));
  if (!(fabs((double)n - (double)of * p) <= 5 * sd)) fail_msg("%zu of %zu, expected %g", n, of, p);
}

/* ---- needles ---- */

/* How many units stand before needle i: sentences of the prose, or lines that are no asked needle.
 */
static void find_places(const fixture *f, const sample *s, bool essay, size_t *places, size_t *n) {
  const char *at = strchr(s->quiz.message.text, '\n') + 1, *end = strstr(at, "\nWhat ");
  const lk_haystack *h = &f->haystack;
  size_t units = 0, sentence = h->n;
  *n = 0;
  while (at < end) {
    const char *stop = strpbrk(at, essay ? "." : "\n");
    bool needle = strncmp(at, "One of the special magic ", 25) == 0;
    if (essay && needle) {
      at = stop + 2;
    } else if (essay) {
      for (size_t i = 0; sentence == h->n && i < h->n; i++)
        if (strncmp(at, h->sentences[i].p, h->sentences[i].n) == 0) sentence = i;
      assert_true(sentence < h->n);
      const lk_span span = h->sentences[(sentence + units) % h->n];
      assert_memory_equal(at, span.p, span.n);
      at += span.n + 1;
    } else {
      for (size_t r = 0; needle && r < s->quiz.n_references; r++) {
        const char *found = strstr(at, s->references[r]);
        needle = found && found < stop;
      }
      at = stop + 1;
    }
    if (needle)
      places[(*n)++] = units;
    else
      units++;
  }
  assert_int_equal(units, s->units);
}

static void check_niah(const fixture *f, const char *name, bool essay, size_t n_needles,
                       size_t n_references) {
  size_t first_half = 0, depths = 0;
  for (uint64_t i = 0; i < N_SAMPLES; i++) {
    sample s = make(f, name, 1000 + i);
    size_t places[MAX_UNITS], n;
    find_places(f, &s, essay, places, &n);
    assert_int_equal(n, n_needles);
    assert_int_equal(s.quiz.n_needles, n_needles);
    assert_int_equal(s.quiz.n_references, n_references);
    for (size_t k = 0; k < n; k++) {
      assert_int_equal(places[k], s.quiz.places[k]);
      assert_int_equal(places[k], s.quiz.depths[k] * s.units / (LK_N_DEPTHS - 1));
      assert_true(k == 0 || s.quiz.depths[k] > s.quiz.depths[k - 1]);
      first_half += s.quiz.depths[k] < LK_N_DEPTHS / 2;
      depths++;
    }
    for (size_t k = 0; k < n_references; k++) {
      assert_int_equal(count_in(s.quiz.message.text, s.references[k]), 1);
      assert_int_equal(count_in(s.quiz.begin.text, s.references[k]), 0);
    }
    drop(&s);
  }
  assert_share(first_half, depths, 0.5);
}

static void test_niah(void **state) {
  const fixture *f = *state;
  check_niah(f, "niah_single_1", false, 1, 1);
  check_niah(f, "niah_single_2", true, 1, 1);
  check_niah(f, "niah_single_3", true, 1, 1);
  check_niah(f, "niah_multikey_1", true, 4, 1);
  check_niah(f, "niah_multikey_2", false, 1, 1);
  check_niah(f, "niah_multikey_3", false, 1, 1);
  check_niah(f, "niah_multivalue", true, 4, 4);
  check_niah(f, "niah_multiquery", true, 4, 4);
}

/* The asked key's needles, and only they, hold the references. */
static void test_niah_keys(void **state) {
  const fixture *f = *state;
  static const char *const names[] = {"niah_single_1", "niah_multikey_1", "niah_multikey_2",
                                      "niah_multikey_3", "niah_multivalue"};
  for (size_t t = 0; t < sizeof names / sizeof *names; t++)
    for (uint64_t i = 0; i < 20; i++) {
      sample s = make(f, names[t], i);
      const char *asked = strstr(s.quiz.message.text, "\nWhat "), *key = strstr(asked, " for ") + 5;
      char line[160], found[64];
      size_t n = 0;
      snprintf(line, sizeof line, " for %.*s is: ", (int)strcspn(key, " "), key);
      for (const char *at = s.quiz.message.text; (at = strstr(at, line)) && at < asked; at++, n++) {
        const char *value = at + strlen(line);
        snprintf(found, sizeof found, "%.*s", (int)strcspn(value, "."), value);
        bool known = false;
        for (size_t r = 0; r < s.quiz.n_references; r++)
          known = known || strcmp(s.references[r], found) == 0;
        assert_true(known);
      }
      assert_int_equal(n, s.quiz.n_references);
      drop(&s);
    }
}

/* ---- words ---- */

/* Times a word stands in a numbered list: ". word" before a blank or the line's end. */
static size_t count_listed(const char *list, const char *end, const char *word) {
  char item[80];
  size_t n = 0;
  snprintf(item, sizeof item, ". %s", word);
  for (const char *at = list; (at = strstr(at, item)) && at < end; at++)
    n += at[strlen(item)] == ' ' || at[strlen(item)] == '\n';
  return n;
}

static void test_cwe(void **state) {
  const fixture *f = *state;
  for (uint64_t i = 0; i < N_SAMPLES; i++) {
    sample s = make(f, "cwe", i);
    const char *list = strstr(strstr(s.quiz.message.text, "\nBelow is a numbered"), "\n1. ");
    const char *end = strstr(list, "\nQuestion: ");
    assert_int_equal(s.quiz.n_references, 10);
    for (size_t r = 0; r < 10; r++) assert_int_equal(count_listed(list, end, s.references[r]), 6);
    /* All others once: as many items as that makes. */
    char last[32];
    snprintf(last, sizeof last, " %zu. ", 60 + s.units);
    const char *found = strstr(list, last);
    assert_true(found && found < end);
    snprintf(last, sizeof last, " %zu. ", 61 + s.units);
    found = strstr(list, last);
    assert_true(!found || found > end);
    drop(&s);
  }
}

/* A word of the list is lower case, and no other one. */
static void test_common_words(void **state) {
  (void)state;
  const size_t n = lk_single_words();
  assert_true(n > 1000);
  for (size_t i = 0; i < n; i++) {
    const lk_word word = lk_single_word(i);
    assert_true(word.n >= 3);
    for (size_t k = 0; k < word.n; k++) assert_true(word.p[k] >= 'a' && word.p[k] <= 'z');
    for (size_t j = 0; j < i; j++) {
      const lk_word other = lk_single_word(j);
      assert_true(other.n != word.n || memcmp(other.p, word.p, word.n) != 0);
    }
  }
}

static void test_fwe(void **state) {
  const fixture *f = *state;
  for (uint64_t i = 0; i < N_SAMPLES; i++) {
    sample s = make(f, "fwe", i);
    const char *list = strstr(s.quiz.message.text, "coded words. ");
    assert_int_equal(s.quiz.n_references, 3);
    for (size_t r = 0; r < 3; r++) {
      /* floor(n / (zeta(2) k^2)), k from 2 on: the most frequent one is "..." */
      const double k = (double)(r + 2), share = 6 / (3.14159265358979 * 3.14159265358979);
      assert_int_equal(count_in(list, s.references[r]),
                       (size_t)(share * (double)s.units / (k * k)));
    }
    assert_true(count_in(list, " ... ") > count_in(list, s.references[0]));
    assert_true(count_in(list, s.references[2]) >= 1);
    drop(&s);
  }
}

/* ---- variables ---- */

typedef struct variable {
  char name[16], from[16]; /* from: "" of a number */
  int add;
  int value;
  bool known;
} variable;

/* Solves by going through all assignments until nothing changes. */
static void solve(variable *list, size_t n) {
  for (bool changed = true; changed;) {
    changed = false;
    for (size_t i = 0; i < n; i++) {
      if (list[i].known) continue;
      for (size_t j = 0; j < n; j++)
        if (list[j].known && strcmp(list[j].name, list[i].from) == 0) {
          list[i].value = list[j].value + list[i].add;
          list[i].known = changed = true;
        }
    }
  }
}

static void check_solution(const sample *s, const variable *list, size_t n, int asked) {
  size_t n_right = 0;
  for (size_t i = 0; i < n; i++) {
    const bool right = list[i].known && list[i].value == asked;
    bool listed = false;
    for (size_t r = 0; r < s->quiz.n_references; r++)
      listed = listed || strcmp(s->references[r], list[i].name) == 0;
    assert_int_equal(right, listed);
    n_right += right;
  }
  assert_int_equal(n_right, s->quiz.n_references);
}

static void test_vt(void **state) {
  const fixture *f = *state;
  for (uint64_t i = 0; i < N_SAMPLES; i++) {
    sample s = make(f, "vt", i);
    variable list[16];
    size_t n = 0;
    const char *text = strstr(s.quiz.message.text, "\n\nMemorize"); /* behind the example */
    assert_non_null(text);
    for (const char *at = text; (at = strstr(at, "VAR ")); at++) {
      variable v = {.known = false};
      if (sscanf(at, "VAR %5s = VAR %5s", v.name, v.from) != 2)
        v.known = sscanf(at, "VAR %5s = %d", v.name, &v.value) == 2;
      if (!v.known && !v.from[0]) continue; /* the right side of an assignment */
      assert_true(n < 16);
      list[n++] = v;
    }
    assert_int_equal(n, 5);
    solve(list, n);
    check_solution(&s, list, n, atoi(strstr(text, "the value ") + 10));
    assert_int_equal(count_in(text, lk_noise_line), s.units);
    drop(&s);
  }
}

static void check_symbolic(const fixture *f, const char *name, size_t n_tree) {
  static variable list[MAX_UNITS];
  size_t n_several = 0;
  for (uint64_t i = 0; i < N_SAMPLES; i++) {
    sample s = make(f, name, i);
    size_t n = 0, n_known = 0;
    for (const char *at = s.quiz.message.text; (at = strstr(at, "assign V")); at++) {
      variable v = {.known = false};
      char sign = 0;
      if (sscanf(at, "assign %15[V0-9] = %15[V0-9] %c", v.name, v.from, &sign) != 3 ||
          v.from[0] != 'V') {
        v.from[0] = '\0';
        v.known = sscanf(at, "assign %15[V0-9] = %d", v.name, &v.value) == 2;
        assert_true(v.known);
      }
      v.add = sign == '+' ? 1 : sign == '-' ? -1 : 0;
      for (size_t j = 0; j < n; j++) assert_string_not_equal(list[j].name, v.name);
      assert_true(n < MAX_UNITS);
      list[n++] = v;
    }
    assert_int_equal(n, n_tree + s.units);
    solve(list, n);
    for (size_t j = 0; j < n; j++) n_known += list[j].known;
    assert_int_equal(n_known, n_tree);
    check_solution(&s, list, n, atoi(strstr(s.quiz.message.text, "equal to ") + 9));
    n_several += s.quiz.n_references > 1;
    drop(&s);
  }
  assert_true(n_tree == 1 ? n_several == 0 : n_several > 0);
}

static void test_symbolic(void **state) {
  check_symbolic(*state, "symbolic_op1", 1);
  check_symbolic(*state, "symbolic_op2", 2);
  check_symbolic(*state, "symbolic_op3", 3);
  check_symbolic(*state, "symbolic_op4", 4);
  check_symbolic(*state, "symbolic_op6", 6);
  check_symbolic(*state, "symbolic_op8", 8);
}

/* ---- documents ---- */

/* The word behind `mark` in the document of a person. */
static void read_document(const char *text, const char *name, const char *mark, char *out,
                          size_t room) {
  char begin[80];
  snprintf(begin, sizeof begin, ":\n%s was a ", name);
  assert_int_equal(count_in(text, begin), 1);
  const char *at = strstr(strstr(text, begin), mark) + strlen(mark);
  snprintf(out, room, "%.*s", (int)strcspn(at, mark[0] == 'l' ? "." : " "), at);
}

static void check_qa(const fixture *f, const char *task, bool two) {
  size_t first_half = 0;
  for (uint64_t i = 0; i < N_SAMPLES; i++) {
    sample s = make(f, task, i);
    const char *text = s.quiz.message.text, *question = strstr(text, "Question: ");
    char name[64], town[64];
    const char *who = strstr(question, "town was ") + 9;
    if (two) who += strlen("the teacher of ");
    snprintf(name, sizeof name, "%.*s", (int)(strstr(who, " born") - who), who);
    if (two) read_document(text, name, "learned the trade from ", name, sizeof name);
    read_document(text, name, "Born in ", town, sizeof town);
    assert_int_equal(s.quiz.n_references, 1);
    assert_string_equal(town, s.references[0]);
    assert_int_equal(count_in(text, town), 1);
    assert_int_equal(count_in(text, "Document "), s.units);
    first_half += (size_t)(strstr(text, town) - text) < (size_t)(question - text) / 2;
    drop(&s);
  }
  assert_share(first_half, N_SAMPLES, 0.5);
}

static void test_qa_like(void **state) {
  check_qa(*state, "qa_like_1", false);
  check_qa(*state, "qa_like_2", true);
}

/* ---- sets ---- */

static leank_eval_options options_of(leank_eval_suite suite, const size_t *lengths, size_t n) {
  leank_eval_options o;
  leank_eval_options_default(&o);
  o.suite = suite;
  o.lengths = lengths;
  o.n_lengths = n;
  o.n_samples = 2;
  return o;
}

static leank_eval_set *open_set(const fixture *f, const leank_eval_options *o) {
  leank_eval_set *set = NULL;
  leank_error err = {0};
  if (lk_eval_set_make(f->tokenizer, N_CTX, o, &set, &err) != LEANK_OK) fail_msg("%s", err.message);
  return set;
}

/* FNV-1a over all messages, tokens and references. */
static uint64_t fingerprint(const leank_eval_set *set) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (size_t i = 0; i < leank_eval_set_size(set); i++) {
    leank_eval_prompt *p = NULL, described;
    leank_error err = {0};
    if (leank_eval_prompt_make(set, i, &p, &err) != LEANK_OK) fail_msg("%s", err.message);
    leank_eval_set_describe(set, i, &described);
    assert_string_equal(p->task, described.task);
    assert_int_equal(p->length, described.length);
    assert_true(p->n_tokens + p->max_new + p->n_passage <= p->length);
    for (const char *c = p->message; *c; c++) hash = (hash ^ (unsigned char)*c) * 0x100000001b3u;
    for (size_t k = 0; k < p->n_tokens + p->n_passage; k++)
      hash = (hash ^ (uint32_t)p->tokens[k]) * 0x100000001b3u;
    for (size_t r = 0; r < p->n_references; r++)
      for (const char *c = p->references[r]; *c; c++)
        hash = (hash ^ (unsigned char)*c) * 0x100000001b3u;
    leank_eval_prompt_close(&p);
    assert_null(p);
  }
  return hash;
}

static void test_seed(void **state) {
  const fixture *f = *state;
  static const size_t lengths[] = {3000, 4000};
  const size_t before = hostile_mem_in_use();
  for (leank_eval_suite suite = LEANK_SUITE_RULER; suite <= LEANK_SUITE_KL; suite++) {
    leank_eval_options o = options_of(suite, lengths, 2);
    leank_eval_set *a = open_set(f, &o), *b = open_set(f, &o);
    o.seed = 2;
    leank_eval_set *c = open_set(f, &o);
    const uint64_t hash = fingerprint(a);
    assert_true(hash == fingerprint(b));
    assert_true(hash != fingerprint(c));
    leank_eval_set_close(&a);
    leank_eval_set_close(&b);
    leank_eval_set_close(&c);
  }
  assert_int_equal(hostile_mem_in_use(), before);
}

/* More samples, other tasks and lengths leave a prompt as it was: what runs that go on need. */
static void test_prompts_stand_alone(void **state) {
  const fixture *f = *state;
  static const size_t lengths[] = {3000}, more[] = {2900, 3000};
  static const char *const task[] = {"niah_multikey_2"};
  leank_eval_options o = options_of(LEANK_SUITE_NIAH, lengths, 1);
  leank_eval_set *few, *many;
  leank_error err = {0};
  o.tasks = task;
  o.n_tasks = 1;
  few = open_set(f, &o);
  o = options_of(LEANK_SUITE_RULER, more, 2);
  o.n_samples = 3;
  many = open_set(f, &o);
  assert_int_equal(leank_eval_set_size(few), 2);
  assert_int_equal(leank_eval_set_size(many), 3 * 2 * 13);
  size_t n_same = 0;
  for (size_t i = 0; i < leank_eval_set_size(many); i++) {
    leank_eval_prompt *a = NULL, *b = NULL, p;
    leank_eval_set_describe(many, i, &p);
    if (strcmp(p.task, task[0]) != 0 || p.length != 3000 || p.sample > 1) continue;
    assert_int_equal(leank_eval_prompt_make(many, i, &a, &err), LEANK_OK);
    assert_int_equal(leank_eval_prompt_make(few, p.sample, &b, &err), LEANK_OK);
    assert_string_equal(a->message, b->message);
    leank_eval_prompt_close(&a);
    leank_eval_prompt_close(&b);
    n_same++;
  }
  assert_int_equal(n_same, 2);
  leank_eval_set_close(&few);
  leank_eval_set_close(&many);
}

static void refused(const fixture *f, const leank_eval_options *o, leank_status want,
                    const char *part) {
  leank_eval_set *set = NULL;
  leank_error err = {0};
  const size_t before = hostile_mem_in_use();
  assert_int_equal(lk_eval_set_make(f->tokenizer, 8192, o, &set, &err), want);
  assert_null(set);
  if (!strstr(err.message, part)) fail_msg("'%s' lacks '%s'", err.message, part);
  assert_int_equal(hostile_mem_in_use(), before);
}

static void test_refusals(void **state) {
  const fixture *f = *state;
  static const size_t good[] = {4096}, bad[] = {4096, 8193}, little[] = {300};
  static const char *const unknown[] = {"qa_3"}, *const of_file[] = {"qa_1"},
                           *const missing[] = {"/nowhere/hotpotqa.jsonl"};
  leank_eval_options o = options_of(LEANK_SUITE_RULER, good, 1);
  leank_eval_prompt *p = NULL;
  leank_error err = {0};
  o.tasks = unknown;
  o.n_tasks = 1;
  refused(f, &o, LEANK_E_ARGUMENT, "suite ruler has no task 'qa_3'");
  o.tasks = of_file;
  refused(f, &o, LEANK_E_ARGUMENT, "task qa_1 needs the file of SQuAD");
  o = options_of(LEANK_SUITE_RULER, bad, 2);
  refused(f, &o, LEANK_E_CONTEXT, "8193 tokens, but the model was made for 8192");
  o = options_of(LEANK_SUITE_RULER, good, 0);
  refused(f, &o, LEANK_E_ARGUMENT, "no length");
  o = options_of(LEANK_SUITE_PPL, good, 1);
  o.n_rows = 4096;
  refused(f, &o, LEANK_E_ARGUMENT, "4096 rows of 4096 tokens");
  o = options_of(LEANK_SUITE_LONGBENCH, good, 1);
  refused(f, &o, LEANK_E_ARGUMENT, "longbench");
  o.files = missing;
  o.n_files = 1;
  refused(f, &o, LEANK_E_IO, "/nowhere/hotpotqa.jsonl");
  o.struct_size--;
  refused(f, &o, LEANK_E_ARGUMENT, "leank_eval_options_default");
  /* A length that is too short for a task is known when its prompt is made. */
  o = options_of(LEANK_SUITE_RULER, little, 1);
  leank_eval_set *set = open_set(f, &o);
  assert_int_equal(leank_eval_prompt_make(set, 0, &p, &err), LEANK_E_ARGUMENT);
  assert_non_null(strstr(err.message, "300 tokens are too few for task niah_single_1"));
  assert_null(p);
  leank_eval_set_close(&set);
}

/* Every allocation fails in turn: LEANK_E_MEMORY, nothing leaks. */
static void test_no_memory(void **state) {
  const fixture *f = *state;
  static const size_t lengths[] = {1500};
  static const char *const tasks[] = {"niah_multivalue", "cwe", "fwe", "qa_like_2"};
  for (size_t t = 0; t < sizeof tasks / sizeof *tasks; t++) {
    leank_eval_options o = options_of(LEANK_SUITE_RULER, lengths, 1);
    const size_t before = hostile_mem_in_use();
    leank_status status = LEANK_E_MEMORY;
    size_t n_failed = 0;
    o.tasks = &tasks[t];
    o.n_tasks = 1;
    for (size_t n = 1; status != LEANK_OK; n += n < 40 ? 1 : 29) {
      leank_eval_set *set = NULL;
      leank_eval_prompt *p = NULL;
      leank_error err = {0};
      lk_alloc_fail_nth(n);
      status = lk_eval_set_make(f->tokenizer, N_CTX, &o, &set, &err);
      if (status == LEANK_OK) status = leank_eval_prompt_make(set, 0, &p, &err);
      lk_alloc_fail_nth(0);
      assert_true(status == LEANK_OK || status == LEANK_E_MEMORY);
      assert_true((status == LEANK_OK) == (p != NULL));
      leank_eval_prompt_close(&p);
      leank_eval_set_close(&set);
      assert_int_equal(hostile_mem_in_use(), before);
      n_failed += status != LEANK_OK;
    }
    assert_true(n_failed > 40);
  }
}

/* ---- LongBench's prompts ---- */

static void test_truncation(void **state) {
  const fixture *f = *state;
  static const size_t lengths[] = {2000};
  static const char *const path[] = {LEANK_TEST_TMP "/eval-hotpotqa.jsonl"};
  FILE *file = fopen(path[0], "w");
  assert_non_null(file);
  fprintf(file,
          "{\"dataset\":\"hotpotqa\",\"input\":\"Where?\",\"answers\":[\"x\"],\"context\":\"");
  for (int i = 0; i < 2000; i++) fprintf(file, "w%d ", i);
  fprintf(file, "\"}\n");
  fclose(file);
  leank_eval_options o = options_of(LEANK_SUITE_LONGBENCH, lengths, 1);
  o.files = path;
  o.n_files = 1;
  leank_eval_set *set = open_set(f, &o);
  leank_eval_prompt *p = NULL;
  leank_error err = {0};
  assert_int_equal(leank_eval_set_size(set), 1);
  if (leank_eval_prompt_make(set, 0, &p, &err) != LEANK_OK) fail_msg("%s", err.message);
  assert_true(p->n_tokens + p->max_new <= 2000);
  assert_true(p->n_tokens + p->max_new + 200 > 2000);
  /* The middle is gone, instruction and question stand. */
  assert_non_null(strstr(p->message, "w1 w2 "));
  assert_non_null(strstr(p->message, "w1999 \n\nAnswer the question"));
  assert_null(strstr(p->message, "w1000 "));
  assert_non_null(strstr(p->message, "Question: Where?\nAnswer:"));
  leank_eval_prompt_close(&p);
  leank_eval_set_close(&set);
}

/* ---- the user's questions ---- */

#define SQUAD                                                                                      \
  "{\"version\":\"v2.0\",\"data\":[{\"title\":\"t\",\"paragraphs\":[{\"context\":\"Rome is in "    \
  "Italy.\",\"qas\":"                                                                              \
  "[{\"question\":\"Where is "                                                                     \
  "Rome?\",\"answers\":[{\"text\":\"Italy\",\"answer_start\":11},{\"text\":\"in "                  \
  "Italy\"}]},{\"question\":\"Why?\",\"answers\":[],\"is_impossible\":true}]}]}]}"
#define HOTPOT                                                                                     \
  "[{\"_id\":\"1\",\"question\":\"Who?\",\"answer\":\"Ann\",\"context\":[[\"Bob\",[\"Bob met "     \
  "Ann.\",\" "                                                                                     \
  "It rained.\"]],[\"Ann\",[\"A painter.\"]]]}]"

static leank_status parse_squad(const void *bytes, size_t n, leank_error *err) {
  lk_qa_data data = {0};
  const leank_status status = lk_qa_parse(bytes, n, "squad", LK_QA_SQUAD, &data, err);
  lk_qa_free(&data);
  return status;
}

static leank_status parse_hotpot(const void *bytes, size_t n, leank_error *err) {
  lk_qa_data data = {0};
  const leank_status status = lk_qa_parse(bytes, n, "hotpot", LK_QA_HOTPOT, &data, err);
  lk_qa_free(&data);
  return status;
}

static void test_question_files(void **state) {
  (void)state;
  lk_qa_data data = {0};
  leank_error err = {0};
  assert_int_equal(lk_qa_parse(SQUAD, strlen(SQUAD), "s", LK_QA_SQUAD, &data, &err), LEANK_OK);
  assert_int_equal(data.n_documents, 1);
  assert_int_equal(data.n_questions, 1);
  assert_int_equal(data.questions[0].n_answers, 2);
  assert_string_equal(data.questions[0].answers[1], "in Italy");
  lk_qa_free(&data);
  assert_int_equal(lk_qa_parse(HOTPOT, strlen(HOTPOT), "h", LK_QA_HOTPOT, &data, &err), LEANK_OK);
  assert_int_equal(data.n_documents, 2);
  assert_string_equal(data.documents[0], "Bob\nBob met Ann. It rained.");
  assert_int_equal(data.questions[0].n_documents, 2);
  lk_qa_free(&data);
  hostile_expect(parse_squad, HOTPOT, strlen(HOTPOT), LEANK_E_FORMAT, "no \"data\" of SQuAD");
  hostile_expect(parse_hotpot, SQUAD, strlen(SQUAD), LEANK_E_FORMAT, "no list of HotpotQA");
  hostile_expect(parse_hotpot, "[]", 2, LEANK_E_FORMAT, "holds no question");
  hostile_truncations(parse_squad, SQUAD, strlen(SQUAD));
  hostile_truncations(parse_hotpot, HOTPOT, strlen(HOTPOT));
  hostile_flips(parse_squad, SQUAD, strlen(SQUAD));
  hostile_flips(parse_hotpot, HOTPOT, strlen(HOTPOT));
  hostile_allocations(parse_squad, SQUAD, strlen(SQUAD));
  hostile_allocations(parse_hotpot, HOTPOT, strlen(HOTPOT));
}

/* Two articles of twelve paragraphs, one question each, whose answer stands in it alone. */
static void write_squad(const char *path) {
  FILE *file = fopen(path, "w");
  assert_non_null(file);
  fprintf(file, "{\"data\":[");
  for (int a = 0; a < 2; a++) {
    fprintf(file, "%s{\"paragraphs\":[", a ? "," : "");
    for (int p = 0; p < 12; p++)
      fprintf(file,
              "%s{\"context\":\"Article %d says: the answer of paragraph %d is w%d%02dx, and no "
              "other one of all that are here.\",\"qas\":[{\"question\":\"What of %d in %d?\","
              "\"answers\":[{\"text\":\"w%d%02dx\"}]}]}",
              p ? "," : "", a, p, a, p, p, a, a, p);
    fprintf(file, "]}");
  }
  fprintf(file, "]}");
  fclose(file);
}

static void test_questions(void **state) {
  const fixture *f = *state;
  static const char path[] = LEANK_TEST_TMP "/eval-squad.json";
  static const size_t lengths[] = {2600};
  leank_eval_options o = options_of(LEANK_SUITE_RULER, lengths, 1);
  size_t n_asked = 0, n_ours = 0, n_articles[2] = {0};
  write_squad(path);
  o.squad = path;
  o.n_samples = 40;
  leank_eval_set *set = open_set(f, &o);
  assert_int_equal(leank_eval_set_size(set), 13 * 40);
  for (size_t i = 0; i < leank_eval_set_size(set); i++) {
    leank_eval_prompt *p = NULL, described;
    leank_error err = {0};
    int paragraph, article;
    leank_eval_set_describe(set, i, &described);
    assert_string_not_equal(described.task, "qa_like_1");
    n_ours += strcmp(described.task, "qa_like_2") == 0;
    if (strcmp(described.task, "qa_1") != 0) continue;
    assert_int_equal(leank_eval_prompt_make(set, i, &p, &err), LEANK_OK);
    assert_true(p->n_tokens + p->max_new <= 2600);
    assert_int_equal(sscanf(strstr(p->message, "Question: "), "Question: What of %d in %d?",
                            &paragraph, &article),
                     2);
    assert_int_equal(count_in(p->message, p->references[0]), 1);
    /* Its own article comes before the other one. */
    char own[32], other[32];
    snprintf(own, sizeof own, "Article %d says", article);
    snprintf(other, sizeof other, "Article %d says", 1 - article);
    const size_t n_own = count_in(p->message, own), n_other = count_in(p->message, other);
    assert_true(n_own == 12 || n_other == 0);
    assert_true(n_own + n_other > 8);
    n_articles[article]++;
    n_asked++;
    leank_eval_prompt_close(&p);
  }
  assert_int_equal(n_asked, 40);
  assert_int_equal(n_ours, 40);
  assert_share(n_articles[0], 40, 0.5);
  leank_eval_set_close(&set);
}

/* Every name stands for one thing, and behind the last there is none. */
static void test_names(void **state) {
  const char *name;
  size_t n_tasks = 0;
  (void)state;
  for (int a = 0; a < LEANK_N_SUITES; a++) {
    assert_non_null(leank_eval_suite_name((leank_eval_suite)a));
    for (int b = 0; b < a; b++)
      assert_string_not_equal(leank_eval_suite_name((leank_eval_suite)a),
                              leank_eval_suite_name((leank_eval_suite)b));
    for (size_t i = 0; (name = leank_eval_task_name((leank_eval_suite)a, i)); i++, n_tasks++)
      for (size_t j = 0; j < i; j++)
        assert_string_not_equal(name, leank_eval_task_name((leank_eval_suite)a, j));
  }
  assert_true(n_tasks > 40);
  assert_null(leank_eval_suite_name(LEANK_N_SUITES));
  assert_null(leank_eval_suite_name((leank_eval_suite)-1));
  for (int a = 0; a <= LEANK_METRIC_NONE; a++)
    for (int b = 0; b < a; b++)
      assert_string_not_equal(leank_eval_metric_name((leank_eval_metric)a),
                              leank_eval_metric_name((leank_eval_metric)b));
  assert_null(leank_eval_metric_name((leank_eval_metric)(LEANK_METRIC_NONE + 1)));
  assert_null(leank_eval_metric_name((leank_eval_metric)-1));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_niah),         cmocka_unit_test(test_niah_keys),
      cmocka_unit_test(test_common_words), cmocka_unit_test(test_cwe),
      cmocka_unit_test(test_fwe),          cmocka_unit_test(test_vt),
      cmocka_unit_test(test_symbolic),     cmocka_unit_test(test_qa_like),
      cmocka_unit_test(test_seed),         cmocka_unit_test(test_prompts_stand_alone),
      cmocka_unit_test(test_refusals),     cmocka_unit_test(test_no_memory),
      cmocka_unit_test(test_truncation),   cmocka_unit_test(test_question_files),
      cmocka_unit_test(test_questions),    cmocka_unit_test(test_names),
  };
  return cmocka_run_group_tests_name("eval_tasks", tests, open_fixture, close_fixture);
}
