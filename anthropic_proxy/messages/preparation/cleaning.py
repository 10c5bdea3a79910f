"""Cleaning of the client's messages before they are encoded for a provider.

`clean_messages` removes empty text, merges consecutive messages of one role, and puts text in place of blocks that
providers do not accept. A `Transcript` is the list of cleaned messages under construction, and `extend` appends several
messages to it. `clean_system_prompt` cleans the system prompt. `orphan_result_blocks` converts a tool result without a
call.
"""

from collections.abc import Iterable

from msgspec import Raw

from anthropic_proxy.errors import InvalidRequest, UnsupportedFeature
from anthropic_proxy.messages.fidelity import FidelityNote
from anthropic_proxy.messages.models import (
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
from anthropic_proxy.messages.models.blocks import EMPTY_STRING_LENGTH
from anthropic_proxy.messages.models.clean_messages import AUDIO_VIDEO_PREFIXES, is_supported_media
from anthropic_proxy.messages.preparation.block_text import join_text_blocks, new_text_block, to_upstream_blocks
from anthropic_proxy.messages.preparation.fidelity_notes import COMPACTION_AS_TEXT, notes_on_blocks


class Transcript:
    """List of messages under construction. It skips empty messages and merges consecutive messages of one role."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._role = ""
        self._blocks: list[Block] | None = None
        """Blocks of the last message, if new blocks may be added to this list. None: the list belongs to the client
        request."""

    def append(self, message: Message) -> None:
        """Append a message. It is merged with the last message if both have the same role."""
        self.extend((message,))

    def extend(self, messages: Iterable[Message]) -> None:
        """Append messages to the transcript in order. Empty messages are skipped."""
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


def clean_system_prompt(system: str | list[Block]) -> list[TextBlock]:
    """Return the system prompt as text blocks, without empty blocks and without Claude Code's billing line.

    This line has a random value per session, which would make prompt caches useless.
    """
    blocks: list[Block] = [TextBlock(json_string(system))] if isinstance(system, str) else system
    texts = []
    for block in blocks:
        for sent in to_upstream_blocks(block):
            kept = _without_billing(sent) if isinstance(sent, TextBlock) else None
            if kept is not None and len(kept.text) > EMPTY_STRING_LENGTH:
                texts.append(kept)
    return texts


def clean_messages(messages: list[Message], notes: list[FidelityNote]) -> list[Message]:
    """Return the messages with only the content that providers' encoders (wires) accept.

    Raises `InvalidRequest` if no content is left, and `UnsupportedFeature` for audio and video.
    """
    cleaned = Transcript()
    for place, message in enumerate(messages):
        role, content = message.role, message.content
        if isinstance(content, str) or _is_clean(content, role):
            cleaned.append(message)
        else:
            _require_no_audio_video(content, f"messages.{place}.content")
            summary, content = _since_compaction(content)
            if summary:
                notes.append(COMPACTION_AS_TEXT)
                cleaned = Transcript()
                cleaned.append(Message("user", [new_text_block(summary)]))
            notes.extend(notes_on_blocks(content, role))
            cleaned.append(Message(role, _cleaned(content, role)))
    if not cleaned.messages:
        raise InvalidRequest("messages: at least one message must have content that is not empty")
    return cleaned.messages


def orphan_result_blocks(result: ToolResultBlock) -> list[Block]:
    """Return the blocks that replace a tool result without a tool call: its text, then its images and documents."""
    blocks = decode_nested_content(result.content)
    media = [block for block in blocks if isinstance(block, ImageBlock | DocumentBlock)]
    return [new_text_block(f"[result of an earlier tool call] {join_text_blocks(blocks)}".rstrip()), *media]


def _since_compaction(content: list[Block]) -> tuple[str, list[Block]]:
    """Return the last compaction summary in a message, and the blocks after it. Summary "": none.

    A compaction summary is the client's summary of the earlier conversation. It replaces all earlier content.
    """
    for index in range(len(content) - 1, -1, -1):
        block = content[index]
        if isinstance(block, CompactionBlock) and block.content:
            return block.content, content[index + 1 :]
    return "", content


def _without_billing(block: TextBlock) -> TextBlock | None:
    text = memoryview(block.text)
    if bytes(text[1 : 1 + len(_BILLING)]) != _BILLING:
        return block
    _, line_end, remainder = bytes(text).partition(b"\\n")
    return TextBlock(Raw(b'"' + remainder)) if line_end else None


def _is_clean(content: list[Block], role: str) -> bool:
    accepted = _ACCEPTED[role]
    for block in content:
        if type(block) is TextBlock:
            if len(block.text) == EMPTY_STRING_LENGTH:
                return False
        elif type(block) is ToolResultBlock:
            if role != "user" or not _is_clean_result(block.content):
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
                "PNG, GIF or WebP image, a PDF or text"
            )


def _is_clean_result(content: Raw) -> bool:
    if is_string_or_absent(content):
        return True
    blocks = decode_nested_content(content)
    return bool(blocks) and _is_clean(blocks, _RESULT)


def _cleaned(content: list[Block], role: str) -> list[Block]:
    return [placed for block in content for sent in to_upstream_blocks(block) for placed in _in_place(sent, role)]


def _in_place(block: Block, role: str) -> tuple[Block, ...]:
    """Return the blocks that replace one block in a message of this role. An accepted block is returned unchanged."""
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
