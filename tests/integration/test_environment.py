#!/usr/bin/env python3
"""What the environment says to the trainer: FLEXP_ISA, FLEXP_CPU_KERNELS and FLEXP_CUDA_..., right and wrong, from the command to the store.

Prints TAP. SPDX-License-Identifier: Apache-2.0
"""
import sqlite3
import sys

from server_home import run_tests, test

FILE = """name: environment
hyperparameters: {lr: {type: double, minval: 0.01, maxval: 0.1}}
searcher: {name: random, metric: validation_loss, max_trials: 1, time_metric: rounds, max_time: 1}
max_restarts: 3
data: {source: synthetic, synthetic: {samples: 80, test_samples: 20, classes: 2, channels: 1, size: 8}}
model: {layers: [{conv2d: {filters: 4, kernel: 3, padding: same}}, relu, flatten, {dense: {units: classes}}]}
training: {learning_rate: $lr, batch_size: 8}
"""
OF_CORES = [({"FLEXP_ISA": "avx1024"}, "FLEXP_ISA=avx1024: must be avx512, avx2 or portable"),
            ({"FLEXP_CPU_KERNELS": "onedn"},
             "FLEXP_CPU_KERNELS=onedn: must be onednn, winograd_f4, winograd_f2, winograd_f2_5x5, direct, depthwise or batched")]
WRONG = [*OF_CORES,
         ({"FLEXP_CUDA_ROUNDS": "call"}, "FLEXP_CUDA_ROUNDS=call: must be calls"),
         ({"FLEXP_CUDA_TIMEOUT": "soon"}, "FLEXP_CUDA_TIMEOUT=soon: must be a number of seconds greater than 0")]


def file_of(home):
    path = home.file("a.yaml")
    with open(path, "w", encoding="utf-8") as out:
        out.write(FILE)
    return path


@test
def a_wrong_word_is_one_clear_line_that_blames_no_file(home):
    path = file_of(home)
    for env, text in WRONG:
        for verb in (["validate"], ["create"], ["model"], ["model", "--kernels"], ["data", "info"]):
            done = home.flexp(*verb, path, check=False, **env)
            assert (done.returncode, done.stdout, done.stderr) == (2, "", f"flexp: {text}\n"), done


@test
def a_trial_is_refused_once_with_the_same_words(home):
    home.up(**WRONG[0][0])
    home.flexp("create", file_of(home))
    home.wait_end(state="error")
    assert [row[1] for row in home.runs()] == ["bad_configuration"] and WRONG[0][1] in home.runs()[0][2], home.runs()


@test
def a_run_is_stored_with_its_set_and_the_kernels_that_were_forced(home):
    home.up(FLEXP_ISA="portable", FLEXP_CPU_KERNELS="direct")
    home.flexp("create", file_of(home))
    assert home.wait_end()["isa"] == ["portable direct"], home.describe()["isa"]


@test
def words_of_earlier_versions_are_shown_as_they_are(home):
    home.flexp("create", file_of(home), FLEXP_ISA="portable")
    home.wait_end()
    home.flexp("down")
    with sqlite3.connect(f"{home.path}/flexp.db") as database:
        database.execute("UPDATE runs SET isa = 'avx512_core_amx'")
    database.close()
    assert home.describe()["isa"] == ["avx512_core_amx"]


@test
def help_and_the_man_page_name_the_variables_and_their_values(home):
    overview, page = home.flexp("help").stdout, home.flexp("help", "man").stdout
    for name in ("FLEXP_HOME", "FLEXP_DATA", "FLEXP_ISA", "FLEXP_CPU_KERNELS", "NO_COLOR"):
        assert f"\n  {name} " in overview and f"\n.B {name}\n" in page, name
    for words in [text.partition("must be ")[2].replace(" or ", ", ").split(", ") for _, text in OF_CORES]:
        assert len(words) > 2 and all(word in overview and word in page for word in words), words


if __name__ == "__main__":
    sys.exit(run_tests())
