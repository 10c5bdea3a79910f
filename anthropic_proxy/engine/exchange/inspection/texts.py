"""The texts in a body of the Messages API, with their places, so that single texts can be replaced.

All strings of system prompt and messages are texts, except those of a few fields that no person reads, such as ids,
signatures and base64 data. In the arguments of a tool call, all strings are texts. So a kind of content block that
this module does not know is read too.
"""

import codecs
from collections.abc import Callable, Collection, Iterator, Sequence

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.engine.hooks import Passage, PassageKind
from anthropic_proxy.engine.messages.models.raw_json import EMPTY_STRING_LENGTH
from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.engine.wires.anthropic import json_spans
from anthropic_proxy.engine.wires.anthropic.batches import find_params
from anthropic_proxy.engine.wires.anthropic.json_spans import Edit, JsonSpan

_TOKENS = compile_later(rb'("[^"\\]*+(?:\\.?[^"\\]*+)*+"?)([ \t\r\n]*+:)?|[\[\]{}]')
_NOT_TEXTS = frozenset(
    (
        *("type", "role", "id", "tool_use_id", "name", "tool_name", "signature", "media_type", "ttl", "file_id"),
        *("encrypted_content", "encrypted_index", "encrypted_stdout", "page_age", "server_name"),
    )
)
"""Fields of content blocks whose strings are no texts."""
_SEALED_TYPES = frozenset(("base64", "redacted_thinking"))
"""Types of objects whose field `data` is no text."""
_CALL_TYPES = frozenset(("tool_use", "server_tool_use", "mcp_tool_use"))
_ALL_TEXTS: Collection[str] = frozenset()
_PLAIN_NAME = compile_later(r"[\w.-]{0,40}")
_QUOTE, _LIST, _OBJECT, _END_OF_LIST, _END_OF_OBJECT = b'"[{]}'
_decode_string = msgspec.json.Decoder(str).decode


class _Header(Struct):
    type: str = ""
    role: str = ""
    name: str = ""


_decode_header = msgspec.json.Decoder(_Header).decode


class PlacedText(Struct):
    """A text in a body. `start` and `end`: its JSON string, with the quotes."""

    start: int
    end: int
    passage: Passage
    is_json: bool = True
    """False: the text itself is there, without quotes and escapes."""
    is_changed: bool = False

    def replace(self, text: str) -> None:
        self.passage = Passage(text, self.passage.kind, self.passage.name)
        self.is_changed = True

    def encode(self) -> bytes:
        text = self.passage.text.encode(errors="replace").decode()  # without halves of characters
        return msgspec.json.encode(text) if self.is_json else text.encode()


class TextsOfBody(Struct):
    """A body, and its texts. Its bytes may differ from those of the client if a key occurs twice in an object."""

    body: bytes
    texts: list[PlacedText]

    def encode(self) -> bytes:
        """Return the body with the changed texts. All other bytes stay."""
        edits = [Edit(one.start, one.end, one.encode()) for one in self.texts if one.is_changed]
        return json_spans.apply_edits(self.body, edits)


_FindTexts = Callable[[bytes], Iterator[PlacedText]]


def read_body(body: bytes, find: _FindTexts) -> TextsOfBody:
    """Raises `InvalidRequest` for a body that is not JSON."""
    body = body.removeprefix(codecs.BOM_UTF8)
    texts: list[PlacedText] = []

    def collect(readable: bytes) -> Sequence[Edit]:
        texts[:] = find(readable)
        return ()

    return TextsOfBody(json_spans.edit(body, collect), texts)


def find_texts_of_request(
    body: bytes, start: int = 0, end: int | None = None, *, describes_tools: bool
) -> Iterator[PlacedText]:
    for member in json_spans.find_members(body, start, end):
        if member.key == "system":
            yield from _find_texts_of_content(body, member, "system")
        elif member.key == "messages" and body[member.value] == _LIST:
            for message in json_spans.find_elements(body, member.value, member.end):
                yield from find_texts_of_message(body, message.value, message.end)
        elif member.key == "tools" and describes_tools and body[member.value] == _LIST:
            for tool in json_spans.find_elements(body, member.value, member.end):
                yield from _find_descriptions(body, tool)


def find_texts_of_batch(body: bytes, *, describes_tools: bool) -> Iterator[PlacedText]:
    for _, _, params in find_params(body):
        yield from find_texts_of_request(body, params.value, params.end, describes_tools=describes_tools)


