/* What a sequence goes through: several turns, rewinds, forks, packing from another session,
 * interruption and refused calls. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "support/subject.h"

enum { V = 97, P = LEANK_PAGE_TOKENS, MAX_TOKENS = 700 };

typedef struct fixture {
  lk_case c;
  leank_token *tokens; /* [MAX_TOKENS] */
  leank_token *others; /* [MAX_TOKENS], another text */
  uint8_t *kept;
  lk_setup setup; /* n_sink = n_recent = 64, f32, policy mean with compensation */
} fixture;

static int set_up(void **state) {
  fixture *f = calloc(1, sizeof *f);
  if (!f) return -1;
  const lk_tiny_spec spec = lk_shape(0);
  lk_case_open(&f->c, &spec);
  f->tokens = lk_random_tokens(&spec, MAX_TOKENS, 1);
  f->others = lk_random_tokens(&spec, MAX_TOKENS, 2);
  f->kept = lk_random_kept(&spec, 0);
  f->setup = lk_means_setup(f->kept, MAX_TOKENS);
  *state = f;
  return 0;
}

static int tear_down(void **state) {
  fixture *f = *state;
  lk_case_close(&f->c);
  free(f->tokens);
  free(f->others);
  free(f->kept);
  free(f);
  return 0;
}

static void check(const fixture *f, const lk_setup *setup, const char *what, const lk_call *calls,
                  size_t n_calls) {
  const size_t n_rows = lk_calls_rows(calls, n_calls);
  float *got = lk_run_fresh(&f->c, setup, f->tokens, calls, n_calls);
  double *want = lk_oracle_fresh(&f->c, setup, f->tokens, calls, n_calls);
  lk_assert_close(got, want, n_rows, V, LK_TOLERANCE_F32, what);
  free(got);
  free(want);
}

/* ---- several turns ---- */

static void test_turns_around_every_boundary(void **state) {
  fixture *f = *state;
  /* T0 = 64, 129, 192, 193, 321, 324, 325, 335, 435 */
  check(f, &f->setup, "nine calls",
        LK_CALLS({LK_TURN, 64}, {LK_TURN, 65}, {LK_TURN, 63}, {LK_TURN, 1}, {LK_TURN, 128},
                 {LK_DECODE, 3}, {LK_TURN, 1}, {LK_SCORE, 10}, {LK_TURN, 100}));
  static const size_t starts[] = {1, 63, 64, 65, 190, 191, 192, 193, 255, 256, 257};
  for (size_t i = 0; i < sizeof starts / sizeof *starts; i++) {
    char what[64];
    snprintf(what, sizeof what, "T0 = %zu", starts[i]);
    check(f, &f->setup, what,
          LK_CALLS({LK_TURN, starts[i]}, {LK_TURN, 70}, {LK_DECODE, 2}, {LK_TURN, 2}));
  }
}

static void test_many_one_token_turns(void **state) {
  fixture *f = *state;
  enum { N = 150 };
  lk_call calls[1 + N] = {{LK_TURN, 120}};
  for (size_t i = 1; i <= N; i++) calls[i] = (lk_call){LK_TURN, 1};
  check(f, &f->setup, "turns of one token", calls, 1 + N);
}

/* At T0 = 191 a turn of one token sees no middle, a decode step sees one page of it. */
static void test_turn_of_one_token_is_not_a_decode_step(void **state) {
  fixture *f = *state;
  const lk_call turn[] = {{LK_TURN, 191}, {LK_TURN, 1}},
                decode[] = {{LK_TURN, 191}, {LK_DECODE, 1}};
  check(f, &f->setup, "turn of one", turn, 2);
  check(f, &f->setup, "decode of one", decode, 2);
  double *a = lk_oracle_fresh(&f->c, &f->setup, f->tokens, turn, 2);
  double *b = lk_oracle_fresh(&f->c, &f->setup, f->tokens, decode, 2);
  lk_assert_differ(a + 191 * V, b + 191 * V, V, 100 * LK_TOLERANCE_F32, "turn and decode");
  free(a);
  free(b);
}

static void test_length_and_middle_end(void **state) {
  fixture *f = *state;
  lk_subject s;
  lk_subject_open(&s, &f->c, &f->setup);
  lk_oracle *oracle = lk_setup_oracle(&f->c, &f->setup);
  assert_int_equal(leank_session_length(s.session, 0), 0);
  assert_int_equal(leank_session_length(s.session, 1), 0); /* out of range */
  assert_int_equal(leank_session_middle_end(s.session, 0), 64);
  size_t n = 0;
  for (size_t i = 0; i < 90; i++) {
    const lk_call call = {i % 3 == 0 ? LK_TURN : i % 3 == 1 ? LK_DECODE : LK_SCORE, 1 + i % 7};
    float *logits = lk_subject_run(&s, 0, f->tokens, &call, 1);
    free(logits);
    n += call.n;
    assert_int_equal(leank_session_length(s.session, 0), n);
    assert_int_equal(leank_session_middle_end(s.session, 0), lk_oracle_middle_end(oracle, n));
  }
  lk_oracle_close(&oracle);
  lk_subject_close(&s);
}

