#include "learn_settings.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "cli_console.h"
#include "cli_engine.h"
#include "cli_report.h"

/* ---- data sets ---- */

data_settings data_settings_default(void) {
  return (data_settings){.n_contexts = SIZE_MAX, .n_questions = SIZE_MAX, .seed = UINT64_MAX};
}

static void set_size(size_t *to, size_t given) {
  if (given != SIZE_MAX) *to = given;
}

static int parse_tasks(const cli_texts *names, unsigned *tasks) {
  *tasks = 0;
  for (size_t i = 0; i < names->n; i++) {
    int t = 0;
    while (t < LEANK_N_TASKS && strcmp(names->values[i], leank_task_name((leank_task)t)) != 0) t++;
    if (t == LEANK_N_TASKS) {
      return cli_usage_error("unknown task '%s': uuid, words, values, passkeys or file",
                             names->values[i]);
    }
    if (t == LEANK_TASK_RANDOM)
      return cli_usage_error("task random is for time alone, and nothing is learned from it: see "
                             "leank bench learn");
    *tasks |= 1u << t;
  }
  return CLI_GO;
}

int data_settings_apply(const data_settings *given, leank_dataset_options *o) {
  if (given->tasks.n) {
    int code = parse_tasks(&given->tasks, &o->tasks);
    if (code != CLI_GO) return code;
  } else if (given->examples) {
    o->tasks = 1u << LEANK_TASK_FILE;
  }
  if (given->lengths.n > 2) return cli_usage_error("--lengths takes one or two numbers");
  if (given->lengths.n) {
    o->min_tokens = given->lengths.values[0];
    o->max_tokens = given->lengths.values[given->lengths.n - 1];
  }
  if (given->n_contexts == 0 || given->n_questions == 0)
    return cli_usage_error("--contexts and --questions are at least 1");
  set_size(&o->n_contexts, given->n_contexts);
  set_size(&o->n_questions, given->n_questions);
  if (given->haystacks.n) {
    o->haystacks = given->haystacks.values;
    o->n_haystacks = given->haystacks.n;
  }
  if (given->examples) o->examples = given->examples;
  if (given->seed != UINT64_MAX) o->seed = given->seed;
  return CLI_GO;
}

int data_settings_check(const data_settings *given, unsigned tasks) {
  const bool reads = tasks & 1u << LEANK_TASK_FILE;
  if (reads && !given->examples) return cli_usage_error("task file needs its file: --examples");
  if (reads || !given->examples) return CLI_GO;
  return cli_usage_error("--examples are for task file, which --tasks leaves out");
}

/* ---- learning ---- */

learn_settings learn_settings_default(void) {
  return (learn_settings){.ratio = NAN,
                          .lambda = NAN,
                          .lr1 = NAN,
                          .lr2 = NAN,
                          .align = SIZE_MAX,
                          .steps1 = SIZE_MAX,
                          .steps2 = SIZE_MAX,
                          .batch = SIZE_MAX,
                          .n_sink = SIZE_MAX,
                          .n_recent = SIZE_MAX,
                          .eval_every = SIZE_MAX,
                          .checkpoint_every = SIZE_MAX,
                          .budget = -1,
                          .loss = -1,
                          .policy = -1,
                          .mean_compensation = -1,
                          .seed = UINT64_MAX,
                          .held_out_seed = UINT64_MAX,
                          .data = data_settings_default(),
                          .n_held_out = SIZE_MAX};
}

static void set_number(double *to, double given) {
  if (!isnan(given)) *to = given;
}

static void apply_procedure(const learn_settings *g, leank_learn_options *o) {
  set_number(&o->ratio, g->ratio);
  set_number(&o->lambda, g->lambda);
  set_number(&o->lr1, g->lr1);
  set_number(&o->lr2, g->lr2);
  set_size(&o->align, g->align);
  set_size(&o->n_steps1, g->steps1);
  set_size(&o->n_steps2, g->steps2);
  set_size(&o->batch, g->batch);
  set_size(&o->n_sink, g->n_sink);
  set_size(&o->n_recent, g->n_recent);
  set_size(&o->eval_every, g->eval_every);
  set_size(&o->checkpoint_every, g->checkpoint_every);
  if (g->budget >= 0) o->budget = (leank_budget)g->budget;
  if (g->loss >= 0) o->loss = (leank_loss)g->loss;
  if (g->policy >= 0) o->policy = (leank_policy)g->policy;
  if (g->exact_budget) o->exact_budget = true;
  if (g->mean_compensation >= 0) o->mean_compensation = g->mean_compensation;
  if (g->seed != UINT64_MAX) o->seed = g->seed;
  o->n_threads = g->n_threads;
  o->cpu = cli_cpu_level(g->cpu);
  o->kv_type = (leank_kv_type)g->kv_type;
  if (g->prefill_chunk) o->prefill_chunk = g->prefill_chunk;
  o->cache_bytes = g->cache_size;
  o->cache_folder = g->cache_folder;
}

