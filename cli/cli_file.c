#include "cli_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
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

/* A new file beside path; *name is freed by the caller. -1 and a complaint where it cannot be. */
static int create_beside(const char *path, char **name) {
  size_t size = strlen(path) + 32;
  *name = cli_alloc(size, 1);
  snprintf(*name, size, "%s.tmp-%ld", path, (long)getpid());
  int file = open(*name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (file < 0) cli_complain("%s: cannot create: %s", path, strerror(errno));
  return file;
}

int cli_check_place(const char *path) {
  struct stat st;
  char *beside;
  if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) return cli_complain("%s: is a folder", path);
  int file = create_beside(path, &beside);
  if (file >= 0) {
    close(file);
    unlink(beside);
  }
  free(beside);
  return file >= 0 ? CLI_GO : CLI_FAILURE;
}

int cli_write_file(const char *path, const char *bytes, size_t n) {
  char *beside;
  int code = CLI_GO;
  int file = create_beside(path, &beside);
  if (file < 0) {
    free(beside);
    return CLI_FAILURE;
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

int cli_make_folder(const char *path) {
  if (mkdir(path, 0777) == 0 || errno == EEXIST) return CLI_GO;
  return cli_complain("%s: %s", path, strerror(errno));
}

int cli_write_in_folder(const char *folder, const char *name, const char *bytes, size_t n) {
  const size_t room = strlen(folder) + strlen(name) + 2;
  char *path = cli_alloc(room, 1);
  snprintf(path, room, "%s/%s", folder, name);
  int code = cli_write_file(path, bytes, n);
  free(path);
  return code;
}
