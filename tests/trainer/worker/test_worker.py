#!/usr/bin/env python3
"""flexp-trainer held against docs/protocol.md. Prints TAP.
SPDX-License-Identifier: Apache-2.0
"""
import json
import math
import os
import struct
import subprocess
import sys
import tempfile

from harness import HAS_GPU, SECTIONS, TRAINER, Worker, check, curve, resume_of, run, tensors, with_worker


@with_worker
def says_hello_with_its_capabilities(worker):
    check(worker.hello["op"] == "hello" and worker.hello["version"] == 1, worker.hello)
    check(worker.hello["pid"] == worker.process.pid, "pid")
    check(set(worker.hello["capabilities"]) == {"reuse", "plan", "evaluate", "pack"}, worker.hello)


@with_worker
def reports_before_its_checkpoint_and_waits_at_the_unit(worker):
    worker.assign(1, until=2)
    heard = worker.hear_until("checkpoint")
    while heard[-1].get("units", {}).get("rounds") != 2 or heard[-1]["op"] != "checkpoint":
        heard.append(worker.hear())
    order = [(m["op"], m.get("kind"), m["units"]["rounds"]) for m in heard if m["units"]["rounds"] == 2]
    check(order == [("report", "training", 2), ("report", "validation", 2), ("checkpoint", None, 2)], order)
    check([m["seq"] for m in heard] == list(range(1, len(heard) + 1)), "seq without gaps")
    worker.say(op="train_until", run=1, unit=3)
    heard = worker.hear_until("checkpoint")
    check(heard[0]["units"]["rounds"] == 3, heard[0])
    worker.say(op="stop", run=1)
    done = worker.hear_until("done")[-1]
    check(done["reason"] == "stopped" and done["units"]["rounds"] == 3, done)


@with_worker
def takes_trial_after_trial_and_repeats_bit_for_bit(worker):
    first = worker.train_to_the_end(1)
    other = worker.train_to_the_end(2, trial=2)
    again = worker.train_to_the_end(3)
    check(first[-1]["reason"] == "length", first[-1])
    check(curve(first) == curve(again), "the same trial gave another curve")
    check(curve(first) != curve(other), "another trial gave the same curve")


@with_worker
def a_resumed_trial_goes_on_as_if_it_had_never_stopped(worker):
    whole = worker.train_to_the_end(1)
    reference = tensors(os.path.join(worker.folder, "trial1", "model.safetensors"))
    worker.assign(2, trial=1, until=3)
    part = worker.hear_until("checkpoint")
    while part[-1]["op"] != "checkpoint" or part[-1]["units"]["rounds"] < 3:
        part.append(worker.hear())
    worker.say(op="preempt", run=2)
    check(worker.hear_until("done")[-1]["reason"] == "preempted", "preempted")
    rest = worker.train_to_the_end(3, trial=1, resume=resume_of(worker, part))
    check(curve(part) + curve(rest) == curve(whole), "curve of the two parts")
    check(tensors(os.path.join(worker.folder, "trial1", "model.safetensors")) == reference, "weights of the best")


@with_worker
def a_run_resumed_at_its_unit_reports_the_value_again(worker):
    heard = worker.train_to_the_end(1, until=6)
    last = [m for m in heard if m["op"] == "checkpoint"][-1]
    value = [m for m in heard if m["op"] == "report" and m["kind"] == "validation"][-1]["metrics"]
    worker.assign(2, until=6, resume={"path": os.path.join(worker.folder, "trial1", last["path"]), "units": last["units"]})
    report = worker.hear()
    check(report["op"] == "report" and report["kind"] == "validation", report)
    check(report["metrics"]["validation_accuracy"] == value["validation_accuracy"], report)
    worker.say(op="stop", run=2)
    check(worker.hear_until("done")[-1]["reason"] == "length", "length")


@with_worker
def leaves_result_and_model_of_the_best_validation(worker):
    heard = worker.train_to_the_end(1)
    best = max((m["metrics"]["validation_accuracy"], -m["units"]["rounds"]) for m in heard
               if m["op"] == "report" and m["kind"] == "validation")
    with open(os.path.join(worker.folder, "trial1", "result.json"), encoding="utf-8") as file:
        result = json.load(file)
    check(result["accuracy"] == best[0] and result["units"]["rounds"] == -best[1], result["units"])
    check(result["split"] == "validation" and result["num_classes"] == 3, result["split"])
    for key in ("loss", "avg_f1", "avg_precision", "avg_recall", "confusion", "model"):
        check(key in result, key)
    check(sum(map(sum, result["confusion"])) == len(result["prediction_scores"]) == result["num_samples"], "counts")
    check(all(abs(sum(scores) - 1) < 1e-4 for scores in result["prediction_scores"]), "scores add up to 1")
    hits = sum(scores.index(max(scores)) == label for scores, label in zip(result["prediction_scores"], result["labels"]))
    check(abs(hits / result["num_samples"] - result["accuracy"]) < 0.02, "scores and accuracy belong together")
    check(len(tensors(os.path.join(worker.folder, "trial1", "model.safetensors"))) >= 8, "tensors")


