"""What a wire is, and what travels between it and the corridor.

A wire is a module with five names: `Dialect`, `FRAMING`, `encode_request`, `new_decoder` and `decode_error`. It does no
I/O, holds no state between calls, and compares no provider's or model's name: what differs is a field of its `Dialect`.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Literal, Protocol, TypeGuard

from msgspec import Struct

from anthropic_proxy.errors import UpstreamError
from anthropic_proxy.messages.deltas import Delta
from anthropic_proxy.messages.notes import Note
from anthropic_proxy.messages.prepare import PreparedRequest
from anthropic_proxy.messages.types import DocumentBlock, ImageBlock


class Call(Struct, frozen=True, kw_only=True):
    """One request on its way to one target."""

    request: PreparedRequest
    """As it will be said: cleaned, paired, with the names that the wire allows."""
    model: str
    """The upstream's id of the model, without a prefix."""
    asked_model: str = ""
    """The id that the client asked for, which the reply says."""
    renamed: bool = False
    """Whether the two differ; only a relay asks."""
    dialect: Any
    """The wire's own `Dialect`, with the rules for this model merged in."""
    stream: bool
    """Whether the upstream is asked to stream; the client may want the other."""
    raw: bytes = b""
    """The body as the client sent it; only a relay reads it."""
    headers: Mapping[str, str] = {}
    """The client's headers, names in lower case, without credentials; only a relay reads them."""
    path: str = "/v1/messages"
    """The path that the client asked for; only a relay reads it."""
    query: str = ""
    """The query of the client's own address; only a relay reads it."""
    bears_marks: bool = True
    """Whether `raw` may hold blocks that the proxy wrote; only a relay asks."""
    aliases: Mapping[str, str] = {}
    """Tool names said upstream → the client's own names, where they differ."""
    new_id: Callable[[str], str]
    """`new_id("toolu_px")` gives a fresh identifier with that prefix; the only source of identifiers."""
    provider: str
    """The provider's name, for messages."""
    window: int | None = None
    """Tokens of input and output together that the model takes; None: not known. Fills in what a finish reason leaves
    out."""
    max_input: int | None = None
    """Tokens of input alone, where they are fewer; None: as many as the window."""
    continuation: str = ""
    """What the provider gave to have the same request go on; "": the request is new."""
    estimate: Callable[[], int] = lambda: 0
    """Counts the input roughly, in tokens; 0: nobody can. Asked only where a provider refuses it as too long and gives
    no number."""

    @property
    def most_input(self) -> int | None:
        """Tokens of input that the model takes; None: not known. Fills in what an overflow message leaves out."""
        return self.max_input or self.window


class UpstreamRequest(Struct, frozen=True, kw_only=True):
    """An HTTP request without address and secrets."""

    path: str
    """Below the provider's base address, with a leading slash, percent-encoded; may carry a query."""
    body: bytes
    headers: Mapping[str, str] = {}
    method: str = "POST"
    notes: Sequence[Note] = ()
    """What the encoder could not keep."""
    keeps_schema: bool = False
    """Whether the provider itself sees to it that the reply fits `output_schema`; else it is checked here."""


LENT = "the client"
"""Origin of a credential that a client sent and that is passed on: nobody keeps it beyond its request."""


class Credential(Struct, frozen=True):
    """The header that proves who we are; joins the request when it is sent."""

    header: str
    value: str
    """Secret; with its scheme where the header has one (`Bearer …`)."""
    origin: str = ""
    """Where it comes from, in words fit for an error message: `OPENAI_API_KEY`."""
    further: Mapping[str, str] = {}
    """Headers that go with it and are no secrets: who pays, where that is not who asks."""

    def __repr__(self) -> str:
        return f"Credential(header={self.header!r}, value='…', origin={self.origin!r})"


class UpstreamResponse(Protocol):
    """An answer whose status and headers are here and whose body is still on its way.

    One that knows when its body has come whole has a further attribute, `ended` (`is_received`).
    """

    @property
    def status(self) -> int:
        """The HTTP status."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers; look-up by lower-case name works."""
        ...

    async def read(self) -> bytes:
        """Return the next bytes as the network gave them, b"" at the end.

        Raises `UpstreamUnreachable` or `UpstreamProtocolError` where the connection breaks.
        """
        ...

    async def close(self, *, complete: bool = False) -> None:
        """End the call: give the connection back if the body was read whole, else cut it. Safe to call twice.

        `complete` says that the wire's last frame has come, so that the end of the body is worth a short wait.
        """
        ...


def is_received(response: UpstreamResponse) -> bool:
    """Whether nothing of an answer is still on its way, so that reading it waits for nothing; False: nobody knows."""
    ended: bool = getattr(response, "ended", False)
    return ended


class Send(Protocol):
    """A way out: sends one request to one address."""

    async def __call__(
        self, base_url: str, request: UpstreamRequest, credential: Credential | None
    ) -> UpstreamResponse:
        """Send and wait for status and headers. Raises `UpstreamUnreachable`, `UpstreamTimeout`."""
        ...


