/* Mask files: opening, saving, and what is refused. Goldens: scripts/goldens/formats.py. */
#include <dirent.h>
#include <locale.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#include <leank/mask.h>

#include "base/alloc.h"
#include "base/map.h"
#include "formats/safetensors.h"
#include "support/hostile.h"
#include "support/small_mask.h"

static const char file_path[] = LEANK_TEST_TMP "/test_mask_file.mask";

/* ---- files ---- */

static leank_mask *open_golden(const char *name) {
  char path[4096];
  leank_mask *mask = NULL;
  leank_error err = {.code = LEANK_OK};
  snprintf(path, sizeof path, "%s/formats/%s", LEANK_TEST_DATA, name);
  if (leank_mask_open(path, &mask, &err) != LEANK_OK) fail_msg("%s", err.message);
  return mask;
}

static void check_pattern(const leank_mask *mask) {
  const leank_mask_info *info = leank_mask_get_info(mask);
  uint8_t kept[N];
  lk_small_fill(kept);
  assert_true(info->n_layers == L && info->n_kv_heads == H && info->head_dim == D);
  assert_memory_equal(leank_mask_get_kept(mask), kept, N);
}

static void check_full_info(const leank_mask_info *info) {
  assert_string_equal(info->architecture, "llama");
  assert_true(info->rope_theta == 500000 && info->rope_scaling == LEANK_ROPE_LLAMA3 &&
              info->rope_factor == 8);
  assert_true(info->n_sink == 64 && info->n_recent == 512);
  assert_true(info->policy == LEANK_POLICY_MEAN && info->mean_compensation);
  assert_true(info->ratio_asked == 0.6 && info->align == 1);
  assert_string_equal(info->method, "learned");
  assert_string_equal(info->data, "some text");
  assert_true(info->steps == 300 && info->seed == UINT64_MAX);
  assert_string_equal(info->fingerprint, "0123456789abcdef");
}

static void test_open(void **state) {
  (void)state;
  leank_mask *mask = open_golden("half.safetensors");
  check_pattern(mask);
  check_full_info(leank_mask_get_info(mask));
  assert_int_equal(leank_mask_get_info(mask)->order, LEANK_ORDER_HALF);
  assert_null(leank_mask_get_alpha(mask));
  leank_mask_close(&mask);
  mask = open_golden("least.safetensors");
  check_pattern(mask);
  assert_string_equal(leank_mask_get_info(mask)->architecture, "");
  assert_true(leank_mask_get_info(mask)->rope_theta == 0 && leank_mask_get_info(mask)->align == 1);
  leank_mask_close(&mask);
}

/* A file in the pairs order is converted, mask and alpha alike. */
static void test_open_pairs(void **state) {
  (void)state;
  leank_mask *mask = open_golden("pairs.safetensors");
  check_pattern(mask);
  check_full_info(leank_mask_get_info(mask));
  assert_int_equal(leank_mask_get_info(mask)->order, LEANK_ORDER_PAIRS);
  for (size_t i = 0; i < N; i++) assert_true(leank_mask_get_alpha(mask)[i] == (float)i / 64);
  /* Saved again it is in half order, and says so. */
  leank_mask *again = NULL;
  assert_int_equal(leank_mask_save(mask, file_path, NULL), LEANK_OK);
  assert_int_equal(leank_mask_open(file_path, &again, NULL), LEANK_OK);
  assert_int_equal(leank_mask_get_info(again)->order, LEANK_ORDER_HALF);
  check_pattern(again);
  assert_memory_equal(leank_mask_get_alpha(again), leank_mask_get_alpha(mask), N * sizeof(float));
  leank_mask_close(&mask);
  leank_mask_close(&again);
  remove(file_path);
}

