#include "text/prompter.h"

#include <string.h>

#include "base/alloc.h"
#include "text/text_buffer.h"

leank_status lk_prompter_open(const leank_tokenizer *tokenizer, lk_prompter *out,
                              leank_error *err) {
  static const leank_chat_message finished[] = {{"user", "a"}, {"assistant", "b"}};
  leank_token *tokens = NULL;
  size_t n = 0;
  leank_error why = {0};
  lk_prompter prompter = {tokenizer, true, -1};
  const leank_status status =
      leank_chat_tokenize(tokenizer, NULL, finished, 2, true, false, &tokens, &n, &why);
  if (status == LEANK_E_UNSUPPORTED) {
    prompter.chat = false; /* no template, or not the tokens for it */
  } else if (status != LEANK_OK) {
    return lk_fail(err, status, why.offset, "%s", why.message);
  }
  while (n > 0 && !leank_token_is_end(tokenizer, tokens[n - 1])) n--;
  if (n > 0) prompter.end = tokens[n - 1];
  leank_tokens_free(&tokens);
  *out = prompter;
  return LEANK_OK;
}

/* *a and b in one array. */
static leank_status join(leank_token **a, size_t *n_a, const leank_token *b, size_t n_b,
                         leank_error *err) {
  leank_token *both = lk_realloc(*a, LK_MEM_OTHER, *n_a, *n_a + n_b, sizeof *both);
  if (!both) return lk_fail(err, LEANK_E_MEMORY, -1, "out of memory");
  if (n_b > 0) memcpy(both + *n_a, b, n_b * sizeof *b);
  *a = both;
  *n_a += n_b;
  return LEANK_OK;
}

static leank_status chat_prompt(const lk_prompter *p, const char *message, const char *begin,
                                leank_token **out, size_t *n_out, leank_error *err) {
  leank_status status = LEANK_OK;
  const leank_chat_message user = {"user", message};
  leank_token *asked = NULL, *begun = NULL;
  size_t n = 0, n_begun = 0;
  LK_TRY(leank_chat_tokenize(p->tokenizer, NULL, &user, 1, true, true, &asked, &n, err));
  LK_TRY(leank_tokenize(p->tokenizer, begin, strlen(begin), LEANK_TOKENIZE_PLAIN, &begun, &n_begun,
                        err));
  LK_TRY(join(&asked, &n, begun, n_begun, err));
  *out = asked;
  *n_out = n;
  asked = NULL;
cleanup:
  leank_tokens_free(&asked);
  leank_tokens_free(&begun);
  return status;
}

leank_status lk_prompt_tokens(const lk_prompter *p, const char *message, const char *begin,
                              leank_token **out, size_t *n_out, leank_error *err) {
  if (p->chat) return chat_prompt(p, message, begin, out, n_out, err);
  leank_status status = LEANK_OK;
  lk_text_buffer text = {0};
  lk_text_put_str(&text, message);
  lk_text_put_str(&text, "\n");
  lk_text_put_str(&text, begin);
  LK_FAIL_IF(text.failed, err, LEANK_E_MEMORY, -1, "out of memory");
  LK_TRY(leank_tokenize(p->tokenizer, text.text, text.n, LEANK_TOKENIZE_BOS, out, n_out, err));
cleanup:
  lk_text_buffer_free(&text);
  return status;
}

leank_status lk_answer_tokens(const lk_prompter *p, const char *answer, leank_token **out,
                              size_t *n_out, size_t *n_text, leank_error *err) {
  leank_status status = LEANK_OK;
  lk_text_buffer text = {0};
  leank_token *tokens = NULL;
  size_t n = 0;
  lk_text_put_str(&text, " ");
  lk_text_put_str(&text, answer);
  LK_FAIL_IF(text.failed, err, LEANK_E_MEMORY, -1, "out of memory");
  LK_TRY(leank_tokenize(p->tokenizer, text.text, text.n, LEANK_TOKENIZE_PLAIN, &tokens, &n, err));
  LK_FAIL_IF(n == 0, err, LEANK_E_ARGUMENT, -1, "an answer that the model has no tokens for");
  *n_text = n;
  if (p->end >= 0) LK_TRY(join(&tokens, &n, &p->end, 1, err));
  *out = tokens;
  *n_out = n;
  tokens = NULL;
cleanup:
  leank_tokens_free(&tokens);
  lk_text_buffer_free(&text);
  return status;
}
