/* A real model on the GPU beside the CPU: both read the same tokens, then decode those that the CPU
 * chooses; logits are compared step by step.
 *   cuda_model MODEL [MASK|-] [TOKENS 2000] [STEPS 32] [SEQUENCES 1] [f16] [means]
 * f16: of the GPU's cache; means: policy mean and mean compensation, whatever the mask says. The
 * last step is done once more, greedily. Prints the mean and greatest KL of the next-token
 * distributions and how often the likeliest token agrees; fails where a KL reaches 5e-3. Written
 * against the public headers alone. */
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <leank/leank.h>

enum { SKIPPED = 77 };
#define MAX_KL 5e-3

static const char text[] =
    "The ferry left the island before dawn, and the keeper of the lighthouse wrote in his book "
    "what "
    "he had seen: two boats from the north, one without a light, and the weather turning. ";

static void check(leank_status status, const leank_error *err) {
  if (status == LEANK_OK) return;
  fprintf(stderr, "cuda_model: %s\n", err->message);
  exit(1);
}

/* KL(p || q) of the softmax of two rows of logits. */
static double divergence(const float *a, const float *b, size_t n) {
  double top_a = a[0], top_b = b[0], sum_a = 0, sum_b = 0, kl = 0;
  for (size_t i = 0; i < n; i++) {
    top_a = fmax(top_a, a[i]);
    top_b = fmax(top_b, b[i]);
  }
  for (size_t i = 0; i < n; i++) {
    sum_a += exp(a[i] - top_a);
    sum_b += exp(b[i] - top_b);
  }
  for (size_t i = 0; i < n; i++) {
    double p = exp(a[i] - top_a) / sum_a;
    kl += p * ((a[i] - top_a - log(sum_a)) - (b[i] - top_b - log(sum_b)));
  }
  return isfinite(kl) ? kl : INFINITY;
}

static leank_token likeliest(const float *logits, size_t n) {
  size_t best = 0;
  for (size_t i = 1; i < n; i++)
    if (logits[i] > logits[best]) best = i;
  return (leank_token)best;
}

/* Tokens of the text, again and again. */
static leank_token *make_prompt(const leank_model *model, size_t n) {
  leank_error err;
  leank_token *once = NULL, *prompt = malloc(n * sizeof *prompt);
  size_t n_once = 0;
  check(leank_tokenize(leank_model_get_tokenizer(model), text, strlen(text), LEANK_TOKENIZE_BOS,
                       &once, &n_once, &err),
        &err);
  for (size_t i = 0; prompt && i < n; i++) prompt[i] = once[i % n_once];
  leank_tokens_free(&once);
  return prompt;
}

/* True where the word stands among the last arguments. */
static bool asked(int argc, char **argv, const char *word) {
  for (int i = 6; i < argc; i++)
    if (strcmp(argv[i], word) == 0) return true;
  return false;
}

static leank_session *open_session(const leank_model *model, const leank_mask *mask,
                                   leank_device device, bool f16, bool means, size_t n_ctx,
                                   size_t n_seqs) {
  leank_session_options options;
  leank_session *session = NULL;
  leank_error err;
  leank_session_options_default(&options);
  options.mask = mask;
  options.n_ctx = n_ctx;
  options.n_seqs = n_seqs;
  options.device = device;
  if (f16) options.kv_type = LEANK_KV_F16;
  if (mask && means) {
    options.policy = LEANK_POLICY_MEAN;
    options.mean_compensation = 1;
  }
  leank_status status = leank_session_open(model, &options, &session, &err);
  if (status == LEANK_E_UNSUPPORTED && device == LEANK_DEVICE_CUDA) {
    printf("skipped: %s\n", err.message);
    exit(SKIPPED);
  }
  check(status, &err);
  return session;
}

/* The tokens of the last step again, where that can be taken back: how many of the sequences choose
 * another token than the one of the largest logit. */
static size_t choose_again(leank_session *s, size_t n_seqs, const size_t *seqs,
                           const leank_token *tokens, const float *logits, size_t n_vocab) {
  leank_error err;
  size_t n_different = 0;
  leank_token *next = malloc(n_seqs * sizeof *next);
  if (!next) exit(1);
  for (size_t i = 0; i < n_seqs; i++)
    if (leank_session_rewind(s, i, leank_session_length(s, i) - 1, &err) != LEANK_OK) {
      printf("greedy: not tried: %s\n", err.message);
      free(next);
      return 0;
    }
  check(leank_session_decode_greedy(s, n_seqs, seqs, tokens, next, &err), &err);
  for (size_t i = 0; i < n_seqs; i++)
    n_different += next[i] != likeliest(logits + i * n_vocab, n_vocab);
  printf("greedy: %zu of %zu other tokens\n", n_different, n_seqs);
  free(next);
  return n_different;
}

