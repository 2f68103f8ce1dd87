#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "cli_report.h"

typedef struct tokenize_options {
  const char *prompt, *file, *decode;
  bool ids, count, no_special, json;
} tokenize_options;

static int parse(int argc, char **argv, tokenize_options *o, const char **model) {
  const cli_option rows[] = {
      {'p', "prompt", CLI_TEXT, &o->prompt, "TEXT", "the text"},
      {'f', "file", CLI_TEXT, &o->file, "FILE", "read the text from a file, - = stdin"},
      {0, "decode", CLI_TEXT, &o->decode, "IDS", "the other way: ids joined by commas or blanks"},
      {0, "ids", CLI_FLAG, &o->ids, NULL, "only the ids, on one line"},
      {0, "count", CLI_FLAG, &o->count, NULL, "only how many"},
      {0, "no-special", CLI_FLAG, &o->no_special, NULL,
       "special tokens in the text are plain text; none is put before it"},
      {0, "json", CLI_FLAG, &o->json, NULL, "one JSON object instead of text"},
  };
  const cli_command command = {
      .usage = "leank tokenize MODEL [-p TEXT | -f FILE | --decode IDS] [options]",
      .about =
          "Turns text into tokens, one id and its text a line, or ids into text. Without text\n"
          "it reads standard input.",
      .options = rows,
      .n_options = sizeof rows / sizeof *rows,
      .n_min = 1,
      .n_max = 1,
  };
  return cli_parse(&command, argc, argv, model);
}

/* Adds the text of a token as whole UTF-8; NULL ends the stream. */
static void add_text(const leank_tokenizer *tokenizer, const leank_token *token,
                     leank_utf8_stream *stream, cli_buffer *out) {
  size_t n = 0;
  const char *bytes = token ? leank_token_bytes(tokenizer, *token, &n) : "";
  char *text = cli_alloc(3 * (n + 4), 1);
  cli_buffer_append(out, text, leank_utf8_stream_feed(stream, bytes, n, token == NULL, text));
  free(text);
}

/* ---- text to tokens ---- */

/* One line per token; control characters and quotes as JSON writes them. */
static void print_tokens(const leank_tokenizer *tokenizer, const leank_token *tokens, size_t n) {
  for (size_t i = 0; i < n; i++) {
    leank_utf8_stream stream = {{0}, 0};
    cli_buffer text = {0};
    add_text(tokenizer, &tokens[i], &stream, &text);
    add_text(tokenizer, NULL, &stream, &text);
    json_t *value = json_stringn(text.data, text.n);
    char *quoted = json_dumps(value, JSON_ENCODE_ANY);
    printf("%8" PRId32 "  %s\n", tokens[i], quoted ? quoted : "");
    free(quoted);
    json_decref(value);
    cli_buffer_free(&text);
  }
}

static void print_result(const tokenize_options *o, const leank_tokenizer *tokenizer,
                         const leank_token *tokens, size_t n) {
  if (o->json) {
    json_t *root = json_object(), *ids = json_array();
    for (size_t i = 0; i < n; i++) json_array_append_new(ids, json_integer(tokens[i]));
    json_object_set_new(root, "n_tokens", cli_json_size(n));
    if (o->count)
      json_decref(ids);
    else
      json_object_set_new(root, "tokens", ids);
    cli_json_print(root, true);
  } else if (o->count) {
    printf("%zu\n", n);
  } else if (o->ids) {
    for (size_t i = 0; i < n; i++) printf("%s%" PRId32, i ? " " : "", tokens[i]);
    putchar('\n');
  } else {
    print_tokens(tokenizer, tokens, n);
  }
}

static int encode(const tokenize_options *o, const leank_tokenizer *tokenizer) {
  cli_buffer text = {0};
  leank_token *tokens = NULL;
  size_t n = 0;
  leank_error err;
  unsigned flags =
      o->no_special ? LEANK_TOKENIZE_PLAIN : LEANK_TOKENIZE_SPECIAL | LEANK_TOKENIZE_BOS;
  int code = cli_read_text(o->prompt, o->file, &text);
  if (code == CLI_GO) {
    code = CLI_OK;
    if (leank_tokenize(tokenizer, text.data, text.n, flags, &tokens, &n, &err) != LEANK_OK) {
      code = cli_fail(&err);
    } else {
      print_result(o, tokenizer, tokens, n);
    }
  }
  leank_tokens_free(&tokens);
  cli_buffer_free(&text);
  return code;
}

/* ---- tokens to text ---- */

/* Reads the next id; false at the end (*bad: at something else). */
static bool next_id(const char **at, size_t n_vocab, leank_token *out, bool *bad) {
  while (**at == ',' || isspace((unsigned char)**at)) ++*at;
  if (**at == '\0') return false;
  char *end;
  errno = 0;
  long id = strtol(*at, &end, 10);
  *bad = end == *at || errno != 0 || id < 0 || (unsigned long)id >= n_vocab || id > INT32_MAX;
  *at = end;
  *out = *bad ? -1 : (leank_token)id;
  return !*bad;
}

static int decode(const tokenize_options *o, const leank_tokenizer *tokenizer) {
  const char *at = o->decode;
  size_t n_vocab = leank_tokenizer_vocab_size(tokenizer);
  leank_utf8_stream stream = {{0}, 0};
  cli_buffer text = {0};
  leank_token token;
  bool bad = false;
  cli_buffer_append(&text, "", 0);
  while (next_id(&at, n_vocab, &token, &bad)) add_text(tokenizer, &token, &stream, &text);
  if (!bad) {
    add_text(tokenizer, NULL, &stream, &text);
    if (o->json) {
      json_t *root = json_object();
      json_object_set_new(root, "text", json_stringn(text.data, text.n));
      cli_json_print(root, true);
    } else {
      fwrite(text.data, 1, text.n, stdout);
      putchar('\n');
    }
  }
  cli_buffer_free(&text);
  if (bad) return cli_usage_error("--decode: ids are numbers below %zu", n_vocab);
  return CLI_OK;
}

int cmd_tokenize(int argc, char **argv) {
  tokenize_options o = {0};
  const char *model[CLI_MAX_POSITIONALS];
  leank_tokenizer *tokenizer = NULL;
  leank_error err;
  int code = parse(argc, argv, &o, model);
  if (code != CLI_GO) return code;
  if (o.decode && (o.prompt || o.file)) {
    return cli_usage_error("--decode and a text exclude each other");
  }
  if (o.ids && o.count) return cli_usage_error("--ids and --count exclude each other");
  if (o.decode && (o.ids || o.count))
    return cli_usage_error("--decode prints text: --%s is for tokens", o.ids ? "ids" : "count");
  if (leank_tokenizer_open(model[0], &tokenizer, &err) != LEANK_OK) return cli_fail(&err);
  code = o.decode ? decode(&o, tokenizer) : encode(&o, tokenizer);
  leank_tokenizer_close(&tokenizer);
  return code;
}
