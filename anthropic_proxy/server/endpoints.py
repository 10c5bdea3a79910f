"""HTTP in and out: one function an endpoint, on the bare ASGI interface."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any
from urllib.parse import parse_qs

import msgspec

from anthropic_proxy import __version__
from anthropic_proxy.errors import InvalidRequest, ProxyError, Stopping, UnknownModel, UpstreamError, WrongMethod
from anthropic_proxy.exchange import forward
from anthropic_proxy.exchange.forward import Told
from anthropic_proxy.exchange.house import House, Inbound
from anthropic_proxy.exchange.run import note_failure, our_bug, run
from anthropic_proxy.hooks import Client, Receipt
from anthropic_proxy.log import Log
from anthropic_proxy.messages.events import Event
from anthropic_proxy.messages.types import MessagesResponse
from anthropic_proxy.routing.listing import ModelEntry, find_model, list_models
from anthropic_proxy.server.body import read_body, take_body
from anthropic_proxy.server.guard import OPEN_PATHS, headers_of, identify
from anthropic_proxy.server.replies import (
    encode_error,
    encode_events,
    encode_message,
    error_headers,
    json_headers,
    report_headers,
    stream_headers,
)

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

QUIET_PATHS = OPEN_PATHS | {"/metrics"}
"""Machines ask for them again and again; the log tells it only where it tells all."""
DEFAULT_PAGE = 20
LARGEST_PAGE = 1000
_FEW_DIGITS = re.compile(r"[0-9]{1,4}")


class HttpOutlet:
    """One HTTP response on its way to the client."""

    def __init__(self, receive: Receive, send: Send, request_id: str) -> None:
        self._receive = receive
        self._send = send
        self._request_id = request_id
        self._opened = False
        self._receipt: Receipt | None = None

    def follow(self, receipt: Receipt) -> None:
        """Take the receipt of the exchange: headers that go out tell what it says by then."""
        self._receipt = receipt

    async def write(self, events: Sequence[Event], *, last: bool = False) -> None:
        """Send events in one piece; before the first, status 200 and the headers of a stream."""
        if not self._opened:
            await self._open(200, stream_headers(self._request_id))
        body = encode_events(events, self._request_id)
        await self._send({"type": "http.response.body", "body": body, "more_body": not last})

    async def relay(self, data: bytes, headers: Mapping[str, str], *, streams: bool, last: bool) -> None:
        """Send bytes as an upstream sent them, with its headers before the first; `last`: nothing follows."""
        if not streams:
            await self.respond(200, data, {**json_headers(self._request_id), **headers})
            return
        if not self._opened:
            await self._open(200, {**stream_headers(self._request_id), **headers})
        await self._send({"type": "http.response.body", "body": data, "more_body": not last})

    async def message(self, response: MessagesResponse) -> None:
        """Send a whole reply."""
        await self.respond(200, encode_message(response))

    async def tell(self, told: Told) -> None:
        """Send a JSON body, with the headers of the provider whose it is."""
        await self.respond(200, told.body, {**json_headers(self._request_id), **told.headers})

    async def respond(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Send a JSON body with its length."""
        headers = headers or json_headers(self._request_id)
        await self._open(status, {**headers, "content-length": str(len(body))})
        await self._send({"type": "http.response.body", "body": body})

    async def refuse(self, error: ProxyError) -> None:
        """Send the error envelope; nothing where an answer has begun."""
        if self._opened:
            return
        headers = error_headers(error, self._request_id)
        if isinstance(error, WrongMethod):
            headers["allow"] = ", ".join(error.allowed)
        elif error.ends_connection:
            headers["connection"] = "close"  # what comes next would be read for a request
        body = encode_error(error, self._request_id)
        if isinstance(error, UpstreamError):
            body, headers = error.body or body, {**headers, **error.headers}
        await self.respond(error.status, body, headers)

    @property
    def opened(self) -> bool:
        """Whether an answer has begun."""
        return self._opened

    async def gone(self) -> None:
        """Return when the client has left."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _open(self, status: int, headers: Mapping[str, str]) -> None:
        if receipt := self._receipt:
            headers = {**headers, **report_headers(receipt.fidelity if status == 200 else None, receipt.tried)}
        pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        self._opened = True
        await self._send({"type": "http.response.start", "status": status, "headers": pairs})


async def serve(house: House, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer one HTTP request; every failure becomes Anthropic's error envelope."""
    request_id = house.new_id("req_")
    outlet = HttpOutlet(receive, send, request_id)
    receipt = Receipt(request_id=request_id, client=Client(), started=house.clock())
    receipt.method, receipt.path = scope["method"], scope["path"]
    headers, was_read = headers_of(scope), False
    try:
        client = receipt.client = await identify(scope, headers, house.settings, house.policies)
        endpoint = find_endpoint(receipt.method, receipt.path)
        body: bytes | None = b""
        if receipt.method == "POST" and (body := take_body(scope)) is None:
            body = await read_body(receive)
        if body is None:
            receipt.outcome = "cancelled"
            house.log.request(receipt)
            return
        was_read, query = True, scope.get("query_string", b"").decode("latin-1")
        inbound = Inbound(
            request_id=request_id, client=client, headers=headers, body=body, path=receipt.path, query=query
        )
        del body  # its exchange decides how long it is held
        await endpoint(house, inbound, outlet)
    except ProxyError as error:
        if not was_read and "expect" in headers:
            error.ends_connection = True  # nobody said whether the body will come
        await _refuse(house, receipt, outlet, error)
    except asyncio.CancelledError:
        if not outlet.opened:
            await _refuse(house, receipt, outlet, Stopping())
    except Exception as error:  # noqa: BLE001  # the edge of the door: a client is always answered in the envelope
        await _refuse(house, receipt, outlet, our_bug(error, house, request_id))
    else:
        if endpoint is not post_messages:  # an exchange has written its own lines
            receipt.status = 200
            house.log.request(receipt, "debug" if receipt.path in QUIET_PATHS else "info")


