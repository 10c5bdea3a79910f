"""The audit log and verdicts reach each destination of `[siem]` at least once, whatever it and the processes do."""

import asyncio
import base64
import hashlib
import hmac
import json
import math
from collections.abc import Callable, Mapping
from contextlib import closing
from itertools import pairwise
from typing import Any, cast

import pytest
from msgspec import structs

from anthropic_proxy import __version__
from anthropic_proxy.console.ledger.audit import add_entry, changing
from anthropic_proxy.console.ledger.connection import Connection
from anthropic_proxy.console.ledger.database import open_for_writing
from anthropic_proxy.console.ledger.event_push import MAX_EVENTS, MAX_PARKED_SECONDS, REPORT_SECONDS, EventPush
from anthropic_proxy.console.ledger.retention import Retention
from anthropic_proxy.console.ledger.webhook import LEASE_SECONDS
from anthropic_proxy.errors import UpstreamTimeout
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.settings.fields import SiemSettings
from anthropic_proxy.gateway.stores.memory import MemoryStore
from anthropic_proxy.plugins import CallCheck, Client, Gateway, HttpReply, InspectionRecord, Receipt
from anthropic_proxy.secrets import Secret
from tests.support.ledger import NOON, new_receipt, store
from tests.support.waiting import wait_for_async

KEYS = (b"0123456789abcdef0123456789abcdef", b"another-key-of-24-bytes-or-more!")
WEBHOOK = SiemSettings(
    name="main",
    type="webhook",
    url=Secret("https://siem.example.org/secret-path"),
    secrets=[Secret(f"whsec_{base64.b64encode(key).decode()}") for key in KEYS],
    headers={"authorization": Secret("Splunk 1234")},
    events=("audit", "verdicts"),
)
OTLP = structs.replace(WEBHOOK, name="logs", type="otlp", url=Secret("https://otel.example.org/v1/logs"), secrets=())


class World:
    """Processes that share a database, and destinations."""

    def __init__(self, database: Settings, *destinations: SiemSettings) -> None:
        open_for_writing(database).close()
        self.settings = structs.replace(database, siem=destinations)
        self.now = NOON
        self.store = MemoryStore(clock=lambda: self.now)
        self.log: list[str] = []
        self.requests: list[tuple[Mapping[str, str], bytes]] = []
        self.accepted: list[tuple[Mapping[str, str], bytes]] = []
        self.answer: Callable[[str, bytes], int] = lambda url, body: 200
        self.reply = b""
        self.retry_after: float | None = None
        self.silent = ""
        """Beginning of the URL of a destination that does not answer."""
        self.asked = asyncio.Event()
        """Set by a request to the silent destination."""

    def log_warning_each_time(self, text: str) -> None:
        self.log.append(text)

    async def send_http(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, *, max_bytes: int, purpose: str
    ) -> HttpReply:
        assert (method, purpose) == ("POST", "siem")
        self.requests.append((headers, body))
        if self.silent and url.startswith(self.silent):
            self.asked.set()
            await asyncio.Event().wait()
        status = self.answer(url, body)
        if status == 200:
            self.accepted.append((headers, body))
        return HttpReply(status=status, body=self.reply, retry_after=self.retry_after)

    def start(self) -> EventPush:
        return EventPush(cast("Gateway", self), lambda: self.now)

    async def kill_while_sending(self) -> None:
        """Start a process, and end it before a destination has answered."""
        self.silent = "https://siem"
        killed = asyncio.create_task(self.start().work())
        await self.asked.wait()
        killed.cancel()
        await asyncio.wait({killed})
        self.silent = ""

    def audit(self, *names: str) -> None:
        with closing(open_for_writing(self.settings)) as connection:
            self.audit_in(connection, *names)

    def audit_in(self, connection: Connection, *names: str) -> None:
        with changing(connection):
            for name in names:
                changes: dict[str, tuple[object, object]] = {"team": (None, "web")}
                add_entry(connection, self.now, actor="admin", action="create key", target=name, changes=changes)

    @property
    def objects(self) -> list[str]:
        """The entries of the audit log that were accepted, in their order."""
        bodies = [json.loads(body) for _, body in self.accepted]
        return [event["object"] for body in bodies for event in body["data"]["events"]]


