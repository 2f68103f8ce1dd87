/* What the CUDA library offers: a table of functions, found at run time (lk_cuda_api_get), so that
 * a program built with CUDA starts without a driver. Plain C; nothing of CUDA's own headers is
 * seen.
 *
 * Letters as in backend.h. "Device memory" is memory of alloc. Every launch goes to the one stream
 * of the lk_cuda_device, in the order of the calls, and returns at once; a failure of a launch or
 * of the device is kept and told by `check` (and by whatever waits: download, sync), once.
 *
 * Elements of pages are 16-bit: bf16, or f16 (then numbers beyond +-65504 are stored as that). A
 * head's segment in a page is K [P][n] then V [P][D], rows
 * of tokens, n = D in wide and stage pages, Dk padded to a multiple of 16 in lean ones (absent
 * where Dk is 0). Heads' segments lie one after another, of wide pages at h * P * 2 D elements. In
 * a row of n elements the 16-byte chunks are permuted so that 8 rows at one chunk meet 8 different
 * groups of banks: see lk_cuda_swizzle. */
#ifndef LK_CUDA_CUDA_API_H
#define LK_CUDA_CUDA_API_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <leank/status.h>

#include "backend/page_view.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
  LK_CUDA_API_VERSION = 5,
  LK_CUDA_P = 64,            /* tokens of a page */
  LK_CUDA_GRANULE = 16,      /* kept channels are padded to a multiple of this */
  LK_CUDA_MAX_GROUP = 8,     /* query heads of a kv head */
  LK_CUDA_PARTIAL_TAIL = 32, /* floats of a chunk's partial besides its values */
  LK_CUDA_CHUNK_PAGES = 8,   /* least pages of an attention chunk, by position */
  LK_CUDA_FEW_ROWS = 16,     /* rows that linear_few multiplies at a time */
  LK_CUDA_DOZENS_ROWS = 64,  /* most rows of linear_many's own kernels */
  LK_CUDA_MARKS = 256
};

/* Bytes of which every segment is a multiple. What the groups of a decode see, a shared page for
 * each of them, is less than 2^32 of them, were all pages wide. */
enum { LK_CUDA_UNIT = LK_CUDA_P * 2 * LK_CUDA_GRANULE };

/* Where chunk c (8 elements, 16 bytes) of row `token` lies in a row of n_chunks (even) chunks. */
static inline
#ifdef __CUDACC__
    __host__ __device__
#endif
        uint32_t
        lk_cuda_swizzle(uint32_t token, uint32_t c, uint32_t n_chunks) {
  if (n_chunks % 8 == 0) return c ^ (token & 7);
  if (n_chunks % 4 == 0) return c ^ ((token >> 1) & 3);
  return c ^ ((token >> 2) & 1);
}

typedef struct lk_cuda_device lk_cuda_device; /* a device, its stream, the libraries' handles */
typedef struct lk_cuda_graph lk_cuda_graph;   /* recorded launches */

typedef struct lk_cuda_info {
  char name[128];
  int major, minor; /* compute capability */
  int n_sm;
  size_t total_bytes, free_bytes;
} lk_cuda_info;

/* One kv head of a layer, in device memory. */
typedef struct lk_cuda_head {
  uint32_t n_kept, n_padded; /* Dk, and as stored */
  uint32_t lean_offset;      /* bytes from the beginning of a lean page */
  uint32_t reserved;
} lk_cuda_head;

/* One layer's pages; arenas are device memory. Page i of kind k is at arena[k] + i * page_bytes[k]
 * (64-bit products). */
typedef struct lk_cuda_view {
  unsigned char *arena[LK_N_PAGE_KINDS];
  size_t page_bytes[LK_N_PAGE_KINDS];
  const lk_cuda_head *heads; /* device [Hk] */
  const uint16_t *channels;  /* device [Hk][D]: the n_kept channels of each head, ascending, then
                                the others, ascending */
  uint32_t n_heads, n_kv_heads, head_dim; /* Hq, Hk, D (64 or 128) */
  uint32_t is_f16;                        /* the elements; else bf16 */
} lk_cuda_view;

