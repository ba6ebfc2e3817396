"""Real networks that fail: links that are cut and restored, that hardly move, that change all the time.

Over network namespaces and kernel shaping (docs/netlab.md) or, where those are not allowed, over the transport
`shaped` and a proxy on loopback, which is said. Whatever the link does, an answer holds the tokens of a node that
computes everything itself.
"""

import os
import threading
import warnings

import pytest

from kvplane_process import eventually
from lab_cluster import LabCluster, netlab
from loopback_cluster import LoopbackCluster

SLOW = "4Mbit"
IN_TIME_S = 45
PATIENCE = ("--transfer-timeout-s", 12, "--stall-timeout-s", 3)


@pytest.fixture
def lab_cluster(tmp_path, request):
    """Starts a cluster over links of a rate. Parameter "loopback": without namespaces in any case."""
    kind = LabCluster
    if getattr(request, "param", None) == "loopback":
        kind = LoopbackCluster
    elif (reason := netlab.why_not_possible()) is not None:
        warnings.warn(f"over a proxy on loopback instead of shaped links: {reason}", stacklevel=2)
        kind = LoopbackCluster

    def start(rate):
        return kind(f"e2e-{os.getpid()}", tmp_path, rate, prefill_flags=PATIENCE, decode_flags=PATIENCE)

    return start


@pytest.fixture
def prompt(prose):
    """About 450 tokens: 1.8 MB of KV, 4 s on the slow link."""
    return prose(1500, start=9000)


@pytest.fixture
def expected(unified, prompt):
    return unified.client.complete(prompt, max_tokens=12).token_ids


class Ask(threading.Thread):
    """A completion under way; result() is its answer or raises what it raised."""

    def __init__(self, cluster, prompt):
        super().__init__(daemon=True)
        self._call = lambda: cluster.complete(prompt, timeout=IN_TIME_S, max_tokens=12, kvplane={"strategy": "off"})
        self._answer = self._error = None
        self.start()

    def run(self):
        try:
            self._answer = self._call()
        except BaseException as error:  # noqa: BLE001 - handed to the test's thread
            self._error = error

    def result(self):
        self.join(IN_TIME_S + 5)
        assert not self.is_alive(), "neither an answer nor an error in time"
        if self._error:
            raise self._error
        return self._answer


def await_transfer(cluster):
    """KV is on the wire."""
    eventually(lambda: cluster.metric("decode", "kvplane_requests", 'state="transferring"') > 0, "a transfer is under way")


def tokens(answer):
    return answer["choices"][0]["token_ids"]


@pytest.mark.parametrize("lab_cluster", ["links", "loopback"], indirect=True)
def test_a_link_cut_and_restored_in_mid_transfer(lab_cluster, prompt, expected):
    with lab_cluster(SLOW) as cluster:
        call = Ask(cluster, prompt)
        await_transfer(cluster)
        cluster.lab.cut("prefill")
        threading.Timer(1.5, cluster.lab.restore, ["prefill"]).start()
        assert tokens(call.result()) == expected
        assert tokens(Ask(cluster, prompt).result()) == expected


def test_a_link_cut_for_good_is_recomputed(lab_cluster, prompt, expected):
    with lab_cluster(SLOW) as cluster:
        call = Ask(cluster, prompt)
        await_transfer(cluster)
        cluster.lab.cut("prefill")
        answer = call.result()
        assert answer["kvplane"]["source"] == "recompute"
        assert tokens(answer) == expected
        cluster.lab.restore("prefill")
        eventually(
            lambda: cluster.metric("prefill", "kvplane_cache_blocks", 'state="used"') == 0,
            "the prefill node lets go of its blocks",
            timeout=30,
        )


@pytest.mark.parametrize("lab_cluster", ["links", "loopback"], indirect=True)
def test_bandwidth_near_zero_is_recomputed_in_time(lab_cluster, prompt, expected):
    with lab_cluster("50Mbit") as cluster:
        cluster.lab.set_rate("prefill", "1Mbit")
        call = Ask(cluster, prompt)
        await_transfer(cluster)
        cluster.lab.set_rate("prefill", "16kbit", "up")
        answer = call.result()
        assert answer["kvplane"]["source"] == "recompute"
        assert tokens(answer) == expected
        cluster.lab.set_rate("prefill", "50Mbit")
        assert tokens(Ask(cluster, prompt).result()) == expected


def test_a_link_that_changes_all_the_time(lab_cluster, prompt, expected):
    trace = netlab.parse_trace("0 20000000\n0.4 2000000\n0.8 60000000\n1.2 1000000\n1.8 30000000\n")
    stop = threading.Event()
    with lab_cluster("20Mbit") as cluster:

        def change():
            while not stop.is_set():
                cluster.lab.play("prefill", trace, stop=stop.is_set)

        changing = threading.Thread(target=change, daemon=True)
        changing.start()
        try:
            calls = [Ask(cluster, prompt) for _ in range(4)]
            for call in calls:
                assert tokens(call.result()) == expected
        finally:
            stop.set()
            changing.join(10)