def judged(number: int = 1, **fields: Any) -> Receipt:
    checks = [
        CallCheck("toolu_1", "Bash", "flagged", "It deletes /srv/payroll.", rule="Deleting", request="req_check"),
        CallCheck("toolu_2", "Read", "harmless", rule="only reads: payroll.txt", kind="rule"),
    ]
    client = Client(name="ann@example.org", owner="ann@example.org", team="web", cost_center="CC-7")
    return new_receipt(number, checks=checks, client=client, **fields)


async def test_an_entry_of_the_audit_log_is_signed_by_each_secret(database: Settings) -> None:
    world = World(database, structs.replace(WEBHOOK, events=("audit",)))
    world.audit("ci")
    await world.start().work()
    ((headers, body),) = world.requests
    assert json.loads(body) == {
        "type": "audit.events",
        "timestamp": "2026-11-21T12:00:00.000Z",
        "data": {
            "events": [
                {
                    "id": "audit-1",
                    "type": "audit",
                    "time": "2026-11-21T12:00:00.000Z",
                    "actor": "admin",
                    "action": "create key",
                    "object": "ci",
                    "changes": {"team": [None, "web"]},
                }
            ]
        },
    }
    signed = f"{headers['webhook-id']}.{round(NOON)}.".encode() + body
    digests = [base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode() for key in KEYS]
    assert headers == {
        "authorization": "Splunk 1234",
        "content-type": "application/json",
        "user-agent": "anthropic-proxy",
        "webhook-id": headers["webhook-id"],
        "webhook-timestamp": str(round(NOON)),
        "webhook-signature": f"v1,{digests[0]} v1,{digests[1]}",
    }


async def test_a_verdict_has_no_text_of_the_request(database: Settings) -> None:
    world = World(database, WEBHOOK)
    inspections = [
        InspectionRecord("secrets", "request", "redacted", kinds={"key": 2}, seconds=0.1),
        InspectionRecord("guard", "reply", "passed"),
    ]
    check = judged(2, parent="req_1", kind="auto_mode_check")
    harmless = new_receipt(3, checks=[CallCheck("toolu_3", "Read", "harmless")])
    receipts = [judged(1, inspections=inspections, session="s-1"), check, harmless, new_receipt(4)]
    await store(world.settings, *receipts)
    await world.start().work()
    ((_, body),) = world.accepted
    assert json.loads(body)["data"]["events"] == [
        {
            "id": "verdict-1",
            "type": "verdict",
            "time": "2026-11-21T12:00:00.001Z",
            "request": receipts[0].request_id,
            "key": "ann@example.org",
            "owner": "ann@example.org",
            "team": "web",
            "cost_center": "CC-7",
            "session": "s-1",
            "provider": "groq",
            "model": "small",
            "requested_model": "claude-haiku-4-5",
            "verdict": "flagged",
            "checks": [{"tool": "Bash", "verdict": "flagged", "kind": "model", "request": "req_check"}],
            "inspections": [
                {"inspector": "secrets", "part": "request", "decision": "redacted", "kinds": {"key": 2}, "failure": ""}
            ],
        }
    ]
    assert b"payroll" not in body


