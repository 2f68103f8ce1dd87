#!/usr/bin/env python3
"""All CPU figures of docs/performance.md on this machine in one go.

bench/rivals/measure_machine.py MODEL.gguf --out FOLDER [--mask FILE] [--published FILE.pth]
    [--bin FOLDER] [--stages LIST] [--threads 2] [--limit SECONDS] [--cpu LEVEL]
    [--python PATH] [--prefill 4096,16384] [--decode 512,4096,16384,32768]

Stages, in this order (all, or those of --stages):
  checks     what the processor is; the kernels and the tests at the highest level it has, AMX too
  attention  leank bench attention (uniform masks, --published, bf16 and q8), then beside ggml in turns
  matvec     leank bench matvec, every type
  prefill    leank, llama.cpp and PyTorch in turns; at the last length llama.cpp, which takes minutes,
             runs meanwhile on other cores
  decode     leank, dense and with --mask: --threads for the steps, and for the prompts a thread on
             every core
  decode-llama  the same of llama.cpp

Other levels than AMX are the library's own choice; AMX is used where the checks of its kernels passed
(or as --cpu says). What has --threads threads is pinned to as many processors, each of another core.
Every program has its own log in --out and a limit of time; one that fails stops nothing. JSON lines of
all go to rows-STAGE.jsonl there, a table ends the output. --bin holds leank, checkkern, test_*,
ggml_attention, llama-bench and llama-batched-bench; further builds of llama.cpp's two
(llama-bench-NAME) are contenders of their own. Without --bin they are those of build/ and of the
build_* scripts.
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import re
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time

from compare_llama import HERE, LLAMA_SETTINGS, ROOT, run

STAGES = ("checks", "attention", "matvec", "prefill", "decode", "decode-llama")
# Tests that open sessions at the level LEANK_TEST_CPU. The first ones decide whether AMX is used.
DECISIVE_TESTS = ("test_semantics", "test_turns", "test_batch")
OTHER_TESTS = ("test_bench", "test_evaluate", "test_faults", "test_golden", "test_histories",
               "test_int8", "test_masks_compare", "test_memory", "test_page_budget")
N_STEPS = 32
# From this context on only the best settings of llama.cpp are measured further: so many, and what
# reaches so much of the best one.
CHOICE_LENGTH, N_CHOSEN, KEEP = 4096, 2, 0.8
SHAPE = ["--heads", "32,8,128", "-l", "32768"]


def core_processors():
    """One processor of each physical core that this process may use."""
    cores = {}
    for cpu in sorted(os.sched_getaffinity(0)):
        siblings = pathlib.Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        core = siblings.read_text(encoding="ascii") if siblings.exists() else str(cpu)
        cores.setdefault(core, cpu)
    return list(cores.values())


def json_rows(text):
    for line in text.splitlines():
        if line.startswith("{"):
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                pass


def side(row):
    """The contender's name for a row of leank, as compare_llama.py has it."""
    return "leank dense" if row["cache"] == "dense" else "leank pruned"


