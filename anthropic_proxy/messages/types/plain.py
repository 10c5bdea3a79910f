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
    Message,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from anthropic_proxy.messages.types.values import is_object, is_text


class PlainMessages(list[Message]):
    """Sound messages of texts, calls, results that are texts, and thinking; none is empty, each stands in its place.

    No two calls have the same id, and the message after calls begins with their results, in their order. Nobody changes
    the list.
    """

    __slots__ = ("called",)

    def __init__(self, messages: Iterable[Message], called: frozenset[str]) -> None:
        super().__init__(messages)
        self.called = called
        """Names of the tools that were called."""


def find_plain(messages: list[Message]) -> PlainMessages | None:
    """Return the messages as plain ones; None: they are not, or not even sound."""
    names: dict[str, str] = {}
    owed: list[str] = []
    for message in messages:
        role, content = message.role, message.content
        if isinstance(content, str):
            is_plain = not owed and role in ROLES
        elif role == "assistant":
            is_plain = not owed and _is_reply(content, names, owed)
        elif role == "user":
            is_plain, owed = _is_answer(content, owed), []
        else:
            is_plain = role == "system" and not owed and _is_answer(content, owed)
        if not is_plain or not content:
            return None
    return None if owed else PlainMessages(messages, frozenset(names.values()))


def _is_reply(content: list[Block], names: dict[str, str], owed: list[str]) -> bool:
    """Whether an assistant's message is plain; `names` gets its calls by their ids, and `owed` those."""
    for block in content:
        if type(block) is TextBlock:
            if not is_text(block.text) or len(block.text) <= EMPTY_TEXT:
                return False
        elif type(block) is ToolUseBlock:
            if not block.id or block.id in names or not is_object(block.input) or nests(block.input):
                return False
            names[block.id] = block.name
            owed.append(block.id)
        elif type(block) is not ThinkingBlock:
            return False
    return True


def _is_answer(content: list[Block], owed: list[str]) -> bool:
    """Whether a message consists of the results that are owed, and then texts."""
    results = len(owed)
    for place, block in enumerate(content):
        if place < results:
            if type(block) is not ToolResultBlock or block.tool_use_id != owed[place]:
                return False
            if not is_text(block.content) and not _are_texts(block.content):
                return False
        elif type(block) is not TextBlock or not is_text(block.text) or len(block.text) <= EMPTY_TEXT:
            return False
    return len(content) >= results


def _are_texts(content: Raw) -> bool:
    """Whether a result is a list of texts; nobody asks yet what else is wrong with it."""
    try:
        blocks = blocks_of(content)
    except InvalidRequest:
        return False
    return bool(blocks) and all(type(block) is TextBlock and len(block.text) > EMPTY_TEXT for block in blocks)
