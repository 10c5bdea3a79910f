"""Decoder of Gemini responses, streamed or complete, into deltas.

Each frame of a stream has new content and the token counts so far. No frame is marked as the last: token counts may
follow the finish reason, and old models repeat the finish reason in each frame. So the decoder ends the reply at the
first finish reason, reads on for counts and for a reason that is no normal end, and raises a late error in
`decode_end`. A last frame that is sent twice counts once, as does a call with the same id. Citations arrive after the
text that they refer to. If a reply may have citations, its text is buffered until they are known (`_Grounding`). A tool
call arrives complete.

The structs have the fields that the proxy decodes, with Google's names. A response has `Candidate`s, which are
alternative replies. A candidate has a `Content`, which is a list of `Part`s: texts, calls and files. Grounding is
Google's term for a web search: a `GroundingChunk` is a source, a `GroundingSupport` a citation of a `Segment` of the
reply. Every field may be missing or null. Source: API reference (2026-11) and recorded traffic.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from anthropic_proxy.engine.messages.deltas import (
    Block,
    Citation,
    Delta,
    Stop,
    Text,
    Thinking,
    Usage,
)
from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.messages.models.raw_json import ABSENT, is_present
from anthropic_proxy.engine.messages.server_blocks import (
    SERVER_TOOL_ID_PREFIX,
    FetchError,
    describe_generated_file,
    encode_citation,
    encode_code_execution_call,
    encode_code_execution_error,
    encode_code_result,
    encode_fetch_call_and_result,
    encode_search_call_and_result,
    is_domain_allowed,
)
from anthropic_proxy.engine.messages.server_blocks import SearchResultPage as Result
from anthropic_proxy.engine.patterns import compile_anchored
from anthropic_proxy.engine.wires.calls import TranslatedCall
from anthropic_proxy.engine.wires.contract import Decoder
from anthropic_proxy.engine.wires.failures import (
    UpstreamFault,
    build_call_error,
    find_reply_end,
    read_error_field,
    read_own_words,
)
from anthropic_proxy.engine.wires.failures.quoted_prompts import describe_quotes
from anthropic_proxy.engine.wires.foreign_lines import (
    is_end_mark,
    is_part_of_reply,
)
from anthropic_proxy.engine.wires.gemini.dialect import Dialect
from anthropic_proxy.engine.wires.gemini.partial_calls import OpenCalls, PartialArg
from anthropic_proxy.engine.wires.gemini.tools import GoogleTools, find_google_tools
from anthropic_proxy.engine.wires.json_repair import (
    DECODE_ERRORS,
    decode_or_empty,
    decode_or_repair,
    parse_token_count,
    repair_json,
)
from anthropic_proxy.engine.wires.reply_ends import (
    NO_VALUES,
    NORMAL_ENDS,
    build_blocked_reply_stop,
    build_stop,
    find_finish_kind,
    split_input_tokens,
)
from anthropic_proxy.engine.wires.thinking import (
    MAX_SEARCH_SIGNATURE_BYTES,
    ReasoningState,
    empty_signature,
    encode_signature,
)
from anthropic_proxy.engine.wires.tool_call_repair import ToolCallRepair
from anthropic_proxy.engine.wires.tools import ToolCallIds
from anthropic_proxy.errors import UnreadableReply


class FunctionCall(Struct, rename="camel", gc=False):
    name: str | None = None
    args: Raw = ABSENT
    id: str | None = None
    """None: older models."""
    partial_args: list[PartialArg] | None = None
    """Pieces of the arguments. They are sent only if the request has `streamFunctionCallArguments`, which a settings
    file can add."""
    will_continue: bool | None = None
    """True: another part continues the call, without its name. It ends with a part without this field."""


class InlineData(Struct, rename="camel", gc=False):
    mime_type: str | None = None
    data: str | None = None


class ExecutableCode(Struct, rename="camel", gc=False):
    code: str | None = None
    id: str | None = None
    """Id that the result of the program repeats. None: older models."""


class CodeExecutionResult(Struct, rename="camel", gc=False):
    outcome: str | None = None
    """`OUTCOME_OK` or an error code."""
    output: str | None = None
    id: str | None = None
    """Id of the program. None: older models."""


class ToolUseArguments(Struct, gc=False):
    queries: list[str] | None = None


class ServerToolCall(Struct, gc=False):
    args: ToolUseArguments | None = None
    """Only the arguments of the web search are decoded."""


class Part(Struct, rename="camel", gc=False):
    """Part of a reply. One content field is set, or several by some servers; `thought_signature` may be set too."""

    text: str | None = None
    thought: bool | None = None
    """True if `text` is thinking and not reply text."""
    thought_signature: str | None = None
    """Opaque state of the model's reasoning before this part, in base64. Later requests send it back."""
    function_call: FunctionCall | None = None
    inline_data: InlineData | None = None
    executable_code: ExecutableCode | None = None
    code_execution_result: CodeExecutionResult | None = None
    tool_call: Raw = ABSENT
    tool_response: Raw = ABSENT
    """Call of a tool that Google runs itself, and its result: the results of a search are only in the signature."""


