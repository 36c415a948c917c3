#!/usr/bin/env python3
"""The backend's C tests again, for every instruction set that this processor has (FLEXP_ISA) and for oneDNN and single
kernels of our own (FLEXP_CPU_KERNELS); what else these variables hold is refused in one line. Prints TAP.
SPDX-License-Identifier: Apache-2.0
"""
import os
import subprocess
import sys

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
PROGRAMS = os.path.join(TOP, "build", os.environ.get("FLEXP_VARIANT", "release"), "tests", "trainer", "backend")
SETTINGS = [{"FLEXP_ISA": "avx2"}, {"FLEXP_ISA": "portable"}, {"FLEXP_CPU_KERNELS": "onednn"}, {"FLEXP_CPU_KERNELS": "onednn", "FLEXP_ISA": "avx2"}, {"FLEXP_CPU_KERNELS": "direct"},
            {"FLEXP_CPU_KERNELS": "winograd_f2"}, {"FLEXP_CPU_KERNELS": "winograd_f2_5x5"}]
TESTS = ["test_gradients", "test_open", "test_train", "test_teams"]


def run(name, setting):
    return subprocess.run([os.path.join(PROGRAMS, name)], env=dict(os.environ, CMOCKA_MESSAGE_OUTPUT="TAP", **setting),
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600)


def has(isa):
    if isa != "avx2":
        return True
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        return " avx2 " in file.read()


def main():
    rows = [(setting, name) for setting in SETTINGS for name in TESTS]
    failed = 0
    print(f"1..{len(rows) + 2}")
    for number, (setting, name) in enumerate(rows, 1):
        label = "_".join(f"{value}" for value in setting.values()) + f"_passes_{name}"
        if not has(setting.get("FLEXP_ISA")):
            print(f"ok {number} - {label} # SKIP this processor has no AVX2")
            continue
        done = run(name, setting)
        if done.returncode:
            failed += 1
            print("\n".join("# " + line for line in done.stdout.splitlines() if not line.startswith("ok")))
        print(f"{'not ok' if done.returncode else 'ok'} {number} - {label}", flush=True)
    for number, (key, text) in enumerate([("FLEXP_ISA", "must be avx512, avx2 or portable"),
                                          ("FLEXP_CPU_KERNELS", "must be onednn, winograd_f4")], len(rows) + 1):
        done = run("test_train", {key: "mmx"})
        bad = not done.returncode or text not in done.stdout
        failed += bad
        if bad:
            print("# " + done.stdout[:500].replace("\n", "\n# "))
        print(f"{'not ok' if bad else 'ok'} {number} - {key}_that_is_wrong_is_refused_with_what_would_be_right", flush=True)
    return 1 if failed else 0


sys.exit(main())
