/* Random histories: turns, scores, batched steps, rewinds, forks and clearings in any order, on
 * sequences that share pages, each beside an oracle of its own. Whatever fits the context must
 * never lack a page, and no page may be lost. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/rng.h"
#include "support/subject.h"

enum { V = 97, N_SEQS = 3, N_CTX = 390, N_ACTIONS = 45 };

typedef struct history {
  lk_subject s;
  lk_oracle *oracles[N_SEQS];
  lk_rng rng;
  char what[96]; /* the present action, for messages */
} history;

static size_t below(history *h, size_t n) { return (size_t)lk_rng_below(&h->rng, n); }

static void random_tokens(history *h, leank_token *tokens, size_t n) {
  for (size_t i = 0; i < n; i++) tokens[i] = (leank_token)below(h, V);
}

/* A length that is often near a boundary of pages. */
static size_t random_length(history *h, size_t most) {
  static const size_t special[] = {1, 2, 63, 64, 65, 127, 128, 129};
  size_t n = below(h, 2) ? special[below(h, 8)] : 1 + below(h, 150);
  return n < most ? n : most;
}

static double tolerance(const history *h) {
  return h->s.setup.kv_type == LEANK_KV_Q8 ? LK_TOLERANCE_INT8_CACHE : LK_TOLERANCE_F32;
}

static void feed(history *h, size_t seq) {
  const size_t room = N_CTX - lk_oracle_length(h->oracles[seq]);
  if (room == 0) return;
  const size_t n = random_length(h, room);
  const lk_call call = {below(h, 3) ? LK_TURN : LK_SCORE, n};
  leank_token tokens[N_CTX];
  random_tokens(h, tokens, n);
  snprintf(h->what, sizeof h->what, "%s of %zu after %zu", call.kind == LK_TURN ? "turn" : "score",
           n, lk_oracle_length(h->oracles[seq]));
  float *got = lk_subject_run(&h->s, seq, tokens, &call, 1);
  double *want = lk_oracle_run(h->oracles[seq], V, tokens, &call, 1);
  lk_assert_close(got, want, n, V, tolerance(h), h->what);
  free(got);
  free(want);
}

static void steps(history *h, size_t n_steps) {
  for (size_t i = 0; i < n_steps; i++) {
    size_t seqs[N_SEQS], n = 0;
    leank_token tokens[N_SEQS];
    float logits[N_SEQS * V];
    leank_error err = {0};
    for (size_t seq = 0; seq < N_SEQS; seq++)
      if (lk_oracle_length(h->oracles[seq]) < N_CTX && below(h, 4)) seqs[n++] = seq;
    if (n == 0) continue;
    random_tokens(h, tokens, n);
    lk_assert_ok(leank_session_decode(h->s.session, n, seqs, tokens, logits, &err), &err);
    for (size_t j = 0; j < n; j++) {
      double want[V];
      snprintf(h->what, sizeof h->what, "step at %zu", lk_oracle_length(h->oracles[seqs[j]]));
      lk_oracle_feed(h->oracles[seqs[j]], LEANK_FEED_SCORE, tokens + j, 1, want, NULL);
      lk_assert_close(logits + j * V, want, 1, V, tolerance(h), h->what);
    }
  }
}

/* Allowed where the middle stays, refused elsewhere, by the oracle's own formula. */
static void rewind_some(history *h, size_t seq) {
  lk_oracle *o = h->oracles[seq];
  const size_t t = lk_oracle_length(o), n = t - below(h, t < 80 ? t + 1 : 80);
  const bool allowed =
      !h->s.mask || n == 0 || lk_oracle_middle_end(o, n) == lk_oracle_middle_end(o, t);
  leank_error err = {0};
  const leank_status status = leank_session_rewind(h->s.session, seq, n, &err);
  assert_int_equal(status, allowed ? LEANK_OK : LEANK_E_REWIND);
  if (allowed) lk_oracle_rewind(o, n);
}

static void fork_some(history *h, size_t from, size_t to) {
  leank_error err = {0};
  if (from == to) return;
  lk_assert_ok(leank_session_fork(h->s.session, from, to, &err), &err);
  lk_oracle_copy(h->oracles[to], h->oracles[from]);
}

static void clear(history *h, size_t seq) {
  leank_error err = {0};
  lk_assert_ok(leank_session_rewind(h->s.session, seq, 0, &err), &err);
  lk_oracle_rewind(h->oracles[seq], 0);
}

static void act(history *h) {
  const size_t seq = below(h, N_SEQS);
  switch (below(h, 12)) {
  case 0:
  case 1:
  case 2:
  case 3: feed(h, seq); break;
  case 4:
  case 5:
  case 6: steps(h, 1 + below(h, 30)); break;
  case 7:
  case 8: rewind_some(h, seq); break;
  case 9:
  case 10: fork_some(h, seq, below(h, N_SEQS)); break;
  default: clear(h, seq); break;
  }
  for (size_t i = 0; i < N_SEQS; i++)
    assert_int_equal(leank_session_length(h->s.session, i), lk_oracle_length(h->oracles[i]));
}

static void run_history(const lk_case *c, const lk_setup *setup, uint64_t seed) {
  history h = {.rng = {seed}};
  leank_memory memory;
  lk_subject_open(&h.s, c, setup);
  for (size_t i = 0; i < N_SEQS; i++) h.oracles[i] = lk_setup_oracle(c, setup);
  for (size_t i = 0; i < N_ACTIONS; i++) act(&h);
  for (size_t i = 0; i < N_SEQS; i++) { /* all of them full at once */
    while (lk_oracle_length(h.oracles[i]) < N_CTX) feed(&h, i);
  }
  for (size_t i = 0; i < N_SEQS; i++) clear(&h, i);
  leank_session_get_memory(h.s.session, &memory);
  assert_int_equal(memory.n_wide_pages + memory.n_lean_pages, 0);
  for (size_t i = 0; i < N_SEQS; i++) lk_oracle_close(&h.oracles[i]);
  lk_subject_close(&h.s);
}

static void test_random_histories(void **state) {
  (void)state;
  static const size_t windows[][2] = {{64, 64}, {0, 0}, {128, 1}, {64, 63}, {0, 100}, {64, 65}};
  const char *seed_text = getenv("LEANK_TEST_SEED");
  const uint64_t base = seed_text ? strtoull(seed_text, NULL, 10) : 1;
  print_message("seed %llu (LEANK_TEST_SEED)\n", (unsigned long long)base);
  for (size_t i = 0; i < 11; i++) { /* the last four in int8 */
    const lk_tiny_spec spec = lk_shape(i % LK_N_SHAPES);
    lk_case c;
    lk_case_open(&c, &spec);
    uint8_t *kept = lk_random_kept(&spec, base + i);
    const lk_setup setup = {.kept = i == 6 ? NULL : kept, /* one is dense */
                            .n_sink = windows[i % 6][0],
                            .n_recent = windows[i % 6][1],
                            .policy = i % 2 ? LEANK_POLICY_DROP : LEANK_POLICY_MEAN,
                            .mean_compensation = i % 3 == 0,
                            .kv_type = i < 7 ? LEANK_KV_F32 : LEANK_KV_Q8,
                            .n_ctx = N_CTX,
                            .n_seqs = N_SEQS,
                            .prefill_chunk = i % 2 ? 64 : 0,
                            .cpu =
                                i < 7 ? LEANK_CPU_BEST : LEANK_CPU_AVX512}; /* no bf16 products */
    run_history(&c, &setup, base * 1000 + i);
    free(kept);
    lk_case_close(&c);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_random_histories)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
