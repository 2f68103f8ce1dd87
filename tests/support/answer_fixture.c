#include "support/answer_fixture.h"

#include <setjmp.h>
#include <stdarg.h>

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

static void read_context(lk_answer_fixture *f, leank_kv_type type, size_t n_threads,
                         leank_device device) {
  leank_error err = {0};
  const leank_model_info *m = leank_model_get_info(f->model);
  const lk_contexts contexts = {&f->context, 1};
  const lk_backend_options options = {
      .device = device,
      .model = f->model,
      .kv_type = type,
      .n_threads = n_threads,
      .cpu = lk_test_cpu(),
      .max_few_rows = 1,
      .max_cols = lk_forward_widest(m),
      .max_pages = lk_prefill_max_pages(contexts),
      .shape = {.n_heads = m->n_heads, .n_kv_heads = m->n_kv_heads, .head_dim = m->head_dim},
      .precise_attention = true};
  const lk_prefill_options prefill = {.chunk = 128};
  lk_assert_ok(lk_backend_open(&options, &f->backend, &err), &err);
  lk_assert_ok(lk_prefill_open(f->model, f->backend, type, contexts, &f->prefill, &err), &err);
  lk_assert_ok(lk_prefill_read(&f->prefill, 0, &prefill, &err), &err);
}

void lk_answer_fixture_open(lk_answer_fixture *f, const leank_model *model,
                            const leank_context *context, leank_kv_type type, size_t n_threads) {
  lk_answer_fixture_open_on(f, model, context, type, n_threads, LEANK_DEVICE_CPU);
}

void lk_answer_fixture_open_on(lk_answer_fixture *f, const leank_model *model,
                               const leank_context *context, leank_kv_type type, size_t n_threads,
                               leank_device device) {
  leank_error err = {0};
  const leank_model_info *m = leank_model_get_info(model);
  *f = (lk_answer_fixture){.model = model,
                           .context = *context,
                           .n_answers = context->n_questions,
                           .n_params = m->n_layers * m->n_kv_heads * m->head_dim};
  read_context(f, type, n_threads, device);
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

/* dweight[n_params] of lk_answer_backward to half order. */
static void to_half(const lk_answer_fixture *f, const double *dweight, double *gradient) {
  const leank_model_info *m = leank_model_get_info(f->model);
  const size_t d = m->head_dim;
  for (size_t i = 0; i < f->n_params; i++)
    gradient[i] = dweight[i / d * d + lk_channel_from_half(m->order, d, i % d)];
}

double lk_fixture_loss(lk_answer_fixture *f, lk_answer *const *answers, size_t n, lk_split split,
                       leank_loss loss, double *gradient) {
  leank_error err = {0};
  lk_backend *be = f->backend;
  const size_t n_bytes = f->n_params * sizeof(double);
  double *dweight = be->ops->alloc(be, LK_MEM_SCRATCH, n_bytes);
  double *host = test_calloc(f->n_params, sizeof *host), value;
  lk_distiller distiller;
  assert_non_null(dweight);
  lk_assert_ok(
      lk_distiller_open(f->model, be, loss, 1, f->n_rows, be->ops->n_threads(be), &distiller, &err),
      &err);
  lk_fixture_forward(f, answers, n, split);
  lk_assert_ok(lk_distill(&distiller, &f->pass, &value, &err), &err);
  be->ops->zero(be, dweight, n_bytes);
  lk_assert_ok(lk_answer_backward(&f->pass, distiller.dhidden, dweight, &err), &err);
  lk_assert_ok(be->ops->download(be, host, dweight, n_bytes, &err), &err);
  to_half(f, host, gradient);
  lk_distiller_close(&distiller);
  be->ops->free(be, dweight);
  test_free(host);
  return value;
}
