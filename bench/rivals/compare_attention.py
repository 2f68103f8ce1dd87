#!/usr/bin/env python3
"""Attention of a decode step: leank beside ggml's CPU backend, kernel against kernel.

bench/rivals/compare_attention.py [--heads 32,8,128] [--lengths 4096,32768] [--mask FILE | --dk LIST]
    [--types f16,bf16,q8_0,q4_0] [--kv-types bf16] [--rounds 3] [--threads N] [--cpu LEVEL]
    [--rotate-mib 2048] [--leank build/leank] [--ggml PATH] [--json FILE]

Rounds of both programs in turns, so that a drift of the machine meets both; medians over the rounds.
Times are of one layer of one sequence (of a mask: the mean over its layers); bytes are those of K and
V that a step reads. ggml is given every cache type it has, with its fused attention and, where V is
not quantised, with products and softmax; ratios are against its fastest of all, and against its
fastest at 16 bits. The program is built by bench/rivals/build_ggml_attention.
"""
import argparse
import json
import os
import pathlib
import statistics
import sys

from compare_llama import HERE, ROOT, run


def leank_rows(options, kv_type):
    command = [options.leank, "bench", "attention", "--heads", options.heads, "-l", options.lengths,
               "-r", 1, "--kv-type", kv_type, "--threads", options.threads, "--cpu", options.cpu,
               "--rotate", f"{options.rotate_mib}M", "--json"]
    if options.mask:
        command += ["--mask", options.mask]
    if options.dk:
        command += ["--dk", options.dk]
    for line in run(list(map(str, command))).splitlines():
        row = json.loads(line)
        what = row["cache"]
        if what == "leank":
            what = f"Dk {row['n_kept']}" if "n_kept" in row else "mask"
        yield {**row, "contender": f"leank {what} {kv_type}"}


def ggml_rows(options):
    command = [options.ggml, "--heads", options.heads, "--lengths", options.lengths, "--types",
               options.types, "--threads", options.threads, "--repeats", 1, "--rotate-mib",
               options.rotate_mib]
    for line in run(list(map(str, command))).splitlines():
        row = json.loads(line)
        yield {**row, "contender": f"{row['contender']} {row['kv_type']}"}


def measure(options, sink):
    """Rows by length and contender."""
    rows = {}
    for number in range(options.rounds):
        for kv_type in options.kv_types.split(","):
            for row in leank_rows(options, kv_type):
                keep(rows, row, number, sink)
        for row in ggml_rows(options):
            keep(rows, row, number, sink)
    return rows


def keep(rows, row, number, sink):
    print(json.dumps({**row, "round": number}), file=sink, flush=True)
    rows.setdefault(row["length"], {}).setdefault(row["contender"], []).append(row)


def show(length, contenders, options):
    seconds = {name: statistics.median(row["seconds"] / row["n_layers"] for row in rows)
               for name, rows in contenders.items()}
    rivals = {name: s for name, s in seconds.items() if name.startswith("ggml")}
    best = min(rivals, key=rivals.get)
    at16 = {name: s for name, s in rivals.items() if name.endswith(" f16") or name.endswith(" bf16")}
    best16 = min(at16, key=at16.get) if at16 else None
    print(f"\n{length} tokens, heads {options.heads}, {options.threads} threads, one layer "
          f"(median of {options.rounds}; against {best}; against {best16})")
    for name, median in seconds.items():
        first = contenders[name][0]
        n_bytes = first["bytes"] / first["n_layers"]
        line = f"  {name:22}{n_bytes:14,.0f} bytes {1e3 * median:9.3f} ms {n_bytes / median / 1e9:7.2f} GB/s"
        line += f" {seconds[best] / median:7.2f} x"
        if best16:
            line += f" {seconds[best16] / median:7.2f} x"
        print(line)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", default="32,8,128")
    parser.add_argument("--lengths", default="4096,32768")
    parser.add_argument("--mask")
    parser.add_argument("--dk")
    parser.add_argument("--types", default="f16,bf16,q8_0,q4_0", help="cache types of ggml")
    parser.add_argument("--kv-types", default="bf16", help="cache types of leank")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--cpu", default="best", help="cap on leank's instruction set")
    parser.add_argument("--rotate-mib", type=int, default=2048)
    parser.add_argument("--leank", default=ROOT / "build" / "leank")
    parser.add_argument("--ggml", type=pathlib.Path)
    parser.add_argument("--json", default=os.devnull, help="one line per measurement goes here")
    options = parser.parse_args()
    if options.mask and options.dk:
        sys.exit("--mask and --dk exclude each other")
    if not options.ggml:
        options.ggml = run([str(HERE / "build_ggml_attention")]).strip().splitlines()[-1]
    with open(options.json, "w", encoding="utf-8") as sink:
        for length, contenders in measure(options, sink).items():
            show(length, contenders, options)


if __name__ == "__main__":
    main()
