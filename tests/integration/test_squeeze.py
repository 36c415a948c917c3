#!/usr/bin/env python3
"""Memory that other programs hold: a run that says so is queued again at no cost, its slot is left alone for a while, and
people are told what is waited for.

Drives the real program with the scripted worker. Prints TAP. Arguments: names of tests, for these alone.
SPDX-License-Identifier: Apache-2.0
"""
import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from server_home import Home, run_tests, test, wait_for  # noqa: E402

SHORT = {"at": {"1": "failed:memory_in_use"}}
LONG_MS = "600000"  # nobody waits that long here


def reasons(home, trial=None):
    return [row[1] for row in home.runs(trial=trial)]


@test
def a_run_without_memory_waits_and_is_told_of_once(home):
    home.env.update(FLEXP_CORES="1", FLEXP_BACKOFF_MS="400")
    home.create(script={**SHORT, "tries": 4}, trials=1, max_restarts=0)
    waiting = wait_for("describe to say what is waited for", lambda: home.describe()["waiting"])
    assert waiting == "in trial 1: for memory that other programs hold: failed as the script says", waiting
    assert "for memory that other programs hold" in home.flexp("describe", "1").stdout
    problems = json.loads(home.flexp("status", "--json").stdout)["problems"]
    assert [(row["experiment"], row["trial"]) for row in problems] == [(1, 1)], problems
    row = json.loads(home.flexp("trials", "1", "--json").stdout)["trials"][0]
    assert (row["reason"], row["text"]) == ("memory_in_use", "failed as the script says"), row
    done = home.wait_end()
    assert reasons(home) == 4 * ["memory_in_use"] + ["stopped"], reasons(home)
    assert home.restarts() == {1: 0} and done["waiting"] is None
    assert home.log().count("memory_in_use: failed as the script says") == 1, home.log()
    starts = [line["time"] for line in home.events() if "assigned" in line]
    pauses = [later - earlier for earlier, later in zip(starts, starts[1:])]
    assert all(pause >= 0.4 * 2 ** i for i, pause in enumerate(pauses)), pauses


@test
def it_waits_on_after_the_orchestrator_was_killed(home):
    home.env.update(FLEXP_CORES="1", FLEXP_BACKOFF_MS=LONG_MS)
    home.create(script={**SHORT, "tries": 2}, trials=1, max_restarts=0)
    wait_for("the first run to fail", lambda: reasons(home) == ["memory_in_use"])  # on disk, which comes after it is known
    home.kill9()
    home.up()
    wait_for("the second run to fail", lambda: reasons(home) == 2 * ["memory_in_use"])
    wait_for("describe to say so again", lambda: home.describe()["waiting"])
    home.kill9()
    home.up()
    home.wait_end()
    assert reasons(home) == ["memory_in_use", "memory_in_use", "stopped"], reasons(home)
    assert home.restarts() == {1: 0}


@test
def another_slot_is_tried_at_once(home):
    home.env.update(FLEXP_BACKOFF_MS=LONG_MS)
    home.create(script={**SHORT, "tries": 1}, trials=1)
    home.wait_end()
    slots = [json.loads(row[0]) for row in home.sql("SELECT slots FROM v_runs ORDER BY run")]
    assert slots == [["cpu:0"], ["cpu:1"]], slots


@test
def a_trial_of_the_same_slot_that_ends_opens_it_again(home):
    gate = home.file("gate")
    home.env.update(FLEXP_CORES="1", FLEXP_BACKOFF_MS=LONG_MS)
    home.create(script={"capabilities": ["reuse", "plan", "pack"], "gate": gate, "gate_round": 1,
                        "trials": {"2": {**SHORT, "tries": 1, "gate": None}}}, trials=2, resources={"trials_per_slot": 2})
    wait_for("the second to wait", lambda: home.describe()["waiting"])
    open(gate, "w", encoding="utf-8").close()
    home.wait_end()
    assert reasons(home, 2) == ["memory_in_use", "stopped"] and reasons(home, 1) == ["stopped"], home.runs()
    assert home.restarts() == {1: 0, 2: 0}


@test
def others_of_the_experiment_go_first(home):
    home.env.update(FLEXP_CORES="1", FLEXP_BACKOFF_MS="50")
    home.create(script={"trials": {"1": {**SHORT, "tries": 1}}}, trials=3, concurrent=3)
    home.wait_end()
    assert [row[0] for row in home.runs() if row[1] == "stopped"] == [2, 3, 1], home.runs()


def pauses(home, experiment, trial):
    """Seconds between the starts of a trial's runs."""
    starts = [row[0] / 1e6 for row in home.sql(
        f"SELECT r.started_us FROM runs r JOIN trials t ON t.id = r.trial WHERE t.experiment = {experiment}"
        f" AND t.number = {trial} ORDER BY r.id")]
    return [later - earlier for earlier, later in zip(starts, starts[1:])]


