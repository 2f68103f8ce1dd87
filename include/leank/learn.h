/* Learning masks: data sets of long prompts with answers, the two-stage training of the channel
 * weights alpha on them, and the comparison of masks.
 *
 * Letters: L layers, Hk kv heads, D head dim, T tokens of a prompt. Source of the method: LeanK
 * (EMNLP 2025, arXiv 2508.02215), section 3. SPDX-License-Identifier: Apache-2.0 */
#ifndef LEANK_LEARN_H
#define LEANK_LEARN_H

#include <leank/mask.h>
#include <leank/model.h>
#include <leank/session.h>
#include <leank/text.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- data sets ---- */

/* What is hidden in a context and asked for. */
typedef enum leank_task {
  LEANK_TASK_UUID = 0, /* every line is a needle "uuid: uuid", one is asked (dense retrieval) */
  LEANK_TASK_WORDS,    /* every line is a needle "word-word: 7 digits" */
  LEANK_TASK_VALUES,   /* four 7-digit values of one key at four depths of prose, all are asked */
  LEANK_TASK_PASSKEYS, /* numbered passkeys in prose, the one of an ordinal is asked */
  LEANK_TASK_FILE,     /* the user's own, from a JSON lines file */
  LEANK_TASK_RANDOM,   /* random tokens, of no text: what learning costs, not what it gives */
  LEANK_N_TASKS
} leank_task;

/* "uuid", "words", "values", "passkeys", "file", "random". NULL for none of them. */
LEANK_API const char *leank_task_name(leank_task task);

typedef struct leank_dataset_options {
  size_t struct_size;
  unsigned tasks;                /* bits 1u << leank_task; contexts go through them in turn */
  size_t n_contexts;             /* more than a file has: its contexts again, in turn */
  size_t n_questions;            /* per context, at most 64; one of a file has those it has */
  size_t min_tokens, max_tokens; /* T of the longest prompt of a context with its answer: spread
                                    evenly from min to max over the contexts, shuffled by seed;
                                    a context of a file is as long as it is, up to max */
  uint64_t seed;
  const char *const *haystacks; /* [n_haystacks] UTF-8 text files; none: the built-in prose */
  size_t n_haystacks;
  const char *examples; /* of LEANK_TASK_FILE: JSON lines {"context", "question", "answer"}; lines
                           in a row with the same context are questions on one */
  size_t random_prompt, random_answer; /* of LEANK_TASK_RANDOM: tokens of each question and of its
                                          answer; a context has exactly T less both */
} leank_dataset_options;

typedef struct leank_question {
  const char *text;          /* as asked, UTF-8 */
  const char *answer_text;   /* UTF-8, without the blank that stands before it */
  const leank_token *prompt; /* [n_prompt] what follows the context's tokens, up to the answer */
  size_t n_prompt;           /* >= 1 */
  const leank_token *answer; /* [n_answer] " " and the text; then the end of a turn, if there is */
  size_t n_answer;
  size_t n_text; /* tokens of the answer that are its text, >= 1: all, or all but the last */
} leank_question;

typedef struct leank_context {
  leank_task task;
  const leank_token *tokens;       /* [n_tokens] what the prompts of all its questions begin with */
  size_t n_tokens;                 /* >= 1 */
  const leank_question *questions; /* [n_questions] */
  size_t n_questions;
} leank_context;

typedef struct leank_dataset leank_dataset;

/* Tasks uuid, words and values; 32 contexts of 1024 to 4096 tokens, 4 questions each; seed 1.
 * Random questions have 48 tokens and answers 28, about the mean of those three tasks. */
LEANK_API void leank_dataset_options_default(leank_dataset_options *options);

/* Makes a data set: chat-formatted by the model's template (plain text where there is none), the
 * answer begun ("The value is:"). The same options and tokenizer give the same tokens, everywhere.
 * LEANK_E_ARGUMENT: no task, sizes of 0 or too large, min above max, a length too short or too long
 * for a task, a file task without a file; LEANK_E_CONTEXT: lengths beyond the model's, an example
 * that does not fit max_tokens (the message names its line); LEANK_E_IO, LEANK_E_FORMAT: files (a
 * haystack that holds what would be hidden in it, too); LEANK_E_UNSUPPORTED: the model has no
 * tokenizer, and a task other than random is asked for. The caller closes *out. */
LEANK_API leank_status leank_dataset_make(const leank_model *model,
                                          const leank_dataset_options *options, leank_dataset **out,
                                          leank_error *err);
