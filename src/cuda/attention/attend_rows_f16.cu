/* The kernels of attend_rows.cu for pages of f16. */
#define LK_ELEMENT_F16
#include "cuda/attention/attend_rows.cu"
