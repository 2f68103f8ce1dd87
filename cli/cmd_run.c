#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli_report.h"
#include "run.h"

static int parse(int argc, char **argv, run_options *o, const char **model) {
  const cli_option rows[] = {
      {'p', "prompt", CLI_TEXT, &o->prompt, "TEXT", "the prompt"},
      {'f', "file", CLI_TEXT, &o->file, "FILE", "read the prompt from a file, - = stdin"},
      {'c', "ctx", CLI_SIZE, &o->n_ctx, "N", "tokens of context (what the prompt needs)"},
      {0, "chat", CLI_FLAG, &o->chat, NULL, "wrap the prompt in the model's chat template"},
      {0, "system", CLI_TEXT, &o->system, "TEXT", "system message (means --chat)"},
      {0, "template", CLI_TEXT, &o->chat_template, "NAME",
       "chatml, llama3, qwen or smollm (means --chat)"},
      {0, "compare", CLI_FLAG, &o->compare, NULL, "run dense and with the mask, side by side"},
      {0, "raw", CLI_FLAG, &o->raw, NULL, "read and show special tokens as text; add none"},
      {0, "json", CLI_FLAG, &o->json, NULL, "one JSON object instead of text"},
      {'q', "quiet", CLI_FLAG, &o->quiet, NULL, "no line of figures under the text"},
      {'v', "verbose", CLI_FLAG, &o->verbose, NULL, "name the kernels in use"},
      CLI_GENERATE_ROWS(o->generate),
      CLI_ENGINE_ROWS(o->engine),
  };
  const cli_command command = {
      .usage = "leank run MODEL [-p TEXT | -f FILE] [options]",
      .about =
          "Generates text. MODEL is a .gguf file or a Hugging Face folder. Without a prompt it\n"
          "chats on a terminal, and else reads the prompt from standard input.",
      .details = "Ctrl-C stops and shows what there is; a second one kills.",
      .options = rows,
      .n_options = sizeof rows / sizeof *rows,
      .n_min = 1,
      .n_max = 1,
  };
  return cli_parse(&command, argc, argv, model);
}

static int check(run_options *o, bool interactive) {
  if (o->compare && !o->engine.mask) return cli_usage_error("--compare needs --mask");
  if (interactive && o->compare) return cli_usage_error("--compare needs a prompt");
  if (interactive && o->json) return cli_usage_error("--json needs a prompt");
  const char *chats = o->chat            ? "chat"
                      : o->system        ? "system"
                      : o->chat_template ? "template"
                                         : NULL;
  if (o->raw && chats) return cli_usage_error("--raw and --%s exclude each other", chats);
  o->chat = chats != NULL;
  o->generate.special = o->raw;
  return CLI_GO;
}

/* The prompt as one turn of a conversation. */
static leank_status chat_tokens(const cli_engine *engine, const run_options *o, cli_buffer *text,
                                leank_token **out, size_t *n_out, leank_error *err) {
  leank_chat_message messages[2];
  size_t n = 0;
  if (o->system) messages[n++] = (leank_chat_message){"system", o->system};
  messages[n++] = (leank_chat_message){"user", text->data};
  return leank_chat_tokenize(engine->tokenizer, o->chat_template, messages, n, true, true, out,
                             n_out, err);
}

