"""Faults of a stand-in on any wire: before it answers, or in the middle of its reply.

`late` waits before the answer, `reset` breaks the connection there. In a stream: `silence` waits after the headers,
`stall` after some pieces; `cut` breaks the connection after them, `torn` ends the stream there; other late faults of a
server end the stream with an error text.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping

from aiohttp import web

from tests.support.fakes.model_scripts import Fault

Outcome = tuple[web.StreamResponse, str]
"""Response that was sent, and its name in the journal."""
NO_FAULT = Fault("", "")
_WAITING_SECONDS = 10


def break_connection(request: web.Request) -> None:
    """Break the connection as a network does, without an end."""
    if request.transport is not None:
        request.transport.abort()


async def fail_early(request: web.Request, fault: Fault) -> Outcome | None:
    """Wait where the fault demands it, or break the connection and return that; None: there is an answer."""
    if fault.kind == "late":
        await _wait(fault)
    return _broken(request) if fault.kind == "reset" else None


async def fail_whole(request: web.Request, fault: Fault) -> Outcome | None:
    """Fail a reply that is not streamed as its stream would have failed; None: the server sends an error of its own."""
    if fault.kind in ("stall", "silence"):
        await _wait(fault)
    return _broken(request) if fault.kind in ("cut", "torn") else None


async def send_stream(
    request: web.Request,
    frames: Iterable[bytes],
    headers: Mapping[str, str],
    fault: Fault,
    *,
    pieces: int = 4,
    late: Mapping[str, Callable[[], bytes]] | None = None,
    end: bytes = b"",
) -> Outcome:
    """Write the frames, one packet each, and `end`; fail after so many `pieces`, unless the fault sets the number.

    `late`: further faults that end the stream → the bytes sent then.
    """
    response = web.StreamResponse(headers=headers)
    response.enable_chunked_encoding()
    await response.prepare(request)
    if fault.kind == "silence":
        await _wait(fault)
    last_words = {"torn": bytes, **(late or {})}
    place = int(fault.figure("pieces", pieces))
    for position, frame in enumerate(frames):
        if position == place and fault.kind == "cut":
            break_connection(request)
            return response, "cut"
        if position == place and fault.kind in last_words:
            await response.write(last_words[fault.kind]())
            await response.write_eof()
            return response, "cut"
        if position == place and fault.kind == "stall":
            await _wait(fault)
        await response.write(frame)
    await response.write(end)
    await response.write_eof()
    return response, "answered"


async def _wait(fault: Fault) -> None:
    await asyncio.sleep(fault.figure("seconds", _WAITING_SECONDS))


def _broken(request: web.Request) -> Outcome:
    break_connection(request)
    return web.Response(), "cut"
