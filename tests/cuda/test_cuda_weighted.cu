/* Attention under channel weights and its gradients against float64 on the host. --bench [tokens
 * ...]: their speed instead. */
#include "cuda_pages_fixture.cuh"

static const uint16_t poison = 0x7fc1; /* NaN: what nobody has written */
static const double u = 0x1p-24;       /* of one fp32 rounding */

typedef struct sequence {
  size_t first_pos, n_rows;
  size_t begin;          /* of the middle */
  size_t n_recent, step; /* where it ends: as lk_split */
} sequence;

typedef struct job {
  size_t d, per, n_heads; /* n_heads: of kv */
  std::vector<uint8_t> kinds;
  std::vector<sequence> sequences;
} job;

/* What comes out, of device or host. */
typedef struct results {
  std::vector<float> out, lse, dq, dk, dv;
  std::vector<double> dweight;
} results;

/* The same in float64, with what each number's error is a share of. */
typedef struct exact {
  std::vector<double> value, size;
} exact;

typedef struct answers {
  exact out, lse, dq, dk, dv, dweight;
} answers;

struct problem {
  job what;
  pages *all;
  std::vector<lk_page_entry> tables;
  std::vector<lk_cuda_weighted_group> groups;
  std::vector<uint32_t> middle_end;
  std::vector<float> k, v; /* [tokens][Hk][D] of all sequences */
  std::vector<size_t> first_token;
  std::vector<std::vector<float>> sums; /* of each sequence [pages + 1][Hk][2][D] */
  std::vector<float> weight, q, dout;
  std::vector<double> dweight; /* before */
  size_t n_rows, n_own, max_rows, max_pages;

  explicit problem(const job &from);
  ~problem() { delete all; }
  problem(const problem &) = delete;
  problem &operator=(const problem &) = delete;
  void add_sequence(const sequence &s, const std::vector<uint32_t> &places);
  void write_pages(size_t i);
  void sum_pages(size_t i);
  size_t n_q() const { return n_rows * what.n_heads * what.per * what.d; }
  size_t n_kv() const { return n_rows * what.n_heads * what.d; }
};

static float round_bf16(float x) { return lk_bf16_to_f32(lk_f32_to_bf16(x)); }
static size_t n_tokens_of(const sequence &s) { return s.first_pos + s.n_rows; }
static size_t n_pages_of(const sequence &s) { return (n_tokens_of(s) + PAGE_KEYS - 1) / PAGE_KEYS; }

static size_t end_of_middle(const sequence &s, size_t n_tokens) {
  const size_t full = s.begin + s.n_recent;
  return n_tokens <= full ? s.begin : s.begin + (n_tokens - full) / s.step * s.step;
}

void problem::add_sequence(const sequence &s, const std::vector<uint32_t> &places) {
  lk_cuda_weighted_group g;
  memset(&g, 0, sizeof g);
  g.first_row = n_rows;
  g.n_rows = s.n_rows;
  g.first_pos = s.first_pos;
  g.middle_begin = s.begin;
  g.table = tables.size();
  g.own_before = n_own;
  groups.push_back(g);
  for (size_t p = 0; p < n_pages_of(s); p++) {
    const lk_page_kind kind = random_below(3) > 0 ? LK_PAGE_STAGE : LK_PAGE_WIDE;
    tables.push_back({places[tables.size()], (uint32_t)kind});
  }
  for (size_t r = 0; r < s.n_rows; r++)
    middle_end.push_back((uint32_t)end_of_middle(s, s.first_pos + r + 1));
  n_rows += s.n_rows;
  n_own += s.n_rows * s.n_rows;
  max_rows = std::max(max_rows, s.n_rows);
  max_pages = std::max(max_pages, n_pages_of(s));
}

