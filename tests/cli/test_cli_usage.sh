#!/usr/bin/env bash
# Help, wrong usage, files that are not there or not what they should be.
# shellcheck source=tests/cli/cli_test.sh
. "$(dirname "$0")/cli_test.sh"
model=$data/tiny/llama-plain.gguf

# ---- help ----
leank help
expect_code 0
expect_no_err
expect_file help.txt
leank
expect_code 2
expect_file help.txt
leank --help
expect_code 0
expect_file help.txt
leank --version
expect_code 0
expect_out '^leank [0-9]+\.[0-9]+\.[0-9]+$'
for command in run info learn eval analyze mask tokenize bench "mask show" "mask plot" "mask score" "mask round" \
  "mask compare" "mask import" "mask export" "bench attention" "bench matvec" "bench decode" "bench prefill" \
  "bench memory" "bench learn"; do
  # shellcheck disable=SC2086
  leank $command --help
  expect_code 0
  expect_no_err
  expect_out "^usage: leank $command"
  [ "$(wc -L <"$work/out")" -le 100 ]
  check $? "no line is longer than 100 columns"
  cp "$work/out" "$work/help"
  # shellcheck disable=SC2086
  leank help $command
  expect_code 0
  expect_same "$work/help" "$work/out"
done
leank help help
expect_code 0
expect_file help.txt
leank help mask fly
expect_failure 2 "unknown command 'mask fly'"

# ---- devices: whether there is one or not, tiny's heads are not for it ----
leank info --devices
expect_code 0
expect_no_err
expect_out '^(cuda:0|devices  *cpu; no CUDA here: )'
leank info --devices --json
expect_code 0
expect_out '"devices": '
leank run "$model" -p x --device cuda
expect_failure 1 'CUDA'
leank info "$model" --device cuda
expect_failure 1 'only 64 or 128 are possible'
for command in info 'bench decode' 'bench attention'; do
  # shellcheck disable=SC2086
  leank $command "$model" --kv-type f16
  expect_failure 1 'CPU: a cache of f16 is not possible'
done
leank run "$model" -p x --device cuda:x
expect_failure 2 '.--device is cpu, cuda or cuda:N'
leank learn "$model" -o "$work/mask" --device cuda:x
expect_failure 2 '.--device is cpu, cuda or cuda:N'
leank learn "$model" -o "$work/mask" --device cuda --lengths 1k,1k --contexts 1
expect_failure 1 'CUDA'
leank mask compare "$model" "$work/mask" --device gpu
expect_failure 2 '.--device is cpu, cuda or cuda:N'

# ---- wrong usage: 2 ----
leank fly
expect_failure 2 "unknown command 'fly'"
leank help fly
expect_failure 2 "unknown command 'fly'"
leank mask fly
expect_failure 2 "unknown command 'mask fly'"
leank mask
expect_code 2
for command in run info learn eval tokenize "mask show" "mask plot" "mask score" "mask compare" "mask import" \
  "mask export" "bench decode" "bench memory"; do
  # shellcheck disable=SC2086
  leank $command
  expect_failure 2 'argument is missing'
  # shellcheck disable=SC2086
  leank $command --fly "$model"
  expect_failure 2 "unknown option '--fly'"
  # shellcheck disable=SC2086
  leank $command -Z "$model"
  expect_failure 2 "unknown option '-Z'"
done
leank run "$model" another -p x
expect_failure 2 "unexpected argument 'another'; usage: leank run MODEL \[-p TEXT"
leank run "$model" -p
expect_failure 2 'needs a value'
leank run "$model" --json=yes -p x
expect_failure 2 'takes no value'
leank run "$model" -p x -f y
expect_failure 2 'exclude each other'
leank run "$model" -p x --compare
expect_failure 2 '--compare needs --mask'
for options in "--n-sink 64" "--n-recent 64" "--policy mean" "--mean-comp on"; do
  # shellcheck disable=SC2086
  leank run "$model" -p x $options
  expect_failure 2 "^leank: ${options%% *} needs --mask"
done
leank info "$model" --n-recent 64
expect_failure 2 '--n-recent needs --mask'
leank info "$model" --level c
expect_failure 2 '--level needs --cpu'
leank info --cpu --mask "$work/m"
expect_failure 2 '--mask needs a MODEL'
leank tokenize "$model" -p x --ids --count
expect_failure 2 '--ids and --count exclude each other'
for option in ids count; do
  leank tokenize "$model" --decode 1 --$option
  expect_failure 2 "--decode prints text: --$option is for tokens"