class Content(Struct, gc=False):
    parts: list[Part] | None = None


class WebSource(Struct, gc=False):
    uri: str | None = None
    """Redirect URL of Google to the page."""
    title: str | None = None
    domain: str | None = None
    """Domain of the page. Only Vertex AI sends the field."""


class GroundingChunk(Struct, gc=False):
    """Source of the provider's web search results."""

    web: WebSource | None = None
    """The web page. None: a source of another type."""


class Segment(Struct, gc=False):
    """Passage of the reply text that cites sources."""

    text: str | None = None


class GroundingSupport(Struct, rename="camel", gc=False):
    """Citation: a passage of the reply, and the sources that support it."""

    segment: Segment | None = None
    grounding_chunk_indices: list[int] | None = None
    """Indices of the sources in `GroundingMetadata.grounding_chunks`."""


class GroundingMetadata(Struct, rename="camel", gc=False):
    web_search_queries: list[str] | None = None
    grounding_chunks: list[GroundingChunk] | None = None
    grounding_supports: list[GroundingSupport] | None = None


class UrlMetadata(Struct, rename="camel", gc=False):
    """URL that the provider fetched."""

    retrieved_url: str | None = None
    url_retrieval_status: str | None = None
    """`URL_RETRIEVAL_STATUS_SUCCESS` or an error."""


class UrlContextMetadata(Struct, rename="camel", gc=False):
    url_metadata: list[UrlMetadata] | None = None


class Candidate(Struct, rename="camel", gc=False):
    """One reply of the model, or its next fragment. The proxy requests one. Of those with another index, only calls
    are read, and only if the first one has none."""

    content: Content | None = None
    finish_reason: str | None = None
    """Reason for the end of the reply: `STOP`, `MAX_TOKENS`, `SAFETY`, … None: the reply goes on."""
    finish_message: str | None = None
    """Explanation of the finish reason. May contain the complete reply."""
    continuation_token: str | None = None
    """Token for a request that continues this reply. Only with the finish reason `CONTINUATION`."""
    index: int | None = None
    """Number of the candidate, from 0. None: 0."""
    grounding_metadata: GroundingMetadata | None = None
    url_context_metadata: UrlContextMetadata | None = None


class PromptFeedback(Struct, rename="camel", gc=False):
    block_reason: str | None = None
    block_reason_message: str | None = None


class UsageMetadata(Struct, rename="camel", gc=False):
    """Token counts of the reply so far. A later frame replaces the counts of earlier frames."""

    prompt_token_count: int | None = None
    """Input tokens, cached input included."""
    tool_use_prompt_token_count: int | None = None
    """Input from results of server tools, not included in `prompt_token_count`."""
    cached_content_token_count: int | None = None
    """Input tokens read from the cache, included in `prompt_token_count`."""
    candidates_token_count: int | None = None
    """Output tokens without thinking."""
    thoughts_token_count: int | None = None
    """Output tokens of thinking, not included in `candidates_token_count`."""
    service_tier: str | None = None
    """Service tier of AI Studio: `standard`, `flex`, `priority`."""
    traffic_type: str | None = None


class GenerateContentResponse(Struct, rename="camel", gc=False):
    candidates: list[Candidate] | None = None
    prompt_feedback: PromptFeedback | None = None
    usage_metadata: UsageMetadata | None = None
    error: Raw = ABSENT
    """Error object of the provider, in a stream that began with status 200."""

    @property
    def is_bare(self) -> bool:
        """True if no field of a reply was sent, and no error in its field."""
        is_reply = self.candidates is not None or self.prompt_feedback is not None or self.usage_metadata is not None
        return not is_reply and read_error_field(self.error) is None


