"""Work that the metrics of Claude Code state: what is read of them, and that the ledger has it once."""

import asyncio
import math
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import Any

import msgspec
import pytest
from google.protobuf.json_format import ParseDict
from msgspec import Struct
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from anthropic_proxy.app import App
from anthropic_proxy.console.gateway_protocol.activity_metrics import MAX_POINTS, read_measurements
from anthropic_proxy.console.gateway_protocol.activity_writer import ActivityWriter
from anthropic_proxy.console.gateway_protocol.telemetry_identity import build_attributes, name_sender
from anthropic_proxy.console.ledger.activity import Measurement
from anthropic_proxy.console.ledger.database import open_for_reading, open_for_writing
from anthropic_proxy.console.ledger.receipt_queue import ReceiptQueue
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.settings.key_rules import Rules
from anthropic_proxy.plugins import Client, Cost, LedgerState, Receipt, ServerFacts
from tests.support.ledger import UNKNOWN_COST, new_receipt, running_ledger
from tests.support.virtual_keys import running_app, send, store_key
from tests.support.waiting import WAIT_SECONDS, wait_for_async

START = 1_795_948_735_163_000_000
END = START + 60_000_000_000
DELTA, CUMULATIVE = 1, 2
SESSION = "19c7db10-eb0f-4f7e-aba4-f341dd28db1c"


def attributes(**texts: str) -> list[Any]:
    named = {"session.id": SESSION, "terminal.type": "non-interactive", **texts}
    return [{"key": name, "value": {"stringValue": text}} for name, text in named.items()]


def metric(name: str, *points: tuple[float, dict[str, str]], temporality: int = DELTA, end: int = END) -> Any:
    times = {"startTimeUnixNano": str(START), "timeUnixNano": str(end)}
    listed = [{"attributes": attributes(**texts), **times, "asDouble": value} for value, texts in points]
    total = {"aggregationTemporality": temporality, "isMonotonic": True, "dataPoints": listed}
    return {"name": f"claude_code.{name}", "description": "d", "unit": "", "sum": total}


def request(*metrics: Any, service: str = "claude-code") -> Any:
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": service}}]}
    return {"resourceMetrics": [{"resource": resource, "scopeMetrics": [{"scope": {}, "metrics": [*metrics]}]}]}


ALL = request(
    metric("session.count", (1, {"start_type": "fresh"})),
    metric("lines_of_code.count", (4, {"type": "added", "model": "opus-x"}), (1, {"type": "removed"})),
    metric("code_edit_tool.decision", (2, {"decision": "accept"}), (1, {"decision": "reject"}), (9, {"decision": "?"})),
    metric("commit.count", (3, {})),
    metric("pull_request.count", (1, {})),
    metric("active_time.total", (0.41, {"type": "cli"}), (12.5, {"type": "user"})),
    metric("token.usage", (500, {"type": "input"})),
    {"name": "claude_code.commit.count", "gauge": {"dataPoints": [{"timeUnixNano": str(END), "asDouble": 7}]}},
)


def encode(sample: Any, *, is_json: bool) -> bytes:
    if is_json:
        return msgspec.json.encode(sample)
    encoded: bytes = ParseDict(sample, ExportMetricsServiceRequest()).SerializeToString()
    return encoded


def read(sample: Any, *, is_json: bool = True) -> list[Measurement]:
    return [*read_measurements(encode(sample, is_json=is_json), is_json=is_json)]


@pytest.mark.parametrize("is_json", [True, False])
def test_lines_commits_decisions_and_times_are_read_and_all_else_is_left_out(is_json: bool) -> None:
    found = read(ALL, is_json=is_json)
    assert {one.name: (one.value, one.requested_model) for one in found} == {
        "lines_added": (4, "opus-x"),
        "lines_removed": (1, ""),
        "edits_accepted": (2, ""),
        "edits_rejected": (1, ""),
        "commits": (3, ""),
        "pull_requests": (1, ""),
        "client_microseconds": (410_000, ""),
        "user_microseconds": (12_500_000, ""),
    }
    assert {(one.session, one.place, one.grows) for one in found} == {(SESSION, END, False)}
    assert len({one.series for one in found}) == len(found) == 8


@pytest.mark.parametrize("is_json", [True, False])
def test_a_sum_since_the_start_has_its_start_as_its_place(is_json: bool) -> None:
    point = (3.0, dict[str, str]())
    first = read(request(metric("commit.count", point, temporality=CUMULATIVE)), is_json=is_json)
    again = read(request(metric("commit.count", point, temporality=CUMULATIVE, end=END + 1)), is_json=is_json)
    assert first == again
    assert [(one.place, one.grows, one.value) for one in first] == [(START, True, 3)]


