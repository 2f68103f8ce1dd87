#include "base/dtype.h"

static const struct {
  const char *name;
  size_t elements, bytes;
} types[LK_N_DTYPES] = {
    [LK_F32] = {"F32", 1, 4},       [LK_F16] = {"F16", 1, 2},       [LK_BF16] = {"BF16", 1, 2},
    [LK_Q8_0] = {"Q8_0", 32, 34},   [LK_Q4_0] = {"Q4_0", 32, 18},   [LK_Q4_1] = {"Q4_1", 32, 20},
    [LK_Q5_0] = {"Q5_0", 32, 22},   [LK_Q5_1] = {"Q5_1", 32, 24},   [LK_Q4_K] = {"Q4_K", 256, 144},
    [LK_Q5_K] = {"Q5_K", 256, 176}, [LK_Q6_K] = {"Q6_K", 256, 210},
};

const char *lk_dtype_name(lk_dtype type) { return types[type].name; }
size_t lk_dtype_block_elements(lk_dtype type) { return types[type].elements; }
size_t lk_dtype_block_bytes(lk_dtype type) { return types[type].bytes; }