@with_worker
def evaluates_a_checkpoint_on_the_test_split(worker):
    heard = worker.train_to_the_end(1)
    last = [m for m in heard if m["op"] == "checkpoint"][-1]
    worker.assign(2, op="evaluate", split="test", checkpoint=os.path.join(worker.folder, "trial1", last["path"]))
    heard = worker.hear_until("done", "failed")
    check([m["op"] for m in heard] == ["report", "done"], heard)
    check(heard[0]["kind"] == "test" and 0 <= heard[0]["metrics"]["test_accuracy"] <= 1, heard[0])
    check(heard[1]["reason"] == "evaluated", heard[1])


@with_worker
def diverged_training_fails_with_its_reason(worker):
    sections = dict(SECTIONS, training={"learning_rate": 999.0, "batch_size": 8},
                    model={"layers": ["flatten", {"dense": {"units": 32}}, {"dense": {"units": 32}}, {"dense": "classes"}]})
    heard = worker.train_to_the_end(1, sections=sections)
    check(heard[-1]["op"] == "failed" and heard[-1]["reason"] == "non_finite", heard[-1])
    check("diverged" in heard[-1]["text"], heard[-1])


@with_worker
def a_wrong_configuration_fails_with_its_key_path(worker):
    sections = dict(SECTIONS, model={"layers": [{"conv2d": {"filters": 4, "kernel": 50}}, "flatten", {"dense": "classes"}]})
    worker.assign(1, sections=sections)
    failed = worker.hear_until("failed")[-1]
    check(failed["reason"] == "bad_configuration" and "model.layers[0]" in failed["text"], failed)
    check(worker.train_to_the_end(2)[-1]["op"] == "done", "the next run goes on")


@with_worker
def plan_answers_yes_or_key_paths(worker):
    worker.say(op="plan", id=5, hyperparameters={}, sections=SECTIONS, slots=1, cache_dir=worker.folder, data_seed=7)
    answer = worker.hear()
    check(answer["ok"] and answer["id"] == 5 and answer["mem_bytes"] > 0 and answer["pack_key"], answer)
    wrong = dict(SECTIONS, training={"learning_rate": -1, "batch_size": "many"})
    worker.say(op="plan", id=6, hyperparameters={}, sections=wrong, slots=1, cache_dir=worker.folder, data_seed=7)
    answer = worker.hear()
    paths = [error["path"] for error in answer["errors"]]
    check(not answer["ok"] and set(paths) == {"training.learning_rate", "training.batch_size"}, answer)


@with_worker
def precisions_of_a_gpu_are_refused_without_one(worker):
    if HAS_GPU:
        return
    for precision, refused in (("fp32_strict", False), ("tf32", True), ("bf16", True)):
        sections = dict(SECTIONS, training=dict(SECTIONS["training"], precision=precision))
        worker.say(op="plan", id=5, hyperparameters={}, sections=sections, slots=1, cache_dir=worker.folder, data_seed=7)
        answer = worker.hear()
        check(answer["ok"] != refused, answer)
        if refused:
            error = answer["errors"][0]
            check(error["path"] == "training.precision" and error["text"].startswith(f"{precision} needs a GPU: "), answer)


@with_worker
def a_run_on_a_gpu_that_is_not_there_fails_with_the_reason(worker):
    if HAS_GPU:
        return
    worker.assign(1, slots=["cuda:0"])
    failed = worker.hear_until("failed")[-1]
    check(failed["reason"] == "error" and ("CUDA" in failed["text"] or "GPU" in failed["text"] or "NVIDIA" in failed["text"]),
          failed)
    check(worker.train_to_the_end(2)[-1]["op"] == "done", "the next run, on a core, goes on")


@with_worker
def a_released_run_falls_silent_at_once(worker):
    sections = dict(SECTIONS, federation={"clients": 1, "local_epochs": 10000})
    worker.assign(1, until=6, sections=sections)
    worker.say(op="release", run=1)
    heard = worker.train_to_the_end(2)
    check(all(m["run"] == 2 for m in heard), "a word about a released run")


