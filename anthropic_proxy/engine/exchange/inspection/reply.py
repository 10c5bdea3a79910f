"""`InspectedStream`: a decoded reply whose texts pass the inspection before the client gets them.

Text and thinking wait as far as an inspector or a placeholder may reach. A tool call waits until it is complete. At
the end of a block, and before `Stop`, nothing is held. An inspector that refuses ends the reply with the stop reason
`refusal`: clients show its explanation and do not repeat the request, as they would after an error.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import groupby
from typing import Literal, assert_never

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from anthropic_proxy.engine.exchange.inspection.inspectors import InspectorCalls, ReplyRefused
from anthropic_proxy.engine.exchange.inspection.texts import (
    TextsOfBody,
    find_texts_of_whole_block,
    read_body,
)
from anthropic_proxy.engine.exchange.upstream_stream import DeltaStream
from anthropic_proxy.engine.hooks import Inspector, InspectorScope, Passage
from anthropic_proxy.engine.messages.deltas import (
    CHARACTERS_PER_TOKEN,
    NO_USAGE,
    Block,
    Citation,
    Delta,
    Stop,
    Text,
    TextEnd,
    Thinking,
    ToolArgs,
    ToolCall,
    ToolEnd,
    Usage,
    merge_latest,
)
from anthropic_proxy.errors import InvalidRequest, UpstreamError

BlockKind = Literal["assistant", "thinking"]


class _Stage:
    """The text that one inspector has not released."""

    def __init__(self, calls: InspectorCalls, inspector: Inspector, scope: InspectorScope, kind: BlockKind) -> None:
        self._calls = calls
        self._inspector = inspector
        self._scope = scope
        self._kind: BlockKind = kind
        self._pieces: list[str] = []
        self._size = 0

    async def feed(self, text: str) -> str:
        self._pieces.append(text)
        self._size += len(text)
        if self._scope.holds_blocks:
            return await self.finish() if self._size > self._scope.max_characters else ""  # the inspection fails
        passage = Passage("".join(self._pieces), self._kind)
        shown, rest = await self._calls.inspect_beginning(self._inspector, passage)
        self._pieces, self._size = [rest], len(rest)
        return shown

    async def finish(self) -> str:
        text, self._pieces, self._size = "".join(self._pieces), [], 0
        return await self._calls.inspect_text(self._inspector, Passage(text, self._kind)) if text else ""


class HeldText:
    """The text of one block, of which the end waits for what follows: for each inspector, and then for a placeholder.

    The methods raise like `InspectorCalls.inspect_reply`.
    """

    def __init__(self, calls: InspectorCalls, kind: BlockKind) -> None:
        self.kind = kind
        self._calls = calls
        self._stages = [_Stage(calls, inspector, scope, kind) for inspector, scope in calls.readers]
        self._end = ""
        """Text that may end with a part of a placeholder."""

    async def feed(self, text: str) -> str:
        """Add a fragment, and return what can be shown."""
        for stage in self._stages:
            text = await stage.feed(text) if text else ""
        text = self._end + text
        end = self._calls.find_open_placeholder(text)
        self._end = text[end:]
        return self._calls.restore(text[:end])

    async def finish(self) -> str:
        """Return the rest of the text at the end of its block."""
        text = ""
        for stage in self._stages:
            text = (await stage.feed(text) if text else "") + await stage.finish()
        self._end += text
        return self.flush()

    def flush(self) -> str:
        """Return the rest of the text that inspectors have released, because the reply has failed."""
        end, self._end = self._end, ""
        return self._calls.restore(end)


async def inspect_texts(inspection: InspectorCalls, found: TextsOfBody) -> bytes:
    """Return JSON text of a reply after inspection, with values in place of placeholders."""
    if inspection.readers:
        await inspection.inspect_reply(found.texts)
    for one in found.texts:
        text = one.passage.text
        if one.wrap is not None:  # nobody reads it, and records could not hide the value
            continue
        if one.passage.kind == "tool_call":  # `finish_call` restores the texts of a call
            continue
        if (restored := inspection.restore(text)) != text:
            one.replace(restored)
    return found.encode()


def _join_texts(deltas: Iterable[Delta]) -> Iterator[Delta]:
    """Yield the deltas of one read with the fragments of a text in one: each fragment has all that waits read again."""
    for kind, fragments in groupby(deltas, _find_kind):
        if kind is None:
            yield from fragments
        else:
            yield kind("".join(one.text for one in fragments if isinstance(one, kind)))


def _find_kind(delta: Delta) -> type[Text] | type[Thinking] | None:
    if isinstance(delta, Thinking):
        return None if delta.signature else Thinking
    return Text if isinstance(delta, Text) else None


class _HeldCall:
    def __init__(self, call: ToolCall) -> None:
        self.call = call
        self.arguments: list[ToolArgs] = []
        self.is_complete = False
        self.hidden_behind: list[Delta] = []


class InspectedStream(DeltaStream):
    """The reply in `stream` after inspection."""

    def __init__(self, stream: DeltaStream, inspection: InspectorCalls, *, hides_thinking: bool) -> None:
        """`hides_thinking`: the client does not get the thinking, and the provider gets it back as it is."""
        self._stream = stream
        self._hides_thinking = hides_thinking
        self._inspection = inspection
        self.default_signature = stream.default_signature
        self.has_one_call = stream.has_one_call
        self.restore = inspection.restore_arguments
        self._open: HeldText | None = None
        """The open block of text or thinking. None: there is none."""
        self._is_thinking = False
        self._due: list[Citation] = []
        """Citations of the open text, until the client gets some of it. They do not divide what the inspectors read."""
        self._calls: dict[int | str, _HeldCall] = {}
        """The calls that are not sent so far, in their order."""
        self._is_refused = False
        self._usage = NO_USAGE
        """What the provider has reported of the running call."""
        self._received = 0
        """Characters of the running call."""
        self._has_ended = False

    @property
    def may_send_again(self) -> bool:  # type: ignore[override]  # that of the stream changes
        return self._stream.may_send_again and not self._is_refused

    @property
    def complete(self) -> bool:
        return self._is_refused or self._stream.complete

    async def read(self) -> list[Delta] | None:
        shown: list[Delta] = []
        while not (shown or self._is_refused) and (deltas := await self._stream.read()) is not None:
            self._note_received(deltas)
            try:
                for delta in _join_texts(deltas) if len(deltas) > 1 else deltas:
                    await self._add(delta, shown)
            except ReplyRefused as refused:
                self._is_refused = True
                with suppress(UpstreamError):
                    while self._has_ended and (rest := await self._stream.read()) is not None:  # its usage
                        self._note_received(rest)
                shown += self._count_call(), Stop("refusal", details=refused.details)
        return shown or None

    def _note_received(self, deltas: Iterable[Delta]) -> None:
        """The client may not get them, but the provider bills them."""
        for delta in deltas:
            if isinstance(delta, Text | Thinking):
                self._received += len(delta.text)
            elif isinstance(delta, ToolArgs):
                self._received += len(delta.json)
            elif isinstance(delta, Usage):
                if delta.earlier is not self._usage.earlier:
                    self._received = 0
                self._usage = merge_latest(self._usage, delta)
            elif isinstance(delta, Stop):
                self._has_ended = True

    def _count_call(self) -> Usage:
        """Return the usage of the running call. A report before its end is partial."""
        output = self._usage.output_tokens
        if output is None or not self._has_ended:
            output = max(output or 0, -(-self._received // CHARACTERS_PER_TOKEN))
        return replace(self._usage, output_tokens=output)

    async def _add(self, delta: Delta, shown: list[Delta]) -> None:
        if isinstance(delta, Text):
            await self._add_text(delta.text, shown, is_thinking=False)
        elif isinstance(delta, Thinking) and self._hides_thinking:
            # it belongs to the call that follows it
            (shown if not self._calls else [*self._calls.values()][-1].hidden_behind).append(delta)
        elif isinstance(delta, Thinking):
            await self._add_text(delta.text, shown, is_thinking=True)
            if delta.signature:
                await self._close(shown)
                shown.append(Thinking(signature=delta.signature))
        elif isinstance(delta, ToolCall):
            await self._close(shown)
            self._calls[delta.key] = _HeldCall(delta)
        elif isinstance(delta, ToolArgs | ToolEnd):
            await self._add_to_call(delta, shown)
        elif isinstance(delta, Usage):
            shown.append(delta)
        elif isinstance(delta, TextEnd):
            await self._close(shown)
            shown.append(delta)
        elif isinstance(delta, Stop):
            await self._close(shown)
            await self._send_calls(shown, all_calls=True)
            if delta.sequence is not None or delta.details is not None:  # a placeholder, or an explanation
                texts = msgspec.json.encode([delta.sequence, delta.details])
                sequence, details = msgspec.json.decode(await self._inspect_block(texts))
                delta = replace(delta, sequence=sequence, details=details)
            shown.append(delta)
        elif isinstance(delta, Citation):
            citation = Citation(Raw(await self._inspect_block(bytes(delta.raw))))
            (shown if self._open is None else self._due).append(citation)
        elif isinstance(delta, Block):
            await self._close(shown)
            shown.append(Block(Raw(await self._inspect_block(bytes(delta.raw)))))
        else:
            assert_never(delta)

    async def _add_to_call(self, delta: ToolArgs | ToolEnd, shown: list[Delta]) -> None:
        held = self._calls.get(delta.key)
        if held is None:
            await self._close(shown)
            shown.append(delta)
        elif isinstance(delta, ToolArgs):
            held.arguments.append(delta)
        else:
            held.is_complete = True
            await self._send_calls(shown)

    async def _add_text(self, text: str, shown: list[Delta], *, is_thinking: bool) -> None:
        if self._open is None or self._is_thinking != is_thinking:
            await self._close(shown)
            self._open = HeldText(self._inspection, "thinking" if is_thinking else "assistant")
            self._is_thinking = is_thinking
        self._show(await self._open.feed(text), shown)

    async def _close(self, shown: list[Delta]) -> None:
        """End the open block of text."""
        if self._open is not None:
            self._show(await self._open.finish(), shown)
            self._open = None
            shown += self._due
            self._due = []

    def _show(self, text: str, shown: list[Delta]) -> None:
        if text:
            shown.append(Thinking(text) if self._is_thinking else Text(text))
            shown += self._due
            self._due = []

    async def _send_calls(self, shown: list[Delta], *, all_calls: bool = False) -> None:
        """Send the first calls up to one that is incomplete. `all_calls`: that one too."""
        for held in [*self._calls.values()]:
            if not (held.is_complete or all_calls):
                break
            call = held.call
            del self._calls[call.key]
            arguments = "".join(one.json for one in held.arguments)
            edited = await self._inspection.inspect_arguments(arguments, call.name)
            shown.append(call)
            shown += held.arguments if edited == arguments else [ToolArgs(call.key, edited)]
            if held.is_complete:
                shown.append(ToolEnd(call.key))
            shown += held.hidden_behind

    async def _inspect_block(self, block: bytes) -> bytes:
        try:
            return await inspect_texts(self._inspection, read_body(block, find_texts_of_whole_block))
        except InvalidRequest:  # the client reads it as it is
            return block

    def flush_pending(self) -> list[Delta]:
        pending = self._stream.flush_pending()
        if self._inspection.readers:  # what no inspector has read is not shown
            self._note_received(pending)
            return [self._count_call()]
        shown: list[Delta] = []
        if self._open is not None:
            self._show(self._open.flush(), shown)
            self._open = None
        for delta in pending:
            if isinstance(delta, Text | Thinking):
                self._is_thinking = isinstance(delta, Thinking)
                self._show(self._inspection.restore(delta.text), shown)
        return shown

    def release_request(self) -> None:
        self._stream.release_request()

    async def close(self) -> None:
        await self._stream.close()
