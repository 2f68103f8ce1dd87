/* Learning and comparing masks with the CUDA backend, on a device in software
 * (support/cuda_mock.h): what comes out beside the CPU's, and that nothing but options and data
 * decides it. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "backend/cuda.h"
#include "learn/adamw.h"
#include "support/cuda_mock.h"
#include "support/learn_fixture.h"
#include "support/model_fixture.h"
#include "support/subject.h"
#include "support/synthetic_fixture.h"

#define FOLDER LEANK_TEST_TMP "/cuda-learn"
#define CHECKPOINT FOLDER "/checkpoint"
#define CACHE LEANK_TEST_TMP "/cuda-learn-cache"
#define MODEL LEANK_TEST_TMP "/cuda-learn-model"

static leank_model *model;

/* The tiny qwen2 with half as many heads of twice the channels: 2/1 of 64. */
static void make_model(void) {
  static const char config[] =
      "{\"architectures\": [\"Qwen2ForCausalLM\"], \"model_type\": \"qwen2\", \"hidden_size\": 64,"
      "\"intermediate_size\": 128, \"num_hidden_layers\": 2, \"num_attention_heads\": 2,"
      "\"num_key_value_heads\": 1, \"head_dim\": 64, \"vocab_size\": 300,"
      "\"max_position_embeddings\": 4096, \"rms_norm_eps\": 1e-05, \"rope_theta\": 1000000.0,"
      "\"hidden_act\": \"silu\", \"tie_word_embeddings\": true, \"torch_dtype\": \"bfloat16\","
      "\"bos_token_id\": 1, \"eos_token_id\": 2, \"use_sliding_window\": false}";
  static const char *const files[] = {
      "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
      "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json"};
  lk_folder_make(MODEL, NULL);
  lk_text_write(MODEL "/config.json", config);
  for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
    char from[512], to[512];
    snprintf(from, sizeof from, "%sqwen2-bf16/%s", TINY, files[i]);
    snprintf(to, sizeof to, "%s/%s", MODEL, files[i]);
    lk_file_copy(from, to);
  }
}

static int set_up(void **state) {
  (void)state;
  make_model();
  lk_folder_empty(FOLDER);
  model = lk_model_must_open(MODEL);
  lk_cuda_library_replace(lk_cuda_mock_api());
  return 0;
}

static int tear_down(void **state) {
  (void)state;
  leank_model_close(&model);
  lk_cuda_library_replace(NULL);
  return 0;
}

/* Nothing of a test is left on the device. */
static int check_live(void **state) {
  (void)state;
  lk_cuda_mock.fail_alloc = lk_cuda_mock.fail_launch = lk_cuda_mock.max_bytes = 0;
  return lk_cuda_mock.n_live == 0 ? 0 : -1;
}

static leank_learn_options small(leank_device device) {
  leank_learn_options o = lk_learn_small();
  o.device = device;
  o.train.n_contexts = 2;
  o.held_out.n_contexts = 1;
  o.train.max_tokens = o.held_out.max_tokens = 400;
  return o;
}

/* ---- beside the CPU ---- */

static double alpha_distance(const leank_mask *a, const leank_mask *b) {
  const leank_mask_info *m = leank_mask_get_info(a);
  const size_t n = m->n_layers * m->n_kv_heads * m->head_dim;
  double sum = 0;
  for (size_t i = 0; i < n; i++) {
    const double d = (double)leank_mask_get_alpha(a)[i] - (double)leank_mask_get_alpha(b)[i];
    sum += d * d;
  }
  return sqrt(sum / (double)n);
}

/* Sum of the learning rates: how far an alpha can go. */
static double path_length(const leank_learn_options *o) {
  const size_t steps[] = {o->n_steps1, o->n_steps2};
  const double rates[] = {o->lr1, o->lr2};
  double sum = 0;
  for (size_t stage = 0; stage < 2; stage++)
    for (size_t i = 0; i < steps[stage]; i++)
      sum += rates[stage] * lk_learning_rate_share(i, steps[stage]);
  return sum;
}

