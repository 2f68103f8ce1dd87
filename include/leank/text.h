/* Text: tokens, chat templates, sampling. SPDX-License-Identifier: Apache-2.0 */
#ifndef LEANK_TEXT_H
#define LEANK_TEXT_H

#include <leank/model.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef int32_t leank_token;

/* ---- tokens ---- */

typedef struct leank_tokenizer leank_tokenizer;

typedef enum leank_tokenize_flags {
  LEANK_TOKENIZE_PLAIN = 0,
  LEANK_TOKENIZE_SPECIAL = 1, /* text such as "<|im_end|>" becomes the special token */
  LEANK_TOKENIZE_BOS = 2      /* put the beginning-of-sequence token first, where the model has one
                                 and asks for it */
} leank_tokenize_flags;

/* The tokenizer of an open model; owned by it, immutable, shared between threads.
 * NULL where the model came without one. */
LEANK_API const leank_tokenizer *leank_model_get_tokenizer(const leank_model *model);

/* Reads only the tokenizer of a GGUF file or a folder with tokenizer.json. LEANK_E_IO, _FORMAT,
 * _UNSUPPORTED (the message names what), _MEMORY. The caller closes *out. */
LEANK_API leank_status leank_tokenizer_open(const char *path, leank_tokenizer **out,
                                            leank_error *err);
LEANK_API void leank_tokenizer_close(leank_tokenizer **tokenizer);

/* Text (UTF-8, n_bytes, may hold NUL bytes) to tokens. *out receives an array of *n_out tokens that
 * the caller frees with leank_tokens_free. Invalid UTF-8: LEANK_E_ARGUMENT with the byte offset.
 * Added tokens that are not special ("<tool_call>" of Qwen) are cut out with either flag; bytes the
 * vocabulary lacks (SmolLM2: a few control characters) vanish, as in the models' own tokenizers. */
LEANK_API leank_status leank_tokenize(const leank_tokenizer *tokenizer, const char *text,
                                      size_t n_bytes, unsigned flags, leank_token **out,
                                      size_t *n_out, leank_error *err);
LEANK_API void leank_tokens_free(leank_token **tokens);

/* The bytes of one token; not NUL-terminated, owned by the tokenizer, may be cut in the middle of a
 * UTF-8 character. Special tokens give their text. NULL and *n_bytes 0 for an unknown id. */
LEANK_API const char *leank_token_bytes(const leank_tokenizer *tokenizer, leank_token token,
                                        size_t *n_bytes);
LEANK_API bool leank_token_is_special(const leank_tokenizer *tokenizer, leank_token token);
/* True for every token that ends a turn (eos, <|im_end|>, <|eot_id|> and their like). */
LEANK_API bool leank_token_is_end(const leank_tokenizer *tokenizer, leank_token token);
LEANK_API size_t leank_tokenizer_vocab_size(const leank_tokenizer *tokenizer);

/* Joins a stream of tokens into text that is whole UTF-8 at every step: bytes of an unfinished
 * character are held back. Invalid bytes become U+FFFD. */
typedef struct leank_utf8_stream {
  unsigned char held[4];
  size_t n_held;
} leank_utf8_stream;

/* Feeds n_bytes and writes at most 3 * (n_bytes + 4) bytes to out (not NUL-terminated); returns the
 * count. flush = true ends the stream: held bytes come out as U+FFFD. */
LEANK_API size_t leank_utf8_stream_feed(leank_utf8_stream *stream, const char *bytes,
                                        size_t n_bytes, bool flush, char *out);

/* ---- chat ---- */

typedef struct leank_chat_message {
  const char *role;    /* "system", "user", "assistant" */
  const char *content; /* UTF-8, NUL-terminated */
} leank_chat_message;

/* Name of the model's chat template as detected from its file: "chatml", "llama3", "qwen", "smollm"
 * or "none". Static storage. */
LEANK_API const char *leank_chat_template_detect(const leank_tokenizer *tokenizer);

/* Formats messages. `name` NULL = detected. first: these messages open the conversation (so the
 * template's beginning and default system message are written); else they continue one whose last
 * message was the assistant's and ended with its end token. open_assistant: ends with the
 * assistant's header, for the model to go on. *out is freed with leank_text_free. The result is to
 * be tokenized with LEANK_TOKENIZE_SPECIAL; text inside messages that looks like a special token is
 * therefore one: see leank_chat_tokenize for untrusted content. Llama 3.1 writes the date its
 * template has by default (26 Jul 2024). LEANK_E_ARGUMENT for other roles, an unknown name, or a
 * conversation that begins with no message; LEANK_E_UNSUPPORTED for "none" and where the model
 * lacks the template's special tokens. */
LEANK_API leank_status leank_chat_format(const leank_tokenizer *tokenizer, const char *name,
                                         const leank_chat_message *messages, size_t n_messages,
                                         bool first, bool open_assistant, char **out,
                                         leank_error *err);

/* The same as tokens, with message contents tokenized as plain text. */
LEANK_API leank_status leank_chat_tokenize(const leank_tokenizer *tokenizer, const char *name,
                                           const leank_chat_message *messages, size_t n_messages,
                                           bool first, bool open_assistant, leank_token **out,
                                           size_t *n_out, leank_error *err);
LEANK_API void leank_text_free(char **text);

/* ---- a text ---- */

/* Some 2,500 tokens of English prose in the public domain, paragraphs between blank lines: what is
 * measured on and hidden in where nobody names a text. NUL-terminated; n_bytes may be NULL. Static
 * storage. */
LEANK_API const char *leank_sample_text(size_t *n_bytes);
/* What it is, in a few words. */
LEANK_API const char *leank_sample_text_name(void);

/* ---- sampling ---- */

typedef struct leank_sampler_options {
  size_t struct_size;
  float temperature;        /* 0 = greedy (the default); lowest id wins a tie */
  int top_k;                /* 0 = off */
  float top_p;              /* 1 = off */
  float min_p;              /* 0 = off */
  float repetition_penalty; /* 1 = off; applies to the last repetition_window tokens */
  size_t repetition_window; /* 64 */
  uint64_t seed;
} leank_sampler_options;

typedef struct leank_sampler leank_sampler;

/* Greedy: the largest logit as it is. */
LEANK_API void leank_sampler_options_default(leank_sampler_options *options);
/* A sampler of logits[n_vocab]; options NULL = the defaults. LEANK_E_ARGUMENT for values outside of
 * their ranges, LEANK_E_MEMORY. The caller closes *out. */
LEANK_API leank_status leank_sampler_open(const leank_sampler_options *options, size_t n_vocab,
                                          leank_sampler **out, leank_error *err);
LEANK_API void leank_sampler_close(leank_sampler **sampler);
/* Tells the sampler of tokens that are already in the text (for the repetition penalty). */
LEANK_API void leank_sampler_accept(leank_sampler *sampler, leank_token token);
/* Picks a token from logits [V], which it may overwrite, and accepts it. Order: repetition penalty,
 * temperature, top-k, top-p, min-p. Deterministic by seed and history. NaN logits never win. */
LEANK_API leank_token leank_sampler_pick(leank_sampler *sampler, float *logits);

#ifdef __cplusplus
}
#endif
#endif
