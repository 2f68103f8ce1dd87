/* safetensors: opens, then reads every tensor. */
#include "fuzz_target.h"

#include "base/alloc.h"
#include "formats/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  lk_safetensors *st = NULL;
  leank_error err = {.code = LEANK_OK};
  leank_status status = lk_safetensors_open_memory(data, size, "fuzz", &st, &err);
  FUZZ_REQUIRE(status == err.code && (status == LEANK_OK) == (st != NULL));
  size_t total = 0;
  for (size_t i = 0; st && i < lk_safetensors_n_tensors(st); i++) {
    const lk_st_tensor *t = lk_safetensors_at(st, i);
    FUZZ_REQUIRE(lk_safetensors_find(st, t->name) == t);
    FUZZ_REQUIRE(t->n_dims <= LK_ST_MAX_DIMS);
    fuzz_touch(t->data, t->n_bytes);
    total += t->n_bytes;
  }
  FUZZ_REQUIRE(total <= size); /* nothing is counted twice */
  if (st) (void)lk_safetensors_metadata(st, "format");
  lk_safetensors_close(&st);
  FUZZ_REQUIRE(lk_mem_in_use(LK_MEM_OTHER) == 0);
  return 0;
}