/* ---- rewind ---- */

/* turn 200, then `further`, then back to 200, then decode and turn: as if never gone further. */
static void check_rewind(const fixture *f, const lk_setup *setup, lk_call further) {
  lk_subject s;
  lk_subject_open(&s, &f->c, setup);
  float *first = lk_subject_run(&s, 0, f->tokens, LK_CALLS({LK_TURN, 200}, further));
  float *again =
      lk_subject_run(&s, 0, f->others, LK_CALLS({LK_REWIND, 200}, {LK_DECODE, 80}, {LK_TURN, 70}));
  float *never = lk_run_fresh(&f->c, setup, f->tokens, LK_CALLS({LK_TURN, 200}));
  lk_assert_same(first, never, 200, V, "before");
  free(never);
  lk_subject fresh;
  lk_subject_open(&fresh, &f->c, setup);
  free(lk_subject_run(&fresh, 0, f->tokens, LK_CALLS({LK_TURN, 200})));
  never = lk_subject_run(&fresh, 0, f->others, LK_CALLS({LK_DECODE, 80}, {LK_TURN, 70}));
  lk_assert_same(again, never, 150, V, "after a rewind");
  lk_subject_close(&fresh);
  lk_subject_close(&s);
  free(first);
  free(again);
  free(never);
}

static void test_rewind_leaves_no_trace(void **state) {
  fixture *f = *state;
  lk_setup bf16 = f->setup, q8 = f->setup;
  bf16.kv_type = LEANK_KV_BF16;
  q8.kv_type = LEANK_KV_Q8;
  /* The middle is [64, 128) from 192 to 255 tokens. */
  const lk_call further[] = {{LK_DECODE, 1}, {LK_DECODE, 55}, {LK_TURN, 55}, {LK_SCORE, 30}};
  for (size_t i = 0; i < 4; i++) {
    check_rewind(f, &f->setup, further[i]);
    check_rewind(f, &bf16, further[i]);
    check_rewind(f, &q8, further[i]);
  }
}

static void test_rewind_within_a_turn_and_to_the_same_length(void **state) {
  fixture *f = *state;
  lk_subject s;
  lk_subject_open(&s, &f->c, &f->setup);
  float *a = lk_subject_run(&s, 0, f->tokens,
                            LK_CALLS({LK_TURN, 250}, {LK_REWIND, 250}, {LK_REWIND, 192}));
  float *b = lk_subject_run(&s, 0, f->others, LK_CALLS({LK_DECODE, 90}));
  lk_subject fresh;
  lk_subject_open(&fresh, &f->c, &f->setup);
  float *c = lk_subject_run(&fresh, 0, f->tokens, LK_CALLS({LK_TURN, 192}));
  float *d = lk_subject_run(&fresh, 0, f->others, LK_CALLS({LK_DECODE, 90}));
  lk_assert_same(a, c, 192, V, "turn of 250 and of 192");
  lk_assert_same(b, d, 90, V, "after");
  lk_subject_close(&fresh);
  lk_subject_close(&s);
  free(a);
  free(b);
  free(c);
  free(d);
}

static void assert_rewind_refused(lk_subject *s, size_t n_tokens, leank_status expected) {
  const size_t before = leank_session_length(s->session, 0);
  leank_error err = {0};
  assert_int_equal(leank_session_rewind(s->session, 0, n_tokens, &err), expected);
  assert_int_equal(err.code, expected);
  assert_true(err.message[0] != 0);
  assert_int_equal(leank_session_length(s->session, 0), before);
}