problem::problem(const job &from) : what(from), n_rows(0), n_own(0), max_rows(0), max_pages(0) {
  size_t n_pages = 0, n_tokens = 0;
  for (const sequence &s : what.sequences) {
    n_pages += n_pages_of(s);
    first_token.push_back(n_tokens);
    n_tokens += n_tokens_of(s);
  }
  const size_t arenas[LK_N_PAGE_KINDS] = {n_pages + 1, n_pages + 1, n_pages + 1};
  all =
      new pages(what.d, std::vector<std::vector<uint16_t>>(what.n_heads), what.per, arenas, poison);
  const std::vector<uint32_t> places = random_order(n_pages);
  for (const sequence &s : what.sequences) add_sequence(s, places);
  k.resize(n_tokens * what.n_heads * what.d);
  v.resize(k.size());
  weight.resize(what.n_heads * what.d);
  q.resize(n_q());
  dout.resize(n_q());
  for (float &x : k) x = round_bf16(random_normal());
  for (float &x : v) x = round_bf16(random_normal());
  for (float &x : q) x = random_normal();
  for (float &x : dout) x = random_normal();
  for (float &x : weight) x = random_below(3) ? random_uniform() : (float)random_below(2);
  for (size_t i = 0; i < weight.size(); i++) dweight.push_back((double)i - 7);
  for (size_t i = 0; i < groups.size(); i++) {
    write_pages(i);
    sum_pages(i);
  }
  all->upload();
}

/* Only keys that exist are written. */
void problem::write_pages(size_t i) {
  const size_t d = what.d;
  for (size_t t = 0; t < n_tokens_of(what.sequences[i]); t++) {
    const lk_page_entry e = tables[groups[i].table + t / PAGE_KEYS];
    for (size_t h = 0; h < what.n_heads; h++)
      for (size_t c = 0; c < d; c++) {
        const size_t at = ((first_token[i] + t) * what.n_heads + h) * d + c;
        all->k_at(e, h, t % PAGE_KEYS, c) = lk_f32_to_bf16(k[at]);
        all->v_at(e, h, t % PAGE_KEYS, c) = lk_f32_to_bf16(v[at]);
      }
  }
}

void problem::sum_pages(size_t i) {
  const size_t n = what.n_heads * 2 * what.d, begin = what.sequences[i].begin;
  const size_t n_pages = n_pages_of(what.sequences[i]);
  std::vector<double> sum(n, 0);
  std::vector<float> to(n, 0.0f);
  for (size_t t = begin; t + PAGE_KEYS <= n_pages * PAGE_KEYS; t += PAGE_KEYS) {
    for (size_t key = t; key < t + PAGE_KEYS && key < n_tokens_of(what.sequences[i]); key++)
      for (size_t j = 0; j < n; j++) {
        const size_t h = j / (2 * what.d), c = j % what.d;
        const size_t at = ((first_token[i] + key) * what.n_heads + h) * what.d + c;
        sum[j] += (double)(j / what.d % 2 ? v[at] : k[at]);
      }
    for (const double x : sum) to.push_back((float)x);
  }
  sums.push_back(to);
}

/* ---- the device ---- */