@with_worker
def converges_by_its_own_rule(worker):
    federation = dict(SECTIONS["federation"], convergence={"metric": "train_loss", "min_delta": 100.0, "patience": 2})
    heard = worker.train_to_the_end(1, sections=dict(SECTIONS, federation=federation))
    check(heard[-1]["reason"] == "converged" and heard[-1]["units"]["rounds"] == 3, heard[-1])
    check([m["op"] for m in heard[-3:]] == ["report", "checkpoint", "done"], "validation and checkpoint come before done")


@with_worker
def a_run_that_resumes_where_its_trial_converged_ends_there(worker):
    federation = dict(SECTIONS["federation"], convergence={"metric": "train_loss", "min_delta": 100.0, "patience": 2})
    sections = dict(SECTIONS, federation=federation)
    last = [m for m in worker.train_to_the_end(1, sections=sections) if m["op"] == "checkpoint"][-1]
    worker.assign(2, until=6, sections=sections, resume={
        "path": os.path.join(worker.folder, "trial1", last["path"]), "units": last["units"]})
    heard = worker.hear_until("done", "failed")
    check([m["op"] for m in heard] == ["report", "done"] and heard[0]["kind"] == "validation", heard)
    check(heard[-1]["reason"] == "converged" and heard[-1]["units"]["rounds"] == 3, heard[-1])


@with_worker
def centralised_training_keeps_its_momentum_over_a_restart(worker):
    sections = {key: value for key, value in SECTIONS.items() if key != "federation"}
    whole = worker.train_to_the_end(1, sections=sections)
    checkpoint = [m for m in whole if m["op"] == "checkpoint" and m["units"]["rounds"] <= 5][0]
    rest = worker.train_to_the_end(2, sections=sections, resume={
        "path": os.path.join(worker.folder, "trial1", checkpoint["path"]), "units": checkpoint["units"]})
    check(curve(whole)[-len(curve(rest)):] == curve(rest), "the rest of the curve")


