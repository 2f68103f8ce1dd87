/* Rotary frequencies. Every scaling is a function of the plain frequency theta^(-2i/D). */
#include <math.h>
#include <stddef.h>

#include "model/model.h"

static const double two_pi = 6.283185307179586476925286766559;

/* Channel (as a real number) that makes n_turns full turns over the original context. */
static double yarn_channel(const leank_model_info *info, double n_turns) {
  const double ctx = (double)info->rope_orig_ctx;
  return (double)info->head_dim * log(ctx / (n_turns * two_pi)) / (2 * log(info->rope_theta));
}

/* Channels below *low keep their frequency, those above *high are slowed by the factor. */
static void yarn_range(const leank_model_info *info, double *low, double *high) {
  *low = yarn_channel(info, info->rope_high_freq);
  *high = yarn_channel(info, info->rope_low_freq);
  if (!info->rope_untruncated) {
    *low = floor(*low);
    *high = ceil(*high);
  }
  *low = fmax(*low, 0);
  *high = fmin(*high, (double)info->head_dim - 1);
  if (*low == *high) *high += 0.001; /* a step, not a division by zero */
}

static double yarn_scale(double freq, double channel, double factor, double low, double high) {
  double slowed = fmin(fmax((channel - low) / (high - low), 0), 1);
  return freq / factor * slowed + freq * (1 - slowed);
}

static double llama3_scale(double freq, const leank_model_info *info) {
  const double low = info->rope_low_freq, high = info->rope_high_freq;
  double turns = (double)info->rope_orig_ctx * freq / two_pi;
  if (turns > high) return freq;
  if (turns < low) return freq / info->rope_factor;
  double keep = (turns - low) / (high - low);
  return (1 - keep) * freq / info->rope_factor + keep * freq;
}

static float yarn_mscale(const leank_model_info *info) {
  if (info->rope_attn_factor > 0) return (float)info->rope_attn_factor;
  return info->rope_factor <= 1 ? 1.0f : (float)(0.1 * log(info->rope_factor) + 1);
}

void lk_rope_frequencies(const leank_model_info *info, const float *freq_factors, double *inv_freq,
                         float *mscale) {
  const size_t n = info->head_dim / 2;
  double low = 0, high = 0;
  if (info->rope_scaling == LEANK_ROPE_YARN) yarn_range(info, &low, &high);
  for (size_t i = 0; i < n; i++) {
    double freq = pow(info->rope_theta, -2.0 * (double)i / (double)info->head_dim);
    if (freq_factors) freq /= (double)freq_factors[i];
    if (info->rope_scaling == LEANK_ROPE_LINEAR)
      freq /= info->rope_factor;
    else if (info->rope_scaling == LEANK_ROPE_LLAMA3 && !freq_factors)
      freq = llama3_scale(freq, info); /* divisors of a file are this scaling already */
    else if (info->rope_scaling == LEANK_ROPE_YARN)
      freq = yarn_scale(freq, (double)i, info->rope_factor, low, high);
    inv_freq[i] = freq;
  }
  *mscale = info->rope_scaling == LEANK_ROPE_YARN ? yarn_mscale(info) : 1.0f;
}
