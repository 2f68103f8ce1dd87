#!/usr/bin/env bash
# Every command on models of a few layers with random weights.
# shellcheck source=tests/cli/cli_test.sh
. "$(dirname "$0")/cli_test.sh"
model=$data/tiny/llama-plain.gguf
other=$data/tiny/qwen2-mixed.gguf

# Some 2,300 bytes, nearly as many tokens: more than sink and recent together.
prompt=$work/prompt.txt
seq -s ' ' 1 600 >"$prompt"

# ---- info ----
leank info "$model" --ctx 2k
expect_code 0
expect_no_err
expect_out '^sizes +2 layers, 4 query heads, 2 kv heads, head dim 32$'
expect_out '^bytes per token +512$' # 2 layers x 2 heads x 32 channels x (K + V) x 2 bytes
expect_out '^KV bytes stored +1,048,576$'
leank info "$model" --ctx 8k
expect_code 0
expect_err 'warning: a context of 8192 tokens is longer than the model was made for \(4096\)'
leank info "$model" --ctx 2k --batch 3 --kv-type f32
expect_out '^KV bytes stored +6,291,456$'
leank info "$model" --json
expect_json
leank info "$model" --cpu
expect_code 0
expect_out '^kernels on this machine$'
expect_out '^attend'

# ---- tokens ----
leank tokenize "$model" -f "$prompt" --ids
expect_code 0
cp "$work/out" "$work/ids"
leank tokenize "$model" -f "$prompt" --count
[ "$(cat "$work/out")" -eq "$(wc -w <"$work/ids")" ]
check $? "--count counts what --ids lists"
leank tokenize "$model" --decode "$(cat "$work/ids")"
{ cat "$prompt" && echo; } >"$work/back"
expect_same "$work/out" "$work/back"
leank tokenize "$model" -p 'a<|im_end|>' --count
with=$(cat "$work/out")
leank tokenize "$model" -p 'a<|im_end|>' --count --no-special
[ "$(cat "$work/out")" -gt "$with" ]
check $? "--no-special reads <|im_end|> as text"
leank tokenize "$model" -p 'x y' --json
expect_json
leank tokenize "$model" -p 'x y'
expect_out '"x"$'
leank tokenize "$model" --decode '1,99999999'
expect_failure 2 'ids are numbers below'
leank tokenize "$model" --decode '1 two'
expect_failure 2 'ids are numbers below'
printf 'abc\377def' >"$work/binary"
leank tokenize "$model" -f "$work/binary"
expect_failure 1 'UTF-8.*3'

# ---- prompts ----
leank run "$model" -p 'Once upon a time' -n 8 "$cpu"
expect_code 0
expect_err '^prompt [0-9]+ tokens, .*KV [0-9,]+ bytes of [0-9]+ tokens \(dense [0-9,]+, 100.0 %\)$'
leank run "$model" -p 'Once upon a time' -n 8 -q "$cpu"
expect_no_err
cp "$work/out" "$work/by-option"
printf 'Once upon a time' | "$program" run "$model" -n 8 -q "$cpu" >"$work/by-stdin"
expect_same "$work/by-option" "$work/by-stdin"
printf 'Once upon a time' >"$work/time.txt"
leank run "$model" -f "$work/time.txt" -n 8 -q "$cpu"
expect_same "$work/by-option" "$work/out"
leank run "$model" -p 'Once upon a time' -n 8 -v "$cpu"
expect_err '^attend'
leank run "$model" -p ''
expect_failure 1 'prompt is empty'
leank run "$model"
expect_failure 1 'prompt is empty'
leank run "$model" -f "$work/binary"
expect_failure 1 'UTF-8'
expect_no_out
head -c 5000 "$program" >"$work/program-part"
leank run "$model" -f "$work/program-part"
expect_code 1
expect_one_line
leank run "$model" -f "$prompt" -c 100
expect_failure 1 'prompt has [0-9]+ tokens, the context holds 100'
expect_no_out
seq -s ' ' 1 2000 >"$work/long.txt"
leank run "$model" -f "$work/long.txt"
expect_failure 1 'the context holds 4096, the most this model was made for'
leank run "$model" -p 'Once' -n 50 -c 16 --json --ignore-end "$cpu"
expect_code 0
[ "$(json_text stop <"$work/out")" = '"context"' ]
check $? "stops where the context ends"
leank run "$model" -p 'Once' -n 0 -q "$cpu"
expect_code 0

