#!/usr/bin/env bash
# Plots of masks and of training logs.
# shellcheck source=tests/cli/cli_test.sh
. "$(dirname "$0")/cli_test.sh"
model=$data/tiny/llama-plain.gguf
mask=$work/mask
leank mask score "$model" -o "$mask" --method random --ratio 0.5 --align 8
expect_code 0

step() { # STAGE STEP DISTILL
  printf '{"event":"step","stage":%s,"step":%s,"n_steps":9,"loss":0.1,"distill":%s,' "$1" "$2" "$3"
  printf '"lambda":0.05,"lr":0.04,"mean_alpha":0.6,"near_zero":0.3,"ratio":0.69,"seconds":1.5}\n'
}
evaluation() { # STAGE STEP KL
  printf '{"event":"eval","stage":%s,"step":%s,"ratio":0.69,"kl":%s,"kl_p99":0.02}\n' "$1" "$2" "$3"
}
# A whole document; shape only where there is no python3.
expect_svg() {
  if command -v python3 >/dev/null 2>&1; then
    python3 -c 'import sys, xml.dom.minidom
root = xml.dom.minidom.parse(sys.argv[1]).documentElement
assert root.tagName == "svg" and float(root.getAttribute("height")) > 0
for node in root.getElementsByTagName("*"):
    for name, value in node.attributes.items():
        assert "nan" not in value and "inf" not in value, (name, value)' "$1" 2>"$work/err"
  else
    head -n 1 "$1" | grep -q '^<?xml' && [ "$(tail -n 1 "$1")" = '</svg>' ]
  fi
  check $? "$1 is an SVG"
}
expect_in() { grep -q -- "$2" "$1"; check $? "$1 has '$2'"; }
expect_not_in() { ! grep -q -- "$2" "$1"; check $? "$1 has no '$2'"; }

# ---- a mask ----
leank mask plot "$mask" -o "$work/a.svg"
expect_code 0
expect_no_out
expect_no_err
expect_svg "$work/a.svg"
for text in '>mask<' '2 layers × 2 kv heads × 32 channels' 'per RoPE pair' 'wavelength' \
  'per layer and kv head' 'Budget per layer' 'method: random'; do
  expect_in "$work/a.svg" "$text"
done
expect_not_in "$work/a.svg" 'by alpha'
expect_not_in "$work/a.svg" 'Learning'
leank mask plot "$mask" -o "$work/again.svg"
expect_same "$work/a.svg" "$work/again.svg"
leank mask plot "$mask" -o -
expect_code 0
expect_no_err
expect_same "$work/a.svg" "$work/out"
leank mask plot "$mask" -o ''
expect_failure 2 'a file to write has an empty name'
[ ! -e - ]
check $? "no file is named -"
leank mask plot "$mask" -o "$work/b.svg" --title "$(printf 'a <b> & "c" \033\001 \377 \357\277\277')"
expect_code 0
expect_svg "$work/b.svg"
expect_in "$work/b.svg" 'a &lt;b&gt; &amp; "c" ?? '
leank mask export "$mask" -o "$work/mask.pth"
leank mask plot "$work/mask.pth" -o "$work/pth.svg"
expect_code 0
expect_svg "$work/pth.svg"
expect_not_in "$work/pth.svg" 'wavelength'
# All and none.
for ratio in 0 1; do
  leank mask score "$model" -o "$work/edge" --method random --ratio $ratio
  leank mask plot "$work/edge" -o "$work/edge.svg"
  expect_code 0
  expect_svg "$work/edge.svg"
done
# Alpha, where it is stored.
leank mask plot "$data/formats/pairs.safetensors" -o "$work/alpha.svg"
expect_code 0
expect_svg "$work/alpha.svg"
expect_in "$work/alpha.svg" 'by alpha'

# ---- what show says of the same ----
leank mask show "$mask"
expect_out '^channels kept by layer and kv head \(of 32;'
expect_out '^RoPE pairs \(channels i and i \+ 16;'
expect_out '^   8 -  15 '
leank mask show "$work/mask.pth" --json
expect_json
expect_out '"pair_both": \['
leank mask score "$model" -o "$work/low" --method frequency --ratio 0.5
leank mask show "$work/low"
expect_out '^   0 -   7 ( +0/0){8} +0\.0 %'
expect_out '^   8 -  15 ( +4/4){8} +100\.0 %'

leank mask show "$data/formats/pairs.safetensors"
expect_out '^channels by alpha$'
expect_out '^  0\.9 - 1\.0 '
leank mask show "$data/formats/pairs.safetensors" --json
expect_json
expect_out '"alpha_histogram": \['

