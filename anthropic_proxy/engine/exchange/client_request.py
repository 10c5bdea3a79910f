"""The client's side of an exchange, which is one client request with its reply.

`ClientRequest` is the request, and `ResponseSink` sends the response. Recorders, which are plugins, receive the bytes
of both.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

from msgspec import Struct

from anthropic_proxy.engine.engine import Engine
from anthropic_proxy.engine.hooks import EngineLog, Receipt, Recorder, RecordPoint
from anthropic_proxy.engine.messages.events import Event
from anthropic_proxy.engine.messages.models import MessagesResponse
from anthropic_proxy.errors import ProxyError


class ClientRequest(Struct, kw_only=True):
    """An authenticated client request with its complete body."""

    receipt: Receipt
    """Record of the request: id, client, path and trace from its arrival on, the rest when it has ended."""
    headers: Mapping[str, str]
    """Client headers, names in lower case. Credentials are removed unless they may be sent to the provider."""
    body: bytes
    """Received bytes of the request body. They are removed after the reply has started, to free memory."""
    query: str = ""
    """Query of the URL, without `?`. "": none."""
    number: int = 0
    """Number of the request in `Services.in_progress`, the list of running requests."""


class ResponseSink(Protocol):
    """Interface to send the HTTP response to one client request. `gateway/server/response_sink.py` implements it."""

    async def send_events(self, events: Sequence[Event], *, is_last: bool = False) -> None:
        """Send events of a stream. The first call also sends status 200 and the stream headers.

        `is_last`: True if the response is complete after these events.
        """
        ...

    async def send_relayed_bytes(
        self, data: bytes, headers: Mapping[str, str], *, is_stream: bool, is_last: bool, status: int = 200
    ) -> None:
        """Send bytes of a provider to the client unchanged. The first call also sends `status` and `headers`."""
        ...

    async def send_message(self, response: MessagesResponse) -> None: ...

    async def send_error_response(self, error: ProxyError) -> None:
        """Send an error with its HTTP status. Call this only before anything else was sent."""
        ...

    async def wait_disconnected(self) -> None:
        """Wait until the client has disconnected."""
        ...


def start_recording(engine: Engine, request: ClientRequest) -> Callable[[bytes], None]:
    """Pass the body of a client request to the recorders. Return a function that passes a piece of the response."""
    recorders = [*engine.recorders]
    request_id = request.receipt.request_id
    record_bytes(recorders, engine.log, request_id, "client request", request.body)
    return partial(record_bytes, recorders, engine.log, request_id, "client response")


def record_bytes(recorders: list[Recorder], log: EngineLog, request_id: str, point: RecordPoint, data: bytes) -> None:
    """Pass bytes to the recorders. One that raises an exception is removed: its failure must not affect the client."""
    for recorder in [*recorders]:
        try:
            recorder.record(request_id, point, data)
        except Exception:  # noqa: BLE001  # a defect of a plugin
            recorders.remove(recorder)
            log.write_traceback(request_id)
