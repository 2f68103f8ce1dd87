/* Sequences of random content, for benchmarks. */
#include "cache/random_pages.h"
#include "session/session.h"

leank_status leank_session_fill_random(leank_session *s, size_t n, const size_t *seqs,
                                       size_t n_tokens, leank_error *err) {
  leank_status status = LEANK_OK;
  lk_random_pages pages = {0};
  if (!s || !seqs) return lk_session_null(err);
  LK_FAIL_IF(n_tokens == 0, err, LEANK_E_ARGUMENT, -1, "0 tokens to fill");
  LK_FAIL_IF(n_tokens > s->options.n_ctx, err, LEANK_E_CONTEXT, -1,
             "%zu tokens: the context is %zu", n_tokens, s->options.n_ctx);
  for (size_t i = 0; i < n; i++)
    if (!lk_session_sequence(s, seqs[i], err)) return LEANK_E_ARGUMENT;
  LK_TRY(lk_random_pages_open(s->backend, &s->cache.geometry, &pages, err));
  for (size_t i = 0; i < n; i++)
    LK_TRY(lk_sequence_fill(&s->cache, &s->cache.sequences[seqs[i]], &pages, n_tokens, err));
cleanup:
  lk_random_pages_close(s->backend, &pages);
  return status;
}
