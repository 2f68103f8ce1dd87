/* Numbers, tables and JSON for people and programs. */
#ifndef LEANK_CLI_REPORT_H
#define LEANK_CLI_REPORT_H

#include <jansson.h>
#include <stdint.h>

#include <leank/leank.h>

#include "cli_generate.h"

/* "73,984" in one of a few static buffers: good for one printf call. */
const char *cli_grouped(uint64_t n);
/* a / b in percent; 0 where b is 0. */
double cli_percent(uint64_t a, uint64_t b);
/* Prints a string from a file with control characters made visible. */
void cli_print_text(const char *text);

const char *cli_order_name(leank_channel_order order);
const char *cli_policy_name(leank_policy policy);
const char *cli_kv_type_name(int kv_type);

/* A JSON string; bytes that are not UTF-8 become U+FFFD. */
json_t *cli_json_text(const char *text);
json_t *cli_json_size(uint64_t n);
json_t *cli_json_model(const leank_model_info *info);
json_t *cli_json_plan(const leank_plan *plan);
json_t *cli_json_generation(const cli_generation *g);
/* Prints a value (taken over) as one object over several lines, or as one line. */
void cli_json_print(json_t *value, bool one_line);
/* The same over several lines, with as many digits as give every number back when it is read. */
void cli_json_print_exact(json_t *value);

/* The line under a run: what was read and written, how fast, how large the cache is. */
void cli_print_stats(const cli_generation *g);

#endif
