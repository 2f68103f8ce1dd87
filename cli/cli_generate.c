#include "cli_generate.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

const char *cli_stop_text(cli_stop stop) {
  switch (stop) {
  case CLI_STOP_LENGTH: return "length";
  case CLI_STOP_END: return "end";
  case CLI_STOP_CONTEXT: return "context";
  case CLI_STOP_INTERRUPTED: return "interrupted";
  }
  return "";
}

void cli_generate_options_default(cli_generate_options *options) {
  *options = (cli_generate_options){.n_predict = 256};
  leank_sampler_options_default(&options->sampler);
  options->temperature = (double)options->sampler.temperature;
  options->top_p = (double)options->sampler.top_p;
  options->min_p = (double)options->sampler.min_p;
  options->repeat_penalty = (double)options->sampler.repetition_penalty;
  options->top_k = (size_t)options->sampler.top_k;
}

static int open_sampler(const cli_generate_options *options, size_t n_vocab, leank_sampler **out) {
  leank_sampler_options sampler = options->sampler;
  leank_error err;
  sampler.temperature = (float)options->temperature;
  sampler.top_p = (float)options->top_p;
  sampler.min_p = (float)options->min_p;
  sampler.repetition_penalty = (float)options->repeat_penalty;
  sampler.top_k = options->top_k > INT_MAX ? INT_MAX : (int)options->top_k;
  return leank_sampler_open(&sampler, n_vocab, out, &err) == LEANK_OK ? CLI_GO : cli_fail(&err);
}

int cli_generation_open(const cli_engine *engine, bool masked, size_t n_ctx,
                        const cli_generate_options *options, bool echo, cli_generation *out) {
  *out = (cli_generation){.engine = engine, .options = *options, .masked = masked, .echo = echo};
  int code = open_sampler(options, engine->info->n_vocab, &out->sampler);
  if (code == CLI_GO) code = cli_engine_session(engine, masked, n_ctx, &out->session);
  if (code != CLI_GO) return code;
  const leank_plan *plan = leank_session_get_plan(out->session);
  out->n_ctx = plan->n_wide_tokens + plan->n_lean_tokens;
  /* No more tokens fit the context than it has. */
  if (out->options.n_predict > out->n_ctx) out->options.n_predict = out->n_ctx;
  out->greedy = !(options->temperature > 0) && options->repeat_penalty == 1;
  out->logits = cli_alloc(engine->info->n_vocab, sizeof *out->logits);
  out->tokens = cli_alloc(out->options.n_predict, sizeof *out->tokens);
  return CLI_GO;
}

int cli_generation_reset(cli_generation *g) {
  leank_error err;
  if (leank_session_rewind(g->session, 0, 0, &err) != LEANK_OK) return cli_fail(&err);
  leank_sampler_close(&g->sampler);
  return open_sampler(&g->options, g->engine->info->n_vocab, &g->sampler);
}

void cli_generation_end_session(cli_generation *g) { leank_session_close(&g->session); }

void cli_generation_close(cli_generation *g) {
  leank_session_close(&g->session);
  leank_sampler_close(&g->sampler);
  free(g->logits);
  free(g->tokens);
  cli_buffer_free(&g->text);
  *g = (cli_generation){0};
}

/* Adds the text of a token (or, with NULL, the end of the stream) and shows it. */
static void add_text(cli_generation *g, leank_utf8_stream *stream, const leank_token *token) {
  const char *bytes = NULL;
  size_t n_bytes = 0;
  bool end = token == NULL;
  if (token && (g->options.special || !leank_token_is_special(g->engine->tokenizer, *token))) {
    bytes = leank_token_bytes(g->engine->tokenizer, *token, &n_bytes);
  }
  char *out = cli_alloc(3 * (n_bytes + 4), 1);
  size_t n = leank_utf8_stream_feed(stream, bytes ? bytes : "", bytes ? n_bytes : 0, end, out);
  cli_buffer_append(&g->text, out, n);
  if (g->echo && n) {
    fwrite(out, 1, n, stdout);
    fflush(stdout);
  }
  free(out);
}

