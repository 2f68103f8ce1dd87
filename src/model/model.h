/* An open model: description, bound weights, tokenizer. */
#ifndef LK_MODEL_MODEL_H
#define LK_MODEL_MODEL_H

#include <leank/model.h>
#include <leank/text.h>

#include "base/dtype.h"
#include "base/error.h"

typedef struct lk_layer_weights {
  lk_tensor attn_norm;              /* [hidden] */
  lk_tensor q, k, v;                /* [Hq*D][hidden], [Hk*D][hidden], [Hk*D][hidden] */
  lk_tensor q_bias, k_bias, v_bias; /* [Hq*D], [Hk*D], [Hk*D]; data NULL where absent */
  lk_tensor o;                      /* [hidden][Hq*D] */
  lk_tensor ffn_norm;               /* [hidden] */
  lk_tensor gate, up, down;         /* [ffn][hidden], [ffn][hidden], [hidden][ffn] */
} lk_layer_weights;

/* Norms and biases are always F32 (converted while loading where the file has another type). */
typedef struct lk_weights {
  lk_tensor embed;          /* [V][hidden] */
  lk_tensor out_norm;       /* [hidden] */
  lk_tensor output;         /* [V][hidden]; = embed where tied */
  lk_layer_weights *layers; /* [L] */
} lk_weights;

struct leank_model {
  leank_model_info info;
  lk_weights weights;
  double *inv_freq;             /* [D/2] rotary frequencies, scaling applied */
  float rope_mscale;            /* factor on cos and sin (YaRN), else 1 */
  leank_tokenizer *tokenizer;   /* or NULL */
  struct lk_model_files *files; /* what is mapped, private to the loader */
};

/* Weights that only a CUDA device can make: leank_synthetic_options.on_cuda. */
static inline bool lk_model_on_cuda(const leank_model *model) {
  return model->weights.embed.type == LK_RANDOM;
}
/* LEANK_E_UNSUPPORTED where the CPU has no weights of this model. */
leank_status lk_model_check_cpu(const leank_model *model, leank_error *err);

/* Rotary frequencies of a description: inv_freq[D/2] and the factor on cos and sin. freq_factors
 * [D/2]: divisors from a GGUF's rope_freqs.weight, or NULL. n_ctx: unused by static scalings.
 * Sources: Su et al. 2021; Peng et al. 2023 (YaRN); Llama 3.1's published scaling. */
void lk_rope_frequencies(const leank_model_info *info, const float *freq_factors, double *inv_freq,
                         float *mscale);

#endif
