#include "bench_steps.h"

#include <stdlib.h>

#include "cli_console.h"

bool bench_fills_randomly(int fill, const cli_engine *engine) {
  return fill == BENCH_FILL_RANDOM || (fill == BENCH_FILL_AUTO && engine->synthetic);
}

void bench_steps_open(bench_steps *s, const leank_model_info *info, size_t n_seqs,
                      size_t n_tokens) {
  *s = (bench_steps){.n_seqs = n_seqs,
                     .n_tokens = n_tokens,
                     .tokens = cli_alloc(n_tokens + n_seqs, sizeof *s->tokens),
                     .next = cli_alloc(n_seqs, sizeof *s->next),
                     .logits = cli_alloc(info->n_vocab, sizeof *s->logits),
                     .seqs = cli_alloc(n_seqs, sizeof *s->seqs)};
  for (size_t i = 0; i < n_seqs; i++) s->seqs[i] = i;
  for (size_t i = 0; i < n_tokens + n_seqs; i++) /* a multiplicative hash */
    s->tokens[i] = (leank_token)((((uint64_t)i + 1) * 0x9e3779b97f4a7c15u >> 33) % info->n_vocab);
}

void bench_steps_close(bench_steps *s) {
  free(s->tokens);
  free(s->next);
  free(s->logits);
  free(s->seqs);
  *s = (bench_steps){0};
}

static leank_status interrupted(leank_error *err) {
  *err = (leank_error){.code = LEANK_E_INTERRUPTED};
  return LEANK_E_INTERRUPTED;
}

leank_status bench_steps_prompt(const bench_steps *s, leank_session *session, size_t seq, size_t n,
                                double *seconds, leank_error *err) {
  leank_feed_options feed;
  cli_progress progress;
  leank_feed_options_default(&feed);
  feed.logits = s->logits;
  feed.on_progress = cli_progress_update;
  feed.user = &progress;
  leank_status status = leank_session_rewind(session, seq, 0, err);
  if (status != LEANK_OK) return status;
  cli_progress_begin(&progress, "prefill");
  const double start = cli_seconds();
  status = leank_session_feed(session, seq, s->tokens + seq, n, &feed, err);
  *seconds = cli_seconds() - start;
  cli_progress_end(&progress);
  return status == LEANK_OK && cli_interrupted() ? interrupted(err) : status;
}

leank_status bench_steps_decode(const bench_steps *s, leank_session *session, size_t n,
                                double *seconds, leank_error *err) {
  const double start = cli_seconds();
  for (size_t i = 0; i < n; i++) {
    if (cli_interrupted()) return interrupted(err);
    const leank_status status = leank_session_decode_greedy(
        session, s->n_seqs, s->seqs, &s->tokens[i % s->n_tokens], s->next, err);
    if (status != LEANK_OK) return status;
  }
  *seconds = cli_seconds() - start;
  return LEANK_OK;
}

int bench_steps_load_weights(const cli_engine *engine, leank_session **out) {
  bench_steps steps;
  leank_error err;
  double seconds;
  cli_engine one = *engine;
  one.options.n_seqs = 1;
  int code = cli_engine_keep_weights(&one, out);
  if (code != CLI_GO || !*out) return code;
  bench_steps_open(&steps, engine->info, 1, 1);
  code = bench_steps_code(bench_steps_decode(&steps, *out, 1, &seconds, &err), &err);
  bench_steps_close(&steps);
  return code;
}

size_t bench_stored_bytes(const leank_session *session) {
  leank_memory memory;
  leank_session_get_memory(session, &memory);
  return memory.wide_stored + memory.lean_stored;
}

int bench_steps_code(leank_status status, const leank_error *err) {
  if (status == LEANK_OK) return CLI_GO;
  if (status != LEANK_E_INTERRUPTED) return cli_fail(err);
  cli_complain("interrupted");
  return CLI_INTERRUPTED;
}
