#include "cli_file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli_console.h"

/* Where bytes for a path go. */
typedef struct place {
  const char *path;    /* as given */
  bool there;          /* a device or a pipe: written to as it is, never replaced */
  char real[PATH_MAX]; /* else the file to be replaced, behind all links, which stay */
  char beside[PATH_MAX + 32];
} place;

static int find_place(const char *path, place *out) {
  struct stat st;
  if (path[0] == '\0') return cli_usage_error("a file to write has an empty name");
  const bool exists = stat(path, &st) == 0;
  *out = (place){.path = path};
  if (exists && S_ISDIR(st.st_mode)) return cli_complain("%s: is a folder", path);
  out->there = exists && !(S_ISREG(st.st_mode) && realpath(path, out->real));
  if (exists) return CLI_GO;
  if (strlen(path) >= sizeof out->real)
    return cli_complain("%s: cannot create: %s", path, strerror(ENAMETOOLONG));
  strcpy(out->real, path);
  return CLI_GO;
}

/* Opens the device or pipe, or a new file beside. -1 and a complaint where it cannot be. */
static int open_place(place *p) {
  snprintf(p->beside, sizeof p->beside, "%s.tmp-%ld", p->real, (long)getpid());
  const int file = p->there ? open(p->path, O_WRONLY | O_TRUNC | O_CLOEXEC | O_NOCTTY)
                            : open(p->beside, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (file < 0)
    cli_complain("%s: cannot %s: %s", p->path, p->there ? "write" : "create", strerror(errno));
  return file;
}

static bool write_bytes(int file, const char *bytes, size_t n) {
  while (n > 0) {
    ssize_t written = write(file, bytes, n);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    bytes += written;
    n -= (size_t)written;
  }
  return true;
}

int cli_check_place(const char *path) {
  place p;
  int code = find_place(path, &p);
  if (code != CLI_GO) return code;
  if (p.there)
    return access(path, W_OK) == 0 ? CLI_GO : cli_complain("%s: %s", path, strerror(errno));
  const int file = open_place(&p);
  if (file < 0) return CLI_FAILURE;
  close(file);
  unlink(p.beside);
  return CLI_GO;
}

int cli_check_regular(const char *path) {
  struct stat st;
  if (stat(path, &st) != 0 || S_ISREG(st.st_mode) || S_ISDIR(st.st_mode)) return CLI_GO;
  return cli_complain("%s: is not a regular file", path);
}

int cli_write_file(const char *path, const char *bytes, size_t n) {
  place p;
  if (strcmp(path, "-") == 0) {
    fwrite(bytes, 1, n, stdout); /* cli_finish_output says where that failed */
    return CLI_GO;
  }
  int code = find_place(path, &p);
  if (code != CLI_GO) return code;
  const int file = open_place(&p);
  if (file < 0) return CLI_FAILURE;
  if (!write_bytes(file, bytes, n) || (!p.there && fsync(file) != 0))
    code = cli_complain("%s: cannot write: %s", path, strerror(errno));
  if (close(file) != 0 && code == CLI_GO)
    code = cli_complain("%s: cannot write: %s", path, strerror(errno));
  if (!p.there && code == CLI_GO && rename(p.beside, p.real) != 0)
    code = cli_complain("%s: cannot rename: %s", path, strerror(errno));
  if (!p.there && code != CLI_GO) unlink(p.beside);
  return code;
}

int cli_make_folder(const char *path) {
  struct stat st;
  if (mkdir(path, 0777) != 0 && errno != EEXIST)
    return cli_complain("%s: %s", path, strerror(errno));
  if (stat(path, &st) == 0 && !S_ISDIR(st.st_mode))
    return cli_complain("%s: is not a folder", path);
  return access(path, W_OK) == 0 ? CLI_GO : cli_complain("%s: %s", path, strerror(errno));
}

int cli_write_in_folder(const char *folder, const char *name, const char *bytes, size_t n) {
  const size_t room = strlen(folder) + strlen(name) + 2;
  char *path = cli_alloc(room, 1);
  snprintf(path, room, "%s/%s", folder, name);
  int code = cli_write_file(path, bytes, n);
  free(path);
  return code;
}
