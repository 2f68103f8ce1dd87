/* Learning where something is wrong: options, checkpoints, cache folders, disks, weights, memory.
 * Nothing that was there is lost, and every failure says why. */
#include <math.h>
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
#include "formats/gguf.h"
#include "support/hostile.h"
#include "support/learn_fixture.h"
#include "support/model_fixture.h"
#include "support/subject.h"

#define FOLDER LEANK_TEST_TMP "/learn-faults"
#define CHECKPOINT FOLDER "/checkpoint"
#define CACHE LEANK_TEST_TMP "/learn-cache"
#define PLAIN TINY "llama-plain.gguf"

static leank_model *model;
static leank_mask *want; /* of the small options */

static int set_up(void **state) {
  (void)state;
  lk_folder_empty(FOLDER);
  lk_folder_empty(CACHE);
  model = lk_model_must_open(PLAIN);
  const leank_learn_options o = lk_learn_small();
  want = lk_learn_must(model, &o, NULL);
  return 0;
}

static int tear_down(void **state) {
  (void)state;
  leank_mask_close(&want);
  leank_model_close(&model);
  return 0;
}

/* Opening fails so, and leaves nothing. */
static void refused_by(const leank_model *m, const leank_learn_options *o, leank_status status,
                       const char *part) {
  leank_learner *const untouched = (leank_learner *)(void *)&part;
  leank_learner *learner = untouched;
  leank_error err = {0};
  const size_t before = hostile_mem_in_use();
  const leank_status got = leank_learner_open(m, o, &learner, &err);
  if (got != status || !strstr(err.message, part))
    fail_msg("status %d (%s), expected %d with \"%s\"", got, err.message, status, part);
  assert_int_equal(err.code, status);
  assert_ptr_equal(learner, untouched);
  assert_null(strchr(err.message, '\n'));
  assert_int_equal(hostile_mem_in_use(), before);
}

static void refused(const leank_learn_options *o, leank_status status, const char *part) {
  refused_by(model, o, status, part);
}

/* ---- options ---- */

#define REFUSED(change, status, part)                                                              \
  do {                                                                                             \
    leank_learn_options o = lk_learn_small();                                                      \
    o.change;                                                                                      \
    refused(&o, (status), (part));                                                                 \
  } while (0)
#define ARGUMENT(change, part) REFUSED(change, LEANK_E_ARGUMENT, part)

static void test_numbers_out_of_range(void **state) {
  (void)state;
  ARGUMENT(struct_size = 8, "leank_learn_options_default");
  ARGUMENT(ratio = -0.01, "ratio");
  ARGUMENT(ratio = 1, "ratio");
  ARGUMENT(ratio = NAN, "ratio");
  ARGUMENT(lambda = INFINITY, "lambda");
  ARGUMENT(lambda = NAN, "lambda");
  ARGUMENT(lr1 = 0, "learning rates");
  ARGUMENT(lr1 = -1, "learning rates");
  ARGUMENT(lr1 = 1.1, "learning rates");
  ARGUMENT(lr2 = 0, "learning rates");
  ARGUMENT(lr2 = NAN, "learning rates");
  ARGUMENT(n_steps1 = 0, "0 steps of stage 1: 1 to");
  ARGUMENT(n_steps1 = (size_t)1 << 40, "steps of stage 1: 1 to");
  ARGUMENT(n_steps2 = SIZE_MAX, "steps of stage 2: at most");
  ARGUMENT(batch = 0, "questions in an update");
  ARGUMENT(batch = 4097, "questions in an update");
  ARGUMENT(align = 65537, "multiples of");
  ARGUMENT(budget = (leank_budget)2, "budget");
  ARGUMENT(loss = (leank_loss)3, "loss");
  ARGUMENT(policy = (leank_policy)2, "policy");
  ARGUMENT(kv_type = (leank_kv_type)3, "type of K and V");
  ARGUMENT(kv_type = LEANK_KV_Q8, "not in int8");
  ARGUMENT(n_sink = 100, "multiple of 64");
  ARGUMENT(n_sink = (size_t)1 << 40, "sink");
  ARGUMENT(n_recent = SIZE_MAX, "recent");
}

