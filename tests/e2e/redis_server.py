"""A redis-server of a test's own: on loopback, in memory, ended with the test."""

import socket
import subprocess

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
