"""Requests as an event stream: their work does not depend on the number of readers, and slow readers harm nobody."""

import asyncio
import json
from collections.abc import AsyncGenerator, Iterable
from typing import Any

import pytest

from anthropic_proxy.errors import LimitReached, ProxyBusy
from anthropic_proxy.gateway.telemetry.live_requests import (
    MAX_KEPT_BYTES,
    MAX_KEPT_EVENTS,
    MAX_LIVE_SECONDS,
    MAX_STREAMS,
    MAX_STREAMS_OF_CLIENT,
    LiveRequests,
)
from anthropic_proxy.gateway.telemetry.logged_requests import LoggedRequest, RequestSnapshot
from anthropic_proxy.plugins import Client, Receipt
from tests.support.virtual_time import in_virtual_time

Event = tuple[str, Any]
Stream = AsyncGenerator[bytes, None]


def logged(name: str, client: str = "ann", error: str = "") -> LoggedRequest:
    return LoggedRequest(Receipt(request_id=name, client=Client(client), started_at=1.0, error=error))


class Source:
    """The requests of a proxy, in place of its feed. It counts what is done for its streams."""

    def __init__(self, *finished: LoggedRequest) -> None:
        self.finished = list(finished)
        self.running: list[Receipt] = []
        self.redactions = self.calculations = self.forgotten = 0
        self.watched: list[bool] = []
        self.watch_peers = self.watched.append

    def redact(self, snapshot: RequestSnapshot) -> RequestSnapshot:
        self.redactions += 1
        return snapshot

    async def add_costs(self, requests: Iterable[LoggedRequest]) -> list[LoggedRequest]:
        self.calculations += 1
        await asyncio.sleep(0.01)  # another thread
        return list(requests)

    async def collect_snapshot(self) -> RequestSnapshot:
        return RequestSnapshot(list(self.finished), list(self.running))

    def list_running(self) -> list[Receipt]:
        return list(self.running)

    def forget_other_workers(self) -> None:
        self.forgotten += 1


async def read(stream: Stream) -> list[Event]:
    """Return the next events: name and data."""
    blocks = (await anext(stream)).decode().split("\n\n")
    found = []
    for block in filter(None, blocks):
        name, _, data = block.removeprefix("event: ").partition("\ndata: ")
        found.append((name, json.loads(data) if data else None))
    return found


def ids_of(events: list[Event]) -> list[str]:
    return [data["receipt"]["request_id"] for name, data in events if name == "request"]


async def close(*streams: Stream) -> None:
    for stream in streams:
        await stream.aclose()


@in_virtual_time
async def test_a_stream_begins_with_the_recent_requests_and_has_each_further_one_once() -> None:
    source = Source(logged("req_1"))
    live = LiveRequests(source)
    stream = live.open_stream("ann")
    ((name, snapshot),) = await read(stream)
    assert (name, [one["receipt"]["request_id"] for one in snapshot["finished"]]) == ("snapshot", ["req_1"])
    for number in (1, 2, 3):  # another worker may send the first one again
        live.add(logged(f"req_{number}"))
    assert ids_of(await read(stream)) == ["req_2", "req_3"]
    source.running = [logged("req_4").receipt]
    ((name, running),) = await read(stream)
    assert (name, [one["request_id"] for one in running]) == ("running", ["req_4"])
    source.running = []
    assert await read(stream) == [("running", [])]
    assert (live.count, source.forgotten) == (1, 0)
    await close(stream)
    assert (live.count, source.forgotten) == (0, 1)


@in_virtual_time
async def test_nothing_is_done_without_a_stream() -> None:
    source = Source()
    live = LiveRequests(source)
    live.add(logged("req_1"))
    await asyncio.sleep(10)
    assert (source.redactions, source.calculations, source.watched) == (0, 0, [])
    stream = live.open_stream("ann")
    assert [name for name, _ in await read(stream)] == ["snapshot"]
    await close(stream)
    before = len(source.watched)
    live.add(logged("req_2"))
    await asyncio.sleep(10)
    assert (source.redactions, len(source.watched)) == (0, before)


@in_virtual_time
@pytest.mark.parametrize("count", [1, MAX_STREAMS])
async def test_the_work_for_a_request_does_not_depend_on_the_number_of_streams(count: int) -> None:
    source = Source()
    live = LiveRequests(source)
    streams = [live.open_stream(f"client {number // MAX_STREAMS_OF_CLIENT}") for number in range(count)]
    for stream in streams:
        await read(stream)
    opened = source.calculations
    for number in range(100):
        live.add(logged(f"req_{number}"))
    await asyncio.sleep(0.5)  # nobody reads
    assert (source.redactions, source.calculations - opened) == (1, 1)
    pieces = [await anext(stream) for stream in streams]
    assert len({id(piece) for piece in pieces}) <= count
    assert {piece.count(b"event: request") for piece in pieces} == {100}
    await close(*streams)


