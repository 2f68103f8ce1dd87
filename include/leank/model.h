/* Models: a GGUF file or a Hugging Face folder. SPDX-License-Identifier: Apache-2.0 */
#ifndef LEANK_MODEL_H
#define LEANK_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <leank/status.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct leank_model leank_model;

/* How the two channels that RoPE rotates together lie in a head. */
typedef enum leank_channel_order {
  LEANK_ORDER_HALF = 0, /* channel i with i + D/2 (Hugging Face; GGUF qwen2) */
  LEANK_ORDER_PAIRS = 1 /* channel 2i with 2i + 1 (GGUF llama) */
} leank_channel_order;

typedef enum leank_rope_scaling {
  LEANK_ROPE_PLAIN = 0,
  LEANK_ROPE_LINEAR = 1,
  LEANK_ROPE_LLAMA3 = 2,
  LEANK_ROPE_YARN = 3
} leank_rope_scaling;

/* "plain", "linear", "llama3" or "yarn", as mask files have it; "unknown" of anything else. */
LEANK_API const char *leank_rope_scaling_name(leank_rope_scaling scaling);

/* What a model is, without its weights. Sizes in elements. */
typedef struct leank_model_info {
  char architecture[32];  /* "llama" or "qwen2" */
  char name[128];         /* what the file calls itself, may be empty */
  char weight_types[128]; /* e.g. "Q4_K 168, Q6_K 29, F32 141"; empty for a bare config */
  size_t n_layers;        /* L */
  size_t n_heads;         /* Hq, query heads */
  size_t n_kv_heads;      /* Hk, key/value heads; n_heads is a multiple of it */
  size_t head_dim;        /* D, even */
  size_t hidden;          /* width of the residual stream */
  size_t ffn;             /* width of the feed-forward layer */
  size_t n_vocab;         /* V, rows of the output matrix */
  size_t n_ctx_train;     /* longest position the model was made for */
  double norm_eps;        /* RMSNorm epsilon */
  double rope_theta;      /* RoPE base */
  leank_rope_scaling rope_scaling;
  double rope_factor;        /* scaling factor, 1 where plain */
  double rope_low_freq;      /* llama3: low_freq_factor;  yarn: beta_slow */
  double rope_high_freq;     /* llama3: high_freq_factor; yarn: beta_fast */
  double rope_attn_factor;   /* yarn: factor on cos and sin, 0 = 0.1 ln(factor) + 1 */
  size_t rope_orig_ctx;      /* context before scaling, 0 where plain */
  bool rope_untruncated;     /* yarn: the corrected range is not widened to whole channels */
  leank_channel_order order; /* order of the channels in the file */
  bool tied_output;          /* the output matrix is the embedding */
  bool qkv_bias;             /* q, k and v projections have a bias */
  size_t n_params;           /* parameters, from the sizes */
  size_t weight_bytes;       /* bytes of the weights as stored; 0 for a bare config */
  char fingerprint[17];      /* 16 hex digits of the weights; empty for a bare config */
} leank_model_info;

/* Called while a model loads or a prompt is read: `done` of `total` units. May be NULL. */
typedef void (*leank_progress_fn)(void *user, uint64_t done, uint64_t total);

/* Where the weights that every decode step reads are while a model is open. */
typedef enum leank_weights_place {
  LEANK_WEIGHTS_AUTO = 0,   /* in memory where half of what is available holds them, else mapped */
  LEANK_WEIGHTS_MAPPED = 1, /* read through the mapped file: shared with other processes */
  LEANK_WEIGHTS_MEMORY = 2  /* copied into huge pages: as much memory as they have bytes, half a
                               second a gigabyte once, and decoding is some 15 % faster */
} leank_weights_place;

typedef struct leank_model_options {
  size_t struct_size;
  leank_weights_place weights;
  leank_progress_fn on_progress; /* bytes checked while loading */
  void *user;
} leank_model_options;

/* Weights in memory where it allows. */
LEANK_API void leank_model_options_default(leank_model_options *options);

/* Opens a .gguf file, or a folder with config.json, *.safetensors and tokenizer.json. Files are
 * memory-mapped: they must not change while the model is open. `options` may be NULL.
 * LEANK_E_IO, _FORMAT, _UNSUPPORTED (the message names what), _MEMORY. The caller closes *out. */
LEANK_API leank_status leank_model_open(const char *path, const leank_model_options *options,
                                        leank_model **out, leank_error *err);

/* Reads only the description: of a GGUF file, a folder, or a bare config.json. */
LEANK_API leank_status leank_model_read_info(const char *path, leank_model_info *out,
                                             leank_error *err);

/* How weights are made up. */
typedef struct leank_synthetic_options {
  size_t struct_size;
  uint64_t seed; /* of the random numbers; default 1 */
  bool on_cuda;  /* a CUDA device makes them when a session there first uses them: they take no
                    memory here, and no session on the CPU can use them */
  leank_progress_fn on_progress; /* parameters made; on_cuda: planned */
  void *user;
} leank_synthetic_options;

/* Seed 1, weights made here. */
LEANK_API void leank_synthetic_options_default(leank_synthetic_options *options);

/* For benchmarks: a model of the sizes that a bare config.json says, with random weights, the same
 * for the same seed on every device. Matrices are bf16, uniform and of such scale that activations
 * stay of variance 1; norms are 1, biases small. It has no tokenizer and no fingerprint. `options`
 * may be NULL. As leank_model_open; LEANK_E_MEMORY where the weights do not fit into memory (the
 * message has both numbers). */
LEANK_API leank_status leank_model_open_synthetic(const char *path,
                                                  const leank_synthetic_options *options,
                                                  leank_model **out, leank_error *err);

/* Closes and sets *model to NULL; NULL and pointer to NULL are fine. No session may be open. */
LEANK_API void leank_model_close(leank_model **model);

/* The description of an open model. Owned by the model. */
LEANK_API const leank_model_info *leank_model_get_info(const leank_model *model);

#ifdef __cplusplus
}
#endif
#endif
