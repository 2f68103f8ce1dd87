/* One dense prefill judged under several masks: the prompt is read once, packed under every mask,
 * and the next tokens of the text are decoded with each; KL(dense || mask) of the next-token
 * distributions says what a mask costs.
 *   example_masks MODEL TEXT_FILE MASK... */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <leank/leank.h>

enum { N_JUDGED = 32, MAX_TEXT = 1 << 20 };

static leank_error err;

static void check(leank_status status) {
  if (status == LEANK_OK) return;
  fprintf(stderr, "example_masks: %s\n", err.message);
  exit(1);
}

static void *allocate(size_t n, size_t size) {
  void *p = calloc(n, size);
  if (!p) exit(1);
  return p;
}

static leank_session *open_session(const leank_model *model, const leank_mask *mask, size_t n_ctx) {
  leank_session_options options;
  leank_session *session = NULL;
  leank_session_options_default(&options);
  options.mask = mask;
  options.n_ctx = n_ctx;
  check(leank_session_open(model, &options, &session, &err));
  return session;
}

static leank_token *read_tokens(const leank_model *model, const char *path, size_t *n_tokens) {
  char *text = allocate(MAX_TEXT, 1);
  leank_token *tokens = NULL;
  const leank_tokenizer *tokenizer = leank_model_get_tokenizer(model);
  FILE *file = fopen(path, "rb");
  if (!file || !tokenizer) {
    fprintf(stderr, "example_masks: %s\n", file ? "the model has no tokenizer" : "no such text");
    exit(1);
  }
  size_t n = fread(text, 1, MAX_TEXT, file);
  fclose(file);
  check(leank_tokenize(tokenizer, text, n, LEANK_TOKENIZE_BOS, &tokens, n_tokens, &err));
  free(text);
  return tokens;
}

/* log of sum of exp(logits [n]). */
static double log_sum(const float *logits, size_t n) {
  double max = logits[0], sum = 0;
  for (size_t i = 1; i < n; i++) max = logits[i] > max ? logits[i] : max;
  for (size_t i = 0; i < n; i++) sum += exp(logits[i] - max);
  return max + log(sum);
}

/* KL(p || q) in nats. */
static double divergence(const float *p, const float *q, size_t n) {
  double p_sum = log_sum(p, n), q_sum = log_sum(q, n), kl = 0;
  for (size_t i = 0; i < n; i++) {
    double log_p = p[i] - p_sum;
    kl += exp(log_p) * (log_p - (q[i] - q_sum));
  }
  return kl;
}

/* Decodes tokens [N_JUDGED] into logits [N_JUDGED][V]. */
static void judge(leank_session *session, const leank_token *tokens, size_t n_vocab,
                  float *logits) {
  size_t seq = 0;
  for (size_t i = 0; i < N_JUDGED; i++) {
    check(leank_session_decode(session, 1, &seq, &tokens[i], logits + i * n_vocab, &err));
  }
}

int main(int argc, char **argv) {
  if (argc < 4) {
    fprintf(stderr, "usage: example_masks MODEL TEXT_FILE MASK...\n");
    return 2;
  }
  leank_model *model = NULL;
  size_t n_tokens = 0;
  check(leank_model_open(argv[1], NULL, &model, &err));
  leank_token *tokens = read_tokens(model, argv[2], &n_tokens);
  size_t n_vocab = leank_model_get_info(model)->n_vocab;
  size_t n_ctx_train = leank_model_get_info(model)->n_ctx_train;
  if (n_tokens > n_ctx_train) n_tokens = n_ctx_train;
  if (n_tokens <= N_JUDGED) return fprintf(stderr, "example_masks: the text is too short\n"), 1;
  size_t n_prompt = n_tokens - N_JUDGED;
  float *dense_logits = allocate(N_JUDGED * n_vocab, sizeof *dense_logits);
  float *mask_logits = allocate(N_JUDGED * n_vocab, sizeof *mask_logits);

  leank_session *dense = open_session(model, NULL, n_tokens);
  check(leank_session_feed(dense, 0, tokens, n_prompt, NULL, &err)); /* the only prefill */
  judge(dense, tokens + n_prompt, n_vocab, dense_logits);
  check(leank_session_rewind(dense, 0, n_prompt, &err)); /* a dense cache always can */

  for (int i = 3; i < argc; i++) {
    leank_mask *mask = NULL;
    leank_memory memory;
    double kl = 0;
    check(leank_mask_open(argv[i], &mask, &err));
    leank_session *session = open_session(model, mask, n_tokens);
    check(leank_session_pack_from(session, 0, dense, 0, &err));
    leank_session_get_memory(session, &memory);
    judge(session, tokens + n_prompt, n_vocab, mask_logits);
    for (size_t t = 0; t < N_JUDGED; t++) {
      kl += divergence(dense_logits + t * n_vocab, mask_logits + t * n_vocab, n_vocab);
    }
    printf("%s: KL %.5f nats, %zu bytes of KV at %zu tokens\n", argv[i], kl / N_JUDGED,
           memory.wide_stored + memory.lean_stored, n_prompt);
    leank_session_close(&session);
    leank_mask_close(&mask);
  }

  leank_session_close(&dense);
  free(dense_logits);
  free(mask_logits);
  leank_tokens_free(&tokens);
  leank_model_close(&model);
  return 0;
}