static void test_what_the_published_procedure_refuses(void **state) {
  (void)state;
  leank_learn_options o = lk_learn_small();
  o.paper = true;
  o.policy = LEANK_POLICY_DROP;
  o.mean_compensation = false;
  refused(&o, LEANK_E_ARGUMENT, "needs a lambda");
  o.lambda = 0.06;
  o.policy = LEANK_POLICY_MEAN;
  refused(&o, LEANK_E_ARGUMENT, "policy mean");
  o.policy = LEANK_POLICY_DROP;
  o.mean_compensation = true;
  refused(&o, LEANK_E_ARGUMENT, "mean compensation");
  o.mean_compensation = false;
  o.loss = LEANK_LOSS_LOGITS;
  refused(&o, LEANK_E_ARGUMENT, "loss of hidden states");
}

static void test_data_that_cannot_be(void **state) {
  (void)state;
  ARGUMENT(train.n_contexts = 0, "");
  ARGUMENT(train.tasks = 0, "");
  ARGUMENT(train.min_tokens = 700, "");
  ARGUMENT(train.min_tokens = 20, "too few");
  ARGUMENT(held_out.struct_size = 1, "");
  ARGUMENT(held_out.n_questions = 65, "");
  REFUSED(train.max_tokens = 5000, LEANK_E_CONTEXT, "4096");
  REFUSED(held_out.max_tokens = 5000, LEANK_E_CONTEXT, "4096");
  leank_learn_options o = lk_learn_small();
  o.train.tasks = 1u << LEANK_TASK_FILE;
  refused(&o, LEANK_E_ARGUMENT, "");
  o.train.examples = FOLDER "/nowhere";
  refused(&o, LEANK_E_IO, "nowhere");
}

static void test_contexts_without_a_middle(void **state) {
  (void)state;
  leank_learn_options o = lk_learn_small();
  o.n_recent = 600;
  refused(&o, LEANK_E_ARGUMENT, "no middle");
  /* The longest prompt just misses one: its last token is no row, and a context may be a few
   * tokens shorter than asked. */
  o.n_recent = o.train.max_tokens - 64 - 64;
  refused(&o, LEANK_E_ARGUMENT, "long enough");
  /* A file's contexts are as long as they are. */
  o = lk_learn_small();
  lk_text_write(FOLDER "/short.jsonl",
                "{\"context\": \"The sky is blue.\", \"question\": \"What colour?\", \"answer\": "
                "\"blue as ever\"}\n");
  o.train.tasks = 1u << LEANK_TASK_FILE;
  o.train.examples = FOLDER "/short.jsonl";
  refused(&o, LEANK_E_ARGUMENT, "long enough");
  unlink(FOLDER "/short.jsonl");
}

static void test_less_memory_than_needed(void **state) {
  (void)state;
  REFUSED(cache_bytes = 1, LEANK_E_MEMORY, "more than the 1 allowed");
  REFUSED(cache_bytes = 500000, LEANK_E_MEMORY, "fewer or shorter contexts");
}

static void test_a_batch_larger_than_all_questions(void **state) {
  (void)state;
  leank_learn_options o = lk_learn_small();
  o.batch = 8; /* all there are */
  leank_mask *all = lk_learn_must(model, &o, NULL);
  o.batch = 4096;
  leank_mask *more = lk_learn_must(model, &o, NULL);
  lk_assert_masks_same(all, more, "more than all");
  leank_mask_close(&all);
  leank_mask_close(&more);
}

/* ---- checkpoints ---- */

/* Learning with a checkpoint, stopped after the second update. */
static leank_learn_options stopped_run(void) {
  leank_learn_options o = lk_learn_small();
  lk_watch w = {0};
  leank_mask *mask = lk_learn_must(model, &o, &w);
  lk_watch stop = {.stop_at = w.n_of[LEANK_LEARN_PREFILL] + 2};
  leank_error err = {0};
  leank_mask_close(&mask);
  o.checkpoint = CHECKPOINT;
  unlink(CHECKPOINT);
  assert_int_equal(lk_learn_run(model, &o, &stop, &mask, &err), LEANK_E_INTERRUPTED);
  assert_int_equal(stop.n_of[LEANK_LEARN_STEP], 2);
  return o;
}

static void assert_holds(const char *path, const void *bytes, size_t n) {
  lk_blob b = lk_blob_read(path);
  assert_int_equal(b.n, n);
  assert_memory_equal(b.bytes, bytes, n);
  free(b.bytes);
}

