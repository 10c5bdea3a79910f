"""Recent and running requests: limits, redaction, and the requests of other workers while a view is open."""

import asyncio
import io
from functools import partial

from anthropic_proxy.gateway.telemetry.log import Log
from anthropic_proxy.gateway.telemetry.logged_requests import RequestSnapshot, encode_requests
from anthropic_proxy.gateway.telemetry.requests import MAX_RECENT_REQUESTS, Receipts, RequestFeed, RunningRequests
from anthropic_proxy.gateway.workers.ipc import RequestsUpdate, RequestsWatch
from anthropic_proxy.gateway.workers.link import RequestSharing
from anthropic_proxy.plugins import CallCheck, Client, Receipt

Message = RequestsWatch | RequestsUpdate
SECRET = "sk-test-0123456789abcdef"


def receipt_of(name: str, started_at: float = 0.0, **fields: str) -> Receipt:
    return Receipt(request_id=name, client=Client(), started_at=started_at, **fields)  # type: ignore[arg-type]


def ids_of(snapshot: RequestSnapshot) -> tuple[list[str], list[str]]:
    finished = [request.receipt.request_id for request in snapshot.finished]
    return finished, [receipt.request_id for receipt in snapshot.running]


def test_the_latest_requests_are_kept_and_finished_ones_do_not_run() -> None:
    running = RunningRequests()
    feed = RequestFeed(running)
    for number in range(MAX_RECENT_REQUESTS + 2):
        begun = running.begin(receipt := receipt_of(f"req_{number}", requested_model="m"))
        feed.add_finished(receipt)
        running.end(begun)
    running.begin(receipt_of("req_running", requested_model="m"))
    running.begin(receipt_of("req_not_read"))
    finished, shown = ids_of(feed.build_own_snapshot())
    assert (len(finished), finished[0], finished[-1]) == (MAX_RECENT_REQUESTS, "req_2", f"req_{number}")
    assert shown == ["req_running"]


def test_keys_in_texts_of_clients_are_redacted() -> None:
    running = RunningRequests()
    feed = RequestFeed(running, lambda: [SECRET])
    feed.add_finished(receipt_of("req_1", requested_model=SECRET))
    running.begin(receipt_of("req_2", requested_model="m", path=f"/{SECRET}"))
    check = CallCheck("toolu_1", SECRET, "flagged", f"Sends {SECRET}.", rule=SECRET)
    feed.add_finished(receipt_of("req_3", checks=[check], tool_times=[(SECRET, 1.0)]))
    assert SECRET.encode() not in encode_requests(feed.build_own_snapshot())


def test_a_lone_surrogate_is_encoded() -> None:
    assert b'"error":"a?"' in encode_requests([receipt_of("req_1", error="a\ud800")])


class TwoWorkers:
    """Two workers with a connection that keeps all messages."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.running = RunningRequests()
        """Of the second worker."""
        self.first, self.second = RequestFeed(RunningRequests()), RequestFeed(self.running)
        self._first = RequestSharing(self.first, 0, 2, partial(self._send, 1))
        self._second = RequestSharing(self.second, 1, 2, partial(self._send, 0))

    def _send(self, receiver: int, message: Message) -> None:
        self.messages.append(message)
        asyncio.get_running_loop().call_soon((self._first, self._second)[receiver].apply_message, message)

    def close(self) -> None:
        self._first.close()
        self._second.close()


async def test_requests_of_all_workers_are_collected_in_order() -> None:
    workers = TwoWorkers()
    workers.first.add_finished(receipt_of("req_2", 2.0))
    workers.second.add_finished(receipt_of("req_1", 1.0))
    workers.running.begin(receipt_of("req_3", 3.0, requested_model="m"))
    assert workers.messages == [], "nothing is sent without a view"
    assert ids_of(await workers.first.collect_snapshot()) == (["req_1", "req_2"], ["req_3"])
    workers.close()


async def test_exchanges_that_wait_in_another_worker_are_collected() -> None:
    workers = TwoWorkers()
    receipts, log = Receipts(Log(io.StringIO()), feed=workers.second), Log(io.StringIO())
    workers.running.begin(receipt_of("req_running"))
    for number in range(3):
        receipts.end_exchange(receipt_of(f"req_{number}", float(number)), log)
    assert ids_of(await workers.first.collect_snapshot())[0] == ["req_0", "req_1", "req_2"]
    workers.close()


async def test_a_stream_has_the_requests_of_other_workers() -> None:
    workers = TwoWorkers()
    stream = workers.first.live.open_stream("ann")
    await anext(stream)
    workers.second.add_finished(receipt_of("req_1"))
    assert b"req_1" in await anext(stream)
    await stream.aclose()
    workers.close()


async def test_workers_that_do_not_respond_are_counted() -> None:
    feed = RequestFeed(RunningRequests())
    feed.connect_workers(2, lambda _: None)
    feed.add_finished(receipt_of("req_1"))
    collecting = asyncio.ensure_future(feed.collect_snapshot())
    await asyncio.sleep(0)
    feed.apply_worker_update(1, RequestSnapshot(), contains_recent=True)
    snapshot = await collecting
    assert (ids_of(snapshot), snapshot.unresponsive_workers) == ((["req_1"], []), 1)
