#!/usr/bin/env bash
# leank eval on a model of two layers with random weights: prompts, records, runs that go on.
# shellcheck source=tests/cli/cli_test.sh
. "$(dirname "$0")/cli_test.sh"
model=$data/tiny/llama-plain.gguf
other=$data/tiny/llama-mixed.gguf
leank mask score "$model" -o "$work/half.safetensors" --method random --ratio 0.5 --align 8 \
  --n-sink 64 --n-recent 64
expect_code 0
small=(--lengths 2500 --samples 2 --tasks "niah_single_1,niah_single_3,fwe" "$cpu")
caches=(--mask "$work/half.safetensors" --baseline "think:0.5,random:0.7")

# Waits until a file has that many lines.
wait_for_lines() {
  for _ in $(seq 3000); do
    [ -f "$1" ] && [ "$(wc -l <"$1")" -ge "$2" ] && return
    sleep 0.01
  done
}

# ---- prompts ----
leank eval "$model" --prompts --lengths "2500,3000" --samples 2 --suite ruler
expect_code 0
expect_json
[ "$(wc -l <"$work/out")" -eq 52 ]
check $? "13 tasks, 2 lengths, 2 samples"
cp "$work/out" "$work/prompts"
leank eval "$model" --prompts --lengths "2500,3000" --samples 2 --suite ruler --seed 1
expect_same "$work/out" "$work/prompts"
leank eval "$model" --prompts --lengths "2500,3000" --samples 2 --suite ruler --seed 2
! cmp -s "$work/out" "$work/prompts"
check $? "another seed, other prompts"
leank eval "$model" --prompts --lengths 2500 --samples 1 --suite niah
expect_code 0
[ "$(wc -l <"$work/out")" -eq 8 ]
check $? "8 tasks of needles"

# ---- a run ----
leank eval "$model" "${small[@]}" "${caches[@]}" -o "$work/all.jsonl" --report "$work/report"
expect_code 0
expect_out '^ruler at 2500 tokens: 3 tasks, 2 prompts each'
expect_out '^half  .* 50\.0%'
expect_out '^think:0\.5 '
expect_out '^random:0\.7 '
cp "$work/out" "$work/table"
[ "$(wc -l <"$work/all.jsonl")" -eq 7 ]
check $? "settings and 6 prompts"
for file in report.md changes.svg kl.svg bytes.svg; do
  [ -s "$work/report/$file" ]
  check $? "report/$file is there"
done
grep -q '^| half |' "$work/report/report.md"
check $? "a table in Markdown"
if command -v python3 >/dev/null 2>&1; then
  python3 -c 'import sys, xml.dom.minidom as x
for name in sys.argv[1:]: x.parse(name)' "$work/report/"*.svg
  check $? "the plots are XML"
fi

# ---- one that goes on: after any record, and from a torn one, the same table ----
for n in 1 2 4 7; do
  head -n "$n" "$work/all.jsonl" >"$work/part.jsonl"
  [ "$n" -eq 4 ] && sed -n 5p "$work/all.jsonl" | head -c 300 >>"$work/part.jsonl"
  leank eval "$model" "${small[@]}" "${caches[@]}" -o "$work/part.jsonl"
  expect_code 0
  expect_same "$work/out" "$work/table"
  sed 's/"seconds":[^,]*,//' "$work/part.jsonl" >"$work/a"
  sed 's/"seconds":[^,]*,//' "$work/all.jsonl" >"$work/b"
  expect_same "$work/a" "$work/b"
done
expect_err 'going on behind 6 of 6 prompts'
head -c 40 "$work/all.jsonl" >"$work/part.jsonl" # within the settings
leank eval "$model" "${small[@]}" "${caches[@]}" -o "$work/part.jsonl"
expect_code 0
expect_same "$work/out" "$work/table"

# killed at any moment, then gone on with
"$program" eval "$model" "${small[@]}" "${caches[@]}" -o "$work/killed.jsonl" >/dev/null 2>&1 &
pid=$!
wait_for_lines "$work/killed.jsonl" 3
kill -KILL "$pid" 2>/dev/null
wait "$pid" 2>/dev/null
leank eval "$model" "${small[@]}" "${caches[@]}" -o "$work/killed.jsonl"
expect_code 0
expect_same "$work/out" "$work/table"

# Ctrl-C: 130, the records are whole
many=(--lengths 2500 --samples 40 --tasks "niah_single_1" "$cpu")
"$program" eval "$model" "${many[@]}" -o "$work/stopped.jsonl" >"$work/out" 2>"$work/err" </dev/null &
pid=$!
wait_for_lines "$work/stopped.jsonl" 3
kill -INT "$pid"
wait "$pid"
code=$?
ran="leank eval (interrupted)"
expect_failure 130 'interrupted after [0-9]+ of 40 prompts; the same command goes on'
[ -z "$(tail -c 1 "$work/stopped.jsonl")" ]
check $? "the last line is whole"
expect_out '^ruler at 2500 tokens: 1 task, [0-9]+ prompts? each'

