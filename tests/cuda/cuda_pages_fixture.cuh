/* What the tests of pages, rows and prefill attention share: a device, memory, counted checks,
 * random numbers, and pages as the host reads and writes them. */
#ifndef LK_TESTS_CUDA_PAGES_FIXTURE_CUH
#define LK_TESTS_CUDA_PAGES_FIXTURE_CUH

#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "base/dtype.h"
#include "base/rng.h"
#include "cuda/ops.cuh"

/* ---- checks ---- */

static long n_checks, n_failed;

static inline bool check(bool good, const char *format, ...) {
  n_checks++;
  if (good) return true;
  if (++n_failed <= 20) {
    va_list args;
    va_start(args, format);
    fputs("FAILED: ", stdout);
    vprintf(format, args);
    putchar('\n');
    va_end(args);
  }
  return false;
}

static inline int finish(const char *name) {
  printf("%s: %ld checks, %ld failed\n", name, n_checks, n_failed);
  return n_failed > 0 || n_checks == 0;
}

static inline void die(const char *what) {
  printf("FAILED: %s\n", what);
  exit(1);
}

/* ---- the device ---- */

enum { NO_DEVICE = 77 }; /* exit code: nothing was tested */

static inline void open_device(lk_cuda_device *dev) {
  memset(dev, 0, sizeof *dev);
  if (cudaSetDevice(0) != cudaSuccess || cudaStreamCreate(&dev->stream) != cudaSuccess)
    exit(NO_DEVICE);
}

/* Waits; a failure of anything before ends the program. */
static inline void wait_for(lk_cuda_device *dev) {
  const cudaError_t code = cudaStreamSynchronize(dev->stream);
  if (code != cudaSuccess) die(cudaGetErrorString(code));
  if (dev->failure.code != LEANK_OK) die(dev->failure.message);
}

/* ---- memory ---- */

template <class T> struct buffer {
  T *p = nullptr;
  size_t n;
  explicit buffer(size_t n_elements) : n(n_elements) {
    if (cudaMalloc((void **)&p, n * sizeof(T) + 16) != cudaSuccess) die("out of device memory");
  }
  explicit buffer(const std::vector<T> &from) : buffer(from.size()) { put(from); }
  ~buffer() { cudaFree(p); }
  buffer(const buffer &) = delete;
  buffer &operator=(const buffer &) = delete;
  void put(const std::vector<T> &from) {
    if (cudaMemcpy(p, from.data(), n * sizeof(T), cudaMemcpyHostToDevice) != cudaSuccess)
      die("copy to the device");
  }
  std::vector<T> get(lk_cuda_device *dev) const {
    std::vector<T> to(n);
    wait_for(dev);
    if (cudaMemcpy(to.data(), p, n * sizeof(T), cudaMemcpyDeviceToHost) != cudaSuccess)
      die("copy from the device");
    return to;
  }
};

/* ---- random numbers ---- */

static lk_rng random_state = {1};

static inline uint64_t random_u64() { return lk_rng_u64(&random_state); }
static inline size_t random_below(size_t n) { return (size_t)(random_u64() % n); }
static inline float random_uniform() { return (float)(random_u64() >> 40) * 0x1p-24f; }
/* Sum of 12 uniforms less 6: near enough to normal. */
static inline float random_normal() {
  float sum = -6;
  for (int i = 0; i < 12; i++) sum += random_uniform();
  return sum;
}
static inline std::vector<uint32_t> random_order(size_t n) {
  std::vector<uint32_t> order(n);
  for (size_t i = 0; i < n; i++) order[i] = (uint32_t)i;
  for (size_t i = n; i > 1; i--) std::swap(order[i - 1], order[random_below(i)]);
  return order;
}
/* n of 0 .. all - 1, or of `from`, ascending. */
static inline std::vector<uint16_t> random_channels(size_t n, const std::vector<uint16_t> &from) {
  std::vector<uint16_t> to;
  for (size_t i = 0; i < from.size(); i++)
    if (random_below(from.size() - i) < n - to.size()) to.push_back(from[i]);
  return to;
}
static inline std::vector<uint16_t> all_channels(size_t d) {
  std::vector<uint16_t> all(d);
  for (size_t i = 0; i < d; i++) all[i] = (uint16_t)i;
  return all;
}

/* ---- pages ---- */

enum { PAGE_KEYS = LK_CUDA_P };

/* Element (token, channel) of rows of n elements, written from the contract of lk_cuda_swizzle: the
 * chunks of a row are permuted by its place among 8 rows. */
static inline size_t element_at(size_t n, size_t token, size_t channel) {
  const size_t n_chunks = n / 8;
  size_t with = token / 4 % 2;
  if (n_chunks % 4 == 0) with = token / 2 % 4;
  if (n_chunks % 8 == 0) with = token % 8;
  return token * n + ((channel / 8) ^ with) * 8 + channel % 8;
}

