/* leank_cpu_describe: the kernels that a session on this machine would get. */
#include <stdio.h>
#include <string.h>

#include <leank/cpu.h>

#include "backend/cpu.h"
#include "base/available.h"
#include "cpu/cpu_features.h"
#include "cpu/cpu_model.h"

const char *leank_cpu_level_name(leank_cpu_level level) { return lk_cpu_level_name(level); }

/* Asks a backend for the smallest of shapes: variants do not depend on it. */
static leank_status name_kernels(leank_cpu_level cap, leank_kv_type kv_type, char *out, size_t size,
                                 leank_error *err) {
  leank_status status = LEANK_OK;
  lk_backend *be = NULL;
  const lk_backend_options options = {
      .kv_type = kv_type,
      .n_threads = 1,
      .cpu = cap,
      .max_few_rows = 1,
      .max_pages = 1,
      .shape = {.n_heads = 1, .n_kv_heads = 1, .head_dim = lk_backend_cpu_granule(kv_type)}};
  LK_TRY(lk_backend_open_cpu(&options, &be, err));
  snprintf(out, size, "%s", be->ops->kernels(be));
  be->ops->close(be);
cleanup:
  return status;
}

leank_status leank_cpu_describe(leank_cpu_level cap, leank_kv_type kv_type, leank_cpu_info *out,
                                leank_error *err) {
  leank_status status = LEANK_OK;
  leank_cpu_info info;
  memset(&info, 0, sizeof info);
  LK_FAIL_IF(!leank_cpu_level_name(cap), err, LEANK_E_ARGUMENT, -1, "unknown CPU level %d",
             (int)cap);
  /* Of f16 the backend says who has it. */
  LK_FAIL_IF(kv_type != LEANK_KV_F16 && !lk_attend_select(kv_type, cap), err, LEANK_E_ARGUMENT, -1,
             "unknown cache type %d", (int)kv_type);
  info.detected = lk_cpu_detect();
  info.level = lk_cpu_level(cap);
  info.n_processors = lk_parallel_default_threads();
  info.cache_bytes = lk_cpu_model_cache_bytes();
  info.free_bytes = lk_mem_available();
  lk_cpu_model_name(info.name);
  info.n_features = lk_cpu_model_features(info.features);
  LK_TRY(name_kernels(cap, kv_type, info.kernels, sizeof info.kernels, err));
  *out = info;
cleanup:
  return status;
}
