/* One prompt, read once, answered by the dense model and by variants. */
#include <math.h>
#include <string.h>

#include <leank/eval.h>

#include "base/alloc.h"
#include "base/error.h"
#include "eval/row_stats.h"
#include "text/text_buffer.h"

enum { THINK_WINDOW = 32, UNITS = 1000, UNITS_READ = 600, UNITS_DENSE = 700 };

void leank_eval_run_options_default(leank_eval_run_options *options) {
  *options = (leank_eval_run_options){.struct_size = sizeof *options};
  leank_session_options_default(&options->session);
}

void leank_eval_result_clear(leank_eval_result *result) {
  leank_text_free(&result->text);
  lk_free(result->kl);
  *result = (leank_eval_result){0};
}

/* ---- a run ---- */

typedef struct run {
  const leank_model *model;
  const leank_model_info *info;
  const leank_eval_prompt *prompt;
  const leank_eval_run_options *options;
  leank_session *dense;
  lk_team *team;          /* for rows */
  leank_head_stats stats; /* of ThinK: all keys, the last queries */
  float *logits;          /* [V] of the last row of the prompt */
  float *step;            /* [V] */
  leank_token *answer;    /* [n_answer] the dense answer, or the passage */
  size_t n_answer;
  lk_logit_rows rows; /* [n_answer - 1] what follows each of its tokens */
  leank_token *own;   /* [room] a variant's answer */
  size_t room;
  uint64_t done, part; /* progress: units before the call that runs, and its own */
} run;

static bool stopped(const run *r) {
  return r->options->should_stop && r->options->should_stop(r->options->user);
}

static void report(const run *r, uint64_t done) {
  if (r->options->on_progress) r->options->on_progress(r->options->user, done, UNITS);
}

static leank_status open_session(const run *r, const leank_mask *mask, leank_session **out,
                                 leank_error *err) {
  leank_session_options options = r->options->session;
  const size_t n_after = r->prompt->passage ? r->prompt->n_passage : r->prompt->max_new;
  options.mask = mask;
  options.n_ctx = r->prompt->n_tokens + n_after;
  options.n_seqs = 1;
  return leank_session_open(r->model, &options, out, err);
}

/* ---- feeding ---- */

typedef struct feeding {
  const run *r;
  leank_session *session;
  lk_row_sink sink; /* of rows of a scoring pass */
} feeding;

static void on_progress(void *user, uint64_t done, uint64_t total) {
  const feeding *f = user;
  if (stopped(f->r)) leank_session_interrupt(f->session);
  if (total > 0) report(f->r, f->r->done + f->r->part * done / total);
}

static void on_logits(void *user, size_t first, size_t n, const float *logits) {
  feeding *f = user;
  f->sink.take(&f->sink, first, n, logits);
}

static leank_status feed(const run *r, leank_session *session, const leank_token *tokens, size_t n,
                         leank_head_stats *stats, float *logits, leank_error *err) {
  feeding f = {.r = r, .session = session};
  leank_feed_options options;
  leank_feed_options_default(&options);
  options.logits = logits;
  options.stats = stats;
  options.on_progress = on_progress;
  options.user = &f;
  return leank_session_feed(session, 0, tokens, n, &options, err);
}

/* The answer's tokens but the last, each seen as decoding sees it. */
static leank_status score_rows(const run *r, leank_session *session, size_t n, lk_row_sink sink,
                               leank_error *err) {
  feeding f = {.r = r, .session = session, .sink = sink};
  leank_feed_options options;
  if (n == 0) return LEANK_OK;
  leank_feed_options_default(&options);
  options.mode = LEANK_FEED_SCORE;
  options.on_logits = sink.take ? on_logits : NULL;
  options.on_progress = on_progress;
  options.user = &f;
  return leank_session_feed(session, 0, r->answer, n, &options, err);
}

/* The prompt, at once; or, where ThinK wants norms of its last queries, in two turns, which makes
 * no difference to a dense cache. */
static leank_status read_prompt(run *r, bool think, leank_error *err) {
  leank_status status = LEANK_OK;
  const size_t n = r->prompt->n_tokens, n_last = n > THINK_WINDOW ? THINK_WINDOW : n;
  const size_t n_channels = r->info->n_layers * r->info->n_kv_heads * r->info->head_dim;
  leank_head_stats keys;
  if (!think) return feed(r, r->dense, r->prompt->tokens, n, NULL, r->logits, err);
  r->stats.k_sq = lk_alloc(LK_MEM_OTHER, n_channels, sizeof *r->stats.k_sq);
  r->stats.q_sq = lk_alloc(LK_MEM_OTHER, n_channels, sizeof *r->stats.q_sq);
  LK_FAIL_IF(!r->stats.k_sq || !r->stats.q_sq, err, LEANK_E_MEMORY, -1, "out of memory");
  keys = (leank_head_stats){.k_sq = r->stats.k_sq};
  if (n > n_last) LK_TRY(feed(r, r->dense, r->prompt->tokens, n - n_last, &keys, NULL, err));
  LK_TRY(feed(r, r->dense, r->prompt->tokens + n - n_last, n_last, &r->stats, r->logits, err));
cleanup:
  return status;
}

