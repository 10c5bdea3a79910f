"""Decoder of responses of Ollama's `/api/chat`, streamed or complete, into deltas.

Each line of a stream is a JSON object with new content. The last line has `done` and the token counts. A tool call
arrives complete. A call that arrives twice with the same id counts once. Equal lines of text are all text: they can
have the same time. Older models write thinking and tool calls into the text, where `TextSplitter` finds them.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.engine.messages.deltas import Delta, Text, Thinking, Usage
from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.messages.models.raw_json import ABSENT
from anthropic_proxy.engine.messages.models.tool_arguments import divide_arguments, is_truncated_object
from anthropic_proxy.engine.wires.calls import TranslatedCall
from anthropic_proxy.engine.wires.contract import Decoder
from anthropic_proxy.engine.wires.failures import (
    UpstreamFault,
    find_bare_error,
    read_error_field,
)
from anthropic_proxy.engine.wires.foreign_lines import is_part_of_reply
from anthropic_proxy.engine.wires.json_repair import (
    DECODE_ERRORS,
    decode_or_repair,
    decode_repaired,
    parse_token_count,
    repair_json,
)
from anthropic_proxy.engine.wires.ollama.dialect import Dialect, resolve_context_window
from anthropic_proxy.engine.wires.ollama.errors import (
    classify_fault,
    decode_reply_end,
    read_fault,
)
from anthropic_proxy.engine.wires.reply_ends import build_stop, build_unreadable_reply, find_finish_kind
from anthropic_proxy.engine.wires.thinking import empty_signature
from anthropic_proxy.engine.wires.tool_call_repair import (
    MAX_REPAIRED_ON_LOOP,
    TextSplitter,
    ToolCallRepair,
    is_json_object,
)
from anthropic_proxy.engine.wires.tools import ToolCallIds
from anthropic_proxy.errors import UnreadableReply


class FunctionCall(Struct, gc=False):
    name: str | None = None
    arguments: Raw = ABSENT
    """Arguments as a JSON object. `ABSENT`: omitted, as by Ollama's parser for older models."""


class ToolCallField(Struct, gc=False):
    function: FunctionCall | None = None
    id: str | None = None
    """None: the server is older than Ollama 0.12."""


class ChatMessage(Struct, gc=False):
    content: str | None = None
    thinking: str | None = None
    tool_calls: list[ToolCallField] | None = None


class Frame(Struct, gc=False):
    message: ChatMessage | None = None
    done: bool = False
    done_reason: str | None = None
    """Reason for the end of the reply: `stop`, `length`, `load`, … None: the reply goes on."""
    prompt_eval_count: int | None = None
    """Input tokens. None: before Ollama 0.5, if the prompt was cached."""
    eval_count: int | None = None
    """Output tokens. None: not the last line."""
    error: Raw = ABSENT
    """Error that replaces the reply, as JSON. `ABSENT`: no error."""


decode_strict_frame = msgspec.json.Decoder(Frame).decode
"""Decode a line or body. Raises `msgspec.ValidationError` for unexpected types."""
_COUNTS = ("prompt_eval_count", "eval_count")


def decode_frame(data: bytes) -> Frame:
    """Decode a line of a stream, or a complete body. Token counts may be strings or fractions.

    A token count of another type becomes None. Raises `msgspec.DecodeError` for invalid JSON, and if any other field
    has an unexpected type.
    """
    try:
        return decode_strict_frame(data)
    except msgspec.ValidationError:
        content = msgspec.json.decode(data)
        if not isinstance(content, dict) or content.keys().isdisjoint(_COUNTS):
            raise
        counts = {name: parse_token_count(content.get(name)) for name in _COUNTS}
        return decode_strict_frame(msgspec.json.encode(content | counts))


_NO_ARGUMENTS = (b"", b"null", b"{}")
_NO_FUNCTION = FunctionCall()
_QUOTE = b'"'[0]


