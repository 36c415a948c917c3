#!/usr/bin/env python3
"""flexp's CPU backend beside PyTorch: one table, each figure with its goal, and MISS where that is missed.

    tests/bench/cpu/compare.py [ROW ...] [--quick] [--rounds N] [--seconds S] [--cpu-time] [--list]

A ROW is NET-BATCH@KIND, or a pattern of it ('bench_cnn-*@core', '*@clients'); --list shows all. Kinds:
    losses   the loss curves over 100 steps agree (the same weights, the same batches, no augmentation, no dropout)
    core     training steps on one core, against PyTorch on that core with one thread
    direct   likewise, with FLEXP_CPU_KERNELS=direct: share of the core's fp32 peak (direct convolution alone)
    clients  one client on every core, against PyTorch in as many processes of one thread
    model    one model on all cores, against PyTorch with as many threads
    busy     clients on all cores and a busy process on one of them, against undisturbed less that core
    first    compile and first step of a shape never seen, in a process that has seen none, beyond a usual step

Both sides have uint8 images in memory, and shuffle, augment (crop with a border of 4, and flip; the column says where),
normalise, go forward and backward and step the optimizer. PyTorch is the fastest of eager and torch.compile, contiguous and
channels-last, tried on the spot (torch_step.py says how it is tuned); --quick, which takes about two minutes for a few rows,
takes what the last full run found, else eager alone, and says so. Rounds are paired: PyTorch, flexp, PyTorch, flexp ... on the
same core; figures are medians, and a ratio is the median of the rounds' ratios, with their quartiles. The peak is a loop of
fused multiply-adds on that core in the same round; FLOPs are counted as if all convolutions were direct.

On a machine that others use meanwhile, --cpu-time counts processor time in core, direct, clients and first, so that what others
take is no part of it (but their traffic in the caches is). On a quiet machine it changes nothing.

Writes build/bench/cpu.json. PyTorch: what this Python imports, else build/bench/venv:
    python3 -m venv build/bench/venv && build/bench/venv/bin/pip install torch numpy
SPDX-License-Identifier: Apache-2.0
"""
import argparse
import datetime
import fnmatch
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(os.path.dirname(HERE)))
sys.path.insert(0, HERE)
import nets  # noqa: E402

STEP = os.environ.get("FLEXP_STEP", os.path.join(TOP, "build/release/tests/bench/cpu/step"))
FOLDER = os.path.join(TOP, "build/bench")
CHOICES = os.path.join(FOLDER, "cpu-peer.json")
PEER_ENV = {"MALLOC_TRIM_THRESHOLD_": "4000000000", "MALLOC_MMAP_THRESHOLD_": "4000000000",
            "TORCHINDUCTOR_CACHE_DIR": os.path.join(FOLDER, "inductor"), "TORCHINDUCTOR_COMPILE_THREADS": "1"}
CANDIDATES = [[mode, layout] for mode in ("eager", "compile") for layout in ("contiguous", "channels_last")]
SGD = {"learning_rate": 0.01, "momentum": 0.9}
IMAGES = 4000
FIRST_MS = 20
# net, batch, augmentation, training, goals
NETS = [
    ("bench_cnn", 32, True, SGD, {"core": 3.5, "clients": 3.5, "model": 3, "direct": .8}),
    ("bench_cnn", 64, True, SGD, {"core": 3.5, "clients": 3.5, "model": 3, "direct": .8}),
    ("seed_cnn", 32, True, SGD, {"core": 3.5, "clients": 3.5, "model": 3, "direct": .8}),
    ("seed_cnn", 64, True, SGD, {"core": 3.5, "clients": 3.5, "model": 3, "direct": .8}),
    ("pfl_cnn", 10, False, {"learning_rate": 0.05}, {"core": 4, "clients": 4, "model": 3}),  # as pfl-research has it
    ("lenet", 50, True, SGD, {"core": 3, "clients": 3, "model": 3}),
    ("lenet", 64, True, SGD, {"core": 3.5, "clients": 3.5, "model": 3}),
    ("mcmahan_cnn", 32, True, SGD, {"core": 1, "clients": 1, "model": 1}),  # no goal was set for it: not slower
    ("resnet18", 32, True, SGD, {"core": 2.5, "clients": 2.5, "model": 3}),
]
KINDS = ("losses", "core", "direct", "clients", "model", "busy", "first")
QUICK = ("bench_cnn-32@losses", "bench_cnn-32@core", "bench_cnn-32@direct", "lenet-64@core", "pfl_cnn-10@core",
         "bench_cnn-32@clients", "bench_cnn-32@model", "bench_cnn-32@busy", "bench_cnn-32@first")
