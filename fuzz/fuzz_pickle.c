/* The pickle alone: behind the checksum of a zip a fuzzer would seldom reach it. */
#include "fuzz_target.h"

#include "base/alloc.h"
#include "formats/pickle.h"

static void check_tensor(const lk_pickle *pickle, const lk_pickle_tensor *t) {
  FUZZ_REQUIRE(t->storage < pickle->n_values && t->n_dims <= LK_PICKLE_MAX_DIMS);
  const lk_pickle_value *storage = &pickle->values[t->storage];
  FUZZ_REQUIRE(storage->kind == LK_PICKLE_STORAGE);
  uint64_t last = t->first, n = 1;
  for (size_t i = 0; i < t->n_dims; i++) {
    last += (uint64_t)(t->shape[i] - 1) * t->strides[i];
    n *= t->shape[i];
  }
  FUZZ_REQUIRE(last < storage->as.storage.n_elements && n <= storage->as.storage.n_elements);
  fuzz_touch(storage->as.storage.key, storage->as.storage.n_key_bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  lk_pickle pickle = {0};
  leank_error err = {.code = LEANK_OK};
  leank_status status = lk_pickle_read(data, size, "fuzz", &pickle, &err);
  FUZZ_REQUIRE(status == err.code);
  FUZZ_REQUIRE(status != LEANK_OK || pickle.root < pickle.n_values);
  for (uint32_t i = 0; i < pickle.n_values; i++) {
    const lk_pickle_value *v = &pickle.values[i];
    if (v->kind == LK_PICKLE_TENSOR) check_tensor(&pickle, &v->as.tensor);
    if (v->kind == LK_PICKLE_TEXT) fuzz_touch(v->as.text.bytes, v->as.text.n_bytes);
    if (v->kind == LK_PICKLE_LIST && v->as.list.n > 0)
      FUZZ_REQUIRE(v->as.list.first < pickle.n_cells && v->as.list.last < pickle.n_cells);
  }
  lk_pickle_free(&pickle);
  FUZZ_REQUIRE(lk_mem_in_use(LK_MEM_OTHER) == 0);
  return 0;
}