static void assert_goes_on(const leank_learn_options *o) {
  lk_watch w = {0};
  leank_mask *mask = lk_learn_must(model, o, &w);
  assert_int_equal(w.n_of[LEANK_LEARN_RESUME], 1);
  lk_assert_masks_same(want, mask, "gone on");
  leank_mask_close(&mask);
}

static void test_truncated_checkpoints(void **state) {
  (void)state;
  const leank_learn_options o = stopped_run();
  lk_blob b = lk_blob_read(CHECKPOINT);
  for (size_t n = 0; n < b.n; n += n < 140 ? 1 : 61) {
    lk_blob_write(CHECKPOINT, b.bytes, n);
    refused(&o, LEANK_E_FORMAT, "checkpoint");
    assert_holds(CHECKPOINT, b.bytes, n);
  }
  lk_blob_write(CHECKPOINT, b.bytes, b.n);
  b.bytes[b.n] = 0; /* lk_blob_read leaves room for one more */
  lk_blob_write(CHECKPOINT, b.bytes, b.n + 1);
  refused(&o, LEANK_E_FORMAT, "bytes");
  lk_blob_write(CHECKPOINT, b.bytes, b.n);
  assert_goes_on(&o);
  free(b.bytes);
}

static void test_checkpoints_with_a_flipped_bit(void **state) {
  (void)state;
  const leank_learn_options o = stopped_run();
  lk_blob b = lk_blob_read(CHECKPOINT);
  for (size_t i = 0; i < b.n; i += i < 140 ? 1 : 13) {
    leank_learner *learner = NULL;
    leank_error err = {0};
    b.bytes[i] ^= (unsigned char)(1u << i % 8);
    lk_blob_write(CHECKPOINT, b.bytes, b.n);
    const leank_status status = leank_learner_open(model, &o, &learner, &err);
    assert_null(learner);
    /* Bytes 8 to 31 are version, key and count: it looks like one of something else. */
    assert_int_equal(status, i >= 8 && i < 32 ? LEANK_E_MISMATCH : LEANK_E_FORMAT);
    assert_holds(CHECKPOINT, b.bytes, b.n);
    b.bytes[i] ^= (unsigned char)(1u << i % 8);
  }
  lk_blob_write(CHECKPOINT, b.bytes, b.n);
  assert_goes_on(&o);
  free(b.bytes);
}

/* Version 1 had eight bytes more, behind the third number of the state. */
static void test_a_checkpoint_of_an_older_version(void **state) {
  (void)state;
  enum { VERSION_AT = 8, MORE_AT = 40 + 24, N_MORE = 8 };
  leank_learn_options o = stopped_run();
  lk_watch w = {0};
  lk_blob b = lk_blob_read(CHECKPOINT);
  unsigned char *old = calloc(b.n + N_MORE, 1);
  const uint64_t version = 1;
  assert_non_null(old);
  memcpy(old, b.bytes, MORE_AT);
  memcpy(old + MORE_AT + N_MORE, b.bytes + MORE_AT, b.n - MORE_AT);
  memcpy(old + VERSION_AT, &version, sizeof version);
  lk_blob_write(CHECKPOINT, old, b.n + N_MORE);
  refused(&o, LEANK_E_MISMATCH, "of format version 1, and this program reads 2");
  assert_holds(CHECKPOINT, old, b.n + N_MORE);
  o.fresh = true;
  leank_mask *mask = lk_learn_must(model, &o, &w);
  assert_int_equal(w.n_of[LEANK_LEARN_RESUME], 0);
  lk_assert_masks_same(want, mask, "begun anew");
  leank_mask_close(&mask);
  unlink(CHECKPOINT);
  free(old);
  free(b.bytes);
}

#define OTHER(change)                                                                              \
  do {                                                                                             \
    leank_learn_options other = o;                                                                 \
    other.change;                                                                                  \
    refused(&other, LEANK_E_MISMATCH, "other settings");                                           \
  } while (0)

