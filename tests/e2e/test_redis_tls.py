"""Prefixes in a Redis behind TLS, whose password and certificates come from files."""

import shutil
import socket

import pytest

from authority import Authority
from kvplane_process import eventually
from redis_server import RedisServer

FOUND = ("kvplane_store_prompt_tokens_total", "found")


@pytest.fixture
def tls_redis(tmp_path):
    """A server with a plain port for the test and one with TLS for the nodes; the spec of the latter."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    authority = Authority(tmp_path)
    certificate, key = authority.sign("redis", "IP:127.0.0.1")
    own_certificate, own_key = authority.sign("node", "DNS:node")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    password = tmp_path / "password"
    password.write_text("s3cret\n")
    server = RedisServer(
        tmp_path, "--tls-port", str(port), "--tls-cert-file", str(certificate), "--tls-key-file", str(key),
        "--tls-ca-cert-file", str(authority.certificate), "--tls-auth-clients", "yes",
        "--user", "kv", "on", ">s3cret", "~kvplane:*", "+@all",
    )
    spec = (
        f"rediss://127.0.0.1:{port}?ca_file={authority.certificate}&cert_file={own_certificate}&key_file={own_key}"
        f"&user=kv&password_file={password}"
    )
    yield server, spec
    server.kill()


def test_nodes_share_prefixes_through_redis_over_tls(launch, tls_redis, prose):
    server, spec = tls_redis
    writer = launch.node("--store", spec)
    prompt = prose(2500, start=500)
    expected = writer.client.complete(prompt, max_tokens=8).token_ids
    eventually(lambda: server.keys() >= 2, "block runs of 256 tokens lie in Redis")
    reader = launch.node("--store", spec)
    # A look-up has 50 ms for Redis, handshake included. What this one pushes takes its time and leaves a connection.
    before = server.keys()
    reader.client.complete(prose(2500, start=9000), max_tokens=8)
    eventually(lambda: server.keys() > before, "the reader is connected")
    assert reader.client.complete(prompt, max_tokens=8).token_ids == expected
    assert reader.client.metric(FOUND[0], event=FOUND[1]) >= 512