static void assert_near(double got, double want, double relative, const char *what) {
  if (!(fabs(got - want) <= relative * fabs(want)))
    fail_msg("%s: %g, %g on the CPU", what, got, want);
}

/* Both read contexts in bf16, and so their gradients err by up to e = 2 % (test_gradients). Adam
 * divides the mean gradient by its size, each off by e: a step of lr by 2 e lr. Of channels that
 * nearly tie rounding may keep others; the masks are as good as each other to a tenth. */
static void check_models(const leank_model *on_device, const leank_model *on_cpu,
                         const leank_learn_options *device, const char *what) {
  const double e = 2e-2, quality = 0.1;
  leank_learn_options cpu = *device;
  lk_watch watches[2] = {{0}};
  cpu.device = LEANK_DEVICE_CPU;
  leank_mask *got = lk_learn_must(on_device, device, &watches[0]);
  leank_mask *want = lk_learn_must(on_cpu, &cpu, &watches[1]);
  const leank_learn_event *a = watches[0].last, *b = watches[1].last;
  const double distance = alpha_distance(got, want), bound = 2 * e * path_length(device);
  printf("%s: alphas differ by %.2g of %.2g, KL %.4g and %.4g\n", what, distance, bound,
         a[LEANK_LEARN_EVAL].kl, b[LEANK_LEARN_EVAL].kl);
  assert_true(distance <= bound);
  assert_near(a[LEANK_LEARN_EVAL].kl, b[LEANK_LEARN_EVAL].kl, quality, "KL");
  if (device->loss != LEANK_LOSS_LOGITS) /* which does not see it */
    assert_near(a[LEANK_LEARN_EVAL].hidden_error, b[LEANK_LEARN_EVAL].hidden_error, quality,
                "hidden error");
  assert_true(a[LEANK_LEARN_CHOICE].flops == b[LEANK_LEARN_CHOICE].flops);
  assert_true(a[LEANK_LEARN_CHOICE].flops > 0);
  leank_mask_close(&got);
  leank_mask_close(&want);
}

static void check_beside_the_cpu(const leank_learn_options *device, const char *what) {
  check_models(model, model, device, what);
}

static void test_masks_are_the_cpus(void **state) {
  (void)state;
  leank_learn_options o = small(LEANK_DEVICE_CUDA);
  check_beside_the_cpu(&o, "mean");
  for (o.loss = LEANK_LOSS_LOGITS; o.loss <= LEANK_LOSS_BOTH; o.loss++)
    check_beside_the_cpu(&o, o.loss == LEANK_LOSS_BOTH ? "both losses" : "loss of logits");
  o.loss = LEANK_LOSS_HIDDEN;
  o.mean_compensation = false;
  o.policy = LEANK_POLICY_DROP;
  check_beside_the_cpu(&o, "drop");
  o.paper = true; /* middles that end inside pages */
  o.lambda = 0.06;
  check_beside_the_cpu(&o, "paper");
}

/* Random weights that the device makes, and that no processor has, from random tokens: as with the
 * same weights on the CPU. */
static void test_made_up_models_learn(void **state) {
  (void)state;
  leank_learn_options o = small(LEANK_DEVICE_CUDA);
  o.train.tasks = o.held_out.tasks = 1u << LEANK_TASK_RANDOM;
  for (int qwen2 = 0; qwen2 < 2; qwen2++) {
    leank_model *made = lk_synthetic_open(qwen2, 3, true);
    leank_model *same = lk_synthetic_open(qwen2, 3, false);
    const size_t n_made = lk_cuda_mock.n_made;
    check_models(made, same, &o, qwen2 ? "random qwen2" : "random llama");
    assert_true(lk_cuda_mock.n_made > n_made);
    leank_model_close(&made);
    leank_model_close(&same);
  }
}

