"""scripts/netlab: real bytes over shaped links, rates that change under them, and nothing left behind."""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from kvplane_process import SOURCE, eventually

sys.path.insert(0, str(SOURCE / "tests"))
import netlab  # noqa: E402

SCRIPT = SOURCE / "scripts" / "netlab"
PORT = 7700

# Accepts one connection and prints, per line, the seconds since its first byte and the bytes so far.
RECEIVER = """
import socket, sys, time
server = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("ready", flush=True)
connection, _ = server.accept()
total, start, last = 0, None, 0
while data := connection.recv(1 << 16):
    now = time.monotonic()
    start = start or now
    total += len(data)
    if now - last > 0.05:
        print(now - start, total, flush=True)
        last = now
print(time.monotonic() - start, total, flush=True)
"""
SENDER = """
import socket, sys
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=30)
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


def transfer(lab, sender, receiver, total, during=None):
    """Sends bytes from node to node; [(seconds, bytes)] as they arrived. during(samples): called per sample."""
    address = lab.address(receiver)
    sink = lab.popen(receiver, [sys.executable, "-c", RECEIVER, address, PORT], stdout=subprocess.PIPE, text=True)
    assert sink.stdout.readline() == "ready\n"
    source = lab.popen(sender, [sys.executable, "-c", SENDER, address, PORT, total])
    samples = []
    for line in sink.stdout:
        seconds, count = line.split()
        samples.append((float(seconds), int(count)))
        if during is not None:
            during(samples)
    assert source.wait(10) == 0 and sink.wait(10) == 0
    assert samples[-1][1] == total
    return samples


def bits_per_second(samples, first=0):
    """Of the samples from index `first` on."""
    (t0, b0), (t1, b1) = samples[first], samples[-1]
    return 8 * (b1 - b0) / (t1 - t0)


def test_a_transfer_runs_at_the_rate_of_its_narrowest_link(lab_name):
    with netlab.Lab(lab_name, {"prefill": "400Mbit", "decode": "40Mbit"}) as lab:
        samples = transfer(lab, "prefill", "decode", 6_000_000)
        # TCP payload is 0.956 of the rate; the burst lets the first 256 kB through at once.
        assert 0.7 * 40e6 < bits_per_second(samples) < 1.3 * 40e6
        back = transfer(lab, "decode", "prefill", 6_000_000)
        assert 0.7 * 40e6 < bits_per_second(back) < 1.3 * 40e6


def test_a_rate_changes_in_the_middle_of_a_transfer(lab_name):
    changed = []

    def widen(samples):
        if not changed and samples[-1][1] > 2_500_000:
            lab.set_rate("b", "160Mbit")
            changed.append(len(samples))

    with netlab.Lab(lab_name, {"a": "1Gbit", "b": "20Mbit"}) as lab:
        samples = transfer(lab, "a", "b", 14_000_000, during=widen)
    (middle,) = changed
    before = bits_per_second(samples[:middle])
    after = bits_per_second(samples, first=min(middle + 2, len(samples) - 2))
    assert before < 1.4 * 20e6
    assert after > 2.5 * before


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
