"""Cleaning of the client's messages before they are encoded for a provider.

Providers' encoders (wires) accept text everywhere, images and documents in user messages, thinking and tool calls in
assistant messages. `clean_messages` removes empty text, merges consecutive messages of one role, and puts text in place
of all other blocks. `pair_calls_with_results` then repairs tool calls: each call gets a unique id and exactly one
result, directly after it, because providers reject anything else.
"""

from collections import deque
from collections.abc import Iterable

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.messages.models import (
    Block,
    CompactionBlock,
    DocumentBlock,
    ImageBlock,
    Message,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    decode_nested_content,
    is_string_or_absent,
    json_string,
    name_url,
)
from anthropic_proxy.engine.messages.models.blocks import AUDIO_VIDEO_PREFIXES, EMPTY_STRING_LENGTH, is_supported_media
from anthropic_proxy.engine.messages.preparation.block_text import new_text_block, notes_on_blocks, to_upstream_blocks
from anthropic_proxy.engine.messages.preparation.tools import ToolNames
from anthropic_proxy.errors import InvalidRequest, UnsupportedFeature

_BILLING = b"x-anthropic-billing-header:"
_RESULT = "result"
_ACCEPTED: dict[str, frozenset[type]] = {
    "user": frozenset({ImageBlock, DocumentBlock, ToolResultBlock}),
    "assistant": frozenset({ThinkingBlock, ToolUseBlock}),
    "system": frozenset(),
    _RESULT: frozenset({ImageBlock, DocumentBlock}),
}
"""Block types that providers' encoders (wires) accept besides text, by role of the message. The key `result` is for the
content of a tool result."""
_MEDIA = (ImageBlock, DocumentBlock)

_COMPACTION_AS_TEXT = FidelityNote(
    "emulated", "messages.compaction", "sent as a user message that replaces all earlier ones"
)
_UNPAIRED_RESULT = FidelityNote(
    "approximated", "messages.tool_result", "a result is missing or has no call; a text states it"
)


