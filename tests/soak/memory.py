"""The resident memory of processes over their lives, and whether one of them leaks.

Every incarnation of a process is watched from its start to its end. Caches fill at first, so the first WARM_S seconds
do not count; of the rest, which must last MIN_WATCHED_S at least, the last third is compared with the first.
"""

import re
import threading
import time
from pathlib import Path

SAMPLE_S = 1.0
WARM_S = 30
MIN_WATCHED_S = 30
# Allocators keep what they once had; a leak goes on. Either bound alone would forbid healthy nodes or hide leaks.
GROWTH_BYTES = 24 << 20
GROWTH_SHARE = 0.15


def resident_bytes(pid):
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"VmRSS:\s+(\d+) kB", text)
    return int(found[1]) * 1024 if found else 0


class Life:
    """One incarnation of one member."""

    def __init__(self, name, number):
        self.name = name
        self.number = number
        self.samples = []  # (seconds since its start, bytes)

    def figures(self):
        """None for a life too short to say anything."""
        watched = [(age, size) for age, size in self.samples if age >= WARM_S]
        if not watched or watched[-1][0] - watched[0][0] < MIN_WATCHED_S:
            return None
        third = (watched[-1][0] - watched[0][0]) / 3
        early = max(size for age, size in watched if age <= watched[0][0] + third)
        late = max(size for age, size in watched if age >= watched[-1][0] - third)
        return {"incarnation": self.number, "seconds": round(self.samples[-1][0]), "early_bytes": early,
                "late_bytes": late, "bytes_per_s": round((late - early) / (2 * third))}

    def leaks(self):
        found = self.figures()
        if found is None:
            return False
        grown = found["late_bytes"] - found["early_bytes"]
        return grown > GROWTH_BYTES and grown > GROWTH_SHARE * found["early_bytes"]


class MemoryWatch(threading.Thread):
    def __init__(self, members):
        super().__init__(daemon=True)
        self._members = members
        self._lives = {}  # (name, incarnation)
        self._stopping = threading.Event()

    def run(self):
        while not self._stopping.wait(SAMPLE_S):
            self.sample()

    def sample(self):
        for member in self._members:
            number, pid, started = member.incarnation()
            size = resident_bytes(pid)
            if size > 0:
                life = self._lives.setdefault((member.name, number), Life(member.name, number))
                life.samples.append((time.monotonic() - started, size))

    def stop(self):
        self._stopping.set()
        if self.is_alive():
            self.join()

    def report(self):
        """By member, what its longest watched life showed and how many were watched."""
        report = {}
        for member in self._members:
            lives = [life for (name, _), life in self._lives.items() if name == member.name]
            figures = [found for life in lives if (found := life.figures())]
            longest = max(figures, key=lambda found: found["seconds"], default={})
            report[member.name] = {"incarnations": len(lives), "watched": len(figures), **longest}
        return report

    def problems(self):
        found = []
        for life in self._lives.values():
            if life.leaks():
                found.append(f"{life.name} leaks: {life.figures()}")
        for name, figures in self.report().items():
            if figures["watched"] == 0:
                found.append(f"{name}: no incarnation lived long enough to tell whether it leaks")
        return found
