/* Parts of the loader: files, descriptions, binding. Private to src/model. */
#ifndef LK_MODEL_LOADER_H
#define LK_MODEL_LOADER_H

#include "formats/gguf.h"
#include "formats/safetensors.h"
#include "model/model.h"

/* Named maxima of a description: beyond them a file is taken to lie. */
enum {
  LK_MODEL_MAX_LAYERS = 4096,
  LK_MODEL_MAX_HEADS = 65536,
  LK_MODEL_MAX_HEAD_DIM = 65534, /* channel numbers are 16 bits wide */
  LK_MODEL_MAX_WIDTH = 1 << 24,  /* hidden, ffn, heads * head_dim */
  LK_MODEL_MAX_VOCAB = 1 << 26,
  LK_MODEL_MAX_CONTEXT = 1 << 30
};

/* One tensor of a model's files. */
typedef struct lk_model_entry {
  const char *name;      /* in memory of the file that holds it */
  const char *type_name; /* for messages */
  bool readable;         /* a weight type and at most two dimensions: tensor is set */
  bool bound;
  lk_tensor tensor;
  size_t n_bytes;
  size_t file; /* shard number; 0 in a GGUF */
} lk_model_entry;

struct lk_model_files {
  lk_gguf *gguf;           /* or NULL */
  lk_safetensors **shards; /* [n_shards] */
  size_t n_shards;
  lk_model_entry *entries; /* [n_entries], by name */
  size_t n_entries;
  const lk_model_entry **bound; /* [n_bound], in the order of binding */
  size_t n_bound;
  void **copies; /* [n_copies], weights converted or aligned while loading */
  size_t n_copies;
  void *memory; /* the matrices, where they are not read through the mapping; or NULL */
};

void lk_model_files_close(struct lk_model_files **files);
/* Lists the tensors of what is open, by name. LEANK_E_FORMAT for a name that occurs twice. */
leank_status lk_model_files_index(struct lk_model_files *files, const char *path, leank_error *err);
/* NULL where there is none of that name. */
lk_model_entry *lk_model_files_find(struct lk_model_files *files, const char *name);

/* A GGUF: opens the file and fills info from its metadata; freq_factors of rope_freqs.weight are
 * left in *factors [D/2] (lk_free) or NULL. */
leank_status lk_model_gguf_open(const char *path, struct lk_model_files *files,
                                leank_model_info *info, float **factors, leank_error *err);
/* A folder: config.json and, where *has_weights comes back true, its safetensors. */
leank_status lk_model_folder_open(const char *folder, struct lk_model_files *files,
                                  leank_model_info *info, bool *has_weights, leank_error *err);
/* A bare config.json. */
leank_status lk_model_config_read(const char *path, leank_model_info *info, leank_error *err);

/* Of a checked description: binds every weight, checks its shape against info, and refuses tensors
 * nobody asked for. Fills weights, info's tied_output, qkv_bias, n_params, weight_bytes and
 * weight_types. */
leank_status lk_model_bind(const char *path, struct lk_model_files *files, leank_model_info *info,
                           lk_weights *weights, leank_error *err);

/* Copies the matrices of a loaded model out of the mapped files, as asked for. LEANK_E_MEMORY. */
leank_status lk_model_to_memory(const char *path, leank_weights_place place, leank_model *model,
                                leank_error *err);

/* Sizes and numbers of a description that make sense; else LEANK_E_FORMAT. Fills n_params. */
leank_status lk_model_info_check(leank_model_info *info, const char *path, leank_error *err);

/* From sizes that have been checked. */
size_t lk_model_count_params(const leank_model_info *info);

/* Text of a file as a field: at most n - 1 bytes, whole UTF-8 characters, no control characters. */
void lk_model_copy_name(char *out, size_t n, const char *text, size_t n_bytes);

/* The parameters of Llama 3's scaling from divisors factors[D/2] of the plain frequencies. Only
 * ratios of old context, low and high factor can be seen, so low_freq_factor is taken as 1.
 * All 1: plain. Divisors of another shape: LLAMA3 with the largest as factor, the rest 0. */
void lk_rope_describe_factors(leank_model_info *info, const float *factors);

/* The fingerprint of a model's weights: 64-bit FNV-1a (Fowler, Noll, Vo) over
 *   1. architecture, NUL; then as 8 bytes little endian each: n_layers, n_heads, n_kv_heads,
 *      head_dim, hidden, ffn, n_vocab;
 *   2. of every weight in the order embedding, last norm, output (where untied), then per layer
 *      attention norm, q, k, v, their biases (where present), attention output, ffn norm, gate, up,
 *      down: its type's name, NUL; its size in bytes, 8 bytes little endian; and its bytes as
 *      stored: all of them up to LK_PROBE_BYTES, else LK_N_PROBES pieces of equal length, evenly
 *      spaced, the first at the start, the last at the end.
 * It does not depend on how tensors are spread over files. It tells models apart, quantisations of
 * one model included; it proves nothing. on_progress gets bytes read. */
enum { LK_PROBE_BYTES = 65536, LK_N_PROBES = 16 };
void lk_model_fingerprint(const struct lk_model_files *files, leank_model_info *info,
                          const leank_model_options *options);

#endif
