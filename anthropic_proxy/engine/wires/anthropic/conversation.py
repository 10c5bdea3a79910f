"""Edits of the messages of a conversation: content that the provider would reject, or does not know.

- Thinking with a signature that the provider has not made or has rejected, and all thinking of an open tool loop that
  does not begin with thinking.
- Replies with tool calls but without thinking, for servers that demand it. They get the text of the removed thinking.
- Ids (also repeated ones), names and arguments of tool calls that the API does not allow, and that others accept.
- Web searches that another provider ran, whose results lack `encrypted_content`.
- Calls and results of server tools that the server does not run. They become text.
- Images and documents by URL, which become base64 data or a text. Those of a Files API cannot be sent.
- System messages, which become reminders in the user message before them.
- Summaries that the proxy has signed, and all summaries for servers that do not know them. The newest becomes a message
  of the user in place of all content before it.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from typing import Any

import msgspec
from msgspec import Raw, Struct, field

from anthropic_proxy.engine.messages.call_states import cut_state
from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.messages.models import Source, name_url, require_bounded_members
from anthropic_proxy.engine.messages.models.client_json import decode_values, read_json
from anthropic_proxy.engine.messages.models.decode import decode_blocks
from anthropic_proxy.engine.messages.models.raw_json import quote_text
from anthropic_proxy.engine.messages.models.tool_arguments import build_arguments_object
from anthropic_proxy.engine.messages.models.tools import are_valid_ids
from anthropic_proxy.engine.messages.preparation.cleaning import (
    COMPACTION_AS_TEXT,
    UniqueIds,
    describe_summary,
    to_upstream_blocks,
)
from anthropic_proxy.engine.messages.preparation.tools import valid_name
from anthropic_proxy.engine.messages.server_tools import KINDS_BY_NAME
from anthropic_proxy.engine.messages.work_budget import WorkPostponed
from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.engine.wires.anthropic import json_spans
from anthropic_proxy.engine.wires.anthropic.dialect import Dialect
from anthropic_proxy.engine.wires.anthropic.json_spans import Edit, JsonSpan
from anthropic_proxy.engine.wires.calls import RelayCall
from anthropic_proxy.engine.wires.past_media import describe_omitted
from anthropic_proxy.engine.wires.thinking import SIGNATURE_PREFIX, UNSIGNED_SIGNATURE
from anthropic_proxy.errors import InvalidRequest, UnsupportedFeature

_MARK = f'"{SIGNATURE_PREFIX}'.encode()
_SEARCHED = b'"web_search_'
"""Beginning of a block type that occurs in web search results and citations of them. A message without it has no such
blocks."""
_THINKING = b'thinking"'
"""End of the types of thinking blocks. A request without it has no signature that a provider could reject."""
_SUMMARY = b'"compaction"'
_CALL, _RESULT = b'"tool_use"', b'"tool_result"'
_FROM_CODE = b'"code_execution_2'
"""Beginning of the version of code execution that is the caller of a tool."""
_OF_SERVER_TOOLS = (b'_tool_result"', b'r_tool_use"', b'p_tool_use"', b'"container_upload"', _FROM_CODE)
"""What requests with blocks of server tools contain: the ends of types such as `server_tool_use` and `mcp_tool_use`,
files for the container of code execution, and calls by its code."""
_ID_FIELDS = {"tool_use": "id", "tool_result": "tool_use_id"}
_NOT_OF_ID = compile_later(r"[^a-zA-Z0-9_-]")
_MAX_ID = 40
_END_OF_TYPE = compile_later("_tool_(?:use|result)$")
_SEALED = compile_later(rb'"encrypted_(?:content|index)"\s*:\s*"(?!px1\.)[^"]')
THINKING_TYPES = ("thinking", "redacted_thinking")
FIELDS_OF_THINKING = ("thinking", "context_management")
_NO_THINKING = b'{"type":"disabled"}'
EMPTY_TEXT = b'{"type":"text","text":"\xe2\x80\xa6"}'
"""Block in place of a content of which all was removed. Providers reject empty content."""
_NO_TEXT = "\N{HORIZONTAL ELLIPSIS}"
"""Text of thinking that a server demands and that the conversation does not have."""
_URL, _FILE_ID = b'"url"', b'"file_id"'
_LEVELS_OF_FILES = 4
"""Levels in a message at which a file may be: a result, a document, its source, and an image in this."""
_MAX_SHOWN = 100
"""Maximum number of characters of a file id in an error message."""
_SYSTEM, _USER, _NO_CONTENT = Raw(b'"system"'), Raw(b'"user"'), Raw(b'""')
_ASSISTANT = Raw(b'"assistant"')
_MEDIA = ("image", "document")
_LEVELS_OF_MEDIA = 2
"""Levels in a message at which a picture or document may be: itself, and in a result."""
_USER_ROLES = (_SYSTEM, _USER)


class BlockFields(Struct):
    """The fields of a content block or a tool that decide about edits."""

    type: str = ""
    role: Any = None
    """Role of a message."""
    id: str | None = None
    tool_use_id: str | None = None
    name: str | None = None
    input: Raw = Raw()
    signature: str | None = None
    thinking: str | None = None
    data: str | None = None
    text: str | None = None
    content: Raw = Raw()
    citations: Raw = Raw()
    caller: Raw = Raw()
    allowed_callers: Raw = Raw()


class _Message(Struct):
    role: str = ""
    content: Raw = _NO_CONTENT


class _Messages(Struct):
    messages: list[dict[str, Raw]] = []


class _Media(Struct):
    source: Source


class _Role(Struct):
    role: Raw = Raw()


_decode_messages = msgspec.json.Decoder(_Messages).decode
_decode_list = msgspec.json.Decoder(list[Raw]).decode
_decode_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_role = msgspec.json.Decoder(_Role).decode
_decode_block = msgspec.json.Decoder(BlockFields).decode
_decode_message = msgspec.json.Decoder(_Message).decode
_decode_media = msgspec.json.Decoder(_Media).decode
_decode_source = msgspec.json.Decoder(Source).decode


def read_block(text: bytes) -> BlockFields:
    try:
        return _decode_block(text)
    except msgspec.ValidationError:
        return BlockFields()


class CallIds:
    """Ids that Claude accepts in place of those of the client: of allowed characters, and unique in a conversation."""

    def __init__(self) -> None:
        self._unique = UniqueIds()
        self._waiting: dict[str, deque[str]] = {}
        """Id of calls in the latest reply → their ids to send, without those that have a result."""
        self._latest: dict[str, str] = {}
        """Id of a call → the id in its latest result."""

    def begin_reply(self) -> None:
        self._waiting = {}

    def replace(self, name: str, given: str) -> str:
        """Return the id for the field of a call (`id`) or of its result (`tool_use_id`)."""
        if not given:
            return given
        if name == "tool_use_id":
            if waiting := self._waiting.get(given):
                self._latest[given] = waiting.popleft()
            return self._latest.get(given) or _fit_id(given)
        sent = self._unique.claim(_fit_id(given))
        self._waiting.setdefault(given, deque()).append(sent)
        return sent


def _fit_id(given: str) -> str:
    given = cut_state(given)
    if are_valid_ids((given,)):
        return given
    digest = hashlib.blake2b(given.encode(errors="replace"), digest_size=6).hexdigest()
    return f"{_NOT_OF_ID.sub('_', given)[:_MAX_ID]}_{digest}"


class Removals(Struct, frozen=True):
    dialect: Dialect
    model: str = ""
    """Provider and model."""
    refused_thinking: Collection[bytes] = frozenset()
    """`RelayCall.refused_thinking`."""
    has_invalid_calls: bool = False
    """`RelayCall.has_invalid_calls`."""
    own_tool_names: Collection[str] = frozenset()
    """`RelayCall.own_tool_names`."""
    adds_thinking: bool = False
    """True if a reply with a tool call gets a thinking block if it has none."""
    max_steps: int | None = None
    """`RelayCall.max_schema_steps`."""
    call_ids: CallIds = field(default_factory=CallIds)
    types_as_text: set[str] = set()
    """Gets the type of each block that is sent as text."""
    notes: list[FidelityNote] = []
    """Gets a note on a summary that is sent as text."""


def may_need_edits(body: bytes, call: RelayCall[Dialect]) -> bool:
    """Search for bytes that only content with edits has. False: `find_message_edits` finds nothing in the body."""
    dialect = call.dialect
    if not (dialect.sends_past_thinking and dialect.thinks):
        return True
    marks = [_MARK] if call.has_proxy_signatures else []
    if not dialect.verifies_signatures:
        marks.append(_SUMMARY)
    if call.has_proxy_signatures and dialect.verifies_signatures:
        marks.append(_SEARCHED)
    if call.has_invalid_calls or dialect.requires_thinking_with_calls:
        marks.append(_CALL)
    if call.refused_thinking:
        marks.append(_THINKING)
    return any(json_spans.contains(body, mark) for mark in marks) or _holds_missing_tools(body, dialect)


def find_file_edits(body: bytes, call: RelayCall[Dialect]) -> list[Edit]:
    """Return the edits that replace the URLs of images and documents in the messages by their content.

    A file that could not be fetched becomes a text. Raises `UnsupportedFeature` for a file that only the Files API of
    another server has.
    """
    edits: list[Edit] = []
    if json_spans.contains(body, _URL) or json_spans.contains(body, _FILE_ID):
        for message in json_spans.find_listed(body, "messages"):
            edits += _find_file_edits_of(body, message, call)
    return edits


def _find_file_edits_of(
    body: bytes, span: JsonSpan, call: RelayCall[Dialect], levels: int = _LEVELS_OF_FILES
) -> list[Edit]:
    """`span`: a message, a block, or the source of a document. `levels`: how many there may be inside."""
    text = body[span.value : span.end]
    if not text.startswith(b"{") or not (_URL in text or _FILE_ID in text):
        return []
    edits: list[Edit] = []
    for member in json_spans.find_members(body, span.value, span.end):
        if member.key == "content" and levels and body[member.value] == ord("["):
            for part in json_spans.find_elements(body, member.value, member.end):
                edits += _find_file_edits_of(body, part, call, levels - 1)
        elif member.key == "source" and (source := _read_source(body[member.value : member.end])) is not None:
            if source.type == "content":  # a document of blocks
                edits += _find_file_edits_of(body, member, call, levels - 1) if levels else ()
                continue
            kind = read_block(text).type
            if source.type == "file":
                raise UnsupportedFeature(
                    f"messages: {call.provider_prefix} cannot read {source.file_id[:_MAX_SHOWN]!r} ({kind}), because "
                    "it has no Files API. Send the file as base64 data.",
                    code="file-id",
                    quotes=quote_text(repr(source.file_id[:_MAX_SHOWN])),
                )
            file = source if source.type == "base64" else call.files.get((kind, source.url), source)
            if file is None:
                block = {"type": "text", "text": f"[{kind}: {name_url(source.url)}]"}
                return [Edit(span.value, span.end, msgspec.json.encode(block))]
            if file.type != "url":
                edits.append(Edit(member.value, member.end, msgspec.json.encode(file)))
    return edits


def find_past_media_edits(body: bytes, notes: list[FidelityNote]) -> list[Edit]:
    """Return the edits that put a sentence in place of each image and document before the newest turn."""
    messages = json_spans.find_listed(body, "messages")
    roles = [_read_role(body[message.value : message.end]) for message in messages]
    newest = len(roles) - roles[::-1].index(_ASSISTANT) if _ASSISTANT in roles else 0

    def describe(kind: str, _: bytes) -> str:
        return describe_omitted(kind, notes)

    edits: list[Edit] = []
    for message, role in zip(messages[:newest], roles, strict=False):
        edits += _find_media_edits(body, message, describe) if role == _USER else ()
    return edits


def find_unread_media_edits(body: bytes, call: RelayCall[Dialect], notes: list[FidelityNote]) -> list[Edit]:
    """Return the edits that put a text in place of each image and PDF that the model does not read: the description of
    the picture (`RelayCall.descriptions`), or a sentence.
    """
    unread = frozenset[str]() if call.limits is None else call.limits.unread
    descriptions = call.descriptions

    def describe(kind: str, block: bytes) -> str | None:
        if kind == "image" and descriptions and (text := _find_description(block, descriptions)) is not None:
            return text
        if kind not in unread or (kind == "document" and _holds_text(block)):
            return None
        notes.append(FidelityNote("dropped", f"messages.{kind}", f"{call.model} does not accept it"))
        return f"[{kind} omitted: this model does not accept it. Say so if it is needed.]"

    edits: list[Edit] = []
    kinds = {*unread, "image"} if descriptions else unread
    if any(json_spans.contains(body, f'"{kind}"'.encode()) for kind in kinds):
        for message in json_spans.find_listed(body, "messages"):
            edits += _find_media_edits(body, message, describe)
    return edits


def _find_description(image: bytes, descriptions: Mapping[str, str]) -> str | None:
    with suppress(msgspec.ValidationError):
        source = _decode_media(image).source
        return descriptions.get(source.data or source.url)
    return None


def _holds_text(document: bytes) -> bool:
    try:
        return _decode_media(document).source.type in ("text", "content")
    except msgspec.ValidationError:
        return False


def _find_media_edits(
    body: bytes, span: JsonSpan, describe: Callable[[str, bytes], str | None], levels: int = _LEVELS_OF_MEDIA
) -> list[Edit]:
    """`span`: a message or a block. `describe` returns the sentence in place of a block of a kind; None: the block
    stays. `levels`: how many blocks there may be inside of each other.
    """
    text = body[span.value : span.end]
    if not text.startswith(b"{") or not any(f'"{kind}"'.encode() in text for kind in _MEDIA):
        return []
    kind = read_block(text).type
    members = json_spans.find_members(body, span.value, span.end)
    if kind in _MEDIA:
        if (sentence := describe(kind, text)) is None:
            return []
        block: dict[str, object] = {"type": "text", "text": sentence}
        block |= {one.key: Raw(body[one.value : one.end]) for one in members if one.key == "cache_control"}
        return [Edit(span.value, span.end, msgspec.json.encode(block))]
    parts = (
        part
        for member in members
        if member.key == "content" and levels and body[member.value] == ord("[")
        for part in json_spans.find_elements(body, member.value, member.end)
    )
    return [edit for part in parts for edit in _find_media_edits(body, part, describe, levels - 1)]


def _read_role(message: bytes) -> Raw:
    try:
        return _decode_role(message).role
    except msgspec.ValidationError:
        return Raw()  # the server explains what is wrong


def _read_source(text: bytes) -> Source | None:
    """Return a source with a file id or a URL, which is base64 data if the URL contains the file. None: another one."""
    try:
        return _decode_source(text) if _URL in text or _FILE_ID in text else None
    except msgspec.ValidationError:
        return None


def find_message_edits(
    body: bytes, messages: JsonSpan, removals: Removals, unthinking_loop: JsonSpan | None = None
) -> list[Edit]:
    """Return the edits that remove content which the provider would reject from a JSON list of messages.

    `unthinking_loop`: the message from which on all thinking is removed. None: there is none.
    """
    dialect = removals.dialect
    parts = json_spans.find_elements(body, messages.value, messages.end)
    summary = _find_summary(body, parts, removals) if json_spans.contains(body, _SUMMARY) else None
    edits: list[Edit] = []
    if summary is not None:
        removals.notes.append(COMPACTION_AS_TEXT)
        edits.append(Edit(parts[0].start, summary.replaced_until, summary.message))
        parts = parts[summary.place :]
    for message in parts:
        in_loop = unthinking_loop is not None and message.start >= unthinking_loop.start
        keeps_thinking = dialect.sends_past_thinking and not in_loop
        text = body[message.value : message.end]
        searched = dialect.verifies_signatures and _SEARCHED in text
        thinks = not keeps_thinking or (bool(removals.refused_thinking) and _THINKING in text)
        runs_tools = _holds_missing_tools(text, dialect)
        calls = (removals.has_invalid_calls or removals.adds_thinking) and (_CALL in text or _RESULT in text)
        sums_up = _may_sum_up(text, dialect)
        if not (searched or thinks or runs_tools or calls or sums_up or _MARK in text) or not text.startswith(b"{"):
            continue
        for member in json_spans.find_members(body, message.value, message.end):
            if member.key == "content" and body[member.value] == ord("["):
                edits += _find_content_edits(body, member, removals, keeps_thinking=keeps_thinking)
    return edits


class _Summary(Struct, frozen=True):
    """The newest summary of a conversation that its server does not know."""

    place: int
    """Place of the first message that is left."""
    replaced_until: int
    """Offset of this message. If there is none, the end of the one with the summary."""
    message: bytes
    """What is in place of the messages before."""


def _find_summary(body: bytes, messages: Sequence[JsonSpan], removals: Removals) -> _Summary | None:
    """Raises `WorkPostponed` for a summary with many beginnings of marks, which take long to be hidden."""
    dialect = removals.dialect
    for place, message in reversed([*enumerate(messages)]):
        text = body[message.value : message.end]
        if not _may_sum_up(text, dialect) or not text.startswith(b"{"):
            continue
        blocks = [read_block(text[part.value : part.end]) for part in json_spans.find_listed(text, "content")]
        found = [number for number, block in enumerate(blocks) if _read_summary(block, dialect)]
        if not found:
            continue
        content = _read_summary(blocks[found[-1]], dialect)
        if removals.max_steps is not None and content.count("<") > removals.max_steps:
            raise WorkPostponed
        written = write_summary_message(content)
        if len(blocks) > found[-1] + 1:
            return _Summary(place, message.start, written + b",")
        if place + 1 < len(messages):
            return _Summary(place + 1, messages[place + 1].start, written + b",")
        return _Summary(place + 1, message.end, written)
    return None


def _may_sum_up(message: bytes, dialect: Dialect) -> bool:
    return _SUMMARY in message and (not dialect.verifies_signatures or _MARK in message)


def _find_content_edits(body: bytes, content: JsonSpan, removals: Removals, *, keeps_thinking: bool) -> list[Edit]:
    dialect = removals.dialect
    parts = json_spans.find_elements(body, content.value, content.end)
    blocks = [read_block(body[part.value : part.end]) for part in parts]
    dropped: set[str | None] = set()
    if dialect.verifies_signatures:
        # web searches that another provider ran: their results have no `encrypted_content`
        results = [block for block in blocks if block.type == "web_search_tool_result"]
        dropped = {block.tool_use_id for block in results if _is_unsealed(bytes(block.content))} - {None}
    kept = [not _is_refused(block, dropped, removals, keeps_thinking=keeps_thinking) for block in blocks]
    if any(sums_up := [_is_unknown_summary(block, dialect) for block in blocks]):
        begin = max((place for place, block in enumerate(blocks) if _read_summary(block, dialect)), default=-1)
        kept = [keeps and place > begin and not sums_up[place] for place, keeps in enumerate(kept)]
    edits: list[Edit] = []
    for position, (part, block) in enumerate(zip(parts, blocks, strict=True)):
        if kept[position] and _is_of_missing_tool(block, dialect):
            text = as_text(body[part.start : part.end])
            kept[position] = bool(text)
            edits += [Edit(part.start, part.end, text)] if text else []
            removals.types_as_text.add(block.type)
    if not any(kept) and parts:
        return [Edit(content.value, content.end, b"[%b]" % EMPTY_TEXT)]
    if removals.adds_thinking and (thinking := _find_demanded_thinking(blocks, kept)) is not None:
        added = {"type": "thinking", "thinking": thinking, "signature": ""}
        edits.append(Edit(parts[0].start, parts[0].start, msgspec.json.encode(added) + b","))
    edits += json_spans.build_removal_edits(parts, kept)
    if any(block.type == "tool_use" for block in blocks):
        removals.call_ids.begin_reply()
    for part, block, keeps in zip(parts, blocks, kept, strict=True):
        if keeps:
            edits += _find_block_edits(body, part, block, removals)
    return edits


def _find_block_edits(body: bytes, part: JsonSpan, block: BlockFields, removals: Removals) -> list[Edit]:
    """Return the edits inside a block that is sent."""
    missing_tools = removals.dialect.missing_tools
    edits: list[Edit] = []
    if removals.has_invalid_calls and block.type in _ID_FIELDS:
        edits += _find_id_edits(body, part, _ID_FIELDS[block.type], removals)
    if block.type == "tool_use":
        if removals.has_invalid_calls:
            edits += _find_call_edits(body, part, block, removals.own_tool_names)
        if "code_execution" in missing_tools and _FROM_CODE in bytes(block.caller):
            edits += json_spans.find_removal_edits(body, part, "caller")
    elif block.type == "text" and removals.dialect.verifies_signatures:
        cited = bytes(block.citations)
        if _is_unsealed(cited) or ("web_search" in missing_tools and _SEARCHED in cited):
            edits += json_spans.find_removal_edits(body, part, "citations")
    return edits


def _is_unknown_summary(block: BlockFields, dialect: Dialect) -> bool:
    if block.type != "compaction":
        return False
    return not dialect.verifies_signatures or (block.signature or "").startswith(SIGNATURE_PREFIX)


def _read_summary(block: BlockFields, dialect: Dialect) -> str:
    """Return the text of a summary that the server does not know. "": it is another block, or a failed summary."""
    if not _is_unknown_summary(block, dialect):
        return ""
    try:
        return msgspec.json.decode(block.content, type=str)
    except msgspec.DecodeError:
        return ""


def write_summary_message(summary: str) -> bytes:
    """Return the message of the user that takes the place of what is summarized."""
    text = {"type": "text", "text": describe_summary(summary)}
    return msgspec.json.encode({"role": "user", "content": [text]})


def _find_demanded_thinking(blocks: Sequence[BlockFields], kept: Sequence[bool]) -> str | None:
    """Return the text of the thinking that a reply gets: that of its removed thinking. None: it needs none."""
    if all(block.type != "tool_use" for block in blocks):
        return None
    if any(keeps and block.type in THINKING_TYPES for block, keeps in zip(blocks, kept, strict=True)):
        return None
    return next((block.thinking for block in blocks if block.type == "thinking" and block.thinking), _NO_TEXT)


def _find_call_edits(body: bytes, call: JsonSpan, block: BlockFields, own_names: Collection[str]) -> list[Edit]:
    """Return the edits that replace the name of a tool call if it is not allowed, and input that is no object."""
    name = block.name if block.name in own_names else valid_name(block.name or "")
    edits: list[Edit] = []
    if name == block.name and bytes(block.input).startswith(b"{"):
        return edits
    for member in json_spans.find_members(body, call.value, call.end):
        if member.key == "name" and name != block.name:
            edits.append(Edit(member.value, member.end, msgspec.json.encode(name)))
        elif member.key == "input" and body[member.value] != ord("{"):
            given = body[member.value : member.end].decode()
            edits.append(Edit(member.value, member.end, bytes(build_arguments_object(given))))
    return edits


def _find_id_edits(body: bytes, block: JsonSpan, name: str, removals: Removals) -> list[Edit]:
    """Return the edit that removes the state of another provider from the id of a call, or replaces an id that Claude
    rejects. A call and its result get the same one.
    """
    for member in json_spans.find_members(body, block.value, block.end):
        if member.key == name and body[member.value] == ord('"'):
            given = msgspec.json.decode(body[member.value : member.end], type=str)
            sent = removals.call_ids.replace(name, given) if removals.dialect.verifies_signatures else cut_state(given)
            return [] if sent == given else [Edit(member.value, member.end, msgspec.json.encode(sent))]
    return []


def _is_refused(block: BlockFields, dropped: set[str | None], removals: Removals, *, keeps_thinking: bool) -> bool:
    if block.type in THINKING_TYPES:
        signature = _signature_of(block)
        is_own = signature.startswith(SIGNATURE_PREFIX)  # of a server that has not signed it, or of another API
        if not keeps_thinking or (is_own and (signature != UNSIGNED_SIGNATURE or removals.dialect.verifies_signatures)):
            return True
        refused = removals.refused_thinking
        return bool(refused) and _digest(removals.model, block) in refused
    if block.type == "web_search_tool_result":
        return block.tool_use_id in dropped
    return block.type == "server_tool_use" and block.id in dropped


def _is_unsealed(found: bytes) -> bool:
    return _SEARCHED in found and found.startswith(b"[") and _SEALED.search(found) is None


def is_called_by_code(tool: BlockFields) -> bool:
    """Return True for a tool that the code of a code execution may call."""
    return _FROM_CODE in bytes(tool.allowed_callers)


def _holds_missing_tools(body: bytes, dialect: Dialect) -> bool:
    return bool(dialect.missing_tools) and any(json_spans.contains(body, mark) for mark in _OF_SERVER_TOOLS)


def _is_of_missing_tool(block: BlockFields, dialect: Dialect) -> bool:
    if block.type == "container_upload":
        return "code_execution" in dialect.missing_tools
    name = block.name or "" if block.type == "server_tool_use" else _END_OF_TYPE.sub("", block.type)
    return name != block.type and KINDS_BY_NAME.get(name) in dialect.missing_tools


def as_text(block: bytes) -> bytes:
    """Return the text blocks in place of a block, as for providers with another API. b"": nothing is sent."""
    given = decode_blocks(Raw(b"[%b]" % block), "messages.content")
    return msgspec.json.encode([text for one in given for text in to_upstream_blocks(one)])[1:-1]


def find_unthinking_loop(body: bytes, members: Sequence[JsonSpan], removals: Removals) -> JsonSpan | None:
    """Return the first reply in the open tool loop, if the loop must be sent without thinking. None: it stays.

    The server may have demanded this earlier in the loop.

    With manual thinking (`enabled`), the replies since the last user message that is no result must begin with
    thinking, unchanged. If another provider has begun the loop, there is none that the server accepts. Adaptive
    thinking has no such rule (source: platform.claude.com/docs, "Extended thinking with tool use"; anomalyco/opencode
    issue 3077; Kilo-Org/kilocode issue 5219).
    """
    fields = {member.key: member for member in members}
    thinking, messages = fields.get("thinking"), fields.get("messages")
    if thinking is None or messages is None or body[messages.value] != ord("["):
        return None
    dialect, refused = removals.dialect, removals.refused_thinking
    is_manual = dialect.verifies_signatures and read_block(body[thinking.value : thinking.end]).type == "enabled"
    if dialect.thinks and not is_manual and not refused:
        return None
    first, blocks, question = _find_first_reply(body, messages)
    if not dialect.thinks or (refused and _digest(removals.model, *question, *blocks) in refused):
        return first
    keeps_thinking = dialect.sends_past_thinking
    kept = [block for block in blocks if not _is_refused(block, set(), removals, keeps_thinking=keeps_thinking)]
    begins_with_thinking = bool(kept) and kept[0].type in THINKING_TYPES
    return first if is_manual and not begins_with_thinking else None


def _find_first_reply(body: bytes, messages: JsonSpan) -> tuple[JsonSpan | None, list[BlockFields], list[BlockFields]]:
    """Return the first reply in the open tool loop, its blocks, and those of the question before it. None: no loop."""
    first: JsonSpan | None = None
    blocks: list[BlockFields] = []
    question: list[BlockFields] = []
    has_results = False
    for message in reversed(json_spans.find_elements(body, messages.value, messages.end)):
        try:
            read = _decode_message(body[message.value : message.end])
        except msgspec.ValidationError:
            break
        content = bytes(read.content)
        found = [read_block(bytes(block)) for block in _decode_list(content)] if content.startswith(b"[") else []
        if read.role == "assistant" and has_results:
            first, blocks = message, found
        elif read.role == "user" and any(block.type == "tool_result" for block in found):
            has_results = True
        elif read.role != "system":
            question = found or [BlockFields(text=content.decode())]
            break
    return first, blocks, question


def disables_thinking(body: bytes, members: Sequence[JsonSpan]) -> bool:
    """Return True if the client has turned thinking off."""
    return any(
        member.key == "thinking" and read_block(body[member.value : member.end]).type == "disabled"
        for member in members
    )


def find_disabling_edits(body: bytes, member: JsonSpan) -> list[Edit] | None:
    """Return the edits of `thinking` or `context_management` that turn thinking off. None: the field is removed."""
    if member.key == "thinking":
        return [Edit(member.value, member.end, _NO_THINKING)]
    from anthropic_proxy.engine.messages.models.context_edits import requires_thinking  # noqa: PLC0415  # few requests

    is_object = body[member.value] == ord("{")
    parts = json_spans.find_listed(body, "edits", member.value, member.end) if is_object else []
    stays = [not requires_thinking(read_block(body[part.value : part.end]).type) for part in parts]
    return json_spans.build_removal_edits(parts, stays) if any(stays) or not parts else None


class SentThinking(Struct, frozen=True):
    signature: str
    digest: bytes


def name_model(call: RelayCall[Dialect]) -> str:
    return f"{call.provider_prefix}/{call.model}"


def find_sent_thinking(body: bytes, model: str) -> dict[str, SentThinking]:
    """Return the path of each thinking block in an encoded request, as in errors, and the block."""

    def find(readable: bytes) -> dict[str, SentThinking]:
        require_bounded_members(readable)
        found = dict[str, SentThinking]()
        for index, message in enumerate(_decode_messages(readable).messages):
            content = message.get("content", _NO_CONTENT)
            for place, raw in enumerate(_decode_list(content) if bytes(content).startswith(b"[") else ()):
                if (block := read_block(bytes(raw))).type in THINKING_TYPES:
                    sent = SentThinking(_signature_of(block), _digest(model, block))
                    found[f"messages.{index}.content.{place}"] = sent
        return found

    try:
        return read_json(body, find)
    except InvalidRequest:
        return {}


def find_open_loop(call: RelayCall[Dialect]) -> tuple[bytes, ...]:
    """Return the digest of the open tool loop of the client's request. Empty: there is none."""

    def find(body: bytes) -> tuple[bytes, ...]:
        for member in json_spans.find_members(body):
            if member.key == "messages" and body[member.value] == ord("["):
                first, blocks, question = _find_first_reply(body, member)
                return () if first is None else (_digest(name_model(call), *question, *blocks),)
        return ()

    try:
        return read_json(call.body, find)
    except InvalidRequest:
        return ()


