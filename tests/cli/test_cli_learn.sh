#!/usr/bin/env bash
# leank learn and leank mask compare on models of two layers with random weights.
# shellcheck source=tests/cli/cli_test.sh
. "$(dirname "$0")/cli_test.sh"
model=$data/tiny/llama-plain.gguf
other=$data/tiny/llama-mixed.gguf
window=(--n-sink 64 --n-recent 64)
texts=(--lengths "400,600" --tasks "uuid,words" --questions 2)
small=("${texts[@]}" "${window[@]}" --contexts 4 --held-out 2 --steps1 6 --steps2 4 --batch 3
  --ratio 0.5 --align 8)

expect_there() { [ -f "$1" ]; check $? "$1 is there"; }
expect_gone() { [ ! -e "$1" ]; check $? "$1 is not there"; }
# Every line is an object with an "event".
expect_log() {
  if command -v python3 >/dev/null 2>&1; then
    python3 -c 'import json, sys
lines = [json.loads(line) for line in open(sys.argv[1])]
assert lines and all("event" in line for line in lines)' "$1" 2>/dev/null
  else
    ! grep -vq '^{"event":".*}$' "$1"
  fi
  check $? "$1 is JSON lines"
}
count_events() { grep -c "^{\"event\":\"$2\"" "$1"; }
# Starts a command in the background; stdout and stderr as `leank` does. SIGINT works in it.
start() {
  ran="leank $* (in the background)"
  "$program" "$@" >"$work/out" 2>"$work/err" </dev/null &
  pid=$!
}
# Waits until the log has that many updates, or the command has ended.
wait_for_steps() { # LOG N
  for _ in $(seq 3000); do
    [ "$(count_events "$1" step 2>/dev/null)" -ge "$2" ] 2>/dev/null && return
    kill -0 "$pid" 2>/dev/null || return
    sleep 0.02
  done
}

# ---- help ----
leank learn --help
expect_code 0
expect_no_err
grep -Eo '^ +(-[a-z], )?--[a-z0-9-]+' "$work/out" | grep -Eo -- '--[a-z0-9-]+' | sort >"$work/options"
[ -s "$work/options" ] && [ -z "$(uniq -d "$work/options")" ]
check $? "every option is listed once"
leank learn "$model" --print-config
expect_code 0
expect_json
cp "$work/out" "$work/config"
grep -Eo '^  "[a-z0-9-]+"' "$work/config" | tr -d ' "' | grep -v '^fingerprint$' >"$work/keys"
while read -r key; do
  grep -qx -- "--$key" "$work/options"
  check $? "setting $key is an option of the help"
done <"$work/keys"
[ "$(wc -l <"$work/keys")" -gt 15 ]
check $? "settings are printed"

# ---- a run ----
began=$(date +%s%N)
leank learn "$model" "${small[@]}" -o "$work/mask" "$cpu"
took_ms=$((($(date +%s%N) - began) / 1000000))
# Long enough to be stopped: about a second, and some fifty times that under a sanitizer.
n1=400
[ "$took_ms" -lt 1000 ] || n1=80
n2=$n1
many=("${small[@]}" --steps1 "$n1" --steps2 "$n2")
expect_code 0
expect_out '/mask: [0-9.]+ % of K channels removed \(asked 50.00 %\), from stage [12], held-out KL '
expect_out '^arithmetic: '
expect_err '^contexts read in'
expect_err '^held out, stage 2 after 4: KL '
expect_log "$work/mask.log.jsonl"
expect_gone "$work/mask.checkpoint"
for pair in 'start 1' 'step 10' 'eval 2' 'choice 1'; do
  # shellcheck disable=SC2086
  set -- $pair
  [ "$(count_events "$work/mask.log.jsonl" "$1")" -eq "$2" ]
  check $? "$2 events '$1'"