/* Rows of one sequence at consecutive positions, in device memory. Rows see keys at positions <=
 * their own. Pages of the middle, [middle_begin, middle_begin + n_middle), are lean; both are
 * multiples of P. The others are wide or stage pages. */
typedef struct lk_cuda_group {
  uint64_t first_row, n_rows; /* of q and out */
  uint64_t first_pos;
  uint64_t middle_begin, n_middle;
  uint64_t table;                    /* index of its first entry in `tables` */
  uint64_t wide_before, lean_before; /* pages that the groups before this one see: sums over them,
                                        for dealing work; filled by the caller */
  float *mean; /* device [Hk][2][D] at lk_cuda_means.offset: sums of keys and of values over the
                  middle; or NULL */
} lk_cuda_group;

/* Where the mean of a middle's keys stands in for channels that its pages do not have: added to
 * the logits of a head's lean pages, or, where it has none, the logit of one key that counts
 * n_middle times. */
typedef struct lk_cuda_means {
  bool for_pruned, for_empty; /* heads with Dk > 0; with Dk = 0 */
  size_t offset;              /* floats from a group's mean to this layer's */
} lk_cuda_means;

/* Attention of decode steps: each group has one row. */
typedef struct lk_cuda_decode {
  lk_cuda_view view;
  const lk_cuda_group *groups; /* device [n_groups + 1]; of the last only the sums count */
  uint32_t n_groups;           /* B */
  const lk_page_entry *tables; /* device */
  const float *q;              /* device [B][Hq][D], not scaled */
  float *out;                  /* device [B][Hq][D] */
  void *scratch;               /* device, decode_scratch_bytes */
  uint32_t max_pages;          /* most pages of a table: what scratch is for */
  bool settled; /* all pages but the last and the last lean one of each table were written before
                   the launch before this one began: they are read without waiting for it */
  lk_cuda_means means;
  float *mean_logits; /* device [B][Hq]: room for those of heads without lean pages, where one of
                         `means` is wanted; else NULL */
} lk_cuda_decode;

/* Bytes of scratch, of up to max_pages pages a table: see cuda/attention/dealing.cuh. */
static inline size_t lk_cuda_decode_scratch_bytes(size_t n_groups, size_t n_heads,
                                                  size_t n_kv_heads, size_t head_dim,
                                                  size_t max_pages) {
  const size_t n_chunks = (max_pages + LK_CUDA_CHUNK_PAGES - 1) / LK_CUDA_CHUNK_PAGES;
  return n_groups * n_kv_heads * n_chunks *
         (n_heads / n_kv_heads * head_dim + LK_CUDA_PARTIAL_TAIL) * sizeof(float);
}

/* Attention of many rows, each seeing what is not after it. */
typedef struct lk_cuda_attend_rows {
  lk_cuda_view view;
  const lk_cuda_group *groups; /* device [n_groups] */
  uint32_t n_groups;
  uint64_t max_rows;           /* most rows of a group */
  const lk_page_entry *tables; /* device */
  const float *q;              /* device [N][Hq][D], not scaled */
  float *out;                  /* device [N][Hq][D] */
  lk_cuda_means means;
} lk_cuda_attend_rows;

/* One of several products with the same rows: y[N][n_out] = x[N][n_in] w^T (+ bias), or += . */
typedef struct lk_cuda_part {
  const uint16_t *w; /* device bf16 [n_out][n_in] */
  const float *bias; /* device [n_out] or NULL */
  float *y;          /* device */
  uint32_t n_out;
  bool add;
} lk_cuda_part;

enum { LK_CUDA_MAX_PARTS = 4 };

/* dx[n_rows][n_in] = dy[n_rows][n_out] w, or += . */
typedef struct lk_cuda_linear_grad {
  const uint16_t *w; /* device bf16 [n_out][n_in] */
  const float *dy;   /* device */
  float *dx;         /* device */
  size_t n_rows;
  uint32_t n_out, n_in;
  bool add;
} lk_cuda_linear_grad;