/* ---- greedy answers ---- */

/* Goes on from n tokens in tokens[room], all but the last of which are in the cache. */
static leank_status decode(const run *r, leank_session *session, leank_token *tokens, size_t room,
                           size_t *n, leank_error *err) {
  const leank_tokenizer *tokenizer = leank_model_get_tokenizer(r->model);
  const size_t sequence = 0;
  while (*n < room && !leank_token_is_end(tokenizer, tokens[*n - 1])) {
    if (stopped(r)) return lk_fail(err, LEANK_E_INTERRUPTED, -1, "interrupted");
    const leank_status status =
        leank_session_decode(session, 1, &sequence, &tokens[*n - 1], r->step, err);
    if (status != LEANK_OK) return status;
    tokens[(*n)++] = lk_argmax(r->step, r->info->n_vocab);
  }
  return LEANK_OK;
}

/* The answer as text: without tokens that end it. */
static leank_status join_text(const run *r, const leank_token *tokens, size_t n, char **out,
                              leank_error *err) {
  const leank_tokenizer *tokenizer = leank_model_get_tokenizer(r->model);
  leank_utf8_stream stream = {{0}, 0};
  lk_text_buffer text = {0};
  char clean[3 * (256 + 4)];
  lk_text_put_str(&text, "");
  for (size_t i = 0; i <= n; i++) {
    size_t n_bytes = 0;
    const bool last = i == n || leank_token_is_end(tokenizer, tokens[i]);
    const char *bytes = last ? "" : leank_token_bytes(tokenizer, tokens[i], &n_bytes);
    for (size_t at = 0; at < n_bytes || (last && at == 0); at += 256) {
      const size_t part = n_bytes - at < 256 ? n_bytes - at : 256;
      lk_text_put(&text, clean, leank_utf8_stream_feed(&stream, bytes + at, part, last, clean));
    }
    if (last) break;
  }
  if (text.failed) {
    lk_text_buffer_free(&text);
    return lk_fail(err, LEANK_E_MEMORY, -1, "out of memory");
  }
  *out = text.text;
  return LEANK_OK;
}

static leank_status judge(const run *r, const leank_token *tokens, size_t n, leank_eval_result *out,
                          leank_error *err) {
  leank_status status = LEANK_OK;
  const leank_eval_prompt *p = r->prompt;
  char *counted = NULL;
  out->n_new = n;
  LK_TRY(join_text(r, tokens, n, &out->text, err));
  if (p->metric == LEANK_METRIC_NONE) return LEANK_OK;
  const char *begin = out->text;
  if (p->first_line) begin += strspn(begin, "\n");
  counted = lk_strndup(begin, p->first_line ? strcspn(begin, "\n") : strlen(begin));
  LK_FAIL_IF(!counted, err, LEANK_E_MEMORY, -1, "out of memory");
  LK_TRY(leank_eval_score(p->metric, counted, p->references, p->n_references, p->classes,
                          p->n_classes, &out->score, err));
cleanup:
  lk_free(counted);
  return status;
}

static size_t stored_bytes(const leank_session *session) {
  leank_memory memory;
  leank_session_get_memory(session, &memory);
  return memory.wide_stored + memory.lean_stored;
}

