"""kvplane processes under test: started, watched, ended.

Nothing survives a test run: every child has the kernel's parent-death signal, every wait a deadline, and all
children carry MARKER in their environment so that leftover_processes() also finds what they started.
"""

import json
import os
import queue
import signal
import subprocess
import threading
import time
import uuid
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2]
MODEL = SOURCE / "models" / "demo"
MARKER = f"E2E_RUN={uuid.uuid4()}"

READY_S = 30  # a node loads 14 MB of weights and measures its matmul
STOP_S = 20
COMMAND_S = 60


def binary():
    default = SOURCE / "build" / "release" / "apps" / "cli" / "kvplane"
    return Path(os.environ.get("KVPLANE_BIN", default)).resolve()


def environment(extra=None):
    name, value = MARKER.split("=")
    return {**os.environ, name: value, **(extra or {})}


def command(*arguments):
    """The argv of a kvplane that dies with this process."""
    return ["setpriv", "--pdeathsig", "KILL", "--", str(binary()), *map(str, arguments)]


def run(*arguments, stdin=None, timeout=COMMAND_S, variables=None):
    """Runs one verb to its end; text in, text out."""
    return subprocess.run(
        command(*arguments),
        input=stdin,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout,
        cwd=SOURCE,
        env=environment(variables),
        check=False,
    )


def eventually(condition, what, timeout=10.0, interval=0.02):
    """Waits until condition() is true and returns its value; fails with `what` at the deadline."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(interval)


def leftover_processes():
    """Ids and command lines of live processes that this run started, directly or not."""
    left = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
            name = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # gone, or not ours to read
            continue
        if MARKER.encode() in variables and name:
            left.append(f"{entry.name}: {name}")
    return left


class KvplaneProcess:
    """One `kvplane serve` or `kvplane route`. Construct, then await_ready()."""

    def __init__(self, arguments, log_path, wrap=None):
        """wrap: argv -> argv, for a process that runs elsewhere (a node of a netlab)."""
        self.log_path = Path(log_path)
        self.ready = None
        self.end_expected = False  # the test has ended it or waited for its end
        self._lines = queue.Queue()
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                wrap([str(binary()), *map(str, arguments)]) if wrap else command(*arguments),
                stdout=subprocess.PIPE,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=SOURCE,
                env=environment(),
                start_new_session=True,
            )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self._process.stdout:
            self._lines.put(line.decode())
        self._lines.put(None)

    def await_ready(self, timeout=READY_S):
        """The ready line must come first, be the only one, and be JSON."""
        try:
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            raise AssertionError(f"no ready line within {timeout} s\n{self.log()}") from None
        assert line is not None, f"ended with exit code {self.wait()} before it was ready\n{self.log()}"
        self.ready = json.loads(line)
        assert self.ready["event"] == "ready", line
        return self

    @property
    def pid(self):
        return self._process.pid

    @property
    def http(self):
        return self.ready["http"]  # "127.0.0.1:PORT"

    @property
    def kv(self):
        return self.ready["kv"]  # "tcp://127.0.0.1:PORT"

    def log(self):
        return self.log_path.read_text(errors="replace")[-4000:]

    def alive(self):
        return self._process.poll() is None

    def signal(self, number):
        if self.alive():
            os.kill(self._process.pid, number)

    def kill(self):
        self.signal(signal.SIGKILL)
        return self.wait()

    def wait(self, timeout=STOP_S):
        self.end_expected = True
        return self._process.wait(timeout)

    def stop(self, timeout=STOP_S):
        """SIGTERM; the exit code (negative: ended by a signal). SIGKILL and a failure at the deadline."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        try:
            return self.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"still running {timeout} s after SIGTERM\n{self.log()}") from None