/* Feeds the prompt; leaves the logits of its last row, or their largest in *next. */
static leank_status feed_prompt(cli_generation *g, const leank_token *prompt, size_t n_prompt,
                                leank_token *next, leank_error *err) {
  leank_feed_options feed;
  cli_progress progress;
  cli_progress_begin(&progress, "prompt");
  leank_feed_options_default(&feed);
  if (g->greedy)
    feed.next = next;
  else
    feed.logits = g->logits;
  feed.on_progress = cli_progress_update;
  feed.user = &progress;
  double start = cli_seconds();
  leank_status status = leank_session_feed(g->session, 0, prompt, n_prompt, &feed, err);
  g->prefill_seconds = cli_seconds() - start;
  cli_progress_end(&progress);
  return status;
}

/* Decodes the last token; leaves what feed_prompt does. */
static leank_status decode_last(cli_generation *g, leank_token *next, leank_error *err) {
  size_t seq = 0;
  const leank_token *last = &g->tokens[g->n_tokens - 1];
  double start = cli_seconds();
  leank_status status = g->greedy
                            ? leank_session_decode_greedy(g->session, 1, &seq, last, next, err)
                            : leank_session_decode(g->session, 1, &seq, last, g->logits, err);
  g->decode_seconds += cli_seconds() - start;
  return status;
}

/* Picks and decodes until something says stop. next: the first token where greedy. */
static leank_status generate_tokens(cli_generation *g, leank_token next, leank_error *err) {
  leank_utf8_stream stream = {{0}, 0};
  leank_status status = LEANK_OK;
  for (;;) {
    g->stop = CLI_STOP_LENGTH;
    if (g->n_tokens == g->options.n_predict) break;
    g->stop = CLI_STOP_INTERRUPTED;
    if (cli_interrupted()) break;
    if (g->n_undecoded) {
      g->stop = CLI_STOP_CONTEXT;
      if (leank_session_length(g->session, 0) >= g->n_ctx) break;
      status = decode_last(g, &next, err);
      if (status != LEANK_OK) break;
      g->n_undecoded = 0;
      g->n_steps++;
    }
    double start = cli_seconds();
    leank_token token = g->greedy ? next : leank_sampler_pick(g->sampler, g->logits);
    if (g->n_steps) g->decode_seconds += cli_seconds() - start;
    g->tokens[g->n_tokens++] = token;
    g->n_undecoded = 1;
    bool is_end = leank_token_is_end(g->engine->tokenizer, token);
    if (!is_end || g->options.special) add_text(g, &stream, &token);
    g->stop = CLI_STOP_END;
    if (is_end && !g->options.ignore_end) break;
  }
  add_text(g, &stream, NULL);
  return status;
}

int cli_generate(cli_generation *g, const leank_token *prompt, size_t n_prompt) {
  leank_error err;
  leank_token next = 0;
  g->n_tokens = g->n_undecoded = g->n_steps = 0;
  g->text.n = 0;
  cli_buffer_append(&g->text, "", 0);
  g->n_prompt = n_prompt;
  g->prefill_seconds = g->decode_seconds = 0;
  cli_interrupt_arm(g->session);
  leank_status status = feed_prompt(g, prompt, n_prompt, &next, &err);
  if (status == LEANK_OK) {
    for (size_t i = 0; i < n_prompt; i++) leank_sampler_accept(g->sampler, prompt[i]);
    status = generate_tokens(g, next, &err);
  } else if (status == LEANK_E_INTERRUPTED) {
    g->stop = CLI_STOP_INTERRUPTED;
    g->n_prompt = 0;
    status = LEANK_OK;
  }
  cli_interrupt_disarm();
  g->length = leank_session_length(g->session, 0);
  leank_session_get_memory(g->session, &g->memory);
  return status == LEANK_OK ? CLI_GO : cli_fail(&err);
}

size_t cli_leading_agreement(const cli_generation *a, const cli_generation *b) {
  size_t n = 0;
  while (n < a->n_tokens && n < b->n_tokens && a->tokens[n] == b->tokens[n]) n++;
  return n;
}

int cli_generation_plan(const cli_generation *g, bool masked, leank_plan *out) {
  return cli_make_plan(g->engine->info, masked ? g->engine->mask : NULL, &g->engine->options,
                       g->length, 1, out);
}

double cli_prefill_rate(const cli_generation *g) {
  return g->n_prompt && g->prefill_seconds > 0 ? (double)g->n_prompt / g->prefill_seconds : 0;
}

double cli_decode_rate(const cli_generation *g) {
  return g->n_steps && g->decode_seconds > 0 ? (double)g->n_steps / g->decode_seconds : 0;
}