static void test_rewind_into_the_middle_is_refused(void **state) {
  fixture *f = *state;
  lk_subject s, fresh;
  lk_subject_open(&s, &f->c, &f->setup);
  lk_subject_open(&fresh, &f->c, &f->setup);
  free(lk_subject_run(&s, 0, f->tokens, LK_CALLS({LK_TURN, 250}, {LK_DECODE, 10})));
  free(lk_subject_run(&fresh, 0, f->tokens, LK_CALLS({LK_TURN, 250}, {LK_DECODE, 10})));
  static const size_t refused[] = {255, 254, 192, 191, 128, 64, 63, 1}; /* middle: [64, 192) */
  for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
    assert_rewind_refused(&s, refused[i], LEANK_E_REWIND);
  assert_rewind_refused(&s, 261, LEANK_E_ARGUMENT); /* longer than it is */
  float *a = lk_subject_run(&s, 0, f->others, LK_CALLS({LK_DECODE, 70}));
  float *b = lk_subject_run(&fresh, 0, f->others, LK_CALLS({LK_DECODE, 70}));
  lk_assert_same(a, b, 70, V, "after refused rewinds");
  free(a);
  free(b);
  /* 0 always works, and starts anew. */
  a = lk_subject_run(&s, 0, f->tokens, LK_CALLS({LK_REWIND, 0}, {LK_TURN, 250}, {LK_DECODE, 10}));
  b = lk_run_fresh(&f->c, &f->setup, f->tokens, LK_CALLS({LK_TURN, 250}, {LK_DECODE, 10}));
  lk_assert_same(a, b, 260, V, "after a rewind to 0");
  free(a);
  free(b);
  lk_subject_close(&s);
  lk_subject_close(&fresh);
}

static void test_rewind_is_free_where_there_is_no_middle(void **state) {
  fixture *f = *state;
  lk_setup dense = f->setup;
  dense.kept = NULL;
  const lk_setup *setups[] = {&f->setup, &dense};
  for (size_t i = 0; i < 2; i++) {
    const size_t n = i == 0 ? 191 : 400;
    lk_subject s, fresh;
    lk_subject_open(&s, &f->c, setups[i]);
    lk_subject_open(&fresh, &f->c, setups[i]);
    free(lk_subject_run(&s, 0, f->tokens, LK_CALLS({LK_TURN, n})));
    free(lk_subject_run(&fresh, 0, f->tokens, LK_CALLS({LK_TURN, 3})));
    float *a = lk_subject_run(&s, 0, f->others, LK_CALLS({LK_REWIND, 3}, {LK_TURN, 200}));
    float *b = lk_subject_run(&fresh, 0, f->others, LK_CALLS({LK_TURN, 200}));
    lk_assert_same(a, b, 200, V, "rewound to 3");
    free(a);
    free(b);
    lk_subject_close(&s);
    lk_subject_close(&fresh);
  }
}

/* ---- fork ---- */

static void fork_sequence(lk_subject *s, size_t from, size_t to) {
  leank_error err = {0};
  lk_assert_ok(leank_session_fork(s->session, from, to, &err), &err);
  assert_int_equal(leank_session_length(s->session, to), leank_session_length(s->session, from));
  assert_int_equal(leank_session_middle_end(s->session, to),
                   leank_session_middle_end(s->session, from));
}

/* Logits of `calls` over `others` after a turn of n of `tokens`, in a session of its own. */
static float *alone(const fixture *f, const lk_setup *setup, size_t n, const leank_token *others,
                    const lk_call *calls, size_t n_calls) {
  lk_subject s;
  lk_subject_open(&s, &f->c, setup);
  free(lk_subject_run(&s, 0, f->tokens, LK_CALLS({LK_TURN, n})));
  float *logits = lk_subject_run(&s, 0, others, calls, n_calls);
  lk_subject_close(&s);
  return logits;
}

static void check_fork(const fixture *f, const lk_setup *base, size_t n) {
  const lk_call on[] = {{LK_DECODE, 70}, {LK_TURN, 66}, {LK_SCORE, 5}};
  lk_setup setup = *base;
  setup.n_seqs = 3;
  lk_subject s;
  lk_subject_open(&s, &f->c, &setup);
  free(lk_subject_run(&s, 0, f->tokens, LK_CALLS({LK_TURN, n})));
  free(lk_subject_run(&s, 2, f->others, LK_CALLS({LK_TURN, 90}))); /* is cleared by the fork */
  fork_sequence(&s, 0, 2);
  float *a = lk_subject_run(&s, 0, f->tokens + n, on, 3);
  float *b = lk_subject_run(&s, 2, f->others, on, 3);
  float *a_alone = alone(f, base, n, f->tokens + n, on, 3);
  float *b_alone = alone(f, base, n, f->others, on, 3);
  lk_assert_same(a, a_alone, 141, V, "the forked sequence");
  lk_assert_same(b, b_alone, 141, V, "its fork");
  lk_subject_close(&s);
  free(a);
  free(b);
  free(a_alone);
  free(b_alone);
}

static void test_forks_go_on_independently(void **state) {
  fixture *f = *state;
  static const size_t lengths[] = {1, 64, 100, 191, 192, 230, 256, 300};
  lk_setup bf16 = f->setup, dense = f->setup, q8 = f->setup;
  bf16.kv_type = LEANK_KV_BF16;
  q8.kv_type = LEANK_KV_Q8;
  dense.kept = NULL;
  for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
    check_fork(f, &f->setup, lengths[i]);
    check_fork(f, i % 2 ? &bf16 : &dense, lengths[i]);
    check_fork(f, &q8, lengths[i]);
  }
}

