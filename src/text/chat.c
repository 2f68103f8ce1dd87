/* Chat templates: the few families known here, written out by hand. The texts follow the Jinja
 * templates published with SmolLM2-Instruct, Qwen2.5-Instruct, Llama-3-Instruct and
 * Llama-3.1-Instruct; goldens compare them. */
#include <string.h>

#include "base/alloc.h"
#include "base/utf8.h"
#include "text/tokenizer.h"

static const char system_qwen[] =
    "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.";
static const char system_smollm[] =
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face";
/* Llama 3.1's template with its default date_string. */
static const char llama3_dates[] =
    "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n";
static const char llama3_cutoff[] = "Cutting Knowledge Date: December 2023";

/* ---- detection ---- */

static const char *find(lk_span text, const char *what) {
  return text.n ? memmem(text.p, text.n, what, strlen(what)) : NULL;
}

/* The literal between a system header and the end token of a ChatML template: what it writes where
 * the caller gives no system message. Templates spell the newline out or escape it. */
static lk_span chatml_default(lk_span jinja) {
  static const char *const headers[] = {"<|im_start|>system\\n", "<|im_start|>system\n"};
  for (size_t i = 0; i < 2; i++) {
    const size_t n_header = strlen(headers[i]);
    lk_span left = jinja;
    for (const char *at; (at = find(left, headers[i]));) {
      const char *begin = at + n_header;
      left = (lk_span){begin, (size_t)(jinja.p + jinja.n - begin)};
      const char *end = find(left, "<|im_end|>");
      const size_t n = end ? (size_t)(end - begin) : 0;
      const lk_span text = {begin, n};
      if (n > 0 && !find(text, "'") && !find(text, "\"") && !find(text, "{") && !find(text, "\\"))
        return text;
    }
  }
  return (lk_span){NULL, 0};
}

static bool equals(lk_span s, const char *text) {
  return s.n == strlen(text) && memcmp(s.p, text, s.n) == 0;
}

static bool has_token(const leank_tokenizer *t, const char *text) {
  return lk_tokenizer_find_added(t, text) >= 0;
}

static lk_chat_family family_of(const leank_tokenizer *t, lk_span jinja) {
  if (jinja.n) {
    if (find(jinja, "<|start_header_id|>")) return LK_CHAT_LLAMA3;
    return find(jinja, "<|im_start|>") ? LK_CHAT_CHATML : LK_CHAT_NONE;
  }
  if (has_token(t, "<|start_header_id|>") && has_token(t, "<|eot_id|>")) return LK_CHAT_LLAMA3;
  if (has_token(t, "<|im_start|>") && has_token(t, "<|im_end|>")) return LK_CHAT_CHATML;
  return LK_CHAT_NONE;
}

leank_status lk_chat_style_detect(const leank_tokenizer *tokenizer, const char *jinja,
                                  size_t n_bytes, lk_chat_style *out, leank_error *err) {
  const lk_span text = {jinja, jinja ? n_bytes : 0};
  lk_chat_style style = {.family = family_of(tokenizer, text), .name = "none"};
  if (style.family == LK_CHAT_LLAMA3) {
    style.name = "llama3";
    style.llama3_dates = find(text, llama3_cutoff) != NULL;
  } else if (style.family == LK_CHAT_CHATML) {
    const lk_span system = chatml_default(text);
    style.name = equals(system, system_qwen)     ? "qwen"
                 : equals(system, system_smollm) ? "smollm"
                                                 : "chatml";
    if (system.n) style.default_system = lk_strndup(system.p, system.n);
    if (system.n && !style.default_system) return lk_fail(err, LEANK_E_MEMORY, -1, "out of memory");
  }
  *out = style;
  return LEANK_OK;
}

const char *leank_chat_template_detect(const leank_tokenizer *tokenizer) {
  return tokenizer->chat.name;
}

/* ---- writing ---- */

typedef struct writer {
  char *text;
  size_t n, room;
  lk_stretch *stretches;
  size_t n_stretches, stretch_room;
  bool failed; /* memory was short: the rest is dropped */
} writer;

static bool grow(void **block, size_t used, size_t *room, size_t wanted, size_t size) {
  if (wanted <= *room) return true;
  const size_t more = wanted > 2 * *room ? wanted : 2 * *room;
  void *p = lk_realloc(*block, LK_MEM_TEXT, used, more, size);
  if (!p) return false;
  *block = p;
  *room = more;
  return true;
}

