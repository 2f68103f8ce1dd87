/* PyTorch .pth: reads. */
#include "fuzz_target.h"

#include "base/alloc.h"
#include "formats/pth.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  lk_pth_array array = {0};
  leank_error err = {.code = LEANK_OK};
  leank_status status = lk_pth_read(data, size, "fuzz", &array, &err);
  FUZZ_REQUIRE(status == err.code && (status == LEANK_OK) == (array.values != NULL));
  if (status == LEANK_OK) {
    const size_t n = array.n_layers * array.n_heads * array.head_dim;
    FUZZ_REQUIRE(n > 0 && n <= size); /* no more than the file justifies */
    fuzz_touch(array.values, n * sizeof *array.values);
  }
  lk_free(array.values);
  FUZZ_REQUIRE(lk_mem_in_use(LK_MEM_OTHER) == 0);
  return 0;
}