/* Both write the page that they share, step by step in turn. */
static void test_forks_step_side_by_side(void **state) {
  fixture *f = *state;
  enum { N = 100, ON = 40 };
  lk_setup setup = f->setup;
  setup.n_seqs = 2;
  lk_subject s;
  lk_subject_open(&s, &f->c, &setup);
  free(lk_subject_run(&s, 0, f->tokens, LK_CALLS({LK_TURN, N})));
  fork_sequence(&s, 0, 1);
  const leank_token *texts[] = {f->tokens + N, f->others};
  float *want[2];
  for (size_t i = 0; i < 2; i++)
    want[i] = alone(f, &f->setup, N, texts[i], LK_CALLS({LK_DECODE, ON}));
  for (size_t step = 0; step < ON; step++)
    for (size_t i = 0; i < 2; i++) {
      float *got = lk_subject_run(&s, i, texts[i] + step, LK_CALLS({LK_DECODE, 1}));
      lk_assert_same(got, want[i] + step * V, 1, V, i ? "the fork" : "the forked sequence");
      free(got);
    }
  for (size_t i = 0; i < 2; i++) free(want[i]);
  lk_subject_close(&s);
}

static void test_fork_shares_pages(void **state) {
  fixture *f = *state;
  lk_setup setup = f->setup;
  setup.n_seqs = 4;
  lk_subject s;
  lk_subject_open(&s, &f->c, &setup);
  free(lk_subject_run(&s, 0, f->tokens, LK_CALLS({LK_TURN, 350})));
  leank_memory one, four;
  leank_session_get_memory(s.session, &one);
  for (size_t i = 1; i < 4; i++) fork_sequence(&s, i - 1, i);
  leank_session_get_memory(s.session, &four);
  assert_int_equal(one.n_lean_pages, 3); /* [64, 256) */
  assert_int_equal(four.n_lean_pages, one.n_lean_pages);
  /* A partly filled last page may be copied at once; whole pages never. */
  assert_in_range(four.n_wide_pages, one.n_wide_pages, one.n_wide_pages + 3);
  lk_subject_close(&s);
}

/* A rewound sequence writes where its fork still reads. */
static void test_fork_survives_a_rewind_of_the_other(void **state) {
  fixture *f = *state;
  lk_setup setup = f->setup;
  setup.n_seqs = 2;
  lk_subject s;
  lk_subject_open(&s, &f->c, &setup);
  free(lk_subject_run(&s, 0, f->tokens, LK_CALLS({LK_TURN, 250})));
  fork_sequence(&s, 0, 1);
  float *a = lk_subject_run(&s, 0, f->others, LK_CALLS({LK_REWIND, 200}, {LK_TURN, 90}));
  float *b = lk_subject_run(&s, 1, f->tokens + 250, LK_CALLS({LK_DECODE, 60}));
  float *b_alone = alone(f, &f->setup, 250, f->tokens + 250, LK_CALLS({LK_DECODE, 60}));
  float *a_alone = alone(f, &f->setup, 200, f->others, LK_CALLS({LK_TURN, 90}));
  lk_assert_same(b, b_alone, 60, V, "the fork");
  lk_assert_same(a, a_alone, 90, V, "the rewound one");
  /* Clearing one leaves the other. */
  free(lk_subject_run(&s, 0, f->others, LK_CALLS({LK_REWIND, 0}, {LK_TURN, 300})));
  float *b_more = lk_subject_run(&s, 1, f->others, LK_CALLS({LK_DECODE, 3}));
  free(b_more);
  lk_subject_close(&s);
  free(a);
  free(b);
  free(a_alone);
  free(b_alone);
}

static void test_fork_of_nothing_and_out_of_range(void **state) {
  fixture *f = *state;
  lk_setup setup = f->setup;
  setup.n_seqs = 2;
  lk_subject s;
  lk_subject_open(&s, &f->c, &setup);
  free(lk_subject_run(&s, 1, f->tokens, LK_CALLS({LK_TURN, 300})));
  leank_error err = {0};
  assert_int_equal(leank_session_fork(s.session, 1, 2, &err), LEANK_E_ARGUMENT);
  assert_int_equal(leank_session_fork(s.session, 2, 1, &err), LEANK_E_ARGUMENT);
  leank_session_fork(s.session, 1, 1, &err); /* whatever it answers, nothing is lost */
  assert_int_equal(leank_session_length(s.session, 1), 300);
  float *a = lk_subject_run(&s, 1, f->others, LK_CALLS({LK_DECODE, 30}));
  float *b = alone(f, &f->setup, 300, f->others, LK_CALLS({LK_DECODE, 30}));
  lk_assert_same(a, b, 30, V, "after refused forks");
  fork_sequence(&s, 0, 1); /* an empty sequence */
  assert_int_equal(leank_session_length(s.session, 1), 0);
  free(a);
  free(b);
  lk_subject_close(&s);
}

