#include "cuda/linear/plan.cuh"

#include <stdio.h>
#include <stdlib.h>

enum { MAX_PLANS = 512, MAX_LISTED = 32 };

/* The last MAX_PLANS shapes. */
struct lk_cuda_gemm {
  lk_gemm_plan plans[MAX_PLANS];
  size_t n_made; /* so far; plan i is at i % MAX_PLANS */
};

/* ---- which algorithm ---- */

/* A forward product of these rows (bounds included), outputs and inputs is done by the first
 * algorithm of the list that is like this one. */
typedef struct gemm_rule {
  uint64_t least_rows, most_rows;
  uint32_t n_out, n_in;
  lk_gemm_algorithm like;
} gemm_rule;

/* From `test_cuda_steps --bench`: where another algorithm is more than 2 % faster than cuBLASLt's
 * first choice, which is taken for all else, and where the list has none like the rule's. */
static const gemm_rule rules[] = {
    {33, 64, 4096, 14336, {66, 1, 13, 35, 3, 5}}, /* H100: 43.8 instead of 46.6 us at 52 rows */
};

/* Into how many parts k is cut beside what cuBLASLt proposes. */
static const int32_t cuts[] = {2, 3, 4, 6, 8};
enum { N_CUTS = sizeof cuts / sizeof *cuts, MAX_PROPOSALS = MAX_LISTED * (1 + N_CUTS) };

static const gemm_rule *rule_of(const lk_gemm_plan *shape) {
  for (const gemm_rule &rule : rules)
    if (!shape->backward && shape->n_rows >= rule.least_rows && shape->n_rows <= rule.most_rows &&
        shape->n_out == rule.n_out && shape->n_in == rule.n_in)
      return &rule;
  return NULL;
}

static void read_config(const cublasLtMatmulAlgo_t *algorithm,
                        cublasLtMatmulAlgoConfigAttributes_t attribute, void *to, size_t n_bytes) {
  size_t n_written = 0;
  cublasLtMatmulAlgoConfigGetAttribute(algorithm, attribute, to, n_bytes, &n_written);
}

static lk_gemm_algorithm config_of(const cublasLtMatmulAlgo_t *algorithm) {
  lk_gemm_algorithm a = {};
  read_config(algorithm, CUBLASLT_ALGO_CONFIG_ID, &a.id, sizeof a.id);
  read_config(algorithm, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &a.split_k, sizeof a.split_k);
  read_config(algorithm, CUBLASLT_ALGO_CONFIG_TILE_ID, &a.tile, sizeof a.tile);
  read_config(algorithm, CUBLASLT_ALGO_CONFIG_STAGES_ID, &a.stages, sizeof a.stages);
  read_config(algorithm, CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION, &a.custom, sizeof a.custom);
  read_config(algorithm, CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, &a.cluster, sizeof a.cluster);
  return a;
}

static bool is_like(const lk_gemm_algorithm *a, const lk_gemm_algorithm *rule) {
  return (!rule->id || a->id == rule->id) && (!rule->split_k || a->split_k == rule->split_k) &&
         (!rule->tile || a->tile == rule->tile) && (!rule->stages || a->stages == rule->stages) &&
         (!rule->custom || a->custom == rule->custom) &&
         (!rule->cluster || a->cluster == rule->cluster);
}

/* Up to `most` algorithms as cuBLASLt orders them. */
static size_t list_own(const lk_cuda_device *dev, const lk_gemm_plan *plan, int most,
                       cublasLtMatmulAlgo_t *list) {
  cublasLtMatmulPreference_t preference;
  cublasLtMatmulHeuristicResult_t results[MAX_LISTED];
  int n_results = 0;
  size_t n = 0;
  if (cublasLtMatmulPreferenceCreate(&preference)) return 0;
  /* Only the operand is surely aligned to 256 bytes, the default. */
  const uint32_t alignment = 16;
  const bool is_set =
      !cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                            &dev->workspace_bytes, sizeof dev->workspace_bytes) &&
      !cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
                                            &alignment, sizeof alignment) &&
      !cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
                                            &alignment, sizeof alignment) &&
      !cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
                                            &alignment, sizeof alignment);
  if (!is_set || cublasLtMatmulAlgoGetHeuristic(dev->blas, plan->op, plan->w, plan->x, plan->y,
                                                plan->y, preference, most, results, &n_results))
    n_results = 0;
  cublasLtMatmulPreferenceDestroy(preference);
  for (int i = 0; i < n_results; i++)
    if (results[i].state == CUBLAS_STATUS_SUCCESS) list[n++] = results[i].algo;
  return n;
}

/* `algorithm` with k cut in n_parts that are summed apart, in order; false: not possible. */
static bool cut_k(const lk_cuda_device *dev, const lk_gemm_plan *plan, int32_t n_parts,
                  cublasLtMatmulAlgo_t *algorithm) {
  const uint32_t reduction = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
  cublasLtMatmulHeuristicResult_t result;
  if (config_of(algorithm).split_k == n_parts ||
      cublasLtMatmulAlgoConfigSetAttribute(algorithm, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &n_parts,
                                           sizeof n_parts) ||
      cublasLtMatmulAlgoConfigSetAttribute(algorithm, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME,
                                           &reduction, sizeof reduction) ||
      cublasLtMatmulAlgoCheck(dev->blas, plan->op, plan->w, plan->x, plan->y, plan->y, algorithm,
                              &result))
    return false;
  return result.state == CUBLAS_STATUS_SUCCESS && result.workspaceSize <= dev->workspace_bytes;
}

