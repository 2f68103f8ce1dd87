/* leank mask round: a learned mask's alphas, rounded anew. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "cli_console.h"
#include "cli_engine.h"
#include "mask_meta.h"

typedef struct round_options {
  const char *out;
  double ratio; /* NAN: as the mask says */
  size_t align;
  int budget;
  bool exact;
  mask_meta meta;
} round_options;

static int parse(int argc, char **argv, round_options *o, const char **file) {
  const cli_option rows[] = {
      {'o', "out", CLI_PLACE, &o->out, "FILE", "the mask file to write"},
      {0, "ratio", CLI_NUMBER, &o->ratio, "R", "share of K channels to remove (the mask's)"},
      {0, "align", CLI_SIZE, &o->align, "N", "kept counts are multiples of it (the mask's)"},
      {0, "budget", CLI_CHOICE, &o->budget, "global|per-head",
       "whether heads compete for channels (global)"},
      {0, "exact-budget", CLI_FLAG, &o->exact, NULL, "search the counts closest to the ratio"},
      CLI_SPLIT_ROWS(o->meta, "the mask's", "the mask's"),
      CLI_MEANS_ROWS(o->meta, "the mask's", "the mask's"),
  };
  const cli_command command = {
      .usage = "leank mask round MASK -o OUT [options]",
      .about = "Rounds the alphas of a learned mask to another ratio, alignment or budget.",
      .details = "Alphas were learned for one ratio; far from it, learn anew.",
      .options = rows,
      .n_options = sizeof rows / sizeof *rows,
      .n_min = 1,
      .n_max = 1,
  };
  int code = cli_parse(&command, argc, argv, file);
  if (code != CLI_GO) return code;
  if (!o->out) return cli_usage_error("-o is missing");
  if (o->ratio < 0 || o->ratio > 1) return cli_usage_error("--ratio is between 0 and 1");
  return CLI_GO;
}

static leank_status round_mask(const leank_mask *mask, const round_options *o, leank_mask **out,
                               leank_error *err) {
  leank_mask_info info = *leank_mask_get_info(mask);
  const float *alpha = leank_mask_get_alpha(mask);
  uint8_t *kept = cli_alloc(info.n_layers * info.n_kv_heads * info.head_dim, 1);
  if (!isnan(o->ratio)) info.ratio_asked = o->ratio;
  if (o->align) info.align = o->align;
  mask_meta_apply(&o->meta, &info);
  leank_status status =
      leank_mask_round(alpha, info.n_layers, info.n_kv_heads, info.head_dim, info.ratio_asked,
                       info.align, (leank_budget)o->budget, o->exact, kept, err);
  if (status == LEANK_OK) status = leank_mask_create(&info, kept, alpha, out, err);
  free(kept);
  return status;
}

int cmd_mask_round(int argc, char **argv) {
  round_options o = {.ratio = NAN, .meta = mask_meta_default()};
  const char *file[CLI_MAX_POSITIONALS];
  leank_mask *mask = NULL, *rounded = NULL;
  leank_error err;
  int code = parse(argc, argv, &o, file);
  if (code != CLI_GO) return code;
  if (leank_mask_open(file[0], &mask, &err) != LEANK_OK) return cli_fail(&err);
  if (!leank_mask_get_alpha(mask)) {
    leank_mask_close(&mask);
    return cli_complain("%s: holds no alpha: only learned masks can be rounded anew", file[0]);
  }
  leank_status status = round_mask(mask, &o, &rounded, &err);
  if (status == LEANK_OK) status = leank_mask_save(rounded, o.out, &err);
  if (status == LEANK_OK) {
    const leank_mask_info *info = leank_mask_get_info(rounded);
    printf("%s: %.2f %% of K channels removed (asked %.2f %%)\n", o.out, 100 * info->ratio_reached,
           100 * info->ratio_asked);
    mask_hint_ratio(rounded, (leank_budget)o.budget, o.exact);
  }
  leank_mask_close(&rounded);
  leank_mask_close(&mask);
  return status == LEANK_OK ? CLI_OK : cli_fail(&err);
}
