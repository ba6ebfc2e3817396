"""kvplane store: real servers, killed and restarted, and the verbs that act on them."""

import json
import os
import random
import signal
import socket
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from kv_arrays import encode, encode_cache, make_cache, save
from kvplane_process import KvplaneProcess, eventually, run


@pytest.fixture
def serve_store(tmp_path):
    """Starts store servers that end with the test; serve_store(flags...) gives a ready one."""
    started = []

    def start(*flags, listen="tcp://127.0.0.1:0", disk=True):
        arguments = ["store", "--listen", listen, "--dram", "64MiB", "--log-level", "debug", *flags]
        if disk:
            arguments += ["--disk", tmp_path / "disk", "--disk-bytes", "4GB"]
        process = KvplaneProcess(arguments, tmp_path / f"store-{len(started)}.log")
        started.append(process)
        return process.await_ready()

    yield start
    for process in started:
        process.kill()


@pytest.fixture
def thing(tmp_path):
    return encode_cache(tmp_path, 256, "int8")


def endpoint(process):
    return process.ready["store"]


def put(process, source, name, *flags):
    return run("store", "put", source, "--store", endpoint(process), "--name", name, *flags)


def get(process, target, name, *flags):
    return run("store", "get", "--output", target, "--store", endpoint(process), "--name", name, *flags)


def stats(process, *flags):
    done = run("store", "stats", "--store", endpoint(process), *flags)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_ready_line_names_role_and_endpoints(serve_store):
    ready = serve_store("--metrics", "127.0.0.1:0").ready
    assert ready["role"] == "store"
    assert ready["store"].startswith("tcp://127.0.0.1:")
    assert ready["metrics"].startswith("127.0.0.1:")


def test_what_was_put_comes_back_and_verifies(serve_store, thing, tmp_path):
    server = serve_store()
    done = put(server, thing, "a")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["bytes"] == thing.stat().st_size and len(said["key"]) == 64
    assert get(server, tmp_path / "back", "a").returncode == 0
    assert (tmp_path / "back").read_bytes() == thing.read_bytes()
    assert run("verify", tmp_path / "back").returncode == 0
    by_key = run("store", "get", "--store", endpoint(server), "--key", said["key"], "-o", tmp_path / "by-key")
    assert by_key.returncode == 0, by_key.stderr
    missing = get(server, tmp_path / "none", "b")
    assert missing.returncode == 4 and not (tmp_path / "none").exists()


def test_a_damaged_file_is_not_put(serve_store, thing, tmp_path):
    server = serve_store(disk=False)
    damaged = bytearray(thing.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "damaged").write_bytes(damaged)
    assert put(server, tmp_path / "damaged", "a").returncode == 3
    assert stats(server)["store"]["puts"] == 0


def test_tenants_stay_apart_and_are_erased(serve_store, thing, tmp_path):
    server = serve_store()
    for tenant in ("red", "blue"):
        for name in ("a", "b"):
            assert put(server, thing, name, "--tenant", tenant).returncode == 0
    assert get(server, tmp_path / "x", "a").returncode == 4, "the default tenant has put nothing"
    assert run("store", "erase", "--store", endpoint(server)).returncode == 2, "never everything by accident"
    erased = run("store", "erase", "--store", endpoint(server), "--tenant", "red")
    assert erased.returncode == 0, erased.stderr
    assert get(server, tmp_path / "x", "a", "--tenant", "red").returncode == 4
    assert get(server, tmp_path / "x", "a", "--tenant", "blue").returncode == 0
    one = run("store", "erase", "--store", endpoint(server), "--tenant", "blue", "--name", "a")
    assert json.loads(one.stdout) == {"erased": 1}
    assert get(server, tmp_path / "x", "a", "--tenant", "blue").returncode == 4
    assert get(server, tmp_path / "x", "b", "--tenant", "blue").returncode == 0


