#include "learn/dataset.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/alloc.h"
#include "base/rng.h"
#include "learn/dataset_file.h"
#include "learn/dataset_fit.h"
#include "learn/dataset_prompt.h"
#include "learn/dataset_random.h"
#include "learn/dataset_tasks.h"

/* ---- options ---- */

const char *leank_task_name(leank_task task) {
  static const char *const names[] = {"uuid", "words", "values", "passkeys", "file", "random"};
  return (unsigned)task < LEANK_N_TASKS ? names[task] : NULL;
}

void leank_dataset_options_default(leank_dataset_options *options) {
  *options = (leank_dataset_options){.struct_size = sizeof *options,
                                     .tasks = 1u << LEANK_TASK_UUID | 1u << LEANK_TASK_WORDS |
                                              1u << LEANK_TASK_VALUES,
                                     .n_contexts = 32,
                                     .n_questions = 4,
                                     .min_tokens = 1024,
                                     .max_tokens = 4096,
                                     .seed = 1,
                                     .random_prompt = 48,
                                     .random_answer = 28};
}

static bool has_task(const leank_dataset_options *o, leank_task task) {
  return o->tasks >> task & 1;
}

/* Whether some task is made of text. */
static bool has_text(const leank_dataset_options *o) {
  return (o->tasks & ~(1u << LEANK_TASK_RANDOM)) != 0;
}

static leank_status check_options(const leank_dataset_options *o, const lk_dataset_model *model,
                                  leank_error *err) {
  leank_status status = LEANK_OK;
  LK_FAIL_IF(o->struct_size != sizeof *o, err, LEANK_E_ARGUMENT, -1,
             "data set options of %zu bytes: fill them with leank_dataset_options_default",
             o->struct_size);
  LK_FAIL_IF(o->tasks == 0, err, LEANK_E_ARGUMENT, -1, "a data set of no task");
  LK_FAIL_IF(o->tasks >= 1u << LEANK_N_TASKS, err, LEANK_E_ARGUMENT, -1, "unknown tasks in 0x%x",
             o->tasks);
  LK_FAIL_IF(o->n_contexts == 0 || o->n_contexts > LK_MAX_CONTEXTS, err, LEANK_E_ARGUMENT, -1,
             "%zu contexts, expected 1 .. %d", o->n_contexts, LK_MAX_CONTEXTS);
  LK_FAIL_IF(o->n_questions == 0 || o->n_questions > LK_MAX_QUESTIONS, err, LEANK_E_ARGUMENT, -1,
             "%zu questions on a context, expected 1 .. %d", o->n_questions, LK_MAX_QUESTIONS);
  LK_FAIL_IF(o->min_tokens == 0 || o->min_tokens > o->max_tokens, err, LEANK_E_ARGUMENT, -1,
             "contexts of %zu .. %zu tokens: 1 or more, the shorter first", o->min_tokens,
             o->max_tokens);
  LK_FAIL_IF(o->max_tokens > model->n_ctx, err, LEANK_E_CONTEXT, -1,
             "contexts of %zu tokens, but the model was made for %zu", o->max_tokens, model->n_ctx);
  LK_FAIL_IF(has_task(o, LEANK_TASK_FILE) && !o->examples, err, LEANK_E_ARGUMENT, -1,
             "task file without a file of examples");
  LK_FAIL_IF(o->n_haystacks > 0 && !o->haystacks, err, LEANK_E_ARGUMENT, -1, "haystacks: NULL");
  LK_FAIL_IF(has_text(o) && !model->tokenizer, err, LEANK_E_UNSUPPORTED, -1,
             "the model has no tokenizer to make a data set with");
cleanup:
  return status;
}

/* ---- making ---- */

typedef struct maker {
  const leank_dataset_options *options;
  const lk_dataset_model *model;
  lk_prompter prompter;
  lk_haystack haystack;
  lk_examples examples;
  size_t next_example; /* where the next context of the file begins */
  lk_rng rng;
  size_t *aims; /* [n_contexts] tokens */
  leank_dataset *dataset;
} maker;

