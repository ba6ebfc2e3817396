"""Labs: nodes with addresses on one bridge, each on a link of its own bandwidth.

    with Lab("pd", {"prefill": "1Gbit", "decode": "200Mbit"}) as lab:
        server = lab.popen("decode", ["kvplane", "serve", "--host", lab.address("decode"), "--insecure"])
        lab.set_rate("decode", "50Mbit")

A link is shaped in both directions, where its bytes leave: `up` at the node, `down` at the bridge. So a
transfer from A to B runs at the lower of A's up and B's down.
"""

import json
import os
import re
import signal
import subprocess
import tempfile
from pathlib import Path

from .namespaces import Holder, NotPossible, start_first_holder, start_holder, start_time, tool
from .trace import parse_rate, play

# The same for every rate and every change: lowering the burst below a queued packet (64 KB with segmentation
# offload) stalls the link for good.
BURST = "256kb"
DEFAULT_RATE = "1Gbit"
DEFAULT_LATENCY_MS = 100  # the longest a packet waits in a link's queue before it is dropped
MAX_LATENCY_MS = 10_000
MAX_NODES = 64
SUBNET = "10.77.0"
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")
DIRECTIONS = ("up", "down")


def state_folder():
    """Where running labs are noted: one file each, for `netlab run` and for the removal of stale ones."""
    folder = Path(tempfile.gettempdir()) / f"kvplane-netlab-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to somebody else")
    return folder


def check_name(name, what):
    if NAME.fullmatch(name) is None:
        raise ValueError(f"'{name}' is no name of a {what}: small letters, digits and '-', at most 31")
    return name