done
leank learn "$model" -o "$work/m" --no-checkpoint --checkpoint "$work/c"
expect_failure 2 '--checkpoint and --no-checkpoint exclude each other'
leank info --json
expect_failure 2 'argument is missing: a MODEL, --cpu or --devices'
for options in "--chat" "--system y" "--template chatml"; do
  # shellcheck disable=SC2086
  leank run "$model" -p x --raw $options
  expect_failure 2 "--raw and ${options%% *} exclude each other"
done
for bad in x 1.5 -3 4t 99999999999999999999 18446744073709551615k ''; do
  leank run "$model" -p x -n "$bad"
  expect_failure 2 "option --predict: '.*' is not a whole number, as 4096 or 4k\$"
done
for bad in nan inf 1e999 hot; do
  leank run "$model" -p x --temp "$bad"
  expect_failure 2 "option --temp: '$bad' is not a number\$"
done
leank run "$model" -p x --kv-type f64
expect_failure 2 'one of bf16\|f32'
leank bench decode "$model" --lengths 512,,4k
expect_failure 2 "option --lengths: '512,,4k' is not 1 to 32 whole numbers above 0 joined by commas, as 512,4k\$"
leank bench decode "$model" --lengths 0
expect_failure 2 'option --lengths'
leank mask score "$model" --method random
expect_failure 2 '-o is missing'
leank mask score "$model" -o "$work/m"
expect_failure 2 '--method is missing'
leank mask score "$model" -o "$work/m" --method magic
expect_failure 2 'one of random'
for command in "mask score $model --method random -o" "mask round $work/m -o" "mask import $work/m -o" \
  "mask export $work/m -o" "learn $model -o" "learn $model -o $work/m --log" \
  "learn $model -o $work/m --checkpoint" "learn $model -o $work/m --cache" "eval $model -o" \
  "eval $model --report" "analyze $model --mask $work/m -o" "mask compare $model $work/m --cache"; do
  # shellcheck disable=SC2086
  leank $command -
  expect_failure 2 "^leank: option --[a-z]+: '-' is not a valid F[A-Za-z.]+: it is not written to stdout"
  expect_no_out
done
[ ! -e - ]
check $? "nothing is named -"
for ratio in 1.5 -0.5; do
  leank mask score "$model" -o "$work/m" --method random --ratio "$ratio"
  expect_failure 2 'between 0 and 1'
  leank mask round "$work/m" -o "$work/rounded" --ratio "$ratio"
  expect_failure 2 'between 0 and 1'
done

# ---- values that the library refuses: 2 as well ----
foreign=neon
[ "$(uname -m)" != aarch64 ] || foreign=avx2
for command in "run -p x" "bench decode" "bench memory" "learn -o $work/m" "mask score -o $work/m --method energy"; do
  # shellcheck disable=SC2086
  leank $command "$model" --cpu "$foreign"
  expect_failure 2 "CPU level $foreign"
done
leank run "$model" -p x --temp -1
expect_failure 2 'temperature -1: 0 to 1e6 is possible'
leank run "$model" -p x --threads 100000
expect_failure 2 '100000 threads'
# What is wrong with a text is no value of the command line.
printf 'a\377' >"$work/latin1"
leank run "$model" -f "$work/latin1"
expect_failure 1 'UTF-8'

# ---- files: 1 ----
head -c 1000 "$model" >"$work/cut.gguf"
head -c "$(($(wc -c <"$model") - 100))" "$model" >"$work/cut-tail.gguf"
: >"$work/empty"
mkdir "$work/folder"
for file in nowhere.gguf cut.gguf cut-tail.gguf empty folder; do
  for command in info "run -p x" "tokenize -p x" "bench prefill" "mask score -o $work/m --method energy"; do
    [ "$file" = cut-tail.gguf ] && [ "${command%% *}" = tokenize ] && continue
    # shellcheck disable=SC2086
    leank $command "$work/$file"
    expect_failure 1 "$work/$file"
    expect_no_out
  done
  leank mask show "$work/$file"
  expect_failure 1 "$work/$file"
  leank run "$model" -p x --mask "$work/$file"
  expect_failure 1 "$work/$file"
done
[ ! -e "$work/m" ]
check $? "a failed score leaves no file"
leank run "$model" -p x --mask "$model"
expect_failure 1 'is no safetensors file'
leank run "$model" -f "$work/nowhere.txt"
expect_failure 1 "nowhere.txt: No such file"
leank run "$model" -f "$work/folder"
expect_failure 1 "folder: Is a directory"

# ---- output that cannot be written: 1 ----
if [ -c /dev/full ]; then
  ran="leank info >/dev/full"
  "$program" info "$model" >/dev/full 2>"$work/err"
  code=$?
  : >"$work/out"
  expect_failure 1 'cannot write the output'
fi

# ---- a model's own strings do not reach the terminal as control characters ----
leank info "$(printf '%s/esc\033[31m' "$work")"
expect_failure 1 'esc\?\[31m'
finish
