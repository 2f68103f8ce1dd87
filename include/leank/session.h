/* Sessions: sequences over a model and a paged, pruned key-value cache.
 *
 * Letters: T tokens in a sequence's cache, P = 64 tokens of a page, V vocabulary, L layers, Hk kv
 * heads, D head dim. The middle of a sequence of T tokens is
 * [n_sink, n_sink + P * floor(max(0, T - n_sink - n_recent) / P)); there only the mask's channels
 * are kept. SPDX-License-Identifier: Apache-2.0 */
#ifndef LEANK_SESSION_H
#define LEANK_SESSION_H

#include <leank/mask.h>
#include <leank/model.h>
#include <leank/text.h>

#ifdef __cplusplus
extern "C" {
#endif

#define LEANK_PAGE_TOKENS 64

typedef enum leank_kv_type {
  LEANK_KV_BF16 = 0, /* the default; prefill in bf16 with fp32 accumulation */
  LEANK_KV_F32 = 1,  /* cache and prefill in fp32, for exactness tests */
  LEANK_KV_Q8 = 2,   /* as bf16, but the middle in int8: K with a scale per channel and page of 64
                        tokens, V with one per token. Heads of up to 512 channels */
  LEANK_KV_F16 = 3   /* IEEE half precision, on CUDA devices: three more bits than bf16; numbers
                        beyond +-65504 are stored as that */
} leank_kv_type;

/* What computes. A CUDA device wants a cache of bf16 or f16, heads of 64 or 128 channels and up to
 * 8 query heads a kv head: else LEANK_E_UNSUPPORTED. See leank/device.h. */
typedef enum leank_device { LEANK_DEVICE_CPU = 0, LEANK_DEVICE_CUDA = 1 } leank_device;

/* Caps the instruction set of the CPU kernels. Each level includes those before it of its
 * architecture: x86-64 up to 15, AArch64 from 16 on. A level of another architecture than the
 * library's is LEANK_E_ARGUMENT; LEANK_CPU_BEST and LEANK_CPU_C are valid on each. */
typedef enum leank_cpu_level {
  LEANK_CPU_BEST = 0, /* the highest that is supported */
  LEANK_CPU_C = 1,
  LEANK_CPU_AVX2 = 2,       /* with FMA and F16C */
  LEANK_CPU_AVX512 = 3,     /* F, BW, DQ, VL */
  LEANK_CPU_AVX512BF16 = 4, /* BF16 and VNNI */
  LEANK_CPU_AMX = 5,        /* TILE and BF16 */
  LEANK_CPU_NEON = 16,      /* baseline Advanced SIMD */
  LEANK_CPU_NEONDOT = 17,   /* FEAT_DotProd */
  LEANK_CPU_NEONBF16 = 18   /* FEAT_BF16 */
} leank_cpu_level;

/* Calls that return a status refuse NULL where they do not say that it is possible:
 * LEANK_E_ARGUMENT. All others want what they name. */

/* ---- memory plan: needs no weights ---- */

typedef struct leank_plan_options {
  size_t struct_size;
  size_t n_ctx;  /* T: tokens of each sequence */
  size_t n_seqs; /* B */
  leank_kv_type kv_type;
  size_t prefill_chunk;    /* rows computed together in prefill */
  size_t n_sink, n_recent; /* used where there is a mask; SIZE_MAX = the mask's */
  leank_device device;
} leank_plan_options;

/* Bytes of one session, on its device. All sequences are n_ctx tokens long. */
typedef struct leank_plan {
  size_t bytes_per_wide_token; /* K and V of all layers, every channel */
  size_t bytes_per_lean_token; /* K and V of all layers, kept channels, backend padding included */
  size_t n_wide_tokens, n_lean_tokens; /* of one sequence at T = n_ctx */
  size_t n_wide_pages, n_lean_pages;   /* reserved, all sequences */
  size_t wide_stored, lean_stored;     /* bytes of the tokens at T, all sequences */
  size_t wide_reserved, lean_reserved; /* bytes of the reserved pages */
  size_t dense_stored;                 /* the same tokens with a dense cache */
  size_t prefill_scratch; /* one layer's full K and V, the prompt's hidden states, wide pages of a
                             turn in flight */
  size_t turn_reserved;   /* of prefill_scratch: the pages of a turn in flight, there all along */
  size_t other_scratch;   /* activations of a chunk, partial results, logits */
  size_t weights;         /* as stored in the file, on a CUDA device as bf16; 0 for a bare config */
  double k_kept;          /* share of K channels kept in the middle */
  double v_kept;          /* share of V rows (heads) kept in the middle */
} leank_plan;

/* One sequence of 4096 tokens on the CPU, bf16, chunks of 2048 rows. */
LEANK_API void leank_plan_options_default(leank_plan_options *options);
/* mask NULL = dense. LEANK_E_ARGUMENT, LEANK_E_MISMATCH. */
LEANK_API leank_status leank_plan_make(const leank_model_info *model, const leank_mask *mask,
                                       const leank_plan_options *options, leank_plan *out,
                                       leank_error *err);

/* ---- sessions ---- */

typedef struct leank_session leank_session;

typedef struct leank_session_options {
  size_t struct_size;
  const leank_mask *mask; /* NULL = dense; must outlive the session */
  size_t n_ctx;           /* most tokens of a sequence; 0 = 4096 or the model's, the smaller */
  size_t n_seqs;          /* sequences 0 .. n_seqs - 1; default 1 */
  leank_kv_type kv_type;
  size_t n_threads; /* 0 = the processors this process may use */
  leank_cpu_level cpu;
  size_t prefill_chunk;  /* rows computed together, rounded up to the GEMM tile; default 2048 */
  size_t n_sink;         /* SIZE_MAX = the mask's (128); a multiple of 64 */
  size_t n_recent;       /* SIZE_MAX = the mask's (768) */
  int policy;            /* leank_policy, or -1 = the mask's */
  int mean_compensation; /* 0, 1, or -1 = the mask's */
  leank_device device;   /* default LEANK_DEVICE_CPU */
  int device_index;      /* of a CUDA device, as leank_cuda_devices counts */
} leank_session_options;

/* Dense, bf16, on the CPU; the rest as the fields say. */
LEANK_API void leank_session_options_default(leank_session_options *options);

/* All memory of the cache is reserved here. model and mask must outlive the session.
 * LEANK_E_ARGUMENT, _MISMATCH (mask of other sizes), _MEMORY, _UNSUPPORTED (a device that is not
 * there, or cannot do this). The caller closes *out. */
LEANK_API leank_status leank_session_open(const leank_model *model,
                                          const leank_session_options *options, leank_session **out,
                                          leank_error *err);
LEANK_API void leank_session_close(leank_session **session);

/* Per-head statistics, [L][Hk][D] in half order, sums over the rows of a call (q: also over the
 * query heads of a group). The caller allocates and zeroes the arrays; NULL arrays are skipped.
 * After a call that failed the sums are of no use. */
typedef struct leank_head_stats {
  double *k_abs;   /* sum of |k_c| */
  double *k_sq;    /* sum of k_c^2 */
  double *q_sq;    /* sum of q_c^2 */
  uint64_t n_rows; /* rows added */
} leank_head_stats;

typedef enum leank_feed_mode {
  LEANK_FEED_TURN =
      0, /* a prompt: every row sees its own prompt in full, the past as split for T0 */
  LEANK_FEED_SCORE = 1 /* teacher-forced: row t sees the cache as a decode step with T = t + 1 */
} leank_feed_mode;

typedef struct leank_feed_options {
  size_t struct_size;
  leank_feed_mode mode;
  float *logits;     /* [V] of the last row, or NULL */
  leank_token *next; /* the token of the largest of them, as leank_session_decode_greedy; or NULL */
  /* Called with the logits [n_rows][V] of rows first_row .. of this call (in order, no gaps),
   * valid during the call. May be NULL. */
  void (*on_logits)(void *user, size_t first_row, size_t n_rows, const float *logits);
  /* Called with hidden states [n_rows][hidden] after the last norm. May be NULL. */
  void (*on_hidden)(void *user, size_t first_row, size_t n_rows, const float *hidden);
  leank_head_stats *stats;       /* or NULL */
  leank_progress_fn on_progress; /* rows times layers done */
  void *user;
} leank_feed_options;

/* A turn of which nothing is wanted. */
LEANK_API void leank_feed_options_default(leank_feed_options *options);

/* Appends n_tokens to a sequence. When it fails or is interrupted, the sequence is as before.
 * n_tokens = 0 is LEANK_E_ARGUMENT; beyond n_ctx is LEANK_E_CONTEXT; a token outside the
 * vocabulary is LEANK_E_ARGUMENT. `options` may be NULL (a turn, no logits). Callbacks must not
 * call into this session, but for leank_session_interrupt. on_logits needs 64 * V floats of memory
 * that the plan does not count; its rows come from GEMM, those of `logits` from the kernels of a
 * decode step, so that they agree to rounding, not in every bit. */
LEANK_API leank_status leank_session_feed(leank_session *session, size_t seq,
                                          const leank_token *tokens, size_t n_tokens,
                                          const leank_feed_options *options, leank_error *err);

/* One decode step of n different sequences together: token i goes to sequence seqs[i], its logits
 * to logits + i * V (NULL: not wanted). Bitwise the same whatever else is in the batch. Allocates
 * nothing. When it fails, the sequences are as before. LEANK_E_ARGUMENT (n, a sequence out of range
 * or twice, a token outside the vocabulary), LEANK_E_CONTEXT. */
LEANK_API leank_status leank_session_decode(leank_session *session, size_t n, const size_t *seqs,
                                            const leank_token *tokens, float *logits,
                                            leank_error *err);

/* The same step; next[n] = the token of each row's largest logit, the lowest of equals (NaN never
 * wins; 0 where there is nothing else). The logits stay on the device. next may be `tokens`. */
LEANK_API leank_status leank_session_decode_greedy(leank_session *session, size_t n,
                                                   const size_t *seqs, const leank_token *tokens,
                                                   leank_token *next, leank_error *err);

/* For benchmarks: makes n different sequences n_tokens long, each in pages of its own, with random
 * K and V (of mean 0 and variance 1, the same each time) in the place of what they held. No layer
 * is computed; where means stand in for what is pruned, they are 0. LEANK_E_ARGUMENT, _CONTEXT,
 * _MEMORY: the sequences are empty or filled, then. */
LEANK_API leank_status leank_session_fill_random(leank_session *session, size_t n,
                                                 const size_t *seqs, size_t n_tokens,
                                                 leank_error *err);

/* Tokens in the cache of a sequence; 0 for one out of range. */
LEANK_API size_t leank_session_length(const leank_session *session, size_t seq);
/* The first position after the middle at the present length; n_sink where the middle is empty. */
LEANK_API size_t leank_session_middle_end(const leank_session *session, size_t seq);

/* Cuts a sequence to n_tokens. LEANK_E_ARGUMENT where it has fewer. LEANK_E_REWIND where the middle
 * at that length is another one. 0 always works. */
LEANK_API leank_status leank_session_rewind(leank_session *session, size_t seq, size_t n_tokens,
                                            leank_error *err);
/* Makes `to` (another sequence, which is cleared first) a copy of `from` that shares its pages. */
LEANK_API leank_status leank_session_fork(leank_session *session, size_t from, size_t to,
                                          leank_error *err);
/* Packs a sequence of another session of the same leank_model and kv_type into this one, under this
 * one's mask; `to` is cleared first. The source must hold in full what this session keeps in full,
 * and elsewhere at least the channels this session keeps: else LEANK_E_MISMATCH. A dense session
 * can always be the source, so that one dense prefill serves many masks. Both are on one device. */
LEANK_API leank_status leank_session_pack_from(leank_session *session, size_t to,
                                               const leank_session *source, size_t from,
                                               leank_error *err);

/* Asks a feed that runs in this session to stop soon. Async-signal-safe, any thread. The request
 * is dropped when the next feed starts. */
LEANK_API void leank_session_interrupt(leank_session *session);

/* What the session holds now, in bytes: tokens and pages as its page tables say, arenas as they
 * were allocated, scratch as the session's calls have needed it. */
typedef struct leank_memory {
  size_t wide_stored, lean_stored;       /* tokens in use, page kinds as they are */
  size_t n_wide_pages, n_lean_pages;     /* pages in use, shared ones once */
  size_t wide_reserved, lean_reserved;   /* arenas */
  size_t prefill_scratch, other_scratch; /* the most so far */
  size_t wide_resident, lean_resident; /* of the arenas, as the operating system counts; 0 where it
                                          does not tell */
} leank_memory;

LEANK_API void leank_session_get_memory(const leank_session *session, leank_memory *out);
/* The plan the session was opened with. */
LEANK_API const leank_plan *leank_session_get_plan(const leank_session *session);
/* Names of the kernels in use, one "op: variant" per line. Owned by the session. */
LEANK_API const char *leank_session_kernels(const leank_session *session);
/* Threads in use. */
LEANK_API size_t leank_session_threads(const leank_session *session);

#ifdef __cplusplus
}
#endif
#endif