static void test_open_pth(void **state) {
  (void)state;
  static const char *const names[] = {"tensor.pth", "nested.pth", "bool.pth"};
  for (size_t i = 0; i < 3; i++) {
    leank_mask *mask = open_golden(names[i]);
    const leank_mask_info *info = leank_mask_get_info(mask);
    check_pattern(mask);
    assert_string_equal(info->method, "import");
    assert_true(info->order == LEANK_ORDER_HALF && info->rope_theta == 0 && info->n_sink == 128);
    leank_mask_close(&mask);
  }
  leank_mask *mask = NULL;
  leank_error err;
  assert_int_equal(leank_mask_open(LEANK_TEST_DATA "/formats/fraction.pth", &mask, &err),
                   LEANK_E_FORMAT);
  assert_non_null(strstr(err.message, "is not 0 or 1"));
  assert_int_equal(leank_mask_open(LEANK_TEST_DATA "/formats/absent", &mask, &err), LEANK_E_IO);
  assert_int_equal(leank_mask_open(LEANK_TEST_DATA "/formats/reference.gguf", &mask, &err),
                   LEANK_E_FORMAT);
  assert_int_equal(leank_mask_open(LEANK_TEST_DATA "/formats/reference.safetensors", &mask, &err),
                   LEANK_E_FORMAT);
  assert_non_null(strstr(err.message, "not a mask"));
  assert_null(mask);
}

static leank_status open_close(const void *bytes, size_t n_bytes, leank_error *err) {
  leank_mask *mask = NULL;
  leank_status status = leank_mask_open_memory(bytes, n_bytes, "test.mask", &mask, err);
  assert_true((mask != NULL) == (status == LEANK_OK));
  leank_mask_close(&mask);
  return status;
}

static void test_hostile(void **state) {
  (void)state;
  static const char *const names[] = {"pairs.safetensors", "tensor.pth"};
  for (size_t i = 0; i < 2; i++) {
    char path[4096];
    lk_map map;
    snprintf(path, sizeof path, "%s/formats/%s", LEANK_TEST_DATA, names[i]);
    assert_int_equal(lk_map_open(path, &map, NULL), LEANK_OK);
    hostile_truncations(open_close, map.data, map.n_bytes);
    hostile_flips(open_close, map.data, map.n_bytes);
    hostile_allocations(open_close, map.data, map.n_bytes);
    lk_map_close(&map);
  }
}

static void check_same_info(const leank_mask_info *a, const leank_mask_info *b) {
  assert_true(a->n_layers == b->n_layers && a->n_kv_heads == b->n_kv_heads &&
              a->head_dim == b->head_dim && a->order == b->order);
  assert_string_equal(a->architecture, b->architecture);
  assert_true(a->rope_theta == b->rope_theta && a->rope_scaling == b->rope_scaling &&
              a->rope_factor == b->rope_factor);
  assert_true(a->n_sink == b->n_sink && a->n_recent == b->n_recent);
  assert_true(a->policy == b->policy && a->mean_compensation == b->mean_compensation);
  assert_true(a->ratio_asked == b->ratio_asked && a->ratio_reached == b->ratio_reached &&
              a->align == b->align);
  assert_string_equal(a->method, b->method);
  assert_string_equal(a->data, b->data);
  assert_true(a->steps == b->steps && a->seed == b->seed);
  assert_string_equal(a->fingerprint, b->fingerprint);
}

/* Under its name, which is that of the public call. */
static void test_rope_scalings(void **state) {
  (void)state;
  static const char *const names[] = {"plain", "linear", "llama3", "yarn"};
  uint8_t kept[N];
  lk_small_fill(kept);
  for (int i = 0; i < 4; i++) {
    leank_mask_info info = lk_small_info();
    leank_mask *mask = NULL, *again = NULL;
    lk_safetensors *st = NULL;
    leank_error err = {.code = LEANK_OK};
    info.rope_scaling = (leank_rope_scaling)i;
    assert_string_equal(leank_rope_scaling_name(info.rope_scaling), names[i]);
    assert_int_equal(leank_mask_create(&info, kept, NULL, &mask, &err), LEANK_OK);
    assert_int_equal(leank_mask_save(mask, file_path, &err), LEANK_OK);
    assert_int_equal(lk_safetensors_open(file_path, &st, &err), LEANK_OK);
    assert_string_equal(lk_safetensors_metadata(st, "rope_scaling"), names[i]);
    assert_int_equal(leank_mask_open(file_path, &again, &err), LEANK_OK);
    assert_int_equal(leank_mask_get_info(again)->rope_scaling, i);
    lk_safetensors_close(&st);
    leank_mask_close(&again);
    leank_mask_close(&mask);
  }
  assert_string_equal(leank_rope_scaling_name((leank_rope_scaling)4), "unknown");
  remove(file_path);
}

