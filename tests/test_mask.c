/* Masks: creating, fitting a model, maps. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "mask/mask.h"
#include "support/hostile.h"
#include "support/small_mask.h"

/* ---- creating ---- */

static void test_create(void **state) {
  (void)state;
  leank_mask_info info = lk_small_info();
  uint8_t kept[N];
  float alpha[N];
  leank_mask *mask = NULL;
  lk_small_fill(kept);
  size_t n_kept = 0;
  for (size_t i = 0; i < N; i++) {
    n_kept += kept[i];
    alpha[i] = (float)i / N;
  }
  info.ratio_reached = 0.123; /* computed, not believed */
  info.order = LEANK_ORDER_PAIRS;
  strcpy(info.method, "learned");
  info.seed = UINT64_MAX;
  assert_int_equal(leank_mask_create(&info, kept, alpha, &mask, NULL), LEANK_OK);
  const leank_mask_info *got = leank_mask_get_info(mask);
  assert_true(got->ratio_reached == 1 - (double)n_kept / N);
  assert_int_equal(got->order, LEANK_ORDER_HALF);
  assert_string_equal(got->method, "learned");
  assert_true(got->seed == UINT64_MAX && got->n_sink == 128 && got->n_recent == 768);
  assert_memory_equal(leank_mask_get_kept(mask), kept, N);
  assert_memory_equal(leank_mask_get_alpha(mask), alpha, sizeof alpha);
  assert_true(leank_mask_get_kept(mask) != kept && leank_mask_get_alpha(mask) != alpha);
  for (size_t l = 0; l < L; l++)
    for (size_t h = 0; h < H; h++) {
      size_t n = 0;
      for (size_t c = 0; c < D; c++) n += lk_small_kept(l, h, c);
      assert_int_equal(leank_mask_n_kept(mask, l, h), n);
    }
  assert_int_equal(leank_mask_n_kept(mask, L, 0), 0);
  assert_int_equal(leank_mask_n_kept(mask, 0, H), 0);
  leank_mask_close(&mask);
  assert_null(mask);
  leank_mask_close(&mask);
  leank_mask_close(NULL);
}

static void test_shares(void **state) {
  (void)state;
  const leank_mask_info info = lk_small_info();
  uint8_t kept[N];
  leank_mask *mask = NULL;
  double k = -1, v = -1;
  lk_small_fill(kept);
  memset(kept, 0, D);         /* one of L * H heads keeps nothing, */
  memset(kept + D, 1, 2 * D); /* two keep all */
  size_t n_kept = 0;
  for (size_t i = 0; i < N; i++) n_kept += kept[i];
  assert_int_equal(leank_mask_create(&info, kept, NULL, &mask, NULL), LEANK_OK);
  leank_mask_get_shares(mask, &k, &v);
  assert_true(k == (double)n_kept / N);
  assert_true(v == (double)(L * H - 1) / (L * H));
  leank_mask_close(&mask);
}

/* What is set fits the model in all that is checked, and says nothing of its weights. */
static void test_set_model(void **state) {
  (void)state;
  const leank_model_info model = {.architecture = "qwen2",
                                  .fingerprint = "0123456789abcdef",
                                  .n_layers = L,
                                  .n_kv_heads = H,
                                  .head_dim = D,
                                  .rope_theta = 1e6,
                                  .rope_scaling = LEANK_ROPE_YARN,
                                  .rope_factor = 4};
  leank_mask_info info;
  uint8_t kept[N];
  leank_mask *mask = NULL;
  bool same = false;
  lk_small_fill(kept);
  leank_mask_info_default(&info);
  info.n_recent = 512;
  leank_mask_info_set_model(&info, &model);
  assert_int_equal(info.n_recent, 512);
  assert_int_equal(leank_mask_create(&info, kept, NULL, &mask, NULL), LEANK_OK);
  assert_int_equal(leank_mask_check(mask, &model, &same, NULL), LEANK_OK);
  assert_true(same && info.fingerprint[0] == 0);
  const leank_mask_info *got = leank_mask_get_info(mask);
  assert_string_equal(got->architecture, "qwen2");
  assert_true(got->rope_theta == 1e6 && got->rope_scaling == LEANK_ROPE_YARN &&
              got->rope_factor == 4);
  leank_mask_close(&mask);
}

