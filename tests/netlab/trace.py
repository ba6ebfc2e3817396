"""Bandwidth traces: text with one line per change, "seconds bits-per-second", seconds from the start."""

import math
import re
import time

UNITS = {"": 1, "bit": 1, "kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
MIN_RATE = 8_000  # bit/s; tc takes less, but nothing useful arrives
MAX_RATE = 100e9


def parse_rate(text):
    """'200Mbit', '1.5Gbit/s', '1e6' -> bits per second."""
    match = re.fullmatch(r"([0-9.]+(?:e[+-]?[0-9]+)?)\s*([a-z]*)(?:/s)?", str(text).strip().lower())
    if match is None or match[2] not in UNITS:
        raise ValueError(f"'{text}' is no rate; write 200Mbit, 1.5Gbit or bits per second")
    try:
        rate = float(match[1]) * UNITS[match[2]]
    except ValueError:
        raise ValueError(f"'{text}' is no rate") from None
    if not MIN_RATE <= rate <= MAX_RATE:
        raise ValueError(f"'{text}' is not between {MIN_RATE} bit/s and {MAX_RATE / 1e9:g} Gbit/s")
    return rate


def parse_trace(text):
    """-> [(seconds, bits per second)], times increasing from 0 or later. Empty lines and # comments are skipped."""
    steps = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        try:
            if len(words) != 2:
                raise ValueError("two words: seconds and rate")
            seconds = float(words[0])
            if not math.isfinite(seconds) or seconds < 0 or (steps and seconds <= steps[-1][0]):
                raise ValueError("times start at 0 and increase")
            steps.append((seconds, parse_rate(words[1])))
        except ValueError as reason:
            raise ValueError(f"line {number}: {reason}") from None
    if not steps:
        raise ValueError("an empty trace")
    return steps


def play(steps, set_rate, stop=None, clock=time.monotonic, sleep=time.sleep):
    """Calls set_rate(bits per second) at each step's time; returns after the last, or when stop() is true.

    Late steps are not made up for: the next one that is due is set at once. Returns how many were set.
    """
    start = clock()
    count = 0
    for seconds, rate in steps:
        while (left := start + seconds - clock()) > 0:
            if stop is not None and stop():
                return count
            sleep(min(left, 0.1))
        if stop is not None and stop():
            return count
        set_rate(rate)
        count += 1
    return count
