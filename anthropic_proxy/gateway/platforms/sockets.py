"""Listening sockets, events of sockets without an asyncio transport, and the process that occupies a port.

asyncio on Windows cannot watch such sockets. There, a thread of `SocketEvents` waits for the events with `select`, and
the callbacks are then called in the event loop.
"""

import asyncio
import os
import selectors
import socket
import struct
import sys
import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from msgspec import Struct

Callback = Callable[[], object]

if sys.platform == "win32":

    class SocketEvents:
        """Callbacks in one event loop for events of several sockets, found by a thread that calls `select`. The thread
        starts with the first callback and ends after the last one, or with the process.
        """

        def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
            self._loop = loop
            self._callbacks: dict[tuple[socket.socket, int], Callback] = {}
            """Socket and event (`EVENT_READ` or `EVENT_WRITE`) → callback. Replaced as a whole, never changed."""
            self._lock = threading.Lock()
            self._wake: socket.socket | None = None
            """Socket by which the thread is notified of a change of `_callbacks`. None: the thread does not run."""
            self._handled = threading.Event()

        def on_readable(self, source: socket.socket, callback: Callback) -> None:
            """`callback` is called in the event loop, until `ignore_readable`."""
            self._set(source, selectors.EVENT_READ, callback)

        def ignore_readable(self, source: socket.socket) -> None:
            """Call this before the socket is closed. It is allowed without `on_readable`."""
            self._set(source, selectors.EVENT_READ, None)

        def on_writable(self, source: socket.socket, callback: Callback) -> None:
            self._set(source, selectors.EVENT_WRITE, callback)

        def ignore_writable(self, source: socket.socket) -> None:
            self._set(source, selectors.EVENT_WRITE, None)

        def _set(self, source: socket.socket, event: int, callback: Callback | None) -> None:
            with self._lock:
                callbacks = {key: known for key, known in self._callbacks.items() if key != (source, event)}
                if callback is not None:
                    callbacks[source, event] = callback
                self._callbacks = callbacks
                if self._wake is None and callbacks:
                    self._wake, woken = socket.socketpair()
                    self._wake.setblocking(False)
                    threading.Thread(target=self._watch, args=(woken,), name="socket-events", daemon=True).start()
                elif self._wake is not None:
                    with suppress(BlockingIOError):  # notified often enough
                        self._wake.send(b"w")

        def _watch(self, woken: socket.socket) -> None:
            while callbacks := self._get_callbacks(woken):
                try:
                    ready = _select(woken, callbacks)
                except (OSError, ValueError):  # a socket was closed meanwhile
                    continue
                if (woken, selectors.EVENT_READ) in ready:
                    woken.recv(4096)
                if due := [key for key in callbacks if key in ready]:
                    self._handled.clear()
                    try:
                        self._loop.call_soon_threadsafe(self._call, due)
                    except RuntimeError:  # the event loop is closed
                        self._callbacks = {}
                    else:
                        self._handled.wait()

        def _get_callbacks(self, woken: socket.socket) -> dict[tuple[socket.socket, int], Callback]:
            """Return the callbacks. If there are none, close the sockets of the thread, which ends then."""
            with self._lock:
                if not self._callbacks and self._wake is not None:
                    self._wake.close()
                    woken.close()
                    self._wake = None
                return self._callbacks

        def _call(self, due: list[tuple[socket.socket, int]]) -> None:
            try:
                for key in due:
                    if (callback := self._callbacks.get(key)) is not None:
                        callback()
            finally:
                self._handled.set()

    def _select(woken: socket.socket, watched: Collection[tuple[socket.socket, int]]) -> set[tuple[object, int]]:
        """Wait for an event of one of the sockets, or until `woken` is readable. Return sockets with their events."""
        with selectors.DefaultSelector() as selector:
            selector.register(woken, selectors.EVENT_READ)
            for source in {source for source, _ in watched if source.fileno() >= 0}:
                selector.register(source, sum(event for each, event in watched if each is source))
            found = selector.select()
        return {
            (key.fileobj, event)
            for key, events in found
            for event in (selectors.EVENT_READ, selectors.EVENT_WRITE)
            if events & event
        }

