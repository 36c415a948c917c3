#!/usr/bin/env python3
"""flexp's CUDA backend beside PyTorch and pfl-research on one machine, in one run: each figure with its goal, and MISS where it
is missed.

    tests/bench/cuda/compare.py [ROW ...] [--quick] [--data DATA] [--pfl-research CHECKOUT] [--json FILE]

Rows, all where none is named:
    steps     bench_cnn and seed_cnn, batch 64: images/s of PyTorch eager and of torch.compile with CUDA graphs, of flexp
              with one model and with 16 packed
    pfl       pfl-research's benchmark of 1,500 rounds (pfl.py has its settings) on the backend alone, with made-up images,
              beside a plain PyTorch loop, client after client, timed over --loop-rounds rounds
    accuracy  the same through flexp as a user runs it, on DATA, over --seeds seeds: counts, seconds and the final accuracy
              beside the PyTorch loop's (its step a CUDA graph, so that it ends in time)
    research  the same by pfl-research from CHECKOUT, at 1, 2 and 5 processes: its best counts
    idle      from a trial's last training step to the next trial's first, on the GPU

DATA holds pictures as {train,test}/CLASS/NAME (an archive or folder), or is the folder of CIFAR-10's binary version. What cannot
be run is skipped with its reason. --quick: few steps and rounds, to see that all of it works.
SPDX-License-Identifier: Apache-2.0
"""
import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import types

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(os.path.dirname(HERE)))
sys.path[:0] = [os.path.join(os.path.dirname(HERE), "cpu"), os.path.dirname(HERE)]  # accuracy.py imports that compare.py
import accuracy  # noqa: E402
import night  # noqa: E402
import pfl  # noqa: E402
import torch_side  # noqa: E402

PRECISIONS = ("fp32", "tf32", "bf16")
PFL_GOALS = {"bf16": 3, "tf32": 6}  # seconds
NAN = float("nan")


class Skipped(Exception):
    pass


class Table:
    """Rows that are printed as they come, and kept."""

    def __init__(self):
        self.rows, self.missed = [], 0

    def __call__(self, what, value, unit, goal=None, met=None):
        missed = met is False
        self.missed += missed
        self.rows.append({"what": what, "value": value, "unit": unit, "goal": goal, "met": met})
        print(f"  {what:<62} {value:>12.5g} {unit:<9} {goal or '':<16}{' MISS' if missed else ''}", flush=True)