static void refuse(const leank_mask_info *info, const uint8_t *kept, const float *alpha) {
  leank_mask *mask = NULL;
  leank_error err = {.code = LEANK_OK};
  assert_int_equal(leank_mask_create(info, kept, alpha, &mask, &err), LEANK_E_ARGUMENT);
  assert_int_equal(err.code, LEANK_E_ARGUMENT);
  assert_true(err.message[0] != 0);
  assert_null(mask);
}

#define REFUSE(change)                                                                             \
  do {                                                                                             \
    leank_mask_info info = lk_small_info();                                                        \
    change;                                                                                        \
    refuse(&info, kept, NULL);                                                                     \
  } while (0)

static void test_create_refuses(void **state) {
  (void)state;
  uint8_t kept[N];
  lk_small_fill(kept);
  REFUSE(info.n_layers = 0);
  REFUSE(info.n_kv_heads = 0);
  REFUSE(info.head_dim = 0);
  REFUSE(info.head_dim = 7);
  REFUSE(info.head_dim = 65536);
  REFUSE(info.n_layers = SIZE_MAX);
  REFUSE(info.n_sink = 100);
  REFUSE(info.n_sink = SIZE_MAX - 63);
  REFUSE(info.n_recent = SIZE_MAX);
  REFUSE(info.align = 0);
  REFUSE(info.align = 5); /* the pattern keeps 3 or 4 */
  REFUSE(info.policy = (leank_policy)2);
  REFUSE(info.rope_scaling = (leank_rope_scaling)4);
  REFUSE(info.rope_theta = -1);
  REFUSE(info.rope_theta = NAN);
  REFUSE(info.rope_factor = 0);
  REFUSE(info.rope_factor = INFINITY);
  REFUSE(info.ratio_asked = 1.5);
  REFUSE(info.ratio_asked = NAN);
  REFUSE(memset(info.method, 'x', sizeof info.method));
  REFUSE(strcpy(info.data, "\xff"));
  REFUSE(strcpy(info.fingerprint, "0123"));
  REFUSE(strcpy(info.fingerprint, "0123456789ABCDEF"));
  REFUSE(info.struct_size = 0);
  REFUSE(info.struct_size++);
  REFUSE(info.struct_size = offsetof(leank_mask_info, steps)); /* of an older header */
  const leank_mask_info info = lk_small_info();
  refuse(NULL, kept, NULL);
  refuse(&info, NULL, NULL);
  float alpha[N] = {0};
  const float bad[] = {-0.01f, 1.01f, NAN, INFINITY};
  for (size_t i = 0; i < 4; i++) {
    alpha[N - 1] = bad[i];
    refuse(&info, kept, alpha);
  }
  kept[N - 1] = 2;
  refuse(&info, kept, NULL);
}

static void test_create_allocations(void **state) {
  (void)state;
  const leank_mask_info info = lk_small_info();
  uint8_t kept[N];
  const float alpha[N] = {0};
  leank_mask *mask = NULL;
  lk_small_fill(kept);
  const size_t before = hostile_mem_in_use();
  for (size_t nth = 1; nth <= 3; nth++) {
    lk_alloc_fail_nth(nth);
    assert_int_equal(leank_mask_create(&info, kept, alpha, &mask, NULL), LEANK_E_MEMORY);
    assert_null(mask);
    assert_int_equal(hostile_mem_in_use(), before);
  }
  lk_alloc_fail_nth(0);
}

/* ---- mask and model ---- */

static void expect_fit(const leank_mask_info *info, const leank_model_info *model,
                       const char *part) {
  const uint8_t kept[N] = {0};
  leank_mask *mask = NULL;
  leank_error err = {.message = ""};
  bool same = false;
  assert_int_equal(leank_mask_create(info, kept, NULL, &mask, &err), LEANK_OK);
  leank_status status = leank_mask_check(mask, model, &same, &err);
  assert_int_equal(status, part ? LEANK_E_MISMATCH : LEANK_OK);
  assert_int_equal(same, part == NULL);
  if (part && !strstr(err.message, part)) fail_msg("'%s' lacks '%s'", err.message, part);
  assert_int_equal(leank_mask_check(mask, model, NULL, NULL), status);
  leank_mask_close(&mask);
}

