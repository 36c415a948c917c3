#!/usr/bin/env python3
"""GPUs as slots, on a machine whose NVML and whose trainer's self-check are made up: listed, leased by UUID, shown to workers.

Prints TAP. SPDX-License-Identifier: Apache-2.0
"""
import json
import os
import shutil
import subprocess
import sys

from server_home import Home, Skip, TOP, run_tests, test, wait_for

FIRST, SECOND = "GPU-00000001-0000-1111-2222-333344445555", "GPU-00000002-0000-1111-2222-333344445555"


def fake(home, code=0, second=None):
    """An NVML with two GPUs, and a trainer whose self-check ends with this code; on the second GPU with that one."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if not compiler:
        raise Skip("there is no C compiler")
    library, trainer = home.file("libnvml.so"), home.file("trainer.sh")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, os.path.join(TOP, "tests", "integration", "nvml_fake.c")],
                   check=True)
    with open(trainer, "w", encoding="utf-8") as out:
        out.write("#!/bin/sh\n"
                  f"case $CUDA_VISIBLE_DEVICES in {FIRST}) code={code} ;; {SECOND}) code={code if second is None else second} ;;"
                  " *) code=9 ;; esac\n"
                  "[ $code = 0 ] || echo flexp-trainer selftest: the fake is broken\nexit $code\n")
    os.chmod(trainer, 0o755)
    home.env.update(FLEXP_NVML=library, FLEXP_TRAINER=trainer, FLEXP_TEST_GPU_PID=home.file("gpu-pid"))


def slots(home):
    return json.loads(home.flexp("slots", "--json").stdout)


def create_on_gpus(home, **arguments):
    path = home.config(**arguments)
    text = open(path, encoding="utf-8").read()
    with open(path, "w", encoding="utf-8") as out:
        out.write(text + "resources: {slot_type: cuda}\n" if "resources:" not in text else
                  text.replace("resources: {", "resources: {slot_type: cuda, "))
    home.flexp("create", path)


def gpus_seen(home):
    """What CUDA_VISIBLE_DEVICES is in the home's processes that have it."""
    seen = set()
    for pid in home.processes():
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                entries = file.read().split(b"\0")
        except OSError:
            continue
        seen |= {entry.decode() for entry in entries if entry.startswith(b"CUDA_VISIBLE_DEVICES=")}
    return seen


@test
def gpus_are_listed_with_what_uses_them(home):
    fake(home)
    with open(home.env["FLEXP_TEST_GPU_PID"], "w", encoding="utf-8") as out:
        out.write("4711")
    home.flexp("up")
    answer = slots(home)
    assert [row["name"] for row in answer["slots"]] == ["cpu:0", "cpu:1", "cuda:0", "cuda:1"], answer
    assert answer["capacity"] == 4
    gpu = answer["gpus"][1]
    assert (gpu["uuid"], gpu["memory_bytes"], gpu["memory_used_bytes"]) == (SECOND, 24 << 30, 3 << 30), gpu
    assert gpu["used_by"] == [{"pid": 4711, "memory_bytes": 1 << 30}], gpu
    text = home.flexp("slots").stdout
    assert "3.0 of 24.0 GiB used" in text and "pid 4711 (1.0 GiB)" in text and FIRST in text, text


@test
def only_visible_gpus_count(home):
    for visible, wanted in (("1", ["cuda:1"]), (FIRST[:12], ["cuda:0"]), ("1,0", ["cuda:0", "cuda:1"]), ("", []), ("x,0", [])):
        fake(home)
        home.env["CUDA_VISIBLE_DEVICES"] = visible
        home.flexp("up")
        names = [row["name"] for row in slots(home)["slots"] if row["kind"] == "cuda"]
        assert names == wanted, (visible, names)
        home.flexp("down")


