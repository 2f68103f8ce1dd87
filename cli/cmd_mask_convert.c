/* leank mask import, leank mask export. */
#include <stdio.h>

#include "cli_engine.h"
#include "cli_console.h"
#include "mask_meta.h"

/* A mask like the given one with other metadata. */
static int with_info(const leank_mask *mask, const leank_mask_info *info, leank_mask **out) {
  leank_error err;
  leank_status status =
      leank_mask_create(info, leank_mask_get_kept(mask), leank_mask_get_alpha(mask), out, &err);
  return status == LEANK_OK ? CLI_GO : cli_fail(&err);
}

/* Metadata of an imported mask: its model's where one is named, and the file's name. */
static int import_info(const leank_mask *mask, const char *file, const char *config,
                       const mask_meta *meta, leank_mask_info *info) {
  leank_model_info model;
  leank_error err;
  *info = *leank_mask_get_info(mask);
  if (!info->method[0]) snprintf(info->method, sizeof info->method, "import");
  if (!info->data[0]) snprintf(info->data, sizeof info->data, "%s", cli_base_name(file));
  if (config) {
    if (leank_model_read_info(config, &model, &err) != LEANK_OK ||
        leank_mask_check(mask, &model, NULL, &err) != LEANK_OK)
      return cli_fail(&err);
    leank_mask_info_set_model(info, &model);
  }
  mask_meta_apply(meta, info);
  return CLI_GO;
}

int cmd_mask_import(int argc, char **argv) {
  const char *out = NULL, *config = NULL;
  mask_meta meta = mask_meta_default();
  const cli_option rows[] = {
      {'o', "out", CLI_PLACE, &out, "FILE", "the mask file to write"},
      {0, "config", CLI_TEXT, &config, "MODEL", "model or config.json the mask was made for"},
      CLI_SPLIT_ROWS(meta, "128", "768"),
      CLI_MEANS_ROWS(meta, "drop", "off"),
  };
  const cli_command command = {
      .usage = "leank mask import FILE.pth -o OUT [--config MODEL_OR_CONFIG]",
      .about =
          "Turns a mask in the layout of the paper's code into a mask file. --config fills in\n"
          "architecture and RoPE, and checks the sizes.",
      .options = rows,
      .n_options = sizeof rows / sizeof *rows,
      .n_min = 1,
      .n_max = 1,
  };
  const char *file[CLI_MAX_POSITIONALS];
  leank_mask *mask = NULL, *result = NULL;
  leank_mask_info info;
  leank_error err;
  int code = cli_parse(&command, argc, argv, file);
  if (code != CLI_GO) return code;
  if (!out) return cli_usage_error("-o is missing");
  if (leank_mask_open(file[0], &mask, &err) != LEANK_OK) return cli_fail(&err);
  code = import_info(mask, file[0], config, &meta, &info);
  if (code == CLI_GO) code = with_info(mask, &info, &result);
  if (code == CLI_GO) {
    code = leank_mask_save(result, out, &err) == LEANK_OK ? CLI_OK : cli_fail(&err);
  }
  leank_mask_close(&result);
  leank_mask_close(&mask);
  return code;
}

int cmd_mask_export(int argc, char **argv) {
  const char *out = NULL;
  const cli_option rows[] = {{'o', "out", CLI_PLACE, &out, "FILE", "the .pth file to write"}};
  const cli_command command = {
      .usage = "leank mask export FILE -o OUT.pth",
      .about = "Writes a mask as the paper's code reads it: float32 0 and 1, [L][Hk][D].",
      .options = rows,
      .n_options = 1,
      .n_min = 1,
      .n_max = 1,
  };
  const char *file[CLI_MAX_POSITIONALS];
  leank_mask *mask = NULL;
  leank_error err;
  int code = cli_parse(&command, argc, argv, file);
  if (code != CLI_GO) return code;
  if (!out) return cli_usage_error("-o is missing");
  if (leank_mask_open(file[0], &mask, &err) != LEANK_OK) return cli_fail(&err);
  code = leank_mask_save_pth(mask, out, &err) == LEANK_OK ? CLI_OK : cli_fail(&err);
  leank_mask_close(&mask);
  return code;
}
