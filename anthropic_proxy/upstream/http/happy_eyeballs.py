"""Connection to the first of several addresses that accepts one (Happy Eyeballs, RFC 8305, section 5).

asyncio has this only in its own loop's `create_connection`: uvloop supports no delay there, and neither loop accepts
sockets with options that must be set before they connect.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest
from typing import Any

AddressInfo = tuple[Any, ...]
"""One result of `socket.getaddrinfo`: family, type, protocol, canonical name, address."""
SocketFactory = Callable[[AddressInfo], socket.socket]


async def connect_first(
    addresses: Sequence[AddressInfo], new_socket: SocketFactory, *, delay_seconds: float
) -> socket.socket:
    """Return a non-blocking socket that is connected to one of the addresses. Raise `OSError` if none accepts.

    The next address is tried when an attempt fails, or `delay_seconds` after the start of the last attempt.
    """
    if len(addresses) == 1:
        return await _connect(addresses[0], new_socket)
    waiting, errors = deque(_interleave(addresses)), []
    running: set[asyncio.Task[socket.socket]] = set()
    try:
        while waiting or running:
            if waiting:
                running.add(asyncio.create_task(_connect(waiting.popleft(), new_socket)))
            timeout = delay_seconds if waiting else None
            done, _ = await asyncio.wait(running, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            for attempt in done:
                running.remove(attempt)
                try:
                    return attempt.result()
                except OSError as error:
                    errors.append(error)
    finally:
        for attempt in running:
            attempt.cancel()
            attempt.add_done_callback(_close_result)
    raise _combine(errors)


async def _connect(info: AddressInfo, new_socket: SocketFactory) -> socket.socket:
    opened = new_socket(info)
    try:
        opened.setblocking(False)
        await asyncio.get_running_loop().sock_connect(opened, info[4])
    except BaseException:
        opened.close()
        raise
    return opened


def _interleave(addresses: Iterable[AddressInfo]) -> list[AddressInfo]:
    """Return the addresses with alternating families (RFC 8305, section 4), each family in its own order."""
    families: dict[int, list[AddressInfo]] = {}
    for info in addresses:
        families.setdefault(info[0], []).append(info)
    return [info for rank in zip_longest(*families.values()) for info in rank if info is not None]


def _close_result(attempt: "asyncio.Task[socket.socket]") -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()


def _combine(errors: Sequence[OSError]) -> OSError:
    """Return one error for all attempts: the first one if they share an error number."""
    if not errors:
        return OSError("the host name has no address")
    if len({error.errno for error in errors}) == 1:
        return errors[0]
    return OSError(", ".join(map(str, errors)))
