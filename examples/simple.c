/* Loads a model, reads a prompt, writes 64 tokens.
 *   example_simple MODEL PROMPT [MASK] */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <leank/leank.h>

enum { N_PREDICT = 64 };

static void check(leank_status status, const leank_error *err) {
  if (status == LEANK_OK) return;
  fprintf(stderr, "example_simple: %s\n", err->message);
  exit(1);
}

int main(int argc, char **argv) {
  if (argc < 3) {
    fprintf(stderr, "usage: example_simple MODEL PROMPT [MASK]\n");
    return 2;
  }
  leank_error err;
  leank_model *model = NULL;
  leank_mask *mask = NULL; /* NULL: a dense cache */
  leank_session *session = NULL;
  leank_token *prompt = NULL;
  size_t n_prompt = 0;

  check(leank_model_open(argv[1], NULL, &model, &err), &err);
  if (argc > 3) check(leank_mask_open(argv[3], &mask, &err), &err);
  const leank_tokenizer *tokenizer = leank_model_get_tokenizer(model);
  if (!tokenizer) return fprintf(stderr, "example_simple: no tokenizer\n"), 1;
  check(leank_tokenize(tokenizer, argv[2], strlen(argv[2]), LEANK_TOKENIZE_BOS, &prompt, &n_prompt,
                       &err),
        &err);

  leank_session_options options;
  leank_session_options_default(&options);
  options.mask = mask;
  options.n_ctx = n_prompt + N_PREDICT;
  check(leank_session_open(model, &options, &session, &err), &err);

  size_t seq = 0;
  leank_token next; /* the likeliest */
  leank_feed_options feed;
  leank_feed_options_default(&feed);
  feed.next = &next;
  check(leank_session_feed(session, seq, prompt, n_prompt, &feed, &err), &err);

  for (int i = 0; i < N_PREDICT; i++) {
    if (leank_token_is_end(tokenizer, next)) break;
    size_t n_bytes = 0;
    const char *bytes = leank_token_bytes(tokenizer, next, &n_bytes);
    fwrite(bytes, 1, n_bytes, stdout);
    fflush(stdout);
    check(leank_session_decode_greedy(session, 1, &seq, &next, &next, &err), &err);
  }
  putchar('\n');

  leank_tokens_free(&prompt);
  leank_session_close(&session);
  leank_mask_close(&mask);
  leank_model_close(&model);
  return 0;
}
