"""`Compaction`: replaces a conversation by a summary, for servers that are not known to do it themselves.

Theory of operation. The client asks for it in one of two ways: by an edit of `context_management`, from a number of
tokens on, or by the field `compaction`, at once. A model then writes the summary in a request of the proxy that
has the client's request as its parent (`ParentRequest`). Its body is that of the client, and the instruction stands
behind the last message, so that the provider's cache serves the conversation. What follows depends on the client:

    edit                                the summary, and then the reply to it
    edit with `pause_after_compaction`  only the summary
    `compaction`                        only the summary, signed

Without a summary, the edit leaves the conversation as it is, and the reply begins with a block without content. The
field `compaction` gets an empty reply with the stop reason of the call, or an error if the call has failed.

The summary waits for no place among the concurrent calls, because its request takes one itself.
"""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
from msgspec import Raw, Struct, structs

from anthropic_proxy.engine.exchange.adaptation import find_learned_dialect
from anthropic_proxy.engine.exchange.inspection import InspectAdded
from anthropic_proxy.engine.exchange.own_requests import OwnSink, ParentRequest
from anthropic_proxy.engine.exchange.upstream_stream import DeltaStream
from anthropic_proxy.engine.hooks import Receipt
from anthropic_proxy.engine.messages.context_editing import AppliedEdit, count_context, edit_context
from anthropic_proxy.engine.messages.deltas import Block, Delta, Iteration, Stop, Usage
from anthropic_proxy.engine.messages.events import (
    COMPACTION,
    BlockStart,
    ErrorEvent,
    Event,
    MessageDelta,
    TextDelta,
    ToolCallStart,
)
from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.messages.models import (
    CompactionBlock,
    Message,
    MessagesRequest,
    MessagesResponse,
)
from anthropic_proxy.engine.messages.models.compaction import find_signed_block
from anthropic_proxy.engine.messages.models.context_edits import Compact, ContextEdit, Summarize
from anthropic_proxy.engine.messages.preparation import ends_with_paused_reply, list_loaded_tools, list_tool_changes
from anthropic_proxy.engine.messages.summary import build_summary_body, extract_summary, write_instruction
from anthropic_proxy.engine.messages.writer import MessageWriter
from anthropic_proxy.engine.routing.router import Plan
from anthropic_proxy.engine.routing.targets import Target
from anthropic_proxy.engine.wires.anthropic.betas import makes_edits
from anthropic_proxy.engine.wires.json_repair import DECODE_ERRORS
from anthropic_proxy.errors import ClientError, InvalidRequest, ProxyBusy, ProxyError

MAX_SUMMARY_TOKENS = 16_384
"""Output limit of a summary that an edit requests, in addition to its thinking."""
MAX_SUMMARY_CHARACTERS = 256 * 1024
MAX_SUMMARY_SECONDS = 600.0
MAX_WINDOW_SHARE = 0.75
"""Share of the model's context window from which on a conversation is summarized, also below the client's trigger. The
rest is for the summary, and for what the estimate misses."""
_END = "end_turn"
_RETRIED_FROM = 500
"""Lowest HTTP status of an error that another request may not have, unless it says so (`should_retry`)."""


class Summary(Struct, frozen=True):
    """What a request for a summary has led to."""

    text: str = ""
    """The summary. "": there is none."""
    stop_reason: str = ""
    """"": the call has failed."""
    details: dict[str, Any] | None = None
    """Field `stop_details` of a refusal."""
    error: ProxyError | None = None
    reason: str = ""
    """Why there is no summary."""
    call: Iteration | None = None
    """None: no call could be made."""


class Compacted(Struct, frozen=True):
    """A reply that begins with a summary, or has nothing else."""

    beginning: Sequence[Delta]
    """The block with the summary, and the end of the reply if nothing follows."""
    request: MessagesRequest
    """What is left to be replied to."""
    is_whole: bool
    calls: Sequence[Iteration]
    applied: list[AppliedEdit] | None
    """Edits of what was summarized. None: those of the request count."""
    notes: Sequence[FidelityNote] = ()
    replacement: str = ""
    """The summary that is in place of the conversation in `request`. "": there is none."""


