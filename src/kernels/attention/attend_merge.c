/* Merge of partial softmaxes. */
#include <math.h>
#include <string.h>

#include "kernels/attention/attend.h"

void lk_attend_merge(size_t n_parts, const float *m, const float *l, size_t ml_stride,
                     const float *o, size_t o_stride, size_t head_dim, float *out) {
  float top = -INFINITY, sum = 0;
  for (size_t p = 0; p < n_parts; p++) top = fmaxf(top, m[p * ml_stride]);
  memset(out, 0, head_dim * sizeof *out);
  for (size_t p = 0; p < n_parts; p++) {
    if (m[p * ml_stride] == -INFINITY) continue;
    const float weight = expf(m[p * ml_stride] - top);
    const float *part = o + p * o_stride;
    sum += weight * l[p * ml_stride];
    for (size_t c = 0; c < head_dim; c++) out[c] += weight * part[c];
  }
  if (top == -INFINITY) return;
  const float inverse = 1.0f / sum;
  for (size_t c = 0; c < head_dim; c++) out[c] *= inverse;
}
