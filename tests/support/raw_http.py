"""HTTP on a bare socket: the test defines every byte that is sent, and receives every byte of the answer."""

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.support.waiting import WAIT_SECONDS

_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked\r\n", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


@dataclass(frozen=True)
class Answer:
    """One answer as it came."""

    status: int
    """0: nothing came."""
    head: bytes = b""
    body: bytes = b""
    whole: bool = False
    """True if the body ended as its head had announced."""

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def post(path: str, body: Any, headers: Mapping[str, str] | None = None) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = {"Host": "localhost", "Content-Length": str(len(data)), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + data


async def exchange(port: int, *pieces: bytes, pause: float = 0.0, received: bytearray | None = None) -> bytes:
    """Send pieces and return all that comes until the server hangs up. It is added to `received` as it comes."""
    received = bytearray() if received is None else received
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(pause)
            while data := await reader.read(65_536):
                received += data
            return bytes(received)
    except ConnectionError:
        return b""
    finally:
        writer.close()


def read_answer(received: bytes) -> Answer:
    """Return the first response in the received bytes."""
    head, found, body_bytes = received.partition(b"\r\n\r\n")
    if not found:
        return Answer(0, received)
    head += b"\r\n"
    status = int(head.split(b" ", 2)[1])
    if _CHUNKED.search(head):
        body, whole = _unchunk(body_bytes)
        return Answer(status, head, body, whole)
    length = _LENGTH.search(head)
    size = int(length[1]) if length else len(body_bytes)
    return Answer(status, head, body_bytes[:size], len(body_bytes) >= size)


def _unchunk(data: bytes) -> tuple[bytes, bool]:
    body, place = bytearray(), 0
    while True:
        end = data.find(b"\r\n", place)
        if end < 0:
            return bytes(body), False
        size = int(data[place:end], 16)
        if size == 0:
            return bytes(body), data[end:] == b"\r\n\r\n"
        body += data[end + 2 : end + 2 + size]
        if len(data) < end + 4 + size:
            return bytes(body), False
        place = end + 4 + size
