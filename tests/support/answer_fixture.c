#include "support/answer_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "support/subject.h"

leank_question lk_fixture_question(const leank_token *tokens, size_t n_prompt, size_t n_rows) {
  return (leank_question){.text = "",
                          .answer_text = "",
                          .prompt = tokens,
                          .n_prompt = n_prompt,
                          .answer = tokens + n_prompt,
                          .n_answer = n_rows + 1,
                          .n_text = n_rows + 1};
}

static void read_context(lk_answer_fixture *f, leank_kv_type type, size_t n_threads) {
  leank_error err = {0};
  const leank_model_info *m = leank_model_get_info(f->model);
  const lk_contexts contexts = {&f->context, 1};
  const lk_backend_options options = {
      .kv_type = type,
      .n_threads = n_threads,
      .cpu = lk_test_cpu(),
      .max_few_rows = 1,
      .max_cols = lk_forward_widest(m),
      .max_pages = lk_prefill_max_pages(contexts),
      .shape = {.n_heads = m->n_heads, .n_kv_heads = m->n_kv_heads, .head_dim = m->head_dim},
      .precise_attention = true};
  const lk_prefill_options prefill = {.chunk = 128};
  lk_assert_ok(lk_backend_open_cpu(&options, &f->backend, &err), &err);
  lk_assert_ok(lk_prefill_open(f->model, f->backend, type, contexts, &f->prefill, &err), &err);
  lk_assert_ok(lk_prefill_read(&f->prefill, 0, &prefill, &err), &err);
}

void lk_answer_fixture_open(lk_answer_fixture *f, const leank_model *model,
                            const leank_context *context, leank_kv_type type, size_t n_threads) {
  leank_error err = {0};
  const leank_model_info *m = leank_model_get_info(model);
  *f = (lk_answer_fixture){.model = model,
                           .context = *context,
                           .n_answers = context->n_questions,
                           .n_params = m->n_layers * m->n_kv_heads * m->head_dim};
  read_context(f, type, n_threads);
  f->answers = test_calloc(f->n_answers, sizeof(lk_answer *));
  for (size_t i = 0; i < f->n_answers; i++) {
    f->answers[i] = &f->prefill.contexts[0].answers[i];
    f->n_rows += f->answers[i]->n_rows;
  }
  lk_assert_ok(lk_answer_pass_open(&f->prefill, f->n_rows, f->n_answers, true, &f->pass, &err),
               &err);
  lk_assert_ok(lk_seen_mask_open(m, f->backend, &f->seen, &err), &err);
}

void lk_answer_fixture_close(lk_answer_fixture *f) {
  lk_seen_mask_close(&f->seen);
  lk_answer_pass_close(&f->pass);
  lk_prefill_close(&f->prefill);
  f->backend->ops->close(f->backend);
  test_free(f->answers);
}

void lk_fixture_forward(lk_answer_fixture *f, lk_answer *const *answers, size_t n, lk_split split) {
  leank_error err = {0};
  const lk_seen seen = lk_seen_of(&f->seen, split);
  lk_assert_ok(lk_answer_forward(&f->pass, answers, n, &seen, &err), &err);
}

void lk_fixture_to_half(const lk_answer_fixture *f, const double *dweight, double *gradient) {
  const leank_model_info *m = leank_model_get_info(f->model);
  const size_t d = m->head_dim;
  for (size_t i = 0; i < f->n_params; i++)
    gradient[i] = dweight[i / d * d + lk_channel_from_half(m->order, d, i % d)];
}

double lk_fixture_loss(lk_answer_fixture *f, lk_answer *const *answers, size_t n, lk_split split,
                       double *gradient) {
  leank_error err = {0};
  const size_t hidden = leank_model_get_info(f->model)->hidden;
  lk_fixture_forward(f, answers, n, split);
  const size_t n_hidden = f->pass.n_rows * hidden;
  float *dhidden = test_calloc(n_hidden, sizeof *dhidden);
  double *dweight = test_calloc(f->n_params, sizeof *dweight), loss = 0;
  size_t at = 0;
  for (size_t i = 0; i < n; i++)
    for (size_t c = 0; c < answers[i]->n_rows * hidden; c++, at++) {
      const double d = (double)f->pass.forward.norm[at] - (double)answers[i]->hidden[c];
      loss += d * d / (double)n_hidden;
      dhidden[at] = (float)(2 * d / (double)n_hidden);
    }
  lk_assert_ok(lk_answer_backward(&f->pass, dhidden, dweight, &err), &err);
  lk_fixture_to_half(f, dweight, gradient);
  test_free(dhidden);
  test_free(dweight);
  return loss;
}
