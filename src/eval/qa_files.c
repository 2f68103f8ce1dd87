#include "eval/qa_files.h"

#include <string.h>

#include "base/alloc.h"
#include "base/map.h"
#include "formats/json_text.h"
#include "text/text_buffer.h"

/* The file and what is made of it. */
typedef struct reader {
  const char *name;
  lk_qa_data data;
} reader;

/* Takes the text over, whatever comes. */
static leank_status add_document(reader *r, char *text, leank_error *err) {
  lk_qa_data *d = &r->data;
  leank_status status = LEANK_OK;
  LK_FAIL_IF(!text, err, LEANK_E_MEMORY, -1, "out of memory");
  LK_FAIL_IF(d->n_documents == LK_MAX_QA_DOCUMENTS, err, LEANK_E_FORMAT, -1,
             "%s: more than %d documents", r->name, LK_MAX_QA_DOCUMENTS);
  char **documents =
      lk_grow(d->documents, LK_MEM_OTHER, d->n_documents, &d->document_room, sizeof *documents);
  LK_FAIL_IF(!documents, err, LEANK_E_MEMORY, -1, "out of memory");
  d->documents = documents;
  d->documents[d->n_documents++] = text;
  text = NULL;
cleanup:
  lk_free(text);
  return status;
}

/* A new question, which the data own. */
static leank_status add_question(reader *r, const json_t *text, size_t n_answers,
                                 lk_qa_question **out, leank_error *err) {
  lk_qa_data *d = &r->data;
  leank_status status = LEANK_OK;
  lk_qa_question *q, *questions;
  if (!json_is_string(text))
    LK_FAIL(err, LEANK_E_FORMAT, -1, "%s: a question that is no text", r->name);
  questions =
      lk_grow(d->questions, LK_MEM_OTHER, d->n_questions, &d->question_room, sizeof *questions);
  LK_FAIL_IF(!questions, err, LEANK_E_MEMORY, -1, "out of memory");
  d->questions = questions;
  q = &d->questions[d->n_questions++];
  *q = (lk_qa_question){.text = lk_strdup(json_string_value(text)),
                        .answers = lk_alloc(LK_MEM_OTHER, n_answers, sizeof *q->answers)};
  LK_FAIL_IF(!q->text || !q->answers, err, LEANK_E_MEMORY, -1, "out of memory");
  *out = q;
cleanup:
  return status;
}

static leank_status add_answer(const reader *r, lk_qa_question *q, const json_t *text,
                               leank_error *err) {
  leank_status status = LEANK_OK;
  if (!json_is_string(text) || json_string_length(text) == 0)
    LK_FAIL(err, LEANK_E_FORMAT, -1, "%s: an answer that is no text", r->name);
  q->answers[q->n_answers] = lk_strdup(json_string_value(text));
  LK_FAIL_IF(!q->answers[q->n_answers], err, LEANK_E_MEMORY, -1, "out of memory");
  q->n_answers++;
cleanup:
  return status;
}

/* ---- SQuAD ---- */

static leank_status read_squad_questions(reader *r, const json_t *list, size_t near, size_t n_near,
                                         leank_error *err) {
  leank_status status = LEANK_OK;
  for (size_t i = 0; i < json_array_size(list); i++) {
    const json_t *item = json_array_get(list, i), *answers = json_object_get(item, "answers");
    lk_qa_question *q = NULL;
    if (json_array_size(answers) == 0) continue; /* SQuAD 2.0 has questions without */
    LK_TRY(add_question(r, json_object_get(item, "question"), json_array_size(answers), &q, err));
    for (size_t k = 0; k < json_array_size(answers); k++)
      LK_TRY(add_answer(r, q, json_object_get(json_array_get(answers, k), "text"), err));
    q->first = r->data.n_documents - 1;
    q->n_documents = 1;
    q->near = near;
    q->n_near = n_near;
  }
cleanup:
  return status;
}

static leank_status read_squad(reader *r, const json_t *root, leank_error *err) {
  leank_status status = LEANK_OK;
  const json_t *articles = json_object_get(root, "data");
  if (!json_is_array(articles))
    LK_FAIL(err, LEANK_E_FORMAT, -1, "%s: no \"data\" of SQuAD", r->name);
  for (size_t i = 0; i < json_array_size(articles); i++) {
    const json_t *paragraphs = json_object_get(json_array_get(articles, i), "paragraphs");
    const size_t near = r->data.n_documents;
    if (!json_is_array(paragraphs))
      LK_FAIL(err, LEANK_E_FORMAT, -1, "%s: an article without \"paragraphs\"", r->name);
    for (size_t k = 0; k < json_array_size(paragraphs); k++) {
      const json_t *paragraph = json_array_get(paragraphs, k);
      const json_t *context = json_object_get(paragraph, "context");
      if (!json_is_string(context))
        LK_FAIL(err, LEANK_E_FORMAT, -1, "%s: a paragraph without \"context\"", r->name);
      LK_TRY(add_document(r, lk_strdup(json_string_value(context)), err));
      LK_TRY(read_squad_questions(r, json_object_get(paragraph, "qas"), near,
                                  json_array_size(paragraphs), err));
    }
  }
cleanup:
  return status;
}

