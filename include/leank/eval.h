/* Evaluation: prompts whose answers are known, what an answer is worth, and what a mask changes.
 *
 * A set of prompts (leank_eval_set) is drawn from a seed; the dense model and any number of
 * variants answer each of them after one dense prefill (leank_eval_answer).
 *
 * Letters: L layers, Hk kv heads, D head dim, T tokens of a prompt, V vocabulary.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LEANK_EVAL_H
#define LEANK_EVAL_H

#include <leank/mask.h>
#include <leank/model.h>
#include <leank/session.h>
#include <leank/text.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- scores ---- */

/* What an answer is worth, 0 .. 1. Sources: RULER (NVIDIA, arXiv 2404.06654), GSM-Infinite (arXiv
 * 2502.05252), LongBench v1 (arXiv 2308.14508) as its metrics.py computes it, oddities included. */
typedef enum leank_eval_metric {
  LEANK_METRIC_ALL = 0,   /* share of the references that the answer holds, whatever the case */
  LEANK_METRIC_PART,      /* 1 where it holds any of them */
  LEANK_METRIC_VARIABLES, /* 1 where the set of V123 behind the last "ANSWER:" is the references */
  LEANK_METRIC_F1,        /* LongBench: F1 of words without articles and punctuation */
  LEANK_METRIC_ROUGE_L,   /* LongBench: ROUGE-L over sentences, sets of words */
  LEANK_METRIC_CLASS,     /* LongBench: 1 / names of classes found, where the right one is found */
  LEANK_METRIC_RETRIEVAL, /* LongBench: share of the answer's numbers that are the paragraph's */
  LEANK_METRIC_COUNT,     /* LongBench: share of the answer's numbers that are the reference */
  LEANK_METRIC_CODE,      /* LongBench: similarity of the first line that is no comment */
  LEANK_METRIC_NONE       /* a passage: there is nothing to score but its tokens */
} leank_eval_metric;

/* Static storage. NULL for none of them. */
LEANK_API const char *leank_eval_metric_name(leank_eval_metric metric);

/* Scores an answer (UTF-8). LongBench's metrics take the best over the references. classes: of
 * LEANK_METRIC_CLASS. LEANK_E_ARGUMENT without references, or where a reference of
 * LEANK_METRIC_RETRIEVAL names no paragraph; LEANK_E_MEMORY. */
LEANK_API leank_status leank_eval_score(leank_eval_metric metric, const char *answer,
                                        const char *const *references, size_t n_references,
                                        const char *const *classes, size_t n_classes, double *out,
                                        leank_error *err);

/* ---- prompts ---- */

typedef enum leank_eval_suite {
  LEANK_SUITE_RULER = 0, /* all 13 tasks; the two of questions are "qa_like", about documents of our
                            own, where the user gives no files for "qa_1" and "qa_2" */
  LEANK_SUITE_NIAH,      /* those of needles in haystacks */
  LEANK_SUITE_GSM,       /* GSM-Infinite, symbolic: one task per number of operations */
  LEANK_SUITE_PPL,       /* prose: perplexity */
  LEANK_SUITE_KL,        /* prose: KL alone */
  LEANK_SUITE_LONGBENCH, /* the user's files in LongBench v1's JSON lines */
  LEANK_N_SUITES
} leank_eval_suite;

/* "ruler", "niah", "gsm-infinite", "ppl", "kl", "longbench". NULL for none of them. */
LEANK_API const char *leank_eval_suite_name(leank_eval_suite suite);
/* Task i of a suite; NULL behind the last (of longbench: the data sets that can be scored). */
LEANK_API const char *leank_eval_task_name(leank_eval_suite suite, size_t i);

typedef struct leank_eval_options {
  size_t struct_size;
  leank_eval_suite suite;
  const char *const *tasks; /* [n_tasks] names; none: all of the suite (longbench: of the files) */
  size_t n_tasks;
  const size_t *lengths; /* [n_lengths] tokens that prompt and answer together never exceed */
  size_t n_lengths;
  size_t n_samples; /* of each task and length; longbench: the first lines of each data set */
  uint64_t seed;
  const char *const *haystacks; /* [n_haystacks] UTF-8 text files; none: the built-in prose */
  size_t n_haystacks;
  const char *const *files; /* [n_files] of longbench */
  size_t n_files;
  size_t n_rows; /* of a passage: its last tokens, which are scored */
  /* JSON files of SQuAD and of HotpotQA (distractor) or NULL: with them RULER has qa_1 and qa_2 in
   * place of qa_like_1 and qa_like_2. */
  const char *squad, *hotpot;
} leank_eval_options;

/* RULER at 4096 tokens, 25 samples, seed 1, 256 rows. */
LEANK_API void leank_eval_options_default(leank_eval_options *options);

