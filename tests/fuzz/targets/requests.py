"""The request path: a body is read, prepared and written in every wire; and whole exchanges, from body to reply."""

import asyncio
import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import msgspec
from msgspec import structs

from anthropic_proxy.engine.exchange.exchange import Exchange
from anthropic_proxy.engine.messages.models import decode_request
from anthropic_proxy.engine.messages.preparation import prepare
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.providers.model_observations import ModelObservations
from anthropic_proxy.engine.routing.call_limits import build_call_turns
from anthropic_proxy.engine.routing.health import CircuitBreakers, RepetitionBudget
from anthropic_proxy.engine.routing.targets import build_target_limits
from anthropic_proxy.engine.wires.calls import TranslatedCall
from anthropic_proxy.engine.wires.upstream_http import Credential, UpstreamRequest
from anthropic_proxy.errors import ClientError, ProxyError
from anthropic_proxy.gateway.services import Services
from anthropic_proxy.gateway.stores.memory import MemoryStore
from anthropic_proxy.gateway.telemetry.log import Log
from anthropic_proxy.plugins import Client
from tests.fuzz.targets.scenarios import MAX_SEED_BYTES, WIRES, complete_replies, folders_of, playable, scenario_of
from tests.fuzz.targets.target import Target, cuts_of, expect, expect_bounded, expect_ours, split_headline
from tests.support.event_grammar import check_bytes
from tests.support.golden_runner import GoldenCase
from tests.support.harness import FakeResponse, ProxyHarness, RecordingSink, new_client_request
from tests.support.token_estimate import estimate_request_tokens

MAX_CALLS = 40
"""Calls upstream that one exchange can make: ten of a turn's loop, each with its repeats and healings."""


@cache
def _seats() -> tuple[str, ...]:
    return tuple(f"{wire}/{name}" for wire in WIRES for name in folders_of(wire))


@cache
def _callable_seats() -> tuple[str, ...]:
    return tuple(seat for seat in _seats() if _scenario(seat).provider.key_source == "settings")


def _scenario(word: str, seats: tuple[str, ...] = ()) -> GoldenCase:
    seats = seats or _seats()
    seat = word if word in seats else seats[sum(word.encode()) % len(seats)]
    wire, _, name = seat.partition("/")
    return scenario_of(wire, name)


def _check_request(data: bytes) -> None:
    words, body = split_headline(data)
    target = _scenario(words[0]).target
    try:
        request = decode_request(body)
    except ClientError:
        return
    request.citation_key = b"fuzz"
    if target.is_relayed:
        return  # its encoder takes bytes, in a whole exchange
    try:
        counted = estimate_request_tokens(request)
        expect(0 <= counted <= 4 * len(body) + 100_000, f"{len(body)} bytes were counted as {counted} tokens")
        prepared = prepare(request, build_target_limits(target))
        call = TranslatedCall(
            request=prepared.request,
            model=target.model,
            dialect=target.dialect,
            streams_upstream=request.stream,
            client_tool_names=prepared.aliases,
            new_id=lambda prefix: prefix + "0" * 22,
            provider_prefix=target.provider.name,
        )
        upstream_request = target.wire.encode_request(call)
    except ProxyError as error:
        expect_ours(error)
        return
    _expect_sayable(upstream_request, len(data))


def _expect_sayable(upstream_request: UpstreamRequest, given: int) -> None:
    """Check that the body sent upstream is JSON to every reader, and its head a valid one."""
    msgspec.json.decode(upstream_request.body)
    json.loads(upstream_request.body)
    upstream_request.path.encode("ascii")
    expect(upstream_request.path.isprintable() and " " not in upstream_request.path, f"path {upstream_request.path!r}")
    for name, value in upstream_request.headers.items():
        value.encode("latin-1")
        expect(name.isprintable() and value.isprintable(), f"header {name}: {value!r}")
    expect_bounded(len(upstream_request.body), given)


