/* The part of Python's pickle (protocol 2, as torch.save writes, and the opcodes of 4 that replace
 * them) that tensors in nested lists need. Builds a tree; calls nothing. Untrusted input. */
#ifndef LK_FORMATS_PICKLE_H
#define LK_FORMATS_PICKLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

enum { LK_PICKLE_MAX_BYTES = 4 << 20, LK_PICKLE_MAX_DIMS = 3 };

typedef enum lk_pickle_kind {
  LK_PICKLE_NONE,
  LK_PICKLE_BOOL,
  LK_PICKLE_INT,
  LK_PICKLE_TEXT,
  LK_PICKLE_GLOBAL,
  LK_PICKLE_LIST, /* lists and tuples */
  LK_PICKLE_DICT, /* only the empty OrderedDict */
  LK_PICKLE_STORAGE,
  LK_PICKLE_TENSOR
} lk_pickle_kind;

typedef enum lk_pickle_global {
  LK_GLOBAL_REBUILD_TENSOR,
  LK_GLOBAL_ORDERED_DICT,
  LK_GLOBAL_FLOAT, /* storages, from here on */
  LK_GLOBAL_DOUBLE,
  LK_GLOBAL_HALF,
  LK_GLOBAL_BFLOAT16,
  LK_GLOBAL_BYTE,
  LK_GLOBAL_BOOL
} lk_pickle_global;

/* A storage as a pickle names it: its bytes are the archive's member data/<key>. */
typedef struct lk_pickle_storage {
  const char *key; /* not NUL-terminated */
  uint32_t n_key_bytes, n_elements;
  lk_pickle_global type;
} lk_pickle_storage;

/* A view of a storage, in elements. Every element lies inside, none is counted twice over: the
 * product of shape is at most the storage's n_elements. Sizes are not 0. */
typedef struct lk_pickle_tensor {
  uint32_t storage; /* index of its value */
  uint32_t n_dims, first;
  uint32_t shape[LK_PICKLE_MAX_DIMS], strides[LK_PICKLE_MAX_DIMS];
} lk_pickle_tensor;

/* Lists are chains of cells, so that appending is O(1) and sharing is free. */
typedef struct lk_pickle_list {
  uint32_t n, first, last;
  bool is_tuple;
} lk_pickle_list;

typedef struct lk_pickle_text {
  const char *bytes; /* not NUL-terminated */
  uint32_t n_bytes;
} lk_pickle_text;

typedef struct lk_pickle_value {
  lk_pickle_kind kind;
  union {
    int64_t number; /* BOOL, INT */
    lk_pickle_text text;
    lk_pickle_global global;
    lk_pickle_list list;
    lk_pickle_storage storage;
    lk_pickle_tensor tensor;
  } as;
} lk_pickle_value;

typedef struct lk_pickle_cell {
  uint32_t value, next;
} lk_pickle_cell;

typedef struct lk_pickle {
  lk_pickle_value *values;
  lk_pickle_cell *cells;
  uint32_t n_values, n_cells;
  uint32_t root; /* index of the pickled value */
} lk_pickle;

/* Reads one pickle of at most LK_PICKLE_MAX_BYTES; texts point into it. LEANK_E_FORMAT,
 * _UNSUPPORTED (an opcode or global that a tensor does not need), _MEMORY. A list may contain
 * itself: readers bound their depth. */
leank_status lk_pickle_read(const unsigned char *bytes, size_t n_bytes, const char *name,
                            lk_pickle *out, leank_error *err);
void lk_pickle_free(lk_pickle *pickle);

#endif
