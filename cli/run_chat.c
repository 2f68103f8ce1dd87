#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

#include "cli_report.h"
#include "run.h"

typedef struct chat {
  const cli_engine *engine;
  const run_options *options;
  cli_generation g;
  bool first;           /* the next message opens the conversation */
  leank_token carry[2]; /* generated tokens that the cache lacks, and the turn's end token */
  size_t n_carry;
  leank_token end_token; /* what closes the assistant's turn, or -1 */
} chat;

/* The token that ends an assistant's message in this template: the first one that does in an empty
 * message. -1 where there is none. */
static leank_token find_end_token(const cli_engine *engine, const char *chat_template) {
  const leank_chat_message message = {"assistant", "."};
  leank_token *tokens = NULL, found = -1;
  size_t n = 0;
  if (leank_chat_tokenize(engine->tokenizer, chat_template, &message, 1, false, false, &tokens, &n,
                          NULL) != LEANK_OK) {
    return -1;
  }
  for (size_t i = n; i-- > 0;) {
    if (leank_token_is_end(engine->tokenizer, tokens[i])) found = tokens[i];
  }
  leank_tokens_free(&tokens);
  return found;
}

/* After a turn: what must precede the next one, so that the cache reads as a closed message. */
static void keep_carry(chat *c) {
  const cli_generation *g = &c->g;
  c->n_carry = 0;
  if (g->n_undecoded) c->carry[c->n_carry++] = g->tokens[g->n_tokens - 1];
  if (g->stop != CLI_STOP_END && c->end_token >= 0) c->carry[c->n_carry++] = c->end_token;
}

static int reset(chat *c) {
  c->first = true;
  c->n_carry = 0;
  return cli_generation_reset(&c->g);
}

/* carry + the message in the template; the caller frees. */
static leank_token *turn_tokens(const chat *c, const char *text, size_t *n_out) {
  leank_chat_message messages[2];
  size_t n_messages = 0, n = 0;
  leank_token *tokens = NULL;
  leank_error err;
  if (c->first && c->options->system) {
    messages[n_messages++] = (leank_chat_message){"system", c->options->system};
  }
  messages[n_messages++] = (leank_chat_message){"user", text};
  if (leank_chat_tokenize(c->engine->tokenizer, c->options->chat_template, messages, n_messages,
                          c->first, true, &tokens, &n, &err) != LEANK_OK) {
    cli_fail(&err);
    return NULL;
  }
  leank_token *all = cli_alloc(c->n_carry + n, sizeof *all);
  memcpy(all, c->carry, c->n_carry * sizeof *all);
  memcpy(all + c->n_carry, tokens, n * sizeof *all);
  leank_tokens_free(&tokens);
  *n_out = c->n_carry + n;
  return all;
}

/* One message and its answer. A message that cannot be read leaves the conversation as it is. */
static void answer(chat *c, const char *text) {
  size_t n = 0;
  leank_token *tokens = turn_tokens(c, text, &n);
  if (!tokens) return;
  size_t room = c->g.n_ctx - leank_session_length(c->g.session, 0);
  if (n >= room) {
    cli_complain("the message has %zu tokens and the context has room for %zu; /reset starts anew",
                 n, room);
  } else if (cli_generate(&c->g, tokens, n) == CLI_GO) {
    putchar('\n');
    if (c->g.n_prompt) {
      c->first = false;
      keep_carry(c);
    }
    if (c->g.stop == CLI_STOP_CONTEXT) cli_warn("the context is full; /reset starts anew");
    if (!c->options->quiet) cli_print_stats(&c->g);
  }
  free(tokens);
}

static void show_stats(const chat *c) {
  leank_memory memory;
  leank_session_get_memory(c->g.session, &memory);
  fprintf(stderr, "%zu of %zu tokens of context\n", leank_session_length(c->g.session, 0),
          c->g.n_ctx);
  fprintf(stderr, "KV stored %s bytes (full %s, pruned %s)\n",
          cli_grouped(memory.wide_stored + memory.lean_stored), cli_grouped(memory.wide_stored),
          cli_grouped(memory.lean_stored));
  fprintf(stderr, "KV reserved %s bytes, scratch %s bytes\n",
          cli_grouped(memory.wide_reserved + memory.lean_reserved),
          cli_grouped(memory.prefill_scratch + memory.other_scratch));
}

/* Reads lines until /exit or the end of input. */
static int converse(chat *c) {
  char *line = NULL;
  size_t capacity = 0;
  int code = CLI_GO;
  while (code == CLI_GO) {
    fputs("> ", stderr);
    ssize_t n = getline(&line, &capacity, stdin);
    if (n < 0) break;
    if (n > 0 && line[n - 1] == '\n') line[--n] = '\0';
    if (n == 0) continue;
    if (strcmp(line, "/exit") == 0) break;
    if (strcmp(line, "/reset") == 0)
      code = reset(c);
    else if (strcmp(line, "/stats") == 0)
      show_stats(c);
    else if (line[0] == '/')
      cli_complain("commands are /exit, /reset and /stats");
    else if (strlen(line) != (size_t)n)
      cli_complain("the message holds a NUL byte");
    else
      answer(c, line);
  }
  free(line);
  return code == CLI_GO ? CLI_OK : code;
}

int run_chat(const cli_engine *engine, const run_options *options) {
  chat c = {.engine = engine, .options = options, .first = true};
  c.end_token = find_end_token(engine, options->chat_template);
  int code = cli_generation_open(engine, engine->mask != NULL, options->n_ctx, &options->generate,
                                 true, &c.g);
  if (code == CLI_GO) {
    if (options->verbose) fputs(leank_session_kernels(c.g.session), stderr);
    fprintf(stderr, "%zu tokens of context; /exit, /reset, /stats\n", c.g.n_ctx);
    code = converse(&c);
  }
  cli_generation_close(&c.g);
  return code;
}
