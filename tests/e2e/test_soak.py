"""scripts/soak would see what it looks for: leaks, wrong answers, clients that fail, too many errors."""

import importlib.machinery
import importlib.util
import json
import socket
import sys
import threading

import pytest

from kvplane_process import SOURCE, eventually

sys.path.insert(0, str(SOURCE / "tests"))
from soak.load import Load  # noqa: E402
from soak.memory import MIN_WATCHED_S, WARM_S, Life  # noqa: E402

MIB = 1 << 20


def life(size_at, seconds):
    one = Life("node", 1)
    one.samples = [(age, size_at(age)) for age in range(seconds)]
    return one


def test_a_leak_is_seen_and_a_cache_that_fills_is_none():
    leaking = life(lambda age: (60 + age) * MIB, 120)
    assert leaking.leaks()
    assert leaking.figures()["bytes_per_s"] == pytest.approx(MIB, rel=0.5)
    assert not life(lambda age: (60 + min(age, WARM_S)) * MIB, 120).leaks()
    assert not life(lambda age: (60 + 30 * (age % 7 == 0)) * MIB, 300).leaks(), "up and down"


def test_a_life_too_short_to_tell_is_not_judged():
    assert life(lambda age: (60 + age) * MIB, WARM_S + MIN_WATCHED_S - 1).figures() is None


def read_request(connection):
    with connection.makefile("rb") as stream:
        length = 0
        while (line := stream.readline().strip()):
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        stream.read(length)


class Scripted:
    """A server that gives every client the same bytes."""

    def __init__(self, reply):
        self._server = socket.create_server(("127.0.0.1", 0))
        self._reply = reply
        self.address = "127.0.0.1:%d" % self._server.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            connection, _ = self._server.accept()
            with connection:
                read_request(connection)  # whole: a close over unread bytes resets the connection
                connection.sendall(self._reply)


def http(body, status="200 OK", length=None):
    return f"HTTP/1.1 {status}\r\nContent-Length: {length or len(body)}\r\n\r\n{body}".encode()


def answer(tokens):
    choice = {"text": "x", "token_ids": tokens, "finish_reason": "length"}
    return http(json.dumps({"choices": [choice], "usage": {}, "kvplane": {"source": "transfer"}}))


def problems_with(reply):
    stop = threading.Event()
    load = Load(Scripted(reply).address, [("prompt", [1, 2])], 1, stop)
    load.start()
    eventually(lambda: sum(load.counts.values()) >= 2, "it goes on asking")
    stop.set()
    load.join(10)
    return load.counts, load.problems


def test_right_answers_and_clean_errors_are_no_problem():
    counts, problems = problems_with(answer([1, 2]))
    assert counts["answers"] >= 2 and not problems
    counts, problems = problems_with(http('{"error": {"code": "unavailable"}}', "503 Service Unavailable"))
    assert counts["error 503"] >= 2 and not problems


@pytest.mark.parametrize(
    "reply, words",
    [
        (answer([1, 3]), "[1, 3] for [1, 2]"),
        (http("{", length=1000), "IncompleteRead"),
        (http("this is no JSON"), "JSONDecodeError"),
        (http("{}"), "KeyError"),
        (b"", "RemoteDisconnected"),
        (b"220 mail ready\r\n", "BadStatusLine"),
    ],
    ids=["wrong", "cut", "no_json", "no_choices", "silent", "no_http"],
)
def test_whatever_else_comes_is_a_problem_and_the_client_goes_on(reply, words):
    counts, problems = problems_with(reply)
    assert sum(counts.values()) >= 2
    assert problems and words in problems[0], problems


@pytest.fixture(scope="module")
def script():
    loader = importlib.machinery.SourceFileLoader("soak_script", str(SOURCE / "scripts" / "soak"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("soak_script", loader))
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


def test_nearly_all_requests_must_be_answered(script):
    def verdict(**counts):
        problems = []
        script.judge(script.Counter({name.replace("_", " "): count for name, count in counts.items()}), problems)
        return problems

    assert not verdict(answers=980, error_503=20, source_transfer=900)
    assert verdict(answers=900, error_503=100, source_transfer=900)
    assert verdict(answers=1000, source_recompute=1000), "nothing was transferred"
    assert verdict()