# ---- a log ----
{
  printf '{"event":"start","seed":1}\n'
  for i in 1 2 3 4; do step 1 $i 0.0$i; done
  evaluation 1 4 0.5
  for i in 1 2 3; do step 2 $i 0; done
  evaluation 2 3 0
  printf '{"event":"later","anything":[1]}\n\n{"event":"choice","stage":2}\n'
} >"$work/log"
leank mask plot "$mask" -o "$work/log.svg" --log "$work/log"
expect_code 0
expect_no_err
expect_svg "$work/log.svg"
expect_in "$work/log.svg" 'Learning: loss'
expect_in "$work/log.svg" 'stage 2 (kept)'
# A run that went on from a checkpoint: the same picture as one that was never cut.
{
  printf '{"event":"start","seed":1}\n'
  for i in 1 2 3; do step 1 $i 0.0$i; done
  step 1 4 0.9
  evaluation 1 4 0.9
  for i in 3 4; do step 1 $i 0.0$i; done
  evaluation 1 4 0.5
  for i in 1 2 3; do step 2 $i 0; done
  evaluation 2 3 0
  printf '{"event":"choice","stage":2}\n'
} >"$work/resumed"
leank mask plot "$mask" -o "$work/resumed.svg" --log "$work/resumed"
expect_same "$work/log.svg" "$work/resumed.svg"
# Killed while it wrote.
{ cat "$work/log" && printf '{"event":"step","sta'; } >"$work/killed"
leank mask plot "$mask" -o "$work/killed.svg" --log "$work/killed"
expect_code 0
expect_one_line
expect_err 'warning: .*line 14 is unfinished'
expect_same "$work/log.svg" "$work/killed.svg"
# Extremes, and many updates.
{
  step 1 1 1e-300
  step 1 2 1e300
  evaluation 1 2 1e-5
} >"$work/wide"
leank mask plot "$mask" -o "$work/wide.svg" --log "$work/wide"
expect_code 0
expect_svg "$work/wide.svg"
for i in $(seq 5000); do printf '{"event":"step","stage":2,"step":%s,"distill":%s,"near_zero":0,"ratio":0}\n' "$i" "$i"; done \
  >"$work/long"
leank mask plot "$mask" -o "$work/long.svg" --log "$work/long"
expect_code 0
expect_svg "$work/long.svg"
[ "$(wc -c <"$work/long.svg")" -lt 100000 ]
check $? "a long log makes no large picture"

# ---- faults ----
leank mask plot "$mask"
expect_failure 2 '-o is missing'
leank mask plot "$mask" "$mask" -o "$work/no.svg"
expect_failure 2 'unexpected argument'
leank mask plot "$work/nowhere" -o "$work/no.svg"
expect_failure 1 "$work/nowhere"
leank mask plot "$mask" -o "$work/no.svg" --log "$work/nowhere"
expect_failure 1 'nowhere: No such file'
good=$(step 1 1 0.5)
for bad in '{"event":"step","sta' 'x' '[]' '{}' '{"event":1}' '{"event":"step","stage":1,"step":2}' \
  '{"event":"step","stage":3,"step":2,"distill":1,"ratio":0,"near_zero":0}' \
  '{"event":"step","stage":1,"step":-2,"distill":1,"ratio":0,"near_zero":0}' \
  '{"event":"step","stage":1,"step":1.5,"distill":1,"ratio":0,"near_zero":0}' \
  '{"event":"step","stage":1,"step":2,"distill":"1","ratio":0,"near_zero":0}' \
  '{"event":"step","stage":1,"step":2,"distill":1,"ratio":7,"near_zero":0}' \
  '{"event":"step","stage":1,"step":2,"distill":1e999,"ratio":0,"near_zero":0}' \
  '{"event":"eval","stage":1,"step":2}' '{"event":"choice","stage":0}' '{"event":"x"} {"event":"x"}'; do
  printf '%s\n%s\n%s\n' "$good" "$bad" "$good" >"$work/bad"
  leank mask plot "$mask" -o "$work/no.svg" --log "$work/bad"
  expect_failure 1 "$work/bad: line 2: "
done
printf '{"event":"start"}\n' >"$work/bad"
leank mask plot "$mask" -o "$work/no.svg" --log "$work/bad"
expect_failure 1 'no update is logged'
: >"$work/bad"
leank mask plot "$mask" -o "$work/no.svg" --log "$work/bad"
expect_failure 1 'no update is logged'
[ ! -e "$work/no.svg" ]
check $? "no picture of what cannot be read"
leank mask plot "$mask" -o "$work/no/such/folder.svg"
expect_failure 1 'folder.svg: cannot create'
mkdir "$work/folder"
leank mask plot "$mask" -o "$work/folder"
expect_failure 1 'folder: is a folder'
cp "$work/a.svg" "$work/precious.svg"
# What is no regular file is written to, never replaced; a link stays one.
expect_written_through() { # FILE ARGS..., which write FILE's bytes to the path behind them
  local good=$1
  shift
  rm -f "$work/pipe" "$work/link" "$work/behind"
  mkfifo "$work/pipe"
  timeout 20 cat "$work/pipe" >"$work/read" &
  leank "$@" "$work/pipe"
  expect_code 0
  [ -p "$work/pipe" ]
  check $? "a pipe stays a pipe"
  wait $!
  expect_same "$good" "$work/read"
  echo old >"$work/behind"
  ln -s behind "$work/link"
  leank "$@" "$work/link"
  expect_code 0
  [ -L "$work/link" ]
  check $? "a link stays a link"
  expect_same "$good" "$work/behind"
  rm "$work/behind"
  leank "$@" "$work/link" # leads nowhere
  expect_code 0
  expect_same "$good" "$work/link"
}
leank mask plot "$work/mask.pth" -o "$work/good.svg" --title x
expect_code 0
expect_written_through "$work/good.svg" mask plot "$work/mask.pth" --title x -o
leank mask export "$work/mask.pth" -o "$work/good.pth"
expect_code 0
expect_written_through "$work/good.pth" mask export "$work/mask.pth" -o
ran="leank mask plot, files limited to 0 blocks"
(trap '' XFSZ && ulimit -f 0 && exec "$program" mask plot "$work/mask.pth" -o "$work/precious.svg") \
  2>&1 </dev/null | cat >"$work/err"
code=${PIPESTATUS[0]}
expect_failure 1 'precious.svg: cannot write: File too large'
expect_same "$work/a.svg" "$work/precious.svg"
[ -z "$(find "$work" -name '*.tmp-*')" ]
check $? "no temporary file stays behind"
finish
