#!/usr/bin/env python3
"""flexp-trainer with several runs at once: each ends as it ends alone, whatever becomes of the others. Prints TAP.
SPDX-License-Identifier: Apache-2.0
"""
import copy
import os
import sys
import tempfile

from harness import SECTIONS, Worker, check, curve, resume_of, run, tensors, with_worker

LENGTH = 5


def varied(trial):
    """Sections that differ in what does not keep trials from training in one call; 5 and 6 in what does."""
    sections = copy.deepcopy(SECTIONS)
    sections["training"]["learning_rate"] = 0.02 * trial
    if trial == 2:
        sections["training"].update(momentum=0.0, weight_decay=0.001)
        sections["data"]["augment"] = {"random_crop": {"padding": 2}, "horizontal_flip": True}
    if trial == 3:
        sections["model"]["layers"][5] = {"dropout": 0.5}
        sections["federation"].update(local_epochs=2, clients_per_round=3)
    if trial == 4:
        sections["training"].update(optimizer="adam", learning_rate=0.003)
        sections["training"].pop("momentum")
        sections["federation"] = {"enabled": False}
    if trial == 5:
        sections["training"]["batch_size"] = 16
    if trial == 6:
        sections["data"]["synthetic"]["samples"] = 240
    return sections


class Runs:
    """Runs of one worker: every message goes to its run's list; a run is stopped once it has its last checkpoint."""

    def __init__(self, worker):
        self.worker, self.heard, self.left = worker, {}, set()

    def assign(self, number, trial, until=LENGTH, **more):
        self.heard[number] = []
        self.left.add(number)
        sections = more.pop("sections", None) or varied(trial)
        self.worker.assign(number, trial, until, max_units=LENGTH, sections=sections, **more)

    def take(self):
        """The next message."""
        message = self.worker.hear()
        number = message["run"]
        check(number in self.left, f"a word about a run that is over: {message}")
        self.heard[number].append(message)
        if message["op"] in ("done", "failed"):
            self.left.remove(number)
        elif message["op"] == "checkpoint" and message["units"]["rounds"] == LENGTH:
            self.worker.say(op="stop", run=number)
        return message

    def until(self, number, op, rounds=None):
        while True:
            message = self.take()
            if message["run"] == number and message["op"] == op and (not rounds or message["units"]["rounds"] == rounds):
                return message

    def to_the_end(self):
        while self.left:
            self.take()
        return self.heard


def alone(trial, **more):
    """What the trial says in a worker of its own, and its model."""
    with tempfile.TemporaryDirectory() as folder:
        worker = Worker(folder)
        try:
            runs = Runs(worker)
            runs.assign(1, trial, **more)
            heard = runs.to_the_end()[1]
            check(heard[-1]["op"] == "done", heard[-1])
            return curve(heard), tensors(os.path.join(folder, f"trial{trial}", "model.safetensors"))
        finally:
            worker.close()


def check_as_alone(worker, trial, heard, **more):
    values, model = alone(trial, **more)
    check(heard[-1]["op"] == "done" and heard[-1]["reason"] == "length", heard[-1])
    check(curve(heard) == values, f"trial {trial} has another curve than alone")
    check(tensors(os.path.join(worker.folder, f"trial{trial}", "model.safetensors")) == model,
          f"trial {trial} has other weights than alone")


@with_worker
def trials_held_at_once_end_as_they_end_alone(worker):
    runs = Runs(worker)
    for trial in range(1, 7):
        runs.assign(10 + trial, trial)
    heard = runs.to_the_end()
    for trial in range(1, 7):
        check_as_alone(worker, trial, heard[10 + trial])


@with_worker
def on_two_cores_as_well(worker):
    runs = Runs(worker)
    for trial in range(1, 5):
        runs.assign(10 + trial, trial, slots=["cpu:0", "cpu:1"])
    heard = runs.to_the_end()
    for trial in range(1, 5):
        check_as_alone(worker, trial, heard[10 + trial])


@with_worker
def a_run_that_fails_leaves_the_others_as_they_are(worker):
    runs = Runs(worker)
    diverging, wrong = varied(1), varied(1)
    diverging["training"]["learning_rate"] = 1000
    wrong["federation"]["clients"] = 5000
    runs.assign(1, 1)
    runs.assign(2, 2, sections=diverging)
    runs.assign(3, 3, sections=wrong)
    runs.assign(4, 4, resume={"path": "/nowhere", "units": {"rounds": 1}, "best": None})
    runs.assign(5, 5)
    heard = runs.to_the_end()
    check(heard[2][-1]["op"] == "failed" and heard[2][-1]["reason"] == "non_finite", heard[2][-1])
    check(heard[3][-1]["op"] == "failed" and heard[3][-1]["reason"] == "bad_configuration", heard[3][-1])
    check(heard[4][-1]["op"] == "failed" and heard[4][-1]["reason"] == "bad_checkpoint", heard[4][-1])
    check_as_alone(worker, 1, heard[1])
    check_as_alone(worker, 5, heard[5])