static void choose_aims(maker *m) {
  const leank_dataset_options *o = m->options;
  const uint64_t span = o->max_tokens - o->min_tokens, last = o->n_contexts - 1;
  for (uint64_t i = 0; i <= last; i++)
    m->aims[i] =
        last ? o->min_tokens + (size_t)((unsigned __int128)span * i / last) : o->max_tokens;
  for (size_t i = o->n_contexts; i > 1; i--) {
    const size_t j = lk_rng_below(&m->rng, i), aim = m->aims[i - 1];
    m->aims[i - 1] = m->aims[j];
    m->aims[j] = aim;
  }
}

static leank_status maker_open(maker *m, leank_error *err) {
  leank_status status = LEANK_OK;
  const leank_dataset_options *o = m->options;
  m->rng.state = o->seed;
  m->dataset = lk_alloc(LK_MEM_OTHER, 1, sizeof *m->dataset);
  m->aims = lk_alloc(LK_MEM_OTHER, o->n_contexts, sizeof *m->aims);
  LK_FAIL_IF(!m->dataset || !m->aims, err, LEANK_E_MEMORY, -1, "out of memory");
  m->dataset->contexts = lk_alloc(LK_MEM_OTHER, o->n_contexts, sizeof *m->dataset->contexts);
  LK_FAIL_IF(!m->dataset->contexts, err, LEANK_E_MEMORY, -1, "out of memory");
  choose_aims(m);
  if (has_text(o)) LK_TRY(lk_prompter_open(m->model->tokenizer, &m->prompter, err));
  if (has_task(o, LEANK_TASK_VALUES) || has_task(o, LEANK_TASK_PASSKEYS))
    LK_TRY(lk_haystack_open(o->haystacks, o->n_haystacks, &m->haystack, err));
  if (has_task(o, LEANK_TASK_FILE)) LK_TRY(lk_examples_open(o->examples, &m->examples, err));
cleanup:
  return status;
}

static void maker_close(maker *m) {
  leank_dataset_close(&m->dataset);
  lk_free(m->aims);
  lk_haystack_close(&m->haystack);
  lk_examples_close(&m->examples);
}

/* The context of `first` and of the lines behind it that share it. */
static leank_status make_of_file(const maker *m, const lk_example *first, size_t n,
                                 leank_context *out, leank_error *err) {
  leank_status status = LEANK_OK;
  lk_wording wordings[LK_MAX_QUESTIONS];
  lk_text_buffer context = {0};
  size_t n_longest = 0;
  for (size_t q = 0; q < n; q++)
    wordings[q] = (lk_wording){first[q].question, "Answer:", first[q].answer};
  lk_text_put_str(&context, first->context);
  LK_FAIL_IF(context.failed, err, LEANK_E_MEMORY, -1, "out of memory");
  LK_TRY(
      lk_context_make(&m->prompter, LEANK_TASK_FILE, &context, wordings, n, out, &n_longest, err));
  for (size_t q = 0; q < n; q++) {
    const size_t n_tokens = out->n_tokens + out->questions[q].n_prompt + out->questions[q].n_answer;
    LK_FAIL_IF(n_tokens > m->options->max_tokens, err, LEANK_E_CONTEXT, -1,
               "%s:%zu: an example of %zu tokens, more than the %zu allowed", m->options->examples,
               first[q].line, n_tokens, m->options->max_tokens);
  }
cleanup:
  lk_text_buffer_free(&context);
  return status;
}

static leank_status make_next_of_file(maker *m, leank_context *out, leank_error *err) {
  const lk_example *first = &m->examples.items[m->next_example];
  const size_t n_left = m->examples.n - m->next_example;
  size_t n = 1;
  while (n < n_left && n < LK_MAX_QUESTIONS && first[n].context == first->context) n++;
  m->next_example = n == n_left ? 0 : m->next_example + n;
  return make_of_file(m, first, n, out, err);
}

/* Contexts go through the tasks in turn. */
static leank_task task_of(unsigned tasks, size_t i) {
  size_t turn = i % (size_t)__builtin_popcount(tasks);
  unsigned task = 0;
  while (!(tasks >> task & 1) || turn-- > 0) task++;
  return (leank_task)task;
}

