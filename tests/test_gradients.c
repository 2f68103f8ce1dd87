/* The gradient of the learning objective to every channel weight against PyTorch's autograd in
 * float64 (scripts/goldens/gradients.py): both stages, through every layer, for several groups,
 * head sizes and middles that grow while the answer is read. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "backend/cuda.h"
#include "formats/safetensors.h"
#include "support/answer_fixture.h"
#include "support/cuda_mock.h"
#include "support/subject.h"

static const char *const cases[] = {"g1-d64",  "g2-d64-mean", "g3-d64", "g4-d128",
                                    "g6-d128", "g7-d128",     "g7-d64"};
enum { N_CASES = sizeof cases / sizeof *cases };

/* ---- the golden file ---- */

typedef struct golden {
  lk_safetensors *file;
  const int32_t *tokens;
  size_t n_prompt, n_answer, n_sink, n_recent;
  bool mean_compensation;
  const float *alpha;
  const uint8_t *mask;
  double mean_square;
} golden;

static const void *tensor(const golden *g, const char *name) {
  const lk_st_tensor *t = lk_safetensors_find(g->file, name);
  if (!t) fail_msg("no tensor %s", name);
  return t->data;
}

static double number(const golden *g, const char *name) {
  double x;
  memcpy(&x, tensor(g, name), sizeof x);
  return x;
}

static golden golden_open(const char *name) {
  char path[512];
  leank_error err;
  golden g = {0};
  snprintf(path, sizeof path, "%s/golden/gradients-%s.safetensors", LEANK_TEST_DATA, name);
  lk_assert_ok(lk_safetensors_open(path, &g.file, &err), &err);
  const int32_t *sizes = tensor(&g, "sizes"), *mean = tensor(&g, "mean_compensation");
  g.tokens = tensor(&g, "tokens");
  g.n_prompt = (size_t)sizes[0];
  g.n_answer = (size_t)sizes[1];
  g.n_sink = (size_t)sizes[2];
  g.n_recent = (size_t)sizes[3];
  g.mean_compensation = mean[0] != 0;
  g.alpha = tensor(&g, "alpha");
  g.mask = tensor(&g, "mask");
  g.mean_square = number(&g, "mean_square");
  return g;
}

/* ---- the library's side ---- */

typedef struct subject {
  golden golden;
  leank_model *model;
  lk_answer_fixture answers;
  leank_question question;
  leank_token *tokens;
  size_t n_params;
} subject;

/* The prompt but its last token is the context; the answer's last token is no input, so one is put
 * behind that nobody reads. */
static leank_context make_context(subject *s) {
  const golden *g = &s->golden;
  const size_t n = g->n_prompt + g->n_answer;
  s->tokens = test_calloc(n + 1, sizeof *s->tokens);
  for (size_t i = 0; i < n; i++) s->tokens[i] = g->tokens[i];
  s->question = lk_fixture_question(s->tokens + g->n_prompt - 1, 1, g->n_answer);
  return (leank_context){.tokens = s->tokens,
                         .n_tokens = g->n_prompt - 1,
                         .questions = &s->question,
                         .n_questions = 1};
}

static void subject_open_on(subject *s, const char *name, leank_kv_type type, size_t n_threads,
                            leank_device device) {
  char path[512];
  leank_error err;
  memset(s, 0, sizeof *s);
  s->golden = golden_open(name);
  snprintf(path, sizeof path, "%s/gradients/%s", LEANK_TEST_DATA, name);
  lk_assert_ok(leank_model_open(path, NULL, &s->model, &err), &err);
  const leank_context context = make_context(s);
  lk_answer_fixture_open_on(&s->answers, s->model, &context, type, n_threads, device);
  s->n_params = s->answers.n_params;
}

static void subject_open(subject *s, const char *name, leank_kv_type type, size_t n_threads) {
  subject_open_on(s, name, type, n_threads, LEANK_DEVICE_CPU);
}

static void subject_close(subject *s) {
  lk_answer_fixture_close(&s->answers);
  leank_model_close(&s->model);
  lk_safetensors_close(&s->golden.file);
  test_free(s->tokens);
}

/* Loss and gradient[n_params] in half order, of the plain objective, for what the rows see. */
static double gradient_of(subject *s, double *gradient) {
  const lk_split split = {s->golden.n_sink, s->golden.n_recent, LEANK_PAGE_TOKENS};
  return lk_fixture_loss(&s->answers, s->answers.answers, 1, split, LEANK_LOSS_HIDDEN, gradient);
}

