"""Nodes that die, hang or lie while KV is under way: a clear error or a recompute, in time, and nothing kept.

Every test has clusters of its own. "In time" is the client's timeout: a call that has not ended by then fails
the test. SLOW makes a transfer long enough to be hit in its middle.
"""

import json
import signal
import socket
import threading
from contextlib import contextmanager

import pytest

from api_client import ApiError
from kvplane_process import eventually
from model_folder import change_one_weight, copy_model, golden

SLOW = ("--link-rate", "2Mbit/s")
# Nothing but a withdrawal frees KV that nobody fetches while the test runs.
HELD = ("--transfer-timeout-s", 600, "--offer-lease-s", 600)
IN_TIME_S = 30
RECOMPUTES = "kvplane_recomputes_total"
TILES_RETRIED = "kvplane_tiles_retried_total"


class Call(threading.Thread):
    """A completion under way in another thread."""

    def __init__(self, client, prompt, **fields):
        super().__init__(daemon=True)
        self._call = lambda: client.complete(prompt, timeout=IN_TIME_S, **fields)
        self._done = self._error = None
        self.start()

    def run(self):
        try:
            self._done = self._call()
        except Exception as error:  # handed to the test's thread
            self._error = error

    def result(self):
        self.join(IN_TIME_S + 5)
        assert not self.is_alive(), "neither an answer nor an error in time"
        if self._error:
            raise self._error
        return self._done


@contextmanager
def abandoned_call(client, prompt):
    """A completion whose client is there until the `with` block ends, and then is not."""
    body = json.dumps({"model": "demo", "prompt": prompt, "max_tokens": 16}).encode()
    host, port = client.address.rsplit(":", 1)
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        yield


def await_middle_of_transfer(prefill, decode):
    """The prompt is computed, its KV is on the slow wire. (Earlier there would be nothing to interrupt: a
    router that loses a prefill node before its answer sends the request elsewhere.)"""
    eventually(
        lambda: prefill.requests("transferring") > 0
        and prefill.requests("running") == 0
        and decode.requests("transferring") > 0,
        "a transfer is under way",
    )


@pytest.fixture
def long_prompt(prose):
    """About 450 tokens: 1.8 MB of KV, 7 s at 2 Mbit/s."""
    return prose(1500, start=9000)


@pytest.fixture
def expected(unified, long_prompt):
    return unified.client.complete(long_prompt, max_tokens=16).token_ids


def test_decode_node_killed_in_mid_transfer(launch, long_prompt):
    cluster = launch.cluster(prefill_flags=(*SLOW, *HELD))
    call = Call(cluster.client, long_prompt, max_tokens=16)
    await_middle_of_transfer(cluster.prefill[0], cluster.decode[0])
    cluster.prefill[0].assert_holds_kv()
    cluster.decode[0].process.kill()
    with pytest.raises(ApiError) as failed:
        call.result()
    assert failed.value.status in (502, 503)
    assert failed.value.error["message"]
    cluster.prefill[0].assert_idle()
    eventually(lambda: cluster.client.get("/ready").status == 503, "no decode node, not ready")


def dropped(node, reason):
    return node.client.metric("kvplane_offers_dropped_total", reason=reason)


def await_unfetched_kv(prefill):
    """The prompt is computed and answered; its KV waits."""
    eventually(
        lambda: prefill.ended("finished") == 1 and prefill.requests("transferring") == 1,
        "KV waits for its decode node",
    )


def test_decode_node_killed_before_it_fetches(launch, long_prompt):
    cluster = launch.cluster(prefill_flags=HELD)
    (prefill,), (decode,) = cluster.prefill, cluster.decode
    decode.process.signal(signal.SIGSTOP)
    call = Call(cluster.client, long_prompt, max_tokens=16)
    await_unfetched_kv(prefill)
    decode.process.kill()
    with pytest.raises(ApiError) as failed:
        call.result()
    assert failed.value.status == 503
    prefill.assert_idle()
    assert dropped(prefill, "withdrawn") == 1
    eventually(
        lambda: cluster.router.client.metric("kvplane_router_withdrawals_total", result="withdrawn") == 1,
        "the router has counted it",
    )