done
leank mask show "$work/mask"
expect_out '^method +learned$'
expect_out '^steps, seed +(6|10), 1$'
expect_out '^deployed with +sink 64, recent 64, policy mean, mean compensation$'
expect_out '^alpha +stored$'
leank run "$model" -p "$(seq -s ' ' 1 100)" -n 4 --mask "$work/mask" -q "$cpu"
expect_code 0
leank run "$model" -p "$(seq -s ' ' 1 100)" -n 4 --mask "$work/mask" -q "$cpu" --policy drop --mean-comp off
expect_code 0
leank run "$model" -p x --mask "$work/mask" --mean-comp
expect_failure 2 'needs a value'
leank mask round "$work/mask" -o "$work/dropped" --policy drop --mean-comp off --n-recent 128
expect_code 0
leank mask show "$work/dropped"
expect_out '^deployed with +sink 64, recent 128, policy drop$'
leank mask plot "$work/mask" -o "$work/plot.svg" --log "$work/mask.log.jsonl"
expect_code 0

# ---- both stages' masks, and alphas rounded anew ----
leank learn "$model" "${small[@]}" -o "$work/staged" --keep-stages -q "$cpu"
expect_code 0
cmp -s "$work/staged" "$work/staged.stage1" || cmp -s "$work/staged" "$work/staged.stage2"
check $? "the mask is that of one stage"
leank mask show "$work/staged.stage1"
expect_out '^steps, seed +6, 1$'
leank mask show "$work/staged.stage2"
expect_out '^steps, seed +10, 1$'
leank mask round "$work/staged" -o "$work/same"
expect_code 0
cmp -s "$work/staged" "$work/same"
check $? "rounded as before is the same file"
leank mask round "$work/staged" -o "$work/uniform" --ratio 0.25 --budget per-head --align 2
expect_code 0
expect_out 'uniform: 25.00 % of K channels removed \(asked 25.00 %\)'
expect_no_err
leank mask round "$work/staged" -o "$work/coarse" --ratio 0.25 --budget per-head --align 16
expect_code 0
expect_err '^leank: warning: the ratio is 25.0 points off: a smaller --align comes closer$'
leank mask round "$work/staged" -o "$work/coarse" --ratio 0.1 --align 32
expect_code 0
expect_err '^leank: warning: the ratio is [0-9.]+ points off: --exact-budget or a smaller --align comes closer$'
leank mask round "$work/staged" -o "$work/coarse" --ratio 0.25 --align 32 --exact-budget
expect_code 0
expect_no_err
leank mask score "$model" -o "$work/scored" --method random --ratio 0.5
leank mask round "$work/scored" -o "$work/never"
expect_code 1
expect_err 'holds no alpha'
expect_gone "$work/never"
leank mask round "$work/staged" -o "$work/never" --ratio 1.5
expect_code 2
expect_err 'between 0 and 1'

# A run that begins anew takes the place of its log.
leank learn "$model" "${small[@]}" -o "$work/mask" -q --threads 1 --prefill-chunk 64 "$cpu"
expect_code 0
expect_no_err
[ "$(count_events "$work/mask.log.jsonl" start)" -eq 1 ]
check $? "the log is of this run"
cp "$work/mask" "$work/want"

leank learn "$model" "${small[@]}" -o "$work/json" --json --log "$work/log" "$cpu"
expect_code 0
expect_no_err
expect_json
expect_same "$work/out" "$work/log"
expect_same "$work/json" "$work/want"
expect_gone "$work/json.log.jsonl"

# ---- settings from a file ----
leank learn "$model" "${small[@]}" --lr1 0.012345678901234567 --seed 18446744073709551614 \
  --loss both --print-config
cp "$work/out" "$work/config"
leank learn "$model" --config "$work/config" --print-config
expect_code 0
expect_same "$work/out" "$work/config"
leank learn "$model" --config "$work/config" --lr1 0.04 --seed 1 --loss hidden \
  -o "$work/configured" -q "$cpu"
