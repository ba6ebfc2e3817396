"""KV connections between nodes that know each other, that do not, and strangers on a KV port.

A node that is refused costs its request a recompute, never an answer; whoever else connects gets nothing and
changes nothing.
"""

import os
import random
import re
import secrets
import socket
import subprocess
from pathlib import Path

import pytest

from api_client import ApiClient
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


class Authority:
    """A certificate authority of one test, by the openssl command."""

    def __init__(self, folder):
        self._folder = folder
        self.certificate = folder / "ca.pem"
        self._key = folder / "ca.key"
        self._openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                      "-keyout", self._key, "-out", self.certificate, "-days", 2, "-subj", "/CN=test authority")

    def _openssl(self, *arguments):
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=60)

    def sign(self, name, names, days=2):
        """Certificate and key for `names` ("DNS:localhost,IP:127.0.0.1"); days < 0: expired."""
        key, request, certificate, extensions = (
            self._folder / f"{name}.{suffix}" for suffix in ("key", "csr", "pem", "ext")
        )
        extensions.write_text(f"subjectAltName={names}\n")
        self._openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key,
                      "-out", request, "-subj", f"/CN={name}")
        self._openssl("x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self._key,
                      "-CAcreateserial", "-out", certificate, "-days", days, "-extfile", extensions)
        return certificate, key


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
    ],
)
def test_unusable_protection_is_refused_at_start(flags, code, words):
    done = run("serve", "--role", "prefill", "--port", 0, *flags)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert done.stdout == ""
