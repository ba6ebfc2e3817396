"""KV connections between nodes that know each other, that do not, and strangers on a KV port; HTTPS.

A node that is refused costs its request a recompute, never an answer; whoever else connects gets nothing and
changes nothing.
"""

import http.client
import random
import re
import secrets
import socket
import ssl
import subprocess

import pytest

from api_client import ApiClient
from authority import Authority
from kvplane_process import eventually, run

IN_TIME_S = 30
# KV that nobody comes for is kept this long, also while the node drains.
BRIEFLY = ("--transfer-timeout-s", 3)


@pytest.fixture
def prompt(prose):
    return prose(1500, start=12000)


@pytest.fixture
def expected(unified, prompt):
    return unified.client.complete(prompt, max_tokens=12).token_ids


@pytest.fixture
def token_file(tmp_path):
    """Writes a token file: the first token is presented, all are accepted."""

    def write(name, *tokens):
        path = tmp_path / name
        path.write_text("".join(f"{token}\n" for token in tokens))
        return path

    return write


@pytest.fixture
def authority(tmp_path):
    folder = tmp_path / "authority"
    folder.mkdir()
    return Authority(folder)


def shown(pair):
    certificate, key = pair
    return ("--kv-tls", "--kv-cert", certificate, "--kv-key", key)


def with_token(cluster, token):
    for node in cluster.nodes():
        node.client.token = token
    return cluster


def transfers(cluster, prompt, expected):
    done = cluster.client.complete(prompt, max_tokens=12, timeout=IN_TIME_S)
    assert done.source == "transfer", done.kvplane
    assert done.token_ids == expected
    cluster.assert_idle()


def recomputes(cluster, prompt, expected):
    """The reason why nothing was transferred; the answer is right all the same."""
    done = cluster.client.complete(prompt, max_tokens=12, timeout=IN_TIME_S)
    assert done.source == "recompute", done.kvplane
    assert done.token_ids == expected
    return done.kvplane["recompute_reason"]


# ---- nodes that know each other ----


@pytest.mark.parametrize("tls", [(), ("--kv-tls",)], ids=["token", "tls_by_token"])
def test_one_token_file_protects_the_api_and_the_kv(launch, token_file, prompt, expected, tls):
    token = secrets.token_hex(16)
    guarded = ("--auth-token-file", token_file("token", token), *tls)
    cluster = launch.cluster(guarded, guarded, router_flags=("--node-token-file", guarded[1]))
    transfers(with_token(cluster, token), prompt, expected)
    assert ApiClient(cluster.prefill[0].client.address).get("/metrics").status == 401


def test_certificates(launch, authority, prompt, expected):
    cluster = launch.cluster(
        shown(authority.sign("prefill", "IP:127.0.0.1")), ("--kv-tls", "--kv-ca", authority.certificate)
    )
    transfers(cluster, prompt, expected)


def test_certificates_on_both_ends(launch, authority, prompt, expected):
    trusting = ("--kv-ca", authority.certificate)
    cluster = launch.cluster(
        (*shown(authority.sign("prefill", "IP:127.0.0.1")), *trusting),
        (*shown(authority.sign("decode", "DNS:decode")), *trusting),
    )
    transfers(cluster, prompt, expected)


def test_the_token_can_be_changed_one_node_after_the_other(launch, token_file, prompt, expected):
    old, new = secrets.token_hex(16), secrets.token_hex(16)
    both = token_file("both", new, old)
    cluster = launch.cluster(
        ("--auth-token-file", both),
        ("--auth-token-file", token_file("old", old)),
        router_flags=("--node-token-file", token_file("router", old)),
    )
    transfers(with_token(cluster, old), prompt, expected)


# ---- nodes that do not: the request is computed, and says why ----


@pytest.mark.parametrize("tls", [(), ("--kv-tls",)], ids=["token", "tls_by_token"])
def test_another_token_is_refused_by_name(launch, token_file, prompt, expected, tls):
    right, wrong = secrets.token_hex(16), secrets.token_hex(16)
    cluster = launch.cluster(
        ("--auth-token-file", token_file("prefill", right), *tls, *BRIEFLY),
        # Its API takes what the router sends; to other nodes it presents the first token.
        ("--auth-token-file", token_file("decode", wrong, right), *tls),
        router_flags=("--node-token-file", token_file("router", right)),
    )
    assert "token" in recomputes(with_token(cluster, right), prompt, expected)
    assert "refused a connection" in cluster.prefill[0].process.log()
    cluster.decode[0].assert_idle()


