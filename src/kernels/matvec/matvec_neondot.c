/* Products with quantised weights by FEAT_DotProd. */
#include "kernels/matvec/matvec_bytes_neondot.h"

#define ISA neondot
enum { PARTS_OUTS = 1 };
#include "kernels/matvec/matvec_parts.h"