/* Every field survives, doubles to the last bit, in whatever locale. */
static void round_trip(void) {
  leank_mask_info info = lk_small_info();
  uint8_t kept[N];
  float alpha[N];
  leank_mask *mask = NULL, *again = NULL;
  leank_error err = {.code = LEANK_OK};
  lk_small_fill(kept);
  for (size_t i = 0; i < N; i++) alpha[i] = (float)i / 47;
  strcpy(info.architecture, "qwen2");
  info.rope_theta = 1e6 / 3;
  info.rope_scaling = LEANK_ROPE_YARN;
  info.rope_factor = 0x1.23456789abcdep-3;
  info.n_sink = 0;
  info.n_recent = 1;
  info.policy = LEANK_POLICY_MEAN;
  info.mean_compensation = true;
  info.ratio_asked = 1e-300;
  strcpy(info.method, "x\"\\\n\xc3\xa9");
  strcpy(info.data, "a b");
  info.steps = 10000000000000000000u;
  info.seed = 7;
  strcpy(info.fingerprint, "fedcba9876543210");
  assert_int_equal(leank_mask_create(&info, kept, alpha, &mask, &err), LEANK_OK);
  assert_int_equal(leank_mask_save(mask, file_path, &err), LEANK_OK);
  if (leank_mask_open(file_path, &again, &err) != LEANK_OK) fail_msg("%s", err.message);
  check_same_info(leank_mask_get_info(again), leank_mask_get_info(mask));
  assert_memory_equal(leank_mask_get_kept(again), kept, N);
  assert_memory_equal(leank_mask_get_alpha(again), alpha, sizeof alpha);
  leank_mask_close(&again);
  assert_int_equal(leank_mask_save_pth(mask, file_path, &err), LEANK_OK);
  if (leank_mask_open(file_path, &again, &err) != LEANK_OK) fail_msg("%s", err.message);
  check_pattern(again);
  leank_mask_close(&again);
  leank_mask_close(&mask);
  remove(file_path);
}

static void test_round_trip(void **state) {
  (void)state;
  round_trip();
  /* A locale with a decimal comma, where the system has one. */
  static const char *const locales[] = {"de_DE.UTF-8", "fr_FR.UTF-8", "de_DE", "fr_FR"};
  for (size_t i = 0; i < 4; i++)
    if (setlocale(LC_ALL, locales[i])) round_trip();
  setlocale(LC_ALL, "C");
}

/* ---- files that say something impossible ---- */

static const char *const good_metadata[][2] = {
    {"format", "leank-mask"}, {"format_version", "1"}, {"n_layers", "2"},
    {"n_kv_heads", "3"},      {"head_dim", "8"},       {"channel_order", "half"},
    {"n_sink", "128"},        {"n_recent", "768"},     {"policy", "drop"},
};
enum { N_GOOD = sizeof good_metadata / sizeof *good_metadata };

/* Writes a good file with one metadata changed, added or (value NULL) left out. */
static void write_file(const char *key, const char *value, const lk_st_tensor *tensors, size_t n) {
  const char *metadata[N_GOOD + 1][2];
  size_t k = 0;
  for (size_t i = 0; i < N_GOOD; i++) {
    if (key && strcmp(key, good_metadata[i][0]) == 0) continue;
    metadata[k][0] = good_metadata[i][0];
    metadata[k++][1] = good_metadata[i][1];
  }
  if (key && value) {
    metadata[k][0] = key;
    metadata[k++][1] = value;
  }
  assert_int_equal(
      lk_safetensors_save(file_path, tensors, n, (const char *const(*)[2])metadata, k, NULL),
      LEANK_OK);
}

static void expect_file(leank_status status, const char *part) {
  leank_mask *mask = NULL;
  leank_error err = {.code = LEANK_OK};
  leank_status got = leank_mask_open(file_path, &mask, &err);
  if (got != status || !strstr(err.message, part))
    fail_msg("status %d, message '%s'; expected %d and '%s'", (int)got, err.message, (int)status,
             part);
  if (status != LEANK_OK) assert_non_null(strstr(err.message, file_path));
  leank_mask_close(&mask);
  remove(file_path);
}

static lk_st_tensor tensor_of(const char *name, lk_st_type type, const void *data, size_t size) {
  return (lk_st_tensor){.name = name,
                        .type = type,
                        .n_dims = 3,
                        .shape = {L, H, D},
                        .data = data,
                        .n_bytes = N * size};
}

