"""Prefixes of prompts in a store: reported, reused, shared between nodes, kept over restarts."""

import pytest

from kvplane_process import eventually, run

RUN = 128
STORE_FLAGS = ["--store-run-tokens", RUN, "--store-load", "always", "--store-timeout-ms", 10_000]


def cached(done):
    tokens = done.usage["prompt_tokens_details"]["cached_tokens"]
    assert tokens == done.kvplane["prefix"]["loaded_tokens"]
    return tokens


def whole_runs(done):
    """Tokens of whole runs that leave at least one prompt token to compute."""
    return (done.usage["prompt_tokens"] - 1) // RUN * RUN


def pushed(node, runs):
    eventually(lambda: node.client.metric("kvplane_store_pushed_runs_total") >= runs, f"{runs} runs in the store")


@pytest.fixture
def start(launch):
    """A node with a store of its own."""
    return lambda *store, **options: launch.node("--store", *store, *STORE_FLAGS, **options)


def test_the_second_time_is_cached_and_the_same(start, prose):
    node = start("mem:?bytes=64MiB")
    prompt = prose(3000, start=700)
    cold = node.client.complete(prompt, max_tokens=24)
    assert cached(cold) == 0
    assert cold.kvplane["prefix"]["found_tokens"] == 0
    runs = whole_runs(cold) // RUN
    assert runs >= 3
    pushed(node, runs)
    warm = node.client.complete(prompt, max_tokens=24)
    assert warm.token_ids == cold.token_ids
    assert cached(warm) == whole_runs(warm)
    assert warm.kvplane["prefix"]["tier"] == "dram"
    assert "error" not in warm.kvplane["prefix"]
    assert node.client.metric("kvplane_store_tier_entries", tier="dram") >= runs
    assert node.client.metric("kvplane_store_tier_hits_total", tier="dram") >= runs
    assert node.client.metric("kvplane_store_tier_left_out", tier="dram") == 0
    assert node.client.metric("kvplane_store_detached_bytes") == 0
    node.assert_idle()


def test_a_longer_prompt_takes_what_it_shares(start, prose):
    node = start("mem:")
    first = node.client.complete(prose(2000, start=100), max_tokens=1)
    pushed(node, whole_runs(first) // RUN)
    longer = node.client.complete(prose(4000, start=100), max_tokens=16)
    assert 0 < cached(longer) <= whole_runs(first)
    again = node.client.complete(
        prose(4000, start=100), max_tokens=16, kvplane={"accept_lossy": False}
    )
    assert again.token_ids == longer.token_ids


def test_embedded_by_default_and_off_when_told(launch, prose):
    default = launch.start("default", "serve", "--port", 0, "--threads", 1, "--compute", "f32")
    assert default.await_ready().ready["store"]
    none = launch.start("none", "serve", "--port", 0, "--threads", 1, "--store", "none").await_ready()
    assert "store" not in none.ready


def test_a_folder_keeps_prefixes_over_a_restart(start, prose, tmp_path):
    store = f"dir:{tmp_path / 'kv'}?bytes=1GB"
    prompt = prose(3000, start=1500)
    node = start(store)
    cold = node.client.complete(prompt, max_tokens=16)
    pushed(node, whole_runs(cold) // RUN)
    node.process.stop()
    node = start(store)
    warm = node.client.complete(prompt, max_tokens=16)
    assert warm.token_ids == cold.token_ids
    assert cached(warm) == whole_runs(warm)
    assert warm.kvplane["prefix"]["tier"] == "disk"
    # What the disk had is in memory now.
    hot = node.client.complete(prompt, max_tokens=16)
    assert hot.token_ids == cold.token_ids and cached(hot) == whole_runs(hot)


def test_nodes_share_a_store_and_survive_its_end(launch, start, prose):
    server = launch.start("store", "store", "--listen", "tcp://127.0.0.1:0", "--dram", "64MiB")
    endpoint = server.await_ready().ready["store"]
    writer = start(endpoint, "--store-dram", 0)
    reader = start(endpoint, "--store-dram", 0)
    prompt = prose(3000, start=2500)
    cold = writer.client.complete(prompt, max_tokens=16)
    pushed(writer, whole_runs(cold) // RUN)
    warm = reader.client.complete(prompt, max_tokens=16)
    assert warm.token_ids == cold.token_ids
    assert cached(warm) == whole_runs(warm)
    assert warm.kvplane["prefix"]["tier"] == "remote"
    server.kill()
    alone = reader.client.complete(prompt, max_tokens=16)
    assert alone.token_ids == cold.token_ids
    assert cached(alone) == 0 and alone.kvplane["prefix"]["error"]
    reader.assert_idle()


def test_a_salt_keeps_nodes_apart(launch, start, prose, tmp_path):
    salt = tmp_path / "salt"
    salt.write_text("pepper\n")
    server = launch.start("store", "store", "--listen", "tcp://127.0.0.1:0", "--dram", "64MiB")
    endpoint = server.await_ready().ready["store"]
    plain = start(endpoint)
    salted = start(endpoint, "--store-salt-file", salt)
    prompt = prose(2000, start=300)
    cold = plain.client.complete(prompt, max_tokens=8)
    pushed(plain, whole_runs(cold) // RUN)
    other = salted.client.complete(prompt, max_tokens=8)
    assert other.token_ids == cold.token_ids
    assert other.kvplane["prefix"]["found_tokens"] == 0


def test_prefill_loads_and_decode_gets_all_of_it(launch, prose):
    store = ["--store", "mem:", *STORE_FLAGS]
    cluster = launch.cluster(prefill_flags=store)
    prompt = prose(3000, start=3500)
    cold = cluster.client.complete(prompt, max_tokens=16)
    pushed(cluster.prefill[0], whole_runs(cold) // RUN)
    warm = cluster.client.complete(prompt, max_tokens=16)
    assert warm.token_ids == cold.token_ids
    assert warm.source == "transfer"
    loaded = cluster.prefill[0].client.metric("kvplane_store_prompt_tokens_total", event="loaded")
    assert loaded == whole_runs(warm)
    cluster.assert_idle()


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--store", "tape:3"], ["--store", "tape"]),
        (["--store", "none", "--store", "mem:"], ["--store none"]),
        (["--store-strategy", "gzip"], ["--store-strategy"]),
        (["--store-strategy", "c11"], ["store strategy", "profile"]),
        (["--store-quality", "1001"], ["--store-quality"]),
        (["--store-run-tokens", "100"], ["block run"]),
        (["--store-timeout-ms", "0"], ["--store-timeout-ms"]),
        (["--store-salt-file", "/nowhere"], ["--store-salt-file"]),
    ],
    ids=lambda value: "-".join(value) if value and value[0].startswith("--") else "",
)
def test_wrong_flags_are_named(flags, words):
    done = run("serve", "--port", 0, *flags)
    assert done.returncode in (1, 2, 4)
    for word in words:
        assert word in done.stderr