# ---- JSON, and the same answer whatever the threads ----
leank run "$model" -f "$prompt" -n 40 --ignore-end --json --threads 1 "$cpu"
expect_code 0
expect_json
expect_no_err
json_tokens <"$work/out" >"$work/one"
[ -s "$work/one" ]
check $? "JSON lists the tokens"
for threads in 2 3 7; do
  leank run "$model" -f "$prompt" -n 40 --ignore-end --json --threads "$threads" "$cpu"
  json_tokens <"$work/out" >"$work/more"
  expect_same "$work/one" "$work/more"
done
leank run "$model" -f "$prompt" -n 40 --ignore-end --json --temp 1 --seed 7 "$cpu"
json_tokens <"$work/out" >"$work/sampled"
leank run "$model" -f "$prompt" -n 40 --ignore-end --json --temp 1 --seed 7 "$cpu"
json_tokens <"$work/out" >"$work/sampled-again"
expect_same "$work/sampled" "$work/sampled-again"
leank run "$model" -f "$prompt" -n 40 --ignore-end --json --temp 1 --seed 8 "$cpu"
json_tokens <"$work/out" >"$work/sampled-other"
! cmp -s "$work/sampled" "$work/sampled-other"
check $? "another seed, another text"

# ---- making masks ----
for method in random frequency magnitude energy; do
  leank mask score "$model" -o "$work/$method" --method $method --ratio 0.5 --tokens 300 \
    --text "$prompt" --seed 3
  expect_code 0
  leank mask show "$work/$method"
  expect_code 0
  expect_out '^sizes +2 layers x 2 kv heads x 32 channels$'
  expect_out "^method +$method\$"
  expect_out '^architecture +llama$'
  expect_out '^fingerprint +[0-9a-f]{16}$'
  leank mask show "$work/$method" --json
  expect_json
done
# The lowest frequencies are the last channels of each half: pairs 8..15 of 16 at ratio 0.5.
leank mask show "$work/frequency"
expect_out '^ +16 +4 heads$'
leank mask score "$model" -o "$work/again" --method energy --ratio 0.5 --tokens 300 --text "$prompt" \
  --seed 3
expect_same "$work/energy" "$work/again"
leank mask score "$model" -o "$work/built-in" --method magnitude --ratio 0.25 --align 4 \
  --budget per-head --n-sink 64 --n-recent 128 --policy mean --mean-comp on
expect_code 0
leank mask show "$work/built-in"
expect_out '^ +24 +4 heads$'
expect_out '^deployed with +sink 64, recent 128, policy mean, mean compensation$'
expect_out '^made from +2048 tokens of built-in prose'
leank mask score "$model" -o "$work/odd" --method random --n-sink 100
expect_failure 2 'n_sink|sink'
[ ! -e "$work/odd" ]
check $? "no file of a mask that cannot be"

