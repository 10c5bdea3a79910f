"""Pairing of tool calls and results: each message with calls is followed by all their results, in order.

Some clients send results in another order or mixed with text, truncate histories or repeat call ids. Providers reject
such messages, so `pair_calls_with_results` repairs them.
"""

from collections import deque
from collections.abc import Iterable

from msgspec import Raw
from msgspec.structs import replace

from anthropic_proxy.messages.fidelity import FidelityNote
from anthropic_proxy.messages.models import Block, Message, ToolResultBlock, ToolUseBlock
from anthropic_proxy.messages.preparation.cleaning import Transcript, orphan_result_blocks
from anthropic_proxy.messages.preparation.fidelity_notes import UNPAIRED_RESULT
from anthropic_proxy.messages.preparation.tool_names import ToolNames

_NO_RESULT = Raw(b'"[no result recorded]"')
_UNNAMED = "call"
"""Id that replaces the empty id of a tool call in the client request."""


def pair_calls_with_results(messages: list[Message], names: ToolNames, notes: list[FidelityNote]) -> list[Message]:
    """Return the messages of `clean_messages` with each tool call followed by its result, and unique call ids.

    Tool names in calls are replaced by the upstream names of `names`. A missing call or result causes a fidelity note
    in `notes`.
    """
    if _are_in_order(messages, names):
        return messages
    paired = Transcript()
    ids = _UniqueIds()
    start, end = 0, len(messages)
    while start < end:
        stop = start + 1
        while stop < end and messages[stop].role != "assistant":
            stop += 1
        step = messages[start:stop]
        calls = _calls_of(step[0])
        sent = [_upstream_call(call, ids, names) for call in calls]
        if not (_is_paired(calls, step) and all(old is new for old, new in zip(calls, sent, strict=True))):
            step = _repaired(step, calls, sent, notes)
        for message in step:
            paired.append(message)
        start = stop
    return paired.messages


def _are_in_order(messages: list[Message], names: ToolNames) -> bool:
    """Return True if each call in `messages` is followed by its result, and no id or tool name must change."""
    expected_ids: list[str] = []
    seen: set[str] = set()
    for message in messages:
        if message.role != "assistant":
            if not _begins_with_results(message.blocks, expected_ids):
                return False
            expected_ids = []
        elif expected_ids:
            return False
        else:
            for block in message.blocks:
                if type(block) is ToolUseBlock:
                    if _must_change(block, seen, names):
                        return False
                    expected_ids.append(block.id)
    return not expected_ids


def _begins_with_results(blocks: list[Block], expected_ids: list[str]) -> bool:
    """Return True if `blocks` begin with the results of the expected call ids, in order, and have no other result."""
    answered = 0
    for place, block in enumerate(blocks):
        if type(block) is ToolResultBlock:
            if place != answered or place >= len(expected_ids) or block.tool_use_id != expected_ids[place]:
                return False
            answered += 1
    return answered == len(expected_ids)


def _must_change(call: ToolUseBlock, seen: set[str], names: ToolNames) -> bool:
    known = not call.id or call.id in seen
    seen.add(call.id)
    return known or names.upstream_name(call.name) != call.name


def _calls_of(message: Message) -> list[ToolUseBlock]:
    if message.role != "assistant":
        return []
    return [block for block in message.blocks if isinstance(block, ToolUseBlock)]


def _results_of(blocks: Iterable[Block]) -> list[ToolResultBlock]:
    return [block for block in blocks if isinstance(block, ToolResultBlock)]


class _UniqueIds:
    """The ids of tool calls that one client request has used so far. A repeated id gets a number appended."""

    def __init__(self) -> None:
        self._used: set[str] = set()
        self._numbers: dict[str, int] = {}
        """Repeated call id → last number appended to it, so that no number is tried twice."""

    def claim(self, call_id: str) -> str:
        """Return an unused call id and mark it as used. It is `call_id` itself, or `call_id` with a number."""
        given = call_id or _UNNAMED
        unique = given
        if given in self._used:
            number = self._numbers.get(given, 1)
            while unique in self._used:
                number += 1
                unique = f"{given}_{number}"
            self._numbers[given] = number
        self._used.add(unique)
        return unique


def _upstream_call(call: ToolUseBlock, ids: _UniqueIds, names: ToolNames) -> ToolUseBlock:
    """Return a tool call with a unique id, and with the tool name that is sent upstream."""
    fresh = ids.claim(call.id)
    name = names.upstream_name(call.name)
    return call if fresh == call.id and name == call.name else replace(call, id=fresh, name=name)


def _is_paired(calls: list[ToolUseBlock], step: list[Message]) -> bool:
    results = [result.tool_use_id for message in step for result in _results_of(message.blocks)]
    if results != [call.id for call in calls]:
        return False
    if not calls:
        return True
    first = step[1]
    return first.role == "user" and len(_results_of(first.blocks[: len(calls)])) == len(calls)


def _repaired(
    step: list[Message], calls: list[ToolUseBlock], sent: list[ToolUseBlock], notes: list[FidelityNote]
) -> list[Message]:
    """Return an assistant message and the messages after it, with exactly one result for each of its calls.

    Results without a call become text. `step`: these messages as the client sent them. `calls`: the calls in them.
    `sent`: the same calls with the ids and names to send.
    """
    waiting = _results_by_id(step)
    results: list[ToolResultBlock] = []
    for call, new in zip(calls, sent, strict=True):
        found = waiting.get(call.id)
        result = found.popleft() if found else ToolResultBlock(new.id, _NO_RESULT)
        results.append(result if result.tool_use_id == new.id else replace(result, tool_use_id=new.id))
    unpaired = {id(result) for found in waiting.values() for result in found}
    if unpaired or any(result.content is _NO_RESULT for result in results):
        notes.append(UNPAIRED_RESULT)
    repaired = [Message("user", [*results])]
    if calls:
        swaps = {id(call): new for call, new in zip(calls, sent, strict=True)}
        repaired.insert(0, Message("assistant", [swaps.get(id(block), block) for block in step[0].blocks]))
        step = step[1:]
    return repaired + [Message(message.role, _without_results(message, unpaired)) for message in step]


def _results_by_id(step: list[Message]) -> dict[str, deque[ToolResultBlock]]:
    """Return the tool results in the messages: call id → its results, in order.

    Of equal consecutive results, only the first is kept.
    """
    waiting: dict[str, deque[ToolResultBlock]] = {}
    for message in step:
        for result in _results_of(message.blocks):
            found = waiting.setdefault(result.tool_use_id, deque())
            if not found or bytes(found[-1].content) != bytes(result.content):
                found.append(result)
    return waiting


def _without_results(message: Message, unpaired: set[int]) -> list[Block]:
    """Return the blocks of a message without tool results. Results that belong to no call become text.

    `unpaired`: `id()` of each result block without a call.
    """
    blocks: list[Block] = []
    for block in message.blocks:
        if not isinstance(block, ToolResultBlock):
            blocks.append(block)
        elif id(block) in unpaired:
            blocks.extend(orphan_result_blocks(block))
    return blocks
