"""The texts in a body of the Messages API, with their places, so that single texts can be replaced.

All strings of a request and of a reply are texts, except those of the fields that are named here: no person and no
model reads them as a text, such as ids, signatures and images. So a field, a content block or a delta that this module
does not know is read too. In the arguments of a tool call, all strings are texts. A text in base64, such as a document,
is read in its encoding (`text_encodings.py`), as the translation reads it, and written in it again.
"""

import codecs
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Literal, assert_never

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.engine.exchange.final_calls import PLACEHOLDER, RestoredArguments
from anthropic_proxy.engine.hooks import Passage, PassageKind
from anthropic_proxy.engine.messages.models.client_json import RepeatedKeyError
from anthropic_proxy.engine.messages.models.raw_json import (
    EMPTY_STRING_LENGTH,
    is_json_text_too_deep,
    replace_lone_surrogates,
)
from anthropic_proxy.engine.messages.models.structs import decode_data_url
from anthropic_proxy.engine.messages.server_blocks import decode_passage, encode_passage
from anthropic_proxy.engine.messages.server_tools import CALL_TYPES, SERVER_TOOLS
from anthropic_proxy.engine.patterns import compile_anchored, compile_later
from anthropic_proxy.engine.text_encodings import (
    ANY_BYTES,
    TextEncoding,
    decode_base64,
    encode_base64,
    find_charset,
    is_base64,
    read_base64_text,
)
from anthropic_proxy.engine.wires.anthropic import json_spans
from anthropic_proxy.engine.wires.anthropic.batches import find_params
from anthropic_proxy.engine.wires.anthropic.json_spans import Edit, JsonSpan
from anthropic_proxy.engine.wires.json_schema import (
    SCHEMA_LIST_KEYWORDS,
    SCHEMA_MAP_KEYWORDS,
    SCHEMA_OR_BOOLEAN_KEYWORDS,
    SINGLE_SCHEMA_KEYWORDS,
)
from anthropic_proxy.errors import InvalidRequest

_TOKENS = compile_later(rb'("[^"\\]*+(?:\\.?[^"\\]*+)*+"?)([ \t\r\n]*+:)?|[\[\]{}]')
_OF_REQUEST = frozenset(
    (
        *("model", "max_tokens", "metadata", "stream", "service_tier", "speed", "temperature", "top_p", "top_k"),
        *("thinking", "tool_choice", "container", "mcp_servers", "betas", "anthropic_beta", "anthropic_version"),
        *("inference_geo", "cache_control", "fallbacks", "diagnostics", "user_profile_id", "tools"),
    )
)
"""Fields of a request that have no text: limits, names, and the addresses and tokens of MCP servers. The texts of
`tools` are read by `InspectorScope.tool_descriptions`."""
_OF_TOOL = frozenset(
    (
        *("name", "type", "model", "cache_control", "mcp_server_name", "configs", "default_config"),
        *("allowed_domains", "blocked_domains", "allowed_callers"),
    )
)
"""Fields of a tool that have no text: names and addresses."""
_OF_SCHEMA = frozenset(("type", "required", "format", "$ref", "$schema", "$id", "$anchor"))
"""Keywords of a JSON Schema of a tool that have no text. Others, such as descriptions and defaults, have one."""
_PartOfSchema = Literal["schema", "map of schemas", "value"]
"""What an object is in a schema. The members of a `value`, such as a default, are no keywords."""
_PARTS_OF_SCHEMA: Mapping[str, _PartOfSchema] = {
    **dict.fromkeys(SCHEMA_MAP_KEYWORDS, "map of schemas"),
    **dict.fromkeys((*SCHEMA_LIST_KEYWORDS, *SINGLE_SCHEMA_KEYWORDS, *SCHEMA_OR_BOOLEAN_KEYWORDS), "schema"),
}
"""Keyword → what an object in its value is."""
_OF_MESSAGE = frozenset(
    (
        *("role", "id", "type", "model", "stop_reason", "usage", "container", "context_management"),
        *("clear_at", "output_config"),
    )
)
"""Fields of a message, of the conversation or of a reply, that have no text."""
_RESULT, _CALL, _FILE = frozenset(("tool_use_id",)), frozenset(("id", "name", "server_name")), frozenset(("file_id",))
_NOTHING = frozenset[str]()
NOT_TEXTS: Mapping[str, frozenset[str]] = {
    "": frozenset(("effort",)),
    "text": frozenset(("media_type",)),  # of the source of a document
    "thinking": frozenset(("signature",)),
    "redacted_thinking": frozenset(("data",)),
    **dict.fromkeys(CALL_TYPES, _CALL),
    "tool_result": _RESULT,
    **{result_type: _RESULT for row in SERVER_TOOLS.values() for result_type in row.result_types},
    **{kind: frozenset(fields) for row in SERVER_TOOLS.values() for kind, fields in row.not_texts.items()},
    **dict.fromkeys(("container_upload", "file"), _FILE),
    **dict.fromkeys(("char_location", "page_location", "content_block_location"), _FILE),
    **dict.fromkeys(("tool_reference", "tool_addition", "tool_removal"), frozenset(("tool_name", "name"))),
    "compaction": frozenset(("encrypted_content", "signature")),
    "base64": frozenset(("media_type", "data")),
    "ephemeral": frozenset(("ttl",)),
    **dict.fromkeys(("image", "document", "search_result", "fallback", "url", "content"), _NOTHING),
    **dict.fromkeys(("text_delta", "thinking_delta", "compaction_delta", "citations_delta"), _NOTHING),
    "signature_delta": frozenset(("signature",)),
}
"""Type of an object in a content block → its fields that have no text. "": of an object without a type. Of another
type, all strings are texts."""
_SOMETIMES_NOT_TEXTS = frozenset().union(*NOT_TEXTS.values())
_TYPE = compile_anchored(r"[a-z]+(?:_[a-z0-9]+)*")
"""Pattern of the name of a type, which is no text."""
_MEDIA = ("image/", "audio/", "video/", "application/pdf")
"""Beginnings of the media types of base64 data that is no text, except images that are written in XML (SVG)."""
_PLAIN_NAME = compile_anchored(r"[A-Za-z_.-]{0,40}")
"""Pattern of a key in arguments that is the name of a field, and no text."""
_QUOTE, _LIST, _OBJECT, _END_OF_LIST, _END_OF_OBJECT = b'"[{]}'
_decode_string = msgspec.json.Decoder(str).decode