static void test_check(void **state) {
  (void)state;
  leank_model_info model = {.architecture = "llama",
                            .n_layers = L,
                            .n_kv_heads = H,
                            .head_dim = D,
                            .rope_theta = 1e4,
                            .rope_scaling = LEANK_ROPE_LLAMA3,
                            .rope_factor = 8,
                            .fingerprint = "0123456789abcdef"};
  leank_mask_info info = lk_small_info();
  expect_fit(&info, &model, NULL); /* an import knows nothing but sizes */
  strcpy(info.architecture, "llama");
  info.rope_theta = 1e4;
  info.rope_scaling = LEANK_ROPE_LLAMA3;
  info.rope_factor = 8;
  strcpy(info.fingerprint, "0123456789abcdef");
  expect_fit(&info, &model, NULL);
  model.rope_theta = (float)1e4 * (1 + 1e-8);
  model.order = LEANK_ORDER_PAIRS; /* converted, no matter */
  expect_fit(&info, &model, NULL);
#define EXPECT(change, part)                                                                       \
  do {                                                                                             \
    leank_model_info other = model;                                                                \
    change;                                                                                        \
    expect_fit(&info, &other, part);                                                               \
  } while (0)
  EXPECT(other.n_layers++, "for 2 layers, 3 kv heads, head dim 8; the model has 3, 3, 8");
  EXPECT(other.n_kv_heads = 4, "the model has 2, 4, 8");
  EXPECT(other.head_dim = 16, "the model has 2, 3, 16");
  EXPECT(strcpy(other.architecture, "qwen2"), "architecture llama; the model is qwen2");
  EXPECT(other.rope_theta = 5e5, "RoPE theta 10000; the model has 500000");
  EXPECT(other.rope_scaling = LEANK_ROPE_YARN, "RoPE scaling llama3; the model has yarn");
  EXPECT(other.rope_factor = 4, "RoPE factor 8; the model has 4");
  EXPECT(other.architecture[0] = 0, NULL);
  EXPECT(other.fingerprint[0] = 0, NULL);
#undef EXPECT
  info.rope_theta = 0;
  model.rope_theta = 7;
  expect_fit(&info, &model, NULL);
}

/* Other weights are worth a warning, no error. */
static void test_fingerprint(void **state) {
  (void)state;
  leank_model_info model = {
      .n_layers = L, .n_kv_heads = H, .head_dim = D, .fingerprint = "0123456789abcdee"};
  leank_mask_info info = lk_small_info();
  const uint8_t kept[N] = {0};
  leank_mask *mask = NULL;
  bool same = true;
  strcpy(info.fingerprint, "0123456789abcdef");
  assert_int_equal(leank_mask_create(&info, kept, NULL, &mask, NULL), LEANK_OK);
  assert_int_equal(leank_mask_check(mask, &model, &same, NULL), LEANK_OK);
  assert_false(same);
  same = true;
  model.n_layers++; /* a failure leaves the result alone */
  assert_int_equal(leank_mask_check(mask, &model, &same, NULL), LEANK_E_MISMATCH);
  assert_true(same);
  leank_mask_close(&mask);
}

/* ---- maps ---- */

static void check_map(const leank_mask *mask, leank_channel_order order, size_t granule) {
  lk_mask_map map;
  assert_int_equal(lk_mask_map_make(mask, L, H, D, order, granule, &map, NULL), LEANK_OK);
  assert_true(map.n_layers == L && map.n_kv_heads == H && map.head_dim == D);
  for (size_t l = 0; l < L; l++)
    for (size_t h = 0; h < H; h++) {
      const lk_head_map *head = lk_mask_map_head(&map, l, h);
      bool kept[D] = {false};
      assert_int_equal(head->n_kept, mask ? leank_mask_n_kept(mask, l, h) : D);
      assert_true(head->n_padded % granule == 0 && head->n_padded >= head->n_kept &&
                  head->n_padded < head->n_kept + granule);
      for (size_t i = 0; i < head->n_kept; i++) {
        assert_true(i == 0 || head->channels[i] > head->channels[i - 1]);
        kept[head->channels[i]] = true;
      }
      for (size_t i = 0; i < D - head->n_kept; i++) {
        assert_true(i == 0 || head->dropped[i] > head->dropped[i - 1]);
        assert_false(kept[head->dropped[i]]);
      }
      for (size_t c = 0; c < D; c++)
        assert_int_equal(kept[lk_channel_from_half(order, D, c)],
                         mask ? lk_small_kept(l, h, c) : 1);
    }
  lk_mask_map_free(&map);
  assert_null(map.heads);
  lk_mask_map_free(&map);
}

