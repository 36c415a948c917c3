#!/usr/bin/env python3
"""flexp model and flexp plot: tables, known numbers of parameters, pictures that are well-formed.

Prints TAP. SPDX-License-Identifier: Apache-2.0
"""
import json
import os
import sys
import xml.dom.minidom

from server_home import TOP, run_tests, test

PRESET = """
name: preset
searcher: {name: random, metric: validation_accuracy, max_time: 1, max_trials: 1}
data: {source: synthetic, synthetic: {channels: %d, size: %d}}
model: {preset: %s}
training: {learning_rate: 0.1}
"""
# parameters as published: pfl-research's benchmark, McMahan et al. 2017, NIID-Bench's and BlazeFL's LeNet
KNOWN = {"pfl_cnn": (3, 32, 1626442), "mcmahan_2nn": (1, 28, 199210), "mcmahan_cnn": (1, 28, 1663370), "lenet": (3, 32, 62006)}


def picture(path):
    document = xml.dom.minidom.parse(path)
    assert document.documentElement.tagName == "svg"
    return [node.firstChild.data for node in document.getElementsByTagName("text") if node.firstChild], document


@test
def known_networks_have_their_published_sizes(home):
    for name, (channels, size, parameters) in KNOWN.items():
        path = home.file(name + ".yaml")
        with open(path, "w", encoding="utf-8") as out:
            out.write(PRESET % (channels, size, name))
        answer = json.loads(home.flexp("model", path, "--json").stdout)
        assert answer["parameters"] == parameters, (name, answer["parameters"])
        assert sum(layer["parameters"] for layer in answer["layers"]) == parameters
        assert abs(sum(layer["flops"] for layer in answer["layers"]) - answer["flops_forward"]) < 1
        assert answer["schema_version"] == 1 and answer["weight_bytes"] == 4 * parameters


@test
def a_network_is_shown_and_drawn(home):
    svg = home.file("net.svg")
    file = os.path.join(TOP, "configs", "quickstart.yaml")
    text = home.flexp("model", file, "--svg", svg).stdout
    assert text.startswith("With lr=0.0001, momentum=0, batch=16, filters=8, units=16\n"), text
    assert "3042 parameters" in text and "8x32x32" in text, text
    words, _ = picture(svg)
    assert "conv2d 3x3, padding 1" in words and any(word.startswith("10") for word in words), words
    assert "8x32x32, 224 parameters" in words, words
    out = home.flexp("model", file, "--svg", "-").stdout
    assert out.startswith("<?xml") and xml.dom.minidom.parseString(out) and not os.path.exists(home.file("-"))
    assert home.flexp("model", file, "--svg", "-", "--json", check=False).returncode == 2
    wide = home.flexp("model", file, "--config", "hyperparameters.units=64").stdout
    assert "units=64" in wide and "64" in wide
    assert not home.log(), "it needs no orchestrator"


GAP = """
name: gap
hyperparameters: {lr: 0.1}
searcher: {name: single, metric: validation_accuracy, time_metric: rounds, max_time: 1}
data: {source: synthetic, synthetic: {samples: 500, test_samples: 100}}
model: {layers: [{conv2d: {filters: 8, kernel: 3, stride: 2, padding: same}}, {conv2d: {filters: 64, kernel: 3}},
                 global_avg_pool2d, {dense: {units: 1024}}, {dense: {units: classes}}]}
training: {learning_rate: $lr}
"""


@test
def a_layers_name_has_room_in_its_box(home):
    path = home.file("gap.yaml")
    with open(path, "w", encoding="utf-8") as out:
        out.write(GAP)
    home.flexp("model", path, "--svg", home.file("gap.svg"))
    document = picture(home.file("gap.svg"))[1]
    rects = document.getElementsByTagName("rect")[1:]  # the first is the ground
    boxes = [float(rect.getAttribute("width")) for rect in rects]
    names = [node.firstChild.data for node in document.getElementsByTagName("text")
             if node.getAttribute("class") == "middle"]
    assert len(boxes) == len(names) == 6 and "global_avg_pool2d" in names, names
    assert all(width >= 6.6 * len(name) + 16 for width, name in zip(boxes, names)), (boxes, names)


@test
def mistakes_in_a_network_have_their_place(home):
    path = home.file("bad.yaml")
    with open(os.path.join(TOP, "configs", "quickstart.yaml"), encoding="utf-8") as file:
        text = file.read().replace("max_pool2d: 4", "max_pool2d: 40")
    with open(path, "w", encoding="utf-8") as out:
        out.write(text)
    done = home.flexp("model", path, check=False)
    assert done.returncode == 2 and "model.layers[1].max_pool2d" in done.stderr and ":36:" in done.stderr, done.stderr
    done = home.flexp("model", home.config(), check=False)
    assert done.returncode == 2 and "the program's own" in done.stderr, done.stderr


@test
def a_warning_is_said_once_whether_or_not_an_error_follows(home):
    for name, code in (("quickstart.yaml", 0), ("mnist_grid.yaml", 2)):  # of the second no data are there
        path = os.path.join(TOP, "configs", name)
        done = home.flexp("data", "info", path, "--config", "environment=1", check=False)
        assert done.returncode == code and done.stderr.count("environment means nothing here") == 1, done.stderr
        assert done.stderr.count(": error: ") == (1 if code else 0), done.stderr


@test
def an_experiment_is_drawn(home):
    home.create(trials=5, rounds=4, concurrent=2, description="a & b")
    home.wait_end()
    svg = home.file("night.svg")
    assert home.flexp("plot", "1", "-o", svg).stdout == svg + "\n"
    words, document = picture(svg)
    assert "Learning curves of 5 of 5 trials" in words and "Best so far" in words and "lr" in words, words
    tips = [node.firstChild.data for node in document.getElementsByTagName("title")]
    assert any(tip.startswith("trial 5: lr=0.9; best ") for tip in tips), tips
    out = home.flexp("plot", "1", "-o", "-").stdout
    assert out.startswith("<?xml") and xml.dom.minidom.parseString(out)
    answer = json.loads(home.flexp("plot", "--json").stdout)
    assert answer["path"] == "experiment-1.svg" and answer["curves"] == 5, answer
    assert os.path.exists(os.path.join(home.folder, "experiment-1.svg"))
    home.flexp("down")
    assert home.flexp("plot", "1", "-o", svg).returncode == 0, "it needs no orchestrator"


@test
def one_trial_of_one_round_is_a_picture_too(home):
    home.create(trials=1, rounds=1)
    home.wait_end()
    home.flexp("plot", "1", "-o", home.file("one.svg"))
    picture(home.file("one.svg"))


@test
def what_cannot_be_drawn_is_said(home):
    home.create("--paused")
    done = home.flexp("plot", "1", check=False)
    assert done.returncode == 2 and "no validation to draw yet" in done.stderr, done.stderr
    home.flexp("activate", "1")
    home.wait_end()
    done = home.flexp("plot", "1", "-o", "/nowhere/x.svg", check=False)
    assert done.returncode == 2 and done.stderr.endswith("/nowhere/x.svg: No such file or directory\n"), done.stderr
    assert home.flexp("plot", "9", check=False).returncode == 2


if __name__ == "__main__":
    sys.exit(run_tests())