/* Evaluation of one mask on both. */
static void test_reports_are_the_cpus(void **state) {
  (void)state;
  const leank_learn_options o = small(LEANK_DEVICE_CPU);
  leank_compare_options options;
  leank_mask_report reports[2];
  leank_error err = {0};
  leank_dataset *data = NULL;
  leank_mask *mask = lk_learn_must(model, &o, NULL);
  const leank_mask *const masks[] = {mask};
  leank_compare_options_default(&options);
  lk_assert_ok(leank_dataset_make(model, &o.held_out, &data, &err), &err);
  for (int device = 0; device < 2; device++) {
    options.device = device ? LEANK_DEVICE_CUDA : LEANK_DEVICE_CPU;
    options.cpu = o.cpu;
    lk_assert_ok(leank_masks_compare(model, data, masks, 1, &options, &reports[device], &err),
                 &err);
  }
  assert_int_equal(reports[0].n_rows, reports[1].n_rows);
  assert_near(reports[1].kl_mean, reports[0].kl_mean, 4e-2, "KL");
  assert_near(reports[1].hidden_error, reports[0].hidden_error, 4e-2, "hidden error");
  leank_dataset_close(&data);
  leank_mask_close(&mask);
}

/* ---- what must not matter ---- */

static void check_going_on(void) {
  leank_learn_options o = small(LEANK_DEVICE_CUDA);
  leank_mask *want = lk_learn_must(model, &o, NULL), *got = NULL;
  leank_error err = {0};
  lk_watch whole = {0};
  lk_assert_ok(lk_learn_run(model, &o, &whole, &got, &err), &err);
  lk_assert_masks_same(got, want, "again");
  leank_mask_close(&got);
  o.checkpoint = CHECKPOINT;
  for (size_t at = whole.n - 2; at > whole.n - 12; at -= 5) {
    lk_watch w = {.stop_at = at};
    unlink(CHECKPOINT);
    assert_int_equal(lk_learn_run(model, &o, &w, &got, &err), LEANK_E_INTERRUPTED);
    assert_int_equal(lk_cuda_mock.n_live, 0);
    lk_assert_ok(lk_learn_run(model, &o, NULL, &got, &err), &err);
    lk_assert_masks_same(got, want, "gone on");
    leank_mask_close(&got);
  }
  leank_mask_close(&want);
}

static void test_runs_go_on(void **state) {
  (void)state;
  check_going_on();
}

/* From files, where nothing is computed; from memory; and the CPU does not take a device's files.
 */
static void test_contexts_come_from_files(void **state) {
  (void)state;
  leank_learn_options o = small(LEANK_DEVICE_CUDA);
  leank_mask *want = lk_learn_must(model, &o, NULL);
  lk_folder_empty(CACHE);
  o.cache_folder = CACHE;
  size_t n_launches[2];
  for (int run = 0; run < 2; run++) {
    const size_t before = lk_cuda_mock.n_launches;
    leank_mask *got = lk_learn_must(model, &o, NULL);
    n_launches[run] = lk_cuda_mock.n_launches - before;
    lk_assert_masks_same(got, want, run ? "from files" : "while files are written");
    assert_int_equal(lk_folder_count(CACHE, NULL), 3);
    leank_mask_close(&got);
  }
  assert_true(n_launches[1] < n_launches[0]);
  o.device = LEANK_DEVICE_CPU;
  leank_mask *cpu = lk_learn_must(model, &o, NULL);
  assert_int_equal(lk_folder_count(CACHE, NULL), 6);
  leank_mask_close(&cpu);
  leank_mask_close(&want);
  lk_folder_empty(CACHE);
}

/* A run with files; what it sent to the device in pieces of a matrix's size or more. */
static leank_status run_limited(const leank_learn_options *o, size_t max_bytes,
                                const leank_mask *want, size_t *n_loads) {
  leank_mask *got = NULL;
  leank_error err = {0};
  const size_t before = lk_cuda_mock.n_loads;
  lk_cuda_mock.max_bytes = max_bytes;
  const leank_status status = lk_learn_run(model, o, NULL, &got, &err);
  lk_cuda_mock.max_bytes = 0;
  *n_loads = lk_cuda_mock.n_loads - before;
  if (status == LEANK_OK) lk_assert_masks_same(got, want, "with less memory");
  leank_mask_close(&got);
  return status;
}

