/* Attention of many rows against float64 on the host. --bench [tokens ...]: its speed instead. */
#include "cuda_pages_fixture.cuh"
#include "support/half.h"

static const uint16_t poison = 0x7fc1; /* NaN: what nobody has written */
static const float unset = -12345.0f;
enum {
  MARGIN = 3,     /* rows before, between and behind the groups' rows */
  MEAN_OFFSET = 2 /* heads before this layer's */
};

/* What the numbers are like. UNIFORM: queries of 0 and small whole values, so that every sum is
 * exact and one key too many or too few is seen. PEAKED: few keys matter, so one channel in the
 * wrong place is seen. */
typedef enum numbers { UNIFORM, PLAIN, PEAKED } numbers;

typedef struct sequence {
  uint64_t first_pos, n_rows;
  uint64_t begin, n_middle; /* pages of the middle */
} sequence;

typedef struct job {
  size_t d, per, n_heads; /* n_heads: of kv */
  std::vector<std::vector<uint16_t>> kept;
  std::vector<sequence> sequences;
  numbers kind;
  bool for_pruned, for_empty; /* what the mean stands in for */
  bool is_f16;                /* the elements; else bf16 */
} job;

/* Everything of a job on the host. */
struct problem {
  job what;
  pages *all;
  std::vector<lk_page_entry> tables;
  std::vector<lk_cuda_group> groups;
  std::vector<float> k, v; /* [tokens][Hk][D] of all sequences */
  std::vector<size_t> first_token;
  std::vector<float> q;
  std::vector<std::vector<float>> sums; /* [MEAN_OFFSET + Hk][2][D]; NaN where no middle is */
  std::vector<buffer<float> *> device_sums;
  uint64_t max_rows;

  explicit problem(const job &from);
  ~problem() {
    delete all;
    for (buffer<float> *b : device_sums) delete b;
  }
  problem(const problem &) = delete;
  problem &operator=(const problem &) = delete;
  void write_pages(size_t i);
  void make_sums(const sequence &s);
  std::vector<float> run(lk_cuda_device *dev, const std::vector<lk_cuda_group> &with) const;
};

static uint16_t to_element(const job &j, float x) {
  return j.is_f16 ? lk_f32_to_f16(x) : lk_f32_to_bf16(x);
}
static float round_element(const job &j, float x) {
  return j.is_f16 ? lk_f16_to_f32(lk_f32_to_f16(x)) : lk_bf16_to_f32(lk_f32_to_bf16(x));
}

static size_t n_tokens_of(const sequence &s) { return (size_t)(s.first_pos + s.n_rows); }
static size_t n_pages_of(const sequence &s) { return (n_tokens_of(s) + PAGE_KEYS - 1) / PAGE_KEYS; }

problem::problem(const job &from) : what(from), max_rows(0) {
  size_t n_pages = 0, n_tokens = 0, n_rows = MARGIN;
  for (const sequence &s : what.sequences) n_pages += n_pages_of(s);
  const size_t arenas[LK_N_PAGE_KINDS] = {n_pages + 1, n_pages + 1, n_pages + 1};
  all = new pages(what.d, what.kept, what.per, arenas, poison);
  const std::vector<uint32_t> places = random_order(n_pages);
  for (const sequence &s : what.sequences) {
    groups.push_back({n_rows, s.n_rows, s.first_pos, s.begin * PAGE_KEYS, s.n_middle * PAGE_KEYS,
                      tables.size(), 0, 0, NULL});
    make_sums(s);
    groups.back().mean = device_sums.back()->p;
    for (size_t p = 0; p < n_pages_of(s); p++) {
      const bool lean = p >= s.begin && p < s.begin + s.n_middle;
      const lk_page_kind kind = lean                  ? LK_PAGE_LEAN
                                : random_below(3) > 0 ? LK_PAGE_STAGE
                                                      : LK_PAGE_WIDE;
      tables.push_back({places[tables.size()], (uint32_t)kind});
    }
    first_token.push_back(n_tokens);
    n_tokens += n_tokens_of(s);
    n_rows += s.n_rows + MARGIN;
    max_rows = std::max(max_rows, s.n_rows);
  }
  k.resize(n_tokens * what.n_heads * what.d);
  v.resize(k.size());
  for (float &x : k) x = round_element(what, random_normal());
  for (float &x : v)
    x = what.kind == UNIFORM ? (float)random_below(17) - 8 : round_element(what, random_normal());
  const float size = what.kind == UNIFORM ? 0.0f : what.kind == PLAIN ? 1.0f : 8.0f;
  q.resize(n_rows * what.n_heads * what.per * what.d);
  for (float &x : q) x = random_normal() * size;
  for (size_t i = 0; i < groups.size(); i++) write_pages(i);
  all->upload();
}

