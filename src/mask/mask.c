#include "mask/mask.h"

#include <math.h>
#include <string.h>

#include <leank/session.h>

#include "base/alloc.h"
#include "base/utf8.h"

enum { MAX_HEAD_DIM = 65534 };
/* So that sums of positions stay far from overflow. */
static const size_t max_tokens = (size_t)1 << 31;

void leank_mask_info_default(leank_mask_info *info) {
  *info = (leank_mask_info){
      .struct_size = sizeof *info,
      .order = LEANK_ORDER_HALF,
      .rope_scaling = LEANK_ROPE_PLAIN,
      .rope_factor = 1,
      .n_sink = 128,
      .n_recent = 768,
      .policy = LEANK_POLICY_DROP,
      .align = 1,
  };
}

void leank_mask_info_set_model(leank_mask_info *info, const leank_model_info *model) {
  info->n_layers = model->n_layers;
  info->n_kv_heads = model->n_kv_heads;
  info->head_dim = model->head_dim;
  memcpy(info->architecture, model->architecture, sizeof info->architecture);
  info->rope_theta = model->rope_theta;
  info->rope_scaling = model->rope_scaling;
  info->rope_factor = model->rope_factor;
}

/* ---- creating ---- */

/* NUL-terminated inside its array, and text that a file can hold. */
static leank_status check_text(const char *text, size_t size, const char *what, leank_error *err) {
  const char *end = memchr(text, 0, size);
  size_t bad_at;
  if (!end) return lk_fail(err, LEANK_E_ARGUMENT, -1, "mask: %s is not NUL-terminated", what);
  if (!lk_utf8_valid(text, (size_t)(end - text), &bad_at))
    return lk_fail(err, LEANK_E_ARGUMENT, -1, "mask: %s is no UTF-8", what);
  return LEANK_OK;
}

static leank_status check_fingerprint(const char *text, leank_error *err) {
  const size_t n = strspn(text, "0123456789abcdef");
  if (text[n] == 0 && (n == 0 || n == 16)) return LEANK_OK;
  return lk_fail(err, LEANK_E_ARGUMENT, -1, "mask: fingerprint is not 16 hex digits");
}

static leank_status check_story(const leank_mask_info *info, leank_error *err) {
  leank_status status = LEANK_OK;
  LK_TRY(check_text(info->architecture, sizeof info->architecture, "architecture", err));
  LK_TRY(check_text(info->method, sizeof info->method, "method", err));
  LK_TRY(check_text(info->data, sizeof info->data, "data", err));
  LK_TRY(check_text(info->fingerprint, sizeof info->fingerprint, "fingerprint", err));
  LK_TRY(check_fingerprint(info->fingerprint, err));
  LK_FAIL_IF((unsigned)info->policy > LEANK_POLICY_MEAN, err, LEANK_E_ARGUMENT, -1,
             "mask: unknown policy %d", (int)info->policy);
  LK_FAIL_IF((unsigned)info->rope_scaling > LEANK_ROPE_YARN, err, LEANK_E_ARGUMENT, -1,
             "mask: unknown RoPE scaling %d", (int)info->rope_scaling);
  LK_FAIL_IF(!(info->rope_theta >= 0) || !isfinite(info->rope_theta) || !(info->rope_factor > 0) ||
                 !isfinite(info->rope_factor),
             err, LEANK_E_ARGUMENT, -1, "mask: RoPE theta %g or factor %g is not possible",
             info->rope_theta, info->rope_factor);
  LK_FAIL_IF(!(info->ratio_asked >= 0 && info->ratio_asked <= 1), err, LEANK_E_ARGUMENT, -1,
             "mask: ratio %g is outside [0,1]", info->ratio_asked);
cleanup:
  return status;
}

