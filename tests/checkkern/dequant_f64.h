/* Oracle: stored weights in float64, slow and obvious. */
#ifndef DEQUANT_F64_H
#define DEQUANT_F64_H

#include <stddef.h>

#include "base/dtype.h"
#include "base/rng.h"

typedef struct dequant_f64 {
  double value;     /* exact: no operation here rounds */
  double magnitude; /* |scale * q| + |offset|: what rounding errors of the value are measured by */
  double shifted;   /* the same where q is made unsigned and its zero point taken off again */
} dequant_f64;

/* Element i of the elements stored at data. */
dequant_f64 dequant_f64_element(lk_dtype type, const void *data, size_t i);

/* Random bytes for n elements (a multiple of the block), with finite scales of up to about
 * `magnitude` per element, of either sign. */
void dequant_f64_random(lk_dtype type, size_t n, double magnitude, lk_rng *rng, void *data);

#endif
