"""Small replies of providers on every wire, built from the same parts by the backends of the conformance suite."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct

from messages_conformance.backends.gemini.wire import Gemini
from messages_conformance.backends.messages.wire import Messages
from messages_conformance.backends.ollama.wire import Ollama
from messages_conformance.backends.openai.wire import OpenAI
from messages_conformance.backends.reply import Call, Part, Text, Thinking, Usage
from messages_conformance.backends.reply import Reply as ScriptedReply
from messages_conformance.backends.responses.wire import Responses
from messages_conformance.backends.wire import Request, Wire, encode, sse
from messages_conformance.backends.wire import named_event as event

ABSENT = object()
"""Count of a reply without usage."""
_COUNT = 7_710_077
"""Count in the frames of a backend, which the count of the reply replaces."""
_REQUEST = Request(
    "POST",
    "/v1beta/models/m:generateContent",
    {"alt": "sse"},
    {},
    {"model": "m", "stream_options": {"include_usage": True}},
)


class Reply(Struct, frozen=True, kw_only=True):
    """The content of one reply: thinking, then text, then tool calls, each in pieces."""

    thoughts: Sequence[str] = ()
    texts: Sequence[str] = ()
    calls: Sequence[tuple[str, str, Sequence[str]]] = ()
    """Id, tool name and pieces of the arguments."""
    count: Any = 7
    """Every number of tokens."""
    stop: str = ""
    """Reason for the end, by the names of the suite. "": the usual one."""

    @property
    def scripted(self) -> ScriptedReply:
        parts: list[Part] = [Thinking(tuple(self.thoughts))] if self.thoughts else []
        parts += [Text(tuple(self.texts))] if self.texts else []
        parts += [Call(name, tuple(pieces), id_) for id_, name, pieces in self.calls]
        usage = None if self.count is ABSENT else Usage(_COUNT, _COUNT)
        return ScriptedReply(parts=tuple(parts), usage=usage, stop=self.stop)

    def count_in(self, frame: bytes) -> bytes:
        """Return the bytes of a frame with the count of this reply."""
        count = b"7" if self.count is ABSENT else encode(self.count)
        return frame.replace(b"%d" % (2 * _COUNT), count).replace(b"%d" % _COUNT, count)


class ReplyForm(Struct, frozen=True):
    """The form of a reply on one wire: the records of a stream, and a whole body."""

    stream: Callable[[Reply], list[bytes]]
    whole: Callable[[Reply], bytes]


def _form(wire: Wire) -> ReplyForm:
    def stream(reply: Reply) -> list[bytes]:
        frames = wire.stream(reply.scripted, _REQUEST, "1")
        return [reply.count_in(frame) for frame in frames if isinstance(frame, bytes) and frame != wire.alive]

    return ReplyForm(stream, lambda reply: reply.count_in(encode(wire.whole(reply.scripted, _REQUEST, "1"))))


def _groq_stream(reply: Reply) -> list[bytes]:
    """Return the stream of Groq, whose counts are in the chunk with the reason for the end."""
    frames = CHAT.stream(reply)
    if reply.count is ABSENT:
        return frames
    *begin, finish, counts, done = frames
    usage = json.loads(counts.removeprefix(b"data: "))["usage"]
    last = json.loads(finish.removeprefix(b"data: "))
    return [*begin, sse({**last, "x_groq": {"id": "req_1", "usage": usage}}), done]


CHAT = _form(OpenAI())
GROQ = ReplyForm(_groq_stream, CHAT.whole)
GEMINI = _form(Gemini())
OLLAMA = _form(Ollama())
RESPONSES = _form(Responses())
MESSAGES = _form(Messages())
__all__ = (
    "ABSENT",
    "CHAT",
    "GEMINI",
    "GROQ",
    "MESSAGES",
    "OLLAMA",
    "RESPONSES",
    "Reply",
    "ReplyForm",
    "encode",
    "event",
    "sse",
)
