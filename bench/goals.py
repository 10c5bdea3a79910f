"""What the proxy must cost at most, what it aims at, and why it misses an aim where it does."""

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

Against = Literal["value", "nginx", "LiteLLM", "direct"]


class Goal(Struct, frozen=True):
    """An upper limit for one measure."""

    against: Against
    """What is limited: the value itself, its multiple of nginx's or of LiteLLM's, or what it adds to a direct call."""
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
"""For a 120 KB request whose bytes pass."""
_FEW = (
    "a round of this table has fewer requests than one of the table above, so that the first ones, on fresh "
    "connections, weigh more"
)
_LONG_HISTORY = f"{_FEW}; over a thousand requests and more the profile has"
_ONE_LOOK = "of which one look at each byte is 0.25"
_SHORT_STREAM = (
    f"{_FEW}. HTTP of both sides takes a third, most of it the kernel's reading and writing; the rest is spread over "
    "the nine steps, none of them above a tenth."
)
_WINDOW = "counting its tokens for the model's window"
_KERNELS = "is mostly the kernel's, as for nginx."
REASONS: Mapping[str, Mapping[str, str]] = {
    "Chat Completions": {},
    "Gemini": {
        "1 MB": f"{_LONG_HISTORY} 1.95 ms: reading it 0.68, {_ONE_LOOK}, encoding it 0.26, sending it 0.21.",
        "stream": _SHORT_STREAM,
        "burst": "0.57 µs of an event is decoding, because its text lies six levels deep; reading from the provider "
        f"and sending, 1.4 µs, {_KERNELS}",
    },
    "Ollama": {
        "1 MB": f"{_LONG_HISTORY} 1.91 ms: reading it 0.59, {_ONE_LOOK}, sending it 0.32, {_WINDOW} 0.23, encoding it "
        "0.14.",
        "stream": _SHORT_STREAM,
    },
    "Responses": {
        "1 MB": f"{_LONG_HISTORY} 1.85 ms: reading it 0.65, {_ONE_LOOK}, sending it 0.43, {_WINDOW} 0.19, encoding it "
        "0.11.",
        "stream": _SHORT_STREAM,
        "burst": "each event has its name in a line of its own, so that cutting events out of a read takes 0.33 µs "
        f"each, and decoding 0.47; reading from the provider and sending, 1.3 µs, {_KERNELS}",
    },
}
"""Wire → key → where the profile says that the rest goes. Said on the page only while the aim is missed."""