expect_code 0
expect_same "$work/configured" "$work/want"
printf '{"fly": 1}' >"$work/bad"
leank learn "$model" -o "$work/no" --config "$work/bad"
expect_failure 2 "key 'fly': no such option"
sed 's/"fingerprint": "[0-9a-f]*"/"fingerprint": "0123456789abcdef"/' "$work/config" >"$work/bad"
leank learn "$model" -o "$work/no" --config "$work/bad"
expect_failure 1 'config is for another model \(fingerprint 0123456789abcdef'
leank learn "$model" -o "$work/no" --fingerprint 0123456789abcdef
expect_failure 2 'unknown option'

# ---- data ----
leank learn "$model" "${texts[@]}" --show-data 2
expect_code 0
expect_no_err
[ "$(grep -c '^=== context' "$work/out")" -eq 2 ] && [ "$(grep -c '^--- question' "$work/out")" -eq 4 ]
check $? "two contexts of two questions"
leank learn "$model" "${texts[@]}" --show-data 100 --contexts 3 --json
expect_json
[ "$(wc -l <"$work/out")" -eq 3 ]
check $? "a line for each context"
line='{"context": "%s", "question": "Which number is told?", "answer": "%s"}\n'
{
  # shellcheck disable=SC2059
  printf "$line" "$(seq -s ' ' 1 100)" "forty-two"
  # shellcheck disable=SC2059
  printf "$line" "$(seq -s ' ' 100 1 | head -c 1)$(seq -s ' ' 201 300)" "two hundred"
} >"$work/examples"
leank learn "$model" "${window[@]}" --examples "$work/examples" --lengths 800 --contexts 2 \
  --held-out 0 --steps1 2 --steps2 1 -o "$work/own" -q "$cpu"
expect_code 0
leank mask show "$work/own"
expect_out '^made from +2 contexts of 800-800 tokens: file$'
# shellcheck disable=SC2059
printf "$line" "$(seq -s ' ' 1 400)" "forty-two" >>"$work/examples"
leank learn "$model" "${window[@]}" --examples "$work/examples" --lengths 800 --contexts 3 \
  -o "$work/no" -q
expect_failure 1 'examples:3: an example of [0-9]+ tokens, more than the 800'

# ---- refused before anything is done ----
leank learn "$model" "${small[@]}"
expect_failure 2 '-o is missing'
leank learn "$model" -o "$work/no" --tasks uuid,fly
expect_failure 2 "unknown task 'fly'"
for option in --tasks --held-out-tasks; do
  leank learn "$model" -o "$work/no" "$option" uuid,random
  expect_failure 2 'task random is for time alone'
done
for option in --contexts --questions; do
  leank learn "$model" -o "$work/no" "$option" 0
  expect_failure 2 'at least 1'
  leank mask compare "$model" "$work/mask" "$option" 0
  expect_failure 2 'at least 1'
done
leank learn "$model" "${small[@]}" -o "$work/no" --examples "$work/examples"
expect_failure 2 'examples are for task file'
leank mask compare "$model" "$work/mask" --tasks uuid --examples "$work/examples"
expect_failure 2 'examples are for task file'
for command in "learn $model -o $work/no" "mask compare $model $work/mask"; do
  # shellcheck disable=SC2086
  leank $command --tasks uuid,file
  expect_failure 2 'task file needs its file: --examples$'
done
for options in "--log $work/no" "--checkpoint $work/no" "--log $work/c --checkpoint $work/c"; do
  # shellcheck disable=SC2086
  leank learn "$model" "${small[@]}" -o "$work/no" $options
  expect_failure 2 'must be different files'
