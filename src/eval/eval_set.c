/* Sets of prompts: which there are, and making one of them. */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/hash.h"
#include "eval/eval_set.h"
#include "eval/fit.h"
#include "eval/longbench.h"

/* Named maxima. */
enum { MAX_PROMPTS = 1 << 20, MIN_PASSAGE = 2, SEAM = 16 };

static const char passage_name[] = "prose";

/* ---- names ---- */

const char *leank_eval_suite_name(leank_eval_suite suite) {
  static const char *const names[] = {"ruler", "niah", "gsm-infinite", "ppl", "kl", "longbench"};
  return (unsigned)suite < LEANK_N_SUITES ? names[suite] : NULL;
}

static bool is_passages(leank_eval_suite suite) {
  return suite == LEANK_SUITE_PPL || suite == LEANK_SUITE_KL;
}

/* RULER has the needles too. */
static bool belongs(const lk_quiz_task *task, leank_eval_suite suite) {
  return task->suite == suite || (suite == LEANK_SUITE_RULER && task->suite == LEANK_SUITE_NIAH);
}

static const lk_quiz_task *quiz_at(leank_eval_suite suite, size_t i) {
  const lk_quiz_task *task;
  for (size_t j = 0; (task = lk_quiz_task_at(j)); j++)
    if (belongs(task, suite) && i-- == 0) return task;
  return NULL;
}

const char *leank_eval_task_name(leank_eval_suite suite, size_t i) {
  if (is_passages(suite)) return i == 0 ? passage_name : NULL;
  if (suite == LEANK_SUITE_LONGBENCH) {
    const lk_longbench_task *data = lk_longbench_task_at(i);
    return data ? data->name : NULL;
  }
  const lk_quiz_task *quiz = quiz_at(suite, i);
  return quiz ? quiz->name : NULL;
}

void leank_eval_options_default(leank_eval_options *options) {
  static const size_t lengths[] = {4096};
  *options = (leank_eval_options){.struct_size = sizeof *options,
                                  .suite = LEANK_SUITE_RULER,
                                  .lengths = lengths,
                                  .n_lengths = 1,
                                  .n_samples = 25,
                                  .seed = 1,
                                  .n_rows = 256};
}

/* ---- sets ---- */

/* One prompt to be. */
typedef struct job {
  const char *name;
  size_t task, length, sample;
  const lk_quiz_task *quiz;      /* or */
  const lk_longbench_item *item; /* or a passage */
} job;

struct leank_eval_set {
  const leank_tokenizer *tokenizer;
  lk_prompter prompter;
  lk_haystack haystack;
  lk_longbench data;
  lk_qa_data qa[2]; /* SQuAD, HotpotQA; empty where the user has no file */
  bool own_text;    /* the user's prose, which is read in its order */
  uint64_t seed;
  size_t n_rows;
  job *jobs; /* [n] */
  size_t n;
};

static bool is_asked(const leank_eval_options *o, const char *name) {
  for (size_t i = 0; i < o->n_tasks; i++)
    if (strcmp(o->tasks[i], name) == 0) return true;
  return o->n_tasks == 0;
}

/* The user's file that a task of questions is about or, of our own documents, that takes its place.
 */
static const char *file_of(const leank_eval_options *o, const lk_quiz_task *task) {
  return task->kind == 2 ? o->hotpot : o->squad;
}

static bool is_of_files(const lk_quiz_task *task) { return task->write == lk_qa_write; }

/* Our own documents are asked about where the user has none, or by name. */
static bool is_wanted(const leank_eval_options *o, const lk_quiz_task *task) {
  if (!is_asked(o, task->name)) return false;
  if (is_of_files(task)) return file_of(o, task) != NULL;
  return o->n_tasks > 0 || task->write != lk_qa_like_write || !file_of(o, task);
}

static leank_status check_files(const leank_eval_options *o, leank_error *err) {
  const lk_quiz_task *task;
  for (size_t i = 0; (task = quiz_at(o->suite, i)); i++)
    if (is_of_files(task) && o->n_tasks > 0 && is_asked(o, task->name) && !file_of(o, task))
      return lk_fail(err, LEANK_E_ARGUMENT, -1, "task %s needs the file of %s", task->name,
                     task->kind == 2 ? "HotpotQA" : "SQuAD");
  return LEANK_OK;
}

