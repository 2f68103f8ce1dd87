/* append, pack, copy_pages and sum_pages against the host, bit for bit. */
#include "cuda_pages_fixture.cuh"
#include "support/half.h"

static const uint16_t untouched = 0xa5a5;
static const lk_page_entry passed_over = {7, LK_N_PAGE_KINDS};

/* Numbers that round in every way, to bf16 and to f16: ties, carries into the exponent, denormals,
 * beyond the largest, infinities, NaN. */
static float awkward_number() {
  static const uint32_t bits[] = {0x3f808000, 0x3f818000, 0x3f807fff, 0x3f808001, 0x7f7fffff,
                                  0xff7f8000, 0x00008000, 0x00018000, 0x80007fff, 0x7f800000,
                                  0xff800000, 0x7f800001, 0x7fc12345, 0x80000000, 0x3fffffff,
                                  0x3f801000, 0x3f803000, 0x3f801001, 0x477fe000, 0x477ff000,
                                  0xc7800000, 0x497423f0, 0x387fe000, 0x387ff000, 0xb3000000,
                                  0x33000001, 0x33c00000, 0x38000000, 0x35a1b2c3};
  if (random_below(4) > 0) return random_normal();
  const uint32_t u = bits[random_below(sizeof bits / sizeof *bits)];
  float f;
  memcpy(&f, &u, sizeof f);
  return f;
}

static void test_append(lk_cuda_device *dev, size_t d, size_t n_heads, size_t n_rows, bool is_f16) {
  const size_t n_pages[LK_N_PAGE_KINDS] = {5, 1, 4};
  pages all(d, std::vector<std::vector<uint16_t>>(n_heads, all_channels(d)), 1, n_pages, untouched);
  std::vector<float> k(n_rows * n_heads * d), v(k.size());
  uint16_t (*const round)(float) = is_f16 ? lk_f32_to_f16 : lk_f32_to_bf16;
  all.view.is_f16 = is_f16;
  for (float &x : k) x = awkward_number();
  for (float &x : v) x = awkward_number();
  const std::vector<uint32_t> places = random_order((5 + 4) * PAGE_KEYS);
  std::vector<lk_slot> slots(n_rows);
  for (size_t r = 0; r < n_rows; r++) {
    const uint32_t page = places[r] / PAGE_KEYS;
    const lk_page_entry wide = {page, LK_PAGE_WIDE}, stage = {page - 5, LK_PAGE_STAGE};
    slots[r] = {page < 5 ? wide : stage, places[r] % PAGE_KEYS};
    for (size_t h = 0; h < n_heads; h++)
      for (size_t c = 0; c < d; c++) {
        const size_t at = (r * n_heads + h) * d + c;
        all.k_at(slots[r].page, h, slots[r].key, c) = round(k[at]);
        all.v_at(slots[r].page, h, slots[r].key, c) = round(v[at]);
      }
  }
  buffer<float> device_k(k), device_v(v);
  buffer<lk_slot> device_slots(slots);
  lk_cuda_append(dev, &all.view, device_k.p, device_v.p, n_rows, device_slots.p);
  all.check_same(dev, is_f16 ? "append to f16" : "append");
}

/* Rows of q, k and v side by side. */
static std::vector<float> side_by_side(size_t n_rows, const std::vector<float> &q,
                                       const std::vector<float> &k, const std::vector<float> &v) {
  std::vector<float> all;
  for (size_t r = 0; r < n_rows; r++)
    for (const std::vector<float> *x : {&q, &k, &v}) {
      const size_t width = x->size() / n_rows;
      all.insert(all.end(), x->begin() + r * width, x->begin() + (r + 1) * width);
    }
  return all;
}

