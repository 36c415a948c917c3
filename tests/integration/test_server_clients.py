#!/usr/bin/env python3
"""The orchestrator's socket: requests that are wrong, clients that behave badly, subscriptions.

Drives the real program (FLEXP_BIN, else build/flexp). Prints TAP. Arguments: names of tests, for these alone.
SPDX-License-Identifier: Apache-2.0
"""
import os
import socket
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from server_home import DEADLINE_S, refused, run_tests, test, wait_for  # noqa: E402


@test
def arguments_are_checked_before_anything_happens(home):
    home.up()
    client = home.client()
    assert client.hello["pid"] == home.pid() and client.hello["home"] == home.path and client.hello["flexp"]
    for request, arguments, code, text in (
            ("dance", {}, "usage", "dance"),
            ("describe", {}, "bad_input", "experiment (an integer) is missing"),
            ("describe", {"experiment": "1"}, "bad_input", "must be an integer"),
            ("describe", {"experiment": 1.5}, "bad_input", "must be an integer"),
            ("describe", {"experiment": -1}, "bad_input", "negative"),
            ("describe", {"experiment": 1, "colour": 2}, "bad_input", '"colour"'),
            ("describe", {"experiment": 7}, "not_found", "7"),
            ("list", {"all": 1}, "bad_input", "true or false"),
            ("create", {"text": "x"}, "bad_input", "resolved"),
            ("create", {"text": "x", "resolved": {}}, "bad_input", ""),
            ("create", {"text": "x", "resolved": []}, "bad_input", "must be an object"),
            ("pause", {"experiment": 3}, "not_found", "3"),
            ("logs", {"experiment": 1, "limit": 0}, "bad_input", "limit"),
            ("subscribe", {"experiment": 9}, "not_found", "9"),
            ("kill_trial", {"experiment": 1}, "bad_input", "trial")):
        refused(code, text, client.ask, request, **arguments)
    client.close()


@test
def lines_that_are_no_requests_get_an_error_and_the_next_one_an_answer(home):
    home.up()
    client = home.client()
    for line in (b"rubbish\n", b"[1,2]\n", b"7\n", b'{"id": 1}\n', b'{"id": 1, "request": 7}\n', b"\n", b"\xff\xfe\n",
                 b'{"id": 1, "request": "list", "arguments": []}\n', b'{"id": 1, "id": 2}\n'):
        client.link.sendall(line)
        answer = client.line()
        assert answer["ok"] is False and answer["error"]["code"] == "bad_input", (line, answer)
    client.link.sendall(b'{"id": 5, "requ')
    other = home.client()
    assert other.ask("list")["experiments"] == []  # half a line of one holds up nobody
    client.link.sendall(b'est": "list"}\n{"id": 6, "request": "status"}\n')
    assert [client.line()["id"], client.line()["id"]] == [5, 6]
    client.link.sendall(b'{"id": 8, "request": "list", "flexp": "99.0"}\n')
    assert client.line()["error"]["code"] == "version"
    client.close()
    other.close()


@test
def a_line_without_end_is_cut_off(home):
    home.up()
    client = home.client()
    try:
        for _ in range(64):
            client.link.sendall(b"x" * (1 << 20))
        answer = client.line()
        assert "8 MiB" in answer["error"]["text"], answer
    except (ConnectionError, OSError):
        pass  # it may be gone before the text is read
    assert home.ask("list")["experiments"] == []


@test
def many_clients_are_served_and_too_many_are_told(home):
    home.up()
    clients = [home.client() for _ in range(200)]
    for client in clients:
        client.link.sendall(b'{"id": 1, "request": "status"}\n')
    for client in clients:
        assert client.line()["ok"]
    more = []
    refusals = 0
    for _ in range(100):
        link = socket.socket(socket.AF_UNIX)
        link.settimeout(DEADLINE_S)
        link.connect(home.socket())
        first = link.recv(65536)
        refusals += b"too many clients" in first
        more.append(link)
    assert refusals >= 40, refusals
    for client in clients:
        client.close()
    for link in more:
        link.close()
    wait_for("room", lambda: b"too many" not in one_line(home))


def one_line(home):
    link = socket.socket(socket.AF_UNIX)
    link.settimeout(DEADLINE_S)
    link.connect(home.socket())
    first = link.recv(65536)
    link.close()
    return first


@test
def clients_that_leave_in_the_middle_do_no_harm(home):
    home.create(trials=2, script={"round_ms": 5}, rounds=200)
    for i in range(60):
        client = home.client()
        client.link.sendall(b'{"id": 1, "request": "describe", "arguments": {"experiment": 1}}\n' * 20
                            + b'{"id": 2, "request": "subscribe", "arguments": {"experiment": 1}}\n'
                            + b'{"id": 3, "request": "pa'[:i % 20])
        client.close()
    home.wait_end()


@test
def a_client_that_does_not_read_is_throttled_and_others_are_served(home):
    home.create(trials=2)
    home.wait_end()
    stuck = home.client()
    stuck.link.setblocking(False)
    sent = 0
    request = b'{"id": 1, "request": "describe", "arguments": {"experiment": 1}}\n' * 100
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            sent += stuck.link.send(request)
        except BlockingIOError:
            break  # it takes no more: the server does not read on for ever
    else:
        raise AssertionError(f"it took {sent} bytes of requests without its answers being read")
    assert home.ask("list", all=True)["experiments"][0]["id"] == 1
    with open(f"/proc/{home.pid()}/statm", encoding="utf-8") as file:
        assert int(file.read().split()[1]) * 4096 < 200 << 20
    stuck.link.setblocking(True)  # and when it reads again it is served
    stuck.link.settimeout(DEADLINE_S)
    for _ in range(1000):
        assert stuck.line()["ok"]
    stuck.close()


@test
def a_subscription_streams_changes_rarely_and_the_last_one_always(home):
    gate = home.file("gate")
    home.create(trials=2, rounds=150, script={"round_ms": 5, "gate": gate})
    wait_for("both to run", lambda: home.describe()["trials"]["running"] == 2)
    client, slow = home.client(), home.client()
    first = client.ask("subscribe", experiment=1)
    slow.ask("subscribe", experiment=1)
    assert first["id"] == 1 and first["state"] == "active" and len(first["running"]) == 2, first
    started = time.monotonic()
    open(gate, "w", encoding="utf-8").close()
    events = [client.event()]
    while events[-1]["state"] != "completed":
        events.append(client.event())
    seconds = time.monotonic() - started
    assert 2 <= len(events) <= 5 * seconds + 3, (len(events), seconds)
    assert events[-1]["trials"]["completed"] == 2 and events[-1]["running"] == []
    assert any(row["unit"] > 0 and row["until"] == 150 for event in events for row in event["running"])
    last = slow.event()
    while last["state"] != "completed":  # it did not read meanwhile: it gets there all the same
        last = slow.event()
    client.close()
    slow.close()


@test
def requests_while_it_goes_down_are_refused(home):
    home.env["FLEXP_DOWN_MS"] = "1500"
    home.create(trials=1, script={"deaf": True, "gate": home.file("gate")})
    home.wait_event(assigned=1)
    client, other = home.client(), home.client()
    config = home.describe()["config"]
    assert other.ask("down")["stopping"]
    refused("stopping", "going down", client.ask, "create", text="", resolved=config)
    refused("stopping", "going down", client.ask, "pause", experiment=1)
    assert client.ask("describe", experiment=1)["id"] == 1 and client.ask("status")["stopping"]
    wait_for("the end", lambda: not home.processes(), 20)


if __name__ == "__main__":
    sys.exit(run_tests())