static leank_status check_tasks(const leank_eval_options *o, leank_error *err) {
  for (size_t i = 0; i < o->n_tasks; i++) {
    const char *name;
    bool known = false;
    for (size_t j = 0; (name = leank_eval_task_name(o->suite, j)); j++)
      known = known || strcmp(o->tasks[i], name) == 0;
    if (!known)
      return lk_fail(err, LEANK_E_ARGUMENT, -1, "suite %s has no task '%.64s'",
                     leank_eval_suite_name(o->suite), o->tasks[i]);
  }
  return LEANK_OK;
}

static leank_status check(const leank_eval_options *o, size_t n_ctx, leank_error *err) {
  leank_status status = LEANK_OK;
  LK_FAIL_IF(o->struct_size != sizeof *o, err, LEANK_E_ARGUMENT, -1,
             "eval options of %zu bytes: fill them with leank_eval_options_default",
             o->struct_size);
  LK_FAIL_IF(!leank_eval_suite_name(o->suite), err, LEANK_E_ARGUMENT, -1, "unknown suite %d",
             (int)o->suite);
  LK_TRY(check_tasks(o, err));
  LK_TRY(check_files(o, err));
  LK_FAIL_IF(o->n_lengths == 0 || o->n_samples == 0, err, LEANK_E_ARGUMENT, -1,
             "a set of no length or no sample");
  LK_FAIL_IF(o->n_samples > MAX_PROMPTS || o->n_lengths > MAX_PROMPTS, err, LEANK_E_ARGUMENT, -1,
             "more than %d prompts", MAX_PROMPTS);
  for (size_t i = 0; i < o->n_lengths; i++)
    LK_FAIL_IF(o->lengths[i] > n_ctx, err, LEANK_E_CONTEXT, -1,
               "prompts of %zu tokens, but the model was made for %zu", o->lengths[i], n_ctx);
  for (size_t i = 0; is_passages(o->suite) && i < o->n_lengths; i++)
    LK_FAIL_IF(o->n_rows < MIN_PASSAGE || o->n_rows >= o->lengths[i], err, LEANK_E_ARGUMENT, -1,
               "%zu rows of %zu tokens: at least %d, fewer than all", o->n_rows, o->lengths[i],
               MIN_PASSAGE);
  LK_FAIL_IF((o->suite == LEANK_SUITE_LONGBENCH) != (o->n_files > 0), err, LEANK_E_ARGUMENT, -1,
             "data files belong to suite longbench, and it needs one at least");
cleanup:
  return status;
}

static leank_status add_job(leank_eval_set *set, size_t *room, const job *added, leank_error *err) {
  if (set->n == MAX_PROMPTS)
    return lk_fail(err, LEANK_E_ARGUMENT, -1, "more than %d prompts", MAX_PROMPTS);
  job *jobs = lk_grow(set->jobs, LK_MEM_OTHER, set->n, room, sizeof *jobs);
  if (!jobs) return lk_fail(err, LEANK_E_MEMORY, -1, "out of memory");
  set->jobs = jobs;
  set->jobs[set->n++] = *added;
  return LEANK_OK;
}

/* Every sample and length of a task. */
static leank_status add_task(leank_eval_set *set, const leank_eval_options *o, size_t *room, job j,
                             leank_error *err) {
  for (size_t s = 0; s < o->n_samples; s++)
    for (size_t i = 0; i < o->n_lengths; i++) {
      j.sample = s;
      j.length = o->lengths[i];
      const leank_status status = add_job(set, room, &j, err);
      if (status != LEANK_OK) return status;
    }
  return LEANK_OK;
}

static leank_status add_data(leank_eval_set *set, const leank_eval_options *o, size_t *room,
                             leank_error *err) {
  const lk_longbench_task *task;
  for (size_t t = 0; (task = lk_longbench_task_at(t)); t++) {
    size_t sample = 0;
    for (size_t i = 0; i < set->data.n && sample < o->n_samples; i++) {
      if (set->data.items[i].task != task || !is_asked(o, task->name)) continue;
      for (size_t l = 0; l < o->n_lengths; l++) {
        const job j = {.name = task->name,
                       .task = t,
                       .length = o->lengths[l],
                       .sample = sample,
                       .item = &set->data.items[i]};
        const leank_status status = add_job(set, room, &j, err);
        if (status != LEANK_OK) return status;
      }
      sample++;
    }
  }
  return LEANK_OK;
}

static int compare_jobs(const void *x, const void *y) {
  const job *a = x, *b = y;
  if (a->sample != b->sample) return a->sample < b->sample ? -1 : 1;
  if (a->length != b->length) return a->length < b->length ? -1 : 1;
  return (a->task > b->task) - (a->task < b->task);
}