/* A device that holds ever less: blocks give way to others and come back, to the same bits, until
 * not even an update's has room. Without files none gives way. */
static void test_blocks_give_way(void **state) {
  (void)state;
  leank_learn_options o = small(LEANK_DEVICE_CUDA);
  const size_t step = (size_t)128 << 10; /* a part of a block */
  size_t n_loads[2], n_back = 0;
  o.train.n_contexts = 4;
  o.batch = 1;
  leank_mask *want = lk_learn_must(model, &o, NULL);
  lk_folder_empty(CACHE);
  o.cache_folder = CACHE;
  assert_int_equal(run_limited(&o, 0, want, &n_loads[0]), LEANK_OK);
  lk_cuda_mock.most_bytes = 0;
  assert_int_equal(run_limited(&o, 0, want, &n_loads[0]), LEANK_OK);
  size_t limit = lk_cuda_mock.most_bytes;
  while (run_limited(&o, limit -= step, want, &n_loads[1]) == LEANK_OK)
    n_back += n_loads[1] > n_loads[0];
  assert_true(n_back > 0);
  o.cache_folder = NULL;
  assert_int_equal(run_limited(&o, limit + step, want, &n_loads[1]), LEANK_E_MEMORY);
  leank_mask_close(&want);
  lk_folder_empty(CACHE);
}

/* The gradient of few rows of logits asks for no more room than contexts had: not for as many
 * columns at as many rows as those. */
static void test_the_vocabulary_needs_little_room(void **state) {
  (void)state;
  leank_learn_options o = small(LEANK_DEVICE_CUDA);
  size_t n_operand[2];
  o.n_steps1 = 1;
  o.n_steps2 = 0;
  for (int run = 0; run < 2; run++) {
    lk_cuda_mock.most_operand = 0;
    o.loss = run ? LEANK_LOSS_LOGITS : LEANK_LOSS_HIDDEN;
    leank_mask *mask = lk_learn_must(model, &o, NULL);
    n_operand[run] = lk_cuda_mock.most_operand;
    leank_mask_close(&mask);
  }
  assert_true(n_operand[0] > 0);
  assert_int_equal(n_operand[1], n_operand[0]);
}

/* ---- this machine's own device, where the library is found and there is one ---- */

static void test_the_own_device(void **state) {
  size_t n;
  lk_cuda_library_replace(NULL);
  const bool is_there = leank_cuda_devices(NULL, 0, &n, NULL) == LEANK_OK;
  if (is_there) {
    test_masks_are_the_cpus(state);
    test_reports_are_the_cpus(state);
    check_going_on();
  }
  lk_cuda_library_replace(lk_cuda_mock_api());
  if (!is_there) skip();
}

/* ---- failures ---- */

/* Launches that fail, all over a run: an error that tells of it, and nothing is left. */
static void test_launches_that_fail(void **state) {
  (void)state;
  leank_learn_options o = small(LEANK_DEVICE_CUDA);
  leank_error err = {0};
  leank_mask *mask = NULL;
  const size_t before = lk_cuda_mock.n_launches;
  lk_watch w = {0};
  mask = lk_learn_must(model, &o, &w);
  leank_mask_close(&mask);
  const size_t n = lk_cuda_mock.n_launches - before;
  for (size_t i = 0; i < 6; i++) {
    lk_cuda_mock.fail_launch = 1 + i * (n - 2) / 5;
    const leank_status status = lk_learn_run(model, &o, NULL, &mask, &err);
    if (status != LEANK_E_STATE || !strstr(err.message, "mock"))
      fail_msg("launch %zu of %zu: status %d, %s", 1 + i * (n - 2) / 5, n, status, err.message);
    assert_int_equal(lk_cuda_mock.n_live, 0);
  }
}

