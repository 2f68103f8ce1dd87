#include "eval_variants.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli_console.h"
#include "cli_report.h"
#include "mask_scores.h"

const char eval_baselines_help[] =
    "baselines, each with the share of K channels it removes (energy:0.7):\n"
    "  random, magnitude, energy, frequency   as leank mask score makes them\n"
    "  uniform   the first mask's alphas, the same number of channels in every head\n"
    "  think     ThinK: anew for each prompt, by norms of its last 32 queries and its keys\n"
    "They keep as many first and last tokens as the first mask does. --align is for random, "
    "magnitude\n"
    "and energy; the others, alike in every head, come as close to the ratio as they can.";

typedef enum baseline_kind {
  BASELINE_SCORE = 0, /* of mask_score_names */
  BASELINE_UNIFORM,
  BASELINE_THINK
} baseline_kind;

typedef struct baseline {
  baseline_kind kind;
  mask_score_method method;
  double ratio;
} baseline;

static bool parse_baseline(const char *text, baseline *out) {
  const size_t n = strcspn(text, ":");
  char *end;
  if (text[n] == '\0') return false;
  out->ratio = strtod(text + n + 1, &end);
  if (end == text + n + 1 || *end != '\0' || !(out->ratio >= 0 && out->ratio <= 1)) return false;
  out->kind = n == 7 && memcmp(text, "uniform", n) == 0 ? BASELINE_UNIFORM : BASELINE_THINK;
  if (out->kind == BASELINE_UNIFORM || (n == 5 && memcmp(text, "think", n) == 0)) return true;
  out->kind = BASELINE_SCORE;
  for (int i = 0; mask_score_names[i]; i++) {
    out->method = (mask_score_method)i;
    if (strlen(mask_score_names[i]) == n && memcmp(text, mask_score_names[i], n) == 0) return true;
  }
  return false;
}

/* Where all heads keep alike, a coarse count would miss the ratio by far. */
static bool is_aligned(const baseline *b) {
  return b->kind == BASELINE_SCORE && b->method != MASK_SCORE_FREQUENCY;
}

int eval_variants_check(const cli_texts *masks, const cli_texts *baselines) {
  baseline b;
  if (masks->n + baselines->n > EVAL_MAX_VARIANTS)
    return cli_usage_error("at most %d masks and baselines in a run", EVAL_MAX_VARIANTS);
  for (size_t i = 0; i < baselines->n; i++) {
    if (!parse_baseline(baselines->values[i], &b))
      return cli_usage_error("--baseline is METHOD:RATIO, such as energy:0.7, not '%s'",
                             baselines->values[i]);
    if (b.kind == BASELINE_UNIFORM && masks->n == 0)
      return cli_usage_error("baseline uniform takes the alphas of the first --mask");
  }
  for (size_t i = 0; i < masks->n; i++) {
    leank_mask *mask = NULL;
    leank_error err;
    if (leank_mask_open(masks->values[i], &mask, &err) != LEANK_OK) return cli_fail(&err);
    leank_mask_close(&mask);
  }
  return CLI_GO;
}

bool eval_variants_measure(const cli_texts *baselines) {
  baseline b;
  for (size_t i = 0; i < baselines->n; i++)
    if (parse_baseline(baselines->values[i], &b) && b.kind == BASELINE_SCORE &&
        mask_score_needs_text(b.method))
      return true;
  return false;
}

bool eval_variants_align(const cli_texts *baselines) {
  baseline b;
  for (size_t i = 0; i < baselines->n; i++)
    if (parse_baseline(baselines->values[i], &b) && is_aligned(&b)) return true;
  return false;
}

/* The file's name without folder and ending; then "name#2" where there is one already. */
static char *name_of_file(const eval_variants *v, const char *path) {
  const char *base = cli_base_name(path), *dot = strrchr(base, '.');
  const size_t n = dot && dot > base ? (size_t)(dot - base) : strlen(base), room = n + 16;
  char *name = cli_alloc(room, 1);
  snprintf(name, room, "%.*s", (int)n, base);
  for (size_t i = 0, again = 2; i < v->n; i++)
    if (strcmp(v->names[i], name) == 0 || strcmp(name, "dense") == 0) {
      snprintf(name, room, "%.*s#%zu", (int)n, base, again++);
      i = (size_t)-1;
    }
  return name;
}

static int open_mask(const cli_engine *engine, const char *path, eval_variants *v) {
  leank_error err;
  leank_mask *mask = NULL;
  if (leank_mask_open(path, &mask, &err) != LEANK_OK) return cli_fail(&err);
  v->names[v->n] = name_of_file(v, path);
  v->masks[v->n] = mask;
  v->list[v->n].mask = mask;
  v->n++;
  return cli_check_mask(mask, path, engine->info);
}