/* rope_append, or rope_append_joint, against rope, then append on the host: the same bits. */
static void test_rope_append(lk_cuda_device *dev, size_t d, size_t n_heads, size_t group,
                             size_t n_rows, bool pairs, bool is_f16, bool joint) {
  const size_t n_pages[LK_N_PAGE_KINDS] = {5, 1, 4};
  pages all(d, std::vector<std::vector<uint16_t>>(n_heads, all_channels(d)), 1, n_pages, untouched);
  uint16_t (*const round)(float) = is_f16 ? lk_f32_to_f16 : lk_f32_to_bf16;
  all.view.is_f16 = is_f16;
  all.view.n_heads = (uint32_t)(n_heads * group);
  std::vector<float> k(n_rows * n_heads * d), v(k.size()), q(k.size() * group), cos_sin(n_rows * d);
  for (std::vector<float> *x : {&k, &v, &q})
    for (float &f : *x) f = random_normal();
  for (size_t i = 0; i < cos_sin.size(); i++) cos_sin[i] = random_normal();
  buffer<float> device_k(k), device_v(v), device_q(q), table(cos_sin), rotated_k(k), rotated_q(q);
  lk_cuda_rope(dev, rotated_k.p, n_rows, n_heads, d, pairs, table.p);
  lk_cuda_rope(dev, rotated_q.p, n_rows, n_heads * group, d, pairs, table.p);
  const std::vector<float> want_k = rotated_k.get(dev), want_q = rotated_q.get(dev);
  const std::vector<uint32_t> places = random_order((5 + 4) * PAGE_KEYS);
  std::vector<lk_slot> slots(n_rows);
  for (size_t r = 0; r < n_rows; r++) {
    const uint32_t page = places[r] / PAGE_KEYS;
    const lk_page_entry wide = {page, LK_PAGE_WIDE}, stage = {page - 5, LK_PAGE_STAGE};
    slots[r] = {page < 5 ? wide : stage, places[r] % PAGE_KEYS};
    for (size_t h = 0; h < n_heads; h++)
      for (size_t c = 0; c < d; c++) {
        const size_t at = (r * n_heads + h) * d + c;
        all.k_at(slots[r].page, h, slots[r].key, c) = round(want_k[at]);
        all.v_at(slots[r].page, h, slots[r].key, c) = round(v[at]);
      }
  }
  buffer<lk_slot> device_slots(slots);
  buffer<float> qkv(side_by_side(n_rows, q, k, v)), joint_q(q.size());
  if (joint)
    lk_cuda_rope_append_joint(dev, &all.view, qkv.p, joint_q.p, n_rows, pairs, table.p,
                              device_slots.p);
  else
    lk_cuda_rope_append(dev, &all.view, device_q.p, device_k.p, device_v.p, n_rows, pairs, table.p,
                        device_slots.p);
  const std::vector<float> got_q = joint ? joint_q.get(dev) : device_q.get(dev);
  check(memcmp(got_q.data(), want_q.data(), want_q.size() * sizeof(float)) == 0,
        "rope_append: q, D %zu, %zu heads, %zu rows", d, n_heads, n_rows);
  all.check_same(dev, "rope_append");
}

static void fill_random(pages &all) {
  for (int kind = 0; kind < LK_N_PAGE_KINDS; kind++)
    for (uint16_t &x : all.arena[kind]) x = lk_f32_to_bf16(random_normal());
  all.upload();
}

/* What pack should do, on the host: each kept channel is looked for among the source's. */
static void pack_on_host(pages &src, lk_page_entry from, pages &dst, lk_page_entry to) {
  const bool lean = from.kind == LK_PAGE_LEAN;
  for (size_t h = 0; h < dst.n_heads; h++) {
    if (dst.kept[h].empty()) continue;
    for (size_t key = 0; key < PAGE_KEYS; key++) {
      for (size_t i = 0; i < dst.heads[h].n_padded; i++) {
        uint16_t x = 0;
        if (i < dst.kept[h].size()) {
          const std::vector<uint16_t> list = lean ? src.kept[h] : all_channels(src.d);
          size_t place = 0;
          while (list[place] != dst.kept[h][i]) place++;
          x = src.k_at(from, h, key, place);
        }
        dst.k_at(to, h, key, i) = x;
      }
      for (size_t c = 0; c < dst.d; c++) dst.v_at(to, h, key, c) = src.v_at(from, h, key, c);
    }
  }
}

static std::vector<lk_page_entry> pick_pages(size_t n, const std::vector<lk_page_entry> &of) {
  const std::vector<uint32_t> order = random_order(of.size());
  std::vector<lk_page_entry> picked;
  for (size_t i = 0; i < n; i++) picked.push_back(of[order[i]]);
  return picked;
}

