#!/usr/bin/env python3
"""flexp data fetch against a local server that stalls, cuts off, lies, fails and forgets; and data info.

Prints TAP. SPDX-License-Identifier: Apache-2.0
"""
import hashlib
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time

from server_home import FLEXP, Skip, TOP, run_tests, test, wait_for

FETCH_ONE = os.environ.get("FLEXP_FETCH_ONE",
                           os.path.join(TOP, "build", "release", "tests", "orchestrator", "fetch", "fetch_one"))
DATA = os.path.join(os.environ.get("FLEXP_SHARED", os.path.join(TOP, "..", "shared")), "data")
BODY = bytes(range(256)) * 4000
MD5 = hashlib.md5(BODY).hexdigest()


class Server:
    """Answers as the script says: one word of `acts` a request, then whole files. Remembers the requests."""

    def __init__(self, acts=(), body=BODY, etag='"one"'):
        self.acts, self.body, self.etag, self.seen = list(acts), body, etag, []
        self.release = threading.Event()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                outer.seen.append((self.path, self.headers.get("Range"), self.headers.get("If-Range")))
                outer.answer(self, outer.acts.pop(0) if outer.acts else "whole")

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, request, act):
        request.close_connection = True
        name, _, value = act.partition(":")
        if name == "status":
            request.send_response(int(value))
            request.send_header("Content-Length", "4")
            request.end_headers()
            request.wfile.write(b"oops")
            return
        if name == "redirect":
            request.send_response(302)
            request.send_header("Location", self.url + "/elsewhere")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        body, start = self.body, 0
        asked = request.headers.get("Range")
        fresh = request.headers.get("If-Range") in (None, self.etag)
        if asked and fresh and name != "no_range":
            start = int(asked.split("=")[1].rstrip("-"))
            if start >= len(body):
                request.send_response(416)
                request.send_header("Content-Range", f"bytes */{len(body)}")
                request.send_header("Content-Length", "0")
                request.end_headers()
                return
            request.send_response(206)
            at = 0 if name == "wrong_part" else start
            request.send_header("Content-Range", f"bytes {at}-{len(body) - 1}/{len(body)}")
        else:
            request.send_response(200)
        if name == "lie":
            body = b"x" * len(body)
        if name != "no_etag":
            request.send_header("ETag", self.etag)
        request.send_header("Content-Length", str(len(body) - start))
        request.end_headers()
        body = body[start:]
        try:
            if name in ("cut", "stall"):
                request.wfile.write(body[:int(value)])
                request.wfile.flush()
                if name == "stall":
                    self.release.wait(30)
            elif name == "slow":
                for at in range(0, len(body), 65536):
                    request.wfile.write(body[at:at + 65536])
                    time.sleep(0.005)
            else:
                request.wfile.write(body)
        except OSError:
            pass

    def close(self):
        self.release.set()
        self.server.shutdown()
        self.server.server_close()


ENV = {"FLEXP_BACKOFF_MS": "10", "FLEXP_FETCH_STALL_S": "1"}


def fetch(path, *urls, md5=MD5, check=True):
    done = subprocess.run([FETCH_ONE, path, md5, *urls], env={**os.environ, **ENV}, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=60, check=False)
    if check and done.returncode:
        raise AssertionError(done.stdout)
    return done


def content(path):
    with open(path, "rb") as file:
        return file.read()


def left(path):
    return sorted(os.listdir(os.path.dirname(path)))


def scripted(home, acts, outcome="fetched", requests=None, check=True, **settings):
    server = Server(acts, **settings)
    path = os.path.join(home.file("data"), "file.gz")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    try:
        done = fetch(path, server.url + "/file.gz", check=check)
    finally:
        server.close()
    assert done.stdout.rstrip().split("\n")[-1].startswith(outcome), done.stdout
    if outcome == "fetched":
        assert content(path) == BODY and left(path) == ["file.gz"], left(path)
    assert requests is None or len(server.seen) == requests, server.seen
    return server, path, done.stdout


@test
def a_file_is_fetched_once(home):
    server, path, _ = scripted(home, [], requests=1)
    assert fetch(path, server.url + "/nobody").stdout == "there\n"


@test
def a_cut_off_download_goes_on_from_where_it_was(home):
    server, _, text = scripted(home, ["cut:100000", "cut:50000"], requests=3)
    assert [seen[1] for seen in server.seen] == [None, "bytes=100000-", "bytes=150000-"], server.seen
    assert server.seen[1][2] == '"one"' and "going on from where it was" in text, (server.seen, text)


@test
def a_server_that_stalls_is_left_and_asked_for_the_rest(home):
    server, _, text = scripted(home, ["stall:200000"], requests=2)
    assert server.seen[1][1] == "bytes=200000-" and "sent nothing for too long" in text, text


@test
def a_server_without_ranges_starts_anew(home):
    scripted(home, ["cut:100000", "no_range"], requests=2)


@test
def a_server_that_sends_another_part_is_not_believed(home):
    scripted(home, ["cut:100000", "wrong_part"], requests=3)


@test
def a_file_that_changed_meanwhile_is_fetched_whole(home):
    server, path, _ = scripted(home, ["cut:100000"] + ["status:503"] * 6, outcome="error", check=False)
    assert left(path) == ["file.gz.part", "file.gz.part.etag"], left(path)
    assert len(content(path + ".part")) == 100000
    server, path, _ = scripted(home, [], requests=1, etag='"two"')
    assert server.seen[0][1:] == ("bytes=100000-", '"one"'), server.seen