static double relative_error(const double *got, const double *want, size_t n) {
  double difference = 0, square = 0;
  for (size_t i = 0; i < n; i++) {
    difference += (got[i] - want[i]) * (got[i] - want[i]);
    square += want[i] * want[i];
  }
  return sqrt(difference / square);
}

/* The largest error of an element, over the largest element. */
static double worst_error(const double *got, const double *want, size_t n) {
  double worst = 0, largest = 0;
  for (size_t i = 0; i < n; i++) {
    worst = fmax(worst, fabs(got[i] - want[i]));
    largest = fmax(largest, fabs(want[i]));
  }
  return worst / largest;
}

static void check_gradient(subject *s, const char *name, const char *what, const char *loss_name,
                           double tolerance) {
  double *got = test_calloc(s->n_params, sizeof *got);
  const double *want = tensor(&s->golden, what);
  const double loss = gradient_of(s, got), wanted_loss = number(&s->golden, loss_name);
  const double error = relative_error(got, want, s->n_params);
  const double worst = worst_error(got, want, s->n_params);
  printf("%-12s %-10s relative error %.1e, worst element %.1e, loss %.1e\n", name, what, error,
         worst, fabs(loss / wanted_loss - 1));
  if (!(error < tolerance) || !(worst < 2 * tolerance))
    fail_msg("%s, %s: relative error %g, worst %g, more than %g", name, what, error, worst,
             tolerance);
  assert_true(fabs(loss / wanted_loss - 1) < tolerance);
  test_free(got);
}

static void check_case(const char *name, leank_kv_type type, leank_device device,
                       double tolerance) {
  subject s;
  subject_open_on(&s, name, type, 2, device);
  const bool mean = s.golden.mean_compensation;
  lk_seen_mask_set_alpha(&s.answers.seen, s.golden.alpha, mean);
  check_gradient(&s, name, "gradient", "loss", tolerance);
  lk_seen_mask_set_kept(&s.answers.seen, s.golden.mask, LEANK_POLICY_DROP, mean, false);
  check_gradient(&s, name, "gradient2", "loss2", tolerance);
  subject_close(&s);
}

static void fp32_agrees_with_autograd(void **state) {
  (void)state;
  for (size_t i = 0; i < N_CASES; i++) check_case(cases[i], LEANK_KV_F32, LEANK_DEVICE_CPU, 1e-3);
}

static void bf16_agrees_with_autograd(void **state) {
  (void)state;
  for (size_t i = 0; i < N_CASES; i++) check_case(cases[i], LEANK_KV_BF16, LEANK_DEVICE_CPU, 2e-2);
}

/* The CUDA backend on a device in software: bf16 pages and weights. */
static void a_device_agrees_with_autograd(void **state) {
  (void)state;
  lk_cuda_library_replace(lk_cuda_mock_api());
  for (size_t i = 0; i < N_CASES; i++) check_case(cases[i], LEANK_KV_BF16, LEANK_DEVICE_CUDA, 2e-2);
  assert_int_equal(lk_cuda_mock.n_live, 0);
  lk_cuda_library_replace(NULL);
}

/* This machine's own, where the library is found and there is one. */
static void the_own_device_agrees_with_autograd(void **state) {
  (void)state;
  size_t n;
  if (leank_cuda_devices(NULL, 0, &n, NULL) != LEANK_OK) skip();
  for (size_t i = 0; i < N_CASES; i++) check_case(cases[i], LEANK_KV_BF16, LEANK_DEVICE_CUDA, 2e-2);
}

/* Threads change nothing, bit for bit. */
static void threads_do_not_matter(void **state) {
  (void)state;
  subject one, three;
  subject_open(&one, "g7-d64", LEANK_KV_BF16, 1);
  subject_open(&three, "g7-d64", LEANK_KV_BF16, 3);
  double *a = test_calloc(one.n_params, sizeof *a), *b = test_calloc(one.n_params, sizeof *b);
  lk_seen_mask_set_alpha(&one.answers.seen, one.golden.alpha, false);
  lk_seen_mask_set_alpha(&three.answers.seen, three.golden.alpha, false);
  assert_true(gradient_of(&one, a) == gradient_of(&three, b));
  assert_memory_equal(a, b, one.n_params * sizeof *a);
  test_free(a);
  test_free(b);
  subject_close(&one);
  subject_close(&three);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(fp32_agrees_with_autograd),
      cmocka_unit_test(bf16_agrees_with_autograd),
      cmocka_unit_test(a_device_agrees_with_autograd),
      cmocka_unit_test(the_own_device_agrees_with_autograd),
      cmocka_unit_test(threads_do_not_matter),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