typedef struct leank_eval_prompt {
  const char *task; /* owned by the set */
  size_t length;    /* the budget */
  size_t sample;    /* from 0 */
  leank_eval_metric metric;
  bool first_line;           /* only the answer's first line counts (some of LongBench) */
  const char *message;       /* what is asked, UTF-8, before the chat template */
  const leank_token *tokens; /* [n_tokens] the prompt */
  size_t n_tokens;
  const leank_token *passage; /* [n_passage] what follows, of a passage; else NULL */
  size_t n_passage;
  size_t max_new; /* most tokens of an answer */
  const char *const *references;
  size_t n_references;
  const char *const *classes;
  size_t n_classes;
} leank_eval_prompt;

typedef struct leank_eval_set leank_eval_set;

/* Checks everything and reads the files. LEANK_E_ARGUMENT (an unknown task, no length, no sample,
 * no file), _CONTEXT (a length beyond the model's), _IO, _FORMAT (files; the message names the
 * line), _UNSUPPORTED (no tokenizer; data sets that need Chinese word segmentation), _MEMORY. The
 * model must outlive the set. */
LEANK_API leank_status leank_eval_set_open(const leank_model *model,
                                           const leank_eval_options *options, leank_eval_set **out,
                                           leank_error *err);
LEANK_API void leank_eval_set_close(leank_eval_set **set);
/* Prompts of the set, in the order sample, length, task: a beginning of it has them all. */
LEANK_API size_t leank_eval_set_size(const leank_eval_set *set);
/* What prompt i is, without making it: task, length, sample. */
LEANK_API void leank_eval_set_describe(const leank_eval_set *set, size_t i, leank_eval_prompt *out);
/* Makes prompt i; it depends on seed, task, length, sample and tokenizer alone. The haystack is the
 * largest that fits. LEANK_E_ARGUMENT where the length is too short for the task, LEANK_E_FORMAT
 * where the user's prose holds what is to be hidden in it, LEANK_E_MEMORY. The caller closes *out.
 */
LEANK_API leank_status leank_eval_prompt_make(const leank_eval_set *set, size_t i,
                                              leank_eval_prompt **out, leank_error *err);
LEANK_API void leank_eval_prompt_close(leank_eval_prompt **prompt);

/* ---- answers ---- */

/* Another cache for the same model. */
typedef struct leank_eval_variant {
  const leank_mask *mask; /* or NULL: ThinK (arXiv 2407.21018), made anew for each prompt: of each
                             head the channels with the largest |q_c| |k_c|, norms over the last 32
                             queries and all keys of the prompt */
  double think_ratio;     /* share of the channels ThinK removes, of every head alike */
  size_t think_n_sink, think_n_recent; /* tokens that it keeps in full */
} leank_eval_variant;

/* How the dense model or a variant answered. */
typedef struct leank_eval_result {
  char *text;          /* leank_text_free; "" of a passage */
  double score;        /* 0 .. 1; 0 of a passage */
  size_t n_new;        /* tokens, an end token included */
  size_t n_rows;       /* rows below: tokens of the dense answer but the first, or of the passage */
  size_t n_agree;      /* rows whose likeliest token is the dense one */
  double nll;          /* sum over rows of -ln p(the row's token), nats */
  float *kl;           /* [n_rows] KL(dense || variant), nats; NULL of the dense one. free with
                          leank_eval_result_clear */
  size_t stored_bytes; /* K and V of the prompt, as stored */
  double k_kept, v_kept; /* shares of the middle; 1 of the dense one */
} leank_eval_result;

/* Frees what a result holds and zeroes it. */
LEANK_API void leank_eval_result_clear(leank_eval_result *result);

typedef struct leank_eval_run_options {
  size_t struct_size;
  leank_session_options session;   /* mask, n_ctx and n_seqs are set by the run */
  leank_progress_fn on_progress;   /* of this prompt: units of no meaning but their share */
  bool (*should_stop)(void *user); /* asked now and then; true: LEANK_E_INTERRUPTED. May be NULL */
  void *user;
} leank_eval_run_options;

/* The session's defaults, no callbacks. */
LEANK_API void leank_eval_run_options_default(leank_eval_run_options *options);

/* Answers a prompt, greedily: dense, then every variant from a copy of the same prefill.
 * results[1 + n_variants], dense first; cleared where it fails.
 *
 * The rows of the dense answer (or the passage) are scored under each variant as decoding would see
 * them, in one pass. Where their likeliest tokens are the dense ones, they are the variant's
 * own answer; from the first that differs it decodes on by itself. (Logits of such a pass and of a
 * decode step agree to rounding.) The first token of an answer is the prefill's, so the same for
 * all. LEANK_E_INTERRUPTED, _MISMATCH, _MEMORY, _CONTEXT, _UNSUPPORTED. */
LEANK_API leank_status leank_eval_answer(const leank_model *model, const leank_eval_prompt *prompt,
                                         const leank_eval_variant *variants, size_t n_variants,
                                         const leank_eval_run_options *options,
                                         leank_eval_result *results, leank_error *err);

#ifdef __cplusplus
}
#endif
#endif
