#!/usr/bin/env bash
# Benchmarks on shapes so small that nothing is learned from their speed: what they print, the bytes
# they count, and what they refuse.
# shellcheck source=tests/cli/cli_test.sh
. "$(dirname "$0")/cli_test.sh"
model=$data/tiny/llama-plain.gguf
small="-r 1 --rotate 1M --threads 2 $cpu"

# ---- wrong usage ----
leank bench
expect_code 2
expect_out '^usage: leank bench COMMAND'
leank bench fly
expect_failure 2 "unknown command 'bench fly'"
leank bench attention
expect_failure 2 'which shape\?'
leank bench attention --heads 32,8
expect_failure 2 '--heads are three numbers'
leank bench attention --heads 32,8,128,1
expect_failure 2 '--heads are three numbers'
leank bench attention --heads 32
expect_failure 2 '--heads are three numbers'
leank bench attention --heads 32,x,128
expect_failure 2 'option --heads'
leank bench attention "$model" --heads 4,2,32
expect_failure 2 '--heads and a model exclude each other'
leank bench attention "$model" --n-layers 3
expect_failure 2 '--n-layers and a model exclude each other'
leank bench attention "$model" another
expect_failure 2 "unexpected argument 'another'"
leank bench attention "$model" --mask x --dk 8
expect_failure 2 '--mask and --dk exclude each other'
leank bench attention "$model" --no-dense
expect_failure 2 '--no-dense needs'
leank bench attention "$model" --layers
expect_failure 2 '--layers needs --mask or --dk'
leank bench attention "$model" --n-sink 64
expect_failure 2 '--n-sink needs --mask'
for command in "attention $model" matvec "prefill $model" "memory $model" "learn $model"; do
  # shellcheck disable=SC2086
  leank bench $command --rotate 1023k
  expect_failure 2 '--rotate is at least 1M'
  expect_no_out
done
leank bench attention "$model" -r 0
expect_failure 2 '-r is at least 1'
leank bench attention "$model" --kv-type f64
expect_failure 2 'one of bf16'
leank bench attention "$model" --cpu fast
expect_failure 2 'option --cpu'
leank bench attention "$model" -l 0
expect_failure 2 'option --lengths'
leank bench matvec "$model"
expect_failure 2 'unexpected argument'
leank bench matvec --types q4_k,q9_x
expect_failure 2 "unknown weight type 'q9_x'"
leank bench matvec --shape 64
expect_failure 2 '--shape is two numbers'
leank bench matvec --shape 64,100
expect_failure 2 'no multiple of 256'
leank bench matvec --rows 1,65
expect_failure 2 '--rows: at most 64'
leank bench matvec -r 0
expect_failure 2 '-r is at least 1'
leank bench decode --no-dense "$model"
expect_failure 2 '--no-dense needs --mask'
leank bench decode "$model" --fill often
expect_failure 2 'option --fill'
leank bench prefill "$model" --fill random
expect_failure 2 "unknown option '--fill'"
leank bench memory
expect_failure 2 'MODEL'
leank bench memory "$model" -l 4k,0
expect_failure 2 'option --lengths'
leank bench memory "$model" -l 17179869183G
expect_failure 2 '--lengths: too large'
for steps in 0 1048577; do
  leank bench memory "$model" -n $steps
  expect_failure 2 '--steps is 1 to 1048576'
done
leank bench memory "$model" -b 0
expect_failure 2 'option --batch'
leank bench memory "$model" -b 65537
expect_failure 2 '--batch is 1 to 65536'
leank bench memory "$model" --memory lots
expect_failure 2 'option --memory'
leank bench memory "$model" --no-dense
expect_failure 2 '--no-dense needs --mask'
leank info --level fast --cpu
expect_failure 2 'option --level'