/* Of a mean like a key and a value, whatever those are: a true mean would be near 0. UNIFORM: whole
 * numbers. */
void problem::make_sums(const sequence &s) {
  const float n = (float)(s.n_middle * PAGE_KEYS);
  std::vector<float> x((MEAN_OFFSET + what.n_heads) * 2 * what.d, NAN);
  for (size_t i = MEAN_OFFSET * 2 * what.d; n > 0 && i < x.size(); i++)
    x[i] = n * (what.kind == UNIFORM ? (float)random_below(17) - 8 : random_normal());
  sums.push_back(x);
  device_sums.push_back(new buffer<float>(x));
}

/* Only keys that exist are written. */
void problem::write_pages(size_t i) {
  const size_t d = what.d;
  for (size_t t = 0; t < n_tokens_of(what.sequences[i]); t++) {
    const lk_page_entry e = tables[groups[i].table + t / PAGE_KEYS];
    const size_t key = t % PAGE_KEYS;
    for (size_t h = 0; h < what.n_heads; h++) {
      const float *k_row = &k[((first_token[i] + t) * what.n_heads + h) * d];
      const float *v_row = &v[((first_token[i] + t) * what.n_heads + h) * d];
      const bool lean = e.kind == LK_PAGE_LEAN;
      if (lean && what.kept[h].empty()) continue;
      for (size_t c = 0; c < all->k_row(h, lean); c++) {
        float x = 0; /* padding */
        if (!lean) x = k_row[c];
        if (lean && c < what.kept[h].size()) x = k_row[what.kept[h][c]];
        all->k_at(e, h, key, c) = to_element(what, x);
      }
      for (size_t c = 0; c < d; c++) all->v_at(e, h, key, c) = to_element(what, v_row[c]);
    }
  }
}

std::vector<float> problem::run(lk_cuda_device *dev, const std::vector<lk_cuda_group> &with) const {
  buffer<lk_cuda_group> device_groups(with);
  buffer<lk_page_entry> device_tables(tables);
  buffer<float> device_q(q), out(std::vector<float>(q.size(), unset));
  lk_cuda_attend_rows args;
  memset(&args, 0, sizeof args);
  args.view = all->view;
  args.view.is_f16 = what.is_f16;
  args.groups = device_groups.p;
  args.n_groups = (uint32_t)with.size();
  for (const lk_cuda_group &g : with) args.max_rows = std::max(args.max_rows, g.n_rows);
  args.tables = device_tables.p;
  args.q = device_q.p;
  args.out = out.p;
  args.means = {what.for_pruned, what.for_empty, MEAN_OFFSET * 2 * what.d};
  lk_cuda_attend_many(dev, &args);
  return out.get(dev);
}

/* Attention of one query in float64, with the queries that the kernel multiplies (as elements).
 * weight[c] = sum p |v_c|. most: the largest sum |q_c k_c| / sqrt(D) of a key. */
typedef struct answer {
  std::vector<double> out, weight;
  double most;
  size_t n_keys;
} answer;

/* The middle's mean as head h sees it: logit over the channels it drops, the sum of its magnitudes;
 * how many keys it stands for by itself. */
typedef struct mean_part {
  double logit, size;
  uint64_t n;
} mean_part;

static mean_part mean_on_host(const problem &p, size_t i, const float *q, size_t h) {
  const size_t d = p.what.d;
  const uint64_t n = p.groups[i].n_middle;
  const bool empty = p.what.kept[h].empty();
  mean_part m = {0, 0, 0};
  if (n == 0 || !(empty ? p.what.for_empty : p.what.for_pruned)) return m;
  for (size_t c = 0; c < d; c++) {
    if (p.all->keeps(h, c)) continue;
    const double x = (double)q[c] * p.sums[i][(MEAN_OFFSET + h) * 2 * d + c] / (double)n;
    m.logit += x / std::sqrt((double)d);
    m.size += std::fabs(x) / std::sqrt((double)d);
  }
  m.n = empty ? n : 0;
  return m;
}

