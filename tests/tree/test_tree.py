#!/usr/bin/env python3
"""The tree itself: inclusion runs along the arrows of docs/architecture.md, every source carries its licence line, no file
outgrows its limit, the commands of README.md exist. Prints TAP.
SPDX-License-Identifier: Apache-2.0
"""
import os
import re
import subprocess
import sys

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ROOMS = ("common", "searchers", "orchestrator", "trainer")
ALLOWED = {
    "common": ("common/",),
    "searchers": ("common/", "searchers/"),
    "orchestrator": ("common/", "searchers/", "orchestrator/"),
    "trainer": ("common/", "searchers/inner/", "trainer/"),
}
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.M)


def sources(*endings):
    for room in ROOMS + ("tests",):
        for folder, _, files in os.walk(os.path.join(TOP, room)):
            for name in files:
                if name.endswith(endings):
                    path = os.path.join(folder, name)
                    with open(path, encoding="utf-8") as file:
                        yield os.path.relpath(path, TOP), file.read()


def arrow_problems(path, text):
    room = path.split("/")[0]
    for bracket, name in INCLUDE.findall(text):
        if bracket == '"' and room in ALLOWED and not name.startswith(ALLOWED[room]):
            yield f"{path} includes {name}"
        if name == "sqlite3.h" and not path.startswith(("orchestrator/store/", "tests/")):
            yield f"{path} includes sqlite3.h: only orchestrator/store may"
        if name in ("dnnl.h", "oneapi/dnnl/dnnl.h") and not path.startswith(("trainer/backend/", "tests/")):
            yield f"{path} includes dnnl.h: only trainer/backend may"


def includes_run_along_the_arrows():
    return [problem for path, text in sources(".c", ".h", ".cu") for problem in arrow_problems(path, text)]


def the_arrow_check_finds_a_wrong_include():
    found = list(arrow_problems("common/x.c", '#include "orchestrator/store/store.h"\n'))
    found += list(arrow_problems("trainer/x.c", '#include "searchers/space.h"\n'))
    found += list(arrow_problems("trainer/x.c", "#include <sqlite3.h>\n"))
    return [] if len(found) == 3 else [f"found {found}"]


def every_source_carries_its_licence_line():
    return [path for path, text in sources(".c", ".h", ".py", ".cu")
            if "SPDX-License-Identifier: Apache-2.0" not in text[:3000]]


def no_source_is_longer_than_800_lines():
    return [f"{path}: {text.count(chr(10))} lines" for path, text in sources(".c", ".h", ".py") if text.count("\n") > 800]


def readme_begins_with_the_two_commands():
    with open(os.path.join(TOP, "README.md"), encoding="utf-8") as file:
        head = file.read()[:1500]
    return [f"README.md's beginning lacks `{command}`" for command in ("make demo", "make test") if command not in head]


def make_help_lists_the_targets():
    text = subprocess.run(["make", "help"], cwd=TOP, capture_output=True, text=True, check=True).stdout
    return [f"make help lacks {target}" for target in ("test", "demo", "install", "asan", "fuzz", "soak") if target not in text]


TESTS = [includes_run_along_the_arrows, the_arrow_check_finds_a_wrong_include, every_source_carries_its_licence_line,
         no_source_is_longer_than_800_lines, readme_begins_with_the_two_commands, make_help_lists_the_targets]


def main():
    failed = 0
    print(f"1..{len(TESTS)}")
    for number, test in enumerate(TESTS, 1):
        problems = test()
        failed += bool(problems)
        for problem in problems:
            print(f"# {problem}")
        print(f"{'not ok' if problems else 'ok'} {number} - {test.__name__}")
    return 1 if failed else 0


sys.exit(main())
