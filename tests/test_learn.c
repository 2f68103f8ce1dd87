/* Learning runs on a tiny model: what comes out, that nothing but options and data decides it, and
 * that a run which is stopped anywhere ends where an undisturbed one does. */
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

#include "support/hostile.h"
#include "support/learn_fixture.h"
#include "support/model_fixture.h"
#include "support/subject.h"

#define FOLDER LEANK_TEST_TMP "/learn"
#define CHECKPOINT FOLDER "/checkpoint"

static leank_model *model, *qwen;

static int open_models(void **state) {
  (void)state;
  lk_folder_empty(FOLDER);
  model = lk_model_must_open(TINY "llama-plain.gguf");
  qwen = lk_model_must_open(TINY "qwen2-bf16");
  return 0;
}

static int close_models(void **state) {
  (void)state;
  leank_model_close(&model);
  leank_model_close(&qwen);
  return 0;
}

/* ---- what comes out ---- */

static size_t count_kept(const leank_mask *mask) {
  const leank_mask_info *info = leank_mask_get_info(mask);
  size_t n = 0;
  for (size_t i = 0; i < info->n_layers * info->n_kv_heads * info->head_dim; i++)
    n += leank_mask_get_kept(mask)[i];
  return n;
}

/* kept is what the rule makes of the alpha that is stored beside it. */
static void assert_rounded(const leank_mask *mask, const leank_learn_options *o) {
  const leank_mask_info *info = leank_mask_get_info(mask);
  const size_t n = info->n_layers * info->n_kv_heads * info->head_dim;
  const float *alpha = leank_mask_get_alpha(mask);
  uint8_t *kept = malloc(n);
  leank_error err = {0};
  assert_non_null(kept);
  assert_non_null(alpha);
  for (size_t i = 0; i < n; i++) assert_true(alpha[i] >= 0 && alpha[i] <= 1);
  lk_assert_ok(leank_mask_round(alpha, info->n_layers, info->n_kv_heads, info->head_dim, o->ratio,
                                o->align, o->budget, o->exact_budget, kept, &err),
               &err);
  assert_memory_equal(kept, leank_mask_get_kept(mask), n);
  free(kept);
  assert_true(fabs(info->ratio_reached - (1 - (double)count_kept(mask) / (double)n)) < 1e-9);
}

static void assert_described(const leank_mask *mask, const leank_model *m,
                             const leank_learn_options *o) {
  const leank_mask_info *info = leank_mask_get_info(mask);
  const leank_model_info *of = leank_model_get_info(m);
  bool same = false;
  leank_error err = {0};
  lk_assert_ok(leank_mask_check(mask, of, &same, &err), &err);
  assert_true(same);
  assert_string_equal(info->architecture, of->architecture);
  assert_string_equal(info->fingerprint, of->fingerprint);
  assert_true(info->rope_theta == of->rope_theta && info->rope_factor == of->rope_factor);
  assert_int_equal(info->rope_scaling, of->rope_scaling);
  assert_int_equal(info->n_sink, o->n_sink);
  assert_int_equal(info->n_recent, o->n_recent);
  assert_int_equal(info->policy, o->policy);
  assert_int_equal(info->mean_compensation, o->mean_compensation);
  assert_int_equal(info->align, o->align);
  assert_int_equal(info->seed, o->seed);
  assert_true(info->ratio_asked == o->ratio);
  assert_string_equal(info->method, o->paper ? "learned, as published" : "learned");
  assert_non_null(strstr(info->data, "4 contexts of 400-600 tokens: uuid words"));
}