def test_a_node_without_protection_is_refused(launch, token_file, prompt, expected):
    token = secrets.token_hex(16)
    path = token_file("token", token)
    cluster = launch.cluster(
        ("--auth-token-file", path, *BRIEFLY), router_flags=("--node-token-file", path)  # the decode node has none
    )
    assert recomputes(with_token(cluster, token), prompt, expected)
    assert "does not present a token" in cluster.prefill[0].process.log()


@pytest.mark.parametrize(
    "names, days, why",
    [("IP:127.0.0.1", -1, "expired"), ("DNS:elsewhere.example", 2, "mismatch")],
    ids=["expired", "wrong_host"],
)
def test_a_bad_certificate_is_named(launch, authority, prompt, expected, names, days, why):
    cluster = launch.cluster(
        (*shown(authority.sign("prefill", names, days)), *BRIEFLY), ("--kv-tls", "--kv-ca", authority.certificate)
    )
    assert why in recomputes(cluster, prompt, expected)


# ---- strangers on the KV port ----


def test_port_scanners_and_random_bytes_do_no_harm(launch, token_file, prompt, expected):
    token = secrets.token_hex(16)
    guarded = ("--auth-token-file", token_file("token", token), "--kv-tls")
    cluster = launch.cluster(guarded, guarded, router_flags=("--node-token-file", guarded[1]))
    with_token(cluster, token)
    host, port = re.fullmatch(r"tcp://(.+):(\d+)", cluster.prefill[0].process.kv).groups()
    rng = random.Random(5)
    silent = []
    for number in range(60):
        stranger = socket.create_connection((host, int(port)), timeout=10)
        if number % 6 == 0:
            silent.append(stranger)  # connects and says nothing
            continue
        start = [b"", b"KVPW\1\0\1\0", b"KVTK\1\1\0\0", b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HTTP/1.1\r\n"]
        stranger.sendall(start[number % 5] + rng.randbytes(rng.randrange(1, 2000)))
        stranger.close()
    transfers(cluster, prompt, expected)
    log = cluster.prefill[0].process.log()
    assert log.count("refused a connection") <= 10, "a scanner cannot fill the log"
    for stranger in silent:
        stranger.close()


# ---- HTTPS ----


def https(pair):
    certificate, key = pair
    return ("--tls-cert", certificate, "--tls-key", key)


@pytest.fixture
def trust(authority):
    return ssl.create_default_context(cafile=authority.certificate)


def test_https_answers_streams_and_keeps_connections(launch, authority, trust, unified):
    node = launch.node(*https(authority.sign("api", "IP:127.0.0.1")))
    assert node.process.ready["tls"] is True
    node.client.tls = trust
    wanted = unified.client.complete("Once upon a time", max_tokens=40)
    assert node.client.complete("Once upon a time", max_tokens=40).token_ids == wanted.token_ids
    body = {"model": "demo", "prompt": "Once upon a time", "max_tokens": 40, "temperature": 0}
    with node.client.stream("/v1/completions", body) as events:
        assert "".join(event["choices"][0]["text"] for event in events) == wanted.text
    # Three requests on one connection, then three at once on it (pipelined).
    connection = http.client.HTTPSConnection(node.client.address, timeout=10, context=trust)
    for _ in range(3):
        connection.request("GET", "/v1/models")
        answer = connection.getresponse()
        assert answer.status == 200 and b"demo" in answer.read()
    connection.sock.sendall(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3)
    got = b""
    while got.count(b"HTTP/1.1 200 OK") < 3 or got.count(b'"object":"list"') < 3:
        received = connection.sock.recv(65536)
        assert received, got
        got += received
    assert connection.sock.version() == "TLSv1.3"
    connection.close()
    node.assert_idle()


def test_https_takes_large_requests_and_gives_large_answers(launch, authority, trust, prose):
    node = launch.node(*https(authority.sign("api", "IP:127.0.0.1")))
    node.client.tls = trust
    done = node.client.post("/v1/completions", {"model": "demo", "prompt": "x", "padding": "y" * 3_000_000})
    assert done.status in (200, 400), done.body
    assert len(node.client.get("/metrics").body) > 2000
    done = node.client.complete(prose(4000), max_tokens=4, logprobs=5)
    assert done.usage["completion_tokens"] == 4


def test_https_by_curl_and_its_refusals(launch, authority, tmp_path):
    node = launch.node(*https(authority.sign("api", "IP:127.0.0.1")))

    def curl(*flags, url=f"https://{node.process.http}/health"):
        command = ["curl", "-sS", "--max-time", "10", *map(str, flags), url]
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)

    trusting = ("--cacert", authority.certificate)
    assert curl(*trusting).returncode == 0
    assert curl(*trusting, "--http1.0").returncode == 0, "the end of the answer is no cut"
    assert curl().returncode != 0, "an unknown authority"
    assert curl(*trusting, "--tlsv1.2", "--tls-max", "1.2").returncode != 0, "TLS 1.3 only"
    assert curl(url=f"http://{node.process.http}/health").returncode != 0, "not in clear"
    assert curl(*trusting).returncode == 0
    (tmp_path / "other").mkdir()
    assert curl("--cacert", Authority(tmp_path / "other").certificate).returncode != 0


