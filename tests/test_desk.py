"""What the process in front and its workers tell each other: whole, in order, and nobody waits for who reads not."""

import asyncio
import random
import socket
from collections.abc import Sequence

import pytest

from anthropic_proxy.crew import Crew
from anthropic_proxy.hooks import Client, Receipt
from anthropic_proxy.metrics import Now, decode_reading
from anthropic_proxy.server.channel import MOST_WAITING_BYTES, Ask, Channel, Count, Fact, Look, Message, Sum
from anthropic_proxy.server.desk import ANSWER_SECONDS, MOST_FACTS, Desk
from anthropic_proxy.server.line import Line

LESSON = Fact("lesson", "here", "model", "temperature", 100.0)


class Front:
    """A desk whose clock stands still until it is moved; a count is a list of numbers."""

    def __init__(self) -> None:
        self.now = 0.0
        self.desk = Desk(self, clock=lambda: self.now)

    def count(self, *, looks: bool = True) -> bytes:
        return b"0 "

    def add_up(self, readings: Sequence[bytes], ended: Sequence[bytes]) -> bytes:
        return b"".join([*ended, *readings])

    def worker(self, said: str = "") -> tuple[Channel, Channel]:
        """Return the desk's and the worker's end of a channel."""
        ours, theirs = map(Channel, socket.socketpair())
        self.desk.open(ours)
        if said:
            self.tell(ours, theirs, Count(said.encode()))
        return ours, theirs

    def tell(self, ours: Channel, theirs: Channel, message: Message) -> None:
        assert theirs.send(message)
        self.desk.hear(ours)


def test_messages_come_whole_and_in_order_however_they_are_cut() -> None:
    for seed in range(20):
        chance = random.Random(seed)
        raw, theirs = socket.socketpair()
        messages = [Count(chance.randbytes(chance.randrange(300)), number) for number in range(20)]
        sent = b"".join(_bytes_of(message) for message in messages)
        reader, read = Channel(theirs), list[Message]()
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
    Channel(ours).send(message)
    ours.close()
    theirs.setblocking(True)
    return b"".join(iter(lambda: theirs.recv(65536), b""))