static void check_events(const lk_watch *w, const leank_learn_options *o) {
  const bool held_out = o->held_out.n_contexts > 0;
  assert_int_equal(w->n_of[LEANK_LEARN_RESUME], 0);
  assert_int_equal(w->n_of[LEANK_LEARN_STEP], o->n_steps1 + o->n_steps2);
  assert_int_equal(w->n_of[LEANK_LEARN_CHOICE], 1);
  if (o->eval_every == 0) assert_int_equal(w->n_of[LEANK_LEARN_EVAL], held_out ? 2 : 0);
  const leank_learn_event *read = &w->last[LEANK_LEARN_PREFILL], *step = &w->last[LEANK_LEARN_STEP];
  assert_true(read->total > 0 && read->done == read->total);
  assert_int_equal(read->n_read, o->train.n_contexts + o->held_out.n_contexts);
  assert_true(step->done == step->total && step->stage == 2 && step->lambda == 0);
  assert_true(step->flops > read->flops && step->reference_flops > 0);
}

static void test_a_run_gives_the_mask_asked_for(void **state) {
  (void)state;
  leank_model *const models[] = {model, qwen};
  for (size_t i = 0; i < 2; i++)
    for (int budget = 0; budget < 2; budget++) {
      leank_learn_options o = lk_learn_small();
      lk_watch w = {0};
      o.budget = (leank_budget)budget;
      o.exact_budget = true;
      o.n_steps1 = 24; /* fewer leave most alphas at 1, all alike */
      leank_mask *mask = lk_learn_must(models[i], &o, &w);
      const leank_mask_info *info = leank_mask_get_info(mask);
      assert_true(fabs(info->ratio_reached - o.ratio) <= 0.0626); /* a head has 4 counts of 8 */
      assert_rounded(mask, &o);
      assert_described(mask, models[i], &o);
      check_events(&w, &o);
      assert_int_equal(info->steps, w.last[LEANK_LEARN_CHOICE].stage == 1 ? 24 : 28);
      assert_true(fabs(w.last[LEANK_LEARN_CHOICE].ratio - info->ratio_reached) < 1e-9);
      leank_mask_close(&mask);
    }
}

static void test_the_better_stage_is_kept(void **state) {
  (void)state;
  leank_learn_options o = lk_learn_small();
  bool seen[3] = {false};
  for (o.lr2 = 0.001; o.lr2 < 1; o.lr2 *= 10) { /* 0.1 spoils what stage 1 has found */
    lk_watch w = {0};
    leank_mask *mask = lk_learn_must(model, &o, &w);
    const leank_learn_event *choice = &w.last[LEANK_LEARN_CHOICE];
    assert_true(choice->kl <= w.last[LEANK_LEARN_EVAL].kl); /* the last evaluation is stage 2's */
    assert_int_equal(choice->stage, choice->kl < w.last[LEANK_LEARN_EVAL].kl ? 1 : 2);
    seen[choice->stage] = true;
    leank_mask_close(&mask);
  }
  assert_true(seen[1] || seen[2]);
}

static void test_one_stage_alone(void **state) {
  (void)state;
  leank_learn_options o = lk_learn_small();
  lk_watch w = {0};
  o.n_steps2 = 0;
  leank_mask *one = lk_learn_must(model, &o, &w);
  assert_int_equal(w.last[LEANK_LEARN_CHOICE].stage, 1);
  assert_int_equal(leank_mask_get_info(one)->steps, 6);
  assert_int_equal(w.n_of[LEANK_LEARN_EVAL], 1);
  o.held_out.n_contexts = 0; /* no evaluation changes nothing where there is no choice */
  leank_mask *alone = lk_learn_must(model, &o, NULL);
  lk_assert_masks_same(one, alone, "not evaluated");
  leank_mask_close(&one);
  leank_mask_close(&alone);
}

/* A mask that keeps everything is the dense model, to the last bit, whatever is in a batch. */
static void test_ratio_0_changes_nothing(void **state) {
  (void)state;
  leank_learn_options o = lk_learn_small();
  lk_watch w = {0};
  o.ratio = 0;
  o.eval_every = 2;
  leank_mask *mask = lk_learn_must(model, &o, &w);
  const leank_learn_event *e = &w.last[LEANK_LEARN_EVAL];
  assert_int_equal(w.n_of[LEANK_LEARN_EVAL], 2 + 2 + 1); /* after 2 and 4, the end; 2, the end */
  assert_true(e->kl == 0 && e->kl_p99 == 0 && e->hidden_error == 0 && e->top1 == 1);
  assert_true(e->accuracy == e->dense_accuracy && e->n_prompts == 4 && e->n_rows > 4);
  assert_int_equal(count_kept(mask), 2 * 2 * 32);
  leank_mask_close(&mask);
}

