"""`RequestUpdate`: what has changed about the requests of the running proxy, for `logs` and its full-screen view."""

from msgspec import Struct

from anthropic_proxy.gateway.telemetry.logged_requests import LoggedRequest
from anthropic_proxy.plugins import Receipt


class RequestUpdate(Struct, kw_only=True):
    finished: list[LoggedRequest] = []
    """Requests that have finished since the previous update. The first update has the recent requests."""
    running: list[Receipt] | None = None
    """None: not changed."""
    is_connected: bool = True
    """False: no proxy responds any more. Another update follows when a proxy responds again."""
