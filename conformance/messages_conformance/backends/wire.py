"""What each backend has: the requests that its protocol knows, what they must be like, and the form of replies."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from messages_conformance.backends.reply import Cut, Failure, Pause, Reply

Frame = bytes | Pause | Cut
"""What a stream consists of: bytes that are sent at once, and incidents."""
Json = dict[str, Any]
HTML = b"<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"


IMAGE_BEGINNINGS: Mapping[str, bytes] = {
    "image/png": b"\x89PNG\r\n\x1a\n",
    "image/jpeg": b"\xff\xd8\xff",
    "image/gif": b"GIF8",
    "image/webp": b"RIFF",
}
"""Media type → how each file of it begins."""


@dataclass(frozen=True)
class Request:
    """A request of the server under test."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """Names in lower case."""
    body: Any
    """Decoded JSON without fields that are null. None: there is no body. A text: the body is no JSON."""


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    """Beside `content-type: application/json`, or instead of it."""


@dataclass(frozen=True)
class ContractViolation:
    """A rule of the protocol that a request breaks, in the words of the real server where they are known."""

    rule: str
    message: str
    param: str | None = None
    code: str | None = None


class Wire(Protocol):
    """One protocol, as its provider speaks it."""

    stream_type: str
    """Content type of a stream."""
    alive: bytes
    """A sign of life in a stream that pauses. Empty: the protocol has none."""

    def answer(self, request: Request) -> Answer | None:
        """Return the answer to a request that is no call of a model, such as a list or a count. None: it is a call."""
        ...

    def check(self, request: Request) -> Iterator[ContractViolation]:
        """Yield the rules that a call of a model breaks; the provider names the first."""
        ...

    def refuse(self, violation: ContractViolation) -> Answer: ...

    def fail(self, failure: Failure) -> Answer:
        """Return an error as it comes instead of a reply."""
        ...

    def is_stream(self, request: Request) -> bool: ...

    def stop_sequences(self, request: Request) -> list[str]:
        """Return the texts before which the reply has to end."""
        ...

    def takes_one_call(self, request: Request) -> bool:
        """Return whether the reply may have one call only."""
        ...

    def stream(self, reply: Reply, request: Request, tag: str) -> Iterator[Frame]:
        """Yield the frames of a stream. `tag`: makes the identifiers of the reply new."""
        ...

    def whole(self, reply: Reply, request: Request, tag: str) -> Json:
        """Return the reply that is not streamed."""
        ...


def encode(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def sse(value: Mapping[str, Any]) -> bytes:
    """Return an event without a name."""
    return b"data: %b\n\n" % encode(value)


def named_event(value: Mapping[str, Any]) -> bytes:
    """Return an event whose name is its type."""
    return b"event: %b\n%b" % (str(value["type"]).encode(), sse(value))


def answer_json(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(status, encode(value), headers or {})


def answer_gateway(status: int = 502) -> Answer:
    """Return the page of a server between, which knows no protocol."""
    return Answer(status, HTML, {"content-type": "text/html"})


def count_tokens(body: Any) -> int:
    """Return a count of tokens that grows with a request; no test relies on its value."""
    return 1 + len(encode(body)) // 4


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def interleave(sequences: Iterable[Iterable[Any]]) -> Iterator[Any]:
    """Yield the first elements of all sequences, then the second ones, until all are empty."""
    open_ones = [iter(sequence) for sequence in sequences]
    while open_ones:
        for values in list(open_ones):
            try:
                yield next(values)
            except StopIteration:
                open_ones.remove(values)


def retry_header(failure: Failure) -> dict[str, str]:
    return {} if failure.retry_after is None else {"retry-after": f"{failure.retry_after:g}"}


def render(
    events: Iterable[Json | Pause | Cut | Failure],
    frame: Callable[[Json], bytes],
    fail: Callable[[Failure], bytes],
) -> Iterator[Frame]:
    """Yield the frames of a stream up to its end, or to the error or the cut that ends it."""
    for event in events:
        if isinstance(event, Failure):
            yield fail(event)
            return
        if isinstance(event, Pause | Cut):
            yield event
            if isinstance(event, Cut):
                return
        else:
            yield frame(event)