LEANK_API void leank_dataset_close(leank_dataset **dataset);
LEANK_API size_t leank_dataset_n_contexts(const leank_dataset *dataset);
/* Context i; owned by the data set. NULL for one out of range. */
LEANK_API const leank_context *leank_dataset_get(const leank_dataset *dataset, size_t i);
/* 16 hex digits over all tokens. */
LEANK_API const char *leank_dataset_fingerprint(const leank_dataset *dataset);

/* ---- learning ---- */

typedef struct leank_learner leank_learner;

typedef enum leank_learn_phase {
  LEANK_LEARN_PREFILL = 0, /* contexts are read, dense: done and total are tokens times layers; the
                              last event of a context counts it in n_read */
  LEANK_LEARN_RESUME,      /* a checkpoint was found: `step` and `stage` say where it goes on */
  LEANK_LEARN_STEP,        /* one update */
  LEANK_LEARN_EVAL,        /* the held-out set under the rounded mask */
  LEANK_LEARN_CHOICE       /* the end: `stage` of the mask that is kept */
} leank_learn_phase;

/* What happened; fields that a phase has no value for are 0. */
typedef struct leank_learn_event {
  leank_learn_phase phase;
  uint64_t done, total; /* PREFILL; STEP: updates of both stages */
  size_t n_read;        /* PREFILL: contexts that are read, both sets' */
  int stage;            /* 1 or 2 */
  size_t step, n_steps; /* of the stage, step counts from 1 */
  double loss, distill; /* STEP: distillation + lambda * mean(alpha); the first term */
  double lambda, lr;    /* STEP */
  double mean_alpha;    /* STEP: mean of alpha */
  double near_zero;     /* STEP: share of alphas below 0.05 */
  double ratio;         /* STEP, EVAL: share of K channels the rounded mask removes */
  double kl, kl_p99;    /* EVAL: KL(dense || mask) of answer rows, nats */
  double hidden_error;  /* EVAL: mean of |H_full - H_mask|^2 / |H_full|^2 of answer rows */
  double top1;          /* EVAL: share of answer rows whose likeliest token agrees */
  double accuracy, dense_accuracy; /* EVAL: share of answers that greedy decoding gives */
  size_t n_rows, n_prompts;        /* EVAL */
  double seconds, seconds_left;    /* since leank_learner_run; STEP: estimate of what is to come */
  double flops, reference_flops;   /* arithmetic so far, counted; that of the reference procedure */
} leank_learn_event;

/* What an update makes small, of answer rows: see src/learn/distill.h. */
typedef enum leank_loss {
  LEANK_LOSS_HIDDEN = 0, /* squares of differences of final hidden states */
  LEANK_LOSS_LOGITS,     /* KL(dense || scaled) of next-token distributions */
  LEANK_LOSS_BOTH        /* their sum */
} leank_loss;

typedef struct leank_learn_options {
  size_t struct_size;
  /* the mask */
  double ratio; /* share of K channels to remove */
  size_t align; /* kept counts are multiples of it; 0 = 32 for D >= 128, else 16 */
  leank_budget budget;
  bool exact_budget;
  size_t n_sink, n_recent;
  leank_policy policy; /* trained for, and recorded */
  bool mean_compensation;
  /* the procedure */
  leank_loss loss;
  bool paper;    /* as published: loss not scaled, lambda fixed, a window of n_recent that slides by
                    token, empty heads with logit 0 while training, no choice by held-out KL */
  double lambda; /* weight of mean(alpha); negative = found for the ratio */
  double lr1, lr2; /* of the stages */
  size_t n_steps1, n_steps2;
  size_t batch; /* questions of one update */
  uint64_t seed;
  leank_dataset_options train, held_out; /* held_out.n_contexts 0: no evaluation */
  size_t eval_every; /* updates between evaluations; 0 = at the ends of stages only */
  /* resources */
  leank_device device; /* CUDA: kv_type bf16. Contexts' K and V are in the device's memory; those
                          that do not fit are read from their files where there is a cache_folder */
  int device_index;
  size_t n_threads; /* 0 = the processors this process may use */
  leank_cpu_level cpu;
  leank_kv_type kv_type;
  size_t prefill_chunk;
  const char *cache_folder; /* keeps the K and V of contexts there (mapped, or copied to a device,
                               and used again by a later run of the same data); made where its
                               parent is there; NULL = in memory */
  size_t cache_bytes;       /* most bytes of K and V, in memory or in the folder; 0 = no limit */
  const char *checkpoint; /* file; NULL = none. One of the same settings and data is gone on from */
  bool fresh;             /* begins anew: whatever checkpoint is there is written over; a file that
                             is none stays, and is LEANK_E_FORMAT */
  size_t checkpoint_every;                                      /* updates between checkpoints */
  void (*on_event)(void *user, const leank_learn_event *event); /* may be NULL */
  void *user;
} leank_learn_options;

