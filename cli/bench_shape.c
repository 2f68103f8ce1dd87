#include "bench_shape.h"

#include "cli_console.h"

/* What the model says, checked against the mask. */
static int from_model(const bench_shape_options *o, const leank_mask *mask,
                      leank_bench_shape *shape) {
  leank_model_info info;
  leank_error err;
  if (o->heads.n) return cli_usage_error("--heads and a model exclude each other");
  if (o->n_layers) return cli_usage_error("--n-layers and a model exclude each other");
  if (leank_model_read_info(o->model, &info, &err) != LEANK_OK) return cli_fail(&err);
  shape->n_layers = info.n_layers;
  shape->n_heads = info.n_heads;
  shape->n_kv_heads = info.n_kv_heads;
  shape->head_dim = info.head_dim;
  return mask ? cli_check_mask(mask, o->mask, &info) : CLI_GO;
}

/* The mask knows all but the number of query heads. */
static int from_mask(const bench_shape_options *o, const leank_mask *mask,
                     leank_bench_shape *shape) {
  const leank_mask_info *info = leank_mask_get_info(mask);
  if (o->heads.n == 0) {
    return cli_usage_error("a mask does not say how many query heads there are: --heads N");
  }
  if (o->n_layers) return cli_usage_error("--n-layers and --mask exclude each other");
  shape->n_layers = info->n_layers;
  shape->n_heads = o->heads.values[0];
  shape->n_kv_heads = info->n_kv_heads;
  shape->head_dim = info->head_dim;
  if (o->heads.n == 3 &&
      (o->heads.values[1] != info->n_kv_heads || o->heads.values[2] != info->head_dim)) {
    return cli_complain("%s: for %zu kv heads of %zu channels, not %zu of %zu", o->mask,
                        info->n_kv_heads, info->head_dim, o->heads.values[1], o->heads.values[2]);
  }
  return CLI_GO;
}

static int from_heads(const bench_shape_options *o, leank_bench_shape *shape) {
  if (o->heads.n != 3) {
    return cli_usage_error("which shape? a model, or --heads of query, of kv and channels of one, "
                           "as 32,8,128");
  }
  if (o->n_layers) shape->n_layers = o->n_layers;
  shape->n_heads = o->heads.values[0];
  shape->n_kv_heads = o->heads.values[1];
  shape->head_dim = o->heads.values[2];
  return CLI_GO;
}

int bench_shape_make(const bench_shape_options *o, leank_bench_shape *shape, leank_mask **mask) {
  leank_error err;
  *mask = NULL;
  leank_bench_shape_default(shape);
  shape->n_sink = o->n_sink;
  shape->n_recent = o->n_recent;
  shape->kv_type = (leank_kv_type)o->kv_type;
  if (o->heads.n != 0 && o->heads.n != 3 && !(o->heads.n == 1 && o->mask)) {
    return cli_usage_error("--heads are three numbers, or one beside --mask");
  }
  if (o->mask && leank_mask_open(o->mask, mask, &err) != LEANK_OK) return cli_fail(&err);
  if (o->model) return from_model(o, *mask, shape);
  return *mask ? from_mask(o, *mask, shape) : from_heads(o, shape);
}
