#!/usr/bin/env python3
"""The system's clock is set forth and back while the orchestrator runs: no duration is negative, no time_limit passes early or
late, no worker is taken for silent.

The orchestrator runs in the foreground with a shim before clock_gettime, made with the C compiler (skipped where there is
none). Drives the real program. Prints TAP. Arguments: names of tests, for these alone.
SPDX-License-Identifier: Apache-2.0
"""
import json
import os
import shutil
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from server_home import FLEXP, Skip, run_tests, test, wait_for  # noqa: E402

SHIM = """
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t clock, struct timespec *ret)
{
    int rc = (int)syscall(SYS_clock_gettime, clock, ret);
    const char *path = getenv("FLEXP_TEST_CLOCK");
    FILE *file = rc == 0 && clock == CLOCK_REALTIME && path ? fopen(path, "r") : NULL;
    long offset = 0;
    if (file) {
        if (fscanf(file, "%ld", &offset) == 1)
            ret->tv_sec += offset;
        fclose(file);
    }
    return rc;
}
"""
HOUR = 3600


class Clock:
    """An orchestrator whose clock can be set."""

    def __init__(self, home):
        compiler = shutil.which("cc") or shutil.which("gcc")
        if not compiler:
            raise Skip("no C compiler for the shim")
        self.home, self.path = home, home.file("clock")
        with open(home.file("shim.c"), "w", encoding="utf-8") as out:
            out.write(SHIM)
        subprocess.run([compiler, "-shared", "-fPIC", "-o", home.file("shim.so"), home.file("shim.c")], check=True)
        self.set(0)
        self.process = None

    def set(self, offset):
        with open(self.path + ".new", "w", encoding="utf-8") as out:
            out.write(f"{offset}\n")
        os.rename(self.path + ".new", self.path)

    def up(self):
        preload = self.home.file("shim.so")
        self.process = subprocess.Popen(
            [FLEXP, "up", "--foreground"], cwd=self.home.folder, stdin=subprocess.DEVNULL,
            env={**self.home.env, "LD_PRELOAD": preload, "FLEXP_TEST_CLOCK": self.path},
            stdout=subprocess.DEVNULL, stderr=open(self.home.file("up.log"), "ab"))
        wait_for("the orchestrator", lambda: self.home.flexp("status", check=False).returncode == 0)

    def log(self):
        with open(self.home.file("up.log"), encoding="utf-8") as file:
            return file.read()

    def down(self):
        self.home.flexp("down")
        self.process.wait(20)


def check_durations(home):
    for table, columns in (("v_runs", "seconds, slot_seconds"), ("v_experiments", "seconds, run_seconds, slot_seconds"),
                           ("v_trials", "run_seconds, slot_seconds")):
        for row in home.sql(f"SELECT {columns} FROM {table}"):
            assert all(value is None or 0 <= value < 600 for value in row), (table, row)
    assert not home.sql("SELECT 1 FROM experiments WHERE ended_us < created_us OR started_us < created_us")
    assert not home.sql("SELECT 1 FROM trials WHERE ended_us < created_us OR ended_us < started_us")
    assert not home.sql("SELECT 1 FROM runs WHERE ended_us < started_us")


@test
def a_clock_that_is_set_forth_and_back_changes_no_duration_and_no_limit(home):
    home.env["FLEXP_SILENT_MS"] = "30000"
    clock = Clock(home)
    clock.up()
    gate = home.file("gate")
    home.create(trials=2, rounds=8, script={"gate": gate, "gate_round": 4}, time_limit=HOUR)
    wait_for("reports", lambda: home.sql("SELECT count(*) FROM v_reports")[0][0] >= 8)
    clock.set(5 * HOUR)
    wait_for("it to be told", lambda: "the system's clock was set by +18000 s" in clock.log())
    assert home.state() == "active", "the time_limit passed early"
    clock.set(-30 * HOUR)
    wait_for("it to be told", lambda: "the system's clock was set by -126000 s" in clock.log())
    assert home.ask("status")["uptime_s"] >= 0
    open(gate, "w", encoding="utf-8").close()
    done = home.wait_end()
    assert done["trials"]["completed"] == 2 and [run[1] for run in home.runs()] == ["stopped"] * 2, home.runs()
    check_durations(home)
    clock.down()


@test
def a_time_limit_passes_in_its_time_though_the_clock_is_set_back(home):
    clock = Clock(home)
    clock.up()
    began = time.monotonic()
    home.create(trials=2, rounds=100000, script={"round_ms": 5}, time_limit=2)
    home.wait_event(assigned=1)
    clock.set(-24 * HOUR)
    home.wait_end()
    took = time.monotonic() - began
    assert took >= 2, took
    check_durations(home)
    clock.down()


@test
def between_two_orchestrators_the_clock_is_set_back(home):
    clock = Clock(home)
    clock.up()
    home.create(trials=2, rounds=30, script={"round_ms": 20}, time_limit=HOUR)
    home.wait_event(2, sent="checkpoint")
    clock.down()
    clock.set(-48 * HOUR)
    clock.up()
    home.wait_end()
    check_durations(home)
    assert json.loads(home.flexp("describe", "1", "--json").stdout)["state"] == "completed"
    for arguments in (["list", "--all"], ["describe", "1"], ["trials", "1"], ["trial", "describe", "1/1"]):
        home.flexp(*arguments)
    clock.down()


sys.exit(run_tests())