static void test_a_checkpoint_of_other_settings(void **state) {
  (void)state;
  const leank_learn_options o = stopped_run();
  leank_model *other_model = lk_model_must_open(TINY "llama-bf16"); /* of the same sizes */
  lk_blob b = lk_blob_read(CHECKPOINT);
  OTHER(ratio = 0.6);
  OTHER(align = 16);
  OTHER(budget = LEANK_BUDGET_PER_HEAD);
  OTHER(exact_budget = true);
  OTHER(n_sink = 128);
  OTHER(n_recent = 128);
  OTHER(loss = o.loss == LEANK_LOSS_BOTH ? LEANK_LOSS_HIDDEN : LEANK_LOSS_BOTH);
  OTHER(policy = LEANK_POLICY_DROP);
  OTHER(mean_compensation = false);
  OTHER(lambda = 0.1);
  OTHER(lr1 = 0.01);
  OTHER(lr2 = 0.01);
  OTHER(n_steps1 = 7);
  OTHER(n_steps2 = 5);
  OTHER(batch = 2);
  OTHER(seed = 2);
  OTHER(kv_type = LEANK_KV_F32);
  OTHER(train.seed = 2);
  OTHER(train.max_tokens = 640);
  OTHER(held_out.seed = 2);
  OTHER(held_out.n_contexts = 0);
  refused_by(other_model, &o, LEANK_E_MISMATCH, "another model");
  assert_holds(CHECKPOINT, b.bytes, b.n);
  assert_goes_on(&o);
  free(b.bytes);
  leank_model_close(&other_model);
}

/* Fresh learning writes over what is a checkpoint, broken or of other settings, once nothing else
 * is wrong. */
static void test_beginning_anew(void **state) {
  (void)state;
  leank_learn_options o = stopped_run(), wrong;
  lk_blob b = lk_blob_read(CHECKPOINT);
  o.fresh = true;
  for (size_t at = 8; at < b.n; at += b.n / 5) {
    lk_watch w = {0};
    b.bytes[at] ^= 1;
    lk_blob_write(CHECKPOINT, b.bytes, at == 8 ? at : b.n);
    wrong = o, wrong.ratio = 2;
    refused(&wrong, LEANK_E_ARGUMENT, "ratio");
    assert_holds(CHECKPOINT, b.bytes, at == 8 ? at : b.n);
    leank_mask *mask = lk_learn_must(model, &o, &w);
    assert_int_equal(w.n_of[LEANK_LEARN_RESUME], 0);
    lk_assert_masks_same(want, mask, "begun anew");
    leank_mask_close(&mask);
    b.bytes[at] ^= 1;
  }
  lk_blob_write(CHECKPOINT, b.bytes, 7);
  refused(&o, LEANK_E_FORMAT, "no checkpoint");
  assert_holds(CHECKPOINT, b.bytes, 7);
  unlink(CHECKPOINT);
  free(b.bytes);
}

static void test_something_else_in_its_place(void **state) {
  (void)state;
  leank_learn_options o = lk_learn_small();
  o.checkpoint = FOLDER "/place";
  lk_text_write(FOLDER "/place", "Something of the user's that is long enough to be taken for it.");
  for (int fresh = 0; fresh < 2; fresh++) {
    o.fresh = fresh != 0;
    refused(&o, LEANK_E_FORMAT, "no checkpoint");
    assert_holds(FOLDER "/place", "Something of the user's that is long enough to be taken for it.",
                 63);
  }
  o.fresh = false;
  unlink(FOLDER "/place");
  assert_int_equal(mkdir(FOLDER "/place", 0777), 0);
  refused(&o, LEANK_E_IO, "folder");
  assert_int_equal(rmdir(FOLDER "/place"), 0);
  assert_int_equal(mkfifo(FOLDER "/place", 0666), 0);
  refused(&o, LEANK_E_IO, "regular");
  unlink(FOLDER "/place");
  o.checkpoint = FOLDER "/no/such/place";
  refused(&o, LEANK_E_IO, "cannot create");
}

/* A full disk shows when the learner is opened, also where there is a checkpoint to read. */
static void test_a_place_that_cannot_be_written_shows_at_once(void **state) {
  (void)state;
  const leank_learn_options o = stopped_run();
  lk_blob b = lk_blob_read(CHECKPOINT);
  lk_limit_files(100);
  refused(&o, LEANK_E_IO, "cannot write");
  lk_limit_files(SIZE_MAX);
  assert_holds(CHECKPOINT, b.bytes, b.n);
  assert_goes_on(&o);
  unlink(CHECKPOINT);
  lk_limit_files(100);
  refused(&o, LEANK_E_IO, "cannot write");
  lk_limit_files(SIZE_MAX);
  assert_int_equal(lk_folder_count(FOLDER, NULL), 0);
  free(b.bytes);
}

