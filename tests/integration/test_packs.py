#!/usr/bin/env python3
"""Several trials on one slot (resources.trials_per_slot): one worker carries them, each goes its own way, and what kills the
worker is found out by running each alone.

Drives the real program with the scripted worker. Prints TAP. Arguments: names of tests, for these alone.
SPDX-License-Identifier: Apache-2.0
"""
import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from server_home import check_acknowledged, refused, run_tests, test, wait_for  # noqa: E402

PACK = ["reuse", "plan", "pack"]


def create(home, packed, script=None, cores=1, **settings):
    home.env["FLEXP_CORES"] = str(cores)
    return home.create(script={"capabilities": PACK, **(script or {})},
                       resources={"trials_per_slot": packed, **settings.pop("resources", {})}, **settings)


def stays(home):
    """(pid, trial, attempt, begin, end) of every run that a worker was given; end None where it said none."""
    ends = {line["run"]: line["time"] for line in home.events() if line.get("sent") in ("done", "failed")}
    return [(line["pid"], line["trial"], line["attempt"], line["time"], ends.get(line["assigned"]))
            for line in home.events() if "assigned" in line]


def most_at_once(home):
    """The most runs that one worker carried at a time."""
    rows = stays(home)
    return max(sum(one[0] == other[0] and one[3] <= other[3] and (one[4] is None or other[3] < one[4]) for one in rows)
               for other in rows)


def on_slots(home):
    """{slot: trials on it}"""
    return {row["name"]: sorted(run["trial"] for run in row["runs"]) for row in home.ask("slots")["slots"]}


def curves(home, experiment):
    return home.sql("SELECT trial, unit, value FROM v_metrics WHERE experiment = ? AND name = 'validation_accuracy'"
                    " ORDER BY trial, unit", experiment)


def reasons(home, trial=None, experiment=1):
    return [row[1] for row in home.runs(experiment, trial)]


@test
def trials_share_a_slot_and_the_next_joins_when_one_ends(home):
    gate = home.file("gate")
    create(home, 3, {"gate": gate, "gate_round": 1, "trials": {"2": {"gate": None}}}, trials=5, rounds=4)
    wait_for("the fourth to join where the second was", lambda: on_slots(home)["cpu:0"] == [1, 3, 4, 5] or
             on_slots(home)["cpu:0"] == [1, 3, 4])
    wait_for("three at their gate", lambda: home.sql(
        "SELECT count(*) FROM v_metrics WHERE name = 'validation_accuracy' AND trial IN (1, 3, 4)") == [(3,)])
    assert on_slots(home)["cpu:0"] == [1, 3, 4]
    workers = home.ask("status")["workers"]
    assert len(workers) == 1 and len(workers[0]["runs"]) == 3, workers
    assert "1/1,3,4" in home.flexp("slots").stdout, home.flexp("slots").stdout
    assert "(3 runs)" in home.flexp("status").stdout
    top = home.flexp("top", LANG="C", LC_ALL="C").stdout
    assert "1 of 1 slots busy" in top and all(f"1/{trial}" in top for trial in (1, 3, 4)), top
    assert [row["slots"] for row in home.ask("subscribe", experiment=1)["running"]] == [["cpu:0"]] * 3
    open(gate, "w", encoding="utf-8").close()
    done = home.wait_end()
    assert done["trials"]["completed"] == 5 and done["best_trial_id"] == 5, done
    assert reasons(home) == ["stopped"] * 5 and most_at_once(home) == 3
    assert len({row[0] for row in stays(home)}) == 1
    check_acknowledged(home)


@test
def trials_are_spread_over_slots_that_would_be_idle(home):
    gate = home.file("gate")
    create(home, 4, {"gate": gate}, cores=2, trials=4)
    wait_for("two on each slot", lambda: [len(trials) for trials in on_slots(home).values()] == [2, 2])
    open(gate, "w", encoding="utf-8").close()
    home.wait_end()
    assert len({row[0] for row in stays(home)}) == 2 and most_at_once(home) == 2


@test
def a_pack_gives_the_best_trial_and_the_curves_that_trials_have_alone(home):
    create(home, 4, trials=7, rounds=6, concurrent=7)
    create(home, 1, trials=7, rounds=6, concurrent=7)
    packed, alone = home.wait_end(1), home.wait_end(2)
    assert packed["best_trial_id"] == alone["best_trial_id"] == 7
    assert curves(home, 1) == curves(home, 2) and len(curves(home, 1)) == 42
    assert most_at_once(home) == 4