static void put(writer *w, const char *text, size_t n, bool plain) {
  void *block = w->text, *list = w->stretches;
  w->failed = w->failed || !grow(&block, w->n, &w->room, w->n + n + 1, 1);
  w->text = block;
  w->failed = w->failed || !grow(&list, w->n_stretches, &w->stretch_room, w->n_stretches + 1,
                                 sizeof *w->stretches);
  w->stretches = list;
  if (w->failed || n == 0) return;
  memcpy(w->text + w->n, text, n);
  w->n += n;
  w->text[w->n] = '\0';
  if (w->n_stretches > 0 && w->stretches[w->n_stretches - 1].plain == plain)
    w->stretches[w->n_stretches - 1].end = w->n;
  else
    w->stretches[w->n_stretches++] = (lk_stretch){w->n, plain};
}

static void put_own(writer *w, const char *text) { put(w, text, strlen(text), false); }

static void writer_free(writer *w) {
  lk_free(w->text);
  lk_free(w->stretches);
}

/* What Jinja's trim takes: Python's idea of white space. */
static bool is_trimmed(uint32_t code) {
  return lk_is_white_space(code) || (code >= 0x1c && code <= 0x1f);
}

static lk_span trim(const char *content) {
  size_t n = strlen(content), length;
  uint32_t code;
  while (n > 0 && (length = lk_utf8_decode(content, n, &code)) > 0 && is_trimmed(code)) {
    content += length;
    n -= length;
  }
  while (n > 0) {
    size_t at = n - 1;
    while (at > 0 && ((unsigned char)content[at] & 0xc0) == 0x80) at--;
    if (lk_utf8_decode(content + at, n - at, &code) == 0 || !is_trimmed(code)) break;
    n = at;
  }
  return (lk_span){content, n};
}

static void chatml_message(writer *w, const char *role, const char *content, bool own) {
  put_own(w, "<|im_start|>");
  put_own(w, role);
  put_own(w, "\n");
  put(w, content, strlen(content), !own);
  put_own(w, "<|im_end|>\n");
}

static void write_chatml(writer *w, const lk_chat_style *style, const leank_chat_message *messages,
                         size_t n, bool first, bool open_assistant) {
  if (!first) put_own(w, "\n"); /* what follows the end token of the last message */
  if (first && style->default_system && strcmp(messages[0].role, "system") != 0)
    chatml_message(w, "system", style->default_system, true);
  for (size_t i = 0; i < n; i++) chatml_message(w, messages[i].role, messages[i].content, false);
  if (open_assistant) put_own(w, "<|im_start|>assistant\n");
}

static void llama3_header(writer *w, const char *role) {
  put_own(w, "<|start_header_id|>");
  put_own(w, role);
  put_own(w, "<|end_header_id|>\n\n");
}

static void llama3_message(writer *w, const leank_chat_message *message, const char *before) {
  const lk_span content = trim(message->content);
  llama3_header(w, message->role);
  put_own(w, before);
  put(w, content.p, content.n, true);
  put_own(w, "<|eot_id|>");
}

static void write_llama3(writer *w, const lk_chat_style *style, const leank_chat_message *messages,
                         size_t n, bool first, bool open_assistant) {
  size_t done = 0;
  if (first) put_own(w, "<|begin_of_text|>");
  if (first && style->llama3_dates) {
    const bool given = strcmp(messages[0].role, "system") == 0;
    const leank_chat_message none = {"system", ""};
    llama3_message(w, given ? &messages[0] : &none, llama3_dates);
    done = given;
  }
  for (; done < n; done++) llama3_message(w, &messages[done], "");
  if (open_assistant) llama3_header(w, "assistant");
}

/* ---- checks ---- */

static leank_status check_message(const leank_chat_message *m, size_t i, leank_error *err) {
  leank_status status = LEANK_OK;
  size_t at = 0;
  LK_FAIL_IF(!m->role || !m->content, err, LEANK_E_ARGUMENT, -1, "message %zu: NULL", i);
  const bool known = strcmp(m->role, "system") == 0 || strcmp(m->role, "user") == 0 ||
                     strcmp(m->role, "assistant") == 0;
  LK_FAIL_IF(!known, err, LEANK_E_ARGUMENT, -1, "message %zu: unknown role", i);
  LK_FAIL_IF(!lk_utf8_valid(m->content, strlen(m->content), &at), err, LEANK_E_ARGUMENT, at,
             "message %zu: not UTF-8 at byte %zu", i, at);
cleanup:
  return status;
}

