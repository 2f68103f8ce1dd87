#include <stdio.h>
#include <string.h>

#include "cli_console.h"

int cmd_mask(int argc, char **argv) {
  if (argc > 0) {
    if (strcmp(argv[0], "show") == 0) return cmd_mask_show(argc - 1, argv + 1);
    if (strcmp(argv[0], "plot") == 0) return cmd_mask_plot(argc - 1, argv + 1);
    if (strcmp(argv[0], "score") == 0) return cmd_mask_score(argc - 1, argv + 1);
    if (strcmp(argv[0], "round") == 0) return cmd_mask_round(argc - 1, argv + 1);
    if (strcmp(argv[0], "compare") == 0) return cmd_mask_compare(argc - 1, argv + 1);
    if (strcmp(argv[0], "import") == 0) return cmd_mask_import(argc - 1, argv + 1);
    if (strcmp(argv[0], "export") == 0) return cmd_mask_export(argc - 1, argv + 1);
    if (strcmp(argv[0], "--help") != 0 && strcmp(argv[0], "-h") != 0) {
      return cli_usage_error("unknown command 'mask %s' (see leank mask --help)", argv[0]);
    }
  }
  printf("usage: leank mask COMMAND [arguments]\n\n"
         "commands:\n"
         "  show FILE                sizes, kept channels, where the mask comes from\n"
         "  plot FILE -o OUT.svg     the same as a picture, with the curves of its training\n"
         "  score MODEL -o OUT       make a mask without training\n"
         "  round FILE -o OUT        another ratio from the alphas of a learned mask\n"
         "  compare MODEL FILE ...   against the dense cache, on prompts with answers\n"
         "  import FILE.pth -o OUT   from the layout of the paper's code\n"
         "  export FILE -o OUT.pth   to it\n\n"
         "`leank mask COMMAND --help` says more.\n");
  return argc > 0 ? CLI_OK : CLI_USAGE;
}
