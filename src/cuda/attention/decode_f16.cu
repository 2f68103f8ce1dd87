/* The kernels of decode.cu for pages of f16. */
#define LK_ELEMENT_F16
#include "cuda/attention/decode.cu"