@test
def a_gpu_whose_self_check_fails_is_no_slot(home):
    fake(home, code=3)
    home.flexp("up")
    assert [row["kind"] for row in slots(home)["slots"]] == ["cpu", "cpu"]
    home.flexp("down")
    done = home.flexp("up", "--slots", "gpu", check=False)
    assert done.returncode and "no GPU can be used (it is no slot: flexp-trainer selftest: the fake is broken)" in done.stderr + done.stdout, done


@test
def a_gpu_whose_memory_others_hold_is_a_slot(home):
    fake(home, code=4)
    said = home.flexp("up").stdout
    assert [row["kind"] for row in slots(home)["slots"]] == ["cpu", "cpu", "cuda", "cuda"]
    text = "other processes hold all its memory: trials wait until they go"
    for index in (0, 1):
        assert f"cuda:{index}: {text}" in said and f"cuda:{index}: {text}" in home.log(), (said, home.log())
        assert f"At the start, of cuda:{index}: {text}" in home.flexp("slots").stdout


@test
def each_gpu_is_checked_alone(home):
    for first, second, wanted in ((0, 3, ["cuda:0"]), (3, 0, ["cuda:1"]), (4, 3, ["cuda:0"]), (3, 4, ["cuda:1"])):
        fake(home, code=first, second=second)
        said = home.flexp("up").stdout
        answer = slots(home)
        assert [row["name"] for row in answer["slots"] if row["kind"] == "cuda"] == wanted, (first, second, answer)
        verdicts = {0: "passed", 3: "failed", 4: "full"}
        assert [row["self_check"] for row in answer["gpus"]] == [verdicts[first], verdicts[second]], answer["gpus"]
        broken = 0 if first == 3 else 1
        assert f"cuda:{broken}: it is no slot: flexp-trainer selftest: the fake is broken\n" in said, said
        home.flexp("down")


@test
def a_worker_sees_its_gpu_alone_and_holds_its_lease(home):
    fake(home)
    home.flexp("up")
    gate = home.file("gate")
    create_on_gpus(home, script={"gate": gate}, trials=2)
    rows = wait_for("two busy GPUs", lambda: [row for row in slots(home)["slots"] if row["kind"] == "cuda" and
                                              row["state"] == "busy"][1:] and slots(home)["slots"])
    seen = gpus_seen(home)
    assert seen == {f"CUDA_VISIBLE_DEVICES={FIRST}", f"CUDA_VISIBLE_DEVICES={SECOND}"}, seen
    assert {FIRST, SECOND} <= set(os.listdir(home.leases)), os.listdir(home.leases)
    assert all(row["state"] != "busy" for row in rows if row["kind"] == "cpu"), rows
    with Home(cores=1, leases=home.leases) as other:
        fake(other)
        other.flexp("up")
        create_on_gpus(other, trials=1)
        taken = wait_for("the other home to see who has them", lambda: [
            row for row in slots(other)["slots"] if row["kind"] == "cuda" and home.path in row["holder"]][1:])
        assert taken
        open(gate, "w", encoding="utf-8").close()
        home.wait_end()
        other.wait_end()


@test
def a_trial_on_two_gpus_has_both_or_none(home):
    fake(home)
    home.flexp("up")
    path = home.config(trials=1, resources={"slots_per_trial": 3, "slot_type": "cuda"})
    done = home.flexp("create", path, check=False)
    assert done.returncode and "a trial wants 3 slots, but this orchestrator has 2 cuda slots" in done.stderr, done
    gate = home.file("gate")
    create_on_gpus(home, script={"gate": gate}, trials=1, resources={"slots_per_trial": 2})
    wait_for("two busy GPUs", lambda: [row for row in slots(home)["slots"] if row["kind"] == "cuda" and
                                       row["state"] == "busy"][1:])
    assert gpus_seen(home) == {f"CUDA_VISIBLE_DEVICES={FIRST},{SECOND}"}, gpus_seen(home)
    open(gate, "w", encoding="utf-8").close()
    home.wait_end()


if __name__ == "__main__":
    sys.exit(run_tests())