class Bench:
    def __init__(self, options):
        self.options, self.table, self.torch_, self.ours_, self.folder_ = options, Table(), None, None, None
        self.setting = pfl.Setting(rounds=30) if options.quick else pfl.Setting()
        self.scratch = tempfile.mkdtemp(prefix="flexp-cuda-", dir=options.folder)
        self.loops = {}  # seconds of the PyTorch loop by precision

    def torch(self):
        if not self.torch_:
            try:
                self.torch_ = torch_side.Torch(self.options.slot_type)
            except ImportError as why:
                raise Skipped(f"PyTorch: {why}") from why
        return self.torch_

    def ours(self):
        """What `flexp-trainer selftest --bench` has measured."""
        if not self.ours_:
            path = os.path.join(self.scratch, "timings.json")
            done = subprocess.run([self.options.trainer, "selftest", "--backend", "cuda", "--no-checks",
                                   "--quick-bench" if self.options.quick else "--bench", "--json", path], check=False)
            if not os.path.exists(path):
                raise Skipped(f"flexp-trainer selftest ended with {done.returncode}")
            with open(path, encoding="utf-8") as file:
                self.ours_ = json.load(file)
        return self.ours_

    def images(self, net, precision, replicas):
        return self.ours()["timings"].get(f"{net} {precision} batch {torch_side.BATCH} replicas {replicas}, images/s", NAN)

    # rows

    def steps(self):
        count, repeats = (50, 3) if self.options.quick else (200, 7)
        for net, make in torch_side.NETS.items():
            for precision in PRECISIONS:
                name, one, many = f"{net} {precision}", self.images(net, precision, 1), self.images(net, precision, 16)
                eager = self.torch().images_per_second(make, precision, False, count, repeats)
                self.table(f"{name}: flexp, one model", one, "images/s")
                self.table(f"{name}: over PyTorch eager ({eager:.0f})", one / eager, "times", "at least 3", one >= 3 * eager)
                try:
                    compiled = self.torch().images_per_second(make, precision, True, count, repeats)
                    self.table(f"{name}: over torch.compile ({compiled:.0f})", one / compiled, "times", "at least 1.5",
                               one >= 1.5 * compiled)
                except Exception as why:  # no compiler on the machine, say
                    print(f"  {name}: torch.compile skipped: {str(why).splitlines()[0][:100]}", flush=True)
                if many == many:  # it was measured
                    goal = ("at least 8", many >= 8 * one) if net == "bench_cnn" else (None, None)
                    self.table(f"{name}: 16 packed over one", many / one, "times", *goal)

    def backend_seconds(self, precision):
        rounds = 30 if self.options.quick else 1500
        key = f"pfl-research's benchmark {precision}, {rounds} rounds, s"
        return self.ours()["timings"].get(key, NAN) * 1500 / rounds

    def pfl(self):
        whole = self.ours().get("rounds_as_graphs")
        self.table("federated rounds are one graph each (0: call by call)", NAN if whole is None else float(whole), "", "1",
                   whole is True)
        for precision in PRECISIONS:
            seconds, goal = self.backend_seconds(precision), PFL_GOALS.get(precision)
            self.table(f"federated, 1,500 rounds, {precision}: the backend alone", seconds, "s",
                       goal and f"at most {goal}", goal and seconds <= goal)
            done = self.torch().federated(precision, self.options.loop_rounds, 1, self.setting, False)
            loop = done["seconds"] / self.options.loop_rounds * 1500
            self.loops[precision] = loop
            self.table(f"  plain PyTorch loop, from {self.options.loop_rounds} rounds", loop, "s")
            self.table("  its seconds over flexp's", loop / seconds, "times")

    def data(self):
        """A folder of CIFAR-10's binary version, and the same as tensors."""
        if not self.options.data:
            raise Skipped("no --data")
        if not self.folder_:
            source = "cifar10" if os.path.exists(os.path.join(self.options.data, "test_batch.bin")) else "images"
            self.folder_, _ = accuracy.prepare(types.SimpleNamespace(data=self.options.data, source=source, net="pfl_cnn",
                                                                     images=50000, test_images=10000), self.scratch)
        return self.folder_

    def tensors(self):
        import numpy
        torch = self.torch().torch
        splits = []
        for names in (accuracy.BATCH_FILES, ["test_batch.bin"]):
            records = numpy.concatenate([numpy.fromfile(os.path.join(self.data(), name), "uint8").reshape(-1, 3073)
                                         for name in names])
            splits.append((torch.from_numpy(records[:, 1:].reshape(-1, 3, 32, 32).copy()),
                           torch.from_numpy(records[:, 0].astype("int64"))))
        return splits

    def accuracy(self):
        data, seeds = self.data(), range(1, (1 if self.options.quick else self.options.seeds) + 1)
        self.torch().use(*self.tensors())
        for precision in [name for name in PRECISIONS if name in PFL_GOALS]:
            loop = [self.torch().federated(precision, self.setting.rounds, seed, self.setting, True) for seed in seeds]
            with night.Home(self.scratch, os.cpu_count()) as home:
                runs = [pfl.flexp_run(home, self.setting, data, precision, seed, self.options.slot_type) for seed in seeds]
            name = f"federated, {self.setting.rounds} rounds, {precision}"
            print(f"  {name}: {runs[0]['steps']:,.0f} client steps and {runs[0]['evaluations']} evaluations "
                  f"(the loop: {loop[0]['steps']:,} and {loop[0]['evaluations']})", flush=True)
            seconds = statistics.median(run["seconds"] for run in runs) * 1500 / self.setting.rounds
            self.table(f"{name}: flexp as a user runs it, first report to last", seconds, "s",
                       f"at most {PFL_GOALS[precision]}", seconds <= PFL_GOALS[precision])
            self.table("  the whole run with its set-up and files", statistics.median(run["run_seconds"] for run in runs), "s")
            self.table("  PyTorch loop, steps captured", statistics.median(run["seconds"] for run in loop), "s")
            mine, theirs = (statistics.mean(run["accuracy"] for run in side) * 100 for side in (runs, loop))
            self.table(f"  final test accuracy over {len(seeds)} seeds: flexp", mine, "%")
            self.table(f"  PyTorch loop {theirs:.2f}%, apart", mine - theirs, "points", "within 0.5", abs(mine - theirs) <= 0.5)

    def research(self):
        why = pfl.why_not(self.options.pfl_research)
        if why:
            raise Skipped(f"pfl-research: {why}")
        folder = os.path.join(self.scratch, "pfl-data")
        os.makedirs(folder, exist_ok=True)
        pfl.write_pickles(folder, *self.tensors())
        checkout = os.path.abspath(self.options.pfl_research)
        times = pfl.research_seconds(checkout, folder, pfl.Setting(), 10 if self.options.quick else 40)
        best = min(times, key=times.get)
        for processes, seconds in times.items():
            self.table(f"pfl-research, 1,500 rounds, {processes} processes", seconds, "s")
        for precision in PFL_GOALS:
            mine = self.backend_seconds(precision)
            self.table(f"  its best ({best} processes) over flexp's, {precision}", times[best] / mine, "times", "at least 50",
                       times[best] >= 50 * mine)

    def idle(self):
        with night.Home(self.scratch, 1) as home:
            log = os.path.join(home.folder, "log")
            os.mkdir(log)
            home.env["FLEXP_PROTOCOL_LOG"] = log
            path = night.idle_file(home, True)
            with open(path, "a", encoding="utf-8") as file:
                file.write(f"resources: {{slot_type: {self.options.slot_type}}}\n")
            home.flexp("create", path)
            home.flexp("wait", "1", check=False)
            gaps = night.idle_times(log)
        if not gaps:
            raise Skipped("no trial followed another")
        median = gaps[len(gaps) // 2] * 1000
        self.table(f"slot idle between trials (median of {len(gaps)})", median, "ms", "under 5", median < 5)
        self.table("  its 90th percentile", gaps[len(gaps) * 9 // 10] * 1000, "ms")


ROWS = ("idle", "steps", "pfl", "accuracy", "research")


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(ROWS))
    options.add_argument("--trainer", default=os.path.join(TOP, "build", "flexp-trainer"))
    options.add_argument("--json", help="a file for all figures")
    options.add_argument("--quick", action="store_true")
    options.add_argument("--data")
    options.add_argument("--pfl-research", metavar="CHECKOUT")
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--loop-rounds", type=int, default=3)
    options.add_argument("--slot-type", default="cuda", choices=["cuda", "cpu"], help="cpu: to try accuracy and idle without a GPU")
    options.add_argument("--folder", default=os.path.join(TOP, "build", "bench"), help="for homes and data while it runs")
    options = options.parse_args()
    unknown = [row for row in options.rows if row not in ROWS]
    if unknown:
        sys.exit(f"compare.py: no row {unknown[0]}; there are {', '.join(ROWS)}")
    os.makedirs(options.folder, exist_ok=True)
    bench, skipped = Bench(options), {}
    try:
        for row in options.rows or ROWS:
            print(f"\n{row}", flush=True)
            try:
                getattr(bench, row)()
            except (Skipped, pfl.Failed) as why:
                skipped[row] = str(why)
                print(f"  skipped: {why}", flush=True)
        if options.json:
            with open(options.json, "w", encoding="utf-8") as out:
                json.dump({"rows": bench.table.rows, "skipped": skipped, "flexp": bench.ours_,
                           "pytorch": bench.torch_ and bench.torch_.torch.__version__}, out, indent=1)
    finally:
        shutil.rmtree(bench.scratch, ignore_errors=True)
    print(f"\n{len(bench.table.rows)} figures, {bench.table.missed} missed, {len(skipped)} rows skipped")


if __name__ == "__main__":
    main()