static leank_status add_jobs(leank_eval_set *set, const leank_eval_options *o, leank_error *err) {
  leank_status status = LEANK_OK;
  size_t room = 0;
  const lk_quiz_task *quiz;
  if (is_passages(o->suite)) LK_TRY(add_task(set, o, &room, (job){.name = passage_name}, err));
  if (o->suite == LEANK_SUITE_LONGBENCH) LK_TRY(add_data(set, o, &room, err));
  for (size_t i = 0; (quiz = quiz_at(o->suite, i)); i++) {
    const job j = {.name = quiz->name, .task = i, .quiz = quiz};
    if (is_wanted(o, quiz)) LK_TRY(add_task(set, o, &room, j, err));
  }
  LK_FAIL_IF(set->n == 0, err, LEANK_E_ARGUMENT, -1, "no line of the files is of these tasks");
  qsort(set->jobs, set->n, sizeof *set->jobs, compare_jobs);
cleanup:
  return status;
}

leank_status lk_eval_set_make(const leank_tokenizer *tokenizer, size_t n_ctx,
                              const leank_eval_options *o, leank_eval_set **out, leank_error *err) {
  leank_status status = LEANK_OK;
  leank_eval_set *set = NULL;
  LK_TRY(check(o, n_ctx, err));
  set = lk_alloc(LK_MEM_OTHER, 1, sizeof *set);
  LK_FAIL_IF(!set, err, LEANK_E_MEMORY, -1, "out of memory");
  set->tokenizer = tokenizer;
  set->seed = o->seed;
  set->n_rows = o->n_rows;
  set->own_text = o->n_haystacks > 0;
  LK_TRY(lk_prompter_open(tokenizer, &set->prompter, err));
  LK_TRY(lk_haystack_open(o->haystacks, o->n_haystacks, &set->haystack, err));
  if (o->squad) LK_TRY(lk_qa_read(o->squad, LK_QA_SQUAD, &set->qa[0], err));
  if (o->hotpot) LK_TRY(lk_qa_read(o->hotpot, LK_QA_HOTPOT, &set->qa[1], err));
  for (size_t i = 0; i < o->n_files; i++) LK_TRY(lk_longbench_read(o->files[i], &set->data, err));
  LK_TRY(add_jobs(set, o, err));
  *out = set;
  set = NULL;
cleanup:
  leank_eval_set_close(&set);
  return status;
}

leank_status leank_eval_set_open(const leank_model *model, const leank_eval_options *options,
                                 leank_eval_set **out, leank_error *err) {
  if (!model || !options || !out)
    return lk_fail(err, LEANK_E_ARGUMENT, -1, "leank_eval_set_open: NULL");
  const leank_tokenizer *tokenizer = leank_model_get_tokenizer(model);
  if (!tokenizer)
    return lk_fail(err, LEANK_E_UNSUPPORTED, -1, "the model has no tokenizer to make prompts with");
  return lk_eval_set_make(tokenizer, leank_model_get_info(model)->n_ctx_train, options, out, err);
}

void leank_eval_set_close(leank_eval_set **set) {
  if (!set || !*set) return;
  lk_haystack_close(&(*set)->haystack);
  lk_longbench_free(&(*set)->data);
  lk_qa_free(&(*set)->qa[0]);
  lk_qa_free(&(*set)->qa[1]);
  lk_free((*set)->jobs);
  lk_free(*set);
  *set = NULL;
}

size_t leank_eval_set_size(const leank_eval_set *set) { return set->n; }

static void describe(const leank_eval_set *set, size_t i, leank_eval_prompt *out) {
  const job *j = &set->jobs[i];
  *out = (leank_eval_prompt){
      .task = j->name, .length = j->length, .sample = j->sample, .metric = LEANK_METRIC_NONE};
  if (j->quiz) {
    out->metric = j->quiz->metric;
    out->max_new = j->quiz->max_new;
  } else if (j->item) {
    out->metric = j->item->task->metric;
    out->max_new = j->item->task->max_new;
    out->first_line = j->item->task->first_line;
  }
}

void leank_eval_set_describe(const leank_eval_set *set, size_t i, leank_eval_prompt *out) {
  *out = (leank_eval_prompt){0};
  if (i < set->n) describe(set, i, out);
}

/* ---- prompts ---- */

/* A prompt and what it owns. */
typedef struct box {
  leank_eval_prompt prompt;
  char *message;
  leank_token *tokens;
  const char **references;
  char *texts; /* of references */
} box;

