#!/usr/bin/env bash
# The published masks, where LEANK_TEST_MASKS names their folder: figures of the paper's masks.
# shellcheck source=tests/cli/cli_test.sh
. "$(dirname "$0")/cli_test.sh"
masks=${LEANK_TEST_MASKS:-}
[ -n "$masks" ] || { echo "LEANK_TEST_MASKS is not set: skipped"; exit 77; }
llama=$masks/llama3.1-8b-instruct.pth
qwen=$masks/qwen2.5-7b-instruct.pth

leank mask show "$llama"
expect_code 0
expect_out '^sizes +32 layers x 8 kv heads x 128 channels$'
expect_out '^kept +K 31.25 %, V 81.64 %, K and V together 56.45 %$'
for pair in '0 +47' '32 +120' '64 +67' '96 +22'; do expect_out "^ +$pair heads\$"; done
[ "$(grep -c ' heads$' "$work/out")" -eq 4 ]
check $? "no other counts"
leank mask show "$qwen"
expect_code 0
expect_out '^sizes +28 layers x 4 kv heads x 128 channels$'
expect_out '^kept +K 29.02 %, V 68.75 %'
for pair in '0 +35' '32 +34' '64 +33' '96 +10'; do expect_out "^ +$pair heads\$"; done

leank info "$data/configs/llama-3.1-8b.json" --mask "$llama" --ctx 32768
expect_code 0
expect_no_err
expect_out '^bytes per middle token +131,072 +73,984 +56.4 %$'
expect_out 'V heads saved 18.4 % \(47 of 256\)$'
expect_out '^sink and recent tokens of a sequence +32,768 +896$'
expect_out '^wide pages +512 +15$'
expect_out '^lean pages +0 +498$'
expect_out '^KV bytes stored +4,294,967,296 +2,475,458,560 +57.6 %$'
expect_out '^KV bytes reserved +4,294,967,296 +2,483,847,168 +57.8 %$'
leank info "$data/configs/llama-3.1-8b.json" --mask "$llama" --ctx 32k --json
expect_json
[ "$(json_number bytes_per_lean_token <"$work/out")" -eq 131072 ] # the dense side comes first
check $? "dense bytes in JSON"
grep -q '"bytes_per_lean_token": 73984' "$work/out"
check $? "LeanK bytes in JSON"
leank info "$data/configs/qwen2.5-7b.json" --mask "$qwen" --ctx 32k
expect_code 0
expect_out '^bytes per middle token +57,344 +28,032 +48.9 %$'
expect_out '\(35 of 112\)$'
leank info "$data/configs/qwen2.5-7b.json" --mask "$llama"
expect_failure 1 'mask is for 32 layers'

for mask in "$llama" "$qwen"; do
  leank mask import "$mask" -o "$work/mask.safetensors"
  expect_code 0
  leank mask export "$work/mask.safetensors" -o "$work/back.pth"
  expect_code 0
  leank mask show "$mask" --json
  tr -d ' \n' <"$work/out" | grep -o '"kept_per_head":[][0-9,]*' >"$work/a"
  leank mask show "$work/back.pth" --json
  tr -d ' \n' <"$work/out" | grep -o '"kept_per_head":[][0-9,]*' >"$work/b"
  [ -s "$work/a" ]
  check $? "counts are listed"
  expect_same "$work/a" "$work/b"
done
leank mask import "$llama" -o "$work/llama" --config "$data/configs/llama-3.1-8b.json"
expect_code 0
leank mask show "$work/llama"
expect_out '^architecture +llama$'
expect_out '^RoPE +base 500000, llama3$'
finish
