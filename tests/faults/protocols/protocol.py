"""The messages that every wire can be asked to write, and the words that all of them send."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

PIECES = ("Über ", "den ", "Wolken")
"""Text of the model; the first letter takes two bytes, so that it can be cut in two."""
BEGUN = PIECES[0]
WHOLE = "".join(PIECES)
USAGE = b"7"
"""The number of tokens in every count, as JSON has it."""
ANSWERED: Mapping[str, bytes] = {
    "/api/tags": b'{"models":[{"name":"llama3:latest","size":1}]}',
    "/api/show": b'{"capabilities":["completion","tools"],"model_info":{"llama.context_length":8192}}',
}
"""Questions beside the request itself, which no row is about."""


def literal(text: str) -> bytes:
    """Return a text as a JSON string."""
    return json.dumps(text, ensure_ascii=False).encode()


@dataclass(frozen=True)
class ProviderProtocol:
    """One wire, as one provider speaks it."""

    name: str
    """As tables call it: `chat`."""
    provider: str
    """Voices of the same provider share an address, and are asked one after the other."""
    model: str
    """Model that the client asks for."""
    address: str
    """The setting with the address. The text after it is the path below the address."""
    path: str = ""
    settings: tuple[tuple[str, str], ...] = ()
    framing: Literal["sse", "ndjson"] = "sse"

    def serves_path(self, path: str) -> bool:
        """Return whether a request with this path is meant for this protocol."""
        raise NotImplementedError

    def streams(self, path: str, body: Any) -> bool:
        """Return whether a stream was asked for."""
        return bool(body.get("stream"))

    def frame(self, data: bytes) -> bytes:
        """Return one record of a stream."""
        return b"data: " + data + b"\n\n"

    def opening(self) -> bytes:
        """Return the beginning of a stream, before any text of the model."""
        return b""

    def words(self, content: bytes) -> bytes:
        """Return the record of a fragment; `content` is a JSON string."""
        raise NotImplementedError

    def calling(self) -> bytes:
        """Return the beginning of a tool call, with half of its arguments; with all of them where calls come whole."""
        raise NotImplementedError

    def ending(self, count: bytes | None = USAGE) -> bytes:
        """Return the end that marks a stream as complete; `count` stands in every place for a number of tokens."""
        raise NotImplementedError

    def body(self, content: bytes, count: bytes | None = USAGE) -> bytes:
        """Return a reply that is not streamed."""
        raise NotImplementedError

    def error(self, status: int, message: str) -> bytes:
        """Return the body of a refusal."""
        raise NotImplementedError

    def fault(self, message: str, *, overloaded: bool) -> bytes:
        """Return the body of an error that comes as a success."""
        raise NotImplementedError

    def broken(self, message: str, *, overloaded: bool) -> bytes:
        """Return the record of an error inside a stream that began well."""
        return self.frame(self.fault(message, overloaded=overloaded))


def as_json(value: Any) -> bytes:
    """Return a value as JSON without spaces."""
    return json.dumps(value, separators=(",", ":")).encode()
