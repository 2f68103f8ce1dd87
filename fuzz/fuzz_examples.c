/* JSON lines of examples: what is read is whole, and a context is shared with the line before. */
#include "fuzz_target.h"

#include <string.h>

#include "base/alloc.h"
#include "learn/dataset_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  lk_examples examples = {0};
  leank_error err = {.code = LEANK_OK};
  const leank_status status = lk_examples_read(data, size, "fuzz", &examples, &err);
  FUZZ_REQUIRE(status == err.code && (status == LEANK_OK) == (examples.n > 0));
  FUZZ_REQUIRE(status == LEANK_OK || status == LEANK_E_FORMAT);
  FUZZ_REQUIRE(status == LEANK_OK || !strpbrk(err.message, "\n\r"));
  for (size_t i = 0; i < examples.n; i++) {
    const lk_example *e = &examples.items[i], *before = i ? e - 1 : NULL;
    FUZZ_REQUIRE(e->context[0] && e->question[0] && e->answer[0]);
    FUZZ_REQUIRE(e->line > (before ? before->line : 0) && e->line <= size);
    FUZZ_REQUIRE(!before ||
                 (e->context == before->context) == (strcmp(e->context, before->context) == 0));
  }
  lk_examples_close(&examples);
  FUZZ_REQUIRE(lk_mem_in_use(LK_MEM_OTHER) == 0);
  return 0;
}
