#include "text/bpe.h"

#include <assert.h>

#include "base/alloc.h"

enum { FIRST_ROOM = 64 };
static const uint32_t none = UINT32_MAX;

/* ---- merges by pair ---- */

static uint32_t *slot_of(const lk_bpe *bpe, leank_token left, leank_token right) {
  const uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
  size_t slot = (size_t)lk_mix64(key) & (bpe->n_slots - 1);
  while (bpe->slots[slot]) {
    const lk_merge *m = &bpe->merges[bpe->slots[slot] - 1];
    if (m->left == left && m->right == right) break;
    slot = (slot + 1) & (bpe->n_slots - 1);
  }
  return &bpe->slots[slot];
}

leank_status lk_bpe_open_merges(lk_bpe *bpe, size_t n, leank_error *err) {
  bpe->n_slots = 16;
  while (bpe->n_slots < 2 * n) bpe->n_slots *= 2;
  bpe->merges = lk_alloc(LK_MEM_TEXT, n, sizeof *bpe->merges);
  bpe->slots = lk_alloc(LK_MEM_TEXT, bpe->n_slots, sizeof *bpe->slots);
  if (!bpe->merges || !bpe->slots) return lk_fail(err, LEANK_E_MEMORY, -1, "out of memory");
  return LEANK_OK;
}

void lk_bpe_add_merge(lk_bpe *bpe, lk_merge merge) {
  bpe->merges[bpe->n_merges++] = merge;
  *slot_of(bpe, merge.left, merge.right) = (uint32_t)bpe->n_merges;
}

void lk_bpe_free(lk_bpe *bpe) {
  lk_free(bpe->merges);
  lk_free(bpe->slots);
  lk_str_map_free(&bpe->words);
  *bpe = (lk_bpe){0};
}

/* ---- candidates ---- */

static void sift_up(uint64_t *heap, size_t i) {
  const uint64_t item = heap[i];
  for (; i > 0 && heap[(i - 1) / 2] > item; i = (i - 1) / 2) heap[i] = heap[(i - 1) / 2];
  heap[i] = item;
}

static uint64_t pop(lk_bpe_run *run) {
  uint64_t *heap = run->heap;
  const uint64_t top = heap[0], item = heap[--run->n_heap];
  size_t i = 0;
  for (size_t child = 1; child < run->n_heap; child = 2 * i + 1) {
    if (child + 1 < run->n_heap && heap[child + 1] < heap[child]) child++;
    if (heap[child] >= item) break;
    heap[i] = heap[child];
    i = child;
  }
  heap[i] = item;
  return top;
}

/* The pair at `at` and its right neighbour, where some merge joins them. */
static void offer(lk_bpe_run *run, uint32_t at) {
  const uint32_t right = run->next[at];
  if (right == none) return;
  const uint32_t rank1 = *slot_of(run->bpe, run->symbols[at], run->symbols[right]);
  if (rank1 == 0) return;
  run->heap[run->n_heap] = (uint64_t)(rank1 - 1) << 32 | at;
  sift_up(run->heap, run->n_heap++);
}

/* A candidate is stale where one of its symbols has been merged away or has grown since. */
static void apply(lk_bpe_run *run, uint64_t candidate) {
  const lk_merge *m = &run->bpe->merges[candidate >> 32];
  const uint32_t at = (uint32_t)candidate, right = run->next[at];
  if (run->symbols[at] != m->left || right == none || run->symbols[right] != m->right) return;
  const uint32_t after = run->next[right];
  run->symbols[at] = m->merged;
  run->symbols[right] = -1;
  run->next[at] = after;
  if (after != none) run->prev[after] = at;
  if (run->prev[at] != none) offer(run, run->prev[at]);
  offer(run, at);
}

/* ---- one word ---- */

static leank_status grow_word(lk_bpe_run *run, size_t n, leank_error *err) {
  if (n <= run->word_room) return LEANK_OK;
  size_t room = run->word_room ? run->word_room : FIRST_ROOM;
  while (room < n) room *= 2;
  lk_bpe_run_end(run);
  run->symbols = lk_alloc(LK_MEM_TEXT, room, sizeof *run->symbols);
  run->prev = lk_alloc(LK_MEM_TEXT, room, sizeof *run->prev);
  run->next = lk_alloc(LK_MEM_TEXT, room, sizeof *run->next);
  /* n - 1 pairs to begin with, and each of at most n - 1 merges takes one and gives two. */
  run->heap = lk_alloc(LK_MEM_TEXT, 2 * room, sizeof *run->heap);
  if (!run->symbols || !run->prev || !run->next || !run->heap)
    return lk_fail(err, LEANK_E_MEMORY, -1, "out of memory");
  run->word_room = room;
  return LEANK_OK;
}

leank_status lk_bpe_push(lk_bpe_run *run, leank_token token, leank_error *err) {
  leank_token *out = lk_grow(run->out, LK_MEM_TEXT, run->n_out, &run->out_room, sizeof *out);
  if (!out) return lk_fail(err, LEANK_E_MEMORY, -1, "out of memory");
  run->out = out;
  run->out[run->n_out++] = token;
  return LEANK_OK;
}

/* Bytes to symbols; the number of symbols. */
static size_t load_symbols(lk_bpe_run *run, const char *word, size_t n_bytes) {
  const lk_bpe *bpe = run->bpe;
  size_t n = 0;
  bool was_unknown = false;
  for (size_t i = 0; i < n_bytes; i++) {
    const leank_token token = bpe->byte_token[(unsigned char)word[i]];
    const bool fused = token < 0 && was_unknown && bpe->fuse_unknown;
    was_unknown = token < 0;
    if (fused || (token < 0 && bpe->unknown < 0)) continue;
    run->symbols[n++] = token < 0 ? bpe->unknown : token;
  }
  for (size_t i = 0; i < n; i++) {
    run->prev[i] = i > 0 ? (uint32_t)i - 1 : none;
    run->next[i] = i + 1 < n ? (uint32_t)i + 1 : none;
  }
  return n;
}

leank_status lk_bpe_encode(lk_bpe_run *run, const char *word, size_t n_bytes, leank_error *err) {
  leank_status status = LEANK_OK;
  assert(n_bytes < none);
  if (run->bpe->whole_words) {
    const leank_token token =
        lk_str_map_get(&run->bpe->words, (lk_span){word, n_bytes}, (lk_span){"", 0});
    if (token >= 0) return lk_bpe_push(run, token, err);
  }
  LK_TRY(grow_word(run, n_bytes, err));
  const size_t n = load_symbols(run, word, n_bytes);
  run->n_heap = 0;
  for (size_t i = 0; i + 1 < n; i++) offer(run, (uint32_t)i);
  while (run->n_heap > 0) apply(run, pop(run));
  for (uint32_t i = n > 0 ? 0 : none; i != none; i = run->next[i])
    LK_TRY(lk_bpe_push(run, run->symbols[i], err));
cleanup:
  return status;
}

void lk_bpe_run_end(lk_bpe_run *run) {
  lk_free(run->symbols);
  lk_free(run->prev);
  lk_free(run->next);
  lk_free(run->heap);
  run->symbols = NULL;
  run->prev = run->next = NULL;
  run->heap = NULL;
  run->word_room = 0;
}