void leank_eval_prompt_close(leank_eval_prompt **prompt) {
  if (!prompt || !*prompt) return;
  box *b = (box *)*prompt;
  lk_free(b->message);
  lk_free(b->tokens);
  lk_free(b->references);
  lk_free(b->texts);
  lk_free(b);
  *prompt = NULL;
}

static uint64_t seed_of(const leank_eval_set *set, const job *j) {
  const uint64_t numbers[] = {set->seed, j->length, j->sample};
  return lk_hash(lk_hash(LK_HASH_START, numbers, sizeof numbers), j->name, strlen(j->name));
}

static leank_status make_quiz(const leank_eval_set *set, const job *j, box *out, leank_error *err) {
  leank_status status = LEANK_OK;
  lk_quiz quiz = {0};
  const lk_quiz_source source = {.rng = {seed_of(set, j)},
                                 .haystack = &set->haystack,
                                 .length = j->length,
                                 .qa = &set->qa[j->quiz->kind == 2]};
  LK_TRY(lk_quiz_fit(&set->prompter, j->quiz, &source, &quiz, &out->tokens, &out->prompt.n_tokens,
                     NULL, err));
  out->references = lk_alloc(LK_MEM_OTHER, quiz.n_references, sizeof *out->references);
  LK_FAIL_IF(!out->references, err, LEANK_E_MEMORY, -1, "out of memory");
  out->message = quiz.message.text;
  out->texts = quiz.references.text;
  quiz.message = quiz.references = (lk_text_buffer){0};
  const char *at = out->texts;
  for (size_t i = 0; i < quiz.n_references; i++, at += strlen(at) + 1) out->references[i] = at;
  out->prompt.references = out->references;
  out->prompt.n_references = quiz.n_references;
cleanup:
  lk_quiz_free(&quiz);
  return status;
}

/* Text of tokens; a character that is cut becomes U+FFFD. */
static void put_tokens(const leank_tokenizer *tokenizer, const leank_token *tokens, size_t n,
                       lk_text_buffer *out) {
  leank_utf8_stream stream = {{0}, 0};
  for (size_t i = 0; i <= n && !out->failed; i++) {
    size_t n_bytes = 0;
    const char *bytes = i < n ? leank_token_bytes(tokenizer, tokens[i], &n_bytes) : "";
    char *text = lk_alloc(LK_MEM_OTHER, 3 * (n_bytes + 4), 1);
    if (!text) {
      out->failed = true;
      return;
    }
    lk_text_put(out, text, leank_utf8_stream_feed(&stream, bytes, n_bytes, i == n, text));
    lk_free(text);
  }
}

/* Drops the middle of a text that has more than n tokens, as LongBench's pred.py does. */
static leank_status truncate(const leank_eval_set *set, lk_text_buffer *text, size_t n,
                             leank_error *err) {
  leank_status status = LEANK_OK;
  leank_token *tokens = NULL;
  size_t n_tokens = 0;
  lk_text_buffer cut = {0};
  LK_TRY(leank_tokenize(set->tokenizer, text->text, text->n, LEANK_TOKENIZE_PLAIN, &tokens,
                        &n_tokens, err));
  if (n_tokens > n) {
    put_tokens(set->tokenizer, tokens, n / 2, &cut);
    put_tokens(set->tokenizer, tokens + n_tokens - n / 2, n / 2, &cut);
    LK_FAIL_IF(cut.failed, err, LEANK_E_MEMORY, -1, "out of memory");
    const lk_text_buffer whole = *text;
    *text = cut;
    cut = whole;
  }
cleanup:
  leank_tokens_free(&tokens);
  lk_text_buffer_free(&cut);
  return status;
}

/* Tokens that the chat template adds, or the beginning of a text. */
static leank_status count_frame(const leank_eval_set *set, bool plain, size_t *n,
                                leank_error *err) {
  leank_token *tokens = NULL;
  const leank_status status =
      plain ? leank_tokenize(set->tokenizer, "", 0, LEANK_TOKENIZE_BOS, &tokens, n, err)
            : lk_prompt_tokens(&set->prompter, "", "", &tokens, n, err);
  lk_free(tokens);
  return status;
}