int eval_variants_round(const cli_engine *engine, const float *scores, const leank_mask *like,
                        double ratio, size_t align, leank_budget budget, leank_mask **out) {
  const leank_model_info *m = engine->info;
  leank_mask_info info;
  leank_error err;
  uint8_t *kept = cli_alloc(cli_n_channels(m), 1);
  leank_mask_info_default(&info);
  leank_mask_info_set_model(&info, m);
  info.ratio_asked = ratio;
  info.align = align;
  if (like) {
    info.n_sink = leank_mask_get_info(like)->n_sink;
    info.n_recent = leank_mask_get_info(like)->n_recent;
  }
  leank_status status = leank_mask_round(scores, m->n_layers, m->n_kv_heads, m->head_dim, ratio,
                                         align, budget, true, kept, &err);
  if (status == LEANK_OK) status = leank_mask_create(&info, kept, NULL, out, &err);
  free(kept);
  return status == LEANK_OK ? CLI_GO : cli_fail(&err);
}

/* What baselines are made from. */
typedef struct source {
  const cli_engine *engine;
  const leank_mask *first;
  size_t align, n_tokens;
  uint64_t seed;
  const char *text;
  leank_head_stats stats; /* once measured */
} source;

static int make_baseline(source *s, const baseline *b, leank_mask **out) {
  const leank_model_info *m = s->engine->info;
  size_t n_used;
  if (b->kind == BASELINE_UNIFORM) {
    const float *alpha = leank_mask_get_alpha(s->first);
    if (!alpha) return cli_complain("baseline uniform: the first mask has no alphas");
    return eval_variants_round(s->engine, alpha, s->first, b->ratio, 1, LEANK_BUDGET_PER_HEAD, out);
  }
  if (mask_score_needs_text(b->method) && !s->stats.k_abs) {
    int code = mask_scores_measure(s->engine, s->text, s->n_tokens, &s->stats, &n_used);
    if (code != CLI_GO) return code;
  }
  float *scores = cli_alloc(cli_n_channels(m), sizeof *scores);
  mask_scores_fill(m, b->method, &s->stats, s->seed, scores);
  const size_t align = is_aligned(b) ? s->align : 1;
  int code =
      eval_variants_round(s->engine, scores, s->first, b->ratio, align, LEANK_BUDGET_GLOBAL, out);
  free(scores);
  return code;
}

int eval_variants_open(const cli_engine *engine, const cli_texts *masks, const cli_texts *baselines,
                       size_t align, uint64_t seed, const char *text, size_t n_tokens,
                       eval_variants *out) {
  source s = {.engine = engine, .align = align, .n_tokens = n_tokens, .seed = seed, .text = text};
  leank_mask_info info;
  int code = CLI_GO;
  *out = (eval_variants){0};
  for (size_t i = 0; code == CLI_GO && i < masks->n; i++)
    code = open_mask(engine, masks->values[i], out);
  leank_mask_info_default(&info);
  s.first = masks->n > 0 ? out->masks[0] : NULL;
  if (s.first) info = *leank_mask_get_info(s.first);
  for (size_t i = 0; code == CLI_GO && i < baselines->n; i++) {
    baseline b;
    if (!parse_baseline(baselines->values[i], &b)) continue; /* checked before */
    if (b.kind != BASELINE_THINK) code = make_baseline(&s, &b, &out->masks[out->n]);
    if (code != CLI_GO) break;
    out->names[out->n] = cli_strdup(baselines->values[i]);
    out->list[out->n] = (leank_eval_variant){.mask = out->masks[out->n],
                                             .think_ratio = b.ratio,
                                             .think_n_sink = info.n_sink,
                                             .think_n_recent = info.n_recent};
    out->n++;
  }
  mask_scores_free(&s.stats);
  return code;
}

void eval_variants_close(eval_variants *variants) {
  for (size_t i = 0; i < EVAL_MAX_VARIANTS; i++) {
    free(variants->names[i]);
    leank_mask_close(&variants->masks[i]);
  }
  *variants = (eval_variants){0};
}

/* FNV-1a over what a mask keeps. */
static uint64_t hash_mask(const leank_mask *mask) {
  const leank_mask_info *info = leank_mask_get_info(mask);
  const uint8_t *kept = leank_mask_get_kept(mask);
  uint64_t hash = 0xcbf29ce484222325u;
  for (size_t i = 0; i < info->n_layers * info->n_kv_heads * info->head_dim; i++)
    hash = (hash ^ kept[i]) * 0x100000001b3u;
  return hash;
}

json_t *eval_variants_json(const eval_variants *variants) {
  json_t *list = json_array();
  for (size_t i = 0; i < variants->n; i++) {
    json_t *j = json_object();
    char hash[20];
    json_object_set_new(j, "name", cli_json_text(variants->names[i]));
    if (variants->masks[i]) {
      const leank_mask_info *info = leank_mask_get_info(variants->masks[i]);
      snprintf(hash, sizeof hash, "%016" PRIx64, hash_mask(variants->masks[i]));
      json_object_set_new(j, "kept", json_string(hash));
      json_object_set_new(j, "n_sink", cli_json_size(info->n_sink));
      json_object_set_new(j, "n_recent", cli_json_size(info->n_recent));
      json_object_set_new(j, "policy", json_string(cli_policy_name(info->policy)));
      json_object_set_new(j, "mean_compensation", json_boolean(info->mean_compensation));
    }
    json_array_append_new(list, j);
  }
  return list;
}
