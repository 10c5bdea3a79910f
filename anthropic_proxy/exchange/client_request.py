"""The client side of an exchange: the authenticated request, and the sink of its response."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from anthropic_proxy.errors import ProxyError
from anthropic_proxy.messages.events import Event
from anthropic_proxy.messages.models import MessagesResponse
from anthropic_proxy.plugins import Client, Receipt


class ClientRequest(Struct, kw_only=True):
    """An authenticated request with a complete body."""

    request_id: str
    client: Client
    headers: Mapping[str, str]
    """Names in lower case. Credentials are removed unless they may be forwarded."""
    body: bytes
    """Empty after the request was decoded, to free the memory."""
    path: str = "/v1/messages"
    query: str = ""
    number: int = 0
    """Number of the request in `Services.in_progress`."""

    @property
    def queue_key(self) -> str:
        """Client and session. Queued upstream calls are served round-robin by this key."""
        return f"{self.client.name} {self.headers.get('x-claude-code-session-id', '')}"


class ResponseSink(Protocol):
    """Output of one HTTP response."""

    def attach_receipt(self, receipt: Receipt) -> None:
        """Set the receipt that the response headers are built from. Call this before any other method."""
        ...

    async def send_events(self, events: Sequence[Event], *, last: bool = False) -> None:
        """Send events. The first call sends status 200 and the stream headers first."""
        ...

    async def send_relayed(self, data: bytes, headers: Mapping[str, str], *, streams: bool, last: bool) -> None:
        """Send relayed bytes, the upstream headers first. `streams`: part of a stream. `last`: nothing follows."""
        ...

    async def send_message(self, response: MessagesResponse) -> None:
        """Send a complete reply."""
        ...

    async def send_error(self, error: ProxyError) -> None:
        """Send an error with its HTTP status. Nothing may be sent before."""
        ...

    async def wait_disconnected(self) -> None:
        """Return when the client has disconnected."""
        ...