@with_worker
def a_run_that_waits_for_its_verdict_holds_nobody_up(worker):
    runs = Runs(worker)
    runs.assign(1, 1, until=2)
    runs.until(1, "checkpoint", 2)
    runs.assign(2, 2)
    runs.until(2, "done")
    check(1 in runs.left, "it still waits")
    worker.say(op="train_until", run=1, unit=LENGTH)
    heard = runs.to_the_end()
    check_as_alone(worker, 2, heard[2])
    values, model = alone(1)
    check([row for row in curve(heard[1]) if row[0] == "training"] == [row for row in values if row[0] == "training"],
          "it goes on as if it had not waited")
    check(tensors(os.path.join(worker.folder, "trial1", "model.safetensors")) == model, "with the same weights")


@with_worker
def a_freed_share_is_assigned_to_the_next_trial(worker):
    runs = Runs(worker)
    runs.assign(1, 1)
    runs.assign(2, 2, until=3)
    runs.until(2, "checkpoint", 3)
    worker.say(op="preempt", run=2)
    check(runs.until(2, "done")["reason"] == "preempted", "preempted alone")
    runs.assign(3, 3)
    runs.assign(4, 2, resume=resume_of(worker, runs.heard[2], 2))
    heard = runs.to_the_end()
    check_as_alone(worker, 1, heard[1])
    check_as_alone(worker, 3, heard[3])
    check_as_alone(worker, 2, heard[2][:-1] + heard[4])


@with_worker
def a_released_run_falls_silent_and_the_others_go_on(worker):
    runs = Runs(worker)
    forever = varied(1)
    forever["federation"]["local_epochs"] = 10000
    runs.assign(1, 1)
    runs.assign(2, 2, sections=forever)
    worker.say(op="release", run=2)
    runs.left.remove(2)
    runs.assign(3, 3)
    heard = runs.to_the_end()
    check_as_alone(worker, 1, heard[1])
    check_as_alone(worker, 3, heard[3])


@with_worker
def a_checkpoint_is_evaluated_beside_a_run_that_trains(worker):
    runs = Runs(worker)
    runs.assign(1, 1)
    saved = os.path.join(worker.folder, "trial1", runs.until(1, "checkpoint", LENGTH)["path"])
    runs.until(1, "done")
    runs.assign(2, 2)
    runs.assign(3, 1, op="evaluate", split="test", checkpoint=saved)
    heard = runs.to_the_end()
    check(heard[3][-1]["reason"] == "evaluated" and heard[3][0]["kind"] == "test", heard[3])
    check_as_alone(worker, 2, heard[2])


@with_worker
def runs_of_other_slots_are_not_taken_beside_those_held(worker):
    runs = Runs(worker)
    runs.assign(1, 1, until=1)
    runs.until(1, "checkpoint", 1)
    runs.assign(2, 2, slots=["cpu:1"])
    failed = runs.until(2, "failed")
    check(failed["reason"] == "error" and failed["text"] == "this worker holds runs on other slots", failed)
    worker.say(op="stop", run=1)
    runs.until(1, "done")
    runs.assign(3, 2, slots=["cpu:1"])
    check_as_alone(worker, 2, runs.to_the_end()[3])


def a_run_given_twice_ends_the_worker_with_its_reason():
    with tempfile.TemporaryDirectory() as folder:
        worker = Worker(folder)
        worker.assign(1, until=1)
        while worker.hear()["op"] != "checkpoint":
            pass
        worker.assign(1, until=1)
        check(worker.process.wait(30) == 1, "exit code")
        text = worker.process.stderr.read()
        check("the orchestrator gave run 1 twice" in text, text)
        worker.close()


@with_worker
def pack_keys_are_equal_where_trials_train_in_one_call(worker):
    keys = []
    for trial in range(1, 7):
        worker.say(op="plan", id=trial, hyperparameters={}, sections=varied(trial), slots=1, cache_dir=worker.folder,
                   data_seed=7)
        answer = worker.hear()
        check(answer["trials_per_slot"] == 1, answer)
        keys.append(answer["pack_key"])
    check(keys[0] and keys[:4] == 4 * keys[:1], keys)
    check(len(set(keys)) == 3, keys)


TESTS = [trials_held_at_once_end_as_they_end_alone, on_two_cores_as_well, a_run_that_fails_leaves_the_others_as_they_are,
         a_run_that_waits_for_its_verdict_holds_nobody_up, a_freed_share_is_assigned_to_the_next_trial,
         a_released_run_falls_silent_and_the_others_go_on, a_checkpoint_is_evaluated_beside_a_run_that_trains,
         runs_of_other_slots_are_not_taken_beside_those_held, a_run_given_twice_ends_the_worker_with_its_reason,
         pack_keys_are_equal_where_trials_train_in_one_call]

sys.exit(run(TESTS))