static leank_status make_of_data(const leank_eval_set *set, const job *j, box *out,
                                 leank_error *err) {
  leank_status status = LEANK_OK;
  lk_text_buffer text = {0};
  const lk_longbench_task *task = j->item->task;
  size_t n_frame = 0;
  LK_TRY(count_frame(set, task->plain, &n_frame, err));
  const size_t room = task->max_new + n_frame + SEAM;
  LK_FAIL_IF(j->length < 2 * room, err, LEANK_E_ARGUMENT, -1, "%zu tokens are too few for task %s",
             j->length, j->name);
  lk_longbench_write(j->item, &text);
  LK_FAIL_IF(text.failed, err, LEANK_E_MEMORY, -1, "out of memory");
  LK_TRY(truncate(set, &text, j->length - room, err));
  if (task->plain)
    LK_TRY(leank_tokenize(set->tokenizer, text.text, text.n, LEANK_TOKENIZE_BOS, &out->tokens,
                          &out->prompt.n_tokens, err));
  else
    LK_TRY(
        lk_prompt_tokens(&set->prompter, text.text, "", &out->tokens, &out->prompt.n_tokens, err));
  /* The seam of a text that was cut is tokenized anew: a few tokens more, as a rule none. */
  LK_FAIL_IF(out->prompt.n_tokens + task->max_new > j->length, err, LEANK_E_ARGUMENT, -1,
             "%zu tokens are too few for sample %zu of task %s", j->length, j->sample, j->name);
  out->message = text.text;
  text = (lk_text_buffer){0};
  out->prompt.references = (const char *const *)j->item->answers;
  out->prompt.n_references = j->item->n_answers;
  out->prompt.classes = (const char *const *)j->item->classes;
  out->prompt.n_classes = j->item->n_classes;
cleanup:
  lk_text_buffer_free(&text);
  return status;
}

/* Sentences of the user's prose in their order, from anywhere; of the built-in one in any order, as
 * it is short. */
static void put_prose(const leank_eval_set *set, lk_rng *rng, size_t n_bytes, lk_text_buffer *out) {
  const lk_haystack *h = &set->haystack;
  size_t at = (size_t)lk_rng_below(rng, h->n);
  while (out->n < n_bytes && !out->failed) {
    lk_text_put(out, h->sentences[at].p, h->sentences[at].n);
    lk_text_put_str(out, " ");
    at = set->own_text ? (at + 1) % h->n : (size_t)lk_rng_below(rng, h->n);
  }
}

static leank_status make_passage(const leank_eval_set *set, const job *j, box *out,
                                 leank_error *err) {
  leank_status status = LEANK_OK;
  lk_text_buffer text = {0};
  size_t n = 0;
  for (size_t bytes = 5 * j->length; n < j->length; bytes *= 2) {
    lk_rng rng = {seed_of(set, j)};
    leank_tokens_free(&out->tokens);
    lk_text_cut(&text, 0);
    put_prose(set, &rng, bytes, &text);
    LK_FAIL_IF(text.failed, err, LEANK_E_MEMORY, -1, "out of memory");
    LK_TRY(leank_tokenize(set->tokenizer, text.text, text.n, LEANK_TOKENIZE_BOS, &out->tokens, &n,
                          err));
    LK_FAIL_IF(n == 0, err, LEANK_E_ARGUMENT, -1, "the model has no tokens for the prose");
  }
  out->message = text.text;
  text = (lk_text_buffer){0};
  out->prompt.n_tokens = j->length - set->n_rows;
  out->prompt.passage = out->tokens + out->prompt.n_tokens;
  out->prompt.n_passage = set->n_rows;
cleanup:
  lk_text_buffer_free(&text);
  return status;
}

leank_status leank_eval_prompt_make(const leank_eval_set *set, size_t i, leank_eval_prompt **out,
                                    leank_error *err) {
  leank_status status = LEANK_OK;
  leank_eval_prompt *prompt = NULL;
  LK_FAIL_IF(i >= set->n, err, LEANK_E_ARGUMENT, -1, "prompt %zu of %zu", i, set->n);
  box *made = lk_alloc(LK_MEM_OTHER, 1, sizeof *made);
  LK_FAIL_IF(!made, err, LEANK_E_MEMORY, -1, "out of memory");
  prompt = &made->prompt;
  describe(set, i, prompt);
  const job *j = &set->jobs[i];
  if (j->quiz)
    LK_TRY(make_quiz(set, j, made, err));
  else if (j->item)
    LK_TRY(make_of_data(set, j, made, err));
  else
    LK_TRY(make_passage(set, j, made, err));
  prompt->message = made->message;
  prompt->tokens = made->tokens;
  *out = prompt;
  prompt = NULL;
cleanup:
  leank_eval_prompt_close(&prompt);
  return status;
}