static leank_status make_context(maker *m, size_t i, leank_context *out, leank_error *err) {
  const leank_dataset_options *o = m->options;
  const lk_fit_options fit = {.task = task_of(o->tasks, i),
                              .n_questions = o->n_questions,
                              .aim = m->aims[i],
                              .seed = lk_rng_u64(&m->rng),
                              .haystack = &m->haystack};
  if (fit.task == LEANK_TASK_FILE) return make_next_of_file(m, out, err);
  if (fit.task == LEANK_TASK_RANDOM) {
    const lk_random_context sizes = {.n_vocab = m->model->n_vocab,
                                     .n_questions = o->n_questions,
                                     .n_all = fit.aim,
                                     .n_prompt = o->random_prompt,
                                     .n_answer = o->random_answer,
                                     .seed = fit.seed};
    return lk_context_random(&sizes, out, err);
  }
  return lk_context_fit(&m->prompter, &fit, out, err);
}

/* ---- fingerprint ---- */

/* FNV-1a over the 8 bytes of value, the low one first. */
static uint64_t hash_number(uint64_t hash, uint64_t value) {
  for (int i = 0; i < 64; i += 8) hash = (hash ^ (value >> i & 0xff)) * 0x100000001b3;
  return hash;
}

static uint64_t hash_tokens(uint64_t hash, const leank_token *tokens, size_t n) {
  hash = hash_number(hash, n);
  for (size_t i = 0; i < n; i++) hash = hash_number(hash, (uint32_t)tokens[i]);
  return hash;
}

static void write_fingerprint(leank_dataset *d) {
  uint64_t hash = hash_number(0xcbf29ce484222325, d->n);
  for (size_t i = 0; i < d->n; i++) {
    const leank_context *c = &d->contexts[i];
    hash = hash_number(hash_number(hash, c->task), c->n_questions);
    hash = hash_tokens(hash, c->tokens, c->n_tokens);
    for (size_t q = 0; q < c->n_questions; q++) {
      const leank_question *question = &c->questions[q];
      hash = hash_tokens(hash, question->prompt, question->n_prompt);
      hash = hash_tokens(hash, question->answer, question->n_answer);
      hash = hash_number(hash, question->n_text);
    }
  }
  snprintf(d->fingerprint, sizeof d->fingerprint, "%016" PRIx64, hash);
}

/* ---- public ---- */

leank_status lk_dataset_make(const lk_dataset_model *model, const leank_dataset_options *options,
                             leank_dataset **out, leank_error *err) {
  leank_status status = LEANK_OK;
  maker m = {.options = options, .model = model};
  LK_TRY(check_options(options, model, err));
  LK_TRY(maker_open(&m, err));
  for (size_t i = 0; i < options->n_contexts; i++) {
    m.dataset->n = i + 1; /* a context that fails half-made is empty or whole */
    LK_TRY(make_context(&m, i, &m.dataset->contexts[i], err));
  }
  write_fingerprint(m.dataset);
  *out = m.dataset;
  m.dataset = NULL;
cleanup:
  maker_close(&m);
  return status;
}

leank_status leank_dataset_make(const leank_model *model, const leank_dataset_options *options,
                                leank_dataset **out, leank_error *err) {
  leank_status status = LEANK_OK;
  LK_FAIL_IF(!model || !options || !out, err, LEANK_E_ARGUMENT, -1, "leank_dataset_make: NULL");
  const leank_model_info *info = leank_model_get_info(model);
  const lk_dataset_model known = {leank_model_get_tokenizer(model), info->n_ctx_train,
                                  info->n_vocab};
  LK_TRY(lk_dataset_make(&known, options, out, err));
cleanup:
  return status;
}

void leank_dataset_close(leank_dataset **dataset) {
  if (!dataset || !*dataset) return;
  for (size_t i = 0; i < (*dataset)->n; i++) lk_context_free(&(*dataset)->contexts[i]);
  lk_free((*dataset)->contexts);
  lk_free(*dataset);
  *dataset = NULL;
}

size_t leank_dataset_n_contexts(const leank_dataset *dataset) { return dataset->n; }

const leank_context *leank_dataset_get(const leank_dataset *dataset, size_t i) {
  return i < dataset->n ? &dataset->contexts[i] : NULL;
}

const char *leank_dataset_fingerprint(const leank_dataset *dataset) { return dataset->fingerprint; }
