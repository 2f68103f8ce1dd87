/* A session under test beside the oracle: same tiny model, same mask, same calls. */
#ifndef LK_SUPPORT_SUBJECT_H
#define LK_SUPPORT_SUBJECT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <leank/leank.h>

#include "oracle/oracle.h"
#include "support/tiny_gguf.h"

/* ---- a tiny model, on disk, open, and in doubles ---- */

typedef struct lk_case {
  lk_tiny_spec spec;
  lk_oracle_weights weights;
  leank_model *model;
  char path[512];
} lk_case;

/* Fails the test where the model cannot be written or opened. */
void lk_case_open(lk_case *c, const lk_tiny_spec *spec);
void lk_case_close(lk_case *c);

/* Ready-made shapes: llama 4/2 heads of 32; qwen2 6/2 of 16; llama 7/1 of 64 with a hidden size
 * that is not Hq*D; qwen2 4/4 of 16; each of 2 layers and 97 tokens. */
enum { LK_N_SHAPES = 4 };
lk_tiny_spec lk_shape(size_t i);

/* ---- how a session is opened ---- */

typedef struct lk_setup {
  const uint8_t *kept; /* [L][Hk][D] half order, NULL = dense */
  size_t n_sink, n_recent;
  leank_policy policy;
  bool mean_compensation;
  leank_kv_type kv_type;
  size_t n_ctx;
  size_t n_seqs;        /* 0 = 1 */
  size_t n_threads;     /* 0 = 2 */
  size_t prefill_chunk; /* 0 = the default */
  leank_cpu_level cpu;
  leank_device device;
} lk_setup;

/* 64 sink and 64 recent tokens and an fp32 cache: what keeps most tests short. Heads that keep
 * nothing are dropped; in the second, means stand in for all that is pruned. */
lk_setup lk_small_setup(const uint8_t *kept, size_t n_ctx);
lk_setup lk_means_setup(const uint8_t *kept, size_t n_ctx);

typedef struct lk_subject {
  const lk_case *c;
  lk_setup setup;
  leank_mask *mask; /* NULL = dense; records n_sink, n_recent and policy of the setup */
  leank_session *session;
} lk_subject;

void lk_subject_open(lk_subject *s, const lk_case *c, const lk_setup *setup);
void lk_subject_close(lk_subject *s);
/* Only the mask of a setup; the caller closes it. */
leank_mask *lk_setup_mask(const lk_case *c, const lk_setup *setup);
/* The session options of a setup, without mask. */
leank_session_options lk_setup_options(const lk_setup *setup);

/* The oracle under the same setup; its cache of the setup's type. */
lk_oracle *lk_setup_oracle(const lk_case *c, const lk_setup *setup);
/* The same with a fault put in, to show that a comparison would notice it. */
lk_oracle *lk_setup_faulty(const lk_case *c, const lk_setup *setup, lk_oracle_fault fault,
                           size_t hide_begin, size_t hide_end);

/* ---- random things, by seed ---- */

/* Kept channels whose heads go through none, one, an odd number, all, half and any number. */
uint8_t *lk_random_kept(const lk_tiny_spec *spec, uint64_t seed);
uint8_t *lk_all_kept(const lk_tiny_spec *spec);
leank_token *lk_random_tokens(const lk_tiny_spec *spec, size_t n, uint64_t seed);

/* ---- a history of calls ---- */

typedef enum lk_call_kind { LK_TURN, LK_SCORE, LK_DECODE, LK_REWIND } lk_call_kind;

typedef struct lk_call {
  lk_call_kind kind;
  size_t n; /* tokens; LK_REWIND: the length to go back to */
} lk_call;

#define LK_CALLS(...)                                                                              \
  (const lk_call[]){__VA_ARGS__}, sizeof((const lk_call[]){__VA_ARGS__}) / sizeof(lk_call)

/* Rows of logits a history gives: one for each token it consumes. */
size_t lk_calls_rows(const lk_call *calls, size_t n_calls);
/* Runs the calls on one sequence, every one must succeed; tokens are consumed in order. Returns the
 * logits [rows][V], to be freed. */
float *lk_subject_run(lk_subject *s, size_t seq, const leank_token *tokens, const lk_call *calls,
                      size_t n_calls);
double *lk_oracle_run(lk_oracle *oracle, size_t n_vocab, const leank_token *tokens,
                      const lk_call *calls, size_t n_calls);
/* Opens a session, runs the calls on sequence 0 and closes it. */
float *lk_run_fresh(const lk_case *c, const lk_setup *setup, const leank_token *tokens,
                    const lk_call *calls, size_t n_calls);
double *lk_oracle_fresh(const lk_case *c, const lk_setup *setup, const leank_token *tokens,
                        const lk_call *calls, size_t n_calls);

/* ---- comparing ---- */

/* Largest |a - b| over the root mean square of b. */
double lk_error(const float *got, const double *want, size_t n);
double lk_error_f64(const double *got, const double *want, size_t n);
/* Root mean square of a - b over that of b. */
double lk_rms_error(const float *got, const double *want, size_t n);
bool lk_same_bits(const float *a, const float *b, size_t n);

/* Fails the test with the first row that is off. */
void lk_assert_close(const float *got, const double *want, size_t n_rows, size_t n_vocab,
                     double tolerance, const char *what);
void lk_assert_same(const float *got, const float *want, size_t n_rows, size_t n_vocab,
                    const char *what);
void lk_assert_differ(const double *faulty, const double *want, size_t n, double at_least,
                      const char *what);

/* fp32 throughout: 2^-24 times some hundred, for the roundings in series of 2 layers and the gain
 * of softmax and norms on the way. */
#define LK_TOLERANCE_F32 2e-5
/* bf16 cache filled by decode steps without bf16 arithmetic: K and V agree with the oracle but for
 * rare values that round the other way, one unit of 2^-8 in one channel of one key. */
#define LK_TOLERANCE_BF16_CACHE 4e-3
/* f16 likewise: one unit of 2^-11. */
#define LK_TOLERANCE_F16_CACHE 5e-4
/* int8 middle filled likewise: the rare value that rounds the other way costs a unit of 2^-7 of its
 * channel's largest. */
#define LK_TOLERANCE_INT8_CACHE 8e-3
/* Prefill in bf16: root mean square over all logits, of 2 layers with about 16 roundings of 2^-9
 * each, in quadrature, times the spread of the logits they pass through. */
#define LK_TOLERANCE_BF16_RMS 0.015

/* ---- this machine ---- */

/* The cap for sessions whose test names no level: LEANK_TEST_CPU (so that the suite can run once
 * per level), else the best. */
leank_cpu_level lk_test_cpu(void);
/* The levels this processor can run, ascending; returns how many. */
enum { LK_N_CPU_LEVELS = 5 };
size_t lk_cpu_levels(leank_cpu_level out[LK_N_CPU_LEVELS]);

/* LEANK_OK or the test fails with the message of err. */
void lk_assert_ok(leank_status status, const leank_error *err);

#endif
