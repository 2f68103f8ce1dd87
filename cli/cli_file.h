/* Files that the program writes itself. */
#ifndef LEANK_CLI_FILE_H
#define LEANK_CLI_FILE_H

#include <stddef.h>

#include "cli.h"

/* Writes a temporary file beside path, then renames it: path is whole or what it was before. Links
 * are followed and stay; a device or a pipe is written to as it is. "-" is stdout; options whose
 * files cannot be that are of kind CLI_PLACE. Complains and returns CLI_FAILURE (CLI_USAGE of
 * an empty name), else CLI_GO. */
int cli_write_file(const char *path, const char *bytes, size_t n);

/* Checks, before work whose result goes to path, that it will be possible to write it there.
 * Complains and returns CLI_FAILURE, else CLI_GO. */
int cli_check_place(const char *path);

/* Checks that what is read back or removed later is a regular file or not there (folders are left
 * to what opens them). Complains and returns CLI_FAILURE, else CLI_GO. */
int cli_check_regular(const char *path);

/* Makes a folder where it is not there; its parent must be. For files to be written in it, before
 * the work whose result they are. Complains and returns CLI_FAILURE, else CLI_GO. */
int cli_make_folder(const char *path);
/* cli_write_file of a file in a folder. */
int cli_write_in_folder(const char *folder, const char *name, const char *bytes, size_t n);

#endif