class Decoder(Protocol):
    """Reads one answer. Its methods raise `UpstreamError` where the answer is an error or breaks the wire's rules.

    One that mends what a model wrote has a further attribute, `notes` (`notes_of`); one whose provider may give a reply
    in several answers has `continuation` (`continuation_of`).
    """

    @property
    def signature(self) -> str:
        """What a thinking block of ours is signed with when the upstream gave nothing to carry (`wire/carry.py`)."""
        ...

    @property
    def finished(self) -> bool:
        """Whether the wire's own last frame has come (`[DONE]`, `response.completed`): nobody need wait for the end."""
        ...

    def decode_frame(self, frame: bytes) -> list[Delta]:
        """Read one SSE data field or one NDJSON line."""
        ...

    def decode_end(self) -> list[Delta]:
        """Say what is left when the stream has ended; raises `UpstreamProtocolError` if it ended too early."""
        ...

    def decode_body(self, body: bytes) -> list[Delta]:
        """Read an answer that was not streamed: the same deltas, all at once."""
        ...


def notes_of(decoder: Decoder) -> Sequence[Note]:
    """Return what a decoder, so far, has read otherwise than the model wrote it."""
    notes: Sequence[Note] = getattr(decoder, "notes", ())
    return notes


def held_by(decoder: Decoder) -> list[Delta]:
    """Return the text that a decoder still holds back, because the answer breaks off here.

    It is what may yet have become something else: a call, a tag, a passage with its sources. A decoder that holds
    nothing has no `release`.
    """
    release: Callable[[], list[Delta]] | None = getattr(decoder, "release", None)
    return release() if release is not None else []


def continuation_of(decoder: Decoder) -> str | None:
    """Return what a call must carry to have the provider go on with this answer.

    None: no answer of this provider goes on; "": this one does not. One that does has no `Stop`.
    """
    token: str | None = getattr(decoder, "continuation", None)
    return token


def takes_link(wire: "Wire", dialect: Any, block: ImageBlock | DocumentBlock) -> bool:
    """Whether a picture or document may be said by its address; a wire without a function of that name takes none."""
    says: Callable[[Any, ImageBlock | DocumentBlock], bool] | None = getattr(wire, "takes_link", None)
    return says is not None and says(dialect, block)


class Wire(Protocol):
    """The five names of a wire module."""

    @property
    def Dialect(self) -> type[Any]:  # noqa: N802  # a class, named as one
        """The frozen struct of this wire's quirks; its defaults are what the wire's own vendor does."""
        ...

    @property
    def FRAMING(self) -> Literal["sse", "ndjson"]:  # noqa: N802  # a constant of the module
        """How a streamed body is cut into frames."""
        ...

    def encode_request(self, call: Call) -> UpstreamRequest:
        """Say the request in the wire's language. Raises `UnsupportedFeature` where it would be meaningless."""
        ...

    def new_decoder(self, call: Call) -> Decoder:
        """Return a fresh decoder for one answer."""
        ...

    def decode_error(self, call: Call, status: int, headers: Mapping[str, str], body: bytes) -> Exception | list[Delta]:
        """Read an answer whose status is not 2xx: an `UpstreamError`, or deltas where it is a reply after all."""
        ...


class Healing(Struct, frozen=True):
    """How to say a request again after a refusal of one of its parameters."""

    name: str
    """What `heal` understands, with its value: `drop temperature`, `limit 4096`. Fit for a log and a store.

    `wire` and a name is for the corridor, not for `heal`: the model speaks that other language of its provider.
    """
    lasts: bool = True
    """Whether it holds for the model from now on; False: for this request only."""


class HealingWire(Wire, Protocol):
    """A wire that can learn from a refusal what a model does not take."""

    def find_healing(self, call: Call, error: UpstreamError) -> Healing | None:
        """Return what to do differently, or None where the refusal stands."""
        ...

    def heal(self, dialect: Any, name: str) -> Any:
        """Return the dialect under which the request is said again; an unknown name changes nothing."""
        ...


def heals(wire: Wire) -> TypeGuard[HealingWire]:
    """Whether this wire can learn from a refusal."""
    return hasattr(wire, "find_healing")


class RelayWire(Wire, Protocol):
    """The wire that the clients speak themselves: bytes pass as they are and are only read along."""

    @property
    def RELAY(self) -> Literal[True]:  # noqa: N802  # a constant of the module
        """Says so; no other wire has this name."""
        ...

    def with_reply_model(self, reply: bytes, model: str) -> bytes:
        """Return a message, or the bytes of a stream from its first event on, as the reply of that model."""
        ...

    def without_start(self, reply: bytes) -> bytes:
        """Return the bytes of a stream from its first event on without the event that begins a message."""
        ...

    def find_telling(self, frames: bytes) -> bytes:
        """Return of whole frames those that may say more than text and tool input; b"": none, and nobody need look."""
        ...


def relays(wire: Wire) -> TypeGuard[RelayWire]:
    """Whether bytes pass this wire as they are."""
    return _relays(wire)  # type: ignore[arg-type]  # a module is hashable


@cache  # to miss a name of a module takes long, and every request asks several times
def _relays(wire: Wire) -> bool:
    return getattr(wire, "RELAY", False)
