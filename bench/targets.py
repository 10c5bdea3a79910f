"""Limits of the cost of the proxy, its aims, and the reasons for missed aims."""

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

Against = Literal["value", "nginx", "LiteLLM", "direct"]


class Goal(Struct, frozen=True):
    """An upper limit for one measure."""

    against: Against
    """The quantity: the value itself, its multiple of nginx's or of LiteLLM's, or the difference to a direct call."""
    must: float
    aim: float


GOALS: Mapping[str, tuple[Goal, ...]] = {
    "1 KB": (Goal("value", 0.5, 0.25),),
    "120 KB": (Goal("nginx", 12, 6.5), Goal("LiteLLM", 1 / 24, 1 / 42)),
    "1 MB": (Goal("value", 5, 2),),
    "stream": (Goal("value", 0.4, 0.2),),
    "burst": (Goal("nginx", 3, 1.8),),
    "paced": (Goal("nginx", 3, 2),),
    "args": (Goal("value", 8, 4),),
    "p50": (Goal("direct", 1.2, 0.6),),
    "p99": (Goal("direct", 5, 1.5),),
    "first": (Goal("direct", 1.5, 0.8),),
    "slow": (Goal("direct", 40, 15),),
    "idle": (Goal("value", 60, 45),),
    "filled": (Goal("value", 75, 52),),
    "start": (Goal("value", 0.45, 0.25),),
}
"""Key of a measure → its limits, in the order of the page."""
RELAY_GOAL = Goal("nginx", 6, 6)
"""The limits for a 120 KB request with bytes that pass."""
_MACHINE = (
    "programs in Python need 1.4 to 1.7 times the processor time that they need on machine A (see Two machines), and "
    "nginx needs less."
)
_LEDGER = f"the ledger stores each request in a thread of its own, which takes 0.02 to 0.03 ms; {_MACHINE}"
_WAKE_UPS = "load generator, proxy and upstream share two cores, and each request wakes all of them."
COMMON_REASONS: Mapping[str, str] = {
    "1 KB": _LEDGER,
    "120 KB": _LEDGER,
    "1 MB": f"the body is copied four times; {_MACHINE}",
    "stream": _LEDGER,
    "burst": _MACHINE,
    "paced": _MACHINE,
    "p50": _WAKE_UPS,
    "p99": _WAKE_UPS,
    "first": _WAKE_UPS,
    "slow": _WAKE_UPS,
    "filled": "each stream keeps the body of its request until its end, to compare it with the next prompt: 7.7 MB.",
}
"""Key → where the rest goes, for all wires without a reason of their own."""
_SHORT_STREAM = (
    "HTTP of both sides takes a third, mostly reads and writes in the kernel; each of the nine steps takes "
    "at most a tenth."
)
REASONS: Mapping[str, Mapping[str, str]] = {
    "Chat Completions": {},
    "Gemini": {
        "1 MB": "its messages are encoded with each request; the other wires send those of the request before again.",
        "stream": _SHORT_STREAM,
    },
    "Ollama": {
        "stream": _SHORT_STREAM,
    },
    "Responses": {
        "stream": _SHORT_STREAM,
        "p99": (
            "the spread is as large as the value: single slow requests while load generator and upstream shared "
            "the two cores; for the other wires the same steps take less than 1 ms."
        ),
    },
}
"""Wire → key → where the rest goes according to the profile. Printed on the page only while the aim is missed."""
