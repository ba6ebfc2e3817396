"""Broken files, wrong flags and hostile bytes: a message naming the culprit, an exit code, never a crash."""

import json
import random
import socket
import struct

import pytest

from clusters import NODE_FLAGS
from kv_arrays import encode_cache
from kvplane_process import run
from model_folder import copy_model, edit_config, golden, read_weights, write_weights

USAGE, CORRUPT = 2, 3
UP_PROJ = "model.layers.3.mlp.up_proj.weight"


def assert_refused(done, *words, codes=(USAGE, CORRUPT)):
    """Ended by itself with one of the codes, nothing on standard output, every word in the message."""
    assert done.returncode in codes, f"exit code {done.returncode}\n{done.stderr}"
    assert done.stdout == ""
    for word in words:
        assert word in done.stderr, f"'{word}' is not in: {done.stderr}"


# ---- model folders ----


def truncate(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5_000_000])


def cut_inside_header(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])


def empty_weights(folder):
    (folder / "model.safetensors").write_bytes(b"")


def absurd_header_length(folder):
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 1 << 62) + path.read_bytes()[8:])


def header_is_no_json(folder):
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[8] = ord("[")
    path.write_bytes(content)


def missing_tensor(folder):
    header, data = read_weights(folder)
    header["spare.weight"] = header.pop(UP_PROJ)
    write_weights(folder, header, data)


def offsets_beyond_the_file(folder):
    header, data = read_weights(folder)
    entry = header[UP_PROJ]
    entry["data_offsets"] = [offset + (1 << 40) for offset in entry["data_offsets"]]
    write_weights(folder, header, data)


def overlapping_tensors(folder):
    header, data = read_weights(folder)
    header[UP_PROJ]["data_offsets"] = header["model.layers.2.mlp.up_proj.weight"]["data_offsets"]
    write_weights(folder, header, data)


def wrong_shape(folder):
    header, data = read_weights(folder)
    shape = header[UP_PROJ]["shape"]
    header[UP_PROJ]["shape"] = shape[::-1]
    write_weights(folder, header, data)


def unknown_dtype(folder):
    header, data = read_weights(folder)
    header["model.norm.weight"]["dtype"] = "Q4_K"
    write_weights(folder, header, data)


def config_is_no_json(folder):
    (folder / "config.json").write_text('{"architectures": [')


def config_contradicts_weights(folder):
    edit_config(folder, num_hidden_layers=9)


def config_is_absurd(folder):
    edit_config(folder, hidden_size=1 << 40)


def no_config(folder):
    (folder / "config.json").unlink()


def unknown_architecture(folder):
    edit_config(folder, architectures=["MambaForCausalLM"], model_type="mamba")


def unknown_rope(folder):
    edit_config(folder, rope_scaling={"rope_type": "longrope", "factor": 4.0})


def tokenizer_is_no_json(folder):
    (folder / "tokenizer.json").write_text("{")
    (folder / "tokenizer.model").unlink()


def no_tokenizer(folder):
    for name in ("tokenizer.json", "tokenizer.model"):
        (folder / name).unlink()


