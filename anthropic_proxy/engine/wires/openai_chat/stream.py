"""Decoder of Chat Completions responses, streamed or complete: converts them to deltas.

Servers differ most in the tool calls: some leave out `index` or ids, repeat a name, or continue a call after text. A
tool call therefore ends only when its arguments are complete and other content follows, or at the end of the reply
(`ToolCallDecoder`). A finish reason ends the reply, but the token counts may follow it, so a reply that reached its
limit ends with the response: the counts decide whether the context window was full.

`reply.py` has the structs of replies, and `tools.py` the decoder of server tools, which the provider itself runs.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

import msgspec
from msgspec import Raw, Struct, structs

from anthropic_proxy.engine.messages.deltas import Delta, Stop, Text, Thinking, ToolArgs, ToolCall, ToolEnd, Usage
from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.messages.models.raw_json import ABSENT, is_present
from anthropic_proxy.engine.messages.models.tool_arguments import (
    ArgumentsReader,
    divide_arguments,
    is_same_object,
    is_truncated_object,
    means_no_arguments,
    repeats_arguments,
)
from anthropic_proxy.engine.messages.reply_schema import FENCE, find_json
from anthropic_proxy.engine.messages.server_blocks import describe_generated_image
from anthropic_proxy.engine.wires.calls import TranslatedCall
from anthropic_proxy.engine.wires.contract import Decoder
from anthropic_proxy.engine.wires.delivered_text import DeliveredText, Keys, KnownParts
from anthropic_proxy.engine.wires.failures import (
    UpstreamFault,
    build_upstream_error,
    find_bare_error,
    read_error_field,
    read_own_words,
)
from anthropic_proxy.engine.wires.foreign_lines import is_end_mark, is_part_of_reply
from anthropic_proxy.engine.wires.json_repair import DECODE_ERRORS, decode_or_repair, decode_repaired, repair_json
from anthropic_proxy.engine.wires.openai_chat.dialect import Dialect
from anthropic_proxy.engine.wires.openai_chat.errors import classify_fault, decode_reply_in_error
from anthropic_proxy.engine.wires.openai_chat.reply import (
    Bill,
    ChatUsage,
    Choice,
    ChoiceDelta,
    Chunk,
    FunctionCall,
    ServerToolCounts,
    TokenDetails,
    ToolCallDelta,
    convert_unusual_values,
    decode_bill,
    decode_chunk,
)
from anthropic_proxy.engine.wires.openai_chat.request import OutputToolConverter, offers_output_tool
from anthropic_proxy.engine.wires.openai_chat.tools import ServerToolDecoder, offers_server_tools
from anthropic_proxy.engine.wires.reply_ends import (
    NO_VALUES,
    build_stop,
    build_unreadable_reply,
    explain_total,
    find_finish_kind,
    split_input_tokens,
)
from anthropic_proxy.engine.wires.thinking import ReasoningState, digest_base_url, empty_signature, encode_signature
from anthropic_proxy.engine.wires.tool_call_repair import (
    MAX_REPAIRED_ON_LOOP,
    DoubledCalls,
    TextSplitter,
    ToolCallRepair,
)
from anthropic_proxy.engine.wires.tools import ToolCallIds, is_other_call, is_parallel_wrapper, split_wrapper
from anthropic_proxy.errors import UnreadableReply, UpstreamError

_NO_DETAILS = TokenDetails()
_NO_TOOL_COUNTS = ServerToolCounts()
_Source = Literal["fragment", "message", "body"]
"""Origin of a part of a reply: a fragment of it, the complete message at the end of a stream, or a complete reply."""


class ChatDecoder(Decoder):
    """Decoder of one reply. Each part of a chunk is read by the object for its kind of content, if the reply has it:
    text that may contain calls or reasoning (`_text`), tool calls (`_calls`), results of server tools
    (`_server_tools`) and encrypted reasoning (`_details`). In a plain reply all of them are None.
    """

    finished = False
    """True after the event `[DONE]`, or after a complete body was decoded."""
    _calls: "ToolCallDecoder | None" = None
    _uses_deprecated_field = False  # for all calls, because some servers repeat a call in the other field
    _answered = False
    """True after any choice."""
    _has_other_content = False
    """True after a block of a server tool, or an image."""
    _final: "FinalTexts | None" = None
    """What the client has after a `message` in a stream. None: there was none."""
    _streams_messages = False
    """True if the fragments of a stream are in `message`."""
    _native_reason = ""
    _is_cut = False
    """True if the finish reason says that the reply ended early."""
    _postponed = ""
    """Finish reason of a reply with truncated arguments. The token counts decide whether its limit was reached."""
    _stop: Stop | None = None
    _stop_emitted = False
    _unreadable: UnreadableReply | None = None
    _usage = Usage()

    def __init__(self, call: TranslatedCall[Dialect]) -> None:
        dialect = call.dialect
        if dialect.buffers_tool_arguments:
            self.bytes_on_loop = MAX_REPAIRED_ON_LOOP
        self._call = call
        self._tag = dialect.signature_tag
        self.default_signature = empty_signature(self._tag, replay=1 if dialect.replayed_thinking_field else 0)
        self._schema_filter: OutputToolConverter | FenceFilter | None = None
        """Filter of a reply with a JSON Schema, which becomes its text. None: the request has no schema."""
        if call.request.output_schema:
            self._schema_filter = OutputToolConverter() if offers_output_tool(call) else FenceFilter()
        self._server_tools = ServerToolDecoder(call) if dialect.server_tools and offers_server_tools(call) else None
        tags, formats = dialect.thinking_tags, dialect.text_call_formats
        self._text = TextSplitter(call, tags, formats) if tags or formats else None
        self._details = ReasoningDetailsBuffer() if dialect.replays_reasoning_details else None
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._refusal: list[str] = []
        self._is_plain = self._reads_usual_calls = self._text is None and self._details is None
        """`_is_plain`: True if text can pass as it is, because there are no calls, no formats and no `message`."""

    @property
    def notes(self) -> Sequence[FidelityNote]:
        found = self._text.notes if self._text is not None else ()
        return (*found, *self._calls.repair.notes) if self._calls is not None else found

    def decode_frame(self, frame: bytes) -> list[Delta]:
        if frame == b"[DONE]":
            self.finished = True
            return []
        try:
            chunk = decode_chunk(frame)
        except DECODE_ERRORS:
            if is_end_mark(frame):
                self.finished = True
                return []
            chunk = self._decode_odd(frame, self.repair_frame)
        try:
            deltas = self._read(chunk, frame)
        except UpstreamError:
            self._keep_usage(chunk, frame)
            raise
        return deltas if self._schema_filter is None else self._schema_filter.feed(deltas)

    def decode_body(self, body: bytes) -> list[Delta]:
        try:
            chunk = decode_chunk(body)
        except DECODE_ERRORS:
            chunk = self._decode_odd(body, repair_json)
        choices = chunk.choices or []
        for choice in choices:
            if choice.delta is not None and choice.message is not None:
                choice.delta = choice.choose_message_or_delta()
                choice.message = None
        # GitHub Copilot puts text and tool calls of Claude into choices of their own (zeroclaw-labs/zeroclaw pull 2136,
        # read 2026-11-26). No request asks for alternatives.
        for choice in choices[1:]:
            choices[0].append(choice)
        try:
            deltas = self._read(chunk, body, "body")
        except UpstreamError:
            self._keep_usage(chunk, body)
            raise
        self.finished = True
        return deltas if self._schema_filter is None else self._schema_filter.feed(deltas)

    def decode_end(self) -> list[Delta]:
        deltas: list[Delta] = []
        if self._stop is None and self._unreadable is None:
            if not (self._postponed or (self.finished and self._answered)):
                words = " ended its answer before it was complete."
                raise self._call.build_protocol_error(words, code="incomplete-reply")
            self._finish(self._postponed or "stop", deltas, is_last=True)
        if self._unreadable is not None:
            raise self._unreadable
        self._end_blocks(deltas, reply_ended_early=True)
        if self._calls is not None and self._calls.has_incomplete_arguments and self._stop_emitted and not self._is_cut:
            deltas.append(build_stop("calls", self._call.provider_prefix, "", is_cut=True))
        self._emit_stop(deltas)
        return deltas if self._schema_filter is None else self._schema_filter.feed(deltas)

    def flush_pending(self) -> list[Delta]:
        deltas = self._text.finish(reply_ended_early=True) if self._text is not None else []
        if self._calls is not None:
            self._calls.flush_pending(deltas)
        if self._text is not None:
            deltas += self._text.make_postponed_calls()
        if self._schema_filter is None:
            return deltas
        return self._schema_filter.feed(deltas) + self._schema_filter.flush()

    def _decode_odd(self, data: bytes, repair: Callable[[bytes], bytes]) -> Chunk:
        """Decode invalid UTF-8, and values of unexpected types."""
        try:
            content = decode_or_repair(msgspec.json.decode, data, repair)
            return msgspec.convert(convert_unusual_values(content), Chunk, strict=False)
        except DECODE_ERRORS as error:
            if self._has_ended or not is_part_of_reply(data) or find_bare_error(data) is not None:
                return Chunk()
            raise self._call.build_protocol_error(" sent invalid JSON.") from error

    @property
    def _has_ended(self) -> bool:
        """True after a finish reason: a later error concerns only the token counts."""
        return self._stop is not None or bool(self._postponed) or self._unreadable is not None

    def _read(self, chunk: Chunk, data: bytes, source: _Source = "fragment") -> list[Delta]:
        # without its index: LiteLLM counts the content blocks of Claude in it (BerriAI/litellm issue 23178, 2026-03)
        choice = chunk.choices[0] if chunk.choices else None
        if chunk.error is not ABSENT and (fault := read_error_field(chunk.error, data)) is not None:
            return self._read_fault(fault, chunk, data, source)
        if (
            chunk.choices is None  # without a name for both conditions, because every chunk passes here
            and chunk.usage is None
            and (fault := self.find_error(data, is_whole=source == "body")) is not None
        ):
            return self._read_fault(fault, chunk, data, source)
        deltas: list[Delta] = []
        if choice is not None:
            self._answered = True
            piece = choice.delta or choice.message
            if choice.message is not None and source == "fragment" and (choice.delta is None or choice.delta.is_empty):
                source, piece = self._choose_missing(
                    choice.message, is_alone=choice.delta is None and not choice.finish_reason
                )
            if piece is not None:
                thinking = piece.reasoning_content or piece.reasoning
                details = piece.reasoning_details
                if details is not ABSENT and is_present(details):
                    if self._details is not None:
                        self._details.feed(details)
                    thinking = thinking or reasoning_details_text(details)
                if thinking and (source == "message" or (thinking := self._find_new("reasoning", thinking))):
                    if self._calls is not None:
                        self._calls.end_complete_calls(deltas)
                    if self._text is not None:
                        self._text.note_separate_reasoning(thinking)
                    deltas.append(Thinking(thinking))
                if self._server_tools is not None:
                    deltas += (blocks := self._server_tools.decode_choice_delta(piece))
                    self._has_other_content = self._has_other_content or bool(blocks)
                if piece.content:
                    if self._is_plain:
                        self._content.append(piece.content)
                        deltas.append(Text(piece.content))
                    else:
                        text = piece.content
                        if source == "body" and self._text is not None:
                            self._text.expect_text(text)
                        self._read_text(text if source == "message" else self._find_new("content", text), deltas)
                if piece.images is not ABSENT and (words := describe_images(piece.images)):
                    self._has_other_content = True
                    self._read_text(words, deltas)
                if refusal := piece.refusal:
                    text = refusal if source == "message" else self._find_new("refusal", refusal)
                    self._read_text(text, deltas, is_refusal=True)
                if piece.tool_calls or piece.function_call is not None:
                    self._read_calls(piece, deltas, source)
            if choice.native_finish_reason:
                self._native_reason = choice.native_finish_reason
            if choice.finish_reason:
                self._finish(choice.finish_reason, deltas)
        if chunk.usage is not None or chunk.x_groq is not None or (choice is not None and choice.usage is not None):
            self._read_usage(chunk, choice, deltas, data)
        return deltas

    @property
    def _has_content(self) -> bool:
        has_text = bool(self._content or self._reasoning or self._refusal)
        return has_text or self._calls is not None or self._has_other_content

    def _choose_missing(self, message: ChoiceDelta, *, is_alone: bool) -> tuple[_Source, ChoiceDelta]:
        """Return what a `message` in a stream has beyond its fragments, which it may follow.

        `is_alone`: True if it stands in the place of a fragment, before the end. Some servers send all fragments so.
        """
        if is_alone and not self._has_content:
            self._streams_messages = True
        if self._streams_messages:
            return "fragment", message
        if self._final is None:
            self._final = FinalTexts(self._content, self._reasoning, self._refusal)
        self._is_plain = self._reads_usual_calls = False
        return "message", self._final.find_missing(message, is_first=not self._has_content)

    def _find_new(self, field: "_TextField", text: str) -> str:
        """Return what is new in a fragment of a text."""
        if self._final is not None:
            return self._final.texts[field].add(text)
        pieces = self._content if field == "content" else self._reasoning if field == "reasoning" else self._refusal
        pieces.append(text)
        return text

    def _keep_usage(self, chunk: Chunk, data: bytes) -> None:
        """Keep the token counts of a chunk with an error (recorded: openrouter/stream_error)."""
        deltas: list[Delta] = []
        self._read_usage(chunk, chunk.choices[0] if chunk.choices else None, deltas, data)
        self.usage_of_error = self._usage if deltas else None

    def _read_fault(self, fault: UpstreamFault, chunk: Chunk, data: bytes, source: _Source) -> list[Delta]:
        deltas: list[Delta] = []
        if self._has_ended:  # OpenRouter: an error after the end is redundant
            self._read_usage(chunk, None, deltas, data)
            return deltas
        if chunk.choices:  # the last content may stand beside the error
            content = structs.replace(chunk.choices[0], finish_reason=None, usage=None)
            deltas = self._read(Chunk([content]), data, source)
        fault = read_own_words(fault, self._call)
        reply = decode_reply_in_error(fault, self._call, has_content=self._has_content)
        if reply is None:
            raise classify_fault(fault, self._call)
        self._end_blocks(deltas, reply_ended_early=True)
        self._stop = next(delta for delta in reply if isinstance(delta, Stop))
        self._stop_emitted = True
        return deltas + reply

    def _read_text(self, text: str, deltas: list[Delta], *, is_refusal: bool = False) -> None:
        if not text:
            return
        if self._calls is not None:
            self._calls.end_complete_calls(deltas)
        if self._details is not None:
            self._sign_details(deltas)
        if self._text is not None:
            deltas += self._text.pass_text(text) if is_refusal else self._text.feed(text)
            if not deltas and self._text.held_characters > MAX_REPAIRED_ON_LOOP:
                self.bytes_on_loop = -1
        else:
            deltas.append(Text(text))

    def _read_calls(self, piece: ChoiceDelta, deltas: list[Delta], source: _Source) -> None:
        calls = piece.tool_calls
        if self._reads_usual_calls and calls and len(calls) == 1 and self._calls is not None:
            is_usual = piece.extra_content is ABSENT and source == "fragment"
            if is_usual and self._calls.read_usual_fragment(calls[0], deltas):
                return
        for call in calls or ():  # without a function call for the usual fragments, which have arguments
            if call.function is None or not call.function.arguments:
                calls = piece.nonempty_tool_calls
                break
        if self._calls is None:
            self._uses_deprecated_field = not calls
            self._reads_usual_calls = self._reads_usual_calls and not self._uses_deprecated_field
        if self._uses_deprecated_field:
            calls = piece.deprecated_calls or (calls if source == "message" else None)
        if not calls:
            return
        place_of_details = len(deltas)
        if self._text is not None:
            deltas += self._text.finish()
        if self._calls is None:
            self._calls = ToolCallDecoder(self._call, self._text.doubled if self._text is not None else None)
            self._calls.has_stopped = self._stop is not None
            self._is_plain = False
        for call in calls:
            if call.extra_content is not ABSENT or piece.extra_content is not ABSENT:
                self._sign_call(call.extra_content if is_present(call.extra_content) else piece.extra_content, deltas)
            if source != "message":
                self._calls.read_fragment(call, deltas, is_complete=source == "body")
        if source == "message":
            self._calls.read_message(calls, deltas)
        if self._calls.held_characters > MAX_REPAIRED_ON_LOOP:
            self.bytes_on_loop = -1
        if self._details is not None:  # after the ids of the calls are known
            self._sign_details(deltas, place_of_details)

    def _sign_details(self, deltas: list[Delta], place: int | None = None) -> None:
        """Insert the reasoning details so far as a thinking delta at `place`. None: at the end."""
        assert self._details is not None
        details = self._details.pop_json({} if self._calls is None else self._calls.replaced_ids)
        if details:
            signature = encode_signature(self._tag, ReasoningState(encrypted=details))
            deltas.insert(len(deltas) if place is None else place, Thinking(signature=signature))

    def _sign_call(self, extra: Raw, deltas: list[Delta]) -> None:
        """Append the thought signature of the first tool call, in `extra_content`, as a thinking delta."""
        if not is_present(extra) or self._calls is None or self._calls.call_count:
            return
        content = decode_repaired(extra)
        google = content.get("google") if isinstance(content, dict) else None
        signature = google.get("thought_signature") if isinstance(google, dict) else None
        if isinstance(signature, str) and signature:
            carry = ReasoningState(call_signature=signature, server_digest=digest_base_url(self._call.base_url))
            deltas.append(Thinking(signature=encode_signature(self._tag, carry)))

    def _finish(self, reason: str, deltas: list[Delta], *, is_last: bool = False) -> None:
        """End the reply for the first finish reason. `is_last`: True at the end of the response. Before it, arguments
        may follow the reason.
        """
        if self._stop is not None or self._unreadable is not None:
            return
        kind = find_finish_kind(reason, self._native_reason)
        if self._calls is not None and kind in {"end", "calls"}:
            self._calls.are_stated = kind == "calls"
            if self._calls.has_cut_arguments():
                if not is_last:
                    self._postponed = reason
                    return
                if (self._usage.output_tokens or 0) >= self._call.request.max_tokens:
                    kind = "limit"  # vLLM still sends `tool_calls`
        is_early = kind not in {"end", "calls"}
        if is_early:
            if reason in NO_VALUES and self._call.streams_upstream:
                return
            if kind == "failed":
                fault = UpstreamFault(message=f"the answer ended with {reason!r}", codes=frozenset((reason,)))
                raise build_upstream_error(fault, self._call.provider_prefix)
            if kind == "unreadable":
                self._unreadable = build_unreadable_reply(self._call.provider_prefix, reason)
                return
            self._is_cut = True
        self._end_blocks(deltas, reply_ended_early=is_early, is_last=is_last)
        is_cut = self._calls is not None and self._calls.has_incomplete_arguments
        self._stop = build_stop(kind, self._call.provider_prefix, reason, refusal="".join(self._refusal), is_cut=is_cut)
        if self._stop.reason != "max_tokens" or self._call.context_window is None:
            self._emit_stop(deltas)

    def _end_blocks(self, deltas: list[Delta], *, reply_ended_early: bool, is_last: bool = True) -> None:
        if self._text is not None:
            is_text = not reply_ended_early and self._calls is None
            deltas += self._text.finish(reply_ended_early=reply_ended_early, is_text_reply=is_text)
            if not reply_ended_early and self._stop is None:
                self.has_unopened_reasoning = self._text.examine_text(self._content)
        if self._details is not None:
            self._sign_details(deltas)
        if self._server_tools is not None:
            deltas += self._server_tools.finish_searches()
        if self._calls is not None:
            is_early = reply_ended_early if self._stop is None else self._is_cut
            may_continue = not (is_last or is_early)
            self._calls.end_all_calls(deltas, reply_ended_early=is_early, may_continue=may_continue)
            if self._text is not None:
                deltas += self._text.make_postponed_calls()

    def _emit_stop(self, deltas: list[Delta]) -> None:
        if self._stop_emitted or self._stop is None:
            return
        self._stop_emitted = True
        usage = self._usage
        if self._stop.reason == "max_tokens" and usage.output_tokens is not None:
            read = (usage.input_tokens or 0) + (usage.cache_read_tokens or 0) + (usage.cache_write_tokens or 0)
            if self._call.is_window_filled(read + usage.output_tokens):
                self._stop = Stop("model_context_window_exceeded")
        deltas.append(self._stop)

    def _read_usage(self, chunk: Chunk, choice: Choice | None, deltas: list[Delta], data: bytes) -> None:
        for counts in (chunk.usage, choice.usage if choice else None, chunk.x_groq.usage if chunk.x_groq else None):
            if counts is None or (counts.prompt_tokens is None and counts.completion_tokens is None):
                continue
            # `Chunk` has no such field, so that only one event of a reply decodes it. OpenAI's events all have it.
            try:
                bill = decode_bill(data)
            except DECODE_ERRORS:
                bill = Bill()
            cost = None if bill.usage is None else bill.usage.read_nano_dollars()
            self._usage = decode_usage(counts, bill.service_tier, cost)
            deltas.append(self._usage)
            return


_TextField = Literal["content", "reasoning", "refusal"]


class FinalTexts:
    """Compares the texts of a `message` in a stream with their fragments."""

    def __init__(self, content: list[str], reasoning: list[str], refusal: list[str]) -> None:
        self.texts: dict[_TextField, DeliveredText] = {
            "content": DeliveredText(content),
            "reasoning": DeliveredText(reasoning),
            "refusal": DeliveredText(refusal),
        }

    def find_missing(self, message: ChoiceDelta, *, is_first: bool) -> ChoiceDelta:
        """Return what the fragments so far lack of the message, and all its calls. `is_first`: there are none."""
        reasoning = message.reasoning_content or message.reasoning or ""
        if self.texts["content"].size or self.texts["refusal"].size:
            reasoning = ""  # thinking must precede the text
        missing = message if is_first else ChoiceDelta()
        missing.tool_calls = message.calls
        missing.function_call = missing.reasoning = None
        missing.reasoning_content = self.texts["reasoning"].complete(reasoning)
        missing.content = self.texts["content"].complete(message.content or "")
        missing.refusal = self.texts["refusal"].complete(message.refusal or "")
        return missing


class FenceFilter:
    """Removes the code fence around JSON that the client requested by a schema.

    Many servers accept `response_format` and ignore it (getzep/graphiti pull 1291, laravel/ai pull 879). Text that does
    not begin with a fence passes as it arrives.
    """

    def __init__(self) -> None:
        self._held: list[str] = []
        self._start = ""
        """First characters of the text, without white space, until they show whether it begins with a fence."""
        self._passes = False

    def feed(self, deltas: list[Delta]) -> list[Delta]:
        forwarded: list[Delta] = []
        for delta in deltas:
            if isinstance(delta, Text) and not self._passes:
                self._held.append(delta.text)
                if len(self._start) < len(FENCE):
                    self._start = (self._start + delta.text).lstrip()[: len(FENCE)]
                    if not FENCE.startswith(self._start):
                        forwarded += self.flush()
                        self._passes = True
                continue
            if not isinstance(delta, Text | Thinking | Usage):  # the text has ended
                forwarded += self.flush()
                self._passes = False
            forwarded.append(delta)
        return forwarded

    def flush(self) -> list[Delta]:
        """Return the buffered text: its JSON, or all of it if it has none."""
        text = "".join(self._held)
        found = find_json(text) if self._start == FENCE else None
        self._held, self._start = [], ""
        return [Text(text if found is None else found[0])] if text else []


def decode_usage(counts: ChatUsage, tier: str | None = None, stated_cost: int | None = None) -> Usage:
    """Return a reply's token counts as the Messages API counts tokens. `tier`: the service tier that was billed."""
    within = counts.prompt_tokens_details or counts.prompt_token_details or _NO_DETAILS
    spent = counts.completion_tokens_details or _NO_DETAILS
    cached = within.cached_tokens
    read = counts.prompt_cache_hit_tokens or counts.cached_tokens
    read = read or counts.num_cached_tokens or counts.cache_read_input_tokens
    if read:
        cached = max(read, cached or 0)
    prompt = counts.prompt_tokens
    output = counts.completion_tokens
    thinking = spent.reasoning_tokens
    written = within.cache_write_tokens or within.cache_creation_input_tokens
    written = written or within.cache_creation_tokens or counts.cache_creation_input_tokens
    if prompt and (total := counts.total_tokens or 0) > prompt + (output or 0):
        prompt, output, thinking = explain_total(total, prompt, output, thinking, (cached or 0) + (written or 0))
    uncached, cached, written = split_input_tokens(prompt, cached, written)
    searches = (counts.server_tool_use_details or _NO_TOOL_COUNTS).web_search_requests
    return Usage(
        input_tokens=uncached,
        output_tokens=output,
        cache_read_tokens=cached,
        cache_write_tokens=written,
        thinking_tokens=thinking,
        web_search_requests=searches,
        billed_searches=searches,
        billed_tier=tier,
        stated_cost=stated_cost,
    )


