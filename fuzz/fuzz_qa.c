/* SQuAD's and HotpotQA's files: every question has answers and documents that are there. */
#include "fuzz_target.h"

#include <string.h>

#include "base/alloc.h"
#include "eval/qa_files.h"

static void parse(const uint8_t *data, size_t size, lk_qa_format format) {
  lk_qa_data read = {0};
  leank_error err = {.code = LEANK_OK};
  const leank_status status = lk_qa_parse((const char *)data, size, "fuzz", format, &read, &err);
  FUZZ_REQUIRE(status == err.code && (status == LEANK_OK) == (read.n_questions > 0));
  FUZZ_REQUIRE(status == LEANK_OK || status == LEANK_E_FORMAT);
  FUZZ_REQUIRE(status == LEANK_OK || !strpbrk(err.message, "\n\r"));
  for (size_t i = 0; i < read.n_questions; i++) {
    const lk_qa_question *q = &read.questions[i];
    FUZZ_REQUIRE(q->n_answers > 0 && q->answers[0][0] && q->n_documents > 0);
    FUZZ_REQUIRE(q->near <= q->first && q->first + q->n_documents <= q->near + q->n_near);
    FUZZ_REQUIRE(q->near + q->n_near <= read.n_documents);
  }
  lk_qa_free(&read);
  FUZZ_REQUIRE(lk_mem_in_use(LK_MEM_OTHER) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  parse(data, size, LK_QA_SQUAD);
  parse(data, size, LK_QA_HOTPOT);
  return 0;
}