class OllamaDecoder(Decoder):
    finished = False
    """True after the last line (`done`), or after an error that is a policy refusal."""
    _calls = 0
    _has_incomplete = False
    """True if the arguments of a call are truncated. Only servers that send arguments as text can cause this."""
    _held: tuple[str | None, str, str] | None = None
    """Id, name and arguments of the latest call, if its arguments may be repaired: not if a limit has cut them."""
    _has_content = False
    _unreadable: UnreadableReply | None = None
    """Error that `decode_end` raises after all deltas, because the last line also has the token counts."""

    def __init__(self, call: TranslatedCall[Dialect]) -> None:
        self._call = call
        # a client that gets no thinking does not send it back, so the state of its calls has it
        replay: Literal[0, 1] = 0 if call.request.shows_thinking else 1
        self.default_signature = empty_signature(call.dialect.signature_tag, replay=replay)
        self._ids = ToolCallIds(call)
        dialect = call.dialect
        tags, formats = dialect.thinking_tags, dialect.text_call_formats
        self._text = TextSplitter(call, tags, formats) if tags or formats else None
        self._doubled = self._text.doubled if self._text is not None else None
        self._content: list[str] = []
        """The text so far, if it may contain calls or reasoning."""
        self._call_repair = ToolCallRepair(call, names=dialect.repairs_tool_names)
        self._repairs_arguments = dialect.repairs_tool_arguments
        if self._repairs_arguments:
            self.bytes_on_loop = MAX_REPAIRED_ON_LOOP

    @property
    def notes(self) -> Sequence[FidelityNote]:
        return (*(self._text.notes if self._text is not None else ()), *self._call_repair.notes)

    def decode_frame(self, frame: bytes) -> list[Delta]:
        try:
            read = decode_strict_frame(frame)
        except DECODE_ERRORS:
            read = self._decode(frame, self.repair_frame)
        return self._read(read, frame)

    def decode_body(self, body: bytes) -> list[Delta]:
        read = self._decode(body, repair_json)
        if self._text is not None and read.message is not None and not read.message.thinking:
            self._text.expect_text(read.message.content or "")
        return self._read(read, body, is_whole=True)

    def decode_end(self) -> list[Delta]:
        if self._unreadable is not None:
            raise self._unreadable
        if not self.finished:
            raise self._call.build_protocol_error(" ended its answer before it was complete.", code="incomplete-reply")
        return []

    def flush_pending(self) -> list[Delta]:
        deltas: list[Delta] = []
        self._make_held_call(deltas, reply_ended_early=True)
        return deltas + self._text.finish(reply_ended_early=True) if self._text is not None else deltas

    def _decode(self, data: bytes, repair: Callable[[bytes], bytes]) -> Frame:
        try:
            return decode_or_repair(decode_frame, data, repair)
        except DECODE_ERRORS as error:
            if not is_part_of_reply(data) or find_bare_error(data) is not None:
                return Frame()
            raise self._call.build_protocol_error(" sent an invalid line.") from error

    def _read(self, read: Frame, data: bytes, *, is_whole: bool = False) -> list[Delta]:
        if self.finished:
            return []
        fault = read_error_field(read.error, data) if read.error is not ABSENT else None
        if fault is None and read.message is None and not read.done:
            fault = self.find_error(data, is_whole=is_whole)
        if fault is not None:
            fault = read_fault(fault, self._call)
            if (reply := decode_reply_end(fault, self._call, has_content=self._has_content)) is None:
                raise classify_fault(fault, self._call)
            self.finished = True
            return [*self.flush_pending(), *reply]
        deltas: list[Delta] = []
        part = read.message
        if part is not None:
            self._has_content = self._has_content or bool(part.thinking or part.content or part.tool_calls)
            if self._held is not None and (part.thinking or part.content):
                self._make_held_call(deltas)
            if part.thinking:
                if self._text is not None:
                    self._text.note_separate_reasoning(part.thinking)
                deltas.append(Thinking(part.thinking))
            if part.content:
                if self._text is None:
                    deltas.append(Text(part.content))
                else:
                    self._content.append(part.content)
                    deltas += self._text.feed(part.content)
                    if self._text.held_characters > MAX_REPAIRED_ON_LOOP:
                        self.bytes_on_loop = -1
            for call in part.tool_calls or ():
                self._read_call(call, deltas)
        if read.done:
            self._finish(read, deltas)
        return deltas

    def _finish(self, read: Frame, deltas: list[Delta]) -> None:
        self.finished = True
        reason = read.done_reason or "stop"  # older releases state none
        kind = find_finish_kind(reason)  # `load` and `unload` end an empty request
        if kind == "failed":
            raise classify_fault(UpstreamFault(message=f"the answer ended with {reason!r}"), self._call)
        usage: list[Delta] = []
        if read.prompt_eval_count is not None or read.eval_count is not None:
            usage.append(Usage(input_tokens=read.prompt_eval_count, output_tokens=read.eval_count))
        if kind == "unreadable":
            self._unreadable = build_unreadable_reply(self._call.provider_prefix, reason)
            deltas += usage
            return
        is_early = kind not in {"end", "calls", "unknown"}
        if self._held is not None:
            self._make_held_call(deltas, reply_ended_early=is_early)
        if self._text is not None:
            deltas += self._text.finish(reply_ended_early=is_early, is_text_reply=not (is_early or self._calls))
            if not is_early:
                self.has_unopened_reasoning = self._text.examine_text(self._content)
        window = resolve_context_window(self._call)
        spent = (read.prompt_eval_count or 0) + (read.eval_count or 0)
        fills = window is not None and spent >= window - 1
        provider = self._call.provider_prefix
        deltas += [*usage, build_stop(kind, provider, reason, is_cut=self._has_incomplete, fills_window=fills)]

    def _read_call(self, part: ToolCallField, deltas: list[Delta]) -> None:
        """Raises `UpstreamProtocolError` if only the name is missing. An entry without arguments too is ignored."""
        function = part.function or _NO_FUNCTION
        name = function.name
        data = bytes(function.arguments)
        if data in _NO_ARGUMENTS:
            arguments = ""
        else:  # some servers send a JSON string that contains the JSON text
            arguments = str(decode_repaired(data)) if data[0] == _QUOTE else data.decode(errors="replace")
        if not name and not arguments.strip():
            return
        if self._text is not None:
            deltas += self._text.finish()
        found = self._call_repair.repair_name(name) if name else self._call_repair.find_name_by_arguments(arguments)
        if found is None:
            raise self._call.build_protocol_error(" sent a tool call without a name.")
        if self._ids.ended_calls.repeats(part.id, found, arguments, deltas):
            return
        for one in divide_arguments(arguments) or ("",):
            self._make_held_call(deltas)
            if one and self._repairs_arguments and not is_json_object(one):
                self._held = part.id, found, one
            else:
                self._make_call(part.id, found, one, deltas)

    def _make_held_call(self, deltas: list[Delta], *, reply_ended_early: bool = False) -> None:
        if self._held is not None:
            (call_id, name, arguments), self._held = self._held, None
            if not reply_ended_early:
                arguments = self._call_repair.repair_arguments(arguments, name)
            self._make_call(call_id, name, arguments, deltas)

    def _make_call(self, call_id: str | None, name: str, arguments: str, deltas: list[Delta]) -> None:
        if self._doubled is None or not self._doubled.add(name, arguments):
            self._has_incomplete |= bool(arguments) and is_truncated_object(arguments)
            deltas += self._ids.build_whole_call(self._calls, call_id, name, arguments)
            self._calls += 1
