/* Models of random weights: the sizes of a config.json, for benchmarks of what nobody wants to
 * download. */
#include <math.h>
#include <stdio.h>

#include "base/alloc.h"
#include "base/available.h"
#include "base/parallel.h"
#include "base/random_bf16.h"
#include "base/rng.h"
#include "model/model_loader.h"

enum { ALIGNMENT = 64, PIECE = 1 << 20, N_LAYER_MATRICES = 7, N_OUTER_MATRICES = 2 };

/* Biases are small beside the products they are added to, whose variance is 1. */
static const float BIAS_SCALE = 0.125f;

typedef struct maker {
  const char *path;
  leank_model *model;
  const leank_synthetic_options *options;
  lk_team *team;             /* NULL: nothing is filled here */
  lk_rng seeds;              /* a matrix's, in the order of making */
  lk_random_source *sources; /* [matrices], on a device */
  unsigned char *at;         /* where the next goes */
  uint64_t done;             /* elements */
} maker;

static size_t aligned(size_t n) { return (n + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

/* ---- one weight ---- */

typedef struct fill_job {
  lk_random_source source;
  uint16_t *to;
  size_t n;
} fill_job;

static void fill_piece(void *ctx, size_t item, size_t thread) {
  const fill_job *j = ctx;
  const size_t first = item * PIECE, left = j->n - first;
  (void)thread;
  lk_random_bf16(&j->source, first, left < PIECE ? left : PIECE, j->to + first);
}

/* Rows of unit variance stay so: the variance of a number uniform in +-a is a^2 / 3. */
static void make_matrix(maker *mk, lk_tensor *t, size_t n_rows, size_t n_cols, size_t n_summed) {
  const lk_random_source source = {lk_rng_u64(&mk->seeds), sqrtf(3.0f / (float)n_summed)};
  leank_model_info *info = &mk->model->info;
  if (mk->options->on_cuda) {
    *mk->sources = source;
    *t = (lk_tensor){mk->sources++, LK_RANDOM, n_rows, n_cols};
  } else {
    fill_job job = {source, (uint16_t *)(void *)mk->at, n_rows * n_cols};
    *t = (lk_tensor){mk->at, LK_BF16, n_rows, n_cols};
    lk_parallel_for(mk->team, (job.n + PIECE - 1) / PIECE, fill_piece, &job);
    mk->at += aligned(job.n * sizeof(uint16_t));
  }
  mk->done += n_rows * n_cols;
  if (mk->options->on_progress)
    mk->options->on_progress(mk->options->user, mk->done, info->n_params);
}

static float *make_vector(maker *mk, lk_tensor *t, size_t n) {
  float *x = (float *)(void *)mk->at;
  *t = (lk_tensor){x, LK_F32, 1, n};
  mk->at += aligned(n * sizeof *x);
  mk->done += n;
  return x;
}

static void make_norm(maker *mk, lk_tensor *t) {
  float *x = make_vector(mk, t, mk->model->info.hidden);
  for (size_t i = 0; i < t->n_cols; i++) x[i] = 1;
}

static void make_bias(maker *mk, lk_tensor *t, size_t n) {
  const lk_random_source source = {lk_rng_u64(&mk->seeds), BIAS_SCALE};
  float *x = make_vector(mk, t, n);
  for (size_t i = 0; i < n; i++) {
    uint16_t h;
    lk_random_bf16(&source, i, 1, &h);
    x[i] = lk_bf16_to_f32(h);
  }
}

/* ---- all of them ---- */

static void make_layer(maker *mk, lk_layer_weights *w) {
  const leank_model_info *m = &mk->model->info;
  const size_t q = m->n_heads * m->head_dim, kv = m->n_kv_heads * m->head_dim;
  make_norm(mk, &w->attn_norm);
  make_matrix(mk, &w->q, q, m->hidden, m->hidden);
  make_matrix(mk, &w->k, kv, m->hidden, m->hidden);
  make_matrix(mk, &w->v, kv, m->hidden, m->hidden);
  if (m->qkv_bias) {
    make_bias(mk, &w->q_bias, q);
    make_bias(mk, &w->k_bias, kv);
    make_bias(mk, &w->v_bias, kv);
  }
  make_matrix(mk, &w->o, m->hidden, q, q);
  make_norm(mk, &w->ffn_norm);
  make_matrix(mk, &w->gate, m->ffn, m->hidden, m->hidden);
  make_matrix(mk, &w->up, m->ffn, m->hidden, m->hidden);
  make_matrix(mk, &w->down, m->hidden, m->ffn, m->ffn);
}

/* An embedding is looked up, not summed; as the output matrix it is. */
static void make_outer(maker *mk, lk_weights *w) {
  const leank_model_info *m = &mk->model->info;
  make_matrix(mk, &w->embed, m->n_vocab, m->hidden, m->tied_output ? m->hidden : 1);
  make_norm(mk, &w->out_norm);
  w->output = w->embed;
  if (!m->tied_output) make_matrix(mk, &w->output, m->n_vocab, m->hidden, m->hidden);
}

/* Elements of the vectors, and how many there are; the rest of the parameters is matrices. */
static size_t count_vectors(const leank_model_info *m, size_t *n_elements) {
  const size_t q = m->n_heads * m->head_dim, kv = m->n_kv_heads * m->head_dim;
  *n_elements = m->n_layers * (2 * m->hidden + (m->qkv_bias ? q + 2 * kv : 0)) + m->hidden;
  return m->n_layers * (m->qkv_bias ? 5 : 2) + 1;
}

/* What is held here, every weight's padding included. The maxima of a description keep parameters
 * below 2^63: bytes may overflow. */
static leank_status check_memory(const maker *mk, size_t *n_bytes, leank_error *err) {
  leank_status status = LEANK_OK;
  const leank_model_info *m = &mk->model->info;
  size_t n_elements, n_matrices = m->n_layers * N_LAYER_MATRICES + N_OUTER_MATRICES;
  const size_t n_vectors = count_vectors(m, &n_elements), n_free = lk_mem_available();
  const double matrices = mk->options->on_cuda
                              ? (double)n_matrices * sizeof(lk_random_source)
                              : (double)(m->n_params - n_elements) * sizeof(uint16_t);
  const double bytes = matrices + (double)n_elements * sizeof(float) +
                       (double)(n_vectors + n_matrices + 1) * ALIGNMENT;
  LK_FAIL_IF(bytes > (double)n_free, err, LEANK_E_MEMORY, -1,
             "%s: random weights take %.0f bytes, and %zu are free", mk->path, bytes, n_free);
  *n_bytes = (size_t)bytes;
cleanup:
  return status;
}

static void describe(maker *mk) {
  leank_model_info *m = &mk->model->info;
  size_t n_elements;
  const size_t n_vectors = count_vectors(m, &n_elements);
  const size_t n_matrices = m->n_layers * N_LAYER_MATRICES + (m->tied_output ? 1 : 2);
  m->weight_bytes = (m->n_params - n_elements) * sizeof(uint16_t) + n_elements * sizeof(float);
  snprintf(m->weight_types, sizeof m->weight_types, "BF16 %zu, F32 %zu, random", n_matrices,
           n_vectors);
}

static leank_status make(const char *path, const leank_synthetic_options *options, leank_model *m,
                         leank_error *err) {
  leank_status status = LEANK_OK;
  maker mk = {.path = path, .model = m, .options = options, .seeds = {options->seed}};
  size_t n_bytes = 0;
  LK_TRY(check_memory(&mk, &n_bytes, err));
  m->weights.layers = lk_alloc(LK_MEM_OTHER, m->info.n_layers, sizeof *m->weights.layers);
  m->inv_freq = lk_alloc(LK_MEM_OTHER, m->info.head_dim / 2, sizeof *m->inv_freq);
  m->files->memory = lk_alloc(LK_MEM_OTHER, n_bytes, 1);
  LK_FAIL_IF(!m->weights.layers || !m->inv_freq || !m->files->memory, err, LEANK_E_MEMORY, -1,
             "%s: out of memory for %zu bytes of random weights", path, n_bytes);
  mk.at = m->files->memory;
  if (options->on_cuda) {
    mk.sources = m->files->memory;
    mk.at += aligned((m->info.n_layers * N_LAYER_MATRICES + N_OUTER_MATRICES) * sizeof *mk.sources);
  } else {
    LK_TRY(lk_team_open(lk_parallel_default_threads(), &mk.team, err));
  }
  lk_rope_frequencies(&m->info, NULL, m->inv_freq, &m->rope_mscale);
  make_outer(&mk, &m->weights);
  for (size_t l = 0; l < m->info.n_layers; l++) make_layer(&mk, &m->weights.layers[l]);
  describe(&mk);
cleanup:
  lk_team_close(&mk.team);
  return status;
}

/* ---- opening ---- */

leank_status lk_model_check_cpu(const leank_model *model, leank_error *err) {
  if (!lk_model_on_cuda(model)) return LEANK_OK;
  return lk_fail(err, LEANK_E_UNSUPPORTED, -1,
                 "random weights that a CUDA device makes: the CPU has none of them");
}

void leank_synthetic_options_default(leank_synthetic_options *options) {
  *options = (leank_synthetic_options){.struct_size = sizeof *options, .seed = 1};
}

leank_status leank_model_open_synthetic(const char *path, const leank_synthetic_options *options,
                                        leank_model **out, leank_error *err) {
  leank_status status = LEANK_OK;
  leank_model *m = NULL;
  leank_synthetic_options o;
  leank_synthetic_options_default(&o);
  LK_FAIL_IF(!path || !out, err, LEANK_E_ARGUMENT, -1,
             "leank_model_open_synthetic: a null pointer");
  LK_FAIL_IF(options && options->struct_size != sizeof o, err, LEANK_E_ARGUMENT, -1,
             "synthetic options of %zu bytes: fill them with leank_synthetic_options_default",
             options->struct_size);
  if (options) o = *options;
  m = lk_alloc(LK_MEM_OTHER, 1, sizeof *m);
  LK_FAIL_IF(!m, err, LEANK_E_MEMORY, -1, "%s: out of memory", path);
  m->files = lk_alloc(LK_MEM_OTHER, 1, sizeof *m->files);
  LK_FAIL_IF(!m->files, err, LEANK_E_MEMORY, -1, "%s: out of memory", path);
  LK_TRY(lk_model_config_read(path, &m->info, err));
  LK_TRY(make(path, &o, m, err));
  *out = m;
  m = NULL;
cleanup:
  leank_model_close(&m);
  return status;
}