/* How the middle of a kv head is seen: lk_weighted_kind of backend.h. */
enum { LK_CUDA_WEIGHTED_PLAIN = 0, LK_CUDA_WEIGHTED_MEAN, LK_CUDA_WEIGHTED_ABSENT };

/* Rows of one sequence that see its middle through channel weights: lk_weighted_rows of backend.h,
 * in device memory. Every page is wide or stage. */
typedef struct lk_cuda_weighted_group {
  const unsigned char *arena[LK_N_PAGE_KINDS]; /* device */
  uint64_t page_bytes[LK_N_PAGE_KINDS];
  const float *sums; /* device [pages of the middle + 1][Hk][2][D], or NULL: no head of kind MEAN */
  uint64_t first_row, n_rows; /* of q; groups have all N rows, one after another */
  uint64_t first_pos, middle_begin;
  uint64_t table;      /* index of its first entry in `tables` */
  uint64_t own_before; /* sum of the squares of the n_rows of the groups before this one */
} lk_cuda_weighted_group;

/* Attention under channel weights, forward (q to out and lse) or backward. */
typedef struct lk_cuda_weighted {
  const lk_cuda_weighted_group *groups;             /* device [n_groups] */
  const lk_page_entry *tables;                      /* device */
  const uint32_t *middle_end;                       /* device [N] positions */
  const uint8_t *kind;                              /* device [Hk] */
  const float *weight;                              /* device [Hk][D] */
  uint32_t n_groups, n_heads, n_kv_heads, head_dim; /* D 64 or 128 */
  uint64_t n_rows;                                  /* N */
  uint64_t n_own;                                   /* sum of the squares of all n_rows */
  uint64_t max_rows, max_pages; /* of a group; pages: up to that of its last row */
  const float *q;               /* device [N][Hq][D], not scaled */
  float *out, *lse;             /* device [N][Hq][D], [N][Hq]; forward writes, backward reads */
  const float *dout;            /* device [N][Hq][D] and so on: backward only */
  float *dq, *dk, *dv;          /* [N][Hq][D], [N][Hk][D] of the rows' own keys */
  double *dweight;              /* [Hk][D], added to */
  void *scratch;                /* device, weighted_scratch_bytes */
} lk_cuda_weighted;

typedef struct lk_cuda_linear {
  lk_cuda_part parts[LK_CUDA_MAX_PARTS];
  uint32_t n_parts, n_in;
  const float *x; /* device [n_rows][n_in]; linear_many: NULL: the operand as it is */
  size_t n_rows;
  uint32_t pitch; /* linear_many: floats from a row of each y to its next; 0: n_out */
  /* linear_few only */
  const float *norm; /* device [n_in]: the products are of RMSNorm(x) with these weights; aligned
                        as alloc's memory; or NULL */
  float eps;         /* of the norm */
  bool gated; /* two parts, gate and up, of equal n_out and without add. linear_few: the first one's
                 y = silu(gate) * up, and up's y is not used. linear_many, of parts without bias
                 side by side in rows of a pitch of 2 n_out: the operand becomes silu(gate) * up,
                 rounded, and both y are room that may be written */
} lk_cuda_linear;

