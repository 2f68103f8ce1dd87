/* The public calls that read and write masks. The one place where src/mask stands on src/formats:
 * what a mask is does not depend on how it is stored. */
#include <string.h>

#include "base/alloc.h"
#include "base/map.h"
#include "formats/mask_file.h"
#include "mask/mask.h"

/* From the file's channel order to half; element = bytes of one value. */
static leank_status to_half(const lk_mask_content *content, void *values, size_t element,
                            const char *name, leank_error *err) {
  const leank_mask_info *info = &content->info;
  const size_t head_bytes = info->head_dim * element;
  if (info->order == LEANK_ORDER_HALF || !values) return LEANK_OK;
  unsigned char *head = lk_alloc(LK_MEM_OTHER, 1, head_bytes);
  if (!head) return lk_fail(err, LEANK_E_MEMORY, -1, "%s: out of memory", name);
  for (size_t i = 0; i < info->n_layers * info->n_kv_heads; i++) {
    unsigned char *p = (unsigned char *)values + i * head_bytes;
    memcpy(head, p, head_bytes);
    for (size_t c = 0; c < info->head_dim; c++)
      memcpy(p + c * element, head + lk_channel_from_half(info->order, info->head_dim, c) * element,
             element);
  }
  lk_free(head);
  return LEANK_OK;
}

/* What the file says was well-formed but may be impossible: that is the file's fault. */
static leank_status create_from_file(lk_mask_content *content, const char *name, leank_mask **out,
                                     leank_error *err) {
  leank_status status = LEANK_OK;
  leank_error why = {.code = LEANK_OK};
  LK_FAIL_IF(content->info.head_dim % 2 != 0, err, LEANK_E_FORMAT, -1, "%s: head dim %zu is odd",
             name, content->info.head_dim);
  LK_TRY(to_half(content, content->kept, sizeof *content->kept, name, err));
  LK_TRY(to_half(content, content->alpha, sizeof *content->alpha, name, err));
  status = leank_mask_create(&content->info, content->kept, content->alpha, out, &why);
  LK_FAIL_IF(status == LEANK_E_ARGUMENT, err, LEANK_E_FORMAT, -1, "%s: %.400s", name, why.message);
  LK_FAIL_IF(status != LEANK_OK, err, status, -1, "%s: %.400s", name, why.message);
  (*out)->info.order = content->info.order; /* of the channels in the file; in memory: half */
cleanup:
  return status;
}

leank_status leank_mask_open_memory(const void *bytes, size_t n_bytes, const char *name,
                                    leank_mask **out, leank_error *err) {
  lk_mask_content content = {.kept = NULL};
  leank_mask *mask = NULL;
  if (!bytes || !name || !out)
    return lk_fail(err, LEANK_E_ARGUMENT, -1, "mask: an argument is NULL");
  leank_status status = lk_mask_file_read(bytes, n_bytes, name, &content, err);
  if (status == LEANK_OK) status = create_from_file(&content, name, &mask, err);
  if (status == LEANK_OK) *out = mask;
  lk_mask_content_free(&content);
  return status;
}

leank_status leank_mask_open(const char *path, leank_mask **out, leank_error *err) {
  lk_map map = {0};
  if (!path || !out) return lk_fail(err, LEANK_E_ARGUMENT, -1, "mask: an argument is NULL");
  leank_status status = lk_map_open(path, &map, err);
  if (status != LEANK_OK) return status;
  status = leank_mask_open_memory(map.data, map.n_bytes, path, out, err);
  lk_map_close(&map);
  return status;
}

/* The mask as a file's content; the arrays stay the mask's. */
static lk_mask_content content_of(const leank_mask *mask) {
  lk_mask_content content = {mask->info, mask->kept, mask->alpha};
  content.info.order = LEANK_ORDER_HALF;
  return content;
}

leank_status leank_mask_save(const leank_mask *mask, const char *path, leank_error *err) {
  if (!mask || !path) return lk_fail(err, LEANK_E_ARGUMENT, -1, "mask: an argument is NULL");
  const lk_mask_content content = content_of(mask);
  return lk_mask_file_save(&content, path, err);
}

leank_status leank_mask_save_pth(const leank_mask *mask, const char *path, leank_error *err) {
  if (!mask || !path) return lk_fail(err, LEANK_E_ARGUMENT, -1, "mask: an argument is NULL");
  const lk_mask_content content = content_of(mask);
  return lk_mask_file_save_pth(&content, path, err);
}