/* ---- packing a dense prefill under a mask ---- */

static void pack(lk_subject *to, size_t to_seq, const lk_subject *from, size_t from_seq) {
  leank_error err = {0};
  lk_assert_ok(leank_session_pack_from(to->session, to_seq, from->session, from_seq, &err), &err);
  assert_int_equal(leank_session_length(to->session, to_seq),
                   leank_session_length(from->session, from_seq));
}

static void test_one_dense_prefill_serves_many_masks(void **state) {
  fixture *f = *state;
  static const size_t lengths[] = {1, 64, 191, 192, 300};
  const lk_call on[] = {{LK_DECODE, 20}, {LK_TURN, 70}, {LK_SCORE, 40}, {LK_DECODE, 5}};
  for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
    for (size_t t = 0; t < 3; t++) {
      static const leank_kv_type types[] = {LEANK_KV_F32, LEANK_KV_BF16, LEANK_KV_Q8};
      lk_setup dense = f->setup;
      dense.kept = NULL;
      dense.kv_type = types[t];
      lk_subject source;
      lk_subject_open(&source, &f->c, &dense);
      free(lk_subject_run(&source, 0, f->tokens, LK_CALLS({LK_TURN, lengths[i]})));
      for (uint64_t seed = 0; seed < 3; seed++) {
        uint8_t *kept = lk_random_kept(&f->c.spec, seed);
        lk_setup lean = dense;
        lean.kept = kept;
        lean.policy = seed == 1 ? LEANK_POLICY_DROP : LEANK_POLICY_MEAN;
        lean.mean_compensation = seed != 1;
        lean.n_recent = seed == 2 ? 100 : 64;
        lk_subject packed;
        lk_subject_open(&packed, &f->c, &lean);
        free(lk_subject_run(&packed, 0, f->others, LK_CALLS({LK_TURN, 200}))); /* is cleared */
        pack(&packed, 0, &source, 0);
        float *got = lk_subject_run(&packed, 0, f->others, on, 4);
        float *want = alone(f, &lean, lengths[i], f->others, on, 4);
        lk_assert_same(got, want, 135, V, "packed from a dense turn");
        lk_subject_close(&packed);
        free(got);
        free(want);
        free(kept);
      }
      lk_subject_close(&source);
    }
}

/* A source decoded under a mask, packed under a mask that keeps less: its K and V are kept. */
static void test_packing_from_a_mask_that_keeps_more(void **state) {
  fixture *f = *state;
  const size_t d = f->c.spec.head_dim, n = f->c.spec.n_layers * f->c.spec.n_kv_heads * d;
  uint8_t *more = calloc(n, 1), *less = calloc(n, 1);
  assert_non_null(more);
  assert_non_null(less);
  for (size_t i = 0; i < n; i++) {
    more[i] = i % 3 != 0;
    less[i] = i % 3 == 1 && i / d != 1; /* the second head keeps nothing */
  }
  lk_setup rich = f->setup, poor = f->setup;
  rich.kept = more;
  poor.kept = less;
  rich.policy = poor.policy = LEANK_POLICY_DROP;
  rich.mean_compensation = poor.mean_compensation = false;
  const lk_call first[] = {{LK_TURN, 200}, {LK_DECODE, 100}},
                on[] = {{LK_DECODE, 40}, {LK_TURN, 9}};
  lk_subject from, to;
  lk_subject_open(&from, &f->c, &rich);
  lk_subject_open(&to, &f->c, &poor);
  free(lk_subject_run(&from, 0, f->tokens, first, 2));
  pack(&to, 0, &from, 0);
  float *got = lk_subject_run(&to, 0, f->others, on, 2);
  lk_oracle *a = lk_setup_oracle(&f->c, &rich), *b = lk_setup_oracle(&f->c, &poor);
  free(lk_oracle_run(a, V, f->tokens, first, 2));
  lk_oracle_copy(b, a);
  double *want = lk_oracle_run(b, V, f->others, on, 2);
  lk_assert_close(got, want, 49, V, LK_TOLERANCE_F32, "packed from a richer mask");
  leank_error err = {0};
  assert_int_equal(leank_session_pack_from(from.session, 0, to.session, 0, &err),
                   LEANK_E_MISMATCH); /* the way back lacks channels */
  assert_true(err.message[0] != 0);
  lk_oracle_close(&a);
  lk_oracle_close(&b);
  lk_subject_close(&from);
  lk_subject_close(&to);
  free(got);
  free(want);
  free(more);
  free(less);
}