def find_texts_of_message(body: bytes, start: int = 0, end: int | None = None) -> Iterator[PlacedText]:
    """Yield the texts of a message of the conversation, or of a reply."""
    end = len(body) if end is None else end
    if body[start] != _OBJECT:
        return
    role = _read_header(body[start:end]).role
    kind: PassageKind = "system" if role == "system" else "assistant" if role == "assistant" else "user"
    for member in json_spans.find_members(body, start, end):
        if member.key == "content":
            yield from _find_texts_of_content(body, member, kind)


def read_arguments(arguments: str, name: str) -> TextsOfBody:
    """Return the texts of the arguments of a tool call. Those of a call that was cut are one text."""
    encoded = arguments.encode(errors="replace")
    try:
        msgspec.json.decode(encoded, type=Raw)
    except msgspec.DecodeError:
        return TextsOfBody(encoded, [PlacedText(0, len(encoded), Passage(arguments, "tool_call", name), is_json=False)])
    span = JsonSpan(0, 0, len(encoded))
    return TextsOfBody(encoded, [*_find_strings(encoded, span, _ALL_TEXTS, "tool_call", name)])


def _find_texts_of_content(body: bytes, content: JsonSpan, kind: PassageKind) -> Iterator[PlacedText]:
    if body[content.value] == _QUOTE:
        text = _decode_string(body[content.value : content.end])
        yield PlacedText(content.value, content.end, Passage(text, kind))
    elif body[content.value] == _LIST:
        for block in json_spans.find_elements(body, content.value, content.end):
            yield from find_texts_of_block(body, block, kind)


def find_texts_of_block(body: bytes, block: JsonSpan, kind: PassageKind = "assistant") -> Iterator[PlacedText]:
    """Yield the texts of a content block. `kind`: that of the texts of its message."""
    header = _read_header(body[block.value : block.end])
    if header.type in _CALL_TYPES:
        for member in json_spans.find_members(body, block.value, block.end):
            if member.key == "input":
                yield from _find_strings(body, member, _ALL_TEXTS, "tool_call", header.name)
        return
    if header.type == "thinking":
        kind = "thinking"
    elif header.type.endswith("tool_result"):
        kind = "tool_result"
    yield from _find_strings(body, block, _NOT_TEXTS, kind)


def find_texts_of_whole_block(block: bytes) -> Iterator[PlacedText]:
    return find_texts_of_block(block, JsonSpan(0, 0, len(block)))


def _find_descriptions(body: bytes, tool: JsonSpan) -> Iterator[PlacedText]:
    name = _read_header(body[tool.value : tool.end]).name
    return _find_strings(body, tool, (), "tool_description", name, only="description")


def _read_header(text: bytes) -> _Header:
    try:
        return _decode_header(text)
    except msgspec.ValidationError:
        return _Header()


class _Level(Struct):
    """An object or a list that is open."""

    key: str
    """Key of the member that is read. Elements of a list have the key of the list."""
    is_sealed: bool | None = None
    """True if `data` is no text, by all `type`s of the object. None: it has none so far."""
    data: list[PlacedText] = []  # a struct copies it


def _find_strings(
    body: bytes,
    span: JsonSpan,
    excluded: Collection[str],
    kind: PassageKind,
    name: str = "",
    *,
    only: str = "",
) -> Iterator[PlacedText]:
    """Yield the strings of a JSON value.

    `excluded`: keys whose strings are left out; if there are none, keys that are no plain names are texts too. `only`:
    the one key whose strings are read. "": all.
    """
    levels = [_Level("")]
    for token in _TOKENS.finditer(body, span.value, span.end):
        level = levels[-1]
        first = body[token.start()]
        if first == _QUOTE:
            is_key = token[2] is not None
            if is_key:
                level.key = _decode_string(token[1])
            if only:
                is_text = level.key == only and not is_key
            elif is_key:
                is_text = not excluded and _PLAIN_NAME.fullmatch(level.key) is None
            else:
                is_text = level.key not in excluded
            if level.key == "type" and excluded and not is_key:
                is_sealed = token[1][1:-1].decode(errors="replace") in _SEALED_TYPES
                level.is_sealed = is_sealed and level.is_sealed is not False
            if is_text and token.end(1) - token.start(1) > EMPTY_STRING_LENGTH:
                found = PlacedText(token.start(1), token.end(1), Passage(_decode_string(token[1]), kind, name))
                if level.key == "data" and excluded:
                    level.data.append(found)
                else:
                    yield found
        elif first in (_OBJECT, _LIST):
            levels.append(_Level(level.key if first == _LIST else ""))
        else:
            if not level.is_sealed:
                yield from level.data
            del levels[-1]
