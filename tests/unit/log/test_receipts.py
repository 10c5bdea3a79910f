"""Receipts on their way to observers: requests with a receipt, and slow or failing observers."""

import asyncio
import io
import json
from typing import Any

from msgspec import structs

from anthropic_proxy.gateway.server.endpoints import serve_request
from anthropic_proxy.gateway.telemetry.log import Log
from anthropic_proxy.gateway.telemetry.metrics import DROPPED_RECEIPTS, MetricsTotals
from anthropic_proxy.gateway.telemetry.requests import (
    END_PAUSE_SECONDS,
    MAX_ENDED_EXCHANGES,
    MAX_QUEUED_RECEIPTS,
    Receipts,
    RequestFeed,
    RunningRequests,
)
from anthropic_proxy.plugins import Client, Receipt
from tests.support.fake_upstream import BODY, KEYS
from tests.support.harness import FakeResponse, ProxyHarness
from tests.support.virtual_time import in_virtual_time


class Observer:
    """Keeps its receipts once its gate is open. Fails for the ids in `fails`."""

    def __init__(self, fails: str = "") -> None:
        self.seen: list[Receipt] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self._fails = fails

    async def record(self, receipt: Receipt) -> None:
        await self.gate.wait()
        if receipt.request_id == self._fails:
            raise ConnectionError("the table is locked")
        self.seen.append(receipt)


class PlainObserver:
    """Keeps its receipts without waiting. Fails for the id `req_0`."""

    def __init__(self) -> None:
        self.seen: list[Receipt] = []

    def record(self, receipt: Receipt) -> None:
        if receipt.request_id == "req_0":
            raise ConnectionError("the table is locked")
        self.seen.append(receipt)


def receipt_of(number: int) -> Receipt:
    return Receipt(request_id=f"req_{number}", client=Client(), started_at=0.0)


def harness_with(*observers: Observer) -> ProxyHarness:
    proxy = ProxyHarness(lambda *_: FakeResponse(200, BODY), **KEYS)
    proxy.services = structs.replace(proxy.services, receipts=Receipts(proxy.services.log, observers))
    return proxy


def counted_exchanges(proxy: ProxyHarness) -> int:
    return sum(row.requests for row in proxy.services.receipts.totals.snapshot.counters.values())


async def test_an_observer_that_hangs_delays_no_exchange_and_no_other_observer() -> None:
    slow, quick = Observer(), Observer()
    slow.gate.clear()
    proxy = harness_with(slow, quick)
    for _ in range(3):
        assert (await proxy.post()).error is None
    await asyncio.sleep(0)
    assert (len(slow.seen), len(quick.seen), counted_exchanges(proxy)) == (0, 3, 3)
    slow.gate.set()
    await proxy.services.receipts.close(10)
    assert slow.seen == quick.seen


@in_virtual_time
async def test_exchanges_that_end_together_are_logged_and_delivered_together() -> None:
    plain, running, stream = PlainObserver(), RunningRequests(), io.StringIO()
    log, receipts = Log(stream), Receipts(Log(io.StringIO()), [plain], feed=RequestFeed(running))

    def end(*numbers: int) -> list[str]:
        for number in numbers:
            receipts.end_exchange(receipt_of(number), log)
        return [receipt.request_id.removeprefix("req_") for receipt in plain.seen]

    running.begin(receipt_of(99))
    assert end(1, 2, 3) == ["1"]
    await asyncio.sleep(END_PAUSE_SECONDS)
    assert end() == ["1", "2", "3"]
    assert end(4) == ["1", "2", "3"]
    receipts.flush()  # for a page
    assert end() == ["1", "2", "3", "4"]
    assert end(5) == ["1", "2", "3", "4"]
    assert len(end(*range(6, 5 + MAX_ENDED_EXCHANGES))) == 4 + MAX_ENDED_EXCHANGES
    assert len(end(100)) == 4 + MAX_ENDED_EXCHANGES
    await receipts.close(10)
    assert end()[-1] == "100"
    running.draining = True
    assert end(101)[-1] == "101"
    assert stream.getvalue().count("req_") == 6 + MAX_ENDED_EXCHANGES


def test_no_exchange_waits_for_the_timer_of_an_event_loop_that_has_ended() -> None:
    plain, running, log = PlainObserver(), RunningRequests(), Log(io.StringIO())
    receipts = Receipts(log, [plain], feed=RequestFeed(running))
    running.begin(receipt_of(99))

    async def end(*numbers: int) -> None:
        for number in numbers:
            receipts.end_exchange(receipt_of(number), log)

    asyncio.run(end(1, 2))
    asyncio.run(end(3))
    assert [receipt.request_id for receipt in plain.seen] == ["req_1", "req_2", "req_3"]


async def test_an_observer_that_fails_is_logged_and_sees_the_next_receipt() -> None:
    failing = Observer(fails="req_0")
    proxy = harness_with(failing)
    for number in range(2):
        proxy.services.receipts.finish_exchange(receipt_of(number))
    await proxy.services.receipts.close(10)
    assert [receipt.request_id for receipt in failing.seen] == ["req_1"]
    assert "ConnectionError: the table is locked" in proxy.log.getvalue()
    assert "req_0" in proxy.log.getvalue()


