#include "base/map.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"

static const unsigned char empty_file[1];

static leank_status open_regular(const char *path, int *fd, size_t *n_bytes, leank_error *err) {
  leank_status status = LEANK_OK;
  struct stat st;
  /* O_NONBLOCK: a named pipe is refused below instead of waited for. */
  *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  LK_FAIL_IF(*fd < 0, err, LEANK_E_IO, -1, "%s: %s", path, strerror(errno));
  LK_FAIL_IF(fstat(*fd, &st) != 0, err, LEANK_E_IO, -1, "%s: %s", path, strerror(errno));
  LK_FAIL_IF(S_ISDIR(st.st_mode), err, LEANK_E_IO, -1, "%s: is a folder", path);
  LK_FAIL_IF(!S_ISREG(st.st_mode), err, LEANK_E_IO, -1, "%s: is not a regular file", path);
  *n_bytes = (size_t)st.st_size;
cleanup:
  if (status != LEANK_OK && *fd >= 0) close(*fd);
  return status;
}

leank_status lk_map_open(const char *path, lk_map *out, leank_error *err) {
  int fd = -1;
  size_t n_bytes = 0;
  leank_status status = open_regular(path, &fd, &n_bytes, err);
  if (status != LEANK_OK) return status;
  if (n_bytes == 0) {
    *out = (lk_map){empty_file, 0};
  } else {
    void *p = mmap(NULL, n_bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED)
      status = lk_fail(err, LEANK_E_IO, -1, "%s: cannot map: %s", path, strerror(errno));
    else
      *out = (lk_map){p, n_bytes};
  }
  close(fd);
  return status;
}

void lk_map_close(lk_map *map) {
  if (map->n_bytes > 0) munmap((void *)map->data, map->n_bytes);
  *map = (lk_map){0};
}

leank_status lk_file_read(const char *path, size_t max_bytes, char **out, size_t *n_out,
                          leank_error *err) {
  lk_map map = {0};
  leank_status status = LEANK_OK;
  LK_TRY(lk_map_open(path, &map, err));
  LK_FAIL_IF(map.n_bytes > max_bytes, err, LEANK_E_FORMAT, -1,
             "%s: %zu bytes, more than the %zu allowed here", path, map.n_bytes, max_bytes);
  char *text = lk_strndup((const char *)map.data, map.n_bytes);
  LK_FAIL_IF(!text, err, LEANK_E_MEMORY, -1, "%s: out of memory", path);
  *out = text;
  *n_out = map.n_bytes;
cleanup:
  lk_map_close(&map);
  return status;
}

static bool write_all(int fd, const char *data, size_t n_bytes) {
  while (n_bytes > 0) {
    ssize_t n = write(fd, data, n_bytes);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    data += n;
    n_bytes -= (size_t)n;
  }
  return true;
}

enum { MAX_TMP_TRIES = 100 };

/* A new file beside `path`; its name goes to tmp. The mode is left to the process's umask. */
static int create_beside(const char *path, char *tmp, size_t size) {
  static atomic_uint counter;
  for (int i = 0; i < MAX_TMP_TRIES; i++) {
    snprintf(tmp, size, "%s.tmp-%ld-%u", path, (long)getpid(), atomic_fetch_add(&counter, 1));
    const int fd = open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd >= 0 || errno != EEXIST) return fd;
  }
  return -1;
}

leank_status lk_file_write_atomic(const char *path, const void *data, size_t n_bytes,
                                  leank_error *err) {
  const lk_file_part part = {data, n_bytes};
  return lk_file_write_parts(path, &part, 1, err);
}

/* Writes through `path` itself: what is a device or a pipe is written to, never replaced. */
static int open_there(const char *path) {
  return open(path, O_WRONLY | O_TRUNC | O_CLOEXEC | O_NOCTTY);
}

/* The parts into an open file, which is closed. False where that fails; errno says why. */
static bool write_out(int fd, const lk_file_part *parts, size_t n_parts, bool sync) {
  bool written = true;
  for (size_t i = 0; i < n_parts && written; i++)
    written = write_all(fd, parts[i].data, parts[i].n_bytes);
  if (written && sync) written = fsync(fd) == 0;
  const int why = errno;
  const bool closed = close(fd) == 0;
  if (!written) errno = why;
  return written && closed;
}

leank_status lk_file_write_parts(const char *path, const lk_file_part *parts, size_t n_parts,
                                 leank_error *err) {
  leank_status status = LEANK_OK;
  struct stat st;
  char real[PATH_MAX], *tmp = NULL;
  const bool exists = stat(path, &st) == 0;
  LK_FAIL_IF(exists && S_ISDIR(st.st_mode), err, LEANK_E_IO, -1, "%s: is a folder", path);
  /* Links stay: the file behind them is replaced. */
  const bool there = exists && !(S_ISREG(st.st_mode) && realpath(path, real));
  const char *target = exists && !there ? real : path;
  const size_t size = strlen(target) + 48;
  tmp = lk_alloc(LK_MEM_OTHER, size, 1);
  LK_FAIL_IF(!tmp, err, LEANK_E_MEMORY, -1, "%s: out of memory", path);
  const int fd = there ? open_there(path) : create_beside(target, tmp, size);
  LK_FAIL_IF(fd < 0, err, LEANK_E_IO, -1, "%s: cannot %s: %s", path, there ? "write" : "create",
             strerror(errno));
  if (!write_out(fd, parts, n_parts, !there))
    status = lk_fail(err, LEANK_E_IO, -1, "%s: cannot write: %s", path, strerror(errno));
  else if (!there && rename(tmp, target) != 0)
    status = lk_fail(err, LEANK_E_IO, -1, "%s: cannot rename: %s", path, strerror(errno));
  if (!there && status != LEANK_OK) unlink(tmp);
cleanup:
  lk_free(tmp);
  return status;
}