@test
def an_interrupted_download_is_resumed_by_the_next_call(home):
    server = Server(["stall:300000"])
    path = os.path.join(home.file("data"), "file.gz")
    os.makedirs(os.path.dirname(path))
    process = subprocess.Popen([FETCH_ONE, path, MD5, server.url + "/file.gz"], stdout=subprocess.PIPE,
                               env={**os.environ, "FLEXP_FETCH_STALL_S": "60"})
    wait_for("300,000 bytes", lambda: os.path.exists(path + ".part") and os.path.getsize(path + ".part") == 300000)
    again = fetch(path, server.url + "/file.gz", check=False)
    assert again.returncode == 1 and "another process is fetching it" in again.stdout, again.stdout
    process.send_signal(signal.SIGTERM)
    process.wait(30)
    process.stdout.close()
    assert fetch(path, server.url + "/file.gz").stdout == "fetched\n"
    assert server.seen[-1][1] == "bytes=300000-" and content(path) == BODY
    server.close()


@test
def a_server_that_lies_is_found_out(home):
    _, path, text = scripted(home, ["lie"], requests=2)
    assert "is not the file" in text, text
    os.unlink(path)
    _, path, text = scripted(home, ["lie", "lie"], outcome="error", check=False, requests=2)
    assert f"its MD5 is {hashlib.md5(b'x' * len(BODY)).hexdigest()}, not {MD5}" in text, text
    assert left(path) == [], left(path)


@test
def errors_are_tried_again_or_said_at_once(home):
    scripted(home, ["status:500", "status:503", "redirect"], requests=4)
    os.unlink(os.path.join(home.file("data"), "file.gz"))
    _, path, text = scripted(home, ["status:404"], outcome="error", check=False, requests=1)
    assert text.rstrip().endswith("the server answered 404"), text
    done = fetch(path, "http://127.0.0.1:9/file.gz", check=False)
    assert done.returncode == 1 and "connect" in done.stdout, done.stdout


@test
def the_next_mirror_is_asked(home):
    bad, good = Server(["status:404"] * 9), Server()
    path = os.path.join(home.file("data"), "file.gz")
    os.makedirs(os.path.dirname(path))
    assert "fetched" in fetch(path, bad.url + "/a", good.url + "/b").stdout and len(bad.seen) == 1
    bad.close()
    good.close()


@test
def a_wrong_file_in_the_place_is_fetched_again(home):
    path = os.path.join(home.file("data"), "file.gz")
    os.makedirs(os.path.dirname(path))
    with open(path, "w", encoding="utf-8") as out:
        out.write("old")
    _, _, text = scripted(home, [], requests=1)
    assert "is not the published file" in text, text


@test
def a_full_disk_is_said_and_nothing_appears(home):
    server = Server()
    path = os.path.join(home.file("data"), "file.gz")
    os.makedirs(os.path.dirname(path))
    done = subprocess.run(["bash", "-c", f"trap '' XFSZ; ulimit -f 100; exec '{FETCH_ONE}' '{path}' {MD5} {server.url}/x"],
                          stdout=subprocess.PIPE, text=True, env={**os.environ, **ENV}, check=False)
    assert done.returncode == 1 and "File too large" in done.stdout and not os.path.exists(path), done.stdout
    server.close()


@test
def mistakes_are_said_before_anything_is_made(home):
    done = home.flexp("data", "fetch", "cifar", check=False)
    assert done.returncode == 2 and "did you mean 'cifar10'" in done.stderr, done.stderr
    done = home.flexp("data", "fetch", check=False)
    assert done.returncode == 2
    done = home.flexp("data", check=False)
    assert done.returncode == 2 and "data fetch" in done.stderr, done.stderr


@test
def mnist_is_fetched_whole_and_then_read(home):
    folder = os.path.join(DATA, "mnist")
    if not os.path.isdir(folder):
        raise Skip("there is no mnist in ../shared/data")

    class Files(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=DATA)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    env = {"FLEXP_FETCH_BASE": f"http://127.0.0.1:{server.server_port}"}
    answer = json.loads(home.flexp("data", "fetch", "mnist", "--data", home.file("data"), "--json", **env).stdout)
    assert [file["fetched"] for file in answer["files"]] == [True] * 4 and answer["schema_version"] == 1, answer
    told = home.flexp("data", "fetch", "mnist", "--data", home.file("data"), **env)
    assert "there already, and right" in told.stderr and "source: idx, path: mnist" in told.stdout, told
    server.shutdown()
    server.server_close()
    info = json.loads(home.flexp("data", "info", os.path.join(TOP, "configs", "mnist_grid.yaml"), "--data",
                                 home.file("data"), "--json").stdout)
    assert info["train"] == 60000 and info["test"] == 10000 and info["train_per_class"][0] == 5923, info
    assert len(info["clients"]) == 100 and abs(info["mean"][0] - 0.1307) < 0.001, info["mean"]
    assert sum(client["samples"] + client["held_out"] for client in info["clients"]) == 54000


@test
def data_info_shows_what_the_file_makes_of_the_data(home):
    text = home.flexp("data", "info", os.path.join(TOP, "configs", "quickstart.yaml")).stdout
    assert "10000 images to train on, 1000 of them for validation, 2000 to test on; 3x32x32, 10 classes" in text, text
    assert "10 clients, " in text, text
    done = home.flexp("data", "info", os.path.join(TOP, "configs", "mnist_grid.yaml"), "--data", home.file("none"), check=False)
    assert done.returncode == 2 and "flexp data fetch mnist" in done.stderr, done.stderr


if __name__ == "__main__":
    assert os.path.exists(FLEXP)
    sys.exit(run_tests())