CALLS_BEFORE = "callsBefore"
"""Field of a part about a tool of Google in a signature: number of the following calls that stood before it."""
_decode_list = msgspec.json.Decoder(list[GenerateContentResponse]).decode
decode_strict_reply = msgspec.json.Decoder(GenerateContentResponse).decode
"""Decode a response or frame. Raises `msgspec.ValidationError` for unexpected types."""

_TIER_FIELDS = ("serviceTier", "trafficType")


def decode_replies(data: bytes) -> list[GenerateContentResponse]:
    """Decode one frame of a streamed Gemini response, or a complete response, which may be a list.

    Raises `msgspec.DecodeError` for invalid JSON, and for values of unexpected types. Token counts are an exception: a
    string of digits or a fraction becomes an integer, and a value of another type becomes None.
    """
    if data.lstrip()[:1] == b"[":
        return _decode_list(data)
    try:
        return [decode_strict_reply(data)]
    except msgspec.ValidationError:
        content = msgspec.json.decode(data)
        counts = content.get("usageMetadata") if isinstance(content, dict) else None
        if not isinstance(counts, dict):
            raise
        for name, value in counts.items():
            if name not in _TIER_FIELDS:
                counts[name] = parse_token_count(value)
            elif not isinstance(value, str):
                counts[name] = None
        return [decode_strict_reply(msgspec.json.encode(content))]


_CONTINUATION = "CONTINUATION"
"""Finish reason at the output limit of one request. Another request can continue the reply."""
_NOT_STATED = "_UNSPECIFIED"
"""End of the value 0 of each enum, which programs on protobuf write for what is not stated."""


_MAX_FINISH_MESSAGE_LENGTH = 300
"""Maximum number of characters of Gemini's `finishMessage` in an error. The text may contain the complete reply."""
_NO_ARGUMENTS = (b"", b"null", b"{}")
_NO_NAME = ": a function call has arguments, but no name"


