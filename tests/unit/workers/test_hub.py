"""Messages between front process and workers: whole, in order, and no process waits for one that does not read."""

import asyncio
import random
import socket
from collections.abc import Sequence

import pytest

from anthropic_proxy.gateway.platforms.sockets import SocketEvents
from anthropic_proxy.gateway.telemetry.metrics import MetricsSnapshot
from anthropic_proxy.gateway.telemetry.requests import SHARED_MEMORY_BYTES
from anthropic_proxy.gateway.workers.hub import MAX_OBSERVATIONS, Hub
from anthropic_proxy.gateway.workers.ipc import (
    MAX_MESSAGE_BYTES,
    MAX_UNSENT_BYTES,
    IpcChannel,
    Message,
    SharedObservation,
    StatsQuery,
    StatsReport,
    StatsRequest,
    StatsTotal,
)
from anthropic_proxy.gateway.workers.link import WorkerLink, WorkerPeer
from anthropic_proxy.plugins import Limit, Store
from tests.support.waiting import WAIT_SECONDS

LESSON = SharedObservation("model", "here", "model", "temperature", 100.0)


class Front:
    """A desk with a clock that stands still until it is moved; a count is a list of numbers."""

    def __init__(self) -> None:
        self.now = 0.0
        self.hub = Hub(self, clock=lambda: self.now)

    def collect_stats(self, *, refresh_gauges: bool = True) -> bytes:
        return b"0 "

    def sum_stats(self, readings: Sequence[bytes], ended: Sequence[bytes]) -> bytes:
        return b"".join([*ended, *readings])

    def worker(self, report_text: str = "") -> tuple[IpcChannel, IpcChannel]:
        """Return the desk's and the worker's end of a channel."""
        ours, theirs = map(IpcChannel, socket.socketpair())
        self.hub.add_worker(ours)
        if report_text:
            self.deliver_message(ours, theirs, StatsReport(report_text.encode()))
        return ours, theirs

    def deliver_message(self, ours: IpcChannel, theirs: IpcChannel, message: Message) -> None:
        assert theirs.send(message)
        self.hub.receive_from(ours)


def test_messages_come_whole_and_in_order_however_they_are_cut() -> None:
    for seed in range(20):
        chance = random.Random(seed)
        raw, theirs = socket.socketpair()
        messages = [StatsReport(chance.randbytes(chance.randrange(300)), number) for number in range(20)]
        sent = b"".join(_bytes_of(message) for message in messages)
        reader, read = IpcChannel(theirs), list[Message]()
        while sent:
            size = chance.randrange(1, 200)
            raw.sendall(sent[:size])
            sent = sent[size:]
            read += reader.receive()
        assert read == messages, seed
        assert not reader.ended
        raw.close()
        assert (reader.receive(), reader.ended) == ([], True)


def _bytes_of(message: Message) -> bytes:
    ours, theirs = socket.socketpair()
    IpcChannel(ours).send(message)
    ours.close()
    theirs.setblocking(True)
    return b"".join(iter(lambda: theirs.recv(65536), b""))


