#include <stdio.h>

#include "cli_report.h"
#include "run.h"

/* One side: its own session, its own prefill, so that both are timed alike; the session's memory is
 * gone before the other side starts. */
static int run_side(const cli_engine *engine, const run_options *o, bool masked,
                    const leank_token *prompt, size_t n_prompt, size_t n_ctx, cli_generation *out) {
  if (!o->json) printf("%s--- %s ---\n", masked ? "\n" : "", masked ? "LeanK" : "dense");
  int code = cli_generation_open(engine, masked, n_ctx, &o->generate, !o->json, out);
  if (code == CLI_GO && o->verbose && masked) fputs(leank_session_kernels(out->session), stderr);
  if (code == CLI_GO) code = cli_generate(out, prompt, n_prompt);
  if (code == CLI_GO && !o->json) putchar('\n');
  cli_generation_end_session(out);
  return code;
}

static void bytes_row(const char *label, uint64_t dense, uint64_t lean) {
  printf("%-34s %16s %16s %8.1f %%\n", label, cli_grouped(dense), cli_grouped(lean),
         cli_percent(lean, dense));
}

static void rate_row(const char *label, double dense, double lean) {
  printf("%-34s %16.2f %16.2f", label, dense, lean);
  if (dense > 0) printf(" %8.2f x", lean / dense);
  putchar('\n');
}

static uint64_t stored(const leank_memory *m) { return m->wide_stored + m->lean_stored; }
static uint64_t reserved(const leank_memory *m) { return m->wide_reserved + m->lean_reserved; }
static uint64_t resident(const leank_memory *m) { return m->wide_resident + m->lean_resident; }

static int print_table(const cli_generation *dense, const cli_generation *lean) {
  leank_plan dense_plan, lean_plan, dense_like;
  int code = cli_generation_plan(dense, false, &dense_plan);
  if (code == CLI_GO) code = cli_generation_plan(lean, true, &lean_plan);
  if (code == CLI_GO) code = cli_generation_plan(lean, false, &dense_like);
  if (code != CLI_GO) return code;
  printf("\n%-34s %16s %16s %10s\n", "", "dense", "LeanK", "LeanK/dense");
  printf("%-34s %16zu %16zu\n", "prompt tokens", dense->n_prompt, lean->n_prompt);
  printf("%-34s %16zu %16zu\n", "generated tokens", dense->n_tokens, lean->n_tokens);
  printf("%-34s %16zu %16zu\n", "tokens in the cache", dense->length, lean->length);
  bytes_row("KV bytes stored, measured", stored(&dense->memory), stored(&lean->memory));
  bytes_row("KV bytes stored, plan", dense_plan.wide_stored + dense_plan.lean_stored,
            lean_plan.wide_stored + lean_plan.lean_stored);
  bytes_row("KV bytes reserved, measured", reserved(&dense->memory), reserved(&lean->memory));
  if (resident(&dense->memory)) {
    bytes_row("KV bytes resident", resident(&dense->memory), resident(&lean->memory));
  }
  rate_row("prefill tokens/s (each its own)", cli_prefill_rate(dense), cli_prefill_rate(lean));
  rate_row("decode tokens/s", cli_decode_rate(dense), cli_decode_rate(lean));
  size_t n = dense->n_tokens > lean->n_tokens ? dense->n_tokens : lean->n_tokens;
  printf("%-34s %16zu of %zu\n", "leading tokens that agree", cli_leading_agreement(dense, lean),
         n);
  if (dense->length != lean->length) {
    printf("The lengths differ: at %zu tokens LeanK stores %.1f %% of dense.\n", lean->length,
           cli_percent(stored(&lean->memory), dense_like.dense_stored));
  }
  if (lean->memory.lean_stored == 0 && lean_plan.n_lean_tokens == 0) {
    printf("All %zu tokens are sink or recent: at this length the mask changes nothing.\n",
           lean->length);
  }
  return CLI_GO;
}

static void print_json(const cli_generation *dense, const cli_generation *lean) {
  json_t *o = json_object();
  json_object_set_new(o, "dense", cli_json_generation(dense));
  json_object_set_new(o, "leank", cli_json_generation(lean));
  json_object_set_new(o, "separate_prefills", json_true());
  json_object_set_new(o, "leading_agreement", cli_json_size(cli_leading_agreement(dense, lean)));
  cli_json_print(o, false);
}

int run_compare(const cli_engine *engine, const run_options *options, const leank_token *prompt,
                size_t n_prompt, size_t n_ctx) {
  cli_generation dense = {0}, lean = {0};
  int code = run_side(engine, options, false, prompt, n_prompt, n_ctx, &dense);
  bool stopped = code == CLI_GO && dense.stop == CLI_STOP_INTERRUPTED;
  if (code == CLI_GO && !stopped) {
    code = run_side(engine, options, true, prompt, n_prompt, n_ctx, &lean);
    stopped = code == CLI_GO && lean.stop == CLI_STOP_INTERRUPTED;
  }
  if (code == CLI_GO && options->json)
    print_json(&dense, &lean);
  else if (code == CLI_GO && dense.length && lean.length)
    code = print_table(&dense, &lean);
  else if (code == CLI_GO)
    cli_complain("interrupted before there was anything to compare");
  if (code == CLI_GO) code = stopped ? CLI_INTERRUPTED : CLI_OK;
  cli_generation_close(&dense);
  cli_generation_close(&lean);
  return code;
}