/* The disk is full from the second update on. */
static void on_step(void *user, const leank_learn_event *e) {
  (void)user;
  if (e->phase == LEANK_LEARN_STEP && e->stage == 1 && e->step == 2) lk_limit_files(100);
}

static void test_a_disk_that_fills_up_costs_no_checkpoint(void **state) {
  (void)state;
  for (size_t every = 1; every < 1000; every += 998) { /* after an update; at the end of stage 1 */
    leank_learn_options o = lk_learn_small();
    leank_learner *learner = NULL;
    leank_mask *mask = NULL;
    leank_error err = {0};
    o.checkpoint = CHECKPOINT;
    o.checkpoint_every = every;
    o.on_event = on_step;
    unlink(CHECKPOINT);
    lk_assert_ok(leank_learner_open(model, &o, &learner, &err), &err);
    const leank_status status = leank_learner_run(learner, &mask, &err);
    lk_limit_files(SIZE_MAX);
    assert_int_equal(status, LEANK_E_IO);
    assert_non_null(strstr(err.message, CHECKPOINT));
    assert_null(mask);
    leank_learner_close(&learner);
    assert_int_equal(lk_folder_count(FOLDER, NULL), 1); /* and no temporary file */
    mask = lk_learn_must(model, &o, NULL);
    lk_assert_masks_same(want, mask, "gone on");
    leank_mask_close(&mask);
  }
}

/* ---- the cache folder ---- */

static leank_learn_options with_folder(void) {
  leank_learn_options o = lk_learn_small();
  o.cache_folder = CACHE;
  return o;
}

/* Runs; the result is as without a folder. Returns how many contexts were read. */
static size_t run_with_folder(const leank_learn_options *o) {
  lk_watch w = {0};
  leank_mask *mask = lk_learn_must(model, o, &w);
  lk_assert_masks_same(want, mask, "with a folder");
  leank_mask_close(&mask);
  assert_int_equal(lk_folder_count(CACHE, NULL), 6);
  /* Each has an event at its end; one that is read, not mapped: context and questions, 2 layers
   * each. */
  assert_int_equal(w.last[LEANK_LEARN_PREFILL].n_read, 6);
  assert_int_equal((w.n_of[LEANK_LEARN_PREFILL] - 6) % 4, 0);
  return (w.n_of[LEANK_LEARN_PREFILL] - 6) / 4;
}

static void test_contexts_are_read_once(void **state) {
  (void)state;
  leank_learn_options o = with_folder();
  lk_folder_empty(CACHE);
  assert_int_equal(run_with_folder(&o), 6);
  assert_int_equal(run_with_folder(&o), 0);
  o.n_threads = 2;
  assert_int_equal(run_with_folder(&o), 0);
  lk_watch with = {0}, without = {0};
  leank_mask *a = lk_learn_must(model, &o, &with);
  o.cache_folder = NULL;
  leank_mask *b = lk_learn_must(model, &o, &without);
  const leank_learn_event *x = &with.last[LEANK_LEARN_CHOICE],
                          *y = &without.last[LEANK_LEARN_CHOICE];
  assert_true(x->flops < y->flops && x->reference_flops == y->reference_flops);
  leank_mask_close(&a);
  leank_mask_close(&b);
}

static void test_another_model_has_files_of_its_own(void **state) {
  (void)state;
  leank_model *other = lk_model_must_open(TINY "llama-bf16");
  leank_learn_options o = with_folder();
  lk_watch w = {0};
  lk_folder_empty(CACHE);
  run_with_folder(&o);
  leank_mask *mask = lk_learn_must(other, &o, &w);
  assert_int_equal(w.n_of[LEANK_LEARN_PREFILL], 30);
  assert_int_equal(lk_folder_count(CACHE, NULL), 12);
  leank_mask_close(&mask);
  leank_model_close(&other);
}