static void expect_metadata(const char *key, const char *value, leank_status status,
                            const char *part) {
  const uint8_t kept[N] = {0};
  const lk_st_tensor mask = tensor_of("mask", LK_ST_U8, kept, 1);
  write_file(key, value, &mask, 1);
  expect_file(status, part);
}

static void test_metadata(void **state) {
  (void)state;
  expect_metadata(NULL, NULL, LEANK_OK, "");
  expect_metadata("some key", "of tomorrow", LEANK_OK, "");
  for (size_t i = 1; i < N_GOOD; i++)
    expect_metadata(good_metadata[i][0], NULL, LEANK_E_FORMAT, "is missing");
  expect_metadata("format", NULL, LEANK_E_FORMAT, "not a mask");
  expect_metadata("format", "pt", LEANK_E_FORMAT, "not a mask");
  expect_metadata("format_version", "2", LEANK_E_UNSUPPORTED, "version '2'");
  expect_metadata("channel_order", "both", LEANK_E_FORMAT, "'channel_order' is 'both'");
  expect_metadata("policy", "", LEANK_E_FORMAT, "'policy' is ''");
  expect_metadata("mean_compensation", "yes", LEANK_E_FORMAT, "'mean_compensation' is 'yes'");
  expect_metadata("rope_scaling", "dynamic", LEANK_E_FORMAT, "'rope_scaling' is 'dynamic'");
  expect_metadata("n_layers", "3", LEANK_E_FORMAT, "is not U8 [3,3,8]");
  expect_metadata("head_dim", "24", LEANK_E_FORMAT, "is not U8 [2,3,24]");
  expect_metadata("n_sink", "100", LEANK_E_FORMAT, "n_sink 100");
  expect_metadata("align", "0", LEANK_E_FORMAT, "align");
  expect_metadata("ratio_asked", "1.1", LEANK_E_FORMAT, "ratio 1.1");
  expect_metadata("ratio_reached", "0.9", LEANK_E_FORMAT, "0.900000 is removed, but it is 1.0");
  expect_metadata("ratio_reached", "1", LEANK_OK, "");
  expect_metadata("fingerprint", "xyz", LEANK_E_FORMAT, "fingerprint");
  expect_metadata("architecture", "a name of more than thirty-one bytes", LEANK_E_FORMAT,
                  "'architecture'");
  static const char *const bad_counts[] = {"",
                                           " 1",
                                           "1 ",
                                           "+1",
                                           "-1",
                                           "01",
                                           "0x1",
                                           "1.0",
                                           "1e2",
                                           "18446744073709551616",
                                           "99999999999999999999999",
                                           "one"};
  for (size_t i = 0; i < sizeof bad_counts / sizeof *bad_counts; i++) {
    expect_metadata("n_recent", bad_counts[i], LEANK_E_FORMAT, "'n_recent'");
    expect_metadata("steps", bad_counts[i], LEANK_E_FORMAT, "'steps'");
  }
  static const char *const bad_reals[] = {"",
                                          " 1",
                                          "1 ",
                                          "+1",
                                          ".5",
                                          "1.",
                                          "nan",
                                          "inf",
                                          "1e999",
                                          "1,5",
                                          "[1]",
                                          "true",
                                          "\"1\"",
                                          "0x1",
                                          "1\n",
                                          "1x",
                                          "00000000000000000000000000000000000000001"};
  for (size_t i = 0; i < sizeof bad_reals / sizeof *bad_reals; i++)
    expect_metadata("rope_theta", bad_reals[i], LEANK_E_FORMAT, "'rope_theta'");
  expect_metadata("rope_theta", "-1", LEANK_E_FORMAT, "theta -1");
  expect_metadata("rope_theta", "1e6", LEANK_OK, "");
}

static void expect_tensors(const lk_st_tensor *tensors, size_t n, leank_status status,
                           const char *part) {
  write_file(NULL, NULL, tensors, n);
  expect_file(status, part);
}

