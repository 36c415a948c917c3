#!/usr/bin/env python3
"""A damaged database: cut short, garbage, another program's, of a newer version, its log damaged or orphaned. `up` refuses
in one line that says what is wrong and where, and changes nothing; what docs/reliability.md says to do works.

Drives the real programs. Prints TAP. Arguments: names of tests, for these alone.
SPDX-License-Identifier: Apache-2.0
"""
import json
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from server_home import TOP, Skip, run_tests, test, wait_for  # noqa: E402

PAGE = 4096


def database(home):
    return os.path.join(home.path, "flexp.db")


def a_used_home(home):
    """One experiment is done, the orchestrator is down. The database's bytes."""
    home.create(trials=3, rounds=60, script={"round_ms": 1})
    home.wait_end()
    home.flexp("down")
    with open(database(home), "rb") as file:
        return file.read()


def files(home):
    """Every file of the database, with its content."""
    return {name: open(os.path.join(home.path, name), "rb").read() for name in os.listdir(home.path)
            if name.startswith("flexp.db") and not name.endswith("-shm")}


def check_refused(home, what, contains):
    before = files(home)
    done = home.flexp("up", check=False)
    assert done.returncode == 3 and done.stdout == "", f"{what}: {done}"
    assert done.stderr.count("\n") == 1 and database(home) in done.stderr, f"{what}: {done.stderr}"
    assert re.search(contains, done.stderr), f"{what}: {done.stderr}"
    done = home.flexp("create", home.config(), check=False)
    assert done.returncode == 3 and re.search(contains, done.stderr), f"{what}: {done}"
    done = home.flexp("list", check=False)
    assert done.returncode and re.search(contains, done.stderr), f"{what}: reading: {done}"
    assert files(home) == before, f"{what}: something was changed"
    assert not home.pid()


def empty_pages(raw):
    """Numbers (from 0) of pages that hold nothing: leaves of the list of free pages (the file format, 1.5)."""
    def number(at):
        return int.from_bytes(raw[at:at + 4], "big")

    trunk, empty = number(32), set()
    while trunk:
        at = (trunk - 1) * PAGE
        empty |= {number(at + 8 + 4 * i) - 1 for i in range(number(at + 4))}
        trunk = number(at)
    return empty


