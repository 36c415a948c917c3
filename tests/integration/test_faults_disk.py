#!/usr/bin/env python3
"""The disk is full: in a commit, in a checkpoint, in the log, in the cache, at the start. It is said, nothing that was
acknowledged is lost, no trial is blamed, and when space returns everything goes on by itself.

The home is a tmpfs of a few MB in a mount namespace of this script's own (unshare -m as root, else unshare -rm); where
neither works the tests are skipped. Drives the real programs. Prints TAP. Arguments: names of tests, for these alone.
SPDX-License-Identifier: Apache-2.0
"""
import contextlib
import fcntl
import json
import os
import subprocess
import sys
import termios
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from server_home import alive, enter_namespace, mount, run_tests, test, wait_for  # noqa: E402

MIB = 1 << 20
BUILT_IN = """
name: disk
max_restarts: 0
data: {source: synthetic, synthetic: {samples: 2000, test_samples: 100, classes: 3, channels: 3, size: 32}}
hyperparameters: {lr: 0.01}
searcher: {name: single, metric: validation_loss, time_metric: rounds, max_time: 6}
model: {layers: [{max_pool2d: 4}, flatten, {dense: {units: 1500, activation: relu}}, {dense: {units: classes}}]}
training: {learning_rate: $lr, batch_size: 50}
federation: {enabled: false}
"""


class Disk:
    """A small file system that holds the home."""

    def __init__(self, home, mib):
        self.home, self.ballast = home, os.path.join(home.path, "ballast")
        mount(home, "-t", "tmpfs", "-o", f"size={mib}m")

    def fill(self, leave=0):
        with open(self.ballast, "ab", buffering=0) as file:
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(MIB))
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(4096))
            file.truncate(max(0, file.tell() - leave))

    def free(self):
        os.unlink(self.ballast)


@contextlib.contextmanager
def small_disk(home, mib=8):
    disk = Disk(home, mib)
    try:
        yield disk
    except BaseException:
        print("# " + home.log().replace("\n", "\n# "))
        raise
    finally:
        with contextlib.suppress(OSError):
            disk.free()
        home.env["FLEXP_DOWN_MS"] = "1000"
        pid = home.pid()
        home.flexp("down", check=False)
        wait_for("the orchestrator to end", lambda: not pid or not alive(pid), 20)
        subprocess.run(["umount", "-l", home.path], check=True)


def check_nothing_lost(home, reports):
    """Every report is there, once for each trial and round, and what was acknowledged has the value that was sent."""
    stored = set(home.sql("SELECT run, seq FROM v_reports")) | set(home.sql("SELECT run, seq FROM checkpoints"))
    acked = {}
    for line in home.events(heard="ack"):
        acked[line["message"]["run"]] = max(acked.get(line["message"]["run"], 0), line["message"]["seq"])
    lost = [line for line in home.events() if line.get("sent") in ("report", "checkpoint")
            and line["seq"] <= acked.get(line["run"], 0) and (line["run"], line["seq"]) not in stored]
    assert acked and not lost, lost[:3]
    assert home.sql("SELECT count(*) FROM v_metrics WHERE name = 'validation_accuracy'") == [(reports,)]


def waits_for_space(home):
    return (home.ask("status")["waiting"] or "").startswith("for space on the disk of ")