class _Header(Struct):
    type: str = ""
    role: str = ""
    name: str = ""


_decode_header = msgspec.json.Decoder(_Header).decode


class PlacedText(Struct, gc=False):
    """A text in a body. `start` and `end`: its JSON string, with the quotes."""

    start: int
    end: int
    passage: Passage
    is_json: bool = True
    """False: the text itself is there, without quotes and escapes."""
    wrap: Callable[[str], str] | None = None
    """Returns the string in the body for a text, which is encoded there. None: the text itself."""
    member: str = ""
    """Name of the member of the arguments of a call that is this text. "": another place."""
    is_changed: bool = False

    def replace(self, text: str) -> None:
        self.passage = Passage(text, self.passage.kind, self.passage.name)
        self.is_changed = True

    def encode(self) -> bytes:
        text = self.passage.text.encode(errors="replace").decode()  # without halves of characters
        text = text if self.wrap is None else self.wrap(text)
        return msgspec.json.encode(text) if self.is_json else text.encode()


class TextsOfBody(Struct):
    """A body, and its texts. Its bytes may differ from those of the client if a key occurs twice in an object."""

    body: bytes
    texts: list[PlacedText]

    def encode(self) -> bytes:
        """Return the body with the changed texts. All other bytes stay."""
        edits = [Edit(one.start, one.end, one.encode()) for one in self.texts if one.is_changed]
        return json_spans.apply_edits(self.body, edits)


MAX_RESTORED_CHARACTERS = 2 * 1024 * 1024
"""Maximum number of characters that a reply gets in place of placeholders. A key may have 500 times as many as its
placeholder."""
MAX_TEXTS, BYTES_OF_TEXT = 250_000, 280
"""Maximum number of texts of a request, and the memory that each needs besides its characters."""
_FindTexts = Callable[[bytes], Iterator[PlacedText]]


def read_body(body: bytes, find: _FindTexts) -> TextsOfBody:
    """Raises `InvalidRequest` for a body that is not JSON."""
    body = body.removeprefix(codecs.BOM_UTF8)
    texts: list[PlacedText] = []

    def collect(readable: bytes) -> Sequence[Edit]:
        texts[:] = find(readable)
        return ()

    return TextsOfBody(json_spans.edit(body, collect), texts)


