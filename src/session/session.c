#include "session/session.h"

#include <stdint.h>

leank_status leank_session_open(const leank_model *model, const leank_session_options *options,
                                leank_session **out, leank_error *err) {
  leank_status status = LEANK_OK;
  lk_geometry geometry = {0};
  leank_session_options defaults;
  if (!model || !out) return lk_session_null(err);
  leank_session_options_default(&defaults);
  leank_session *s = lk_alloc(LK_MEM_OTHER, 1, sizeof *s);
  LK_FAIL_IF(!s, err, LEANK_E_MEMORY, -1, "out of memory");
  s->model = model;
  if (!options || options->device == LEANK_DEVICE_CPU) LK_TRY(lk_model_check_cpu(model, err));
  LK_TRY(lk_session_resolve(&model->info, options ? options : &defaults, &s->options, err));
  LK_TRY(lk_session_geometry(&model->info, &s->options, &geometry, err));
  s->plan = lk_session_plan(&model->info, &s->options, &geometry);
  lk_backend_options backend = lk_session_backend_options(&model->info, &s->options);
  backend.model = model;
  LK_TRY(lk_backend_open(&backend, &s->backend, err));
  LK_TRY(lk_cache_open(s->backend, &geometry, s->options.n_seqs, &s->cache, err));
  LK_TRY(lk_step_open(s, err));
  lk_session_note_open(s);
  *out = s;
cleanup:
  lk_geometry_free(&geometry);
  if (status != LEANK_OK) leank_session_close(&s);
  return status;
}

void leank_session_close(leank_session **session) {
  leank_session *s = session ? *session : NULL;
  if (!s) return;
  if (s->backend) {
    lk_step_close(s);
    lk_cache_close(&s->cache);
    s->backend->ops->close(s->backend);
  }
  lk_free(s);
  *session = NULL;
}

leank_status lk_session_null(leank_error *err) {
  return lk_fail(err, LEANK_E_ARGUMENT, -1, "session: an argument is NULL");
}

lk_sequence *lk_session_sequence(leank_session *s, size_t seq, leank_error *err) {
  if (seq < s->cache.n_seqs) return &s->cache.sequences[seq];
  lk_fail(err, LEANK_E_ARGUMENT, -1, "sequence %zu: the session has %zu", seq, s->cache.n_seqs);
  return NULL;
}

size_t leank_session_length(const leank_session *s, size_t seq) {
  return seq < s->cache.n_seqs ? s->cache.sequences[seq].n_tokens : 0;
}

size_t leank_session_middle_end(const leank_session *s, size_t seq) {
  return seq < s->cache.n_seqs ? s->cache.sequences[seq].middle_end : 0;
}

leank_status leank_session_rewind(leank_session *s, size_t seq, size_t n_tokens, leank_error *err) {
  if (!s) return lk_session_null(err);
  lk_sequence *sequence = lk_session_sequence(s, seq, err);
  return sequence ? lk_sequence_rewind(&s->cache, sequence, n_tokens, err) : LEANK_E_ARGUMENT;
}

leank_status leank_session_fork(leank_session *s, size_t from, size_t to, leank_error *err) {
  if (!s) return lk_session_null(err);
  lk_sequence *a = lk_session_sequence(s, from, err), *b = lk_session_sequence(s, to, err);
  if (!a || !b) return LEANK_E_ARGUMENT;
  if (a == b) return lk_fail(err, LEANK_E_ARGUMENT, -1, "sequence %zu forked onto itself", from);
  lk_sequence_fork(&s->cache, a, b);
  return LEANK_OK;
}

leank_status leank_session_pack_from(leank_session *s, size_t to, const leank_session *source,
                                     size_t from, leank_error *err) {
  if (!s || !source) return lk_session_null(err);
  lk_sequence *b = lk_session_sequence(s, to, err);
  if (!b) return LEANK_E_ARGUMENT;
  if (source == s)
    return lk_fail(err, LEANK_E_ARGUMENT, -1, "the source is this session itself: fork instead");
  if (from >= source->cache.n_seqs)
    return lk_fail(err, LEANK_E_ARGUMENT, -1, "sequence %zu of the source, which has %zu", from,
                   source->cache.n_seqs);
  if (source->model != s->model)
    return lk_fail(err, LEANK_E_MISMATCH, -1, "the sessions are of different models");
  return lk_sequence_pack_from(&s->cache, b, &source->cache, &source->cache.sequences[from], err);
}

void leank_session_interrupt(leank_session *s) {
  atomic_store_explicit(&s->interrupted, true, memory_order_relaxed);
}

/* Whether a sequence before the ith has the ith's page p: sharers have it at the same place. */
static bool is_of_an_earlier(const lk_cache *c, size_t i, size_t p) {
  const lk_page_entry e = c->sequences[i].table[p];
  if (c->pools[e.kind].n_refs[e.page] == 1) return false;
  for (size_t j = 0; j < i; j++) {
    const lk_sequence *seq = &c->sequences[j];
    if (p < lk_pages_of(seq->n_tokens) && seq->table[p].kind == e.kind &&
        seq->table[p].page == e.page)
      return true;
  }
  return false;
}

/* Bytes of the tokens that the ith sequence stores in pages that no sequence before it shares. */
static void count_sequence(const lk_cache *c, size_t i, leank_memory *out) {
  const lk_geometry *g = &c->geometry;
  const lk_sequence *seq = &c->sequences[i];
  size_t lean_page = 0;
  for (size_t l = 0; l < g->n_layers; l++) lean_page += g->lean_page_bytes[l];
  for (size_t p = 0; p < lk_pages_of(seq->n_tokens); p++) {
    if (is_of_an_earlier(c, i, p)) continue;
    const size_t left = seq->n_tokens - p * LK_P, n = left < LK_P ? left : LK_P;
    if (seq->table[p].kind == LK_PAGE_LEAN)
      out->lean_stored += lean_page;
    else
      out->wide_stored += g->n_layers * g->wide_page_bytes / LK_P * n;
  }
}

void leank_session_get_memory(const leank_session *s, leank_memory *out) {
  const lk_cache *c = &s->cache;
  leank_memory m = {.n_wide_pages = lk_pool_n_used(&c->pools[LK_PAGE_WIDE]),
                    .n_lean_pages = lk_pool_n_used(&c->pools[LK_PAGE_LEAN]),
                    .wide_reserved = s->plan.wide_reserved,
                    .lean_reserved = s->plan.lean_reserved,
                    .prefill_scratch = s->prefill_peak,
                    .other_scratch = s->other_peak};
  for (size_t i = 0; i < c->n_seqs; i++) count_sequence(c, i, &m);
  m.wide_resident = s->backend->ops->resident(s->backend, c->pools[LK_PAGE_WIDE].arena);
  m.lean_resident = s->backend->ops->resident(s->backend, c->pools[LK_PAGE_LEAN].arena);
  *out = m;
}

const leank_plan *leank_session_get_plan(const leank_session *s) { return &s->plan; }
const char *leank_session_kernels(const leank_session *s) {
  return s->backend->ops->kernels(s->backend);
}
size_t leank_session_threads(const leank_session *s) {
  return s->backend->ops->n_threads(s->backend);
}