def test_an_end_that_does_not_read_holds_nobody_up_and_fills_no_memory() -> None:
    writer, reader = map(IpcChannel, socket.socketpair())
    piece, sent = bytes(MAX_UNSENT_BYTES // 8), 0
    while writer.send(StatsReport(piece, sent)):
        sent += 1
        assert sent < 12
    assert sent >= 8
    read: list[Message] = []
    while writer.has_unsent or len(read) < sent:
        read += reader.receive()
        writer.flush()
    assert [message.query_number for message in read if isinstance(message, StatsReport)] == list(range(sent))
    assert writer.send(StatsRequest(1)), "and it goes on from there"
    reader.close()
    assert not writer.send(StatsRequest(2))


def test_facts_without_end_fill_no_memory() -> None:
    front = Front()
    teller = front.worker("1 ")
    for number in range(MAX_OBSERVATIONS + 10):
        front.deliver_message(*teller, SharedObservation("model", "here", str(number), "", 100.0))
    later = front.worker()[1]
    facts: list[Message] = []
    while len(facts) < MAX_OBSERVATIONS:
        facts += later.receive()
        for channel in front.hub.channels:
            channel.flush()
    assert isinstance(facts[0], SharedObservation)
    assert facts[0].name == "10"


@pytest.mark.parametrize(
    "frame",
    [b"abc", b"", b"\xff" * 4, b"\x82\xa4type\xa4fact\xa4kind\xa2\xff\xff"],
    ids=["other", "none", "odd", "text"],
)
def test_a_damaged_message_ends_its_channel_and_nothing_else(frame: bytes) -> None:
    front, (raw, theirs) = Front(), socket.socketpair()
    damaged, sound = IpcChannel(theirs), front.worker("1 ")
    front.hub.add_worker(damaged)
    raw.sendall(
        _bytes_of(StatsReport(b"2 ")) + len(frame).to_bytes(4, "big") + frame + _bytes_of(StatsReport(b"lost "))
    )
    front.hub.receive_from(damaged)
    assert (damaged.ended, damaged.receive(), damaged in front.hub.channels) == (True, [], False)
    assert raw.recv(1) == b"", "the other end learns of it"
    front.deliver_message(*sound, StatsQuery(1, b"1 "))
    assert sound[1].receive() == [StatsTotal(1, b"2 0 1 ", unresponsive_count=0)]
    front.hub.remove_worker(damaged)


def test_a_length_above_the_limit_ends_its_channel_before_anything_is_stored() -> None:
    raw, theirs = socket.socketpair()
    channel = IpcChannel(theirs)
    raw.sendall((MAX_MESSAGE_BYTES + 1).to_bytes(4, "big"))
    assert channel.receive() == []
    assert channel.ended
    assert raw.recv(1) == b"", "the other end is closed"
    channel.close()


def test_a_message_above_the_limit_is_not_sent() -> None:
    ours, theirs = map(IpcChannel, socket.socketpair())
    assert not ours.send(StatsReport(b"x" * MAX_MESSAGE_BYTES))
    assert not ours.has_unsent
    assert theirs.receive() == []
    ours.close()
    theirs.close()


class Worker:
    """A worker link, its totals, and the supervisor's end of the channel."""

    def __init__(self) -> None:
        ours, theirs = map(IpcChannel, socket.socketpair())
        self.line, self.front = WorkerLink(ours, memoryview(bytearray(SHARED_MEMORY_BYTES)), 0, 1), theirs
        self.gauge_reads: list[MetricsSnapshot] = []
        self.peer = WorkerPeer(lambda _: False, self.gauge_reads.append, lambda _: None)

    async def receive_message(self) -> Message:
        """Return its next message."""
        readable, events = asyncio.Event(), SocketEvents(asyncio.get_running_loop())
        events.on_readable(self.front.socket, readable.set)
        async with asyncio.timeout(WAIT_SECONDS):
            await readable.wait()
        events.ignore_readable(self.front.socket)
        (message,) = self.front.receive()
        return message


async def test_an_observation_that_cannot_be_sent_delays_no_other() -> None:
    worker = Worker()
    worker.line.open(worker.peer)
    for fact in (SharedObservation("model", "here", "gpt\ud800", "", 1.0), LESSON):
        worker.line.publish(fact)
    assert await worker.receive_message() == LESSON
    worker.line.publish(LESSON)
    assert await worker.receive_message() == LESSON
    worker.line.close()


async def test_workers_share_limits_and_values_which_outlive_a_worker() -> None:
    front, events = Front(), SocketEvents(asyncio.get_running_loop())

    def add_worker() -> tuple[WorkerLink, Store, IpcChannel]:
        ours, theirs = front.worker()
        events.on_readable(ours.socket, lambda: front.hub.receive_from(ours))
        link = WorkerLink(theirs, memoryview(bytearray(SHARED_MEMORY_BYTES)), 0, 2)
        peer = WorkerPeer(lambda _: False, lambda _: None, lambda _: None, link)
        peer.open()
        return link, peer.store, ours

    limits = [Limit("requests", "rate", 1, 60, 60.0), Limit("streams", "concurrency", 1, 25)]
    (first, store, ours), (_, other, _) = add_worker(), add_worker()
    held = await asyncio.gather(*(each.reserve(limits) for each in (store, other) * 20))
    assert sum(each.is_held for each in held) == 25
    await store.put("session", "größer", 60.0)
    for each in held[:10]:
        await other.settle(each, [1, 0])
    first.close()
    events.ignore_readable(ours.socket)
    front.hub.remove_worker(ours)
    assert list((await other.reserve(limits)).remaining) == [60 - 26, 25 - 16]
    assert await other.get("session") == "größer"