@test
def an_experiment_of_another_program_gets_no_share(home):
    gate = home.file("gate")
    create(home, 4, {"gate": gate}, trials=2)
    wait_for("both on the slot", lambda: on_slots(home)["cpu:0"] == [1, 2])
    create(home, 4, trials=2)
    open(gate, "w", encoding="utf-8").close()
    home.wait_end(1)
    home.wait_end(2)
    ends = [row[4] for row in stays(home)[:2]]
    assert all(row[3] >= max(ends) for row in stays(home)[2:]), stays(home)


@test
def a_pause_checkpoints_every_run_and_activate_goes_on(home):
    gate = home.file("gate")
    create(home, 3, {"gate": gate, "gate_round": 1}, trials=3)
    wait_for("a round of each", lambda: len(curves(home, 1)) == 3)
    home.flexp("pause", "1")
    wait_for("all to be checkpointed", lambda: reasons(home) == ["preempted"] * 3)
    home.flexp("activate", "1")
    open(gate, "w", encoding="utf-8").close()
    home.wait_end()
    assert reasons(home) == ["preempted"] * 3 + ["stopped"] * 3 and set(home.restarts().values()) == {0}
    assert [row[2] for row in stays(home)][3:] == [2, 2, 2]
    assert [line["unit"] for line in home.events() if "assigned" in line][3:] == [1, 1, 1]
    check_acknowledged(home)


@test
def a_better_priority_preempts_the_whole_pack(home):
    gate = home.file("gate")
    create(home, 3, {"gate": gate, "gate_round": 1}, trials=3)
    wait_for("a round of each", lambda: len(curves(home, 1)) == 3)
    create(home, 1, trials=1, rounds=2, resources={"priority": 10})
    home.wait_end(2)
    assert reasons(home)[:3] == ["preempted"] * 3
    open(gate, "w", encoding="utf-8").close()
    home.wait_end(1)
    assert set(home.restarts().values()) == {0} and len(curves(home, 1)) == 12
    assert home.sql("SELECT count(*) FROM v_runs WHERE experiment = 1") == [(6,)]


@test
def max_slots_counts_a_shared_slot_once(home):
    gate = home.file("gate")
    create(home, 2, {"gate": gate}, cores=3, trials=6, resources={"max_slots": 2})
    wait_for("two packs of two", lambda: [len(trials) for trials in on_slots(home).values()] == [2, 2, 0])
    open(gate, "w", encoding="utf-8").close()
    home.wait_end()


@test
def killing_one_trial_leaves_the_others_alone(home):
    gate = home.file("gate")
    create(home, 3, {"gate": gate, "gate_round": 1}, trials=4)
    wait_for("a round of each", lambda: len(curves(home, 1)) == 3)
    home.flexp("trial", "kill", "1/2")
    wait_for("the fourth in its place", lambda: on_slots(home)["cpu:0"] == [1, 3, 4])
    open(gate, "w", encoding="utf-8").close()
    done = home.wait_end()
    assert done["trials"]["canceled"] == 1 and done["trials"]["completed"] == 3, done["trials"]
    assert reasons(home, 2) == ["killed"] and [reasons(home, trial) for trial in (1, 3, 4)] == [["stopped"]] * 3
    assert len({row[0] for row in stays(home)}) == 1
    check_acknowledged(home)


@test
def a_killed_run_that_does_not_end_costs_the_others_a_run_and_no_restart(home):
    home.env["FLEXP_GRACE_MS"] = "500"
    gate = home.file("gate")
    create(home, 3, {"gate": gate, "gate_round": 1, "trials": {"2": {"deaf": True, "gate": home.file("never")}}}, trials=3)
    wait_for("a round of each", lambda: len(curves(home, 1)) == 3)
    home.flexp("trial", "kill", "1/2")
    wait_for("the worker's death", lambda: len(home.runs()) == 5)
    open(gate, "w", encoding="utf-8").close()
    home.wait_end()
    assert reasons(home, 2) == ["killed"]
    for trial in (1, 3):
        runs = home.runs(trial=trial)
        assert [run[1] for run in runs] == ["preempted", "stopped"] and "trial 1/2" in runs[0][2], runs
    assert set(home.restarts().values()) == {0}
    assert most_at_once(home) == 3 and on_slots(home)["cpu:0"] == []


