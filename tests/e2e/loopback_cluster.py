"""The cluster of lab_cluster.py where namespaces are not allowed: the same calls, over a cable on loopback.

The prefill node paces what it sends with the transport `shaped`, at the rate of the start; what changes later happens
to a proxy that stands between it and the decode node (netlab.Cable)."""

import sys

from clusters import Launcher
from kvplane_process import SOURCE

sys.path.insert(0, str(SOURCE / "tests"))
import netlab  # noqa: E402


class CableLab:
    """What tests do to links. There is one, the prefill node's; of directions only both at once."""

    def __init__(self, cable):
        self._cable = cable

    def cut(self, node):
        self._only_prefill(node)
        self._cable.cut()

    def restore(self, node):
        self._only_prefill(node)
        self._cable.restore()

    def set_rate(self, node, rate, direction="both"):
        self._only_prefill(node)
        self._cable.set_rate(rate)

    def play(self, node, steps, stop=None):
        return netlab.play(steps, lambda rate: self.set_rate(node, rate), stop=stop)

    @staticmethod
    def _only_prefill(node):
        assert node == "prefill", "only the prefill node's link can be changed on loopback"


class LoopbackCluster:
    def __init__(self, name, folder, rate="1Gbit", prefill_flags=(), decode_flags=()):
        del name  # namespaces have names, loopback has not
        self._launcher = Launcher(folder)
        self._rate = rate
        self._flags = (prefill_flags, decode_flags)

    def __enter__(self):
        self._launcher.__enter__()
        try:
            self._up()
        except BaseException:
            self._launcher.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, *error):
        self._cable.restore()
        try:
            return self._launcher.__exit__(*error)
        finally:
            self._cable.close()

    def _up(self):
        port = netlab.free_port()
        self._cable = netlab.Cable(("127.0.0.1", port))
        self.lab = CableLab(self._cable)
        link = ("--kv-listen", f"tcp://127.0.0.1:{port}", "--kv-advertise", f"127.0.0.1:{self._cable.port}",
                "--link-rate", f"{netlab.parse_rate(self._rate):.0f}")
        self._cluster = self._launcher.cluster((*link, *self._flags[0]), self._flags[1])
        self._nodes = {"prefill": self._cluster.prefill[0], "decode": self._cluster.decode[0]}

    def complete(self, prompt, timeout=60, **fields):
        return self._cluster.client.complete(prompt, timeout=timeout, **fields).raw

    def metric(self, node, name, label=""):
        key, _, value = label.partition("=")
        return self._nodes[node].client.metric(name, **({key: value.strip('"')} if label else {}))
