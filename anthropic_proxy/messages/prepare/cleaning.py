"""Messages as blocks that wires know, without empty texts, neighbours of one role merged."""

from msgspec import Raw

from anthropic_proxy.errors import InvalidRequest, UnsupportedFeature
from anthropic_proxy.messages.notes import Note
from anthropic_proxy.messages.prepare.blocks import as_said, text_block, text_of
from anthropic_proxy.messages.prepare.losses import SUMMED_UP, notes_on_blocks
from anthropic_proxy.messages.prepare.transcript import Transcript
from anthropic_proxy.messages.types import (
    Block,
    CompactionBlock,
    DocumentBlock,
    ImageBlock,
    Message,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    blocks_of,
    is_text,
    text_raw,
)
from anthropic_proxy.messages.types.blocks import EMPTY_TEXT
from anthropic_proxy.messages.types.plain import SOUND, is_sourced

_BILLING = b"x-anthropic-billing-header:"
_RESULT = "result"
_STAYS: dict[str, frozenset[type]] = {
    "user": frozenset({ImageBlock, DocumentBlock, ToolResultBlock}),
    "assistant": frozenset({ThinkingBlock, ToolUseBlock}),
    "system": frozenset(),
    _RESULT: frozenset({ImageBlock, DocumentBlock}),
}
"""Role, or the inside of a result → blocks that may stand there beside text."""
_SOURCED = (ImageBlock, DocumentBlock)


def clean_system(system: str | list[Block]) -> list[TextBlock]:
    """Return the system prompt as texts, without the line that names the client's build.

    That line's nonce changes with each session and would spoil every cache of prefixes.
    """
    blocks: list[Block] = [TextBlock(text_raw(system))] if isinstance(system, str) else system
    texts = []
    for block in blocks:
        for said in as_said(block):
            kept = _without_billing(said) if isinstance(said, TextBlock) else None
            if kept is not None and len(kept.text) > EMPTY_TEXT:
                texts.append(kept)
    return texts


def clean_messages(messages: list[Message], notes: list[Note]) -> list[Message]:
    """Return the messages as wires read them; those that need no change are the same objects.

    `notes` gets what becomes of the others.

    Raises `InvalidRequest` where nothing is left to say, `UnsupportedFeature` for sound and film: to leave them out
    would be to answer another question.
    """
    cleaned = Transcript()
    for place, message in enumerate(messages):
        role, content = message.role, message.content
        if isinstance(content, str) or _is_clean(content, role):
            cleaned.append(message)
        else:
            _expect_no_sound(content, f"messages.{place}.content")
            summary, content = _since_compaction(content)
            if summary:
                notes.append(SUMMED_UP)
                cleaned = Transcript()
                cleaned.append(Message("user", [text_block(summary)]))
            notes.extend(notes_on_blocks(content, role))
            cleaned.append(Message(role, _cleaned(content, role)))
    if not cleaned.messages:
        raise InvalidRequest("messages: at least one message must have content that is not empty")
    return cleaned.messages


def as_text(result: ToolResultBlock) -> list[Block]:
    """Return a result whose call is not there as blocks of a user message: what it says, then its pictures."""
    parts = blocks_of(result.content)
    pictures = [part for part in parts if isinstance(part, ImageBlock | DocumentBlock)]
    return [text_block(f"[result of an earlier tool call] {text_of(parts)}".rstrip()), *pictures]


def _since_compaction(content: list[Block]) -> tuple[str, list[Block]]:
    """Return the last summary in a message and what follows it.

    What a summary stands for is left out, as the API itself does; the summary is said as the user's.
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
    _, line_end, rest = bytes(text).partition(b"\\n")
    return TextBlock(Raw(b'"' + rest), block.cache_control) if line_end else None


def _is_clean(content: list[Block], role: str) -> bool:
    stays = _STAYS[role]
    for block in content:
        kind = type(block)
        if kind is TextBlock:
            if len(block.text) == EMPTY_TEXT:  # type: ignore[union-attr]
                return False
        elif kind is ToolResultBlock:
            if role != "user" or not _is_clean_result(block.content):  # type: ignore[union-attr,arg-type]
                return False
        elif kind not in stays or (kind in _SOURCED and not is_sourced(block)):
            return False
    return True


def _expect_no_sound(content: list[Block], field: str) -> None:
    for place, block in enumerate(content):
        if isinstance(block, ToolResultBlock):
            _expect_no_sound(blocks_of(block.content), f"{field}.{place}.content")
        elif isinstance(block, ImageBlock | DocumentBlock) and block.source.media_type.startswith(SOUND):
            raise UnsupportedFeature(
                f"{field}.{place}.source.media_type: {block.source.media_type} cannot be sent; only JPEG, PNG, GIF and "
                "WebP pictures, PDFs and text are taken"
            )


def _is_clean_result(content: Raw) -> bool:
    if is_text(content):
        return True
    parts = blocks_of(content)
    return bool(parts) and _is_clean(parts, _RESULT)


def _cleaned(content: list[Block], role: str) -> list[Block]:
    return [placed for block in content for said in as_said(block) for placed in _in_place(said, role)]


def _in_place(block: Block, role: str) -> tuple[Block, ...]:
    """Return what a message of that role can hold in place of a block."""
    if type(block) is TextBlock or type(block) in _STAYS[role]:
        return (block,)
    if isinstance(block, ToolUseBlock):
        return (text_block(f"[call of {block.name}] {bytes(block.input).decode()}"),)
    if isinstance(block, ToolResultBlock):
        return tuple(placed for part in as_text(block) for placed in _in_place(part, role))
    if isinstance(block, ImageBlock):
        return (text_block(f"[image omitted: {block.source.media_type or block.source.url}]"),)
    if isinstance(block, DocumentBlock):
        return (text_block(f"[document omitted: {block.title or block.source.media_type or block.source.url}]"),)
    return ()