_JOINED = ("text", "summary", "data", "signature")
"""String fields of an entry of `reasoning_details`. A stream sends them in fragments, which are joined."""


class _ReasoningDetail(Struct):
    """One entry of `reasoning_details`, of which several fragments may have a part."""

    fields: dict[str, Any] = {}
    texts: dict[str, list[str]] = {}
    """Fragments of the fields that are joined: a text that grows by each of them would be copied each time."""

    def add(self, key: str, text: str) -> None:
        if (texts := self.texts.get(key)) is not None:
            texts.append(text)
        else:
            self.fields[key] = text  # keeps the place of the key
            self.texts[key] = [text]

    def join(self) -> dict[str, Any]:
        return self.fields | {key: "".join(texts) for key, texts in self.texts.items()}


class ReasoningDetailsBuffer:
    """Joins streamed fragments of `reasoning_details` into the list that later requests send back to OpenRouter."""

    def __init__(self) -> None:
        self._details: list[_ReasoningDetail] = []

    def feed(self, raw: Raw) -> None:
        """Add the fragments in `reasoning_details` of one chunk (a JSON list of objects)."""
        for fragment in _objects(raw):
            last = self._details[-1] if self._details else None
            if (
                last is None
                or any(last.fields.get(key) != fragment.get(key) for key in ("type", "index"))
                or fragment.get("id") not in (None, last.fields.get("id"))
            ):
                last = _ReasoningDetail()
                self._details.append(last)
                last.fields.update(fragment)
            for key, value in fragment.items():
                if key in _JOINED and isinstance(value, str):
                    last.add(key, value)
                elif value is not None:
                    last.fields[key] = value
                    last.texts.pop(key, None)

    def pop_json(self, replaced_ids: Mapping[str, str]) -> str:
        """Return the joined list as JSON text and clear the buffer. "": the buffer is empty.

        `replaced_ids`: see `ToolCallDecoder.replaced_ids`. OpenRouter finds the call of an entry by its id.
        """
        details, self._details = self._details, []
        for detail in details:
            call_id = detail.fields.get("id")
            if isinstance(call_id, str) and call_id in replaced_ids:
                detail.fields["id"] = replaced_ids[call_id]
        return msgspec.json.encode([detail.join() for detail in details]).decode() if details else ""


