"""Decoding and checks of content blocks, the elements of a message: text, image, tool call, tool result and others.

A list of blocks is decoded in one pass. Only if that fails, it is decoded block by block: to accept blocks of unknown
types, to ignore fields that are null, and to find the path of an error.
"""

import re
from collections.abc import Callable, Iterable, Sized
from typing import get_args

import msgspec
from msgspec import Raw

from anthropic_proxy.engine.messages.models.raw_json import (
    is_json_object,
    is_string_or_absent,
    missing_field_error,
    require_bounded_members,
    validation_error,
    wrong_type_error,
)
from anthropic_proxy.engine.messages.models.structs import (
    ABSENT,
    Block,
    DocumentBlock,
    ImageBlock,
    SearchResultBlock,
    ServerToolUseBlock,
    Source,
    TextBlock,
    ToolResultBlock,
    ToolSearchResultBlock,
    ToolUseBlock,
    UnknownBlock,
    WebFetchResultBlock,
    WebSearchResultBlock,
)
from anthropic_proxy.errors import InvalidRequest

MAX_JSON_DEPTH = 200
"""Maximum nesting of lists and objects in a schema or in the input of a tool call. Deeper JSON is rejected with 400."""
MAX_SCHEMA_BYTES = 4 * 1024 * 1024
"""Maximum size of a JSON Schema. A larger one is rejected with 400, because decoding needs about 20 times its size."""
TOO_DEEP_MESSAGE = "nests lists and objects too deeply; at most 200 levels are allowed"
EMPTY_STRING_LENGTH = 2  # bytes of JSON: two quotes
_SHALLOW_BYTES = 2 * MAX_JSON_DEPTH
"""Size in bytes up to which JSON needs no check of its depth, because each level of nesting needs two bytes."""

_LIST, _NULL = b"[n"
AUDIO_VIDEO_PREFIXES = ("audio/", "video/")
"""Prefixes of the media types of audio and video, which the proxy does not support."""
_REPLACED_SOURCES = ("file", "text", "content")
"""Types of image and document sources that no provider's encoder (wire) accepts. `prepare` replaces them by text, or by
the blocks in the source."""
_STRINGS = re.compile(rb'"[^"\\]*+(?:\\.?[^"\\]*+)*+"?', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))

_decode_block = msgspec.json.Decoder(Block).decode
_decode_blocks = msgspec.json.Decoder(list[Block]).decode
_decode_raws = msgspec.json.Decoder(list[Raw]).decode
_decode_string = msgspec.json.Decoder(str).decode

_KNOWN_TYPES = frozenset(kind.__struct_config__.tag for kind in get_args(Block) if kind is not UnknownBlock)


def decode_nested_content(content: Raw) -> list[Block]:
    """Decode the `content` of a tool result or a search result. Raises `InvalidRequest`."""
    if is_string_or_absent(content):
        return [TextBlock(content)] if len(content) > EMPTY_STRING_LENGTH else []
    return decode_blocks(content, "content") if memoryview(content)[0] != _NULL else []


def decode_blocks(content: Raw, path: str) -> list[Block]:
    """Decode a JSON list of content blocks. Raises `InvalidRequest`. `path`: path of the list in the body."""
    try:
        blocks = _decode_blocks(content)
    except RecursionError:
        raise InvalidRequest(f"{path}: {TOO_DEEP_MESSAGE}", code="request-body") from None
    except msgspec.ValidationError:
        pass
    else:
        if are_well_formed(blocks):
            return blocks
    if memoryview(content)[0] != _LIST:
        raise wrong_type_error(path, "a string or a list of blocks", content)
    require_bounded_members(bytes(content))
    return [_read_block(raw, f"{path}.{index}") for index, raw in enumerate(_decode_raws(content))]


def build_fields_decoder(names: Iterable[str]) -> Callable[[Raw | bytes], dict[str, Raw]]:
    """Return a function that returns these fields of a JSON object, except fields with the value null.

    In the Messages API, null means absent. Other fields are skipped, because a dict of all of them takes about 20 times
    the size of the object.
    """
    attributes = {f"field{index}": name for index, name in enumerate(sorted(set(names)))}
    fields = msgspec.defstruct("Fields", [(attribute, Raw, ABSENT) for attribute in attributes], rename=attributes)
    decode = msgspec.json.Decoder(fields).decode

    def decode_fields(raw: Raw | bytes) -> dict[str, Raw]:
        found = zip(attributes.values(), msgspec.structs.astuple(decode(raw)), strict=True)
        return {name: value for name, value in found if len(value) and memoryview(value)[0] != _NULL}

    return decode_fields


