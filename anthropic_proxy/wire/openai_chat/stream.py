"""Chat Completions answers → deltas, streamed or whole."""

from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Raw

from anthropic_proxy.errors import UpstreamProtocolError
from anthropic_proxy.messages.deltas import Delta, Stop, Text, Thinking, Usage
from anthropic_proxy.messages.notes import Note
from anthropic_proxy.wire.carry import Carry, bare_signature, encode_carry
from anthropic_proxy.wire.contract import Call
from anthropic_proxy.wire.failures import Fault, blocked, judge, read_fault
from anthropic_proxy.wire.late_thinking import LateThinking
from anthropic_proxy.wire.mending import UNREADABLE, FrameMender, decode_mended, mend_json
from anthropic_proxy.wire.openai_chat.calls import CallReader
from anthropic_proxy.wire.openai_chat.chunks import (
    ABSENT,
    CallPiece,
    Choice,
    Chunk,
    Counts,
    Details,
    Piece,
    ServerToolCounts,
    decode_chunk,
    is_said,
)
from anthropic_proxy.wire.openai_chat.dialect import Dialect
from anthropic_proxy.wire.openai_chat.executed import Executed
from anthropic_proxy.wire.openai_chat.faults import find_reply, judge_fault
from anthropic_proxy.wire.openai_chat.hosted import offers_hosted
from anthropic_proxy.wire.openai_chat.output import OutputCall, replies_by_call
from anthropic_proxy.wire.openai_chat.reasoning import DetailsJoiner, find_call_signature, text_of_details
from anthropic_proxy.wire.recover import AnswerText

_DONE = b"[DONE]"
_STOP_REASONS = {"stop": "end_turn", "tool_calls": "tool_use", "function_call": "tool_use", "length": "max_tokens"}
"""Finish reason → stop reason; an unknown one is an ordinary end."""
_BLOCKED = frozenset(("content_filter", "sensitive"))
_FAILED = frozenset(("insufficient_system_resource", "network_error", "error"))
_NO_DETAILS = Details()
_NO_TOOL_COUNTS = ServerToolCounts()


