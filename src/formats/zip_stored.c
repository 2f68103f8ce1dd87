#include "formats/zip_stored.h"

#include <stdbool.h>
#include <string.h>

#include "formats/little_endian.h"
#include "formats/printable.h"

enum {
  LOCAL_BYTES = 30,
  ENTRY_BYTES = 46,
  END_BYTES = 22,
  END64_BYTES = 56,
  LOCATOR64_BYTES = 20,
  MAX_COMMENT = 65535,
  WRITE_ALIGNMENT = 64,
  DOS_DATE = 0x21 /* 1980-01-01 */
};
static const uint32_t local_magic = 0x04034b50, entry_magic = 0x02014b50, end_magic = 0x06054b50;
static const uint32_t end64_magic = 0x06064b50, locator64_magic = 0x07064b50;
static const uint16_t flag_encrypted = 1, flag_utf8 = 0x800;

uint32_t lk_zip_crc32(const unsigned char *p, size_t n) {
  uint32_t table[256], crc = 0xffffffffu;
  for (uint32_t i = 0; i < 256; i++) {
    uint32_t c = i;
    for (int k = 0; k < 8; k++) c = c >> 1 ^ (c & 1 ? 0xedb88320u : 0);
    table[i] = c;
  }
  for (size_t i = 0; i < n; i++) crc = crc >> 8 ^ table[(crc ^ p[i]) & 0xff];
  return ~crc;
}

/* ---- reading ---- */

static bool find_end(const lk_zip *zip, size_t *at) {
  if (zip->n_bytes < END_BYTES) return false;
  const size_t last = zip->n_bytes - END_BYTES;
  const size_t first = last > MAX_COMMENT ? last - MAX_COMMENT : 0;
  for (size_t i = last + 1; i-- > first;) {
    const unsigned char *p = zip->data + i;
    if (lk_load_le32(p) != end_magic || lk_load_le16(p + 20) != last - i) continue;
    *at = i;
    return true;
  }
  return false;
}

/* A ZIP64 record holds the directory's place where the plain one is saturated. */
static leank_status read_end64(lk_zip *zip, size_t end_at, uint64_t place[3], leank_error *err) {
  leank_status status = LEANK_OK;
  LK_FAIL_IF(end_at < LOCATOR64_BYTES, err, LEANK_E_FORMAT, end_at, "%s: no ZIP64 locator",
             zip->name);
  const unsigned char *locator = zip->data + end_at - LOCATOR64_BYTES;
  const uint64_t at = lk_load_le64(locator + 8);
  LK_FAIL_IF(lk_load_le32(locator) != locator64_magic || at > zip->n_bytes ||
                 zip->n_bytes - at < END64_BYTES,
             err, LEANK_E_FORMAT, end_at - LOCATOR64_BYTES, "%s: bad ZIP64 locator", zip->name);
  const unsigned char *p = zip->data + at;
  LK_FAIL_IF(lk_load_le32(p) != end64_magic, err, LEANK_E_FORMAT, at, "%s: bad ZIP64 record",
             zip->name);
  place[0] = lk_load_le64(p + 32);
  place[1] = lk_load_le64(p + 40);
  place[2] = lk_load_le64(p + 48);
cleanup:
  return status;
}

static leank_status check_directory(const lk_zip *zip, leank_error *err) {
  lk_zip_member member;
  size_t at = 0, n = 0;
  while (n < zip->n_members && lk_zip_next(zip, &at, &member)) n++;
  if (n == zip->n_members && at == zip->directory_bytes) return LEANK_OK;
  return lk_fail(err, LEANK_E_FORMAT, (int64_t)(zip->directory_at + at),
                 "%s: bad zip directory: entry %zu of %zu", zip->name, n, zip->n_members);
}

