"""The provider of the bench: a server on a bare protocol that speaks every wire, with replies built beforehand.

Run as a process of its own: `python -m bench.upstream PORT`.
"""

import asyncio
import re
import sys
from typing import cast

import uvloop

from bench.bodies import MARKER
from bench.replies import Wanted, read_wanted, stream_reply, whole_reply
from bench.wires import answer_about_models, answer_in

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_MODEL = re.compile(rb'"model": ?"([^"]+)"')
_MODEL_IN_PATH = re.compile(rb"/models/([^:/ ]+):")
_REFUSAL = b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"


class Connection(asyncio.Protocol):
    """One connection; requests come one after the other."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.buffer = bytearray()
        self.expected = 0
        self.timer: asyncio.TimerHandle | None = None

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
        line = request[: request.index(b"\r\n")]
        path = line.split(b" ")[1].decode()
        model = _MODEL_IN_PATH.search(line) or _MODEL.search(request)
        if about := answer_about_models(path):
            self.transport.write(about)
        elif request.startswith(b"GET "):
            self.transport.write(whole_reply())
        elif model is None or MARKER.encode() not in request:
            error = b'{"error":{"message":"The last message did not arrive.","type":"invalid_request_error"}}'
            self.transport.write(_REFUSAL % (len(error), error))
        else:
            wanted = read_wanted(model[1].decode())
            if answer := answer_in(path, wanted):
                self.transport.write(answer)
            elif not wanted.pieces:
                self.transport.write(whole_reply())
            elif wanted.pause:
                self.pace(wanted, 0, asyncio.get_running_loop().time())
            else:
                self.transport.write(b"".join(stream_reply(wanted)))

    def pace(self, wanted: Wanted, place: int, due: float) -> None:
        pieces = stream_reply(wanted)
        self.transport.write(pieces[place])
        if place + 1 < len(pieces):
            due += wanted.pause
            self.timer = asyncio.get_running_loop().call_at(due, self.pace, wanted, place + 1, due)


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", port, backlog=1024)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