def test_client_that_leaves_before_the_kv_is_fetched(launch, long_prompt):
    cluster = launch.cluster(prefill_flags=HELD)
    (prefill,), (decode,) = cluster.prefill, cluster.decode
    decode.process.signal(signal.SIGSTOP)
    try:
        with abandoned_call(cluster.client, long_prompt):
            await_unfetched_kv(prefill)
        prefill.assert_idle()
    finally:
        decode.process.signal(signal.SIGCONT)
    assert dropped(prefill, "withdrawn") == 1
    cluster.assert_idle()


def test_client_that_leaves_in_mid_prefill(launch, prose):
    """Steps of few tokens, so that there is a middle; what was begun is cancelled on both nodes."""
    short_steps = ("--step-tokens", 72, "--max-running", 8)
    cluster = launch.cluster(prefill_flags=(*HELD, *short_steps))
    (prefill,), (decode,) = cluster.prefill, cluster.decode
    with abandoned_call(cluster.client, prose(5000)):
        eventually(lambda: prefill.requests("running") > 0, "the prefill runs", interval=0.005)
    cluster.assert_idle()
    eventually(lambda: decode.ended("cancelled") == 1, "the decode node has cancelled")


def test_kv_that_nobody_fetches_is_dropped(launch, long_prompt):
    prefill = launch.node("--offer-lease-s", 1, role="prefill")
    prefill.prefill_only(long_prompt)
    prefill.assert_idle()
    assert dropped(prefill, "lease") == 1
    assert "nobody asked for the KV" in prefill.process.log()


def test_decode_node_killed_in_mid_stream(launch):
    cluster = launch.cluster()
    body = {"model": "demo", "prompt": "Once upon a time", "max_tokens": 1500, "ignore_eos": True}
    with pytest.raises(ApiError) as failed:
        with cluster.client.stream("/v1/completions", body, timeout=IN_TIME_S) as events:
            next(events)
            cluster.decode[0].process.kill()
            for _ in events:
                pass
    assert failed.value.error["message"], "a stream that cannot go on says so"
    cluster.prefill[0].assert_idle()


def test_the_other_decode_node_takes_over(launch, long_prompt, expected):
    cluster = launch.cluster(prefill_flags=SLOW, decodes=2)
    call = Call(cluster.client, long_prompt, max_tokens=16, kvplane={"strategy": "int4"})
    eventually(lambda: cluster.prefill[0].requests("transferring") > 0, "a transfer is under way")
    node = eventually(
        lambda: next((node for node in cluster.decode if node.requests("transferring") > 0), None),
        "one decode node pulls",
    )
    node.process.kill()
    done = call.result()
    assert len(done.token_ids) == 16
    if done.source != "transfer":
        assert done.token_ids == expected
    cluster.assert_idle()
    assert Call(cluster.client, "And then", max_tokens=4).result().usage["completion_tokens"] == 4


def test_prefill_node_killed_in_mid_transfer(launch, long_prompt, expected):
    cluster = launch.cluster(prefill_flags=SLOW)
    call = Call(cluster.client, long_prompt, max_tokens=16)
    await_middle_of_transfer(cluster.prefill[0], cluster.decode[0])
    cluster.prefill[0].process.kill()
    done = call.result()
    assert done.source == "recompute"
    assert done.kvplane["recompute_reason"]
    assert done.token_ids == expected
    assert cluster.decode[0].client.metric(RECOMPUTES) == 1
    cluster.assert_idle()