# more samples go on from fewer
leank eval "$model" "${many[@]}" --samples 3 -o "$work/more.jsonl"
expect_code 0
leank eval "$model" "${many[@]}" --samples 4 -o "$work/more.jsonl"
expect_code 0
expect_err 'behind 3 of 4 prompts'
expect_out '4 prompts each'

# parts: files behind each other are the whole
for part in 1 2 3; do
  leank eval "$model" "${small[@]}" "${caches[@]}" --part "$part/3" -o "$work/part$part.jsonl"
  expect_code 0
  [ "$(wc -l <"$work/part$part.jsonl")" -eq 3 ]
  check $? "part $part has 2 of 6 prompts"
done
cat "$work"/part[123].jsonl >"$work/parts.jsonl"
leank eval "$model" "${small[@]}" "${caches[@]}" -o "$work/parts.jsonl"
expect_code 0
expect_err 'going on behind 6 of 6 prompts'
expect_same "$work/out" "$work/table"
for part in 0/3 4/3 1 1/ 1/3x -1/3; do
  leank eval "$model" "${small[@]}" --part="$part"
  expect_failure 2 'is not I/N'
done

# ---- records that do not belong ----
refused() { # REGEX
  cp "$work/part.jsonl" "$work/before"
  leank eval "$model" "${small[@]}" "${caches[@]}" -o "$work/part.jsonl"
  expect_failure 1 "$1"
  expect_no_out
  expect_same "$work/part.jsonl" "$work/before"
}
cp "$work/all.jsonl" "$work/part.jsonl"
leank eval "$model" "${small[@]}" "${caches[@]}" --seed 2 -o "$work/part.jsonl"
expect_failure 1 "other settings: 'seed' differs"
leank eval "$model" "${small[@]}" --baseline "think:0.5" -o "$work/part.jsonl"
expect_failure 1 "other settings: 'caches' differs"
leank eval "$other" "${small[@]}" "${caches[@]}" -o "$work/part.jsonl"
check $((code == 0)) "another model is refused"
expect_same "$work/part.jsonl" "$work/all.jsonl"
echo 'not JSON' >"$work/part.jsonl"
refused 'line 1: '
printf 'no line' >"$work/part.jsonl"
refused 'no records of leank eval'
{ head -n 2 "$work/all.jsonl"; echo '{"task":"fwe"}'; } >"$work/part.jsonl"
refused 'line 3: '
{ head -n 2 "$work/all.jsonl"; sed -n 2p "$work/all.jsonl"; } >"$work/part.jsonl"
refused 'line 3: a prompt that is there already'
{ head -n 2 "$work/all.jsonl"; head -n 1 "$work/all.jsonl" | sed 's/"seed":1/"seed":2/'; } \
  >"$work/part.jsonl"
refused "other settings: 'seed' differs"
{ head -n 1 "$work/all.jsonl"; sed -n 2p "$work/all.jsonl" | sed 's/"score":[0-9.]*/"score":7/'; } \
  >"$work/part.jsonl"
refused "line 2: 'score' is not between 0 and 1"
{ head -n 1 "$work/all.jsonl"; sed -n 2p "$work/all.jsonl" | sed 's/"kl":\[[^]]*\]/"kl":[-1]/'; } \
  >"$work/part.jsonl"
refused "line 2: 'kl' "

mkfifo "$work/pipe"
leank eval "$model" "${small[@]}" -o "$work/pipe"
expect_failure 1 'pipe: is not a regular file'