def assert_growing(found, first_s):
    assert all(pause >= 0.98 * first_s * 2 ** i for i, pause in enumerate(found)), found


@test
def each_trial_of_a_pack_that_lacks_memory_waits_for_itself(home):
    home.env.update(FLEXP_CORES="1", FLEXP_BACKOFF_MS="200")
    home.create(script={"capabilities": ["reuse", "plan", "pack"], **SHORT}, trials=4, concurrent=4,
                resources={"trials_per_slot": 4}, max_restarts=0)
    wait_for("each to be tried four times", lambda: all(len(pauses(home, 1, trial)) >= 3 for trial in (1, 2, 3, 4)))
    for trial in (1, 2, 3, 4):
        assert_growing(pauses(home, 1, trial), 0.2)
    assert home.restarts() == {1: 0, 2: 0, 3: 0, 4: 0}


@test
def company_that_ends_again_and_again_does_not_wake_it_for_ever(home):
    home.env.update(FLEXP_CORES="1", FLEXP_BACKOFF_MS=LONG_MS)
    home.create(script={"capabilities": ["reuse", "plan", "pack"], "trials": {"1": SHORT}}, trials=24, concurrent=4,
                resources={"trials_per_slot": 3})
    wait_for("the others to end", lambda: len([row for row in home.runs() if row[1] == "stopped"]) == 23)
    assert 1 <= len(home.runs(trial=1)) <= 4, home.runs(trial=1)


@test
def its_slots_are_open_to_others_of_any_priority(home):
    home.env.update(FLEXP_CORES="2", FLEXP_BACKOFF_MS=LONG_MS)
    home.create(script=SHORT, trials=1, resources={"priority": 10, "slots_per_trial": 2})
    wait_for("the first to wait", lambda: home.describe()["waiting"])
    home.create(script={}, trials=3)
    home.wait_end(2)
    assert reasons(home) == ["memory_in_use"] and [row[1] for row in home.runs(2)] == 3 * ["stopped"], home.runs(2)
    assert home.describe(1)["waiting"] and home.state(1) == "active"


@test
def others_that_report_do_not_shorten_its_pauses(home):
    home.env.update(FLEXP_CORES="1", FLEXP_BACKOFF_MS="200")
    home.create(script=SHORT, trials=1)
    wait_for("the first to wait", lambda: home.describe()["waiting"])
    home.create(script={"round_ms": 5}, trials=1000)
    wait_for("it to be tried five times", lambda: len(pauses(home, 1, 1)) >= 4)
    assert_growing(pauses(home, 1, 1), 0.2)
    assert len(home.runs(2)) > 10, home.runs(2)


@test
def another_home_has_the_slots_while_it_waits(home):
    home.env.update(FLEXP_CORES="1", FLEXP_BACKOFF_MS=LONG_MS)
    home.create(script=SHORT, trials=1)
    wait_for("the first to wait", lambda: home.describe()["waiting"])
    with Home(cores=1, leases=home.leases) as other:
        other.up()
        other.create(script={}, trials=2)
        other.wait_end()
    assert reasons(home) == ["memory_in_use"]


@test
def every_waiting_trial_is_named_once(home):
    home.env.update(FLEXP_CORES="2", FLEXP_BACKOFF_MS=LONG_MS)
    home.create(script=SHORT, trials=2, concurrent=2)
    wait_for("both to have failed on both slots", lambda: len(home.runs()) == 4)
    wait_for("describe to say so", lambda: "in trial 1 and 1 more: " in (home.describe()["waiting"] or "") or
             "in trial 2 and 1 more: " in (home.describe()["waiting"] or ""))
    problems = json.loads(home.flexp("status", "--json").stdout)["problems"]
    assert sorted((row["experiment"], row["trial"]) for row in problems) == [(1, 1), (1, 2)], problems
    assert home.log().count("memory_in_use: ") == 2, home.log()
    home.flexp("pause", "1")
    assert home.describe()["waiting"] is None
    assert not json.loads(home.flexp("status", "--json").stdout)["problems"]


@test
def what_a_worker_says_of_it_is_shown_in_one_short_line(home):
    home.env.update(FLEXP_CORES="1", FLEXP_BACKOFF_MS=LONG_MS)
    text = "a\x1b[31mb\nc\x9bd " + 50000 * "e"
    home.create(script={"at": {"1": "failed:memory_in_use:" + text}}, trials=1)
    waiting = wait_for("describe to say what is waited for", lambda: home.describe()["waiting"])
    assert "a [31mb c d eee" in waiting and len(waiting) < 500, waiting
    stored = home.runs()[0][2]
    assert stored.startswith("a [31mb c d eee") and len(stored) < 500, stored
    home.flexp("down")
    assert home.describe()["waiting"] == waiting  # the store says so, too
    assert "\x1b[31mb" not in home.log() and 5000 * "e" not in home.log(), home.log()[-3000:]


if __name__ == "__main__":
    sys.exit(run_tests())