def test_counters_by_tier_in_stats_and_metrics(serve_store, thing, tmp_path):
    server = serve_store("--metrics", "127.0.0.1:0")
    assert put(server, thing, "a", "--durable").returncode == 0
    assert get(server, tmp_path / "x", "a").returncode == 0
    counted = stats(server)
    assert [tier["tier"] for tier in counted["tiers"]] == ["dram", "disk"]
    assert all(tier["puts"] == 1 and tier["entries"] == 1 for tier in counted["tiers"])
    url = f"http://{server.ready['metrics']}"
    text = urllib.request.urlopen(f"{url}/metrics", timeout=10).read().decode()
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    disk = next(name for name in lines if name.startswith('kvplane_store_tier_puts_total{tier="disk"'))
    assert lines[disk] == "1"
    assert int(lines["kvplane_store_received_bytes_total"]) > thing.stat().st_size
    assert lines["kvplane_store_incoming_bytes"] == "0"
    for zero in ("writes_failed_total", "writes_left_out", "left_out", "left_out_total", "queued_bytes"):
        values = [lines[name] for name in lines if name.startswith(f"kvplane_store_tier_{zero}{{")]
        assert values == ["0", "0"], zero
    for memory in ("detached_bytes", "pinned_bytes", "rising_bytes"):
        assert lines[f"kvplane_store_{memory}"] == "0"
    assert json.load(urllib.request.urlopen(f"{url}/health", timeout=10)) == {"status": "ok"}
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{url}/v1/models", timeout=10)
    with pytest.raises(urllib.error.HTTPError, match="413"):
        urllib.request.urlopen(f"{url}/metrics", data=b"x", timeout=10)


def test_sigterm_makes_everything_durable(serve_store, thing, tmp_path):
    server = serve_store()
    for name in "abc":
        assert put(server, thing, name).returncode == 0  # not asked to be durable
    assert server.stop() == 0
    again = serve_store()
    for name in "abc":
        assert get(again, tmp_path / name, name).returncode == 0
        assert (tmp_path / name).read_bytes() == thing.read_bytes()
    assert again.stop() == 0
    # A folder that nobody serves is a store of its own.
    alone = run("store", "get", "--store", f"dir:{tmp_path / 'disk'}", "--name", "a", "-o", tmp_path / "alone")
    assert alone.returncode == 0, alone.stderr
    assert (tmp_path / "alone").read_bytes() == thing.read_bytes()


def test_killed_under_load_keeps_what_it_acknowledged(serve_store, tmp_path):
    """kill -9 in the middle of durable puts of several clients: each that was answered is there, whole."""
    sources = [
        encode(save(tmp_path, make_cache(256, seed=seed)), tmp_path / f"{seed}.kvo", "int8") for seed in range(4)
    ]
    server = serve_store()
    acknowledged = []
    stop = threading.Event()

    def write(worker):
        for i in range(10_000):
            if stop.is_set():
                return
            name = f"{worker}-{i}"
            if put(server, sources[i % 4], name, "--durable").returncode == 0:
                acknowledged.append((name, sources[i % 4]))

    with ThreadPoolExecutor(4) as pool:
        writers = [pool.submit(write, worker) for worker in range(4)]
        eventually(lambda: len(acknowledged) >= 24, "two dozen acknowledged puts", timeout=60)
        server.kill()
        stop.set()
        for writer in writers:
            writer.result()
    again = serve_store()
    for name, source in acknowledged:
        done = get(again, tmp_path / "back", name)
        assert done.returncode == 0, f"{name}: {done.stderr}"
        assert (tmp_path / "back").read_bytes() == source.read_bytes(), name
    assert stats(again)["store"]["corrupt"] == 0
    assert put(again, sources[0], "after").returncode == 0
    assert again.stop() == 0


def test_public_addresses_need_protection(thing, tmp_path, serve_store):
    bare = run("store", "--listen", "tcp://0.0.0.0:0", "--dram", "64MiB")
    assert bare.returncode == 4 and "--auth-token-file" in bare.stderr
    token = tmp_path / "token"
    token.write_text("a-token-of-some-length\n")
    public = serve_store("--auth-token-file", token, listen="tcp://0.0.0.0:0", disk=False)
    port = endpoint(public).rsplit(":", 1)[1]
    flags = ["put", thing, "--store", f"tcp://127.0.0.1:{port}", "--name", "a", "--timeout-s", 10]
    assert run("store", *flags).returncode != 0, "no token"
    wrong = tmp_path / "wrong"
    wrong.write_text("another-token-of-some-length\n")
    assert run("store", *flags, "--auth-token-file", wrong).returncode != 0
    done = run("store", *flags, "--auth-token-file", token)
    assert done.returncode == 0, done.stderr
    assert public.stop() == 0


def test_tls_from_the_token(thing, tmp_path, serve_store):
    token = tmp_path / "token"
    token.write_text("a-token-of-some-length\n")
    server = serve_store("--auth-token-file", token, "--kv-tls", disk=False)
    done = put(server, thing, "a", "--auth-token-file", token, "--kv-tls")
    assert done.returncode == 0, done.stderr
    assert get(server, tmp_path / "x", "a", "--auth-token-file", token, "--kv-tls").returncode == 0
    assert put(server, thing, "b", "--auth-token-file", token, "--timeout-s", 5).returncode != 0, "not encrypted"