static leank_status answer_dense(run *r, leank_eval_result *out, leank_error *err) {
  leank_status status = LEANK_OK;
  const leank_eval_prompt *p = r->prompt;
  r->room = p->passage ? p->n_passage : p->max_new;
  r->answer = lk_alloc(LK_MEM_OTHER, r->room, sizeof *r->answer);
  r->own = lk_alloc(LK_MEM_OTHER, r->room, sizeof *r->own);
  LK_FAIL_IF(!r->answer || !r->own, err, LEANK_E_MEMORY, -1, "out of memory");
  out->stored_bytes = stored_bytes(r->dense);
  out->k_kept = out->v_kept = 1;
  if (p->passage) {
    r->n_answer = p->n_passage;
    memcpy(r->answer, p->passage, p->n_passage * sizeof *r->answer);
    LK_TRY(judge(r, r->answer, 0, out, err));
  } else {
    r->answer[0] = lk_argmax(r->logits, r->info->n_vocab);
    r->n_answer = 1;
    LK_TRY(decode(r, r->dense, r->answer, r->room, &r->n_answer, err));
    LK_TRY(judge(r, r->answer, r->n_answer, out, err));
    LK_TRY(leank_session_rewind(r->dense, 0, p->n_tokens, err));
  }
  LK_TRY(lk_logit_rows_open(NULL, r->answer + 1, r->n_answer - 1, r->info->n_vocab, r->team,
                            &r->rows, err));
  LK_TRY(score_rows(r, r->dense, r->n_answer - 1, lk_logit_rows_sink(&r->rows), err));
  LK_FAIL_IF(!lk_logit_rows_are_finite(&r->rows), err, LEANK_E_STATE, -1,
             "logits are not finite: weights hold NaN or infinity, or are too large");
  LK_TRY(leank_session_rewind(r->dense, 0, p->n_tokens, err));
  out->n_rows = out->n_agree = r->n_answer - 1;
  out->nll = lk_logit_rows_nll(&r->rows);
cleanup:
  return status;
}

/* ---- variants ---- */

/* What ThinK keeps of this prompt. */
static leank_status think_mask(const run *r, const leank_eval_variant *v, leank_mask **out,
                               leank_error *err) {
  leank_status status = LEANK_OK;
  const leank_model_info *m = r->info;
  const size_t n = m->n_layers * m->n_kv_heads * m->head_dim;
  leank_mask_info info;
  uint8_t *kept = lk_alloc(LK_MEM_OTHER, n, 1);
  float *scores = lk_alloc(LK_MEM_OTHER, n, sizeof *scores);
  LK_FAIL_IF(!kept || !scores, err, LEANK_E_MEMORY, -1, "out of memory");
  for (size_t i = 0; i < n; i++) scores[i] = (float)sqrt(r->stats.q_sq[i] * r->stats.k_sq[i]);
  LK_TRY(leank_mask_round(scores, m->n_layers, m->n_kv_heads, m->head_dim, v->think_ratio, 1,
                          LEANK_BUDGET_PER_HEAD, false, kept, err));
  leank_mask_info_default(&info);
  leank_mask_info_set_model(&info, m);
  info.ratio_asked = v->think_ratio;
  info.n_sink = v->think_n_sink;
  info.n_recent = v->think_n_recent;
  LK_TRY(leank_mask_create(&info, kept, NULL, out, err));
cleanup:
  lk_free(kept);
  lk_free(scores);
  return status;
}

/* The cache after the answer's first n tokens. */
static leank_status go_back(const run *r, leank_session *session, size_t n, leank_error *err) {
  const size_t length = r->prompt->n_tokens + n;
  leank_error why;
  if (leank_session_rewind(session, 0, length, &why) == LEANK_OK) return LEANK_OK;
  const leank_status status = leank_session_pack_from(session, 0, r->dense, 0, err);
  return status == LEANK_OK ? score_rows(r, session, n, (lk_row_sink){0}, err) : status;
}

/* The variant's own answer, from what its rows foretold: the dense one up to the row that differs,
 * then by itself. */
static leank_status own_answer(run *r, leank_session *session, const lk_logit_rows *rows,
                               leank_eval_result *out, leank_error *err) {
  leank_status status = LEANK_OK;
  const size_t differs = lk_logit_rows_differ(rows);
  size_t n = r->n_answer;
  memcpy(r->own, r->answer, n * sizeof *r->own);
  if (differs < rows->n) {
    n = differs + 2;
    r->own[n - 1] = rows->row[differs].top;
    LK_TRY(go_back(r, session, n - 1, err));
    LK_TRY(decode(r, session, r->own, r->room, &n, err));
  }
  LK_TRY(judge(r, r->own, n, out, err));
cleanup:
  return status;
}

