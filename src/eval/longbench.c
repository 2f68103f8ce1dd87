#include "eval/longbench.h"

#include <string.h>

#include "base/alloc.h"
#include "base/map.h"
#include "formats/json_text.h"
#include "formats/printable.h"

/* Prompts, lengths of answers and metrics as LongBench's files have them:
 * config/dataset2prompt.json, dataset2maxlen.json, pred.py and eval.py (arXiv 2308.14508, MIT). */
#define SHORT_QA                                                                                   \
  "Answer the question based on the given passages. Only give me the answer and do not output "    \
  "any "                                                                                           \
  "other words."
#define CONCISE                                                                                    \
  "as concisely as you can, using a single phrase or sentence if possible. If the question "       \
  "cannot "                                                                                        \
  "be answered based on the information in the article, write \"unanswerable\". If the question "  \
  "is a yes/no question, answer \"yes\", \"no\", or \"unanswerable\". Do not provide any "         \
  "explanation."
#define STORY                                                                                      \
  "as concisely as you can, using a single phrase if possible. Do not provide any explanation."

static const lk_longbench_task tasks[] = {
    {"narrativeqa", LEANK_METRIC_F1, 128, false, false,
     "You are given a story, which can be either a novel or a movie script, and a question. Answer "
     "the question " STORY "\n\nStory: ",
     "\n\nNow, answer the question based on the story " STORY "\n\nQuestion: ", "\n\nAnswer:"},
    {"qasper", LEANK_METRIC_F1, 128, false, false,
     "You are given a scientific article and a question. Answer the question " CONCISE
     "\n\nArticle: ",
     "\n\n Answer the question based on the above article " CONCISE "\n\nQuestion: ",
     "\n\nAnswer:"},
    {"multifieldqa_en", LEANK_METRIC_F1, 64, false, false,
     "Read the following text and answer briefly.\n\n",
     "\n\nNow, answer the following question based on the above text, only give me the answer and "
     "do not output any other words.\n\nQuestion: ",
     "\nAnswer:"},
    {"hotpotqa", LEANK_METRIC_F1, 32, false, false,
     SHORT_QA "\n\nThe following are given passages.\n",
     "\n\n" SHORT_QA "\n\nQuestion: ", "\nAnswer:"},
    {"2wikimqa", LEANK_METRIC_F1, 32, false, false,
     SHORT_QA "\n\nThe following are given passages.\n",
     "\n\n" SHORT_QA "\n\nQuestion: ", "\nAnswer:"},
    {"musique", LEANK_METRIC_F1, 32, false, false,
     SHORT_QA "\n\nThe following are given passages.\n",
     "\n\n" SHORT_QA "\n\nQuestion: ", "\nAnswer:"},
    {"gov_report", LEANK_METRIC_ROUGE_L, 512, false, false,
     "You are given a report by a government agency. Write a one-page summary of the "
     "report.\n\nReport:\n",
     "\n\nNow, write a one-page summary of the report.\n\nSummary:", NULL},
    {"qmsum", LEANK_METRIC_ROUGE_L, 512, false, false,
     "You are given a meeting transcript and a query containing a question or instruction. Answer "
     "the query in one or more sentences.\n\nTranscript:\n",
     "\n\nNow, answer the query based on the above meeting transcript in one or more "
     "sentences.\n\nQuery: ",
     "\nAnswer:"},
    {"multi_news", LEANK_METRIC_ROUGE_L, 512, false, false,
     "You are given several news passages. Write a one-page summary of all news. \n\nNews:\n",
     "\n\nNow, write a one-page summary of all the news.\n\nSummary:", NULL},
    {"trec", LEANK_METRIC_CLASS, 64, true, true,
     "Please determine the type of the question below. Here are some examples of questions.\n\n",
     "\n", ""},
    {"triviaqa", LEANK_METRIC_F1, 32, true, true,
     "Answer the question based on the given passage. Only give me the answer and do not output "
     "any other words. The following are some examples.\n\n",
     "\n\n", ""},
    {"samsum", LEANK_METRIC_ROUGE_L, 128, true, true,
     "Summarize the dialogue into a few short sentences. The following are some examples.\n\n",
     "\n\n", ""},
    {"lsht", LEANK_METRIC_CLASS, 64, true, true, "请判断给定新闻的类别，下面是一些例子。\n\n", "\n",
     ""},
    {"passage_count", LEANK_METRIC_COUNT, 32, false, false,
     "There are some paragraphs below sourced from Wikipedia. Some of them may be duplicates. "
     "Please carefully read these paragraphs and determine how many unique paragraphs there are "
     "after removing duplicates. In other words, how many non-repeating paragraphs are there in "
     "total?\n\n",
     "\n\nPlease enter the final count of unique paragraphs after removing duplicates. The output "
     "format should only contain the number, such as 1, 2, 3, and so on.\n\nThe final answer is: ",
     NULL},
    {"passage_retrieval_en", LEANK_METRIC_RETRIEVAL, 32, false, false,
     "Here are 30 paragraphs from Wikipedia, along with an abstract. Please determine which "
     "paragraph the abstract is from.\n\n",
     "\n\nThe following is an abstract.\n\n",
     "\n\nPlease enter the number of the paragraph that the abstract is from. The answer format "
     "must be like \"Paragraph 1\", \"Paragraph 2\", etc.\n\nThe answer is: "},
    {"passage_retrieval_zh", LEANK_METRIC_RETRIEVAL, 32, false, false,
     "以下是若干段落文字，以及其中一个段落的摘要。请确定给定的摘要出自哪一段。\n\n",
     "\n\n下面是一个摘要\n\n",
     "\n\n请输入摘要所属段落的编号。答案格式必须是\"段落1\"，\"段落2\"等格式\n\n答案是："},
    {"lcc", LEANK_METRIC_CODE, 64, false, true, "Please complete the code given below. \n",
     "Next line of code:\n", NULL},
    {"repobench-p", LEANK_METRIC_CODE, 64, false, true, "Please complete the code given below. \n",
     "", "Next line of code:\n"},
};