def no_weights(folder):
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize(
    "damage, words",
    [
        (truncate, ["model.safetensors"]),
        (cut_inside_header, ["model.safetensors"]),
        (empty_weights, ["model.safetensors"]),
        (absurd_header_length, ["model.safetensors"]),
        (header_is_no_json, ["model.safetensors"]),
        (missing_tensor, [UP_PROJ]),
        (offsets_beyond_the_file, ["model.safetensors", UP_PROJ]),
        (overlapping_tensors, ["model.safetensors"]),
        (wrong_shape, [UP_PROJ]),
        (unknown_dtype, ["model.safetensors", "Q4_K"]),
        (config_is_no_json, ["config.json"]),
        (config_contradicts_weights, ["model.layers.8."]),
        (config_is_absurd, ["config.json", "hidden_size"]),
        (unknown_architecture, ["config.json", "MambaForCausalLM"]),
        (unknown_rope, ["config.json", "longrope"]),
        (tokenizer_is_no_json, ["tokenizer.json"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_broken_model_folder(tmp_path, damage, words):
    folder = copy_model(tmp_path / "broken")
    damage(folder)
    unsupported = damage in (unknown_architecture, unknown_rope, unknown_dtype)  # not broken, but not for us
    assert_refused(
        run("serve", "--model", folder, *NODE_FLAGS), *words, codes=(1,) if unsupported else (USAGE, CORRUPT)
    )


@pytest.mark.parametrize(
    "damage, word",
    [(no_config, "config.json"), (no_tokenizer, "tokenizer"), (no_weights, "safetensors")],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_missing_model_file_is_unavailable(tmp_path, damage, word):
    folder = copy_model(tmp_path / "broken")
    damage(folder)
    assert_refused(run("serve", "--model", folder, *NODE_FLAGS), word, codes=(4,))


def test_no_model_folder(tmp_path):
    assert_refused(run("serve", "--model", tmp_path / "nowhere", *NODE_FLAGS), "nowhere", codes=(4,))


# ---- flags ----


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["serve", "--modle", "models/demo"], ["--modle", "--model"]),
        (["serve", "--link-rat", "1Gbit/s"], ["--link-rat", "--link-rate"]),
        (["route", "--prefil", "http://127.0.0.1:1"], ["--prefil", "--prefill"]),
        (["demo", "--cuont", "3"], ["--cuont", "--count"]),
        (["serv"], ["serv", "serve"]),
        (["decod"], ["decod", "decode"]),
        (["bench", "codex"], ["codex", "codec"]),
    ],
)
def test_unknown_word_is_a_usage_error_with_the_nearest_match(arguments, words):
    assert_refused(run(*arguments), *words, codes=(USAGE,))


@pytest.mark.parametrize(
    "arguments, word",
    [
        ([], "serve"),
        (["serve", "--role", "middle"], "--role"),
        (["serve", "--port", "70000"], "--port"),
        (["serve", "--port", "-1"], "--port"),
        (["serve", "--threads", "many"], "--threads"),
        (["serve", "--compute", "f8"], "--compute"),
        (["serve", "--kv-size", "12 parsecs"], "--kv-size"),
        (["serve", "--block-tokens", "0"], "--block-tokens"),
        (["serve", "--step-tokens", "4294967295"], "--step-tokens"),
        (["serve", "--max-running", "4294967295"], "--max-running"),
        (["serve", "--max-queued", "4294967295"], "--max-queued"),
        (["serve", "--max-context", "4294967295"], "max_context"),
        (["serve", "--threads", "4294967295"], "--threads"),
        (["serve", "--codec-threads", "4294967295"], "--codec-threads"),
        (["serve", "--tile-retries", "4294967295"], "--tile-retries"),
        (["serve", "--store-timeout-ms", "4294967295"], "--store-timeout-ms"),
        (["serve", "--offer-lease-s=1e300"], "--offer-lease-s"),
        (["serve", "--kv-size", "17EiB"], "--kv-size"),
        (["serve", "--strategy", "int9000"], "--strategy"),
        (["serve", "--link-rate=-5"], "--link-rate"),
        (["serve", "--kv-listen", "carrier-pigeon://loft"], "--kv-listen"),
        (["serve", "--kv-fault", "sneeze=1"], "--kv-fault"),
        (["serve", "--log-level", "shout"], "log level"),
        (["serve", "--transfer-timeout-s=-1"], "--transfer-timeout-s"),
        (["serve", "--drain-s=nan"], "--drain-s"),
        (["serve", "--host", "localhost"], "localhost"),
        (["route"], "--decode"),
        (["route", "--decode", "not a url"], "not a url"),
        (["route", "--decode", "http://127.0.0.1:1", "--drain-s=-1"], "--drain-s"),
        (["route", "--decode", "http://127.0.0.1:1", "--request-timeout-s=1e300"], "--request-timeout-s"),
        (["demo", "--modes", "int9000"], "--modes"),
        (["demo", "--link-rate", "fast"], "link"),
        (["encode", "--strategy", "int8"], "input"),
        (["encode", "cache.npy"], "--output"),
    ],
)
def test_wrong_value_is_a_usage_error_that_names_the_flag(arguments, word):
    assert_refused(run(*arguments), word, codes=(USAGE,))


@pytest.mark.parametrize(
    "text, word",
    [
        ("prot = 8000", "prot"),
        ("[serve]\nport = 8000", "port"),
        ("port = 70000", "70000"),
        ("drain-s = -1", "--drain-s"),
        ("log-level = 'shout'", "shout"),
        ("insecure = true\nrole = 'middle'", "middle"),
    ],
)
def test_config_file_is_read_and_checked(tmp_path, text, word):
    config = tmp_path / "serve.toml"
    config.write_text(text + "\n")
    assert_refused(run("serve", "--config", str(config)), word, codes=(USAGE,))


def test_command_line_goes_before_the_config_file(tmp_path):
    config = tmp_path / "serve.toml"
    config.write_text("drain-s = -1\nlog-level = 'shout'\n")
    assert_refused(run("serve", "--config", str(config), "--log-level", "info"), "--drain-s", codes=(USAGE,))
    assert_refused(run("serve", "--config", str(tmp_path / "nowhere.toml")), "nowhere.toml", codes=(USAGE,))


def test_help_shows_every_verb_and_defaults():
    top = run("--help")
    assert top.returncode == 0
    for verb in (
        "serve",
        "route",
        "generate",
        "encode",
        "decode",
        "inspect",
        "verify",
        "bench",
        "demo",
        "doctor",
    ):
        assert verb in top.stdout
        verb_help = run(verb, "--help")
        assert verb_help.returncode == 0 and verb in verb_help.stdout
    assert "models/demo" in run("serve", "--help").stdout, "defaults are shown"


def test_port_taken_is_unavailable(unified):
    port = unified.process.http.rsplit(":", 1)[1]
    done = run("serve", "--model", "models/demo", "--port", port)
    assert_refused(done, port, codes=(4,))


# ---- objects ----


@pytest.fixture(scope="module")
def coded(tmp_path_factory):
    """(folder, bytes of an int4 object of 100 tokens)."""
    folder = tmp_path_factory.mktemp("objects")
    return folder, encode_cache(folder, tokens=100, strategy="int4").read_bytes()


READERS = {
    "inspect": lambda path, folder: ["inspect", path],
    "verify": lambda path, folder: ["verify", path],
    "decode": lambda path, folder: ["decode", path, "--output", folder / "out.npy"],
}


@pytest.mark.parametrize("verb", ["verify", "decode"])
@pytest.mark.parametrize("length", [0, 1, 7, 63, 64, 200, 0.25, 0.5, 0.9, -1])
def test_truncated_object(coded, tmp_path, verb, length):
    _, content = coded
    size = int(len(content) * length) if isinstance(length, float) else length
    path = tmp_path / "cut.kvo"
    path.write_bytes(content[:size])
    assert_refused(run(*READERS[verb](path, tmp_path)), "cut.kvo", codes=(CORRUPT,))
    assert not (tmp_path / "out.npy").exists(), "no part of a result is left behind"


@pytest.mark.parametrize("length", [0, 7, 63])
def test_inspect_of_a_cut_header(coded, tmp_path, length):
    path = tmp_path / "cut.kvo"
    path.write_bytes(coded[1][:length])
    assert_refused(run("inspect", path), "cut.kvo", codes=(CORRUPT,))


@pytest.mark.parametrize("seed", range(12))
def test_one_flipped_bit_anywhere_is_found(coded, tmp_path, seed):
    """The first twelve bytes, then anywhere: verify and decode must both see it."""
    content = bytearray(coded[1])
    rng = random.Random(seed)
    position = rng.randrange(12) if seed < 3 else rng.randrange(len(content))
    content[position] ^= 1 << rng.randrange(8)
    path = tmp_path / "flipped.kvo"
    path.write_bytes(content)
    for verb in ("verify", "decode"):
        done = run(*READERS[verb](path, tmp_path))
        assert (
            done.returncode == CORRUPT
        ), f"{verb}, byte {position}: exit code {done.returncode}\n{done.stderr}"
    assert run("inspect", path).returncode in (0, CORRUPT), "inspect reads the header only"


@pytest.mark.parametrize(
    "content", [b"not a numpy file", b"\x93NUMPY\x01\x00", b"\x93NUMPY\x01\x00\xff\xff{" + b" " * 100]
)
def test_encode_refuses_a_broken_npy(tmp_path, content):
    path = tmp_path / "bad.npy"
    path.write_bytes(content)
    assert_refused(run("encode", path, "--output", tmp_path / "out.kvo", "--strategy", "off"), "bad.npy")
    assert not (tmp_path / "out.kvo").exists()


# ---- hostile bytes on the ports ----


def send_and_read(address, payload, timeout=5):
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=timeout) as connection:
        try:
            connection.sendall(payload)
            connection.shutdown(socket.SHUT_WR)
            received = b""
            while piece := connection.recv(4096):
                received += piece
            return received
        except TimeoutError:
            raise
        except OSError:  # the other side has hung up, at whatever point
            return b""


def garbage(seed, size):
    return random.Random(seed).randbytes(size)


HTTP_GARBAGE = [
    b"\r\n" * 1000,
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 10_000 + b"\r\n",
    b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
    b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # the start of a TLS handshake
    garbage(1, 10_000),
]


def test_garbage_on_the_http_port_disturbs_nobody(unified):
    entry = golden("The code for amber")
    wanted = unified.client.complete(entry["prompt"], max_tokens=8).token_ids
    for payload in HTTP_GARBAGE:
        reply = send_and_read(unified.process.http, payload)
        assert reply == b"" or reply.startswith(b"HTTP/1.1 4") or reply.startswith(b"HTTP/1.1 5"), reply[:200]
        assert unified.client.complete(entry["prompt"], max_tokens=8).token_ids == wanted
    assert unified.process.alive()


def test_garbage_on_the_kv_port_disturbs_nobody(cluster, unified):
    entry = golden("The code for amber")
    wanted = unified.client.complete(entry["prompt"], max_tokens=8).token_ids
    address = cluster.prefill[0].process.kv.removeprefix("tcp://")
    for seed, size in enumerate([1, 16, 64, 1000, 100_000]):
        send_and_read(address, garbage(seed, size))
        done = cluster.client.complete(entry["prompt"], max_tokens=8)
        assert (done.source, done.token_ids) == ("transfer", wanted)
    send_and_read(address, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    # Half a greeting, then silence, while others work.
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port))) as silent:
        silent.sendall(b"\0" * 3)
        assert cluster.client.complete(entry["prompt"], max_tokens=8).source == "transfer"


def test_hostile_handshake_parameters_are_refused_or_recomputed(cluster, unified):
    entry = golden("The code for amber")
    wanted = unified.client.complete(entry["prompt"], max_tokens=8).token_ids
    good = {
        "do_remote_prefill": True,
        "do_remote_decode": False,
        "remote_host": "127.0.0.1",
        "remote_port": 9,
    }
    decode = cluster.decode[0].client
    for change in (
        {"remote_port": 99999999},
        {"remote_port": "x"},
        {"remote_host": 7},
        {"remote_host": "\0"},
        {"transfer_id": "i" * 100_000},
        {"transfer_id": 7},
        {"do_remote_decode": True},
    ):
        body = {
            "model": "demo",
            "prompt": entry["prompt"],
            "max_tokens": 8,
            "temperature": 0,
            "return_token_ids": True,
            "kv_transfer_params": {**good, **change},
        }
        reply = decode.post("/v1/completions", body)
        assert reply.status in (200, 400), json.dumps(change)[:80]
        if reply.status == 200:
            assert reply.json()["choices"][0]["token_ids"] == wanted