int main(int argc, char **argv) {
  if (argc < 2) {
    fprintf(stderr,
            "usage: cuda_model MODEL [MASK|-] [TOKENS] [STEPS] [SEQUENCES] [f16] [means]\n");
    return 2;
  }
  leank_error err;
  leank_model *model = NULL;
  leank_mask *mask = NULL;
  size_t n_prompt = argc > 3 ? strtoull(argv[3], NULL, 10) : 2000;
  size_t n_steps = argc > 4 ? strtoull(argv[4], NULL, 10) : 32;
  size_t n_seqs = argc > 5 ? strtoull(argv[5], NULL, 10) : 1;
  check(leank_model_open(argv[1], NULL, &model, &err), &err);
  if (argc > 2 && strcmp(argv[2], "-") != 0) check(leank_mask_open(argv[2], &mask, &err), &err);
  size_t n_vocab = leank_model_get_info(model)->n_vocab, n_ctx = n_prompt + n_steps;
  const bool f16 = asked(argc, argv, "f16"), means = asked(argc, argv, "means");
  leank_session *gpu = open_session(model, mask, LEANK_DEVICE_CUDA, f16, means, n_ctx, n_seqs);
  leank_session *cpu = open_session(model, mask, LEANK_DEVICE_CPU, false, means, n_ctx, n_seqs);
  leank_token *prompt = make_prompt(model, n_prompt);
  leank_token *next = malloc(n_seqs * sizeof *next), *last = malloc(n_seqs * sizeof *last);
  size_t *seqs = malloc(n_seqs * sizeof *seqs);
  float *of_cpu = malloc(n_seqs * n_vocab * sizeof *of_cpu);
  float *of_gpu = malloc(n_seqs * n_vocab * sizeof *of_gpu);
  if (!prompt || !next || !last || !seqs || !of_cpu || !of_gpu) return 1;

  /* Sequence i reads i * 7 tokens less. */
  for (size_t i = 0; i < n_seqs; i++) {
    leank_feed_options feed;
    seqs[i] = i;
    size_t n = n_prompt > 7 * i ? n_prompt - 7 * i : 1;
    leank_feed_options_default(&feed);
    feed.logits = of_cpu + i * n_vocab;
    check(leank_session_feed(cpu, i, prompt, n, &feed, &err), &err);
    feed.logits = of_gpu + i * n_vocab;
    check(leank_session_feed(gpu, i, prompt, n, &feed, &err), &err);
  }
  double sum = 0, most = 0, of_prefill = 0;
  size_t n_rows = 0, n_agree = 0;
  for (size_t step = 0; step <= n_steps; step++) {
    for (size_t i = 0; i < n_seqs; i++) {
      const float *a = of_cpu + i * n_vocab, *b = of_gpu + i * n_vocab;
      double kl = divergence(a, b, n_vocab);
      sum += kl;
      most = fmax(most, kl);
      if (step == 0) of_prefill = fmax(of_prefill, kl);
      next[i] = likeliest(a, n_vocab);
      n_agree += next[i] == likeliest(b, n_vocab);
      n_rows++;
    }
    if (step == n_steps) break;
    memcpy(last, next, n_seqs * sizeof *last);
    check(leank_session_decode(cpu, n_seqs, seqs, next, of_cpu, &err), &err);
    check(leank_session_decode(gpu, n_seqs, seqs, next, of_gpu, &err), &err);
  }
  printf(
      "%zu tokens, %zu steps, %zu sequences, %s: KL mean %.2e, greatest %.2e (prefill %.2e), same "
      "token %zu of %zu\n",
      n_prompt, n_steps, n_seqs, mask ? "mask" : "dense", sum / (double)n_rows, most, of_prefill,
      n_agree, n_rows);
  const size_t n_different =
      n_steps > 0 ? choose_again(gpu, n_seqs, seqs, last, of_gpu, n_vocab) : 0;
  leank_session_close(&gpu);
  leank_session_close(&cpu);
  leank_mask_close(&mask);
  leank_model_close(&model);
  free(prompt);
  free(next);
  free(last);
  free(seqs);
  free(of_cpu);
  free(of_gpu);
  return most < MAX_KL && n_different == 0 ? 0 : 1;
}