/* Sequences `first` up to `end` by themselves, out and lse from `given` for the backward pass. */
static results run(lk_cuda_device *dev, const problem &p, const results &given, size_t first,
                   size_t end) {
  std::vector<lk_cuda_weighted_group> groups(p.groups.begin() + (ptrdiff_t)first,
                                             p.groups.begin() + (ptrdiff_t)end);
  std::vector<buffer<float> *> sums;
  const size_t row0 = groups[0].first_row, own0 = groups[0].own_before;
  lk_cuda_weighted j;
  memset(&j, 0, sizeof j);
  for (size_t i = 0; i < groups.size(); i++) {
    lk_cuda_weighted_group &g = groups[i];
    sums.push_back(new buffer<float>(p.sums[first + i]));
    for (int kind = 0; kind < LK_N_PAGE_KINDS; kind++) {
      g.arena[kind] = p.all->view.arena[kind];
      g.page_bytes[kind] = p.all->view.page_bytes[kind];
    }
    g.sums = sums[i]->p;
    g.first_row -= row0;
    g.own_before -= own0;
    j.n_rows += g.n_rows;
    j.n_own += g.n_rows * g.n_rows;
    j.max_rows = std::max(j.max_rows, g.n_rows);
    j.max_pages = std::max(j.max_pages, (uint64_t)n_pages_of(p.what.sequences[first + i]));
  }
  const size_t row = p.what.n_heads * p.what.per * p.what.d, kv_row = p.what.n_heads * p.what.d;
  const size_t n_q = j.n_rows * row, n_lse = n_q / p.what.d, n_kv = j.n_rows * kv_row;
  const auto rows_of = [&](const std::vector<float> &from, size_t width) {
    return std::vector<float>(from.begin() + (ptrdiff_t)(row0 * width),
                              from.begin() + (ptrdiff_t)((row0 + j.n_rows) * width));
  };
  buffer<lk_cuda_weighted_group> device_groups(groups);
  buffer<lk_page_entry> tables(p.tables);
  buffer<uint32_t> middle_end(
      std::vector<uint32_t>(p.middle_end.begin() + (ptrdiff_t)row0, p.middle_end.end()));
  buffer<uint8_t> kinds(p.what.kinds);
  buffer<float> weight(p.weight), q(rows_of(p.q, row)), dout(rows_of(p.dout, row));
  const std::vector<float> unset(n_q, NAN), unset_kv(n_kv, NAN);
  buffer<float> out(unset), lse(std::vector<float>(n_lse, NAN)), dq(unset), dk(unset_kv),
      dv(unset_kv);
  buffer<double> dweight(p.dweight);
  j.groups = device_groups.p;
  j.tables = tables.p;
  j.middle_end = middle_end.p;
  j.kind = kinds.p;
  j.weight = weight.p;
  j.n_groups = (uint32_t)groups.size();
  j.n_heads = (uint32_t)(p.what.n_heads * p.what.per);
  j.n_kv_heads = (uint32_t)p.what.n_heads;
  j.head_dim = (uint32_t)p.what.d;
  j.q = q.p;
  j.out = out.p;
  j.lse = lse.p;
  j.dout = dout.p;
  j.dq = dq.p;
  j.dk = dk.p;
  j.dv = dv.p;
  j.dweight = dweight.p;
  results r;
  for (int backward = 0; backward < 2; backward++) {
    /* Exactly as much as is asked for, all of it NaN. */
    const size_t n = lk_cuda_weighted_scratch_bytes(&j, backward != 0);
    buffer<uint32_t> scratch(std::vector<uint32_t>(n / 4 + 16, 0x7fc00000u));
    j.scratch = scratch.p;
    if (backward) {
      out.put(rows_of(given.out, row));
      lse.put(rows_of(given.lse, row / p.what.d));
      lk_cuda_weighted_backward(dev, &j);
    } else {
      lk_cuda_weighted_forward(dev, &j);
      r.out = out.get(dev);
      r.lse = lse.get(dev);
    }
    const std::vector<uint32_t> after = scratch.get(dev);
    bool good = true;
    for (size_t i = n / 4; i < after.size(); i++) good = good && after[i] == 0x7fc00000u;
    check(good, "D %zu, G %zu: more scratch than asked for", p.what.d, p.what.per);
  }
  r.dq = dq.get(dev);
  r.dk = dk.get(dev);
  r.dv = dv.get(dev);
  r.dweight = dweight.get(dev);
  for (buffer<float> *b : sums) delete b;
  return r;
}

/* ---- the oracle ---- */

/* One row and query head on the host. */
typedef struct query {
  size_t i, row, h, head; /* sequence; row of q; kv head; query head */
  size_t pos, end;
  std::vector<double> q, mean;    /* q scaled */
  std::vector<double> x, p, ways; /* of each key: logit, probability; 0 unseen, 1 full, 2 middle */
  double lse, most;               /* most: the largest sum of |terms| of a logit */
} query;

static query see(const problem &p, size_t i, size_t r, size_t head) {
  const size_t d = p.what.d, n_kv = p.what.n_heads;
  const lk_cuda_weighted_group &g = p.groups[i];
  query o = {i, g.first_row + r, head / p.what.per, head, g.first_pos + r, 0, {}, {}, {}, {}, {}, 0,
             0};
  o.end = p.middle_end[o.row];
  o.mean.assign(d, 0);
  for (size_t c = 0; c < d; c++)
    o.q.push_back((double)p.q[(o.row * n_kv * p.what.per + head) * d + c] / std::sqrt((double)d));
  const size_t n = o.end - g.middle_begin;
  if (p.what.kinds[o.h] == LK_CUDA_WEIGHTED_MEAN && n > 0)
    for (size_t c = 0; c < d; c++)
      o.mean[c] = (double)p.sums[i][((n / PAGE_KEYS) * n_kv + o.h) * 2 * d + c] / (double)n;
  double max = -INFINITY, sum = 0;
  for (size_t key = 0; key <= o.pos; key++) {
    const bool middle = key >= g.middle_begin && key < o.end;
    const bool seen = !middle || p.what.kinds[o.h] != LK_CUDA_WEIGHTED_ABSENT;
    const float *k = &p.k[((p.first_token[i] + key) * n_kv + o.h) * d];
    double x = 0, size = 0;
    for (size_t c = 0; c < d; c++) {
      const double w = middle ? (double)p.weight[o.h * d + c] : 1;
      x += o.q[c] * (w * (double)k[c] + (1 - w) * o.mean[c]);
      size += std::fabs(o.q[c]) * (w * std::fabs((double)k[c]) + (1 - w) * std::fabs(o.mean[c]));
    }
    o.ways.push_back(!seen ? 0 : middle ? 2 : 1);
    o.x.push_back(seen ? x : -INFINITY);
    if (!seen) continue;
    max = std::max(max, x);
    o.most = std::max(o.most, size);
  }
  for (const double x : o.x) sum += std::exp(x - max);
  o.lse = max + std::log(sum);
  for (const double x : o.x) o.p.push_back(std::exp(x - o.lse));
  return o;
}