@test
def killing_the_experiment_kills_the_worker_of_all(home):
    create(home, 3, {"gate": home.file("never"), "deaf": True}, trials=3)
    wait_for("all to run", lambda: len(on_slots(home)["cpu:0"]) == 3 and len(home.events(heard="assign")) == 3)
    pid = home.ask("status")["worker_pids"][0]
    home.flexp("kill", "1")
    wait_for("the worker to be gone", lambda: pid not in home.ask("status")["worker_pids"], 20)
    assert reasons(home) == ["killed"] * 3 and home.state() == "canceled"


def check_found_out(home, trial, reason, others, experiment=1):
    """Of a trial that died with others: that run says so, and a later one was started in time to end well."""
    got = reasons(home, trial, experiment)
    assert got[0] == reason and got[-1] in ("stopped", "preempted") and set(got[1:-1]) <= {"preempted"}, got
    assert len(got) <= 2 + others, got


@test
def a_worker_that_dies_takes_its_runs_along_and_who_is_guilty_shows_alone(home):
    create(home, 4, {"round_ms": 60, "trials": {"2": {"at": {"3": "signal:11"}}}}, trials=4, rounds=9, max_restarts=1)
    done = home.wait_end()
    assert done["trials"]["error"] == 1 and done["trials"]["completed"] == 3, done["trials"]
    assert home.restarts() == {1: 0, 2: 1, 3: 0, 4: 0}
    for trial in (1, 3, 4):
        check_found_out(home, trial, "signal", 3)
        text = home.runs(trial=trial)[0][2]
        assert "a worker of 4 runs" in text and "signal 11" in text, text
    assert reasons(home, 2) == ["signal"] * 3 and "runs:" not in home.runs(trial=2)[1][2]
    died = {line["run"]: line["time"] for line in home.events(act="signal:11")}
    runs = {(line["trial"], line["attempt"]): line["assigned"] for line in home.events() if "assigned" in line}
    spans = [(trial, attempt, begin, end or died[runs[2, attempt]] if trial == 2 else end)
             for _, trial, attempt, begin, end in stays(home) if attempt > 1]
    for one in spans:
        for other in spans:
            # a worker notes an end after it has said so: the next run may be there by then
            apart = one is other or one[3] <= other[2] + .03 or other[3] <= one[2] + .03
            assert apart or (one[0] != 2 and other[0] != 2 and one[1] > 2 and other[1] > 2), f"{one} beside {other}"
    later = [span for span in spans if span[1] > 2 and span[0] != 2]
    assert any(one[2] < other[3] and other[2] < one[3] for one in later for other in later if one is not other), spans
    check_acknowledged(home)


@test
def nonsense_and_silence_end_every_run_of_the_worker(home):
    home.env["FLEXP_SILENT_MS"] = "1500"
    for experiment, (action, reason) in enumerate((("garbled:{rubbish", "lost_protocol"), ("silent", "silent")), 1):
        create(home, 3, {"round_ms": 50, "trials": {"2": {"at": {"3": action}, "tries": 1}}}, trials=3, max_restarts=0)
        home.wait_end(experiment)
        for trial in (1, 2, 3):
            check_found_out(home, trial, reason, 2, experiment)
        assert set(home.restarts(experiment).values()) == {0}


@test
def a_worker_that_never_says_hello_fails_each_trial_alone(home):
    create(home, 3, trials=3, max_restarts=0, resources={"slot_type": "cpu"}, check=True)
    home.wait_end()  # so that the program was asked at create and is known to carry several
    path = home.config(script={"capabilities": PACK}, trials=3, max_restarts=0, resources={"trials_per_slot": 3})
    home.flexp("create", "--paused", path)
    with open(home.file(f"script-{home.files}.json"), "w", encoding="utf-8") as script:
        json.dump({"trace": home.trace, "hello": "rubbish"}, script)
    home.flexp("activate", "2")
    home.wait_end(2, "error")
    for trial in (1, 2, 3):
        assert reasons(home, trial, 2) == ["lost_protocol"] * 2, home.runs(2)