/* One layer's pages as the host knows them, with a copy on the device. */
struct pages {
  size_t d, n_heads;
  std::vector<std::vector<uint16_t>> kept; /* of each head */
  std::vector<lk_cuda_head> heads;
  std::vector<uint16_t> channels;
  size_t page_bytes[LK_N_PAGE_KINDS];
  std::vector<uint16_t> arena[LK_N_PAGE_KINDS]; /* what is expected, or what is uploaded */
  buffer<lk_cuda_head> *device_heads;
  buffer<uint16_t> *device_channels, *device_arena[LK_N_PAGE_KINDS];
  lk_cuda_view view;

  /* n_pages of each kind, every element `fill`. per: query heads of a kv head. */
  pages(size_t head_dim, const std::vector<std::vector<uint16_t>> &kept_channels, size_t per,
        const size_t n_pages[LK_N_PAGE_KINDS], uint16_t fill)
      : d(head_dim), n_heads(kept_channels.size()), kept(kept_channels), channels(n_heads * d) {
    size_t lean_bytes = 0;
    for (size_t h = 0; h < n_heads; h++) {
      const size_t n = kept[h].size(), padded = (n + 15) / 16 * 16;
      heads.push_back({(uint32_t)n, (uint32_t)padded, (uint32_t)lean_bytes, 0});
      if (n) lean_bytes += PAGE_KEYS * (padded + d) * 2;
      auto to = std::copy(kept[h].begin(), kept[h].end(), channels.begin() + (ptrdiff_t)(h * d));
      for (size_t c = 0; c < d; c++)
        if (!keeps(h, c)) *to++ = (uint16_t)c;
    }
    page_bytes[LK_PAGE_WIDE] = page_bytes[LK_PAGE_STAGE] = n_heads * PAGE_KEYS * 2 * d * 2;
    page_bytes[LK_PAGE_LEAN] = lean_bytes;
    device_heads = new buffer<lk_cuda_head>(heads);
    device_channels = new buffer<uint16_t>(channels);
    memset(&view, 0, sizeof view);
    for (int kind = 0; kind < LK_N_PAGE_KINDS; kind++) {
      arena[kind].assign(n_pages[kind] * page_bytes[kind] / 2, fill);
      device_arena[kind] = new buffer<uint16_t>(arena[kind]);
      view.arena[kind] = (unsigned char *)device_arena[kind]->p;
      view.page_bytes[kind] = page_bytes[kind];
    }
    view.heads = device_heads->p;
    view.channels = device_channels->p;
    view.n_heads = (uint32_t)(n_heads * per);
    view.n_kv_heads = (uint32_t)n_heads;
    view.head_dim = (uint32_t)d;
  }
  ~pages() {
    delete device_heads;
    delete device_channels;
    for (int kind = 0; kind < LK_N_PAGE_KINDS; kind++) delete device_arena[kind];
  }
  pages(const pages &) = delete;
  pages &operator=(const pages &) = delete;

  bool keeps(size_t h, size_t channel) const {
    return std::binary_search(kept[h].begin(), kept[h].end(), (uint16_t)channel);
  }
  void upload() {
    for (int kind = 0; kind < LK_N_PAGE_KINDS; kind++) device_arena[kind]->put(arena[kind]);
  }
  /* Elements of K and of V of head h in a page. */
  size_t k_row(size_t h, bool lean) const { return lean ? heads[h].n_padded : d; }
  uint16_t *k_of(lk_page_entry e, size_t h) {
    uint16_t *page = arena[e.kind].data() + e.page * (page_bytes[e.kind] / 2);
    return page + (e.kind == LK_PAGE_LEAN ? heads[h].lean_offset / 2 : h * PAGE_KEYS * 2 * d);
  }
  uint16_t *v_of(lk_page_entry e, size_t h) {
    return k_of(e, h) + PAGE_KEYS * k_row(h, e.kind == LK_PAGE_LEAN);
  }
  /* By the number of the element in its row, channels of a lean page counted as they are kept. */
  uint16_t &k_at(lk_page_entry e, size_t h, size_t key, size_t channel) {
    return k_of(e, h)[element_at(k_row(h, e.kind == LK_PAGE_LEAN), key, channel)];
  }
  uint16_t &v_at(lk_page_entry e, size_t h, size_t key, size_t channel) {
    return v_of(e, h)[element_at(d, key, channel)];
  }
  /* Everything on the device is what the host expects, bit for bit. */
  void check_same(lk_cuda_device *dev, const char *what) {
    for (int kind = 0; kind < LK_N_PAGE_KINDS; kind++) {
      const std::vector<uint16_t> got = device_arena[kind]->get(dev);
      size_t i = 0;
      while (i < got.size() && got[i] == arena[kind][i]) i++;
      check(i == got.size(), "%s: D %zu, kind %d, element %zu of %zu: %04x, not %04x", what, d,
            kind, i, got.size(), i < got.size() ? got[i] : 0, i < got.size() ? arena[kind][i] : 0);
    }
  }
};

#endif
