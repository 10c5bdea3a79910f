"""Command `logs`: the recent and new requests of the running proxy on this machine.

Older requests come from the ledger. `--live` opens a full-screen view.
"""

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import chain
from typing import Annotated, NamedTuple

import msgspec
from cyclopts import Parameter
from msgspec import structs

from anthropic_proxy.cli.command_settings import load_command_settings
from anthropic_proxy.cli.ledger_access import read_last_requests
from anthropic_proxy.cli.local_proxy import (
    LocalProxy,
    describe_unused_proxy,
    find_any_proxy,
    find_proxy,
    follow_session,
    require_accepted_credential,
    require_proxy,
)
from anthropic_proxy.cli.output import Output, open_data_output
from anthropic_proxy.cli.proxy_client import stream_events
from anthropic_proxy.cli.request_updates import RequestUpdate
from anthropic_proxy.console.ledger.periods import find_times
from anthropic_proxy.errors import ConfigurationError, UpstreamUnreachable
from anthropic_proxy.gateway.money import format_cost
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.telemetry.log import Log
from anthropic_proxy.gateway.telemetry.logged_requests import LoggedRequest, RequestSnapshot
from anthropic_proxy.gateway.telemetry.outcomes import classify_outcome
from anthropic_proxy.plugins import Receipt

_USUAL_LINES = 20
MAX_LINES = 10_000
"""Maximum of the option `--number`, the number of earlier requests to print. The proxy keeps the last 200 of each
worker."""


def logs(
    *,
    number: Annotated[int | None, Parameter(name=("--number", "-n"))] = None,
    since: str = "",
    follow: Annotated[bool, Parameter(negative="--no-follow")] = True,
    errors: bool = False,
    live: bool = False,
    as_json: bool = False,
) -> None:
    """Parameters
    ----------
    number
        Number of earlier requests to print first; by default 20, or all since --since. Each worker of the proxy keeps
        its last 200 requests.
    since
        Earliest time of these requests: 30m, 24h, 7d, yesterday, a day such as 2026-10-21, or a month such as 2026-10.
    follow
        Wait for further requests.
    errors
        Print only failed requests.
    live
        Show running and finished requests on the full screen; needs the extra `tui`.
    as_json
        Print one JSON object per request.
    """
    if live and since:  # the full screen shows what the proxy has in memory
        raise ConfigurationError("--live and --since exclude each other. Use one of them.", code="usage-period")
    start = 0.0
    usual = _USUAL_LINES
    if since:
        start = find_times("--since", since, datetime.now(UTC))[0].timestamp()
        usual = MAX_LINES
    number = usual if number is None else number
    if not 0 <= number <= MAX_LINES:
        raise ConfigurationError(
            f'--number is "{number}". Use a whole number from 0 to {MAX_LINES}.', code="invalid-setting"
        )
    settings = follow_session(load_command_settings(is_client=True))
    if live:
        _show_live(settings)
        return
    # an unknown address ends the command, also if the proxy itself has enough requests
    has_ledger = number == 0 or settings.has_ledger()
    shown = open_data_output() if as_json else sys.stdout
    log = Log(shown, "json" if as_json else "auto", color=settings.color, has_ledger=has_ledger)
    log.begin_day(time.time())
    selection = _Selection(settings, number, start, errors, has_queries=as_json)
    proxy = find_any_proxy(settings)
    stored = [] if proxy and proxy.is_used else selection.read_stored(number)
    if stored or (since and proxy is None and settings.has_ledger()):
        _write(log, selection.leave_out_queries(stored))
        notice = f"no `serve` is running on port {settings.port}."
        notice = f"From saved records: {notice}" if stored else f"No record is saved since {since}, and {notice}"
        if proxy is not None:
            notice = f"From saved records. {describe_unused_proxy(proxy)}"
        Output().write_notice(notice)
    else:
        _write_of_proxy(log, selection, follows=follow)