@pytest.mark.parametrize("is_json", [True, False])
def test_a_series_is_that_of_its_attributes_and_not_of_who_sent_it(is_json: bool) -> None:
    plain = encode(request(metric("commit.count", (1, {}))), is_json=is_json)
    (series,) = (one.series for one in read_measurements(plain, is_json=is_json))
    for team in ("build", "web"):
        sender = build_attributes(Client(name="ann", role="member", key_id="key_1", owner="ann", team=team))
        named = name_sender("metrics", plain, sender, is_json=is_json)
        assert [one.series for one in read_measurements(named, is_json=is_json)] == [series]
    others = [
        request(metric("commit.count", (1, {"terminal.type": "vscode"}))),
        request(metric("commit.count", (1, {})), service="other"),
        request(metric("pull_request.count", (1, {}))),
    ]
    assert series not in {one.series for sample in others for one in read(sample, is_json=is_json)}


def test_numbers_that_cannot_be_added_up_are_left_out_and_large_ones_are_cut() -> None:
    values = (0, -1, 1e30, 2)
    found = read(request(*(metric("commit.count", (value, {})) for value in values)), is_json=False)
    assert [one.value for one in found] == [1_000_000, 2]
    for text in ("NaN", "Infinity"):
        sample = request(metric("commit.count", (1, {})))
        sample["resourceMetrics"][0]["scopeMetrics"][0]["metrics"][0]["sum"]["dataPoints"][0]["asDouble"] = text
        assert read(sample) == []
    for name, value in {"aggregationTemporality": 0, "isMonotonic": False}.items():
        sample = request(metric("commit.count", (1, {})))
        sample["resourceMetrics"][0]["scopeMetrics"][0]["metrics"][0]["sum"][name] = value
        assert read(sample) == read(sample, is_json=False) == []
    for end in (0, 10**400):
        assert read(request(metric("commit.count", (1, {}), end=end))) == []
    assert read(request(metric("commit.count", (1, {"session.id": "s" * 201}))))[0].session == ""
    assert math.isfinite(read(request(metric("active_time.total", (1e9, {"type": "user"}))))[0].value)


def test_a_request_has_at_most_some_points() -> None:
    assert len(read(request(metric("commit.count", *[(1.0, dict[str, str]())] * (MAX_POINTS + 10))))) == MAX_POINTS


@pytest.mark.parametrize(
    ("body", "is_json"),
    [
        (b"no", True),
        (b"[" * 100_000, True),
        (b"\x0a\x05ab", False),
        (b"\x0a\x00" * 100_001, False),
        (encode(request({**metric("commit.count"), "sum": {"dataPoints": 7}}), is_json=True), True),
    ],
)
def test_a_body_that_is_no_telemetry_is_refused(body: bytes, is_json: bool) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # the body is dropped, whatever the reason
        read_measurements(body, is_json=is_json)


def test_the_work_for_a_body_is_proportional_to_its_size() -> None:
    """Attributes of a resource are read once, however many points it has."""
    shared = [{"key": f"a{number}", "value": {"stringValue": "b"}} for number in range(5_000)]
    sample = request(metric("commit.count", *[(1.0, dict[str, str]())] * 900))
    sample["resourceMetrics"][0]["resource"]["attributes"] = shared
    assert len(read(sample, is_json=False)) == len(read(sample)) == 900


ADMIN = {"x_api_key": "pk-0123456789"}


async def read_usage(app: App, by: str = "owner", **headers: str) -> dict[str, Any]:
    reply = await send(app, "GET", f"/api/usage?by={by}&since=24h", **(headers or ADMIN))
    assert reply.status == 200, reply.body
    groups = msgspec.json.decode(reply.body)["groups"]
    return {one["name"]: {name: value for name, value in one["activity"].items() if value} for one in groups}


async def test_the_ledger_has_what_clients_state_once_by_person(tmp_path: Path) -> None:
    ann = store_key(tmp_path, Rules(), team="build", label="ann", owner="ann@example.org")
    bob = store_key(tmp_path, Rules(), label="bob", owner="bob@example.org")
    async with running_app(tmp_path, PROXY_API_KEY="pk-0123456789") as app:
        for key, is_json in ((ann, True), (bob, False)):
            body = encode(ALL, is_json=is_json)
            kind = "application/json" if is_json else "application/x-protobuf"
            for _ in range(2):  # a client that got no answer sends the same again
                reply = await send(app, "POST", "/v1/metrics", body, x_api_key=key, content_type=kind)
                assert (reply.status, reply.body) == (200, b"")
        expected = {
            "lines_added": 4,
            "lines_removed": 1,
            "edits_accepted": 2,
            "edits_rejected": 1,
            "commits": 3,
            "pull_requests": 1,
            "user_seconds": 12.5,
            "client_seconds": 0.41,
        }
        people = {"ann@example.org": expected, "bob@example.org": expected}
        await wait_for_async(lambda: read_usage(app), lambda found: found == people)
        await wait_for_async(lambda: _count(app), lambda number: number == 4)
        assert await read_usage(app) == people
        assert await read_usage(app, "team") == {
            "build": expected,
            "": expected,
        }