done
leank learn "$model" -o "$work/no" --lengths 1,2,3
expect_failure 2 'one or two'
leank learn "$model" -o "$work/no" --held-out-seed 1
expect_failure 2 'would be the same'
leank learn "$model" -o "$work/no" -q --lengths 400,8k "${window[@]}"
expect_failure 1 '4096'
leank learn "$model" -o "$work/no" -q "${small[@]}" --ratio 1
expect_failure 2 'ratio of 1'
expect_gone "$work/no.log.jsonl"
leank learn "$model" -o "$work/no" -q "${small[@]}" --align 100000
expect_failure 2 'at most 65536'
leank learn "$model" -o "$work/no" -q "${small[@]}" --n-recent 600
expect_failure 2 'no middle'
leank learn "$model" -o "$work/no" -q "${small[@]}" --cache-size 1000
expect_failure 1 'more than the 1000 allowed'
leank learn "$model" -o "$work/no" -q "${small[@]}" --preset paper --policy mean
expect_failure 2 'neither policy mean'
leank learn "$model" -o "$work/no" -q "${small[@]}" --cache "$work/no/such"
expect_failure 1 'no/such'
leank learn "$work/nowhere.gguf" -o "$work/no" -q
expect_failure 1 'nowhere'
expect_gone "$work/no"
mkdir "$work/folder"
for place in no/such/mask folder mask/mask; do
  leank learn "$model" "${small[@]}" -o "$work/$place" --log "$work/l" --checkpoint "$work/c" "$cpu"
  expect_failure 1 "$work/$place: (cannot create|is a folder)"
  expect_gone "$work/l"
  expect_gone "$work/c"
done
leank learn "$model" "${small[@]}" -o "$work/a" --log "$work/no/such/log" -q
expect_failure 1 'no/such/log: cannot write'
leank learn "$model" "${small[@]}" -o "$work/a" --checkpoint "$work/no/such/c" -q
expect_failure 1 'no/such/c: cannot create'
leank learn "$model" "${small[@]}" -o "$work/a" --checkpoint "$work/folder" -q
expect_failure 1 'folder: is a folder'
expect_gone "$work/a"
# A mistake costs neither the log nor the checkpoint of before.
cp "$work/mask.log.jsonl" "$work/before"
leank learn "$model" "${small[@]}" --ratio 2 -o "$work/mask" -q
expect_failure 2 'ratio of 2'
expect_same "$work/mask.log.jsonl" "$work/before"
printf 'precious' >"$work/c"
leank learn "$model" "${small[@]}" --ratio 2 -o "$work/mask" --checkpoint "$work/c" --fresh -q
expect_failure 2 'ratio of 2'
[ "$(cat "$work/c")" = precious ]
check $? "the file stays"
for fresh in "" --fresh; do
  # shellcheck disable=SC2086
  leank learn "$model" "${small[@]}" -o "$work/mask" --checkpoint "$work/c" -q $fresh
  expect_failure 1 'no checkpoint of learning'
  [ "$(cat "$work/c")" = precious ]
  check $? "a file that is no checkpoint is left alone"
done
mkfifo "$work/pipe"
leank learn "$model" "${small[@]}" -o "$work/mask" --checkpoint "$work/pipe" --fresh -q
expect_failure 1 'pipe: is not a regular file'
leank learn "$model" "${small[@]}" -o "$work/pipe" -q
expect_failure 1 'pipe: is not a regular file'
expect_gone "$work/pipe.log.jsonl"
[ -p "$work/pipe" ]
check $? "a pipe is not set aside"

# ---- devices ----
leank learn "$model" "${small[@]}" -o "$work/quiet" --log /dev/null -q "$cpu"
expect_code 0
expect_no_err
[ -c /dev/null ]
check $? "/dev/null is still a device"
if [ -c /dev/full ]; then
  leank learn "$model" "${small[@]}" -o "$work/full" --log /dev/full -q "$cpu"
  expect_failure 1 '/dev/full: lines of the log were lost'
  expect_same "$work/full" "$work/want"
  ran="leank learn --json, to /dev/full"
  "$program" learn "$model" "${small[@]}" -o "$work/full2" --json "$cpu" >/dev/full 2>"$work/err"
  code=$?
  expect_failure 1 'cannot write the output'
  expect_same "$work/full2" "$work/want"
fi

