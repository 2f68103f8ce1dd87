#!/usr/bin/env bash
# bench/compare and bench/plot_speed.py: on lines of the program, and on lines whose ratios are known.
# shellcheck source=tests/cli/cli_test.sh
. "$(dirname "$0")/cli_test.sh"
command -v python3 >/dev/null 2>&1 || { echo "no python3: skipped"; exit 77; }
bench=$here/../../bench

# script NAME ARGS...: as leank() of cli_test.sh
script() {
  ran="$*"
  python3 "$bench/$1" "${@:2}" >"$work/out" 2>"$work/err" </dev/null
  code=$?
}

# Two rounds of each, medians 10 and 30 beside 20 and 15; the llama.cpp line is in A alone.
for speed in 8 12; do
  printf '{"bench":"decode","contender":"leank dense bf16","length":512,"threads":2,"tokens_per_second":%s}\n' $speed
done >"$work/a"
printf '{"bench":"decode","contender":"leank dense bf16","length":4096,"threads":2,"tokens_per_second":30}
{"bench":"decode","contender":"llama.cpp f16","length":512,"threads":2,"tokens_per_second":4}
{"bench":"decode","contender":"llama.cpp q8_0 flash","length":512,"threads":2,"tokens_per_second":5}
' >>"$work/a"
printf '{"bench":"decode","contender":"leank dense bf16","length":512,"threads":2,"tokens_per_second":20}
{"bench":"decode","contender":"leank dense bf16","length":4096,"threads":2,"tokens_per_second":15}
' >"$work/b"
script compare "$work/a" "$work/b"
expect_code 0
expect_no_err
expect_out '^bench=decode contender=leank dense bf16 threads=2$'
expect_out '^length=512 +10 +20 +2\.000 x'
expect_out '^length=4096 +30 +15 +0\.500 x'
expect_out '^geometric mean +1\.000 x +of 2$'
script compare "$work/a" "$work/b" --all
expect_out 'llama.cpp f16 length=512 +4 +-$'
# Seconds: less is faster.
printf '{"bench":"matvec","type":"Q4_K","rows":1,"seconds":0.5,"bytes":100}\n' >"$work/c"
printf '{"bench":"matvec","type":"Q4_K","rows":1,"seconds":0.25,"bytes":100}\n' >"$work/d"
script compare "$work/c" "$work/d"
expect_out ' 0\.5 +0\.25 +2\.000 x +seconds$'
script compare "$work/a" "$work/d"
expect_code 1
expect_err 'no row of one file is in the other'
echo 'no JSON' >"$work/bad"
script compare "$work/a" "$work/bad"
expect_code 1
expect_err 'bad: line 1'

# Lines of the program.
leank bench attention --heads 4,2,32 --dk 8 -l 512,1k -r 1 --rotate 1M --threads 1 --json "$cpu"
expect_code 0
cp "$work/out" "$work/attention"
script compare "$work/attention" "$work/attention"
expect_code 0
expect_out '^geometric mean +1\.000 x +of 4$'

# The picture: a curve for leank and one for the best of llama.cpp, its largest value.
script plot_speed.py decode "$work/speed.svg" "$work/a"
expect_code 0
expect_no_err
[ "$(grep -c '<polyline' "$work/speed.svg")" -eq 2 ]
check $? "two curves"
grep -q 'llama.cpp: 5.0<' "$work/speed.svg" && grep -q 'leank dense bf16: 30.0<' "$work/speed.svg"
check $? "labels with the last values"
python3 -c 'import sys, xml.dom.minidom; xml.dom.minidom.parse(sys.argv[1])' "$work/speed.svg"
check $? "the picture is XML"
script plot_speed.py prefill "$work/none.svg" "$work/a"
expect_code 1
expect_err 'no lines of prefill'

# Tables of real shapes, here of a small one on the processor.
cat >"$work/config.json" <<'JSON'
{"architectures": ["LlamaForCausalLM"], "hidden_size": 128, "intermediate_size": 256,
 "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 500,
 "max_position_embeddings": 4096}
JSON
leank mask score "$work/config.json" -o "$work/mask" --method random --ratio 0.5 --n-sink 64 \
  --n-recent 64
script gpu_figures "$work/config.json=$work/mask" --bin "$program" --device cpu --attention 2x512 \
  --decode 1x512,3x256 --steps 4 --memory 256 --memory-steps 4 --learn 1k --out "$work/rows" \
  --extra "--rotate 1M --threads 2 $cpu" --memory-limit 8M
expect_code 0
expect_no_err
expect_out '^ +2x512 +[0-9.]+ .*\([0-9]+-[0-9]+\) +[0-9.]+ \([0-9.]+\)$'
expect_out '^ +3x256 +leank +[0-9.]+'
expect_out '^ +256 +LeanK over dense: [0-9.]+ x the batch'
expect_out '^ +1k( +[0-9.]+){10}$'
grep -q '"bench":"attention_layer"' "$work/rows" && grep -q '"memory_summary"' "$work/rows"
check $? "the lines are kept"
script gpu_figures "$work/none.json=$work/mask" --bin "$program" --device cpu --decode 1x512 \
  --attention none --memory none --learn none
expect_code 1
expect_err 'none.json'
script gpu_figures "$work/config.json"
expect_code 2
finish