static void check_pack_status(const fixture *f, const lk_case *c_to, const lk_setup *from_setup,
                              const lk_setup *to_setup, leank_status expected) {
  lk_subject from, to;
  lk_subject_open(&from, &f->c, from_setup);
  lk_subject_open(&to, c_to, to_setup);
  free(lk_subject_run(&from, 0, f->tokens, LK_CALLS({LK_TURN, 300})));
  leank_error err = {0};
  assert_int_equal(leank_session_pack_from(to.session, 0, from.session, 0, &err), expected);
  assert_int_equal(err.code, expected);
  lk_subject_close(&from);
  lk_subject_close(&to);
}

static void test_packing_between_unlike_sessions_is_refused(void **state) {
  fixture *f = *state;
  lk_setup dense = f->setup, bf16 = f->setup, wide = f->setup, small = f->setup, sink = f->setup;
  dense.kept = NULL;
  bf16.kv_type = LEANK_KV_BF16;
  wide.n_recent = 128; /* keeps in full what f->setup has pruned */
  sink.n_sink = 128;
  small.n_ctx = 256;
  check_pack_status(f, &f->c, &dense, &bf16, LEANK_E_MISMATCH);
  check_pack_status(f, &f->c, &f->setup, &wide, LEANK_E_MISMATCH);
  check_pack_status(f, &f->c, &f->setup, &sink, LEANK_E_MISMATCH);
  check_pack_status(f, &f->c, &f->setup, &dense, LEANK_E_MISMATCH);
  check_pack_status(f, &f->c, &dense, &small, LEANK_E_CONTEXT);
  lk_tiny_spec spec = f->c.spec;
  spec.seed = 77; /* same sizes, other weights */
  lk_case other;
  lk_case_open(&other, &spec);
  check_pack_status(f, &other, &dense, &f->setup, LEANK_E_MISMATCH);
  lk_case_close(&other);
}

/* ---- interruption ---- */

typedef struct interrupter {
  leank_session *session;
  size_t n_calls, stop_at; /* interrupts in call stop_at, counted from 1; 0 = never */
} interrupter;

static void on_progress(void *user, uint64_t done, uint64_t total) {
  interrupter *i = user;
  assert_true(done <= total);
  if (++i->n_calls == i->stop_at) leank_session_interrupt(i->session);
}

static leank_status feed_interrupted(lk_subject *s, const leank_token *tokens, size_t n,
                                     leank_feed_mode mode, interrupter *i) {
  leank_feed_options options;
  leank_error err = {0};
  leank_feed_options_default(&options);
  options.mode = mode;
  options.on_progress = on_progress;
  options.user = i;
  i->session = s->session;
  i->n_calls = 0;
  return leank_session_feed(s->session, 0, tokens, n, &options, &err);
}

static void check_interrupts(const fixture *f, leank_feed_mode mode, size_t n_before) {
  lk_setup setup = f->setup;
  setup.prefill_chunk = 64;
  lk_subject s;
  lk_subject_open(&s, &f->c, &setup);
  if (n_before) free(lk_subject_run(&s, 0, f->tokens, LK_CALLS({LK_TURN, n_before})));
  leank_memory before, after;
  leank_session_get_memory(s.session, &before);
  size_t n_interrupted = 0;
  interrupter i = {0};
  for (i.stop_at = 1;; i.stop_at++) {
    const leank_status status = feed_interrupted(&s, f->others, 300, mode, &i);
    if (status == LEANK_OK) break; /* was through before it could notice */
    assert_int_equal(status, LEANK_E_INTERRUPTED);
    n_interrupted++;
    assert_int_equal(leank_session_length(s.session, 0), n_before);
    leank_session_get_memory(s.session, &after);
    assert_int_equal(after.n_wide_pages, before.n_wide_pages);
    assert_int_equal(after.n_lean_pages, before.n_lean_pages);
  }
  assert_true(i.stop_at >= i.n_calls); /* only the last report may come too late */
  assert_true(n_interrupted >= 4);     /* 2 layers of several chunks */
  const lk_call on[] = {{LK_DECODE, 20}, {LK_TURN, 40}};
  float *a = lk_subject_run(&s, 0, f->tokens, on, 2);
  lk_subject fresh;
  lk_subject_open(&fresh, &f->c, &setup);
  if (n_before) free(lk_subject_run(&fresh, 0, f->tokens, LK_CALLS({LK_TURN, n_before})));
  const lk_call fed = {mode == LEANK_FEED_TURN ? LK_TURN : LK_SCORE, 300};
  free(lk_subject_run(&fresh, 0, f->others, &fed, 1));
  float *b = lk_subject_run(&fresh, 0, f->tokens, on, 2);
  lk_assert_same(a, b, 60, V, "after interrupted feeds");
  lk_subject_close(&s);
  lk_subject_close(&fresh);
  free(a);
  free(b);
}

