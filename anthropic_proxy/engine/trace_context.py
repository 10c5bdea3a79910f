"""The HTTP headers `traceparent` and `tracestate`, which connect the traces of several programs (W3C Trace Context).

A trace is the record of one operation through several programs. A span is one step of it. `TraceContext` has the ids
for one client request. `encode_headers` returns the headers for a provider call. Source:
https://www.w3.org/TR/trace-context/ (read 2026-11).
"""

import random
from collections.abc import Mapping

from msgspec import Struct, structs

from anthropic_proxy.engine.patterns import compile_anchored

TRACEPARENT, TRACESTATE = "traceparent", "tracestate"
"""Names of the headers in lower case."""
MAX_STATE_CHARACTERS = 512
"""Maximum length of the header `tracestate`, up to which every program should forward it. A longer header is dropped.
"""
_PARENT = compile_anchored(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
MAX_STATE_MEMBERS = 32
"""Maximum number of entries of `tracestate` (section 3.3.1.1)."""
_STATE_MEMBER = compile_anchored(
    r"[a-z0-9][a-z0-9_*/@-]{0,255}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)
_VERSION = "00"


class TraceContext(Struct, frozen=True, kw_only=True):
    """Ids of the trace (record through several programs) of a client request, in lower-case hexadecimal digits."""

    trace_id: str
    """32 digits, the same for all spans of the trace."""
    span_id: str = ""
    """16 digits: the span of the client request. "": the proxy exports no spans."""
    parent_id: str = ""
    """16 digits: the span that causes the request, from the `traceparent` of the client, or of another request.
    "": the trace starts in the proxy."""
    flags: str = "00"
    """Two digits of `traceparent`. `01`: the trace is sampled, so its spans are exported."""
    state: str = ""
    """Header `tracestate` of the client: data of other tracing systems. "": none."""

    @property
    def is_sampled(self) -> bool:
        """True if the spans (steps) of the trace are exported, according to `flags`."""
        return bool(int(self.flags, 16) & 1)

    def below(self) -> "TraceContext":
        """Return what a request of the proxy's own has as its parent: the span of the client request that causes it."""
        return structs.replace(self, parent_id=self.span_id or self.parent_id, span_id="")

    def encode_headers(self, span_id: str) -> dict[str, str]:
        """Return the headers `traceparent` and `tracestate` for a provider call.

        `span_id` is the id of this call as a span (step) of the trace.
        """
        headers = {TRACEPARENT: f"{_VERSION}-{self.trace_id}-{span_id}-{self.flags}"}
        return {**headers, TRACESTATE: self.state} if self.state else headers


def read_trace_context(headers: Mapping[str, str]) -> TraceContext | None:
    """Return the trace ids in the headers of a client request. None: there is no valid header `traceparent`.

    The names in `headers` are in lower case.
    """
    match = _PARENT.fullmatch(headers.get(TRACEPARENT, "").strip())
    if match is None or (match[4] and match[0].startswith(_VERSION)):
        return None
    state = headers.get(TRACESTATE, "")
    members = [member for entry in state.split(",") if (member := entry.strip())]
    is_valid = len(state) <= MAX_STATE_CHARACTERS and len(members) <= MAX_STATE_MEMBERS
    state = ",".join(members) if is_valid and all(map(_STATE_MEMBER.fullmatch, members)) else ""
    return TraceContext(trace_id=match[1], parent_id=match[2], flags=match[3], state=state)


def new_trace_id() -> str:
    """Return a random id for a trace: 32 hexadecimal digits."""
    return random.randbytes(16).hex()


def new_span_id() -> str:
    """Return a random id for a span, one step of a trace: 16 hexadecimal digits."""
    return random.randbytes(8).hex()