static std::vector<lk_page_entry> entries(size_t n, lk_page_kind kind) {
  std::vector<lk_page_entry> list;
  for (size_t i = 0; i < n; i++) list.push_back({(uint32_t)i, (uint32_t)kind});
  return list;
}
static std::vector<lk_page_entry> joined(std::vector<lk_page_entry> a,
                                         const std::vector<lk_page_entry> &b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

static void pack_and_check(lk_cuda_device *dev, pages &src, std::vector<lk_page_entry> from,
                           pages &dst, std::vector<lk_page_entry> to, const char *what) {
  for (size_t i = 0; i < from.size(); i++)
    if (from[i].kind != LK_N_PAGE_KINDS && to[i].kind != LK_N_PAGE_KINDS)
      pack_on_host(src, from[i], dst, to[i]);
  buffer<lk_page_entry> device_from(from), device_to(to);
  lk_cuda_pack(dev, &src.view, device_from.p, &dst.view, device_to.p, from.size());
  dst.check_same(dev, what);
  src.check_same(dev, what);
}

/* Heads of every padded count, of counts that are padded, and of none; then a part of each from the
 * lean pages, 0 included. */
static void test_pack(lk_cuda_device *dev, size_t d) {
  std::vector<std::vector<uint16_t>> lists, parts;
  std::vector<size_t> counts = {18, 1, d - 1, 33};
  for (size_t n = 0; n <= d; n += LK_CUDA_GRANULE) counts.push_back(n);
  for (const size_t n : counts) {
    lists.push_back(random_channels(n, all_channels(d)));
    parts.push_back(random_channels(random_below(n + 1), lists.back()));
  }
  const size_t n_pages[LK_N_PAGE_KINDS] = {6, 9, 5}, n_part_pages[LK_N_PAGE_KINDS] = {0, 9, 0};
  pages src(d, lists, 1, n_pages, untouched), part(d, parts, 1, n_part_pages, untouched);
  fill_random(src);
  std::vector<lk_page_entry> from =
      pick_pages(7, joined(entries(6, LK_PAGE_WIDE), entries(5, LK_PAGE_STAGE)));
  std::vector<lk_page_entry> to = pick_pages(7, entries(9, LK_PAGE_LEAN));
  from[2] = passed_over;
  to[4] = passed_over;
  pack_and_check(dev, src, from, src, to, "pack");
  /* Also straight from wide pages of the one into the other. */
  pack_and_check(dev, src, {{3, LK_PAGE_WIDE}}, part, {{8, LK_PAGE_LEAN}}, "pack of one page");
  pack_and_check(dev, src, pick_pages(6, entries(9, LK_PAGE_LEAN)), part,
                 pick_pages(6, entries(8, LK_PAGE_LEAN)), "pack from lean pages");
}

static void test_copy(lk_cuda_device *dev, size_t d) {
  std::vector<std::vector<uint16_t>> lists = {
      random_channels(18, all_channels(d)), {}, all_channels(d)};
  const size_t n_pages[LK_N_PAGE_KINDS] = {6, 7, 5};
  pages src(d, lists, 1, n_pages, untouched), dst(d, lists, 1, n_pages, untouched);
  fill_random(src);
  std::vector<lk_page_entry> from = pick_pages(3, entries(5, LK_PAGE_STAGE));
  std::vector<lk_page_entry> to = pick_pages(3, entries(6, LK_PAGE_WIDE));
  from = joined(joined(from, pick_pages(4, entries(7, LK_PAGE_LEAN))), {passed_over});
  to = joined(joined(to, pick_pages(4, entries(7, LK_PAGE_LEAN))), {{0, LK_PAGE_WIDE}});
  for (size_t i = 0; i + 1 < from.size(); i++)
    memcpy(dst.k_of(to[i], 0), src.k_of(from[i], 0), dst.page_bytes[to[i].kind]);
  buffer<lk_page_entry> device_from(from), device_to(to);
  lk_cuda_copy_pages(dev, &src.view, device_from.p, &dst.view, device_to.p, from.size());
  dst.check_same(dev, "copy_pages");
}

static void test_sums(lk_cuda_device *dev, size_t d, size_t n_heads, size_t n, bool is_f16) {
  const size_t n_pages[LK_N_PAGE_KINDS] = {13, 1, 13};
  pages all(d, std::vector<std::vector<uint16_t>>(n_heads, all_channels(d)), 1, n_pages, untouched);
  fill_random(all); /* as f16 other numbers, still sensible ones */
  float (*const widen)(uint16_t) = is_f16 ? lk_f16_to_f32 : lk_bf16_to_f32;
  all.view.is_f16 = is_f16;
  const std::vector<lk_page_entry> list =
      pick_pages(n, joined(entries(13, LK_PAGE_WIDE), entries(13, LK_PAGE_STAGE)));
  const size_t stride = n_heads * 2 * d;
  std::vector<float> sums((n + 1) * stride, 1e9f);
  for (size_t i = 0; i < stride; i++) sums[i] = random_normal();
  buffer<float> device_sums(sums);
  for (size_t i = 0; i < n; i++)
    for (size_t h = 0; h < n_heads; h++)
      for (size_t c = 0; c < d; c++) {
        float k = 0, v = 0;
        for (size_t key = 0; key < PAGE_KEYS; key++) {
          k += widen(all.k_at(list[i], h, key, c));
          v += widen(all.v_at(list[i], h, key, c));
        }
        const size_t at = i * stride + h * 2 * d + c;
        sums[at + stride] = sums[at] + k;
        sums[at + stride + d] = sums[at + d] + v;
      }
  buffer<lk_page_entry> device_list(list);
  lk_cuda_sum_pages(dev, &all.view, device_list.p, n, device_sums.p);
  const std::vector<float> got = device_sums.get(dev);
  check(memcmp(got.data(), sums.data(), got.size() * sizeof(float)) == 0,
        "sum_pages: D %zu, %zu heads, %zu pages", d, n_heads, n);
}

/* Pages to the groups' means, one passed over, one of no mean: to the bits of sum_pages. */
static void test_sum_rows(lk_cuda_device *dev, size_t d, size_t n_heads) {
  enum { N = 7, OVER = 2, NONE = 4, OFFSET = 5 };
  const size_t n_pages[LK_N_PAGE_KINDS] = {13, 1, 13};
  pages all(d, std::vector<std::vector<uint16_t>>(n_heads, all_channels(d)), 1, n_pages, untouched);
  fill_random(all);
  std::vector<lk_page_entry> list =
      pick_pages(N, joined(entries(13, LK_PAGE_WIDE), entries(13, LK_PAGE_STAGE)));
  const size_t stride = n_heads * 2 * d, n_floats = OFFSET + stride;
  std::vector<float> means(N * n_floats);
  for (float &x : means) x = random_normal();
  buffer<float> device_means(means);
  std::vector<lk_cuda_group> groups(N);
  for (size_t i = 0; i < N; i++) groups[i].mean = i == NONE ? NULL : device_means.p + i * n_floats;
  for (size_t i = 0; i < N; i++) {
    buffer<lk_page_entry> one(std::vector<lk_page_entry>{list[i]});
    std::vector<float> sums(2 * stride);
    std::copy_n(means.begin() + (ptrdiff_t)(i * n_floats + OFFSET), stride, sums.begin());
    buffer<float> device_sums(sums);
    lk_cuda_sum_pages(dev, &all.view, one.p, 1, device_sums.p);
    sums = device_sums.get(dev);
    if (i != OVER && i != NONE)
      std::copy_n(sums.begin() + (ptrdiff_t)stride, stride,
                  means.begin() + (ptrdiff_t)(i * n_floats + OFFSET));
  }
  list[OVER] = passed_over;
  buffer<lk_page_entry> device_list(list);
  buffer<lk_cuda_group> device_groups(groups);
  lk_cuda_sum_rows(dev, &all.view, device_list.p, N, device_groups.p, OFFSET);
  const std::vector<float> got = device_means.get(dev);
  check(memcmp(got.data(), means.data(), got.size() * sizeof(float)) == 0,
        "sum_rows: D %zu, %zu heads", d, n_heads);
}

int main() {
  lk_cuda_device dev;
  open_device(&dev);
  for (size_t d = 64; d <= 128; d += 64) {
    for (const size_t n_heads : {1, 3, 8})
      for (const size_t n_rows : {0, 1, 7, 300})
        for (const bool is_f16 : {false, true}) test_append(&dev, d, n_heads, n_rows, is_f16);
    for (const size_t group : {1, 4, 7})
      for (const size_t n_rows : {1, 5, 64})
        for (const bool is_f16 : {false, true})
          for (const bool joint : {false, true}) {
            test_rope_append(&dev, d, 2, group, n_rows, false, is_f16, joint);
            test_rope_append(&dev, d, 3, group, n_rows, true, is_f16, joint);
          }
    for (int i = 0; i < 4; i++) test_pack(&dev, d);
    test_copy(&dev, d);
    for (const size_t n : {0, 1, 2, 8, 9, 23}) test_sums(&dev, d, 3, n, n % 2);
    for (const size_t n_heads : {1, 3, 8}) test_sum_rows(&dev, d, n_heads);
  }
  return finish("test_cuda_pages");
}