def test_prefill_node_stops_in_mid_transfer(launch, long_prompt, expected):
    cluster = launch.cluster(prefill_flags=SLOW, decode_flags=("--stall-timeout-s", 1))
    call = Call(cluster.client, long_prompt, max_tokens=16)
    await_middle_of_transfer(cluster.prefill[0], cluster.decode[0])
    cluster.prefill[0].process.signal(signal.SIGSTOP)
    try:
        done = call.result()
    finally:
        cluster.prefill[0].process.signal(signal.SIGCONT)
    assert done.source == "recompute"
    assert done.token_ids == expected
    cluster.assert_idle()


# Payloads of tiles are the pieces of at least a kilobyte. One in twenty damaged: asked for again. All
# damaged: given up. Any piece, frame headers too: whatever it takes.
@pytest.mark.parametrize(
    "fault, source",
    [
        ("flip=0.05,flip-min=1000,seed=7", "transfer"),
        ("flip=1,flip-min=1000,seed=7", "recompute"),
        ("flip=0.02,seed=7", None),
    ],
)
@pytest.mark.parametrize("strategy", ["off", "int8"])
def test_damaged_bytes_are_never_believed(launch, cluster, unified, prose, fault, source, strategy):
    damaged = launch.cluster(prefill_flags=("--kv-fault", fault))
    seen = set()
    for start in (0, 3000, 6000):
        arguments = dict(
            prompt=prose(1500, start), max_tokens=16, kvplane={"strategy": strategy}, timeout=IN_TIME_S
        )
        done = damaged.client.complete(**arguments)
        seen.add(done.source)
        reference = cluster.client if done.source == "transfer" else unified.client
        assert done.token_ids == reference.complete(**arguments).token_ids
    decode = damaged.decode[0].client
    assert decode.metric(TILES_RETRIED) + decode.metric(RECOMPUTES) > 0
    if source == "transfer":
        assert decode.metric(TILES_RETRIED) > 0
    if source:
        assert source in seen
    damaged.assert_idle()


def test_damaged_answers_of_the_decode_node(launch, prose, unified):
    """Pulls, credits and acknowledgements travel the other way and are checked as well."""
    cluster = launch.cluster(
        prefill_flags=("--transfer-timeout-s", 3),
        decode_flags=("--kv-fault", "flip=0.2,seed=3", "--stall-timeout-s", 1, "--transfer-timeout-s", 3),
    )
    for start in (0, 3000, 6000):
        prompt = prose(1500, start)
        done = cluster.client.complete(prompt, max_tokens=16, timeout=IN_TIME_S)
        assert done.token_ids == unified.client.complete(prompt, max_tokens=16).token_ids
    cluster.assert_idle()


# The connection is cut, or falls silent, after 300 kB of 1.8 MB.
@pytest.mark.parametrize("fault", ["drop=300000", "truncate=300000", "stall=300000", "delay=0.3,delay-ms=20"])
def test_connection_that_breaks_off(launch, long_prompt, expected, fault):
    cluster = launch.cluster(prefill_flags=("--kv-fault", fault), decode_flags=("--stall-timeout-s", 1))
    for _ in range(2):  # the second request finds what the first has left
        done = Call(cluster.client, long_prompt, max_tokens=16).result()
        assert done.token_ids == expected
        assert done.source == ("transfer" if fault.startswith("delay") else "recompute")
    cluster.assert_idle()


def test_link_that_hardly_moves(launch, long_prompt, expected):
    cluster = launch.cluster(
        prefill_flags=("--link-rate", "8kbit/s", "--transfer-timeout-s", 3),
        decode_flags=("--transfer-timeout-s", 2, "--stall-timeout-s", 20),
    )
    done = Call(cluster.client, long_prompt, max_tokens=16).result()
    assert done.source == "recompute"
    assert done.kvplane["recompute_reason"]
    assert done.token_ids == expected
    cluster.assert_idle()


@pytest.fixture
def other_model(tmp_path):
    """The demo model with one bit changed, in the embedding of a token that plays no part here."""
    folder = copy_model(tmp_path / "demo")
    change_one_weight(folder, token_id=3000)
    return folder


