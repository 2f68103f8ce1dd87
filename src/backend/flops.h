/* Arithmetic of operations, as lk_backend_ops.flops counts it. */
#ifndef LK_BACKEND_FLOPS_H
#define LK_BACKEND_FLOPS_H

#include "backend/backend.h"

double lk_product_flops(const lk_tensor *w, size_t n_rows);
/* Of a group's rows with every page up to them. */
double lk_attend_flops(const lk_attn_shape *shape, const lk_layer_view *view,
                       const lk_attend_group *group);
/* Pairs of a query row and a key it sees, over all query heads of the rows of sequences. */
double lk_weighted_pairs(const lk_attn_shape *shape, const lk_channel_weights *weights,
                         const lk_weighted_rows *rows, size_t n_sequences);

/* Multiplications and additions of a pair, for each channel: forward q k and p v; backward q k,
 * dout v and dx k. */
enum { LK_WEIGHTED_FLOPS = 4, LK_WEIGHTED_BACKWARD_FLOPS = 6 };

#endif
