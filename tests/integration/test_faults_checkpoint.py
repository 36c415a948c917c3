#!/usr/bin/env python3
"""Damaged checkpoints: cut, flipped, zeroed, gone. The built-in trainer says so, the trial goes on from the checkpoint
before or from its beginning, that costs no restart, and it ends with the very values of an undisturbed run.

Drives the real programs. Prints TAP. Arguments: names of tests, for these alone.
SPDX-License-Identifier: Apache-2.0
"""
import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from server_home import TOP, run_tests, test, wait_for  # noqa: E402

TRAINER = os.path.join(TOP, "build", "flexp-trainer")
CONFIG = """
name: damaged
max_restarts: 0
reproducibility: {experiment_seed: 5}
data: {source: synthetic, synthetic: {samples: 600, test_samples: 60, classes: 3, channels: 1, size: 12}}
hyperparameters: {lr: {type: log, base: 10, minval: -3, maxval: -1, count: %d}}
searcher: {name: grid, metric: validation_loss, time_metric: rounds, max_time: 64, max_concurrent_trials: %d}
model: {layers: [{conv2d: {filters: 8, kernel: 3, padding: same, activation: relu}}, {max_pool2d: 2}, flatten,
                 {dense: {units: classes}}]}
training: {learning_rate: $lr, momentum: 0.9, batch_size: 8}
federation: {clients: 4, local_epochs: 24, partition: {scheme: iid}}
"""

# Relays between the orchestrator and the trainer; when an evaluation is asked for, its checkpoint loses its last bytes.
PROXY = """#!/usr/bin/env python3
import json, os, socket, subprocess, sys, threading
up = socket.socket(fileno=int(os.environ["FLEXP_FD"]))
ours, theirs = socket.socketpair()
child = subprocess.Popen([%r], pass_fds=[theirs.fileno()], env=dict(os.environ, FLEXP_FD=str(theirs.fileno())))
theirs.close()
def back():
    while True:
        data = ours.recv(65536)
        if not data:
            os._exit(child.wait())
        up.sendall(data)
threading.Thread(target=back, daemon=True).start()
for line in up.makefile("rb"):
    message = json.loads(line)
    if message["op"] == "evaluate":
        os.truncate(message["checkpoint"], os.path.getsize(message["checkpoint"]) - 7)
    ours.sendall(line)
"""


def create(home, trials, *arguments):
    path = home.file("damaged.yaml")
    with open(path, "w", encoding="utf-8") as out:
        out.write(CONFIG % (trials, trials))
    return json.loads(home.flexp("create", "--json", path, *arguments).stdout)["id"]


def kept(home, experiment=1):
    """{trial: (unit, file) of its latest kept checkpoint}"""
    return {trial: (unit, os.path.join(home.path, path)) for trial, unit, path in home.sql(
        "SELECT trial, unit, path FROM v_checkpoints WHERE experiment = ? AND deleted IS NULL ORDER BY checkpoint",
        experiment)}


def curve(home, experiment):
    return home.sql("SELECT trial, name, unit, value FROM v_metrics WHERE experiment = ? ORDER BY trial, name, unit",
                    experiment)