class Transcript:
    """List of messages under construction. It skips empty messages and merges consecutive messages of one role."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._role = ""
        self._blocks: list[Block] | None = None
        """Blocks of the last message, if new blocks may be added to this list. None: the list belongs to the client
        request."""

    def append(self, message: Message) -> None:
        self.extend((message,))

    def extend(self, messages: Iterable[Message]) -> None:
        for message in messages:
            if not message.content:
                continue
            if message.role != self._role:
                self.messages.append(
                    Message(message.role, message.blocks) if isinstance(message.content, str) else message
                )
                self._role, self._blocks = message.role, None
                continue
            if self._blocks is None:
                self._blocks = [*self.messages[-1].blocks]
                self.messages[-1] = Message(self._role, self._blocks)
            self._blocks.extend(message.blocks)


def clean_system_prompt(system: str | list[Block]) -> list[TextBlock]:
    """Return the system prompt as text blocks, without empty blocks and without Claude Code's billing line.

    This line has a random value per session, which would make prompt caches useless.
    """
    blocks: list[Block] = [TextBlock(json_string(system))] if isinstance(system, str) else system
    texts = []
    for block in blocks:
        for sent in (block,) if type(block) is TextBlock else to_upstream_blocks(block):
            if not isinstance(sent, TextBlock):
                continue
            kept = sent
            if bytes(memoryview(sent.text)[1 : 1 + len(_BILLING)]) == _BILLING:
                _, line_end, remainder = bytes(sent.text).partition(b"\\n")
                if not line_end:
                    continue
                kept = TextBlock(Raw(b'"' + remainder))
            if len(kept.text) > EMPTY_STRING_LENGTH:
                texts.append(kept)
    return texts


def clean_messages(messages: list[Message], notes: list[FidelityNote]) -> list[Message]:
    """Raises `InvalidRequest` if no content is left, and `UnsupportedFeature` for audio and video."""
    cleaned = Transcript()
    for place, message in enumerate(messages):
        role, content = message.role, message.content
        if isinstance(content, str) or _is_clean(content, role):
            cleaned.append(message)
        else:
            _require_no_audio_video(content, f"messages.{place}.content")
            for index in range(len(content) - 1, -1, -1):
                block = content[index]
                # a summary of the client, which replaces all earlier content
                if isinstance(block, CompactionBlock) and block.content:
                    notes.append(_COMPACTION_AS_TEXT)
                    cleaned = Transcript()
                    cleaned.append(Message("user", [new_text_block(block.content)]))
                    content = content[index + 1 :]
                    break
            notes.extend(notes_on_blocks(content, role))
            blocks = [
                placed for block in content for sent in to_upstream_blocks(block) for placed in _in_place(sent, role)
            ]
            cleaned.append(Message(role, blocks))
    if not cleaned.messages:
        raise InvalidRequest(
            "messages: at least one message must have content that is not empty", code="empty-messages"
        )
    return cleaned.messages


def orphan_result_blocks(result: ToolResultBlock) -> list[Block]:
    blocks = decode_nested_content(result.content)
    media = [block for block in blocks if isinstance(block, ImageBlock | DocumentBlock)]
    text = "\n".join(msgspec.json.decode(block.text, type=str) for block in blocks if isinstance(block, TextBlock))
    return [new_text_block(f"[result of an earlier tool call] {text}".rstrip()), *media]


def _is_clean(content: list[Block], role: str) -> bool:
    accepted = _ACCEPTED[role]
    for block in content:
        if type(block) is TextBlock:
            if len(block.text) == EMPTY_STRING_LENGTH:
                return False
        elif type(block) is ToolResultBlock:
            if role != "user":
                return False
            if not is_string_or_absent(block.content):
                inner = decode_nested_content(block.content)
                if not inner or not _is_clean(inner, _RESULT):
                    return False
        elif type(block) not in accepted or (type(block) in _MEDIA and not is_supported_media(block)):
            return False
    return True


def _require_no_audio_video(content: list[Block], field: str) -> None:
    for place, block in enumerate(content):
        if isinstance(block, ToolResultBlock):
            _require_no_audio_video(decode_nested_content(block.content), f"{field}.{place}.content")
        elif isinstance(block, ImageBlock | DocumentBlock) and block.source.media_type.startswith(AUDIO_VIDEO_PREFIXES):
            raise UnsupportedFeature(
                f"{field}.{place}.source.media_type: {block.source.media_type} is not supported; use a JPEG, "
                "PNG, GIF or WebP image, a PDF or text",
                code="media-type",
            )


def _in_place(block: Block, role: str) -> tuple[Block, ...]:
    if type(block) is TextBlock or type(block) in _ACCEPTED[role]:
        return (block,)
    if isinstance(block, ToolUseBlock):
        return (new_text_block(f"[call of {block.name}] {bytes(block.input).decode()}"),)
    if isinstance(block, ToolResultBlock):
        return tuple(placed for inner in orphan_result_blocks(block) for placed in _in_place(inner, role))
    if isinstance(block, ImageBlock):
        return (new_text_block(f"[image omitted: {block.source.media_type or name_url(block.source.url)}]"),)
    if isinstance(block, DocumentBlock):
        name = block.title or block.source.media_type or name_url(block.source.url)
        return (new_text_block(f"[document omitted: {name}]"),)
    return ()


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
        calls: list[ToolUseBlock] = []
        if step[0].role == "assistant":
            calls = [block for block in step[0].blocks if isinstance(block, ToolUseBlock)]
        sent = []
        for call in calls:
            fresh, name = ids.claim(call.id), names.upstream_name(call.name)
            sent.append(call if fresh == call.id and name == call.name else replace(call, id=fresh, name=name))
        results = [result.tool_use_id for message in step for result in _results_of(message.blocks)]
        is_paired = results == [call.id for call in calls] and (
            not calls or (step[1].role == "user" and len(_results_of(step[1].blocks[: len(calls)])) == len(calls))
        )
        if not (is_paired and all(old is new for old, new in zip(calls, sent, strict=True))):
            step = _repaired(step, calls, sent, notes)
        paired.extend(step)
        start = stop
    return paired.messages


def _are_in_order(messages: list[Message], names: ToolNames) -> bool:
    """Return True if each call in `messages` is followed by its result, and no id or tool name must change."""
    expected_ids: list[str] = []
    seen: set[str] = set()
    for message in messages:
        blocks = message.blocks
        if message.role != "assistant":
            answered = 0
            for place, block in enumerate(blocks):
                if type(block) is ToolResultBlock:
                    if place != answered or place >= len(expected_ids) or block.tool_use_id != expected_ids[place]:
                        return False
                    answered += 1
            if answered != len(expected_ids):
                return False
            expected_ids = []
        elif expected_ids:
            return False
        else:
            for block in blocks:
                if type(block) is ToolUseBlock:
                    if not block.id or block.id in seen or names.upstream_name(block.name) != block.name:
                        return False
                    seen.add(block.id)
                    expected_ids.append(block.id)
    return not expected_ids


def _results_of(blocks: Iterable[Block]) -> list[ToolResultBlock]:
    return [block for block in blocks if isinstance(block, ToolResultBlock)]


class _UniqueIds:
    def __init__(self) -> None:
        self._used: set[str] = set()
        self._numbers: dict[str, int] = {}
        """Repeated call id → last number appended to it, so that no number is tried twice."""

    def claim(self, call_id: str) -> str:
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


def _repaired(
    step: list[Message], calls: list[ToolUseBlock], sent: list[ToolUseBlock], notes: list[FidelityNote]
) -> list[Message]:
    """Return an assistant message and the messages after it, with exactly one result for each of its calls.

    Results without a call become text. `sent`: the calls with the ids and names to send.
    """
    waiting: dict[str, deque[ToolResultBlock]] = {}  # call id → its results; of equal consecutive ones only the first
    for message in step:
        for result in _results_of(message.blocks):
            found = waiting.setdefault(result.tool_use_id, deque())
            if not found or bytes(found[-1].content) != bytes(result.content):
                found.append(result)
    results: list[ToolResultBlock] = []
    for call, new in zip(calls, sent, strict=True):
        found = waiting.get(call.id, deque())
        result = found.popleft() if found else ToolResultBlock(new.id, _NO_RESULT)
        results.append(result if result.tool_use_id == new.id else replace(result, tool_use_id=new.id))
    unpaired = {id(result) for found in waiting.values() for result in found}
    if unpaired or any(result.content is _NO_RESULT for result in results):
        notes.append(_UNPAIRED_RESULT)
    repaired = [Message("user", [*results])]
    if calls:
        swaps = {id(call): new for call, new in zip(calls, sent, strict=True)}
        repaired.insert(0, Message("assistant", [swaps.get(id(block), block) for block in step[0].blocks]))
        step = step[1:]
    for message in step:
        blocks: list[Block] = []
        for block in message.blocks:
            if not isinstance(block, ToolResultBlock):
                blocks.append(block)
            elif id(block) in unpaired:
                blocks.extend(orphan_result_blocks(block))
        repaired.append(Message(message.role, blocks))
    return repaired
