"""Network laboratory: real TCP between namespaces, over links whose bandwidth is set. See docs/netlab.md."""

from .cable import Cable, free_port
from .lab import DEFAULT_LATENCY_MS, BURST, Lab, remove_stale, running_labs
from .namespaces import NotPossible, why_not_possible
from .trace import parse_rate, parse_trace, play

__all__ = [
    "BURST",
    "Cable",
    "DEFAULT_LATENCY_MS",
    "Lab",
    "NotPossible",
    "free_port",
    "parse_rate",
    "parse_trace",
    "play",
    "remove_stale",
    "running_labs",
    "why_not_possible",
]