def damages(raw):
    """(what, the file then, what is said)"""
    pages, some, empty = len(raw) // PAGE, random.Random(7), empty_pages(raw)
    yield "cut in the middle", raw[:len(raw) // 2], "is cut short: .* bytes are left of"
    yield "its last page gone", raw[:-PAGE], "is cut short"
    yield "50 bytes left", raw[:50], "is cut short: 50 bytes are left"
    yield "empty", b"", "is empty, which a database never is"
    yield "text", b"hello world\n" * 100, "is not a database"
    yield "zeros", bytes(len(raw)), "is not a database"
    # Pages of a tree: what an overflow page holds is text without a check sum, which nobody can tell from garbage.
    used = [page for page in range(4, pages) if page not in empty and raw[page * PAGE] in (2, 5, 10, 13)]
    for page in [0, 1, 2, 3, *some.sample(used, 6), used[-1]]:
        at = page * PAGE + (100 if page == 0 else 0)
        end = (page + 1) * PAGE
        yield f"page {page} garbage", raw[:at] + some.randbytes(end - at) + raw[end:], "is damaged: .* It is left as it is"
        yield f"page {page} zeros", raw[:at] + bytes(end - at) + raw[end:], "is damaged: .* It is left as it is"
    yield "schema 99", raw[:60] + (99).to_bytes(4, "big") + raw[64:], "has schema 99, newer than the .* of this flexp"
    yield "another program's", raw[:68] + b"abcd" + raw[72:], "is an SQLite database of another program"


@test
def a_damaged_database_is_refused_in_one_line_and_not_touched(home):
    raw = a_used_home(home)
    for what, bad, contains in damages(raw):
        with open(database(home), "wb") as file:
            file.write(bad)
        check_refused(home, what, contains)
    with open(database(home), "wb") as file:
        file.write(raw)
    home.up()  # mended
    assert home.describe()["state"] == "completed"


def leave_a_log(home):
    """An orchestrator that was killed while it wrote."""
    home.create(trials=2, rounds=100000, script={"round_ms": 1})
    wait_for("reports", lambda: home.sql("SELECT count(*) FROM v_reports")[0][0] > 100)
    home.kill9()
    assert os.path.getsize(database(home) + "-wal") > 10 * PAGE


def reads_by_python(path):
    """Opens, reads and closes as somebody's script does, with a connection that may write."""
    base = sqlite3.connect(path, timeout=20)
    count = base.execute("SELECT count(*) FROM experiments").fetchone()[0]
    base.close()
    return count


def reads_by_the_program(path):
    done = subprocess.run(["sqlite3", path, "SELECT count(*) FROM experiments"], stdout=subprocess.PIPE, check=True)
    return int(done.stdout)


@test
def who_reads_the_database_from_outside_takes_nothing_from_it(home):
    readers = [reads_by_python] + ([reads_by_the_program] if shutil.which("sqlite3") else [])
    config, made = home.config(trials=1, rounds=2), 0
    for reader in readers:
        home.flexp("create", config)
        made += 1
        assert reader(database(home)) == made
        there = os.listdir(home.path)
        assert "flexp.db-wal" in there and "flexp.db-shm" in there, f"{reader.__name__}: {sorted(there)}"
        with open(f"/proc/{home.pid()}/maps", encoding="utf-8") as maps:  # where the log's index is among
            index = [line for line in maps if "flexp.db-shm" in line]
        assert index and not [line for line in index if "(deleted)" in line], f"{reader.__name__}: {index}"
        home.flexp("create", config)  # this one is in the log alone
        made += 1
        home.kill9()
        assert reader(database(home)) == made, reader.__name__
        assert len(json.loads(home.flexp("list", "--all", "--json").stdout)["experiments"]) == made
        home.up()
    for experiment in range(1, made + 1):
        home.wait_end(experiment)


@test
def a_damaged_log_of_changes_is_refused_and_a_database_is_not_made_beside_one(home):
    leave_a_log(home)
    log = database(home) + "-wal"
    with open(log, "rb") as file:
        raw = file.read()
    for what, bad in (("garbage", random.Random(1).randbytes(len(raw))), ("its first byte", b"x" + raw[1:]),
                      ("its salt", raw[:17] + bytes([raw[17] ^ 1]) + raw[18:])):
        with open(log, "wb") as file:
            file.write(bad)
        check_refused(home, what, "-wal is damaged at its beginning")
    with open(log, "wb") as file:
        file.write(raw)
    os.rename(database(home), home.file("away"))
    before = files(home)
    done = home.flexp("up", check=False)
    assert done.returncode == 3 and "is gone, but" in done.stderr and "-wal is there" in done.stderr, done.stderr
    assert files(home) == before
    os.rename(home.file("away"), database(home))
    home.up()  # mended
    assert home.state() == "active"
    home.flexp("kill", "1")


@test
def a_log_that_breaks_off_in_the_middle_is_told(home):
    leave_a_log(home)
    log = database(home) + "-wal"
    with open(log, "r+b") as file:
        file.seek(32 + 5 * (24 + PAGE) + 1000)
        file.write(random.Random(2).randbytes(500))
    done = home.flexp("up", check=False)
    said = home.log() + done.stderr
    assert "breaks off: page 6 of" in said, said
    if done.returncode == 0:
        home.flexp("kill", "1", check=False)


@test
def a_large_database_is_checked_while_it_is_used(home):
    a_used_home(home)
    base = sqlite3.connect(database(home))
    base.execute("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000) INSERT INTO logs"
                 " (experiment, level, text, time_us) SELECT 1, 'info', hex(randomblob(4000)), 0 FROM n")
    base.commit()
    base.close()
    with open(database(home), "r+b") as file:
        file.seek(-PAGE * 3, os.SEEK_END)
        file.write(random.Random(3).randbytes(PAGE * 2))
    with open(database(home), "rb") as file:
        before = file.read()
    done = home.flexp("up", check=False)
    if done.returncode:  # this machine saw all of it in time
        assert "is damaged" in done.stderr, done.stderr
    else:
        wait_for("the orchestrator to find it", lambda: not home.pid(), 30)
        assert "the orchestrator stops: " + database(home) + " is damaged" in home.log(), home.log()
    with open(database(home), "rb") as file:
        assert file.read() == before, "something was changed"


@test
def what_the_manual_says_of_a_damaged_database_saves_what_can_be_read(home):
    if not shutil.which("sqlite3"):
        raise Skip("sqlite3 is not installed")
    raw = a_used_home(home)
    with open(os.path.join(TOP, "docs", "reliability.md"), encoding="utf-8") as file:
        recipe = re.search(r"### A damaged database.*?```sh\n(.*?)```", file.read(), re.S).group(1)
    saved = 0
    for page in (12, len(raw) // PAGE // 2, len(raw) // PAGE - 1):
        with open(database(home), "wb") as file:
            file.write(raw[:page * PAGE] + bytes(PAGE) + raw[(page + 1) * PAGE:])
        subprocess.run(["sh", "-ec", recipe], cwd=home.path, check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL, timeout=60)
        home.up()
        saved += home.sql("SELECT count(*) FROM metrics")[0][0]
        assert home.flexp("list", "--all").returncode == 0
        home.flexp("down")
        assert os.path.getsize(database(home) + ".damaged") == len(raw)
        os.unlink(database(home) + ".damaged")
    assert saved > 2 * 3 * 120, saved  # of 3 times 360


@test
def a_database_that_knows_less_than_the_folders_gives_out_no_number_twice(home):
    a_used_home(home)
    os.unlink(database(home))  # "if nothing in it was of worth, remove it"
    kept = home.file("home/experiments/1/trials/1/runs/1/checkpoint-60.bin")
    assert os.path.exists(kept)
    assert home.create(trials=1) == 2
    home.wait_end(2)
    assert os.path.exists(kept) and "the next one gets a higher number" in home.log()


sys.exit(run_tests())