async def test_an_observer_that_never_waits_needs_no_task_and_its_failure_is_logged() -> None:
    plain, proxy = PlainObserver(), ProxyHarness(lambda *_: FakeResponse())
    receipts = Receipts(proxy.services.log, [plain])
    for number in range(3):
        receipts.finish_exchange(receipt_of(number))
    assert [receipt.request_id for receipt in plain.seen] == ["req_1", "req_2"]
    assert len(asyncio.all_tasks()) == 1
    assert "ConnectionError: the table is locked" in proxy.log.getvalue()
    assert "req_0" in proxy.log.getvalue()


async def test_a_full_queue_drops_the_oldest_and_counts_it() -> None:
    slow, totals = Observer(), MetricsTotals(lambda _: False)
    slow.gate.clear()
    log = ProxyHarness(lambda *_: FakeResponse()).services.log
    receipts = Receipts(log, [slow], totals=totals)
    receipts.finish_request(receipt_of(0))
    await asyncio.sleep(0)  # the observer has the first one
    for number in range(1, MAX_QUEUED_RECEIPTS + 4):
        receipts.finish_request(receipt_of(number))
    assert totals.snapshot.values[DROPPED_RECEIPTS.name] == {("Observer",): 3}
    slow.gate.set()
    await receipts.close(10)
    seen = [int(receipt.request_id.removeprefix("req_")) for receipt in slow.seen]
    assert seen == [0, *range(4, MAX_QUEUED_RECEIPTS + 4)]


async def test_the_end_waits_for_an_observer_no_longer_than_it_may() -> None:
    slow = Observer()
    slow.gate.clear()
    receipts = Receipts(ProxyHarness(lambda *_: FakeResponse()).services.log, [slow])
    receipts.finish_request(receipt_of(0))
    await receipts.close(0.01)
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1
    assert slow.seen == []


async def ask(proxy: ProxyHarness, method: str, path: str, body: Any = None, **headers: str) -> int:
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": json.dumps(body).encode()}

    async def send(message: Any) -> None:
        sent.append(message)

    named = {"host": "localhost", **{name.replace("_", "-"): value for name, value in headers.items()}}
    scope = {"type": "http", "method": method, "path": path, "query_string": b"", "client": ("127.0.0.1", 1)}
    pairs = [(name.encode(), value.encode()) for name, value in named.items()]
    await serve_request(proxy.services, {**scope, "headers": pairs}, receive, send)
    return int(sent[0]["status"])


async def test_every_request_but_a_probe_has_one_receipt() -> None:
    observer = Observer()
    proxy = harness_with(observer)
    message = {"model": "claude-sonnet-4-5", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}
    counted = {"model": "claude-sonnet-4-5", "messages": message["messages"]}
    assert await ask(proxy, "POST", "/v1/messages", message) == 200
    assert await ask(proxy, "POST", "/v1/messages", {"model": 5}) == 400
    assert await ask(proxy, "POST", "/v1/messages/count_tokens", counted) == 200
    assert await ask(proxy, "POST", "/v1/messages", message, host="evil.example") == 403
    assert await ask(proxy, "POST", "/v1/messages", message, content_encoding="gzip") == 415
    assert await ask(proxy, "GET", "/v1/models") == 200
    assert await ask(proxy, "GET", "/health") == 200
    await proxy.services.receipts.close(10)
    seen_receipts = [(receipt.path, receipt.status, receipt.outcome, receipt.error_type) for receipt in observer.seen]
    assert seen_receipts == [
        ("/v1/messages", 200, "end_turn", ""),
        ("/v1/messages", 400, "error", "invalid_request_error"),
        ("/v1/messages/count_tokens", 200, "", ""),
        ("/v1/messages", 403, "error", "permission_error"),
        ("/v1/messages", 415, "error", "invalid_request_error"),
        ("/v1/models", 200, "", ""),
    ]
    assert counted_exchanges(proxy) == 2, "metrics count exchanges"
    assert len({receipt.request_id for receipt in observer.seen}) == 6


async def test_a_receipt_has_the_id_of_the_reply_and_the_limit_that_was_sent() -> None:
    proxy = ProxyHarness(lambda *_: FakeResponse(200, BODY), **KEYS)
    sink = await proxy.post(max_tokens=2_000)
    (receipt,) = proxy.receipts
    assert receipt.message_id == (sink.body or json.loads(sink.stream))["id"]
    assert [attempt.max_tokens for attempt in receipt.attempts] == [2_000]
    refused = ProxyHarness(lambda *_: FakeResponse(400, b"{}"), **KEYS)
    await refused.post(max_tokens=2_000)
    (receipt,) = refused.receipts
    assert (receipt.message_id, [attempt.max_tokens for attempt in receipt.attempts]) == ("", [2_000, 2_000])