# ---- what is not possible ----
# shellcheck disable=SC2086 # several options
{
  leank bench attention --heads 5,2,32 --json $small
  expect_failure 2 '5 query heads on 2 kv heads'
  leank bench attention --heads 5,2,32 $small
  expect_failure 2 '5 query heads on 2 kv heads'
  expect_no_out
  leank bench attention --heads 4,2,32 --dk 8,33 $small
  expect_failure 2 '33 kept channels of 32'
  expect_no_out
  leank bench attention --heads 4,2,32 --threads 100000
  expect_failure 2 '100000 threads'
  leank bench attention --heads 4,2,32 --json $small --rotate 1048576M
  expect_failure 1 'copies of so small a cache|needs [0-9]+ bytes, and [0-9]+ are free'
  leank bench attention "$data/nowhere.json" $small
  expect_failure 1 'nowhere.json'
  leank bench attention --heads 9,3,32768 -l 16384k --json $small
  expect_failure 1 'needs [0-9]+ bytes, and [0-9]+ are free'
}

# ---- attention: the bytes of the plan ----
leank mask score "$model" -o "$work/mask" --method random --ratio 0.5 --n-sink 64 --n-recent 128
expect_code 0
for length in 100 1k 3000; do
  for batch in 1 3; do
    for type in bf16 f32; do
      leank info "$model" --mask "$work/mask" --ctx $length --batch $batch --kv-type $type --json
      tr -d ' \n' <"$work/out" | sed 's/"leank".*//' >"$work/dense-plan"
      tr -d ' \n' <"$work/out" | sed 's/.*"leank"//' >"$work/lean-plan"
      # shellcheck disable=SC2086
      leank bench attention "$model" --mask "$work/mask" -l $length -b $batch --kv-type $type --json \
        $small
      expect_code 0
      expect_no_err
      expect_json
      [ "$(wc -l <"$work/out")" -eq 2 ]
      check $? "a line for dense, a line for the mask"
      [ "$(sed -n 1p "$work/out" | json_number bytes)" = "$(json_number stored <"$work/dense-plan")" ]
      check $? "dense: bytes are those of the plan"
      [ "$(sed -n 2p "$work/out" | json_number bytes)" = "$(json_number stored <"$work/lean-plan")" ]
      check $? "LeanK: bytes are those of the plan"
    done
  done
done
# shellcheck disable=SC2086
leank bench attention "$model" --mask "$work/mask" -l 1k --json --layers $small
expect_code 0
expect_json
[ "$(grep -c '"bench":"attention_layer"' "$work/out")" -eq 2 ]
check $? "a line for each of two layers"
if command -v python3 >/dev/null 2>&1; then
  python3 - "$work/out" <<'PYTHON'
import json, sys
rows = [json.loads(line) for line in open(sys.argv[1], encoding="utf-8")]
dense, layers, mask = rows[0], rows[1:3], rows[3]
assert dense["cache"] == "dense" and mask["cache"] == "leank"
assert sum(row["bytes"] for row in layers) == mask["bytes"]
assert [row["layer"] for row in layers] == [0, 1]
for row in rows:
    assert 0 < row["min_seconds"] <= row["seconds"]
    assert abs(row["bytes_per_second"] * row["seconds"] / row["bytes"] - 1) < 1e-6
    assert row["kernel"].startswith("attend_bf16_") and row["threads"] == 2
for row in (dense, mask):
    assert abs(row["share_of_bandwidth"] * row["read_bandwidth"] / row["bytes_per_second"] - 1) < 1e-6
    assert row["rotate_bytes"] == 1 << 20 and row["cpu_level"] and row["read_pattern"]
assert abs(mask["byte_ratio"] * dense["bytes"] / mask["bytes"] - 1) < 1e-6
assert abs(mask["time_ratio"] * dense["seconds"] / mask["seconds"] - 1) < 1e-6
assert abs(mask["time_over_bytes"] * mask["byte_ratio"] / mask["time_ratio"] - 1) < 1e-6
PYTHON
  check $? "the figures of the lines agree"
fi