# ---- interrupted, killed ----
leank learn "$model" "${many[@]}" -o "$work/whole" -q "$cpu"
expect_code 0
for at in 1 $((n1 / 2)) $((n1 + n2 / 4)); do
  start learn "$model" "${many[@]}" -o "$work/stopped" "$cpu"
  wait_for_steps "$work/stopped.log.jsonl" "$at"
  kill -INT "$pid"
  wait "$pid"
  code=$?
  expect_code 130
  expect_err 'interrupted; the same command goes on from the checkpoint'
  expect_gone "$work/stopped"
  expect_there "$work/stopped.checkpoint"
  expect_log "$work/stopped.log.jsonl"
  if [ "$at" -eq $((n1 / 2)) ]; then # other settings do not go on from it
    leank learn "$model" "${many[@]}" --ratio 0.6 -o "$work/stopped" -q "$cpu"
    expect_failure 1 'other settings, data or another model: .* begin anew \(--fresh\)$'
    expect_there "$work/stopped.checkpoint"
  fi
  leank learn "$model" "${many[@]}" -o "$work/stopped" "$cpu"
  expect_code 0
  expect_err '^going on from the checkpoint: stage [12] after [0-9]+ updates$'
  expect_same "$work/stopped" "$work/whole"
  expect_gone "$work/stopped.checkpoint"
  [ "$(count_events "$work/stopped.log.jsonl" step)" -eq $((n1 + n2)) ] &&
    [ "$(count_events "$work/stopped.log.jsonl" start)" -eq 2 ]
  check $? "the log goes on"
  rm -f "$work/stopped" "$work/stopped.log.jsonl"
done

# Killed again and again, at any moment, until it gets through.
n_kills=0
while [ $n_kills -lt 8 ]; do
  start learn "$model" "${many[@]}" -o "$work/killed" -q --cache "$work/folder" "$cpu"
  sleep "0.$((RANDOM % 3))$((RANDOM % 10))"
  if ! kill -KILL "$pid" 2>/dev/null; then
    break
  fi
  wait "$pid" 2>/dev/null
  n_kills=$((n_kills + 1))
done
wait "$pid" 2>/dev/null
[ -f "$work/killed" ] || leank learn "$model" "${many[@]}" -o "$work/killed" -q --cache "$work/folder" "$cpu"
expect_same "$work/killed" "$work/whole"
expect_log "$work/killed.log.jsonl"

# --fresh begins anew.
start learn "$model" "${many[@]}" -o "$work/stopped" -q "$cpu"
wait_for_steps "$work/stopped.log.jsonl" 50
kill -INT "$pid"
wait "$pid"
leank learn "$model" "${small[@]}" -o "$work/stopped" --fresh "$cpu"
expect_code 0
expect_same "$work/stopped" "$work/want"
expect_gone "$work/stopped.checkpoint"
# Nothing is written where none is wanted.
start learn "$model" "${many[@]}" -o "$work/none" --no-checkpoint "$cpu"
wait_for_steps "$work/none.log.jsonl" 50
kill -INT "$pid"
wait "$pid"
code=$?
expect_code 130
expect_err 'no checkpoint was wanted'
expect_gone "$work/none.checkpoint"

# ---- a disk that fills up ----
mkdir "$work/disk"
if mount -t tmpfs -o size=256k tmpfs "$work/disk" 2>/dev/null; then
  trap 'umount -l "$work/disk" 2>/dev/null; rm -rf "$work"' EXIT
  start learn "$model" "${many[@]}" -o "$work/disk/mask" -q --log "$work/disk.log" "$cpu"
  wait_for_steps "$work/disk.log" 30
  cat /dev/zero >"$work/disk/filler" 2>/dev/null
  wait "$pid"
  code=$?
  expect_failure 1 'checkpoint: cannot (write|create): No space left'
  expect_there "$work/disk/mask.checkpoint"
  leank learn "$model" "${many[@]}" -o "$work/disk/mask" -q --log "$work/disk.log" "$cpu"
  expect_failure 1 'No space left' # at once
  rm "$work/disk/filler"
  leank learn "$model" "${many[@]}" -o "$work/disk/mask" -q --log "$work/disk.log" "$cpu"
  expect_code 0
  expect_same "$work/disk/mask" "$work/whole"
