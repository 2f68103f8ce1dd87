#include "kernels/dequant/widen_avx512.h"

#define MATVEC_VNNI 0
#include "kernels/matvec/matvec_bytes_avx512.h"

#define ISA avx512
enum { PARTS_OUTS = 2 };
enum { MAX_SUMS = 16, QUANTISED_OUTS = 4 }; /* of 32 registers */
#include "kernels/matvec/matvec_fp32.h"
#include "kernels/matvec/matvec_parts.h"