static void test_file_tensors(void **state) {
  (void)state;
  uint8_t kept[N] = {0};
  float alpha[N] = {0};
  lk_st_tensor t[2] = {tensor_of("mask", LK_ST_U8, kept, 1), tensor_of("k_map", LK_ST_U8, kept, 1)};
  expect_tensors(t, 2, LEANK_E_UNSUPPORTED, "linear maps");
  t[1].name = "q_map";
  expect_tensors(t, 2, LEANK_E_UNSUPPORTED, "linear maps");
  t[1].name = "other";
  expect_tensors(t, 2, LEANK_E_UNSUPPORTED, "'other'");
  t[1] = tensor_of("alpha", LK_ST_F32, alpha, 4);
  expect_tensors(t, 2, LEANK_OK, "");
  expect_tensors(t + 1, 1, LEANK_E_FORMAT, "'mask' is missing");
  const float bad[] = {-0.5f, 1.5f, NAN};
  for (size_t i = 0; i < 3; i++) {
    alpha[3] = bad[i];
    expect_tensors(t, 2, LEANK_E_FORMAT, "element 3 of alpha");
  }
  alpha[3] = 0;
  t[1].shape[0] = H;
  t[1].shape[1] = L;
  expect_tensors(t, 2, LEANK_E_FORMAT, "'alpha' is not F32 [2,3,8]");
  t[0].n_dims = 1;
  t[0].shape[0] = N;
  expect_tensors(t, 1, LEANK_E_FORMAT, "'mask' is not U8 [2,3,8]");
  /* Empty tensors may claim any size; one must not loop over it. */
  t[0].n_dims = 3;
  t[0].shape[0] = (size_t)1 << 60;
  t[0].shape[1] = 1;
  t[0].shape[2] = 0;
  t[0].n_bytes = 0;
  const char *const empty[][2] = {
      {"format", "leank-mask"}, {"format_version", "1"}, {"n_layers", "1152921504606846976"},
      {"n_kv_heads", "1"},      {"head_dim", "0"},       {"channel_order", "pairs"},
      {"n_sink", "128"},        {"n_recent", "768"},     {"policy", "drop"},
  };
  assert_int_equal(lk_safetensors_save(file_path, t, 1, empty, N_GOOD, NULL), LEANK_OK);
  expect_file(LEANK_E_FORMAT, "'head_dim' is '0'");
  t[0] = tensor_of("mask", LK_ST_BOOL, kept, 1);
  expect_tensors(t, 1, LEANK_E_FORMAT, "'mask' is not U8");
  t[0].type = LK_ST_U8;
  kept[5] = 2;
  expect_tensors(t, 1, LEANK_E_FORMAT, "element 5 of the mask is 2");
}

/* ---- saving that fails ---- */

static char folder[] = LEANK_TEST_TMP "/test_mask_XXXXXX";

static size_t files_in_folder(void) {
  size_t n = 0;
  DIR *dir = opendir(folder);
  assert_non_null(dir);
  for (struct dirent *entry; (entry = readdir(dir));) n += entry->d_name[0] != '.';
  closedir(dir);
  return n;
}

/* Saving over an old file fails while `limit` stands; the old file is whole and alone. */
static void expect_old_file(leank_status (*save)(const leank_mask *, const char *, leank_error *)) {
  char path[sizeof folder + 16];
  snprintf(path, sizeof path, "%s/old", folder);
  leank_mask *mask = lk_small_mask(), *again = NULL;
  leank_error err;
  assert_int_equal(leank_mask_save(mask, path, &err), LEANK_OK);
  struct rlimit old_limit, limit;
  assert_int_equal(getrlimit(RLIMIT_FSIZE, &old_limit), 0);
  limit = old_limit;
  limit.rlim_cur = 100; /* as a disk that is full after 100 bytes */
  void (*old_handler)(int) = signal(SIGXFSZ, SIG_IGN);
  assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
  leank_status status = save(mask, path, &err);
  assert_int_equal(setrlimit(RLIMIT_FSIZE, &old_limit), 0);
  signal(SIGXFSZ, old_handler);
  assert_int_equal(status, LEANK_E_IO);
  assert_non_null(strstr(err.message, path));
  assert_int_equal(files_in_folder(), 1);
  assert_int_equal(leank_mask_open(path, &again, &err), LEANK_OK);
  check_pattern(again);
  leank_mask_close(&again);
  leank_mask_close(&mask);
  remove(path);
}