/* What rules choose from: cuBLASLt's list, then each of it with k cut otherwise. */
static size_t list_all(const lk_cuda_device *dev, const lk_gemm_plan *plan,
                       cublasLtMatmulAlgo_t list[MAX_PROPOSALS]) {
  const size_t n_own = list_own(dev, plan, MAX_LISTED, list);
  size_t n = n_own;
  for (size_t i = 0; i < n_own; i++)
    for (int32_t n_parts : cuts) {
      list[n] = list[i];
      if (cut_k(dev, plan, n_parts, &list[n])) n++;
    }
  return n;
}

static bool choose(const lk_cuda_device *dev, lk_gemm_plan *plan) {
  const gemm_rule *rule = rule_of(plan);
  if (!rule) return list_own(dev, plan, 1, &plan->algorithm) == 1;
  cublasLtMatmulAlgo_t list[MAX_PROPOSALS];
  const size_t n = list_all(dev, plan, list);
  if (n == 0) return false;
  size_t chosen = 0;
  for (size_t i = n; i-- > 0;) {
    const lk_gemm_algorithm a = config_of(&list[i]);
    if (is_like(&a, &rule->like)) chosen = i;
  }
  plan->algorithm = list[chosen];
  return true;
}

/* ---- plans ---- */

static void plan_free(lk_gemm_plan *plan) {
  if (plan->op) cublasLtMatmulDescDestroy(plan->op);
  if (plan->w) cublasLtMatrixLayoutDestroy(plan->w);
  if (plan->x) cublasLtMatrixLayoutDestroy(plan->x);
  if (plan->y) cublasLtMatrixLayoutDestroy(plan->y);
  *plan = lk_gemm_plan{};
}

leank_status lk_gemm_open(lk_cuda_device *dev, leank_error *err) {
  if (!dev->gemm) dev->gemm = (lk_cuda_gemm *)calloc(1, sizeof *dev->gemm);
  if (dev->gemm) return LEANK_OK;
  if (err) {
    err->code = LEANK_E_MEMORY;
    err->offset = -1;
    snprintf(err->message, sizeof err->message, "no memory for the plans of products, %zu bytes",
             sizeof *dev->gemm);
  }
  return LEANK_E_MEMORY;
}

void lk_gemm_close(lk_cuda_device *dev) {
  if (dev->gemm)
    for (size_t i = 0; i < MAX_PLANS; i++) plan_free(&dev->gemm->plans[i]);
  free(dev->gemm);
  dev->gemm = NULL;
}

static bool describe(lk_gemm_plan *plan) {
  const cublasOperation_t transpose = plan->backward ? CUBLAS_OP_N : CUBLAS_OP_T;
  const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
  if (cublasLtMatmulDescCreate(&plan->op, CUBLAS_COMPUTE_32F, CUDA_R_32F) ||
      cublasLtMatmulDescSetAttribute(plan->op, CUBLASLT_MATMUL_DESC_TRANSA, &transpose,
                                     sizeof transpose))
    return false;
  if (plan->bias && cublasLtMatmulDescSetAttribute(plan->op, CUBLASLT_MATMUL_DESC_EPILOGUE,
                                                   &epilogue, sizeof epilogue))
    return false;
  const uint64_t n = plan->n_rows, n_in = plan->n_in, n_out = plan->n_out;
  const uint64_t from = plan->backward ? n_out : n_in, to = plan->backward ? n_in : n_out;
  return !cublasLtMatrixLayoutCreate(&plan->w, CUDA_R_16BF, n_in, n_out, (int64_t)n_in) &&
         !cublasLtMatrixLayoutCreate(&plan->x, CUDA_R_16BF, from, n, (int64_t)from) &&
         !cublasLtMatrixLayoutCreate(&plan->y, CUDA_R_32F, to, n, (int64_t)plan->pitch);
}

static bool is_of(const lk_gemm_plan *plan, const lk_gemm_plan *shape) {
  return plan->n_rows == shape->n_rows && plan->n_out == shape->n_out &&
         plan->n_in == shape->n_in && plan->pitch == shape->pitch && plan->add == shape->add &&
         plan->bias == shape->bias && plan->backward == shape->backward;
}

lk_gemm_plan *lk_gemm_plan_of(lk_cuda_device *dev, const lk_gemm_plan *shape) {
  lk_cuda_gemm *gemm = dev->gemm;
  for (size_t i = 0; i < MAX_PLANS && i < gemm->n_made; i++)
    if (is_of(&gemm->plans[i], shape)) return &gemm->plans[i];
  lk_gemm_plan *plan = &gemm->plans[gemm->n_made % MAX_PLANS];
  plan_free(plan);
  *plan = *shape;
  if (!describe(plan) || !choose(dev, plan)) {
    plan_free(plan);
    return NULL;
  }
  gemm->n_made++;
  return plan;
}

bool lk_gemm_take(lk_cuda_device *dev, const lk_gemm_plan *shape, size_t number,
                  lk_gemm_algorithm *taken) {
  lk_gemm_plan *plan = lk_gemm_plan_of(dev, shape);
  cublasLtMatmulAlgo_t list[MAX_PROPOSALS];
  if (!plan || number >= list_all(dev, plan, list)) return false;
  plan->algorithm = list[number];
  *taken = config_of(&plan->algorithm);
  return true;
}
