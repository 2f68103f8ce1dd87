#include "base/parallel.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <unistd.h>

#include "base/alloc.h"

/* 20 to 90 microseconds, as long as PAUSE takes: longer than the gap between two regions of a
 * decode step, short beside a scheduler's slice. */
enum { SPINS = 2000 };

typedef struct worker {
  lk_team *team;
  size_t thread;
  pthread_t handle;
} worker;

struct lk_team {
  size_t n_threads;
  worker *workers; /* [n_threads - 1] */
  /* The ticket: region number << 32 | next item. An item is taken by raising it, which only works
   * in the region whose fn and ctx were read before: they change only once all items of the region
   * are done. */
  _Alignas(64) atomic_uint_fast64_t ticket;
  _Alignas(64) atomic_size_t n_done;
  _Alignas(64) atomic_size_t n_items;
  _Atomic(lk_item_fn) fn;
  _Atomic(void *) ctx;
  atomic_bool closing;
  pthread_mutex_t mutex;
  pthread_cond_t work, done; /* a new region; the last item done */
  atomic_size_t n_sleeping;  /* workers that wait for work */
  atomic_bool caller_sleeps;
};

static void relax(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

/* Takes and runs items of the present region until none is left. */
static void run_items(lk_team *team, size_t thread) {
  uint64_t ticket = atomic_load(&team->ticket);
  for (;;) {
    const size_t n_items = atomic_load(&team->n_items);
    const lk_item_fn fn = atomic_load(&team->fn);
    void *ctx = atomic_load(&team->ctx);
    const size_t item = (uint32_t)ticket;
    if (item >= n_items) return;
    if (!atomic_compare_exchange_weak(&team->ticket, &ticket, ticket + 1)) continue;
    fn(ctx, item, thread);
    if (atomic_fetch_add(&team->n_done, 1) + 1 == n_items && atomic_load(&team->caller_sleeps)) {
      pthread_mutex_lock(&team->mutex);
      pthread_cond_signal(&team->done);
      pthread_mutex_unlock(&team->mutex);
    }
    ticket = atomic_load(&team->ticket);
  }
}

static uint32_t region_of(lk_team *team) { return (uint32_t)(atomic_load(&team->ticket) >> 32); }

/* Waits for a region other than `last`; false when the team closes. */
static bool wait_for_work(lk_team *team, uint32_t last) {
  for (int i = 0; i < SPINS; i++) {
    if (region_of(team) != last || atomic_load(&team->closing)) return !atomic_load(&team->closing);
    relax();
  }
  pthread_mutex_lock(&team->mutex);
  atomic_fetch_add(&team->n_sleeping, 1);
  while (region_of(team) == last && !atomic_load(&team->closing))
    pthread_cond_wait(&team->work, &team->mutex);
  atomic_fetch_sub(&team->n_sleeping, 1);
  pthread_mutex_unlock(&team->mutex);
  return !atomic_load(&team->closing);
}

static void *worker_main(void *arg) {
  worker *w = arg;
  uint32_t last = 0;
  while (wait_for_work(w->team, last)) {
    last = region_of(w->team);
    run_items(w->team, w->thread);
  }
  return NULL;
}

static void wait_until_done(lk_team *team, size_t n_items) {
  for (int i = 0; i < SPINS; i++) {
    if (atomic_load(&team->n_done) == n_items) return;
    relax();
  }
  pthread_mutex_lock(&team->mutex);
  atomic_store(&team->caller_sleeps, true);
  while (atomic_load(&team->n_done) != n_items) pthread_cond_wait(&team->done, &team->mutex);
  atomic_store(&team->caller_sleeps, false);
  pthread_mutex_unlock(&team->mutex);
}

void lk_parallel_for(lk_team *team, size_t n_items, lk_item_fn fn, void *ctx) {
  if (!team || team->n_threads == 1 || n_items <= 1) {
    for (size_t i = 0; i < n_items; i++) fn(ctx, i, 0);
    return;
  }
  /* No item of the last region is left, so nobody can take one while these change: a late worker
   * reads a ticket whose items are used up, or fails to raise it. */
  const uint64_t region = (atomic_load(&team->ticket) >> 32) + 1;
  atomic_store(&team->ticket, (region - 1) << 32 | UINT32_MAX);
  atomic_store(&team->fn, fn);
  atomic_store(&team->ctx, ctx);
  atomic_store(&team->n_items, n_items);
  atomic_store(&team->n_done, 0);
  atomic_store(&team->ticket, region << 32);
  if (atomic_load(&team->n_sleeping) > 0) {
    pthread_mutex_lock(&team->mutex);
    pthread_cond_broadcast(&team->work);
    pthread_mutex_unlock(&team->mutex);
  }
  run_items(team, 0);
  wait_until_done(team, n_items);
}

size_t lk_team_size(const lk_team *team) { return team->n_threads; }

leank_status lk_team_open(size_t n_threads, lk_team **out, leank_error *err) {
  leank_status status = LEANK_OK;
  lk_team *team = lk_alloc(LK_MEM_OTHER, 1, sizeof *team);
  LK_FAIL_IF(!team, err, LEANK_E_MEMORY, -1, "out of memory");
  team->n_threads = 1;
  pthread_mutex_init(&team->mutex, NULL);
  pthread_cond_init(&team->work, NULL);
  pthread_cond_init(&team->done, NULL);
  team->workers = lk_alloc(LK_MEM_OTHER, n_threads, sizeof *team->workers);
  LK_FAIL_IF(!team->workers, err, LEANK_E_MEMORY, -1, "out of memory");
  for (; team->n_threads < n_threads; team->n_threads++) {
    worker *w = &team->workers[team->n_threads - 1];
    *w = (worker){.team = team, .thread = team->n_threads};
    LK_FAIL_IF(pthread_create(&w->handle, NULL, worker_main, w) != 0, err, LEANK_E_MEMORY, -1,
               "cannot make thread %zu of %zu", team->n_threads + 1, n_threads);
  }
  *out = team;
cleanup:
  if (status != LEANK_OK) lk_team_close(&team);
  return status;
}

void lk_team_close(lk_team **team) {
  lk_team *t = *team;
  if (!t) return;
  pthread_mutex_lock(&t->mutex);
  atomic_store(&t->closing, true);
  pthread_cond_broadcast(&t->work);
  pthread_mutex_unlock(&t->mutex);
  for (size_t i = 0; i + 1 < t->n_threads; i++) pthread_join(t->workers[i].handle, NULL);
  pthread_cond_destroy(&t->done);
  pthread_cond_destroy(&t->work);
  pthread_mutex_destroy(&t->mutex);
  lk_free(t->workers);
  lk_free(t);
  *team = NULL;
}

size_t lk_parallel_default_threads(void) {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0)
    return (size_t)CPU_COUNT(&set);
  const long n = sysconf(_SC_NPROCESSORS_ONLN); /* more processors than the set has room for */
  return n > 0 ? (size_t)n : 1;
}