/* Their scores are of words as the segmenter jieba finds them. */
static const char *const segmented[] = {"multifieldqa_zh", "dureader", "vcsum"};

const lk_longbench_task *lk_longbench_task_at(size_t i) {
  return i < sizeof tasks / sizeof *tasks ? &tasks[i] : NULL;
}

static const lk_longbench_task *find_by_name(const char *name) {
  for (size_t i = 0; i < sizeof tasks / sizeof *tasks; i++)
    if (strcmp(tasks[i].name, name) == 0) return &tasks[i];
  return NULL;
}

void lk_longbench_write(const lk_longbench_item *item, lk_text_buffer *out) {
  const lk_longbench_task *t = item->task;
  lk_text_put_str(out, t->before);
  lk_text_put_str(out, item->context);
  lk_text_put_str(out, t->between);
  if (!t->after) return; /* the data set asks nothing of its own */
  lk_text_put_str(out, item->input);
  lk_text_put_str(out, t->after);
}

/* ---- lines ---- */

static leank_status take_text(const json_t *object, const char *key, const lk_json_place *at,
                              char **out, leank_error *err) {
  leank_status status = LEANK_OK;
  const json_t *value = json_object_get(object, key);
  LK_FAIL_IF(!json_is_string(value), err, LEANK_E_FORMAT, at->offset,
             "%s:%zu: \"%s\" is missing or no string", at->name, at->line, key);
  *out = lk_strdup(json_string_value(value));
  LK_FAIL_IF(!*out, err, LEANK_E_MEMORY, -1, "out of memory");
cleanup:
  return status;
}

static leank_status take_list(const json_t *object, const char *key, size_t n_least,
                              const lk_json_place *at, char ***out, size_t *n_out,
                              leank_error *err) {
  leank_status status = LEANK_OK;
  const json_t *list = json_object_get(object, key);
  const size_t n = json_array_size(list); /* 0 of null and of what is no array */
  LK_FAIL_IF((list && !json_is_array(list) && !json_is_null(list)) || n < n_least, err,
             LEANK_E_FORMAT, at->offset, "%s:%zu: \"%s\" is missing, empty or no list", at->name,
             at->line, key);
  *out = lk_alloc(LK_MEM_OTHER, n, sizeof **out);
  LK_FAIL_IF(!*out, err, LEANK_E_MEMORY, -1, "out of memory");
  *n_out = n;
  for (size_t i = 0; i < n; i++) {
    const json_t *value = json_array_get(list, i);
    LK_FAIL_IF(!json_is_string(value), err, LEANK_E_FORMAT, at->offset,
               "%s:%zu: \"%s\" holds something that is no string", at->name, at->line, key);
    (*out)[i] = lk_strdup(json_string_value(value));
    LK_FAIL_IF(!(*out)[i], err, LEANK_E_MEMORY, -1, "out of memory");
  }
cleanup:
  return status;
}

/* The data set of a line without "dataset": the file's base name without ".jsonl" and "_e". */
static void name_of_file(const char *path, char *out, size_t room) {
  const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
  size_t n = strcspn(base, ".");
  if (n > 2 && memcmp(base + n - 2, "_e", 2) == 0) n -= 2;
  if (n >= room) n = room - 1;
  memcpy(out, base, n);
  out[n] = '\0';
}