static void test_interrupted_feeds_leave_the_sequence(void **state) {
  fixture *f = *state;
  check_interrupts(f, LEANK_FEED_TURN, 0);
  check_interrupts(f, LEANK_FEED_TURN, 130);
  check_interrupts(f, LEANK_FEED_TURN, 230);
  check_interrupts(f, LEANK_FEED_SCORE, 0);
  check_interrupts(f, LEANK_FEED_SCORE, 230);
}

static void test_an_interrupt_between_feeds_is_dropped(void **state) {
  fixture *f = *state;
  lk_subject s;
  lk_subject_open(&s, &f->c, &f->setup);
  leank_session_interrupt(s.session);
  free(lk_subject_run(&s, 0, f->tokens, LK_CALLS({LK_TURN, 100}, {LK_DECODE, 1})));
  leank_session_interrupt(s.session);
  free(lk_subject_run(&s, 0, f->tokens, LK_CALLS({LK_DECODE, 1}, {LK_SCORE, 30})));
  assert_int_equal(leank_session_length(s.session, 0), 132);
  lk_subject_close(&s);
}

/* ---- refused calls ---- */

static void assert_feed_refused(lk_subject *s, size_t seq, const leank_token *tokens, size_t n,
                                leank_feed_mode mode, leank_status expected) {
  const size_t before = leank_session_length(s->session, seq);
  float logits[V];
  leank_feed_options options;
  leank_error err = {0};
  leank_feed_options_default(&options);
  options.mode = mode;
  options.logits = logits;
  assert_int_equal(leank_session_feed(s->session, seq, tokens, n, &options, &err), expected);
  assert_int_equal(err.code, expected);
  assert_true(err.message[0] != 0);
  assert_int_equal(leank_session_length(s->session, seq), before);
}

static void refuse_feeds(lk_subject *s, const leank_token *tokens, size_t room) {
  leank_token bad[5] = {1, 2, 3, 4, 5};
  const size_t n_bad = room < 5 ? room : 5;
  for (leank_feed_mode mode = LEANK_FEED_TURN; mode <= LEANK_FEED_SCORE; mode++) {
    assert_feed_refused(s, 0, tokens, room + 1, mode, LEANK_E_CONTEXT);
    assert_feed_refused(s, 0, tokens, 0, mode, LEANK_E_ARGUMENT);
    assert_feed_refused(s, 1, tokens, 1, mode, LEANK_E_ARGUMENT);
    for (size_t i = 0; i < n_bad; i += 2) {
      const leank_token was = bad[i];
      bad[i] = V;
      assert_feed_refused(s, 0, bad, n_bad, mode, LEANK_E_ARGUMENT);
      bad[i] = -1;
      assert_feed_refused(s, 0, bad, n_bad, mode, LEANK_E_ARGUMENT);
      bad[i] = was;
    }
  }
}

static void refuse_decodes(lk_subject *s) {
  float logits[2 * V];
  const size_t seqs[] = {0, 0}, out_of_range[] = {1};
  const leank_token tokens[] = {1, 2}, bad[] = {V}, negative[] = {-1};
  leank_error err = {0};
  const size_t before = leank_session_length(s->session, 0);
  assert_int_equal(leank_session_decode(s->session, 2, seqs, tokens, logits, &err),
                   LEANK_E_ARGUMENT); /* one sequence twice */
  assert_int_equal(leank_session_decode(s->session, 1, seqs, bad, logits, &err), LEANK_E_ARGUMENT);
  assert_int_equal(leank_session_decode(s->session, 1, seqs, negative, logits, &err),
                   LEANK_E_ARGUMENT);
  assert_int_equal(leank_session_decode(s->session, 1, out_of_range, tokens, logits, &err),
                   LEANK_E_ARGUMENT);
  assert_int_equal(leank_session_length(s->session, 0), before);
}