/* ---- HotpotQA ---- */

/* [title, [sentence, ...]] */
static leank_status read_hotpot_document(reader *r, const json_t *pair, leank_error *err) {
  leank_status status = LEANK_OK;
  lk_text_buffer text = {0};
  const json_t *title = json_array_get(pair, 0), *sentences = json_array_get(pair, 1);
  if (!json_is_string(title) || !json_is_array(sentences))
    LK_FAIL(err, LEANK_E_FORMAT, -1, "%s: a paragraph that is no title and sentences", r->name);
  lk_text_put_str(&text, json_string_value(title));
  lk_text_put_str(&text, "\n");
  for (size_t i = 0; i < json_array_size(sentences); i++) {
    const char *sentence = json_string_value(json_array_get(sentences, i));
    if (!sentence) LK_FAIL(err, LEANK_E_FORMAT, -1, "%s: a sentence that is no text", r->name);
    lk_text_put_str(&text, sentence);
  }
  LK_FAIL_IF(text.failed, err, LEANK_E_MEMORY, -1, "out of memory");
  status = add_document(r, text.text, err);
  text = (lk_text_buffer){0};
cleanup:
  lk_text_buffer_free(&text);
  return status;
}

static leank_status read_hotpot(reader *r, const json_t *root, leank_error *err) {
  leank_status status = LEANK_OK;
  if (!json_is_array(root)) LK_FAIL(err, LEANK_E_FORMAT, -1, "%s: no list of HotpotQA", r->name);
  for (size_t i = 0; i < json_array_size(root); i++) {
    const json_t *item = json_array_get(root, i), *context = json_object_get(item, "context");
    lk_qa_question *q = NULL;
    if (json_array_size(context) == 0)
      LK_FAIL(err, LEANK_E_FORMAT, -1, "%s: a question without \"context\"", r->name);
    LK_TRY(add_question(r, json_object_get(item, "question"), 1, &q, err));
    LK_TRY(add_answer(r, q, json_object_get(item, "answer"), err));
    q->first = q->near = r->data.n_documents;
    q->n_documents = q->n_near = json_array_size(context);
    for (size_t k = 0; k < json_array_size(context); k++)
      LK_TRY(read_hotpot_document(r, json_array_get(context, k), err));
  }
cleanup:
  return status;
}

/* ---- all ---- */

leank_status lk_qa_parse(const char *bytes, size_t n_bytes, const char *name, lk_qa_format format,
                         lk_qa_data *out, leank_error *err) {
  leank_status status = LEANK_OK;
  reader r = {.name = name};
  json_t *root = NULL;
  LK_TRY(lk_json_parse(bytes, n_bytes, false, &(lk_json_place){.name = name}, &root, err));
  if (format == LK_QA_SQUAD)
    LK_TRY(read_squad(&r, root, err));
  else
    LK_TRY(read_hotpot(&r, root, err));
  LK_FAIL_IF(r.data.n_questions == 0, err, LEANK_E_FORMAT, -1, "%s: holds no question", name);
  *out = r.data;
  r.data = (lk_qa_data){0};
cleanup:
  json_decref(root);
  lk_qa_free(&r.data);
  return status;
}

leank_status lk_qa_read(const char *path, lk_qa_format format, lk_qa_data *out, leank_error *err) {
  char *bytes = NULL;
  size_t n = 0;
  leank_status status = lk_file_read(path, LK_MAX_QA_BYTES, &bytes, &n, err);
  if (status == LEANK_OK) status = lk_qa_parse(bytes, n, path, format, out, err);
  lk_free(bytes);
  return status;
}

void lk_qa_free(lk_qa_data *data) {
  for (size_t i = 0; i < data->n_documents; i++) lk_free(data->documents[i]);
  for (size_t i = 0; i < data->n_questions; i++) {
    lk_qa_question *q = &data->questions[i];
    lk_free(q->text);
    for (size_t k = 0; k < q->n_answers; k++) lk_free(q->answers[k]);
    lk_free(q->answers);
  }
  lk_free(data->documents);
  lk_free(data->questions);
  *data = (lk_qa_data){0};
}
