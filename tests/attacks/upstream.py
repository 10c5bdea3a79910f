"""A provider for attacks: it answers every wire's request with a reply that the attack chooses."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tests.faults.protocols import ANSWERED, PROTOCOLS, ProviderProtocol, literal

_READ_BYTES = 262_144
_GUARDRAIL_PATH = "/beta/litellm_basic_guardrail_api"


@dataclass(frozen=True)
class UpstreamCall:
    """One request that reached the provider."""

    protocol: ProviderProtocol
    streaming: bool
    body: Any = None
    path: str = ""
    """With the query."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Names in lower case. Of a repeated header, the last value."""
    raw: bytes = b""


Reply = Callable[[UpstreamCall], bytes | Iterable[bytes]]
"""Build the complete response, head included: its bytes, or its pieces, which arrive one after the other."""
_PAUSE_SECONDS = 0.005


def respond(body: bytes, content_type: str = "application/json", head: bytes = b"", status: int = 200) -> bytes:
    """Return a response with a length."""
    return (
        b"HTTP/1.1 %d X\r\ncontent-type: %b\r\n%bcontent-length: %d\r\n\r\n"
        % (status, content_type.encode(), head, len(body))
    ) + body


def list_texts(value: Any) -> Iterable[str]:
    """Yield the texts in a value of JSON, such as the body of a call."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from list_texts(inner)


def reply_text(text: str, fragments: int = 1) -> Reply:
    """Return a reply with the text `text`, cut into about `fragments` deltas if it is streamed."""

    def build(call: UpstreamCall) -> bytes:
        protocol = call.protocol
        if not call.streaming:
            return respond(protocol.body(literal(text)))
        size = max(1, -(-len(text) // fragments))
        pieces = [text[start : start + size] for start in range(0, len(text), size)]
        body = protocol.opening + b"".join(protocol.words(literal(piece)) for piece in pieces) + protocol.ending()
        kind = "application/x-ndjson" if protocol.framing == "ndjson" else "text/event-stream"
        return respond(body, kind)

    return build


class AttackUpstream:
    """Listens on a loopback port; serves each connection in a thread."""

    def __init__(self) -> None:
        self.reply: Reply = reply_text("All is well.")
        self.guardrail = respond(b'{"action":"NONE"}')
        """Answer of the guardrail service at the same address."""
        self.calls: list[UpstreamCall] = []
        """Requests with a body so far."""
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Stop accepting connections."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError, ValueError):
            file = connection.makefile("rb", buffering=_READ_BYTES)
            while line := file.readline():
                path = line.split(b" ")[1].decode()
                headers = {}
                while (header := file.readline()) not in (b"\r\n", b""):
                    name, _, value = header.decode("latin-1").partition(":")
                    headers[name.strip().lower()] = value.strip()
                body = file.read(int(headers.get("content-length", 0)))
                answer = self._answer(path, headers, body)
                if isinstance(answer, bytes):
                    connection.sendall(answer)
                    continue
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for piece in answer:
                    connection.sendall(piece)
                    time.sleep(_PAUSE_SECONDS)
                if not isinstance(answer, list):  # its head states no length
                    return

    def _answer(self, path: str, headers: Mapping[str, str], raw: bytes) -> bytes | Iterable[bytes]:
        if path in ANSWERED:
            return respond(ANSWERED[path])
        if path == _GUARDRAIL_PATH:
            return self.guardrail
        body: Any = {}
        with suppress(ValueError):  # telemetry and files have other forms
            body = json.loads(raw)
        if not isinstance(body, dict):
            body = {}
        protocol = next((protocol for protocol in PROTOCOLS if protocol.serves_path(path)), PROTOCOLS[0])
        call = UpstreamCall(protocol, protocol.streams(path, body), body, path, headers, raw)
        self.calls.append(call)
        return self.reply(call)