fi
# A place for the mask that is lost on the way: all is in the checkpoint.
start learn "$model" "${many[@]}" -o "$work/lost" -q "$cpu"
wait_for_steps "$work/lost.log.jsonl" 50
mkdir "$work/lost"
wait "$pid"
code=$?
expect_code 1
expect_err 'lost: is a folder'
expect_err 'nothing is lost: the checkpoint is in'
rmdir "$work/lost"
leank learn "$model" "${many[@]}" -o "$work/lost" "$cpu"
expect_code 0
expect_err '^going on from the checkpoint: stage 2 after '"$n2 updates\$"
expect_same "$work/lost" "$work/whole"

# ---- mask compare ----
leank mask score "$model" -o "$work/all" --method random --ratio 0 "${window[@]}"
leank mask score "$model" -o "$work/random" --method random --ratio 0.5 --align 8 "${window[@]}"
leank mask compare "$model" "$work/all" "$work/want" "$work/random" "${texts[@]}" --contexts 3 "$cpu"
expect_code 0
expect_no_err
expect_out '^6 prompts, [0-9]+ answer rows; dense accuracy [0-9.]+ \+- [0-9.]+ %$'
expect_out '^mask +K kept +V kept +KL +KL p99 +hidden error +top-1 +accuracy +change$'
expect_out '^all +100.0% +100.0% +0.00000 \+- 0.00000 +0.0000 +0.00000 \+- 0.00000 +100.0% '
expect_out '^random +[0-9.]+% '
[ "$(wc -l <"$work/out")" -eq 6 ]
check $? "a line for each mask"
leank mask compare "$model" "$work/all" "$work/random" "${texts[@]}" --contexts 3 --json --threads 1 "$cpu"
expect_code 0
expect_json
cp "$work/out" "$work/one"
for _ in 1 2; do # written, then mapped
  leank mask compare "$model" "$work/all" "$work/random" "${texts[@]}" --contexts 3 --json --threads 2 \
    --cache "$work/folder" "$cpu"
  expect_code 0
  expect_same "$work/out" "$work/one"
done
[ "$(json_number n_prompts <"$work/one")" = 6 ]
check $? "prompts are counted"
[ "$(json_number kl_mean <"$work/one")" = 0.0 ]
check $? "all kept: KL 0"
leank mask compare "$model"
expect_failure 2 'argument is missing'
leank mask compare "$model" "$work/nowhere"
expect_failure 1 'nowhere'
leank mask compare "$other" "$work/all"
expect_failure 1 'mask is for 2 layers, 2 kv heads, head dim 32'
leank mask compare "$model" "$work/all" --tasks fly
expect_failure 2 "unknown task 'fly'"
leank mask compare "$model" "$work/all" --lengths 8k
expect_failure 1 '4096'
leank mask compare "$model" "$work/all" "${texts[@]}" --n-sink 65
expect_failure 2 'multiple of 64'
leank mask compare "$model" "$work/all" "${texts[@]}" --n-recent 18446744073709551614
expect_failure 2 'at most'
leank mask compare "$model" "$work/all" "${texts[@]}" --cache "$work/no/such"
expect_failure 1 'no/such'
start mask compare "$model" "$work/all" --lengths 3500 --tasks uuid --contexts 400 --cpu c
for _ in $(seq 3000); do # until it has a handler for SIGINT, which is ignored until then
  grep -Eq '^SigCgt:.*[2367abef]$' "/proc/$pid/status" 2>/dev/null && break
  sleep 0.02
done
kill -INT "$pid"
wait "$pid"
code=$?
expect_code 130
expect_err '^leank: interrupted$'
expect_no_out
finish