def test_a_client_that_leaves_https_frees_the_node(launch, authority, trust):
    node = launch.node(*https(authority.sign("api", "IP:127.0.0.1")))
    node.client.tls = trust
    body = {"model": "demo", "prompt": "Once upon a time", "max_tokens": 1500, "ignore_eos": True}
    with node.client.stream("/v1/completions", body) as events:
        next(events)
    eventually(lambda: node.ended("cancelled") == 1, "the node has stopped")
    silent = socket.create_connection(node.process.http.split(":"), timeout=10)  # no handshake ever
    node.assert_idle()
    assert node.client.get("/health").status == 200
    silent.close()


def test_the_router_speaks_https_on_both_sides(launch, authority, trust, prompt, expected):
    guarded = https(authority.sign("nodes", "IP:127.0.0.1"))
    prefill = launch.node(*guarded, role="prefill")
    decode = launch.node(*guarded, role="decode")
    nodes = ("--prefill", f"https://{prefill.process.http}", "--decode", f"https://{decode.process.http}")
    router = launch.start("route", "route", "--port", 0, *nodes, "--node-ca", authority.certificate, *guarded)
    client = ApiClient(router.await_ready().http, tls=trust)
    # Ready is a router with a decode node: the prefill node may still be unseen.
    eventually(lambda: client.get("/ready").json().get("prefill_nodes") == 1, "the router has seen its nodes")
    for _ in range(3):
        done = client.complete(prompt, max_tokens=12)
        assert (done.source, done.token_ids) == ("transfer", expected)
    # A router that does not trust them has no nodes.
    stranger = launch.start("route", "route", "--port", 0, *nodes)
    closed = ApiClient(stranger.await_ready().http)
    eventually(lambda: "certificate" in stranger.log(), "the reason is in the log")
    assert closed.get("/ready").status == 503


# ---- flags ----


@pytest.mark.parametrize(
    "flags, code, words",
    [
        (("--kv-listen", "tcp://0.0.0.0:0"), 4, "--kv-listen"),
        (("--kv-tls",), 2, "--auth-token-file"),
        (("--kv-cert", "x"), 2, "--kv-tls"),
        (("--kv-tls", "--kv-cert", "x"), 2, "--kv-key"),
        (("--kv-tls", "--kv-ca", "/nowhere/ca.pem"), 4, "--kv-ca"),
        (("--kv-tls", "--kv-ca", "models/demo/config.json"), 2, "PEM"),
        (("--tls-cert", "x"), 2, "--tls-key"),
        (("--tls-cert", "models/demo/config.json", "--tls-key", "models/demo/config.json"), 2, "--tls-cert"),
    ],
)
def test_unusable_protection_is_refused_at_start(flags, code, words):
    done = run("serve", "--role", "prefill", "--port", 0, *flags)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert done.stdout == ""