@in_virtual_time
async def test_many_requests_in_a_row_become_few_batches() -> None:
    source = Source()
    live = LiveRequests(source)
    stream = live.open_stream("ann")
    await read(stream)
    for number in range(500):
        live.add(logged(f"req_{number}"))
        await asyncio.sleep(0.002)
    assert source.redactions <= 8
    await close(stream)


@in_virtual_time
@pytest.mark.parametrize("error", ["", "x" * (MAX_KEPT_BYTES // 100)])
async def test_a_stream_that_is_too_far_behind_ends_with_a_reason(error: str) -> None:
    live = LiveRequests(Source())
    slow, fast = live.open_stream("ann"), live.open_stream("bob")
    for stream in (slow, fast):
        await read(stream)
    received = 0
    for number in range(MAX_KEPT_EVENTS + 1):
        live.add(logged(f"req_{number}", error=error))
        if number % 50 == 0:
            received += len(ids_of(await read(fast)))
    assert received >= MAX_KEPT_EVENTS - 50
    await asyncio.sleep(1)
    assert await read(slow) == [("end", {"reason": "The client reads too slowly."})]
    with pytest.raises(StopAsyncIteration):
        await anext(slow)
    assert live.count == 1
    await close(fast)


@in_virtual_time
async def test_a_client_and_all_clients_have_a_number_of_streams() -> None:
    live = LiveRequests(Source())
    streams = [live.open_stream("ann") for _ in range(MAX_STREAMS_OF_CLIENT + 1)]
    for stream in streams[:-1]:
        await read(stream)
    with pytest.raises(LimitReached) as refused:
        live.open_stream("ann")
    assert refused.value.message == f"{MAX_STREAMS_OF_CLIENT} live views of this client are open. Close one of them."
    assert await read(streams[-1]) == [("end", {"reason": "Too many live views are open."})]
    clients = MAX_STREAMS // MAX_STREAMS_OF_CLIENT
    for number in range(1, clients):
        others = [live.open_stream(f"client {number}") for _ in range(MAX_STREAMS_OF_CLIENT)]
        for stream in others:
            await read(stream)
        streams += others
    with pytest.raises(ProxyBusy) as busy:
        live.open_stream("bob")
    assert busy.value.message == f"All {MAX_STREAMS} live views of this process of the proxy are open. Try again later."
    await close(*streams)
    stream = live.open_stream("ann")
    assert [name for name, _ in await read(stream)] == ["snapshot"]
    await close(stream)


@in_virtual_time
async def test_a_member_sees_the_own_requests_only() -> None:
    source = Source(logged("req_1"), logged("req_2", "bob"))
    source.running = [logged("req_3", "bob").receipt]
    live = LiveRequests(source)
    stream = live.open_stream("ann", lambda client: client.name == "ann")
    ((_, snapshot),) = await read(stream)
    assert [one["receipt"]["request_id"] for one in snapshot["finished"]] == ["req_1"]
    assert snapshot["running"] == []
    for name, client in (("req_4", "bob"), ("req_5", "ann"), ("req_6", "bob")):
        live.add(logged(name, client))
    assert ids_of(await read(stream)) == ["req_5"]
    source.running = [logged("req_7", "bob").receipt, logged("req_8").receipt]
    ((name, running),) = await read(stream)
    assert (name, [one["request_id"] for one in running]) == ("running", ["req_8"])
    await close(stream)


@in_virtual_time
async def test_a_quiet_stream_has_pings_and_ends_after_its_time() -> None:
    live, now = LiveRequests(Source()), asyncio.get_running_loop().time
    start, pieces = now(), [piece async for piece in live.open_stream("ann")]
    assert pieces[1:] == [b": ping\n\n"] * 5
    assert MAX_LIVE_SECONDS <= now() - start < MAX_LIVE_SECONDS + 1


@pytest.mark.parametrize("pause", [0.0, 0.01])
async def test_a_stream_after_the_last_one_was_closed_waits_for_its_events(pause: float) -> None:
    """A page of the dashboard that is opened again. If the stream did not wait, nothing else would run."""
    live = LiveRequests(Source())
    first = live.open_stream("ann")
    await read(first)
    await first.aclose()
    await asyncio.sleep(pause)
    second = live.open_stream("ann")
    await read(second)
    waiting = asyncio.create_task(read(second))
    await asyncio.sleep(0.01)
    live.add(logged("req_1"))
    assert ids_of(await waiting) == ["req_1"]
    await second.aclose()


@in_virtual_time
async def test_all_streams_end_when_the_server_stops() -> None:
    live = LiveRequests(Source())
    streams = [live.open_stream("ann") for _ in range(3)]
    for stream in streams:
        await read(stream)
    live.end()
    for stream in streams:
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
