"""Fixtures: long-lived nodes for the tests that leave them as they were, launchers for those that do not."""

import re

import pytest

from clusters import Launcher
from kvplane_process import SOURCE, binary, eventually, leftover_processes


def pytest_sessionstart(session):
    if not binary().is_file():
        pytest.exit(f"no kvplane at {binary()}: build it (scripts/build) or set KVPLANE_BIN", returncode=4)


@pytest.fixture(scope="session", autouse=True)
def nothing_left_running():
    """The last word of the run: every process that the tests started, or that those started, has ended."""
    yield
    eventually(lambda: not leftover_processes(), f"no process left, but: {leftover_processes()}", timeout=5)


@pytest.fixture
def launch(tmp_path):
    """Starts nodes that end with the test."""
    with Launcher(tmp_path) as launcher:
        yield launcher


@pytest.fixture(scope="session")
def session_launcher(tmp_path_factory):
    with Launcher(tmp_path_factory.mktemp("nodes")) as launcher:
        yield launcher


@pytest.fixture(scope="session")
def _unified(session_launcher):
    return session_launcher.node()


@pytest.fixture(scope="session")
def _cluster(session_launcher):
    return session_launcher.cluster()


@pytest.fixture
def unified(_unified):
    """A node that does both halves; it must be idle after each test."""
    yield _unified
    _unified.assert_idle()


@pytest.fixture
def cluster(_cluster):
    """Router, prefill and decode node; they must be idle after each test."""
    yield _cluster
    _cluster.assert_idle()


@pytest.fixture(scope="session")
def prose():
    """Cuts real text: prose(characters, start) gives whole words. About 3.3 characters make a token."""
    text = re.sub(r"\s+", " ", (SOURCE / "prompts" / "exodus.txt").read_text())

    def cut(characters, start=0):
        return text[start : start + characters].rsplit(" ", 1)[0]

    return cut
