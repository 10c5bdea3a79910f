"""The provider of the bench: a server on a bare protocol that speaks every wire, with replies built beforehand.

Run as a process of its own: `python -m bench.upstream PORT`.
"""

import asyncio
import re
import sys
from functools import cache
from typing import cast

import uvloop

from bench.bodies import MARKER
from bench.replies import Wanted, read_wanted
from bench.wires import ALL, Wire, encode

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_MODEL = re.compile(rb'"model": ?"([^"]+)"')
_MODEL_IN_PATH = re.compile(rb"/models/([^:/ ]+):")
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nTransfer-Encoding: chunked\r\n\r\n"
_TOGETHER = 2
"""Events of a burst that one write holds. With one each it would be the receiver's luck how many it finds in a read:
on an idle machine one, on a busy one five, and everybody's cost would follow."""
_WHOLE = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"


class Connection(asyncio.Protocol):
    """One connection; requests come one after the other."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.buffer = bytearray()
        self.expected = 0
        self.timer: asyncio.Handle | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        if self.timer:
            self.timer.cancel()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if not self.expected:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            length = _LENGTH.search(self.buffer[:end])
            self.expected = end + 4 + (int(length[1]) if length else 0)
        if len(self.buffer) >= self.expected:
            request = bytes(self.buffer[: self.expected])
            del self.buffer[: self.expected]
            self.expected = 0
            self.answer(request)

    def answer(self, request: bytes) -> None:
        path = request[: request.index(b"\r\n")].split(b" ")[1].decode()
        if request.startswith(b"GET ") or path == "/api/show":
            self.transport.write(_about_models(path))
            return
        wire = next((wire for wire in ALL if path.startswith(wire.begins)), None)
        model = _MODEL_IN_PATH.search(path.encode()) or _MODEL.search(request)
        if wire is None or model is None or MARKER.encode() not in request:
            error = encode({"error": {"message": f"At {path} the last message did not arrive.", "type": "bench"}})
            self.transport.write(_WHOLE % (b"400 Bad Request", len(error), error))
            return
        wanted = read_wanted(model[1].decode())
        parts = _answer(wire, wanted)
        if len(parts) == 1:
            self.transport.write(parts[0])
        else:
            self.pace(parts, 0, wanted.pause, asyncio.get_running_loop().time())

    def pace(self, parts: list[bytes], place: int, pause: float, due: float) -> None:
        """Send a part; the next one after the pause, or in the loop's next turn."""
        self.transport.write(parts[place])
        if place + 1 < len(parts):
            loop, due = asyncio.get_running_loop(), due + pause
            if pause:
                self.timer = loop.call_at(due, self.pace, parts, place + 1, pause, due)
            else:
                self.timer = loop.call_soon(self.pace, parts, place + 1, pause, due)


@cache
def _answer(wire: Wire, wanted: Wanted) -> list[bytes]:
    if not wanted.pieces:
        body = wire.body(wanted)
        return [_WHOLE % (b"200 OK", len(body), body)]
    kind = b"application/x-ndjson" if wire.name == "Ollama" else b"text/event-stream; charset=utf-8"
    first, *chunks = [b"%x\r\n%b\r\n" % (len(part), part) for part in wire.parts(wanted)]
    parts = [_HEAD % kind + first, *chunks[:-1], chunks[-1] + b"0\r\n\r\n"]
    together = len(parts) if wanted.packed else 1 if wanted.pause else _TOGETHER
    return [b"".join(parts[place : place + together]) for place in range(0, len(parts), together)]


@cache
def _about_models(path: str) -> bytes:
    """Return the answer about models: Ollama's in its own form, an empty one for every other provider."""
    known = {"general.architecture": "bench", "bench.context_length": 131_072}
    shown = {"capabilities": ["completion", "tools"], "model_info": known}
    body = encode(shown if path == "/api/show" else {"models": [], "object": "list", "data": []})
    return _WHOLE % (b"200 OK", len(body), body)


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", port, backlog=1024)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
