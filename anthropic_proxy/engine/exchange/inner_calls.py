"""Calls of other models that a relayed reply shows: advisors, fallbacks, compactions.

A provider states their tokens in `usage.iterations`, in the last event but one of a stream. A stream that ends before,
because the client disconnects or the connection fails, is billed nevertheless. So its blocks are read, but only of a
request that permits such calls.
"""

from collections import Counter
from collections.abc import Sequence

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType, structs

from anthropic_proxy.engine.messages.deltas import CHARACTERS_PER_TOKEN, OF_REPLY, Iteration, Usage, clamp_count
from anthropic_proxy.engine.messages.models.raw_json import ABSENT
from anthropic_proxy.engine.providers.model_ids import is_id_of_model
from anthropic_proxy.engine.wires.framing import EVENT_BORDER, SSEReader
from anthropic_proxy.engine.wires.json_repair import DECODE_ERRORS

_MAX_CALLS = 200
_START, _BLOCK, _DELTA = b"message_start", b"content_block_start", b'"content_block_delta"'
_DELTA_BYTES = 110
"""Approximate length of the event of a delta without its text."""
_OF_CALLS = (b"advisor_tool_result", b'"fallback"', b'"compaction"')
"""Bytes of the types of blocks that follow a call (SDK `anthropic` 2.10)."""


class _Model(Struct):
    model: str = ""


class _Block(Struct):
    type: str = ""
    content: Raw = ABSENT
    to: _Model | UnsetType = UNSET
    """Model that continues the reply, of a block `fallback`."""


class _Event(Struct):
    message: _Model | UnsetType = UNSET
    content_block: _Block | UnsetType = UNSET


class _Attempt(Struct):
    """An attempt of a model at the reply."""

    model: str
    output_tokens: int


_decode_event = msgspec.json.Decoder(_Event).decode
_decode_model = msgspec.json.Decoder(_Model).decode


class InnerCalls:
    """The calls of one reply."""

    def __init__(self, model: str, advisor: str) -> None:
        """`model`: the called model. `advisor`: model that the request names as its advisor. "": none."""
        self._called, self._advisor = model, advisor
        self._model = model
        """Model that writes the reply, as the provider calls it."""
        self._characters = 0
        """Approximate length of the output of this model."""
        self._refused: list[_Attempt] = []
        self._others: list[Iteration] = []
        """Calls without their input."""

    def feed(self, events: bytes) -> None:
        """Read whole events."""
        for event in EVENT_BORDER.split(events):
            if _DELTA in event:
                self._characters += max(len(event) - _DELTA_BYTES, 0)
                continue
            if _START not in event and not (_BLOCK in event and any(map(event.__contains__, _OF_CALLS))):
                continue
            reader = SSEReader()
            for frame in (*reader.feed(event), *reader.finish()):
                try:
                    read = _decode_event(frame)
                except DECODE_ERRORS:
                    continue  # the relay judges it
                if isinstance(read.message, _Model):
                    self._model = read.message.model or self._model
                if isinstance(read.content_block, _Block):
                    self._add_block(read.content_block)

    def feed_body(self, reply: bytes) -> None:
        """Read a reply that is not streamed."""
        try:
            self._model = _decode_model(reply).model or self._model
        except DECODE_ERRORS:
            return

    def _add_block(self, block: _Block) -> None:
        if len(self._others) + len(self._refused) >= _MAX_CALLS:
            return
        if block.type == "advisor_tool_result" and self._advisor:
            tokens = -(-len(block.content) // CHARACTERS_PER_TOKEN)
            self._others.append(Iteration(kind="advisor_message", model=self._advisor, output_tokens=tokens))
        elif block.type == "compaction":  # its text counts as output of the reply
            self._others.append(Iteration(kind="compaction"))
        elif block.type == "fallback":
            self._refused.append(_Attempt(self._model, self._characters // CHARACTERS_PER_TOKEN))
            self._characters = 0
            self._model = block.to.model if isinstance(block.to, _Model) else ""

    def complete(self, usage: Usage, estimated_input: int | None = None) -> Usage:
        """Return the usage of the reply with the calls that it does not state.

        `estimated_input`: tokens of the request, if the stream has ended before its usage. Then the input counts are
        those of the first attempt at the reply, and the tokens of each call are estimated that its beginning does not
        state. None: the usage is whole.
        """
        stated = usage.iterations
        if stated is not None and estimated_input is None:
            return usage
        counts = Iteration(
            kind="message",
            input_tokens=clamp_count(usage.input_tokens),
            cache_read_tokens=clamp_count(usage.cache_read_tokens),
            cache_write_tokens=clamp_count(usage.cache_write_tokens),
            cache_write_1h_tokens=clamp_count(usage.cache_write_1h_tokens),
            output_tokens=clamp_count(usage.output_tokens),
            thinking_tokens=clamp_count(usage.thinking_tokens),
        )
        if estimated_input is None:
            calls = [] if self._is_called(self._model) else [_name_model(counts, self._model)]
        else:
            read = counts.all_input_tokens or estimated_input
            attempts = self._list_attempts(counts, read)
            others = [structs.replace(call, input_tokens=read) for call in self._others]
            if stated is not None:
                calls = _add_shown(stated, attempts, others)
            else:
                is_plain = not self._refused and self._is_called(self._model)
                calls = others if is_plain else [*attempts, *others]
        return structs.replace(usage, iterations=tuple(calls) or None)

    def _list_attempts(self, counts: Iteration, read: int) -> list[Iteration]:
        """Return the attempts of models at the reply, at least one.

        `counts`: those of the reply. `read`: input tokens of an attempt.
        """
        output = sum(attempt.output_tokens for attempt in self._refused)
        last = _Attempt(self._model, max(counts.output_tokens - output, 0))
        calls = list[Iteration]()
        for attempt in (*self._refused, last):
            inputs = counts if not calls else Iteration(kind="message", input_tokens=read)
            call = structs.replace(inputs, output_tokens=attempt.output_tokens)
            calls.append(call if self._is_called(attempt.model) else _name_model(call, attempt.model))
        return calls

    def _is_called(self, model: str) -> bool:
        return not model or is_id_of_model(model, self._called)


def _name_model(call: Iteration, model: str) -> Iteration:
    return structs.replace(call, kind="fallback_message", model=model)


def _add_shown(
    stated: Sequence[Iteration], attempts: Sequence[Iteration], others: Sequence[Iteration]
) -> list[Iteration]:
    """Return the calls that the beginning of a stream states, and those that only its blocks show.

    The last stated attempt at the reply is the first one of `attempts`, and has written more since the beginning.
    """
    calls, later = [*stated], [*attempts]
    if of_reply := [index for index, call in enumerate(calls) if call.kind in OF_REPLY]:
        running = calls[of_reply[-1]]
        output = max(running.output_tokens, later.pop(0).output_tokens)
        calls[of_reply[-1]] = structs.replace(running, output_tokens=output)
    known = Counter[str]()
    for call in stated:
        known[call.kind] += call.calls
    for call in others:
        if known[call.kind] > 0:
            known[call.kind] -= 1
        else:
            later.append(call)
    return [*calls, *later]
