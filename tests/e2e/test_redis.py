"""Prefixes in a real Redis: what one node computed another one finds, and a Redis that dies costs no answer."""

import shutil

import pytest

from kvplane_process import eventually
from redis_server import RedisServer

FOUND = ("kvplane_store_prompt_tokens_total", "found")


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
    # No memory of its own: what it finds comes from Redis. The first look-up may end before its connection is up.
    reader = launch.node(*store, "--store-dram", 0)

    def found():
        assert reader.client.complete(prompt, max_tokens=8).token_ids == expected
        return found_tokens(reader) >= 512

    eventually(found, "the reader finds what the writer computed", timeout=30)


def test_a_redis_that_dies_costs_no_answer(launch, redis, prose):
    node = launch.node("--store", f"redis://127.0.0.1:{redis.port}")
    prompt = prose(2500, start=500)
    expected = node.client.complete(prompt, max_tokens=8).token_ids
    redis.kill()
    for _ in range(3):
        assert node.client.complete(prompt, max_tokens=8, timeout=30).token_ids == expected
