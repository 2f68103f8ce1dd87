/* LongBench's JSON lines: what is read is whole, and can be asked and scored. */
#include "fuzz_target.h"

#include <string.h>

#include "base/alloc.h"
#include "eval/longbench.h"

static void check_item(const lk_longbench_item *item) {
  lk_text_buffer prompt = {0};
  leank_error err = {.code = LEANK_OK};
  double score = -1;
  FUZZ_REQUIRE(item->task && item->n_answers > 0);
  lk_longbench_write(item, &prompt);
  FUZZ_REQUIRE(prompt.n >= strlen(item->context));
  /* Short ones only: similarity takes the product of both lengths. */
  if (prompt.n < 4096 && strlen(item->answers[0]) < 1024) {
    const leank_status status = leank_eval_score(
        item->task->metric, item->context, (const char *const *)item->answers, item->n_answers,
        (const char *const *)item->classes, item->n_classes, &score, &err);
    FUZZ_REQUIRE(status == LEANK_OK && score >= 0 && score <= 1);
  }
  lk_text_buffer_free(&prompt);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  lk_longbench read = {0};
  leank_error err = {.code = LEANK_OK};
  const leank_status status =
      lk_longbench_parse((const char *)data, size, "lcc.jsonl", &read, &err);
  FUZZ_REQUIRE(status == err.code);
  FUZZ_REQUIRE(status == LEANK_OK || status == LEANK_E_FORMAT || status == LEANK_E_UNSUPPORTED);
  FUZZ_REQUIRE(status == LEANK_OK || !strpbrk(err.message, "\n\r"));
  for (size_t i = 0; status == LEANK_OK && i < read.n; i++) check_item(&read.items[i]);
  lk_longbench_free(&read);
  FUZZ_REQUIRE(lk_mem_in_use(LK_MEM_OTHER) == 0);
  return 0;
}