def reasoning_details_text(raw: Raw) -> str:
    """Return the texts and summaries of all entries in `reasoning_details`, concatenated."""
    texts = (detail.get("text") or detail.get("summary") for detail in _objects(raw))
    return "".join(text for text in texts if isinstance(text, str))


def describe_images(raw: Raw) -> str:
    """Return the text that replaces the generated images in `images`, one line each. "": there are none."""
    addresses = (image["image_url"].get("url") for image in _objects(raw) if isinstance(image.get("image_url"), dict))
    return "\n".join(describe_generated_image(url) for url in addresses if isinstance(url, str) and url)


def _objects(raw: Raw) -> list[dict[str, Any]]:
    content = decode_repaired(raw)
    return [detail for detail in content if isinstance(detail, dict)] if isinstance(content, list) else []


_EMPTY_OBJECTS = dict.fromkeys(map(ord, "{}"))
_NO_FUNCTION = FunctionCall()
_MAX_REPEATED_CHARACTERS = 4 * 1024 * 1024
"""Maximum number of characters of arguments that complete messages are compared with beyond their own."""
_MAX_ANNOUNCED = 32
"""Maximum number of calls that are announced at one index before their arguments."""
_CHARACTERS_OF_CALL = 32
"""Characters of arguments whose repair takes as long as the end of a call."""
_REPEATED = "{}"
"""In place of the arguments of a call that only repeats another one."""