static leank_status check_sizes(const leank_mask_info *info, size_t *n, leank_error *err) {
  leank_status status = LEANK_OK;
  LK_FAIL_IF(info->n_layers == 0 || info->n_kv_heads == 0 || info->head_dim == 0, err,
             LEANK_E_ARGUMENT, -1, "mask: sizes [%zu,%zu,%zu] must not be 0", info->n_layers,
             info->n_kv_heads, info->head_dim);
  LK_FAIL_IF(info->head_dim % 2 != 0 || info->head_dim > MAX_HEAD_DIM, err, LEANK_E_ARGUMENT, -1,
             "mask: head dim %zu is odd or above %d", info->head_dim, MAX_HEAD_DIM);
  LK_FAIL_IF(!lk_mul(info->n_layers, info->n_kv_heads, n) || !lk_mul(*n, info->head_dim, n), err,
             LEANK_E_ARGUMENT, -1, "mask: sizes [%zu,%zu,%zu] overflow", info->n_layers,
             info->n_kv_heads, info->head_dim);
  LK_FAIL_IF(info->n_sink % LEANK_PAGE_TOKENS != 0, err, LEANK_E_ARGUMENT, -1,
             "mask: n_sink %zu is not a multiple of %d", info->n_sink, LEANK_PAGE_TOKENS);
  LK_FAIL_IF(info->n_sink > max_tokens || info->n_recent > max_tokens, err, LEANK_E_ARGUMENT, -1,
             "mask: n_sink %zu or n_recent %zu is too large", info->n_sink, info->n_recent);
  LK_FAIL_IF(info->align == 0, err, LEANK_E_ARGUMENT, -1, "mask: align must not be 0");
cleanup:
  return status;
}

static leank_status check_values(const uint8_t *kept, const float *alpha, size_t n,
                                 leank_error *err) {
  for (size_t i = 0; i < n; i++) {
    if (kept[i] > 1)
      return lk_fail(err, LEANK_E_ARGUMENT, -1, "mask: element %zu is %d, not 0 or 1", i, kept[i]);
    if (alpha && !(alpha[i] >= 0 && alpha[i] <= 1))
      return lk_fail(err, LEANK_E_ARGUMENT, -1, "mask: alpha %zu is %g, outside [0,1]", i,
                     (double)alpha[i]);
  }
  return LEANK_OK;
}

static size_t count_kept(const uint8_t *kept, size_t n) {
  size_t n_kept = 0;
  for (size_t i = 0; i < n; i++) n_kept += kept[i];
  return n_kept;
}

/* Every head's count is a multiple of align, or all of D. */
static leank_status check_align(const leank_mask_info *info, const uint8_t *kept,
                                leank_error *err) {
  for (size_t i = 0; i < info->n_layers * info->n_kv_heads; i++) {
    const size_t n_kept = count_kept(kept + i * info->head_dim, info->head_dim);
    if (n_kept % info->align != 0 && n_kept != info->head_dim)
      return lk_fail(err, LEANK_E_ARGUMENT, -1,
                     "mask: layer %zu, kv head %zu keeps %zu channels, not a multiple of align %zu",
                     i / info->n_kv_heads, i % info->n_kv_heads, n_kept, info->align);
  }
  return LEANK_OK;
}

leank_status leank_mask_create(const leank_mask_info *info, const uint8_t *kept, const float *alpha,
                               leank_mask **out, leank_error *err) {
  leank_status status = LEANK_OK;
  leank_mask *mask = NULL;
  leank_mask_info own;
  size_t n = 0;
  LK_FAIL_IF(!info || !kept || !out, err, LEANK_E_ARGUMENT, -1, "mask: an argument is NULL");
  LK_FAIL_IF(info->struct_size != sizeof *info, err, LEANK_E_ARGUMENT, -1,
             "mask: an info of %zu bytes: fill it with leank_mask_info_default", info->struct_size);
  own = *info;
  own.order = LEANK_ORDER_HALF;
  LK_TRY(check_sizes(&own, &n, err));
  LK_TRY(check_story(&own, err));
  LK_TRY(check_values(kept, alpha, n, err));
  LK_TRY(check_align(&own, kept, err));
  own.ratio_reached = 1 - (double)count_kept(kept, n) / (double)n;
  mask = lk_alloc(LK_MEM_OTHER, 1, sizeof *mask);
  LK_FAIL_IF(!mask, err, LEANK_E_MEMORY, -1, "mask: out of memory");
  mask->info = own;
  mask->kept = lk_alloc(LK_MEM_OTHER, n, 1);
  if (alpha) mask->alpha = lk_alloc(LK_MEM_OTHER, n, sizeof *alpha);
  LK_FAIL_IF(!mask->kept || (alpha && !mask->alpha), err, LEANK_E_MEMORY, -1,
             "mask: out of memory");
  memcpy(mask->kept, kept, n);
  if (alpha) memcpy(mask->alpha, alpha, n * sizeof *alpha);
  *out = mask;
cleanup:
  if (status != LEANK_OK) leank_mask_close(&mask);
  return status;
}

