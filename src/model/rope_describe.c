/* Llama 3's scaling read back from its frequencies, for files that store only those. */
#include <math.h>
#include <stddef.h>

#include "model/model_loader.h"

static const double two_pi = 6.283185307179586476925286766559;

/* Turns per token of plain channel i, and the kept share s of 1 / factor_i = (1 - s) / f + s. */
static double turns_per_token(const leank_model_info *info, size_t i) {
  return pow(info->rope_theta, -2.0 * (double)i / (double)info->head_dim) / two_pi;
}
static double kept_share(double divisor, double factor) {
  return (1 / divisor - 1 / factor) / (1 - 1 / factor);
}

/* s = (old * x - low) / (high - low) is a line in x; least squares over the channels between. */
static size_t fit_line(const leank_model_info *info, const float *factors, double factor,
                       double *slope, double *offset) {
  double n = 0, sx = 0, sy = 0, sxx = 0, sxy = 0;
  for (size_t i = 0; i < info->head_dim / 2; i++) {
    double x = turns_per_token(info, i), y = kept_share((double)factors[i], factor);
    if (y < 1e-4 || y > 1 - 1e-4) continue;
    n += 1, sx += x, sy += y, sxx += x * x, sxy += x * y;
  }
  double spread = n * sxx - sx * sx;
  *slope = n >= 2 && spread > 0 ? (n * sxy - sx * sy) / spread : 0;
  *offset = n > 0 ? (sy - *slope * sx) / n : 0;
  if (n == 1) { /* one channel: the published high / low = 4 */
    *offset = -1.0 / 3;
    *slope = (sy - *offset) / sx;
  }
  return (size_t)n;
}

/* True where the described scaling gives these divisors. */
static bool gives(const leank_model_info *info, const float *factors) {
  for (size_t i = 0; i < info->head_dim / 2; i++) {
    double x = (double)info->rope_orig_ctx * turns_per_token(info, i);
    double s = (x - info->rope_low_freq) / (info->rope_high_freq - info->rope_low_freq);
    s = fmin(fmax(s, 0), 1);
    double divisor = 1 / ((1 - s) / info->rope_factor + s);
    if (fabs(divisor - (double)factors[i]) > 1e-4 * divisor) return false;
  }
  return true;
}

void lk_rope_describe_factors(leank_model_info *info, const float *factors) {
  double factor = 1, slope, offset;
  bool plain = true;
  for (size_t i = 0; i < info->head_dim / 2; i++) {
    factor = fmax(factor, (double)factors[i]);
    if (factors[i] != 1.0f) plain = false;
  }
  if (plain) return;
  info->rope_scaling = LEANK_ROPE_LLAMA3;
  info->rope_factor = factor;
  info->rope_low_freq = info->rope_high_freq = 0;
  info->rope_orig_ctx = 0;
  if (!(factor > 1) || fit_line(info, factors, factor, &slope, &offset) == 0) return;
  if (!(slope > 0) || !(offset < 0)) return;
  leank_model_info guess = *info;
  double old = round(-slope / offset);
  if (!(old >= 1 && old <= LK_MODEL_MAX_CONTEXT)) return;
  guess.rope_low_freq = 1;
  guess.rope_high_freq = round((1 - 1 / offset) * 1000) / 1000;
  guess.rope_orig_ctx = (size_t)old;
  if (guess.rope_high_freq > 1 && gives(&guess, factors)) *info = guess;
}