class Lab:
    """`nodes`: name -> rate (text or bits per second), or a list of names. Use it as a context.

    detached: it lives on when this process ends, until somebody takes it down (`netlab up`).
    """

    def __init__(self, name, nodes, latency_ms=DEFAULT_LATENCY_MS, detached=False):
        self.name = check_name(name, "lab")
        if not isinstance(nodes, dict):
            nodes = dict.fromkeys(nodes, DEFAULT_RATE)
        if not 1 <= len(nodes) <= MAX_NODES:
            raise ValueError(f"{len(nodes)} nodes, not 1 to {MAX_NODES}")
        if not 1 <= latency_ms <= MAX_LATENCY_MS:
            raise ValueError(f"a latency of {latency_ms} ms, not 1 to {MAX_LATENCY_MS}")
        self.latency_ms = latency_ms
        self.detached = detached
        self.rates = {check_name(node, "node"): dict.fromkeys(DIRECTIONS, parse_rate(rate)) for node, rate in nodes.items()}
        self.owner = [os.getpid(), start_time(os.getpid())]
        self.hub = None
        self.holders = {}
        self.processes = []

    def __enter__(self):
        return self.up()

    def __exit__(self, *_):
        self.down()

    @property
    def nodes(self):
        return list(self.rates)

    def address(self, node):
        return f"{SUBNET}.{self.nodes.index(node) + 1}"

    def port(self, node):
        """The bridge's end of the node's link."""
        return f"p{self.nodes.index(node)}"

    def holder(self, node):
        if node not in self.holders:
            raise KeyError(f"lab '{self.name}' has no node '{node}', only {', '.join(self.nodes)}")
        return self.holders[node]

    # --- life ---

    def up(self):
        """Builds it; NotPossible where the machine does not allow it. All or nothing."""
        remove_stale()
        if self.state_file().exists():
            raise RuntimeError(f"a lab '{self.name}' is up already: netlab down {self.name}")
        try:
            self.hub = start_first_holder(f"{self.name}/hub", die_with_us=not self.detached)
            try:
                self._build()
            except RuntimeError as reason:
                raise NotPossible(str(reason)) from None
            self.save()
        except BaseException:
            self.down()
            raise
        return self

    def _build(self):
        for command in (["add", "br0", "type", "bridge"], ["set", "br0", "up"], ["set", "lo", "up"]):
            self.hub.run("ip", "link", *command)
        for node in self.nodes:
            holder = start_holder(f"{self.name}/{node}", inside=self.hub, die_with_us=not self.detached)
            self.holders[node] = holder
            port = self.port(node)
            self.hub.run("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", holder.pid)
            self.hub.run("ip", "link", "set", port, "master", "br0", "up")
            holder.run("ip", "address", "add", f"{self.address(node)}/24", "dev", "eth0")
            holder.run("ip", "link", "set", "eth0", "up")
            holder.run("ip", "link", "set", "lo", "up")
            for direction in DIRECTIONS:
                self._shape("add", node, direction)

    def down(self):
        """Ends everything that runs in it and the namespaces themselves. May be called again."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        holders = [*self.holders.values(), *([self.hub] if self.hub else [])]
        for pid in {pid for holder in holders if holder.alive() for pid in processes_in(holder)}:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        for holder in holders:
            holder.end()
        self.holders, self.hub = {}, None
        self.state_file().unlink(missing_ok=True)

    def alive(self):
        return self.hub is not None and all(holder.alive() for holder in [self.hub, *self.holders.values()])

    # --- links ---

    def _shape(self, action, node, direction):
        where, device = (self.holder(node), "eth0") if direction == "up" else (self.hub, self.port(node))
        rate = f"{round(self.rates[node][direction])}bit"
        where.run("tc", "qdisc", action, "dev", device, "root", "tbf", "rate", rate, "burst", BURST, "latency",
                  f"{self.latency_ms}ms")

    def set_rate(self, node, rate, direction="both"):
        """Takes effect at once, also in the middle of a transfer."""
        self.holder(node)
        bits = parse_rate(rate)
        for each in DIRECTIONS if direction == "both" else (direction,):
            self.rates[node][each] = bits
            self._shape("change", node, each)
        self.save()

    def cut(self, node):
        """The cable is pulled: packets are lost, connections find out by their own timeouts."""
        self.holder(node)
        self.hub.run("ip", "link", "set", self.port(node), "down")

    def restore(self, node):
        self.holder(node)
        self.hub.run("ip", "link", "set", self.port(node), "up")

    def play(self, node, steps, direction="both", stop=None):
        """Sets the node's rate as a trace says (trace.parse_trace()); returns when it is over."""
        return play(steps, lambda rate: self.set_rate(node, rate, direction), stop=stop)

    # --- commands ---

    def argv(self, node, argv):
        """What to execute so that `argv` runs in the node and dies with this process."""
        return [*self.holder(node).enter(), tool("setpriv"), "--pdeathsig", "KILL", "--", *map(str, argv)]

    def popen(self, node, argv, **options):
        """subprocess.Popen in a node; killed when the lab goes down."""
        process = subprocess.Popen(self.argv(node, argv), **options)
        self.processes.append(process)
        return process

    def run(self, node, argv, **options):
        """subprocess.run in a node."""
        return subprocess.run(self.argv(node, argv), check=False, **options)

    # --- state ---

    def state_file(self):
        return state_folder() / f"{self.name}.json"

    def state(self):
        return {
            "name": self.name,
            "owner": None if self.detached else self.owner,
            "latency_ms": self.latency_ms,
            "user_namespace": self.hub.user,
            "hub": [self.hub.pid, self.hub.started],
            "nodes": {
                node: {"pid": holder.pid, "started": holder.started, "address": self.address(node), **self.rates[node]}
                for node, holder in self.holders.items()
            },
        }

    def save(self):
        """Whole or not at all: other processes read it."""
        path = self.state_file()
        draft = path.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(self.state(), indent=1))
        draft.replace(path)

    @classmethod
    def load(cls, name):
        """A lab that runs already, of this or another process; FileNotFoundError when there is none."""
        path = state_folder() / f"{check_name(name, 'lab')}.json"
        if not path.exists():
            raise FileNotFoundError(f"no lab '{name}' is up")
        state = json.loads(path.read_text())
        lab = cls(name, {node: DEFAULT_RATE for node in state["nodes"]}, state["latency_ms"], state["owner"] is None)
        lab.owner = state["owner"]
        user = state["user_namespace"]
        lab.hub = Holder(*state["hub"], user)
        for node, entry in state["nodes"].items():
            lab.holders[node] = Holder(entry["pid"], entry["started"], user)
            lab.rates[node] = {direction: entry[direction] for direction in DIRECTIONS}
        return lab


def processes_in(holder):
    """The processes in a holder's namespace, but not the holder."""
    def namespace(pid):
        try:
            return os.readlink(f"/proc/{pid}/ns/net")
        except OSError:
            return None

    wanted = namespace(holder.pid)
    # Never ours: a holder that has not left the namespace of the machine is not alive as a holder.
    if wanted is None or wanted == namespace("self"):
        return []
    return [int(entry) for entry in os.listdir("/proc")
            if entry.isdigit() and int(entry) != holder.pid and namespace(entry) == wanted]


def running_labs():
    names = sorted(path.stem for path in state_folder().glob("*.json"))
    return [Lab.load(name) for name in names]


def remove_stale():
    """Takes down labs whose owner has ended, or that have lost a namespace. Returns their names."""
    removed = []
    for lab in running_labs():
        owned = lab.detached or start_time(lab.owner[0]) == lab.owner[1]
        if not owned or not lab.alive():
            lab.down()
            removed.append(lab.name)
    return removed