def find_few_texts(find: _FindTexts, body: bytes) -> Iterator[PlacedText]:
    """Yield what `find` yields. Raises `InvalidRequest` for more than `MAX_TEXTS`."""
    for number, text in enumerate(find(body)):
        if number == MAX_TEXTS:
            raise InvalidRequest(
                f"The request body contains more than {MAX_TEXTS:,} texts for the inspectors of this proxy.",
                code="request-body",
            )
        yield text


def find_texts_of_request(
    body: bytes, start: int = 0, end: int | None = None, *, describes_tools: bool
) -> Iterator[PlacedText]:
    for member in json_spans.find_members(body, start, end):
        if member.key == "messages" and body[member.value] == _LIST:
            for message in json_spans.find_elements(body, member.value, member.end):
                yield from find_texts_of_message(body, message.value, message.end)
        elif member.key == "tools" and describes_tools and body[member.value] == _LIST:
            for tool in json_spans.find_elements(body, member.value, member.end):
                yield from _find_descriptions(body, tool)
        elif member.key not in _OF_REQUEST:
            yield from _find_texts_of_content(body, member, "system")


def _find_descriptions(body: bytes, tool: JsonSpan) -> Iterator[PlacedText]:
    if body[tool.value] != _OBJECT:
        return
    name = _read_header(body[tool.value : tool.end]).name
    for member in json_spans.find_members(body, tool.value, tool.end):
        if member.key in _OF_TOOL:
            continue
        part: _PartOfSchema = "map of schemas" if member.key.endswith("_schema") else "value"
        for level, string in _walk(body, member, part):
            if string is None or string.is_key or (level.part == "schema" and level.key in _OF_SCHEMA):
                continue
            yield string.place("tool_description", name)


def find_texts_of_batch(body: bytes, *, describes_tools: bool) -> Iterator[PlacedText]:
    for _, _, params in find_params(body):
        yield from find_texts_of_request(body, params.value, params.end, describes_tools=describes_tools)


def find_texts_of_message(body: bytes, start: int = 0, end: int | None = None) -> Iterator[PlacedText]:
    """Yield the texts of a message of the conversation, or of a reply."""
    end = len(body) if end is None else end
    if body[start] != _OBJECT:
        yield from _find_strings(body, JsonSpan(start, start, end), "user")
        return
    role = _read_header(body[start:end]).role
    kind: PassageKind = "system" if role == "system" else "assistant" if role == "assistant" else "user"
    for member in json_spans.find_members(body, start, end):
        if member.key not in _OF_MESSAGE:
            yield from _find_texts_of_content(body, member, kind)


def find_texts_of_event(event: bytes) -> Iterator[PlacedText]:
    """Yield the texts of an event of a stream, except the fragment of a block, which `HeldText` joins with others."""
    for member in json_spans.find_members(event):
        if member.key == "message":
            yield from find_texts_of_message(event, member.value, member.end)
        elif member.key == "delta" and event[member.value] == _OBJECT:
            for inner in json_spans.find_members(event, member.value, member.end):
                is_fragment = inner.key in FRAGMENTS and event[inner.value] == _QUOTE
                if not (is_fragment or inner.key in _OF_MESSAGE):
                    yield from _find_texts_of_content(event, inner, "assistant")
        elif member.key in ("content_block", "error"):
            yield from find_texts_of_block(event, member)
        elif member.key not in ("type", "index", "usage"):  # an event of a later version
            yield from _find_texts_of_content(event, member, "assistant")


FRAGMENTS = ("text", "thinking", "content", "partial_json", "signature")
"""Fields of a delta with a fragment of a block, or with its signature."""


def read_arguments(arguments: str, name: str) -> TextsOfBody:
    """Return the texts of the arguments of a tool call. Those of a call that was cut are one text.

    What is restored, redacted and judged is read by this function, so that all of them find the same texts.
    """
    encoded = arguments.encode(errors="replace")
    readable, _ = replace_lone_surrogates(encoded)  # of the same length
    try:
        if not is_json_text_too_deep(readable):  # a decoder would end at a depth that depends on its caller
            msgspec.json.decode(readable, type=Raw)
        texts = [*_find_arguments(readable, JsonSpan(0, 0, len(readable)), name)]
    except msgspec.DecodeError:
        texts = [PlacedText(0, len(encoded), Passage(arguments, "tool_call", name), is_json=False)]
    return TextsOfBody(encoded, texts)


