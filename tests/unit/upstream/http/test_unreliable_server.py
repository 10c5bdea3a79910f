"""Our own HTTP client against a server with the connection failures of real servers, drawn by a seed.

Every answer must be whole, or reported as broken behind a true beginning; none may belong to another request.
`scripts/ci.py soak` asks the whole proxy, for longer.
"""

import asyncio
import gzip
import random
import socket
import struct
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import pytest
from msgspec import Struct

from anthropic_proxy.engine.upstream.http.client import HttpTransport
from anthropic_proxy.engine.wires.upstream_http import UpstreamRequest
from anthropic_proxy.errors import UpstreamError
from anthropic_proxy.gateway.platforms.signals import new_event_loop
from tests.support.bound_requests import bound

SEED = 20261120
EXCHANGES, CLIENTS = 1_500, 40
FRAMINGS = ("length", "length", "chunks", "chunks", "chunks", "end")
BEHIND = (b"H", b"garbage", b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nfor somebody else")
"""Bytes that may stand behind an answer in the same packet; the connection is not used after it."""
AMBUSHES = ("close", "reset", "close when read", "reset when read", "close at rest")
"""Possible fates of a kept connection when the next request comes, or before."""
PATIENCE_SECONDS = 60


class Plan(Struct):
    """The plan of one exchange."""

    text: bytes
    framing: str
    begins: bytes
    """The bytes that announce the answer."""
    packed: bool
    torn: float
    """The share of the body that is sent before the connection is reset; 0: all."""
    behind: bytes
    closes: bool
    ambush: str
    sizes: tuple[int, ...]
    """Of the pieces in which it is sent."""

    @property
    def keeps(self) -> bool:
        return not (self.framing == "end" or self.torn or self.behind or self.closes)


def draw(number: int) -> Plan:
    chance = random.Random(SEED * 100_003 + number)
    text = b"".join(b"%d:%d;" % (number, place) for place in range(chance.choice((0, 1, 30, 300, 3_000, 12_000))))
    framing, often = chance.choice(FRAMINGS), chance.random
    torn = 0.01 + 0.98 * often() if text and often() < 0.12 else 0.0
    return Plan(
        text=text,
        framing=framing,
        begins=b"HTTP/1.1 103 Hints\r\nlink: x\r\n\r\n" * chance.choice((0, 0, 0, 1, 3)),
        packed=often() < 0.2,
        torn=torn,
        behind=chance.choice(BEHIND) if framing != "end" and not torn and often() < 0.08 else b"",
        closes=often() < 0.15,
        ambush=chance.choice(AMBUSHES) if often() < 0.3 else "",
        sizes=chance.choice(((1, 2, 5, 100), (7, 500, 9_000), (1_000_000,))) if len(text) < 5_000 else (4_000, 30_000),
    )


def write_answer(plan: Plan, chance: random.Random) -> bytes:
    body = gzip.compress(plan.text, 1) if plan.packed else plan.text
    head = plan.begins + b"HTTP/1.1 200 OK\r\n"
    if plan.packed:
        head += b"Content-Encoding: gzip\r\n"
    if plan.closes:
        head += b"Connection: close\r\n"
    if plan.framing == "length":
        head += b"Content-Length: %d\r\n" % len(body)
    elif plan.framing == "chunks":
        head += b"Transfer-Encoding: chunked\r\n"
        pieces, place = [], 0
        while place < len(body):
            piece = body[place : place + chance.choice((1, 16, 255, 4_000)) + len(body) // 50]
            place += len(piece)
            pieces.append(b"%x%b\r\n%b\r\n" % (len(piece), chance.choice((b"", b';a="b;c"')), piece))
        body = b"".join(pieces) + b"0\r\n" + chance.choice((b"", b"Content-Type: of/a-trailer\r\n")) + b"\r\n"
    end = len(body)
    if plan.torn:
        end = min(int(end * plan.torn), end - 1)
    return head + b"\r\n" + body[:end] + plan.behind


class Server:
    """Executes the plan that a request names, and checks that each used connection was reusable."""

    def __init__(self) -> None:
        self.wrong: list[str] = []
        self.seen: Counter[str] = Counter()
        self.serving = 0
        self.rests = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.serving += 1
        self.rests.clear()
        with suppress(asyncio.IncompleteReadError, ConnectionError, RuntimeError):  # the client may leave at any moment
            await self._serve(reader, writer)
        writer.close()
        self.serving -= 1
        if not self.serving:
            self.rests.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ambush = ""
        while True:
            if ambush == "close at rest":
                break
            first = await reader.readexactly(1)
            if ambush in ("close", "reset"):
                break
            head = (first + await reader.readuntil(b"\r\n\r\n")).decode()
            fields = dict(line.split(": ", 1) for line in head.splitlines()[1:-1])
            size, number = int(fields["content-length"]), int(fields["x-number"])
            if await reader.readexactly(size) != b"%d," % number * (size // len(b"%d," % number)):
                self.wrong.append(f"the body of {number} came otherwise")
            if ambush:
                break
            self.seen[fields["x-number"]] += 1
            plan, chance = draw(number), random.Random(number)
            answer, place = write_answer(plan, chance), 0
            while place < len(answer):
                step = chance.choice(plan.sizes)
                if plan.behind and place + step > len(answer) - len(plan.behind) - 1:
                    step = len(answer)
                writer.write(answer[place : place + step])
                place += step
                await writer.drain()
                await asyncio.sleep(0)
            ambush = "reset" if plan.torn else plan.ambush if plan.keeps else ""
            if not plan.keeps:
                if not plan.torn and plan.framing != "end" and await reader.read(1):
                    self.wrong.append(f"another request came behind {number}")
                break
        if ambush.startswith("reset") and not writer.transport.is_closing():
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


class Clients:
    """Sends requests and checks the replies."""

    def __init__(self, upstream: HttpTransport, port: int) -> None:
        self._upstream = upstream
        self._address = f"http://127.0.0.1:{port}"
        self._numbers = iter(range(EXCHANGES))
        self._chance = random.Random(SEED)
        self.wrong: list[str] = []
        self.outcomes: Counter[str] = Counter()

    async def work(self) -> None:
        for number in self._numbers:
            plan, leaves = draw(number), self._chance.random() < 0.1
            asking = asyncio.ensure_future(self._ask(number, plan, leaves=leaves))
            if leaves and self._chance.random() < 0.5:
                await asyncio.sleep(self._chance.choice((0, 0.001, 0.01)))
                asking.cancel()
            await asyncio.wait([asking])
            outcome = "left" if asking.cancelled() else asking.result()
            self.outcomes[outcome] += 1
            if outcome == "broken" and not plan.torn:
                self.wrong.append(f"{number} failed: {plan.framing}")
            if outcome == "whole" and plan.torn:
                self.wrong.append(f"{number} was taken for whole")

    async def _ask(self, number: int, plan: Plan, *, leaves: bool) -> str:
        body = b"%d," % number * self._chance.choice((1, 100, 20_000))
        request = UpstreamRequest(path="/", body=body, headers={"x-number": str(number)})
        received = b""
        try:
            response = await self._upstream.send(bound(self._address, request))
            try:
                while piece := await response.read():
                    received += piece
                    if leaves:
                        return "left"
            finally:
                await response.close()
        except UpstreamError:
            return "broken"
        finally:
            if not plan.text.startswith(received):
                self.wrong.append(f"{number} received {received[:40]!r}…")
        if received != plan.text:
            self.wrong.append(f"{number} received {len(received)} of {len(plan.text)} bytes")
        return "whole"


@pytest.mark.slow
@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, new_event_loop], ids=["asyncio", "as the server has"])
def test_nothing_is_torn_or_mixed_up_by_a_server_that_breaks_off_wherever_it_can(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def run() -> None:
        server, upstream = Server(), HttpTransport(PATIENCE_SECONDS)
        listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, backlog=4 * CLIENTS)
        clients = Clients(upstream, listener.sockets[0].getsockname()[1])
        async with asyncio.timeout(PATIENCE_SECONDS):
            await asyncio.gather(*(clients.work() for _ in range(CLIENTS)))
            await upstream.close()
            await server.rests.wait()  # every connection has ended
        listener.close()
        assert not server.wrong + clients.wrong
        assert clients.outcomes["whole"] > EXCHANGES // 2
        assert clients.outcomes["broken"] > EXCHANGES // 20
        assert max(server.seen.values()) == 1, "what a provider may have begun was asked again"

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(run())
