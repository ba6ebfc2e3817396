"""kvplane verify of a disk store's folder: finds what has rotted, says what, erases it when asked to."""

import json

import pytest

from kv_arrays import encode_cache
from kvplane_process import KvplaneProcess, run

NAMES = ["a", "b", "c", "d", "e"]


@pytest.fixture
def folder(tmp_path):
    """A folder in which a store left five objects behind."""
    folder = tmp_path / "disk"
    server = serve(folder, tmp_path)
    thing = encode_cache(tmp_path, 256, "int8")
    for name in NAMES:
        done = run("store", "put", thing, "--store", server.ready["store"], "--name", name)
        assert done.returncode == 0, done.stderr
    server.stop()
    return folder


def serve(folder, tmp_path):
    arguments = ["store", "--listen", "tcp://127.0.0.1:0", "--dram", "1MiB", "--disk", folder, "--disk-bytes", "1GB"]
    return KvplaneProcess(arguments, tmp_path / "store.log").await_ready()


def damage(folder):
    """Flips one byte in the middle of the largest file of objects."""
    table = max((folder / "rocksdb").glob("*.sst"), key=lambda path: path.stat().st_size)
    content = bytearray(table.read_bytes())
    content[len(content) // 2] ^= 0x20
    table.write_bytes(content)


def verify(folder, *flags):
    done = run("verify", folder, "--json", *flags)
    return done, json.loads(done.stdout) if done.stdout else None


def test_a_sound_folder(folder):
    done, report = verify(folder)
    assert done.returncode == 0, done.stderr
    assert (report["entries"], report["damaged"], report["unreadable"], report["lost_at_opening"]) == (5, 0, 0, 0)
    assert "5 objects" in run("verify", folder).stderr


def test_damage_is_found_named_and_erased(folder, tmp_path):
    damage(folder)
    done, report = verify(folder)
    assert done.returncode == 3 and "--repair" in done.stderr
    assert (report["entries"], report["damaged"], report["erased"]) == (5, 1, 0)
    assert len(report["damage"]) == 1 and "checksum" in report["damage"][0]
    done, report = verify(folder, "--repair")
    assert done.returncode == 0, done.stderr
    assert (report["damaged"], report["erased"]) == (1, 1)
    done, report = verify(folder)
    assert done.returncode == 0 and report["entries"] == 4
    server = serve(folder, tmp_path)
    found = [
        run("store", "get", "-o", tmp_path / name, "--store", server.ready["store"], "--name", name).returncode
        for name in NAMES
    ]
    server.stop()
    assert sorted(found) == [0, 0, 0, 0, 4]


def tables(folder):
    return {path.name: path.read_bytes() for path in (folder / "rocksdb").glob("*.sst")}


def test_what_is_lost_at_opening_is_said_and_nothing_changes(folder):
    table = max((folder / "rocksdb").glob("*.sst"), key=lambda path: path.stat().st_size)
    table.write_bytes(table.read_bytes()[: table.stat().st_size // 2])
    before = tables(folder)
    for _ in range(2):
        done, report = verify(folder)
        assert done.returncode == 3 and "--repair" in done.stderr
        assert report["lost_at_opening"] > 0 and report["entries"] + report["lost_at_opening"] == 5
    assert tables(folder) == before
    done, report = verify(folder, "--repair")
    assert done.returncode == 0 and report["lost_at_opening"] > 0, done.stderr
    done, report = verify(folder)
    assert done.returncode == 0 and report["lost_at_opening"] == 0, done.stderr


def test_a_database_that_cannot_be_opened_is_left_alone(folder):
    (folder / "rocksdb" / "CURRENT").unlink()
    before = tables(folder)
    for flags in ([], ["--repair"]):
        done, _ = verify(folder, *flags)
        assert done.returncode == 3 and "CURRENT" in done.stderr
    assert tables(folder) == before


def test_a_folder_in_use_is_left_alone(folder, tmp_path):
    server = serve(folder, tmp_path)
    done = run("verify", folder)
    server.stop()
    assert done.returncode == 1 and "has this folder open" in done.stderr


def test_what_is_no_store(tmp_path):
    done = run("verify", tmp_path)
    assert done.returncode == 4 and "no store is here" in done.stderr
    assert list(tmp_path.iterdir()) == []
    thing = encode_cache(tmp_path, 64, "int8")
    assert run("verify", thing, "--repair").returncode == 2
