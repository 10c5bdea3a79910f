"""Live list of the requests of the proxy on this machine, for the command `logs`.

`RequestStream` reads the event stream in which the proxy sends its requests, and yields each change of the list as a
`RequestUpdate`.
"""

import time
from collections.abc import Iterator

import msgspec
from msgspec import Struct

from anthropic_proxy.cli.local_proxy import LocalProxy, find_proxy, require_accepted_credential, require_proxy
from anthropic_proxy.errors import UpstreamUnreachable
from anthropic_proxy.log.request_feed import LoggedRequest, RequestSnapshot
from anthropic_proxy.plugins import Receipt
from anthropic_proxy.settings import Settings
from anthropic_proxy.upstream.local_server import stream_events

LIVE_PATH = "/api/requests/live"
"""URL path at which the proxy sends its recent and running requests as an event stream."""
RECONNECT_SECONDS = 0.5
"""Pause in seconds before another attempt to connect, after the end of a stream or without a proxy."""
_decode_snapshot = msgspec.json.Decoder(RequestSnapshot).decode
_decode_request = msgspec.json.Decoder(LoggedRequest).decode
_decode_running = msgspec.json.Decoder(list[Receipt]).decode


class RequestUpdate(Struct, kw_only=True):
    """Change of the list of requests: those that have finished since the previous update, and those that run."""

    finished: list[LoggedRequest] = []
    """Requests that have finished since the previous update. The first update has the recent requests."""
    running: list[Receipt] | None = None
    """Receipts (records) of the running requests. None: they have not changed."""
    is_connected: bool = True
    """False: no proxy responds any more. Another update follows when a proxy responds again."""


class RequestStream:
    """Reader of the requests of the proxy on PORT of this machine. It connects again if the connection is lost.

    Each finished request is returned once, also after a reconnection.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._known: dict[str, None] = {}
        """Ids of requests that were already returned and that the proxy may send again after a reconnection."""

    def read_recent_requests(self) -> RequestUpdate:
        """Return the recent and the running requests of the proxy on PORT of this machine.

        Raises `ConfigurationError` if no proxy responds, and `UpstreamUnreachable` for a closed connection.
        """
        proxy = require_proxy(self._settings)
        require_accepted_credential(proxy)
        for name, data in _open_stream(proxy):
            if name == "snapshot":
                return self._apply_snapshot(data)
        raise UpstreamUnreachable(f"The proxy at {proxy.address} closed the connection.")

    def read_updates(self) -> Iterator[RequestUpdate]:
        """Yield the recent requests of the proxy, then an update for each change, without end.

        Raises `ConfigurationError` if no proxy responds at first or the key is rejected.
        """
        proxy: LocalProxy | None = require_proxy(self._settings)
        is_lost = False
        while True:
            if proxy is not None:
                is_lost = False
                require_accepted_credential(proxy)
                try:
                    for name, data in _open_stream(proxy):
                        yield self._apply_event(name, data)
                except UpstreamUnreachable:
                    pass
            time.sleep(RECONNECT_SECONDS)
            proxy = find_proxy(self._settings)
            if proxy is None and not is_lost:
                is_lost = True
                yield RequestUpdate(running=[], is_connected=False)

    def _apply_event(self, name: str, data: bytes) -> RequestUpdate:
        if name == "snapshot":
            return self._apply_snapshot(data)
        if name == "running":
            return RequestUpdate(running=_decode_running(data))
        return RequestUpdate(finished=self._list_new([_decode_request(data)]))

    def _apply_snapshot(self, data: bytes) -> RequestUpdate:
        snapshot = _decode_snapshot(data)
        new = self._list_new(snapshot.finished)
        self._known = {request.receipt.request_id: None for request in snapshot.finished}
        return RequestUpdate(finished=new, running=snapshot.running)

    def _list_new(self, requests: list[LoggedRequest]) -> list[LoggedRequest]:
        new = [request for request in requests if request.receipt.request_id not in self._known]
        self._known |= {request.receipt.request_id: None for request in new}
        return new


def _open_stream(proxy: LocalProxy) -> Iterator[tuple[str, bytes]]:
    return stream_events(proxy.host, proxy.port, LIVE_PATH, proxy.token, proxy.certificate_file)