static void test_damaged_files_are_read_anew(void **state) {
  (void)state;
  const leank_learn_options o = with_folder();
  const char *path = NULL;
  lk_folder_empty(CACHE);
  run_with_folder(&o);
  lk_folder_count(CACHE, &path);
  lk_blob b = lk_blob_read(path);
  const size_t flips[] = {0, 8, 16, 24, 32, 4096, 5000, b.n / 2, b.n - 1};
  for (size_t i = 0; i < sizeof flips / sizeof *flips; i++) {
    b.bytes[flips[i]] ^= 0x10;
    lk_blob_write(path, b.bytes, b.n);
    b.bytes[flips[i]] ^= 0x10;
    assert_int_equal(run_with_folder(&o), 1);
    assert_holds(path, b.bytes, b.n); /* replaced */
  }
  const size_t lengths[] = {0, 1, 40, 4096, b.n / 2, b.n - 1};
  for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
    lk_blob_write(path, b.bytes, lengths[i]);
    assert_int_equal(run_with_folder(&o), 1);
    assert_holds(path, b.bytes, b.n);
  }
  assert_int_equal(run_with_folder(&o), 0);
  free(b.bytes);
}

static void fails(const leank_model *m, const leank_learn_options *o, leank_status status,
                  const char *part) {
  leank_mask *mask = NULL;
  leank_error err = {0};
  const size_t before = hostile_mem_in_use();
  const leank_status got = lk_learn_run(m, o, NULL, &mask, &err);
  if (got != status || !strstr(err.message, part))
    fail_msg("status %d (%s), expected %d with \"%s\"", got, err.message, status, part);
  assert_int_equal(err.code, status);
  assert_null(mask);
  assert_int_equal(hostile_mem_in_use(), before);
}

static void test_a_folder_that_cannot_be_written(void **state) {
  (void)state;
  leank_learn_options o = with_folder();
  lk_folder_empty(CACHE);
  lk_limit_files(5000);
  fails(model, &o, LEANK_E_IO, "cannot write");
  lk_limit_files(SIZE_MAX);
  assert_int_equal(lk_folder_count(CACHE, NULL), 0);
  o.cache_folder = CACHE "/no/such";
  fails(model, &o, LEANK_E_IO, "no/such");
  o.cache_folder = CACHE "/new"; /* made */
  lk_limit_files(5000);
  fails(model, &o, LEANK_E_IO, "cannot write");
  lk_limit_files(SIZE_MAX);
  assert_int_equal(rmdir(CACHE "/new"), 0);
  o.cache_folder = PLAIN; /* a file */
  fails(model, &o, LEANK_E_IO, "");
}

/* ---- weights ---- */

/* A copy of the tiny model with this pattern in the last four bytes of a tensor's first row. */
static leank_model *spoilt_model(const char *tensor, size_t n_row_bytes, uint16_t pattern) {
  const unsigned char bytes[4] = {pattern & 0xff, pattern >> 8, pattern & 0xff, pattern >> 8};
  lk_blob b = lk_blob_read(PLAIN);
  lk_gguf *gguf = NULL;
  leank_error err = {0};
  lk_assert_ok(lk_gguf_open_memory(b.bytes, b.n, "copy", &gguf, &err), &err);
  const lk_tensor t = lk_gguf_tensor(gguf, tensor);
  assert_non_null(t.data);
  const size_t at = (size_t)((const unsigned char *)t.data - b.bytes);
  memcpy(b.bytes + at + n_row_bytes - sizeof bytes, bytes, sizeof bytes);
  lk_gguf_close(&gguf);
  lk_blob_write(FOLDER "/spoilt.gguf", b.bytes, b.n);
  free(b.bytes);
  return lk_model_must_open(FOLDER "/spoilt.gguf");
}

