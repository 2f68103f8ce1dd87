/* The tokenizer inside, and how loaders build one. It owns all it holds. */
#ifndef LK_TEXT_TOKENIZER_H
#define LK_TEXT_TOKENIZER_H

#include <leank/text.h>

#include "base/error.h"
#include "formats/gguf.h"
#include "text/bpe.h"
#include "text/pretokenize.h"
#include "text/str_map.h"

/* Named maxima of what a file may ask for. */
enum {
  LK_MAX_VOCAB = 1 << 20,
  LK_MAX_MERGES = 1 << 22,
  LK_MAX_ADDED_BYTES = 1024,         /* of the text of one added token */
  LK_MAX_TOKENIZER_JSON = 256 << 20, /* bytes of tokenizer.json */
  LK_MAX_CONFIG_JSON = 16 << 20      /* bytes of the other files of a folder */
};

/* What a token is, as bits. */
enum {
  LK_TOKEN_EXISTS = 1,
  LK_TOKEN_ADDED = 2,      /* cut out of the text before anything else */
  LK_TOKEN_SPECIAL = 4,    /* and only where asked for */
  LK_TOKEN_NORMALIZED = 8, /* cut out of the normalised text instead */
  LK_TOKEN_LSTRIP = 16,    /* takes the white space to its left along */
  LK_TOKEN_RSTRIP = 32,
  LK_TOKEN_END = 64,    /* ends a turn */
  LK_TOKEN_UNUSED = 128 /* a place-holder of the vocabulary: never the result of a text */
};

typedef enum lk_chat_family { LK_CHAT_NONE, LK_CHAT_CHATML, LK_CHAT_LLAMA3 } lk_chat_family;

/* What the model's own template says. */
typedef struct lk_chat_style {
  lk_chat_family family;
  const char *name;     /* static: "chatml", "llama3", "qwen", "smollm", "none" */
  char *default_system; /* written where a conversation begins with no system message; or NULL */
  bool llama3_dates;    /* Llama 3.1: the system block opens with two dates */
} lk_chat_style;

/* Added tokens in the order of their bytes, so that the longest one at a place is found by
 * narrowing. */
typedef struct lk_added {
  leank_token *tokens;
  size_t n;
  bool first[256]; /* some token begins with this byte */
} lk_added;

struct leank_tokenizer {
  size_t n_vocab;
  lk_span *tokens;      /* [n_vocab] bytes, into arena */
  unsigned char *flags; /* [n_vocab] LK_TOKEN_ bits */
  char *arena;
  lk_bpe bpe;
  lk_pretokenizer pre;
  bool nfc;
  lk_added added;            /* cut out of the text as given */
  lk_added added_normalized; /* cut out of what is left after normalisation */
  leank_token bos;           /* -1 = none */
  bool add_bos;
  lk_chat_style chat;
};

/* ---- loaders ---- */

leank_status lk_tokenizer_from_gguf(const lk_gguf *gguf, leank_tokenizer **out, leank_error *err);
leank_status lk_tokenizer_from_folder(const char *folder, leank_tokenizer **out, leank_error *err);

/* A tokenizer in the making. texts: as the file has them (borrowed until lk_draft_finish). */
typedef struct lk_draft {
  const char *name; /* for messages */
  size_t n_vocab;
  lk_span *texts;       /* [n_vocab] */
  unsigned char *flags; /* [n_vocab] LK_TOKEN_ bits */
  lk_str_map by_text;   /* of the tokens that merges and bytes may name */
  leank_tokenizer *tokenizer;
} lk_draft;

/* n_vocab ids, none of which exists yet. LEANK_E_FORMAT for 0 or more than LK_MAX_VOCAB. */
leank_status lk_draft_open(lk_draft *draft, const char *name, size_t n_vocab, leank_error *err);
void lk_draft_close(lk_draft *draft);
/* Gives id its text. LEANK_E_FORMAT where the id is out of range or taken by another text. */
leank_status lk_draft_token(lk_draft *draft, int64_t id, lk_span text, unsigned flags,
                            leank_error *err);
/* Makes the token one that merges may name. LEANK_E_FORMAT where its text is there already. */
leank_status lk_draft_index(lk_draft *draft, leank_token token, leank_error *err);
/* The next merge by rank, of the tokens with texts a and b. LEANK_E_FORMAT where one of them or
 * their union is unknown. lk_bpe_open_merges comes first. */
leank_status lk_draft_merge(lk_draft *draft, lk_span a, lk_span b, leank_error *err);
/* Marks a token as one that ends a turn; -1 and ids out of range are passed over. */
void lk_draft_end_token(lk_draft *draft, int64_t id);
/* Turns texts into bytes, builds the tables and hands the tokenizer over. */
leank_status lk_draft_finish(lk_draft *draft, leank_tokenizer **out, leank_error *err);

/* ---- chat ---- */

/* Reads the style out of a Jinja template (NULL = there is none: the special tokens decide). */
leank_status lk_chat_style_detect(const leank_tokenizer *tokenizer, const char *jinja,
                                  size_t n_bytes, lk_chat_style *out, leank_error *err);
/* The added token with this text, or -1. */
leank_token lk_tokenizer_find_added(const leank_tokenizer *tokenizer, const char *text);

/* ---- running ---- */

/* A stretch of text up to byte `end`; plain: its special tokens stay text. */
typedef struct lk_stretch {
  size_t end;
  bool plain;
} lk_stretch;

/* Tokens of text cut into stretches (the last one ends at n_bytes). Words may reach across
 * stretches, added tokens may not. bos: begin with it. *out: lk_free. Statuses of leank_tokenize.
 */
leank_status lk_tokenize_stretches(const leank_tokenizer *tokenizer, const char *text,
                                   size_t n_bytes, const lk_stretch *stretches, size_t n_stretches,
                                   bool bos, leank_token **out, size_t *n_out, leank_error *err);

/* Added tokens, for the builder and the run. */
leank_status lk_added_open(lk_added *added, const leank_tokenizer *tokenizer, unsigned normalized,
                           leank_error *err);
/* The longest token that text begins with, or -1. */
leank_token lk_added_match(const lk_added *added, const leank_tokenizer *tokenizer,
                           const char *text, size_t n_bytes);

#endif