def note_unreadable(error: ProxyError, log: Log, new_id: Callable[[str], str], clock: Callable[[], float]) -> str:
    """Write the line of a request of which not even the head could be read; return its id."""
    receipt = Receipt(request_id=new_id("req_"), client=Client(), started=clock(), method="–", path="–")
    note_failure(receipt, error)
    log.request(receipt)
    return receipt.request_id


async def _refuse(house: House, receipt: Receipt, outlet: HttpOutlet, error: ProxyError) -> None:
    note_failure(receipt, error)
    house.log.request(receipt)
    await outlet.refuse(error)


def post_messages(house: House, inbound: Inbound, outlet: HttpOutlet) -> Awaitable[None]:
    """`POST /v1/messages`: the main job."""
    return run(house, inbound, outlet)


async def post_count_tokens(house: House, inbound: Inbound, outlet: HttpOutlet) -> None:
    """`POST /v1/messages/count_tokens`: the provider's count where it speaks our language, else an estimate."""
    await outlet.tell(await forward.count_tokens(house, inbound))


async def get_models(house: House, inbound: Inbound, outlet: HttpOutlet) -> None:
    """`GET /v1/models`: what may be asked for, in pages (`limit`, `after_id`, `before_id`)."""
    if told := await forward.list_models(house, inbound):
        await outlet.tell(told)
        return
    query = {name: values[-1] for name, values in parse_qs(inbound.query).items()}
    models = list_models(house.settings, house.catalogue)
    await outlet.respond(200, msgspec.json.encode(page_of(models, query)))


async def get_model(house: House, inbound: Inbound, outlet: HttpOutlet) -> None:
    """`GET /v1/models/{id}`: one of them."""
    if told := await forward.list_models(house, inbound):
        await outlet.tell(told)
        return
    entry = find_model(inbound.path.removeprefix("/v1/models/"), house.settings, house.catalogue)
    await outlet.respond(200, msgspec.json.encode(entry))