class HiddenTexts:
    """The texts that stand in place of placeholders again, up to a size: a placeholder may stand in many places."""

    def __init__(self, values: Mapping[str, str]) -> None:
        """`values`: placeholder → text."""
        self._values = values
        self._room = MAX_RESTORED_CHARACTERS
        self.has_left_some = False
        """True if placeholders stay, because there is no room for their texts."""

    def take(self, placeholder: str) -> str | None:
        """Return the text of one place. None: the placeholder stays there."""
        value = self._values.get(placeholder)
        if value is None:
            return None
        if len(value) > self._room:
            self.has_left_some = True
            return None
        self._room -= len(value)
        return value


def restore_arguments(arguments: str, texts: HiddenTexts) -> RestoredArguments:
    """Return the arguments of a call with texts in place of their placeholders."""
    hidden: dict[str, str] = {}
    found = read_arguments(arguments, "")
    for text in found.texts:
        restored = restore_text(text.passage.text, texts, hidden, in_json=not text.is_json)
        if restored != text.passage.text:
            text.replace(restored)
    return RestoredArguments(found.encode().decode() if hidden else arguments, hidden)


def restore_text(text: str, texts: HiddenTexts, hidden: dict[str, str], *, in_json: bool = False) -> str:
    """`hidden`: the restored values are added to it. `in_json`: the text is a part of JSON."""

    def restore_value(match: re.Match[str]) -> str:
        value = texts.take(match[0])
        if value is None:
            return match[0]
        hidden[match[0]] = value
        return msgspec.json.encode(value).decode()[1:-1] if in_json else value

    return PLACEHOLDER.sub(restore_value, text)


def _find_texts_of_content(body: bytes, content: JsonSpan, kind: PassageKind) -> Iterator[PlacedText]:
    if body[content.value] == _LIST:
        for block in json_spans.find_elements(body, content.value, content.end):
            yield from find_texts_of_block(body, block, kind)
    else:
        yield from _find_strings(body, content, kind)


def find_texts_of_block(body: bytes, block: JsonSpan, kind: PassageKind = "assistant") -> Iterator[PlacedText]:
    """Yield the texts of a content block. `kind`: that of the texts of its message."""
    header = _read_header(body[block.value : block.end])
    if header.type in CALL_TYPES:
        for member in json_spans.find_members(body, block.value, block.end):
            if member.key == "input":
                yield from _find_arguments(body, member, header.name)
            elif member.key not in ("type", *NOT_TEXTS[header.type]):
                yield from _find_strings(body, member, kind)
        return
    if header.type == "thinking":
        kind = "thinking"
    elif header.type.endswith("tool_result"):
        kind = "tool_result"
    yield from _find_strings(body, block, kind)


def find_texts_of_whole_block(block: bytes) -> Iterator[PlacedText]:
    return find_texts_of_block(block, JsonSpan(0, 0, len(block)))


def _find_arguments(body: bytes, arguments: JsonSpan, name: str) -> Iterator[PlacedText]:
    for level, string in _walk(body, arguments):
        if string is not None and not (string.is_key and _PLAIN_NAME.fullmatch(string.text)):
            member = level.key if level.depth == 1 and not string.is_key else ""
            yield string.place("tool_call", name, member)


def _find_strings(body: bytes, span: JsonSpan, kind: PassageKind) -> Iterator[PlacedText]:
    """Yield the strings of a JSON value, except those of `NOT_TEXTS`. Keys are no texts."""
    for level, string in _walk(body, span):
        if string is None:
            yield from _find_held(level, kind)
        elif string.is_key:
            continue
        elif level.key == "type":
            level.types.append(string.text)
            if string.text not in NOT_TEXTS and not _TYPE.fullmatch(string.text):
                yield string.place(kind)
        elif level.key in _SOMETIMES_NOT_TEXTS or (level.key == "url" and string.text[:5].lower() == "data:"):
            level.held.append((level.key, string))
        else:
            yield string.place(kind)


