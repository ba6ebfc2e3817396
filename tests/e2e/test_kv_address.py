"""Where decode nodes find the KV of a prefill node: on all its addresses, under its name, where it says."""

import os
import socket

import pytest

from authority import Authority
from kvplane_process import run
from lab_cluster import LabCluster, netlab

EVERYWHERE = ("--kv-listen", "tcp://0.0.0.0:0", "--insecure")


@pytest.fixture
def prompt(prose):
    return prose(1200, start=3000)


@pytest.fixture
def expected(unified, prompt):
    return unified.client.complete(prompt, max_tokens=8).token_ids


def transfers(cluster, prompt, expected):
    done = cluster.client.complete(prompt, max_tokens=8)
    assert done.source == "transfer", done.kvplane
    assert done.token_ids == expected


def test_a_node_that_listens_everywhere_is_found_from_another_machine(tmp_path, prompt, expected):
    reason = netlab.why_not_possible()
    if reason is not None:
        pytest.skip(reason)
    with LabCluster(f"e2e-kv-{os.getpid()}", tmp_path, kv_listen="tcp://0.0.0.0:0") as cluster:
        answer = cluster.complete(prompt, max_tokens=8)
    assert answer["kvplane"]["source"] == "transfer", answer["kvplane"]
    assert answer["choices"][0]["token_ids"] == expected


def test_a_node_that_listens_everywhere_is_found_by_proxies(launch, prompt, expected):
    cluster = launch.cluster(prefill_flags=EVERYWHERE)
    transfers(cluster, prompt, expected)
    params = cluster.prefill[0].prefill_only(prompt)
    assert params["remote_host"] == "127.0.0.1", "as the proxy reached it"
    assert cluster.decode[0].client.complete(prompt, max_tokens=8, kv_transfer_params=params).source == "transfer"


def test_what_is_advertised_is_used(launch, prompt, expected):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    cluster = launch.cluster(
        prefill_flags=("--kv-listen", f"tcp://127.0.0.1:{port}", "--kv-advertise", f"localhost:{port}")
    )
    transfers(cluster, prompt, expected)
    params = cluster.prefill[0].prefill_only(prompt)
    assert (params["remote_host"], params["remote_port"]) == ("localhost", port)
    done = cluster.decode[0].client.complete(prompt, max_tokens=8, kv_transfer_params=params)
    assert done.source == "transfer", done.kvplane


@pytest.mark.parametrize(
    "flags",
    [
        ("--kv-listen", "tcp://localhost:0"),
        ("--kv-listen", "tcp://127.0.0.1:0", "--kv-advertise", "localhost"),
    ],
    ids=["listen", "advertise"],
)
def test_a_certificate_for_a_name_alone(launch, tmp_path, prompt, expected, flags):
    authority = Authority(tmp_path)
    certificate, key = authority.sign("prefill", "DNS:localhost")
    cluster = launch.cluster(
        (*flags, "--kv-tls", "--kv-cert", certificate, "--kv-key", key), ("--kv-tls", "--kv-ca", authority.certificate)
    )
    transfers(cluster, prompt, expected)


def test_a_decode_node_is_told_of_a_host_that_is_none(cluster, prompt):
    params = cluster.prefill[0].prefill_only(prompt)
    reply = cluster.decode[0].client.post(
        "/v1/completions",
        {"model": "demo", "prompt": prompt, "max_tokens": 8, "kv_transfer_params": {**params, "remote_host": "0.0.0.0"}},
    )
    assert reply.status == 400
    assert "--kv-advertise" in reply.json()["error"]["message"]
    done = cluster.decode[0].client.complete(prompt, max_tokens=8, kv_transfer_params=params)
    assert done.source == "transfer", "the KV is still there"


@pytest.mark.parametrize("text", ["0.0.0.0", "[::]:7000", "::1", "host:port", "http://host"])
def test_what_nobody_can_connect_to_is_not_advertised(text):
    done = run("serve", "--role", "prefill", "--kv-advertise", text)
    assert done.returncode == 2 and "--kv-advertise" in done.stderr, done.stderr