@test
def what_a_shared_worker_prints_and_uses_is_told_of_each_run(home):
    home.env["FLEXP_USAGE_MS"] = "200"
    gate = home.file("gate")
    create(home, 3, {"gate": gate, "gate_round": 1, "trials": {"3": {"at": {"1": "flood:5"}}}}, trials=3)
    wait_for("a round of each", lambda: len(curves(home, 1)) == 3)
    rows = wait_for("a sample of each", lambda: [
        run for run in home.ask("slots")["slots"][0]["runs"] if run["memory_bytes"]][2:] and home.ask("slots")["slots"][0]["runs"])
    with open(f"/proc/{home.ask('status')['worker_pids'][0]}/statm", encoding="utf-8") as file:
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    used = sum(run["memory_bytes"] for run in rows)
    assert 0.7 * resident < used < 1.3 * resident, (resident, rows)
    open(gate, "w", encoding="utf-8").close()
    home.wait_end()
    for trial in (1, 2, 3):
        assert "line 4 of a flood" in home.flexp("trial", "logs", f"1/{trial}").stdout


@test
def an_orchestrator_killed_with_packs_ends_as_one_that_was_not(home):
    gate = home.file("gate")
    create(home, 3, {"gate": gate, "gate_round": 3, "round_ms": 30}, cores=2, trials=8, rounds=6, concurrent=8)
    wait_for("three rounds of six", lambda: len(curves(home, 1)) == 18)
    assert [len(trials) for trials in on_slots(home).values()] == [3, 3]
    home.kill9()
    home.up()
    wait_for("all to go on", lambda: [len(trials) for trials in on_slots(home).values()] == [3, 3])
    home.kill9()
    open(gate, "w", encoding="utf-8").close()
    home.up()
    done = home.wait_end()
    assert set(home.restarts().values()) == {0}
    check_acknowledged(home)
    create(home, 1, trials=8, rounds=6, concurrent=8)
    assert done["best_trial_id"] == home.wait_end(2)["best_trial_id"] == 8
    assert curves(home, 1) == curves(home, 2)


@test
def who_is_to_run_alone_does_after_a_kill_of_the_orchestrator(home):
    gate = home.file("gate")
    home.env["FLEXP_BACKOFF_MS"] = "600000"  # none of them begins before the kill
    create(home, 3, {"gate": gate, "gate_round": 2, "trials": {"2": {"gate": None, "at": {"3": "signal:9"}, "tries": 1}}},
           trials=3, max_restarts=0)
    wait_for("all to have died", lambda: [reasons(home, trial) for trial in (1, 2, 3)] == 3 * [["signal"]])
    home.kill9()
    home.up()
    wait_for("one to run", lambda: on_slots(home)["cpu:0"])
    alone = on_slots(home)["cpu:0"]
    assert len(alone) == 1, alone
    home.kill9()  # before it could show anything
    home.up()
    wait_for("one to run", lambda: on_slots(home)["cpu:0"])
    assert on_slots(home)["cpu:0"] == alone, on_slots(home)
    open(gate, "w", encoding="utf-8").close()
    home.wait_end()
    assert set(home.restarts().values()) == {0}
    runs = [(begin, end) for _, _, attempt, begin, end in stays(home) if attempt == 2]
    assert all(begin >= end for (_, end), (begin, _) in zip(runs, runs[1:]) if end), runs


@test
def auto_is_what_the_plan_says_and_one_where_it_says_nothing(home):
    for experiment, (capabilities, plan, expected) in enumerate(((PACK, {"trials_per_slot": 3}, 3), (PACK, {}, 1),
                                                                 (["reuse", "plan"], {"trials_per_slot": 3}, 1),
                                                                 (["reuse", "pack"], {}, 1)), 1):
        path = home.config(script={"capabilities": capabilities, "plan": {"ok": True, "mem_bytes": 1, "pack_key": "", **plan}},
                           resources={"trials_per_slot": "auto"})
        assert json.loads(home.flexp("validate", "--json", path).stdout)["trials_per_slot"] == expected
        home.flexp("create", path)
        done = home.wait_end(experiment)
        assert done["config"]["resources"]["trials_per_slot"] == expected, done["config"]["resources"]
    resolved = {**done["config"], "resources": {"trials_per_slot": "auto"}}
    refused("bad_input", "wants a number", home.ask, "create", text="", resolved=resolved)


@test
def a_number_for_a_program_that_carries_one_run_is_refused(home):
    path = home.config(script={"capabilities": ["reuse", "plan"]}, resources={"trials_per_slot": 2})
    for verb in ("validate", "create"):
        done = home.flexp(verb, path, check=False)
        assert done.returncode == 2 and done.stderr.count("error:") == 1, done.stderr
        assert "resources.trials_per_slot must be 1, got 2" in done.stderr and '"pack"' in done.stderr, done.stderr
    done = home.flexp("validate", home.config(resources={"trials_per_slot": "auto", "slots_per_trial": 2}), check=False)
    assert done.returncode == 2 and "slots_per_trial is 2" in done.stderr, done.stderr