def damages(raw):
    """(what was done, the file then); None: no file."""
    head = 8 + struct.unpack("<Q", raw[:8])[0]
    yield "gone", None
    yield "empty", b""
    yield "cut in its length", raw[:5]
    yield "cut in its header", raw[:100]
    yield "cut in its data", raw[:-5]
    yield "zeros", bytes(len(raw))
    yield "zeros from the middle on", raw[:len(raw) // 2] + bytes(len(raw) - len(raw) // 2)
    yield "longer", raw + b"x"
    for at in range(3, len(raw), len(raw) // 40):
        yield f"bit {at % 8} of byte {at} (the header has {head})", \
            raw[:at] + bytes([raw[at] ^ 1 << at % 8]) + raw[at + 1:]


@with_worker
def a_damaged_checkpoint_is_named_and_not_trained_on(worker):
    resume = resume_of(worker, worker.train_to_the_end(1))
    path = resume["path"]
    with open(path, "rb") as file:
        raw = file.read()
    checksum = json.loads(raw[8:8 + struct.unpack("<Q", raw[:8])[0]])["__metadata__"]["checksum"]
    check(len(checksum) == 32, checksum)
    for run, (what, bad) in enumerate(damages(raw), 2):
        os.path.exists(path) and os.unlink(path)
        if bad is not None:
            with open(path, "wb") as file:
                file.write(bad)
        worker.assign(run, resume=resume)
        heard = worker.hear()
        check(heard["op"] == "failed" and heard["reason"] == "bad_checkpoint", f"{what}: {heard}")
        check(heard["path"] == path and path in heard["text"], f"{what}: {heard}")
        worker.assign(run, op="evaluate", split="test", checkpoint=path)
        heard = worker.hear()
        check(heard["op"] == "failed" and heard["reason"] == "bad_checkpoint" and heard["path"] == path, f"{what}: {heard}")


@with_worker
def a_damaged_best_checkpoint_is_named_before_anything_is_trained(worker):
    heard = worker.train_to_the_end(1)
    resume = resume_of(worker, heard)
    other = [m for m in heard if m["op"] == "checkpoint"][0]
    path = os.path.join(worker.folder, "trial1", other["path"])
    check(path != resume["path"], "two checkpoints")
    resume["best"] = {"path": path, "unit": other["units"]["rounds"], "value": 0.5}
    os.truncate(path, os.path.getsize(path) - 1)
    worker.assign(2, resume=resume)
    failed = worker.hear()
    check(failed["op"] == "failed" and failed["reason"] == "bad_checkpoint" and failed["path"] == path, failed)


@with_worker
def train_metrics_are_finite_numbers_between_their_bounds(worker):
    for kind, _, metrics, clients in curve(worker.train_to_the_end(1)):
        check(all(math.isfinite(value) for value in metrics.values()), metrics)
        check(len(clients) <= 2, clients)
        if kind == "validation":
            names = {name for name in metrics if name.startswith("client_validation_")}
            check({"client_validation_accuracy", "client_validation_accuracy_mean", "client_validation_accuracy_worst",
                   "client_validation_loss_worst"} <= names, names)
            check(metrics["client_validation_accuracy_worst"] <= metrics["client_validation_accuracy_mean"], metrics)


def leaves_when_the_socket_ends():
    with tempfile.TemporaryDirectory() as folder:
        worker = Worker(folder)
        worker.assign(1, until=6)
        check(worker.close() == 0, "exit code")


def a_line_that_is_no_message_ends_the_worker_with_its_reason():
    with tempfile.TemporaryDirectory() as folder:
        worker = Worker(folder)
        worker.socket.sendall(b'{"op":"dance"}\n')
        check(worker.process.wait(30) == 1, "exit code")
        text = worker.process.stderr.read()
        check('unknown operation "dance"' in text, text)
        worker.close()


def without_an_orchestrator_it_says_what_it_is():
    env = {key: value for key, value in os.environ.items() if key != "FLEXP_FD"}
    done = subprocess.run([TRAINER], env=env, capture_output=True, text=True, check=False)
    check(done.returncode == 2 and "started by flexp" in done.stderr, done)


def plan_without_a_file_speaks_of_this_program():
    for more in ([], ["--json"]):
        done = subprocess.run([TRAINER, "plan", *more], capture_output=True, text=True, check=False)
        check((done.returncode, done.stdout, done.stderr) ==
              (2, "", "flexp-trainer: plan wants FILE: flexp-trainer plan FILE\n"), done)


def the_selftest_says_which_value_is_wrong():
    for arguments, text in ((["--backend", "cuad"], '--backend: must be cuda, got "cuad"'),
                            (["--backend"], "--backend: must be cuda, got nothing"),
                            (["--backend", "cuda", "--rounds", "9x"],
                             '--rounds: must be a whole number from 4 to 1000000, got "9x"'),
                            (["--precision", "fp16"], '--precision: must be fp32, fp32_strict, tf32 or bf16, got "fp16"')):
        done = subprocess.run([TRAINER, "selftest", *arguments], capture_output=True, text=True, check=False)
        check((done.returncode, done.stdout, done.stderr) == (2, "", f"flexp-trainer selftest: {text}\n"), done)


def a_wrong_word_in_its_environment_is_told_to_whoever_asks():
    text = "FLEXP_ISA=mmx: must be avx512, avx2 or portable"
    with tempfile.TemporaryDirectory() as folder:
        worker = Worker(folder, FLEXP_ISA="mmx")
        check("isa" not in worker.hello and worker.hello["capabilities"], worker.hello)
        worker.say(op="plan", id=5, hyperparameters={}, sections=SECTIONS, slots=1)
        check(worker.hear() == {"op": "plan", "id": 5, "ok": False, "text": text}, "plan")
        worker.assign(1)
        failed = worker.hear_until("failed")[-1]
        check(failed["reason"] == "bad_configuration" and failed["text"] == text, failed)
        worker.close()


TESTS = [says_hello_with_its_capabilities, reports_before_its_checkpoint_and_waits_at_the_unit,
         takes_trial_after_trial_and_repeats_bit_for_bit, a_resumed_trial_goes_on_as_if_it_had_never_stopped,
         a_run_resumed_at_its_unit_reports_the_value_again, leaves_result_and_model_of_the_best_validation,
         evaluates_a_checkpoint_on_the_test_split, diverged_training_fails_with_its_reason,
         a_wrong_configuration_fails_with_its_key_path, plan_answers_yes_or_key_paths,
         precisions_of_a_gpu_are_refused_without_one,
         a_run_on_a_gpu_that_is_not_there_fails_with_the_reason, a_released_run_falls_silent_at_once,
         converges_by_its_own_rule,
         a_run_that_resumes_where_its_trial_converged_ends_there, centralised_training_keeps_its_momentum_over_a_restart, a_damaged_checkpoint_is_named_and_not_trained_on,
         a_damaged_best_checkpoint_is_named_before_anything_is_trained,
         train_metrics_are_finite_numbers_between_their_bounds, leaves_when_the_socket_ends,
         a_line_that_is_no_message_ends_the_worker_with_its_reason, without_an_orchestrator_it_says_what_it_is,
         plan_without_a_file_speaks_of_this_program, the_selftest_says_which_value_is_wrong,
         a_wrong_word_in_its_environment_is_told_to_whoever_asks]

sys.exit(run(TESTS))
