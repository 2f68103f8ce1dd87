#!/usr/bin/env python3
"""leank beside llama.cpp: the same file, the same lengths, in turns on the same machine.

bench/rivals/compare_llama.py prefill|decode|both MODEL.gguf [--mask FILE] [--json FILE]
    [--lengths 512,4096,16384,32768] [--rounds 3] [--steps 32] [--threads N] [--kv-types bf16]
    [--settings f16,bf16,"f16 flash",...] [--keep 0.8] [--leank build/leank] [--llama-bench PATH]

Each round runs every contender once per length, so that a drift of the machine (other tenants,
clocks) meets all of them; medians over the rounds are compared. llama.cpp's flash attention is off
and on and its KV cache in f16, bf16, q8_0 and q4_0 (which need flash attention), and its best setting
is the one quoted. It fills its context anew for every one of them, which takes long at 32K: settings
that reach less than --keep of the best one in the first round are not run again. JSON lines go to
--json, one per measurement: bench/compare and bench/plot_speed.py read them. llama.cpp's benchmark
is built by bench/rivals/build_llama_cpp.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# Name of a setting and its options; a quantised V cache needs flash attention.
LLAMA_SETTINGS = {
    "f16": ["-fa", "0"],
    "bf16": ["-fa", "0", "-ctk", "bf16", "-ctv", "bf16"],
    "f16 flash": ["-fa", "1"],
    "bf16 flash": ["-fa", "1", "-ctk", "bf16", "-ctv", "bf16"],
    "q8_0 flash": ["-fa", "1", "-ctk", "q8_0", "-ctv", "q8_0"],
    "q4_0 flash": ["-fa", "1", "-ctk", "q4_0", "-ctv", "q4_0"],
}


def run(command):
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"{' '.join(map(str, command))}\nended with {result.returncode}:\n{result.stderr}")
    return result.stdout


def leank_round(options, what, length):
    """Rows of leank with the contender's name, dense and pruned."""
    for kv_type in options.kv_types.split(","):
        command = [options.leank, "bench", what, options.model, "-l", length, "-r", 1, "--threads",
                   options.threads, "--kv-type", kv_type, "--json"]
        if what == "decode":
            command += ["-n", options.steps]
        if options.mask:
            command += ["--mask", options.mask]
        for line in run(list(map(str, command))).splitlines():
            row = json.loads(line)
            name = "dense" if row["cache"] == "dense" else "pruned"
            yield {**row, "contender": f"leank {name} {kv_type}"}


def llama_round(options, what, length, settings):
    """Rows of llama.cpp, one per setting."""
    work = {"prefill": ["-p", length, "-n", 0],
            "decode": ["-p", 0, "-n", options.steps, "-d", length]}[what]
    for name in settings:
        command = [options.llama_bench, "-m", options.model, "-t", options.threads, "-r", 1,
                   "-o", "json", *work, *LLAMA_SETTINGS[name]]
        speed = json.loads(run(list(map(str, command))))[0]["avg_ts"]
        yield {"bench": what, "length": length, "threads": options.threads,
               "contender": f"llama.cpp {name}", "tokens_per_second": speed}


def still_worth(speeds, settings, keep):
    """Settings that the first round gives a chance to be the best."""
    best = max(speeds[f"llama.cpp {name}"] for name in settings)
    return [name for name in settings if speeds[f"llama.cpp {name}"] >= keep * best]


def compare(options, what, length, sink):
    samples = {}
    settings = options.settings
    for number in range(options.rounds):
        speeds = {}
        for row in [*leank_round(options, what, length),
                    *llama_round(options, what, length, settings)]:
            speeds[row["contender"]] = row["tokens_per_second"]
            print(json.dumps({**row, "model": os.path.basename(options.model), "round": number}),
                  file=sink, flush=True)
        for name, speed in speeds.items():
            samples.setdefault(name, []).append(speed)
        if number == 0:
            settings = still_worth(speeds, settings, options.keep)
    show(options, what, length, samples, settings)


def show(options, what, length, samples, settings):
    medians = {name: statistics.median(values) for name, values in samples.items()}
    best_name = max((f"llama.cpp {name}" for name in settings), key=medians.get)
    best = medians[best_name]
    print(f"\n{what} at {length} tokens, {options.threads} threads, tokens/s "
          f"(median of up to {options.rounds}; least to most; against {best_name})")
    for name, median in medians.items():
        spread = f"{min(samples[name]):.2f} .. {max(samples[name]):.2f}"
        print(f"  {name:22}{median:10.2f}   {spread:20} {median / best:6.2f} x"
              f"   {len(samples[name])} rounds", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("prefill", "decode", "both"))
    parser.add_argument("model")
    parser.add_argument("--mask")
    parser.add_argument("--lengths", default="512,4096,16384,32768")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--kv-types", default="bf16", help="cache types of leank")
    parser.add_argument("--settings", default=",".join(LLAMA_SETTINGS))
    parser.add_argument("--keep", type=float, default=0.8)
    parser.add_argument("--leank", default=ROOT / "build" / "leank")
    parser.add_argument("--llama-bench")
    parser.add_argument("--json", default=os.devnull, help="one line per measurement goes here")
    options = parser.parse_args()
    options.settings = options.settings.split(",")
    for name in options.settings:
        if name not in LLAMA_SETTINGS:
            sys.exit(f"--settings: {name} is none of {', '.join(LLAMA_SETTINGS)}")
    if not options.llama_bench:
        built = run([str(HERE / "build_llama_cpp")])
        options.llama_bench = built.strip().splitlines()[-1]
    with open(options.json, "w", encoding="utf-8") as sink:
        for what in ("decode", "prefill") if options.what == "both" else (options.what,):
            for length in options.lengths.split(","):
                compare(options, what, int(length), sink)


if __name__ == "__main__":
    main()