def _show_live(settings: Settings) -> None:
    try:
        from anthropic_proxy.cli.live_view import LiveView  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("textual", "rich"):
            raise
        raise ConfigurationError(
            "logs --live needs the extra tui, which is not installed. Install it:  anthropic-proxy add tui",
            code="live-view-missing",
        ) from None
    updates = RequestStream(settings).read_updates()
    first = next(updates)  # a missing proxy is reported before the screen opens
    listed = (
        structs.replace(update, finished=[request for request in update.finished if not _is_model_query(request)])
        for update in chain([first], updates)
    )
    view = LiveView(f"port {settings.port}", listed)
    view.run()
    if view.return_code:
        sys.exit(view.return_code)


class _Selection(NamedTuple):
    """Which requests are printed."""

    settings: Settings
    number: int
    """Number of earlier requests."""
    start: float
    """Earliest time of these, in seconds since the epoch."""
    errors: bool
    """True: only failed requests."""
    has_queries: bool
    """True: queries of the model list too."""

    def read_stored(self, number: int, before: float | None = None) -> Sequence[LoggedRequest]:
        """`before`: seconds since the epoch. None: until now."""
        if not self.settings.has_ledger() or number == 0:
            return []
        return read_last_requests(self.settings, number, failed_only=self.errors, start=self.start, before=before)

    def leave_out_queries(self, requests: Iterable[LoggedRequest]) -> list[LoggedRequest]:
        return [request for request in requests if self.has_queries or not _is_model_query(request)]

    def choose(self, update: "RequestUpdate") -> list[LoggedRequest]:
        shown = self.leave_out_queries(update.finished)
        return [request for request in shown if not self.errors or is_failed(request)]

    def choose_earlier(self, update: "RequestUpdate") -> list[LoggedRequest]:
        """`update`: the recent requests of the proxy. The ledger may have older ones."""
        shown = [request for request in self.choose(update) if request.receipt.started_at >= self.start]
        before = min((request.receipt.started_at for request in update.finished), default=None)
        older: Sequence[LoggedRequest] = []
        with suppress(ConfigurationError):  # the ledger cannot be read
            older = self.read_stored(max(self.number - len(shown), 0), before)
        return [*self.leave_out_queries(older), *shown[max(len(shown) - self.number, 0) :]]


def _write_of_proxy(log: Log, selection: _Selection, *, follows: bool) -> None:
    settings = selection.settings
    stream = RequestStream(selection.settings)
    updates = stream.read_updates() if follows else iter([stream.read_recent_requests()])
    for number, update in enumerate(updates):
        _write(log, selection.choose(update) if number else selection.choose_earlier(update))
        if not number and follows and sys.stdout.isatty():
            Output().write_notice("Waiting for further requests, until Ctrl+C. Without waiting:  --no-follow")
        if not update.is_connected:
            Output().write_notice(f"The proxy on port {settings.port} has stopped. Waiting for the next one.")


def _is_model_query(request: LoggedRequest) -> bool:
    """Return True for a successful query of the model list. `code` and `env` send several at each start."""
    receipt = request.receipt
    is_query = receipt.method == "GET" and f"{receipt.path}/".startswith(MODELS_PATH)
    return is_query and not is_failed(request)


def is_failed(request: LoggedRequest) -> bool:
    """Return True if the client of the request received an error. A request that the client cancelled is no failure."""
    return classify_outcome(request.receipt) == "error"


def _write(log: Log, requests: Iterable[LoggedRequest]) -> None:
    for request in requests:
        receipt = request.receipt
        if request.is_exchange:
            is_known = request.cost is not None and (receipt.all_input_tokens or receipt.output_tokens)
            entry = log.format_exchange(receipt, format_cost(request.cost) if is_known else "")
        else:
            entry = log.format_request(receipt)
        sys.stdout.write(f"{log.begin_day(receipt.started_at)}{log.to_encodable(entry)}\n")
        sys.stdout.flush()


MODELS_PATH = "/v1/models/"
LIVE_PATH = "/api/requests/live"
"""URL path at which the proxy sends its recent and running requests as an event stream."""
_MAX_TIME = datetime(9999, 1, 1, tzinfo=UTC).timestamp()
RECONNECT_SECONDS = 0.5
"""Pause in seconds before another attempt to connect, after the end of a stream or without a proxy."""
_decode_snapshot = msgspec.json.Decoder(RequestSnapshot).decode
_decode_request = msgspec.json.Decoder(LoggedRequest).decode
_decode_running = msgspec.json.Decoder(list[Receipt]).decode