class _OpenCall:
    __slots__ = (
        *("announced", "arguments", "before", "ended", "event", "has_index", "held", "id", "is_shown", "is_wrapper"),
        *("joined", "key", "lent_index", "name", "name_start", "own_name", "place", "written"),
    )

    def __init__(self, key: int, upstream_id: str, event: list[Delta], *, has_index: bool, held: bool) -> None:
        self.key = key
        self.id = upstream_id
        self.name = ""
        self.name_start = ""
        """Name so far, if it may be the beginning of a longer one: the call waits for the next fragment."""
        self.own_name = ""  # the client's
        self.place = -1
        """Index in `ToolCallDecoder._known`. -1: it is not there."""
        self.arguments = ArgumentsReader()
        self.held = held  # until the arguments are complete
        self.has_index = has_index
        """False: its first fragment had none, and the next one may state it."""
        self.is_shown = False
        """True if the client knows the call."""
        self.is_wrapper = False  # of several calls, which begin when it is complete
        self.event = event
        """The deltas of the event that began the call."""
        self.before: _OpenCall | None = None
        """The whole call that this one may only repeat: the server has joined them, or they have one id or place. Such
        a call begins when it is complete. None: it stands alone."""
        self.joined: _OpenCall | None = None
        """The call that continues this one."""
        self.announced: list[_OpenCall] = []
        """The calls that were announced at one index without arguments, up to this one. As many objects as calls
        follow, in their order. Empty: no other one was."""
        self.lent_index: int | None = None
        """Index of no call at which its arguments came. They are those of a call that is named there later."""
        self.written: DeliveredText | None = None
        """Arguments so far. None: no final object has repeated them."""
        self.ended = False

    @property
    def keys(self) -> Keys:
        return _build_keys(self.id, self.name or self.name_start)

    @property
    def moves_up(self) -> bool:
        """True if an object that follows its arguments is its own, and these belong to the call before it."""
        return bool(self.announced) and self.announced[-1] is self and not self.announced[0].arguments.text

    def move_up(self) -> None:
        """Give the arguments of each call that was announced with this one to the one before."""
        for one, after in pairwise(self.announced):
            one.arguments, one.held = after.arguments, True
        self.arguments = ArgumentsReader()

    def find_new(self, text: str) -> str:
        """Return what is new in a fragment of the arguments."""
        return text if self.written is None else self.written.add(text)

    def list_joined(self) -> "list[_OpenCall]":
        """Return the call and those that continue it."""
        calls = [self]
        while (after := calls[-1].joined) is not None:
            calls.append(after)
        return calls