# ---- attention: shapes from elsewhere ----
# shellcheck disable=SC2086
{
  leank bench attention --heads 4,2,32 --dk 8,32 -l 1k,2k --json $small
  expect_code 0
  [ "$(grep -c '"cache":"dense"' "$work/out")" -eq 4 ] && [ "$(grep -c '"n_kept":8,' "$work/out")" -eq 2 ]
  check $? "dense beside each count, at each length"
  leank bench attention --heads 4,2,32 --dk 8 -l 1k --no-dense --n-layers 3 $small
  expect_code 0
  # 128 + 768 wide tokens and 2 lean pages of (8 + 32) channels, 2 heads, 2 bytes, 3 layers
  expect_out '^Dk 8 +1,?024 +1 +749,568 '
  leank bench attention --heads 4 --mask "$work/mask" -l 512,1k $small
  expect_code 0
  expect_out '^mask +512 '
  expect_out '^mask +1024 '
  [ "$(grep -c ' threads; reads ' "$work/out")" -eq 1 ] && [ "$(grep -c '^cache ' "$work/out")" -eq 1 ]
  check $? "the machine and the columns are described once"
  leank bench attention --mask "$work/mask" -l 512 $small
  expect_failure 2 'how many query heads'
  leank bench attention --heads 4,2,64 --mask "$work/mask" -l 512 $small
  expect_failure 1 'for 2 kv heads of 32 channels'
  leank bench attention "$data/configs/qwen2.5-7b.json" --mask "$work/mask" $small
  expect_failure 1 'mask is for'
  leank bench attention "$data/configs/qwen2.5-7b.json" -l 64 $small
  expect_code 0
  expect_out '28 query heads, 4 kv heads, head dim 128'
}

# ---- models of random weights: a bare config.json ----
cat >"$work/config.json" <<'JSON'
{"architectures": ["LlamaForCausalLM"], "_name_or_path": "made-up", "hidden_size": 128,
 "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
 "num_key_value_heads": 2, "vocab_size": 500, "max_position_embeddings": 4096}
JSON
leank mask score "$work/config.json" -o "$work/mask2" --method random --ratio 0.5 --n-sink 64 \
  --n-recent 64