async def test_a_collector_gets_logs_of_opentelemetry(database: Settings) -> None:
    world = World(database, structs.replace(OTLP, events=("verdicts",)))
    await store(world.settings, judged())
    world.reply = b'{"partialSuccess": {"rejectedLogRecords": "1", "errorMessage": "too old"}}'
    await world.start().work()
    ((headers, body),) = world.accepted
    (resource,) = json.loads(body)["resourceLogs"]
    assert resource["resource"]["attributes"] == [
        {"key": "service.name", "value": {"stringValue": "anthropic-proxy"}},
        {"key": "service.version", "value": {"stringValue": __version__}},
    ]
    (record,) = resource["scopeLogs"][0]["logRecords"]
    event = json.loads(record.pop("body")["stringValue"])
    attributes = {one["key"]: one["value"]["stringValue"] for one in record.pop("attributes")}
    assert record == {
        "timeUnixNano": "1795262400001000000",
        "observedTimeUnixNano": "1795262400001000000",
        "severityNumber": 13,
        "severityText": "WARN",
        "eventName": "anthropic_proxy.verdict",
    }
    assert attributes == {f"anthropic_proxy.{name}": text for name, text in event.items() if isinstance(text, str)}
    assert (event["verdict"], headers.get("webhook-signature")) == ("flagged", None)
    assert world.log == [
        "[siem.logs], otel.example.org, has rejected 1 of the events verdict-1 to verdict-1. They are not sent again."
    ]


