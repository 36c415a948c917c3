#!/usr/bin/env python3
"""A worker that behaves as a script tells it: normal, silent, garbled, slow, dying, deaf, with children that linger.

Usage, as an experiment's entrypoint: [python3, scripted_worker.py, SCRIPT]. SCRIPT is a file of JSON (or JSON itself):
an object of the keys below; "trials": {"2": {...}} overrides them for one trial, and hyperparameters of the same names
do so too. Rounds are imaginary; the validation_accuracy at round r is lr * r / (r + 1), so the largest lr is best.

  round_ms       how long a round takes (10)
  heartbeat_ms   between two heartbeats (100)
  hello_ms       wait before hello
  hello          the hello line as text, in place of the right one
  capabilities   those of the hello
  print          lines to print when a run begins
  gate           file: rounds past gate_round (0) wait until it exists
  at             what to do before which round: {"3": ACTION}; "tries": N does so only while the attempt is <= N
     ACTION: exit:CODE signal:NUMBER silent garbled:TEXT say:JSON failed:REASON[:TEXT] converged close sleep:MS linger
             flood:LINES wait:FILE (until it exists) raw:HEX (these bytes) long:BYTES (without a newline) drip:JSON (byte by
             byte) spam:LINES (of progress) part:TEXT (half a line, then silent) eat:MIB (of memory) abort:TEXT; $RUN and $SEQ in TEXT and JSON are those
             of the run
  save_every     rounds between two checkpoints (2)
  deaf           ignore preempt and stop, until the gate (if any) is open
  linger         file to which the pids of lingering children go
  plan           answer to plan, less op and id
  trace          file that gets a JSON line for each thing heard and done
  late           keep talking about a run after done
  leave          exit when the run is over, as a program without the capability "reuse" does

With "pack" among its capabilities it carries several runs, each by a thread of its own.

Standard library only.
SPDX-License-Identifier: Apache-2.0
"""
import json
import os
import queue
import select
import signal
import socket
import subprocess
import sys
import threading
import time


class Gone(Exception):
    """The run is over, one way or the other."""


