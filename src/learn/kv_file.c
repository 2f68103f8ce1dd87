#include "learn/kv_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/map.h"

enum { HEADER_BYTES = 4096, VERSION = 1 };

typedef struct header {
  char magic[8];
  uint64_t version, key, n_bytes, checksum;
} header;

static const char MAGIC[8] = "LEANK-KV";

static uint64_t hash_tokens(uint64_t h, const leank_token *tokens, size_t n) {
  const uint64_t count = n;
  return lk_hash(lk_hash(h, &count, sizeof count), tokens, n * sizeof *tokens);
}

uint64_t lk_kv_file_key(const leank_model *model, const lk_backend *backend, leank_kv_type kv_type,
                        const leank_context *context) {
  const uint64_t sizes[] = {VERSION, (uint64_t)kv_type, context->n_questions};
  const char *kernels = backend->ops->kernels(backend);
  uint64_t h = lk_hash(LK_HASH_START, sizes, sizeof sizes);
  h = lk_hash(h, model->info.fingerprint, strlen(model->info.fingerprint));
  h = lk_hash(h, kernels, strlen(kernels));
  h = hash_tokens(h, context->tokens, context->n_tokens);
  for (size_t i = 0; i < context->n_questions; i++) {
    h = hash_tokens(h, context->questions[i].prompt, context->questions[i].n_prompt);
    h = hash_tokens(h, context->questions[i].answer, context->questions[i].n_answer);
  }
  return h;
}

/* "FOLDER/<key>.kv"; freed by the caller. */
static char *file_path(const char *folder, uint64_t key) {
  const size_t size = strlen(folder) + 24;
  char *path = lk_alloc(LK_MEM_OTHER, size, 1);
  if (path) snprintf(path, size, "%s/%016" PRIx64 ".kv", folder, key);
  return path;
}

static header make_header(uint64_t key, const lk_kv_content *c) {
  header h = {.version = VERSION, .key = key, .n_bytes = c->page_bytes + c->number_bytes};
  memcpy(h.magic, MAGIC, sizeof h.magic);
  h.checksum = lk_hash(lk_hash(key, c->pages, c->page_bytes), c->numbers, c->number_bytes);
  return h;
}

unsigned char *lk_kv_file_map(const char *folder, uint64_t key, size_t page_bytes,
                              size_t number_bytes, void **mapping, size_t *mapping_bytes) {
  char *path = file_path(folder, key);
  const int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  struct stat st;
  const size_t total = HEADER_BYTES + page_bytes + number_bytes;
  void *p = MAP_FAILED;
  if (fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && (size_t)st.st_size == total)
    p = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
  if (fd >= 0) close(fd);
  lk_free(path);
  if (p == MAP_FAILED) return NULL;
  unsigned char *pages = (unsigned char *)p + HEADER_BYTES;
  const header want =
      make_header(key, &(lk_kv_content){pages, page_bytes, pages + page_bytes, number_bytes});
  if (memcmp(p, &want, sizeof want) != 0) {
    munmap(p, total);
    return NULL;
  }
  *mapping = p;
  *mapping_bytes = total;
  return pages;
}

void lk_kv_file_unmap(void *mapping, size_t mapping_bytes) { munmap(mapping, mapping_bytes); }

leank_status lk_kv_folder_check(const char *folder, leank_error *err) {
  struct stat info;
  if (!folder) return LEANK_OK;
  if (mkdir(folder, 0777) != 0 && errno != EEXIST)
    return lk_fail(err, LEANK_E_IO, -1, "%s: cannot create: %s", folder, strerror(errno));
  if (stat(folder, &info) == 0 && !S_ISDIR(info.st_mode))
    errno = ENOTDIR;
  else if (access(folder, W_OK | X_OK) == 0)
    return LEANK_OK;
  return lk_fail(err, LEANK_E_IO, -1, "%s: cannot create files there: %s", folder, strerror(errno));
}

leank_status lk_kv_file_write(const char *folder, uint64_t key, const lk_kv_content *content,
                              leank_error *err) {
  leank_status status = LEANK_OK;
  char *path = file_path(folder, key);
  unsigned char *head = lk_alloc(LK_MEM_OTHER, HEADER_BYTES, 1);
  LK_FAIL_IF(!path || !head, err, LEANK_E_MEMORY, -1, "out of memory");
  const header h = make_header(key, content);
  memcpy(head, &h, sizeof h);
  const lk_file_part parts[] = {{head, HEADER_BYTES},
                                {content->pages, content->page_bytes},
                                {content->numbers, content->number_bytes}};
  LK_TRY(lk_file_write_parts(path, parts, 3, err));
cleanup:
  lk_free(path);
  lk_free(head);
  return status;
}
