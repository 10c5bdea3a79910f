"""A scripted reply of a model, in terms that belong to no provider. Each backend writes it in its own protocol."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from messages_conformance.rows import SuiteError

STOPS = ("end_turn", "tool_use", "max_tokens", "stop_sequence", "refusal", "context_window", "pause_turn")
"""Reasons for the end of a reply, by the names of the Messages API; `context_window`: the window is full."""
STATUSES: Mapping[str, int] = {
    "invalid_request": 400,
    "context_window": 400,
    "authentication": 401,
    "permission": 403,
    "not_found": 404,
    "too_large": 413,
    "rate_limit": 429,
    "quota": 429,
    "server": 500,
    "gateway": 502,
    "overloaded": 503,
}
"""Kind of an error → its status; protocols may have another. `gateway`: a page of HTML from a server between."""
SIGNATURE = "c2NyaXB0ZWQgc2lnbmF0dXJl"
"""Signature of thinking whose row names none."""
_MAX_SPLIT_CHARACTERS = 20_000
_PIECE = re.compile(r"\s*\S{1,6}|\s+")


@dataclass(frozen=True)
class Pause:
    """Nothing is sent. `alive`: seconds between two signs of life of the protocol, such as pings; 0: there are none."""

    seconds: float
    alive: float = 0
    until: str = ""
    """The pause ends as soon as the client has got an event of this type."""


@dataclass(frozen=True)
class Cut:
    """The stream ends here. `orderly`: with the end of HTTP, but not that of the protocol; else the connection breaks.

    A reply that is not streamed breaks in the middle of its body.
    """

    orderly: bool = False


@dataclass(frozen=True)
class Failure:
    """An error of the provider: instead of a reply, or in its stream."""

    kind: str
    message: str = ""
    """"": the usual text of the provider. `$KEY` stands for the key with which it was called."""
    status: int = 0
    """0: the usual one."""
    retry_after: float | None = None
    is_bare: bool = False
    """In the stream of a protocol with an object for errors, it is a text, as some compatible servers send it."""


Incident = Pause | Cut | Failure
Piece = str | Incident


class _Pieces:
    pieces: tuple[Piece, ...]

    @property
    def whole(self) -> str:
        return "".join(piece for piece in self.pieces if isinstance(piece, str))


@dataclass(frozen=True)
class Text(_Pieces):
    pieces: tuple[Piece, ...]
    citations: tuple[Mapping[str, Any], ...] = ()
    """Citations of the Messages API. Other protocols leave them out."""


@dataclass(frozen=True)
class Thinking(_Pieces):
    pieces: tuple[Piece, ...]
    signature: str = ""
    """In base64. Protocols without such a field leave it out."""


@dataclass(frozen=True)
class Call(_Pieces):
    """A call of a tool. `pieces`: the JSON text of its arguments; protocols without pieces send it whole."""

    name: str
    pieces: tuple[Piece, ...]
    id: str
    tool: int | None = None
    """Place of the tool among those of the request, whose name it gets."""

    @property
    def arguments(self) -> Any:
        """The value of the arguments; {}: the text is empty, or no JSON."""
        try:
            return json.loads(self.whole or "{}")
        except ValueError:
            return {}


Part = Text | Thinking | Call | Incident


@dataclass(frozen=True)
class Usage:
    """Numbers of tokens. `input` contains `cached` and `written`, `output` contains `thinking`."""

    input: int
    output: int
    cached: int = 0
    """Read from a prompt cache."""
    written: int = 0
    """Written to a prompt cache."""
    thinking: int = 0


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What the model says. `parts` are blocks of content, and incidents between them."""

    parts: tuple[Part, ...] = ()
    stop: str = ""
    """One of STOPS. "": tool_use if there is a call, else end_turn."""
    stop_sequence: str = ""
    usage: Usage | None = Usage(input=12, output=5)
    """None: the provider does not say."""
    error: Failure | None = None
    """Sent instead of a reply."""
    delay: float = 0
    """Seconds before the head of the reply."""
    awaits: int = 0
    """Number of calls of the trial that have to be open before it begins."""
    mixes_calls: bool = False
    """The pieces of all calls come alternately, as some servers of Chat Completions send them."""
    names_tier: bool = False
    """The provider says that the request had its usual service tier, in its own word."""

    @property
    def calls(self) -> list[Call]:
        return [part for part in self.parts if isinstance(part, Call)]

    @property
    def follows_request(self) -> bool:
        """Whether it names tools of the request, or repeats its last text in place of `$TEXT`."""
        texts = (part.whole for part in self.parts if isinstance(part, Text))
        return any(call.tool is not None for call in self.calls) or any("$TEXT" in text for text in texts)

    @property
    def reason(self) -> str:
        """The reason for the end, one of STOPS."""
        return self.stop or ("tool_use" if self.calls else "end_turn")

    def has_failure(self) -> bool:
        """Return whether an error or a cut ends the reply early."""
        return any(isinstance(piece, Failure | Cut) for piece in self.pieces())

    def pieces(self) -> Iterator[Piece]:
        """Yield the pieces of all parts, and the incidents, in their order."""
        for part in self.parts:
            if isinstance(part, _Pieces):
                yield from part.pieces
            else:
                yield part