class Compaction:
    """The summary for one request of a client, which has asked for it."""

    def __init__(
        self,
        parent: ParentRequest,
        request: MessagesRequest,
        place: int,
        target: Target,
        inspect: InspectAdded | None,
    ) -> None:
        """`place`: that of the edit that requests the summary. `target`: the one that replies. `inspect`: reads a
        summary that becomes a part of the request. None: there are no inspectors.
        """
        self._inspect = inspect
        self._place = place
        self._window = parent.engine.find_target_limits(target).context_window
        self._parent = parent
        self._engine = parent.engine
        self._request = request
        self._body = parent.incoming.body
        self._is_large = parent.incoming.is_large

    def prepare_writer(self, writer: MessageWriter) -> None:
        """The client is told the calls for summaries apart. A reply that is only a summary reports no edits."""
        writer.summaries = []
        if isinstance((self._request.context_edits or ())[self._place], Summarize):
            writer.is_summary = True
            writer.applied_edits = None

    async def run(self) -> Compacted | None:
        """Return None if nothing is to be summarized so far. Raises `ProxyError`."""
        request, body = self._request, self._body
        self._body = b""
        edit = (request.context_edits or ())[self._place]
        if isinstance(edit, Summarize):
            return await self._summarize(edit, body)
        assert isinstance(edit, Compact)
        applied = await self._find_edits_before(edit)
        if applied is None:
            return None
        limit = MAX_SUMMARY_TOKENS
        if request.thinking is not None:
            limit += request.thinking.budget_tokens or 0
        summary = await self._ask(write_instruction(added=edit.instructions), body, max_tokens=limit)
        calls = [] if summary.call is None else [summary.call]
        if not summary.text:
            note = FidelityNote("approximated", "context_management", f"nothing is summarized: {summary.reason}")
            return Compacted([_encode_block({"content": None})], request, False, calls, None, [note])
        changes = list_tool_changes(request, list_loaded_tools(request))
        block = _encode_block({"content": summary.text, "tool_changes": changes})
        if edit.pauses:
            return Compacted([block, *_end(COMPACTION)], request, True, calls, applied, [edit.note])
        text = summary.text
        if self._inspect is not None:
            (text,) = await self._inspect([text], "assistant")
        replaced = structs.replace(msgspec.json.decode(block.raw, type=CompactionBlock), content=text)
        messages = [Message("assistant", [replaced])]
        left = structs.replace(request, messages=messages)
        return Compacted([block], left, False, calls, applied, replacement=text)

    async def _find_edits_before(self, edit: Compact) -> list[AppliedEdit] | None:
        """Return what the edits before this one remove. None: the conversation is too short for a summary."""
        request = self._request
        if ends_with_paused_reply(request.messages) or find_signed_block(request.messages):
            return None
        edits = (request.context_edits or ())[: self._place]

        def measure() -> tuple[int, list[AppliedEdit]]:
            edited, applied = edit_context(structs.replace(request, context_edits=edits))
            return count_context(edited), applied

        try:
            tokens, applied = await self._parent.incoming.background.run_in_thread_if_large(self._is_large, measure)
        except InvalidRequest:  # content that cannot be decoded: `prepare` refuses it with its path
            return None
        trigger = edit.trigger if self._window is None else min(edit.trigger, self._window * MAX_WINDOW_SHARE)
        return applied if tokens >= trigger else None

    async def _summarize(self, wanted: Summarize, body: bytes) -> Compacted:
        request = self._request
        instruction = write_instruction(replaced=wanted.instructions)
        summary = await self._ask(instruction, body, max_tokens=request.max_tokens)
        beginning: Sequence[Delta]
        if summary.text:
            changes = list_tool_changes(request, list_loaded_tools(request))
            block = _encode_block({"content": summary.text, "signature": "", "tool_changes": changes})
            beginning = [block, *_end(COMPACTION)]
        elif summary.stop_reason:
            beginning = _end(summary.stop_reason, summary.details)
        else:
            raise _find_cause(summary)
        calls = [summary.call or Iteration(kind=COMPACTION)]
        return Compacted(beginning, request, True, calls, None, [wanted.note])

    async def _ask(self, instruction: str, body: bytes, *, max_tokens: int | None) -> Summary:
        parent = self._parent
        try:
            plans = await parent.list_plans_of_model(COMPACTION, self._request.model)
            targets = [target for plan in plans for target in plan.targets]
            edits = (self._request.context_edits or ())[: self._place]
            build = partial(
                build_summary_body,
                streams=not any(target.is_relayed for target in targets),
                sends_edits=not any(_makes(parent, target, edits) for target in targets),  # they need a beta
            )
            built = await parent.incoming.background.run_in_thread_if_large(
                self._is_large, build, body, instruction, self._find_model(plans), max_tokens
            )
        except ClientError as error:
            return Summary(error=error, reason=error.error_type)
        receipt = parent.new_receipt(COMPACTION)
        sink = _SummarySink(receipt)
        sent = parent.new_request(COMPACTION, receipt, built, plans)

        try:
            async with asyncio.timeout(MAX_SUMMARY_SECONDS):
                await parent.send(sent, sink)
        except TimeoutError:
            return Summary(reason="it took too long", call=sink.count())
        finally:
            sink.leave()
        return sink.read()

    def _find_model(self, plans: Sequence[Plan]) -> str:
        return plans[0].requested or self._request.model