class ChatDecoder:
    """Reads one answer."""

    def __init__(self, call: Call) -> None:
        dialect: Dialect = call.dialect
        self._call = call
        self._provider = call.provider
        self.signature = bare_signature(dialect.carry_tag, replay=1 if dialect.thinking_field else 0)
        """Signs thinking that came without anything to carry."""
        self.finished = False
        """Whether `[DONE]` has come."""
        self._mender = FrameMender()
        self._late = LateThinking()
        self._output = (
            OutputCall() if memoryview(call.request.output_schema).nbytes and replies_by_call(call, dialect) else None
        )
        self._calls: CallReader | None = None
        self._executed = Executed(call) if dialect.server_tools and offers_hosted(call) else None
        self._text = AnswerText(call) if dialect.thinking_tags or dialect.text_calls else None
        self._details = DetailsJoiner() if dialect.carries_details else None
        self._signs_calls = dialect.carries_call_signatures
        self._tag = dialect.carry_tag
        self._answered = False  # whether any choice was seen
        self._stop: Stop | None = None
        self._stop_said = False
        self._refusal = ""
        self._usage = Usage()

    @property
    def notes(self) -> Sequence[Note]:
        """What became of the answer otherwise than the model wrote it."""
        found = self._text.notes if self._text is not None else ()
        return (*found, *self._calls.mender.notes) if self._calls is not None else found

    def decode_frame(self, frame: bytes) -> list[Delta]:
        """Read one data field. Raises `UpstreamError` where it is an error or no JSON."""
        if frame == _DONE:
            self.finished = True
            return []
        try:
            chunk = decode_chunk(frame)
        except UNREADABLE:
            chunk = self._decode_mended(frame, self._mender.mend)
        return self._order(self._read(chunk))

    def decode_body(self, body: bytes) -> list[Delta]:
        """Read an answer that was not streamed."""
        try:
            chunk = decode_chunk(body)
        except UNREADABLE:
            chunk = self._decode_mended(body, mend_json)
        deltas = self._order(self._read(chunk))
        self.finished = True
        return deltas + self.decode_end()

    def decode_end(self) -> list[Delta]:
        """End what is open. Raises `UpstreamProtocolError` where the answer never said that it was complete."""
        deltas: list[Delta] = []
        if self._stop is None:
            if not (self.finished and self._answered):
                raise UpstreamProtocolError(
                    f"{self._provider} ended its answer before it was complete.", provider=self._provider
                )
            self._finish("stop", deltas)
        self._end_blocks(deltas, cut=True)
        self._say_stop(deltas)
        return self._order(deltas)

    def release(self) -> list[Delta]:
        """Return the text that waits: the answer breaks off."""
        return self._order(self._text.finish(cut=True)) if self._text is not None else []

    def _order(self, deltas: list[Delta]) -> list[Delta]:
        deltas = self._late.feed(deltas)
        return deltas if self._output is None else self._output.feed(deltas)

    def _decode_mended(self, data: bytes, mend: Callable[[bytes], bytes]) -> Chunk:
        try:
            return decode_chunk(mend(data))
        except UNREADABLE as error:
            raise UpstreamProtocolError(f"{self._provider} sent what is no JSON.", provider=self._provider) from error

    def _read(self, chunk: Chunk) -> list[Delta]:
        deltas: list[Delta] = []
        if chunk.error is not ABSENT and is_said(chunk.error):
            if self._stop is not None:  # OpenRouter: an error after the end says nothing new
                self._read_usage(chunk, None, deltas)
                return deltas
            return self._fail(decode_mended(chunk.error))
        choice = chunk.choices[0] if chunk.choices else None
        if choice is not None:
            self._answered = True
            piece = choice.delta or choice.message
            if piece is not None:
                self._read_piece(piece, deltas)
            if choice.finish_reason:
                self._finish(choice.finish_reason, deltas)
        if chunk.usage is not None or chunk.x_groq is not None or (choice is not None and choice.usage is not None):
            self._read_usage(chunk, choice, deltas)
        return deltas

    def _read_piece(self, piece: Piece, deltas: list[Delta]) -> None:
        thinking = piece.reasoning_content or piece.reasoning
        details = piece.reasoning_details
        if details is not ABSENT and is_said(details):
            if self._details is not None:
                self._details.feed(details)
            thinking = thinking or text_of_details(details)
        if thinking:
            if self._calls is not None:
                self._calls.end_complete(deltas)
            if self._text is not None:
                self._text.expect_tags()
            deltas.append(Thinking(thinking))
        if self._executed is not None:
            deltas += self._executed.read(piece)
        if piece.content:
            self._read_text(piece.content, deltas)
        if piece.refusal:
            self._refusal += piece.refusal
            self._read_text(piece.refusal, deltas)
        if piece.tool_calls:
            self._read_calls(piece, piece.tool_calls, deltas)

    def _read_text(self, text: str, deltas: list[Delta]) -> None:
        if self._calls is not None:
            self._calls.end_complete(deltas)
        if self._details is not None:
            self._sign_details(deltas)
        if self._text is not None:
            deltas += self._text.feed(text)
        else:
            deltas.append(Text(text))

    def _read_calls(self, piece: Piece, calls: list[CallPiece], deltas: list[Delta]) -> None:
        if self._details is not None:
            self._sign_details(deltas)
        if self._text is not None:
            deltas += self._text.finish()
        if self._calls is None:
            self._calls = CallReader(self._call)
        for call in calls:
            if self._signs_calls:
                self._sign_call(call.extra_content if is_said(call.extra_content) else piece.extra_content, deltas)
            self._calls.read(call, deltas)

    def _sign_details(self, deltas: list[Delta]) -> None:
        assert self._details is not None
        details = self._details.take()
        if details:
            deltas.append(Thinking(signature=encode_carry(self._tag, Carry(encrypted=details))))

    def _sign_call(self, extra: Raw, deltas: list[Delta]) -> None:
        """Say the signature of the call that follows, in a thinking block of its own; the first one counts."""
        signature = find_call_signature(extra) if is_said(extra) else ""
        if signature and self._calls is not None and self._calls.count == 0:
            deltas.append(Thinking(signature=encode_carry(self._tag, Carry(call_signature=signature))))

    def _finish(self, reason: str, deltas: list[Delta]) -> None:
        """Take the first finish reason; the blocks are complete with it."""
        if self._stop is not None:
            return
        if reason in _FAILED:
            fault = Fault(message=f"the answer ended with {reason!r}", codes=frozenset((reason,)))
            raise judge(fault, self._provider)
        blocks = reason in _BLOCKED
        self._end_blocks(deltas, cut=blocks or _STOP_REASONS.get(reason) == "max_tokens")
        if self._refusal:
            details = {"type": "refusal", "category": None, "explanation": self._refusal}
            self._stop = Stop("refusal", details=details)
        elif blocks:
            self._stop = blocked(self._provider, reason)
        else:
            self._stop = Stop(_STOP_REASONS.get(reason, "end_turn"))
        if self._stop.reason != "max_tokens" or self._call.window is None:
            self._say_stop(deltas)

    def _end_blocks(self, deltas: list[Delta], *, cut: bool) -> None:
        """End what is open; `cut`: the answer did not end by itself."""
        if self._text is not None:
            deltas += self._text.finish(cut=cut, whole=not cut and self._calls is None)
        if self._details is not None:
            self._sign_details(deltas)
        if self._executed is not None:
            deltas += self._executed.finish()
        if self._calls is not None:
            self._calls.end_all(deltas, cut=cut)

    def _say_stop(self, deltas: list[Delta]) -> None:
        if self._stop_said or self._stop is None:
            return
        self._stop_said = True
        if self._stop.reason == "max_tokens" and _fills(self._usage, self._call.window):
            self._stop = Stop("model_context_window_exceeded")
        deltas.append(self._stop)

    def _fail(self, error: Any) -> list[Delta]:
        fault = read_fault({"error": error}, 200, {})
        reply = find_reply(fault, self._call)
        if reply is None:
            raise judge_fault(fault, self._call)
        deltas: list[Delta] = []
        self._end_blocks(deltas, cut=True)
        self._stop = next(delta for delta in reply if isinstance(delta, Stop))
        self._stop_said = True
        return deltas + reply

    def _read_usage(self, chunk: Chunk, choice: Choice | None, deltas: list[Delta]) -> None:
        counts = chunk.usage or (choice.usage if choice is not None else None)
        if counts is None and chunk.x_groq is not None:
            counts = chunk.x_groq.usage
        if counts is None or counts.prompt_tokens is None is counts.completion_tokens:
            return
        self._usage = decode_usage(counts)
        deltas.append(self._usage)


