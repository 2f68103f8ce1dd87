/* Zip archives of stored members (PKWARE APPNOTE 6.3, sections 4.3 and 4.4). Untrusted input. */
#ifndef LK_FORMATS_ZIP_STORED_H
#define LK_FORMATS_ZIP_STORED_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* The central directory of an archive in the caller's memory. */
typedef struct lk_zip {
  const unsigned char *data;
  size_t n_bytes;
  size_t directory_at, directory_bytes, n_members;
  const char *name; /* of the file, for messages; the caller's */
} lk_zip;

typedef struct lk_zip_member {
  const char *name; /* in the archive, not NUL-terminated */
  size_t n_name_bytes;
  uint32_t crc, n_bytes, n_stored; /* n_stored: bytes in the archive */
  uint32_t header_at;
  uint16_t method, flags;
} lk_zip_member;

/* Finds the central directory (also where a ZIP64 record stands before the plain one) and checks
 * every entry of it. LEANK_E_FORMAT, _UNSUPPORTED (several disks, 4 GiB and more). */
leank_status lk_zip_open(const void *bytes, size_t n_bytes, const char *name, lk_zip *out,
                         leank_error *err);

/* Steps through the directory: *at starts at 0; false at the end. */
int lk_zip_next(const lk_zip *zip, size_t *at, lk_zip_member *out);

/* The bytes of a member, in the archive's memory. LEANK_E_FORMAT (header, bounds, checksum),
 * _UNSUPPORTED (compressed, encrypted). */
leank_status lk_zip_read(const lk_zip *zip, const lk_zip_member *member, const unsigned char **out,
                         leank_error *err);

/* CRC-32 as zip uses it (ISO 3309, reflected, polynomial 0xedb88320). */
uint32_t lk_zip_crc32(const unsigned char *p, size_t n);

/* Appends stored members to memory the caller has sized: n_bytes counts up even where `bytes` is
 * NULL, so a first pass measures. Data are aligned to 64, as torch does. */
typedef struct lk_zip_writer {
  unsigned char *bytes;
  size_t n_bytes;
} lk_zip_writer;

typedef struct lk_zip_source {
  const char *name;
  const void *data;
  size_t n_bytes;
} lk_zip_source;

/* The whole archive; below 4 GiB in all, fewer than 65,535 members. */
void lk_zip_write(lk_zip_writer *writer, const lk_zip_source *sources, size_t n_sources);

#endif