leank_status lk_zip_open(const void *bytes, size_t n_bytes, const char *name, lk_zip *out,
                         leank_error *err) {
  leank_status status = LEANK_OK;
  lk_zip zip = {.data = bytes, .n_bytes = n_bytes, .name = name};
  size_t end_at;
  LK_FAIL_IF(!find_end(&zip, &end_at), err, LEANK_E_FORMAT, n_bytes,
             "%s: the end record of a zip is missing", name);
  const unsigned char *p = zip.data + end_at;
  LK_FAIL_IF(lk_load_le16(p + 4) != 0 || lk_load_le16(p + 6) != 0, err, LEANK_E_UNSUPPORTED, end_at,
             "%s: a zip of several disks", name);
  uint64_t place[3] = {lk_load_le16(p + 10), lk_load_le32(p + 12), lk_load_le32(p + 16)};
  if (place[0] == UINT16_MAX || place[1] == UINT32_MAX || place[2] == UINT32_MAX)
    LK_TRY(read_end64(&zip, end_at, place, err));
  LK_FAIL_IF(place[2] > end_at || place[1] > end_at - place[2] || place[0] > place[1] / ENTRY_BYTES,
             err, LEANK_E_FORMAT, end_at, "%s: the zip directory lies outside the file", name);
  zip.n_members = (size_t)place[0];
  zip.directory_bytes = (size_t)place[1];
  zip.directory_at = (size_t)place[2];
  LK_TRY(check_directory(&zip, err));
  *out = zip;
cleanup:
  return status;
}

int lk_zip_next(const lk_zip *zip, size_t *at, lk_zip_member *out) {
  const size_t left = zip->directory_bytes - *at;
  const unsigned char *p = zip->data + zip->directory_at + *at;
  if (left < ENTRY_BYTES || lk_load_le32(p) != entry_magic) return 0;
  const size_t n_name = lk_load_le16(p + 28);
  const size_t n = ENTRY_BYTES + n_name + lk_load_le16(p + 30) + lk_load_le16(p + 32);
  if (n > left) return 0;
  *out = (lk_zip_member){
      .name = (const char *)p + ENTRY_BYTES,
      .n_name_bytes = n_name,
      .flags = lk_load_le16(p + 8),
      .method = lk_load_le16(p + 10),
      .crc = lk_load_le32(p + 16),
      .n_stored = lk_load_le32(p + 20),
      .n_bytes = lk_load_le32(p + 24),
      .header_at = lk_load_le32(p + 42),
  };
  *at += n;
  return 1;
}

leank_status lk_zip_read(const lk_zip *zip, const lk_zip_member *member, const unsigned char **out,
                         leank_error *err) {
  leank_status status = LEANK_OK;
  const lk_printable_text name = lk_printable(member->name, member->n_name_bytes);
  const size_t at = member->header_at;
  LK_FAIL_IF(member->method != 0, err, LEANK_E_UNSUPPORTED, at, "%s: member '%s' is compressed",
             zip->name, name.text);
  LK_FAIL_IF(member->flags & flag_encrypted, err, LEANK_E_UNSUPPORTED, at,
             "%s: member '%s' is encrypted", zip->name, name.text);
  LK_FAIL_IF(at == UINT32_MAX || member->n_bytes == UINT32_MAX, err, LEANK_E_UNSUPPORTED, at,
             "%s: member '%s' has 4 GiB or more", zip->name, name.text);
  /* Members come before the directory; sizes come from it, for torch writes them behind the data
   * and leaves those of the local header at 0. */
  LK_FAIL_IF(at > zip->directory_at || zip->directory_at - at < LOCAL_BYTES ||
                 lk_load_le32(zip->data + at) != local_magic,
             err, LEANK_E_FORMAT, at, "%s: member '%s' has no header", zip->name, name.text);
  const unsigned char *p = zip->data + at;
  const size_t n_header = LOCAL_BYTES + lk_load_le16(p + 26) + (size_t)lk_load_le16(p + 28);
  LK_FAIL_IF(n_header > zip->directory_at - at ||
                 member->n_bytes > zip->directory_at - at - n_header ||
                 member->n_bytes != member->n_stored,
             err, LEANK_E_FORMAT, at, "%s: member '%s' of %u bytes does not fit the file",
             zip->name, name.text, member->n_bytes);
  LK_FAIL_IF(lk_load_le16(p + 26) != member->n_name_bytes ||
                 memcmp(p + LOCAL_BYTES, member->name, member->n_name_bytes) != 0,
             err, LEANK_E_FORMAT, at, "%s: member '%s' has another name in its own header",
             zip->name, name.text);
  LK_FAIL_IF(lk_zip_crc32(p + n_header, member->n_bytes) != member->crc, err, LEANK_E_FORMAT,
             at + n_header, "%s: the checksum of member '%s' is wrong", zip->name, name.text);
  *out = p + n_header;
cleanup:
  return status;
}

