/* Every allocation of the library: checked, zeroed, aligned, counted by category. */
#ifndef LK_BASE_ALLOC_H
#define LK_BASE_ALLOC_H

#include <stdbool.h>
#include <stddef.h>

typedef enum lk_mem_category {
  LK_MEM_OTHER = 0, /* descriptions, tables, file indexes */
  LK_MEM_TEXT,      /* tokenizer */
  LK_MEM_WIDE,      /* arena of wide pages beside lean ones: small system pages, few are touched */
  LK_MEM_DENSE,     /* arena of a dense cache's pages */
  LK_MEM_LEAN,      /* arena of lean pages */
  LK_MEM_PREFILL,   /* one layer's full K and V, hidden states of a prompt */
  LK_MEM_SCRATCH,   /* activations, partial results, logits */
  LK_MEM_N_CATEGORIES
} lk_mem_category;

/* n * size bytes, zeroed, 64-byte aligned; NULL when that overflows or memory is short. Zero bytes
 * give a valid pointer. Blocks of 4 MiB and more come straight from the operating system: their
 * pages exist once touched, huge where the system agrees. */
void *lk_alloc(lk_mem_category category, size_t n, size_t size);
/* A copy of at least old_n elements in a block of n elements (the rest zeroed); p is freed. On
 * failure NULL and p stands. */
void *lk_realloc(void *p, lk_mem_category category, size_t old_n, size_t n, size_t size);
/* A list of n elements with room for one more: itself, or moved to twice the *room where it was
 * full. On failure NULL, and the list stands. */
void *lk_grow(void *list, lk_mem_category category, size_t n, size_t *room, size_t size);
void lk_free(void *p);
char *lk_strdup(const char *s);
char *lk_strndup(const char *s, size_t n);

/* Bytes now allocated in a category, over the whole process. */
size_t lk_mem_in_use(lk_mem_category category);
/* Allocations made so far, over the whole process. */
size_t lk_alloc_count(void);
/* Of the block at p, the bytes that are resident; 0 where the system does not tell. */
size_t lk_mem_resident(const void *p);

/* Tests: the nth allocation from now on fails (1 = the next); 0 = none. */
void lk_alloc_fail_nth(size_t nth);

/* a * b and a + b; false when they overflow. */
bool lk_mul(size_t a, size_t b, size_t *out);
bool lk_add(size_t a, size_t b, size_t *out);

#endif
