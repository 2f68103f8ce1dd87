/* Models of random weights for tests: a small config.json, opened. Every failure fails the test. */
#ifndef LK_SUPPORT_SYNTHETIC_FIXTURE_H
#define LK_SUPPORT_SYNTHETIC_FIXTURE_H

#include <leank/leank.h>

enum { SYNTHETIC_V = 211, SYNTHETIC_L = 2, SYNTHETIC_HK = 2, SYNTHETIC_D = 64 };

/* 4 query heads on 2 of 64 channels, 2 layers of 96 and 160, vocabulary 211; an untied llama, or a
 * tied qwen2 with biases. The path of its config.json, the same file each time. */
const char *lk_synthetic_config(bool qwen2);
leank_model *lk_synthetic_open(bool qwen2, uint64_t seed, bool on_cuda);

/* A mask of that shape: sink and recent of 64 tokens, channels kept by seed, one head keeps none.
 */
leank_mask *lk_synthetic_mask(uint64_t seed);

/* A session of two threads under the CPU cap of the tests; the caller closes it. */
leank_session *lk_synthetic_session(const leank_model *model, const leank_mask *mask, size_t n_ctx,
                                    size_t n_seqs, leank_kv_type type, leank_device device);
/* A decode step of one sequence: its logits[SYNTHETIC_V]. */
void lk_synthetic_step(leank_session *session, size_t seq, leank_token token, float *logits);

#endif
