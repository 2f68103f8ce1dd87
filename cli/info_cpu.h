/* What leank info --cpu says about the machine. */
#ifndef LEANK_CLI_INFO_CPU_H
#define LEANK_CLI_INFO_CPU_H

#include <jansson.h>

#include <leank/cpu.h>

#include "cli_engine.h"

/* For the level and cache type of the options. CLI_GO, or complains and returns cli_fail's
 * code. */
int info_cpu_describe(const cli_engine_options *options, leank_cpu_info *out);
void info_cpu_print(const leank_cpu_info *cpu);
json_t *info_cpu_json(const leank_cpu_info *cpu);

#endif
