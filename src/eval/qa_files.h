/* Questions over documents from the user's files: SQuAD and HotpotQA, as RULER takes them.
 * Untrusted. */
#ifndef LK_EVAL_QA_FILES_H
#define LK_EVAL_QA_FILES_H

#include <stddef.h>

#include "base/error.h"

/* Named maxima. */
enum { LK_MAX_QA_BYTES = 1 << 30, LK_MAX_QA_DOCUMENTS = 1 << 24 };

typedef struct lk_qa_question {
  char *text;
  char **answers; /* [n_answers], at least one */
  size_t n_answers;
  size_t first, n_documents; /* documents that belong to it */
  size_t near, n_near;       /* others of the same article, which stand around them: first and
                                n_documents lie within */
} lk_qa_question;

typedef struct lk_qa_data {
  char **documents; /* [n_documents] */
  size_t n_documents, document_room;
  lk_qa_question *questions; /* [n_questions] */
  size_t n_questions, question_room;
} lk_qa_data;

typedef enum lk_qa_format { LK_QA_SQUAD, LK_QA_HOTPOT } lk_qa_format;

/* SQuAD (1.1 and 2.0): a paragraph is a document, questions without an answer are left out.
 * HotpotQA (distractor setting): the ten paragraphs of a question belong to it, each behind its
 * title. LEANK_E_FORMAT where the file is none; LEANK_E_MEMORY. */
leank_status lk_qa_parse(const char *bytes, size_t n_bytes, const char *name, lk_qa_format format,
                         lk_qa_data *out, leank_error *err);
/* The same of a file. LEANK_E_IO. */
leank_status lk_qa_read(const char *path, lk_qa_format format, lk_qa_data *out, leank_error *err);
void lk_qa_free(lk_qa_data *data);

#endif