static answer attend_on_host(const problem &p, size_t i, size_t row, size_t head) {
  const size_t d = p.what.d, n_kv = p.what.n_heads, h = head / p.what.per;
  const size_t n_seen = (size_t)p.groups[i].first_pos + row + 1;
  const float *q = &p.q[((p.groups[i].first_row + row) * n_kv * p.what.per + head) * d];
  std::vector<double> logits(n_seen, -INFINITY);
  std::vector<double> rounded(d);
  for (size_t c = 0; c < d; c++) rounded[c] = round_element(p.what, q[c]);
  const mean_part mean = mean_on_host(p, i, q, h);
  answer a = {std::vector<double>(d, 0), std::vector<double>(d, 0), mean.size, 0};
  for (size_t t = 0; t < n_seen; t++) {
    const bool lean = p.tables[p.groups[i].table + t / PAGE_KEYS].kind == LK_PAGE_LEAN;
    const std::vector<uint16_t> &kept = p.what.kept[h];
    if (lean && kept.empty()) continue;
    const float *k = &p.k[((p.first_token[i] + t) * n_kv + h) * d];
    double sum = 0, size = 0;
    for (size_t j = 0; j < (lean ? kept.size() : d); j++) {
      const size_t c = lean ? kept[j] : j;
      const double x = rounded[c] * k[c];
      sum += x;
      size += std::fabs(x);
    }
    logits[t] = sum / std::sqrt((double)d) + (lean ? mean.logit : 0);
    a.most = std::max(a.most, size / std::sqrt((double)d) + (lean ? mean.size : 0));
    a.n_keys++;
  }
  if (a.n_keys == 0 && mean.n == 0) return a; /* 0 */
  double max = *std::max_element(logits.begin(), logits.end());
  if (mean.n) max = std::max(max, mean.logit);
  const double once = mean.n ? std::exp(mean.logit - max) : 0;
  const float *values = &p.sums[i][((MEAN_OFFSET + h) * 2 + 1) * d];
  double total = once * (double)mean.n;
  for (size_t c = 0; c < d && once > 0; c++) {
    a.out[c] = once * values[c];
    a.weight[c] = std::fabs(a.out[c]);
  }
  for (size_t t = 0; t < n_seen; t++) {
    const double w = std::exp(logits[t] - max);
    total += w;
    for (size_t c = 0; c < d && w > 0; c++) {
      const double v = p.v[((p.first_token[i] + t) * n_kv + h) * d + c];
      a.out[c] += w * v;
      a.weight[c] += w * std::fabs(v);
    }
  }
  for (size_t c = 0; c < d; c++) {
    a.out[c] /= total;
    a.weight[c] /= total;
  }
  return a;
}

/* Relative error of a weight times what is weighted. Logits: a truncation (2^-23) of the running
 * sum for each of D products and two more (the mean's part is a sum of fewer roundings, and is
 * added with one), then roundings of logit, maximum and scale, each of at most `most` (4 x 2^-23);
 * exp2 2^-22. A factor to a new maximum errs as much at each page. Sums over keys truncate once a
 * key. All of it counts in numerator and denominator; P rounded to bf16 (2^-8) in the numerator
 * alone; to f16 (2^-11) times 2^15, which rounds logits and exponents once more. A tenth for
 * products of errors. UNIFORM: every weight is 1 and the sums are whole numbers: the reciprocal and
 * the product round. */
static double error_of(const problem &p, const answer &a) {
  if (p.what.kind == UNIFORM) return 0x1p-23;
  const double step = 0x1p-23, n_pages = (double)(a.n_keys / PAGE_KEYS + 1);
  const double shift = p.what.is_f16 ? 2 * (a.most + 15) * step : 0;
  const double logit = a.most * ((double)p.what.d + 2 + 4) * step + 2 * step + shift;
  const double fixes = n_pages * (a.most * 4 * step + 3 * step);
  const double sums = ((double)a.n_keys + 2) * step;
  return 1.1 * ((p.what.is_f16 ? 0x1p-11 : 0x1p-8) + 2 * (logit + fixes + sums));
}