def _build_keys(call_id: str | None, name: str | None) -> Keys:
    """Return what identifies a call of a stream or of a complete message."""
    return ((call_id, name) if call_id and name else None, call_id or None, "")


class ToolCallDecoder:
    """Converts the tool call fragments of one response into deltas.

    Fragments with the same `index` belong to one call. Some servers omit `index` or ids, repeat an id (Kimi:
    vllm-project/vllm issue 50295), make a new id for each fragment, or use index 0 for every call. So id, index and
    name decide together: a call begins with a fragment that no open call can own (`_find`), and with text behind the
    whole arguments of another one (`ArgumentsReader`). Some servers send a call once more after its end, or end it by a
    fragment with its name and without arguments: this is no second call (`_find_repeated`). A call without a name waits
    for one, with its arguments.
    """

    def __init__(self, call: TranslatedCall[Dialect], doubled: DoubledCalls | None = None) -> None:
        """`doubled`: compares the calls with those in the text. None: the text has none."""
        self._call = call
        self._doubled = doubled
        self._slots: dict[int, _OpenCall] = {}
        self._by_id: dict[str, _OpenCall] = {}
        self._last: _OpenCall | None = None
        self._open: dict[int, _OpenCall] = {}
        self._changed: dict[int, _OpenCall] = {}
        """Open calls that have received arguments since `end_complete_calls` looked at them."""
        self._known: list[_OpenCall] = []
        """All calls with an entry of their own, in order of their beginning."""
        self._parts: KnownParts | None = None
        """The same by their keys. None: no complete message was compared with them."""
        self._repeated_characters = 0
        """Characters that complete messages state shorter than they are known."""
        self.call_count = 0
        self.has_incomplete_arguments = False
        self.are_stated = False
        """True if the finish reason states calls."""
        self.has_stopped = False
        """True after the finish reason: a call that begins now is made only if it becomes complete."""
        self.held_characters = 0
        """Characters of arguments that may be repaired at the end of the reply."""
        self._ids = ToolCallIds(call)
        self.replaced_ids: dict[str, str] = {}
        """The provider's id of a tool call → id that the client received, if it is another one."""
        self._holds: bool = call.dialect.buffers_tool_arguments
        self.repair = ToolCallRepair(call, names=call.dialect.repairs_tool_names)
        """Repairs tool names and arguments if the server requires it. Its notes record the repairs."""

    def read_fragment(self, fragment: ToolCallDelta, deltas: list[Delta], *, is_complete: bool = False) -> None:
        """`is_complete`: True for a call of a complete reply, which continues no other one."""
        function = fragment.function or _NO_FUNCTION
        if fragment.id is None and function.name is None and fragment.index is not None:
            known = self._slots.get(fragment.index)
            if known is not None and known.name and not known.ended:  # the usual fragment
                if text := known.find_new(function.arguments or ""):
                    self._feed(known, text, fragment, deltas)
                return
        if function.name in NO_VALUES and function.name not in self._tool_names:
            function.name = None
        if fragment.id in NO_VALUES:
            fragment.id = None
        call = None if is_complete else self._find(fragment, function, deltas)
        if call is not None and call.ended:  # a blank fragment: `_find` rejects others
            return
        if call is None:
            before = None if is_complete else self._find_repeated(fragment, function, deltas)
            call = self._begin(fragment, deltas)
            if before is None:
                self._add_known(call)
            else:
                call.before, call.held = before, True
        self._add(call, fragment, call.find_new(function.arguments or ""), deltas)

    def read_usual_fragment(self, fragment: ToolCallDelta, deltas: list[Delta]) -> bool:
        """Read a fragment that has a part of the arguments of an open call and nothing else, or return False.

        Almost all fragments are such ones.
        """
        function = fragment.function
        if function is None or function.name is not None or fragment.id is not None or fragment.index is None:
            return False
        call, text = self._slots.get(fragment.index), function.arguments
        if call is None or call.held or call.ended or not call.name or fragment.extra_content is not ABSENT:
            return False
        if not text or not call.arguments.take(text):
            return False
        deltas.append(ToolArgs(call.key, text))
        return True

    def _add(self, call: _OpenCall, fragment: ToolCallDelta, arguments: str, deltas: list[Delta]) -> None:
        function = fragment.function or _NO_FUNCTION
        if not call.name and (function.name or (call.name_start and arguments)):
            name = function.name or ""
            if not name.startswith(call.name_start):
                name = call.name_start + name
            call.name_start = name
            if arguments or not self._is_start(name):
                self._end_name(call, deltas)
        if arguments:
            self._feed(call, arguments, fragment, deltas)

    def _is_start(self, name: str) -> bool:
        """Return True if a name may be the beginning of that of a tool."""
        names = self._tool_names
        place = bisect_right(names, name)  # behind an equal name
        return place < len(names) and names[place].startswith(name)

    @cached_property
    def _tool_names(self) -> Sequence[str]:
        return sorted([tool.name for tool in self._call.request.tools])

    def _end_name(self, call: _OpenCall, deltas: list[Delta]) -> None:
        """The name of the call is complete."""
        name, call.name_start = call.name_start, ""
        before = call.before
        if before is not None and name != before.name:  # another tool, so another call
            call.before, call.held = None, self._holds
            self._add_known(call)
        elif before is not None:
            call.name, call.own_name, call.is_wrapper = before.name, before.own_name, before.is_wrapper
            return
        if is_parallel_wrapper(name, self._call):
            self._set_name(call, name, name)
            call.held = call.is_wrapper = True
            return
        self._set_name(call, name, self.repair.repair_name(name))
        if self.has_stopped or (self._doubled is not None and self._doubled.has_in_text(call.own_name)):
            call.held = True  # the call begins when it is complete, if it is another one
            return
        if self._doubled is not None:
            self._doubled.begin(call.own_name)
        self._name(call, deltas)

    def _add_known(self, call: _OpenCall) -> None:
        call.place = len(self._known)
        self._known.append(call)
        if self._parts is not None:
            self._parts.add(call.keys)

    def _set_name(self, call: _OpenCall, name: str, own_name: str) -> None:
        call.name, call.own_name = name, own_name
        if self._parts is not None and call.place >= 0 and (key := call.keys[0]) is not None:
            self._parts.add_key(call.place, 0, key)

    def read_message(self, calls: Sequence[ToolCallDelta], deltas: list[Delta]) -> None:
        """Read the calls of a complete message, of which the stream may have sent fragments: add what is missing."""
        final = [_build_keys(whole.id, whole.function.name if whole.function else None) for whole in calls]
        known = self._known
        if self._parts is None:
            self._parts = KnownParts(call.keys for call in known)
        counterparts = self._parts.find_counterparts(final)
        for position, (whole, index) in enumerate(zip(calls, counterparts, strict=True)):
            if index is None:
                if whole.index is None and position not in self._slots:
                    whole.index = position
                self.read_fragment(whole, deltas, is_complete=True)
                self._known[-1].written = DeliveredText.ahead_of_fragments(self._known[-1].arguments.text)
            else:
                self._complete(known[index], whole, deltas)

    def _complete(self, call: _OpenCall, whole: ToolCallDelta, deltas: list[Delta]) -> None:
        """Append what the fragments so far lack of a complete call. Raises `UpstreamProtocolError` if they differ."""
        function = whole.function or _NO_FUNCTION
        if function.name and call.name and function.name != call.name:
            raise self._call.build_call_error(f"it has two names, {call.name!r} and {function.name!r}")
        if call.written is not None:
            self._repeated_characters += max(0, call.written.size - len(function.arguments or ""))
            if self._repeated_characters > _MAX_REPEATED_CHARACTERS:
                raise self._call.build_call_error("it is stated too often")
        calls = call.list_joined()
        if call.written is None:
            call.written = calls[-1].written = DeliveredText([one.arguments.text for one in calls])
        arguments = "".join(divide_arguments(function.arguments or ""))
        is_other = call.ended or is_other_call(whole.id, call.id)
        missing = None if is_other else call.written.complete(arguments)
        if missing is not None:
            self._add(calls[-1], whole, missing, deltas)
        elif not means_no_arguments(arguments) and not repeats_arguments(
            call.written.text, arguments, is_named=bool(whole.id) and whole.id == call.id
        ):
            raise self._call.build_call_error("its fragments differ from its complete arguments")

    def _begin(self, fragment: ToolCallDelta, deltas: list[Delta]) -> _OpenCall:
        index, known = fragment.index, None
        if index is not None and fragment.function is not None and fragment.function.name:
            known = self._slots.get(index)
        lent: ArgumentsReader | None = None
        if known is not None and known.lent_index == index and not known.ended:
            lent, known.arguments = known.arguments, ArgumentsReader()
        self.end_complete_calls(deltas)
        call = _OpenCall(self.call_count, fragment.id or "", deltas, has_index=index is not None, held=self._holds)
        if lent is not None:
            call.arguments = lent
        elif known is not None and not (known.ended or known.arguments.text) and len(known.announced) < _MAX_ANNOUNCED:
            call.announced = known.announced or [known]
            call.announced.append(call)
            call.held = True
        self._last = call
        self.call_count += 1
        self.held_characters += _CHARACTERS_OF_CALL
        self._open[call.key] = call
        if fragment.index is not None:
            self._slots[fragment.index] = call
        if fragment.id:
            self._by_id[fragment.id] = call
        return call

    def _feed(self, call: _OpenCall, text: str, fragment: ToolCallDelta, deltas: list[Delta]) -> None:
        """Add a text to the arguments of a call. What follows a whole object begins the next call of the same tool."""
        self._changed[call.key] = call
        self.held_characters += len(text) if self._holds else 0
        passed, end = call.arguments.feed(text)
        if passed and call.name and not call.held:
            deltas.append(ToolArgs(call.key, passed))
        while end < len(text):
            if call.moves_up:
                call.move_up()
                _, end = call.arguments.feed(text, end)
                continue
            before = call
            call = before.joined = self._begin(fragment, deltas)
            call.name, call.own_name, call.is_wrapper = before.name, before.own_name, before.is_wrapper
            call.before, call.held = before, True
            self._changed[call.key] = call
            _, end = call.arguments.feed(text, end)

    def flush_pending(self, deltas: list[Delta]) -> None:
        """Append the buffered arguments of open calls after an interruption. The calls are not ended."""
        for call in self._open.values():
            if call.held and call.is_shown and (text := call.arguments.text):
                call.arguments = ArgumentsReader()
                deltas.append(ToolArgs(call.key, text))

    def has_cut_arguments(self) -> bool:
        return any(is_truncated_object(call.arguments.text) for call in self._open.values())

    def end_complete_calls(self, deltas: list[Delta]) -> None:
        """Append the delta `ToolEnd` for each open tool call with complete arguments (a whole JSON object).

        Call this before text or thinking. Other calls stay open, because more of their fragments, or their names, may
        follow, or because the text may have the arguments that they lack.
        """
        changed, self._changed = self._changed, {}
        for call in changed.values():
            is_complete = call.arguments.is_whole and (self._doubled is None or not call.arguments.is_empty)
            if not call.ended and is_complete and (call.name or call.name_start):
                self._end(call, deltas)

    def end_all_calls(
        self, deltas: list[Delta], *, reply_ended_early: bool = False, may_continue: bool = False
    ) -> None:
        """Append `ToolEnd` for every open call to `deltas`. `may_continue`: a call without arguments stays open.

        A call without a name and without arguments is removed, and a cut one that began after the finish reason. Raises
        `UpstreamProtocolError` if the name of another call is missing.
        """
        for call in list(self._open.values()):
            text = call.arguments.text
            is_late = self.has_stopped and not call.is_shown
            if (is_late and (reply_ended_early or is_truncated_object(text))) or (
                not (call.name or call.name_start) and self._is_no_call(text)
            ):
                del self._open[call.key]
                call.ended = True
                continue
            if may_continue and not text.strip() and self._find_in_text(call, text) is None:
                continue
            text = self._end(call, deltas, reply_ended_early=reply_ended_early)
            if is_truncated_object(text) or (reply_ended_early and not text):
                self.has_incomplete_arguments = True
        self.has_stopped = True

    def _is_no_call(self, arguments: str) -> bool:
        """Return True for arguments without a name that are nothing, or empty objects beside another call or before a
        finish reason that states no calls (litellm issue 9127).
        """
        if arguments.translate(_EMPTY_OBJECTS).strip():
            return False
        return not (arguments.strip() and self.are_stated) or any(other.name for other in self._known)

    def _name(self, call: _OpenCall, deltas: list[Delta]) -> None:
        call.is_shown = True
        client_id = self._ids.assign_client_id(call.id)
        if client_id != call.id:
            self.replaced_ids[call.id] = client_id
        deltas.append(ToolCall(call.key, client_id, call.own_name))
        if not call.held and (text := call.arguments.passed):
            deltas.append(ToolArgs(call.key, text))

    def _end(self, call: _OpenCall, deltas: list[Delta], *, reply_ended_early: bool = False) -> str:
        """Append the buffered deltas and the `ToolEnd` of a call. Return the arguments of the call."""
        text = call.arguments.text
        if call.name_start:
            self._end_name(call, deltas)
        is_known = self._ids.ended_calls.repeats(call.id, call.name, text, call.event)
        if (before := call.before) is not None:
            if is_known or not text.strip() or is_same_object(before.arguments.text, text):
                del self._open[call.key]
                call.ended = True
                return _REPEATED
            call.before = None
            if before.joined is not call:
                self._add_known(call)
        if not call.name:
            name = self.repair.find_name_by_arguments(text)
            if name is None:
                raise self._call.build_protocol_error(" sent a tool call without a name.")
            self._set_name(call, name, name)
        del self._open[call.key]
        call.ended = True
        if call.is_wrapper:
            wrapped = split_wrapper(call.id, text)
            if wrapped is not None:
                for position, one in enumerate(wrapped):
                    name = self.repair.repair_name(one.name)
                    if not self._is_in_text(name, one.arguments):
                        key = f"{call.key}.{position}"
                        deltas += self._ids.build_whole_call(key, one.upstream_id, name, one.arguments)
                return text
            call.own_name = self.repair.repair_name(call.name)
        if call.held and text and self._holds and not reply_ended_early:
            text = self.repair.repair_arguments(text, call.own_name)
        passed = "" if call.held else call.arguments.passed
        held = text if call.held else call.arguments.finish()
        if (written := self._find_in_text(call, text)) is not None:
            text, held = written, written.lstrip().removeprefix(passed.strip())
        if self._is_in_text(call.own_name, text, has_begun=call.is_shown):
            return _REPEATED
        if not call.is_shown:
            self._name(call, deltas)
        if held:
            deltas.append(ToolArgs(call.key, held))
        deltas.append(ToolEnd(call.key))
        return text

    def _find_in_text(self, call: _OpenCall, arguments: str) -> str | None:
        """Return the arguments that a call, which ends, has in the text. None: it has them itself, or none."""
        return None if self._doubled is None else self._doubled.find_arguments(call.own_name, arguments)

    def _is_in_text(self, name: str, arguments: str, *, has_begun: bool = False) -> bool:
        """Return True if a call, which ends, is one of the text. `has_begun`: the client has its beginning."""
        return self._doubled is not None and self._doubled.add(name, arguments, has_begun=has_begun)

    def _find(self, fragment: ToolCallDelta, function: FunctionCall, event: list[Delta]) -> _OpenCall | None:
        """Return the call that a fragment continues. None: the fragment begins a new call.

        Its id, its index and its name decide together, because servers state each of them wrongly:

        | the fragment has | the call, if `_owns` agrees |
        | --- | --- |
        | the index of a call, and its id or none | that one; but without id and name, not one that has ended |
        | the id of a call, and the index of another one or none | the latest one with this id |
        | the index of a call, and an unknown id | that one, because some servers make an id for each fragment |
        | an index of no call | one that waits for the fragment (`_find_waiting`) |
        | no index, no known id and no name | the latest one |
        """
        index, name = fragment.index, function.name
        of_id = self._by_id.get(fragment.id) if fragment.id else None
        if index is None:
            call = of_id or (None if name else self._last)
        else:
            call = self._slots.get(index)
            if call is not None and is_other_call(fragment.id, call.id):
                call = of_id or call
            elif call is None or (
                call.ended
                and not (fragment.id or name)
                and not is_same_object(call.arguments.text, function.arguments or "")
            ):
                call = self._find_waiting(index, fragment.id, function) or call
        return call if call is not None and self._owns(call, fragment, function, event) else None

    def _find_waiting(self, index: int, call_id: str | None, function: FunctionCall) -> _OpenCall | None:
        """Return the call that takes a fragment with the index of no open call. None: there is none.

        That is the one with its id, if it has no arguments or no name follows them (Azure gives several calls one id),
        or else the latest one: if it had no index so far, or if it has no arguments or open ones and no name follows.
        """
        name = function.name
        of_id = self._by_id.get(call_id) if call_id else None
        call = of_id or self._last
        if call is None or is_other_call(call_id, call.id) or (name and call.name not in ("", name)):
            return None
        arguments = call.arguments
        if of_id is not None:
            waits = arguments.is_empty or not (name or arguments.is_whole)
        elif call.has_index:
            waits = not name and (call.moves_up or arguments.may_continue_with(function.arguments or ""))
        else:
            waits = not arguments.is_whole
        if not (waits and not call.ended) and (of_id is None or call.written is None):
            return None
        if of_id is None and arguments.is_empty and not name:
            call.lent_index, call.held = index, True
        call.has_index = True
        self._slots[index] = call
        return call

    def _owns(self, call: _OpenCall, fragment: ToolCallDelta, function: FunctionCall, event: list[Delta]) -> bool:
        """Return True if a fragment with the index or the id of a call belongs to it. If the call has ended, it adds
        nothing. Raises `UpstreamProtocolError` if it would continue a complete call.

        Some servers make a new id for each fragment. Such a fragment has no name, or repeats the name and continues
        the arguments. Two names in one event are two calls, if the first has no arguments.
        """
        name, text, known = function.name, function.arguments or "", call.arguments
        if is_other_call(fragment.id, call.id):
            if not call.name or (name and name != call.name):
                return False
            if call.ended and (name or (text.strip() and not is_same_object(known.text, text))):
                return False
            is_beside = call.event is event and not known.is_open
            if name and not call.ended and (is_beside or not known.may_continue_with(text)):
                return False
        if not call.ended:
            # some servers give several calls one id, or none: the name distinguishes the next one from a repeated name
            is_same = not name or call.name in ("", name)
            return is_same or (bool(fragment.id) and self.repair.repair_name(name or "") == call.own_name)
        if (call.written is None and (name or (fragment.id and not call.id))) or (name and name != call.name):
            return False
        arguments = call.find_new(text)
        if arguments.strip() and not is_same_object(known.text, arguments):
            raise self._call.build_protocol_error(" continued a tool call that was complete.")
        return True

    def _find_repeated(self, fragment: ToolCallDelta, function: FunctionCall, event: list[Delta]) -> _OpenCall | None:
        """Return the whole call that a new one may repeat, because they have the same index or id. None: there is none.

        Several calls of one event may have the same id (`EndedCalls.repeats`).
        """
        call = None if fragment.index is None else self._slots.get(fragment.index)
        if call is None or is_other_call(fragment.id, call.id):
            call = self._by_id.get(fragment.id) if fragment.id else None
            call = call.before if call is not None and call.event is event else call
        if call is None or (function.name and call.name and not call.name.startswith(function.name)):
            return None
        return (call.before or call) if call.ended or call.arguments.is_whole else None