/* Keys that are added up one after another: those of a run, then the runs (weighted.cu). */
static double depth_of(const query &o) {
  const double n_pages = (double)(o.pos / PAGE_KEYS + 1);
  return std::max(4.0, std::ceil(n_pages / 32)) * PAGE_KEYS + 32 + 16;
}

/* Relative error of exp(logit): sums of D products, the bias, what is taken off, the exponential.
 */
static double error_of_p(const problem &p, const query &o) {
  return (o.most * ((double)p.what.d + 6) + 2 * (o.most + std::fabs(o.lse)) + 8) * u;
}

/* Numerator and denominator err as p does, and by factors to new maxima and sums. */
static void answer_forward(const problem &p, const query &o, answers *a) {
  const size_t d = p.what.d, n_kv = p.what.n_heads;
  const size_t at = (o.row * n_kv * p.what.per + o.head) * d;
  const double run = std::ceil(depth_of(o) / PAGE_KEYS) + 1, factors = run * (2 * o.most + 4) * u;
  const double error = 2.2 * (error_of_p(p, o) + factors + depth_of(o) * u);
  for (size_t c = 0; c < d; c++) {
    double out = 0, size = 0;
    for (size_t key = 0; key <= o.pos; key++) {
      const double v = (double)p.v[((p.first_token[o.i] + key) * n_kv + o.h) * d + c];
      out += o.p[key] * v;
      size += o.p[key] * std::fabs(v);
    }
    a->out.value[at + c] = out;
    a->out.size[at + c] = size * error;
  }
  a->lse.value[at / d] = o.lse;
  a->lse.size[at / d] = error + 4 * u * (std::fabs(o.lse) + o.most);
}

/* dx = p (dp - delta), of which p errs by its own share and the bracket by D roundings of the sum
 * of |terms|: so by `error` of p times that sum. What is made of dx adds as many roundings as are
 * summed up. */
