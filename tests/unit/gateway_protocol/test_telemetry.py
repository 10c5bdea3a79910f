"""Telemetry of clients: the sender is named by the proxy, and the collector gets it, or it is counted and dropped."""

import asyncio
import gzip
import tracemalloc
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message
from msgspec import structs
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from anthropic_proxy.app import App
from anthropic_proxy.console.gateway_protocol.telemetry_identity import build_attributes, name_sender
from anthropic_proxy.gateway.settings.key_rules import Rules
from anthropic_proxy.plugins import Client
from tests.support.virtual_keys import running_app, send, store_key
from tests.support.waiting import wait_for_async

KINDS: dict[str, type[Message]] = {
    "metrics": ExportMetricsServiceRequest,
    "logs": ExportLogsServiceRequest,
    "traces": ExportTraceServiceRequest,
}


def texts(**values: str) -> list[Any]:
    return [{"key": name.replace("_", "."), "value": {"stringValue": value}} for name, value in values.items()]


ANN = Client(
    name="ann",
    role="member",
    key_id="key_1",
    owner="ann@example.org",
    team="build",
    cost_center="4711",
    groups=("eng", "all"),
)
OWN = [
    *texts(
        identity_source="anthropic-proxy",
        user_id="ann@example.org",
        user_email="ann@example.org",
        user_groups="eng,all",
        user_team="build",
    ),
    {"key": "user.cost_center", "value": {"stringValue": "4711"}},
]
CLAIMED = texts(user_email="boss@example.org", service_name="claude-code", user_id="0", user_groups="admins")
POINT = {"attributes": [*CLAIMED, *texts(model="opus")], "timeUnixNano": "1"}
SAMPLES: dict[str, Any] = {
    "metrics": {
        "resourceMetrics": [
            {
                "resource": {"attributes": CLAIMED},
                "scopeMetrics": [
                    {
                        "scope": {"name": "claude_code", "attributes": texts(user_id="0", build="7")},
                        "metrics": [
                            {"name": "a", "sum": {"dataPoints": [{**POINT, "asDouble": 1.5}], "isMonotonic": True}},
                            {"name": "b", "gauge": {"dataPoints": [{**POINT, "asInt": "3"}, {"asInt": "4"}]}},
                            {"name": "c", "histogram": {"dataPoints": [{**POINT, "count": "1"}]}},
                            {"name": "d", "exponentialHistogram": {"dataPoints": [{**POINT, "scale": 2}]}},
                            {"name": "e", "summary": {"dataPoints": [{**POINT, "sum": 2.0}]}},
                        ],
                    }
                ],
                "schemaUrl": "https://example.org",
            },
            {"scopeMetrics": []},
        ]
    },
    "logs": {
        "resourceLogs": [
            {
                "resource": {"attributes": CLAIMED, "droppedAttributesCount": 1},
                "scopeLogs": [{"logRecords": [{**POINT, "body": {"stringValue": "user_prompt"}, "severityNumber": 9}]}],
            }
        ]
    },
    "traces": {
        "resourceSpans": [
            {
                "resource": {"attributes": CLAIMED},
                "scopeSpans": [
                    {
                        "spans": [
                            {
                                "name": "request",
                                "attributes": CLAIMED,
                                "events": [{"name": "e", "attributes": texts(user_id="0", build="7")}],
                            }
                        ]
                    }
                ],
            }
        ]
    },
}


def expect(value: Any, parent: str = "") -> Any:
    """Return a sample as it is forwarded, written independently of the code."""
    if isinstance(value, list):
        return [expect(item, parent) for item in value]
    if not isinstance(value, dict):
        return value
    found = {name: expect(item, name) for name, item in value.items()}
    if "attributes" in found:
        found["attributes"] = [one for one in found["attributes"] if not one["key"].startswith("user.")]
    if parent in ("resource", "dataPoints", "logRecords", "spans"):
        found["attributes"] = [*found.get("attributes", []), *OWN]
    return found