async def test_an_hour_without_the_endpoint_loses_nothing(database: Settings) -> None:
    world = World(database, structs.replace(WEBHOOK, events=("audit",)))
    processes = [world.start(), world.start()]
    world.answer = lambda url, body: 503
    end = NOON + 3_600
    names: list[str] = []
    times: list[float] = []
    with closing(open_for_writing(database)) as connection:
        while world.now < end:
            names.append(f"key {len(names)}")
            world.audit_in(connection, names[-1])
            before = len(world.requests)
            for process in processes:
                await process.work()
            if len(world.requests) > before:
                times.append(world.now - NOON)
            world.now += 5.0
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert pauses[:6] == [5, 10, 20, 40, 80, 160]
    assert {*pauses[6:]} == {300}
    assert len(world.requests) == len(times)  # one process at a time
    world.answer = lambda url, body: 200
    world.now += 300
    for process in processes:
        await process.work()
    assert world.objects == names
    # the first request is repeated as it was
    assert len(world.accepted) == 1 + -(-(len(names) - 1) // MAX_EVENTS)
    assert world.log == [
        "[siem.main], siem.example.org, has not accepted events (audit): status 503. They wait in the database and are "
        "sent again, first in 5 s.",
        "[siem.main], siem.example.org, accepts events (audit) again.",
    ]


async def test_a_destination_that_names_a_pause_gets_no_events_before_its_end(database: Settings) -> None:
    world = World(database, structs.replace(WEBHOOK, events=("audit",)))
    process = world.start()
    world.answer, world.retry_after = lambda url, body: 429, 900.0
    world.audit("ci")
    await process.work()
    world.now += 899
    await process.work()
    assert len(world.requests) == 1
    world.answer = lambda url, body: 200
    world.now += 1
    await process.work()
    assert world.objects == ["ci"]
    assert world.log == [
        "[siem.main], siem.example.org, has not accepted events (audit): status 429. They wait in the database and are "
        "sent again, first in 900 s.",
        "[siem.main], siem.example.org, accepts events (audit) again.",
    ]


async def test_a_batch_of_a_killed_process_is_sent_again_with_the_same_id(database: Settings) -> None:
    world = World(database, structs.replace(WEBHOOK, events=("audit",)))
    world.audit("ci")
    await world.kill_while_sending()
    other = world.start()
    await other.work()
    assert world.accepted == []
    world.now += LEASE_SECONDS
    await other.work()
    assert world.objects == ["ci"]
    assert len({headers["webhook-id"] for headers, _ in world.requests}) == 1


@pytest.mark.parametrize("way", ["killed", "lost answer", "refused"])
async def test_a_batch_is_sent_again_as_it_was_whatever_has_come_since(database: Settings, way: str) -> None:
    world = World(database, structs.replace(WEBHOOK, events=("audit",)))
    world.audit("first", "second")
    if way == "killed":
        await world.kill_while_sending()
    else:

        def answer(url: str, body: bytes) -> int:
            if way == "refused":
                return 503
            raise UpstreamTimeout("siem.example.org did not answer within 10 s")

        world.answer = answer
        await world.start().work()
        world.answer = lambda url, body: 200
    world.audit("third")
    world.now += LEASE_SECONDS
    await world.start().work()
    (first, before), (again, repeated), (other, _) = world.requests
    assert (again["webhook-id"], repeated) == (first["webhook-id"], before)
    assert other["webhook-id"] != first["webhook-id"]
    assert world.objects == ["first", "second", "third"]


async def test_a_process_whose_claim_has_ended_does_not_move_the_place_back(database: Settings) -> None:
    world = World(database, structs.replace(WEBHOOK, events=("audit",)))
    slow, other = world.start(), world.start()
    world.audit("first")
    bodies: list[bytes] = []

    def answer(url: str, body: bytes) -> int:
        bodies.append(body)
        if len(bodies) == 1:
            world.now += LEASE_SECONDS  # the answer comes after the end of the claim
            world.answer = lambda url, body: 200
            raise UpstreamTimeout("siem.example.org did not answer within 10 s")
        return 200

    world.answer = answer
    running = asyncio.create_task(slow.work())
    await other.work()
    await running
    world.audit("second")
    world.now += 600
    await other.work()
    await slow.work()
    assert world.objects == ["first", "second"]


async def test_a_silent_destination_holds_up_no_other_one(database: Settings) -> None:
    world = World(database, structs.replace(WEBHOOK, events=("audit",)), structs.replace(OTLP, events=("audit",)))
    world.silent = "https://otel"
    world.audit("first")
    running = asyncio.create_task(world.start().run())
    await world.asked.wait()
    world.audit("second")
    other = structs.replace(world.settings, siem=world.settings.siem[:1])
    world.settings, both = other, world.settings
    process = world.start()

    async def send() -> list[str]:
        await process.work()  # sends nothing while the other process has this destination
        return world.objects

    await wait_for_async(send, lambda objects: objects == ["first", "second"])
    running.cancel()
    await asyncio.wait({running})
    world.settings, world.silent = both, ""
    world.accepted.clear()
    world.now += LEASE_SECONDS
    await world.start().work()
    found = [json.loads(body)["resourceLogs"][0]["scopeLogs"][0]["logRecords"] for _, body in world.accepted]
    names = [[json.loads(record["body"]["stringValue"])["object"] for record in records] for records in found]
    assert names == [["first"], ["second"]]  # the request of the other process is repeated as it was


async def test_a_request_that_is_too_large_for_the_destination_is_divided(database: Settings) -> None:
    world = World(database, structs.replace(WEBHOOK, events=("audit",)))
    world.answer = lambda url, body: 413 if len(json.loads(body)["data"]["events"]) > 30 else 200
    names = [f"key {number}" for number in range(250)]
    world.audit(*names)
    await world.start().work()
    assert (world.objects, world.log) == (names, [])


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_an_event_that_is_rejected_while_others_are_accepted_is_parked(database: Settings, status: int) -> None:
    world = World(database, structs.replace(WEBHOOK, events=("audit",)))
    world.answer = lambda url, body: status if b"odd" in body else 200
    names = [f"key {number}" for number in range(150)]
    world.audit(*names[:70], "odd", *names[70:])
    push = world.start()
    await push.work()
    assert world.objects == names
    assert world.log == [
        f"[siem.main], siem.example.org, has rejected the event audit-71: status {status}. It is stored, and is sent "
        "again, first in 5 min; others follow."
    ]
    assert [(one.state, one.problem.text) for one in push.list_conditions()] == [
        (
            "1 audit rejected",
            f"[siem.main] has rejected 1 event of the source audit: audit-71. The last answer was status {status}. "
            "It waits in the table parked_events, and is sent again, at least once a day: correct this endpoint.",
        )
    ]
    count, other = len(world.requests), world.start()
    for age in (300, 600, 1_200, 200_000, 200_000 + MAX_PARKED_SECONDS):
        world.now = NOON + age - 1
        if age != 200_000:  # no process ran when it was due
            await push.work()
        assert len(world.requests) == count
        world.now = NOON + age
        await asyncio.gather(push.work(), other.work())
        count += 1
        assert len(world.requests) == count
    world.answer = lambda url, body: 200
    world.now += MAX_PARKED_SECONDS
    await push.work()
    assert world.objects == [*names, "odd"]
    assert push.list_conditions() == []
    assert world.log[1:] == ["[siem.main], siem.example.org, has accepted the event audit-71, which it had rejected."]


async def test_what_a_destination_has_rejected_concerns_no_other_one_and_is_sent_by_one_process(
    database: Settings,
) -> None:
    second = structs.replace(WEBHOOK, name="second", url=Secret("https://second.example.org/"), events=("audit",))
    world = World(database, structs.replace(WEBHOOK, events=("audit",)), second)
    world.answer = lambda url, body: 400 if b"odd" in body and url.startswith("https://siem") else 200
    sent: dict[str, list[str]] = {}
    post = world.send_http

    async def send_http(method: str, url: str, headers: Mapping[str, str], body: bytes, **options: Any) -> HttpReply:
        reply = await post(method, url, headers, body, **options)
        if reply.status == 200:
            sent.setdefault(url[:14], []).extend(event["object"] for event in json.loads(body)["data"]["events"])
        return reply

    world.send_http = send_http  # type: ignore[method-assign]
    world.audit("first", "odd", "last")
    processes = [world.start() for _ in range(3)]
    for _ in range(3):
        await asyncio.gather(*(process.work() for process in processes))
    assert sent == {"https://siem.e": ["first", "last"], "https://second": ["first", "odd", "last"]}
    with closing(open_for_writing(world.settings)) as connection:
        assert connection.query("SELECT destination, event_id FROM parked_events") == [("main", 2)]
        positions = connection.query("SELECT destination, position FROM event_cursors ORDER BY destination")
    assert positions == [("main", 3), ("second", 3)]
    world.answer = lambda url, body: 200
    world.now += 300
    await asyncio.gather(*(process.work() for process in processes))
    assert sent == {"https://siem.e": ["first", "last", "odd"], "https://second": ["first", "odd", "last"]}


async def test_a_destination_that_rejects_all_events_holds_them_for_an_hour_each(database: Settings) -> None:
    """It may be its own fault, so that nothing is parked at once. Two odd events in a row hold up the others for an
    hour.
    """
    world = World(database, structs.replace(WEBHOOK, events=("audit",)))
    world.answer = lambda url, body: 400
    world.audit("first", "second", "third")
    push = world.start()
    while world.now < NOON + 3_000:
        await push.work()
        world.now += 60.0
    assert push.list_conditions()[0].state == "3 audit wait"
    while world.now < NOON + 4_000:
        await push.work()
        world.now += 60.0
    assert [one.state for one in push.list_conditions()] == ["2 audit wait", "1 audit rejected"]
    world.answer = lambda url, body: 200
    world.now += 300
    await push.work()
    # it accepts again, so what it had rejected follows at once
    assert world.objects == ["second", "third", "first"]
    assert push.list_conditions() == []


async def test_an_outage_parks_nothing(database: Settings) -> None:
    world = World(database, structs.replace(WEBHOOK, events=("audit",)))
    world.answer = lambda url, body: 404
    world.audit("first")
    push = world.start()
    while world.now < NOON + 3 * 3_600:
        await push.work()
        world.now += 300.0
    world.answer = lambda url, body: 200
    await push.work()
    assert world.objects == ["first"]


@pytest.mark.parametrize(
    ("since", "received"),
    [(0.0, ["old", "new"]), (NOON - 86_400, ["old", "new"]), (NOON + 1, ["new"]), (math.inf, [])],
)
async def test_a_new_destination_begins_with_its_first_day(
    database: Settings, since: float, received: list[str]
) -> None:
    world = World(database, structs.replace(WEBHOOK, events=("audit",), since=since))
    world.audit("old")
    world.now += 2
    world.audit("new")
    push = world.start()
    await push.work()
    assert world.objects == received
    world.audit("newer")
    world.settings = structs.replace(world.settings, siem=(structs.replace(WEBHOOK, events=("audit",)),))
    await world.start().work()
    assert world.objects == [*received, "newer"]


async def test_a_request_has_at_most_half_a_mebibyte_of_events(database: Settings) -> None:
    world = World(database, structs.replace(WEBHOOK, events=("audit",)))
    world.audit(*(f"{number} {'x' * 200_000}" for number in range(5)))
    await world.start().work()
    assert [len(json.loads(body)["data"]["events"]) for _, body in world.accepted] == [2, 2, 1]


async def test_each_destination_gets_each_verdict_once_while_accepted_ones_are_deleted(database: Settings) -> None:
    world = World(database, structs.replace(WEBHOOK, events=("verdicts",)), structs.replace(OTLP, events=("verdicts",)))
    push = world.start()
    for number in range(3):
        await store(world.settings, judged(number))
        await push.work()
    texts = [body.decode() for _, body in world.accepted]
    assert [sum(f"verdict-{number}" in text for text in texts) for number in (1, 2, 3)] == [2, 2, 2]
    with closing(open_for_writing(world.settings)) as connection:
        assert connection.query("SELECT id FROM verdict_log") == [(3,)]
        connection.execute("UPDATE hourly SET hour = hour - 2400")
        Retention(structs.replace(world.settings, ledger_days=90), lambda: NOON + 100 * 86_400).delete_expired(
            connection
        )
        assert connection.query("SELECT id FROM verdict_log") == [(3,)]


async def test_without_a_destination_no_verdict_is_stored_again(database: Settings) -> None:
    world = World(database, structs.replace(WEBHOOK, events=("audit",)))
    await store(world.settings, judged())
    with closing(open_for_writing(world.settings)) as connection:
        assert connection.query("SELECT count(*) FROM verdict_log") == [(0,)]


async def test_a_new_secret_signs_what_waits(database: Settings) -> None:
    world = World(database, structs.replace(WEBHOOK, secrets=WEBHOOK.secrets[:1], events=("audit",)))
    push = world.start()
    world.audit("ci")
    world.answer = lambda url, body: 401
    await push.work()
    world.settings = structs.replace(world.settings, siem=(structs.replace(WEBHOOK, events=("audit",)),))
    world.answer = lambda url, body: 200
    world.now += 5
    await push.work()
    assert [headers["webhook-signature"].count("v1,") for headers, _ in world.requests] == [1, 2]


async def test_a_destination_that_does_not_accept_is_a_problem_of_the_server(database: Settings) -> None:
    world = World(database, structs.replace(WEBHOOK, events=("audit",)))
    push = world.start()
    world.audit("ci", "web")
    world.answer = lambda url, body: 500
    await push.work()
    assert push.list_conditions() == []
    world.now += REPORT_SECONDS
    await push.work()
    assert [(one.check, one.state, one.problem.text) for one in push.list_conditions()] == [
        (
            "siem",
            "2 audit wait",
            "[siem.main] has accepted no event of the source audit for 1 min, and 2 events wait. Nothing is lost: "
            "start this endpoint, or correct its table. The log has its answer.",
        )
    ]
    world.answer = lambda url, body: 200
    world.now += 300
    await push.work()
    assert push.list_conditions() == []