def _signature_of(block: BlockFields) -> str:
    return {"thinking": block.signature, "redacted_thinking": block.data}.get(block.type) or ""


def _digest(model: str, *blocks: BlockFields) -> bytes:
    """Return a hash of a model and the content of blocks. Other clients may have the same ids, or no signatures."""
    contents = [
        (block.type, block.id, block.name, block.text, block.thinking, block.signature, block.data) for block in blocks
    ]
    return hashlib.blake2b(msgspec.json.encode((model, contents)), digest_size=16).digest()


def has_system_messages(body: bytes) -> bool:
    return json_spans.edit(body, find_reminder_edits) != body


def find_reminder_edits(body: bytes) -> list[Edit]:
    edits: list[Edit] = []
    for member in json_spans.find_members(body):
        if member.key != "messages" or body[member.value] != ord("["):
            continue
        messages = json_spans.find_elements(body, member.value, member.end)
        kept: list[bool] = []
        found = [
            (_decode_role(text).role if (text := body[message.start : message.end]).startswith(b"{") else None, message)
            for message in messages
        ]
        for is_turn, group in groupby(found, lambda pair: pair[0] in _USER_ROLES):
            roles, spans = zip(*group, strict=True)
            placed: list[dict[str, Any]] | None = None
            if is_turn and _SYSTEM in roles:
                require_bounded_members(body[spans[0].start : spans[-1].end])
                placed = _place_reminders([_decode_fields(body[span.start : span.end]) for span in spans])
            kept += [placed != []] * len(spans)
            if placed:
                edits.append(Edit(spans[0].start, spans[-1].end, msgspec.json.encode(placed)[1:-1]))
        edits += json_spans.build_removal_edits(messages, kept)
    return edits


