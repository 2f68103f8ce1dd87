/* Sampling: penalty, temperature, top-k, top-p, min-p, one draw. All memory is had beforehand. */
#include <math.h>

#include <leank/text.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/rng.h"

enum { MAX_VOCAB = 1 << 24, MAX_WINDOW = 1 << 24 };

typedef struct candidate {
  float logit;
  leank_token token;
} candidate;

struct leank_sampler {
  leank_sampler_options options;
  size_t n_vocab;
  lk_rng rng;
  leank_token *window; /* ring of the last tokens */
  size_t n_window, at_window;
  uint32_t *seen;        /* [n_vocab] how often in the window */
  candidate *candidates; /* [n_vocab] heap; those picked out gather at its end */
};

void leank_sampler_options_default(leank_sampler_options *options) {
  *options = (leank_sampler_options){.struct_size = sizeof *options,
                                     .top_p = 1.0f,
                                     .repetition_penalty = 1.0f,
                                     .repetition_window = 64};
}

static bool in_range(float x, double low, double high) { return x >= low && x <= high; }

static leank_status check(const leank_sampler_options *o, size_t n_vocab, leank_error *err) {
  leank_status status = LEANK_OK;
  LK_FAIL_IF(n_vocab == 0 || n_vocab > MAX_VOCAB, err, LEANK_E_ARGUMENT, -1,
             "a vocabulary of %zu tokens", n_vocab);
  LK_FAIL_IF(!in_range(o->temperature, 0, 1e6), err, LEANK_E_ARGUMENT, -1,
             "temperature %g: 0 to 1e6 is possible", (double)o->temperature);
  LK_FAIL_IF(o->top_k < 0, err, LEANK_E_ARGUMENT, -1, "top_k %d: 0 or more is possible", o->top_k);
  LK_FAIL_IF(!in_range(o->top_p, 0, 1), err, LEANK_E_ARGUMENT, -1, "top_p %g: 0 to 1 is possible",
             (double)o->top_p);
  LK_FAIL_IF(!in_range(o->min_p, 0, 1), err, LEANK_E_ARGUMENT, -1, "min_p %g: 0 to 1 is possible",
             (double)o->min_p);
  LK_FAIL_IF(!in_range(o->repetition_penalty, 1e-6, 1e6), err, LEANK_E_ARGUMENT, -1,
             "repetition_penalty %g: 1e-6 to 1e6 is possible", (double)o->repetition_penalty);
  LK_FAIL_IF(o->repetition_window > MAX_WINDOW, err, LEANK_E_ARGUMENT, -1, "repetition_window %zu",
             o->repetition_window);
cleanup:
  return status;
}

leank_status leank_sampler_open(const leank_sampler_options *options, size_t n_vocab,
                                leank_sampler **out, leank_error *err) {
  leank_status status = LEANK_OK;
  leank_sampler_options o;
  leank_sampler *s = NULL;
  leank_sampler_options_default(&o);
  LK_FAIL_IF(options && options->struct_size != sizeof o, err, LEANK_E_ARGUMENT, -1,
             "sampler options of %zu bytes: fill them with leank_sampler_options_default",
             options->struct_size);
  if (options) o = *options;
  LK_TRY(check(&o, n_vocab, err));
  s = lk_alloc(LK_MEM_TEXT, 1, sizeof *s);
  LK_FAIL_IF(!s, err, LEANK_E_MEMORY, -1, "out of memory");
  s->options = o;
  s->n_vocab = n_vocab;
  s->rng.state = o.seed;
  s->window = lk_alloc(LK_MEM_TEXT, o.repetition_window, sizeof *s->window);
  s->seen = lk_alloc(LK_MEM_TEXT, n_vocab, sizeof *s->seen);
  s->candidates = lk_alloc(LK_MEM_TEXT, n_vocab, sizeof *s->candidates);
  LK_FAIL_IF(!s->window || !s->seen || !s->candidates, err, LEANK_E_MEMORY, -1, "out of memory");
  *out = s;
  s = NULL;
cleanup:
  leank_sampler_close(&s);
  return status;
}

void leank_sampler_close(leank_sampler **sampler) {
  if (!sampler || !*sampler) return;
  lk_free((*sampler)->window);
  lk_free((*sampler)->seen);
  lk_free((*sampler)->candidates);
  lk_free(*sampler);
  *sampler = NULL;
}

void leank_sampler_accept(leank_sampler *s, leank_token token) {
  const size_t room = s->options.repetition_window;
  if (token < 0 || (size_t)token >= s->n_vocab || room == 0) return;
  if (s->n_window == room)
    s->seen[s->window[s->at_window]]--;
  else
    s->n_window++;
  s->window[s->at_window] = token;
  s->seen[token]++;
  s->at_window = (s->at_window + 1) % room;
}

