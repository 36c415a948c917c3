"""What tests of flexp-trainer share: they are its orchestrator, on one end of a socket pair, and print TAP.
SPDX-License-Identifier: Apache-2.0
"""
import json
import os
import socket
import struct
import subprocess
import tempfile

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
TRAINER = os.environ.get("FLEXP_TRAINER", os.path.join(TOP, "build", "flexp-trainer"))
SECTIONS = {
    "data": {"source": "synthetic", "synthetic": {"samples": 300, "test_samples": 60, "classes": 3, "channels": 1, "size": 12}},
    "model": {"layers": [{"conv2d": {"filters": 4, "kernel": 3, "padding": "same"}}, "batch_norm", "relu",
                         {"max_pool2d": 2}, "flatten", {"dropout": 0.2}, {"dense": {"units": "classes"}}]},
    "training": {"learning_rate": 0.05, "momentum": 0.9, "batch_size": 8},
    "federation": {"clients": 4, "clients_per_round": 2, "local_epochs": 1,
                   "partition": {"scheme": "dirichlet", "alpha": 1.0}},
}

HAS_GPU = subprocess.run([TRAINER, "selftest", "--backend", "cuda", "--no-checks"], stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL, check=False).returncode == 0


class Worker:
    """One flexp-trainer and the socket to it."""

    def __init__(self, folder, **env):
        ours, theirs = socket.socketpair()
        self.folder = folder
        self.process = subprocess.Popen([TRAINER], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
                                        env=dict(os.environ, FLEXP_FD=str(theirs.fileno()), **env),
                                        stderr=subprocess.PIPE, text=True)
        theirs.close()
        ours.settimeout(120)
        self.socket, self.lines = ours, ours.makefile("r", encoding="utf-8")
        self.hello = self.hear()

    def say(self, **message):
        self.socket.sendall((json.dumps(message) + "\n").encode())

    def hear(self):
        while True:
            line = self.lines.readline()
            if not line:
                raise AssertionError("the worker closed the socket: " + self.process.stderr.read())
            message = json.loads(line)
            if message["op"] != "heartbeat":
                return message

    def hear_until(self, *ops):
        heard = [self.hear()]
        while heard[-1]["op"] not in ops:
            heard.append(self.hear())
        return heard

    def assign(self, run, trial=1, until=2, sections=None, op="assign", **more):
        folder = os.path.join(self.folder, f"trial{trial}")
        self.say(op=op, run=run, experiment=1, trial=trial, attempt=1, seed=7, data_seed=7, hyperparameters={"lr": 0.05},
                 sections=sections or SECTIONS, time_metric="rounds", train_until=until, max_units=more.pop("max_units", 6),
                 metric="validation_accuracy", smaller_is_better=False, min_checkpoint_period=0,
                 resume=more.pop("resume", None), trial_dir=folder, run_dir=f"{folder}/runs/{run}",
                 cache_dir=os.path.join(self.folder, "cache"), slots=more.pop("slots", ["cpu:0"]), **more)

    def train_to_the_end(self, run, trial=1, until=6, **more):
        self.assign(run, trial, until, **more)
        heard = []
        while not heard or heard[-1]["op"] != "checkpoint" or heard[-1]["units"]["rounds"] < until:
            heard.append(self.hear())
            if heard[-1]["op"] in ("failed", "done"):
                return heard
        self.say(op="stop", run=run)
        return heard + self.hear_until("done", "failed")

    def close(self):
        self.lines.close()
        self.socket.close()
        code = self.process.wait(30)
        self.process.stderr.close()
        return code


def with_worker(function):
    def test():
        with tempfile.TemporaryDirectory() as folder:
            worker = Worker(folder)
            try:
                function(worker)
            finally:
                worker.close()
    test.__name__ = function.__name__
    return test


def curve(heard):
    """Reports without what is wall clock time."""
    rows = []
    for message in heard:
        if message["op"] != "report":
            continue
        units = {key: value for key, value in message["units"].items() if key != "seconds"}
        clients = [{key: value for key, value in row.items() if key != "seconds"} for row in message.get("clients", [])]
        rows.append((message["kind"], units, message["metrics"], clients))
    return rows


def resume_of(worker, heard, trial=1):
    """What the orchestrator would say: the last checkpoint, and the best one of those that were announced."""
    values = {m["units"]["rounds"]: m["metrics"]["validation_accuracy"] for m in heard
              if m["op"] == "report" and m["kind"] == "validation"}
    saved = [(m["units"]["rounds"], os.path.join(worker.folder, f"trial{trial}", m["path"]), m["units"]) for m in heard
             if m["op"] == "checkpoint"]
    unit, path, _ = max(saved, key=lambda one: (values[one[0]], -one[0]))
    return {"path": saved[-1][1], "units": saved[-1][2], "best": {"path": path, "unit": unit, "value": values[unit]}}


def tensors(path):
    with open(path, "rb") as file:
        raw = file.read()
    length, = struct.unpack("<Q", raw[:8])
    head = json.loads(raw[8:8 + length])
    head.pop("__metadata__", None)
    return {name: raw[8 + length + entry["data_offsets"][0]:8 + length + entry["data_offsets"][1]]
            for name, entry in head.items()}


def check(condition, text):
    if not condition:
        raise AssertionError(text)


def run(tests):
    failed = 0
    print(f"1..{len(tests)}")
    for number, test in enumerate(tests, 1):
        try:
            test()
            print(f"ok {number} - {test.__name__}", flush=True)
        except (AssertionError, OSError, ValueError, KeyError, IndexError, subprocess.SubprocessError) as why:
            failed += 1
            print(f"# {type(why).__name__}: {str(why)[:2000]}")
            print(f"not ok {number} - {test.__name__}", flush=True)
    return 1 if failed else 0