def open_compaction(
    parent: ParentRequest, request: MessagesRequest, plan: Plan, inspect: InspectAdded | None
) -> tuple[Compaction | None, Plan]:
    """Return None for a request that asks the proxy for no summary, and the plan that is left.

    A provider that has the feature compacts itself. Another target in its place would reply to a request that asks for
    nothing but the summary.
    """
    edits, first = request.context_edits or (), plan.targets[0]
    summarizing = [place for place, edit in enumerate(edits) if isinstance(edit, Summarize | Compact)]
    if not summarizing or request.scanned_only:
        return None, plan
    place = summarizing[0]
    if not _makes(parent, first, edits):
        return Compaction(parent, request, place, first, inspect), plan
    if isinstance(edits[place], Summarize):
        plan = structs.replace(plan, targets=[target for target in plan.targets if _makes(parent, target, edits)])
    return None, plan


def _makes(parent: ParentRequest, target: Target, edits: Sequence[ContextEdit]) -> bool:
    """Return True if a target is known to make all these edits itself."""
    return makes_edits(find_learned_dialect(parent.engine, target, parent.incoming.receipt.client.id), edits)


class BegunStream(DeltaStream):
    """A reply with deltas of the proxy before those of the model. `stream` None: there are no others."""

    def __init__(self, beginning: Sequence[Delta], stream: DeltaStream | None) -> None:
        self._beginning = [*beginning]
        self._stream = stream
        self.default_signature = "" if stream is None else stream.default_signature
        self.has_one_call = stream is not None and stream.has_one_call
        self.restore = None if stream is None else stream.restore

    @property
    def may_send_again(self) -> bool:  # type: ignore[override]  # that of the stream changes
        return self._stream is not None and self._stream.may_send_again

    @property
    def complete(self) -> bool:
        return not self._beginning and (self._stream is None or self._stream.complete)

    async def read(self) -> list[Delta] | None:
        if self._beginning:
            beginning, self._beginning = self._beginning, []
            return beginning
        return None if self._stream is None else await self._stream.read()

    def flush_pending(self) -> list[Delta]:
        beginning, self._beginning = self._beginning, []
        return beginning if self._stream is None else [*beginning, *self._stream.flush_pending()]

    def release_request(self) -> None:
        if self._stream is not None:
            self._stream.release_request()

    async def close(self) -> None:
        if self._stream is not None:
            await self._stream.close()