WELL = Reply(parts=(Text(("All ", "is ", "well.")),))
"""The reply to calls that no trial expects."""


def stop_at(reply: Reply, sequences: Sequence[str]) -> Reply:
    """Return a reply that ends before the first of the stop sequences in a text, as models' servers end it."""
    if reply.stop or reply.error:
        return reply
    for number, part in enumerate(reply.parts):
        if not isinstance(part, Text):
            continue
        found = [(place, sequence) for sequence in sequences if (place := part.whole.find(sequence)) >= 0]
        if found:
            place, sequence = min(found)
            kept = replace(part, pieces=tuple(_cut_pieces(part.pieces, place)))
            return replace(reply, parts=(*reply.parts[:number], kept), stop="stop_sequence", stop_sequence=sequence)
    return reply


def keep_one_call(reply: Reply) -> Reply:
    """Return a reply without the calls behind the first one."""
    first = next(iter(reply.calls), None)
    return replace(reply, parts=tuple(x for x in reply.parts if not isinstance(x, Call) or x is first))


def follow_request(reply: Reply, names: Sequence[str], said: str) -> Reply:
    """Return a reply that has these names of the tools of its request, and the last text of the user."""

    def change(part: Part) -> Part:
        if isinstance(part, Text):
            pieces = (piece.replace("$TEXT", said) if isinstance(piece, str) else piece for piece in part.pieces)
            return replace(part, pieces=tuple(pieces))
        if not isinstance(part, Call) or part.tool is None or part.tool >= len(names):
            return part
        return replace(part, name=names[part.tool])

    return replace(reply, parts=tuple(map(change, reply.parts)))


def fill_key(reply: Reply, key: str) -> Reply:
    """Return a reply whose errors name the key of the request."""

    def fill(piece: Piece) -> Piece:
        return replace(piece, message=piece.message.replace("$KEY", key)) if isinstance(piece, Failure) else piece

    def change(part: Part) -> Part:
        if isinstance(part, Failure):
            return replace(part, message=part.message.replace("$KEY", key))
        return replace(part, pieces=tuple(map(fill, part.pieces))) if isinstance(part, _Pieces) else part

    error = reply.error and replace(reply.error, message=reply.error.message.replace("$KEY", key))
    return replace(reply, parts=tuple(map(change, reply.parts)), error=error)


def _cut_pieces(pieces: Sequence[Piece], length: int) -> Iterator[Piece]:
    for piece in pieces:
        if length <= 0:
            return
        if isinstance(piece, str):
            yield piece[:length]
            length -= len(piece)
        else:
            yield piece


def split(text: str) -> tuple[str, ...]:
    """Return a text in pieces of about a token; a long one in few thousand pieces."""
    if len(text) <= _MAX_SPLIT_CHARACTERS:
        return tuple(_PIECE.findall(text))
    size = len(text) // 2_000
    return tuple(text[place : place + size] for place in range(0, len(text), size))


def read_reply(given: Mapping[str, Any], where: str) -> Reply:
    """Return the reply that a row of a check describes. Raises `SuiteError`."""
    return _Reader(where).read(given)


