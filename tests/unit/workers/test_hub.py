"""Messages between front process and workers: whole, in order, and no process waits for one that does not read."""

import asyncio
import random
import socket
from collections.abc import Sequence

import pytest

from anthropic_proxy.gateway.platforms.sockets import SocketEvents
from anthropic_proxy.gateway.telemetry.log.in_progress import SHARED_MEMORY_BYTES
from anthropic_proxy.gateway.telemetry.metrics import Gauges, decode_snapshot
from anthropic_proxy.gateway.workers.hub import MAX_OBSERVATIONS, WORKER_TIMEOUT_SECONDS, Hub
from anthropic_proxy.gateway.workers.ipc import (
    MAX_MESSAGE_BYTES,
    MAX_UNSENT_BYTES,
    IpcChannel,
    Message,
    RequestsUpdate,
    RequestsWatch,
    SharedObservation,
    StatsQuery,
    StatsReport,
    StatsRequest,
    StatsTotal,
)
from anthropic_proxy.gateway.workers.link import WorkerLink, WorkerPeer
from anthropic_proxy.plugins import Client, Receipt
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


def test_a_sum_waits_for_every_worker_but_not_for_long() -> None:
    front = Front()
    (_, asker), (second, second_end), _ = (workers := [front.worker("1 "), front.worker("2 "), front.worker("3 ")])
    front.deliver_message(*workers[0], StatsQuery(7, b"4 "))
    assert front.hub.next_query_deadline() == WORKER_TIMEOUT_SECONDS
    (stats_request,) = second_end.receive()
    assert isinstance(stats_request, StatsRequest)
    front.deliver_message(second, second_end, StatsReport(b"old "))  # one that was under way
    front.deliver_message(second, second_end, StatsReport(b"5 ", stats_request.query_number))
    front.hub.answer_due_queries()
    assert asker.receive() == []
    front.now = WORKER_TIMEOUT_SECONDS
    front.hub.answer_due_queries()
    assert asker.receive() == [StatsTotal(7, b"0 4 5 3 ", unresponsive_count=1)]
    assert front.hub.next_query_deadline() is None


def test_who_has_ended_is_counted_and_not_waited_for() -> None:
    front = Front()
    asking, ending, starting = front.worker("1 "), front.worker("2 "), front.worker()
    front.deliver_message(*asking, StatsQuery(1, b"1 "))
    ending[1].send(StatsReport(b"last "))
    ending[1].close()
    front.hub.remove_worker(ending[0])
    assert asking[1].receive() == [StatsTotal(1, b"last 0 1 ", unresponsive_count=0)]
    front.hub.remove_worker(starting[0])
    front.deliver_message(*asking, StatsQuery(2, b"6 "))
    assert asking[1].receive() == [StatsTotal(2, b"last 0 6 ", unresponsive_count=0)]


def test_facts_are_passed_on_and_kept_for_who_comes_later_while_they_are_true() -> None:
    front = Front()
    teller, other = front.worker("1 "), front.worker("2 ")
    front.deliver_message(*teller, LESSON)
    assert other[1].receive() == [LESSON]
    assert teller[1].receive() == []
    front.now = 40.0
    assert front.worker()[1].receive() == [SharedObservation("model", "here", "model", "temperature", 60.0)]
    over = SharedObservation("model", "here", "model", "", 0.0)
    front.deliver_message(*teller, over)
    assert other[1].receive() == [over]
    assert front.worker()[1].receive() == []
    front.deliver_message(*teller, LESSON)
    front.now = 200.0
    assert front.worker()[1].receive() == []


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


def test_an_unresponsive_worker_is_not_waited_for_while_its_process_runs() -> None:
    front = Front()
    asking, leaving, left = (front.worker(f"{number} ") for number in (1, 2, 3))
    left[1].close()
    front.hub.receive_from(left[0])
    front.deliver_message(*asking, StatsQuery(1, b"1 "))
    assert asking[1].receive() == [], "one of two is still to say it"
    leaving[1].close()
    front.hub.receive_from(leaving[0])
    assert asking[1].receive() == [StatsTotal(1, b"3 2 0 1 ", unresponsive_count=0)]


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


def test_requests_are_sent_to_the_workers_that_watch_them() -> None:
    front = Front()
    (first, first_end), (second, second_end), (_, third_end) = (front.worker() for _ in range(3))
    update = RequestsUpdate(1, b"{}", contains_recent=True)
    front.deliver_message(second, second_end, update)
    assert first_end.receive() == []
    watch = RequestsWatch(5.0, needs_recent=True)
    front.deliver_message(first, first_end, watch)
    assert (first_end.receive(), second_end.receive(), third_end.receive()) == ([], [watch], [watch])
    front.deliver_message(second, second_end, update)
    assert (first_end.receive(), second_end.receive(), third_end.receive()) == ([update], [], [])
    front.now = 5.0
    front.deliver_message(second, second_end, update)
    assert first_end.receive() == []


class Worker:
    """A worker link, its totals, and the supervisor's end of the channel."""

    def __init__(self) -> None:
        ours, theirs = map(IpcChannel, socket.socketpair())
        self.line, self.front = WorkerLink(ours, memoryview(bytearray(SHARED_MEMORY_BYTES)), 0, 1), theirs
        self.gauge_reads: list[Gauges] = []
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


async def test_a_worker_reads_its_gauges_only_for_queries() -> None:
    worker = Worker()
    worker.line.open(worker.peer)
    assert isinstance(await worker.receive_message(), StatsReport)
    assert len(worker.gauge_reads) == 1, "to be known as one that serves"
    receipt = Receipt(request_id="req_1", client=Client(), started_at=0.0, provider="groq", model="small", status=200)
    worker.peer.totals.count_exchange(receipt)
    by_itself = await worker.receive_message()
    assert isinstance(by_itself, StatsReport)
    assert len(decode_snapshot(by_itself.stats).counters) == len(worker.gauge_reads) == 1
    worker.front.send(StatsRequest(5))
    answer = await worker.receive_message()
    assert isinstance(answer, StatsReport)
    assert (answer.query_number, len(worker.gauge_reads)) == (5, 2)
    worker.line.close()


async def test_an_observation_that_cannot_be_sent_delays_no_other() -> None:
    worker = Worker()
    worker.line.open(worker.peer)
    await worker.receive_message()
    for fact in (SharedObservation("model", "here", "gpt\ud800", "", 1.0), LESSON):
        worker.line.publish(fact)
    assert await worker.receive_message() == LESSON
    worker.line.publish(LESSON)
    assert await worker.receive_message() == LESSON
    worker.line.close()