def decode_string(raw: Raw) -> str | None:
    return _decode_string(raw) if is_string_or_absent(raw) else None


def are_well_formed(blocks: list[Block]) -> bool:
    """Return True if texts, arguments and results in the blocks have the right JSON type and allowed nesting.

    Blocks of an unknown type are not well formed.
    """
    # these fields are undecoded JSON (`Raw`), so the type is judged by the first character
    for block in blocks:
        if type(block) is TextBlock:
            if not is_string_or_absent(block.text):
                return False
        elif type(block) is ToolUseBlock:
            if not is_json_object(block.input) or is_raw_too_deep(block.input):
                return False
        elif type(block) is ToolResultBlock or type(block) is SearchResultBlock:
            content = block.content
            if not is_string_or_absent(content) and memoryview(content)[0] not in (_LIST, _NULL):
                return False
        elif type(block) is ServerToolUseBlock:
            if is_raw_too_deep(block.input):
                return False
        elif isinstance(block, WebSearchResultBlock | WebFetchResultBlock | ToolSearchResultBlock):
            if is_raw_too_deep(block.content):
                return False
        elif type(block) is UnknownBlock:
            return False
    return True


def is_supported_media(block: Block) -> bool:
    """Return True for an image or document that all providers' encoders (wires) accept unchanged."""
    if not isinstance(block, ImageBlock | DocumentBlock) or (
        isinstance(block, DocumentBlock) and block.requests_citations
    ):
        return False
    return block.source.type not in _REPLACED_SOURCES and not block.source.media_type.startswith(AUDIO_VIDEO_PREFIXES)


def is_raw_too_deep(tree: Raw) -> bool:
    return len(tree) > _SHALLOW_BYTES and is_json_text_too_deep(bytes(tree))


def find_schema_size_error(schema: Sized) -> str:
    if len(schema) <= MAX_SCHEMA_BYTES:
        return ""
    return f"has {len(schema):,} bytes; at most {MAX_SCHEMA_BYTES:,} are allowed"


def find_schema_error(schema: bytes) -> str:
    if large := find_schema_size_error(schema):
        return large
    if is_json_text_too_deep(schema):
        return TOO_DEEP_MESSAGE
    try:
        msgspec.json.decode(schema or b"null")
    except msgspec.ValidationError:
        return "holds a number out of range"
    return ""


def is_json_text_too_deep(text: bytes) -> bool:
    """Return True if a JSON text nests lists and objects deeper than `MAX_JSON_DEPTH`."""
    if text.count(b"{") + text.count(b"[") <= MAX_JSON_DEPTH:
        return False
    depth = 0
    for bracket in _STRINGS.sub(b"", text).translate(None, _NOT_BRACKETS):
        depth += 1 if bracket in b"[{" else -1
        if depth > MAX_JSON_DEPTH:
            return True
    return False


_decode_block_fields = build_fields_decoder(
    ["type", *(name for kind in get_args(Block) for name in kind.__struct_encode_fields__)]
)
_decode_source_fields = build_fields_decoder(Source.__struct_encode_fields__)


def _read_block(raw: Raw, path: str) -> Block:
    if not is_json_object(raw):
        raise wrong_type_error(path, "an object", raw)
    fields = _decode_block_fields(raw)
    if "type" not in fields:
        raise missing_field_error(f"{path}.type")
    kind = decode_string(fields["type"])
    if kind is None:
        raise wrong_type_error(f"{path}.type", "a string", fields["type"])
    if kind not in _KNOWN_TYPES:
        if is_raw_too_deep(raw):
            raise InvalidRequest(f"{path}: {TOO_DEEP_MESSAGE}", code="request-body")
        return UnknownBlock(kind, raw)
    if "source" in fields and is_json_object(fields["source"]):
        fields["source"] = Raw(msgspec.json.encode(_decode_source_fields(fields["source"])))
    encoded = msgspec.json.encode(fields)
    try:
        block: Block = _decode_block(encoded)
    except msgspec.ValidationError as error:
        raise validation_error(error, encoded, path) from None
    if are_well_formed([block]):
        return block
    if isinstance(block, TextBlock):
        raise wrong_type_error(f"{path}.text", "a string", block.text)
    if isinstance(block, ToolResultBlock | SearchResultBlock):
        raise wrong_type_error(f"{path}.content", "a string or a list of blocks", block.content)
    if isinstance(block, ToolUseBlock) and not is_json_object(block.input):
        raise wrong_type_error(f"{path}.input", "an object", block.input)
    field = "input" if isinstance(block, ToolUseBlock | ServerToolUseBlock) else "content"
    raise InvalidRequest(f"{path}.{field}: {TOO_DEEP_MESSAGE}", code="request-body")
