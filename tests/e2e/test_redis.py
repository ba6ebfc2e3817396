"""Prefixes in a real Redis: what one node computed another one finds, and a Redis that dies costs no answer."""

import shutil
import socket
import subprocess

import pytest

from kvplane_process import eventually

FOUND = ("kvplane_store_prompt_tokens_total", "found")


class RedisServer:
    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        arguments = {"port": self.port, "bind": "127.0.0.1", "dir": folder, "appendonly": "no"}
        flags = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
        self._process = subprocess.Popen(["redis-server", *flags, "--save", ""], stdout=subprocess.DEVNULL)
        try:
            eventually(lambda: self.command("PING") == b"+PONG\r\n", "redis-server answers")
        except BaseException:
            self.kill()
            raise

    def command(self, *words):
        encoded = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w.encode()) for w in words)
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                connection.sendall(encoded)
                return connection.recv(4096)
        except OSError:
            return None

    def keys(self):
        return int(self.command("DBSIZE").strip()[1:])

    def kill(self):
        self._process.kill()
        self._process.wait()


@pytest.fixture
def redis(tmp_path):
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    server = RedisServer(tmp_path)
    yield server
    server.kill()


def found_tokens(node):
    name, event = FOUND
    return node.client.metric(name, event=event)


def test_nodes_share_prefixes_through_redis(launch, redis, prose):
    store = ("--store", f"redis://127.0.0.1:{redis.port}?ttl_s=600")
    writer = launch.node(*store)
    prompt = prose(2500, start=500)
    expected = writer.client.complete(prompt, max_tokens=8).token_ids
    eventually(lambda: redis.keys() >= 2, "block runs of 256 tokens lie in Redis")
    reader = launch.node(*store)
    assert reader.client.complete(prompt, max_tokens=8).token_ids == expected
    assert found_tokens(reader) >= 512


def test_a_redis_that_dies_costs_no_answer(launch, redis, prose):
    node = launch.node("--store", f"redis://127.0.0.1:{redis.port}")
    prompt = prose(2500, start=500)
    expected = node.client.complete(prompt, max_tokens=8).token_ids
    redis.kill()
    for _ in range(3):
        assert node.client.complete(prompt, max_tokens=8, timeout=30).token_ids == expected
