#!/usr/bin/env python3
"""leank beside llama.cpp: the same file, the same lengths, in turns on the same machine.

bench/rivals/compare_llama.py prefill|decode MODEL.gguf [--mask FILE] [--lengths 512,4096]
    [--rounds 3] [--steps 32] [--threads N] [--leank build/leank] [--llama-bench PATH] [--json FILE]

Each round runs every contender once per length, so that a drift of the machine (other tenants,
clocks) meets all of them; medians over the rounds are compared. llama.cpp runs with its flash
attention off and on and its KV cache in f16 and q8_0, and its best setting is the one quoted.
Its benchmark is built by bench/rivals/build_llama_cpp.
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
    "f16 flash": ["-fa", "1"],
    "q8_0 flash": ["-fa", "1", "-ctk", "q8_0", "-ctv", "q8_0"],
}


def run(command):
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"{' '.join(map(str, command))}\nended with {result.returncode}:\n{result.stderr}")
    return result.stdout


def leank_round(options, length):
    """Tokens per second by kind of cache, and the read bandwidth measured beside them."""
    command = [options.leank, "bench", options.what, options.model, "-l", length, "-r", 1,
               "--threads", options.threads, "--json"]
    if options.what == "decode":
        command += ["-n", options.steps]
    if options.mask:
        command += ["--mask", options.mask]
    rows = [json.loads(line) for line in run(list(map(str, command))).splitlines()]
    names = {"dense": "leank dense", "leank": "leank pruned"}
    return {names[row["cache"]]: row["tokens_per_second"] for row in rows}


def llama_round(options, length):
    speeds = {}
    work = {"prefill": ["-p", length, "-n", 0],
            "decode": ["-p", 0, "-n", options.steps, "-d", length]}[options.what]
    for name, setting in LLAMA_SETTINGS.items():
        command = [options.llama_bench, "-m", options.model, "-t", options.threads, "-r", 1,
                   "-o", "json", *work, *setting]
        rows = json.loads(run(list(map(str, command))))
        speeds[f"llama.cpp {name}"] = rows[0]["avg_ts"]
    return speeds


def compare(options, length, sink):
    samples = {}
    for number in range(options.rounds):
        for name, speed in {**leank_round(options, length), **llama_round(options, length)}.items():
            samples.setdefault(name, []).append(speed)
            print(json.dumps({"what": options.what, "model": os.path.basename(options.model),
                              "length": length, "round": number, "contender": name,
                              "threads": options.threads, "tokens_per_second": speed}),
                  file=sink, flush=True)
    medians = {name: statistics.median(values) for name, values in samples.items()}
    best_name = max((name for name in medians if name.startswith("llama.cpp")), key=medians.get)
    best = medians[best_name]
    print(f"\n{options.what} at {length} tokens, {options.threads} threads, tokens/s "
          f"(median of {options.rounds}, least to most; against {best_name})")
    for name, median in medians.items():
        spread = f"{min(samples[name]):.2f} .. {max(samples[name]):.2f}"
        print(f"  {name:22}{median:10.2f}   {spread:20} {median / best:6.2f} x")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("prefill", "decode"))
    parser.add_argument("model")
    parser.add_argument("--mask")
    parser.add_argument("--lengths", default="512,4096")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--leank", default=ROOT / "build" / "leank")
    parser.add_argument("--llama-bench")
    parser.add_argument("--json", default=os.devnull, help="one line per measurement goes here")
    options = parser.parse_args()
    if not options.llama_bench:
        built = run([str(HERE / "build_llama_cpp")])
        options.llama_bench = built.strip().splitlines()[-1]
    with open(options.json, "w", encoding="utf-8") as sink:
        for length in options.lengths.split(","):
            compare(options, int(length), sink)


if __name__ == "__main__":
    main()