static void answer_backward(const problem &p, const query &o, answers *a) {
  const size_t d = p.what.d, n_kv = p.what.n_heads, wh = o.h * d;
  const lk_cuda_weighted_group &g = p.groups[o.i];
  const size_t at = (o.row * n_kv * p.what.per + o.head) * d;
  const double own_depth = (double)(g.n_rows * p.what.per);
  const double error =
      1.2 * (error_of_p(p, o) + ((double)d + 8 + std::max(depth_of(o), own_depth)) * u);
  const double scale = 1 / std::sqrt((double)d);
  const float *dout = &p.dout[at];
  double delta = 0, delta_size = 0, dbias = 0, dbias_size = 0;
  std::vector<double> dq(d, 0), dq_size(d, 0);
  for (size_t c = 0; c < d; c++) {
    delta += (double)dout[c] * a->out.value[at + c];
    delta_size += std::fabs((double)dout[c] * a->out.value[at + c]);
  }
  for (size_t key = 0; key <= o.pos; key++) {
    if (o.ways[key] == 0) continue;
    const size_t token = ((p.first_token[o.i] + key) * n_kv + o.h) * d;
    const bool middle = o.ways[key] == 2, own = key >= g.first_pos;
    const size_t own_at = own ? ((g.first_row + key - g.first_pos) * n_kv + o.h) * d : 0;
    double dp = 0, dp_size = delta_size;
    for (size_t c = 0; c < d; c++) {
      dp += (double)dout[c] * (double)p.v[token + c];
      dp_size += std::fabs((double)dout[c] * (double)p.v[token + c]);
    }
    const double dx = o.p[key] * (dp - delta), dx_size = o.p[key] * dp_size * error;
    if (middle) {
      dbias += dx;
      dbias_size += dx_size;
    }
    for (size_t c = 0; c < d; c++) {
      const double k = (double)p.k[token + c], w = middle ? (double)p.weight[wh + c] : 1;
      dq[c] += dx * w * k;
      dq_size[c] += dx_size * w * std::fabs(k);
      if (middle) {
        a->dweight.value[wh + c] += dx * o.q[c] * k;
        a->dweight.size[wh + c] += dx_size * std::fabs(o.q[c] * k);
      }
      if (!own) continue;
      a->dk.value[own_at + c] += dx * w * o.q[c];
      a->dk.size[own_at + c] += dx_size * w * std::fabs(o.q[c]);
      a->dv.value[own_at + c] += o.p[key] * (double)dout[c];
      a->dv.size[own_at + c] += o.p[key] * std::fabs((double)dout[c]) * error;
    }
  }
  for (size_t c = 0; c < d; c++) {
    const double rest = 1 - (double)p.weight[wh + c];
    dq[c] += rest * dbias * o.mean[c];
    dq_size[c] += rest * dbias_size * std::fabs(o.mean[c]);
    a->dweight.value[wh + c] -= o.q[c] * dbias * o.mean[c];
    a->dweight.size[wh + c] += std::fabs(o.q[c] * dbias_size * o.mean[c]);
    a->dq.value[at + c] = scale * dq[c];
    a->dq.size[at + c] = scale * dq_size[c];
    if (p.what.kinds[o.h] != LK_CUDA_WEIGHTED_MEAN) continue;
    for (size_t key = std::max(g.first_pos, g.middle_begin); key < o.end; key++) {
      const size_t own_at = ((g.first_row + key - g.first_pos) * n_kv + o.h) * d + c;
      const double share = rest * o.q[c] / (double)(o.end - g.middle_begin);
      a->dk.value[own_at] += dbias * share;
      a->dk.size[own_at] += dbias_size * std::fabs(share);
    }
  }
}

static exact zeros(size_t n) { return {std::vector<double>(n, 0), std::vector<double>(n, 0)}; }

static answers answer(const problem &p) {
  const size_t n_weights = p.what.n_heads * p.what.d;
  answers a = {zeros(p.n_q()),  zeros(p.n_q() / p.what.d), zeros(p.n_q()),
               zeros(p.n_kv()), zeros(p.n_kv()),           zeros(n_weights)};
  for (size_t i = 0; i < n_weights; i++) a.dweight.value[i] = p.dweight[i];
  for (size_t i = 0; i < p.groups.size(); i++)
    for (size_t r = 0; r < p.groups[i].n_rows; r++)
      for (size_t head = 0; head < p.what.n_heads * p.what.per; head++) {
        const query o = see(p, i, r, head);
        answer_forward(p, o, &a);
        answer_backward(p, o, &a);
      }
  return a;
}

/* ---- checks ---- */

template <class T>
static void check_near(const problem &p, const std::vector<T> &got, const exact &want,
                       const char *what) {
  double worst = 0;
  size_t at = 0;
  for (size_t i = 0; i < got.size(); i++) {
    const double least = 0x1p-120 + 4 * u * std::fabs(want.value[i]);
    const double off = std::fabs((double)got[i] - want.value[i]) / (want.size[i] + least);
    if (!(off <= worst)) {
      worst = std::isnan(off) ? INFINITY : off;
      at = i;
    }
  }
  check(worst <= 1, "D %zu, G %zu, %zu rows: %s[%zu] is %.9g, not %.9g: %.3g bounds", p.what.d,
        p.what.per, p.n_rows, what, at, (double)got[at], want.value[at], worst);
}

template <class T> static bool same(const std::vector<T> &a, const T *b) {
  return memcmp(a.data(), b, a.size() * sizeof(T)) == 0;
}