expect_code 0
quick="--rotate 1M --threads 2 $cpu"
# shellcheck disable=SC2086
{
  leank bench decode "$work/config.json" --mask "$work/mask2" -l 300,600 -b 3 -n 2 -r 2 --json $quick
  expect_code 0
  expect_no_err
  expect_json
  [ "$(grep -c '"model":"made-up","synthetic":true,.*"random_cache":true' "$work/out")" -eq 4 ]
  check $? "dense and LeanK at two lengths, of random weights and caches"
  sed 's/4096/256/' "$work/config.json" >"$work/short.json"
  leank bench decode "$work/short.json" -l 64,300 -n 2 -r 1 --json $quick
  expect_code 0
  expect_err '^leank: warning: a context of 300 tokens is longer than the model was made for \(256\)$'
  leank bench memory "$work/short.json" -l 300 -n 2 -b 1 --json $quick
  expect_code 0
  expect_err '^leank: warning: a context of 300 tokens is longer than the model was made for \(256\)$'
  leank bench decode "$work/config.json" -l 300 -n 2 -r 1 --fill prompt --json $quick
  expect_code 0
  expect_out '"random_cache":false,"prefill_seconds":'
  leank bench decode "$model" --mask "$work/mask" -l 300 -n 2 -r 1 --fill random $quick
  expect_code 0
  expect_out '^decode +leank +300 +1 .* random$'
  leank bench prefill "$work/config.json" -l 100 -r 1 --json --seed 7 $quick
  expect_code 0
  expect_out '"bench":"prefill","model":"made-up","synthetic":true'
  leank run "$work/config.json" -p x
  expect_failure 1 'describes a model without its weights'
  sed 's/256/16777216/; s/128,/131072,/' "$work/config.json" >"$work/huge.json"
  leank bench decode "$work/huge.json" $quick
  expect_failure 1 'random weights take [0-9]+ bytes, and [0-9]+ are free'
  echo '{"architectures": [' >"$work/torn.json"
  leank bench decode "$work/torn.json" $quick
  expect_failure 1 'torn.json'
  for shape in "$here"/../../bench/shapes/*.json; do
    leank info "$shape" --json
    expect_code 0
    expect_out '"n_params": (8030261248|7615616512)'
  done
}

# ---- memory ----
# shellcheck disable=SC2086
{
  leank bench memory "$work/config.json" --mask "$work/mask2" --lengths 500 --steps 5 --memory 8M --json $quick
  expect_code 0
  expect_no_err
  expect_json
  if command -v python3 >/dev/null 2>&1; then
    python3 - "$work/out" <<'PYTHON'
import json, sys
rows = [json.loads(line) for line in open(sys.argv[1], encoding="utf-8")]
rows, end = rows[:-1], rows[-1]
assert end["bench"] == "memory_summary" and end["length"] == 500
weights = 2 * (2 * 500 * 128 + 2 * (2 * 128 * 128 + 2 * 64 * 128 + 3 * 128 * 256)) + 4 * 5 * 128
for cache in ("dense", "leank"):
    own = [row for row in rows if row["cache"] == cache]
    batches = [row["batch"] for row in own]
    n = len(batches) - 1
    assert n >= 3 and batches[:n] == [1 << i for i in range(n)] and 1 << n - 1 < batches[n] <= 1 << n
    for row in own:
        assert row["reserved_bytes"] + weights <= 8 << 20, row
        assert (row["length"], row["steps"]) == (500, 5)
        assert abs(row["tokens_per_second"] * row["seconds"] / (5 * row["batch"]) - 1) < 1e-6
    step = own[n]["reserved_bytes"] - own[n - 1]["reserved_bytes"]
    per = step / (batches[n] - batches[n - 1])
    assert own[n]["reserved_bytes"] + weights + 1.01 * per > 8 << 20, "one more would have fitted"
    assert end[cache]["largest_batch"] == batches[n]
    best = max(own, key=lambda row: row["tokens_per_second"])
    assert end[cache]["best_batch"] == best["batch"]
    assert end[cache]["best_tokens_per_second"] == best["tokens_per_second"]
    assert own[0]["kv_bytes"] * batches[n] == own[n]["kv_bytes"]
dense, lean = end["dense"], end["leank"]
assert lean["largest_batch"] > dense["largest_batch"]
assert abs(end["batch_ratio"] * dense["largest_batch"] / lean["largest_batch"] - 1) < 1e-6
PYTHON
    check $? "batches grow to what fits, and the summary is of them"
  fi
  leank bench memory "$work/config.json" --mask "$work/mask2" -l 500,70 -n 5 -b 5,2,900 --memory 8M $quick
  expect_code 0
  expect_out '^dense +500 +2 .* random '
  expect_out '^leank +70 +5 '
  for length in 500 70; do
    expect_out "^leank: largest batch 5 x $length, best [0-9.]+ tokens/s at batch [25]\$"
  done
  [ "$(grep -c '^leank over dense: 1\.00 times the batch, ' "$work/out")" -eq 2 ]
  check $? "a summary for each length"
  [ "$(grep -c ' 900 ' "$work/out")" -eq 0 ]
  check $? "a batch that does not fit is not tried"
  [ "$(grep -c '^cache ' "$work/out")" -eq 1 ]
  check $? "the columns are named once"
  leank bench memory "$model" -l 100 -n 3 -b 2 --json $quick
  expect_code 0
  expect_out '"bench":"memory",.*"prompt_seconds":'
  leank bench memory "$work/config.json" -l 500 --memory 1500k $quick
  expect_code 0
  expect_out '^dense: nothing was measured$'
  leank bench memory "$work/config.json" -l 500 --memory 100k $quick
  expect_failure 1 'weights of [0-9]+ bytes leave nothing of a memory of 102400'
}

# Memory that ends before the plan's: less is tried until it fits. Not where a sanitizer wants more.
if (ulimit -v 1200000 && "$program" help) >/dev/null 2>&1; then
  ran="leank bench memory, in 1.2 GB"
  # shellcheck disable=SC2086
  (ulimit -v 1200000 &&
    "$program" bench memory "$work/config.json" -l 3000 -n 1 -b 2,1200 --memory 3G --json $quick) \
    >"$work/out" 2>"$work/err" </dev/null
  code=$?
  expect_code 0
  expect_no_err
  expect_json
  largest=$(grep -o '"largest_batch":[0-9]*' "$work/out" | tr -dc 0-9)
  [ "${largest:-0}" -gt 2 ] && [ "${largest:-0}" -lt 1200 ]
  check $? "a batch between 2 and 1200 was the largest"
fi

# ---- learn ----
# shellcheck disable=SC2086
{
  leank bench learn
  expect_code 2
  leank bench learn "$work/config.json" -l 2k --from 3k $quick
  expect_failure 2 '--from is above -l'
  leank bench learn "$work/config.json" --contexts 2 --questions 3 --batch 7 $quick
  expect_failure 2 '--batch 7: there are 3 questions on each of 2 contexts'
  for options in "--contexts 0" "--questions 0"; do
    leank bench learn "$work/config.json" $options $quick
    expect_failure 2 '--contexts and --questions are at least 1'
  done
  leank bench learn "$work/config.json" --steps1 0 $quick
  expect_failure 2 '--steps1 and --batch are at least 1'
  leank bench learn "$work/config.json" -l 900 $quick
  expect_failure 2 '^leank: contexts of at most 900 tokens have no middle'
  expect_no_out
  leank bench learn "$work/config.json" -l 1k,5k $quick
  expect_failure 1 '^leank: contexts of 5120 tokens, but the model was made for 4096'
  expect_no_out
  leank bench learn "$work/config.json" -l 1k,1100 --contexts 3 --steps1 5 --steps2 3 --json $quick
  expect_code 0
  expect_no_err
  expect_json
  if command -v python3 >/dev/null 2>&1; then
    python3 - "$work/out" <<'PYTHON'
import json, sys
rows = [json.loads(line) for line in open(sys.argv[1], encoding="utf-8")]
assert [row["length"] for row in rows] == [1024, 1100]

def pages(tokens):
    return -(-tokens // 64)

def near(a, b):
    return abs(a / b - 1) < 1e-6

for row in rows:
    assert row["bench"] == "learn" and row["synthetic"] and row["shortest"] == row["length"]
    tokens = row["length"] - 48 - 28
    blocks = pages(tokens) + 4 * (pages(row["length"] - 1) - tokens // 64)
    size = 2 * blocks * 2 * 64 * 32 * 2 * 2 + 4 * 4 * (27 * 128 + 1)
    assert row["kv_bytes"] == (3 + 1) * size, row
    times = {name: row[name]["times"] for name in ("context", "update1", "update2", "evaluation")}
    assert times == {"context": 3, "update1": 5, "update2": 3, "evaluation": 2}, times
    context, run = row["context"], row["run"]
    assert near(context["tokens_per_second"] * context["seconds"], tokens + 4 * 48)
    for name in times:
        assert near(row[name]["flops_per_second"] * row[name]["seconds"], row[name]["flops"])
    # Two layers over the context, the questions and the answers' rows; logits, and what attention
    # of answers counts beyond a plain one, are the rest.
    products = 2 * 2 * (2 * 128 * 128 + 2 * 128 * 64 + 3 * 128 * 256)
    spans = [(0, tokens)] + 4 * [(tokens, row["length"] - 1)]
    pairs = sum(end * (end + 1) // 2 - begin * (begin + 1) // 2 for begin, end in spans)
    least = products * sum(end - begin for begin, end in spans) + 2 * 4 * 128 * pairs
    assert least < context["flops"] < 1.1 * least, (least, context["flops"])
    # Forward and, but for the first layer's q, k and v, back.
    twice = 2 - (128 * 128 + 2 * 128 * 64) / (products / 2)
    assert twice * products * 4 * 27 < row["update1"]["flops"]
    assert near(run["context_seconds"], 28 * context["seconds"])
    assert near(run["update_seconds"],
                150 * row["update1"]["seconds"] + 20 * row["update2"]["seconds"])
    assert near(run["evaluation_seconds"], 2 * 4 * row["evaluation"]["seconds"])
    whole = run["context_seconds"] + run["update_seconds"] + run["evaluation_seconds"]
    assert near(run["seconds"], whole)
    assert run["kv_bytes"] == 28 * size
assert rows[1]["update1"]["flops"] > rows[0]["update1"]["flops"]
PYTHON
    check $? "parts are as many as asked, and the whole run is made of them"
  fi
  leank bench learn "$work/config.json" -l 1200 --from 1k --held-out 0 --steps1 2 --steps2 0 $quick
  expect_code 0
  expect_out '^made-up: 4 contexts, 0 held out, 4 questions of 48 random tokens'
  expect_out '^ +1200  context +4 '
  expect_out '^ +1200  update, stage 1 +2 '
  expect_out '^ +1200  leank learn: 24 \+ 4 contexts [0-9.]+ min, 150 \+ 20 updates [0-9.]+ min, in all '
  [ "$(grep -c 'stage 2\|evaluation' "$work/out")" -eq 0 ]
  check $? "what is not done is not told of"
  leank bench learn "$model" -l 500 --n-sink 64 --n-recent 64 --answer-tokens 5 --steps1 1 $quick
  expect_code 0
  expect_out ' answers of 5; 4 questions an update$'
}

# ---- matvec ----
# shellcheck disable=SC2086
{
  leank bench matvec --types q4_k,F32 --rows 1,3 --shape 64,512 --json $small
  expect_code 0
  expect_no_err
  expect_json
  [ "$(wc -l <"$work/out")" -eq 4 ]
  check $? "a line for each type and number of rows"
  [ "$(sed -n 1p "$work/out" | json_number bytes)" -eq $((64 * 2 * 144)) ]
  check $? "bytes of Q4_K"
  [ "$(sed -n 4p "$work/out" | json_number bytes)" -eq $((64 * 512 * 4)) ]
  check $? "bytes of F32"
  expect_out '"type":"Q4_K","rows":3,.*"kernel":"matvec_.*q4_k_'
  leank bench matvec --shape 32,256 --rows 2 $small
  expect_code 0
  for type in F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q4_K Q5_K Q6_K; do
    expect_out "^$type +2 "
  done
}

# ---- the machine ----
leank info --cpu
expect_code 0
expect_no_err
expect_out '^processor '
expect_out '^level '
expect_out '^attend: attend_bf16_'
leank info --cpu --level c --kv-type f32 --json
expect_code 0
expect_json
[ "$(json_text level <"$work/out")" = '"c"' ]
check $? "the level is the cap"
expect_out '"attend": "attend_f32_c"'
leank info "$model" --cpu --json
expect_json
expect_out '"kernels": \{'

# ---- interrupted ----
ran="leank bench attention, interrupted"
# shellcheck disable=SC2086
"$program" bench attention --heads 8,2,64 -l 4k --rotate 64M -r 100000 --threads 1 $cpu \
  >"$work/out" 2>"$work/err" </dev/null &
pid=$!
for _ in $(seq 300); do
  grep -q '^cache' "$work/out" && break
  sleep 0.1
done
sleep 0.3
kill -INT "$pid"
wait "$pid"
code=$?
expect_code 130
expect_err 'interrupted'

# Growing until Ctrl-C: what was measured is summed up.
ran="leank bench memory, interrupted"
# shellcheck disable=SC2086
"$program" bench memory "$work/config.json" -l 64 -n 2000 --memory 512M --rotate 1M --threads 1 $cpu \
  --json >"$work/out" 2>"$work/err" </dev/null &
pid=$!
for _ in $(seq 600); do
  grep -q '"batch":1,' "$work/out" && break
  sleep 0.1
done
kill -INT "$pid"
wait "$pid"
code=$?
expect_code 130
expect_err 'interrupted'
expect_json
expect_out '"memory_summary","length":64,"dense":\{"largest_batch":[1-9]'
finish