def decode_usage(counts: Counts) -> Usage:
    """Return token totals in Anthropic's meaning.

    Chat Completions counts cached input inside `prompt_tokens`; Anthropic counts it beside. xAI counts reasoning
    beside `completion_tokens`, which shows in its total (recorded: xai/tool_call); Anthropic counts it inside.
    Never negative: an upstream that counts more cached than prompted gives 0.
    """
    within, spent = counts.prompt_tokens_details or _NO_DETAILS, counts.completion_tokens_details or _NO_DETAILS
    beside = counts.cached_tokens if counts.prompt_cache_hit_tokens is None else counts.prompt_cache_hit_tokens
    cached = beside if within.cached_tokens is None else within.cached_tokens
    written = within.cache_write_tokens
    prompt, output, thinking = counts.prompt_tokens, counts.completion_tokens, spent.reasoning_tokens
    if prompt and output is not None and thinking and counts.total_tokens == prompt + output + thinking:
        output += thinking
    return Usage(
        input_tokens=None if prompt is None else max(prompt - (cached or 0) - (written or 0), 0),
        output_tokens=output,
        cache_read_tokens=cached,
        cache_write_tokens=written,
        thinking_tokens=thinking,
        web_search_requests=(counts.server_tool_use_details or _NO_TOOL_COUNTS).web_search_requests,
    )


def _fills(usage: Usage, window: int | None) -> bool:
    """Whether input and output together reach the end of the window."""
    if window is None or usage.output_tokens is None:
        return False
    read = (usage.input_tokens or 0) + (usage.cache_read_tokens or 0) + (usage.cache_write_tokens or 0)
    return read + usage.output_tokens >= window - 1
