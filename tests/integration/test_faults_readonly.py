#!/usr/bin/env python3
"""A home that cannot be written, or is another user's: verbs that change something say so in one line, reading goes on.

A read-only home is a tmpfs in a mount namespace of this script's own; another user's home needs root, to become somebody
else; what cannot be had is skipped. Drives the real program. Prints TAP. Arguments: names of tests, for these alone.
SPDX-License-Identifier: Apache-2.0
"""
import json
import os
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from server_home import (DEADLINE_S, FLEXP, Skip, enter_namespace, mount, run_tests, test,  # noqa: E402
                         wait_for)

READ = (["list", "--all"], ["describe", "1"], ["trials", "1"], ["logs", "1"])
NOBODY = 65534


def check_reading(run):
    for arguments in READ:
        done = run(*arguments)
        assert done.returncode == 0, (arguments, done)
        assert "scripted" in done.stdout or arguments[0] in ("logs", "trials"), (arguments, done.stdout)


def check_refused(run, contains, *verbs):
    for arguments in verbs:
        done = run(*arguments)
        assert done.returncode in (2, 3) and done.stdout == "", (arguments, done)
        assert contains in done.stderr and done.stderr.count("\n") == 1, (arguments, done.stderr)


@test
def a_read_only_home_can_be_read_and_says_that_it_cannot_be_written(home):
    mount(home, "-t", "tmpfs", "-o", "size=30m")
    try:
        run = lambda *arguments: home.flexp(*arguments, check=False)  # noqa: E731
        home.create(trials=2, rounds=3)
        home.wait_end()
        home.flexp("down")
        subprocess.run(["mount", "-o", "remount,bind,ro", home.path], check=True)
        check_reading(run)
        check_refused(run, "Read-only file system", ["up"], ["up", "--foreground"], ["create", home.config()], ["kill", "1"])
        assert run("down").returncode == 0
        subprocess.run(["mount", "-o", "remount,bind,rw", home.path], check=True)
        assert home.create(trials=1, rounds=100000) == 2  # mended
        wait_for("reports", lambda: home.sql("SELECT count(*) FROM v_reports WHERE experiment = 2")[0][0] > 20)
        home.kill9()  # a log of changes is left, which has to be read too
        subprocess.run(["mount", "-o", "remount,bind,ro", home.path], check=True)
        check_reading(run)
        assert json.loads(run("describe", "2", "--json").stdout)["state"] == "active"
        check_refused(run, "Read-only file system", ["up"])
        subprocess.run(["mount", "-o", "remount,bind,rw", home.path], check=True)
        home.flexp("kill", "2")
        home.flexp("down")
    finally:
        subprocess.run(["umount", "-l", home.path], check=True)


def as_nobody(home, *arguments):
    return subprocess.run([FLEXP, *arguments], env=home.env, cwd="/", user=NOBODY, group=NOBODY, extra_groups=[],
                          text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          timeout=DEADLINE_S, check=False)


@test
def another_users_home_can_be_read_where_they_let_us_and_is_not_touched(home):
    os.chmod(home.folder, 0o755)
    try:
        as_nobody(home, "--version")
    except (PermissionError, OSError, subprocess.SubprocessError) as why:
        raise Skip(f"nobody else can be become here: {why}") from why
    run = lambda *arguments: as_nobody(home, *arguments)  # noqa: E731
    home.create(trials=2, rounds=3)
    home.wait_end()
    path = home.config()
    os.chmod(path, 0o644)
    for running in (True, False):
        check_reading(run)
        assert "belongs to" in run("list").stderr
        check_refused(run, "belongs to", ["up"], ["kill", "1"], ["status"])
        if running:
            check_refused(run, "answers nobody else", ["down"])
            home.flexp("down")
    os.chmod(home.path, 0o700)
    check_refused(run, "Permission denied", ["list", "--all"], ["describe", "1"])
    os.chmod(home.path, 0o755)
    os.chmod(os.path.join(home.path, "flexp.db"), 0o600)
    check_refused(run, "Permission denied", ["list"])
    assert not os.path.exists(os.path.join(home.path, "flexp.db-shm"))


@test
def a_home_that_cannot_be_made_is_named(home):
    with open(home.path, "w", encoding="utf-8") as file:
        file.write("a file\n")
    for arguments in (["up"], ["create", home.config()]):
        done = home.flexp(*arguments, check=False)
        assert done.returncode == 3 and home.path in done.stderr and done.stderr.count("\n") == 1, done
    os.unlink(home.path)
    home.up()


enter_namespace(__file__)
sys.exit(run_tests())
