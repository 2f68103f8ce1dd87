#include "learn/checkpoint.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>

#include "base/hash.h"
#include "base/map.h"

enum { VERSION = 2, MAX_STEPS = 1 << 30 };
static const char MAGIC[8] = "LEANKCKP";

typedef struct header {
  char magic[8];
  uint64_t version, key, n, checksum;
} header;

static uint64_t checksum_of(const lk_learn_state *state,
                            const float *const arrays[LK_CHECKPOINT_ARRAYS], size_t n) {
  uint64_t h = lk_hash(LK_HASH_START, state, sizeof *state);
  for (int i = 0; i < LK_CHECKPOINT_ARRAYS; i++) h = lk_hash(h, arrays[i], n * sizeof(float));
  return h;
}

leank_status lk_checkpoint_write(const char *path, uint64_t key, const lk_learn_state *state,
                                 float *const arrays[LK_CHECKPOINT_ARRAYS], size_t n,
                                 leank_error *err) {
  header h = {.version = VERSION, .key = key, .n = n};
  lk_file_part parts[2 + LK_CHECKPOINT_ARRAYS] = {{&h, sizeof h}, {state, sizeof *state}};
  memcpy(h.magic, MAGIC, sizeof h.magic);
  h.checksum = checksum_of(state, (const float *const *)arrays, n);
  for (int i = 0; i < LK_CHECKPOINT_ARRAYS; i++)
    parts[2 + i] = (lk_file_part){arrays[i], n * sizeof(float)};
  return lk_file_write_parts(path, parts, 2 + LK_CHECKPOINT_ARRAYS, err);
}

static bool is_sound(const lk_learn_state *s) {
  return s->stage >= 1 && s->stage <= 3 && s->step <= MAX_STEPS && s->n_adam <= MAX_STEPS &&
         isfinite(s->lambda) && isfinite(s->kl1) && isfinite(s->kl2) && isfinite(s->seconds) &&
         isfinite(s->flops) && isfinite(s->reference_flops);
}

static leank_status check_magic(const char *path, const lk_map *map, size_t n_least,
                                leank_error *err) {
  if (map->n_bytes >= n_least && memcmp(map->data, MAGIC, sizeof MAGIC) == 0) return LEANK_OK;
  return lk_fail(err, LEANK_E_FORMAT, 0, "%s: this is no checkpoint of learning", path);
}

leank_status lk_checkpoint_check(const char *path, leank_error *err) {
  leank_status status = LEANK_OK;
  lk_map map = {0};
  struct stat st;
  if (stat(path, &st) != 0) return LEANK_OK;
  LK_TRY(lk_map_open(path, &map, err));
  LK_TRY(check_magic(path, &map, sizeof MAGIC, err));
cleanup:
  lk_map_close(&map);
  return status;
}

leank_status lk_checkpoint_read(const char *path, uint64_t key, lk_learn_state *state,
                                float *const arrays[LK_CHECKPOINT_ARRAYS], size_t n, bool *found,
                                leank_error *err) {
  leank_status status = LEANK_OK;
  const size_t n_array = n * sizeof(float);
  lk_map map = {0};
  struct stat st;
  header h;
  lk_learn_state read;
  const float *from[LK_CHECKPOINT_ARRAYS];
  *found = false;
  if (stat(path, &st) != 0) return LEANK_OK;
  LK_TRY(lk_map_open(path, &map, err));
  LK_TRY(check_magic(path, &map, sizeof h, err));
  memcpy(&h, map.data, sizeof h);
  LK_FAIL_IF(h.version != VERSION, err, LEANK_E_MISMATCH, 8,
             "%s: this checkpoint is of format version %" PRIu64
             ", and this program reads %d: go on with the program that wrote it, or begin anew",
             path, h.version, VERSION);
  LK_FAIL_IF(
      h.key != key || h.n != n, err, LEANK_E_MISMATCH, 16,
      "%s: this checkpoint is of other settings, data or another model: go on with those, or "
      "begin anew",
      path);
  LK_FAIL_IF(map.n_bytes != sizeof h + sizeof read + LK_CHECKPOINT_ARRAYS * n_array, err,
             LEANK_E_FORMAT, -1, "%s: the checkpoint has %zu bytes, not as many as it should", path,
             map.n_bytes);
  memcpy(&read, map.data + sizeof h, sizeof read);
  for (int i = 0; i < LK_CHECKPOINT_ARRAYS; i++)
    from[i] =
        (const float *)(const void *)(map.data + sizeof h + sizeof read + (size_t)i * n_array);
  LK_FAIL_IF(h.checksum != checksum_of(&read, from, n) || !is_sound(&read), err, LEANK_E_FORMAT, -1,
             "%s: the checkpoint is damaged: begin anew", path);
  for (int i = 0; i < LK_CHECKPOINT_ARRAYS; i++) memcpy(arrays[i], from[i], n_array);
  *state = read;
  *found = true;
cleanup:
  lk_map_close(&map);
  return status;
}
