"""Plain conversations, which most are: a wire says them as they came.

That takes a look at every block, as does the check whether blocks are sound, and in a long history each such look costs
a tenth of the decoding: so reading takes one for both, and preparation none.
"""

from collections.abc import Iterable

from msgspec import Raw

from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.messages.types.blocks import EMPTY_TEXT, blocks_of, nests
from anthropic_proxy.messages.types.structs import (
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
from anthropic_proxy.messages.types.values import is_object, is_text

_SAID_OTHERWISE = ("file", "text", "content")
"""Types of sources that no wire takes; `prepare.blocks.as_said` says what stands for them."""
SOUND = ("audio/", "video/")
"""How media types begin that no wire takes."""


class PlainMessages(list[Message]):
    """Sound messages of texts, calls, results, thinking, pictures, documents; none is empty, each stands in its place.

    No two calls have the same id, and the message after calls begins with their results, in their order. Nobody changes
    the list.
    """

    __slots__ = ("called", "light")

    def __init__(self, messages: Iterable[Message]) -> None:
        super().__init__(messages)
        self.called: list[str] = []
        """Names of the tools that were called, each once, in the order of their first calls."""
        self.light = True
        """Whether nothing in them weighs more than its bytes, as pictures and documents do."""


def find_plain(messages: list[Message]) -> PlainMessages | None:
    """Return the messages as plain ones; None: they are not, or not even sound."""
    plain = PlainMessages(messages)
    names: dict[str, str] = {}
    owed: list[str] = []
    lists: list[Raw] = []
    for message in messages:
        role, content = message.role, message.content
        if isinstance(content, str):
            is_plain = not owed and role in ROLES
        elif role == "assistant":
            is_plain = not owed and _is_reply(content, names, owed)
        elif role == "user":
            is_plain, owed = _is_answer(content, owed, lists, plain), []
        else:
            is_plain = role == "system" and not owed and all(map(_is_words, content))
        if not is_plain or not content:
            return None
    if owed or not all(_is_list(content, plain) for content in lists):
        return None
    plain.called.extend(dict.fromkeys(names.values()))
    return plain


def is_sourced(block: Block) -> bool:
    """Whether a block is a picture or a document that wires read."""
    if not isinstance(block, ImageBlock | DocumentBlock) or (isinstance(block, DocumentBlock) and block.is_cited):
        return False
    return block.source.type not in _SAID_OTHERWISE and not block.source.media_type.startswith(SOUND)


def _is_words(block: Block) -> bool:
    return type(block) is TextBlock and is_text(block.text) and len(block.text) > EMPTY_TEXT


def _is_reply(content: list[Block], names: dict[str, str], owed: list[str]) -> bool:
    """Whether an assistant's message is plain; `names` gets its calls by their ids, and `owed` those."""
    for block in content:
        if type(block) is ToolUseBlock:
            if not block.id or block.id in names or not is_object(block.input) or nests(block.input):
                return False
            names[block.id] = block.name
            owed.append(block.id)
        elif not _is_words(block) and type(block) is not ThinkingBlock:
            return False
    return True


def _is_answer(content: list[Block], owed: list[str], lists: list[Raw], plain: PlainMessages) -> bool:
    """Whether a user's message begins with the results that are owed, and has none beside.

    `lists` gets those that are no text: to read them is worth it only where all else is plain.
    """
    results = len(owed)
    for place, block in enumerate(content):
        if place >= results:
            is_plain = _is_said(block, plain)
        elif type(block) is ToolResultBlock and block.tool_use_id == owed[place]:
            is_plain = True
            if not is_text(block.content):
                lists.append(block.content)
        else:
            is_plain = False
        if not is_plain:
            return False
    return len(content) >= results


def _is_list(content: Raw, plain: PlainMessages) -> bool:
    """Whether a result is a list that is said as it is; nobody asks yet what else is wrong with it."""
    try:
        blocks = blocks_of(content)
    except InvalidRequest:
        return False
    return bool(blocks) and all(_is_said(block, plain) for block in blocks)


def _is_said(block: Block, plain: PlainMessages) -> bool:
    if _is_words(block):
        return True
    plain.light = False
    return is_sourced(block)
