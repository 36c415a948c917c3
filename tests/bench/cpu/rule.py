#!/usr/bin/env python3
"""What is behind the planner's rule (trainer/backend/cpu/choose.c): for shapes on both sides of its bounds, what each kernel
takes for a convolution with ReLU, forward and backward, by `flexp model --kernels`, and which the rule takes.

    tests/bench/cpu/rule.py [--core N] [--isa avx512,avx2] [--margin PERCENT]

A line for each shape; those where another kernel of our own is quicker than the rule's by more than the margin (10) say so, and are
counted at the end. Run it on a quiet core. SPDX-License-Identifier: Apache-2.0
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
FLEXP = os.environ.get("FLEXP_BIN", os.path.join(TOP, "build", "flexp"))
NET = """name: rule
searcher: {{name: single, metric: validation_loss, time_metric: rounds, max_time: 1}}
data: {{source: synthetic, synthetic: {{samples: 600, test_samples: 100, size: {size}, channels: 3}}}}
model:
  layers:
    - conv2d: {{filters: {channels}, kernel: 1}}
    - conv2d: {{filters: {filters}, kernel: {kernel}, stride: {stride}, padding: same, activation: relu}}
    - flatten
    - dense: {{units: classes}}
training: {{optimizer: sgd, learning_rate: 0.003, batch_size: {batch}, precision: {precision}}}
"""
SHAPES = [  # precision, kernel, stride, channels, filters, size, batch
    *(("fp32", 3, 1, *rest) for rest in ((4, 8, 32, 32), (4, 16, 32, 32), (6, 12, 32, 32), (8, 8, 32, 32), (8, 16, 16, 10),
                                         (8, 16, 8, 32), (8, 32, 32, 32), (12, 12, 16, 32), (16, 8, 32, 32),
                                         (16, 16, 8, 10), (4, 32, 32, 32), (15, 17, 32, 32))),
    *(("fp32", 3, 2, *rest) for rest in ((16, 16, 32, 32), (16, 32, 32, 32), (32, 32, 32, 32), (32, 64, 32, 32),
                                         (48, 48, 16, 32), (64, 64, 32, 1))),
    *(("fp32_strict", 3, 1, *rest) for rest in ((8, 16, 32, 32), (12, 12, 32, 32), (16, 16, 32, 32), (16, 32, 16, 32),
                                                (24, 24, 16, 32), (32, 32, 16, 32))),
    *(("fp32", 5, 1, *rest) for rest in ((4, 8, 32, 32), (6, 16, 14, 8), (6, 16, 14, 32), (8, 8, 32, 32), (8, 16, 16, 32),
                                         (16, 8, 32, 32), (8, 32, 16, 32), (16, 16, 16, 32), (16, 32, 16, 32),
                                         (20, 50, 12, 32), (32, 32, 8, 32), (32, 64, 14, 10), (64, 64, 12, 32),
                                         (64, 128, 8, 8), (4, 32, 16, 32), (4, 64, 16, 32), (6, 64, 32, 32), (7, 48, 16, 32),
                                         (12, 12, 16, 32), (12, 16, 16, 32), (24, 8, 16, 32))),
    *(("fp32", 5, 2, *rest) for rest in ((4, 32, 32, 32), (3, 64, 32, 32))),
    ("fp32", 7, 1, 4, 32, 16, 32), ("fp32", 7, 2, 4, 32, 32, 32),
]


def microseconds(path, core, isa, kernels):
    """Of the second convolution: the kernel that computes it and what it takes; None where that is not the one asked for."""
    env = dict(os.environ, FLEXP_ISA=isa, FLEXP_CPU_KERNELS=kernels)
    done = subprocess.run(["taskset", "-c", str(core), FLEXP, "model", path, "--kernels", "--json"], env=env, text=True,
                          capture_output=True, check=False)
    if done.returncode:
        sys.exit(done.stderr.strip())
    rows = [row for row in json.loads(done.stdout)["rows"] if 1 <= row["first"] <= 2]
    if kernels and rows[0]["kernel"] != kernels:
        return None
    return rows[0]["kernel"], sum(row["forward_us"] + row["backward_us"] for row in rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--isa", default="avx512,avx2")
    parser.add_argument("--margin", type=float, default=10)
    options = parser.parse_args()
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "net.yaml")
        for isa in options.isa.split(","):
            for precision, kernel, stride, channels, filters, size, batch in SHAPES:
                with open(path, "w", encoding="utf-8") as out:
                    out.write(NET.format(precision=precision, kernel=kernel, stride=stride, channels=channels,
                                         filters=filters, size=size, batch=batch))
                winograd = "winograd_f2" if precision == "fp32_strict" else "winograd_f2_5x5" if kernel == 5 else "winograd_f4"
                found = [microseconds(path, options.core, isa, k) for k in ("direct", "batched", winograd, "onednn")]
                taken = dict(f for f in found if f)
                rule, _ = microseconds(path, options.core, isa, "")
                own = min((us, k) for k, us in taken.items() if k != "onednn")
                slow = taken[rule] > own[0] * (1 + options.margin / 100)
                missed += slow
                print(f"{isa:8} {precision:11} {kernel}x{kernel}/{stride} {channels:3} -> {filters:3} {size:2}x{size:<2} {batch:2}  "
                      f"{rule:11} {'  '.join(f'{k} {us:.0f}' for k, us in taken.items())}"
                      f"{f'  MISS: {own[1]}' if slow else ''}", flush=True)
    print(f"{missed} of the rule's choices are slower than another of our kernels by more than {options.margin:g}%")


if __name__ == "__main__":
    main()