class GeminiDecoder(Decoder):
    def __init__(self, call: TranslatedCall[Dialect]) -> None:
        self._call = call
        self.default_signature = empty_signature(call.dialect.signature_tag)
        own = find_google_tools(call.request, call.dialect)
        self._sources = _Grounding(call, own) if own.field_names else None
        self._programs = _CodeExecutions(call.new_id)
        self._open_searches = 0
        """Number of searches of Gemini whose results are expected."""
        self._held_calls: list[tuple[str, str | None, str, str]] = []
        """Calls behind an open search: name, id, signature, arguments. They follow its result, because no client may
        send a reply back that ends with thinking, which has the result."""
        self._open_calls = OpenCalls()
        self._usage = UsageMetadata()
        self._calls = 0
        self._ids = ToolCallIds(call)
        self._call_repair = ToolCallRepair(call, names=False)
        self._is_thinking = False
        """True if the last delta of the reply was thinking without a signature."""
        self._answered = False
        self._stopped = False
        self._ending_frame = b""
        """The latest frame with a finish reason and with token counts, which would grow with the reply."""
        self._ended_normally = False
        """True if the only finish reasons so far were normal ends. Old models repeat `STOP` in each frame, and a later
        reason that is no normal end counts."""
        self._unreadable: UnreadableReply | None = None
        self.continuation_token: str | None = "" if call.dialect.accepts_continuation else None
        """Token that continues this reply in another request. "": the reply is complete. None: the model does not
        support it."""

    @property
    def notes(self) -> Sequence[FidelityNote]:
        return self._call_repair.notes

    def decode_frame(self, frame: bytes) -> list[Delta]:
        deltas: list[Delta] = []
        if frame == self._ending_frame:
            return deltas
        try:
            reply = decode_strict_reply(frame)
        except DECODE_ERRORS:
            for reply in self._replies_in(frame, self.repair_frame, deltas):
                self._read(reply, frame, deltas)
        else:
            if reply.candidates is None and reply.is_bare:
                self._fail(self.find_error(frame), deltas)
            self._read(reply, frame, deltas)
            if self._stopped and reply.usage_metadata is not None:
                self._ending_frame = frame
        return deltas

    def decode_end(self) -> list[Delta]:
        if self._unreadable is not None:
            raise self._unreadable
        if not self._stopped:
            raise self._call.build_protocol_error(
                ": the stream ended before the reply was complete", code="incomplete-reply"
            )
        return self.flush_pending()

    def decode_body(self, body: bytes) -> list[Delta]:
        deltas: list[Delta] = []
        replies = self._replies_in(body, repair_json, deltas, is_whole=True)
        if all(reply.is_bare for reply in replies):
            self._fail(self.find_error(body, is_whole=True), deltas)
        for reply in replies:
            self._read(reply, body, deltas)
        if not self._stopped and self._unreadable is None:
            if not self._answered:
                raise self._call.build_protocol_error(": the reply has no content")
            deltas += self._stop(Stop("end_turn"))
        return deltas + self.flush_pending()

    def _replies_in(
        self, frame: bytes, repair: Callable[[bytes], bytes], deltas: list[Delta], *, is_whole: bool = False
    ) -> list[GenerateContentResponse]:
        try:
            return decode_or_repair(decode_replies, frame, repair)
        except DECODE_ERRORS as error:
            if is_end_mark(frame):
                return []
            self._fail(self.find_error(frame, is_whole=is_whole), deltas)
            if self._stopped or self._unreadable is not None or not is_part_of_reply(frame):
                return []
            raise self._call.build_protocol_error(f": a frame of the reply cannot be decoded: {error}") from None

    def _fail(self, fault: UpstreamFault | None, deltas: list[Delta]) -> None:
        """Raise the `UpstreamError` for an error. If it stands for the end of the reply, append this end."""
        if fault is None or self._stopped or self._unreadable is not None:
            return
        fault = read_own_words(fault, self._call)
        if (end := find_reply_end(fault, self._call.provider_prefix, has_content=self._answered)) is None:
            raise build_call_error(fault, self._call)
        deltas += self._stop(end)

    def _read(self, reply: GenerateContentResponse, data: bytes, deltas: list[Delta]) -> None:
        if reply.error is not ABSENT:
            self._fail(read_error_field(reply.error, data), deltas)
        candidates = reply.candidates or ()
        candidate = candidates[0] if candidates else None
        if candidate is not None and candidate.index:
            candidate = next((one for one in candidates if not one.index), None)
        if candidate is not None:
            if self._sources is not None:  # before the text of the frame, which may cite the sources
                deltas += self._sources.read_metadata(candidate)
            for part in (candidate.content.parts if candidate.content is not None else None) or ():
                if part.text and not part.thought and not part.thought_signature and part.function_call is None:
                    self._emit_text(part.text, deltas)
                else:
                    self._read_part(part, candidate, deltas)
            if len(candidates) > 1 and not self._calls:
                self._read_other_candidates(candidates, candidate, deltas)
        if reply.usage_metadata is not None and reply.usage_metadata != self._usage:
            self._count(reply.usage_metadata, deltas)
        if candidate is not None:
            if candidate.finish_reason:
                self._finish(candidate.finish_reason, candidate, deltas)
        elif (feedback := reply.prompt_feedback) is not None and feedback.block_reason and not self._stopped:
            if feedback.block_reason.endswith(_NOT_STATED):
                return
            reason = ": ".join(filter(None, (feedback.block_reason, feedback.block_reason_message)))
            deltas += self._stop(build_blocked_reply_stop(self._call.provider_prefix, reason))

    def _read_other_candidates(self, candidates: Sequence[Candidate], first: Candidate, deltas: list[Delta]) -> None:
        contents = (other.content for other in candidates if other is not first)
        for part in [part for content in contents if content is not None for part in content.parts or ()]:
            if part.function_call is not None:
                self._read_part(part, first, deltas)

    def _read_part(self, part: Part, candidate: Candidate, deltas: list[Delta]) -> None:
        text, call = part.text, part.function_call
        signature = part.thought_signature or ""
        if text is not None and not part.thought:  # "" also beside a call, from servers that write all fields
            if signature and self._is_thinking and call is None:
                self._put(self._carry(signature), deltas)
            if text:
                self._emit_text(text, deltas)
        elif text:
            self._put(Thinking(text), deltas)
            self._is_thinking = True
        if call is not None:
            arguments = "" if bytes(call.args) in _NO_ARGUMENTS else bytes(call.args).decode(errors="replace")
            if call.partial_args or call.will_continue or self._open_calls.calls:
                self._read_partial_call(call, signature, arguments, deltas)
            elif call.name:
                # A server may send the last frame once more, with other token counts.
                call_id = call.id or (f"{call.name} {arguments}" if candidate.finish_reason else None)
                if self._ids.ended_calls.repeats(call_id, call.name, arguments, deltas):
                    return
                self._emit_call(call.name, call.id, signature, arguments, deltas)
            elif arguments:
                raise self._call.build_protocol_error(_NO_NAME)
        elif is_present(part.tool_call):
            if self._sources is not None:
                self._sources.begin_search(decode_or_empty(part.tool_call, ServerToolCall))
            self._open_searches += 1
            self._put(self._carry_part("toolCall", part.tool_call, signature), deltas)
        elif is_present(part.tool_response):
            self._open_searches = max(0, self._open_searches - 1)
            self._put(self._carry_part("toolResponse", part.tool_response, signature), deltas)
            if not self._open_searches:
                self._emit_held_calls(deltas)
        elif part.executable_code is not None:
            self._emit_blocks(self._programs.decode_program(part.executable_code), deltas)
        elif part.code_execution_result is not None:
            self._emit_blocks(self._programs.decode_result(part.code_execution_result), deltas)
        elif part.inline_data is not None:
            # replies of the Messages API cannot contain files
            file = part.inline_data
            self._emit_text(describe_generated_file(file.mime_type or "", len(file.data or "")), deltas)

    def _read_partial_call(self, call: FunctionCall, signature: str, arguments: str, deltas: list[Delta]) -> None:
        """Read a part of a call that may be continued, or that continues or completes another one. `arguments`: all of
        them so far, "": none.
        """
        known = self._open_calls.find(call.id, call.name)
        if known is not None and arguments and not known.complete(arguments):
            if not call.name or (call.id and call.id == known.id):
                raise self._call.build_call_error("its fragments differ from its complete arguments")
            known.is_ended = True  # another call of the same tool
            known = None
        if known is None:
            if not call.name:
                raise self._call.build_protocol_error(_NO_NAME)
            known = self._open_calls.begin(call.name, call.id, signature)
            if arguments:
                known.complete(arguments)
        known.id = known.id or call.id
        known.signature = known.signature or signature
        try:
            for piece in () if arguments else call.partial_args or ():  # whole arguments have the pieces beside them
                known.feed(piece)
        except ValueError:
            raise self._call.build_protocol_error(": a piece of a function call has an invalid path") from None
        known.is_ended = not call.will_continue
        self._emit_ended_calls(deltas)

    def _emit_ended_calls(self, deltas: list[Delta]) -> None:
        for call in self._open_calls.pop_ended():
            arguments = call.encode_arguments()
            if not self._ids.ended_calls.repeats(call.id, call.name, arguments):
                if call.is_cut:
                    raise self._call.build_call_error("a text of its arguments has no end")
                self._emit_call(call.name, call.id, call.signature, arguments, deltas)

    def _emit_held_calls(self, deltas: list[Delta]) -> None:
        self._open_searches = 0
        held, self._held_calls = self._held_calls, []
        for name, call_id, signature, arguments in held:
            self._emit_call(name, call_id, signature, arguments, deltas)

    def _emit_call(self, name: str, call_id: str | None, signature: str, arguments: str, deltas: list[Delta]) -> None:
        if self._open_searches:
            self._answered = True
            self._held_calls.append((name, call_id, signature, arguments))
            return
        deltas += self.flush_pending()
        if signature:
            deltas.append(self._carry(signature))
        deltas += self._ids.build_whole_call(self._calls, call_id, self._call_repair.repair_name(name), arguments)
        self._calls += 1
        self._answered = True
        self._is_thinking = False

    def _emit_text(self, text: str, deltas: list[Delta]) -> None:
        self._answered = True
        self._is_thinking = False
        if self._sources is None:
            deltas.append(Text(text))
        else:
            deltas += self._sources.feed_delta(Text(text))

    def _emit_blocks(self, blocks: list[Block], deltas: list[Delta]) -> None:
        self._answered = True
        self._is_thinking = False
        for block in blocks:
            self._put(block, deltas)

    def _put(self, delta: Delta, deltas: list[Delta]) -> None:
        if self._sources is None:
            deltas.append(delta)
        else:
            deltas += self._sources.feed_delta(delta)

    def _carry(self, signature: str) -> Thinking:
        """Return Gemini's signature of the next part as thinking without text, which clients send back."""
        self._is_thinking = False
        carry = ReasoningState(model=self._call.model, call_signature=signature)
        return Thinking(signature=encode_signature(self._call.dialect.signature_tag, carry))

    def _carry_part(self, name: str, content: Raw, signature: str) -> Thinking:
        """Return a part about a tool of Google as thinking without text. The next request has the part unchanged."""
        self._is_thinking = False
        part: dict[str, Any] = {name: content, "thoughtSignature": signature} if signature else {name: content}
        if self._held_calls:
            part[CALLS_BEFORE] = len(self._held_calls)
        carry = ReasoningState(model=self._call.model, encrypted=msgspec.json.encode(part).decode(errors="replace"))
        tag = self._call.dialect.signature_tag
        return Thinking(signature=encode_signature(tag, carry, max_bytes=MAX_SEARCH_SIGNATURE_BYTES))

    def _count(self, usage: UsageMetadata, deltas: list[Delta]) -> None:
        """A missing count keeps its earlier value. Anthropic counts cached input separately, and thinking as output."""
        for name in usage.__struct_fields__:
            if getattr(usage, name) is None:
                setattr(usage, name, getattr(self._usage, name))
        if usage == self._usage:
            return
        self._usage = usage
        tier, traffic = usage.service_tier, usage.traffic_type
        if not tier and traffic and traffic != "TRAFFIC_TYPE_UNSPECIFIED":
            # Vertex AI's `ON_DEMAND_FLEX` is AI Studio's `flex` (`TrafficType` of the official SDK google-genai 3.3)
            tier = traffic.removeprefix("ON_DEMAND_").lower()
        prompt = usage.prompt_token_count
        output, thoughts = usage.candidates_token_count, usage.thoughts_token_count
        whole = None if prompt is None else prompt + (usage.tool_use_prompt_token_count or 0)
        uncached, cached, _ = split_input_tokens(whole, usage.cached_content_token_count, None)
        spent = None if output is None and thoughts is None else (output or 0) + (thoughts or 0)
        deltas.append(Usage(uncached, spent, cached, thinking_tokens=thoughts, billed_tier=tier))

    def _finish(self, reason: str, candidate: Candidate, deltas: list[Delta]) -> None:
        if (self._stopped and not self._ended_normally) or self._unreadable is not None:
            return
        if reason == _CONTINUATION and candidate.continuation_token and self.continuation_token is not None:
            self.continuation_token = candidate.continuation_token
            self._stopped = True
            self._emit_held_calls(deltas)
            deltas += self.flush_pending()
            return
        kind = find_finish_kind(reason)
        if kind not in ("end", "calls"):
            is_unknown = kind == "unknown"
            has_no_value = reason in NO_VALUES and self._call.streams_upstream
            if is_unknown and (has_no_value or (reason.endswith(_NOT_STATED) and not self._answered)):
                return
            if kind in ("unreadable", "failed") or (is_unknown and not self._answered):
                told = (candidate.finish_message or "")[:_MAX_FINISH_MESSAGE_LENGTH]
                words = told or "the model's reply could not be read"
                provider = self._call.provider_prefix
                quotes = describe_quotes([told], "reply")
                self._unreadable = UnreadableReply(f"{provider}: {words} ({reason})", provider=provider, quotes=quotes)
                self._ended_normally = False
                return
        totals = self._usage
        message = candidate.finish_message
        counts = (totals.prompt_token_count, totals.candidates_token_count, totals.thoughts_token_count)
        fills_window = self._call.is_window_filled(sum(count or 0 for count in counts))
        shown = f"{reason}: {message}" if message else reason
        stop = build_stop(kind, self._call.provider_prefix, shown, fills_window=fills_window)
        was_normal, self._ended_normally = self._ended_normally, stop.reason in NORMAL_ENDS
        if not (was_normal and self._ended_normally):
            deltas += self._stop(stop)

    def _stop(self, stop: Stop) -> list[Delta]:
        self._stopped = True
        deltas: list[Delta] = []
        if self._open_calls.calls:
            self._open_calls.end(is_complete=stop.reason in NORMAL_ENDS)
            self._emit_ended_calls(deltas)
        self._emit_held_calls(deltas)
        self._emit_blocks(self._programs.encode_missing_result_errors(), deltas)
        return [*deltas, *self.flush_pending(), stop]

    def flush_pending(self) -> list[Delta]:
        return self._sources.release_buffered_deltas() if self._sources is not None else []