/* 70 % of K's channels in 150 and 20 updates of 4 questions, lambda found; 128 and 768 tokens,
 * means for all that is pruned; 24 contexts and 4 held out, of the data set's defaults. */
LEANK_API void leank_learn_options_default(leank_learn_options *options);
/* The published settings for a model of this kind (paper, section 4.1 and its code). */
LEANK_API void leank_learn_options_paper(const leank_model_info *model,
                                         leank_learn_options *options);

/* Checks everything, makes the data, finds a checkpoint. LEANK_E_ARGUMENT, _CONTEXT, _IO, _FORMAT,
 * _MISMATCH (a checkpoint of other settings, data, model or version), _MEMORY (more than
 * cache_bytes), _UNSUPPORTED (what the device cannot do, or none is there). The model must outlive
 * the learner. */
LEANK_API leank_status leank_learner_open(const leank_model *model,
                                          const leank_learn_options *options, leank_learner **out,
                                          leank_error *err);
LEANK_API void leank_learner_close(leank_learner **learner);
/* Learns; *out is the caller's. The result depends on the options, the data, the CPU level and
 * the device alone: not on threads, nor on whether it was interrupted and gone on with.
 * LEANK_E_INTERRUPTED: the checkpoint is written. LEANK_E_IO, LEANK_E_MEMORY, LEANK_E_STATE (loss
 * or gradient is not finite: the message says where). */
LEANK_API leank_status leank_learner_run(leank_learner *learner, leank_mask **out,
                                         leank_error *err);
/* After a run that was not interrupted: the mask of stage 1 or 2 by itself, whichever was kept.
 * LEANK_E_STATE before; LEANK_E_ARGUMENT for other stages. *out is the caller's. */
LEANK_API leank_status leank_learner_stage_mask(leank_learner *learner, int stage, leank_mask **out,
                                                leank_error *err);
/* Asks a run to stop soon. Async-signal-safe, any thread. */
LEANK_API void leank_learner_interrupt(leank_learner *learner);
/* The data sets. held-out: NULL where there is none. Owned by the learner. */
LEANK_API const leank_dataset *leank_learner_train_set(const leank_learner *learner);
LEANK_API const leank_dataset *leank_learner_held_out_set(const leank_learner *learner);
/* Bytes of both sets' K and V and of the dense hidden states beside them: what cache_bytes limits.
 */
LEANK_API size_t leank_learner_kv_bytes(const leank_learner *learner);

/* ---- comparing masks ---- */

/* A mask against the dense cache over the answer rows of a data set, teacher-forced, each row as
 * decoding would see it. se: standard error over prompts. */
typedef struct leank_mask_report {
  size_t n_prompts, n_rows;
  double kl_mean, kl_se, kl_p99;  /* KL(dense || mask), nats; p99: the least value that 99 % of the
                                     rows do not exceed */
  double hidden_error, hidden_se; /* |H_full - H_mask|^2 / |H_full|^2 */
  double top1;                    /* share of rows whose likeliest token agrees with dense */
  double accuracy, accuracy_se;   /* share of prompts whose answer greedy decoding gives */
  double dense_accuracy, dense_accuracy_se;
  double accuracy_change, accuracy_change_se; /* paired */
  double k_kept, v_kept;                      /* shares in the middle */
} leank_mask_report;

typedef struct leank_compare_options {
  size_t struct_size;
  size_t n_sink, n_recent; /* SIZE_MAX = as each mask says */
  leank_device device;     /* CUDA: kv_type bf16 */
  int device_index;
  size_t n_threads; /* 0 = the processors this process may use */
  leank_cpu_level cpu;
  leank_kv_type kv_type;
  size_t prefill_chunk;
  const char *cache_folder;        /* as for learning; NULL = in memory, a context at a time */
  leank_progress_fn on_progress;   /* units of no meaning but their share */
  bool (*should_stop)(void *user); /* asked now and then; true: LEANK_E_INTERRUPTED. May be NULL */
  void *user;
} leank_compare_options;

/* As each mask says, on the CPU, bf16, chunks of 2048 rows. */
LEANK_API void leank_compare_options_default(leank_compare_options *options);
/* reports[n_masks]. One dense prefill per context serves all masks; a mask is used as its own
 * metadata say (sink, recent, policy). LEANK_E_MISMATCH: a mask or a data set of another model;
 * LEANK_E_STATE: the model's weights hold NaN or infinity. */
LEANK_API leank_status leank_masks_compare(const leank_model *model, const leank_dataset *dataset,
                                           const leank_mask *const *masks, size_t n_masks,
                                           const leank_compare_options *options,
                                           leank_mask_report *reports, leank_error *err);

#ifdef __cplusplus
}
#endif
#endif
