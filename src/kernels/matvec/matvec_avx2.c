#include "kernels/dequant/widen_avx2.h"
#include "kernels/matvec/matvec_bytes_avx2.h"

#define ISA avx2
enum { PARTS_OUTS = 1 };
enum { MAX_SUMS = 8, QUANTISED_OUTS = 2 }; /* of 16 registers */
#include "kernels/matvec/matvec_fp32.h"
#include "kernels/matvec/matvec_parts.h"
