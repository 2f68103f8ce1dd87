/* Learning on a tiny model: options of a run of well under a second, runs that are watched and
 * stopped at an event, and what they leave behind. */
#ifndef LK_SUPPORT_LEARN_FIXTURE_H
#define LK_SUPPORT_LEARN_FIXTURE_H

#include <leank/leank.h>

/* Whether a sanitizer makes every run some fifty times as long: tests that step through all of
 * something then take longer steps. */
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define LK_SLOW_RUNS 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define LK_SLOW_RUNS 1
#endif
#ifndef LK_SLOW_RUNS
#define LK_SLOW_RUNS 0
#endif

/* 4 contexts of 2 questions, held out 2; 400 to 600 tokens; sink and recent 64; 6 and 4 updates of
 * 3 questions; one thread; the CPU level of the suite. No checkpoint, no folder, lambda found. */
leank_learn_options lk_learn_small(void);

/* Counts events, copies a file at one of them, interrupts at one of them. */
typedef struct lk_watch {
  leank_learner *learner;
  size_t stop_at;             /* interrupt at this event, from 1; 0 = never */
  int copy_stage;             /* at the STEP event of this stage and step... */
  size_t copy_step;           /* ... 0 = never */
  const char *copy_from, *to; /* ... one file is copied to another */
  size_t n, n_of[5];          /* events; by phase */
  leank_learn_event last[5];  /* of each phase */
  bool sound;                 /* every number of every event is one that can be */
} lk_watch;

/* Opens, runs and closes with these options (on_event and user are replaced); *out as from
 * leank_learner_run. watch may be NULL. */
leank_status lk_learn_run(const leank_model *model, const leank_learn_options *options,
                          lk_watch *watch, leank_mask **out, leank_error *err);
/* The mask of a run that must succeed. */
leank_mask *lk_learn_must(const leank_model *model, const leank_learn_options *options,
                          lk_watch *watch);

/* Same kept channels and the same bits of alpha. */
bool lk_masks_same(const leank_mask *a, const leank_mask *b);
/* Fails the test where they are not. */
void lk_assert_masks_same(const leank_mask *a, const leank_mask *b, const char *what);

/* ---- files ---- */

/* Makes the folder, or takes every file out of it. */
void lk_folder_empty(const char *path);
/* Files in it; *name (may be NULL) is one of them, in a static buffer, with the folder. */
size_t lk_folder_count(const char *path, const char **name);
/* From now on no file of this process may grow beyond n bytes (SIZE_MAX: any length): what a full
 * disk does. */
void lk_limit_files(size_t n);

#endif
