"""A TCP relay in front of a server, which can be frozen: connections stay open, and nothing is forwarded."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class FreezableRelay:
    def __init__(self, host: str, port: int) -> None:
        self._server = host, port
        self._moves = threading.Event()
        self._moves.set()
        self.listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        port: int = self.listener.getsockname()[1]
        return port

    def freeze(self) -> None:
        self._moves.clear()

    def thaw(self) -> None:
        self._moves.set()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                self._moves.wait()
                server = socket.create_connection(self._server)
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=self._forward, args=(source, target), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                self._moves.wait()
                target.sendall(data)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@contextmanager
def relaying(host: str, port: int) -> Iterator[FreezableRelay]:
    relay = FreezableRelay(host, port)
    try:
        yield relay
    finally:
        relay.thaw()
        relay.listener.close()
