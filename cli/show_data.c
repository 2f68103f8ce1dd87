#include "show_data.h"

#include <stdio.h>

#include "cli_console.h"
#include "cli_report.h"

static void append_tokens(const leank_tokenizer *tokenizer, const leank_token *tokens, size_t n,
                          cli_buffer *out) {
  for (size_t i = 0; i < n; i++) {
    size_t n_bytes;
    const char *bytes = leank_token_bytes(tokenizer, tokens[i], &n_bytes);
    if (bytes) cli_buffer_append(out, bytes, n_bytes);
  }
  cli_buffer_append(out, "", 1);
}

/* A JSON string of tokens' text. */
static json_t *tokens_json(const leank_tokenizer *t, const leank_token *tokens, size_t n) {
  cli_buffer text = {0};
  append_tokens(t, tokens, n, &text);
  json_t *j = cli_json_text(text.data);
  cli_buffer_free(&text);
  return j;
}

static void print_tokens(const leank_tokenizer *t, const leank_token *tokens, size_t n) {
  cli_buffer text = {0};
  append_tokens(t, tokens, n, &text);
  fwrite(text.data, 1, text.n - 1, stdout);
  cli_buffer_free(&text);
}

static json_t *context_json(const leank_tokenizer *t, const leank_context *c) {
  json_t *j = json_object(), *questions = json_array();
  json_object_set_new(j, "task", json_string(leank_task_name(c->task)));
  json_object_set_new(j, "n_tokens", cli_json_size(c->n_tokens));
  json_object_set_new(j, "text", tokens_json(t, c->tokens, c->n_tokens));
  for (size_t i = 0; i < c->n_questions; i++) {
    const leank_question *q = &c->questions[i];
    json_t *one = json_object();
    json_object_set_new(one, "question", cli_json_text(q->text));
    json_object_set_new(one, "answer", cli_json_text(q->answer_text));
    json_object_set_new(one, "prompt_end", tokens_json(t, q->prompt, q->n_prompt));
    json_object_set_new(one, "n_prompt", cli_json_size(c->n_tokens + q->n_prompt));
    json_object_set_new(one, "n_answer", cli_json_size(q->n_answer));
    json_array_append_new(questions, one);
  }
  json_object_set_new(j, "questions", questions);
  return j;
}

static void print_context(const leank_tokenizer *t, const leank_context *c, size_t number) {
  printf("=== context %zu: task %s, %zu tokens ===\n", number, leank_task_name(c->task),
         c->n_tokens);
  print_tokens(t, c->tokens, c->n_tokens);
  putchar('\n');
  for (size_t i = 0; i < c->n_questions; i++) {
    const leank_question *q = &c->questions[i];
    printf("--- question %zu: %zu tokens of prompt, %zu of answer ---\n", i + 1,
           c->n_tokens + q->n_prompt, q->n_answer);
    print_tokens(t, q->prompt, q->n_prompt);
    printf("[");
    print_tokens(t, q->answer, q->n_answer);
    printf("]\n");
  }
}

int show_data(const leank_model *model, const leank_dataset_options *options, size_t n, bool json) {
  leank_dataset *dataset = NULL;
  leank_error err;
  const leank_tokenizer *tokenizer = leank_model_get_tokenizer(model);
  if (leank_dataset_make(model, options, &dataset, &err) != LEANK_OK) return cli_fail(&err);
  const size_t most = leank_dataset_n_contexts(dataset);
  for (size_t i = 0; i < n && i < most; i++) {
    const leank_context *c = leank_dataset_get(dataset, i);
    if (json)
      cli_json_print(context_json(tokenizer, c), true);
    else
      print_context(tokenizer, c, i + 1);
  }
  leank_dataset_close(&dataset);
  return CLI_OK;
}
