"""KV over UCX: nodes of a binary that has it (scripts/test --only ucx), and what the others say."""

import secrets

import pytest

from api_client import ApiClient
from kvplane_process import run

OVER_UCX = ("--kv-transport", "ucx")


@pytest.fixture(scope="module")
def built():
    """Whether the binary under test has UCX: it says so itself."""
    done = run("serve", "--role", "prefill", "--model", "no-such-folder", *OVER_UCX)
    return "--kv-transport" not in done.stderr


def test_kv_crosses_over_ucx(launch, unified, prose, built):
    if not built:
        pytest.skip("this binary is built without UCX (-DKVPLANE_UCX=ON, or scripts/test --only ucx)")
    cluster = launch.cluster(prefill_flags=OVER_UCX, decode_flags=OVER_UCX)
    for start in (0, 5000):
        prompt = prose(1500, start=start)
        done = cluster.client.complete(prompt, max_tokens=8)
        assert done.source == "transfer", done.kvplane
        assert done.token_ids == unified.client.complete(prompt, max_tokens=8).token_ids
    assert cluster.prefill[0].client.get("/v1/kv/endpoint").json()["kv_transport"] == "ucx"


def test_tls_goes_around_ucx(launch, unified, prose, built, tmp_path):
    if not built:
        pytest.skip("this binary is built without UCX (-DKVPLANE_UCX=ON, or scripts/test --only ucx)")
    token = secrets.token_hex(16)
    path = tmp_path / "token"
    path.write_text(f"{token}\n")
    flags = (*OVER_UCX, "--kv-tls", "--auth-token-file", path)
    cluster = launch.cluster(flags, flags, router_flags=("--node-token-file", path))
    client = ApiClient(cluster.client.address, token=token)
    prompt = prose(1500, start=9000)
    done = client.complete(prompt, max_tokens=8)
    assert done.source == "transfer", done.kvplane
    assert done.token_ids == unified.client.complete(prompt, max_tokens=8).token_ids


def test_without_ucx_the_flag_is_refused_with_the_reason(built):
    if built:
        pytest.skip("this binary has UCX")
    done = run("serve", "--role", "prefill", *OVER_UCX)
    assert done.returncode != 0
    assert "--kv-transport" in done.stderr and "UCX" in done.stderr, done.stderr


def test_an_endpoint_of_another_transport_is_refused():
    done = run("serve", "--role", "prefill", *OVER_UCX, "--kv-listen", "tcp://127.0.0.1:0")
    assert done.returncode == 2 and "--kv-listen" in done.stderr, done.stderr
