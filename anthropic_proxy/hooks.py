"""What later rooms may plug into the corridor: types only, nothing here does anything."""

from collections.abc import Mapping
from typing import Protocol

from msgspec import Struct, field

from anthropic_proxy.messages.notes import Note, Report

Headers = Mapping[str, str]
"""Request headers, names in lower case."""


class Client(Struct, frozen=True):
    """Who asks."""

    name: str = "local"
    """Never a secret: `local`, or a label of the key that was presented."""
    key_forwardable: bool = False
    """Whether the credential that the client sent is meant for Anthropic, because this proxy asks for none."""


class Ticket(Struct, frozen=True, kw_only=True):
    """What a policy sees before a request is admitted."""

    client: Client
    model: str
    size: int
    """Bytes of the body."""


class Receipt(Struct, kw_only=True):
    """What an observer sees after the last byte: ids, names, counts, times; never content."""

    request_id: str
    client: Client
    started: float
    """Seconds since the epoch."""
    method: str = "POST"
    path: str = "/v1/messages"
    asked_model: str = ""
    provider: str = ""
    model: str = ""
    why: str = ""
    tools: int = 0
    messages: int = 0
    stream: bool = False
    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    thinking_tokens: int = 0
    first_delta_seconds: float | None = None
    seconds: float = 0.0
    status: int = 0
    """What the client was sent; 0: nothing, it had left."""
    outcome: str = ""
    """A stop reason, `error` or `cancelled`."""
    error_kind: str = ""
    error: str = ""
    """What went wrong, as the client was told; keys masked."""
    excerpt: str = ""
    """The beginning of a provider's failing answer that was no error object, such as a gateway's page; keys masked."""
    tried: list[str] = field(default_factory=list)
    """Attempts before the one that counts, in words: `groq 429`."""
    fidelity: Report = field(default_factory=Report)
    """What became of the request's fields, and under which policy."""

    @property
    def notes(self) -> list[Note]:
        """The notes of the fidelity report."""
        return self.fidelity.notes


class Policy(Protocol):
    """Decides who may do what. Every method may raise a `ClientError` to refuse."""

    async def identify(self, headers: Headers) -> Client | None:
        """Say who the client is, before the body is read; None: not mine to say."""
        ...

    async def admit(self, ticket: Ticket) -> None:
        """Let the request pass, or raise."""
        ...


class Observer(Protocol):
    """Learns of finished exchanges; may be slow or fail without a client noticing."""

    async def record(self, receipt: Receipt) -> None:
        """Take note, after the last byte."""
        ...


class Page(Protocol):
    """Something to read at an address of its own, with GET."""

    async def read(self, accept: str) -> tuple[bytes, str]:
        """Return a body and its media type; `accept`: the header of that name."""
        ...


class Store(Protocol):
    """Small shared state with expiry. Keys and values are text; times are seconds."""

    async def get(self, key: str) -> str | None:
        """Return the value, or None if there is none or it has expired."""
        ...

    async def put(self, key: str, value: str, seconds: float) -> None:
        """Keep a value for so long."""
        ...

    async def add(self, key: str, amount: float, seconds: float) -> float:
        """Add to a number that starts at 0 and expires so long after its first use; return the sum."""
        ...
