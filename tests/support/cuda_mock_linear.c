/* Products of the device in software: to fp32, rounding of activations is the library's matter. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/dtype.h"
#include "support/cuda_mock.h"
#include "support/cuda_mock_queue.h"

/* x[n_in] of a row, behind the norm where there is one. */
static void read_row(const lk_cuda_linear *j, size_t row, double *x) {
  double sum = 0;
  for (size_t c = 0; c < j->n_in; c++) {
    x[c] = (double)j->x[row * j->n_in + c];
    sum += x[c] * x[c];
  }
  if (!j->norm) return;
  const double scale = 1 / sqrt(sum / (double)j->n_in + (double)j->eps);
  for (size_t c = 0; c < j->n_in; c++) x[c] *= scale * (double)j->norm[c];
}

static double product(const lk_cuda_linear *j, const lk_cuda_part *part, size_t out,
                      const double *x) {
  const uint16_t *w = part->w + out * j->n_in;
  double sum = part->bias ? (double)part->bias[out] : 0;
  for (size_t c = 0; c < j->n_in; c++) sum += x[c] * (double)lk_bf16_to_f32(w[c]);
  return sum;
}

static void multiply_row(const lk_cuda_linear *j, size_t row, const double *x) {
  for (size_t p = 0; p < (j->gated ? 1 : j->n_parts); p++) {
    const lk_cuda_part *part = &j->parts[p];
    float *y = part->y + row * part->n_out;
    for (size_t i = 0; i < part->n_out; i++) {
      const double sum = product(j, part, i, x);
      if (j->gated)
        y[i] = (float)(sum / (1 + exp(-sum)) * product(j, &j->parts[1], i, x));
      else
        y[i] = (float)(part->add ? (double)y[i] + sum : sum);
    }
  }
}

static void run_linear(const void *args) {
  const lk_cuda_linear *j = args;
  double *x = malloc(j->n_in * sizeof *x);
  assert_non_null(x);
  for (size_t row = 0; row < j->n_rows; row++) {
    read_row(j, row, x);
    multiply_row(j, row, x);
  }
  free(x);
}

static void launch(lk_cuda_device *dev, const lk_cuda_linear *job) {
  assert_true(job->n_parts > 0 && job->n_parts <= LK_CUDA_MAX_PARTS);
  lk_mock_launch(dev, run_linear, job, sizeof *job);
}

void lk_mock_linear_few(lk_cuda_device *dev, const lk_cuda_linear *job) {
  const lk_cuda_part *p = job->parts;
  assert_true(!job->gated ||
              (job->n_parts == 2 && p[0].n_out == p[1].n_out && !p[0].add && !p[1].add));
  assert_true(!job->norm || job->eps > 0);
  lk_cuda_mock.n_fused += job->norm != NULL;
  lk_cuda_mock.n_gated += job->gated;
  launch(dev, job);
}

void lk_mock_linear(lk_cuda_device *dev, const lk_cuda_linear *job) {
  assert_true(!job->norm && !job->gated);
  launch(dev, job);
}
