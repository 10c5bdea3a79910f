"""Addresses of host names: at most one running look-up for each name, in a thread of its own.

The resolver of the operating system blocks, and nothing can end it. If the name server is silent, a look-up holds its
thread for up to half a minute. With a thread for each name, only that name is concerned. Numeric addresses and
`localhost` need no look-up, so servers on this machine stay reachable without any name server.
"""

import asyncio
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from threading import Lock, Thread
from typing import Any, NamedTuple

AddressInfo = tuple[Any, ...]
"""One result of `socket.getaddrinfo`: family, type, protocol, canonical name, address."""
NameLookup = Callable[..., Sequence[AddressInfo]]
"""Blocking function that looks up a host name, with the signature of `socket.getaddrinfo`."""
MAX_LOOKUP_SECONDS = 15.0
"""Time after its start from which nothing waits for a look-up. The resolver of Linux needs 5 s for each silent name
server before it asks the next one."""
MAX_RUNNING_LOOKUPS = 256
"""Maximum number of names that are looked up at the same time, so of threads."""
_LOCALHOST = "localhost"
_LOOPBACK = tuple(
    (family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address)
    for family, address in ((socket.AF_INET, ("127.0.0.1", 0)), (socket.AF_INET6, ("::1", 0, 0, 0)))
)


class NameServerSilent(OSError):
    """Error: a host name is not looked up in time."""


class _Lookup(NamedTuple):
    started_at: float
    """By the monotonic clock."""
    infos: "Future[Sequence[AddressInfo]]"


class NameLookups:
    """Look-ups that share one limit. Any number of event loops may use them. `lookup` None: `socket.getaddrinfo`."""

    def __init__(self, lookup: NameLookup | None = None) -> None:
        self._lookup = lookup
        self._lock = Lock()
        self._running: dict[str, _Lookup] = {}
        """Host name → its look-up, until it has ended. Later attempts wait for the same one."""

    async def find_addresses(self, host: str, port: int) -> Sequence[AddressInfo]:
        """Raises `OSError` for an unknown name, and `NameServerSilent` if there is no answer within
        `MAX_LOOKUP_SECONDS`.
        """
        infos = find_known_addresses(host)
        if infos is None:
            lookup = self._start(host, port)
            try:
                async with asyncio.timeout(max(lookup.started_at + MAX_LOOKUP_SECONDS - time.monotonic(), 0)):
                    infos = await asyncio.wrap_future(lookup.infos)
            except TimeoutError:
                raise NameServerSilent("the look-up of the host name has no answer") from None
        return [(*info[:4], (info[4][0], port, *info[4][2:])) for info in infos]

    def _start(self, host: str, port: int) -> _Lookup:
        with self._lock:
            if (running := self._running.get(host)) is not None:
                return running
            if len(self._running) >= MAX_RUNNING_LOOKUPS:
                raise NameServerSilent(f"the name server has not answered for {len(self._running)} other hosts")
            started = self._running[host] = _Lookup(time.monotonic(), Future())
        started.infos.set_running_or_notify_cancel()  # an attempt that ends does not cancel it for the others

        def run() -> None:
            look_up = self._lookup or socket.getaddrinfo
            try:
                infos = look_up(host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
            except BaseException as error:  # noqa: BLE001  # for the attempts that wait
                self._end(host)
                started.infos.set_exception(error)
            else:
                self._end(host)
                started.infos.set_result(infos)

        try:
            Thread(target=run, name="names", daemon=True).start()  # a daemon, so that the process can end
        except RuntimeError:  # of the system, which has too many
            self._end(host)
            started.infos.set_exception(NameServerSilent("no thread for the look-up of the host name"))
        return started

    def _end(self, host: str) -> None:
        with self._lock:
            del self._running[host]


NAMES = NameLookups()
"""Look-ups of the hosts in settings. Names that clients and models choose have others, so that they cannot use up the
limit."""


def find_known_addresses(host: str) -> Sequence[AddressInfo] | None:
    """Return the addresses of a numeric address, also with a zone, and of `localhost` (RFC 6761, section 6.3).

    None: the host name has to be looked up.
    """
    if (name := host.rstrip(".").lower()) == _LOCALHOST or name.endswith(f".{_LOCALHOST}"):
        return _LOOPBACK
    try:
        return socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        return None
