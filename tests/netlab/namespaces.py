"""Network namespaces without anything left behind: each is held by one process and ends with it.

Nothing is created in the namespace of the machine: bridge and links live in namespaces of their own, so that
ending the holders removes everything, also after a crash. As root the namespaces are plain ones; otherwise
they live inside one unprivileged user namespace, where the kernel allows it.
"""

import functools
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

TOOLS = ("ip", "tc", "unshare", "nsenter", "setpriv", "sleep")
MARKER = "KVPLANE_NETLAB"
COMMAND_S = 10  # for an ip or tc command; they take milliseconds
START_S = 10  # for a holder to enter its namespace


class NotPossible(Exception):
    """This machine lets us make no shaped links; the message says why. Use the transport `shaped` instead."""


def search_path():
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def tool(name):
    found = shutil.which(name, path=search_path())
    if found is None:
        raise NotPossible(f"'{name}' is not installed (Debian packages iproute2 and util-linux)")
    return found


def run(argv, timeout=COMMAND_S):
    """Runs a command to its end; RuntimeError with its last words when it fails."""
    done = subprocess.run(argv, capture_output=True, text=True, errors="replace", timeout=timeout, check=False)
    if done.returncode != 0:
        words = (done.stderr or done.stdout).strip().splitlines()[-1:] or [f"exit {done.returncode}"]
        raise RuntimeError(f"{' '.join(map(str, argv))}: {words[0]}")
    return done.stdout


def start_time(pid):
    """When a process started, in clock ticks; None when it has ended. With the pid it names one process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else int(fields[19])


class Holder:
    """A process that keeps one namespace alive."""

    def __init__(self, pid, started, user):
        self.pid = pid
        self.started = started
        self.user = user  # it lives in a user namespace of ours

    def alive(self):
        return start_time(self.pid) == self.started

    def enter(self):
        """The argv prefix that runs a command in this namespace."""
        user = ["--user", "--preserve-credentials"] if self.user else []
        return [tool("nsenter"), "--target", str(self.pid), *user, "--net", "--"]

    def run(self, *argv):
        return run([*self.enter(), tool(argv[0]), *map(str, argv[1:])])

    def end(self):
        if not self.alive():
            return
        os.kill(self.pid, signal.SIGKILL)
        deadline = time.monotonic() + START_S
        while self.alive() and time.monotonic() < deadline:
            try:
                os.waitpid(self.pid, os.WNOHANG)  # ours, unless another process started it
            except ChildProcessError:
                pass
            time.sleep(0.005)


def start_holder(label, inside=None, user=False, die_with_us=True):
    """A new network namespace. `inside`: a Holder whose user namespace it joins; user: make one."""
    enter = []
    if inside is not None and inside.user:
        enter = [tool("nsenter"), "--target", str(inside.pid), "--user", "--preserve-credentials", "--"]
    make = [tool("unshare"), *(["--user", "--map-root-user"] if user else []), "--net", "--"]
    # After unshare: a change of credentials clears the parent-death signal.
    death = [tool("setpriv"), "--pdeathsig", "KILL", "--"] if die_with_us else []
    process = subprocess.Popen(
        [*enter, *make, *death, tool("sleep"), "infinity"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, MARKER: label},
        start_new_session=True,
    )
    # Every step execs the next one, so the pid stays; the last is `sleep`.
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            words = process.stderr.read().strip().splitlines()[-1:] or [f"exit {process.returncode}"]
            raise NotPossible(words[0])
        try:
            if Path(f"/proc/{process.pid}/comm").read_text().strip() == "sleep":
                process.stderr.close()
                return Holder(process.pid, start_time(process.pid), user or (inside is not None and inside.user))
        except OSError:
            pass
        time.sleep(0.002)
    process.kill()
    raise NotPossible("a namespace did not come up in time")


def start_first_holder(label, die_with_us=True):
    """Plain namespaces where we may; otherwise inside a user namespace."""
    reasons = []
    for user in [False, True] if os.geteuid() == 0 else [True]:
        try:
            return start_holder(label, user=user, die_with_us=die_with_us)
        except NotPossible as reason:
            reasons.append(str(reason))
    raise NotPossible("; ".join(reasons))


def try_everything():
    """One link with a shaper, taken down again: what a lab needs of the kernel."""
    holders = []
    try:
        for name in TOOLS:
            tool(name)
        holders.append(start_first_holder("check"))
        holders.append(start_holder("check", inside=holders[0]))
        hub = holders[0]
        hub.run("ip", "link", "add", "br0", "type", "bridge")
        hub.run("ip", "link", "add", "p0", "type", "veth", "peer", "name", "eth0", "netns", holders[1].pid)
        holders[1].run("tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", "1mbit", "burst", "256kb",
                       "latency", "10ms")
    finally:
        for holder in holders:
            holder.end()


@functools.cache
def why_not_possible():
    """None where labs can be built; otherwise the reason, for people. Asks the kernel once per process."""
    try:
        try_everything()
    except (NotPossible, RuntimeError, OSError, subprocess.SubprocessError) as reason:
        return f"no network namespaces with shaped links here: {reason}; use the transport 'shaped' instead"
    return None