/* Each sequence by itself gives the bits it gives among the others. */
static void check_alone(lk_cuda_device *dev, const problem &p, const results &given,
                        const results &all) {
  for (size_t i = 0; i < p.groups.size(); i++) {
    const results one = run(dev, p, given, i, i + 1);
    const size_t row = p.groups[i].first_row, kv = row * p.what.n_heads * p.what.d;
    const size_t at = kv * p.what.per;
    check(same(one.out, &all.out[at]) && same(one.lse, &all.lse[at / p.what.d]) &&
              same(one.dq, &all.dq[at]) && same(one.dk, &all.dk[kv]) && same(one.dv, &all.dv[kv]),
          "D %zu, G %zu: sequence %zu alone has other bits", p.what.d, p.what.per, i);
  }
}

static void test_job(lk_cuda_device *dev, const job &what) {
  const problem p(what);
  const answers want = answer(p);
  results given;
  for (const double x : want.out.value) given.out.push_back((float)x);
  for (const double x : want.lse.value) given.lse.push_back((float)x);
  const results got = run(dev, p, given, 0, p.groups.size());
  check_near(p, got.out, want.out, "out");
  check_near(p, got.lse, want.lse, "lse");
  check_near(p, got.dq, want.dq, "dq");
  check_near(p, got.dk, want.dk, "dk");
  check_near(p, got.dv, want.dv, "dv");
  check_near(p, got.dweight, want.dweight, "dweight");
  const results again = run(dev, p, given, 0, p.groups.size());
  check(same(again.out, got.out.data()) && same(again.dq, got.dq.data()) &&
            same(again.dk, got.dk.data()) && same(again.dv, got.dv.data()) &&
            same(again.dweight, got.dweight.data()),
        "D %zu, G %zu: a second run has other bits", p.what.d, p.what.per);
  check_alone(dev, p, given, got);
}

/* Middles as deployed, of every kind; windows that reach over, into and behind the rows' own keys;
 * no middle; more pages than 32 runs of 4. */
static void test_pages(lk_cuda_device *dev, size_t d, size_t per) {
  job one = {
      d, per, 3, {LK_CUDA_WEIGHTED_PLAIN, LK_CUDA_WEIGHTED_MEAN, LK_CUDA_WEIGHTED_ABSENT}, {}};
  one.sequences = {
      {700, 21, 128, 192, 64}, {333, 5, 64, 64, 64}, {639, 70, 128, 64, 64}, {40, 3, 64, 64, 64}};
  test_job(dev, one);
  one.sequences = {{190, 75, 64, 3, 64}, {127, 1, 64, 0, 64}, {448, 33, 0, 64, 64}};
  test_job(dev, one);
}

/* Middles that end anywhere, as in the published procedure. */
static void test_sliding(lk_cuda_device *dev, size_t d, size_t per) {
  job one = {d, per, 2, {LK_CUDA_WEIGHTED_PLAIN, LK_CUDA_WEIGHTED_ABSENT}, {}};
  one.sequences = {{500, 40, 128, 100, 1}, {321, 17, 64, 7, 1}, {64, 10, 0, 1, 1}};
  test_job(dev, one);
}

static void test_long(lk_cuda_device *dev) {
  job one = {128, 2, 1, {LK_CUDA_WEIGHTED_MEAN}, {}};
  one.sequences = {{9000, 3, 128, 768, 64}, {100, 2, 64, 64, 64}};
  test_job(dev, one);
}

/* ---- speed ---- */

/* Four questions of 20 rows each with the heads of Qwen2.5-1.5B: an update's attention in a layer.
 */