/* Keskar et al. 2019 (CTRL): divides positive logits, multiplies negative ones. */
static void penalise(const leank_sampler *s, float *logits) {
  const float penalty = s->options.repetition_penalty;
  if (penalty == 1.0f || s->n_window == 0) return;
  for (size_t i = 0; i < s->n_vocab; i++)
    if (s->seen[i] > 0) logits[i] = logits[i] > 0 ? logits[i] / penalty : logits[i] * penalty;
}

/* The largest logit, lowest id first; 0 where there is none but NaN. */
static leank_token greedy(const float *logits, size_t n) {
  size_t best = n;
  for (size_t i = 0; i < n; i++)
    if (!isnan(logits[i]) && (best == n || logits[i] > logits[best])) best = i;
  return best == n ? 0 : (leank_token)best;
}

static bool before(candidate a, candidate b) {
  return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
}

static void sift_down(candidate *heap, size_t n, size_t i) {
  const candidate item = heap[i];
  for (size_t child = 2 * i + 1; child < n; child = 2 * i + 1) {
    if (child + 1 < n && before(heap[child + 1], heap[child])) child++;
    if (!before(heap[child], item)) break;
    heap[i] = heap[child];
    i = child;
  }
  heap[i] = item;
}

/* Moves the largest behind the heap's new end. */
static candidate take_best(candidate *heap, size_t *n) {
  const candidate best = heap[0];
  heap[0] = heap[--*n];
  heap[*n] = best;
  if (*n > 0) sift_down(heap, *n, 0);
  return best;
}

/* Weight relative to the largest logit. Infinities: the largest ones share everything. */
static double weight(float logit, float largest, float temperature) {
  if (logit == largest) return 1;
  return isinf(largest) ? 0 : exp(((double)logit - largest) / temperature);
}

/* How many of the candidates, best first, remain after top-k, top-p and min-p; *sum = their
 * weight. They lie at candidates[n_vocab_used - 1] downwards. */
static size_t select_best(leank_sampler *s, size_t n, float largest, double *sum) {
  const leank_sampler_options *o = &s->options;
  const size_t most = o->top_k > 0 && (size_t)o->top_k < n ? (size_t)o->top_k : n;
  candidate *c = s->candidates;
  size_t left = n, kept = 0;
  double total = 0; /* of what top-k leaves: top-p is a share of it */
  if (most == n)
    for (size_t i = 0; i < n; i++) total += weight(c[i].logit, largest, o->temperature);
  for (size_t i = n / 2; i-- > 0;) sift_down(c, n, i);
  if (most < n) {
    for (size_t i = 0; i < most; i++)
      total += weight(take_best(c, &left).logit, largest, o->temperature);
  }
  *sum = 0;
  while (kept < most) {
    const candidate next = most < n ? c[n - 1 - kept] : take_best(c, &left);
    const double w = weight(next.logit, largest, o->temperature);
    if (kept > 0 && (*sum >= (double)o->top_p * total || w < (double)o->min_p)) break;
    *sum += w;
    kept++;
  }
  return kept;
}

/* The candidate where the running weight passes a uniform share of sum. step: +1 or -1. */
static leank_token draw(leank_sampler *s, size_t first, size_t n, int step, double sum,
                        float largest) {
  double left = lk_rng_double(&s->rng) * sum;
  leank_token last = -1;
  for (size_t i = 0; i < n; i++) {
    const candidate c = s->candidates[step > 0 ? first + i : first - i];
    const double w = weight(c.logit, largest, s->options.temperature);
    if (w <= 0) continue;
    last = c.token;
    left -= w;
    if (left < 0) break;
  }
  return last;
}

static leank_token sample(leank_sampler *s, const float *logits) {
  const leank_sampler_options *o = &s->options;
  size_t n = 0;
  const float largest = logits[greedy(logits, s->n_vocab)];
  if (isnan(largest) || largest == -INFINITY) return greedy(logits, s->n_vocab);
  for (size_t i = 0; i < s->n_vocab; i++)
    if (!isnan(logits[i]) && logits[i] > -INFINITY)
      s->candidates[n++] = (candidate){logits[i], (leank_token)i};
  double sum = 0;
  if (o->top_k == 0 && o->top_p >= 1 && o->min_p <= 0) {
    for (size_t i = 0; i < n; i++) sum += weight(s->candidates[i].logit, largest, o->temperature);
    return draw(s, 0, n, 1, sum, largest);
  }
  const size_t kept = select_best(s, n, largest, &sum);
  return draw(s, n - 1, kept, -1, sum, largest);
}

leank_token leank_sampler_pick(leank_sampler *sampler, float *logits) {
  penalise(sampler, logits);
  const leank_token token =
      sampler->options.temperature > 0 ? sample(sampler, logits) : greedy(logits, sampler->n_vocab);
  leank_sampler_accept(sampler, token);
  return token;
}