static leank_status answer_variant(run *r, const leank_eval_variant *variant,
                                   leank_eval_result *out, leank_error *err) {
  leank_status status = LEANK_OK;
  leank_session *session = NULL;
  leank_mask *made = NULL;
  lk_logit_rows rows = {0};
  if (!variant->mask) LK_TRY(think_mask(r, variant, &made, err));
  const leank_mask *mask = made ? made : variant->mask;
  leank_mask_get_shares(mask, &out->k_kept, &out->v_kept);
  LK_TRY(open_session(r, mask, &session, err));
  LK_TRY(leank_session_pack_from(session, 0, r->dense, 0, err));
  out->stored_bytes = stored_bytes(session);
  out->n_rows = r->n_answer - 1;
  out->kl = lk_alloc(LK_MEM_OTHER, out->n_rows, sizeof *out->kl);
  LK_FAIL_IF(!out->kl, err, LEANK_E_MEMORY, -1, "out of memory");
  LK_TRY(lk_logit_rows_open(&r->rows, r->answer + 1, out->n_rows, r->info->n_vocab, r->team, &rows,
                            err));
  LK_TRY(score_rows(r, session, out->n_rows, lk_logit_rows_sink(&rows), err));
  LK_FAIL_IF(!lk_logit_rows_are_finite(&rows), err, LEANK_E_STATE, -1,
             "logits under a mask are not finite");
  for (size_t i = 0; i < rows.n; i++) out->kl[i] = (float)rows.row[i].kl;
  out->n_agree = lk_logit_rows_agree(&rows);
  out->nll = lk_logit_rows_nll(&rows);
  if (r->prompt->passage)
    LK_TRY(judge(r, r->own, 0, out, err));
  else
    LK_TRY(own_answer(r, session, &rows, out, err));
cleanup:
  lk_logit_rows_close(&rows);
  leank_session_close(&session);
  leank_mask_close(&made);
  return status;
}

/* ---- all ---- */

static leank_status check(const leank_eval_prompt *p, const leank_eval_variant *variants, size_t n,
                          const leank_eval_run_options *o, leank_error *err) {
  leank_status status = LEANK_OK;
  LK_FAIL_IF(o->struct_size != sizeof *o, err, LEANK_E_ARGUMENT, -1,
             "run options of %zu bytes: fill them with leank_eval_run_options_default",
             o->struct_size);
  LK_FAIL_IF(p->n_tokens == 0 || (p->passage ? p->n_passage < 2 : p->max_new == 0), err,
             LEANK_E_ARGUMENT, -1, "a prompt of no token, or no room for an answer");
  for (size_t i = 0; i < n; i++)
    LK_FAIL_IF(!variants[i].mask && !(variants[i].think_ratio >= 0 && variants[i].think_ratio <= 1),
               err, LEANK_E_ARGUMENT, -1, "ThinK with a ratio outside 0 .. 1");
cleanup:
  return status;
}

static void run_close(run *r) {
  leank_session_close(&r->dense);
  lk_logit_rows_close(&r->rows);
  lk_team_close(&r->team);
  lk_free(r->stats.k_sq);
  lk_free(r->stats.q_sq);
  lk_free(r->logits);
  lk_free(r->step);
  lk_free(r->answer);
  lk_free(r->own);
}

leank_status leank_eval_answer(const leank_model *model, const leank_eval_prompt *prompt,
                               const leank_eval_variant *variants, size_t n_variants,
                               const leank_eval_run_options *options, leank_eval_result *results,
                               leank_error *err) {
  leank_status status = LEANK_OK;
  const leank_model_info *info = leank_model_get_info(model);
  leank_eval_run_options defaults;
  leank_eval_run_options_default(&defaults);
  run r = {.model = model,
           .info = info,
           .prompt = prompt,
           .options = options ? options : &defaults,
           .part = UNITS_READ};
  bool think = false;
  memset(results, 0, (1 + n_variants) * sizeof *results);
  LK_TRY(check(prompt, variants, n_variants, r.options, err));
  for (size_t i = 0; i < n_variants; i++) think = think || !variants[i].mask;
  r.logits = lk_alloc(LK_MEM_OTHER, info->n_vocab, sizeof *r.logits);
  r.step = lk_alloc(LK_MEM_OTHER, info->n_vocab, sizeof *r.step);
  LK_FAIL_IF(!r.logits || !r.step, err, LEANK_E_MEMORY, -1, "out of memory");
  LK_TRY(lk_team_open(r.options->session.n_threads ? r.options->session.n_threads
                                                   : lk_parallel_default_threads(),
                      &r.team, err));
  LK_TRY(open_session(&r, NULL, &r.dense, err));
  LK_TRY(read_prompt(&r, think, err));
  r.done = UNITS_READ;
  r.part = UNITS_DENSE - UNITS_READ;
  LK_TRY(answer_dense(&r, &results[0], err));
  for (size_t i = 0; i < n_variants; i++) {
    const uint64_t end = UNITS_DENSE + (UNITS - UNITS_DENSE) * (i + 1) / n_variants;
    r.done = UNITS_DENSE + (UNITS - UNITS_DENSE) * i / n_variants;
    r.part = end - r.done;
    LK_FAIL_IF(stopped(&r), err, LEANK_E_INTERRUPTED, -1, "interrupted");
    LK_TRY(answer_variant(&r, &variants[i], &results[1 + i], err));
    report(&r, end);
  }
cleanup:
  for (size_t i = 0; status != LEANK_OK && i <= n_variants; i++)
    leank_eval_result_clear(&results[i]);
  run_close(&r);
  return status;
}