class _Reader:
    def __init__(self, where: str) -> None:
        self._where = where
        self._calls = 0

    def read(self, given: Mapping[str, Any]) -> Reply:
        fields = {"parts", "stop", "stop_sequence", "usage", "error", "delay", "awaits", "mixes_calls", "names_tier"}
        self._allow(given, fields, "reply")
        if "error" in given and "parts" in given:
            raise SuiteError(f"{self._where}: reply has parts and error; an error inside a stream is one of the parts")
        stop = given.get("stop", "")
        if stop and stop not in STOPS:
            raise SuiteError(f"{self._where}: stop is {stop!r}; allowed: {', '.join(STOPS)}")
        usage = given.get("usage", {})
        return Reply(
            parts=tuple(map(self._read_part, given.get("parts", ()))),
            stop=stop,
            stop_sequence=given.get("stop_sequence", ""),
            usage=None if usage is False else self._read_usage(usage),
            error=self._read_failure(given["error"]) if "error" in given else None,
            delay=given.get("delay", 0),
            awaits=given.get("awaits", 0),
            mixes_calls=given.get("mixes_calls", False),
            names_tier=given.get("names_tier", False),
        )

    def _read_usage(self, given: Mapping[str, int]) -> Usage:
        self._allow(given, {"input", "output", "cached", "written", "thinking"}, "usage")
        return Usage(**{"input": 12, "output": 5, **given})

    def _read_part(self, given: Mapping[str, Any]) -> Part:
        if "text" in given:
            self._allow(given, {"text", "citations"}, "a part with text")
            return Text(self._read_pieces(given["text"]), tuple(given.get("citations", ())))
        if "thinking" in given:
            self._allow(given, {"thinking", "signature"}, "a part with thinking")
            return Thinking(self._read_pieces(given["thinking"]), given.get("signature", SIGNATURE))
        if "call" in given:
            self._allow(given, {"call"}, "a part with a call")
            return self._read_call(given["call"])
        return self._read_incident(given)

    def _read_call(self, given: Mapping[str, Any]) -> Call:
        self._allow(given, {"name", "tool", "arguments", "pieces", "id"}, "call")
        if ("name" in given) == ("tool" in given) or ("arguments" in given and "pieces" in given):
            raise SuiteError(f"{self._where}: a call has a name or a tool, and arguments or pieces")
        self._calls += 1
        whole = json.dumps(given.get("arguments", {}), ensure_ascii=False)
        pieces = self._read_pieces(given.get("pieces", whole))
        return Call(given.get("name", ""), pieces, given.get("id", f"call_{self._calls}"), given.get("tool"))

    def _read_pieces(self, given: str | Sequence[str | Mapping[str, Any]]) -> tuple[Piece, ...]:
        if isinstance(given, str):
            return split(given)
        return tuple(piece if isinstance(piece, str) else self._read_incident(piece) for piece in given)

    def _read_incident(self, given: Mapping[str, Any]) -> Incident:
        if "pause" in given:
            self._allow(given, {"pause", "alive", "until"}, "a pause")
            return Pause(given["pause"], given.get("alive", 0), given.get("until", ""))
        if "cut" in given:
            self._allow(given, {"cut"}, "a cut")
            if given["cut"] not in ("broken", "orderly"):
                raise SuiteError(f"{self._where}: cut is {given['cut']!r}; allowed: broken, orderly")
            return Cut(orderly=given["cut"] == "orderly")
        if "error" in given:
            self._allow(given, {"error"}, "an error")
            return self._read_failure(given["error"])
        names = "text, thinking, call, pause, cut, error"
        raise SuiteError(f"{self._where}: a part has one of {names}; this one has {', '.join(given) or 'nothing'}")

    def _read_failure(self, given: Mapping[str, Any]) -> Failure:
        self._allow(given, {"kind", "message", "status", "retry_after", "is_bare"}, "error")
        if given.get("kind") not in STATUSES:
            allowed = ", ".join(STATUSES)
            raise SuiteError(f"{self._where}: kind of the error is {given.get('kind')!r}; allowed: {allowed}")
        return Failure(**given)

    def _allow(self, given: Mapping[str, Any], fields: set[str], what: str) -> None:
        for name in given:
            if name not in fields:
                raise SuiteError(f"{self._where}: {what} has no field {name}; allowed: {', '.join(sorted(fields))}")