LOSS_STEPS = 100
LOSS_TRAINING = {"learning_rate": 0.002, "momentum": 0.9}  # with .01 some of them first jump, and rounding grows with it
APART = 6  # as Winograd's rms error may be beside the direct kernel's


def all_rows():
    return [(f"{net[0]}-{net[1]}@{kind}", kind, net) for kind in KINDS for net in NETS
            if kind in net[4] or kind in ("losses", "first") or (kind == "busy" and net[1] in (32, 10))]


# the machine

def cores_of_machine():
    """One logical processor of each core that we may use."""
    allowed, taken, found = sorted(os.sched_getaffinity(0)), set(), []
    for cpu in allowed:
        try:
            with open(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list", encoding="ascii") as file:
                siblings = file.read().strip()
        except OSError:
            siblings = str(cpu)
        if siblings not in taken:
            taken.add(siblings)
            found.append(cpu)
    return found


def idle_times():
    with open("/proc/stat", encoding="ascii") as file:
        rows = [line.split() for line in file if line.startswith("cpu") and line[3].isdigit()]
    return {int(row[0][3:]): int(row[4]) + int(row[5]) for row in rows}


def idlest(cores):
    """The machine may be shared: the core that others use least just now. On a quiet one, the last."""
    before = idle_times()
    time.sleep(0.4)
    after = idle_times()
    return max(cores, key=lambda cpu: (after[cpu] - before[cpu], cpu))


def processor():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        fields = dict(map(str.strip, line.split(":", 1)) for line in file if ":" in line)
    flags = [flag for flag in ("avx2", "avx512f", "amx_tile") if flag in fields.get("flags", "").split()]
    return " ".join([fields.get("model name", platform.machine()), f"family {fields.get('cpu family')}",
                     f"model {fields.get('model')}", f"({', '.join(flags)})"])


def output_of(*argv):
    try:
        return subprocess.run(argv, capture_output=True, text=True, check=True, cwd=TOP).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


# the two sides

class Failed(Exception):
    pass


class Served:
    """A program that answers each line of its standard input with a line of JSON."""

    def __init__(self, argv, env=None):
        with open(os.path.join(FOLDER, "cpu.log"), "a", encoding="utf-8") as log:
            self.argv = argv
            self.process = subprocess.Popen(argv, env=dict(os.environ, **(env or {})), cwd=TOP, text=True, bufsize=1,
                                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)

    def hear(self):
        line = self.process.stdout.readline()
        if not line:
            raise Failed(f"{' '.join(self.argv)}: ended with {self.process.wait()}; see build/bench/cpu.log")
        return json.loads(line)

    def tell(self, line):
        self.process.stdin.write(line + "\n")

    def ask(self, line):
        self.tell(line)
        return self.hear()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


def python_with_torch():
    for python in (sys.executable, os.path.join(FOLDER, "venv/bin/python")):
        done = subprocess.run([python, "-c", "import numpy, torch; print(torch.__version__)"], capture_output=True, text=True,
                              check=False) if os.path.exists(python) else None
        if done and not done.returncode:
            return python, done.stdout.strip()
    sys.exit("compare.py: PyTorch is neither in this Python nor in build/bench/venv:\n"
             "  python3 -m venv build/bench/venv && build/bench/venv/bin/pip install torch numpy")


class Bench:
    def __init__(self, options, scratch):
        self.options, self.scratch = options, scratch
        self.cores = cores_of_machine()
        self.python, self.torch = python_with_torch()
        self.serial = 0
        self.data_file = os.path.join(scratch, "data.bin")
        self.data_shape = json.loads(self.step("data", self.request(NETS[0], "clients", [-1]), self.data_file))
        try:
            with open(CHOICES, encoding="utf-8") as file:
                self.choices = json.load(file)
        except (OSError, ValueError):
            self.choices = {}
        self.fresh = set()
        self.notes = set()

    def write(self, value):
        self.serial += 1
        path = os.path.join(self.scratch, f"{self.serial}.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(value, file)
        return path

    @staticmethod
    def layers(net, dropout=True):
        return nets.LAYERS[net[0]] if dropout else nets.without_dropout(nets.LAYERS[net[0]])

    def request(self, net, mode, cores, dropout=True, batch=None, training=None):
        data = {"source": "synthetic", "synthetic": {"samples": IMAGES}}
        if net[2]:
            data["augment"] = {"random_crop": 4, "horizontal_flip": True}
        batch = batch or net[1]
        return self.write({"sections": {"data": data, "model": {"layers": self.layers(net, dropout)},
                                        "training": dict(training or net[3], batch_size=batch)},
                           "batch": batch, "mode": mode, "cores": cores, "cache": os.path.join(FOLDER, "cache"),
                           "clock": "cpu_seconds" if self.options.cpu_time else "seconds"})

    def peer_request(self, net, cores, dropout=True, **more):
        return self.write(dict({"layers": self.layers(net, dropout), "data": self.data_file, "data_shape": self.data_shape,
                                "batch": net[1], "cores": cores, "threads": len(cores), "augment": net[2],
                                "training": net[3], "candidates": CANDIDATES, "seconds": self.options.seconds,
                                "clock": "cpu_seconds" if self.options.cpu_time and len(cores) == 1 else "seconds"}, **more))

    @staticmethod
    def step(*argv):
        done = subprocess.run([STEP, *argv], capture_output=True, text=True, check=False, cwd=TOP)
        if done.returncode:
            raise Failed(done.stderr.strip())
        return done.stdout

    def serve(self, net, mode, cores, env=None):
        return Served([STEP, "serve", self.request(net, mode, cores)], env)

    def peer(self, net, cores, candidates):
        return Served([self.python, os.path.join(HERE, "torch_step.py"), "serve",
                       self.peer_request(net, cores, candidates=candidates)], PEER_ENV)

    # which form of PyTorch is the fastest

    def choice_key(self, net, threads):
        return f"{self.torch} {processor()} {net[0]}-{net[1]} {threads}"

    def candidates(self, net, threads):
        key = self.choice_key(net, threads)
        if key in self.choices and (self.options.quick or key in self.fresh):
            return [self.choices[key].split(", ")]
        if self.options.quick:
            self.notes.add("PyTorch eager alone: a full run has not been here to try torch.compile")
            return [candidate for candidate in CANDIDATES if candidate[0] == "eager"]
        return CANDIDATES

    def chosen(self, net, threads, ready, candidates):
        for name, why in ready["failed"].items():
            self.notes.add(f"PyTorch, {name}: {why}")
        if len(candidates) == len(CANDIDATES):
            key = self.choice_key(net, threads)
            self.choices[key] = ready["candidate"]
            self.fresh.add(key)
            with open(CHOICES, "w", encoding="utf-8") as file:
                json.dump(self.choices, file, indent=1)

    # the kinds of rows

    def rate(self, answer, kind, threads=1):
        """Images a second."""
        shared = self.options.cpu_time and kind in ("core", "direct", "clients")
        return answer["images"] / (answer["cpu_seconds"] / threads if shared else answer["seconds"])

    def seconds_for(self, net, *rates):
        """At least sixteen steps of the slower, a client of 500 images: what begins and ends one is not to weigh more."""
        return max(self.options.seconds, 16 * net[1] / min(rates))

    def paired(self, net, kind):
        cores = self.cores if kind == "model" else [idlest(self.cores)]
        candidates = self.candidates(net, len(cores))
        rounds = {"flexp": [], "peer": [], "ratio": [], "share": []}
        with self.peer(net, cores, candidates) as peer, self.serve(net, kind, cores) as flexp:
            ready, ours = peer.hear(), flexp.hear()
            self.chosen(net, len(cores), ready, candidates)
            seconds = self.seconds_for(net, self.rate(peer.ask("run 0.2"), kind), ours["images_per_s"])
            flexp.ask(f"run {seconds}")
            for _ in range(self.options.rounds):
                theirs, own = (self.rate(side.ask(f"run {seconds}"), kind) for side in (peer, flexp))
                peak = flexp.ask("peak 0.05")["gflops"] * len(cores)
                rounds["peer"].append(theirs)
                rounds["flexp"].append(own)
                rounds["ratio"].append(own / theirs)
                rounds["share"].append(own * ours["mflop_per_image"] * 1e-3 / peak)
        return self.result(net[4][kind], rounds, candidate=ready["candidate"], candidates=ready["rates"], isa=ours["isa"])

    def row_core(self, net):
        return self.paired(net, "core")

    def row_model(self, net):
        return self.paired(net, "model")

    def row_direct(self, net):
        rounds = {"flexp": [], "share": [], "peak": []}
        with self.serve(net, "clients", [idlest(self.cores)], {"FLEXP_CPU_KERNELS": "direct"}) as flexp:
            ready = flexp.hear()
            seconds = self.seconds_for(net, ready["images_per_s"])
            for _ in range(self.options.rounds):
                own, peak = self.rate(flexp.ask(f"run {seconds}"), "direct"), flexp.ask("peak 0.05")["gflops"]
                rounds["flexp"].append(own)
                rounds["share"].append(own * ready["mflop_per_image"] * 1e-3 / peak)
                rounds["peak"].append(peak)
        result = self.result(net[4]["direct"], dict(rounds, ratio=rounds["share"]), isa=ready["isa"])
        result["note"] = f"of {statistics.median(rounds['peak']):.0f} GFLOP/s"
        return result

    def row_clients(self, net):
        candidates = self.candidates(net, 1)
        if len(candidates) > 1:
            with self.peer(net, [idlest(self.cores)], candidates) as peer:
                ready = peer.hear()
                self.chosen(net, 1, ready, candidates)
                candidates = [ready["candidate"].split(", ")]
        rounds = {"flexp": [], "peer": [], "ratio": []}
        peers = [self.peer(net, [core], candidates) for core in self.cores]
        try:
            with self.serve(net, "clients", self.cores) as flexp:
                ours = flexp.hear()
                for peer in peers:
                    peer.hear()

                def together(seconds):
                    for peer in peers:
                        peer.tell(f"run {seconds}")
                    return sum(self.rate(peer.hear(), "clients") for peer in peers)

                seconds = max(self.seconds_for(net, together(0.2) / len(peers), ours["images_per_s"] / len(peers)),
                              2 * self.options.seconds)
                flexp.ask(f"run {seconds}")
                for _ in range(self.options.rounds):
                    theirs, own = together(seconds), self.rate(flexp.ask(f"run {seconds}"), "clients", len(self.cores))
                    rounds["peer"].append(theirs)
                    rounds["flexp"].append(own)
                    rounds["ratio"].append(own / theirs)
        finally:
            for peer in peers:
                peer.__exit__()
        return self.result(net[4]["clients"], rounds, candidate=", ".join(candidates[0]), isa=ours["isa"])

    def row_busy(self, net):
        if len(self.cores) < 2:
            raise Failed("one core alone")
        rounds = {"quiet": [], "flexp": [], "ratio": []}
        spin = f"import os\nos.sched_setaffinity(0, [{self.cores[-1]}])\nwhile True: pass"
        with self.serve(net, "clients", self.cores) as flexp:
            flexp.hear()
            seconds = max(self.seconds_for(net, self.rate(flexp.ask(f"run {self.options.seconds}"), "busy") / len(self.cores)),
                          2 * self.options.seconds)
            busy = subprocess.Popen([sys.executable, "-c", spin])
            try:
                for _ in range(self.options.rounds):
                    busy.send_signal(signal.SIGSTOP)
                    quiet = self.rate(flexp.ask(f"run {seconds}"), "busy")
                    busy.send_signal(signal.SIGCONT)
                    own = self.rate(flexp.ask(f"run {seconds}"), "busy")
                    rounds["quiet"].append(quiet)
                    rounds["flexp"].append(own)
                    rounds["ratio"].append(own / (quiet * (len(self.cores) - 1) / len(self.cores)))
            finally:
                busy.kill()
                busy.wait()
        result = self.result(.7, rounds)
        result["note"] = f"undisturbed {statistics.median(rounds['quiet']):.0f}"
        return result

    def row_first(self, net):
        core = idlest(self.cores)
        found = [json.loads(self.step("first", self.request(net, "model", [core]))) for _ in range(max(3, self.options.rounds))]
        median = {key: statistics.median(one[key] for one in found) for key in found[0]}
        beyond = statistics.median(one["first_ms"] - one["usual_ms"] for one in found)
        return {"beyond_ms": beyond, "goal": FIRST_MS, "met": beyond < FIRST_MS, **median,
                "note": f"whole {median['first_ms']:.1f} ms, compile {median['compile_ms']:.1f}, usual step "
                        f"{median['usual_ms']:.1f}"}

    def row_losses(self, net):
        """Rounding differs and the curves part, the sooner the larger the steps: so the first ten closely, and all of them
        held against how far PyTorch parts from itself (torch_step.py, losses)."""
        batch = 8 if net[0] == "resnet18" else net[1]
        core, weights = idlest(self.cores), os.path.join(self.scratch, "weights")
        ours = self.request(net, "model", [core], False, batch, LOSS_TRAINING)
        params = json.loads(self.step("weights", ours, weights))["params"]
        own = json.loads(self.step("losses", ours, weights, str(LOSS_STEPS)))["losses"]
        with Served([self.python, os.path.join(HERE, "torch_step.py"), "losses",
                     self.peer_request(net, [core], False, weights=weights, params=params, batch=batch,
                                       training=LOSS_TRAINING, steps=LOSS_STEPS)], PEER_ENV) as peer:
            heard = peer.hear()
        theirs = heard["losses"]
        early = max(abs(a - b) / b for a, b in zip(own[:10], theirs))
        late, itself = (sum(abs(a - b) for a, b in zip(curve, theirs)) / sum(theirs) for curve in (own, heard["again"]))
        return {"early": early, "all": late, "itself": itself, "met": early < 1e-3 and late < max(1e-3, APART * itself),
                "flexp_losses": own, "peer_losses": theirs,
                "note": f"{itself:.1e} from itself; loss {theirs[0]:.2f} to {theirs[-1]:.3f}"}

    @staticmethod
    def result(goal, rounds, **more):
        ratio = statistics.median(rounds["ratio"])
        quartiles = statistics.quantiles(rounds["ratio"], n=4) if len(rounds["ratio"]) > 1 else [ratio] * 3
        medians = {name: statistics.median(values) for name, values in rounds.items() if name != "ratio"}
        return dict(more, **medians, ratio=ratio, quartiles=[quartiles[0], quartiles[2]], goal=goal, met=ratio >= goal,
                    rounds=rounds)


# the table

def cells(kind, net, got):
    if kind == "losses":
        value, goal = f"{got['early']:.1e}, {got['all']:.1e}", f"1e-3; {APART} x PyTorch"
    elif kind == "first":
        value, goal = f"{got['beyond_ms']:.1f} ms", f"under {FIRST_MS} ms"
    elif kind in ("direct", "busy"):
        low, high = got["quartiles"]
        value, goal = f"{got['ratio']:.0%} [{low:.0%} {high:.0%}]", f"{got['goal']:.0%}"
    else:
        low, high = got["quartiles"]
        value, goal = f"{got['ratio']:.2f} x [{low:.2f} {high:.2f}]", f"{got['goal']:g} x"
    share = f"{got['share']:.0%}" if "share" in got and kind != "direct" else ""
    peer = f"{got['peer']:.0f} ({got['candidate']})" if "peer" in got else got.get("note", "")
    return [goal, value, f"{got['flexp']:.0f}" if "flexp" in got else "", peer, share,
            "crop, flip" if net[2] and kind not in ("losses", "first") else "", "" if got["met"] else "MISS"]


def print_row(columns):
    widths = (22, 31, 22, 14, 44, 8, 10, 4)
    print("| " + " | ".join(f"{text:<{width}}" for text, width in zip(columns, widths)) + " |", flush=True)


def main():
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("rows", nargs="*", metavar="ROW")
    options.add_argument("--quick", action="store_true", help="a few rows, about two minutes")
    options.add_argument("--rounds", type=int, help="pairs (9; quick: 5)")
    options.add_argument("--seconds", type=float, help="of each run (0.6; quick: 0.3)")
    options.add_argument("--cpu-time", action="store_true", help="processor time for what has one thread on a core")
    options.add_argument("--list", action="store_true")
    options = options.parse_args()
    options.rounds = options.rounds or (5 if options.quick else 9)
    options.seconds = options.seconds or (0.3 if options.quick else 0.6)
    wanted = options.rows or (QUICK if options.quick else ["*"])
    rows = [row for row in all_rows() if any(fnmatch.fnmatch(row[0], pattern) for pattern in wanted)]
    if options.list or not rows:
        print("\n".join(row[0] for row in (rows or all_rows())))
        return 0 if rows else 2
    os.makedirs(FOLDER, exist_ok=True)
    began, failed, results = time.monotonic(), 0, []
    with tempfile.TemporaryDirectory(dir=FOLDER) as scratch:
        bench = Bench(options, scratch)
        about = {"date": datetime.date.today().isoformat(), "processor": processor(), "cores": len(bench.cores),
                 "flexp": output_of("git", "describe", "--always", "--dirty"), "torch": bench.torch,
                 "compiler": output_of("gcc", "--version").splitlines()[0], "system": platform.platform(),
                 "load_before": os.getloadavg()[0], "rounds": options.rounds, "seconds": options.seconds}
        print(f"{about['date']}, {about['cores']} cores of {about['processor']}, {about['system']}; flexp {about['flexp']}, "
              f"{about['compiler']}; PyTorch {about['torch']}; load before {about['load_before']:.1f}\n")
        if about["load_before"] > 0.25 * len(bench.cores):
            bench.notes.add(f"others used this machine (load {about['load_before']:.1f}): model and busy, whose threads wait for "
                            "each other, say nothing then, and first only with --cpu-time")
        print_row(["what", "goal", "measured [quartiles]", "flexp images/s", "PyTorch images/s", "of peak", "augmented", ""])
        print_row(["---"] * 8)
        for name, kind, net in rows:
            try:
                got = getattr(bench, f"row_{kind}")(net)
                results.append(dict(got, row=name, load=os.getloadavg()[0]))
                print_row([name, *cells(kind, net, got)])
            except (Failed, ValueError, OSError) as why:
                failed += 1
                results.append({"row": name, "error": str(why)})
                print_row([name, "", "FAILED", "", "", "", "", ""])
                print(f"compare.py: {name}: {why}", file=sys.stderr)
    missed = sum(1 for got in results if not got.get("met", True))
    spread = [(got["quartiles"][1] - got["quartiles"][0]) / got["ratio"] for got in results if "quartiles" in got]
    print(f"\n{len(results)} rows, {missed} missed, {failed} failed, {time.monotonic() - began:.0f} s. Noise: between the "
          f"quartiles {statistics.median(spread) if spread else 0:.1%} of a ratio (median of the rows), "
          f"{max(spread, default=0):.1%} at worst; load after {os.getloadavg()[0]:.1f}"
          f"{'; processor time' if options.cpu_time else ''}")
    for note in sorted(bench.notes):
        print(f"note: {note}")
    with open(os.path.join(FOLDER, "cpu.json"), "w", encoding="utf-8") as file:
        json.dump(dict(about, rows=results, notes=sorted(bench.notes)), file, indent=1)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
