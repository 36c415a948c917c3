#!/usr/bin/env python3
"""Descriptors and memory run out: in the orchestrator, in a worker, in a worker's control group. It is said, no trial is
blamed for what the machine lacks, a trial that is too large ends as out_of_memory, and when there is enough again everything
goes on by itself.

Drives the real programs. Prints TAP. Arguments: names of tests, for these alone.
SPDX-License-Identifier: Apache-2.0
"""
import json
import os
import resource
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from server_home import DEADLINE_S, FLEXP, run_tests, test, wait_for  # noqa: E402


def limited(home, files, *arguments):
    return subprocess.run(["sh", "-c", f"ulimit -n {files}; exec \"$@\"", "sh", FLEXP, *arguments], env=home.env,
                          cwd=home.folder, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, timeout=DEADLINE_S, check=False)


@test
def too_few_descriptors_are_refused_in_one_line_and_few_are_enough(home):
    path = home.config(trials=4, rounds=4)
    for files in (6, 12, 20, 40, 63):
        for arguments in (["up"], ["create", path], ["up", "--foreground"]):
            done = limited(home, files, *arguments)
            assert done.returncode == 3 and done.stderr.count("\n") == 1, (files, done)
            assert f"may open only {files} files at once (ulimit -n)" in done.stderr or files < 10, (files, done.stderr)
    done = limited(home, 64, "create", path)
    assert done.returncode == 0, done
    home.wait_end()


@test
def descriptors_that_run_out_while_it_runs_stop_nothing_that_runs(home):
    gate = home.file("gate")
    home.create(trials=3, concurrent=3, rounds=6, script={"gate": gate, "gate_round": 3, "capabilities": []})
    wait_for("two to run", lambda: len(home.events(sent="checkpoint", seq=5)) == 2)
    pid = home.pid()
    highest = max(int(name) for name in os.listdir(f"/proc/{pid}/fd"))
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (highest + 1, hard))
    for _ in range(100):  # what is still free below takes clients first
        if "no descriptors are left" in home.log():
            break
        home.flexp("status", check=False)
    clients = []
    try:
        while len(clients) < 50 and "no descriptors are left" not in home.log():
            clients.append(home.client())
    except (ConnectionError, OSError):
        pass
    wait_for("it to be said", lambda: "no descriptors are left" in home.log())
    done = home.flexp("status", check=False)
    assert done.returncode == 3 and "takes no connections" in done.stderr and done.stderr.count("\n") == 1, done
    assert json.loads(home.flexp("describe", "1", "--json").stdout)["state"] == "active"  # from the store
    open(gate, "w", encoding="utf-8").close()
    wait_for("those that run to end", lambda: len(home.sql("SELECT 1 FROM v_runs WHERE reason = 'stopped'")) == 2)
    for client in clients:
        client.close()
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))
    home.wait_end()
    assert set(home.restarts().values()) == {0}, home.restarts()
    assert home.log().count("no descriptors are left") == home.log().count("there are descriptors again") >= 1


@test
def a_worker_that_cannot_be_started_is_put_off_and_costs_nothing(home):
    home.up()
    pid = home.pid()
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = max(int(name) for name in os.listdir(f"/proc/{pid}/fd"))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 6, hard))  # a client and the leases, but no worker's pipes
    home.create(trials=2, rounds=2, max_restarts=0)
    wait_for("it to be said", lambda: "could not be started" in (home.ask("status")["waiting"] or ""))
    assert "too many open files" in home.ask("status")["waiting"], home.ask("status")
    assert home.log().count("is put off") == 1, home.log()
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))
    home.wait_end()
    assert set(home.restarts().values()) == {0} and len(home.runs()) == 2, home.runs()


sys.exit(run_tests())
