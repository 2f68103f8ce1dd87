/* Benchmarks of what a decode step spends its time on, without a model: attention over paged
 * caches, products with stored weights, and how fast the machine reads memory at all.
 *
 * Both are bound by memory, so data are laid out as decoding lays them out and are many times
 * larger than what is read at once: a call works on one copy after the other, and at least
 * rotate_bytes are read before anything is read again. Otherwise a large cache would be measured.
 *
 * Letters: T tokens in a sequence's cache, B sequences, L layers, Hq query heads, Hk kv heads, D
 * head dim, Dk kept K channels of a head. Times are seconds of a clock that only moves forward;
 * medians and minima are over the samples of a call. SPDX-License-Identifier: Apache-2.0 */
#ifndef LEANK_BENCH_H
#define LEANK_BENCH_H

#include <leank/mask.h>
#include <leank/session.h>

#ifdef __cplusplus
extern "C" {
#endif

/* How every benchmark runs. */
typedef struct leank_bench_options {
  size_t struct_size;
  size_t n_threads;    /* 0 = the processors this process may use */
  leank_cpu_level cpu; /* cap on the instruction set */
  leank_device device; /* a CUDA device reads memory and attends; products: LEANK_E_UNSUPPORTED */
  int device_index;
  size_t n_repeats;    /* passes over all copies that are timed, after one that is not; default 5 */
  size_t rotate_bytes; /* read before anything is read again; default 2 GiB */
  leank_progress_fn on_progress;   /* never while something is timed; may be NULL */
  bool (*should_stop)(void *user); /* asked now and then; true: LEANK_E_INTERRUPTED. May be NULL */
  void *user;
} leank_bench_options;

/* All processors, the best instruction set, the CPU; the rest as the fields say. */
LEANK_API void leank_bench_options_default(leank_bench_options *options);

/* ---- read bandwidth ---- */

/* A way to read memory: every thread has its own buffer and reads it as n_streams equal spans in
 * turns of some cache lines. */
typedef struct leank_bench_pattern {
  size_t n_streams;             /* on a CUDA device: blocks of a multiprocessor */
  bool prefetch;                /* software prefetch, some cache lines ahead in each stream */
  char kernel[32];              /* e.g. "read_avx512" */
  double bytes_per_second;      /* of the median pass */
  double most_bytes_per_second; /* of the fastest */
} leank_bench_pattern;

#define LEANK_BENCH_MAX_PATTERNS 32

typedef struct leank_bench_read_result {
  size_t n_bytes; /* of a pass, all threads */
  size_t n_threads;
  size_t best; /* the pattern with the fastest median */
  size_t n_patterns;
  leank_bench_pattern patterns[LEANK_BENCH_MAX_PATTERNS];
} leank_bench_read_result;

/* Reads rotate_bytes, spread over the threads' buffers (which they touch first themselves, in huge
 * pages where the system agrees), in every pattern: 1, 2, 4 and 8 streams, with prefetch and
 * without, by the widest loads of the level. A CUDA device reads its own memory, one buffer of
 * rotate_bytes, with 2 to 16 blocks a multiprocessor. LEANK_E_ARGUMENT; LEANK_E_MEMORY: more than
 * is free (the message has both numbers), or threads that cannot start; LEANK_E_INTERRUPTED. */
LEANK_API leank_status leank_bench_read(const leank_bench_options *options,
                                        leank_bench_read_result *out, leank_error *err);

/* ---- attention of a decode step ---- */

typedef struct leank_bench_shape {
  size_t struct_size;
  size_t n_layers;                      /* L; default 1 */
  size_t n_heads, n_kv_heads, head_dim; /* Hq, Hk, D */
  size_t n_tokens;                      /* T, the token of the step included */
  size_t n_seqs;                        /* B; default 1 */
  size_t n_sink, n_recent; /* of pruned caches; SIZE_MAX = the mask's, or 128 and 768 */
  leank_kv_type kv_type;
} leank_bench_shape;

/* n_layers 1, n_seqs 1, n_sink and n_recent SIZE_MAX; heads and tokens are 0: to be filled. */
LEANK_API void leank_bench_shape_default(leank_bench_shape *shape);

/* A way of storing the cache. */
typedef struct leank_bench_cache {
  const leank_mask *mask; /* its layers, policy and channels; must fit the shape */
  size_t n_kept;          /* where mask is NULL: every head keeps this many channels of K in the
                             middle, 0 .. D; LEANK_BENCH_DENSE: a dense cache, all of it whole */
} leank_bench_cache;

#define LEANK_BENCH_DENSE SIZE_MAX

/* Attention of one layer, all sequences of the step. */
typedef struct leank_bench_layer {
  size_t n_kept;               /* channels of K that its kv heads keep in the middle, summed */
  size_t n_bytes;              /* of K and V that a step reads: tokens in use, stored as they are */
  double seconds, min_seconds; /* median and least */
} leank_bench_layer;

/* All layers of a cache. */
typedef struct leank_bench_attention_result {
  size_t n_bytes;              /* of K and V that a step reads */
  double seconds, min_seconds; /* sums of the layers' medians, and of their minima */
  size_t n_samples;            /* of a layer */
  char kernel[64];             /* the variant of attention */
} leank_bench_attention_result;

/* Times the backend's attention of a decode step, layer by layer, over caches of n_tokens tokens
 * that hold random finite values: caches[n_caches] of one shape in turns, so that a drift of the
 * machine meets all of them. Layers that are alike (all but a mask's) are measured once. Fills
 * results[n_caches] and, where it is not NULL, layers[n_caches][L].
 * LEANK_E_ARGUMENT: sizes that are not possible; LEANK_E_MISMATCH: a mask of other sizes;
 * LEANK_E_MEMORY: more than is free (the message has both numbers), about rotate_bytes or the
 * largest layer, whichever is more, for each cache; LEANK_E_INTERRUPTED. */
LEANK_API leank_status leank_bench_attention(const leank_bench_options *options,
                                             const leank_bench_shape *shape,
                                             const leank_bench_cache *caches, size_t n_caches,
                                             leank_bench_attention_result *results,
                                             leank_bench_layer *layers, leank_error *err);

/* Fails where leank_bench_attention would before it allocates caches, and measures nothing. */
LEANK_API leank_status leank_bench_attention_check(const leank_bench_options *options,
                                                   const leank_bench_shape *shape,
                                                   const leank_bench_cache *caches, size_t n_caches,
                                                   leank_error *err);

/* ---- products with stored weights ---- */

/* Weight types that the loader knows, as it names them ("F32", ..., "Q6_K"); NULL behind the last.
 * Static storage. */
LEANK_API const char *leank_bench_weight_type(size_t i);

#define LEANK_BENCH_MAX_ROWS 64

typedef struct leank_bench_matrix {
  size_t struct_size;
  const char *type;   /* in either case */
  size_t n_out, n_in; /* y[n_out] = W[n_out][n_in] x[n_in]; n_in is a multiple of 256 */
} leank_bench_matrix;

/* Q4_K, 8192 x 4096. */
LEANK_API void leank_bench_matrix_default(leank_bench_matrix *matrix);

typedef struct leank_bench_matvec_result {
  size_t n_rows;               /* rows of x in one product */
  size_t n_bytes;              /* of the weights, as stored, read once a product */
  double seconds, min_seconds; /* of a product: median and least */
  size_t n_samples;
  char kernel[64];
} leank_bench_matvec_result;

/* Times products of few rows as a decode step makes them, of random matrices with n_rows[n] rows
 * (1 .. LEANK_BENCH_MAX_ROWS), the row counts in turns. Fills out[n]. LEANK_E_ARGUMENT (an unknown
 * type, too), LEANK_E_MEMORY as above, LEANK_E_INTERRUPTED. */
LEANK_API leank_status leank_bench_matvec(const leank_bench_options *options,
                                          const leank_bench_matrix *matrix, const size_t *n_rows,
                                          size_t n, leank_bench_matvec_result *out,
                                          leank_error *err);

#ifdef __cplusplus
}
#endif
#endif