static void test_map(void **state) {
  (void)state;
  leank_mask *mask = lk_small_mask();
  const size_t granules[] = {1, 2, 3, 8, 16};
  for (size_t i = 0; i < 5; i++) {
    check_map(mask, LEANK_ORDER_HALF, granules[i]);
    check_map(mask, LEANK_ORDER_PAIRS, granules[i]);
    check_map(NULL, LEANK_ORDER_HALF, granules[i]);
    check_map(NULL, LEANK_ORDER_PAIRS, granules[i]);
  }
  leank_mask_close(&mask);
}

/* The conversion written out once, for D = 6. */
static void test_pairs_by_hand(void **state) {
  (void)state;
  leank_mask_info info = lk_small_info();
  info.n_layers = info.n_kv_heads = 1;
  info.head_dim = 6;
  const uint8_t kept[] = {0, 1, 1, 1, 0, 0}; /* half: 1, 2 and 3 = 0 + D/2 */
  leank_mask *mask = NULL;
  lk_mask_map map;
  assert_int_equal(leank_mask_create(&info, kept, NULL, &mask, NULL), LEANK_OK);
  assert_int_equal(lk_mask_map_make(mask, 1, 1, 6, LEANK_ORDER_PAIRS, 2, &map, NULL), LEANK_OK);
  const uint16_t expected[] = {1, 2, 4}, dropped[] = {0, 3, 5};
  assert_int_equal(map.heads[0].n_kept, 3);
  assert_int_equal(map.heads[0].n_padded, 4);
  assert_memory_equal(map.heads[0].channels, expected, sizeof expected);
  assert_memory_equal(map.heads[0].dropped, dropped, sizeof dropped);
  lk_mask_map_free(&map);
  leank_mask_close(&mask);
}

static void test_map_refuses(void **state) {
  (void)state;
  leank_mask *mask = lk_small_mask();
  lk_mask_map map = {.heads = NULL};
  const leank_channel_order half = LEANK_ORDER_HALF;
  assert_int_equal(lk_mask_map_make(mask, L, H, D + 2, half, 2, &map, NULL), LEANK_E_MISMATCH);
  assert_int_equal(lk_mask_map_make(mask, L + 1, H, D, half, 2, &map, NULL), LEANK_E_MISMATCH);
  assert_int_equal(lk_mask_map_make(mask, L, 1, D, half, 2, &map, NULL), LEANK_E_MISMATCH);
  assert_int_equal(lk_mask_map_make(mask, L, H, D, half, 0, &map, NULL), LEANK_E_ARGUMENT);
  assert_int_equal(lk_mask_map_make(NULL, 1, 1, 65536, half, 2, &map, NULL), LEANK_E_ARGUMENT);
  assert_int_equal(lk_mask_map_make(NULL, 1, 1, 7, half, 2, &map, NULL), LEANK_E_ARGUMENT);
  assert_int_equal(lk_mask_map_make(NULL, 0, 1, 8, half, 2, &map, NULL), LEANK_E_ARGUMENT);
  assert_int_equal(lk_mask_map_make(NULL, SIZE_MAX, 2, 8, half, 2, &map, NULL), LEANK_E_MEMORY);
  const size_t before = hostile_mem_in_use();
  for (size_t nth = 1; nth <= 2; nth++) {
    lk_alloc_fail_nth(nth);
    assert_int_equal(lk_mask_map_make(mask, L, H, D, half, 2, &map, NULL), LEANK_E_MEMORY);
    assert_int_equal(hostile_mem_in_use(), before);
  }
  lk_alloc_fail_nth(0);
  assert_null(map.heads);
  leank_mask_close(&mask);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_create),
      cmocka_unit_test(test_shares),
      cmocka_unit_test(test_set_model),
      cmocka_unit_test(test_create_refuses),
      cmocka_unit_test(test_create_allocations),
      cmocka_unit_test(test_check),
      cmocka_unit_test(test_fingerprint),
      cmocka_unit_test(test_map),
      cmocka_unit_test(test_pairs_by_hand),
      cmocka_unit_test(test_map_refuses),
  };
  return cmocka_run_group_tests_name("mask", tests, NULL, NULL);
}
