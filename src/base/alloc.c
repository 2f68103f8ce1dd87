#include "base/alloc.h"

#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { HEADER_BYTES = 64, LARGE_BYTES = 4 << 20, FIRST_ROOM = 64 /* elements */ };

typedef struct header {
  size_t n_bytes;     /* asked for */
  size_t mapped_size; /* whole mapping, 0 = from the heap */
  lk_mem_category category;
} header;

_Static_assert(sizeof(header) <= HEADER_BYTES, "the header precedes the block");

static _Atomic size_t in_use[LK_MEM_N_CATEGORIES];
static _Atomic size_t n_allocations;
static _Atomic size_t fail_countdown;

bool lk_mul(size_t a, size_t b, size_t *out) { return !__builtin_mul_overflow(a, b, out); }
bool lk_add(size_t a, size_t b, size_t *out) { return !__builtin_add_overflow(a, b, out); }

static header *header_of(const void *p) { return (header *)((uintptr_t)p - HEADER_BYTES); }

static bool injected_failure(void) {
  size_t left = atomic_load(&fail_countdown);
  while (left > 0)
    if (atomic_compare_exchange_weak(&fail_countdown, &left, left - 1)) return left == 1;
  return false;
}

static void *map_large(lk_mem_category category, size_t total, size_t *mapped) {
  const size_t huge = 2 << 20;
  size_t size = (total + huge - 1) / huge * huge;
  void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) return NULL;
  madvise(p, size, category == LK_MEM_WIDE ? MADV_NOHUGEPAGE : MADV_HUGEPAGE);
  *mapped = size;
  return p;
}

void *lk_alloc(lk_mem_category category, size_t n, size_t size) {
  size_t n_bytes, total;
  if (!lk_mul(n, size, &n_bytes) || !lk_add(n_bytes, 2 * HEADER_BYTES, &total)) return NULL;
  if (total > PTRDIFF_MAX || injected_failure()) return NULL;
  size_t mapped = 0;
  void *block;
  if (total >= LARGE_BYTES) {
    block = map_large(category, total, &mapped);
  } else {
    total = total / HEADER_BYTES * HEADER_BYTES; /* aligned_alloc wants a multiple */
    block = aligned_alloc(HEADER_BYTES, total);
    if (block) memset(block, 0, total);
  }
  if (!block) return NULL;
  *(header *)block = (header){n_bytes, mapped, category};
  atomic_fetch_add(&in_use[category], n_bytes);
  atomic_fetch_add(&n_allocations, 1);
  return (char *)block + HEADER_BYTES;
}

void *lk_realloc(void *p, lk_mem_category category, size_t old_n, size_t n, size_t size) {
  void *q = lk_alloc(category, n, size);
  if (!q) return NULL;
  if (p && old_n > 0) memcpy(q, p, (old_n < n ? old_n : n) * size);
  lk_free(p);
  return q;
}

void *lk_grow(void *list, lk_mem_category category, size_t n, size_t *room, size_t size) {
  if (n < *room) return list;
  const size_t more = *room ? 2 * *room : FIRST_ROOM;
  void *longer = lk_realloc(list, category, n, more, size);
  if (longer) *room = more;
  return longer;
}

void lk_free(void *p) {
  if (!p) return;
  header *h = header_of(p);
  atomic_fetch_sub(&in_use[h->category], h->n_bytes);
  if (h->mapped_size)
    munmap(h, h->mapped_size);
  else
    free(h);
}

char *lk_strndup(const char *s, size_t n) {
  char *copy = lk_alloc(LK_MEM_OTHER, n + 1, 1);
  if (copy && n > 0) memcpy(copy, s, n);
  return copy;
}

char *lk_strdup(const char *s) { return lk_strndup(s, strlen(s)); }

size_t lk_mem_in_use(lk_mem_category category) { return atomic_load(&in_use[category]); }
size_t lk_alloc_count(void) { return atomic_load(&n_allocations); }
void lk_alloc_fail_nth(size_t nth) { atomic_store(&fail_countdown, nth); }

size_t lk_mem_resident(const void *p) {
  header *h = p ? header_of(p) : NULL;
  if (!h || !h->mapped_size) return h ? h->n_bytes : 0;
  const size_t page = (size_t)sysconf(_SC_PAGESIZE);
  size_t resident = 0;
  unsigned char state[4096];
  for (size_t at = 0; at < h->mapped_size; at += sizeof state * page) {
    size_t left = h->mapped_size - at;
    size_t span = left < sizeof state * page ? left : sizeof state * page;
    if (mincore((char *)h + at, span, state) != 0) return 0;
    for (size_t i = 0; i < (span + page - 1) / page; i++) resident += (state[i] & 1) * page;
  }
  return resident;
}