@pytest.mark.parametrize("kind", SAMPLES)
def test_the_sender_is_the_person_of_the_key_whatever_the_client_says(kind: str) -> None:
    attributes = build_attributes(ANN)
    encoded = ParseDict(SAMPLES[kind], KINDS[kind]()).SerializeToString()
    named = KINDS[kind].FromString(name_sender(kind, encoded, attributes, is_json=False))
    expected = ParseDict(expect(SAMPLES[kind]), KINDS[kind]())
    assert MessageToDict(named) == MessageToDict(expected)
    in_json = name_sender(kind, msgspec.json.encode(SAMPLES[kind]), attributes, is_json=True)
    assert msgspec.json.decode(in_json) == expect(SAMPLES[kind])


CLAIMS = ("user.id", "User.Email", "user.account_uuid", "user", "enduser.id", "identity.source")


def fill(message: Message, choice: int) -> None:
    """Write claims into each list of attributes that the schema of OTLP has. `choice`: that of a `oneof`."""
    for field in message.DESCRIPTOR.fields:
        kind = field.message_type
        oneof = field.containing_oneof
        if kind is None or kind.name == "AnyValue" or (oneof and oneof.fields[choice % len(oneof.fields)] is not field):
            continue
        target = getattr(message, field.name)
        if kind.name == "KeyValue":
            for name in (*CLAIMS, "user_agent.name", "model"):
                target.add(key=name).value.string_value = "boss"
        else:
            if field.is_repeated:
                target = target.add()
            target.SetInParent()
            fill(target, choice)


def list_attributes(value: Any) -> list[tuple[str, str]]:
    if isinstance(value, list):
        return [one for item in value for one in list_attributes(item)]
    if not isinstance(value, dict):
        return []
    if "key" in value:
        return [(value["key"], next(iter(value["value"].values())))]
    return [one for item in value.values() for one in list_attributes(item)]


@pytest.mark.parametrize("choice", range(5))
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spelling", ["protobuf", "camelCase", "snake_case"])
def test_no_list_of_attributes_names_a_person_by_the_word_of_the_client(kind: str, choice: int, spelling: str) -> None:
    message = KINDS[kind]()
    fill(message, choice)
    given = list_attributes(MessageToDict(message))
    in_json = MessageToDict(message, preserving_proto_field_name=spelling == "snake_case")
    is_json = spelling != "protobuf"
    body = msgspec.json.encode(in_json) if is_json else message.SerializeToString()
    named = name_sender(kind, body, build_attributes(ANN), is_json=is_json)
    found = list_attributes(msgspec.json.decode(named) if is_json else MessageToDict(KINDS[kind].FromString(named)))
    lists = given.count(("model", "boss"))
    assert lists >= 3
    own = [(one["key"], one["value"]["stringValue"]) for one in OWN]
    assert {*found} == {("model", "boss"), ("user_agent.name", "boss"), *own}
    assert found.count(("model", "boss")) == found.count(("user_agent.name", "boss")) == lists


@pytest.mark.parametrize("kind", KINDS)
def test_scopes_of_an_old_version_of_otlp_name_the_sender_too(kind: str) -> None:
    def name(tag: bytes) -> bytes:
        resource = tag + bytes((len(scope),)) + scope
        body = b"\x0a" + bytes((len(resource),)) + resource
        return name_sender(kind, body, build_attributes(ANN), is_json=False)

    claim = {"attributes": texts(user_email="boss")}
    items = {"metrics": {"metrics": [{"gauge": {"dataPoints": [claim]}}]}, "logs": {"logRecords": [claim]}}
    word = {"metrics": "Metrics", "logs": "Logs", "traces": "Spans"}[kind]
    sample = {f"resource{word}": [{f"scope{word}": [items.get(kind, {"spans": [claim]})]}]}
    scope = find_scope(ParseDict(sample, KINDS[kind]())).SerializeToString()
    named = find_scope(KINDS[kind].FromString(name(b"\x12"))).SerializeToString()
    in_old_field = name(b"\xc2\x3e")  # number 1,000
    assert b"ann@example.org" in named
    assert named in in_old_field
    assert b"boss" not in in_old_field


def find_scope(message: Message) -> Message:
    ((_, (resource,)),) = message.ListFields()
    return next(scopes[0] for field, scopes in resource.ListFields() if field.number == 2)


