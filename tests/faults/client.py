"""A client on a bare socket, which sees every byte of an answer and can fail itself."""

import json
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.faults.call import GUARD_SECONDS, RESET
from tests.faults.protocols import ProviderProtocol
from tests.support.event_grammar import check_bytes

WORDS = b'"content_block_delta"'
"""Marker of the first event that holds some of the model's output."""
_READ_BYTES = 65_536


@dataclass
class Answer:
    """Everything received until the answer was complete or the connection ended."""

    status: int = 0
    """0: nothing came."""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    complete: bool = False
    """True if the body ended as its head had announced."""
    hung: bool = False
    """True if it was given up."""
    seconds: float = 0.0
    """From the request's last byte to the answer's last."""

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events of a stream."""
        found = []
        text = self.body.decode(errors="replace").removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
        for record in text.split("\n\n"):
            data = [line.removeprefix("data:").strip() for line in record.split("\n") if line.startswith("data:")]
            if data:
                found.append(_json_or_none("\n".join(data)))
        return [event for event in found if isinstance(event, dict)]

    @property
    def text(self) -> str:
        if not self.streamed:
            content = (_json_or_none(self.body) or {}).get("content") or ()
            return "".join(block.get("text", "") for block in content)
        return "".join(
            event["delta"].get("text", "") for event in self.events if event["type"] == "content_block_delta"
        )

    @property
    def streamed(self) -> bool:
        return self.headers.get("content-type", "").startswith("text/event-stream")

    @property
    def error(self) -> dict[str, Any]:
        """The error of the envelope, or of the stream's last event; empty: there is none."""
        last = (self.events or [{}])[-1] if self.streamed else _json_or_none(self.body) or {}
        return dict(last.get("error") or {}) if last.get("type") == "error" else {}

    @property
    def stop_reason(self) -> str | None:
        if not self.streamed:
            return (_json_or_none(self.body) or {}).get("stop_reason")
        reasons = [event["delta"].get("stop_reason") for event in self.events if event["type"] == "message_delta"]
        ended = any(event["type"] == "message_stop" for event in self.events)
        return str(reasons[-1]) if reasons and ended else None

    @property
    def faults(self) -> list[str]:
        return check_bytes(self.body) if self.streamed else []


class Asking:
    """One request on a connection of its own.

    `on_words` is called once when the first words of a stream have come.
    """

    def __init__(
        self, port: int, on_words: Callable[[], None] | None = None, *, receive_bytes: int | None = None
    ) -> None:
        self._on_words = on_words
        self._socket = socket.socket()
        if receive_bytes is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self._socket.settimeout(GUARD_SECONDS)
        self._socket.connect(("127.0.0.1", port))
        self._data = b""
        self.read_bytes = 0
        self._sent_at = time.monotonic()

    def send(self, *pieces: bytes) -> bool:
        """Send bytes; False where the other side would not have them all."""
        try:
            for piece in pieces:
                self._socket.sendall(piece)
        except OSError:
            return False
        finally:
            self._sent_at = time.monotonic()
        return True

    def read_until(self, mark: bytes) -> bool:
        while mark not in self._data:
            if not self._read():
                return False
        return True

    def read_answer(self) -> Answer:
        """Read one whole answer."""
        answer = Answer()
        try:
            self._read_into(answer)
        except TimeoutError:
            answer.hung = True
        answer.seconds = time.monotonic() - self._sent_at
        return answer

    def reset(self) -> None:
        """Break the connection."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self._socket.close()

    def close(self) -> None:
        """Leave, also in the middle."""
        self._socket.close()

    def _read(self) -> bool:
        try:
            data = self._socket.recv(_READ_BYTES)
        except ConnectionError:
            return False
        self.read_bytes += len(data)
        self._data += data
        if self._on_words is not None and WORDS in self._data:
            self._on_words()
            self._on_words = None
        return bool(data)

    def _read_into(self, answer: Answer) -> None:
        while b"\r\n\r\n" not in self._data:
            if not self._read():
                return
        head, _, self._data = self._data.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        answer.status = int(lines[0].split(" ")[1])
        pairs = (line.partition(":") for line in lines[1:])
        answer.headers = {name.lower(): value.strip() for name, _, value in pairs}
        if "chunked" in answer.headers.get("transfer-encoding", ""):
            pieces: list[bytes] = []
            answer.complete = self._read_chunks(pieces)
            answer.body = b"".join(pieces)
            return
        length = int(answer.headers.get("content-length", 0))
        while len(self._data) < length and self._read():
            pass
        answer.body, answer.complete = self._data[:length], len(self._data) >= length

    def _read_chunks(self, pieces: list[bytes]) -> bool:
        while True:
            while b"\r\n" not in self._data:
                if not self._read():
                    return False
            line, _, self._data = self._data.partition(b"\r\n")
            size = int(line, 16)
            while len(self._data) < size + 2:
                if not self._read():
                    pieces.append(self._data)
                    return False
            pieces.append(self._data[:size])
            self._data = self._data[size + 2 :]
            if not size:
                return True


def request_of(protocol: ProviderProtocol, *, streams: bool, **fields: Any) -> dict[str, Any]:
    message = {"role": "user", "content": "Sing."}
    return {"model": protocol.model, "max_tokens": 20_000, "stream": streams, "messages": [message], **fields}


def encode_request(body: dict[str, Any] | bytes, headers: Iterable[str] = ()) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return head_of(f"Content-Length: {len(data)}", *headers) + data


def head_of(*headers: str) -> bytes:
    lines = ["POST /v1/messages HTTP/1.1", "Host: localhost", "Content-Type: application/json", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def _json_or_none(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
