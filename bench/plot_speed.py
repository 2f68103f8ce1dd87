#!/usr/bin/env python3
"""Draws tokens per second over the length of the context as SVG, from JSON lines.

bench/plot_speed.py decode|prefill OUT.svg LINES.jsonl ... [--title TEXT] [--subtitle TEXT]
    [--rename OLD=NEW ...]

The lines are those of `leank bench decode|prefill --json` and of bench/rivals/compare_llama.py. A
series is a contender; of llama.cpp's settings only the best at each length is drawn, as one series.
Points are medians over rounds. Only the Python standard library is needed.
"""
import argparse
import json
import statistics
import sys

import plot_context


def contender_of(row):
    if "contender" in row:
        return "llama.cpp" if row["contender"].startswith("llama.cpp") else row["contender"]
    return "leank dense" if row.get("cache") == "dense" else "leank pruned"


def read_speeds(paths, what):
    """speeds[contender][length][setting] = [tokens per second of each round]."""
    speeds = {}
    for path in paths:
        with open(path, encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                if row.get("bench") != what:
                    continue
                lengths = speeds.setdefault(contender_of(row), {}).setdefault(row["length"], {})
                lengths.setdefault(row.get("contender"), []).append(row["tokens_per_second"])
    return speeds


def make_series(speeds, names):
    series = []
    for contender, lengths in speeds.items():
        points = [[length, max(statistics.median(values) for values in settings.values())]
                  for length, settings in sorted(lengths.items())]
        series.append({"name": names.get(contender, contender), "points": points})
    # Slowest first: colours and labels follow the order of the picture.
    return sorted(series, key=lambda s: s["points"][-1][1])


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("decode", "prefill"))
    parser.add_argument("out")
    parser.add_argument("lines", nargs="+")
    parser.add_argument("--title")
    parser.add_argument("--subtitle", default="")
    parser.add_argument("--rename", action="append", default=[], metavar="OLD=NEW")
    options = parser.parse_args()
    names = dict(rename.split("=", 1) for rename in options.rename)
    series = make_series(read_speeds(options.lines, options.what), names)
    if not series:
        sys.exit(f"no lines of {options.what}")
    plot_context.draw({"title": options.title or f"{options.what.capitalize()} speed over context",
                       "subtitle": options.subtitle, "y": "tokens per second", "series": series},
                      options.out)


if __name__ == "__main__":
    main()