class _Block(Struct):
    type: str = ""
    text: str = ""


class _RelayedMessage(Struct):
    content: list[_Block]
    stop_reason: str | None = None
    stop_details: dict[str, Any] | None = None


_decode_message = msgspec.json.Decoder(_RelayedMessage).decode
_THOUGHTS = ("thinking", "redacted_thinking")


class _SummarySink(OwnSink):
    """The client of a request for a summary."""

    def __init__(self, receipt: Receipt) -> None:
        super().__init__(receipt)
        self._texts: list[str] = []
        self._characters = 0
        self._calls_tool = False
        self._stop_reason = ""
        self._details: dict[str, Any] | None = None

    async def send_events(self, events: Sequence[Event], *, is_last: bool = False) -> None:
        for event in events:
            if isinstance(event, TextDelta):
                self._add(event.text)
            elif isinstance(event, ToolCallStart | BlockStart):
                self._calls_tool = True
            elif isinstance(event, MessageDelta):
                self._stop_reason, self._details = event.stop_reason, event.stop_details
            elif isinstance(event, ErrorEvent):
                self.error = event.error

    async def send_relayed_bytes(
        self, data: bytes, headers: Mapping[str, str], *, is_stream: bool, is_last: bool, status: int = 200
    ) -> None:
        try:
            message = _decode_message(data)
        except DECODE_ERRORS:
            return
        for block in message.content:
            if block.type == "text":
                self._add(block.text)
            elif block.type not in _THOUGHTS:
                self._calls_tool = True
        self._stop_reason, self._details = message.stop_reason or "", message.stop_details

    async def send_message(self, response: MessagesResponse) -> None:
        await self.send_relayed_bytes(msgspec.json.encode(response), {}, is_stream=False, is_last=True)

    async def send_error_response(self, error: ProxyError) -> None:
        self.error = error

    def count(self) -> Iteration | None:
        """Return the tokens of the request. None: no provider was called."""
        if not self.receipt.attempts:
            return None
        return Iteration.from_counts(COMPACTION, self.receipt)

    def read(self) -> Summary:
        """Return what the request has led to, after its end."""
        call = self.count()
        if self._characters > MAX_SUMMARY_CHARACTERS:
            return Summary(reason=f"it has more than {MAX_SUMMARY_CHARACTERS} characters", call=call)
        if self.error is not None:
            return Summary(error=self.error, reason=f"the call failed: {self.error.error_type}", call=call)
        stop = "tool_use" if self._calls_tool else self._stop_reason
        text = extract_summary("".join(self._texts)) if stop == _END else ""
        reason = "the model wrote none" if stop == _END else f"the call ended with {stop or 'no reply'}"
        return Summary(text, stop, self._details, None, "" if text else reason, call)

    def _add(self, text: str) -> None:
        self._characters += len(text)
        if self._characters > MAX_SUMMARY_CHARACTERS:
            self._texts.clear()
            self.leave()
        else:
            self._texts.append(text)


def _encode_block(fields: dict[str, Any]) -> Block:
    return Block(Raw(msgspec.json.encode({"type": COMPACTION, **fields})))


def _end(stop_reason: str, details: dict[str, Any] | None = None) -> list[Delta]:
    return [Usage(input_tokens=0, output_tokens=0), Stop(stop_reason, details=details)]


def _find_cause(summary: Summary) -> ProxyError:
    """Return the error for a client that has asked for nothing but the summary."""
    error = summary.error
    if error is not None and (error.status < _RETRIED_FROM or error.should_retry is False):
        return error
    return ProxyBusy(
        f"compaction: no summary was written: {summary.reason}. Send the request again",
        code="compaction-unavailable",
        details={"error_code": "compaction_unavailable"},
        retry_after=None if error is None else error.retry_after,
    )