static void test_weights_that_are_no_numbers(void **state) {
  (void)state;
  static const char *const tensors[] = {"blk.0.attn_k.weight", "blk.1.attn_v.weight",
                                        "blk.1.ffn_down.weight", "output_norm.weight",
                                        "output.weight"};
  leank_learn_options o = lk_learn_small();
  for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++)
    for (int infinite = 0; infinite < 2; infinite++) {
      /* As fp32 and as bf16; as fp16 both are NaN. */
      leank_model *spoilt = spoilt_model(tensors[i], 64, infinite ? 0x7f80 : 0x7fc0);
      o.checkpoint = CHECKPOINT;
      unlink(CHECKPOINT);
      fails(spoilt, &o, LEANK_E_STATE, "NaN or infinity");
      fails(spoilt, &o, LEANK_E_STATE, "NaN or infinity"); /* the checkpoint is no worse for it */
      leank_model_close(&spoilt);
    }
  /* Hidden states are sound, and nothing is held out: the loss alone can find it. */
  o = lk_learn_small();
  o.held_out.n_contexts = 0;
  for (o.loss = LEANK_LOSS_LOGITS; o.loss <= LEANK_LOSS_BOTH; o.loss++)
    for (int infinite = 0; infinite < 2; infinite++) {
      leank_model *spoilt = spoilt_model("output.weight", 64, infinite ? 0x7f80 : 0x7fc0);
      fails(spoilt, &o, LEANK_E_STATE, "NaN or infinity");
      leank_model_close(&spoilt);
    }
  unlink(CHECKPOINT);
  unlink(FOLDER "/spoilt.gguf");
}

/* ---- memory ---- */

static void check_allocations(const leank_learn_options *options, size_t stride, size_t least) {
  leank_learn_options plain = *options;
  plain.checkpoint = plain.cache_folder = NULL;
  leank_mask *expected = lk_learn_must(model, &plain, NULL);
  const size_t before = hostile_mem_in_use();
  size_t n_failed = 0;
  leank_status status = LEANK_E_MEMORY;
  for (size_t nth = 1; nth < 100000; nth += nth < 50 ? 1 : stride) {
    leank_mask *mask = NULL;
    leank_error err = {0};
    const size_t n_before = lk_alloc_count();
    if (options->checkpoint) unlink(options->checkpoint);
    lk_alloc_fail_nth(nth);
    status = lk_learn_run(model, options, NULL, &mask, &err);
    lk_alloc_fail_nth(0);
    if (status == LEANK_OK) {
      lk_assert_masks_same(expected, mask, "in spite of a failed allocation");
      leank_mask_close(&mask);
      if (lk_alloc_count() - n_before < nth) break; /* none failed */
    } else {
      assert_int_equal(status, LEANK_E_MEMORY);
      assert_int_equal(err.code, LEANK_E_MEMORY);
      assert_null(mask);
      n_failed++;
    }
    assert_int_equal(hostile_mem_in_use(), before);
  }
  assert_int_equal(status, LEANK_OK);
  assert_true(n_failed > least);
  leank_mask_close(&expected);
}

static void test_failed_allocations(void **state) {
  (void)state;
  leank_learn_options o = lk_learn_small();
  check_allocations(&o, LK_SLOW_RUNS ? 61 : 11, 50);
  o.loss = LEANK_LOSS_BOTH;
  check_allocations(&o, LK_SLOW_RUNS ? 67 : 13, 50);
  o = with_folder();
  o.checkpoint = CHECKPOINT;
  o.checkpoint_every = 2;
  lk_folder_empty(CACHE);
  check_allocations(&o, LK_SLOW_RUNS ? 97 : 23, 50);
  unlink(CHECKPOINT);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_numbers_out_of_range),
      cmocka_unit_test(test_what_the_published_procedure_refuses),
      cmocka_unit_test(test_data_that_cannot_be),
      cmocka_unit_test(test_contexts_without_a_middle),
      cmocka_unit_test(test_less_memory_than_needed),
      cmocka_unit_test(test_a_batch_larger_than_all_questions),
      cmocka_unit_test(test_truncated_checkpoints),
      cmocka_unit_test(test_a_checkpoint_of_an_older_version),
      cmocka_unit_test(test_checkpoints_with_a_flipped_bit),
      cmocka_unit_test(test_a_checkpoint_of_other_settings),
      cmocka_unit_test(test_beginning_anew),
      cmocka_unit_test(test_something_else_in_its_place),
      cmocka_unit_test(test_a_place_that_cannot_be_written_shows_at_once),
      cmocka_unit_test(test_a_disk_that_fills_up_costs_no_checkpoint),
      cmocka_unit_test(test_contexts_are_read_once),
      cmocka_unit_test(test_another_model_has_files_of_its_own),
      cmocka_unit_test(test_damaged_files_are_read_anew),
      cmocka_unit_test(test_a_folder_that_cannot_be_written),
      cmocka_unit_test(test_weights_that_are_no_numbers),
      cmocka_unit_test(test_failed_allocations),
  };
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