async def get_root(house: House, inbound: Inbound, outlet: HttpOutlet) -> None:
    """`GET /` and `HEAD /`: somebody is here."""
    text = f"anthropic-proxy {__version__} speaks the Anthropic Messages API: set ANTHROPIC_BASE_URL to this address."
    await outlet.respond(200, msgspec.json.encode({"message": text}))


async def get_health(house: House, inbound: Inbound, outlet: HttpOutlet) -> None:
    """`GET /health`: the process lives and takes requests."""
    await outlet.respond(200, msgspec.json.encode({"status": "ok", "version": __version__}))


async def get_metrics(house: House, inbound: Inbound, outlet: HttpOutlet) -> None:
    """`GET /metrics`: what happened, in numbers, as Prometheus reads them."""
    if house.metrics is None:
        raise nothing_at(inbound.path)
    body, media_type = await house.metrics.read(inbound.headers.get("accept", ""))
    await outlet.respond(200, body, {"request-id": inbound.request_id, "content-type": media_type})


Endpoint = Callable[[House, Inbound, HttpOutlet], Awaitable[None]]

ENDPOINTS: Mapping[str, Mapping[str, Endpoint]] = {
    "/v1/messages": {"POST": post_messages},
    "/v1/messages/count_tokens": {"POST": post_count_tokens},
    "/v1/models": {"GET": get_models},
    "/": {"GET": get_root, "HEAD": get_root},
    "/health": {"GET": get_health, "HEAD": get_health},
    "/metrics": {"GET": get_metrics, "HEAD": get_metrics},
}
MODEL_ENDPOINTS: Mapping[str, Endpoint] = {"GET": get_model}


def find_endpoint(method: str, path: str) -> Endpoint:
    """Return the function that serves a path; raises `UnknownModel` (404) or `WrongMethod` (405)."""
    methods = ENDPOINTS.get(path)
    if methods is None and path.startswith("/v1/models/"):
        methods = MODEL_ENDPOINTS
    if methods is None:
        raise nothing_at(path)
    if method not in methods:
        raise WrongMethod(f"{method} is not served at {path!r}; {' and '.join(methods)} is.", methods)
    return methods[method]


def nothing_at(path: str) -> UnknownModel:
    """Return the refusal of an address that nobody serves."""
    return UnknownModel(f"Nothing is served at {path!r}. The main endpoint is POST /v1/messages.")


def page_of(models: Sequence[ModelEntry], query: Mapping[str, str]) -> dict[str, Any]:
    """Return one page in Anthropic's shape. Raises `InvalidRequest` for a wrong `limit` or an unknown id."""
    asked = query.get("limit", str(DEFAULT_PAGE))
    limit = int(asked) if _FEW_DIGITS.fullmatch(asked) else 0
    if not 1 <= limit <= LARGEST_PAGE:
        raise InvalidRequest(f"limit: {asked[:20]!r} is not allowed; it is a number from 1 to {LARGEST_PAGE}.")
    ids = [entry.id for entry in models]
    start, end = 0, len(ids)
    if "after_id" in query:
        start = _position(ids, "after_id", query["after_id"]) + 1
    if "before_id" in query:
        end = _position(ids, "before_id", query["before_id"])
        start = max(start, end - limit)
        has_more = start > 0
    else:
        has_more = start + limit < end
    page = models[start : min(end, start + limit)]
    return {
        "data": page,
        "has_more": has_more,
        "first_id": page[0].id if page else None,
        "last_id": page[-1].id if page else None,
    }


def _position(ids: Sequence[str], name: str, value: str) -> int:
    if value not in ids:
        raise InvalidRequest(f"{name}: {value!r} is no id of this list.")
    return ids.index(value)
