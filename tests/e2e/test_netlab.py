"""scripts/netlab: real bytes over shaped links, rates that change under them, and nothing left behind."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from kvplane_process import SOURCE, eventually

sys.path.insert(0, str(SOURCE / "tests"))
import netlab  # noqa: E402

SCRIPT = SOURCE / "scripts" / "netlab"
PORT = 7700

# Accepts one connection and takes everything. After `pause_at` bytes it says so and waits for a line. Prints the
# bytes at the pause and at the end, the latter with the time. What may wait for it in the kernel is bounded.
RECEIVER = """
import socket, sys, time
server = socket.create_server((sys.argv[1], int(sys.argv[2])))
server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 17)
print("ready", flush=True)
connection, _ = server.accept()
total, pause_at = 0, int(sys.argv[3])
while data := connection.recv(1 << 16):
    total += len(data)
    if total >= pause_at > 0:
        print(total, flush=True)
        sys.stdin.readline()
        pause_at = 0
print(time.monotonic(), total, flush=True)
"""
# Prints the time before its first byte.
SENDER = """
import socket, sys, time
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=30)
print(time.monotonic(), flush=True)
left = int(sys.argv[3])
while left > 0:
    left -= connection.send(bytes(min(left, 1 << 16)))
connection.shutdown(socket.SHUT_WR)
"""


def possible():
    reason = netlab.why_not_possible()
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture
def lab_name():
    possible()
    return f"test-{os.getpid()}"


class Transfer:
    """Bytes from node to node. Rates are upper bounds however slow the machine is: the time that is counted begins
    before the first byte can leave and ends after the last one arrived."""

    def __init__(self, lab, sender, receiver, total, pause_at=0):
        address = lab.address(receiver)
        pipe = subprocess.PIPE
        self.total, self.before = total, 0
        self.sink = lab.popen(
            receiver, [sys.executable, "-c", RECEIVER, address, PORT, pause_at], stdin=pipe, stdout=pipe, text=True
        )
        assert self.sink.stdout.readline() == "ready\n"
        self.source = lab.popen(sender, [sys.executable, "-c", SENDER, address, PORT, total], stdout=pipe, text=True)
        self.begin = float(self.source.stdout.readline())

    def await_pause(self):
        self.before = int(self.sink.stdout.readline())

    def go_on(self):
        """From here on the rate is measured anew."""
        self.begin = time.monotonic()
        self.sink.stdin.write("\n")
        self.sink.stdin.flush()

    def bits_per_second(self):
        end, total = self.sink.stdout.readline().split()
        assert self.source.wait(60) == 0 and self.sink.wait(60) == 0
        assert int(total) == self.total
        return 8 * (self.total - self.before) / (float(end) - self.begin)


# Lower bounds would measure the machine. Without a shaper these transfers are over in a tenth of the time.
def test_a_transfer_is_no_faster_than_its_narrowest_link(lab_name):
    with netlab.Lab(lab_name, {"prefill": "400Mbit", "decode": "40Mbit"}) as lab:
        # TCP payload is 0.956 of the rate; the burst lets the first 256 kB through at once.
        assert Transfer(lab, "prefill", "decode", 6_000_000).bits_per_second() < 1.3 * 40e6
        assert Transfer(lab, "decode", "prefill", 6_000_000).bits_per_second() < 1.3 * 40e6


def test_a_rate_changes_in_the_middle_of_a_transfer(lab_name):
    with netlab.Lab(lab_name, {"a": "1Gbit", "b": "1Gbit"}) as lab:
        transfer = Transfer(lab, "a", "b", 8_000_000, pause_at=2_000_000)
        transfer.await_pause()
        lab.set_rate("b", "20Mbit")
        transfer.go_on()
        # Beyond the rate: the burst, and what waited in the receiver's buffer.
        assert transfer.bits_per_second() < 1.4 * 20e6


def test_a_trace_sets_rates_and_a_cut_link_comes_back(lab_name):
    with netlab.Lab(lab_name, {"a": "1Gbit", "b": "1Gbit"}) as lab:
        assert lab.play("b", netlab.parse_trace("0 10Mbit\n0.05 30Mbit")) == 2
        assert lab.rates["b"] == {"up": 30e6, "down": 30e6}
        assert "rate 30Mbit burst 256Kb" in lab.holder("b").run("tc", "qdisc", "show", "dev", "eth0")
        lab.cut("b")
        probe = [sys.executable, "-c", "import socket, sys; socket.create_connection((sys.argv[1], 1), timeout=0.3)"]
        cut = lab.run("a", [*probe, lab.address("b")], capture_output=True, text=True, timeout=30)
        assert "timed out" in cut.stderr or "No route" in cut.stderr
        lab.restore("b")
        eventually(
            lambda: "Connection refused"
            in lab.run("a", [*probe, lab.address("b")], capture_output=True, text=True, timeout=30).stderr,
            "b answers again",
        )


def interfaces():
    return sorted(name for _, name in socket.if_nameindex())


def test_nothing_is_left_behind(lab_name):
    before = interfaces()
    lab = netlab.Lab(lab_name, ["a", "b"]).up()
    assert interfaces() == before, "the machine's own namespace is left alone"
    sleeper = lab.popen("a", ["sleep", "1000"])
    holders = [lab.hub, *lab.holders.values()]
    assert all(holder.alive() for holder in holders)
    lab.down()
    assert sleeper.poll() is not None
    assert not any(holder.alive() for holder in holders)
    assert not lab.state_file().exists()
    lab.down()  # again: nothing to do
    assert interfaces() == before


def test_a_crash_leaves_nothing(lab_name):
    crash = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); import netlab; "
        "lab = netlab.Lab(sys.argv[2], ['a']).up(); "
        "print(lab.hub.pid, lab.holder('a').pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", crash, str(SOURCE / "tests"), lab_name], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    pids = [int(word) for word in done.stdout.split()]
    eventually(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), "its namespaces are gone")
    assert netlab.remove_stale() == [lab_name]
    assert lab_name not in [lab.name for lab in netlab.running_labs()]


def script(*arguments, **options):
    return subprocess.run([SCRIPT, *map(str, arguments)], capture_output=True, text=True, timeout=60, **options)


def test_the_command_line(lab_name, tmp_path):
    up = script("up", lab_name, "a=50Mbit", "b")
    try:
        assert (up.returncode, up.stdout) == (0, "a 10.77.0.1\nb 10.77.0.2\n"), up.stderr
        assert script("up", lab_name, "a").returncode == 1, "it is up already"
        assert "10.77.0.1/24" in script("run", lab_name, "a", "--", "ip", "address").stdout
        assert script("run", lab_name, "b", "--", "false").returncode == 1
        assert script("rate", lab_name, "a", "20Mbit", "--direction", "up").returncode == 0
        trace = tmp_path / "trace"
        trace.write_text("# seconds bit/s\n0 30e6\n0.01 70Mbit\n")
        assert script("trace", lab_name, "b", trace).returncode == 0
        trace.write_text("0 70Mbit\n")
        assert script("trace", lab_name, "b", trace, "--loop").returncode == 2, "no length"
        (state,) = json.loads(script("show", lab_name).stdout)
        assert (state["nodes"]["a"]["up"], state["nodes"]["a"]["down"]) == (20e6, 50e6)
        assert state["nodes"]["b"]["up"] == 70e6
        assert script("rate", lab_name, "a", "fast").returncode == 2
        assert script("rate", lab_name, "c", "1Mbit").returncode == 1
    finally:
        assert script("down", lab_name).returncode == 0
    assert script("show", lab_name).returncode == 1
    assert script("down", lab_name).returncode == 1


class Echo:
    """Sends back what it gets, on a port of loopback."""

    def __init__(self):
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = self._server.getsockname()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            connection, _ = self._server.accept()
            threading.Thread(target=self._echo, args=(connection,), daemon=True).start()

    def _echo(self, connection):
        try:
            while piece := connection.recv(1 << 16):
                connection.sendall(piece)
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass


def talk(connection, sent):
    connection.sendall(sent)
    got = b""
    while len(got) < len(sent):
        got += connection.recv(1 << 16)
    return got


def test_a_cable_is_cut_restored_and_severed():
    cable = netlab.Cable(Echo().address)
    with socket.create_connection(("127.0.0.1", cable.port), timeout=30) as connection:
        assert talk(connection, b"whole") == b"whole"
        cable.cut()
        connection.sendall(b"lost in the dark")
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        cable.restore()
        connection.settimeout(30)
        assert talk(connection, b"!").startswith(b"lost in the dark"), "kept, as TCP keeps it"
        cable.sever()
        with pytest.raises(ConnectionError):
            while connection.recv(100):
                pass
            raise ConnectionError("an end will do as well")
    with socket.create_connection(("127.0.0.1", cable.port), timeout=30) as connection:
        assert talk(connection, b"again") == b"again"
    cable.close()
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", cable.port), timeout=5)


def test_a_slow_cable_is_no_faster_than_its_rate():
    cable = netlab.Cable(Echo().address)
    cable.set_rate("4Mbit")
    with socket.create_connection(("127.0.0.1", cable.port), timeout=60) as connection:
        begin = time.monotonic()
        assert len(talk(connection, bytes(200_000))) >= 200_000
        assert 8 * 200_000 / (time.monotonic() - begin) < 1.01 * 4e6
    cable.close()


def test_where_it_is_not_possible_it_says_so():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TOOLS, str(SOURCE / "tests")], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "use the transport 'shaped' instead" in done.stdout


WITHOUT_TOOLS = """
import sys; sys.path.insert(0, sys.argv[1])
from netlab import namespaces
namespaces.TOOLS = (*namespaces.TOOLS, "no-such-tool")
print(namespaces.why_not_possible())
"""


@pytest.mark.parametrize(
    "text", ["", "0", "0 1Mbit 2", "0 fast", "1 1Mbit\n1 2Mbit", "-1 1Mbit", "nan 1Mbit", "0 1", "0 1e30", "0 1e999"]
)
def test_bad_traces_are_refused(text):
    with pytest.raises(ValueError):
        netlab.parse_trace(text)


def test_a_trace_is_played_on_time():
    now, rates = [0.0], []
    steps = netlab.parse_trace("0 1Mbit\n1.5 2Mbit # up\n\n3 500kbit/s")

    def sleep(seconds):
        now[0] += seconds

    assert netlab.play(steps, lambda rate: rates.append((round(now[0], 6), rate)), clock=lambda: now[0], sleep=sleep) == 3
    assert rates == [(0, 1e6), (1.5, 2e6), (3, 5e5)]


def test_bad_labs_are_refused():
    for name, nodes in (("../x", ["a"]), ("x", []), ("x", ["A b"]), ("x", {"a": "1"})):
        with pytest.raises(ValueError):
            netlab.Lab(name, nodes)