/* Allocations on the device that fail, all over a run. */
static void test_memory_that_is_short(void **state) {
  (void)state;
  leank_learn_options o = small(LEANK_DEVICE_CUDA);
  leank_error err = {0};
  leank_mask *mask = NULL;
  const size_t before = lk_cuda_mock.n_allocs;
  mask = lk_learn_must(model, &o, NULL);
  leank_mask_close(&mask);
  const size_t n = lk_cuda_mock.n_allocs - before, step = n / 12 + 1;
  assert_true(n > 60);
  for (size_t nth = 1; nth <= n; nth += step) {
    lk_cuda_mock.fail_alloc = nth;
    const leank_status status = lk_learn_run(model, &o, NULL, &mask, &err);
    if (status != LEANK_E_MEMORY) fail_msg("allocation %zu: status %d", nth, status);
    assert_int_equal(lk_cuda_mock.n_live, 0);
  }
}

/* A run that found no memory is run again: to the bits of one that did, wherever it had ended. */
static void test_runs_again_after_a_failure(void **state) {
  (void)state;
  leank_learn_options o = small(LEANK_DEVICE_CUDA);
  leank_error err = {0};
  size_t n_again = 0;
  o.loss = LEANK_LOSS_BOTH;
  o.n_steps1 = 1;
  o.n_steps2 = o.held_out.n_contexts = 0;
  o.train.n_contexts = o.train.n_questions = o.batch = 1;
  o.train.min_tokens = o.train.max_tokens = 320;
  leank_mask *want = lk_learn_must(model, &o, NULL);
  for (size_t nth = 1;; nth++) {
    leank_learner *learner = NULL;
    leank_mask *mask = NULL;
    lk_assert_ok(leank_learner_open(model, &o, &learner, &err), &err);
    lk_cuda_mock.fail_alloc = nth;
    const leank_status status = leank_learner_run(learner, &mask, &err);
    lk_cuda_mock.fail_alloc = 0;
    if (status != LEANK_OK) {
      assert_int_equal(status, LEANK_E_MEMORY);
      lk_assert_ok(leank_learner_run(learner, &mask, &err), &err);
      n_again++;
    }
    lk_assert_masks_same(mask, want, "again");
    leank_mask_close(&mask);
    leank_learner_close(&learner);
    assert_int_equal(lk_cuda_mock.n_live, 0);
    if (status == LEANK_OK) break;
  }
  assert_true(n_again > 40);
  leank_mask_close(&want);
}

/* What a device cannot do is said before anything is read. */
static void test_what_a_device_cannot_do(void **state) {
  (void)state;
  leank_learner *learner = NULL;
  leank_error err = {0};
  leank_learn_options o = small(LEANK_DEVICE_CUDA);
  o.kv_type = LEANK_KV_F32;
  assert_int_equal(leank_learner_open(model, &o, &learner, &err), LEANK_E_UNSUPPORTED);
  assert_non_null(strstr(err.message, "bf16"));
  o = small(LEANK_DEVICE_CUDA);
  o.device_index = 7;
  assert_int_equal(leank_learner_open(model, &o, &learner, &err), LEANK_E_UNSUPPORTED);
  assert_non_null(strstr(err.message, "no CUDA device 7"));
  o.device = (leank_device)9;
  assert_int_equal(leank_learner_open(model, &o, &learner, &err), LEANK_E_ARGUMENT);
  assert_null(learner);
}

#define ON_MOCK(test) cmocka_unit_test_teardown(test, check_live)

int main(void) {
  const struct CMUnitTest tests[] = {
      ON_MOCK(test_masks_are_the_cpus),
      ON_MOCK(test_made_up_models_learn),
      ON_MOCK(test_reports_are_the_cpus),
      ON_MOCK(test_runs_go_on),
      ON_MOCK(test_contexts_come_from_files),
      ON_MOCK(test_blocks_give_way),
      ON_MOCK(test_the_vocabulary_needs_little_room),
      ON_MOCK(test_the_own_device),
      ON_MOCK(test_launches_that_fail),
      ON_MOCK(test_memory_that_is_short),
      ON_MOCK(test_runs_again_after_a_failure),
      ON_MOCK(test_what_a_device_cannot_do),
  };
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