static leank_status find_task(const json_t *object, const lk_json_place *at,
                              const lk_longbench_task **out, leank_error *err) {
  leank_status status = LEANK_OK;
  char own[64];
  const char *name = json_string_value(json_object_get(object, "dataset"));
  name_of_file(name ? name : at->name, own, sizeof own);
  for (size_t i = 0; i < sizeof segmented / sizeof *segmented; i++)
    LK_FAIL_IF(strcmp(own, segmented[i]) == 0, err, LEANK_E_UNSUPPORTED, at->offset,
               "%s:%zu: data set %s is scored by words of Chinese, which are not found here",
               at->name, at->line, own);
  *out = find_by_name(own);
  LK_FAIL_IF(!*out, err, LEANK_E_FORMAT, at->offset, "%s:%zu: unknown data set '%s'", at->name,
             at->line, lk_printable(own, strlen(own)).text);
cleanup:
  return status;
}

static leank_status check_item(const lk_longbench_item *item, const lk_json_place *at,
                               leank_error *err) {
  double score;
  leank_error why;
  const leank_status status =
      leank_eval_score(item->task->metric, "", (const char *const *)item->answers, item->n_answers,
                       (const char *const *)item->classes, item->n_classes, &score, &why);
  if (status == LEANK_OK) return LEANK_OK;
  return lk_fail(err, status == LEANK_E_MEMORY ? status : LEANK_E_FORMAT, at->offset, "%s:%zu: %s",
                 at->name, at->line, why.message);
}

static leank_status take_line(const json_t *object, const lk_json_place *at, lk_longbench *out,
                              leank_error *err) {
  leank_status status = LEANK_OK;
  lk_longbench_item *item, *items;
  LK_FAIL_IF(out->n == LK_MAX_LONGBENCH_LINES, err, LEANK_E_FORMAT, at->offset,
             "%s:%zu: more than %d lines", at->name, at->line, LK_MAX_LONGBENCH_LINES);
  items = lk_grow(out->items, LK_MEM_OTHER, out->n, &out->room, sizeof *items);
  LK_FAIL_IF(!items, err, LEANK_E_MEMORY, -1, "out of memory");
  out->items = items;
  item = &out->items[out->n++];
  *item = (lk_longbench_item){0};
  LK_TRY(find_task(object, at, &item->task, err));
  LK_TRY(take_text(object, "context", at, &item->context, err));
  LK_TRY(take_text(object, "input", at, &item->input, err));
  LK_TRY(take_list(object, "answers", 1, at, &item->answers, &item->n_answers, err));
  LK_TRY(take_list(object, "all_classes", item->task->metric == LEANK_METRIC_CLASS, at,
                   &item->classes, &item->n_classes, err));
  LK_TRY(check_item(item, at, err));
cleanup:
  return status;
}

leank_status lk_longbench_parse(const char *bytes, size_t n_bytes, const char *name,
                                lk_longbench *out, leank_error *err) {
  lk_json_lines lines = {bytes, n_bytes, SIZE_MAX, {.name = name}, 0};
  const size_t n_before = out->n;
  for (;;) {
    json_t *object = NULL;
    leank_status status = lk_json_lines_next(&lines, &object, err);
    if (!object && status == LEANK_OK) break;
    if (status == LEANK_OK) status = take_line(object, &lines.at, out, err);
    json_decref(object);
    if (status != LEANK_OK) return status;
  }
  if (out->n == n_before) return lk_fail(err, LEANK_E_FORMAT, -1, "%s: holds no line", name);
  return LEANK_OK;
}

leank_status lk_longbench_read(const char *path, lk_longbench *out, leank_error *err) {
  char *bytes = NULL;
  size_t n = 0;
  leank_status status = lk_file_read(path, LK_MAX_LONGBENCH_BYTES, &bytes, &n, err);
  if (status == LEANK_OK) status = lk_longbench_parse(bytes, n, path, out, err);
  lk_free(bytes);
  return status;
}

static void free_list(char **list, size_t n) {
  for (size_t i = 0; list && i < n; i++) lk_free(list[i]);
  lk_free(list);
}

void lk_longbench_free(lk_longbench *data) {
  for (size_t i = 0; i < data->n; i++) {
    lk_free(data->items[i].context);
    lk_free(data->items[i].input);
    free_list(data->items[i].answers, data->items[i].n_answers);
    free_list(data->items[i].classes, data->items[i].n_classes);
  }
  lk_free(data->items);
  *data = (lk_longbench){0};
}