@test
def a_commit_waits_for_space_and_goes_on_by_itself(home):
    with small_disk(home) as disk:
        gate = home.file("gate")
        home.create(rounds=300, script={"round_ms": 1, "save_every": 1000, "gate": gate, "gate_round": 10})
        home.wait_event(20, sent="report")
        disk.fill()
        open(gate, "w", encoding="utf-8").close()
        wait_for("the orchestrator to say so", lambda: waits_for_space(home))
        assert home.describe()["state"] == "active"  # reading goes on
        done = home.flexp("create", home.config(), check=False)
        assert done.returncode == 3 and "no space is left on the disk of" in done.stderr, done
        assert done.stderr.count("\n") == 1, done.stderr
        done = home.flexp("cancel", "1", check=False)
        assert done.returncode != 0 and "no space is left" in done.stderr, done
        assert "for space on the disk" in home.flexp("status").stdout
        disk.free()
        done = home.wait_end()
        assert home.sql("SELECT count(*) FROM experiments") == [(1,)]
        assert home.restarts() == {1: 0, 2: 0} and len(home.runs()) == 2, home.runs()
        check_nothing_lost(home, 600)
        assert home.log().count("there is space on the disk") == 1, home.log()


@test
def what_runs_use_is_not_sampled_while_the_store_waits(home):
    home.env["FLEXP_USAGE_MS"] = "20"
    with small_disk(home) as disk:
        gate = home.file("gate")
        home.create(rounds=4, script={"gate": gate, "gate_round": 1})
        wait_for("samples", lambda: home.sql("SELECT count(*) FROM usage")[0][0] > 4)
        disk.fill()
        wait_for("the orchestrator to say so", lambda: waits_for_space(home))
        since, uptime = time.time(), home.ask("status")["uptime_s"]
        wait_for("some ticks of its clock", lambda: home.ask("status")["uptime_s"] > uptime + 1)
        until = time.time()
        disk.free()
        open(gate, "w", encoding="utf-8").close()
        home.wait_end()
        assert home.sql("SELECT count(*) FROM v_usage WHERE epoch_seconds BETWEEN ? AND ?", since, until) == [(0,)]


@test
def down_does_not_wait_for_space_and_nothing_acknowledged_is_lost(home):
    home.env["FLEXP_DOWN_MS"] = "500"
    with small_disk(home) as disk:
        home.create(rounds=400, script={"round_ms": 1, "save_every": 1000})
        home.wait_event(20, sent="report")
        disk.fill()
        wait_for("the orchestrator to say so", lambda: waits_for_space(home))
        home.flexp("down", check=False)
        assert not home.pid()
        disk.free()
        home.up()
        home.wait_end()
        assert home.restarts() == {1: 0, 2: 0}, home.restarts()
        check_nothing_lost(home, 800)


@test
def a_program_that_dies_of_the_full_disk_costs_its_trial_no_restart(home):
    with small_disk(home) as disk:
        home.create(rounds=60, script={"round_ms": 20}, max_restarts=0)
        home.wait_event(4, sent="report")
        disk.fill()
        wait_for("a worker to die", lambda: home.events(sent="report") and not all(
            alive(line["pid"]) for line in home.events() if "assigned" in line))
        disk_full = lambda: [run for run in home.runs() if run[1] == "disk_full"]  # noqa: E731
        wait_for("the orchestrator to say so", lambda: waits_for_space(home))
        disk.free()
        home.wait_end()
        assert disk_full() and "No space left" in disk_full()[0][2], home.runs()
        assert home.restarts() == {1: 0, 2: 0}, home.restarts()