class _Gateway(Struct):
    """A server whose ledger goes on when something asks for its state."""

    settings: Settings
    queue: ReceiptQueue
    is_asked: Event

    @property
    def ledger_state(self) -> LedgerState:
        self.is_asked.set()
        return self.queue.state

    def describe_server(self) -> ServerFacts:
        return ServerFacts(id="a")


@pytest.mark.parametrize("is_stopping", [False, True])
async def test_work_is_stored_after_the_requests_of_its_session(tmp_path: Path, is_stopping: bool) -> None:
    """They say the project. A slow ledger, and one that stops at the same time, may not have them yet."""
    ann = Client(name="ann", role="member")
    settings = Settings(data_directory=tmp_path)
    open_for_writing(settings).close()
    is_taken, is_asked = Event(), Event()

    def calculate_cost(_: Receipt) -> Cost:
        is_taken.set()
        assert is_asked.wait(WAIT_SECONDS)
        return UNKNOWN_COST

    with running_ledger(settings, cost=calculate_cost) as ledger:
        ledger.queue.record(new_receipt(client=ann, session=SESSION, project="shop"))
        assert await asyncio.to_thread(is_taken.wait, WAIT_SECONDS)
        gateway: Any = _Gateway(settings, ledger.queue, is_asked)
        writer = ActivityWriter(gateway)
        if is_stopping:
            writer.hurry()
        await writer.store(ann, encode(ALL, is_json=True), 0.0, 1, is_json=True)
        is_asked.set()
        writer.close()
    with closing(open_for_reading(settings)) as connection:
        found = connection.query("SELECT DISTINCT project, session FROM activity")
    assert [tuple(row) for row in found] == [("shop", SESSION)]


async def _count(app: App) -> float:
    text = (await send(app, "GET", "/metrics", **ADMIN)).body.decode()
    name = 'anthropic_proxy_telemetry_requests_total{result="stored"} '
    return next(float(line.removeprefix(name)) for line in text.splitlines() if line.startswith(name))


async def test_nothing_is_stored_if_the_setting_says_so(tmp_path: Path) -> None:
    key = store_key(tmp_path, Rules(), owner="ann@example.org")
    async with running_app(tmp_path, PROXY_API_KEY="pk-0123456789", LEDGER_ACTIVITY="false") as app:
        body = encode(ALL, is_json=True)
        await send(app, "POST", "/v1/metrics", body, x_api_key=key, content_type="application/json")
        assert await _count(app) == 0
        assert await read_usage(app) == {}
    async with running_app(tmp_path, PROXY_API_KEY="pk-0123456789") as app:
        await send(app, "POST", "/v1/metrics", body, x_api_key=key, content_type="application/json")
    # the stop of a server stores what waits
    async with running_app(tmp_path, PROXY_API_KEY="pk-0123456789") as app:
        assert (await read_usage(app))["ann@example.org"]["lines_added"] == 4


@pytest.mark.parametrize("key", ["", "pk-0123456789"])
async def test_a_person_without_team_keys_has_the_own_work(tmp_path: Path, key: str) -> None:
    """Nothing of it leaves the proxy: a collector gets what a key names."""
    settings = {"VIRTUAL_KEYS": "false", "PROXY_API_KEY": key, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    credential = {"x_api_key": key} if key else {}
    async with running_app(tmp_path, **settings, OTEL_TRACES_EXPORTER="none") as app:
        body = encode(ALL, is_json=True)
        for kind in ("metrics", "logs"):
            reply = await send(app, "POST", f"/v1/{kind}", body, content_type="application/json", **credential)
            assert (reply.status, reply.body) == (200, b"")
        reader = credential or {"accept": "*/*"}
        await wait_for_async(lambda: read_usage(app, **reader), lambda groups: len(groups) == 1)
        found = await read_usage(app, **reader)
        assert [one["lines_added"] for one in found.values()] == [4]

        async def count() -> list[str]:
            text = (await send(app, "GET", "/metrics", **credential)).body.decode()
            return [line for line in text.splitlines() if line.startswith("anthropic_proxy_telemetry_requests_total")]

        await wait_for_async(
            count,
            lambda found: (
                found
                == [
                    'anthropic_proxy_telemetry_requests_total{result="forwarded"} 0.0',
                    'anthropic_proxy_telemetry_requests_total{result="stored"} 1.0',
                    'anthropic_proxy_telemetry_requests_total{result="dropped"} 1.0',
                ]
            ),
        )
