#include "support/learn_fixture.h"

#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "support/model_fixture.h"
#include "support/subject.h"

static void make_small(leank_dataset_options *o, size_t n_contexts, uint64_t seed) {
  o->tasks = 1u << LEANK_TASK_UUID | 1u << LEANK_TASK_WORDS;
  o->n_contexts = n_contexts;
  o->n_questions = 2;
  o->min_tokens = 400;
  o->max_tokens = 600;
  o->seed = seed;
}

leank_learn_options lk_learn_small(void) {
  leank_learn_options o;
  leank_learn_options_default(&o);
  make_small(&o.train, 4, 1);
  make_small(&o.held_out, 2, 77);
  o.ratio = 0.5;
  o.align = 8;
  o.n_sink = 64;
  o.n_recent = 64;
  o.n_steps1 = 6;
  o.n_steps2 = 4;
  o.batch = 3;
  o.n_threads = 1;
  o.cpu = lk_test_cpu();
  return o;
}

/* ---- running ---- */

static bool is_sound(const leank_learn_event *e) {
  const double shares[] = {e->mean_alpha, e->near_zero,      e->ratio,
                           e->top1,       e->dense_accuracy, e->accuracy};
  const double sizes[] = {e->loss,         e->distill, e->lambda,         e->lr,
                          e->kl,           e->kl_p99,  e->hidden_error,   e->seconds,
                          e->seconds_left, e->flops,   e->reference_flops};
  for (size_t i = 0; i < sizeof shares / sizeof *shares; i++)
    if (!(shares[i] >= 0 && shares[i] <= 1)) return false;
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
    if (!(sizes[i] >= 0 && isfinite(sizes[i]))) return false;
  return e->done <= e->total && (e->phase == LEANK_LEARN_RESUME || e->step <= e->n_steps ||
                                 e->phase == LEANK_LEARN_CHOICE);
}

static void on_event(void *user, const leank_learn_event *e) {
  lk_watch *w = user;
  w->n++;
  w->n_of[e->phase]++;
  w->last[e->phase] = *e;
  w->sound = w->sound && is_sound(e);
  if (w->stop_at == w->n) leank_learner_interrupt(w->learner);
  if (e->phase == LEANK_LEARN_STEP && w->copy_step > 0 && e->stage == w->copy_stage &&
      e->step == w->copy_step)
    lk_file_copy(w->copy_from, w->to);
}

leank_status lk_learn_run(const leank_model *model, const leank_learn_options *options,
                          lk_watch *watch, leank_mask **out, leank_error *err) {
  leank_learn_options o = *options;
  lk_watch own = {0};
  lk_watch *w = watch ? watch : &own;
  w->learner = NULL;
  w->sound = true;
  o.on_event = on_event;
  o.user = w;
  leank_status status = leank_learner_open(model, &o, &w->learner, err);
  if (status == LEANK_OK) status = leank_learner_run(w->learner, out, err);
  leank_learner_close(&w->learner);
  return status;
}

leank_mask *lk_learn_must(const leank_model *model, const leank_learn_options *options,
                          lk_watch *watch) {
  leank_mask *mask = NULL;
  leank_error err = {0};
  lk_assert_ok(lk_learn_run(model, options, watch, &mask, &err), &err);
  assert_non_null(mask);
  if (watch) assert_true(watch->sound);
  return mask;
}

bool lk_masks_same(const leank_mask *a, const leank_mask *b) {
  const leank_mask_info *info = leank_mask_get_info(a);
  const size_t n = info->n_layers * info->n_kv_heads * info->head_dim;
  return memcmp(leank_mask_get_kept(a), leank_mask_get_kept(b), n) == 0 &&
         memcmp(leank_mask_get_alpha(a), leank_mask_get_alpha(b), n * sizeof(float)) == 0;
}

void lk_assert_masks_same(const leank_mask *a, const leank_mask *b, const char *what) {
  if (!lk_masks_same(a, b)) fail_msg("%s: another mask", what);
}

/* ---- files ---- */

static const char *in_folder(const char *folder, const char *name) {
  static char path[4096];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  return path;
}

static size_t walk(const char *path, bool removes, const char **name) {
  DIR *folder = opendir(path);
  size_t n = 0;
  assert_non_null(folder);
  for (const struct dirent *e; (e = readdir(folder));) {
    if (e->d_name[0] == '.') continue;
    const char *file = in_folder(path, e->d_name);
    if (removes) unlink(file);
    if (name) *name = file;
    n++;
  }
  closedir(folder);
  return n;
}

void lk_folder_empty(const char *path) {
  mkdir(path, 0777);
  walk(path, true, NULL);
}

size_t lk_folder_count(const char *path, const char **name) { return walk(path, false, name); }

void lk_limit_files(size_t n) {
  struct rlimit limit;
  assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
  limit.rlim_cur = n == SIZE_MAX ? limit.rlim_max : n;
  signal(SIGXFSZ, n == SIZE_MAX ? SIG_DFL : SIG_IGN);
  assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}
