/* A step's own rows, which attention itself rotates and puts into their pages. */
#ifndef LK_CUDA_FRESH_CUH
#define LK_CUDA_FRESH_CUH

#include "cuda/attention/element.cuh"
#include "cuda/cuda_api.h"
#include "cuda/rotate.cuh"

/* How channel c of a row is rotated. */
typedef struct lk_rotation {
  float cosine, sine;
  uint32_t partner; /* the channel that it is rotated with */
  bool is_first;    /* of the two */
} lk_rotation;

template <int D>
static __device__ __forceinline__ lk_rotation lk_rotation_of(const lk_cuda_fresh *fresh,
                                                             uint32_t row, uint32_t c) {
  const float *cos_sin = fresh->cos_sin + (size_t)row * D;
  const uint32_t pair = fresh->pairs ? c / 2 : c % (D / 2);
  lk_rotation r;
  r.cosine = cos_sin[pair];
  r.sine = cos_sin[D / 2 + pair];
  r.partner = c ^ (fresh->pairs ? 1 : D / 2);
  r.is_first = c < r.partner;
  return r;
}
static __device__ __forceinline__ float lk_rotated(const lk_rotation *r, float own, float partner) {
  float a = r->is_first ? own : partner, b = r->is_first ? partner : own;
  lk_rotate(&a, &b, r->cosine, r->sine);
  return r->is_first ? a : b;
}

/* A thread's elements of a head's new key and value: of THREADS threads. */
template <int D, int THREADS> struct lk_new_token {
  enum { N = 2 * D / THREADS };
  uint16_t element[N];
  unsigned char *segment; /* the head's, in the page */
};

/* Of kv head `head` of a group, whose last page is `page` of its table. */
template <int D, int THREADS>
static __device__ __forceinline__ void lk_new_token_load(const lk_cuda_decode *job, uint32_t group,
                                                         uint32_t head, uint32_t page,
                                                         lk_new_token<D, THREADS> *t) {
  const lk_cuda_fresh *fresh = &job->fresh;
  const lk_cuda_group *g = &job->groups[group];
  const lk_page_entry e = job->tables[g->table + page];
  const size_t row = group * fresh->kv_pitch + (size_t)head * D;
#pragma unroll
  for (int i = 0; i < lk_new_token<D, THREADS>::N; i++) {
    const uint32_t n = threadIdx.x + i * THREADS, c = n % D;
    float x;
    if (n < D) {
      const lk_rotation r = lk_rotation_of<D>(fresh, group, c);
      x = lk_rotated(&r, fresh->k[row + c], fresh->k[row + r.partner]);
    } else {
      x = fresh->v[row + c];
    }
    t->element[i] = lk_to_element(x);
  }
  t->segment = job->view.arena[e.kind] + (size_t)e.page * job->view.page_bytes[e.kind] +
               (size_t)head * (LK_CUDA_P * 4 * D);
}

/* At its position, into the page and into a copy of the segment in shared memory. */
template <int D, int THREADS>
static __device__ __forceinline__ void lk_new_token_put(const lk_new_token<D, THREADS> *t,
                                                        uint32_t position, unsigned char *copy) {
  const uint32_t token = position % LK_CUDA_P;
#pragma unroll
  for (int i = 0; i < lk_new_token<D, THREADS>::N; i++) {
    const uint32_t n = threadIdx.x + i * THREADS, c = n % D, row = n / D * LK_CUDA_P + token;
    const uint32_t at =
        (row * (D / 8) + lk_cuda_swizzle(token, c / 8, D / 8)) * 16 + c % 8 * 2; /* bytes */
    *(uint16_t *)(t->segment + at) = t->element[i];
    *(uint16_t *)(copy + at) = t->element[i];
  }
}

#endif
