"""A network cable between two processes on loopback: cut, restored and slowed down where no Lab is possible."""

import socket
import struct
import threading
import time

from . import trace

PIECE = 1 << 16
PACE_S = 0.05  # a piece of a slow cable takes no longer, so that a change of its rate is felt soon
CONNECT_S = 5
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing resets


def free_port():
    """A port of loopback that nobody has just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Cable:
    """Listens on a port of its own and forwards every connection to `target` ((host, port)).

    While it is cut no byte passes and no connection is made, and nobody is told, as with a pulled plug. Its rate, of
    all connections together in either direction, is an upper bound, as long as one process can forward at it.
    """

    def __init__(self, target):
        self._target = target
        self._whole = threading.Event()
        self._whole.set()
        self._rate = None  # bits per second; None: as fast as it goes
        self._turns = {way: threading.Lock() for way in ("in", "out")}
        self._lock = threading.Lock()
        self._open = set()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def set_rate(self, rate):
        """Bits per second as a number or "20Mbit"; None: not slowed down."""
        self._rate = None if rate is None else trace.parse_rate(rate)

    def cut(self):
        self._whole.clear()

    def restore(self):
        self._whole.set()

    def sever(self):
        """What is connected through it is reset."""
        with self._lock:
            for end in self._open:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                _end(end)

    def close(self):
        """Nothing connects through it any more."""
        self.restore()
        _end(self._server)
        self._server.close()
        self.sever()

    def _accept(self):
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:  # closed
                return
            self._whole.wait()
            try:
                far = socket.create_connection(self._target, timeout=CONNECT_S)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            with self._lock:
                self._open |= {near, far}
            pair = [
                threading.Thread(target=self._forward, args=way, daemon=True)
                for way in ((near, far, self._turns["in"]), (far, near, self._turns["out"]))
            ]
            for thread in pair:
                thread.start()
            threading.Thread(target=self._bury, args=(pair, near, far), daemon=True).start()

    def _piece(self):
        rate = self._rate
        return PIECE if rate is None else int(min(PIECE, max(1, rate * PACE_S / 8)))

    def _forward(self, source, sink, turn):
        try:
            while piece := source.recv(self._piece()):
                self._whole.wait()
                rate = self._rate
                if rate is not None:
                    with turn:
                        time.sleep(8 * len(piece) / rate)
                    self._whole.wait()
                sink.sendall(piece)
            sink.shutdown(socket.SHUT_WR)
        except OSError:  # one end is gone: so is the other
            _end(source)
            _end(sink)

    def _bury(self, pair, near, far):
        for thread in pair:
            thread.join()
        with self._lock:
            self._open -= {near, far}
            near.close()
            far.close()


def _end(end):
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
