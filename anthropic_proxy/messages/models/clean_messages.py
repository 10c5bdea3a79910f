"""Fast check for messages that need no cleaning, which is the case in almost all client requests.

Cleaning is a step before a request is sent to a provider. It removes empty text, merges consecutive messages of one
role, and replaces content that providers do not accept. `as_clean_messages` checks all messages in one pass. If they
are valid and all providers accept their content, it returns them as `CleanMessages`, and cleaning is skipped.
`is_supported_media` is True for an image or document that all providers' encoders (wires) accept unchanged.
"""

from collections.abc import Iterable

from msgspec import Raw

from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.messages.models.blocks import EMPTY_STRING_LENGTH, decode_nested_content, is_raw_too_deep
from anthropic_proxy.messages.models.raw_json import is_json_object, is_string_or_absent
from anthropic_proxy.messages.models.structs import (
    ROLES,
    Block,
    DocumentBlock,
    ImageBlock,
    Message,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
)

_REPLACED_SOURCES = ("file", "text", "content")
"""Types of image and document sources that no provider's encoder (wire) accepts. `prepare` replaces them by text, or by
the blocks in the source."""
AUDIO_VIDEO_PREFIXES = ("audio/", "video/")
"""Prefixes of the media types of audio and video, which the proxy does not support."""


class CleanMessages(list[Message]):
    """Immutable list of messages for which cleaning is skipped.

    The encoders (wires) of all providers accept their content as it is.
    """

    __slots__ = ("called", "light")

    def __init__(self, messages: Iterable[Message]) -> None:
        super().__init__(messages)
        self.called: list[str] = []
        """Distinct names of called tools, in the order of their first calls."""
        self.light = True
        """True if the messages contain no images and no documents. Only these two can have more tokens than bytes."""


def as_clean_messages(messages: list[Message]) -> CleanMessages | None:
    """Return the messages as `CleanMessages` (no cleaning needed). None: they may be invalid or require changes."""
    clean = CleanMessages(messages)
    names: dict[str, str] = {}
    # call ids must be unique, and results must begin the next message in the order of the calls
    expected_ids: list[str] = []
    lists: list[Raw] = []
    for message in messages:
        role, content = message.role, message.content
        if isinstance(content, str):
            is_clean = not expected_ids and role in ROLES
        elif role == "assistant":
            is_clean = not expected_ids and _is_reply(content, names, expected_ids)
        elif role == "user":
            is_clean, expected_ids = _is_answer(content, expected_ids, lists, clean), []
        else:
            is_clean = role == "system" and not expected_ids and all(map(_is_text_block, content))
        if not is_clean or not content:
            return None
    if expected_ids or not all(_is_list(content, clean) for content in lists):
        return None
    clean.called.extend(dict.fromkeys(names.values()))
    return clean


def is_supported_media(block: Block) -> bool:
    """Return True for an image or document that all providers' encoders (wires) accept unchanged.

    False for any other block.
    """
    if not isinstance(block, ImageBlock | DocumentBlock) or (
        isinstance(block, DocumentBlock) and block.requests_citations
    ):
        return False
    return block.source.type not in _REPLACED_SOURCES and not block.source.media_type.startswith(AUDIO_VIDEO_PREFIXES)


def _is_text_block(block: Block) -> bool:
    return type(block) is TextBlock and is_string_or_absent(block.text) and len(block.text) > EMPTY_STRING_LENGTH


def _is_reply(content: list[Block], names: dict[str, str], expected_ids: list[str]) -> bool:
    """Return True if an assistant message needs no preparation.

    Adds its calls to `names` (call id → tool name) and to `expected_ids`.
    """
    for block in content:
        if type(block) is ToolUseBlock:
            if not block.id or block.id in names or not is_json_object(block.input) or is_raw_too_deep(block.input):
                return False
            names[block.id] = block.name
            expected_ids.append(block.id)
        elif not _is_text_block(block) and type(block) is not ThinkingBlock:
            return False
    return True


def _is_answer(content: list[Block], expected_ids: list[str], lists: list[Raw], clean: CleanMessages) -> bool:
    """Return True if a user message begins with the results of the expected call ids and needs no preparation.

    Results with a list of blocks are added to `lists`, and their blocks are checked later.
    """
    results = len(expected_ids)
    for place, block in enumerate(content):
        if place >= results:
            is_clean = _is_forwarded(block, clean)
        elif type(block) is ToolResultBlock and block.tool_use_id == expected_ids[place]:
            is_clean = True
            if not is_string_or_absent(block.content):
                lists.append(block.content)
        else:
            is_clean = False
        if not is_clean:
            return False
    return len(content) >= results


def _is_list(content: Raw, clean: CleanMessages) -> bool:
    """Return True if the content of a tool result is a list of blocks that can be sent unchanged."""
    try:
        blocks = decode_nested_content(content)
    except InvalidRequest:
        return False
    return bool(blocks) and all(_is_forwarded(block, clean) for block in blocks)


def _is_forwarded(block: Block, clean: CleanMessages) -> bool:
    if _is_text_block(block):
        return True
    clean.light = False
    return is_supported_media(block)
