"""A provider that fails on request: a socket server that plays a script on every connection."""

import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

from tests.faults.call import GUARD_SECONDS, Call, Script
from tests.faults.protocols import ProviderProtocol

_SEND_BYTES = 65_536
"""Small, so that bytes accepted by the operating system are sent soon."""
_MAX_BACKLOG = 64


class FaultyUpstream:
    """The address of one provider, and its connections.

    `protocols`: the wires that it serves. Each connection executes the next script, later ones the last script.
    """

    def __init__(self, protocols: Sequence[ProviderProtocol]) -> None:
        self.protocols = protocols
        self.changed = threading.Condition(threading.RLock())
        self.calls: list[Call] = []
        """The connections since the last `play`, in order."""
        self.asked = 0
        """Requests since the last `play`; where a script does not listen at first, connections."""
        self.words_came = threading.Event()
        """Set by the client once it has the first words of a stream."""
        self._scripts: Sequence[Script] = ((Call.receive, Call.wait),)  # the proxy asks about models at its start
        self._fillers: list[socket.socket] = []
        self._place: tuple[str, int] = ("127.0.0.1", 0)
        self._listener = self._bind()
        self._place = self._listener.getsockname()
        self.address = f"127.0.0.1:{self._place[1]}"
        self._accept_from(_MAX_BACKLOG)

    def play(self, *scripts: Script) -> None:
        """Drop all records, and execute these scripts from the next connection on."""
        with self.changed:
            self._scripts = scripts
            self.calls = []
            self.asked = 0
            self.words_came.clear()

    def forget(self, call: Call) -> None:
        """Leave a connection out that no row is about."""
        with self.changed:
            if call in self.calls:
                self.calls.remove(call)

    def wait_for(self, fact: Callable[[], bool], seconds: float = GUARD_SECONDS) -> bool:
        """Wait until a fact about a call is true. Return False if it is not true in time."""
        with self.changed:
            return self.changed.wait_for(fact, seconds)

    def settle(self) -> bool:
        """Wait until every connection has ended; return whether the other side closed all that we left open."""
        return self.wait_for(lambda: not any(call.open for call in self.calls))

    def refuse(self) -> None:
        """Stop listening on the port, so that connections to it are refused."""
        self._stop_listening()
        self._listener = self._bind()

    def overflow(self) -> None:
        """Let connections wait in a full queue: nothing ever answers the first packet."""
        self._stop_listening()
        self._listener = self._bind()
        self._listener.listen(0)
        for _ in range(2):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(self._place)
            self._fillers.append(filler)

    def recover(self) -> None:
        """Accept connections again."""
        self._stop_listening()
        self._listener = self._bind()
        self._accept_from(_MAX_BACKLOG)

    def close(self) -> None:
        """End everything."""
        self._stop_listening()
        with self.changed:
            for call in self.calls:
                call.stop()

    def _bind(self) -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(self._place)
        return listener

    def _accept_from(self, backlog: int) -> None:
        self._listener.listen(backlog)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _stop_listening(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._listener.close()
        for filler in self._fillers:
            filler.close()
        self._fillers = []

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.settimeout(GUARD_SECONDS)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)
            with self.changed:
                call = Call(self, connection)
                script = self._scripts[min(len(self.calls), len(self._scripts) - 1)]
                self.calls.append(call)
                if script[0] is not Call.receive:
                    self.asked += 1
                self.changed.notify_all()
            threading.Thread(target=call.play, args=(script,), daemon=True).start()