def test_an_end_that_does_not_read_holds_nobody_up_and_fills_no_memory() -> None:
    writer, reader = map(Channel, socket.socketpair())
    piece, sent = bytes(MOST_WAITING_BYTES // 8), 0
    while writer.send(Count(piece, sent)):
        sent += 1
        assert sent < 12
    assert sent >= 8
    read: list[Message] = []
    while writer.waiting or len(read) < sent:
        read += reader.receive()
        writer.flush()
    assert [message.number for message in read if isinstance(message, Count)] == list(range(sent))
    assert writer.send(Look(1)), "and it goes on from there"
    reader.close()
    assert not writer.send(Look(2))


def test_a_sum_waits_for_every_worker_but_not_for_long() -> None:
    front = Front()
    (_, asker), (second, second_end), _ = (workers := [front.worker("1 "), front.worker("2 "), front.worker("3 ")])
    front.tell(*workers[0], Ask(7, b"4 "))
    assert front.desk.next_deadline() == ANSWER_SECONDS
    (look,) = second_end.receive()
    assert isinstance(look, Look)
    front.tell(second, second_end, Count(b"old "))  # one that was under way
    front.tell(second, second_end, Count(b"5 ", look.number))
    front.desk.do_what_is_due()
    assert asker.receive() == []
    front.now = ANSWER_SECONDS
    front.desk.do_what_is_due()
    assert asker.receive() == [Sum(7, b"0 4 5 3 ", silent=1)]
    assert front.desk.next_deadline() is None


def test_who_has_ended_is_counted_and_not_waited_for() -> None:
    front = Front()
    asking, ending, starting = front.worker("1 "), front.worker("2 "), front.worker()
    front.tell(*asking, Ask(1, b"1 "))
    ending[1].send(Count(b"last "))
    ending[1].close()
    front.desk.close(ending[0])
    assert asking[1].receive() == [Sum(1, b"last 0 1 ", silent=0)]
    front.desk.close(starting[0])
    front.tell(*asking, Ask(2, b"6 "))
    assert asking[1].receive() == [Sum(2, b"last 0 6 ", silent=0)]


def test_facts_are_passed_on_and_kept_for_who_comes_later_while_they_are_true() -> None:
    front = Front()
    teller, other = front.worker("1 "), front.worker("2 ")
    front.tell(*teller, LESSON)
    assert other[1].receive() == [LESSON]
    assert teller[1].receive() == []
    front.now = 40.0
    assert front.worker()[1].receive() == [Fact("lesson", "here", "model", "temperature", 60.0)]
    over = Fact("lesson", "here", "model", "", 0.0)
    front.tell(*teller, over)
    assert other[1].receive() == [over]
    assert front.worker()[1].receive() == []
    front.tell(*teller, LESSON)
    front.now = 200.0
    assert front.worker()[1].receive() == []


def test_facts_without_end_fill_no_memory() -> None:
    front = Front()
    teller = front.worker("1 ")
    for number in range(MOST_FACTS + 10):
        front.tell(*teller, Fact("lesson", "here", str(number), "", 100.0))
    later = front.worker()[1]
    facts: list[Message] = []
    while len(facts) < MOST_FACTS:
        facts += later.receive()
        for channel in front.desk.channels:
            channel.flush()
    assert isinstance(facts[0], Fact)
    assert facts[0].name == "10"


def test_who_says_nothing_any_more_is_not_waited_for_though_its_process_lives() -> None:
    front = Front()
    asking, leaving, left = (front.worker(f"{number} ") for number in (1, 2, 3))
    left[1].close()
    front.desk.hear(left[0])
    front.tell(*asking, Ask(1, b"1 "))
    assert asking[1].receive() == [], "one of two is still to say it"
    leaving[1].close()
    front.desk.hear(leaving[0])
    assert asking[1].receive() == [Sum(1, b"3 2 0 1 ", silent=0)]


@pytest.mark.parametrize(
    "frame",
    [b"abc", b"", b"\xff" * 4, b"\x82\xa4type\xa4fact\xa4kind\xa2\xff\xff"],
    ids=["other", "none", "odd", "text"],
)
def test_a_damaged_message_ends_its_channel_and_nothing_else(frame: bytes) -> None:
    front, (raw, theirs) = Front(), socket.socketpair()
    damaged, sound = Channel(theirs), front.worker("1 ")
    front.desk.open(damaged)
    raw.sendall(_bytes_of(Count(b"2 ")) + len(frame).to_bytes(4, "big") + frame + _bytes_of(Count(b"lost ")))
    front.desk.hear(damaged)
    assert (damaged.ended, damaged.receive(), damaged in front.desk.channels) == (True, [], False)
    assert raw.recv(1) == b"", "the other end learns of it"
    front.tell(*sound, Ask(1, b"1 "))
    assert sound[1].receive() == [Sum(1, b"2 0 1 ", silent=0)]
    front.desk.close(damaged)


class Worker:
    """A line, what counts at it, and the end that the process in front has."""

    def __init__(self) -> None:
        ours, theirs = map(Channel, socket.socketpair())
        self.line, self.front = Line(ours, 0, 1), theirs
        self.looks: list[Now] = []
        self.crew = Crew(lambda _: False, self.looks.append, lambda _: None)

    async def hear(self) -> Message:
        """Return what it says next."""
        readable, loop = asyncio.Event(), asyncio.get_running_loop()
        loop.add_reader(self.front.fileno(), readable.set)
        async with asyncio.timeout(30):
            await readable.wait()
        loop.remove_reader(self.front.fileno())
        (message,) = self.front.receive()
        return message


async def test_a_worker_looks_round_only_for_who_asks() -> None:
    worker = Worker()
    worker.line.open(worker.crew)
    assert isinstance(await worker.hear(), Count)
    assert len(worker.looks) == 1, "to be known as one that serves"
    receipt = Receipt(request_id="req_1", client=Client(), started=0.0, provider="groq", model="small", status=200)
    await worker.crew.totals.record(receipt)
    by_itself = await worker.hear()
    assert isinstance(by_itself, Count)
    assert len(decode_reading(by_itself.reading).rows) == len(worker.looks) == 1
    worker.front.send(Look(5))
    answer = await worker.hear()
    assert isinstance(answer, Count)
    assert (answer.number, len(worker.looks)) == (5, 2)
    worker.line.close()


async def test_a_fact_that_cannot_be_told_keeps_no_other_back() -> None:
    worker = Worker()
    worker.line.open(worker.crew)
    await worker.hear()
    for fact in (Fact("lesson", "here", "gpt\ud800", "", 1.0), LESSON):
        worker.line.tell(fact)
    assert await worker.hear() == LESSON
    worker.line.tell(LESSON)
    assert await worker.hear() == LESSON
    worker.line.close()
