/* The commands of `leank` and what they return to the shell. */
#ifndef LEANK_CLI_H
#define LEANK_CLI_H

/* CLI_GO is no result: what a step returns when its command shall go on. */
enum { CLI_GO = -1, CLI_OK = 0, CLI_FAILURE = 1, CLI_USAGE = 2, CLI_INTERRUPTED = 130 };

/* Each takes the arguments behind its name and returns one of the codes above. */
int cmd_run(int argc, char **argv);
int cmd_info(int argc, char **argv);
int cmd_mask(int argc, char **argv);
int cmd_mask_show(int argc, char **argv);
int cmd_mask_plot(int argc, char **argv);
int cmd_mask_score(int argc, char **argv);
int cmd_mask_import(int argc, char **argv);
int cmd_mask_export(int argc, char **argv);
int cmd_tokenize(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_bench_attention(int argc, char **argv);
int cmd_bench_matvec(int argc, char **argv);
int cmd_bench_decode(int argc, char **argv);
int cmd_bench_prefill(int argc, char **argv);
int cmd_bench_memory(int argc, char **argv);
int cmd_bench_learn(int argc, char **argv);
int cmd_analyze(int argc, char **argv);
int cmd_eval(int argc, char **argv);
int cmd_learn(int argc, char **argv);
int cmd_mask_compare(int argc, char **argv);
int cmd_mask_round(int argc, char **argv);

#endif