else:

    class SocketEvents:
        """Callbacks in one event loop for events of sockets, by `add_reader` and `add_writer` of the loop."""

        def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
            self._loop = loop

        def on_readable(self, source: socket.socket, callback: Callback) -> None:
            """Call `callback` in the event loop whenever the socket is readable, until `ignore_readable`."""
            self._loop.add_reader(source.fileno(), callback)

        def ignore_readable(self, source: socket.socket) -> None:
            """Call this before the socket is closed. It is allowed without `on_readable`."""
            self._loop.remove_reader(source.fileno())

        def on_writable(self, source: socket.socket, callback: Callback) -> None:
            self._loop.add_writer(source.fileno(), callback)

        def ignore_writable(self, source: socket.socket) -> None:
            self._loop.remove_writer(source.fileno())


def reserve_address(listener: socket.socket) -> None:
    """Set the options of an unbound socket so that no other running program shares its address."""
    if sys.platform == "win32":
        # SO_REUSEADDR would permit the address of a running program on Windows
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
    else:
        # the address of a program that has just ended can be used again
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)


PORT_OWNER_COMMANDS = {
    "linux": "ss -ltnp sport = :{port}",
    "darwin": "lsof -nP -iTCP:{port} -sTCP:LISTEN",
    "win32": "Get-Process -Id (Get-NetTCPConnection -State Listen -LocalPort {port}).OwningProcess",
}
"""`sys.platform` → command with which a user finds the owner of a port. On Windows: in PowerShell."""
_PROC = Path("/proc")
_OF_ALL_INTERFACES = {"": ("127.0.0.1",), "0.0.0.0": ("127.0.0.1",), "::": ("127.0.0.1", "::1")}
"""Listen address for all interfaces → loopback addresses."""


class PortOwner(Struct, frozen=True):
    pid: int
    name: str


class _Listener(Struct, frozen=True):
    """A listening TCP socket of this machine."""

    address: IPv4Address | IPv6Address
    user: int
    inode: str


def _list_listeners(port: int, proc_directory: Path) -> list[_Listener]:
    """Return the sockets that listen on a port. Empty: there is none, or the system has no `/proc`."""
    found = []
    for table in ("tcp", "tcp6"):
        try:
            lines = (proc_directory / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for columns in map(str.split, lines):
            # column `st` of a listening socket: 0A (proc_pid_net(5))
            local = columns[1]
            state = columns[3]
            user = columns[7]
            inode = columns[9]
            address, _, number = local.rpartition(":")
            if state == "0A" and int(number, 16) == port:
                words = [int(address[place : place + 8], 16) for place in range(0, len(address), 8)]
                packed = ip_address(struct.pack(f"={len(words)}I", *words))  # words in the order of this machine
                found.append(_Listener(getattr(packed, "ipv4_mapped", None) or packed, int(user), inode))
    return found


def list_called_hosts(listen_host: str) -> Collection[str]:
    """Return the addresses of this machine at which a server with this listen address can be called."""
    return _OF_ALL_INTERFACES.get(listen_host, (listen_host,))


def format_url(host: str, port: int, *, uses_tls: bool = False) -> str:
    """A wildcard address (`0.0.0.0`, `::`) becomes `localhost`."""
    if host in ("", "0.0.0.0", "::"):
        host = "localhost"
    scheme = "https" if uses_tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def find_port_owner(port: int, proc_directory: Path = _PROC) -> PortOwner | None:
    """Return the process that listens on a TCP port. None: unknown, for example on macOS and Windows, or for a process
    of another user.
    """
    sockets = {f"socket:[{one.inode}]" for one in _list_listeners(port, proc_directory)}
    if not sockets:
        return None
    for directory in proc_directory.glob("[0-9]*"):
        try:
            if any(str(entry.readlink()) in sockets for entry in (directory / "fd").iterdir()):
                return PortOwner(int(directory.name), (directory / "comm").read_text().strip())
        except OSError:  # another user's process, or one that has ended
            continue
    return None


def find_foreign_user(host: str, port: int, proc_directory: Path = _PROC) -> str:
    """Return the user whose process accepts connections to `host`, if it is neither the user of this process nor root.

    "": it is one of these two, or the user is unknown, as on macOS and Windows. If no process listens, as for the port
    of a container, it is a rule of the kernel, which only root can set.
    """
    if sys.platform == "win32":
        return ""
    import pwd  # noqa: PLC0415  # Windows has no such module

    reached = {ip_address("0.0.0.0"), ip_address("::")}  # sockets that accept connections to every address
    with suppress(OSError):
        for *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            reached.add(ip_address(str(address[0]).partition("%")[0]))
    for listener in _list_listeners(port, proc_directory):
        if listener.address in reached and listener.user not in (os.geteuid(), 0):
            try:
                return pwd.getpwuid(listener.user).pw_name
            except KeyError:
                return f"user {listener.user}"
    return ""