static void bench(lk_cuda_device *dev, size_t n_tokens) {
  enum { RUNS = 11, N_SEQUENCES = 4, N_ROWS = 20, N_HEADS = 12, N_KV = 2, D = 128 };
  const size_t n_pages = (n_tokens + N_ROWS + PAGE_KEYS - 1) / PAGE_KEYS;
  const size_t page_elements = N_KV * PAGE_KEYS * 2 * D, n_rows = N_SEQUENCES * N_ROWS;
  std::vector<uint16_t> numbers(N_SEQUENCES * n_pages * page_elements);
  for (uint16_t &x : numbers) x = lk_f32_to_bf16(random_uniform() * 2 - 1);
  std::vector<float> queries(n_rows * N_HEADS * D);
  for (float &x : queries) x = random_uniform() * 2 - 1;
  buffer<uint16_t> arena(numbers);
  std::vector<lk_page_entry> tables;
  std::vector<lk_cuda_weighted_group> groups;
  for (size_t i = 0; i < N_SEQUENCES; i++) {
    lk_cuda_weighted_group g;
    memset(&g, 0, sizeof g);
    g.arena[LK_PAGE_WIDE] = (const unsigned char *)arena.p;
    g.page_bytes[LK_PAGE_WIDE] = page_elements * 2;
    g.first_row = i * N_ROWS;
    g.n_rows = N_ROWS;
    g.first_pos = n_tokens;
    g.middle_begin = 128;
    g.table = tables.size();
    g.own_before = i * N_ROWS * N_ROWS;
    groups.push_back(g);
    for (size_t p = 0; p < n_pages; p++)
      tables.push_back({(uint32_t)(i * n_pages + p), LK_PAGE_WIDE});
  }
  const size_t end = 128 + (n_tokens - 896) / 64 * 64;
  buffer<lk_cuda_weighted_group> device_groups(groups);
  buffer<lk_page_entry> device_tables(tables);
  buffer<uint32_t> middle_end(std::vector<uint32_t>(n_rows, (uint32_t)end));
  buffer<uint8_t> kinds(std::vector<uint8_t>(N_KV, LK_CUDA_WEIGHTED_PLAIN));
  buffer<float> weight(std::vector<float>(N_KV * D, 0.5f)), q(queries), out(queries), dout(queries);
  buffer<float> lse(n_rows * N_HEADS), dq(queries), dk(n_rows * N_KV * D), dv(n_rows * N_KV * D);
  buffer<double> dweight(std::vector<double>(N_KV * D, 0));
  lk_cuda_weighted j;
  memset(&j, 0, sizeof j);
  j.groups = device_groups.p, j.tables = device_tables.p, j.middle_end = middle_end.p;
  j.kind = kinds.p, j.weight = weight.p;
  j.n_groups = N_SEQUENCES, j.n_heads = N_HEADS, j.n_kv_heads = N_KV, j.head_dim = D;
  j.n_rows = n_rows, j.n_own = N_SEQUENCES * N_ROWS * N_ROWS;
  j.max_rows = N_ROWS, j.max_pages = n_pages;
  j.q = q.p, j.out = out.p, j.lse = lse.p, j.dout = dout.p;
  j.dq = dq.p, j.dk = dk.p, j.dv = dv.p, j.dweight = dweight.p;
  buffer<float> scratch(lk_cuda_weighted_scratch_bytes(&j, true) / sizeof(float));
  j.scratch = scratch.p;
  cudaEvent_t begin, stop;
  if (cudaEventCreate(&begin) != cudaSuccess || cudaEventCreate(&stop) != cudaSuccess)
    die("events");
  for (int backward = 0; backward < 2; backward++) {
    std::vector<float> ms;
    for (int i = 0; i < RUNS + 2; i++) {
      float once = 0;
      cudaEventRecord(begin, dev->stream);
      (backward ? lk_cuda_weighted_backward : lk_cuda_weighted_forward)(dev, &j);
      cudaEventRecord(stop, dev->stream);
      wait_for(dev);
      cudaEventElapsedTime(&once, begin, stop);
      if (i >= 2) ms.push_back(once);
    }
    std::sort(ms.begin(), ms.end());
    const double flops = (backward ? 6.0 : 4.0) * D * (double)(n_rows * N_HEADS * n_tokens);
    printf("weighted %s: 4 x 20 rows, %zu tokens, 12 / 2 heads, D 128: median %.3f ms, %.1f "
           "TFLOP/s\n",
           backward ? "backward" : "forward", n_tokens, ms[RUNS / 2], flops / ms[RUNS / 2] * 1e-9);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(stop);
}

int main(int argc, char **argv) {
  lk_cuda_device dev;
  open_device(&dev);
  if (argc > 1 && strcmp(argv[1], "--bench") == 0) {
    if (argc == 2)
      for (const size_t n : {2048, 8192, 32768}) bench(&dev, n);
    for (int i = 2; i < argc; i++) bench(&dev, strtoul(argv[i], NULL, 10));
    return 0;
  }
  for (size_t d = 64; d <= 128; d += 64)
    for (const size_t per : {1, 2, 3, 4, 6, 7, 8}) {
      test_pages(&dev, d, per);
      test_sliding(&dev, d, per);
    }
  test_long(&dev);
  return finish("test_cuda_weighted");
}