_FETCH_ERRORS: dict[str, FetchError | None] = {
    "URL_RETRIEVAL_STATUS_SUCCESS": None,
    "URL_RETRIEVAL_STATUS_ERROR": "url_not_accessible",
    "URL_RETRIEVAL_STATUS_PAYWALL": "url_not_accessible",
    "URL_RETRIEVAL_STATUS_UNSAFE": "url_not_allowed",
}
_DOMAIN = compile_anchored(r"[\w-]+(\.[\w-]+)+")


_MAX_SEARCHED = 4_000_000
"""Maximum characters of a reply that are searched in vain for cited passages."""
_MIN_SEARCHED = 64
"""Characters that a search counts at least, because of the time that it takes in any case."""


class _Grounding:
    """Web searches and URL fetches of one reply. Text that later citations may refer to is buffered.

    If the provider announces its tool calls, only text after such a call is buffered (recorded by the project
    `pydantic/pydantic-ai`, cassettes test_google_model_web_search_tool_stream and
    test_native_output_with_builtin_tools_stream, 2026-08).
    """

    def __init__(self, call: TranslatedCall[Dialect], own: GoogleTools) -> None:
        self._new_id = call.new_id
        self._own = own
        self._bills_replies = call.dialect.searches_billed_per_reply
        self._holds = not own.announces_calls and (own.can_search or own.cites_fetches)
        self._held: list[Delta] = []
        self._left: list[str] = []
        """Fragments of text that were returned without buffering. Late citations may refer to this text."""
        self._queries: dict[str, None] = {}
        self._sources: dict[str, WebSource] = {}
        self._fetched: set[str] = set()
        self._cited: list[tuple[str, list[WebSource]]] = []
        self._searches = 0
        self._search_left = _MAX_SEARCHED

    def begin_search(self, use: ServerToolCall) -> None:
        """Record that Gemini called one of Google's own tools. Text after the call is buffered, if it may be cited."""
        self._holds = self._holds or self._own.can_search or self._own.cites_fetches
        if use.args is not None:
            self._queries |= dict.fromkeys(query for query in use.args.queries or () if query)

    def feed_delta(self, delta: Delta) -> list[Delta]:
        if self._held or (self._holds and isinstance(delta, Text)):
            self._held.append(delta)
            return []
        if isinstance(delta, Text):
            self._left.append(delta.text)
        else:
            self._left = []
        return [delta]

    def read_metadata(self, candidate: Candidate) -> list[Delta]:
        """Return a call block and a result block for each fetched URL that earlier frames did not contain.

        While text is buffered, these blocks are buffered too. After new URLs, a `Usage` delta has the number of all
        URLs that were fetched for the reply so far.
        """
        if candidate.grounding_metadata is not None:
            self._record_search_results(candidate.grounding_metadata)
        deltas: list[Delta] = []
        before = len(self._fetched)
        context = candidate.url_context_metadata
        for source in (context.url_metadata or ()) if context is not None else ():
            url = source.retrieved_url
            if url and url not in self._fetched:
                self._fetched.add(url)
                error = _FETCH_ERRORS.get(source.url_retrieval_status or "", "unavailable")
                for block in encode_fetch_call_and_result(self._new_id(SERVER_TOOL_ID_PREFIX), url, error=error):
                    deltas += self.feed_delta(block)
        if len(self._fetched) > before:
            deltas.append(Usage(web_fetch_requests=len(self._fetched)))
        return deltas

    def _record_search_results(self, grounding: GroundingMetadata) -> None:
        """Store the queries, sources and citations of a web search until `release_buffered_deltas` returns them."""
        self._queries |= dict.fromkeys(query for query in grounding.web_search_queries or () if query)
        chunks = enumerate(grounding.grounding_chunks or ())
        sources = {place: chunk.web for place, chunk in chunks if chunk.web is not None and chunk.web.uri}
        self._sources |= {source.uri or "": source for source in sources.values()}
        for support in grounding.grounding_supports or ():
            passage = support.segment.text if support.segment else None
            cited = [sources[index] for index in support.grounding_chunk_indices or () if index in sources]
            if passage and cited:
                self._cited.append((passage, cited))

    def release_buffered_deltas(self) -> list[Delta]:
        """Return the blocks of the recorded searches, then the buffered deltas with citations inserted.

        Citations of text that was returned without buffering come first, before the blocks.
        """
        deltas: list[Delta] = []
        found = {url: source for url, source in self._sources.items() if self._may_show(source)}
        if self._queries or self._own.cites_fetches or not self._sources.keys() <= self._fetched:
            _, cited = self._with_citations("".join(self._left))
            deltas += [delta for delta in cited if isinstance(delta, Citation)]
        else:
            self._cited = []
        results = [Result(url, source.title) for url, source in found.items() if url not in self._fetched]
        if self._queries or results:
            identifier = self._new_id(SERVER_TOOL_ID_PREFIX)
            deltas += encode_search_call_and_result(identifier, ", ".join(self._queries), results)
            self._searches += max(len(self._queries), 1)
            billed = 1 if self._bills_replies else self._searches
            deltas.append(Usage(web_search_requests=self._searches, billed_searches=billed))
        for delta in _join_adjacent(self._held):
            if isinstance(delta, Text):
                remainder, cited = self._with_citations(delta.text)
                deltas += [*cited, Text(remainder)] if remainder else cited
            else:
                deltas.append(delta)
        self._held = []
        self._left = []
        self._queries = {}
        self._sources = {}
        self._cited = []
        return deltas

    def _with_citations(self, text: str) -> tuple[str, list[Delta]]:
        """Split reply text at its cited passages.

        Return the text after the last cited passage, and deltas for all text before it. A citation of a passage outside
        this text is kept for the next call, unless `_MAX_SEARCHED` characters were searched in vain.
        """
        deltas: list[Delta] = []
        missing: list[tuple[str, list[WebSource]]] = []
        start = 0
        for passage, sources in self._cited:
            if self._search_left <= 0:
                break
            place = text.find(passage, start)
            if place < 0:
                self._search_left -= len(text) - start + _MIN_SEARCHED
                missing.append((passage, sources))
                continue
            deltas.append(Text(text[start : place + len(passage)]))
            deltas += [encode_citation(one.uri or "", one.title, passage) for one in filter(self._may_show, sources)]
            start = place + len(passage)
        self._cited = missing
        return text[start:], deltas

    def _may_show(self, source: WebSource) -> bool:
        """The domain is read from the title of a page, because its URL is a redirect of Google."""
        domain = source.domain or source.title or ""
        url = f"https://{domain}" if _DOMAIN.fullmatch(domain) else source.uri or ""
        return is_domain_allowed(url, self._own.allowed_domains, self._own.blocked_domains)