def test_a_quota_holds_in_memory(serve_store, thing):
    size = thing.stat().st_size
    server = serve_store("--quota", 3 * (size + 1024), disk=False)
    for i in range(6):
        assert put(server, thing, f"{i}", "--tenant", "red").returncode == 0
    assert put(server, thing, "0", "--tenant", "blue").returncode == 0
    counted = stats(server)["store"]
    assert counted["entries"] == 4 and counted["evictions"] == 3, "three of red, one of blue"


def test_what_can_never_fit_is_refused_before_it_is_sent(serve_store, thing):
    server = serve_store("--quota", thing.stat().st_size // 2, "--metrics", "127.0.0.1:0", disk=False)
    refused = put(server, thing, "a")
    assert refused.returncode == 4 and "quota" in refused.stderr
    text = urllib.request.urlopen(f"http://{server.ready['metrics']}/metrics", timeout=10).read().decode()
    received = next(line for line in text.splitlines() if line.startswith("kvplane_store_received_bytes_total "))
    assert int(received.split()[1]) < 1000


def test_a_second_signal_ends_a_process_that_cannot_open_its_folder(tmp_path):
    """A disk that hangs: opening the database waits for somebody who writes into a pipe."""
    (tmp_path / "disk" / "rocksdb").mkdir(parents=True)
    os.mkfifo(tmp_path / "disk" / "rocksdb" / "CURRENT")
    flags = ["store", "--listen", "tcp://127.0.0.1:0", "--disk", tmp_path / "disk"]
    process = KvplaneProcess(flags, tmp_path / "store.log")
    eventually(lambda: f"opening {tmp_path / 'disk'}" in process.log(), "the folder is being opened")
    process.signal(signal.SIGTERM)
    eventually(lambda: "told to stop" in process.log(), "the first signal was taken")
    assert process.alive(), "it would end in good order"
    process.signal(signal.SIGTERM)
    assert process.wait() == 1


def test_port_scanners_and_random_bytes_do_no_harm(serve_store, thing, tmp_path):
    server = serve_store("--metrics", "127.0.0.1:0", disk=False)
    assert put(server, thing, "a").returncode == 0
    address = ("127.0.0.1", int(endpoint(server).rsplit(":", 1)[1]))
    sockets = [socket.create_connection(address) for _ in range(20)]
    for i, each in enumerate(sockets):
        each.sendall([b"", b"GET / HTTP/1.1\r\nHost: a-scanner\r\n\r\n", random.Random(i).randbytes(5000), b"KVPS"][i % 4])
    assert get(server, tmp_path / "x", "a").returncode == 0, "others are served all the while"
    for each in sockets:
        each.close()
    url = f"http://{server.ready['metrics']}/metrics"
    lines = urllib.request.urlopen(url, timeout=10).read().decode().splitlines()
    errors = next(line for line in lines if line.startswith("kvplane_store_protocol_errors_total "))
    assert int(errors.split()[1]) >= 10
    assert server.stop() == 0


def test_a_store_behind_a_store(serve_store, thing, tmp_path):
    far = serve_store()
    near = serve_store("--tier", endpoint(far), disk=False)
    assert put(near, thing, "a").returncode == 0
    eventually(lambda: stats(far)["store"]["puts"] == 1, "written behind to the far store")
    near.kill()
    fresh = serve_store("--tier", endpoint(far), disk=False)
    # A connection that is not up within what a look-up may take is a miss, and the next look-up finds it up.
    eventually(lambda: get(fresh, tmp_path / "x", "a").returncode == 0, "found in the far store", timeout=30)
    assert (tmp_path / "x").read_bytes() == thing.read_bytes()
    assert [tier["tier"] for tier in stats(fresh)["tiers"]] == ["dram", "remote"]
    far.signal(signal.SIGSTOP)  # it hangs: what the near one has is served all the same
    try:
        assert put(fresh, thing, "b").returncode == 0
        assert get(fresh, tmp_path / "y", "b").returncode == 0
    finally:
        far.signal(signal.SIGCONT)


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--dram", "much"], "--dram"),
        (["--listen", "127.0.0.1:1"], "SCHEME://HOST:PORT"),
        (["--tier", "ftp://x"], "known are mem:"),
        (["--metrics", "nowhere"], "HOST:PORT"),
        (["--metrics", "0.0.0.0:0"], "--auth-token-file"),
        (["--ttl-s", "-1"], "--ttl-s"),
    ],
)
def test_wrong_flags_are_told(flags, words):
    anywhere = [] if "--listen" in flags else ["--listen", "tcp://127.0.0.1:0"]
    done = run("store", *anywhere, *flags)
    assert done.returncode in (2, 4) and words in done.stderr, done.stderr
