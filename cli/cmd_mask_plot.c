/* leank mask plot: a mask as a picture. */
#include "cli_console.h"
#include "cli_file.h"
#include "cli_options.h"
#include "learn_log.h"
#include "mask_plot.h"

static int draw(const leank_mask *mask, const learn_log *log, const char *title, const char *out) {
  mask_counts counts = mask_counts_make(mask);
  mask_plot plot = {mask, &counts, log, title};
  cli_buffer svg = {0};
  mask_plot_draw(&plot, &svg);
  int code = cli_write_file(out, svg.data, svg.n);
  cli_buffer_free(&svg);
  mask_counts_free(&counts);
  return code;
}

int cmd_mask_plot(int argc, char **argv) {
  const char *out = NULL, *log_path = NULL, *title = NULL;
  const cli_option rows[] = {
      {'o', "out", CLI_TEXT, &out, "FILE.svg", "the picture to write, - = stdout"},
      {0, "log", CLI_TEXT, &log_path, "LOG.jsonl", "adds the curves of a log of leank learn"},
      {0, "title", CLI_TEXT, &title, "TEXT", "heading (the name of the mask's file)"},
  };
  const cli_command command = {
      .usage = "leank mask plot FILE -o OUT.svg [--log LOG.jsonl] [--title TEXT]",
      .about = "Draws what a mask keeps: by RoPE pair, by layer and head, by layer, and by alpha\n"
               "where that is stored. FILE may also be in the layout of the paper's code.",
      .options = rows,
      .n_options = sizeof rows / sizeof *rows,
      .n_min = 1,
      .n_max = 1,
  };
  const char *file[CLI_MAX_POSITIONALS];
  leank_mask *mask = NULL;
  learn_log log = {0};
  leank_error err;
  int code = cli_parse(&command, argc, argv, file);
  if (code != CLI_GO) return code;
  if (!out) return cli_usage_error("-o is missing");
  if (leank_mask_open(file[0], &mask, &err) != LEANK_OK) return cli_fail(&err);
  if (!title) title = cli_base_name(file[0]);
  if (log_path) code = learn_log_read(log_path, &log);
  if (code == CLI_GO) code = draw(mask, log_path ? &log : NULL, title, out);
  learn_log_free(&log);
  leank_mask_close(&mask);
  return code == CLI_GO ? CLI_OK : code;
}