static void test_refused_calls_leave_the_sequence(void **state) {
  fixture *f = *state;
  static const size_t lengths[] = {0, 100, 191, 255, 299};
  for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
    const size_t n = lengths[i];
    lk_setup setup = f->setup;
    setup.n_ctx = 300;
    lk_subject s, fresh;
    lk_subject_open(&s, &f->c, &setup);
    lk_subject_open(&fresh, &f->c, &setup);
    if (n) free(lk_subject_run(&s, 0, f->tokens, LK_CALLS({LK_TURN, n})));
    if (n) free(lk_subject_run(&fresh, 0, f->tokens, LK_CALLS({LK_TURN, n})));
    refuse_feeds(&s, f->others, 300 - n);
    refuse_decodes(&s);
    /* The last free token fits exactly. */
    const size_t room = 300 - n, half = room / 2;
    float *a, *b;
    if (half) {
      a = lk_subject_run(&s, 0, f->others, LK_CALLS({LK_DECODE, half}, {LK_TURN, room - half}));
      b = lk_subject_run(&fresh, 0, f->others, LK_CALLS({LK_DECODE, half}, {LK_TURN, room - half}));
    } else {
      a = lk_subject_run(&s, 0, f->others, LK_CALLS({LK_DECODE, room}));
      b = lk_subject_run(&fresh, 0, f->others, LK_CALLS({LK_DECODE, room}));
    }
    lk_assert_same(a, b, room, V, "after refused calls");
    const size_t seq = 0;
    float logits[V];
    leank_error err = {0};
    assert_int_equal(leank_session_decode(s.session, 1, &seq, f->tokens, logits, &err),
                     LEANK_E_CONTEXT);
    assert_feed_refused(&s, 0, f->tokens, 1, LEANK_FEED_TURN, LEANK_E_CONTEXT);
    free(a);
    free(b);
    lk_subject_close(&s);
    lk_subject_close(&fresh);
  }
}

/* One bad member refuses the whole batch and moves nobody. */
static void test_refused_batch_moves_no_sequence(void **state) {
  fixture *f = *state;
  lk_setup setup = f->setup;
  setup.n_seqs = 2;
  setup.n_ctx = 256;
  lk_subject s;
  lk_subject_open(&s, &f->c, &setup);
  free(lk_subject_run(&s, 0, f->tokens, LK_CALLS({LK_TURN, 255})));
  free(lk_subject_run(&s, 1, f->tokens, LK_CALLS({LK_TURN, 256})));
  const size_t seqs[] = {0, 1};
  const leank_token next[] = {f->tokens[255], 1};
  float logits[2 * V];
  leank_error err = {0};
  assert_int_equal(leank_session_decode(s.session, 2, seqs, next, logits, &err), LEANK_E_CONTEXT);
  assert_int_equal(leank_session_length(s.session, 0), 255);
  float *a = lk_subject_run(&s, 0, f->tokens + 255, LK_CALLS({LK_DECODE, 1}));
  float *b = alone(f, &f->setup, 255, f->tokens + 255, LK_CALLS({LK_DECODE, 1}));
  lk_assert_same(a, b, 1, V, "after a refused batch");
  free(a);
  free(b);
  lk_subject_close(&s);
}

static void test_default_options_feed_a_turn(void **state) {
  fixture *f = *state;
  lk_subject s;
  lk_subject_open(&s, &f->c, &f->setup);
  leank_error err = {0};
  lk_assert_ok(leank_session_feed(s.session, 0, f->tokens, 200, NULL, &err), &err);
  float *a = lk_subject_run(&s, 0, f->others, LK_CALLS({LK_DECODE, 2}));
  float *b = alone(f, &f->setup, 200, f->others, LK_CALLS({LK_DECODE, 2}));
  lk_assert_same(a, b, 2, V, "fed with no options");
  free(a);
  free(b);
  lk_subject_close(&s);
}

#define TURNS_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
  const struct CMUnitTest tests[] = {
      TURNS_TEST(test_turns_around_every_boundary),
      TURNS_TEST(test_many_one_token_turns),
      TURNS_TEST(test_turn_of_one_token_is_not_a_decode_step),
      TURNS_TEST(test_length_and_middle_end),
      TURNS_TEST(test_rewind_leaves_no_trace),
      TURNS_TEST(test_rewind_within_a_turn_and_to_the_same_length),
      TURNS_TEST(test_rewind_into_the_middle_is_refused),
      TURNS_TEST(test_rewind_is_free_where_there_is_no_middle),
      TURNS_TEST(test_forks_go_on_independently),
      TURNS_TEST(test_forks_step_side_by_side),
      TURNS_TEST(test_fork_shares_pages),
      TURNS_TEST(test_fork_survives_a_rewind_of_the_other),
      TURNS_TEST(test_fork_of_nothing_and_out_of_range),
      TURNS_TEST(test_one_dense_prefill_serves_many_masks),
      TURNS_TEST(test_packing_from_a_mask_that_keeps_more),
      TURNS_TEST(test_packing_between_unlike_sessions_is_refused),
      TURNS_TEST(test_interrupted_feeds_leave_the_sequence),
      TURNS_TEST(test_an_interrupt_between_feeds_is_dropped),
      TURNS_TEST(test_refused_calls_leave_the_sequence),
      TURNS_TEST(test_refused_batch_moves_no_sequence),
      TURNS_TEST(test_default_options_feed_a_turn),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