static void check_row(const problem &p, const std::vector<float> &got, size_t i, size_t row) {
  const size_t n_heads = p.what.n_heads * p.what.per, d = p.what.d;
  for (size_t head = 0; head < n_heads; head++) {
    const answer a = attend_on_host(p, i, row, head);
    const double error = error_of(p, a);
    /* Of f16 what is below 2^-29 rounds by 2^-40; values are below 8. */
    const double least = p.what.is_f16 && a.n_keys > 0 ? (double)a.n_keys * 0x1p-37 : 1e-30;
    const float *x = &got[((p.groups[i].first_row + row) * n_heads + head) * d];
    double worst = 0;
    size_t at = 0;
    for (size_t c = 0; c < d; c++) {
      const double size = p.what.kind == UNIFORM ? std::fabs(a.out[c]) : a.weight[c];
      const double off = std::fabs(x[c] - a.out[c]) / (size * error + least);
      if (off > worst || std::isnan(off)) {
        worst = std::isnan(off) ? INFINITY : off;
        at = c;
      }
    }
    check(worst <= 1,
          "D %zu, G %zu, numbers %d, sequence %zu, row %zu of %zu from %zu, head %zu, "
          "channel %zu: %.9g, not %.9g: %.3g bounds",
          d, p.what.per, p.what.kind, i, row, (size_t)p.groups[i].n_rows,
          (size_t)p.groups[i].first_pos, head, at, x[at], a.out[at], worst);
  }
}

/* Rows that no group has stay as they were. */
static void check_margins(const problem &p, const std::vector<float> &got) {
  const size_t n = p.what.n_heads * p.what.per * p.what.d;
  std::vector<bool> mine(got.size() / n, false);
  for (const lk_cuda_group &g : p.groups)
    for (uint64_t r = 0; r < g.n_rows; r++) mine[g.first_row + r] = true;
  bool good = true;
  for (size_t i = 0; i < got.size(); i++) good = good && (mine[i / n] || got[i] == unset);
  check(good, "D %zu, G %zu: rows of no group are written", p.what.d, p.what.per);
}

/* Every group cut in two somewhere, in other order: the same bits, since what a row does not see
 * adds exact zeros. */
static void check_cut(lk_cuda_device *dev, const problem &p, const std::vector<float> &got) {
  std::vector<lk_cuda_group> cut;
  for (const lk_cuda_group &g : p.groups) {
    const uint64_t n = random_below(g.n_rows + 1);
    lk_cuda_group before = g, after = g;
    before.n_rows = n;
    after.first_row += n;
    after.first_pos += n;
    after.n_rows -= n;
    cut.insert(cut.begin(), after);
    if (n) cut.push_back(before);
  }
  const std::vector<float> again = p.run(dev, cut);
  check(memcmp(again.data(), got.data(), got.size() * sizeof(float)) == 0,
        "D %zu, G %zu, numbers %d: rows cut elsewhere have other bits", p.what.d, p.what.per,
        p.what.kind);
}

enum { ROWS_CHECKED = 40 }; /* of a long group: the first, the last, and some */

static void test_job(lk_cuda_device *dev, const job &what) {
  const problem p(what);
  const std::vector<float> got = p.run(dev, p.groups);
  for (size_t i = 0; i < p.groups.size(); i++) {
    const size_t n = (size_t)p.groups[i].n_rows;
    if (n <= 200) {
      for (size_t row = 0; row < n; row++) check_row(p, got, i, row);
      continue;
    }
    check_row(p, got, i, 0);
    check_row(p, got, i, n - 1);
    for (int j = 2; j < ROWS_CHECKED; j++) check_row(p, got, i, random_below(n));
  }
  check_margins(p, got);
  check_cut(dev, p, got);
}

static std::vector<uint16_t> some(size_t n, size_t d) {
  return random_channels(n, all_channels(d));
}

static void test_dense(lk_cuda_device *dev, size_t d, size_t per, bool is_f16) {
  for (const numbers kind : {UNIFORM, PLAIN, PEAKED}) {
    const job one = {d, per, 2, {{}, {}}, {}, kind, false, false, is_f16};
    for (const uint64_t n : {1, 63, 64, 65, 200}) {
      job alone = one, later = one;
      alone.sequences = {{0, n, 0, 0}};
      later.sequences = {{77, n, 0, 0}, {128, n, 0, 0}};
      test_job(dev, alone);
      test_job(dev, later);
    }
    job mixed = one;
    mixed.sequences = {{0, 1000, 0, 0}, {0, 3, 0, 0}, {0, 2049, 0, 0}, {1000, 64, 0, 0}};
    test_job(dev, mixed);
  }
}