/* The held-out set is of the same kind, but for its seed, unless its tasks are named. */
static int apply_data(const learn_settings *g, leank_learn_options *o) {
  data_settings held_out = g->data;
  if (g->seed != UINT64_MAX) o->train.seed = g->seed;
  int code = data_settings_apply(&g->data, &o->train);
  held_out.n_contexts = SIZE_MAX;
  held_out.seed = g->held_out_seed;
  if (g->held_out_tasks.n) held_out.tasks = g->held_out_tasks;
  if (code == CLI_GO) code = data_settings_apply(&held_out, &o->held_out);
  set_size(&o->held_out.n_contexts, g->n_held_out);
  if (code == CLI_GO) code = data_settings_check(&g->data, o->train.tasks | o->held_out.tasks);
  if (code == CLI_GO && o->held_out.n_contexts > 0 && o->held_out.seed == o->train.seed) {
    return cli_usage_error(
        "--held-out-seed is that of the training data: prompts would be the same");
  }
  return code;
}

int learn_settings_resolve(const learn_settings *g, const leank_model_info *model,
                           leank_learn_options *o) {
  if (g->fingerprint && strcmp(g->fingerprint, model->fingerprint) != 0) {
    return cli_complain("the config is for another model (fingerprint %s, this model %s)",
                        g->fingerprint, model->fingerprint);
  }
  if (g->preset == 1)
    leank_learn_options_paper(model, o);
  else
    leank_learn_options_default(o);
  apply_procedure(g, o);
  int code = cli_device_named(g->device, &o->device, &o->device_index);
  return code == CLI_GO ? apply_data(g, o) : code;
}

/* ---- as JSON ---- */

static json_t *task_list(unsigned tasks) {
  json_t *list = json_array();
  for (int t = 0; t < LEANK_N_TASKS; t++) {
    if (tasks & 1u << t) json_array_append_new(list, json_string(leank_task_name((leank_task)t)));
  }
  return list;
}

/* JSON integers end at 2^63 - 1; a text is read as well. */
static json_t *seed_json(uint64_t seed) {
  char text[24];
  if (seed <= INT64_MAX) return cli_json_size(seed);
  snprintf(text, sizeof text, "%" PRIu64, seed);
  return json_string(text);
}

static void add_data(json_t *j, const leank_learn_options *o) {
  json_object_set_new(j, "tasks", task_list(o->train.tasks));
  json_object_set_new(
      j, "lengths",
      json_pack("[I,I]", (json_int_t)o->train.min_tokens, (json_int_t)o->train.max_tokens));
  json_object_set_new(j, "contexts", cli_json_size(o->train.n_contexts));
  json_object_set_new(j, "questions", cli_json_size(o->train.n_questions));
  if (o->train.n_haystacks) {
    json_t *list = json_array();
    for (size_t i = 0; i < o->train.n_haystacks; i++) {
      json_array_append_new(list, cli_json_text(o->train.haystacks[i]));
    }
    json_object_set_new(j, "haystack", list);
  }
  if (o->train.examples) json_object_set_new(j, "examples", cli_json_text(o->train.examples));
  json_object_set_new(j, "held-out", cli_json_size(o->held_out.n_contexts));
  json_object_set_new(j, "held-out-tasks", task_list(o->held_out.tasks));
  json_object_set_new(j, "held-out-seed", seed_json(o->held_out.seed));
}

static json_t *device_json(const leank_learn_options *o) {
  char text[24] = "cpu";
  if (o->device == LEANK_DEVICE_CUDA) snprintf(text, sizeof text, "cuda:%d", o->device_index);
  return json_string(text);
}

json_t *learn_settings_json(const leank_learn_options *o, const leank_model_info *model) {
  json_t *j = json_object();
  if (model->fingerprint[0]) {
    json_object_set_new(j, "fingerprint", json_string(model->fingerprint));
  }
  json_object_set_new(j, "preset", json_string(o->paper ? "paper" : "default"));
  json_object_set_new(j, "ratio", json_real(o->ratio));
  json_object_set_new(j, "align", cli_json_size(o->align));
  json_object_set_new(j, "budget",
                      json_string(o->budget == LEANK_BUDGET_GLOBAL ? "global" : "per-head"));
  json_object_set_new(j, "exact-budget", json_boolean(o->exact_budget));
  json_object_set_new(j, "lambda", json_real(o->lambda));
  json_object_set_new(j, "lr1", json_real(o->lr1));
  json_object_set_new(j, "lr2", json_real(o->lr2));
  json_object_set_new(j, "steps1", cli_json_size(o->n_steps1));
  json_object_set_new(j, "steps2", cli_json_size(o->n_steps2));
  json_object_set_new(j, "batch", cli_json_size(o->batch));
  json_object_set_new(j, "n-sink", cli_json_size(o->n_sink));
  json_object_set_new(j, "n-recent", cli_json_size(o->n_recent));
  const char *losses[] = {"hidden", "logits", "both"};
  json_object_set_new(j, "loss", json_string(losses[o->loss]));
  json_object_set_new(j, "policy", json_string(cli_policy_name(o->policy)));
  json_object_set_new(j, "mean-comp", json_boolean(o->mean_compensation));
  json_object_set_new(j, "seed", seed_json(o->seed));
  json_object_set_new(j, "device", device_json(o));
  json_object_set_new(j, "kv-type", json_string(cli_kv_type_name((int)o->kv_type)));
  add_data(j, o);
  return j;
}
