/* A layer and the groups of a decode step, on the host. */
#ifndef LK_CUDA_DECODE_LAYER_CUH
#define LK_CUDA_DECODE_LAYER_CUH

#include <algorithm>
#include <vector>

#include "cuda/ops.cuh"
#include "cuda_decode_fixture.cuh"

struct layer {
  uint32_t n_heads, n_kv_heads, head_dim;
  size_t n_sink, n_recent;
  std::vector<std::vector<uint16_t>> channels; /* [Hk] kept */
  std::vector<lk_cuda_head> heads;
  size_t wide_bytes, lean_bytes; /* of a page */
  lk_cuda_means means;
  bool is_f16; /* else bf16 */
};

static layer make_layer(uint32_t n_heads, uint32_t n_kv_heads, uint32_t head_dim,
                        const std::vector<uint32_t> &kept, uint64_t *seed) {
  layer l = {};
  l.n_heads = n_heads;
  l.n_kv_heads = n_kv_heads;
  l.head_dim = head_dim;
  l.n_sink = 128;
  l.n_recent = 768;
  uint32_t offset = 0;
  for (uint32_t h = 0; h < n_kv_heads; h++) {
    std::vector<uint16_t> all(head_dim);
    for (uint32_t c = 0; c < head_dim; c++) all[c] = (uint16_t)c;
    for (uint32_t c = head_dim - 1; c > 0; c--)
      std::swap(all[c], all[fixture_random(seed) % (c + 1)]);
    all.resize(std::min(kept[h], head_dim));
    std::sort(all.begin(), all.end());
    const uint32_t n = (uint32_t)all.size(), padded = (n + 15) / 16 * 16;
    l.channels.push_back(all);
    l.heads.push_back({n, padded, offset, 0});
    if (n) offset += LK_CUDA_P * 2 * (padded + head_dim);
  }
  l.wide_bytes = (size_t)n_kv_heads * LK_CUDA_P * 4 * head_dim;
  l.lean_bytes = offset ? offset : 16;
  return l;
}

static size_t middle_end(const layer &l, size_t n) {
  const size_t full = l.n_sink + l.n_recent;
  return l.n_sink + (n > full ? (n - full) / LK_CUDA_P * LK_CUDA_P : 0);
}

struct batch {
  std::vector<lk_cuda_group> groups;
  std::vector<lk_page_entry> tables;
  std::vector<float> q;
};

static void add_group(const layer &l, size_t n_tokens, const lk_page_entry *entries, batch *b) {
  lk_cuda_group g = {};
  const lk_cuda_group *before = b->groups.empty() ? NULL : &b->groups.back();
  const size_t n_pages = (n_tokens + LK_CUDA_P - 1) / LK_CUDA_P;
  g.first_row = b->groups.size();
  g.n_rows = 1;
  g.first_pos = n_tokens - 1;
  g.middle_begin = l.n_sink;
  g.n_middle = middle_end(l, n_tokens) - l.n_sink;
  g.table = b->tables.size();
  if (before) {
    const size_t n_before = before->first_pos / LK_CUDA_P + 1, lean = before->n_middle / LK_CUDA_P;
    g.lean_before = before->lean_before + lean;
    g.wide_before = before->wide_before + n_before - lean;
  }
  b->groups.push_back(g);
  b->tables.insert(b->tables.end(), entries, entries + n_pages);
}
static void end_groups(batch *b) {
  lk_cuda_group g = {};
  const lk_cuda_group *before = &b->groups.back();
  const size_t n_before = before->first_pos / LK_CUDA_P + 1, lean = before->n_middle / LK_CUDA_P;
  g.lean_before = before->lean_before + lean;
  g.wide_before = before->wide_before + n_before - lean;
  b->groups.push_back(g);
}

#endif