class _String(Struct):
    """A string in a body that is not empty."""

    start: int
    end: int
    text: str
    is_key: bool

    def place(self, kind: PassageKind, name: str = "", member: str = "") -> PlacedText:
        return PlacedText(self.start, self.end, Passage(self.text, kind, name), member=member)

    def place_inside(self, kind: PassageKind, text: str, wrap: Callable[[str], str]) -> PlacedText:
        return PlacedText(self.start, self.end, Passage(text, kind), wrap=wrap)

    def place_file(self, kind: PassageKind, data: str, media_type: str, beginning: str = "") -> PlacedText:
        """`data`: base64. What is no base64 is a text itself. `beginning`: what is in front of the data in the body."""
        found = read_base64_text(data, find_charset(media_type))
        if found is None and not is_base64(data):
            return self.place(kind)
        text, encoding = found or (ANY_BYTES.decode(decode_base64(data)), ANY_BYTES)
        return self.place_inside(kind, text, partial(_encode_file, encoding=encoding, beginning=beginning))


class _Level(Struct):
    """An object or a list that is open."""

    key: str
    """Key of the member that is read. Elements of a list have the key of the list."""
    depth: int = 0
    """Number of open objects and lists, with this one."""
    part: _PartOfSchema = "value"
    """A list is the same part as the object that has it."""
    types: list[str] = []  # a struct copies it
    """All its `type`s: a key may be repeated."""
    held: list[tuple[str, _String]] = []
    """Strings that are texts or not by the types."""

    def open_list(self) -> "_Level":
        return _Level(self.key, self.depth + 1, self.part)

    def open_object(self) -> "_Level":
        match self.part:
            case "schema":
                part = _PARTS_OF_SCHEMA.get(self.key, "value")
            case "map of schemas":
                part = "schema"
            case "value":
                part = "value"
            case _:
                assert_never(self.part)
        return _Level("", self.depth + 1, part)


def _walk(body: bytes, span: JsonSpan, part: _PartOfSchema = "value") -> Iterator[tuple[_Level, _String | None]]:
    """Yield each string of a JSON value with the object that has it, and each object at its end, with None.

    `part`: that of the object that has the value. Raises `msgspec.DecodeError` for an invalid string, and for an end
    without a beginning.
    """
    levels = [_Level("", part=part)]
    for token in _TOKENS.finditer(body, span.value, span.end):
        level = levels[-1]
        first = body[token.start()]
        if first == _QUOTE:
            is_key = token[2] is not None
            if not is_key and token.end(1) - token.start(1) <= EMPTY_STRING_LENGTH:
                continue
            text = _decode_string(token[1])
            if is_key:
                level.key = text
            yield level, _String(token.start(1), token.end(1), text, is_key)
        elif first in (_OBJECT, _LIST):
            levels.append(level.open_list() if first == _LIST else level.open_object())
        elif len(levels) == 1:
            raise msgspec.DecodeError("JSON is malformed: it ends what it has not begun")
        else:
            yield level, None
            del levels[-1]


def _find_held(level: _Level, kind: PassageKind) -> Iterator[PlacedText]:
    """Yield the texts among the held strings of an object, whose type is known now.

    Raises `RepeatedKeyError` for several types: nobody knows which of them a provider reads.
    """
    if not level.held:
        return
    if len({*level.types}) > 1:
        raise RepeatedKeyError("type")
    kind_of_object = level.types[0] if level.types else ""
    excluded = NOT_TEXTS.get(kind_of_object, _NOTHING)
    media_types = [string.text.lower() for key, string in level.held if key == "media_type"]
    is_media = bool(media_types) and all(map(_is_media, media_types))
    for key, string in level.held:
        if key == "encrypted_content" and (passage := decode_passage(string.text)):
            yield string.place_inside(kind, passage, encode_passage)
        elif key == "url":
            media_type, data = decode_data_url(string.text) or ("", "")
            if not data:
                yield string.place(kind)
            elif not _is_media(media_type.lower()):
                yield string.place_file(kind, data, media_type, beginning=f"data:{media_type};base64,")
        elif key == "data" and kind_of_object == "base64" and not is_media:
            yield string.place_file(kind, string.text, "".join(media_types))
        elif key not in excluded:
            yield string.place(kind)


def _is_media(media_type: str) -> bool:
    return media_type.startswith(_MEDIA) and "xml" not in media_type


def _encode_file(text: str, encoding: TextEncoding, beginning: str) -> str:
    return beginning + encode_base64(encoding.encode(text))


def _read_header(text: bytes) -> _Header:
    try:
        return _decode_header(text)
    except msgspec.ValidationError:
        return _Header()