static void test_lambda_as_given_and_as_found(void **state) {
  (void)state;
  leank_learn_options o = lk_learn_small();
  o.n_steps2 = 0;
  for (int given = 0; given < 2; given++) {
    lk_watch w = {0};
    o.lambda = given ? 0.25 : -1;
    leank_mask *mask = lk_learn_must(model, &o, &w);
    const leank_learn_event *e = &w.last[LEANK_LEARN_STEP];
    if (given)
      assert_true(e->lambda == 0.25);
    else
      assert_true(e->lambda > 0 && e->lambda != 0.25);
    assert_true(e->loss >= e->distill);
    leank_mask_close(&mask);
  }
}

/* Channels that no prompt misses go first: a strong lambda alone drives every alpha down. */
static void test_lambda_drives_alpha_down(void **state) {
  (void)state;
  leank_learn_options o = lk_learn_small();
  double mean[2];
  o.n_steps2 = 0;
  o.n_steps1 = 12;
  for (int i = 0; i < 2; i++) {
    lk_watch w = {0};
    o.lambda = i ? 1e6 : 0;
    leank_mask *mask = lk_learn_must(model, &o, &w);
    mean[i] = w.last[LEANK_LEARN_STEP].mean_alpha;
    leank_mask_close(&mask);
  }
  assert_true(mean[0] > 0.9);
  assert_true(mean[1] < 0.7);
}

static void test_the_ways_of_heads_that_keep_nothing(void **state) {
  (void)state;
  static const struct {
    leank_policy policy;
    bool compensation;
  } ways[] = {{LEANK_POLICY_DROP, false},
              {LEANK_POLICY_MEAN, false},
              {LEANK_POLICY_DROP, true},
              {LEANK_POLICY_MEAN, true}};
  leank_mask *masks[4];
  leank_learn_options o = lk_learn_small();
  for (size_t i = 0; i < 4; i++) {
    lk_watch w = {0};
    o.policy = ways[i].policy;
    o.mean_compensation = ways[i].compensation;
    masks[i] = lk_learn_must(model, &o, &w);
    assert_rounded(masks[i], &o);
    assert_described(masks[i], model, &o);
    check_events(&w, &o);
  }
  assert_false(lk_masks_same(masks[0], masks[1]));
  for (size_t i = 0; i < 4; i++) leank_mask_close(&masks[i]);
}

static void test_as_published(void **state) {
  (void)state;
  leank_learn_options o, small = lk_learn_small();
  lk_watch w = {0};
  leank_learn_options_paper(leank_model_get_info(model), &o);
  assert_true(o.paper && o.lambda == 0.06 && o.batch == 1 && o.n_recent == 1024);
  assert_true(o.train.max_tokens <= 4096 && o.train.min_tokens <= o.train.max_tokens);
  o.train = small.train;
  o.held_out = small.held_out;
  o.n_sink = o.n_recent = 64;
  o.n_steps1 = 6;
  o.n_steps2 = 4;
  o.align = 8;
  o.n_threads = 2;
  o.cpu = small.cpu;
  leank_mask *mask = lk_learn_must(model, &o, &w);
  assert_rounded(mask, &o);
  assert_described(mask, model, &o);
  check_events(&w, &o);
  assert_int_equal(w.last[LEANK_LEARN_CHOICE].stage, 2); /* not chosen */
  o.paper = false; /* the window slides by page, the loss is scaled: something else */
  leank_mask *other = lk_learn_must(model, &o, NULL);
  assert_false(lk_masks_same(mask, other));
  leank_mask_close(&mask);
  leank_mask_close(&other);
}

