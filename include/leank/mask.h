/* Masks: which channels of the K cache are kept, per layer and kv head.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LEANK_MASK_H
#define LEANK_MASK_H

#include <leank/model.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct leank_mask leank_mask;

/* What becomes of the middle of a head that keeps no channel (and of pruned channels). */
typedef enum leank_policy {
  LEANK_POLICY_DROP = 0, /* the middle does not exist for that head (the paper) */
  LEANK_POLICY_MEAN = 1  /* the mean key and the sum of values stand in for it */
} leank_policy;

/* What a mask is and how it was made. Strings are NUL-terminated and may be empty. */
typedef struct leank_mask_info {
  size_t struct_size;
  size_t n_layers, n_kv_heads, head_dim; /* [L, Hk, D] */
  leank_channel_order order;             /* order of the channels in the file; in memory: half */
  char architecture[32];
  double rope_theta;
  leank_rope_scaling rope_scaling;
  double rope_factor;
  size_t n_sink, n_recent; /* tokens; defaults 128 and 768 */
  leank_policy policy;
  bool mean_compensation; /* the mean stands in for pruned channels of heads that keep some */
  double ratio_asked;     /* share of K channels to remove */
  double ratio_reached;   /* share of K channels removed */
  size_t align;           /* kept counts are multiples of this, 1 = none */
  char method[64];        /* "learned", "energy", "magnitude", "random", "frequency", "import" */
  char data[256];         /* what it was made from */
  uint64_t steps, seed;
  char fingerprint[17]; /* of the model it was made for; may be empty */
} leank_mask_info;

/* Sizes of 0, which are to be filled; 128 and 768 tokens; policy drop; align 1. */
LEANK_API void leank_mask_info_default(leank_mask_info *info);
/* Writes what a mask has from the model it is for: sizes, architecture, RoPE. Not the fingerprint,
 * which says that it was made from these very weights. */
LEANK_API void leank_mask_info_set_model(leank_mask_info *info, const leank_model_info *model);

/* A mask from kept[L][Hk][D] (0 or 1, half order) and, optionally, alpha[L][Hk][D] in [0,1] (may be
 * NULL). Both are copied. info gives the sizes and the story; ratio_reached is computed, order is
 * ignored. LEANK_E_ARGUMENT for sizes of 0, an odd D, n_sink not a multiple of 64, values other
 * than 0, 1, a head that keeps neither a multiple of align nor all, texts that are no UTF-8;
 * LEANK_E_MEMORY. The caller closes *out. */
LEANK_API leank_status leank_mask_create(const leank_mask_info *info, const uint8_t *kept,
                                         const float *alpha, leank_mask **out, leank_error *err);

/* Reads a mask file: safetensors as docs/mask-format.md says, or a published .pth (chosen by
 * content). A .pth knows no model: its metadata are the defaults and order half. LEANK_E_IO,
 * _FORMAT, _UNSUPPORTED (another version, linear maps, compressed archives), _MEMORY. The caller
 * closes *out. */
LEANK_API leank_status leank_mask_open(const char *path, leank_mask **out, leank_error *err);
/* The same of a file's bytes, which are not kept; name is for messages. */
LEANK_API leank_status leank_mask_open_memory(const void *bytes, size_t n_bytes, const char *name,
                                              leank_mask **out, leank_error *err);
LEANK_API void leank_mask_close(leank_mask **mask);

/* Writes atomically: a temporary file in the same folder, synced, then renamed. LEANK_E_IO,
 * LEANK_E_MEMORY. */
LEANK_API leank_status leank_mask_save(const leank_mask *mask, const char *path, leank_error *err);
/* The layout the paper's code reads: a zip with a pickle of float32 0/1 [L][Hk][D]. */
LEANK_API leank_status leank_mask_save_pth(const leank_mask *mask, const char *path,
                                           leank_error *err);

/* What the mask is; owned by it. */
LEANK_API const leank_mask_info *leank_mask_get_info(const leank_mask *mask);
/* kept[L][Hk][D] in half order; owned by the mask. */
LEANK_API const uint8_t *leank_mask_get_kept(const leank_mask *mask);
/* alpha[L][Hk][D] or NULL; owned by the mask. */
LEANK_API const float *leank_mask_get_alpha(const leank_mask *mask);
/* Number of kept channels Dk(l, h); 0 for a head out of range. */
LEANK_API size_t leank_mask_n_kept(const leank_mask *mask, size_t layer, size_t kv_head);
/* Shares of the middle, 0 .. 1: of K's channels those that are kept, of V's heads those that keep
 * any channel. */
LEANK_API void leank_mask_get_shares(const leank_mask *mask, double *k_kept, double *v_kept);

/* LEANK_OK where the mask fits the model; LEANK_E_MISMATCH with a message that says what differs
 * (sizes, RoPE). *same_weights (may be NULL) is false where both fingerprints are known and
 * differ: worth a warning, no error. */
LEANK_API leank_status leank_mask_check(const leank_mask *mask, const leank_model_info *model,
                                        bool *same_weights, leank_error *err);

/* ---- from scores to masks ---- */

typedef enum leank_budget {
  LEANK_BUDGET_GLOBAL = 0,  /* heads compete: one threshold for the whole model */
  LEANK_BUDGET_PER_HEAD = 1 /* every head keeps the same number */
} leank_budget;

/* Rounds scores[L][Hk][D] (finite, larger = keep, half order) to kept[L][Hk][D] by the rule of
 * LeanK's stage 2: threshold = linearly interpolated quantile of all scores at `ratio`; per head
 * the count of scores >= threshold (> threshold where the threshold is the smallest score), rounded
 * half up to a multiple of `align`, clamped to D; that many largest scores of the head are kept,
 * ties by lower index. per head: the count is (1 - ratio) * D, rounded alike.
 * exact: searches the threshold whose rounded counts come closest to the ratio (of two, the one
 * that keeps more); per head it changes nothing. ratio 0 keeps everything, whatever align is.
 * LEANK_E_ARGUMENT for sizes of 0, a ratio outside [0,1], align outside 1 .. 65536, scores that
 * are not finite. */
LEANK_API leank_status leank_mask_round(const float *scores, size_t n_layers, size_t n_kv_heads,
                                        size_t head_dim, double ratio, size_t align,
                                        leank_budget budget, bool exact, uint8_t *kept,
                                        leank_error *err);

#ifdef __cplusplus
}
#endif
#endif
