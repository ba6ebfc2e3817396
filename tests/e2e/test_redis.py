"""Prefixes in a real Redis: what one node computed another one finds, and a Redis that dies costs no answer."""

import shutil

import pytest

from kvplane_process import eventually
from redis_server import RedisCluster, RedisServer

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


@pytest.fixture
def redis_cluster(tmp_path):
    if shutil.which("redis-server") is None or shutil.which("redis-cli") is None:
        pytest.skip("redis-server or redis-cli is not installed")
    with RedisCluster(tmp_path) as cluster:
        yield cluster


@pytest.mark.timeout(180)
def test_a_master_that_dies_is_replaced_and_costs_no_answer(launch, redis_cluster, prose):
    """Nodes on a Redis Cluster: every answer while a master is dead and its replica takes over, prefixes after."""
    store = ("--store", redis_cluster.url(), "--store-dram", 0)
    writer, reader = launch.node(*store), launch.node(*store)
    prompts = [prose(1800, start=start) for start in (0, 4000, 8000, 12000)]
    expected = [writer.client.complete(prompt, max_tokens=4).token_ids for prompt in prompts]
    masters = redis_cluster.masters()
    assert len(masters) == RedisCluster.MASTERS
    eventually(lambda: sum(master.keys() for master in masters) >= 2 * len(prompts), "runs of every prompt are stored")

    masters[0].kill()
    for node in (writer, reader):
        for prompt, tokens in zip(prompts, expected, strict=True):
            assert node.client.complete(prompt, max_tokens=4, timeout=30).token_ids == tokens
    eventually(lambda: len(redis_cluster.masters()) == RedisCluster.MASTERS, "a replica took over", timeout=60)

    late = prose(1800, start=16000)
    tokens = writer.client.complete(late, max_tokens=4).token_ids

    def found():
        before = found_tokens(reader)
        for prompt, wanted in zip([*prompts, late], [*expected, tokens], strict=True):
            assert reader.client.complete(prompt, max_tokens=4, timeout=30).token_ids == wanted
            writer.client.complete(prompt, max_tokens=4, timeout=30)  # pushes again what was lost with the master
        return found_tokens(reader) - before >= 256 * (len(prompts) + 1)

    eventually(found, "the reader finds a run of every prompt, also of what was stored after", timeout=60)
