/* The CPU backend's state, shared by its files. */
#ifndef LK_BACKEND_CPU_H
#define LK_BACKEND_CPU_H

#include "backend/backend.h"
#include "backend/gemm.h"
#include "base/parallel.h"
#include "kernels/attention/attend.h"
#include "kernels/attention/attend_backward.h"
#include "kernels/dequant/dequant.h"
#include "kernels/matvec/matvec.h"
#include "kernels/page/page.h"
#include "kernels/rows/rows.h"

enum {
  LK_CPU_CHUNK_PAGES = 8, /* pages of a decode partial: 512 tokens */
  LK_CPU_ROWS_BLOCK = 128 /* query rows of one attend of many rows, about */
};

/* Buffers one thread needs to attend. */
typedef struct lk_cpu_worker {
  lk_page_view *views; /* [max_pages] */
  float *q, *q_lean;   /* [M][D]; [M][D and a granule's padding] */
  float *bias;         /* [M] */
  int64_t *pos;        /* [M] */
  float *m, *l;        /* [M][2]: the partial and the mean's */
  float *o;            /* [M][2][D] */
  void *scratch;
  uint16_t *channels; /* [D] while packing */
} lk_cpu_worker;

typedef struct lk_cpu_backend {
  lk_backend base;
  lk_backend_options options;
  leank_cpu_level level;
  lk_team *team;
  lk_gemm *gemm;
  const lk_matvec_variant *matvec[LK_N_DTYPES];
  const lk_dequant_variant *dequant[LK_N_DTYPES];
  const lk_rows_variant *rows;
  const lk_page_variant *page;
  const lk_attend_variant *attend;
  const lk_attend_backward_variant *attend_backward;
  unsigned char *few_rows; /* prepared rows of a product with few rows */
  size_t few_rows_bytes;
  size_t max_query_rows;  /* M: most query rows of one attend call */
  lk_cpu_worker *workers; /* [n_threads] */
  float *part_m, *part_l; /* decode partials [rows][Hk][chunks][G] */
  float *part_o;          /* [rows][Hk][chunks][G][D] */
  size_t max_chunks;
  struct lk_cpu_weighted *weighted; /* of attention under channel weights, made when first needed */
  char *kernel_names;
  double marks[LK_BACKEND_MARKS]; /* in seconds */
  double n_flops; /* of products and attention so far; the calling thread's to change */
} lk_cpu_backend;

static inline lk_cpu_backend *lk_cpu(lk_backend *be) { return (lk_cpu_backend *)be; }

/* Bytes of one head's K and V in a wide page. */
static inline size_t lk_cpu_wide_segment_bytes(const lk_cpu_backend *cpu, size_t head_dim) {
  return lk_segment_k_bytes(cpu->options.kv_type, LK_PAGE_WIDE, head_dim) +
         lk_segment_v_bytes(cpu->options.kv_type, LK_PAGE_WIDE, head_dim);
}

/* cpu_attention.c */
leank_status lk_cpu_attention_open(lk_cpu_backend *cpu, leank_error *err);
void lk_cpu_attention_close(lk_cpu_backend *cpu);
leank_status lk_cpu_attend(lk_backend *be, lk_linear_kind kind, const lk_attn_shape *shape,
                           const lk_layer_view *view, const lk_rows *rows, size_t first, size_t n,
                           const float *q, float *out, leank_error *err);

/* cpu_weighted.c */
void lk_cpu_weighted_close(lk_cpu_backend *cpu);
leank_status lk_cpu_attend_weighted(lk_backend *be, const lk_attn_shape *shape,
                                    const lk_channel_weights *weights, const lk_weighted_rows *rows,
                                    size_t n_sequences, const float *q, float *out, float *lse,
                                    leank_error *err);
leank_status lk_cpu_attend_weighted_backward(lk_backend *be, const lk_attn_shape *shape,
                                             const lk_channel_weights *weights,
                                             const lk_weighted_rows *rows, size_t n_sequences,
                                             const float *q, const float *out, const float *lse,
                                             const float *dout, float *dq, float *dk, float *dv,
                                             double *dweight, leank_error *err);

/* cpu_pages.c */
void lk_cpu_append(lk_backend *be, const lk_attn_shape *shape, const lk_layer_view *view,
                   const lk_rows *rows, size_t first, size_t n, const float *k, const float *v);
void lk_cpu_pack(lk_backend *be, const lk_attn_shape *shape, const lk_layer_view *src,
                 const lk_page_entry *from, const lk_layer_view *dst, const lk_page_entry *to,
                 size_t n_pages);
void lk_cpu_pack_rows(lk_backend *be, const lk_attn_shape *shape, const lk_layer_view *view,
                      const lk_rows *rows);
void lk_cpu_copy_pages(lk_backend *be, const lk_layer_view *src, const lk_page_entry *from,
                       const lk_layer_view *dst, const lk_page_entry *to, size_t n_pages);
void lk_cpu_sum_pages(lk_backend *be, const lk_attn_shape *shape, const lk_layer_view *view,
                      const lk_page_entry *pages, size_t n_pages, float *sums);
void lk_cpu_sum_rows(lk_backend *be, const lk_attn_shape *shape, const lk_layer_view *view,
                     const lk_rows *rows);
/* head_stats of memory that the processor reads; team NULL: the calling thread alone. */
void lk_head_stats(lk_team *team, const float *x, size_t n_rows, size_t n_kv_heads, size_t n_per,
                   size_t head_dim, leank_channel_order order, double *sum_abs, double *sum_sq);
void lk_cpu_head_stats(lk_backend *be, const float *x, size_t n_rows, size_t n_kv_heads,
                       size_t n_per, size_t head_dim, leank_channel_order order, double *sum_abs,
                       double *sum_sq);

#endif