class Worker:
    def __init__(self, script):
        self.script = script
        self.settings = script
        self.link = socket.socket(fileno=int(os.environ["FLEXP_FD"]))
        self.pending = b""
        self.beat = time.monotonic()
        self.run = None
        self.lock = threading.Lock()  # of what is said; held for good by one that falls silent

    # --- talking

    def get(self, key, default=None):
        return self.settings.get(key, default)

    def trace(self, **what):
        path = self.get("trace")
        if path:
            with open(path, "a", encoding="utf-8") as out:
                out.write(json.dumps({"pid": os.getpid(), "time": time.time(), **what}) + "\n")

    def say_line(self, line):
        with self.lock:
            self.link.sendall(line.encode() + b"\n")

    def say(self, **message):
        self.say_line(json.dumps(message))

    def send(self, **body):
        """A message about the run that must not be lost."""
        self.seq += 1
        self.say(run=self.run["run"], seq=self.seq, **body)
        self.trace(sent=body["op"], run=self.run["run"], trial=self.run["trial"], seq=self.seq, body=body)

    def hear(self, wait_s):
        """The next message, or None when none comes in time; heartbeats are sent meanwhile."""
        deadline = time.monotonic() + wait_s
        while b"\n" not in self.pending:
            now = time.monotonic()
            if now - self.beat >= self.get("heartbeat_ms", 100) / 1000:
                self.beat = now
                self.say(op="heartbeat", rank=0)
            if now >= deadline:
                return None
            if not select.select([self.link], [], [], min(deadline - now, 0.05))[0]:
                continue
            more = self.link.recv(65536)
            if not more:
                sys.exit(0)
            self.pending += more
        line, self.pending = self.pending.split(b"\n", 1)
        message = json.loads(line)
        self.trace(heard=message["op"], message=message)
        return message

    # --- one run

    def handle(self, message):
        op = message["op"]
        if op == "plan":
            self.say(op="plan", id=message["id"], **self.get("plan", {"ok": True, "mem_bytes": 1, "pack_key": ""}))
        elif self.run and message.get("run") == self.run["run"]:
            if op == "train_until":
                self.until = message["unit"]
            elif op == "release":
                raise Gone
            elif op in ("stop", "preempt") and (not self.get("deaf") or self.gate_is_open()):
                self.told = op

    def listen(self, wait_s):
        while True:
            message = self.hear(wait_s)
            if message is None:
                return
            self.handle(message)
            wait_s = 0

    def gate_is_open(self):
        return self.get("gate") and os.path.exists(self.get("gate"))

    def value(self, unit):
        return self.run["hyperparameters"].get("lr", 0.5) * unit / (unit + 1)

    def checkpoint(self, unit):
        name = f"runs/{self.run['run']}/checkpoint-{unit}.bin"
        path = os.path.join(self.run["trial_dir"], name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path + ".tmp", "w", encoding="utf-8") as out:
            out.write(json.dumps({"unit": unit}))
        os.rename(path + ".tmp", path)
        self.saved = unit
        self.send(op="checkpoint", units={"rounds": unit}, path=name, bytes=os.path.getsize(path))

    def linger(self):
        """Children that do not go by themselves: a deaf one, and one forked twice in a session of its own."""
        where = self.get("linger")
        script = ("trap '' TERM HUP INT; echo $$ >>\"$0\"; "
                  "(setsid sh -c 'echo $$ >>\"$0\"; exec sleep 1000' \"$0\" &); "
                  "sleep 1000 & echo $! >>\"$0\"; wait")
        subprocess.Popen(["/bin/sh", "-c", script, where], stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if os.path.exists(where) and len(open(where, encoding="utf-8").read().split()) >= 3:
                return
            time.sleep(0.01)

    def act(self, action):
        name, _, rest = action.partition(":")
        rest = rest.replace("$RUN", str(self.run["run"])).replace("$SEQ", str(self.seq + 1))
        self.trace(act=action, run=self.run["run"], trial=self.run["trial"])
        if name == "exit":
            print("exiting as the script says", flush=True)
            os._exit(int(rest))
        elif name == "signal":
            os.kill(os.getpid(), int(rest))
        elif name == "silent":
            self.lock.acquire()
            while True:
                signal.pause()
        elif name == "garbled":
            self.say_line(rest)
        elif name == "say":
            self.say_line(rest)
        elif name == "failed":
            reason, _, text = rest.partition(":")
            self.send(op="failed", reason=reason, text=text or "failed as the script says")
            raise Gone
        elif name == "converged":
            if self.saved != self.unit:
                self.checkpoint(self.unit)
            self.send(op="done", reason="converged", units={"rounds": self.unit})
            raise Gone
        elif name == "close":
            self.link.close()
            while True:
                signal.pause()
        elif name == "sleep":
            time.sleep(float(rest) / 1000)
        elif name == "wait":
            while not os.path.exists(rest):
                self.listen(0.02)
        elif name == "raw":
            self.link.sendall(bytes.fromhex(rest))
        elif name == "long":
            self.link.sendall(b"x" * int(rest))
        elif name == "drip":
            for byte in rest.encode() + b"\n":
                self.link.sendall(bytes([byte]))
                time.sleep(0.001)
        elif name == "spam":
            line = json.dumps({"op": "progress", "run": self.run["run"], "units": {"rounds": self.unit}}).encode() + b"\n"
            for _ in range(int(rest) // 1000):
                self.link.sendall(1000 * line)
        elif name == "part":
            self.link.sendall(rest.encode())
            while True:
                signal.pause()
        elif name == "eat":
            eaten = b"x" * (int(rest) << 20)
            self.trace(ate=len(eaten) >> 20)
        elif name == "abort":
            print(rest, flush=True)
            os.abort()
        elif name == "linger":
            self.linger()
        elif name == "flood":
            for i in range(int(rest)):
                print(f"line {i} of a flood")
            sys.stdout.flush()
        else:
            raise SystemExit(f"scripted_worker: no action {action}")

    def end_if_told(self):
        if self.told == "preempt" and self.saved != self.unit:
            self.checkpoint(self.unit)
        if self.told:
            self.send(op="done", reason={"stop": "stopped", "preempt": "preempted"}[self.told],
                      units={"rounds": self.unit})
            raise Gone

    def round(self):
        actions = self.get("at", {})
        action = actions.get(str(self.unit + 1))
        if action and self.run["attempt"] <= self.get("tries", 1 << 30):
            self.act(action)
        while self.get("gate") and self.unit >= self.get("gate_round", 0) and not self.gate_is_open():
            self.listen(0.02)
            self.end_if_told()
        deadline = time.monotonic() + self.get("round_ms", 10) / 1000
        while time.monotonic() < deadline:
            self.listen(min(0.02, max(0, deadline - time.monotonic())))
        self.unit += 1
        units = {"rounds": self.unit}
        self.send(op="report", kind="training", units=units, metrics={"train_loss": 1 / self.unit},
                  clients=[{"client": 0, "samples": 10, "seconds": 0.01, "metrics": {"train_loss": 1 / self.unit}}])
        self.send(op="report", kind="validation", units=units, metrics={"validation_accuracy": self.value(self.unit)})
        if self.unit >= self.until or self.unit % self.get("save_every", 2) == 0:
            self.checkpoint(self.unit)

    def train(self, message):
        self.run, self.seq, self.told, self.until = message, 0, None, message["train_until"]
        self.settings = {**self.script, **self.script.get("trials", {}).get(str(message["trial"]), {}),
                         **message["hyperparameters"]}
        resume = message.get("resume")
        self.unit = 0
        self.saved = None
        if resume:
            with open(resume["path"], encoding="utf-8") as file:
                self.unit = self.saved = json.load(file)["unit"]
        self.trace(assigned=message["run"], trial=message["trial"], attempt=message["attempt"], unit=self.unit,
                   cwd=os.getcwd())
        for line in self.get("print", []):
            print(line, flush=True)
        try:
            while True:
                self.listen(0)
                self.end_if_told()
                if self.unit < self.until:
                    self.round()
                else:
                    self.listen(0.05)
        except Gone:
            pass
        if self.get("leave"):
            os._exit(0)
        over, self.run = self.run, None
        self.settings = self.script
        if self.get("late"):
            self.say(op="report", run=over["run"], seq=self.seq + 1, kind="training", units={"rounds": 999},
                     metrics={"train_loss": 0})

    def carry(self):
        """Run beside run."""
        runs = {}
        while True:
            message = self.hear(1)
            if message and message["op"] == "assign":
                runs[message["run"]] = Carried(self)
                threading.Thread(target=runs[message["run"]].train, args=(message,), daemon=True).start()
            elif message and message.get("run") in runs:
                runs[message["run"]].heard.put(message)
            elif message:
                self.handle(message)

    def work(self):
        time.sleep(self.get("hello_ms", 0) / 1000)
        hello = self.get("hello")
        if hello is not None:
            self.say_line(hello)
        else:
            self.say(op="hello", version=1, pid=os.getpid(), program="scripted_worker", rank=0, size=1, isa="none",
                     capabilities=self.get("capabilities", ["reuse", "plan"]))
        if "pack" in self.get("capabilities", []):
            self.carry()
        while True:
            message = self.hear(1)
            if message and message["op"] == "assign":
                self.train(message)
            elif message:
                self.handle(message)


class Carried(Worker):
    """One of several runs: it hears what the process passes on, and speaks through its socket."""

    def __init__(self, process):  # pylint: disable=super-init-not-called
        self.script = self.settings = process.script
        self.link, self.lock = process.link, process.lock
        self.run = None
        self.heard = queue.Queue()

    def hear(self, wait_s):
        try:
            return self.heard.get(timeout=wait_s) if wait_s > 0 else self.heard.get_nowait()
        except queue.Empty:
            return None


def main():
    text = sys.argv[1] if len(sys.argv) > 1 else "{}"
    if not text.lstrip().startswith("{"):
        with open(text, encoding="utf-8") as file:
            text = file.read()
    Worker(json.loads(text)).work()


if __name__ == "__main__":
    main()