# ---- import and export ----
leank mask export "$work/energy" -o "$work/energy.pth"
expect_code 0
leank mask import "$work/energy.pth" -o "$work/imported" --config "$model"
expect_code 0
leank mask show "$work/energy" --json
tr -d ' \n' <"$work/out" | grep -o '"kept_per_head":[][0-9,]*' >"$work/kept"
leank mask show "$work/imported" --json
tr -d ' \n' <"$work/out" | grep -o '"kept_per_head":[][0-9,]*' >"$work/kept-imported"
expect_same "$work/kept" "$work/kept-imported"
leank mask show "$work/energy.pth"
expect_out '^ratio +reached 0\.[0-9]+, align'
! grep -q '^steps' "$work/out"
check $? "what the layout of the paper's code does not say is not shown"
leank mask import "$work/energy.pth" -o "$work/misfit" --config "$data/configs/qwen2.5-7b.json"
expect_failure 1 'mask is for'
[ ! -e "$work/misfit" ]
check $? "no file of a mask that does not fit"

# ---- a destination that cannot be written ----
leank mask export "$work/energy" -o "$work/nowhere/out.pth"
expect_failure 1 'nowhere/out.pth'
cp "$work/imported" "$work/precious"
for command in export import; do
  ran="leank mask $command, files limited to 0 blocks"
  source=$work/energy
  [ $command = import ] && source=$work/energy.pth
  (trap '' XFSZ && ulimit -f 0 && exec "$program" mask $command "$source" -o "$work/precious") \
    2>&1 </dev/null | cat >"$work/err"
  code=${PIPESTATUS[0]}
  expect_failure 1 'precious.*File too large'
  expect_same "$work/imported" "$work/precious"
done
[ -z "$(find "$work" -name 'precious?*')" ]
check $? "no temporary file stays behind"

# ---- a masked run ----
leank run "$model" -f "$prompt" -n 20 -m "$work/energy" --ignore-end --json "$cpu"
expect_code 0
expect_json
[ "$(json_number lean_stored <"$work/out")" -gt 0 ]
check $? "a long prompt has a pruned middle"
for field in wide_stored lean_stored; do
  tr -d ' \n' <"$work/out" | grep -Eo "\"$field\":[0-9]+" | sort -u >"$work/values"
  [ "$(wc -l <"$work/values")" -eq 1 ]
  check $? "$field: what is counted is what was planned"
done
json_tokens <"$work/out" >"$work/one"
leank run "$model" -f "$prompt" -n 20 -m "$work/energy" --ignore-end --json --threads 3 "$cpu"
json_tokens <"$work/out" >"$work/more"
expect_same "$work/one" "$work/more"
# int8, every channel: 4 heads of 32 bytes each for K and V; scales of 4 bytes, K's 32 for 64 tokens.
leank info "$model" --ctx 2k --kv-type q8 --json
expect_json
[ "$(json_number bytes_per_lean_token <"$work/out")" -eq $((4 * (32 + 2 + 32 + 4))) ]
check $? "bytes of a middle token of int8"
leank run "$model" -f "$prompt" -n 20 -m "$work/energy" --ignore-end --json --kv-type q8 "$cpu"
expect_code 0
for field in wide_stored lean_stored; do
  tr -d ' \n' <"$work/out" | grep -Eo "\"$field\":[0-9]+" | sort -u >"$work/values"
  [ "$(wc -l <"$work/values")" -eq 1 ]
  check $? "$field of int8: what is counted is what was planned"
done
leank run "$model" -f "$prompt" -n 20 -m "$work/energy" --compare --ignore-end "$cpu"
expect_code 0
expect_out '^--- dense ---$'
expect_out '^--- LeanK ---$'
expect_out '^leading tokens that agree +[0-9]+ of 20$'
sed -n 's/^KV bytes stored, measured  *//p' "$work/out" >"$work/measured"
sed -n 's/^KV bytes stored, plan  *//p' "$work/out" >"$work/planned"
[ -s "$work/measured" ]
check $? "the table has the bytes"
expect_same "$work/measured" "$work/planned"
leank run "$model" -f "$prompt" -n 20 -m "$work/energy" --compare --json "$cpu"
expect_code 0
expect_json
# Nothing kept anywhere, policy drop: the figures of the plan by hand. 128 + 768 full tokens of 512
# bytes and a middle of none.
leank mask score "$model" -o "$work/nothing" --method random --ratio 1
leank info "$model" -m "$work/nothing" --ctx 2048
expect_out '^bytes per middle token +512 +0 +0.0 %$'
expect_out '^KV bytes stored +1,048,576 +458,752 +43.8 %$'
# Shorter than sink and recent: the mask changes nothing, and says so.
leank run "$model" -p 'Once upon a time' -n 20 -m "$work/energy" --compare --ignore-end "$cpu"
expect_code 0
expect_out '^leading tokens that agree +20 of 20$'
expect_out 'the mask changes nothing'
leank run "$model" -p x -n 4 -m "$work/energy" --n-sink 100 "$cpu"
expect_failure 2 'n_sink|sink'