def _place_reminders(turn: list[dict[str, Raw]]) -> list[dict[str, Any]]:
    """Move system messages of one turn behind its tool results, which the API requires to come first."""
    contents = [_read_blocks(message.get("content", _NO_CONTENT)) for message in turn]
    places = [
        [isinstance(block, Raw) and read_block(bytes(block)).type == "tool_result" for block in blocks]
        for blocks in contents
    ]
    # of the blocks up to the last result
    result_counts = [len(found) - found[::-1].index(True) if True in found else 0 for found in places]
    last = max((place for place, count in enumerate(result_counts) if count), default=0)
    placed: list[dict[str, Any]] = []
    waiting: list[Any] = []
    for place, (message, blocks) in enumerate(zip(turn, contents, strict=True)):
        if message.get("role") == _SYSTEM:
            reminders = [_as_reminder(block) for block in blocks]
            if placed and place > last:
                content = placed[-1]["content"] = _read_blocks(placed[-1].get("content", _NO_CONTENT))
                content += reminders
            else:
                waiting += reminders
        elif waiting and place >= last:
            count = result_counts[place]
            placed.append({**message, "content": [*blocks[:count], *waiting, *blocks[count:]]})
            waiting = []
        else:
            placed.append(dict(message))
    return [*placed, {"role": _USER, "content": waiting}] if waiting else placed


def _read_blocks(content: Any) -> list[Any]:
    """Return the content of a message as a list of blocks. A text becomes a text block."""
    if isinstance(content, list):
        return content
    if bytes(content).startswith(b"["):
        return msgspec.json.decode(content, type=list[Raw])
    return [{"type": "text", "text": content}]


def _as_reminder(block: Any) -> Any:
    fields = block if isinstance(block, dict) else msgspec.json.decode(block, type=dict[str, Raw])
    if "text" not in fields:
        return block
    return {**fields, "text": f"<system-reminder>\n{decode_values(fields['text'])}\n</system-reminder>"}