# ---- figures, worked by hand ----
one=(--lengths 2500 --samples 2 --tasks "fwe,niah_single_1" --mask "$work/half.safetensors")
leank eval "$model" "${one[@]}" --samples 1 "$cpu" -o "$work/hand.jsonl"
expect_code 0
answer() { # NAME SCORE ROWS AGREE NLL BYTES
  printf '{"name":"%s","score":%s,"rows":%s,"agree":%s,"nll":%s,"bytes":%s,"k_kept":0.5,"v_kept":1' "$@"
}
record() { # TASK SAMPLE, dense and lean score, KL list, rows, agree
  printf '{"task":"%s","length":2500,"sample":%s,"metric":"all","seconds":1,"answers":[%s},%s,"kl":[%s]}]}\n' \
    "$1" "$2" "$(answer dense "$3" "$6" "$6" 0 100)" "$(answer half "$4" "$6" "$7" 1 50)" "$5"
}
{
  head -n 1 "$work/hand.jsonl"
  record fwe 0 1 0.5 0.1,0.3 2 1
  record fwe 1 0 0.5 0.2 1 1
  record niah_single_1 0 0 1 0.6 1 0
  record niah_single_1 1 0 1 0.6 1 0
} >"$work/hand"
mv "$work/hand" "$work/hand.jsonl"
leank eval "$model" "${one[@]}" -o "$work/hand.jsonl"
expect_code 0
expect_err 'going on behind 4 of 4 prompts'
# fwe: dense 1, 0: mean 50, standard error 50; changes -50, +50: 0 +- 50. The needle, which dense
# never finds, is not averaged.
expect_out '^dense  .* 50\.0 \+-50\.0 '
expect_out '^half  *50\.0%  100\.0%  *0\.00  *50\.0 \+- 0\.0  \+0\.0 \+-50\.0 '
expect_out '^score  *single_1\*  *fwe  *average'
expect_out '^half  *100\.0\+-0\.0  *50\.0\+-0\.0  *50\.0\+-0\.0'
expect_out '^\* dense below 10 %: not averaged'
# Rows .1 .3 .2 .6 .6: mean .36; of prompts .2 .2 .6 .6: standard error sqrt(.16/3/4) = .11547.
expect_out ' 0\.36000 \+-0\.11547  0\.6000  40\.0%'

# ---- other suites ----
leank eval "$model" --suite ppl --lengths "600,900" --rows 64 --samples 2 "${caches[@]}" "$cpu"
expect_code 0
expect_out '^ppl at 600 tokens: 1 task, 2 prompts each, 126 answer rows'
expect_out 'perplexity'
leank eval "$model" --suite kl --lengths 900 --rows 64 --samples 1 "${caches[@]}" "$cpu" --json
expect_code 0
expect_json
leank eval "$model" --suite gsm-infinite --lengths 1200 --samples 1 "$cpu"
expect_code 0
expect_out '^area under accuracy over operations'
cat >"$work/hotpotqa.jsonl" <<'EOF'
{"input":"Where?","context":"It is in Rome.","answers":["Rome"],"dataset":"hotpotqa","all_classes":null}
{"input":"Type:","context":"Question: x\nType: Loc","answers":["Loc"],"dataset":"trec","all_classes":["Loc","Num"]}
EOF
leank eval "$model" --suite longbench --data "$work/hotpotqa.jsonl" --lengths 2000 "$cpu"
expect_code 0
expect_out '^longbench at 2000 tokens: 2 tasks, 1 prompt each'

# ---- a folder that cannot be: known before the work ----
for folder in "$work/no/such" "$work/half.safetensors"; do
  leank eval "$model" "${small[@]}" --report "$folder"
  expect_failure 1 "$folder: "
  expect_no_out
  leank analyze "$model" --mask "$work/half.safetensors" --masks-only -o "$folder"
  expect_failure 1 "$folder: "
  expect_no_out
done
leank eval "$model" "${small[@]}" --prompts --report "$work/none"
[ ! -e "$work/none" ]
check $? "no folder for prompts that are printed"

# ---- wrong usage ----
leank eval "$model" --tasks qa_3
expect_failure 2 "suite ruler has no task 'qa_3' \(see leank eval --help\)\$"
leank eval "$model" --tasks qa_1
expect_failure 2 'task qa_1 needs SQuAD.s file: --squad$'
leank eval "$model" --tasks niah_single_1,qa_2 --squad "$work/half.safetensors"
expect_failure 2 'task qa_2 needs HotpotQA.s file: --hotpot$'
leank eval "$model" --tasks niah_single_1 --squad "$work/half.safetensors"
expect_failure 2 '--squad is for task qa_1 of suite ruler, which is not asked$'
leank eval "$model" --suite niah --hotpot "$work/half.safetensors"
expect_failure 2 '--hotpot is for task qa_2 of suite ruler, which is not asked$'
leank eval "$model" --data "$work/half.safetensors"
expect_failure 2 '--data is for --suite longbench alone'
for options in "" "--baseline random:0.5,think:0.5"; do
  for unused in "--text $work/nowhere.txt" "--tokens 2048"; do
    # shellcheck disable=SC2086
    leank eval "$model" $unused $options
    expect_failure 2 "${unused%% *} is of the text that --baseline magnitude and energy are measured on"
  done
done
for options in "" "--baseline frequency:0.5,think:0.5"; do
  # shellcheck disable=SC2086
  leank eval "$model" --align 8 $options
  expect_failure 2 '--align is for --baseline random, magnitude and energy: there is none of them'