/* ---- writing ---- */

static void put(lk_zip_writer *w, const void *data, size_t n) {
  if (w->bytes && n > 0) memcpy(w->bytes + w->n_bytes, data, n);
  w->n_bytes += n;
}

/* The 26 bytes that local header and directory entry share, from "version needed" on. */
static void fill_shared(unsigned char *p, const lk_zip_source *source, size_t n_extra) {
  lk_store_le16(p + 2, flag_utf8);
  lk_store_le16(p + 8, DOS_DATE);
  lk_store_le32(p + 10, lk_zip_crc32(source->data, source->n_bytes));
  lk_store_le32(p + 14, (uint32_t)source->n_bytes);
  lk_store_le32(p + 18, (uint32_t)source->n_bytes);
  lk_store_le16(p + 22, (uint16_t)strlen(source->name));
  lk_store_le16(p + 24, (uint16_t)n_extra);
}

/* The extra field 'FB' of torch pads so that the data are aligned. */
static size_t padding_of(size_t at, size_t n_name) {
  const size_t n = at + LOCAL_BYTES + n_name + 4;
  return 4 + (WRITE_ALIGNMENT - n % WRITE_ALIGNMENT) % WRITE_ALIGNMENT;
}

static void put_member(lk_zip_writer *w, const lk_zip_source *source) {
  const size_t n_name = strlen(source->name), n_extra = padding_of(w->n_bytes, n_name);
  unsigned char header[LOCAL_BYTES] = {0}, extra[4 + WRITE_ALIGNMENT];
  lk_store_le32(header, local_magic);
  fill_shared(header + 4, source, n_extra);
  memset(extra, 'Z', sizeof extra);
  memcpy(extra, "FB", 2);
  lk_store_le16(extra + 2, (uint16_t)(n_extra - 4));
  put(w, header, sizeof header);
  put(w, source->name, n_name);
  put(w, extra, n_extra);
  put(w, source->data, source->n_bytes);
}

static void put_entry(lk_zip_writer *w, const lk_zip_source *source, size_t header_at) {
  unsigned char entry[ENTRY_BYTES] = {0};
  lk_store_le32(entry, entry_magic);
  fill_shared(entry + 6, source, 0);
  lk_store_le32(entry + 42, (uint32_t)header_at);
  put(w, entry, sizeof entry);
  put(w, source->name, strlen(source->name));
}

void lk_zip_write(lk_zip_writer *writer, const lk_zip_source *sources, size_t n_sources) {
  for (size_t i = 0; i < n_sources; i++) put_member(writer, &sources[i]);
  const size_t directory_at = writer->n_bytes;
  size_t header_at = 0;
  for (size_t i = 0; i < n_sources; i++) {
    const size_t n_name = strlen(sources[i].name);
    put_entry(writer, &sources[i], header_at);
    header_at += LOCAL_BYTES + n_name + padding_of(header_at, n_name) + sources[i].n_bytes;
  }
  unsigned char end[END_BYTES] = {0};
  lk_store_le32(end, end_magic);
  lk_store_le16(end + 8, (uint16_t)n_sources);
  lk_store_le16(end + 10, (uint16_t)n_sources);
  lk_store_le32(end + 12, (uint32_t)(writer->n_bytes - directory_at));
  lk_store_le32(end + 16, (uint32_t)directory_at);
  put(writer, end, sizeof end);
}
