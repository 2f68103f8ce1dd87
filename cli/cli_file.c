#include "cli_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli_console.h"

static bool write_bytes(int file, const char *bytes, size_t n) {
  while (n > 0) {
    ssize_t written = write(file, bytes, n);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    bytes += written;
    n -= (size_t)written;
  }
  return fsync(file) == 0;
}

int cli_write_file(const char *path, const char *bytes, size_t n) {
  size_t size = strlen(path) + 32;
  char *beside = cli_alloc(size, 1);
  int code = CLI_GO;
  snprintf(beside, size, "%s.tmp-%ld", path, (long)getpid());
  int file = open(beside, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (file < 0) {
    code = cli_complain("%s: cannot create: %s", path, strerror(errno));
    free(beside);
    return code;
  }
  if (!write_bytes(file, bytes, n))
    code = cli_complain("%s: cannot write: %s", path, strerror(errno));
  if (close(file) != 0 && code == CLI_GO)
    code = cli_complain("%s: cannot write: %s", path, strerror(errno));
  if (code == CLI_GO && rename(beside, path) != 0)
    code = cli_complain("%s: cannot rename: %s", path, strerror(errno));
  if (code != CLI_GO) unlink(beside);
  free(beside);
  return code;
}