typedef struct lk_cuda_api {
  int version;
  /* Number of usable devices; 0: why says what is missing, in one line. */
  int (*n_devices)(char *why, size_t n_why);
  leank_status (*open)(int index, lk_cuda_device **out, leank_error *err);
  void (*close)(lk_cuda_device *dev);
  void (*info)(lk_cuda_device *dev, lk_cuda_info *out);
  /* What was kept of failures so far; forgets it. */
  leank_status (*check)(lk_cuda_device *dev, leank_error *err);
  leank_status (*sync)(lk_cuda_device *dev, leank_error *err);

  /* ---- memory: each call makes the device the calling thread's current one, as launches need it;
   * a thread that launches has copied something to the device before ---- */
  void *(*alloc)(lk_cuda_device *dev, size_t n_bytes); /* NULL: none left. 256-byte aligned */
  void (*free)(lk_cuda_device *dev, void *p);          /* waits for launches */
  void *(*alloc_pinned)(lk_cuda_device *dev,
                        size_t n_bytes); /* host memory that copies are fast from */
  void (*free_pinned)(lk_cuda_device *dev, void *p);
  /* From pinned memory the copy runs while the caller goes on: it must stay as it is until then. */
  void (*upload)(lk_cuda_device *dev, void *to, const void *from, size_t n_bytes);
  void (*download)(lk_cuda_device *dev, void *to, const void *from, size_t n_bytes); /* waits */
  void (*copy)(lk_cuda_device *dev, void *to, const void *from, size_t n_bytes);
  void (*zero)(lk_cuda_device *dev, void *p, size_t n_bytes);

  /* ---- recording: between begin and end launches are recorded, not run ---- */
  leank_status (*record_begin)(lk_cuda_device *dev, leank_error *err);
  leank_status (*record_end)(lk_cuda_device *dev, lk_cuda_graph **out, leank_error *err);
  void (*replay)(lk_cuda_device *dev, lk_cuda_graph *graph);
  void (*graph_free)(lk_cuda_graph *graph);
  /* Events for timing: time_ms waits and gives the time between two marks, of LK_CUDA_MARKS. */
  void (*mark)(lk_cuda_device *dev, int number);
  float (*time_ms)(lk_cuda_device *dev, int from, int to);

  /* ---- rows (all device memory) ---- */
  void (*embed)(lk_cuda_device *dev, const uint16_t *table, size_t n_cols, const int32_t *tokens,
                size_t n_rows, float *x); /* bf16 table [V][n_cols] */
  void (*rms_norm)(lk_cuda_device *dev, const float *x, size_t n_rows, size_t n, const float *w,
                   float eps, float *y);
  void (*rope_table)(lk_cuda_device *dev, const double *inv_freq, float mscale, size_t head_dim,
                     const int64_t *pos, size_t n_rows, float *cos_sin);
  /* pairs: channels 2i and 2i + 1 rotate together, else i and i + D/2. */
  void (*rope)(lk_cuda_device *dev, float *x, size_t n_rows, size_t n_heads, size_t head_dim,
               bool pairs, const float *cos_sin);
  void (*swiglu)(lk_cuda_device *dev, const float *gate, const float *up, size_t n, float *out);
  /* index[N] = where each row of x[N][n] is largest, the first of equals; 0 for a row of NaN. */
  void (*argmax)(lk_cuda_device *dev, const float *x, size_t n_rows, size_t n, int32_t *index);
  /* bf16 weights from random numbers, uniform in +-scale: made-up models. */
  void (*random_bf16)(lk_cuda_device *dev, uint16_t *to, size_t n, float scale, uint64_t seed);

  /* ---- products ---- */
  /* Weights of lk_dtype `type` (n elements, whole blocks) in device memory, to bf16 (nearest even).
   */
  void (*widen)(lk_cuda_device *dev, int type, const void *from, size_t n, uint16_t *to);
  /* Few rows: own kernels; a row's bits do not depend on the other rows. Weights, those of a norm
   * too, are read while earlier launches still run: what writes them has been waited for. */
  void (*linear_few)(lk_cuda_device *dev, const lk_cuda_linear *job);
  /* Many: activations rounded to bf16, fp32 sums; own kernels for some dozens of rows, with
   * weights read as linear_few reads them, else library GEMM. With a pitch (then n_out are
   * multiples of 4) parts whose w, y and bias, if any, each lie behind those of the part before
   * are one product. */
  void (*linear_many)(lk_cuda_device *dev, const lk_cuda_linear *job);
  /* Room for products of n_rows x n_cols inputs, which linear_many needs. Called outside of
   * recording; where room grows, recorded products are not valid any more. */
  leank_status (*reserve)(lk_cuda_device *dev, size_t n_rows, size_t n_cols, leank_error *err);

  /* ---- pages ---- */
  /* K[N][Hk][D] and V[N][Hk][D] to slots (device [N]), rounded to nearest even. */
  void (*append)(lk_cuda_device *dev, const lk_cuda_view *view, const float *k, const float *v,
                 size_t n_rows, const lk_slot *slots);
  /* rope of q[N][Hq][D], and append of k, rotated as well (not in place), and of v. */
  void (*rope_append)(lk_cuda_device *dev, const lk_cuda_view *view, float *q, const float *k,
                      const float *v, size_t n_rows, bool pairs, const float *cos_sin,
                      const lk_slot *slots);
  /* from[i] (wide, stage, or lean that keeps at least dst's channels) into lean to[i]; entries are
   * in device memory. An entry whose kind is LK_N_PAGE_KINDS is passed over. */
  void (*pack)(lk_cuda_device *dev, const lk_cuda_view *src, const lk_page_entry *from,
               const lk_cuda_view *dst, const lk_page_entry *to, size_t n_pages);
  void (*copy_pages)(lk_cuda_device *dev, const lk_cuda_view *src, const lk_page_entry *from,
                     const lk_cuda_view *dst, const lk_page_entry *to, size_t n_pages);
  /* sums[i + 1][Hk][2][D] = sums[i] + the sums over page i (wide or stage). */
  void (*sum_pages)(lk_cuda_device *dev, const lk_cuda_view *view, const lk_page_entry *pages,
                    size_t n_pages, float *sums);
  /* groups[i].mean (at offset) += the sums over page i (wide or stage), to the bits of sum_pages. A
   * page of kind LK_N_PAGE_KINDS is passed over. */
  void (*sum_rows)(lk_cuda_device *dev, const lk_cuda_view *view, const lk_page_entry *pages,
                   size_t n_pages, const lk_cuda_group *groups, size_t offset);

  /* ---- attention ---- */
  void (*decode)(lk_cuda_device *dev, const lk_cuda_decode *job);
  void (*attend_rows)(lk_cuda_device *dev, const lk_cuda_attend_rows *job);

  /* ---- learning: what rounds to bf16 elsewhere has two bf16 parts here, or stays fp32 ---- */
  /* As linear_many with twice the rows reserved. */
  void (*linear_precise)(lk_cuda_device *dev, const lk_cuda_linear *job);
  void (*linear_backward)(lk_cuda_device *dev, const lk_cuda_linear_grad *job);
  /* As backend.h has them. */
  void (*rms_norm_backward)(lk_cuda_device *dev, const float *x, size_t n_rows, size_t n,
                            const float *w, float eps, const float *dy, float *dx);
  void (*swiglu_backward)(lk_cuda_device *dev, const float *gate, const float *up, size_t n,
                          const float *dout, float *dgate, float *dup);
  /* Of the job's sizes. */
  size_t (*weighted_scratch_bytes)(const lk_cuda_weighted *job, bool backward);
  /* A row's numbers depend on its sequence's pages and rows alone; sums are in a fixed order. */
  void (*weighted)(lk_cuda_device *dev, const lk_cuda_weighted *job);
  void (*weighted_backward)(lk_cuda_device *dev, const lk_cuda_weighted *job);
  /* ---- benchmarks ---- */
  /* Reads n_bytes (a multiple of 16) with n_blocks blocks a multiprocessor; *sum ^= their 32-bit
   * words. */
  void (*read)(lk_cuda_device *dev, const void *from, size_t n_bytes, uint32_t n_blocks,
               uint32_t *sum);

  /* ---- decode steps by GEMM ---- */
  /* The operand is the device's own room for bf16 rows that linear_many multiplies (reserve). It
   * holds what was put there last, by this, by a product of an x or by one with a gate. */
  /* Operand [n_rows][n] = rms_norm, rounded. */
  void (*rms_norm_operand)(lk_cuda_device *dev, const float *x, size_t n_rows, size_t n,
                           const float *w, float eps);
  /* rope_append of rows of qkv[N][Hq + 2 Hk][D]; the rotated q go to q[N][Hq][D]. */
  void (*rope_append_joint)(lk_cuda_device *dev, const lk_cuda_view *view, const float *qkv,
                            float *q, size_t n_rows, bool pairs, const float *cos_sin,
                            const lk_slot *slots);
} lk_cuda_api;

/* The library's one symbol. NULL where `version` is not the library's. */
const lk_cuda_api *lk_cuda_api_get(int version);

#ifdef __cplusplus
}
#endif

#endif
