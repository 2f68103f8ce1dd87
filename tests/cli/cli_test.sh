# shellcheck shell=bash disable=SC2034 # the scripts that source it use the variables
# Sourced by the test_*.sh beside it, each called as: test_x.sh PROGRAM DATA_FOLDER. Exit status: 0
# all checks held, 1 some did not, 77 nothing to test with.
set -u
program=$1
data=$2
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
n_checks=0
n_failed=0
# The suite runs once per CPU level: commands that compute are given "$cpu".
cpu=--cpu=${LEANK_TEST_CPU:-best}

# leank ARGS...: stdout to $work/out, stderr to $work/err, exit status to $code; stdin is empty.
leank() {
  ran="leank $*"
  "$program" "$@" >"$work/out" 2>"$work/err" </dev/null
  code=$?
}

# Counts a check; $1 = its exit status, $2 = what it was.
check() {
  n_checks=$((n_checks + 1))
  [ "$1" -eq 0 ] && return
  n_failed=$((n_failed + 1))
  printf 'FAILED: %s\n  after: %s (exit status %s)\n' "$2" "$ran" "$code"
  head -n 5 "$work/out" | sed 's/^/  out: /'
  head -n 5 "$work/err" | sed 's/^/  err: /'
}

expect_code() { [ "$code" -eq "$1" ]; check $? "exit status $1"; }
expect_out() { grep -Eq -- "$1" "$work/out"; check $? "stdout matches '$1'"; }
expect_no_out() { [ ! -s "$work/out" ]; check $? "stdout is empty"; }
expect_err() { grep -Eq -- "$1" "$work/err"; check $? "stderr matches '$1'"; }
expect_no_err() { [ ! -s "$work/err" ]; check $? "stderr is empty"; }
# A failure is one line that says who speaks.
expect_one_line() {
  [ "$(wc -l <"$work/err")" -eq 1 ] && grep -q '^leank: ' "$work/err"
  check $? "stderr is one line that begins with 'leank: '"
}
expect_failure() { # STATUS REGEX
  expect_code "$1"
  expect_one_line
  expect_err "$2"
}
# stdout equals a file of expected/.
expect_file() {
  diff -u "$here/expected/$1" "$work/out"
  check $? "stdout equals expected/$1"
}
expect_same() { cmp -s "$1" "$2"; check $? "$1 and $2 are the same"; }
# stdout is one JSON object or several, one a line; shape only where there is no python3.
expect_json() {
  if command -v python3 >/dev/null 2>&1; then
    python3 -c 'import json, sys
text = sys.stdin.read()
try: json.loads(text)
except ValueError: [json.loads(line) for line in text.splitlines()]
assert text.strip()' <"$work/out" 2>/dev/null
  else
    [ "$(head -c 1 "$work/out")" = "{" ] && [ "$(tail -n 1 "$work/out" | tail -c 2)" = "}" ]
  fi
  check $? "stdout is JSON"
}

# The number behind "NAME": in pretty or compact JSON on stdin: the first one.
json_number() { grep -Eo "\"$1\": *[-+.0-9e]+" | head -n 1 | sed 's/.*: *//'; }
json_text() { grep -Eo "\"$1\": *\"[^\"]*\"" | head -n 1 | sed 's/^[^:]*: *//'; }
json_tokens() { tr -d ' \n' | grep -Eo '"tokens":\[[-0-9,]*\]' | head -n 1; }

finish() {
  printf '%s: %s checks, %s failed\n' "$(basename "$0")" "$n_checks" "$n_failed"
  [ "$n_checks" -gt 0 ] && [ "$n_failed" -eq 0 ]
  exit $?
}