class _FakeUpstream:
    """Gives every call the same answer."""

    def __init__(self, status: int, body: bytes) -> None:
        self._status = status
        self._body = body
        self.calls = 0

    def __call__(self, base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        self.calls += 1
        kind = "application/json" if self._body.lstrip().startswith(b"{") else "text/event-stream"
        return FakeResponse(self._status, *cuts_of(self._body), headers={"content-type": kind, "retry-after": "1"})


class _Stage:
    """The services for one scenario's provider. Learned facts are dropped before each exchange.

    If the provider rejects the request, the log is JSON.
    """

    def __init__(self, scenario: GoldenCase) -> None:
        self._upstream = _FakeUpstream(200, b"")
        row = scenario.provider
        settings = {"BIG_MODEL": f"{row.prefix}/{scenario.fields['model']}", "LOG_LEVEL": "error"}
        if row.key_variable:
            settings[row.key_variable] = "golden"
        settings |= scenario.fields.get("settings", {})
        self._proxy = ProxyHarness(self._answer, **settings)
        transports = {one.name: self._proxy.services.http for one in PROVIDERS}
        self._services = structs.replace(self._proxy.services, transports=transports)
        self._json_services = structs.replace(self._services, log=Log(self._proxy.log, "json"))

    def _answer(self, base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        return self._upstream(base_url, request, credential)

    def play(self, body: bytes, status: int, reply: bytes) -> tuple[RecordingSink, str, int]:
        """Return the response of the client, the log, and the number of upstream requests."""
        self._upstream = _FakeUpstream(status, reply)
        self._proxy.log.seek(0)
        self._proxy.log.truncate()
        services: Services = structs.replace(
            self._services if status == 200 else self._json_services,
            observations=ModelObservations(MemoryStore()),
            circuit_breakers=CircuitBreakers(),
            retry_budget=RepetitionBudget(),
            queue=build_call_turns(9, 9),
        )
        sink = RecordingSink()
        inbound = new_client_request(body, client=Client(credential_forwardable=True))
        sink.receipt = inbound.receipt
        _loop().run_until_complete(Exchange(services, inbound, sink).run())
        services.log.flush()
        return sink, self._proxy.log.getvalue(), self._upstream.calls


@cache
def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


@cache
def _stage(word: str) -> _Stage:
    return _Stage(_scenario(word, _callable_seats()))


def _check_exchange(data: bytes) -> None:
    words, remainder = split_headline(data)
    body, _, reply = remainder.partition(b"\n")
    status = int(words[1]) if len(words) > 1 and words[1] in ("200", "400", "404", "429", "500", "529") else 200
    sink, log, calls = _stage(words[0]).play(body, status, reply)
    expect("Traceback" not in log, log)
    for line in log.split("\n")[:-1]:
        expect(line.isprintable() if status == 200 else bool(json.loads(line)), f"the log has {line!r}")
    expect(calls <= MAX_CALLS, f"{calls} calls upstream")
    relayed = _scenario(words[0], _callable_seats()).target.is_relayed
    expect(relayed or bool(sink.receipt and sink.receipt.outcome), "an exchange without an outcome")
    got = sum(map(bool, (sink.stream, sink.body, sink.error)))
    expect(got == 1, f"the client got {got} answers")
    if sink.error is not None:
        expect_ours(sink.error)
    if sink.stream and not relayed:
        blamed = check_bytes(sink.stream, requires_json_arguments=False)
        expect(not blamed, f"the client was sent {blamed[:3]}")
    expect_bounded(len(sink.stream), len(data) * max(1, calls))


def _request_seeds() -> Iterator[bytes]:
    for seat in _seats():
        body = _scenario(seat).posted
        if len(body) <= MAX_SEED_BYTES:
            yield seat.encode() + b"\n" + body


def _exchange_seeds() -> Iterator[bytes]:
    for seat in _callable_seats():
        scenario = _scenario(seat)
        body, reply = _in_one_line(scenario.posted), scenario.upstream or b""
        if len(body) + len(reply) <= MAX_SEED_BYTES:
            yield f"{seat} {scenario.fields.get('status', 200)}\n".encode() + body + b"\n" + reply
    for wire in WIRES:
        for name, reply in zip(playable(wire), complete_replies(wire), strict=False):
            body = _in_one_line(scenario_of(wire, name).posted)
            yield f"{wire}/{name} 200\n".encode() + body + b"\n" + reply


def _in_one_line(body: bytes) -> bytes:
    try:
        value: Any = json.loads(body)
    except ValueError:
        return body.replace(b"\n", b" ")
    return json.dumps(value).encode()


TARGETS = [
    Target("request", _check_request, _request_seeds, [seat.encode() for seat in _seats()]),
    Target(
        "exchange",
        _check_exchange,
        _exchange_seeds,
        [f"{seat} {status}".encode() for seat in _callable_seats() for status in (200, 200, 400)],
    ),
]