/* Lean middles of other sizes for each head, 0, padded and all channels among them. */
static void test_lean(lk_cuda_device *dev, size_t d, size_t per, bool for_pruned, bool for_empty,
                      bool is_f16) {
  for (const numbers kind : {UNIFORM, PLAIN, PEAKED}) {
    job one = {d, per, 5, {}, {}, kind, for_pruned, for_empty, is_f16};
    one.kept = {{}, some(18, d), all_channels(d), some(48, d), some(1, d)};
    one.sequences = {{320, 70, 2, 1}, {641, 100, 1, 6}, {1000, 33, 0, 12}, {90, 40, 0, 0}};
    test_job(dev, one);
    one.kept = {some(d - 16, d), some(32, d), some(d / 2 + 1, d), {}, some(16, d)};
    one.sequences = {{512, 1, 2, 5}, {511, 130, 2, 3}};
    test_job(dev, one);
    one.sequences = {{127, 3, 0, 2}}; /* for the empty head no key of the first row is there */
    test_job(dev, one);
  }
}

/* ---- speed ---- */

/* One dense prompt, every head: 4 D operations for a query and a key it sees. */
static void bench(lk_cuda_device *dev, size_t n_tokens) {
  const size_t d = 128, n_kv = 8, per = 4, n_pages = (n_tokens + PAGE_KEYS - 1) / PAGE_KEYS;
  const size_t page_elements = n_kv * PAGE_KEYS * 2 * d, n_q = n_tokens * n_kv * per * d;
  const std::vector<uint32_t> order = random_order(n_pages);
  std::vector<lk_page_entry> table;
  for (const uint32_t page : order) table.push_back({page, LK_PAGE_WIDE});
  std::vector<uint16_t> numbers(n_pages * page_elements);
  for (uint16_t &x : numbers) x = lk_f32_to_bf16(random_uniform() * 4 - 2);
  std::vector<float> queries(n_q);
  for (float &x : queries) x = random_uniform() * 4 - 2;
  buffer<uint16_t> arena(numbers);
  buffer<float> q(queries), out(n_q);
  buffer<lk_page_entry> tables(table);
  buffer<lk_cuda_group> groups(std::vector<lk_cuda_group>{{0, n_tokens, 0, 0, 0, 0, 0, 0, NULL}});
  lk_cuda_attend_rows args;
  memset(&args, 0, sizeof args);
  args.view.arena[LK_PAGE_WIDE] = (unsigned char *)arena.p;
  args.view.page_bytes[LK_PAGE_WIDE] = page_elements * 2;
  args.view.n_heads = (uint32_t)(n_kv * per);
  args.view.n_kv_heads = (uint32_t)n_kv;
  args.view.head_dim = (uint32_t)d;
  args.groups = groups.p;
  args.n_groups = 1;
  args.max_rows = n_tokens;
  args.tables = tables.p;
  args.q = q.p;
  args.out = out.p;
  enum { RUNS = 11 };
  cudaEvent_t begin, end;
  if (cudaEventCreate(&begin) != cudaSuccess || cudaEventCreate(&end) != cudaSuccess) die("events");
  std::vector<float> ms;
  for (int i = 0; i < RUNS + 2; i++) {
    float once = 0;
    cudaEventRecord(begin, dev->stream);
    lk_cuda_attend_many(dev, &args);
    cudaEventRecord(end, dev->stream);
    wait_for(dev);
    cudaEventElapsedTime(&once, begin, end);
    if (i >= 2) ms.push_back(once);
  }
  std::sort(ms.begin(), ms.end());
  const double flops =
      2.0 * (double)d * (double)(n_kv * per) * (double)n_tokens * (double)(n_tokens + 1);
  printf("attend_rows: %zu tokens, 32 / 8 heads, D 128, causal: median %.3f ms, %.1f TFLOP/s\n",
         n_tokens, ms[RUNS / 2], flops / ms[RUNS / 2] * 1e-9);
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
}

int main(int argc, char **argv) {
  lk_cuda_device dev;
  open_device(&dev);
  if (argc > 1 && strcmp(argv[1], "--bench") == 0) {
    if (argc == 2)
      for (const size_t n : {8192, 32768}) bench(&dev, n);
    for (int i = 2; i < argc; i++) bench(&dev, strtoul(argv[i], NULL, 10));
    return 0;
  }
  for (size_t d = 64; d <= 128; d += 64)
    for (const size_t per : {1, 2, 3, 4, 6, 7, 8}) {
      const bool is_f16 = per % 2; /* and, of 4, both */
      test_dense(&dev, d, per, is_f16);
      test_lean(&dev, d, per, false, false, is_f16);
      test_lean(&dev, d, per, true, true, is_f16);
      if (per != 4) continue;
      test_dense(&dev, d, per, true);
      test_lean(&dev, d, per, true, false, false);
      test_lean(&dev, d, per, false, true, false);
      test_lean(&dev, d, per, true, true, true);
    }
  return finish("test_cuda_attend");
}