def test_facts_that_the_proxy_does_not_know_are_left_out() -> None:
    assert build_attributes(Client(name="ci", role="member", key_id="key_2")) == {
        "identity.source": "anthropic-proxy",
        "user.id": "ci",
    }


@pytest.mark.parametrize(
    ("body", "is_json", "message"),
    [
        (b"\x0a\x05ab", False, "the message is incomplete"),
        (b"\x0a", False, "the message is incomplete"),
        (b"\xff" * 20, False, "the message is incomplete"),
        (b"\x0b", False, "unknown wire type"),
        (b"\x82\x80\x80\x80\x80\x01\x00", False, "a field has an invalid number"),
        (b"\x8a\x80\x80\x80\x80\x01\x00", False, "a field has an invalid number"),
        (b"\x02\x00", False, "a field has an invalid number"),
        (b"[" * 100_000, True, "it is nested too deeply"),
        (b"no", True, "Input data was truncated"),
        (b"\x0a\x00" * 100_001, False, "the message has too many parts"),
        (b"\x0a\x02\x0a\x00" * 10_001, False, "the message has too many parts"),
        (b'{"resourceMetrics":[' + b'{"resource":{}},' * 10_001 + b"{}]}", True, "the message has too many parts"),
    ],
)
def test_a_body_that_is_no_telemetry_is_refused(body: bytes, is_json: bool, message: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011  # the message is compared
        name_sender("metrics", body, build_attributes(ANN), is_json=is_json)
    assert str(raised.value) == message


class Collector:
    """OTLP collector on loopback."""

    def __init__(self) -> None:
        self.received: asyncio.Queue[tuple[str, Mapping[str, str], bytes]] = asyncio.Queue()
        self.status = 200
        self.begun, self.open = asyncio.Event(), asyncio.Event()
        self.open.set()
        self.waiting = "/"
        """Beginning of the paths that wait until `open` is set."""

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.begun.set()
        if request.path.startswith(self.waiting):
            await self.open.wait()
        await self.received.put((request.path, request.headers, body))
        return web.Response(status=self.status)


@pytest.mark.parametrize("is_json", [False, True])
def test_names_of_many_groups_have_a_bound(is_json: bool) -> None:
    client = structs.replace(ANN, groups=tuple(f"group {number}" for number in range(1_000)))
    body = b'{"resourceLogs":[' + b'{"resource":{}},' * 600 + b"{}]}" if is_json else b"\x0a\x02\x0a\x00" * 600
    with pytest.raises(ValueError, match="the message has too many parts"):
        name_sender("logs", body, build_attributes(client), is_json=is_json)


@pytest.fixture
async def collector() -> AsyncIterator[tuple[Collector, str]]:
    found, app = Collector(), web.Application()
    app.router.add_post("/{rest:.*}", found.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield found, f"http://127.0.0.1:{runner.addresses[0][1]}/otel"
    await runner.cleanup()


async def count(app: App, result: str) -> float:
    text = (await send(app, "GET", "/metrics", x_api_key="pk-0123456789")).body.decode()
    lines = [line.split(" ") for line in text.splitlines() if line.startswith("anthropic_proxy_telemetry_requests")]
    return {name: float(number) for name, number in lines}[
        f'anthropic_proxy_telemetry_requests_total{{result="{result}"}}'
    ]


async def test_the_collector_gets_what_clients_send_with_its_own_credential(
    tmp_path: Path, collector: tuple[Collector, str]
) -> None:
    found, url = collector
    key = store_key(tmp_path, Rules(), team="build")
    settings = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"{url}/",
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20collector-key, x-tenant=a",
        "OTEL_TRACES_EXPORTER": "none",
        "PROXY_API_KEY": "pk-0123456789",
    }
    async with running_app(tmp_path, **settings) as app:
        for kind, sample in SAMPLES.items():
            body = ParseDict(sample, KINDS[kind]()).SerializeToString()
            protobuf = {"authorization": f"Bearer {key}", "content_type": "application/x-protobuf"}
            reply = await send(app, "POST", f"/v1/{kind}", body, **protobuf)
            assert (reply.status, reply.body) == (200, b"")
            path, headers, sent = await found.received.get()
            assert path == f"/otel/v1/{kind}"
            named = {"identity.source": "anthropic-proxy", "user.id": "ci", "user.team": "build"}
            assert sent == name_sender(kind, body, named, is_json=False)
            assert headers["content-type"] == "application/x-protobuf"
            assert (headers["authorization"], headers["x-tenant"]) == ("Bearer collector-key", "a")
            assert key not in str(headers)
        in_json = {"authorization": f"Bearer {key}", "content_type": "application/json; charset=utf-8"}
        await send(app, "POST", "/v1/logs", msgspec.json.encode(SAMPLES["logs"]), **in_json)
        _, headers, sent = await found.received.get()
        assert (
            headers["content-type"],
            msgspec.json.decode(sent)["resourceLogs"][0]["resource"]["attributes"][-1],
        ) == (
            "application/json",
            {"key": "user.team", "value": {"stringValue": "build"}},
        )
        found.status = 503
        await send(app, "POST", "/v1/logs", msgspec.json.encode(SAMPLES["logs"]), **in_json)
        await found.received.get()
        for content_type, body in (
            ("text/plain", b"x"),
            ("application/json", b"no"),
            ("application/json", b" " * 2_000_000),
        ):
            reply = await send(app, "POST", "/v1/logs", body, x_api_key=key, content_type=content_type)
            assert (reply.status, reply.body) == (200, b"")
        await wait_for_async(lambda: count(app, "dropped"), lambda number: number == 4)
        assert await count(app, "forwarded") == 4
        assert (await send(app, "POST", "/v1/logs", b"x", content_type="application/json")).status == 401
    assert found.received.empty()


async def test_a_compressed_body_is_read_up_to_the_limit(tmp_path: Path, collector: tuple[Collector, str]) -> None:
    found, url = collector
    key = store_key(tmp_path, Rules(), team="build")
    named = {"identity.source": "anthropic-proxy", "user.id": "ci", "user.team": "build"}
    protobuf = ParseDict(SAMPLES["logs"], KINDS["logs"]()).SerializeToString()
    bodies = {"application/x-protobuf": protobuf, "application/json": msgspec.json.encode(SAMPLES["logs"])}
    async with running_app(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=url, PROXY_API_KEY="pk-0123456789") as app:
        for content_type, body in bodies.items():
            headers = {"x_api_key": key, "content_type": content_type}
            await send(app, "POST", "/v1/logs", gzip.compress(body), **headers, content_encoding="gzip")
            _, received, sent = await found.received.get()
            assert sent == name_sender("logs", body, named, is_json=content_type == "application/json")
            assert "content-encoding" not in received
            bomb = b" " * 1_100_000
            for encoding, compressed in (("gzip", gzip.compress(bomb)), ("gzip", body), ("br", body)):
                reply = await send(app, "POST", "/v1/logs", compressed, **headers, content_encoding=encoding)
                assert (reply.status, reply.body) == (200, b"")
        await wait_for_async(lambda: count(app, "dropped"), lambda number: number == 6)
        reply = await send(app, "POST", "/v1/messages", gzip.compress(b"{}"), x_api_key=key, content_encoding="gzip")
        assert reply.status == 415
    assert found.received.empty()


async def test_nobody_takes_the_place_of_others_in_the_queue(tmp_path: Path, collector: tuple[Collector, str]) -> None:
    found, url = collector
    found.open.clear()
    keys = {name: store_key(tmp_path, Rules(), owner=name, label=f"key of {name}") for name in ("ann", "bob")}
    async with running_app(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=url, PROXY_API_KEY="pk-0123456789") as app:

        async def post(name: str, number: int) -> None:
            body = b'{"resourceLogs":[{"resource":{}}]}'
            for _ in range(number):
                await send(app, "POST", "/v1/logs", body, x_api_key=keys[name], content_type="application/json")

        await post("ann", 1)
        await found.begun.wait()
        await post("ann", 509)
        await post("bob", 3)
        await post("ann", 1)
        found.open.set()
        await wait_for_async(lambda: count(app, "forwarded"), lambda number: number == 501)
        senders = [str(found.received.get_nowait()[2]) for _ in range(501)]
        assert [number for number, sender in enumerate(senders) if "bob" in sender] == [2, 4, 6]
        text = (await send(app, "GET", "/metrics", x_api_key="pk-0123456789")).body.decode()
        drops = [line for line in text.splitlines() if line.startswith("anthropic_proxy_telemetry_dropped_total")]
        assert drops == [
            'anthropic_proxy_telemetry_dropped_total{person="ann"} 13.0',
            'anthropic_proxy_telemetry_dropped_total{person="bob"} 0.0',
        ]
        assert await count(app, "dropped") == 13


async def test_what_waits_for_a_slow_collector_is_as_large_as_it_was_received(
    tmp_path: Path, collector: tuple[Collector, str]
) -> None:
    found, url = collector
    found.waiting = "/slow"
    found.open.clear()
    key = store_key(tmp_path, Rules())
    slow = url.replace("/otel", "/slow")
    (tmp_path / "anthropic-proxy.toml").write_text(f'[collectors.slow]\nendpoint = "{slow}"\n', "utf-8")
    body = gzip.compress(b"\x0a\x02\x0a\x00" * 9_990)
    headers = {"x_api_key": key, "content_type": "application/x-protobuf", "content_encoding": "gzip"}
    async with running_app(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=url, PROXY_API_KEY="pk-0123456789") as app:
        tracemalloc.start(1)
        try:
            size = 0
            for _ in range(40):
                await send(app, "POST", "/v1/logs", body, **headers)
                _, _, sent = await found.received.get()
                size, sent = size + len(sent), b""
            assert size > 20_000_000
            assert tracemalloc.get_traced_memory()[0] < size / 3
        finally:
            tracemalloc.stop()
        found.open.set()


async def test_without_a_collector_telemetry_is_dropped(tmp_path: Path) -> None:
    key = store_key(tmp_path, Rules())
    async with running_app(tmp_path, PROXY_API_KEY="pk-0123456789") as app:
        reply = await send(app, "POST", "/v1/logs", b"", x_api_key=key, content_type="application/x-protobuf")
        assert (reply.status, reply.body) == (200, b"")
        assert (await count(app, "dropped"), await count(app, "forwarded")) == (1, 0)


async def test_a_slow_collector_holds_up_no_other_one(tmp_path: Path, collector: tuple[Collector, str]) -> None:
    found, url = collector
    key = store_key(tmp_path, Rules())
    found.waiting = "/slow"
    found.open.clear()
    (tmp_path / "anthropic-proxy.toml").write_text(
        f"""
[collectors.slow]
endpoint = "{url.replace("/otel", "/slow")}"
headers = {{ X-Tenant = "b" }}

[collectors."metrics only"]
endpoint = "{url.replace("/otel", "/metrics")}"
signals = ["metrics"]
headers = {{ Authorization = {{ env = "COLLECTOR_KEY" }} }}
"""
    )
    settings = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": url,
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20first",
        "OTEL_TRACES_EXPORTER": "none",
        "COLLECTOR_KEY": "Bearer second",
        "PROXY_API_KEY": "pk-0123456789",
    }
    headers = {"x_api_key": key, "content_type": "application/json"}
    async with running_app(tmp_path, **settings) as app:
        for _ in range(3):
            await send(app, "POST", "/v1/logs", b'{"resourceLogs":[{"resource":{}}]}', **headers)
        await send(app, "POST", "/v1/metrics", b'{"resourceMetrics":[{"resource":{}}]}', **headers)
        got = [await found.received.get() for _ in range(5)]
        assert sorted((path, sent["authorization"]) for path, sent, _ in got) == [
            ("/metrics/v1/metrics", "Bearer second"),
            *[("/otel/v1/logs", "Bearer first")] * 3,
            ("/otel/v1/metrics", "Bearer first"),
        ]
        assert found.received.empty()
        found.open.set()
        slow = [await found.received.get() for _ in range(4)]
    assert [path for path, _, _ in slow] == ["/slow/v1/logs"] * 3 + ["/slow/v1/metrics"]
    assert [(sent.get("authorization"), sent["x-tenant"]) for _, sent, _ in slow] == [(None, "b")] * 4
    assert {body for path, _, body in got if path == "/otel/v1/logs"} == {body for _, _, body in slow[:3]}