void leank_mask_close(leank_mask **mask) {
  if (!mask || !*mask) return;
  lk_free((*mask)->kept);
  lk_free((*mask)->alpha);
  lk_free(*mask);
  *mask = NULL;
}

/* ---- asking ---- */

const leank_mask_info *leank_mask_get_info(const leank_mask *mask) { return &mask->info; }
const uint8_t *leank_mask_get_kept(const leank_mask *mask) { return mask->kept; }
const float *leank_mask_get_alpha(const leank_mask *mask) { return mask->alpha; }

size_t leank_mask_n_kept(const leank_mask *mask, size_t layer, size_t kv_head) {
  const leank_mask_info *info = &mask->info;
  if (layer >= info->n_layers || kv_head >= info->n_kv_heads) return 0;
  const size_t head = layer * info->n_kv_heads + kv_head;
  return count_kept(mask->kept + head * info->head_dim, info->head_dim);
}

void leank_mask_get_shares(const leank_mask *mask, double *k_kept, double *v_kept) {
  const leank_mask_info *info = &mask->info;
  const size_t n_heads = info->n_layers * info->n_kv_heads;
  size_t kept = 0, heads = 0;
  for (size_t i = 0; i < n_heads; i++) {
    const size_t n = count_kept(mask->kept + i * info->head_dim, info->head_dim);
    kept += n;
    heads += n > 0;
  }
  *k_kept = (double)kept / (double)(n_heads * info->head_dim);
  *v_kept = (double)heads / (double)n_heads;
}

/* ---- mask and model ---- */

/* Files keep these as 32-bit floats, as short decimals, or as something they follow from. */
static bool same_number(double a, double b) { return fabs(a - b) <= 1e-5 * fmax(fabs(a), fabs(b)); }

static leank_status check_model_sizes(const leank_mask_info *mask, const leank_model_info *model,
                                      leank_error *err) {
  if (mask->n_layers == model->n_layers && mask->n_kv_heads == model->n_kv_heads &&
      mask->head_dim == model->head_dim)
    return LEANK_OK;
  return lk_fail(err, LEANK_E_MISMATCH, -1,
                 "the mask is for %zu layers, %zu kv heads, head dim %zu; the model has %zu, %zu, "
                 "%zu",
                 mask->n_layers, mask->n_kv_heads, mask->head_dim, model->n_layers,
                 model->n_kv_heads, model->head_dim);
}

/* Theta 0 = the mask knows nothing of the model's RoPE (an import). */
static leank_status check_model_rope(const leank_mask_info *mask, const leank_model_info *model,
                                     leank_error *err) {
  leank_status status = LEANK_OK;
  if (mask->rope_theta == 0 || model->rope_theta == 0) return LEANK_OK;
  LK_FAIL_IF(!same_number(mask->rope_theta, model->rope_theta), err, LEANK_E_MISMATCH, -1,
             "the mask is for RoPE theta %g; the model has %g", mask->rope_theta,
             model->rope_theta);
  LK_FAIL_IF(mask->rope_scaling != model->rope_scaling, err, LEANK_E_MISMATCH, -1,
             "the mask is for RoPE scaling %s; the model has %s",
             leank_rope_scaling_name(mask->rope_scaling),
             leank_rope_scaling_name(model->rope_scaling));
  LK_FAIL_IF(mask->rope_scaling != LEANK_ROPE_PLAIN &&
                 !same_number(mask->rope_factor, model->rope_factor),
             err, LEANK_E_MISMATCH, -1, "the mask is for RoPE factor %g; the model has %g",
             mask->rope_factor, model->rope_factor);
cleanup:
  return status;
}

leank_status leank_mask_check(const leank_mask *mask, const leank_model_info *model,
                              bool *same_weights, leank_error *err) {
  leank_status status = LEANK_OK;
  LK_FAIL_IF(!mask || !model, err, LEANK_E_ARGUMENT, -1, "mask or model is NULL");
  const leank_mask_info *info = &mask->info;
  LK_TRY(check_model_sizes(info, model, err));
  LK_FAIL_IF(info->architecture[0] && model->architecture[0] &&
                 strcmp(info->architecture, model->architecture) != 0,
             err, LEANK_E_MISMATCH, -1, "the mask is for architecture %s; the model is %s",
             info->architecture, model->architecture);
  LK_TRY(check_model_rope(info, model, err));
  if (same_weights)
    *same_weights = !info->fingerprint[0] || !model->fingerprint[0] ||
                    strcmp(info->fingerprint, model->fingerprint) == 0;
cleanup:
  return status;
}