class Measurement:
    """Runs programs, keeps their logs and what became of them."""

    def __init__(self, options):
        self.options = options
        self.out = pathlib.Path(options.out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.end = time.monotonic() + options.limit
        self.cores = core_processors()
        self.pinned = self.cores[:options.threads] if len(self.cores) >= options.threads else None
        self.steps = []
        self.rows = []
        self.rows_file = None
        self.lock = threading.Lock()

    def program(self, name):
        return str(self.options.bin / name)

    def step(self, name, command, limit, cpus=None, env=None):
        """The output of a program, of stdout alone; "" where it failed or ran out of time."""
        return self.finish(self.start(name, command, cpus, env), limit)

    def start(self, name, command, cpus=None, env=None):
        """Starts a program on some processors; its output goes to NAME.log, errors to NAME.err."""
        command = [str(word) for word in command]
        started = {"name": name, "start": time.monotonic(), "process": None,
                   "log": self.out / f"{name}.log"}
        with open(started["log"], "w", encoding="utf-8") as log:
            with open(self.out / f"{name}.err", "w", encoding="utf-8") as err:
                err.write(f"{' '.join(command)}\nprocessors {cpus or 'all'}, env {env or {}}\n")
                err.flush()
                if self.end - time.monotonic() < 3:
                    return started
                # taskset, not sched_setaffinity here: checks run in several threads.
                pin = []
                if cpus and shutil.which("taskset"):
                    pin = ["taskset", "-c", ",".join(map(str, cpus))]
                try:
                    started["process"] = subprocess.Popen(
                        pin + command, stdout=log, stderr=err, stdin=subprocess.DEVNULL,
                        env={**os.environ, **(env or {})}, start_new_session=True)
                except OSError as error:
                    err.write(f"{error}\n")
        return started

    def finish(self, started, limit):
        process, what = started["process"], "no time"
        if process:
            left = min(started["start"] + limit, self.end) - time.monotonic()
            try:
                code = process.wait(max(left, 0.1))
                what = "ok" if code == 0 else f"exit {code}"
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                what = "time"
        elif self.end - started["start"] >= 3:
            what = "did not start"
        seconds = time.monotonic() - started["start"]
        with self.lock:
            self.steps.append((started["name"], what, seconds))
            print(f"{started['name']:44} {what:14} {seconds:7.1f} s", flush=True)
        return started["log"].read_text("utf-8", "replace") if what == "ok" else ""

    def add(self, contender, row, **more):
        row = {"contender": contender, **row, **more}
        self.rows.append(row)
        print(json.dumps(row), file=self.rows_file, flush=True)

    # What several stages need.

    def level(self):
        """The level to measure: as said, else as the checks found (perhaps in an earlier call)."""
        found = self.out / "level"
        if self.options.cpu:
            return self.options.cpu
        return found.read_text("ascii").strip() if found.exists() else "best"

    def leank(self, name, words, limit, cpus):
        command = [self.program("leank"), *words, "--threads", self.options.threads, "--cpu",
                   self.level(), "--json"]
        return list(json_rows(self.step(name, command, limit, cpus)))

    def llamas(self, program):
        """Builds of a program of llama.cpp: name of the contender, path."""
        for path in sorted(self.options.bin.glob(f"{program}*")):
            if re.fullmatch(rf"{program}(-[a-z0-9]+)?", path.name):
                yield "llama.cpp" + path.name[len(program):].replace("-", " "), path


# ---- stages ----

def checks(m):
    m.step("lscpu", ["lscpu"], 10)
    m.step("info", [m.program("leank"), "info", "--cpu"], 10)
    text = m.step("info-amx", [m.program("leank"), "info", "--cpu", "--level", "amx", "--json"], 10)
    amx = bool(text) and json.loads(text)["cpu"]["level"] == "amx"
    level = "amx" if amx else "best"
    checkkern = [m.program("checkkern"), f"--cpu={level}"]
    jobs = {f"checkkern-attend-{i}": [*checkkern, "--only", "attend_bf16"] for i in range(3)}
    jobs["checkkern"] = checkkern
    jobs.update({name: [m.program(name)] for name in DECISIVE_TESTS + OTHER_TESTS
                 if (m.options.bin / name).exists()})
    env = {"LEANK_TEST_CPU": level}
    with concurrent.futures.ThreadPoolExecutor(max(1, len(m.cores) // 2)) as pool:
        logs = dict(zip(jobs, pool.map(lambda job: m.step(job[0], job[1], 240, env=env), jobs.items())))
    for name in ("checkkern-attend-0", "checkkern"):
        print(logs[name].strip().splitlines()[-1:])
    decisive = [logs[name] for name in jobs if name.startswith("checkkern") or name in DECISIVE_TESTS]
    passed = all(decisive) and (not amx or "level amx" in logs["checkkern"])
    (m.out / "level").write_text("amx" if amx and passed else "best", "ascii")
    print(f"amx {'there' if amx else 'not there'}, checks {'passed' if passed else 'FAILED'}: "
          f"--cpu {m.level()}", flush=True)


def attention(m):
    masks = {"dk": ["--dk", "32,64,96,128"]}
    if m.options.published:
        masks["published"] = ["--mask", m.options.published]
    for mask, words in masks.items():
        for kv_type in ("bf16", "q8"):
            for row in m.leank(f"attention-{mask}-{kv_type}",
                               ["bench", "attention", *SHAPE, *words, "--kv-type", kv_type, "-r", 3],
                               60, m.pinned):
                kept = f" Dk {row['n_kept']}" if "n_kept" in row else ""
                m.add(f"{side(row)}{kept} {kv_type}", row)
    name = "attention-beside-ggml"
    ratio = ["--mask", m.options.published] if m.options.published else ["--dk", "64"]
    m.step(name, [m.options.python, HERE / "compare_attention.py", *ratio, "--lengths", 32768,
                  "--kv-types", "bf16,q8", "--rounds", 2, "--threads", m.options.threads, "--cpu",
                  m.level(), "--leank", m.program("leank"), "--ggml", m.program("ggml_attention"),
                  "--json", m.out / f"{name}.jsonl"], 120, m.pinned)
    lines = m.out / f"{name}.jsonl"
    for row in json_rows(lines.read_text("utf-8")) if lines.exists() else ():
        m.add("in turns: " + row.pop("contender"), row)


def matvec(m):
    for row in m.leank("matvec", ["bench", "matvec", "--rows", "1,4,8", "-r", 3], 150, m.pinned):
        m.add("leank", row)


def prefill_leank(m, length, number):
    for row in m.leank(f"prefill-{length}-leank-{number}",
                       ["bench", "prefill", m.options.model, "-l", length, "-r", 1, "--rotate", "256M"],
                       200, m.pinned):
        m.add("leank", row)


def prefill_pytorch(m, length, number, rounds):
    text = m.step(f"prefill-{length}-pytorch-{number}",
                  [m.options.python, HERE / "pytorch_prefill.py", m.options.model, "--tokens", length,
                   "--threads", m.options.threads, "--rounds", rounds], 300, m.pinned)
    for row in json_rows(text):
        m.add("pytorch bf16", row, bench="prefill", length=length)


def llama_bench(m, path, setting, length):
    """A short prompt first, which warms up; llama-bench's own warm-up would read the prompt twice."""
    return [path, "-m", m.options.model, "-t", m.options.threads, "-r", 1, "-n", 0, "-p",
            f"64,{length}", "--no-warmup", "-o", "jsonl", *LLAMA_SETTINGS[setting]]


def add_llama_bench(m, text, contender, length):
    for row in json_rows(text):
        if row["n_prompt"] == length:
            m.add(contender, {"bench": "prefill", "length": length, "threads": m.options.threads,
                              "tokens_per_second": row["avg_ts"]})


def llama_candidates(m, program, settings):
    return [(f"{contender} {setting}", path, setting) for setting in settings
            for contender, path in m.llamas(program)]


def choose(m, bench, length, candidates):
    """The candidates worth measuring further, the fastest first."""
    if length < CHOICE_LENGTH:
        return candidates
    speeds = {row["contender"]: row["tokens_per_second"] for row in m.rows
              if row.get("bench") == bench and row["length"] == length}
    measured = sorted((one for one in candidates if one[0] in speeds),
                      key=lambda one: -speeds[one[0]])
    return [one for one in measured
            if speeds[one[0]] >= KEEP * speeds[measured[0][0]]][:N_CHOSEN]


def step_name(*words):
    return "-".join(map(str, words)).replace(" ", "-")


def start_meanwhile(m, length, candidates):
    """Starts what takes minutes on cores of its own, as far as there are any. Products are bound by
    arithmetic: what runs on other cores hardly matters to them."""
    n = m.options.threads
    groups = [m.cores[i:i + n] for i in range(n, len(m.cores) - n + 1, n)]
    started = []
    for (contender, path, setting), cpus in zip(candidates, groups):
        name = step_name("prefill", length, contender)
        print(f"{name} runs meanwhile on processors {cpus}", flush=True)
        started.append((m.start(name, llama_bench(m, path, setting, length), cpus), contender))
    return started


def prefill(m):
    *lengths, last = m.options.prefill
    fused_first = llama_candidates(m, "llama-bench", ("f16 flash", "f16"))
    meanwhile = start_meanwhile(m, last, fused_first)
    for length in lengths:
        candidates = fused_first
        for number in range(2):
            prefill_leank(m, length, number)
            for contender, path, setting in candidates:
                text = m.step(step_name("prefill", length, contender, number),
                              llama_bench(m, path, setting, length), 120, m.pinned)
                add_llama_bench(m, text, contender, length)
            if number == 0:
                prefill_pytorch(m, length, number, 2)
                candidates = choose(m, "prefill", length, candidates)
    prefill_leank(m, last, 0)
    prefill_pytorch(m, last, 0, 1)
    prefill_leank(m, last, 1)
    # Which kernels oneDNN takes is in its own words only.
    m.step("onednn", [m.program("leank"), "bench", "prefill", m.options.model, "-l", 256, "-r", 1,
                      "--rotate", "16M", "--threads", m.options.threads, "--cpu", m.level()], 40,
           m.pinned, {"ONEDNN_VERBOSE": "1"})
    for started, contender in meanwhile:
        add_llama_bench(m, m.finish(started, 560), contender, last)
    for contender, path, setting in fused_first[len(meanwhile):]:
        text = m.step(step_name("prefill", last, contender), llama_bench(m, path, setting, last), 560,
                      m.pinned)
        add_llama_bench(m, text, contender, last)


def decode(m):
    # One processor a core: the threads of the steps then never share one.
    mask = ["--mask", m.options.mask] if m.options.mask else []
    for length in m.options.decode:
        for row in m.leank(f"decode-{length}-leank",
                           ["bench", "decode", m.options.model, *mask, "-l", length, "-n", N_STEPS,
                            "-r", 3, "--prefill-threads", len(m.cores)], 150, m.cores):
            m.add(f"{side(row)} bf16", row)


def decode_llama(m):
    candidates = llama_candidates(m, "llama-batched-bench", ("f16", "bf16", "q8_0 flash"))
    for length in m.options.decode:
        for contender, path, setting in candidates:
            words = [path, "-m", m.options.model, "-c", length + 256, "-npp", length, "-ntg", N_STEPS,
                     "-npl", 1, "-t", m.options.threads, "-tb", len(m.cores), "--output-format",
                     "jsonl", *LLAMA_SETTINGS[setting]]
            words[words.index("-fa") + 1] = "on" if setting.endswith("flash") else "off"
            for row in json_rows(m.step(step_name("decode", length, contender), words, 400, m.cores)):
                m.add(contender, {"bench": "decode", "length": length, "threads": m.options.threads,
                                  "steps": N_STEPS, "tokens_per_second": row["speed_tg"],
                                  "prefill_seconds": row["t_pp"]})
        candidates = choose(m, "decode", length, candidates)


# ---- the table ----

def show(m):
    print("\nstep, and what became of it")
    for name, what, seconds in m.steps:
        if what != "ok":
            print(f"  {name:44} {what} after {seconds:.1f} s")
    print(f"  {sum(what == 'ok' for _, what, _ in m.steps)} of {len(m.steps)} ok")
    groups = {}
    for row in m.rows:
        key = (row.get("bench"), row.get("length"), row.get("type"), row.get("rows"), row["contender"])
        groups.setdefault(key, []).append(row)
    for (bench, length, kind, n_rows, contender), rows in groups.items():
        what = " ".join(str(x) for x in (bench, length, kind, n_rows and f"{n_rows} rows") if x)
        print(f"  {what:28} {contender:36} {figure(rows)}")


def figure(rows):
    first = rows[0]
    if "tokens_per_second" in first:
        text = f"{statistics.median(row['tokens_per_second'] for row in rows):10.2f} tokens/s"
    else:
        seconds = statistics.median(row["seconds"] / row.get("n_layers", 1) for row in rows)
        speed = first["bytes"] / first.get("n_layers", 1) / seconds
        text = f"{1e3 * seconds:10.4f} ms {speed / 1e9:8.2f} GB/s"
    share, over = first.get("share_of_bandwidth"), first.get("time_over_bytes")
    return text + (f" {100 * share:5.1f} %" if share else "") + (f" t/b {over:.3f}" if over else "")


# ---- the command ----

def assemble(folder):
    """Links to the programs of build/ and of the builders beside this script."""
    folder.mkdir(parents=True, exist_ok=True)
    llama = pathlib.Path(run([str(HERE / "build_llama_cpp")]).strip().splitlines()[-1])
    ggml = pathlib.Path(run([str(HERE / "build_ggml_attention")]).strip().splitlines()[-1])
    tests = [ROOT / "build" / "tests" / name for name in ("checkkern", *DECISIVE_TESTS, *OTHER_TESTS)]
    for path in (ROOT / "build" / "leank", *tests, ggml, llama, llama.parent / "llama-batched-bench"):
        link = folder / path.name
        link.unlink(missing_ok=True)
        link.symlink_to(path)
    return folder


def main():
    def lengths(text):
        return [int(word) for word in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--out", required=True, help="folder of logs and results")
    parser.add_argument("--mask", help="mask of the model, for decode")
    parser.add_argument("--published", help="mask of 32 query and 8 kv heads of 128, for attention")
    parser.add_argument("--bin", type=pathlib.Path, help="folder of the programs")
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=float, default=3600, help="seconds of all stages together")
    parser.add_argument("--cpu", help="level of leank, whatever the checks say")
    parser.add_argument("--python", default=sys.executable, help="one that has torch")
    parser.add_argument("--prefill", type=lengths, default=[4096, 16384])
    parser.add_argument("--decode", type=lengths, default=[512, 4096, 16384, 32768])
    options = parser.parse_args()
    stages = options.stages.split(",")
    for name in stages:
        if name not in STAGES:
            sys.exit(f"--stages: {name} is none of {', '.join(STAGES)}")
    options.bin = (options.bin or assemble(pathlib.Path(options.out) / "bin")).absolute()
    m = Measurement(options)
    print(f"cores {m.cores}, {options.threads} threads on {m.pinned}", flush=True)
    for name in (stage for stage in STAGES if stage in stages):
        with open(m.out / f"rows-{name}.jsonl", "w", encoding="utf-8") as m.rows_file:
            print(f"-- {name} --", flush=True)
            try:
                globals()[name.replace("-", "_")](m)
            except Exception as error:  # one stage's trouble is not the others'
                print(f"{name}: {error!r}", flush=True)
    show(m)


if __name__ == "__main__":
    main()
