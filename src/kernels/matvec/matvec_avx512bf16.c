/* Products with quantised weights by AVX512_VNNI, which the level avx512bf16 includes. */
#define MATVEC_VNNI 1
#include "kernels/matvec/matvec_bytes_avx512.h"

#define ISA avx512bf16
enum { PARTS_OUTS = 2 };
#include "kernels/matvec/matvec_parts.h"
