"""Lists of blocks: read in one pass where every block is known and well formed, else block by block."""

import re
from typing import Any

import msgspec
from msgspec import Raw

from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.messages.types import structs
from anthropic_proxy.messages.types.refusals import explain, missing, wrong_type
from anthropic_proxy.messages.types.structs import (
    Block,
    SearchResultBlock,
    ServerToolUseBlock,
    TextBlock,
    ToolResultBlock,
    ToolSearchResultBlock,
    ToolUseBlock,
    UnknownBlock,
    WebFetchResultBlock,
    WebSearchResultBlock,
)
from anthropic_proxy.messages.types.values import is_object, is_text

DEEPEST = 200
"""Levels of lists and objects inside each other that a schema or a call's input may have."""
DEEP_TEXT = "nests lists and objects too deeply; at most 200 levels are read"
EMPTY_TEXT = 2
"""Bytes of an empty JSON string."""
_SHALLOW_BYTES = 2 * DEEPEST
"""Text that is no longer cannot nest deeper than `DEEPEST`."""

_TREES: dict[type, str] = {
    ServerToolUseBlock: "input",
    WebSearchResultBlock: "content",
    WebFetchResultBlock: "content",
    ToolSearchResultBlock: "content",
}
"""Block → its field that can have any shape and is read as a whole later."""
_LIST, _NULL = b"[n"
_STRINGS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))

_decode_block = msgspec.json.Decoder(Block).decode
_decode_blocks = msgspec.json.Decoder(list[Block]).decode
_decode_raws = msgspec.json.Decoder(list[Raw]).decode
_decode_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_string = msgspec.json.Decoder(str).decode


def _known_types() -> frozenset[str]:
    kinds = (kind for kind in vars(structs).values() if isinstance(kind, type) and issubclass(kind, msgspec.Struct))
    tags = (kind.__struct_config__.tag for kind in kinds if kind is not UnknownBlock)
    return frozenset(tag for tag in tags if isinstance(tag, str))


_KNOWN_TYPES = _known_types()


def blocks_of(content: Raw) -> list[Block]:
    """Read the `content` of a tool result or a search result: a JSON string, a list of blocks, null or nothing.

    An empty string gives no block. Raises `InvalidRequest`; paths in its text start at `content`.
    """
    if is_text(content):
        return [TextBlock(content)] if len(content) > EMPTY_TEXT else []
    return read_blocks(content, "content") if memoryview(content)[0] != _NULL else []


def read_blocks(content: Raw, path: str) -> list[Block]:
    """Read a list of blocks that stands at `path` in the body. Raises `InvalidRequest`."""
    try:
        blocks = _decode_blocks(content)
    except RecursionError:
        raise InvalidRequest(f"{path}: {DEEP_TEXT}") from None
    except msgspec.ValidationError:
        pass
    else:
        if all_sound(blocks):
            return blocks
    if memoryview(content)[0] != _LIST:
        raise wrong_type(path, "a string or a list of blocks", content)
    return [_read_block(raw, f"{path}.{index}") for index, raw in enumerate(_decode_raws(content))]


def given_fields(raw: Raw | bytes) -> dict[str, Raw]:
    """Return the fields of an object without those that are null, which counts as not given."""
    return {name: value for name, value in _decode_fields(raw).items() if memoryview(value)[0] != _NULL}


def string_of(raw: Raw) -> str | None:
    """Return what a JSON string says; None: it is a value of another type."""
    return _decode_string(raw) if is_text(raw) else None


def all_sound(blocks: list[Block]) -> bool:
    """Whether what one pass left as `Raw` has the right JSON type; looks at first characters only."""
    for block in blocks:
        kind = type(block)
        if kind is TextBlock:
            if not is_text(block.text):  # type: ignore[union-attr]
                return False
        elif kind is ToolUseBlock:
            if not is_object(block.input) or nests(block.input):  # type: ignore[union-attr]
                return False
        elif kind is ToolResultBlock or kind is SearchResultBlock:
            content = block.content  # type: ignore[union-attr]
            if not is_text(content) and memoryview(content)[0] not in (_LIST, _NULL):  # type: ignore[arg-type]
                return False
        elif kind is UnknownBlock or (kind in _TREES and nests(getattr(block, _TREES[kind]))):
            return False
    return True


def nests(tree: Raw) -> bool:
    """Whether a value nests lists and objects deeper than `DEEPEST`."""
    return len(tree) > _SHALLOW_BYTES and is_deep(bytes(tree))


def find_flaw(schema: bytes) -> str:
    """Return why a JSON Schema cannot be read, in words; "" where it can, or where there is none."""
    if is_deep(schema):
        return DEEP_TEXT
    try:
        msgspec.json.decode(schema or b"null")
    except msgspec.ValidationError:
        return "holds a number out of range"
    return ""


def is_deep(text: bytes) -> bool:
    """Whether JSON text nests lists and objects deeper than `DEEPEST`."""
    if text.count(b"{") + text.count(b"[") <= DEEPEST:
        return False
    depth = 0
    for bracket in _STRINGS.sub(b"", text).translate(None, _NOT_BRACKETS):
        depth += 1 if bracket in b"[{" else -1
        if depth > DEEPEST:
            return True
    return False


def _read_block(raw: Raw, path: str) -> Block:
    """Read one block the slow way, and keep it whole where its type is unknown."""
    if not is_object(raw):
        raise wrong_type(path, "an object", raw)
    fields = given_fields(raw)
    if "type" not in fields:
        raise missing(f"{path}.type")
    kind = string_of(fields["type"])
    if kind is None:
        raise wrong_type(f"{path}.type", "a string", fields["type"])
    if kind not in _KNOWN_TYPES:
        if nests(raw):
            raise InvalidRequest(f"{path}: {DEEP_TEXT}")
        return UnknownBlock(kind, raw)
    if "source" in fields and is_object(fields["source"]):
        fields["source"] = Raw(msgspec.json.encode(given_fields(fields["source"])))
    whole = msgspec.json.encode(fields)
    try:
        block: Block = _decode_block(whole)
    except msgspec.ValidationError as error:
        raise explain(error, whole, path) from None
    if not all_sound([block]):
        raise _unsound(block, path)
    return block


def _unsound(block: Any, path: str) -> InvalidRequest:
    if isinstance(block, TextBlock):
        return wrong_type(f"{path}.text", "a string", block.text)
    if field := _TREES.get(type(block)):
        return InvalidRequest(f"{path}.{field}: {DEEP_TEXT}")
    if not isinstance(block, ToolUseBlock):
        return wrong_type(f"{path}.content", "a string or a list of blocks", block.content)
    if not is_object(block.input):
        return wrong_type(f"{path}.input", "an object", block.input)
    return InvalidRequest(f"{path}.input: {DEEP_TEXT}")