static int tokenize(const cli_engine *engine, const run_options *o, leank_token **out,
                    size_t *n_out) {
  cli_buffer text = {0};
  leank_error err;
  leank_status status = LEANK_OK;
  int code = cli_read_text(o->prompt, o->file, &text);
  if (code == CLI_GO && o->chat && text.n && text.data[text.n - 1] == '\n') {
    text.data[--text.n] = '\0'; /* the shell's, not the user's */
  }
  if (code != CLI_GO) {
  } else if (text.n == 0) {
    code = cli_complain("the prompt is empty");
  } else if (o->chat && memchr(text.data, '\0', text.n)) {
    code = cli_complain("the prompt holds a NUL byte (a binary file?)");
  } else if (o->chat) {
    status = chat_tokens(engine, o, &text, out, n_out, &err);
  } else {
    unsigned flags = o->raw ? LEANK_TOKENIZE_SPECIAL : LEANK_TOKENIZE_BOS;
    status = leank_tokenize(engine->tokenizer, text.data, text.n, flags, out, n_out, &err);
  }
  cli_buffer_free(&text);
  if (status != LEANK_OK) return cli_fail(&err);
  if (code == CLI_GO && *n_out == 0) return cli_complain("the prompt has no tokens");
  return code;
}

/* Room for the prompt and what is asked for, in whole pages; what the user says with -c. */
static int choose_context(const cli_engine *engine, const run_options *o, size_t n_prompt,
                          size_t *n_ctx) {
  size_t limit = engine->info->n_ctx_train;
  size_t n = o->n_ctx;
  if (n == 0) {
    size_t room = o->generate.n_predict < limit ? o->generate.n_predict : limit;
    n = (n_prompt + room + LEANK_PAGE_TOKENS - 1) / LEANK_PAGE_TOKENS * LEANK_PAGE_TOKENS;
    if (n > limit) n = limit;
  } else {
    cli_warn_context(engine->info, n);
  }
  if (n_prompt > n) {
    return cli_complain("the prompt has %zu tokens, the context holds %zu%s", n_prompt, n,
                        o->n_ctx ? " (-c)" : ", the most this model was made for");
  }
  *n_ctx = n;
  return CLI_GO;
}

static int run_once(const cli_engine *engine, const run_options *o, const leank_token *prompt,
                    size_t n_prompt, size_t n_ctx) {
  cli_generation g;
  int code = cli_generation_open(engine, engine->mask != NULL, n_ctx, &o->generate, !o->json, &g);
  if (code == CLI_GO && o->verbose) fputs(leank_session_kernels(g.session), stderr);
  if (code == CLI_GO) code = cli_generate(&g, prompt, n_prompt);
  if (code == CLI_GO) {
    if (o->json)
      cli_json_print(cli_json_generation(&g), false);
    else
      putchar('\n');
    if (!o->quiet && !o->json) cli_print_stats(&g);
    code = g.stop == CLI_STOP_INTERRUPTED ? CLI_INTERRUPTED : CLI_OK;
  }
  cli_generation_close(&g);
  return code;
}

static int run_prompt(const cli_engine *engine, const run_options *o) {
  leank_token *prompt = NULL;
  size_t n_prompt = 0, n_ctx = 0;
  int code = tokenize(engine, o, &prompt, &n_prompt);
  if (code == CLI_GO) code = choose_context(engine, o, n_prompt, &n_ctx);
  if (code == CLI_GO) {
    code = o->compare ? run_compare(engine, o, prompt, n_prompt, n_ctx)
                      : run_once(engine, o, prompt, n_prompt, n_ctx);
  }
  leank_tokens_free(&prompt);
  return code;
}

int cmd_run(int argc, char **argv) {
  run_options o = {0};
  const char *model[CLI_MAX_POSITIONALS];
  cli_engine engine;
  cli_engine_options_default(&o.engine);
  cli_generate_options_default(&o.generate);
  int code = parse(argc, argv, &o, model);
  if (code != CLI_GO) return code;
  bool interactive = !o.prompt && !o.file && isatty(STDIN_FILENO) == 1;
  code = check(&o, interactive);
  if (code != CLI_GO) return code;
  code = cli_engine_open(model[0], &o.engine, &engine);
  if (code == CLI_GO && !engine.tokenizer) code = cli_complain("%s: no tokenizer", model[0]);
  if (code == CLI_GO) code = interactive ? run_chat(&engine, &o) : run_prompt(&engine, &o);
  cli_engine_close(&engine);
  return code;
}