/* The style by name; the default system message of a named style is its own. */
static bool find_style(const leank_tokenizer *t, const char *name, lk_chat_style *out) {
  *out = t->chat;
  if (!name || strcmp(name, t->chat.name) == 0) return true;
  const lk_chat_style named[] = {{LK_CHAT_CHATML, "chatml", NULL, false},
                                 {LK_CHAT_CHATML, "qwen", (char *)system_qwen, false},
                                 {LK_CHAT_CHATML, "smollm", (char *)system_smollm, false},
                                 {LK_CHAT_LLAMA3, "llama3", NULL, false}};
  for (size_t i = 0; i < sizeof named / sizeof *named; i++) {
    if (strcmp(name, named[i].name) != 0) continue;
    *out = named[i];
    return true;
  }
  return false;
}

static leank_status check_tokens(const leank_tokenizer *t, const lk_chat_style *style,
                                 leank_error *err) {
  static const char *const chatml[] = {"<|im_start|>", "<|im_end|>", NULL};
  static const char *const llama3[] = {"<|begin_of_text|>", "<|start_header_id|>",
                                       "<|end_header_id|>", "<|eot_id|>", NULL};
  if (style->family == LK_CHAT_NONE)
    return lk_fail(err, LEANK_E_UNSUPPORTED, -1, "the model has no chat template known here");
  const char *const *need = style->family == LK_CHAT_CHATML ? chatml : llama3;
  for (; *need; need++)
    if (!has_token(t, *need))
      return lk_fail(err, LEANK_E_UNSUPPORTED, -1,
                     "chat template %s needs %s, which the model lacks", style->name, *need);
  return LEANK_OK;
}

static leank_status write_chat(const leank_tokenizer *t, const char *name,
                               const leank_chat_message *messages, size_t n, bool first,
                               bool open_assistant, writer *w, leank_error *err) {
  leank_status status = LEANK_OK;
  lk_chat_style style;
  LK_FAIL_IF(!t || (!messages && n > 0), err, LEANK_E_ARGUMENT, -1, "chat: NULL");
  LK_FAIL_IF(first && n == 0, err, LEANK_E_ARGUMENT, -1, "a conversation begins with a message");
  LK_FAIL_IF(!find_style(t, name, &style), err, LEANK_E_ARGUMENT, -1,
             "unknown chat template '%.32s'", name);
  for (size_t i = 0; i < n; i++) LK_TRY(check_message(&messages[i], i, err));
  LK_TRY(check_tokens(t, &style, err));
  if (style.family == LK_CHAT_CHATML)
    write_chatml(w, &style, messages, n, first, open_assistant);
  else
    write_llama3(w, &style, messages, n, first, open_assistant);
  put(w, "", 0, false); /* text is never NULL */
  LK_FAIL_IF(w->failed, err, LEANK_E_MEMORY, -1, "out of memory");
cleanup:
  return status;
}

/* ---- public ---- */

leank_status leank_chat_format(const leank_tokenizer *tokenizer, const char *name,
                               const leank_chat_message *messages, size_t n_messages, bool first,
                               bool open_assistant, char **out, leank_error *err) {
  writer w = {0};
  leank_status status =
      write_chat(tokenizer, name, messages, n_messages, first, open_assistant, &w, err);
  if (status == LEANK_OK) {
    *out = w.text;
    w.text = NULL;
  }
  writer_free(&w);
  return status;
}

leank_status leank_chat_tokenize(const leank_tokenizer *tokenizer, const char *name,
                                 const leank_chat_message *messages, size_t n_messages, bool first,
                                 bool open_assistant, leank_token **out, size_t *n_out,
                                 leank_error *err) {
  writer w = {0};
  leank_status status =
      write_chat(tokenizer, name, messages, n_messages, first, open_assistant, &w, err);
  if (status == LEANK_OK)
    status = lk_tokenize_stretches(tokenizer, w.text, w.n, w.stretches, w.n_stretches, false, out,
                                   n_out, err);
  writer_free(&w);
  return status;
}

void leank_text_free(char **text) {
  if (!text) return;
  lk_free(*text);
  *text = NULL;
}
