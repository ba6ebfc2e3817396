"""redis-server processes of a test's own, one or a cluster: on loopback, in memory, ended with the test."""

import socket
import subprocess
from pathlib import Path

from kvplane_process import environment, eventually


class RedisServer:
    def __init__(self, folder, *flags):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        settings = {"port": self.port, "bind": "127.0.0.1", "dir": folder, "appendonly": "no"}
        self._argv = ["setpriv", "--pdeathsig", "KILL", "--", "redis-server"]
        self._argv += [str(word) for name, value in settings.items() for word in (f"--{name}", value)]
        self._argv += ["--save", "", *flags]
        self._process = None
        self.start()

    def start(self):
        """Also after kill(): on the same port, with nothing in it."""
        self._process = subprocess.Popen(self._argv, stdout=subprocess.DEVNULL, env=environment())
        try:
            eventually(lambda: self.command("PING") == b"+PONG\r\n", "redis-server answers")
        except BaseException:
            self.kill()
            raise

    def alive(self):
        return self._process.poll() is None

    def command(self, *words):
        encoded = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w.encode()) for w in words)
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                connection.sendall(encoded)
                return connection.recv(4096)
        except OSError:
            return None

    def keys(self):
        return int(self.command("DBSIZE").strip()[1:])

    def kill(self):
        self._process.kill()
        self._process.wait()


class RedisCluster:
    """Three masters with a replica each; ports and folders of their own. Use it as a context."""

    MASTERS = 3
    MEET_S = 60  # until all six agree; a few seconds on an idle machine
    TIMEOUT_MS = 1000  # silence after which a master is taken for dead

    def __init__(self, folder):
        self._folder = Path(folder)
        self.nodes = []

    def __enter__(self):
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error):
        for node in self.nodes:
            node.kill()

    def _start(self):
        for i in range(2 * self.MASTERS):
            folder = self._folder / f"redis-{i}"
            folder.mkdir()
            with socket.socket() as free:  # the default, port + 10000, may be beyond 65535 or taken
                free.bind(("127.0.0.1", 0))
                bus = free.getsockname()[1]
            self.nodes.append(RedisServer(folder, "--cluster-enabled", "yes", "--cluster-port", str(bus),
                                          "--cluster-node-timeout", str(self.TIMEOUT_MS)))
        addresses = [f"127.0.0.1:{node.port}" for node in self.nodes]
        created = subprocess.run(
            ["redis-cli", "--cluster", "create", *addresses, "--cluster-replicas", "1", "--cluster-yes"],
            capture_output=True, text=True, timeout=self.MEET_S, check=False)
        assert created.returncode == 0, created.stdout + created.stderr
        eventually(self._healthy, "all nodes of the cluster agree, every master has its replica", self.MEET_S)

    def _healthy(self):
        return all(b"cluster_state:ok" in (node.command("CLUSTER", "INFO") or b"")
                   and (self.replicating(node) or not self._is_replica(node)) for node in self.nodes)

    @staticmethod
    def _is_replica(node):
        return b"role:slave" in (node.command("INFO", "replication") or b"")

    @staticmethod
    def replicating(node):
        return b"master_link_status:up" in (node.command("INFO", "replication") or b"")

    def masters(self):
        return [node for node in self.nodes if node.alive() and not self._is_replica(node)]

    def url(self):
        """Of all nodes: which of them are masters may change."""
        return "redis://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
