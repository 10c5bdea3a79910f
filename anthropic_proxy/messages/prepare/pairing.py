"""Calls and results, paired: after a message with calls comes a user message that begins with their results, in order.

Clients send results in the order in which they finished, mix text in between, cut histories in two and repeat ids;
providers refuse each of these.
"""

from collections.abc import Iterable

from msgspec import Raw
from msgspec.structs import replace

from anthropic_proxy.messages.notes import Note
from anthropic_proxy.messages.prepare.cleaning import as_text
from anthropic_proxy.messages.prepare.losses import UNPAIRED
from anthropic_proxy.messages.prepare.names import Names
from anthropic_proxy.messages.prepare.transcript import Transcript
from anthropic_proxy.messages.types import Block, Message, ToolResultBlock, ToolUseBlock

_NO_RESULT = Raw(b'"[no result recorded]"')
_UNNAMED = "call"
"""Stands for an empty id."""


def pair_calls(messages: list[Message], names: Names, notes: list[Note]) -> list[Message]:
    """Return cleaned messages with calls and results paired, ids unique and calls under their aliases.

    `notes` gets what has no other half. Messages that need no change are the same objects.
    """
    if _are_in_order(messages, names):
        return messages
    paired = Transcript()
    seen: set[str] = set()
    start, end = 0, len(messages)
    while start < end:
        stop = start + 1
        while stop < end and messages[stop].role != "assistant":
            stop += 1
        step = messages[start:stop]
        calls = _calls_of(step[0])
        said = [_said(call, seen, names) for call in calls]
        if not (_is_paired(calls, step) and all(old is new for old, new in zip(calls, said, strict=True))):
            step = _repaired(step, calls, said, notes)
        for message in step:
            paired.append(message)
        start = stop
    return paired.messages


def _are_in_order(messages: list[Message], names: Names) -> bool:
    """Whether there is nothing to do, as in every history of a client without faults."""
    owed: list[str] = []
    seen: set[str] = set()
    for message in messages:
        if message.role != "assistant":
            if not _answers(message.blocks, owed):
                return False
            owed = []
        elif owed:
            return False
        else:
            for block in message.blocks:
                if type(block) is ToolUseBlock:
                    if _must_change(block, seen, names):
                        return False
                    owed.append(block.id)
    return not owed


def _answers(blocks: list[Block], owed: list[str]) -> bool:
    """Whether the blocks begin with the results that are owed, in their order, and hold no other."""
    answered = 0
    for place, block in enumerate(blocks):
        if type(block) is ToolResultBlock:
            if place != answered or place >= len(owed) or block.tool_use_id != owed[place]:
                return False
            answered += 1
    return answered == len(owed)


def _must_change(call: ToolUseBlock, seen: set[str], names: Names) -> bool:
    known = not call.id or call.id in seen
    seen.add(call.id)
    return known or names.say(call.name) != call.name


def _calls_of(message: Message) -> list[ToolUseBlock]:
    if message.role != "assistant":
        return []
    return [block for block in message.blocks if isinstance(block, ToolUseBlock)]


def _results_of(blocks: Iterable[Block]) -> list[ToolResultBlock]:
    return [block for block in blocks if isinstance(block, ToolResultBlock)]


def _said(call: ToolUseBlock, seen: set[str], names: Names) -> ToolUseBlock:
    """Return the call under a new id if an earlier one has its id, and under the alias of its name."""
    fresh, count = call.id or _UNNAMED, 1
    while fresh in seen:
        count += 1
        fresh = f"{call.id or _UNNAMED}_{count}"
    seen.add(fresh)
    name = names.say(call.name)
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
    step: list[Message], calls: list[ToolUseBlock], said: list[ToolUseBlock], notes: list[Note]
) -> list[Message]:
    """Return a step whose results stand first, one for each call; what is left of others becomes text."""
    waiting = _results_by_id(step)
    results: list[ToolResultBlock] = []
    for call, new in zip(calls, said, strict=True):
        found = waiting.get(call.id)
        result = found.pop(0) if found else ToolResultBlock(new.id, _NO_RESULT)
        results.append(result if result.tool_use_id == new.id else replace(result, tool_use_id=new.id))
    left = {id(result) for found in waiting.values() for result in found}
    if left or any(result.content is _NO_RESULT for result in results):
        notes.append(UNPAIRED)
    repaired = [Message("user", [*results])]
    if calls:
        swaps = {id(call): new for call, new in zip(calls, said, strict=True)}
        repaired.insert(0, Message("assistant", [swaps.get(id(block), block) for block in step[0].blocks]))
        step = step[1:]
    return repaired + [Message(message.role, _without_results(message, left)) for message in step]


def _results_by_id(step: list[Message]) -> dict[str, list[ToolResultBlock]]:
    """Return the results by the id of their call, in order; one that says the same as the one before is left out."""
    waiting: dict[str, list[ToolResultBlock]] = {}
    for message in step:
        for result in _results_of(message.blocks):
            found = waiting.setdefault(result.tool_use_id, [])
            if not found or bytes(found[-1].content) != bytes(result.content):
                found.append(result)
    return waiting


def _without_results(message: Message, left: set[int]) -> list[Block]:
    """Return the blocks of a message, its results left out or, where nothing waits for them, as text."""
    blocks: list[Block] = []
    for block in message.blocks:
        if not isinstance(block, ToolResultBlock):
            blocks.append(block)
        elif id(block) in left:
            blocks.extend(as_text(block))
    return blocks
