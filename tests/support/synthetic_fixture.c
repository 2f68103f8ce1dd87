#include "support/synthetic_fixture.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/rng.h"
#include "support/subject.h"

const char *lk_synthetic_config(bool qwen2) {
  /* Programs run side by side, each with files of its own. */
  static char paths[2][512];
  char *path = paths[qwen2];
  snprintf(path, sizeof paths[0], "%s/synthetic-%s-%d.json", LEANK_TEST_TMP,
           program_invocation_short_name, qwen2);
  FILE *f = fopen(path, "w");
  assert_non_null(f);
  fprintf(f,
          "{\"architectures\": [\"%s\"], \"hidden_size\": 96, \"intermediate_size\": 160,\n"
          " \"num_hidden_layers\": %d, \"num_attention_heads\": 4, \"num_key_value_heads\": %d,\n"
          " \"head_dim\": %d, \"vocab_size\": %d, \"max_position_embeddings\": 8192,\n"
          " \"tie_word_embeddings\": %s}\n",
          qwen2 ? "Qwen2ForCausalLM" : "LlamaForCausalLM", SYNTHETIC_L, SYNTHETIC_HK, SYNTHETIC_D,
          SYNTHETIC_V, qwen2 ? "true" : "false");
  assert_int_equal(fclose(f), 0);
  return path;
}

leank_model *lk_synthetic_open(bool qwen2, uint64_t seed, bool on_cuda) {
  leank_synthetic_options options;
  leank_model *model = NULL;
  leank_error err = {0};
  leank_synthetic_options_default(&options);
  options.seed = seed;
  options.on_cuda = on_cuda;
  if (leank_model_open_synthetic(lk_synthetic_config(qwen2), &options, &model, &err) != LEANK_OK)
    fail_msg("%s", err.message);
  return model;
}

leank_mask *lk_synthetic_mask(uint64_t seed) {
  uint8_t kept[SYNTHETIC_L][SYNTHETIC_HK][SYNTHETIC_D];
  leank_mask_info info;
  leank_mask *mask = NULL;
  leank_error err = {0};
  lk_rng rng = {seed};
  leank_mask_info_default(&info);
  info.n_layers = SYNTHETIC_L;
  info.n_kv_heads = SYNTHETIC_HK;
  info.head_dim = SYNTHETIC_D;
  info.n_sink = info.n_recent = 64;
  for (size_t i = 0; i < sizeof kept; i++)
    (&kept[0][0][0])[i] = i >= SYNTHETIC_D && lk_rng_u64(&rng) >> 63;
  if (leank_mask_create(&info, &kept[0][0][0], NULL, &mask, &err) != LEANK_OK)
    fail_msg("%s", err.message);
  return mask;
}

leank_session *lk_synthetic_session(const leank_model *model, const leank_mask *mask, size_t n_ctx,
                                    size_t n_seqs, leank_kv_type type, leank_device device) {
  leank_session_options options;
  leank_session *s = NULL;
  leank_error err = {0};
  leank_session_options_default(&options);
  options.device = device;
  options.mask = mask;
  options.n_ctx = n_ctx;
  options.n_seqs = n_seqs;
  options.kv_type = type;
  options.n_threads = 2;
  options.cpu = lk_test_cpu();
  lk_assert_ok(leank_session_open(model, &options, &s, &err), &err);
  return s;
}

void lk_synthetic_step(leank_session *session, size_t seq, leank_token token, float *logits) {
  leank_error err = {0};
  lk_assert_ok(leank_session_decode(session, 1, &seq, &token, logits, &err), &err);
}