static void test_a_mask_is_written_and_read(void **state) {
  (void)state;
  leank_learn_options o = lk_learn_small();
  leank_mask *mask = lk_learn_must(model, &o, NULL), *back = NULL;
  leank_error err = {0};
  lk_assert_ok(leank_mask_save(mask, FOLDER "/mask", &err), &err);
  lk_assert_ok(leank_mask_open(FOLDER "/mask", &back, &err), &err);
  lk_assert_masks_same(mask, back, "from a file");
  assert_described(back, model, &o);
  leank_mask_close(&mask);
  leank_mask_close(&back);
}

/* ---- what decides it ---- */

static void test_threads_do_not_matter(void **state) {
  (void)state;
  static const char *const methods[] = {"learned", "learned", "learned, as published",
                                        "learned, both losses", "learned, loss of logits"};
  for (int way = 0; way < 5; way++) { /* plain, with means, as published, other losses */
    leank_learn_options o = lk_learn_small();
    o.policy = way == 1 ? LEANK_POLICY_MEAN : LEANK_POLICY_DROP;
    o.mean_compensation = way == 1;
    o.paper = way == 2;
    if (way == 2) o.lambda = 0.06;
    if (way > 2) o.loss = way == 3 ? LEANK_LOSS_BOTH : LEANK_LOSS_LOGITS;
    leank_mask *one = lk_learn_must(model, &o, NULL);
    assert_string_equal(leank_mask_get_info(one)->method, methods[way]);
    /* All losses: the one more loop that is dealt to threads, by rows. */
    for (o.n_threads = way == 3 ? 3 : 1; o.n_threads <= 3; o.n_threads++) {
      leank_mask *mask = lk_learn_must(model, &o, NULL);
      lk_assert_masks_same(one, mask, "threads");
      leank_mask_close(&mask);
    }
    leank_mask_close(&one);
  }
}

static void test_what_must_not_matter(void **state) {
  (void)state;
  leank_learn_options plain = lk_learn_small(), o = plain;
  leank_mask *want = lk_learn_must(model, &plain, NULL), *mask;
  o.prefill_chunk = 64;
  o.eval_every = 1;
  mask = lk_learn_must(model, &o, NULL);
  lk_assert_masks_same(want, mask, "chunks and evaluations");
  leank_mask_close(&mask);
  o.checkpoint = CHECKPOINT;
  o.checkpoint_every = 1;
  o.cache_bytes = (size_t)1 << 40;
  mask = lk_learn_must(model, &o, NULL);
  lk_assert_masks_same(want, mask, "checkpoints");
  unlink(CHECKPOINT);
  leank_mask_close(&mask);
  leank_mask_close(&want);
}

static void test_what_must_matter(void **state) {
  (void)state;
  leank_learn_options plain = lk_learn_small();
  leank_mask *want = lk_learn_must(model, &plain, NULL);
  for (int i = 0; i < 6; i++) {
    leank_learn_options o = plain;
    if (i == 0) o.seed = 2;
    if (i == 1) o.train.seed = 2;
    if (i == 2) o.lr1 = 0.02;
    if (i == 3) o.batch = 2;
    if (i == 4) o.n_recent = 128;
    if (i == 5) o.kv_type = LEANK_KV_F32;
    leank_mask *mask = lk_learn_must(model, &o, NULL);
    if (lk_masks_same(want, mask)) fail_msg("change %d changes nothing", i);
    leank_mask_close(&mask);
  }
  leank_mask_close(&want);
}

/* ---- stopped, and gone on with ---- */

/* A second learner goes on and gives `want`, told from where. */
/* whole: a run that nothing stopped. The choice is between KLs of both stages, of which one may
 * have been evaluated before the stop. */