done
leank eval "$model" --rows 256
expect_failure 2 '--rows is for suites ppl and kl alone'
leank eval "$model" --suite gsm-infinite --haystack "$work/nowhere.txt"
expect_failure 2 '--haystack is prose, which suite gsm-infinite has no use for'
for options in "--tokens 0 --baseline energy:0.5" "--align 0 --baseline random:0.5"; do
  # shellcheck disable=SC2086
  leank eval "$model" $options
  expect_failure 2 '--tokens and --align are at least 1'
done
leank eval "$model" --text "$work/nowhere.txt" --baseline energy:0.5 "${small[@]}"
expect_failure 1 'nowhere.txt'
leank eval "$model" --lengths 8k
expect_failure 1 '8192 tokens, but the model was made for 4096'
leank eval "$model" --lengths 100
expect_failure 2 'too few for task niah_single_1'
for command in "eval $model --lengths 8k" "eval $work/nowhere.gguf" "analyze $model --lengths 8k"; do
  # shellcheck disable=SC2086
  leank $command --mask "$work/half.safetensors" --mask "$work/none.safetensors"
  expect_failure 1 'none.safetensors: No such file'
done
leank eval "$model" --suite nothing
expect_failure 2 "'nothing' is not one of ruler"
leank eval "$model" --baseline energy
expect_failure 2 'METHOD:RATIO'
leank eval "$model" --baseline energy:1.5
expect_failure 2 'METHOD:RATIO'
leank eval "$model" --baseline uniform:0.5
expect_failure 2 'uniform takes the alphas of the first --mask'
leank eval "$model" --baseline uniform:0.5 --mask "$work/half.safetensors" "${small[@]}"
expect_failure 1 'the first mask has no alphas'
leank eval "$model" --samples 0
expect_failure 2 'samples is at least 1'
leank eval "$model" --suite longbench
expect_failure 2 '--suite longbench needs its files: --data$'
echo '{"dataset":"hotpotqa"}' >"$work/bad.jsonl"
leank eval "$model" --suite longbench --data "$work/bad.jsonl"
expect_failure 1 'bad.jsonl:1: '
leank eval "$model" -o "$work/no/folder.jsonl"
expect_code 1
leank eval "$model" --haystack "$work/nowhere.txt"
expect_failure 1 'nowhere.txt'

# ---- leank analyze ----
leank analyze "$model" --mask "$work/half.safetensors" --lengths "1500,2000" \
  --tasks "niah_single_1,fwe" -o "$work/analysis" "$cpu"
expect_code 0
expect_out '^  kept: 5[0-9]\.[0-9] % of K'
expect_out '^4 .* at 2000 .* 1\.00$'
expect_out '^by magnitude '
for file in half.svg correlation.svg removal.svg; do
  [ -s "$work/analysis/$file" ]
  check $? "analysis/$file is there"
done
cat >"$work/squad.json" <<'EOF'
{"data":[{"paragraphs":[{"context":"The tower of Ys is made of glass.",
 "qas":[{"question":"What is the tower of Ys made of?","answers":[{"text":"glass"}]}]},
 {"context":"The bridge of Ys is made of rope.",
 "qas":[{"question":"What is the bridge of Ys made of?","answers":[{"text":"rope"}]}]}]}]}
EOF
leank analyze "$model" --mask "$work/half.safetensors" --lengths 1500 --tasks qa_1,fwe \
  --squad "$work/squad.json" --no-removal "$cpu"
expect_code 0
expect_out '^2 +qa_1 at 1500 '
leank analyze "$model" --mask "$work/half.safetensors" --tasks qa_1
expect_failure 2 'task qa_1 needs SQuAD.s file: --squad$'
leank analyze "$model" --mask "$work/half.safetensors" --tasks fwe --squad "$work/squad.json"
expect_failure 2 '--squad is for task qa_1 of suite ruler, which is not asked$'
leank analyze "$model" --mask "$work/half.safetensors" --hotpot "$work/squad.json"
expect_failure 2 '--hotpot is for task qa_2 of suite ruler, which is not asked$'
for unused in "--tasks fwe" "--lengths 2k" "--haystack $work/none" "--squad $work/squad.json"; do
  # shellcheck disable=SC2086
  leank analyze "$model" --mask "$work/half.safetensors" --masks-only $unused
  expect_failure 2 "--masks-only runs no prompt: ${unused%% *} is for prompts"
done
leank analyze "$model" --mask "$work/half.safetensors" --masks-only --json
expect_code 0
expect_json
leank analyze "$model"
expect_failure 2 'mask is missing'
leank analyze "$model" --mask "$work/half.safetensors" --tasks nothing
expect_failure 2 "no task 'nothing'"

finish
