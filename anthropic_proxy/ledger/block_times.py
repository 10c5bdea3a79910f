"""Kinds, times and sizes of the content blocks of one reply, as the column `reply_blocks` of `requests` stores them.

A content block is a text, thinking, or a tool call. The column contains a JSON list of `BlockTime` objects.
"""

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from anthropic_proxy.ledger.units import to_microseconds
from anthropic_proxy.plugins import BlockMark

MAX_BLOCKS = 100
"""Maximum number of content blocks of one reply that are stored. Further blocks are left out."""
MAX_NAME_CHARACTERS = 128
"""Maximum length of the name of a tool."""


class BlockTime(Struct, array_like=True):
    """One content block of a reply. Times are microseconds."""

    kind: str
    """`text`, `thinking`, `tool call` or `server tool`."""
    name: str
    """Name of the called tool. "": the block is no tool call."""
    offset: int
    """Time in microseconds from the start of the client request to the start of the block."""
    duration: int = 0
    """Time in microseconds until the next block or the end of the reply. 0: the reply was interrupted."""
    characters: int = 0
    """Number of characters of the text, or of the name and the arguments of the tool call. 0: unknown."""


_decode = msgspec.json.Decoder(list[BlockTime]).decode


def build_block_times(marks: Sequence[BlockMark], started_at: float) -> list[BlockTime]:
    """Return the content blocks of a reply from `marks`, the recorded starts of these blocks.

    `started_at` is the start of the client request, by the same clock as `marks`.
    """
    found: list[BlockTime] = []
    for index, (kind, name, at, characters) in enumerate(marks[:MAX_BLOCKS]):
        if kind:
            block = BlockTime(kind, name[:MAX_NAME_CHARACTERS], to_microseconds(at - started_at))
            if index + 1 < len(marks):
                _, _, end, after = marks[index + 1]
                block.duration, block.characters = to_microseconds(end - at), after - characters
            found.append(block)
    return [one for one in found if one.kind != "thinking" or one.characters]  # an empty one kept the connection open


def decode_block_times(text: str) -> list[BlockTime]:
    """Return the content blocks in `text`, a value of the column `reply_blocks`.

    An empty `text` returns an empty list, for example for a reply that was relayed unchanged.
    """
    return _decode(text) if text else []
