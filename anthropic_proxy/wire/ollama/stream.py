"""Answers of `/api/chat`, streamed or whole → deltas."""

from collections.abc import Callable, Sequence

import msgspec
from msgspec import Raw

from anthropic_proxy.errors import UpstreamProtocolError
from anthropic_proxy.messages.deltas import Delta, Stop, Text, Thinking, ToolArgs, ToolCall, ToolEnd, Usage
from anthropic_proxy.messages.notes import Note
from anthropic_proxy.wire.carry import bare_signature
from anthropic_proxy.wire.contract import Call, Decoder
from anthropic_proxy.wire.failures import read_fault
from anthropic_proxy.wire.identities import CallIds
from anthropic_proxy.wire.late_thinking import LateThinking
from anthropic_proxy.wire.mending import UNREADABLE, FrameMender, decode_mended, mend_json
from anthropic_proxy.wire.ollama.dialect import Dialect
from anthropic_proxy.wire.ollama.faults import judge_fault
from anthropic_proxy.wire.ollama.frames import ABSENT, CallPart, Frame, decode_frame, decode_sound_frame
from anthropic_proxy.wire.ollama.window import window_of
from anthropic_proxy.wire.recover import AnswerText, CallMender

_NO_ARGUMENTS = (b"", b"null", b"{}")
_QUOTE = b'"'[0]


def new_decoder(call: Call) -> Decoder:
    """Return a fresh decoder for one answer."""
    return OllamaDecoder(call)


class OllamaDecoder:
    """Reads one answer: each line holds what is new, the last one says `done` and counts."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self.signature = bare_signature(call.dialect.carry_tag)
        """Signs thinking: there is nothing to carry beside its text."""
        self.finished = False
        """Whether the line with `done` has come."""
        self._frames = FrameMender()
        self._late = LateThinking()
        self._calls = 0
        self._ids = CallIds(call)
        dialect: Dialect = call.dialect
        self._text = AnswerText(call) if dialect.thinking_tags or dialect.text_calls else None
        self._mender = CallMender(call, names=dialect.mends_tool_names)
        self._mends_arguments = dialect.mends_tool_arguments

    @property
    def notes(self) -> Sequence[Note]:
        """What became of the answer otherwise than the model wrote it."""
        return (*(self._text.notes if self._text is not None else ()), *self._mender.notes)

    def decode_frame(self, frame: bytes) -> list[Delta]:
        """Read one line. Raises `UpstreamError` where it is an error or no JSON."""
        try:
            read = decode_sound_frame(frame)
        except UNREADABLE:
            read = self._decode(frame, self._frames.mend)
        return self._late.feed(self._read(read))

    def decode_body(self, body: bytes) -> list[Delta]:
        """Read an answer that was not streamed."""
        return self._late.feed(self._read(self._decode(body, mend_json))) + self.decode_end()

    def decode_end(self) -> list[Delta]:
        """Raise `UpstreamProtocolError` where the answer never said that it was complete."""
        if not self.finished:
            raise self._protocol_error("ended its answer before it was complete")
        return []

    def release(self) -> list[Delta]:
        """Return the text that waits: the answer breaks off."""
        return self._text.finish(cut=True) if self._text is not None else []

    def _decode(self, data: bytes, mend: Callable[[bytes], bytes]) -> Frame:
        try:
            try:
                return decode_frame(data)
            except (msgspec.DecodeError, UnicodeDecodeError):
                return decode_frame(mend(data))
        except UNREADABLE as error:
            raise self._protocol_error("sent what is no line of a reply") from error

    def _read(self, read: Frame) -> list[Delta]:
        if read.error is not ABSENT:
            fault = read_fault({"error": decode_mended(read.error)}, None, {})
            raise judge_fault(fault, self._call)
        deltas: list[Delta] = []
        part = read.message
        if part is not None:
            if part.thinking:
                self._read_thinking(part.thinking, deltas)
            if part.content:
                if self._text is None:
                    deltas.append(Text(part.content))
                else:
                    deltas += self._text.feed(part.content)
            if part.tool_calls:
                self._read_calls(part.tool_calls, deltas)
        if read.done:
            self._finish(read, deltas)
        return deltas

    def _read_thinking(self, thinking: str, deltas: list[Delta]) -> None:
        if self._text is not None:
            self._text.expect_tags()
        deltas.append(Thinking(thinking))

    def _read_calls(self, calls: list[CallPart], deltas: list[Delta]) -> None:
        if self._text is not None:
            deltas += self._text.finish()
        for call in calls:
            self._read_call(call, deltas)

    def _read_call(self, part: CallPart, deltas: list[Delta]) -> None:
        key, name = self._calls, part.function.name
        arguments = _text_of(part.function.arguments)
        found = self._mender.mend_name(name) if name else self._mender.find_name(arguments)
        if found is None:
            raise self._protocol_error("sent a tool call without a name")
        self._calls += 1
        deltas.append(ToolCall(key, self._ids.keep_or_renew(part.id), found))
        if arguments:
            mended = self._mender.mend_arguments(arguments, found) if self._mends_arguments else arguments
            deltas.append(ToolArgs(key, mended))
        deltas.append(ToolEnd(key))

    def _finish(self, last: Frame, deltas: list[Delta]) -> None:
        if self.finished:
            return
        self.finished = True
        if self._text is not None:
            cut = last.done_reason == "length"
            deltas += self._text.finish(cut=cut, whole=not cut and not self._calls)
        if last.prompt_eval_count is not None or last.eval_count is not None:
            deltas.append(Usage(input_tokens=last.prompt_eval_count, output_tokens=last.eval_count))
        deltas.append(Stop(self._reason(last)))

    def _reason(self, last: Frame) -> str:
        if last.done_reason != "length":
            return "end_turn"  # `stop`; `load` and `unload` of an empty request; an unknown one is an ordinary end
        window = window_of(self._call)
        spent = (last.prompt_eval_count or 0) + (last.eval_count or 0)
        return "max_tokens" if window is None or spent < window - 1 else "model_context_window_exceeded"

    def _protocol_error(self, words: str) -> UpstreamProtocolError:
        provider = self._call.provider
        return UpstreamProtocolError(f"{provider} {words}.", provider=provider)


def _text_of(arguments: Raw) -> str:
    """Return arguments as JSON text; empty: there are none. Compatible servers send the text of an object."""
    text = bytes(arguments)
    if text in _NO_ARGUMENTS:
        return ""
    return str(decode_mended(text)) if text[0] == _QUOTE else text.decode(errors="replace")
