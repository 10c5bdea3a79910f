"""The budget of each step of a request, and its cost: shares of samples, of the CPU that was measured without."""

import re
from collections import Counter
from collections.abc import Mapping

from msgspec import Struct


class Work(Struct, frozen=True, kw_only=True):
    """The requests that are sent while the proxy is sampled."""

    size: int
    """Bytes of each request."""
    reply: str
    connections: int = 4
    events: int = 1
    """By how many a reply's time is divided: 1 where the whole of it counts."""


WORK: Mapping[str, Work] = {
    "1 KB": Work(size=1_000, reply="bench-whole"),
    "120 KB": Work(size=120_000, reply="bench-whole"),
    "1 MB": Work(size=1_000_000, reply="bench-whole"),
    "stream": Work(size=1_000, reply="bench-text-10"),
    "burst": Work(size=1_000, reply="bench-text-1010", events=1010),
    "packed": Work(size=1_000, reply="bench-text-1010-packed", events=1010),
    "paced": Work(size=1_000, reply="bench-text-400-paced", connections=16, events=400),
    "args": Work(size=1_000, reply="bench-args-1010", events=1010),
    "alone": Work(size=120_000, reply="bench-whole", connections=1),
    "first": Work(size=120_000, reply="bench-text-20", connections=1),
    "slow": Work(size=1_000, reply="bench-text-50-slow", connections=64, events=50),
}
"""Step of `bench.measures` → its kind of request."""


class Profile(Struct, kw_only=True):
    """The distribution of the proxy's time."""

    work: Work
    micros: float
    """CPU of one request, or of one event, measured without sampling."""
    stacks: dict[str, int]
    """Functions from the outermost to the innermost, joined by `;` → samples."""

    def functions(self, *, with_callees: bool) -> Counter[str]:
        """Return the microseconds of each function, by itself or with all that it calls."""
        samples: Counter[str] = Counter()
        for stack, count in self.stacks.items():
            names = stack.split(";")
            for name in set(names) if with_callees else names[-1:]:
                samples[name] += count
        whole = sum(self.stacks.values())
        return Counter({name: count / whole * self.micros for name, count in samples.items()})

    def steps(self) -> Counter[str]:
        """Return the microseconds of each step. Calls of another step count for that step."""
        found: Counter[str] = Counter()
        for name, micros in self.functions(with_callees=False).items():
            found[next(step.title for step in STEPS if re.search(step.functions, name))] += micros
        return found


class Step(Struct, frozen=True):
    """A part of the way of a request, and its budget."""

    title: str
    functions: str
    """A pattern that finds them by name and file."""
    may: tuple[float, float, float]
    """Microseconds of each of `BUDGETED`."""


BUDGETED: Mapping[str, str] = {
    "120 KB": "120 KB request",
    "stream": "stream of ten events",
    "burst": "event in a burst",
}
"""The kinds of work with a budget, by name in `WORK`. It results from the aims (`bench.targets`): 6.5 times nginx's 60
µs; 200 µs and ten events; 1.8 times nginx's 1.4 µs."""
STEPS = (
    Step("event loop", r"^Runner\.run", (4, 2, 0.05)),
    Step(
        "server: HTTP of the client, request limits, sending the reply",
        r"\(anthropic_proxy/(?:gateway/server|app)|uvicorn/",
        (84, 64, 0.45),
    ),
    Step("decoding the request", r"\(anthropic_proxy/engine/messages/models|^read_client_request ", (89, 12, 0.04)),
    Step("routing, credentials, observations", r"\(anthropic_proxy/engine/(?:routing|providers)", (7, 6, 0.02)),
    Step("preparing the request", r"\(anthropic_proxy/engine/messages/preparation", (25, 12, 0.03)),
    Step("estimating tokens for `message_start`", r"\(anthropic_proxy/engine/messages/tokens", (0, 9, 0.02)),
    Step("HTTP of the provider", r"\(anthropic_proxy/engine/upstream", (46, 32, 0.6)),
    Step(
        "decoding the response",
        r"\(anthropic_proxy/engine/(?:wires/(?:\w+/(?:stream|frames)|framing|tool_call_repair|thinking)"
        r"|exchange/upstream_stream)",
        (16, 28, 0.9),
    ),
    Step("encoding the request", r"\(anthropic_proxy/engine/wires", (45, 10, 0.04)),
    Step("writing the reply", r"\(anthropic_proxy/engine/messages", (14, 8, 0.12)),
    Step("the log", r"\(anthropic_proxy/(?:gateway/telemetry|secrets)", (11, 7, 0.03)),
    Step("exchange: the nine steps, watchdog, transports", r"\(anthropic_proxy/", (34, 26, 0.15)),
    Step("asyncio and the standard library", "", (15, 9, 0.05)),
)
"""The first step with a fitting pattern gets a function. The kernel's work for a call counts where the call, or the
function that receives its result, is written."""