def test_kv_of_another_model_is_refused(launch, cluster, other_model, long_prompt, expected):
    decode = launch.node(role="decode", model=other_model)
    parameters = cluster.prefill[0].prefill_only(long_prompt)
    done = decode.client.complete(
        long_prompt, max_tokens=16, kv_transfer_params=parameters, timeout=IN_TIME_S
    )
    assert done.source == "recompute"
    assert "fingerprint" in done.kvplane["recompute_reason"]
    assert done.token_ids == expected
    decode.assert_idle()


def test_router_pairs_only_nodes_of_one_model(launch, other_model, long_prompt, expected):
    cluster = launch.cluster(decode_model=other_model)
    done = Call(cluster.client, long_prompt, max_tokens=16).result()
    assert done.source == "local", "the decode node does both halves"
    assert done.token_ids == expected
    cluster.assert_idle()


def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def elsewhere(port):
    """The parameters of a transfer from an endpoint that is none."""
    return {
        "do_remote_prefill": True,
        "do_remote_decode": False,
        "transfer_id": "nothing-there",
        "remote_host": "127.0.0.1",
        "remote_port": port,
    }


def test_nobody_listens_at_the_kv_endpoint(cluster, unified):
    entry = golden("line stone-field")
    done = cluster.decode[0].client.complete(
        entry["prompt"], max_tokens=16, timeout=IN_TIME_S, kv_transfer_params=elsewhere(closed_port())
    )
    assert done.source == "recompute"
    assert done.kvplane["recompute_reason"]
    assert done.token_ids == unified.client.complete(entry["prompt"], max_tokens=16).token_ids


@contextmanager
def mute_listener():
    """Accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_the_kv_endpoint_never_answers(launch, unified):
    entry = golden("line stone-field")
    decode = launch.node("--transfer-timeout-s", 3, role="decode")
    with mute_listener() as port:
        done = decode.client.complete(
            entry["prompt"], max_tokens=16, timeout=IN_TIME_S, kv_transfer_params=elsewhere(port)
        )
    assert done.source == "recompute"
    assert done.token_ids == unified.client.complete(entry["prompt"], max_tokens=16).token_ids
    decode.assert_idle()


def test_client_that_leaves_in_mid_transfer(launch, long_prompt):
    cluster = launch.cluster(prefill_flags=SLOW)
    with abandoned_call(cluster.client, long_prompt):
        await_middle_of_transfer(cluster.prefill[0], cluster.decode[0])
    cluster.assert_idle()


def test_prefill_node_drains_only_when_its_kv_is_gone(launch, cluster, unified, long_prompt, expected):
    prefill = launch.node(role="prefill")
    parameters = prefill.prefill_only(long_prompt)
    prefill.process.signal(signal.SIGTERM)
    done = cluster.decode[0].client.complete(
        long_prompt, max_tokens=16, kv_transfer_params=parameters, timeout=IN_TIME_S
    )
    assert (done.source, done.token_ids) == ("transfer", expected)
    assert prefill.process.wait() == 0


def test_router_takes_a_restarted_node_back(launch):
    cluster = launch.cluster()
    (decode,) = cluster.decode
    decode.process.kill()
    eventually(lambda: cluster.nodes_up() is None, "the router has seen that its decode node is gone")
    port = decode.client.address.rsplit(":", 1)[1]
    launch.start("decode", "serve", "--role", "decode", "--port", port, "--compute", "f32").await_ready()
    eventually(lambda: cluster.nodes_up() == (1, 1), "the router has seen that it is back")
    assert Call(cluster.client, "Once upon a time", max_tokens=8).result().source == "transfer"


def test_all_prefill_nodes_are_gone(launch):
    cluster = launch.cluster()
    cluster.prefill[0].process.kill()
    try:
        done = Call(cluster.client, "Once upon a time", max_tokens=8).result()
        assert len(done.token_ids) == 8  # the decode node did both halves
    except ApiError as error:
        assert error.status in (502, 503)
    cluster.decode[0].assert_idle()
