#!/usr/bin/env bash
# SmolLM2-135M-Instruct, where LEANK_TEST_MODELS names its folder.
# shellcheck source=tests/cli/cli_test.sh
. "$(dirname "$0")/cli_test.sh"
model=${LEANK_TEST_MODELS:-}/SmolLM2-135M-Instruct.Q4_1.gguf
[ -f "$model" ] || { echo "no SmolLM2 in LEANK_TEST_MODELS: skipped"; exit 77; }

leank info "$model"
expect_code 0
expect_out '^sizes +30 layers, 9 query heads, 3 kv heads, head dim 64$'
leank run "$model" -p 'The capital of France is' -n 8 -q "$cpu"
expect_code 0
expect_out 'Paris'
leank run "$model" --chat -p 'What is the capital of France?' -n 48 -q "$cpu"
expect_code 0
expect_out 'Paris'
leank run "$model" --chat -p 'What is the capital of France?' -n 48 --json "$cpu"
expect_json
[ "$(json_text stop <"$work/out")" = '"end"' ]
check $? "an answer ends with the end token"
leank run "$model" --system 'You are a pirate.' -p 'Hello' -n 4 -q "$cpu"
expect_code 0
leank run "$model" --template nonsense -p 'Hello' -n 4 -q "$cpu"
expect_code 2
expect_one_line

# A chat through a pseudo-terminal: turns, commands, and what the first turn said.
if command -v script >/dev/null 2>&1; then
  ran="leank run, a chat"
  printf 'My name is Alice.\n/stats\nWhat is my name?\n/reset\n/nonsense\n/exit\n' |
    script -qec "$program run $model -n 40 -c 1024 $cpu" /dev/null >"$work/out" 2>"$work/err"
  code=$?
  expect_code 0
  expect_out 'Alice'
  expect_out 'of 1024 tokens of context'
  expect_out 'KV stored [0-9,]+ bytes'
  expect_out 'commands are /exit'
fi

# Ctrl-C: what there is comes out, status 130.
ran="leank run, interrupted"
"$program" run "$model" -p 'Count to a thousand: 1 2 3 4 5' -n 4000 --ignore-end "$cpu" \
  >"$work/out" 2>"$work/err" </dev/null &
pid=$!
for _ in $(seq 300); do
  [ "$(wc -c <"$work/out")" -gt 20 ] && break
  sleep 0.1
done
kill -INT "$pid"
wait "$pid"
code=$?
expect_code 130
expect_err '\(interrupted\)'
[ "$(wc -c <"$work/out")" -gt 20 ]
check $? "the text so far is there"

# While it reads a prompt: nothing was generated, and it ends at once.
ran="leank run, interrupted while it reads"
seq -s ' ' 1 1500 >"$work/long.txt"
"$program" run "$model" -f "$work/long.txt" -n 1 --cpu c >"$work/out" 2>"$work/err" </dev/null &
pid=$!
sleep 1
kill -INT "$pid"
wait "$pid"
code=$?
expect_code 130
expect_err 'generated 0 tokens.*\(interrupted\)'
finish