@test
def the_built_in_trainer_waits_for_space_for_its_cache_and_its_checkpoints(home):
    with small_disk(home, 16) as disk:
        path = home.file("built-in.yaml")
        with open(path, "w", encoding="utf-8") as out:
            out.write(BUILT_IN)
        said = lambda text: [row for row in home.sql("SELECT text FROM v_logs") if text in row[0]]  # noqa: E731
        home.up()
        disk.fill(leave=2 * MIB)
        assert json.loads(home.flexp("create", "--json", path).stdout)["id"] == 1
        wait_for("the cache to wait", lambda: said("no room for"))
        wait_for("it to be told", lambda: home.ask("status")["problems"])
        problem = home.ask("status")["problems"][0]
        assert (problem["experiment"], problem["trial"]) == (1, 1) and "no room for" in problem["text"], problem
        assert "trial 1/1 waits: " in home.flexp("status").stdout
        assert home.describe()["waiting"].startswith("in trial 1: ") and "no room" in home.flexp("describe", "1").stdout
        assert "no room for" in home.flexp("wait", "1", "-f", "--timeout", "1", check=False).stdout
        assert "trial 1/1, run 1: " in home.log() and "no room for" in home.log()
        disk.free()
        wait_for("that to be over", lambda: not home.ask("status")["problems"])
        assert home.describe()["waiting"] is None
        wait_for("a checkpoint", lambda: home.sql("SELECT count(*) FROM checkpoints")[0][0])
        disk.fill(leave=MIB)
        wait_for("a checkpoint to wait, or the end", lambda: said("checkpoint-") or home.state() != "active")
        assert home.state() == "active", "it was over before the disk was full"
        assert "the run waits until there is space" in said("checkpoint-")[0][0], said("checkpoint-")
        disk.free()
        done = home.wait_end()
        assert len(said("there is space on the disk again")) >= 2, home.sql("SELECT text FROM v_logs")
        assert home.restarts() == {1: 0} and len([r for r in home.runs() if r[1] != "evaluated"]) == 1, home.runs()
        assert done["test_metrics"]["test_loss"] > 0, done


def nothing_waits_in(path):
    """True when the pipe has been read empty."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return fcntl.ioctl(fd, termios.FIONREAD, b"\0\0\0\0") == b"\0\0\0\0"
    finally:
        os.close(fd)


@test
def a_log_says_what_it_lacks(home):
    with small_disk(home) as disk:
        full, free = home.file("full"), home.file("free")
        home.create(trials=1, rounds=6, script={"round_ms": 1, "save_every": 1000, "at": {
            "1": "flood:5", "2": f"wait:{full}", "3": "flood:2000", "4": f"wait:{free}", "5": "flood:7"}})
        home.wait_event(act=f"wait:{full}")
        disk.fill()
        open(full, "w", encoding="utf-8").close()
        pid = home.wait_event(act=f"wait:{free}")["pid"]
        wait_for("the supervisor to read it", lambda: nothing_waits_in(f"/proc/{pid}/fd/1"))
        wait_for("the orchestrator to say so", lambda: waits_for_space(home))
        disk.free()
        open(free, "w", encoding="utf-8").close()
        home.wait_end()
        with open(os.path.join(home.path, "experiments/1/trials/1/runs/1/output.log"), encoding="utf-8") as file:
            text = file.read()
        first, last = ("".join(f"line {i} of a flood\n" for i in range(n)) for n in (5, 7))
        assert text.startswith(first) and text.endswith(last), text[:200] + " ... " + text[-200:]
        assert "(flexp: the disk was full; up to " in text and "line 1999 " not in text, text[-400:]
        assert home.restarts() == {1: 0}


@test
def up_and_create_on_a_full_disk_are_refused_in_one_line_and_leave_nothing_half_made(home):
    with small_disk(home, 4) as disk:
        disk.fill()
        for arguments in (["up"], ["create", home.config()]):
            done = home.flexp(*arguments, check=False)
            assert done.returncode == 3 and done.stderr.count("\n") == 1, done
            assert "No space left" in done.stderr or "full" in done.stderr, done.stderr
        assert not os.path.exists(os.path.join(home.path, "flexp.db"))
        assert not [name for name in os.listdir(home.path) if name.startswith("flexp.db")], os.listdir(home.path)
        disk.free()
        home.create(rounds=4)
        home.wait_end()
        home.flexp("down")
        disk.fill()
        done = home.flexp("up", check=False)
        if done.returncode:  # the write-ahead log may still find a page
            assert done.stderr.count("\n") == 1 and ("No space" in done.stderr or "full" in done.stderr), done.stderr
        assert json.loads(home.flexp("list", "--all", "--json").stdout)["experiments"], "reading works"


enter_namespace(__file__)
sys.exit(run_tests())
