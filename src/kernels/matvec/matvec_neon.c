#include "kernels/dequant/widen_neon.h"

#define ISA neon
enum { MAX_SUMS = 8, QUANTISED_OUTS = 2 }; /* of 16 pairs of registers */
#include "kernels/matvec/matvec_fp32.h"