def _join_adjacent(deltas: Iterable[Delta]) -> Iterator[Delta]:
    """Join adjacent texts, because a cited passage may span several deltas. A signature ends a thinking text."""
    latest: Delta | None = None
    texts: list[str] = []
    for delta in deltas:
        is_joined = (isinstance(delta, Text) and isinstance(latest, Text)) or (
            isinstance(delta, Thinking) and isinstance(latest, Thinking) and not latest.signature
        )
        if latest is not None and not is_joined:
            yield _with_texts(latest, texts)
            texts = []
        if isinstance(delta, Text | Thinking):
            texts.append(delta.text)
        latest = delta
    if latest is not None:
        yield _with_texts(latest, texts)


def _with_texts(delta: Delta, texts: Sequence[str]) -> Delta:
    return replace(delta, text="".join(texts)) if isinstance(delta, Text | Thinking) and len(texts) > 1 else delta


_OK, _TOO_LONG = "OUTCOME_OK", "OUTCOME_DEADLINE_EXCEEDED"


class _CodeExecutions:
    """Code executions of one reply, and the id of each until its result arrives.

    Older models send no `id`; a result then belongs to the latest program (recorded by the project
    `pydantic/pydantic-ai`, cassette test_code_execution_stream, 2026-08).
    """

    def __init__(self, new_id: Callable[[str], str]) -> None:
        self._new_id = new_id
        self._open: dict[str, str] = {}
        """Provider's id of a program without a result → id of its block in the reply to the client."""

    def decode_program(self, code: ExecutableCode) -> list[Block]:
        identifier = self._new_id(SERVER_TOOL_ID_PREFIX)
        self._open[code.id or identifier] = identifier
        return [encode_code_execution_call(identifier, code.code or "")]

    def decode_result(self, result: CodeExecutionResult) -> list[Block]:
        """Return the block of a result. If no program waits for one, a call block with empty code comes first."""
        began: list[Block] = []
        if not self._open:
            began = self.decode_program(ExecutableCode(id=result.id))
        key = result.id if result.id in self._open else next(reversed(self._open))
        identifier = self._open.pop(key)
        outcome = result.outcome or _OK
        printed = result.output or ""
        if outcome == _TOO_LONG:
            return [*began, encode_code_execution_error(identifier, "execution_time_exceeded")]
        if outcome == _OK:
            return [*began, encode_code_result(identifier, stdout=printed)]
        return [*began, encode_code_result(identifier, stderr=printed, return_code=1)]

    def encode_missing_result_errors(self) -> list[Block]:
        identifiers = list(self._open.values())
        self._open = {}
        return [encode_code_execution_error(identifier, "unavailable") for identifier in identifiers]
