#include <stdio.h>
#include <string.h>

#include "cli_console.h"

int cmd_bench(int argc, char **argv) {
  if (argc > 0) {
    if (strcmp(argv[0], "attention") == 0) return cmd_bench_attention(argc - 1, argv + 1);
    if (strcmp(argv[0], "matvec") == 0) return cmd_bench_matvec(argc - 1, argv + 1);
    if (strcmp(argv[0], "decode") == 0) return cmd_bench_decode(argc - 1, argv + 1);
    if (strcmp(argv[0], "prefill") == 0) return cmd_bench_prefill(argc - 1, argv + 1);
    if (strcmp(argv[0], "memory") == 0) return cmd_bench_memory(argc - 1, argv + 1);
    if (strcmp(argv[0], "learn") == 0) return cmd_bench_learn(argc - 1, argv + 1);
    if (strcmp(argv[0], "--help") != 0 && strcmp(argv[0], "-h") != 0) {
      return cli_usage_error("unknown command 'bench %s' (see leank bench --help)", argv[0]);
    }
  }
  printf("usage: leank bench COMMAND [arguments]\n\n"
         "commands:\n"
         "  attention [MODEL]   attention of a decode step, dense and LeanK in turns; no weights\n"
         "  matvec              products with stored weights of every type; no model\n"
         "  decode MODEL        decode steps at several lengths, dense and LeanK in turns\n"
         "  prefill MODEL       prompts of several lengths\n"
         "  memory MODEL        more and more sequences, until the memory is full\n"
         "  learn MODEL         learning a mask: contexts, updates, a whole run\n\n"
         "MODEL may be a bare config.json: a model of that shape with random weights.\n"
         "All measure how fast this machine reads memory, in the same process.\n"
         "`leank bench COMMAND --help` says more.\n");
  return argc > 0 ? CLI_OK : CLI_USAGE;
}