# ---- masks of other models ----
leank run "$other" -p x -m "$work/energy"
expect_failure 1 "$work/energy: .*mask is for"
leank info "$other" -m "$work/energy"
expect_failure 1 "$work/energy: .*mask is for"
# The same sizes with other weights: a warning, and it runs.
cp "$model" "$work/other.gguf"
chmod u+w "$work/other.gguf"
printf '\0\0\0\0\0\0\0\0' |
  dd of="$work/other.gguf" bs=1 seek="$(($(wc -c <"$model") - 1024))" conv=notrunc 2>/dev/null
leank run "$work/other.gguf" -p 'Once' -n 4 -q -m "$work/energy" "$cpu"
expect_code 0
expect_one_line
expect_err '^leank: warning: .*other weights'

# ---- bench ----
leank bench prefill "$model" --lengths 64,128 -r 2 --rotate 1M --json --threads 2 "$cpu"
expect_code 0
expect_json
[ "$(wc -l <"$work/out")" -eq 2 ]
check $? "one line a length"
leank bench decode "$model" --lengths 1k,1280 -n 4 -r 2 --rotate 1M --json --threads 2 -m "$work/energy" \
  "$cpu"
expect_code 0
expect_json
[ "$(grep -c '"cache":"leank"' "$work/out")" -eq 2 ] && [ "$(grep -c '"cache":"dense"' "$work/out")" -eq 2 ]
check $? "dense and LeanK at each length"
leank bench decode "$model" --lengths 128 -n 2 -r 1 --rotate 1M --threads 1 "$cpu"
expect_code 0
expect_out '^decode +dense +128 '
# Prompts read by other threads: the caches hold as much as those of a prefill of their own.
leank bench decode "$model" --lengths 1k -n 4 -r 1 --rotate 1M --json --threads 1 -m "$work/energy" "$cpu"
expect_code 0
grep -o '"kv_bytes_per_step":[0-9]*' "$work/out" >"$work/own"
grep -c '"packed_from_dense":true' "$work/out" >"$work/packed"
leank bench decode "$model" --lengths 1k -n 4 -r 1 --rotate 1M --json --threads 1 --prefill-threads 2 \
  -m "$work/energy" "$cpu"
expect_code 0
expect_json
grep -o '"kv_bytes_per_step":[0-9]*' "$work/out" | cmp -s - "$work/own"
check $? "packed from the session of --prefill-threads: the bytes of their own prefill"
[ "$(cat "$work/packed")" -eq 1 ] && [ "$(grep -c '"packed_from_dense":true' "$work/out")" -eq 2 ]
check $? "both caches are packed, and only LeanK's without --prefill-threads"
[ "$(grep -c '"threads":1[,}]' "$work/out")" -eq 2 ]
check $? "the threads reported are those of the steps"
leank bench decode "$model" --lengths 1k -n 4 -r 1 --rotate 1M --threads 1 --prefill-threads 2 --no-dense \
  -m "$work/energy" "$cpu"
expect_code 0
expect_out '^decode +leank +1024 .* packed$'
leank bench prefill "$model" --prefill-threads 2
expect_failure 2 "unknown option '--prefill-threads'"
finish