@test
def a_program_that_turns_out_to_carry_one_run_gets_one_a_slot_and_is_named_once(home):
    home.env["FLEXP_CORES"] = "2"
    path = home.config(script={"capabilities": PACK}, trials=6, concurrent=6, resources={"trials_per_slot": 3})
    home.flexp("create", "--paused", path)
    with open(home.file(f"script-{home.files}.json"), "w", encoding="utf-8") as script:
        json.dump({"trace": home.trace}, script)
    home.flexp("activate", "1")
    home.wait_end()
    assert reasons(home) == ["stopped"] * 6 and most_at_once(home) == 1
    assert home.log().count('lacks the capability "pack"') == 1, home.log()


# --- the built-in trainer

BUILT_IN = """
name: packed
reproducibility: {experiment_seed: 5}
hyperparameters: {lr: {type: log, base: 10, minval: -4, maxval: 0}, drop: {type: categorical, vals: [0, 0.2]}}
searcher: {name: adaptive_asha, metric: validation_accuracy, max_trials: 9, max_concurrent_trials: 6, order: logical,
           time_metric: rounds, max_time: 8, divisor: 2, max_rungs: 3}
data: {source: synthetic, synthetic: {samples: 600, test_samples: 100, classes: 4, channels: 1, size: 16}}
model: {layers: [{conv2d: {filters: 4, kernel: 3, padding: same, activation: relu}}, {max_pool2d: 2}, flatten,
                 {dropout: $drop}, {dense: {units: classes}}]}
training: {learning_rate: $lr, momentum: 0.9, batch_size: 10}
federation: {clients: 4, clients_per_round: 3, local_epochs: 8, partition: {scheme: dirichlet, alpha: 1.0}}
"""


@test
def the_built_in_trainer_packs_by_number_and_auto_is_one_on_cores(home):
    path = home.file("packed.yaml")
    with open(path, "w", encoding="utf-8") as file:
        file.write(BUILT_IN)
    for given, expected in (("auto", 1), (3, 3)):
        done = home.flexp("validate", "--json", path, "--config", f"resources.trials_per_slot={given}")
        assert json.loads(done.stdout)["trials_per_slot"] == expected, done.stdout
    for given, text in (("auto", ", 1 trial per slot (auto)\n"), (3, ", 3 trials per slot\n"), (1, " in all\n")):
        assert home.flexp("validate", path, "--config", f"resources.trials_per_slot={given}").stdout.endswith(text), given


@test
def a_real_search_gives_the_same_packed_or_not(home):
    home.env["FLEXP_CORES"] = "1"
    path = home.file("packed.yaml")
    with open(path, "w", encoding="utf-8") as file:
        file.write(BUILT_IN)
    ended = []
    for experiment, packed in ((1, 4), (2, 1)):
        home.flexp("create", path, "--config", f"resources.trials_per_slot={packed}")
        ended.append(home.wait_end(experiment))
    together = home.sql("SELECT max(n) FROM (SELECT count(*) AS n FROM runs a JOIN runs b ON a.experiment = b.experiment"
                        " AND b.started_us <= a.started_us AND a.started_us < b.ended_us WHERE a.experiment = 1 GROUP BY a.id)")
    assert together == [(4,)], together
    for key in ("best_trial_id", "best_validation_metrics", "test_metrics", "trials"):
        assert ended[0][key] == ended[1][key], (key, ended[0][key], ended[1][key])
    for view, columns in (("v_metrics", "trial, unit, name, value, status"),
                          ("v_client_metrics", "trial, unit, client, name, value, status")):
        rows = [home.sql(f"SELECT {columns} FROM {view} WHERE experiment = ? AND name NOT LIKE '%seconds%' ORDER BY {columns}",
                         experiment) for experiment in (1, 2)]
        assert rows[0] == rows[1] and len(rows[0]) > 500, (view, sorted(set(map(repr, rows[0])) ^ set(map(repr, rows[1])))[:4])
    for trial, in home.sql("SELECT DISTINCT trial FROM v_runs WHERE experiment = 1"):
        models = []
        for experiment in (1, 2):
            with open(os.path.join(home.path, f"experiments/{experiment}/trials/{trial}/model.safetensors"), "rb") as file:
                models.append(file.read())
        assert models[0] == models[1], trial


sys.exit(run_tests())