static void test_failed_saves(void **state) {
  (void)state;
  assert_non_null(mkdtemp(folder));
  expect_old_file(leank_mask_save);
  expect_old_file(leank_mask_save_pth);
  leank_mask *mask = lk_small_mask();
  leank_error err = {.code = LEANK_OK};
  assert_int_equal(leank_mask_save(mask, LEANK_TEST_TMP "/no/such/folder/mask", &err), LEANK_E_IO);
  assert_non_null(strstr(err.message, "/no/such/folder/mask"));
  assert_int_equal(leank_mask_save(mask, "/proc/mask", &err), LEANK_E_IO); /* even as root */
  assert_int_equal(leank_mask_save(mask, folder, &err), LEANK_E_IO);       /* is a folder */
  assert_int_equal(leank_mask_save_pth(mask, folder, &err), LEANK_E_IO);
  assert_int_equal(files_in_folder(), 0);
  assert_int_equal(rmdir(folder), 0);
  leank_mask_close(&mask);
}

static void test_save_allocations(void **state) {
  (void)state;
  leank_mask *mask = lk_small_mask();
  const size_t before = hostile_mem_in_use();
  for (int pth = 0; pth < 2; pth++) {
    size_t nth = 0;
    leank_status status;
    do {
      leank_error err = {.code = LEANK_OK};
      lk_alloc_fail_nth(++nth);
      status =
          pth ? leank_mask_save_pth(mask, file_path, &err) : leank_mask_save(mask, file_path, &err);
      lk_alloc_fail_nth(0);
      if (status != LEANK_OK) assert_int_equal(status, LEANK_E_MEMORY);
      assert_int_equal(hostile_mem_in_use(), before);
      assert_int_equal(access(file_path, F_OK) == 0, status == LEANK_OK);
    } while (status != LEANK_OK);
    assert_true(nth > 2);
    remove(file_path);
  }
  leank_mask_close(&mask);
}

/* ---- the published masks ---- */

/* counts: kv heads that keep 0, 32, 64, 96, 128 channels. */
static void check_published(const char *file, size_t n_layers, size_t n_kv_heads,
                            const size_t counts[5]) {
  const char *masks = getenv("LEANK_TEST_MASKS");
  if (!masks) {
    print_message("LEANK_TEST_MASKS is not set\n");
    skip();
  }
  char path[4096];
  leank_mask *mask = NULL, *again = NULL;
  leank_error err;
  snprintf(path, sizeof path, "%s/%s", masks, file);
  if (leank_mask_open(path, &mask, &err) != LEANK_OK) fail_msg("%s", err.message);
  const leank_mask_info *info = leank_mask_get_info(mask);
  assert_true(info->n_layers == n_layers && info->n_kv_heads == n_kv_heads &&
              info->head_dim == 128);
  size_t got[129] = {0};
  for (size_t l = 0; l < n_layers; l++)
    for (size_t h = 0; h < n_kv_heads; h++) got[leank_mask_n_kept(mask, l, h)]++;
  for (size_t i = 0; i < 5; i++) assert_int_equal(got[32 * i], counts[i]);
  assert_int_equal(leank_mask_save_pth(mask, file_path, &err), LEANK_OK);
  assert_int_equal(leank_mask_open(file_path, &again, &err), LEANK_OK);
  assert_memory_equal(leank_mask_get_kept(again), leank_mask_get_kept(mask),
                      n_layers * n_kv_heads * 128);
  leank_mask_close(&again);
  leank_mask_close(&mask);
  remove(file_path);
}

static void test_published_llama(void **state) {
  (void)state;
  check_published("llama3.1-8b-instruct.pth", 32, 8, (const size_t[]){47, 120, 67, 22, 0});
}

static void test_published_qwen(void **state) {
  (void)state;
  check_published("qwen2.5-7b-instruct.pth", 28, 4, (const size_t[]){35, 34, 33, 10, 0});
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_open),
      cmocka_unit_test(test_open_pairs),
      cmocka_unit_test(test_open_pth),
      cmocka_unit_test(test_hostile),
      cmocka_unit_test(test_round_trip),
      cmocka_unit_test(test_rope_scalings),
      cmocka_unit_test(test_metadata),
      cmocka_unit_test(test_file_tensors),
      cmocka_unit_test(test_failed_saves),
      cmocka_unit_test(test_save_allocations),
      cmocka_unit_test(test_published_llama),
      cmocka_unit_test(test_published_qwen),
  };
  return cmocka_run_group_tests_name("mask file", tests, NULL, NULL);
}