static void go_on(const leank_learn_options *o, const lk_watch *stopped, const lk_watch *whole,
                  const leank_mask *want) {
  lk_watch w = {0};
  leank_mask *mask = lk_learn_must(model, o, &w);
  lk_assert_masks_same(want, mask, "gone on");
  const leank_learn_event *last = &stopped->last[LEANK_LEARN_STEP];
  const leank_learn_event *resume = &w.last[LEANK_LEARN_RESUME];
  const size_t n_done = stopped->n_of[LEANK_LEARN_STEP];
  if (n_done > 0) {
    assert_int_equal(w.n_of[LEANK_LEARN_RESUME], 1);
    const size_t before = resume->stage == 1 ? 0 : o->n_steps1;
    assert_int_equal(before + (resume->stage == 3 ? o->n_steps2 : resume->step), n_done);
    assert_true(w.last[LEANK_LEARN_CHOICE].reference_flops >= last->reference_flops);
  } else {
    assert_int_equal(w.n_of[LEANK_LEARN_RESUME], 0);
  }
  assert_int_equal(n_done + w.n_of[LEANK_LEARN_STEP], o->n_steps1 + o->n_steps2);
  const leank_learn_event *choice = &w.last[LEANK_LEARN_CHOICE];
  assert_int_equal(choice->stage, whole->last[LEANK_LEARN_CHOICE].stage);
  assert_true(choice->kl > 0 && choice->kl == whole->last[LEANK_LEARN_CHOICE].kl);
  leank_mask_close(&mask);
}

static void test_stopped_at_every_event(void **state) {
  (void)state;
  leank_learn_options o = lk_learn_small();
  lk_watch whole = {0};
  leank_mask *want = lk_learn_must(model, &o, &whole);
  size_t n_stopped = 0;
  o.checkpoint = CHECKPOINT;
  o.checkpoint_every = 1000;
  for (size_t at = 1; at <= whole.n; at += LK_SLOW_RUNS ? 6 : 1) {
    lk_watch w = {.stop_at = at};
    leank_mask *mask = NULL;
    leank_error err = {0};
    const size_t before = hostile_mem_in_use();
    const leank_status status = lk_learn_run(model, &o, &w, &mask, &err);
    assert_int_equal(access(CHECKPOINT, F_OK), 0);
    if (status == LEANK_E_INTERRUPTED) {
      n_stopped++;
      assert_null(mask);
      assert_int_equal(hostile_mem_in_use(), before);
      assert_int_equal(err.code, status);
    } else {
      lk_assert_ok(status, &err);
      assert_true(at > whole.n - 2); /* the last evaluation, the choice */
      lk_assert_masks_same(want, mask, "stopped too late");
    }
    leank_mask_close(&mask);
    go_on(&o, &w, &whole, want);
    assert_int_equal(lk_folder_count(FOLDER, NULL), 1 + (access(FOLDER "/mask", F_OK) == 0));
    unlink(CHECKPOINT);
  }
  assert_true(n_stopped >= (LK_SLOW_RUNS ? 4 : whole.n - 2));
  leank_mask_close(&want);
}

static void test_stopped_again_and_again(void **state) {
  (void)state;
  leank_learn_options o = lk_learn_small();
  lk_watch whole = {0};
  leank_mask *want = lk_learn_must(model, &o, &whole), *mask = NULL;
  leank_error err = {0};
  size_t n_stops = 0;
  o.checkpoint = CHECKPOINT;
  for (;;) { /* behind the events of reading: once told of an update, stop */
    lk_watch w = {.stop_at = whole.n_of[LEANK_LEARN_PREFILL] + 2};
    const leank_status status = lk_learn_run(model, &o, &w, &mask, &err);
    if (status == LEANK_OK) break;
    assert_int_equal(status, LEANK_E_INTERRUPTED);
    assert_true(++n_stops < 40);
  }
  assert_true(n_stops > 3);
  lk_assert_masks_same(want, mask, "stopped again and again");
  leank_mask_close(&mask);
  leank_mask_close(&want);
  unlink(CHECKPOINT);
}

