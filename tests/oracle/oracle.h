/* The oracle: LeanK's deployment semantics in float64, one row after the other.
 *
 * It has no pages, chunks, threads or packed storage: the post-RoPE K and V of every token are kept
 * whole, once, and each row decides by position what it sees of every token before it. All it
 * shares with the library is the vocabulary of the public header. Channels are in half order (RoPE
 * rotates c with c + D/2). Sizes as everywhere: L, Hq, Hk, D, V. A failed allocation aborts: this
 * is test code. */
#ifndef LK_ORACLE_ORACLE_H
#define LK_ORACLE_ORACLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <leank/session.h>

typedef struct lk_oracle_layer {
  double *attn_norm;                /* [hidden] */
  double *q, *k, *v;                /* [Hq*D][hidden], [Hk*D][hidden], [Hk*D][hidden] */
  double *q_bias, *k_bias, *v_bias; /* [Hq*D], [Hk*D], [Hk*D]; zero where there are none */
  double *o;                        /* [hidden][Hq*D] */
  double *ffn_norm;                 /* [hidden] */
  double *gate, *up, *down;         /* [ffn][hidden], [ffn][hidden], [hidden][ffn] */
} lk_oracle_layer;

typedef struct lk_oracle_weights {
  size_t n_layers, n_heads, n_kv_heads, head_dim, hidden, ffn, n_vocab;
  double norm_eps, rope_theta;
  double *embed;    /* [V][hidden] */
  double *out_norm; /* [hidden] */
  double *output;   /* [V][hidden] */
  lk_oracle_layer *layers;
} lk_oracle_weights;

/* Allocates zeroed arrays for the sizes already in *weights. */
void lk_oracle_weights_alloc(lk_oracle_weights *weights);
void lk_oracle_weights_free(lk_oracle_weights *weights);

/* Faults put in on purpose: a test shows with them that it would notice. */
typedef enum lk_oracle_fault {
  LK_FAULT_NONE = 0,
  LK_FAULT_ZERO_LOGIT, /* heads with Dk = 0 see the middle's V with logit 0 */
  LK_FAULT_BF16_MERGE, /* attention in parts of 64 tokens, log-sum-exp and output rounded to bf16 */
  LK_FAULT_HIDE        /* tokens [hide_begin, hide_end) are seen by no row after them */
} lk_oracle_fault;

/* How a head sees its middle through channel weights w: logits are the sum over c of
 * w_c q_c k_c, plus (1 - w_c) q_c mean_c where the mean of the middle's keys stands in. */
typedef enum lk_oracle_head {
  LK_ORACLE_PLAIN = 0, /* nothing stands in */
  LK_ORACLE_MEAN,
  LK_ORACLE_ABSENT /* the middle does not exist */
} lk_oracle_head;

typedef struct lk_oracle_options {
  const uint8_t *kept;        /* [L][Hk][D] 0 or 1; NULL = dense */
  const double *weight;       /* [L][Hk][D] in the place of kept (then NULL), or NULL. Read by every
                                 row anew: the owner may change them between feeds */
  const lk_oracle_head *head; /* [L][Hk], with weight */
  size_t step; /* tokens enter the middle in groups of so many; 0 = 64, as deployed */
  size_t n_sink, n_recent;
  leank_policy policy;
  bool mean_compensation;
  bool bf16_cache;  /* K and V are rounded to bf16 as they are stored */
  bool f16_cache;   /* to f16 */
  bool int8_middle; /* with kept: the middle's K and V are then int8, K with a scale per channel and
                       64 tokens, V with one per token: largest magnitude / 127 */
  lk_oracle_fault fault;
  size_t hide_begin, hide_end;
} lk_oracle_options;

typedef struct lk_oracle lk_oracle;

/* One sequence of at most n_ctx tokens. Weights and kept must outlive it; options are copied. */
lk_oracle *lk_oracle_open(const lk_oracle_weights *weights, const lk_oracle_options *options,
                          size_t n_ctx);
void lk_oracle_close(lk_oracle **oracle);

size_t lk_oracle_length(const lk_oracle *oracle);
/* End of the middle of a sequence of n_tokens: its definition, word for word. */
size_t lk_oracle_middle_end(const lk_oracle *oracle, size_t n_tokens);

/* Appends n tokens. A turn: every row sees the tokens before the call as split for their number and
 * its own prompt in full. Score (and decoding): row t sees the cache as split for t + 1 tokens.
 * logits: [n][V] or NULL. hidden: [n][hidden], after the last norm, or NULL. */
void lk_oracle_feed(lk_oracle *oracle, leank_feed_mode mode, const leank_token *tokens, size_t n,
                    double *logits, double *hidden);
/* Sums over the rows of later feeds, as in leank_head_stats; NULL stops. */
void lk_oracle_set_stats(lk_oracle *oracle, leank_head_stats *stats);
/* Forgets all tokens from n_tokens on. Always possible here: nothing was ever thrown away. */
void lk_oracle_rewind(lk_oracle *oracle, size_t n_tokens);
/* Makes *to hold the tokens of *from (same weights), to be seen under *to's own options. */
void lk_oracle_copy(lk_oracle *to, const lk_oracle *from);

#endif