class RequestStream:
    """Reader of the requests of the proxy on PORT. It returns each finished request once, also after a reconnection."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._known: dict[str, None] = {}
        """Ids of requests that were already returned and that the proxy may send again after a reconnection."""

    def read_recent_requests(self) -> RequestUpdate:
        """Raises `ConfigurationError` if no proxy responds, and `UpstreamUnreachable` for a closed connection."""
        proxy = self._use_reading_key(require_proxy(self._settings))
        require_accepted_credential(proxy)
        for name, data in _open_stream(proxy):
            if name == "snapshot":
                try:
                    return self._apply_snapshot(data)
                except msgspec.DecodeError as error:
                    raise _build_unreadable_error(proxy, error) from None
        raise UpstreamUnreachable(f"The proxy at {proxy.address} closed the connection.", code="proxy-connection")

    def read_updates(self) -> Iterator[RequestUpdate]:
        """Yield the recent requests of the proxy, then an update for each change, without end.

        Raises `ConfigurationError` if no proxy responds at first or the key is rejected.
        """
        proxy: LocalProxy | None = self._use_reading_key(require_proxy(self._settings))
        is_lost = False
        while True:
            if proxy is not None:
                is_lost = False
                require_accepted_credential(proxy)
                try:
                    for name, data in _open_stream(proxy):
                        if name == "snapshot":
                            yield self._apply_snapshot(data)
                        elif name == "running":
                            running = _decode_running(data)
                            _require_times(running)
                            yield RequestUpdate(running=running)
                        elif name == "request":
                            request = _decode_request(data)
                            _require_times([request.receipt])
                            yield RequestUpdate(finished=self._list_new([request]))
                except UpstreamUnreachable:
                    pass
                except msgspec.DecodeError as error:
                    raise _build_unreadable_error(proxy, error) from None
            time.sleep(RECONNECT_SECONDS)
            if (proxy := find_proxy(self._settings)) is not None:
                proxy = self._use_reading_key(proxy)
            elif not is_lost:
                is_lost = True
                yield RequestUpdate(running=[], is_connected=False)

    def _use_reading_key(self, proxy: LocalProxy) -> LocalProxy:
        """Without `PROXY_API_KEY`, keys that send no messages read the requests."""
        others = (*self._settings.monitor_api_keys, *self._settings.admin_api_keys)
        if self._settings.proxy_api_keys or not others:
            return proxy
        return structs.replace(proxy, token=others[0].reveal())

    def _apply_snapshot(self, data: bytes) -> RequestUpdate:
        snapshot = _decode_snapshot(data)
        _require_times([*(request.receipt for request in snapshot.finished), *snapshot.running])
        new = self._list_new(snapshot.finished)
        self._known = {request.receipt.request_id: None for request in snapshot.finished}
        return RequestUpdate(finished=new, running=snapshot.running)

    def _list_new(self, requests: list[LoggedRequest]) -> list[LoggedRequest]:
        new = [request for request in requests if request.receipt.request_id not in self._known]
        self._known |= {request.receipt.request_id: None for request in new}
        return new


def _require_times(receipts: Iterable[Receipt]) -> None:
    """Raises `msgspec.ValidationError` for a time that no calendar has."""
    for receipt in receipts:
        if not 0 <= receipt.started_at < _MAX_TIME:
            raise msgspec.ValidationError("Invalid time - at `$.started_at`")


def _build_unreadable_error(proxy: LocalProxy, error: msgspec.DecodeError) -> UpstreamUnreachable:
    return UpstreamUnreachable(
        f"The requests of the proxy at {proxy.address} (version {proxy.version}) cannot be read: {error}. "
        "Use the same version for the command.",
        code="proxy-connection",
    )


def _open_stream(proxy: LocalProxy) -> Iterator[tuple[str, bytes]]:
    return stream_events(proxy.host, proxy.port, LIVE_PATH, proxy.token, proxy.certificate_file)