def damage(path, how):
    with open(path, "rb") as file:
        raw = bytearray(file.read())
    if how == "gone":
        os.unlink(path)
        return
    if how == "cut":
        del raw[-100:]
    elif how == "flipped":
        raw[len(raw) * 3 // 4] ^= 16
    elif how == "zeroed":
        raw[:] = bytes(len(raw))
    with open(path, "wb") as file:
        file.write(raw)


@test
def trials_with_damaged_checkpoints_begin_again_and_end_as_if_nothing_had_happened(home):
    hows = ["cut", "flipped", "zeroed", "gone"]
    home.env["FLEXP_CORES"] = "4"
    home.up()
    create(home, 4)
    wait_for("a checkpoint of every trial", lambda: len(kept(home)) == 4)
    home.flexp("pause", "1")
    wait_for("every run to end", lambda: not home.describe()["running"])
    damaged = kept(home)
    states = home.sql("SELECT number, state FROM trials ORDER BY number")
    assert [state for _, state in states] == ["paused"] * 4, (states, home.sql("SELECT * FROM v_runs"))
    running = [trial for trial, _ in states]
    for trial in running:
        damage(damaged[trial][1], hows[trial - 1])
    home.flexp("activate", "1")
    home.wait_end()
    for trial in running:
        reasons = [reason for _, reason, _ in home.runs(trial=trial)]
        assert "bad_checkpoint" in reasons, (trial, reasons)
        texts = home.sql("SELECT text FROM v_logs WHERE trial = ? AND level = 'error'", trial)
        assert f"the checkpoint of {damaged[trial][0]:g} rounds cannot be used" in texts[0][0], texts
        assert damaged[trial][1] in texts[0][0], texts
        assert os.path.exists(damaged[trial][1]) == (hows[trial - 1] != "gone"), "the damaged file was taken away"
    assert set(home.restarts().values()) == {0}, home.restarts()
    assert "bad_checkpoint" in home.log()
    assert all(pid for (pid,) in home.sql("SELECT pid FROM runs")), home.sql("SELECT * FROM v_runs")
    second = create(home, 4)
    home.wait_end(second)
    assert curve(home, 1) == curve(home, second)
    one, two = home.describe(1), home.describe(second)
    for key in ("best_trial_id", "best_validation_metrics"):
        assert {**one, "id": 0}[key] == two[key], (one[key], two[key])
    assert one["test_metrics"]["test_accuracy"] == two["test_metrics"]["test_accuracy"]


@test
def after_kill_9_a_damaged_checkpoint_is_noticed_too(home):
    home.up("--slots", "1")
    create(home, 1)
    wait_for("a checkpoint", lambda: kept(home))
    home.kill9()
    path = kept(home)[1][1]
    damage(path, "cut")
    home.up("--slots", "1")
    home.wait_end()
    assert [reason for _, reason, _ in home.runs()][1] == "bad_checkpoint", home.runs()
    assert home.restarts() == {1: 0}


@test
def a_damaged_best_checkpoint_leaves_the_test_metrics_null_and_says_why(home):
    proxy = home.file("proxy.py")
    with open(proxy, "w", encoding="utf-8") as out:
        out.write(PROXY % TRAINER)
    os.chmod(proxy, 0o755)
    home.env["FLEXP_TRAINER"] = proxy
    create(home, 1)
    done = home.wait_end()
    assert done["test_metrics"] is None, done["test_metrics"]
    assert "could not be evaluated on the test split: bad_checkpoint" in done["reason"], done["reason"]
    assert done["best_checkpoint"] is None and done["best_trial_id"] == 1, done
    assert done["best_validation_metrics"]["validation_loss"] > 0, done
    text = home.flexp("describe", "1").stdout
    assert "bad_checkpoint" in text, text
    assert os.path.exists(os.path.join(home.path, "experiments/1/trials/1/model.safetensors"))


@test
def trial_test_of_a_damaged_checkpoint_names_it_and_records_nothing(home):
    create(home, 2)
    done = home.wait_end()
    other = 3 - done["best_trial_id"]  # the best one was evaluated, and that is recorded
    path = json.loads(home.flexp("trial", "describe", f"1/{other}", "--json").stdout)["best_checkpoint"]["path"]
    damage(path, "flipped")
    tested = home.flexp("trial", "test", f"1/{other}", check=False)
    assert tested.returncode == 3 and tested.stdout == "" and tested.stderr.count("\n") == 1, tested
    assert "bad_checkpoint" in tested.stderr and path in tested.stderr, tested.stderr
    assert home.sql("SELECT count(*) FROM test_results") == [(1,)]


sys.exit(run_tests())