/* The same learner may go on itself, also without a file. */
static void test_the_same_learner_goes_on(void **state) {
  (void)state;
  leank_learn_options o = lk_learn_small();
  leank_mask *want = lk_learn_must(model, &o, NULL), *mask = NULL;
  leank_learner *learner = NULL;
  leank_error err = {0};
  lk_assert_ok(leank_learner_open(model, &o, &learner, &err), &err);
  assert_int_equal(leank_learner_stage_mask(learner, 1, &mask, &err), LEANK_E_STATE);
  leank_learner_interrupt(learner); /* a request made before a run is not for it */
  lk_assert_ok(leank_learner_run(learner, &mask, &err), &err);
  lk_assert_masks_same(want, mask, "first");
  leank_mask_close(&mask);
  assert_true(leank_learner_kv_bytes(learner) > 0);
  for (int stage = 0; stage <= 3; stage++) {
    const bool is_one = stage == 1 || stage == 2;
    assert_int_equal(leank_learner_stage_mask(learner, stage, &mask, &err),
                     is_one ? LEANK_OK : LEANK_E_ARGUMENT);
    if (is_one) assert_rounded(mask, &o);
    leank_mask_close(&mask);
  }
  lk_assert_ok(leank_learner_run(learner, &mask, &err), &err); /* all is done: the same again */
  lk_assert_masks_same(want, mask, "second");
  leank_mask_close(&mask);
  assert_non_null(leank_learner_train_set(learner));
  assert_int_equal(leank_dataset_n_contexts(leank_learner_held_out_set(learner)), 2);
  leank_learner_close(&learner);
  assert_null(learner);
  leank_learner_close(&learner);
  leank_learner_close(NULL);
  leank_mask_close(&want);
}

/* A kill leaves the checkpoint of some updates ago. */
static void test_killed_and_gone_on(void **state) {
  (void)state;
  static const struct {
    int stage;
    size_t step;
  } kills[] = {{1, 1}, {1, 4}, {1, 6}, {2, 1}, {2, 4}};
  leank_learn_options o = lk_learn_small();
  leank_mask *want = lk_learn_must(model, &o, NULL);
  o.checkpoint = CHECKPOINT;
  o.checkpoint_every = 3;
  for (size_t i = 0; i < sizeof kills / sizeof *kills; i++) {
    lk_watch w = {.copy_stage = kills[i].stage,
                  .copy_step = kills[i].step,
                  .copy_from = CHECKPOINT,
                  .to = FOLDER "/older"};
    leank_mask *mask = lk_learn_must(model, &o, &w);
    leank_mask_close(&mask);
    assert_int_equal(rename(FOLDER "/older", CHECKPOINT), 0);
    lk_watch after = {0};
    mask = lk_learn_must(model, &o, &after);
    lk_assert_masks_same(want, mask, "killed");
    const size_t before =
        kills[i].stage == 1 ? (kills[i].step - 1) / 3 * 3 : 6 + (kills[i].step - 1) / 3 * 3;
    assert_int_equal(after.n_of[LEANK_LEARN_STEP], 10 - before);
    leank_mask_close(&mask);
    unlink(CHECKPOINT);
  }
  leank_mask_close(&want);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_a_run_gives_the_mask_asked_for),
      cmocka_unit_test(test_the_better_stage_is_kept),
      cmocka_unit_test(test_one_stage_alone),
      cmocka_unit_test(test_ratio_0_changes_nothing),
      cmocka_unit_test(test_lambda_as_given_and_as_found),
      cmocka_unit_test(test_lambda_drives_alpha_down),
      cmocka_unit_test(test_the_ways_of_heads_that_keep_nothing),
      cmocka_unit_test(test_as_published),
      cmocka_unit_test(test_a_mask_is_written_and_read),
      cmocka_unit_test(test_threads_do_not_matter),
      cmocka_unit_test(test_what_must_not_matter),
      cmocka_unit_test(test_what_must_matter),
      cmocka_unit_test(test_stopped_at_every_event),
      cmocka_unit_test(test_stopped_again_and_again),
      cmocka_unit_test(test_the_same_learner_goes_on),
      cmocka_unit_test(test_killed_and_gone_on),
  };
  return cmocka_run_group_tests(tests, open_models, close_models);
}
